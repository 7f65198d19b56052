"""The compiled selection: trained replicas are scored and pruned."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxticket import parallel, trees
from jaxticket.evaluate import cross_entropy, normalized
from jaxticket.feed import score_indices
from jaxticket.prune import keep_top
from jaxticket.rng import stream
from jaxticket.types import Array, Mask, Network, Params, Score, ScoreContext, TrainState


@functools.lru_cache(maxsize=64)
def pruner(
    net: Network,
    mesh: Mesh,
    score: Score,
    scope: str,
    exclude: tuple[str, ...],
    batches: int,
    batch_size: int,
    fed: bool = False,
) -> Callable[..., tuple[Mask, Array]]:
    """The compiled program that scores trained replicas and prunes them.

    Args:
      net, mesh, score, scope, exclude: as in training and pruning.
      batches, batch_size: how many batches a score looks at.
      fed: the batches come with the call, from a stream, instead of data on the device.

    Returns:
      `select(limits, state, params_at_init, keep, number, data) -> (mask, fault)`, or with
      `(block, by)` in the place of `data`; replicas with limit 0 keep their mask. `fault`: scores
      of living weights are not finite though the weights are.
    """

    def examples(key: Array, source: tuple[Any, ...]) -> tuple[Array, Array]:
        if fed:
            (x, y), by = source
            x = x.reshape(-1, *x.shape[2:])
        else:
            (data,) = source
            index = score_indices(
                key=key, examples=data.y.shape[0], batches=batches, size=batch_size
            )
            x, by = jnp.take(data.x, index.reshape(-1), axis=0), data.by
            y = jnp.take(data.y, index, axis=0)
        x = normalized(x, by, "float32")
        return x.reshape(batches, batch_size, *x.shape[1:]), y

    def scored(
        state: TrainState, params_at_init: Params, keep: Array, number: Array, *source: Any
    ) -> tuple[Mask, Array]:
        prunable = prunable_of(net, state.params, exclude)
        key = stream(state.key, "prune", number)
        x, y = examples(key, source)

        def logits(params: Params, x: Array) -> Array:
            return net.apply(params, state.stats, x, train=False)[0]

        def loss(params: Params, batch: tuple[Array, Array]) -> Array:
            return jnp.mean(cross_entropy(logits(params, batch[0]), batch[1]))

        context = ScoreContext(loss, logits, params_at_init, state.mask, (x, y), prunable)
        # weights near the cut decide, and the few bits of a fast product would decide them wrongly
        with jax.default_matmul_precision("highest"):
            scores = score(state.params, context, key=stream(key, "score"))
        trees.same_structure("score", scores, state.params)
        scores = jax.tree.map(lambda s: s.astype(jnp.float32), scores)
        living = jax.tree.map(
            lambda s, m, p: jnp.where(m, s, 0) if p else 0 * s, scores, state.mask, prunable
        )
        fault = jnp.logical_and(~trees.finite(living), trees.finite(state.params))
        mask = keep_top(living, state.mask, keep, prunable=prunable, scope=scope)
        # a diverged replica keeps its mask
        mask = jax.tree.map(
            lambda new, old: jnp.where(state.diverged < 0, new, old), mask, state.mask
        )
        return mask, jnp.logical_and(fault, state.diverged < 0)

    def select(
        limit: Array,
        state: TrainState,
        params_at_init: Params,
        keep: Array,
        number: Array,
        *source: Any,
    ) -> tuple[Mask, Array]:
        mask, fault = jax.lax.cond(
            limit > 0,
            lambda s, *rest: scored(s, *rest),
            lambda s, *rest: (s.mask, s.diverged > jnp.iinfo(jnp.int32).max - 1),
            *(state, params_at_init, keep, number, *source),
        )
        return mask, fault

    return parallel.over_replicas(select, mesh, shared=1)


def prunable_of(net: Network, params: Params, exclude: tuple[str, ...] = ()) -> Any:
    """Which leaves are pruned: those of the network that no pattern of `exclude` matches.

    Raises:
      ValueError: where a pattern matches nothing, or nothing is left.
    """
    names = trees.paths(params)
    for pattern in exclude:
        if not any(trees.matches(name, [pattern]) for name in names):
            raise ValueError(
                f"`exclude` pattern {pattern!r} matches no weight; the paths are {', '.join(names)}"
            )
    leaves, tree = jax.tree.flatten(net.prunable(params))
    kept = [
        bool(p) and not trees.matches(name, exclude) for name, p in zip(names, leaves, strict=True)
    ]
    if not any(kept):
        raise ValueError(f"`exclude` leaves nothing to prune; the paths are {', '.join(names)}")
    return jax.tree.unflatten(tree, kept)
