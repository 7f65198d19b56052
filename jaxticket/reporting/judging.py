"""Whether a run has winning tickets: its own notion, and the verdicts on it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxticket import _show
from jaxticket.analysis.verdict import Verdict
from jaxticket.runs import Runs


class Judgment(NamedTuple):
    """Whether there is a winning ticket, and why.

    Attributes:
      called: what is judged.
      holds: the answer; None where it is not judged.
      said: the answer in words.
      columns: headings of its conditions.
      rows: the conditions.
      notes: what else is to be known.
    """

    called: str
    holds: bool | None
    said: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def of_runs(runs: Runs) -> Judgment:
    """Judge runs by the notion of Frankle's thesis: matching, and from initialization."""
    called = "Winning tickets (Frankle's thesis)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            level, matching = runs.winning(), runs.matching()
        except ValueError as error:
            return Judgment(called, None, f"Not judged: {error}", (), (), ())
    notes = [str(one.message) for one in caught]
    shares = dict(zip(runs.levels, runs.densities, strict=True))
    matches = [n for n, ok in matching.items() if ok and n]
    margin = 100 * max(0.002, 1 / len(runs.data.test))
    rows = [
        (
            "matching",
            "yes" if matches else "no",
            f"levels {_show.numbers(matches)}" if matches else "no sparse level",
            f"the mean test accuracy of {_show.counted(len(runs.seeds), 'seed')} is at most "
            f"{margin:.2g} points below that of the dense network",
        ),
        (
            "from initialization",
            "yes" if runs.pruning.from_initialization else "no",
            "",
            "tickets start with the weights of step 0",
        ),
    ]
    if level is None:
        said = "No winning ticket."
        if matches and not runs.pruning.from_initialization:
            said += " There are matching tickets, which do not start from initialization."
    else:
        said = f"Winning down to {_show.percent(shares[level])} of the weights, level {level}."
        rows += _controls(runs, level)
    notes = list(dict.fromkeys(notes))
    notes.append(
        "Controls are no condition here: they are one of the stricter definition of KD-LTS, by "
        "which jt.verdict judges."
    )
    columns = ("condition", "holds", "where", "what it says")
    return Judgment(called, level is not None, said, columns, rows, notes)


def _controls(runs: Runs, level: int) -> list[tuple[str, str, str, str]]:
    """How far below the tickets of a level each of its controls ends."""
    names = list(dict.fromkeys(log.branch for log in runs.histories))
    table = runs.table()
    own = table.loc[
        (table["level"] == level) & (table["split"] == "test") & (table["metric"] == "accuracy")
    ]
    if own.empty:
        return []
    ends = own.loc[own["step"] == own.groupby(["branch", "seed"])["step"].transform("max")]
    means = {name: ends.loc[ends["branch"] == name, "value"].mean() for name in names}
    return [
        (
            f"control {name}",
            "",
            f"level {level}",
            f"{100 * (value - means[runs.branch]):+.2f} points relative to the tickets",
        )
        for name, value in means.items()
        if name != runs.branch and np.isfinite(value)
    ]


def of_verdict(found: object) -> Judgment:
    """Write a verdict by the strict definition.

    Raises:
      ValueError: for what is no verdict.
    """
    if not isinstance(found, Verdict):
        raise ValueError(f"`found` must be a verdict, got {type(found).__name__}")
    summary = found._summary()
    said = summary.facts[0][1].removeprefix("verdict: ")
    title = f"Verdict at {_show.percent(found.density)} of the weights (KD-LTS)"
    columns = list(summary.columns)
    columns[columns.index("")], columns[columns.index("means")] = "holds", "what it asks for"
    notes = [summary.title]
    if found.shares:
        notes.append(
            f"Values of the {found.metric}, their 95% intervals (low, high) and bars are in "
            f"percent, margins in points, and all that 'stable' has, of the error barrier, in "
            f"points."
        )
    return Judgment(
        title, found.winning, f"{said[:1].upper()}{said[1:]}.", columns, summary.rows, notes
    )
