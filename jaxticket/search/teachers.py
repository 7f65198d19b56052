"""Teachers: dense networks that a search learns from, trained before it, side by side."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jaxticket.checks import at_least, share
from jaxticket.jobs import Bench, report_diverged
from jaxticket.rng import root_keys, stream
from jaxticket.settings import Training
from jaxticket.trunk import Networks, initial_networks, train_trunk


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
        begun = jax.tree.map(lambda x: np.repeat(np.asarray(x), count, axis=0), initial)
    else:
        begun = initial_networks(bench, keys)
    trained = train_trunk(bench, training, keys, begun, [steps], ends_only=True, name="teachers")
    for number in range(count):
        report_diverged(bench.bar, f"teacher {number}", seeds, trained.diverged[number::count])
    return jax.tree.map(lambda x: x.reshape(len(seeds), count, *x.shape[1:]), trained.states[steps])
