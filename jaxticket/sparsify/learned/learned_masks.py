"""Masks by learning scores: how `jt.search` finds its masks."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TypeVar

import jax
import numpy as np

from jaxticket import _show, masks, rescaling
from jaxticket._check import instance, settle, whole
from jaxticket.engine import parallel
from jaxticket.engine.dense import DenseStates, Networks
from jaxticket.engine.loop import Arrays, Jobs, Trained, Watch, take, train_jobs
from jaxticket.engine.optim import schedule
from jaxticket.engine.runtime import Row
from jaxticket.engine.supervised import Supervised
from jaxticket.pruning.structures.settings import labeled
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.at_step import AtStep, Wanted, found_in_blocks
from jaxticket.sparsify.cost import Cost, of_dense, of_training, seconds_of, total
from jaxticket.sparsify.learned.learner import (
    ORDER,
    TRACE,
    ScoreLearner,
    ScoreOrigin,
    ScorePlan,
    ScoreState,
    score_programs,
    step_flops,
)
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.teachers import train_teachers
from jaxticket.sparsify.runner import Runner
from jaxticket.sparsify.strategy import Stage, Stages
from jaxticket.typing import Mask, Params

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class LearnedPruning(AtStep):
    """How `jt.search` prunes.

    Attributes:
      method: what is learned, and how.
      search_steps: steps of the search.
      watch_masks: parts of the search after each of which the mask is compared with the one before.
    """

    schedule: str = "remaining"
    method: Method | None = None
    search_steps: int = 0
    watch_masks: int = 0

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "search_steps", "watch_masks")
        if self.method is not None:
            instance("method", self.method, Method, "a Method, or None")

        if self.rescale is not None and self.method is not None and self.method.rescale:
            raise ValueError(
                f"`rescale` {self.rescale!r} would divide weights by densities once more than the "
                f"method's own rescale=True; leave one of them out"
            )

    def factors(self, mask: Mask) -> Params | None:
        """What the dense weights of tickets are multiplied by.

        That is the height of the method's masks, the size of a layer over its number of ones where
        the method rescales, and `rescale`.
        """
        found, method = super().factors(mask), self.method
        if method is None:
            return found
        if method.scaled_tickets and method.relaxation.height != 1:
            height = rescaling.constant(mask, method.relaxation.height)
            found = rescaling.together(found, height)
        if method.rescale:
            found = rescaling.together(found, rescaling.by_density(mask, "layer"))
        return found

    @property
    def searched(self) -> Method:
        """The method, which settings that were only written down may lack."""
        assert self.method is not None, "`method` is None"
        return self.method

    @property
    def name(self) -> str:
        """The name of the method, and the structure."""
        return labeled(self.searched.name, self.structure)

    def _teachers_steps(self, training: Training) -> int:
        """Steps of all teachers of a student before its search."""
        teaching = self.searched.teaching
        return 0 if teaching is None else teaching.count * teaching.steps(training)

    def search_steps_of(self, training: Training) -> int:
        """Steps of the searches of all densities, and of the teachers."""
        return self.search_steps * len(self.densities) + self._teachers_steps(training)

    def check(self, runner: Runner) -> None:
        """Raise for a network that the objective cannot look at."""
        assert LearnedMasks(self, runner, ()).learner

    def tickets(self, runner: Runner, states: DenseStates) -> Stages:
        """Train teachers, where the method has some, and then the scores."""
        teaching, costs = self.searched.teaching, []
        teachers: Networks | tuple[()] = ()
        if teaching is not None:
            runner.run.describe("teachers")
            teachers, seconds = train_teachers(
                runner.net, runner.run, teaching, runner.training, runner.seeds, states.states[0]
            )
            if steps := self._teachers_steps(runner.training):
                costs.append(
                    {"unit": "teachers", "train_seconds": seconds, "training_steps": steps}
                )
        runner.run.describe(self.title)
        search = LearnedMasks(self, runner, teachers)
        found, blocks, cost = found_in_blocks(
            runner, self, states, search.find, steps=self.search_steps
        )
        trace = [row for wanted, arrays in blocks for row in search.trace(wanted, arrays)]
        yield Stage(found, costs=[*costs, cost], trace=trace)

    def cost(self, runs: Runs, level: int) -> Cost:
        """Dense training to the step, the teachers, and the search."""
        del level
        method, steps, batch = self.searched, self.search_steps, runs.training.batch_size
        taught = Cost()
        if method.teaching is not None:
            each = method.teaching.steps(runs.training)
            each += method.teaching.online_steps(runs.training, steps)
            taught = of_training(
                runs,
                method.teaching.count * each,
                training=method.teaching.training(runs.training),
                seconds=seconds_of(runs, "teachers", "train_seconds") / len(runs.seeds),
            )
        # the steps of every phase, and what each of them takes
        phases = [(share * steps, phase) for share, phase in method.phases if share * steps]
        searching = Cost(
            steps,
            steps * batch,
            sum(n * batch * phase.passes[0] for n, phase in phases),
            sum(n * batch * phase.passes[1] for n, phase in phases),
            sum(
                n * step_flops(runs.net, phase, runs.training, runs.data.labels)
                for n, phase in phases
            ),
            self.seconds(runs),
        )
        return total(of_dense(runs, self.step), taught, searching)


def hamming(one: Mask, other: Mask) -> np.ndarray:
    """Share of prunable entries in which masks [mask, ...] differ, float64 [mask].

    Reference: KD-LTS, Figure 4.
    """
    leaves = [(np.asarray(a), np.asarray(b)) for _, a, b in masks.items(one, other)]
    apart = sum(np.count_nonzero((a != b).reshape(len(a), -1), axis=1) for a, b in leaves)
    return np.asarray(apart, np.float64) / sum(a[0].size for a, _ in leaves)


class LearnedMasks:
    """Trains scores for each wanted mask and keeps the best.

    Args:
      pruning: what is learned, and how.
      runner: where.
      teachers: params and statistics [replica, teacher, ...]; () without any.
    """

    def __init__(
        self, pruning: LearnedPruning, runner: Runner, teachers: Networks | tuple[()]
    ) -> None:
        self.pruning, self.runner, self.teachers = pruning, runner, teachers
        self.method, self.steps = pruning.searched, pruning.search_steps
        self.training = self.method.training(runner.training, self.steps)
        teaching = self.method.teaching
        self.taught: Training | None = None
        if teaching is not None and teaching.online:
            self.taught = teaching.training(runner.training)

    @functools.cached_property
    def learner(self) -> ScoreLearner:
        """What is trained; it raises for a network that the objective cannot look at."""
        net, tutor = self.runner.net, None
        if self.taught is not None:
            # they see the student's batches, which are augmented already
            tutor = Supervised(net, self.taught.replace(augment=(), accumulate=1))
        return ScoreLearner(
            net, self.method, self.training, self.pruning.exclude, tutor, self.pruning.structure
        )

    def trace(self, wanted: Wanted, arrays: Arrays) -> list[dict[str, object]]:
        """One row for each look at each search."""
        names = (*TRACE, "hamming")[: arrays["trace"].shape[-1]]
        return [
            {
                "seed": self.runner.seeds[replica],
                "level": int(level),
                "density": self.pruning.densities[level - 1],
                "step": int(step),
                **{name: float(x) for name, x in zip(names, seen[place], strict=True)},
            }
            for place, (level, replica) in enumerate(
                zip(wanted.levels, wanted.replicas, strict=True)
            )
            for step, seen in zip(arrays["trace_steps"], arrays["trace"], strict=True)
        ]

    def find(self, wanted: Wanted) -> tuple[Mask, Arrays]:
        """Train the scores of these masks side by side."""
        began, run = time.perf_counter(), self.runner.run
        count, size = len(wanted.levels), wanted.size
        method, compiled = self.method, score_programs(self.learner, run.mesh)
        run = dataclasses.replace(
            run,
            program=run.compiled(self.learner),
            # data streams without random crops if images are not augmented
            data=run.data.of_training(self.training, cropped=self.method.augment),
            size=size,
            interval=self.training.evaluation_interval,
        )
        keys = self.runner.keys[wanted.replicas]
        plan = self._plan(wanted)
        limits = np.zeros(size, np.int32)
        placed = parallel.put(parallel.pad(plan, size), run.mesh)
        typed = jax.random.wrap_key_data(parallel.put(parallel.pad(keys, size), run.mesh))
        scores = take(
            parallel.host(compiled.initial_scores(limits, typed, placed.density)), 0, count
        )
        own = take(jax.tree.map(np.asarray, wanted.own(wanted.origin)), 0, count)
        started = ScoreOrigin(scores, own.params, own.stats, own.mask)
        if self.taught is not None and method.teaching is not None:
            begun = np.full(count, method.teaching.steps(self.taught), np.int32)
            started = started._replace(teachers=(self._teachers_of(wanted), begun))  # type: ignore[arg-type]
        start, lost = np.zeros(count, np.int32), np.zeros(count, bool)
        jobs = Jobs(started, keys, start, plan, lost)

        def look(state: ScoreState, on: np.ndarray) -> np.ndarray:
            del on
            return parallel.host(compiled.look(limits, state, placed))[:count]

        def rows(state: ScoreState, steps: np.ndarray, seen: np.ndarray) -> list[Row]:
            return self._rows(wanted, steps, seen, parallel.host(state.diverged))

        watch = Watch((count, len(TRACE)), look, evaluates=False, rows=rows)
        moments = self._moments()

        def keeps(state: ScoreState) -> tuple[Mask, jax.Array]:
            # the mask that the method would give here, and the numbers that a look gives
            return compiled.chosen(limits, state, placed), compiled.look(limits, state, placed)

        trained = train_jobs(
            run, jobs, f"{wanted.unit}-search", snapshots_at=moments, watch=watch, keeps=keeps
        )
        for place in np.flatnonzero((trained.diverged >= 0) & (wanted.lost[wanted.replicas] < 0)):
            run.write(
                f"{method.name}, density {self.pruning.density_of(wanted.levels[place]):g}, "
                f"seed {self.runner.seeds[wanted.replicas[place]]}: the objective was not finite "
                f"at step {trained.diverged[place]}; the mask is that of the scores before. "
                f"A lower `lr` of the method may help"
            )
        if self.taught is not None and trained.state.tutors:
            self._report_teachers(parallel.host(trained.state.tutors.diverged), wanted)
        mask = take(parallel.host(compiled.chosen(limits, trained.state, placed)), 0, count)
        # a network that diverged before the search stays dense, as in `prune_at`
        whole = wanted.lost[wanted.replicas] >= 0
        mask = jax.tree.map(
            lambda m, d: np.where(whole.reshape(-1, *(1,) * (m.ndim - 1)), d, m), mask, own.mask
        )
        return mask, {
            "trace": self._traced(trained, moments),
            "trace_steps": trained.steps.max(axis=1),
            "diverged_search": trained.diverged,
            "seconds": np.asarray(time.perf_counter() - began),
        }

    def _rows(
        self, wanted: Wanted, steps: np.ndarray, seen: np.ndarray, diverged: np.ndarray
    ) -> list[Row]:
        """What callbacks are told of a look at each search."""
        return [
            {
                "seed": self.runner.seeds[replica],
                "level": int(level),
                "density": self.pruning.densities[level - 1],
                "branch": "search",
                "dilation": 1.0,
                "step": int(steps[place]),
                "split": "search",
                "metric": name,
                "value": float(value),
                "diverged": int(diverged[place]),
            }
            for place, (level, replica) in enumerate(
                zip(wanted.levels, wanted.replicas, strict=True)
            )
            for name, value in zip(TRACE, seen[place], strict=True)
        ]

    def _moments(self) -> list[int]:
        """The steps at which masks are compared."""
        parts = self.pruning.watch_masks
        shares = range(parts + 1) if parts else ()
        return sorted({round(self.steps * i / parts) for i in shares})

    def _traced(self, trained: Trained, moments: list[int]) -> np.ndarray:
        """What was looked at, [call, mask, number].

        Where there are moments, with the share of prunable entries in which a mask differs from
        that of the moment before.
        """
        if not moments:
            return trained.watched
        watched = np.concatenate(
            [trained.watched, np.full_like(trained.watched[..., :1], np.nan)], axis=-1
        )
        steps, before = trained.steps.max(axis=1).tolist(), None
        for at, (mask, numbers) in zip(moments, trained.snapshots, strict=True):
            row = watched[steps.index(at)]
            row[:, :-1] = numbers
            if before is not None:
                row[:, -1] = hamming(mask, before)
            before = mask
        return watched

    def _teachers_of(self, wanted: Wanted) -> Networks | tuple[()]:
        return jax.tree.map(lambda x: x[wanted.replicas], self.teachers)

    def _report_teachers(self, diverged: np.ndarray, wanted: Wanted) -> None:
        """Says which teachers diverged while they were trained along: int [place, teacher]."""
        for place, number in np.argwhere(diverged[: len(wanted.replicas)] >= 0):
            self.runner.run.write(
                f"teacher {number}, seed {self.runner.seeds[wanted.replicas[place]]}: the loss was "
                f"not finite at step {diverged[place, number]} of its training; it stays as it was "
                f"before"
            )

    def _plan(self, wanted: Wanted) -> ScorePlan:
        """A plan for each mask, host arrays."""
        count, m = len(wanted.levels), self.method
        one = schedule(self.training)._replace(stop=np.asarray(self.steps, np.int32))
        densities = np.asarray(self.pruning.densities)[wanted.levels - 1]
        dense, units = self.runner.net.mask(self.pruning.exclude), self.learner.units

        def counts(density: float) -> np.ndarray:
            if units is None:
                return m.counts(dense, density)
            return units.rounds(density, 1, scope=m.scope)[0]

        def every(value: T) -> T:
            return jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), value)

        return ScorePlan(
            schedule=every(one),
            order=every(np.asarray(ORDER, np.int32)),
            augment=every(np.asarray(ORDER, np.int32)),
            density=densities.astype(np.float32),
            keep=np.stack([counts(float(d)) for d in densities]),
            round=every(np.asarray(self.steps // m.rounds, np.int32)),
            part=every(np.asarray(self.steps // m.parts, np.int32)),
            teachers=() if self.taught is not None else self._teachers_of(wanted),
            tutoring=() if self.taught is None else every(schedule(self.taught)),
        )
