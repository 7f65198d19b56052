"""Telemetry, landscape and surfaces of KD-LTS: what they compute from tables, and a small run."""

import json

import numpy as np
import pandas as pd
import pytest
from test_scripts import digits_npz as digits_npz
from test_scripts import pictures, run

import jaxticket as jt
from experiments import leaderboard
from experiments.common.job import prepare
from experiments.kd_lts import landscape, surfaces, telemetry
from experiments.kd_lts._claims import clear, compared, in_words
from experiments.kd_lts._networks import KNOWN, networks, sizes

STEPS = np.arange(0, 50, 10)


def curves(branch, value, *, start=0, metric="l2", seeds=(0, 1)):
    """A table of telemetry whose values are `value(seed, steps)`."""
    return jt.results.concat(
        jt.results.spread(np.asarray(value(seed, STEPS)), {"step": STEPS + start}).assign(
            branch=branch, seed=seed, metric=metric
        )
        for seed in seeds
    )


def test_distances_of_curves_are_relative_and_those_of_equal_ones_are_zero():
    def line(slope):
        return lambda seed, t: slope * (1 + 0.1 * seed) * t

    table = telemetry.from_the_start(jt.results.concat([
        curves("kd_lts", line(1.0)), curves("ltr_late", line(1.1), start=33),
        curves("snip", line(3.0)),
    ]))  # fmt: skip
    assert set(table["step"]) == set(STEPS)
    found = telemetry.distances(table)
    by = found.pivot_table(index="seed", columns="branch", values="value")
    # |a - b| / ((a + b) / 2) of lines through 0
    np.testing.assert_allclose(by["ltr_late"], 0.1 / 1.05)
    np.testing.assert_allclose(by["snip"], 2 / 2)
    np.testing.assert_allclose(by["another seed"], 0.1 / 1.05)
    (judged,) = telemetry.nearer(found, "ltr_late", "snip").to_dict("records")
    assert judged["nearer"] == "ltr_late" and judged["gap"] == pytest.approx(0.1 / 1.05 - 1)
    # of equal distances neither is nearer, and with one seed nothing is clear
    same = found.assign(value=1.0)
    assert telemetry.nearer(same, "ltr_late", "snip")["nearer"].tolist() == ["neither"]
    alone = telemetry.distances(table[table["seed"] == 0])
    assert set(alone["branch"]) == {"ltr_late", "snip"}
    assert telemetry.nearer(alone, "ltr_late", "snip")["nearer"].tolist() == ["neither"]


def test_distances_of_cosines_and_of_zeros():
    """Cosines near 1 are far apart where what they lack to 1 is; no flipped sign is no distance."""
    parts = [curves("kd_lts", lambda seed, t: 1 - 1e-4 * t, metric="cosine"),
             curves("snip", lambda seed, t: 1 - 3e-4 * t, metric="cosine"),
             curves("kd_lts", lambda seed, t: 0.0 * t, metric="sign_flips"),
             curves("snip", lambda seed, t: 0.0 * t, metric="sign_flips")]  # fmt: skip
    found = telemetry.distances(jt.results.concat(parts))
    own = found[found["branch"] == "snip"].groupby("metric")["value"]
    np.testing.assert_allclose(own.get_group("cosine"), 1.0)
    np.testing.assert_array_equal(own.get_group("sign_flips"), 0.0)
    # one that diverged is not near anything
    lost = jt.results.concat([parts[0], parts[1].assign(value=np.nan)])
    found = telemetry.distances(lost)
    assert found.loc[found["branch"] == "snip", "value"].isna().all()
    assert telemetry.nearer(found, "snip", "another seed")["nearer"].tolist() == ["neither"]


def test_claims_are_judged_seed_by_seed():
    """Seeds differ by far more than the methods do, which each seed shows."""
    level = {0: 1.0, 1: 5.0, 2: 9.0}
    gap = {"kd_lts": {0: 0, 1: 0, 2: 0}, "snip": {0: 1.0, 1: 1.1, 2: 0.9},
           "random": {0: 1.0, 1: -1.0, 2: 0.5}, "dense": {0: 1.0, 1: 1.0, 2: np.nan}}  # fmt: skip
    rows = pd.DataFrame([
        {"branch": name, "seed": seed, "measure": "trace", "when": "end", "value": level[seed] + x}
        for name, by in gap.items() for seed, x in by.items()
    ])  # fmt: skip
    found = compared(rows, keys=("when",)).set_index("branch")
    snip = found.loc["snip"]
    assert snip["difference"] == pytest.approx(-1) and snip["std"] == pytest.approx(0.1)
    assert snip["clear"] and (snip["ours"], snip["seeds"], snip["when"]) == (5.0, 3, "end")
    assert in_words(snip) == "lower by 1 +- 0.1, clearly"
    assert not found.loc["random", "clear"]
    assert in_words(found.loc["random"]) == "lower by 0.167 +- 1.04, no clear difference"
    assert in_words(found.loc["dense"]) == "not known: a network diverged"
    assert not clear(np.array([1.0, 5.0, 9.0])) and clear(np.array([-4.0, -5.0, -6.0]))
    assert compared(rows[rows["branch"] != "kd_lts"], keys=("when",)).empty
    one = compared(rows[rows["seed"] == 0], keys=("when",)).iloc[0]
    assert in_words(one) == "lower by 1, no clear difference"


def test_smoothness_is_averaged_over_steps_and_curvature_named():
    parts = {"loss_least": 1.0, "loss_greatest": 1.5, "gradient_change_greatest": 2.0,
             "beta_greatest": 3.0}  # fmt: skip
    table = jt.results.concat(
        curves("snip", lambda seed, t, x=x: x * (1 + t / 20), metric=name)
        for name, x in parts.items()
    )
    found = landscape.along(table).set_index(["seed", "measure"])["value"]
    # the mean of 1, 1.5, 2, 2.5 and 3
    for name, value in (("loss_range", 1.0), ("gradient_change", 4.0), ("beta", 6.0)):
        assert found[0, name] == pytest.approx(value)
    values = {"trace": [7.0], "eigenvalue": [3.0, -4.0], "least_eigenvalue": [-4.0],
              "negative_share": [0.25]}  # fmt: skip
    rows = [("snip", 1, name, i, x) for name, own in values.items() for i, x in enumerate(own)]
    table = pd.DataFrame(rows, columns=["branch", "seed", "metric", "index", "value"])
    found = landscape.curved(table, "end").set_index("measure")["value"].to_dict()
    # the largest, where -4 is greater by magnitude
    assert found == {"trace": 7.0, "top": 3.0, "least": -4.0, "negative_share": 0.25}
    assert landscape.summary(landscape.curved(table, "end"))["seeds"].tolist() == [1] * 4


def test_surfaces_rise_from_the_network():
    x = np.linspace(-1, 1, 5)
    loss = 2 + np.maximum(np.abs(x)[:, None], np.abs(x)[None]) ** 2
    table = jt.results.spread(loss, {"y": x}, {"x": x}).assign(
        branch="snip", seed=0, split="train", metric="loss"
    )
    (found,) = surfaces.rises(table).to_dict("records")
    assert found["loss"] == 2 and found["rise_at_half"] == 0.25 and found["rise_at_edge"] == 1


def test_six_epochs_are_those_of_the_data(digits_npz):
    settings = telemetry.Settings(data=str(digits_npz), share=1.0)
    job = prepare("a.py", settings, **sizes(settings))
    # 550 of 600 examples in batches of 128
    assert telemetry.first_epochs(job) == 6 * 5
    assert telemetry.checked_level(job, None) == 3 and telemetry.checked_level(job, 1) == 1
    with pytest.raises(ValueError, match="`level` must be from 1 to 3, got 4"):
        telemetry.checked_level(job, 4)
    short = telemetry.Settings(data=str(digits_npz), share=1.0, steps=16)
    assert telemetry.first_epochs(prepare("a.py", short, **sizes(short))) == 16 - 1


@pytest.mark.slow
def test_all_three_from_a_file(tmp_path, digits_npz):
    """They share the networks of a folder, and leave the files that they promise."""
    folder = tmp_path / "run"
    options = ("--data", digits_npz, "--share", 1.0, "--steps", 16, "--seeds", 2, "--levels", 1)
    options = (*options, "--fraction", 0.8, "--eval-every", 16, "--folder", folder)
    done = run("kd_lts/telemetry.py", *options, "--every", 5)
    assert "nearer to" in done.stdout and "another seed" in done.stdout
    found = pd.read_csv(folder / "telemetry.csv")
    assert set(found["branch"]) == {"kd_lts", "snip", "ltr_late"}
    first = found[found["step"] == 0].set_index(["branch", "metric"])["mean"]
    assert (first.xs("l2", level="metric") == 0).all()
    assert (first.xs("cosine", level="metric") == 1).all()

    methods = ("--methods", "kd_lts", "snip", "dense")
    small = ("--every", 5, "--order", 20, "--samples", 3, "--examples", 60)
    done = run("kd_lts/landscape.py", *options, *methods, *small)
    assert "trace of the Hessian, trained (less is flatter)" in done.stdout
    table = pd.read_csv(folder / "landscape.csv").set_index(["when", "measure", "branch"])
    assert (table["seeds"] == 2).all() and table["mean"].notna().all()
    assert (table.loc["epochs"]["mean"] > 0).all()
    claims = pd.read_csv(folder / "claims.csv")
    assert set(claims["branch"]) == {"snip", "dense"} and len(claims) == 2 * (3 + 4 + 4)

    done = run("kd_lts/surfaces.py", *options, "--methods", "kd_lts", "snip", "--points", 3)
    for name in ("kd_lts", "snip"):
        assert f"{folder / name} was complete: nothing was trained" in done.stdout + done.stderr
    rows = pd.read_csv(folder / "surfaces.csv")
    assert len(rows) == 4 and rows.notna().all(axis=None)
    names = {"figure_29.png", "figure_30.png", "figure_31.png"}
    assert set(pictures(folder / "figures")) == names
    settings = json.loads((folder / "kd_lts" / "settings.json").read_text(encoding="utf-8"))
    assert settings["seeds"] == [0, 1]


def test_all_methods_of_the_leaderboard_have_networks(tmp_path):
    # there by the step that they are rewound to
    renamed = {"ticket": "ltr", "rewound_ticket": "ltr_late"}
    # all but those of mask rules, which are no tickets trained
    tickets = set(leaderboard.METHODS) - set(jt.RULES)
    assert {renamed.get(name, name) for name in tickets} <= set(KNOWN)
    settings = landscape.Settings(
        data="digits", folder=tmp_path, steps=2, eval_every=2, levels=1, seeds=1, width=0.05,
        share=0.2,
    )  # fmt: skip
    job = prepare(landscape.__file__, settings, **sizes(settings))
    for name in ("one_shot", "erk", "magnitude_after_training"):
        runs = networks(job, name)
        assert 1 in runs.levels and jt.density(runs.trained_tickets(1).mask) < 0.6
