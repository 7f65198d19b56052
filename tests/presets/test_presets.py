"""Presets: every one is whole, its numbers are those of the papers, and changes go where they say.

The tables below were typed from the papers, not from the package.
"""

import dataclasses
import functools
import subprocess
import sys
from fnmatch import fnmatchcase

import jax
import pytest
import trees

import jaxticket as jt
from jaxticket import masks
from jaxticket.cli import main, table
from jaxticket.presets import schema
from jaxticket.sparsify.learned import Concrete, GradBalance, Schedule

STREAMED = {"imagenet", "places365"}
each_preset = pytest.mark.parametrize("name", sorted(jt.PRESETS))


@functools.cache
def built(*what):
    """A network, once for presets that differ in how weights start: building takes a second."""
    network, shape, classes, options = what
    return jt.NETWORKS[network](shape, classes, **dict(options))


def net_of(p):
    options = {k: v for k, v in p.options.items() if k not in ("init", "scale")}
    return built(p.network, p.shape, p.classes, tuple(sorted(options.items())))


@each_preset
def test_every_preset_is_whole(name):
    p = jt.PRESETS[name]
    t = p.training
    assert p.name == name == jt.preset(name).name
    assert p.network in jt.NETWORKS and p.data in {*jt.DATASETS, *STREAMED}
    assert name.startswith(f"{p.network.removesuffix('_one_ticket')}-{p.data}")
    assert p.source and (p.function == "find_tickets") <= (p.method == "IMP")
    assert (p.finder is None) == (p.function in ("find_tickets", "transfer"))
    assert 0 <= p.pruning.rewind_step < t.steps
    assert t.warmup < t.steps and list(t.milestones) == sorted(set(t.milestones))
    assert all(0 < m < t.steps for m in t.milestones)
    assert (p.matching_density is None) == (p.matching_rewind is None)
    assert isinstance(hash(p), int)
    if p.dense_spread is not None:
        assert p.dense_accuracy is not None and p.dense_spread < 0.01
    if p.matching_density is not None and p.method == "IMP":
        reached = [0.8**n for n in range(p.pruning.levels + 1)]
        if p.pruning.one_shot:
            reached = [1 - p.pruning.fraction]
        assert min(abs(d - p.matching_density) for d in reached) < 0.0015


@each_preset
def test_every_network_builds_for_its_data(name):
    p = jt.PRESETS[name]
    net = net_of(p)
    assert (net.shape, net.classes) == (p.shape, p.classes)
    assert set(p.options) <= set(schema.options_of(jt.NETWORKS[p.network]))
    assert p.options.get("init", "orthogonal") in jt.networks.INITIALIZERS
    assert p.options.get("scale", "ones") in jt.networks.SCALES
    # patterns that match nothing would silently prune otherwise than the source
    params, _ = net.shapes
    paths = trees.paths(params)
    for pattern in (*p.pruning.exclude, *(pattern for pattern, _ in p.pruning.rates)):
        below = f"{pattern}/*"
        assert any(fnmatchcase(path, pattern) or fnmatchcase(path, below) for path in paths), (
            pattern
        )
    if p.pruning.exclude:
        assert p.pruning.exclude == (net.output,)


@pytest.mark.parametrize(
    ("name", "prunable"),
    [
        ("lenet-mnist", 266_200), ("conv6-cifar10", 2_261_184), ("resnet20-cifar10", 270_896),
        ("vgg16-cifar10", 14_715_584), ("resnet18-tiny_imagenet", 11_261_632),
    ],
)  # fmt: skip
def test_prunable_weights(name, prunable):
    """Counts of the layer tables, by hand."""
    net = jt.preset(name).net()
    params, _ = net.shapes
    flags = jax.tree.leaves(net.prunable(params))
    assert sum(x.size for x, f in zip(jax.tree.leaves(params), flags, strict=True) if f) == prunable


# thesis, Table 4.1: accuracy, spread, batch, rate, drops, warmup, density; and section 4.2.3's k
TABLE_4_1 = {
    "lenet-mnist": (98.3, 0.1, 24_000, 60, "adam", 12e-4, (), 0, 3.5, 0),
    "resnet20-cifar10": (91.7, 0.1, 63_000, 128, "momentum", 0.1, (32_000, 48_000), 0, 16.8, 500),
    "resnet20-cifar10-low": (
        88.8, 0.1, 63_000, 128, "momentum", 0.01, (32_000, 48_000), 0, 8.6, 0,
    ),
    "resnet20-cifar10-warmup": (
        89.7, 0.3, 63_000, 128, "momentum", 0.03, (32_000, 48_000), 30_000, 8.6, 0,
    ),
    "vgg16-cifar10": (93.7, 0.1, 63_000, 128, "momentum", 0.1, (32_000, 48_000), 0, 1.5, 1000),
    "vgg16-cifar10-low": (91.7, 0.1, 63_000, 128, "momentum", 0.01, (32_000, 48_000), 0, 5.5, 0),
    "vgg16-cifar10-warmup": (
        93.4, 0.1, 63_000, 128, "momentum", 0.1, (32_000, 48_000), 30_000, 1.5, 0,
    ),
    "resnet50-imagenet": (
        76.1, 0.1, 90 * 1251, 1024, "momentum", 0.4, (37_530, 75_060, 100_080), 6255, 30, 6255,
    ),
    "inception_v3-imagenet": (78.1, 0.1, 171 * 1251, 1024, "momentum", 0.03, (), 0, 30, 7506),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE_4_1)
def test_table_4_1_of_the_thesis(name):
    p = jt.PRESETS[name]
    t = p.training
    found = (
        pytest.approx(100 * p.dense_accuracy), pytest.approx(100 * p.dense_spread), t.steps,
        t.batch_size, t.optimizer, t.lr, t.milestones, t.warmup,
        pytest.approx(100 * p.matching_density), p.matching_rewind,
    )  # fmt: skip
    assert found == TABLE_4_1[name]
    assert p.pruning.rewind == p.matching_rewind
    assert p.pruning.one_shot == (p.data == "imagenet")
    assert (t.momentum, t.gamma) == (0.9, 0.1)


def test_inception_decays_along_a_line():
    t = jt.preset("inception_v3-imagenet").training
    assert (t.schedule, t.lr, t.final_lr) == ("linear", 0.03, 0.005)


# KD-LTS, Tables 5 to 7: rate, drops in epochs, decay; alpha, omega, beta, K, T, rate of masks
KD_LTS = {
    "lenet-mnist-kd_lts": (
        40, 469, 128, "sgd", 0.01, (), 0, 0.9, 0.2, 1, 60, 2, 10, 0.1,
    ),
    "resnet20-cifar10-kd_lts": (
        180, 352, 128, "momentum", 0.1, (90, 135), 2e-4, 0.9, 0.6, 0.1, 99, 3, 2, 1,
    ),
    "vgg16-cifar100-kd_lts": (
        180, 352, 128, "momentum", 0.1, (80, 120), 2e-4, 0.9, 0.2, 0.1, 300, 3, 30, 1,
    ),
    "resnet50-imagenet-kd_lts": (
        90, 1251, 1024, "momentum", 0.4, (30, 60, 80), 1e-4, 0.7, 0.6, 0.1, 99, 3, 2, 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KD_LTS)
def test_tables_4_to_7_of_kd_lts(name):
    epochs, per_epoch, batch, optimizer, lr, drops, decay, *search = KD_LTS[name]
    p = jt.PRESETS[name]
    t, s = p.training, p.settings
    assert t.steps == epochs * per_epoch and t.batch_size == batch
    assert (t.optimizer, t.lr, t.weight_decay) == (optimizer, lr, decay)
    assert t.milestones == tuple(e * per_epoch for e in drops)
    assert [round(share * s["epochs"], 6) for share in s["drop_at"]] == list(drops)
    assert s["epochs"] == min(epochs, 150) and s["length"] == s["epochs"] / epochs
    found = [s["alpha"], s["omega"], *s["beta"], s["teachers"], s["temperature"], s["lr"]]
    assert found == search
    method = p.search
    assert method.name == "kd_lts" and p.arguments["start"] == 0
    assert method.steps(t) == pytest.approx(s["epochs"] * per_epoch, abs=method.parts)
    assert p.options["init"] == "orthogonal"


def test_lenet_of_kd_lts_has_the_printed_iterations():
    """Table 4: 40 epochs of 469 iterations, of which the 1,407th is the end of the third."""
    t = jt.PRESETS["lenet-mnist-kd_lts"].training
    assert t.steps == 18_760 and 3 * t.steps // 40 == 1_407


def test_winning_tickets_of_kd_lts():
    """Its Table 2, "Sparsest winning ticket": test accuracy and sparsity."""
    rows = {
        "vgg16-cifar10-kd_lts": (93, 95),
        "resnet20-cifar10-kd_lts": (91.3, 55),
        "lenet-mnist-kd_lts": (98, 80),
        "resnet18-tiny_imagenet-kd_lts": (51, 92),
    }
    for name, (accuracy, sparsity) in rows.items():
        p = jt.PRESETS[name]
        assert 100 * p.dense_accuracy == pytest.approx(accuracy)
        assert 100 * (1 - p.matching_density) == pytest.approx(sparsity)


def test_one_ticket_appendix():
    """Batches of 512, 160 or 90 epochs, drops, 30 levels of 20%, late resetting, six seeds."""
    p = jt.PRESETS["vgg19-cifar10-one_ticket"]
    # 50,000 / 512 = 97.7 batches an epoch
    assert (p.training.steps, p.training.milestones) == (160 * 98, (80 * 98, 120 * 98))
    assert p.pruning.rewind == 98
    q = jt.PRESETS["resnet50-imagenet-one_ticket"]
    # 1,281,167 / 512 = 2,502.3
    assert q.training.steps == 90 * 2503 and q.pruning.rewind == 3 * 2503
    assert q.training.milestones == (50 * 2503, 65 * 2503, 80 * 2503)
    for one in (p, q):
        t = one.training
        assert (t.batch_size, t.optimizer, t.lr, t.momentum) == (512, "momentum", 0.1, 0.9)
        assert (t.weight_decay, one.pruning.levels, one.pruning.fraction) == (1e-4, 30, 0.2)
        assert one.replicates == 6 and one.options["init"] == "xavier_normal"
    adam = jt.PRESETS["vgg19-cifar10-one_ticket_adam"].training
    assert (adam.optimizer, adam.lr, adam.b1, adam.b2) == ("adam", 3e-4, 0.9, 0.999)
    assert sum("one_ticket" in name for name in jt.PRESETS) == 13


def test_other_sources():
    """A dozen numbers of CTS, chapter 5, SNIP, GraSP and the 2019 paper."""
    cts = jt.PRESETS["resnet20-cifar10-cts"]
    assert (cts.training.clip_norm, cts.training.weight_decay) == (2.0, 1e-3)
    assert (cts.dense_accuracy, cts.dense_spread) == (0.9212, 0.0008)
    assert cts.pruning.rewind == cts.arguments["start"] == 9 * 98
    # epochs of the searches, rate, its drop, temperature and GradBalance's slack and average
    lengths = [cts.search.steps(cts.training, length) / 98 for length in (None, "half", "long")]
    assert lengths == [20, 80, 160] and cts.search.drop_at == (0.88,)
    assert cts.search.training(cts.training, 1960).gamma == 0.1 and not cts.search.augment
    assert dict(cts.search.optimizer) == {"optimizer": "adam", "lr": 0.1}
    assert (cts.search.objective, cts.search.factor) == ("reverse_kl", 100)
    assert cts.search.relaxation == Concrete(Schedule(2 / 3))
    assert cts.search.constraint == GradBalance(slack=1.1, decay=0.99)
    sparsities = {
        "resnet20-cifar10-early": 73.8, "vgg16-cifar10-early": 93.1,
        "resnet18-tiny_imagenet": 96.5, "resnet50-imagenet-early": 67.2,
    }  # fmt: skip
    for name, sparsity in sparsities.items():
        p = jt.PRESETS[name]
        assert 100 * p.pruning.fraction == pytest.approx(sparsity)
        assert 100 * (1 - p.matching_density) == pytest.approx(sparsity)
    reported = {"vgg16": 91.7, "vgg2_16": 93.2, "wrn14_8": 93.8, "wrn14_10": 94.1, "wrn20_8": 93.9}
    for network, accuracy in reported.items():
        p = jt.PRESETS[f"{network}-cifar10-snip"]
        assert 100 * p.dense_accuracy == pytest.approx(accuracy)
        assert (p.training.steps, p.training.gamma) == (150_000, 0.2)
        assert (p.arguments["per_class"], p.arguments["batch_size"]) == (None, 128)
    grasp = jt.PRESETS["wrn32_2-cifar10-grasp"]
    assert grasp.training.milestones == (80 * 391, 120 * 391) and grasp.dense_accuracy == 0.948
    assert (
        jt.scores.recipe_of(grasp.score).temperature == 200 and grasp.arguments["per_class"] == 10
    )
    large = jt.PRESETS["resnet50-imagenet-grasp"].arguments
    assert (large["per_class"], large["batches"], large["batch_size"]) == (None, 150, 128)
    assert jt.PRESETS["vgg16-cifar10-synflow"].arguments["rounds"] == 100
    # what the notes of chapter 5 say of jt.prune_at
    assert jt.scores.recipe_of(jt.SCORES["synflow"]).rounds == 100
    assert jt.EarlyPruning(densities=(0.5,)).per_class == 10
    conv6 = jt.PRESETS["conv6-cifar10-lth2019"]
    assert (conv6.training.lr, conv6.training.steps) == (3e-4, 30_000)
    assert dict(conv6.pruning.rates) == {"conv_*": 0.15, "dense_2": 0.1}


# --- what a preset gives is what the functions take


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits")


@pytest.fixture(scope="module")
def net(data):
    # of so many weights that every preset keeps some
    return jt.networks.lenet(data.shape, data.classes, (100, 32))


@pytest.fixture(scope="module")
def tickets(net, data, tmp_path_factory):
    """Runs, in a folder that holds them."""
    training = jt.Training(steps=4, batch_size=20, eval_every=4)
    folder = tmp_path_factory.mktemp("tickets")
    return jt.find_tickets(
        net, data, training, jt.Pruning(levels=1), seeds=[0], folder=folder, progress=False
    )


FOUND_BY = {"search": 12, "prune_at": 21, "transfer": 13, "sparse_train": 3, "find_tickets": 20}


def test_every_preset_is_found_by_one_function():
    functions = [p.function for p in jt.PRESETS.values()]
    assert {name: functions.count(name) for name in schema.FUNCTIONS} == FOUND_BY


@each_preset
def test_every_preset_passes_the_checks_of_its_function(name, net, data, tickets):
    """A folder of other runs is refused when all arguments have been checked."""
    p = jt.PRESETS[name]
    # rates of layers that this small network does not have
    pruning = p.pruning.replace(rates=(), exclude=())
    with pytest.raises(ValueError, match="`folder`"):
        if p.function == "transfer":
            jt.transfer(tickets, to=data, **p.arguments, folder=tickets.folder)
        elif p.function == "search":
            jt.search(net, data, p.training, p.search, **p.arguments, folder=tickets.folder)
        elif p.function == "prune_at":
            jt.prune_at(net, data, p.training, **p.arguments, folder=tickets.folder)
        elif p.function == "sparse_train":
            # as above, a layer that this network does not have, and more examples than digits has
            arguments = {**p.arguments, "exclude": ()}
            training = p.training.replace(batch_size=128)
            jt.sparse_train(net, data, training, **arguments, folder=tickets.folder)
        else:
            jt.find_tickets(net, data, p.training, pruning, **p.arguments, folder=tickets.folder)


SMALL = {"steps": 40, "milestones": (), "batch_size": 20, "augment": (), "eval_every": 40}


def test_a_search_of_a_preset_runs_as_it_is(net, data):
    p = jt.preset("resnet20-cifar10-cts", **SMALL, levels=1, fraction=0.5, rewind=2)
    runs = jt.search(net, data, p.training, p.search, **p.arguments, seeds=[0], progress=False)
    assert runs.densities[1] == pytest.approx(0.5, abs=1e-3)
    assert set(runs.table()["branch"]) == {"ticket", "supermask"}


def test_pruning_at_initialization_runs_as_it_is(net, data):
    p = jt.preset("vgg19-cifar10-grasp", **SMALL)
    runs = jt.prune_at(net, data, p.training, **p.arguments, seeds=[0], progress=False)
    assert runs.densities[1:] == pytest.approx((0.1, 0.05, 0.02), abs=2e-3)


def test_a_mask_rule_runs_as_a_preset_says(data):
    p = jt.preset("wrn22_2-cifar10-rigl", data="digits", network="lenet", widths=(20, 10))
    p = p.replace(keywords={**p.keywords, "exclude": ("dense_0",)})
    short = p.training.dilated(24 / 97_656).replace(batch_size=20, augment=(), eval_every=24)
    p = p.replace(training=short, settings={**p.settings, "every": 5})
    runs = jt.sparse_train(p.net(data), data, p.training, **p.arguments, seeds=[0], progress=False)
    # 18.4 steps of 24
    assert (runs.pruning.rule.every, runs.pruning.rule.end) == (5, 18)
    assert runs.densities == pytest.approx((0.5, 0.2, 0.1, 0.05), abs=1e-3)
    sizes = {path: int(m.sum()) for path, m in masks.items(runs.ticket(3, 0).mask)}
    # the first layer stays dense and is not counted
    # and ERK, of 30 weights: in proportion to 20 + 10 and 10 + 10
    assert sizes == {"dense_1/kernel": 18, "dense_2/kernel": 12}
    grown = runs.monitored().query("metric == 'mask_grown' and step == 24")["value"]
    assert (grown > 0).all()


def test_rigl_changes_masks_as_published():
    """Every 100 steps, up to step 75,000 of 97,656 and 25,000 of 32,000."""
    for name, end in (("wrn22_2-cifar10", 75_000), ("resnet50-imagenet", 25_000)):
        p = jt.PRESETS[f"{name}-rigl"]
        rule = p.rule.for_training(p.training)
        assert isinstance(rule, jt.dynamic.RigL) and rule.skip
        assert (rule.every, rule.end, rule.fraction) == (100, end, 0.3)
        assert (rule.layout, rule.decay) == ("erk", "cosine")
    with pytest.raises(ValueError, match="`settings` 'often' are not taken by rule 'rigl'"):
        _ = p.replace(settings={"often": 3}).rule


def test_tickets_move_as_a_preset_says(tickets, data):
    arguments = jt.PRESETS["vgg19-svhn-one_ticket"].arguments
    runs = jt.transfer(tickets, to=data, **arguments, progress=False)
    assert {"transferred", "globally_permuted"} <= set(runs.table()["branch"])


def test_a_search_has_the_densities_of_the_levels():
    p = jt.preset("vgg16-cifar10-cts", levels=3, fraction=0.5, rewind=7)
    assert p.arguments == {"density": (0.5, 0.25, 0.125), "start": 7}
    quick = p.replace(settings={**p.settings, "length": "half"}, keywords={"density": 0.3})
    assert quick.arguments["density"] == 0.3 and quick.search.length == "half"
    with pytest.raises(ValueError, match="`settings` 'slack' are not taken by search 'concrete'"):
        _ = p.replace(settings={"slack": 1.1}).search


def test_what_a_preset_does_not_have_says_what_it_has():
    with pytest.raises(
        ValueError, match=r"`search` is not defined for preset 'lenet-mnist'.*find_tickets"
    ):
        _ = jt.preset("lenet-mnist").search
    with pytest.raises(ValueError, match=r"`score` is not .*by CTS: jt.search\(p.net"):
        _ = jt.preset("resnet20-cifar10-cts").score
    rigl = jt.preset("wrn16_4-cifar10-rigl")
    for ask in (lambda: rigl.search, lambda: rigl.score):
        with pytest.raises(ValueError, match=r"wrn16_4-cifar10-rigl.*RigL: jt.sparse_train\("):
            ask()
    with pytest.raises(ValueError, match="`rule` is not defined for preset 'lenet-mnist'"):
        _ = jt.preset("lenet-mnist").rule
    with pytest.raises(ValueError, match="`function` must be one of"):
        jt.preset("lenet-mnist", function="grow")


def test_what_is_done_to_images():
    """OpenLTH's flips and crops; KD-LTS's shifts; streams cut their own crops."""
    expected = {
        "lenet-mnist": (), "conv4-cifar10": (), "resnet20-cifar10": ("crop", "flip"),
        "resnet20-cifar10-kd_lts": ("shift", "flip"), "resnet50-imagenet": ("flip",),
        "resnet18-tiny_imagenet-kd_lts": ("resized_crop", "flip"),
    }  # fmt: skip
    assert {name: jt.PRESETS[name].training.augment for name in expected} == expected
    for p in jt.PRESETS.values():
        assert (p.image_size is not None) == (p.data in STREAMED)
        assert p.image_size is None or set(p.training.augment) <= {"flip"}


def test_held_out_shares_are_5000_images():
    for name in ("lenet-mnist-kd_lts", "resnet20-cifar10-kd_lts", "lenet-mnist-lth2019"):
        p = jt.PRESETS[name]
        assert round(p.validation * schema.FACTS[p.data].train) == 5000


def test_epochs_count_the_partial_batch():
    assert schema.steps_per_epoch("cifar10", 128) == 391
    assert schema.steps_per_epoch("mnist", 128) == 469
    assert schema.steps_per_epoch("cifar10", 128, validation=0.1) == 352
    assert jt.PRESETS["resnet20-cifar10-openlth"].training.steps == 62_560


# --- changes


def test_changes_go_where_they_belong():
    p = jt.preset("resnet20-cifar10", steps=1000, levels=3, width=0.5, rewind=500, validation=0.2)
    assert (p.training.steps, p.training.lr) == (1000, 0.1)
    assert (p.pruning.levels, p.pruning.rewind, p.validation) == (3, 500, 0.2)
    assert p.options == {"init": "kaiming_normal", "scale": "uniform", "width": 0.5}
    assert p.net() == jt.networks.resnet20(width=0.5)
    original = jt.preset("resnet20-cifar10")
    assert original == jt.PRESETS["resnet20-cifar10"]
    assert (original.training.steps, original.options.get("width")) == (63_000, None)


def test_whole_parts_can_be_changed_and_then_fields_of_them():
    p = jt.preset("vgg16-cifar10")
    short = p.replace(training=p.training.dilated(0.1), lr=0.05, network="vgg11")
    assert (short.training.steps, short.training.milestones) == (6300, (3200, 4800))
    assert short.training.lr == 0.05 and short.net() == jt.networks.vgg11()
    assert p.replace() == p


def test_presets_do_not_share_their_dicts():
    p = jt.preset("vgg16-cifar10")
    p.options["width"] = 0.5
    assert "width" not in jt.PRESETS["vgg16-cifar10"].options
    assert "width" not in jt.PRESETS["vgg16-cifar10-low"].options


def test_a_network_can_be_a_function():
    def tiny(shape, classes, hidden=3):
        return jt.networks.lenet(shape, classes, [hidden])

    p = jt.preset("lenet-mnist", network=tiny, options={}, hidden=5)
    assert p.net() == jt.networks.lenet((28, 28, 1), 10, [5])


def test_data_of_ones_own():
    data = jt.data.load("digits", validation=0.1)
    p = jt.preset("lenet-mnist", data="digits", validation=0.1)
    assert p.net(data) == p.net() == jt.networks.lenet((8, 8, 1), 10, init="glorot_normal")
    loaded = p.load()
    assert loaded.fingerprint == data.fingerprint and len(loaded.train) < schema.FACTS["digits"][2]
    assert len(jt.data.load("digits").train) == schema.FACTS["digits"].train


def test_the_lines_of_the_docstring_run():
    """Load, build, find tickets; rewinding and density are those of the preset."""
    p = jt.preset(
        "lenet-mnist", data="digits", widths=(8,), steps=6, levels=1, rewind=2, fraction=0.5
    )
    data = p.load()
    runs = jt.find_tickets(p.net(data), data, p.training, p.pruning, seeds=range(1))
    rows = runs.table()
    assert sorted(rows.density.unique()) == [0.5, 1.0]
    assert sorted(rows.step.unique())[-1] == 6 and len(runs.levels) == 2


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(
        ValueError, match=r"`name` is not a preset: 'resnet20-cifar'; did you mean 'r"
    ):
        jt.preset("resnet20-cifar")
    with pytest.raises(
        ValueError, match=r"`level` is not a field of Preset, .*did you mean 'levels'"
    ):
        jt.preset("resnet20-cifar10", level=3)
    with pytest.raises(ValueError, match=r"`stem` is not .* option of network 'resnet20'"):
        jt.preset("resnet20-cifar10", stem="small")
    with pytest.raises(ValueError, match=r"`network` is unknown: 'resnet21'; did you .*'resnet20'"):
        jt.preset("resnet20-cifar10", network="resnet21")
    with pytest.raises(ValueError, match="`steps` must be a whole number"):
        jt.preset("resnet20-cifar10", steps=0)


def test_a_name_of_two_things_is_an_error(monkeypatch):
    def net(shape, classes, steps=1):
        raise AssertionError("not called")

    monkeypatch.setitem(jt.NETWORKS, "unrolled", net)
    with pytest.raises(ValueError, match="`steps`=3 could change any of training, options; say"):
        jt.preset("lenet-mnist", network="unrolled", options={}, steps=3)
    p = jt.preset("lenet-mnist", network="unrolled", options={"steps": 3})
    assert p.training.steps == 24_000


def test_options_that_a_network_does_not_take():
    p = jt.preset("resnet20-cifar10", network="lenet")
    with pytest.raises(ValueError, match="`options` 'scale' are not taken by network 'lenet', whi"):
        p.net()


def test_shapes_that_are_not_known():
    with pytest.raises(ValueError, match="`image_size` is needed: the images of 'imagenet' vary"):
        jt.preset("resnet50-imagenet", image_size=None).net()
    with pytest.raises(
        ValueError, match="`data`='tfds:beans' has a shape that presets do not know"
    ):
        jt.preset("lenet-mnist", data="tfds:beans").net()


@pytest.mark.parametrize(
    ("field", "value"), [("validation", 1.0), ("dense_accuracy", 91.7), ("matching_density", 0.0)]
)
def test_shares_are_checked(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be in"):
        jt.preset("lenet-mnist", **{field: value})


@pytest.mark.parametrize("name", ["resnet20-cifar10", "resnet50-imagenet"])
def test_missing_data_says_where_and_how(name, tmp_path, monkeypatch):
    monkeypatch.delenv("JAXTICKET_DATA_DIR", raising=False)
    with pytest.raises(jt.data.MissingDataError, match=str(tmp_path)) as caught:
        jt.preset(name).load(tmp_path)
    assert "download=True" in str(caught.value) or "pip install" in str(caught.value)


@pytest.mark.slow
def test_real_data_and_network_fit(tfds_dir):
    p = jt.preset("lenet-mnist-kd_lts")
    data = p.load(tfds_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5000, 10_000)
    assert p.net(data) == p.net()


# --- the command line


def run(capsys, *args):
    main(args)
    return capsys.readouterr().out


def test_a_reader_that_has_read_enough_ends_the_list():
    # `true` is gone before the first line is written
    command = f"{sys.executable} -m jaxticket presets | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_table_lists_every_preset(capsys):
    lines = run(capsys, "presets").splitlines()
    assert lines[0].split()[:4] == ["name", "network", "data", "steps"]
    assert [line.split()[0] for line in lines[1:]] == list(jt.PRESETS)
    row = next(line for line in lines if line.startswith("resnet20-cifar10 "))
    assert "91.7 ± 0.1%" in row and "16.8% (k=500)" in row and "63,000" in row
    assert row.endswith("Table 4.1")


def test_a_pattern_selects(capsys):
    lines = run(capsys, "presets", "vgg16-cifar10*").splitlines()[1:]
    assert lines and all(line.startswith("vgg16-cifar10") for line in lines)
    assert len(lines) == sum(name.startswith("vgg16-cifar10") for name in jt.PRESETS)


def test_one_preset_in_full(capsys):
    """Every field is there, by name; notes and the settings of the search too."""
    p = jt.PRESETS["resnet20-cifar10-kd_lts"]
    out = run(capsys, "presets", p.name)
    first = [line.split()[0] for line in out.splitlines()]
    for settings in (p, p.training, p.pruning):
        assert {f.name for f in dataclasses.fields(settings)} <= set(first)
    assert set(p.settings) <= set(first) and "jt.search(p.net(data)" in out
    assert all(note in out for note in p.notes)


def test_a_function_has_its_name_in_the_table():
    def tiny(shape, classes):
        return jt.networks.lenet(shape, classes, [3])

    assert "tiny" in table([jt.preset("lenet-mnist", network=tiny, options={})])


def test_mistakes_on_the_command_line(capsys, monkeypatch):
    with pytest.raises(SystemExit) as caught:
        main(["presets", "resnet20-mnist"])
    said = capsys.readouterr().err
    assert said.startswith("error: `name` is not a preset: 'resnet20-mnist'; did you")
    assert caught.value.code == 2
    monkeypatch.setattr(sys, "argv", ["jaxticket"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and "presets" in capsys.readouterr().err
