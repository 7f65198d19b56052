"""Arithmetic of means over seeds and of comparisons with thresholds, on numbers and columns.

All verdicts use these functions, so that equal accuracies are equal everywhere. `jt.speed` reads
tables of accuracies with them, `jt.stability` tables of copies, and `jt.verdict` judges by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Numbers: TypeAlias = Any
"""A number, an array or a column of a table; comparisons give bools of the same kind."""

GUARD = 1e-7
"""What differs by less differs by rounding: accuracies were float32 on the device."""


def at_least(value: Numbers, bar: Numbers) -> Numbers:
    """Compare `value >= bar` up to rounding; nan reaches no bar."""
    return value >= bar - GUARD


def at_most(value: Numbers, bar: Numbers) -> Numbers:
    """Compare `value <= bar` up to rounding; nan keeps no bound."""
    return value <= bar + GUARD


def below(value: Numbers, bar: Numbers) -> Numbers:
    """Compare `value < bar` by more than rounding; nan is below nothing."""
    return value < bar - GUARD


def matching(accuracy: Numbers, dense: Numbers, *, margin: float, diverged: Numbers = 0) -> Numbers:
    """Judge whether mean accuracies match the dense network's.

    matching ⇔ accuracy ≥ dense - margin, and no seed diverged

    Args:
      accuracy: mean over the seeds (or a column of means).
      dense: mean accuracy of the dense network. Errors are compared as negative accuracies.
      margin: accuracy that may be lost.
      diverged: number of seeds that diverged: a mean that leaves one out proves nothing.
    """
    return at_least(accuracy, dense - margin) & (diverged == 0)


def finite(values: ArrayLike) -> np.ndarray:
    """The values of the seeds that did not diverge, float64."""
    values = np.asarray(values, float)
    return values[np.isfinite(values)]


def mean(values: np.ndarray) -> float:
    """The mean, nan where there is no value."""
    return float(values.mean()) if len(values) else float("nan")


def half_width(values: np.ndarray, confidence: float = 0.95) -> float:
    """Half of Student's interval of a mean, `t(n - 1) * std / sqrt(n)`; nan for one value."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return float("nan")
    reach = stats.t.interval(confidence, n - 1)[1]
    return float(reach * values.std(ddof=1) / np.sqrt(n))


def clear_gap(
    ours: np.ndarray, theirs: np.ndarray, *, gap: float, deviations: float
) -> tuple[float, float, bool]:
    """Judge whether the mean of one sample is above that of another by a clear gap.

    `found = mean(ours) - mean(theirs)`, `pooled = sqrt((s_ours^2 + s_theirs^2) / 2)`; clear is
    `found >= max(gap, deviations * pooled)`.

    Args:
      ours, theirs: finite values, one per seed.
      gap: the least difference that is clear.
      deviations: how many pooled standard deviations it has to be.

    Returns:
      found, pooled (nan with one seed) and whether the gap is clear, False for one seed.
    """
    found = mean(ours) - mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return found, float("nan"), False
    pooled = float(np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2))
    return found, pooled, bool(at_least(found, max(gap, deviations * pooled)))


def described(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> dict[str, float]:
    """Describe a sample by its size, mean, spread and interval.

    The columns are samples (finite values), diverged (all others), mean, std (n - 1), min, max, low
    and high (Student's interval of the mean).
    """
    good = finite(values)
    n, center, reach = len(good), mean(good), half_width(good, confidence)
    return {
        "samples": n,
        "diverged": len(values) - n,
        "mean": center,
        "std": float(good.std(ddof=1)) if n > 1 else float("nan"),
        "min": good.min() if n else float("nan"),
        "max": good.max() if n else float("nan"),
        "low": center - reach,
        "high": center + reach,
    }
