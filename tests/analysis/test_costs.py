"""What finding a mask costs, against counting by hand."""

import numpy as np
import pytest

import jaxticket as jt
from jaxticket.pruning.compiled import Examples
from jaxticket.pruning.scores.spec import passes_of

WIDTHS = (12, 8)
STEPS, BATCH = 20, 16
P = 25 * 12 + 12 * 8 + 8 * 3
# of one example: a forward pass, and a backward pass without the gradient of the input
FORWARD = 2 * P
BACKWARD = 2 * FORWARD - 2 * 25 * 12


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.integers(0, 255, (300, 5, 5)).astype(np.uint8)
    return jt.data.from_arrays(x[:240], y[:240], x[240:], y[240:], classes=3)


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=WIDTHS)


TRAINING = jt.Training(steps=STEPS, batch_size=BATCH, optimizer="sgd", lr=0.05, eval_every=10)


def column(table, name):
    return table.sort_values("level")[name].tolist()


def test_a_score_counts_what_its_program_multiplies(net):
    two = Examples(2, 6)
    assert jt.costs.score_flops(net, "magnitude", two) == 0
    assert jt.costs.score_flops(net, "snip", two) == 12 * (FORWARD + BACKWARD)
    # one example of ones; the gradient of the input is not needed
    assert jt.costs.score_flops(net, "synflow", two) == FORWARD + BACKWARD
    # the gradient, and a Hessian product that carries a second number through both passes
    assert jt.costs.score_flops(net, "grasp", two) >= 12 * 2.5 * (FORWARD + BACKWARD)
    # what one batch computes for the gradient is not computed again
    once = jt.costs.score_flops(net, "grasp", Examples(1, 12))
    several = jt.costs.score_flops(net, "grasp", two)
    assert 12 * 1.5 * (FORWARD + BACKWARD) <= once < several
    for options, passes in (
        ({}, (4, 7)),
        ({"steps": 5}, (6, 11)),
        ({"steps": 1, "first_order": True, "batch_norm": "eval"}, (2, 2)),
    ):
        assert passes_of(jt.scores.configured("prospr", **options), 1) == passes
    assert passes_of(jt.SCORES["grasp"], 1) == (2, 2) and passes_of(jt.SCORES["grasp"], 2) == (3, 3)
    more = jt.costs.score_flops(net, jt.scores.configured("prospr", steps=5), two)
    assert more > jt.costs.score_flops(net, "prospr", two) > 12 * 4 * (FORWARD + BACKWARD)


def test_pruning_early(net, data):
    runs = jt.prune_at(
        net, data, TRAINING, score="snip", density=(0.5, 0.1), step=(0, 10, "end"), rounds=3,
        per_class=4, seeds=(0, 1), progress=False,
    )  # fmt: skip
    scored = 3 * 12
    for k, own in runs.items():
        table = jt.costs.finding(own)
        assert column(table, "level") == [0, 1, 2]
        np.testing.assert_allclose(column(table, "density"), own.densities)
        assert column(table, "training_steps") == [0, k, k]
        seen = k * BATCH + scored
        for name in ("examples", "forward_passes", "backward_passes"):
            assert column(table, name) == [0, seen, seen]
        flops = k * BATCH * 3 * FORWARD + scored * (FORWARD + BACKWARD)
        assert column(table, "flops") == [0, flops, flops]
    # training to a step takes its share of the dense training's seconds
    dense = next(row for row in runs[0].costs if row["unit"] == "dense")
    masks = {
        k: sum(row.get("prune_seconds", 0.0) for row in own.costs) / 4 for k, own in runs.items()
    }
    for k, own in runs.items():
        expected = dense["train_seconds"] / 2 * k / STEPS + masks[k]
        np.testing.assert_allclose(jt.costs.finding(own)["seconds"].iloc[1], expected)


def test_scores_without_data_cost_nothing_and_own_scores_are_counted(net, data):
    def doubled(params, context, *, key):
        return jt.SCORES["magnitude"](params, context, key=key)

    for score, passes, sees in (("random", 0.0, {}), (doubled, np.nan, {"per_class": 2})):
        runs = jt.prune_at(
            net, data, TRAINING.replace(steps=1), score=score, density=0.5, dense=False,
            seeds=(0,), progress=False, **sees,
        )  # fmt: skip
        (row,) = jt.costs.finding(runs).to_dict("records")
        assert row["flops"] == 0 and row["training_steps"] == 0
        np.testing.assert_equal(row["forward_passes"], passes)
        assert row["examples"] == (0 if score == "random" else 6)


def test_levels_pay_for_all_levels_before_them(net, data):
    pruning = jt.Pruning(levels=3, rewind=5)
    options = {"seeds": (0, 1), "progress": False}
    runs = jt.find_tickets(net, data, TRAINING, pruning, branches=("shuffle",), **options)
    table = jt.costs.finding(runs)
    steps = [0, STEPS, 2 * STEPS - 5, 3 * STEPS - 10]
    assert column(table, "training_steps") == steps
    assert column(table, "flops") == [n * BATCH * 3 * FORWARD for n in steps]
    assert column(table, "forward_passes") == [n * BATCH for n in steps]
    seconds = column(table, "seconds")
    assert seconds[0] == 0 and np.all(np.diff(seconds) > 0)
    first = runs.timings().iloc[0]
    expected = (first["train_seconds"] / 2 + first["prune_seconds"]) / 2
    np.testing.assert_allclose(seconds[1], expected)
    once = jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=2, one_shot=True, score="snip"), **options
    )
    table = jt.costs.finding(once)
    assert column(table, "training_steps") == [0, STEPS, STEPS]
    flops = STEPS * BATCH * 3 * FORWARD + 100 * (FORWARD + BACKWARD)
    assert column(table, "flops") == [0, flops, flops]
