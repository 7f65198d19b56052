"""Loss and accuracy of a network on whole splits, inside a compiled program."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import _tree
from jaxticket._check import naming
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.metrics import ALWAYS, Metric, chosen_metrics, sums_of, value_of
from jaxticket.settings import Training
from jaxticket.typing import (
    AnyArray,
    Array,
    LossFunction,
    Network,
    Params,
    Stats,
    cached,
    relaxed_types,
)

Loss = str | LossFunction
"""A name in `settings.LOSSES`, or a function `(logits, labels) -> [batch]`."""
METRICS = ALWAYS
"""Those that every evaluation begins with; `metric_names` has all of a training."""


class Normalization(NamedTuple):
    """`(x - mean) / std` per channel, in the raw units of the data; float32 [channels] each.

    Networks take normalized images. Tokens stay as they are.
    """

    mean: AnyArray
    std: AnyArray


def normalization(data: Data | Stream) -> Normalization:
    """The normalization of a data set or a data stream."""
    return Normalization(np.asarray(data.mean), np.asarray(data.std))


def split_names(data: Data | Stream) -> tuple[str, ...]:
    """Names of the splits, in the order of the metrics' split axis (as jax sorts dicts)."""
    return tuple(sorted(data.splits))


def normalized(x: Array, by: Normalization, dtype: str) -> Array:
    """Raw images as the network's input; tokens (whole numbers other than uint8) as they are."""
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != jnp.uint8:
        return x
    return ((x.astype(jnp.float32) - by.mean[None, None, None]) / by.std[None, None, None]).astype(
        dtype
    )


class Batched(NamedTuple):
    """All splits cut into equal batches.

    Attributes:
      x: raw examples [batches, size, ...].
      y: int32 [batches, size], -1 where a batch is filled up.
      split: int32 [batches], which split a batch is of.
    """

    x: Array
    y: Array
    split: Array


def cut(
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    size: int,
    *,
    most: dict[str, int | None],
    multiple: int = 1,
) -> Batched:
    """Cuts splits into batches on the host, filled up at the end of each split.

    Args:
      splits: name -> (x, y), in the order of the metrics.
      size: examples per batch at most; rounded up to a multiple of `multiple`.
      most: take at most so many examples of a split, spread evenly over it.
    """
    chosen = {}
    for name, (x, y) in splits.items():
        limit = most.get(name)
        if limit is not None and limit < len(y):
            # evenly spread, since some data sets are sorted by class
            index = (np.arange(limit, dtype=np.int64) * len(y)) // limit
            x, y = x[index], y[index]
        chosen[name] = (x, y)
    # batches of one size for all splits; small data gets small batches, so that little is filled up
    size = min(size, max(len(y) for _, y in chosen.values()))
    if min(len(y) for _, y in chosen.values()) < size:
        size = min(size, max(100, min(len(y) for _, y in chosen.values())))
    size = -(-size // multiple) * multiple
    xs, ys, of = [], [], []
    for number, (x, y) in enumerate(chosen.values()):
        missing = -len(y) % size
        xs.append(
            np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]).reshape(
                -1, size, *x.shape[1:]
            )
        )
        ys.append(np.concatenate([y, np.full(missing, -1, y.dtype)]).reshape(-1, size))
        of.append(np.full(len(ys[-1]), number, np.int32))
    return Batched(np.concatenate(xs), np.concatenate(ys), np.concatenate(of))  # type: ignore[arg-type]


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy of each example, float32 [batch]; float64 for logits of that type.

    `-sum_c q_c log p_c` with q = (1 - s) onehot + s / classes.
    """
    classes, kind = logits.shape[-1], jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    target = jax.nn.one_hot(labels, classes, dtype=kind)
    if smoothing:
        target = target * jnp.asarray(1 - smoothing, kind) + jnp.asarray(smoothing / classes, kind)
    return optax.losses.softmax_cross_entropy(logits.astype(kind), target)


def losses(loss: Loss, logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    """The loss of each example, float32 [batch]; float64 for logits of that type.

    Args:
      loss: as of `Training`.
      logits: [batch, classes].
      labels: int32 [batch]; what stands for fillers, -1, gives some number.
      smoothing: label smoothing, of cross-entropy.
    """
    if isinstance(loss, str):
        return cross_entropy(logits, labels, smoothing)
    with relaxed_types():
        kind = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
        found = jnp.asarray(loss(logits.astype(kind), jnp.maximum(labels, 0)))
    if found.shape != labels.shape:
        raise ValueError(
            f"`loss` {loss!r} must give one number for each example, [batch], "
            f"{labels.shape} here; got the shape {found.shape}"
        )
    return found.astype(kind)


def metric_names(training: Training) -> tuple[str, ...]:
    """The metrics of a training, in the order of the metric axis."""
    return (*METRICS, *(metric.name for metric in chosen_metrics(training.metrics)))


@cached(256)
def sizes(metrics: tuple[Metric, ...], classes: int) -> tuple[int, ...]:
    """Length of what each metric sums, for so many logits."""
    logits, label = (
        jax.ShapeDtypeStruct((1, classes), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    found = []
    for metric in metrics:
        with naming("metrics", metric):
            sums = jax.eval_shape(functools.partial(sums_of, metric), logits, label)
            one = jax.ShapeDtypeStruct(sums.shape[1:], sums.dtype)
            jax.eval_shape(functools.partial(value_of, metric), one)
        found.append(sums.shape[1])
    return tuple(found)


def width(training: Training, net: Network) -> int:
    """Number of sums that evaluations keep of each split.

    They are loss, right answers, examples, and the sums of the metrics.
    """
    return 3 + sum(sizes(chosen_metrics(training.metrics), net.classes))


def check(training: Training, net: Network) -> None:
    """Raise where a user's loss or metric does not work for a network."""
    sizes(chosen_metrics(training.metrics), net.classes)
    if not isinstance(training.loss, str):
        logits = jax.ShapeDtypeStruct((2, net.classes), jnp.float32)
        labels = jax.ShapeDtypeStruct((2,), jnp.int32)
        with naming("loss", training.loss):
            jax.eval_shape(functools.partial(losses, training.loss), logits, labels)


def cast(tree: Params, dtype: str) -> Params:
    """Floating leaves in the compute dtype."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def evaluate(
    net: Network,
    params: Params,
    stats: Stats,
    batched: Batched,
    by: Normalization,
    training: Training,
    *,
    splits: int,
    axis: tuple[str, int] | None = None,
) -> Array:
    """Mean loss (without label smoothing), accuracy and further metrics of each split.

    The result is float32 [split, metric] in the order of `metric_names`.

    Args:
      splits: number of splits.
      axis: (name, size) of a mesh axis over which each batch is split; the result is the same on
        all of it.
    """
    zero = _tree.varying_like(jnp.zeros((splits, width(training, net)), jnp.float32), params)
    sums = tally(net, params, stats, zero, batched, by, training, splits=splits, axis=axis)
    return means(sums, training, net)


def own_part(batch: Batched, axis: tuple[str, int] | None) -> Batched:
    """This device's part of one batch (without the leading axis) that is split over a mesh axis."""
    if axis is None:
        return batch
    part = batch.y.shape[0] // axis[1]
    begin = jax.lax.axis_index(axis[0]) * part
    x = jax.lax.dynamic_slice_in_dim(batch.x, begin, part)
    return Batched(x, jax.lax.dynamic_slice_in_dim(batch.y, begin, part), batch.split)


def means(sums: Array, training: Training, net: Network) -> Array:
    """The metrics of each split from the sums of `tally`, float32 [split, metric]."""
    first = sums[:, :2] / sums[:, 2:3]
    metrics = chosen_metrics(training.metrics)
    if not metrics:
        return first
    ends = 3 + np.cumsum((0, *sizes(metrics, net.classes)))
    own = [
        jax.vmap(functools.partial(value_of, metric))(sums[:, begin:end])
        for metric, begin, end in zip(metrics, ends[:-1], ends[1:], strict=True)
    ]
    return jnp.concatenate([first, jnp.stack(own, axis=1)], axis=1)


def tally(
    net: Network,
    params: Params,
    stats: Stats,
    sums: Array,
    batched: Batched,
    by: Normalization,
    training: Training,
    *,
    splits: int,
    axis: tuple[str, int] | None = None,
) -> Array:
    """Add evaluation batches to each split's sums, float32 [split, `width`].

    They are loss, right answers, examples, and the sums of the metrics.
    """
    metrics = chosen_metrics(training.metrics)
    weights = cast(params, training.compute_dtype)

    def batch(totals: Array, inputs: Batched) -> tuple[Array, None]:
        x, y, split = own_part(inputs, axis)
        logits, _ = net.apply(
            weights, stats, normalized(x, by, training.compute_dtype), train=False
        )
        there = y >= 0
        # nan losses of a diverged replica must show, those of fillers must not
        loss = jnp.where(there, losses(training.loss, logits, y), 0)
        right = jnp.logical_and(jnp.argmax(logits, axis=-1) == y, there)
        sums = jnp.stack(
            [jnp.sum(loss), jnp.sum(right, dtype=jnp.float32), jnp.sum(there, dtype=jnp.float32)]
        )
        for metric in metrics:
            each = sums_of(metric, logits, jnp.maximum(y, 0))
            more = jnp.sum(jnp.where(there[:, None], each, 0), axis=0)
            sums = jnp.concatenate([sums, more])
        own = (jax.lax.iota(jnp.int32, splits) == split)[:, None]
        return totals + jnp.where(own, sums[None], 0), None

    if axis is None:
        return jax.lax.scan(batch, sums, batched)[0]
    zero = jax.lax.pcast(_tree.varying_like(jnp.zeros_like(sums), sums), axis[0], to="varying")
    return sums + jax.lax.psum(jax.lax.scan(batch, zero, batched)[0], axis[0])
