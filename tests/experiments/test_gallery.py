"""docs/gallery.md has every figure of `jt.plots`, with a picture and a call that fits."""

import ast
import inspect
import re
from pathlib import Path

import pytest
from PIL import Image

import jaxticket as jt
from experiments import gallery

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")
CALLS = gallery.calls()
MOST = 3_000_000


def test_every_figure_has_an_entry_and_every_entry_a_figure():
    assert sorted(CALLS) == sorted(jt.plots.__all__)
    assert len(re.findall(r"^### ", PAGE, re.MULTILINE)) == len(CALLS)


@pytest.mark.parametrize("name", jt.plots.__all__)
def test_an_entry_has_a_picture_and_a_sentence(name):
    entry = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    shown = re.search(r"!\[([^\]]+)\]\(gallery/(\w+)\.png\)", entry)
    assert shown is not None and shown[2] == name and len(shown[1]) > len(name) + 10
    assert len(entry.strip().partition("\n")[0].split()) > 8
    with Image.open(DOCS / "gallery" / f"{name}.png") as image:
        assert image.width > 300 and image.height > 150
        # something is drawn
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 10


def test_pictures_are_small_and_none_is_left_over():
    files = list((DOCS / "gallery").iterdir())
    assert {file.name for file in files} == {f"{name}.png" for name in jt.plots.__all__}
    assert sum(file.stat().st_size for file in files) < MOST


def calls_of(code):
    """The calls of `jt.plots` in a piece of code: (name, call)."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("jt.plots."):
            yield ast.unparse(node.func).removeprefix("jt.plots."), node


@pytest.mark.parametrize("name", jt.plots.__all__)
def test_a_call_has_arguments_that_there_are(name):
    found = list(calls_of(CALLS[name]))
    assert name in [called for called, _ in found]
    for called, node in found:
        options = {word.arg: None for word in node.keywords}
        assert None not in options
        inspect.signature(getattr(jt.plots, called)).bind(*node.args, **options)


def test_only_figures_of_the_page_are_drawn():
    with pytest.raises(ValueError, match=r"`only` has \['nothing'\]"):
        gallery.main(gallery.Settings(only=("nothing",)))
