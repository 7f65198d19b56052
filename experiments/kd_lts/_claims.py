"""What figures say about a claim: KD-LTS against each other method, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

import jaxticket as jt
from experiments.common.report import Row, groups

OURS = "kd_lts"
DEVIATIONS = 2.0
"""A difference is clear from so many standard deviations over seeds on."""


def clear(differences: np.ndarray) -> bool:
    """Tell whether differences of pairs are clear: of one sign, and far from 0 for their spread.

    With one pair, or one that diverged, that cannot be told.

    >>> clear(np.array([1.0, 1.1, 1.2])), clear(np.array([1.0, 1.0, -0.1])), clear(np.array([1.0]))
    (True, False, False)
    """
    if len(differences) < 2 or not np.isfinite(differences).all():
        return False
    one_sign = (differences > 0).all() or (differences < 0).all()
    far = abs(differences.mean()) >= DEVIATIONS * differences.std(ddof=1)
    return bool(one_sign and far)


def compared(rows: pd.DataFrame, *, ours: str = OURS, keys: Sequence[str] = ()) -> pd.DataFrame:
    """Compare a method with each other one, networks of the same seed with one another.

    Args:
      rows: one row per number: branch, seed, measure, value, and the keys.
      ours: the branch to compare with all others.
      keys: further columns that tell numbers apart.

    Returns:
      One row per measure and other branch: measure, the keys, branch, seeds, ours and theirs (means
      over the seeds), difference (ours - theirs, mean over seeds), std (of the difference; nan with
      one seed) and clear.
    """
    found = []
    for place, part in groups(rows, "measure", *keys):
        by = part.pivot_table(index="seed", columns="branch", values="value", dropna=False)
        if ours not in by:
            continue
        for branch in (name for name in part["branch"].unique() if name != ours):
            both = by[[ours, branch]].to_numpy(float)
            gaps = both[:, 0] - both[:, 1]
            found.append({
                **dict(zip(("measure", *keys), place, strict=True)), "branch": branch,
                "seeds": len(gaps), "ours": both[:, 0].mean(), "theirs": both[:, 1].mean(),
                "difference": gaps.mean(),
                "std": gaps.std(ddof=1) if len(gaps) > 1 else np.nan, "clear": clear(gaps),
            })  # fmt: skip
    return jt.results.frame(found)


def in_words(row: Row, digits: int = 3) -> str:
    """Write a comparison: "lower by 1.2 +- 0.3, clearly"."""
    if not np.isfinite(row["difference"]):
        return "not known: a network diverged"
    side = "lower" if row["difference"] < 0 else "higher"
    spread = f" +- {row['std']:.{digits}g}" if np.isfinite(row["std"]) else ""
    words = "clearly" if row["clear"] else "no clear difference"
    return f"{side} by {abs(row['difference']):.{digits}g}{spread}, {words}"
