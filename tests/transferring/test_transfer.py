"""Tickets in other settings: other data, other optimizers, other depths."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import trees
from matplotlib import pyplot
from stops import killed

import jaxticket as jt
from jaxticket.cli import main
from jaxticket.nn import NETWORKS
from jaxticket.plots import style
from jaxticket.ticket import about, host_apply
from jaxticket.transferring.adapt import fit
from jaxticket.transferring.depth import depths, sources, spread
from jaxticket.transferring.target import runs_of, target_of

TRAINING = jt.Training(40, 32, lr=0.1, eval_every=20, optimizer="sgd")
OTHER = TRAINING.replace(optimizer="adam", lr=1e-3)


def ticket_of(net, seed=0, density=0.5, lead=None):
    """A ticket with a random mask over everything prunable, as host arrays."""
    rng = np.random.default_rng(seed)
    keys = [jax.random.key(seed + i) for i in range(lead or 1)]
    init = jax.jit(net.init)
    made = [init(key) for key in keys]
    params, stats = jax.tree.map(lambda *x: np.stack(x), *made)
    if lead is None:
        params, stats = jax.tree.map(lambda x: x[0], (params, stats))
    mask = jax.tree.map(
        lambda m: rng.random(m.shape) < density, net.mask(lead=() if lead is None else (lead,))
    )
    stats = jax.tree.map(lambda x: x + rng.random(x.shape).astype(x.dtype), stats)
    number = np.zeros(() if lead is None else lead, np.int32)
    return jt.Ticket(mask, host_apply(mask, params), stats, number + 1, number + 5)


def equal(a, b):
    return trees.paths(a) == trees.paths(b) and all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def fresh_of(net, lead=None, seed=99):
    made = ticket_of(net, seed, 1.0, lead)
    return made.params, made.stats


@pytest.mark.parametrize("lead", [None, 2])
def test_only_the_output_layer_is_reinitialized(lead):
    net = jt.networks.resnet_cifar((8, 8, 3), 4, 8, width=0.25)
    to = net.adapted(classes=7)
    ticket, fresh = ticket_of(net, lead=lead), fresh_of(to, lead)
    found = fit(ticket, net=net, to=to, fresh=fresh, reinit=(to.output,))
    for tree, before, new in zip(
        (found.mask, found.params, found.stats), (ticket.mask, ticket.params, ticket.stats),
        (None, *fresh), strict=True,
    ):  # fmt: skip
        before = trees.leaves(before)
        for path, leaf in trees.leaves(tree).items():
            if path.startswith("dense/"):
                assert leaf.all() if new is None else np.array_equal(leaf, trees.leaves(new)[path])
            else:
                np.testing.assert_array_equal(leaf, before[path])


def test_layers_that_do_not_fit_are_all_named():
    net = jt.networks.lenet((6, 6, 1), 3, (5, 4))
    to = jt.networks.lenet((6, 6, 1), 3, (5, 7))
    ticket, fresh = ticket_of(net), fresh_of(to)
    with pytest.raises(ValueError, match=r"dense_1/bias \(4,\) -> \(7,\).*dense_2/kernel"):
        fit(ticket, net=net, to=to, fresh=fresh)
    deeper = jt.networks.lenet((6, 6, 1), 3, (5, 4, 4))
    with pytest.raises(ValueError, match=r"dense_3/kernel none -> \(4, 3\)"):
        fit(ticket, net=net, to=deeper, fresh=fresh_of(deeper))
    with pytest.raises(ValueError, match=r"dense_3/kernel \(4, 3\) -> none"):
        fit(ticket_of(deeper), net=deeper, to=net, fresh=fresh_of(net))


@pytest.mark.parametrize("name", ["lenet", "conv2", "resnet14"])
@pytest.mark.parametrize("channels", [(1, 3), (3, 1)])
def test_logits_of_gray_images_agree_for_one_and_three_channels(name, channels):
    here, there = channels
    net = NETWORKS[name]((8, 8, here), 4)
    to = net.adapted(shape=(8, 8, there))
    ticket = ticket_of(net, lead=2)
    found = fit(ticket, net=net, to=to, fresh=fresh_of(to, 2))
    gray = np.random.default_rng(1).random((5, 8, 8, 1), np.float32)

    def answers(net, ticket):
        masked = host_apply(ticket.mask, ticket.params)
        params = jax.tree.map(lambda w: w[1], masked)
        stats = jax.tree.map(lambda x: x[1], ticket.stats)
        x = np.repeat(gray, net.shape[-1], axis=-1)
        return jax.jit(functools.partial(net.apply, train=False))(params, stats, x)[0]

    np.testing.assert_allclose(answers(net, ticket), answers(to, found), rtol=2e-4, atol=2e-5)
    first = [
        k
        for k, v in trees.leaves(ticket.mask).items()
        if v.shape != trees.leaves(found.mask)[k].shape
    ]
    assert len(first) == 1
    for path, leaf in trees.leaves(ticket.mask).items():
        if path not in first:
            np.testing.assert_array_equal(leaf, trees.leaves(found.mask)[path])


@pytest.mark.slow
def test_adapted_networks_keep_their_constructor():
    # of each constructor one
    for name in ("lenet", "conv2", "resnet14", "wrn16_4", "vgg11", "resnet18", "inception_v3"):
        make = NETWORKS[name]
        small = {"widths": (4,)} if name == "lenet" else {"width": 0.125}
        net = make((80, 80, 3), 4, **small)
        assert net.adapted() == net
        assert net.adapted(shape=(96, 96, 1), classes=7) == make((96, 96, 1), 7, **small), name
    linear = jt.from_functions(lambda key: ({"kernel": jax.random.normal(key, (4, 2))}, {}),
                            lambda p, s, x, *, train: (x.reshape(len(x), -1) @ p["kernel"], s),
                            name="linear", shape=(2, 2, 1))  # fmt: skip
    with pytest.raises(ValueError, match=r"adapted\(classes=3\).*build the other network"):
        linear.adapted(classes=3)


# elastic


def resnet(depth, **options):
    return jt.networks.resnet_cifar((8, 8, 1), 4, depth, width=0.25, **options)


@pytest.mark.parametrize(("here", "there"), [(14, 20), (14, 14), (20, 32), (8, 8)])
@pytest.mark.parametrize("lead", [None, 3])
def test_squeezing_a_stretched_ticket_gives_the_original(here, there, lead):
    net, to = resnet(here), resnet(there)
    ticket = ticket_of(net, lead=lead)
    longer = jt.elastic(ticket, net=net, to=to)
    assert trees.paths(longer.params) == trees.paths(jax.eval_shape(to.init, jax.random.key(0))[0])
    back = jt.elastic(longer, net=to, to=net)
    assert equal(back.mask, ticket.mask) and equal(back.params, ticket.params)
    assert equal(back.stats, ticket.stats)


def test_custom_networks_define_their_stages():
    def network(blocks):
        names = [f"unit{i}" for i in range(blocks)]

        def init(key):
            keys = jax.random.split(key, blocks)
            layers = {
                n: {"w": jax.random.normal(k, (2, 2))} for n, k in zip(names, keys, strict=True)
            }
            return {"stem": layers}, {}

        def apply(params, stats, x, *, train):
            x = x.reshape(len(x), -1)
            for layer in params["stem"].values():
                x = x + x @ layer["w"]
            return x, stats

        stages = [[f"stem/{n}" for n in names]]
        return jt.from_functions(init, apply, name=f"own{blocks}", shape=(1, 2, 1), stages=stages)

    net, to = network(2), network(3)
    assert depths(to) == {1: 3}
    longer = jt.elastic(ticket_of(net), net=net, to=to)
    assert equal(longer.params["stem"]["unit2"], ticket_of(net).params["stem"]["unit1"])
    with pytest.raises(ValueError, match="`stages` names the block 'stem/unit9'"):
        jt.from_functions(
            net.init, net.apply, name="wrong", shape=(1, 2, 1), stages=[["stem/unit9"]]
        )


def test_the_assignment_of_blocks():
    net, to = resnet(14), resnet(20)
    assert sources(net, to) == sources(net, to, "0:0;1:1,2") == dict.fromkeys((1, 2, 3), (0, 1, 1))
    assert sources(to, net, ["0:0;1:1", "0:0;2:1", "0:0;1:1"]) == {1: (0, 1), 2: (0, 2), 3: (0, 1)}
    assert depths(resnet(32)) == {1: 5, 2: 5, 3: 5}
    ticket = ticket_of(net)
    longer = jt.elastic(ticket, net=net, to=to)
    for block in ("block_2_1", "block_2_2"):
        for tree in ("mask", "params"):
            assert equal(
                getattr(longer, tree)[block], getattr(ticket, tree)[block.replace("_2_2", "_2_1")]
            )
    for n in range(2, 9):
        assert spread(n, n) == tuple(range(n))
        for m in range(n, 12):
            assert set(spread(n, m)) == set(range(n)) and sorted(spread(n, m)) == list(spread(n, m))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ("0:0;1:1", r"nothing fills \[2\]"),
        ("0:0;1:1,2;1:2", "filled twice"),
        ("0:0,1;1:2", "block 0 must map to block 0 alone"),
        ("0:0;2:1,2", "beyond"),
        ("0:0;1-1", "is not"),
        (["0:0;1:1,2"], "one for each stage"),
    ],
)
def test_wrong_blocks_raise(blocks, message):
    with pytest.raises(ValueError, match=message):
        jt.elastic(ticket_of(resnet(14)), net=resnet(14), to=resnet(20), blocks=blocks)


def test_other_families_are_refused():
    net = resnet(14)
    squeezed = jt.elastic(ticket_of(net), net=net, to=resnet(8))
    assert equal(squeezed.mask["block_3_0"], ticket_of(net).mask["block_3_0"])
    with pytest.raises(ValueError, match="none to make"):
        jt.elastic(ticket_of(resnet(8)), net=resnet(8), to=net)
    with pytest.raises(ValueError, match="must be a residual network"):
        jt.elastic(ticket_of(net), net=net, to=jt.networks.lenet((8, 8, 1), 4))
    with pytest.raises(ValueError, match="within a family"):
        jt.elastic(ticket_of(net), net=net, to=net.resized(2))


# transfer


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits")


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, (20, 12))


def tickets_on(net, data):
    pruning = jt.Pruning(levels=2, fraction=0.5, rewind=10)
    return jt.find_tickets(net, data, TRAINING, pruning, seeds=range(3), progress=False)


@pytest.fixture(scope="module")
def runs(net, data):
    return tickets_on(net, data)


@pytest.fixture(scope="module")
def halves(net, data):
    """Tickets of two halves of the data."""
    return [tickets_on(net, half) for half in data.halves()]


def values_of(runs, branch):
    table = runs.table()
    table = table[(table["branch"] == branch) & (table["step"] > 0)]
    keys = ["level", "seed", "step", "split", "metric"]
    return table.sort_values(keys).set_index(keys)["value"]


def test_transfer_to_the_source_setting_reproduces_training(runs, data):
    found = jt.transfer(runs, to=data, reinit_output=False, start=10, branches=(), progress=False)
    ours, theirs = values_of(found, "transferred"), values_of(runs, "ticket")
    later = theirs.index.get_level_values("step") > 10
    level = theirs.index.get_level_values("level") > 0
    theirs = theirs[later & level]
    ours = ours.loc[theirs.index]
    assert len(ours) == 2 * 3 * 2 * 2 * 2
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found.densities, runs.densities)


def test_by_default_only_the_output_layer_changes(runs, data):
    found = jt.transfer(runs, to=data, seeds=(2, 0), levels=[0, 2], progress=False)
    assert found.seeds == (2, 0) and found.levels == (0, 2) and found.branch == "transferred"
    for seed in found.seeds:
        ours, theirs = found.ticket(2, seed), runs.ticket(2, seed)
        for name in ("dense_0", "dense_1"):
            assert equal(ours.mask[name], theirs.mask[name])
            assert equal(ours.params[name], theirs.params[name])
        assert ours.mask["dense_2"]["kernel"] is None and int(ours.step) == 0
        assert not np.array_equal(
            ours.params["dense_2"]["kernel"], theirs.params["dense_2"]["kernel"]
        )
        # the same for all tickets of a seed, and another for each seed
        assert equal(ours.params["dense_2"], found.ticket(0, seed).params["dense_2"])
    assert not equal(found.ticket(2, 0).params["dense_2"], found.ticket(2, 2).params["dense_2"])
    assert set(found.table()["branch"]) == {"transferred", "globally_permuted"}
    # the output layer counts neither as pruned nor as kept
    kept = sum(
        np.count_nonzero(runs.ticket(2, 0).mask[name]["kernel"]) for name in ("dense_0", "dense_1")
    )
    size = 64 * 20 + 20 * 12
    rows = found.table().query("level == 2 and seed == 0")
    np.testing.assert_allclose(rows["density"], kept / size)
    assert (found.table().groupby(["branch", "level"])["step"].max() == TRAINING.steps).all()


@pytest.mark.slow
def test_halves_and_their_own_tickets_with_another_optimizer(halves):
    here, there = halves
    found = jt.transfer(here, to=there, training=OTHER, branches=("shuffle",), progress=False)
    assert set(found.table()["branch"]) == {"transferred", "own", "shuffle"}
    assert found.data is there.data and found.training == OTHER
    # trained from the other half's tickets, nothing but those differ
    again = jt.transfer(there, to=there.data, training=OTHER, branches=(), progress=False)
    np.testing.assert_array_equal(values_of(found, "own"), values_of(again, "transferred"))
    assert not np.array_equal(values_of(found, "own"), values_of(found, "transferred"))


@pytest.mark.slow
def test_a_matrix_of_sources_and_targets(net, halves):
    runs = dict(zip("ab", halves, strict=True))
    b = runs["b"].data
    found = {
        (source, target): jt.transfer(runs[source], to=runs[target], progress=False)
        for target in runs
        for source in runs
        if source != target
    }
    table = jt.transfer_matrix(found)
    assert table.groupby(["target", "level"])["source"].apply(list).tolist() == [
        *[["a", "b"]] * 3, *[["b", "a"]] * 3
    ]  # fmt: skip
    final = jt.speed.final(found["b", "a"].table()).groupby(["branch", "level"])["value"]
    row = table.query("source == 'b' and target == 'a' and level == 2").iloc[0]
    assert row["accuracy"] == pytest.approx(final.mean()["transferred", 2])
    assert row["std"] == pytest.approx(final.std()["transferred", 2])
    assert row["own"] == pytest.approx(final.mean()["own", 2])
    assert row["difference"] == pytest.approx(row["accuracy"] - row["own"])
    assert row["globally_permuted"] == pytest.approx(final.mean()["globally_permuted", 2])
    own = table.query("source == target")
    assert (own["difference"] == 0).all() and (own["relative"] == 1).all() and len(own) == 6
    coarse = jt.find_tickets(net, b, TRAINING, jt.Pruning(levels=2, fraction=0.7, rewind=10),
                             seeds=range(3), progress=False)  # fmt: skip
    with pytest.raises(ValueError, match="same `fraction`"):
        jt.transfer_matrix({("a", "b"): jt.transfer(runs["a"], to=coarse, progress=False)})
    longer = jt.transfer(runs["b"], to=runs["a"], training=OTHER, progress=False)
    with pytest.raises(ValueError, match="trained in different ways"):
        jt.transfer_matrix({**found, ("c", "a"): longer})
    with pytest.raises(ValueError, match="no own tickets"):
        jt.transfer_matrix({("a", "b"): jt.transfer(runs["a"], to=b, progress=False)})
    with style():
        ax = jt.plots.transfer_matrix(table, level=1)
    texts = [text.get_text() for text in ax.texts]
    assert len(texts) == 4 and sum("own" in text for text in texts) == 2
    at = table.query("source == 'b' and target == 'a' and level == 1").iloc[0]
    assert f"{100 * at['accuracy']:.1f} ± {100 * at['std']:.1f}" in texts[2]
    with pytest.raises(ValueError, match="`level` must be one of"):
        jt.plots.transfer_matrix(table, level=9)
    pyplot.close("all")


# all residual networks here train for as many replicas, so that one program serves each depth
SHORT = TRAINING.replace(steps=4, eval_every=2)


@pytest.fixture(scope="module")
def residual(data):
    return resnet(14).adapted(shape=data.shape, classes=data.classes)


@pytest.fixture(scope="module")
def blocks(residual, data):
    return jt.prune_at(residual, data, SHORT, score="magnitude", density=0.3, seeds=range(2),
                       progress=False)  # fmt: skip


@pytest.mark.slow
def test_tickets_stretch_to_another_depth(blocks):
    to = blocks.net.adapted(depth=20)
    found = jt.transfer(blocks, to=blocks.data, net=to, levels=[1], progress=False)
    assert found.net == to and set(found.table()["branch"]) == {"transferred", "globally_permuted"}
    ours, theirs = found.ticket(1, 1), blocks.ticket(1, 1)
    assert equal(ours.mask["block_3_2"], theirs.mask["block_3_1"])
    assert equal(ours.params["block_3_2"], theirs.params["block_3_1"])
    moved = jt.transfer(blocks, to=blocks.data, net=to, levels=[1], permute_copies=True,
                        branches=(), progress=False).ticket(1, 1)  # fmt: skip
    for path, mask in trees.leaves(moved.mask).items():
        was = trees.leaves(ours.mask)[path]
        assert np.count_nonzero(mask) == np.count_nonzero(was)
        assert np.array_equal(mask, was) != (path.startswith("block_") and "_2/conv" in path
                                             and path.endswith("kernel")), path  # fmt: skip


def test_an_interrupted_transfer_resumes(runs, data, tmp_path):
    whole = jt.transfer(runs, to=data, folder=tmp_path / "a", progress=False)
    # each level has six networks; four fit at once on these devices: two blocks of level 0 ...
    with killed(2, units=True) as first:
        jt.transfer(runs, to=data, folder=tmp_path / "b", progress=False)
    # ... and the next one is of level 1
    with killed(1, units=True) as second:
        jt.transfer(runs, to=data, folder=tmp_path / "b", progress=False)
    assert not set(first) & set(second) and second[0][0].startswith("level-01")
    again = jt.transfer(runs, to=data, folder=tmp_path / "b", progress=False)
    np.testing.assert_array_equal(whole.table()["value"], again.table()["value"])
    assert (tmp_path / "b" / "tickets" / "transferred-level-02-seed-1.safetensors").exists()
    with pytest.raises(ValueError, match="start"):
        jt.transfer(runs, to=data, start=10, folder=tmp_path / "a", progress=False)


def test_tickets_of_all_kinds_of_runs_can_be_transferred(runs, net, data, tmp_path):
    """Trained where they were found they end as they did; costs are those of finding them."""
    searched = jt.search(net, data, TRAINING, "continuous", density=0.3, seeds=range(3), steps=20,
                         progress=False)  # fmt: skip
    late = jt.prune_at(net, data, TRAINING, score="magnitude", step="end", density=0.3,
                       seeds=range(3), progress=False)  # fmt: skip
    changed = jt.branch(runs, "reinit", levels=[2], progress=False)
    once = jt.transfer(runs, to=data, levels=[2], progress=False)
    for source in (searched, late, changed, once):
        level = max(source.levels)
        moved = jt.transfer(source, to=data, reinit_output=False, levels=[level], branches=(),
                            progress=False)  # fmt: skip
        theirs = values_of(source, source.branch).loc[[level]]
        np.testing.assert_array_equal(values_of(moved, "transferred"), theirs)
    half = jt.transfer(runs, to=data.halves()[0], levels=[2], progress=False)
    for source in (once, half):
        # in epochs of the data that they were found on
        spent = jt.costs.finding(source).set_index("level").loc[2]
        assert spent["training_steps"] == TRAINING.steps + TRAINING.steps - 10
        assert spent["epochs"] == spent["examples"] / len(data.train)
    # other tickets of the same name are others
    two = [jt.transfer(jt.branch(runs, c, name="mine", levels=[1], progress=False), to=data,
                       branches=(), folder=tmp_path / c, progress=False)
           for c in ("reinit", "shuffle")]  # fmt: skip
    with pytest.raises(ValueError, match="sha256"):
        jt.transfer(jt.branch(runs, "shuffle", name="mine", levels=[1], progress=False), to=data,
                    branches=(), folder=tmp_path / "reinit", progress=False)  # fmt: skip
    assert not np.array_equal(two[0].table()["value"], two[1].table()["value"])


class OwnModule(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x):
        x = jax.nn.relu(nn.Dense(12, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(self.classes, name="head")(x)


def test_custom_modules_transfer_to_other_classes(data):
    def network(classes):
        return jt.from_linen(OwnModule(classes), data.shape, name="own")

    parity = dataclasses.replace(
        data,
        name="parity",
        train=dataclasses.replace(data.train, y=data.train.y % 2),
        test=dataclasses.replace(data.test, y=data.test.y % 2),
        classes=2,
    )
    runs = jt.find_tickets(network(10), data, TRAINING, jt.Pruning(levels=1, fraction=0.5),
                           seeds=range(2), progress=False)  # fmt: skip
    with pytest.raises(ValueError, match="build the other network"):
        jt.transfer(runs, to=parity, progress=False)
    found = jt.transfer(runs, to=parity, net=network(2), progress=False)
    assert found.net.classes == 2 and set(found.table()["step"]) == {0, 20, 40}
    for seed in found.seeds:
        ours, theirs = found.ticket(1, seed), runs.ticket(1, seed)
        assert equal(ours.mask["hidden"], theirs.mask["hidden"])
        assert equal(ours.params["hidden"], theirs.params["hidden"])
        assert ours.params["head"]["kernel"].shape == (12, 2)
        assert ours.mask["head"]["kernel"] is None


def test_branches_in_another_order_are_another_run(runs, data, tmp_path):
    options = {"to": data, "levels": [2], "progress": False}
    names = ("reinit", "shuffle")
    one = jt.transfer(runs, branches=names, folder=tmp_path / "a", **options)
    other = jt.transfer(runs, branches=names[::-1], folder=tmp_path / "b", **options)
    for name in names:
        np.testing.assert_array_equal(values_of(one, name), values_of(other, name))
    assert not np.array_equal(values_of(one, "reinit"), values_of(one, "shuffle"))
    with pytest.raises(ValueError, match=r"`branches\[0\]`"):
        jt.transfer(runs, branches=names[::-1], folder=tmp_path / "a", **options)


def color_of(data):
    """The same images with three channels."""

    def colored(split):
        return dataclasses.replace(split, x=np.repeat(split.x, 3, axis=-1))

    parts = [colored(split) for split in (data.train, data.test)]
    return jt.data.from_arrays(parts[0].x, parts[0].y, parts[1].x, parts[1].y, name="color",
                               classes=data.classes)  # fmt: skip


def test_a_matrix_between_gray_and_color_images(net, data):
    color = color_of(data)
    wide = net.adapted(shape=color.shape)

    def found(fraction):
        pruning = jt.Pruning(levels=1, fraction=fraction, exclude=(net.output,))
        return {
            "gray": jt.find_tickets(net, data, TRAINING, pruning, seeds=[1, 0], progress=False),
            "color": jt.find_tickets(wide, color, TRAINING, pruning, seeds=[0, 1], progress=False),
        }

    runs = found(0.8)
    pairs = (("gray", "color"), ("color", "gray"))
    moved = {(a, b): jt.transfer(runs[a], to=runs[b], levels=[1], progress=False) for a, b in pairs}
    for (source, target), some in moved.items():
        # the first kernel is the larger part, and its adapted mask has another density
        density = runs[target].densities[1]
        assert abs(some.densities[0] / density - 1) > 0.05
        assert runs[source].densities[1] == pytest.approx(density, rel=0.01)
    table = jt.transfer_matrix(moved)
    row = table.query("source == 'color' and target == 'gray'").iloc[0]
    assert row["density"] == pytest.approx(moved["color", "gray"].densities[0])
    other = jt.transfer(found(0.7)["gray"], to=runs["color"], levels=[1], progress=False)
    with pytest.raises(ValueError, match=r"have 0\.3 of weights.*0\.2; find both"):
        jt.transfer_matrix({("gray", "color"): other})


def test_a_matrix_requires_transfers_of_one_start_and_output_layer(runs):
    usual = jt.transfer(runs, to=runs, levels=[2], progress=False)
    jt.transfer_matrix({("a", "c"): usual, ("b", "c"): usual})
    for options in ({"start": 10}, {"reinit_output": False}):
        other = jt.transfer(runs, to=runs, levels=[2], progress=False, **options)
        with pytest.raises(ValueError, match=r"trained in different ways.*`start`"):
            jt.transfer_matrix({("a", "c"): usual, ("b", "c"): other})


def test_loaded_tickets_train_as_those_of_their_runs(runs, net, data, tmp_path):
    runs.save(tmp_path)
    files = [tmp_path / "tickets" / f"ticket-level-{level:02d}-seed-{seed}.safetensors"
             for level in (0, 2) for seed in runs.seeds]  # fmt: skip
    tickets = [jt.Ticket.load(path, net=net) for path in files]
    half = data.halves()[0]
    given = {"net": net, "training": OTHER, "seeds": runs.seeds}
    usual = {"to": half, "levels": [0, 2], "progress": False}
    for branches in (("globally_permuted",), ("sign_flip",)):
        ours = jt.transfer(tickets, branches=branches, **usual, **given)
        theirs = jt.transfer(runs, branches=branches, training=OTHER, **usual)
        for name in ("transferred", *branches):
            np.testing.assert_array_equal(values_of(ours, name), values_of(theirs, name))
    np.testing.assert_array_equal(ours.densities, theirs.densities)
    # one by itself, to a target with own tickets, which says network and training
    one = jt.transfer(tickets[-1], to=runs, seeds=[2], progress=False)
    assert one.seeds == (2,) and one.levels == (2,) and one.training == TRAINING
    again = jt.transfer(runs, to=runs, levels=[2], progress=False)
    np.testing.assert_array_equal(
        values_of(one, "transferred"), values_of(again, "transferred").xs(2, level="seed",
                                                                          drop_level=False)
    )  # fmt: skip
    # where they were found is not known
    one.save(tmp_path / "moved")
    name = "transferred-level-02-seed-2.safetensors"
    header = about(tmp_path / "moved" / "tickets" / name)["about"]
    assert "found_in" not in header and "pruning" not in header
    on = jt.transfer(one, to=half, progress=False)
    on.save(tmp_path / "on")
    header = about(tmp_path / "on" / "tickets" / name)["about"]
    assert "found_in" not in header and "pruning" not in header and header["data"] == half.name
    # a control that needs the weights in between is refused wherever it is asked for
    several = jt.transfer(tickets, branches=[], **usual, **given)
    # nor is it known whether their weights are those of initialization
    assert several.matching(0.99)[2] and several.winning(0.99) is None
    with pytest.raises(ValueError, match=r"'shuffle'.*do not hold"):
        jt.transfer(several, to=half, branches=["shuffle"], progress=False)
    with pytest.raises(ValueError, match=r"'shuffle'.*do not hold"):
        jt.branch(several, "shuffle", levels=[2], progress=False)
    with pytest.raises(ValueError, match=r"do not hold"):
        jt.verdict(several, level=2, points=3, small_dense=False, progress=False)

    def moving(ticket, key, *, net):
        return ticket.replace(mask=jax.tree.map(lambda m: ~m, ticket.mask))

    folder = tmp_path / "never"
    for branch in ("shuffle", "random", moving):
        with pytest.raises(ValueError, match=r"`branches`.*do not hold"):
            jt.transfer(tickets, branches=[branch], folder=folder, **usual, **given)
    for options, message in (
        ({"seeds": None}, "`seeds` is needed"),
        ({"training": None}, "`training` is needed"),
        ({"net": None}, "`net` is needed"),
        ({"seeds": (0, 1)}, "`seeds` must be one for each ticket"),
        ({"net": net.resized(2)}, "`runs` does not fit the network: dense_0/bias"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.transfer(tickets, folder=folder, **usual, **{**given, **options})
    for odd in ([], runs.tickets, "ticket.npz", [files[0]]):
        with pytest.raises(ValueError, match="`runs` must be"):
            jt.transfer(odd, folder=folder, **usual, **given)
    assert not folder.exists()


def test_ticket_files_of_transfers_name_the_source(runs, data, tmp_path, capsys):
    half = dataclasses.replace(data.halves()[0], about={})
    moved = jt.transfer(runs, to=half, training=OTHER, levels=[2], folder=tmp_path, progress=False)
    again = jt.transfer(moved, to=data, progress=False)
    again.save(tmp_path / "again")
    for folder, target in ((tmp_path, half), (tmp_path / "again", data)):
        path = folder / "tickets" / "transferred-level-02-seed-1.safetensors"
        header = about(path)["about"]
        assert (header["data"], header["fingerprint"]) == (target.name, target.fingerprint)
        source = header["found_in"]
        assert (source["data"], source["fingerprint"]) == ("digits", data.fingerprint)
        assert source["licence"] == data.about["licence"] and source["net"] == json.loads(
            runs.net.config
        )
        assert source["training"]["optimizer"] == "sgd" and source["rewind_step"] == 10
        assert header["training"]["optimizer"] == "adam"
        assert header["licence"] == target.about.get("licence")
    main(["show", str(tmp_path / "tickets" / "transferred-level-02-seed-1.safetensors")])
    text = capsys.readouterr().out
    here, there = text.split("found in")
    assert "digits-a" in here and "license not known" in here and "optimizer=adam" in here
    assert "CC BY 4.0" in there and "optimizer=sgd" in there and "to step 10" in there


@pytest.fixture(scope="module")
def rewound(residual, data):
    pruning = jt.Pruning(levels=1, fraction=0.7, rewind=2)
    return jt.find_tickets(residual, data, SHORT, pruning, seeds=range(2), progress=False)


@pytest.mark.slow
def test_transfer_reproduces_training_with_batch_norm(rewound):
    found = jt.transfer(rewound, to=rewound.data, reinit_output=False, start=2, levels=[1],
                        branches=(), progress=False)  # fmt: skip
    ours, theirs = values_of(found, "transferred"), values_of(rewound, "ticket").loc[[1]]
    theirs = theirs[theirs.index.get_level_values("step") > 2]
    np.testing.assert_array_equal(ours.loc[theirs.index], theirs)
    slower = rewound.training.replace(lr=1e-3)
    other = jt.transfer(rewound, to=rewound.data, training=slower, levels=[1], branches=(),
                        progress=False)  # fmt: skip
    back = jt.transfer(other, to=rewound.data, training=rewound.training, reinit_output=False,
                       branches=(), progress=False)  # fmt: skip
    once = jt.transfer(rewound, to=rewound.data, levels=[1], branches=(), progress=False)
    np.testing.assert_array_equal(values_of(back, "transferred"), values_of(once, "transferred"))
    assert not np.array_equal(values_of(other, "transferred"), values_of(once, "transferred"))


@pytest.mark.slow
def test_tickets_are_squeezed(rewound):
    to = rewound.net.adapted(depth=8)
    found = jt.transfer(rewound, to=rewound.data, net=to, reinit_output=False, levels=[1],
                        branches=(), progress=False)  # fmt: skip
    want = jt.elastic(rewound.ticket(1, 1), net=rewound.net, to=to)
    ours = found.ticket(1, 1)
    assert equal(ours.mask, want.mask) and equal(ours.params, want.params)
    assert equal(ours.stats, want.stats)


@pytest.mark.parametrize(
    ("depth", "exclude", "left"),
    [
        (20, ("block_2_1",), ["block_2_1/conv_0/kernel", "block_2_2/conv_0/kernel"]),
        # squeezing takes the excluded block away
        (8, ("block_2_1", "block_0/*"), ["block_0/*"]),
    ],
    ids=["stretched", "squeezed"],
)
def test_excluded_layers_stay_excluded_at_another_depth(blocks, depth, exclude, left):
    pruning = dataclasses.replace(blocks.pruning, exclude=exclude)
    # without tickets, whose masks prune the layers that are excluded here
    target = target_of(dataclasses.replace(blocks, pruning=pruning, by_level={}), blocks.data,
                       blocks.net.adapted(depth=depth), None, reinit_output=False, blocks=None,
                       permute=False)  # fmt: skip
    assert [path for path in target.exclude if path.endswith(("conv_0/kernel", "*"))] == left


def test_blocks_of_another_kind_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (8, 8, 8, 3)).astype(np.uint8), np.arange(8) % 4
    data = jt.data.from_arrays(x, y, x, y, name="tiny")
    net = jt.networks.resnet((8, 8, 3), 4, 18, stem="small", width=0.0625)
    runs = runs_of(ticket_of(net), data, net, TRAINING, [0])
    with pytest.raises(ValueError, match="has other blocks"):
        jt.transfer(runs, to=data, net=net.adapted(depth=50), folder=tmp_path / "never",
                    progress=False)  # fmt: skip
    assert not (tmp_path / "never").exists()


def test_wrong_arguments_are_named(runs, net, data, blocks, tmp_path):
    folder = tmp_path / "never"
    others = dataclasses.replace(runs, seeds=(7, 8, 9))
    for options, message in (
        ({"to": "digits"}, "`to` must be data or runs, got 'digits'"),
        ({"to": others}, r"`to` has the seeds \(7, 8, 9\).*none in common"),
        ({"levels": 1}, r"`levels` must be several, such as .0, 1., got 1"),
        ({"levels": [1, 1]}, "`levels` must be distinct, got .1. more than once"),
        ({"at_once": 0}, "`at_once` must be a whole number of at least 1"),
        ({"start": 40}, "`start` 40 is not before the end"),
        ({"levels": [7]}, "`levels` must be some of"),
        ({"seeds": [9]}, "`seeds` must be some of"),
        ({"branches": ["shufle"]}, "did you mean 'shuffle'"),
        ({"blocks": "0:0;1:1"}, "of another depth"),
        (
            {"net": net.resized(2)},
            r"`net`: the ticket does not fit.*dense_0/kernel \(64, 20\) -> \(64, 40\)",
        ),
        ({"net": blocks.net}, "of another family"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.transfer(runs, **{"to": data, "progress": False, "folder": folder, **options})
    assert not folder.exists()
    with pytest.raises(ValueError, match="another family"):
        jt.transfer(blocks, to=data, net=jt.networks.lenet(data.shape, 10), progress=False)
    with pytest.raises(ValueError, match="must be that of the runs `to`"):
        jt.transfer(runs, to=runs, net=net.resized(2), progress=False)

    def own(ticket, key, *, net):
        return ticket

    with pytest.raises(ValueError, match="must not be named"):
        jt.transfer(runs, to=data, branches=[own], progress=False)
