"""Accuracy against density, the figure of the thesis, and what such figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from jaxticket import _check
from jaxticket.analysis import stats
from jaxticket.plots._style import (
    DENSE,
    BranchStyle,
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
    thousands,
)

# a pandas DataFrame; only `jaxticket.results` imports pandas
Table = Any
Band = Literal["minmax", "bars", "std", "none"]
BANDS = ("minmax", "bars", "std", "none")

DENSITY = "Density (% of weights kept)"
# figures always show these branches completely; others may leave the axes
SHOWN = ("ticket", "reinit")
# points of accuracy below dense that are worth seeing
BELOW_DENSE = 12.0
# where all seeds diverged
RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgewidth": 0.9,
}
"""Around means that are as accurate as the dense network."""
CROSS: dict[str, Any] = {"linestyle": "none", "marker": "x", "markeredgewidth": 1.0, "zorder": 4}


def accuracy(
    table: Table,
    ax: Axes | None = None,
    *,
    split: str = "test",
    at: float = 1.0,
    branches: Sequence[str] | None = None,
    band: Band = "minmax",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
    margin: float = 0.002,
    test_size: int | None = None,
) -> Axes:
    """Accuracy against density: one line per branch, the dense network across.

    Lines are means over seeds, bands usually go from the least to the greatest seed. A branch that
    collapses does not squeeze the others: where its line leaves the axes stands a triangle, and
    the legend tells its lowest mean. Points are open where some of the seeds diverged; the mean is
    then over the others. A cross at the lower edge means that all diverged. At the end of training
    on the test split, a ring marks where a branch is matching, as `jt.speed.matching` judges it.

    Args:
      table: tidy table with one row per value; it must hold the dense network.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      at: share of the dense training after which to look; 1.0 is each training's end.
      branches: names of the branches to draw, or None for all.
      band: "minmax" (shaded), "bars" (error bars to the same), "std" (mean ± one standard
        deviation, shaded) or "none".
      ylim: limits in percent, or None to show "ticket", "reinit" and 12 points below dense.
      legend: whether to draw one (panels may share one: `ax.get_legend_handles_labels()`).
      margin: accuracy that a matching branch may lose, as a share; at least one test image, where
        `test_size`, the number of test examples, is given.

    Returns:
      The axes; x is density in percent on a reversed log axis, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable or holds no dense network, or a branch is unknown.

    Reference: Frankle's thesis, figures 3-3, 3-5 and 3-7.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    _check.share("at", at)
    _check.share("margin", margin, zero=True, one=False)
    if test_size is not None:
        margin = max(margin, 1 / _check.whole("test_size", test_size, 1))
    rows = stats.final(table, split=split) if at == 1 else stats.at_share(table, at, split=split)
    return against_density(
        rows.assign(value=100 * rows["value"].astype(float)),
        "value",
        ax,
        branches=branches,
        band=band,
        ylim=ylim,
        legend=legend,
        ylabel=f"{split.capitalize()} accuracy (%)"
        + ("" if at == 1 else f"\nat {percent(at)}% of training"),
        matching=100 * margin if at == 1 and split == "test" else None,
    )


def against_density(
    rows: Table,
    column: str,
    ax: Axes | None,
    *,
    branches: Sequence[str] | None,
    band: Band,
    ylim: tuple[float, float] | None,
    legend: bool,
    ylabel: str,
    is_accuracy: bool = True,
    matching: float | None = None,
) -> Axes:
    """Draws a column against density; see `accuracy`.

    Args:
      rows: one row per training.
      column: what to draw, in the unit of the figure.
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches, or None for all.
      band: how the spread over seeds is drawn.
      ylim: limits, or None for good ones.
      legend: whether to draw one.
      ylabel: label of the y axis.
      is_accuracy: whether the y axis is in percent and may be clipped below.
      matching: points below the dense mean up to which a ring marks a mean; None for no rings.

    Returns:
      The axes.
    """
    check_ylim(ylim)
    names = branch_order(rows["branch"].unique(), branches)
    pruned = set(rows[rows["level"] > 0]["branch"])
    if branches is None and pruned:
        # what has the dense network alone is the line across
        names = [name for name in names if name in pruned]
    bar = _reaching(stats.over_seeds(stats.dense_rows(rows), column), band).iloc[0]
    means = _reaching(stats.over_seeds(rows, column), band)
    drawn = means[means["branch"].isin(names)]
    if ylim is None:
        every = [bar["low"], bar["high"], *drawn["low"], *drawn["high"]]
        shown = drawn[drawn["branch"].isin(SHOWN)] if set(names) & set(SHOWN) else drawn
        keep = [*shown["low"], bar["mean"] - BELOW_DENSE] if is_accuracy else every
        ylim = limits(every, keep, top=100.0 if is_accuracy else math.inf)
    with style():
        ax = prepared(ax)
        ax.axhspan(bar["low"], bar["high"], color=DENSE, alpha=0.18, linewidth=0, zorder=1)
        ax.axhline(bar["mean"], color=DENSE, linewidth=1.1, zorder=1.5, label="dense")
        for name, look in branch_styles(names).items():
            points = drawn[drawn["branch"] == name].sort_values("density", ascending=False)
            draw_branch(ax, points, look, band, ylim[0], unit="%" if is_accuracy else "")
            if matching is not None:
                _ring(ax, points[_matches(points, bar, matching)], look)
        density_axis(ax, drawn["density"])
        ax.set(ylim=ylim, ylabel=ylabel)
        thousands(ax.yaxis, ylim[1])
        handles = ax.get_legend_handles_labels()[0]
        if matching is not None and any(line.get_label() == "_matching" for line in ax.lines):
            said = f"matching (within {matching:.2g} points)"
            handles.append(Line2D([], [], color=DENSE, label=said, **RING))
        if (drawn["diverged"].between(1, drawn["seeds"] - 1)).any():
            handles.append(diverged_marker(drawn["diverged"], drawn["seeds"]))
        if (drawn["diverged"] == drawn["seeds"]).any():
            handles.append(Line2D([], [], color=DENSE, label="all seeds diverged", **CROSS))
        if legend:
            place_legend(ax, handles, corner="lower left" if is_accuracy else "upper left")
    return ax


def _matches(points: Table, dense: Any, margin: float) -> Any:
    """Which pruned means are matching; see `jt.speed.matching`. Values are in percent."""
    # accuracies were float32 on the device
    enough = points["mean"] >= dense["mean"] - margin - 100 * stats.GUARD
    whole = (points["diverged"] == 0) & (dense["diverged"] == 0)
    return enough & whole & (points["level"] > 0)


def _ring(ax: Axes, points: Table, look: BranchStyle) -> None:
    x, y = (points[name].to_numpy(float) for name in ("density", "mean"))
    if len(x):
        ax.plot(100 * x, y, color=look.color, label="_matching", zorder=3.2, **RING)


def _reaching(means: Table, band: Band) -> Table:
    """Rows of `stats.over_seeds` with the ends of what is drawn around the mean, low and high."""
    if band == "std":
        low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    else:
        low, high = means["min"], means["max"]
    return means.assign(low=low, high=high)


def draw_branch(
    ax: Axes, points: Table, look: BranchStyle, band: Band, bottom: float, *, unit: str = "%"
) -> None:
    """One branch: its mean line, its spread over seeds, open points, and where it leaves the axes.

    Args:
      ax: the axes.
      points: rows of `stats.over_seeds` with what is drawn around the mean, low and high; densest
        first.
      look: label, colour and marker.
      band: how the spread over seeds is drawn.
      bottom: lower limit of the axes.
      unit: unit of the lowest mean, for the legend of a line that leaves the axes.
    """
    x, y = (points[name].to_numpy(float) for name in ("density", "mean"))
    x = 100 * x
    low, high = (points[name].to_numpy(float) for name in ("low", "high"))
    exits = leaves(x, y, bottom)
    label = look.label
    if exits:
        label += f" (to {np.nanmin(y):.0f}{unit})"
        on_edge = ax.get_xaxis_transform()
        marks = {"marker": "v", "markersize": 4.5, "markeredgewidth": 0, "linestyle": "none"}
        edge = np.full(len(exits), 0.012)
        ax.plot(exits, edge, color=look.color, transform=on_edge, label="_exit", zorder=4, **marks)
    line: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": look.line}
    ax.plot(x, y, markeredgewidth=0, label=label, zorder=3, **line)
    if band in ("minmax", "std"):
        ax.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)
    elif band == "bars":
        reach = np.stack([np.maximum(y - low, 0), np.maximum(high - y, 0)])
        bars = {"fmt": "none", "ecolor": look.color, "elinewidth": 0.7, "capthick": 0.7}
        ax.errorbar(x, y, reach, label="_bars", zorder=2.5, **bars)
    lost = np.isnan(y)
    if lost.any():
        edge = np.full(lost.sum(), 0.02)
        on_edge = ax.get_xaxis_transform()
        ax.plot(x[lost], edge, color=look.color, transform=on_edge, label="_lost", **CROSS)
    some = (points["diverged"].to_numpy() > 0) & ~lost
    if some.any():
        ax.plot(x[some], y[some], label="_diverged", zorder=3.5, **opened(look.marker, look.color))


def leaves(x: np.ndarray, y: np.ndarray, bottom: float) -> list[float]:
    """The x at which a line, straight over log x, goes below `bottom` (or starts there).

    >>> [round(x, 6) for x in leaves(np.array([100.0, 1.0]), np.array([90.0, 70.0]), 80.0)]
    [10.0]
    """
    finite = np.isfinite(y)
    x, y = np.log(x[finite]), y[finite]
    found = [x[0]] if len(y) and y[0] < bottom else []
    for i in np.flatnonzero((y[:-1] >= bottom) & (y[1:] < bottom)):
        found.append(x[i] + (x[i + 1] - x[i]) * (y[i] - bottom) / (y[i] - y[i + 1]))
    return [math.exp(value) for value in found]


def limits(
    values: Sequence[float], keep: Sequence[float], *, top: float = math.inf
) -> tuple[float, float]:
    """Limits that show all of `values` from the least of `keep` on, with a small margin.

    >>> limits([10.0, 90.0, 98.0], [86.0, 92.0])
    (85.4, 98.6)
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        raise ValueError("`table` has no finite value to draw: every replica diverged")
    low = max(min(finite), min(float(value) for value in keep if math.isfinite(value)))
    high = max(finite)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, max(high + 0.2 * margin, min(high + margin, top))


def density_axis(ax: Axes, densities: Any, *, ticks: int = 6) -> None:
    """The x axis: densities in percent on a log scale, dense at the left.

    Ticks stand at densities that occur, evenly spaced and never crowded.
    """
    values = np.unique(np.asarray(densities, float))[::-1]
    places = np.log(values)
    span = places[0] - places[-1]
    shown = [0]
    for i in range(1, len(values)):
        if places[shown[-1]] - places[i] >= 0.999 * span / ticks:
            shown.append(i)
    ax.set_xscale("log")
    at = [100 * values[i] for i in shown]
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_major_formatter(FixedFormatter([percent(values[i]) for i in shown]))
    ax.xaxis.set_minor_locator(NullLocator())
    reach = math.exp(0.03 * span or 0.1)
    ax.set_xlim(100 * values[0] * reach, 100 * values[-1] / reach)
    ax.set_xlabel(DENSITY)


def check_ylim(ylim: tuple[float, float] | None) -> None:
    """Raises unless `ylim` is None or (low, high) with low < high."""
    if ylim is None:
        return
    pair = _check.several("ylim", ylim, _check.number, like="(50.0, 100.0)", empty=True)
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError(f"`ylim` must be (low, high) with low < high, or None, got {ylim!r}")


def opened(marker: str, color: str) -> dict[str, Any]:
    """Keywords of open markers without a line."""
    return {
        "color": color,
        "linestyle": "none",
        "marker": marker,
        "markeredgewidth": 0.9,
        "markerfacecolor": "white",
    }


def diverged_marker(lost: Any, whole: Any, what: str = "seeds") -> Line2D:
    """The legend entry for open markers: that some seeds diverged, and how many.

    Args:
      lost, whole: of each point that is drawn, how many diverged, and of how many.
      what: what diverged.

    >>> diverged_marker([0, 1, 2, 5], [5, 5, 5, 5]).get_label()
    'some seeds diverged (1 to 2 of 5)'
    """
    lost, whole = np.asarray(lost), np.asarray(whole)
    some = (lost > 0) & (lost < whole)
    counts, of = sorted({*lost[some].tolist()}), sorted({*whole[some].tolist()})
    least, most = (
        f"{int(x[0])} to {int(x[-1])}" if len(x) > 1 else f"{int(x[0])}" for x in (counts, of)
    )
    return open_marker(f"some {what} diverged ({least} of {most})")


def open_marker(label: str) -> Line2D:
    """A legend entry for open markers."""
    return Line2D([], [], label=label, **opened("o", DENSE))
