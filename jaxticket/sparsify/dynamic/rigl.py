"""RigL: the smallest weights give way to those with the largest gradients."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket._check import flag, settle
from jaxticket.sparsify.dynamic.drop_and_grow import DropAndGrow
from jaxticket.typing import Key, Params, TrainState


@dataclass(frozen=True)
class RigL(DropAndGrow):
    """Rig the lottery: grow the weights whose dense gradient is largest, `|dL / dw|`.

    The gradient is that of the batch of the step, with respect to the effective weights.

    Attributes:
      layout, every, end, fraction, decay: as of `DropAndGrow`.
      skip: whether an update takes the place of the step of descent, as published; False updates
        the weights at all steps.

    Reference: Evci et al. 2020, "Rigging the Lottery: Making All Tickets Winners", Algorithm 1.
    """

    skip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, flag, "skip")

    @property
    def replaces_step(self) -> bool:
        """As `skip`."""
        return self.skip

    def growth(self, state: TrainState, dense_gradient: Params, *, key: Key) -> Params:
        """The magnitude of the gradient."""
        del state, key
        return jax.tree.map(jnp.abs, dense_gradient)
