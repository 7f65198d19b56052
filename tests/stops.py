"""Runs that end in the middle: right after a save, as a kill or a signal would end them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from jaxticket.engine.store import RunFolder

T = TypeVar("T")


class Killed(Exception):
    """In place of a SIGKILL."""


def _kill():
    raise Killed


@contextlib.contextmanager
def after_save(
    number: int | None, do: Callable[[], object] = _kill, *, units: bool = False
) -> Iterator[list[tuple[str, object]]]:
    """Does something right after a save of a run folder inside the block.

    Args:
      number: which save, from 1; 0 for every one, None for none.
      do: what; raises `Killed` by default.
      units: count saves of finished units too, not only those of states.

    Yields:
      The (unit, call) of each save of a state and the (unit, None) of each save of a unit, so far.
    """
    saves: list[tuple[str, object]] = []

    def watched(save):
        def saved(self, unit, what, *rest):
            save(self, unit, what, *rest)
            saves.append((unit, what if rest else None))
            if number in (0, len(saves)):
                do()

        return saved

    with pytest.MonkeyPatch.context() as patch:
        for name in ("save_state", "save") if units else ("save_state",):
            patch.setattr(RunFolder, name, watched(getattr(RunFolder, name)))
        yield saves


def in_spite_of_deaths(run: Callable[[], T], *, units: bool = False) -> tuple[T, int]:
    """What a run gives that is killed after every save and called again, and how often it died."""
    deaths = 0
    with after_save(0, units=units):
        while True:
            try:
                return run(), deaths
            except Killed:
                deaths += 1


@contextlib.contextmanager
def killed(number: int, *, units: bool = False) -> Iterator[list[tuple[str, object]]]:
    """Expects the block to be killed right after a save; see `after_save`."""
    with after_save(number, units=units) as saves, pytest.raises(Killed):
        yield saves
