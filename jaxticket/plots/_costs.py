"""Accuracy against the cost of finding the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import Series, band_entries, notes, place_legend, reach
from jaxticket.plots._style import MARKERS, BranchStyle, branch_order, branch_styles, panel
from jaxticket.plots._table import Band, check_options, column, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

# places of a label next to its marker, best first: (to the right, upward, ha, va)
PLACES = (
    (1, 0, "left", "center"),
    (0, 1, "center", "bottom"),
    (-1, 0, "right", "center"),
    (0, -1, "center", "top"),
    (1, 1, "left", "bottom"),
    (1, -1, "left", "top"),
    (-1, 1, "right", "bottom"),
    (-1, -1, "right", "top"),
)
# points between names and the edges of the axes, and the line across: a title or a caption that
# comes later moves them a little
AIR = 3.0


def accuracy_against_cost(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    unit: str = "dense trainings",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = False,
) -> Axes:
    """Plot final accuracy against the cost of finding the mask: one marker per method.

    Markers are means over seeds, bars the spread of both. Methods that cost nothing are left of a
    break of the log axis. Names are next to the markers; where there is no room, in a legend. A
    control of a method has the method's color and a marker of its own. Open markers: some seeds
    diverged, the mean is over the others; a cross at the lower edge: all did.

    Args:
      table: a row per branch and seed, at one density: branch, seed, accuracy in [0, 1] and cost,
        at least 0. Branch "dense", if present, is drawn as a line across; its cost is ignored.
      unit: unit of the cost, for the label of the axis.
      ylim: limits in percent, or None to show all.
      legend: whether all names are in a legend.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".

    Returns:
      The axes; x is the cost on a log scale, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable, or a branch is unknown.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    remedy = "it needs a row for the final network of each branch and seed"
    check_table(table, ("branch", "seed", "accuracy", "cost"), remedy=remedy)
    _table.check_shares(table, "accuracy", nan=True)
    rows = _table.once(table, ("branch", "seed"), "accuracy")
    is_dense = rows["branch"] == "dense"
    costs = column(rows.loc[~is_dense], "cost")
    good = np.isfinite(costs) & (costs >= 0)
    if not good.all():
        wrong = costs[~good][0]
        raise ValueError(f"`table` has 'cost' {wrong:g}; a cost is a finite number of at least 0")
    if len(costs) == 0:
        raise ValueError("`table` has the dense network only; add methods that find a mask")
    names = [name for name in branch_order(_table.names_of(rows), branches) if name != "dense"]
    if not names:
        raise ValueError("`branches` has the dense network only; name methods that find a mask")
    rows = rows.assign(value=100 * column(rows, "accuracy"), all=0)
    by_cost = rows.assign(value=column(rows, "cost"))
    cost = {
        name: _ends(spread(where(by_cost, branch=name), "all", band, (0.0, np.inf)))
        for name in names
    }
    series = []
    for name, look in _told_apart(branch_styles(names)).items():
        points = spread(where(rows, branch=name), "all", band, _table.SHARES)
        series.append(Series(look.label, points, look.color, look.marker))
    across = where(rows, branch="dense")
    dense = _ends(spread(across, "all", "std", _table.SHARES)) if len(across) else None
    free = [name for name in names if cost[name][0] == 0]
    nothing, ends = _cost_ends([one for own in cost.values() for one in own])
    ends = (nothing, ends[1]) if free else ends
    every = [*reach(series), *(dense or ())]
    with panel(ax) as ax:
        ax.set_xscale("log")
        ax.set_ylim(ylim or _axes.limits(every, top=100.0, what="seed"))
        _cost_axis(ax, ends, nothing if free else None)
        ax.set_xlabel(f"Cost of finding the mask ({unit})")
        ax.set_ylabel("Test accuracy (%)")
        across = [_panel.dense_band(ax, *dense)] if dense and np.isfinite(dense[0]) else []
        drawn = [
            _point(ax, one, (nothing,) if name in free else cost[name], band)
            for name, one in zip(names, series, strict=True)
        ]
        unnamed = drawn if legend else _write_names(ax, drawn, across)
        bars = band_entries(series, band, "seeds")
        if entries := [*unnamed, *across, *bars, *notes(series, "seeds")]:
            place_legend(ax, entries, corner="lower right")
    return ax


def _told_apart(looks: Mapping[str, BranchStyle]) -> dict[str, BranchStyle]:
    """Give other markers to controls, which in figures of lines differ by the line alone."""
    found: dict[str, BranchStyle] = {}
    for name, look in looks.items():
        taken = {one.marker for one in found.values() if one.color == look.color}
        free = (marker for marker in (look.marker, *MARKERS) if marker not in taken)
        found[name] = look._replace(marker=next(free, look.marker))
    return found


def _point(ax: Axes, one: Series, cost: Sequence[float], band: Band) -> Line2D:
    """Draw the marker of a method with error bars of its accuracy and, if it has ends, its cost."""
    x, (y, low, high) = cost[0], _ends(one.points)
    if not np.isfinite(y):
        return _panel.marks(
            ax, [x], _panel.EDGE, _panel.CROSS._replace(size=5.0), one.color, one.label
        )
    if band != "none":
        up = np.maximum([[y - low], [high - y]], 0)
        across = np.maximum([[x - cost[1]], [cost[2] - x]], 0) if len(cost) > 1 else None
        ax.errorbar(
            [x],
            [y],
            up,
            across,
            label="_bars",
            fmt="none",
            ecolor=one.color,
            elinewidth=0.8,
            capthick=0.8,
        )
    filled = _panel.Mark(one.marker, 0.0, None, 5.5, 3)
    opened = _panel.hollow(one.marker)._replace(size=5.5, zorder=3)
    look = opened if one.column("diverged")[0] else filled
    return _panel.marks(ax, [x], [y], look, one.color, one.label)


def _ends(points: pd.DataFrame) -> tuple[float, float, float]:
    """Give the mean, low and high of the only point."""
    mean, low, high = (float(column(points, name)[0]) for name in ("mean", "low", "high"))
    return mean, low, high


def _cost_ends(costs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Compute where a cost of 0 is on a log axis of these costs, and the limits without it."""
    known = [cost for cost in costs if cost > 0]
    low, high = (min(known), max(known)) if known else (1.0, 1.0)
    # room for the names
    reach = max((high / low) ** 0.13, 1.5)
    gap = max((high / low) ** 0.16, 2.0)
    return low / gap, (low / reach, high * reach)


def _cost_axis(ax: Axes, ends: tuple[float, float], nothing: float | None) -> None:
    """Make the x axis; `nothing` is the place of a cost of 0, left of the break, or None."""

    def written(value: float, _: object = None) -> str:
        return f"{value:g}" if 1e-3 <= value < 1e5 else f"$10^{{{round(np.log10(value))}}}$"

    # powers of ten alone are too few where costs are near one another
    near = ends[1] / ends[0] < 300
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,), numticks=8))
    ax.xaxis.set_major_formatter(FuncFormatter(written))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if nothing is None:
        ax.set_xlim(*ends)
        return
    span = ends[1] / nothing
    ax.set_xlim(nothing / span**0.07, ends[1])
    # right of the break
    first = np.ceil(np.log10(nothing * span**0.1))
    powers = [10.0**power for power in np.arange(first, np.log10(ends[1]))]
    ax.set_xticks([nothing, *powers], ["0", *map(written, powers)])
    ax.set_xticks([], minor=True)
    pair = [nothing * span ** (0.05 - 0.006), nothing * span ** (0.05 + 0.006)]
    slash = Line2D(pair, [0, 0], transform=ax.get_xaxis_transform(), label="_break", color="0.25")
    slash.set(linestyle="none", marker=[(-0.5, -1), (0.5, 1)], markersize=6, markeredgewidth=0.7)
    slash.set(clip_on=False, zorder=5)
    ax.add_line(slash)


def _write_names(ax: Axes, drawn: Sequence[Line2D], across: Sequence[Line2D]) -> list[Line2D]:
    """Write the name of each marker next to it, and give the markers for which there is no room.

    Names lie on no other name, marker, error bar or line across, and do not touch the axes.
    """
    figure = _style.root_figure(ax)
    figure.draw_without_rendering()
    frame, point = ax.get_window_extent(), figure.dpi / 72
    taken = []
    for mark in drawn:
        x, y = mark.get_transform().transform(np.asarray(mark.get_xydata(), float))[0]
        taken.append(Bbox.from_extents(x, y, x, y).padded(3.5 * point))
    markers = list(taken)
    for line in across:
        y = ax.transData.transform((1, float(np.asarray(line.get_ydata())[0])))[1]
        taken.append(Bbox.from_extents(frame.x0, y, frame.x1, y).padded(AIR * point))
    # error bars
    bars = ((one.get_transform(), path) for one in ax.collections for path in one.get_paths())
    taken += [at.transform_path(path).get_extents().padded(point) for at, path in bars]
    left, room = [], frame.padded(-AIR * point)
    for mark, own in zip(drawn, markers, strict=True):
        center = (own.x0 + own.x1) / 2, (own.y0 + own.y1) / 2
        for right, up, ha, va in PLACES:
            text = ax.annotate(
                str(mark.get_label()),
                center,
                (5.5 * right, 5.5 * up),
                xycoords="figure pixels",
                textcoords="offset points",
                color=mark.get_color(),
                ha=ha,
                va=va,
                fontsize=8,
            )
            box = text.get_window_extent()
            inside = room.x0 <= box.x0 and box.x1 <= room.x1
            inside = inside and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(other) for other in taken if other is not own):
                # from now on it follows the data
                x, y = np.asarray(mark.get_xydata(), float)[0]
                text.xy, text.xycoords = (x, y), mark.get_transform()
                text.set_in_layout(False)
                taken.append(box)
                break
            text.remove()
        else:
            left.append(mark)
    return left
