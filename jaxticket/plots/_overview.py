"""What was measured of methods: by density, and all of it on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from jaxticket import _check
from jaxticket.analysis.criteria import CRITERIA, Criterion
from jaxticket.plots import _axes, _panel, _table
from jaxticket.plots._panel import Series, line_figure
from jaxticket.plots._style import (
    DPI,
    branch_order,
    branch_styles,
    has_layout,
    panel,
    percent,
    style,
)
from jaxticket.plots._table import Band, check_options, column, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("branch", "level", "density", "seed", "metric", "value")
ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
# inches of a cell, and of what is around them
CELL = (1.02, 0.36)
AROUND = (1.9, 1.2)
GRAY = "0.93"
# the colors of ranks, light enough for black text
COLORS = "YlGnBu"
DEEPEST = 0.5


def measured(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str,
    index: int = 0,
    branches: Sequence[str] | None = None,
    criterion: Criterion | None = None,
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot a number that was measured against density: a line per branch, dense across.

    Args:
      table: what `jt.measure` gave, with branches named after methods. Level 0 of "ticket" is the
        dense network.
      ax: axes to draw on, or None for a new figure.
      metric: which number.
      index: which entry, of a metric that is an array; the label of the axis says which.
      branches: names of the lines to draw, in this order, or None for all.
      criterion: how the axis is named and whether it is in percent; what `jt.CRITERIA` knows of the
        metric if None.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      ylim: limits of y, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is density in percent on a reversed log axis.

    Raises:
      ValueError: if the table is unusable, or a metric or branch is unknown.

    Reference: KD-LTS, figures 16 and 32.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    _check.whole("index", index)
    known = CRITERIA.get(str(metric)) if criterion is None else criterion
    if known is not None:
        _check.instance("criterion", known, Criterion, "a jt.Criterion, or None")
    check_table(table, COLUMNS, remedy="pass what jt.measure returns")
    names = _table.names_of(table, "metric")
    if metric not in names:
        raise ValueError(f"`metric` {metric!r} is not in `table`; {_check.nearest(metric, names)}")
    rows = where(table, metric=metric)
    entry = ""
    if "index" in rows.columns:
        entry = f", entry {index}" if len(set(rows["index"])) > 1 else ""
        rows = where(rows, index=index)
    rows = _table.once(rows, ("branch", "level", "seed"), "value", remedy="keep one split")
    if known is not None and known.percent:
        rows = rows.assign(value=100 * column(rows, "value"))
    is_dense = (rows["branch"] == "dense") | (rows["branch"] == "ticket") & (rows["level"] == 0)
    dense, pruned = rows.loc[is_dense], _table.with_density(rows.loc[~is_dense])
    if pruned.empty:
        raise ValueError("`table` has dense networks alone; add those of some method")
    looks = branch_styles(branch_order(_table.names_of(pruned), branches))
    # differences of shares may be negative
    share = known is not None and known.percent and known.unit == "%"
    within = _table.possible(str(metric), rows, in_percent=share)
    series = [
        Series(look.label, spread(where(pruned, branch=name), "x", band, within), look.color,
               look.marker, look.line)
        for name, look in looks.items()
    ]  # fmt: skip
    across = None if dense.empty else _table.dense_spread(dense, "table", within)
    if ylim is None:
        ylim = _axes.limits([*_panel.reach(series), *(across or ())], what="network")
    return line_figure(
        ax, series, band, x_axis=lambda ax: _axes.density_axis(ax, column(pruned, "x") / 100),
        ylabel=_capital(metric.replace("_", " ")) + entry if known is None
        else _axis_label(known, entry),
        ylim=ylim,
        corner="upper left", legend=legend, what="seeds",
        over=(lambda ax: _panel.dense_band(ax, *across)) if across else None,
    )  # fmt: skip


def overview(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    criteria: Sequence[str | Criterion] | None = None,
    methods: Sequence[str] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot a page on methods: a row for each, a column for each criterion.

    Cells have the mean over seeds and its standard deviation. The darker a cell, the better its
    rank among the methods; numbers are bold where no other method is better by a clear gap, see
    `jt.overview`. The dense network is there to compare with, in gray. Arrows point to where better
    is. Methods with a verdict have a mark: a check where it is a winning ticket, else a cross.

    Args:
      table: what `jt.overview(..., measures=...)` gave.
      ax: axes to draw on, or None for a new figure, which is as large as the table needs.
      criteria: columns to draw, in this order: names in `jt.CRITERIA`, or the `jt.Criterion`
        objects that `jt.overview` was given. None for all names in `jt.CRITERIA` that are columns.
      methods: rows to draw, from the top, or None for all.
      legend: whether to explain colors below the page (only where a layout engine makes room).

    Returns:
      The axes; cells are centered at (criterion, method) = (0, 0), (1, 0) and so on, from the top.

    Raises:
      ValueError: if the table is unusable, or a method or criterion is unknown.
    """
    check_options(legend=legend)
    remedy = "pass what jt.overview(..., measures=...) returns"
    check_table(table, ("method", "density", "best"), remedy=remedy)
    asked = _criteria(table, criteria)
    table = _table.once(table, ("method",), asked[0].metric)
    names = branch_order(_table.names_of(table, "method"), methods, argument="methods")
    if methods is None:
        names.sort(key=lambda name: name != "dense")
    rows = {str(one["method"]): one for one in _table.records(where(table, method=names))}
    ranks = {one.metric: _ranks({name: rows[name][one.metric] for name in names}, one)
             for one in asked}  # fmt: skip
    looks = branch_styles(names)
    labels = [_row_label(looks[name].label, rows[name], name) for name in names]
    heads = [_head(one) for one in asked]
    colors = matplotlib.colormaps[COLORS]
    shape = len(asked), len(names)
    with style():
        if ax is None:
            wide, high = (around + n * cell for around, n, cell in
                          zip(AROUND, shape, CELL, strict=True))  # fmt: skip
            ax = pyplot.subplots(figsize=(wide, high), dpi=DPI, layout="constrained")[1]
    with panel(ax) as ax:
        _axes.cell_axes(ax, heads, labels)
        ax.tick_params(top=False, labeltop=True, bottom=False, labelbottom=False)
        for i, name in enumerate(names):
            best = str(rows[name]["best"]).split(", ")
            for j, one in enumerate(asked):
                rank, count = ranks[one.metric].get(name, (0, 0))
                share = 1 - (rank - 1) / max(1, count - 1) if count else 0
                face = colors(DEEPEST * share) if count else GRAY
                if not np.isfinite(rows[name][one.metric]):
                    face = "white"
                text = _written(rows[name], one)
                cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=face, edgecolor="white")
                ax.add_patch(cell).set_linewidth(1.5)
                ax.text(
                    j, i, text, ha="center", va="center", fontsize=6.5 if "±" in text else 7.5,
                    fontweight="bold" if one.metric in best else "normal",
                )  # fmt: skip
        if legend and has_layout(ax):
            entries = [
                Patch(facecolor=colors(DEEPEST), label="first in rank"),
                Patch(facecolor=colors(0.0), edgecolor="0.85", label="last"),
                Patch(facecolor="none", label="bold: no method is clearly better"),
            ]
            _panel.place_legend(ax, entries, corner="lower left")
    return ax


def _criteria(
    table: pd.DataFrame, criteria: Sequence[str | Criterion] | None
) -> tuple[Criterion, ...]:
    """The columns to draw."""
    if criteria is None:
        found = tuple(one for name, one in CRITERIA.items() if name in table.columns)
        if found:
            return found
        raise ValueError(
            f"`table` has no column of jt.CRITERIA, only {list(table.columns)}; pass what "
            "jt.overview(..., measures=...) returns, with criteria=... where these are your own"
        )

    def known(argument: str, value: object) -> Criterion:
        one = value
        if not isinstance(one, Criterion):
            one = CRITERIA[_check.one_of(argument, _check.text(argument, one), tuple(CRITERIA))]
        if one.metric not in table.columns:
            raise ValueError(
                f"`{argument}` has {one.metric!r}, `table` does not; "
                f"{_check.nearest(one.metric, [str(name) for name in table.columns])}"
            )
        return one

    return _check.several("criteria", criteria, known, like="('ece', 'nll')", distinct=True)


def _ranks(values: dict[str, float], criterion: Criterion) -> dict[str, tuple[int, int]]:
    """The rank of each method, 1 for the best, and how many there are; equal means share one."""
    ranked = {
        name: criterion.sign * value
        for name, value in values.items()
        if name != "dense" and np.isfinite(value)
    }
    return {
        name: (1 + sum(other > value for other in ranked.values()), len(ranked))
        for name, value in ranked.items()
    }


def _written(row: dict[str, float], criterion: Criterion) -> str:
    """The mean and its deviation, to the digits that the deviation leaves."""
    factor = 100 if criterion.percent else 1
    mean = factor * row[criterion.metric]
    deviation = factor * row.get(f"{criterion.metric}_std", math.nan)
    if not np.isfinite(mean):
        return "–"
    if abs(mean) >= 1e5 or 0 < abs(mean) < 1e-3:
        return f"{mean:.2e}" + (f"\n± {deviation:.0e}" if np.isfinite(deviation) else "")
    # two digits of the deviation, or three of the mean
    of, digits = (deviation, 2) if np.isfinite(deviation) and deviation > 0 else (mean, 3)
    places = digits - 1 - math.floor(math.log10(abs(of))) if of else 2
    # no more than four digits of the mean
    most = 3 - math.floor(math.log10(abs(mean))) if mean else 4
    places = max(0, min(places, most, 4))
    text = f"{mean:.{places}f}".replace("-", "\N{MINUS SIGN}")
    return text + (f" ± {deviation:.{places}f}" if np.isfinite(deviation) else "")


def _head(criterion: Criterion) -> str:
    """The head of a column: name, unit and the direction that is better."""
    words = _capital(criterion.label).split()
    half = (len(words) + 1) // 2 if len(words) > 1 else 1
    lines = [" ".join(words[:half]), " ".join(words[half:])]
    unit = f", {criterion.unit}" if criterion.unit else ""
    text = "\n".join(line for line in lines if line)
    return f"{text}{unit} {ARROWS[criterion.better]}"


def _row_label(label: str, row: dict[str, object], name: str) -> str:
    """The name of a method with its density, and the mark of its verdict."""
    share = "" if name == "dense" else f", {percent(float(str(row['density'])))}%"
    wins = row.get("wins")
    if isinstance(wins, bool | np.bool_):
        share += " ✓" if wins else " ✗"
    return label + share


def _axis_label(criterion: Criterion, entry: str) -> str:
    unit = f" ({criterion.unit})" if criterion.unit else ""
    return f"{_capital(criterion.label)}{entry}{unit}\n({criterion.better} is better)"


def _capital(label: str) -> str:
    # mCE stays as it is
    first = label.split()[0]
    return label if first[1:] != first[1:].lower() else label[:1].upper() + label[1:]
