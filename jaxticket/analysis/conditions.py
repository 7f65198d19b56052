"""The conditions of a winning ticket, judged on accuracies and barriers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxticket import results
from jaxticket.checks import at_least, share
from jaxticket.stability.verdict import half_width

Table = Any
"""A pandas DataFrame."""
CONTROLS = ("reinit", "sign_flip", "shuffle", "random", "small_dense")
"""What a winning ticket has to beat by a clear gap."""
# accuracies were float32 on the device
GUARD = 1e-7


class Rules(NamedTuple):
    """What the definitions leave open, in shares of 1.

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

    def checked(self) -> Rules:
        """These rules.

        Raises:
          ValueError: for numbers out of range.
        """
        share("margin", self.margin, zero=True)
        share("gap", self.gap, zero=True)
        at_least("deviations", self.deviations, 0)
        share("barrier", self.barrier, zero=True)
        return self


def clear_gap(ours: Any, theirs: Any, rules: Rules | None = None) -> tuple[float, float, bool]:
    """Whether we are better by a clear gap.

    `gap = mean(ours) - mean(theirs)`, `pooled = sqrt((s_ours^2 + s_theirs^2) / 2)`; clear is
    `gap >= max(rules.gap, rules.deviations * pooled)`.

    Args:
      ours, theirs: accuracies in [0, 1], one per seed.
      rules: how large a gap is clear.

    Returns:
      gap, pooled (nan with one seed) and whether it is clear; False where that cannot be told.

    >>> gap, pooled, clear = clear_gap([0.95, 0.96], [0.90, 0.91])
    >>> round(gap, 3), round(pooled, 4), clear
    (0.05, 0.0071, True)
    """
    rules = Rules() if rules is None else rules
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    gap = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return gap, np.nan, False
    pooled = float(np.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2))
    needed = max(rules.gap, rules.deviations * pooled)
    return gap, pooled, bool(gap >= needed - GUARD)


def conditions(
    accuracy: Mapping[str, np.ndarray], barrier: np.ndarray, rules: Rules | None = None
) -> Table:
    """Judges every condition of a winning ticket.

    Args:
      accuracy: final test accuracies in [0, 1], one per seed, of "ticket", "dense",
        "layerwise_random" and of each of `CONTROLS` that was trained.
      barrier: error barriers between copies of the ticket, one per seed.
      rules: what the definitions leave open.

    Returns:
      One row per condition: condition, value (mean over seeds), low and high (its 95% interval over
      seeds, Student's), bar (what the value is compared with), margin (by how much the condition is
      met; negative where it is not), passes (None where it was not tested) and means (in words).
      "nontrivial": random pruning of each layer to the same density is worse than the dense
      network by more than the margin. "matching": the ticket is not. Controls: the ticket beats
      each by a clear gap. "stable": the barrier is not above the rule's. What diverged fails.

    Reference: KD-LTS, Definitions 6.1 to 6.3.
    """
    rules = (Rules() if rules is None else rules).checked()
    dense, ticket = float(np.mean(accuracy["dense"])), np.asarray(accuracy["ticket"], float)
    bar = dense - rules.margin
    rows = []

    def add(name: str, values: Any, bar: float, margin: float, passes: bool, means: str) -> None:
        values = np.asarray(values, float)
        mean, reach = float(values.mean()), half_width(values)
        good = bool(passes and np.isfinite(mean) and np.isfinite(bar))
        rows.append(
            {"condition": name, "value": mean, "low": mean - reach, "high": mean + reach,
             "bar": bar, "margin": margin, "passes": good, "means": means}
        )  # fmt: skip

    chance = np.asarray(accuracy["layerwise_random"], float)
    short = bar - float(chance.mean())
    add("nontrivial", chance, bar, short, short > GUARD, "random pruning is worse than dense")
    over = float(ticket.mean()) - bar
    add("matching", ticket, bar, over, over >= -GUARD, "the ticket is as accurate as dense")
    for name in CONTROLS:
        if name not in accuracy:
            rows.append(
                {"condition": name, "value": np.nan, "low": np.nan, "high": np.nan, "bar": np.nan,
                 "margin": np.nan, "passes": None, "means": "not tested"}
            )  # fmt: skip
            continue
        theirs = np.asarray(accuracy[name], float)
        gap, pooled, clear = clear_gap(ticket, theirs, rules)
        needed = np.fmax(rules.gap, rules.deviations * pooled)
        add(name, theirs, float(ticket.mean() - needed), float(gap - needed), clear, "is beaten")
    barrier = np.asarray(barrier, float)
    room = rules.barrier - float(barrier.mean())
    add("stable", barrier, rules.barrier, room, room >= -GUARD, "copies are linearly connected")
    return results.frame(rows)
