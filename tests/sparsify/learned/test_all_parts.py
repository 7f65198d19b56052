"""What all relaxations and all constraints keep to; a new one is an entry of a dict here."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket.sparsify import learned

RELAXATIONS = {
    learned.Sigmoid: learned.Sigmoid(beta=learned.Schedule(1.0, 20.0)),
    learned.TopSigmoid: learned.TopSigmoid(beta=learned.Schedule(1.0, 20.0)),
    learned.Bernoulli: learned.Bernoulli(),
    learned.Concrete: learned.Concrete(learned.Schedule(2.0, 0.3)),
    learned.Rounded: learned.Rounded(),
    learned.TopK: learned.TopK(scope="global"),
}
CONSTRAINTS = {
    learned.Constraint: learned.Constraint(),
    learned.Penalty: learned.Penalty(1e-3),
    learned.Freezing: learned.Freezing(1e-3, times=3),
    learned.GradBalance: learned.GradBalance(),
    learned.Lagrangian: learned.Lagrangian(),
}
KEY, DONE, KEEP = jax.random.key(3), jnp.float32(0.5), jnp.int32(12)
SHAPES = {"a": (6, 5), "b": (5,), "c": (5, 4)}
DATA = jt.data.load("digits").fraction(0.1)
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))


def parts(base):
    """The public classes of a kind."""
    found = [getattr(learned, name) for name in learned.__all__]
    return {x for x in found if inspect.isclass(x) and issubclass(x, base)}


def test_none_is_left_out():
    assert set(RELAXATIONS) == parts(learned.Relaxation) - {learned.Relaxation}
    assert set(CONSTRAINTS) == parts(learned.Constraint)


def scores_of(relaxation):
    density, names = jnp.float32(0.4), dict(zip(SHAPES, jax.random.split(KEY, 3), strict=True))
    first = {
        name: relaxation.project(relaxation.initial(shape, density, key=names[name]))
        for name, shape in SHAPES.items()
    }
    live = {name: jax.random.bernoulli(KEY, 0.7, shape) for name, shape in SHAPES.items()}
    return {**first, "b": None}, {**live, "b": None}


@pytest.mark.parametrize("relaxation", RELAXATIONS.values(), ids=lambda x: x.kind)
def test_soft_masks_are_numbers_from_0_to_1_where_entries_take_part(relaxation):
    scores, live = scores_of(relaxation)

    def soft(scores):
        return relaxation.soft(scores, live, KEEP, DONE, key=KEY)

    mask, expected = soft(scores), relaxation.expected(scores, live, DONE)
    assert mask["b"] is None and expected["b"] is None
    for found in (mask, expected):
        for name in ("a", "c"):
            values = np.asarray(found[name])
            assert values.shape == SHAPES[name] and values.dtype == np.float32
            assert (values[~np.asarray(live[name])] == 0).all()
            assert ((values >= 0) & (values <= relaxation.height + 1e-6)).all()
    # random numbers are those of the key
    for one, other in zip(jax.tree.leaves(mask), jax.tree.leaves(soft(scores)), strict=True):
        np.testing.assert_array_equal(one, other)
    gradient = jax.grad(lambda s: sum(jnp.sum(x) for x in jax.tree.leaves(soft(s))))(scores)
    for name in ("a", "c"):
        found = np.asarray(gradient[name])
        assert np.isfinite(found).all()
        # edge-popup's gradient passes to all scores; what is out stays out by its rank
        out = found[~np.asarray(live[name])]
        assert (out == 0).all() or isinstance(relaxation, learned.TopK)
        ranked = np.asarray(relaxation.rank(scores[name]))
        assert ranked.shape == SHAPES[name] and np.isfinite(ranked).all()


@pytest.mark.parametrize(
    ("relaxation", "constraint"),
    [
        *((relaxation, learned.Constraint()) for relaxation in RELAXATIONS.values()),
        *((learned.Concrete(learned.Schedule(2.0, 0.3)), one) for one in CONSTRAINTS.values()),
    ],
    ids=lambda x: x.kind,
)
def test_a_search_keeps_exactly_what_was_asked_for(relaxation, constraint):
    method = learned.Method("own", relaxation, "loss", constraint, (("lr", 0.05),))
    runs = jt.search(
        NET, DATA, jt.Training(steps=6, batch_size=16), method, density=(0.5, 0.1), steps=6,
        train=False, dense=False, seeds=(0,), progress=False,
    )  # fmt: skip
    size = jt.masks.prunable_size(NET.mask())
    kept = [round(size * density) for density in runs.densities[-2:]]
    assert kept == [round(0.5 * size), round(0.1 * size)]
