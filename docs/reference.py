"""What pages of docs/api say without the site: a table of their names, and how each is called.

The site shows the docstrings themselves. Where the pages are read as plain files, such as beside
the code on a forge, there is what stands between the marks here: the table, which the site has too,
then the signature of every function and class with its arguments, which the site leaves out
(docs/hooks.py). Both are made of the source and need nothing to be imported:

    python -m docs.reference            # say what is wrong with the pages
    python -m docs.reference --write    # write them
"""

from __future__ import annotations

import argparse
import ast
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
PAGES = "docs/api"
PACKAGE = "jaxticket"
BEGIN, END = "<!-- names:begin -->", "<!-- names:end -->"
# the hooks of the site know these marks
PLAIN_BEGIN, PLAIN_END = "<!-- plain:begin -->", "<!-- plain:end -->"
WIDTH = 88
"""Characters in a line of a signature."""
REMEDY = "run `python -m docs.reference --write`"
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_WRITTEN = re.compile(
    rf"^(?:{BEGIN}\n.*?^{END}|{PLAIN_BEGIN}\n.*?^{PLAIN_END})\n\n", re.MULTILINE | re.DOTALL
)
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z\"`(])")
_HEAD = re.compile(r"^# `(jt\.\w+)`$", re.MULTILINE)
# signs that would end a cell or begin HTML
_SIGNS = {"|": "&#124;", "<": "&lt;", ">": "&gt;"}
# and those that would mean emphasis, where code is written as HTML
_SIGNS_IN_CODE = {"&": "&amp;", "*": "&#42;", "_": "&#95;", **_SIGNS}


def names(package: griffe.Module, page: str) -> Iterator[tuple[str, griffe.Object]]:
    """What a page shows, by the names that users write, in its order.

    Args:
      package: the source.
      page: text of the page.

    Raises:
      ValueError: for a module that does not list its public names in `__all__`.
    """
    head = _HEAD.search(page)
    for path in _DIRECTIVE.findall(page):
        found = _final(package[path.removeprefix(f"{PACKAGE}.")])
        if not found.is_module:
            # names of the package itself are those of `jt`
            yield (f"jt.{found.name}" if path.count(".") == 1 else path), found
            continue
        if found.exports is None:
            raise ValueError(f"{path} has no `__all__`, which says what is public of it")
        for name in map(str, found.exports):
            yield f"{head[1] if head else path}.{name}", _final(found[name])


def sentence(found: griffe.Object) -> str:
    """The first paragraph of a docstring on one line; nothing where there is none."""
    text = found.docstring.value if found.docstring else ""
    return " ".join(text.strip().partition("\n\n")[0].split())


def cell(text: str) -> str:
    r"""The text for a cell of a table, whose bars would end it.

    >>> cell("`w`, or |w|")
    '`w`, or &#124;w&#124;'
    >>> cell("`|w|`")
    '<code>&#124;w&#124;</code>'
    """
    parts = re.split(r"(`[^`]*`)", text)
    for place, part in enumerate(parts):
        if place % 2 and "|" in part:
            # backticks would show the entity itself
            parts[place] = f"<code>{_replaced(part[1:-1], _SIGNS_IN_CODE)}</code>"
        elif not place % 2:
            parts[place] = _replaced(part, _SIGNS)
    return "".join(parts)


def _replaced(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in text)


def table(package: griffe.Module, page: str) -> str:
    """The table of a page, between its marks."""
    rows = [f"| `{name}` | {cell(sentence(found))} |" for name, found in names(package, page)]
    return "\n".join([BEGIN, "", "| name | what it is |", "|---|---|", *rows, "", END, "", ""])


def calls(package: griffe.Module, page: str) -> str:
    """How the functions and classes of a page are called, between its marks; empty if none is."""
    sections = [
        f"## `{name}`\n\n{text}"
        for name, found in names(package, page)
        if (text := "\n\n".join(call(name, found)))
    ]
    if not sections:
        return ""
    last = "---\n\nThe lines below, with `:::`, say where the site shows the docstrings in full."
    return "\n\n".join([PLAIN_BEGIN, *sections, last, PLAIN_END, ""])


def call(name: str, found: griffe.Object) -> Iterator[str]:
    """The signature of a function or class, its arguments, and the methods of a class.

    Args:
      name: as users write it.
      found: what it names; nothing is said of what is neither.
    """
    if not isinstance(found, griffe.Function | griffe.Class):
        return
    parameters = taken(found)
    if not isinstance(found, griffe.Class) or made_by_users(found):
        # no block of Python, which could run and would be formatted
        yield f"```text\n{signature(name, parameters)}\n```"
    if described := list(arguments(found, {p.name for p in parameters})):
        yield "\n".join(f"- {label}: {text}" for label, text in described)
    if isinstance(found, griffe.Class) and (own := list(members(found))):
        yield "Methods and properties:"
        yield "\n".join(own)


def made_by_users(found: griffe.Class) -> bool:
    """Whether users make objects of a class: its fields are public, and it is not abstract."""
    parameters = taken(found)
    abstract = any(str(base).rpartition(".")[2] == "ABC" for base in found.bases)
    # `__init__` takes at least self
    has_init = bool(parameters or list(found.parameters))
    return has_init and not abstract and not any(one.name.startswith("_") for one in parameters)


def taken(found: griffe.Function | griffe.Class) -> list[griffe.Parameter]:
    """The parameters that a caller gives; of a named tuple its fields."""
    if isinstance(found, griffe.Class) and "NamedTuple" in map(str, found.bases):
        fields = [one for one in found.attributes.values() if one.annotation is not None]
        kind = griffe.ParameterKind.positional_or_keyword
        return [griffe.Parameter(one.name, kind=kind, default=one.value) for one in fields]
    taken = [one for one in found.parameters if one.name not in ("self", "cls")]
    if isinstance(found, griffe.Class):
        # of a base class, which this one computes
        fixed = [name for name, one in found.attributes.items() if "init=False" in str(one.value)]
        taken = [one for one in taken if one.name not in fixed]
    return taken


def signature(name: str, parameters: Sequence[griffe.Parameter], width: float = WIDTH) -> str:
    """A call with the names of all arguments and their defaults, in lines that are not too long.

    Args:
      name: what is called.
      parameters: of it, without self.
      width: characters in a line; a default is not broken.

    >>> kind = griffe.ParameterKind
    >>> x = griffe.Parameter("x", kind=kind.positional_or_keyword)
    >>> by = griffe.Parameter("by", kind=kind.keyword_only, default="'seed'")
    >>> signature("f", [x, by])
    'f(x, *, by="seed")'
    """
    shown = []
    kinds = griffe.ParameterKind
    for place, one in enumerate(parameters):
        before = parameters[place - 1].kind if place else None
        if before is kinds.positional_only and one.kind is not before:
            shown.append("/")
        if one.kind is kinds.keyword_only and before not in (one.kind, kinds.var_positional):
            shown.append("*")
        if one.kind is kinds.var_positional:
            shown.append(f"*{one.name}")
        elif one.kind is kinds.var_keyword:
            shown.append(f"**{one.name}")
        else:
            shown.append(one.name if one.default is None else f"{one.name}={default(one.default)}")
    if parameters and parameters[-1].kind is kinds.positional_only:
        shown.append("/")
    line = f"{name}({', '.join(shown)})"
    if len(line) <= width:
        return line
    lines = [" " * 3]
    for one in shown:
        if len(lines[-1]) + len(f" {one},") > width:
            lines.append(" " * 3)
        lines[-1] += f" {one},"
    return "\n".join([f"{name}(", *lines, ")"])


def default(value: str | griffe.Expr) -> str:
    """A default as it would be written in a call.

    Settings wrap it in functions of their own, `_field(_Default(24_000), traced=True)`. Names of
    constants that are numbers or texts, or tuples of them, are replaced by these.
    """
    while isinstance(value, griffe.ExprCall) and str(value.function).startswith("_"):
        value = value.arguments[0]
    parts = value.iterate(flat=True) if isinstance(value, griffe.Expr) else [value]
    text = "".join(map(_constant, parts))
    return text if '"' in text else text.replace("'", '"')


def _constant(part: str | griffe.Expr) -> str:
    """The value of a constant of the package where that is a literal, else the source."""
    if isinstance(part, griffe.ExprName) and not isinstance(part.parent, griffe.ExprName):
        if part.canonical_path.startswith(f"{PACKAGE}."):
            found = part.resolved
            if isinstance(found, griffe.Attribute):
                try:
                    return repr(ast.literal_eval(str(found.value)))
                except ValueError:
                    # made by a call
                    pass
    return str(part)


def arguments(found: griffe.Function | griffe.Class, names: set[str]) -> Iterator[tuple[str, str]]:
    """What docstrings say of arguments and attributes, those of base classes for what they take.

    Args:
      found: a function or class.
      names: its parameters.

    Yields:
      The names that a description is of, as code, and what it says first.
    """
    described = set()
    bases = found.mro() if isinstance(found, griffe.Class) else []
    for one in [found, *bases]:
        for label, text in _items(one):
            new = [name for name in label if name not in described]
            if one is not found:
                new = [name for name in new if name in names]
            described.update(new)
            if new:
                yield ", ".join(f"`{name}`" for name in new), first(text)


def _items(found: griffe.Object) -> Iterator[tuple[list[str], str]]:
    """The entries of Args and Attributes: the names, and what is said of them."""
    if found.docstring is None:
        return
    # arguments that belong together share a line
    sections = found.docstring.parse("google", warn_unknown_params=False, warn_missing_types=False)
    for section in sections:
        if isinstance(
            section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes
        ):
            for item in section.value:
                label = item.name
                if label.endswith(","):
                    # the parser takes "low, high:" for a name and its type
                    label += str(item.annotation).strip("()")
                yield [name.strip(" *") for name in label.split(",")], item.description


def first(text: str) -> str:
    """The first sentence of a description, and those that say what None means.

    >>> first("the data; as in `runs`. They may be streamed. None for those of the run.")
    'the data; as in `runs`. None for those of the run.'
    """
    begin, *more = _SENTENCE.split(" ".join(text.split()))
    return " ".join([begin, *(one for one in more if re.search(r"\bNone\b", one))])


def members(found: griffe.Class) -> Iterator[str]:
    """The public methods and properties of a class itself, with what their docstrings begin with.

    A protocol is there to be implemented, and may consist of `__call__`.
    """
    protocol = any(str(base).startswith("Protocol") for base in found.bases)
    for name, one in found.members.items():
        if one.is_alias or (name.startswith("_") and not (protocol and name == "__call__")):
            continue
        if not isinstance(one, griffe.Object) or not one.docstring:
            continue
        said = first(sentence(one))
        if isinstance(one, griffe.Function):
            of = found.name if one.labels & {"classmethod", "staticmethod"} else ""
            yield f"- `{signature(f'{of}.{name}', taken(one), math.inf)}`: {said}"
        elif "property" in one.labels:
            yield f"- `.{name}`: {said}"


def written(package: griffe.Module, page: str) -> str:
    """The page with its table and calls, which stand above what the site shows in full."""
    rest = _WRITTEN.sub("", page)
    begin = _DIRECTIVE.search(rest)
    if begin is None:
        return rest
    made = table(package, rest) + calls(package, rest)
    return rest[: begin.start()] + made + rest[begin.start() :]


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Every page of the reference as it should be."""
    package = griffe.load(PACKAGE, search_paths=[root], try_relative_path=False)
    if not isinstance(package, griffe.Module):
        raise TypeError(f"{PACKAGE} is no module")
    found = sorted((root / PAGES).glob("*.md"))
    return {path: written(package, path.read_text(encoding="utf-8")) for path in found}


def check(found: Mapping[Path, str]) -> list[str]:
    """What is wrong with the pages, one sentence each."""
    wrong = []
    for path, text in found.items():
        if path.read_text(encoding="utf-8") != text:
            wrong.append(f"{PAGES}/{path.name} is not up to date: {REMEDY}")
        for name in re.findall(r"^\| `(\S+)` \|  \|$", text, re.MULTILINE):
            wrong.append(f"{name} has no docstring, which {PAGES}/{path.name} shows")
    return wrong


def _final(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages, or say what is wrong; the status is 1 where something is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the pages")
    found = pages()
    if parser.parse_args(arguments).write:
        for path, text in found.items():
            path.write_text(text, encoding="utf-8")
    if wrong := check(found):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
