"""Training many replicas from host to host: calls of the compiled program, evaluations, saves,
progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.engine.calls import Call, calling
from jaxticket.engine.learner import Plan
from jaxticket.engine.metrics import METRICS
from jaxticket.engine.optim import schedule
from jaxticket.engine.runtime import Arrays, Run
from jaxticket.settings import Training
from jaxticket.typing import Mask


class Jobs(NamedTuple):
    """What to train: host arrays, each leaf with a leading job axis.

    Attributes:
      origin: what each job starts from, as the learner takes it.
      keys: uint32 key data of each job's root key.
      start: int32, the step of `params`.
      plan: schedule (with the stop step), data order, and what else the learner needs.
      lost: bool, which jobs have nothing to train, since the network that their mask should have
        come from diverged: they stay as they are, and count as diverged from their start on.
    """

    origin: Any
    keys: np.ndarray
    start: np.ndarray
    plan: Any
    lost: np.ndarray

    @property
    def steps(self) -> int:
        """Those of all jobs together."""
        return int((np.asarray(self.plan.schedule.stop) - self.start).sum())


class Trained(NamedTuple):
    """Trained jobs.

    Attributes:
      state: final state on the devices, padded to the block's size.
      steps: int32 [call, job]; wanted: bool [call, job]; values: float32 [call, job, split,
        metric], nan from the step of divergence on.
      diverged: int32 [job], the first step whose own weights gave a loss that was not finite, or
        -1.
      snapshots: (params, stats), or what `keeps` gives, of each step asked for, on the host.
      watched: float32 [call, ...], what the watch saw; nan where nothing was evaluated.
      seconds: time spent in this process.
    """

    state: Any
    steps: np.ndarray
    wanted: np.ndarray
    values: np.ndarray
    diverged: np.ndarray
    snapshots: tuple[Any, ...]
    watched: np.ndarray
    seconds: float

    @property
    def evaluations(self) -> Arrays:
        """What `history_arrays` joins."""
        return {
            "steps": self.steps,
            "wanted": self.wanted,
            "values": self.values,
            "diverged": self.diverged,
        }


class Watch(NamedTuple):
    """What to compute from the states of all jobs at every evaluation.

    Attributes:
      shape: of what it gives.
      look: `look(state, wanted) -> float32 [*shape]`, of device states padded to the block's size;
        wanted: bool [job], which of them are evaluated now.
      evaluates: whether the splits are evaluated too whenever it looks ("all"), at the ends alone
        ("ends"), or not at all ("none").
    """

    shape: tuple[int, ...]
    look: Callable[[Any, np.ndarray], np.ndarray]
    evaluates: str = "all"


def take(jobs: Any, begin: int, end: int) -> Any:
    """Some of the jobs (or of any tree with a leading job axis)."""
    return jax.tree.map(lambda x: x[begin:end], jobs)


def join(parts: list[Any]) -> Any:
    """Trees put one after another along their leading axis."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def begin_state(run: Run, jobs: Jobs) -> Any:
    """The training states of jobs on the devices, padded to the block's size."""
    padded = parallel.pad(jobs, run.size)
    keys = jax.random.wrap_key_data(parallel.put(padded.keys, run.mesh))
    origin, start = parallel.put((padded.origin, padded.start), run.mesh)
    state = run.program.start(np.zeros(run.size, np.int32), origin, keys, start)
    if not jobs.lost.any():
        return state
    diverged = np.where(padded.lost, padded.start, -1).astype(np.int32)
    return state._replace(diverged=parallel.put(diverged, run.mesh))


_called: set[tuple[int, int]] = set()


def _first_call(run: Run) -> bool:
    """Whether this process has not yet trained so many replicas with this program, so that its
    first call compiles it.
    """
    place = id(run.program.chunk), run.size
    known = place in _called
    _called.add(place)
    return not known


def _untils(jobs: Jobs, interval: int, snapshots_at: Sequence[int]) -> list[int]:
    start, stop = jobs.start, np.asarray(jobs.plan.schedule.stop)
    low, high = int(start.min()), int(stop.max())
    points = {low, *stop.tolist(), *range(low - low % interval + interval, high, interval)}
    points |= set(snapshots_at)
    return sorted(p for p in points if low <= p <= high)


def _saved_tree(
    state: Any, values: np.ndarray, watched: np.ndarray, snapshots: Any, mesh: Mesh
) -> dict[str, jax.Array]:
    """What a save holds, as a flat dict of device arrays: Orbax then needs to know none of our
    types.
    """
    plain = state._replace(key=jax.random.key_data(state.key))
    tree = {f"state-{i:04d}": x for i, x in enumerate(jax.tree.leaves(plain))}
    tree |= {
        f"snapshot-{i:04d}": x for i, x in enumerate(jax.tree.leaves(parallel.put(snapshots, mesh)))
    }
    seen = {"values": values, "watched": watched}
    return tree | parallel.put(seen, mesh, replicas=False)


def train_jobs(
    run: Run,
    jobs: Jobs,
    unit: str,
    *,
    snapshots_at: Sequence[int] = (),
    ends_only: bool = False,
    watch: Watch | None = None,
    keeps: Callable[[Any], Any] | None = None,
) -> Trained:
    """Trains jobs, at most a block of them, to their stop steps, evaluating each at its start, at
    every multiple of the interval and at its stop.

    With a folder the state is saved from time to time, and training goes on from the newest save of
    this unit. The result does not depend on where it was saved: calls end at the same absolute
    steps.

    Args:
      run: where to run.
      jobs: at most `run.size` of them.
      unit: name of this piece of work in the folder.
      snapshots_at: keep the weights and statistics of these steps.
      ends_only: evaluate at the start and the stop of each job only.
      watch: what else to compute at every evaluation.
      keeps: `keeps(state) -> tree`, what a snapshot holds, device arrays [place, ...]; None for the
        weights and statistics.
    """
    began = time.perf_counter()
    count = len(jobs.start)
    stop = np.asarray(jobs.plan.schedule.stop)
    untils = _untils(jobs, run.interval, snapshots_at)
    steps = np.stack([np.clip(until, jobs.start, stop) for until in untils])
    wanted = np.ones(steps.shape, bool)
    regular = (steps[1:] % run.interval == 0) & (not ends_only)
    wanted[1:] = (steps[1:] != steps[:-1]) & (regular | (steps[1:] == stop))
    evaluated = wanted.copy()
    if watch is not None and watch.evaluates != "all":
        evaluated[1:] &= steps[1:] == stop
        evaluated &= watch.evaluates == "ends"
    watched = np.full((len(untils), *(watch.shape if watch else ())), np.nan, np.float32)
    values = np.full((len(untils), count, run.splits, len(METRICS)), np.nan, np.float32)
    plan = parallel.pad(jobs.plan, run.size)
    state = begin_state(run, jobs)
    kept_of = keeps if keeps is not None else lambda state: (state.params, state.stats)
    # zeros until a snapshot is taken
    snapshots = []
    if snapshots_at:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), kept_of(state))
        snapshots = [zeros for _ in snapshots_at]
    first = 0
    if run.folder is not None:
        like = _saved_tree(state, values, watched, snapshots, run.mesh)
        found = run.load_state(unit, like)
        if found is not None:
            first, tree = found
            state, snapshots = _restored(state, snapshots, tree)
            values, watched = parallel.host((tree["values"], tree["watched"]))
            run.advance(int((steps[first - 1] - jobs.start).sum()))

    def fill(column: np.ndarray, padding: Any) -> np.ndarray:
        return np.concatenate([column, np.full(run.size - count, padding, column.dtype)])

    pending: tuple[int, jax.Array] | None = None

    def collect() -> None:
        nonlocal pending
        if pending is not None:
            at, metrics = pending
            values[at] = parallel.host(metrics)[:count]
            run.advance(int((steps[at] - (steps[at - 1] if at else jobs.start)).sum()))
            pending = None

    calls = [
        Call(
            fill(steps[i - 1] if i else jobs.start, 0),
            fill(steps[i], 0),
            fill(evaluated[i], False),
        )
        for i in range(first, len(untils))
    ]
    new = _first_call(run)
    with calling(
        run.program,
        run.data,
        run.mesh,
        plan,
        calls,
        keys=parallel.pad(jobs.keys, run.size),
        splits=run.splits,
    ) as call:
        for i in range(first, len(untils)):
            if new and i == first:
                run.note("compiling")
            state, metrics = call(i - first, state)
            if new and i == first:
                run.note("")
            # the numbers of the call before are fetched while this one runs
            collect()
            pending = (i, metrics)
            for place, at in enumerate(snapshots_at):
                if untils[i] == at:
                    snapshots[place] = parallel.host(kept_of(state))
            if watch is not None and wanted[i].any():
                watched[i] = watch.look(state, wanted[i])
            if run.due():
                collect()
                tree = _saved_tree(state, values, watched, snapshots, run.mesh)
                run.save_state(unit, i + 1, tree)
    collect()
    limits = np.zeros(run.size, np.int32)
    broken, finite = parallel.host(run.program.checked(limits, state))
    if broken.any():
        raise RuntimeError(
            f"pruned weights, or whatever must stay, changed in training ({unit}): please report "
            f"this"
        )
    diverged = parallel.host(state.diverged)
    # no loss follows the last update: weights, or the last evaluation, tell whether it diverged
    finite[:count] &= ~_lost_at_the_end(values, evaluated)
    diverged = np.where(~finite & (diverged < 0), fill(stop, 0), diverged).astype(np.int32)
    state = state._replace(diverged=parallel.put(diverged, run.mesh))
    diverged = diverged[:count]
    # what diverged predicts one class: its accuracy is a number that means nothing
    values[(diverged >= 0) & (steps >= diverged)] = np.nan
    return Trained(
        state,
        steps,
        wanted,
        values,
        diverged,
        tuple(take(snapshot, 0, count) for snapshot in snapshots),
        watched,
        time.perf_counter() - began,
    )


def _lost_at_the_end(values: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Whether the last evaluation of each job has a loss that is not finite, bool [job]; False
    where nothing was evaluated.
    """
    calls, count = evaluated.shape
    last = calls - 1 - np.argmax(evaluated[::-1], axis=0)
    losses = values[last, np.arange(count), :, METRICS.index("loss")]
    return np.logical_and(evaluated.any(axis=0), ~np.isfinite(losses).all(axis=-1))


def train_unit(run: Run, jobs: Jobs, name: str) -> Arrays:
    """`Trained.evaluations` of jobs, at most a block of them, as a unit of that name."""
    return run.unit(name, jobs.steps, lambda: train_jobs(run, jobs, name).evaluations)


def train_blocks(
    run: Run, jobs: Jobs, *, name: str = "jobs"
) -> tuple[Arrays, list[dict[str, Any]]]:
    """Evaluations of any number of jobs, as of `history_arrays`, trained a block at a time in units
    of this name; rows of the table of seconds.
    """
    blocks, costs = [], []
    for number, begin in enumerate(range(0, len(jobs.start), run.size)):
        part = take(jobs, begin, begin + run.size)
        began = time.perf_counter()
        end = begin + len(part.start)
        blocks.append(train_unit(run, part, f"{name}-{begin:03d}-{end:03d}"))
        costs.append({"unit": f"block {number}", "train_seconds": time.perf_counter() - began})
    return history_arrays(blocks), costs


def _restored(state: Any, snapshots: Any, tree: dict[str, jax.Array]) -> tuple[Any, Any]:
    plain = state._replace(key=jax.random.key_data(state.key))
    names = sorted(name for name in tree if name.startswith("state-"))
    plain = jax.tree.unflatten(jax.tree.structure(plain), [tree[name] for name in names])
    names = sorted(name for name in tree if name.startswith("snapshot-"))
    leaves = [parallel.host(tree[name]) for name in names]
    snapshots = jax.tree.unflatten(jax.tree.structure(snapshots), leaves)
    return plain._replace(key=jax.random.wrap_key_data(plain.key)), snapshots


def job_plan(training: Training, count: int, *, order: int = 0, augment: int | None = None) -> Plan:
    """The same plan for so many jobs, as host arrays; a new order has new augmentation, if nothing
    else is said.
    """
    noise = order if augment is None else augment
    one = Plan(schedule(training), np.int32(order), np.int32(noise))  # type: ignore[arg-type]
    return jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), one)


def history_arrays(blocks: list[Arrays]) -> Arrays:
    """Steps, evaluations and divergence of all jobs of several blocks, which may have made
    different calls.
    """
    calls = max(len(b["steps"]) for b in blocks)

    def longer(x: np.ndarray, fill: Any) -> np.ndarray:
        missing = np.full((calls - len(x), *x.shape[1:]), fill, x.dtype)
        return np.concatenate([x, missing])

    result = {"diverged": np.concatenate([b["diverged"] for b in blocks])}
    for name, fill in (("steps", 0), ("wanted", False), ("values", np.nan)):
        result[name] = np.concatenate([longer(b[name], fill) for b in blocks], axis=1)
    return result


def report_collapse(
    run: Run, where: str, mask: Mask, prunable: Any, seeds: Sequence[int], remedy: str = ""
) -> None:
    """Says which prunable layers have no weights left, and in which replicas.

    Args:
      run: says it.
      where: what found the mask, and when.
      mask: host arrays [replica, ...].
      prunable: tree of python bools.
      seeds: of the replicas.
      remedy: what the sentence ends with.
    """
    empty = [
        f"{path} (seeds {', '.join(str(s) for s, g in zip(seeds, gone, strict=True) if g)})"
        for path, gone in masks.empty_layers(mask, prunable).items()
    ]
    if empty:
        run.write(f"layer collapse: {where} keeps nothing of {', '.join(empty)}{remedy}")


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
