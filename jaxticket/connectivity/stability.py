"""Verdicts on states: stable, matching, from which step on, and in which range of densities.

All functions read the tables of an `Instability` (`table()` and `copies()`), or several of them
below one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxticket import _check, _stats, results
from jaxticket._stats import GUARD, half_width

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "GUARD", "RANDOM", "STATE", "dense_error", "first_steps", "half_width", "matching", "ranges",
    "stable", "summary",
]  # fmt: skip
STATE = ("length", "branch", "level", "at")
RANDOM = ("random", "layerwise_random", "shuffle", "globally_permuted", "locally_permuted")


def _rows(table: Any, metric: str, split: str) -> Any:
    needed = (*STATE[1:], "density", "seed", "split", "metric", "value")
    results.check_table(table, needed, remedy="pass a table of jt.instability")
    found = table[(table["metric"] == metric) & (table["split"] == split)]
    if found.empty:
        known = table[["split", "metric"]].drop_duplicates().to_records(index=False).tolist()
        raise ValueError(f"`table` has no {metric!r} of {split!r}; it has (split, metric) {known}")
    return found.reset_index(drop=True)


def _states(rows: Any, *names: str) -> list[str]:
    """Columns that tell states apart; tables of one length need not have its column."""
    return [name for name in names if name in rows.columns]


def summary(
    table: pd.DataFrame,
    *,
    metric: str = "barrier",
    split: str = "test",
    confidence: float = 0.95,
    unit: str = "pair",
) -> pd.DataFrame:
    """Mean, spread and confidence interval of a metric of every state.

    The interval is Student's: `mean +- t(n - 1) * std / sqrt(n)`, nan for one sample. Pairs of one
    seed share its dense training (and copies), so an interval over pairs is narrower than one over
    seeds; `unit="seed"` averages over the pairs of a seed first.

    Args:
      table: `table()` or `copies()` of an analysis.
      metric, split: which values.
      confidence: of the interval, in (0, 1).
      unit: "pair" (or copy) or "seed": what counts as a sample.

    Returns:
      One row per (length,) branch, level and step k: density, samples, mean, std (n - 1), min, max,
      low, high. Samples that are not finite (diverged) are counted in `diverged` and left out.
    """
    confidence = _check.share("confidence", confidence, one=False)
    _check.one_of("unit", unit, ("pair", "seed"))
    rows = _rows(table, metric, split)
    found = []
    columns = _states(rows, *STATE)
    for state, own in rows.groupby(columns, sort=True):
        values = own["value"].to_numpy(float)
        if unit == "seed":
            of_seed = own.groupby("seed")["value"]
            values = of_seed.agg(lambda v: v.mean(skipna=False)).to_numpy(float)
        named = dict(zip(columns, state, strict=True)) | {"density": own["density"].mean()}
        found.append(named | _stats.described(values, confidence))
    return results.frame(found)


def stable(table: pd.DataFrame, *, threshold: float = 0.02, split: str = "test") -> pd.DataFrame:
    """Whether states are stable: their mean error barrier is below the threshold.

    Args:
      table: `table()` of an analysis.
      threshold: in [0, 1]; the sources use 2 points.
      split: "test" or "train".

    Returns:
      `summary` of the barrier with a column `stable`; with a diverged sample it is False.

    Reference: Frankle's thesis, section 4.1.1.
    """
    threshold = _check.share("threshold", threshold)
    found = summary(table, metric="barrier", split=split)
    below = _stats.below(found["mean"], threshold)
    return found.assign(stable=below & (found["diverged"] == 0))


def dense_error(copies: pd.DataFrame, *, split: str = "test") -> float:
    """Mean final error of the dense network, over the copies of the earliest step k.

    Raises:
      ValueError: where there is no dense network among the states.
    """
    rows = _rows(copies, "error", split)
    dense = rows[(rows["branch"] == "ticket") & (rows["level"] == 0)]
    if dense.empty:
        raise ValueError(
            "`copies` hold no dense network (branch 'ticket', level 0) to compare with; analyse "
            "level 0 too, or give its error as `dense`"
        )
    return float(dense[dense["at"] == dense["at"].min()]["value"].mean())


def _bar(copies: pd.DataFrame, dense: float | None, split: str) -> float:
    """The dense error: the given one, or that of the table."""
    if dense is None:
        return dense_error(copies, split=split)
    return _check.share("dense", dense, zero=True)


def matching(
    copies: pd.DataFrame, *, margin: float = 0.002, split: str = "test", dense: float | None = None
) -> pd.DataFrame:
    """Whether states train to the accuracy of the dense network: mean error <= dense + margin.

    The sources' margin of 0.2 points is often below what the mean is known to with few seeds and
    copies: read it beside `low` and `high`, the 95% interval of the mean.

    Args:
      copies: `copies()` of an analysis.
      margin: accuracy that may be lost, in [0, 1]; 0.2 points in the sources.
      split: which error.
      dense: error of the dense network in [0, 1]; that of the table's own level 0 if None.

    Returns:
      `summary` of the error with columns dense (its error) and matching.

    Reference: Frankle's thesis, Fig. 4-18.
    """
    margin = _check.share("margin", margin, zero=True, one=False)
    bar = _bar(copies, dense, split)
    found = summary(copies, metric="error", split=split)
    # errors are compared as negative accuracies
    good = _stats.matching(-found["mean"], -bar, margin=margin, diverged=found["diverged"])
    return found.assign(dense=bar, matching=good)


def first_steps(
    table: pd.DataFrame,
    copies: pd.DataFrame,
    *,
    threshold: float = 0.02,
    margin: float = 0.002,
    split: str = "test",
    dense: float | None = None,
) -> pd.DataFrame:
    """The first of the steps k from which networks are stable, and matching, at every density.

    A sample is a pair of copies of a seed (stable), or a copy of a seed (matching); its step is the
    least k at which its own barrier is below the threshold, or its own error within the margin of
    the dense error. The median counts samples without such a step as infinitely late.

    Being the first, the step is early under noise: barriers above the threshold at later steps do
    not undo it, and the more steps are tried, the earlier one of them passes by chance. `stable`
    has the mean of every step with its interval.

    Args:
      table, copies: of one analysis, with several levels and steps.
      threshold, margin, split, dense: as for `stable` and `matching`.

    Returns:
      Rows branch, level, density, verdict ("stable" or "matching"), step (median; nan where the
      majority has none), low and high (least and greatest, nan where a sample has none), samples,
      share (of samples that have one).

    Reference: Frankle's thesis, Fig. 4-18: medians over 3 initializations x 3 orders, drawn where a
      majority is matching at any step.
    """
    threshold = _check.share("threshold", threshold)
    margin = _check.share("margin", margin, zero=True, one=False)
    bar = _bar(copies, dense, split)
    barriers, errors = _rows(table, "barrier", split), _rows(copies, "error", split)
    found = []
    for verdict, rows, sample, good in (
        ("stable", barriers, ["seed", "pair"], _stats.below(barriers["value"], threshold)),
        ("matching", errors, ["seed", "copy"], _stats.at_most(errors["value"], bar + margin)),
    ):
        steps = rows["at"].where(good).astype(float)
        columns = _states(rows, "length", "branch", "level")
        for state, own in rows.groupby(columns, sort=True):
            first = steps[own.index].groupby([own[name] for name in sample]).min().to_numpy(float)
            late = np.where(np.isnan(first), np.inf, first)
            middle = float(np.median(late))
            found.append(
                {
                    **dict(zip(columns, state, strict=True)),
                    "density": own["density"].mean(),
                    "verdict": verdict,
                    "step": middle if np.isfinite(middle) else np.nan,
                    "low": float(late.min()) if np.isfinite(late.min()) else np.nan,
                    "high": float(late.max()) if np.isfinite(late.max()) else np.nan,
                    "samples": len(first),
                    "share": float(np.isfinite(first).mean()),
                }
            )
    return results.frame(found)


def ranges(
    copies: pd.DataFrame,
    *,
    branch: str = "ticket",
    random: Sequence[str] | None = None,
    margin: float = 0.002,
    split: str = "test",
    dense: float | None = None,
) -> pd.DataFrame:
    """The range of densities that every level is in.

    I (trivial): a randomly pruned network matches at some step k. II: the tickets do and no random
    one. III: not even the tickets do.

    Args:
      copies: `copies()` of an analysis with tickets and a random control.
      branch: the tickets.
      random: branches that count as randomly pruned; None for all of them that are there.
      margin, split, dense: as for `matching`.

    Returns:
      Rows level, density, range ("I", "II", "III"), first_ticket and first_random: the first
      matching step of the mean, nan where there is none.

    Raises:
      ValueError: where the table has no random control.

    Reference: Frankle's thesis, section 4.2.5.
    """
    found: Any = matching(copies, margin=margin, split=split, dense=dense)
    present = set(found["branch"])
    controls = [name for name in RANDOM if name in present]
    if random is not None:
        controls = list(_check.texts("random", random, like='["layerwise_random"]'))
    if branch not in present or not controls or not set(controls) <= present:
        raise ValueError(
            f"`copies` need the branch {branch!r} and a random control, they have "
            f"{sorted(present)}; analyse with branches=('layerwise_random',)"
        )
    rows = []
    for level, own in found[found["level"] > 0].groupby("level", sort=True):
        good = own[own["matching"]]
        ticket = good[good["branch"] == branch]["at"].min()
        control = good[good["branch"].isin(controls)]["at"].min()
        of = "I" if control == control else "II" if ticket == ticket else "III"
        rows.append(
            {
                "level": level,
                "density": own["density"].mean(),
                "range": of,
                "first_ticket": ticket,
                "first_random": control,
            }
        )
    return results.frame(rows)
