"""Top-KAST: a sparse forward pass, and gradients for somewhat more weights."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket._check import number, settle
from jaxticket.problem import Problem
from jaxticket.sparsify.dynamic.latent import Latent
from jaxticket.sparsify.dynamic.rule import memory_of, state_of_rule
from jaxticket.sparsify.dynamic.static import random_scores
from jaxticket.typing import Array, Key, Mask, Params, TrainState


@dataclass(frozen=True)
class TopKAST(Latent):
    r"""Use the largest weights A in the forward pass, and train a larger set B of them.

    A are the `density * P` largest weights, B the `(density + extra) * P` largest. Weights of B
    follow the gradient with respect to the effective weights and decay, those of A by `decay * w`
    and those of B \ A by `decay * w / density`, so that none comes in without having earned it.
    Weights outside of B stay as they are.

    Attributes:
      extra: what B keeps on top of A, a share of the weights; B is at most all of them.
      decay: of the weights, on top of that of the training.
      every, end, scope: as of `Latent`, for A and B.

    Reference: Jayakumar et al. 2020, "Top-KAST: Top-K Always Sparse Training", sections 2.1 to 2.3.
    """

    every: float | int = 100
    scope: str = "layer"
    extra: float = 0.3
    decay: float = 1e-4

    def __post_init__(self) -> None:
        settle(self, number, "extra", low=0, high=1)
        settle(self, number, "decay", low=0)
        super().__post_init__()

    def init(
        self, problem: Problem, density: float, *, key: Key
    ) -> tuple[Mask, dict[str, Array | Mask]]:
        """A random mask until the weights are there; counts of A and B, and B."""
        mask = problem.net.mask()
        forward = jnp.asarray(self.counts(mask, density, self.scope))
        backward = jnp.asarray(self.counts(mask, min(1.0, density + self.extra), self.scope))
        scores = random_scores(problem.net.shapes[0], key=key)
        first, larger = (
            self.keep_top(scores, mask, n, scope=self.scope) for n in (forward, backward)
        )
        return first, {"forward": forward, "backward": backward, "mask": larger}

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """A and B of the weights as they are."""
        del dense_gradient, step, key
        memory = memory_of(state, dict)
        scores = jax.tree.map(jnp.abs, state.params)
        dense = jax.tree.map(jnp.ones_like, state.mask)
        forward = self.keep_top(scores, dense, memory["forward"], scope=self.scope)
        backward = self.keep_top(scores, dense, memory["backward"], scope=self.scope)
        rule = state_of_rule(state)._replace(memory={**memory, "mask": backward})
        return state._replace(mask=forward, rule=rule)

    def trained(self, state: TrainState) -> Mask:
        """B."""
        return memory_of(state, dict)["mask"]

    def penalty(self, state: TrainState) -> Params:
        """The gradient of the regularizer."""
        density = masks.density(state.mask)

        def one(forward: Array, backward: Array, w: Array) -> Array:
            share = jnp.where(forward, jnp.float32(1), backward.astype(jnp.float32) / density)
            return (jnp.float32(self.decay) * share).astype(w.dtype) * w

        larger = memory_of(state, dict)["mask"]
        return masks.map_with(one, state.mask, larger, state.params, other=lambda _, w: w * 0)
