"""Barriers, errors and first stable and matching steps against density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _table
from jaxticket.plots._panel import line_figure, place_legend, reach
from jaxticket.plots._stability import dense_error
from jaxticket.plots._style import branch_order, branch_styles, panel
from jaxticket.plots._table import Band, check_options, column, metric_label, select, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import LineStyleType

FIRST = ("branch", "level", "density", "verdict", "step", "low", "high", "samples", "share")
# line style, face, edge and size of markers; both often coincide: the open points are larger, so
# that they are visible around the others
VERDICTS: dict[str, tuple[LineStyleType, str | None, float, float | None]] = {
    "stable": ("-", None, 0.0, None),
    "matching": ((0, (3, 2)), "none", 0.8, 7.0),
}
# what a legend says where most samples, or some, are stable or matching at no step
MISSING = ("no marker: most at no step", "band to the top: some at no step")


def against_density(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "barrier",
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] = ("ticket",),
    split: str = "test",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the barrier or the error against density: one line per step k at which copies part.

    Colors tell steps, line styles branches. The dense network is the left end of "ticket"; for
    errors its mean and standard deviation at the earliest step are drawn across.

    Args:
      table: tidy table of an instability analysis.
      metric: "barrier", "error" (in percent), or any other.
      at: step or steps k, or None for all.
      branches: up to four branches.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is density in percent on a reversed log axis.

    Raises:
      ValueError: if the table is unusable, or a branch, step, split or metric is unknown.

    Reference: Frankle's thesis, section 4.2 and figures 4-27 to 4-30.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    rows = select("table", table, split, metric, "pair")
    names = branch_order(_table.names_of(rows), branches)
    rows = where(rows, branch=names)
    steps = _table.chosen_steps(rows, at)
    rows = where(rows, at=steps)
    # seeds of a level differ in density by a few weights
    rows = _table.with_density(rows)
    parts = {name: where(rows, branch=name) for name in names}
    within = _table.possible(metric, rows)
    series = _panel.shaded_series(parts, "at", steps, "x", band, marker="o", within=within)
    labels = [look.label for look in branch_styles(names).values()]
    dense = dense_error(table, None, split, metric) if metric == "error" else None
    if ylim is None and dense is not None:
        ylim = _axes.limits([*reach(series), *dense[0]], what="copy")
    return line_figure(
        ax, series, band, x_axis=lambda ax: _axes.density_axis(ax, column(rows, "x") / 100),
        ylabel=metric_label(metric, split, table), ylim=ylim, corner="upper left", legend=legend,
        stable=metric.startswith("barrier"), most=_table.greatest(metric),
        over=(lambda ax: _panel.dense_band(ax, *dense[0], dense[1])) if dense else None,
        entries=lambda: _panel.step_entries(steps, labels), title=_panel.only(labels),
    )  # fmt: skip


def first_steps(
    steps: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    at: Sequence[int] | None = None,
    majority: float = 0.5,
    legend: bool = True,
) -> Axes:
    """Plot the first step k from which networks are stable, and matching, against density.

    Solid lines with filled markers are the median first stable step, dashed lines with open markers
    the median first matching step; bands are the minimum and maximum over samples, and leave the
    axes where a sample has no such step. Only densities at which more than `majority` of the
    samples have such a step have a marker. Steps are at even distances, not to scale, but the
    coordinates of the axis are steps.

    Args:
      steps: table of first steps: branch, level, density, verdict ("stable" or "matching"), step,
        low, high, samples, share.
      at: steps that were analyzed, for the ticks, or None for those that occur.
      majority: share of samples in [0, 1) that must be exceeded.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      legend: whether to draw a legend.

    Returns:
      The axes; x is density in percent on a reversed log axis, y is the step k.

    Raises:
      ValueError: if the table is unusable, a branch is unknown, or nothing is left to draw.

    Reference: Frankle's thesis, section 4.2 and figure 4-18.
    """
    check_options(legend=legend)
    remedy = "pass what first_steps() of an instability analysis returns"
    check_table(steps, FIRST, argument="steps", remedy=remedy)
    _check.share("majority", majority, zero=True, one=False)
    names = branch_order(_table.names_of(steps), branches, table="steps")
    steps = where(steps, branch=names)
    found = steps.loc[np.isfinite(column(steps, "step")) & (steps["share"] > majority)]
    if found.empty:
        raise ValueError(
            f"`steps` has no density at which more than {majority:g} of the samples of {names} are "
            "stable or matching at any step; lower `majority` or analyze later steps"
        )
    ends = found[["step", "low", "high"]].to_numpy(float).ravel()
    ends = ends[np.isfinite(ends)].tolist()
    if at is not None:
        # all that was found must be inside
        ends = [*at, *(end for end in ends if end > max(at, default=-1))]
    looks = branch_styles(names)
    # of some densities most samples, of others some have no such step
    missing = len(found) < len(steps), bool(found["high"].isna().any())
    with panel(ax) as ax:
        _axes.density_axis(ax, steps["density"])
        _axes.step_axis(ax, ends, "First step $k$", which="y")
        top = ax.get_ylim()[1]
        for name, look in looks.items():
            for verdict in VERDICTS:
                # every density, so that a line breaks where there is no majority
                own = where(steps, branch=name, verdict=verdict)
                own = own.sort_values(by="density", ascending=False)
                x, y, low, high = (column(own, one) for one in ("density", "step", "low", "high"))
                # a sample without such a step is later than all that were analyzed
                high = np.where(np.isnan(high), top, high)
                kept = np.isfinite(y) & (column(own, "share") > majority)
                y, low, high = (np.where(kept, one, np.nan) for one in (y, low, high))
                x = 100 * x
                line = _verdict_line(verdict, look.color, look.marker, f"_{name} {verdict}")
                line.set_data(x, y)
                ax.add_line(line)
                ax.fill_between(x, low, high, color=look.color, alpha=0.12, linewidth=0, zorder=2)
                alone = _panel.without_neighbors(y)
                _panel.error_bars(ax, x[alone], y[alone], low[alone], high[alone], look.color)
        if legend:
            entries = [
                Line2D([], [], label=one.label, color=one.color, marker=one.marker, mew=0)
                for one in looks.values()
            ]
            entries += [
                _verdict_line(verdict, "0.3", "o", f"{verdict}, median") for verdict in VERDICTS
            ]
            # ends of samples without such a step are nan
            if not (found["low"] == found["high"]).all():
                entries.append(_panel.spread_entry("minmax", "copies"))
            for missed, text in zip(missing, MISSING, strict=True):
                if missed:
                    entries.append(Line2D([], [], linestyle="none", label=text))
            place_legend(ax, entries, corner="upper left")
    return ax


def _verdict_line(verdict: str, color: str, marker: str, label: str) -> Line2D:
    """Give a line in the style of a verdict, without points."""
    line, face, edge, size = VERDICTS[verdict]
    return Line2D(
        [],
        [],
        label=label,
        color=color,
        marker=marker,
        linestyle=line,
        markerfacecolor=face,
        markeredgewidth=edge,
        markersize=size,
        zorder=3,
    )
