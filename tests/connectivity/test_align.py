"""Permutation symmetries of the networks, and alignment by weight matching."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trees

import jaxticket as jt
from jaxticket import masks
from jaxticket.connectivity import permutations as perms
from jaxticket.connectivity._align import align
from jaxticket.nn.symmetry import chain

nets = jt.networks
SMALL, SMALLER = (8, 8, 3), (4, 4, 3)

# several units in every layer, several pixels before the first dense layer of conv2
NETS = {
    "lenet": nets.lenet((4, 4, 1), 3, (8, 6)),
    "conv2": nets.conv2((4, 6, 3), 3, width=0.1),
    "conv4": nets.conv4(SMALL, 3, width=0.1),
    "vgg11": nets.vgg11((16, 16, 3), 3, width=0.1),
    "vgg2": nets.vgg((16, 16, 3), 3, depth=11, width=0.1, norm="none", dense=2),
    "resnet14": nets.resnet14(SMALLER, 3, width=0.5),
    "resnet8-padding": nets.resnet_cifar(SMALLER, 3, depth=8, width=0.5, shortcut="padding"),
    "resnet18": nets.resnet18(SMALL, 3, width=0.1, stem="small"),
    "resnet50": nets.resnet50((32, 32, 3), 3, width=0.05),
    "wide_resnet": nets.wide_resnet(SMALLER, 3, depth=10, width=0.5),
    # as wide as the first convolution: no projection in the first stage
    "wide_resnet-1": nets.wide_resnet(SMALLER, 3, depth=10, width=1, norm="none"),
}
each_net = pytest.mark.parametrize("name", NETS)
compiled = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "resnet50" else n for n in NETS]
)


def leaves(tree):
    return dict(zip(trees.paths(tree), jax.tree.leaves(tree), strict=True))


def drawn(net, seed):
    """Params and statistics with every entry random, those that start at 0 or 1 included."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path.endswith("/kernel"):
            return rng.normal(0, math.sqrt(2 / math.prod(x.shape[:-1])), x.shape)
        positive = path.endswith(("/var", "/scale"))
        return rng.uniform(0.5, 1.5, x.shape) if positive else rng.normal(0, 0.3, x.shape)

    shapes = net.shapes
    return tuple(
        jax.tree.unflatten(
            jax.tree.structure(tree),
            [draw(path, x).astype(np.float32) for path, x in leaves(tree).items()],
        )
        for tree in shapes
    )


def permuted(net, pair, permutations, **options):
    return tuple(perms.permute(net, tree, permutations, **options) for tree in pair)


def same(x, y):
    jax.tree.map(np.testing.assert_array_equal, x, y)


def difference(x, y):
    """The largest difference, in units of the largest entry: permuting changes the order of sums,
    and BatchNorm over few pixels makes more of their rounding. One ulp of the weights of resnet50
    is worth 2e-4; one bias vector left behind is worth 2e-1 of its training logits.
    """
    return float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)))


def random(net, seed=0, **options):
    return perms.random_permutations(net, key=jax.random.key(seed), **options)


@compiled
def test_random_permutations_preserve_the_function(name):
    net = NETS[name]
    x = jax.random.normal(jax.random.key(1), (8, *net.shape))

    def both(params, stats):
        return net.apply(params, stats, x, train=False)[0], net.apply(params, stats, x, train=True)

    # compiling is all that this test waits for
    forward = jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})

    state = drawn(net, 0)
    order = random(net)
    moved = permuted(net, state, order)
    expected, (in_training, new_stats) = forward(*state)
    got, (moved_in_training, moved_stats) = forward(*moved)
    assert float(jnp.std(expected)) > 0.01
    assert difference(got, expected) < 3e-4
    assert difference(moved_in_training, in_training) < 3e-4
    # the averages that training updates lie where the moved units do
    jax.tree.map(
        lambda x, y: np.testing.assert_array_less(difference(x, y), 3e-4),
        moved_stats,
        perms.permute(net, new_stats, order),
    )
    # one vector left behind would have been seen
    path = next(p for p in reversed(leaves(moved[0])) if not p.startswith(net.output))
    left = jax.tree.unflatten(
        jax.tree.structure(moved[0]),
        [leaves(state[0])[p] if p == path else x for p, x in leaves(moved[0]).items()],
    )
    assert difference(forward(left, moved[1])[1][0], in_training) > 3e-3
    # and everything has moved: no axis was left out on both sides
    for path, before in leaves(state).items():
        after = leaves(moved)[path]
        if path != f"0/{net.output}/bias":
            assert not np.array_equal(before, after), path


@each_net
def test_every_hidden_axis_is_covered(name):
    net = NETS[name]
    params, stats = net.shapes
    shapes = {path: x.shape for path, x in {**leaves(params), **leaves(stats)}.items()}
    found, units = perms.places(net)
    assert found.keys() == shapes.keys()
    first = "dense_0" if name == "lenet" else "conv_0" if "conv_0" in params else "block_0"
    for path, shape in shapes.items():
        for axis, along in enumerate(found[path]):
            moving = sorted(i for at in along.values() for i in at.reshape(-1))
            spatial = axis < len(shape) - 2
            inputs = path == f"{first}/kernel" and axis == len(shape) - 2
            outputs = path.startswith(net.output) and axis == len(shape) - 1
            fixed = spatial or inputs or outputs
            assert moving == ([] if fixed else list(range(shape[axis]))), (path, axis)
    kernels = [path for path in shapes if path.endswith("/kernel")]
    assert len(units) <= len(kernels) - 1


def test_shortcuts_share_and_start_permutations():
    projected = perms.symmetry(NETS["resnet14"])
    assert projected["block_1_0/conv_1/kernel"][-1] == "block_0"
    assert projected["block_1_1/conv_0/kernel"][-2:] == ("block_0", "block_1_1/conv_0")
    assert projected["block_2_0/shortcut/kernel"][-2:] == ("block_0", "block_2_0")
    assert projected["block_2_1/conv_1/norm/scale"] == ("block_2_0",)
    assert projected["batch_stats/block_2_0/shortcut/norm/mean"] == ("block_2_0",)
    assert projected["dense/kernel"] == ("block_3_0", None)
    # 8 channels become 16, half of the new ones on either side, and 16 become 32
    padded, units = perms.places(NETS["resnet8-padding"])
    (along,) = padded["block_3_0/conv_1/norm/bias"]
    assert along["block_0"][:, 0].tolist() == list(range(12, 20))
    assert along["block_2_0"][:, 0].tolist() == [*range(8, 12), *range(20, 24)]
    assert along["block_3_0"][:, 0].tolist() == [*range(8), *range(24, 32)]
    assert (units["block_0"], units["block_2_0"], units["block_3_0"]) == (8, 8, 16)
    assert perms.symmetry(NETS["wide_resnet-1"])["block_1_0/conv_1/kernel"][-1] == "block_0"
    assert perms.symmetry(NETS["wide_resnet"])["block_1_0/conv_1/kernel"][-1] == "block_1_0"


@each_net
def test_alignment_recovers_a_permuted_copy(name):
    net = NETS[name]
    a = drawn(net, 3)
    order = random(net, 4)
    found = align(net, a, permuted(net, a, order))
    same(a, (found.params, found.stats))
    same(found.permutations, perms.inverse(order))
    assert found.converged and found.before < found.after
    squares = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in jax.tree.leaves(a[0]))
    assert found.after == pytest.approx(squares, rel=1e-12)


@pytest.mark.parametrize("name", ["lenet", "conv2", "resnet8-padding", "wide_resnet"])
def test_the_objective_never_decreases(name):
    net = NETS[name]
    a, b = drawn(net, 5), drawn(net, 6)
    for key in (None, jax.random.key(0)):
        found = align(net, a, b, key=key)
        assert len(found.objectives) > 2 and found.converged
        assert all(np.diff(found.objectives) >= 0) and found.after > found.before
        moved = permuted(net, b, found.permutations)
        same(moved, (found.params, found.stats))
        for objective, other in ((found.before, b), (found.after, moved)):
            assert objective == pytest.approx(
                float(optax.tree.vdot(a[0], other[0])), rel=1e-4, abs=1e-3
            )
        # nothing is left to gain: a second search stays where it is
        again = align(net, a, moved, key=key)
        same(
            again.permutations, {name: np.arange(len(p)) for name, p in again.permutations.items()}
        )


def test_rounds_and_restarts():
    net = NETS["resnet14"]
    a, b = drawn(net, 7), drawn(net, 8)
    short = align(net, a, b, max_rounds=1)
    assert len(short.objectives) == 2 and not short.converged
    key = jax.random.key(1)
    one, many = (align(net, a, b, key=key, restarts=n) for n in (1, 4))
    assert many.after > one.after and many.before == one.before
    assert all(np.diff(many.objectives) >= 0)
    same(many.permutations, align(net, a, b, key=key, restarts=4).permutations)
    other = align(net, a, b, key=jax.random.key(2))
    assert other.objectives != one.objectives


@pytest.mark.parametrize("name", ["lenet", "resnet14"])
def test_a_network_is_aligned_with_itself(name):
    net = NETS[name]
    a = drawn(net, 9)
    # dead units are as good in each other's places: they stay
    a[0]["dense_0" if name == "lenet" else "block_1_0"] = jax.tree.map(
        np.zeros_like, a[0]["dense_0" if name == "lenet" else "block_1_0"]
    )
    found = align(net, a, jax.tree.map(jnp.asarray, a), key=jax.random.key(0))
    same((found.params, found.stats), a)
    same(found.permutations, {k: np.arange(len(p)) for k, p in found.permutations.items()})
    assert found.objectives == (found.before, found.before) and found.converged


def distance(a, b):
    return sum(float(np.sum((x - y) ** 2)) for x, y in zip(a, b, strict=True))


def test_one_hidden_layer_is_globally_optimal():
    """Against all 24 of them, in plain NumPy."""
    net = nets.lenet((2, 3, 1), 3, (4,))
    for seed in range(5):
        (a, _), (b, _) = drawn(net, seed), drawn(net, seed + 100)

        def moved(order, b=b):
            first, last = b["dense_0"], b["dense_1"]
            kernel, bias = first["kernel"][:, list(order)], first["bias"][list(order)]
            return kernel, bias, last["kernel"][list(order)], last["bias"]

        ours = moved(range(4), a)
        best = min(itertools.permutations(range(4)), key=lambda o: distance(ours, moved(o)))
        found = align(net, (a, {}), (b, {}))
        assert found.permutations["dense_0"].tolist() == list(best)
        assert len(found.objectives) <= 3


def test_two_hidden_layers_are_coordinatewise_optimal():
    """Against all permutations of either layer alone, and with restarts of both together."""
    net = nets.lenet((2, 2, 1), 2, (3, 4))
    a, b = drawn(net, 10), drawn(net, 11)
    alone = [list(itertools.permutations(range(n))) for n in (3, 4)]

    def objective(first, second):
        order = {"dense_0": np.array(first), "dense_1": np.array(second)}
        return float(optax.tree.vdot(a[0], perms.permute(net, b[0], order)))

    found = align(net, a, b)
    own = [found.permutations[name].tolist() for name in ("dense_0", "dense_1")]
    assert found.after >= max(objective(p, own[1]) for p in alone[0]) - 1e-5
    assert found.after >= max(objective(own[0], p) for p in alone[1]) - 1e-5
    best = max(objective(p, q) for p in alone[0] for q in alone[1])
    search = align(net, a, b, key=jax.random.key(0), restarts=20)
    assert search.after == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("name", ["conv2", "resnet8-padding"])
def test_masks_move_with_their_weights(name):
    net = NETS[name]
    params, _ = drawn(net, 12)
    rng = np.random.default_rng(0)
    mask = jax.tree.map(lambda x: rng.random(x.shape) < 0.5, params)
    order = random(net, 1)
    moved = perms.permute(net, mask, order)
    assert all(m.dtype == bool for m in jax.tree.leaves(moved))
    same(
        perms.permute(net, masks.apply(mask, params), order),
        masks.apply(moved, perms.permute(net, params, order)),
    )
    same(perms.permute(net, moved, perms.inverse(order)), mask)
    same(masks.layer_density(moved), masks.layer_density(mask))
    # a sparse network is matched to its own permuted copy, and its mask with it
    sparse = (masks.apply(mask, params), drawn(net, 12)[1])
    found = align(net, sparse, permuted(net, sparse, order))
    same(found.params, sparse[0])
    same(perms.permute(net, moved, found.permutations), mask)


def test_flattened_channels_move_together_in_every_pixel():
    net = NETS["conv2"]
    params, _ = drawn(net, 13)
    order = np.array([5, 0, 1, 2, 3, 4])
    moved = perms.permute(net, params, {"conv_1": order})
    kernel = params["dense_0"]["kernel"].reshape(2, 3, 6, -1)
    np.testing.assert_array_equal(
        moved["dense_0"]["kernel"], kernel[:, :, order].reshape(36, kernel.shape[-1])
    )
    np.testing.assert_array_equal(moved["conv_1"]["bias"], params["conv_1"]["bias"][order])
    same(moved["conv_0"], params["conv_0"])


def _mlp(symmetry=None):
    def init(key):
        first, second = jax.random.split(key)
        return {
            "in": {"w": jax.random.normal(first, (3, 5)), "b": jnp.ones(5)},
            "out": {"w": jax.random.normal(second, (5, 2))},
        }, {}

    def apply(params, stats, x, *, train):
        del train
        hidden = jax.nn.relu(x @ params["in"]["w"] + params["in"]["b"][None])
        return hidden @ params["out"]["w"], stats

    return jt.from_functions(init, apply, name="by-hand", shape=(3,), symmetry=symmetry)


BY_HAND = {"in/w": (None, "units"), "in/b": ("units",), "out/w": ("units", None)}


def test_a_custom_symmetry():
    net = _mlp()
    a = net.init(jax.random.key(0))
    order = random(net, 2, symmetry=BY_HAND)
    assert order.keys() == {"units"}
    b = permuted(net, a, order, symmetry=BY_HAND)
    found = align(net, a, b, symmetry=BY_HAND)
    same(found.params, a[0])
    # a leaf with the same units on both axes: the assignment is only a guess, and checked
    tied = {"in/w": ("units", "units")}
    square = jt.from_functions(
        lambda key: ({"in": {"w": jax.random.normal(key, (6, 6))}}, {}),
        lambda params, stats, x, *, train: (jnp.trace(params["in"]["w"]) * x, stats),
        name="square",
        shape=(2,),
    )
    for seed in range(4):
        pair = [square.init(jax.random.key(i)) for i in (seed, seed + 50)]
        found = align(square, *pair, symmetry=tied)
        assert all(np.diff(found.objectives) >= 0)


@pytest.mark.parametrize("stated", [BY_HAND, lambda net: BY_HAND], ids=["dict", "function"])
def test_networks_can_define_their_symmetry(stated):
    net = _mlp(stated)
    a = net.init(jax.random.key(0))
    assert perms.symmetry(net) == BY_HAND
    b = permuted(net, a, random(net, 2))
    assert not np.array_equal(b[0]["in"]["w"], a[0]["in"]["w"])
    same(align(net, a, b).params, a[0])
    with pytest.raises(ValueError, match="random permutations change its logits"):
        align(_mlp({"in/w": (None, "units")}), a, b)


class Chain(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6, name="dense_0")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="dense_1")(x)


def test_a_module_can_reuse_the_symmetry_of_a_family():
    net = jt.from_linen(Chain(), (2, 2, 1), name="chain", symmetry=chain)
    assert perms.symmetry(net) == perms.symmetry(nets.lenet((2, 2, 1), 3, (6,)))


def test_errors_of_symmetries():
    net = _mlp()
    a = net.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"`net`: .* 'from_functions' .* make it with `symmetry`"):
        align(net, a, a)
    with pytest.raises(ValueError, match=r"`net`: .* 'inception_v3'"):
        perms.symmetry(nets.inception_v3((96, 96, 3), 10, width=0.1))
    with pytest.raises(ValueError, match=r"`net` has norm='group'.*'batch' or 'none'"):
        perms.symmetry(nets.resnet14(SMALL, 3, norm="group", width=0.5))

    def wrong(message, **changes):
        given = {**BY_HAND, **{path.replace("__", "/"): axes for path, axes in changes.items()}}
        with pytest.raises(ValueError, match=message):
            align(net, a, a, symmetry=given)

    wrong("unknown path 'in/v'; did you mean 'in/w'", in__v=(None, None))
    wrong("2 entries for 'in/b', which has shape", in__b=("units", None))
    wrong("'units' 2 units in .* and 5 elsewhere", out__w=("units", "units"))
    wrong("distinct places from 0 to 4 .* 'in/b'", in__b=({"units": [0, 1, 2, 3, 5]},))
    wrong("distinct places", in__b=({"units": [0, 1], "others": [1, 2]},))
    # all fits, but the bias stays behind while its units move
    a[0]["in"]["b"] = jnp.arange(5.0)
    wrong("`symmetry` is not one of this network: .* change its logits", in__b=(None,))
    clash = jt.from_functions(
        lambda key: ({"w": jnp.ones((3, 2))}, {"w": jnp.ones(2)}),
        lambda params, stats, x, *, train: (x @ params["w"], stats),
        name="clash",
        shape=(3,),
    )
    with pytest.raises(ValueError, match="same path 'w'; give them different names"):
        perms.places(clash, {})


def test_errors_of_permutations_and_networks():
    net = NETS["lenet"]
    a = drawn(net, 0)
    with pytest.raises(ValueError, match="`permutations` has the unknown 'dense_3'"):
        perms.permute(net, a[0], {"dense_3": np.arange(3)})
    with pytest.raises(ValueError, match=r"each of 0 to 5 once for 'dense_1', got \[0, 0"):
        perms.permute(net, a[0], {"dense_1": np.zeros(6, int)})
    with pytest.raises(ValueError, match="`tree` must have the paths and shapes"):
        perms.permute(net, {"dense_0": a[0]["dense_0"]}, {})
    stacked = jax.tree.map(lambda x: x[None], a[0])
    with pytest.raises(ValueError, match=r"`b` must have .* \(1, 8\) .* where .* \(8,\).*replica"):
        align(net, a, (stacked, {}))
    with pytest.raises(ValueError, match="`a` must have"):
        align(net, (a[0], {"mean": np.ones(3)}), a)
    lost = jax.tree.map(np.copy, a)
    lost[0]["dense_1"]["kernel"][0, 0] = np.nan
    with pytest.raises(ValueError, match=r"`b` has weights that are not finite.*dense_1/kernel"):
        align(net, a, lost)
    with pytest.raises(ValueError, match=r"`restarts` is 2, .* `key`"):
        align(net, a, a, restarts=2)
    with pytest.raises(ValueError, match="`restarts` must be a whole number"):
        align(net, a, a, restarts=0)
    with pytest.raises(ValueError, match="`max_rounds` must be a whole number"):
        align(net, a, a, max_rounds=0)
