"""Training on the kept weights alone, against masked dense training, of LeNet-300-100.

Both run the same 50 updates of Adam inside one compiled loop. Masked: the step of this library's
engine. Kept: the trained weights are a vector for each layer, with biases; of each layer y = x W,

- forward: `y^T = W^T x^T` with W^T in rows (BCSR);
- gradient of x: `dx^T = W dy^T`, with the same values in the order of W's rows; none of the images;
- gradient of w at kept (i, j): `sum_b x_bi dy_bj`, from gathered rows of x^T and dy^T.

A second form, "gathered", has no sparse products: `y_j = sum_i x_i w_ij` is a sum over the kept
pairs by segments. Masks are random, layer by layer, and weights are drawn for the inputs that are
left; data are MNIST where it is prepared, random images otherwise. Before they are measured, the
losses and weights of all three are compared. They take turns in one process; medians.

Command:  python -m experiments.benchmarks.sparse_training [--data-dir DIR --publish]
Cost:     3 minutes on 2 cores that other work shares
Expected: with batches of 60, 1.4, 3, 4.6 and 7.6 times as fast as masked with 5, 2, 1 and 0.5% of
          the weights; with batches of 512 0.8, 1.9, 3.4 and 7.6 times; the same losses
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax.experimental.sparse import BCSR

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish
from experiments.benchmarks.lenet import images
from experiments.benchmarks.sparse_evaluation import median_milliseconds
from jaxticket import masks
from jaxticket.engine.learner import Batch, Plan
from jaxticket.engine.metrics import Normalization, normalization, normalized
from jaxticket.engine.optim import schedule
from jaxticket.engine.parallel import Placement
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.typing import TrainState

STEPS, RATE = 50, 1.2e-3
Weights = dict[str, dict[str, jax.Array]]
"""Layer -> "kernel", the vector of its kept weights by rows of W^T, and "bias"."""
Product = Callable[[jax.Array, jax.Array], jax.Array]
"""`product(x^T [in, batch], w [kept]) -> y^T [out, batch]`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Training steps of very sparse networks."""

    data_dir: str | None = None
    """Folder of prepared TFDS data sets; JAXTICKET_DATA_DIR if not given."""
    densities: tuple[float, ...] = (0.05, 0.02, 0.01, 0.005)
    """Shares of the weights of each layer that are kept."""
    batches: tuple[int, ...] = (60, 512)
    """Examples per step."""
    seconds: float = 3.0
    """Time for the repeats of one form, of which there are 5 to 30."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/sparse_training.csv and .json."""


class Pattern(NamedTuple):
    """Where the kept weights of a layer are.

    Attributes:
      shape: (in, out) of the kernel.
      inputs, outputs: int32 [kept], i and j of each, by rows of W^T: j ascending.
      starts: int32 [out + 1], where each row of W^T begins.
      order: int32 [kept], the kept weights by rows of W.
      columns, begins: outputs in that order, and where each row of W begins.
    """

    shape: tuple[int, int]
    inputs: np.ndarray
    outputs: np.ndarray
    starts: np.ndarray
    order: np.ndarray
    columns: np.ndarray
    begins: np.ndarray


def pattern(mask: np.ndarray) -> Pattern:
    """Find the kept weights of a mask [in, out]."""

    def starts(of: np.ndarray, n: int) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.bincount(of, minlength=n))]).astype(np.int32)

    outputs, inputs = (a.astype(np.int32) for a in np.nonzero(mask.T))
    order = np.lexsort((outputs, inputs)).astype(np.int32)
    rows = starts(outputs, mask.shape[1]), starts(inputs, mask.shape[0])
    shape = (int(mask.shape[0]), int(mask.shape[1]))
    return Pattern(shape, inputs, outputs, rows[0], order, outputs[order], rows[1])


def sparse_product(where: Pattern) -> Product:
    """The product with BCSR in both directions, and the gradient at kept weights alone."""
    wide, high = where.shape

    def rows(data: jax.Array, columns: np.ndarray, starts: np.ndarray, shape: tuple[int, int]):
        held = data, jnp.asarray(columns), jnp.asarray(starts)
        return BCSR(held, shape=shape, indices_sorted=True, unique_indices=True)

    @jax.custom_vjp
    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        return rows(w, where.inputs, where.starts, (high, wide)) @ x

    def forward(x: jax.Array, w: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return product(x, w), (x, w)

    def backward(held: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, w = held
        back = rows(jnp.take(w, where.order), where.columns, where.begins, (wide, high))
        pairs = jnp.take(x, where.inputs, axis=0) * jnp.take(dy, where.outputs, axis=0)
        return back @ dy, jnp.sum(pairs, axis=1)

    product.defvjp(forward, backward)
    return product


def gathered_product(where: Pattern) -> Product:
    """The product as a sum over kept pairs, by segments; JAX differentiates it."""

    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        pairs = jnp.take(x, where.inputs, axis=0) * w[:, None]
        return jax.ops.segment_sum(pairs, where.outputs, where.shape[1], indices_are_sorted=True)

    return product


def kept_training(
    products: dict[str, Product], by: Normalization
) -> Callable[[Weights, jax.Array, jax.Array], tuple[Weights, jax.Array]]:
    """Adam on kept weights, compiled: from weights and batches to weights and losses."""
    adam = optax.adam(RATE)

    def loss_of(weights: Weights, x: jax.Array, y: jax.Array) -> jax.Array:
        h = x
        for i, (layer, product) in enumerate(products.items()):
            own = weights[layer]
            h = product(jax.nn.relu(h) if i else h, own["kernel"]) + own["bias"][:, None]
        return optax.softmax_cross_entropy_with_integer_labels(h.T, y).mean()

    def update(
        state: tuple[Weights, optax.OptState], batch: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[Weights, optax.OptState], jax.Array]:
        weights, adams = state
        x = normalized(batch[0], by, "float32")
        x = x.reshape(len(x), -1).T
        loss, gradient = jax.value_and_grad(loss_of)(weights, x, batch[1])
        change, adams = adam.update(gradient, adams, weights)
        return (optax.apply_updates(weights, change), adams), loss  # type: ignore[return-value]

    @jax.jit
    def train(weights: Weights, x: jax.Array, y: jax.Array) -> tuple[Weights, jax.Array]:
        (weights, _), losses = jax.lax.scan(update, (weights, adam.init(weights)), (x, y))
        return weights, losses

    return train


def masked_training(
    net: jt.Network, batch: int, by: Normalization, *, with_losses: bool = False
) -> Callable[[Origin, jax.Array, jax.Array], tuple[TrainState, jax.Array]]:
    """The engine's step, compiled: from the network and batches to the state and the losses.

    The engine keeps no losses: they are computed once more where they are asked for.
    """
    training = jt.Training(steps=STEPS, batch_size=batch, lr=RATE, optimizer="adam")
    learner, placement = Supervised(net, training), Placement(vmapped=False)
    zero = jnp.int32(0)
    plan = Plan(schedule(training), zero, zero)

    def update(
        state: TrainState, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[TrainState, jax.Array]:
        given = Batch(*batch, by)
        loss = jnp.float32(0)
        if with_losses:
            seen = learner.prepared(state, given, plan, placement)
            loss = learner.loss(state.params, state.stats, seen, placement=placement)[0]
        return learner.step(state, given, plan, jnp.bool_(True), placement), loss

    @jax.jit
    def train(origin: Origin, x: jax.Array, y: jax.Array) -> tuple[TrainState, jax.Array]:
        state = learner.start(origin, zero, key=jax.random.key(0))
        return jax.lax.scan(update, state, (x, y))

    return train


def kept_weights(params: dict[str, dict[str, np.ndarray]], where: dict[str, Pattern]) -> Weights:
    """The kept weights and the biases of a network."""
    return {
        layer: {
            "kernel": jnp.asarray(np.asarray(params[layer]["kernel"])[at.inputs, at.outputs]),
            "bias": jnp.asarray(params[layer]["bias"]),
        }
        for layer, at in where.items()
    }


def measured(data: jt.data.Data, density: float, batch: int, seconds: float) -> Row:
    """Compare the three trainings, then measure them."""
    net = jt.networks.lenet(data.shape, data.classes)
    rng = np.random.default_rng(0)
    mask = net.mask()
    for _, m in masks.items(mask):
        m.reshape(-1)[rng.permutation(m.size)[round(density * m.size) :]] = False
    params, stats = jax.tree.map(np.asarray, net.init(jax.random.key(0)))
    # as large as the inputs that are left ask for: otherwise 50 steps teach these networks nothing,
    # and equal losses would say nothing
    params = jax.tree.map(lambda w: w / np.float32(density**0.5) if w.ndim > 1 else w, params)
    origin = jax.tree.map(jnp.asarray, Origin(params, stats, mask))
    at = rng.integers(0, len(data.train), (STEPS, batch))
    x, y, by = jnp.asarray(data.train.x[at]), jnp.asarray(data.train.y[at]), normalization(data)
    where = {path.rpartition("/")[0]: pattern(np.asarray(m)) for path, m in masks.items(mask)}
    start = kept_weights(params, where)
    forms = {
        "kept": kept_training({k: sparse_product(v) for k, v in where.items()}, by),
        "gathered": kept_training({k: gathered_product(v) for k, v in where.items()}, by),
    }
    state, wanted = masked_training(net, batch, by, with_losses=True)(origin, x, y)
    trained = kept_weights(jax.tree.map(np.asarray, state.params), where)
    apart = 0.0
    for train in forms.values():
        weights, losses = train(start, x, y)
        np.testing.assert_allclose(losses, wanted, rtol=1e-4)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-3), weights, trained)
        apart = max(apart, float(jnp.max(jnp.abs(losses - wanted))))
    masked = masked_training(net, batch, by)
    calls: dict[str, Callable[[], object]] = {
        "masked": lambda: masked(origin, x, y)[0].params,
        "kept": lambda: forms["kept"](start, x, y),
        "gathered": lambda: forms["gathered"](start, x, y),
    }
    times = {name: ms / STEPS for name, ms in median_milliseconds(calls, seconds).items()}
    ratios = {name: round(times["masked"] / times[name], 2) for name in forms}
    print(
        f"{density:.1%} kept, batch {batch}: "
        + ", ".join(f"{name} {ms:.3f}" for name, ms in times.items())
        + f" ms a step; {ratios['kept']} and {ratios['gathered']} times masked; "
        f"losses from {float(wanted[0]):.2f} to {float(wanted[-1]):.2f}, apart by {apart:.1g}"
    )
    found: Row = {"density": density, "batch": batch}
    found |= {f"{name}_ms": round(ms, 4) for name, ms in times.items()}
    found |= {f"{name}_speed": ratio for name, ratio in ratios.items()}
    return {**found, "losses_apart": apart}


def main(settings: Settings) -> None:
    """Measure every density and batch, and print a table."""
    data = images(settings.data_dir)
    rows = [
        measured(data, density, batch, settings.seconds)
        for density in settings.densities
        for batch in settings.batches
    ]
    if settings.publish:
        setup = {k: v for k, v in dataclasses.asdict(settings).items() if k != "data_dir"}
        here = dict(machine("jax", "optax"))
        summary = {"settings": {**setup, "steps": STEPS, "data": data.name}, "machine": here}
        publish("sparse_training", rows, summary)


if __name__ == "__main__":
    jt.compilation_cache()
    main(tyro.cli(Settings, description=__doc__))
