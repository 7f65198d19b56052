"""Structures as settings: what names and tuples stand for, and what fits them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from jaxticket import masks
from jaxticket._check import hashable, share, shown, whole
from jaxticket.pruning.structures.base import Structure, Units
from jaxticket.pruning.structures.blocks import Block, Blocks
from jaxticket.pruning.structures.channels import Channel
from jaxticket.pruning.structures.groups import NM, FanIn
from jaxticket.typing import Layer, Mask, Network

StructureLike: TypeAlias = str | tuple[str | int, ...] | Structure
"""What `structure=` takes: a name, a tuple of a name and numbers, or an object."""


def structure_of(value: object) -> Structure:
    """The structure that a setting names.

    Raises:
      ValueError: for what is no structure.

    >>> structure_of("2:4"), structure_of(("block", 4, 4))
    (NM(n=2, m=4), Block(rows=4, columns=4))
    """
    if isinstance(value, str):
        if value == "channel":
            return Channel()
        if match := re.fullmatch(r"(\d+):(\d+)", value):
            return NM(int(match[1]), int(match[2]))
    elif isinstance(value, (tuple, list)):
        match list(value):
            case ["block", rows, columns]:
                return Block(whole("structure[1]", rows, 1), whole("structure[2]", columns, 1))
            case [str(name)]:
                # a tuple of one, as the command line has it
                return structure_of(name)
            case ["fan_in", k]:
                return FanIn(whole("structure[1]", k, 1))
    elif isinstance(value, Structure) and not isinstance(value, type):
        return hashable("structure", value)
    raise ValueError(
        f'`structure` must be "N:M" such as "2:4", ("block", rows, columns), "channel", '
        f'("fan_in", k), or an object with a method `units`, got {shown(value)}'
    )


def checked(argument: str, value: object) -> StructureLike:
    """A setting as it is recorded, the same for equal structures."""
    del argument
    structure = structure_of(value)
    match structure:
        case NM() | Channel():
            return str(structure)
        case Block():
            return ("block", structure.rows, structure.columns)
        case FanIn():
            return ("fan_in", structure.k)
    return structure


def labeled(name: str, structure: StructureLike | None) -> str:
    """The name of a method, with that of its structure.

    >>> labeled("imp", None), labeled("imp", ("block", 4, 2))
    ('imp', 'imp_block_4x2')
    """
    if structure is None:
        return name
    found = structure_of(structure)
    own = isinstance(found, (NM, Block, Channel, FanIn))
    return f"{name}_{found if own else type(found).__name__.lower()}".replace(" ", "_")


def units_of(structure: StructureLike | Units, mask: Mask, net: Network | None = None) -> Units:
    """Group the weights of a network.

    Args:
      structure: a name, a tuple or an object.
      mask: of the network, such as `net.mask()`, with None at leaves that are not pruned.
      net: the network, for structures that need more of it than its weights.

    Raises:
      ValueError: for layers that the structure does not fit, by their names.

    >>> from jaxticket.nn import lenet
    >>> net = lenet((2, 2, 1), 3, widths=(8,))
    >>> units_of("channel", net.mask(), net).sizes
    (8,)
    """
    if isinstance(structure, Units):
        return structure
    return structure_of(structure).units(masks.known(mask), net)


def units_in(
    net: Network, structure: StructureLike | None, exclude: Sequence[str] = ()
) -> Units | None:
    """Group the weights of a network that are pruned; None for single weights.

    Args:
      net: the network.
      structure: as a setting; None for single weights.
      exclude: patterns of paths that are never pruned.

    Raises:
      ValueError: as `units_of`.
    """
    return None if structure is None else units_of(structure, net.mask(exclude), net)


def implied(argument: str, density: float | None, units: Units) -> float | None:
    """The density to prune to: that which is given, or that of the structure.

    Args:
      argument: what the message calls the density.
      density: as it was given.
      units: of the network.

    Raises:
      ValueError: for a density that contradicts the structure, and for none where it is free.
    """
    own = units.density
    if own is None:
        if density is None:
            raise ValueError(
                f"`{argument}` must be in (0, 1], got None: the structure keeps any share of its "
                f"{units.noun}"
            )
        return share(argument, density)
    size = sum(units.sizes)
    if density is not None and round(share(argument, density) * size) != round(own * size):
        raise ValueError(
            f"`{argument}` {density:g} contradicts the structure, which keeps "
            f"{round(own * size):,} of {size:,} weights, a density of {own:g}; leave `{argument}` "
            f"out"
        )
    return own


def unit_counts(
    units: Units, density: float | None, rounds: int, *, scope: str = "global", floor: int = 0
) -> np.ndarray:
    """Units that each of R rounds keeps, int32 [R, ...], after a check that they can be kept.

    Args:
      units: of the network.
      density: share of the units that the last round keeps.
      rounds: R.
      scope, floor: as of `Units.keep`.

    Raises:
      ValueError: for a floor, a scope or a density that does not fit.
    """
    check_scope(units, scope, floor)
    counts = units.rounds(density, rounds, scope=scope)
    size, kept = sum(units.sizes), int(np.sum(counts[-1]))
    least = max(units.least, floor * len(units.names))
    if density is not None and kept < least:
        raise ValueError(
            f"`density` {density:g} keeps {kept} of {size:,} {units.noun}, and at least {least} "
            f"have to stay; use at least {least / size:.2g}"
        )
    return counts


def check_scope(units: Units, scope: str, floor: int = 0) -> None:
    """Raise for a scope or a floor that has no effect or no meaning."""
    if units.density is not None and (scope != "global" or floor):
        name, value = ("scope", scope) if scope != "global" else ("floor", floor)
        raise ValueError(
            f"`{name}` {value!r} has no effect with a structure that keeps the same number in "
            f"every group of weights; leave it out"
        )
    if floor and scope != "global":
        raise ValueError(f"`floor` needs scope='global', got {floor} with scope={scope!r}")


def in_units(units: Units, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Layers with their shapes in units, for layouts.

    Raises:
      ValueError: for structures whose units are not those of one layer each, or that imply counts.
    """
    if not isinstance(units, Blocks):
        raise ValueError(
            "`scope`: a layout spreads single weights or blocks over the layers, and the structure "
            "has neither; use 'global', or 'layer' for channels"
        )
    pairs = zip(layers, units.shapes, strict=True)
    return tuple(dataclasses.replace(layer, shape=shape) for layer, shape in pairs)
