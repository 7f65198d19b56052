"""Accuracy during training, one line per density."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jaxticket import _check
from jaxticket.analysis import stats
from jaxticket.plots._density import BELOW_DENSE, check_ylim, limits
from jaxticket.plots._style import (
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
    thousands,
)

# a pandas DataFrame; only `jaxticket.results` imports pandas
Table = Any

LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
# a density that is asked for may differ from a level's by this factor, half a step of IMP
NEAR = 1.12


def curves(
    table: Table,
    ax: Axes | None = None,
    *,
    densities: Sequence[float] | None = None,
    levels: Sequence[int] | None = None,
    branches: Sequence[str] = ("ticket",),
    split: str = "test",
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Accuracy during training: a colour per density, a line style per branch.

    Lines are means over seeds, bands go from the least to the greatest seed. A replica that stopped
    early keeps its last accuracy; between evaluations its accuracy is interpolated. Seeds that
    diverged are left out from there on.

    Args:
      table: tidy table with one row per value.
      ax: axes to draw on, or None for a new figure.
      densities: densities to draw (the nearest levels), such as (1.0, 0.21, 0.036).
      levels: levels to draw instead. Without both: up to five, from dense to the sparsest.
      branches: up to four branches.
      split: "train", "validation" or "test".
      ylim: limits in percent, or None to show every line from a tenth of training on.
      legend: whether to draw one.

    Returns:
      The axes; x is the training step, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable, a branch is unknown, or nothing is at a density/level.

    Reference: Frankle's thesis, figures 3-1 and 3-2.
    """
    _check.flag("legend", legend)
    check_ylim(ylim)
    # the check of the table, and one density per level
    ends: Any = stats.final(table, split=split)
    names = branch_order(ends["branch"].unique(), branches)
    if len(names) > len(LINES):
        raise ValueError(f"`branches` must be at most {len(LINES)}, got {len(names)}: {names}")
    means: Any = stats.over_seeds(ends[ends["branch"].isin(names)])
    known = means.groupby("level")["density"].max().to_dict()
    chosen = _levels(known, densities, levels)
    rows = table[(table["split"] == split) & (table["metric"] == "accuracy")]
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(chosen), 2)))
    drawn = []
    with style():
        ax = prepared(ax)
        for line, name in zip(LINES, names, strict=False):
            for shade, level in zip(shades, chosen, strict=False):
                part = rows[(rows["branch"] == name) & (rows["level"] == level)]
                if part.empty:
                    continue
                steps, mean, low, high = _over_seeds(part)
                look: dict[str, Any] = {"color": shade, "zorder": 3 - level / 1000}
                ax.plot(steps, mean, linestyle=line, label=f"_{name} {level}", **look)
                ax.fill_between(steps, low, high, alpha=0.18, linewidth=0, color=shade, zorder=2)
                drawn.append((steps, mean, low, high))
        ax.set(xlabel="Training step", ylabel=f"{split.capitalize()} accuracy (%)")
        ax.set_ylim(*(ylim or _limits(drawn)))
        last = max(steps[-1] for steps, *_ in drawn)
        ax.set_xlim(min(steps[0] for steps, *_ in drawn), last or 1)
        thousands(ax.xaxis, last)
        entries = [
            Line2D([], [], color=shade, label=f"{percent(known[level])}%")
            for shade, level in zip(shades, chosen, strict=False)
        ]
        if len(names) > 1:
            for line, branch in zip(LINES, branch_styles(names).values(), strict=False):
                entries.append(Line2D([], [], color="0.3", linestyle=line, label=branch.label))
        if legend:
            options = {"title": "Density", "alignment": "left"}
            place_legend(ax, entries, corner="lower right", **options)
    return ax


def _levels(
    known: dict[int, float], densities: Sequence[float] | None, levels: Sequence[int] | None
) -> list[int]:
    """The levels to draw, densest first, out of `known` levels and their densities."""
    if densities is not None and levels is not None:
        raise ValueError(f"`densities` {densities!r} and `levels` {levels!r} exclude each other")
    asked = levels if densities is None else densities
    if asked is not None and len(asked) == 0:
        name = "levels" if densities is None else "densities"
        raise ValueError(f"`{name}` is empty; name at least one, or pass None")
    logs = {level: math.log(density) for level, density in known.items()}
    if levels is not None:
        for level in levels:
            if level not in known:
                raise ValueError(f"`levels` has {level!r}; these branches have {sorted(known)}")
        chosen = set(levels)
    elif densities is not None:
        chosen = set()
        for density in densities:
            level = min(logs, key=lambda at: abs(known[at] - density))
            if density <= 0 or abs(logs[level] - math.log(density)) > math.log(NEAR):
                near = ", ".join(f"{value:.3g}" for value in sorted(known.values(), reverse=True))
                raise ValueError(f"`densities` has {density!r}; these branches have {near}")
            chosen.add(level)
    else:
        spread = np.linspace(max(logs.values()), min(logs.values()), 5)
        chosen = {min(logs, key=lambda at: abs(logs[at] - place)) for place in spread}
    return sorted(chosen, key=lambda level: -known[level])


def _over_seeds(rows: Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and mean, min and max in percent over the seeds that are finite there."""
    steps = np.unique(rows["step"].to_numpy())
    seeds = []
    for _, one in rows.drop_duplicates(["seed", "step"]).sort_values("step").groupby("seed"):
        values = 100 * one["value"].to_numpy(float)
        values = np.where(np.isfinite(values), values, np.nan)
        seeds.append(np.interp(steps, one["step"].to_numpy(), values, left=np.nan))
    stack = np.ma.masked_invalid(np.stack(seeds))
    return steps, *(part.filled(np.nan) for part in (stack.mean(0), stack.min(0), stack.max(0)))


def _limits(drawn: list[tuple[np.ndarray, ...]]) -> tuple[float, float]:
    """Shows every end, and every mean from a tenth of training on, but not far below the ends."""
    every = [value for _, _, low, high in drawn for value in (*low, *high)]
    ends = [low[np.isfinite(low)][-1] for _, _, low, _ in drawn if np.isfinite(low).any()]
    early = [mean[steps >= 0.1 * steps[-1]] for steps, mean, *_ in drawn]
    early = [value for part in early for value in part if math.isfinite(value)]
    if not ends:
        raise ValueError("`table` has no finite accuracy to draw: every replica diverged")
    keep = min(min(ends), max(min(early, default=min(ends)), min(ends) - BELOW_DENSE))
    return limits(every, [keep], top=100.0)
