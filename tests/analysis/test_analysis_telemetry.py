"""Telemetry of tickets: against a loop written by hand, alongside its run, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from patterns import batch_at
from stops import after_save, killed

import jaxticket as jt
from jaxticket.analysis import telemetry as module
from jaxticket.engine import program as train
from jaxticket.engine.loop import job_plan
from jaxticket.engine.monitors import observer
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words, root_keys, stream
from jaxticket.sparsify import runner

STEPS, REWIND, CLIP = 24, 4, 0.4
METRICS = list(module.METRICS)


def small_data():
    """Three noisy 4x4 patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (3, 4, 4))
    y = rng.integers(0, 3, 140)
    x = np.clip(patterns[y] + rng.integers(-60, 60, (140, 4, 4)), 0, 255).astype(np.uint8)
    return jt.data.from_arrays(x[:100], y[:100], x[100:], y[100:], classes=3)


DATA = small_data()
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(10, 6))
# everything that must not be in the gradient is in the training
TRAINING = jt.Training(
    steps=STEPS,
    batch_size=16,
    optimizer="momentum",
    lr=0.2,
    weight_decay=1e-3,
    milestones=(18,),
    label_smoothing=0.1,
    clip_norm=CLIP,
    eval_every=10,
)


def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


def find(training=TRAINING, net=NET, **options):
    options = {"pruning": jt.Pruning(levels=2, rewind=REWIND), "seeds": (3, 5)} | options
    options.setdefault("mesh", mesh())
    return jt.find_tickets(net, DATA, training, progress=False, **options)


@pytest.fixture(scope="module")
def runs():
    return find()


@pytest.fixture(scope="module")
def table(runs):
    return jt.telemetry(runs, every=7, progress=False)


def look(runs, **options):
    return jt.telemetry(runs, progress=False, **options)


def values(table, metric, **where):
    rows = table[table.metric == metric]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.value.to_numpy()


def by_hand(ticket, seed, looks):
    """The metrics at some steps, from a training written independently: {step: [metric]}."""
    # every level has noise of its own
    order = int(ticket.level)
    words = permutation_words(stream(jax.random.key(seed), "order", order))
    names = [f"dense_{i}" for i in range(3)]
    start = {name: np.asarray(ticket.params[name]["kernel"], np.float64) for name in names}
    mask = {name: np.asarray(ticket.mask[name]["kernel"]) for name in names}

    def gradient(params, x, y):
        """Backpropagation through two ReLU layers and a softmax with smoothed labels."""
        inputs = []
        for name in names:
            inputs.append(x)
            x = x @ params[name]["kernel"] + params[name]["bias"][None]
            x = np.maximum(x, 0) if name != names[-1] else x
        shares = np.exp(x - x.max(axis=1, keepdims=True))
        shares = shares / shares.sum(axis=1, keepdims=True)
        error = (shares - 0.9 * np.eye(3)[y] - 0.1 / 3) / len(y)
        found = {}
        for name, x in zip(names[::-1], inputs[::-1], strict=True):
            found[name] = {"kernel": mask[name] * (x.T @ error), "bias": error.sum(axis=0)}
            error = (error @ params[name]["kernel"].T) * (x > 0)
        return found

    params = jax.tree.map(lambda w: np.asarray(w, np.float64), ticket.params)
    buffer = jax.tree.map(np.zeros_like, params)
    found = {}
    for step in range(int(ticket.step), STEPS + 1):
        index = np.asarray(batch_at(words, np.int32(step), examples=100, batch_size=16))
        x = (DATA.train.x[index].astype(np.float32) - DATA.mean) / DATA.std
        g = gradient(params, x.reshape(16, -1), DATA.train.y[index])
        if step in looks:
            w = np.concatenate([params[n]["kernel"][mask[n]] for n in names])
            b = np.concatenate([start[n][mask[n]] for n in names])
            slope = np.concatenate([g[n]["kernel"][mask[n]] for n in names])
            found[step] = [
                np.mean(np.abs(w)),
                np.mean(np.sign(w) != np.sign(b)),
                np.linalg.norm(w - b),
                w @ b / np.linalg.norm(w) / np.linalg.norm(b),
                np.linalg.norm(slope),
            ]
        size = np.sqrt(sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(g)))
        less, rate = min(1.0, CLIP / size), 0.2 * (0.1 if step >= 18 else 1.0)
        buffer = jax.tree.map(
            lambda v, g, w, less=less: 0.9 * v + less * g + 1e-3 * w, buffer, g, params
        )
        params = jax.tree.map(lambda w, v, rate=rate: w - rate * v, params, buffer)
    return found


def test_the_table_is_tidy_and_complete(runs, table):
    columns = ["seed", "level", "density", "branch", "step", "metric", "value"]
    assert list(table.columns) == columns
    assert set(table.branch) == {"ticket"} and set(table.level) == {0, 1, 2}
    # the start, the multiples of 7 and the end
    assert sorted(set(table.step)) == [4, 7, 14, 21, 24]
    assert len(table) == 3 * 2 * 5 * 5
    assert not table.duplicated(columns[:6]).any()
    np.testing.assert_array_equal(table.groupby("level").density.first(), runs.densities)
    assert np.isfinite(table.value).all()


def test_at_the_start_nothing_has_moved(runs, table):
    start = table[table.step == REWIND]
    assert (values(start, "sign_flips") == 0).all()
    assert (values(start, "l2") == 0).all()
    assert (values(start, "cosine") == 1).all()
    later = table[table.step == 21]
    assert (values(later, "sign_flips") > 0).all() and (values(later, "l2") > 0).all()
    assert (values(later, "cosine") < 1).all()


@pytest.mark.parametrize(("level", "seed"), [(0, 3), (2, 5)])
def test_every_metric_is_that_of_a_loop_by_hand(runs, table, level, seed):
    found = by_hand(runs.ticket(level, seed), seed, {4, 7, 14, 21, 24})
    own = table[(table.level == level) & (table.seed == seed)]
    seen = own.pivot(index="step", columns="metric", values="value")[METRICS]
    expected = np.asarray([found[step] for step in seen.index])
    np.testing.assert_allclose(seen.to_numpy(), expected, rtol=2e-4, atol=2e-6)
    # the gradient is that before clipping, which this training does
    assert expected[:, METRICS.index("gradient_norm")].max() > CLIP


def trees(*leaves):
    return {name: x if x is None else np.asarray(x) for name, x in zip("abc", leaves, strict=True)}


def measured(now, start, gradient, mask):
    floats = [trees(*(np.asarray(x, np.float32) for x in t)) for t in (now, start, gradient)]
    seen = jax.jit(module.measured)(*floats, trees(*mask))
    return dict(zip(METRICS, np.asarray(seen).tolist(), strict=True))


def test_metrics_by_hand():
    seen = measured(
        # turned, kept, became 0; was 0 and grew, pruned; not prunable
        now=([1.0, 2.0, 0.0], [3.0, 0.0], [9.0]),
        start=([-1.0, 2.0, 4.0], [0.0, 0.0], [-9.0]),
        # at pruned weights and biases it may be anything
        gradient=([3.0, 0.0, 0.0], [4.0, 100.0], [100.0]),
        mask=([True] * 3, [True, False], None),
    )
    # four survivors, one of them 0 at the start
    assert seen["magnitude"] == 6 / 4
    assert seen["sign_flips"] == pytest.approx(2 / 3)
    assert seen["l2"] == pytest.approx(np.sqrt(4 + 0 + 16 + 9))
    assert seen["cosine"] == pytest.approx((-1 + 4) / np.sqrt(14 * 21))
    assert seen["gradient_norm"] == 5


def test_where_nothing_survives_nothing_is_measured():
    empty = ([0.0, 0.0, 0.0], [0.0, 0.0], [1.0])
    mask = ([False] * 3, [False] * 2, None)
    assert np.isnan(list(measured(empty, empty, empty, mask).values())).all()


def normalizing():
    """A layer whose outputs are normalized over the batch, and noise: for the gradient to get
    wrong.
    """

    def init(key):
        kernel = 0.3 * jax.random.normal(key, (16, 3))
        return {"layer": {"kernel": kernel}}, {"mean": jnp.zeros(3)}

    def apply(params, stats, x, *, train, key=None):
        x = x.reshape(x.shape[0], -1) @ params["layer"]["kernel"]
        mean = jnp.mean(x, axis=0) if train else stats["mean"]
        x = x - mean[None]
        if train:
            x = x * jax.random.bernoulli(key, 0.8, x.shape).astype(x.dtype)
        return x, {"mean": 0.5 * stats["mean"] + 0.5 * mean}

    return jt.from_functions(init, apply, name="normalizing", shape=DATA.shape)


def test_the_gradient_is_the_one_that_moves_the_weights():
    """One step of plain descent goes lr * ||m * g|| far, augmented and noisy as it is trained."""
    training = jt.Training(
        steps=2, batch_size=16, optimizer="sgd", lr=0.5, label_smoothing=0.1,
        augment=("flip",),
    )  # fmt: skip
    one = jt.parallel.mesh(devices=jax.devices()[:1])
    own = find(training, normalizing(), pruning=jt.Pruning(levels=0), seeds=(3,), mesh=one)
    table = look(own, every=1)
    assert sorted(set(table.step)) == [0, 1, 2]
    first = values(table, "gradient_norm", step=0)
    assert first > 0.01
    np.testing.assert_allclose(values(table, "l2", step=1), 0.5 * first, rtol=1e-5)


def test_watching_changes_nothing(runs, monkeypatch):
    """The last evaluation is bitwise that of the run, by the same compiled program."""
    kept, own = [], runner.train_jobs

    def noted(*args, **options):
        kept.append(own(*args, **options))
        return kept[-1]

    monkeypatch.setattr(runner, "train_jobs", noted)
    look(runs, every=3, levels=[2])
    (trained,) = kept
    end = runs.table()
    end = end[(end.level == 2) & (end.step == STEPS)].sort_values(["seed", "split"])
    names = ("loss", "accuracy")
    expected = [[end[end.metric == m].value.to_numpy().reshape(2, 2) for m in names]]
    np.testing.assert_array_equal(trained.values[-1], np.moveaxis(expected[0], 0, -1))
    # and between the ends no time is lost with evaluations
    assert np.isnan(trained.values[1:-1]).all() and np.isfinite(trained.values[0]).all()
    assert train.program(Supervised(NET, TRAINING), runs.mesh).traces() == 1


def test_fewer_steps_are_the_beginning_of_all(runs, table):
    part = look(runs, every=7, steps=10, levels=[1])
    assert sorted(set(part.step)) == [4, 7, 14]
    whole = table[(table.level == 1) & (table.step <= 14)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, whole)


def test_blocks_of_few_replicas_give_the_same(runs, table):
    few = look(dataclasses.replace(runs, size=6), every=7, at_once=1)
    pd.testing.assert_frame_equal(few, table)


def test_a_batch_split_over_devices_gives_the_same(table, runs):
    split = jt.parallel.mesh(seeds=2, data=2)
    ticket = runs.by_level[2]
    put = functools.partial(jt.parallel.put, mesh=split)
    keys = jax.random.wrap_key_data(put(np.asarray(jax.random.key_data(root_keys(runs.seeds)))))
    minus = put(np.full(2, -1, np.int32))
    state = jt.TrainState(
        put(ticket.step), put(ticket.params), {}, (), put(ticket.mask), keys, minus
    )
    seen = observer(Supervised(NET, TRAINING), split, module.Telemetry(1))(
        np.zeros(2, np.int32),
        state,
        (put(ticket.params), {}),
        put(job_plan(TRAINING, 2, order=2)),
        None,
        put_data(DATA, TRAINING, split).arrays,
    )
    rows = table[(table.level == 2) & (table.step == REWIND)]
    found = np.stack([seen[name] for name in module.METRICS], axis=-1)
    np.testing.assert_allclose(found.reshape(-1), rows.value, rtol=1e-5)


def test_a_branch_is_watched_without_training_it_before(runs, table):
    flipped = look(runs, branch=jt.branches.sign_flip, levels=[2])
    assert set(flipped.branch) == {"sign_flip"}
    # the same weights but for their signs, from which they move on
    where = dict(step=REWIND, level=2)
    np.testing.assert_array_equal(
        values(flipped, "magnitude", **where), values(table, "magnitude", **where)
    )
    assert (values(flipped, "l2", step=REWIND) == 0).all()
    assert (
        values(flipped, "gradient_norm", **where) != values(table, "gradient_norm", **where)
    ).all()
    before = look(jt.branch(runs, "sign_flip", levels=[2], progress=False))
    pd.testing.assert_frame_equal(before, flipped)


def test_dilated_runs_are_watched_as_they_were_trained(runs):
    half = jt.branch(runs, "retrain", dilation=0.5, levels=[1], progress=False)
    assert sorted(set(look(half, every=5).step)) == [2, 5, 10, 12]
    both = jt.branch(runs, "retrain", dilation=(0.5, 1.0), levels=[1], progress=False)
    with pytest.raises(ValueError, match=r"dilations \[0.5, 1.0\]; pass runs with one"):
        look(both)


def test_from_where_the_loss_is_not_finite_values_are_nan(runs):
    wild = TRAINING.replace(lr=1e25, milestones=(REWIND,), gamma=1.0)
    lost = jt.branch(runs, "retrain", training=wild, levels=[1], progress=False)
    table = look(lost, every=1)
    seen = lost.table()
    for seed in sorted(set(table["seed"])):
        own = table[table["seed"] == seed]
        (at,) = set(seen[seen.seed == seed].diverged)
        assert REWIND < at < STEPS - 1
        assert np.isfinite(own[own.step < at].value).all()
        # the loss of this step is not finite
        assert own[own.step >= at].value.isna().all()


def test_a_resumed_telemetry_ends_the_same(runs, table, tmp_path):
    kept = dataclasses.replace(runs, folder=tmp_path)
    with killed(2) as saves:
        look(kept, every=7, levels=[1, 2], save_every=0)
    assert saves == [("jobs-00000-00002", 1), ("jobs-00000-00002", 2)]
    again = look(kept, every=7, levels=[1, 2], save_every=1e9)
    expected = table[table.level > 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, expected)
    (folder,) = (tmp_path / "telemetry").iterdir()
    assert folder.name.startswith("retrain-")
    pd.testing.assert_frame_equal(jt.results.read(folder / "table.parquet"), expected)
    assert not (folder / "state").exists()
    # finished: it is read
    with after_save(None, units=True) as saves:
        found = look(kept, every=7, levels=[1, 2], save_every=0)
    pd.testing.assert_frame_equal(found, expected)
    assert not saves
    with pytest.raises(ValueError, match="other settings: `every` is 7 there and 8 here"):
        look(kept, every=8, levels=[1, 2], folder=folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(levels=[1, 9]), r"`levels` must be some of \(0, 1, 2\), got \[9\]"),
        (dict(levels=[]), "`levels` is empty; pass at least one"),
        (dict(every=0), "`every` must be a whole number of at least 1, got 0"),
        (dict(every=2.5), "`every` must be a whole number of at least 1, got 2.5"),
        (dict(steps=0), "`steps` must be a whole number of at least 1, got 0"),
        (dict(steps=21), r"`steps` must be at most 20, .* at step 24, got 21"),
        (dict(at_once=0), "`at_once` must be a whole number of at least 1, got 0"),
        (dict(branch="reinitt"), "`branch` is unknown: 'reinitt'; did you mean 'reinit'"),
    ],
    ids=str,
)
def test_bad_input(runs, options, message):
    with pytest.raises(ValueError, match=message):
        look(runs, **options)
