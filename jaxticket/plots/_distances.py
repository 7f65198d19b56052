"""Distances between copies that part at step k, and how far they travel, against k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots._density import check_ylim
from jaxticket.plots._samples import (
    BANDS,
    Spread,
    Table,
    axis_label,
    branch_lines,
    rows_of,
    select,
    spread,
)
from jaxticket.plots._stability import against_steps, step_legend, steps_of
from jaxticket.plots._steps import STEP, Series, draw, from_zero, notes, step_axis
from jaxticket.plots._style import place_legend, prepared, style

OF_WEIGHTS = ("l2", "cosine", "mask_hamming", "mask_iou")


def distance(
    table: Table,
    ax: Axes | None = None,
    *,
    metric: str = "l2",
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str | None = None,
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Any distance between copies that part at step k, against k: one line per branch.

    Args:
      table: tidy table of an instability analysis.
      ax: axes to draw on, or None for a new figure.
      metric: "l2", "cosine", "disagreement", "disagreement_share" (in percent), "loss_l2", ...
      branches: lines to draw: "dense" (level 0) and branches, or None for all.
      level: level of all but the dense network, or None for the sparsest in common.
      split: of the data, or None for "weights" or "test", as the metric needs.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for those from 0 on.
      legend: whether to draw one.

    Returns:
      The axes; x is the step k. Marks as in `instability`.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-7 to 4-12, 4-25 and 4-26.
    """
    _check.flag("legend", legend)
    check_ylim(ylim)
    split = split or ("weights" if metric in OF_WEIGHTS else "test")
    _, series = against_steps("table", table, "pair", branches, level, split, metric, band)
    with style():
        ax = prepared(ax)
        draw(ax, series, band)
        step_axis(ax, steps_of(series))
        ax.set(xlabel=STEP, ylabel=axis_label(metric, split, table))
        ax.set_ylim(*(ylim or (0.0, from_zero(series)[1])))
        if legend:
            step_legend(ax, series, corner="lower left")
    return ax


def distances_at_rewinding(
    states: Table,
    copies: Table,
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """How far training goes before step k, after it, and how far apart the copies end.

    The L2 distances of masked weights: initialization to k (circles), k to the end (crosses), and
    between two copies at the end (triangles). Colours tell branches.

    Args:
      states: states of an instability analysis, with the metric "l2_from_init".
      copies: its copies, with the metric "l2_from_k".
      table: its table, with the metric "l2".
      ax: axes to draw on, or None for a new figure.
      branches: branches to draw: "dense" (level 0) and others, or None for all.
      level: level of all but the dense network, or None for the sparsest in common.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for those from 0 on.
      legend: whether to draw one.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if a table is unusable, or a branch or level is not in all three.

    Reference: Frankle's thesis, section 4.3 and figures 4-32 and 4-33.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    kinds = (
        ("states", states, (), "l2_from_init", "o", "initialization to $k$"),
        ("copies", copies, ("copy",), "l2_from_k", "x", "$k$ to the end"),
        ("table", table, ("pair",), "l2", "^", "between the copies"),
    )
    rows = {one[0]: select(one[0], one[1], "weights", one[3], *one[2]) for one in kinds}
    lines = branch_lines(rows["table"], branches, level)
    series = []
    for argument, _, _, metric, marker, _ in kinds:
        for line in lines:
            here = rows_of(rows[argument], line)
            if here.empty:
                raise ValueError(
                    f"`{argument}` has nothing of branch {line.branch!r} at level {line.level}, "
                    "`table` has; name other `branches`, or pass the tables of one analysis"
                )
            points = spread(here, "at", band)
            series.append(Series(f"_{line.label} {metric}", points, line.color, marker))
    with style():
        ax = prepared(ax)
        draw(ax, series, band)
        step_axis(ax, steps_of(series))
        ax.set(xlabel=STEP, ylabel="$L_2$ distance of weights")
        ax.set_ylim(*(ylim or (0.0, from_zero(series)[1])))
        alone = len(lines) == 1
        entries = [
            Line2D([], [], color=lines[0].color if alone else "0.3", marker=kind[4], label=kind[5])
            for kind in kinds
        ]
        if not alone:
            entries += [Line2D([], [], color=line.color, label=line.label) for line in lines]
        if legend:
            title: dict[str, Any] = {"title": lines[0].label, "alignment": "left"} if alone else {}
            place_legend(ax, entries + notes(series), corner="upper right", **title)
    return ax
