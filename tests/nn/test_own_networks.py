"""Networks of the user's own, as other projects' users report them: they train, or an error says
what is wrong.
"""

import pickle
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from flax import nnx

import jaxticket as jt
from jaxticket.random import stream

SHAPE = (2, 4, 1)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(48, *SHAPE)).astype(np.float32), np.arange(48) % 3
DATA = jt.data.from_arrays(X, Y, X[:12], Y[:12], name="noise")
TRAINING = jt.Training(steps=4, batch_size=8, eval_every=4, lr=0.1)
KEY = jax.random.key(0)


def trained(net, data=DATA, training=TRAINING, **options):
    return jt.find_tickets(
        net, data, training, jt.Pruning(levels=1), progress=False, **({"seeds": [0]} | options)
    )


def linen(body, **fields):
    """A Linen module whose __call__ is `body`."""
    return type("Own", (nn.Module,), {"__call__": nn.compact(body), **fields})()


def flat(x):
    return x.reshape(x.shape[0], -1)


# --- types, collections, rng streams, outputs


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["linen", "nnx", "functions"])
def test_params_of_half_precision_are_refused(kind, dtype):
    def make(rngs):
        class Own(nnx.Module):
            def __init__(self):
                self.dense = nnx.Linear(8, 3, rngs=rngs, param_dtype=dtype)

            def __call__(self, x):
                return self.dense(flat(x))

        return Own()

    def init(key):
        return {"kernel": jnp.zeros((8, 3), dtype)}, {}

    def apply(params, stats, x, *, train):
        return flat(x) @ params["kernel"].astype(x.dtype), stats

    module = linen(lambda self, x: nn.Dense(3, param_dtype=dtype, name="d")(flat(x)))
    with (
        pytest.raises(ValueError, match=rf"network 'own' gives params of type {dtype}, at '"),
        jax.numpy_dtype_promotion("standard"),
    ):
        {
            "linen": lambda: jt.from_linen(module, SHAPE, name="own"),
            "nnx": lambda: jt.from_nnx(make, SHAPE, name="own"),
            "functions": lambda: jt.from_functions(init, apply, name="own", shape=SHAPE),
        }[kind]()


class Sowing(nn.Module):
    collection: str = "losses"

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(6)(flat(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        self.sow(self.collection, "size", jnp.sum(x**2))
        return nn.Dense(3)(jax.nn.relu(x))


class Plain(Sowing):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(6)(flat(x))
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(jax.nn.relu(x))


@pytest.mark.parametrize("collection", ["losses", "intermediates"])
def test_what_a_module_sows_is_ignored(collection):
    net, plain = (jt.from_linen(m, SHAPE, name="own") for m in (Sowing(collection), Plain()))
    params, stats = net.init(KEY)
    assert list(stats) == ["batch_stats"]
    x = jnp.asarray(X[:4])
    own, other = (n.apply(params, stats, x, train=True, key=KEY) for n in (net, plain))
    assert jax.tree.structure(own) == jax.tree.structure(other)
    assert all(map(jnp.array_equal, jax.tree.leaves(own), jax.tree.leaves(other)))
    assert jnp.array_equal(*(n.apply(params, stats, x, train=False)[0] for n in (net, plain)))


def test_a_module_that_sows_trains():
    assert np.isfinite(trained(jt.from_linen(Sowing(), SHAPE, name="own")).table()["value"]).all()


@pytest.mark.filterwarnings("ignore:Using .Module.sow")
def test_what_an_nnx_module_sows_is_ignored():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            x = self.dense(flat(x))
            self.sow(nnx.Intermediate, "seen", x)
            self.sow(nnx.BatchStat, "other", x)
            return x

    net = jt.from_nnx(Own, SHAPE, name="own")
    params, stats = net.init(KEY)
    assert stats == {}
    assert net.apply(params, stats, jnp.ones((2, *SHAPE)), train=True, key=KEY)[1] == {}


def noisy(where):
    def body(self, x, train: bool = False):
        x = nn.Dense(3, name="d")(flat(x))
        if train or where == "always":
            x = x + jax.random.normal(self.make_rng("noise"), x.shape)
        return x

    return linen(body)


def test_every_rng_stream_draws_anew_for_each_key():
    net = jt.from_linen(noisy("train"), SHAPE, name="own")
    params, stats = net.init(KEY)
    x = jnp.ones((2, *SHAPE))
    one, same, other = (
        net.apply(params, stats, x, train=True, key=jax.random.key(k))[0] for k in (1, 1, 2)
    )
    assert jnp.array_equal(one, same) and not jnp.array_equal(one, other)
    assert np.isfinite(trained(net).table()["value"]).all()


def test_random_numbers_in_evaluation_are_refused_with_their_stream():
    with pytest.raises(ValueError, match=r"'own' draws random numbers in evaluation.*\"noise\""):
        jt.from_linen(noisy("always"), SHAPE, name="own")


def test_every_rng_stream_of_an_nnx_module_draws_anew():
    class Own(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.rngs, self.noisy = nnx.Linear(8, 3, rngs=rngs), rngs, False

        def train(self, **_):
            self.noisy = True

        def eval(self, **_):
            self.noisy = False

        def __call__(self, x):
            x = self.dense(flat(x))
            return x + jax.random.normal(self.rngs.noise(), x.shape) if self.noisy else x

    net = jt.from_nnx(Own, SHAPE, name="own")
    params, stats = net.init(KEY)
    x = jnp.ones((2, *SHAPE))
    one, other = (net.apply(params, stats, x, train=True, key=jax.random.key(k))[0] for k in (1, 2))
    assert not jnp.array_equal(one, other)
    assert jnp.array_equal(*(net.apply(params, stats, x, train=False)[0] for _ in range(2)))


def returning(make):
    def body(self, x, train: bool = False):
        return make(nn.Dense(3, name="d")(flat(x)))

    return linen(body)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: (x, jnp.sum(x)), r"\[batch, ..., classes\], got a tuple of 2; if the module"),
        (lambda x: {"logits": x}, r"\[batch, ..., classes\], got a dict of 1; if the module"),
        (lambda x: x[:, 0], r"\[batch, ..., classes\], got \(2,\) for a batch of 2"),
    ],
    ids=["tuple", "dict", "rank"],
)
def test_other_outputs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        jt.from_linen(returning(make), SHAPE, name="own")


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda p, s, x, *, train: flat(x) @ p["w"], r"must give \(logits, stats\), got a"),
        (
            lambda p, s, x, *, train: (flat(x) @ p["w"], {"n": s["n"], "more": x} if train else s),
            "must give statistics like those of `init`; .* differ in 'more'",
        ),
        (
            lambda p, s, x, *, train: (flat(x) @ p["w"], {"n": flat(x)[:, 0]} if train else s),
            "must give statistics like those of `init`; .* differ in 'n'",
        ),
    ],
    ids=["logits alone", "another leaf", "another shape"],
)
def test_functions_of_another_kind_are_refused(apply, message):
    def init(key):
        return {"w": jnp.zeros((8, 3))}, {"n": jnp.zeros(())}

    with pytest.raises(ValueError, match=message):
        jt.from_functions(init, apply, name="own", shape=SHAPE)


def test_a_module_without_params_is_refused():
    with pytest.raises(ValueError, match="`init` of network 'own' gives no params"):
        jt.from_linen(linen(lambda self, x: flat(x)), SHAPE, name="own")


# --- what is pruned


class Mixing(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(flat(x))
        w = self.param("w", nn.initializers.lecun_normal(), (8, 8))
        self.param("table_embedding", nn.initializers.zeros, (3, 3))
        return nn.Dense(3)(x @ w)


def test_leaves_that_look_like_kernels_are_named():
    with pytest.warns(UserWarning, match=r"not pruned, .*: w \(8, 8\); .*prunable=\[.*'w'\]"):
        net = jt.from_linen(Mixing(), SHAPE, name="own")
    assert net.prunable(net.init(KEY)[0])["w"] is False


@pytest.mark.parametrize(
    ("prunable", "expected"),
    [
        (["*/kernel", "w"], {"Dense_0/kernel", "Dense_1/kernel", "w"}),
        ("w", {"w"}),
        (("Dense_0", "w"), {"Dense_0/kernel", "Dense_0/bias", "w"}),
        (lambda params: jax.tree.map(lambda x: x.shape == (8, 8), params), {"Dense_0/kernel", "w"}),
    ],
    ids=["patterns", "one", "layer", "function"],
)
def test_what_is_pruned_is_said_by_patterns_or_a_function(prunable, expected):
    net = jt.from_linen(Mixing(), SHAPE, name="own", prunable=prunable)
    params, _ = net.init(KEY)
    chosen = zip(trees.paths(params), jax.tree.leaves(net.prunable(params)), strict=True)
    assert {path for path, p in chosen if p} == expected
    if prunable == "w":
        ticket = trained(net).ticket(1, 0)
        assert set(trees.paths(ticket.mask)) == expected
        assert not any(m.all() for m in jax.tree.leaves(ticket.mask))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prunable": "dense"}, "`prunable` pattern 'dense' matches no weight; the paths are"),
        ({"prunable": [3]}, "`prunable` pattern 3 matches no weight"),
        ({"prunable": lambda p: jax.tree.map(lambda x: False, p)}, "`prunable` must give a bool"),
        ({"prunable": lambda p: True}, "`prunable` must give a bool for each"),
        (
            {"prunable": "w", "output": "Dense_9"},
            "`output` 'Dense_9' is not a layer; the paths are",
        ),
        ({"prunable": "w", "dtype": "uint8"}, "`dtype` must be one of 'float32', 'int32'"),
    ],
)
def test_what_cannot_be_pruned(options, message):
    with pytest.raises(ValueError, match=message):
        jt.from_linen(Mixing(), SHAPE, name="own", **options)


# --- lists of layers


class Deep(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(12)])
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = flat(x)
        for layer in self.layers:
            x = jax.nn.tanh(layer(x))
        return self.last(x)


@pytest.mark.parametrize("by_net", [True, False], ids=["with net", "without"])
def test_tickets_of_lists_of_layers_come_back(tmp_path, by_net):
    net = jt.from_nnx(Deep, SHAPE, name="deep")
    params, stats = jax.jit(lambda key: net.init(stream(key, "init")))(KEY)
    mask = jt.keep_top(jax.tree.map(jnp.abs, params), jt.masks.ones(params), 300)
    ticket = jt.Ticket(mask, params, stats, jnp.int32(1), jnp.int32(0))
    path = ticket.save(tmp_path / "deep.npz")
    back = jt.Ticket.load(path, net=net if by_net else None)
    masked = jt.masks.apply(mask, params)
    assert jax.tree.structure(back.params) == jax.tree.structure(masked)
    assert trees.paths(back.params)[:6] == [f"last/{n}" for n in ("bias", "kernel")] + [
        f"layers/{i}/{n}" for i in (0, 1) for n in ("bias", "kernel")
    ]
    chex.assert_trees_all_equal(back.params, masked)
    x = jnp.ones((2, *SHAPE))
    assert np.array_equal(
        net.apply(back.params, stats, x, train=False)[0],
        net.apply(masked, stats, x, train=False)[0],
    )


# --- tokens


class Embedding(nn.Module):
    """The mean of embeddings: tells the classes of `sentences` apart."""

    @nn.compact
    def __call__(self, x):
        assert x.dtype == jnp.int32, "tokens must arrive as whole numbers"
        x = nn.Embed(40, 8)(x).mean(1)
        return nn.Dense(2)(jax.nn.relu(nn.Dense(16)(x)))


def sentences(n=400, seed=0):
    """Tokens of 40 words, the label whether there are more of a scattered half of the words."""
    rng = np.random.default_rng(seed)
    good = np.random.default_rng(7).permutation(40)[:20]
    x = rng.integers(0, 40, (n, 11))
    return x, (np.isin(x, good).sum(1) > 5).astype(int)


def text(n=400):
    x, y = sentences(n)
    return jt.data.from_arrays(x, y, *sentences(200, seed=1), name="text")


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_an_embedding_learns_from_tokens(compute):
    net = jt.from_linen(Embedding(), (11,), name="embedding", dtype="int32")
    training = jt.Training(
        steps=400, batch_size=40, eval_every=400, optimizer="adam", lr=0.01, compute_dtype=compute
    )
    with jax.numpy_dtype_promotion("standard"):
        table = trained(net, text(), training).table()
    final = table.query("split == 'test' and metric == 'accuracy' and step == 400")
    assert (final["value"] > 0.9).all()


def test_tokens_work_with_gradient_scores_and_not_with_synflow():
    net = jt.from_linen(Embedding(), (11,), name="embedding", dtype="int32")
    runs = jt.prune_at(net, text(), TRAINING, score="snip", density=0.5, seeds=[0], progress=False)
    assert runs.densities[-1] == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match=r"'synflow' sends an input of ones .* tokens"):
        jt.prune_at(net, text(), TRAINING, score="synflow", density=0.5, seeds=[0], progress=False)


@pytest.mark.parametrize(
    ("net", "data", "changes", "message"),
    [
        (
            "images",
            "tokens",
            {},
            "`net` takes examples of type float32 but `data` 'text' holds tok",
        ),
        ("tokens", "images", {}, "`net` takes examples of type int32 but `data` 'rows' holds imag"),
        ("tokens", "tokens", {"augment": ("flip",)}, "`augment` .'flip',. changes images"),
        ("tokens", "tokens", {"augment": ("crop",), "augment_pixels": 1}, "`augment` .'crop',."),
    ],
)
def test_tokens_and_images_do_not_mix(net, data, changes, message):
    def init(key):
        return {"w": jnp.ones((11, 2))}, {}

    def apply(params, stats, x, *, train):
        return x.astype(jnp.float32).reshape(len(x), -1) @ params["w"], stats

    x = np.random.default_rng(0).normal(size=(40, 1, 1, 11))
    rows = jt.data.from_arrays(x, np.arange(40) % 2, x, np.arange(40) % 2, name="rows")
    shape: Any = (11,) if data == "tokens" else (1, 1, 11)
    dtype = "int32" if net == "tokens" else "float32"
    made = jt.from_functions(init, apply, name="own", shape=shape, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        trained(made, text() if data == "tokens" else rows, TRAINING.replace(**changes))


# --- pickles


class Top(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(3)(flat(x))


NETWORKS = {
    "lenet": lambda: jt.networks.lenet(SHAPE, 3, (6,)),
    "resnet20": lambda: jt.networks.resnet20((8, 8, 3), 4, width=0.25),
    "conv2": lambda: jt.networks.conv2((8, 8, 3), 4, width=0.1),
    "linen": lambda: jt.from_linen(Top(), SHAPE, name="top", prunable="*/kernel"),
    "nnx": lambda: jt.from_nnx(Deep, SHAPE, name="deep"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_pickle(name):
    net = NETWORKS[name]()
    back = pickle.loads(pickle.dumps(net))
    assert back.config == net.config and back.shape == net.shape
    assert trees.paths(jax.eval_shape(back.init, KEY)) == trees.paths(jax.eval_shape(net.init, KEY))
    if name in ("lenet", "conv2", "resnet20"):
        assert back == net
        assert back.resized(2).config == net.resized(2).config
        assert back.adapted(classes=7).config == net.adapted(classes=7).config


class LinenEmbedding(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Embed(4, 3)(x).mean(1))


class NnxEmbedding(nnx.Module):
    def __init__(self, rngs):
        self.embed, self.dense = nnx.Embed(4, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.embed(x).mean(1))


@pytest.mark.parametrize("made", [(jt.from_linen, LinenEmbedding()), (jt.from_nnx, NnxEmbedding)])
def test_embeddings_of_examples_that_are_not_tokens_say_how_to_ask_for_tokens(made):
    make, module = made
    with pytest.raises(ValueError, match=r"`dtype` is .float32., .* pass dtype=.int32. for"):
        make(module, (5,), name="own")
    assert make(module, (5,), name="own", dtype="int32").classes == 2


def test_shapes_that_do_not_fit_are_named():
    class Flat(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(x.reshape(len(x), -1))

    with pytest.raises(ValueError, match=r"'flat' cannot be applied to examples of `shape` \(5,"):
        jt.from_nnx(Flat, (5, 5, 1), name="flat")
    with pytest.raises(ValueError, match=r"`shape` must be the shape of one example.* got 12"):
        jt.from_nnx(Flat, 12, name="flat")
    assert jt.from_nnx(Flat, (12,), name="flat").classes == 3


def test_other_errors_of_a_module_are_as_they_were():
    class Branching(nnx.Module):
        def __init__(self, rngs):
            self.out = nnx.Linear(12, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(x) if x.sum() > 0 else self.out(-x)

    class Calling(Branching):
        def __call__(self, x, extra):
            return self.out(x) + extra

    with pytest.raises(jax.errors.TracerBoolConversionError):
        jt.from_nnx(Branching, (12,), name="branching")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'extra'"):
        jt.from_nnx(Calling, (12,), name="calling")
