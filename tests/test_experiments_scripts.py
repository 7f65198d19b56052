"""The scripts of `experiments/` explain themselves, run, and leave the files they promise."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
SCRIPTS = sorted(
    path.relative_to(EXPERIMENTS).as_posix()
    for path in (*EXPERIMENTS.glob("*.py"), *EXPERIMENTS.glob("*/*.py"))
    if not path.name.startswith("_")
    and path.name != "index.py"
    and path.parent.name != "benchmarks"
)
CHAPTER_3 = {"curves", "one_shot", "lrr_and_random", "ablations", "early_stopping", "dilation"}


def run(script, *options, check=True):
    """Runs a script as a user does, and returns the finished process."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(EXPERIMENTS / script), *map(str, options)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


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
    assert f"python experiments/{script}" in text


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
    assert len(list((folder / "tickets").glob("*.npz"))) == 3 * 2
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


def test_one_shot_of_chapter_3_from_a_file(tmp_path, digits_npz):
    """Also: a budget that is over saves and ends with 75, and the same command finishes."""
    folder = tmp_path / "run"
    options = ("--data", digits_npz, "--share", 1.0, "--folder", folder)
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
    assert "thesis, 3.5%" in done.stdout and "98.2" in done.stdout
    assert (folder / "one_shot" / "table.parquet").exists()
