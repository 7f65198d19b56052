"""Checks of arguments: every error names the argument, the value and the remedy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def nearest(name: str, names: Iterable[str]) -> str:
    """The sentence that helps after an unknown name.

    >>> nearest("minst", ["mnist", "digits"])
    "did you mean 'mnist'? Known: digits, mnist"
    """
    known = sorted(names)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known: {', '.join(known)}"


def from_table(
    argument: str, value: Any, table: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """The function that `value` names in `table`, or `value` itself if it is a function."""
    if callable(value):
        return value
    if value in table:
        return table[value]
    raise ValueError(
        f"`{argument}` is unknown: {value!r}; {nearest(str(value), table)}, or pass a function"
    )


def one_of(argument: str, value: Any, choices: Sequence[Any]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, choices))}, got {value!r}"
        )


def at_least(argument: str, value: float, low: float, *, integer: bool = False) -> None:
    """Raises unless `value` is a finite number of at least `low` (and a whole one if `integer`)."""
    whole = not integer or (isinstance(value, int) and not isinstance(value, bool))
    number = _number(value)
    if not (whole and math.isfinite(number) and number >= low):
        kind = "a whole number" if integer else "a finite number"
        raise ValueError(f"`{argument}` must be {kind} of at least {low:g}, got {value!r}")


def _number(value: object) -> float:
    """What is no number is nan, which no bound admits."""
    try:
        return math.nan if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def share(argument: str, value: float, *, zero: bool = False, one: bool = True) -> None:
    """Raises unless `value` lies in (0, 1], or with the ends that `zero` and `one` say."""
    number = _number(value)
    low_ok = number >= 0 if zero else number > 0
    high_ok = number <= 1 if one else number < 1
    if not (low_ok and high_ok):
        interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        raise ValueError(f"`{argument}` must be in {interval}, got {value!r}")


def distinct_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """The seeds as a tuple of distinct python ints, at least one."""
    try:
        result = tuple(int(seed) for seed in seeds)
    except TypeError:
        raise ValueError(f"`seeds` must be whole numbers such as range(5), got {seeds!r}") from None
    if not result:
        raise ValueError("`seeds` is empty; pass at least one seed, such as range(5)")
    repeated = sorted({seed for seed in result if result.count(seed) > 1})
    if repeated:
        raise ValueError(
            f"`seeds` must be distinct, got {repeated} more than once; leave out the repeats"
        )
    if min(result) < 0 or max(result) >= 2**32:
        raise ValueError(f"`seeds` must lie in [0, 2**32), got {min(result)} to {max(result)}")
    return result
