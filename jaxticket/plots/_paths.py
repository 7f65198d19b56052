"""Error on the line between two trained copies, and barriers between them during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots._density import check_ylim
from jaxticket.plots._samples import (
    BANDS,
    IN_ERROR,
    Line,
    Spread,
    Table,
    axis_label,
    branch_lines,
    chosen_steps,
    rows_of,
    select,
    spread,
)
from jaxticket.plots._stability import stable_line
from jaxticket.plots._steps import (
    STABLE,
    THRESHOLD,
    Series,
    draw,
    from_zero,
    impossible,
    notes,
    reach,
    shades,
    step_entries,
    step_series,
)
from jaxticket.plots._style import place_legend, prepared, style, thousands

# dashed lines "2 points above the ends" of more lines than these would be a thicket
THRESHOLDS = 4


def path(
    paths: Table,
    ax: Axes | None = None,
    *,
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "error",
    band: Spread = "std",
    samples: bool = False,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Error on the straight line between two trained copies: θ(α) = (1 - α) θ₁ + α θ₂.

    With one step k each branch has a colour; with several each step has a colour, and each branch
    a line style. Lines are means over samples (seeds × pairs). Dashes mark the mean of a line's
    ends plus 2 points: a network is stable if its error stays below (with more than four lines only
    the highest and the lowest are marked). No error is below 0 or above 100: that is shaded.

    Args:
      paths: paths of an instability analysis, with the column alpha.
      ax: axes to draw on, or None for a new figure.
      at: step or steps k from which the copies part, or None for all.
      branches: lines to draw: "dense" (level 0) and branches, or None for all.
      level: level of all but the dense network, or None for the sparsest in common.
      split: "train", "validation" or "test".
      metric: "error" (in percent) or "loss", or either with "_recomputed".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      samples: whether to draw a thin line per seed and pair too.
      ylim: limits, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is α.

    Raises:
      ValueError: if the table is unusable, or a branch, level, step, split or metric is unknown.

    Reference: Frankle's thesis, section 4.1 and figures 4-2, 4-6, 4-14 and 4-22 to 4-24.
    """
    _check.flag("samples", samples)
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    rows = select("paths", paths, split, metric, "pair", "alpha")
    # a float32 0.1 and a float64 0.1 are one place
    rows = rows.assign(alpha=rows["alpha"].astype(float).round(6))
    lines = branch_lines(rows, branches, level)
    steps = chosen_steps(rows, at)
    rows = rows[rows["at"].isin(steps)]
    parts = [(line.label, rows_of(rows, line)) for line in lines]
    if len(steps) > 1:
        series = step_series(parts, steps, "alpha", band)
    else:
        series = [
            Series(line.label, spread(part, "alpha", band), line.color)
            for line, (_, part) in zip(lines, parts, strict=True)
            if not part.empty
        ]
    in_error = metric in IN_ERROR
    low, high = reach(series)
    shown = [value for one in series for value in one.points["mean"]]
    with style():
        ax = prepared(ax)
        bars = _thresholds(series) if in_error else []
        for color, place in bars:
            dashes = THRESHOLD | {"color": color}
            ax.axhline(place, label="_threshold", zorder=1.6, **dashes)
        if samples:
            for color, one in _samples(lines, parts, steps):
                look = {"color": color, "linewidth": 0.5, "alpha": 0.5, "zorder": 2.5}
                ax.plot(one["alpha"], one["value"], label="_sample", **look)
                shown += list(one["value"])
        draw(ax, series, band)
        ax.set(xlabel=r"Interpolation $\alpha$", ylabel=axis_label(metric, split, paths))
        # beyond 1 where the path is bent
        last = float(rows["alpha"].max())
        ax.set_xlim(0, last)
        ticks = [0, 0.25, 0.5, 0.75, 1] if last <= 1 else range(int(last) + 1)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        if ylim is None:
            top = max([high, *(place for _, place in bars)])
            ylim = _around(low, top, shown, 100.0 if in_error else math.inf)
        ax.set_ylim(*ylim)
        if legend:
            if len(steps) > 1:
                entries = step_entries(steps, [label for label, _ in parts])
            else:
                entries = ax.get_legend_handles_labels()[0]
            if bars:
                says = f"mean of ends + {STABLE:g} points"
                entries.append(Line2D([], [], label=says, **THRESHOLD))
            place_legend(ax, entries + notes(series), corner="upper right")
        impossible(ax, above=100.0 if in_error else None)
    return ax


def throughout(
    table: Table,
    ax: Axes | None = None,
    *,
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "barrier",
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The barrier between two copies while they train: one line per step k at which they part.

    Args:
      table: instability throughout training, with the column step.
      ax: axes to draw on, or None for a new figure.
      at: step or steps k, or None for all.
      branches: lines to draw: "dense" (level 0) and branches (up to four line styles), or None for
        all.
      level: level of all but the dense network, or None for the sparsest in common.
      split: "train", "validation" or "test".
      metric: "barrier" (in percent), "loss_barrier", "error" (in percent) or "loss".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the training step, y as in `instability`.

    Raises:
      ValueError: if the table is unusable, or a branch, level, step, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-5 and 4-21.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    rows = select("table", table, split, metric, "pair", "step")
    lines = branch_lines(rows, branches, level)
    steps = chosen_steps(rows, at)
    parts = [(line.label, rows_of(rows, line)) for line in lines]
    series = step_series(parts, steps, "step", band)
    barrier = metric.startswith("barrier")
    with style():
        ax = prepared(ax)
        entries = step_entries(steps, [label for label, _ in parts])
        draw(ax, series, band)
        if barrier:
            entries.append(stable_line(ax))
        ax.set(xlabel="Training step", ylabel=axis_label(metric, split, table))
        most = 100.0 if metric in IN_ERROR else None
        ax.set_ylim(*(ylim or from_zero(series, least=1.5 * STABLE * barrier, most=most)))
        last = float(max(one.points["x"].max() for one in series))
        ax.set_xlim(0, 1.02 * last or 1)
        thousands(ax.xaxis, last)
        if legend:
            place_legend(ax, entries + notes(series), corner="upper right")
        impossible(ax, above=most)
    return ax


def _samples(
    lines: Sequence[Line], parts: Sequence[tuple[str, Table]], steps: Sequence[int]
) -> list[tuple[Any, Table]]:
    """The colour and the rows of every seed and pair of `path`."""
    colors = shades(steps)
    found = []
    for line, (_, part) in zip(lines, parts, strict=True):
        for (step, _, _), one in part.groupby(["at", "seed", "pair"], observed=True):
            color = colors[int(step)] if len(steps) > 1 else line.color
            found.append((color, one.sort_values("alpha")))
    return found


def _thresholds(series: Sequence[Series]) -> list[tuple[Any, float]]:
    """Colour and height of the lines "mean of both ends + 2 points"."""
    places = []
    for one in series:
        x, mean = (one.points[name].to_numpy(float) for name in ("x", "mean"))
        ends = mean[[0, -1]]
        # a part of a line has no ends
        if x[0] == 0 and x[-1] >= 1 and np.isfinite(ends).all():
            places.append((one.color, float(ends.mean()) + STABLE))
    places.sort(key=lambda one: one[1])
    return places if len(places) <= THRESHOLDS else [places[0], places[-1]]


def _around(low: float, high: float, shown: Sequence[float], most: float) -> tuple[float, float]:
    """Limits around bands and lines.

    Bands may reach into what is impossible, and then a strip of it is enough; lines are all seen.
    """
    finite = [value for value in shown if math.isfinite(value)]
    bottom, top = min([low, *finite]), max([high, *finite])
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    bottom = max(bottom - margin, min(-0.6 * margin, min(finite) - margin))
    return bottom, min(top + margin, max(most + 0.6 * margin, max(finite) + margin))
