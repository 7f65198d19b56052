"""The tables of docs/api: the public names of each page, with what their docstrings begin with.

The site shows the docstrings themselves; where the pages are read as plain files, such as beside
the code on a forge, the tables are all that is there. They are made of the source and need nothing
to be imported:

    python -m docs.reference            # say what is wrong with the pages
    python -m docs.reference --write    # write the tables
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parents[1]
PAGES = "docs/api"
PACKAGE = "jaxticket"
BEGIN, END = "<!-- names:begin -->", "<!-- names:end -->"
REMEDY = "run `python -m docs.reference --write`"
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_TABLE = re.compile(rf"^{BEGIN}\n.*?^{END}\n\n", re.MULTILINE | re.DOTALL)
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


def written(package: griffe.Module, page: str) -> str:
    """The page with its table, which stands above what the site shows in full."""
    rest = _TABLE.sub("", page)
    first = _DIRECTIVE.search(rest)
    if first is None:
        return rest
    return rest[: first.start()] + table(package, rest) + rest[first.start() :]


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Every page of the reference with the table that it should have."""
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
            wrong.append(f"the table of {PAGES}/{path.name} is not up to date: {REMEDY}")
        for name in re.findall(r"^\| `(\S+)` \|  \|$", text, re.MULTILINE):
            wrong.append(f"{name} has no docstring, which {PAGES}/{path.name} shows")
    return wrong


def _final(found: griffe.Object | griffe.Alias) -> griffe.Object:
    return found.final_target if isinstance(found, griffe.Alias) else found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables, or say what is wrong; the status is 1 where something is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the tables")
    found = pages()
    if parser.parse_args(arguments).write:
        for path, text in found.items():
            path.write_text(text, encoding="utf-8")
    if wrong := check(found):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
