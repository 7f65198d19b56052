"""What a mask rule is: how a mask begins, when it changes, and what it becomes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket.problem import Problem
from jaxticket.pruning.keep import count, keep_top, keep_units, layer_counts
from jaxticket.pruning.structures import Units
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.counts import require_some
from jaxticket.typing import Array, Key, Mask, Params, RuleState, TrainState

MemoryT = TypeVar("MemoryT")


@dataclasses.dataclass(frozen=True)
class MaskRule(abc.ABC):
    """How a mask changes during training.

    A rule is a frozen dataclass that derives from this class. Its methods are pure functions of one
    replica, `init`, `when` and `update` at least. The library keeps what all rules promise: every
    update keeps exactly `count` weights, weights that it prunes become zero and grown ones start at
    zero, the moments of both are new, and between updates the mask stays.

    With `structure=` of `jt.sparse_train` the counts are those of its units. A rule that selects
    with `self.keep_top` and counts with `self.counts` works with every structure.

    Attributes:
      units: what is kept or pruned together, which `jt.sparse_train` sets; None for single weights.
    """

    units: Units | None = dataclasses.field(
        default=None, kw_only=True, repr=False, metadata={"newer": True}
    )

    @property
    def moves(self) -> bool:
        """Whether the mask is ever updated; where it is not, training is compiled without."""
        return True

    @property
    def latent(self) -> bool:
        """Whether pruned weights are trained too, as by a straight-through estimate.

        Such a rule sees all weights in `state.params`, also where they are pruned, and weights that
        come back are what training has made of them, with the moments that they have. Networks are
        evaluated under the mask that they were trained with last.
        """
        return False

    @property
    def grows(self) -> bool:
        """Whether weights that were pruned may come back."""
        return True

    @property
    def replaces_step(self) -> bool:
        """Whether an update takes the place of the step of descent that would follow it."""
        return False

    def for_training(self, training: Training) -> MaskRule:
        """The rule for a training: shares of it become steps.

        Raises:
          ValueError: for settings that do not fit the training.
        """
        del training
        return self

    def structured(self, units: Units) -> Self:
        """The rule for the units of a network.

        Raises:
          ValueError: for a rule that grows what cannot learn from zero.
        """
        if self.grows and not units.regrows:
            raise ValueError(
                f"`structure` has whole {units.noun}: a pruned one has no gradient, as all weights "
                f"into it and out of it are zero, and {type(self).__name__} would bring it back; "
                f"use one that only prunes: 'gradual', 'iterative' or jt.dynamic.Static('uniform')"
            )
        return dataclasses.replace(self, units=units)

    def keep_top(
        self,
        scores: Params,
        mask: Mask,
        keep: Array | int | Sequence[int],
        *,
        scope: str = "global",
    ) -> Mask:
        """Keep the weights with the highest scores, or the units: `jt.keep_top`."""
        if self.units is None:
            return keep_top(scores, mask, keep, scope=scope)
        return keep_units(self.units, scores, mask, keep, scope=scope)

    def counts(self, mask: Mask, density: float, scope: str = "global") -> np.ndarray:
        """Weights that a density keeps, as `keep_top` takes them, or units; int32.

        Args:
          mask: the dense one.
          density: share of them.
          scope: "global" or "layer".

        Raises:
          ValueError: with scope "layer", where a layer would keep nothing.
        """
        units = self.units
        if units is not None:
            # what implies its density keeps no less
            final = units.density is None or density <= units.density
            if final:
                return units.rounds(density, 1, scope=scope)[0]
            return units.counts(density, scope=scope)
        if scope == "layer":
            found = layer_counts(mask, density)
            require_some(mask, found, density, "`scope` 'layer'", "scope='global'")
            return found
        return np.asarray(count(density, masks.prunable_size(mask)), np.int32)

    def total(self, counts: Array) -> Array:
        """How many weights, or units, `counts` are in all, int32."""
        amounts = counts if self.units is None else self.units.amounts(counts)
        return jnp.sum(amounts, dtype=jnp.int32)

    def kept(self, mask: Mask) -> Array:
        """How many weights, or units, a mask keeps, int32."""
        if self.units is None:
            return masks.kept(mask)
        return masks.kept(self.units.alive(mask))

    def whole(self, mask: Mask) -> Array:
        """Whether a mask has the structure, a bool scalar."""
        return jnp.bool_(True) if self.units is None else self.units.whole(mask)

    @abc.abstractmethod
    def init(self, problem: Problem, density: float, *, key: Key) -> Mask | tuple[Mask, object]:
        """The mask that training starts with, or that and what the rule remembers.

        Args:
          problem: with the network `problem.net`; it has no examples.
          density: share of the prunable weights to keep, a number of Python.
          key: of the seed.

        Returns:
          The mask, or (mask, memory): a tree of arrays that updates find as `state.rule.memory` and
          may replace, such as a table of counts by update.
        """

    @abc.abstractmethod
    def when(self, step: Array) -> Array:
        """Whether the mask is updated when the weights are at this step, a bool scalar.

        Args:
          step: int32, the absolute step.
        """

    @abc.abstractmethod
    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """The state with a new mask, and a new memory if there is one; all else is ignored.

        Args:
          state: weights, zero where the mask is False, the mask, and `state.rule.memory`.
          dense_gradient: of the batch of this step with respect to the effective weights, also
            where they are pruned; computed only at updates of a rule that uses it. Zero under a
            rule with `latent` weights.
          step: int32, the absolute step.
          key: of the seed and the step.
        """

    def count(self, state: TrainState, *, step: Array) -> Array:
        """How many weights, or units, the update of this step must keep; as many as before.

        Args:
          state: before the update.
          step: int32, the absolute step.
        """
        del step
        return state_of_rule(state).count

    def trained(self, state: TrainState) -> Mask:
        """Under a rule with `latent` weights, which weights are updated: all of them by default.

        Args:
          state: with the mask of the forward pass and `state.rule.memory`.
        """
        return jax.tree.map(lambda m: m == m, state.mask)

    def penalty(self, state: TrainState) -> Params | None:
        """The gradient of a regularizer, which is added to that of the loss; None for none.

        Args:
          state: with all weights where they are `latent`.
        """
        del state
        return None


def state_of_rule(state: TrainState) -> RuleState:
    """What a moving mask adds to a state of `jt.sparse_train`."""
    assert state.rule, "the state of a mask rule"
    return state.rule


def memory_of(state: TrainState, kind: type[MemoryT]) -> MemoryT:
    """What the rule remembers: the memory that `MaskRule.init` gave, or the last update.

    Args:
      state: of `jt.sparse_train`.
      kind: what it is, such as `jax.Array` or `dict`.
    """
    memory = state_of_rule(state).memory
    assert isinstance(memory, kind), f"a memory of {kind}, got {type(memory)}"
    return memory
