"""Replicas that diverge: marked everywhere, believed nowhere, and harmless to the others."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import noisy_patterns

import jaxticket as jt
from jaxticket.analysis import stats
from jaxticket.ticket import about as ticket_about

SEEDS = (0, 1, 2)
TRAINING = jt.Training(
    steps=12, batch_size=20, optimizer="sgd", lr=0.1, eval_every=4, eval_batch_size=60
)
# weights overflow in the first update
WILD = TRAINING.replace(lr=1e20, weight_decay=1e30)
# the rate of the last update alone overflows: no training loss comes after it
LAST = TRAINING.replace(lr=1.0, milestones=(11,), gamma=1e38)
PRUNING = jt.Pruning(levels=2, fraction=0.5)


@pytest.fixture(scope="module")
def data():
    return noisy_patterns()


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=(12,))


@pytest.fixture(scope="module")
def two_faced(net):
    """A network whose initial weights overflow for one of the seeds."""

    def init(key):
        params, stats = net.init(key)
        scale = jnp.where(jnp.all(jax.random.key_data(key) == wild), 1e30, 1.0)
        return jax.tree.map(lambda w: w * scale.astype(w.dtype), params), stats

    from jaxticket.random import root_keys, stream

    wild = jax.random.key_data(stream(root_keys(SEEDS)[1], "init"))
    return dataclasses.replace(net, init=init, config=json.dumps({"test": "two-faced"}))


def run(kind, net, data, training, **options):
    """One of the functions that train tickets, with all its rows of the table."""
    options = {"seeds": SEEDS, "progress": False, **options}
    if kind == "find_tickets":
        return jt.find_tickets(net, data, training, PRUNING, branches=["shuffle"], **options)
    if kind == "branch":
        calm = jt.find_tickets(net, data, TRAINING, PRUNING, **options)
        return jt.branch(calm, "retrain", training=training, progress=False)
    if kind == "prune_at":
        return jt.prune_at(
            net, data, training, score="magnitude", density=(0.5, 0.2), branches=["shuffle"],
            **options,
        )  # fmt: skip
    if kind == "search":
        return jt.search(net, data, training, "edge_popup", density=(0.5,), **options)
    calm = jt.find_tickets(net, data, TRAINING, PRUNING, **options)
    return jt.transfer(calm, to=data, training=training, progress=False)


@pytest.mark.parametrize("training", [WILD, LAST], ids=["wild", "last"])
@pytest.mark.parametrize("kind", ["find_tickets", "branch", "prune_at", "search", "transfer"])
def test_from_divergence_on_every_metric_is_nan(kind, training, net, data):
    runs = run(kind, net, data, training)
    table = runs.table()
    table = table[table.branch != "supermask"]
    assert (table.diverged >= 0).all()
    late = table.step >= table.diverged
    assert table.value[late].isna().all() and late.any()
    assert np.isfinite(table.value[~late]).all()
    if training is LAST:
        assert (table.diverged == training.steps).all() or kind == "find_tickets"
        assert (~late).any()
    # nobody is left out: the last step of every training is there
    assert set(table.groupby(["seed", "level", "branch"]).step.max()) == {training.steps}
    assert runs.matching() == dict.fromkeys(runs.levels, False)
    assert runs.winning() is None


def test_with_a_rate_of_10000_nothing_matches_or_wins(data):
    """The report that began this file: accuracies of 10%, equal to one another, were matching."""
    net = jt.networks.lenet(data.shape, data.classes)
    wild = TRAINING.replace(lr=1e4)
    runs = jt.find_tickets(net, data, wild, jt.Pruning(levels=1), seeds=range(2), progress=False)
    assert runs.matching() == {0: False, 1: False} and runs.winning() is None
    with pytest.raises(ValueError, match="2 dense replicas and all of them diverged"):
        stats.matching(runs.table())
    # the nominal density of its level, though no mask was found
    np.testing.assert_allclose(runs.densities, [1.0, 0.8], atol=1e-4)
    with pytest.raises(ValueError, match="every replica diverged"):
        jt.plots.accuracy(runs.table())


@pytest.fixture(scope="module")
def mixed(two_faced, data, tmp_path_factory):
    return jt.find_tickets(
        two_faced, data, TRAINING, PRUNING, seeds=SEEDS, branches=["shuffle", "reinit"],
        folder=tmp_path_factory.mktemp("mixed"), progress=False,
    )  # fmt: skip


def test_a_seed_that_diverged_stays_in_its_level_and_is_counted(mixed):
    table = mixed.table()
    assert set(table.density.round(6)) == set(mixed.densities.round(6))
    final = stats.over_seeds(stats.final(table))
    assert (final.seeds == 3).all()
    own = final[final.branch != "reinit"]
    assert (own.diverged == 1).all() and len(own) == 3 + 3
    # a mask that was never found cannot be given other weights
    again = final[(final.branch == "reinit") & (final.level > 0)]
    assert (again.diverged == 1).all()
    judged = stats.matching(table)
    assert not judged.matching.any()
    assert mixed.matching() == {0: False, 1: False, 2: False} and mixed.winning() is None
    figure = jt.plots.accuracy(table)
    said = [text.get_text() for text in figure.figure.axes[0].get_legend().get_texts()]
    assert "some seeds diverged (1 of 3)" in said


def test_a_seed_that_diverged_harms_nobody(mixed, two_faced, data):
    calm = jt.find_tickets(
        two_faced, data, TRAINING, PRUNING, seeds=(0, 2), branches=["shuffle", "reinit"],
        progress=False,
    )  # fmt: skip
    table = mixed.table()
    left = table[table.seed != 1].reset_index(drop=True)
    assert left.equals(calm.table())


def test_ticket_files_say_what_diverged(mixed):
    for seed, step in ((0, None), (1, 0)):
        path = mixed.folder / "tickets" / f"ticket-level-01-seed-{seed}.safetensors"
        about = ticket_about(path)["about"]
        assert about["diverged"] == step
        assert (about["accuracy"] is None) == (step is not None)


def test_controls_made_later_know_what_was_lost(mixed):
    later = jt.branch(mixed, "reinit", progress=False).table()
    there = mixed.table()
    there = there[(there.branch == "reinit") & (there.level > 0)].reset_index(drop=True)
    assert later[later.level > 0].reset_index(drop=True).equals(there)


def explodes(ticket, key, *, net):
    """A control that draws weights that are not finite, for about half of the seeds."""
    bad = jax.random.uniform(jax.random.fold_in(key, 2), ()) < 0.5
    params = jax.tree.map(lambda w: jnp.where(bad, jnp.asarray(jnp.nan, w.dtype), w), ticket.params)
    return ticket.replace(params=params)


def test_a_control_that_is_not_finite_for_one_seed_ends_nothing(net, data):
    seeds = range(6)
    runs = jt.find_tickets(
        net, data, TRAINING, PRUNING.replace(levels=1), seeds=seeds, branches=[explodes],
        progress=False,
    )  # fmt: skip
    final = stats.final(runs.table())
    lost = final[(final.branch == "explodes") & (final.level == 1)].set_index("seed")
    bad = lost.index[lost.diverged >= 0]
    assert 0 < len(bad) < 6
    assert lost.value[bad].isna().all() and np.isfinite(lost.value.drop(bad)).all()
    # where it did nothing, it trains as the ticket does
    own = final[(final.branch == "ticket") & (final.level == 1)].set_index("seed")
    assert (lost.value.drop(bad) == own.value.drop(bad)).all()
    assert (own.diverged == -1).all()


def test_a_verdict_names_what_diverged_and_judges_the_others(mixed):
    verdict = jt.verdict(mixed, level=1, small_dense=False, points=3, folder=None, progress=False)
    judged = verdict.conditions().set_index("condition")
    tested = judged.drop(index="small_dense")
    assert np.isfinite(tested["value"]).all()
    assert judged.loc["matching", "diverged"] == 2 and not judged.loc["matching", "passes"]
    assert not verdict.winning
    text = str(verdict)
    assert "2 diverged" in text and "no winning ticket: failed" in text and "matching" in text


def test_the_best_dense_rate_is_one_at_which_no_seed_diverges(net, data):
    held = data.with_validation(0.2)
    runs = jt.find_tickets(
        net, held, TRAINING, PRUNING.replace(levels=1), seeds=SEEDS, progress=False
    )
    verdict = jt.verdict(
        runs, level=1, dense_lrs=(1e30, 0.1), small_dense=False, points=3, progress=False
    )
    assert verdict.dense_lr == 0.1
    assert np.isfinite(verdict.conditions().set_index("condition").loc["matching", "value"])


def test_instability_starts_nothing_from_what_diverged(mixed):
    inst = jt.instability(
        mixed.net, mixed.data, mixed.training, tickets=mixed, levels=(1,), points=3, copies=2,
        distances=["l2"], progress=False,
    )  # fmt: skip
    barriers = inst.barriers(level=1)
    assert np.isnan(barriers[1]).all()
    assert np.isfinite(barriers[[0, 2]]).all()


def test_a_training_with_another_dilation_decides_nothing(net, data):
    runs = jt.find_tickets(net, data, TRAINING, PRUNING, seeds=SEEDS, progress=False)
    again = jt.branch(runs, "retrain", dilation=(0.25, 1.0), name="again", progress=False)
    alone = jt.branch(runs, "retrain", name="again", progress=False)
    assert again.matching() == alone.matching() == runs.matching()
    short = jt.branch(runs, "retrain", dilation=0.25, progress=False)
    with pytest.raises(ValueError, match=r"dilation 1.*so trained are \[\]"):
        short.matching()


def test_tables_of_older_versions_are_read_rightly(mixed):
    """There a replica that had diverged has an accuracy, and the density of its older mask."""
    table = mixed.table()
    old = table.assign(
        value=table.value.fillna(0.33),
        density=table.density.where((table.diverged < 0) | (table.level == 0), 1.0),
    )
    new = stats.over_seeds(stats.final(table)).drop(columns="density")
    assert stats.over_seeds(stats.final(old)).drop(columns="density").equals(new)
