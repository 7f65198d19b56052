"""One suite for every score of `jt.SCORES`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket import masks

SHAPE = (2, 4, 1)
KEY = jax.random.key(11)
each_score = pytest.mark.parametrize("name", jt.SCORES)
# scores that are the same whatever the key
WITHOUT_KEY = set(jt.SCORES) - {"random"}


@functools.cache
def setting():
    """(params, context) of an 8-6-3 network, with a mask that keeps 50 of 66 weights."""
    net = jt.networks.lenet(SHAPE, 3, (6,))
    params, stats = net.init(jax.random.key(0))
    mask = jt.keep_top(jax.tree.map(jnp.abs, params), masks.ones(params), 50)

    def logits(params, x):
        return net.apply(params, stats, x, train=False)[0]

    def loss(params, batch):
        x, y = batch
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], 1)
        return -picked.mean()

    x = jax.random.normal(jax.random.key(1), (2, 5, *SHAPE))
    y = jnp.arange(10, dtype=jnp.int32).reshape(2, 5) % 3
    context = jt.ScoreContext(loss, logits, params, mask, (x, y))
    return masks.apply(mask, params), context


@functools.cache
def compiled(name):
    context = setting()[1]
    return jax.jit(lambda params, key: jt.SCORES[name](params, context, key=key))


def scored(name, *, key=KEY, params=None):
    return compiled(name)(setting()[0] if params is None else params, key)


def assert_equal(a, b):
    chex.assert_trees_all_equal(a, b)


def differ(a, b):
    """Whether every prunable leaf differs."""
    return all(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        if x.ndim >= 2
    )


@each_score
def test_scores_are_finite_trees_like_the_params(name):
    params, _ = setting()
    scores = scored(name)
    assert jax.tree.structure(scores) == jax.tree.structure(params)
    for s, w in zip(jax.tree.leaves(scores), jax.tree.leaves(params), strict=True):
        assert s.shape == w.shape and s.dtype == jnp.float32
        assert np.isfinite(s).all()
    assert all(np.ptp(s) > 0 for s in jax.tree.leaves(scores) if s.ndim >= 2)


@each_score
def test_scores_are_functions_of_their_arguments(name):
    assert_equal(scored(name), scored(name))
    assert_equal(scored(name, key=jax.random.key(11)), scored(name))
    if name in WITHOUT_KEY:
        assert_equal(scored(name, key=jax.random.key(12)), scored(name))


@each_score
def test_scores_compile(name):
    params, context = setting()
    run = jax.jit(lambda p, m, k: jt.SCORES[name](p, context._replace(mask=m), key=k))
    found = run(params, context.mask, KEY)
    chex.assert_trees_all_close(found, scored(name), rtol=1e-05, atol=1e-07)


@each_score
def test_replicas_are_scored_as_if_alone(name):
    params, context = setting()
    stacked = jax.tree.map(lambda w: jnp.stack([w, w * jnp.float32(2)]), params)
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(lambda p, k: jt.SCORES[name](p, context, key=k)))(stacked, keys)
    for i in range(2):
        alone = scored(name, key=keys[i], params=jax.tree.map(lambda w, i=i: w[i], stacked))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-7)


@each_score
@pytest.mark.parametrize("rounds", [1, 3])
def test_scores_prune_to_the_exact_count(name, rounds):
    params, context = setting()
    mask = jt.prune(params, context, score=jt.SCORES[name], density=0.3, rounds=rounds, key=KEY)
    assert int(masks.kept(mask)) == round(0.3 * 66)
    assert bool(masks.nested(mask, context.mask))


@each_score
def test_inverted_scores_keep_what_the_score_prunes(name):
    params, context = setting()
    inverted = jt.scores.inverted(jt.SCORES[name])
    turned = jax.jit(lambda p: inverted(p, context, key=KEY))(params)
    assert_equal(turned, jax.tree.map(jnp.negative, scored(name)))
    assert jt.scores.inverted(name) is inverted
    assert inverted.__name__ == f"inverted_{jt.SCORES[name].__name__}"
    dense = masks.ones(params)
    distinct = jax.tree.map(
        lambda s, n: s + n * jnp.float32(1e-3),
        scored(name),
        jax.tree.unflatten(
            jax.tree.structure(params),
            [
                jnp.arange(w.size, dtype=jnp.float32).reshape(w.shape) * (10.0**i)
                for i, w in enumerate(jax.tree.leaves(params))
            ],
        ),
    )
    best = jt.keep_top(distinct, dense, 20)
    worst = jt.keep_top(jax.tree.map(jnp.negative, distinct), dense, 46)
    for b, w in zip(jax.tree.leaves(best), jax.tree.leaves(worst), strict=True):
        if b.ndim >= 2:
            np.testing.assert_array_equal(b, ~w)
    again = jax.jit(lambda p: jt.scores.inverted(inverted)(p, context, key=KEY))(params)
    assert_equal(again, scored(name))


def test_magnitude_is_the_absolute_value():
    params = {"w": jnp.asarray([[-2.0, 0.5], [0.0, -0.1]])}
    scores = jt.scores.magnitude(params, setting()[1], key=KEY)["w"]
    np.testing.assert_array_equal(scores, np.float32([[2.0, 0.5], [0.0, 0.1]]))


def test_random_scores_differ_between_seeds():
    """jaxpruner: a default key gives every seed the same random masks."""
    seeds = [scored("random", key=jax.random.key(s)) for s in range(3)]
    assert all(differ(seeds[i], seeds[i - 1]) for i in range(3))


def test_random_scores_are_uniform_and_ask_for_no_weights():
    params = {"a": jnp.zeros((100, 100)), "b": jnp.ones((100, 100))}
    scores = jax.tree.map(np.asarray, jt.scores.random(params, setting()[1], key=KEY))
    assert_equal(jt.scores.random(jax.tree.map(jnp.zeros_like, params), None, key=KEY), scores)
    for s in scores.values():
        assert s.min() >= 0 and s.max() < 1
        counts = np.histogram(s, 10, (0, 1))[0]
        # chi-square of 9 degrees of freedom: beyond 40 once in 100,000
        assert ((counts - 1000) ** 2 / 1000).sum() < 40
    assert abs(np.corrcoef(scores["a"].ravel(), scores["b"].ravel())[0, 1]) < 5 / 100
    alone = jt.scores.random({"b": params["b"]}, None, key=KEY)
    np.testing.assert_array_equal(alone["b"], scores["b"])


def test_random_masks_of_a_search_differ_between_seeds():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, *SHAPE)).astype(np.float32), np.arange(12) % 3
    data = jt.data.from_arrays(x, y, x, y, name="tiny")
    net = jt.networks.lenet(SHAPE, 3, (6,))
    runs = jt.find_tickets(
        net,
        data,
        jt.Training(steps=2, batch_size=4, eval_every=2),
        jt.Pruning(levels=1, fraction=0.5, score="random"),
        seeds=range(3),
        progress=False,
    )
    kernels = np.asarray(runs.tickets.mask["dense_0"]["kernel"])[1]
    assert not any(np.array_equal(kernels[i], kernels[i - 1]) for i in range(3))
    last = jax.tree.map(lambda m: m[1], runs.tickets.mask)
    assert jax.vmap(masks.kept)(last).tolist() == [33] * 3
