"""Accuracy under attack by its radius."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from jaxticket.plots import _table
from jaxticket.plots._panel import Series, line_figure
from jaxticket.plots._table import Band, branch_lines, check_options, column, spread
from jaxticket.results import check_table, concat

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("branch", "level", "density", "seed", "metric", "index", "value")
KEYS = ["branch", "level", "seed", "index"]
REMEDY = "pass what jt.measure(runs, jt.probes.Attack(radius=(...))) gave"


def robustness(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Band = "std",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot accuracy under attack against its radius, means over seeds, a line for each branch.

    Clean accuracy is at radius 0. The legend states the density of each branch, and names those
    that are not drawn.

    Args:
      table: what `jt.measure(runs, jt.probes.Attack(radius=(...)))` gave; branches may be named
        after methods.
      ax: axes to draw on, or None for a new figure.
      branches: "dense" for level 0 of "ticket", and other branches; None for all.
      level: the level of all but the dense network; None for the sparsest that all have.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      ylim: limits in percent, or None for automatic ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the radius, y the accuracy in percent.

    Raises:
      ValueError: if the table is unusable, or a branch or level is unknown.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    rows = by_radius(table)
    lines = branch_lines(rows, branches, level)
    series = [
        Series(line.label, spread(line.rows(rows), "radius", band, _table.SHARES), line.color,
               line.marker, line.line)
        for line in lines
    ]  # fmt: skip
    reach = float(column(rows, "radius").max()) or 1.0

    def x_axis(ax: Axes) -> None:
        ax.set(xlabel="Radius of the attack", xlim=(-0.03 * reach, 1.03 * reach))

    return line_figure(
        ax, series, band, x_axis=x_axis, ylabel="Accuracy under attack (%)", ylim=ylim,
        corner="upper right", legend=legend, what="seeds",
        left_out=_table.left_out(rows, lines, branches, level),
    )  # fmt: skip


def by_radius(table: pd.DataFrame) -> pd.DataFrame:
    """The accuracies of a table, in percent, with their radii; 0 of clean examples.

    Raises:
      ValueError: for a table that is not that of an attack.
    """
    check_table(table, COLUMNS, remedy=REMEDY)
    dense = (table["branch"] == "dense") & (table["level"] == 0)
    table = table.assign(branch=table["branch"].mask(dense, "ticket"))
    names = ("clean_accuracy", "radius", "adversarial_accuracy")
    lack = [name for name in names if name not in set(table["metric"])]
    if lack:
        raise ValueError(f"`table` has no {lack[0]!r}; {REMEDY}")
    table = _table.once(table, [*KEYS, "metric"], "value", remedy="keep one measurement")
    clean, radii, attacked = (table.loc[table["metric"] == name] for name in names)
    # of networks that diverged the radius is nan as well
    known = radii.groupby("index")["value"].max()
    attacked = attacked.assign(radius=attacked["index"].map(known))
    if known.isna().any():
        raise ValueError("`table` has no finite value to draw: every network diverged")
    rows = concat([clean.assign(radius=0.0), attacked.loc[attacked["radius"] != 0]])
    return rows.assign(value=100 * column(rows, "value"))
