"""Corrupted images, and errors on them by corruption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.analysis.corruption_errors import ERRORS
from jaxticket.data import CORRUPTIONS, Data, corrupt
from jaxticket.data.alike import need_images
from jaxticket.data.corruptions import SEVERITIES, corruptions_of, levels
from jaxticket.plots import _panel, _table
from jaxticket.plots._panel import place_legend
from jaxticket.plots._style import DENSE, DPI, branch_order, branch_styles, panel, style
from jaxticket.plots._table import Band, check_options, column, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

# tiles in a row of one severity
ACROSS = 5
# inches of a tile
TILE = 0.62


def corruptions(
    data: Data,
    ax: Axes | None = None,
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    example: int = 0,
    split: str = "test",
    seed: int = 0,
) -> Axes:
    """Draw an image under corruptions: a row for each, with the image as it is on the left.

    With one severity, tiles stand five in a row, with their names below them.

    Args:
      data: images, in memory.
      ax: axes to draw on, or None for a new figure, as large as it has to be.
      names: corruptions, of `jt.data.CORRUPTIONS`; all that change the images if None.
      severities: of 1 to 5.
      example: number of the image in its split.
      split: "train", "validation" or "test".
      seed: of what is drawn.

    Returns:
      The axes, with one image of all tiles.

    Raises:
      ValueError: for data that are no images, and unknown names, severities, splits and images.
    """
    need_images("data", data)
    images = data.splits[_check.one_of("split", split, tuple(data.splits))].x
    example = _check.whole("example", example, 0, len(images) - 1)
    known = tuple(CORRUPTIONS)
    chosen = (
        corruptions_of(data.shape[-1])
        if names is None
        else _check.several(
            "names", names, lambda word, name: _check.one_of(word, name, known), like="('fog',)",
            distinct=True,
        )
    )  # fmt: skip
    severe = _check.several(
        "severities", severities, _check.whole, like="(1, 5)", distinct=True, low=1,
        high=len(SEVERITIES),
    )  # fmt: skip
    white, one = levels(data), images[example : example + 1]

    def tile(name: str, severity: int) -> np.ndarray:
        found = corrupt(one, name, severity, seed=seed, white=white, numbers=[example])
        return found[0] / white

    clean = one[0] / white
    rows = [[clean, *(tile(name, severity) for severity in severe)] for name in chosen]
    alone = len(severe) == 1
    if alone:
        tiles = [clean, *(row[1] for row in rows)]
        rows = [tiles[first : first + ACROSS] for first in range(0, len(tiles), ACROSS)]
    picture, (height, width) = _mosaic(rows, space=4 if alone else 1)
    if ax is None:
        size = (TILE * len(rows[0]) + (0.1 if alone else 1.25), TILE * len(rows) * height / width)
        size = (1.6 * size[0], 1.6 * size[1]) if alone else (size[0], size[1] + 0.3)
        with style():
            ax = pyplot.subplots(figsize=size, dpi=DPI, layout="constrained")[1]
    with panel(ax) as ax:
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.imshow(picture, vmin=0, vmax=1, interpolation="nearest")
        # what room is left is at the labels
        ax.set_anchor("E")
        places = [width * i + clean.shape[1] / 2 - 0.5 for i in range(len(rows[0]))]
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        if alone:
            ax.set(xticks=[], yticks=[])
            for i, name in enumerate(["none", *chosen]):
                row, place = divmod(i, ACROSS)
                under = height * row + clean.shape[0] - 0.2
                ax.text(places[place], under, _words(name), ha="center", va="top", fontsize=7)
        else:
            ax.set_xticks(places, ["none", *map(str, severe)])
            middle = clean.shape[0] / 2 - 0.5
            ax.set_yticks([height * i + middle for i in range(len(chosen))], map(_words, chosen))
            ax.set_title("severity")
    return ax


def _mosaic(
    rows: Sequence[Sequence[np.ndarray]], *, space: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """One picture [height, width, 3] of rows of tiles, and the distances of tiles in pixels.

    Args:
      rows: tiles [height, width, 1 or 3] in [0, 1].
      space: between rows, in units of the space between columns.
    """
    tall, wide, _ = rows[0][0].shape
    gap = max(1, round(min(tall, wide) / 16))
    height, width = tall + space * gap, wide + gap
    picture = np.ones((height * len(rows), width * len(rows[0]) - gap, 3))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            picture[i * height : i * height + tall, j * width : j * width + wide] = tile
    return np.clip(picture, 0, 1), (height, width)


def _words(name: str) -> str:
    return name.replace("_", " ").replace("jpeg", "JPEG").replace("gaussian", "Gaussian")


def corruption_errors(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Band = "std",
    legend: bool = True,
) -> Axes:
    """Plot errors by corruption: means over severities, a dot for each method.

    Level 0 of "ticket", or branch "dense", is the dense network, a gray line in each row. The
    legend states the density of each method, or its level in tables without densities, and names
    those that are not drawn.

    Args:
      table: what `jt.measure(runs, "corruptions")` gave, with branches named after methods.
      ax: axes to draw on, or None for a new figure, as high as it has to be.
      branches: methods to draw, in this order, or None for all.
      level: which level of the tickets; the sparsest of each branch if None.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      legend: whether to draw a legend.

    Returns:
      The axes; x is the error in percent, rows are corruptions.

    Raises:
      ValueError: if the table is unusable, or there is no such branch or level.

    Reference: KD-LTS, appendix C.1.
    """
    check_options(legend=legend, band=band)
    remedy = "pass what jt.measure(runs, 'corruptions') gave"
    check_table(
        table, ("branch", "level", "seed", "metric", "index", "value"), remedy=remedy
    )  # fmt: skip
    rows = table.loc[table["metric"].astype(str).str.startswith(ERRORS)]
    if rows.empty:
        raise ValueError(f"`table` has no errors of corruptions; {remedy}")
    rows = _table.once(
        rows, ("branch", "level", "seed", "metric", "index"), "value", remedy="keep one measurement"
    )
    rows = rows.assign(value=100 * column(rows, "value"))
    is_dense = (rows["branch"] == "dense") | (rows["branch"] == "ticket") & (rows["level"] == 0)
    dense, tickets = rows.loc[is_dense], rows.loc[~is_dense]
    if tickets.empty:
        raise ValueError("`table` has dense networks alone; add those of some method")
    every = tickets
    if level is not None:
        known = sorted(int(one) for one in tickets["level"].unique())
        tickets = where(tickets, level=_check.one_of("level", level, known))
    methods = branch_order(_table.names_of(tickets), branches)
    chosen = {name: _table.chosen_level(where(tickets, branch=name), None) for name in methods}
    said = _table.not_drawn(every, chosen, level, every=branches is None)
    looks = branch_styles(methods)
    present = [one.removeprefix(ERRORS) for one in _table.names_of(rows, "metric")]
    order = [name for name in CORRUPTIONS if name in present]
    order += [name for name in present if name not in order]
    metrics = [f"{ERRORS}{name}" for name in order]
    step = 0.7 / len(methods)
    entries, spreads = list[Line2D](), False
    if ax is None:
        high = 0.9 + len(order) * max(0.2, 0.06 * len(methods) + 0.08)
        with style():
            ax = pyplot.subplots(figsize=(4.8, high), dpi=DPI, layout="constrained")[1]
    with panel(ax) as ax:
        ax.grid(True, axis="x")
        ax.grid(False, axis="y")
        for i in range(1, len(order), 2):
            ax.axhspan(i - 0.5, i + 0.5, color="0.96", zorder=0, linewidth=0)
        if not dense.empty:
            mean = _means(dense, metrics, "none")[0]
            y = np.arange(len(order))
            ax.vlines(mean, y - 0.42, y + 0.42, color=DENSE, linewidth=1.2, zorder=2)
            entries.append(Line2D([], [], color=DENSE, label="dense"))
        for i, (name, look) in enumerate(looks.items()):
            own = where(tickets, branch=name, level=chosen[name])
            label = f"{look.label}, {_table.share_of(own)}"
            mean, low, high = _means(own, metrics, band)
            spreads |= bool((high > low).any())
            y = np.arange(len(order)) + (i - (len(looks) - 1) / 2) * step
            ax.hlines(y, low, high, color=look.color, linewidth=0.9, zorder=3)
            ax.plot(mean, y, look.marker or "o", color=look.color, markeredgewidth=0,
                    label=label, zorder=4)  # fmt: skip
            entries.append(
                Line2D([], [], color=look.color, marker=look.marker or "o", markeredgewidth=0,
                       linestyle="", label=label)
            )  # fmt: skip
        ax.set_yticks(range(len(order)), [_words(name) for name in order])
        ax.tick_params(axis="y", length=0)
        ax.set(xlabel="Error (%), mean over severities", ylim=(len(order) - 0.5, -0.5))
        ax.set_xlim(left=0)
        if legend:
            if spreads and band != "none":
                entries.append(_panel.spread_entry(band, "seeds", bars="_"))
            entries += map(_panel.text_entry, said)
            place_legend(ax, entries, corner="upper right")
    return ax


def _means(rows: pd.DataFrame, metrics: Sequence[str], band: Band) -> list[np.ndarray]:
    """Mean, low and high over seeds of the means over severities, for each corruption."""
    # nan of a seed that diverged stays
    each = rows.groupby(["metric", "seed"])["value"].agg(lambda one: one.mean(skipna=False))
    found = spread(each.reset_index(), "metric", band, _table.SHARES)
    found = found.set_index("x").reindex(list(metrics))
    return [found[name].to_numpy(float) for name in ("mean", "low", "high")]
