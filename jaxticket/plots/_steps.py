"""What figures of instability analysis share: how lines are drawn, and an axis of steps k."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator

from jaxticket.plots._density import CROSS, diverged_marker, opened
from jaxticket.plots._samples import Spread, Table, spread
from jaxticket.plots._style import DENSE

# points of error; Frankle's thesis, section 4.1 (stable) and figure 4-18 (matching)
STABLE, MATCHING = 2.0, 0.2
STEP = "Step $k$ from which the copies part"
# of one figure: colours tell steps, so these tell branches
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
THRESHOLD: dict[str, Any] = {"color": "0.15", "linewidth": 0.9, "linestyle": (0, (5, 2))}


class Series(NamedTuple):
    """What is drawn of one line: `points` has x, mean, low, high, samples and diverged."""

    label: str
    points: Table
    color: Any
    marker: str = ""
    line: Any = "-"


def step_series(
    parts: Sequence[tuple[str, Table]], steps: Sequence[int], x: str, band: Spread
) -> list[Series]:
    """A series for each step k and part: colours tell steps, line styles parts.

    Raises:
      ValueError: if there are more parts than line styles.
    """
    if len(parts) > len(LINES):
        raise ValueError(
            f"`branches` must be at most {len(LINES)} where colours tell steps, got "
            f"{len(parts)}: {[name for name, _ in parts]}"
        )
    series = []
    for line, (name, part) in zip(LINES, parts, strict=False):
        for step, color in shades(steps).items():
            here = part[part["at"] == step]
            if not here.empty:
                points = spread(here, x, band)
                series.append(Series(f"_{name} {step}", points, color, line=line))
    return series


def step_entries(steps: Sequence[int], labels: Sequence[str]) -> list[Line2D]:
    """Legend entries for `step_series`: a colour per step and, if there are several, the styles."""
    entries = [
        Line2D([], [], color=color, label=f"$k$ = {step_name(step)}")
        for step, color in shades(steps).items()
    ]
    if len(labels) > 1:
        for line, label in zip(LINES, labels, strict=False):
            entries.append(Line2D([], [], color="0.3", linestyle=line, label=label))
    return entries


def shades(steps: Sequence[int]) -> dict[int, Any]:
    """A colour per step, dark to light."""
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(steps), 2)))
    return dict(zip(steps, colors, strict=False))


def draw(ax: Axes, series: Iterable[Series], band: Spread) -> None:
    """Mean lines, spreads over samples, and marks where samples diverged.

    A point without neighbours gets an error bar, since a band there would have no width.
    """
    for one in series:
        x, y, low, high = (
            one.points[name].to_numpy(float) for name in ("x", "mean", "low", "high")
        )
        finite, alone = np.isfinite(y), without_neighbours(y)
        marker = one.marker or ("o" if alone.any() else "")
        look: dict[str, Any] = {"color": one.color, "linestyle": one.line, "zorder": 3}
        # a cross is all edge
        look["markeredgewidth"] = 1.0 if marker == "x" else 0.0
        ax.plot(x, y, marker=marker, label=one.label, **look)
        if band != "none":
            ax.fill_between(x, low, high, color=one.color, alpha=0.18, linewidth=0, zorder=2)
            error_bars(ax, x[alone], y[alone], low[alone], high[alone], one.color)
        lost = ~finite
        if lost.any() and one.marker:
            edge, on_edge = np.full(lost.sum(), 0.02), ax.get_xaxis_transform()
            ax.plot(x[lost], edge, color=one.color, transform=on_edge, label="_lost", **CROSS)
        some = (one.points["diverged"].to_numpy() > 0) & finite
        if some.any() and one.marker:
            hollow = opened(one.marker, one.color)
            ax.plot(x[some], y[some], label="_diverged", zorder=3.5, **hollow)


def without_neighbours(y: np.ndarray) -> np.ndarray:
    """Which points are finite while those before and after are not: no line reaches them.

    >>> without_neighbours(np.array([1, np.nan, 2, 3, np.nan])).tolist()
    [True, False, False, False, False]
    """
    finite = np.pad(np.isfinite(y), 1)
    return finite[1:-1] & ~finite[2:] & ~finite[:-2]


def error_bars(
    ax: Axes, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, color: Any
) -> None:
    """Error bars from `low` to `high`, for points where a band has no width."""
    if len(x):
        bars = {"fmt": "none", "ecolor": color, "elinewidth": 0.7, "capthick": 0.7}
        # a median or mean lies within, up to rounding
        lengths = np.maximum(np.stack([y - low, high - y]), 0)
        ax.errorbar(x, y, lengths, label="_bars", zorder=2.5, **bars)


def notes(series: Sequence[Series], *, what: str = "copies") -> list[Line2D]:
    """Legend entries for samples (`what` they are) that diverged: the marks of `draw`, a count
    where it made none.
    """
    marked = [one.points for one in series if one.marker]
    entries = []
    if any(points["diverged"].between(1, points["samples"] - 1).any() for points in marked):
        counts = (
            [n for points in marked for n in points[name]] for name in ("diverged", "samples")
        )
        entries.append(diverged_marker(*counts, what=what))
    if any((points["diverged"] == points["samples"]).any() for points in marked):
        entries.append(Line2D([], [], color=DENSE, label=f"all {what} diverged", **CROSS))
    plain = [one.points for one in series if not one.marker]
    lost = sum(int(points["diverged"].max()) for points in plain)
    if lost:
        whole = sum(int(points["samples"].max()) for points in plain)
        label = f"left out: {lost} of {whole} diverged"
        entries.append(Line2D([], [], linestyle="none", label=label))
    return entries


def reach(series: Iterable[Series]) -> tuple[float, float]:
    """The least and the greatest value that `draw` shows.

    Raises:
      ValueError: if there is none.
    """
    values = np.concatenate(
        [one.points[["low", "mean", "high"]].to_numpy(float).ravel() for one in series]
    )
    values = values[np.isfinite(values)]
    if not len(values):
        raise ValueError("`table` has no finite value to draw: every copy diverged")
    return float(values.min()), float(values.max())


def from_zero(
    series: Sequence[Series], *, least: float = 0.0, most: float | None = None
) -> tuple[float, float]:
    """Limits for what cannot be negative, nor greater than `most`: all of it, at least to `least`.

    What is impossible shows as a strip, more of it only if means are there.
    """
    means = np.concatenate([one.points["mean"].to_numpy(float) for one in series])
    top = 1.06 * max(reach(series)[1], least) or 1.0
    if most is not None:
        top = min(top, max(1.03 * most, 1.06 * float(np.nanmax(means))))
    return min(-0.045 * top, 1.2 * float(np.nanmin(means))), top


def impossible(ax: Axes, *, above: float | None = None) -> None:
    """Shades what lies below 0, or above `above`, of the part that is in view."""
    low, high = ax.get_ylim()
    ranges = [(low, min(0.0, high))] if low < 0 else []
    if above is not None and high > above:
        ranges.append((max(above, low), high))
    for start, stop in ranges:
        hatch = {"facecolor": "0.95", "edgecolor": "0.82", "hatch": "//////", "linewidth": 0}
        ax.axhspan(start, stop, label="_impossible", zorder=0.5, **hatch)


def step_name(step: float) -> str:
    """A step as axes write it.

    >>> [step_name(step) for step in (0, 250, 1000, 2500, 63000, 1234)]
    ['0', '250', '1k', '2.5k', '63k', '1234']
    """
    short = f"{step / 1000:g}k"
    return short if step >= 1000 and len(short) <= 4 else f"{step:g}"


def step_axis(ax: Axes, steps: Iterable[float], *, which: Literal["x", "y"] = "x") -> None:
    """An axis of steps k at even distances, so that 0 and 100,000 both show; data stay in steps.

    Between two of `steps` the axis is linear. Every one has a tick; labels that have no room are
    left out.

    Args:
      ax: the axes.
      steps: the steps that have a tick.
      which: which axis it is.
    """
    places = np.unique(np.asarray(list(steps), float))
    index = np.arange(len(places), dtype=float)
    scale = {"functions": (_line_through(places, index), _line_through(index, places))}
    axis, box = (ax.xaxis, ax.get_window_extent()) if which == "x" else (ax.yaxis, None)
    (ax.set_xscale if which == "x" else ax.set_yscale)("function", **scale)
    names = [step_name(step) for step in places]
    every = 1
    if box is not None:
        # a digit is about 0.6 of 8 points wide, and labels need some air
        room = max(1, int(box.width * 72 / ax.figure.dpi / (5 * max(map(len, names)) + 5)))
        every = -(-len(names) // room)
    shown = [i % every == 0 for i in range(len(names))]
    axis.set_major_locator(FixedLocator(places[shown].tolist()))
    axis.set_major_formatter(FixedFormatter(names[::every]))
    axis.set_minor_locator(FixedLocator(places[~np.array(shown)].tolist()))
    margin = 0.5 if len(places) == 1 else 0.05 * len(places) + 0.05
    ends = scale["functions"][1](np.array([-margin, len(places) - 1 + margin]))
    (ax.set_xlim if which == "x" else ax.set_ylim)(*ends)


def _line_through(x: np.ndarray, y: np.ndarray) -> Any:
    return functools.partial(_interpolated, x=x, y=y)


def _interpolated(values: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The line through (x, y), straight on beyond both ends (slope 1 if it is one point)."""
    values = np.asarray(values, float)
    if len(x) == 1:
        return values - x[0] + y[0]
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    inside = np.interp(values, x, y)
    below, above = np.minimum(values - x[0], 0), np.maximum(values - x[-1], 0)
    return inside + first * below + last * above
