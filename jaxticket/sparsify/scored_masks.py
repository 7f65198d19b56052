"""Masks by scoring and pruning, in one round or many: how `prune_at` finds its masks."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from jaxticket._check import from_table
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks
from jaxticket.engine.loop import Arrays, take
from jaxticket.engine.runtime import Run
from jaxticket.pruning.compiled import Examples, Selection, Weights, pruner
from jaxticket.pruning.keep import layout_counts, not_finite, round_counts
from jaxticket.pruning.layouts import layers_of
from jaxticket.pruning.scores import LAYOUTS
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.settings import EarlyPruning
from jaxticket.sparsify.at_step import StepPlan, Wanted
from jaxticket.ticket import Ticket
from jaxticket.typing import Mask, Score


class ScoredMasks:
    """Scores the weights and keeps the best.

    Args:
      plan: of the run.
      pruning: how; any of the plan's.
      score: the score function.
      examples: what it looks at.
    """

    steps, before = 0, 0
    remedy = "; `floor`=1 keeps one weight of each"

    def __init__(
        self, plan: StepPlan, pruning: EarlyPruning, score: Score, examples: Examples
    ) -> None:
        self.plan, self.pruning, self.score, self.examples = plan, pruning, score, examples
        self.name, self.recipe = name_of(score), recipe_of(score)

    @functools.cached_property
    def keeps(self) -> dict[int, np.ndarray]:
        """Weights that each level keeps, round after round: level -> int32 [round, ...]."""
        p, plan = self.pruning, self.plan
        rounds = p.rounds or self.recipe.rounds
        found = {}
        for level, share in enumerate(p.densities, start=1):
            if p.scope in ("global", "layer"):
                found[level] = round_counts(
                    plan.like[0],
                    share,
                    rounds,
                    prunable=plan.prunable,
                    scope=str(p.scope),
                    floor=p.floor,
                )
            else:
                layout = from_table("scope", p.scope, LAYOUTS)
                layers = layers_of(plan.net, plan.prunable)
                found[level] = layout_counts(layout, layers, share, rounds)
        return found

    def check(self, run: Run, keys: np.ndarray) -> None:
        """Raises where there are too few examples of a class: here, not after hours of dense
        training.
        """
        if self.examples.per_class is not None:
            run.data.balanced(keys[:1], 0, self.examples.per_class)

    def prepare(self, run: Run, initial: Networks) -> float:
        """Nothing: scores look at the network alone."""
        del run, initial
        return 0.0

    def trace(self, pruning: Any, wanted: Wanted, arrays: Arrays) -> list[dict[str, Any]]:
        """Nothing: a score has no history."""
        del pruning, wanted, arrays
        return []

    def find(self, run: Run, pruning: Any, origin: Ticket, wanted: Wanted) -> tuple[Mask, Arrays]:
        """Scores and prunes, in one call of the compiled selection."""
        count, size = len(wanted.levels), wanted.size
        limits = (np.arange(size) < count).astype(np.int32)
        keeps = np.stack([self.keeps[level] for level in wanted.levels.tolist()])
        keys = wanted.own(wanted.keys)
        e, rounds = self.examples, len(self.keeps[1]) if self.recipe.fresh else None
        own = run.data.score_batches(
            keys, 0, e.batches, e.size, per_class=e.per_class, rounds=rounds
        )

        def put(tree: Any) -> Any:
            return parallel.put(wanted.own(tree), run.mesh)

        weights = Weights(
            put(origin.params),
            put(origin.stats),
            put(origin.mask),
            jax.random.wrap_key_data(parallel.put(keys, run.mesh)),
            put(wanted.lost),
        )
        mask, fault = self._select(run)(
            limits,
            weights,
            put(wanted.initial[0]),
            parallel.put(parallel.pad(keeps, size), run.mesh),
            # all densities look at the same examples
            parallel.put(np.zeros(size, np.int32), run.mesh),
            own,
            run.data.arrays,
        )
        mask, fault = take(parallel.host((mask, fault)), 0, count)
        if fault.any():
            place = int(np.argmax(fault))
            share = pruning.densities[wanted.levels[place] - 1]
            seed = self.plan.seeds[wanted.replicas[place]]
            raise ValueError(not_finite(self.name, f" (density {share:g}, seed {seed})"))
        return mask, {}

    def _select(self, run: Run) -> Any:
        p = self.pruning
        selection = Selection(
            self.score,
            "global" if p.scope == "global" else "layer",
            p.floor,
            p.exclude,
            self.examples,
            self.plan.training.loss,
        )
        return pruner(self.plan.net, run.mesh, selection)
