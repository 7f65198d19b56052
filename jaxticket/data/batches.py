"""Which examples a batch holds: a function of (key, step) alone, computed inside the training step.

The order of an epoch is a keyed permutation of 0 .. n-1 that is evaluated one index at a time, so
no permutation is
ever drawn, stored or carried: sorting 60,000 random numbers takes as long as some 30 training steps
of a small network on a CPU, evaluating 60 of these indices a few microseconds.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from jaxticket.random import mix, permuted
from jaxticket.typing import Array


def steps_per_epoch(examples: int, batch_size: int, last_batch: str = "wrap") -> int:
    """Steps that make an epoch: rounded up for "wrap", down for "drop".

    >>> steps_per_epoch(50_000, 128), steps_per_epoch(50_000, 128, "drop")
    (391, 390)
    """
    return examples // batch_size if last_batch == "drop" else -(-examples // batch_size)


def batch_indices(
    words: Array,
    step: Array,
    *,
    examples: int,
    batch_size: int,
    last_batch: str = "wrap",
    part: tuple[Array | int, int] = (0, 1),
) -> Array:
    """The examples of one training step.

    With "wrap" the batches run through the epochs without a gap: place p = step * batch_size + j
    holds example `perm_e(p mod n)` of epoch e = p div n, so each example is seen once in any n
    places that make an epoch. With "drop", epoch e = step div floor(n / batch_size) starts anew and
    its last n mod batch_size places are left out.

    Args:
      words: the order's `random.permutation_words`, drawn once; each epoch mixes its number into
        them.
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
    offset = jnp.arange(local, dtype=jnp.uint32) + jnp.asarray(index).astype(
        jnp.uint32
    ) * jnp.uint32(local)
    at = step.astype(jnp.uint32)
    if last_batch == "drop" or examples % batch_size == 0:
        per_epoch = examples // batch_size
        position = (at % jnp.uint32(per_epoch)) * jnp.uint32(batch_size) + offset
        return permuted(
            position, _of_epoch(words, at // jnp.uint32(per_epoch))[None], examples
        ).astype(jnp.int32)
    # (step * batch_size) div and mod n without the product, which passes 2**32 in long runs
    whole = math.gcd(batch_size, examples)
    period = examples // whole  # steps after which epochs and batches begin together again
    if period * batch_size >= 2**32:
        raise ValueError(
            f"`last_batch`='wrap' with {examples} examples in batches of {batch_size} passes 32 "
            f"bits; "
            f"use last_batch='drop'"
        )
    start = (at % jnp.uint32(period)) * jnp.uint32(batch_size)
    first = (at // jnp.uint32(period)) * jnp.uint32(batch_size // whole) + start // jnp.uint32(
        examples
    )
    place = start % jnp.uint32(examples) + offset
    # a batch reaches over at most one boundary, since it is no larger than the data
    later = place >= jnp.uint32(examples)
    of_place = jnp.where(
        later[:, None], _of_epoch(words, first + 1)[None], _of_epoch(words, first)[None]
    )
    position = jnp.where(later, place - jnp.uint32(examples), place)
    return permuted(position, of_place, examples).astype(jnp.int32)


def balanced(labels: np.ndarray, order: np.ndarray, per_class: int) -> np.ndarray:
    """So many examples of each class, the first of each in an order: int32 [per_class * classes].

    They come class by class in turn, so that every run of as many examples as there are classes
    holds one of each. Each class needs at least `per_class` examples. On the host: sorting labels
    takes as long as many steps of a small network.

    Args:
      labels: int [examples]; the classes are 0, 1, ...
      order: a permutation of the examples.
      per_class: examples of each class.
    """
    counts = np.bincount(labels)
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.cumsum(counts) - counts
    place = first[None] + np.arange(per_class)[:, None]
    return by_class[place.reshape(-1)].astype(np.int32)


def _of_epoch(words: Array, epoch: Array) -> Array:
    """Words of one epoch's permutation; two rounds of mixing, so that neighbouring epochs share
    nothing.
    """
    return mix(words + mix(epoch.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))
