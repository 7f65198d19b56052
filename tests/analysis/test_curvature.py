"""Curvature against full matrices in float64, on devices, under masks, and wrong arguments."""

import dataclasses
import functools
import types

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import mlp
from patterns import tickets

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.metrics import Batched

Curvature = jt.probes.Curvature


@functools.cache
def small():
    """A network of smooth units with 202 weights, a third of them pruned, and its full matrices."""
    with jax.enable_x64(True):
        net = mlp((12, 10, 6))
        params, stats = net.init(jax.random.key(0))
        params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
        mask = jax.tree.map(lambda w: (jnp.arange(w.size) % 3 > 0).reshape(w.shape), params)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(3, 10, 12)), rng.integers(0, 6, (3, 10)).astype(np.int32)
        y[2, 7:] = -1
        problem = jt.Problem(net, Batched(x, y, np.zeros(3, np.int32)), jt.Training())
        ticket = jt.Ticket(mask, masks.apply(mask, params), stats, np.int32(0), np.int32(0))
        flat, back = jax.flatten_util.ravel_pytree(ticket.params)
        alive = np.asarray(jax.flatten_util.ravel_pytree(mask)[0])
        inputs, labels = x.reshape(-1, 12)[:27], y.reshape(-1)[:27]

        def logits(w):
            return net.apply(back(w), stats, inputs, train=False)[0]

        def of_logits(z):
            return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(27), labels])

        @jax.jit
        def matrices(w):
            z = logits(w)
            hessian = jax.hessian(lambda w: of_logits(logits(w)))(w)
            return hessian, jax.jacobian(logits)(w), jax.hessian(of_logits)(z)

        hessian, slopes, bent = map(np.asarray, matrices(flat))
        slopes, bent = slopes.reshape(27 * 6, -1), bent.reshape(27 * 6, -1)
        full = {"hessian": hessian, "gauss_newton": slopes.T @ bent @ slopes}
        kept = {name: matrix[np.ix_(alive, alive)] for name, matrix in full.items()}
        return types.SimpleNamespace(
            problem=problem, ticket=ticket, full=full, kept=kept, alive=alive, back=back
        )


def look(probe, seed=1):
    with jax.enable_x64(True):
        of = small()
        found = jax.jit(lambda key: probe(of.problem, of.ticket, key=key))(jax.random.key(seed))
        return {name: np.asarray(x) for name, x in found.items()}


def of_starts(matrix, function, starts):
    """The trace of a function of a matrix, and three standard errors of its mean over random signs,
    each with a variance of 2 sum_{i != j} F_ij^2.
    """
    values, vectors = np.linalg.eigh(matrix)
    whole = (vectors * function(values)) @ vectors.T
    apart = whole - np.diag(np.diag(whole))
    return np.trace(whole), 3 * np.sqrt(2 * np.sum(apart**2) / starts)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_it_is_that_of_the_full_matrix(matrix):
    full, count = small().kept[matrix], int(small().alive.sum())
    assert 100 < count < len(small().alive) == 196
    # more steps than there are kept weights: what follows must not count
    starts = 4
    probe = Curvature(
        eigenvalues=20, order=140, starts=starts, samples=60, matrix=matrix, width=0.02, points=400
    )
    found = look(probe)
    values = np.linalg.eigvalsh(full)
    largest = values[np.argsort(-np.abs(values))][:20]
    assert found["weights"] == count
    np.testing.assert_allclose(found["eigenvalue"], largest, rtol=1e-6, atol=1e-6 * largest[0])
    assert abs(found["trace"] - np.trace(full)) < 3 * found["trace_error"]
    assert 0 < found["trace_error"] < np.trace(full) / 5
    # the integral of the density, and its moments with those of the kernel
    at, density = found["density_at"], found["density"]
    step = at[1] - at[0]
    assert (density >= 0).all() and density.sum() * step == pytest.approx(1, abs=1e-4)
    assert found["least_eigenvalue"] == pytest.approx(values[0], rel=1e-6, abs=1e-6 * values[-1])
    (below, low), (total, high) = (
        of_starts(full, part, starts) for part in (lambda x: np.maximum(-x, 0), np.abs)
    )
    share = found["negative_share"]
    assert (below - low) / (total + high) - 1e-9 < share < (below + low) / (total - high) + 1e-9
    # at a random network the Hessian has negative eigenvalues, which the other matrix never has
    assert (below / total > 0.05) == (share > 0.05) == (matrix == "hessian")
    first, second = (density * at).sum() * step, (density * at**2).sum() * step
    sigma = 0.02 * (values[-1] - values[0])
    assert first == pytest.approx(found["moment_1"], rel=1e-3)
    assert second == pytest.approx(found["moment_2"] + sigma**2, rel=1e-3)


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_moments_are_those_of_the_full_matrix(matrix):
    full, starts = small().kept[matrix], 128
    found = look(Curvature(eigenvalues=0, order=20, starts=starts, samples=0, matrix=matrix))
    for name, power in (("moment_1", 1), ("moment_2", 2)):
        trace, error = of_starts(full, lambda x, power=power: x**power, starts)
        assert error < 0.45 * trace
        assert found[name] == pytest.approx(trace / len(full), abs=error / len(full))


def test_few_steps_find_the_largest_and_bound_their_errors():
    values = np.linalg.eigvalsh(small().kept["hessian"])
    found = look(Curvature(eigenvalues=4, order=16, starts=0, samples=0, by="value"))
    assert set(found) == {"weights", "eigenvalue", "eigenvalue_error"}
    assert (np.diff(found["eigenvalue"]) <= 0).all()
    for value, error in zip(found["eigenvalue"], found["eigenvalue_error"], strict=True):
        assert np.abs(values - value).min() <= error + 1e-12
    assert found["eigenvalue"][0] == pytest.approx(values[-1], abs=1e-6)


def test_layers_are_blocks():
    found = look(Curvature(eigenvalues=2, order=80, starts=0, samples=0, layers=True))
    of = small()
    start = 0
    with jax.enable_x64(True):
        sizes = {k: sum(x.size for x in v.values()) for k, v in of.ticket.params.items()}
    assert {name for name in found if name.startswith("eigenvalue/")} == {
        f"eigenvalue/{layer}" for layer in sizes
    }
    for layer, size in sizes.items():
        own = np.arange(start, start + size)[of.alive[start : start + size]]
        values = np.linalg.eigvalsh(of.full["hessian"][np.ix_(own, own)])
        expected = values[np.argsort(-np.abs(values))][:2]
        np.testing.assert_allclose(found[f"eigenvalue/{layer}"], expected, rtol=1e-6)
        assert found[f"weights/{layer}"] == len(own)
        start += size


def test_a_diagonal_matrix_is_measured_exactly():
    """L = sum_i c_i w_i^2 / 2, with equal eigenvalues, and one that is pruned.

    PyHessian's trace of a diagonal matrix has no variance, and its power iterations with deflation
    find an eigenvalue as often as it is there.
    """
    c = jnp.asarray([1.0, 2.0, 4.0, 4.0, 9.0, 0.0])
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jax.random.normal(key, (6, 1))}}, {}),
        lambda params, stats, x, *, train: (x @ params["w"]["kernel"] ** 2 / 2, stats),
        name="quadratic", shape=(6,), output="w",
    )  # fmt: skip
    training = jt.Training(loss=lambda logits, labels: logits[:, 0])
    params, stats = net.init(jax.random.key(0))
    batches = Batched(c[None, None], jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32))
    mask = {"w": {"kernel": (c != 9)[:, None]}}
    ticket = jt.Ticket(mask, masks.apply(mask, params), stats, np.int32(0), np.int32(0))
    problem = jt.Problem(net, batches, training)
    probe = Curvature(eigenvalues=5, order=6, samples=2)
    found = jax.jit(functools.partial(probe, problem))(ticket, key=jax.random.key(0))
    np.testing.assert_allclose(found["eigenvalue"], [4, 4, 2, 1, 0], atol=2e-4)
    assert float(found["trace"]) == 11 and float(found["trace_error"]) == 0
    assert float(found["moment_1"]) == pytest.approx(11 / 5, rel=1e-4)
    assert float(found["moment_2"]) == pytest.approx(37 / 5, rel=1e-4)


# --- tickets of a run

PROBE = Curvature(eigenvalues=3, order=8, samples=2, points=8)
measure = functools.partial(jt.measure, progress=False)


def test_one_device_gives_what_four_give():
    found = []
    for devices in (1, 4):
        mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
        found.append(measure(dataclasses.replace(tickets(), mesh=mesh), PROBE, levels=[1]))
    one, four = found
    assert one.value.notna().all() and set(one.metric) >= {"eigenvalue", "trace", "density"}
    assert (one.drop(columns="value") == four.drop(columns="value")).all(axis=None)
    np.testing.assert_allclose(one.value, four.value, rtol=2e-4, atol=1e-5)


def test_normalization_is_by_statistics_of_the_batch_where_it_is_said():
    """A layer with BatchNorm; the last of three batches is filled up, and counts in evaluation."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, y = rng.normal(size=(3, 8, 5)), rng.integers(0, 3, (3, 8)).astype(np.int32)
        y[2, 6:] = -1
        stats = {"mean": jnp.asarray(rng.normal(size=4)), "var": jnp.asarray(rng.uniform(1, 2, 4))}

        def apply(params, stats, x, *, train):
            z = x @ params["a"]["kernel"].astype(x.dtype)
            mean, var = (z.mean(0), z.var(0)) if train else (stats["mean"], stats["var"])
            mean, var = mean.astype(x.dtype), var.astype(x.dtype)
            z = jnp.tanh((z - mean[None]) / jnp.sqrt(var)[None])
            return z @ params["b"]["kernel"].astype(x.dtype), stats

        def init(key):
            a, b = jax.random.split(key)
            kernels = jax.random.normal(a, (5, 4)), jax.random.normal(b, (4, 3))
            return {"a": {"kernel": kernels[0]}, "b": {"kernel": kernels[1]}}, stats

        net = jt.from_functions(init, apply, name="normed", shape=(5,), output="b")
        params = jax.tree.map(lambda w: w.astype(jnp.float64), net.init(jax.random.key(0))[0])
        mask = jax.tree.map(lambda w: jnp.abs(w) > 0.3, params)
        ticket = jt.Ticket(mask, masks.apply(mask, params), stats, np.int32(0), np.int32(0))
        problem = jt.Problem(net, Batched(x, y, np.zeros(3, np.int32)), jt.Training())
        flat, back = jax.flatten_util.ravel_pytree(ticket.params)
        alive = np.asarray(jax.flatten_util.ravel_pytree(mask)[0])

        def total(w, i, train):
            logs = jax.nn.log_softmax(apply(back(w), stats, jnp.asarray(x)[i], train=train)[0])
            own = jnp.asarray(y)[i]
            return -jnp.sum(jnp.where(own < 0, 0, logs[jnp.arange(8), jnp.maximum(own, 0)]))

        bent = jax.jit(jax.hessian(total), static_argnums=2)
        for train, count in ((False, 22), (True, 16)):
            full = sum(bent(flat, i, train) for i in range(2 if train else 3)) / count
            values = np.linalg.eigvalsh(np.asarray(full)[np.ix_(alive, alive)])
            probe = Curvature(eigenvalues=3, order=40, starts=0, samples=0, by="value", train=train)
            found = jax.jit(functools.partial(probe, problem))(ticket, key=jax.random.key(0))
            np.testing.assert_allclose(found["eigenvalue"], values[::-1][:3], rtol=1e-6)


def test_more_eigenvalues_than_weights_are_refused():
    own = tickets().ticket(1, 5)
    kept = sum(int(np.count_nonzero(m)) for m in jax.tree.leaves(own.mask))
    kept += sum(w.size for w in jax.tree.leaves(own.params) if w.ndim == 1)
    probe = Curvature(eigenvalues=kept + 1, order=kept + 1, starts=0, samples=0)
    with pytest.raises(
        ValueError, match=rf"`eigenvalues` is {kept + 1}, but the ticket of level 1"
    ):
        measure(tickets(), probe)
    probe.check_weights(kept + 1, "it")


def test_a_stream_is_refused_by_name():
    with pytest.raises(ValueError, match="`runs` were trained on a data stream"):
        measure(dataclasses.replace(tickets(), data=object()), PROBE)


WRONG = [
    ({"eigenvalues": -1}, "`eigenvalues`"),
    ({"order": 0}, "`order`"),
    ({"eigenvalues": 8, "order": 4}, "`order` must be at least `eigenvalues`, 8, got 4"),
    ({"samples": 1}, "`samples` must be 0 or at least 2"),
    ({"width": 0}, "`width`"),
    ({"matrix": "fisher"}, "`matrix` must be one of"),
    ({"by": "size"}, "`by` must be one of"),
    ({"points": 1}, "`points`"),
    ({"layers": 1}, "`layers`"),
    ({"eigenvalues": 0, "starts": 0, "samples": 0}, "are all 0"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        Curvature(**changes)
