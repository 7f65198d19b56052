"""The strict verdict on a winning ticket: its conditions, and `jt.verdict` on real tickets."""

import jax
import numpy as np
import pandas as pd
import pytest
from flax import nnx
from stops import killed

import jaxticket as jt
from jaxticket.analysis.conditions import CONTROLS, Rules, clear_gap, conditions
from jaxticket.analysis.trainings import CHANGES, Outcome
from jaxticket.analysis.verdict import Verdict, judgment
from jaxticket.engine.metrics import METRICS
from jaxticket.engine.program import program
from jaxticket.engine.supervised import Supervised
from jaxticket.nn import narrowed, parameters
from jaxticket.results import EvaluationLog

NAMES = ("nontrivial", "matching", *CONTROLS, "stable")
ACCURACY = {
    "dense": [0.95, 0.952, 0.951],
    "ticket": [0.951, 0.952, 0.95],
    "layerwise_random": [0.90, 0.91, 0.905],
    **{name: [0.93, 0.931, 0.932] for name in CONTROLS},
}
BARRIER = [0.01, 0.012, 0.011]


def judged(accuracy=ACCURACY, barrier=BARRIER, **rules):
    arrays = {name: np.asarray(values) for name, values in accuracy.items()}
    table = conditions(arrays, np.asarray(barrier), Rules(**rules))
    assert tuple(table["condition"]) == NAMES
    return dict(zip(table["condition"], table["passes"], strict=True)), table


def test_a_winning_ticket_passes_every_condition():
    passes, table = judged()
    assert all(value is True for value in passes.values())
    assert (table["margin"] > 0).all()
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()


@pytest.mark.parametrize("fails", NAMES)
def test_each_condition_can_fail_alone(fails):
    accuracy, barrier = dict(ACCURACY), BARRIER
    if fails == "nontrivial":
        accuracy["layerwise_random"] = accuracy["dense"]
    elif fails == "matching":
        accuracy["dense"] = [0.96, 0.962, 0.961]
    elif fails == "stable":
        barrier = [0.03, 0.02, 0.025]
    else:
        accuracy[fails] = [0.95, 0.949, 0.951]
    passes, table = judged(accuracy, barrier)
    assert [name for name, good in passes.items() if good is not True] == [fails]
    margin = table.set_index("condition")["margin"]
    assert (margin < 0).sum() == 1 and margin[fails] < 0


@pytest.mark.parametrize("lost", ["ticket", "dense", "copy", "reinit"])
def test_what_diverged_proves_nothing_and_spoils_nothing(lost):
    accuracy, barrier = dict(ACCURACY), BARRIER
    if lost == "copy":
        barrier = [0.01, np.nan, 0.01]
    else:
        accuracy[lost] = [accuracy[lost][0], np.nan, accuracy[lost][2]]
    passes, table = judged(accuracy, barrier)
    # a control that diverged at one seed is compared at the others
    touched = {
        "ticket": {"matching", *CONTROLS},
        "dense": {"nontrivial", "matching"},
        "copy": {"stable"},
        "reinit": set(),
    }[lost]
    assert {name for name, good in passes.items() if good is False} == touched
    assert np.isfinite(table[["value", "low", "high", "bar", "margin"]]).all(axis=None)
    counted = set(table.loc[table["diverged"] > 0, "condition"])
    assert counted == (touched or {"reinit"})


def test_a_control_that_diverged_at_all_seeds_but_one_is_not_beaten():
    passes, _ = judged({**ACCURACY, "reinit": [0.5, np.nan, np.nan]})
    assert passes["reinit"] is False


def test_what_was_not_trained_is_not_tested():
    accuracy = {name: values for name, values in ACCURACY.items() if name != "small_dense"}
    passes, table = judged(accuracy)
    assert passes["small_dense"] is None
    assert table.set_index("condition").loc["small_dense", "means"] == "not tested"


def test_boundaries_pass_whatever_the_rounding():
    """A gap of half a point and a barrier of two points, of float32 accuracies."""
    for wrong in range(1, 900, 7):
        ours = np.full(3, np.float32(wrong / 1000)).astype(float)
        theirs = np.full(3, np.float32(wrong / 1000 - 0.005)).astype(float)
        gap, pooled, clear = clear_gap(ours, theirs)
        assert clear and pooled == 0 and gap == pytest.approx(0.005, abs=1e-7)
        assert not clear_gap(ours, theirs + 1e-5)[2]
    assert judged(barrier=[np.float32(0.02)] * 3)[0]["stable"] is True
    assert judged(barrier=[0.02001] * 3)[0]["stable"] is False


def test_a_gap_is_clear_against_the_spread_of_seeds():
    """0.96 +- 0.02 and 0.94 +- 0.02: two points, one deviation."""
    ours, theirs = np.asarray([0.94, 0.96, 0.98]), np.asarray([0.92, 0.94, 0.96])
    gap, pooled, clear = clear_gap(ours, theirs)
    assert (gap, pooled) == (pytest.approx(0.02), pytest.approx(0.02)) and not clear
    assert clear_gap(ours, theirs, Rules(deviations=1.0))[2]
    assert not clear_gap(ours[:1], theirs[:1])[2]
    with pytest.raises(ValueError, match="`gap`"):
        Rules(gap=2.0).checked()


SPLITS = ("train", "validation", "test")


def outcome(held, shown, dense_held=0.95):
    """Networks that end as in ACCURACY, but for the tickets' course on two splits."""
    calls = len(held)
    histories = {}
    for name, final in ACCURACY.items():
        values = np.zeros((calls, 3, 3, len(METRICS)), np.float32)
        accuracy = values[..., METRICS.index("accuracy")]
        accuracy[:, :, 2] = np.asarray(final)
        accuracy[:, :, 1] = dense_held
        if name == "ticket":
            accuracy[:, :, 1] = np.asarray(held)[:, None]
            accuracy[:, :, 2] = np.asarray(shown)[:, None] + np.asarray([0, 1e-3, -1e-3])
        steps = np.repeat(10 * np.arange(calls)[:, None], 3, axis=1)
        histories[name] = EvaluationLog(
            np.arange(3), 1, np.full(3, 0.2), name, steps, np.ones((calls, 3), bool), values,
            np.full(3, -1), np.ones(3),
        )  # fmt: skip
    return Outcome(histories, np.asarray(BARRIER), 0.1, None)


def test_the_step_of_the_judgement_is_chosen_on_the_validation_split():
    """The ticket loses again what it had at step 20, and wins there; test accuracy alone, a lucky
    evaluation, decides nothing."""
    course = [0.1, 0.9, 0.952, 0.94]
    step, table = judgment(outcome(course, course), SPLITS, Rules())
    assert step == 20 and all(value is True for value in table["passes"])
    step, table = judgment(outcome([0.1, 0.9, 0.94, 0.94], course), SPLITS, Rules())
    assert step == 30 and not table.set_index("condition").loc["matching", "passes"]
    # reached on the validation split, and not matching there
    step, table = judgment(outcome(course, [0.1, 0.9, 0.93, 0.94]), SPLITS, Rules())
    assert step == 30 and not table.set_index("condition").loc["matching", "passes"]
    # without such a split there is the end
    alone = outcome(course, course)
    some = {name: h._replace(values=h.values[:, :, [0, 2]]) for name, h in alone.histories.items()}
    step, table = judgment(alone._replace(histories=some), ("train", "test"), Rules())
    assert step == 30 and not table.set_index("condition").loc["matching", "passes"]


DENSE = pd.DataFrame(
    {"branch": "dense", "level": 0, "density": 1.0, "split": "test", "metric": "accuracy",
     "seed": seed, "step": 30, "value": value}
    for seed, value in enumerate(ACCURACY["dense"])
)  # fmt: skip


def made(table, **changes):
    values = {
        "method": "imp", "density": 0.2, "seeds": (0, 1, 2), "start": 0, "at_init": True,
        "dense_lr": 0.1, "tuned": True, "small": None, "step": 30, "cost": 3.0, "folder": None,
        "_conditions": table, "_networks": DENSE, **changes,
    }  # fmt: skip
    return Verdict(**values)


def test_a_ticket_wins_at_initialization_beside_a_tuned_network():
    table = judged()[1]
    won = made(table)
    assert won.winning and won.summary()["wins"] and str(won).endswith("verdict: a winning ticket")
    late = made(table, at_init=False, start=100)
    assert "dense network: test accuracy 95.10%, learning rate 0.1" in str(won)
    assert late.passes_all and not late.winning and not late.summary()["wins"]
    assert "passes all, but does not start with weights of initialization" in str(late)
    untuned = made(table, tuned=False)
    failed = judged({**ACCURACY, "reinit": ACCURACY["ticket"]})[1]
    assert "failed reinit; the dense network's learning rate was not tuned" in str(
        made(failed, tuned=False)
    )
    assert not untuned.winning and not untuned.summary()["tuned"]
    assert "was not tuned" in str(untuned) and "with_validation" in str(untuned)
    untested = judged({k: v for k, v in ACCURACY.items() if k != "small_dense"})[1]
    assert not made(untested).winning and "no winning ticket" in str(made(untested))
    assert "not tested small_dense; does not start" in str(made(untested, at_init=False))


def test_the_dense_network_is_told_at_the_end_of_each_seed():
    dense = {"branch": "dense", "split": "test", "metric": "accuracy", "level": 0, "density": 1}
    ends = [(0, 10, 0.95), (1, 20, 0.90), (2, 30, 0.85)]
    rows = [
        {**dense, "seed": seed, "step": step, "value": value if step == end else 0.1}
        for seed, end, value in ends
        for step in range(10, end + 1, 10)
    ]
    table = judged()[1]
    assert "test accuracy 90.00%," in str(made(table, _networks=pd.DataFrame(rows)))
    lost = pd.DataFrame(rows).assign(value=np.nan)
    assert "test accuracy -, learning rate" in str(made(table, _networks=lost))


@pytest.mark.parametrize(
    ("name", "shape", "density", "places"),
    [
        ("lenet", (8, 8, 1), 0.05, 400),
        ("conv2", (8, 8, 3), 0.1, 40),
        pytest.param("resnet14", (8, 8, 3), 0.2, 20, marks=pytest.mark.slow),
    ],
)
def test_a_narrowed_network_is_the_widest_that_fits(name, shape, density, places):
    net = jt.NETWORKS[name](shape, 10)
    most = int(density * parameters(net))
    small = narrowed(net, most)
    assert parameters(small) <= most
    ratio = np.sqrt(density)
    wider = next(
        size
        for factor in np.linspace(0.8 * ratio, 1.5 * ratio, places)
        if (size := parameters(net.resized(float(factor)))) > parameters(small)
    )
    assert wider > most
    assert narrowed(net, parameters(net)) is net
    with pytest.raises(ValueError, match="narrowest network"):
        narrowed(net, 10)


TRAINING = jt.Training(60, 32, lr=0.1, eval_every=20, optimizer="sgd")


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits").with_validation(0.1)


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, (32, 16))


@pytest.fixture(scope="module")
def runs(net, data):
    return jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=2, fraction=0.6), seeds=range(3), progress=False
    )


@pytest.fixture(scope="module")
def found(runs):
    return jt.verdict(runs, level=2, points=5, progress=False)


def test_everything_is_trained_with_the_whole_recipe(found, runs, net):
    table = found.networks()
    branches = {"ticket", "ticket_copy", *CHANGES, "dense", "small_dense"}
    rates = {f"dense_lr_{TRAINING.lr * factor:g}" for factor in (1 / 3, 1, 3)}
    names = set(table["branch"])
    assert names - rates == branches and len(names & rates) == 2
    final = table.groupby(["branch", "seed"])["step"].max()
    assert (final == TRAINING.steps).all() and len(final) == 3 * len(names)
    density = table.groupby("branch")["density"].mean()
    kept = runs.densities[2]
    assert all(density[name] == pytest.approx(kept) for name in ("ticket", *CHANGES))
    share = parameters(found.small) / parameters(net)
    assert density["small_dense"] == pytest.approx(share)
    ticket = runs.by_level[2]
    left = min(
        parameters(net) - sum(int((~m[r]).sum()) for m in jax.tree.leaves(ticket.mask))
        for r in range(3)
    )
    assert parameters(found.small) <= left
    assert found.tuned and (found.start, found.at_init) == (0, True)
    assert found.cost == pytest.approx(2 * 60 * 32 / len(runs.data.train))


def test_the_baseline_is_the_rate_that_is_best_on_the_validation_split(found):
    table = found.networks()
    held = table[(table["split"] == "validation") & (table["metric"] == "accuracy")]
    held = held[held["step"] == TRAINING.steps].groupby("branch")["value"].mean()
    dense = held[[name for name in held.index if name.startswith("dense")]]
    assert dense.idxmax() == "dense"
    assert f"dense_lr_{found.dense_lr:g}" not in dense.index


def test_the_text_says_the_value_the_margin_and_the_verdict(found):
    text = str(found)
    for name in NAMES:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert ("passes" in line) != ("FAILS" in line)
    assert text.splitlines()[-1].startswith("verdict: ")
    assert found.winning == ("a winning ticket" == text.rpartition("verdict: ")[2])


def test_its_numbers_are_those_of_its_networks(found):
    table = found.networks()
    final = table[
        (table["split"] == "test") & (table["metric"] == "accuracy") & (table["step"] == 60)
    ]
    mean = final.groupby("branch")["value"].mean()
    rows = found.conditions().set_index("condition")
    for name in CONTROLS:
        assert rows.loc[name, "value"] == pytest.approx(mean[name])
    assert rows.loc["nontrivial", "value"] == pytest.approx(mean["layerwise_random"])
    if found.step == 60:
        assert rows.loc["matching", "value"] == pytest.approx(mean["ticket"])
    assert rows.loc["matching", "bar"] == pytest.approx(mean["dense"] - 0.002)


def test_controls_are_the_branches_and_stability_is_instability(found, runs, net, data):
    """The same barriers as `jt.instability` measures between its copies of these tickets."""
    analysis = jt.instability(
        net, data, TRAINING, tickets=runs, levels=[2], points=5, distances=(), seeds=range(3),
        progress=False,
    )  # fmt: skip
    table = analysis.table()
    rows = table[(table["metric"] == "barrier") & (table["split"] == "test")]
    stable = found.conditions().set_index("condition").loc["stable"]
    assert stable["value"] == pytest.approx(rows["value"].mean(), abs=1e-6)


def test_the_compiled_program_of_the_run_is_used_again(runs, net):
    compiled = program(Supervised(net, TRAINING), runs.mesh)
    before = compiled.traces()
    jt.verdict(runs, level=1, points=3, small_dense=False, progress=False)
    assert compiled.traces() == before >= 1


def test_a_score_of_ones_own_names_the_method(runs, net, data):
    def smallest(params, context, *, key):
        return jax.tree.map(lambda w: -abs(w), params)

    pruning = jt.Pruning(levels=1, fraction=0.6, score=smallest)
    own = jt.find_tickets(net, data, TRAINING, pruning, seeds=range(3), progress=False)
    found = jt.verdict(own, level=1, points=3, small_dense=False, progress=False)
    assert found.method == "imp_smallest"


def test_two_seeds_give_what_three_give(found, runs):
    two = jt.verdict(runs, level=2, points=5, seeds=(0, 2), progress=False)
    ours, theirs = two.networks(), found.networks()
    keys = ["branch", "seed", "step", "split", "metric"]
    theirs = theirs[theirs["seed"] != 1]
    both = ours.merge(theirs, on=keys, suffixes=("", "_three"))
    both = both[both["branch"].isin(["ticket", "ticket_copy", *CHANGES])]
    assert len(both) == 2 * 7 * 4 * 3 * 2
    np.testing.assert_allclose(both["value"], both["value_three"], atol=2e-5)


def test_a_verdict_that_was_begun_goes_on(runs, tmp_path):
    options = {"level": 1, "points": 5, "progress": False, "small_dense": False}
    whole = jt.verdict(runs, folder=tmp_path / "a", at_once=1, **options)
    assert (tmp_path / "a" / "verdict.txt").read_text().strip() == str(whole)
    with killed(2, units=True):
        jt.verdict(runs, folder=tmp_path / "b", at_once=1, **options)
    again = jt.verdict(runs, folder=tmp_path / "b", at_once=1, **options)
    np.testing.assert_array_equal(again.networks()["value"], whole.networks()["value"])
    assert str(again) == str(whole)
    assert not whole.winning  # no small dense network was trained


def test_tickets_of_any_method_and_their_overview(net, data, found):
    early = jt.prune_at(net, data, TRAINING, score="snip", density=0.16, seeds=range(2),
                        progress=False)  # fmt: skip
    learned = jt.search(net, data, TRAINING, "concrete", density=0.16, start=10, seeds=range(2),
                        steps=20, progress=False)  # fmt: skip
    others = [
        jt.verdict(own, level=1, points=3, dense_lrs=[0.1], progress=False)
        for own in (early, learned)
    ]
    table = jt.overview([found, *others])
    assert table["method"].tolist() == ["imp", "snip", "concrete"]
    assert table["at_init"].tolist() == [True, True, False]
    assert {"stable", "sensitive", "wins", "cost_epochs"} <= set(table.columns)
    assert not table["wins"].iloc[2]
    # a rate that is given is taken to be the best
    assert others[0].tuned and "learning rate 0.1, as given\n" in str(others[0])
    assert ", the best on the validation split\n" in str(found)


class Own(nnx.Module):
    def __init__(self, units, rngs):
        self.hidden = nnx.Linear(64, units, rngs=rngs)
        self.out = nnx.Linear(units, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x.reshape(len(x), -1))))


def of_width(units):
    return jt.from_nnx(lambda rngs: Own(units, rngs), (8, 8, 1), name=f"of {units}")


def test_networks_of_ones_own_have_a_small_one_where_they_have_a_width(data):
    def find(net):
        return jt.find_tickets(
            net, data, TRAINING, jt.Pruning(levels=1, fraction=0.6), seeds=(0, 1), progress=False
        )

    plain, options = find(of_width(12)), {"level": 1, "points": 3, "progress": False}
    with pytest.warns(UserWarning, match=r"`small_dense` is not tested.* at most the \d+ param"):
        untested = jt.verdict(plain, **options)
    assert untested.small is None and not untested.winning
    assert "not tested small_dense" in str(untested) and "nan" not in str(untested)
    with pytest.raises(ValueError, match=r"`small_dense` is True: .* no width.* small_dense="):
        jt.verdict(plain, small_dense=True, **options)
    wide = jt.from_nnx(
        lambda rngs: Own(12, rngs),
        (8, 8, 1),
        name="of 12",
        resized=lambda width: of_width(max(1, round(12 * width))),
    )
    found = jt.verdict(find(wide), **options)
    assert found.small.config == of_width(4).config
    assert "small_dense" in set(found.networks()["branch"])


def test_a_ticket_can_be_too_sparse_for_any_small_network(net, data):
    runs = jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=1, fraction=0.99), seeds=(0, 1), progress=False
    )
    with pytest.raises(ValueError, match=r"`small_dense` cannot have at most .* small_dense=False"):
        jt.verdict(runs, level=1, points=3, progress=False)


def test_wrong_arguments_are_named(runs, net, data):
    options = {"level": 2, "progress": False}
    with pytest.raises(ValueError, match=r"`level` must be one of \[1, 2\], got 0"):
        jt.verdict(runs, **{**options, "level": 0})
    with pytest.raises(ValueError, match="`seeds` must be at least two"):
        jt.verdict(runs, seeds=[1], **options)
    with pytest.raises(ValueError, match=r"`seeds` must be some of"):
        jt.verdict(runs, seeds=[1, 9], **options)
    with pytest.raises(ValueError, match="`net` must be that of `runs`"):
        jt.verdict(runs, net=net.resized(0.5), **options)
    with pytest.raises(ValueError, match="`points`"):
        jt.verdict(runs, points=1, **options)
    with pytest.raises(ValueError, match="`dense_lrs` must be distinct"):
        jt.verdict(runs, dense_lrs=[0.1, 0.1], **options)
    with pytest.raises(ValueError, match="`small_dense` must be a network"):
        jt.verdict(runs, small_dense="x", **options)
    with pytest.raises(ValueError, match=r"`small_dense` has \d+ parameters and the ticket \d+"):
        jt.verdict(runs, small_dense=net, **options)
    plain = jt.data.load("digits")
    with pytest.raises(ValueError, match="with_validation"):
        jt.verdict(runs, data=plain, dense_lrs=[0.1, 0.2], **options)
