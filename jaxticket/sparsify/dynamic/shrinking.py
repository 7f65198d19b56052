"""Masks that shrink during training by a table of counts."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import one_of, settle
from jaxticket.problem import Problem
from jaxticket.pruning.keep import counts_of
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.rule import MaskRule, memory_of
from jaxticket.sparsify.dynamic.times import check_time, in_steps
from jaxticket.typing import Array, Key, Mask, Params, TrainState


@dataclass(frozen=True)
class Shrinking(MaskRule):
    """Start dense, and prune the smallest weights at some steps; none comes back.

    Attributes:
      begin, end: the first and the last step at which weights are pruned: steps, whole numbers, or
        shares of the training, such as 0.75.
      every: steps between updates, or a share of the training.
      scope: "global" ranks all layers together, "layer" each by itself.
    """

    begin: float | int = 0
    end: float | int = 0.75
    every: float | int = 100
    scope: str = "global"

    def __post_init__(self) -> None:
        settle(self, check_time, "begin")
        settle(self, check_time, "end", "every", low=1)
        settle(self, one_of, "scope", choices=("global", "layer"))

    def for_training(self, training: Training) -> Shrinking:
        """The rule with steps in the place of shares."""
        return in_steps(self, training, trains_on=True)

    @property
    def grows(self) -> bool:
        """Nothing comes back."""
        return False

    @abc.abstractmethod
    def densities(self, density: float) -> Mapping[int, float]:
        """The densities by the steps at which they are reached, ascending.

        Args:
          density: that of the last.
        """

    def init(self, problem: Problem, density: float, *, key: Key) -> tuple[Mask, Array]:
        """The dense mask, and the counts by update: int32 [update] or [update, layer]."""
        del key
        mask = problem.net.mask()
        shares = list(self.densities(density).values())
        last = self.counts(mask, density, self.scope)
        if self.units is None:
            table = counts_of(mask, shares, self.scope)
        else:
            table = np.stack([*(self.counts(mask, s, self.scope) for s in shares[:-1]), last])
        return jax.tree.map(jnp.asarray, mask), jnp.asarray(table, jnp.int32)

    def when(self, step: Array) -> Array:
        """At the steps of the table."""
        return jnp.any(step == self._steps())

    def count(self, state: TrainState, *, step: Array) -> Array:
        """That of the table."""
        return self.total(self._amounts(state, step))

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """The largest of the weights that are left."""
        del dense_gradient, key
        scores = jax.tree.map(jnp.abs, state.params)
        keep = self._amounts(state, step)
        return state._replace(mask=self.keep_top(scores, state.mask, keep, scope=self.scope))

    def _steps(self) -> np.ndarray:
        return np.asarray(list(self.densities(1.0)), np.int32)

    def _amounts(self, state: TrainState, step: Array) -> Array:
        number = jnp.sum(self._steps() <= step, dtype=jnp.int32) - 1
        return memory_of(state, jax.Array)[number]
