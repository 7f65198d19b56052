"""LIME: ridge regressions of scikit-learn, networks that are linear in segments, invariants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_digits import DATA, DIGITS
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances
from test_measure import NET, measure, runs

import jaxticket as jt
from jaxticket.analysis.lime import ridge_regression
from jaxticket.analysis.segments import grid, segmented
from jaxticket.engine.metrics import Normalization
from jaxticket.problem import batched
from jaxticket.random import root_keys, stream

SHAPE, CLASSES = (6, 6, 2), 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (8, *SHAPE)).astype(np.uint8)
SMALL = jt.data.from_arrays(IMAGES[:4], np.arange(4) % 3, IMAGES[4:], np.arange(4) % 3, classes=3)
KERNEL = RNG.normal(size=(72, CLASSES)).astype(np.float32) / 8
# the network looks at no pixel of the last segment of 3 x 3 pixels
KERNEL.reshape(6, 6, 2, 3)[3:, 3:] = 0


def linear(scale=1.0):
    """A network whose logits are linear in the pixels, and its ticket."""
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jnp.asarray(KERNEL)}}, {}),
        lambda params, stats, x, *, train: (
            scale * x.reshape(x.shape[0], -1) @ params["w"]["kernel"], stats),
        name=f"linear {scale}", shape=SHAPE, output="w",
    )  # fmt: skip
    params, stats = net.init(jax.random.key(0))
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)
    return net, jt.Ticket(mask, params, stats, np.int32(0), np.int32(0))


def called(probe, net, ticket, key=0):
    """A probe of four images."""
    data, by = batched(SMALL, "test")
    more = probe.prepare(SMALL, "test", None)
    problem = jt.Problem(net, data, jt.Training(), by, more=more)
    found = jax.jit(lambda: probe(problem, ticket, key=jax.random.key(key)))()
    return {name: np.asarray(x) for name, x in found.items()}


def around(lime, net, ticket, keys=(0,), at=0):
    """The neighborhood of an image and the linear models of all classes, for each of the keys."""
    problem = jt.Problem(
        net, None, jt.Training(), Normalization(np.asarray(SMALL.mean), np.asarray(SMALL.std))
    )
    maps = segmented(SMALL.test.x, lime.segments, 255)
    present = jnp.ones(int(maps.max()) + 1, bool)

    def one(key):
        near = lime.neighborhood(
            problem, ticket.params, ticket.stats, jnp.asarray(SMALL.test.x[at]),
            jnp.asarray(maps[at]), present, key=key,
        )  # fmt: skip
        return near, lime.fit(near, near.z[0])

    return jax.tree.map(
        np.asarray, jax.jit(jax.vmap(one))(jax.vmap(jax.random.key)(jnp.asarray(keys)))
    )


def test_the_regression_is_that_of_scikit_learn():
    x, weights = RNG.integers(0, 2, (60, 7)), RNG.uniform(0, 1, 60)
    y = RNG.normal(size=(60, 2)) + x[:, :2]
    found = jax.jit(lambda *a: ridge_regression(*a, 0.7))(
        *(jnp.asarray(v, jnp.float32) for v in (x, y, weights))
    )
    wanted = Ridge(0.7).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(found.weights, wanted.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.intercept, wanted.intercept_, rtol=1e-4, atol=1e-5)
    for i in range(2):
        one = Ridge(0.7).fit(x, y[:, i], sample_weight=weights)
        score = one.score(x, y[:, i], sample_weight=weights)
        assert found.r2[i] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("fill", ["mean", 0, 90.5])
def test_of_a_linear_network_the_coefficients_are_found(fill):
    """Weights and intercept by hand: each segment against what it is filled with."""
    lime = jt.LIME(segments=3, samples=100, fill=fill, of="logit", ridge=1e-6)
    near, model = jax.tree.map(lambda x: x[0], around(lime, *linear()))
    own = SMALL.test.x[0].astype(np.float64)
    off = np.full_like(own, 0 if fill == "mean" else fill)
    for rows in (slice(0, 3), slice(3, 6)):
        for columns in (slice(0, 3), slice(3, 6)):
            if fill == "mean":
                off[rows, columns] = own[rows, columns].mean(axis=(0, 1))
    kernel = KERNEL.reshape(*SHAPE, CLASSES)
    moved = ((own - off) / SMALL.std)[..., None] * kernel
    wanted = moved.reshape(2, 3, 2, 3, 2, 3).sum(axis=(1, 3, 4)).reshape(4, 3).T
    np.testing.assert_allclose(model.weights, wanted, rtol=1e-3, atol=1e-4)
    intercept = (((off - SMALL.mean) / SMALL.std)[..., None] * kernel).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(model.intercept, intercept, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.r2, 1, atol=1e-5)
    # a segment that the network does not look at
    np.testing.assert_allclose(model.weights[:, 3], 0, atol=1e-5)
    assert near.z[0].all() and 0.4 < near.z[1:].mean() < 0.6


def test_a_network_that_is_linear_in_segments_is_explained_perfectly():
    probe = jt.probes.Explanations(segments=3, samples=100, of="logit", ridge=1e-6)
    found = called(probe, *linear())
    assert found["fidelity"] < 1e-6 and found["stability"] < 1e-6
    assert found["r2"] == pytest.approx(1, abs=1e-5)
    # its probabilities are not linear
    bent = called(dataclasses.replace(probe, of="probability"), *linear(3.0))
    assert bent["fidelity"] > 1e-4 and bent["stability"] > 1e-5 and bent["r2"] < 0.999


def test_a_constant_network_has_nothing_to_explain():
    found = called(jt.probes.Explanations(segments=3, samples=50), *linear(0.0))
    assert found == {"fidelity": 0, "stability": 0, "r2": 1}


def test_weights_of_probabilities_sum_to_zero_and_converge():
    """Over classes, whose probabilities sum to 1; the estimate is nearer with more samples."""
    spread = {}
    for samples in (60, 3000):
        lime = jt.LIME(segments=3, samples=samples)
        _, models = around(lime, *linear(3.0), keys=range(5))
        np.testing.assert_allclose(models.weights.sum(axis=1), 0, atol=1e-5)
        np.testing.assert_allclose(models.intercept.sum(axis=1), 1, atol=1e-5)
        spread[samples] = models.weights.std(axis=0).mean()
    assert spread[3000] < spread[60] / 3
    # of the segment that the network does not look at
    assert np.abs(models.weights[..., 3]).mean() < 0.1 * np.abs(models.weights).max()


@pytest.mark.parametrize(("distance", "answer"), [("cosine", "label"), ("hamming", "likely")])
def test_the_probe_is_what_scikit_learn_gives_on_the_same_perturbations(distance, answer):
    """All replicas of a level on several devices against one network by hand."""
    probe = jt.probes.Explanations(
        segments=2, samples=40, distance=distance, points=3, answer=answer
    )  # fmt: skip
    table = measure(runs(), probe, examples=5, split="test", levels=(1,))
    assert set(table.metric) == {"fidelity", "stability", "r2"} and len(table) == 9
    ticket = runs().ticket(1, 2)
    key = stream(root_keys([2])[0], "probe")
    fidelity, stability = [], []
    for number, place in enumerate(np.arange(5) * 80 // 5):
        own = DATA.test.x[place].astype(np.float64)
        own_key = jax.random.fold_in(key, np.uint32(number))
        z = np.array(jax.random.bernoulli(own_key, 0.5, (40, 16)))
        z[0] = True
        cells = own.reshape(4, 2, 4, 2).mean(axis=(1, 3)).ravel()
        off = cells[grid((8, 8), 2)][..., None]
        x = np.where(z[:, grid((8, 8), 2)][..., None], own, off)
        x = ((x - DATA.mean) / DATA.std).astype(np.float32)
        logits = NET.apply(ticket.params, ticket.stats, jnp.asarray(x), train=False)[0]
        p = np.asarray(jax.nn.softmax(logits))
        p = p[:, DATA.test.y[place] if answer == "label" else p[0].argmax()]
        models = []
        for one in z[:4]:
            d = pairwise_distances(z.astype(float), one[None].astype(float), distance)[:, 0]
            k = np.sqrt(np.exp(-(d**2) / 0.25**2))
            models.append(Ridge(1.0).fit(z, p, sample_weight=k))
        fidelity.append(np.mean((models[0].predict(z) - p) ** 2))
        stability.append([((m.coef_ - models[0].coef_) ** 2).sum() for m in models[1:]])
    found = table[table.seed == 2].set_index("metric").value
    assert found["fidelity"] == pytest.approx(np.mean(fidelity), rel=1e-3)
    assert found["stability"] == pytest.approx(np.mean(stability), rel=1e-3)


def test_explanations_are_those_that_the_probe_measures():
    lime = jt.LIME(segments=2, samples=40)
    own = {"levels": (1,), "examples": 5, "weights": "start"}
    found = jt.explain(runs(), lime=lime, **own)
    assert found.weights.shape == (3, 5, 10, 16) and found.weights.dtype == np.float32
    assert found.networks == ((0, 1, "ticket"), (1, 1, "ticket"), (2, 1, "ticket"))
    probe = jt.probes.Explanations(segments=2, samples=40, distance="cosine")
    table = measure(runs(), probe, examples=5, split="test", levels=(1,))
    likely = found.answers.argmax(axis=-1)[..., None]
    for name in ("fidelity", "r2"):
        mean = np.take_along_axis(getattr(found, name), likely, -1).mean(axis=(1, 2))
        np.testing.assert_allclose(mean, table[table.metric == name].value, rtol=1e-4)
    np.testing.assert_allclose(found.answers.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found.weights.sum(axis=2), 0, atol=1e-5)
    # the same again, also for images that are passed
    again = jt.explain(runs(), found.images, lime=lime, **own)
    np.testing.assert_array_equal(again.weights, found.weights)
    assert again.labels is None
    np.testing.assert_array_equal(found.labels, DATA.test.y[np.arange(5) * 80 // 5])
    one = jt.explain(runs(), found.images[0], lime=lime, seeds=(1,), levels=(0, 1), weights="start")
    np.testing.assert_array_equal(one.weights[1, 0], found.weights[1, 0])
    pixels = one.by_pixel(0, 7, level=1)
    np.testing.assert_array_equal(pixels[2:4, 4:6], found.weights[1, 0, 7, 6])
    rows = one.table()
    assert len(rows) == 2 * 10 * 16
    at = rows[(rows.level == 1) & (rows.answer == 7) & (rows.segment == 6)]
    assert at.value.item() == pytest.approx(found.weights[1, 0, 7, 6])


def test_what_diverged_is_nan():
    lost = dataclasses.replace(runs(), lost={1: np.asarray([True, False, False])})
    found = jt.explain(
        lost, lime=jt.LIME(segments=2, samples=40), levels=(1,), examples=5, weights="start"
    )
    assert np.isnan(found.weights[0]).all() and np.isfinite(found.weights[1:]).all()


def test_images_with_fewer_segments_have_weights_of_zero():
    def halves(image):
        """Two halves, and of dark images quarters, with any numbers."""
        rows = (np.arange(6) >= 3)[:, None] * 10
        columns = (np.arange(6) >= 3)[None] * 3
        return np.broadcast_to(rows + (columns if image[0, 0, 0] % 2 else 0), (6, 6)) - 4

    maps = segmented(SMALL.test.x, halves, 255)
    counts = [len(np.unique(one)) for one in maps]
    assert set(counts) == {2, 4} and maps.min() == 0 and maps.max() == 3
    probe = jt.probes.Explanations(segments=halves, samples=50, of="logit", ridge=1e-6)
    found = called(probe, *linear())
    assert found["fidelity"] < 1e-6 and found["stability"] < 1e-6
    assert np.array_equal(
        probe.prepare(SMALL, "test", None)["present"].x[0].sum(axis=1), counts
    )  # fmt: skip


def test_grids_cover_images_whose_size_they_do_not_divide():
    own = grid((5, 7), 3)
    assert own.shape == (5, 7) and np.array_equal(np.unique(own), np.arange(6))
    assert own[4, 6] == 5 and (own[:3, :3] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("way", ["slic", "quickshift"])
def test_segments_of_scikit_image(way, channels):
    skimage = pytest.importorskip("skimage", reason="an optional dependency: jaxticket[explain]")
    images = np.repeat(DIGITS.test.x[:2, ..., :1] * 15, channels, axis=-1).repeat(3, 1).repeat(3, 2)
    maps = segmented(images, way, 255)
    assert maps.shape == (2, 24, 24) and maps.dtype == np.int32
    colors = np.repeat(images[0], 3 // channels, axis=-1) / 255
    own = {
        "slic": lambda x: skimage.segmentation.slic(x, n_segments=50, start_label=0),
        "quickshift": lambda x: skimage.segmentation.quickshift(
            x, kernel_size=4, max_dist=200, ratio=0.2
        ),
    }[way](colors)
    # the same segments, numbered from 0 on
    pairs = {*zip(maps[0].ravel().tolist(), own.ravel().tolist(), strict=True)}
    assert len(pairs) == len(np.unique(own)) == maps[0].max() + 1 > 1
    with pytest.raises(ValueError, match="`segments`='slic' takes images with 1 or 3 channels"):
        segmented(np.zeros((1, 4, 4, 2), np.uint8), "slic", 255)


def test_without_scikit_image_an_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"'skimage'.*\n.*'jaxticket\[explain\]'"):
        segmented(DIGITS.test.x[:1], "slic", 16)


WRONG = [
    ({"lime": jt.LIME(segments=8)}, "`segments`=8 makes a single segment of images of 8 x 8"),
    ({"lime": jt.LIME(segments=lambda image: image)}, "must give a whole number for each pixel"),
    ({"lime": jt.LIME(segments=lambda image: image[9])}, "`segments` .* fails when it is tried"),
    ({"lime": "lime"}, "`lime` must be a jt.LIME"),
    ({"x": np.zeros((2, 8, 8))}, r"`x` must be images of the shape \(8, 8, 1\)"),
    ({"x": np.full((8, 8, 1), 0.5)}, "`x` must hold raw values of uint8"),
    ({"split": "tset"}, "`split` must be one of"),
    ({"examples": 0}, "`examples`"),
    ({"weights": "trained"}, "`trained` weights were not kept"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        jt.explain(runs(), **{"weights": "start", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segments": "grid"}, "`segments` must be one of 'slic', 'quickshift', or the size of"),
        ({"segments": 0}, "`segments`"),
        ({"samples": 1}, "`samples`"),
        ({"fill": "black"}, "`fill` must be 'mean', or a raw value"),
        ({"fill": np.nan}, "`fill`"),
        ({"distance": "l2"}, "`distance` must be one of"),
        ({"width": 0}, "`width`"),
        ({"ridge": 0}, "`ridge`"),
        ({"of": "loss"}, "`of` must be one of"),
        ({"points": 0}, "`points`"),
        ({"points": 1000}, "`points` must be below `samples`, 1000"),
        ({"answer": "true"}, "`answer` must be one of"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        jt.probes.Explanations(**changes)


def test_what_has_no_segments_or_classes_is_refused():
    x, y = DIGITS.train.x[:20], DIGITS.train.y[:20]
    rows = jt.data.from_arrays(*(x.reshape(20, 64).astype(np.float32), y) * 2)
    hot = np.eye(10, dtype=np.int8)[y]
    tagged = jt.data.from_arrays(x, hot, x, hot, labels="multilabel")
    for data, message in (
        (rows, r"`probe` explains images .* are arrays of the shape \(64,\)"),
        (tagged, "`probe` explains the answers of classes, .* of kind 'multilabel'"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.PROBES["explanations"].prepare(data, "test", None)
    problem = jt.Problem(NET, DATA, jt.Training())
    with pytest.raises(ValueError, match="`problem` has no segments"):
        jt.PROBES["explanations"](problem, runs().ticket(1, 0), key=jax.random.key(0))


def test_floats_are_explained_as_bytes_are():
    """The same images as float32: the means of segments and the fill are raw values."""
    x = [split.x.astype(np.float32) for split in (DATA.train, DATA.test)]
    data = jt.data.from_arrays(x[0], DATA.train.y, x[1], DATA.test.y)
    lime = jt.LIME(segments=2, samples=40, fill=3)
    own = {"lime": lime, "levels": (1,), "examples": 4, "weights": "start"}
    found = jt.explain(dataclasses.replace(runs(), data=data), **own)
    np.testing.assert_allclose(found.weights, jt.explain(runs(), **own).weights, atol=1e-4)


def equations(jaxpr):
    """All equations of a program, those inside loops and calls too."""
    for one in jaxpr.eqns:
        yield one
        for inner in jax.tree.leaves(
            list(one.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def test_factorizations_are_of_one_matrix_each():
    """Those of several in one call wait for their own threads on CPUs of several devices."""
    net, ticket = linear()
    data, by = batched(SMALL, "test")
    probe = jt.probes.Explanations(segments=3, samples=20, points=2)
    more = probe.prepare(SMALL, "test", None)

    def program(params):
        problem = jt.Problem(net, data, jt.Training(), by, more=more)
        return probe(problem, ticket.replace(params=params), key=jax.random.key(0))

    traced = jax.make_jaxpr(program)(ticket.params).jaxpr
    sizes = [one.invars[0].aval.ndim for one in equations(traced) if "chol" in str(one.primitive)]
    assert sizes and set(sizes) == {2}
