"""The calls by which jobs are trained: where they end, what is due there, and early stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

import numpy as np

from jaxticket.engine.jobs import Jobs
from jaxticket.engine.metrics import metric_names
from jaxticket.engine.monitors import Monitor
from jaxticket.engine.program import StateT
from jaxticket.engine.record import Record
from jaxticket.engine.runtime import Row, Run
from jaxticket.stopping import StopRule


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


def planned(
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


class Stops:
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
