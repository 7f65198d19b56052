"""What the papers report shows on real data: the digits that come with scikit-learn."""

import jax
import pytest

import jaxticket as jt


@pytest.fixture(scope="module")
def runs():
    data = jt.data.load("digits", validation=0.1)
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(steps=200, eval_every=50, eval_train_examples=200)
    # 59% a level: five levels to 1.2% of the weights
    pruning = jt.Pruning(levels=5, fraction=0.59)
    return jt.find_tickets(
        net,
        data,
        training,
        pruning,
        seeds=range(3),
        branches=("reinit", "shuffle", "random"),
        mesh=jt.parallel.mesh(devices=jax.devices()[:2]),
        progress=False,
    )


@pytest.fixture(scope="module")
def final(runs):
    rows = jt.speed.matching(runs.table())
    return {(row.branch, row.level): row for row in rows.itertuples()}


def test_the_dense_network_learns(final):
    assert final["ticket", 0].mean > 0.94


def test_tickets_beat_their_controls_when_sparse(final):
    """Thesis, Fig. 3-7: reinit, layerwise and global random all fall below the ticket."""
    for level in (4, 5):
        for branch in ("reinit", "shuffle", "random"):
            assert final["ticket", level].mean > final[branch, level].mean + 0.01
            assert final["ticket", level].min > final[branch, level].min


def test_global_random_pruning_is_the_worst_when_sparse(final):
    """Thesis, section 3.3.5: it destroys the layers' proportions too."""
    assert final["random", 4].mean < final["shuffle", 4].mean < final["reinit", 4].mean


def test_tickets_learn_faster_than_the_dense_network(runs):
    """Thesis, Fig. 3-1: early in training, moderately sparse tickets lead."""
    early = jt.speed.at_share(runs.table(), 0.25)
    means = early.groupby(["branch", "level"]).value.mean()
    assert means["ticket", 1] > means["ticket", 0] and means["ticket", 2] > means["reinit", 2]


def test_every_layer_survives(runs):
    """Global pruning keeps the output layer far denser than the others (thesis, 3.1.3)."""
    layers = jt.masks.layer_density(runs.ticket(5, 0).mask)
    assert float(layers["dense_2/kernel"]) > 5 * float(layers["dense_0/kernel"]) > 0


@pytest.mark.slow
def test_lenet_on_mnist_is_stable_from_initialization(tfds_dir):
    """Thesis, Figs. 4-2 and 4-3: its error rises by less than a point between two copies."""
    data = jt.data.load("mnist", data_dir=tfds_dir).fraction(0.1)
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(steps=300, eval_train_examples=2_000)
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    inst = jt.instability(
        net, data, training, at=0, points=7, seeds=(0, 1), mesh=mesh, progress=False
    )
    errors = inst.lines()[..., [0, -1]]
    assert errors.max() < 0.12
    assert inst.stable()["stable"].all() and inst.barriers().max() < 0.02
    # though the copies are far apart, and say other things
    table = inst.table().set_index("metric")
    assert table.loc["l2", "value"].min() > 1
