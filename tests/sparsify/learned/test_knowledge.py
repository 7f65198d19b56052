"""What students learn from teachers: every loss against NumPy, and between equals."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket.sparsify.learned import knowledge

RNG = np.random.default_rng(0)
BATCH = 6


def features():
    """Two maps, a smaller map, a dense layer and a softmax."""
    shapes = [(8, 8, 3), (8, 8, 5), (4, 4, 7), (9,), (4,)]
    return [RNG.normal(size=(BATCH, *shape)).astype(np.float32) for shape in shapes]


STUDENT, TEACHER = features(), features()
# compiled whole: one operation after another, each would be compiled for each of its shapes
ON_FEATURES = {
    name: jax.jit(getattr(knowledge, name))
    for name in ("relations", "similarities", "probabilities", "attention", "distances", "flows")
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rows(x):
    return x.reshape(len(x), -1).astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def close(found, expected, tol=2e-5):
    np.testing.assert_allclose(float(found), expected, rtol=tol, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_soft_targets(temperature):
    s, t = RNG.normal(size=(2, BATCH, 5)) * 3
    p, q = softmax(t / temperature), softmax(s / temperature)
    expected = np.mean(np.sum(p * np.log(p / q), axis=1))
    found = knowledge.soft_targets(jnp.float32(s), jnp.float32(t), temperature)
    close(found, expected, 1e-4)


def test_logits():
    s, t = RNG.normal(size=(2, BATCH, 5)).astype(np.float32)
    close(knowledge.logits(s, t), np.mean((s - t) ** 2))


def test_direction():
    s = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=5)}
    t = {"a": RNG.normal(size=(3, 4)), "b": RNG.normal(size=5)}
    flat = [np.concatenate([x["a"].ravel(), x["b"]]) for x in (s, t)]
    expected = np.sum((unit(flat[0]) - unit(flat[1])) ** 2)
    single = jax.tree.map(jnp.float32, (s, t))
    close(knowledge.direction(*single), expected)
    opposite = jax.tree.map(lambda x: -2 * x, single[0])
    close(knowledge.direction(single[0], opposite), 4.0)


def test_input_direction():
    s, t = STUDENT[0], TEACHER[0]
    expected = np.mean(np.sum((unit(rows(s)) - unit(rows(t))) ** 2, axis=1))
    close(jax.jit(knowledge.input_direction)(s, t), expected)


def pooled(x, side):
    if x.ndim == 2:
        return x.reshape(len(x), 1, 1, -1)
    k = x.shape[1] // side
    return x.reshape(len(x), side, k, side, k, -1).mean(axis=(2, 4))


def neighbours(features):
    for a, b in itertools.pairwise(features):
        side = min(1 if x.ndim == 2 else x.shape[1] for x in (a, b))
        yield pooled(a.astype(np.float64), side), pooled(b.astype(np.float64), side)


def jeffreys(p, q):
    return np.sum((p - q) * (np.log(p) - np.log(q)))


def test_relations_of_channels():
    def shares(features):
        for a, b in neighbours(features):
            a, b = (x.reshape(-1, x.shape[-1]).T for x in (a, b))
            kernel = np.array([[(1 + unit(i) @ unit(j)) / 2 for j in b] for i in a])
            yield kernel / kernel.sum()

    pairs = zip(shares(STUDENT), shares(TEACHER), strict=True)
    expected = np.mean([jeffreys(p, q) for p, q in pairs])
    close(ON_FEATURES["relations"](STUDENT, TEACHER), expected, 1e-3)


def similar(x):
    x = unit(rows(x))
    kernel = (1 + x @ x.T) / 2
    np.fill_diagonal(kernel, 0)
    return kernel


OFF = ~np.eye(BATCH, dtype=bool)


def test_similarities_of_examples():
    def shares(x):
        kernel = similar(x)
        return (kernel / kernel.sum())[OFF]

    pairs = zip(STUDENT, TEACHER, strict=True)
    expected = np.mean([jeffreys(shares(s), shares(t)) for s, t in pairs])
    close(ON_FEATURES["similarities"](STUDENT, TEACHER), expected, 1e-4)


def test_probabilities():
    def each(s, t):
        p, q = (k / k.sum(axis=1, keepdims=True) for k in (similar(t), similar(s)))
        return np.sum((p * np.log(np.where(OFF, p, 1) / np.where(OFF, q, 1)))[OFF]) / BATCH

    expected = np.mean([each(s, t) for s, t in zip(STUDENT, TEACHER, strict=True)])
    close(ON_FEATURES["probabilities"](STUDENT, TEACHER), expected, 1e-4)


def test_attention():
    def of(x):
        return unit(rows(np.sum(x.astype(np.float64) ** 2, axis=-1) if x.ndim > 2 else x**2))

    pairs = zip(STUDENT, TEACHER, strict=True)
    expected = np.mean([np.mean(np.sum((of(s) - of(t)) ** 2, axis=1)) for s, t in pairs])
    close(ON_FEATURES["attention"](STUDENT, TEACHER), expected)


def huber(apart):
    apart = np.abs(apart)
    return np.mean(np.where(apart <= 1, apart**2 / 2, apart - 0.5))


def test_distances_and_angles():
    s, t = rows(STUDENT[-2]), rows(TEACHER[-2])

    def far(x):
        found = [np.linalg.norm(x[i] - x[j]) for i, j in itertools.combinations(range(BATCH), 2)]
        return np.array(found) / np.mean(found)

    def angle(x):
        found = np.zeros((BATCH,) * 3)
        for m, i, j in itertools.product(range(BATCH), repeat=3):
            if m not in (i, j):
                found[m, i, j] = unit(x[i] - x[m]) @ unit(x[j] - x[m])
        return found

    expected = huber(far(s) - far(t)) + 2 * huber(angle(s) - angle(t))
    close(ON_FEATURES["distances"](STUDENT, TEACHER), expected, 1e-4)


def test_flows():
    def grams(features):
        for a, b in neighbours(features):
            yield np.einsum("nhwi,nhwj->nij", a, b) / (a.shape[1] * a.shape[2])

    pairs = zip(grams(STUDENT), grams(TEACHER), strict=True)
    expected = np.mean([np.mean((s - t) ** 2) for s, t in pairs])
    close(ON_FEATURES["flows"](STUDENT, TEACHER), expected)


def test_contrast():
    s, t = unit(rows(STUDENT[-2])), unit(rows(TEACHER[-2]))
    expected = -np.mean(np.log(np.diag(softmax(s @ t.T / 0.1))))
    close(jax.jit(knowledge.contrast)(STUDENT, TEACHER), expected, 1e-4)


def test_spectra():
    s, t = ({"k": RNG.normal(size=(3, 3, 2, 4)), "b": RNG.normal(size=4)} for _ in range(2))

    def of(x):
        return unit(np.linalg.svd(x["k"].reshape(-1, 4), compute_uv=False))

    found = knowledge.spectra(
        *jax.tree.map(jnp.float32, (s, t)), {"k": np.ones((3, 3, 2, 4), bool), "b": None}
    )
    close(found, np.sum((of(s) - of(t)) ** 2), 1e-4)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_nothing_is_to_be_learned_from_an_equal(name):
    both = jax.jit(jax.value_and_grad(ON_FEATURES[name]))
    value, slope = both(list(map(jnp.asarray, TEACHER)), TEACHER)
    assert abs(float(value)) < 1e-5
    # at the least value nothing pulls, and where units are silent nothing is nan
    for leaf in jax.tree.leaves(slope):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() < 1e-3
    silent = [jnp.zeros_like(x) for x in TEACHER]
    value, slope = both(silent, TEACHER)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", ON_FEATURES)
def test_what_is_learned_is_not_negative(name):
    assert float(ON_FEATURES[name](STUDENT, TEACHER)) > 0


@pytest.mark.parametrize("name", ["relations", "similarities"])
def test_jeffreys_divergence_is_symmetric(name):
    there, back = ON_FEATURES[name](STUDENT, TEACHER), ON_FEATURES[name](TEACHER, STUDENT)
    np.testing.assert_allclose(there, back, rtol=1e-4)


def test_agreement_is_the_shortest_sum():
    g = RNG.normal(size=(3, 4)).astype(np.float32)
    weights = np.asarray(knowledge.agreement(jnp.asarray(g), steps=2000))
    grid = np.linspace(0, 1, 201)
    best = min(
        np.sum((a * g[0] + b * g[1] + (1 - a - b) * g[2]) ** 2)
        for a, b in itertools.product(grid, grid)
        if a + b <= 1
    )
    assert weights.sum() == pytest.approx(1, abs=1e-5) and (weights >= 0).all()
    assert np.sum((weights @ g) ** 2) <= best + 1e-4


def test_agreement_has_a_bound():
    # the first is shortest by far, and may not have everything
    g = jnp.array([[0.01, 0.0], [1.0, 0.0], [3.0, 0.0]])
    np.testing.assert_allclose(knowledge.agreement(g, steps=2000), [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(knowledge.agreement(g, most=0.6, steps=2000), [0.6, 0.4, 0],
                               atol=1e-3)  # fmt: skip


def test_no_gradient_passes_through_agreement():
    g = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    slope = jax.grad(lambda g: knowledge.agreement(g)[0])(g)
    assert not np.asarray(slope).any()
