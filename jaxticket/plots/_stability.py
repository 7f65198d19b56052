"""Barriers, errors and distances of copies that part at step k, against k."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import (
    Series,
    band_entries,
    labeled,
    line_figure,
    notes,
    place_legend,
    reach,
    text_entry,
)
from jaxticket.plots._table import Band, check_options, column, metric_label, select, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd


def instability(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "barrier",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the barrier between copies that part at step k, against k: one line per branch.

    barrier = max over α of e(α) - (e(0) + e(1)) / 2

    Lines are means over samples (seeds × pairs of copies), at one level each: the legend states
    its density, and names those that are not drawn. A network is stable below the dashed line at 2
    points. No barrier is below 0, since the ends are among the points: bands end there. Open
    markers: some samples diverged, the mean is over the others; a cross at the lower edge: all did.
    Steps are at even distances, not to scale, but the coordinates of the axis are steps.

    Args:
      table: tidy table of an instability analysis, one row per value.
      metric: "barrier" (in points) or "loss_barrier", or either with "_recomputed".
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      level: level of all lines but "dense", or None for the sparsest in common.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, section 4.1 and figures 4-3, 4-15 and 4-19.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    _, series, said = _against_k("table", table, "pair", branches, level, split, metric, band)
    return line_figure(
        ax, series, band, x_axis=_steps(series), ylabel=metric_label(metric, split, table),
        ylim=ylim, corner="upper right", legend=legend, stable=metric.startswith("barrier"),
        left_out=said, most=_table.greatest(metric),
    )  # fmt: skip


def error(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    dense: pd.DataFrame | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    metric: str = "error",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the final error of copies against the step k at which they part.

    The gray line and band across are the mean and standard deviation of the dense network, over its
    seeds and copies at the earliest step k. A network is matching below the dashed line, 0.2 points
    above that mean. Levels and markers as in `instability`; no error is outside 0 to 100%.

    Args:
      table: `copies` of an instability analysis (a row per copy), or its table (a row per pair).
      dense: a table of the same kind with the dense network, if `table` does not contain it.
      branches: lines to draw, or None for all but the dense network.
      level: level of the branches, or None for the sparsest in common.
      metric: "error" (in percent) or "loss".
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if a table is unusable, there is no dense network, or a branch, level, split or
        metric is unknown.

    Reference: Frankle's thesis, figures 4-16, 4-17, 4-20, 4-28 and 4-30.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    series, said = _error_series(table, branches, level, split, metric, band)
    bar, label = dense_error(table, dense, split, metric)
    return _error_figure(
        ax, series, band, x_axis=_steps(series), ylabel=metric_label(metric, split, table),
        ylim=ylim, legend=legend, bar=bar, label=label, left_out=said,
        margin=_panel.MATCHING if metric in _table.IN_ERROR else 0.0,
    )  # fmt: skip


def distance(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "l2",
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str | None = None,
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot any distance between copies that part at step k, against k: one line per branch.

    Args:
      table: tidy table of an instability analysis.
      metric: "l2", "cosine", "disagreement", "disagreement_share" (in percent), "loss_l2", ...
      split: split of the data; None for "weights" if the table has the metric there, else "test".
      ylim: limits, or None for those from 0 on.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      level: level of all lines but "dense", or None for the sparsest in common.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      legend: whether to draw a legend.

    Returns:
      The axes; x is the step k. Levels and markers as in `instability`.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-7 to 4-12, 4-25 and 4-26.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    check_table(table, (*_table.COMMON, "pair", "split", "metric", "value"), remedy=_table.ANALYSIS)
    if split is None:
        split = "weights" if len(where(table, metric=metric, split="weights")) else "test"
    _, series, said = _against_k("table", table, "pair", branches, level, split, metric, band)
    return line_figure(
        ax, series, band, x_axis=_steps(series), ylabel=metric_label(metric, split, table),
        ylim=ylim or (0, _panel.from_zero(series)[1]), corner="lower left", legend=legend,
        left_out=said,
    )  # fmt: skip


def distances_at_rewinding(
    states: pd.DataFrame,
    copies: pd.DataFrame,
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot how far training goes before step k and after it, and how far apart the copies end.

    The L2 distances of masked weights: initialization to k (circles), k to the end (crosses), and
    between two copies at the end (triangles). Colors tell branches.

    Args:
      states: states of an instability analysis, with the metric "l2_from_init".
      copies: its copies, with the metric "l2_from_k".
      table: its table, with the metric "l2".
      ylim: limits, or None for those from 0 on.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      level: level of all lines but "dense", or None for the sparsest in common.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      legend: whether to draw a legend.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if a table is unusable, or a branch or level is not in all three.

    Reference: Frankle's thesis, section 4.3 and figures 4-32 and 4-33.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    kinds = (
        ("states", states, (), "l2_from_init", "o", "initialization to $k$"),
        ("copies", copies, ("copy",), "l2_from_k", "x", "$k$ to the end"),
        ("table", table, ("pair",), "l2", "^", "between the copies"),
    )
    rows = {
        name: select(name, one, "weights", metric, *keys) for name, one, keys, metric, *_ in kinds
    }
    lines = _table.branch_lines(rows["table"], branches, level)
    series = []
    for argument, _, _, metric, marker, _ in kinds:
        for line in lines:
            own = line.rows(rows[argument])
            if own.empty:
                raise ValueError(
                    f"`{argument}` has nothing of branch {line.branch!r} at level {line.level}, "
                    "`table` has; name other `branches`, or pass the tables of one analysis"
                )
            points = spread(own, "at", band, _table.possible(metric, own))
            series.append(Series(f"_{line.label} {metric}", points, line.color, marker, line.line))
    alone = len(lines) == 1

    def entries() -> list[Line2D]:
        color = lines[0].color if alone else "0.3"
        marks = [
            Line2D([], [], color=color, marker=marker, label=label) for *_, marker, label in kinds
        ]
        named = [] if alone else lines
        return marks + [
            Line2D([], [], color=line.color, linestyle=line.line, label=line.label)
            for line in named
        ]

    return line_figure(
        ax, series, band, x_axis=_steps(series), ylabel="$L_2$ distance of weights",
        ylim=ylim or (0, _panel.from_zero(series)[1]), corner="upper right", legend=legend,
        entries=entries, title=lines[0].label if alone else None,
        left_out=_table.left_out(rows["table"], lines, branches, level),
    )  # fmt: skip


def stable_and_matching(
    table: pd.DataFrame,
    copies: pd.DataFrame | None = None,
    axes: Sequence[Axes] | None = None,
    *,
    dense: pd.DataFrame | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    band: Band = "std",
    legend: bool = True,
) -> tuple[Axes, Axes]:
    """Plot two panels over the same steps k: the barrier (left) and the final error (right).

    Networks that are stable, below 2 points on the left, should be matching on the right: within
    0.2 points of the dense network. Levels and bands as in `instability`.

    Args:
      table: tidy table of an instability analysis.
      copies: its copies, for the errors, or None to take them from `table`.
      axes: two axes to draw on, or None for a new figure.
      dense: a table like `copies` with the dense network, if `copies` does not contain it.
      branches: lines to draw: "dense" (level 0; on the right it is the band across) and branches,
        or None for all.
      legend: whether to draw legends.
      level: level of all lines but "dense", or None for the sparsest in common.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".

    Returns:
      Both axes.

    Raises:
      ValueError: if a table is unusable, there is no dense network, `axes` is not two axes, or a
        branch, level or split is unknown.

    Reference: Frankle's thesis, section 4.2 and figures 4-15 and 4-16.
    """
    check_options(legend=legend, band=band)
    errors = table if copies is None else copies
    lines, barriers, said = _against_k(
        "table", table, "pair", branches, level, split, "barrier", band
    )
    names = None if branches is None else _check.texts("branches", branches, like='["shuffle"]')
    others = None if names is None else [name for name in names if name != "dense"] or None
    # the same level on both sides, whatever else the tables contain
    level = next(
        (line.level for line in lines if (line.branch, line.level) != _table.DENSE_LINE), level
    )
    finals, _ = _error_series(errors, others, level, split, "error", band)
    bar, label = dense_error(errors, dense, split, "error")
    steps = _steps([*barriers, *finals])
    # of both panels
    more = [*band_entries([*barriers, *finals], band, "copies"), *map(text_entry, said)]
    with _style.style():
        new = axes is None
        if axes is None:
            figure = pyplot.figure(figsize=(7.4, 3.4), dpi=_style.DPI, layout="constrained")
            axes = list(figure.subplots(1, 2))
        given = list(np.ravel(np.asarray(axes, object)))
        if len(given) != 2 or not all(isinstance(ax, Axes) for ax in given):
            raise ValueError(f"`axes` must be two matplotlib Axes or None, got {axes!r}")
        left = line_figure(
            given[0], barriers, band, x_axis=steps, ylabel=metric_label("barrier", split, table),
            ylim=_panel.from_zero(barriers, least=1.5 * _panel.STABLE, most=100.0),
            corner="upper right", legend=False, stable=True,
        )  # fmt: skip
        right = _error_figure(
            given[1], finals, band, x_axis=steps, ylabel=metric_label("error", split, errors),
            ylim=None, legend=False, bar=bar, label=label, margin=_panel.MATCHING,
        )  # fmt: skip
        # what is said of copies that diverged comes below, of both panels together or of each
        of_left, of_right = (
            [one for one in labeled(ax) if one.get_gid() != _panel.ENTRY] for ax in (left, right)
        )
        if legend and new:
            every = [*of_left, *of_right, *more, *notes([*barriers, *finals])]
            entries = {str(one.get_label()): one for one in every}
            # above, because a caption is below
            left.figure.legend(handles=list(entries.values()), loc="outside upper center", ncols=3)
        elif legend:
            place_legend(left, [*of_left, *more, *notes(barriers)], corner="upper right")
            known = {one.get_label() for one in of_left}
            entries = [one for one in of_right if one.get_label() not in known]
            place_legend(right, entries + notes(finals), corner="upper right")
    return left, right


def dense_error(
    table: pd.DataFrame, dense: pd.DataFrame | None, split: str, metric: str
) -> tuple[tuple[float, float, float], str]:
    """Compute the mean error of the dense network at its earliest k, and mean ± std.

    The mean is over seeds and copies.

    Returns:
      The three numbers, and their label, which names k where there are several.

    Raises:
      ValueError: if there is no dense network, or all of it diverged.
    """
    argument, source = ("table", table) if dense is None else ("dense", dense)
    rows = select(argument, source, split, metric, _sample(argument, source))
    found = where(rows, branch="ticket", level=0)
    if found.empty:
        raise ValueError(
            f"`{argument}` has no dense network (branch 'ticket', level 0) to compare with; "
            "analyze level 0 too, and pass it here or as `dense`"
        )
    steps = np.unique(column(found, "at"))
    bar = _table.dense_spread(where(found, at=steps[0]), argument, _table.possible(metric, found))
    at = f" at $k$ = {_axes.step_name(steps[0])}" if len(steps) > 1 else ""
    return bar, f"dense{at}, mean ± std"


def _against_k(
    argument: str,
    table: pd.DataFrame,
    sample: str,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Band,
) -> tuple[list[_table.Line], list[Series], list[str]]:
    """Give the lines of a figure against k, and their series, in the order of the legend.

    With them comes what the legend says of levels and branches that are left out. The column
    `sample`, "pair" or "copy", tells samples of a seed apart.
    """
    rows = select(argument, table, split, metric, sample)
    lines = _table.branch_lines(rows, branches, level)
    within = _table.possible(metric, rows)
    series = [
        Series(
            line.label, spread(line.rows(rows), "at", band, within), line.color, line.marker,
            line.line,
        )
        for line in lines
    ]  # fmt: skip
    return lines, series, _table.left_out(rows, lines, branches, level)


def _error_series(
    table: pd.DataFrame,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Band,
) -> tuple[list[Series], list[str]]:
    """Give series of final errors, of the dense network only if asked for or if it is alone.

    With them comes what the legend says of that which is left out.
    """
    sample = _sample("table", table)
    lines, series, said = _against_k("table", table, sample, branches, level, split, metric, band)
    pairs = zip(lines, series, strict=True)
    sparse = [one for line, one in pairs if (line.branch, line.level) != _table.DENSE_LINE]
    return (sparse if branches is None and sparse else series), said


def _sample(argument: str, table: pd.DataFrame) -> str:
    """Give the column that tells samples of a seed apart: copies, pairs, or states (one a seed)."""
    check_table(table, _table.COMMON, argument=argument, remedy=_table.ANALYSIS)
    return next((name for name in ("copy", "pair") if name in table.columns), "seed")


def _steps(series: Sequence[Series]) -> Callable[[Axes], None]:
    """Give the function that makes x an axis of the steps k of the series."""

    def x_axis(ax: Axes) -> None:
        _axes.step_axis(ax, _panel.all_x(series), _axes.STEP)

    return x_axis


def _error_figure(
    ax: Axes | None,
    series: Sequence[Series],
    band: Band,
    *,
    x_axis: Callable[[Axes], None],
    ylabel: str,
    ylim: tuple[float, float] | None,
    legend: bool,
    bar: tuple[float, float, float],
    label: str,
    margin: float,
    left_out: Sequence[str] = (),
) -> Axes:
    """Draw final errors with the dense network's across, and the margin that is matching if any."""
    above = bar[0] + margin
    matching = f"matching: at most {margin:g} points above"
    return line_figure(
        ax, series, band, x_axis=x_axis, ylabel=ylabel, corner="upper right", legend=legend,
        ylim=ylim or _axes.limits([*reach(series), *bar, above], what="copy"), left_out=left_out,
        under=lambda ax: _panel.dense_band(ax, *bar, label),
        over=(lambda ax: _panel.threshold(ax, above, matching)) if margin else None,
    )  # fmt: skip
