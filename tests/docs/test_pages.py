"""The pages: every example runs as it is printed, what it asserts is true, and links lead on."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[2] / "docs"
README = DOCS.parent / "README.md"
INDEX = DOCS / "extending" / "index.md"
PAGES = [path for path in sorted((DOCS / "extending").glob("*.md")) if path != INDEX]
ALL = sorted(DOCS.rglob("*.md"))
GUIDES = [path for path in ALL if path not in PAGES and "```python\n" in path.read_text("utf-8")]
# pages that explain what is called, and must show it
EXPLAINING = sorted(path for name in ("guides", "measuring") for path in (DOCS / name).glob("*.md"))
JOINTS = {
    "score", "control", "layout", "network", "data-source", "augmentation", "optimizer", "schedule",
    "loss", "metric", "mask-rule", "relaxation", "objective", "constraint", "distance", "probe",
    "monitor", "strategy", "structure",
}  # fmt: skip


def name(path):
    """A page as the index links to it."""
    return path.relative_to(DOCS).as_posix()


def example(path):
    (block,) = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return block


def test_there_is_a_page_of_every_joint_and_the_index_lists_it():
    assert {path.stem for path in PAGES} == JOINTS
    index = (DOCS / "index.md").read_text()
    linked = set(re.findall(r"\]\((extending/[^)]*)\)", index)) - {name(INDEX)}
    assert sorted(linked) == [f"extending/{path.name}" for path in PAGES]


def test_the_index_of_joints_has_a_sentence_on_each():
    linked = re.findall(r"^- \[[^]]*\]\(([^)]*)\) .*\.$", INDEX.read_text(), re.MULTILINE)
    assert sorted(linked) == [path.name for path in PAGES]


def test_the_tests_that_a_page_names_are_there():
    """One collection of all that the pages name, of which each command selects something."""
    commands = {}
    for path in PAGES:
        section = path.read_text().split("\n## Tests\n")[1]
        (command,) = re.findall(r"^```bash\n(.*)\n```$", section, re.MULTILINE)
        files, words = re.fullmatch(r"python -m pytest (.*) -k (.*)", command).groups()
        commands[path.stem] = files.split(), words.strip('"').split(" or ")
    files = sorted({file for named, _ in commands.values() for file in named})
    run = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    said = subprocess.run(run, cwd=DOCS.parent, capture_output=True, text=True, check=True).stdout
    for page, (named, words) in commands.items():
        for file in named:
            found = [line for line in said.splitlines() if line.startswith(f"{file}::")]
            assert found, (page, file)
        kept = [
            line.partition("::")[2].lower()
            for line in said.splitlines()
            if line.partition("::")[0] in named
        ]
        for word in words:
            assert [line for line in kept if word.lower() in line], (page, word)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_example_of_a_page_runs(path, tmp_path):
    code = example(path)
    assert len(code.splitlines()) < 30
    assert re.search(r"^assert ", code, re.MULTILINE), "it says what comes of it"
    # public names alone: what is imported of the package is `jt`
    assert re.findall(r"^.*import jaxticket.*$", code, re.MULTILINE) == ["import jaxticket as jt"]
    assert "from jaxticket" not in code and not re.search(r"\._(?!replace)", code)
    run(code, path.stem, tmp_path)


def test_every_page_is_reached_from_the_index_and_shows_what_it_explains():
    index = (DOCS / "index.md").read_text("utf-8")
    assert [page for page in map(name, ALL) if f"]({page})" not in index] == ["index.md"]
    assert [name(path) for path in EXPLAINING if path not in GUIDES] == []


@pytest.mark.parametrize("path", ALL, ids=name)
def test_links_lead_to_files(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    # `X["a"]("b")` is no link
    text = re.sub(r"`[^`\n]*`", "", text)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).is_file()] == []


@pytest.mark.parametrize("path", [README, *GUIDES], ids=lambda path: path.stem)
def test_the_examples_of_a_guide_run_one_after_another(path, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    # as users have it
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        run("\n".join(blocks), path.stem, tmp_path)


def test_the_readme_is_read_to_the_end():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 120
    first, second = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in first.splitlines() if line]) <= 10
    # the model, with its imports, and how it is made a network; what is plotted of it comes after
    model = second[: second.index("inst =")]
    assert len([line for line in model.splitlines() if line]) <= 8


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
        plt.close("all")
