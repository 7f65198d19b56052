"""Accuracies and telemetry during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket.analysis import stats
from jaxticket.plots import _axes, _panel, _table
from jaxticket.plots._axes import training_axis
from jaxticket.plots._panel import Series, line_figure, reach
from jaxticket.plots._style import branch_order, branch_styles, percent
from jaxticket.plots._table import Band, check_options, column, select, spread, where
from jaxticket.results import concat

if TYPE_CHECKING:
    import pandas as pd

# points of accuracy below the ends of the lines that are worth showing
BELOW_ENDS = 12.0
TELEMETRY = ("branch", "level", "density", "seed", "step")
# labels of axes; any other metric of a table has its name
LABELS = {
    "magnitude": "Mean magnitude of weights",
    "sign_flips": "Signs that differ from the start (%)",
    "l2": "$L_2$ distance from the start",
    "cosine": "Cosine similarity to the start",
    "gradient_norm": "$L_2$ norm of the gradient",
}


def curves(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    densities: Sequence[float] | None = None,
    levels: Sequence[int] | None = None,
    branches: Sequence[str] = ("ticket",),
    split: str = "test",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot accuracy during training: colors tell densities, line styles branches.

    Lines are means over seeds, bands the minimum and maximum. A replica that stopped early keeps
    its last accuracy; between evaluations its accuracy is interpolated. Seeds that diverged are
    left out from that step on, and counted in the legend.

    Args:
      table: tidy table with one row per value.
      densities: densities to draw (the nearest levels), such as (1.0, 0.21, 0.036).
      levels: levels to draw instead. Without both: up to five, from dense to the sparsest, and the
        title of the legend says of how many.
      branches: up to four branches.
      ylim: limits in percent, or None to show every line after the first tenth of training.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      legend: whether to draw a legend.

    Returns:
      The axes; x is the training step, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable, or a branch, density or level is not there.

    Reference: Frankle's thesis, figures 3-1 and 3-2.
    """
    check_options(legend=legend, ylim=ylim)
    # checks the table, and gives each level one density
    ends = stats.final(table, split=split)
    names = branch_order(_table.names_of(ends), branches)
    means = stats.over_seeds(where(ends, branch=names))
    known = _table.densities_of(means)
    chosen = _table.chosen_levels(known, levels, densities)
    rows = where(table, split=split, metric="accuracy", level=chosen)
    rows = rows.assign(value=100 * column(rows, "value"))
    parts = {name: _at_all_steps(where(rows, branch=name)) for name in names}
    series = _panel.shaded_series(parts, "level", chosen, "step", "minmax")
    steps = _panel.all_x(series)
    return line_figure(
        # denser networks above sparser ones
        ax, series[::-1], "minmax", x_axis=lambda ax: training_axis(ax, steps, start=steps.min()),
        ylabel=f"{split.capitalize()} accuracy (%)", ylim=ylim or _late_limits(series),
        corner="lower right", legend=legend, entries=lambda: _entries(known, chosen, names),
        title=_title(known, chosen, names), what="seeds",
    )  # fmt: skip


def telemetry(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "l2",
    branches: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
    band: Band = "minmax",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot a metric of the surviving weights during training: a line per density and branch.

    Lines are means over seeds. With several levels, colors tell densities and line styles branches;
    with one level, colors tell branches. Seeds that diverged are left out from that step on, and
    counted in the legend.

    Args:
      table: what `jt.telemetry` returns, or several of these concatenated.
      metric: "magnitude", "sign_flips", "l2", "cosine", "gradient_norm" or any other in the table.
      branches: names of branches, at most four if there are several levels; all if None.
      levels: levels to draw, or None for up to five, from the densest to the sparsest; the title
        of the legend says of how many.
      band: "minmax" (over seeds), "std" (mean ± one standard deviation) or "none".
      ylim: limits of the metric (in percent for "sign_flips"), or None for automatic ones.
      ax: axes to draw on, or None for a new figure.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the training step.

    Raises:
      ValueError: if the table is unusable, or has no such metric, branch or level.

    Reference: KD-LTS, figure 7.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    remedy = "give the branches of each telemetry different names"
    rows = select("table", table, None, metric, common=TELEMETRY, remedy=remedy)
    names = branch_order(_table.names_of(rows), branches)
    rows = where(rows, branch=names)
    known = _table.densities_of(rows)
    chosen = _table.chosen_levels(known, levels)
    rows = where(rows, level=chosen)
    parts = {name: where(rows, branch=name) for name in names}
    # of telemetry it is a similarity, not a distance
    within = (-1.0, 1.0) if metric == "cosine" else _table.possible(metric, rows)
    if several := len(chosen) > 1:
        series = _panel.shaded_series(parts, "level", chosen, "step", band, within=within)
    else:
        share = percent(known[chosen[0]])
        series = [
            Series(
                f"{look.label}, {share}%",
                spread(parts[name], "step", band, within),
                look.color,
                line=look.line,
            )
            for name, look in branch_styles(names).items()
            if len(parts[name])
        ]
    if ylim is None:
        most, values = 100.0 if metric == "sign_flips" else None, reach(series)
        ylim = (
            _axes.limits([*values, 1.0])
            if metric == "cosine" and np.isfinite(values).any()
            else _panel.from_zero(series, most=most)
        )
    steps = _panel.all_x(series)
    return line_figure(
        ax, series, band, x_axis=lambda ax: training_axis(ax, steps, start=steps.min()),
        ylabel=LABELS.get(metric) or metric.replace("_", " "), ylim=ylim, corner="lower right",
        legend=legend, entries=(lambda: _entries(known, chosen, names)) if several else None,
        title=_title(known, chosen, names) if several else None, what="seeds",
    )  # fmt: skip


def _title(known: dict[int, float], levels: list[int], names: list[str]) -> str:
    """Give the title of that legend: the branch, if it is one, and how many levels there are."""
    network = branch_styles(names)[names[0]].label if len(names) == 1 else "network"
    count = f" ({len(levels)} of {len(known)})" if len(levels) < len(known) else ""
    return f"Density{count}, {network}"


def _entries(known: dict[int, float], levels: list[int], names: list[str]) -> list[Line2D]:
    """Give the legend where colors tell densities and line styles branches."""
    labels = [look.label for look in branch_styles(names).values()]
    return _panel.shaded_entries({level: f"{percent(known[level])}%" for level in levels}, labels)


def _at_all_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """Interpolate every seed of a level to the steps of all; the last value stays."""
    parts = []
    for level, own in rows.drop_duplicates(["level", "seed", "step"]).groupby("level"):
        steps = np.unique(own["step"])
        for _, one in own.sort_values("step").groupby("seed"):
            finite = one["value"].where(np.isfinite(one["value"]))
            value = np.interp(steps, one["step"], finite)
            part = one.set_index("step").reindex(steps).assign(level=level, value=value)
            parts.append(part[steps >= one["step"].min()].reset_index())
    return concat(parts) if parts else rows


def _late_limits(series: Sequence[Series]) -> tuple[float, float]:
    """Show every end, and every mean from a tenth of training on, but not far below the ends."""
    ends, late = [], []
    for one in series:
        x, mean, low = map(one.column, ("x", "mean", "low"))
        ends += low[np.isfinite(low)][-1:].tolist()
        late += mean[(x >= 0.1 * x[-1]) & np.isfinite(mean)].tolist()
    lowest = min(ends, default=0.0)
    keep = min(lowest, max(min(late, default=lowest), lowest - BELOW_ENDS))
    return _axes.limits(reach(series), [keep], top=100.0)
