"""Instability and error of copies that part at step k, against k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots._density import check_ylim
from jaxticket.plots._density import limits as error_limits
from jaxticket.plots._samples import (
    BANDS,
    COMMON,
    DENSE_LINE,
    IN_ERROR,
    Line,
    Spread,
    Table,
    axis_label,
    branch_lines,
    check_table,
    rows_of,
    select,
    spread,
)
from jaxticket.plots._steps import (
    MATCHING,
    STABLE,
    STEP,
    THRESHOLD,
    Series,
    draw,
    from_zero,
    impossible,
    notes,
    reach,
    step_axis,
)
from jaxticket.plots._style import DENSE, place_legend, prepared, style


def instability(
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "barrier",
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The barrier between copies that part at step k, against k: one line per branch.

    barrier = max over α of e(α) - (e(0) + e(1)) / 2

    Lines are means over samples (seeds × pairs of copies). Below the dashed line at 2 points a
    network is stable. No barrier is below 0: that region is shaded. Open points: some samples
    diverged, the mean is over the others; a cross at the lower edge: all did. Steps stand at even
    distances, but the coordinates of the axis are steps.

    Args:
      table: tidy table of an instability analysis, one row per value.
      ax: axes to draw on, or None for a new figure.
      branches: lines to draw: "dense" (level 0) and branches, or None for all.
      level: level of all but the dense network, or None for the sparsest in common.
      split: "train", "validation" or "test".
      metric: "barrier" (in percent) or "loss_barrier", or either with "_recomputed".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, section 4.1 and figures 4-3, 4-15 and 4-19.
    """
    _check.flag("legend", legend)
    check_ylim(ylim)
    _, series = against_steps("table", table, "pair", branches, level, split, metric, band)
    with style():
        ax = prepared(ax)
        label = axis_label(metric, split, table)
        barrier_panel(ax, series, band, label, ylim=ylim, threshold=metric.startswith("barrier"))
        if legend:
            step_legend(ax, series, corner="upper right")
        impossible(ax, above=100.0 if metric.startswith("barrier") else None)
    return ax


def error(
    table: Table,
    ax: Axes | None = None,
    *,
    dense: Table | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "error",
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The error that copies end with, against the step k at which they part.

    The grey line and band across are the mean and standard deviation of the dense network, over its
    seeds and copies at the earliest step k. A network below the dashed line, 0.2 points above that
    mean, is matching. Marks as in `instability`.

    Args:
      table: `copies` of an instability analysis (a row per copy), or its table (a row per pair).
      ax: axes to draw on, or None for a new figure.
      dense: a table of the same kind with the dense network, if `table` does not hold it.
      branches: lines to draw, or None for all but the dense network.
      level: level of the branches, or None for the sparsest in common.
      split: "train", "validation" or "test".
      metric: "error" (in percent) or "loss".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if a table is unusable, there is no dense network, or a branch, level, split or
        metric is unknown.

    Reference: Frankle's thesis, figures 4-16, 4-17, 4-20, 4-28 and 4-30.
    """
    _check.flag("legend", legend)
    check_ylim(ylim)
    series = error_series(table, branches, level, split, metric, band)
    mean, std = dense_error(table, dense, split, metric)
    share = metric in IN_ERROR
    with style():
        ax = prepared(ax)
        label = axis_label(metric, split, table)
        error_panel(ax, series, (mean, std), band, label, ylim=ylim, threshold=share)
        if legend:
            step_legend(ax, series, corner="upper right")
        impossible(ax, above=100.0 if share else None)
    return ax


def against_steps(
    argument: str,
    table: Table,
    sample: str,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Spread,
) -> tuple[list[Line], list[Series]]:
    """The lines of a figure against k, and what is drawn of each.

    Args:
      argument: name of the table in errors.
      table: tidy table with one row per value.
      sample: the column that tells samples of a seed apart, "pair" or "copy".
      branches: names of lines, or None for all.
      level: level of all but the dense network, or None.
      split: the split.
      metric: the metric.
      band: how the spread over samples is drawn.

    Returns:
      Lines and series, in the order of the legend.
    """
    _check.one_of("band", band, BANDS)
    rows = select(argument, table, split, metric, sample)
    lines = branch_lines(rows, branches, level)
    points = [spread(rows_of(rows, line), "at", band) for line in lines]
    series = [
        Series(line.label, one, line.color, line.marker)
        for line, one in zip(lines, points, strict=True)
    ]
    return lines, series


def error_series(
    table: Table,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Spread,
) -> list[Series]:
    """Series of final errors; the dense network only if it is asked for, or all there is."""
    sample = _sample("table", table)
    lines, series = against_steps("table", table, sample, branches, level, split, metric, band)
    pairs = zip(lines, series, strict=True)
    sparse = [one for line, one in pairs if (line.branch, line.level) != DENSE_LINE]
    return sparse if branches is None and sparse else series


def dense_error(table: Table, dense: Table | None, split: str, metric: str) -> tuple[float, float]:
    """Mean and standard deviation of the dense network over seeds and copies, at its earliest k.

    Raises:
      ValueError: if there is no dense network, or all of it diverged.
    """
    argument, source = ("table", table) if dense is None else ("dense", dense)
    rows = select(argument, source, split, metric, _sample(argument, source))
    found = rows[(rows["branch"] == "ticket") & (rows["level"] == 0)]
    found = found[found["at"] == found["at"].min()]["value"]
    if found.empty:
        raise ValueError(
            f"`{argument}` has no dense network (branch 'ticket', level 0) to compare with; "
            "analyse level 0 too, and pass it here or as `dense`"
        )
    finite = found[np.isfinite(found)]
    if finite.empty:
        raise ValueError(
            f"`{argument}` has {len(found)} dense networks and all of them diverged, so there is "
            "nothing to compare with; train them with a lower learning rate"
        )
    return float(finite.mean()), float(finite.std()) if len(finite) > 1 else 0.0


def _sample(argument: str, table: Table) -> str:
    """The column that tells apart the samples of a seed: of copies, of pairs, or of states (one for
    each seed).
    """
    check_table(argument, table, COMMON)
    return next((name for name in ("copy", "pair") if name in table.columns), "seed")


def barrier_panel(
    ax: Axes,
    series: Sequence[Series],
    band: Spread,
    label: str,
    *,
    ylim: tuple[float, float] | None = None,
    threshold: bool = True,
    steps: Sequence[float] = (),
) -> None:
    """Draws barriers against k, all but legend and shading.

    Args:
      ax: the axes.
      series: what to draw.
      band: how the spread over samples is drawn.
      label: label of the y axis.
      ylim: limits, or None for good ones.
      threshold: whether to mark the barrier below which a network is stable.
      steps: further steps of the x axis.
    """
    draw(ax, series, band)
    if threshold:
        stable_line(ax)
    step_axis(ax, [*steps_of(series), *steps])
    ax.set(xlabel=STEP, ylabel=label)
    ends = {"least": 1.5 * STABLE, "most": 100.0} if threshold else {}
    ax.set_ylim(*(ylim or from_zero(series, **ends)))


def error_panel(
    ax: Axes,
    series: Sequence[Series],
    dense: tuple[float, float],
    band: Spread,
    label: str,
    *,
    ylim: tuple[float, float] | None = None,
    threshold: bool = True,
    steps: Sequence[float] = (),
) -> None:
    """Draws final errors against k, all but legend and shading.

    Args:
      ax: the axes.
      series: what to draw.
      dense: mean and standard deviation of the dense network.
      band: how the spread over samples is drawn.
      label: label of the y axis.
      ylim: limits, or None for good ones.
      threshold: whether to mark the error below which a network is matching.
      steps: further steps of the x axis.
    """
    dense_band(ax, *dense)
    draw(ax, series, band)
    if threshold:
        says = f"matching: at most {MATCHING:g} points above"
        ax.axhline(dense[0] + MATCHING, label=says, zorder=1.6, **THRESHOLD)
    step_axis(ax, [*steps_of(series), *steps])
    ax.set(xlabel=STEP, ylabel=label)
    mean, std = dense
    every = [*reach(series), mean - std, mean + std, mean + threshold * MATCHING]
    ax.set_ylim(*(ylim or error_limits(every, every)))


def stable_line(ax: Axes) -> Line2D:
    """Marks the barrier below which a network is stable, and gives the line for a legend."""
    return ax.axhline(STABLE, label=f"stable: below {STABLE:g}%", zorder=1.6, **THRESHOLD)


def dense_band(ax: Axes, mean: float, std: float) -> Line2D:
    """The dense network's mean and standard deviation across; gives the line for a legend."""
    ax.axhspan(mean - std, mean + std, color=DENSE, alpha=0.22, linewidth=0, zorder=1)
    return ax.axhline(mean, color=DENSE, linewidth=1.1, zorder=1.5, label="dense, mean ± std")


def steps_of(series: Sequence[Series]) -> list[float]:
    """All steps k of the series."""
    return [float(step) for one in series for step in one.points["x"]]


def step_legend(ax: Axes, series: Sequence[Series], *, corner: str) -> None:
    """The legend of what has a label, and of marks for samples that diverged."""
    place_legend(ax, ax.get_legend_handles_labels()[0] + notes(series), corner=corner)
