"""The site has every page and every public name, and links that leave the folder of the pages."""

import re
import types
from pathlib import Path

import jaxticket as jt
from docs import docstrings, hooks

DOCS = Path(__file__).parents[2] / "docs"
ALIASES = {"networks": "nn", "branches": "controls", "stability": "connectivity"}


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
    assert set(shown) == expected
    for alias, name in ALIASES.items():
        assert getattr(jt, alias) is getattr(jt, name)
        assert f"`jt.{alias}`" in (DOCS / "api" / f"{name}.md").read_text("utf-8")


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
