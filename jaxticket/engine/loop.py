"""Training of many replicas, from host arrays to host arrays.

A training is a sequence of calls of the compiled program, with evaluations, saves and progress.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.engine import parallel
from jaxticket.engine.calls import Calls, Stops, planned
from jaxticket.engine.calls import Watch as Watch
from jaxticket.engine.jobs import Jobs as Jobs
from jaxticket.engine.jobs import Trained as Trained
from jaxticket.engine.jobs import history_arrays as history_arrays
from jaxticket.engine.jobs import job_plan as job_plan
from jaxticket.engine.jobs import join as join
from jaxticket.engine.jobs import report_diverged as report_diverged
from jaxticket.engine.jobs import take as take
from jaxticket.engine.metrics import metric_names
from jaxticket.engine.monitors import Monitor, Watcher
from jaxticket.engine.program import OriginT, PlanT, StateT
from jaxticket.engine.record import Record, lost_at_the_end, resumed, saved
from jaxticket.engine.runtime import Arrays as Arrays
from jaxticket.engine.runtime import Row, Run
from jaxticket.engine.supervised import Supervised
from jaxticket.labels import labels_of
from jaxticket.stopping import StopRule


def begin_state(run: Run[StateT, PlanT, OriginT], jobs: Jobs[OriginT, PlanT]) -> StateT:
    """The training states of jobs on the devices, padded to the block's size."""
    padded = parallel.pad(jobs, run.size)
    keys = jax.random.wrap_key_data(parallel.put(padded.keys, run.mesh))
    origin, start = parallel.put((padded.origin, padded.start), run.mesh)
    state = run.program.start(np.zeros(run.size, np.int32), origin, keys, start)
    if not jobs.lost.any():
        return state
    diverged = np.where(padded.lost, padded.start, -1).astype(np.int32)
    return state._replace(diverged=parallel.put(diverged, run.mesh))


def train_jobs(
    run: Run[StateT, PlanT, OriginT],
    jobs: Jobs[OriginT, PlanT],
    unit: str,
    *,
    snapshots_at: Sequence[int] = (),
    ends_only: bool = False,
    watch: Watch[StateT] | None = None,
    monitors: Sequence[Monitor] = (),
    keeps: Callable[[StateT], object] | None = None,
    weights_at: Sequence[int] = (),
    weights: Callable[[StateT], object] | None = None,
    about: Sequence[Row] = (),
    stop_when: StopRule | None = None,
) -> Trained[StateT]:
    """Train jobs, at most a block of them, to their stop steps.

    Each job is evaluated at its start, at every multiple of the interval and at its stop.

    With a folder the state is saved from time to time, and training resumes from the newest save of
    this unit. The result does not depend on where it was saved: calls end at the same absolute
    steps.

    Args:
      run: where to run.
      jobs: at most `run.size` of them.
      unit: name of this piece of work in the folder.
      snapshots_at: keep the weights and statistics of these steps.
      ends_only: evaluate at the start and the stop of each job only.
      watch: what else to compute at every evaluation.
      monitors: what to measure, of supervised training.
      keeps: `keeps(state) -> tree`, what a snapshot holds, device arrays [place, ...]; None for the
        weights and statistics.
      weights_at: steps whose networks are kept as they are evaluated; jobs that stop early are
        there as they were then.
      weights: `weights(state) -> tree`, these networks with their masks.
      about: of each job, the columns of its rows that do not depend on the evaluation, for the
        callbacks of the run, which hear of nothing without it.
      stop_when: ends jobs early, of those that train to the end of their schedule.
    """
    began, count = time.perf_counter(), len(jobs.start)
    calls = planned(jobs, run.interval, (*snapshots_at, *weights_at), ends_only, watch, monitors)
    kept = run.program.learner.current if keeps is None else keeps
    looked_for = [(k, kept) for k in snapshots_at]
    looked_for += [(k, weights) for k in weights_at if weights is not None]
    state = begin_state(run, jobs)
    looks, shape = len(calls.until), () if watch is None else watch.shape
    zeros = [
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), look(state)) for _, look in looked_for
    ]
    watcher, observed = None, ()
    if monitors:
        learner = run.program.learner
        if not isinstance(learner, Supervised):
            learner = Supervised(learner.net, learner.training)
        watcher = Watcher(learner, run.mesh, monitors, run.labels, looks, count, state)
        keys, plan = parallel.pad((jobs.keys, jobs.plan), run.size)
        # copies: the state is given up by the first call
        start = jax.tree.map(jnp.copy, run.program.learner.current(state))
        observed = start, parallel.put(plan, run.mesh)
    record = Record(
        np.full((looks, count, run.splits, run.program.metrics), np.nan, np.float32),
        np.full((looks, *shape), np.nan, np.float32),
        watcher.values if watcher is not None else [],
        zeros,
    )
    first, state, record = resumed(run, unit, state, record)
    rule = None if ends_only else stop_when
    stops = Stops(run, jobs, calls, record, rule, snapshots_at, monitors)
    for call in range(first):
        stops.decide(call)
    run.skip(sum(calls.steps(i) for i in range(first)))
    run.resumes(calls.until[first - 1] if first else int(jobs.start.min()), calls.until[-1])

    def after(call: int, state: StateT) -> None:
        for place, (step, look) in enumerate(looked_for):
            if calls.until[call] == step:
                record.snapshots[place] = parallel.host(look(state))
        if watch is not None and calls.wanted[call].any():
            record.watched[call] = watch.look(state, calls.wanted[call])
            if watch.rows is not None and run.reports:
                run.report(watch.rows(state, calls.end[call], record.watched[call]))
        if watcher is not None and any(on[call].any() for on in calls.due):
            block = run.data.at_step(keys, plan, parallel.host(state.step))
            given = (state, *observed, block, run.data.arrays)
            watcher.look(call, [on[call] for on in calls.due], np.zeros(run.size, np.int32), *given)

    state = _advanced(run, jobs, unit, calls, state, record, first, after, about, stops)
    state, diverged = _checked(run, jobs, unit, calls, state, record)
    # what diverged predicts one class: its accuracy is a number that means nothing
    meaningless = (diverged >= 0) & (calls.end >= diverged)
    record.values[meaningless] = np.nan
    looked, monitored = {}, {}
    for due, values in zip(calls.due, record.monitored, strict=True):
        for name, x in values.items():
            x[meaningless] = np.nan
            looked[name], monitored[name] = due, x
    return Trained(
        state,
        calls.end,
        calls.wanted,
        record.values,
        diverged,
        tuple(take(snapshot, 0, count) for snapshot in record.snapshots[: len(snapshots_at)]),
        record.watched,
        time.perf_counter() - began,
        looked,
        monitored,
        tuple(take(network, 0, count) for network in record.snapshots[len(snapshots_at) :]),
    )


def _advanced(
    run: Run[StateT, PlanT, OriginT],
    jobs: Jobs[OriginT, PlanT],
    unit: str,
    calls: Calls,
    state: StateT,
    record: Record,
    first: int,
    after: Callable[[int, StateT], None],
    about: Sequence[Row],
    stops: Stops,
) -> StateT:
    """Make the calls from `first` on, and return the state after them.

    The state is saved when it is time; `after(call, state)` is called after each call.
    """
    count = len(jobs.start)
    reports = run.reports and len(about) > 0

    def collect(call: int, metrics: jax.Array, diverged: jax.Array | None) -> None:
        record.values[call] = parallel.host(metrics)[:count]
        run.advance(calls.steps(call))
        if diverged is not None:
            run.report(_rows(run, about, calls, call, record.values[call], parallel.host(diverged)))

    pending: tuple[int, jax.Array, jax.Array | None] | None = None
    with _calling(run, jobs, calls, first) as call:
        for i in range(first, len(calls.until)):
            state, metrics = call(i, state)
            # what was to be compiled is compiled
            run.note("")
            # the numbers of the call before are fetched while this one runs
            if pending is not None:
                collect(*pending)
            # a copy, since the next call gives the state up
            pending = i, metrics, jnp.copy(state.diverged) if reports else None
            if stops.rule is not None:
                collect(*pending)
                pending = None
                stops.decide(i)
            after(i, state)
            if run.due():
                if pending is not None:
                    collect(*pending)
                pending = None
                run.save_state(unit, i + 1, saved(state, record, run.mesh))
    if pending is not None:
        collect(*pending)
    return state


def _rows(
    run: Run,
    about: Sequence[Row],
    calls: Calls,
    call: int,
    values: np.ndarray,
    diverged: np.ndarray,
) -> list[Row]:
    """The rows of one evaluation, as those of `results.tidy`.

    Args:
      run, about, calls: as of the training.
      call: number of the call.
      values: float32 [job, split, metric].
      diverged: int32 [place], -1 where the job has not.
    """
    names = metric_names(run.program.learner.training)
    rows = []
    for job in map(int, np.flatnonzero(calls.evaluated[call])):
        step, since = int(calls.end[call, job]), int(diverged[job])
        meaningless = since >= 0 and step >= since
        rows += [
            {
                **about[job],
                "step": step,
                "split": split,
                "metric": name,
                "value": float("nan") if meaningless else float(values[job, i, j]),
                "diverged": since,
            }
            for i, split in enumerate(run.data.arrays.splits)
            for j, name in enumerate(names)
        ]
    return rows


@contextlib.contextmanager
def _calling(
    run: Run[StateT, PlanT, OriginT], jobs: Jobs[OriginT, PlanT], calls: Calls, first: int
) -> Iterator[Callable[[int, StateT], tuple[StateT, jax.Array]]]:
    """Give `call(i, state) -> (state, metrics)`, for the calls from `first` on, in order."""
    program, data, mesh = run.program, run.data, run.mesh
    keys, plan = parallel.pad((jobs.keys, jobs.plan), run.size)
    placed, empty = parallel.put(plan, mesh), run.size - len(jobs.start)

    def padded(column: np.ndarray) -> np.ndarray:
        return np.pad(column, (0, empty))

    begin, end = (list(map(padded, rows[first:])) for rows in (calls.begin, calls.end))
    with data.pieces(keys, plan, begin, end) as pieces:

        def call(i: int, state: StateT) -> tuple[StateT, jax.Array]:
            wanted, metrics = padded(calls.evaluated[i]), None
            # jobs may have stopped since the pieces were planned
            moving = padded(calls.end[i] > calls.begin[i])
            target, on = parallel.put((padded(calls.end[i]), wanted), mesh)
            for piece in pieces(i - first):
                if piece.block is not None:
                    # else blocks would pile up on a device that is slower than the host
                    jax.block_until_ready(state.step)
                limits = parallel.put(np.where(moving, piece.count, 0), mesh)
                state, metrics = program.chunk(
                    limits, state, placed, target, on, piece.block, data.arrays
                )
            return state, _evaluated(run, state, wanted) if metrics is None else metrics

        yield call


def _evaluated(run: Run[StateT, PlanT, OriginT], state: StateT, wanted: np.ndarray) -> jax.Array:
    """Metrics of states by evaluation batches that come in blocks."""
    limits = parallel.put(wanted.astype(np.int32), run.mesh)
    if not wanted.any():
        nothing = np.full((len(wanted), run.splits, run.program.metrics), np.nan, np.float32)
        return parallel.put(nothing, run.mesh)
    sums, last = None, None
    with run.data.evaluation() as blocks:
        for batched in blocks:
            if sums is None:
                width = run.program.sums(labels_of(batched.y, 2))
                zeros = np.zeros((len(wanted), run.splits, width), np.float32)
                sums = parallel.put(zeros, run.mesh)
            jax.block_until_ready(sums)
            sums = run.program.tallied(limits, state, sums, batched, run.data.arrays.by)
            last = batched
    assert sums is not None and last is not None, "splits are not empty"
    return run.program.averaged(limits, sums, last)


def _checked(
    run: Run[StateT, PlanT, OriginT],
    jobs: Jobs[OriginT, PlanT],
    unit: str,
    calls: Calls,
    state: StateT,
    record: Record,
) -> tuple[StateT, np.ndarray]:
    """The final state, and the step at which each job diverged, or -1.

    Raises:
      RuntimeError: where an invariant of the learner is broken.
    """
    count = len(jobs.start)
    broken, finite = parallel.host(run.program.checked(np.zeros(run.size, np.int32), state))
    if broken.any():
        raise RuntimeError(
            f"{run.program.learner.invariant} in training ({unit}): please report this"
        )
    diverged = parallel.host(state.diverged)
    # no loss follows the last update: weights, or the last evaluation, tell whether it diverged
    finite[:count] &= ~lost_at_the_end(record.values, calls.evaluated)
    stop = np.pad(calls.end[-1], (0, run.size - count))
    diverged = np.where(~finite & (diverged < 0), stop, diverged).astype(np.int32)
    return state._replace(diverged=parallel.put(diverged, run.mesh)), diverged[:count]
