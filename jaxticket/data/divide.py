"""Which examples go where: seeded permutations and class-balanced choices."""

from __future__ import annotations

import zlib

import numpy as np

from jaxticket import _check


def permutation(n: int, *, seed: int, stream: str) -> np.ndarray:
    """A random order of 0 .. n-1 that depends on `seed`, `stream` and n alone.

    It ranks raw output of the Philox counter generator. Numpy promises that this output never
    changes, which it does not promise of `Generator.permutation`.
    """
    seed = _check.seed("seed", seed)
    key = np.array([seed, zlib.crc32(stream.encode())], dtype=np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def balanced(y: np.ndarray, count: int, *, seed: int, stream: str) -> np.ndarray:
    """Sorted indices of `count` random examples, in every class its share rounded down or up.

    Class c with n_c of the n examples gets floor(count * n_c / n); what is left of `count` goes
    one by one to the classes with the largest remainders, ties to the lower label.
    """
    n = len(y)
    sizes = np.bincount(y).astype(np.int64)
    take, remainders = np.divmod(count * sizes, n)
    take[np.argsort(-remainders, kind="stable")[: count - take.sum()]] += 1
    order = permutation(n, seed=seed, stream=stream)
    chosen = [order[y[order] == label][:size] for label, size in enumerate(take)]
    return np.sort(np.concatenate(chosen))
