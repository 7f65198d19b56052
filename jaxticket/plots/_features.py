"""Features of networks: scatter by class, and how alike they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from jaxticket import _check
from jaxticket.plots._style import branch_styles, panel
from jaxticket.plots._table import column, network_title, share_of, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

NETWORK = ("branch", "level", "seed")
# so many classes can be told apart by color and named in a legend
CLASSES = 10


def features(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branch: str | None = None,
    level: int | None = None,
    seed: int | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the features of one network in two dimensions, a dot for each example in its class.

    The title says which network, where the table has several.

    Args:
      table: what `jt.features(runs).projected("pca")` gave, or "tsne".
      ax: axes to draw on, or None for a new figure.
      branch: which branch; the first of the table if None.
      level: which level; the sparsest of the branch if None.
      seed: which seed; the first if None.
      legend: whether to draw a legend of the classes (up to 10 of them).

    Returns:
      The axes.

    Raises:
      ValueError: if the table is unusable, or there is no such network.

    Reference: KD-LTS, figures 19 and 26.
    """
    _check.flag("legend", legend)
    check_table(table, (*NETWORK, "example", "label", "x", "y"),
                remedy="pass jt.features(runs).projected()")  # fmt: skip
    rows = table
    for name, value in (("branch", branch), ("level", level), ("seed", seed)):
        known = list(rows[name].unique())
        if value is not None and value not in known:
            raise ValueError(f"`{name}` must be one of {known}, got {value!r}")
        first = max(known) if name == "level" else known[0]
        rows = where(rows, **{name: first if value is None else value})
    of = tuple(rows[name].iloc[0] for name in NETWORK)
    title = network_title(table, of, share_of(rows))
    classes = sorted(rows["label"].unique())
    colors = matplotlib.colormaps["tab10" if len(classes) <= CLASSES else "turbo"]
    with panel(ax) as ax:
        ax.grid(False)
        for i, one in enumerate(classes):
            own = where(rows, label=one)
            color = colors(i if len(classes) <= CLASSES else i / (len(classes) - 1))
            ax.scatter(own["x"], own["y"], s=5, color=color, linewidths=0, label=f"{one}")
        ax.set(xticks=[], yticks=[], xlabel="first dimension", ylabel="second dimension")
        if title:
            ax.set_title(title)
        if legend and len(classes) <= CLASSES:
            # dots may be anywhere inside
            ax.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2)
    return ax


def similarity(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot linear CKA between networks as a matrix with its numbers, means over seeds.

    Cells compare networks of the same seed, those of the diagonal networks of different seeds
    (with one seed a network with itself).

    Args:
      table: what `jt.features(runs).similarity()` gave.
      ax: axes to draw on, or None for a new figure.

    Returns:
      The axes; a row and a column for each branch and level.

    Raises:
      ValueError: if the table is unusable.
    """
    others = tuple(f"other_{name}" for name in NETWORK)
    check_table(table, (*NETWORK, *others, "value"), remedy="pass jt.features(runs).similarity()")
    names = list(dict.fromkeys(zip(table["branch"], table["level"], strict=True)))
    looks = branch_styles([str(branch) for branch, _ in names])
    several = len(np.unique(column(table, "seed"))) > 1
    values = np.full((len(names), len(names)), np.nan)
    for i, (branch, level) in enumerate(names):
        for j, (other, other_level) in enumerate(names):
            rows = where(
                table, branch=branch, level=level, other_branch=other, other_level=other_level
            )
            same = column(rows, "seed") == column(rows, "other_seed")
            own = column(rows, "value")[~same if several and i == j else same]
            values[i, j] = np.nanmean(own) if np.isfinite(own).any() else np.nan
    labels = [f"{looks[str(branch)].label}, level {level}" for branch, level in names]
    places = range(len(names))
    with panel(ax) as shown:
        shown.grid(False)
        shown.imshow(values, vmin=0, vmax=1, cmap="Blues")
        for i, j in np.ndindex(values.shape):
            color = "white" if values[i, j] > 0.6 else "black"
            shown.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color)
        shown.set_xticks(places, labels, rotation=30, ha="right")
        shown.set_yticks(places, labels)
    return shown
