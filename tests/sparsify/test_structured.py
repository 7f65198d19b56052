"""Structured masks end to end: seeds side by side, exact counts, folders, tables."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import batches_of, context_of

import jaxticket as jt
from jaxticket import masks, structures
from jaxticket.pruning.scores import SCORES

STRUCTURES = ("2:4", ("block", 4, 2), "channel", ("fan_in", 3))
each_structure = pytest.mark.parametrize("structure", STRUCTURES, ids=str)
TRAINING = jt.Training(steps=12, batch_size=32, eval_every=12)
SEEDS = (0, 4)


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits")


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=(12, 8))


@pytest.fixture(scope="module")
def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


def alive(net, structure, mask, exclude=()):
    """Units that a mask keeps by layer, after a check that it keeps them whole."""
    units = structures.units_of(structure, net.mask(exclude), net)
    there = units.alive(mask)
    jax.tree.map(np.testing.assert_array_equal, units.expand(there, mask), mask)
    return [int(np.sum(x)) for x in jax.tree.leaves(there)]


def per_group(mask, structure):
    """The numbers that groups of "2:4", and the outputs of ("fan_in", 3), keep."""
    kernels = [np.asarray(m) for _, m in masks.items(mask)]
    lengths = [4 if structure == "2:4" else m.shape[-2] for m in kernels]
    found = [
        m.reshape(-1, n, m.shape[-1]).sum(axis=1) for m, n in zip(kernels, lengths, strict=True)
    ]
    return {int(n) for x in found for n in np.unique(x)}


def assert_exact(net, structure, mask, density=None):
    """A final mask keeps exactly what was asked for."""
    if structure == "2:4":
        assert per_group(mask, structure) == {2}
    elif structure == ("fan_in", 3):
        assert per_group(mask, structure) == {3}
    else:
        size = sum(structures.units_of(structure, net.mask(), net).sizes)
        assert sum(alive(net, structure, mask)) == round(density * size)


LEVELS = {"2:4": (3, 0.2), ("fan_in", 3): (2, 0.8), ("block", 4, 2): (2, 0.2), "channel": (2, 0.2)}


@each_structure
def test_find_tickets(data, net, mesh, structure):
    levels, fraction = LEVELS[structure]
    pruning = jt.Pruning(levels=levels, fraction=fraction, structure=structure)
    runs = jt.find_tickets(net, data, TRAINING, pruning, seeds=SEEDS, mesh=mesh, progress=False)
    for seed in SEEDS:
        found = [runs.ticket(level, seed).mask for level in runs.levels]
        for before, after in itertools.pairwise(found):
            assert bool(masks.nested(after, before))
        assert_exact(net, structure, found[-1], (1 - fraction) ** levels)
        if structure == "2:4":
            assert [per_group(mask, structure) for mask in found[1:]] == [{3}, {3}, {2}]
    # what tables say is the share of weights
    shares = [float(jt.density(runs.ticket(levels, seed).mask)) for seed in SEEDS]
    assert runs.densities[-1] == pytest.approx(np.mean(shares))
    assert runs.pruning.name.startswith("imp_")


def test_a_shuffled_ticket_keeps_counts_and_loses_its_structure(net):
    params, stats = net.init(jax.random.key(0))
    mask = jt.keep_top(jax.tree.map(jnp.abs, params), net.mask(), None, structure="2:4")
    ticket = jt.Ticket(mask, params, stats, np.int32(1), np.int32(0))
    control = jt.branches.shuffle(ticket, jax.random.key(1), net=net).mask
    assert {float(x) for x in masks.layer_density(control).values()} == {0.5}
    assert per_group(control, "2:4") == {0, 1, 2, 3, 4}


@each_structure
def test_prune_at(data, net, mesh, structure):
    implied = structures.units_of(structure, net.mask(), net).density
    density = None if implied else (0.6, 0.3)
    call = {"score": "snip", "structure": structure, "density": density, "dense": False,
            "progress": False}  # fmt: skip
    runs = jt.prune_at(net, data, TRAINING, seeds=SEEDS, mesh=mesh, **call)
    alone = jt.prune_at(
        net, data, TRAINING, seeds=SEEDS[1:], mesh=jt.parallel.mesh(devices=jax.devices()[:1]),
        **call,
    )  # fmt: skip
    for level, share in enumerate((implied,) if implied else density, 1):
        for seed in SEEDS:
            assert_exact(net, structure, runs.ticket(level, seed).mask, share)
        jax.tree.map(
            np.testing.assert_array_equal,
            runs.ticket(level, SEEDS[1]).mask, alone.ticket(level, SEEDS[1]).mask,
        )  # fmt: skip


def test_iterative_scores_layouts_and_scopes(data, net):
    call = {"seeds": (0,), "dense": False, "progress": False}
    runs = jt.prune_at(
        net, data, TRAINING, density=0.4, score="synflow", rounds=5, structure="channel",
        scope="layer", **call,
    )  # fmt: skip
    assert alive(net, "channel", runs.ticket(1, 0).mask) == [round(0.4 * 12), round(0.4 * 8)]
    structure = ("block", 4, 2)
    runs = jt.prune_at(
        net, data, TRAINING, density=0.4, score="random", scope="erk", structure=structure, **call
    )
    size = sum(structures.units_of(structure, net.mask(), net).sizes)
    assert sum(alive(net, structure, runs.ticket(1, 0).mask)) == round(0.4 * size)
    for other, text in (("channel", "layout spreads"), ("2:4", "layout spreads")):
        density = 0.5 if other == "2:4" else 0.4
        with pytest.raises(ValueError, match=text):
            jt.prune_at(
                net, data, TRAINING, density=density, score="random", scope="erk",
                structure=other, **call,
            )  # fmt: skip


def test_random_channels_do_not_depend_on_their_fan_in():
    """Means of random scores would keep the channels with few incoming weights alone."""
    net = jt.networks.lenet((2, 2, 1), 10, widths=(400, 400))
    params, _ = net.init(jax.random.key(0))
    key = jax.random.key(1)
    mask = jt.prune(params, score="random", density=0.2, structure="channel", net=net, key=key)
    first, second = alive(net, "channel", mask)
    assert first + second == 160 and abs(first - second) < 40
    scores = SCORES["random"](params, None, key=key)
    means = jt.keep_top(scores, net.mask(), 160, structure="channel", net=net)
    assert alive(net, "channel", means)[0] > 140


@pytest.mark.parametrize("score", SCORES)
def test_every_score_with_every_structure(net, score):
    params, stats = net.init(jax.random.key(0))
    context = context_of(net, params, stats, batches_of(net.shape, net.classes, 2, 10))
    scores = jax.jit(lambda params, key: SCORES[score](params, context, key=key))(
        params, jax.random.key(2)
    )
    for structure in STRUCTURES:
        units = structures.units_of(structure, net.mask(), net)
        keep = units.rounds(units.density or 0.3, 1)[0]
        mask = jt.keep_top(scores, net.mask(), keep, structure=structure, net=net)
        assert_exact(net, structure, mask, 0.3)


def test_excluded_layers_stay_dense(data, net):
    runs = jt.prune_at(
        net, data, TRAINING, structure="2:8", score="magnitude", exclude=("dense_1", "dense_2"),
        seeds=(0,), dense=False, progress=False,
    )  # fmt: skip
    mask = runs.ticket(1, 0).mask
    assert mask["dense_1"]["kernel"] is None and mask["dense_2"]["kernel"] is None
    assert list(runs.densities) == [0.25]


def test_folders_know_their_structure(data, net, tmp_path):
    call = {"seeds": (0,), "dense": False, "score": "magnitude", "density": 0.5,
            "progress": False, "folder": tmp_path / "run"}  # fmt: skip
    runs = jt.prune_at(net, data, TRAINING, structure="2:4", **call)
    again = jt.load(tmp_path / "run")
    assert again.pruning == runs.pruning and again.pruning.structure == "2:4"
    assert "magnitude_2:4" in str(again.pruning.name)
    with pytest.raises(jt.RunFolderError, match=r"structure.* is '2:4' there and 'channel' here"):
        jt.prune_at(net, data, TRAINING, structure="channel", **call)
    with pytest.raises(jt.RunFolderError, match=r"structure.* is '2:4' there and 'absent' here"):
        jt.prune_at(net, data, TRAINING, **call)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"levels": 2, "structure": "2:4"}, r"do not reach structure='2:4'.* use 3 levels, or "
                                            r"fraction=0\.21"),
        ({"levels": 3, "structure": ("fan_in", 3)}, r"do not reach.* use 14 levels, or fraction="),
        ({"levels": 12, "fraction": 0.3, "structure": "channel"},
         "level 7 keeps 2 of the 20 units|keeps"),
        ({"structure": "2:4", "scope": "layer"}, "`scope` 'layer' has no effect"),
        ({"structure": "channel", "scope": "layer", "rates": (("dense_2", 0.1),)},
         "`rates` pattern 'dense_2' matches no layer that is pruned; these are dense_0, dense_1"),
        ({"structure": ("block", 4, 4)}, r"'dense_2/kernel' has \(8, 10\)"),
    ],
)  # fmt: skip
def test_levels_that_do_not_fit(data, net, options, text):
    with pytest.raises(ValueError, match=text):
        jt.find_tickets(net, data, TRAINING, jt.Pruning(**options), seeds=(0,), progress=False)


def test_arguments_that_contradict(data, net):
    call = {"seeds": (0,), "score": "magnitude", "progress": False}
    with pytest.raises(ValueError, match=r"`density` 0\.2 contradicts the structure.*0\.5"):
        jt.prune_at(net, data, TRAINING, density=0.2, structure="2:4", **call)
    with pytest.raises(
        ValueError, match=r"`density` must be in \(0, 1\], got None: the structure keeps any share"
    ):
        jt.prune_at(net, data, TRAINING, structure="channel", **call)
    with pytest.raises(
        ValueError, match=r"`density` must be in \(0, 1\], got None: only structures"
    ):
        jt.prune_at(net, data, TRAINING, **call)
    with pytest.raises(ValueError, match="`floor` 1 has no effect"):
        jt.prune_at(net, data, TRAINING, structure="2:4", floor=1, **call)


class Whole:
    """A structure of one's own: all weights into an output, of each layer."""

    def __eq__(self, other):
        return isinstance(other, Whole)

    def __hash__(self):
        return 7

    def units(self, dense, net):
        return Outputs([(path, m.shape) for path, m in masks.items(dense)])


class Outputs(structures.Units):
    def __init__(self, layers):
        self.layers = layers

    @property
    def names(self):
        return tuple(path for path, _ in self.layers)

    @property
    def sizes(self):
        return tuple(shape[-1] for _, shape in self.layers)

    def pool(self, scores, mask):
        return masks.map_with(lambda m, s: s.mean(axis=0), mask, scores)

    def alive(self, mask):
        return masks.map_with(lambda m: m.any(axis=0), mask)

    def expand(self, units, mask):
        return masks.map_with(lambda m, u: jnp.broadcast_to(u, m.shape), mask, units)


def test_a_structure_of_ones_own(data, net):
    runs = jt.prune_at(
        net, data, TRAINING, density=0.5, score="magnitude", structure=Whole(), seeds=(0,),
        dense=False, progress=False,
    )  # fmt: skip
    mask = runs.ticket(1, 0).mask
    columns = [np.asarray(m) for _, m in masks.items(mask)]
    assert sum(int(m.all(axis=0).sum()) for m in columns) == 15
    assert all((m.any(axis=0) == m.all(axis=0)).all() for m in columns)
    assert runs.pruning.name == "magnitude_whole"
