"""Progress bars, and lines of text where the output is no terminal."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, TypeVar, cast

from tqdm import TqdmWarning
from tqdm.std import tqdm

with warnings.catch_warnings():
    # a notebook without ipywidgets has bars of text
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm as bar_of_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

EVERY = 10.0
"""Seconds between lines at least."""


class Lines(tqdm):
    """Progress as lines of text, for log files and pipes: one in 10 seconds at most.

    What takes less time prints nothing, but that it compiles.
    """

    monitor_interval = 0
    printed: float | None = None
    """When the last line was printed, in seconds from the beginning."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print a line if it is time for one."""
        del msg, pos
        facts = self.format_dict
        elapsed = facts["elapsed"]
        compiles = self.printed is None and self.postfix
        if not (compiles or elapsed - (self.printed or 0) >= EVERY):
            return
        said = [self.postfix] if self.postfix else []
        if self.n:
            counts = f"{100 * self.n / self.total:.0f}% of {self.format_sizeof(self.total)}"
            said = [f"{counts}{self.unit}", *self._speed(facts["rate"]), *said]
        if said:
            title = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
            self._print(f"{title}{', '.join(said)}", elapsed)

    def _speed(self, rate: float | None) -> list[str]:
        """Say how fast it goes and how long it takes, where that is known already."""
        if not rate:
            return []
        left = self.format_interval(max(0, self.total - self.n) / rate)
        return [f"{self.format_sizeof(rate)}{self.unit}/s", f"{left} left"]

    def _print(self, text: str, elapsed: float) -> None:
        self.printed = elapsed
        self.fp.write(f"{text}\n")
        self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: lines stay."""

    def close(self) -> None:
        """Say how long it took, if anything was said before."""
        if self.disable:
            return
        elapsed, said = self.format_dict["elapsed"], self.printed is not None
        # nothing more for the usual last display
        self.printed, self.leave = elapsed, False
        super().close()
        if said and self.n >= self.total:
            self._print(f"done in {self.format_interval(elapsed)}", elapsed)
        elif said:
            share = f"{100 * self.n / self.total:.0f}%"
            self._print(f"ended after {self.format_interval(elapsed)}, at {share}", elapsed)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return "IPKernelApp" in getattr(shell, "config", {})


def progress(
    iterable: Iterable[T] | None = None,
    *,
    total: int | None = None,
    title: str = "",
    unit: str = " steps",
    shown: bool = True,
) -> tqdm[T]:
    """A bar in terminals and notebooks, elsewhere lines of text.

    Args:
      iterable: what to count while it is iterated over; None to count with `update`.
      total: expected count.
      title: what is counted, in front of the bar.
      unit: of the counts.
      shown: whether anything is shown.
    """
    live = _in_notebook() or sys.stderr.isatty()
    make = cast("Callable[..., tqdm[T]]", bar_of_here if live else Lines)
    return make(
        iterable,
        total=total,
        desc=title or None,
        unit=unit,
        unit_scale=True,
        disable=not shown,
        dynamic_ncols=True,
        smoothing=0.05 if live else 0.3,
        mininterval=0.1 if live else EVERY,
    )


def note(bar: tqdm, text: str) -> None:
    """Say something behind the bar, such as "compiling"; nothing with an empty text.

    The time that passed since the last count says nothing of the rate then.
    """
    if bar.disable or text == (bar.postfix or ""):
        return
    if not text:
        bar.last_print_t = bar.start_t + bar.format_dict["elapsed"]
    bar.set_postfix_str(text)


def skip(bar: tqdm, count: int) -> None:
    """Count what was done in an earlier process, which tells nothing of the rate."""
    bar.n += count
    if not bar.disable:
        bar.initial += count
        bar.last_print_n += count
        bar.refresh()
