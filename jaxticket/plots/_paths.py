"""Error on the path between trained copies, over a plane, and barriers during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _style, _surfaces, _table
from jaxticket.plots._panel import Series, line_figure, reach
from jaxticket.plots._style import panel
from jaxticket.plots._table import Band, check_options, column, metric_label, select, spread, where

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import ColorType

# dotted lines "2 points above the ends" of more lines than these would be too many
THRESHOLDS = 6


def path(
    paths: pd.DataFrame,
    ax: Axes | None = None,
    *,
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "error",
    band: Band = "std",
    samples: bool = False,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the error on the straight line between two trained copies: θ(α) = (1 - α) θ₁ + α θ₂.

    With one step k each branch has a color, and the title of the legend states k if the table has
    others; with several each step has a color, and each branch a line style. Lines are means over
    samples (seeds × pairs), at one level each: the legend states its density, and names those that
    are not drawn. Dots in the color of a line mark the mean of its ends plus 2 points: a network is
    stable if its error stays below. Where lines share a color, or there are more than six, there
    are no dots; name one of the `branches`, or fewer steps. No error is below 0 or above 100%:
    bands end there.

    Args:
      paths: paths of an instability analysis, with the column alpha.
      at: step or steps k from which the copies part, or None for all.
      metric: "error" (in percent) or "loss", or either with "_recomputed".
      samples: whether to draw a thin line per seed and pair too.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      level: level of all lines but "dense", or None for the sparsest in common.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is α.

    Raises:
      ValueError: if the table is unusable, or a branch, level, step, split or metric is unknown.

    Reference: Frankle's thesis, section 4.1 and figures 4-2, 4-6, 4-14 and 4-22 to 4-24.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    _check.flag("samples", samples)
    rows = select("paths", paths, split, metric, "pair", "alpha")
    # a float32 0.1 and a float64 0.1 are one place
    rows = rows.assign(alpha=rows["alpha"].astype(float).round(6))
    lines = _table.branch_lines(rows, branches, level)
    steps = _table.chosen_steps(rows, at)
    one_of_several = len(steps) < len(set(rows["at"]))
    said = _table.left_out(rows, lines, branches, level)
    rows, within = where(rows, at=steps), _table.possible(metric, rows)
    parts = {line.label: line.rows(rows) for line in lines}
    if several := len(steps) > 1:
        series = _panel.shaded_series(parts, "at", steps, "alpha", band, within=within)
    else:
        series = [
            Series(line.label, spread(own, "alpha", band, within), line.color, line=line.line)
            for line in lines
            if len(own := line.rows(rows))
        ]
    top = _table.greatest(metric)
    thin = _samples(lines, rows, steps) if samples else []
    bars = _thresholds(series) if metric in _table.IN_ERROR else []

    def under(ax: Axes) -> None:
        for color, place in bars:
            _panel.threshold(ax, place, "_threshold", color, _panel.DOTS)
        for color, one in thin:
            look = ax.plot(one["alpha"], one["value"], label="_sample", color=color, zorder=2.5)
            look[0].set(linewidth=0.5, alpha=0.5)

    def x_axis(ax: Axes) -> None:
        # beyond 1 where the path is bent
        last = float(column(rows, "alpha").max())
        ticks = [0, 0.25, 0.5, 0.75, 1] if last <= 1 else range(int(last) + 1)
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.set(xlabel=r"Interpolation $\alpha$", xlim=(0, last))

    every = [*reach(series), *(place for _, place in bars)]
    shown = [value for one in series for value in one.column("mean")]
    shown += [value for _, one in thin for value in one["value"]]
    of_step = f"$k$ = {_axes.step_name(steps[0])}" if one_of_several else None
    whose = "" if len(series) == 1 else ", same color"
    dots = Line2D([], [], label=f"mean of ends + {_panel.STABLE:g} points{whose}")
    dots.set(color="0.15", linewidth=0.9, linestyle=_panel.DOTS)
    return line_figure(
        ax, series, band, x_axis=x_axis, ylabel=metric_label(metric, split, paths),
        ylim=ylim or _around(every, shown, top), corner="upper right", legend=legend, under=under,
        entries=(lambda: _panel.step_entries(steps, list(parts))) if several else None,
        title=_panel.only(list(parts)) if several else of_step, more=[dots] if bars else [],
        left_out=said,
    )  # fmt: skip


def throughout(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "barrier",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the barrier between two copies during training: one line per step k at which they part.

    Levels and bands as in `instability`.

    Args:
      table: instability throughout training, with the column step.
      at: step or steps k, or None for all.
      branches: lines to draw: "dense" (level 0) and branches (up to four line styles), or None for
        all.
      metric: "barrier" (in points), "loss_barrier", "error" (in percent) or "loss".
      ax: axes to draw on, or None for a new figure.
      level: level of all lines but "dense", or None for the sparsest in common.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the training step, y as in `instability`.

    Raises:
      ValueError: if the table is unusable, or a branch, level, step, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-5 and 4-21.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    rows = select("table", table, split, metric, "pair", "step")
    lines = _table.branch_lines(rows, branches, level)
    parts = {line.label: line.rows(rows) for line in lines}
    steps = _table.chosen_steps(rows, at)
    within = _table.possible(metric, rows)
    series = _panel.shaded_series(parts, "at", steps, "step", band, within=within)
    return line_figure(
        ax, series, band,
        x_axis=lambda ax: _axes.training_axis(ax, _panel.all_x(series), room=1.02),
        ylabel=metric_label(metric, split, table), ylim=ylim, corner="upper right", legend=legend,
        stable=metric.startswith("barrier"), most=_table.greatest(metric),
        entries=lambda: _panel.step_entries(steps, list(parts)), title=_panel.only(list(parts)),
        left_out=_table.left_out(rows, lines, branches, level),
    )  # fmt: skip


def plane(
    grid: pd.DataFrame,
    ax: Axes | None = None,
    *,
    points: Mapping[str, tuple[float, float]],
    split: str = "test",
    metric: str = "error",
    contours: int = 12,
    colorbar: bool | None = None,
) -> Axes:
    """Plot error or loss over the plane through three networks, as filled contours.

    Losses that span more than a factor of 30 have contours at even ratios. Places that are not
    finite are white.

    Args:
      grid: tidy table of a regular grid: x, y, split, metric, value.
      points: places of the networks, such as {"init": (0, 0), "copy 1": (9, 0), "copy 2": (4, 8)}.
      metric: "error" (in percent) or "loss".
      contours: about how many levels.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      colorbar: whether to draw a color bar, or None to draw one where there is room.

    Returns:
      The axes; x and y are distances of weights in the plane, at the same scale.

    Raises:
      ValueError: if the table is unusable or no regular grid of at least 2 × 2 places, or a point
        is outside it.

    Reference: Frankle's thesis, figure 4-1 (the diagram that this measures).
    """
    if colorbar is not None:
        _check.flag("colorbar", colorbar)
    contours = _check.whole("contours", contours, 2)
    rows = select("grid", grid, split, metric, common=("x", "y"))
    x, y, values = _surfaces.regular("grid", rows)
    if not points:
        raise ValueError("`points` is empty; name at least one network and its place (x, y)")
    for name, place in points.items():
        if not (x[0] <= place[0] <= x[-1] and y[0] <= place[1] <= y[-1]):
            raise ValueError(
                f"`points` has {name!r} at {tuple(map(float, place))}, outside the grid: x from "
                f"{x[0]:g} to {x[-1]:g}, y from {y[0]:g} to {y[-1]:g}; widen the grid"
            )
    with panel(ax) as shown:
        _surfaces.filled(
            shown, x, y, values, metric=metric, label=metric_label(metric, split, grid),
            contours=contours, colorbar=_style.wants_colorbar(ax) if colorbar is None else colorbar,
        )  # fmt: skip
        shown.set(xlabel="$x$ ($L_2$ distance)", ylabel="$y$ ($L_2$ distance)")
        for name, place in points.items():
            _network(shown, name, place)
    return shown


def _network(ax: Axes, name: str, place: tuple[float, float]) -> None:
    """Draw a marker whose label stays inside the axes and is readable on any color."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across = -1 if place[0] > left + 0.7 * (right - left) else 1
    up = -1 if place[1] > bottom + 0.85 * (top - bottom) else 1
    x, y = place
    _panel.marks(ax, [x], [y], _panel.Mark("o", 1.0, "white", 5.5), "0.1", name)
    text = ax.annotate(
        name,
        place,
        (5 * across, 5 * up),
        textcoords="offset points",
        ha="left" if across > 0 else "right",
        va="bottom" if up > 0 else "top",
        zorder=5,
    )
    text.set_path_effects([patheffects.withStroke(linewidth=2.0, foreground="white")])


def _samples(
    lines: Sequence[_table.Line], rows: pd.DataFrame, steps: Sequence[int]
) -> list[tuple[ColorType, pd.DataFrame]]:
    """Give the color and the rows of every seed and pair of `path`."""
    colors = _panel.shades(steps)
    found = []
    for line in lines:
        for _, one in line.rows(rows).groupby(["at", "seed", "pair"], observed=True):
            color = colors[int(column(one, "at")[0])] if len(steps) > 1 else line.color
            found.append((color, one.sort_values(by="alpha")))
    return found


def _thresholds(series: Sequence[Series]) -> list[tuple[ColorType, float]]:
    """Give color and height of the lines "mean of both ends + 2 points", one for each line or none.

    None where their colors do not tell whose they are.
    """
    places = []
    if len({one.color for one in series}) < len(series) or len(series) > THRESHOLDS:
        return places
    for one in series:
        x, ends = one.column("x"), one.column("mean")[[0, -1]]
        # a part of a line has no ends
        if x[0] == 0 and x[-1] >= 1 and np.isfinite(ends).all():
            places.append((one.color, float(ends.mean()) + _panel.STABLE))
    return places


def _around(every: Sequence[float], shown: Sequence[float], most: float) -> tuple[float, float]:
    """Compute limits that show all means and samples, and bands in [0, most] with a small margin.

    Raises:
      ValueError: if no value is finite.
    """
    finite, lines = ([one for one in values if math.isfinite(one)] for values in (every, shown))
    if not lines:
        raise ValueError("`table` has no finite value to draw: every copy diverged")
    bottom, top = min([*finite, *lines]), max([*finite, *lines])
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1.0
    bottom = max(bottom - margin, min(-0.6 * margin, min(lines) - margin))
    return bottom, min(top + margin, max(most + 0.6 * margin, max(lines) + margin))
