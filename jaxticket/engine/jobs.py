"""What is trained side by side, and what training gives, as host arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from jaxticket.engine.learner import Plan
from jaxticket.engine.optim import schedule
from jaxticket.engine.program import OriginT, PlanT, StateT
from jaxticket.engine.runtime import Arrays, Run
from jaxticket.engine.teaching import teachers
from jaxticket.settings import Training

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


Snapshots = tuple[Any, ...]
"""What was kept of each of some steps, trees of host arrays."""


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
      weights: (mask, params, stats) of each step of `weights_at`, on the host.
    """

    state: StateT
    steps: np.ndarray
    wanted: np.ndarray
    values: np.ndarray
    diverged: np.ndarray
    snapshots: Snapshots
    watched: np.ndarray
    seconds: float
    looked: dict[str, np.ndarray]
    monitored: dict[str, np.ndarray]
    weights: Snapshots = ()

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


def take(jobs: T, begin: int, end: int) -> T:
    """Some of the jobs (or of any tree with a leading job axis)."""
    return jax.tree.map(lambda x: x[begin:end], jobs)


def join(parts: list[T]) -> T:
    """Trees put one after another along their leading axis."""
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def job_plan(
    training: Training,
    count: int,
    *,
    order: int | np.ndarray = 0,
    augment: int | np.ndarray | None = None,
    keys: np.ndarray | None = None,
) -> Plan:
    """The plans of so many jobs with one schedule, as host arrays.

    Args:
      training: the schedule.
      count: number of jobs.
      order: which order of examples each job sees, one number or [job].
      augment: which augmentation, likewise; a new order has new augmentation if None.
      keys: key data of the root key of each job, by which it gets its teacher, where the training
        has one.

    Raises:
      ValueError: for a teacher whose weights are for other seeds.
    """

    def every(number: int | np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(number, np.int32), (count,)).copy()

    times = jax.tree.map(
        lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), schedule(training)
    )
    taught_by = None if keys is None else teachers(training, keys)
    return Plan(times, every(order), every(order if augment is None else augment), taught_by)


def history_arrays(blocks: list[Arrays]) -> Arrays:
    """Steps, evaluations and divergence of all jobs of several blocks.

    Blocks may have made different calls: missing ones are filled.
    """
    result = {"diverged": np.concatenate([b["diverged"] for b in blocks])}
    fills = {"steps": 0, "wanted": False, "values": np.nan}
    fills |= {name: False for name in blocks[0] if name.startswith("looked/")}
    fills |= {name: np.nan for name in blocks[0] if name.startswith("monitored/")}
    for name, fill in fills.items():
        result[name] = along_jobs([b[name] for b in blocks], fill)
    return result


def along_jobs(parts: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Arrays [call, job, ...] put one after another along their jobs; missing calls are filled."""
    calls = max(map(len, parts))
    longer = [
        np.concatenate([x, np.full((calls - len(x), *x.shape[1:]), fill, x.dtype)]) for x in parts
    ]
    return np.concatenate(longer, axis=1)


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
