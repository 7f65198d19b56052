"""Scripts of mask rules: what a step costs, when densities change, and whole runs of small size."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import jaxticket as jt
from experiments import leaderboard
from experiments.mask_rules import figure_5_1, rigl_reference

ROOT = Path(__file__).resolve().parents[2]


def test_gradients_of_weights_are_sparse_where_the_rule_lets_them():
    """By hand: 10% and 50% of the operations with kept weights, an update in a tenth of steps."""
    kept, updates = np.array([0.1, 0.5]), np.array([0.1, 0.0])
    expected = {
        "static": [0.1, 0.5], "set": [0.1, 0.5], "gradual": [0.1, 0.5],
        "rigl": [0.1 + 0.1 * 0.9, 0.5], "straight_through": [1, 1], "top_kast": [0.4, 0.8],
    }  # fmt: skip
    for name, shares in expected.items():
        found = figure_5_1.gradient_share(jt.RULES[name], kept, updates)
        np.testing.assert_allclose(found, shares, rtol=1e-12)
    rule = jt.dynamic.TopKAST(extra=0.7)
    np.testing.assert_allclose(figure_5_1.gradient_share(rule, kept, updates), [0.8, 1])


@pytest.mark.parametrize("name", ["lenet", "conv2"])
def test_the_monitor_counts_operations_as_the_library_does(name):
    net = jt.NETWORKS[name]((12, 12, 1), 10).resized(0.25)
    monitor = figure_5_1.operations(net, 5)
    scores = jax.tree.map(lambda x: jax.random.uniform(jax.random.key(3), x.shape), net.shapes[0])
    mask = jt.keep_top(scores, net.mask(), 300, scope="global")

    class State:
        pass

    state = State()
    state.mask = mask
    found = monitor(None, state, None)
    cost = jt.layers.cost(net, mask)
    assert float(found["kept_operations"]) == pytest.approx(cost["flops_kept"] / cost["flops"])
    assert float(found["kept_density"]) == pytest.approx(300 / jt.masks.prunable_size(mask))


def test_steps_at_which_densities_change():
    rows = [
        {"level": 2, "seed": seed, "step": step, "density": density}
        for seed in (0, 1)
        for step, density in ((0, 1.0), (5, 0.5), (10, 0.5), (15, 0.25))
    ]
    found = figure_5_1.stairs("gradual", pd.DataFrame(rows), 2)
    assert found[["step", "density"]].to_numpy().tolist() == [[0, 1], [5, 0.5], [15, 0.25]]
    means = {"ticket": [0.9], "rigl": [0.895, 0.88, 0.9], "static": [0.5, 0.9], "lrr": [0.91, 0.9]}
    table = pd.DataFrame(
        [
            {"branch": name, "level": level, "mean": mean}
            for name, values in means.items()
            for level, mean in enumerate(values, start=name != "ticket")
        ]
    )
    # what comes after a density that was too low does not count
    assert figure_5_1.matching_levels(table, 0.01) == {"rigl": 1, "lrr": 2}


def test_all_rules_are_on_the_leaderboard_and_in_the_figure():
    assert set(jt.RULES) <= set(leaderboard.METHODS)
    assert set(figure_5_1.RULES) | set(figure_5_1.LONGER) <= set(jt.RULES)
    preset = jt.PRESETS[rigl_reference.OF]
    printed = rigl_reference.PRINTED
    assert {tuple(own) for own in printed.values()} == {preset.arguments["density"]}
    assert {name.removesuffix("_longer") for name in printed} < set(rigl_reference.RULES)


@pytest.fixture(scope="module")
def digits_npz(tmp_path_factory):
    """Some of scikit-learn's digits."""
    x, y = load_digits(return_X_y=True)
    x = (255 * x / 16).astype(np.uint8).reshape(-1, 8, 8)[:600]
    path = tmp_path_factory.mktemp("data") / "small.npz"
    y = y[:600].astype(np.int32)
    np.savez(path, x_train=x[:400], y_train=y[:400], x_test=x[400:], y_test=y[400:])
    return path


def run(module, *options):
    command = [sys.executable, "-m", f"experiments.{module}", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_figure_from_a_file(tmp_path, digits_npz):
    options = ("--data", digits_npz, "--share", 1.0, "--steps", 40, "--seeds", 2, "--levels", 3)
    methods = ("--methods", "rigl", "gradual", "snip", "magnitude_after_training", "ticket", "lrr")
    said = run("mask_rules.figure_5_1", *options, "--fraction", 0.5, *methods, "--longer", "rigl",
               "--at-density", 0.125, "--margin", 0.9, "--folder", tmp_path)  # fmt: skip
    costs = pd.read_csv(tmp_path / "costs.csv")
    steps = costs.groupby(["branch", "level"])["steps"].mean()
    assert steps["rigl"].tolist() == steps["gradual"].tolist() == steps["snip"].tolist() == [1, 1]
    assert steps["magnitude_after_training"].tolist() == [2, 2]
    # levels 2 and 3, after the dense network; longer rules take as many steps
    assert steps["lrr"].tolist() == steps["rigl_longer"].tolist() == [3, 4]
    # rewound to step 1 of 40
    assert steps["ticket"].tolist() == pytest.approx([1 + 2 * 39 / 40, 1 + 3 * 39 / 40])
    spent = costs.groupby(["branch", "level"])["operations"].mean()
    assert spent["lrr", 3] == pytest.approx(1 + 0.5 + 0.25 + 0.125, abs=0.002)
    # updates after each of the steps 1 to 29, with dense gradients of the weights
    assert spent["rigl", 3] == pytest.approx(0.125 + 29 / 40 * 0.875 / 3, abs=0.002)
    assert 0.125 < spent["gradual", 3] < 1
    shares = pd.read_csv(tmp_path / "explored.csv").set_index(["branch", "level"])
    assert shares.loc[("gradual", 3), "explored_mean"] == 1
    assert 0.125 < shares.loc[("rigl", 3), "explored_mean"] < 1
    figures = {path.name for path in (tmp_path / "figures").glob("*.png")}
    assert figures == {"figure_5-1.png", "accuracy.png", "cost.png"}
    drawn = pd.read_csv(tmp_path / "schedules.csv")
    own = drawn.loc[drawn["branch"] == "gradual"]
    assert own["density"].is_monotonic_decreasing or len(set(drawn["panel"])) == 2
    assert "share of all weights that were ever kept" in said


@pytest.mark.slow
def test_accuracies_next_to_those_of_the_author(tmp_path, digits_npz):
    options = ("--data", digits_npz, "--share", 1.0, "--steps", 20, "--seeds", 1, "--width", 0.25)
    said = run("mask_rules.rigl_reference", *options, "--methods", "static", "rigl",
               "--batch-size", 20, "--folder", tmp_path)  # fmt: skip
    rows = pd.read_csv(tmp_path / "reference.csv").set_index(["branch", "level"])
    assert rows.loc[("rigl", 4), "printed"] == 91.8 and rows.loc[("static", 2), "printed"] == 92.9
    assert np.isnan(rows.loc[("dense", 0), "printed"]) and "on all of the data" in said
    assert (tmp_path / "figures" / "accuracy.png").exists()


def test_the_leaderboard_leaves_out_what_the_densities_leave_no_room_for():
    net = jt.networks.lenet((28, 28, 1), 10)
    # the first layer has 88% of the weights, which this rule keeps
    (name,), (reason,) = zip(*leaderboard.without_room(job_of(net, 0.9, 0.3)).items(), strict=True)
    assert name == "rigl_uniform" and "keeps 79,860 weights, fewer than the first layer" in reason
    assert not leaderboard.without_room(job_of(net, 0.9))
    # of the smart ratio the output layer keeps 30%
    assert set(leaderboard.without_room(job_of(net, 0.001))) == {"rigl_uniform", "smart_ratio"}


def job_of(net, *densities):
    return SimpleNamespace(net=net, densities=densities)
