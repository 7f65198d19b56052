"""How objects look in a notebook: a short text, and a small HTML table.

Settings are written as code that makes them, with what differs from the defaults. Other objects
have a method `_summary`, from which text and table are made. Nothing is longer than `MOST`.
"""

from __future__ import annotations

import dataclasses
import functools
import html
import re
import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeGuard, cast

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST = 2000
"""Characters of a text at most."""
ROWS = 16
"""Rows of a table at most."""
_WIDTH = 100
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Summary(NamedTuple):
    """What is shown of an object.

    Attributes:
      title: one line.
      facts: (name, text), one line each.
      columns: headings of a table.
      rows: its rows, as texts.
      brief: whether the text is the title alone, for objects that stand in containers.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    brief: bool = False


class Summarized(Protocol):
    """An object that can be summed up."""

    def _summary(self) -> Summary: ...


# values


class _Array(Protocol):
    shape: tuple[int, ...]
    dtype: object


def is_array(value: object) -> TypeGuard[_Array]:
    """Whether a value is an array, or stands for one."""
    # a network has a shape and a type of its examples
    made_of_fields = dataclasses.is_dataclass(value)
    return hasattr(value, "shape") and hasattr(value, "dtype") and not made_of_fields


def written(value: object) -> str:
    """A value as code that makes it, where that is possible and short."""
    if isinstance(value, functools.partial):
        given = [*map(written, value.args), *_given(value.keywords)]
        return f"partial({', '.join([written(value.func), *given])})"
    if callable(value) and hasattr(value, "__qualname__"):
        return _public_name(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        # such as optax.GradientTransformation, whose functions have no names
        return f"<{_public_name(type(value))}>"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(written, value))
        if isinstance(value, tuple):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k!r}: {written(v)}' for k, v in value.items())}}}"
    if isinstance(value, np.generic):
        return repr(value.item())
    if is_array(value):
        return f"<{value.dtype} array {tuple(value.shape)}>"
    text = _ADDRESS.sub("", repr(value))
    return text if len(text) <= MOST else f"{text[: MOST // 10]}..."


def _given(values: Mapping[str, object]) -> list[str]:
    return [f"{name}={written(value)}" for name, value in values.items()]


def _public_name(value: object) -> str:
    """The shortest dotted name under which a function or class can be found."""
    name = str(getattr(value, "__qualname__", type(value).__name__))
    home = str(getattr(value, "__module__", None) or "builtins")
    if "<" in name:
        # of a lambda or an inner function, which has no other
        return f"<{name.rpartition('.<locals>.')[2].strip('<>')}>"
    if home in ("builtins", "__main__"):
        return name
    parts = home.split(".")
    modules = [".".join(parts[: count + 1]) for count in range(len(parts))]
    public = (m for m in modules if getattr(sys.modules.get(m), name, None) is value)
    return f"{next(public, home)}.{name}"


def trained_on(net: object, data: object, training: object) -> list[tuple[str, str]]:
    """The facts that all results share: network, data and training."""
    indented = repr(training).replace("\n", "\n    ")
    return [("network", repr(net)), ("data", repr(data)), ("training", indented)]


# settings


def changed(settings: DataclassInstance) -> dict[str, object]:
    """The fields of settings that differ from their defaults."""
    found = {}
    for field in dataclasses.fields(settings):
        if not (field.repr and field.init):
            continue
        value, usual = getattr(settings, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            usual = field.default_factory()
        try:
            same = type(value) is type(usual) and bool(value == usual)
        except (TypeError, ValueError):  # arrays have no truth value
            same = value is usual
        if not same:
            found[field.name] = value
    return found


def code(self: object) -> str:
    """Settings as code that makes them: `Training(steps=600, lr=0.1)`. A `__repr__`."""
    name, given = type(self).__name__, _given(changed(cast("DataclassInstance", self)))
    line = f"{name}({', '.join(given)})"
    if len(line) > _WIDTH:
        inner = ",\n".join(given).replace("\n", "\n    ")
        line = f"{name}(\n    {inner},\n)"
    return _cut(line)


def code_html(self: object) -> str:
    """Settings as an HTML table of what differs from the defaults. A `_repr_html_`."""
    settings = cast("DataclassInstance", self)
    facts = [(name, written(value)) for name, value in changed(settings).items()]
    rest = len(dataclasses.fields(settings)) - len(facts)
    usual = [("", f"{rest} other settings as by default")] if rest else []
    return _table(Summary(type(settings).__name__, [*facts, *usual]))


# other objects


def record(self: object) -> str:
    """Types and shapes of the arrays of a tuple or dataclass, not their numbers. A `__repr__`."""
    if dataclasses.is_dataclass(self):
        names = [field.name for field in dataclasses.fields(self) if field.repr]
    else:
        names = list(getattr(self, "_fields", ()))
    inner = [f"{name}={_entry(getattr(self, name))}" for name in names]
    return _cut(f"{type(self).__name__}({', '.join(inner)})")


def _entry(value: object) -> str:
    if isinstance(value, (Mapping, tuple, list)):
        arrays = [x for x in _leaves(value) if is_array(x)]
        if arrays:
            entries = sum(int(np.prod(x.shape)) for x in arrays)
            return f"<{len(arrays)} arrays, {entries:,} numbers>"
    said = written(value)
    return said if len(said) <= MOST // 10 else f"<{type(value).__name__}>"


def _leaves(value: object) -> list[object]:
    """What nested containers hold; a tree of any kind, also where arrays are no arrays yet."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [value]


def text(self: object) -> str:
    """What `_summary` gives, as text. A `__repr__`."""
    summary = cast("Summarized", self)._summary()
    if summary.brief:
        return _cut(summary.title)
    width = max((len(name) for name, _ in summary.facts), default=0)
    lines = [summary.title]
    lines += [f"  {name:<{width}}  {fact}" for name, fact in summary.facts]
    if summary.rows:
        cells = [tuple(summary.columns), *_some(summary.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(summary.columns))]
        lines += [
            "  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
            for row in cells
        ]
    return _cut("\n".join(lines))


def text_html(self: object) -> str:
    """What `_summary` gives, as an HTML table. A `_repr_html_`."""
    return _table(cast("Summarized", self)._summary())


def _cut(line: str) -> str:
    return line if len(line) <= MOST else f"{line[: MOST - 4]} ..."


def _some(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The first and the last rows, with dots between them where there are many."""
    if len(rows) <= ROWS:
        return list(rows)
    return [*rows[: ROWS - 4], ["..."] * len(rows[0]), *rows[-3:]]


def _table(summary: Summary) -> str:
    def cells(row: Sequence[str], kind: str = "td") -> str:
        inner = "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)
        return f"<tr>{inner}</tr>"

    def left(cell: str, kind: str) -> str:
        return f'<{kind} style="text-align:left">{html.escape(cell)}</{kind}>'

    facts = "".join(
        f"<tr>{left(name, 'th')}{left(_cut(fact), 'td')}</tr>" for name, fact in summary.facts
    )
    parts = [f"<div><strong>{html.escape(_cut(summary.title))}</strong>"]
    if facts:
        parts.append(f"<table>{facts}</table>")
    if summary.rows:
        rows = "".join(map(cells, _some(summary.rows)))
        parts.append(f"<table>{cells(summary.columns, 'th')}{rows}</table>")
    return "".join([*parts, "</div>"])


class _DataSet(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> int: ...

    @property
    def splits(self) -> Mapping[str, Sized]: ...


def data_summary(data: _DataSet, examples: str) -> Summary:
    """Sum up a data set.

    Args:
      data: its name, classes and splits.
      examples: what one example is.
    """
    kind, counts = type(data).__name__, {name: len(part) for name, part in data.splits.items()}
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    title = f"<{kind} {data.name!r}: {examples}, {data.classes} classes; {said}>"
    rows = [(name, f"{count:,}") for name, count in counts.items()]
    return Summary(title, (), ("split", "examples"), rows, brief=True)


# words


def percent(share: float) -> str:
    """A share in percent: three digits for densities of any size."""
    return f"{100 * share:.3g}%" if share < 0.9995 else f"{100 * share:.4g}%"


def counted(count: int, word: str) -> str:
    """Such as "1 seed" and "2 seeds"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def shape(sizes: Sequence[int]) -> str:
    """Sizes of axes, such as "8×8×1"."""
    return "×".join(map(str, sizes)) or "one number"


def numbers(values: Sequence[int] | np.ndarray) -> str:
    """Whole numbers, ranges of them by their ends: "0 to 4"."""
    own = [int(value) for value in values]
    if len(own) > 2 and own == list(range(own[0], own[0] + len(own))):
        return f"{own[0]} to {own[-1]}"
    return ", ".join(map(str, own[:12])) + (", ..." if len(own) > 12 else "")


def spread(values: np.ndarray, write: Callable[[float], str] = lambda x: f"{100 * x:.1f}%") -> str:
    """Mean and range over seeds, of those that are numbers: "98.1% (97.8% to 98.3%)"."""
    own = np.asarray(values, np.float64)
    finite = own[np.isfinite(own)]
    lost = "" if len(finite) == len(own) else f", {len(own) - len(finite)} diverged"
    if not len(finite):
        return f"-{lost}"
    around = f" ({write(finite.min())} to {write(finite.max())})" if len(finite) > 1 else ""
    return f"{write(finite.mean())}{around}{lost}"
