"""The static rule: a random mask of a layout that does not change."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import from_table
from jaxticket.problem import Problem
from jaxticket.pruning.keep import keep_top, keep_units
from jaxticket.pruning.layouts import LAYOUTS, Layout, layers_of
from jaxticket.pruning.structures import Units
from jaxticket.pruning.structures.blocks import Blocks
from jaxticket.pruning.structures.settings import in_units
from jaxticket.sparsify.dynamic.counts import require_some
from jaxticket.sparsify.dynamic.rule import MaskRule
from jaxticket.typing import Key, Mask, Network, Params, TrainState


def random_mask(
    net: Network,
    density: float,
    layout: str | Layout = "erk",
    *,
    units: Units | None = None,
    key: Key,
) -> Mask:
    """A random mask with exactly `round(density * P)` weights, spread over the layers by a layout.

    Args:
      net: the network.
      density: share of the prunable weights that are kept.
      layout: name in `jt.LAYOUTS`, or a function.
      units: what is kept or pruned together; None for single weights.
      key: draws the positions.

    Raises:
      ValueError: where a layer would keep nothing, and for layouts that a structure does not have.
    """
    spread, scores = from_table("layout", layout, LAYOUTS), random_scores(net.shapes[0], key=key)
    if units is not None and not isinstance(units, Blocks):
        if units.density is None and layout != "uniform":
            raise ValueError(
                f"`layout` {layout!r} spreads weights or blocks over the layers, and the structure "
                f"has whole {units.noun}; use a rule with layout='uniform'"
            )
        counts = units.rounds(density, 1, scope="layer")[0]
        return keep_units(units, scores, net.mask(), jnp.asarray(counts), scope="layer")
    layers = layers_of(net)
    if units is not None:
        layers = in_units(units, layers)
    counts = np.asarray(spread(layers, density), np.int32).tolist()
    require_some(net.mask(), counts, density, f"`layout` {layout!r}", "another layout")
    if units is not None:
        return keep_units(units, scores, net.mask(), counts, scope="layer")
    return keep_top(scores, net.mask(), counts, scope="layer")


def random_scores(like: Params, *, key: Key) -> Params:
    """Uniform random numbers in [0, 1), float32, a tree like weights."""
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.uniform(k, x.shape, jnp.float32) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@dataclass(frozen=True)
class Static(MaskRule):
    """Train a random mask that never changes.

    Attributes:
      layout: how the density is spread over the layers: a name in `jt.LAYOUTS`, or a function.

    Reference: Evci et al. 2020 (RigL), "Static"; Frankle's thesis, section 3.1.4 (random pruning).
    """

    layout: str | Layout = "erk"

    def __post_init__(self) -> None:
        from_table("layout", self.layout, LAYOUTS)

    @property
    def moves(self) -> bool:
        """Never, unless a rule that derives from this one says when."""
        return type(self).when is not Static.when

    @property
    def grows(self) -> bool:
        """Nothing comes back, unless a rule that derives from this one updates the mask."""
        return type(self).update is not Static.update

    def init(self, problem: Problem, density: float, *, key: Key) -> Mask:
        """A random mask."""
        return random_mask(problem.net, density, self.layout, units=self.units, key=key)

    def when(self, step: jax.Array) -> jax.Array:
        """Never."""
        return jnp.zeros_like(step, bool)

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: jax.Array, key: Key
    ) -> TrainState:
        """The state as it is."""
        del dense_gradient, step, key
        return state
