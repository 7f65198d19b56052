"""Features: layers of Linen and NNX, projections, linear probes and CKA against references."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from patterns import DATA, NET, TRAINING
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

import jaxticket as jt
from jaxticket.nn.activations import activations

SHORT = TRAINING.replace(steps=10, milestones=())


@functools.cache
def runs():
    return jt.find_tickets(
        NET, DATA, SHORT, jt.Pruning(levels=1), seeds=(3, 5), keep="trained",
        mesh=jt.parallel.mesh(devices=jax.devices()[:2]), progress=False,
    )  # fmt: skip


@functools.cache
def found():
    return jt.features(runs(), examples=40)


class Plain(nn.Module):
    """No taps; a layer is called twice."""

    @nn.compact
    def __call__(self, x):
        again = nn.Dense(4, name="again")
        x = nn.relu(again(nn.relu(again(x.reshape(x.shape[0], -1)))))
        return nn.Dense(3, name="out")(x)


class Plain2(nnx.Module):
    def __init__(self, rngs):
        self.again = nnx.Linear(4, 4, rngs=rngs)
        self.out = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.again(nnx.relu(self.again(x.reshape(x.shape[0], -1)))))
        return self.out(x)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_layers_of_modules_without_taps_are_seen(kind):
    shape = (2, 2, 1)
    net = jt.from_nnx(Plain2, shape, name="a") if kind == "nnx" else jt.from_linen(
        Plain(), shape, name="a")  # fmt: skip
    params, stats = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, *shape))
    seen = jax.jit(lambda x: activations(net, params, stats, x))(x)
    # jit sorts
    assert set(seen) == {"again", "again#2", "out", "penultimate", "logits"}
    w, b = params["again"]["kernel"], params["again"]["bias"][None]
    first = x.reshape(5, 4) @ w + b
    second = jax.nn.relu(first) @ w + b
    for name, wanted in (
        ("again", first),
        ("again#2", second),
        ("penultimate", jax.nn.relu(second)),
    ):
        np.testing.assert_allclose(seen[name], wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["out"], seen["logits"])
    np.testing.assert_array_equal(seen["logits"], net.apply(params, stats, x, train=False)[0])
    # what is seen leaves nothing behind
    assert type(net.apply(params, stats, x, train=False)[0]) is type(x)


def test_layers_are_seen_of_a_network_that_was_never_called():
    """Whether it has taps is found out by a call of its own."""
    net = jt.networks.lenet((2, 2, 1), 3, widths=(7, 5))
    x = jnp.ones((2, 2, 2, 1))
    seen = activations(net, *net.init(jax.random.key(0)), x)
    assert [*seen] == ["dense_0", "dense_1", "dense_2", "penultimate", "logits"]
    np.testing.assert_array_equal(seen["penultimate"], seen["dense_1"])


def test_features_are_those_of_each_network():
    """All replicas of two levels, against one network by hand; the labels are those of the data."""
    assert found().values.shape == (4, 40, 8) and found().values.dtype == np.float32
    assert found().networks == (
        (3, 0, "ticket"),
        (5, 0, "ticket"),
        (3, 1, "ticket"),
        (5, 1, "ticket"),
    )
    chosen = np.arange(40) * 60 // 40
    np.testing.assert_array_equal(found().labels, DATA.test.y[chosen])
    ticket = runs().ticket(1, 3, weights="trained")
    x = ((DATA.test.x[chosen] - DATA.mean) / DATA.std).astype(np.float32)
    seen = jax.jit(lambda x: activations(NET, ticket.params, ticket.stats, x))(x)
    np.testing.assert_allclose(found().values[2], seen["penultimate"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(seen["penultimate"], seen["dense_1"])


def test_projections_are_those_of_scikit_learn():
    table = found().projected()
    own = table[(table.seed == 5) & (table.level == 1)]
    np.testing.assert_allclose(
        own[["x", "y"]], PCA(2).fit_transform(found().values[3]), rtol=1e-3, atol=1e-3
    )
    np.testing.assert_array_equal(own.label, found().labels)
    few = dataclasses.replace(found(), values=found().values[:1], networks=found().networks[:1])
    tsne = few.projected("tsne", perplexity=5)
    assert len(tsne) == 40 and np.isfinite(tsne[["x", "y"]]).all(axis=None)
    with pytest.raises(ValueError, match="`perplexity` must be below the number of examples, 40"):
        found().projected("tsne", perplexity=40)
    with pytest.raises(ValueError, match="`way` must be one of 'pca', 'tsne'"):
        found().projected("umap")


def test_cka_is_that_of_kernels():
    """By the centered kernels of the definition; equal to rotations and scales."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 50))
    center = np.eye(30) - 1 / 30
    k, other = center @ x @ x.T @ center, center @ y @ y.T @ center
    wanted = np.trace(k @ other) / np.sqrt(np.trace(k @ k) * np.trace(other @ other))
    assert jt.probes.linear_cka(x, y) == pytest.approx(wanted)
    assert jt.probes.linear_cka(x, x[:, ::-1] @ np.diag([1, 1, -1, 1, 1.0])) == pytest.approx(1)
    table = found().similarity()
    assert len(table) == 16
    same = (table.seed == table.other_seed) & (table.level == table.other_level)
    assert np.allclose(table[same].value, 1) and (table[~same].value < 1).all()
    with pytest.raises(ValueError, match="`x`, `y` must be of the same examples"):
        jt.probes.linear_cka(x, y[:3])


@pytest.mark.parametrize("tap", ["penultimate", "dense_0"])
def test_the_linear_probe_is_ridge_regression(tap):
    """scikit-learn's, on the same halves; more examples than units, and fewer."""
    examples = {"penultimate": 40, "dense_0": 10}[tap]
    table = jt.measure(
        runs(), jt.probes.LinearProbe(tap, ridge=0.1), levels=(1,), examples=examples,
        split="test", weights="trained", progress=False,
    )  # fmt: skip
    seen = jt.features(runs(), tap, levels=(1,), examples=examples)
    for seed, x in zip((3, 5), seen.values, strict=True):
        first = np.arange(examples) % 2 == 0
        std = x[first].std(axis=0)
        x = (x - x[first].mean(axis=0)) / np.where(std > 0, std, 1)
        model = Ridge(alpha=0.1 * first.sum()).fit(x[first], np.eye(3)[seen.labels[first]])
        right = model.predict(x).argmax(axis=1) == seen.labels
        own = table[table.seed == seed].set_index("metric").value
        assert own["linear_probe"] == pytest.approx(right[~first].mean())
        assert own["linear_probe_fitted"] == pytest.approx(right[first].mean())


def test_what_diverged_is_nan_and_left_out():
    lost = {1: np.asarray([True, False])}
    own = jt.features(dataclasses.replace(runs(), lost=lost), levels=(1,), examples=40)
    assert np.isnan(own.values[0]).all() and np.isfinite(own.values[1]).all()
    assert set(own.projected()["seed"]) == {5}
    assert own.similarity().value.isna().sum() == 3


WRONG = [
    ({"tap": "dense_9"}, "`tap` 'dense_9' is no layer of the network; did you mean"),
    ({"levels": (7,)}, "`levels`"),
    ({"split": "tset"}, "`split` must be one of"),
    ({"examples": 0}, "`examples`"),
    ({"weights": "best"}, "`weights` must be one of"),
    ({"branches": ("reinit",)}, "`level`, `branch`, `dilation`"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        jt.features(runs(), **changes)


def test_networks_that_show_nothing_and_wrong_probes_are_refused():
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jax.random.normal(key, (4, 3))}}, {}),
        lambda params, stats, x, *, train: (x.reshape(-1, 4) @ params["w"]["kernel"], stats),
        name="bare", shape=(2, 2, 1), output="w",
    )  # fmt: skip
    with pytest.raises(ValueError, match="`net` has no taps"):
        activations(net, *net.init(jax.random.key(0)), jnp.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="`ridge`"):
        jt.probes.LinearProbe(ridge=0)
    x = DATA.test.x
    hot = np.eye(3, dtype=np.int8)[DATA.test.y]
    tagged = jt.data.from_arrays(x, hot, x, hot, labels="multilabel")
    with pytest.raises(ValueError, match=r"'linear_probe' compares .* of kind 'multilabel'"):
        jt.probes.LinearProbe().prepare(tagged, "test", None)
    with pytest.raises(ValueError, match="`tap` 'dense_9' is no layer"):
        jt.measure(runs(), jt.probes.LinearProbe("dense_9"), progress=False)
