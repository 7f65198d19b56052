"""Densities of layers, and units that lose most of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _table
from jaxticket.plots._panel import (
    Series,
    band_entries,
    draw,
    labeled,
    line_figure,
    notes,
    place_legend,
    reach,
)
from jaxticket.plots._style import branch_order, branch_styles, panel
from jaxticket.plots._table import Band, check_options, column, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

# so many layers have room for their names (half as many for names longer than SHORT), and markers
NAMED, SHORT, MARKED = 20, 10, 40
# height of a row of triangles, as a share of the axes
ROW = 0.045
EMPTY, PARTLY = _panel.Mark("v", 0.8, size=4.2), _panel.Mark("v", 0.8, "white", 4.2)
# x ends where so many percent of units are below it
COUNTED = 99.5


def unit_collapse(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    band: Band = "std",
    xlim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the share of output units (neurons, channels) whose density is at most d, against d.

    Lines are means over seeds. The points at the left edge are units without any weight, which the
    network has lost.

    Args:
      table: a row per branch, seed and threshold d: branch, seed, threshold and share, both in
        [0, 1].
      xlim: limits of d in percent, or None to end where all units are counted.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      legend: whether to draw a legend.

    Returns:
      The axes; x is the density d of a unit in percent, y the share of units in percent.

    Raises:
      ValueError: if the table is unusable, or a branch is unknown.

    Reference: Frankle's thesis, figure 5-6 (with sparsities).
    """
    check_options(legend=legend, band=band)
    if xlim is not None and not (len(xlim) == 2 and 0 <= xlim[0] < xlim[1]):
        raise ValueError(f"`xlim` must be (low, high) with 0 <= low < high, or None, got {xlim!r}")
    remedy = "it needs a row for each branch, seed and threshold; see jt.layers.collapse"
    check_table(table, ("branch", "seed", "threshold", "share"), remedy=remedy)
    _table.check_shares(table, "threshold")
    _table.check_shares(table, "share", nan=True)
    # thresholds may come from a device that has float32
    rows = table.assign(threshold=(100 * column(table, "threshold")).round(5))
    rows = _table.once(rows, ("branch", "seed", "threshold"), "share")
    rows = rows.assign(value=100 * column(rows, "share"))
    series = []
    for name, look in branch_styles(branch_order(_table.names_of(rows), branches)).items():
        points = spread(where(rows, branch=name), "threshold", band, _table.SHARES)
        series.append(Series(look.label, points, look.color, look.marker, look.line))
    if not np.isfinite(reach(series)).any():
        raise ValueError("`table` has no finite value to draw: every seed diverged")

    def x_axis(ax: Axes) -> None:
        for line in ax.lines:
            if not str(line.get_label()).startswith("_"):
                # on a fine grid markers would hide the line
                line.set_markevery(slice(0, 1) if len(np.asarray(line.get_xdata())) > 12 else None)
        end = max(_counted(one) for one in series)
        # markers at the left and lower edge are whole
        ax.set_xlim(xlim or (-0.02 * end, 1.01 * end))
        ax.set_xlabel("Density $d$ of a unit (% of its incoming weights)")

    return line_figure(
        ax, series, band, x_axis=x_axis, ylabel="Units of density at most $d$ (%)", ylim=(-2, 102),
        corner="lower right", legend=legend, what="seeds",
    )  # fmt: skip


def layer_densities(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    band: Band = "minmax",
    names: bool | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the density of each layer, from input to output: one line per branch, on a log scale.

    Lines are means over seeds. An empty layer has no place on a log scale: a filled triangle at the
    lower edge marks a layer that is empty for all seeds, an open one for some.

    Args:
      table: a row per branch, seed and layer: branch, seed, layer (its path), index (its place from
        input to output) and layer_density in [0, 1].
      band: "minmax" (minimum and maximum over seeds), "std" or "none".
      names: whether to write the layers' names, or None to write them where there is room.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the place of the layer, y its density in percent.

    Raises:
      ValueError: if the table is unusable, a layer has two places, or a branch is unknown.

    Reference: Frankle's thesis, figure 5-11.
    """
    check_options(legend=legend, band=band)
    if names is not None:
        _check.flag("names", names)
    columns = ("branch", "seed", "layer", "index", "layer_density")
    check_table(table, columns, remedy="it needs a row for each layer; see jt.layers.report")
    _table.check_shares(table, "layer_density", nan=True)
    rows = _table.once(table, ("branch", "seed", "index"), "layer_density")
    _check_places(rows)
    rows = rows.assign(value=100 * column(rows, "layer_density"))
    chosen = branch_order(_table.names_of(rows), branches)
    rows = where(rows, branch=chosen)
    many = len(set(rows["index"])) > MARKED
    series = []
    for name, look in branch_styles(chosen).items():
        own = where(rows, branch=name)
        points = spread(own, "index", band, _table.SHARES)
        empty = column(own, "index")[column(own, "value") == 0]
        points = points.assign(empty=[(empty == x).sum() for x in points["x"]])
        marker = "" if many else look.marker
        series.append(Series(look.label, points, look.color, marker, look.line))
    # a mean over seeds may be below all seeds that are not empty
    shown = np.concatenate([one.column(end) for one in series for end in ("mean", "low")])
    positive = shown[shown > 0]
    if not len(positive):
        raise ValueError("`table` has no layer with weights left: nothing can be drawn")
    # at the edge a row of triangles per branch, so that none covers another
    hollowed = [one for one in series if one.column("empty").any()]
    room = ROW * (len(hollowed) + 0.3) if hollowed else 0.04
    decades = max(2 - float(np.log10(positive.min())), 0.3)
    bottom, top = 10 ** (2 - 1.04 * decades / (1 - room)), 100 * 10 ** (0.04 * decades)
    with panel(ax) as ax:
        ax.set_yscale("log")
        # zero is not on a log scale: a gap
        draw(ax, [_above(one, bottom) for one in series], band)
        for i, one in enumerate(hollowed):
            x, empty = one.column("x"), one.column("empty")
            whole = (empty > 0) & _all_empty(one)
            height = ROW * (i + 0.5)
            _panel.marks(ax, x[whole], height, EMPTY, one.color, "_empty")
            some = (empty > 0) & ~whole
            _panel.marks(ax, x[some], height, PARTLY, one.color, "_partly")
        ax.set_ylim(bottom, top)
        ax.set_ylabel("Density of the layer (%)")
        _axes.percent_ticks(ax.yaxis, _axes.shares_on_log_scale(bottom / 100))
        _layer_axis(ax, rows, names)
        if legend:
            more = [*band_entries(series, band, "seeds"), *_notes(series)]
            place_legend(ax, labeled(ax) + more, corner="lower left")
    return ax


def _check_places(rows: pd.DataFrame) -> None:
    """Check that each layer has one index, and each index one layer."""
    places = rows.drop_duplicates(["layer", "index"]).sort_values(by="index")
    for name in ("layer", "index"):
        twice = places.loc[places.duplicated(name)]
        if not twice.empty:
            one = twice.iloc[0]
            raise ValueError(
                f"`table` has layer {one['layer']!r} at index {one['index']}, but that {name} "
                "occurs with another too; give every layer one index, in all branches"
            )


def _above(series: Series, bottom: float) -> Series:
    """Leave empty layers out, and end bands at the bottom of the axes."""
    mean = series.column("mean")
    drawn = {name: np.maximum(series.column(name), bottom) for name in ("low", "high")}
    drawn = {
        name: np.where(mean > 0, one, np.nan) for name, one in (drawn | {"mean": mean}).items()
    }
    return series._replace(points=series.points.assign(**drawn))


def _all_empty(series: Series) -> np.ndarray:
    """Tell which layers are empty for all seeds that did not diverge."""
    return series.column("empty") == series.column("samples") - series.column("diverged")


def _notes(series: Sequence[Series]) -> list[Line2D]:
    """Give legend entries for triangles, and for seeds that diverged."""
    empty = np.concatenate([one.column("empty") for one in series]) > 0
    whole = np.concatenate([_all_empty(one) for one in series])
    entries = []
    if (whole & empty).any():
        entries.append(_panel.mark_entry(EMPTY, "layer empty"))
    if (~whole & empty).any():
        entries.append(_panel.mark_entry(PARTLY, "empty for some seeds"))
    return entries + notes(series, "seeds")


def _layer_axis(ax: Axes, rows: pd.DataFrame, names: bool | None) -> None:
    """Make x an axis of layers from input to output, with their names where they have room."""
    places = rows.drop_duplicates("index").sort_values(by="index")
    at = column(places, "index")
    ax.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    ax.set_xlabel("Layer, from input to output")
    short = [str(path).removesuffix("/kernel") for path in places["layer"]]
    if names is None:
        names = len(at) <= (NAMED if max(map(len, short)) <= SHORT else NAMED / 2)
    if not names:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return
    ax.set_xticks(at, short)
    if len(at) > 4 or max(map(len, short)) > 10:
        for label in ax.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    if len(at) > 12:
        ax.tick_params(axis="x", labelsize=6.5)


def _counted(series: Series) -> float:
    """Find the least threshold at which all units are counted, or the greatest there is."""
    x = series.column("x")
    reached = x[series.column("mean") >= COUNTED]
    return float(reached[0] if len(reached) else x[-1])
