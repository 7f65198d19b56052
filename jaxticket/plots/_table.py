"""Checks and selections of tables, and the mean and spread of samples, for all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from jaxticket import _check
from jaxticket.plots._style import branch_order, branch_styles, percent
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import LineStyleType

Range = tuple[float, float]
EVERYWHERE: Range = (-math.inf, math.inf)
# of shares in percent
SHARES: Range = (0.0, 100.0)
Band = Literal["std", "minmax", "none"]
BANDS = ("std", "minmax", "none")
# columns of all tables of an instability analysis
COMMON = ("branch", "level", "density", "at", "seed")
# branch and level of the dense network, and its marker
DENSE_LINE = ("ticket", 0)
DENSE_MARKER = "P"
# metrics that are shares, and labels of axes; a metric that is not here is drawn as it is
IN_PERCENT = ("accuracy", "barrier", "error", "highest_error", "disagreement_share", "sign_flips")
# other metrics that are at least 0
NOT_NEGATIVE = (
    "loss",
    "loss_barrier",
    "l2",
    "l2_from_init",
    "l2_from_k",
    "loss_l2",
    "cosine",
    "disagreement",
    "mask_hamming",
    "mask_iou",
    "magnitude",
    "gradient_norm",
)
LABELS = {
    "barrier": "error barrier (points)",
    "loss_barrier": "loss barrier",
    "error": "error (%)",
    "highest_error": "highest error on the path (%)",
    "l2": "$L_2$ distance between copies",
    "cosine": "cosine distance between copies",
    "disagreement": "examples classified differently",
    "disagreement_share": "examples classified differently\n(% of the possible maximum)",
    "loss_l2": "$L_2$ distance of per-example losses",
    "mask_hamming": "Hamming distance of masks",
    "mask_iou": "overlap of masks (IoU)",
}
# so many names are written out where a figure leaves some out
WRITTEN = 3
ANALYSIS = "pass the tidy table that the analysis returns under this name"
RECOMPUTED = "_recomputed"
# metrics in points of error
IN_ERROR = ("barrier", "barrier_recomputed", "error", "error_recomputed")


def check_options(
    *,
    legend: bool = True,
    band: str = "none",
    bands: Sequence[str] = BANDS,
    ylim: tuple[float, float] | None = None,
) -> None:
    """Check options that most figures have.

    Raises:
      ValueError: if `legend` is no flag, `band` is not in `bands`, or `ylim` is neither None nor
        (low, high) with low < high.
    """
    _check.flag("legend", legend)
    _check.one_of("band", band, bands)
    if ylim is not None:
        pair = _check.several("ylim", ylim, _check.number, like="(50.0, 100.0)", empty=True)
        if len(pair) != 2 or not pair[0] < pair[1]:
            raise ValueError(f"`ylim` must be (low, high) with low < high, or None, got {ylim!r}")


def where(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """Select the rows with the given value, or one of a list of values, in each column."""
    for name, value in wanted.items():
        own = table[name]
        table = table.loc[own.isin(value) if isinstance(value, list) else own == value]
    return table


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Give a column as floats."""
    return table[name].to_numpy(float)


def names_of(table: pd.DataFrame, name: str = "branch") -> list[str]:
    """Give the distinct values of a column as texts, in order of appearance."""
    return [str(one) for one in table[name].unique()]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows as dicts."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def densities_of(rows: pd.DataFrame) -> dict[int, float]:
    """Give the density of every level, the median over seeds and branches."""
    medians = rows.groupby("level")["density"].median()
    return dict(zip(map(int, medians.index), medians.to_numpy(float).tolist(), strict=True))


def with_density(rows: pd.DataFrame) -> pd.DataFrame:
    """Add x, the density of the branch and level in percent: the median over seeds."""
    levels = rows.groupby(["branch", "level"], observed=True)["density"]
    return rows.assign(x=100 * levels.transform("median").to_numpy(float))


def once(
    table: pd.DataFrame,
    keys: Sequence[str],
    value: str,
    *,
    argument: str = "table",
    remedy: str = "keep one of them",
) -> pd.DataFrame:
    """Drop repeated rows.

    Raises:
      ValueError: if `table` has two values of the column `value` for the same `keys`.
    """
    rows = table.drop_duplicates([*keys, value])
    twice = rows.duplicated(list(keys))
    if twice.any():
        one = rows[twice].iloc[0]
        where = ", ".join(f"{name} {one[name]!s}" for name in keys)
        raise ValueError(f"`{argument}` has two values of {value!r} for {where}; {remedy}")
    return rows


def check_shares(table: pd.DataFrame, name: str, *, zero: bool = True, nan: bool = False) -> None:
    """Check that a column is in [0, 1], or (0, 1] without `zero`; with `nan`, nan may occur.

    Raises:
      ValueError: if it has another value.
    """
    values = column(table, name)
    good = (values >= 0 if zero else values > 0) & (values <= 1)
    wrong = values[~(good | ~np.isfinite(values) if nan else good)]
    if len(wrong):
        interval = f"{'[' if zero else '('}0, 1]"
        raise ValueError(f"`table` has {name!r} {wrong[0]:g}; it is a share, in {interval}")


def select(
    argument: str,
    table: pd.DataFrame,
    split: str | None,
    metric: str,
    *keys: str,
    common: Sequence[str] = COMMON,
    remedy: str = "pass one analysis at a time",
) -> pd.DataFrame:
    """Select the rows of a split and metric, each value once, with shares in percent.

    Args:
      argument: name of the table, for errors.
      table: tidy table with one row per value.
      split: the split to select, or None for tables without splits.
      metric: the metric to select.
      *keys: further columns that tell values apart, such as "pair".
      common: the columns that every table of the kind has.
      remedy: what to do about two values for the same keys, for errors.

    Raises:
      ValueError: if the table is unusable, has nothing of that split and metric, or has two values
        for the same keys.
    """
    wanted = {"metric": metric} | ({} if split is None else {"split": split})
    check_table(table, (*common, *keys, *wanted, "value"), argument=argument, remedy=ANALYSIS)
    rows = table
    for name, value in wanted.items():
        known = names_of(table, name)
        if value not in known:
            near = _check.nearest(str(value), known)
            raise ValueError(f"`{name}` {value!r} is not in `{argument}`; {near}")
        rows = where(rows, **{name: value})
    if rows.empty:
        pairs = sorted(set(zip(table["split"], table["metric"], strict=True)))
        raise ValueError(
            f"`{argument}` has no `metric` {metric!r} on `split` {split!r}, only {pairs}"
        )
    own = [name for name in (*common, *keys) if name != "density"]
    rows = once(rows, own, "value", argument=argument, remedy=remedy)
    factor = 100 if metric.removesuffix(RECOMPUTED) in IN_PERCENT else 1
    return rows.assign(value=factor * rows["value"].astype(float))


def spread(rows: pd.DataFrame, x: str, band: Band, within: Range = EVERYWHERE) -> pd.DataFrame:
    """Compute mean and spread of `value` over samples, for every x.

    The band is "std" (mean ± s with s² = Σ (v - mean)² / (n - 1), and 0 for one sample), else the
    minimum and maximum over samples. It ends at the ends of `within`, the range of possible values.

    Returns:
      One row per x, ascending: x, mean, low, high (over finite values), samples (all of them),
      diverged (those that are not finite).
    """
    finite = rows["value"].where(np.isfinite(rows["value"]))
    result = finite.groupby(rows[x].to_numpy()).agg(["mean", "std", "min", "max", "size", "count"])
    result = result.rename_axis("x").reset_index().sort_values("x", ignore_index=True)
    result["std"] = result["std"].fillna(0.0)
    result["diverged"] = result["size"] - result["count"]
    return with_band(result.rename(columns={"size": "samples"}), band, within)


def with_band(means: pd.DataFrame, band: str, within: Range = EVERYWHERE) -> pd.DataFrame:
    """Add the columns low and high, the ends of the band, to means with std, min and max.

    They are in the range `within`, as means are.
    """
    if band == "std":
        low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    else:
        low, high = means["min"], means["max"]
    return means.assign(low=low.clip(*within), high=high.clip(*within))


def possible(metric: str, rows: pd.DataFrame, *, in_percent: bool = False) -> Range:
    """Give the range of possible values of a metric, in which bands of mean ± std end.

    Args:
      metric: its name, with or without "_recomputed".
      rows: its `value`, shares in percent; a bound that they exceed is none (a loss of one's own
        may be negative).
      in_percent: whether another metric than those known here is a share in percent.
    """
    plain = metric.removesuffix(RECOMPUTED)
    in_percent = in_percent or plain in IN_PERCENT
    low = 0.0 if in_percent or plain in NOT_NEGATIVE else -math.inf
    high = 100.0 if in_percent else math.inf
    values = column(rows, "value")
    values = values[np.isfinite(values)]
    # an overlap is a share, which is not drawn in percent
    high = 1.0 if plain == "mask_iou" else high
    return (
        low if (values >= low).all() else -math.inf,
        high if (values <= high).all() else math.inf,
    )


def dense_spread(
    rows: pd.DataFrame, argument: str, within: Range = EVERYWHERE
) -> tuple[float, float, float]:
    """Compute mean, mean - std and mean + std of `value` over the rows of the dense network.

    Both ends of the band are in the range `within`.

    Raises:
      ValueError: if all diverged.
    """
    values = column(rows, "value")
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError(
            f"`{argument}` has {len(rows)} dense networks and all of them diverged, so there is "
            "nothing to compare with; train them with a lower learning rate"
        )
    mean, std = float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return mean, max(mean - std, within[0]), min(mean + std, within[1])


class Line(NamedTuple):
    """One line of a figure: a branch at one level."""

    branch: str
    level: int
    label: str
    color: str
    marker: str
    line: LineStyleType = "-"

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Select the rows of the line."""
        return where(table, branch=self.branch, level=self.level)


def branch_lines(
    rows: pd.DataFrame, branches: Sequence[str] | None, level: int | None
) -> list[Line]:
    """Choose the lines to draw: "dense" is level 0 of "ticket", other branches are at one level.

    Labels state the density, the median over seeds. A level of None is the sparsest in common.

    Raises:
      ValueError: if a branch or level is unknown, or the branches share no level.
    """
    is_dense = (rows["branch"] == DENSE_LINE[0]) & (rows["level"] == DENSE_LINE[1])
    sparse = rows.loc[~is_dense]
    have = {str(name): set(part["level"]) for name, part in sparse.groupby("branch", observed=True)}
    if "dense" in have:
        raise ValueError(
            f"`table` has a branch 'dense' at level {sorted(map(int, have['dense']))}, but the "
            "dense network is level 0 of branch 'ticket': give it that level and name"
        )
    dense = ["dense"] if len(sparse) < len(rows) else []
    names = branch_order([*dense, *have], branches)
    if branches is None:
        # where the other figures put it
        names.sort(key=lambda name: name != "dense")
    others = [name for name in names if name != "dense"]
    if level is None:
        shared = set.intersection(*(have[name] for name in others)) if others else {0}
        if not shared:
            levels = {name: sorted(map(int, have[name])) for name in others}
            raise ValueError(f"the branches share no level: {levels}; say which `level` to draw")
        level = int(max(shared))
    elif level == 0 and dense and branches is None:
        names = [name for name in names if name == "dense" or 0 in have[name]]
    else:
        lack = [name for name in others if level not in have[name]]
        if lack and (branches is not None or len(lack) == len(others)):
            levels = sorted(map(int, set().union(*(have[name] for name in lack))))
            raise ValueError(f"`level` {level!r} is not in branch {lack[0]!r}, which has {levels}")
        names = [name for name in names if name not in lack]
    lines = []
    for name, look in branch_styles(names).items():
        if name == "dense":
            lines.append(Line(*DENSE_LINE, look.label, look.color, DENSE_MARKER))
            continue
        line = Line(name, level, look.label, look.color, look.marker, look.line)
        density = float(np.median(column(line.rows(sparse), "density")))
        share = f", {percent(density)}%" if density < 1 else ""
        lines.append(line._replace(label=look.label + share))
    return lines


def share_of(rows: pd.DataFrame) -> str:
    """Give the density of rows at one level in words, or the level in tables without densities."""
    if "density" not in rows.columns:
        return f"level {int(rows['level'].iloc[0])}"
    return f"{percent(float(np.median(column(rows, 'density'))))}%"


def not_drawn(
    rows: pd.DataFrame, drawn: Mapping[str, int], level: int | None, *, every: bool
) -> list[str]:
    """Say what a figure at one level leaves out without having been asked to, as legend entries.

    Args:
      rows: all that could be drawn: branch, level and, if known, density; without the dense
        network, or with it as level 0 of "ticket".
      drawn: the level of each branch that is drawn.
      level: the level that was asked for, or None: the figure chose one, and other densities of
        its branches are named.
      every: whether all branches were asked for, so that those which lack the level are named.
    """
    sparse = rows.loc[(rows["branch"] != DENSE_LINE[0]) | (rows["level"] != DENSE_LINE[1])]
    said = []
    if level is None:
        others = [
            (at, share_of(where(sparse, branch=name, level=at)))
            for name, own in drawn.items()
            for at in map(int, where(sparse, branch=name)["level"].unique())
            # a control at level 0 has no ticket's density
            if at not in (0, own)
        ]
        # each density once, by level
        shares = dict.fromkeys(share for _, share in sorted(others))
        said += named_or_counted(list(shares), "densities")
    # at level 0 only the dense network was asked for
    if every and level != 0:
        lack = [name for name in names_of(sparse) if name not in drawn]
        looks = branch_styles(lack)
        said += named_or_counted([looks[name].label for name in lack], "branches")
    return said


def left_out(
    rows: pd.DataFrame, lines: Sequence[Line], branches: Sequence[str] | None, level: int | None
) -> list[str]:
    """Say what `branch_lines` left out of `rows` without having been asked to; see `not_drawn`."""
    drawn = {one.branch: one.level for one in lines if (one.branch, one.level) != DENSE_LINE}
    return not_drawn(rows, drawn, level, every=branches is None)


def network_title(rows: pd.DataFrame, of: tuple[str, int, int], share: str) -> str:
    """Give a title that says which one of several networks a figure shows; "" of one alone.

    Args:
      rows: those of all networks: branch, level, seed.
      of: the branch, level and seed that are drawn.
      share: its density in words, or its level.
    """
    names = ("branch", "level", "seed")
    if len(rows[list(names)].drop_duplicates()) == 1:
        return ""
    branch, level, seed = of
    label = branch_styles([*names_of(rows), str(branch)])[str(branch)].label
    label, share = ("dense", "") if (branch, level) == DENSE_LINE else (label, f", {share}")
    several = len(set(rows["seed"])) > 1
    return label + share + (f", seed {seed}" if several else "")


def named_or_counted(names: Sequence[str], what: str) -> list[str]:
    """Say that things are not drawn: by their names, or how many if they are many.

    >>> named_or_counted(["41%", "64%"], "densities"), named_or_counted([], "densities")
    (['not drawn: 41%, 64%'], [])
    >>> named_or_counted(list("abcde"), "branches")
    ['not drawn: 5 other branches']
    """
    if not names:
        return []
    few = len(names) <= WRITTEN
    return [f"not drawn: {', '.join(names) if few else f'{len(names)} other {what}'}"]


def chosen_steps(rows: pd.DataFrame, at: int | Sequence[int] | None) -> list[int]:
    """Choose the steps k to draw, ascending: those asked for, or all.

    Raises:
      ValueError: if `at` is empty or has a step that is not in `rows`.
    """
    known = sorted({int(step) for step in rows["at"]})
    if at is None:
        return known
    asked = _check.one_or_several("at", at, _check.whole, like=str(tuple(known[:2])), distinct=True)
    for step in asked:
        if step not in known:
            raise ValueError(f"`at` has {step}, the analysis does not; it has {known}")
    return sorted(asked)


def chosen_levels(
    known: Mapping[int, float],
    levels: Sequence[int] | None,
    densities: Sequence[float] | None = None,
    *,
    most: int = 5,
    near: float = 1.12,
) -> list[int]:
    """Choose the levels to draw, densest first.

    Args:
      known: the density of every level.
      levels: levels asked for.
      densities: densities asked for instead; each takes the nearest level.
      most: number of levels, evenly spaced on a log scale, if nothing is asked for.
      near: factor by which a density may differ from that of its level: half a step of IMP.

    Raises:
      ValueError: if both are given, one is empty, or a level or density is not there.
    """
    if densities is not None and levels is not None:
        raise ValueError(f"`densities` {densities!r} and `levels` {levels!r} exclude each other")
    for name, asked in (("levels", levels), ("densities", densities)):
        if asked is not None and len(asked) == 0:
            raise ValueError(f"`{name}` is empty; name at least one, or pass None")
    for level in () if levels is None else levels:
        if level not in known:
            raise ValueError(f"`levels` has {level!r}; these branches have {sorted(known)}")

    def nearest(density: float) -> int:
        return min(known, key=lambda level: abs(math.log(known[level]) - math.log(density)))

    for density in () if densities is None else densities:
        if density <= 0 or not 1 / near < known[nearest(density)] / density < near:
            have = ", ".join(f"{value:.3g}" for value in sorted(known.values(), reverse=True))
            raise ValueError(f"`densities` has {density!r}; these branches have {have}")
    if levels is not None:
        chosen = set(levels)
    elif densities is not None:
        chosen = set(map(nearest, densities))
    else:
        ends = max(known.values()), min(known.values())
        chosen = set(map(nearest, np.geomspace(*ends, most).tolist()))
    return sorted(chosen, key=lambda level: -known[level])


def chosen_level(rows: pd.DataFrame, level: int | None) -> int:
    """Choose one level: the one asked for, or the sparsest.

    Raises:
      ValueError: if it is not in `rows`.
    """
    known = sorted(map(int, rows["level"].unique()))
    if level is None:
        return known[-1]
    if level not in known:
        raise ValueError(f"`level` must be one of {known}, got {level!r}")
    return level


def greatest(metric: str) -> float:
    """Give the greatest possible value of a metric: 100 in percent, else inf."""
    return 100.0 if metric in IN_ERROR else math.inf


def metric_label(metric: str, split: str, table: pd.DataFrame) -> str:
    """Give the axis label of a metric of an instability analysis.

    It states how the statistics of BatchNorm were obtained where the table has both ways.
    """
    plain = metric.removesuffix(RECOMPUTED)
    label = LABELS.get(plain, plain.replace("_", " "))
    label = label if split == "weights" else f"{split} {label}"
    label = label[0].upper() + label[1:]
    if plain != metric:
        return f"{label}\nBatchNorm re-estimated"
    both = f"{metric}{RECOMPUTED}" in set(table["metric"])
    return label + ("\nBatchNorm interpolated" if both else "")
