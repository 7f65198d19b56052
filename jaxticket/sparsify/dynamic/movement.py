"""The monitor of moving masks: density, and how much of the network they have explored."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket.engine.supervised import TrainBatch
from jaxticket.problem import Problem
from jaxticket.sparsify.dynamic.rule import state_of_rule
from jaxticket.typing import TrainState


@dataclass(frozen=True)
class Movement:
    """How a mask has moved so far, of which `jt.sparse_train` always keeps a record.

    In `runs.monitored()`:

    - "mask_density": share of the prunable weights that the mask keeps at this step;
    - "mask_explored": share that it has kept at this step or before, the in-time
      over-parameterization rate R_s;
    - "mask_grown": weights that updates have brought back since the start, as a share of the
      prunable weights; the same weight counts as often as it came back.

    Attributes:
      every: steps between measurements.

    Reference: Liu et al. 2021, "Do we actually need dense over-parameterization?", section 3.
    """

    every: int

    def __call__(
        self, problem: Problem, state: TrainState, batch: TrainBatch
    ) -> dict[str, jax.Array]:
        """The shares, float32."""
        del problem, batch
        rule = state_of_rule(state)
        grown = rule.grown / jnp.float32(masks.prunable_size(state.mask))
        return {
            "mask_density": masks.density(state.mask),
            "mask_explored": masks.density(rule.explored),
            "mask_grown": grown,
        }
