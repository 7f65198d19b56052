"""Random streams: one root key per seed, named streams below it.

A stream is a pure function of (seed, name, numbers): nothing depends on the order of calls, so a run that is
resumed, or trained beside others, draws what it would have drawn alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax

from jaxticket.types import Key


def stream(key: Key, name: str, *numbers: int | jax.Array) -> Key:
    """The stream `name` below `key`: `fold_in(key, crc32(name))`, then each number folded in.

    Args:
      key: a typed key.
      name: such as "init", "order", "augment", "prune", "noise".
      *numbers: epoch, step, level ...; may be traced.

    >>> a = stream(jax.random.key(0), "init")
    >>> b = stream(jax.random.key(0), "order")
    >>> bool(jax.random.bits(a) == jax.random.bits(b))
    False
    """
    # crc32 and not hash(): python salts the hash of strings in every process
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def root_keys(seeds: Sequence[int]) -> Key:
    """One root key per seed, shape [replica]."""
    return jax.numpy.stack([jax.random.key(seed) for seed in seeds])
