"""AC/DC: phases of dense and of sparse training take turns."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket._check import one_of, settle
from jaxticket.problem import Problem
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.rule import MaskRule, memory_of
from jaxticket.sparsify.dynamic.times import check_time, in_steps
from jaxticket.typing import Array, Key, Mask, Params, TrainState


@dataclass(frozen=True)
class ACDC(MaskRule):
    """Alternating compressed and decompressed training.

    Training is dense up to `begin`. Then phases of `every` steps take turns: in a sparse one the
    largest weights are kept, in a dense one all are trained, those that come back from zero. From
    `end` on training is sparse; the phase before is dense, and longer where an odd number of phases
    has room.

    Attributes:
      begin, end: steps, whole numbers, or shares of the training.
      every: steps of a phase, or a share of the training.
      scope: "global" ranks all layers together, "layer" each by itself.

    The defaults are the published ones for 100 epochs: 10 dense, phases of 5, the last dense one of
    10, and sparse for the last 15.

    Reference: Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
      Neural Networks", Algorithm 1.
    """

    begin: float | int = 0.1
    end: float | int = 0.85
    every: float | int = 0.05
    scope: str = "global"

    def __post_init__(self) -> None:
        settle(self, check_time, "begin")
        settle(self, check_time, "end", "every", low=1)
        settle(self, one_of, "scope", choices=("global", "layer"))

    def for_training(self, training: Training) -> ACDC:
        """The rule with steps in the place of shares.

        Raises:
          ValueError: as of `in_steps`, and where no sparse and dense phase fit before `end`.
        """
        rule = in_steps(self, training, trains_on=True)
        begin, every, end = int(rule.begin), int(rule.every), int(rule.end)
        if begin + 2 * every > end:
            raise ValueError(
                f"`every` {every} of ACDC leaves no sparse and dense phase between `begin` {begin} "
                f"and `end` {end}; use at most {(end - begin) // 2} steps in a training of "
                f"{training.steps}"
            )
        return rule

    def init(self, problem: Problem, density: float, *, key: Key) -> tuple[Mask, Array]:
        """The dense mask, and how many weights sparse phases keep."""
        del key
        mask = problem.net.mask()
        keep = jnp.asarray(self.counts(mask, density, self.scope))
        return jax.tree.map(jnp.asarray, mask), keep

    def when(self, step: Array) -> Array:
        """At the start of each phase."""
        begins = (step - int(self.begin)) % int(self.every) == 0
        inside = (step >= int(self.begin)) & (step < int(self.end))
        return (inside & begins) | (step == int(self.end))

    def count(self, state: TrainState, *, step: Array) -> Array:
        """All weights in dense phases."""
        sparse = self.total(memory_of(state, jax.Array))
        dense = self.kept(jax.tree.map(jnp.ones_like, state.mask))
        return jnp.where(self._sparse(step), sparse, dense)

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """The largest weights, or all."""
        del dense_gradient, key
        scores, keep = jax.tree.map(jnp.abs, state.params), memory_of(state, jax.Array)
        largest = self.keep_top(scores, state.mask, keep, scope=self.scope)
        dense = ~self._sparse(step)
        return state._replace(mask=jax.tree.map(lambda m: m | dense, largest))

    def _sparse(self, step: Array) -> Array:
        """Whether the phase that begins at a step is sparse."""
        begin, every, end = int(self.begin), int(self.every), int(self.end)
        number = (step - begin) // every
        ends_early = begin + (number + 1) * every < end
        return ((number % 2 == 0) & ends_early) | (step >= end)
