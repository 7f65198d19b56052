"""Accuracy against the step of pruning, and densities during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.transforms import Transform

from jaxticket.analysis import stats
from jaxticket.plots import _axes, _panel, _style, _table
from jaxticket.plots._panel import EXIT, FALLS, Series, labeled, line_figure, place_legend, reach
from jaxticket.plots._style import branch_order, branch_styles, panel, percent
from jaxticket.plots._table import Band, check_options, column, select, spread, where
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

# points between lines that coincide for more than this share of training
ASIDE, SHARED = 1.4, 0.05
# densities that differ by less than this share are one, realized by several seeds or methods
NEAR = 0.1


def accuracy_at_step(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    split: str = "test",
    branches: Sequence[str] | None = None,
    density: float | None = None,
    band: Band = "std",
    marks: Sequence[float] = (),
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot final accuracy against the step at which the network was pruned: one line per branch.

    Lines are means over seeds; the gray line and band across are the dense network's mean and
    standard deviation. Where a branch has several densities, each has a line, sparser ones lighter.
    Open markers: some seeds diverged, the mean is over the others; a cross at the lower edge: all
    did; triangles there: the mean is below. Steps are at even distances, not to scale, but the
    coordinates of the axis are steps.

    Args:
      table: tidy table with the further column `pruned_at`: the step at which that network was
        pruned; the last step of training means after training. The dense network is branch
        "dense", or any row with density 1; its `pruned_at` is ignored.
      density: the one density to draw (each branch's own may differ from it by a tenth), or None
        for all.
      marks: steps to mark by vertical lines, such as those where the learning rate drops.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      branches: names of the lines to draw, in this order, or None for all.
      band: "std" (mean ± standard deviation over samples), "minmax" or "none".
      ylim: limits of y, in percent for shares, or None for automatic ones.
      legend: whether to draw a legend.

    Returns:
      The axes; x is the step of pruning, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable or has no dense network, a branch, density or split is
        unknown, or a mark is outside the steps.

    Reference: Frankle's thesis, figures 5-12 and 5-14.
    """
    check_options(legend=legend, band=band, ylim=ylim)
    rows = _final(table, split)
    is_dense = (rows["branch"] == "dense") | (rows["density"] == 1)
    dense, end = _dense(rows.loc[is_dense]), float(column(rows.loc[is_dense], "step").max())
    rows = rows.loc[~is_dense]
    if rows.empty:
        raise ValueError("`table` has the dense network only; add the networks that were pruned")
    if not np.isfinite(column(rows, "pruned_at")).all():
        raise ValueError("`table` has rows of pruned networks whose `pruned_at` is no step")
    names = branch_order(_table.names_of(rows), branches)
    series, shared = _by_density(where(rows, branch=names), names, density, band)
    steps = np.unique(_panel.all_x(series))
    for mark in marks:
        if not steps[0] <= mark <= steps[-1]:
            raise ValueError(
                f"`marks` has {mark!r}, outside the steps of pruning, {steps[0]:g} to {steps[-1]:g}"
            )

    def under(ax: Axes) -> Artist:
        for mark in marks:
            dots = (0, (1, 2))
            ax.axvline(mark, label="_mark", color="0.6", linewidth=0.8, linestyle=dots, zorder=1.2)
        return _panel.dense_band(ax, *dense)

    def x_axis(ax: Axes) -> None:
        after = f" ({_axes.step_name(end)}: after training)" if steps[-1] == end else ""
        _axes.step_axis(ax, steps, "Step of pruning" + after)

    ylim = ylim or _axes.limits([*reach(series), *dense], top=100.0)
    below = [(one, one.column("mean") < ylim[0]) for one in series]
    series = [
        one._replace(label=f"{one.label}{FALLS}{np.nanmin(one.column('mean')):.0f}%")
        if hidden.any()
        else one
        for one, hidden in below
    ]

    def over(ax: Axes) -> None:
        for one, hidden in below:
            _panel.marks(ax, one.column("x")[hidden], 0.012, EXIT, one.color, "_exit")

    at = f"\nat {percent(shared)}% of weights" if shared else ""
    return line_figure(
        ax, series, band, x_axis=x_axis, ylabel=f"{split.capitalize()} accuracy (%){at}",
        ylim=ylim, corner="lower right", legend=legend, under=under, over=over, what="seeds",
    )  # fmt: skip


def density_schedule(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    retroactive: Sequence[str] = (),
    steps: int | None = None,
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Plot the density during training: one staircase per branch, on a log scale.

    Lines that coincide are drawn side by side, a line's width apart, so that each is visible, but
    where they are dense: there they lie on 100%.

    Args:
      table: a row per branch and step at which its density changes: branch, step, density (from
        that step on, in (0, 1]). A branch whose first step is later than 0 is dense before.
      retroactive: branches that are drawn dashed, since their masks were found by training longer.
      steps: length of the whole training: x is then its share in percent; None draws steps up to
        the last of the table.
      ylim: limits in percent, above 0, or None for automatic ones.
      ax: axes to draw on, or None for a new figure.
      branches: names of the lines to draw, in this order, or None for all.
      legend: whether to draw a legend.

    Returns:
      The axes; y is density in percent on a log scale.

    Raises:
      ValueError: if the table is unusable, a branch is unknown, or a step is outside training.

    Reference: Frankle's thesis, figure 5-1.
    """
    check_options(legend=legend, ylim=ylim)
    if ylim is not None and ylim[0] <= 0:
        raise ValueError(f"`ylim` must be above 0, for the scale is logarithmic, got {ylim!r}")
    remedy = "it needs a row for a step at which the density of a branch changes"
    check_table(table, ("branch", "step", "density"), remedy=remedy)
    rows = _table.once(table, ("branch", "step"), "density")
    _table.check_shares(rows, "density", zero=False)
    present = _table.names_of(rows)
    names = branch_order(present, branches)
    if len(retroactive):
        branch_order(present, retroactive, argument="retroactive")
    rows = where(rows, branch=names).sort_values(by="step")
    first, last = column(rows, "step")[[0, -1]].tolist()
    end = last if steps is None else float(steps)
    if first < 0 or last > end or end <= 0:
        raise ValueError(
            f"`table` has steps from {first:g} to {last:g}, a training goes from 0 to `steps` "
            f"{steps!r}; give the number of steps of the training"
        )
    unit = 1.0 if steps is None else 100 / end
    stairs = {}
    for name in names:
        own = where(rows, branch=name)
        x, y = column(own, "step"), 100 * column(own, "density")
        if x[0] > 0:
            x, y = np.insert(x, 0, 0.0), np.insert(y, 0, 100.0)
        stairs[name] = np.append(x, end), np.append(y, y[-1])
    asides = _side_by_side(stairs, end)
    with panel(ax) as ax:
        _density_scale(ax, float(column(rows, "density").min()), ylim)
        low, high = np.log10(ax.get_ylim())
        points = 72 * ax.get_position().height * _style.root_figure(ax).get_figheight()
        for name, look in branch_styles(names).items():
            x, y = stairs[name]
            later = name in retroactive
            ax.plot(
                unit * x,
                y,
                label=look.label + (" (found afterwards)" if later else ""),
                color=look.color,
                linestyle=(0, (3, 1.5)) if later else look.line,
                drawstyle="steps-post",
                solid_joinstyle="miter",
                transform=ax.transScale
                + _Aside(asides[name] * ASIDE * (high - low) / points)
                + (ax.transLimits + ax.transAxes),
                zorder=3,
            )
        ax.set_xlim(0, 1.005 * unit * end)
        ax.set_xlabel("Training step" if steps is None else "Share of training (%)")
        if steps is None:
            _axes.thousands(ax.xaxis, end)
        if legend:
            place_legend(ax, labeled(ax), corner="upper right")
    return ax


def _final(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Select the final accuracies in percent, one row per training."""
    remedy = "it needs rows of runs.table() with the step at which the network was pruned"
    check_table(table, (*stats.COLUMNS, "pruned_at"), remedy=remedy)
    # `pruned_at` is nan for the dense network, which must not drop out
    training = [*stats.TRAINING, "pruned_at"]
    keys = (*training, "step")
    remedy = "keep one training of each"
    rows = select("table", table, split, "accuracy", common=keys, remedy=remedy)
    last = rows.groupby(training, observed=True, dropna=False)["step"].transform("max")
    return rows.loc[rows["step"] == last]


def _dense(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Compute the dense network's mean over seeds, and mean ± standard deviation.

    Raises:
      ValueError: if there is none, a seed has two, or all of them diverged.
    """
    if rows.empty:
        raise ValueError(
            "`table` has no dense network (branch 'dense', or rows with density 1) to compare "
            "with; add the table of the dense training"
        )
    # the runs of each method may contain the same dense network
    return _table.dense_spread(_table.once(rows, ("seed",), "value"), "table", _table.SHARES)


def _by_density(
    rows: pd.DataFrame, names: Sequence[str], density: float | None, band: Band
) -> tuple[list[Series], float | None]:
    """Give a series per branch and level, and the density that all have in common, if any."""
    found: list[tuple[str, float, pd.DataFrame]] = []
    for name in names:
        own = where(rows, branch=name)
        levels = [
            (float(np.median(column(one, "density"))), one) for _, one in own.groupby("level")
        ]
        levels.sort(key=lambda level: -level[0])
        if density is not None:
            known = ", ".join(f"{one:.3g}" for one, _ in levels)
            levels = sorted(levels, key=lambda level: abs(level[0] - density))[:1]
            if abs(levels[0][0] - density) > NEAR * density:
                raise ValueError(f"`density` {density!r} is not in branch {name!r}, it has {known}")
        found += [(name, *level) for level in levels]
    every = [share for _, share, _ in found]
    shared = float(np.median(every)) if max(every) <= (1 + NEAR) * min(every) else None
    looks = branch_styles(names)
    series = []
    for name, share, part in found:
        look = looks[name]
        others = [one for other, one, _ in found if other == name]
        # up to two thirds of the way to white
        paler = 0.66 * others.index(share) / max(len(others) - 1, 1)
        red, green, blue = ((1 - paler) * one + paler for one in to_rgb(look.color))
        label = look.label + ("" if shared else f", {percent(share)}%")
        points = spread(part, "pruned_at", band, _table.SHARES)
        series.append(Series(label, points, (red, green, blue), look.marker, look.line))
    return series, shared


def _side_by_side(
    stairs: Mapping[str, tuple[np.ndarray, np.ndarray]], end: float
) -> dict[str, float]:
    """Compute by how many line widths each staircase is moved up, so that none covers another."""
    steps = np.unique(np.concatenate([x for x, _ in stairs.values()]))
    lengths = np.diff(steps, append=end)
    levels = {
        name: np.log(y[np.searchsorted(x[:-1], steps, side="right") - 1])
        for name, (x, y) in stairs.items()
    }
    groups: list[list[str]] = []
    for name, level in levels.items():
        together = [
            group
            for group in groups
            if any(lengths[abs(levels[o] - level) < 0.01].sum() > SHARED * end for o in group)
        ]
        groups = [group for group in groups if group not in together]
        groups.append([*(one for group in together for one in group), name])
    return {name: (len(group) - 1) / 2 - i for group in groups for i, name in enumerate(group)}


class _Aside(Transform):
    """Moves logarithms of densities in percent up, but not that of 100%.

    Args:
      by: how far.
    """

    def __init__(self, by: float) -> None:
        super().__init__()
        self._by = by

    @property
    def input_dims(self) -> int:
        """Of points of a plane."""
        return 2

    @property
    def output_dims(self) -> int:
        """As many."""
        return 2

    def transform_non_affine(self, values: np.ndarray) -> np.ndarray:
        """Move points, float [point, 2]."""
        values = np.asarray(values, float)
        up = np.where(values[..., 1] < np.log10(100), self._by, 0.0)
        return values + np.stack([np.zeros_like(up), up], axis=-1)


def _density_scale(ax: Axes, least: float, ylim: tuple[float, float] | None) -> None:
    """Make y an axis of densities in percent on a log scale, with ticks at 100, 50, 20, 10, ..."""
    ax.set_yscale("log")
    reach = least**-0.06 if least < 1 else 1.2
    low, high = ylim or (100 * least / reach, 100 * reach)
    _axes.percent_ticks(ax.yaxis, _axes.shares_on_log_scale(low / 100 if ylim else 0.8 * least))
    ax.set_ylim(low, high)
    ax.set_ylabel(_axes.DENSITY)
