"""Masks: trees of bools shaped like the params.

Functions of one mask take a tree without a replica axis; `jax.vmap` them over replicas.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket.random import mix, permutation_words, permuted
from jaxticket.typing import Array, Key, Mask, Params

_BOOL = np.dtype("bool")


def prunable_leaves(params: Params) -> Any:
    """The default of what may be pruned: leaves of two or more dimensions (kernels), as python
    bools.
    """
    return jax.tree.map(lambda x: len(jnp.shape(x)) >= 2, params)


def require_bools(argument: str, mask: Mask, call: str = "") -> None:
    """Raises a ValueError that names the first leaf that is no array of bools."""
    for path, leaf in zip(_tree.paths(mask), jax.tree.leaves(mask), strict=True):
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        if kind != _BOOL:
            order = f"; the order of the arguments is {call}" if call else ""
            raise ValueError(
                f"`{argument}` must be a tree of bools, got {kind} at {path!r}{order}; compare "
                f"numbers with 0 (jax.tree.map(lambda x: x != 0, tree)) to make it one"
            )


def _chosen(mask: Mask, prunable: Any) -> Any:
    """Which leaves count, as a tree of python bools."""
    require_bools("mask", mask)
    if prunable is None:
        return prunable_leaves(mask)
    if callable(prunable):
        return prunable(mask)
    if _tree.paths(prunable) != _tree.paths(mask):
        raise ValueError(
            f"`prunable` must have a bool for each leaf of the mask ({', '.join(_tree.paths(mask))}"
            f"), got {', '.join(_tree.paths(prunable))}"
        )
    return prunable


def ones(params: Params) -> Mask:
    """The dense mask: all True.

    >>> ones({"w": jnp.zeros((2, 1))})["w"].tolist()
    [[True], [True]]
    """
    return jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), params)


def apply(mask: Mask, tree: Params) -> Params:
    """The tree with zeros where the mask is False (also where the tree holds nan or inf).

    Args:
      mask: tree of bools.
      tree: tree of arrays of the same shapes.

    Raises:
      ValueError: for a mask that is not of bools (the arguments may be swapped), or a tree of other
        paths or shapes.
    """
    require_bools("mask", mask, "masks.apply(mask, tree)")
    _tree.same_structure("tree", tree, mask, of="mask")
    # where and not multiplication: 0 * inf is nan
    return jax.tree.map(lambda m, x: jnp.where(m, x, jnp.zeros_like(x)), mask, tree)


def kept(mask: Mask, *, prunable: Any = None) -> Array:
    """Number of prunable entries kept, int32; `prunable` as for `density`."""
    prunable = _chosen(mask, prunable)
    counts = jax.tree.map(
        lambda m, p: jnp.sum(m, dtype=jnp.int32) if p else jnp.int32(0), mask, prunable
    )
    return jax.tree.reduce(jnp.add, counts, jnp.int32(0))


def prunable_sizes(tree: Any, *, prunable: Any = None) -> list[int]:
    """Number of entries of each prunable leaf, in the order of `jax.tree.leaves`."""
    if prunable is None or callable(prunable):
        prunable = (prunable or prunable_leaves)(tree)
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(prunable), strict=True)
    return [int(np.prod(jnp.shape(x))) for x, p in pairs if p]


def prunable_size(tree: Any, *, prunable: Any = None) -> int:
    """P, the number of prunable entries of a mask or params tree."""
    return sum(prunable_sizes(tree, prunable=prunable))


def density(mask: Mask, *, prunable: Any = None) -> Array:
    """Share of prunable weights kept, in [0, 1].

    Args:
      mask: tree of bools.
      prunable: which leaves count: a tree of python bools, or a function that gives it, such as
        `net.prunable`. None counts all leaves of two or more dimensions, which are those of a
        network's own choice as long as all its kernels are prunable and nothing else has two
        dimensions (embeddings, for example, have).

    >>> float(density({"w": jnp.array([[True, False]]), "b": jnp.array([True])}))
    0.5
    """
    prunable = _chosen(mask, prunable)
    alive = kept(mask, prunable=prunable).astype(jnp.float32)
    return alive / jnp.float32(prunable_size(mask, prunable=prunable))


def layer_density(mask: Mask, *, prunable: Any = None) -> dict[str, Array]:
    """Density of each prunable leaf, by path; `prunable` as for `density`."""
    prunable = _chosen(mask, prunable)
    leaves = zip(_tree.paths(mask), jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True)
    return {path: jnp.mean(m, dtype=jnp.float32) for path, m, p in leaves if p}


def empty_layers(mask: Mask, prunable: Any) -> dict[str, Any]:
    """The prunable leaves without any weights in some replica, of host masks stacked over
    [replica]: path -> bool [replica].
    """
    leaves = zip(_tree.paths(mask), jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True)
    found = {path: ~np.asarray(m).reshape(len(m), -1).any(axis=1) for path, m, p in leaves if p}
    return {path: gone for path, gone in found.items() if gone.any()}


def _shuffled(flat: Array, words: Array) -> Array:
    places = jax.lax.iota(jnp.uint32, flat.size)
    # masks of saved tickets are NumPy arrays, which a traced index cannot reach into
    return jnp.asarray(flat)[permuted(places, words[None], flat.size).astype(jnp.int32)]


def shuffle(mask: Mask, *, key: Key, prunable: Any = None) -> Mask:
    """Permutes the entries within each prunable leaf: the same density in every layer, random
    positions.

    Reference: Frankle's thesis, section 3.1.4 (layerwise random pruning).
    """
    prunable = _chosen(mask, prunable)
    leaves, tree = jax.tree.flatten(mask)
    words = permutation_words(key)
    # words per leaf by its path, so that a layer's permutation does not depend on which other
    # layers there are
    shuffled = [
        _shuffled(m.reshape(-1), mix(words ^ jnp.uint32(zlib.crc32(path.encode())))).reshape(
            m.shape
        )
        if p
        else m
        for path, m, p in zip(_tree.paths(mask), leaves, jax.tree.leaves(prunable), strict=True)
    ]
    return jax.tree.unflatten(tree, shuffled)


def permute(mask: Mask, *, key: Key, prunable: Any = None) -> Mask:
    """Permutes the entries of all prunable leaves together: only the total count stays.

    Reference: Frankle's thesis, section 3.1.4 (global random pruning).
    """
    prunable = _chosen(mask, prunable)
    leaves, tree = jax.tree.flatten(mask)
    chosen = jax.tree.leaves(prunable)
    flat = jnp.concatenate([m.reshape(-1) for m, p in zip(leaves, chosen, strict=True) if p])
    flat = _shuffled(flat, permutation_words(key))
    result, start = [], 0
    for m, p in zip(leaves, chosen, strict=True):
        result.append(flat[start : start + m.size].reshape(m.shape) if p else m)
        start += m.size if p else 0
    return jax.tree.unflatten(tree, result)


def _alike(name: str, mask: Mask, other_name: str, other: Mask) -> None:
    """Raises unless both are masks of one tree."""
    require_bools(name, mask)
    require_bools(other_name, other)
    _tree.same_structure(name, mask, other, of=f"`{other_name}`")


def overlap(a: Mask, b: Mask, *, prunable: Any = None) -> Array:
    """Intersection over union of what two masks keep, in [0, 1]; 1 for two empty masks."""
    _alike("a", a, "b", b)
    both = jax.tree.map(jnp.logical_and, a, b)
    either = jax.tree.map(jnp.logical_or, a, b)
    union = kept(either, prunable=prunable)
    shared = kept(both, prunable=prunable).astype(jnp.float32)
    ratio = shared / jnp.maximum(union, 1).astype(jnp.float32)
    return jnp.where(union == 0, jnp.float32(1), ratio)


def nested(inner: Mask, outer: Mask) -> Array:
    """Whether everything that `inner` keeps is kept by `outer`, a bool scalar."""
    _alike("inner", inner, "outer", outer)
    flags = jax.tree.map(lambda i, o: jnp.all(jnp.logical_or(~i, o)), inner, outer)
    return jnp.all(jnp.stack(jax.tree.leaves(flags)))


def require_nested(inner: Mask, outer: Mask) -> None:
    """Raises a ValueError that names the layers where `inner` keeps what `outer` has pruned."""
    _alike("inner", inner, "outer", outer)
    leaves = zip(_tree.paths(inner), jax.tree.leaves(inner), jax.tree.leaves(outer), strict=True)
    grown = [path for path, i, o in leaves if np.any(np.asarray(i) & ~np.asarray(o))]
    if grown:
        raise ValueError(
            f"`inner` keeps weights that `outer` has pruned, in {grown[:4]}; pruned weights must "
            f"not return: "
            f"intersect the masks first"
        )


def pack(mask: Mask) -> Mask:
    """Each leaf as bits, eight to a byte, on the host: uint8 arrays of shape [ceil(size / 8)]."""
    require_bools("mask", mask)
    return jax.tree.map(lambda m: np.packbits(np.asarray(m).reshape(-1)), mask)


def unpack(bits: Mask, like: Any) -> Mask:
    """The inverse of `pack`; `like` is a tree of arrays (or shape structs) with the shapes of the
    mask.
    """

    def one(packed: np.ndarray, x: Any) -> np.ndarray:
        count = int(np.prod(x.shape))
        if packed.size != (count + 7) // 8:
            raise ValueError(
                f"`bits` holds {packed.size} bytes where shape {tuple(x.shape)} needs "
                f"{(count + 7) // 8}; "
                f"pass the tree it was packed from as `like`"
            )
        return np.unpackbits(packed, count=count).astype(bool).reshape(x.shape)

    return jax.tree.map(one, bits, like)
