"""When `ticket.compact(format="bcsr")` pays: forward passes of very sparse tickets.

LeNet-300-100 with the masks and weights of iterative magnitude pruning (MNIST where it is prepared,
random images otherwise), and Conv-2, Conv-4 and ResNet-20 with random weights of which each layer
keeps the largest. Milliseconds of a forward pass in evaluation mode:

- masked: the network as it is, its pruned weights zero;
- compact: the smaller dense network of `ticket.compact(net)`;
- bcsr: dense layers as sparse matrices, dead units still there;
- both: `ticket.compact(net, format="bcsr", densest=1.0)`;
- scipy: LeNet with CSR matrices of SciPy, on one core.

Convolutions, which stay dense in both formats, as a product of a sparse kernel with the patches
that it uses, some examples at a time: rows whose network begins with "convolution", against the
convolution of this library. All variants of a row take turns in one process; medians.

Command:  python -m experiments.benchmarks.sparse_evaluation [--data-dir DIR --publish]
Cost:     5 minutes on 2 cores that other work shares
Expected: LeNet with 1.8% and less of its weights is 2 to 7 times as fast as masked from 60 examples
          on, with 21% it is slower from 1,000 on; convolutional networks gain by dead units alone
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish
from experiments.benchmarks.lenet import images
from jaxticket import masks
from jaxticket.compaction import Compact
from jaxticket.nn.convolution import conv
from jaxticket.nn.sparse_layers import rows_of
from jaxticket.sparse_format import sparse

DENSITIES = (0.2, 0.05, 0.02, 0.01, 0.005)
VARIANTS = ("masked", "compact", "bcsr", "both", "scipy")
CONVOLUTIONS = ((32, 16), (16, 32), (8, 64), (32, 64), (16, 128))
"""Pixels along each side, and channels in and out: of ResNet-20, then of Conv-4."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Forward passes of sparse tickets."""

    data_dir: str | None = None
    """Folder of prepared TFDS data sets; JAXTICKET_DATA_DIR if not given."""
    steps: int = 300
    """Training steps of each level of LeNet."""
    batches: tuple[int, ...] = (1, 60, 1000, 10_000)
    """Examples of a forward pass of LeNet."""
    conv_batches: tuple[int, ...] = (1, 60)
    """Examples of a forward pass of the convolutional networks."""
    seconds: float = 0.25
    """Time for the repeats of one variant, of which there are 5 to 30."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/sparse_evaluation.csv and .json."""


def pruned_lenet(settings: Settings) -> tuple[jt.Network, list[jt.Ticket]]:
    """Trained tickets of LeNet by iterative magnitude pruning, near each of the densities."""
    data = images(settings.data_dir)
    net = jt.networks.lenet(data.shape, data.classes)
    levels = [round(math.log(density) / math.log(0.8)) for density in DENSITIES]
    runs = jt.find_tickets(
        net, data, jt.Training(steps=settings.steps, batch_size=60, eval_every=settings.steps),
        jt.Pruning(levels=max(levels), fraction=0.2), seeds=(0,), keep="trained", progress=False,
    )  # fmt: skip
    return net, [runs.ticket(level=n, seed=0, weights="trained") for n in levels]


def random_ticket(net: jt.Network, density: float) -> jt.Ticket:
    """Random weights of which each layer keeps the largest."""
    params, stats = jax.tree.map(np.asarray, net.init(jax.random.key(0)))
    mask = net.mask()
    for _, m, w in masks.items(mask, params):
        size = np.abs(np.asarray(w)).reshape(-1)
        m.reshape(-1)[np.argsort(-size)[round(density * size.size) :]] = False
    return jt.Ticket(mask, params, stats, np.asarray(1, np.int32), np.asarray(0, np.int32)).masked()


def scipy_pass(ticket: jt.Ticket, x: np.ndarray) -> Callable[[], np.ndarray]:
    """The forward pass of LeNet with CSR matrices of SciPy, as a call."""
    layers = [
        (scipy.sparse.csr_array(np.asarray(layer["kernel"]).T), np.asarray(layer["bias"]))
        for _, layer in sorted(ticket.params.items())
    ]

    def run() -> np.ndarray:
        h = np.ascontiguousarray(x.reshape(len(x), -1).T)
        for i, (kernel, bias) in enumerate(layers):
            h = kernel @ (np.maximum(h, 0) if i else h) + bias[:, None]
        return h.T

    return run


def median_milliseconds(
    calls: Mapping[str, Callable[[], object]], seconds: float
) -> dict[str, float]:
    """Milliseconds of calls that take turns."""
    first = []
    for call in calls.values():
        # compiles
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        first.append(time.perf_counter() - began)
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(int(np.clip(seconds / max(first), 5, 30))):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            took[name].append(time.perf_counter() - began)
    return {name: 1e3 * float(np.median(one)) for name, one in took.items()}


def row(name: str, density: float, batch: int, times: Mapping[str, float]) -> Row:
    """A row of the table, which is printed too."""
    found: Row = {"network": name, "density": round(density, 4), "batch": batch}
    found |= {v: round(times[v], 4) if v in times else "" for v in VARIANTS}
    best = "both" if "both" in times else "bcsr"
    found["gain"] = round(times["masked"] / times[best], 2)
    shown = ", ".join(f"{v} {times[v]:.2f}" for v in VARIANTS if v in times)
    print(f"{name}, {density:.2%} kept, batch {batch}: {shown} ms; {found['gain']} times masked")
    return found


def of_ticket(
    name: str, net: jt.Network, ticket: jt.Ticket, batches: tuple[int, ...], seconds: float
) -> list[Row]:
    """Measure a ticket in all forms."""
    compact = ticket.compact(net)
    same = Compact(net, ticket, net, ticket, {})
    forms = {"masked": same, "compact": compact, "bcsr": sparse(same, 1.0)}
    forms["both"] = sparse(compact, 1.0)
    found = []
    for batch in batches:
        x = jax.block_until_ready(net.noise(jax.random.key(0), batch))
        calls: dict[str, Callable[[], object]] = {
            form: functools.partial(small.logits, x) for form, small in forms.items()
        }
        if name == "lenet":
            calls["scipy"] = scipy_pass(ticket, np.asarray(x))
        found.append(row(name, float(ticket.density), batch, median_milliseconds(calls, seconds)))
    return found


def patches(x: jax.Array, used: np.ndarray) -> jax.Array:
    """Entries of 3x3 windows, [used, batch * height * width], of images padded by one pixel.

    Args:
      x: [batch, height, width, channels].
      used: which entries, int [used], ascending, in the order [row, column, channel].
    """
    _, height, width, channels = x.shape
    rows = jnp.pad(jnp.transpose(x, (3, 0, 1, 2)), ((0, 0), (0, 0), (1, 1), (1, 1)))
    found = []
    for window in range(9):
        own = used[used // channels == window] % channels
        if own.size:
            down, right = divmod(window, 3)
            part = jnp.take(rows, own, axis=0)
            found.append(part[:, :, down : down + height, right : right + width])
    return jnp.concatenate([part.reshape(len(part), -1) for part in found])


def of_convolution(side: int, channels: int, density: float, batch: int, seconds: float) -> Row:
    """Measure a 3x3 convolution, dense and as a sparse product of the patches that it uses."""
    rng = np.random.default_rng(0)
    shape = (3, 3, channels, channels)
    kernel = rng.normal(size=shape).astype(np.float32) * (rng.uniform(size=shape) < density)
    x = jnp.asarray(rng.normal(size=(batch, side, side, channels)).astype(np.float32))
    matrix = kernel.reshape(-1, channels).T
    used = np.flatnonzero(matrix.any(axis=0))
    # about 1,000 columns: they stay in the cache
    some = max(1, 1024 // side**2)

    @jax.jit
    def dense(kernel: jax.Array, x: jax.Array) -> jax.Array:
        return conv(x, kernel, stride=(1, 1), padding=((1, 1), (1, 1)))

    @jax.jit
    def product(rows: jax.Array, x: jax.Array) -> jax.Array:
        def part(x: jax.Array) -> jax.Array:
            y = (rows @ patches(x, used)).reshape(channels, *x.shape[:3])
            return jnp.transpose(y, (1, 2, 3, 0))

        parts = x.reshape(-1, some, *x.shape[1:])
        return jax.lax.map(part, parts).reshape(x.shape)

    weights, rows = jnp.asarray(kernel), rows_of(matrix[:, used])
    np.testing.assert_allclose(product(rows, x), dense(weights, x), atol=1e-4)
    times = median_milliseconds(
        {"masked": lambda: dense(weights, x), "bcsr": lambda: product(rows, x)}, seconds
    )
    return row(f"convolution {side} x {side}, {channels} channels", density, batch, times)


def main(settings: Settings) -> None:
    """Measure everything, and print a table."""
    net, tickets = pruned_lenet(settings)
    rows: list[Row] = []
    for ticket in tickets:
        rows += of_ticket("lenet", net, ticket, settings.batches, settings.seconds)
    networks = {
        "conv2": jt.networks.conv2(),
        "conv4": jt.networks.conv4(),
        "resnet20": jt.networks.resnet20(),
    }
    for name, net in networks.items():
        for density in DENSITIES[2:]:
            ticket = random_ticket(net, density)
            rows += of_ticket(name, net, ticket, settings.conv_batches, settings.seconds)
    for side, channels in CONVOLUTIONS:
        for density in DENSITIES[2:]:
            rows.append(of_convolution(side, channels, density, 64, settings.seconds))
    if settings.publish:
        setup = {k: v for k, v in dataclasses.asdict(settings).items() if k != "data_dir"}
        here = dict(machine("jax", "flax", "scipy"))
        publish("sparse_evaluation", rows, {"settings": setup, "machine": here})


if __name__ == "__main__":
    jt.compilation_cache()
    main(tyro.cli(Settings, description=__doc__))
