"""From scores to masks: exactly so many weights kept, ties broken by index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket import _tree, masks
from jaxticket._check import from_table, instance, one_of, share, whole
from jaxticket.pruning.layouts import Layer, Layout
from jaxticket.pruning.ranking import floored, highest
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.pruning.structures.settings import (
    StructureLike,
    Units,
    implied,
    unit_counts,
    units_of,
)
from jaxticket.typing import Array, Key, Mask, Network, Params, Score, ScoreContext


def densities(levels: int, fraction: float = 0.2) -> np.ndarray:
    """The ladder `(1 - fraction) ** n` for n = 0 .. levels, float64 [levels + 1].

    >>> densities(3).round(3).tolist()
    [1.0, 0.8, 0.64, 0.512]
    """
    levels = whole("levels", levels, high=1_000_000)
    fraction = share("fraction", fraction, one=False)
    return (1 - fraction) ** np.arange(levels + 1, dtype=np.float64)


def count(density: float, size: int) -> int:
    """Entries that a density keeps of `size`: `round(density * size)`, half to even.

    >>> count(0.8, 266_200), count(1.0, 5)
    (212960, 5)
    """
    density = share("density", density)
    return round(density * size)


def keep_top(
    scores: Params,
    mask: Mask,
    keep: Array | int | Sequence[int] | None,
    *,
    scope: str = "global",
    structure: StructureLike | None = None,
    net: Network | None = None,
) -> Mask:
    """Keep exactly `keep` of the weights that are still there: those with the highest scores.

    Ranks, never thresholds: among equal scores the lower flat index stays (leaves in the order of
    `jax.tree.leaves`). Weights that `mask` has pruned never return, whatever their scores. +inf and
    -inf are ranked; nan is an error, and inside `jax.jit`, where values are unknown, ranks below
    everything. Scores in float64 are divided by the largest one and ranked in float32; whole
    numbers of up to 32 bits are ranked exactly.

    Args:
      scores: tree like the params, of numbers, all floating or all whole; higher is kept.
      mask: the mask so far, a tree of bools with None at leaves that cannot be pruned, such as
        `net.mask()`. Where it has None nowhere, its leaves of two or more dimensions can be pruned,
        and others stay as they are.
      keep: number of prunable entries to keep, an int or a traced int32 scalar; with scope "layer"
        one number per prunable leaf, in the order of `jax.tree.leaves`, as a sequence or an int32
        vector. With a structure, the number of its units (`Units.counts`), or None where the
        structure implies it.
      scope: "global" ranks all layers together, "layer" each by itself.
      structure: weights that are kept or pruned together, "2:4", ("block", 4, 4), "channel" or
        ("fan_in", k), or an object; None for single weights. See `jt.structures`.
      net: the network, for structure="channel".

    Returns:
      The new mask. Where fewer than `keep` are left, all of them stay.

    Raises:
      ValueError: for a tree of another structure, a mask that is not of bools, scores that are nan
        where the mask is True, an unknown scope, a negative `keep`, a mask of None alone, and
        layers that the structure does not fit.

    >>> scores = {"w": jnp.array([[1.0, 3.0, 3.0, 2.0]])}
    >>> keep_top(scores, masks.ones(scores), 1)["w"].tolist()
    [[False, True, False, False]]
    """
    one_of("scope", scope, ("global", "layer"))
    masks.require_bools("mask", mask, "keep_top(scores, mask, keep)")
    _tree.same_structure("scores", scores, masks.filled(mask, scores), of="mask")
    if keep is not None and not isinstance(keep, jax.Array) and np.size(keep) and np.min(keep) < 0:
        raise ValueError(f"`keep` must be at least 0, got {keep}")
    if not jax.tree.leaves(masks.known(mask)):
        raise ValueError("`mask` has None at every leaf; there is nothing to prune")
    if structure is None:
        if keep is None:
            raise ValueError("`keep` is needed: how many weights stay, got None")
        return highest(scores, mask, keep, scope=scope)
    units = units_of(structure, mask, net)
    if keep is None:
        if units.density is None:
            raise ValueError(f"`keep` is needed: how many {units.noun} stay, got None")
        keep = jnp.asarray(units.rounds(None, 1)[0])
    return keep_units(units, scores, mask, keep, scope=scope)


def keep_units(
    units: Units,
    scores: Params,
    mask: Mask,
    keep: Array | int | Sequence[int],
    *,
    scope: str = "global",
    floor: int = 0,
    pooled: Params | None = None,
) -> Mask:
    """Keep the units with the highest scores of those that a mask has.

    Args:
      units: of the network.
      scores: of its weights.
      mask: so far.
      keep, scope, floor: as of `Units.keep`.
      pooled: scores of units, where they are not the means of those of their weights.
    """
    pooled = units.pool(scores, mask) if pooled is None else pooled
    chosen = units.keep(pooled, units.alive(mask), keep, scope=scope, floor=floor)
    return jax.tree.map(jnp.logical_and, units.expand(chosen, mask), mask)


def counts_of(mask: Mask, densities: Sequence[float], scope: str) -> np.ndarray:
    """Count the entries that densities keep, on the host in float64.

    Args:
      mask: of the network, such as `net.mask()`; its shapes alone count.
      densities: shares to keep.
      scope: "global" or "layer".

    Returns:
      `round(density * size)`, half to even: int32 [density], or [density, leaf] by layer.

    >>> counts_of({"a": np.ones(5, bool), "b": np.ones(8, bool)}, [1, 0.5], "layer").tolist()
    [[5, 8], [2, 4]]
    """
    sizes = masks.prunable_sizes(mask)
    sizes = np.asarray(sizes if scope == "layer" else sum(sizes), np.float64)
    return np.round(np.multiply.outer(np.asarray(densities, np.float64), sizes)).astype(np.int32)


def layer_counts(
    mask: Mask,
    density: float,
    *,
    level: int | None = None,
    rates: Sequence[tuple[str, float]] = (),
) -> np.ndarray:
    """Count the entries that each prunable leaf keeps under scope "layer", int32 [prunable leaves].

    `round(density * size)` each; a leaf whose path matches a pattern of `rates` keeps
    `round((1 - rate) ** level * size)` instead.

    Args:
      mask: of the network, such as `net.mask()`.
      density: share that most leaves keep.
      level: of the masks, for leaves with a rate of their own.
      rates: pairs of a pattern of paths and the share pruned from level to level.
    """
    result = []
    for path, m in masks.items(masks.known(mask)):
        rate = next((r for pattern, r in rates if _tree.matches(path, [pattern])), None)
        share_kept = density if rate is None or level is None else (1 - rate) ** level
        result.append(round(share_kept * int(np.prod(m.shape))))
    return np.asarray(result, np.int32)


def prune(
    params: Params,
    context: ScoreContext | None = None,
    *,
    score: str | Score,
    density: float | None = None,
    rounds: int | None = None,
    scope: str = "global",
    floor: int = 0,
    structure: StructureLike | None = None,
    net: Network | None = None,
    key: Key,
) -> Mask:
    """Score and select, in one round or several.

    Round i of R keeps `round(density ** (i / R) * P)`.

    Args:
      params: the weights to score; each round scores them under the mask so far.
      context: what the score may look at, in the BatchNorm mode that its recipe asks for; its mask
        is where the first round begins. All rounds see its batches, those of a score that wants
        others in every round (FORCE) too; `jt.prune_at` draws new ones. None for scores that look
        at the weights alone, such as magnitude.
      score: a name in `jt.SCORES` or a function.
      density: share of the prunable weights that the last round keeps, or of the units of a
        structure; None for structures that imply it.
      rounds: number of rounds, the densities between fall exponentially; that of the score's recipe
        if None (100 for SynFlow, 1 for most).
      scope: "global" ranks all layers together, "layer" each by itself.
      floor: weights that every layer keeps at least, whatever their scores; with scope "global".
      structure, net: as of `keep_top`.
      key: for scores that draw random numbers.

    Returns:
      A mask with exactly `round(density * P)` ones among the prunable leaves (per leaf with scope
      "layer").

    Raises:
      ValueError: for settings out of range, and for scores that are not finite though the weights
        are (not inside `jax.jit`, where values are unknown).

    Reference: Frankle's thesis, section 5.2; Tanaka et al. 2020, Algorithm 1, for the densities of
      rounds.
    """
    function: Score = from_table("score", score, SCORES)
    rounds = whole("rounds", recipe_of(function).rounds if rounds is None else rounds, 1)
    floor = whole("floor", floor)
    if context is None:
        context = cast(ScoreContext, _NoContext(name_of(function), masks.ones(params)))
    else:
        instance("context", context, ScoreContext, "a jt.ScoreContext, or None")
        masks.require_bools("context.mask", context.mask)
        masks.require_like("context.mask", context.mask, params)
    units = None if structure is None else units_of(structure, context.mask, net)
    if units is not None:
        density = implied("density", density, units)
        keeps = unit_counts(units, density, rounds, scope=scope, floor=floor)
    elif density is None:
        raise ValueError(
            "`density` must be in (0, 1], got None: only structures such as '2:4' imply it"
        )
    else:
        density = share("density", density)
        keeps = round_counts(context.mask, density, rounds, scope=scope, floor=floor)
    mask, fault = prune_in_rounds(
        params,
        context.mask,
        jnp.asarray(keeps),
        lambda number, mask: context._replace(mask=mask),
        score=function,
        scope=scope,
        floor=floor,
        key=key,
        units=units,
    )
    if not isinstance(fault, Tracer) and bool(fault):
        raise ValueError(not_finite(name_of(function)))
    return mask


class _NoContext:
    """Stands for the context of scores that look at the weights alone; says so to all others."""

    def __init__(self, score: str, mask: Mask) -> None:
        self.score, self.mask = score, mask

    def _replace(self, mask: Mask) -> _NoContext:
        return _NoContext(self.score, mask)

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(
            f"`context` is needed: score {self.score!r} looks at its `{name}`; pass a "
            f"jt.ScoreContext, or let jt.prune_at make it"
        )


def not_finite(score: str, where: str = "") -> str:
    """What is said of scores that are not finite for finite weights."""
    return (
        f"`score` {score!r} gives numbers that are not finite for finite weights{where}; correct "
        f"the score, or compute it in float64 (jax_enable_x64)"
    )


def round_counts(
    mask: Mask,
    density: float,
    rounds: int,
    *,
    scope: str = "global",
    floor: int = 0,
) -> np.ndarray:
    """Count the entries that each of R rounds keeps: int32 [R], or [R, leaves] by layer.

    Args:
      mask: of the network, such as `net.mask()`.
      density: share that the last round keeps.
      rounds: R.
      scope, floor: as of `prune`.

    Raises:
      ValueError: for a floor that does not fit the density.
    """
    rounds, floor = whole("rounds", rounds, 1), whole("floor", floor)
    steps = [density ** ((i + 1) / rounds) for i in range(rounds)]
    # the last one is the density itself, to the last bit
    steps[-1] = density
    if scope == "layer":
        if floor:
            raise ValueError(f"`floor` needs scope='global', got {floor} with scope='layer'")
        return np.stack([layer_counts(mask, d) for d in steps])
    sizes = masks.prunable_sizes(mask)
    size, layers = sum(sizes), len(sizes)
    if floor * layers > count(density, size):
        raise ValueError(
            f"`floor` of {floor} in {layers} layers is more than density {density:g} keeps of "
            f"{size:,} weights; use a lower floor or a higher density"
        )
    return np.asarray([count(d, size) for d in steps], np.int32)


def layout_counts(
    layout: Layout, layers: Sequence[Layer], density: float, rounds: int
) -> np.ndarray:
    """Count the entries of each layer that each of R rounds keeps: int32 [R, layer].

    Each layer shrinks by the same share from round to round, to the number of the layout.
    """
    rounds = whole("rounds", rounds, 1)
    last = np.asarray(layout(layers, density), np.int32)
    if last.shape != (len(layers),):
        raise ValueError(
            f"`scope` must give one number for each of {len(layers)} layers, got shape {last.shape}"
        )
    sizes = np.asarray([layer.size for layer in layers], np.float64)
    share_of = np.maximum(last, 1) / sizes
    before = [np.rint(sizes * share_of ** ((i + 1) / rounds)) for i in range(rounds - 1)]
    return np.stack([*before, last]).astype(np.int32)


def prune_in_rounds(
    params: Params,
    mask: Mask,
    keeps: Array,
    context_of: Callable[[Array, Mask], ScoreContext],
    *,
    score: Score,
    scope: str,
    floor: int,
    key: Key,
    units: Units | None = None,
) -> tuple[Mask, Array]:
    """Score and select in rounds, as one loop; what `prune` and the compiled selections share.

    Args:
      params: dense weights.
      mask: where the first round begins.
      keeps: int32 [round] or [round, layer], from `round_counts`; traced or not.
      context_of: `context_of(number, mask) -> context` of a round.
      score, scope, floor, key: as in `prune`.
      units: what is kept or pruned together, of which `keeps` is the number; None for weights.

    Returns:
      The mask, and a bool: whether scores of weights that compete were not finite though the
      weights are.
    """
    recipe = recipe_of(score)
    regrow = recipe.regrow

    def one_round(
        carry: tuple[Mask, Array], inputs: tuple[Array, Array]
    ) -> tuple[tuple[Mask, Array], None]:
        now, fault = carry
        keep, number = inputs
        weights = params if regrow else masks.apply(now, params)
        # weights near the cut decide, and the few bits of a fast product would decide them wrongly
        context, round_key = context_of(number, now), jax.random.fold_in(key, number)
        with jax.default_matmul_precision("highest"):
            scores = score(weights, context, key=round_key)
        _tree.same_structure("score", scores, params)
        rivals = mask if regrow else now
        scores = masks.map_with(
            lambda m, s: jnp.where(m, s, jnp.zeros_like(s)),
            masks.known(rivals),
            scores,
            other=jnp.zeros_like,
        )
        fault = jnp.logical_or(fault, ~_tree.finite(scores))
        if units is not None:
            pooled = units.pool(scores, rivals)
            if recipe.per_unit:
                pooled = score(pooled, context, key=round_key)
            chosen = keep_units(
                units, scores, rivals, keep, scope=scope, floor=floor, pooled=pooled
            )
            return (chosen, fault), None
        if floor:
            scores = floored(scores, rivals, floor)
        return (keep_top(scores, rivals, keep, scope=scope), fault), None

    no = _tree.varying_like(jnp.bool_(False), (params, mask))
    numbers = jnp.arange(keeps.shape[0], dtype=jnp.int32)
    (chosen, fault), _ = jax.lax.scan(one_round, (mask, no), (jnp.asarray(keeps), numbers))
    return chosen, jnp.logical_and(fault, _tree.finite(params))
