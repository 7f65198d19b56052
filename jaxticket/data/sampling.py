"""Selection of examples: splits, training batches and the batches of scores.

Training batches are a function of (key, step) alone, computed inside the training step. The order
of an epoch is a keyed permutation of 0 .. n-1 that is evaluated one index at a time, so no
permutation is ever drawn, stored or carried: sorting 60,000 random numbers takes as long as some 30
training steps of a small network on a CPU, evaluating 60 of these indices a few microseconds.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxticket import _check
from jaxticket.random import mix, permutation_words, permuted, stream
from jaxticket.typing import Key


def permutation(n: int, *, seed: int, stream: str) -> np.ndarray:
    """A random order of 0 .. n-1 that depends on `seed`, `stream` and n alone.

    It ranks raw output of the Philox counter generator. Numpy promises that this output never
    changes, which it does not promise of `Generator.permutation`.
    """
    seed = _check.seed("seed", seed)
    key = np.array([seed, zlib.crc32(stream.encode())], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def spread(count: int, most: int | None = None) -> np.ndarray:
    """At most so many of the numbers 0 .. count-1, evenly spread: some data are sorted by class.

    >>> spread(5, 2)
    array([0, 2])
    """
    if most is None or most >= count:
        return np.arange(count)
    return (np.arange(most, dtype=np.int64) * count) // most


def stratified(y: np.ndarray, count: int, *, seed: int, stream: str) -> np.ndarray:
    """Draw `count` random examples in which every class keeps its share, rounded down or up.

    Class c with n_c of the n examples gets floor(count * n_c / n); the rest of `count` goes one by
    one to the classes with the largest remainders, ties to the lower label.

    Returns:
      Their indices, sorted.
    """
    n = len(y)
    sizes = np.bincount(y).astype(np.int64)
    take, remainders = np.divmod(count * sizes, n)
    take[np.argsort(-remainders, kind="stable")[: count - take.sum()]] += 1
    order = permutation(n, seed=seed, stream=stream)
    chosen = [order[y[order] == label][:size] for label, size in enumerate(take)]
    return np.sort(np.concatenate(chosen))


def steps_per_epoch(examples: int, batch_size: int, last_batch: str = "wrap") -> int:
    """Count the steps of an epoch: rounded up for "wrap", down for "drop".

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
    """Give the examples of one training step.

    With "wrap" the batches run through the epochs without a gap: place p = step * batch_size + j
    holds example `perm_e(p mod n)` of epoch e = p div n, so each example is seen once in any n
    places that make an epoch. With "drop", epoch e = step div floor(n / batch_size), whose last
    n mod batch_size places are left out.

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
            f"bits; use last_batch='drop'"
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


def _of_epoch(words: Array, epoch: Array) -> Array:
    """Mix the epoch into the words, twice, so that neighboring epochs share nothing."""
    return mix(words + mix(epoch.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))


def score_indices(*, key: Key, examples: int, batches: int, size: int) -> Array:
    """Draw the examples that a score looks at, int32 [batch, size].

    Args:
      key: from the rng stream "prune".
      examples: number of training examples.
      batches: number of batches.
      size: number of examples in each.
    """
    words = permutation_words(stream(key, "batches"))
    return jax.vmap(lambda i: batch_indices(words, i, examples=examples, batch_size=size))(
        jnp.arange(batches, dtype=jnp.int32)
    )


def first_of_each_class(labels: np.ndarray, order: np.ndarray, per_class: int) -> np.ndarray:
    """Take the first `per_class` examples of each class in an order.

    Classes alternate, so that every run of as many examples as there are classes holds one of each.
    Each class needs at least `per_class` examples. Runs on the host: sorting the labels takes as
    long as many training steps of a small network.

    Args:
      labels: int [examples]; the classes are 0, 1, ...
      order: a permutation of the examples.
      per_class: examples of each class.

    Returns:
      int32 [per_class * classes].
    """
    counts = np.bincount(labels)
    by_class = order[np.argsort(labels[order], kind="stable")]
    first = np.cumsum(counts) - counts
    place = first[None] + np.arange(per_class)[:, None]
    return by_class[place.reshape(-1)].astype(np.int32)


def balanced_examples(
    labels: np.ndarray, keys: np.ndarray, *, per_class: int, rounds: int | None = None
) -> np.ndarray:
    """Draw the examples of a score with equally many of each class.

    Each draw takes the first of each class in the order whose first examples are `score_indices`.

    Args:
      labels: of the training split.
      keys: key data of each replica's root key; equal keys are computed once.
      per_class: examples of each class.
      rounds: number of rounds that each draw new examples; None for one draw for all rounds.

    Returns:
      int32 [replica, round, per_class * classes].
    """
    draw = _host_whole_order(len(labels), rounds)
    unique, place = np.unique(keys, axis=0, return_inverse=True)
    found = [
        [first_of_each_class(labels, order, per_class) for order in draw(key)] for key in unique
    ]
    return np.asarray(found, np.int32)[place.reshape(-1)]


@functools.lru_cache(maxsize=16)
def _host_whole_order(examples: int, rounds: int | None) -> Callable[..., np.ndarray]:
    """Compile (key data) -> all examples in each round's order, int32 [round, example]."""

    def one(data: Array) -> Array:
        key = stream(jax.random.wrap_key_data(data), "prune", 0)
        if rounds is None:
            return score_indices(key=key, examples=examples, batches=1, size=examples)
        return jax.lax.map(
            lambda i: score_indices(
                key=jax.random.fold_in(key, i), examples=examples, batches=1, size=examples
            )[0],
            jnp.arange(rounds, dtype=jnp.int32),
        )

    return on_host(one)


def on_host(fn: Callable[..., object]) -> Callable[..., Any]:
    """Compile a function of arrays for the CPU, with NumPy arrays as its results.

    A GPU would answer only after the chunk that it is busy with, and the next block could not be
    prepared in the meantime.
    """
    compiled = jax.jit(fn)

    def run(*args: object) -> object:
        try:
            device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # a process that may use the GPU alone
            device = None
        with jax.default_device(device):
            return jax.tree.map(np.asarray, compiled(*args))

    return run
