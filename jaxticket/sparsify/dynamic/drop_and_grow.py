"""Masks of a fixed number of weights in every layer, of which some are exchanged now and then."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket import masks
from jaxticket._check import from_table, number, one_of, settle
from jaxticket.problem import Problem
from jaxticket.pruning.keep import keep_top
from jaxticket.pruning.layouts import LAYOUTS, Layout
from jaxticket.pruning.structures import Units
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.rule import MaskRule
from jaxticket.sparsify.dynamic.static import random_mask
from jaxticket.sparsify.dynamic.times import check_time, in_steps
from jaxticket.typing import Array, Key, Mask, Params, TrainState


def exchanged(
    mask: Mask,
    weights: Params,
    growth: Params,
    fraction: Array | float,
    *,
    units: Units | None = None,
) -> Mask:
    """Exchange a share of the weights of every layer.

    Of the n weights that a layer keeps, `floor(fraction * n)` are dropped, the smallest, and as
    many are grown of those that are pruned then, with the largest `growth`; weights that were just
    dropped may come back, and so stay as they are.

    Args:
      mask: before.
      weights: zero where the mask is False.
      growth: tree like the weights; the highest grow.
      fraction: in [0, 1].
      units: what is dropped and grown together; None for single weights. Of groups every one
        exchanges `floor(fraction * n)` of its n weights.

    Returns:
      A mask that keeps as many weights of every layer.

    Raises:
      ValueError: for a fraction out of range, where it is a number that is known.
    """
    if not isinstance(fraction, Tracer):
        number("fraction", fraction, 0, 1)
    if units is not None:
        return _exchanged_units(mask, weights, growth, fraction, units)
    kept = jnp.stack([jnp.sum(m, dtype=jnp.int32) for _, m in masks.items(mask)])
    dropped = jnp.floor(jnp.float32(fraction) * kept.astype(jnp.float32)).astype(jnp.int32)
    stay = keep_top(jax.tree.map(jnp.abs, weights), mask, kept - dropped, scope="layer")
    free = jax.tree.map(jnp.logical_not, stay)
    grown = keep_top(growth, free, dropped, scope="layer")
    return jax.tree.map(jnp.logical_or, stay, grown)


def _exchanged_units(
    mask: Mask, weights: Params, growth: Params, fraction: Array | float, units: Units
) -> Mask:
    alive, dense = units.alive(mask), jax.tree.map(jnp.ones_like, mask)
    held = units.held(alive)
    dropped = jnp.floor(jnp.float32(fraction) * held.astype(jnp.float32)).astype(jnp.int32)
    sizes = units.pool(jax.tree.map(jnp.abs, weights), mask)
    stay = units.keep(sizes, alive, held - dropped, scope="layer")
    free = jax.tree.map(jnp.logical_not, stay)
    grown = units.keep(units.pool(growth, dense), free, dropped, scope="layer")
    return units.expand(jax.tree.map(jnp.logical_or, stay, grown), mask)


@dataclass(frozen=True)
class DropAndGrow(MaskRule):
    """Train a random mask, and exchange weights of every layer every so many steps.

    Updates are at the steps `every`, 2 `every`, ... before `end`. Each drops the share f(t) of the
    weights that a layer keeps, the smallest, and grows as many, with the largest `growth`.

    Attributes:
      layout: how the density is spread over the layers: a name in `jt.LAYOUTS`, or a function.
      every: steps between updates, or a share of the training, such as 0.01.
      end: no update from this step on, or from this share of the training on.
      fraction: f(0), the share of weights that the first update would exchange; with 0 the mask
        stays as it is.
      decay: "cosine" lets it fall, `f(t) = fraction * (1 + cos(pi * t / end)) / 2`, "constant"
        leaves it.
    """

    layout: str | Layout = "erk"
    every: float | int = 100
    end: float | int = 0.75
    fraction: float = 0.3
    decay: str = "cosine"

    def __post_init__(self) -> None:
        from_table("layout", self.layout, LAYOUTS)
        settle(self, check_time, "every", "end", low=1)
        settle(self, number, "fraction", low=0, high=1)
        settle(self, one_of, "decay", choices=("cosine", "constant"))

    def for_training(self, training: Training) -> DropAndGrow:
        """The rule with steps in the place of shares."""
        return in_steps(self, training)

    def structured(self, units: Units) -> Self:
        """The rule for the units of a network.

        Raises:
          ValueError: as of `MaskRule`, and for groups of which no weight would be exchanged.
        """
        if units.density is not None and self.fraction:
            least = int(np.min(units.rounds(None, 1)))
            # the first update exchanges the largest share
            share = self._fraction(jnp.asarray(self.every, jnp.float32))
            if not int(jnp.floor(share * jnp.float32(least))):
                enough = math.ceil(1e3 * self.fraction / float(share) / least) / 1e3
                cosine = enough <= 1 and self.decay == "cosine"
                larger = f"at least {enough:g}, or " if cosine else ""
                needed = math.ceil(1e3 / least) / 1e3
                raise ValueError(
                    f"`fraction` {self.fraction:g} of {type(self).__name__} exchanges none of the "
                    f"{least} weights that a group keeps, since its first update takes the share "
                    f"{float(share):.3g}; use {larger}decay='constant' with at least {needed:g}"
                )
        return super().structured(units)

    @abc.abstractmethod
    def growth(self, state: TrainState, dense_gradient: Params, *, key: Key) -> Params:
        """Scores of weights that are pruned, of which the highest grow.

        Args:
          state, dense_gradient, key: as of `update`.
        """

    def init(self, problem: Problem, density: float, *, key: Key) -> Mask:
        """A random mask."""
        return random_mask(problem.net, density, self.layout, units=self.units, key=key)

    def when(self, step: Array) -> Array:
        """At multiples of `every`, from the first on, before `end`."""
        due = (step > 0) & (step % int(self.every) == 0) & (step < int(self.end))
        return due & (self.fraction > 0)

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: Array, key: Key
    ) -> TrainState:
        """The state with weights exchanged."""
        growth = self.growth(state, dense_gradient, key=key)
        share = self._fraction(step)
        found = exchanged(state.mask, state.params, growth, share, units=self.units)
        return state._replace(mask=found)

    def _fraction(self, step: Array) -> Array:
        """The share of weights that the update of a step exchanges, f(t)."""
        if self.decay == "constant":
            return jnp.full_like(step, self.fraction, jnp.float32)
        done = step.astype(jnp.float32) / jnp.float32(self.end)
        return jnp.float32(self.fraction / 2) * (1 + jnp.cos(jnp.float32(np.pi) * done))
