"""Loss surfaces: in three dimensions, as contours with trajectories, and cuts through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from jaxticket import _check
from jaxticket.plots import _panel, _style, _table
from jaxticket.plots._panel import Series, line_figure
from jaxticket.plots._style import panel
from jaxticket.plots._table import Band, check_options, metric_label, select, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("branch", "level", "density", "seed", "x", "y")
# losses that span more than this factor are drawn at even ratios
WIDE = 30


def regular(argument: str, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give x, y and the values [y, x] of a regular grid.

    Raises:
      ValueError: if it is no regular grid of at least 2 × 2 places, or has no finite value.
    """
    x, y = (np.unique(rows[name].to_numpy(float)) for name in ("x", "y"))
    if min(len(x), len(y)) < 2 or len(rows) != len(x) * len(y):
        raise ValueError(
            f"`{argument}` must have one value at every place of a regular grid of at least 2 × 2, "
            f"got {len(rows)} values for {len(x)} x {len(y)} places"
        )
    values = rows.sort_values(["y", "x"])["value"].to_numpy(float).reshape(len(y), len(x))
    if not np.isfinite(values).any():
        raise ValueError(f"`{argument}` has no finite value to draw")
    return x, y, values


def filled(
    ax: Axes,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    *,
    metric: str,
    label: str,
    contours: int,
    colorbar: bool,
) -> None:
    """Draw filled contours of a grid; of losses that span a wide range at even ratios.

    Args:
      ax: axes.
      x, y: coordinates of columns and rows.
      values: [row, column]; places that are not finite stay white.
      metric: what the values are, which says whether ratios make sense.
      label: of the color bar.
      contours: about how many levels.
      colorbar: whether to draw a color bar.
    """
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    values = np.ma.masked_invalid(values)
    if high <= low:
        # a flat surface still is one
        high = low + 1.0
    share = metric.removesuffix(_table.RECOMPUTED) in _table.IN_PERCENT
    log = not share and 0 < low < high / WIDE
    if log:
        levels, norm = np.geomspace(low, high * 1.0001, contours), LogNorm(low, high)
    else:
        levels = MaxNLocator(contours, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        norm = Normalize(levels[0], levels[-1])
    ax.grid(False)
    drawn = ax.contourf(x, y, values, levels=levels, norm=norm, cmap="viridis_r")
    ax.contour(x, y, values, levels=levels, colors="white", linewidths=0.35, alpha=0.6)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]), aspect="equal")
    if not colorbar:
        return
    bar = _style.root_figure(ax).colorbar(drawn, ax=ax, pad=0.02, aspect=25)
    if log:
        ticks = LogLocator(subs=(1, 2, 5)).tick_values(low, high)
        bar.set_ticks([tick for tick in ticks if low <= tick <= high])
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label(label)
    bar.outline.set_visible(False)


def loss_surface(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branch: str | None = None,
    level: int | None = None,
    seed: int | None = None,
    split: str = "train",
    metric: str = "loss",
    top: float | None = None,
) -> Axes:
    """Plot the surface around one network in three dimensions.

    The title says which, where the table has several.

    Args:
      table: what `jt.surface` gave.
      ax: three-dimensional axes (`projection="3d"`) to draw on, or None for a new figure.
      branch: which branch; the first of the table if None.
      level: which level; the sparsest if None.
      seed: which seed; the first if None.
      split: "train", "validation" or "test".
      metric: "loss" or "accuracy" (in percent), or another metric of the table.
      top: values above are cut off there; None for the greatest.

    Returns:
      The axes; x and y are in units of the directions.

    Raises:
      ValueError: if the table is unusable, a name is unknown, or `ax` has two dimensions.

    Reference: KD-LTS, figures 9 and 31.
    """
    rows, title = _one(table, branch, level, seed, split, metric)
    x, y, values = regular("table", rows)
    if top is not None:
        values = np.minimum(values, _check.number("top", top))
    with _style.style():
        if ax is None:
            figure = pyplot.figure(figsize=_style.SIZE, dpi=_style.DPI, layout="constrained")
            ax = figure.add_subplot(projection="3d")
        if not isinstance(ax, Axes3D):
            raise ValueError(
                "`ax` must have three dimensions; make it with subplot_kw={'projection': '3d'}"
            )
        mesh = np.meshgrid(x, y)
        ax.plot_surface(
            *mesh, values, cmap="viridis_r", linewidth=0, rcount=len(y),
            ccount=len(x),
        )  # fmt: skip
        ax.set(xlabel="$x$", ylabel="$y$", zlabel=metric_label(metric, split, table))
        if title:
            ax.set_title(title)
    return ax


def loss_contours(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    path: pd.DataFrame | None = None,
    branch: str | None = None,
    level: int | None = None,
    seed: int | None = None,
    split: str = "train",
    metric: str = "loss",
    contours: int = 12,
    colorbar: bool | None = None,
) -> Axes:
    """Plot the surface around one network as filled contours, with its trajectory.

    The title says which, where the table has several.

    Args:
      table: what `jt.surface` gave, or the surface of a trajectory.
      ax: axes to draw on, or None for a new figure.
      path: the path of `jt.trajectory`, whose steps are drawn as a line with dots.
      branch, level, seed, split, metric: as of `loss_surface`.
      contours: about how many levels.
      colorbar: whether to draw a color bar, or None to draw one where there is room.

    Returns:
      The axes.

    Raises:
      ValueError: if a table is unusable, or a name is unknown.

    Reference: Li et al. (2018), figures 1 and 9.
    """
    if colorbar is not None:
        _check.flag("colorbar", colorbar)
    contours = _check.whole("contours", contours, 2)
    rows, title = _one(table, branch, level, seed, split, metric)
    x, y, values = regular("table", rows)
    names = "$x$", "$y$"
    steps = None
    if path is not None:
        check_table(path, ("seed", "level", "branch", "step", "x", "y", "share_x", "share_y"),
                    argument="path", remedy="pass jt.trajectory(...).path")  # fmt: skip
        same = {name: rows[name].iloc[0] for name in ("branch", "level", "seed")}
        steps = where(path, **same).sort_values("step")
        if steps.empty:
            raise ValueError(f"`path` has no steps of {same}; pass that of the same trajectory")
        shares = steps["share_x"].iloc[0], steps["share_y"].iloc[0]
        names = [
            f"{name} component ({100 * share:.0f}% of the variance)"
            for name, share in zip(("first", "second"), shares, strict=True)
        ]
    with panel(ax) as shown:
        filled(
            shown, x, y, values, metric=metric, label=metric_label(metric, split, table),
            contours=contours, colorbar=_style.wants_colorbar(ax) if colorbar is None else colorbar,
        )  # fmt: skip
        shown.set(xlabel=names[0], ylabel=names[1])
        if title:
            shown.set_title(title)
        if steps is None:
            shown.plot([0], [0], "+", color="white", markersize=7)
        else:
            shown.plot(steps["x"], steps["y"], "o-", color="0.1", markersize=2.5, linewidth=0.9)
            # distances across may be far smaller than along
            shown.set(aspect="auto")
    return shown


def loss_cuts(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "train",
    metric: str = "loss",
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the cut at y = 0 through the surfaces of several branches, means over seeds.

    The legend states the density of each branch, and names those that are not drawn.

    Args:
      table: what `jt.surface` gave, also with directions=1; of several runs joined by
        `jt.results.concat`.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines, in this order; all if None.
      level: level of all lines; the sparsest of each branch if None.
      split, metric: as of `loss_surface`.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      ylim: limits of y, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is in units of the direction.

    Raises:
      ValueError: if the table is unusable, or a name is unknown.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    rows = select("table", table, split, metric, common=KEYS, remedy="pass each surface once")
    rows = where(rows, y=0.0)
    if rows.empty:
        raise ValueError("`table` has no points at y = 0; pass what jt.surface gave")
    order = _style.branch_order(_table.names_of(rows), branches)
    looks = _style.branch_styles(order)
    within = _table.possible(metric, rows)
    series, chosen = [], {}
    for name in order:
        own = where(rows, branch=name)
        chosen[name] = _table.chosen_level(own, level)
        own, look = where(own, level=chosen[name]), looks[name]
        points = spread(own, "x", band, within)
        whole = (name, chosen[name]) == _table.DENSE_LINE
        label = "dense" if whole else f"{look.label}, {_table.share_of(own)}"
        series.append(Series(label, points, look.color, "", look.line))
    reach = float(np.abs(_panel.all_x(series)).max())

    def x_axis(ax: Axes) -> None:
        ax.set(xlabel="$x$", xlim=(-reach, reach))

    return line_figure(
        ax, series, band, x_axis=x_axis,
        ylabel=metric_label(metric, split, table), ylim=ylim, corner="upper right", legend=legend,
        what="seeds", left_out=_table.not_drawn(rows, chosen, level, every=False),
    )  # fmt: skip


def _one(
    table: pd.DataFrame,
    branch: str | None,
    level: int | None,
    seed: int | None,
    split: str,
    metric: str,
) -> tuple[pd.DataFrame, str]:
    """The rows of one network, and a title that says which, empty where there is one alone."""
    rows = select("table", table, split, metric, common=KEYS, remedy="pass one surface at a time")
    every = rows
    names = _table.names_of(rows)
    if branch is not None and branch not in names:
        raise ValueError(f"`branch` {branch!r} is not in `table`; {_check.nearest(branch, names)}")
    rows = where(rows, branch=names[0] if branch is None else branch)
    rows = where(rows, level=_table.chosen_level(rows, level))
    seeds = [int(x) for x in rows["seed"].unique()]
    if seed is not None and seed not in seeds:
        raise ValueError(f"`seed` must be one of {seeds}, got {seed!r}")
    rows = where(rows, seed=seeds[0] if seed is None else seed)
    of = tuple(rows[name].iloc[0] for name in ("branch", "level", "seed"))
    return rows, _table.network_title(every, of, _table.share_of(rows))
