"""Verdicts, instability, branches and transfers with labels that are not classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labeled import TASKS, task

import jaxticket as jt
from jaxticket.analysis.conditions import Rules, conditions
from jaxticket.engine.judged import judged, judged_by

# the others compile for long
MOST = ["numbers", *(pytest.param(name, marks=pytest.mark.slow) for name in TASKS[1:])]
MAIN = {"numbers": "r2", "multilabel": "accuracy", "tokens": "accuracy"}


def training_of(own, steps=30, **changes):
    return jt.Training(steps=steps, batch_size=50, lr=0.01, eval_every=steps, **{**own, **changes})


@functools.cache
def unstable(name):
    net, data, own = task(name)
    # R2 is not among the metrics: it is measured all the same
    training = training_of(own, metrics=())
    return jt.instability(
        net, data, training, at=(0, 30), points=3, seeds=(0, 1), progress=False,
        mesh=jt.parallel.mesh(data=2),
    )  # fmt: skip


def answers(name, net, data, params, stats):
    """Logits and labels of the test split, and which answers count."""
    split = data.test
    x = split.x
    if name != "tokens":
        x = (np.asarray(x, np.float32) - np.asarray(data.mean)) / np.asarray(data.std)
    z = net.apply(params, stats, jnp.asarray(x, net.dtype), train=False)[0]
    return np.asarray(z), split.y


@pytest.mark.parametrize("name", MOST)
def test_copies_are_compared_by_the_metric_of_the_task(name):
    inst = unstable(name)
    assert inst.metric == MAIN[name]
    networks = inst.networks(at=0, seed=1)
    said, errors = [], []
    for copy in range(2):
        params, stats = jax.tree.map(lambda x, c=copy: jnp.asarray(x[c]), networks)
        z, y = answers(name, inst.net, inst.data, params, stats)
        if name == "numbers":
            errors.append(np.mean(((z - y) ** 2).sum(axis=0) / ((y - y.mean(0)) ** 2).sum(axis=0)))
        elif name == "multilabel":
            said.append(z > 0)
            errors.append(np.mean(said[-1] != (y > 0)))
        else:
            there = y >= 0
            said.append(np.where(there, z.argmax(axis=-1), -1))
            errors.append(np.mean(((said[-1] != y) & there).sum(axis=1) / there.sum(axis=1)))
    found = inst.copies().query("split == 'test' and metric == 'error' and at == 0 and seed == 1")
    np.testing.assert_allclose(found.value, errors, rtol=1e-3)
    table = inst.table().query("split == 'test' and at == 0 and seed == 1").set_index("metric")
    assert table.value["error"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert table.value["barrier"] >= abs(errors[0] - errors[1]) / 2 - 1e-6
    if name == "numbers":
        assert "disagreement" not in table.index and table.value["loss_l2"] > 0
    else:
        assert table.value["disagreement"] == np.sum(said[0] != said[1])
        # rounding decides on a few answers, none of which both give wrongly
        most = min(np.sum(y >= 0), sum(np.sum((s != y) & (y >= 0)) for s in said))
        assert table.value["disagreement_share"] == pytest.approx(np.sum(said[0] != said[1]) / most)


@pytest.mark.parametrize("name", MOST)
def test_states_at_the_end_are_stable(name):
    inst = unstable(name)
    stable = inst.stable().set_index("at")
    assert stable.loc[30, "mean"] == 0 and stable.loc[30, "stable"]
    assert inst.matching().set_index("at").loc[30, "diverged"] == 0
    line = jt.connectivity.line(
        inst.net, inst.data, inst.training, [(p, {}) for p in two_of(inst)], points=3
    )
    assert np.isfinite(line.losses()).all()
    measures = {"loss"} if name == "numbers" else {"error", "loss"}
    assert set(line.table().metric) == measures
    if name == "numbers":
        with pytest.raises(ValueError, match="labels are numbers; use losses"):
            line.barrier()


def two_of(inst):
    params, _ = inst.networks(at=0, seed=0)
    return [jax.tree.map(lambda x, c=copy: x[c], params) for copy in range(2)]


@functools.cache
def tickets(name):
    net, data, own = task(name)
    return jt.find_tickets(
        net, data.with_validation(0.2), training_of(own), jt.Pruning(levels=1), seeds=(0, 1),
        progress=False,
    )  # fmt: skip


def test_a_verdict_on_numbers(tmp_path):
    small = jt.networks.lenet(task("numbers")[1].shape, 2, (4,))
    found = jt.verdict(
        tickets("numbers"), level=1, small_dense=small, dense_lrs=(0.01, 0.02), points=3,
        folder=tmp_path, progress=False,
    )  # fmt: skip
    assert found.metric == "r2" and found.tuned and "dense network: test r2 " in str(found)
    last = found.networks().query("split == 'test' and metric == 'r2' and step == 30")
    means = last.groupby("branch").value.mean()
    rows = found.conditions().set_index("condition")
    assert rows.loc["matching", "value"] == pytest.approx(means["ticket"])
    assert rows.loc["matching", "bar"] == pytest.approx(means["dense"] - 0.002)
    assert rows.loc["reinit", "value"] == pytest.approx(means["reinit"])
    assert rows.loc["nontrivial", "means"] == "random pruning must be worse than dense"
    assert rows.loc["matching", "means"] == "the ticket must be as good as dense"
    again = jt.load(tmp_path, data=tickets("numbers").data)
    assert again.metric == "r2" and str(again) == str(found)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), [("multilabel", "macro_f1"), ("tokens", None)])
def test_verdicts_on_several_labels_and_tokens(name, metric):
    found = jt.verdict(
        tickets(name), level=1, small_dense=False, metric=metric, points=3, progress=False
    )
    last = found.networks().query("split == 'test' and step == 30")
    values = last[last.metric == (metric or "accuracy")].groupby("branch").value.mean()
    rows = found.conditions().set_index("condition")
    assert rows.loc["matching", "value"] == pytest.approx(values["ticket"])
    assert 0 <= rows.loc["stable", "value"] < 1


@pytest.mark.slow
def test_the_metric_is_part_of_the_identity_of_a_folder(tmp_path):
    net, data, own = task("multilabel")
    training = training_of(own, steps=4)  # which measures macro_f1
    more = {"at": 0, "points": 3, "seeds": (0,), "folder": tmp_path, "progress": False}
    inst = jt.instability(net, data, training, metric="macro_f1", **more)
    again = jt.load(tmp_path, data=data)
    assert again.metric == "macro_f1" and again.table().equals(inst.table())
    f1 = 1 - inst.labeled("ended").at(metric="macro_f1", split="test").values
    errors = inst.copies().query("metric == 'error' and split == 'test'").value
    np.testing.assert_allclose(np.sort(errors), np.sort(f1.ravel()), rtol=1e-6)
    with pytest.raises(jt.RunFolderError, match="metric"):
        jt.instability(net, data, training, **more)


@pytest.mark.slow
def test_a_verdict_by_a_metric_that_is_better_when_lower():
    found = jt.verdict(
        tickets("tokens"), level=1, small_dense=False, metric="perplexity", points=3,
        rules=Rules(margin=0.1, gap=0.2, barrier=0.5), progress=False,
    )  # fmt: skip
    last = found.networks().query("split == 'test' and metric == 'perplexity' and step == 30")
    means = last.groupby("branch").value.mean()
    row = found.conditions().set_index("condition").loc["matching"]
    assert row["value"] == pytest.approx(means["ticket"])
    assert row["margin"] == pytest.approx(means["dense"] + 0.1 - means["ticket"])
    assert row["passes"] == (row["margin"] >= 0)


def test_conditions_of_a_metric_that_is_better_when_lower_are_mirrored():
    loss = {"ticket": [0.20, 0.21, 0.19], "dense": [0.2, 0.2, 0.2], "reinit": [0.4, 0.41, 0.39]}
    loss["layerwise_random"] = [0.5, 0.52, 0.51]
    arrays = {name: -np.asarray(values) for name, values in loss.items()}
    training = jt.Training(loss="mse")
    main = judged("loss", training)
    assert main.lower and not main.shares
    rules = Rules(margin=0.01, gap=0.05, barrier=1.5)
    table = conditions(arrays, np.asarray([1.0, 1.2, 1.1]), rules, main=main)
    rows = table.set_index("condition")
    assert rows.loc[["nontrivial", "matching", "reinit", "stable"], "passes"].all()
    assert rows.loc["matching", ["value", "bar", "margin"]].tolist() == pytest.approx(
        [0.2, 0.21, 0.01]
    )
    assert rows.loc["reinit", "value"] == pytest.approx(0.4)
    assert rows.loc["reinit", "low"] < 0.4 < rows.loc["reinit", "high"]
    assert rows.loc["stable", "value"] == pytest.approx(1.1)
    with pytest.raises(ValueError, match="`margin`"):
        conditions(arrays, np.zeros(3), rules._replace(margin=-1), main=main)


def test_the_metric_that_judges():
    net, data, _ = task("numbers")
    labels, wider = data.labels, jt.networks.lenet(data.shape, 3, (4,))
    training, main = judged_by(None, jt.Training(loss="mse", metrics=("mae",)), net, labels)
    assert training.metrics == ("mae", "r2") and main == ("r2", 3, False, True)
    values = np.asarray([[0.5, np.nan, 0.3, 0.9]])
    assert main.error(values) == pytest.approx([0.1]) and main.worth(values) == [0.9]
    training, main = judged_by("mae", training, net, labels)
    assert main == ("mae", 2, True, False) and main.worth(values) == [-0.3]
    net, data, _ = task("tokens")
    assert judged_by(None, training, net, data.labels)[1].name == "accuracy"
    with pytest.raises(ValueError, match=r"`metric` is needed: `net` gives .3. outputs"):
        judged_by(None, training, wider, labels)


@pytest.mark.parametrize("name", MOST)
def test_branches_and_transfers(name):
    """Controls of found tickets, and tickets on other examples of the same kind."""
    runs = tickets(name)
    branch = jt.branch(runs, "shuffle", levels=[1], progress=False).table()
    moved = jt.transfer(
        runs, to=runs.data.fraction(0.5), levels=[1], branches=(), start=10, progress=False
    ).table()
    for table in (branch, moved):
        assert np.isfinite(table.value).all() and (table.metric == "loss").any()
        assert ("accuracy" in set(table.metric)) == (name != "numbers")
    loss = moved.query("split == 'test' and metric == 'loss'").set_index("step").value
    assert loss[30].mean() < loss[10].mean()


@pytest.mark.slow
def test_a_matrix_of_transfers_by_another_metric():
    runs = tickets("numbers")
    half = jt.find_tickets(
        runs.net, runs.data.fraction(0.5), runs.training, jt.Pruning(levels=1), seeds=(0, 1),
        progress=False,
    )  # fmt: skip
    own = jt.transfer(runs, to=half, levels=[1], branches=(), progress=False)
    matrix = jt.transfer_matrix({("all", "half"): own}, metric="r2")
    last = jt.speed.final(own.table(), metric="r2").groupby("branch").value.mean()
    assert matrix.r2.tolist() == pytest.approx([last["own"], last["transferred"]])


def refused_instability(**changes):
    net, data, own = task("numbers")
    return jt.instability(net, data, training_of(own), at=0, progress=False, **changes)


def refused_verdict(**changes):
    return jt.verdict(tickets("numbers"), level=1, progress=False, **changes)


REFUSED = [
    (lambda: refused_instability(metric="mae"), "`metric` 'mae' is not a share of 1"),
    (lambda: refused_instability(metric="accuracy"), "`metric`='accuracy' is not there"),
    (lambda: refused_instability(distances=("disagreement",)), "predicted numbers always do"),
    (lambda: refused_verdict(metric="loss"), r"`rules` are needed with metric='loss'"),
    (lambda: refused_verdict(metric="r3"), "`metric` 'r3' is unknown"),
    (lambda: refused_verdict(metric="top5"), "`metrics` has 'top5', which takes labels of"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
