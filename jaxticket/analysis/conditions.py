"""The conditions of a winning ticket, judged on accuracies and barriers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _stats, results
from jaxticket._check import number, share
from jaxticket.engine.judged import ACCURACY, Judged

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTROLS", "Rules", "clear_gap", "conditions"]

CONTROLS = ("reinit", "sign_flip", "shuffle", "random", "small_dense")
"""Controls that a winning ticket has to beat by a clear gap."""


class Rules(NamedTuple):
    """Thresholds that the definitions leave open, in shares of 1, or in the units of the metric.

    Attributes:
      margin: by how much a ticket may miss the dense accuracy and still be "as accurate".
      gap, deviations: a gap is clear if it is at least this, and so many pooled standard
        deviations over seeds.
      barrier: the highest error barrier of a stable network.

    Reference: KD-LTS, Definitions 6.1 to 6.3; it prints the barrier alone, 2 points.
    """

    margin: float = 0.002
    gap: float = 0.005
    deviations: float = 2.0
    barrier: float = 0.02

    def checked(self, *, shares: bool = True) -> Rules:
        """Give these rules after a check, as shares of 1 or in other units.

        Raises:
          ValueError: for numbers out of range.
        """
        if not shares:
            return Rules(*(number(name, getattr(self, name), 0) for name in self._fields))
        return Rules(
            share("margin", self.margin, zero=True, one=False),
            share("gap", self.gap, zero=True),
            number("deviations", self.deviations, 0),
            share("barrier", self.barrier, zero=True),
        )


def clear_gap(
    ours: ArrayLike, theirs: ArrayLike, rules: Rules | None = None
) -> tuple[float, float, bool]:
    """Judge whether ours are better than theirs by a clear gap.

    `gap = mean(ours) - mean(theirs)`, `pooled = sqrt((s_ours^2 + s_theirs^2) / 2)`; clear is
    `gap >= max(rules.gap, rules.deviations * pooled)`.

    Args:
      ours: accuracies in [0, 1], one per seed; those of seeds that diverged are not finite and do
        not count.
      theirs: those to compare with.
      rules: how large a gap is clear.

    Returns:
      gap, pooled (nan with one seed) and whether it is clear; False where that cannot be told.

    >>> gap, pooled, clear = clear_gap([0.95, 0.96], [0.90, 0.91])
    >>> round(gap, 3), round(pooled, 4), clear
    (0.05, 0.0071, True)
    """
    rules = Rules() if rules is None else rules
    return _stats.clear_gap(
        _stats.finite(ours), _stats.finite(theirs), gap=rules.gap, deviations=rules.deviations
    )


def conditions(
    accuracy: Mapping[str, np.ndarray],
    barrier: np.ndarray,
    rules: Rules | None = None,
    *,
    main: Judged = ACCURACY,
) -> pd.DataFrame:
    """Judge every condition of a winning ticket.

    Args:
      accuracy: final test accuracies in [0, 1], one per seed, of "ticket", "dense",
        "layerwise_random" and of each of `CONTROLS` that was trained; not finite where a seed
        diverged.
      barrier: error barriers between copies of the ticket, one per seed; likewise.
      rules: thresholds that the definitions leave open.
      main: the metric that stands in the place of accuracies, such as R2 of numbers; of one that is
        better when lower `accuracy` has minus the values, and the table the values.

    Returns:
      One row per condition: condition, value (mean over seeds), low and high (its 95% interval over
      seeds, Student's), bar (what the value is compared with), margin (by how much the condition is
      met; negative where it is not), passes (None where it was not tested), diverged (how many
      trainings that the condition compares diverged) and means (what it asks for, in words).
      "nontrivial": random pruning of each layer to the same density is worse than the dense
      network by more than the margin. "matching": the ticket is not. Controls: the ticket beats
      each by a clear gap. "stable": the barrier is not above the rule's.

      Means are over the seeds that did not diverge. A condition fails if a training of the ticket
      or of the dense network that it compares diverged: a mean that leaves a seed out proves
      nothing in their favor. A control that diverges at some seeds is compared at the others.

    Reference: KD-LTS, Definitions 6.1 to 6.3.
    """
    rules = (Rules() if rules is None else rules).checked(shares=main.shares)
    as_good = "as accurate as" if main == ACCURACY else "as good as"
    kept = {name: _stats.finite(values) for name, values in accuracy.items()}
    gone = {name: len(accuracy[name]) - len(values) for name, values in kept.items()}
    ticket, dense = _stats.mean(kept["ticket"]), _stats.mean(kept["dense"])
    bar = dense - rules.margin
    rows = []

    def add(
        name: str,
        values: np.ndarray,
        bar: float,
        margin: float,
        passes: bool,
        means: str,
        *,
        needs: int,
        diverged: int,
    ) -> None:
        mean, reach = _stats.mean(values), _stats.half_width(values)
        good = bool(passes and np.isfinite(mean) and np.isfinite(bar) and not needs)
        if main.lower and name != "stable":
            mean, bar = -mean, -bar
        rows.append(
            {"condition": name, "value": mean, "low": mean - reach, "high": mean + reach,
             "bar": bar, "margin": margin, "passes": good, "diverged": diverged, "means": means}
        )  # fmt: skip

    chance, lost = kept["layerwise_random"], gone["layerwise_random"]
    short = bar - _stats.mean(chance)
    add(
        "nontrivial", chance, bar, short, _stats.below(_stats.mean(chance), bar),
        "random pruning must be worse than dense",
        needs=gone["dense"], diverged=gone["dense"] + lost,
    )  # fmt: skip
    over, both = ticket - bar, gone["dense"] + gone["ticket"]
    add(
        "matching", kept["ticket"], bar, over,
        _stats.matching(ticket, dense, margin=rules.margin),
        f"the ticket must be {as_good} dense", needs=both, diverged=both,
    )  # fmt: skip
    for name in CONTROLS:
        if name not in kept:
            rows.append(
                {"condition": name, "value": np.nan, "low": np.nan, "high": np.nan, "bar": np.nan,
                 "margin": np.nan, "passes": None, "diverged": 0, "means": "not tested"}
            )  # fmt: skip
            continue
        gap, pooled, clear = clear_gap(kept["ticket"], kept[name], rules)
        needed = np.fmax(rules.gap, rules.deviations * pooled)
        add(
            name, kept[name], float(ticket - needed), float(gap - needed), clear,
            "must be beaten by a clear gap",
            needs=gone["ticket"], diverged=gone["ticket"] + gone[name],
        )  # fmt: skip
    barriers = _stats.finite(barrier)
    lost, room = len(barrier) - len(barriers), rules.barrier - _stats.mean(barriers)
    add(
        "stable", barriers, rules.barrier, room,
        _stats.at_most(_stats.mean(barriers), rules.barrier),
        "copies must be linearly connected",
        needs=lost, diverged=lost,
    )  # fmt: skip
    return results.frame(rows)
