"""Optax transformations under a mask: pruned weights and their moments stay zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxticket as jt

PARAMS = {
    "hidden": {"kernel": jax.random.normal(jax.random.key(0), (6, 8)), "bias": jnp.ones(8)},
    "out": {"kernel": jax.random.normal(jax.random.key(1), (8, 3)), "bias": jnp.ones(3)},
}
X, Y = jax.random.normal(jax.random.key(2), (32, 6)), jnp.arange(32) % 3
MASK = jt.prune(PARAMS, score="magnitude", density=0.4, key=jax.random.key(0))
START = jt.masks.apply(MASK, PARAMS)


def loss(params):
    hidden = jax.nn.relu(X @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    logits = hidden @ params["out"]["kernel"] + params["out"]["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def trained(tx, params, steps=4, loss=loss):
    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[0])(params)


def pruned(mask, tree):
    """The largest entry at pruned places of a tree like the weights."""
    found = [np.abs(np.where(m, 0, w)).max() for _, m, w in jt.masks.items(mask, tree)]
    return max(found)


TRANSFORMATIONS = {
    "sgd": optax.sgd(0.1),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.01)),
    "lamb": optax.lamb(0.01),
    "lion": optax.lion(0.01),
    "adafactor": optax.adafactor(0.01),
    "noisy": optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "ema of updates": optax.chain(optax.sgd(0.1), optax.ema(0.9)),
    "rates by schedule": optax.adam(optax.cosine_decay_schedule(0.1, 10)),
    "rates in the state": optax.inject_hyperparams(optax.adam)(learning_rate=0.01),
    "several steps": optax.MultiSteps(optax.adam(0.01), 2).gradient_transformation(),
    "two rates": optax.partition(
        {"a": optax.adam(0.1), "b": optax.sgd(0.1)}, {"hidden": "a", "out": "b"}
    ),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_pruned_weights_stay_zero(name):
    params, state = trained(jt.masked(TRANSFORMATIONS[name], MASK), START)
    assert pruned(MASK, params) == 0
    assert int(jt.masks.kept(jt.mask_of(state))) == round(0.4 * 72)
    assert all(jnp.any(a != b) for a, b in zip(*map(jax.tree.leaves, (params, START)), strict=True))


def test_moments_of_pruned_weights_are_zero_and_norms_are_of_the_others():
    clip = optax.clip_by_global_norm(0.01)
    params, state = trained(jt.masked(optax.chain(clip, optax.adam(0.01)), MASK), START)
    adam = state.inner[1][0]
    assert pruned(MASK, adam.mu) == pruned(MASK, adam.nu) == 0
    # by hand: the mask in the forward pass
    masked_loss = lambda p: loss(jt.masks.apply(MASK, p))  # noqa: E731
    with jax.numpy_dtype_promotion("standard"):
        own, _ = trained(optax.chain(clip, optax.adam(0.01)), START, loss=masked_loss)
    for a, b in zip(*map(jax.tree.leaves, (params, own)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_it_trains_as_the_library_does():
    digits = jt.data.load("digits")
    x, y = digits.train.x[:40], digits.train.y[:40]
    data = jt.data.from_arrays(x, y, x, y)
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    training = jt.Training(
        steps=5, batch_size=40, optimizer="momentum", lr=0.1, weight_decay=0.01, eval_every=5
    )
    params, stats = net.init(jax.random.key(3))
    mask = jt.prune(params, score="magnitude", density=0.3, key=jax.random.key(0))
    train = jax.jit(jt.make_train(net, data, training))
    state, _ = train(jax.random.key(0), mask, params, stats)
    decayed = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, momentum=0.9))
    tx, own = jt.masked(decayed, mask), jt.masks.apply(mask, params)
    problem = jt.Problem(net, data, training)
    own, _ = trained(tx, own, 5, loss=lambda params: problem.loss(params, stats))
    for a, b in zip(*map(jax.tree.leaves, (own, state.params)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_replicas_have_masks_of_their_own():
    masks = [
        jt.prune(PARAMS, score="random", density=d, key=jax.random.key(i))
        for i, d in enumerate((0.2, 0.7))
    ]
    stacked = jax.tree.map(lambda *m: jnp.stack(m), *masks)

    def train(mask):
        tx = jt.masked(optax.adamw(0.01), mask)
        return trained(tx, jt.masks.apply(mask, PARAMS))

    params, state = jax.vmap(train)(stacked)
    for i, mask in enumerate(masks):
        alone, _ = trained(jt.masked(optax.adamw(0.01), mask), jt.masks.apply(mask, PARAMS))
        own = jax.tree.map(lambda w: w[i], params)  # noqa: B023
        assert pruned(mask, own) == 0
        for a, b in zip(*map(jax.tree.leaves, (alone, own)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert jax.vmap(jt.masks.kept)(jt.mask_of(state)).tolist() == [14, 50]


def test_another_mask_zeroes_weights_and_moments():
    tx = optax.chain(optax.clip(1.0), jt.masked(optax.adam(0.01)))
    params, state = trained(tx, PARAMS)
    state = jax.jit(jt.with_mask)(state, MASK)
    moments = jt.mask_of(state), state[1].inner[0]
    assert pruned(moments[0], moments[1].mu) == pruned(MASK, moments[1].nu) == 0
    assert all(jnp.any(m != 0) for m in jax.tree.leaves(moments[1].mu))
    updates, state = jax.jit(tx.update)(jax.grad(loss)(params), state, params)
    assert pruned(MASK, optax.apply_updates(params, updates)) == 0


def test_pruned_weights_become_exactly_zero_in_low_precision():
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
    tx = jt.masked(optax.adam(0.01, mu_dtype=jnp.float32), MASK)
    gradient = jax.tree.map(lambda w: jnp.full(w.shape, 0.3, jnp.float32), half)
    updates, _ = jax.jit(tx.update)(gradient, tx.init(half), half)
    with jax.numpy_dtype_promotion("standard"):
        moved = optax.apply_updates(half, updates)
    assert moved["out"]["kernel"].dtype == jnp.bfloat16
    assert pruned(MASK, jax.tree.map(lambda w: w.astype(jnp.float32), moved)) == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="`tx` must be an optax transformation"):
        jt.masked(lambda lr: optax.sgd(lr), MASK)
    with pytest.raises(ValueError, match="`mask` must be a tree of bools"):
        jt.masked(optax.sgd(0.1), PARAMS)
    with pytest.raises(ValueError, match="`mask` has 2 leaves where the weights have 4"):
        jt.masked(optax.sgd(0.1), MASK["out"]).init(PARAMS)
    wide = jax.tree.map(lambda m: jnp.ones((2, *m.shape), bool), MASK)
    with pytest.raises(ValueError, match=r"`mask` has shape .* at 'hidden/kernel'"):
        jt.masked(optax.sgd(0.1), wide).init(PARAMS)
    tx = jt.masked(optax.sgd(0.1), MASK)
    with pytest.raises(ValueError, match="`params` is needed"):
        tx.update(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"`state` must hold one state of jt.masked .* got 0"):
        jt.mask_of(optax.adam(0.1).init(PARAMS))
