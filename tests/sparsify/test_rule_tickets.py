"""Tickets of mask rules, the last mask on the weights of initialization, go wherever tickets go."""

import dataclasses

import chex
import numpy as np
import pytest

import jaxticket as jt
from jaxticket import masks

TRAINING = jt.Training(steps=24, batch_size=20, eval_every=12, lr=5e-3)
DENSITIES = (0.5, 0.2)


def short(name):
    """A rule with updates in a training of 24 steps."""
    rule = jt.RULES[name]
    if name == "static":
        return rule
    every = 1 if rule.latent and name != "top_kast" else 4
    return dataclasses.replace(rule, every=every, end=16)


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits", validation=0.1)


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, (16, 10))


@pytest.fixture(scope="module")
def run(net, data, tmp_path_factory):
    """Runs of a rule with the dense networks, once for all tests."""
    known = {}

    def one(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = jt.sparse_train(
                net, data, TRAINING, short(name), density=DENSITIES, dense=True, seeds=[0, 1],
                folder=folder, progress=False,
            )  # fmt: skip
        return known[name]

    return one


def ends(runs):
    """Test accuracies at the end, [seed], by level."""
    rows = jt.speed.final(runs.table()).sort_values("seed")
    return {level: own["value"].to_numpy() for level, own in rows.groupby("level")}


def begins(table):
    """Test losses before the first step, [seed]."""
    rows = table.query("step == 0 and split == 'test' and metric == 'loss'")
    return rows.sort_values("seed")["value"].to_numpy()


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("rigl", "straight_through") else pytest.param(name, marks=pytest.mark.slow)
        for name in jt.RULES
        # RigL with another layout, which keeps all of the first layer: most of this network
        if name != "rigl_uniform"
    ],
)
def test_a_ticket_of_every_rule_is_retrained_under_its_last_mask(name, run):
    runs = run(name)
    again = jt.branch(runs, "retrain", progress=False)
    for level, density in enumerate(DENSITIES, 1):
        ticket = runs.ticket(level, 1)
        chex.assert_trees_all_equal(ticket, again.ticket(level, 1))
        # the weights of initialization, also where the rule grew some from zero
        dense = runs.ticket(0, 1).params
        chex.assert_trees_all_equal(masks.apply(ticket.mask, dense), ticket.params)
        assert masks.kept(ticket.mask) == round(density * masks.prunable_size(ticket.mask))
    first, second = ends(runs), ends(again)
    np.testing.assert_array_equal(first[0], second[0])
    if name == "static":
        np.testing.assert_array_equal(first[2], second[2])
        assert runs.winning(0.9) == 2
    else:
        assert runs.pruning.moves(24)
        with pytest.raises(ValueError, match=r'moved; .*jt.branch\(runs, "retrain"\).winning'):
            runs.winning()
    # networks of 24 steps: any level is within 90 points of the dense one
    assert again.winning(0.9) == 2
    assert again.pruning.name == name


def test_dense_networks_are_those_of_other_functions(run, net, data):
    runs = run("rigl")
    others = jt.prune_at(net, data, TRAINING, density=0.5, score="magnitude", step="end",
                         seeds=[0, 1], progress=False)  # fmt: skip
    np.testing.assert_array_equal(ends(runs)[0], ends(others)[0])
    dense = float(ends(runs)[0].mean())
    margin = max(0.002, 1 / len(data.test))
    expected = {n: bool(x.mean() >= dense - margin) for n, x in ends(runs).items()}
    assert runs.matching() == expected and runs.levels == (0, 1, 2)
    assert set(runs.monitored()["level"]) == {1, 2}
    # without them nothing can match
    alone = jt.sparse_train(net, data, TRAINING, short("rigl"), density=DENSITIES, seeds=[0, 1],
                            progress=False)  # fmt: skip
    assert alone.levels == (1, 2)
    np.testing.assert_array_equal(ends(alone)[2], ends(runs)[2])
    with pytest.raises(ValueError, match="`matching` needs the dense network"):
        alone.matching()


def test_runs_with_dense_networks_are_read_back_and_grow(net, data, tmp_path):
    def train(**changes):
        usual = {"density": 0.5, "dense": True, "seeds": [0], "keep": "trained", "progress": False}
        return jt.sparse_train(
            net, data, TRAINING, short("set"), **{**usual, "folder": tmp_path, **changes}
        )

    runs = train()
    found = jt.load(tmp_path)
    assert found.levels == (0, 1) and found.pruning == runs.pruning
    chex.assert_trees_all_equal(found.trained(0), runs.trained(0))
    more = train(seeds=[0, 1], density=DENSITIES)
    whole = train(seeds=[0, 1], density=DENSITIES, folder=None)
    assert more.levels == (0, 1, 2) and more.seeds == (0, 1)
    for level in (0, 2):
        np.testing.assert_array_equal(ends(more)[level], ends(whole)[level])
        chex.assert_trees_all_equal(more.trained(level), whole.trained(level))
    with pytest.raises(ValueError, match="dense"):
        train(dense=False)
    with pytest.raises(ValueError, match="`dense`"):
        train(dense=1, folder=None)


def test_a_verdict_trains_the_ticket_and_not_the_network_of_the_rule(run):
    runs = run("rigl")
    verdict = jt.verdict(runs, level=2, dense_lrs=[TRAINING.lr], points=3, progress=False)
    assert (verdict.method, verdict.start, verdict.at_init) == ("rigl", 0, True)
    assert verdict.density == pytest.approx(0.2, abs=1e-3)
    # examples of 12 steps until the last update, and of the dense gradients of three
    assert verdict.cost == pytest.approx((12 + 3) * 20 / len(runs.data.train))
    table = verdict.networks()
    own = begins(table.loc[table["branch"] == "ticket"])
    again = begins(jt.branch(runs, "retrain", levels=(2,), progress=False).table())
    np.testing.assert_array_equal(own, again)
    # the first mask of the rule was another one
    assert not np.isclose(again, begins(runs.table().query("level == 2"))).any()
    overview = jt.overview({"RigL": verdict})
    assert len(overview)


@pytest.mark.slow
def test_tickets_of_rules_are_compared_measured_and_moved(run, net, data):
    runs = run("set")
    found = jt.instability(
        net, data, TRAINING, tickets=runs, levels=(1, 2), at=0, seeds=[0, 1], points=3,
        progress=False,
    )  # fmt: skip
    rows = found.table()
    assert set(rows["level"]) == {1, 2} and set(rows["branch"]) == {"ticket"}
    measured = jt.measure(runs, "gradient_norm", levels=(2,), progress=False)
    assert np.isfinite(measured["value"]).all()
    moved = jt.transfer(runs, to=data, levels=(2,), branches=(), progress=False)
    np.testing.assert_array_equal(moved.ticket(2, 0).mask["dense_0"]["kernel"],
                                  runs.ticket(2, 0).mask["dense_0"]["kernel"])  # fmt: skip
    shuffled = jt.branch(runs, "shuffle", levels=(2,), progress=False)
    kept = [
        [int(m.sum()) for _, m in masks.items(own.ticket(2, 0).mask)] for own in (runs, shuffled)
    ]
    assert kept[0] == kept[1]


def test_rules_that_are_no_rule_of_the_library_have_the_name_of_their_class():
    class Mine(jt.dynamic.Static):
        pass

    pruning = jt.dynamic.SparseTraining((0.5,), rule=Mine())
    assert pruning.name == "Mine" and not pruning.moves(10)
    assert jt.dynamic.SparseTraining((0.5,), rule=jt.dynamic.RigL(fraction=0.5)).name == "RigL"
    assert jt.dynamic.SparseTraining((0.5,), rule=jt.dynamic.RigL(every=7, end=9)).name == "rigl"
