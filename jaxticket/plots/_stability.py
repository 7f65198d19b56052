"""Barriers, errors and distances of copies that part at step k, against k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import Series, draw, labeled, notes, place_legend, reach
from jaxticket.plots._style import panel
from jaxticket.plots._table import Band, check_options, column, select, spread, where
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

    Lines are means over samples (seeds × pairs of copies). A network is stable below the dashed
    line at 2 points. Barriers below 0 are impossible: that region is shaded. Open markers: some
    samples diverged, the mean is over the others; a cross at the lower edge: all did. Steps are at
    even distances, but the coordinates of the axis are steps.

    Args:
      table: tidy table of an instability analysis, one row per value.
      metric: "barrier" (in percent) or "loss_barrier", or either with "_recomputed".
      ax, branches, level, split, band, ylim, legend: as in all figures, see `jt.plots`.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, section 4.1 and figures 4-3, 4-15 and 4-19.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    _, series = _against_k("table", table, "pair", branches, level, split, metric, band)
    in_error = metric.startswith("barrier")
    with panel(ax) as ax:
        _draw_barriers(ax, series, band, ylim, in_error)
        _step_axis(ax, series)
        ax.set_ylabel(_table.metric_label(metric, split, table))
        if legend:
            place_legend(ax, labeled(ax) + notes(series), corner="upper right")
        _axes.impossible(ax, above=100.0 if in_error else None)
    return ax


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
    above that mean. Markers as in `instability`.

    Args:
      table: `copies` of an instability analysis (a row per copy), or its table (a row per pair).
      dense: a table of the same kind with the dense network, if `table` does not contain it.
      branches: lines to draw, or None for all but the dense network.
      level: level of the branches, or None for the sparsest in common.
      metric: "error" (in percent) or "loss".
      ax, split, band, ylim, legend: as in all figures, see `jt.plots`.

    Returns:
      The axes; x is the step k.

    Raises:
      ValueError: if a table is unusable, there is no dense network, or a branch, level, split or
        metric is unknown.

    Reference: Frankle's thesis, figures 4-16, 4-17, 4-20, 4-28 and 4-30.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    series = _error_series(table, branches, level, split, metric, band)
    bar = dense_error(table, dense, split, metric)
    in_error = metric in _table.IN_ERROR
    with panel(ax) as ax:
        _draw_errors(ax, series, bar, band, ylim, in_error)
        _step_axis(ax, series)
        ax.set_ylabel(_table.metric_label(metric, split, table))
        if legend:
            place_legend(ax, labeled(ax) + notes(series), corner="upper right")
        _axes.impossible(ax, above=100.0 if in_error else None)
    return ax


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
      ax, branches, level, band, legend: as in all figures, see `jt.plots`.

    Returns:
      The axes; x is the step k. Markers as in `instability`.

    Raises:
      ValueError: if the table is unusable, or a branch, level, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-7 to 4-12, 4-25 and 4-26.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    check_table(table, (*_table.COMMON, "pair", "split", "metric", "value"), remedy=_table.ANALYSIS)
    if split is None:
        split = "weights" if len(where(table, metric=metric, split="weights")) else "test"
    _, series = _against_k("table", table, "pair", branches, level, split, metric, band)
    with panel(ax) as ax:
        draw(ax, series, band)
        _step_axis(ax, series)
        ax.set(
            ylabel=_table.metric_label(metric, split, table),
            ylim=ylim or (0, _panel.from_zero(series)[1]),
        )
        if legend:
            place_legend(ax, labeled(ax) + notes(series), corner="lower left")
    return ax


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
      ax, branches, level, band, legend: as in all figures, see `jt.plots`.

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
            points = spread(own, "at", band)
            series.append(Series(f"_{line.label} {metric}", points, line.color, marker))
    alone = len(lines) == 1
    with panel(ax) as ax:
        draw(ax, series, band)
        _step_axis(ax, series)
        ax.set(ylabel="$L_2$ distance of weights", ylim=ylim or (0, _panel.from_zero(series)[1]))
        color = lines[0].color if alone else "0.3"
        entries = [
            Line2D([], [], color=color, marker=marker, label=label) for *_, marker, label in kinds
        ]
        if not alone:
            entries += [Line2D([], [], color=line.color, label=line.label) for line in lines]
        if legend:
            title = lines[0].label if alone else None
            place_legend(ax, entries + notes(series), corner="upper right", title=title)
    return ax


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
    0.2 points of the dense network.

    Args:
      table: tidy table of an instability analysis.
      copies: its copies, for the errors, or None to take them from `table`.
      axes: two axes to draw on, or None for a new figure.
      dense: a table like `copies` with the dense network, if `copies` does not contain it.
      branches: lines to draw: "dense" (level 0; on the right it is the band across) and branches,
        or None for all.
      legend: whether to draw legends.
      level, split, band: as in all figures, see `jt.plots`.

    Returns:
      Both axes.

    Raises:
      ValueError: if a table is unusable, there is no dense network, `axes` is not two axes, or a
        branch, level or split is unknown.

    Reference: Frankle's thesis, section 4.2 and figures 4-15 and 4-16.
    """
    check_options(legend=legend, band=band)
    errors = table if copies is None else copies
    lines, barriers = _against_k("table", table, "pair", branches, level, split, "barrier", band)
    names = None if branches is None else _check.texts("branches", branches, like='["shuffle"]')
    others = None if names is None else [name for name in names if name != "dense"] or None
    # the same level on both sides, whatever else the tables contain
    level = next(
        (line.level for line in lines if (line.branch, line.level) != _table.DENSE_LINE), level
    )
    finals = _error_series(errors, others, level, split, "error", band)
    bar = dense_error(errors, dense, split, "error")
    with _style.style():
        new = axes is None
        if axes is None:
            figure = pyplot.figure(figsize=(7.4, 3.4), dpi=_style.DPI, layout="constrained")
            axes = list(figure.subplots(1, 2))
        given = list(np.ravel(np.asarray(axes, object)))
        if len(given) != 2 or not all(isinstance(ax, Axes) for ax in given):
            raise ValueError(f"`axes` must be two matplotlib Axes or None, got {axes!r}")
        with panel(given[0]) as left, panel(given[1]) as right:
            _draw_barriers(left, barriers, band)
            left.set_ylabel(_table.metric_label("barrier", split, table))
            _draw_errors(right, finals, bar, band)
            right.set_ylabel(_table.metric_label("error", split, errors))
            for ax in (left, right):
                _step_axis(ax, [*barriers, *finals])
        if legend and new:
            every = [*labeled(left), *labeled(right), *notes([*barriers, *finals])]
            entries = {str(one.get_label()): one for one in every}
            # above, because a caption is below
            left.figure.legend(handles=list(entries.values()), loc="outside upper center", ncols=3)
        elif legend:
            place_legend(left, labeled(left) + notes(barriers), corner="upper right")
            said = {one.get_label() for one in labeled(left)}
            entries = [one for one in labeled(right) if one.get_label() not in said]
            place_legend(right, entries + notes(finals), corner="upper right")
        for ax in (left, right):
            _axes.impossible(ax, above=100.0)
    return left, right


def dense_error(
    table: pd.DataFrame, dense: pd.DataFrame | None, split: str, metric: str
) -> tuple[float, float, float]:
    """Compute the mean error of the dense network at its earliest k, and mean ± std.

    The mean is over seeds and copies.

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
    return _table.dense_spread(where(found, at=column(found, "at").min()), argument)


def _against_k(
    argument: str,
    table: pd.DataFrame,
    sample: str,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Band,
) -> tuple[list[_table.Line], list[Series]]:
    """Give the lines of a figure against k, and their series, in the order of the legend.

    The column `sample`, "pair" or "copy", tells samples of a seed apart.
    """
    rows = select(argument, table, split, metric, sample)
    lines = _table.branch_lines(rows, branches, level)
    series = [
        Series(line.label, spread(line.rows(rows), "at", band), line.color, line.marker)
        for line in lines
    ]
    return lines, series


def _error_series(
    table: pd.DataFrame,
    branches: Sequence[str] | None,
    level: int | None,
    split: str,
    metric: str,
    band: Band,
) -> list[Series]:
    """Give series of final errors, of the dense network only if asked for or if it is alone."""
    sample = _sample("table", table)
    lines, series = _against_k("table", table, sample, branches, level, split, metric, band)
    pairs = zip(lines, series, strict=True)
    sparse = [one for line, one in pairs if (line.branch, line.level) != _table.DENSE_LINE]
    return sparse if branches is None and sparse else series


def _sample(argument: str, table: pd.DataFrame) -> str:
    """Give the column that tells samples of a seed apart: copies, pairs, or states (one a seed)."""
    check_table(table, _table.COMMON, argument=argument, remedy=_table.ANALYSIS)
    return next((name for name in ("copy", "pair") if name in table.columns), "seed")


def _step_axis(ax: Axes, series: Sequence[Series]) -> None:
    """Make x an axis of the steps k of the series."""
    _axes.step_axis(ax, np.concatenate([one.column("x") for one in series]))
    ax.set_xlabel(_axes.STEP)


def _draw_barriers(
    ax: Axes,
    series: Sequence[Series],
    band: Band,
    ylim: tuple[float, float] | None = None,
    in_error: bool = True,
) -> None:
    """Draw barriers against k; in points of error, with the line below which they are stable."""
    draw(ax, series, band)
    if in_error:
        _panel.stable_line(ax)
    auto = (
        _panel.from_zero(series, least=1.5 * _panel.STABLE, most=100.0)
        if in_error
        else _panel.from_zero(series)
    )
    ax.set_ylim(ylim or auto)


def _draw_errors(
    ax: Axes,
    series: Sequence[Series],
    dense: tuple[float, float, float],
    band: Band,
    ylim: tuple[float, float] | None = None,
    in_error: bool = True,
) -> None:
    """Draw final errors against k and across the dense network's; in points, mark matching ones."""
    _panel.dense_band(ax, *dense)
    draw(ax, series, band)
    above = dense[0] + _panel.MATCHING if in_error else dense[0]
    if in_error:
        _panel.threshold(ax, above, f"matching: at most {_panel.MATCHING:g} points above")
    ax.set_ylim(ylim or _axes.limits([*reach(series), *dense, above], what="copy"))
