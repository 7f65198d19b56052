"""What changes no score: meshes, how examples are cut into batches, unread statistics, float32."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import batches_of, context_of, mlp, wide
from jax.sharding import PartitionSpec as P

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.pruning.scores import recipe_of

KEY = jax.random.key(7)
NET = mlp((4, 6, 3))
each_score = pytest.mark.parametrize("name", jt.SCORES)


@functools.cache
def replicas():
    """Masked weights of four replicas, their masks, and the dense weights."""
    init = jax.jit(jax.vmap(lambda k: NET.init(k)[0]))
    dense = init(jax.random.split(jax.random.key(1), 4))
    mask = jax.tree.map(lambda w: (jnp.abs(w) > jnp.float32(0.2)) | (w.ndim < 3), dense)
    return masks.apply(mask, dense), mask, dense


def context_for(params, batches, mask=None, axis=None):
    context = context_of(NET, params, {}, batches, mask=mask, tap=True)
    if axis is None:
        return context
    return context._replace(loss=lambda p, b: jax.lax.pmean(context.loss(p, b), axis))


def weights_for(name):
    masked, mask, dense = replicas()
    return (dense if recipe_of(jt.SCORES[name]).regrow else masked), mask


def assert_close(a, b, **tolerance):
    chex.assert_trees_all_close(a, b, **tolerance)


@each_score
def test_scores_on_a_mesh_are_those_of_one_device_and_replica(name):
    """Seeds over two devices, the examples of each batch over two; loops over two batches."""
    score, (params, mask) = jt.SCORES[name], weights_for(name)
    batches = batches_of((4,), 3, 2, 6)
    keys = jax.random.split(KEY, 4)

    def one(p, m, k, b, axis=None):
        return score(p, context_for(p, b, m, axis), key=k)

    def own(p, m, k, b):
        return jax.lax.map(lambda a: one(*a, b, "data"), (p, m, k))

    seeds, examples = P("seed"), P(None, "data")
    spread = jax.shard_map(
        own,
        mesh=parallel.mesh(seeds=2, data=2),
        in_specs=(seeds, seeds, seeds, examples),
        out_specs=seeds,
    )
    alone = jax.jit(one)
    together = jax.jit(spread)(params, mask, keys, batches)
    for i in range(4):
        p, m = jax.tree.map(lambda w, i=i: w[i], (params, mask))
        mine = jax.tree.map(lambda s, i=i: s[i], together)
        assert_close(mine, alone(p, m, keys[i], batches), rtol=2e-4, atol=1e-6)
        assert all(np.any(x) for x in jax.tree.leaves(mine) if x.ndim == 2)


@each_score
def test_one_batch_of_eight_is_two_of_four(name):
    score, (params, mask) = jt.SCORES[name], weights_for(name)
    p, m = jax.tree.map(lambda w: w[0], (params, mask))
    whole = batches_of((4,), 3, 1, 8)
    split = jax.tree.map(lambda b: b.reshape(2, 4, *b.shape[2:]), whole)
    first = jax.tree.map(lambda b: b[:1], split)
    run = jax.jit(lambda b: score(p, context_for(p, b, m), key=KEY))
    expected = run(whole)
    assert_close(run(split), expected, rtol=1e-4, atol=1e-7)
    if recipe_of(score).data:
        # all batches count
        kernels = (run(first)["layer_0"]["kernel"], expected["layer_0"]["kernel"])
        assert not np.allclose(*kernels, rtol=1e-2)


def normalized_net():
    """A dense layer, batch normalisation and ReLU, and a dense layer."""
    base = mlp((4, 6, 3))

    def init(key):
        params, _ = base.init(key)
        params["norm"] = {"scale": jnp.linspace(0.5, 1.5, 6), "bias": jnp.linspace(-1.0, 1.0, 6)}
        return params, {"mean": jnp.zeros(6), "var": jnp.ones(6)}

    def apply(params, stats, x, *, train, tap=None):
        x = x @ params["layer_0"]["kernel"]
        mean, var = (x.mean(0), x.var(0)) if train else (stats["mean"], stats["var"])
        x = (x - mean[None]) * jax.lax.rsqrt(var + jnp.float32(1e-5))[None]
        x = jax.nn.relu(x * params["norm"]["scale"][None] + params["norm"]["bias"][None])
        x = x if tap is None else tap("layer_0", x)
        return x @ params["layer_1"]["kernel"] + params["layer_1"]["bias"][None], stats

    return jt.from_functions(init, apply, name="normalized", shape=(4,))


@each_score
def test_running_statistics_count_only_where_they_normalise(name):
    net, score = normalized_net(), jt.SCORES[name]
    params, stats = jax.jit(net.init)(jax.random.key(2))
    batches = batches_of((4,), 3, 1, 6)

    @functools.partial(jax.jit, static_argnames="train")
    def run(stats, train):
        return score(params, context_of(net, params, stats, batches, train=train), key=KEY)

    moved = {"mean": stats["mean"] + jnp.float32(0.3), "var": stats["var"] * jnp.float32(3)}
    if name != "synflow":
        # statistics of one example would make an input of ones vanish
        assert_close(run(stats, True), run(moved, True), rtol=0, atol=0)
    reads = recipe_of(score).passes != (0, 0)
    a, b = (run(s, False)["layer_0"]["kernel"] for s in (stats, moved))
    assert np.allclose(a, b, rtol=1e-3) != reads


def test_synflow_asks_for_the_initial_statistics():
    """Trained ones with means below zero or above would break its sums over paths."""
    assert recipe_of(jt.scores.synflow).batch_norm == "initial"
    assert not recipe_of(jt.scores.synflow).data


@each_score
def test_masks_of_float32_are_those_of_float64(name):
    """986,000 weights, at density 0.1 and 0.01: 99.9% of what is kept is the same."""
    net, score = jt.networks.lenet((28, 28, 1), 10, (1000, 200)), jt.SCORES[name]
    params, stats = jax.jit(net.init)(jax.random.key(4))
    batches = batches_of((28, 28, 1), 10, 1, 10)
    recipe = recipe_of(score)

    def scores(params, batches):
        context = context_of(
            net, params, stats, batches, temperature=recipe.temperature, tap=True
        )  # fmt: skip
        with jax.default_matmul_precision("highest"):
            return jax.jit(lambda p: score(p, context, key=KEY))(params)

    single = scores(params, batches)
    with jax.enable_x64():
        double = scores(wide(params), (wide(batches[0]), batches[1]))
        kinds = {s.dtype for s in jax.tree.leaves(double)}
        double = jax.tree.map(np.asarray, double)
    assert name == "random" or kinds == {np.dtype(np.float64)}
    a, b = (
        np.concatenate([np.asarray(s).ravel() for s in jax.tree.leaves(t) if s.ndim >= 2])
        for t in (single, double)
    )
    for density in (0.1, 0.01):
        keep = round(density * a.size)
        best = [set(np.argpartition(-z, keep)[:keep].tolist()) for z in (a, b)]
        assert len(best[0] & best[1]) >= 0.999 * keep
