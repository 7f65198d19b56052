"""Which examples a batch holds: a function of (key, step) alone, computed inside the training step.

The order of an epoch is a keyed permutation of 0 .. n-1 that is evaluated one index at a time, so no permutation is
ever drawn, stored or carried: sorting 60,000 random numbers takes as long as some 30 training steps of a small
network on a CPU, evaluating 60 of these indices a few microseconds.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxticket.rng import stream
from jaxticket.types import Array, Key

_ROUNDS = 8


def _mix(x: Array) -> Array:
    """A 32-bit finalizer: every bit of the input changes every bit of the output with probability near 1/2."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def permuted(position: Array, round_keys: Array, n: int) -> Array:
    """Where a keyed permutation of 0 .. n-1 sends each position.

    A Feistel network over pairs (left, right) in [0, a) x [0, b) with a * b >= n:
    `(left, right) -> (right, (left + F(right, key)) mod a)`, the sizes changing places in every round. It is a
    bijection of [0, a * b); positions sent to n or above walk on until they fall below n, which leaves a bijection
    of [0, n).

    Args:
      position: uint32, any shape, entries in [0, n).
      round_keys: uint32 [..., 8], broadcast against `position` without the last axis.
      n: number of examples.

    Returns:
      uint32 indices in [0, n), the shape of `position`.

    Reference: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), methods 2 and 3.
    """
    if n == 1:
        return jnp.zeros_like(position)
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)

    def once(x: Array) -> Array:
        left, right = x // jnp.uint32(b), x % jnp.uint32(b)
        sizes = (a, b)
        for i in range(_ROUNDS):
            mixed = _mix(right + round_keys[..., i])
            left, right = right, (left + mixed % jnp.uint32(sizes[0])) % jnp.uint32(sizes[0])
            sizes = (sizes[1], sizes[0])
        # an even number of rounds: the sizes are back in their places
        return left * jnp.uint32(b) + right

    if a * b == n:
        return once(position)
    return jax.lax.while_loop(
        lambda x: jnp.any(x >= n), lambda x: jnp.where(x >= n, once(x), x), once(position)
    )


def steps_per_epoch(examples: int, batch_size: int, last_batch: str = "wrap") -> int:
    """Steps that make an epoch: rounded up for "wrap", down for "drop".

    >>> steps_per_epoch(50_000, 128), steps_per_epoch(50_000, 128, "drop")
    (391, 390)
    """
    return examples // batch_size if last_batch == "drop" else -(-examples // batch_size)


def batch_indices(
    key: Key,
    step: Array,
    *,
    examples: int,
    batch_size: int,
    last_batch: str = "wrap",
    part: tuple[Array | int, int] = (0, 1),
) -> Array:
    """The examples of one training step.

    With "wrap" the batches run through the epochs without a gap: place p = step * batch_size + j holds example
    `perm_e(p mod n)` of epoch e = p div n, so each example is seen once in any n places that make an epoch.
    With "drop", epoch e = step div floor(n / batch_size) starts anew and its last n mod batch_size places are left out.

    Args:
      key: the replica's order key.
      step: int32 scalar, the absolute step.
      examples: n.
      batch_size: examples of the whole batch.
      last_batch: "wrap" or "drop".
      part: (i, parts): only the i-th of so many equal parts of the batch, for data parallelism.

    Returns:
      int32 [batch_size / parts].
    """
    index, parts = part
    local = batch_size // parts
    offset = jnp.arange(local, dtype=jnp.uint32) + jnp.asarray(index).astype(jnp.uint32) * jnp.uint32(local)
    at = step.astype(jnp.uint32)
    if last_batch == "drop" or examples % batch_size == 0:
        per_epoch = examples // batch_size
        epoch = at // jnp.uint32(per_epoch)
        position = (at % jnp.uint32(per_epoch)) * jnp.uint32(batch_size) + offset
        round_keys = jax.random.bits(stream(key, "epoch", epoch), (_ROUNDS,), jnp.uint32)
        return permuted(position, round_keys[None], examples).astype(jnp.int32)
    # (step * batch_size) div and mod n without the product, which passes 2**32 in long runs
    whole = math.gcd(batch_size, examples)
    period = examples // whole  # steps after which epochs and batches begin together again
    epochs_per_period = batch_size // whole
    if period * batch_size >= 2**32:
        raise ValueError(
            f"`last_batch`='wrap' with {examples} examples in batches of {batch_size} passes 32 bits; "
            f"use last_batch='drop'"
        )
    start = (at % jnp.uint32(period)) * jnp.uint32(batch_size)
    first = (at // jnp.uint32(period)) * jnp.uint32(epochs_per_period) + start // jnp.uint32(examples)
    place = start % jnp.uint32(examples) + offset
    # a batch reaches over at most one boundary, since it is no larger than the data
    later = place >= jnp.uint32(examples)
    keys = [jax.random.bits(stream(key, "epoch", first + jnp.uint32(e)), (_ROUNDS,), jnp.uint32) for e in (0, 1)]
    round_keys = jnp.where(later[:, None], keys[1][None], keys[0][None])
    position = jnp.where(later, place - jnp.uint32(examples), place)
    return permuted(position, round_keys, examples).astype(jnp.int32)
