"""Accuracy against what it costs to find the mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from jaxticket import _check
from jaxticket.plots._density import CROSS, check_ylim, diverged_marker, opened
from jaxticket.plots._density import limits as near_values
from jaxticket.plots._early import check, once, within
from jaxticket.plots._samples import BANDS, Spread, Table, spread
from jaxticket.plots._stability import dense_band
from jaxticket.plots._style import DENSE, branch_order, branch_styles, place_legend, prepared, style

# where a label may stand beside its marker, best first: (right of it, above it, ha, va)
BESIDE = (
    (1, 0, "left", "center"),
    (0, 1, "center", "bottom"),
    (-1, 0, "right", "center"),
    (0, -1, "center", "top"),
    (1, 1, "left", "bottom"),
    (1, -1, "left", "top"),
    (-1, 1, "right", "bottom"),
    (-1, -1, "right", "top"),
)
BREAK: dict[str, Any] = {
    "linestyle": "none",
    "marker": [(-0.5, -1), (0.5, 1)],
    "markersize": 6,
    "color": "0.25",
    "markeredgewidth": 0.7,
    "clip_on": False,
    "zorder": 5,
}


def accuracy_against_cost(
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    unit: str = "dense trainings",
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = False,
) -> Axes:
    """Final accuracy against the cost of finding the mask: one marker per method.

    Markers are means over seeds, bars the spread of both. What costs nothing stands left of a break
    of the log axis. Names stand beside the markers; where there is no room, in a legend. Open
    markers: some seeds diverged, the mean is over the others; a cross at the lower edge: all did.

    Args:
      table: a row per branch and seed, at one density: branch, seed, accuracy in [0, 1] and cost,
        at least 0. Branch "dense", if it is there, is drawn as a line across; its cost is not
        looked at.
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches to draw, or None for all.
      unit: what the cost is counted in, for the label of the axis.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      ylim: limits in percent, or None to show all.
      legend: whether all names stand in a legend.

    Returns:
      The axes; x is the cost on a log scale, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable, or a branch is unknown.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    check(table, ("branch", "seed", "accuracy", "cost"), "the final network of a branch and seed")
    within("accuracy", table, nan=True)
    rows = once(table, ("branch", "seed"), "accuracy")
    is_dense = rows["branch"] == "dense"
    costs = rows["cost"][~is_dense].to_numpy(float)
    if not (np.isfinite(costs) & (costs >= 0)).all():
        wrong = costs[~(np.isfinite(costs) & (costs >= 0))][0]
        raise ValueError(f"`table` has 'cost' {wrong:g}; a cost is a finite number of at least 0")
    if is_dense.all():
        raise ValueError("`table` holds the dense network only; add methods that find a mask")
    rows = rows.assign(value=100 * rows["accuracy"].astype(float), all=0)
    names = [name for name in branch_order(rows["branch"].unique(), branches) if name != "dense"]
    if not names:
        raise ValueError("`branches` has the dense network only; name methods that find a mask")
    dense = spread(rows[is_dense], "all", "std") if is_dense.any() else None
    accuracy, cost = (
        {name: spread(part[part["branch"] == name], "all", band).iloc[0] for name in names}
        for part in (rows, rows.assign(value=rows["cost"].astype(float)))
    )
    free = [name for name in names if cost[name]["mean"] == 0]
    nothing, ends = _cost_ends(
        [one for name in names for one in cost[name][["mean", "low", "high"]]]
    )
    ends = (nothing, ends[1]) if free else ends
    every = [one for name in names for one in accuracy[name][["low", "mean", "high"]]]
    if dense is not None:
        every += dense[["low", "mean", "high"]].iloc[0].tolist()
    limits = ylim or near_values(every, every, top=100.0)
    with style():
        ax = prepared(ax)
        ax.set_xscale("log")
        ax.set_ylim(*limits)
        _cost_axis(ax, ends, nothing if free else None)
        ax.set_xlabel(f"Cost of finding the mask ({unit})")
        ax.set_ylabel("Test accuracy (%)")
        if dense is not None and np.isfinite(dense["mean"][0]):
            mean = float(dense["mean"][0])
            dense_band(ax, mean, float(dense["high"][0]) - mean)
        marks: list[Line2D] = []
        for name, look in branch_styles(names).items():
            x = nothing if name in free else float(cost[name]["mean"])
            y = float(accuracy[name]["mean"])
            if not np.isfinite(y):
                on_edge = ax.get_xaxis_transform()
                lost: dict[str, Any] = {
                    "color": look.color,
                    "transform": on_edge,
                    "label": look.label,
                    "markersize": 5,
                }
                marks += ax.plot([x], [0.02], **lost, **CROSS)
                continue
            if band != "none":
                bars: dict[str, Any] = {
                    "fmt": "none",
                    "ecolor": look.color,
                    "elinewidth": 0.8,
                    "capthick": 0.8,
                }
                wide = None if name in free else _lengths(cost[name])
                ax.errorbar([x], [y], _lengths(accuracy[name]), wide, label="_bars", **bars)
            face: dict[str, Any] = {"color": look.color, "linestyle": "none", "marker": look.marker}
            face |= {"markersize": 5.5, "markeredgewidth": 0, "label": look.label, "zorder": 3}
            if accuracy[name]["diverged"]:
                face |= opened(look.marker, look.color)
            marks += ax.plot([x], [y], **face)
        unnamed = marks if legend else _name(ax, marks)
        entries: list[Any] = list(unnamed)
        if dense is not None:
            entries += [one for one in ax.lines if str(one.get_label()).startswith("dense")]
        counts = [(int(one["diverged"]), int(one["samples"])) for one in accuracy.values()]
        if any(0 < lost < seeds for lost, seeds in counts):
            entries.append(diverged_marker([a for a, _ in counts], [b for _, b in counts]))
        if any(lost == seeds for lost, seeds in counts):
            entries.append(Line2D([], [], color=DENSE, label="all seeds diverged", **CROSS))
        if entries:
            place_legend(ax, entries, corner="lower right")
    return ax


def _lengths(point: Any) -> np.ndarray:
    """Error bars, as lengths below and above."""
    low, mean, high = (float(point[name]) for name in ("low", "mean", "high"))
    return np.array([[max(mean - low, 0.0)], [max(high - mean, 0.0)]])


def _cost_ends(costs: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Where nothing stands on a log axis of these costs, and the limits of the axis without it."""
    known = [cost for cost in costs if cost > 0]
    low, high = (min(known), max(known)) if known else (1.0, 1.0)
    # names stand beside the markers
    reach = max((high / low) ** 0.13, 1.5)
    gap = max((high / low) ** 0.16, 2.0)
    return low / gap, (low / reach, high * reach)


def _cost_axis(ax: Axes, ends: tuple[float, float], nothing: float | None) -> None:
    """The x axis; `nothing` is where a cost of 0 stands, left of the break, or None."""

    def says(value: float, _: Any) -> str:
        return f"{value:g}" if 1e-3 <= value < 1e5 else f"$10^{{{round(np.log10(value))}}}$"

    # powers of ten alone are too few where costs are near one another
    near = ends[1] / ends[0] < 300
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,), numticks=8))
    ax.xaxis.set_major_formatter(FuncFormatter(says))
    ax.xaxis.set_minor_formatter(NullFormatter())
    if nothing is None:
        ax.set_xlim(*ends)
        return
    left = nothing / (ends[1] / nothing) ** 0.07
    ax.set_xlim(left, ends[1])
    # right of the break
    first = np.ceil(np.log10(nothing * (ends[1] / nothing) ** 0.1))
    powers = [10.0**power for power in np.arange(first, np.log10(ends[1]))]
    ax.set_xticks([nothing, *powers], ["0", *(says(power, None) for power in powers)])
    ax.set_xticks([], minor=True)
    on_edge = ax.get_xaxis_transform()
    at = nothing * (ends[1] / nothing) ** 0.05
    pair = [at / (ends[1] / nothing) ** 0.006, at * (ends[1] / nothing) ** 0.006]
    ax.plot(pair, [0, 0], transform=on_edge, label="_break", **BREAK)


def _name(ax: Axes, marks: Sequence[Line2D]) -> list[Line2D]:
    """Writes each marker's name beside it, and returns the markers for which there is no room."""
    figure: Any = ax.figure
    figure.draw_without_rendering()
    frame = ax.get_window_extent()
    point = figure.dpi / 72
    taken = []
    for mark in marks:
        x, y = mark.get_transform().transform(np.asarray(mark.get_xydata(), float))[0]
        taken.append(Bbox.from_extents(x, y, x, y).padded(3.5 * point))
    # error bars
    bars = ((one.get_transform(), path) for one in ax.collections for path in one.get_paths())
    taken += [at.transform_path(path).get_extents().padded(point) for at, path in bars]
    left = []
    for mark, own in zip(marks, list(taken), strict=False):
        centre = (own.x0 + own.x1) / 2, (own.y0 + own.y1) / 2
        for right, up, ha, va in BESIDE:
            text = ax.annotate(
                str(mark.get_label()),
                centre,
                (5.5 * right, 5.5 * up),
                xycoords="figure pixels",
                textcoords="offset points",
                color=mark.get_color(),
                ha=ha,
                va=va,
                fontsize=8,
            )
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken if other is not own):
                # from now on it follows the data
                text.xy, text.xycoords = (
                    tuple(np.asarray(mark.get_xydata())[0]),
                    mark.get_transform(),
                )
                text.set_in_layout(False)
                taken.append(box)
                break
            text.remove()
        else:
            left.append(mark)
    return left
