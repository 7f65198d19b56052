"""Kinds of layers in networks of one's own: each trains, prunes, and is counted as by hand."""

import functools
import math
import pickle
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from flax import nnx

import jaxticket as jt
from jaxticket.nn.drop_in import conv_general_dilated, native_because
from jaxticket.nn.flops import forward, kernels
from jaxticket.pruning.layouts import layers_of

SHAPE = (4, 4, 2)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, *SHAPE)).astype(np.float32), np.arange(48) % 3
DATA = jt.data.from_arrays(X, Y, X[:12], Y[:12], name="noise")
TRAINING = jt.Training(steps=4, batch_size=8, eval_every=4, lr=0.1)
KEY, BATCH = jax.random.key(0), jnp.asarray(X[:8])


def trained(net, seeds=(0,), **options):
    return jt.find_tickets(
        net, DATA, TRAINING, jt.Pruning(levels=1, fraction=0.5), seeds=seeds, progress=False,
        **options,
    )  # fmt: skip


def flat(x):
    return x.reshape(x.shape[0], -1)


def linen(body, shape=SHAPE, **options):
    module = type("Own", (nn.Module,), {"__call__": nn.compact(body)})()
    return jt.from_linen(module, shape, name="own", **options)


# --- floating-point operations and densities against counts by hand


def grouped(self, x):
    x = nn.Conv(6, (3, 3), feature_group_count=2, name="grouped")(x)  # 16 places, 1 -> 3, twice
    x = nn.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x)
    x = nn.ConvTranspose(5, (2, 2), strides=(2, 2), name="up")(x)  # every pixel meets 2 x 2 places
    return nn.Dense(3, name="last")(x.mean((1, 2)))


def attention(self, x):
    x = x.reshape(x.shape[0], 8, 4)  # 8 positions of 4
    x = x + nn.MultiHeadDotProductAttention(2, qkv_features=6, name="attention")(nn.LayerNorm()(x))
    return nn.Dense(3, name="last")(nn.RMSNorm()(x).mean(1))


def embedding(self, x):
    return nn.Dense(3, name="last")(nn.Embed(7, 5, name="embed")(x).mean(1))


COUNTS = {
    "grouped": (
        grouped,
        {"grouped": 16 * 9 * 6, "depthwise": 16 * 9 * 6, "up": 16 * 4 * 6 * 5, "last": 15},
        0,
    ),
    # queries, keys and values, products of all pairs and of all pairs with values, the output
    "attention": (
        attention,
        {f"attention/{part}": 8 * 24 for part in ("query", "key", "value", "out")} | {"last": 12},
        2 * 8 * 8 * 6,
    ),
    "embedding": (embedding, {"embed": 0, "last": 15}, 0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_operations_are_those_counted_by_hand(name):
    body, layers, others = COUNTS[name]
    tokens = name == "embedding"
    net = linen(
        body,
        (6,) if tokens else SHAPE,
        dtype="int32" if tokens else "float32",
        prunable=["*/kernel", "*/embedding"] if tokens else ["*/kernel"],
    )
    found = {k.path.rsplit("/", 1)[0]: k.positions * math.prod(k.shape) for k in kernels(net)}
    assert found == layers
    assert forward(net) == 2 * (sum(layers.values()) + others)
    # layouts see every leaf once; the mask of a layout keeps exactly the count
    sizes = {layer.path: layer.size for layer in layers_of(net)}
    shapes = trees.leaves(net.shapes[0])
    assert sizes == {p: math.prod(shapes[p].shape) for p in sizes}
    for layout in ("erk", "uniform"):
        counts = jt.LAYOUTS[layout](layers_of(net), 0.5)
        assert counts.sum() == round(0.5 * sum(sizes.values()))
    frame = jt.layers.layers(net, net.mask())
    assert frame["flops"].to_numpy().sum() == 2 * sum(layers.values())


class Tied(nn.Module):
    """The embedding is the output layer too."""

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(7, 8, name="embed")
        return embed.attend(nn.tanh(nn.Dense(8, name="hidden")(embed(x)))[:, -1])


class TiedNnx(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.hidden = nnx.Embed(7, 8, rngs=rngs), nnx.Linear(8, 8, rngs=rngs)
        self.same = self.hidden

    def __call__(self, x):
        return self.embed.attend(jnp.tanh(self.same(self.hidden(self.embed(x))))[:, -1])


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_shared_weights_are_one_leaf(kind):
    options = {"name": "tied", "dtype": "int32", "prunable": ["*/kernel", "*/embedding"]}
    net = {
        "linen": lambda: jt.from_linen(Tied(), (6,), **options),
        "nnx": lambda: jt.from_nnx(TiedNnx, (6,), **options),
    }[kind]()
    twice = 1 + (kind == "nnx")
    assert [(k.path, k.positions) for k in kernels(net)] == [
        ("hidden/kernel", 6 * twice),
        ("embed/embedding", 1),
    ]
    assert [(a.path, a.size) for a in layers_of(net)] == [
        ("embed/embedding", 56),
        ("hidden/kernel", 64),
    ]
    assert jt.layers.cost(net)["params"] == 56 + 64 + 8
    # the default leaves the embedding alone
    other = jt.from_linen(Tied(), (6,), name="tied", dtype="int32")
    assert [a.path for a in layers_of(other)] == ["hidden/kernel"]


# --- collections, arguments, metadata, outputs


class Several(nn.Module):
    """A spectral norm, statistics under another name, own rng streams, a sown value, an aux."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.SpectralNorm(nn.Dense(6))(flat(x), update_stats=train)
        mean = self.variable("memory", "mean", jnp.zeros, (6,))
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
            x = x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape)
            x = jnp.where(jax.random.bernoulli(self.make_rng("drop"), 0.9, x.shape), x, 0.0)
        self.sow("intermediates", "x", x)
        x = x - mean.value[None]
        return nn.Dense(3)(x), {"hidden": x}


def first(returned):
    return returned[0]


def test_collections_streams_and_outputs_by_name():
    net = jt.from_linen(Several(), SHAPE, name="several", outputs=first)
    params, stats = net.init(KEY)
    assert set(stats) == {"batch_stats", "memory"}
    logits, after = net.apply(params, stats, BATCH, train=True, key=KEY)
    assert logits.shape == (8, 3) and jnp.any(after["memory"]["mean"] != 0)
    assert np.isfinite(trained(net).table()["value"]).all()
    assert pickle.loads(pickle.dumps(net)).config == net.config
    # another selection is another network
    assert net != jt.from_linen(Several(), SHAPE, name="several", outputs=lambda r: r[0])


@pytest.mark.parametrize("graph", [True, False], ids=["graph", "tree"])
def test_both_modes_of_nnx(graph):
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.a, self.norm = nnx.Linear(32, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs)
            self.drop, self.b = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x, train):
            assert nnx.set_graph_mode.current_value() is graph
            x = self.drop(self.norm(self.a(flat(x))), deterministic=not train)
            return self.b(x), x

    with nnx.set_graph_mode(graph):
        net = jt.from_nnx(Own, SHAPE, name="own", outputs=first)
    # in the mode in which it was made, whichever is set later
    params, stats = net.init(KEY)
    one, other = (
        net.apply(params, stats, BATCH, train=True, key=jax.random.key(k))[0] for k in (1, 2)
    )
    assert jnp.any(one != other)
    one, other = (net.apply(params, stats, BATCH, train=False)[0] for _ in range(2))
    assert jnp.array_equal(one, other)


def test_shared_modules_in_tree_mode_are_refused_by_nnx():
    with nnx.set_graph_mode(False), pytest.raises(ValueError, match=r"Tree mode .* shared"):
        jt.from_nnx(TiedNnx, (6,), name="tied", dtype="int32")


def test_metadata_of_partitioning_is_refused():
    start = nn.with_partitioning(nn.initializers.lecun_normal(), ("in", "out"))
    with pytest.raises(ValueError, match=r"'own' has params with metadata, a Partitioned"):
        linen(lambda self, x: nn.Dense(3, kernel_init=start, name="d")(flat(x)))


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match=r"`module` must be a flax\.linen\.Module"):
        jt.from_linen(Several, SHAPE, name="own")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`make` must be a function of nnx\.Rngs"):
        jt.from_nnx(TiedNnx(nnx.Rngs(0)), (6,), name="own", dtype="int32")  # type: ignore[arg-type]


def both_ways(self, x):
    x = x.reshape(x.shape[0], 4, 8)
    x = nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.OptimizedLSTMCell(4)))(x)
    return nn.Dense(3)(jnp.asarray(x)[:, -1])


def given_carry(self, x):
    x = x.reshape(x.shape[0], 4, 8).swapaxes(0, 1)
    start = jnp.zeros((x.shape[1], 5))
    x = jnp.asarray(nn.RNN(nn.GRUCell(8), time_major=True)(x))
    x = nn.RNN(nn.GRUCell(5), time_major=True)(x, initial_carry=start)
    return nn.Dense(3)(jnp.asarray(x)[-1])


def scanned(from_input):
    def body(self, x):
        x = nn.Dense(5)(x.reshape(x.shape[0], 4, 8))
        start = jnp.zeros((x.shape[0], 5)) + (0 * jnp.sum(x) if from_input else 0.0)
        last, _ = jax.lax.scan(lambda c, x: (jnp.tanh(c + x), None), start, x.swapaxes(0, 1))
        return nn.Dense(3)(last)

    return body


def test_loops_that_begin_with_a_constant_are_refused():
    with pytest.raises(ValueError, match=r"'own' has a loop .* first carry is a constant"):
        linen(scanned(False))
    assert linen(scanned(True)).classes == 3


@pytest.mark.parametrize("body", [both_ways, given_carry])
def test_recurrent_networks_begin_as_flax_has_it(body):
    """With the carry of the cell, or a constant."""
    net = linen(body)
    params, stats = net.init(KEY)
    module = type("Own", (nn.Module,), {"__call__": nn.compact(body)})()
    found = net.apply(params, stats, BATCH, train=False)[0]
    np.testing.assert_array_equal(found, module.apply({"params": params}, BATCH))


@pytest.mark.slow
def test_recurrent_networks_are_trained_on_every_mesh():
    net = linen(both_ways)
    tables = [trained(net, mesh=jt.parallel.mesh(data=data)).table()["value"] for data in (1, 2)]
    np.testing.assert_allclose(*tables, rtol=1e-4)


# --- half precision


@pytest.mark.parametrize("kind", ["linen", "nnx", "functions"])
def test_master_weights_are_float32_and_add_up_small_updates(kind):
    def body(self, x):
        return nn.Dense(3, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, name="d")(flat(x))

    class Own(nnx.Module):
        def __init__(self, rngs):
            half = jnp.bfloat16
            self.d = nnx.Linear(32, 3, rngs=rngs, param_dtype=half, dtype=half)

        def __call__(self, x):
            return self.d(flat(x))

    def init(key):
        kernel = jax.random.normal(key, (32, 3), jnp.bfloat16)
        return {"d": {"kernel": kernel, "bias": jnp.zeros((1, 3), jnp.bfloat16)}}, {}

    def apply(params, stats, x, *, train):
        assert params["d"]["kernel"].dtype == jnp.bfloat16
        return flat(x).astype(jnp.bfloat16) @ params["d"]["kernel"] + params["d"]["bias"], stats

    net = {
        "linen": lambda: linen(body, master_weights=True),
        "nnx": lambda: jt.from_nnx(Own, SHAPE, name="own", master_weights=True),
        "functions": lambda: jt.from_functions(
            init, apply, name="own", shape=SHAPE, master_weights=True
        ),
    }[kind]()
    params, _ = net.init(KEY)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    # the same numbers as the module's
    kernel = trees.leaves(params)["d/kernel"]
    assert jnp.array_equal(kernel, kernel.astype(jnp.bfloat16).astype(jnp.float32))
    # updates below half a unit in the last place of bfloat16 are not lost
    training = TRAINING.replace(optimizer="sgd", lr=1e-5)
    both = (
        jt.find_tickets(
            net, DATA, training, jt.Pruning(levels=1, rewind=k), seeds=[0], progress=False
        ).ticket(0, 0).params
        for k in (0, 3)
    )  # fmt: skip
    before, after = (trees.leaves(tree)["d/kernel"] for tree in both)
    assert after.dtype == np.float32 and np.mean(before != after) > 0.8
    assert np.mean(before.astype(jnp.bfloat16) == after.astype(jnp.bfloat16)) > 0.9


def test_master_weights_of_float32_modules_mean_nothing():
    with pytest.raises(ValueError, match="`master_weights` is True, but no param of network 'own'"):
        linen(lambda self, x: nn.Dense(3)(flat(x)), master_weights=True)


# --- the fast convolution


CONVOLUTIONS = {
    "same": ({}, ""),
    "stride": ({"strides": (2, 1)}, ""),
    "valid": ({"padding": "VALID"}, ""),
    "explicit": ({"padding": ((0, 1), (2, 0))}, ""),
    "circular": ({"padding": "CIRCULAR"}, ""),
    "no bias": ({"use_bias": False}, ""),
    "groups": ({"feature_group_count": 2}, "it has 2 groups"),
    "dilation": ({"kernel_dilation": (2, 2)}, "its kernel is dilated"),
    "input dilation": (
        {"input_dilation": (2, 2), "padding": ((1, 1), (1, 1))},
        "its input is dilated",
    ),
    "precision": ({"precision": jax.lax.Precision.HIGHEST}, "its precision is set"),
}


def both(options, fast):
    """The same convolution as Linen and NNX modules, after one that can be swapped."""

    def body(self, x):
        x = nn.Conv(2, (1, 1), name="plain")(x)
        return nn.Dense(3, name="last")(nn.Conv(4, (3, 3), name="c", **options)(x).mean((1, 2)))

    class Own(nnx.Module):
        def __init__(self, rngs):
            self.plain = nnx.Conv(2, 2, (1, 1), rngs=rngs)
            self.c = nnx.Conv(2, 4, (3, 3), rngs=rngs, **options)
            self.last = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(self.c(self.plain(x)).mean((1, 2)))

    return (
        linen(body, fast_conv=fast),
        jt.from_nnx(Own, SHAPE, name="own", fast_conv=fast),
    )


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_the_fast_convolution_equals_flaxs_own(name):
    options, why = CONVOLUTIONS[name]
    native = both(options, False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = both(options, True)
    said = [str(w.message) for w in caught if "fast_conv" in str(w.message)]
    assert len(said) == (2 if why else 0)
    assert all(f"c ({why})" in text and "plain" not in text for text in said)
    for own, other in zip(native, fast, strict=True):
        assert own.config != other.config
        params, stats = own.init(KEY)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, params, other.init(KEY)[0]))

        def loss(params, net, stats=stats):
            return jnp.sum(net.apply(params, stats, BATCH, train=False)[0] ** 2)

        a, b = (jax.value_and_grad(loss)(params, net) for net in (own, other))
        jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-5), a, b)
        # the library's own primitive is in the program
        text = str(jax.make_jaxpr(loss, static_argnums=1)(params, other))
        assert text.count("jaxticket_convolution[") == (1 if why else 2)
        assert forward(own) == forward(other)


@functools.cache
def native_table():
    """Two seeds by the compiler's convolutions, on a device each."""
    return trained(both({"strides": 2}, False)[0], seeds=(0, 1)).table()


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)], ids=str)
def test_fast_convolutions_train_side_by_side(shape, vmap_replicas):
    """Vmapped on one device, and on two devices for each seed."""
    vmap_replicas()
    devices = jax.devices()[: math.prod(shape)]
    mesh = jt.parallel.mesh(shape[0], data=shape[1], devices=devices)
    found = trained(both({"strides": 2}, True)[0], seeds=(0, 1), mesh=mesh).table()
    np.testing.assert_allclose(found["value"], native_table()["value"], rtol=1e-4, atol=1e-5)


def test_fast_conv_without_convolutions_means_nothing():
    with pytest.raises(ValueError, match=r"`fast_conv` is True, .* no convolution .* no Conv"):
        linen(lambda self, x: nn.Dense(3)(flat(x)), fast_conv=True)
    with pytest.raises(ValueError, match=r"`fast_conv` is True, .*: c \(it has 2 groups\)"):
        linen(
            lambda self, x: nn.Conv(4, (3, 3), feature_group_count=2, name="c")(x).mean((1, 2)),
            fast_conv=True,
            prunable="c/kernel",
        )


def test_the_drop_in_takes_what_jax_takes():
    x, w = jnp.ones((2, 3, 5, 5)), jnp.ones((4, 3, 2, 2))
    args = (x, w, (1, 1), "SAME_LOWER")
    assert native_because(*args) == "its axes are not [batch, height, width, channels]"
    np.testing.assert_allclose(
        conv_general_dilated(*args), jax.lax.conv_general_dilated(*args), rtol=1e-5
    )
    layer = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0), conv_general_dilated=conv_general_dilated)
    same = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(
        layer(jnp.asarray(X[:2])), same(jnp.asarray(X[:2])), rtol=1e-5, atol=1e-6
    )


def test_what_is_pruned_is_said_once_at_the_start(capsys):
    net = jt.from_linen(Tied(), (6,), name="tied", dtype="int32")
    tokens = RNG.integers(0, 7, (48, 6))
    data = jt.data.from_arrays(tokens, tokens[:, -1], tokens[:12], tokens[:12, -1], name="tokens")
    for progress in (True, False):
        jt.find_tickets(net, data, TRAINING, jt.Pruning(levels=1), seeds=[0], progress=progress)
        captured = capsys.readouterr()
        line = "prunes 64 of 128 weights, in 1 of 2 layers; left out: embed/embedding, 1 bias"
        assert captured.err.splitlines().count(line) == progress
        assert captured.out == ""
