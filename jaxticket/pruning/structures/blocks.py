"""Blocks of inputs and outputs that are kept or pruned whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket._check import settle, whole
from jaxticket.pruning.structures.base import Units, exclusion, mean
from jaxticket.typing import AnyArray, Array, Mask, Network, Params


@dataclass(frozen=True)
class Block:
    """Blocks of `rows` inputs by `columns` outputs, ("block", rows, columns).

    They tile the last two axes of a kernel [..., inputs, outputs], of a convolution at each of its
    positions.

    Attributes:
      rows, columns: inputs and outputs of a block.

    Reference: Gray et al. 2017 (block-sparse kernels); Narang et al. 2017.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        settle(self, whole, "rows", "columns", low=1)

    def __str__(self) -> str:
        return f"block {self.rows}x{self.columns}"

    def units(self, dense: Mask, net: Network | None) -> Blocks:
        """Group the weights; see `Structure.units`."""
        del net
        layers = tuple((path, tuple(m.shape)) for path, m in masks.items(masks.known(dense)))
        odd = [
            path
            for path, shape in layers
            if len(shape) < 2 or shape[-2] % self.rows or shape[-1] % self.columns
        ]
        if odd:
            said = ", ".join(f"{path!r} has {dict(layers)[path][-2:]}" for path in odd[:4])
            raise ValueError(
                f"`structure` ('block', {self.rows}, {self.columns}) needs numbers of inputs and "
                f"outputs that are multiples of {self.rows} and {self.columns}, and {said}; leave "
                f"such layers out with {exclusion(odd)}, or use other blocks"
            )
        return Blocks(layers, self.rows, self.columns)


@dataclass(frozen=True)
class Blocks(Units):
    """The blocks of one network.

    Attributes:
      layers: path and shape of each leaf.
      rows, columns: of a block.
    """

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    rows: int
    columns: int

    noun = "blocks"

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the leaves."""
        return tuple(path for path, _ in self.layers)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the leaves, in blocks."""
        return tuple(self._shape(shape) for _, shape in self.layers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Blocks of each leaf."""
        return tuple(int(np.prod(shape)) for shape in self.shapes)

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-2], shape[-2] // self.rows, shape[-1] // self.columns)

    def _tiles(self, x: AnyArray) -> Array:
        """[..., inputs, outputs] as [..., block, row, block, column]."""
        *lead, rows, columns = self._shape(tuple(x.shape))
        return jnp.asarray(x).reshape(*lead, rows, self.rows, columns, self.columns)

    def _mapped(self, function: Callable[..., object], mask: Mask, *trees: object) -> Params:
        def one(*leaves: AnyArray) -> object:
            return function(*map(self._tiles, leaves))

        return masks.map_with(one, masks.known(mask), *trees)

    def pool(self, scores: Params, mask: Mask) -> Params:
        """The mean score of each block."""
        return self._mapped(lambda m, s: mean(s, m, (-3, -1)), mask, scores)

    def alive(self, mask: Mask) -> Mask:
        """Whether any weight of a block is kept."""
        return self._mapped(lambda m: jnp.any(m, axis=(-3, -1)), mask)

    def expand(self, units: Params | Mask, mask: Mask) -> Mask:
        """Every weight of a block gets its entry."""

        def one(m: AnyArray, u: AnyArray, given: AnyArray) -> Array:
            del given
            return jnp.broadcast_to(
                jnp.asarray(u)[..., :, None, :, None], self._tiles(m).shape
            ).reshape(m.shape)

        return masks.map_with(one, masks.known(mask), units, mask, other=lambda u, m: m)
