"""From scores to masks: exactly so many weights kept, ties broken by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks, trees
from jaxticket.checks import at_least, one_of, share
from jaxticket.ranking import top_scores
from jaxticket.types import Array, Key, Mask, Params, Score, ScoreContext


def densities(levels: int, fraction: float = 0.2) -> np.ndarray:
    """The ladder `(1 - fraction) ** n` for n = 0 .. levels, float64 [levels + 1].

    >>> densities(3).round(3).tolist()
    [1.0, 0.8, 0.64, 0.512]
    """
    at_least("levels", levels, 0, integer=True)
    share("fraction", fraction, one=False)
    return (1 - fraction) ** np.arange(levels + 1, dtype=np.float64)


def count(density: float, size: int) -> int:
    """Entries that a density keeps of `size`: `round(density * size)`, half to even.

    >>> count(0.8, 266_200), count(1.0, 5)
    (212960, 5)
    """
    share("density", density)
    return round(density * size)


def keep_top(
    scores: Params,
    mask: Mask,
    keep: Array | int | Sequence[int],
    *,
    prunable: Any = None,
    scope: str = "global",
) -> Mask:
    """Keeps exactly `keep` of the weights that are still there: those with the highest scores.

    Ranks, never thresholds: among equal scores the lower flat index stays (leaves in the order of
    `jax.tree.leaves`). Weights that `mask` has pruned never return. Scores must not be nan; +inf
    and -inf are ranked.

    Args:
      scores: tree like the params, floating; higher is kept.
      mask: the mask so far.
      keep: number of prunable entries to keep, an int or a traced int32 scalar; with scope "layer"
        one number per prunable leaf, in the order of `jax.tree.leaves`, as a sequence or an int32
        vector.
      prunable: tree of python bools; None for leaves of two or more dimensions. Other leaves keep
        their mask.
      scope: "global" ranks all layers together, "layer" each by itself.

    Returns:
      The new mask. Where fewer than `keep` are left, all of them stay.

    Raises:
      ValueError: for a tree of another structure, an unknown scope, a negative `keep`, or nothing
        that may be pruned.

    >>> scores = {"w": jnp.array([[1.0, 3.0, 3.0, 2.0]])}
    >>> keep_top(scores, masks.ones(scores), 1)["w"].tolist()
    [[False, True, False, False]]
    """
    one_of("scope", scope, ("global", "layer"))
    trees.same_structure("scores", scores, mask)
    prunable = masks.prunable_leaves(mask) if prunable is None else prunable
    chosen = jax.tree.leaves(prunable)
    leaves, tree = jax.tree.flatten(mask)
    if len(chosen) != len(leaves):
        raise ValueError(f"`prunable` has {len(chosen)} leaves where the mask has {len(leaves)}")
    if not isinstance(keep, jax.Array) and np.size(keep) and np.min(keep) < 0:
        raise ValueError(f"`keep` must be at least 0, got {keep}")
    values = [jnp.asarray(s, jnp.float32).reshape(-1) for s in jax.tree.leaves(scores)]
    picked = [i for i, p in enumerate(chosen) if p]
    if not picked:
        raise ValueError("`prunable` is False for every leaf; mark at least one as prunable")
    result = list(leaves)
    if scope == "layer":
        amounts = jnp.asarray(keep, jnp.int32)
        if amounts.shape != (len(picked),):
            raise ValueError(
                f"`keep` must hold one number per prunable layer ({len(picked)}) with "
                f"scope='layer', "
                f"got shape {amounts.shape}"
            )
        for amount, i in zip(amounts, picked, strict=True):
            result[i] = top_scores(values[i], leaves[i].reshape(-1), amount).reshape(
                leaves[i].shape
            )
        return jax.tree.unflatten(tree, result)
    flat = top_scores(
        jnp.concatenate([values[i] for i in picked]),
        jnp.concatenate([leaves[i].reshape(-1) for i in picked]),
        jnp.asarray(keep, jnp.int32),
    )
    start = 0
    for i in picked:
        result[i] = flat[start : start + leaves[i].size].reshape(leaves[i].shape)
        start += leaves[i].size
    return jax.tree.unflatten(tree, result)


def layer_counts(
    like: Any,
    density: float,
    *,
    prunable: Any = None,
    level: int | None = None,
    fraction: float = 0.2,
    rates: Sequence[tuple[str, float]] = (),
) -> np.ndarray:
    """Entries that each prunable leaf keeps under scope "layer", int32 [prunable leaves].

    `round(density * size)` each; a leaf whose path matches a pattern of `rates` keeps
    `round((1 - rate) ** level * size)` instead.
    """
    prunable = masks.prunable_leaves(like) if prunable is None else prunable
    result = []
    for path, x, p in zip(
        trees.paths(like), jax.tree.leaves(like), jax.tree.leaves(prunable), strict=True
    ):
        if p:
            rate = next((r for pattern, r in rates if trees.matches(path, [pattern])), None)
            share_kept = density if rate is None or level is None else (1 - rate) ** level
            result.append(round(share_kept * int(np.prod(x.shape))))
    return np.asarray(result, np.int32)


def prune(
    params: Params,
    context: ScoreContext,
    *,
    score: Score,
    density: float,
    rounds: int = 1,
    scope: str = "global",
    key: Key,
) -> Mask:
    """Scores and selects, in one round or several: round i of R keeps `round(density ** (i / R) *
    P)`.

    Args:
      params: the weights to score; each round scores them under the mask so far.
      context: what the score may look at; its mask is where the first round begins.
      score: a function of `jt.SCORES` or one of your own.
      density: share of the prunable weights that the last round keeps.
      rounds: number of rounds; the densities between fall exponentially.
      scope: "global" or "layer".
      key: for scores that draw random numbers.

    Returns:
      A mask with exactly `round(density * P)` ones among the prunable leaves (per leaf with scope
      "layer").
    """
    share("density", density)
    at_least("rounds", rounds, 1, integer=True)
    prunable = context.prunable if context.prunable is not None else masks.prunable_leaves(params)
    size = masks.prunable_size(params, prunable=prunable)
    steps = [density ** ((i + 1) / rounds) for i in range(rounds)]
    if scope == "layer":
        keeps = np.stack([layer_counts(params, d, prunable=prunable) for d in steps])
    else:
        keeps = np.asarray([count(d, size) for d in steps], np.int32)

    def one_round(mask: Mask, inputs: tuple[Array, Array]) -> tuple[Mask, None]:
        keep, number = inputs
        scores = score(
            masks.apply(mask, params),
            context._replace(mask=mask),
            key=jax.random.fold_in(key, number),
        )
        return keep_top(scores, mask, keep, prunable=prunable, scope=scope), None

    mask, _ = jax.lax.scan(one_round, context.mask, (jnp.asarray(keeps), jnp.arange(rounds)))
    return mask
