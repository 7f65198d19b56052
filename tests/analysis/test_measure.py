"""Measuring tickets: the table, the probes against full Hessians, folders and wrong arguments."""

import dataclasses
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from contexts import mlp
from few_digits import DATA

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.metrics import Batched

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(4,))
TRAINING = jt.Training(
    steps=4, batch_size=16, optimizer="momentum", lr=0.1, eval_every=4, eval_batch_size=48
)
PRUNING = jt.Pruning(levels=1, fraction=0.5)
COLUMNS = ["seed", "level", "density", "branch", "metric", "index", "value", "diverged"]


def find(training=TRAINING, **options):
    return jt.find_tickets(NET, DATA, training, PRUNING, seeds=(0, 1, 2), progress=False, **options)


@functools.cache
def runs():
    return find()


measure = functools.partial(jt.measure, progress=False)


def weights(problem, ticket, *, key):
    """The layers' numbers of weights, and their random number."""
    kept = [jnp.sum(w != 0) for w in jax.tree.leaves(ticket.params)]
    return {"kept": jnp.stack(kept), "drawn": jax.random.uniform(key)}


@dataclasses.dataclass(frozen=True)
class Broken:
    gives: object = 1.0

    def __call__(self, problem, ticket, *, key):
        return self.gives


def test_the_table_has_a_row_per_number():
    table = measure(runs(), weights, seeds=(2, 0), branches=("ticket", "reinit"), at_once=1)
    assert list(table.columns) == COLUMNS
    assert len(table) == 2 * 2 * 2 * (4 + 1)
    assert not table.duplicated(COLUMNS[:6]).any() and (table.diverged == -1).all()
    assert set(table.branch) == {"ticket", "reinit"} and set(table["seed"]) == {0, 2}
    own = table[(table.level == 1) & (table["seed"] == 2) & (table.branch == "ticket")]
    ticket = runs().ticket(1, 2)
    expected = [np.count_nonzero(w) for w in jax.tree.leaves(ticket.params)]
    assert own[own.metric == "kept"].value.tolist() == expected
    assert own[own.metric == "kept"]["index"].tolist() == [0, 1, 2, 3]
    # random numbers are those of the seed
    drawn = table[table.metric == "drawn"].groupby("seed").value
    assert (drawn.nunique() == 1).all() and drawn.first().nunique() == 2
    # other weights under the mask of the ticket
    same = table[table.metric == "kept"].pivot_table(
        index=["seed", "level", "index"], columns="branch", values="value"
    )
    kernels = same[same.max(axis=1) > 10]
    np.testing.assert_array_equal(kernels.ticket, kernels.reinit)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_replica_gives_what_it_gives_alone(devices):
    mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
    table = measure(dataclasses.replace(runs(), mesh=mesh), "gradient_norm", examples=90)
    problem = jt.Problem(NET, DATA, TRAINING.replace(eval_train_examples=90))
    assert problem.examples == 90
    ticket = runs().ticket(1, 1)
    gradient = jax.jit(problem.gradient)(ticket.params, ticket.stats, mask=ticket.mask)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    own = table[(table.level == 1) & (table["seed"] == 1)].set_index("metric").value
    assert own["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    # the loss by hand
    chosen = np.arange(90) * 96 // 90
    x = ((DATA.train.x[chosen] - DATA.mean) / DATA.std).astype(np.float32)
    logits, _ = NET.apply(ticket.params, ticket.stats, x, train=False)
    logs = jax.nn.log_softmax(logits)
    expected = -np.mean(np.asarray(logs)[np.arange(90), DATA.train.y[chosen]])
    assert own["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_trace_is_that_of_the_full_hessian():
    """A masked network of smooth units in float64; the diagonal is computed one by one."""
    with jax.enable_x64(True):
        net = mlp((6, 5, 3))
        params, stats = net.init(jax.random.key(0))
        params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
        mask = jax.tree.map(lambda w: (jnp.arange(w.size) % 3 > 0).reshape(w.shape), params)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(3, 10, 6)), rng.integers(0, 3, (3, 10)).astype(np.int32)
        y[2, 7:] = -1
        problem = jt.Problem(net, Batched(x, y, np.zeros(3, np.int32)), jt.Training())
        flat, back = jax.flatten_util.ravel_pytree(masks.apply(mask, params))
        alive, _ = jax.flatten_util.ravel_pytree(mask)

        def loss(w):
            logits = net.apply(back(w), stats, x.reshape(-1, 6)[:27], train=False)[0]
            return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(27), y.reshape(-1)[:27]])

        hessian = jnp.where(jnp.outer(alive, alive), jax.hessian(loss)(flat), 0)
        assert problem.loss(params, stats, mask=mask) == pytest.approx(float(loss(flat)), 1e-12)
        vector = rng.normal(size=flat.shape)
        product = jax.flatten_util.ravel_pytree(
            problem.hvp(params, stats, back(vector), mask=mask)
        )[0]
        np.testing.assert_allclose(product, hessian @ vector, rtol=1e-8, atol=1e-12)
        ticket = jt.Ticket(mask, masks.apply(mask, params), stats, np.int32(0), np.int32(0))
        probe = jt.probes.HessianTrace(samples=400)
        found = jax.jit(lambda key: probe(problem, ticket, key=key))(jax.random.key(1))
        trace = float(jnp.trace(hessian))
        assert abs(float(found["hessian_trace"]) - trace) < 3 * float(found["standard_error"])
        assert 0 < found["standard_error"] < abs(trace) / 5


def test_a_diagonal_hessian_is_measured_exactly():
    """L = sum_i c_i w_i^2 / 2 of weights that do not meet."""
    c = jnp.asarray([1.0, 2.0, 4.0])
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jax.random.normal(key, (3, 1))}}, {}),
        lambda params, stats, x, *, train: (x @ params["w"]["kernel"] ** 2 / 2, stats),
        name="quadratic", shape=(3,), output="w",
    )  # fmt: skip
    training = jt.Training(loss=lambda logits, labels: logits[:, 0])
    params, stats = net.init(jax.random.key(0))
    batches = Batched(c[None, None], jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32))
    mask = {"w": {"kernel": jnp.asarray([[True], [False], [True]])}}
    ticket = jt.Ticket(mask, params, stats, np.int32(0), np.int32(0))
    found = jt.probes.HessianTrace(samples=2)(
        jt.Problem(net, batches, training), ticket, key=jax.random.key(0)
    )
    assert float(found["hessian_trace"]) == 5 and float(found["standard_error"]) == 0


def test_features_are_those_of_the_taps():
    problem = jt.Problem(NET, DATA, TRAINING)
    params, stats = NET.init(jax.random.key(0))
    seen = problem.features(params, stats, DATA.test.x[:7])
    assert {len(x) for x in seen.values()} == {7}
    np.testing.assert_array_equal(seen["logits"], problem.logits(params, stats, DATA.test.x[:7]))
    assert len(seen) >= 3


def test_what_diverged_is_marked():
    """Level 0 of every seed diverges, so that level 1 has no ticket."""
    lost = find(TRAINING.replace(lr=1e25))
    table = measure(lost, "gradient_norm")
    assert (table.diverged >= 0).all() and table.value.isna().all()
    assert set(table.level) == {0, 1}


def test_a_folder_is_resumed_and_guarded(tmp_path):
    own = find(folder=tmp_path)
    probe = jt.probes.HessianTrace(samples=3)
    table = measure(own, probe)
    (folder,) = (tmp_path / "measures").iterdir()
    assert folder.name.startswith("HessianTrace-")
    pd.testing.assert_frame_equal(jt.results.read(folder / "table.parquet"), table)
    pd.testing.assert_frame_equal(measure(own, probe), table)
    with pytest.raises(jt.RunFolderError, match=r"probe.samples"):
        measure(own, jt.probes.HessianTrace(samples=4), folder=folder)


WRONG = [
    ({"levels": [7]}, "`levels`"),
    ({"seeds": [7]}, "`seeds`"),
    ({"branches": ("shufle",)}, "`branches` is unknown: 'shufle'"),
    ({"branches": ("reinit", "reinit")}, "`branches` holds 'reinit' more than once"),
    ({"branches": ()}, "`branches` is empty"),
    ({"examples": 0}, "`examples` must be a whole number of at least 1"),
    ({"split": "validation"}, "`split` must be one of"),
    ({"probe": "hesian_trace"}, "`probe` is unknown: 'hesian_trace'"),
    ({"probe": Broken()}, "`probe` .* must give a dict of arrays"),
    ({"probe": Broken({"a": "b"})}, "`probe` "),
    ({"probe": lambda problem, ticket, *, key: {"n": problem.nothing}}, "`probe` .* fails when"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        measure(runs(), **{"probe": "gradient_norm", **changes})


def test_wrong_samples_are_refused():
    with pytest.raises(ValueError, match="`samples`"):
        jt.probes.HessianTrace(samples=1)
