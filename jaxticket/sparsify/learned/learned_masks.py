"""Masks by learning scores: how `jt.search` finds its masks."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import numpy as np

from jaxticket import rescaling
from jaxticket._check import instance, settle, whole
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks
from jaxticket.engine.loop import Arrays, Jobs, Trained, Watch, take, train_jobs
from jaxticket.engine.optim import schedule
from jaxticket.engine.program import program
from jaxticket.engine.runtime import Run
from jaxticket.engine.supervised import Supervised
from jaxticket.settings import PruningAtStep, Training
from jaxticket.sparsify.at_step import StepPlan, Wanted
from jaxticket.sparsify.learned.learner import (
    ORDER,
    TRACE,
    ScoreLearner,
    ScoreOrigin,
    ScorePlan,
    ScoreState,
    score_programs,
)
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.teachers import train_teachers
from jaxticket.ticket import Ticket
from jaxticket.typing import Mask, Params


@dataclasses.dataclass(frozen=True)
class LearnedPruning(PruningAtStep):
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

    def factors(self, mask: Mask, prunable: Any) -> Params | None:
        """What the dense weights of tickets are multiplied by: the height of the method's masks,
        the size of a layer over its number of ones where the method rescales, and `rescale`.
        """
        found, method = super().factors(mask, prunable), self.method
        if method is None:
            return found
        if method.scaled_tickets and method.relaxation.height != 1:
            height = rescaling.constant(mask, prunable, method.relaxation.height)
            found = rescaling.together(found, height)
        if method.rescale:
            found = rescaling.together(found, rescaling.by_density(mask, prunable, "layer"))
        return found


def hamming(one: Mask, other: Mask, prunable: Any) -> np.ndarray:
    """Share of prunable entries in which masks [mask, ...] differ, float64 [mask].

    Reference: KD-LTS, Figure 4.
    """
    leaves = [
        (np.asarray(a), np.asarray(b))
        for a, b, p in zip(*map(jax.tree.leaves, (one, other, prunable)), strict=True)
        if p
    ]
    apart = sum(np.count_nonzero((a != b).reshape(len(a), -1), axis=1) for a, b in leaves)
    return np.asarray(apart, np.float64) / sum(a[0].size for a, _ in leaves)


class LearnedMasks:
    """Trains scores for each wanted mask and keeps the best.

    Args:
      plan: of the run.
      method: what is learned, and how.
      steps: of the search, from `Method.steps`.
    """

    remedy = ""

    def __init__(self, plan: StepPlan, method: Method, steps: int) -> None:
        self.plan, self.method, self.steps, self.name = plan, method, steps, method.name
        self.training = method.training(plan.training, steps)
        self.teachers: Networks | tuple[()] = ()
        teaching = method.teaching
        self.before = 0 if teaching is None else teaching.count * teaching.steps(plan.training)
        self.taught: Training | None = None
        if teaching is not None and teaching.online:
            self.taught = teaching.training(plan.training)

    @functools.cached_property
    def learner(self) -> ScoreLearner:
        """What is trained; it raises for a network that the objective cannot look at."""
        net, tutor = self.plan.net, None
        if self.taught is not None:
            # they see the student's batches, which are augmented already
            tutor = Supervised(net, self.taught.replace(augment=()))
        exclude = self.plan.prunings[0].exclude
        return ScoreLearner(net, self.method, self.training, tuple(exclude), tutor)

    def check(self, run: Run, keys: np.ndarray) -> None:
        """Raises for a network that the objective cannot look at."""
        del run, keys
        assert self.learner

    def prepare(self, run: Run, initial: Networks) -> float:
        """Trains the teachers, or what comes of it before the search."""
        if self.method.teaching is None:
            return 0.0
        plan = self.plan
        run.describe("teachers")
        self.teachers, seconds = train_teachers(
            plan.net, run, self.method.teaching, plan.training, plan.seeds, initial
        )
        return seconds

    def trace(self, pruning: PruningAtStep, wanted: Wanted, arrays: Arrays) -> list[dict[str, Any]]:
        """One row for each look at each search."""
        names = (*TRACE, "hamming")[: arrays["trace"].shape[-1]]
        return [
            {
                "seed": self.plan.seeds[replica],
                "level": int(level),
                "density": pruning.densities[level - 1],
                "step": int(step),
                **{name: float(x) for name, x in zip(names, seen[place], strict=True)},
            }
            for place, (level, replica) in enumerate(
                zip(wanted.levels, wanted.replicas, strict=True)
            )
            for step, seen in zip(arrays["trace_steps"], arrays["trace"], strict=True)
        ]

    def find(
        self, run: Run, pruning: PruningAtStep, origin: Ticket, wanted: Wanted
    ) -> tuple[Mask, Arrays]:
        """Trains the scores of these masks side by side."""
        began = time.perf_counter()
        count, size = len(wanted.levels), wanted.size
        method, compiled = self.method, score_programs(self.learner, run.mesh)
        run = dataclasses.replace(
            run,
            program=program(self.learner, run.mesh),
            # data streams without random crops if images are not augmented
            data=run.data.of_training(self.training, cropped=self.method.augment),
            size=size,
            interval=self.training.evaluation_interval,
        )
        keys = np.asarray(wanted.keys)[wanted.replicas]
        plan = self._plan(pruning, wanted)
        limits = np.zeros(size, np.int32)
        placed = parallel.put(parallel.pad(plan, size), run.mesh)
        typed = jax.random.wrap_key_data(parallel.put(parallel.pad(keys, size), run.mesh))
        scores = take(
            parallel.host(compiled.initial_scores(limits, typed, placed.density)), 0, count
        )
        own = take(jax.tree.map(np.asarray, wanted.own(origin)), 0, count)
        started = ScoreOrigin(scores, own.params, own.stats, own.mask)
        if self.taught is not None and method.teaching is not None:
            begun = np.full(count, method.teaching.steps(self.taught), np.int32)
            started = started._replace(teachers=(self._teachers_of(wanted), begun))  # type: ignore[arg-type]
        start, lost = np.zeros(count, np.int32), np.zeros(count, bool)
        jobs = Jobs(started, keys, start, plan, lost)

        def look(state: ScoreState, on: np.ndarray) -> np.ndarray:
            del on
            return parallel.host(compiled.look(limits, state, placed))[:count]

        watch = Watch((count, len(TRACE)), look, evaluates=False)
        moments = self._moments(pruning)

        def keeps(state: ScoreState) -> tuple[Mask, Any]:
            # the mask that the method would give here, and the numbers that a look gives
            return compiled.chosen(limits, state, placed), compiled.look(limits, state, placed)

        trained = train_jobs(
            run, jobs, f"{wanted.unit}-search", snapshots_at=moments, watch=watch, keeps=keeps
        )
        for place in np.flatnonzero((trained.diverged >= 0) & (wanted.lost[wanted.replicas] < 0)):
            run.write(
                f"{self.name}, density {pruning.densities[wanted.levels[place] - 1]:g}, seed "
                f"{self.plan.seeds[wanted.replicas[place]]}: the objective was not finite at step "
                f"{trained.diverged[place]}; the mask is that of the scores before. "
                "A lower `lr` of the method may help"
            )
        if self.taught is not None and trained.state.tutors:
            self._report_teachers(run, parallel.host(trained.state.tutors.diverged), wanted)
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

    def _moments(self, pruning: PruningAtStep) -> list[int]:
        """The steps at which masks are compared."""
        parts = pruning.watch_masks if isinstance(pruning, LearnedPruning) else 0
        shares = range(parts + 1) if parts else ()
        return sorted({round(self.steps * i / parts) for i in shares})

    def _traced(self, trained: Trained, moments: list[int]) -> np.ndarray:
        """What was looked at, [call, mask, number]; with the share of prunable entries in which a
        mask differs from that of the moment before, where there are moments.
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
                row[:, -1] = hamming(mask, before, self.plan.prunable)
            before = mask
        return watched

    def _teachers_of(self, wanted: Wanted) -> Any:
        return jax.tree.map(lambda x: x[wanted.replicas], self.teachers)

    def _report_teachers(self, run: Run, diverged: np.ndarray, wanted: Wanted) -> None:
        """Says which teachers diverged while they were trained along: int [place, teacher]."""
        for place, number in np.argwhere(diverged[: len(wanted.replicas)] >= 0):
            run.write(
                f"teacher {number}, seed {self.plan.seeds[wanted.replicas[place]]}: the loss was "
                f"not finite at step {diverged[place, number]} of its training; it stays as it was "
                f"before"
            )

    def _plan(self, pruning: PruningAtStep, wanted: Wanted) -> ScorePlan:
        """A plan for each mask, host arrays."""
        count, m = len(wanted.levels), self.method
        one = schedule(self.training)._replace(stop=np.asarray(self.steps, np.int32))
        densities = np.asarray(pruning.densities)[wanted.levels - 1]
        like, prunable = self.plan.like[0], self.plan.prunable

        def every(value: Any) -> Any:
            return jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), value)

        return ScorePlan(
            schedule=every(one),
            order=every(np.int32(ORDER)),
            augment=every(np.int32(ORDER)),
            density=densities.astype(np.float32),
            keep=np.stack([m.counts(like, float(d), prunable=prunable) for d in densities]),
            round=every(np.int32(self.steps // m.rounds)),
            part=every(np.int32(self.steps // m.parts)),
            teachers=() if self.taught is not None else self._teachers_of(wanted),
            tutoring=() if self.taught is None else every(schedule(self.taught)),
        )
