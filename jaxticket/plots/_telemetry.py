"""What surviving weights do during training: one metric of `jt.telemetry` against the step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.plots._density import check_ylim
from jaxticket.plots._samples import BANDS, Spread, Table, spread
from jaxticket.plots._steps import LINES, Series, draw, from_zero, notes, reach, shades
from jaxticket.plots._style import (
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
    thousands,
)

COLUMNS = ("seed", "level", "density", "branch", "step", "metric", "value")
LABELS = {
    "magnitude": "Mean magnitude of weights",
    "sign_flips": "Signs unlike at the start (%)",
    "l2": "$L_2$ distance to the start",
    "cosine": "Cosine similarity to the start",
    "gradient_norm": "$L_2$ norm of the gradient",
}
# levels that are drawn if none are named
MOST = 5


def telemetry(
    table: Table,
    ax: Axes | None = None,
    *,
    metric: str = "l2",
    branches: Sequence[str] | None = None,
    levels: Sequence[int] | None = None,
    band: Spread = "minmax",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """A metric of the surviving weights during training, a line per density and branch.

    Lines are means over seeds. Of several levels, colours tell densities and line styles branches;
    of one level, colours tell branches. Seeds that diverged are left out from there on, and counted
    in the legend.

    Args:
      table: what `jt.telemetry` returns, or several of these concatenated.
      ax: axes to draw on, or None for a new figure.
      metric: "magnitude", "sign_flips", "l2", "cosine" or "gradient_norm".
      branches: names of branches, at most four if there are several levels; all if None.
      levels: which levels; up to five, from the densest to the sparsest, if None.
      band: "minmax" (over seeds), "std" (mean ± one standard deviation) or "none".
      ylim: limits of the metric (in percent for "sign_flips"), or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the training step.

    Raises:
      ValueError: if the table is unusable, or has no such metric, branch or level.

    Reference: KD-LTS, figure 7.
    """
    _check.flag("legend", legend)
    _check.one_of("metric", metric, tuple(LABELS))
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    rows = _rows(table, metric)
    names = branch_order(rows["branch"].unique(), branches)
    rows = rows[rows["branch"].isin(names)]
    chosen = _levels(sorted({int(level) for level in rows["level"]}), levels)
    series, entries = _lines(rows, names, chosen, band)
    with style():
        ax = prepared(ax)
        draw(ax, series, band)
        last = float(rows["step"].max())
        ax.set(xlabel="Training step", ylabel=LABELS[metric])
        ax.set_xlim(float(rows["step"].min()), last or 1)
        ax.set_ylim(*(ylim or _limits(series, metric)))
        thousands(ax.xaxis, last)
        if legend:
            title = {"title": "Density", "alignment": "left"} if len(chosen) > 1 else {}
            entries = [*entries, *notes(series, what="seeds")]
            place_legend(ax, entries, corner="lower right", **title)
    return ax


def _rows(table: Table, metric: str) -> Table:
    """The rows of a metric, each value once, shares in percent."""
    if not hasattr(table, "columns"):
        raise ValueError(f"`table` must be what jt.telemetry gives, got {type(table).__name__}")
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(
            f"`table` lacks the columns {missing}, it has {list(table.columns)}; pass what "
            "jt.telemetry gives"
        )
    rows = table[table["metric"] == metric]
    if rows.empty:
        known = sorted(map(str, table["metric"].unique()))
        raise ValueError(f"`metric` {metric!r} is not in `table`, which has {known}")
    own = ["branch", "level", "seed", "step"]
    rows = rows.drop_duplicates([*own, "value"])
    if rows.duplicated(own).any():
        one = rows[rows.duplicated(own)].iloc[0]
        raise ValueError(
            f"`table` has two values for {', '.join(f'{name} {one[name]!s}' for name in own)}; "
            "give the branches of each telemetry names of their own"
        )
    return rows.assign(value=(100 if metric == "sign_flips" else 1) * rows["value"].astype(float))


def _levels(known: list[int], levels: Sequence[int] | None) -> list[int]:
    """The levels to draw, ascending."""
    if levels is None:
        places = np.linspace(0, len(known) - 1, min(MOST, len(known)))
        return [known[round(place)] for place in places]
    if not len(levels):
        raise ValueError(f"`levels` is empty; name some of {known}, or pass None")
    for level in levels:
        if level not in known:
            raise ValueError(f"`levels` has {level!r}; these branches have {known}")
    return sorted(set(levels))


def _lines(
    rows: Table, names: list[str], levels: list[int], band: Spread
) -> tuple[list[Series], list[Line2D]]:
    """What is drawn, and its legend."""
    styles, several = branch_styles(names), len(levels) > 1
    if several and len(names) > len(LINES):
        raise ValueError(
            f"`branches` must be at most {len(LINES)} where colours tell densities, got "
            f"{len(names)}: {names}"
        )
    colors = shades(levels)
    dashes = dict(zip(names, LINES, strict=False)) if several else {}
    series, entries = [], []
    for level in levels:
        for name in names:
            part = rows[(rows["branch"] == name) & (rows["level"] == level)]
            if part.empty:
                continue
            color = colors[level] if several else styles[name].color
            line = dashes[name] if several else styles[name].line
            label = f"_{name} {level}"
            series.append(Series(label, spread(part, "step", band), color, line=line))
    shares = rows.groupby("level")["density"].median()
    if several:
        entries = [
            Line2D([], [], color=colors[level], label=f"{percent(float(shares[level]))}%")
            for level in levels
        ]
    if len(names) > 1 or not several:
        for name, look in styles.items():
            kind = {"color": "0.3", "linestyle": dashes[name]} if several else {}
            kind = kind or {"color": look.color, "linestyle": look.line}
            share = "" if several else f", {percent(float(shares[levels[0]]))}%"
            entries.append(Line2D([], [], label=look.label + share, **kind))
    return series, entries


def _limits(series: list[Series], metric: str) -> tuple[float, float]:
    if metric != "cosine":
        return from_zero(series, most=100.0 if metric == "sign_flips" else None)
    low = reach(series)[0]
    room = 0.05 * (1 - low) or 0.05
    return low - room, 1 + room
