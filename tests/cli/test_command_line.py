"""The command line: every setting is a flag, errors are one line, and statuses say how it ended."""

import csv
import dataclasses
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import jax
import numpy as np
import optax
import pytest
from stops import after_save

import jaxticket as jt
from jaxticket import _extras
from jaxticket.cli import flags, main, objects
from jaxticket.engine.adversarial import PGD

SMALL = ("--options", "widths=(6,)", "--data", "digits", "--steps", "40", "--seeds", "0:2")
FIND = ("find", "--preset", "lenet-mnist", *SMALL, "--batch-size", "30")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of the command and one of its branches."""
    path = tmp_path_factory.mktemp("cli") / "a"
    kept = "--keep-at", "0", "20"
    main([*FIND, "--levels", "2", "--validation", "0.1", "--folder", str(path), *kept])
    main(["branch", str(path), "reinit", "--levels", "1", "2", "--keep-at", "20"])
    return path


def refused(capsys, *args, status=2):
    """What is said of a command that fails: one line, and no traceback."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == status
    out, said = capsys.readouterr()
    assert not out and "Traceback" not in said
    return said


def test_a_run_is_that_of_the_function(folder):
    data = jt.data.load("digits", validation=0.1)
    p = jt.preset("lenet-mnist", steps=40, batch_size=30, levels=2)
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    runs = jt.find_tickets(net, data, p.training, p.pruning, seeds=range(2), keep_at=(0, 20))
    found = jt.load(folder)
    assert found.table().equals(runs.table())
    assert (found.training, found.pruning, found.net) == (p.training, p.pruning, net)
    at = {(branch, level, step) for branch, level, _, step in found.at}
    assert at == {("ticket", level, step) for level in range(3) for step in (0, 20)}
    for key, networks in runs.at.items():
        jax.tree.map(np.testing.assert_array_equal, found.at[key], networks)
    # a branch has those of its flag
    (branch,) = (folder / "branches").iterdir()
    at = {(level, step) for name, level, _, step in jt.load(branch).at if name == "reinit"}
    assert at == {(1, 20), (2, 20)}


def test_tickets_of_a_run_have_a_network(folder, capsys, tmp_path):
    args = ("--tickets", str(folder), "--folder", str(tmp_path / "a"))
    for name, value in (("network", "lenet"), ("data", "digits"), ("validation", "0")):
        assert f"leave out {name}" in refused(capsys, "instability", *args, f"--{name}", value)


def test_show_tells_what_was_run(folder, capsys):
    main(["show", str(folder)])
    text = capsys.readouterr().out
    assert repr(jt.load(folder)) in text and "branches: reinit-" in text


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_show_gives_the_last_values_as_a_table(folder, capsys, form):
    main(["show", str(folder), form])
    out = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(out))) if form == "--csv" else json.loads(out)
    # levels 0 to 2 and the branch at two of them, 2 seeds, 3 splits, 2 metrics
    assert len(rows) == (3 + 2) * 2 * 3 * 2
    accuracy = jt.speed.final(jt.load(folder).table())
    wanted = accuracy[(accuracy.level == 2) & (accuracy.seed == 1)]["value"].item()
    (found,) = (
        float(row["value"]) for row in rows
        if (row["branch"], int(row["level"]), int(row["seed"]), row["split"], row["metric"])
        == ("ticket", 2, 1, "test", "accuracy")
    )  # fmt: skip
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("kind", [None, "curves"])
def test_plot_writes_a_figure(folder, capsys, tmp_path, kind):
    out = tmp_path / "figure.png"
    main(["plot", str(folder), "--out", str(out), *(["--kind", kind] if kind else [])])
    assert out.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out == f"{out}\n"


def test_plot_judges_as_runs_do(folder, monkeypatch, tmp_path):
    """One of few test images is more than the usual margin."""
    draw, sizes = jt.plots.accuracy, []

    def accuracy(table, test_size=None):
        sizes.append(test_size)
        return draw(table, test_size=test_size)

    monkeypatch.setattr(jt.plots, "accuracy", accuracy)
    main(["plot", str(folder), "--out", str(tmp_path / "figure.svg")])
    assert sizes == [len(jt.load(folder).data.test)]


@pytest.mark.parametrize("given", [True, False])
def test_report_writes_a_page(folder, capsys, tmp_path, given):
    out = tmp_path / "page.html" if given else folder / "report.html"
    main(["report", str(folder), *(["--out", str(out)] if given else [])])
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and "find_tickets" in text and "reinit" in text


@pytest.mark.slow
def test_other_functions_are_commands_too(folder, capsys, tmp_path):
    network = ("--network", "lenet", *SMALL, "--batch-size", "30")
    early = tmp_path / "early"
    main(["prune", *network, "--density", "0.5", "--step", "0", "20", "--score", "magnitude",
          "--pruning-batch-size", "None", "--folder", str(early)])  # fmt: skip
    assert (
        set(jt.load(early)) == {0, 20} and "pruned at step 20: Runs of" in capsys.readouterr().out
    )
    assert "Missing" not in refused(capsys, "plot", str(early), "--out", str(tmp_path / "a.png"))
    noise = tmp_path / "noise"
    main(["instability", *network, "--at", "0", "20", "--points", "3", "--folder", str(noise)])
    assert capsys.readouterr().out == f"{jt.load(noise)!r}\n"
    main(["plot", str(noise), "--out", str(tmp_path / "noise.png")])
    main(["transfer", str(folder), "--to", "digits", "--levels", "1", "--training", "steps=20"])
    assert "transferred" in capsys.readouterr().out
    (moved,) = (folder / "transfers").iterdir()
    assert jt.load(moved).training.steps == 20


@pytest.mark.slow
def test_sparse_training_and_other_networks_are_commands_too(folder, capsys, tmp_path):
    moves = ("transfer", str(folder), "--to", "digits", "--levels", "1", "--training", "steps=20")
    assert "name it too" in refused(capsys, *moves, "--options", "widths=(6,)")
    main(
        [*moves, "--network", "lenet", "--options", "widths=(6,)", "--folder", str(tmp_path / "t")]
    )
    assert jt.load(tmp_path / "t").net == jt.load(folder).net
    args = ("sparse", "--network", "lenet", *SMALL, "--density", "0.5", "0.2", "--folder")
    main([*args, str(tmp_path / "s"), "--rule", "rigl(every=5, end=11)"])
    runs = jt.load(tmp_path / "s")
    assert runs.levels == (1, 2) and runs.pruning.densities == (0.5, 0.2)
    assert runs.pruning.rule == jt.dynamic.RigL(every=5, end=11)
    main(["dynamic", *args[1:-1], "--changes", "10", "--folder", str(tmp_path / "d")])
    runs = jt.load(tmp_path / "d")
    assert runs.levels == (0, 1, 2) and runs.pruning.changes == (10,)
    # a preset of a rule says which, and its options
    preset = ("sparse", "--preset", "wrn16_4-cifar10-rigl", "--network", "lenet", *SMALL)
    main([*preset, "--exclude", "dense_0", "--rule", "set(every=5)", "--folder",
          str(tmp_path / "p")])  # fmt: skip
    runs = jt.load(tmp_path / "p")
    assert runs.pruning.densities == (0.1,) and runs.pruning.exclude == ("dense_0",)
    assert runs.pruning.rule == jt.dynamic.SET(every=5, end=30)


@pytest.mark.slow
def test_search_and_verdict_are_commands_too(folder, capsys, tmp_path):
    learned = tmp_path / "learned"
    main(["search", "--network", "lenet", *SMALL, "--density", "0.3", "--method", "concrete",
          "--method-options", "objective=loss", "--folder", str(learned)])  # fmt: skip
    assert jt.load(learned).pruning.method.objective == "loss"
    main(["verdict", str(folder), "--level", "2", "--points", "3"])
    assert "verdict: " in capsys.readouterr().out


def test_every_setting_is_a_flag_with_its_documentation(capsys):
    for make in (jt.Training, jt.Pruning):
        names = {flag.name for flag in flags.of_settings(make())}
        assert names == {field.name for field in dataclasses.fields(make)}
        assert all(flag.help for flag in flags.of_settings(make()))
    with pytest.raises(SystemExit) as caught:
        main(["find", "--preset", "resnet20-cifar10", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    # defaults are those of the preset
    lr = jt.preset("resnet20-cifar10").training.lr
    assert "--lr" in text and f"(default: {lr})" in text and "--pruning-schedule" in text


@pytest.mark.parametrize("steps", [["--steps", "24000"], ["--steps=24000"]])
def test_a_flag_that_is_typed_counts_though_it_equals_its_default(steps, capsys, tmp_path):
    what = ["--network", "lenet", "--data", "digits", "--epochs", "1", *steps]
    said = refused(capsys, "find", *what, "--folder", str(tmp_path / "a"))
    assert "`steps` is used without `epochs` only, got steps=24000" in said


OWN = """
import dataclasses
import optax

@dataclasses.dataclass(frozen=True)
class Norm:
    every: int = 10

    def __call__(self, problem, state, batch):
        return {"norm": optax.tree.norm(state.params)}

def falling(step):
    return 0.1 / (1 + step)
"""


def test_objects_are_texts(tmp_path, monkeypatch, capsys):
    """Those of the library by name, and code of one's own by module and name."""
    (tmp_path / "code_of_mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "code_of_mine", raising=False)
    main([*FIND, "--levels", "0", "--validation", "0.1", "--folder", "a", "--optimizer", "sgd",
          "--schedule", "code_of_mine:falling", "--monitors", "code_of_mine:Norm(every=20)",
          "--stop-when", "target(metric=accuracy, value=0)", "--metrics", "top(k=3)", "brier",
          "--class-weights", "balanced", "--weight-decay", "0.01", "--decay", "kernels",
          "--attack", "pgd(steps=1, high=16)"])  # fmt: skip
    from code_of_mine import Norm, falling

    training = jt.preset("lenet-mnist", steps=40, batch_size=30).training.replace(
        optimizer="sgd", schedule=falling, monitors=(Norm(20),), stop_when=jt.Target("accuracy", 0),
        metrics=(jt.metrics.TopK(3), "brier"), class_weights="balanced", weight_decay=0.01,
        decay="kernels", attack=PGD(steps=1, high=16), lr=jt.Training().lr,
    )  # fmt: skip
    data = jt.data.load("digits", validation=0.1)
    runs = jt.load("a", training=training.for_data(data))
    assert set(runs.monitored()["step"]) == {0} and "top3" in set(runs.table()["metric"])
    capsys.readouterr()
    assert "of your own, code_of_mine" in refused(capsys, "show", "a")


@pytest.mark.parametrize(
    ("setting", "text", "said"),
    [
        ("stop_when", "platau(patience=2)", "did you mean 'plateau'"),
        ("stop_when", "plateau(patience=two)", "`patience` must be a whole number"),
        ("stop_when", "plateau(waits=2)", "unexpected keyword argument 'waits'"),
        ("stop_when", "plateau(patience=len([]))", "must be NAME(OPTION=VALUE, ...)"),
        ("stop_when", "plateau(patience=2", "must be NAME(OPTION=VALUE, ...)"),
        ("attack", "deepfool", "Known: fgsm, pgd, or MODULE:NAME"),
        ("monitors", "norm", "write MODULE:NAME for code of your own"),
        ("loss", "nowhere_at_all:loss", "No module named 'nowhere_at_all'"),
        ("loss", "math:nothing", "has no attribute 'nothing'"),
        ("loss", "math:pi(2)", "is no function or class"),
        ("rule", "rigle(every=2)", "did you mean 'rigl'"),
        ("rule", "rigl(often=2)", "unexpected keyword argument 'often'"),
    ],
)
def test_texts_of_objects_are_checked(setting, text, said, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match=re.escape(said)):
        objects.made(setting, text)


def test_names_and_patterns_are_told_apart():
    """Where a setting takes a name or a sequence, such as `decay` and `class_weights`."""
    by_name = {flag.name: flag for flag in flags.of_settings(jt.Training())}
    read = {
        ("decay", ("kernels",)): "kernels",
        ("decay", ("*/kernel",)): ("*/kernel",),
        ("decay", ("a", "b")): ("a", "b"),
        ("class_weights", ("balanced",)): "balanced",
        ("class_weights", (1.0, 2.0)): (1.0, 2.0),
        ("optimizer", "optax:lion"): optax.lion,
        ("augment", ("flip", "crop(pixels=2)")): ("flip", jt.augment.Crop(2)),
        ("trainable", ("norm",)): ("norm",),
    }
    for (name, typed), wanted in read.items():
        assert by_name[name].read(typed) == wanted


@pytest.mark.parametrize("name", jt.PRESETS)
def test_every_preset_gives_defaults(name):
    """What is not given stays as the preset has it, whatever flags can say of it."""
    p = jt.PRESETS[name]
    for settings in (p.training, p.pruning):
        for flag in flags.of_settings(settings):
            shown = flags.shown(flag)
            assert isinstance(shown, (int, float, str, tuple, type(None)))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("find", "--preset", "lenet-mnst", "--folder", "x"), "did you mean 'lenet-mnist'"),
        (("find", "--preset", "lenet-mnist"), "`folder` is needed"),
        ((*FIND, "--levels", "-1", "--folder", "x"), "`levels` must be a whole number"),
        ((*FIND, "--optimizer", "sdg", "--folder", "x"), "`optimizer`"),
        ((*FIND, "--seeds", "a", "--folder", "x"), "`seeds` must be whole numbers, or ranges"),
        ((*FIND, "--options", "width", "--folder", "x"), "`options` must be NAME=VALUE"),
        ((*FIND, "--options", "depth=3", "--folder", "x"), "are not taken by network 'lenet'"),
        (("find", "--network", "lenet", "--data", "no", "--folder", "x"), "`name` is unknown"),
        (("show", "nowhere"), "'nowhere' is no file and no folder"),
        (("verdict", "nowhere", "--level", "1"), "`folder` 'nowhere' is no folder"),
        (("plot", "nowhere", "--out", "nowhere/a.png"), "make it first"),
        (("report", "nowhere"), "`folder` 'nowhere' is no folder"),
        (("report", ".", "--out", "nowhere/a.html"), "`file` 'nowhere/a.html' is in a folder"),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(x[:1]),
)
def test_mistakes_are_said_in_one_line(capsys, args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = refused(capsys, *args)
    assert text.startswith("error: ") and said in text and len(text.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("args", [(), ("fnd",), (*FIND, "--levls", "3"), ("find", "--levels", "x")])
def test_wrong_commands_and_flags_have_status_2(capsys, args):
    assert refused(capsys, *args)


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["preset"])
    assert "no command 'preset'; did you mean 'presets'" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["show", "nowhere", "--debug"])
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("ValueError: 'nowhere' is no")


def test_a_run_that_is_interrupted_goes_on(capsys, tmp_path):
    """Its status is that of the signal, and `show` says what is done so far."""
    args = (*FIND, "--levels", "1", "--folder", str(tmp_path / "a"))
    with after_save(1, lambda: signal.raise_signal(signal.SIGTERM), units=True):
        said = refused(capsys, *args, status=128 + signal.SIGTERM)
    assert f"stopped by SIGTERM; saved in {tmp_path / 'a'}" in said
    folder = str(tmp_path / "a")
    main(["show", folder])
    title, *facts = capsys.readouterr().out.splitlines()
    assert title == "find_tickets, not finished"
    shown = dict(line.split(maxsplit=1) for line in facts)
    assert shown["pruning"] == "levels=1" and shown["seeds"] == "0, 1"
    assert shown["in"] == "use    no: the same command continues the run"
    assert "is for finished runs" in refused(capsys, "show", folder, "--csv")
    before = facts[-1].split()
    main(args)
    out, said = capsys.readouterr()
    accuracy = jt.speed.final(jt.load(folder).table())
    dense = accuracy[accuracy.level == 0]["value"]
    assert before[:2] == ["level", "0"] and before[4:5] == ["40"]
    assert before[5] == f"{100 * dense.mean():.1f}%"
    assert "resumes" in out and "\r" not in said and "Runs of 2 levels" in out


def test_show_marks_what_diverged_and_what_is_damaged(capsys, tmp_path):
    """In a folder whose run goes on, of numbers that were evaluated."""
    (tmp_path / "units").mkdir()
    setting = {"kind": "find_tickets", "net": {}, "data": {"name": "mine"}, "seeds": [3, 5]}
    (tmp_path / "settings.json").write_text(json.dumps(setting))
    names = {"splits": ["test", "train"], "metrics": ["loss", "accuracy"]}
    (tmp_path / "evaluated.json").write_text(json.dumps(names))
    here = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "name": "process 1"})
    (tmp_path / ".lock").write_text(here)
    values = np.full((2, 2, 2, 2), np.nan, np.float32)
    values[0, :, 0, 0], values[1, 0, 0, 0] = 2.5, 0.25
    arrays = {"steps": np.asarray([[0, 0], [90, 90]]), "values": values, "diverged": [-1, 7]}
    np.savez(tmp_path / "units" / "stage-000-00000-00002.npz", **arrays)
    (tmp_path / "units" / "stage-001-00000-00002.npz").write_bytes(b"PK damaged")
    # of masks whose accuracy is measured without training: a step and a level
    np.savez(tmp_path / "units" / "supermask-0-3.npz", **arrays)
    main(["show", str(tmp_path)])
    *_, head, first, second, third = capsys.readouterr().out.splitlines()
    assert head.split() == ["finished", "replicas", "to", "step", "test", "loss"]
    assert first.split() == ["level", "0", "0,", "1", "90", "0.25,", "1", "diverged"]
    assert second.split()[:2] == ["level", "1"] and "damaged: computed again" in second
    assert third.split()[:4] == ["supermask,", "level", "3", "90"]


def test_a_failure_has_status_1(capsys, monkeypatch):
    def fail(args: Sequence[str]) -> None:
        raise MemoryError("out of memory")

    monkeypatch.setitem(__import__("jaxticket.cli.reading", fromlist=["x"]).READING, "show", fail)
    assert refused(capsys, "show", status=1) == "error: out of memory\n"


def test_without_tyro_the_command_says_what_to_install(capsys, monkeypatch):
    require = _extras.require
    monkeypatch.setattr(_extras, "require", lambda module, extra: require("no_tyro", extra))
    assert "pip install 'jaxticket[cli]'" in refused(capsys, "presets")


def test_it_is_a_command_of_its_own_that_works_in_a_pipe(tmp_path):
    """With a device for each core, no bars and no colors."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    # where the compiler for TPUs is installed, JAX would say that it finds none
    environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "jaxticket", *FIND, "--levels", "1", "--folder", "a"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Runs of 2 levels and 2 seeds")
    said = done.stderr.splitlines()
    assert len(said) <= 6 and "done in" in said[-1]
    assert said[0].startswith("prunes 444 of 460 weights") and "compiling" in said[1]
    for text in (done.stdout, done.stderr):
        assert "\r" not in text and "\x1b" not in text
