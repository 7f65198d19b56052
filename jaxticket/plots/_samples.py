"""The rows of an instability analysis that a figure draws, and the lines they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxticket import _check
from jaxticket.plots._style import branch_order, branch_styles, percent

# a pandas DataFrame; only `jaxticket.results` imports pandas
Table = Any
Spread = Literal["std", "minmax", "none"]

BANDS = ("std", "minmax", "none")
COMMON = ("branch", "level", "density", "at", "seed")
# branch and level of the dense network, and how it is marked
DENSE_LINE = ("ticket", 0)
DENSE_MARKER = "P"
# metrics that are shares, and what axes call them
IN_PERCENT = ("barrier", "error", "highest_error", "disagreement_share")
LABELS = {
    "barrier": "error barrier (%)",
    "loss_barrier": "loss barrier",
    "error": "error (%)",
    "highest_error": "highest error on the path (%)",
    "l2": "$L_2$ distance between copies",
    "cosine": "cosine distance between copies",
    "disagreement": "examples classified differently",
    "disagreement_share": "examples classified differently\n(% of the most there could be)",
    "loss_l2": "$L_2$ distance of per-example losses",
    "mask_hamming": "Hamming distance of masks",
    "mask_iou": "overlap of masks (IoU)",
}
RECOMPUTED = "_recomputed"
# metrics in points of error
IN_ERROR = ("barrier", "barrier_recomputed", "error", "error_recomputed")


class Line(NamedTuple):
    """One line of a figure: a branch at one level."""

    branch: str
    level: int
    label: str
    color: str
    marker: str


def select(
    argument: str, table: Table, split: str, metric: str, *keys: str, common: Sequence[str] = COMMON
) -> Table:
    """The rows of a split and metric, each value once, shares in percent.

    Args:
      argument: name of the table in errors.
      table: tidy table with one row per value.
      split: "train", "validation", "test" or "weights".
      metric: the metric.
      *keys: further columns that tell values apart, such as "pair".
      common: the columns that every table of the kind has.

    Returns:
      The rows; `value` is a float, in the unit of the figure.

    Raises:
      ValueError: if the table is unusable, has nothing of that split and metric, or has two values
        where one belongs.
    """
    check_table(argument, table, (*common, *keys, "split", "metric", "value"))
    for name, value in (("split", split), ("metric", metric)):
        known = [str(one) for one in table[name].unique()]
        if value not in known:
            raise ValueError(
                f"`{name}` {value!r} is not in `{argument}`; {_check.nearest(str(value), known)}"
            )
    rows = table[(table["split"] == split) & (table["metric"] == metric)]
    if rows.empty:
        pairs = sorted(set(zip(table["split"], table["metric"], strict=True)))
        raise ValueError(
            f"`{argument}` has no `metric` {metric!r} on `split` {split!r}, only {pairs}"
        )
    own = [name for name in (*common, *keys) if name != "density"]
    rows = rows.drop_duplicates([*own, "value"])
    twice = rows.duplicated(own)
    if twice.any():
        one = rows[twice].iloc[0]
        raise ValueError(
            f"`{argument}` has two values for {', '.join(f'{name} {one[name]!s}' for name in own)};"
            " pass one analysis at a time"
        )
    factor = 100 if metric.removesuffix(RECOMPUTED) in IN_PERCENT else 1
    return rows.assign(value=factor * rows["value"].astype(float))


def check_table(argument: str, table: Table, columns: Sequence[str]) -> None:
    """Raises unless `table` is a DataFrame that has `columns` and at least one row."""
    if not hasattr(table, "columns"):
        kind = type(table).__name__
        raise ValueError(f"`{argument}` must be a DataFrame of an instability analysis, got {kind}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"`{argument}` lacks the columns {missing}, it has {list(table.columns)}; pass the "
            "tidy table that the analysis gives under this name"
        )
    if table.empty:
        raise ValueError(f"`{argument}` is empty (0 rows); pass the table of a finished analysis")


def branch_lines(rows: Table, branches: Sequence[str] | None, level: int | None) -> list[Line]:
    """The lines to draw: "dense" is level 0 of "ticket", any other branch is drawn at one level.

    Args:
      rows: rows of one metric.
      branches: names of lines, or None for all that are there at the level.
      level: the level of all but "dense", or None for the sparsest that they have in common.

    Returns:
      Lines whose labels tell the density: the median over seeds.

    Raises:
      ValueError: if a branch or level is unknown, or the branches share no level.
    """
    is_dense = (rows["branch"] == "ticket") & (rows["level"] == 0)
    sparse = rows[~is_dense]
    have = {str(name): set(part["level"]) for name, part in sparse.groupby("branch", observed=True)}
    dense = ["dense"] if is_dense.any() else []
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
        here = sparse[(sparse["branch"] == name) & (sparse["level"] == level)]
        density = float(here["density"].median())
        label = look.label + (f", {percent(density)}%" if density < 1 else "")
        lines.append(Line(name, level, label, look.color, look.marker))
    return lines


def rows_of(rows: Table, line: Line) -> Table:
    """The rows of one line."""
    return rows[(rows["branch"] == line.branch) & (rows["level"] == line.level)]


def chosen_steps(rows: Table, at: int | Sequence[int] | None) -> list[int]:
    """The steps k to draw, ascending: those asked for, or all.

    Raises:
      ValueError: if `at` is empty or names a step that is not there.
    """
    known = sorted({int(step) for step in rows["at"]})
    if at is None:
        return known
    asked = _check.one_or_several("at", at, _check.whole, like=str(tuple(known[:2])), distinct=True)
    for step in asked:
        if step not in known:
            raise ValueError(f"`at` has {step}, the analysis does not; it has {known}")
    return sorted(set(asked))


def spread(rows: Table, x: str, band: Spread) -> Table:
    """Mean and spread over samples of `value`, for every x.

    Args:
      rows: rows of one line.
      x: the column that is drawn along the x axis.
      band: "std" (mean ± s with s² = Σ (v - mean)² / (n - 1), and 0 for one sample), else the least
        and greatest sample.

    Returns:
      One row per x, ascending: x, mean, low, high (over finite values), samples (all of them),
      diverged (those that are not finite).
    """
    finite = rows["value"].where(np.isfinite(rows["value"]))
    result = finite.groupby(rows[x].to_numpy()).agg(["mean", "std", "min", "max", "size", "count"])
    result = result.rename_axis("x").reset_index().sort_values("x", ignore_index=True)
    if band == "std":
        reach = result["std"].fillna(0.0)
        result["low"], result["high"] = result["mean"] - reach, result["mean"] + reach
    else:
        result["low"], result["high"] = result["min"], result["max"]
    result["diverged"] = result["size"] - result["count"]
    result = result.rename(columns={"size": "samples"})
    return result[["x", "mean", "low", "high", "samples", "diverged"]]


def axis_label(metric: str, split: str, table: Table) -> str:
    """What the axis of a metric is called, and how BatchNorm's statistics were had, if known."""
    plain = metric.removesuffix(RECOMPUTED)
    label = LABELS.get(plain, plain.replace("_", " "))
    label = label if split == "weights" else f"{split} {label}"
    label = label[0].upper() + label[1:]
    if plain != metric:
        return f"{label}\nBatchNorm re-estimated"
    # both were measured, so it matters which this is
    return label + ("\nBatchNorm interpolated" if has_recomputed(metric, table) else "")


def has_recomputed(metric: str, table: Table) -> bool:
    """Whether the table holds the metric with re-estimated BatchNorm statistics too."""
    return f"{metric}{RECOMPUTED}" in set(table["metric"])
