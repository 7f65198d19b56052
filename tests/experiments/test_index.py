"""The index of figures and tables is complete, and `check` finds what is wrong with one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import index

ROOT = Path(__file__).resolve().parents[2]


def _numbered(kind, numbers, prefix=""):
    return {f"{kind} {prefix}{number}" for number in numbers}


# counted in the sources by hand; the thesis has no figure in chapters 1, 2 and 6, and in the last
# an algorithm with results in words
EXPECTED = {
    "thesis": _numbered("Figure", range(1, 10), "3-")
    | _numbered("Figure", range(1, 34), "4-")
    | _numbered("Figure", range(1, 15), "5-")
    | _numbered("Table", range(1, 3), "4.")
    | _numbered("Table", range(1, 3), "5.")
    # tables without a number, by section
    | _numbered("Table in", ("5.3.3", "5.3.4", "5.3.5", "5.4.3", "5.4.4"))
    | {"Algorithm 5"},
    "one_ticket": _numbered("Figure", [*range(1, 6), "A1"]),
    # section D.1 prints its comparison in words alone
    "kd_lts": _numbered("Figure", range(1, 33)) | _numbered("Table", range(1, 8)) | {"Appendix D"},
    # of its figures that were not at hand, the abstract names GradBalance and compares with LTR
    "concrete": _numbered("Figure", range(1, 6)) | {"abstract", "GradBalance", "LTR"},
}
SCRIPT = "experiments/thesis_ch3/curves.py"


def test_the_index_has_no_problems():
    assert index.check() == []


@pytest.mark.parametrize("page", ["README.md", "experiments/README.md"])
def test_links_of_the_pages_lead_somewhere(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert (path.parent / link.split("#")[0]).exists(), link


@pytest.mark.parametrize("source", EXPECTED)
def test_no_figure_or_table_is_lost(source):
    items = [row.item for row in index.read() if row.source == source]
    assert set(items) == EXPECTED[source]
    assert len(items) == len(EXPECTED[source])


def test_every_source_is_expected():
    assert set(index.SOURCES) == set(EXPECTED)


def test_descriptions_are_short():
    for row in index.read():
        assert len(row.what.split()) <= 13, row


def test_counts_of_each_source_add_up():
    text = index.markdown(index.read())
    for source, title in index.SOURCES.items():
        section = text.split(f"### {title}\n")[1].split("### ")[0]
        todo, drawn = section.count("| not yet |"), section.count("| nothing to run |")
        found = re.search(r"\*\*(\d+) of (\d+) done\*\*", section)
        assert found, section
        done, total = map(int, found.groups())
        assert done + todo == total
        assert total + drawn == len(EXPECTED[source])


@pytest.fixture
def copy(tmp_path):
    """A repository of its own with the true rows, in which all the scripts exist."""
    for name in ("index.csv", "README.md"):
        (tmp_path / "experiments").mkdir(exist_ok=True)
        shutil.copy(ROOT / "experiments" / name, tmp_path / "experiments" / name)
    for row in index.read(tmp_path):
        if row.has_script:
            _touch(tmp_path / row.script)
    index.rewrite(tmp_path)
    assert index.check(tmp_path) == []
    return tmp_path


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def _only(root, *words):
    problems = index.check(root)
    assert len(problems) == 1, problems
    for word in words:
        assert word in problems[0]


def test_check_finds_a_missing_script(copy):
    (copy / SCRIPT).unlink()
    problems = index.check(copy)
    assert len(problems) == sum(row.script == SCRIPT for row in index.read(copy)) > 0
    assert all(SCRIPT in problem and "no such file" in problem for problem in problems)


def test_check_takes_no_folder_for_a_script(copy):
    (copy / SCRIPT).unlink()
    (copy / SCRIPT).mkdir()
    assert any("no such file" in problem for problem in index.check(copy))


@pytest.mark.parametrize("folder", index.FOLDERS)
def test_check_finds_a_script_that_no_row_lists(copy, folder):
    _touch(copy / "experiments" / folder / "new.py")
    _only(copy, f"experiments/{folder}/new.py", "does not list")


def test_check_ignores_helpers_and_other_folders(copy):
    _touch(copy / "experiments" / "thesis_ch3" / "_common.py")
    _touch(copy / "experiments" / "thesis_ch3" / "notes.md")
    _touch(copy / "experiments" / "benchmarks" / "speed.py")
    assert index.check(copy) == []


def test_check_finds_a_duplicate(copy):
    with (copy / "experiments" / "index.csv").open("a", encoding="utf-8") as file:
        file.write("thesis,Figure 3-1,again,not yet,\n")
    index.rewrite(copy)
    _only(copy, "thesis Figure 3-1", "2 times")


def test_check_finds_an_unknown_source(copy):
    with (copy / "experiments" / "index.csv").open("a", encoding="utf-8") as file:
        file.write("blog,Figure 1,a plot,not yet,\n")
    _only(copy, "'blog'", "thesis, one_ticket, kd_lts, concrete")


def test_check_finds_an_empty_cell(copy):
    with (copy / "experiments" / "index.csv").open("a", encoding="utf-8") as file:
        file.write("thesis,Figure 9-1,a plot,,\n")
    index.rewrite(copy)
    _only(copy, "thesis Figure 9-1", "empty")


@pytest.mark.parametrize("line", ["thesis,Figure 9-1,a, b,not yet,", "thesis,Figure 9-1"])
def test_check_finds_a_line_with_another_number_of_cells(copy, line):
    with (copy / "experiments" / "index.csv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    _only(copy, "cells instead of 5")


def test_check_finds_another_header(copy):
    _edit(copy / "experiments" / "index.csv", "source,item", "paper,item")
    _only(copy, "header")


def test_check_finds_a_readme_that_differs(copy):
    _edit(copy / "experiments" / "README.md", "| Figure 4-3 |", "| Figure 4-03 |")
    _only(copy, "differs", "--write")
    index.rewrite(copy)
    assert index.check(copy) == []


@pytest.mark.parametrize("marker", [index.BEGIN, index.END])
@pytest.mark.parametrize("new", ["", "{0} {0}"])
def test_check_finds_markers_lost_or_doubled(copy, marker, new):
    _edit(copy / "experiments" / "README.md", marker, new.format(marker))
    _only(copy, marker)
    with pytest.raises(ValueError, match="marker"):
        index.rewrite(copy)


def test_check_finds_markers_swapped(copy):
    path = copy / "experiments" / "README.md"
    path.write_text(f"{index.END}\n{index.BEGIN}\n", encoding="utf-8")
    _only(copy, "before")


def test_check_finds_missing_files(copy):
    (copy / "experiments" / "README.md").unlink()
    _only(copy, "README.md")
    (copy / "experiments" / "index.csv").unlink()
    _only(copy, "index.csv")


def test_rewrite_leaves_the_rest_of_the_page(copy):
    path = copy / "experiments" / "README.md"
    before = path.read_text(encoding="utf-8")
    _edit(path, "## Measured\n", "## Measured\n\nA sentence.\n")
    _edit(copy / "experiments" / "index.csv", "one_ticket,Figure 5,", "one_ticket,Figure 5,all ")
    index.rewrite(copy)
    after = path.read_text(encoding="utf-8")
    assert "\nA sentence.\n" in after
    assert after.split(index.END)[1] == before.split(index.END)[1]
    assert index.check(copy) == []


def test_a_bar_in_a_cell_does_not_break_the_table():
    row = index.Row("thesis", "Figure 9-1", "a | b", index.NOT_YET, "")
    assert r"| Figure 9-1 | a \| b | not yet |  |" in index.markdown([row])


def test_the_command_prints_and_writes(copy):
    script = copy / "experiments" / "index.py"
    shutil.copy(ROOT / "experiments" / "index.py", script)
    (copy / SCRIPT).touch()
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "### KD-LTS" in done.stdout
    _edit(copy / "experiments" / "README.md", "| Figure 4-3 |", "| Figure 4-03 |")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "differs" in done.stderr
    done = subprocess.run([sys.executable, script, "--write"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert index.check(copy) == []
