"""The pages of the joints: every example runs as it is printed, and what it asserts is true."""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = sorted(path for path in DOCS.glob("*.md") if path.stem != "index")
PAGES = sorted((DOCS / "joints").glob("*.md"))
JOINTS = {
    "score", "control", "layout", "network", "data-source", "augmentation", "optimizer", "schedule",
    "loss", "metric", "mask-rule", "relaxation", "objective", "constraint", "distance", "probe",
    "monitor", "strategy", "structure",
}  # fmt: skip


def example(path):
    (block,) = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return block


def test_there_is_a_page_of_every_joint_and_the_index_lists_it():
    assert {path.stem for path in PAGES} == JOINTS
    index = (DOCS / "index.md").read_text()
    linked = re.findall(r"\]\((joints/[^)]*)\)", index)
    assert sorted(linked) == [f"joints/{path.name}" for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_example_of_a_page_runs(path, tmp_path):
    code = example(path)
    assert len(code.splitlines()) < 30
    assert re.search(r"^assert ", code, re.MULTILINE), "it says what comes of it"
    # public names alone: what is imported of the package is `jt`
    assert re.findall(r"^.*import jaxticket.*$", code, re.MULTILINE) == ["import jaxticket as jt"]
    assert "from jaxticket" not in code and not re.search(r"\._(?!replace)", code)
    run(code, path.stem, tmp_path)


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_the_examples_of_a_guide_run_one_after_another(path, tmp_path, monkeypatch):
    assert f"]({path.name})" in (DOCS / "index.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    # as users have it
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        run("\n".join(blocks), path.stem, tmp_path)


def run(code, name, folder):
    """Runs code as a module of a file, so that the functions in it have a source."""
    file = folder / f"page_{name.replace('-', '_')}.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[file.stem]
