"""The compiled selection: replicas are scored and pruned, in one round or many."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxticket._check import or_none, settle, whole
from jaxticket.engine import parallel
from jaxticket.engine.metrics import Loss, Normalization, cast, losses, normalized
from jaxticket.engine.together import replicas_together
from jaxticket.labels import own_logits
from jaxticket.nn.linearity import curved
from jaxticket.problem import Problem
from jaxticket.pruning.keep import prune_in_rounds
from jaxticket.pruning.scores.spec import Recipe, name_of, recipe_of
from jaxticket.pruning.structures.settings import StructureLike, units_in
from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.typing import (
    AnyArray,
    Array,
    Key,
    Mask,
    Network,
    Params,
    Score,
    ScoreContext,
    Stats,
    Tap,
)


class Weights(NamedTuple):
    """What is pruned: one replica's weights as they are (fields as of `TrainState`)."""

    params: Params
    stats: Stats
    mask: Mask
    key: Key
    diverged: AnyArray


@dataclass(frozen=True)
class Examples:
    """The training examples that a score looks at.

    Attributes:
      batches, size: how many batches, and examples of each.
      per_class: take so many of each class (batches * size is that times the classes), evenly
        spread over the batches; None to draw without looking at labels.
    """

    batches: int = 1
    size: int = 100
    per_class: int | None = None

    def __post_init__(self) -> None:
        settle(self, whole, "batches", "size", low=1)
        settle(self, or_none(whole), "per_class", low=1)


@dataclass(frozen=True)
class Selection:
    """What a compiled selection does; numbers of weights and of rounds come with each call.

    Attributes:
      score: scores the weights, as its recipe says.
      scope, floor: as of `jt.prune`.
      exclude: patterns of paths that are not pruned.
      examples: what the score looks at.
      loss: that of the training, which `ScoreContext.loss` is the mean of.
      structure: what is kept or pruned together; None for single weights.
    """

    score: Score
    scope: str = "global"
    floor: int = 0
    exclude: tuple[str, ...] = ()
    examples: Examples = Examples()
    loss: Loss = "cross_entropy"
    structure: StructureLike | None = None


@functools.lru_cache(maxsize=64)
def pruner(net: Network, mesh: Mesh, selection: Selection) -> Callable[..., tuple[Mask, Array]]:
    """The compiled program that scores replicas and prunes them.

    Args:
      net, mesh: as in training.
      selection: what it does.

    Returns:
      `select(limits, weights, params_at_init, keeps, number, own, arrays) -> (mask, fault)`: keeps
      int32 [replica, round, ...]; number int32 [replica], which of the draws of its key a replica
      sees; own from `Source.score_batches`, and arrays of that source. Replicas with limit 0 keep
      their mask, and so do diverged ones. `fault`: scores of living weights are not finite though
      the weights are.
    """
    recipe, wanted = recipe_of(selection.score), selection.examples
    units = units_in(net, selection.structure, selection.exclude)
    if recipe.flow and (bent := curved(net)):
        warnings.warn(
            f"`score` {name_of(selection.score)!r} sums paths through a network, and this one "
            "has none: it bends, normalizes or multiplies what depends on its input "
            f"({', '.join(bent)}). The masks mean little; take a network with ReLU and without "
            "normalization (or with BatchNorm), or another score",
            stacklevel=3,
        )

    def examples(key: Key, own: Any, number: Array | int, arrays: Any) -> tuple[Array, Array]:
        if not recipe.data:
            # for its shape alone
            x = net.example(1, 1)
            return jnp.zeros(x.shape, x.dtype), jnp.zeros((1, 1), jnp.int32)
        x, y = arrays.score_examples(own, number, key=key, batches=wanted.batches, size=wanted.size)
        if not jnp.issubdtype(x.dtype, jnp.integer):
            x = normalized(x, arrays.by, str(jnp.result_type(float)))
        # whole numbers are normalised where they are used: many batches then take little memory
        return x.reshape(*y.shape[:2], *x.shape[1:]), y

    def scored(
        weights: Weights,
        params_at_init: Params,
        keeps: Array,
        number: Array,
        own: Any,
        arrays: Any,
    ) -> tuple[Mask, Array]:
        # float64 where it is enabled: what overflows in float32 may be finite then
        params, params_at_init, stats = (
            cast(tree, str(jnp.result_type(float)))
            for tree in (weights.params, params_at_init, weights.stats)
        )
        key = stream(weights.key, "prune", number)
        look = context_maker(net, stats, recipe, key=weights.key, by=arrays.by, loss=selection.loss)
        shared = None if recipe.fresh else examples(key, own, 0, arrays)

        def context_of(number: Array, mask: Mask) -> ScoreContext:
            seen = shared
            if seen is None:
                seen = examples(jax.random.fold_in(key, number), own, number, arrays)
            return look(params_at_init, mask, seen)

        mask, fault = prune_in_rounds(
            params,
            weights.mask,
            keeps,
            context_of,
            score=selection.score,
            scope=selection.scope,
            floor=selection.floor,
            key=stream(key, "score"),
            units=units,
        )
        # a diverged replica keeps its mask
        mask = jax.tree.map(
            lambda new, old: jnp.where(weights.diverged < 0, new, old), mask, weights.mask
        )
        return mask, jnp.logical_and(fault, weights.diverged < 0)

    def select(limit: Array, weights: Weights, *rest: Any) -> tuple[Mask, Array]:
        return jax.lax.cond(
            limit > 0,
            lambda w, *rest: scored(w, *rest),
            lambda w, *rest: (w.mask, w.diverged > jnp.iinfo(jnp.int32).max - 1),
            *(weights, *rest),
        )

    return parallel.over_replicas(select, mesh, shared=1, vmapped=replicas_together(net, mesh))


def context_maker(
    net: Network,
    stats: Stats,
    recipe: Recipe,
    *,
    key: Key,
    by: Normalization | None = None,
    loss: Loss = "cross_entropy",
) -> Callable[[Params, Mask, tuple[Array, Array]], ScoreContext]:
    """Make contexts of one replica: (params_at_init, mask, batches) -> context.

    Args:
      net: the network.
      stats: its statistics as they are.
      recipe: which statistics normalise, and what the loss is.
      key: the replica's root key: where dropout draws, and the statistics of initialization.
      by: how images of whole numbers are normalised; other inputs are taken as they are.
      loss: of each example, where the recipe says "cross_entropy".
    """
    if recipe.batch_norm == "initial":
        stats = net.init(stream(key, "init"))[1]
    train = recipe.batch_norm == "train"
    problem = Problem(net, None, Training(loss=loss), by)
    noise = stream(key, "noise", 0) if train else None

    def tapped(params: Params, x: Array, tap: Tap | None) -> Array:
        return problem.logits(params, stats, x, train=train, key=noise, tap=tap)

    def logits(params: Params, x: Array) -> Array:
        return tapped(params, x, None)

    def mean_loss(params: Params, batch: tuple[Array, Array]) -> Array:
        z, y = logits(params, batch[0]) / recipe.temperature, batch[1]
        if recipe.loss == "negative_logit":
            return -jnp.mean(own_logits(z, y))
        return jnp.mean(losses(loss, z, y))

    known = tapped if net.tapped else None

    def make(params_at_init: Params, mask: Mask, batches: tuple[Array, Array]) -> ScoreContext:
        return ScoreContext(mean_loss, logits, params_at_init, mask, batches, known)

    return make
