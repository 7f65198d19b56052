"""Accuracy and training speed against density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxticket import _check, _stats
from jaxticket.analysis import stats
from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import (
    EXIT,
    FALLS,
    Series,
    attach,
    band_entries,
    draw,
    labeled,
    notes,
    place_legend,
    reach,
)
from jaxticket.plots._style import branch_order, branch_styles, panel, percent
from jaxticket.plots._table import check_options, column, where

if TYPE_CHECKING:
    import pandas as pd

Band = Literal["minmax", "bars", "std", "none"]
BANDS = ("minmax", "bars", "std", "none")
# these branches are always visible as a whole; others may leave the axes
SHOWN = ("ticket", "reinit")
# where there are none of these, all branches but random masks are
RANDOM = ("random", "globally_permuted", "layerwise_random")
# points of accuracy below the dense network that are worth showing
BELOW_DENSE = 12.0
# around means that match the dense network
RING = _panel.Mark("o", 0.9, "none", 8, 3.2)


def accuracy(
    table: pd.DataFrame,
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
    """Plot accuracy against density: one line per branch, the dense network across.

    Lines are means over seeds, bands by default the minimum and maximum over seeds. A branch that
    collapses does not compress the others: a triangle marks where its line leaves the axes, and
    the legend states its lowest mean. Markers are open where some of the seeds diverged; the mean
    is then over the others. A cross at the lower edge means that all diverged. At the end of
    training on the test split, rings mark where a branch is matching by `jt.speed.matching`. A
    table does not say how many test examples there were: with fewer than 500 one of them is more
    than the margin, and `test_size=len(data.test)` gives the rings that `runs.matching()` gives.

    Args:
      table: tidy table with one row per value; it must contain the dense network.
      at: share of the dense training at which to evaluate; 1.0 is each training's end.
      band: "minmax" (shaded), "bars" (error bars from minimum to maximum), "std" (mean ± one
        standard deviation, shaded) or "none".
      ylim: limits in percent, or None to show "ticket", "reinit" and 12 points below dense; where
        there are neither of the two, all branches but random masks.
      legend: whether to draw one (panels may share one: `ax.get_legend_handles_labels()`).
      margin: accuracy that a matching branch may lose, as a share.
      test_size: number of test examples; the margin is then at least one of them, and the legend
        says so.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      branches: names of the lines to draw, in this order, or None for all.

    Returns:
      The axes; x is density in percent on a reversed log axis, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable or has no dense network, or a branch is unknown.

    Reference: Frankle's thesis, figures 3-3, 3-5 and 3-7.
    """
    check_options(legend=legend, band=band, bands=BANDS, ylim=ylim)
    _check.share("at", at)
    _check.share("margin", margin, zero=True, one=False)
    by = ""
    if test_size is not None and (one := 1 / _check.whole("test_size", test_size, 1)) > margin:
        margin, by = one, ", one example"
    rows = stats.final(table, split=split) if at == 1 else stats.at_share(table, at, split=split)
    return _against_density(
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
        by=by,
    )


def early_stop(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    what: Literal["step", "accuracy"] = "step",
    branches: Sequence[str] | None = None,
    band: Band = "minmax",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the step of minimum validation loss against density, or the test accuracy at that step.

    Args:
      table: tidy table with validation losses and test accuracies.
      what: "step" or "accuracy".
      band: as in `accuracy`.
      ylim: limits in steps or percent, or None for automatic ones.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      legend: whether to draw a legend.

    Returns:
      The axes; x is density in percent on a reversed log axis.

    Raises:
      ValueError: if the table is unusable or has no validation split, or a branch is unknown.

    Reference: Frankle's thesis, section 3.3.6 and figure 3-8.
    """
    check_options(legend=legend, band=band, bands=BANDS, ylim=ylim)
    step = _check.one_of("what", what, ("step", "accuracy")) == "step"
    rows = stats.early_stop(table)
    return _against_density(
        rows.assign(accuracy=100 * rows["accuracy"]),
        "early_stop_step" if step else "accuracy",
        ax,
        branches=branches,
        band=band,
        ylim=ylim,
        legend=legend,
        ylabel="Early-stopping step" if step else "Test accuracy (%)\nat early stopping",
        is_accuracy=not step,
    )


def dilation(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    margin: float = 0.0,
    branches: Sequence[str] | None = None,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the smallest dilation δ* at which a ticket is as accurate as the dense network.

    The gray line is the dense network's own δ*: branches at or below it train at least as fast.
    Open markers at the top are tickets that reach the dense accuracy at none of the dilations.

    Args:
      table: tidy table with the further column `dilation`, trained at several dilations.
      margin: accuracy that may be lost, in [0, 1]; see `jt.speed.smallest_dilation`.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is density in percent on a reversed log axis, y is δ*.

    Raises:
      ValueError: if the table is unusable or has no dense network at dilation 1, or a branch is
        unknown.

    Reference: Frankle's thesis, section 3.3.6 and figure 3-9.
    """
    check_options(legend=legend, ylim=ylim)
    stars = stats.smallest_dilation(table, margin=margin)
    names = branch_order(_table.names_of(stars), branches)
    dense = float(stats.dense_rows(stars)["delta_star"].iloc[0])
    stars = where(stars, branch=names).sort_values(by="density", ascending=False)
    low, high = ylim or (0.0, 1.05 * float(column(table, "dilation").max()))
    # markers at the top edge, one row per branch, so that none covers another
    missed = stars.loc[np.isinf(stars["delta_star"])]
    rows = [name for name in names if len(where(missed, branch=name))]
    gap = 0.045 * (high - low)
    top = high if ylim else high + gap * len(rows)
    with panel(ax) as ax:
        if np.isfinite(dense):
            ax.axhline(dense, color=_style.DENSE, linewidth=1.1, zorder=1.5, label="dense")
        for name, look in branch_styles(names).items():
            own = where(stars, branch=name)
            mean = own["delta_star"].where(np.isfinite(own["delta_star"]))
            points = own.assign(x=100 * column(own, "density"), mean=mean, low=mean, high=mean)
            points = points.assign(samples=1, diverged=0)
            draw(ax, [Series(look.label, points, look.color, look.marker, look.line)], "none")
            if name in rows:
                x = 100 * column(where(missed, branch=name), "density")
                height = np.full(len(x), top - gap * (rows.index(name) + 0.5))
                _panel.marks(ax, x, height, _panel.hollow(look.marker), look.color, "_not reached")
        _axes.density_axis(ax, stars["density"])
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        # no greater dilation was trained: the space above is for the markers
        ax.set_yticks([tick for tick in ticks if low <= tick <= high])
        ax.set(ylim=(low, top), ylabel=r"Smallest sufficient dilation $\delta^*$")
        missing = [_panel.mark_entry(_panel.hollow("o"), "not reached")] if rows else []
        if legend:
            place_legend(ax, labeled(ax) + missing, corner="lower left")
        else:
            attach(ax, missing)
    return ax


def _against_density(
    rows: pd.DataFrame,
    name: str,
    ax: Axes | None,
    *,
    branches: Sequence[str] | None,
    band: Band,
    ylim: tuple[float, float] | None,
    legend: bool,
    ylabel: str,
    is_accuracy: bool = True,
    matching: float | None = None,
    by: str = "",
) -> Axes:
    """Draw a column of a table with one row per training against density; see `accuracy`.

    Args:
      rows: one row per training.
      name: the column to draw, in the unit of the figure.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines, or None for all.
      band: the spread that is drawn.
      ylim: limits of y, or None for automatic ones.
      legend: whether to draw a legend.
      ylabel: label of the y axis.
      is_accuracy: whether values are in percent and branches far below dense may leave the axes.
      matching: points below the dense mean down to which means have rings; None for no rings.
      by: what else the legend says of these points.
    """
    names = branch_order(_table.names_of(rows), branches)
    pruned = set(rows.loc[rows["level"] > 0]["branch"])
    if branches is None and pruned:
        # a branch with the dense network alone is the line across
        names = [name for name in names if name in pruned]
    # no accuracy is above 100%, no step before 0
    within = (0.0, 100.0 if is_accuracy else math.inf)
    bar = _table.with_band(stats.over_seeds(stats.dense_rows(rows), name), band, within).iloc[0]
    means = stats.over_seeds(rows, name).sort_values(by="density", ascending=False)
    means = _table.with_band(means, band, within).assign(
        x=100 * column(means, "density"), samples=means["seeds"]
    )
    series = [
        Series(look.label, where(means, branch=one), look.color, look.marker, look.line)
        for one, look in branch_styles(names).items()
    ]
    if ylim is None:
        every = [bar["low"], bar["high"], *reach(series)]
        named = dict(zip(names, series, strict=True))
        shown = [named[name] for name in names if name in SHOWN]
        shown = shown or [named[name] for name in names if name not in RANDOM] or series
        keep = [bar["mean"] - BELOW_DENSE, *(low for one in shown for low in one.column("low"))]
        ylim = _axes.limits(every, keep, top=100.0) if is_accuracy else _axes.limits(every)
    with panel(ax) as ax:
        _panel.dense_band(ax, bar["mean"], bar["low"], bar["high"], "dense")
        ringed = False
        for one in series:
            x, y = one.column("x"), one.column("mean")
            if exits := leaves(x, y, ylim[0]):
                _panel.marks(ax, exits, 0.012, EXIT, one.color, "_exit")
                lowest = f"{FALLS}{np.nanmin(y):.0f}{'%' if is_accuracy else ''}"
                one = one._replace(label=one.label + lowest)
            draw(ax, [one], band)
            if matching is not None:
                found = _matches(one.points, bar, matching)
                _panel.marks(ax, x[found], y[found], RING, one.color, "_matching")
                ringed |= bool(found.any())
        _axes.density_axis(ax, where(means, branch=names)["density"])
        ax.set(ylim=ylim, ylabel=ylabel)
        _axes.thousands(ax.yaxis, ylim[1])
        text = f"matching (within {matching or 0:.2g} points{by})"
        more = [_panel.mark_entry(RING, text)] if ringed else []
        more += [*band_entries(series, band, "seeds"), *notes(series, "seeds")]
        if legend:
            corner = "lower left" if is_accuracy else "upper left"
            place_legend(ax, labeled(ax) + more, corner=corner)
        else:
            attach(ax, more)
    return ax


def _matches(points: pd.DataFrame, dense: pd.Series, margin: float) -> np.ndarray:
    """Judge which pruned means are matching, in percent, as `jt.speed.matching` does."""
    matching = _stats.matching(
        points["mean"] / 100,
        dense["mean"] / 100,
        margin=margin / 100,
        diverged=points["diverged"] + dense["diverged"],
    )
    return (matching & (points["level"] > 0)).to_numpy()


def leaves(x: np.ndarray, y: np.ndarray, bottom: float) -> list[float]:
    """Find the x at which a line, straight over log x, goes below `bottom` (or starts there).

    >>> [round(x, 6) for x in leaves(np.array([100.0, 1.0]), np.array([90.0, 70.0]), 80.0)]
    [10.0]
    """
    finite = np.isfinite(y)
    x, y = np.log(x[finite]), y[finite]
    found = [x[0]] if len(y) and y[0] < bottom else []
    for i in np.flatnonzero((y[:-1] >= bottom) & (y[1:] < bottom)):
        found.append(x[i] + (x[i + 1] - x[i]) * (y[i] - bottom) / (y[i] - y[i + 1]))
    return [math.exp(value) for value in found]
