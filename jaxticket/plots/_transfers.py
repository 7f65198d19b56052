"""Which source's tickets suit which target: a heat map."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import Rectangle

from jaxticket.plots._early import check, once
from jaxticket.plots._samples import Table
from jaxticket.plots._style import prepared, style

LEAST = 1.0
"""Points of accuracy at which the colours are full, at least."""


def transfer_matrix(table: Table, ax: Axes | None = None, *, level: int | None = None) -> Axes:
    """Accuracy of every source's tickets on every target, relative to the target's own tickets.

    Args:
      table: of `jt.transfer_matrix`.
      ax: axes to draw on, or None for a new figure.
      level: which; the last if None.

    Returns:
      The axes: a row per source, a column per target, each cell with the accuracy in %, and below
      it the difference to the target's own tickets in points, which its colour shows.

    Raises:
      ValueError: if the table is unusable or does not have the level.
    """
    columns = ("source", "target", "level", "accuracy", "difference", "density")
    check(table, columns, "a source, a target and a level")
    level = int(table["level"].max()) if level is None else level
    rows = table[table["level"] == level]
    if rows.empty:
        raise ValueError(f"`level` must be one of {sorted(table['level'].unique())}, got {level!r}")
    rows = once(rows, ("source", "target"), "accuracy")
    targets = list(dict.fromkeys(rows["target"]))
    others = [name for name in dict.fromkeys(rows["source"]) if name not in targets]
    sources = [*(name for name in targets if name in set(rows["source"])), *others]
    cells = {(row["source"], row["target"]): row for row in rows.to_dict("records")}
    finite = 100 * np.abs(rows["difference"].to_numpy(float))
    most = max(LEAST, float(np.nanmax(finite, initial=0.0)))
    # green and purple are told apart by readers who are blind to red or green
    colors, norm = pyplot.get_cmap("PRGn"), TwoSlopeNorm(0, -1.6 * most, 1.6 * most)
    with style():
        ax = prepared(ax)
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                _cell(ax, j, i, cells.get((source, target)), lambda d: colors(norm(d)))
        ax.set(xlim=(-0.5, len(targets) - 0.5), ylim=(len(sources) - 0.5, -0.5))
        ax.set_xticks(range(len(targets)), targets)
        ax.set_yticks(range(len(sources)), sources)
        ax.set(xlabel="trained on", ylabel="tickets found on")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        ax.set_title(f"{100 * rows['density'].mean():.3g}% of weights", fontsize="medium")
    return ax


def _cell(ax: Axes, column: int, row: int, here: Any, color: Any) -> None:
    place = column - 0.5, row - 0.5
    if here is None or not np.isfinite(here["accuracy"]):
        ax.add_patch(Rectangle(place, 1, 1, facecolor="white", edgecolor="0.85", linewidth=0.6))
        said = "–" if here is None else "diverged"
        ax.text(column, row, said, ha="center", va="center", color="0.6")
        return
    own = here["source"] == here["target"]
    difference = 100 * here["difference"]
    face = "0.93" if own else color(difference)
    ax.add_patch(Rectangle(place, 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
    said = f"{100 * here['accuracy']:.1f}"
    spread = here.get("std", np.nan)
    said += f" ± {100 * spread:.1f}" if np.isfinite(spread) else ""
    lost = here.get("diverged", 0)
    said += f"\n{int(lost)} of {int(here['seeds'])} diverged" if lost and lost == lost else ""
    said += "\nown" if own else f"\n{difference:+.1f}".replace("-", "\N{MINUS SIGN}")
    ax.text(column, row, said, ha="center", va="center", fontsize=8)
