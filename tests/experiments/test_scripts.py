"""The scripts of `experiments/` explain themselves, run, and leave the files they promise."""

import ast
import dataclasses
import importlib
import json
import math
import os
import re
import runpy
import subprocess
import sys
import time
import types
import typing
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from matplotlib.pyplot import imsave
from sklearn.datasets import load_digits

import jaxticket as jt
from experiments.common import job as of_scripts
from experiments.common import report, scored
from experiments.common.job import (
    Job,
    Settings,
    count_seconds,
    launch,
    pooled,
    prepare,
    size_of,
)
from experiments.common.sizes import size_in_words
from experiments.kd_lts import accuracy, against_rewinding, distribution_shifts
from experiments.kd_lts._claims import compared
from experiments.one_ticket import data_sets
from experiments.thesis_ch3 import _tickets
from experiments.thesis_ch5 import ablations, by_step

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(
    path.relative_to(EXPERIMENTS).as_posix()
    for path in (*EXPERIMENTS.glob("*.py"), *EXPERIMENTS.glob("*/*.py"))
    if not path.name.startswith("_")
    and path.name not in ("index.py", "reproduced.py", "run_queue.py")
    and path.parent.name not in ("benchmarks", "common")
)
CHAPTER_3 = {"curves", "one_shot", "lrr_and_random", "ablations", "early_stopping", "dilation"}


def run(script, *options, check=True):
    """Runs a script as a user does, and returns the finished process."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", module_of(script), *map(str, options)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def module_of(script):
    """ "thesis_ch3/curves.py" -> "experiments.thesis_ch3.curves"."""
    return f"experiments.{script.removesuffix('.py').replace('/', '.')}"


@pytest.fixture
def refused(capsys, monkeypatch):
    """Runs a script that ends with an error, in this process: its exit code and what it says."""

    def run(script, *options):
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        # a module that another test imported runs once more, as a script
        monkeypatch.delitem(sys.modules, module_of(script), raising=False)
        with pytest.raises(SystemExit) as caught:
            runpy.run_module(module_of(script), run_name="__main__", alter_sys=True)
        return caught.value.code, capsys.readouterr().err

    return run


def pictures(folder):
    return {path.name: path.stat().st_size for path in folder.glob("*.png")}


def final(text):
    """The lines of the printed table: those that begin with a density and hold accuracies."""
    return [line for line in text.splitlines() if "%" in line[:10] and " to " in line]


@pytest.fixture(scope="module")
def digits_npz(tmp_path_factory):
    """Half of scikit-learn's digits, each pixel three times as wide and high."""
    x, y = load_digits(return_X_y=True)
    x = (255 * x / 16).astype(np.uint8).reshape(-1, 8, 8)[:900].repeat(3, axis=1).repeat(3, axis=2)
    y = y[:900].astype(np.int32)
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x_train=x[:600], y_train=y[:600], x_test=x[600:], y_test=y[600:])
    return path


def test_all_scripts_of_chapter_3_are_there():
    assert {f"thesis_ch3/{name}.py" for name in CHAPTER_3} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_how_to_run_it_and_what_to_expect(script):
    source = (EXPERIMENTS / script).read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    lines = text.splitlines()
    for word in ("Command:", "Cost:", "Expected:"):
        assert [line for line in lines if line.startswith(word)], f"{script}: no line {word}"
    assert f"python -m {module_of(script)}" in text


MEASURED = {
    path.parent.relative_to(EXPERIMENTS / "results").as_posix(): json.loads(path.read_text("utf-8"))
    for path in sorted((EXPERIMENTS / "results").rglob("environment.json"))
}


@pytest.mark.parametrize("folder", MEASURED)
def test_the_cost_in_a_header_is_that_of_the_results(folder):
    """Minutes and processor; a folder whose name ends with a hash has other settings."""
    settings = json.loads((EXPERIMENTS / "results" / folder / "settings.json").read_text("utf-8"))
    name = f"{settings['script']}-{settings['preset']}-{settings['size']}"
    home, found = Path(folder).parent, Path(folder).name
    source = EXPERIMENTS / home / f"{settings['script']}.py"
    header = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    cost = " ".join(header.split("Cost:")[1].split("Expected:")[0].split())
    minutes = MEASURED[folder]["seconds"] / 60
    written = f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}"
    what = settings["preset"] if found == name else f"the settings of results/{folder}"
    measured = f"{written} minutes with {what}"
    assert measured in cost
    # the processor that is named next
    named = re.search("AMD|Intel", cost.partition(measured)[2])
    assert named and named.group() in MEASURED[folder]["cpu"]


COMMANDS = sorted(
    path.relative_to(EXPERIMENTS).as_posix()
    for path in EXPERIMENTS.rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", COMMANDS)
def test_every_script_starts(script, capsys, monkeypatch):
    """Found as `python -m` finds it, with all that it imports, and it names that command."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.delitem(sys.modules, module_of(script), raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module(module_of(script), run_name="__main__", alter_sys=True)
    assert caught.value.code in (0, None) and "usage: " in capsys.readouterr().out
    assert set(SCRIPTS) < set(COMMANDS)


SIZES = ("quick", "reduced", "paper")
SIZED = [s for s in SCRIPTS if "Sizes:" in (EXPERIMENTS / s).read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SIZED)
def test_the_sizes_in_a_header_are_those_of_the_script(script, monkeypatch):
    module = importlib.import_module(module_of(script))
    settings = typing.get_type_hints(module.main)["settings"]
    header = " ".join(module.__doc__.split())
    # a script whose network has no reduced size says so when asked for it
    known = SIZES if "[--size reduced|paper]" in header else SIZES[::2]
    asked = {}

    def prepare(_, given, **changes):
        changes = {name: changes.get(name) for name in (*SIZES, "lenet")}
        words = size_in_words(size_of(jt.preset(given.preset), given, **changes))
        asked[given.size] = (given.preset, words)
        raise StopIteration

    monkeypatch.setattr(module, "prepare", prepare)
    for size in SIZES:
        with pytest.raises(StopIteration if size in known else ValueError):
            module.main(settings(size=size))
    (preset,) = {preset for preset, _ in asked.values()}
    words = "; ".join(f"{size} {asked[size][1]}" for size in known)
    assert f"Sizes: {preset}: {words}." in header


def test_scripts_say_their_sizes():
    # one size, in its options; nothing to train
    assert set(SCRIPTS) - set(SIZED) == {
        "gallery.py",
        "own_networks/character_transformer.py",
        "own_networks/fast_cifar10.py",
        "own_networks/vision_transformer.py",
        "pod.py",
        "thesis_ch5/schedules.py",
        "winning_tickets.py",
    }


@pytest.mark.slow
def test_winning_tickets(tmp_path):
    folder = tmp_path / "run"
    options = ("--seeds", 2, "--levels", 2, "--steps", 20, "--eval-every", 10)
    done = run("winning_tickets.py", *options, "--folder", folder)

    table = pd.read_parquet(folder / "table.parquet")
    assert set(table["branch"]) == {"ticket", "reinit", "shuffle", "random"}
    assert set(table["level"]) == {0, 1, 2}
    assert len(pd.read_csv(folder / "table.csv")) == len(table)
    assert (folder / "timings.parquet").exists()
    assert (folder / "settings.json").exists()
    assert len(list((folder / "tickets").glob("*.safetensors"))) == 3 * 2
    sizes = pictures(folder / "figures")
    assert set(sizes) == {
        "accuracy.png",
        "accuracy_at_a_quarter.png",
        "training.png",
        "early_stop.png",
    }
    assert min(sizes.values()) > 10_000

    printed = final(done.stdout)
    assert [line.split()[0] for line in printed] == ["100.00%", "80.00%", "64.00%"]
    ends = table[(table["split"] == "test") & (table["metric"] == "accuracy")]
    dense = ends[(ends["branch"] == "ticket") & (ends["level"] == 0) & (ends["step"] == 20)]
    assert float(printed[0].split()[1]) == pytest.approx(100 * dense["value"].mean(), abs=0.051)
    assert "winning ticket" in done.stdout


@pytest.mark.slow
def test_one_shot_of_chapter_3_from_a_file(tmp_path, digits_npz):
    """Also: a budget that is over saves and ends with 75, and the same command finishes."""
    folder = tmp_path / "run"
    options = ("--data", digits_npz, "--data-note", "a note", "--share", 1.0, "--folder", folder)
    options += ("--seeds", 2, "--levels", 2, "--steps", 20, "--eval-every", 10)
    stopped = run("thesis_ch3/one_shot.py", *options, "--budget", 0.001, check=False)
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    assert "budget over; saved; run the same command to continue" in stopped.stdout
    assert not (folder / "figures").exists()

    done = run("thesis_ch3/one_shot.py", *options)
    ends = pd.read_csv(folder / "final.csv")
    assert set(ends["branch"]) == {"ticket", "one_shot"}
    assert set(ends["split"]) == {"train", "test"}
    both = ends[ends["level"] == 1].pivot(index="split", columns="branch", values="mean")
    # the first pruning is the same in both modes
    np.testing.assert_allclose(both["ticket"], both["one_shot"], atol=1e-6)
    sizes = pictures(folder / "figures")
    assert set(sizes) == {"figure_3-3.png"} and sizes["figure_3-3.png"] > 10_000
    assert [line.split()[0] for line in final(done.stdout)][:3] == ["100.00%", "64.00%", "40.96%"]
    assert "reported, 3.5%" in done.stdout and "98.2" in done.stdout
    assert "LeNet-300-100 on small, a note (lenet-mnist, quick size)" in done.stdout
    assert (folder / "one_shot" / "table.parquet").exists()


@pytest.mark.slow
def test_table_4_2_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--preset", "lenet-mnist", "--data", digits_npz, "--share", 1.0, "--folder", folder)
    options += ("--seeds", 2, "--levels", 1, "--steps", 20, "--rewind", 12_000)
    done = run("thesis_ch4/table_4_2.py", *options)
    found = pd.read_csv(folder / "table_4_2.csv")
    assert list(found["branch"]) == ["dense", "k=12000", "reinit", "shuffle", "ticket"]
    assert list(found["level"]) == [0, 1, 1, 1, 1]
    assert set(found["seeds"]) == {2}
    # half of the training is half of the shrunk one
    settings = json.loads((folder / "k-12000" / "settings.json").read_text(encoding="utf-8"))
    assert settings["pruning"]["rewind"] == 10
    assert "96.7" in done.stdout and "k=12000 at 64%" in done.stdout
    assert pictures(folder / "figures")["rewinding.png"] > 10_000


@pytest.mark.slow
def test_global_and_layerwise_from_a_file(tmp_path, digits_npz):
    options = ("--preset", "lenet-mnist", "--data", digits_npz, "--share", 1.0)
    options += ("--seeds", 1, "--levels", 2, "--steps", 20, "--fraction", 0.5)
    folder = tmp_path / "global"
    done = run("one_ticket/global_and_layerwise.py", *options, "--folder", folder)
    layers = pd.read_csv(folder / "layers.csv")
    first = layers[layers["level"] == 1].set_index("layer")
    assert list(first.index) == ["dense_0", "dense_1", "dense_2"]
    sizes = np.array([24 * 24 * 300, 300 * 100, 100 * 10])
    assert (first["density"] * sizes).sum() / sizes.sum() == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_allclose(first["ratio"], (1 - first["density"]) / 0.5, atol=1e-3)
    assert layers[layers["level"] == 0]["ratio"].isna().all()
    ends = pd.read_csv(folder / "final.csv")
    assert set(ends["branch"]) == {"ticket", "random", "layerwise_pruning"}
    assert "pruned share of each layer" in done.stdout
    assert set(pictures(folder / "figures")) == {"figure_1.png"}


@pytest.mark.slow
def test_transfer_from_a_file(tmp_path, digits_npz):
    options = ("--share", 1.0, "--seeds", 2, "--levels", 2, "--steps", 20, "--fraction", 0.5)
    options += ("--data", digits_npz, "--eval-every", 20)
    folder = tmp_path / "halves"
    done = run("one_ticket/data_sets.py", *options, "--folder", folder)
    names = ["mnista", "mnistb"]
    table = pd.read_csv(folder / "mnistb" / "matrix.csv")
    assert sorted(set(table["source"])) == sorted(set(table["target"])) == names
    assert len(table) == 2 * 2 * 3 and (table.query("source == target")["relative"] == 1).all()
    figures = pictures(folder / "mnistb" / "figures")
    assert set(figures) == {"figure_2.png", "matrix.png"}
    assert "on mnista: final test accuracy" in done.stdout and "from mnistb" in done.stdout
    # a half each, the same test images
    about = [json.loads((folder / n / "settings.json").read_text("utf-8"))["data"] for n in names]
    assert about[0]["fingerprint"] != about[1]["fingerprint"]

    folder = tmp_path / "optimizers"
    run("one_ticket/optimizers.py", *options, "--folder", folder)
    table = pd.read_csv(folder / "matrix.csv")
    assert list(dict.fromkeys(table["target"])) == ["SGD", "Adam"]
    assert set(pictures(folder / "figures")) == {"figure_5.png", "matrix.png"}
    assert json.loads((folder / "seconds-optimizers.json").read_text("utf-8"))["finished"]
    moved = json.loads((folder / "Adam" / "from_SGD" / "settings.json").read_text("utf-8"))
    assert moved["training"]["optimizer"] == "adam"
    assert moved["of"]["training"]["optimizer"] == "momentum"

    for wrong in (("--preset", "conv2-cifar10"), ("--network", "vgg")):
        done = run("one_ticket/data_sets.py", *wrong, "--folder", tmp_path / "no", check=False)
        assert done.returncode and "`network` must be one of" in done.stderr


@pytest.mark.slow
def test_random_masks_from_a_file(tmp_path, digits_npz):
    options = ("--preset", "lenet-mnist", "--data", digits_npz, "--share", 1.0)
    options += ("--seeds", 1, "--levels", 2, "--steps", 20, "--fraction", 0.5)
    folder = tmp_path / "masks"
    run("one_ticket/random_masks.py", *options, "--folder", folder)
    ends = pd.read_csv(folder / "final.csv")
    kinds = {"ticket", "preserved", "locally_permuted", "globally_permuted"}
    assert set(ends["branch"]) == kinds
    assert set(pictures(folder / "figures")) == {"figure_A1.png"}


@pytest.mark.slow
def test_dynamic_imp_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, "--seeds", 2, "--steps", 20)
    options += ("--methods", "ltr", "grown_at_random", "half_stays")
    folder = tmp_path / "two"
    done = run("thesis_ch6/dynamic_imp.py", *options, "--levels", 2, "--folder", folder)
    names = {"no_change", "dynamic_imp", "ltr", "grown_at_random", "half_stays"}
    ends = pd.read_csv(folder / "final.csv")
    assert set(ends["branch"]) == names | {"ticket"} and set(ends["level"]) == {0, 1, 2}
    assert set(ends.query("level == 0")["branch"]) == {"ticket"}
    gaps = pd.read_csv(folder / "gaps.csv")
    mean = ends.query("split == 'test'").set_index(["branch", "level"])["mean"]
    for row in gaps.to_dict("records"):
        own, theirs = (mean[name, row["level"]] for name in (row["branch"], "dynamic_imp"))
        assert row["difference"] == pytest.approx(100 * (own - theirs), abs=1e-3)
    assert set(gaps["branch"]) == names - {"dynamic_imp"}
    shared = pd.read_csv(folder / "overlap.csv").set_index(["branch", "level"])["mean"]
    assert shared["grown_at_random", 2] == shared["dynamic_imp", 2]
    assert shared["half_stays", 2] >= 0.5
    assert pictures(folder / "figures")["dynamic_imp.png"] > 10_000
    assert "beyond dynamic IMP, in points" in done.stdout and "half stays" in done.stdout
    folder = tmp_path / "one"
    run("thesis_ch6/dynamic_imp.py", *options, "--levels", 1, "--folder", folder)
    assert set(pd.read_csv(folder / "final.csv")["level"]) == {0, 1}
    assert pictures(folder / "figures")["dynamic_imp.png"] > 10_000


def test_what_was_computed_on_several_machines_is_published_so(tmp_path):
    (tmp_path / "branches").mkdir()
    one, other = {"jax": "1", "cpu": "a"}, {"jax": "1", "cpu": "b"}
    for folder, known in ((tmp_path, [one]), (tmp_path / "branches", [one])):
        (folder / "environment.json").write_text(json.dumps(known))
    assert report.mixture(tmp_path) == {}
    (tmp_path / "branches" / "environment.json").write_text(json.dumps([one, other]))
    assert report.mixture(tmp_path) == {"computed_in": [one, other]}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seconds": null}', '{"calls": 3}'])
def test_damaged_seconds_are_counted_from_here_on(tmp_path, content):
    (tmp_path / "settings.json").write_text("{}")
    path = tmp_path / "seconds-curves.json"
    path.write_text(content)
    with pytest.warns(UserWarning, match=r"seconds-curves\.json is damaged"):
        told = count_seconds(tmp_path, "curves")
    assert told["calls"] == 1 and json.loads(path.read_text())["calls"] == 1
    assert count_seconds(tmp_path, "curves", finished=True)["calls"] == 2
    assert count_seconds(tmp_path, "curves")["calls"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {"settings.json", "seconds-curves.json"}


def test_seconds_are_counted_where_runs_lie_elsewhere(tmp_path):
    """As in chapter 3, whose scripts share the folder of the tickets."""
    folder = tmp_path / "own"
    assert count_seconds(folder, "ablations")["calls"] == 1
    assert not folder.exists()
    assert count_seconds(folder, "ablations")["calls"] == 2
    # what is finished lies with its tables, so that it goes where these go
    assert count_seconds(folder, "ablations", finished=True)["calls"] == 3
    assert {p.name for p in tmp_path.iterdir()} == {"own"}
    assert count_seconds(folder, "ablations", finished=True)["calls"] == 3
    # a run that begins in its folder takes them along
    (tmp_path / "run").mkdir()
    assert count_seconds(tmp_path / "run", "curves")["calls"] == 1
    (tmp_path / "run" / "settings.json").write_text("{}", encoding="utf-8")
    assert count_seconds(tmp_path / "run", "curves")["calls"] == 2
    assert {p.name for p in tmp_path.iterdir()} == {"own", "run"}


@pytest.fixture
def small_color(tmp_path):
    """A few color images of CIFAR's size."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (60, 32, 32, 3), np.uint8)
    y = np.arange(60, dtype=np.int32) % 10
    path = tmp_path / "color.npz"
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return path


def test_pooled_images_keep_what_is_known_of_the_data():
    data = jt.data.load("digits")
    data = data.with_validation(0.1)
    small = pooled(data, 2)
    assert small.about["licence"] == data.about["licence"]
    assert small.about["source"] == data.about["source"]
    steps = small.about["steps"]
    assert steps[:-1] == data.about["steps"] and steps[-1] == {"step": "pooled", "pool": 2}


@pytest.mark.parametrize(
    ("name", "pixels"), [("lenet-mnist", 4), ("resnet20-cifar10", 2), ("lenet-mnist-kd_lts", 4)]
)
def test_pooled_images_move_less_where_they_move(small_color, name, pixels):
    job = prepare("a.py", Settings(preset=name, data=str(small_color), share=1.0, pool=2))
    assert job.training.augment_pixels == pixels
    assert bool(job.training.augment) == (pixels == 2)


def test_other_data_are_divided_as_the_presets_are(small_color):
    """KD-LTS chooses checkpoints by a validation split, whichever data are given."""
    for name, share in (("lenet-mnist", 0), ("lenet-mnist-kd_lts", 1 / 12)):
        job = prepare("a.py", Settings(preset=name, data=str(small_color), share=1.0))
        validation = job.data.splits.get("validation", ())
        assert len(validation) == round(40 * share)
        assert len(job.data.splits["train"]) == 40 - len(validation)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "a.npz", "among": ("mnist", "cifar10")}, "`data` 'a.npz' would take the place"),
        ({"data": "a.npz", "among": ("mnista", "mnist")}, "`data` 'a.npz' would take the place"),
        ({"data": "a.npz", "among": ("mnista", "cifar10b")}, "`data` 'a.npz' would take the place"),
        ({"network": "resnet50"}, "`size` 'quick'.*use --size paper"),
        ({"network": "vgg19", "among": ("imagenet", "mnist")}, "streamed.*use --size paper"),
        ({"network": "lenet", "among": ("imagenet", "mnist")}, "not for `network` lenet"),
    ],
)
def test_data_sets_refuses_what_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        data_sets.main(data_sets.Settings(**options))
    assert set(data_sets.USUAL) < set(data_sets.PAPER)


SETTINGS_OF_CHAPTER_3 = (
    "lenet-mnist",
    *(f"conv{depth}-cifar10" for depth in (4, 6, 8)),
    *(f"{name}-cifar10{v}" for name in ("resnet20", "vgg16") for v in ("", "-low", "-warmup")),
)


@pytest.mark.parametrize("name", SETTINGS_OF_CHAPTER_3)
def test_a_preset_is_shrunk_in_proportion(small_color, name):
    usual = jt.preset(name)
    settings = Settings(preset=name, data=str(small_color), share=1.0)
    job = prepare(str(EXPERIMENTS / "thesis_ch3" / "one_shot.py"), settings)
    assert (job.name, job.paper) == ("one_shot", "thesis_ch3")
    assert job.training.steps == job.size.steps < usual.training.steps
    for mine, whole in zip(job.training.milestones, usual.training.milestones, strict=True):
        assert mine / job.training.steps == pytest.approx(whole / usual.training.steps, abs=0.01)
    assert bool(job.training.warmup) == bool(usual.training.warmup)
    for field in ("optimizer", "lr", "momentum", "weight_decay", "augment"):
        assert getattr(job.training, field) == getattr(usual.training, field)
    if name != "lenet-mnist":
        assert job.about["network"]["width"] == job.size.width < 1
        assert job.about["network"]["shape"] == [32, 32, 3]
    whole = dataclasses.replace(settings, size="paper")
    job = prepare("thesis_ch3/one_shot.py", whole, paper={"seeds": 5})
    evaluations = ("eval_every", "eval_train_examples")
    assert job.training == usual.training.replace(
        **{field: getattr(job.training, field) for field in evaluations}
    )
    assert job.net.config == usual.net(job.data).config
    assert (job.size.seeds, job.size.share, job.size.width) == (5, 1.0, 1.0)
    assert job.size.levels >= usual.pruning.levels


@pytest.mark.parametrize("name", ["resnet20-cifar10", "vgg16-cifar10"])
def test_the_reduced_size_trains_a_small_network_in_few_epochs(name, small_color):
    data = str(small_color)
    job = prepare(__file__, Settings(preset=name, size="reduced", data=data))
    training, usual = job.training, jt.preset(name).training
    assert len(job.data.train) == 40 and job.data.shape == (16, 16, 3)
    assert job.about["network"]["width"] == job.size.width < 1
    assert 5 < training.steps * training.batch_size / 50_000 <= 6.1
    assert (training.schedule, training.milestones, training.nesterov) == ("linear", (), True)
    assert training.warmup == pytest.approx(training.steps / 5, abs=1)
    assert (training.augment, training.augment_pixels) == (("shift", "flip"), 1)
    assert training.lr > usual.lr
    # what the user asks for goes before
    own = prepare(__file__, Settings(preset=name, size="reduced", data=data, lr=0.01, steps=7))
    assert (own.training.lr, own.training.steps) == (0.01, 7)


def test_the_reduced_size_of_lenet_is_shorter_alone(digits_npz):
    settings = Settings(preset="lenet-mnist", size="reduced", data=str(digits_npz))
    job = prepare(__file__, settings, reduced={"levels": 2})
    assert (job.size.levels, job.size.share, job.size.width) == (2, 1.0, 1.0)
    usual = job.preset.training
    assert job.training.replace(eval_every=1, eval_train_examples=1) == usual.dilated(
        job.size.steps / usual.steps
    ).replace(steps=6_000, eval_every=1, eval_train_examples=1)


@pytest.mark.parametrize("name", [*report.TABLE_4_2, "resnet50-imagenet"])
@pytest.mark.parametrize("size", ["quick", "reduced", "paper"])
def test_controls_are_trained_where_accuracies_are_printed(name, size):
    preset, settings = jt.preset(name), _tickets.Settings(preset=name, size=size)
    try:
        found = size_of(preset, settings, **_tickets.sizes(settings))
    except ValueError as error:
        assert "is not known" in str(error) or "of its own" in str(error)
        return
    job = Job("a", "b", settings, preset, found, None, None, Path())
    level = report.compared_level(job)
    densities = (1.0, *job.densities)
    assert abs(math.log(densities[level] / preset.matching_density)) == min(
        abs(math.log(density / preset.matching_density)) for density in densities
    )
    controlled = _tickets.controlled(job, settings)
    assert level in controlled and set(controlled) <= set(range(1, found.levels + 1))
    if name == "resnet50-imagenet":
        assert (found.levels, found.seeds) == (1, preset.replicates)


def test_presets_without_a_reduced_size_are_refused():
    for variant in ("low", "warmup"):
        with pytest.raises(ValueError, match="has a schedule of its own"):
            prepare(__file__, Settings(preset=f"resnet20-cifar10-{variant}", size="reduced"))
    with pytest.raises(ValueError, match=r"`size`='reduced' is not known.*use --size paper"):
        prepare(__file__, Settings(preset="conv4-cifar10", size="reduced"))


def test_other_sizes_have_other_folders(small_color):
    settings = Settings(preset="conv4-cifar10", data=str(small_color), share=1.0)
    folders = {
        prepare("one_shot.py", dataclasses.replace(settings, **change)).folder
        for change in (
            *({}, {"width": 0.5}, {"steps": 7}, {"batch_size": 7}, {"test_examples": 7}),
            *({"compute_dtype": "bfloat16"}, {"precision": "default"}, {"lr": 0.5}),
        )
    }
    assert len(folders) == 8
    fast = dataclasses.replace(settings, lr=0.5)
    assert prepare("one_shot.py", fast).training.lr == 0.5
    few = prepare("one_shot.py", dataclasses.replace(settings, test_examples=7))
    assert len(few.data.test) == 7
    assert (few.data.test.x == prepare("a.py", settings).data.test.x[:7]).all()
    # a note says what the data are, it changes nothing
    noted = dataclasses.replace(settings, data_note="JPEG re-encoded")
    job = prepare("one_shot.py", noted)
    assert job.folder in folders
    assert job.data_name.endswith(", JPEG re-encoded")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "conv5-cifar10"}, "`name` is not a preset: 'conv5-cifar10'"),
        ({"preset": "resnet50-imagenet"}, "`size`='quick' is not known"),
        (
            {"preset": "resnet50-imagenet", "size": "paper", "share": 0.5},
            "`share` must be left out where images are streamed",
        ),
        ({"preset": "resnet50-cifar10-one_ticket"}, "`size`='quick' is not known"),
        ({"budget": 0.0}, "`budget` must be above 0 minutes, got 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        prepare("one_shot.py", Settings(**change))


def test_streamed_images_come_whole(tmp_path):
    for i in range(40):
        place = tmp_path / ("train" if i < 30 else "test") / f"class {i % 3}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        imsave(place, np.random.default_rng(i).random((9, 8, 3)))
    settings = Settings(preset="resnet50-imagenet", size="paper", data=str(tmp_path))
    job = prepare("a.py", settings, held_out=0.2)
    assert isinstance(job.data, jt.data.Stream)
    assert {name: len(split) for name, split in job.data.splits.items()} == {
        "train": 24, "validation": 6, "test": 10,
    }  # fmt: skip
    assert (job.data.shape, job.net.classes) == ((224, 224, 3), 3)
    assert job.training.steps == jt.preset("resnet50-imagenet").training.steps
    assert job.about["fingerprint"] == job.data.fingerprint


def test_two_optimizers_have_their_own_rates(refused):
    code, said = refused("one_ticket/optimizers.py", "--lr", 0.5)
    assert code == 2
    assert "error: `lr` must be left out: each optimizer has its own, got 0.5" in said


def test_wrong_options_are_said_without_a_traceback(capsys, monkeypatch):
    """Others, which no option is to blame for, keep theirs."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    for error in (ValueError("`lr` must be above 0, got -1"), jt.data.MissingDataError("no mnist")):

        def main(_, error=error):
            raise error

        with pytest.raises(SystemExit) as caught:
            launch(main, Settings, "What it does.")
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"error: {error}\n"

    def broken(_):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="operands"):
        launch(broken, Settings)


@pytest.mark.parametrize("name", ["seeds", "batch_size", "test_examples", "pool"])
def test_sizes_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got -5"):
        prepare("one_shot.py", Settings(**{name: -5}))


def test_early_stopping_refuses_a_schedule(small_color):
    """As a user sees it: a line and an exit code, no traceback."""
    options = ("--preset", "vgg16-cifar10", "--data", small_color, "--share", 1.0)
    done = run("thesis_ch3/early_stopping.py", *options, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: `preset` 'vgg16-cifar10' has a schedule" in done.stderr


def test_numbers_of_the_thesis_belong_to_presets():
    assert set(report.TABLE_4_2) <= set(jt.PRESETS)
    for name, alongside in report.TABLE_4_2.items():
        numbers = report.reported(jt.preset(name))
        assert numbers["dense"] == pytest.approx(100 * jt.preset(name).dense_accuracy)
        assert {**numbers, **alongside} == numbers
        # tickets from step 0 that are matching are those of the settings that say so
        matching = alongside["ticket"] >= numbers["dense"] - 0.25
        assert matching == (jt.preset(name).matching_rewind == 0)
    assert report.reported(jt.preset("conv4-cifar10")) == {}


@pytest.mark.slow
def test_chapter_4_from_a_file(tmp_path, digits_npz):
    """Also: pooled images, and the same command finishes what a budget cut off."""
    options = ("--preset", "lenet-mnist", "--data", digits_npz, "--share", 1.0, "--pool", 2)
    options += ("--seeds", 2, "--steps", 20, "--eval-every", 10, "--at", 0, 10, "--points", 5)
    folder = tmp_path / "dense"
    stopped = run(
        "thesis_ch4/dense.py", *options, "--folder", folder, "--budget", 0.001, check=False
    )
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    done = run("thesis_ch4/dense.py", *options, "--folder", folder)
    net = json.dumps(json.loads((folder / "settings.json").read_text())["net"])
    assert net.count("[12, 12, 1]") == 1
    rows = pd.read_csv(folder / "verdicts.csv")
    assert rows["at"].tolist() == [0, 10] and (rows["samples"] == 2 * 3).all()
    assert "first stable step, dense" in done.stdout
    names = {"2", "3", "4", "5", "6"}
    assert {f"figure_4-{n}.png" for n in names} <= set(pictures(folder / "figures"))

    folder = tmp_path / "tickets"
    options += ("--levels", 2, "--fraction", 0.5)
    done = run("thesis_ch4/tickets.py", *options, "--folder", folder)
    rows = pd.read_csv(folder / "verdicts.csv")
    # copies with new weights start at step k, as in the thesis
    assert set(rows["branch"]) == {"ticket", "shuffle", "reinit_at_k"}
    assert set(rows["level"]) == {0, 1, 2}
    assert len(pd.read_csv(folder / "ranges.csv")) == 2
    assert "ranges of density" in done.stdout
    sizes = pictures(folder / "figures")
    assert {"figure_4-13.png", "figure_4-18.png", "heat_map.png", "figure_4-33.png"} <= set(sizes)
    assert min(sizes.values()) > 10_000


@pytest.mark.slow
def test_the_figure_of_schedules_needs_no_training(tmp_path):
    """Also: densities that were measured, and a preset of which none are known."""
    folder = tmp_path / "reported"
    done = run("thesis_ch5/schedules.py", "--preset", "vgg16-cifar10", "--folder", folder)
    rows = pd.read_csv(folder / "schedules.csv").set_index("branch")
    assert rows.loc["ticket"].tolist() == [1000, 0.015]
    assert rows.loc["magnitude_after_training"].tolist() == [63000, 0.069]
    assert rows.loc["snip", "step"] == 0 and "as reported in the thesis" in done.stdout
    assert pictures(folder)["figure_5-1.png"] > 10_000

    final = tmp_path / "final.csv"
    means = {"ticket": [0.9], "snip": [0.895, 0.88, 0.9], "random": [0.5, 0.9, 0.9]}
    pd.DataFrame(
        [
            {"branch": name, "level": level, "density": 0.5**level, "mean": mean, "split": "test"}
            for name, values in means.items()
            for level, mean in enumerate(values, start=name != "ticket")
        ]
    ).to_csv(final, index=False)
    run("thesis_ch5/schedules.py", "--final", final, "--folder", tmp_path / "measured")
    rows = pd.read_csv(tmp_path / "measured" / "schedules.csv")
    # what comes after a density that was too low does not count
    assert rows[["branch", "step", "density"]].to_numpy().tolist() == [["snip", 0, 0.5]]
    done = run("thesis_ch5/schedules.py", "--preset", "conv4-cifar10", check=False)
    assert done.returncode and "`preset` 'conv4-cifar10' has no reported densities" in done.stderr


def tidy(values, level=1):
    """Final accuracies by branch, as a table of runs."""
    return pd.DataFrame(
        [
            {
                "seed": seed,
                "level": level if branch != "dense" else 0,
                "density": 0.5 if branch != "dense" else 1.0,
                "branch": branch if branch != "dense" else "ticket",
                "step": 10,
                "split": "test",
                "metric": "accuracy",
                "value": value,
            }
            for branch, own in values.items()
            for seed, value in enumerate(own)
        ]
    )


def test_a_control_is_passed_by_a_clear_gap():
    # by hand: gaps of 2, 0.4 and 2 points; pooled deviations of 0.1, 0 and 2 points
    table = tidy(
        {
            "dense": [0.9, 0.9],
            "snip": [0.800, 0.800],
            "snip_shuffle": [0.781, 0.779],
            "snip_reinit": [0.796, 0.796],
            "snip_inverted": [0.80, 0.76],
            "erk": [0.7, float("nan")],
            "erk_shuffle": [0.5, 0.5],
        }
    )
    rows = report.differences(table).set_index(["method", "control"])
    assert list(rows.index) == [
        *(("snip", name) for name in ("shuffle", "reinit", "inverted")),
        ("erk", "shuffle"),
    ]
    assert rows["difference"].iloc[:3].tolist() == pytest.approx([-2.0, -0.4, -2.0])
    assert rows["std"].iloc[:3].tolist() == pytest.approx([0.1, 0.0, 2.0], abs=1e-6)
    assert rows["passes"].tolist() == [True, False, False, None]
    assert report.in_words(rows.iloc[0]) == "-2.0 +- 0.1 *"
    assert report.in_words(rows.iloc[3]) == "-20.0 (1 of 4 diverged)"
    # without a spread nothing is judged
    rows = report.differences(table[table["seed"] == 0])
    assert rows["passes"].isna().all()
    named = report.named(tidy({"dense": [0.9], "ticket": [0.8], "shuffle": [0.7]}), "grasp")
    assert named["branch"].tolist() == ["ticket", "grasp", "grasp_shuffle"]
    panel = report.in_one_panel(table, "snip")
    assert set(panel["branch"]) == {"ticket", "unmodified", "shuffle", "reinit", "inverted"}
    assert report.base("magnitude_after_training") == ("magnitude_after_training", "")
    assert report.order(["erk_reinit", "snip", "erk", "erk_shuffle"]) == [
        *("erk", "erk_shuffle", "erk_reinit", "snip")
    ]


def test_methods_of_chapter_5_are_those_of_the_thesis():
    """SNIP and SNIP in rounds score in one BatchNorm mode, magnitude has its line of variance 1."""
    asked, modes = {}, {}

    class Job:
        """Writes down what it is asked to prune by, under the name of the folder."""

        def prune_at(self, score, *, sub, **_):
            asked[sub] = score

    for mode in ("eval", "train"):
        for name in ("snip", "iterative_snip", "iterative_snip_inverted", "force"):
            scored.run(Job(), name, batch_norm=mode)
            modes[name, mode] = jt.scores.recipe_of(asked[name]).batch_norm
    assert all(found == mode for (_, mode), found in modes.items()), modes
    assert jt.scores.recipe_of(asked["iterative_snip"]).rounds == 100
    # others are asked as they are
    scored.run(Job(), "grasp", batch_norm="eval")
    assert asked["grasp"] == "grasp"
    usual = ablations.SnipSettings()
    assert usual.batch_norm == "eval" and "standardized_magnitude" in ablations.METHODS
    table = tidy({"dense": [0.9], "magnitude": [0.8], "standardized_magnitude": [0.7]})
    panel = report.in_one_panel(table, "magnitude", ["standardized_magnitude"])
    assert list(panel["branch"]) == ["ticket", "unmodified", "standardized_magnitude"]
    assert by_step.Settings().ltr_schedule == "full"


SMALL_RUN = ("--share", 1.0, "--steps", 10, "--seeds", 2, "--levels", 2, "--fraction", 0.7)


def test_chapter_5_refuses_what_it_does_not_know(refused, small_color):
    code, said = refused("thesis_ch5/replication.py", "--preset", "lenet-mnist")
    assert code and "`preset` must be one of vgg16-cifar10-snip" in said
    code, said = refused("thesis_ch5/ablations.py", "--methods", "snap", "--data", small_color)
    assert code and "`methods` must be some of" in said and "snap" in said


@pytest.mark.slow
def test_chapter_5_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, *SMALL_RUN)
    folder = tmp_path / "init"
    methods = ("--methods", "magnitude_after_training", "random", "snip", "synflow")
    done = run("thesis_ch5/at_initialization.py", *options, *methods, "--folder", folder)
    ends = pd.read_csv(folder / "final.csv")
    names = {"ticket", "magnitude_after_training", "random", "snip", "synflow", "synflow_shuffle"}
    assert set(ends["branch"]) == names
    assert set(ends[ends["branch"] == "ticket"]["level"]) == {0}
    layers = pd.read_csv(folder / "layers.csv")
    kept = layers.groupby(["branch", "seed"])["kept"].sum()
    # nearest to 3.5%, the shuffled mask keeps as many in each layer
    assert set(kept) == {round(0.09 * (24 * 24 * 300 + 300 * 100 + 100 * 10))}
    each = layers.pivot_table(index=["seed", "layer"], columns="branch", values="kept")
    assert (each["synflow"] == each["synflow_shuffle"]).all()
    units = pd.read_csv(folder / "units.csv")
    dead = units[units["threshold"] == 0].groupby("branch")["share"].mean()
    assert dead["synflow"] > max(dead["synflow_shuffle"], dead["random"])
    figures = {"figure_5-4.png", "figure_5-6.png", "figure_5-11.png"}
    assert figures <= set(pictures(folder / "figures"))
    assert "units without any weight at 9% of weights" in done.stdout

    folder = tmp_path / "ablations"
    methods = ("--methods", "magnitude", "snip")
    variance_1 = "standardized_magnitude"
    run("thesis_ch5/ablations.py", *options, *methods, variance_1, "--folder", folder)
    found = pd.read_csv(folder / "controls.csv")
    # magnitude with variance 1 is drawn alongside magnitude and has no controls
    assert len(found) == 2 * 3 * 2 and set(found["level"]) == {1, 2}
    assert variance_1 in set(pd.read_csv(folder / "final.csv")["branch"])
    assert set(pictures(folder / "figures")) == {"figure_5-5.png"}

    folder = tmp_path / "steps"
    run("thesis_ch5/by_step.py", *options[:-4], "--at", 0, 10, *methods, "--folder", folder)
    rows = pd.read_csv(folder / "steps.csv")
    assert set(rows[rows["branch"] == "snip_reinit"]["pruned_at"]) == {0, 10}
    # at the end there is nothing left to rewind to
    assert set(rows[rows["branch"] == "LTR"]["pruned_at"]) == {0}
    settings = json.loads((folder / "ltr-0" / "settings.json").read_text(encoding="utf-8"))
    assert settings["pruning"]["schedule"] == "full"
    assert set(pictures(folder / "figures")) == {"figure_5-12.png", "figure_5-14.png"}


@pytest.mark.slow
def test_variants_and_the_leaderboard_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, *SMALL_RUN)
    folder = tmp_path / "variants"
    methods = ("--methods", "snip", "force", "grasp", "grasp_inverted")
    run("thesis_ch5/variants.py", *options, *methods, "--folder", folder)
    assert set(pictures(folder / "figures")) == {"figure_5-7.png", "figure_5-9.png"}

    folder = tmp_path / "after"
    run("thesis_ch5/after_training.py", *options, "--methods", "magnitude", "--folder", folder)
    assert set(pictures(folder / "figures")) == {"figure_5-13.png"}

    folder = tmp_path / "leaderboard"
    names = ("ticket", "rewound_ticket", "magnitude_after_training", "snip", "erk")
    done = run("leaderboard.py", *options, "--methods", *names, "--folder", folder)
    costs = pd.read_csv(folder / "costs.csv").groupby("branch")["cost"].mean()
    assert costs["erk"] == 0 < costs["snip"] < costs["magnitude_after_training"]
    assert costs["magnitude_after_training"] == pytest.approx(1, abs=0.01)
    assert costs["ticket"] == pytest.approx(2, abs=0.01)
    found = pd.read_csv(folder / "controls.csv")
    assert set(found["method"]) == set(names) - {"erk"} and set(found["level"]) == {2}
    assert len(found[found["method"] == "snip"]) == 3
    assert len(found[found["method"] == "ticket"]) == 2
    page = pd.read_csv(folder / "overview.csv").set_index("method")
    assert set(page.index) == set(names)
    measured = page[["accuracy", "ece", "eigenvalue", "barrier"]]
    assert np.isfinite(measured).all(axis=None) and (page["eigenvalue"] > 0).all()
    final = pd.read_csv(folder / "final.csv").query("level == 2 and split == 'test'")
    final = final.set_index("branch").loc[list(names), "mean"]
    assert page["accuracy"].loc[list(names)].tolist() == pytest.approx(final.tolist(), abs=1e-4)
    drawn = {"accuracy.png", "controls.png", "cost.png", "overview.png"}
    assert set(pictures(folder / "figures")) == drawn
    assert "the method passes" in done.stdout


@pytest.mark.slow
def test_learned_masks_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, *SMALL_RUN)
    folder = tmp_path / "accuracy"
    names = ("cts_kl", "ltr", "snip")
    done = run("concrete/accuracy.py", *options, "--methods", *names, "--folder", folder)
    assert set(pd.read_csv(folder / "final.csv")["branch"]) == {"ticket", *names}
    times = pd.read_csv(folder / "times.csv")
    assert set(times["branch"]) == set(names) and (times["cost"] > 0).all()
    assert set(pictures(folder / "figures")) == {"figure_2.png", "time.png"}
    assert "of LTR" in done.stdout

    folder = tmp_path / "sanity"
    run("concrete/sanity.py", *options, "--methods", "cts_loss", "--folder", folder)
    found = pd.read_csv(folder / "controls.csv")
    assert set(found["control"]) == {"shuffle", "reinit", "inverted"} and len(found) == 6
    assert set(pictures(folder / "figures")) == {"figure_4.png"}

    folder = tmp_path / "objectives"
    names = ("cts_kl", "cts_gradient_norm")
    run("concrete/objectives.py", *options, "--methods", *names, "--folder", folder)
    assert set(pictures(folder / "figures")) == {"figure_3.png"}


@pytest.mark.slow
def test_saliency_balance_and_supermasks_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, *SMALL_RUN)
    folder = tmp_path / "saliency"
    names = ("snip", "ltr", "random", "cts")
    run("concrete/saliency.py", *options, "--methods", *names, "--folder", folder)
    values = pd.read_csv(folder / "values.csv")
    dense = values[values["level"] == 0].groupby("objective")["value"].mean().abs()
    assert dense["change_of_loss"] < 1e-5 and dense["gradient_norm"] > 0.01
    assert set(values["method"]) == set(names)
    assert set(pictures(folder / "figures")) == {"figure_1.png"}

    folder = tmp_path / "balance"
    run("concrete/balance.py", *options, "--levels", 1, "--folder", folder)
    assert len(pd.read_csv(folder / "balance.csv")) == 9
    assert set(pictures(folder / "figures")) == {"balance.png"}

    folder = tmp_path / "supermasks"
    names = ("edge_popup", "ticket", "smart_ratio")
    run("supermasks/accuracy.py", *options, "--methods", *names, "--folder", folder)
    found = pd.read_csv(folder / "supermasks.csv").groupby(["branch", "level"])["value"]
    assert set(found.mean().index.get_level_values(0)) == set(names)
    assert (found.count() == 2).all()
    assert set(pictures(folder / "figures")) == {"figure_22.png"}


KD_RUN = ("--share", 1.0, "--steps", 16, "--seeds", 2, "--levels", 2, "--fraction", 0.6)


def test_the_table_of_winning_tickets_of_kd_lts():
    # by hand: 79% counts, 90% does not; what is sparsest and matches need not be best
    rows = pd.DataFrame(
        [("kd_lts", 0.5, 0.95, True), ("kd_lts", 0.2, 0.94, True), ("kd_lts", 0.1, 0.9, False),
         ("snip", 0.9, 0.95, True), ("snip", 0.79, 0.91, False), ("snip", 0.2, np.nan, False)],
        columns=["branch", "density", "mean", "matching"],
    )  # fmt: skip
    spent = {"kd_lts": 60.0, "snip": 1.0, "ltr": 120.0}
    costs = pd.DataFrame(
        [{"branch": name, "level": 2, "epochs": n, "seconds": n} for name, n in spent.items()]
    )
    job = types.SimpleNamespace(densities=(0.5, 0.2))
    alongside = accuracy.AT_START["lenet"]
    found = accuracy.table_of(job, rows, costs, 2, alongside).set_index("method")
    own = found.loc["kd_lts"]
    assert own[["sparsest_accuracy", "sparsest_density"]].tolist() == pytest.approx([94, 20])
    assert own[["best_accuracy", "best_density"]].tolist() == pytest.approx([95, 50])
    assert own["paper_sparsest_density"] == 20 and own["share_of_ltr"] == 0.5
    assert np.isnan(found.loc["snip", "sparsest_accuracy"])
    assert found.loc["snip", ["best_accuracy", "best_density"]].tolist() == [91, 79]
    # what presets say is in the tables too
    for network, data in (("lenet", "mnist"), ("resnet20", "cifar10"), ("vgg16", "cifar10")):
        preset = jt.preset(f"{network}-{data}-kd_lts")
        printed = accuracy.AT_START[network]["kd_lts"][0]
        reported = (100 * preset.dense_accuracy, 100 * preset.matching_density)
        assert tuple(printed) == pytest.approx(reported)


@pytest.mark.slow
def test_layers_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN[:-2], "--methods", "ltr", "snip", "random")
    done = run("kd_lts/layers.py", *options, "--folder", folder)
    layers = pd.read_csv(folder / "layers.csv")
    size = 24 * 24 * 300 + 300 * 100 + 100 * 10
    assert set(layers.groupby(["branch", "seed"])["kept"].sum()) == {round(0.2 * size)}
    assert "20% of the weights" in done.stdout
    assert set(pictures(folder / "figures")) == {"figure_28.png"}


def test_settings_of_learned_masks_beside_rewinding():
    """Searches are as long as asked but where lengths are compared, starts are steps, and LeNet
    with BatchNorm has the layers of LeNet.
    """
    for group in set(against_rewinding.GROUPS) - {"ltr", "kd_lts", "length"}:
        for length in (None, "half"):
            found = against_rewinding.variants(None, group, 60, length).values()
            assert found and {variant.steps for variant in found} == {length}
    found = against_rewinding.variants(None, "length", 60, "half").values()
    assert {variant.steps for variant in found} == {"short", "half", "long", 3.0}
    found = against_rewinding.variants(None, "start", 60, None)
    assert {name: v.start for name, v in found.items()} == {
        f"step {at}": at for at in (0, 20, 60, 180)
    }
    net = jt.from_linen(against_rewinding.BatchNormed((8, 4), 3), (5, 5, 1), name="small")
    params, stats = net.init(jax.random.key(0))
    kernels = {name: x["kernel"].shape for name, x in params.items() if "kernel" in x}
    assert kernels == {"dense_0": (25, 8), "dense_1": (8, 4), "dense_2": (4, 3)}
    assert set(stats["batch_stats"]) == {"norm_0", "norm_1"} and net.output == "dense_2"
    ticket = jt.Ticket(jax.tree.map(lambda x: x != 0, params), params, stats, 1, 0)
    bare = against_rewinding.without_the_factor(ticket, None, net=net).params
    np.testing.assert_array_equal(2 * bare["dense_1"]["kernel"], params["dense_1"]["kernel"])
    np.testing.assert_array_equal(bare["norm_0"]["scale"], params["norm_0"]["scale"])


@pytest.mark.slow
def test_learned_masks_beside_rewound_tickets_from_a_file(tmp_path, digits_npz):
    """Also: a call that was stopped resumes, and settings in two groups run once."""
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--at", 1, 2, "--only", "ltr", "cts", "target")
    options = (*options, "kd_lts", "--folder", folder)
    stopped = run("kd_lts/against_rewinding.py", *options, "--budget", 0.001, check=False)
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    done = run("kd_lts/against_rewinding.py", *options)
    table = pd.read_csv(folder / "settings.csv")
    assert set(table["group"]) == {"ltr", "cts", "target", "kd_lts"} and set(table["at"]) == {1, 2}
    assert (table["count"] == 2).all() and (table["seconds"] > 0).all()
    assert table["before"].between(0, 1).all() and table["units"].between(0.1, 1).all()
    means = table.set_index(["group", "setting", "at"])["mean"].sort_index()
    twice = means["cts", "reverse KL"], means["target", "dense at the start"]
    np.testing.assert_array_equal(*twice)
    assert not (folder / "target_dense_at_the_start").exists()
    assert not (folder / "kd_lts_without_the_factor").exists()
    bare = means["kd_lts", "without the factor"] != means["kd_lts", "KD-LTS"]
    assert bare.any()
    assert "ltr: LTR" in done.stdout and "kd_lts: without the factor" in done.stdout
    assert set(pictures(folder / "figures")) == {"settings.png"}


@pytest.mark.slow
def test_accuracy_of_kd_lts_from_a_file(tmp_path, digits_npz):
    """Also: both starts share a folder, and the tickets at initialization."""
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--eval-every", 8, "--folder", folder)
    done = run("kd_lts/accuracy.py", *options, "--methods", "kd_lts", "ltr", "snip")
    table = pd.read_csv(folder / "table_2.csv").set_index("method")
    assert list(table.index) == ["kd_lts", "ltr", "snip"]
    # two teachers for a quarter of the training and one search, alongside two levels
    assert table.loc["kd_lts", "share_of_ltr"] == pytest.approx((16 + 2 * 4) / 32)
    assert set(pd.read_csv(folder / "final.csv")["branch"]) == {"ticket", *table.index}
    figures = {"figure_3.png", "cost.png", "figure_6.png"}
    assert set(pictures(folder / "figures")) == figures
    assert "98.00 at 20%" in done.stdout
    training = pd.read_csv(folder / "training.csv").set_index(["branch", "level"])
    assert set(training.index) == {
        ("ticket", 0),
        *((name, n) for name in table.index for n in (1, 2)),
    }
    assert {"last", "gap", "factor", "factor_low", "factor_high"} <= set(training)
    # the best checkpoint is one of those that were evaluated
    assert training["best"].between(0, 1).all() and training.loc[("ticket", 0), "factor"] >= 1

    late = ("--start", "late", "--methods", "kd_lts", "continuous", "kd_lts_at_init")
    run("kd_lts/accuracy.py", *options, *late)
    ends = pd.read_csv(folder / "final.csv")
    assert set(ends["branch"]) == {"ticket", "kd_lts", "continuous", "kd_lts_at_init"}
    settings = json.loads((folder / "late_kd_lts" / "settings.json").read_text(encoding="utf-8"))
    # 3 of 40 epochs
    assert settings["pruning"]["step"] == 1
    assert {"figure_2.png", "figure_5.png"} <= set(pictures(folder / "figures"))
    assert (folder / "table_3.csv").exists()


@pytest.mark.slow
def test_ablations_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--levels", 1, "--batch-size", 60)
    options += ("--only", "data", "scheme")
    run("kd_lts/ablations.py", *options, "--folder", folder)
    rows = pd.read_csv(folder / "ablations.csv")
    by = rows.groupby(["group", "variant"])["value"].apply(list)
    assert by.index.tolist() == [
        *(("data", f"{share}%") for share in (100, 30, 50, 70)),
        *(("scheme", name) for name in ("offline", "online")),
    ]
    # the same search is made once
    assert by["data", "100%"] == by["scheme", "offline"] and len(by["data", "30%"]) == 2
    own = [path.name for path in folder.iterdir() if (path / "units").is_dir()]
    assert {"data_30", "data_100", "scheme_online"} <= set(own) and "scheme_offline" not in own
    assert set(pictures(folder / "figures")) == {"figure_15.png"}


@pytest.mark.slow
def test_stability_and_masks_of_kd_lts_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, *KD_RUN)
    folder = tmp_path / "stability"
    run("kd_lts/stability.py", *options, "--points", 3, "--folder", folder)
    rows = pd.read_csv(folder / "barriers.csv")
    assert set(rows["branch"]) == {"ticket", "kd_lts", "ltr", "random"} and len(rows) == 7
    assert set(pictures(folder / "figures")) == {"figure_10.png"}

    folder = tmp_path / "hamming"
    run("kd_lts/hamming.py", *options[:-4], "--steps", 40, "--folder", folder)
    rows = pd.read_csv(folder / "hamming.csv")
    assert rows.groupby("branch")["epoch"].max().to_dict() == {
        "kd_lts": 40,
        "kd_lts_normalized": 40,
    }
    assert rows["hamming"].between(0, 0.4).all()
    # scores begin alike: the first mask is random
    first = rows[rows["epoch"] == 1]["hamming"]
    assert first.min() > rows[rows["epoch"] == 20]["hamming"].max()
    assert set(pictures(folder / "figures")) == {"figure_4.png"}


@pytest.mark.slow
def test_transfer_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    done = run("kd_lts/transfer.py", "--data", digits_npz, *KD_RUN, "--folder", folder)
    gaps = pd.read_csv(folder / "gaps.csv")
    assert list(dict.fromkeys(gaps["kind"])) == ["data", "optimizer"] and len(gaps) == 4
    assert gaps["gap"].notna().all()
    moved = json.loads((folder / "kd_lts_optimizer" / "settings.json").read_text("utf-8"))
    assert moved["training"]["optimizer"] == "adam"
    assert "(the paper: no such)" in done.stdout and "(the paper: 0.7)" in done.stdout
    assert set(pictures(folder / "figures")) == {"figure_21.png"}


@pytest.mark.slow
def test_attacks_on_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = (
        "--data",
        digits_npz,
        *KD_RUN,
        "--levels",
        1,
        "--attack-steps",
        4,
        "--folder",
        folder,
    )
    radii = ("--radii", 0.01, 0.1)
    done = run("kd_lts/adversarial.py", *options, *radii)
    rows = pd.read_csv(folder / "adversarial.csv")
    assert set(rows["branch"]) == {"dense", "kd_lts", "kd_lts_robust", "random"}
    taught = [kind for kind in rows["kind"].unique() if kind.startswith("teacher")]
    assert taught == ["teacher 0", "teacher 1"]
    # trained: 4, supermasks: 2, two teachers of 2; two seeds; clean and two radii
    assert len(rows) == (4 + 2 + 2 * 2) * 2 * 3
    by = rows.set_index(["branch", "kind", "seed", "radius"])["accuracy"].unstack("radius")
    assert (by[0.0] >= by[0.01]).all() and (by[0.01] >= by[0.1]).all()
    # as evaluations have it
    table = pd.read_csv(folder / "kd_lts_robust" / "table.csv")
    last = table[(table["split"] == "test") & (table["metric"] == "accuracy") & (table.level == 1)]
    for kind, branch in (("trained", "ticket"), ("supermask", "supermask")):
        own = last[last["branch"] == branch]
        own = own[own["step"] == own["step"].max()].set_index("seed")["value"]
        found = by.loc[("kd_lts_robust", kind), 0.0]
        np.testing.assert_allclose(found.loc[own.index], own, rtol=1e-6)
    settings = json.loads((folder / "kd_lts_robust" / "settings.json").read_text(encoding="utf-8"))
    assert settings["pruning"]["method"]["teaching"]["attack"]["radius"] == 0.1
    assert "check for masked gradients: " in done.stdout
    assert set(pictures(folder / "figures")) == {"figure_13.png", "radii.png"}

    # networks of the same folder are found there
    done = run("kd_lts/attacks.py", *options, *radii, "--methods", "kd_lts", "random")
    other = pd.read_csv(folder / "attacks.csv")
    trained = rows[(rows["kind"] == "trained") & (rows["branch"] != "kd_lts_robust")]
    pd.testing.assert_frame_equal(
        other.sort_values(list(other.columns), ignore_index=True),
        trained[other.columns].sort_values(list(other.columns), ignore_index=True),
    )
    assert "KD-LTS against global random" in done.stdout
    assert set(pd.read_csv(folder / "claims.csv")["branch"]) == {"random"}
    assert "figure_20.png" in pictures(folder / "figures")

    run("kd_lts/attacked_digits.py", *options, "--radius", 0.2)
    found = pd.read_csv(folder / "attacked_digits.csv")
    assert set(found["branch"]) == {"dense", "kd_lts", "random"}
    success = found[found["metric"] == "success"].groupby("radius")["value"].mean()
    assert success.index.tolist() == [0.05, 0.1, 0.2] and success.is_monotonic_increasing
    assert "figure_17.png" in pictures(folder / "figures")


@pytest.mark.slow
def test_explanations_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--levels", 1, "--samples", 50, "--examples", 20)
    methods = ("--methods", "kd_lts", "snip", "dense")
    done = run("kd_lts/explanations.py", *options, *methods, "--folder", folder)
    rows = pd.read_csv(folder / "explanations.csv")
    assert set(rows["branch"]) == {"kd_lts", "snip", "dense"} and len(rows) == 3 * 2 * 3
    assert (rows["value"] > 0).all()
    claims = pd.read_csv(folder / "claims.csv")
    assert set(claims["branch"]) == {"snip"} and len(claims) == 3
    assert "fidelity at level 1, KD-LTS against SNIP: " in done.stdout
    names = {"figure_18.png", "figure_24.png", "figure_25.png"}
    assert set(pictures(folder / "figures")) == names


def test_claims_about_distribution_shifts_are_of_means_over_densities(capsys):
    values = {"kd_lts": 0.9, "snip": 1.0, "random": 1.2, "ltr_late": 0.95, "dense": 1.0}
    rows = [
        (seed, level, 0.5, name, "mce", 0, value + 0.01 * seed + 0.1 * level * (name != "dense"))
        for name, value in values.items()
        for level in (1, 2)
        for seed in (0, 1)
    ]
    rows += [(0, 1, 0.5, "kd_lts", "eigenvalue", 0, 3.0)]
    columns = ["seed", "level", "density", "branch", "metric", "index", "value"]
    found = distribution_shifts.over_densities(pd.DataFrame(rows, columns=columns))
    means = found.groupby(["measure", "branch"])["value"].mean()["mce"]
    assert means["kd_lts"] == pytest.approx(0.9 + 0.005 + 0.15)
    assert means["at_initialization"] == pytest.approx(1.1 + 0.005 + 0.15)
    claims = compared(found).set_index("branch")
    assert set(claims.index) == {"snip", "random", "ltr_late", "dense", "at_initialization"}
    assert claims.loc["at_initialization", "difference"] == pytest.approx(-0.2)
    distribution_shifts.say(claims.reset_index())
    text = " ".join(capsys.readouterr().out.split())
    assert "1.055 against 1.255: lower by 0.2" in text and "clearly (-16%)" in text
    # nothing is said of what was not measured
    assert "fidelity" not in text


@pytest.mark.slow
def test_distribution_shifts_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--methods", "kd_lts", "snip")
    few = ("--corrupted", 20, "--explained", 2, "--attacked", 20, "--test-examples", 60)
    done = run("kd_lts/distribution_shifts.py", *options, *few, "--folder", folder, check=False)
    assert done.returncode == 2 and "`ood` is needed" in done.stderr
    done = run(
        "kd_lts/distribution_shifts.py", *options, *few, "--ood", "digits", "--folder", folder
    )
    page = pd.read_csv(folder / "overview.csv").set_index("method")
    assert list(page.index) == ["dense", "kd_lts", "snip"]
    assert page.loc["dense", "mce"] == 1 and page["adversarial_accuracy"].between(0, 1).all()
    means = pd.read_csv(folder / "measures.csv").set_index(["metric", "branch", "level"])["mean"]
    means = means.sort_index()
    assert set(distribution_shifts.PANELS) <= set(means.index.get_level_values("metric"))
    assert np.isfinite(means).all() and len(means.loc["ece"]) == 1 + 2 * 2
    # the gap is that of the accuracies of the runs
    final = jt.results.read(folder / "snip" / "table.parquet")
    gaps = jt.speed.generalization_gap(final).groupby("level")["gap"].mean()
    np.testing.assert_allclose(means.loc["gap", "snip"], gaps.loc[[1, 2]], atol=1e-5)
    assert "mce" in pd.read_csv(folder / "claims.csv")["measure"].tolist()
    assert "3 to 4% lower than of methods at initialization" in done.stdout
    assert set(pictures(folder / "figures")) == {"measures.png", "overview.png", "confidence.png"}


@pytest.mark.slow
def test_verdicts_of_kd_lts_from_a_file(tmp_path, digits_npz):
    folder = tmp_path / "run"
    options = ("--data", digits_npz, *KD_RUN, "--methods", "snip", "ltr_late")
    done = run("kd_lts/verdicts.py", *options, "--at-density", 0.16, "--folder", folder)
    table = pd.read_csv(folder / "table_1.csv").set_index("branch")
    assert list(table.index) == ["snip", "ltr_late"]
    assert table["at_init"].tolist() == [True, False] and not table["wins"].any()
    assert done.stdout.count("verdict: ") == 2
    rows = pd.read_csv(folder / "conditions.csv")
    assert (rows.groupby("method")["condition"].count() == 8).all() and rows["value"].notna().all()
    assert set(pictures(folder / "figures")) == {"figure_11.png"}


def test_each_run_of_a_script_is_given_the_time_that_is_left(tmp_path, digits_npz, monkeypatch):
    given = []
    for name in ("find_tickets", "prune_at", "search", "branch", "transfer", "verdict", "measure",
                 "telemetry", "surface"):  # fmt: skip
        monkeypatch.setattr(jt, name, lambda *_, runtime, **__: given.append(runtime))
    job = prepare(__file__, Settings(data=digits_npz, share=1.0, budget=2.0))
    job = dataclasses.replace(job, folder=tmp_path)
    monkeypatch.setattr(of_scripts, "STARTED", time.monotonic() - 30)
    job.find_tickets()
    job.prune_at("magnitude", sub="early")
    job.search(jt.SEARCHES["edge_popup"]())
    job.branch(given, "retrain")
    job.transfer(given, sub="moved")
    job.verdict(given)
    job.measure(given, "hessian")
    job.telemetry(given)
    job.surface(given)
    assert [runtime.folder for runtime in given] == [
        tmp_path, tmp_path / "early", tmp_path, None, tmp_path / "moved", *[None] * 4,
    ]  # fmt: skip
    assert all(80 < runtime.time_budget <= 90 for runtime in given)
    monkeypatch.setattr(of_scripts, "STARTED", time.monotonic() - 121)
    with pytest.raises(SystemExit) as caught, of_scripts.budget(job):
        job.find_tickets()
    assert caught.value.code == 75 and len(given) == 9
