"""Dynamic IMP: masks of phases, what stays and what grows, one-shot IMP as its special case."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pandas as pd
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket import masks
from jaxticket.random import stream
from jaxticket.sparsify import AtStep, Found, Stage, dense_ticket, of_dense, run_strategy
from tests.stops import in_spite_of_deaths

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
SIZE = 64 * 5 + 5 * 10
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=4, eval_batch_size=48
)
DENSITIES, COUNTS = (0.5, 0.2), (185, 74)
SEEDS = (0, 1)

train = functools.partial(
    jt.dynamic_imp, NET, DATA, TRAINING, density=DENSITIES, changes=(3,), seeds=SEEDS,
    progress=False,
)  # fmt: skip


@functools.cache
def trained(**options):
    return train(keep="trained", **options)


def same(a, b):
    pd.testing.assert_frame_equal(a.table(), b.table())
    if a.traces or b.traces:
        pd.testing.assert_frame_equal(a.trace(), b.trace())
    chex.assert_trees_all_equal(a.by_level, b.by_level)
    chex.assert_trees_all_equal(a.at, b.at)


def kept(mask):
    """Weights that masks [replica, ...] keep, one number for each."""
    return np.sum([m.reshape(len(m), -1).sum(1) for _, m in masks.items(mask)], axis=0).tolist()


def both(one, other):
    return jax.tree.map(np.logical_and, one, other)


def best(params, mask, count):
    """The largest weights of a mask, of all seeds."""
    sizes = jax.tree.map(np.abs, params)
    found = jax.vmap(lambda s, m: jt.keep_top(s, m, count))(sizes, mask)
    return jax.tree.map(np.asarray, found)


def dense_masks():
    return NET.mask(lead=(len(SEEDS),))


def weights_under(mask, one, other):
    """The weights of one network where a mask is True, and of another elsewhere, biases of one."""
    return masks.map_with(np.where, mask, one, other, other=lambda w, _: w)


# --- the algorithm


def test_every_phase_keeps_the_same_number_of_weights():
    runs = trained(changes=(2, 5))
    for level, count in enumerate(COUNTS, 1):
        first, second = (runs.trained_tickets(level, step=k) for k in (2, 5))
        last = runs.by_level[level]
        for ticket in (first, second, last, runs.trained_tickets(level)):
            assert kept(ticket.mask) == [count, count]
            gone = masks.map_with(lambda m, w: not np.any(w[~m]), ticket.mask, ticket.params)
            assert all(jax.tree.leaves(gone))
        # the overlap of masks at each change
        for change, (a, b) in enumerate(((first, second), (second, last)), 1):
            rows = runs.trace().query("level == @level and change == @change")
            shared = kept(both(a.mask, b.mask))
            assert rows.seed.tolist() == list(SEEDS)
            assert rows.step.tolist() == [(2, 5)[change - 1]] * 2
            assert rows.overlap.tolist() == [x / count for x in shared]
            assert rows.grown.tolist() == [count - x for x in shared] and 0 < min(rows.grown)
    assert runs.densities.tolist() == [1.0, *(count / SIZE for count in COUNTS)]


def test_the_first_phase_is_one_shot_imp_up_to_the_change():
    runs = trained()
    for level, share in enumerate(DENSITIES, 1):
        imp = jt.find_tickets(
            NET, DATA, TRAINING.replace(steps=3), jt.Pruning(2, 1 - share, one_shot=True),
            seeds=SEEDS, keep="trained", progress=False,
        )  # fmt: skip
        ours, theirs = runs.trained_tickets(level, step=3), imp.trained_tickets(1)
        chex.assert_trees_all_equal(ours.mask, theirs.mask)
        if level == 1:
            # under the SGD noise of the level, which for the other density is another
            chex.assert_trees_all_equal(ours.params, theirs.params)


@dataclasses.dataclass(frozen=True)
class Ahead(AtStep):
    """Trains the dense networks of the second phase to the end, under the noise of level 0."""

    regrow: str = "fresh"
    schedule: str = "remaining"

    def tickets(self, runner, states):
        hybrid = started(1, self.regrow), trained(regrow=self.regrow).trained(1, step=3)[1]
        yield Stage([Found(1, dense_masks(), dense_ticket(NET, hybrid, self.step))])

    def cost(self, runs, level):
        return of_dense(runs, self.step)


def drawn(name="regrow", change=1):
    """New weights for a change, of all seeds."""
    keys = (stream(stream(jax.random.key(seed), name, change), "init") for seed in SEEDS)
    return jax.tree.map(lambda *x: np.stack(x), *(NET.init(key)[0] for key in keys))


def started(level, regrow="fresh"):
    """The dense networks that look ahead after the change."""
    runs = trained(regrow=regrow)
    before = runs.trained_tickets(level, step=3)
    new = runs.origin.params if regrow == "same" else drawn()
    return weights_under(before.mask, before.params, new)


@pytest.mark.parametrize("regrow", ["fresh", "same"])
def test_the_second_mask_is_that_of_the_dense_hybrid_trained_on(regrow):
    """By a strategy that trains this network: nothing of the library's search is in it."""
    ahead = run_strategy(
        NET, DATA, TRAINING, Ahead((1.0,), 3, regrow=regrow), seeds=SEEDS, dense=False,
        keep="trained", progress=False,
    )  # fmt: skip
    expected = best(ahead.trained(1)[0], dense_masks(), COUNTS[0])
    chex.assert_trees_all_equal(trained(regrow=regrow).by_level[1].mask, expected)


@pytest.mark.parametrize("regrow", ["fresh", "reinit", "same", "zero"])
def test_weights_that_stay_go_on_and_others_are_as_asked_for(regrow):
    runs = trained(regrow=regrow)
    for level in (1, 2):
        before, after = runs.trained_tickets(level, step=3), runs.by_level[level]
        assert after.step.tolist() == [3, 3]
        new = {
            "fresh": drawn(),
            "reinit": drawn("regrow again"),
            "same": runs.origin.params,
            "zero": jax.tree.map(np.zeros_like, before.params),
        }[regrow]
        expected = weights_under(before.mask, before.params, new)
        expected = masks.host_apply(after.mask, expected)
        # compiled or not, draws differ in the last bit; what was trained does not
        chex.assert_trees_all_close(after.params, expected, rtol=1e-6)
        stay = both(before.mask, after.mask)
        chex.assert_trees_all_equal(*(masks.host_apply(stay, x.params) for x in (before, after)))
        chex.assert_trees_all_equal(after.stats, before.stats)
    # the mask was found with the first draw
    again = regrow == "reinit"
    other = masks.overlap(runs.ticket(1, 0).mask, trained().ticket(1, 0).mask)
    assert (other == 1) == (again or regrow == "fresh")


def test_the_last_phase_is_that_of_any_ticket_and_the_table_has_all():
    runs = trained()
    again = jt.branch(runs, "retrain", name="ticket", levels=(1, 2), progress=False)
    table, last = runs.table(), again.table()
    for level in (1, 2):
        rows = table.query("level == @level")
        assert rows.step.unique().tolist() == [0, 3, 4, 8]
        end = last.query("level == @level and step > 3").value.tolist()
        assert rows.query("step > 3").value.tolist() == end
        # at the change stands what was trained, and not the network with new weights
        before = runs.trained_tickets(level, step=3)
        loss = rows.query("step == 3 and seed == 1 and split == 'train' and metric == 'loss'")
        problem = jt.Problem(NET, DATA, TRAINING)
        own = jax.tree.map(lambda x: x[1], (before.params, before.stats))
        np.testing.assert_allclose(loss.value.item(), problem.loss(*own), rtol=1e-5)
    assert table.query("level == 0").step.unique().tolist() == [0, 4, 8]


def test_without_changes_it_is_one_shot_imp():
    runs = train(density=(0.5, 0.25), changes=(), keep="trained")
    imp = jt.find_tickets(
        NET, DATA, TRAINING, jt.Pruning(2, 0.5, one_shot=True), seeds=SEEDS, keep="trained",
        progress=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(runs.table(), imp.table())
    chex.assert_trees_all_equal(runs.by_level, imp.by_level)
    chex.assert_trees_all_equal(runs.final, imp.final)
    assert runs.pruning.from_initialization and not trained().pruning.from_initialization
    spent = [jt.costs.finding(own).query("level > 0").training_steps for own in (runs, imp)]
    assert spent[0].tolist() == spent[1].tolist() == [8, 8]
    with pytest.raises(ValueError, match="`trace` is there for the runs of"):
        runs.trace()


# --- the first mask, and what grows


def test_first_masks_without_looking_ahead():
    early = jt.prune_at(
        NET, DATA, TRAINING, density=DENSITIES, score="magnitude", seeds=SEEDS, progress=False
    )
    runs = trained(first="magnitude")
    drawn = trained(first="random")
    for level, count in enumerate(COUNTS, 1):
        chex.assert_trees_all_equal(
            runs.trained_tickets(level, step=3).mask, early.by_level[level].mask
        )
        ours = drawn.trained_tickets(level, step=3).mask
        assert kept(ours) == [count, count] and kept(both(ours, runs.by_level[level].mask))
        layer = ours["dense_0"]["kernel"]
        assert not np.array_equal(layer[0], layer[1])
        assert abs(layer.mean() - DENSITIES[level - 1]) < 0.1, "all layers alike"
    assert jt.costs.finding(runs).training_steps.tolist() == [0, 3 + 5, 3 + 5]


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_other_ways_to_grow_keep_what_the_oracle_keeps(growth):
    oracle, runs = trained(), trained(growth=growth)
    pd.testing.assert_frame_equal(runs.trace(), oracle.trace())
    for level in (1, 2):
        before = runs.trained_tickets(level, step=3)
        chex.assert_trees_all_equal(before, oracle.trained_tickets(level, step=3))
        ours, theirs = (own.by_level[level].mask for own in (runs, oracle))
        chex.assert_trees_all_equal(both(before.mask, ours), both(before.mask, theirs))
        assert kept(both(ours, theirs)) != kept(ours)


def test_gradients_grow_the_steepest():
    """A batch of all examples, so that its gradient can be known from outside."""
    training = TRAINING.replace(batch_size=96, optimizer="sgd", accumulate=1)
    runs = jt.dynamic_imp(
        NET, DATA, training, density=0.2, changes=3, growth="gradient", overlap=0.5,
        first="random", seeds=(0,), progress=False,
    )  # fmt: skip
    before, after = runs.trained_tickets(1, step=3), runs.by_level[1]
    one = jax.tree.map(lambda x: x[0], (before.params, before.stats))
    slopes = jt.Problem(NET, DATA, training).gradient(*one)
    pruned = jax.tree.map(np.logical_not, before.mask)
    new = both(pruned, after.mask)
    chex.assert_trees_all_equal(new, best(jax.tree.map(lambda x: x[None], slopes), pruned, 37))
    # half of the mask stays, and it is the larger half
    stay = both(before.mask, after.mask)
    chex.assert_trees_all_equal(stay, best(before.params, before.mask, 37))
    # no look ahead: a gradient is all that it takes
    cost = jt.costs.finding(runs).query("level == 1").iloc[0]
    assert cost.training_steps == 3 and cost.examples == (3 + 1) * 96


def test_masks_overlap_as_much_as_is_asked_for():
    free = trained().trace().overlap
    for growth in ("oracle", "gradient", "random"):
        for share in (0.0, 0.8, 1.0):
            overlap = train(growth=growth, overlap=share).trace().overlap
            least = [round(share * count) / count for count in COUNTS for _ in SEEDS]
            if growth == "oracle":
                least = np.maximum(free, least)
            np.testing.assert_allclose(overlap, least)
    forced = train(overlap=0.8)
    chex.assert_trees_all_equal(train(overlap=0.0).by_level, trained().by_level)
    assert jt.costs.finding(forced).training_steps.tolist() == [0, 3 + 3 + 5, 3 + 3 + 5]
    # where masks are dense, some of the old one has to stay
    dense = train(density=0.9, growth="random", overlap=0.0)
    assert kept(dense.by_level[1].mask) == [333, 333]


# --- how it runs


def test_seeds_side_by_side_are_those_alone():
    alone, runs = train(seeds=(1,), changes=(2, 5)), train(changes=(2, 5))
    for level in (1, 2):
        ours, theirs = runs.ticket(level, 1), alone.ticket(level, 1)
        chex.assert_trees_all_equal(ours, theirs)
    table = runs.table().query("seed == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(table, alone.table())


@pytest.mark.parametrize("growth", ["oracle", "gradient"])
def test_one_device_and_few_at_once_give_the_same(growth):
    few = {"mesh": jt.parallel.mesh(devices=jax.devices()[:1]), "at_once": 1}
    two = {"mesh": jt.parallel.mesh(devices=jax.devices()[:2])}
    same(train(growth=growth, **few), train(growth=growth, **two))


def test_a_stopped_run_goes_on_and_grows(tmp_path):
    options = {"growth": "gradient", "keep_at": (2, 4), "density": (0.5,), "seeds": (1,)}
    run = functools.partial(train, folder=tmp_path, save_every=0, **options)
    whole = train(**options)
    assert {step for *_, step in whole.at} == {2, 3, 4}
    # after every piece of every phase
    found, deaths = in_spite_of_deaths(run, units=True)
    assert deaths > 8
    same(found, whole)
    read = jt.load(tmp_path, net=NET, data=DATA)
    same(read, whole)
    assert read.pruning == whole.pruning
    with pytest.raises(jt.RunFolderError, match=r"pruning\.growth"):
        run(growth="random")
    more = {"density": DENSITIES, "seeds": (1, 0)}
    same(run(**more), train(**{**options, **more}))


def test_networks_that_diverge_are_marked():
    wild = TRAINING.replace(lr=1e25, optimizer="sgd")
    runs = jt.dynamic_imp(
        NET, DATA, wild, density=DENSITIES, changes=3, first="random", seeds=SEEDS, dense=False,
        progress=False,
    )  # fmt: skip
    assert runs.lost_at(1).all() and runs.trace().overlap.isna().all()
    end = runs.table().query("step == 8 and level == 1")
    assert end.value.isna().all() and (end.diverged < 8).all()


def test_controls_train_next_to_the_last_phase():
    runs = train(branches=("shuffle",))
    rows = runs.table().query("branch == 'shuffle'")
    assert rows.step.unique().tolist() == [3, 4, 8] and rows.level.unique().tolist() == [1, 2]


WRONG = [
    ({"changes": (0,)}, "`changes` must be a whole number of at least 1, got 0"),
    ({"changes": (3, 3)}, r"`changes` must be steps that ascend, .* got \(3, 3\)"),
    ({"changes": (5, 2)}, r"`changes` must be steps that ascend, .* got \(5, 2\)"),
    ({"changes": 8}, "`changes` has step 8, and training ends at step 8"),
    ({"changes": "3"}, "`changes`"),
    ({"changes": True}, "`changes`"),
    ({"density": 1.2}, "`density`"),
    ({"density": 1e-4}, "`density` 0.0001 keeps none of the 370 weights"),
    ({"first": "snip"}, "`first` .*'snip'"),
    ({"regrow": "old"}, "`regrow` .*'old'"),
    ({"growth": "magnitude"}, "`growth` .*'magnitude'"),
    ({"overlap": 1.2}, "`overlap`"),
    ({"changes": (), "growth": "random"}, "`growth` 'random' has no effect without changes"),
    ({"changes": (), "regrow": "zero"}, "`regrow` 'zero' has no effect without changes"),
    ({"changes": (), "overlap": 0.2}, "`overlap` 0.2 has no effect without changes"),
    (
        {"regrow": "reinit", "growth": "random", "overlap": 0.2},
        "`regrow`='reinit' draws weights again after a look ahead, and growth='random' with",
    ),
    ({"exclude": ("dense_7",)}, "`exclude` pattern 'dense_7' matches no weight"),
    ({"dense": 1}, "`dense`"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        train(**changes)
