"""Networks: LeNet in numbers, and users' own Linen, NNX and plain networks trained and pruned."""

import functools
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from flax import nnx

import jaxticket as jt
from jaxticket import masks
from jaxticket.nn import INITIALIZERS

SHAPE = (2, 4, 1)


@functools.cache
def tiny_data():
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    x = (rng.normal(size=(24, *SHAPE)) + y[:, None, None, None]).astype(np.float32)
    return jt.data.from_arrays(x, y, x[:8], y[:8], name="tiny")


@functools.cache
def lenet_params():
    return jt.networks.lenet().init(jax.random.key(0))


def test_lenet_300_100_has_the_counts_of_the_sources():
    net = jt.networks.lenet()
    params, stats = lenet_params()
    assert trees.size(params) == 266_610
    assert masks.prunable_size(net.mask()) == 266_200
    assert not jax.tree.leaves(stats)
    assert net.output == "dense_2" and net.shape == (28, 28, 1) and net.classes == 10
    shapes = {
        path: x.shape for path, x in zip(trees.paths(params), jax.tree.leaves(params), strict=True)
    }
    assert shapes["dense_0/kernel"] == (784, 300) and shapes["dense_2/bias"] == (10,)


def test_lenet_starts_from_glorot_and_zero():
    params, _ = lenet_params()
    for i, (fan_in, fan_out) in enumerate([(784, 300), (300, 100), (100, 10)]):
        layer = params[f"dense_{i}"]
        assert not np.asarray(layer["bias"]).any()
        std = np.sqrt(2 / (fan_in + fan_out))
        kernel = np.asarray(layer["kernel"]) / std
        # 5 sigma of an estimate of the deviation of n normal numbers
        assert abs(kernel.std() - 1) < 5 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 5 / np.sqrt(kernel.size)
    # untruncated: of 235,200 normals some lie beyond 3 sigma, where a truncated one ends at 2.3
    first = np.asarray(params["dense_0"]["kernel"]) / np.sqrt(2 / 1084)
    assert abs((np.abs(first) > 3).mean() - 0.0027) < 5 * np.sqrt(0.0027 / first.size)


def test_seeds_draw_other_weights():
    net = jt.networks.lenet(SHAPE, 3, (6,))
    a, again, b = (net.init(jax.random.key(s))[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(a["dense_0"]["kernel"], again["dense_0"]["kernel"])
    assert not np.array_equal(a["dense_0"]["kernel"], b["dense_0"]["kernel"])
    assert not np.array_equal(a["dense_0"]["kernel"][:3, :3], a["dense_1"]["kernel"][:3, :3])


def test_lenet_is_what_numpy_computes():
    net = jt.networks.lenet(SHAPE, 3, (6, 5))
    params, stats = net.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x + jnp.float32(0.1), params)  # biases too
    x = np.random.default_rng(1).normal(size=(7, *SHAPE)).astype(np.float32)
    seen = {}

    def tap(name, value):
        seen[name] = np.asarray(value)
        return value

    with jax.default_matmul_precision("highest"):
        logits, after = net.apply(params, stats, x, train=False, tap=tap)
        silent, _ = net.apply(params, stats, x, train=True)
    h, hidden = x.reshape(7, -1).astype(np.float64), []
    for i in range(3):
        layer = jax.tree.map(np.asarray, params[f"dense_{i}"])
        h = h @ layer["kernel"].astype(np.float64) + layer["bias"]
        h = np.maximum(h, 0) if i < 2 else h
        hidden.append(h)
    np.testing.assert_allclose(logits, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(logits, silent)
    assert after == stats
    assert list(seen) == ["dense_0", "dense_1", "dense_2"]
    for i in range(3):
        np.testing.assert_allclose(seen[f"dense_{i}"], hidden[i], rtol=1e-5, atol=1e-6)


def test_taps_replace_what_they_see():
    net = jt.networks.lenet(SHAPE, 3, (6,))
    params, stats = net.init(jax.random.key(0))
    x = jnp.ones((2, *SHAPE))
    halved = lambda name, v: v * jnp.float32(0.5) if name == "dense_1" else v  # noqa: E731
    plain, _ = net.apply(params, stats, x, train=False)
    tapped, _ = net.apply(params, stats, x, train=False, tap=halved)
    np.testing.assert_array_equal(tapped, plain * jnp.float32(0.5))


def test_lenet_resized():
    wide = jt.networks.lenet(SHAPE, 3, (6, 5)).resized(2)
    assert wide == jt.networks.lenet(SHAPE, 3, (12, 10))
    assert jt.networks.lenet(SHAPE, 3, (6, 5)).resized(0.01) == jt.networks.lenet(SHAPE, 3, (1, 1))
    with pytest.raises(ValueError, match="`width` must be a finite number above 0"):
        wide.resized(0)


def test_equal_networks_are_equal_and_hash_alike():
    make = functools.partial(jt.networks.lenet, SHAPE, 3)
    assert make((6,)) == make([6]) and hash(make((6,))) == hash(make([6]))
    others = [make((7,)), make((6,), init="kaiming_normal"), jt.networks.lenet(SHAPE, 4, (6,))]
    assert len({make((6,)), *others}) == 4
    assert make((6,)) != "lenet"
    assert json.loads(make((6,)).config) == {
        "constructor": "lenet",
        "shape": [2, 4, 1],
        "classes": 3,
        "widths": [6],
        "init": "glorot_normal",
    }


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": 0}, "`classes` must be a whole number"),
        ({"widths": (6, 0)}, "`widths` must be a whole number"),
        ({"widths": (6.0,)}, "`widths` must be a whole number"),
        ({"init": "glorot"}, "`init` is unknown: 'glorot'; did you mean 'glorot_normal'"),
        ({"shape": ()}, "`shape` must be the shape of one example"),
        ({"shape": (2, 0, 1)}, "`shape` must be the shape of one example"),
    ],
    ids=["classes", "width", "float_width", "init", "no_shape", "empty_shape"],
)
def test_lenet_errors(options, message):
    with pytest.raises(ValueError, match=message):
        jt.networks.lenet(**{"shape": SHAPE, "classes": 3, **options})


class Normed(nn.Module):
    """BatchNorm that can be told the mesh axis, and dropout."""

    axis_name: str | None = None
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, *, train: bool):
        x = nn.Dense(6)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, momentum=0.9)(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
        return nn.Dense(3)(x)


class NormedAlone(nn.Module):
    """BatchNorm without an `axis_name` field, told by `use_running_average`."""

    @nn.compact
    def __call__(self, x, *, use_running_average: bool):
        x = nn.Dense(6)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(nn.BatchNorm(use_running_average=use_running_average)(x))


class Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(8, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.first(x.reshape(x.shape[0], -1)))
        return self.last(self.drop(jax.nn.relu(x)))


def plain_init(key):
    first, second = jax.random.split(key)
    params = [
        {"w": jax.random.normal(first, (8, 6)) * jnp.float32(0.3), "b": jnp.zeros(6)},
        {"w": jax.random.normal(second, (6, 3)) * jnp.float32(0.3), "b": jnp.zeros(3)},
    ]
    return params, {}


def plain_apply(params, stats, x, *, train):
    del train
    h = jnp.tanh(x.reshape(x.shape[0], -1) @ params[0]["w"] + params[0]["b"][None])
    return h @ params[1]["w"] + params[1]["b"][None], stats


MAKERS: dict[str, Any] = {
    "lenet": lambda: jt.networks.lenet(SHAPE, 3, (6,)),
    "linen": lambda: jt.from_linen(Normed(), SHAPE, name="normed"),
    "linen_no_axis": lambda: jt.from_linen(NormedAlone(), SHAPE, name="alone"),
    "nnx": lambda: jt.from_nnx(Nnx, SHAPE, name="nnx"),
    "functions": lambda: jt.from_functions(plain_init, plain_apply, name="plain", shape=SHAPE),
}
OUTPUTS = {
    "lenet": "dense_1",
    "linen": "Dense_1",
    "linen_no_axis": "Dense_1",
    "nnx": "last",
    "functions": "1",
}
TRAINING = jt.Training(steps=4, batch_size=8, lr=0.05, eval_every=4)
PRUNING = jt.Pruning(levels=1, fraction=0.5)


def search(net, training=TRAINING, **options):
    options = {"seeds": range(2), "progress": False, **options}
    return jt.find_tickets(net, tiny_data(), training, PRUNING, **options)


@pytest.mark.parametrize("name", MAKERS)
def test_networks_of_every_kind_are_trained_and_pruned(name):
    net = MAKERS[name]()
    assert net.output == OUTPUTS[name]
    runs = search(net)
    table = runs.table()
    assert np.isfinite(table["value"]).all()
    assert set(table["density"]) == {1.0, 0.5}
    ticket = jax.tree.map(lambda x: x[1, 1], runs.tickets)
    kept = int(masks.kept(ticket.mask))
    assert kept == round(0.5 * (8 * 6 + 6 * 3)) == 33
    loss = table[(table.split == "train") & (table.metric == "loss") & (table.level == 0)]
    assert len(loss) > 0


@pytest.mark.parametrize("name", MAKERS)
def test_biases_and_statistics_are_not_prunable(name):
    net = MAKERS[name]()
    params, _ = net.shapes
    prunable = jax.tree.leaves(net.prunable(params))
    assert all(type(p) is bool for p in prunable)
    shapes = [x.shape for x, p in zip(jax.tree.leaves(params), prunable, strict=True) if p]
    assert sorted(shapes) == [(6, 3), (8, 6)]


@pytest.mark.parametrize("name", ["linen", "linen_no_axis", "nnx"])
def test_statistics_move_in_training_only(name):
    net = MAKERS[name]()
    params, stats = net.init(jax.random.key(0))
    x = np.random.default_rng(3).normal(size=(16, *SHAPE)).astype(np.float32) + 2
    run = functools.partial(net.apply, params, stats, x, key=jax.random.key(7))
    logits, after = run(train=True)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(after), strict=True)
    ]
    assert all(moved) and len(moved) == 2
    once, kept = run(train=False)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), kept, stats))
    assert not np.allclose(logits, once)
    # the running mean moves by a tenth (or hundredth) of the batch's
    layer = params["first" if name == "nnx" else "Dense_0"]
    batch = x.reshape(16, -1) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    mean = next(
        a for p, a in zip(trees.paths(after), jax.tree.leaves(after), strict=True) if "mean" in p
    )
    share = 0.01 if name == "linen_no_axis" else 0.1
    np.testing.assert_allclose(mean, share * batch.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_dropout_is_a_function_of_the_key(name):
    net = MAKERS[name]()
    params, stats = net.init(jax.random.key(0))
    x = np.random.default_rng(3).normal(size=(16, *SHAPE)).astype(np.float32)
    run = lambda seed, train: np.asarray(  # noqa: E731
        net.apply(params, stats, x, train=train, key=jax.random.key(seed))[0]
    )
    np.testing.assert_array_equal(run(0, True), run(0, True))
    assert not np.array_equal(run(0, True), run(1, True))
    np.testing.assert_array_equal(run(0, False), run(1, False))


def test_the_axis_name_reaches_a_linen_module():
    """Half batches on two devices give the statistics and logits of the whole batch."""
    net = jt.from_linen(Normed(dropout=0.0), SHAPE, name="normed")
    params, stats = net.init(jax.random.key(0))
    x = np.random.default_rng(3).normal(size=(2, 8, *SHAPE)).astype(np.float32)
    split = functools.partial(net.apply, params, stats, train=True, axis_name="data")
    logits, after = jax.vmap(lambda x: split(x), axis_name="data")(x)
    whole, expected = net.apply(params, stats, x.reshape(16, *SHAPE), train=True)
    np.testing.assert_allclose(np.asarray(logits).reshape(16, 3), whole, rtol=1e-4, atol=1e-5)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linen_no_axis", "nnx"])
def test_statistics_that_cannot_be_averaged_refuse_a_data_axis(name):
    net = MAKERS[name]()
    assert not net.syncs_stats
    with pytest.raises(ValueError, match=r"`mesh` has a data axis of 2.*`axis_name`"):
        search(net, mesh=jt.parallel.mesh(data=2))


@pytest.mark.parametrize("name", ["linen", "functions"])
def test_a_data_axis_where_statistics_can_be_averaged_or_are_none(name):
    quiet = {"linen": lambda: jt.from_linen(Normed(dropout=0.0), SHAPE, name="quiet")}
    net = {**MAKERS, **quiet}[name]()
    assert net.syncs_stats
    # not Adam: it divides the gradient of a bias before BatchNorm, all rounding error, by itself
    training = TRAINING.replace(optimizer="momentum", lr=0.1)
    runs = search(net, training, mesh=jt.parallel.mesh(data=2))
    alone = search(net, training)
    np.testing.assert_allclose(runs.table()["value"], alone.table()["value"], rtol=1e-4, atol=1e-5)


def test_own_choice_of_what_is_prunable():
    """Networks that differ in this alone differ: programs and folders tell them apart."""
    first_only = lambda params: {  # noqa: E731
        name: {"bias": False, "kernel": name == "Dense_0"}
        if "Dense" in name
        else jax.tree.map(lambda _: False, layer)
        for name, layer in params.items()
    }
    default = jt.from_linen(NormedAlone(), SHAPE, name="alone")
    own = jt.from_linen(NormedAlone(), SHAPE, name="alone", prunable=first_only)
    assert own.output == default.output == "Dense_1"
    assert own != default
    assert own.config != default.config
    assert own == jt.from_linen(NormedAlone(), SHAPE, name="alone", prunable=first_only)
    for net, total in ((default, 66), (own, 48)):
        mask = jax.tree.map(lambda x: x[1, 0], search(net).tickets.mask)
        kept = masks.kept(mask)
        assert int(kept) == total // 2


def test_networks_of_other_source_are_not_equal():
    """Equal networks share compiled programs, so the code counts and not only the name."""
    make = functools.partial(jt.from_functions, name="plain", shape=SHAPE)

    def other(params, stats, x, *, train):
        logits, stats = plain_apply(params, stats, x, train=train)
        return logits * jnp.float32(2), stats

    assert make(plain_init, plain_apply) == make(plain_init, plain_apply)
    assert make(plain_init, plain_apply) != make(plain_init, other)
    linen = functools.partial(jt.from_linen, shape=SHAPE, name="normed")
    assert linen(Normed()) == linen(Normed())
    assert linen(Normed()) != linen(Normed(dropout=0.1))
    assert jt.from_nnx(Nnx, SHAPE, name="a") != jt.from_nnx(Nnx, SHAPE, name="b")


def test_networks_without_taps_and_widths_say_so():
    for name in ("linen", "nnx", "functions"):
        net = MAKERS[name]()
        params, stats = net.init(jax.random.key(0))
        with pytest.raises(ValueError, match=r"`tap`: network .* has no taps"):
            net.apply(params, stats, jnp.ones((2, *SHAPE)), train=False, tap=lambda name, x: x)
        with pytest.raises(ValueError, match=r"`resized\(2\)`: this network has no width"):
            net.resized(2)


def test_functions_get_what_they_ask_for():
    seen = {}

    def apply(params, stats, x, *, train, key, tap):
        seen.update(key=key, tap=tap)
        return plain_apply(params, stats, x, train=train)

    net = jt.from_functions(plain_init, apply, name="asks", shape=SHAPE)
    params, stats = plain_init(jax.random.key(0))
    net.apply(params, stats, jnp.ones((1, *SHAPE)), train=True, key=5, axis_name="d", tap="t")
    assert seen == {"key": 5, "tap": "t"}


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: jt.from_functions(
                plain_init,
                lambda p, s, x, *, train: (jnp.zeros(x.shape[0]), s),
                name="deep",
                shape=SHAPE,
            ),
            r"`apply` of network 'deep' must give logits of shape \[batch, ..., classes\]",
        ),
        (
            lambda: jt.from_functions(
                plain_init,
                lambda p, s, x, *, train: (jnp.zeros((1, 3)), s),
                name="one",
                shape=SHAPE,
            ),
            r"must give logits of shape \[batch, ..., classes\], got \(1, 3\) for a batch of 2",
        ),
        (
            lambda: jt.from_functions(
                lambda key: ({"w": jnp.zeros((8, 3), jnp.int32)}, {}),
                plain_apply,
                name="whole",
                shape=SHAPE,
            ),
            "`init` of network 'whole' gives params of type int32",
        ),
        (lambda: jt.from_linen(Normed(), (), name="n"), "`shape` must be the shape"),
        (lambda: jt.from_nnx(Nnx, (0,), name="n"), "`shape` must be the shape"),
    ],
    ids=["rank", "batch", "integer", "linen_shape", "nnx_shape"],
)
def test_networks_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "net, message",
    [
        (
            lambda: jt.networks.lenet((4, 2, 1), 3, (6,)),
            r"`net` takes examples of shape \(4, 2, 1\)",
        ),
        (lambda: jt.networks.lenet(SHAPE, 2, (6,)), "`net` has 2 logits but `data` 'tiny' has 3"),
    ],
    ids=["shape", "classes"],
)
def test_networks_that_do_not_fit_the_data_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        search(net())


@pytest.mark.parametrize(
    "name",
    # tracing these deep ones takes longest; counts, taps and shapes are checked in test_zoo.py
    [
        pytest.param(n, marks=pytest.mark.slow if n in ("resnet110", "inception_v3") else [])
        for n in jt.NETWORKS
    ],
)
def test_every_named_network(name):
    shape, classes = (75, 75, 1) if name == "inception_v3" else (32, 32, 1), 7
    net = jt.NETWORKS[name](shape, classes)
    params, stats = net.shapes
    x = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
    names = []

    def tap(name, value):
        names.append(name)
        return value

    run = functools.partial(net.apply, key=jax.random.key(0), tap=tap)
    for train in (False, True):
        logits, after = jax.eval_shape(functools.partial(run, train=train), params, stats, x)
        assert logits.shape == (4, classes) and logits.dtype == jnp.float32
        assert jax.tree.structure(after) == jax.tree.structure(stats)
    assert net.output in names, "the output layer is tapped"
    assert len(set(names)) * 2 == len(names), "each tap has a name of its own"
    assert any(path.startswith(f"{net.output}/") for path in trees.paths(params))
    constructor = json.loads(net.config)["constructor"]
    # a name of fixed depth records its constructor and arguments
    made_by = getattr(jt.NETWORKS[name], "func", jt.NETWORKS[name])
    assert made_by is getattr(jt.networks, constructor)
    assert net == jt.NETWORKS[name](shape, classes)
    assert net.shape == shape and net.classes == classes
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    x16 = jax.ShapeDtypeStruct((4, *shape), jnp.bfloat16)
    logits, _ = jax.eval_shape(functools.partial(net.apply, train=False), half, stats, x16)
    assert logits.dtype == jnp.bfloat16


FANS = {
    # kernels of shape (3, 3, 16, 64): fan_in 144, fan_out 576
    "glorot_normal": 2 / (144 + 576),
    "xavier_normal": 2 / (144 + 576),
    "kaiming_normal": 2 / 144,
    "kaiming_normal_fan_out": 2 / 576,
    "signed_constant": 2 / 144,
    "orthogonal": 1 / 144,
}


@pytest.mark.parametrize("name", INITIALIZERS)
def test_initializers_have_the_deviation_of_their_formula(name):
    kernel = np.asarray(INITIALIZERS[name](jax.random.key(0), (3, 3, 16, 64), jnp.float32))
    scaled = kernel / np.sqrt(FANS[name])
    assert abs(scaled.mean()) < 5 / np.sqrt(kernel.size)
    assert abs(scaled.std() - 1) < 5 / np.sqrt(2 * kernel.size)
    if name == "orthogonal":
        # one column per output, orthonormal: 64 columns of 144 numbers
        np.testing.assert_allclose(
            kernel.reshape(144, 64).T @ kernel.reshape(144, 64), np.eye(64), atol=1e-5
        )
    elif name == "signed_constant":
        np.testing.assert_allclose(np.abs(scaled), 1, rtol=1e-6)
    else:
        beyond = (np.abs(scaled) > 2.5).mean()
        assert abs(beyond - 0.0124) < 5 * np.sqrt(0.0124 / kernel.size), "not truncated"


def test_equal_networks_are_traced_once_and_share_no_containers():
    calls = []

    def init(key):
        calls.append(1)
        return {"w": jnp.zeros((4, 2))}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1) @ params["w"], stats

    nets = [jt.from_functions(init, apply, name="counted", shape=(2, 2, 1)) for _ in range(2)]
    traced = len(calls)
    first = nets[0].shapes
    assert len(calls) - traced <= 1, "one trace for the network itself"
    traced = len(calls)
    first[0]["w"] = None
    assert nets[1].shapes[0]["w"].shape == (4, 2), "callers get containers of their own"
    assert len(calls) == traced
    assert nets[0].shapes[0]["w"].dtype == jnp.float32
    with jax.enable_x64(True):
        assert nets[0].shapes[0]["w"].dtype == jnp.float64
    assert len(calls) == traced + 1, "64-bit numbers are traced of their own"


def test_networks_know_their_taps_and_prunable_leaves():
    net = jt.networks.lenet((4, 4, 1), 3, (5,))
    assert net.tapped
    assert not jt.from_functions(
        net.init,
        lambda p, s, x, *, train: net.apply(p, s, x, train=train),
        name="deaf",
        shape=(4, 4, 1),
    ).tapped
    kernels = {"kernel": True, "bias": False}
    assert net.prunable_leaves() == {"dense_0": kernels, "dense_1": kernels}
    assert not net.prunable_leaves(("dense_1",))["dense_1"]["kernel"]
    with pytest.raises(ValueError, match="matches no weight"):
        net.prunable_leaves(("dense_7",))
    with pytest.raises(ValueError, match="leaves nothing"):
        net.prunable_leaves(("*",))
