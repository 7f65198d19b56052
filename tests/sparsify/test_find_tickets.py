"""find_tickets and branch: the invariants of iterative magnitude pruning, on small networks."""

import warnings

import chex
import jax
import numpy as np
import pytest
from patterns import DATA, NET, STEPS, TRAINING, batch_at, equal, initial, values

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine import program as train
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.random import permutation_words, root_keys, stream

SIZE = 25 * 12 + 12 * 8 + 8 * 3


def find(training=TRAINING, pruning=None, *, seeds=(3, 5), **options):
    options.setdefault("mesh", jt.parallel.mesh(devices=jax.devices()[:2]))
    pruning = jt.Pruning(levels=3) if pruning is None else pruning
    return jt.find_tickets(NET, DATA, training, pruning, seeds=seeds, progress=False, **options)


@pytest.fixture(scope="module")
def runs():
    return find(branches=("reinit", "shuffle", "random"))


def test_levels_keep_exact_counts(runs):
    kept = [[int(masks.kept(runs.ticket(n, s).mask)) for s in runs.seeds] for n in runs.levels]
    assert kept == [[round(0.8**n * SIZE)] * 2 for n in range(4)]
    np.testing.assert_allclose(runs.densities, [round(0.8**n * SIZE) / SIZE for n in range(4)])


def test_masks_are_nested_and_tickets_start_at_initialization(runs):
    for seed in runs.seeds:
        start = initial(NET, seed)[0]
        for level in runs.levels:
            ticket = runs.ticket(level, seed)
            if level:
                masks.require_nested(ticket.mask, runs.ticket(level - 1, seed).mask)
            equal(ticket.params, masks.apply(ticket.mask, start))
            assert int(ticket.step) == 0 and int(ticket.level) == level


def test_the_smallest_trained_weights_are_pruned(runs):
    """Retraining level 0 by hand with plain JAX gives the weights whose smallest are pruned."""
    params = reference_training(initial(NET, 3)[0], masks.ones(initial(NET, 3)[0]), 3, 0, STEPS)
    mask = runs.ticket(1, 3).mask
    flat = np.concatenate(
        [np.abs(np.asarray(params[f"dense_{i}"]["kernel"])).ravel() for i in range(3)]
    )
    kept = np.concatenate([np.asarray(mask[f"dense_{i}"]["kernel"]).ravel() for i in range(3)])
    order = np.sort(flat)
    cut = order[SIZE - round(0.8 * SIZE)]
    # float tolerance: entries right at the cut may differ
    clear = np.abs(flat - cut) > 1e-5
    np.testing.assert_array_equal(kept[clear], (flat >= cut)[clear])


def reference_training(params, mask, seed, start, stop, order=0, lr=0.05, decay=1e-3):
    """Momentum, weight decay and a milestone, masked in the forward pass, written independently."""
    words = permutation_words(stream(jax.random.key(seed), "order", order))
    buffer = jax.tree.map(np.zeros_like, params)

    def loss(params, x, y):
        params = masks.apply(mask, params)
        for i in range(3):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"][None]
            x = jax.nn.relu(x) if i < 2 else x
        return -jax.numpy.mean(jax.nn.log_softmax(x)[np.arange(len(y)), y])

    gradient = jax.jit(jax.grad(loss))
    for step in range(start, stop):
        index = np.asarray(batch_at(words, np.int32(step), examples=len(DATA.train), batch_size=16))
        x = (DATA.train.x[index].astype(np.float32) - DATA.mean) / DATA.std
        g = gradient(params, x.reshape(16, -1), DATA.train.y[index])
        rate = np.float32(lr * (0.1 if step >= 20 else 1.0))
        buffer = jax.tree.map(lambda v, g, w: 0.9 * v + g + decay * w, buffer, g, params)
        params = jax.tree.map(lambda w, v, rate=rate: w - rate * v, params, buffer)
    return params


def test_the_table_is_tidy_and_complete(runs):
    table = runs.table()
    assert list(table.columns[:8]) == [
        "seed",
        "level",
        "density",
        "branch",
        "step",
        "split",
        "metric",
        "value",
    ]
    assert set(table.branch) == {"ticket", "reinit", "shuffle", "random"}
    assert set(table.split) == {"train", "validation", "test"} and set(table.metric) == {
        "loss",
        "accuracy",
    }
    assert (
        len(table) == 4 * 4 * 2 * 4 * 3 * 2
    )  # branches, levels, seeds, evaluations, splits, metrics
    assert not table.duplicated(["seed", "level", "branch", "step", "split", "metric"]).any()
    assert set(table.precision) == {"float32/highest"}
    assert table[table.metric == "accuracy"].value.between(0, 1).all()


def test_a_shuffle_of_the_dense_mask_is_the_dense_network(runs):
    table = runs.table()
    np.testing.assert_array_equal(
        values(table, branch="shuffle", level=0), values(table, branch="ticket", level=0)
    )
    assert (
        values(table, branch="reinit", level=0) != values(table, branch="ticket", level=0)
    ).any()


def test_one_compilation_serves_levels_branches_and_later_branching():
    training = TRAINING.replace(momentum=0.9 - 1e-7)  # a program of its own
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    found = find(training, jt.Pruning(levels=2), branches=("reinit",), mesh=mesh)
    jt.branch(found, "shuffle", progress=False)
    jt.branch(
        found, "retrain", training=training.replace(lr=0.01, weight_decay=0.0), progress=False
    )
    assert train.program(Supervised(NET, training), mesh).traces() == 1


def test_branching_later_equals_branching_beside(runs):
    later = jt.branch(runs, jt.branches.shuffle, progress=False).table()
    alongside = runs.table()
    alongside = alongside[alongside.branch == "shuffle"]
    assert len(later) == len(alongside)
    np.testing.assert_allclose(values(later), values(alongside), atol=1e-6)


def test_retraining_a_ticket_gives_its_own_training_again(runs):
    again = jt.branch(runs, "retrain", levels=[2], progress=False).table()
    np.testing.assert_array_equal(values(again), values(runs.table(), branch="ticket", level=2))


def test_branches_change_what_they_say(runs):
    shuffled = jt.branch(runs, "shuffle", levels=[3], progress=False).ticket(3, 3)
    own = runs.ticket(3, 3)
    assert {k: float(v) for k, v in masks.layer_density(shuffled.mask).items()} == {
        k: float(v) for k, v in masks.layer_density(own.mask).items()
    }
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(shuffled.mask), jax.tree.leaves(own.mask), strict=True)
    )
    # a moved mask finds the weights of initialization, not zeros
    equal(shuffled.params, masks.apply(shuffled.mask, initial(NET, 3)[0]))
    flipped = jt.branch(runs, "sign_flip", levels=[3], progress=False).ticket(3, 3)
    for path in ("dense_0", "dense_1", "dense_2"):
        np.testing.assert_array_equal(flipped.params[path]["kernel"], -own.params[path]["kernel"])
    for name in ("preserved", "locally_permuted", "globally_permuted", "layerwise_random"):
        fresh = jt.branch(runs, name, levels=[3], progress=False).ticket(3, 3)
        assert int(masks.kept(fresh.mask)) == int(masks.kept(own.mask))
        both = np.asarray(fresh.mask["dense_0"]["kernel"]) & np.asarray(
            own.mask["dense_0"]["kernel"]
        )
        assert not np.any(
            fresh.params["dense_0"]["kernel"][both] == own.params["dense_0"]["kernel"][both]
        )
        same = all(
            (a == b).all()
            for a, b in zip(jax.tree.leaves(fresh.mask), jax.tree.leaves(own.mask), strict=True)
        )
        assert same == (name == "preserved")


def test_a_moved_mask_on_a_saved_ticket_is_refused(runs):
    with pytest.raises(ValueError, match="zeros where its mask is False"):
        jt.branches.shuffle(runs.ticket(2, 3), jax.random.key(0), net=NET)


@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_seeds_together_equal_seeds_alone_on_four_devices(count):
    seeds = tuple(range(3, 3 + count))
    pruning = jt.Pruning(levels=1)
    together = find(pruning=pruning, seeds=seeds, mesh=jt.parallel.mesh()).table()
    alone = find(
        pruning=pruning, seeds=seeds[-1:], mesh=jt.parallel.mesh(devices=jax.devices()[:1])
    ).table()
    np.testing.assert_allclose(
        values(together, seed=seeds[-1]), values(alone), atol=2e-5, rtol=2e-5
    )


def test_a_data_axis_gives_the_same_training():
    pruning = jt.Pruning(levels=1)
    split = find(pruning=pruning, mesh=jt.parallel.mesh(seeds=2, data=2)).table()
    whole = find(pruning=pruning).table()
    np.testing.assert_allclose(values(split), values(whole), atol=2e-5, rtol=2e-5)


def test_at_once_limits_the_block_and_changes_nothing(runs):
    few = find(branches=("reinit", "shuffle", "random"), at_once=1)
    assert few.size == 2
    np.testing.assert_allclose(values(few.table()), values(runs.table()), atol=1e-6)
    for level in runs.levels:
        equal(few.by_level[level].mask, runs.by_level[level].mask)


def test_rewinding_restores_step_k_exactly():
    found = find(pruning=jt.Pruning(levels=2, rewind=7))
    reference = reference_training(initial(NET, 3)[0], masks.ones(initial(NET, 3)[0]), 3, 0, 7)
    dense = found.ticket(0, 3)
    chex.assert_trees_all_close(dense.params, reference, rtol=1e-7, atol=1e-05)
    for level in (1, 2):
        ticket = found.ticket(level, 3)
        equal(ticket.params, masks.apply(ticket.mask, dense.params))
        assert int(ticket.step) == 7
    table = found.table()
    assert table[(table.level == 1)].step.min() == 7 and table[(table.level == 0)].step.min() == 0
    assert found.winning() is None and found.matching(margin=0.99)[2]


@pytest.mark.parametrize(
    ("options", "start", "order"),
    [
        # Algorithm 4, line 5: from step k, under noise that the mask was not found with
        ({}, 7, 1),
        ({"order": "same"}, 7, 0),
        # section 5.2: the whole schedule on the weights of step k
        ({"schedule": "full"}, 0, 1),
    ],
    ids=str,
)
def test_rewound_training_is_that_by_hand(options, start, order):
    """With a fresh optimizer, the schedule and the batches of each setting."""
    found = find(pruning=jt.Pruning(levels=1, rewind=7, **options), seeds=(3,))
    ticket = found.ticket(1, 3)
    dense = reference_training(initial(NET, 3)[0], masks.ones(initial(NET, 3)[0]), 3, 0, 7)
    kept = masks.apply(ticket.mask, dense)
    chex.assert_trees_all_close(ticket.params, kept, rtol=1e-7, atol=1e-5)
    assert found.pruning.rewind_step == 7 and int(ticket.step) == start
    assert found.table().query("level == 1").step.min() == start
    final = reference_training(ticket.params, ticket.mask, 3, start, STEPS, order)
    final = masks.apply(ticket.mask, final)
    x = (DATA.test.x.astype(np.float32) - DATA.mean) / DATA.std
    logits = np.asarray(NET.apply(final, {}, x, train=False)[0])
    accuracy = np.mean(np.argmax(logits, axis=1) == DATA.test.y)
    table = found.table()
    rows = table[(table.level == 1) & (table.step == STEPS) & (table.split == "test")]
    assert rows[rows.metric == "accuracy"].value.item() == pytest.approx(float(accuracy), abs=1e-6)
    loss = -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(len(DATA.test)), DATA.test.y])
    assert rows[rows.metric == "loss"].value.item() == pytest.approx(float(loss), rel=1e-4)


def test_learning_rate_rewinding_keeps_trained_weights():
    found = find(pruning=jt.Pruning(levels=2, rewind="learning_rate"))
    plain = find(pruning=jt.Pruning(levels=2))
    table, other = found.table(), plain.table()
    # level 0 is the same dense training, and the mask of level 1 is the same
    np.testing.assert_array_equal(values(table, level=0), values(other, level=0))
    equal(found.by_level[1].mask, plain.by_level[1].mask)
    loss = dict(split="train", metric="loss", seed=3)
    end = values(table, level=0, step=STEPS, **loss).item()
    begin = values(table, level=1, step=0, **loss).item()
    untrained = values(table, level=0, step=0, **loss).item()
    assert abs(begin - end) < 0.3 * abs(untrained - end)
    assert found.winning() is None


def test_one_shot_prunes_the_dense_network_to_every_density(runs):
    found = find(pruning=jt.Pruning(levels=3, one_shot=True))
    equal(found.by_level[1].mask, runs.by_level[1].mask)
    for level in (2, 3):
        assert int(masks.kept(found.ticket(level, 3).mask)) == round(0.8**level * SIZE)
        # the order of one and the same trained network: nested all the same
        masks.require_nested(found.ticket(level, 3).mask, found.ticket(level - 1, 3).mask)
        equal(
            found.ticket(level, 3).params,
            masks.apply(found.ticket(level, 3).mask, initial(NET, 3)[0]),
        )


def test_layerwise_rates_of_the_2019_paper():
    pruning = jt.Pruning(levels=2, scope="layer", rates=(("dense_2", 0.1),))
    found = find(pruning=pruning)
    mask = found.ticket(2, 3).mask
    kept = [int(np.count_nonzero(mask[f"dense_{i}"]["kernel"])) for i in range(3)]
    assert kept == [round(0.64 * 300), round(0.64 * 96), round(0.81 * 24)]


def test_excluded_layers_stay_whole_also_in_branches():
    found = find(pruning=jt.Pruning(levels=2, exclude=("dense_2",)), branches=("random",))
    assert found.ticket(2, 3).mask["dense_2"]["kernel"] is None
    assert found.densities[2] == round(0.64 * 396) / 396
    moved = jt.branch(found, "random", levels=[2], progress=False).ticket(2, 3)
    assert moved.mask["dense_2"]["kernel"] is None


def test_scores_by_name_and_by_function():
    def largest(params, context, *, key):
        return jax.tree.map(lambda w: -abs(w), params)

    low = find(pruning=jt.Pruning(levels=1, score=largest)).ticket(1, 3)
    high = find(pruning=jt.Pruning(levels=1)).ticket(1, 3)
    gone = ~np.asarray(low.mask["dense_0"]["kernel"])
    assert np.asarray(high.mask["dense_0"]["kernel"])[gone].all()

    def loss_score(params, context, *, key):
        x, y = context.batches
        gradient = jax.grad(context.loss)(params, (x[0], y[0]))
        return jax.tree.map(lambda w, g: abs(w * g), params, gradient)

    found = find(pruning=jt.Pruning(levels=1, score=loss_score, score_batch_size=50))
    assert int(masks.kept(found.ticket(1, 3).mask)) == round(0.8 * SIZE)
    a, b = (find(pruning=jt.Pruning(levels=1, score="random")).ticket(1, s) for s in (3, 5))
    assert (a.mask["dense_0"]["kernel"] != b.mask["dense_0"]["kernel"]).any()


def test_bad_scores_are_refused():
    def broken(params, context, *, key):
        return jax.tree.map(lambda w: w / 0, params)

    with pytest.raises(ValueError, match="not finite for finite weights"):
        find(pruning=jt.Pruning(levels=1, score=broken))

    def other_tree(params, context, *, key):
        return {"dense_0": params["dense_0"]}

    with pytest.raises(ValueError, match="`score` must have the same tree"):
        find(pruning=jt.Pruning(levels=1, score=other_tree))


def test_a_diverging_replica_is_marked_and_harms_nobody():
    wild = TRAINING.replace(lr=1e18, milestones=())
    plain = jt.branch(find(pruning=jt.Pruning(levels=1)), "retrain", training=wild, progress=False)
    assert (plain.table().diverged >= 0).all()
    # one replica's rate alone is wild: run the jobs by hand
    from jaxticket.engine import loop, parallel

    mesh = parallel.mesh(devices=jax.devices()[:2])
    start = [initial(NET, s)[0] for s in (3, 5)]
    params = jax.tree.map(lambda *x: np.stack(x), *start)
    plan = loop.job_plan(TRAINING, 2)
    rates = plan._replace(schedule=plan.schedule._replace(lr=np.asarray([1e18, 0.05], np.float32)))
    keys = np.asarray(jax.random.key_data(root_keys((3, 5))))
    origin = Origin(params, {}, jax.tree.map(lambda x: np.ones(x.shape, bool), params))
    zeros, lost = np.zeros(2, np.int32), np.zeros(2, bool)
    runtime = jt.Runtime(mesh=mesh, progress=False)
    with runtime.run(NET, DATA, TRAINING, {}, size=2, interval=10) as run:
        both, calm = (
            loop.train_jobs(run, loop.Jobs(origin, keys, zeros, own, lost), "x")
            for own in (rates, plan)
        )
    assert both.diverged[0] >= 0 and both.diverged[1] == -1
    np.testing.assert_array_equal(both.values[:, 1], calm.values[:, 1])


def test_dilation_trains_different_lengths_side_by_side(runs):
    found = jt.branch(
        runs, "retrain", dilation=(0.5, 1.0, 1.5), levels=[0, 2], name="ticket", progress=False
    )
    table = found.table()
    last = table.groupby("dilation").step.max()
    assert last.to_dict() == {0.5: 15, 1.0: 30, 1.5: 45}
    own = values(table[table.dilation == 1.0], level=2)
    np.testing.assert_array_equal(own, values(runs.table(), branch="ticket", level=2))
    alone = jt.branch(runs, "retrain", dilation=0.5, levels=[2], progress=False).table()
    np.testing.assert_array_equal(values(alone), values(table[table.dilation == 0.5], level=2))
    assert set(jt.speed.smallest_dilation(table, margin=0.99).delta_star) == {0.5}


def test_winning_needs_the_mean_and_a_whole_image(runs):
    levels = runs.matching(margin=0.0)
    assert levels[0]
    assert runs.winning(margin=0.99) == 3
    with pytest.raises(ValueError, match="`margin`"):
        runs.winning(margin=-0.1)


def test_no_ticket_is_trained_under_the_noise_that_it_was_found_with(runs):
    """By default every level has noise of its own, which its branches share."""
    usual, same = runs.table(), find(pruning=jt.Pruning(levels=3, order="same")).table()
    np.testing.assert_array_equal(values(usual, level=0, branch="ticket"), values(same, level=0))
    assert (values(usual, level=1, branch="ticket") != values(same, level=1)).any()
    for branch in ("ticket", "reinit", "shuffle"):
        later = jt.branch(runs, "retrain" if branch == "ticket" else branch, progress=False)
        own = values(usual[usual.level > 0], branch=branch)
        np.testing.assert_array_equal(own, values(later.table().query("level > 0")))


def test_presets_draw_new_noise_for_every_level():
    assert {jt.preset(name).pruning.order for name in jt.PRESETS} == {"fresh"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pruning=dict(rewind=STEPS)), "`rewind` is step 30, past the end of training at 30"),
        (dict(pruning=dict(score="magnitud")), "did you mean 'magnitude'"),
        (
            dict(pruning=dict(exclude=("nothing/*",))),
            "`exclude` pattern 'nothing/\\*' matches no weight",
        ),
        (dict(pruning=dict(levels=-1)), "`levels` must be a whole number of at least 0, got -1"),
        (dict(pruning=dict(fraction=1.0)), "`fraction` must be in \\(0, 1\\), got 1.0"),
        (
            dict(training=dict(batch_size=1000)),
            "`batch_size` 1000 is larger than the training split",
        ),
        (dict(seeds=(1, 1)), "`seeds` must be distinct"),
        (dict(seeds=()), "`seeds` is empty"),
        (dict(at_once=0), "`at_once` must be a whole number of at least 1"),
        (dict(branches=("reinitt",)), "did you mean 'reinit'"),
        (dict(branches=("reinit", "reinit")), "holds the name 'reinit' twice"),
        (dict(mesh="all"), "`mesh` must have the axes"),
    ],
    ids=str,
)
def test_bad_input(options, message):
    options = dict(options)
    with pytest.raises(ValueError, match=message):
        pruning = jt.Pruning(**{"levels": 1, **options.pop("pruning", {})})
        training = TRAINING.replace(**options.pop("training", {}))
        find(training, pruning, **options)


def test_a_network_of_another_shape_or_too_few_classes_is_refused():
    for net, message in (
        (jt.networks.lenet((4, 4, 1), 3), "build the network with data.shape"),
        (jt.networks.lenet(DATA.shape, 2), "build the network with data.classes"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.find_tickets(net, DATA, TRAINING, seeds=(0,), progress=False)


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`mesh` of 3 x 2 does not fit 4 devices"):
        jt.parallel.mesh(seeds=3, data=2)
    with pytest.raises(ValueError, match="`data` must divide the number of devices, 4, got 3"):
        jt.parallel.mesh(data=3)


def test_unknown_levels_and_dilations_are_refused(runs):
    with pytest.raises(ValueError, match="`levels` must be some of"):
        jt.branch(runs, "retrain", levels=[9], progress=False)
    with pytest.raises(ValueError, match="`dilation`"):
        jt.branch(runs, "retrain", dilation=0.0, progress=False)


def test_a_run_without_warnings_is_quiet(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find(pruning=jt.Pruning(levels=0), seeds=(1,))
    assert capsys.readouterr().out == ""
