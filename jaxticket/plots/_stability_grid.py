"""Instability over two things at once: density and step k, and a plane through networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from jaxticket import _check
from jaxticket.plots._density import CROSS, DENSITY, check_ylim, density_axis
from jaxticket.plots._density import limits as error_limits
from jaxticket.plots._samples import (
    BANDS,
    IN_ERROR,
    Spread,
    Table,
    axis_label,
    chosen_steps,
    select,
    spread,
)
from jaxticket.plots._stability import dense_band, dense_error, stable_line
from jaxticket.plots._steps import (
    STABLE,
    STEP,
    draw,
    from_zero,
    impossible,
    notes,
    reach,
    step_entries,
    step_name,
    step_series,
)
from jaxticket.plots._style import (
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
)

FRAME = "0.1"
# a cell that was not analysed
CELL: dict[str, Any] = {
    "facecolor": "0.96",
    "hatch": "//////",
    "edgecolor": "0.75",
    "linewidth": 0.0,
}


def against_density(
    table: Table,
    ax: Axes | None = None,
    *,
    metric: str = "barrier",
    at: int | Sequence[int] | None = None,
    branches: Sequence[str] = ("ticket",),
    split: str = "test",
    band: Spread = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The barrier or the error against density: one line per step k at which copies part.

    Colours tell steps, line styles branches. The dense network is the left end of "ticket"; for
    errors its mean and standard deviation go across.

    Args:
      table: tidy table of an instability analysis.
      ax: axes to draw on, or None for a new figure.
      metric: "barrier", "error" (in percent), or any other.
      at: step or steps k, or None for all.
      branches: up to four branches.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is density in percent on a reversed log axis.

    Raises:
      ValueError: if the table is unusable, or a branch, step, split or metric is unknown.

    Reference: Frankle's thesis, section 4.2 and figures 4-27 to 4-30.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    rows = select("table", table, split, metric, "pair")
    names = branch_order(rows["branch"].unique(), branches)
    rows = rows[rows["branch"].isin(names)]
    steps = chosen_steps(rows, at)
    rows = rows[rows["at"].isin(steps)]
    # seeds of a level differ in density by a few weights
    of_level = rows.groupby([rows["branch"], rows["level"]], observed=True)["density"]
    rows = rows.assign(x=100 * of_level.transform("median"))
    parts = [(name, rows[rows["branch"] == name]) for name in names]
    series = [one._replace(marker="o") for one in step_series(parts, steps, "x", band)]
    dense = dense_error(table, None, split, metric) if metric == "error" else None
    with style():
        ax = prepared(ax)
        looks = branch_styles(names)
        entries = step_entries(steps, [looks[name].label for name in names])
        if metric.startswith("barrier"):
            entries.append(stable_line(ax))
        if dense is not None:
            entries.append(dense_band(ax, *dense))
        draw(ax, series, band)
        density_axis(ax, rows["x"].unique() / 100)
        ax.set_ylabel(axis_label(metric, split, table))
        if ylim is None and dense is not None:
            every = [*reach(series), dense[0] - dense[1], dense[0] + dense[1]]
            ylim = error_limits(every, every)
        most = 100.0 if metric in IN_ERROR else None
        least = 1.5 * STABLE * metric.startswith("barrier")
        ax.set_ylim(*(ylim or from_zero(series, least=least, most=most)))
        if legend:
            place_legend(ax, entries + notes(series), corner="upper left")
        impossible(ax, above=most)
    return ax


def heat_map(
    table: Table,
    ax: Axes | None = None,
    *,
    metric: str = "barrier",
    branch: str = "ticket",
    at: int | Sequence[int] | None = None,
    split: str = "test",
    colorbar: bool | None = None,
    legend: bool = True,
) -> Axes:
    """The mean barrier for every density and step k, as a map with the numbers in its cells.

    Cells with a barrier below 2 points, the stable ones, are framed and their numbers bold. A
    star marks a mean that leaves out copies that diverged, a cross cells where all did; hatched
    cells were not analysed.

    Args:
      table: tidy table of an instability analysis.
      ax: axes to draw on, or None for a new figure.
      metric: "barrier", "error" (in percent), or any other.
      branch: the branch; "ticket" has the dense network on top.
      at: step or steps k, or None for all.
      split: "train", "validation" or "test".
      colorbar: whether to draw one, or None for where there is room: in a new figure, or one
        whose layout engine makes it.
      legend: whether to explain the frames below the map (only where a layout engine makes room).

    Returns:
      The axes; x is the step k, y density in percent, and cells are a unit wide and high.

    Raises:
      ValueError: if the table is unusable, or a branch, step, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-18, 4-27 and 4-29, in one.
    """
    if colorbar is not None:
        _check.flag("colorbar", colorbar)
    _check.flag("legend", legend)
    rows = select("table", table, split, metric, "pair")
    branch_order(rows["branch"].unique(), [branch])
    rows = rows[rows["branch"] == branch]
    steps = chosen_steps(rows, at)
    rows = rows[rows["at"].isin(steps)]
    densities = rows.groupby("level")["density"].median().sort_values(ascending=False)
    shape = (len(densities), len(steps))
    mean, lost, samples = np.full(shape, np.nan), np.zeros(shape, int), np.zeros(shape, int)
    for i, level in enumerate(densities.index):
        points = spread(rows[rows["level"] == level], "at", "none")
        for one in points.itertuples():
            j = steps.index(int(one.x))
            mean[i, j], lost[i, j], samples[i, j] = one.mean, one.diverged, one.samples
    if not np.isfinite(mean).any():
        raise ValueError("`table` has no finite value to draw: every copy diverged")
    barrier = metric.startswith("barrier")
    low, high = (0.0 if barrier else np.nanmin(mean)), np.nanmax(mean)
    # a map without any barrier is pale all over
    norm = Normalize(low, max(high, 4 * STABLE) if barrier else high if high > low else low + 1)
    with style():
        new = ax is None
        ax = prepared(ax)
        edges = np.arange(shape[1] + 1) - 0.5, np.arange(shape[0] + 1) - 0.5
        ax.set_facecolor("white")
        ax.grid(False)
        mesh = ax.pcolormesh(*edges, np.ma.masked_invalid(mean), cmap="YlOrBr", norm=norm)
        ax.set(
            xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), xlabel=STEP, ylabel=DENSITY
        )
        ax.set_xticks(range(shape[1]), [step_name(step) for step in steps])
        ax.set_yticks(range(shape[0]), [percent(density) for density in densities])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        # what diverged is not stable
        stable = barrier & (mean < STABLE) & (lost == 0)
        for i, j in np.argwhere(samples == 0):
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **CELL))
        frame = _outline(stable)
        if frame:
            ax.plot(*np.array(frame).T, color=FRAME, clip_on=False, label="_stable", zorder=3)
        if colorbar or (colorbar is None and (new or _makes_room(ax))):
            bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, aspect=25)
            bar.set_label(axis_label(metric, split, table))
            bar.outline.set_visible(False)
        _numbers(ax, mean, lost, samples, stable, mesh)
        entries = [Line2D([], [], color=FRAME, label=f"stable: below {STABLE:g}%")] if frame else []
        said = (
            ("$*$", (lost > 0) & (lost < samples), "some"),
            ("x", lost * (lost == samples), "all"),
        )
        for marker, cells, which in said:
            if cells.any():
                look = CROSS | {"marker": marker, "color": FRAME, "markeredgewidth": 0.8}
                entries.append(Line2D([], [], label=f"{which} copies diverged", **look))
        if legend and entries and _makes_room(ax):
            place_legend(ax, entries, corner="upper right")
    return ax


def plane(
    grid: Table,
    ax: Axes | None = None,
    *,
    points: Mapping[str, tuple[float, float]],
    split: str = "test",
    metric: str = "error",
    contours: int = 12,
    colorbar: bool | None = None,
) -> Axes:
    """Error or loss over the plane through three networks, as filled contours.

    Losses that span more than a factor of 30 have contours at even ratios. Places that are not
    finite stay white.

    Args:
      grid: tidy table of a regular grid: x, y, split, metric, value.
      ax: axes to draw on, or None for a new figure.
      points: places of the networks, such as {"init": (0, 0), "copy 1": (9, 0), "copy 2": (4, 8)}.
      split: "train", "validation" or "test".
      metric: "error" (in percent) or "loss".
      contours: about how many levels.
      colorbar: whether to draw one, or None for where there is room: in a new figure, or one
        whose layout engine makes it.

    Returns:
      The axes; x and y are distances of weights in the plane, at the same scale.

    Raises:
      ValueError: if the table is unusable or no regular grid of at least 2 × 2 places, or a point
        lies outside it.

    Reference: Frankle's thesis, figure 4-1 (the diagram that this measures).
    """
    if colorbar is not None:
        _check.flag("colorbar", colorbar)
    contours = _check.whole("contours", contours, 2)
    rows = select("grid", grid, split, metric, common=("x", "y"))
    x, y = (np.unique(rows[name].to_numpy(float)) for name in ("x", "y"))
    if min(len(x), len(y)) < 2 or len(rows) != len(x) * len(y):
        raise ValueError(
            f"`grid` must have one value at every place of a regular grid of at least 2 × 2, got "
            f"{len(rows)} values for {len(x)} x {len(y)} places"
        )
    if not points:
        raise ValueError("`points` is empty; name at least one network and its place (x, y)")
    for name, place in points.items():
        if not (x[0] <= place[0] <= x[-1] and y[0] <= place[1] <= y[-1]):
            raise ValueError(
                f"`points` has {name!r} at {tuple(map(float, place))}, outside the grid: x from "
                f"{x[0]:g} to {x[-1]:g}, y from {y[0]:g} to {y[-1]:g}; widen the grid"
            )
    values = rows.sort_values(["y", "x"])["value"].to_numpy(float).reshape(len(y), len(x))
    values = np.ma.masked_invalid(values)
    if values.count() == 0:
        raise ValueError("`grid` has no finite value to draw")
    low, high = float(values.min()), float(values.max())
    if high <= low:
        # a flat surface still is one
        high = low + 1.0
    log = metric not in IN_ERROR and 0 < low < high / 30
    if log:
        levels, norm = np.geomspace(low, high * 1.0001, contours), LogNorm(low, high)
    else:
        ticks = MaxNLocator(contours, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        levels, norm = ticks, Normalize(ticks[0], ticks[-1])
    with style():
        new = ax is None
        ax = prepared(ax)
        ax.grid(False)
        filled = ax.contourf(x, y, values, levels=levels, norm=norm, cmap="viridis_r")
        thin = {"colors": "white", "linewidths": 0.35, "alpha": 0.6}
        ax.contour(x, y, values, levels=levels, **thin)
        ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), xlabel="$x$ ($L_2$ distance)")
        ax.set_ylabel("$y$ ($L_2$ distance)")
        ax.set_aspect("equal")
        for name, place in points.items():
            _network(ax, name, place)
        if colorbar or (colorbar is None and (new or _makes_room(ax))):
            bar = ax.figure.colorbar(filled, ax=ax, pad=0.02, aspect=25)
            if log:
                ticks = LogLocator(subs=(1, 2, 5)).tick_values(low, high)
                bar.set_ticks([tick for tick in ticks if low <= tick <= high])
                bar.ax.yaxis.set_major_formatter("{x:g}")
                bar.ax.yaxis.set_minor_locator(NullLocator())
            bar.set_label(axis_label(metric, split, grid))
            bar.outline.set_visible(False)
    return ax


def _network(ax: Axes, name: str, place: tuple[float, float]) -> None:
    """A labelled marker whose label stays inside the axes and is read on any colour."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across = -1 if place[0] > left + 0.7 * (right - left) else 1
    up = -1 if place[1] > bottom + 0.85 * (top - bottom) else 1
    marker: dict[str, Any] = {"marker": "o", "markersize": 5.5, "markeredgewidth": 1.0}
    colors: dict[str, Any] = {
        "markerfacecolor": "white",
        "markeredgecolor": "0.1",
        "linestyle": "none",
    }
    ax.plot(*place, label=name, zorder=4, **marker, **colors)
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


def _makes_room(ax: Axes) -> bool:
    """Whether the figure has an engine that makes room beside and below axes."""
    figure: Any = ax.figure
    return figure.get_layout_engine() is not None


def _numbers(
    ax: Axes, mean: np.ndarray, lost: np.ndarray, samples: np.ndarray, stable: np.ndarray, mesh: Any
) -> None:
    """Writes the numbers into the cells of a heat map, as large as the cells allow."""
    figure: Any = ax.figure
    figure.draw_without_rendering()
    box = ax.get_window_extent()
    wide, tall = (
        72 * size / figure.dpi / count
        for size, count in zip((box.width, box.height), mean.shape[::-1], strict=True)
    )
    texts = np.full(mean.shape, "", object)
    decimals = 0 if np.nanmax(mean) >= 100 else 1
    for (i, j), value in np.ndenumerate(mean):
        if np.isfinite(value):
            texts[i, j] = f"{value:.{decimals}f}" + ("*" if lost[i, j] else "")
        elif samples[i, j]:
            texts[i, j] = "×"
    size = min(7.5, 0.75 * tall, 0.85 * wide / (0.58 * max(map(len, texts.ravel()))))
    if size < 3:
        # nobody could read them: the colours must do
        return
    for (i, j), text in np.ndenumerate(texts):
        red, green, blue, _ = mesh.cmap(mesh.norm(mean[i, j])) if samples[i, j] else (1, 1, 1, 1)
        dark = np.isfinite(mean[i, j]) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        look = {"color": "white" if dark else "0.1", "fontsize": size}
        weight = "bold" if stable[i, j] else "normal"
        if text:
            ax.text(j, i, text, ha="center", va="center_baseline", fontweight=weight, **look)


def _outline(cells: np.ndarray) -> list[tuple[float, float]]:
    """The edges between cells that are True and others, as one line with gaps."""
    padded, gap = np.pad(cells, 1), (np.nan, np.nan)
    edges: list[tuple[float, float]] = []
    for i, j in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        edges += [(j - 0.5, i - 1.5), (j - 0.5, i - 0.5), gap]
    for i, j in np.argwhere(padded[1:] != padded[:-1]):
        edges += [(j - 1.5, i - 0.5), (j - 0.5, i - 0.5), gap]
    return edges
