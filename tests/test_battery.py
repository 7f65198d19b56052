"""No number changes: small runs over all public functions give what they gave when they were
recorded, and the first table of iterative pruning is what its script finds.

`python -m tests.battery.record` records new runs; see there.
"""

import functools
import os
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from battery import compare
from battery.runs import RUNS, SLOW

import jaxticket as jt

pytestmark = pytest.mark.usefixtures("optimized")

HERE = Path(__file__).parent
REFERENCE = HERE / "battery" / "reference"


def recorded(name):
    with np.load(REFERENCE / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays, str(arrays.pop("jax_version"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUNS]
)
def test_no_number_changes(name):
    reference, version = recorded(name)
    wrong = compare.differences(
        RUNS[name](),
        reference,
        same_version=version == jax.__version__,
        examples=compare.FEW.get(name, compare.EXAMPLES),
    )
    assert not wrong, "\n".join([f"recorded with JAX {version}, this is {jax.__version__}", *wrong])


def test_every_run_is_recorded_and_nothing_else():
    assert {file.stem for file in REFERENCE.glob("*.npz")} == set(RUNS)
    assert sum(file.stat().st_size for file in REFERENCE.iterdir()) < 1_000_000


CHANGES = {
    "a bit of a mask": ("2.mask", lambda x: x ^ np.eye(1, x.size, dtype=np.uint8)[0], False),
    "a weight": ("2.params", lambda x: x * (1 + 2e-3), False),
    "a weight by rounding": ("2.params", lambda x: x * (1 + 1e-5), True),
    "a step": ("table.step", lambda x: x + 1, False),
    "a name": ("table.branch", lambda x: np.char.add(x, "s"), False),
    "a row": ("table.value", lambda x: x[1:], False),
    "a loss by a thousandth": ("table.value", lambda x: x * 1.002, False),
    "a nan": ("table.value", lambda x: np.where(np.arange(x.size) == 3, np.nan, x), False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    reference, _ = recorded("find_tickets")
    name, changed, well = CHANGES[change]
    found = reference | {name: changed(reference[name])}
    wrong = compare.differences(found, reference, same_version=True)
    assert [line.partition(":")[0] for line in wrong] == ([] if well else [name])


def test_what_is_missing_or_new_is_seen():
    reference, _ = recorded("find_tickets")
    less = {name: x for name, x in reference.items() if name != "1.mask"}
    assert compare.differences(less, reference, same_version=True) == ["1.mask: missing"]
    assert compare.differences(reference, less, same_version=True) == ["1.mask: not recorded"]


def test_one_example_is_no_fault_and_two_are():
    reference, _ = recorded("find_tickets")
    counts = reference["table.metric"] == "accuracy"
    for examples, well in ((1, True), (2, False)):
        found = reference | {
            "table.value": reference["table.value"] + counts * examples / compare.EXAMPLES
        }
        assert well is not bool(compare.differences(found, reference, same_version=True))


def test_another_version_may_rank_few_weights_otherwise():
    mask = np.zeros(1000, np.uint8)
    for bytes_changed, well in ((5, True), (6, False)):
        other = mask.copy()
        other[:bytes_changed] = 0xFF
        wrong = compare.differences({"mask": other}, {"mask": mask}, same_version=False)
        assert well is not bool(wrong)
        assert compare.differences({"mask": other}, {"mask": mask}, same_version=True)


# --- the table of iterative pruning

PAGE = (HERE.parent / "docs" / "methods" / "iterative.md").read_text(encoding="utf-8")
CONTROLS = ("reinit", "shuffle", "random")


def page_rows():
    """Density -> cells, as docs/methods/iterative.md has them."""
    table = PAGE[PAGE.index("| density | ticket |") :].split("\n\n")[0].splitlines()
    found = {}
    for line in table[2:]:
        density, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[density] = cells
    return found


@functools.cache
def quick_start(levels, controls=CONTROLS):
    """What `experiments/winning_tickets.py` runs with its defaults, or less of it."""
    data = jt.data.load("digits", validation=0.1)
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(
        steps=400, batch_size=60, lr=1.2e-3, eval_every=25, eval_train_examples=300
    )
    runs = jt.find_tickets(
        net,
        data,
        training,
        jt.Pruning(levels=levels, fraction=0.2),
        seeds=range(5),
        branches=controls,
        progress=False,
    )
    return jt.speed.matching(runs.table(), margin=0.002, test_size=len(data.test))


def shown(rows):
    """Density -> cells, as the page writes them."""
    found = {}
    for _, here in rows.groupby("level"):
        here = here.set_index("branch")
        cells = []
        for name in ("ticket", *CONTROLS):
            if name not in here.index:
                continue
            mean, low, high = (100 * here.loc[name, column] for column in ("mean", "min", "max"))
            cells.append(f"{mean:.1f} ({low:.1f} to {high:.1f})")
        found[f"{100 * here.loc['ticket', 'density']:.1f}%"] = cells
    return found


def test_the_tickets_of_the_table_are_equal_to_the_digit():
    """The first two rows; the slow test has all rows and the controls."""
    found = shown(quick_start(3, ()))
    for density in ("100.0%", "51.2%"):
        assert found[density] == page_rows()[density][:1]


@pytest.mark.slow
def test_the_table_is_equal_to_the_digit():
    table, found = page_rows(), shown(quick_start(20))
    assert len(table) == 7
    assert {density: found.get(density) for density in table} == table


# --- results of experiments that are cheap to compute again

RESULTS = HERE.parent / "experiments" / "results"


@pytest.fixture(scope="module")
def mnist():
    if not os.environ.get("JAXTICKET_DATA_DIR"):
        pytest.skip("set JAXTICKET_DATA_DIR to a folder of prepared TFDS data sets (mnist)")
    return jt.data.load("mnist")


def levels_of_tickets(net, data, training):
    pruning = jt.Pruning(levels=2, fraction=0.488)
    return jt.find_tickets(net, data, training, pruning, seeds=range(3), progress=False)


def levels_of_snip(net, data, training):
    densities = [0.41**n for n in range(1, 4)]
    return jt.prune_at(
        net, data, training, score="snip", density=densities, seeds=range(3), dense=False,
        progress=False,
    )  # fmt: skip


# by the folder of the results: what made them, names of branches, and steps
COMMITTED = {
    "thesis_ch3/dilation-lenet-mnist-reduced": (levels_of_tickets, {}, 6_000),
    "thesis_ch5/at_initialization-lenet-mnist-reduced": (
        levels_of_snip, {"ticket": "snip"}, 6_000,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITTED)
def test_committed_rows_are_found_again(name, mnist):
    """Means, least and greatest accuracies of three seeds on 10,000 images, within ten of them:
    some of the files were computed on another machine and by another version of JAX.
    """
    made, names, steps = COMMITTED[name]
    net = jt.networks.lenet(mnist.shape, mnist.classes)
    training = jt.Training(
        steps=steps, batch_size=60, lr=1.2e-3, eval_every=600, eval_train_examples=2_000
    )
    final = jt.speed.over_seeds(jt.speed.final(made(net, mnist, training).table()))
    committed = pd.read_csv(RESULTS / name / "final.csv")
    committed = committed[committed["split"] == "test"].set_index(["branch", "level"])
    for _, row in final.iterrows():
        old = committed.loc[(names.get(row["branch"], row["branch"]), row["level"])]
        for column, slack in (("density", 1e-4), ("mean", 1e-3), ("min", 1e-3), ("max", 1e-3)):
            assert row[column] == pytest.approx(old[column], abs=slack), (row, old)


@pytest.mark.slow
def test_the_committed_summary_of_the_quick_start_is_found_again():
    """All levels and branches, within one of 360 images."""
    committed = pd.read_csv(RESULTS / "winning_tickets" / "summary.csv")
    keys, numbers = ["branch", "level"], ["density", "mean", "min", "max"]
    found = quick_start(20).sort_values(keys).reset_index(drop=True)
    committed = committed.sort_values(keys).reset_index(drop=True)
    pd.testing.assert_frame_equal(found[keys], committed[keys], check_dtype=False)
    assert len(found) == 4 * 21
    np.testing.assert_allclose(found[numbers], committed[numbers], rtol=0, atol=1.01 / 360)
