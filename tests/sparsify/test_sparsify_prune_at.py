"""prune_at: pruning at initialization, during and after training, on small networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import equal, initial, noisy_patterns
from stops import in_spite_of_deaths

import jaxticket as jt
from jaxticket import masks
from jaxticket.data.sampling import balanced_examples, score_indices
from jaxticket.pruning.compiled import Examples, Selection, context_maker, pruner
from jaxticket.pruning.scores.spec import recipe_of
from jaxticket.random import root_keys, stream
from jaxticket.sparsify.early_pruning import prune_at

STEPS = 20
DENSITIES = (0.5, 0.1)


class Normed(nn.Module):
    """Dense layers with BatchNorm between them, and taps."""

    @nn.compact
    def __call__(self, x, *, train, tap=lambda name, x: x):
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(12, use_bias=False, name="dense_0")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = tap("dense_0", jax.nn.relu(x))
        return tap("dense_1", nn.Dense(3, name="dense_1")(x))


@pytest.fixture(scope="module")
def data():
    """Classes of different sizes."""
    return noisy_patterns([0.2, 0.3, 0.5])


@pytest.fixture(scope="module")
def net(data):
    return jt.from_linen(Normed(), data.shape, name="normed")


@pytest.fixture(scope="module")
def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


TRAINING = jt.Training(
    steps=STEPS, batch_size=16, optimizer="momentum", lr=0.05, milestones=(15,), eval_every=10
)
P = 25 * 12 + 12 * 3


@pytest.fixture(scope="module")
def prune(net, data, mesh):
    def run(**options):
        options = {"density": DENSITIES, "seeds": (3, 5), "mesh": mesh, **options}
        training = options.pop("training", TRAINING)
        given = options.pop("data", data)
        score = options["score"]
        if recipe_of(jt.SCORES[score] if score in jt.SCORES else score).data:
            options = {"per_class": 4, **options}
        return prune_at(net, given, training, progress=False, **options)

    return run


@pytest.fixture(scope="module")
def runs(prune):
    """SNIP at several steps, with controls."""
    return prune(score="snip", step=(0, 10, "end"), branches=("shuffle", "reinit"))


def finals(runs, branch="ticket"):
    rows = runs.table().query("branch == @branch and split == 'test' and metric == 'loss'")
    rows = rows[rows["step"] == STEPS].sort_values(["level", "seed"])
    return rows[["level", "seed", "value"]].to_numpy()


def by_hand(net, data, score, params, stats, seed, density, per_class=4):
    """The mask of one replica from a context that is made here, in NumPy's sort."""
    key = jax.random.key(seed)
    recipe = recipe_of(score)
    drawn = stream(key, "prune", np.int32(0))
    # the first of each class in a random order, class by class in turn
    order = np.asarray(score_indices(key=drawn, examples=240, batches=1, size=240))[0]
    of_class = [[i for i in order if data.train.y[i] == c][:per_class] for c in range(3)]
    index = np.asarray(of_class).T.reshape(-1)
    assert np.bincount(data.train.y[np.asarray(index)]).tolist() == [per_class] * 3
    x = (data.train.x[np.asarray(index)].astype(np.float32) - data.mean) / data.std
    batches = (jnp.asarray(x)[None], jnp.asarray(data.train.y[np.asarray(index)])[None])
    ones = net.mask()
    if recipe.batch_norm == "initial":
        stats = initial(net, seed)[1]

    def logits(params, x, tap=None):
        train = recipe.batch_norm == "train"
        return net.apply(params, stats, x, train=train, key=key, tap=tap)[0]

    def loss(params, batch):
        log = jax.nn.log_softmax(logits(params, batch[0]) / recipe.temperature)
        return -jnp.mean(jnp.take_along_axis(log, batch[1][:, None], 1))

    context = jt.ScoreContext(loss, logits, initial(net, seed)[0], ones, batches, logits)
    scored = jax.jit(lambda w, m: score(w, context._replace(mask=m), key=key))
    mask, kept = ones, P
    for i in range(recipe.rounds):
        kept = round(density ** ((i + 1) / recipe.rounds) * P)
        weights = masks.apply(mask, params)
        scores = scored(weights, mask)
        flat = np.concatenate(
            [
                np.where(m, np.asarray(s, np.float64), -np.inf).ravel()
                for _, m, s in masks.items(mask, scores)
            ]
        )
        chosen = np.zeros(P, bool)
        chosen[np.argsort(-flat, kind="stable")[:kept]] = True
        parts = iter(np.split(chosen, [25 * 12]))
        mask = jax.tree.map(lambda m, parts=parts: next(parts).reshape(m.shape), mask)
    return mask


def differing(a, b):
    return sum(
        int((np.asarray(x) != np.asarray(y)).sum())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "magnitude"])
def test_masks_at_initialization_are_those_made_by_hand(prune, net, data, name):
    """In each BatchNorm mode: running, batch and initial statistics."""
    found = prune(score=name, dense=False, training=TRAINING.replace(steps=1))
    assert found.levels == (1, 2)
    for level, density in enumerate(DENSITIES, start=1):
        for seed in (3, 5):
            params, stats = initial(net, seed)
            expected = by_hand(net, data, jt.SCORES[name], params, stats, seed, density)
            mask = found.ticket(level, seed).mask
            assert int(masks.kept(mask)) == round(density * P)
            # a tie of float32 may fall otherwise
            assert differing(mask, expected) <= 2


def test_masks_at_a_step_come_from_the_dense_network_at_that_step(runs, net, data):
    for k in (10, STEPS):
        origin = runs[k].origin
        for replica, seed in enumerate((3, 5)):
            params, stats = jax.tree.map(lambda x, i=replica: x[i], (origin.params, origin.stats))
            assert differing(params, initial(net, seed)[0]) > P / 2
            expected = by_hand(net, data, jt.SCORES["snip"], params, stats, seed, 0.1)
            assert differing(runs[k].ticket(2, seed).mask, expected) <= 2


def test_densities_are_exact_and_masks_of_one_score_are_nested(runs):
    for own in runs.values():
        assert own.levels == (0, 1, 2)
        np.testing.assert_allclose(own.densities, [1, round(0.5 * P) / P, round(0.1 * P) / P])
        for seed in own.seeds:
            masks.require_nested(own.ticket(2, seed).mask, own.ticket(1, seed).mask)


def test_pruned_networks_are_trained_with_the_whole_schedule(runs, data):
    """What `find_tickets` and `branch` train from the same weights and masks gives the same."""
    for k, own in runs.items():
        again = jt.branch(own, "retrain", levels=(1, 2), progress=False)
        np.testing.assert_array_equal(finals(again, "retrain"), finals(own)[2:])
        steps = own.table().query("branch == 'ticket' and level == 2")["step"]
        assert sorted(set(steps)) == [0, 10, 20]
        for seed in own.seeds:
            ticket = own.ticket(1, seed)
            assert int(ticket.step) == 0
            replica = own.seeds.index(seed)
            origin = jax.tree.map(lambda x, i=replica: x[i], own.origin.params)
            equal(ticket.params, masks.apply(ticket.mask, origin))
        assert (k == 0) == (own.winning(margin=0.99) is not None)
        assert own.matching(margin=0.99) == {0: True, 1: True, 2: True}


def test_controls_are_those_of_branch(runs):
    for own in runs.values():
        for name in ("shuffle", "reinit"):
            again = jt.branch(own, name, levels=(1, 2), progress=False)
            np.testing.assert_array_equal(finals(again, name), finals(own, name))


def test_magnitude_after_training_is_one_shot_pruning_with_learning_rate_rewinding(
    prune, net, data, mesh
):
    after = prune(score="magnitude", step="end", density=(0.8, 0.64))
    pruning = jt.Pruning(levels=2, one_shot=True, rewind="learning_rate")
    ours, same = (
        jt.find_tickets(net, data, TRAINING, own, seeds=(3, 5), mesh=mesh, progress=False)
        for own in (pruning, pruning.replace(order="same"))
    )
    for level in (1, 2):
        for seed in (3, 5):
            equal(after.ticket(level, seed).mask, ours.ticket(level, seed).mask)
    np.testing.assert_array_equal(finals(after), finals(ours))
    # masks that were found under some SGD noise are not trained under it again
    assert (finals(after)[2:, 2] != finals(same)[2:, 2]).all()


def test_several_steps_are_what_each_gives_alone(prune, runs):
    for k in (0, 10, "end"):
        alone = prune(score="snip", step=k)
        own = runs[k]
        # programs for other numbers of networks may round losses otherwise in the last place
        np.testing.assert_allclose(finals(alone), finals(own), rtol=3e-7)
        equal(alone.tickets.mask, own.tickets.mask)


def test_runs_of_several_steps_are_called_as_they_were_asked_for(runs):
    assert list(runs) == [0, 10, STEPS] and runs["end"] is runs[STEPS]
    with pytest.raises(KeyError, match="5 is none of the steps 0, 10, 20"):
        runs[5]
    with pytest.raises(KeyError, match="'last' is none of the steps"):
        runs["last"]


def test_the_remaining_schedule(prune, runs):
    late = prune(score="snip", step=10, schedule="remaining", dense=False)
    steps = late.table().query("level == 1")["step"]
    assert sorted(set(steps)) == [10, 20]
    equal(late.by_level[1].mask, runs[10].by_level[1].mask)
    assert np.asarray(late.by_level[1].step).tolist() == [10, 10]
    assert not np.array_equal(finals(late), finals(runs[10])[2:])
    # what a mask has seen nothing of needs no new noise
    fresh = {own.pruning.step: own.pruning.fresh_noise for own in runs.values()}
    assert fresh == {0: False, 10: True, STEPS: True}
    assert not late.pruning.fresh_noise


def test_seeds_alone_few_at_once_and_vmapped_give_the_same(prune, runs, net, data, vmap_replicas):
    own = finals(runs[0])
    alone = prune(score="snip", seeds=(5,))
    np.testing.assert_allclose(finals(alone)[:, 2], own[own[:, 1] == 5][:, 2], rtol=1e-5)
    few = prune(score="snip", seeds=(3, 5), at_once=1, branches=("shuffle", "reinit"))
    # programs for other numbers of networks may round losses otherwise in the last place
    np.testing.assert_allclose(finals(few), own, rtol=3e-7)
    np.testing.assert_allclose(finals(few, "shuffle"), finals(runs[0], "shuffle"), rtol=3e-7)
    vmap_replicas()
    # a mesh of other devices, for which nothing is compiled yet
    other = jt.parallel.mesh(devices=jax.devices()[2:4])
    together = prune(score="snip", step=(0, 10), mesh=other, branches=("shuffle",))
    for k in (0, 10):
        np.testing.assert_allclose(finals(together[k])[:, 2], finals(runs[k])[:, 2], rtol=1e-3)
        a, b = finals(together[k], "shuffle"), finals(runs[k], "shuffle")
        np.testing.assert_allclose(a[:, 2], b[:, 2], rtol=1e-3)


def test_layouts_say_how_many_weights_each_layer_keeps(prune, net):
    from jaxticket.pruning.layouts import layers_of

    layers = layers_of(net)
    quick = TRAINING.replace(steps=1)
    for name in ("erk", "smart_ratio"):
        made = prune(score="random", scope=name, density=0.3, dense=False, training=quick)
        expected = jt.LAYOUTS[name](layers, 0.3)
        for seed in (3, 5):
            mask = made.ticket(1, seed).mask
            kept = [int(mask[f"dense_{i}"]["kernel"].sum()) for i in range(2)]
            assert kept == expected.tolist()
            assert sum(kept) == round(0.3 * P)
    made = prune(score="snip", scope="layer", density=0.25, rounds=3, dense=False, training=quick)
    mask = made.ticket(1, 3).mask
    assert [int(mask[f"dense_{i}"]["kernel"].sum()) for i in range(2)] == [75, 9]
    # the output layer's share of a smart ratio is below what early rounds keep of all
    slow = prune(
        score="snip", scope="smart_ratio", density=0.3, rounds=20, dense=False, training=quick
    )
    mask = slow.ticket(1, 5).mask
    kept = [int(mask[f"dense_{i}"]["kernel"].sum()) for i in range(2)]
    assert kept == jt.LAYOUTS["smart_ratio"](layers, 0.3).tolist()
    # rounds of a layout end where one round does
    slow = prune(score="snip", scope="erk", density=0.3, rounds=7, dense=False, training=quick)
    mask = slow.ticket(1, 3).mask
    kept = [int(mask[f"dense_{i}"]["kernel"].sum()) for i in range(2)]
    assert kept == jt.LAYOUTS["erk"](layers, 0.3).tolist()


def test_layer_collapse_is_reported_and_a_floor_prevents_it(prune, net, capsys):
    def first_layer_last(params, context, *, key):
        return {
            name: jax.tree.map(lambda w, n=name: jnp.abs(w) - 100.0 * (n == "dense_0"), layer)
            for name, layer in params.items()
        }

    quick = TRAINING.replace(steps=1)
    made = prune(score=first_layer_last, density=0.05, dense=False, training=quick)
    said = capsys.readouterr().out
    assert "layer collapse" in said and "dense_0/kernel (seeds 3, 5)" in said and "0.05" in said
    assert not np.asarray(made.by_level[1].mask["dense_0"]["kernel"]).any()
    held = prune(score=first_layer_last, density=0.05, floor=2, dense=False, training=quick)
    assert "layer collapse" not in capsys.readouterr().out
    for seed in (3, 5):
        mask = held.ticket(1, seed).mask
        kept = [int(mask[f"dense_{i}"]["kernel"].sum()) for i in range(2)]
        assert kept == [2, round(0.05 * P) - 2]
        # the two best of the layer
        weights = np.abs(initial(net, seed)[0]["dense_0"]["kernel"])
        assert set(weights[mask["dense_0"]["kernel"]]) == set(np.sort(weights.ravel())[-2:])


def test_one_program_for_all_densities_and_rounds(net, data, mesh, prune):
    prune(score="synflow", density=0.5, dense=False)
    selection = Selection(jt.SCORES["synflow"], examples=Examples(1, 1))
    select = pruner(net, mesh, selection)
    before = select._cache_size()
    assert before >= 1
    prune(score="synflow", density=(0.3, 0.2, 0.05), dense=False)
    prune(score="synflow", density=0.11, step=10, dense=False)
    assert select._cache_size() == before


def test_fresh_batches_in_every_round(prune):
    """FORCE draws new examples in every round; with the same ones it keeps other weights."""
    quick = TRAINING.replace(steps=1)
    options = {"density": 0.2, "dense": False, "training": quick, "per_class": 1}
    fresh, same = (
        prune(score=jt.scores.configured("force", rounds=5, fresh=f), **options)
        for f in (True, False)
    )
    assert differing(fresh.tickets.mask, same.tickets.mask) > 0


def test_parts_of_a_batch_hold_every_class(data):
    """Class by class in turn, so that parts are balanced; all examples differ."""
    keys = np.asarray(jax.random.key_data(root_keys((7, 2, 7))))
    found = balanced_examples(data.train.y, keys, per_class=6, rounds=4)
    assert found.shape == (3, 4, 18)
    labels = data.train.y[found].reshape(3, 4, 6, 3)
    assert (np.sort(labels, axis=-1) == np.arange(3)).all()
    assert all(len(set(index.tolist())) == 18 for index in found.reshape(-1, 18))
    # by seed and by round, and nothing else
    np.testing.assert_array_equal(found[0], found[2])
    sets = {frozenset(index.tolist()) for index in found[:2].reshape(-1, 18)}
    assert len(sets) == 8
    shared = balanced_examples(data.train.y, keys, per_class=6)
    assert shared.shape == (3, 1, 18)


def test_examples_without_looking_at_labels(prune, net):
    quick = TRAINING.replace(steps=1)
    made = prune(
        score="snip", per_class=None, batches=2, batch_size=8, density=0.3, dense=False,
        training=quick,
    )  # fmt: skip
    assert made.pruning.batch_size == 8
    assert int(masks.kept(made.ticket(1, 3).mask)) == round(0.3 * P)


def test_a_run_that_dies_after_every_save_gives_the_same(prune, runs, tmp_path):
    found, deaths = in_spite_of_deaths(
        lambda: prune(
            score="snip", step=(0, 10, "end"), branches=("shuffle", "reinit"),
            folder=tmp_path / "run", save_every=0,
        ),
        units=True,
    )  # fmt: skip
    # dense: 4 states (0, 10, 20 and none between) and its unit, 3 units of masks, 6 of training
    assert deaths > 15
    for k, own in runs.items():
        equal(found[k].tickets, own.tickets)
        a, b = (r.table().drop(columns="precision") for r in (found[k], own))
        assert a.equals(b)
        assert (tmp_path / "run" / f"step-{k}" / "table.parquet").exists()
        files = list((tmp_path / "run" / f"step-{k}" / "tickets").iterdir())
        assert len(files) == 6
    with pytest.raises(ValueError, match=r"other settings: `pruning"):
        prune(
            score="snip", step=(0, 10, "end"), branches=("shuffle", "reinit"), density=0.3,
            folder=tmp_path / "run",
        )  # fmt: skip


def test_a_network_that_diverged_keeps_all_weights(prune, net):
    wild = jt.Training(steps=STEPS, batch_size=16, optimizer="sgd", lr=1e30, eval_every=10)
    made = prune(score="snip", step=(0, 1, 2, "end"), density=0.5, training=wild)
    np.testing.assert_allclose(made[0].densities[1], 0.5, atol=1 / P)
    # the weights of step 1 are finite still, and their loss is not
    for k in (1, 2, STEPS):
        assert all(m.all() for m in jax.tree.leaves(made[k].by_level[1].mask))
        # which counts as a failure at the density that was asked for
        np.testing.assert_allclose(made[k].densities[1], 0.5)
        assert made[k].table().query("level == 1")["value"].isna().all()
        assert made[k].lost_at(1).all() and not made[k].matching()[1]


def test_scores_that_are_not_finite_are_an_error_that_names_float64(prune):
    def infinite(params, context, *, key):
        return jax.tree.map(lambda w: w / jnp.float32(0), params)

    with pytest.raises(ValueError, match=r"'infinite'.*density 0\.5, seed 3.*float64"):
        prune(score=infinite, dense=False)

    def large(params, context, *, key):
        huge = jnp.asarray(1e30, params["dense_0"]["kernel"].dtype)
        return jax.tree.map(lambda w: jnp.abs(w) * huge * huge, params)

    quick = {"dense": False, "training": TRAINING.replace(steps=1), "density": 0.3}
    with pytest.raises(ValueError, match="float64"):
        prune(score=large, **quick)
    expected = prune(score="magnitude", **quick)
    # 64-bit indices meet 32-bit ones then, which strict promotion forbids
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        found = prune(score=large, **quick)
    equal(found.by_level[1].mask, expected.by_level[1].mask)
    assert found.by_level[1].params["dense_0"]["kernel"].dtype == np.float32


def test_steps_and_densities_may_be_numpy_numbers(prune, runs):
    found = prune(score="snip", step=np.asarray([0, 10]), density=np.asarray(DENSITIES))
    assert sorted(found) == [0, 10]
    equal(found[10].tickets.mask, runs[10].tickets.mask)
    alone = prune(score="snip", step=np.int64(10), density=np.float64(0.5), dense=False)
    equal(alone.by_level[1].mask, runs[10].by_level[1].mask)


def test_no_place_is_scored_that_no_replica_needs(prune, runs, vmap_replicas):
    """Where replicas run vmapped, blocks of training hold many more than those to be scored."""
    seen = []

    def counted(params, context, *, key):
        # an operand of the replica's own: called once for each
        jax.debug.callback(lambda _: seen.append(1), params["dense_0"]["kernel"][0, 0])
        return jt.SCORES["magnitude"](params, context, key=key)

    vmap_replicas()
    other = jt.parallel.mesh(devices=jax.devices()[2:4])
    prune(score=counted, step=(0, 10), mesh=other, branches=("shuffle", "reinit"))
    jax.effects_barrier()
    # two steps, two densities, two seeds
    assert len(seen) == 8


def test_the_context_is_made_as_the_recipe_says(net, data):
    params, stats = initial(net, 3)
    trained = jax.tree.map(lambda x: x + np.float32(0.7), stats)
    x = jnp.asarray(data.train.x[:12], jnp.float32) / 100
    y = jnp.asarray(data.train.y[:12])
    plain = {}
    for mode in ("eval", "train", "initial"):
        recipe = jt.scores.Recipe(batch_norm=mode)
        make = context_maker(net, trained, recipe, key=jax.random.key(3))
        context = make(params, masks.ones(params), (x[None], y[None]))
        own = {"eval": trained, "train": trained, "initial": stats}[mode]
        expected, _ = net.apply(params, own, x, train=mode == "train", key=jax.random.key(0))
        np.testing.assert_allclose(context.logits(params, x), expected, rtol=1e-5, atol=1e-6)
        plain[mode] = expected
        seen = []
        context.tapped(params, x, lambda name, x, seen=seen: (seen.append(name), x)[1])
        assert seen == ["dense_0", "dense_1"]
        picked = jnp.take_along_axis(jax.nn.log_softmax(expected), y[:, None], 1)
        np.testing.assert_allclose(context.loss(params, (x, y)), -picked.mean(), rtol=1e-5)
    assert not np.allclose(plain["eval"], plain["train"], atol=1e-2)
    assert not np.allclose(plain["eval"], plain["initial"], atol=1e-2)
    recipe = jt.scores.Recipe(loss="negative_logit", temperature=4.0)
    context = context_maker(net, stats, recipe, key=jax.random.key(3))(params, None, (x, y))
    z = np.asarray(net.apply(params, stats, x, train=False)[0])
    expected = -z[np.arange(12), np.asarray(y)].mean() / 4
    np.testing.assert_allclose(context.loss(params, (x, y)), expected, rtol=1e-5)


def test_networks_without_taps_have_no_tapped_logits():
    plain = jt.from_functions(
        lambda key: ({"w": jax.random.normal(key, (4, 3))}, {}),
        lambda params, stats, x, *, train: (x.reshape(x.shape[0], -1) @ params["w"], stats),
        shape=(2, 2, 1),
        name="plain",
    )
    make = context_maker(plain, {}, jt.scores.Recipe(), key=jax.random.key(0))
    assert make({}, {}, (jnp.zeros(1), jnp.zeros(1))).tapped is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, r"must be in \(0, 1\], got 0\.0"),
        ({"density": (0.5, 0.5)}, r"`density` must be distinct, got .0.5. more than once"),
        ({"density": ()}, r"`density` is empty"),
        ({"score": "snap"}, r"`score` is unknown: 'snap'; did you mean 'snip'"),
        ({"step": 21}, r'`step` must be "end" or a step from 0 to 20.*got 21'),
        ({"step": "start"}, r"`step` must be .* got 'start'"),
        ({"step": ()}, r"`step` is empty"),
        ({"step": (20, "end")}, r"`step` must be distinct, got .20. more than once"),
        ({"step": "end", "schedule": "remaining"}, r"leaves nothing to train after step 20"),
        ({"schedule": "some"}, r"`schedule` must be one of 'full', 'remaining', got 'some'"),
        ({"scope": "ekr"}, r"`scope` is unknown: 'ekr'; did you mean 'erk'"),
        ({"floor": 1, "scope": "layer"}, r"`floor` needs scope='global'"),
        ({"floor": 100, "density": 0.1}, r"`floor` of 100 in 2 layers is more than density 0\.1"),
        ({"rounds": 0}, r"`rounds` must be a whole number of at least 1, got 0"),
        ({"per_class": 90}, r"`per_class` asks for 90 examples of each class, but class 0"),
        ({"per_class": 4, "batches": 3}, r"`batches` 3 must divide per_class=4"),
        ({"per_class": 4, "batch_size": 8}, r"`batch_size` 8 is not used with per_class=4"),
        ({"per_class": None}, r"`batch_size` is needed with per_class=None"),
        ({"per_class": None, "batch_size": 241}, r"`batch_size` 241 is larger than the training"),
        ({"at_once": 0}, r"`at_once` must be a whole number of at least 1, got 0"),
        ({"exclude": ("conv",)}, r"`exclude` pattern 'conv' matches no weight"),
        ({"branches": ("shufle",)}, r"`branches` is unknown: 'shufle'; did you mean 'shuffle'"),
    ],
)
def test_bad_arguments_are_explained(prune, options, message):
    with pytest.raises(ValueError, match=message):
        prune(**{"score": "snip", **options})


def test_options_of_scores():
    snip = jt.scores.configured("snip", batch_norm="train")
    assert (
        recipe_of(snip).batch_norm == "train" and recipe_of(jt.SCORES["snip"]).batch_norm == "eval"
    )
    assert snip is jt.scores.configured("snip", batch_norm="train")
    assert "batch_norm='train'" in snip.__name__
    assert jt.scores.configured("snip") is jt.SCORES["snip"]
    assert recipe_of(jt.scores.inverted("grasp")) == recipe_of(jt.SCORES["grasp"])
    with pytest.raises(ValueError, match=r"`step` is no option of score 'snip'; it has batch_norm"):
        jt.scores.configured("snip", step=3)
    with pytest.raises(ValueError, match=r"`batch_norm` must be one of 'eval', 'train', 'initial'"):
        jt.scores.configured("snip", batch_norm="off")
