"""Measures of the loss landscape: spectral densities, and smoothness along the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from jaxticket import _check, results
from jaxticket.plots import _panel, _table
from jaxticket.plots._axes import training_axis
from jaxticket.plots._panel import Mark, Series, line_figure
from jaxticket.plots._style import branch_order, branch_styles, percent
from jaxticket.plots._table import Band, check_options, column, select, spread, where

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("branch", "level", "density", "seed", "index")
WATCHED = ("branch", "level", "density", "seed", "step")
# a start vector may see an eigenvalue with so small a share of what it has on average
UNSEEN = 30.0
# below the greatest density, where a table does not say of how many weights it is
DECADES = 1e-7
EIGENVALUE = Mark("|", 0.6, size=6.0)
# heights of the first row of eigenvalues and of a row, as shares of the axes
FIRST_ROW, ROW = 0.035, 0.033
SMOOTHNESS = {
    "loss": "Loss along the gradient",
    "gradient_change": "Change of the gradient ($L_2$)",
    "beta": r"Effective $\beta$-smoothness",
}
ENDS = ("_least", "_greatest")


def spectral_density(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    layer: str | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Band = "minmax",
    eigenvalues: bool = True,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the spectral density of a curvature on a log scale: a line per branch.

    Lines are means over seeds. The density of each seed is interpolated where the others are given,
    and 0 beyond its spectrum. Below, a row of marks per branch shows the largest eigenvalues of all
    seeds. Seeds that diverged are left out, and counted in the legend, which names the densities
    that are not drawn.

    Args:
      table: what `jt.measure(runs, "hessian")` or another `jt.probes.Curvature` gave; of several
        runs joined by `jt.results.concat`.
      layer: the layer to draw, of a probe with `layers=True`.
      branches: names of the lines; all if None.
      level: level of all lines; the sparsest of each branch if None.
      band: "minmax" (over seeds), "std" (mean ± one standard deviation) or "none".
      eigenvalues: whether to mark the largest eigenvalues, where the table has them.
      ylim: limits of the density, or None for those that a single eigenvalue is visible in.
      ax: axes to draw on, or None for a new figure.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the eigenvalue, y the density, whose integral is 1.

    Raises:
      ValueError: if the table is unusable, has no density, or no such layer, branch or level.

    Reference: KD-LTS, figures 8 and 30; Yao et al. 2020 (PyHessian).
    """
    check_options(legend=legend, band=band, ylim=ylim)
    _check.flag("eigenvalues", eigenvalues)
    parts = _measured(table, layer, "density", "density_at")
    names = branch_order(_table.names_of(parts["density"]), branches)
    chosen = {name: _at_level(parts["density"], name, level) for name in names}
    grids = {name: _at_level(parts["density_at"], name, level) for name in names}
    every = np.concatenate([column(rows, "value") for rows in grids.values()])
    every = np.unique(every[np.isfinite(every)])
    if not len(every):
        raise ValueError("`table` has no finite value to draw: every replica diverged")
    looks = branch_styles(names)
    series = [
        Series(
            f"{looks[name].label}, {percent(float(np.median(column(chosen[name], 'density'))))}%",
            spread(_on_one_grid(chosen[name], grids[name], every), "x", band, (0.0, math.inf)),
            looks[name].color,
            line=looks[name].line,
        )
        for name in names
    ]
    spots = _largest(table, layer, names, level) if eigenvalues else {}
    if ylim is None:
        ylim = _visible(table, layer, series, rows=len(spots))

    def scales(ax: Axes) -> None:
        reach = 0.02 * float(every[-1] - every[0])
        ax.set(xlabel="Eigenvalue", yscale="log", xlim=(every[0] - reach, every[-1] + reach))

    def rows_of_marks(ax: Axes) -> None:
        for i, (name, values) in enumerate(spots.items()):
            height, color = FIRST_ROW + ROW * i, looks[name].color
            _panel.marks(ax, values, height, EIGENVALUE, color, f"_{name} eigenvalues")

    return line_figure(
        ax, series, band, x_axis=scales, ylabel="Spectral density", ylim=ylim,
        corner="upper right", legend=legend, over=rows_of_marks, what="seeds",
        more=[_panel.mark_entry(EIGENVALUE, "largest eigenvalues")] if spots else [],
        left_out=_left_out(parts["density"], chosen, level),
    )  # fmt: skip


def smoothness(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "gradient_change",
    branches: Sequence[str] | None = None,
    level: int | None = None,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot how much the loss or its gradient varies along the gradient: a band per branch.

    A band reaches from the least to the greatest value over all step lengths, both as means over
    seeds; its upper end is the thick line. Seeds that diverged are left out from that step on, and
    counted in the legend, which names the densities that are not drawn.

    Args:
      table: what `jt.telemetry(runs, monitor=jt.probes.Smoothness(...))` gave, or `monitored()` of
        runs with that monitor; of several runs joined by `jt.results.concat`.
      metric: "loss", "gradient_change" (the gradient predictiveness) or "beta" (effective
        beta-smoothness), or another that the table has both ends of, such as "mine" of
        "mine_least" and "mine_greatest".
      branches: names of the bands; all if None.
      level: level of all bands; the sparsest of each branch if None.
      ylim: limits of the metric, or None for automatic ones.
      ax: axes to draw on, or None for a new figure.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the training step.

    Raises:
      ValueError: if the table is unusable, or has no such metric, branch or level.

    Reference: Santurkar et al. 2018, figure 4; KD-LTS, figures 8 and 30.
    """
    check_options(legend=legend, ylim=ylim)
    remedy = "give the branches of each table different names"
    known = _table.names_of(table, "metric") if "metric" in getattr(table, "columns", ()) else []
    both = [one.removesuffix(ENDS[0]) for one in known if one.endswith(ENDS[0])]
    both = [one for one in both if one + ENDS[1] in known]
    if known and metric not in both:
        near = _check.nearest(str(metric), both) if both else (
            "it has no metrics with both ends; measure with monitor=jt.probes.Smoothness(...)"
        )  # fmt: skip
        raise ValueError(f"`metric` {metric!r} is not in `table` with both ends; {near}")
    least, greatest = (
        select("table", table, None, metric + end, common=WATCHED, remedy=remedy) for end in ENDS
    )
    names = branch_order(_table.names_of(greatest), branches)
    series, chosen = [], {}
    for name, look in branch_styles(names).items():
        top = chosen[name] = _at_level(greatest, name, level)
        points = spread(top, "step", "none").rename(columns={"mean": "top"})
        low = spread(_at_level(least, name, level), "step", "none")["mean"]
        points = points.assign(mean=points["top"], low=low, high=points["top"])
        share = percent(float(np.median(column(top, "density"))))
        series.append(Series(f"{look.label}, {share}%", points, look.color, line=look.line))
    steps = _panel.all_x(series)

    def lower_ends(ax: Axes) -> None:
        for one in series:
            ax.plot(
                one.column("x"), one.column("low"), label=f"_{one.label} least", color=one.color,
                linestyle=one.line, linewidth=0.5, zorder=3,
            )  # fmt: skip

    return line_figure(
        ax, series, "minmax", x_axis=lambda ax: training_axis(ax, steps, start=steps.min()),
        ylabel=SMOOTHNESS.get(metric) or metric.replace("_", " "),
        ylim=_panel.from_zero(series) if ylim is None else ylim, corner="upper right",
        legend=legend, over=lower_ends, what="seeds", across="step lengths",
        left_out=_left_out(greatest, chosen, level),
    )  # fmt: skip


def _of(layer: str | None) -> str:
    """Give the end of the metrics of a layer."""
    return "" if layer is None else f"/{layer}"


def _measured(table: pd.DataFrame, layer: str | None, *metrics: str) -> dict[str, pd.DataFrame]:
    """Select metrics of a curvature, of the whole network or of a layer.

    Raises:
      ValueError: if the table is unusable, or lacks one of them.
    """
    known = _table.names_of(table, "metric") if "metric" in getattr(table, "columns", ()) else []
    first = metrics[0] + _of(layer)
    if known and first not in known:
        layers = sorted(one.partition("/")[2] for one in known if one.startswith(f"{metrics[0]}/"))
        if layer is not None and layers:
            near = _check.nearest(layer, layers)
            raise ValueError(f"`layer` {layer!r} is not in `table`; {near}")
        if layers:
            raise ValueError(f"`table` has a {metrics[0]} of each layer; set `layer` to one of "
                             f"{layers}")  # fmt: skip
        what = "layers=True and starts" if layer is not None else "starts"
        raise ValueError(
            f"`table` has no rows of {first!r}; measure with jt.probes.Curvature({what} above 0)"
        )
    remedy = "give the branches of each table different names"
    return {
        metric: select("table", table, None, metric + _of(layer), common=MEASURED, remedy=remedy)
        for metric in metrics
    }


def _left_out(rows: pd.DataFrame, chosen: dict[str, pd.DataFrame], level: int | None) -> list[str]:
    """Say which densities are not drawn, of the branches whose rows at one level are."""
    drawn = {name: int(own["level"].iloc[0]) for name, own in chosen.items()}
    return _table.not_drawn(rows, drawn, level, every=False)


def _at_level(rows: pd.DataFrame, name: str, level: int | None) -> pd.DataFrame:
    """Select a branch at a level, the sparsest if None."""
    own = where(rows, branch=name)
    return where(own, level=_table.chosen_level(own, level))


def _on_one_grid(rows: pd.DataFrame, grid: pd.DataFrame, every: np.ndarray) -> pd.DataFrame:
    """Interpolate the density of each seed to the places of all seeds of the branch.

    Args:
      rows: seed, index and the density there.
      grid: seed, index and the place.
      every: the places of all branches, for those that diverged.
    """
    places = grid.assign(x=grid["value"])[["seed", "index", "x"]]
    rows = rows.merge(places, on=["seed", "index"], how="left")
    finite = np.isfinite(column(rows, "x"))
    x = np.unique(column(rows, "x")[finite]) if finite.any() else every
    parts = []
    for _, own in rows.groupby("seed"):
        own = own.sort_values("x")
        at, value = column(own, "x"), column(own, "value")
        found = np.full(len(x), np.nan)
        if np.isfinite(at).all() and np.isfinite(value).all():
            found = np.interp(x, at, value, left=0.0, right=0.0)
        parts.append(results.spread(found, {"x": x}))
    return results.concat(parts)


def _visible(
    table: pd.DataFrame, layer: str | None, series: Sequence[Series], *, rows: int
) -> tuple[float, float]:
    """Compute limits that show the greatest density, and that of a single eigenvalue.

    Of n weights an eigenvalue has the share 1 / n, by which its peak is lower than if all
    eigenvalues were the same; a start vector may see less of it. Rows of marks come below.
    """
    top = float(np.nanmax(np.concatenate([one.column("high") for one in series])))
    counts = column(where(table, metric=f"weights{_of(layer)}"), "value")
    counts = counts[np.isfinite(counts)]
    low = top / (UNSEEN * counts.max()) if len(counts) else DECADES * top
    share = FIRST_ROW + ROW * rows if rows else 0.0
    return low * (low / top) ** (share / (1 - share)), top * (top / low) ** 0.05


def _largest(
    table: pd.DataFrame, layer: str | None, names: Sequence[str], level: int | None
) -> dict[str, np.ndarray]:
    """Give the finite eigenvalues of each branch, of all seeds; branches without are left out."""
    if f"eigenvalue{_of(layer)}" not in _table.names_of(table, "metric"):
        return {}
    rows = _measured(table, layer, "eigenvalue")["eigenvalue"]
    found = {}
    for name in set(_table.names_of(rows)).intersection(names):
        values = column(_at_level(rows, name, level), "value")
        if np.isfinite(values).any():
            found[name] = values[np.isfinite(values)]
    return {name: found[name] for name in names if name in found}
