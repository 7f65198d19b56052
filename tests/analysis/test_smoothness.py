"""Smoothness along the gradient: by direct computation, on a quadratic, in tables, and refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from few_digits import DATA
from patterns import SHORT, tickets

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.supervised import TrainBatch
from jaxticket.settings import static_part
from jaxticket.typing import TrainState

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(6,))
TRAINING = jt.Training(
    steps=6, batch_size=16, lr=0.1, eval_every=6, eval_batch_size=48, label_smoothing=0.1
)
Smoothness = jt.probes.Smoothness


def state_of(params, mask):
    params = masks.apply(mask, params)
    number = jnp.int32(0)
    return TrainState(number, params, {}, (), mask, jax.random.key(0), number - 1)


def test_it_is_what_is_computed_directly():
    params, _ = NET.init(jax.random.key(0))
    mask = jax.tree.map(lambda m: jax.random.bernoulli(jax.random.key(1), 0.4, m.shape), NET.mask())
    state = state_of(params, mask)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, *DATA.shape)).astype(np.float32), rng.integers(0, 10, 16)
    batch = TrainBatch(jnp.asarray(x), jnp.asarray(y, jnp.int32), jax.random.key(0))
    monitor, lengths = Smoothness((0.05, 0.4, 1.0)), (0.05, 0.4, 1.0)
    problem = jt.Problem(NET, None, static_part(TRAINING))
    found = jax.jit(functools.partial(monitor, problem))(state, batch)

    weights = {
        n: {k: np.asarray(w, np.float64) for k, w in p.items()} for n, p in state.params.items()
    }
    alive = {n: np.asarray(mask[n]["kernel"]) for n in mask}
    target = 0.9 * np.eye(10)[y] + 0.01

    def at(w):
        """Loss and masked gradient by backpropagation in NumPy."""
        flat = x.reshape(16, -1).astype(np.float64)
        hidden = np.maximum(flat @ w["dense_0"]["kernel"] + w["dense_0"]["bias"], 0)
        z = hidden @ w["dense_1"]["kernel"] + w["dense_1"]["bias"]
        logs = z - np.log(np.exp(z).sum(1, keepdims=True))
        error = (np.exp(logs) - target) / 16
        back = (error @ w["dense_1"]["kernel"].T) * (hidden > 0)
        g = {
            "dense_0": {"kernel": alive["dense_0"] * (flat.T @ back), "bias": back.sum(0)},
            "dense_1": {"kernel": alive["dense_1"] * (hidden.T @ error), "bias": error.sum(0)},
        }
        return -(target * logs).sum() / 16, g

    def norm(tree):
        return np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))

    loss, g = at(weights)
    others = [at(jax.tree.map(lambda w, s, e=e: w - e * s, weights, g)) for e in lengths]
    changes = np.array([norm(jax.tree.map(np.subtract, o, g)) for _, o in others])
    betas = changes / (np.array(lengths) * norm(g))
    losses = [o for o, _ in others]
    expected = {"loss": loss, "gradient": norm(g)}
    for name, values in (("loss", losses), ("gradient_change", changes), ("beta", betas)):
        expected |= {f"{name}_least": min(values), f"{name}_greatest": max(values)}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-4), name


def test_of_a_quadratic_beta_is_that_of_its_matrix():
    """L = sum_i c_i w_i^2 / 2: the gradient changes by -eta C g, at any length."""
    c = jnp.asarray([1.0, 2.0, 4.0])
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jax.random.normal(key, (3, 1))}}, {}),
        lambda params, stats, x, *, train: (x @ params["w"]["kernel"] ** 2 / 2, stats),
        name="quadratic", shape=(3,), output="w",
    )  # fmt: skip
    training = static_part(jt.Training(loss=lambda logits, labels: logits[:, 0]))
    w = np.asarray([1.0, 2.0, -1.0], np.float32)
    state = state_of(
        {"w": {"kernel": jnp.asarray(w[:, None])}},
        {"w": {"kernel": jnp.asarray([[1], [0], [1]]) > 0}},
    )
    batch = TrainBatch(c[None], jnp.zeros(1, jnp.int32), jax.random.key(0))
    found = Smoothness((0.1, 1.0))(jt.Problem(net, None, training), state, batch)
    g = np.array([1.0, 0.0, -4.0])
    beta = np.linalg.norm(np.asarray(c) * g) / np.linalg.norm(g)
    for name in ("beta_least", "beta_greatest"):
        assert float(found[name]) == pytest.approx(beta, rel=1e-5)
    assert float(found["gradient_change_least"]) == pytest.approx(
        0.1 * beta * np.sqrt(17), rel=1e-5
    )


def test_a_table_is_the_same_on_any_devices_and_from_a_folder(tmp_path):
    monitor = Smoothness.of(SHORT, multiples=(0.5, 4), every=2)
    assert monitor.lengths == (0.025, 0.2)
    tables = []
    for devices in (1, 4):
        mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
        # as many replicas at once as there are devices
        own = dataclasses.replace(tickets(), mesh=mesh, size=devices)
        folder = tmp_path / "watched" if devices == 4 else None
        table = jt.telemetry(
            own, monitor=monitor, steps=4, levels=[1], folder=folder, progress=False
        )
        tables.append(table)
    one, four = tables
    assert set(one.step) == {0, 2, 4} and len(one) == 2 * 3 * 8
    assert one.value.notna().all()
    np.testing.assert_allclose(one.value, four.value, rtol=1e-4)
    again = jt.telemetry(
        tickets(), monitor=monitor, steps=4, levels=[1], folder=tmp_path / "watched", progress=False
    )
    pd.testing.assert_frame_equal(again, four)
    # the gradient of the monitor of `jt.telemetry` is of prunable weights alone
    wide = one.pivot_table(index=["seed", "step"], columns="metric", values="value")
    assert (wide.beta_least <= wide.beta_greatest).all()
    assert (wide.loss_least <= wide.loss_greatest).all()


@dataclasses.dataclass(frozen=True)
class Arrays:
    every: int = 2

    def __call__(self, problem, state, batch):
        return {"several": jnp.ones(3)}


WRONG = [
    ({"monitor": Smoothness((0.1,)), "every": 3}, "`every` is that of `monitor`"),
    ({"monitor": "smoothness"}, "`monitor` must be an object with `every`"),
    ({"monitor": Arrays()}, "`monitor` gives an array as 'several'"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_monitors_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jt.telemetry(tickets(), progress=False, **options)


@pytest.mark.parametrize("lengths", [(), (0.1, 0.0), (-1.0,), ("a",)])
def test_wrong_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="`lengths"):
        Smoothness(lengths)
