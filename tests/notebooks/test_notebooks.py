"""The notebooks: pairs in step, outputs as they should be, and every one of them runs."""

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from notebooks import badges, run

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"

# the cell of sizes of each notebook, for a run that only shows that it works
TINY = {
    "01_quick_start": "seeds = range(2)\nsteps = 40\nlevels = 2",
    "02_own_model": "seeds = range(1)\nsteps = 20\nlevels = 1\nchannels = 4",
    "03_winning_ticket": "seeds = range(2)\nsteps = 40\nlevels = 1\njudged = 1",
    "04_instability": "seeds = range(2)\ncopies = 2\nsteps = 20\nat = (0, 10)\nlevels = 1",
    "05_pruning_at_initialization": (
        "seeds = range(2)\nsteps = 20\ndensities = (0.3,)\n"
        "scores = ('magnitude', 'snip')\njudged = 1"
    ),
    "06_learned_masks": "seeds = range(1)\nsteps = 40\ndensities = (0.2,)\nlevels = 1",
    "07_moving_masks": "seeds = range(2)\nsteps = 40\nevery = 10\ndensities = (0.1,)",
    "08_what_tickets_are_like": (
        "seeds = range(2)\nsteps = 40\ndensity = 0.3\nscores = ('snip',)\n"
        "levels = 1\nexamples = 50\norder = 5"
    ),
    "09_transfer": "seeds = range(2)\nsteps = 20\nlevels = 1",
    "10_seed_sweep": "seeds = range(4)\nsteps = 40\nlevels = 1\nbudget = 0.5",
}

each = pytest.mark.parametrize("name", run.NAMES)
# folders of this machine, and of machines where notebooks are made
PATHS = re.compile(r"(?<![\w.])/(tmp|root|work|home|Users|usr|opt|var|mnt|content)/")


def committed(name):
    """The notebook as it is in the repository."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_text(output):
    """What an output shows, but pictures."""
    shown = output.get("data", {})
    parts = [output.get("text", ""), *(shown[kind] for kind in shown if kind != "image/png")]
    return "\n".join(map(str, parts))


def test_every_notebook_has_a_tiny_size_and_a_place_in_the_lists():
    assert list(run.NAMES) == sorted(TINY) and len(run.NAMES) == 10
    pages = {"notebooks/README.md": "", "docs/guides/notebooks.md": "../../notebooks/"}
    for page, prefix in pages.items():
        linked = re.findall(
            rf"\]\({prefix}(\d\d_\w+)\.ipynb\)", (ROOT / page).read_text(encoding="utf-8")
        )
        assert linked == list(run.NAMES)


@each
def test_the_two_files_of_a_pair_hold_the_same_cells(name):
    kept = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert run.text(committed(name)) == kept, f"python -m notebooks.run {name}"
    assert run.text(run.read(name)) == kept


@each
def test_committed_outputs_have_figures_and_nothing_of_the_machine(name):
    notebook = committed(name)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 400_000
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert figures and all(cell.execution_count for cell in code_cells(notebook))
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        shown = output_text(output)
        assert not PATHS.search(shown), shown
        assert "Warning" not in shown and "<Axes" not in shown
    assert notebook.metadata.jupytext.formats == "ipynb,py:percent"


@each
def test_a_notebook_begins_with_a_title_and_ends_with_what_to_try_next(name):
    notebook = committed(name)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.source.startswith(f"# {int(name[:2])}. ") and "**Question.**" in first.source
    ending = last.source.partition("## Try this next\n")[2]
    assert last.cell_type == "markdown" and 2 <= ending.count("\n- ") <= 3 and "More: [" in ending


@each
def test_links_lead_to_files(name):
    text = "\n".join(c.source for c in committed(name).cells if c.cell_type == "markdown")
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [target for target in targets if "://" not in target]
    assert any(target.startswith("../docs/") for target in local)
    for target in local:
        assert (FOLDER / target.partition("#")[0]).resolve().is_file(), target


@each
def test_a_notebook_runs_at_a_tiny_size(name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = run.read(name)
    run.resize(notebook, TINY[name])
    run.execute(notebook, folder=tmp_path)
    before = code_cells(committed(name))
    # cells that show something when they are committed show something here
    for cell, kept in zip(code_cells(notebook), before, strict=True):
        kinds = [sorted(output.get("data", {})) for output in kept.outputs]
        assert [sorted(output.get("data", {})) for output in cell.outputs] == kinds, cell.source


@pytest.mark.slow
@each
def test_a_notebook_takes_two_minutes_at_most(name, tmp_path, monkeypatch):
    """At its own size, as users run it: nothing is compiled before, and fully optimized.

    Seconds of processors count, which other work on the machine hardly changes; an idle machine
    with two cores takes less time than that.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for variable in ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run.execute(run.read(name), folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    # a kernel that was not waited for would count for nothing
    assert 1 < seconds < 120


def first_cell():
    """The first code cell, which all notebooks share."""
    sources = {code_cells(committed(name))[0].source for name in run.NAMES}
    assert len(sources) == 1
    return sources.pop().partition("\nimport jax\n")[0]


def test_on_colab_the_first_cell_says_what_to_set(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.delenv("JAXTICKET_REPOSITORY", raising=False)
    with pytest.raises(ValueError, match=r'set REPOSITORY .*"https://github.com/OWNER/NAME"'):
        exec(first_cell(), {})


def test_on_colab_the_first_cell_installs_from_the_repository(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.setenv("JAXTICKET_REPOSITORY", "https://github.com/ada/tickets")
    monkeypatch.setattr(shutil, "which", lambda name: "nvidia-smi" in name)
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
    exec(first_cell(), {})
    (command,) = calls
    assert command[-1] == "jaxticket[cuda12] @ git+https://github.com/ada/tickets"


def test_elsewhere_the_first_cell_installs_nothing(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **b: pytest.fail("it ran a command"))
    exec(first_cell(), {})


@pytest.fixture
def copies(tmp_path):
    for path in FOLDER.glob("[0-9]*"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_badges_lead_to_the_repository_and_can_be_written_twice(copies):
    for repository in ("someone/else", "ada/my.tickets"):
        badges.write(repository, branch="dev", folder=copies)
    for name in run.NAMES:
        notebook = nbformat.read(copies / f"{name}.ipynb", as_version=4)
        page = f"/github/ada/my.tickets/blob/dev/notebooks/{name}.ipynb)"
        title, _, rest = notebook.cells[0].source.partition("\n\n")
        assert title.startswith("# ") and rest.partition("\n")[0].endswith(page)
        assert '"https://github.com/ada/my.tickets")' in notebook.cells[1].source
        assert "someone" not in run.text(notebook)
        # outputs stay, and the pair stays in step
        assert any(cell.outputs for cell in code_cells(notebook))
        assert (copies / f"{name}.py").read_text(encoding="utf-8") == run.text(notebook)
        rest_of = [cell.source for cell in notebook.cells[2:]]
        assert rest_of == [cell.source for cell in committed(name).cells[2:]]


def test_a_repository_that_is_none_is_refused(copies):
    with pytest.raises(ValueError, match=r"`repository` is 'https://github.com/a/b': give OWNER"):
        badges.write("https://github.com/a/b", folder=copies)


def test_outputs_stay_where_the_text_alone_was_changed():
    notebook, before = run.read("01_quick_start"), committed("01_quick_start")
    notebook.cells[0].source += " More."
    run.keep_outputs(notebook, before)
    kept = [cell.outputs for cell in code_cells(notebook)]
    assert kept == [cell.outputs for cell in code_cells(before)] and any(kept)
    code_cells(notebook)[-1].source += "\nprint(1)"
    with pytest.raises(ValueError, match="cells of code were changed: execute"):
        run.keep_outputs(notebook, before)


def test_sizes_of_other_names_are_refused():
    notebook = run.read("01_quick_start")
    with pytest.raises(ValueError, match=r"`code` sets \['seeds'\].*'levels', 'seeds', 'steps'"):
        run.resize(notebook, "seeds = range(2)")
    run.sizes(notebook).metadata["tags"] = []
    with pytest.raises(ValueError, match="one cell tagged `parameters`, this one 0"):
        run.resize(notebook, "seeds = range(2)")


def test_names_that_are_none_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["11_more"])
    assert "there is no notebook '11_more': 01_quick_start" in capsys.readouterr().err
