"""Training speed against density: early-stopping steps, and the smallest dilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxticket import _check
from jaxticket.analysis import stats
from jaxticket.plots._density import (
    BANDS,
    Band,
    against_density,
    check_ylim,
    density_axis,
    open_marker,
    opened,
)
from jaxticket.plots._style import DENSE, branch_order, branch_styles, place_legend, prepared, style

# a pandas DataFrame; only `jaxticket.results` imports pandas
Table = Any


def early_stop(
    table: Table,
    ax: Axes | None = None,
    *,
    what: Literal["step", "accuracy"] = "step",
    branches: Sequence[str] | None = None,
    band: Band = "minmax",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The step of least validation loss against density, or the test accuracy at that step.

    Args:
      table: tidy table with validation losses and test accuracies.
      ax: axes to draw on, or None for a new figure.
      what: "step" or "accuracy".
      branches: names of the branches to draw, or None for all.
      band: "minmax" (shaded), "bars" (error bars to the same), "std" (mean ± one standard
        deviation, shaded) or "none".
      ylim: limits in steps or percent, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is density in percent on a reversed log axis.

    Raises:
      ValueError: if the table is unusable or has no validation split, or a branch is unknown.

    Reference: Frankle's thesis, section 3.3.6 and figure 3-8.
    """
    _check.flag("legend", legend)
    _check.one_of("what", what, ("step", "accuracy"))
    _check.one_of("band", band, BANDS)
    rows = stats.early_stop(table)
    rows = rows.assign(accuracy=100 * rows["accuracy"])
    step = what == "step"
    return against_density(
        rows,
        "early_stop_step" if step else "accuracy",
        ax,
        branches=branches,
        band=band,
        ylim=ylim,
        legend=legend,
        ylabel="Early-stopping step" if step else "Test accuracy (%)\nat early stopping",
        is_accuracy=not step,
    )


def dilation(
    table: Table,
    ax: Axes | None = None,
    *,
    margin: float = 0.0,
    branches: Sequence[str] | None = None,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """The smallest dilation δ* at which a ticket is as accurate as the dense network.

    The grey line is the dense network's own δ*: branches at or below it train at least as fast.
    Open markers at the top stand for tickets that no factor was enough for.

    Args:
      table: tidy table with the further column `dilation`, trained at several factors.
      ax: axes to draw on, or None for a new figure.
      margin: accuracy that may be lost, in [0, 1]; see `analysis.speed.smallest_dilation`.
      branches: names of the branches to draw, or None for all.
      ylim: limits of δ*, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is density in percent on a reversed log axis, y is δ*.

    Raises:
      ValueError: if the table is unusable or has no dense network at dilation 1, or a branch is
        unknown.

    Reference: Frankle's thesis, section 3.3.6 and figure 3-9.
    """
    _check.flag("legend", legend)
    check_ylim(ylim)
    stars: Any = stats.smallest_dilation(table, margin=margin)
    names = branch_order(stars["branch"].unique(), branches)
    dense = float(stats.dense_rows(stars)["delta_star"].iloc[0])
    stars = stars[stars["branch"].isin(names)]
    factors = table["dilation"].astype(float)
    low, high = ylim or (0.0, 1.05 * float(factors.max()))
    lost = stars[np.isinf(stars["delta_star"])]
    # markers at the top edge, one row per branch, so that none covers another
    rows = [name for name in names if (lost["branch"] == name).any()]
    gap = 0.045 * (high - low)
    top = high if ylim else high + gap * len(rows)
    with style():
        ax = prepared(ax)
        if np.isfinite(dense):
            ax.axhline(dense, color=DENSE, linewidth=1.1, zorder=1.5, label="dense")
        for name, look in branch_styles(names).items():
            points = stars[stars["branch"] == name].sort_values("density", ascending=False)
            x = 100 * points["density"].to_numpy(float)
            y = points["delta_star"].to_numpy(float)
            reached = np.where(np.isfinite(y), y, np.nan)
            line = {"color": look.color, "marker": look.marker, "markeredgewidth": 0, "zorder": 3}
            ax.plot(x, reached, label=look.label, **line)
            if name in rows:
                edge = np.full(np.isinf(y).sum(), top - gap * (rows.index(name) + 0.5))
                hollow = opened(look.marker, look.color)
                ax.plot(x[np.isinf(y)], edge, label="_not reached", zorder=3, **hollow)
        density_axis(ax, stars["density"])
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        # no dilation was tried above: that room is for the markers
        ax.set_yticks([tick for tick in ticks if low <= tick <= high])
        ax.set(ylim=(low, top), ylabel=r"Smallest sufficient dilation $\delta^*$")
        handles = ax.get_legend_handles_labels()[0]
        if rows:
            handles.append(open_marker("not reached"))
        if legend:
            place_legend(ax, handles, corner="lower left")
    return ax
