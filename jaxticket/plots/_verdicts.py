"""Where networks are stable and where they are matching: against density, and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots._density import density_axis
from jaxticket.plots._samples import DENSE_LINE, Spread, Table, axis_label, check_table
from jaxticket.plots._stability import (
    against_steps,
    barrier_panel,
    dense_error,
    error_panel,
    error_series,
    step_legend,
    steps_of,
)
from jaxticket.plots._steps import error_bars, impossible, notes, step_axis, without_neighbours
from jaxticket.plots._style import DPI, branch_order, branch_styles, place_legend, prepared, style

# the two often coincide: the larger open points are seen around the others
VERDICTS: dict[str, dict[str, Any]] = {
    "stable": {"linestyle": "-", "markeredgewidth": 0},
    "matching": {
        "linestyle": (0, (3, 2)),
        "markerfacecolor": "none",
        "markeredgewidth": 0.8,
        "markersize": 7,
    },
}


def first_steps(
    steps: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    at: Sequence[int] | None = None,
    majority: float = 0.5,
    legend: bool = True,
) -> Axes:
    """The first step k from which networks are stable, and matching, against density.

    Solid lines with filled points are the median first stable step, dashed lines with open points
    the median first matching step; bands go from the least to the greatest sample, out of
    the axes where a sample has none. Points stand only where more than `majority` of the samples
    have such a step.

    Args:
      steps: table of first steps: branch, level, density, verdict ("stable" or "matching"), step,
        low, high, samples, share.
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches to draw, or None for all.
      at: steps that were tried, for the ticks, or None for those that occur.
      majority: share of samples in [0, 1) that must be exceeded.
      legend: whether to draw one.

    Returns:
      The axes; x is density in percent on a reversed log axis, y is the step k.

    Raises:
      ValueError: if the table is unusable, a branch is unknown, or no point is left.

    Reference: Frankle's thesis, section 4.2 and figure 4-18.
    """
    _check.flag("legend", legend)
    columns = ("branch", "level", "density", "verdict", "step", "low", "high", "samples", "share")
    check_table("steps", steps, columns)
    _check.share("majority", majority, zero=True, one=False)
    names = branch_order(steps["branch"].unique(), branches)
    steps = steps[steps["branch"].isin(names)]
    found = steps[np.isfinite(steps["step"].astype(float)) & (steps["share"] > majority)]
    if found.empty:
        raise ValueError(
            f"`steps` has no density at which more than {majority:g} of the samples of {names} are "
            "stable or matching at any step; lower `majority` or analyse later steps"
        )
    looks = branch_styles(names)
    entries = []
    ends = found[["step", "low", "high"]].to_numpy(float).ravel()
    ends = ends[np.isfinite(ends)].tolist()
    if at is not None:
        # nothing that was found may lie outside
        ends = [*at, *(end for end in ends if end > max(at, default=-1))]
    with style():
        ax = prepared(ax)
        density_axis(ax, steps["density"])
        step_axis(ax, ends, which="y")
        top = ax.get_ylim()[1]
        for name, look in looks.items():
            same: dict[str, Any] = {"color": look.color, "marker": look.marker}
            entries.append(Line2D([], [], label=look.label, markeredgewidth=0, **same))
            for verdict, line in VERDICTS.items():
                # every density, so that a line breaks where there is no majority
                here = steps[(steps["branch"] == name) & (steps["verdict"] == verdict)]
                here = here.sort_values("density", ascending=False)
                x = 100 * here["density"].to_numpy(float)
                kept = here[["step", "low", "high"]].astype(float)
                # a sample without such a step is later than all that were tried
                kept["high"] = kept["high"].fillna(top)
                y, low, high = kept.where(here["share"] > majority).to_numpy().T
                y, low, high = (np.where(np.isfinite(y), one, np.nan) for one in (y, low, high))
                ax.plot(x, y, label=f"_{name} {verdict}", zorder=3, **same, **line)
                band: dict[str, Any] = {"color": look.color, "alpha": 0.12, "linewidth": 0}
                ax.fill_between(x, low, high, zorder=2, **band)
                alone = without_neighbours(y)
                error_bars(ax, x[alone], y[alone], low[alone], high[alone], look.color)
        ax.set_ylabel("First step $k$")
        for verdict, line in VERDICTS.items():
            entries.append(Line2D([], [], color="0.3", marker="o", label=verdict, **line))
        if legend:
            place_legend(ax, entries, corner="upper left")
    return ax


def stable_and_matching(
    table: Table,
    copies: Table | None = None,
    axes: Sequence[Axes] | None = None,
    *,
    dense: Table | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    split: str = "test",
    band: Spread = "std",
    legend: bool = True,
) -> tuple[Axes, Axes]:
    """Two panels over the same steps k: the barrier (left) and the final error (right).

    What is stable, below 2 points on the left, should be matching on the right: within 0.2 points
    of the dense network.

    Args:
      table: tidy table of an instability analysis.
      copies: its copies, for the errors, or None to take them from `table`.
      axes: two axes to draw on, or None for a new figure.
      dense: a table like `copies` with the dense network, if `copies` does not hold it.
      branches: lines to draw: "dense" (level 0; on the right it is the band across) and branches,
        or None for all.
      level: level of all but the dense network, or None for the sparsest in common.
      split: "train", "validation" or "test".
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      legend: whether to draw them.

    Returns:
      Both axes.

    Raises:
      ValueError: if a table is unusable, there is no dense network, `axes` is not two axes, or a
        branch, level or split is unknown.

    Reference: Frankle's thesis, section 4.2 and figures 4-15 and 4-16.
    """
    _check.flag("legend", legend)
    errors = table if copies is None else copies
    lines, barriers = against_steps("table", table, "pair", branches, level, split, "barrier", band)
    names = None if branches is None else _check.texts("branches", branches, like='["shuffle"]')
    others = None if names is None else [name for name in names if name != "dense"] or None
    # the same level on both sides, whatever else the tables hold
    level = next((line.level for line in lines if (line.branch, line.level) != DENSE_LINE), level)
    finals = error_series(errors, others, level, split, "error", band)
    bar = dense_error(errors, dense, split, "error")
    steps = steps_of([*barriers, *finals])
    with style():
        new = axes is None
        if axes is None:
            size: dict[str, Any] = {"figsize": (7.4, 3.4), "dpi": DPI, "layout": "constrained"}
            axes = list(pyplot.subplots(1, 2, **size)[1])
        left, right = (prepared(ax) for ax in _two(axes))
        barrier_panel(left, barriers, band, axis_label("barrier", split, table), steps=steps)
        error_panel(right, finals, bar, band, axis_label("error", split, errors), steps=steps)
        if legend and new:
            entries = {str(one.get_label()): one for ax in (left, right) for one in _labelled(ax)}
            for one in notes([*barriers, *finals]):
                entries[str(one.get_label())] = one
            # above, because a caption stands below
            left.figure.legend(handles=list(entries.values()), loc="outside upper center", ncols=3)
        elif legend:
            step_legend(left, barriers, corner="upper right")
            # what the left legend does not say
            said = {str(line.get_label()) for line in left.lines}
            entries = [one for one in _labelled(right) if str(one.get_label()) not in said]
            place_legend(right, entries + notes(finals), corner="upper right")
        impossible(left, above=100.0)
        impossible(right, above=100.0)
    return left, right


def _two(axes: Any) -> list[Axes]:
    given = list(np.ravel(np.asarray(axes, object)))
    if len(given) != 2 or not all(isinstance(ax, Axes) for ax in given):
        raise ValueError(f"`axes` must be two matplotlib Axes or None, got {axes!r}")
    return given


def _labelled(ax: Axes) -> list[Artist]:
    return ax.get_legend_handles_labels()[0]
