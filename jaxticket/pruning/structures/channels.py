"""Whole units and channels: all weights into them and out of them go together.

Which weights belong to a unit says the symmetry of the network (`jaxticket.nn.symmetry`): a unit is
one index of one of its permutations, so that channels that are added to one another are one unit.
Logits and inputs are in no permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from jaxticket import _tree, masks
from jaxticket.nn.symmetry import Places, places
from jaxticket.pruning.structures.base import Units, sums
from jaxticket.typing import Array, Mask, Network, Params


@dataclass(frozen=True)
class Channel:
    """Whole hidden units and channels, "channel".

    A pruned unit loses its incoming and its outgoing weights, of all layers that it is coupled with
    by a sum; `Ticket.compact` takes it out. Its score is the mean of those of its incoming weights.
    Every layer keeps at least one unit.

    Not pruned are units whose incoming weights are excluded, and channels that a shortcut pads with
    zeros (shortcut="padding"), whose number follows from other layers.

    Reference: Li et al. 2017, "Pruning filters for efficient ConvNets"; Fang et al. 2023,
      "DepGraph" (coupled layers).
    """

    def __str__(self) -> str:
        return "channel"

    def units(self, dense: Mask, net: Network | None) -> Channels:
        """Group the weights; see `Structure.units`."""
        if net is None:
            raise ValueError(
                "`net` is needed for structure='channel': which weights belong to a unit is known "
                "of the network; pass it"
            )
        try:
            along, units = places(net)
        except ValueError as error:
            raise ValueError(
                f"`structure` 'channel' needs to know which weights belong to a unit: {error}"
            ) from None
        layers = [path for path, _ in masks.items(masks.known(dense))]
        kernels = [path for path, x in _tree.leaves(net.shapes[0]).items() if len(x.shape) > 1]
        shared = [axis for axes in along.values() for axis in axes if len(axis) > 1]
        fixed = {name for axis in shared for name in axis}
        # what makes a unit: the last axis of kernels
        made = {
            name: [path for path in kernels if name in along[path][-1]] for name in sorted(units)
        }
        free = tuple(
            name
            for name, paths in made.items()
            if name not in fixed and paths and all(path in layers for path in paths)
        )
        if not free:
            raise ValueError(
                f"`structure` 'channel' has nothing to prune: the hidden units are "
                f"{', '.join(made) or 'none'}, and the layers that make them are excluded or tied; "
                f"exclude fewer layers"
            )
        return Channels(
            tuple((name, units[name]) for name in free),
            _Axes({path: along[path] for path in layers}, free),
        )


class _Axes:
    """Where units lie along the axes of leaves; equal where the arrays are."""

    def __init__(self, along: dict[str, tuple[Places, ...]], names: tuple[str, ...]) -> None:
        self.along = {
            path: tuple({n: at for n, at in axis.items() if n in names} for axis in axes)
            for path, axes in along.items()
        }
        self.key = tuple(
            (path, tuple((n, at.shape, at.tobytes()) for axis in axes for n, at in axis.items()))
            for path, axes in self.along.items()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Axes) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Channels(Units):
    """The hidden units of one network.

    Unit trees are dicts from the names of the permutations to [units].

    Attributes:
      layers: name of each permutation and the number of its units.
      axes: where they lie in each leaf.
    """

    # without weights into it and out of it, a unit has no gradient
    regrows = False

    layers: tuple[tuple[str, int], ...]
    axes: _Axes = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the permutations: the layer that makes the units, or the first of those coupled."""
        return tuple(name for name, _ in self.layers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each permutation."""
        return tuple(size for _, size in self.layers)

    @property
    def least(self) -> int:
        """One unit of each layer."""
        return len(self.names)

    def pool(self, scores: Params, mask: Mask) -> Params:
        """The mean score of the incoming weights of each unit."""
        return {
            name: total / jnp.maximum(number, 1).astype(total.dtype)
            for name, (total, number) in self._sums(mask, scores, incoming=True).items()
        }

    def alive(self, mask: Mask) -> Mask:
        """Whether any weight into a unit or out of it is kept."""
        into = self._sums(mask, mask, incoming=True)
        out = self._sums(mask, mask, incoming=False)
        gone = (jnp.float32(0), jnp.int32(0))
        return {name: (into[name][1] > 0) | (out.get(name, gone)[1] > 0) for name in self.names}

    def _sums(
        self, mask: Mask, scores: Params | Mask, *, incoming: bool
    ) -> dict[str, tuple[Array, Array]]:
        """Sum and number of scores of the weights into units, or out of them, by name."""
        found: dict[str, tuple[Array, Array]] = {}
        for path, m, s in masks.items(masks.known(mask), scores):
            axes = self.axes.along[path]
            last = len(axes) - 1
            for axis, own in enumerate(axes):
                if (axis == last) != incoming:
                    continue
                for name, at in own.items():
                    others = tuple(i for i in range(len(axes)) if i != axis)
                    parts = tuple(jnp.sum(x[at], axis=1) for x in sums(s, m, others))
                    before = found.get(name)
                    if before is not None:
                        parts = tuple(a + b for a, b in zip(before, parts, strict=True))
                    found[name] = (parts[0], parts[1])
        return found

    def expand(self, units: Params | Mask, mask: Mask) -> Mask:
        """A weight gets the product of the entries of the units that it leads from and to."""
        entries = {name: jnp.asarray(each) for name, each in units.items()}
        kind = entries[self.names[0]].dtype

        def one(path: str, shape: tuple[int, ...]) -> Array:
            whole = jnp.ones(shape, kind)
            for axis, own in enumerate(self.axes.along[path]):
                along = jnp.ones(shape[axis], kind)
                for name, at in own.items():
                    each = jnp.repeat(entries[name], at.shape[1])
                    along = along.at[at.reshape(-1)].set(each)
                whole = whole * along.reshape(*(-1 if i == axis else 1 for i in range(len(shape))))
            return whole

        known = masks.known(mask)
        made = iter([one(path, tuple(m.shape)) for path, m in masks.items(known)])
        return masks.map_with(lambda _, m: next(made), known, mask, other=lambda m: m)

    def keep(
        self,
        pooled: Params,
        alive: Mask,
        keep: Array | int | Sequence[int],
        *,
        scope: str = "global",
        floor: int = 0,
    ) -> Mask:
        """Mark the units that stay, at least one of each layer; see `Units.keep`."""
        least = max(1, floor) if scope == "global" else 0
        return super().keep(pooled, alive, keep, scope=scope, floor=least)

    def counts(
        self,
        density: float,
        *,
        scope: str = "global",
        level: int = 0,
        rates: Sequence[tuple[str, float]] = (),
    ) -> np.ndarray:
        """Units that a density keeps, with scope "layer" at least one of each layer."""
        found = super().counts(density, scope=scope, level=level, rates=rates)
        return np.maximum(found, 1).astype(np.int32) if scope == "layer" else found
