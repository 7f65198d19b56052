"""Top-KAST: a sparse forward pass, and gradients for somewhat more weights."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket._check import number, one_of, settle
from jaxticket.problem import Problem
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.rule import MaskRule, memory_of, state_of_rule
from jaxticket.sparsify.dynamic.static import random_scores
from jaxticket.sparsify.dynamic.times import check_time, in_steps
from jaxticket.typing import Array, Key, Mask, Params, TrainState


@dataclass(frozen=True)
class TopKAST(MaskRule):
    r"""Use the largest weights A in the forward pass, and train a larger set B of them.

    A are the `density * P` largest weights, B the `(density + extra) * P` largest. Weights of B
    follow the gradient with respect to the effective weights and decay, those of A by `decay * w`
    and those of B \ A by `decay * w / density`, so that none comes in without having earned it.
    Weights outside of B stay as they are.

    Attributes:
      extra: what B keeps on top of A, a share of the weights; B is at most all of them.
      decay: of the weights, on top of that of the training.
      every: steps between updates of A and B, or a share of the training.
      end: both stay from this step, or from this share of the training on.
      scope: "layer" ranks each layer by itself, "global" all together.

    Reference: Jayakumar et al. 2020, "Top-KAST: Top-K Always Sparse Training", sections 2.1 to 2.3.
    """

    extra: float = 0.3
    decay: float = 1e-4
    every: float | int = 100
    end: float | int = 1.0
    scope: str = "layer"

    def __post_init__(self) -> None:
        settle(self, number, "extra", low=0, high=1)
        settle(self, number, "decay", low=0)
        settle(self, check_time, "every", "end", low=1)
        settle(self, one_of, "scope", choices=("global", "layer"))

    def for_training(self, training: Training) -> TopKAST:
        """The rule with steps in the place of shares."""
        return in_steps(self, training)

    @property
    def latent(self) -> bool:
        """Weights outside of the forward pass are trained."""
        return True

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

    def when(self, step: Array) -> Array:
        """At the start, and at multiples of `every` up to `end`."""
        return (step % int(self.every) == 0) & (step <= int(self.end))

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """A and B of the weights as they are."""
        del dense_gradient, step, key
        memory = memory_of(state)
        scores = jax.tree.map(jnp.abs, state.params)
        dense = jax.tree.map(jnp.ones_like, state.mask)
        forward = self.keep_top(scores, dense, memory["forward"], scope=self.scope)
        backward = self.keep_top(scores, dense, memory["backward"], scope=self.scope)
        rule = state_of_rule(state)._replace(memory={**memory, "mask": backward})
        return state._replace(mask=forward, rule=rule)

    def trained(self, state: TrainState) -> Mask:
        """B."""
        return memory_of(state)["mask"]

    def penalty(self, state: TrainState) -> Params:
        """The gradient of the regularizer."""
        density = masks.density(state.mask)

        def one(forward: Array, backward: Array, w: Array) -> Array:
            share = jnp.where(forward, jnp.float32(1), backward.astype(jnp.float32) / density)
            return (jnp.float32(self.decay) * share).astype(w.dtype) * w

        larger = memory_of(state)["mask"]
        return masks.map_with(one, state.mask, larger, state.params, other=lambda _, w: w * 0)
