"""Criteria for states: stable, matching, from which step on, and in which range of densities.

All functions read tables of an `Instability` (`table()` or `copies()`), or the concatenation of
several of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxticket import _check, _stats, results

if TYPE_CHECKING:
    import pandas as pd

STATE = ("length", "branch", "level", "at")
RANDOM = ("random", "layerwise_random", "shuffle", "globally_permuted", "locally_permuted")


def _rows(table: pd.DataFrame, metric: str, split: str) -> pd.DataFrame:
    """Select the rows of one metric and split."""
    needed = (*STATE[1:], "density", "seed", "split", "metric", "value")
    results.check_table(table, needed, remedy="pass a table of jt.instability")
    rows = table.loc[(table["metric"] == metric) & (table["split"] == split)]
    if rows.empty:
        known = sorted(set(zip(table["split"], table["metric"], strict=True)))
        raise ValueError(f"`table` has no {metric!r} of {split!r}; it has (split, metric) {known}")
    return rows.reset_index(drop=True)


def _groups(
    rows: pd.DataFrame, columns: Sequence[str]
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Give the labels and rows of each group; the column "length" may be missing."""
    present = [name for name in columns if name in rows.columns]
    for labels, group in rows.groupby(present, sort=True):
        assert isinstance(labels, tuple)
        named: dict[str, object] = dict(zip(present, labels, strict=True))
        yield named | {"density": group["density"].mean()}, group


def summary(
    table: pd.DataFrame,
    *,
    metric: str = "barrier",
    split: str = "test",
    confidence: float = 0.95,
    unit: str = "pair",
) -> pd.DataFrame:
    """Compute mean, spread and confidence interval of a metric for every state.

    The interval is Student's: `mean +- t(n - 1) * std / sqrt(n)`, nan for one sample. Pairs of one
    seed share its dense training (and copies), so an interval over pairs is narrower than one over
    seeds; `unit="seed"` first averages over the pairs of a seed.

    Args:
      table: `table()` or `copies()` of an analysis.
      metric: the metric, such as "barrier".
      split: the split, such as "test".
      confidence: coverage of the interval, in (0, 1).
      unit: what counts as a sample: "pair" (in `copies()` a copy) or "seed".

    Returns:
      One row per (length,) branch, level and step k: density, samples, mean, std (n - 1), min, max,
      low, high. Non-finite (diverged) samples are excluded and counted in `diverged`.
    """
    confidence = _check.share("confidence", confidence, one=False)
    _check.one_of("unit", unit, ("pair", "seed"))
    rows = _rows(table, metric, split)
    summaries = []
    for labels, group in _groups(rows, STATE):
        values = group["value"]
        if unit == "seed":
            values = group.groupby("seed")["value"].agg(lambda v: v.mean(skipna=False))
        summaries.append(labels | _stats.described(np.asarray(values, float), confidence))
    return results.frame(summaries)


def stable(table: pd.DataFrame, *, threshold: float = 0.02, split: str = "test") -> pd.DataFrame:
    """Judge which states are stable: their mean error barrier is below the threshold.

    Args:
      table: `table()` of an analysis.
      threshold: in [0, 1]; the sources use 2 percentage points.
      split: "test" or "train".

    Returns:
      `summary` of the barrier with a column `stable`, which is False if a sample diverged.

    Reference: Frankle's thesis, section 4.1.1.
    """
    threshold = _check.share("threshold", threshold)
    barriers = summary(table, metric="barrier", split=split)
    below = _stats.below(barriers["mean"], threshold)
    return barriers.assign(stable=below & (barriers["diverged"] == 0))


def dense_error(copies: pd.DataFrame, *, split: str = "test") -> float:
    """Compute the mean final error of the dense network, over the copies of the earliest step k.

    Args:
      copies: `copies()` of an analysis.
      split: which error.

    Raises:
      ValueError: if the dense network is not among the states.
    """
    rows = _rows(copies, "error", split)
    dense = rows.loc[(rows["branch"] == "ticket") & (rows["level"] == 0)]
    if dense.empty:
        raise ValueError(
            "`copies` hold no dense network (branch 'ticket', level 0) to compare with; include "
            "level 0 in the analysis, or pass its error as `dense`"
        )
    return float(dense.loc[dense["at"] == dense["at"].min(), "value"].mean())


def _reference(copies: pd.DataFrame, dense: float | None, split: str) -> float:
    """Give the dense error to compare with."""
    if dense is None:
        return dense_error(copies, split=split)
    return _check.share("dense", dense, zero=True)


def matching(
    copies: pd.DataFrame, *, margin: float = 0.002, split: str = "test", dense: float | None = None
) -> pd.DataFrame:
    """Judge which states are matching: mean error <= dense error + margin.

    With few seeds and copies, the sources' margin of 0.2 percentage points is often smaller than
    the uncertainty of the mean: compare it with `low` and `high`, the 95% interval of the mean.

    Args:
      copies: `copies()` of an analysis.
      margin: accuracy that may be lost, in [0, 1]; 0.2 percentage points in the sources.
      split: which error.
      dense: error of the dense network in [0, 1]; that of level 0 in the table if None.

    Returns:
      `summary` of the error with columns dense (its error) and matching.

    Reference: Frankle's thesis, Fig. 4-18.
    """
    margin = _check.share("margin", margin, zero=True, one=False)
    reference = _reference(copies, dense, split)
    errors = summary(copies, metric="error", split=split)
    # errors are compared as negative accuracies
    good = _stats.matching(-errors["mean"], -reference, margin=margin, diverged=errors["diverged"])
    return errors.assign(dense=reference, matching=good)


def first_steps(
    table: pd.DataFrame,
    copies: pd.DataFrame,
    *,
    threshold: float = 0.02,
    margin: float = 0.002,
    split: str = "test",
    dense: float | None = None,
) -> pd.DataFrame:
    """Find the first step k at which networks are stable, and matching, at every density.

    A sample is a pair of copies of a seed (stable), or a copy of a seed (matching); its step is the
    smallest k at which its barrier is below the threshold, or its error within the margin of the
    dense error. The median treats samples without such a step as infinitely late.

    As a minimum, the step is biased towards early steps: later barriers above the threshold do not
    count, and the more steps are tried, the earlier one of them passes by chance. `stable` gives
    the mean at every step with its interval.

    Args:
      table: `table()` of an analysis of several levels and steps.
      copies: `copies()` of the same analysis.
      threshold: largest barrier of stable networks, see `stable`.
      margin: accuracy that matching networks may lose, see `matching`.
      split: which barriers and errors.
      dense: error of the dense network, see `matching`.

    Returns:
      Columns branch, level, density, verdict ("stable" or "matching"), step (median; nan if it is
      infinite), low and high (minimum and maximum, nan if infinite), samples, share (fraction of
      samples that have such a step).

    Reference: Frankle's thesis, Fig. 4-18: medians over 3 initializations x 3 orders, plotted where
      a majority is matching at any step.
    """
    threshold = _check.share("threshold", threshold)
    margin = _check.share("margin", margin, zero=True, one=False)
    reference = _reference(copies, dense, split)
    barriers, errors = _rows(table, "barrier", split), _rows(copies, "error", split)
    summaries = []
    for verdict, rows, sample, good in (
        ("stable", barriers, "pair", _stats.below(barriers["value"], threshold)),
        ("matching", errors, "copy", _stats.at_most(errors["value"], reference + margin)),
    ):
        rows = rows.assign(step=rows["at"].astype(float).where(good, np.inf))
        for labels, group in _groups(rows, STATE[:-1]):
            first = np.asarray(group.groupby(["seed", sample])["step"].min(), float)
            ends = {"step": np.median(first), "low": first.min(), "high": first.max()}
            summaries.append(
                {
                    **labels,
                    "verdict": verdict,
                    **{name: x if np.isfinite(x) else np.nan for name, x in ends.items()},
                    "samples": len(first),
                    "share": float(np.isfinite(first).mean()),
                }
            )
    return results.frame(summaries)


def ranges(
    copies: pd.DataFrame,
    *,
    branch: str = "ticket",
    random: Sequence[str] | None = None,
    margin: float = 0.002,
    split: str = "test",
    dense: float | None = None,
) -> pd.DataFrame:
    """Find the range of densities that every level belongs to.

    I (trivial): randomly pruned networks match at some step k. II: tickets match at some step and
    randomly pruned networks at none. III: not even tickets match.

    Args:
      copies: `copies()` of an analysis with tickets and a random control.
      branch: the branch of the tickets.
      random: branches that count as randomly pruned; None for all such branches in the table.
      margin: accuracy that may be lost, see `matching`.
      split: which error.
      dense: error of the dense network, see `matching`.

    Returns:
      Columns level, density, range ("I", "II", "III"), first_ticket and first_random: the first
      step at which the mean is matching, nan if there is none.

    Raises:
      ValueError: if the table has no tickets or no random control.

    Reference: Frankle's thesis, section 4.2.5.
    """
    judged = matching(copies, margin=margin, split=split, dense=dense)
    present = set(judged["branch"])
    controls = [name for name in RANDOM if name in present]
    if random is not None:
        controls = list(_check.texts("random", random, like='["layerwise_random"]'))
    if branch not in present or not controls or not set(controls) <= present:
        raise ValueError(
            f"`copies` need the branch {branch!r} and a random control, they have "
            f"{sorted(present)}; analyze with branches=('layerwise_random',)"
        )
    rows = []
    for labels, group in _groups(judged.loc[judged["level"] > 0], ["level"]):
        good = group.loc[group["matching"]]
        ticket = good.loc[good["branch"] == branch, "at"].min()
        control = good.loc[good["branch"].isin(controls), "at"].min()
        rows.append(
            {
                **labels,
                # minima of no steps are nan
                "range": "I" if control == control else "II" if ticket == ticket else "III",
                "first_ticket": ticket,
                "first_random": control,
            }
        )
    return results.frame(rows)
