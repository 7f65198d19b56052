"""Teachers: dense networks that a search learns from, trained before it, side by side."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import _files, _show, _tree
from jaxticket._check import flag, settle, share, whole
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.blocks import apart, of_work
from jaxticket.engine.dense import Networks, dense_rows, initial_networks, train_dense
from jaxticket.engine.learner import Batch, Plan
from jaxticket.engine.loop import report_diverged
from jaxticket.engine.optim import Schedule, fresh_state
from jaxticket.engine.parallel import Placement
from jaxticket.engine.runtime import Run
from jaxticket.engine.selected import trained_part
from jaxticket.engine.supervised import Supervised
from jaxticket.random import root_keys, stream
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.ticket import Ticket
from jaxticket.typing import Array, Key, Network, Params, Stats, TrainState


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Settings of the teachers of a student.

    Every seed has its own teachers, with other initial weights and another order of examples than
    the student and than each other.

    Attributes:
      count: teachers of a student.
      stage: how far they are trained, as a share of the training's steps, whose schedule they
        follow: 0.25 is epoch 10 of 40, the best for LeNet in KD-LTS. 0 is for `online` alone.
      same_init: let them start from the student's initial weights, so that their gradients by
        weights can be compared.
      one: each step of the search asks a random one of them instead of all: as good in KD-LTS,
        and cheaper.
      attack: trains them on adversarial examples, as `Training.attack`; None for the attack of the
        training, if it has one.
      online: train them along with the student: before each step of the search every teacher takes
        a step of training (without distillation) on the student's batch, under the training's own
        settings, until its training is over. They start from `stage`, with a fresh optimizer. One
        whose loss is no longer finite stays as it was, and is named; answers of it that are not
        finite end the student's search there.

    Reference: KD-LTS, section 4.1 and appendix B; Madry et al. 2018 for `attack`.
    """

    count: int = 2
    stage: float = 0.25
    same_init: bool = False
    one: bool = False
    attack: PGD | None = None
    online: bool = False

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, whole, "count", low=1)
        settle(self, flag, "same_init", "one", "online")
        settle(self, share, "stage", zero=self.online)
        # refuses what no training takes
        self.training(Training())

    @property
    def asked(self) -> int:
        """Teachers that a step of the search asks."""
        return 1 if self.one else self.count

    def steps(self, training: Training) -> int:
        """Steps of a teacher's training before the search."""
        return max(1, round(self.stage * training.steps)) if self.stage else 0

    def online_steps(self, training: Training, search_steps: int) -> int:
        """Steps of a teacher's training during the search."""
        return min(search_steps, training.steps - self.steps(training)) if self.online else 0

    def training(self, training: Training) -> Training:
        """The settings of the teachers' training, from the student's.

        Nothing is averaged, and they learn from the labels alone.
        """
        training = training.replace(ema=None, teacher=None)
        return training if self.attack is None else training.replace(attack=self.attack)


def train_teachers(
    net: Network,
    run: Run,
    teaching: Teaching,
    training: Training,
    seeds: tuple[int, ...],
    initial: Networks,
) -> tuple[Networks, float]:
    """Train the teachers, and give their params and statistics, and the seconds it took.

    Host arrays [replica, teacher, ...].

    Args:
      net: the network.
      run: where to run; units that its folder holds are read.
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
        begun = initial_networks(net, run.mesh, keys, drawn=True)
    training = teaching.training(training)
    run = dataclasses.replace(run, program=run.compiled(Supervised(net, training)))
    found, seconds = begun, 0.0
    if steps:
        trained = train_dense(
            run, net, training, keys, begun, [steps], ends_only=True, name="teachers",
            about=dense_rows(seeds, *(f"teacher-{number}" for number in range(count))),
        )  # fmt: skip
        found, seconds = trained.states[steps], trained.seconds
        for number in range(count):
            report_diverged(run, f"teacher {number}", seeds, trained.diverged[number::count])
    return jax.tree.map(lambda x: x.reshape(len(seeds), count, *x.shape[1:]), found), seconds


class Tutors(NamedTuple):
    """Teachers that are trained along with their student; [teacher, ...] each.

    Attributes:
      step: int32, of their training.
      params, stats, opt_state: of theirs.
      diverged: int32, the step of the first loss that was not finite, or -1.
    """

    step: Array
    params: Params
    stats: Stats
    opt_state: optax.OptState
    diverged: Array


def begin_tutors(learner: Supervised, teachers: Networks, step: Array) -> Tutors:
    """Teachers at the start of a search, with fresh optimizers.

    Args:
      learner: how they learn.
      teachers: params and statistics [teacher, ...].
      step: int32, of their training.
    """
    params, stats = teachers
    count = jax.tree.leaves(params)[0].shape[0]
    part = trained_part(learner.training, params)
    fresh = jax.vmap(lambda part: fresh_state(learner.training, part, step))(part)
    fresh, steps, whole = _tree.varying_like(
        (fresh, jnp.zeros(count, jnp.int32), jnp.full(count, -1, jnp.int32)), step
    )
    return Tutors(steps + step, params, stats, fresh, whole)


def tutored(
    learner: Supervised,
    tutors: Tutors,
    schedule: Schedule,
    batch: Batch,
    active: Array,
    *,
    key: Key,
    placement: Placement,
) -> Tutors:
    """Every teacher after one step of training; one that diverges stays as it was.

    Args:
      learner: what is trained, and how, but for augmentation.
      tutors: the teachers.
      schedule: of their training.
      batch: this device's part of the student's: raw images, augmented, and labels.
      active: whether the student takes a step.
      key: the student's root key; each teacher has streams of its own below it.
      placement: of the student. Teachers wait while they are not active, however it lies.
    """
    count = tutors.step.shape[0]
    zero = jnp.int32(0)
    placement = dataclasses.replace(placement, vmapped=True)

    def one(inputs: tuple[Array, Tutors]) -> Tutors:
        number, own = inputs
        state = TrainState(
            own.step, own.params, own.stats, own.opt_state, learner.net.mask(),
            stream(key, "teacher", number), own.diverged,
        )  # fmt: skip
        going = active & (own.step < schedule.stop)
        state = learner.step(state, batch, Plan(schedule, zero, zero), going, placement)
        return Tutors(state.step, state.params, state.stats, state.opt_state, state.diverged)

    return jax.lax.map(one, (jnp.arange(count, dtype=jnp.int32), tutors))


def teachers_of(runs: Runs, number: int = 0) -> Runs:
    """The teachers of saved runs of `jt.search`, as dense networks at level 0 of branch "teacher".

    They are there as tickets start, for `jt.measure(teachers_of(runs), ...)` and the like.

    Args:
      runs: of a search whose method has teachers, in a folder.
      number: which teacher of each seed, from 0 on.

    Raises:
      ValueError: for runs without a folder, or that have no such teacher.
    """
    teaching = getattr(getattr(runs.pruning, "method", None), "teaching", None)
    if not isinstance(teaching, Teaching) or not teaching.steps(runs.training):
        raise ValueError("`runs` have no teachers that were trained before a search")
    if runs.folder is None:
        raise ValueError("`runs` were not saved, and their teachers neither; pass folder=...")
    if whole("number", number) >= teaching.count:
        raise ValueError(f"`number` must be from 0 to {teaching.count - 1}, got {number}")
    units = runs.folder / "units"
    names = of_work("teachers", [path.stem for path in _files.children(units)])
    parts = [_files.read_arrays(units / f"{names[block]}.npz") for block in apart(names)]
    if not parts:
        raise ValueError(f"`runs` have no teachers in their folder {str(runs.folder)!r}")
    name, own = f"state-{teaching.steps(runs.training)}", slice(number, None, teaching.count)
    trees = [_tree.unflatten(part, runs.net.shapes, name) for part in parts]
    params, stats = jax.tree.map(lambda *x: np.concatenate(x)[own], *trees)
    lost = np.concatenate([part["diverged"] for part in parts])[own] >= 0
    zeros = np.zeros(len(runs.seeds), np.int32)
    mask = runs.net.mask(runs.pruning.exclude, lead=(len(runs.seeds),))
    dense = Ticket(mask, params, stats, zeros, zeros)
    return dataclasses.replace(
        runs, branch="teacher", histories=(), by_level={0: dense}, origin=dense, costs=(),
        traces=(), lost={0: lost}, final={}, at={},
    )  # fmt: skip
