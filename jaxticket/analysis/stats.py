"""Accuracy and training speed of tickets, read from the tidy table of a run.

Every function takes a DataFrame with one row per value (seed, level, density, branch, step, split,
metric, value; `runs.table()` gives it) and returns a DataFrame. A training is one (seed, level,
branch); its last step is its final evaluation, and trainings may end at different steps. Level 0
of branch "ticket" is the dense network. Columns beyond these eight are ignored.

A replica that diverged has values that are not finite. It is left out of means but never out of
sight: it is counted as `diverged`, and a mean that leaves a replica out proves nothing, so such a
density is neither matching nor reached.

Reference: Frankle's thesis, sections 3.3.1 (replicates) and 3.3.6 (training speed).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from jaxticket import _check, _stats
from jaxticket._stats import GUARD
from jaxticket.results import COLUMNS, check_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS", "GUARD", "at_share", "best", "check_table", "dense", "dense_rows", "early_stop",
    "final", "generalization_gap", "learning_factor", "matching", "over_seeds", "smallest_dilation",
]  # fmt: skip
TRAINING = ["seed", "level", "branch"]
# densities of one level that differ by less than this share are one density, realized per seed
SAME_DENSITY = 0.05


def final(table: pd.DataFrame, *, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """Select the rows at each training's last step.

    Args:
      table: tidy table with one row per value.
      split: "train", "validation" or "test".
      metric: "accuracy" (in [0, 1]) or "loss".

    Returns:
      One row per (seed, level, branch), all columns of `table`, in the order of `table`.

    Raises:
      ValueError: if the table is empty, lacks columns, holds nothing of that split and metric, or
        holds one training more than once.
    """
    rows = _select(table, split, metric)
    return _at(rows, _by(rows, "step", TRAINING).transform("max"))


def at_share(
    table: pd.DataFrame, share: float, *, split: str = "test", metric: str = "accuracy"
) -> pd.DataFrame:
    """Select the rows at a share of the dense network's training.

    With the seed's dense run ending at step T, each training gives its first evaluation at a step
    t ≥ share · T. A training that stopped before share · T gives its last one.

    Args:
      table: tidy table with one row per value; every seed needs its dense run.
      share: share of the dense training in (0, 1]; 0.25 is "accuracy at a quarter of training".
      split: "train", "validation" or "test".
      metric: "accuracy" or "loss".

    Returns:
      One row per (seed, level, branch), all columns of `table`.

    Raises:
      ValueError: if `share` is outside (0, 1], a seed has no dense run, or the table is unusable.
    """
    share = _check.share("share", share)
    rows = _select(table, split, metric)
    last = _column(dense(table, split=split, metric=metric).set_index("seed"), "step")
    target = _column(rows, "seed").map(last) * share
    if np.any(target.isna()):
        lost = sorted(rows.loc[target.isna(), "seed"].unique().tolist())
        raise ValueError(
            f"`table` has no dense run (branch 'ticket', level 0) of seeds {lost}, so their share "
            "of training is unknown; add the table of find_tickets with these seeds"
        )
    step = _column(rows, "step")
    late = step.where(step >= target * (1 - 1e-9))
    chosen = _by(rows, late, TRAINING).transform("min")
    return _at(rows, chosen.fillna(_by(rows, "step", TRAINING).transform("max")))


def dense(table: pd.DataFrame, *, split: str = "test", metric: str = "accuracy") -> pd.DataFrame:
    """Select the final rows of the dense network: level 0 of branch "ticket".

    Args:
      table: tidy table with one row per value.
      split: "train", "validation" or "test".
      metric: "accuracy" or "loss".

    Returns:
      One row per seed.

    Raises:
      ValueError: if the table holds no dense network, or is unusable.
    """
    return dense_rows(final(table, split=split, metric=metric))


def dense_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of the dense network.

    Raises:
      ValueError: if there are none.
    """
    found = rows.loc[(rows["branch"] == "ticket") & (rows["level"] == 0)]
    if found.empty:
        raise ValueError(
            "`table` has no dense network (branch 'ticket', level 0) to compare with; it has "
            f"branches {sorted(rows['branch'].unique())} and levels "
            f"{sorted(rows['level'].unique().tolist())}; add the table of find_tickets"
        )
    return found.reset_index(drop=True)


def early_stop(table: pd.DataFrame) -> pd.DataFrame:
    """Find the early-stopping step of each training, and the test accuracy at that step.

    early_stop_step = argmin over t of the validation loss, the earliest t on ties; accuracy is the
    test accuracy at that step. The metric means something for constant learning rates only: a
    schedule decides by itself when the loss falls.

    Args:
      table: tidy table with validation losses and test accuracies at the same steps.

    Returns:
      One row per training: seed, level, density, branch, early_stop_step, accuracy. A training
      without one finite validation loss has nan for both (so the step is a float).

    Raises:
      ValueError: if there is no validation split, or no test accuracy at one of the steps.

    Reference: Frankle's thesis, section 3.3.6 ("Early stopping metric") and figure 3-8.
    """
    _need_validation(table, "early stopping")
    losses = _select(table, "validation", "loss").sort_values("step", kind="stable")
    trainings = losses.drop_duplicates(TRAINING).loc[:, [*TRAINING, "density"]]
    finite = losses.loc[np.isfinite(losses["value"])]
    least = _by(finite, "value", TRAINING).transform("min")
    first = (
        finite.loc[finite["value"] == least].drop_duplicates(TRAINING).loc[:, [*TRAINING, "step"]]
    )
    test = _select(table, "test", "accuracy").loc[:, [*TRAINING, "step", "value"]]
    found = first.merge(test, on=[*TRAINING, "step"])
    _same_steps(found, first, "test", "where the validation loss is least")
    found = found.rename(columns={"step": "early_stop_step", "value": "accuracy"})
    result = trainings.merge(found, on=TRAINING, how="left").astype({"early_stop_step": float})
    result = result.sort_values(["branch", "level", "seed"], ignore_index=True)
    return result.loc[:, ["seed", "level", "density", "branch", "early_stop_step", "accuracy"]]


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Select the test accuracies of each training's best checkpoint instead of its last one.

    The best checkpoint is that of the step t with the highest validation accuracy, the earliest t
    on ties. Only steps that were evaluated can be chosen.

    Args:
      table: tidy table with validation and test accuracies at the same steps.

    Returns:
      As `final`, one row per training with all columns of `table`: step (that of the best
      checkpoint) and value (its test accuracy). Of a training with a validation accuracy that is
      not finite, which diverged, the value is nan and the step the last one.

    Raises:
      ValueError: if there is no validation split, or no test accuracy at one of the steps.

    Reference: KD-LTS, appendix G.1.
    """
    _need_validation(table, "the best checkpoint")
    accuracies = _select(table, "validation", "accuracy").sort_values("step", kind="stable")
    accuracies = accuracies.assign(finite=np.isfinite(accuracies["value"]))
    finite = _by(accuracies, "finite", TRAINING).transform("all")
    most = _by(accuracies, "value", TRAINING).transform("max")
    last = _by(accuracies, "step", TRAINING).transform("max")
    chosen = (accuracies["value"] == most).where(finite, accuracies["step"] == last)
    steps = accuracies.assign(finite=finite).loc[chosen].drop_duplicates(TRAINING)
    steps = steps.loc[:, [*TRAINING, "step", "finite"]]
    found = _select(table, "test", "accuracy").merge(steps, on=[*TRAINING, "step"])
    _same_steps(found, steps, "test", "where the validation accuracy is highest")
    return found.assign(value=found["value"].where(found["finite"])).drop(columns="finite")


def generalization_gap(table: pd.DataFrame) -> pd.DataFrame:
    """Compute how much more accurate each training is on its training data than on the test data.

    gap = a(train) - a(test), of the final accuracies a

    Args:
      table: tidy table with accuracies of both splits at each training's last step.

    Returns:
      One row per training: seed, level, density, branch, step, train, test, gap (accuracies in [0,
      1]; gap is nan where the training diverged).

    Raises:
      ValueError: if a split is missing, or was not evaluated at a training's last step.

    Reference: KD-LTS, appendix C.1.
    """
    test = final(table, split="test").rename(columns={"value": "test"})
    train = final(table, split="train").rename(columns={"value": "train"})
    both = test.merge(train.loc[:, [*TRAINING, "step", "train"]], on=[*TRAINING, "step"])
    _same_steps(both, test, "train", "the last one of the test split")
    gap = (both["train"] - both["test"]).where(np.isfinite(both["train"] + both["test"]))
    both = both.assign(gap=gap).sort_values(["branch", "level", "seed"], ignore_index=True)
    return both.loc[:, ["seed", "level", "density", "branch", "step", "train", "test", "gap"]]


def learning_factor(table: pd.DataFrame, *, margin: float = 0.0) -> pd.DataFrame:
    """Compute how many times faster each ticket becomes as accurate as the trained dense network.

    factor = T / min { t : mean over seeds of a(t) ≥ mean over seeds of a(dense, T) - margin }

    with T the dense network's last step and a(t) the test accuracy at step t; "1.2 times faster" is
    a factor of 1.2. It is the curve of means that must reach the bar: single curves cross it by
    chance, and the mean of their steps has no value where one of them never does. The dense network
    itself usually has a factor above 1, since its curve is flat at the end: that is the bar for
    tickets. Steps count from initialization, also those of tickets that start at a later step, and
    are known to within the interval between evaluations.

    Args:
      table: tidy table with test accuracies during training; all dense seeds end at one step.
      margin: accuracy that may be lacking, in [0, 1].

    Returns:
      One row per branch, level and density: seeds, diverged (those whose last accuracy is not
      finite), dense_mean, step (inf where the bar is never reached), factor (then 0, and inf for
      step 0), low and high (the least and the greatest factor of single seeds: each with its own
      curve and the same bar). A step at which a seed is not finite reaches nothing.

    Raises:
      ValueError: if there is no dense network, none of its seeds is finite, or they end at several
        steps.

    Reference: KD-LTS, section 5 ("learning efficiency").
    """
    _check.number("margin", margin, 0)
    ends = dense(table)
    if len(set(ends["step"])) > 1:
        raise ValueError(
            f"`table` has dense networks that end at the steps "
            f"{sorted(ends['step'].unique().tolist())}; keep those of one length"
        )
    mean = _finite_mean(_column(ends, "value"))
    last = final(table)
    last = last.assign(density=_density_of_level(last, np.isfinite(last["value"])))
    # a training has one density at all of its steps
    rows = _select(table, "test", "accuracy").drop(columns="density")
    rows = rows.merge(last.loc[:, [*TRAINING, "density"]], on=TRAINING)
    group = ["branch", "level", "density"]
    means = over_seeds(rows, by=["step"])
    all_seeds = means["seeds"] == _by(means, "seeds", group).transform("max")
    reached = all_seeds & _stats.matching(
        means["mean"], mean, margin=margin, diverged=means["diverged"]
    )
    together = _by(means, _column(means, "step").astype(float).where(reached, np.inf), group).min()
    enough = _stats.at_least(rows["value"], mean - margin)
    steps = _column(rows, "step").astype(float).where(enough, np.inf)
    alone = _by(rows, steps, [*TRAINING, "density"]).min().reset_index(name="step")
    alone = _by(alone, "step", group).agg(["min", "max"])
    result = over_seeds(last).loc[:, [*group, "seeds", "diverged"]].assign(dense_mean=mean)
    index = result.set_index(group).index
    with np.errstate(divide="ignore"):
        length = float(ends["step"].iloc[0])
        result["step"] = together.reindex(index).to_numpy()
        result["factor"] = length / result["step"].to_numpy()
        high, low = (length / alone.reindex(index).to_numpy(float)).T
    return result.assign(low=low, high=high)


def matching(
    table: pd.DataFrame, *, margin: float = 0.002, test_size: int | None = None
) -> pd.DataFrame:
    """Judge at every density whether the tickets are as accurate as the dense network.

    matching ⇔ mean over seeds of a(density) ≥ mean over seeds of a(dense) - max(margin, 1 / N)

    with a the final test accuracy and N the number of test examples: below one example there is no
    difference.

    Args:
      table: tidy table with one row per value.
      margin: accuracy that may be lost, in [0, 1]; 0.002 is 0.2 points.
      test_size: number N of test examples, or None to use `margin` alone.

    Returns:
      One row per branch, level and density: mean, min, max (over the seeds that are finite), seeds
      (all of them), diverged (those that are not finite), dense_mean, matching. With a diverged
      seed, matching is False.

    Raises:
      ValueError: if there is no dense network, or none of its seeds is finite.

    Reference: Frankle's thesis, section 3.3.1 (mean of replicates), figure 4-18 (0.2 points).
    """
    margin = _check.share("margin", margin, zero=True, one=False)
    if test_size is not None:
        test_size = _check.whole("test_size", test_size, 1)
        margin = max(margin, 1 / test_size)
    result = over_seeds(final(table))
    result["dense_mean"] = _finite_mean(_column(dense(table), "value"))
    result["matching"] = _stats.matching(
        result["mean"], result["dense_mean"], margin=margin, diverged=result["diverged"]
    )
    return result


def smallest_dilation(table: pd.DataFrame, *, margin: float = 0.0) -> pd.DataFrame:
    """Find the shortest training at which each ticket is as accurate as the dense network.

    δ* = min { δ : mean over seeds of a(δ) ≥ mean over seeds of a(dense, δ = 1) - margin }

    where dilation δ multiplies the steps and every time of the learning-rate schedule, and a is the
    final test accuracy. The dense network itself usually has δ* < 1: that is the bar for tickets.

    Args:
      table: tidy table with the further column `dilation`, trained at several factors δ.
      margin: accuracy that may be lost, in [0, 1].

    Returns:
      One row per branch, level and density with delta_star; inf where no factor is enough. A factor
      at which a seed diverged does not count as enough.

    Raises:
      ValueError: if there is no column `dilation`, or no dense network at dilation 1.

    Reference: Frankle's thesis, section 3.3.6 ("Training dilation metric") and figure 3-9.
    """
    margin = _check.share("margin", margin, zero=True, one=False)
    check_table(table)
    if "dilation" not in table.columns:
        raise ValueError(
            f"`table` needs a column 'dilation', it has {list(table.columns)}; train tickets with "
            "branch(runs, change, dilation=0.5) for several factors and concatenate their tables"
        )
    # 0.1 + 0.2, 0.3 and a float32 0.3 are one factor
    table = table.assign(dilation=table["dilation"].astype(float).round(6))
    rows = _select(table, "test", "accuracy", "dilation")
    rows = _at(rows, _by(rows, "step", [*TRAINING, "dilation"]).transform("max"))
    full = dense_rows(rows)
    full = full.loc[full["dilation"] == 1]
    if full.empty:
        raise ValueError(
            "`table` has no dense network (branch 'ticket', level 0) at dilation 1, its dilations "
            f"are {sorted(dense_rows(rows)['dilation'].unique().tolist())}; add the table of "
            "find_tickets with dilation = 1.0"
        )
    means = over_seeds(rows, by=["dilation"])
    enough = _stats.matching(
        means["mean"],
        _finite_mean(_column(full, "value")),
        margin=margin,
        diverged=means["diverged"],
    )
    means["delta_star"] = means["dilation"].where(enough, np.inf)
    return _by(means, "delta_star", ["branch", "level", "density"]).min().reset_index()


def over_seeds(
    rows: pd.DataFrame, column: str = "value", *, by: Sequence[str] = ()
) -> pd.DataFrame:
    """Compute mean and spread of a column over seeds, for every branch, level and density.

    Args:
      rows: one row per seed, branch, level (and what `by` names).
      column: the column to average.
      by: further columns that tell groups apart.

    Returns:
      One row per group: branch, level, density, mean, std (s with s² = Σ (v - mean)² / (n - 1), 0
      for one seed), min, max (over the finite values), seeds (number of rows), diverged (number of
      values that are not finite). Densities that the seeds of a level realize within 5% of their
      median count as that median, and so do those of seeds that diverged, which keep an older mask.
    """
    by = _check.texts("by", by, like='["dilation"]')
    wanted = ("branch", "level", "density", _check.text("column", column), *by)
    remedy = "pass rows such as jt.speed.final(runs.table())"
    check_table(rows, wanted, argument="rows", remedy=remedy)
    values = _column(rows, column).astype(float)
    finite = values.where(np.isfinite(values))
    rows = rows.assign(density=_density_of_level(rows, finite.notna()))
    groups = _by(rows, finite, ["branch", "level", "density", *by])
    result = groups.agg(["mean", "std", "min", "max", "size", "count"]).reset_index()
    result["std"] = result["std"].mask(result["count"] == 1, 0.0)
    result["count"] = result["size"] - result["count"]
    return result.rename(columns={"size": "seeds", "count": "diverged"})


def _density_of_level(rows: pd.DataFrame, finite: pd.Series | np.ndarray) -> pd.Series:
    """Compute the density that each row counts as; see `over_seeds`."""
    # the density of a level is that of the seeds that reached it
    density = _column(rows, "density")
    reached = density.where(finite)
    level = _by(rows, reached, ["branch", "level"]).transform("median")
    level = level.fillna(_by(rows, "density", ["branch", "level"]).transform("median"))
    near = ((density - level).abs() <= SAME_DENSITY * level) | ~finite
    return level.where(near, density)


def _need_validation(table: pd.DataFrame, what: str) -> None:
    """Raise where a choice would have to be made by the test data."""
    check_table(table)
    if "validation" not in set(table["split"]):
        raise ValueError(
            f"`table` has no validation split, only {sorted(table['split'].unique())}; {what} must "
            "not be chosen by the test data: hold a tenth of the training data out with "
            "data.with_validation(0.1) and train again"
        )


def _same_steps(found: pd.DataFrame, needed: pd.DataFrame, split: str, why: str) -> None:
    """Raise unless `found` has every training of `needed` at its step."""
    keys = [*TRAINING, "step"]
    lost = needed[keys].merge(found[keys], on=keys, how="left", indicator="match")
    lost = lost.loc[lost["match"] == "left_only"]
    if not lost.empty:
        one = lost.iloc[0]
        raise ValueError(
            f"`table` has no {split} accuracy at step {one['step']} of seed {one['seed']}, level "
            f"{one['level']}, branch {one['branch']!r}, {why}; evaluate both splits at the same "
            "steps"
        )


def _select(table: pd.DataFrame, split: str, metric: str, *keys: str) -> pd.DataFrame:
    """Select the rows of one split and metric, each training (`keys` tell more apart) once."""
    check_table(table)
    for name, value in (("split", split), ("metric", metric)):
        known = table[name].unique()
        if value not in known:
            raise ValueError(
                f"`{name}` {value!r} is not in `table`; {_check.nearest(value, known)}"
            )
    rows = table.loc[(table["split"] == split) & (table["metric"] == metric)]
    if rows.empty:
        pairs = sorted(set(zip(table["split"], table["metric"], strict=True)))
        raise ValueError(
            f"`table` has no metric {metric!r} on `split` {split!r}, only {pairs}; evaluate it"
        )
    if "diverged" in rows.columns:
        # tables that other versions wrote hold accuracies of networks that had diverged
        late = (rows["diverged"] >= 0) & (rows["step"] >= rows["diverged"])
        rows = rows.assign(value=rows["value"].mask(late))
    training = [*TRAINING, *keys]
    rows = rows.drop_duplicates([*training, "step", "value"])
    mixed = rows.duplicated([*training, "step"], keep=False)
    if "dilation" in table.columns and "dilation" not in keys:
        mixed |= _by(rows, "dilation", training).transform("nunique") > 1
    if mixed.any():
        one = rows[mixed].iloc[0]
        raise ValueError(
            f"`table` holds several trainings of seed {one['seed']}, level {one['level']}, branch "
            f"{one['branch']!r}; keep one, for example table[table.dilation == 1]"
        )
    return rows


class _Groups(Protocol):
    """The methods of pandas' groups of one column that are used here, with their types."""

    def transform(self, how: str) -> pd.Series: ...

    def agg(self, how: list[str]) -> pd.DataFrame: ...

    def min(self) -> pd.Series: ...


def _by(rows: pd.DataFrame, values: str | pd.Series, keys: Sequence[str]) -> _Groups:
    """Group a column of `rows`, or values that belong to `rows`, by columns of `rows`."""
    values = _column(rows, values) if isinstance(values, str) else values
    return cast("_Groups", values.groupby([rows[key] for key in keys], observed=True))


def _column(rows: pd.DataFrame, name: str) -> pd.Series:
    """Select one column."""
    return rows.loc[:, name]


def _at(rows: pd.DataFrame, steps: pd.Series) -> pd.DataFrame:
    """Select the rows at the given step each."""
    return rows.loc[rows["step"] == steps].reset_index(drop=True)


def _finite_mean(values: pd.Series) -> float:
    """Compute the mean accuracy of the dense replicas that did not diverge."""
    finite = values.loc[np.isfinite(values)]
    if finite.empty:
        raise ValueError(
            f"`table` has {len(values)} dense replicas and all of them diverged, so there is "
            "nothing to compare with; train them with a lower learning rate"
        )
    return float(finite.mean())


def __dir__() -> list[str]:
    return __all__
