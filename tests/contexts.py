"""What the tests of scores look at: small networks and hand-made contexts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxticket as jt


def context_of(net, params, stats, batches, *, mask=None, train=False, temperature=1.0, tap=False):
    """A context in the types of its arguments; `tap` adds `tapped`."""

    def tapped(params, x, tap):
        return net.apply(params, stats, x, train=train, **({} if tap is None else {"tap": tap}))[0]

    def logits(params, x):
        return tapped(params, x, None)

    def loss(params, batch):
        x, y = batch
        out = logits(params, x)
        logs = jax.nn.log_softmax(out / jnp.asarray(temperature, out.dtype))
        return -jnp.mean(jnp.take_along_axis(logs, y[:, None], 1))

    return jt.ScoreContext(
        loss,
        logits,
        params,
        net.mask() if mask is None else mask,
        batches,
        tapped if tap else None,
    )


def batches_of(shape, classes, count, size, *, seed=0, dtype=np.float32):
    """(x, y) of standard normal numbers, with a leading axis of `count` batches."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, size, *shape)).astype(dtype)
    y = (np.arange(count * size) % classes).astype(np.int32).reshape(count, size)
    return jnp.asarray(x), jnp.asarray(y)


def wide(tree):
    """Floating leaves in float64; inside `jax.enable_x64`."""
    return jax.tree.map(lambda w: jnp.asarray(np.asarray(w), jnp.float64), tree)


def _init(sizes, bias):
    def init(key):
        params = {}
        for i, (n, m) in enumerate(itertools.pairwise(sizes)):
            draws = jax.random.normal(jax.random.fold_in(key, i), (n + 1, m), jnp.float32)
            params[f"layer_{i}"] = {"kernel": draws[1:] / jnp.float32(n**0.5)}
            if bias:
                params[f"layer_{i}"]["bias"] = draws[0] / jnp.float32(4)
        return params, {}

    return init


def mlp(sizes, activation=jnp.tanh, *, bias=True):
    """A network of plain functions, with a tap after each layer."""

    def apply(params, stats, x, *, train, tap=None):
        x = x.reshape(x.shape[0], -1)
        for i in range(len(sizes) - 1):
            name = f"layer_{i}"
            x = x @ params[name]["kernel"]
            if bias:
                x = x + params[name]["bias"][None]
            x = activation(x) if i < len(sizes) - 2 else x
            x = x if tap is None else tap(name, x)
        return x, stats

    return jt.from_functions(_init(sizes, bias), apply, name="mlp", shape=(sizes[0],))
