"""Small tasks with labels of every kind but classes: data, a network, loss and metrics."""

import functools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

import jaxticket as jt


@functools.cache
def regression():
    """Rows of features, and two numbers that a linear function of them almost gives."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 6)) * np.arange(1, 7)
    y = np.stack([x @ np.linspace(-1, 1, 6), np.abs(x[:, 0])], axis=1) / 3
    return jt.data.from_arrays(x[:500], y[:500], x[500:], y[500:], name="rows")


@functools.cache
def multilabel():
    """Which of three rows of a digit are bright."""
    data = jt.data.load("digits")

    def several(split):
        return (split.x[..., 0].sum(axis=2)[:, [1, 3, 5]] > 35).astype(int)

    splits = {name: (split.x, several(split)) for name, split in data.splits.items()}
    return jt.data.from_arrays(splits=splits, name="rows of digits")


@functools.cache
def tokens():
    """Sequences that count up in steps of the first token, modulo 7; the last label is padding."""
    rng = np.random.default_rng(2)
    start, step = rng.integers(0, 7, 800), rng.integers(1, 4, 800)
    all_of = (start[:, None] + step[:, None] * np.arange(7)) % 7
    x, y = all_of[:, :-1], all_of[:, 1:].copy()
    y[:, -1] = -1
    return jt.data.from_arrays(x[:600], y[:600], x[600:], y[600:], name="counting")


class Tagger(nn.Module):
    """Predicts the next token from this one and the one before."""

    @nn.compact
    def __call__(self, x, *, train):
        z = nn.Embed(7, 8, name="embedding")(x)
        before = jnp.pad(z, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        z = nn.relu(nn.Dense(24, name="hidden")(jnp.concatenate([z, before], axis=-1)))
        return nn.Dense(7, name="output")(z)


def task(name):
    if name == "tokens":
        data = tokens()
        net = jt.from_linen(Tagger(), data.shape, name="tagger", dtype="int32")
        return net, data, {"loss": "next_token", "metrics": ("perplexity",)}
    if name == "numbers":
        data = regression()
        net = jt.networks.lenet(data.shape, data.classes, widths=(24,))
        return net, data, {"loss": "mse", "metrics": ("r2", "mae")}
    data = multilabel()
    net = jt.networks.lenet(data.shape, data.classes, widths=(16,))
    return net, data, {"loss": "binary_cross_entropy", "metrics": ("macro_f1",)}


TASKS = ("numbers", "multilabel", "tokens")
