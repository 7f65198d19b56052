"""Pruning during training: accuracy against the step of pruning, and densities over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from jaxticket import _check
from jaxticket.analysis import stats
from jaxticket.plots._density import check_ylim
from jaxticket.plots._density import limits as near_values
from jaxticket.plots._samples import BANDS, Spread, Table, spread
from jaxticket.plots._stability import dense_band
from jaxticket.plots._steps import Series, draw, notes, step_axis, step_name
from jaxticket.plots._style import (
    branch_order,
    branch_styles,
    percent,
    place_legend,
    prepared,
    style,
    thousands,
)

# points between lines that coincide, for so much of training
ASIDE, SHARED = 1.4, 0.05
# densities that differ by less than this share are one, realised by several seeds or methods
NEAR = 0.1
MARK: dict[str, Any] = {"color": "0.6", "linewidth": 0.8, "linestyle": (0, (1, 2)), "zorder": 1.2}


def accuracy_at_step(
    table: Table,
    ax: Axes | None = None,
    *,
    split: str = "test",
    branches: Sequence[str] | None = None,
    density: float | None = None,
    band: Spread = "std",
    marks: Sequence[float] = (),
    ylim: tuple[float, float] | None = None,
    legend: bool = True,
) -> Axes:
    """Final accuracy against the step at which the network was pruned: one line per branch.

    Lines are means over seeds; the grey line and band across are the dense network's mean and
    standard deviation. Where a branch has several densities, each has a line, the sparser the
    lighter. Open points: some seeds diverged, the mean is over the others; a cross at the lower
    edge: all did. Steps stand at even distances, but the coordinates of the axis are steps.

    Args:
      table: tidy table with the further column `pruned_at`: the step at which that network was
        pruned; the last one of the training means after training. The dense network is branch
        "dense", or any row with density 1; its `pruned_at` is not looked at.
      ax: axes to draw on, or None for a new figure.
      split: "train", "validation" or "test".
      branches: names of the branches to draw, or None for all.
      density: the one density to draw (each branch's own may differ from it by a tenth), or None
        for all.
      band: "std" (mean ± standard deviation over seeds), "minmax" or "none".
      marks: steps to mark by vertical lines, such as those where the learning rate drops.
      ylim: limits in percent, or None for good ones.
      legend: whether to draw one.

    Returns:
      The axes; x is the step of pruning, y accuracy in percent.

    Raises:
      ValueError: if the table is unusable or holds no dense network, a branch, density or split is
        unknown, or a mark lies outside the steps.

    Reference: Frankle's thesis, figures 5-12 and 5-14.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, BANDS)
    check_ylim(ylim)
    rows = _final(table, split)
    is_dense = (rows["branch"] == "dense") | (rows["density"] == 1)
    mean, std, end = _dense(rows[is_dense])
    rows = rows[~is_dense]
    if rows.empty:
        raise ValueError("`table` holds the dense network only; add the networks that were pruned")
    if not np.isfinite(rows["pruned_at"].astype(float)).all():
        raise ValueError("`table` has rows of pruned networks whose `pruned_at` is no step")
    names = branch_order(rows["branch"].unique(), branches)
    series, shared = _by_density(rows[rows["branch"].isin(names)], names, density, band)
    steps = np.unique(np.concatenate([one.points["x"].to_numpy(float) for one in series]))
    for mark in marks:
        if not steps[0] <= mark <= steps[-1]:
            raise ValueError(
                f"`marks` has {mark!r}, outside the steps of pruning, {steps[0]:g} to {steps[-1]:g}"
            )
    ends = np.concatenate(
        [one.points[["low", "mean", "high"]].to_numpy().ravel() for one in series]
    )
    with style():
        ax = prepared(ax)
        dense_band(ax, mean, std)
        for mark in marks:
            ax.axvline(mark, label="_mark", **MARK)
        draw(ax, series, band)
        step_axis(ax, steps)
        after = f" ({step_name(end)}: after training)" if steps[-1] == end else ""
        at = f"\nat {percent(shared)}% of weights" if shared else ""
        ax.set(
            xlabel="Step at which the network is pruned" + after,
            ylabel=f"{split.capitalize()} accuracy (%){at}",
        )
        every = [*ends, mean - std, mean + std]
        ax.set_ylim(*(ylim or near_values(every, every, top=100.0)))
        if legend:
            entries = ax.get_legend_handles_labels()[0] + notes(series, what="seeds")
            place_legend(ax, entries, corner="lower right")
    return ax


def density_schedule(
    table: Table,
    ax: Axes | None = None,
    *,
    branches: Sequence[str] | None = None,
    retroactive: Sequence[str] = (),
    steps: int | None = None,
    legend: bool = True,
) -> Axes:
    """Weights that are left during training: one staircase per branch, on a log scale.

    Lines that coincide are drawn side by side, a line's width apart, so that each is seen.

    Args:
      table: a row per branch and step at which its density changes: branch, step, density (from
        that step on, in (0, 1]). A branch whose first step is later than 0 is dense before.
      ax: axes to draw on, or None for a new figure.
      branches: names of the branches to draw, or None for all.
      retroactive: branches that are drawn dashed, since their masks were found by training longer.
      steps: steps of the whole training: x is then its share in percent; None draws steps up to the
        last of the table.
      legend: whether to draw one.

    Returns:
      The axes; y is density in percent on a log scale.

    Raises:
      ValueError: if the table is unusable, a branch is unknown, or a step lies outside training.

    Reference: Frankle's thesis, figure 5-1.
    """
    _check.flag("legend", legend)
    check(table, ("branch", "step", "density"), "a step at which the density of a branch changes")
    rows = once(table, ("branch", "step"), "density")
    within("density", rows, zero=False)
    names = branch_order(rows["branch"].unique(), branches)
    for name in retroactive:
        if name not in set(rows["branch"]):
            near = _check.nearest(name, rows["branch"].unique())
            raise ValueError(f"`retroactive` has {name!r}, `table` does not; {near}")
    rows = rows[rows["branch"].isin(names)].sort_values("step")
    end = float(rows["step"].max()) if steps is None else float(steps)
    if rows["step"].min() < 0 or rows["step"].max() > end or end <= 0:
        raise ValueError(
            f"`table` has steps from {rows['step'].min()} to {rows['step'].max()}, a training goes "
            f"from 0 to `steps` {steps!r}; give the number of steps of the training"
        )
    unit = 1.0 if steps is None else 100 / end
    with style():
        ax = prepared(ax)
        stairs = {}
        for name in names:
            here = rows[rows["branch"] == name]
            x, y = here["step"].to_numpy(float), 100 * here["density"].to_numpy(float)
            if x[0] > 0:
                x, y = np.insert(x, 0, 0.0), np.insert(y, 0, 100.0)
            stairs[name] = np.append(x, end), np.append(y, y[-1])
        asides = _side_by_side(stairs, end)
        figure: Any = ax.figure
        for name, look in branch_styles(names).items():
            x, y = stairs[name]
            found = name in retroactive
            label = look.label + (" (found afterwards)" if found else "")
            shift = ScaledTranslation(0, asides[name] * ASIDE / 72, figure.dpi_scale_trans)
            look_of: dict[str, Any] = {
                "color": look.color,
                "linestyle": (0, (3, 1.5)) if found else look.line,
                "drawstyle": "steps-post",
                "solid_joinstyle": "miter",
                "transform": ax.transData + shift,
            }
            ax.plot(unit * x, y, label=label, zorder=3, **look_of)
        _density_scale(ax, [*rows["density"], 1.0])
        ax.set_xlim(0, 1.005 * unit * end)
        ax.set_xlabel("Training step" if steps is None else "Share of training (%)")
        if steps is None:
            thousands(ax.xaxis, end)
        if legend:
            place_legend(ax, ax.get_legend_handles_labels()[0], corner="upper right")
    return ax


def check(table: Table, columns: Sequence[str], row: str) -> None:
    """Raises unless `table` is a DataFrame that has `columns` and at least one row.

    Args:
      table: what was passed.
      columns: names that it must have.
      row: what a row is, for the error.
    """
    if not hasattr(table, "columns"):
        kind = type(table).__name__
        raise ValueError(f"`table` must be a DataFrame with a row for {row}, got {kind}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"`table` lacks the columns {missing}, it has {list(table.columns)}; it needs a row "
            f"for {row}"
        )
    if table.empty:
        raise ValueError(f"`table` is empty (0 rows); it needs a row for {row}")


def once(table: Table, keys: Sequence[str], value: str) -> Table:
    """The rows without repeats.

    Raises:
      ValueError: if there are two values of `value` for the same `keys`.
    """
    rows = table.drop_duplicates([*keys, value])
    twice = rows.duplicated(list(keys))
    if twice.any():
        one = rows[twice].iloc[0]
        raise ValueError(
            f"`table` has two values of {value!r} for "
            f"{', '.join(f'{name} {one[name]!s}' for name in keys)}; keep one of them"
        )
    return rows


def within(column: str, rows: Table, *, zero: bool = True, nan: bool = False) -> None:
    """Raises unless a column is a share: in [0, 1], or (0, 1] without `zero`, or nan if allowed."""
    values = rows[column].to_numpy(float)
    good = (values >= 0 if zero else values > 0) & (values <= 1)
    wrong = values[~(good | ~np.isfinite(values) if nan else good)]
    if len(wrong):
        interval = f"{'[' if zero else '('}0, 1]"
        raise ValueError(f"`table` has {column!r} {wrong[0]:g}; it is a share, in {interval}")


def _final(table: Table, split: str) -> Table:
    """The final test accuracies in percent, one row per training."""
    row = "an accuracy of a training (such as runs.table() has) with the step at which it pruned"
    check(table, (*stats.COLUMNS, "pruned_at"), row)
    rows = table[table["metric"] == "accuracy"]
    if split not in set(rows["split"]):
        known = [str(one) for one in rows["split"].unique()]
        raise ValueError(
            f"`split` {split!r} has no accuracy in `table`; {_check.nearest(split, known)}"
        )
    rows = rows[rows["split"] == split]
    # with `pruned_at` nan for the dense network, which must not drop out
    training = [*stats.TRAINING, "pruned_at"]
    last = rows.groupby(training, observed=True, dropna=False)["step"].transform("max")
    rows = once(rows[rows["step"] == last], training, "value")
    return rows.assign(value=100 * rows["value"].astype(float))


def _dense(rows: Table) -> tuple[float, float, float]:
    """Mean and standard deviation of the dense network over seeds, and the step at which it ends.

    Raises:
      ValueError: if there is none, a seed has two, or all of them diverged.
    """
    if rows.empty:
        raise ValueError(
            "`table` has no dense network (branch 'dense', or rows with density 1) to compare "
            "with; add the table of the dense training"
        )
    # each method's runs may bring the same dense network along
    rows = once(rows, ("seed",), "value")
    finite = rows["value"][np.isfinite(rows["value"])]
    if finite.empty:
        raise ValueError(
            f"`table` has {len(rows)} dense networks and all of them diverged, so there is nothing "
            "to compare with; train them with a lower learning rate"
        )
    std = float(finite.std()) if len(finite) > 1 else 0.0
    return float(finite.mean()), std, float(rows["step"].max())


def _by_density(
    rows: Table, names: Sequence[str], density: float | None, band: Spread
) -> tuple[list[Series], float | None]:
    """A series per branch and level, and the density that all have in common, if there is one."""
    found: list[tuple[str, float, Table]] = []
    for name in names:
        here = rows[rows["branch"] == name]
        levels = [
            (float(part["density"].median()), part) for _, part in here.groupby("level", sort=False)
        ]
        levels.sort(key=lambda one: -one[0])
        if density is not None:
            known = ", ".join(f"{one:.3g}" for one, _ in levels)
            levels = sorted(levels, key=lambda one: abs(one[0] - density))[:1]
            if abs(levels[0][0] - density) > NEAR * density:
                raise ValueError(f"`density` {density!r} is not in branch {name!r}, it has {known}")
        found += [(name, one, part) for one, part in levels]
    every = [one for _, one, _ in found]
    shared = float(np.median(every)) if max(every) <= (1 + NEAR) * min(every) else None
    looks = branch_styles(names)
    series = []
    for name, own, part in found:
        look = looks[name]
        others = [one for other, one, _ in found if other == name]
        label = look.label + ("" if shared else f", {percent(own)}%")
        # up to two thirds of the way to white
        paler = 0.66 * others.index(own) / max(len(others) - 1, 1)
        color = (1 - paler) * np.array(to_rgb(look.color)) + paler
        points = spread(part, "pruned_at", band)
        series.append(Series(label, points, tuple(color.tolist()), look.marker, look.line))
    return series, shared


def _side_by_side(stairs: dict[str, Any], end: float) -> dict[str, float]:
    """How many line widths each staircase is moved up, so that none covers another for long."""
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


def _density_scale(ax: Axes, densities: Sequence[float]) -> None:
    """The y axis: densities in percent on a log scale, with ticks at 100, 50, 20, 10, ..."""
    low = 100 * min(densities)
    ax.set_yscale("log")
    at = [base * 10.0**power for power in range(2, -9, -1) for base in (5, 2, 1)]
    at = [place for place in at if 0.8 * low <= place <= 100]
    # more than two decades have no room for every one
    at = [place for place in at if low > 0.5 or np.isclose(np.log10(place) % 1, 0)]
    ax.yaxis.set_major_locator(FixedLocator(at))
    ax.yaxis.set_major_formatter(FixedFormatter([percent(place / 100) for place in at]))
    ax.yaxis.set_minor_locator(NullLocator())
    reach = (100 / low) ** 0.06 if low < 100 else 1.2
    ax.set_ylim(low / reach, 100 * reach)
    ax.set_ylabel("Density (% of weights kept)")
