"""Monitors: what they measure, that they change nothing, and what is refused."""

import dataclasses
import functools
import os
import signal
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket.engine.program import program
from jaxticket.engine.supervised import Supervised

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="sgd", lr=0.1, eval_every=4, eval_batch_size=48,
    augment=("flip",),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Weights:
    """Norm of the update, distance from the start, and weights of each layer."""

    every: int = 3
    name: str = "update"

    def __call__(self, problem, state, batch):
        _, gradient = problem.update(state, batch)
        kept = jax.tree.leaves(jt.masks.apply(state.mask, gradient))
        moved = jax.tree.map(jnp.subtract, state.params, problem.start[0])
        squares = [sum(jnp.sum(x**2) for x in t) for t in (kept, jax.tree.leaves(moved))]
        counts = jnp.stack([jnp.sum(w != 0) for w in jax.tree.leaves(state.params)])
        return {self.name: jnp.sqrt(squares[0]), "l2": jnp.sqrt(squares[1]), "kept": counts}


@dataclasses.dataclass(frozen=True)
class Gives:
    what: object
    every: int = 1

    def __call__(self, problem, state, batch):
        return self.what


WATCHED = TRAINING.replace(monitors=(Weights(),))
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=2)
PRUNE = functools.partial(jt.find_tickets, NET, DATA, pruning=PRUNING, seeds=(0, 1), progress=False)


@functools.cache
def watched():
    return PRUNE(WATCHED, branches=["reinit"])


def test_the_table_has_every_step_and_number():
    table = watched().monitored()
    keys = ["seed", "level", "branch", "step", "metric", "index"]
    assert not table.duplicated(keys).any() and table.value.notna().all()
    steps = table.groupby(["branch", "level"]).step.unique().map(sorted).map(list)
    # starts, multiples of 3, and the end; the control begins at initialization
    assert steps["ticket", 0] == steps["reinit", 1] == [0, 3, 6, 8]
    assert steps["ticket", 1] == [2, 3, 6, 8]
    own = table[(table.branch == "ticket") & (table.level == 1) & (table["seed"] == 1)]
    kept = [np.count_nonzero(w) for w in jax.tree.leaves(watched().ticket(1, 1).params)]
    start = own[(own.step == 2) & (own.metric == "kept")]
    assert start.value.tolist() == kept and start["index"].tolist() == [0, 1, 2, 3]


@dataclasses.dataclass(frozen=True)
class AtSteps:
    at: tuple[int, ...]

    def __call__(self, problem, state, batch):
        return {"at": state.step}


@dataclasses.dataclass(frozen=True)
class One:
    every: int

    def __call__(self, problem, state, batch):
        return {"one": jnp.float32(1)}


def test_a_monitor_can_measure_at_chosen_steps_alone():
    runs = PRUNE(TRAINING.replace(monitors=(AtSteps((1, 2, 5, 90)), One(every=8))))
    table = runs.monitored()
    steps = table.groupby(["metric", "level"]).step.unique().map(sorted).map(list)
    assert steps["at", 0] == [1, 2, 5] and steps["at", 1] == [2, 5]
    assert steps["one", 0] == [0, 8] and steps["one", 1] == [2, 8]
    own = table[table.metric == "at"]
    assert (own.value == own.step).all()
    pd.testing.assert_frame_equal(runs.table(), PRUNE(TRAINING).table())
    with pytest.raises(ValueError, match=r"`monitors.at"):
        TRAINING.replace(monitors=(AtSteps((1, 1)),))


def test_the_gradient_is_that_of_the_update():
    """Plain descent moves the weights by lr times it in a step."""
    runs = PRUNE(TRAINING.replace(steps=4, eval_every=4, monitors=(Weights(every=1),)))
    table = runs.monitored().set_index(["level", "seed", "step"])
    values = {name: table[table.metric == name].value for name in ("update", "l2")}
    for seed in (0, 1):
        assert values["l2"][1, seed, 2] == 0
        np.testing.assert_allclose(
            values["l2"][1, seed, 3], 0.1 * values["update"][1, seed, 2], rtol=1e-4
        )


def test_monitors_change_nothing_and_compile_no_other_training():
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    plain, own = PRUNE(TRAINING, mesh=mesh), PRUNE(WATCHED, mesh=mesh)
    pd.testing.assert_frame_equal(own.table(), plain.table())
    chex.assert_trees_all_equal(own.by_level, plain.by_level)
    assert program(Supervised(NET, TRAINING), mesh).traces() == 1
    assert Supervised(NET, WATCHED) == Supervised(NET, TRAINING)
    with pytest.raises(ValueError, match="`monitored` is there for trainings with monitors"):
        plain.monitored()


def test_a_batch_split_over_devices_is_measured_whole():
    usual = watched().monitored()
    usual = usual[usual.branch == "ticket"].reset_index(drop=True)
    split = PRUNE(WATCHED, mesh=jt.parallel.mesh(2, data=2)).monitored()
    pd.testing.assert_frame_equal(split, usual, rtol=1e-4)


def test_one_device_and_few_at_once_measure_the_same():
    mesh = jt.parallel.mesh(devices=jax.devices()[:1])
    few = PRUNE(WATCHED, branches=["reinit"], mesh=mesh, at_once=1)
    pd.testing.assert_frame_equal(few.monitored(), watched().monitored())


def test_prune_at_monitors_dense_networks_and_tickets():
    runs = jt.prune_at(
        NET, DATA, WATCHED, score="magnitude", density=0.5, seeds=(0,), progress=False
    )
    assert set(runs.monitored().level) == {0, 1}


def test_a_stopped_run_goes_on_with_what_was_measured(tmp_path):
    training = WATCHED.replace(steps=60, eval_every=2)
    whole, folder = PRUNE(training), tmp_path / "run"
    handler = signal.signal(signal.SIGTERM, lambda *_: None)

    def stop():
        while not any(folder.glob("state/*")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(jt.RunInterrupted):
        PRUNE(training, folder=folder, save_every=0)
    stopper.join()
    signal.signal(signal.SIGTERM, handler)
    again = PRUNE(training, folder=folder)
    pd.testing.assert_frame_equal(again.monitored(), whole.monitored())
    pd.testing.assert_frame_equal(jt.results.read(folder / "monitored.parquet"), whole.monitored())
    with pytest.raises(jt.RunFolderError, match=r"training.monitors"):
        PRUNE(training.replace(monitors=(Weights(every=5),)), folder=folder)


def test_values_are_nan_from_where_the_loss_was_not_finite():
    runs = PRUNE(WATCHED.replace(lr=1e30))
    table, log = runs.monitored(), runs.histories[0]
    assert (log.diverged > 0).all()
    own = table[table.level == 0].merge(
        pd.DataFrame({"seed": runs.seeds, "at": log.diverged}), on="seed"
    )
    assert own[own.step == 0].value.notna().all()
    assert own[own.step >= own["at"]].value.isna().all()


WRONG = [
    ((lambda problem, state, batch: {},), "`monitors` must be objects with a number of steps"),
    ((Weights,), "`monitors` must be objects with a number of steps"),
    (("norms",), "`monitors` must be objects with a number of steps"),
    ((Weights(every=0),), "`monitors.* must be a whole number of at least 1"),
    ((Weights(), Weights(every=5)), "`monitors` give 'kept' more than once"),
    ((Weights(), Weights()), "`monitors`"),
    ((Gives(1.0),), "`monitors` .* must give a dict of arrays by name"),
    ((Gives("text"),), "`monitors` .* fails when it is tried"),
]


@pytest.mark.parametrize(("monitors", "message"), WRONG)
def test_wrong_monitors_are_refused(monitors, message):
    with pytest.raises(ValueError, match=message):
        PRUNE(TRAINING.replace(monitors=monitors))


def test_instability_reports_no_monitors():
    with pytest.raises(ValueError, match=r"`training` has monitors.*monitors=\(\)"):
        jt.instability(NET, DATA, WATCHED, at=(0,), copies=2, seeds=(0,), progress=False)
