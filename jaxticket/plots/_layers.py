"""How a mask is spread over the network: layers, and units that lose most of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from jaxticket import _check
from jaxticket.plots._density import CROSS, diverged_marker, opened
from jaxticket.plots._early import check, once, within
from jaxticket.plots._samples import BANDS, Spread, Table, spread
from jaxticket.plots._steps import Series, draw, error_bars, notes, without_neighbours
from jaxticket.plots._style import (
    DENSE,
    BranchStyle,
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
)

# so many layers have room for their names (half as many for names longer than SHORT), and markers
NAMED, SHORT, MARKED = 20, 10, 40
# height of a row of triangles, as a share of the axes
ROW = 0.045
EMPTY: dict[str, Any] = {
    "linestyle": "none",
    "marker": "v",
    "markeredgewidth": 0.8,
    "markersize": 4.2,
    "zorder": 4,
}
# what the collapse of units shows of the axis: until so many percent of units are counted
COUNTED = 99.5


def unit_collapse(
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    band: Spread = "std",
    xlim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Share of output units (neurons, channels) whose density is at most d, against d.

    Lines are means over seeds. The points at the left edge are units with nothing left, which the
    network has lost.

    Args:
      table: a row per branch, seed and threshold d: branch, seed, threshold and share, both in
        [0, 1].
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches to draw, or None for all.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      xlim: limits of d in percent, or None to end where all units are counted.
      legend: whether to draw one.

    Returns:
      The axes; x is the density d of a unit in percent, y the share of units in percent.

    Raises:
      ValueError: if the table is unusable, or a branch is unknown.

    Reference: Frankle's thesis, figure 5-6 (with sparsities).
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    if xlim is not None and not (len(xlim) == 2 and 0 <= xlim[0] < xlim[1]):
        raise ValueError(f"`xlim` must be (low, high) with 0 <= low < high, or None, got {xlim!r}")
    row = "the share of units of a branch and seed that are at most as dense as a threshold"
    check(table, ("branch", "seed", "threshold", "share"), row)
    within("threshold", table)
    within("share", table, nan=True)
    # thresholds may come from a device that has float32
    rows = table.assign(threshold=(100 * table["threshold"].astype(float)).round(5))
    rows = once(rows, ("branch", "seed", "threshold"), "share")
    rows = rows.assign(value=100 * rows["share"].astype(float))
    names = branch_order(rows["branch"].unique(), branches)
    series = []
    for name, look in branch_styles(names).items():
        points = spread(rows[rows["branch"] == name], "threshold", band)
        # no share lies outside
        points[["low", "high"]] = points[["low", "high"]].clip(0, 100)
        series.append(Series(look.label, points, look.color, look.marker, look.line))
    _some(series)
    with style():
        ax = prepared(ax)
        draw(ax, series, band)
        for line in ax.lines:
            if not str(line.get_label()).startswith("_"):
                # on a fine grid points would hide the line
                line.set_markevery(slice(0, 1) if len(np.asarray(line.get_xdata())) > 12 else None)
        end = max(_counted(one.points) for one in series)
        # points at the left and lower edge are whole
        ax.set_ylim(-2, 102)
        ax.set_xlim(*(xlim or (-0.02 * end, 1.01 * end)))
        ax.set_xlabel("Density $d$ of a unit (% of its incoming weights)")
        ax.set_ylabel("Units of density at most $d$ (%)")
        if legend:
            entries = ax.get_legend_handles_labels()[0] + notes(series, what="seeds")
            place_legend(ax, entries, corner="lower right")
    return ax


def layer_densities(
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    band: Spread = "minmax",
    names: bool | None = None,
    legend: bool = True,
) -> Axes:
    """Density of each layer, from input to output: one line per branch, on a log scale.

    Lines are means over seeds. A layer that is empty has no place on a log scale: a filled triangle
    at the lower edge says that it is empty for all seeds, an open one for some.

    Args:
      table: a row per branch, seed and layer: branch, seed, layer (its path), index (its place from
        input to output) and layer_density in [0, 1].
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches to draw, or None for all.
      band: "minmax" (the least and greatest seed), "std" or "none".
      names: whether to write the layers' names, or None for doing so where there is room.
      legend: whether to draw one.

    Returns:
      The axes; x is the place of the layer, y its density in percent.

    Raises:
      ValueError: if the table is unusable, a layer has two places, or a branch is unknown.

    Reference: Frankle's thesis, figure 5-11.
    """
    if names is not None:
        _check.flag("names", names)
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    row = "the density of a layer, for a branch and seed"
    check(table, ("branch", "seed", "layer", "index", "layer_density"), row)
    within("layer_density", table, nan=True)
    rows = once(table, ("branch", "seed", "index"), "layer_density")
    places = rows.drop_duplicates(["layer", "index"])[["layer", "index"]].sort_values("index")
    for column in ("layer", "index"):
        twice = places[places.duplicated(column)]
        if not twice.empty:
            one = twice.iloc[0]
            raise ValueError(
                f"`table` has layer {one['layer']!r} at index {one['index']}, but that {column} "
                "occurs with another too; give every layer one index, in all branches"
            )
    rows = rows.assign(value=100 * rows["layer_density"].astype(float))
    chosen = branch_order(rows["branch"].unique(), branches)
    rows = rows[rows["branch"].isin(chosen)]
    looks = branch_styles(chosen)
    points = {name: _points(rows[rows["branch"] == name], band) for name in chosen}
    # a mean over seeds may lie below all of them that are not empty
    shown = np.concatenate(
        [one[["mean", "low"]].to_numpy(float).ravel() for one in points.values()]
    )
    positive = shown[shown > 0]
    if not len(positive):
        raise ValueError("`table` has no layer with weights left: nothing can be drawn")
    # at the edge a row of triangles per branch, so that none covers another
    in_rows = [name for name in chosen if points[name]["empty"].any()]
    room = ROW * (len(in_rows) + 0.3) if in_rows else 0.04
    decades = max(2 - float(np.log10(positive.min())), 0.3)
    low = 10 ** (2 - 1.04 * decades / (1 - room))
    many = rows["index"].nunique() > MARKED
    with style():
        ax = prepared(ax)
        ax.set_yscale("log")
        for name, look in looks.items():
            look = look._replace(marker="") if many else look
            _draw_layers(ax, points[name], look, band, low)
            if name in in_rows:
                _draw_empty(ax, points[name], look, ROW * (in_rows.index(name) + 0.5))
        ax.set_ylim(low, 100 * 10 ** (0.04 * decades))
        _percent_ticks(ax)
        _layer_axis(ax, rows, names)
        if legend:
            entries = ax.get_legend_handles_labels()[0] + _notes(list(points.values()))
            place_legend(ax, entries, corner="lower left")
    return ax


def _points(rows: Table, band: Spread) -> Table:
    """`spread` over the index, and how many of the seeds have nothing left in the layer."""
    points = spread(rows, "index", band)
    empty = rows["value"].eq(0).groupby(rows["index"].to_numpy()).sum()
    return points.assign(empty=empty.reindex(points["x"]).to_numpy())


def _draw_layers(ax: Axes, points: Table, look: BranchStyle, band: Spread, bottom: float) -> None:
    """One branch's line, its spread, and marks where seeds diverged; gaps at empty layers."""
    x, mean, low, high = (points[name].to_numpy(float) for name in ("x", "mean", "low", "high"))
    # zero is not on a log scale
    y = np.where(mean > 0, mean, np.nan)
    line: dict[str, Any] = {"color": look.color, "linestyle": look.line, "marker": look.marker}
    ax.plot(x, y, label=look.label, markeredgewidth=0, zorder=3, **line)
    if band != "none":
        low, high = (
            np.where(np.isfinite(y), np.maximum(end, bottom), np.nan) for end in (low, high)
        )
        ax.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0, zorder=2)
        alone = without_neighbours(y)
        error_bars(ax, x[alone], y[alone], low[alone], high[alone], look.color)
    lost = np.isnan(mean)
    if lost.any():
        edge, on_edge = np.full(lost.sum(), 0.02), ax.get_xaxis_transform()
        ax.plot(x[lost], edge, color=look.color, transform=on_edge, label="_lost", **CROSS)
    some = (points["diverged"].to_numpy() > 0) & np.isfinite(y)
    if some.any() and look.marker:
        ax.plot(x[some], y[some], label="_diverged", zorder=3.5, **opened(look.marker, look.color))


def _draw_empty(ax: Axes, points: Table, look: BranchStyle, place: float) -> None:
    """Triangles at a height of `place` (share of the axes): filled where all seeds are empty."""
    empty, found = points["empty"].to_numpy(), (points["samples"] - points["diverged"]).to_numpy()
    whole = empty == found
    for label, at, fill in (
        ("_empty", whole & (empty > 0), look.color),
        ("_partly", ~whole & (empty > 0), "white"),
    ):
        if at.any():
            x = points["x"].to_numpy(float)[at]
            marks: dict[str, Any] = EMPTY | {"color": look.color, "markerfacecolor": fill}
            transform = ax.get_xaxis_transform()
            ax.plot(x, np.full(len(x), place), label=label, transform=transform, **marks)


def _notes(points: Sequence[Table]) -> list[Line2D]:
    """Legend entries for triangles, and for seeds that diverged."""
    entries = []
    empty, found, lost = (
        np.concatenate([one[name].to_numpy() for one in points])
        for name in ("empty", "samples", "diverged")
    )
    whole = empty == found - lost
    if (whole & (empty > 0)).any():
        entries.append(Line2D([], [], label="layer empty", color=DENSE, **EMPTY))
    if (~whole & (empty > 0)).any():
        look: dict[str, Any] = EMPTY | {"color": DENSE, "markerfacecolor": "white"}
        entries.append(Line2D([], [], label="empty for some seeds", **look))
    if ((lost > 0) & (lost < found)).any():
        entries.append(diverged_marker(lost, found))
    if (lost == found).any():
        entries.append(Line2D([], [], color=DENSE, label="all seeds diverged", **CROSS))
    return entries


def _percent_ticks(ax: Axes) -> None:
    """Ticks of densities on a log axis: 100, 10, 1, ... percent, and between if there is room."""
    low, high = ax.get_ylim()
    bases = (1, 2, 5) if high / low < 300 else (1,)
    every = [base * 10.0**power for power in range(-9, 3) for base in bases]
    shown = [place for place in every if low <= place <= min(high, 100)]
    ax.yaxis.set_major_locator(FixedLocator(shown))
    ax.yaxis.set_major_formatter(FixedFormatter([percent(place / 100) for place in shown]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("Density of the layer (%)")


def _layer_axis(ax: Axes, rows: Table, names: bool | None) -> None:
    """The x axis: places from input to output, with the layers' names where they have room."""
    places = rows.drop_duplicates("index").sort_values("index")
    at = places["index"].to_numpy(float)
    ax.set_xlim(at[0] - 0.5, at[-1] + 0.5)
    ax.set_xlabel("Layer, from input to output")
    short = [str(path).removesuffix("/kernel") for path in places["layer"]]
    if names is None:
        names = len(at) <= (NAMED if max(map(len, short)) <= SHORT else NAMED / 2)
    if names:
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        few = len(at) <= 4 and max(map(len, short)) <= 10
        ax.set_xticks(at, short, **({} if few else slanted))
        if len(at) > 12:
            ax.tick_params(axis="x", labelsize=6.5)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _counted(points: Table) -> float:
    """The least threshold at which all units are counted, or the greatest there is."""
    x = points["x"].to_numpy(float)
    return float(x[points["mean"].to_numpy(float) >= COUNTED][:1].sum() or x[-1])


def _some(series: Sequence[Series]) -> None:
    """Raises unless some value is finite."""
    if not any(np.isfinite(one.points["mean"]).any() for one in series):
        raise ValueError("`table` has no finite value to draw: every seed diverged")
