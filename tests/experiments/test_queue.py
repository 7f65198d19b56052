"""The reproduction queue: resumes, skips what is done, keeps to its time, survives failures."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest
import tyro

import jaxticket as jt
from experiments import run_queue as queue
from experiments.common import sizes

ROOT = Path(__file__).resolve().parents[2]


# does one piece of work per call (or as many as it is told), and is done after the third
PIECES = """
import argparse, pathlib, sys
options = argparse.ArgumentParser()
options.add_argument("--folder", type=pathlib.Path)
options.add_argument("--budget", type=float)
options.add_argument("--at-once", type=int, default=1)
given = options.parse_args()
given.folder.mkdir(parents=True, exist_ok=True)
path = given.folder / "pieces"
done = int(path.read_text()) if path.exists() else 0
done += given.at_once
path.write_text(str(done))
with open(given.folder / "budgets", "a") as file:
    file.write(f"{given.budget}\\n")
sys.exit(0 if done >= 3 else 75)
"""
FAILS = "import sys; print('one line'); sys.exit('no such luck')"
# says that it is there, saves when it is told to stop, and would otherwise go on for long
SLOW = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--folder") + 1])
folder.mkdir(parents=True, exist_ok=True)
def leave(*_):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
(folder / "there").touch()
time.sleep(60)
"""
PLAIN = "import sys; open(sys.argv[1], 'a').write('x')"


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Writes a script that `python -m` finds, and gives the run of it."""
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def one(name, text, *options, **fields):
        (tmp_path / f"{name}_script.py").write_text(text)
        words = tuple(map(str, options))
        return queue.Run(name, f"{name}_script", words, "a figure", **fields)

    return one


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def states(some, results):
    known = queue.read(results)
    return [queue.state_of(run, known) for run in some]


def work(some, results, minutes=1.0, **options):
    return queue.work(some, results, minutes, **{"least": 0.0, **options})


def test_a_run_goes_on_until_it_is_done_and_is_then_skipped(make, results, capsys):
    some = [make("long", PIECES), make("short", PIECES, "--at-once", 3)]
    assert states(some, results) == ["open", "open"]
    assert work(some, results) == {"long": "part", "short": "done"}
    assert "saved; the next call goes on with it" in capsys.readouterr().out
    assert work(some, results) == {"long": "part"}
    assert work(some, results) == {"long": "done"}
    assert work(some, results) == {}
    assert states(some, results) == ["done", "done"]
    pieces = [(results / run.key / "pieces").read_text() for run in some]
    assert pieces == ["3", "3"]
    assert queue.read(results)[some[0].key]["calls"] == 3
    assert "done after" in capsys.readouterr().out


def test_a_run_gets_the_time_that_is_left(make, results):
    some = [make("first", PIECES), make("second", PIECES)]
    work(some, results, minutes=2.0)
    first, second = (float((results / r.key / "budgets").read_text()) for r in some)
    assert 0 < second < first <= 2.0


def test_nothing_starts_with_too_little_time(make, results, capsys):
    some = [make("long", PIECES), make("plain", PLAIN, results / "x", minutes=5.0)]
    assert work(some, results, minutes=0.5, least=1.0) == {}
    assert not results.exists()
    # a run without a budget is passed over, what takes one uses the time
    assert work(some[::-1], results, minutes=2.0, least=1.0) == {"long": "part"}
    assert "plain: needs 5 minutes" in capsys.readouterr().out
    assert work(some[1:], results, minutes=6.0) == {"plain": "done"}
    assert (results / "x").read_text() == "x"


def test_a_failing_run_is_reported_and_tried_again_at_the_end(make, results, capsys):
    some = [make("broken", FAILS), make("long", PIECES)]
    assert list(work(some, results).items()) == [("broken", "failed"), ("long", "part")]
    printed = capsys.readouterr().out
    assert "broken: failed with exit code 1" in printed and "no such luck" in printed
    assert list(work(some, results)) == ["long", "broken"]
    missing = queue.Run("missing", "experiments.no_such_script", (), "a figure")
    assert work([missing], results) == {"missing": "failed"}
    # an exit code of 75 means something for runs that take a budget only
    odd = make("odd", "import sys; sys.exit(75)", minutes=0.0)
    assert work([odd], results) == {"odd": "failed"}


def test_a_run_that_overstays_saves_and_goes_on_next_time(make, results, monkeypatch):
    monkeypatch.setattr(queue, "GRACE", 0.04)
    some = [make("slow", SLOW)]
    assert work(some, results, minutes=0.04) == {"slow": "part"}
    assert (results / some[0].key / "saved").exists()


def test_the_state_survives_a_kill_of_the_queue(make, results, tmp_path):
    """SIGTERM ends the run first, which saves, and the run counts as begun."""
    run = make("slow", SLOW)
    code = (
        "import pathlib\n"
        "from experiments import run_queue as q\n"
        f"run = q.Run('slow', {run.module!r}, (), 'a figure')\n"
        f"q.work([run], pathlib.Path({str(results)!r}), 1.0, least=0.0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL)
    folder = results / run.key
    end = time.monotonic() + 60
    while not (folder / "there").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (folder / "saved").exists()
    assert states([run], results) == ["part"]


def test_another_command_is_another_run(make, results):
    run = make("long", PIECES, "--at-once", 3)
    other = make("long", PIECES, "--at-once", 4)
    assert work([run], results) == {"long": "done"}
    assert states([run, other], results) == ["done", "open"]


def test_options_by_device(make, tmp_path):
    run = make("bench", PLAIN, "--publish", accelerator=("--dtype", "bfloat16"), minutes=3.0)
    here = queue.command(run, tmp_path, 5.0, accelerated=False, more=("--data-note", "a note"))
    assert here[1:] == ["-m", run.module, "--publish"]
    there = queue.command(run, tmp_path, 5.0, accelerated=True)
    assert there[1:] == ["-m", run.module, "--publish", "--dtype", "bfloat16"]
    budgeted = queue.command(
        make("long", PIECES), tmp_path, 5.0, accelerated=True, more=("--data-note", "a note")
    )
    assert budgeted[3:] == ["--data-note", "a note", "--folder", str(tmp_path), "--budget", "5"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": {"state": "lost"}}', '{"a": {}}'])
def test_a_state_that_is_not_ours_is_refused(results, text):
    results.mkdir()
    (results / queue.STATE).write_text(text)
    with pytest.raises(ValueError, match=r"`results`: .* cannot be read"):
        queue.read(results)


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_must_be_above_zero(results, minutes):
    with pytest.raises(ValueError, match="`minutes` must be above 0"):
        queue.work([], results, minutes)


def test_every_run_of_the_list_is_one_that_exists():
    names = [run.name for run in queue.RUNS]
    assert len(set(names)) == len(names)
    assert len({run.key for run in queue.RUNS}) == len(names)
    for run in queue.RUNS:
        assert importlib.util.find_spec(run.module), run.module
        if not run.module.startswith(("experiments.benchmarks.", "experiments.own_networks.")):
            options = dict(zip(run.options, run.options[1:], strict=False))
            preset = options.get("--preset", f"{options.get('--network')}-cifar10-one_ticket")
            assert preset in jt.PRESETS
            assert options["--size"] == "paper"
            assert run.minutes is None
    # the order that was asked for
    first = ["replicas", "convolution", "resnet20", "fast_cifar10", "table_4_2-resnet20-cifar10"]
    assert names[:5] == first


def test_every_reduced_run_is_one_that_exists():
    names = [run.name for run in queue.REDUCED]
    assert len(set(names)) == len(names)
    assert not {run.key for run in queue.REDUCED} & {run.key for run in queue.RUNS}
    for run in queue.REDUCED:
        assert importlib.util.find_spec(run.module), run.module
        options = dict(zip(run.options, run.options[1:], strict=False))
        assert options["--size"] == "reduced"
        of = {None: "", "lenet": "lenet-mnist", "vgg19": "vgg19-cifar10-one_ticket"}
        preset = jt.preset(options.get("--preset", of[options.get("--network")]))
        assert sizes.reduced_size(preset, {}).seeds == 3


def test_every_run_is_a_command_that_its_script_takes():
    for run in (*queue.RUNS, *queue.REDUCED):
        of = typing.get_type_hints(importlib.import_module(run.module).main)
        settings = of["settings"]
        for options in (run.options, (*run.options, *run.accelerator)):
            tyro.cli(settings, args=options)


def test_runs_that_look_at_the_same_networks_share_a_folder(make, results):
    text = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--folder") + 1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "seen").open("a").write("x")
"""
    some = [make(name, text, shares="networks") for name in ("a", "b")] + [make("c", text)]
    assert set(work(some, results).values()) == {"done"}
    assert (results / "networks" / "seen").read_text() == "xx"
    assert (results / some[2].key / "seen").read_text() == "x"
    # all runs of a folder have one size and one preset
    folders = {}
    for run in (*queue.RUNS, *queue.REDUCED):
        if run.shares:
            options = dict(zip(run.options, run.options[1:], strict=False))
            settings = (options["--preset"], options["--size"], options.get("--precision"))
            assert folders.setdefault(run.shares, settings) == settings
    assert len(folders) > 5


def test_the_command_lists(tmp_path):
    listing = [sys.executable, "-m", "experiments.run_queue", "--list", "--results", str(tmp_path)]
    (tmp_path / queue.STATE).write_text(
        json.dumps({queue.RUNS[4].key: {"state": "part", "minutes": 12.3, "calls": 1}})
    )
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[5].split()[:3] == ["part", "12.3", "table_4_2-resnet20-cifar10"]
    assert (
        lines[-1] == f"{len(queue.RUNS)} runs: 0 done, 1 part, 0 failed, {len(queue.RUNS) - 1} open"
    )
    reduced = [*listing, "--reduced", "--only", "vgg16"]
    done = subprocess.run(reduced, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "ch5_by_step-vgg16-cifar10" in done.stdout and "resnet20" not in done.stdout
    done = subprocess.run([*listing, "--only", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "`only`: no run has 'nothing' in its name" in done.stderr


def test_no_script_hides_a_module_of_the_standard_library():
    """`python experiments/NAME.py` puts the folder first on the path; `queue` was such a name."""
    scripts = {path.stem for path in (ROOT / "experiments").rglob("*.py")}
    assert not scripts & set(sys.stdlib_module_names)
