"""Controls start from the ticket's own weights, whichever way they are asked for."""

import jax
import numpy as np
import pytest
from patterns import noisy_patterns

import jaxticket as jt
from jaxticket import masks

SEEDS = (0, 3)
TRAINING = jt.Training(
    steps=12, batch_size=20, optimizer="momentum", lr=0.1, eval_every=6, eval_batch_size=60
)
REWINDS = {
    "initialization": {"rewind": 0},
    "step": {"rewind": 4},
    "learning_rate": {"rewind": "learning_rate"},
    "one_shot_learning_rate": {"rewind": "learning_rate", "one_shot": True},
    "fresh_order": {"rewind": 4, "order": "fresh"},
}


@pytest.fixture(scope="module")
def data():
    return noisy_patterns()


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=(12,))


@pytest.fixture(scope="module", params=REWINDS)
def runs(request, net, data):
    pruning = jt.Pruning(levels=2, fraction=0.5, **REWINDS[request.param])
    return jt.find_tickets(
        net, data, TRAINING, pruning, seeds=SEEDS, branches=list(jt.BRANCHES), progress=False
    )


@pytest.mark.parametrize("branch", jt.BRANCHES)
def test_a_control_made_later_equals_one_trained_with_its_ticket(runs, branch):
    later = jt.branch(runs, branch, levels=[1, 2], progress=False).table()
    there = runs.table()
    there = there[(there.branch == branch) & (there.level > 0)].reset_index(drop=True)
    keys = ["seed", "level", "density", "step", "split", "metric", "diverged"]
    assert later[keys].equals(there[keys])
    np.testing.assert_allclose(later.value, there.value, atol=1e-6)


def test_a_ticket_retrained_is_the_ticket(runs):
    table = runs.table()
    own, again = (
        table[table.branch == name].reset_index(drop=True) for name in ("ticket", "retrain")
    )
    own, again = (rows[rows.level > 0].value.to_numpy() for rows in (own, again))
    np.testing.assert_array_equal(own, again)


def leaves(ticket):
    """(mask, weights) of each leaf; all True where nothing can be pruned."""
    every = masks.map_with(
        lambda m, w: (m, w), ticket.mask, ticket.params,
        other=lambda w: (np.ones(w.shape, bool), w),
    )  # fmt: skip
    return jax.tree.leaves(every, is_leaf=lambda x: isinstance(x, tuple))


def test_controls_of_learning_rate_rewinding_hold_trained_weights_alone(net, data):
    """At a pruned position stands the weight as it was trained when it was pruned."""
    pruning = jt.Pruning(levels=2, fraction=0.5, rewind="learning_rate")
    runs = jt.find_tickets(net, data, TRAINING, pruning, seeds=SEEDS, progress=False)
    # the dense network once more, pruned at its end: its weights are those of level 1
    dense = jt.prune_at(
        net, data, TRAINING, score="magnitude", density=(0.5,), step="end", seeds=SEEDS,
        progress=False,
    )  # fmt: skip
    dense = dense[TRAINING.steps] if isinstance(dense, dict) else dense
    for seed in SEEDS:
        first, initial = runs.ticket(1, seed), runs.ticket(0, seed)
        moved = jt.branch(runs, "shuffle", levels=[1, 2], progress=False)
        whole = dense.origin.params
        for (m, w), (m0, _), d, i in zip(
            leaves(moved.ticket(1, seed)), leaves(first), jax.tree.leaves(whole),
            jax.tree.leaves(initial.params), strict=True,
        ):  # fmt: skip
            trained = np.asarray(d)[SEEDS.index(seed)]
            np.testing.assert_allclose(w[m], trained[m], rtol=1e-6)
            if m.ndim == 2:
                off = m & ~m0
                assert off.any() and (w[off] != i[off]).all()
        # at level 2 the weights that level 1 had pruned are those of the dense network's end, the
        # others those that level 1 was trained to: nothing is that of initialization
        for (m, w), (m1, _), d, i in zip(
            leaves(moved.ticket(2, seed)), leaves(first), jax.tree.leaves(whole),
            jax.tree.leaves(initial.params), strict=True,
        ):  # fmt: skip
            trained = np.asarray(d)[SEEDS.index(seed)]
            early = m & ~m1
            np.testing.assert_allclose(w[early], trained[early], rtol=1e-6)
            if m.ndim == 2:
                assert early.any() and (w[m] != i[m]).all()


def test_shuffling_after_training_is_shuffling_in_one_shot_learning_rate_rewinding(net, data):
    pruning = jt.Pruning(levels=1, fraction=0.5, one_shot=True, rewind="learning_rate")
    one = jt.find_tickets(
        net, data, TRAINING, pruning, seeds=SEEDS, branches=["shuffle"], progress=False
    )
    two = jt.prune_at(
        net, data, TRAINING, score="magnitude", density=(0.5,), step="end", seeds=SEEDS,
        branches=["shuffle"], progress=False,
    )  # fmt: skip
    two = two[TRAINING.steps] if isinstance(two, dict) else two
    ours, theirs = (t[t.level == 1].reset_index(drop=True) for t in (one.table(), two.table()))
    assert ours.branch.tolist() == theirs.branch.tolist()
    np.testing.assert_allclose(ours.value, theirs.value, atol=1e-6)
