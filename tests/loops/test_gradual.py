"""Pruning along the way: exact densities at each step, weights zeroed through the updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxticket as jt

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (7, 9)), "bias": jnp.ones(9)},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (9, 4)), "bias": jnp.ones(4)},
}
P = 7 * 9 + 9 * 4
X, Y = jax.random.normal(jax.random.key(2), (32, 7)), jnp.arange(32) % 4
CUBIC = jt.PolynomialDensity(0.15, begin=1, end=7, every=2, initial=0.9)


def loss(params):
    hidden = jax.nn.relu(X @ params["a"]["kernel"] + params["a"]["bias"][None])
    logits = hidden @ params["b"]["kernel"] + params["b"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def trajectory(tx, params, steps=9):
    """Weights and states after each update, stacked."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        carry = optax.apply_updates(params, updates), state
        return carry, carry

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


def alive(params):
    return sum(jnp.sum(params[name]["kernel"] != 0) for name in "ab")


def test_counts_are_exact_at_each_step():
    params, state = jax.jit(lambda p: trajectory(jt.gradual(optax.adam(0.01), CUBIC), p))(PARAMS)
    # by hand, equation 1 of Zhu and Gupta, in sparsities
    sparsity = lambda t: 0.85 + (0.1 - 0.85) * (1 - (t - 1) / 6) ** 3  # noqa: E731
    wanted = [P, *(round((1 - sparsity(t)) * P) for t in (1, 1, 3, 3, 5, 5, 7, 7))]
    assert jax.vmap(jt.masks.kept)(jt.mask_of(state)).tolist() == wanted
    assert jax.vmap(alive)(params).tolist() == wanted
    masks = jt.mask_of(state)
    for i in range(8):
        before, after = (jax.tree.map(lambda m: m[n], masks) for n in (i, i + 1))  # noqa: B023
        assert bool(jt.masks.nested(after, before))
    moments = state.masked.inner[0].mu
    for name in "ab":
        assert not np.any(np.where(masks[name]["kernel"], 0, moments[name]["kernel"]))


def test_the_weights_before_the_update_are_ranked():
    tx = jt.gradual(optax.sgd(0.1), {0: 0.5})
    gradient = jax.grad(loss)(PARAMS)
    updates, state = jax.jit(tx.update)(gradient, tx.init(PARAMS), PARAMS)
    mask = jt.prune(PARAMS, score="magnitude", density=0.5, key=jax.random.key(0))
    for a, b in zip(*map(jax.tree.leaves, (jt.mask_of(state), mask)), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = optax.apply_updates(PARAMS, updates)
    by_hand = jt.masks.apply(mask, jax.tree.map(lambda w, g: w - 0.1 * g, PARAMS, gradient))
    for a, b in zip(*map(jax.tree.leaves, (moved, by_hand)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_a_score_of_ones_own_sees_weights_and_gradient():
    saliency = lambda w, g: jax.tree.map(lambda w, g: jnp.abs(w * g), w, g)  # noqa: E731
    tx = jt.gradual(optax.sgd(0.1), {0: 0.25}, saliency, scope="layer")
    gradient = jax.grad(loss)(PARAMS)
    _, state = jax.jit(tx.update)(gradient, tx.init(PARAMS), PARAMS)
    for name, keep in (("a", 16), ("b", 9)):
        scores = np.abs(np.asarray(PARAMS[name]["kernel"] * gradient[name]["kernel"])).reshape(-1)
        found = np.asarray(jt.mask_of(state)[name]["kernel"]).reshape(-1)
        assert set(np.flatnonzero(found)) == set(np.argsort(-scores)[:keep])


def test_a_function_of_the_step_and_a_chain():
    halved = lambda step: 0.5 ** ((step + 1) / 2)  # noqa: E731
    tx = optax.chain(optax.clip(1.0), jt.gradual(optax.adam(0.01), halved))
    _, state = jax.jit(lambda p: trajectory(tx, p, 4))(PARAMS)
    wanted = [round(0.5 ** ((t + 1) / 2) * P) for t in range(4)]
    assert jax.vmap(jt.masks.kept)(jt.mask_of(state)).tolist() == wanted


def test_many_seeds_under_vmap_equal_each_alone_and_rank_only_when_due():
    calls = []

    def magnitude(params, gradient):
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(jnp.abs, params)

    tx = jt.gradual(optax.adam(0.01), {2: 0.5, 6: 0.2}, magnitude)
    keys = jax.random.split(jax.random.key(5), 3)
    drawn = jax.vmap(lambda key: jax.tree.map(lambda w: jax.random.normal(key, w.shape), PARAMS))
    params = drawn(keys)
    found, state = jax.jit(jax.vmap(lambda p: trajectory(tx, p)))(params)
    jax.effects_barrier()
    # once for all replicas, at two of the nine steps
    assert len(calls) == 2
    kept = jax.vmap(jax.vmap(jt.masks.kept))(jt.mask_of(state))
    assert kept.tolist() == [[P] * 2 + [round(0.5 * P)] * 4 + [round(0.2 * P)] * 3] * 3
    one = jax.jit(lambda p: trajectory(tx, p))
    for i in range(3):
        alone, _ = one(jax.tree.map(lambda w: w[i], params))  # noqa: B023
        for a, b in zip(*map(jax.tree.leaves, (alone, found)), strict=True):
            np.testing.assert_allclose(a, b[i], atol=1e-6)


def test_it_works_on_a_mesh():
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec("seed")
    tx = jt.gradual(optax.adam(0.01), {1: 0.5})
    params = jax.tree.map(lambda w: jnp.stack([w, -2 * w]), PARAMS)
    run = jax.vmap(lambda p: trajectory(tx, p, 3))
    sharded = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec))(params)
    plain = jax.jit(run)(params)
    for a, b in zip(*map(jax.tree.leaves, (sharded, plain)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_goes_on_from_a_mask():
    mask = jt.prune(PARAMS, score="random", density=0.6, key=jax.random.key(0))
    tx = jt.gradual(optax.sgd(0.1), {0: 0.8, 2: 0.3}, mask=mask)
    _, state = trajectory(tx, jt.masks.apply(mask, PARAMS), 3)
    kept = jax.vmap(jt.masks.kept)(jt.mask_of(state))
    # a density above that of the mask brings nothing back
    assert kept.tolist() == [round(0.6 * P)] * 2 + [round(0.3 * P)]
    last = jax.tree.map(lambda m: m[-1], jt.mask_of(state))
    assert bool(jt.masks.nested(last, mask))


WRONG = [
    ({}, "`schedule` is empty"),
    ({0: 0.5, 3: 0.7}, "`schedule` must not rise"),
    ({0: 1.5}, r"`schedule` must be in \(0, 1\], got 1.5"),
    ({-1: 0.5}, "`schedule` must be a whole number"),
    (0.5, "`schedule` must be a jt.PolynomialDensity"),
]


@pytest.mark.parametrize(("schedule", "message"), WRONG)
def test_wrong_schedules_are_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        jt.gradual(optax.sgd(0.1), schedule)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`score` must be one of 'magnitude'"):
        jt.gradual(optax.sgd(0.1), CUBIC, "snip")
    with pytest.raises(ValueError, match="`score` must be 'magnitude' or a function"):
        jt.gradual(optax.sgd(0.1), CUBIC, 3)
    with pytest.raises(ValueError, match="`scope` must be"):
        jt.gradual(optax.sgd(0.1), CUBIC, scope="channel")
    with pytest.raises(ValueError, match="`end` must be after `begin`"):
        jt.PolynomialDensity(0.1, end=5, begin=5)
    with pytest.raises(ValueError, match="`final` must not be above `initial`"):
        jt.PolynomialDensity(0.9, end=5, initial=0.5)
    tx = jt.gradual(optax.sgd(0.1), lambda step: jnp.ones(2))
    with pytest.raises(ValueError, match=r"`schedule` .* must give a density"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    tx = jt.gradual(optax.sgd(0.1), CUBIC)
    with pytest.raises(ValueError, match="`params` is needed"):
        tx.update(PARAMS, tx.init(PARAMS))
