"""Reliability diagrams, and how well known examples are told from others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from jaxticket import _check
from jaxticket.plots import _axes, _panel, _table
from jaxticket.plots._panel import DASHES, Series, place_legend
from jaxticket.plots._style import panel
from jaxticket.plots._table import Band, Line, branch_lines, check_options, column, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("branch", "level", "density", "seed", "metric", "index", "value")
BINS = ("bin_share", "bin_accuracy", "bin_confidence")
SCALED = "scaled_"
# the strip with the shares of examples, as a share of the axes, and its lowest share in percent
STRIP = 0.2
RAREST = 0.01
# points between a method's markers of one score
APART = 0.8
SCORES = {"softmax": "largest\nsoftmax", "energy": "energy", "entropy": "entropy"}
METRICS = {
    "auroc": "AUROC (%), higher is better",
    "aupr": "AUPR, known examples positive (%),\nhigher is better",
    "aupr_out": "AUPR, other examples positive (%),\nhigher is better",
    "fpr95": "Others taken for known (%) where\n95% of these are, lower is better",
}


class Bins(NamedTuple):
    """A reliability diagram over all seeds, all in percent and [bins].

    Attributes:
      share: of examples in each bin.
      accuracy, confidence: of the examples in each bin, nan in empty ones.
      deviation: of the accuracy over seeds.
      lost: seeds that diverged.
      seeds: all of them.
    """

    share: np.ndarray
    accuracy: np.ndarray
    confidence: np.ndarray
    deviation: np.ndarray
    lost: int
    seeds: int


def reliability(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    scaled: bool = True,
    legend: bool = True,
) -> Axes:
    """Plot accuracy against confidence: a marker for each bin, on the diagonal where calibrated.

    Below the diagonal a network is surer than it is right. Each bin holds the examples of all
    seeds; error bars are the standard deviation over seeds, weighted by how many examples each has
    in the bin, and end at 0 and 100%. The legend states the density of each branch, and names those
    that are not drawn. Dashed lines with open markers are the same networks with
    their logits divided by the temperature, where it was measured. The strip at the bottom has the
    share of examples in each bin, on a log scale. With one line its gap to the diagonal is shaded.

    Args:
      table: what `jt.measure(runs, jt.probes.Calibration())` gave; branches may be named after
        methods.
      ax: axes to draw on, or None for a new figure.
      branches: "dense" for level 0 of "ticket", and other branches; None for all.
      level: the level of all but the dense network; None for the sparsest that all have.
      scaled: whether to draw what temperature scaling gives, where the table has it.
      legend: whether to draw one, with the expected calibration errors.

    Returns:
      The axes; x is the mean confidence and y the accuracy, in percent.

    Raises:
      ValueError: if the table is unusable, or a branch or level is unknown.

    Reference: Guo et al., "On calibration of modern neural networks" (2017), figure 4.
    """
    check_options(legend=legend)
    _check.flag("scaled", scaled)
    rows = _rows(table, "jt.measure(runs, 'calibration')", [*BINS, "ece"])
    lines = branch_lines(rows, branches, level)
    both = ("", SCALED) if scaled and f"{SCALED}ece" in set(rows["metric"]) else ("",)
    found = {(line, kind): _bins(line.rows(rows), kind) for line in lines for kind in both}
    if not any(np.isfinite(one.accuracy).any() for one in found.values()):
        raise ValueError("`table` has no finite value to draw: every network diverged")
    with panel(ax) as ax:
        strip = ax.inset_axes((0, 0, 1, STRIP))
        entries: list[Artist] = []
        for (line, kind), one in found.items():
            drawn = _diagram(ax, strip, line, one, scaled=bool(kind))
            drawn.set_label(_label(line, line.rows(rows), kind))
            entries.append(drawn)
        if len(found) == 1:
            (one,) = found.values()
            kept = np.isfinite(one.accuracy)
            x, y = one.confidence[kept], one.accuracy[kept]
            ax.fill_between(x, x, y, color=lines[0].color, alpha=0.12, linewidth=0, zorder=1)
        ax.plot([0, 100], [0, 100], label="_calibrated", color="0.15", linewidth=0.9,
                linestyle=DASHES, zorder=1.6)  # fmt: skip
        # zero is above the strip
        low = -100 * STRIP / (1 - STRIP) - 4
        ax.set(xlim=(0, 102), ylim=(low, 104), xlabel="Confidence (%)", ylabel="Accuracy (%)")
        ax.set_yticks(range(0, 101, 20))
        _finish_strip(strip, ax)
        # an invisible patch, where no legend goes
        ax.add_patch(Rectangle((0, 0), 1, STRIP, transform=ax.transAxes, visible=False))
        lost = [(one.lost, one.seeds) for (_, kind), one in found.items() if not kind]
        if any(one.seeds - one.lost > 1 for one in found.values()):
            entries.append(_panel.spread_entry("std", "seeds", bars="|"))
        entries += map(_panel.text_entry, _table.left_out(rows, lines, branches, level))
        if any(0 < n < most for n, most in lost):
            entries.append(_panel.diverged_entry(*np.transpose(lost)))
        if any(n == most for n, most in lost):
            entries.append(_panel.mark_entry(_panel.CROSS, "all seeds diverged"))
        if legend:
            place_legend(ax, entries, corner="upper left")
    return ax


def separation(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    metric: str = "auroc",
    scores: Sequence[str] | None = None,
    branches: Sequence[str] | None = None,
    level: int | None = None,
    band: Band = "std",
    legend: bool = True,
) -> Axes:
    """Plot how well each score tells known examples from others, a marker for each method.

    Markers are means over seeds, bars their spread, which end at 0 and 100%. An open marker leaves
    out seeds that diverged, a cross at the lower edge says that all did. The legend states the
    density of each method, and names those that are not drawn.

    Args:
      table: what `jt.measure(runs, jt.probes.OutOfDistribution(other))` gave; branches may be named
        after methods.
      ax: axes to draw on, or None for a new figure.
      metric: "auroc", "aupr", "aupr_out" or "fpr95".
      scores: "softmax", "energy" and "entropy", in the order of the figure; None for all.
      branches: "dense" for level 0 of "ticket", and other branches; None for all.
      level: the level of all but the dense network; None for the sparsest that all have.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      legend: whether to draw one.

    Returns:
      The axes; each score is at 0, 1, ... along x, and y is in percent.

    Raises:
      ValueError: if the table is unusable, or a metric, score, branch or level is unknown.

    Reference: KD-LTS, figures 16 and 32, which have the AUROC of the softmax.
    """
    check_options(legend=legend, band=band)
    rows = _rows(table, "jt.measure(runs, jt.probes.OutOfDistribution(other))", [])
    present = set(rows["metric"])
    have = [one for one in METRICS if any(f"{score}_{one}" in present for score in SCORES)]
    if not have:
        raise ValueError(
            "`table` has no score of unknown examples; pass the table of jt.measure(runs, "
            "jt.probes.OutOfDistribution(other))"
        )
    if metric not in have:
        raise ValueError(f"`metric` {metric!r} is not in `table`; {_check.nearest(metric, have)}")
    known = [name for name in SCORES if f"{name}_{metric}" in present]
    asked = tuple(known) if scores is None else _check.texts("scores", scores, like="('softmax',)")
    for score in asked:
        _check.one_of("scores", score, tuple(known))
    rows = where(rows, metric=[f"{score}_{metric}" for score in asked])
    rows = rows.assign(value=100 * column(rows, "value"))
    lines = branch_lines(rows, branches, level)
    series, at = [], {f"{score}_{metric}": j for j, score in enumerate(asked)}
    for i, line in enumerate(lines):
        own = line.rows(rows)
        places = [float(at[str(name)]) for name in own["metric"]]
        points = spread(own.assign(x=places), "x", band, _table.SHARES)
        step = APART / len(lines)
        moved = points.assign(x=points["x"] + step * (i - (len(lines) - 1) / 2))
        marker = line.marker if line.marker else "o"
        series.append(Series(line.label, moved, line.color, marker, ""))
    reach = _panel.reach(series)
    with panel(ax) as ax:
        _panel.draw(ax, series, "none" if band == "none" else "bars")
        said = _table.left_out(rows, lines, branches, level)
        ax.set_xticks(range(len(asked)), [SCORES[score] for score in asked])
        ax.set_xlim(-0.5, len(asked) - 0.5)
        ax.tick_params(axis="x", length=0)
        for edge in np.arange(1, len(asked)) - 0.5:
            ax.axvline(edge, color="0.9", linewidth=0.6, zorder=0.5, label="_edge")
        low, high = _axes.limits(reach, top=100.5, what="network")
        ax.set(ylim=(low, high), ylabel=METRICS[metric])
        handles = [one for one in ax.lines if not str(one.get_label()).startswith("_")]
        if metric == "auroc" and low < 50 < high:
            handles.append(_panel.threshold(ax, 50.0, "by chance"))
        if legend:
            handles += _panel.band_entries(series, band, "seeds", bars=True)
            handles += map(_panel.text_entry, said)
            place_legend(ax, [*handles, *_panel.notes(series, "seeds")], corner="lower left")
    return ax


def _rows(table: pd.DataFrame, remedy: str, needed: Sequence[str]) -> pd.DataFrame:
    """The rows of a table of `jt.measure`, each once.

    Raises:
      ValueError: for other tables, and where metrics are missing.
    """
    check_table(table, COLUMNS, remedy=f"pass {remedy}")
    lack = [name for name in needed if name not in set(table["metric"])]
    if lack:
        raise ValueError(f"`table` has no {lack[0]!r}; pass {remedy}")
    dense = (table["branch"] == "dense") & (table["level"] == 0)
    table = table.assign(branch=table["branch"].mask(dense, "ticket"))
    keys = [name for name in COLUMNS if name not in ("density", "value")]
    return _table.once(table, keys, "value")


def _bins(rows: pd.DataFrame, kind: str) -> Bins:
    """The diagram of one network of all seeds."""
    share, accuracy, confidence = (
        where(rows, metric=kind + name)
        .pivot(index="seed", columns="index", values="value")
        .to_numpy(float)
        for name in BINS
    )
    good = np.asarray(np.isfinite(share).all(axis=1))
    weight = np.where(good[:, None], share, 0)
    total = weight.sum(axis=0)
    filled = np.where(total > 0, total, np.nan)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.where(weight > 0, weight * np.where(weight > 0, values, 0), 0).sum(0) / filled

    middle = mean(accuracy)
    deviation = np.sqrt(mean((accuracy - middle) ** 2))
    count = max(1, int(good.sum()))
    return Bins(
        100 * total / count, 100 * middle, 100 * mean(confidence), 100 * deviation,
        int((~good).sum()), len(good),
    )  # fmt: skip


def _diagram(ax: Axes, strip: Axes, line: Line, one: Bins, *, scaled: bool) -> Line2D:
    """Draw the line of one network and its strip, and give the line."""
    dashes = DASHES if scaled else "-"
    marker = line.marker if line.marker else "o"
    kept = np.isfinite(one.accuracy)
    x, y, reach = (values[kept] for values in (one.confidence, one.accuracy, one.deviation))
    open_marker = scaled or 0 < one.lost < one.seeds
    (drawn,) = ax.plot(
        x, y, color=line.color, marker=marker, linestyle=dashes, zorder=3,
        markerfacecolor="white" if open_marker else line.color,
        markeredgewidth=0.9 if open_marker else 0.0,
    )  # fmt: skip
    if one.seeds - one.lost > 1:
        # no accuracy is beyond these, and the axes would cut the bar
        low, high = np.maximum(y - reach, 0), np.minimum(y + reach, 100)
        _panel.error_bars(ax, x, y, low, high, line.color)
    edges = np.linspace(0, 100, len(one.share) + 1)
    strip.stairs(
        np.maximum(one.share, RAREST / 10), edges, color=line.color, linestyle=dashes,
        linewidth=0.9, baseline=None,
    )  # fmt: skip
    return drawn


def _finish_strip(strip: Axes, ax: Axes) -> None:
    """Set the axes of the strip."""
    strip.set(xlim=ax.get_xlim(), yscale="log", ylim=(RAREST, 150))
    strip.set_yticks([0.1, 1, 10, 100])
    strip.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    strip.yaxis.tick_right()
    strip.yaxis.set_label_position("right")
    strip.set_ylabel("% of\nexamples", fontsize=6.5)
    strip.tick_params(axis="y", labelsize=6)
    strip.tick_params(axis="x", bottom=False, labelbottom=False)
    strip.minorticks_off()
    strip.patch.set_alpha(0)
    strip.spines[["right", "top"]].set_visible(True)
    strip.spines["top"].set_color("0.85")
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.grid(False)


def _label(line: Line, rows: pd.DataFrame, kind: str) -> str:
    """What the legend says of a line: the expected calibration error, and the temperature."""
    ece = 100 * _finite_mean(rows, f"{kind}ece")
    if not kind:
        return f"{line.label}: ECE {ece:.2g}%"
    return f"{line.label}, $T$ = {_finite_mean(rows, 'temperature'):.2f}: ECE {ece:.2g}%"


def _finite_mean(rows: pd.DataFrame, metric: str) -> float:
    values = column(where(rows, metric=metric), "value")
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
