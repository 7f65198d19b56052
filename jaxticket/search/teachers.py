"""Teachers: dense networks that a search learns from, trained before it, side by side."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxticket import trees
from jaxticket.checks import at_least, share
from jaxticket.jobs import Arrays, Bench, Jobs, job_plan, take, train_jobs
from jaxticket.rng import root_keys, stream
from jaxticket.settings import Training
from jaxticket.trunk import Networks, networks_of


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Which teachers a student has. Every seed has teachers of its own, with other initial weights
    and another order of examples than its own and than one another's.

    Attributes:
      count: teachers of a student.
      stage: how far they are trained, as a share of the training's steps, whose schedule they
        follow: 0.25 is epoch 10 of 40, the best for LeNet in KD-LTS.
      same_init: let them start from the student's initial weights, so that their gradients by
        weights can be compared.
      one: each step of the search asks one of them, drawn anew, instead of all: as good in KD-LTS,
        and cheaper.

    Reference: KD-LTS, section 4.1 and appendix B.
    """

    count: int = 2
    stage: float = 0.25
    same_init: bool = False
    one: bool = False

    def __post_init__(self) -> None:
        at_least("count", self.count, 1, integer=True)
        share("stage", self.stage)

    def steps(self, training: Training) -> int:
        """Steps of a teacher's training."""
        return max(1, round(self.stage * training.steps))


def train_teachers(
    bench: Bench, teaching: Teaching, training: Training, seeds: tuple[int, ...], initial: Networks
) -> Networks:
    """Params and statistics of the teachers, host arrays [replica, teacher, ...].

    Args:
      bench: where to run; units that its folder holds are read.
      teaching: which teachers.
      training: of the student.
      seeds: of the students.
      initial: the students at initialization, [replica, ...].
    """
    steps, count = teaching.steps(training), teaching.count
    keys = np.asarray(
        [
            jax.random.key_data(stream(key, "teacher", number))
            for key in root_keys(seeds)
            for number in range(count)
        ]
    )
    if teaching.same_init:
        params, stats = jax.tree.map(lambda x: np.repeat(np.asarray(x), count, axis=0), initial)
    else:
        params, stats = networks_of(bench, keys)
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    plan = job_plan(training, len(keys))
    stop = np.full(len(keys), steps, np.int32)
    plan = plan._replace(schedule=plan.schedule._replace(stop=stop))  # type: ignore[arg-type]
    jobs = Jobs(params, stats, mask, keys, np.zeros(len(keys), np.int32), plan)
    parts = []
    for first in range(0, len(keys), bench.size):
        own = take(jobs, first, first + bench.size)
        parts.append(_unit(bench, own, first, steps))
    names = trees.paths(initial)
    leaves = [np.concatenate([part[name] for part in parts]) for name in names]
    leaves = [x.reshape(len(seeds), count, *x.shape[1:]) for x in leaves]
    return jax.tree.unflatten(jax.tree.structure(initial), leaves)


def _unit(bench: Bench, jobs: Jobs, first: int, steps: int) -> Arrays:
    name = f"teachers-{first:05d}-{first + len(jobs.start):05d}"

    def make() -> Arrays:
        trained = train_jobs(bench, jobs, name, snapshots_at=(steps,), ends_only=True)
        (final,) = trained.snapshots
        leaves = zip(trees.paths(final), jax.tree.leaves(final), strict=True)
        arrays: dict[str, Any] = {path: np.asarray(leaf) for path, leaf in leaves}
        return arrays | {"seconds": np.asarray(trained.seconds), "diverged": trained.diverged}

    return bench.unit(name, jobs.steps, make)
