"""Blocks: replicas that are worked on in one call, each a unit of the run folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]

NAME = re.compile(r"(?P<work>.*?)-(?P<first>\d+)-(?P<end>\d+)")
"""How the unit of a block is called."""


class Block(NamedTuple):
    """Replicas that are worked on in one call, a unit of the folder.

    Attributes:
      name: of the unit.
      first: number of its first replica.
      end: number after its last one.
      arrays: what the folder holds of it; None where it is to be made.
    """

    name: str
    first: int
    end: int
    arrays: Arrays | None = None

    @property
    def replicas(self) -> slice:
        """Its replicas among all of them."""
        return slice(self.first, self.end)


class Folder(Protocol):
    """What holds finished blocks: a `RunFolder`, whose module looks for its units here."""

    def blocks(self, work: str) -> dict[tuple[int, int], str]:
        """Names of the finished blocks of some work, by their first replica and their end."""
        ...

    def load(self, name: str) -> Arrays | None:
        """A finished block, or None where it is damaged."""
        ...


def cut(folder: Folder | None, work: str, count: int, size: int) -> Iterator[Block]:
    """Cut replicas into blocks; see `Run.blocks`."""
    known = {} if folder is None else folder.blocks(work)
    first = 0
    while first < count:
        arrays, name = None, ""
        for end in sorted((e for begin, e in known if begin == first and e <= count), reverse=True):
            name = known.pop((first, end))
            # a damaged one is taken out of the folder, and another end is looked for
            arrays = None if folder is None else folder.load(name)
            if arrays is not None:
                break
        else:
            end = min([first + size, count, *(begin for begin, _ in known if begin > first)])
            name = f"{work}-{first:05d}-{end:05d}"
        yield Block(name, first, end, arrays)
        first = end


def of_work(work: str, units: Iterable[str]) -> dict[tuple[int, int], str]:
    """The names of the blocks of some work, by their first replica and their end.

    Args:
      work: what their names begin with.
      units: names of units, of this work or not.
    """
    found = {}
    for unit in units:
        match = NAME.fullmatch(unit)
        if match is not None and match["work"] == work:
            first, end = int(match["first"]), int(match["end"])
            if first < end:
                found[first, end] = unit
    return found


def apart(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Blocks that do not overlap, in order: where several begin alike the longest one."""
    found: list[tuple[int, int]] = []
    for first, end in sorted(blocks, key=lambda block: (block[0], -block[1])):
        if not found or first >= found[-1][1]:
            found.append((first, end))
    return found
