"""The exact selection of the k highest of many numbers, without sorting them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket._conditions import of_any
from jaxticket._tree import varying_like
from jaxticket.typing import AnyArray, Array


def sortable(scores: Array) -> Array:
    """Map scores to uint32 in the same order (-0.0 equals 0.0, nan is below all).

    Args: float32, int32 or uint32.
    """
    if scores.dtype == jnp.uint32:
        return scores
    if scores.dtype == jnp.int32:
        return jax.lax.bitcast_convert_type(scores, jnp.uint32) ^ jnp.uint32(0x80000000)
    nan = jnp.isnan(scores)
    bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    # by its bits and not by adding 0, which the compiler leaves out
    bits = jnp.where(bits == jnp.uint32(0x80000000), jnp.uint32(0), bits)
    # the sign bit alone decides between two signs; negative floats are ordered backwards
    ranks = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(0x80000000))
    # whatever a nan's sign: counts stay exact, and what is no number is kept last
    return jnp.where(nan, jnp.uint32(0), ranks)


def _kth_by_bisection(ranks: Array, k: Array) -> Array:
    """Find the largest t with at least k ranks >= t, bit by bit.

    It takes 32 passes that only count: fast on GPU and TPU.
    """

    def bit(i: Array, t: Array) -> Array:
        trial = t | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        return jnp.where(jnp.sum(ranks >= trial, dtype=jnp.int32) >= k, trial, t)

    return jax.lax.fori_loop(0, 32, bit, varying_like(jnp.uint32(0), (ranks, k)))


def _kth_by_histogram(ranks: Array, k: Array) -> Array:
    """Find the same value from two histograms, of the upper and of the lower 16 bits.

    Fast where scatters are (CPU).
    """
    found, above = jnp.uint32(0), k
    for shift in (16, 0):
        digit = ((ranks >> shift) & jnp.uint32(0xFFFF)).astype(jnp.int32)
        # in the second round, entries with another upper half go to a bin of their own
        inside = True if shift == 16 else (ranks >> 16) == (found >> 16)
        histogram = jnp.zeros(2**16 + 1, jnp.int32).at[jnp.where(inside, digit, 2**16)].add(1)
        place, before = _crossing(histogram[2**16 - 1 :: -1].reshape(256, 256), above)
        above = above - before
        found = found | ((2**16 - 1 - place).astype(jnp.uint32) << shift)
    return found


def _crossing(counts: Array, wanted: Array) -> tuple[Array, Array]:
    """The first place, row by row, whose running sum reaches `wanted`, and the sum before it.

    Rows are summed first: one running sum over all takes longer than everything else here.
    """
    sums = jnp.sum(counts, axis=1, dtype=jnp.int32)
    running = jnp.cumsum(sums)
    row = jnp.argmax(running >= wanted).astype(jnp.int32)
    running = running[row] - sums[row] + jnp.cumsum(counts[row])
    at = jnp.argmax(running >= wanted).astype(jnp.int32)
    return row * counts.shape[1] + at, running[at] - counts[row, at]


def _first(marked: Array, quota: Array) -> Array:
    """Of the True entries of a vector, its first `quota` ones."""
    block = 4096
    padded = jnp.pad(marked, (0, -marked.size % block)).reshape(-1, block)
    # count by blocks, then look into the one block where the quota runs out
    before = jnp.cumsum(jnp.sum(padded, axis=1, dtype=jnp.int32))
    last = jnp.minimum(jnp.sum(before < quota, dtype=jnp.int32), padded.shape[0] - 1)
    rest = quota - jnp.where(last > 0, before[jnp.maximum(last - 1, 0)], 0)
    row = jax.lax.dynamic_index_in_dim(padded, last, keepdims=False)
    end = last * block + jnp.sum(jnp.cumsum(row.astype(jnp.int32)) < rest, dtype=jnp.int32)
    place = jax.lax.iota(jnp.int32, marked.size)
    return marked & (place <= end) & (quota > 0)


@jax.jit
def top(ranks: Array, alive: Array, keep: Array) -> Array:
    """Marks the `keep` highest ranks among the living, lower index first among equals.

    Args:
      ranks: uint32 [n].
      alive: bool [n].
      keep: int32 scalar; where fewer are alive, all of them are marked.

    Returns:
      bool [n] with exactly `min(keep, alive.sum())` True.
    """
    ranks = jnp.where(alive, ranks, jnp.uint32(0))
    keep = jnp.minimum(keep, jnp.sum(alive, dtype=jnp.int32))
    threshold = jax.lax.platform_dependent(
        ranks, keep, cpu=_kth_by_histogram, default=_kth_by_bisection
    )
    higher = jnp.logical_and(ranks > threshold, alive)
    equal = jnp.logical_and(ranks == threshold, alive)
    quota = keep - jnp.sum(higher, dtype=jnp.int32)
    # ties beyond the quota are rare; without them the equal ones are simply all kept
    tied = jnp.sum(equal, dtype=jnp.int32) > quota
    return higher | jax.lax.cond(of_any(tied), _first, lambda marked, _: marked, equal, quota)


@jax.jit
def _top_scores(scores: Array, alive: Array, keep: Array) -> Array:
    return top(sortable(scores), alive, keep)


def top_scores(scores: Array, alive: AnyArray, keep: Array) -> Array:
    """`top` for float32, int32 or uint32 scores, which are ranked as numbers (nan and -inf lowest).

    Outside of compiled programs a CPU selects with NumPy's partition, several times as fast.
    """
    given = (scores, alive, keep)
    traced = any(isinstance(x, Tracer) for x in given)
    # NumPy's partition has no place for nan
    if traced or jax.default_backend() != "cpu" or bool(jnp.isnan(scores).any()):
        return _top_scores(scores, alive, keep)
    return jnp.asarray(_top_on_host(np.asarray(scores), np.asarray(alive), int(keep)))


def _top_on_host(scores: np.ndarray, alive: np.ndarray, keep: int) -> np.ndarray:
    there = int(np.count_nonzero(alive))
    if keep >= there:
        return alive.copy()
    if keep <= 0:
        return np.zeros_like(alive)
    # the pruned rank below everything; -0.0 and 0.0 are equal to NumPy too
    values = scores if there == alive.size else scores[alive]
    threshold = np.partition(values, there - keep)[there - keep]
    chosen = scores > threshold
    equal = scores == threshold
    if there < alive.size:
        chosen &= alive
        equal &= alive
    quota = keep - int(np.count_nonzero(chosen))
    chosen[np.flatnonzero(equal)[:quota]] = True
    return chosen


@jax.jit
def top_within(ranks: Array, alive: Array, keep: Array) -> Array:
    """Marks the `keep` highest ranks of each group, lower index first among equals.

    Args:
      ranks: uint32 [group, member, column]; members of one group and column compete.
      alive: bool of that shape.
      keep: int32 scalar; where fewer are alive in a group, all of them are marked.

    Returns:
      bool of that shape, with exactly `min(keep, alive)` True in each group and column.
    """
    ranks = jnp.where(alive, ranks, jnp.uint32(0))
    k = jnp.minimum(keep, jnp.sum(alive, axis=1, dtype=jnp.int32, keepdims=True))

    # groups are many and small: each pass counts in all of them at once
    def bit(i: Array, t: Array) -> Array:
        trial = t | (jnp.uint32(1) << (jnp.uint32(31) - i.astype(jnp.uint32)))
        enough = jnp.sum(ranks >= trial, axis=1, dtype=jnp.int32, keepdims=True) >= k
        return jnp.where(enough, trial, t)

    start = varying_like(jnp.zeros(k.shape, jnp.uint32), (ranks, k))
    threshold = jax.lax.fori_loop(0, 32, bit, start)
    higher = jnp.logical_and(ranks > threshold, alive)
    equal = jnp.logical_and(ranks == threshold, alive)
    quota = k - jnp.sum(higher, axis=1, dtype=jnp.int32, keepdims=True)
    return higher | (equal & (jnp.cumsum(equal, axis=1, dtype=jnp.int32) <= quota))
