"""Evaluation of many networks, and of points on lines and planes through them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket._check import whole
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks as Networks
from jaxticket.engine.metrics import (
    Batched,
    Normalization,
    computed,
    losses,
    means,
    normalized,
    own_part,
    tally,
    width,
)
from jaxticket.engine.program import check_fit
from jaxticket.engine.source import Source, put_data, split_names
from jaxticket.engine.together import replicas_together
from jaxticket.labels import answered, labels_of, living
from jaxticket.settings import Training, static_part
from jaxticket.typing import Network, Params, Stats

AT_ONCE = 32
"""Default number of points that one device evaluates together where they run vmapped."""


Total = tuple[Stats, jax.Array]
"""Sums of the statistics of batches, and the number of batches."""


class Outputs(NamedTuple):
    """Per-example predictions and losses of several networks.

    Attributes:
      predictions: int32 [network, example], the class with the highest logit; of other labels
        [network, example, ...]: the tokens, -1 where they do not count, 0 or 1 for each of several
        labels, or float32 numbers.
      losses: float32 [network, example], the loss function of the training settings.
      labels: int32 [example], or [example, ...] as data have them.
      split: int32 [example], index into the names of the splits.
    """

    predictions: np.ndarray
    losses: np.ndarray
    labels: np.ndarray
    split: np.ndarray


def combined(networks: Networks, index: jax.Array, weight: jax.Array) -> Networks:
    """Compute one point of the plane through some networks of a stack.

    `base + sum_t weight[t] * (network[index[t]] - base)` with base = network[index[0]], t >= 1.
    If one weight is 1 and the others are 0, the point is exactly that network; if all networks are
    equal, the point equals them for any weights. Integer leaves are those of the base.

    Args:
      networks: stacked networks, leaves [network, ...].
      index: int32 [term].
      weight: float32 [term]; the first is unused, since the weights sum to 1.
    """
    terms = index.shape[0]
    alone = [
        (weight[t] == 1) & jnp.all(jnp.where(jnp.arange(terms) == t, True, weight == 0)[1:])
        for t in range(1, terms)
    ]

    def leaf(x: jax.Array) -> jax.Array:
        base = x[index[0]]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return base
        others = [x[index[t]] for t in range(1, terms)]
        total = base
        for t, other in enumerate(others, start=1):
            total = total + weight[t].astype(x.dtype) * (other - base)
        for is_alone, other in zip(alone, others, strict=True):
            total = jnp.where(is_alone, other, total)
        return total

    return jax.tree.map(leaf, networks)


class Evaluator:
    """Evaluates networks, and points between them, on the splits of a data set.

    Args:
      net: network.
      data: the data to evaluate on; of the training split, `training.eval_train_examples` examples.
      training: batch size, precision and compute dtype of evaluations.
      mesh: devices; points are spread over its seed axis.
      at_once: most points that one device holds; 32 if None. Unused where they run one by one.
      put: the data already placed on the devices, if available.
    """

    def __init__(
        self,
        net: Network,
        data: Data | Stream,
        training: Training,
        mesh: Mesh | None = None,
        *,
        at_once: int | None = None,
        put: Source | None = None,
    ) -> None:
        self.mesh = parallel.check_mesh(mesh)
        training = check_fit(net, data, training, self.mesh)
        if at_once is not None:
            at_once = whole("at_once", at_once, 1)
        self.net, self.training, self.fingerprint = net, training, data.fingerprint
        self.splits, self.labels = split_names(data), data.labels
        self.data = put_data(data, training, self.mesh) if put is None else put
        self.at_once = AT_ONCE if at_once is None else at_once
        kind = static_part(training)
        self._run = programs(net, kind, self.mesh, len(self.splits), self.splits.index("train"))

    def points(
        self,
        networks: Networks,
        index: np.ndarray,
        weight: np.ndarray,
        *,
        recomputed: bool = False,
        pad_to: int | None = None,
    ) -> np.ndarray:
        """Evaluate points between networks: loss, accuracy and the further metrics of the training.

        Args:
          networks: stacked networks on the host, leaves [network, ...].
          index: int32 [point, term], which networks each point lies between (see `combined`).
          weight: float32 [point, term], the weights of these networks.
          recomputed: re-estimate the statistics at every point on the training examples, without
            augmentation, as the mean of the statistics of the batches.
          pad_to: number of points to make room for, so that calls of several sizes share a program.

        Returns:
          float32 [point, split, metric].

        Raises:
          ValueError: if statistics cannot be recomputed because they are not running averages.
        """
        index, weight = np.asarray(index, np.int32), np.asarray(weight, np.float32)
        count = len(index)
        devices = self.mesh.shape[parallel.SEED]
        room = -(-max(count, pad_to or 0) // devices)
        if not parallel.maps(self.mesh):
            room = min(room, self.at_once)
        size = room * devices
        momenta = self._momenta(networks) if recomputed else None
        chunks = [slice(begin, begin + size) for begin in range(0, count, size)]
        # of many networks, the devices hold only those that the points of a chunk lie between
        used = [np.unique(index[chunk]) for chunk in chunks]
        most = max(len(numbers) for numbers in used)
        parts = []
        for chunk, numbers in zip(chunks, used, strict=True):
            here, held = index[chunk], networks
            limits = (np.arange(size) < len(here)).astype(np.int32)
            if len(chunks) > 1:
                held = _tree.rows(networks, np.resize(numbers, most))
                here = np.searchsorted(numbers, here).astype(np.int32)
            stack = parallel.put(held, self.mesh, replicas=False)
            padded = parallel.pad((here, weight[chunk]), size)
            at, weights = (parallel.put(x, self.mesh) for x in padded)
            found = self._sums(limits, at, weights, stack, momenta)
            parts.append(parallel.host(found)[: len(index[chunk])])
        sums = np.concatenate(parts)
        # on the device, which divides as it does in training
        flat = means(
            jnp.asarray(sums.reshape(-1, sums.shape[-1])), self.training, self.net, self.labels
        )
        return np.array(flat).reshape(*sums.shape[:2], -1)

    def _sums(
        self,
        limits: np.ndarray,
        index: jax.Array,
        weight: jax.Array,
        stack: Networks,
        momenta: Stats | None,
    ) -> jax.Array:
        """Sum the metrics of one chunk of points over the examples of each split."""
        at, by = parallel.put(limits, self.mesh), self.data.arrays.by
        stats = None
        if momenta is not None:
            like = jax.tree.map(lambda x: np.zeros((len(limits), *x.shape[1:]), x.dtype), stack[1])
            total = parallel.put((like, np.zeros(len(limits), np.float32)), self.mesh)
            with self.data.evaluation() as blocks:
                for batched in blocks:
                    total = self._run.gather(at, index, weight, total, stack, batched, by)
            if parallel.host(total[1])[0] == 0:
                raise ValueError(
                    f"`statistics` cannot be recomputed: the training examples fill no batch of "
                    f"`eval_batch_size` {self.training.eval_batch_size}; use a smaller batch size"
                )
            stats = self._run.average(at, total, momenta)
        shape = (len(limits), len(self.splits), width(self.training, self.net, self.labels))
        sums = parallel.put(np.zeros(shape, np.float32), self.mesh)
        with self.data.evaluation() as blocks:
            for batched in blocks:
                jax.block_until_ready(sums)
                sums = self._run.evaluate(at, index, weight, stats, sums, stack, batched, by)
        return sums

    def _momenta(self, networks: Networks) -> Stats:
        params, stats = jax.tree.map(lambda x: jnp.asarray(x[0]), networks)
        if not jax.tree.leaves(stats):
            raise ValueError(
                "`statistics` cannot be recomputed: the network has none; use 'interpolated'"
            )
        return parallel.put(measured_momenta(self.net, params, stats), self.mesh, replicas=False)

    def outputs(self, networks: Networks, *, pad_to: int | None = None) -> Outputs:
        """Predict every evaluated example, in the order of the data, with each network.

        Args:
          networks: stacked networks on the host.
          pad_to: number of networks to make room for.
        """
        count = len(jax.tree.leaves(networks)[0])
        size = parallel.block_size(max(count, pad_to or 0), self.mesh, None)
        limits = parallel.put((np.arange(size) < count).astype(np.int32), self.mesh)
        params, stats = parallel.put(parallel.pad(networks, size), self.mesh)
        parts, labels, splits = [], [], []
        with self.data.evaluation() as blocks:
            for batched in blocks:
                made = self._run.examples(limits, params, stats, batched, self.data.arrays.by)
                parts.append(jax.tree.map(lambda x: x[:count], parallel.host(made)))
                labels.append(parallel.host(batched.y))
                split = parallel.host(batched.split)[:, None]
                splits.append(np.broadcast_to(split, labels[-1].shape[:2]))
        label = np.concatenate([x.reshape(-1, *x.shape[2:]) for x in labels])
        split = np.concatenate([x.reshape(-1) for x in splits])
        real = living(label)
        predictions, per_example = (
            np.concatenate([x.reshape(count, -1, *x.shape[3:]) for x in part], axis=1)[:, real]
            for part in zip(*parts, strict=True)
        )
        return Outputs(predictions, per_example, label[real], split[real])


def measured_momenta(net: Network, params: Params, stats: Stats) -> Stats:
    """Measure the momentum m of each running average, `new = m * old + (1 - m) * batch`.

    The new values for old = L and for old = 0 differ by m * L. With a large L, rounding of the
    batch's contribution is negligible.
    """
    large = 1e8
    x = net.noise(jax.random.key(0), 8)

    def after(value: float) -> Stats:
        old = jax.tree.map(lambda s: jnp.full_like(s, value), stats)
        return net.apply(params, old, x, train=True, key=jax.random.key(0))[1]

    low, high = jax.jit(lambda: (after(0.0), after(large)))()
    momenta = []
    for path, a, b in zip(
        _tree.paths(stats), jax.tree.leaves(low), jax.tree.leaves(high), strict=True
    ):
        share = (np.asarray(b, np.float64) - np.asarray(a, np.float64)) / large
        momentum = float(np.mean(share))
        if not (np.ptp(share) < 1e-5 and -1e-6 < momentum < 1 - 1e-6):
            raise ValueError(
                f"`statistics` cannot be recomputed: {path!r} is not a running average over "
                f"batches; use 'interpolated'"
            )
        momenta.append(np.float32(momentum))
    return jax.tree.unflatten(jax.tree.structure(stats), momenta)


class Programs(NamedTuple):
    """Programs compiled for one network, kind of evaluation and mesh.

    Attributes:
      evaluate: `(limits, index, weight, stats, sums, stack, batched, by) -> sums`, adds batches to
        the sums of points; `stats` [point, ...] or None for interpolated ones.
      gather: `(limits, index, weight, (total, count), stack, batched, by) -> (total, count)`, adds
        the statistics of training batches: the updates of running averages that start at 0.
      average: `(limits, (total, count), momenta) -> stats`.
      examples: `(limits, params, stats, batched, by) -> (predictions, losses)`, each
        [network, batch, example, ...].
    """

    evaluate: Callable[..., jax.Array]
    gather: Callable[..., Total]
    average: Callable[..., Stats]
    examples: Callable[..., tuple[jax.Array, jax.Array]]


@functools.lru_cache(maxsize=64)
def programs(net: Network, training: Training, mesh: Mesh, splits: int, train: int) -> Programs:
    """The compiled functions of an evaluator; equal arguments give the same ones.

    Args:
      net: the network.
      training: how it is evaluated, without what compiled programs are given as arrays.
      mesh: the devices.
      splits: number of splits.
      train: which of them is that of training.
    """
    size = mesh.shape[parallel.DATA]
    axis = (parallel.DATA, size) if size > 1 else None

    def evaluate(
        limit: jax.Array,
        index: jax.Array,
        weight: jax.Array,
        stats: Stats | None,
        sums: jax.Array,
        stack: Networks,
        batched: Batched,
        by: Normalization,
    ) -> jax.Array:
        params, between = combined(stack, index, weight)
        stats = between if stats is None else stats

        def add(sums: jax.Array) -> jax.Array:
            return tally(net, params, stats, sums, batched, by, training, splits=splits, axis=axis)

        with jax.default_matmul_precision(training.precision):
            return jax.lax.cond(limit > 0, add, lambda sums: sums, sums)

    def gather(
        limit: jax.Array,
        index: jax.Array,
        weight: jax.Array,
        total: Total,
        stack: Networks,
        batched: Batched,
        by: Normalization,
    ) -> Total:
        params, stats = combined(stack, index, weight)
        params = computed(net, params, training.compute_dtype)
        zeros = jax.tree.map(jnp.zeros_like, stats)

        def batch(total: Total, inputs: Batched) -> tuple[Total, None]:
            # padding would distort the statistics
            full = (limit > 0) & (inputs.split == train) & jnp.all(living(inputs.y))

            def add(total: Total) -> Total:
                x = normalized(own_part(inputs, axis).x, by, training.compute_dtype)
                _, new = net.apply(
                    params,
                    zeros,
                    x,
                    train=True,
                    key=jax.random.key(0),
                    axis_name=None if axis is None else axis[0],
                )
                added = jax.tree.map(lambda t, s: t + s.astype(t.dtype), total[0], new)
                return added, total[1] + 1

            return jax.lax.cond(full, add, lambda total: total, total), None

        with jax.default_matmul_precision(training.precision):
            return jax.lax.scan(batch, total, batched)[0]

    def average(limit: jax.Array, total: Total, momenta: Stats) -> Stats:
        del limit
        return jax.tree.map(
            lambda t, m: t / (jnp.maximum(total[1], 1) * (1 - m)).astype(t.dtype), total[0], momenta
        )

    def examples(
        limit: jax.Array, params: Params, stats: Stats, batched: Batched, by: Normalization
    ) -> tuple[jax.Array, jax.Array]:
        weights = computed(net, params, training.compute_dtype)

        def predict(_: None, inputs: Batched) -> tuple[None, tuple[jax.Array, jax.Array]]:
            def look(inputs: Batched) -> tuple[jax.Array, jax.Array]:
                x, y, _ = own_part(inputs, axis)
                x = normalized(x, by, training.compute_dtype)
                logits, _ = net.apply(weights, stats, x, train=False)
                loss = jnp.where(living(y), losses(training.loss, logits, y), 0)
                return answered(logits, y).astype(jnp.float32), loss

            def gathered(found: jax.Array) -> jax.Array:
                if axis is None:
                    return found
                first = jax.lax.axis_index(axis[0]) * found.shape[0]
                shape = (axis[1] * found.shape[0], *found.shape[1:])
                batch = _tree.varying_like(jnp.zeros(shape, found.dtype), found)
                batch = jax.lax.dynamic_update_slice_in_dim(batch, found, first, axis=0)
                return jax.lax.psum(batch, axis[0])

            said, loss = map(gathered, look(inputs))
            numbers = labels_of(inputs.y).kind == "numbers"
            return None, (said if numbers else said.astype(jnp.int32), loss)

        del limit
        with jax.default_matmul_precision(training.precision):
            return jax.lax.scan(predict, None, batched)[1]

    most = replicas_together(net, mesh)
    return Programs(
        evaluate=parallel.over_replicas(evaluate, mesh, shared=3, vmapped=most),
        gather=parallel.over_replicas(gather, mesh, shared=3, vmapped=most),
        average=parallel.over_replicas(average, mesh, shared=1),
        examples=parallel.over_replicas(examples, mesh, shared=2, vmapped=most),
    )
