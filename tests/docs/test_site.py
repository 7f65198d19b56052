"""The site has every page and every public name, and links that leave the folder of the pages."""

import ast
import importlib
import inspect
import re
import types
from pathlib import Path

import jaxticket as jt
from docs import docstrings, hooks, reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ALIASES = {"networks": "nn", "branches": "controls", "stability": "connectivity"}
# public, and imported from their modules
FURTHER = {"jaxticket.analysis.conditions", "jaxticket.cli.main", "jaxticket.nn.symmetry"}


def directives():
    """What the pages of the reference show."""
    found = []
    for path in sorted((DOCS / "api").glob("*.md")):
        found += re.findall(r"^::: (\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return found


def test_the_reference_has_every_public_name_once():
    shown = directives()
    assert len(set(shown)) == len(shown)
    names = {name: getattr(jt, name) for name in jt.__all__ if name != "__version__"}
    modules = {n: x for n, x in names.items() if isinstance(x, types.ModuleType)}
    expected = {f"jaxticket.{n}" for n in names if n not in modules}
    expected |= {module.__name__ for name, module in modules.items() if name not in ALIASES}
    assert set(shown) == expected | FURTHER
    for alias, name in ALIASES.items():
        assert getattr(jt, alias) is getattr(jt, name)
        assert f"`jt.{alias}`" in (DOCS / "api" / f"{name}.md").read_text("utf-8")


def test_pages_name_what_the_reference_has():
    """Other modules may change without notice, which users of a page would not expect."""
    shown = directives()
    texts = [ROOT / "README.md", *(ROOT / "notebooks").glob("*.md"), *DOCS.rglob("*.md")]
    for path in [*texts, *(ROOT / "notebooks").glob("[0-9]*.py")]:
        for name in re.findall(r"\bjaxticket(?:\.[A-Za-z_]\w*)+", path.read_text("utf-8")):
            # the name itself, or the module that it is imported from
            public = [one for one in shown if f"{name}.".startswith(f"{one}.")]
            assert public or any(one.startswith(f"{name}.") for one in shown), (path, name)


def test_pages_of_the_reference_have_tables_of_their_names():
    pages = reference.pages()
    assert reference.check(pages) == []
    for path, text in pages.items():
        shown = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
        rows = re.findall(r"^\| `(\S+)` \| \S.* \|$", text, re.MULTILINE)
        assert bool(rows) == bool(shown), path.name
        for row in rows:
            found = jt if row.startswith("jt.") else importlib.import_module(row.rpartition(".")[0])
            for part in row.partition(".")[2].split(".") if found is jt else [row.split(".")[-1]]:
                assert part in dir(found)
                found = getattr(found, part)


def test_a_table_that_is_old_or_lacks_a_sentence_is_found(tmp_path):
    package, page = tmp_path / "jaxticket", tmp_path / "docs" / "api" / "results.md"
    page.parent.mkdir(parents=True)
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = (
        '"""Tables."""\n__all__ = ["read"]\n\ndef read():\n    """Read `|x|`.\n\n    More."""\n'
    )
    (package / "results.py").write_text(source)
    page.write_text("# `jt.results`\n\nTables.\n\n::: jaxticket.results\n")
    assert reference.check(reference.pages(tmp_path)) == [
        "docs/api/results.md is not up to date: run `python -m docs.reference --write`"
    ]
    pages = reference.pages(tmp_path)
    page.write_text(pages[page])
    assert "| `jt.results.read` | Read <code>&#124;x&#124;</code>. |\n" in pages[page]
    # written once more, it stays
    assert reference.check(reference.pages(tmp_path)) == []
    (package / "results.py").write_text(source.replace("def read():", "read = 3\ndef other():"))
    old, bare = reference.check(reference.pages(tmp_path))
    assert "not up to date" in old and bare.startswith("jt.results.read has no docstring")


SOURCE = '''"""Settings."""

from abc import ABC
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

__all__ = ["Kind", "Point", "Rule", "Scheme", "Train", "NAME", "fit", "gap"]
NAME = "adam"
"""The default."""


def _field(default, **about):
    return field(default=default, metadata=about)


def fit(net, /, data, *more, optimizer=NAME, kinds=("ticket",), seeds=range(5), **options):
    """Fit.

    Args:
      net: the network. It is not changed. None for
        a small one.
      data, more: what is fitted; [n, 2].
        More of it.
      optimizer: one. There are others.
    """


def gap(*, a_long_name=None, another_long_name=None, one_that_is_longer_still=None, x=1.0):
    """The gap."""


class Rule(ABC):
    """A rule."""


@dataclass(frozen=True)
class Scheme(Rule):
    """A scheme.

    Attributes:
      every: steps between changes.
      low, high: the range.
    """

    every: int = _field(100, seen=True)
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Train(Scheme):
    """Training.

    Attributes:
      steps: how many.
    """

    steps: int = 10

    @property
    def last(self):
        """The last step. It is known."""

    def dilated(self, factor, *, kinds=("ticket",)):
        """Multiply all times."""

    @classmethod
    def load(cls, path):
        """Read a file."""

    def _hidden(self):
        """Not shown."""


class Point(NamedTuple):
    """A point.

    Attributes:
      x: where.
    """

    x: float
    y: float = 0.0


class Kind(Protocol):
    """What a kind does."""

    def __call__(self, state, *, key):
        """Change a state."""
'''


def test_plain_pages_say_how_functions_and_classes_are_called(tmp_path):
    package, page = tmp_path / "jaxticket", tmp_path / "docs" / "api" / "fitting.md"
    page.parent.mkdir(parents=True)
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "fitting.py").write_text(SOURCE)
    page.write_text("# `jt.fitting`\n\nSettings.\n\n::: jaxticket.fitting\n")
    pages = reference.pages(tmp_path)
    text = pages[page]
    begin, end = text.index(reference.PLAIN_BEGIN), text.index(reference.PLAIN_END)
    sections = dict(
        section.split("\n", 1) for section in re.split(r"^## ", text[begin:end], flags=re.M)[1:]
    )
    # a constant is in the table alone
    assert list(sections) == [
        f"`jt.fitting.{n}`" for n in ["Kind", "Point", "Scheme", "Train", "fit", "gap"]
    ]
    found = {name.strip("`").split(".")[-1]: part.strip() for name, part in sections.items()}
    found["gap"] = found["gap"].partition("\n\n---")[0]
    assert found == {
        "fit": "```text\njt.fitting.fit(\n"
        '    net, /, data, *more, optimizer="adam", kinds=("ticket",), seeds=range(5), **options,\n'
        ")\n```\n\n"
        "- `net`: the network. None for a small one.\n"
        "- `data`, `more`: what is fitted; [n, 2].\n"
        "- `optimizer`: one.",
        "gap": "```text\njt.fitting.gap(\n"
        "    *, a_long_name=None, another_long_name=None, one_that_is_longer_still=None, x=1.0,\n"
        ")\n```",
        "Scheme": "```text\njt.fitting.Scheme(every=100, low=0.0, high=1.0)\n```\n\n"
        "- `every`: steps between changes.\n- `low`, `high`: the range.",
        # what a base class takes is described there
        "Train": "```text\njt.fitting.Train(every=100, low=0.0, high=1.0, steps=10)\n```\n\n"
        "- `steps`: how many.\n"
        "- `every`: steps between changes.\n- `low`, `high`: the range.\n\n"
        "Methods and properties:\n\n"
        "- `.last`: The last step.\n"
        '- `.dilated(factor, *, kinds=("ticket",))`: Multiply all times.\n'
        "- `Train.load(path)`: Read a file.",
        "Point": "```text\njt.fitting.Point(x, y=0.0)\n```\n\n- `x`: where.",
        "Kind": "Methods and properties:\n\n- `.__call__(state, *, key)`: Change a state.",
    }
    # the site has the docstrings instead, and the table
    rest = hooks.shown(text)
    assert rest == text[:begin] + text[end + len(reference.PLAIN_END) + 2 :]
    assert "plain" not in rest and "| `jt.fitting.gap` |" in rest
    # an argument that is added makes the page old
    page.write_text(text)
    assert reference.check(reference.pages(tmp_path)) == []
    (package / "fitting.py").write_text(SOURCE.replace("x=1.0", "x=2.0"))
    (old,) = reference.check(reference.pages(tmp_path))
    assert "not up to date" in old


def test_plain_pages_have_the_arguments_that_python_has():
    """Of every function and class that a page shows, in order and with defaults as they are."""
    compared = 0
    for text in reference.pages().values():
        for name, call in re.findall(r"^```text\n(\S+?)(\(.*?\))\n```$", text, re.M | re.S):
            found = jt
            for part in name.split(".")[1:]:
                found = getattr(found, part, None)
            if not isinstance(found, (types.FunctionType, type)):
                continue
            taken = inspect.signature(found).parameters.values()
            expected = ast.parse(f"def f{call}: pass").body[0].args
            names = [*expected.posonlyargs, *expected.args, expected.vararg, *expected.kwonlyargs]
            names = [one.arg for one in [*names, expected.kwarg] if one is not None]
            assert names == [one.name for one in taken], name
            given = sum(one is not None for one in [*expected.defaults, *expected.kw_defaults])
            assert given == sum(one.default is not one.empty for one in taken), name
            compared += 1
    assert compared > 250


def test_sections_have_the_pages_in_the_order_of_the_index():
    found = hooks.sections((DOCS / "index.md").read_text("utf-8"))
    assert found[:2] == ["index.md", "getting-started.md"]
    titles = [title for one in found if isinstance(one, dict) for title in one]
    assert titles[:2] == ["Concepts", "Guides"] and "Reference" in titles
    pages = []
    for one in found:
        pages += [one] if isinstance(one, str) else [page for part in one.values() for page in part]
    here = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages) == sorted(here | set(hooks.PAGES.values()))


def test_links_lead_to_pages_and_to_copies_of_other_files():
    text = "[a](../methods/x.md#y) [b](../../CHANGELOG.md) [c](../../README.md) [d](https://e.org)"
    assert hooks.relinked(text, "docs/guides/g.md", "guides/g.md") == (
        "[a](../methods/x.md#y) [b](../changelog.md) [c](../files/README.md) [d](https://e.org)"
    )
    assert hooks.targets(text, "docs/guides/g.md") == ["CHANGELOG.md", "README.md"]
    code = "```python\n[c](../../README.md)\n```"
    assert hooks.relinked(code, "docs/guides/g.md", "guides/g.md") == code
    at_the_top = hooks.relinked("[a](docs/index.md)", "CONTRIBUTING.md", "contributing.md")
    assert at_the_top == "[a](index.md)"


def test_examples_in_docstrings_stand_in_blocks():
    assert docstrings.fenced("so:\n  >>> f(\n  ... )\n  2\n\nand on") == (
        "so:\n\n  ```pycon\n  >>> f(\n  ... )\n  2\n  ```\n\nand on"
    )
    assert docstrings.fenced("no example") == "no example"
