"""Trainings that end early: each network by itself, as by a stop step."""

import dataclasses
import functools

import jax
import numpy as np
import pandas as pd
import pytest

import jaxticket as jt

DIGITS = jt.data.load("digits")
DATA = jt.data.from_arrays(
    DIGITS.train.x[:160], DIGITS.train.y[:160], DIGITS.test.x[:80], DIGITS.test.y[:80]
).with_validation(0.2)
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
TRAINING = jt.Training(
    steps=24, batch_size=16, optimizer="sgd", lr=0.2, eval_every=3, eval_batch_size=48
)
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=3)
SEEDS = (0, 1, 2)
FIND = functools.partial(jt.find_tickets, NET, DATA, pruning=PRUNING, progress=False)


@functools.cache
def whole():
    return FIND(TRAINING, seeds=SEEDS)


def of(runs, level, seed):
    table = runs.table()
    own = table[(table.level == level) & (table["seed"] == seed)]
    return own.pivot_table(index="step", columns=["split", "metric"], values="value")


def threshold():
    """An accuracy that seeds reach at different steps before the end."""
    curves = [of(whole(), 0, seed)["validation", "accuracy"] for seed in SEEDS]
    reached = {
        value: [next((step for step, a in curve.items() if a >= value), 24) for curve in curves]
        for value in np.linspace(0.1, 0.95, 60)
    }
    best = max(reached, key=lambda v: (len(set(reached[v])), sum(s < 24 for s in reached[v])))
    return float(best), reached[best]


def test_each_network_stops_by_itself_and_is_as_it_was_at_that_step():
    value, steps = threshold()
    assert len(set(steps)) > 1
    training = TRAINING.replace(stop_when=jt.Target("accuracy", value))
    runs = FIND(training, seeds=SEEDS)
    for seed, step in zip(SEEDS, steps, strict=True):
        own, other = of(runs, 0, seed), of(whole(), 0, seed)
        assert own.index.max() == max(step, 3)
        pd.testing.assert_frame_equal(own, other.loc[: own.index.max()])
    # the ticket is pruned from the weights where the network stopped
    i = int(np.argmin(steps))
    kept = jax.jit(jt.make_train(NET, DATA, TRAINING, stop=max(steps[i], 3)))
    state, _ = kept(jax.random.key(SEEDS[i]))
    mask = jt.prune(state.params, score="magnitude", density=0.5, key=jax.random.key(0))
    found = runs.ticket(1, SEEDS[i]).mask
    for a, b in zip(*map(jax.tree.leaves, (mask, found)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_neighbors_do_not_matter():
    value, _ = threshold()
    training = TRAINING.replace(stop_when=jt.Target("accuracy", value))
    side_by_side = FIND(training, seeds=SEEDS).table()
    few = FIND(
        training, seeds=SEEDS, mesh=jt.parallel.mesh(devices=jax.devices()[:1]), at_once=1
    ).table()
    pd.testing.assert_frame_equal(side_by_side, few)


def test_vmapped_replicas_stop_alike(vmap_replicas):
    value, _ = threshold()
    training = TRAINING.replace(stop_when=jt.Target("accuracy", value))
    usual = FIND(training, seeds=SEEDS).table()
    vmap_replicas()
    mesh = jt.parallel.mesh(devices=jax.devices()[3:4])
    pd.testing.assert_frame_equal(FIND(training, seeds=SEEDS, mesh=mesh).table(), usual, rtol=1e-4)


def test_a_resumed_run_stops_at_the_same_steps(tmp_path):
    value, _ = threshold()
    training = TRAINING.replace(stop_when=jt.Target("accuracy", value), eval_every=1)
    expected = FIND(training, seeds=SEEDS).table()
    runtime, calls = jt.Runtime(folder=tmp_path, time_budget=0.02, progress=False), 0
    while True:
        calls += 1
        try:
            runs = jt.find_tickets(NET, DATA, training, PRUNING, seeds=SEEDS, runtime=runtime)
            break
        except jt.RunInterrupted:
            if calls == 12:
                runtime = jt.Runtime(folder=tmp_path, progress=False)
    assert calls > 1
    pd.testing.assert_frame_equal(runs.table(), expected)
    for other in (None, jt.Plateau(), jt.Target("accuracy", value / 2)):
        with pytest.raises(jt.RunFolderError, match=r"training.stop_when"):
            FIND(training.replace(stop_when=other), seeds=SEEDS, folder=tmp_path)


@dataclasses.dataclass(frozen=True)
class AtOnce:
    """A rule of the user's, which stops at once."""

    def __call__(self, steps, metrics):
        return len(steps) >= 1 and "test/loss" in metrics


@dataclasses.dataclass(frozen=True)
class Steps:
    every: int = 7

    def __call__(self, problem, state, batch):
        return {"at": state.step}


def test_a_step_to_rewind_to_is_trained_to_and_monitors_measure_at_the_end():
    training = TRAINING.replace(stop_when=AtOnce(), monitors=(Steps(),))
    seen = []
    runs = FIND(training, seeds=(0,), on_evaluation=seen.extend)
    table = runs.table()
    assert len(seen) == len(table)
    # the level that starts at step 3 ends there
    assert set(table[table.level == 1].step) == {3}
    measured = runs.monitored()
    assert (measured.value == measured.step).all()
    for level in (0, 1):
        last = table[table.level == level].step.max()
        assert measured[measured.level == level].step.max() == last
    found, plain = runs.ticket(1, 0).params, whole().ticket(1, 0).params
    for a, b in zip(*map(jax.tree.leaves, (found, plain)), strict=True):
        both = (a != 0) & (b != 0)
        assert both.any()
        np.testing.assert_array_equal(np.where(both, a, 0), np.where(both, b, 0))


def test_prune_at_stops_dense_networks_and_tickets():
    training = TRAINING.replace(stop_when=jt.Plateau("loss", patience=1, least=0.3))
    runs = jt.prune_at(
        NET, DATA, training, score="magnitude", density=0.5, seeds=(0,), progress=False
    )
    steps = runs.table().groupby("level").step.max()
    assert (steps < 24).all()


WRONG = [
    (jt.Plateau("loss", split="test2"), "`stop_when` looks at the split 'test2'"),
    (jt.Target("top5", 1, better="higher"), "`stop_when` looks at the metric 'top5'.* or add it"),
    (3, "`stop_when` must be a jt.Plateau"),
    (jt.Plateau, "`stop_when` must be a jt.Plateau"),
]


@pytest.mark.parametrize(("rule", "message"), WRONG)
def test_wrong_rules_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        FIND(TRAINING.replace(stop_when=rule), seeds=(0,))


def test_what_is_refused():
    with pytest.raises(ValueError, match="`better` is needed for the metric 'top5'"):
        jt.Target("top5", 0.9)
    with pytest.raises(ValueError, match="`patience` must be"):
        jt.Plateau(patience=0)
    plain = jt.data.from_arrays(DATA.train.x, DATA.train.y, DATA.test.x, DATA.test.y)
    with pytest.raises(ValueError, match=r"the split 'validation'.*data.with_validation"):
        jt.find_tickets(NET, plain, TRAINING.replace(stop_when=jt.Plateau()), progress=False)
    with pytest.raises(ValueError, match="`training` has a `stop_when`"):
        jt.instability(
            NET, DATA, TRAINING.replace(stop_when=jt.Plateau()), at=(0,), seeds=(0,), progress=False
        )


def test_telemetry_ends_where_training_did():
    value, _ = threshold()
    runs = FIND(TRAINING.replace(stop_when=jt.Target("accuracy", value)), seeds=SEEDS)
    trained, seen = runs.table(), jt.telemetry(runs, levels=[1], every=2, progress=False)
    ends = trained[trained.level == 1].groupby("seed").step.max()
    assert (ends < 24).any()
    pd.testing.assert_series_equal(seen.groupby("seed").step.max(), ends)


def test_costs_count_the_steps_that_were_trained():
    value, _ = threshold()
    training = TRAINING.replace(stop_when=jt.Target("accuracy", value))
    runs = FIND(training, pruning=PRUNING.replace(levels=2), seeds=SEEDS)
    table = runs.table()
    ends = table[table.branch == "ticket"].groupby(["level", "seed"]).step.max().groupby("level")
    taken = ends.mean()
    assert taken[0] < 24
    found = jt.costs.finding(runs).set_index("level")
    # the second level begins at step 3
    expected = {0: 0, 1: taken[0], 2: taken[0] + taken[1] - 3}
    assert found.training_steps.to_dict() == pytest.approx(expected)
    assert found.examples.to_dict() == pytest.approx({n: 16 * x for n, x in expected.items()})


@pytest.mark.parametrize("dense", [True, False])
def test_costs_of_pruning_where_training_stopped(dense):
    training = TRAINING.replace(stop_when=jt.Plateau("loss", patience=1, least=0.3))
    options = {"score": "magnitude", "density": 0.5, "seeds": (0,), "progress": False}
    seen = []
    runs = jt.prune_at(
        NET, DATA, training, step=24, dense=dense, on_evaluation=seen.extend, **options
    )
    last = max(row["step"] for row in seen if row["level"] == 0)
    assert last < 24
    assert jt.costs.finding(runs).training_steps.to_list()[-1] == last
