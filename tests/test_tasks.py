"""Labels of every kind: small tasks from data to tickets, and losses and metrics by reference."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from labeled import TASKS, regression, task

import jaxticket as jt
from jaxticket import labels
from jaxticket.engine.adversarial import PGD

RNG = np.random.default_rng(0)


@functools.cache
def runs_of(name):
    net, data, own = task(name)
    training = jt.Training(epochs=20, batch_size=50, lr=0.01, eval_every=100, **own)
    return jt.find_tickets(
        net, data, training, jt.Pruning(levels=1, rewind=10), seeds=(0, 1), keep="trained",
        progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_tickets_of_a_task_are_found_and_trained(name):
    runs = runs_of(name)
    assert runs.data.labels.kind == name and runs.training.epochs is None
    table = runs.table().query("split == 'test' and level == 1").set_index(["seed", "metric"])
    last = table[table.step == runs.training.steps].value.unstack()
    first = table[table.step == 10].value.unstack()
    assert (last["loss"] < first["loss"]).all()
    if name == "numbers":
        assert "accuracy" not in last and (last["r2"] > 0.9).all()
    if name == "multilabel":
        assert (last["accuracy"] > 0.9).all() and (last["macro_f1"] > 0.8).all()
    if name == "tokens":
        assert (last["accuracy"] > 0.7).all() and (last["perplexity"] < 2.5).all()


@dataclasses.dataclass(frozen=True)
class Update:
    """A monitor: the loss of a step, and the labels of its batch."""

    every: int = 2

    def __call__(self, problem, state, batch):
        loss, _ = problem.update(state, batch)
        return {"loss": loss, "labels": batch.y.astype(jnp.float32)}


@pytest.mark.parametrize("name", TASKS)
def test_monitors_see_batches_of_these_labels(name):
    net, data, own = task(name)
    training = jt.Training(steps=2, batch_size=4, lr=0.0, monitors=(Update(),), **own)
    runs = jt.find_tickets(net, data, training, jt.Pruning(levels=0), seeds=(0,), progress=False)
    (log,) = runs.histories
    measured = log.monitored["labels"][log.looked["labels"][:, 0], 0]
    assert measured.shape == (2, 4, *data.labels.shape)
    known = {row.tobytes() for row in np.float32(data.train.y)}
    assert {row.tobytes() for row in measured.reshape(8, *data.labels.shape)} <= known
    assert np.isfinite(log.monitored["loss"][log.looked["loss"]]).all()


@pytest.mark.parametrize("name", TASKS)
def test_the_table_says_what_the_trained_network_does(name):
    runs = runs_of(name)
    split = runs.data.test
    params, stats = jax.tree.map(lambda x: jnp.asarray(x[0]), runs.trained(1))
    mean, std = np.asarray(runs.data.mean), np.asarray(runs.data.std)
    x = split.x if name == "tokens" else ((split.x - mean) / std).astype(np.float32)
    z = np.asarray(runs.net.apply(params, stats, jnp.asarray(x), train=False)[0], np.float64)
    found = runs.table().query("split == 'test' and level == 1 and seed == 0")
    found = found[found.step == runs.training.steps].set_index("metric").value
    for metric, value in reference(name, z, split.y).items():
        assert found[metric] == pytest.approx(value, rel=1e-4), metric


def reference(name, z, y):
    """Metrics in NumPy and scikit-learn's formulas."""
    if name == "numbers":
        error = (z - y) ** 2
        spread = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
        r2 = np.mean(1 - error.sum(axis=0) / spread)
        return {"loss": error.mean(), "r2": r2, "mae": np.abs(z - y).mean()}
    if name == "multilabel":
        loss = np.logaddexp(0, np.where(y > 0, -z, z)).mean()
        said = z > 0
        f1 = 2 * (said & (y > 0)).sum(axis=0) / (said.sum(axis=0) + (y > 0).sum(axis=0))
        return {"loss": loss, "accuracy": (said == (y > 0)).mean(), "macro_f1": f1.mean()}
    logp = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    there = y >= 0
    each = -np.take_along_axis(logp, np.maximum(y, 0)[..., None], axis=-1)[..., 0] * there
    right = ((z.argmax(axis=-1) == y) & there).sum(axis=1) / there.sum(axis=1)
    loss = (each.sum(axis=1) / there.sum(axis=1)).mean()
    perplexity = np.exp(each.sum() / there.sum())
    return {"loss": loss, "accuracy": right.mean(), "perplexity": perplexity}


@pytest.mark.parametrize("name", TASKS)
def test_a_score_of_examples_prunes_before_training(name):
    net, data, own = task(name)
    training = jt.Training(steps=20, batch_size=50, lr=0.01, **own)
    runs = jt.prune_at(net, data, training, score="snip", density=0.3, seeds=(0,), progress=False)
    assert runs.densities[-1] == pytest.approx(0.3, abs=0.01)
    assert np.isfinite(runs.table().value).all()


def test_devices_that_share_a_batch_give_what_one_gives():
    net, data, own = task("tokens")
    training = jt.Training(steps=12, batch_size=40, lr=0.01, accumulate=2, **own)
    tables = [
        jt.find_tickets(
            net, data, training, jt.Pruning(levels=0), seeds=(0,), mesh=mesh, progress=False
        ).table()
        for mesh in (jt.parallel.mesh(devices=jax.devices()[:1]), jt.parallel.mesh(data=2))
    ]
    np.testing.assert_allclose(tables[0].value, tables[1].value, rtol=1e-4)


# --- losses


def test_losses_by_hand():
    z, y = jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32), jnp.asarray(RNG.integers(0, 5, 8))
    y = y.astype(jnp.int32)
    entropy = optax.softmax_cross_entropy_with_integer_labels(z, y)
    focal = (1 - jnp.exp(-entropy)) ** 2 * entropy
    np.testing.assert_allclose(jt.losses.Focal(2.0)(z, y), focal, rtol=1e-4)
    np.testing.assert_allclose(jt.losses.Focal(0.0)(z, y), entropy, rtol=1e-5)
    several = (z > 0.3).astype(jnp.float32)
    expected = optax.sigmoid_binary_cross_entropy(z, several).mean(axis=1)
    np.testing.assert_allclose(jt.losses.binary_cross_entropy(z, several), expected, rtol=1e-5)
    np.testing.assert_allclose(jt.losses.mse(z, z + 2.0), np.full(8, 4.0), rtol=1e-5)
    np.testing.assert_allclose(jt.losses.mse(z[:, :1], z[:, 0] + 2.0), np.full(8, 4.0), rtol=1e-5)
    # [batch 2, sequence 4], with a place that does not count
    tokens = y.reshape(2, 4).at[0, 3].set(-1)
    each = np.asarray(entropy).reshape(2, 4)
    found = jt.losses.next_token(z.reshape(2, 4, 5), tokens)
    np.testing.assert_allclose(found, [each[0, :3].mean(), each[1].mean()], rtol=1e-5)
    np.testing.assert_allclose(
        jt.metrics.Perplexity().value(jt.metrics.Perplexity().sums(z.reshape(2, 4, 5), tokens)),
        np.exp((each[0, :3].sum() + each[1].sum()) / 7),
        rtol=1e-5,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_has_a_slope_where_the_network_is_certain(gamma):
    z = jnp.asarray([[200.0, 0.0], [0.0, 200.0], [0.3, 0.1]])
    slope = jax.grad(lambda z: jt.losses.Focal(gamma)(z, jnp.zeros(3, jnp.int32)).sum())(z)
    assert np.isfinite(slope).all() and slope[2, 0] < 0


def test_label_smoothing_of_tokens():
    z = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
    y = jnp.asarray([[0, 1, -1], [2, 3, 0]], jnp.int32)
    target = optax.smooth_labels(jax.nn.one_hot(y, 4), 0.1)
    each = optax.softmax_cross_entropy(z, target)
    found = jt.losses.next_token(z, y, smoothing=0.1)
    np.testing.assert_allclose(found, [each[0, :2].mean(), each[1].mean()], rtol=1e-5)


def test_fillers_are_no_examples():
    for y, alive in (
        (np.asarray([3, -1]), [True, False]),
        (np.asarray([[1.0, 2.0], [np.nan, np.nan]], np.float32), [True, False]),
        (np.asarray([[0, -1], [-1, -1]], np.int32), [True, False]),
        (np.asarray([[0, 1], [-1, -1]], np.int8), [True, False]),
    ):
        assert labels.living(y).tolist() == alive
        assert np.isfinite(labels.usable(jnp.asarray(y))).all()
    assert labels.usable(jnp.asarray([[0, -1], [-1, -1]], jnp.int32)).tolist() == [[0, -1], [0, 0]]


# --- class weights and epochs


def weighted(logits, y):
    weights = jnp.asarray([1.0, 2.0, 0.5, 1.0, 1.0, 0.0, 1.0, 3.0, 1.0, 1.0])
    return weights[y] * optax.softmax_cross_entropy_with_integer_labels(logits, y)


def test_class_weights_are_factors_of_the_losses():
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, widths=(16,))
    training = jt.Training(steps=30, batch_size=50)
    weights = (1, 2, 0.5, 1, 1, 0, 1, 3, 1, 1)
    runs = [
        jt.find_tickets(
            net, data, training.replace(**own), jt.Pruning(levels=0), seeds=(0, 1), keep="trained",
            progress=False,
        )
        for own in ({"class_weights": weights}, {"loss": weighted})
    ]  # fmt: skip
    leaves = [jax.tree.leaves(one.trained(0)) for one in runs]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    # evaluations are without the weights
    a, b = (one.table().query("metric == 'loss' and step == 0").value.to_numpy() for one in runs)
    assert (np.abs(a - b) > 1e-3).all()


def test_balanced_class_weights_are_one_on_average():
    data = jt.data.load("digits")
    weights = jt.Training(class_weights="balanced").for_data(data).class_weights
    assert np.asarray(weights)[data.train.y].mean() == pytest.approx(1)
    assert np.asarray(weights) * data.class_counts() == pytest.approx(len(data.train) / 10)


def test_epochs_become_steps():
    data = jt.data.load("digits")  # 1437 training examples
    settings = jt.Training(epochs=3, batch_size=100)
    assert settings.for_data(data).steps == 44  # 43.11 batches
    assert settings.for_data(data).epochs is None
    assert settings.replace(last_batch="drop").for_data(data).steps == 42
    assert settings.replace(steps=7).for_data(data).steps == 7
    assert jt.Training(steps=50).replace(epochs=1, batch_size=1437).for_data(data).steps == 1
    # a default is no wish, and what equals it is one
    copied = pickle.loads(pickle.dumps(settings))
    assert copied.replace(lr=0.1).epochs == dataclasses.replace(copied, lr=0.1).epochs == 3
    with pytest.raises(ValueError, match=r"`steps` is used without `epochs` only, got steps=24000"):
        jt.Training(steps=jt.Training().steps + 0, epochs=3)
    same = jt.Training(steps=9, class_weights=(1,) * 10)
    assert same.for_data(data) == same


# --- data


def test_entries_are_standardized_each():
    x = RNG.normal(3, np.arange(1, 13).reshape(3, 4), (500, 3, 4))
    y = RNG.integers(0, 2, 500)
    data = jt.data.from_arrays(x, y, x, y, normalize="entries", images=False)
    assert data.shape == data.mean.shape == (3, 4)
    np.testing.assert_allclose(data.std, x.std(axis=0), rtol=1e-4)
    half = data.halves()[0]
    np.testing.assert_allclose(half.std, half.train.x.std(axis=0), rtol=1e-4)
    own = jt.data.from_arrays(
        *((x - x.mean(0)) / x.std(0), y) * 2, normalize=False, images=False, name="own"
    )
    net = jt.networks.lenet(data.shape, 2, widths=(8,))
    training = jt.Training(steps=10, batch_size=50)
    a, b = (
        jt.find_tickets(net, one, training, jt.Pruning(levels=0), seeds=(0,), progress=False)
        .table()
        .value
        for one in (data, own)
    )
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert data.fingerprint != jt.data.from_arrays(x, y, x, y, images=False).fingerprint


def test_further_splits_have_rows_of_their_own():
    x, y = RNG.normal(size=(60, 5)), RNG.integers(0, 3, 60)
    data = jt.data.from_arrays(
        splits={"far": (x[:30] + 9, y[:30]), "train": (x, y), "test": (x[30:], y[30:])}
    )
    assert list(data.splits) == ["train", "test", "far"] and data.mean.shape == (5,)
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    training = jt.Training(steps=5, batch_size=20)
    runs = jt.find_tickets(net, data, training, jt.Pruning(levels=0), seeds=(0,), progress=False)
    table = runs.table()
    assert set(table.split) == {"train", "test", "far"}
    loss = table[(table.metric == "loss") & (table.step == 5)].set_index("split").value
    assert loss["far"] > loss["test"]


def test_parts_of_data_without_classes():
    data = regression()
    a, b = data.halves()
    assert len(a.train) == len(b.train) == 250 and data.class_counts() is None
    rows = np.concatenate([a.train.x, b.train.x])
    assert np.array_equal(np.sort(rows, axis=0), np.sort(data.train.x, axis=0))
    assert len(data.fraction(0.1).train) == 50 and len(data.with_validation(0.2).validation) == 100


def test_matching_takes_a_metric_where_there_is_no_accuracy():
    runs = runs_of("numbers")
    found = runs.matching(0.05, metric="r2")
    assert found[0] and set(found) == {0, 1}
    last = runs.table().query("split == 'test' and metric == 'loss'")
    last = last[last.step == runs.training.steps].groupby("level").value.mean()
    worse = last[1] - last[0]
    assert runs.matching(max(worse, 0) + 1e-4, metric="loss")[1]
    if worse > 1e-4:
        assert not runs.matching(worse / 2, metric="loss")[1]
    assert runs.winning(0.05, metric="r2") is None  # rewound to step 10
    with pytest.raises(ValueError, match=r"`metric`='accuracy' is not there: .*metric='r2'"):
        runs.matching()
    with pytest.raises(ValueError, match="`metric` must be one of 'loss', 'r2', 'mae', got 'f1'"):
        runs.matching(metric="f1")


def find(name, **changes):
    net, data, own = task(name)
    training = jt.Training(**{"steps": 4, "batch_size": 20, **own, **changes})
    return jt.find_tickets(net, data, training, jt.Pruning(levels=0), seeds=(0,), progress=False)


def bad_width():
    data = regression()
    net = jt.networks.lenet(data.shape, 3, widths=(4,))
    return jt.find_tickets(net, data, jt.Training(loss="mse", steps=4), progress=False)


REFUSED = [
    (lambda: find("numbers", loss="cross_entropy"), "`loss` 'cross_entropy' takes .* loss='mse'"),
    (lambda: find("tokens", loss="mse"), "those of `data` are tokens; use loss='next_token'"),
    (lambda: find("tokens", loss=jt.losses.Focal()), "takes labels of the kind classes"),
    (lambda: find("numbers", metrics=("top5",)), "`metrics` has 'top5', which takes labels of"),
    (lambda: find("numbers", class_weights=(1, 2)), "`class_weights` are those of classes"),
    (lambda: find("tokens", attack=PGD()), "`attack` .* changes images"),
    (lambda: find("numbers", attack=PGD()), r"`attack` keeps examples between low=0 and high=255"),
    (lambda: find("numbers", augment="flip"), "`augment` .* has examples of shape"),
    (lambda: find("numbers", epochs=2), "`steps` is used without `epochs` only"),
    (bad_width, r"`net` gives logits \[3\] for an example, and the labels .* need \[2\]"),
    (lambda: jt.Training(class_weights="even"), "`class_weights` must be one of 'balanced'"),
    (lambda: jt.Training(class_weights=(0, 0)), "`class_weights` .* are all 0"),
    (lambda: jt.Training(epochs=0), "`epochs`"),
    (lambda: jt.Training(epochs=2).dilated(2.0), "`factor` 2 stretches `steps`, which are not kn"),
    (lambda: jt.losses.Focal(-1), "`gamma`"),
    (lambda: jt.data.from_arrays([[1.0]], [1.5]), "`x_test` is missing"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("score", ["grasp", "snip"])
def test_scores_of_numbers_that_make_no_sense_are_refused(score):
    net, data, own = task("numbers")
    training = jt.Training(steps=4, batch_size=50, **own)
    more = {"per_class": 3} if score == "snip" else {}
    message = "`per_class` 3 asks for .* numbers" if more else "`score` 'grasp' divides logits by"
    with pytest.raises(ValueError, match=message):
        jt.prune_at(net, data, training, score=score, density=0.5, progress=False, **more)
