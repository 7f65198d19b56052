"""Smoothness of the loss along the gradient, a monitor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket._check import instance, number, settle, several, whole
from jaxticket.engine.selected import completed, trained_part
from jaxticket.engine.supervised import TrainBatch
from jaxticket.problem import Problem
from jaxticket.settings import Training
from jaxticket.typing import Params, TrainState

# of the learning rate, as Santurkar et al. step along the gradient
MULTIPLES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


@dataclasses.dataclass(frozen=True)
class Smoothness:
    """How loss and gradient change along the gradient of an update, a monitor.

    At weights w with the masked gradient g = m * grad L(w) of the batch, for step lengths eta:

        loss             L(w - eta g)
        gradient_change  ||g(w - eta g) - g||, the gradient predictiveness
        beta             ||g(w - eta g) - g|| / (eta ||g||), the effective beta-smoothness

    each with the least and the greatest over all lengths. The loss is that of the update: the same
    batch, augmented, with label smoothing, BatchNorm in training mode (its running statistics do
    not move) and the same dropout. Frozen weights (`Training.trainable`) do not move.

    >>> import jaxticket as jt
    >>> Smoothness.of(jt.Training(lr=0.1), multiples=(0.5, 4), every=10)
    Smoothness(lengths=(0.05, 0.4), every=10)

    Attributes:
      lengths: step lengths eta above 0, such as multiples of the learning rate; `of` takes these.
      every: steps between measurements.

    Returns (when called, see docs/extending/monitor.md):
      "loss" and "gradient" (the norm of g) at w; "loss_least", "loss_greatest",
      "gradient_change_least", "gradient_change_greatest", "beta_least" and "beta_greatest".

    Raises:
      ValueError: for lengths that are not above 0, and none.

    Reference: Santurkar et al. 2018, "How does batch normalization help optimization?"; KD-LTS,
      figures 8 and 30.
    """

    lengths: tuple[float, ...]
    every: int = 1

    def __post_init__(self) -> None:
        settle(self, several, "lengths", check=number, low=0, above=True, like="(0.05, 0.1, 0.4)")
        settle(self, whole, "every", low=1)

    @classmethod
    def of(
        cls, training: Training, *, multiples: Sequence[float] = MULTIPLES, every: int = 1
    ) -> Smoothness:
        """Take multiples of the learning rate of a training as step lengths.

        Args:
          training: its `lr`, also where a schedule changes it on the way.
          multiples: of it; half to four times by default.
          every: steps between measurements.
        """
        instance("training", training, Training, "a jt.Training")
        multiples = several(
            "multiples", multiples, check=number, low=0, above=True, like="(0.5, 1, 4)"
        )
        return cls(tuple(float(training.lr) * multiple for multiple in multiples), every)

    def __call__(
        self, problem: Problem, state: TrainState, batch: TrainBatch
    ) -> dict[str, jax.Array]:
        """Measure a training state."""

        def gradient(params: Params) -> tuple[jax.Array, Params]:
            loss, full = problem.update(state._replace(params=params), batch)
            still = jax.tree.map(jnp.zeros_like, full)
            own = completed(trained_part(problem.training, full), still)
            return loss, masks.apply(state.mask, own)

        loss, g = gradient(state.params)
        size = _tree.norm(g)

        def away(length: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = jax.tree.map(lambda w, s: w - length.astype(w.dtype) * s, state.params, g)
            other, slope = gradient(moved)
            return other, _tree.norm(jax.tree.map(jnp.subtract, slope, g))

        lengths = jnp.asarray(self.lengths, jnp.float32)
        losses, changes = jax.lax.map(away, lengths)
        bands = {"loss": losses, "gradient_change": changes, "beta": changes / (lengths * size)}
        found = {"loss": loss, "gradient": size}
        for name, values in bands.items():
            found[f"{name}_least"] = jnp.min(values)
            found[f"{name}_greatest"] = jnp.max(values)
        # the state is marked as diverged only at the step after a non-finite loss
        alive = jnp.isfinite(loss)
        return {name: jnp.where(alive, x, jnp.nan) for name, x in found.items()}
