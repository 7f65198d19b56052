"""Straight-through training: pruned weights are trained too, and the largest are used."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket._check import one_of, settle
from jaxticket.problem import Problem
from jaxticket.sparsify.dynamic.latent import Latent
from jaxticket.sparsify.dynamic.rule import memory_of
from jaxticket.sparsify.dynamic.static import random_scores
from jaxticket.typing import Array, Key, Mask, Params, TrainState


@dataclass(frozen=True)
class StraightThrough(Latent):
    """Use the largest weights in the forward pass, and train all of them.

    All weights follow the gradient with respect to the effective weights `m * w`, as if the
    derivative of the mask were 1 (a straight-through estimate), so that pruned weights may come
    back with the values that they have by then.

    Attributes:
      score: "magnitude" keeps the largest weights; "random" draws a new mask at every update.
      every, end, scope: as of `Latent`.

    Reference: Bengio et al. 2013 for the estimate; Lee et al. 2023 (JaxPruner), magnitude and
      random STE.
    """

    score: str = "magnitude"

    def __post_init__(self) -> None:
        settle(self, one_of, "score", choices=("magnitude", "random"))
        super().__post_init__()

    def init(self, problem: Problem, density: float, *, key: Key) -> tuple[Mask, Array]:
        """A random mask until the weights are there, and how many the rule keeps."""
        mask = problem.net.mask()
        keep = jnp.asarray(self.counts(mask, density, self.scope))
        scores = random_scores(problem.net.shapes[0], key=key)
        return self.keep_top(scores, mask, keep, scope=self.scope), keep

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """The best of all weights."""
        del dense_gradient, step
        if self.score == "random":
            scores = random_scores(state.params, key=key)
        else:
            scores = jax.tree.map(jnp.abs, state.params)
        dense = jax.tree.map(jnp.ones_like, state.mask)
        keep = memory_of(state, jax.Array)
        return state._replace(mask=self.keep_top(scores, dense, keep, scope=self.scope))
