"""Small data, networks and settings that several test files train on."""

import functools

import chex
import jax
import numpy as np

import jaxticket as jt
from jaxticket.data.sampling import batch_indices
from jaxticket.random import stream


def noisy_patterns(shares=None):
    """Three noisy 5x5 patterns: 240 examples to train on, 60 to test; shares of the classes."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (3, 5, 5))
    y = rng.choice(3, 300, p=shares)
    x = np.clip(patterns[y] + rng.integers(-60, 60, (300, 5, 5)), 0, 255).astype(np.uint8)
    return jt.data.from_arrays(x[:240], y[:240], x[240:], y[240:], classes=3)


# compiled: one operation after another it takes long
batch_at = jax.jit(batch_indices, static_argnames=("examples", "batch_size"))

STEPS = 30


def small_data(examples=240, seed=0):
    """Three noisy 5x5 patterns with a validation split."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 200, (3, 5, 5))
    y = rng.integers(0, 3, examples + 60)
    x = np.clip(patterns[y] + rng.integers(-60, 60, (len(y), 5, 5)), 0, 255).astype(np.uint8)
    data = jt.data.from_arrays(x[:examples], y[:examples], x[examples:], y[examples:], classes=3)
    return data.with_validation(0.1)


DATA = small_data()
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(12, 8))
TRAINING = jt.Training(
    steps=STEPS,
    batch_size=16,
    optimizer="momentum",
    lr=0.05,
    weight_decay=1e-3,
    milestones=(20,),
    eval_every=10,
)


SHORT = TRAINING.replace(steps=10, milestones=())
SEEDS = (3, 5)


@functools.cache
def tickets():
    """Trained tickets of two seeds, on one device, with their weights at some steps."""
    return jt.find_tickets(
        NET, DATA, SHORT, jt.Pruning(levels=1, fraction=0.6), seeds=SEEDS, keep="trained",
        keep_at=(0, 3, 6, 10), mesh=jt.parallel.mesh(devices=jax.devices()[:1]), progress=False,
    )  # fmt: skip


def equal(a, b):
    """Asserts that two trees hold the same numbers."""
    chex.assert_trees_all_equal(a, b)


@functools.cache
def initial(net, seed):
    """The (params, stats) that a seed starts from, compiled as the library draws them: one
    operation after another, the last bit is rounded otherwise.
    """
    drawn = jax.jit(lambda key: net.init(stream(key, "init")))(jax.random.key(seed))
    return jax.tree.map(np.asarray, drawn)


def values(table, **where):
    """The values of some rows, in the order of level, seed, step, split and metric."""
    rows = table
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.sort_values(["level", "seed", "step", "split", "metric"])["value"].to_numpy()
