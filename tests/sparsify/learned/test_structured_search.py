"""Searches for structured masks: exact in the end, one score for each unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket import masks, structures
from jaxticket.sparsify.learned.learner import ScoreLearner

TRAINING = jt.Training(steps=12, batch_size=32, eval_every=12)
SEEDS = (0, 4)


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits")


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=(12, 8))


def alive(net, structure, mask):
    """Units that a mask keeps by layer, after a check that it keeps them whole."""
    units = structures.units_of(structure, net.mask(), net)
    there = units.alive(mask)
    jax.tree.map(np.testing.assert_array_equal, units.expand(there, mask), mask)
    return [int(np.sum(x)) for x in jax.tree.leaves(there)]


def assert_groups(mask, wanted, length=None):
    """Every group of so many inputs (all of them, if None) keeps the wanted number."""
    for _, m in masks.items(mask):
        groups = np.asarray(m).reshape(-1, length or m.shape[-2], m.shape[-1])
        assert (groups.sum(axis=1) == wanted).all()


METHODS = {
    # samples, a threshold that freezes, top-k of each layer, and the largest of a growing slope
    "concrete": lambda: jt.SEARCHES["concrete"]("loss", length=1.0),
    "gem_miner": lambda: jt.SEARCHES["gem_miner"](freezings=3),
    "edge_popup": lambda: jt.SEARCHES["edge_popup"](),
    "kd_lts": lambda: jt.SEARCHES["kd_lts"](
        teachers=1, epochs=4, freeze_every=2, cumulative=True, stage=0.25
    ),
}


@pytest.mark.parametrize(
    ("method", "structure"),
    [
        ("concrete", "channel"),
        ("gem_miner", "2:4"),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in [
                ("edge_popup", ("fan_in", 3)), ("edge_popup", "channel"),
                ("gem_miner", ("block", 4, 2)), ("kd_lts", "2:4"), ("kd_lts", "channel"),
            ]
        ),
    ],
    ids=str,
)  # fmt: skip
def test_search(data, net, method, structure):
    implied = structures.units_of(structure, net.mask(), net).density
    runs = jt.search(
        net, data, TRAINING, METHODS[method](), density=None if implied else 0.4, train=False,
        structure=structure, seeds=SEEDS, dense=False, progress=False,
    )  # fmt: skip
    for seed in SEEDS:
        mask = runs.ticket(1, seed).mask
        if structure == "2:4":
            assert_groups(mask, 2, 4)
        elif structure == ("fan_in", 3):
            assert_groups(mask, 3)
        elif method == "edge_popup":
            assert alive(net, structure, mask) == [round(0.4 * 12), round(0.4 * 8)]
        else:
            size = sum(structures.units_of(structure, net.mask(), net).sizes)
            assert sum(alive(net, structure, mask)) == round(0.4 * size)
    assert runs.trace()["expected"].notna().all()


def test_masks_of_groups_move_and_count(data, net):
    """`watch_masks` looks at masks that would be given, which are exact at any moment."""
    runs = jt.search(
        net, data, TRAINING, METHODS["gem_miner"](), train=False, structure="2:4", seeds=(0,),
        dense=False, progress=False, watch_masks=3,
    )  # fmt: skip
    assert runs.pruning.densities == (0.5,)
    assert runs.pruning.name == "gem_miner_2:4"
    assert 0 <= runs.trace()["hamming"].max() <= 1


def test_a_search_gives_one_score_to_a_unit(data, net):
    """All weights of a block move alike, and so does what multiplies them."""
    learner = ScoreLearner(
        net, METHODS["concrete"](), TRAINING.replace(augment=()), structure=("block", 4, 2)
    )
    scores = learner.initial_scores(jnp.float32(0.4), key=jax.random.key(0))
    shapes = [m.shape for m in jax.tree.leaves(scores)]
    assert shapes == [(16, 6), (3, 4), (2, 5)]
