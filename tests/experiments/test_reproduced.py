"""The page of what was reproduced holds every published result, and what their files say."""

import re
import shutil

import pytest

from experiments import index, reproduced
from experiments.common import ranking

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
