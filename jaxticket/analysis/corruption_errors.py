"""Errors on corrupted images, relative to those of the dense network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jaxticket import results
from jaxticket.results import check_table

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("seed", "level", "density", "branch", "metric", "index", "value", "diverged")
_NETWORK = ["seed", "level", "density", "branch", "diverged"]
ERRORS = "error_"
"""How the metrics of `jt.probes.Corruptions` begin that are errors of a corruption."""


def mean_corruption_error(table: pd.DataFrame, dense: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute the mean corruption error of networks, relative to the dense one of the same seed.

    mCE = mean over corruptions c of CE_c,  CE_c = sum_s E_{c,s} / sum_s E^dense_{c,s}

    with the errors E at severities s. It is 1 for the dense network itself, and below 1 for
    networks that corruptions harm less; a network that is better on all images is so too.

    Args:
      table: what `jt.measure(runs, "corruptions")` gave.
      dense: what the same probe gave for dense networks of the same seeds, of one level and branch;
        level 0 of `table` if None.

    Returns:
      Tidy table with the columns of `table`: for each network "mce", and "ce_NAME" for each
      corruption. nan where the network or its dense one diverged.

    Raises:
      ValueError: for tables of other probes, dense networks that are missing or not alone, other
        corruptions or severities, and dense networks that make no error on a corruption.

    Reference: KD-LTS, appendix C.1; Hendrycks and Dietterich (2019), who divide by the errors of
      AlexNet.

    Examples:
      >>> import pandas as pd
      >>> rows = [(0, level, 0.5**level, "ticket", "error_fog", 0, 0.2 + 0.1 * level, -1)
      ...         for level in (0, 1)]
      >>> columns = "seed level density branch metric index value diverged".split()
      >>> found = mean_corruption_error(pd.DataFrame(rows, columns=columns))
      >>> found[["level", "metric", "value"]].round(3).values.tolist()
      [[0, 'ce_fog', 1.0], [0, 'mce', 1.0], [1, 'ce_fog', 1.5], [1, 'mce', 1.5]]
    """
    sums = _sums("table", table)
    if dense is None:
        own = table.loc[table["level"] == 0]
        if own.empty:
            raise ValueError(
                "`dense` is needed, since `table` has no networks of level 0; pass what the same "
                "probe gave for dense networks"
            )
        base = _sums("dense", own)
    else:
        base = _sums("dense", dense)
    networks = base.drop_duplicates(["seed", "level", "branch"])
    if (several := networks.duplicated("seed")).any():
        levels, names = (sorted(set(networks[name])) for name in ("level", "branch"))
        raise ValueError(
            f"`dense` has several networks of seed {networks.loc[several, 'seed'].min()}: levels "
            f"{levels} of {names}; pass one level of one branch"
        )
    missing = sorted(set(sums["seed"]) - set(base["seed"]))
    if missing:
        raise ValueError(
            f"`dense` has no networks of the seeds {missing}; measure the dense networks of all "
            "seeds of `table`"
        )
    for name in ("metric", "count"):
        given, there = (set(one[name]) for one in (sums, base))
        if given != there:
            what = "corruptions" if name == "metric" else "numbers of severities"
            raise ValueError(
                f"`dense` has other {what} than `table`: {sorted(there ^ given)} are in one alone; "
                "measure both with the same probe"
            )
    zero = base.loc[base["total"] == 0].to_dict("records")
    if zero:
        raise ValueError(
            f"`dense` has no errors on {zero[0]['metric'].removeprefix(ERRORS)!r} with seed "
            f"{zero[0]['seed']}, so that nothing can be divided by them; measure more examples or "
            "higher severities, or leave this corruption out of `names`"
        )
    both = sums.merge(
        base.loc[:, ["seed", "metric", "total"]], on=["seed", "metric"], suffixes=("", "_dense")
    )
    both = both.assign(
        value=both["total"] / both["total_dense"],
        metric="ce_" + both["metric"].str.removeprefix(ERRORS),
        index=0,
    )
    mean = both.groupby(_NETWORK, sort=False, dropna=False)["value"].agg(_mean).reset_index()
    found = results.concat([both, mean.assign(metric="mce", index=0)])
    found = found.sort_values(["branch", "level", "seed"], kind="stable", ignore_index=True)
    return found.loc[:, list(_COLUMNS)]


def _mean(values: pd.Series) -> float:
    """The mean, nan if one is."""
    return float(np.mean(values.to_numpy(float)))


def _sums(argument: str, table: pd.DataFrame) -> pd.DataFrame:
    """The errors of each network and corruption, summed over severities."""
    remedy = "pass what jt.measure(runs, 'corruptions') gave"
    check_table(table, _COLUMNS, argument=argument, remedy=remedy)
    rows = table.loc[table["metric"].astype(str).str.startswith(ERRORS)].drop_duplicates()
    if rows.empty:
        raise ValueError(f"`{argument}` has no errors of corruptions; {remedy}")
    keys = ["seed", "level", "branch", "metric", "index"]
    if (twice := rows.duplicated(keys)).any():
        at = rows.loc[twice, keys].to_dict("records")[0]
        raise ValueError(f"`{argument}` has two values of {at}; pass the table of one measurement")
    by = rows.groupby([*_NETWORK, "metric"], sort=False, dropna=False)["value"]
    # not the sum of pandas, which leaves nan out
    return by.agg(total=_total, count="size").reset_index()


def _total(values: pd.Series) -> float:
    return float(np.sum(values.to_numpy(float)))


__all__ = ["mean_corruption_error"]


def __dir__() -> list[str]:
    return __all__
