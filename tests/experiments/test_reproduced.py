"""The page of what was reproduced holds every published result, and what their files say."""

import json
import re
import shutil

import numpy as np
import pytest
from scipy import stats

from experiments import index, reproduced
from experiments.common import claims, ranking

PAGE = reproduced.page()
RESULTS = reproduced.results()


def row_of(folder):
    (row,) = [line for line in PAGE.splitlines() if f"../{folder}/settings.json" in line]
    return row


def test_the_page_is_what_the_script_writes():
    assert reproduced.check() == []


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.folder)
def test_every_result_has_a_row_with_its_figures_and_tables(result):
    row = row_of(result.folder)
    assert (index.ROOT / result.script).is_file()
    for name in result.files:
        if name.endswith((".png", ".csv")):
            assert f"](../{result.folder}/{name})" in row
    assert f"`python -m {result.script.removesuffix('.py').replace('/', '.')}" in row


def test_every_published_figure_of_a_script_is_shown():
    known = {f"{result.folder}/{name}" for result in RESULTS for name in result.files}
    shown = {
        path.relative_to(index.ROOT).as_posix()
        for path in (index.ROOT / reproduced.RESULTS).rglob("*.png")
    }
    assert shown <= known


def test_results_on_cifar_say_what_the_data_are():
    rows = [row_of(r.folder) for r in RESULTS if "cifar10" in str(r.settings.get("data"))]
    assert len(rows) >= 4
    assert all("**JPEG re-encoded**" in row for row in rows)


def test_numbers_of_one_row_by_hand():
    row = row_of("experiments/results/thesis_ch5/ablations-lenet-mnist-reduced")
    assert "With 6.9% of the weights magnitude after training 98.2; " in row and "dense 97.7" in row
    assert "inverted 72.6" in row
    assert "14 minutes, 2 cores, AMD EPYC" in row and "6,000 steps, 3 seeds" in row
    assert "60,000 training images, 10,000 test images" in row


def test_barriers_and_transfers_by_hand():
    row = row_of("experiments/results/thesis_ch4/tickets-resnet20-cifar10-reduced-150e3eb920")
    assert "dense 59.4 from step 0, 29.7 from step 234; " in row
    assert "IMP ticket with 17% 54.3 from step 0, 6.6 from step 234." in row
    row = row_of("experiments/results/one_ticket/data_sets-lenet-mnist-reduced")
    assert "MNIST, half B on MNIST, half A 98.0; " in row
    assert "random tickets on MNIST, half A 96.7" in row


def test_numbers_stand_next_to_those_of_the_source():
    row = row_of("experiments/results/kd_lts/accuracy-lenet-mnist-kd_lts-quick-5d3c409e4a")
    assert "KD-LTS: sparsest accuracy 97.77 (98), sparsest density 20 (20)" in row


def test_branches_have_the_names_of_figures():
    names = ["globally_permuted", "lrr", "cts_loss", "own_idea", "kd_lts_supermask"]
    assert list(reproduced.labels(names).values()) == [
        "global random", "learning-rate rewinding", "CTS, loss", "own idea", "KD-LTS, supermask",
    ]  # fmt: skip
    row = row_of("experiments/results/thesis_ch3/lrr_and_random-lenet-mnist-paper-f21ab3f779")
    assert "IMP ticket 98.3; learning-rate rewinding 98.0; dense 97.9" in row
    assert "minutes, 1 core, AMD" in PAGE and " 1 cores" not in PAGE


@pytest.mark.parametrize("script", ["ablations", "lrr_and_random"])
def test_what_is_expected_is_of_the_network_that_was_measured(script):
    row = row_of(f"experiments/results/thesis_ch3/{script}-resnet20-cifar10-reduced")
    text = row.split(" | ")[1]
    assert "ResNet-20 has 91.7% dense and with 16.8% of the weights 88.5% (IMP ticket)" in text
    assert "98.3" not in text and "LeNet" not in text
    # a header that speaks of the network is left as it is
    row = row_of("experiments/results/thesis_ch4/tickets-resnet20-cifar10-reduced-150e3eb920")
    assert "ResNet-20's at 16.8%" in row.split(" | ")[1]
    # and so is that of another preset of the same network
    row = row_of("experiments/results/kd_lts/against_rewinding-lenet-mnist-quick-974856b46d")
    assert "(papers) CTS as good as LTR" in row.split(" | ")[1]


def test_what_was_not_recorded_is_left_out():
    row = row_of("experiments/results/thesis_ch5/schedules-resnet50-imagenet")
    assert "minutes" not in row.partition(" | ")[0] and "seeds" not in row
    assert reproduced.machine({}) == "" and reproduced.accuracies([]) == ""


def test_tables_have_as_many_cells_as_heads():
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        head, *rows = (len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines())
        assert set(rows) == {head}


def test_check_finds_a_page_that_is_old_or_missing(tmp_path):
    for name in ("experiments", "docs"):
        (tmp_path / name).mkdir()
    shutil.copy(index.ROOT / "experiments" / "index.csv", tmp_path / "experiments" / "index.csv")
    (tmp_path / "experiments" / "claims.toml").write_text("claim = []", encoding="utf-8")
    (tmp_path / "experiments" / "printed.csv").write_text("number,results", encoding="utf-8")
    assert "there is no" in reproduced.check(tmp_path)[0]
    for name in reproduced.pages(tmp_path):
        (tmp_path / name).write_text("old", encoding="utf-8")
    found = reproduced.check(tmp_path)
    assert len(found) == 2 and all("differs" in problem for problem in found)


def test_a_leaderboard_has_every_method_by_its_accuracy():
    text = (index.ROOT / ranking.PAGE).read_text(encoding="utf-8")
    boards = [result for result in RESULTS if result.script == "experiments/leaderboard.py"]
    assert boards and text.count("## ") == len(boards)
    for board in boards:
        home = index.ROOT / board.folder
        costs = {row["branch"] for row in ranking.rows_of(home / "costs.csv")} - {"dense"}
        (table,) = re.findall(
            rf"{board.folder}/settings.json[\s\S]*?((?:^\|.*\n)+)", text, re.MULTILINE
        )
        head, _, *rows = table.splitlines()
        at = f"{100 * board.settings['at_density']:.3g}%"
        column = [cell.strip() for cell in head.split("|")].index(at)
        assert {row.split("`")[1] for row in rows} == costs
        chosen = [float(row.split("|")[column].split()[0]) for row in rows]
        assert chosen == sorted(chosen, reverse=True)


def written(folder, name, lines, seeds):
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps({"seeds": seeds}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("seeds", [3, [0, 1, 2]])
def test_a_table_of_values_with_intervals_gives_their_spread_back(tmp_path, seeds):
    values = {"matching": np.array([0.96, 0.97, 0.95]), "shuffle": np.array([0.9, 0.94, 0.91])}
    lines = ["condition,value,low,high,diverged,method"]
    for name, own in values.items():
        low, high = stats.ttest_1samp(own, 0).confidence_interval(0.95)
        lines.append(f"{name},{own.mean()},{low},{high},0,ltr")
    written(tmp_path, "conditions.csv", lines, seeds)
    asked = {name: {"method": "ltr", "condition": name} for name in values}
    entry = {"table": "conditions.csv", "one": asked["matching"], "other": asked["shuffle"]}
    wanted = stats.ttest_ind(*values.values(), equal_var=False).confidence_interval(0.95)
    assert claims.measured(tmp_path, entry)[1:] == pytest.approx(
        (100 * wanted.low, 100 * wanted.high)
    )
    found = claims.measured(tmp_path, {"value": asked["shuffle"]})
    own = stats.ttest_1samp(values["shuffle"], 0).confidence_interval(0.95)
    assert found == pytest.approx((100 * values["shuffle"].mean(), 100 * own.low, 100 * own.high))
    # without a spread nothing is told
    written(tmp_path, "conditions.csv", lines, 1)
    assert claims.measured(tmp_path, entry).judged(-9, 9) == "cannot be told"


def test_means_can_stand_in_another_column_and_beside_one_without_a_spread(tmp_path):
    lines = ["source,target,density,accuracy,std,seeds,chance", "a,b,0.1,0.9,0.01,3,0.8",
             "b,b,0.1,0.95,0.02,3,0.8"]  # fmt: skip
    written(tmp_path, "matrix.csv", lines, 3)
    entry = {"table": "matrix.csv", "mean": "accuracy", "one": {"source": "a"}}
    found = claims.measured(tmp_path, {**entry, "other": {"source": "b"}})
    wanted = stats.ttest_ind_from_stats(0.9, 0.01, 3, 0.95, 0.02, 3, equal_var=False)
    assert found.mean == pytest.approx(-5)
    assert (found.high - found.low) / 2 == pytest.approx(
        100 * 0.05 / abs(wanted.statistic) * stats.t.ppf(0.975, 50 / 17), rel=1e-3
    )
    beside = claims.measured(tmp_path, {**entry, "beside": "chance"})
    assert beside.mean == pytest.approx(10)
    assert str(beside) == "+10" and beside.judged(0, 100) == "cannot be told"


def test_intervals_of_barriers_over_pairs_of_copies_are_told(tmp_path):
    entry = {"barrier": {"branch": "ticket"}}
    lines = ["branch,samples,barrier_mean,barrier_low,barrier_high", "ticket,9,0.1,0.05,0.2"]
    written(tmp_path, "verdicts.csv", lines, 3)
    assert claims.pairs_of(tmp_path, entry) == "; interval over 9 pairs of copies of 3 seeds"
    written(tmp_path, "verdicts.csv", lines, 9)
    assert claims.pairs_of(tmp_path, entry) == "" == claims.pairs_of(tmp_path, {"paired": {}})
    (line,) = [line for line in PAGE.splitlines() if "| The dense network is stable from" in line]
    assert "interval over 9 pairs of copies of 3 seeds |" in line


def test_a_step_is_the_same_or_not_and_densities_that_differ_are_told():
    step = {"metric": "first stable step (barrier < 2 points)", "value": "0", "density": "100"}
    assert claims.Printed(step, 0, seeds=9, at=1.0).near == "the same"
    assert claims.Printed(step, 1, seeds=9, at=1.0).near == ""
    share = {"metric": "accuracy", "value": "98.33", "density": "55"}
    number = claims.Printed(share, 97.96, 0.08, 3, 0.5848)
    assert number.measured == "97.96 \u00b1 0.08 (3 seeds, at 58.5%)"
    assert claims.Printed(share, 97.96, 0.08, 3, 0.551).measured.endswith("(3 seeds)")


def test_what_was_not_measured_is_counted_by_its_reason():
    def row(data, note="", results=""):
        return claims.Printed({"data": data, "note": note, "results": results})

    said = claims.untried(
        [row("MNIST", claims.ELSEWHERE), row("MNIST", claims.IN_WORDS), row("MNIST"), row("MNIST"),
         row("CIFAR-10"), row("MNIST", results="folder")]
    )  # fmt: skip
    assert "Of the other 5, 4 are" in said and ": 1 of these" in said and "and 2 were not" in said
