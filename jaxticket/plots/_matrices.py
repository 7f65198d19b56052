"""Tables as colored matrices: barriers by density and step, controls, and transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import place_legend
from jaxticket.plots._style import branch_order, branch_styles, panel, percent
from jaxticket.plots._table import check_options, column, select, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import ColorType

FRAME = "0.1"
# of cells without a value
EMPTY: dict[str, Any] = {
    "facecolor": "0.96", "edgecolor": "0.75", "hatch": "//////", "linewidth": 0.0
}  # fmt: skip
# heads of columns; any other control has its name
HEADS = {
    "shuffle": "layerwise\nshuffle",
    "reinit": "random\nreinit",
    "inverted": "inverted\nscores",
    "sign_flip": "flipped\nsigns",
}
# light enough for black text, and distinguishable for readers who are blind to red or green
FACES = {True: "#BFD9EE", False: "#F8D3A8", None: "0.93"}
SIGNS = {True: " ✓", False: " ✗", None: ""}
# inches; a cell has two lines of text at most
TALLEST = 0.5
# points of accuracy at which the colors of transfers are full, at least
FULL = 1.0


def heat_map(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "barrier",
    branch: str = "ticket",
    at: int | Sequence[int] | None = None,
    split: str = "test",
    colorbar: bool | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the mean barrier for every density and step k, as a map with the numbers in its cells.

    Cells with a barrier below 2 points, the stable ones, are framed and their numbers bold. A
    star marks a mean that leaves out copies that diverged, a cross cells where all did; hatched
    cells were not analyzed. The title says which branch it is, where the table has several.

    Args:
      table: tidy table of an instability analysis.
      metric: "barrier", "error" (in percent), or any other.
      branch: the branch; "ticket" has the dense network on top.
      at: step or steps k, or None for all.
      legend: whether to explain the frames below the map (only where a layout engine makes room).
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      colorbar: whether to draw a color bar, or None to draw one where there is room.

    Returns:
      The axes; x is the step k, y density in percent, and cells are a unit wide and high.

    Raises:
      ValueError: if the table is unusable, or a branch, step, split or metric is unknown.

    Reference: Frankle's thesis, figures 4-18, 4-27 and 4-29, in one.
    """
    check_options(legend=legend)
    if colorbar is not None:
        _check.flag("colorbar", colorbar)
    rows = select("table", table, split, metric, "pair")
    known = _table.names_of(rows)
    branch_order(known, [branch])
    label = branch_styles(known)[branch].label
    title = f"{label} (1 of {len(known)} branches)" if len(known) > 1 else ""
    rows = where(rows, branch=branch)
    steps = _table.chosen_steps(rows, at)
    rows = where(rows, at=steps)
    densities = dict(sorted(_table.densities_of(rows).items(), key=lambda one: -one[1]))
    shape = (len(densities), len(steps))
    mean, lost, samples = np.full(shape, np.nan), np.zeros(shape, int), np.zeros(shape, int)
    for i, level in enumerate(densities):
        points = spread(where(rows, level=level), "at", "none")
        columns = [steps.index(int(step)) for step in points["x"]]
        mean[i, columns], lost[i, columns] = points["mean"], points["diverged"]
        samples[i, columns] = points["samples"]
    if not np.isfinite(mean).any():
        raise ValueError("`table` has no finite value to draw: every copy diverged")
    barrier = metric.startswith("barrier")
    low, high = (0.0 if barrier else float(np.nanmin(mean))), float(np.nanmax(mean))
    # a map without any barrier is pale all over
    norm = Normalize(
        low, max(high, 4 * _panel.STABLE) if barrier else high if high > low else low + 1
    )
    # a mean that leaves copies out proves nothing
    stable = barrier & (mean < _panel.STABLE) & (lost == 0)
    colorbar = _style.wants_colorbar(ax) if colorbar is None else colorbar
    with panel(ax) as ax:
        ax.set_facecolor("white")
        _axes.cell_axes(
            ax,
            [_axes.step_name(step) for step in steps],
            [percent(one) for one in densities.values()],
        )
        ax.set(xlabel=_axes.STEP, ylabel=_axes.DENSITY)
        if title:
            ax.set_title(title)
        edges = np.arange(shape[1] + 1) - 0.5, np.arange(shape[0] + 1) - 0.5
        mesh = ax.pcolormesh(*edges, np.ma.masked_invalid(mean), cmap="YlOrBr", norm=norm)
        for i, j in np.argwhere(samples == 0):
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, **EMPTY))
        frame = _outline(stable)
        if frame:
            ax.plot(*np.array(frame).T, color=FRAME, clip_on=False, label="_stable", zorder=3)
        if colorbar:
            bar = _style.root_figure(ax).colorbar(mesh, ax=ax, pad=0.02, aspect=25)
            bar.set_label(_table.metric_label(metric, split, table))
            bar.outline.set_visible(False)
        _write_numbers(ax, mean, lost, samples, stable, mesh)
        entries: list[Artist] = []
        if frame:
            entries.append(
                Line2D([], [], color=FRAME, label=f"stable: below {_panel.STABLE:g} points")
            )
        if (samples == 0).any():
            entries.append(Patch(label="not analyzed", **EMPTY))
        if ((lost > 0) & (lost < samples)).any():
            entries.append(
                _panel.mark_entry(_panel.Mark("$*$", 0.8), "some copies diverged", FRAME)
            )
        if ((lost > 0) & (lost == samples)).any():
            entries.append(_panel.mark_entry(_panel.Mark("x", 0.8), "all copies diverged", FRAME))
        if legend and entries and _style.has_layout(ax):
            place_legend(ax, entries, corner="upper right")
    return ax


def controls(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    methods: Sequence[str] | None = None,
    verdicts: tuple[str, str] = ("passes", "fails"),
    legend: bool = True,
) -> Axes:
    """Plot which control changes which method: points of accuracy, and whether the method passes.

    Args:
      table: a row per method and control: method, control (such as "shuffle", "reinit", "inverted",
        "sign_flip"), difference (the control's accuracy minus the method's own, in points: negative
        where the control hurts; nan if it diverged) and passes (True, False, or None where nothing
        is to be judged). A further column `std` is written as ±; with `diverged` and `seeds` a
        cell states how many of the trainings that it compares diverged.
      ax: axes to draw on, or None for a new figure.
      methods: rows to draw, from the top, or None for all.
      verdicts: what the legend calls passing and failing.
      legend: whether to draw one below the matrix (only where a layout engine makes room).

    Returns:
      The axes; cells are centered at (control, method) = (0, 0), (1, 0) and so on, from the top.

    Raises:
      ValueError: if the table is unusable, a method is unknown, or `passes` has another value.

    Reference: Frankle's thesis, section 5.7, and figures 5-5 and 5-13, which draw such numbers.
    """
    check_options(legend=legend)
    columns = ("method", "control", "difference", "passes")
    check_table(table, columns, remedy="it needs a row for a control of a method")
    if isinstance(verdicts, str) or len(verdicts) != 2:
        raise ValueError(f"`verdicts` must be two words, for passing and failing, got {verdicts!r}")
    rows = _table.once(table, ("method", "control"), "difference")
    names = branch_order(_table.names_of(rows, "method"), methods, argument="methods")
    rows = where(rows, method=names)
    present = _table.names_of(rows, "control")
    present.sort(key=lambda one: [*HEADS, one].index(one))
    cells = {(one["method"], one["control"]): one for one in _table.records(rows)}
    judged = {at: _verdict(one["passes"], *at) for at, one in cells.items()}
    labels = [look.label for look in branch_styles(names).values()]
    with panel(ax) as ax:
        _axes.cell_axes(ax, [HEADS.get(one, one.replace("_", "\n")) for one in present], labels)
        for i, name in enumerate(names):
            for j, control in enumerate(present):
                own = cells.get((name, control))
                if own is None:
                    _cell(ax, j, i, "–", None)
                    continue
                verdict = judged[name, control]
                finite = np.isfinite(own["difference"])
                text = _signed(own["difference"]) + _plus_minus(own) if finite else "diverged"
                if counted := _counted(own):
                    text = f"{text}\n{counted}" if finite else counted
                size = 6.8 if "±" in text else 8
                _cell(ax, j, i, text + SIGNS[verdict], FACES[verdict], size)
        ax.tick_params(top=False, labeltop=True, bottom=False, labelbottom=False)
        ax.set_xlabel("Change of accuracy by the control, in points", labelpad=4)
        words = {True: verdicts[0], False: verdicts[1], None: "not judged"}
        entries = [
            Patch(facecolor=FACES[verdict], label=word + SIGNS[verdict])
            for verdict, word in words.items()
            if verdict in judged.values()
        ]
        _bound_height(ax, rows=len(names))
        # inside the axes it would cover cells
        if legend and _style.has_layout(ax):
            place_legend(ax, entries, corner="upper right")
    return ax


def transfer_matrix(
    table: pd.DataFrame, ax: Axes | None = None, *, level: int | None = None
) -> Axes:
    """Plot the accuracy of every source's tickets on every target, relative to the target's own.

    Args:
      table: what `jt.transfer_matrix` returns.
      ax: axes to draw on, or None for a new figure.
      level: the level; the last if None.

    Returns:
      The axes: a row per source, a column per target, each cell with the accuracy in percent, and
      below it the difference to the target's own tickets in points, which its color shows. The
      title states the density, and the number of levels where the last of several is drawn.

    Raises:
      ValueError: if the table is unusable or does not have the level.
    """
    columns = ("source", "target", "level", "accuracy", "difference", "density")
    check_table(table, columns, remedy="pass what jt.transfer_matrix returns")
    last = int(column(table, "level").max())
    count = len(set(table["level"])) if level is None else 1
    level = last if level is None else level
    rows = where(table, level=level)
    if rows.empty:
        known = sorted(set(table["level"]))
        raise ValueError(f"`level` must be one of {known}, got {level!r}")
    rows = _table.once(rows, ("source", "target"), "accuracy")
    targets, found = _table.names_of(rows, "target"), _table.names_of(rows, "source")
    sources = [name for name in targets if name in found]
    sources += [name for name in found if name not in targets]
    cells = {(row["source"], row["target"]): row for row in _table.records(rows)}
    points = 100 * np.abs(column(rows, "difference"))
    most = max(FULL, float(np.nanmax(points, initial=0.0)))
    # green and purple are distinguishable for readers who are blind to red or green
    colors, norm = matplotlib.colormaps["PRGn"], TwoSlopeNorm(0, -1.6 * most, 1.6 * most)
    with panel(ax) as ax:
        _axes.cell_axes(ax, targets, sources)
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                own = cells.get((source, target))
                if own is None or not np.isfinite(own["accuracy"]):
                    _cell(ax, j, i, "–" if own is None else "diverged", None)
                    continue
                difference = 100 * own["difference"]
                text = f"{100 * own['accuracy']:.1f}" + _plus_minus(own, 100)
                text += f"\n{counted}" if (counted := _counted(own)) else ""
                text += "\nown" if source == target else f"\n{_signed(difference)}"
                face = "0.93" if source == target else colors(float(norm(difference)))
                _cell(ax, j, i, text, face)
        ax.set(xlabel="trained on", ylabel="tickets found on")
        of = f" (1 of {count} densities)" if count > 1 else ""
        share = f"{100 * column(rows, 'density').mean():.3g}% of weights"
        ax.set_title(share + of, fontsize="medium")
    return ax


def _cell(
    ax: Axes, column: int, row: int, text: str, face: ColorType | None, size: float = 8
) -> None:
    """Draw one cell; without a face it is empty, and its text gray."""
    empty = face is None
    edge = "0.85" if empty else "white"
    cell = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face or "white", edgecolor=edge)
    cell.set_linewidth(0.6 if empty else 1.5)
    ax.add_patch(cell)
    color = "0.6" if empty else "black"
    ax.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def _bound_height(ax: Axes, *, rows: int) -> None:
    """Make axes lower, at their upper edge, if their rows of cells are higher than `TALLEST`."""
    figure = _style.root_figure(ax)
    figure.draw_without_rendering()
    box, highest = ax.get_window_extent(), TALLEST * rows * figure.dpi
    if box.height > highest:
        ax.set_anchor("N")
        ax.set_box_aspect(highest / box.width)


def _signed(points: float) -> str:
    """Write a difference with a true minus sign, and 0.0 without a sign."""
    text = "0.0" if abs(points) < 0.05 else f"{points:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _plus_minus(cell: Mapping[str, float], factor: float = 1) -> str:
    std = cell.get("std", np.nan)
    return f" ± {factor * std:.1f}" if np.isfinite(std) else ""


def _counted(cell: Mapping[str, float]) -> str:
    """State how many trainings diverged, if any and if known."""
    lost = cell.get("diverged", 0)
    return f"{int(lost)} of {int(cell['seeds'])} diverged" if lost and np.isfinite(lost) else ""


def _verdict(passes: object, method: str, control: str) -> bool | None:
    """Read `passes` as True, False or None; pandas turns None into nan."""
    if passes is None or (isinstance(passes, float) and np.isnan(passes)):
        return None
    if isinstance(passes, bool | np.bool_) or passes in (0, 1):
        return bool(passes)
    raise ValueError(
        f"`table` has 'passes' {passes!r} for {method!r} and {control!r}; it must be True, False "
        "or None"
    )


def _write_numbers(
    ax: Axes,
    mean: np.ndarray,
    lost: np.ndarray,
    samples: np.ndarray,
    stable: np.ndarray,
    mesh: QuadMesh,
) -> None:
    """Write the numbers into the cells of a heat map, as large as the cells allow."""
    figure = _style.root_figure(ax)
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
        # unreadable: the colors must do
        return
    for (i, j), text in np.ndenumerate(texts):
        if text:
            red, green, blue, _ = mesh.to_rgba(mean[i, j])
            dark = np.isfinite(mean[i, j]) and 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            ax.text(
                j,
                i,
                text,
                ha="center",
                va="center_baseline",
                fontweight="bold" if stable[i, j] else "normal",
                color="white" if dark else "0.1",
                fontsize=size,
            )


def _outline(cells: np.ndarray) -> list[tuple[float, float]]:
    """Give the edges between cells that are True and others, as one line with gaps."""
    padded, gap = np.pad(cells, 1), (np.nan, np.nan)
    edges: list[tuple[float, float]] = []
    for i, j in np.argwhere(padded[:, 1:] != padded[:, :-1]):
        edges += [(j - 0.5, i - 1.5), (j - 0.5, i - 0.5), gap]
    for i, j in np.argwhere(padded[1:] != padded[:-1]):
        edges += [(j - 1.5, i - 0.5), (j - 0.5, i - 0.5), gap]
    return edges
