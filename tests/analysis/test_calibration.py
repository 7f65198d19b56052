"""Calibration and out-of-distribution scores against scikit-learn, SciPy and sums by hand."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from test_measure import DATA, NET, measure

import jaxticket as jt
from jaxticket.analysis import calibration, ranking
from jaxticket.engine.metrics import Batched

RNG = np.random.default_rng(0)
N, C, BINS = 90, 4, 5
LOGITS = (3 * RNG.normal(size=(N, C))).astype(np.float32)
# ties, as rounded outputs have them
LOGITS[30:60] = np.rint(LOGITS[30:60])
Y = np.where(RNG.random(N) < 0.6, LOGITS.argmax(1), RNG.integers(0, C, N)).astype(np.int32)
THERE = np.arange(N) < 83
OWN = slice(0, 83)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def identity_problem(logits, y, more=None):
    """A network whose logits are its inputs."""
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jnp.eye(C)}}, {}),
        lambda params, stats, x, *, train: (x @ params["w"]["kernel"], stats),
        name="identity", shape=(C,), output="w",
    )  # fmt: skip
    params, stats = net.init(jax.random.key(0))
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)

    def cut(x, y):
        return Batched(x.reshape(2, -1, C), y.reshape(2, -1), np.zeros(2, np.int32))

    more = {name: cut(*one) for name, one in (more or {}).items()}
    problem = jt.Problem(net, cut(logits, np.where(THERE, y, -1)), jt.Training(), more=more)
    return problem, jt.Ticket(mask, params, stats, np.int32(0), np.int32(0))


def called(probe, problem, ticket):
    found = jax.jit(lambda: probe(problem, ticket, key=jax.random.key(0)))()
    return {name: np.asarray(x) for name, x in found.items()}


def ece(confidence, right, edges):
    """Over bins (low, high], by hand."""
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        total += abs(right[inside].sum() - confidence[inside].sum())
    return total / len(confidence)


def test_calibration_is_that_of_scikit_learn_and_of_sums_by_hand():
    validation = (LOGITS[::-1].copy(), Y[::-1].copy())
    problem, ticket = identity_problem(LOGITS, Y, {"validation": validation})
    probe = jt.probes.Calibration(bins=BINS, temperature=True)
    found = called(probe, problem, ticket)
    z, y = LOGITS[OWN].astype(np.float64), Y[OWN]
    p = softmax(z)
    top, right = p.max(1), (p.argmax(1) == y).astype(float)
    one_hot = np.eye(C)[y]
    edges = np.linspace(0, 1, BINS + 1)
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["confidence"] == pytest.approx(top.mean(), rel=1e-5)
    assert found["nll"] == pytest.approx(sk.log_loss(y, p, labels=range(C)), rel=1e-5)
    assert found["brier"] == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), rel=1e-5)
    assert found["ece"] == pytest.approx(ece(top, right, edges), rel=1e-4)
    # the metric of evaluations is the same number
    metric = jt.metrics.ECE(bins=BINS)
    assert found["ece"] == pytest.approx(float(metric.value(metric.sums(LOGITS[OWN], y))), rel=1e-5)
    each = [ece(p[:, c], one_hot[:, c], edges) for c in range(C)]
    assert found["classwise_ece"] == pytest.approx(np.mean(each), rel=1e-4)
    accuracy, confidence = calibration_curve(right, top, n_bins=BINS)
    filled = ~np.isnan(found["bin_accuracy"])
    np.testing.assert_allclose(found["bin_accuracy"][filled], accuracy, rtol=1e-5)
    np.testing.assert_allclose(found["bin_confidence"][filled], confidence, rtol=1e-5)
    counts = np.histogram(top, edges)[0]
    np.testing.assert_allclose(found["bin_share"], counts / len(y), rtol=1e-6)
    assert not filled[counts == 0].any()
    # the least over T
    full = LOGITS.astype(np.float64)
    best = scipy.optimize.minimize_scalar(
        lambda log: sk.log_loss(Y, softmax(full / np.exp(log)), labels=range(C)), bracket=(-1, 1)
    )
    assert found["temperature"] == pytest.approx(np.exp(best.x), rel=1e-3)
    scaled = softmax(z / found["temperature"])
    assert found["scaled_nll"] == pytest.approx(sk.log_loss(y, scaled, labels=range(C)), rel=1e-4)
    assert found["scaled_ece"] == pytest.approx(ece(scaled.max(1), right, edges), rel=1e-3)


def test_bins_of_equal_mass_hold_as_many_examples_whatever_the_order_of_ties():
    p = softmax(LOGITS)
    top, right = p.max(1), (p.argmax(1) == Y).astype(np.float32)
    cut = jax.jit(calibration.equal_mass, static_argnums=3)
    found = cut(top, right, THERE, BINS)
    assert sorted(found.count.tolist()) == [16, 16, 17, 17, 17]
    # distinct confidences: the sorted ones, cut at equal numbers
    distinct = (top + 1e-4 * np.arange(N)).astype(np.float32)
    order = np.argsort(distinct[OWN])
    at = np.arange(83) * BINS // 83
    sums = np.bincount(at, (right - distinct)[OWN][order])
    assert cut(distinct, right, THERE, BINS).error() == pytest.approx(
        abs(sums).sum() / 83, rel=1e-4
    )
    # examples of one confidence: every order gives the same
    tied = np.full(N, np.float32(0.5))
    turned = right[OWN][::-1].copy()
    errors = [
        float(cut(tied, np.concatenate([one, np.ones(7, np.float32)]), THERE, BINS).error())
        for one in (right[OWN], turned)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    assert errors[0] == pytest.approx(abs(right[OWN].mean() - 0.5), rel=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_separation_is_that_of_scikit_learn(tied):
    inside, outside = RNG.normal(1, 1, 70), RNG.normal(0, 1, 50)
    if tied:
        inside, outside = np.rint(inside), np.rint(outside)
    padded = [
        np.concatenate([x, np.zeros(n)]).astype(np.float32) for x, n in ((inside, 5), (outside, 9))
    ]
    there = [np.arange(75) < 70, np.arange(59) < 50]
    found = jax.jit(ranking.separation)(*padded, *there)
    y = np.r_[np.ones(70), np.zeros(50)]
    scores = np.concatenate([padded[0][:70], padded[1][:50]])
    assert found.auroc == pytest.approx(sk.roc_auc_score(y, scores), rel=1e-5)
    assert found.aupr == pytest.approx(sk.average_precision_score(y, scores), rel=1e-5)
    false_rate, tpr, _ = sk.roc_curve(y, scores, drop_intermediate=False)
    assert found.fpr == pytest.approx(false_rate[np.argmax(tpr >= 0.95)], rel=1e-5)
    # one set against itself
    assert jax.jit(ranking.separation)(
        padded[0], padded[0], there[0], there[0]
    ).auroc == pytest.approx(0.5)


@functools.cache
def trained(lr=1.2e-3):
    """Networks of two seeds with a validation split; all rates share their programs."""
    return jt.find_tickets(
        NET, dataclasses.replace(DATA, validation=DATA.test),
        jt.Training(steps=4, batch_size=16, eval_every=4, eval_batch_size=48, lr=lr),
        jt.Pruning(levels=1, fraction=0.5), seeds=(0, 1), keep="trained", progress=False,
    )  # fmt: skip


CALIBRATED = jt.probes.Calibration(bins=4, temperature=True)
OF_TRAINED = {"split": "test", "weights": "trained"}


def test_both_probes_measure_all_replicas(tmp_path):
    digits = jt.data.load("digits")
    other = jt.data.from_arrays(
        255 - digits.train.x[:60] * 15, digits.train.y[:60], *_arrays(digits.test, 60), classes=10
    )
    other = jt.data.like(other, DATA)
    assert other.train.x.max() == 16 and other.shape == DATA.shape
    table = measure(trained(), CALIBRATED, folder=tmp_path, **OF_TRAINED)
    assert (table[table.metric == "temperature"].value > 0).all()
    # the accuracy of the evaluation
    history = trained().table()
    history = history.query("step == 4 and split == 'test' and metric == 'accuracy'")
    ours = table[table.metric == "accuracy"].sort_values(["level", "seed"]).value
    np.testing.assert_allclose(ours, history.sort_values(["level", "seed"]).value, rtol=1e-6)
    # from the folder, which says what data the others were
    probe = jt.probes.OutOfDistribution(other)
    folder = tmp_path / "other"
    table = measure(trained(), probe, folder=folder, **OF_TRAINED)
    own = table[table.metric == "softmax_auroc"]
    assert len(own) == 4 and own.value.between(0, 1).all()
    pd.testing.assert_frame_equal(measure(trained(), probe, folder=folder, **OF_TRAINED), table)
    darker = dataclasses.replace(other, test=other.train)
    with pytest.raises(jt.RunFolderError, match=r"probe.other"):
        measure(trained(), jt.probes.OutOfDistribution(darker), folder=folder, **OF_TRAINED)


def _arrays(split, count):
    return split.x[:count], split.y[:count]


def test_what_cannot_be_measured_is_refused_by_name():
    runs = dataclasses.replace(trained(), data=DATA)
    with pytest.raises(ValueError, match=r"`temperature` is found on the validation split"):
        measure(runs, CALIBRATED)
    cases = [
        (lambda: jt.probes.Calibration(bins=0), "`bins`"),
        (lambda: jt.probes.Calibration(temperature=1), "`temperature`"),
        (lambda: jt.probes.OutOfDistribution("mnist"), "`other`"),
        (lambda: jt.probes.OutOfDistribution(DATA, split="training"), "`split`"),
        (lambda: jt.data.like("mnist", DATA), "`other`"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
    x = np.zeros((4, 9, 9, 1), np.uint8)
    other = jt.data.from_arrays(x, np.arange(4) % 2, x, np.arange(4) % 2)
    with pytest.raises(ValueError, match=r"`other` has examples of .*jt.data.like"):
        measure(runs, jt.probes.OutOfDistribution(other))
    numbers = jt.data.from_arrays(*_arrays(DATA.train, 8), *_arrays(DATA.test, 8), classes=10)
    y = np.zeros(8, np.float32)
    numbers = jt.data.from_arrays(numbers.train.x, y, numbers.test.x, y, labels="numbers")
    for probe in (CALIBRATED, jt.probes.OutOfDistribution()):
        with pytest.raises(ValueError, match="labels of kind 'numbers'"):
            probe.prepare(numbers, "test", None)


def test_networks_that_diverged_are_nan():
    table = measure(trained(1e25), CALIBRATED, **OF_TRAINED)
    assert table.value.isna().all() and len(table) > 0
