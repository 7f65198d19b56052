"""Loss and accuracy of a network on whole splits, inside a compiled program."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket._check import naming
from jaxticket._promotion import relaxed_types
from jaxticket.data.arrays import Data
from jaxticket.data.sampling import spread
from jaxticket.data.streaming import Stream
from jaxticket.labels import Labels, filler, labels_of, living, right, usable
from jaxticket.losses import LOSSES, cross_entropy, kinds_of, name_for, next_token
from jaxticket.metrics import ALWAYS, Metric, chosen_metrics, sums_of, value_of
from jaxticket.nn.network import logits_of
from jaxticket.settings import Training
from jaxticket.typing import (
    AnyArray,
    Array,
    LossFunction,
    Network,
    Params,
    Stats,
    cached,
)

Loss = str | LossFunction
"""A name in `LOSSES`, or a function `(logits, labels) -> [batch]`."""
METRICS = ALWAYS
"""Those that every evaluation begins with; `metric_names` has all of a training."""


class Normalization(NamedTuple):
    """`(x - mean) / std`, in the raw units of the data; float32 [channels] or of an example.

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
    # of channels, the last axis, or of all entries
    lead = (None,) * (x.ndim - by.mean.ndim)
    return ((x.astype(jnp.float32) - by.mean[lead]) / by.std[lead]).astype(dtype)


class Batched(NamedTuple):
    """All splits cut into equal batches.

    Attributes:
      x: raw examples [batches, size, ...].
      y: labels [batches, size, ...], -1 (nan for numbers) where a batch is filled up.
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
            index = spread(len(y), limit)
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
        empty = np.full((missing, *y.shape[1:]), filler(y.dtype), y.dtype)
        ys.append(np.concatenate([y, empty]).reshape(-1, size, *y.shape[1:]))
        of.append(np.full(len(ys[-1]), number, np.int32))
    return Batched(np.concatenate(xs), np.concatenate(ys), np.concatenate(of))  # type: ignore[arg-type]


def losses(loss: Loss, logits: Array, labels: Array, *, smoothing: float = 0.0) -> Array:
    """The loss of each example, float32 [batch]; float64 for logits of that type.

    Args:
      loss: as of `Training`.
      logits: [batch, ...].
      labels: [batch, ...], as data have them; those of fillers give some number.
      smoothing: label smoothing, of losses that know it.
    """
    if loss == "cross_entropy":
        return cross_entropy(logits, labels, smoothing)
    function = LOSSES[loss] if isinstance(loss, str) else loss
    if smoothing:
        # settings know it for this one alone
        function = functools.partial(next_token, smoothing=smoothing)
    with relaxed_types():
        kind = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
        found = jnp.asarray(function(logits.astype(kind), usable(labels)))
    if found.shape != labels.shape[:1]:
        raise ValueError(
            f"`loss` {loss!r} must give one number for each example, [batch], "
            f"{labels.shape[:1]} here; got the shape {found.shape}"
        )
    return found.astype(kind)


def trained_losses(training: Training, logits: Array, labels: Array) -> Array:
    """The loss of each example as it is trained: with label smoothing and class weights."""
    found = losses(training.loss, logits, labels, smoothing=training.label_smoothing)
    if training.class_weights is None:
        return found
    weights = jnp.asarray(training.class_weights, found.dtype)
    return found * jnp.take(weights, usable(labels), axis=0)


def metric_names(training: Training) -> tuple[str, ...]:
    """The metrics of a training, in the order of the metric axis."""
    return (*METRICS, *(metric.name for metric in chosen_metrics(training.metrics)))


@cached(256)
def sizes(metrics: tuple[Metric, ...], logits: tuple[int, ...], labels: Labels) -> tuple[int, ...]:
    """Length of what each metric sums, for logits and labels of one example of these shapes."""
    given = jax.ShapeDtypeStruct((1, *logits), jnp.float32), labels.examples(1)
    found = []
    for metric in metrics:
        with naming("metrics", metric):
            sums = jax.eval_shape(functools.partial(sums_of, metric), *given)
            one = jax.ShapeDtypeStruct(sums.shape[1:], sums.dtype)
            jax.eval_shape(functools.partial(value_of, metric), one)
        found.append(sums.shape[1])
    return tuple(found)


def width(training: Training, net: Network, labels: Labels) -> int:
    """Number of sums that evaluations keep of each split.

    They are loss, right answers, examples, and the sums of the metrics.
    """
    if not training.metrics:
        return 3
    return 3 + sum(sizes(chosen_metrics(training.metrics), outputs(net), labels))


def check(training: Training, net: Network, labels: Labels) -> None:
    """Raise where loss and metrics do not fit labels and logits, or do not work with them."""
    logits, kind = outputs(net), labels.kind
    metrics = chosen_metrics(training.metrics)
    known = kinds_of(training.loss)
    if known is not None and kind not in known:
        raise ValueError(
            f"`loss` {training.loss!r} takes labels of the kind {' or '.join(known)}, and those of "
            f"`data` are {kind}; use loss={name_for(kind)!r} or a function of your own"
        )
    for metric in metrics:
        fits = getattr(metric, "fits", None)
        if fits is not None and kind not in fits:
            raise ValueError(
                f"`metrics` has {metric.name!r}, which takes labels of the kind "
                f"{' or '.join(fits)}, and those of `data` are {kind}; leave it out"
            )
    # a loss of the user's may take several outputs for a number, such as mean and variance
    if not labels.outputs(logits) and (kind != "numbers" or known is not None):
        raise ValueError(
            f"`net` gives logits {list(logits)} for an example, and the labels of `data` "
            f"({kind}, {list(labels.shape)}) need {labels.wanted}; change the output layer"
        )
    sizes(metrics, logits, labels)
    if known is None:
        given = jax.ShapeDtypeStruct((2, *logits), jnp.float32)
        with naming("loss", training.loss):
            stored = jax.ShapeDtypeStruct((2, *labels.shape), labels.dtype)
            jax.eval_shape(functools.partial(losses, training.loss), given, stored)


def outputs(net: Network) -> tuple[int, ...]:
    """Shape of the logits of one example."""
    return tuple(logits_of(net).shape[1:])


def cast(tree: Params, dtype: str) -> Params:
    """Floating leaves in the compute dtype."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def computed(net: Network, params: Params, dtype: str) -> Params:
    """The params in the compute dtype, those that the network keeps so in float32 at least."""
    at_least = "float64" if dtype == "float64" else "float32"
    leaves, tree = jax.tree.flatten(params)
    kinds = [at_least if _tree.matches(p, net.float32) else dtype for p in _tree.paths(params)]
    return jax.tree.unflatten(tree, [cast(x, k) for x, k in zip(leaves, kinds, strict=True)])


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
    labels = labels_of(batched.y, 2)
    zeros = jnp.zeros((splits, width(training, net, labels)), jnp.float32)
    zero = _tree.varying_like(zeros, params)
    sums = tally(net, params, stats, zero, batched, by, training, splits=splits, axis=axis)
    return means(sums, training, net, labels)


def own_part(batch: Batched, axis: tuple[str, int] | None) -> Batched:
    """This device's part of one batch (without the leading axis) that is split over a mesh axis."""
    if axis is None:
        return batch
    part = batch.y.shape[0] // axis[1]
    begin = jax.lax.axis_index(axis[0]) * part
    x = jax.lax.dynamic_slice_in_dim(batch.x, begin, part)
    return Batched(x, jax.lax.dynamic_slice_in_dim(batch.y, begin, part), batch.split)


def means(sums: Array, training: Training, net: Network, labels: Labels) -> Array:
    """The metrics of each split from the sums of `tally`, float32 [split, metric]."""
    first = sums[:, :2] / sums[:, 2:3]
    metrics = chosen_metrics(training.metrics)
    if not metrics:
        return first
    ends = 3 + np.cumsum((0, *sizes(metrics, outputs(net), labels)))
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
    weights = computed(net, params, training.compute_dtype)

    def batch(totals: Array, inputs: Batched) -> tuple[Array, None]:
        x, y, split = own_part(inputs, axis)
        logits, _ = net.apply(
            weights, stats, normalized(x, by, training.compute_dtype), train=False
        )
        there = living(y)
        # nan losses of a diverged replica must show, those of fillers must not
        loss = jnp.where(there, losses(training.loss, logits, y), 0)
        share = right(logits, y)
        share = jnp.logical_and(share, there) if share.dtype == bool else jnp.where(there, share, 0)
        sums = jnp.stack(
            [jnp.sum(loss), jnp.sum(share, dtype=jnp.float32), jnp.sum(there, dtype=jnp.float32)]
        )
        for metric in metrics:
            each = sums_of(metric, logits, usable(y))
            more = jnp.sum(jnp.where(there[:, None], each, 0), axis=0)
            sums = jnp.concatenate([sums, more])
        own = (jax.lax.iota(jnp.int32, splits) == split)[:, None]
        return totals + jnp.where(own, sums[None], 0), None

    if axis is None:
        return jax.lax.scan(batch, sums, batched)[0]
    zero = jax.lax.pcast(_tree.varying_like(jnp.zeros_like(sums), sums), axis[0], to="varying")
    return sums + jax.lax.psum(jax.lax.scan(batch, zero, batched)[0], axis[0])
