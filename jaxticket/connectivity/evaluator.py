"""Networks between networks: many points of lines and planes evaluated by one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
    cast,
    losses,
    means,
    normalized,
    own_part,
    tally,
    width,
)
from jaxticket.engine.program import check_fit
from jaxticket.engine.source import Source, put_data, split_names
from jaxticket.settings import Training, static_part
from jaxticket.typing import Array, Network, Params, Stats

AT_ONCE = 32
"""Points that are evaluated together on one device where they run vmapped."""


class Outputs(NamedTuple):
    """What networks say of every example.

    Attributes:
      predictions: int32 [network, example], the class with the highest logit.
      losses: float32 [network, example], the loss that the training names.
      labels: int32 [example].
      split: int32 [example], index into the names of the splits.
    """

    predictions: np.ndarray
    losses: np.ndarray
    labels: np.ndarray
    split: np.ndarray


def combined(networks: Networks, index: Array, weight: Array) -> Networks:
    """One point of the plane through some networks of a stack.

    `base + sum_t weight[t] * (network[index[t]] - base)` with base = network[index[0]], t >= 1.
    Where one weight is 1 and the others are 0 the point is that network exactly; where all networks
    are the same it is that one for any weights. Leaves that are not floating are those of the base.

    Args:
      networks: stack, leaves [network, ...].
      index: int32 [term].
      weight: float32 [term]; the first is not used (it is what the others leave).
    """
    terms = index.shape[0]
    alone = [
        (weight[t] == 1) & jnp.all(jnp.where(jnp.arange(terms) == t, True, weight == 0)[1:])
        for t in range(1, terms)
    ]

    def one(x: Array) -> Array:
        base = x[index[0]]
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return base
        others = [x[index[t]] for t in range(1, terms)]
        total = base
        for t, other in enumerate(others, start=1):
            total = total + weight[t].astype(x.dtype) * (other - base)
        for there, other in zip(alone, others, strict=True):
            total = jnp.where(there, other, total)
        return total

    return jax.tree.map(one, networks)


class Evaluator:
    """Evaluates networks, and points between them, on the splits of a data set.

    Args:
      net: network.
      data: what to evaluate on; of the training split `training.eval_train_examples` examples.
      training: batch size, precision and compute dtype of evaluations.
      mesh: devices; points are spread over its seed axis.
      at_once: points that one device holds at most; 32 if None. Not used where they run one by one.
      put: the data on the devices, if it is there already.
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
        check_fit(net, data, training, self.mesh)
        if at_once is not None:
            at_once = whole("at_once", at_once, 1)
        self.net, self.training, self.fingerprint = net, training, data.fingerprint
        self.splits = split_names(data)
        self.data = put_data(data, training, self.mesh) if put is None else put
        self.at_once = AT_ONCE if at_once is None else at_once
        kind = static_part(training)
        self._run = _programs(net, kind, self.mesh, len(self.splits), self.splits.index("train"))

    def points(
        self,
        networks: Networks,
        index: np.ndarray,
        weight: np.ndarray,
        *,
        recomputed: bool = False,
        pad_to: int | None = None,
    ) -> np.ndarray:
        """Loss, accuracy and the metrics of the training of points, float32 [point, split, metric].

        Args:
          networks: stack on the host, leaves [network, ...].
          index, weight: [point, term] as of `combined`.
          recomputed: re-estimate the statistics of every point on the training examples: the
            average over batches of their statistics, without augmentation.
          pad_to: make room for so many points, so that calls of several sizes share a program.

        Raises:
          ValueError: where statistics are to be recomputed that are no averages over batches.
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
        # every device holds the networks that its points lie between, and of many no others
        held = [np.unique(index[own]) for own in chunks]
        most = max(len(one) for one in held)
        found = []
        for own, one in zip(chunks, held, strict=True):
            number = len(index[own])
            limits = (np.arange(size) < number).astype(np.int32)
            at, near = index[own], networks
            if len(chunks) > 1:
                own_networks = np.resize(one, most)
                near = jax.tree.map(lambda x: np.asarray(x)[own_networks], networks)  # noqa: B023
                at = np.searchsorted(one, at).astype(np.int32)
            stack = parallel.put(near, self.mesh, replicas=False)
            points = parallel.put(parallel.pad((at, weight[own]), size), self.mesh)
            found.append(parallel.host(self._sums(limits, points, stack, momenta))[:number])
        sums = np.concatenate(found)
        # by the device, which divides as it does in training
        flat = means(jnp.asarray(sums.reshape(-1, sums.shape[-1])), self.training, self.net)
        return np.array(flat).reshape(*sums.shape[:2], -1)

    def _sums(self, limits: np.ndarray, points: Any, stack: Any, momenta: Any) -> Array:
        at = parallel.put(limits, self.mesh)
        if momenta is not None:
            like = jax.tree.map(lambda x: np.zeros((len(limits), *x.shape[1:]), x.dtype), stack[1])
            total = parallel.put((like, np.zeros(len(limits), np.float32)), self.mesh)
            with self.data.evaluation() as blocks:
                for batched in blocks:
                    total = self._run.gather(
                        at, *points, total, stack, batched, self.data.arrays.by
                    )
            if parallel.host(total[1])[0] == 0:
                raise ValueError(
                    f"`statistics` cannot be recomputed: the training examples fill no batch of "
                    f"`eval_batch_size` {self.training.eval_batch_size}; make it smaller"
                )
            points = (*points, self._run.average(at, total, momenta))
        shape = (len(limits), len(self.splits), width(self.training, self.net))
        sums = parallel.put(np.zeros(shape, np.float32), self.mesh)
        run = self._run.given if momenta is not None else self._run.between
        with self.data.evaluation() as blocks:
            for batched in blocks:
                jax.block_until_ready(sums)
                sums = run(at, *points, sums, stack, batched, self.data.arrays.by)
        return sums

    def _momenta(self, networks: Networks) -> Stats:
        one = jax.tree.map(lambda x: jnp.asarray(x[0]), networks)
        if not jax.tree.leaves(one[1]):
            raise ValueError(
                "`statistics` cannot be recomputed: the network has none; use 'interpolated'"
            )
        return parallel.put(_momenta(self.net, *one), self.mesh, replicas=False)

    def outputs(self, networks: Networks, *, pad_to: int | None = None) -> Outputs:
        """Prediction and loss of each network on every evaluated example, in the order of the
        data.

        Args:
          networks: stack on the host.
          pad_to: make room for so many networks.
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
                of = parallel.host(batched.split)[:, None]
                splits.append(np.broadcast_to(of, labels[-1].shape))
        label = np.concatenate([x.reshape(-1) for x in labels])
        split = np.concatenate([x.reshape(-1) for x in splits])
        there = label >= 0
        predictions, losses = (
            np.concatenate([p[i].reshape(count, -1) for p in parts], axis=1)[:, there]
            for i in range(2)
        )
        return Outputs(predictions, losses, label[there], split[there])


def _momenta(net: Network, params: Params, stats: Stats) -> Stats:
    """The share of the old value in each running average.

    A running average is `new = m * old + (1 - m) * batch`. With old = L and old = 0 the difference
    of the new values is m * L, and with a large L what the batch adds does not blur it.
    """
    large = 1e8
    x = net.noise(jax.random.key(0), 8)

    def after(value: float) -> Stats:
        old = jax.tree.map(lambda s: jnp.full_like(s, value), stats)
        return net.apply(params, old, x, train=True, key=jax.random.key(0))[1]

    low, high = jax.jit(lambda: (after(0.0), after(large)))()
    found = []
    for path, a, b in zip(
        _tree.paths(stats), jax.tree.leaves(low), jax.tree.leaves(high), strict=True
    ):
        share = (np.asarray(b, np.float64) - np.asarray(a, np.float64)) / large
        momentum = float(np.mean(share))
        if not (np.ptp(share) < 1e-5 and -1e-6 < momentum < 1 - 1e-6):
            raise ValueError(
                f"`statistics` cannot be recomputed: {path!r} is no running average over batches; "
                f"use 'interpolated'"
            )
        found.append(np.float32(momentum))
    return jax.tree.unflatten(jax.tree.structure(stats), found)


class _Programs(NamedTuple):
    """Compiled for one network, kind of evaluation and mesh.

    Attributes:
      between: `(limits, index, weight, sums, stack, batched, by) -> sums`, adds batches to the sums
        of points.
      given: the same with statistics [point, ...] after `weight`.
      gather: `(limits, index, weight, (total, count), stack, batched, by) -> (total, count)`: sums
        of what training batches add to running averages that start at 0.
      average: `(limits, (total, count), momenta) -> stats`.
      examples: `(limits, params, stats, batched, by) -> (predictions, losses)` [network, batch,
        place].
    """

    between: Callable[..., Array]
    given: Callable[..., Array]
    gather: Callable[..., Any]
    average: Callable[..., Stats]
    examples: Callable[..., tuple[Array, Array]]


@functools.lru_cache(maxsize=64)
def _programs(net: Network, training: Training, mesh: Mesh, splits: int, train: int) -> _Programs:
    size = mesh.shape[parallel.DATA]
    axis = (parallel.DATA, size) if size > 1 else None

    def counted(
        limit: Array, params: Params, stats: Stats, sums: Array, batched: Batched, by: Normalization
    ) -> Array:
        def add(sums: Array) -> Array:
            return tally(net, params, stats, sums, batched, by, training, splits=splits, axis=axis)

        with jax.default_matmul_precision(training.precision):
            return jax.lax.cond(limit > 0, add, lambda sums: sums, sums)

    def between(
        limit: Array,
        index: Array,
        weight: Array,
        sums: Array,
        stack: Networks,
        batched: Batched,
        by: Normalization,
    ) -> Array:
        params, stats = combined(stack, index, weight)
        return counted(limit, params, stats, sums, batched, by)

    def given(
        limit: Array,
        index: Array,
        weight: Array,
        stats: Stats,
        sums: Array,
        stack: Networks,
        batched: Batched,
        by: Normalization,
    ) -> Array:
        params, _ = combined((stack[0], {}), index, weight)
        return counted(limit, params, stats, sums, batched, by)

    def gather(
        limit: Array,
        index: Array,
        weight: Array,
        total: tuple[Stats, Array],
        stack: Networks,
        batched: Batched,
        by: Normalization,
    ) -> tuple[Stats, Array]:
        params, stats = combined(stack, index, weight)
        params = cast(params, training.compute_dtype)
        zeros = jax.tree.map(jnp.zeros_like, stats)

        def batch(total: tuple[Stats, Array], inputs: Batched) -> tuple[tuple[Stats, Array], None]:
            # fillers would spoil the statistics
            whole = (limit > 0) & (inputs.split == train) & jnp.all(inputs.y >= 0)

            def add(total: tuple[Stats, Array]) -> tuple[Stats, Array]:
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

            return jax.lax.cond(whole, add, lambda total: total, total), None

        with jax.default_matmul_precision(training.precision):
            return jax.lax.scan(batch, total, batched)[0]

    def average(limit: Array, total: tuple[Stats, Array], momenta: Stats) -> Stats:
        del limit
        return jax.tree.map(
            lambda t, m: t / (jnp.maximum(total[1], 1) * (1 - m)).astype(t.dtype), total[0], momenta
        )

    def examples(
        limit: Array, params: Params, stats: Stats, batched: Batched, by: Normalization
    ) -> tuple[Array, Array]:
        weights = cast(params, training.compute_dtype)

        def batch(_: None, inputs: Batched) -> tuple[None, tuple[Array, Array]]:
            def look(inputs: Batched) -> tuple[Array, Array]:
                x, y, _ = own_part(inputs, axis)
                x = normalized(x, by, training.compute_dtype)
                logits, _ = net.apply(weights, stats, x, train=False)
                loss = jnp.where(y >= 0, losses(training.loss, logits, y), 0)
                return jnp.argmax(logits, axis=-1).astype(jnp.float32), loss

            found = jnp.stack(look(inputs))
            if axis is not None:
                place = jax.lax.axis_index(axis[0]) * found.shape[1]
                room = _tree.varying_like(jnp.zeros_like(jnp.tile(found, (1, axis[1]))), found)
                room = jax.lax.dynamic_update_slice_in_dim(room, found, place, axis=1)
                found = jax.lax.psum(room, axis[0])
            return None, (found[0].astype(jnp.int32), found[1])

        del limit
        with jax.default_matmul_precision(training.precision):
            return jax.lax.scan(batch, None, batched)[1]

    return _Programs(
        between=parallel.over_replicas(between, mesh, shared=3),
        given=parallel.over_replicas(given, mesh, shared=3),
        gather=parallel.over_replicas(gather, mesh, shared=3),
        average=parallel.over_replicas(average, mesh, shared=1),
        examples=parallel.over_replicas(examples, mesh, shared=2),
    )
