"""New masks in the middle of a training: which weights stay, which connections grow, from what.

Trees are host arrays stacked over [row], a row for each network; masks have None at leaves that
cannot be pruned.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.loop import take
from jaxticket.engine.metrics import Loss, normalized
from jaxticket.engine.source import DataArrays
from jaxticket.problem import Problem
from jaxticket.pruning.keep import keep_top
from jaxticket.random import root_keys, stream, uniform_like
from jaxticket.settings import Training
from jaxticket.sparsify.runner import Runner
from jaxticket.typing import Array, Key, Mask, Network, Params, Stats, cached


def magnitudes(params: Params) -> Params:
    """The size of every weight."""
    return jax.tree.map(np.abs, params)


@jax.jit
def top(scores: Params, mask: Mask, keep: Array) -> Mask:
    """The best weights of a mask.

    Args:
      scores: [row, ...], higher is kept.
      mask: [row, ...], among which.
      keep: int32 [row], how many.
    """
    return jax.vmap(keep_top)(scores, mask, keep)


@jax.jit
def staying(scores: Params, mask: Mask, keep: Array, least: Array) -> Mask:
    """What a mask shares with the best weights of all, and at least so many of its best.

    Args:
      scores: [row, ...], of all weights.
      mask: [row, ...].
      keep: int32 [row], how many are the best of all.
      least: int32 [row], how many stay at least.
    """

    def one(scores: Params, mask: Mask, keep: Array, least: Array) -> Mask:
        best = keep_top(scores, jax.tree.map(jnp.ones_like, mask), keep)
        both = masks.kept(jax.tree.map(jnp.logical_and, best, mask))
        return keep_top(scores, mask, jnp.maximum(both, least))

    return jax.vmap(one)(scores, mask, keep, least)


@jax.jit
def grown(scores: Params, mask: Mask, stay: Mask, keep: Array) -> Mask:
    """What stays of a mask, and the best of what the mask had pruned, `keep` weights together.

    Args:
      scores: [row, ...], of what had been pruned.
      mask: [row, ...], before.
      stay: [row, ...], what stays of it.
      keep: int32 [row].
    """

    def one(scores: Params, mask: Mask, stay: Mask, keep: Array) -> Mask:
        pruned = jax.tree.map(jnp.logical_not, mask)
        new = keep_top(scores, pruned, keep - masks.kept(stay))
        return jax.tree.map(jnp.logical_or, stay, new)

    return jax.vmap(one)(scores, mask, stay, keep)


def shared(one: Mask, other: Mask) -> np.ndarray:
    """How many weights both masks keep, int [row]."""
    both = [np.asarray(a) & np.asarray(b) for _, a, b in masks.items(one, other)]
    return np.sum([np.count_nonzero(x.reshape(len(x), -1), axis=1) for x in both], axis=0)


def drawn(runner: Runner, name: str, change: int) -> Params:
    """A new sample of the initializer for each seed, [replica, ...].

    Args:
      runner: network and seeds.
      name: of the rng stream.
      change: number of the change of the mask.
    """
    keys = jax.vmap(lambda key: stream(key, name, change))(root_keys(runner.seeds))
    data = np.asarray(jax.random.key_data(keys))
    return initial_networks(runner.net, runner.run.mesh, data, drawn=True)[0]


def uniform(runner: Runner, name: str, change: int) -> Params:
    """Random scores for each seed, [replica, ...]; args as of `drawn`."""
    shapes = runner.net.shapes[0]

    keys = jax.vmap(lambda key: stream(key, name, change))(root_keys(runner.seeds))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: uniform_like(key, shapes)))(keys))


def slopes(
    runner: Runner, params: Params, stats: Stats, replicas: np.ndarray, change: int
) -> Params:
    """The size of the dense gradient of one training batch, [row, ...].

    It is that of the mean loss with respect to the effective weights, in training mode, also where
    weights are pruned.

    Args:
      runner: network, data and seeds.
      params: [row, ...], zero where they are pruned.
      stats: [row, ...].
      replicas: int [row], the place of each row's seed.
      change: number of the change of the mask; each has its batch.

    Reference: Evci et al. 2020 (RigL), the criterion for growing.
    """
    run, count = runner.run, len(replicas)
    batch = min(runner.training.batch_size, len(runner.data.train))
    room = min(parallel.block_size(count, run.mesh, None), run.size)
    compiled = _slopes(runner.net, run.mesh, runner.training.loss, batch)
    parts = []
    for first in range(0, count, room):
        own = slice(first, first + room)
        weights = jax.tree.map(lambda x, own=own: x[own], (params, stats))
        found = len(replicas[own])
        keys = parallel.pad(runner.keys[replicas[own]], room)
        placed = parallel.put(parallel.pad(weights, room), run.mesh)
        typed = jax.random.wrap_key_data(parallel.put(keys, run.mesh))
        examples = run.data.score_batches(keys, change, 1, batch)
        limits = (np.arange(room) < found).astype(np.int32)
        numbers = np.full(room, change, np.int32)
        sizes = compiled(limits, *placed, typed, numbers, examples, run.data.arrays)
        parts.append(take(parallel.host(sizes), 0, found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


@cached(16)
def _slopes(net: Network, mesh: Mesh, loss: Loss, size: int) -> Callable[..., Params]:
    def one(
        limit: Array,
        params: Params,
        stats: Stats,
        key: Key,
        change: Array,
        own: Array | None,
        arrays: DataArrays,
    ) -> Params:
        del limit
        key = stream(key, "grow", change)
        x, y = arrays.score_examples(own, 0, key=key, batches=1, size=size)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            x = normalized(x, arrays.by, str(jnp.result_type(float)))
        problem = Problem(net, None, Training(loss=loss), arrays.by)
        noise = stream(key, "noise")
        slope = problem.gradient(params, stats, (x, y[0]), train=True, key=noise)
        return jax.tree.map(jnp.abs, slope)

    return parallel.over_replicas(one, mesh, shared=1)
