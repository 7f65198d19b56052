"""Limits, scales and ticks of axes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from jaxticket.plots._style import percent, root_figure

DENSITY = "Density (% of weights kept)"
STEP = "Step $k$ at which copies part"


def limits(
    values: Iterable[float],
    keep: Iterable[float] | None = None,
    *,
    top: float = math.inf,
    what: str = "replica",
) -> tuple[float, float]:
    """Compute limits that show all of `values`, or those from the minimum of `keep` on.

    `top` is the greatest possible value, `what` names the samples in the error without any value.

    >>> limits([10.0, 90.0, 98.0], [86.0, 92.0])
    (85.4, 98.6)
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError(f"`table` has no finite value to draw: every {what} diverged")
    wanted = finite if keep is None else [float(one) for one in keep if math.isfinite(one)]
    low, high = max(min(finite), min(wanted)), max(finite)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, max(high + 0.2 * margin, min(high + margin, top))


def percent_ticks(axis: Axis, shares: Iterable[float]) -> None:
    """Put ticks at `shares`, written in percent, and no others."""
    shares = list(shares)
    axis.set_major_locator(FixedLocator([100 * share for share in shares]))
    axis.set_major_formatter(FixedFormatter([percent(share) for share in shares]))
    axis.set_minor_locator(NullLocator())


def shares_on_log_scale(least: float) -> list[float]:
    """Give shares for the ticks of a log scale from `least` to 1, neither few nor crowded.

    >>> shares_on_log_scale(0.3), shares_on_log_scale(0.04)
    ([1.0, 0.7, 0.5, 0.4, 0.3], [1.0, 0.5, 0.2, 0.1, 0.05])
    """
    # less than a decade needs more of them, more than two have no room for every one
    bases = (7, 5, 4, 3, 2, 1) if least > 0.125 else (5, 2, 1) if least > 0.005 else (1,)
    at = (float(f"{base}e{power}") for power in range(0, -12, -1) for base in bases)
    return [share for share in at if least <= share <= 1]


def density_axis(ax: Axes, densities: ArrayLike, *, ticks: int = 6) -> None:
    """Make x an axis of densities in percent on a log scale, with the dense network at the left.

    Ticks are at densities that occur, evenly spaced and never crowded.
    """
    values = np.unique(np.asarray(densities, float))[::-1]
    places = np.log(values)
    span = places[0] - places[-1]
    shown = [0]
    for i in range(1, len(values)):
        if places[shown[-1]] - places[i] >= 0.999 * span / ticks:
            shown.append(i)
    ax.set_xscale("log")
    percent_ticks(ax.xaxis, values[shown])
    reach = math.exp(0.03 * span or 0.1)
    ax.set_xlim(100 * values[0] * reach, 100 * values[-1] / reach)
    ax.set_xlabel(DENSITY)


def thousands(axis: Axis, last: float) -> None:
    """Write steps as 5k on an axis that ends at `last`, if that is 10,000 or more."""
    if last >= 10_000:
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x else "0"))


def training_axis(ax: Axes, steps: np.ndarray, *, start: float = 0, room: float = 1.0) -> None:
    """Make x an axis of training steps, from `start` to the last of `steps`, or `room` times it."""
    last = float(steps.max())
    ax.set(xlabel="Training step", xlim=(start, room * last or 1))
    thousands(ax.xaxis, last)


def step_name(step: float) -> str:
    """Write a step in short.

    >>> [step_name(step) for step in (0, 250, 1000, 2500, 63000, 1234)]
    ['0', '250', '1k', '2.5k', '63k', '1234']
    """
    short = f"{step / 1000:g}k"
    return short if step >= 1000 and len(short) <= 4 else f"{step:g}"


def step_axis(
    ax: Axes, steps: Iterable[float], label: str, *, which: Literal["x", "y"] = "x"
) -> None:
    """Make an axis of steps at even distances, so that 0 and 100,000 both show.

    Data coordinates remain steps; between two of `steps` the axis is linear. Every step has a tick;
    labels that would overlap are left out. Where steps differ by other numbers, the label of the
    axis says that it is not to scale.
    """
    places = np.unique(np.asarray(list(steps), float))
    index = np.arange(len(places), dtype=float)
    forward, backward = _line_through(places, index), _line_through(index, places)
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("function", functions=(forward, backward))
    names = [step_name(step) for step in places]
    every = 1
    if which == "x":
        # a digit is about 0.6 of 8 points wide, and labels need some air
        width = ax.get_window_extent().width * 72 / root_figure(ax).dpi
        every = -(-len(names) // max(1, int(width / (5 * max(map(len, names)) + 5))))
    shown = np.arange(len(names)) % every == 0
    axis.set_major_locator(FixedLocator(places[shown].tolist()))
    axis.set_major_formatter(FixedFormatter(names[::every]))
    axis.set_minor_locator(FixedLocator(places[~shown].tolist()))
    margin = 0.5 if len(places) == 1 else 0.05 * len(places) + 0.05
    ends = backward(np.array([-margin, len(places) - 1 + margin]))
    (ax.set_xlim if which == "x" else ax.set_ylim)(*ends)
    between = np.diff(places)
    even = len(between) == 0 or np.allclose(between, between[0])
    axis.set_label_text(label if even else f"{label}, not to scale")


def _line_through(x: np.ndarray, y: np.ndarray) -> Callable[[ArrayLike], np.ndarray]:
    # a partial function pickles with its figure
    return functools.partial(_interpolated, x=x, y=y)


def _interpolated(values: ArrayLike, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate through (x, y), and extrapolate beyond both ends (slope 1 for one point)."""
    values = np.asarray(values, float)
    if len(x) == 1:
        return values - x[0] + y[0]
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    inside = np.interp(values, x, y)
    below, above = np.minimum(values - x[0], 0), np.maximum(values - x[-1], 0)
    return inside + first * below + last * above


def cell_axes(ax: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Make axes of a matrix: cell (column, row) has its center there, row 0 is at the top."""
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
