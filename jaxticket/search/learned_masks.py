"""Masks by learning scores: how `jt.search` finds its masks."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from jaxticket import parallel
from jaxticket.at_step import StepPlan, Wanted
from jaxticket.data.stream import Stream
from jaxticket.jobs import Arrays, Bench, Jobs, Watch, take, train_jobs
from jaxticket.optim import schedule
from jaxticket.search.method import Method
from jaxticket.search.step import Learned, LearningPlan
from jaxticket.search.teachers import train_teachers
from jaxticket.search.trainer import ORDER, TRACE, searcher
from jaxticket.settings import PruningAtStep
from jaxticket.ticket import Ticket
from jaxticket.train import put_data
from jaxticket.trunk import Networks
from jaxticket.types import Mask, Params, TrainState


@dataclasses.dataclass(frozen=True)
class LearnedPruning(PruningAtStep):
    """How `jt.search` prunes.

    Attributes:
      method: what is learned, and how.
      search_steps: steps of the search.
    """

    schedule: str = "remaining"
    method: Method | None = None
    search_steps: int = 0

    def weights(self, mask: Mask, params: Params, prunable: Any) -> Params:
        """The dense weights; where the method rescales them, each layer's times its size over its
        number of ones.
        """
        if self.method is None or not self.method.rescale:
            return params

        def one(m: np.ndarray, w: np.ndarray, p: bool) -> np.ndarray:
            if not p:
                return w
            ones = np.maximum(m.reshape(len(m), -1).sum(axis=1), 1)
            factor = np.asarray(m[0].size / ones, np.float32)
            return w * factor.reshape(-1, *(1,) * (m.ndim - 1))

        return jax.tree.map(one, mask, params, prunable)


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

    def check(self, bench: Bench, keys: np.ndarray) -> None:
        """Builds the program, which raises for a network that the objective cannot look at."""
        del keys
        self._program(bench)

    def prepare(self, bench: Bench, initial: Networks) -> float:
        """Trains the teachers."""
        if self.method.teaching is None:
            return 0.0
        began = time.perf_counter()
        bench.bar.set_description("teachers")
        self.teachers = train_teachers(
            bench, self.method.teaching, self.plan.training, self.plan.seeds, initial
        )
        return time.perf_counter() - began

    def trace(self, pruning: PruningAtStep, wanted: Wanted, arrays: Arrays) -> list[dict[str, Any]]:
        """One row for each look at each search."""
        return [
            {
                "seed": self.plan.seeds[replica],
                "level": int(level),
                "density": pruning.densities[level - 1],
                "step": int(step),
                **{name: float(x) for name, x in zip(TRACE, seen[place], strict=True)},
            }
            for place, (level, replica) in enumerate(
                zip(wanted.levels, wanted.replicas, strict=True)
            )
            for step, seen in zip(arrays["trace_steps"], arrays["trace"], strict=True)
        ]

    def find(
        self, bench: Bench, pruning: PruningAtStep, origin: Ticket, wanted: Wanted
    ) -> tuple[Mask, Arrays]:
        """Trains the scores of these masks side by side."""
        began = time.perf_counter()
        count, size = len(wanted.levels), wanted.size
        found = self._program(bench)
        bench = bench._replace(
            program=found.program,
            data=self._data(bench),
            size=size,
            interval=self.training.evaluation_interval,
        )
        keys = np.asarray(wanted.keys)[wanted.replicas]
        plan = self._plan(pruning, wanted)
        limits = np.zeros(size, np.int32)
        placed = parallel.put(parallel.pad(plan, size), bench.mesh)
        typed = jax.random.wrap_key_data(parallel.put(parallel.pad(keys, size), bench.mesh))
        scores = take(parallel.host(found.drawn(limits, typed, placed.density)), 0, count)
        own = take(jax.tree.map(np.asarray, wanted.own(origin)), 0, count)
        learned = Learned(scores, own.params)
        jobs = Jobs(learned, own.stats, own.mask, keys, np.zeros(count, np.int32), plan)  # type: ignore[arg-type]

        def look(state: TrainState, on: np.ndarray) -> np.ndarray:
            del on
            return parallel.host(found.look(limits, state, placed))[:count]

        watch = Watch((count, len(TRACE)), look, "none")
        trained = train_jobs(bench, jobs, f"{wanted.unit}-search", watch=watch)
        for place in np.flatnonzero((trained.diverged >= 0) & (wanted.lost[wanted.replicas] < 0)):
            bench.bar.write(
                f"{self.name}, density {pruning.densities[wanted.levels[place] - 1]:g}, seed "
                f"{self.plan.seeds[wanted.replicas[place]]}: the objective was not finite at step "
                f"{trained.diverged[place]}; the mask is that of the scores before. "
                "A lower `lr` of the method may help"
            )
        mask = take(parallel.host(found.finish(limits, trained.state, placed)), 0, count)
        # a network that diverged before the search stays dense, as in `prune_at`
        whole = wanted.lost[wanted.replicas] >= 0
        mask = jax.tree.map(
            lambda m, d: np.where(whole.reshape(-1, *(1,) * (m.ndim - 1)), d, m), mask, own.mask
        )
        return mask, {
            "trace": trained.watched,
            "trace_steps": trained.steps.max(axis=1),
            "diverged_search": trained.diverged,
            "seconds": np.asarray(time.perf_counter() - began),
        }

    def _data(self, bench: Bench) -> Any:
        """The data as the search sees them: streams without random crops if images are not
        augmented, in blocks of the search's own length.
        """
        data = self.plan.data
        if not isinstance(data, Stream):
            return bench.data
        if not self.method.augment:
            data = dataclasses.replace(data, train_crop="center")
        return put_data(data, self.training, bench.mesh)

    def _program(self, bench: Bench) -> Any:
        return searcher(
            self.plan.net, self.method, self.training, bench.mesh, bench.splits,
            self.plan.prunings[0].exclude,
        )  # fmt: skip

    def _plan(self, pruning: PruningAtStep, wanted: Wanted) -> LearningPlan:
        """A plan for each mask, host arrays."""
        count, m = len(wanted.levels), self.method
        one = schedule(self.training)._replace(stop=np.int32(self.steps))  # type: ignore[arg-type]
        densities = np.asarray(pruning.densities)[wanted.levels - 1]
        like, prunable = self.plan.like[0], self.plan.prunable

        def every(value: Any) -> Any:
            return jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), value)

        return LearningPlan(
            schedule=every(one),
            order=every(np.int32(ORDER)),
            augment=every(np.int32(ORDER)),
            density=densities.astype(np.float32),
            keep=np.stack([m.counts(like, float(d), prunable=prunable) for d in densities]),
            round=every(np.int32(self.steps // m.rounds)),
            part=every(np.int32(self.steps // m.parts)),
            teachers=jax.tree.map(lambda x: x[wanted.replicas], self.teachers),
        )
