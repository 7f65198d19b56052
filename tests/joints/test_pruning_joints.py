"""Ways to find and judge masks take the user's own: each as code of a user would bring it, compared
with the built-in that it repeats.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket.sparsify import learned

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=8, eval_batch_size=48
)
USUAL = {"seeds": (0, 1), "progress": False}


# --- what a user brings


def own_magnitude(params, context, *, key):
    """As "magnitude"."""
    return jax.tree.map(jnp.abs, params)


def own_sign_flip(ticket, key, *, net):
    """As "sign_flip"."""
    flipped = jt.masks.map_with(
        lambda mask, weights: -weights, ticket.mask, ticket.params, other=lambda weights: weights
    )
    return ticket.replace(params=flipped)


def own_uniform(layers, density):
    """As "uniform", where every layer's share is a whole number."""
    return np.asarray([round(density * math.prod(layer.shape)) for layer in layers], np.int32)


def own_lenet():
    """As `jt.networks.lenet`, with its weights."""

    def apply(params, stats, x, *, train, key=None, axis_name=None, tap=None):
        x = x.reshape(len(x), -1)
        x = jax.nn.relu(x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None])
        return x @ params["dense_1"]["kernel"] + params["dense_1"]["bias"][None], stats

    return jt.from_functions(NET.init, apply, shape=DATA.shape, name="own_lenet", output="dense_1")


def own_data(**_):
    """A data source."""
    return DATA


@dataclasses.dataclass(frozen=True)
class OwnSigmoid(learned.Relaxation):
    """As `Sigmoid(beta=4)`."""

    def initial(self, shape, density, *, key):
        return jnp.zeros(shape)

    def leaf(self, scores, done, *, key):
        return self.expected_leaf(scores, done)

    def expected_leaf(self, scores, done):
        return jax.nn.sigmoid(4 * scores)


@dataclasses.dataclass(frozen=True)
class OwnPenalty(learned.Constraint):
    """As `Penalty(weight=1.0)`."""

    def cost(self, expected):
        return 1.0 * sum(jnp.sum(jnp.abs(m)) for m in jax.tree.leaves(expected))


def own_loss(view):
    """As "loss" with a scale of 1."""
    return view.loss(view.masked)


def own_l2(a, b):
    """As "l2"."""
    pairs = zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True)
    return math.sqrt(sum(np.sum((np.float64(x) - y) ** 2) for x, y in pairs))


# --- and what it gives


def same_masks(a, b):
    for level in b.levels:
        ours, theirs = (jax.tree.leaves(runs.by_level[level].mask) for runs in (a, b))
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def runs():
    pruning = jt.Pruning(levels=1, fraction=0.5)
    return jt.find_tickets(NET, DATA, TRAINING, pruning, branches=["sign_flip"], **USUAL)


def test_an_own_score_and_control(runs):
    pruning = jt.Pruning(levels=1, fraction=0.5, score=own_magnitude)
    own = jt.find_tickets(NET, DATA, TRAINING, pruning, branches=[own_sign_flip], **USUAL)
    same_masks(own, runs)
    table = own.table().replace({"branch": {"own_sign_flip": "sign_flip"}})
    assert table.equals(runs.table())


def test_an_own_network_and_data_source(runs):
    data = jt.data.load(own_data)
    own = jt.find_tickets(own_lenet(), data, TRAINING, jt.Pruning(levels=1, fraction=0.5), **USUAL)
    same_masks(own, runs)


def test_an_own_layout():
    options = {"score": "magnitude", "density": 0.5, "dense": False, **USUAL}
    own, usual = (
        jt.prune_at(NET, DATA, TRAINING, scope=scope, **options)
        for scope in (own_uniform, "uniform")
    )
    same_masks(own, usual)


def test_an_own_relaxation_objective_and_constraint():
    own = learned.Method("own", OwnSigmoid(), own_loss, OwnPenalty(), (("lr", 0.5),), scale=1.0)
    usual = learned.Method(
        "usual", learned.Sigmoid(beta=4.0), "loss", learned.Penalty(1.0), (("lr", 0.5),), scale=1.0
    )
    free = dataclasses.replace(usual, constraint=learned.Constraint())
    found = [
        jt.search(NET, DATA, TRAINING, method, density=0.5, train=False, dense=False, **USUAL)
        for method in (own, usual, free)
    ]
    same_masks(*found[:2])
    with pytest.raises(AssertionError):
        # without the penalty masks are others, so that it counts above
        same_masks(found[0], found[2])
    # and it learned something: masks differ from those of scores that never moved
    assert not np.array_equal(*(found[0].by_level[1].mask["dense_0"]["kernel"][i] for i in (0, 1)))


def test_an_own_distance():
    inst = jt.instability(
        NET, DATA, TRAINING, at=(0,), copies=2, points=3, distances=["l2", own_l2], **USUAL
    )
    table = inst.table()
    # one of the user's is asked for on every split, since it may look at examples
    test = table[table["split"].isin(["test", "weights"])]
    values = [test[test["metric"] == name]["value"].to_numpy() for name in ("l2", "own_l2")]
    assert len(values[0]) and (values[0] > 0).all()
    np.testing.assert_allclose(*values, rtol=1e-12)
