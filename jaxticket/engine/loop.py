"""Training of many replicas, from host arrays to host arrays.

A training is a sequence of calls of the compiled program, with evaluations, saves and progress.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket.engine import parallel
from jaxticket.engine.learner import Plan, State
from jaxticket.engine.metrics import METRICS, metric_names
from jaxticket.engine.monitors import Monitor, Watcher
from jaxticket.engine.optim import schedule
from jaxticket.engine.program import OriginT, PlanT, StateT
from jaxticket.engine.runtime import Arrays, Row, Run
from jaxticket.labels import labels_of
from jaxticket.settings import Training
from jaxticket.stopping import StopRule

T = TypeVar("T")


class Jobs(NamedTuple, Generic[OriginT, PlanT]):
    """What to train: host arrays, each leaf with a leading job axis.

    Attributes:
      origin: what each job starts from, as the learner takes it.
      keys: uint32 key data of each job's root key.
      start: int32, the step of `origin`.
      plan: schedule (with the stop step), data order, and what else the learner needs.
      lost: bool, which jobs have nothing to train, since the network that their mask should have
        come from diverged: they stay as they are, and count as diverged from their start on.
    """

    origin: OriginT
    keys: np.ndarray
    start: np.ndarray
    plan: PlanT
    lost: np.ndarray

    @property
    def steps(self) -> int:
        """Those of all jobs together."""
        return int((np.asarray(self.plan.schedule.stop) - self.start).sum())


class Trained(NamedTuple, Generic[StateT]):
    """Trained jobs.

    Attributes:
      state: final state on the devices, padded to the block's size.
      steps: int32 [call, job]; wanted: bool [call, job]; values: float32 [call, job, split,
        metric], nan from the step of divergence on.
      diverged: int32 [job], the first step whose own weights gave a loss that was not finite, or
        -1.
      looked: bool [call, job] by the names of what monitors give: where it was measured.
      monitored: float32 [call, job, ...] by name, nan where it was not, and from the step of
        divergence on.
      snapshots: (params, stats), or what `keeps` gives, of each step asked for, on the host.
      watched: float32 [call, ...], what the watch saw; nan where nothing was evaluated.
      seconds: time spent in this process.
    """

    state: StateT
    steps: np.ndarray
    wanted: np.ndarray
    values: np.ndarray
    diverged: np.ndarray
    snapshots: tuple[Any, ...]
    watched: np.ndarray
    seconds: float
    looked: dict[str, np.ndarray]
    monitored: dict[str, np.ndarray]

    @property
    def evaluations(self) -> Arrays:
        """What `history_arrays` joins."""
        return {
            "steps": self.steps,
            "wanted": self.wanted,
            "values": self.values,
            "diverged": self.diverged,
            **{f"looked/{name}": x for name, x in self.looked.items()},
            **{f"monitored/{name}": x for name, x in self.monitored.items()},
        }


class Watch(NamedTuple, Generic[StateT]):
    """What to compute from the states of all jobs at every evaluation.

    Attributes:
      shape: of what it gives.
      look: `look(state, wanted) -> float32 [*shape]`, of device states padded to the block's size;
        wanted: bool [job], which of them are evaluated now.
      evaluates: whether the splits are evaluated too whenever it looks.
      rows: `rows(state, steps, seen)`, what callbacks are told of a look; int32 [job] steps. None
        where they are told of the splits' evaluations alone.
    """

    shape: tuple[int, ...]
    look: Callable[[StateT, np.ndarray], np.ndarray]
    evaluates: bool = True
    rows: Callable[[StateT, np.ndarray, np.ndarray], list[Row]] | None = None


def take(jobs: T, begin: int, end: int) -> T:
    """Some of the jobs (or of any tree with a leading job axis)."""
    return jax.tree.map(lambda x: x[begin:end], jobs)


def join(parts: list[T]) -> T:
    """Trees put one after another along their leading axis."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


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


class Calls(NamedTuple):
    """The calls of the program by which jobs are trained.

    Each job is trained as far as `until`, but neither before its start nor beyond its stop.

    Attributes:
      until: int [call].
      begin, end: int32 [call, job], the steps that a call takes each job from and to.
      wanted: bool [call, job], where a job is looked at after the call.
      evaluated: bool [call, job], where its splits are evaluated.
      due: for each monitor bool [call, job], where it measures.
    """

    until: list[int]
    begin: np.ndarray
    end: np.ndarray
    wanted: np.ndarray
    evaluated: np.ndarray
    due: tuple[np.ndarray, ...]

    def steps(self, call: int) -> int:
        """Steps of all jobs of a call."""
        return int((self.end[call] - self.begin[call]).sum())


def _planned(
    jobs: Jobs,
    interval: int,
    snapshots_at: Sequence[int],
    ends_only: bool,
    watch: Watch | None,
    monitors: Sequence[Monitor],
) -> Calls:
    """The calls of a training: they end where some job is evaluated, measured, kept or stops."""
    start, stop = jobs.start, np.asarray(jobs.plan.schedule.stop)
    low, high = int(start.min()), int(stop.max())
    points = {low, *stop.tolist(), *snapshots_at}
    chosen = [tuple(getattr(monitor, "at", ())) for monitor in monitors]
    regular = [monitor.every for monitor, at in zip(monitors, chosen, strict=True) if not at]
    for every in (interval, *regular):
        points |= set(range(low - low % every + every, high, every))
    points |= {step for at in chosen for step in at}
    until = sorted(p for p in points if low <= p <= high)
    end = np.stack([np.clip(point, start, stop) for point in until])
    begin = np.concatenate([start[None], end[:-1]])

    def at_multiples(every: int | None) -> np.ndarray:
        """Where jobs start, reach a multiple, or stop."""
        on = np.ones(end.shape, bool)
        regular = np.zeros(end[1:].shape, bool) if every is None else end[1:] % every == 0
        on[1:] = (end[1:] != begin[1:]) & (regular | (end[1:] == stop))
        return on

    wanted = at_multiples(None if ends_only else interval)
    evaluated = wanted.copy()
    if watch is not None and not watch.evaluates:
        evaluated[:] = False

    def at_steps(steps: tuple[int, ...]) -> np.ndarray:
        """Where jobs reach one of some steps, or start there."""
        on = np.isin(end, steps)
        on[1:] &= end[1:] != begin[1:]
        return on

    due = tuple(
        at_steps(at) if at else at_multiples(monitor.every)
        for monitor, at in zip(monitors, chosen, strict=True)
    )
    return Calls(until, begin, end, wanted, evaluated, due)


class Record(NamedTuple):
    """What a training has given so far, host arrays that are filled while it runs.

    Attributes:
      values: float32 [call, job, split, metric], nan where nothing is evaluated.
      watched: float32 [call, ...], what the watch saw.
      monitored: for each monitor float32 [call, job, ...] by name, nan where nothing is measured.
      snapshots: what is kept of each step asked for; zeros until it is there.
    """

    values: np.ndarray
    watched: np.ndarray
    monitored: list[dict[str, np.ndarray]]
    snapshots: list[object]


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
      about: of each job, the columns of its rows that do not depend on the evaluation, for the
        callbacks of the run, which hear of nothing without it.
      stop_when: ends jobs early, of those that train to the end of their schedule.
    """
    began, count = time.perf_counter(), len(jobs.start)
    calls = _planned(jobs, run.interval, snapshots_at, ends_only, watch, monitors)
    kept = run.program.learner.current if keeps is None else keeps
    state = begin_state(run, jobs)
    looks, shape = len(calls.until), () if watch is None else watch.shape
    zeros = [jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), kept(state)) for _ in snapshots_at]
    watcher, observed = None, ()
    if monitors:
        learner = run.program.learner
        watcher = Watcher(learner.net, learner.training, run.mesh, monitors, looks, count)
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
    first, state, record = _resumed(run, unit, state, record)
    rule = None if ends_only else stop_when
    stops = _Stops(run, jobs, calls, record, rule, snapshots_at, monitors)
    for call in range(first):
        stops.decide(call)
    run.skip(sum(calls.steps(i) for i in range(first)))
    run.resumes(calls.until[first - 1] if first else int(jobs.start.min()), calls.until[-1])

    def after(call: int, state: StateT) -> None:
        for place, step in enumerate(snapshots_at):
            if calls.until[call] == step:
                record.snapshots[place] = parallel.host(kept(state))
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
        tuple(take(snapshot, 0, count) for snapshot in record.snapshots),
        record.watched,
        time.perf_counter() - began,
        looked,
        monitored,
    )


class _Stops:
    """Which jobs of a training stop early; it moves the calls that follow.

    Args:
      run, jobs, calls, record: of the training.
      rule: None for none.
      snapshots_at: steps whose weights are kept, to which all are trained.
      monitors: of the training.
    """

    def __init__(
        self,
        run: Run,
        jobs: Jobs,
        calls: Calls,
        record: Record,
        rule: StopRule | None,
        snapshots_at: Sequence[int],
        monitors: Sequence[Monitor],
    ) -> None:
        self.monitors = monitors
        self.run, self.calls, self.record, self.rule = run, calls, record, rule
        times = jobs.plan.schedule
        stop = np.asarray(times.stop)
        # those that end elsewhere are trained for the weights of that step
        self.may = stop == np.asarray(times.steps)
        self.least = [max((k for k in snapshots_at if k < end), default=0) for end in stop]
        splits, names = run.data.arrays.splits, metric_names(run.program.learner.training)
        self.names = [
            (f"{split}/{name}", i, j)
            for i, split in enumerate(splits)
            for j, name in enumerate(names)
        ]

    def decide(self, call: int) -> None:
        """Stop jobs after a call, by their evaluations so far."""
        if self.rule is None:
            return
        calls, before = self.calls, self.calls.end[-1].sum()
        for job in map(int, np.flatnonzero(calls.evaluated[call] & self.may)):
            here = calls.end[call, job]
            if here < self.least[job] or here == calls.end[-1, job]:
                continue
            on = np.flatnonzero(calls.evaluated[: call + 1, job])
            values = self.record.values[on, job]
            metrics = {name: values[:, i, j] for name, i, j in self.names}
            if not self.rule(calls.end[on, job], metrics):
                continue
            calls.begin[call + 1 :, job] = calls.end[call + 1 :, job] = here
            for due in (calls.wanted, calls.evaluated, *calls.due):
                due[call + 1 :, job] = False
            # monitors measure at the end, but for those of chosen steps
            for due, monitor in zip(calls.due, self.monitors, strict=True):
                due[call, job] |= not getattr(monitor, "at", ())
        self.run.expect(int(calls.end[-1].sum() - before))


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
    stops: _Stops,
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
                run.save_state(unit, i + 1, _saved(state, record, run.mesh))
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
    finite[:count] &= ~_lost_at_the_end(record.values, calls.evaluated)
    stop = np.pad(calls.end[-1], (0, run.size - count))
    diverged = np.where(~finite & (diverged < 0), stop, diverged).astype(np.int32)
    return state._replace(diverged=parallel.put(diverged, run.mesh)), diverged[:count]


def _saved(state: State, record: Record, mesh: Mesh) -> dict[str, jax.Array]:
    """What a save holds, as a flat dict of device arrays, so that Orbax needs none of our types."""
    plain = state._replace(key=jax.random.key_data(state.key))
    leaves, kept = map(jax.tree.leaves, (plain, parallel.put(record.snapshots, mesh)))
    seen = {"values": record.values, "watched": record.watched}
    measured = jax.tree.leaves(record.monitored)
    seen |= {f"monitored-{i:04d}": x for i, x in enumerate(measured)}
    return {
        **{f"state-{i:04d}": x for i, x in enumerate(leaves)},
        **{f"snapshot-{i:04d}": x for i, x in enumerate(kept)},
        **{name: parallel.put(x, mesh, replicas=False) for name, x in seen.items()},
    }


def _resumed(run: Run, unit: str, state: StateT, record: Record) -> tuple[int, StateT, Record]:
    """The first call to make, state and record: those of the newest save, if the folder has one."""
    found = None
    if run.folder is not None:
        found = run.load_state(unit, _saved(state, record, run.mesh))
    if found is None:
        return 0, state, record
    first, tree = found

    def leaves(kind: str) -> list[jax.Array]:
        return [tree[name] for name in sorted(tree) if name.startswith(f"{kind}-")]

    plain = state._replace(key=jax.random.key_data(state.key))
    plain = jax.tree.unflatten(jax.tree.structure(plain), leaves("state"))
    structure = jax.tree.structure(record.snapshots)
    snapshots = jax.tree.unflatten(structure, parallel.host(leaves("snapshot")))
    values, watched = parallel.host(tree["values"]), parallel.host(tree["watched"])
    state = plain._replace(key=jax.random.wrap_key_data(plain.key))
    # in place: the watcher goes on to fill them
    kept = parallel.host(leaves("monitored"))
    for old, new in zip(jax.tree.leaves(record.monitored), kept, strict=True):
        old[:] = new
    return first, state, Record(values, watched, record.monitored, snapshots)


def _lost_at_the_end(values: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Whether the last evaluation of each job has a loss that is not finite, bool [job].

    False where nothing was evaluated.
    """
    calls, count = evaluated.shape
    last = calls - 1 - np.argmax(evaluated[::-1], axis=0)
    losses = values[last, np.arange(count), :, METRICS.index("loss")]
    return np.logical_and(evaluated.any(axis=0), ~np.isfinite(losses).all(axis=-1))


def job_plan(
    training: Training,
    count: int,
    *,
    order: int | np.ndarray = 0,
    augment: int | np.ndarray | None = None,
) -> Plan:
    """The plans of so many jobs with one schedule, as host arrays.

    Args:
      training: the schedule.
      count: number of jobs.
      order: which order of examples each job sees, one number or [job].
      augment: which augmentation, likewise; a new order has new augmentation if None.
    """

    def every(number: int | np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(number, np.int32), (count,)).copy()

    times = jax.tree.map(
        lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), schedule(training)
    )
    return Plan(times, every(order), every(order if augment is None else augment))


def history_arrays(blocks: list[Arrays]) -> Arrays:
    """Steps, evaluations and divergence of all jobs of several blocks.

    Blocks may have made different calls: missing ones are filled.
    """
    calls = max(len(b["steps"]) for b in blocks)

    def longer(x: np.ndarray, fill: float) -> np.ndarray:
        missing = np.full((calls - len(x), *x.shape[1:]), fill, x.dtype)
        return np.concatenate([x, missing])

    result = {"diverged": np.concatenate([b["diverged"] for b in blocks])}
    fills = {"steps": 0, "wanted": False, "values": np.nan}
    fills |= {name: False for name in blocks[0] if name.startswith("looked/")}
    fills |= {name: np.nan for name in blocks[0] if name.startswith("monitored/")}
    for name, fill in fills.items():
        result[name] = np.concatenate([longer(b[name], fill) for b in blocks], axis=1)
    return result


def report_diverged(
    run: Run,
    where: str,
    seeds: Sequence[int],
    diverged: np.ndarray,
    lost: np.ndarray | None = None,
) -> None:
    """Say which replicas diverged and when, or (`lost`) why they were not trained at all."""
    for replica in map(int, np.flatnonzero(diverged >= 0)):
        if lost is not None and lost[replica]:
            said = "no ticket, since the network that its mask should come from diverged"
        else:
            said = (
                f"the loss was not finite at step {diverged[replica]}; this replica is frozen, the "
                f"others continue"
            )
        run.write(f"{where}, seed {seeds[replica]}: {said}")
