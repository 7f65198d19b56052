"""Checks of arguments: every error names the argument, the value and the remedy.

Each check returns the value as the plain Python type that it stands for, so that NumPy and JAX
scalars are accepted and run folders record the same text for both.

A single name or function stands for a sequence of one; several numbers come in a sequence.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ParamSpec, SupportsFloat, SupportsIndex, TypeVar

import jax
import numpy as np

if TYPE_CHECKING:
    from typing_extensions import TypeIs

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])
INT32 = 2**31 - 1
"""The largest number that counters on the device hold."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The sentence that helps after an unknown name.

    >>> nearest("minst", ["mnist", "digits"])
    "did you mean 'mnist'? Known: digits, mnist"
    """
    known = sorted(names)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known: {', '.join(known)}"


def shown(value: object) -> str:
    """A value as errors show it: arrays and long texts by their type, everything else as it is."""
    text = repr(value)
    if len(text) > 200 or "\n" in text:
        shape = getattr(value, "shape", None)
        return f"a {type(value).__name__}" + (f" of shape {shape}" if shape is not None else "")
    return text


def from_table(argument: str, value: str | F, table: Mapping[str, F]) -> F:
    """The function that `value` names in `table`, or `value` itself if it is a function."""
    if isinstance(value, str):
        if value in table:
            return table[value]
    elif callable(value):
        return value
    raise ValueError(
        f"`{argument}` is unknown: {shown(value)}; {nearest(str(value), table)}, or pass a function"
    )


def refusing(**remedies: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function refuse arguments that only others have, and say what to do instead.

    Args:
      **remedies: by the name of the argument: why there is none, and what to do instead.

    >>> @refusing(rewind="nothing is rewound; use jt.find_tickets")
    ... def train(density): ...
    >>> train(0.5, rewind=100)
    Traceback (most recent call last):
    ValueError: `rewind` 100 is no argument of train: nothing is rewound; use jt.find_tickets
    """

    def decorated(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> T:
            for name, remedy in remedies.items():
                if name in options:
                    raise ValueError(
                        f"`{name}` {shown(options[name])} is no argument of {function.__name__}: "
                        f"{remedy}"
                    )
            return function(*args, **options)

        return checked

    return decorated


def one_of(argument: str, value: T, choices: Sequence[T]) -> T:
    """The value, which must be one of `choices`, of the same type."""
    given: object = value
    if isinstance(given, (np.generic, np.ndarray, jax.Array)) and given.shape == ():
        given = given.item()
    for choice in choices:
        # same type required: True is not 1, and arrays are never compared
        if type(given) is type(choice) and given == choice:
            return choice
    raise ValueError(
        f"`{argument}` must be one of {', '.join(map(repr, choices))}, got {shown(value)}"
    )


@contextlib.contextmanager
def naming(argument: str, value: object) -> Iterator[None]:
    """Raise errors of the user's code as a ValueError that names the argument."""
    try:
        yield
    except Exception as error:  # whatever code of the user raises
        if isinstance(error, ValueError) and str(error).startswith(f"`{argument}`"):
            raise
        text = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"`{argument}` {shown(value)} fails when it is tried: {type(error).__name__}: {text}"
        ) from error


def hashable(argument: str, value: T) -> T:
    """The value, which must have a hash: equal settings share compiled programs."""
    try:
        frozenset((value,))
    except TypeError:
        raise ValueError(
            f"`{argument}` must be hashable, so that equal settings share compiled programs, got "
            f"{shown(value)}; make it a function or a frozen dataclass of numbers, texts and tuples"
        ) from None
    return value


def name_or_own(
    argument: str, value: str | T, names: Sequence[str], own: str = "a function"
) -> str | T:
    """One of the names, or a hashable object of the user's.

    Args:
      argument: name of the argument, for errors.
      value: what was passed for it.
      names: the known names.
      own: what may be passed in place of a name, in words.
    """
    if isinstance(value, str) and value in names:
        return value
    # gradient transformations are pairs of functions
    if not callable(value) and not callable(getattr(value, "update", None)):
        raise ValueError(
            f"`{argument}` must be one of {', '.join(map(repr, names))}, or {own}, got "
            f"{shown(value)}"
        )
    return hashable(argument, value)


def names_or_own(
    argument: str, value: object, names: Sequence[str], *, like: str
) -> tuple[object, ...]:
    """Distinct names and objects of the user's as a tuple; a single one needs no sequence."""

    def one(argument: str, entry: object) -> object:
        if isinstance(entry, type):
            raise ValueError(
                f"`{argument}` holds the class {entry.__name__}; pass an object of it, such as "
                f"{entry.__name__}()"
            )
        if isinstance(entry, str) and entry not in names:
            raise ValueError(
                f"`{argument}` {entry!r} is unknown; {nearest(entry, names)}, or pass an object of "
                f"your own"
            )
        return hashable(argument, entry)

    given = (value,) if is_one(value) else value
    return several(argument, given, one, like=like, empty=True, distinct=True)


def whole(argument: str, value: object, low: int = 0, high: int = INT32) -> int:
    """A whole number in [low, high] as a Python int: never a bool, never a float.

    >>> whole("steps", np.int64(3), low=1)
    3
    """
    if not is_integer(value) or operator.index(value) < low:
        raise ValueError(
            f"`{argument}` must be a whole number of at least {low}, got {shown(value)}"
        )
    integer = operator.index(value)
    if integer > high:
        raise ValueError(f"`{argument}` must be a whole number of at most {high}, got {integer}")
    return integer


def is_integer(value: object) -> TypeIs[SupportsIndex]:
    """Whether a value is an integer of Python, NumPy or JAX; bools are not."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, SupportsIndex):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def number(
    argument: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
) -> float:
    """A finite number in [low, high] (or above `low`) as a Python float, of any scalar.

    >>> number("lr", np.float64(0.5), low=0)
    0.5
    """
    scalar = _scalar(value)
    if not math.isfinite(scalar) or not low <= scalar <= high or (above and scalar == low):
        bounds = "" if low == -math.inf else f" {'above' if above else 'of at least'} {low:g}"
        bounds += "" if high == math.inf else f"{' and' if bounds else ' of'} at most {high:g}"
        raise ValueError(f"`{argument}` must be a finite number{bounds}, got {shown(value)}")
    return scalar


def share(argument: str, value: object, *, zero: bool = False, one: bool = True) -> float:
    """A number in (0, 1], or with the ends that `zero` and `one` say, as a Python float.

    >>> share("fraction", 20, one=False)
    Traceback (most recent call last):
    ValueError: `fraction` must be in (0, 1), got 20; 20% are 0.2
    """
    scalar = _scalar(value)
    low_ok = scalar >= 0 if zero else scalar > 0
    high_ok = scalar <= 1 if one else scalar < 1
    if not (low_ok and high_ok):
        interval = f"{'[' if zero else '('}0, 1{']' if one else ')'}"
        percent = 2 <= scalar < 100 or (one and scalar == 100)
        meant = f"; {scalar:g}% are {scalar / 100:g}" if percent else ""
        raise ValueError(f"`{argument}` must be in {interval}, got {shown(value)}{meant}")
    return scalar


def _scalar(value: object) -> float:
    """A real scalar of any library as a float; nan, which fails every bound, for anything else."""
    dtype = getattr(value, "dtype", None)
    if isinstance(value, (bool, str, bytes)) or str(dtype).startswith(("bool", "complex")):
        return math.nan
    if not isinstance(value, numbers.Real) and (dtype is None or getattr(value, "ndim", 0)):
        return math.nan
    if not isinstance(value, SupportsFloat):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def flag(argument: str, value: object) -> bool:
    """True or False: no text, no number."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError(f"`{argument}` must be True or False, got {shown(value)}")


def text(argument: str, value: object) -> str:
    """A text that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"`{argument}` must be a text, got {shown(value)}")


def instance(argument: str, value: object, kind: type[T] | tuple[type[T], ...], remedy: str) -> T:
    """The value, which must be of a type.

    Args:
      argument: name of the argument, for errors.
      value: what was passed for it.
      kind: the type, or several.
      remedy: what to pass: "data, such as jt.data.load('digits')".
    """
    if isinstance(value, kind) and not (isinstance(value, bool) and kind is int):
        return value
    raise ValueError(f"`{argument}` must be {remedy}, got {shown(value)}")


def function(argument: str, value: T) -> T:
    """The value, which must be callable."""
    if callable(value):
        return value
    raise ValueError(f"`{argument}` must be a function, got {shown(value)}")


def several(
    argument: str,
    value: object,
    check: Callable[..., T],
    *,
    like: str,
    empty: bool = False,
    distinct: bool = False,
    **bounds: object,
) -> tuple[T, ...]:
    """A sequence whose entries all pass a check, as a tuple.

    Args:
      argument: name of the argument, for errors.
      value: what was passed for it: a list, tuple, range, array, ...; no text and no scalar.
      check: of one entry, such as `whole`.
      like: an example: "(0, 500)".
      empty: whether the sequence may be empty.
      distinct: whether entries must differ.
      **bounds: passed to `check`.

    >>> several("milestones", np.arange(2, 4), whole, like="(5, 8)")
    (2, 3)
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"`{argument}` must be several, such as {like}, got {shown(value)}")
    try:
        given = list(value)
    except TypeError:
        raise ValueError(
            f"`{argument}` must be several, such as {like}, got {shown(value)}"
        ) from None
    entries = tuple(check(argument, entry, **bounds) for entry in given)
    if not entries and not empty:
        raise ValueError(f"`{argument}` is empty; pass at least one, such as {like}")
    if distinct and len(set(entries)) < len(entries):
        repeated = sorted({entry for entry in entries if entries.count(entry) > 1}, key=str)
        raise ValueError(
            f"`{argument}` must be distinct, got {shown(repeated)} more than once; leave out the "
            f"repeats"
        )
    return entries


def example_shape(shape: object, axes: str = "") -> tuple[int, ...]:
    """The shape of one example as Python ints.

    Args:
      shape: whole numbers of at least 1.
      axes: the axes that are needed, such as "(height, width, channels)"; any number if empty.
    """
    try:
        sizes = several("shape", shape, whole, like="data.shape", low=1)
    except ValueError:
        sizes = ()
    if not sizes or (axes and len(sizes) != axes.count(",") + 1):
        what = f"one image {axes}" if axes else "one example"
        raise ValueError(
            f"`shape` must be the shape of {what}, such as data.shape, got {shown(shape)}"
        )
    return sizes


def interval(argument: str, value: object, high: float = math.inf) -> tuple[float, float]:
    """Two numbers, `0 < low <= high`, as a tuple of Python floats.

    Args:
      argument: name of the argument, for errors.
      value: what was passed for it.
      high: an upper bound of both.
    """
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        raise ValueError(f"`{argument}` must be (low, high), got {shown(value)}")
    first, last = _scalar(value[0]), _scalar(value[1])
    if not (0 < first <= last <= high) or last == math.inf:
        most = "" if high == math.inf else f" <= {high:g}"
        raise ValueError(f"`{argument}` must be 0 < low <= high{most}, got {shown(value)}")
    return first, last


def chosen(argument: str, value: object, known: Sequence[int], of: str = "") -> tuple[int, ...]:
    """A selection of the known numbers, each once, in the order given; all of them if None.

    Args:
      argument: name of the argument, for errors.
      value: what was passed for it.
      known: the numbers to select from.
      of: a qualification of them in errors, such as " of level 3".
    """
    if value is None:
        return tuple(known)
    numbers = several(argument, value, whole, like=str(tuple(known[:2])), distinct=True, high=2**32)
    if missing := [number for number in numbers if number not in known]:
        raise ValueError(f"`{argument}` must be some of {tuple(known)}{of}, got {missing}")
    return numbers


def texts(argument: str, value: object, *, like: str) -> tuple[str, ...]:
    """Distinct texts as a tuple; a single one needs no sequence."""
    given = (value,) if isinstance(value, str) else value
    return several(argument, given, text, like=like, empty=True, distinct=True)


def patterns(argument: str, value: object, *, like: str) -> tuple[str, ...]:
    """Patterns of paths, at least one."""
    given = texts(argument, value, like=like)
    if not given:
        raise ValueError(f"`{argument}` is empty; pass at least one pattern, such as {like}")
    return given


def one_or_several(
    argument: str,
    value: object,
    check: Callable[..., T],
    *,
    like: str,
    empty: bool = False,
    distinct: bool = False,
    **bounds: object,
) -> tuple[T, ...]:
    """As `several`, where a scalar stands for a sequence of one."""
    given = (value,) if is_one(value) else value
    return several(argument, given, check, like=like, empty=empty, distinct=distinct, **bounds)


def is_one(value: object) -> bool:
    """Whether a value is a single one: a text, or anything that cannot be iterated over."""
    alone = isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    return alone or getattr(value, "shape", None) == ()


def seed(argument: str, value: object) -> int:
    """One seed as a Python int."""
    integer = whole(argument, value, high=2**63)
    if integer >= 2**32:
        raise ValueError(
            f"`{argument}` must lie in [0, 2**32), got {integer}; choose a smaller one"
        )
    return integer


def distinct_seeds(seeds: object) -> tuple[int, ...]:
    """The seeds as a tuple of distinct Python ints, at least one."""
    if isinstance(seeds, Mapping) or is_one(seeds) or not isinstance(seeds, Iterable):
        raise ValueError(f"`seeds` must be whole numbers such as range(5), got {shown(seeds)}")
    given = list(seeds)
    integers = tuple(operator.index(one) for one in given if is_integer(one))
    if len(integers) < len(given):
        raise ValueError(f"`seeds` must be whole numbers such as range(5), got {shown(given)}")
    if not integers:
        raise ValueError("`seeds` is empty; pass at least one seed, such as range(5)")
    repeated = sorted({seed for seed in integers if integers.count(seed) > 1})
    if repeated:
        raise ValueError(
            f"`seeds` must be distinct, got {repeated} more than once; leave out the repeats"
        )
    if min(integers) < 0 or max(integers) >= 2**32:
        raise ValueError(f"`seeds` must lie in [0, 2**32), got {min(integers)} to {max(integers)}")
    return integers


def path_or_none(argument: str, value: object) -> None:
    """Raise unless the value is a path that is not empty, or None."""
    if value is not None and not (isinstance(value, (str, os.PathLike)) and str(value)):
        raise ValueError(f"`{argument}` must be a path or None, got {shown(value)}")


def settle(
    settings: object, check: Callable[..., object], /, *names: str, **bounds: object
) -> None:
    """Replace fields of a frozen dataclass by their checked values, in its `__post_init__`."""
    for name in names:
        object.__setattr__(settings, name, check(name, getattr(settings, name), **bounds))


def or_none(check: Callable[..., T]) -> Callable[..., T | None]:
    """A check that lets None pass."""

    def checked(argument: str, value: object, **bounds: object) -> T | None:
        return None if value is None else check(argument, value, **bounds)

    return checked
