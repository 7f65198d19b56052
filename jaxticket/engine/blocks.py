"""Blocks: replicas that are worked on in one call, each a unit of the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxticket.engine.store import RunFolder


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
    arrays: dict[str, np.ndarray] | None = None

    @property
    def replicas(self) -> slice:
        """Its replicas among all of them."""
        return slice(self.first, self.end)


def cut(folder: RunFolder | None, work: str, count: int, size: int) -> Iterator[Block]:
    """Cut replicas into blocks; see `Run.blocks`."""
    first = 0
    while first < count:
        known = [] if folder is None else folder.blocks(work)
        arrays = None
        for end in sorted((e for begin, e in known if begin == first and e <= count), reverse=True):
            # a damaged one is taken out of the folder, and another end is looked for
            arrays = None if folder is None else folder.load(_name(work, first, end))
            if arrays is not None:
                break
        else:
            end = min([first + size, count, *(begin for begin, _ in known if begin > first)])
        yield Block(_name(work, first, end), first, end, arrays)
        first = end


def _name(work: str, first: int, end: int) -> str:
    return f"{work}-{first:05d}-{end:05d}"
