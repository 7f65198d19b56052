"""SynFlow: conservation, its ranking without overflow, and no layer collapse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from contexts import batches_of, context_of, mlp, wide

import jaxticket as jt
from jaxticket import masks
from jaxticket.pruning.scores import recipe_of

KEY = jax.random.key(0)


def setting(net, *, tap=False, seed=1, float64=False):
    """(params, context) with an example of ones' shape and the initial statistics."""
    params, stats = jax.jit(net.init)(jax.random.key(seed))
    batches = batches_of(net.shape, net.classes, 1, 1)
    if float64:
        params, stats, batches = wide(params), wide(stats), (wide(batches[0]), batches[1])
    return params, context_of(net, params, stats, batches, tap=tap)


def scored(params, context):
    scores = jax.jit(lambda p: jt.scores.synflow(p, context, key=KEY))(params)
    leaves = zip(trees.paths(scores), jax.tree.leaves(scores), strict=True)
    return {path: np.asarray(s) for path, s in leaves}


def flow(params, context):
    """R, computed without any of the score's code."""
    positive = jax.tree.map(lambda w: jnp.abs(w) if w.ndim >= 2 else 0 * w, params)
    ones = jnp.ones((1, *context.batches[0].shape[2:]))
    return float(jnp.sum(jax.jit(context.logits)(positive, ones)))


def test_what_enters_a_layer_and_a_unit_leaves_it():
    with jax.enable_x64():
        params, context = setting(mlp((6, 5, 4, 3), jax.nn.relu, bias=False), float64=True)
        scores = scored(params, context)
        total = flow(params, context)
    assert total > 0
    layers = [scores[f"layer_{i}/kernel"] for i in range(3)]
    np.testing.assert_allclose([z.sum() for z in layers], total, rtol=1e-12)
    for into, out in itertools.pairwise(layers):
        np.testing.assert_allclose(into.sum(0), out.sum(1), rtol=1e-12)


@functools.cache
def plain_mlp():
    params, context = setting(mlp((6, 5, 4, 3), jax.nn.relu))
    return params, context, scored(params, context)


def test_data_and_what_is_added_have_no_part():
    params, context, scores = plain_mlp()
    assert all(np.any(params[name]["bias"]) for name in params)
    x, y = context.batches
    other = scored(params, context._replace(batches=(x * jnp.nan, y)))
    moved = {n: {**p, "bias": p["bias"] + jnp.float32(1)} for n, p in params.items()}
    flipped = jax.tree.map(jnp.negative, params)
    for again in (other, scored(moved, context), scored(flipped, context)):
        for path, z in scores.items():
            np.testing.assert_array_equal(again[path], z)
    np.testing.assert_allclose(scores["layer_0/kernel"].sum(), flow(params, context), rtol=1e-5)
    assert not any(np.any(z) for path, z in scores.items() if path.endswith("bias"))
    # raw images are integers, networks compute in floating numbers
    images = scored(params, context._replace(batches=(x.astype(jnp.uint8), y)))
    np.testing.assert_array_equal(images["layer_0/kernel"], scores["layer_0/kernel"])


@pytest.mark.parametrize("name", ["b", "b1", "beta", "bias_2", "gain", "g"])
def test_leaves_add_or_multiply_by_their_names(name):
    added = name[0] == "b"

    def logits(params, x):
        x = x @ params["w"]
        return x + params[name][None] if added else x * params[name][None]

    params = {"w": jnp.ones((2, 2)), name: jnp.array([-2.0, 3.0])}
    batches = (jnp.zeros((1, 1, 2)), jnp.zeros((1, 1), jnp.int32))
    context = jt.ScoreContext(None, logits, params, masks.ones(params), batches)
    expected = np.ones((2, 2)) if added else np.array([[2.0, 3.0]] * 2)
    np.testing.assert_array_equal(scored(params, context)["w"], expected)


def test_a_chain_of_convolutions_conserves_the_flow():
    net = jt.networks.vgg((16, 16, 3), 4, depth=11, width=0.06)
    params, context = setting(net, tap=True)
    scores = scored(params, context)
    kernels = [scores[f"conv_{i}/kernel"] for i in range(8)] + [scores["dense_0/kernel"]]
    sums = [z.sum() for z in kernels]
    assert sums[0] > 0
    np.testing.assert_allclose(sums, sums[0], rtol=1e-4)
    for into, out in itertools.pairwise(kernels):
        inner = tuple(i for i in range(out.ndim) if i != out.ndim - 2)
        scale = into.sum() * 1e-5
        np.testing.assert_allclose(
            into.sum(tuple(range(into.ndim - 1))), out.sum(inner), rtol=1e-3, atol=scale
        )


def test_every_cut_of_a_residual_network_carries_the_flow():
    net = jt.networks.resnet_cifar((6, 6, 3), 4, depth=8, width=0.25)
    params, context = setting(net, tap=True)
    sums = {path: z.sum() for path, z in scored(params, context).items()}
    total = sums["dense/kernel"]
    assert total > 0
    np.testing.assert_allclose(sums["block_0/kernel"], total, rtol=1e-4)
    for block in ("block_1_0", "block_2_0", "block_3_0"):
        # one path through two convolutions, alongside the shortcut
        np.testing.assert_allclose(
            sums[f"{block}/conv_0/kernel"], sums[f"{block}/conv_1/kernel"], rtol=1e-4
        )
        alongside = sums.get(f"{block}/shortcut/kernel")
        if alongside is None:
            assert 0 < sums[f"{block}/conv_1/kernel"] < total
        else:
            np.testing.assert_allclose(sums[f"{block}/conv_1/kernel"] + alongside, total, rtol=1e-4)


def residual():
    """Three blocks `relu(x + relu(x @ a) @ b)`, each branch larger than what it runs alongside."""

    def init(key):
        shapes = {"first": (12, 20), "last": (20, 3)}
        shapes |= {f"{n}_{i}": (20, 20) for i in range(3) for n in ("in", "out")}
        keys = jax.random.split(key, len(shapes))
        return {
            n: jax.random.normal(k, shapes[n], jnp.float32)
            for n, k in zip(shapes, keys, strict=True)
        }, {}

    def apply(params, stats, x, *, train, tap=None):
        tap = tap or (lambda name, x: x)
        x = tap("first", jax.nn.relu(x @ params["first"]))
        for i in range(3):
            y = tap(f"block_{i}/in", jax.nn.relu(x @ params[f"in_{i}"]))
            x = tap(f"block_{i}", jax.nn.relu(x + y @ params[f"out_{i}"]))
        return tap("last", x @ params["last"]), stats

    return jt.from_functions(init, apply, name="residual", shape=(12,))


def test_rescaling_at_junctions_keeps_the_masks_of_float64():
    """100 rounds to density 0.1 on a residual network; taps within a block are left alone."""
    net = residual()

    def mask(*, tap, float64):
        params, context = setting(net, tap=tap, float64=float64)
        prune = jax.jit(lambda p: jt.prune(p, context, score="synflow", density=0.1, key=KEY))
        return prune(params), context

    rescaled, _ = mask(tap=True, float64=False)
    with jax.enable_x64():
        reference, _ = mask(tap=False, float64=True)
    size = masks.prunable_size(rescaled)
    assert int(masks.kept(rescaled)) == round(0.1 * size)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), rescaled, reference)
    assert all(jax.tree.leaves(same)), same


def deep(tap):
    """30 layers that each multiply the flow by about 60."""
    net = mlp((8,) * 31, jax.nn.relu, bias=False)
    params, context = setting(net, tap=tap)
    return jax.tree.map(lambda w: w * jnp.float32(30), params), context


def test_deep_networks_stay_finite_where_they_have_taps():
    params, context = deep(tap=True)
    _, without = deep(tap=False)
    rescaled = jax.jit(lambda p: jt.scores.synflow(p, context, key=KEY))(params)
    sums = [float(jnp.sum(z)) for z in jax.tree.leaves(rescaled)]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-3)
    with pytest.raises(ValueError, match=r"'synflow' gives numbers that are not finite.*float64"):
        jt.prune(params, without, score="synflow", density=0.5, rounds=1, key=KEY)
    with jax.enable_x64():
        params64 = wide(params)
        without = without._replace(batches=(wide(without.batches[0]), without.batches[1]))
        exact = jax.jit(lambda p: jt.scores.synflow(p, without, key=KEY))(params64)
        totals = [float(jnp.sum(z)) for z in jax.tree.leaves(exact)]
    assert totals[0] > 1e45
    for a, b, total in zip(*map(jax.tree.leaves, (rescaled, exact)), totals, strict=True):
        np.testing.assert_allclose(
            np.asarray(a) / sums[0], np.asarray(b) / total, rtol=1e-3, atol=1e-9
        )


def resnet(**options):
    return jt.networks.resnet_cifar((32, 32, 3), 10, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"depth": 110, "width": 0.25}, {"depth": 110}, {"depth": 14, "width": 10.0}],
    ids=str,
)
def test_deep_and_wide_residual_networks_are_those_of_float64(options):
    """ResNet-110 and WRN-14-10: finite in float32, and of the best tenth 99.9% are float64's."""
    net = resnet(**options)
    params, context = setting(net, tap=True)
    scores = scored(params, context)
    assert all(np.isfinite(z).all() for z in scores.values())
    np.testing.assert_allclose(
        scores["block_0/kernel"].sum(), scores["dense/kernel"].sum(), rtol=1e-3
    )
    with jax.enable_x64():
        exact = scored(*setting(net, float64=True))
    flat, reference = (np.concatenate([z.ravel() for z in s.values()]) for s in (scores, exact))
    keep = len(flat) // 10
    best = [set(np.argpartition(-z, keep)[:keep].tolist()) for z in (flat, reference)]
    assert len(best[0] & best[1]) >= 0.999 * keep


@pytest.mark.slow
def test_masks_of_resnet20_are_those_of_float64():
    """100 rounds to 1%. Rescaling changes nothing: in float64 the masks are equal. In float32
    weights change places near the cut in one round and then move others in the next.
    """
    net = resnet(depth=20)

    def mask(*, tap, float64):
        params, context = setting(net, tap=tap, float64=float64)
        prune = jax.jit(lambda p: jt.prune(p, context, score="synflow", density=0.01, key=KEY))
        return [np.asarray(m) for m in jax.tree.leaves(prune(params)) if m.ndim > 1]

    single = mask(tap=True, float64=False)
    with jax.enable_x64():
        rescaled, plain = (mask(tap=tap, float64=True) for tap in (True, False))
    for a, b in zip(rescaled, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    kept = sum(int(m.sum()) for m in plain)
    assert kept == round(0.01 * sum(m.size for m in plain))
    assert sum(int((a & b).sum()) for a, b in zip(single, plain, strict=True)) >= 0.97 * kept


def test_no_layer_is_emptied_in_100_rounds_and_some_are_in_one():
    net = mlp((60, 30, 4, 40, 4, 3), jax.nn.relu, bias=False)
    params, context = setting(net, tap=True)
    assert recipe_of(jt.scores.synflow).rounds == 100
    size = masks.prunable_size(params)
    density = 20 / size

    def kept(rounds):
        prune = jax.jit(
            lambda p: jt.prune(
                p, context, score="synflow", density=density, rounds=rounds, key=KEY
            )
        )  # fmt: skip
        return [int(np.sum(m)) for m in jax.tree.leaves(prune(params))]

    iterated, at_once = kept(None), kept(1)
    assert sum(iterated) == sum(at_once) == 20
    assert min(iterated) >= 1
    assert min(at_once) == 0


def test_an_empty_layer_scores_zero_and_not_nan():
    params, context, _ = plain_mlp()
    net_params = {**params, "layer_1": jax.tree.map(jnp.zeros_like, params["layer_1"])}
    _, tapped = setting(mlp((6, 5, 4, 3), jax.nn.relu), tap=True)
    for which in (context, tapped):
        for z in scored(net_params, which).values():
            np.testing.assert_array_equal(z, 0)
