"""Flags of the command line, made from the signatures of functions and the fields of settings.

What a flag cannot say, such as a function of the user's own, has no flag; what is given is checked
by the settings and functions themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import tyro

from jaxticket.cli.objects import MADE, example, made
from jaxticket.pruning.scores.spec import name_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCALARS = (int, float, str, bool, Path, type(None))


class Flag(NamedTuple):
    """One flag.

    Attributes:
      name: of the argument or field.
      kind: type of what is given.
      default: what stands where it is not given; `inspect.Parameter.empty` where it has to be.
      help: what it is for.
      called: the flag, without dashes, where it is not the name.
      objects: whether a text may stand for an object, see `jaxticket.cli.objects`.
      alone: whether one name, or object, is no sequence of one; patterns of paths are.
    """

    name: str
    kind: object
    default: object = inspect.Parameter.empty
    help: str = ""
    called: str | None = None
    objects: bool = False
    alone: bool = False

    def read(self, value: object) -> object:
        """What was typed, as the setting takes it."""
        found = made(self.name, value) if self.objects else value
        if self.alone and isinstance(found, tuple) and len(found) == 1:
            (one,) = found
            pattern = isinstance(one, str) and ("*" in one or "/" in one)
            return found if pattern or isinstance(one, (int, float)) else one
        return found


def kind_of(hint: object) -> object | None:
    """The part of a type that flags can say, None where there is none.

    Sequences are tuples; next to one, a number or a text alone is a sequence of one.

    >>> kind_of(float | Sequence[float]), kind_of(str | Callable[..., int])
    (tuple[float, ...], <class 'str'>)
    >>> kind_of(str | tuple[float, ...])
    tuple[float | str, ...]
    """
    if hint in SCALARS or get_origin(hint) is Literal:
        return hint
    if hint is object:
        # a name stands for an object
        return str
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in map(kind_of, inner) if kind is not None]
        several = [kind for kind in kinds if get_origin(kind) is tuple]
        if several:
            if str in kinds:
                several = [tuple[get_args(kind)[0] | str, ...] for kind in several]
            kinds = several + [kind for kind in kinds if kind is type(None)]
        if Path in kinds:
            kinds = [kind for kind in kinds if kind is not str]
        useful = [kind for kind in kinds if kind is not type(None)]
        return Union[tuple(kinds)] if useful else None  # noqa: UP007
    if origin is tuple:
        kinds = [kind if kind is ... else kind_of(kind) for kind in inner]
        return None if None in kinds else tuple[tuple(kinds)]
    if origin is os.PathLike:
        return Path
    if origin in (Sequence, Iterable, list):
        kind = kind_of(inner[0])
        return None if kind is None else tuple[kind, ...]
    return None


def takes_objects(hint: object) -> bool:
    """Whether a type has parts that flags cannot say, but which a text may stand for.

    >>> takes_objects(str | Callable[..., int]), takes_objects(tuple[str, ...] | None)
    (True, False)
    """
    if get_origin(hint) in (Union, types.UnionType, tuple, Sequence, Iterable, list):
        return any(takes_objects(inner) for inner in get_args(hint) if inner is not ...)
    return hint is object or kind_of(hint) is None


def names_alone(hint: object) -> bool:
    """Whether a type has sequences, and names in the place of one."""
    if get_origin(hint) not in (Union, types.UnionType):
        return False
    kinds = [kind_of(inner) for inner in get_args(hint)]
    return str in kinds and any(get_origin(kind) is tuple for kind in kinds)


def described(documentation: str) -> dict[str, str]:
    """The entries of "Args:" or "Attributes:" of a docstring, by name."""
    found: dict[str, str] = {}
    text = inspect.cleandoc(documentation)
    section = re.search(r"^(?:Args|Attributes):\n((?:^ .*\n|^\n)+)", f"{text}\n", re.MULTILINE)
    entries = re.split(r"^  (?=\S)", section[1], flags=re.MULTILINE) if section else []
    for entry in entries:
        names, _, said = entry.partition(":")
        for name in names.split(","):
            found[name.strip()] = " ".join(said.split())
    return found


def _evaluated(annotation: object, home: object) -> object:
    """An annotation as the type that it names; nothing that a flag can say where it names none."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(sys.modules[str(getattr(home, "__module__", ""))]))
    except NameError:
        # imported for type checkers only, or recursive
        return None


def of_function(
    function: Callable[..., object],
    *,
    without: Collection[str] = (),
    defaults: Mapping[str, object] | None = None,
) -> list[Flag]:
    """The flags of a function's arguments.

    Args:
      function: the function.
      without: arguments that are given otherwise.
      defaults: other defaults than the function's.
    """
    help_of, flags = described(function.__doc__ or ""), []
    for name, argument in inspect.signature(function).parameters.items():
        hint = _evaluated(argument.annotation, function)
        kind = kind_of(hint)
        if name in without or kind is None:
            continue
        default = (defaults or {}).get(name, argument.default)
        said = help_of.get(name, "")
        flags.append(Flag(name, kind, default, said, None, takes_objects(hint), names_alone(hint)))
    return flags


def of_settings(settings: DataclassInstance, *, called: Mapping[str, str] = {}) -> list[Flag]:
    """The flags of the fields of settings, whose values are the defaults.

    Args:
      settings: the settings.
      called: flags that do not have the name of their field.
    """
    flags, help_of = [], described(type(settings).__doc__ or "")
    for field in dataclasses.fields(settings):
        name, hint = field.name, _evaluated(field.type, type(settings))
        kind, value, said = kind_of(hint), getattr(settings, name), help_of.get(name, "")
        if name in MADE:
            # objects of several kinds, or of none that has a name
            kind = kind or (tuple[str, ...] if isinstance(value, tuple) else str | None)
            said = f"{said} {example(name)}"
        if kind is not None:
            how = takes_objects(hint), names_alone(hint)
            flags.append(Flag(name, kind, value, said, called.get(name), *how))
    return flags


def omitted(flag: Flag) -> Flag:
    """The flag without its default: whatever is typed is then given."""
    return flag._replace(kind=Union[(flag.kind, None)], default=None)  # noqa: UP007


def shown(flag: Flag) -> object:
    """The default of a flag as its help shows it."""
    value = flag.default
    if isinstance(value, range):
        return (f"{value.start}:{value.stop}",)
    if get_origin(flag.kind) is tuple and not isinstance(value, (tuple, list, type(None))):
        value = (value,)
    if isinstance(value, (list, tuple)):
        value = tuple(x if isinstance(x, (*SCALARS, tuple)) else str(x) for x in value)
    if callable(value) or (value is not None and not isinstance(value, (*SCALARS, tuple))):
        return name_of(value) if callable(value) else str(getattr(value, "name", value))
    return value


def parse(
    groups: Mapping[str, Sequence[Flag]], args: Sequence[str], *, prog: str, description: str
) -> dict[str, dict[str, object]]:
    """Read flags, and give those of each group that are typed or not their defaults, by name.

    Ends the process with status 2 for flags that there are not, and with 0 after `--help`.

    Args:
      groups: name -> flags; positional ones are those of the group "".
      args: what was typed.
      prog: the command, in its help.
      description: what it does.
    """
    parts = []
    for group, flags in groups.items():
        fields = []
        for flag in flags:
            config = tyro.conf.arg(name=flag.called, help=flag.help or None)
            kind: Any = Annotated[flag.kind, config]  # type: ignore[valid-type]
            if not group:
                kind = tyro.conf.Positional[kind]
            # what is typed for seeds are texts, see `seeds`
            if flag.default is inspect.Parameter.empty:
                fields.append((flag.name, kind))
            else:
                fields.append((flag.name, kind, dataclasses.field(default=shown(flag))))
        kinds = dataclasses.make_dataclass(group or "arguments", fields, kw_only=True)
        required = any(flag.default is inspect.Parameter.empty for flag in flags)
        whole = (kinds,) if required else (kinds, dataclasses.field(default_factory=kinds))
        parts.append((group or "arguments", *whole))
    everything = dataclasses.make_dataclass("flags", parts, kw_only=True)
    found = tyro.cli(
        everything,
        args=args,
        prog=prog,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )
    # what equals a default is meant too: steps next to epochs
    typed = {text.partition("=")[0].replace("_", "-") for text in args if text.startswith("--")}
    given: dict[str, dict[str, object]] = {}
    for group, flags in groups.items():
        values = getattr(found, group or "arguments")
        given[group] = {}
        for flag in flags:
            value = getattr(values, flag.name)
            known = flag.default is not inspect.Parameter.empty and value == shown(flag)
            called = flag.called or flag.name
            if not known or f"--{called.replace('_', '-')}" in typed:
                given[group][flag.name] = flag.read(value)
    return given


def seeds(given: Sequence[str]) -> tuple[int, ...]:
    """Seeds from texts: numbers, and ranges such as "0:5" for 0 to 4.

    >>> seeds(["0:3", "7"])
    (0, 1, 2, 7)

    Raises:
      ValueError: for anything else.
    """
    found: list[int] = []
    for text in given:
        begin, colon, end = text.partition(":")
        try:
            found += range(int(begin), int(end)) if colon else [int(begin)]
        except ValueError:
            raise ValueError(
                f"`seeds` must be whole numbers, or ranges such as 0:5 for 0 to 4, got {text!r}"
            ) from None
    return tuple(found)


def pairs(argument: str, given: Sequence[str]) -> dict[str, object]:
    """Options from texts: "width=0.5" and the like; what is no Python value is a text.

    >>> pairs("options", ["width=0.5", "norm=batch", "widths=(30, 10)"])
    {'width': 0.5, 'norm': 'batch', 'widths': (30, 10)}

    Raises:
      ValueError: for a text without "=".
    """
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"`{argument}` must be NAME=VALUE, such as width=0.5, got {text!r}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
