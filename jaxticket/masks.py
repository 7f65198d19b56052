"""Masks: trees of bools shaped like the params, with None at leaves that cannot be pruned.

What can be pruned is said by the network, `net.mask()` is its dense mask, and every mask that comes
from it goes on saying it: None stands at biases, normalization and whatever else is left out, whose
weights are all kept. A tree with bools at every leaf, as in version 0.1, does not say it. Then the
leaves of two or more dimensions count, or all of them where there are none of these; the others
stay as they are.

Functions of one mask take a tree without a replica axis; `jax.vmap` them over replicas.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket.random import mix, permutation_words, permuted
from jaxticket.typing import AnyArray, Array, Key, Mask, Params, Prunable

_BOOL = np.dtype("bool")


def map_with(
    function: Callable[..., object],
    mask: Mask,
    *trees: object,
    other: Callable[..., object] = lambda *leaves: None,
) -> Params:
    """Map over the leaves of a mask and of trees like it.

    Args:
      function: `function(leaf of the mask, *leaves of the trees)`.
      mask: a mask, or another tree with None where nothing can be pruned.
      *trees: of the same structure, with anything in the place of None.
      other: `other(*leaves of the trees)` where the mask has None; None is left there by default.

    >>> map_with(lambda m, w: w * m, {"w": 2, "b": None}, {"w": 3, "b": 4}, other=lambda w: w)
    {'b': 4, 'w': 6}
    """

    def one(leaf: object, *leaves: object) -> object:
        return other(*leaves) if leaf is None else function(leaf, *leaves)

    return jax.tree.map(one, mask, *trees, is_leaf=_tree.is_none)


def items(mask: Mask, *trees: object) -> list[tuple[str, *tuple[AnyArray, ...]]]:
    """List (path, leaf of the mask, *leaves of the trees) of each leaf that can be pruned.

    They come in the order of `jax.tree.leaves`. Args: as of `map_with`.
    """
    leaves, tree = jax.tree.flatten(mask, is_leaf=_tree.is_none)
    rows = zip(
        _tree.paths(mask, is_leaf=_tree.is_none),
        leaves,
        *map(tree.flatten_up_to, trees),
        strict=True,
    )
    return [row for row in rows if row[1] is not None]


def prunable_leaves(params: Params) -> Prunable:
    """Mark the leaves of two or more dimensions (kernels), which can be pruned by default."""
    return jax.tree.map(lambda x: len(jnp.shape(x)) >= 2, params)


def require_bools(argument: str, mask: Mask, call: str = "") -> None:
    """Raise a ValueError that names the first leaf that is no array of bools."""
    for path, leaf in items(mask):
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        if kind != _BOOL:
            order = f"; the order of the arguments is {call}" if call else ""
            raise ValueError(
                f"`{argument}` must be a tree of bools, got {kind} at {path!r}{order}; compare "
                f"numbers with 0 (jax.tree.map(lambda x: x != 0, tree)) to make it one"
            )


def require_like(argument: str, mask: Mask, tree: Params, *, of: str = "params") -> None:
    """Raise unless a mask has the paths, containers and shapes of a tree.

    Args:
      argument: what the message calls the mask.
      mask: tree of bools; None stands for any leaf.
      tree: of arrays or shapes.
      of: what the message calls the tree.

    Raises:
      ValueError: that names the first difference.
    """
    _tree.same_structure(argument, filled(mask, tree), tree, of=of)


def filled(mask: Mask, tree: Params) -> Mask:
    """Give the mask with the leaves of a tree in the place of None, to compare structures."""
    leaves, structure = jax.tree.flatten(mask, is_leaf=_tree.is_none)
    if not any(map(_tree.is_none, leaves)):
        return mask
    there = _tree.leaves(tree)
    new = [
        there.get(path) if m is None else m
        for path, m in _tree.leaves(mask, is_leaf=_tree.is_none).items()
    ]
    return jax.tree.unflatten(structure, new)


def known(mask: Mask) -> Mask:
    """Give a mask with None at the leaves that cannot be pruned.

    Args:
      mask: tree of bools; what has None already says it, of others the leaves of two or more
        dimensions count, or all of them where there are none of these.
    """
    counts = iter(_tree.counted(mask))
    return jax.tree.map(lambda m: m if next(counts) else None, mask, is_leaf=_tree.is_none)


def conform(mask: Mask, dense: Mask, *, called: str) -> Mask:
    """Give a mask, on the host, with None exactly where the dense mask of its network has it.

    A leaf that cannot be pruned may be None or all True. One that can be pruned may be None too,
    and is all True then.

    Args:
      mask: tree of bools of the network's structure.
      dense: as `Network.mask` gives it, with the same leading axes.
      called: what the message calls the mask, such as "`ticket`".

    Raises:
      ValueError: for a mask that prunes what cannot be pruned, naming the leaves.
    """
    leaves, tree = jax.tree.flatten(mask, is_leaf=_tree.is_none)
    pairs = list(zip(leaves, tree.flatten_up_to(dense), strict=True))
    odd = [
        path
        for path, (m, d) in zip(_tree.paths(mask, is_leaf=_tree.is_none), pairs, strict=True)
        if d is None and m is not None and not np.all(m)
    ]
    if odd:
        raise ValueError(
            f"{called} prunes {', '.join(odd[:4])}, which cannot be pruned here; let the mask "
            f"keep all of it, or say with `prunable` of the network what can be pruned"
        )
    found = [d if d is None or m is None else m for m, d in pairs]
    return jax.tree.unflatten(tree, found)


def alike(given: Sequence[Mask]) -> list[Mask]:
    """Give host masks [replica, ...] of one network None at the same leaves.

    Where some of them have bools, the others become all True.

    >>> [m["b"].tolist() for m in alike([{"b": None, "w": np.ones((1, 2))}, {"b": np.zeros((1, 1)),
    ...     "w": np.ones((1, 2))}])]
    [[[True]], [[0.0]]]
    """
    rows = [jax.tree.leaves(mask, is_leaf=_tree.is_none) for mask in given]
    shapes = [
        next((np.shape(m)[1:] for m in same if m is not None), None)
        for same in zip(*rows, strict=True)
    ]
    found = []
    for mask, leaves in zip(given, rows, strict=True):
        count = len(jax.tree.leaves(mask)[0])
        same = [
            np.ones((count, *shape), bool) if m is None and shape is not None else m
            for m, shape in zip(leaves, shapes, strict=True)
        ]
        found.append(jax.tree.unflatten(jax.tree.structure(mask, is_leaf=_tree.is_none), same))
    return found


def ones(params: Params, *, prunable: Prunable | None = None) -> Mask:
    """Give the dense mask: all True, None at leaves that cannot be pruned.

    Args:
      params: the weights.
      prunable: tree of python bools, as `net.prunable(params)` gives it; None for leaves of two or
        more dimensions.

    >>> ones({"w": jnp.zeros((2, 1)), "b": jnp.zeros(1)})
    {'b': None, 'w': Array([[ True],
           [ True]], dtype=bool)}
    """
    dense = jax.tree.map(lambda x: jnp.ones(jnp.shape(x), bool), params)
    if prunable is None:
        return known(dense)
    return jax.tree.map(lambda m, p: m if p else None, dense, prunable)


def apply(mask: Mask, tree: Params) -> Params:
    """Give the tree with zeros where the mask is False (also where the tree holds nan or inf).

    Args:
      mask: tree of bools; leaves where it has None stay as they are.
      tree: tree of arrays of the same shapes.

    Raises:
      ValueError: for a mask that is not of bools (the arguments may be swapped), or a tree of other
        paths or shapes.
    """
    require_bools("mask", mask, "masks.apply(mask, tree)")
    _tree.same_structure("tree", tree, filled(mask, tree), of="mask")
    # where and not multiplication: 0 * inf is nan
    return map_with(lambda m, x: jnp.where(m, x, jnp.zeros_like(x)), mask, tree, other=lambda x: x)


def host_apply(mask: Mask, tree: Params) -> Params:
    """`apply` in NumPy, without its checks."""
    return map_with(lambda m, x: np.where(m, x, np.zeros_like(x)), mask, tree, other=lambda x: x)


def _counted(mask: Mask) -> Mask:
    """A mask of bools, with None at the leaves that do not count."""
    require_bools("mask", mask)
    return known(mask)


def kept(mask: Mask) -> Array:
    """Count the prunable entries that a mask keeps, int32."""
    counts = [jnp.sum(m, dtype=jnp.int32) for m in jax.tree.leaves(_counted(mask))]
    return sum(counts, start=jnp.int32(0))


def prunable_sizes(tree: Mask | Params) -> list[int]:
    """Count the entries of each prunable leaf of a mask, of params or of shapes."""
    return [int(np.prod(jnp.shape(m))) for _, m in items(known(tree))]


def prunable_size(tree: Mask | Params) -> int:
    """Count the entries of a mask that can be pruned: P."""
    return sum(prunable_sizes(tree))


def density(mask: Mask) -> Array:
    """Share of prunable weights kept, in [0, 1].

    Args:
      mask: tree of bools, None at leaves that cannot be pruned. Without any None, the leaves of two
        or more dimensions count.

    >>> float(density({"w": jnp.array([[True, False]]), "b": None}))
    0.5
    >>> float(density({"w": jnp.array([[True, False]]), "b": jnp.array([True])}))
    0.5
    """
    mask = _counted(mask)
    return kept(mask).astype(jnp.float32) / jnp.float32(prunable_size(mask))


def layer_density(mask: Mask) -> dict[str, Array]:
    """Density of each leaf that can be pruned, by path."""
    return {path: jnp.mean(m, dtype=jnp.float32) for path, m in items(_counted(mask))}


def empty_layers(mask: Mask) -> dict[str, np.ndarray]:
    """Find the prunable leaves that keep nothing in some replica: path -> bool [replica].

    Args:
      mask: host arrays, stacked over [replica].
    """
    found: dict[str, np.ndarray] = {}
    for path, m in items(known(mask)):
        gone = np.asarray(~np.reshape(m, (len(m), -1)).any(axis=1))
        if gone.any():
            found[path] = gone
    return found


def _as_given(leaves: list[Array], counted: Mask, mask: Mask) -> Mask:
    """The mask with other leaves in the place of those that count."""
    new = iter(leaves)
    return map_with(lambda _, m: next(new), counted, mask, other=lambda m: m)


def _shuffled(flat: AnyArray, words: Array) -> Array:
    places = jax.lax.iota(jnp.uint32, flat.size)
    # masks of saved tickets are NumPy arrays, which a traced index cannot reach into
    return jnp.asarray(flat)[permuted(places, words[None], flat.size).astype(jnp.int32)]


def shuffle(mask: Mask, *, key: Key) -> Mask:
    """Permute the entries within each prunable leaf.

    Every layer keeps its density, at random positions.

    Reference: Frankle's thesis, section 3.1.4 (layerwise random pruning).
    """
    counted = _counted(mask)
    words = permutation_words(key)
    # words per leaf by its path, so that a layer's permutation does not depend on which other
    # layers there are
    shuffled = [
        _shuffled(m.reshape(-1), mix(words ^ jnp.uint32(zlib.crc32(path.encode())))).reshape(
            m.shape
        )
        for path, m in items(counted)
    ]
    return _as_given(shuffled, counted, mask)


def permute(mask: Mask, *, key: Key) -> Mask:
    """Permute the entries of all prunable leaves together, so that only the total count stays.

    Reference: Frankle's thesis, section 3.1.4 (global random pruning).
    """
    counted = _counted(mask)
    leaves = jax.tree.leaves(counted)
    flat = jnp.concatenate([m.reshape(-1) for m in leaves])
    flat = _shuffled(flat, permutation_words(key))
    ends = np.cumsum([m.size for m in leaves])[:-1]
    permuted_leaves = [
        part.reshape(m.shape) for part, m in zip(jnp.split(flat, ends), leaves, strict=True)
    ]
    return _as_given(permuted_leaves, counted, mask)


def _alike(name: str, mask: Mask, other_name: str, other: Mask) -> tuple[Mask, Mask]:
    """Two masks of one tree; where one of them says what can be pruned, both say it."""
    require_bools(name, mask)
    require_bools(other_name, other)
    if any(m is None for one in (mask, other) for m in jax.tree.leaves(one, is_leaf=_tree.is_none)):
        mask, other = known(mask), known(other)
    _tree.same_structure(name, mask, other, of=f"`{other_name}`")
    return mask, other


def overlap(a: Mask, b: Mask) -> Array:
    """Intersection over union of what two masks keep, in [0, 1]; 1 for two empty masks."""
    a, b = _alike("a", a, "b", b)
    both = jax.tree.map(jnp.logical_and, a, b)
    either = jax.tree.map(jnp.logical_or, a, b)
    union = kept(either)
    shared = kept(both).astype(jnp.float32)
    ratio = shared / jnp.maximum(union, 1).astype(jnp.float32)
    return jnp.where(union == 0, jnp.float32(1), ratio)


def nested(inner: Mask, outer: Mask) -> Array:
    """Tell whether everything that `inner` keeps is kept by `outer`, a bool scalar."""
    inner, outer = _alike("inner", inner, "outer", outer)
    flags = jax.tree.map(lambda i, o: jnp.all(jnp.logical_or(~i, o)), inner, outer)
    return jnp.all(jnp.stack(jax.tree.leaves(flags)))


def require_nested(inner: Mask, outer: Mask) -> None:
    """Raise a ValueError that names the layers where `inner` keeps what `outer` has pruned."""
    inner, outer = _alike("inner", inner, "outer", outer)
    grown = [p for p, i, o in items(inner, outer) if np.any(np.asarray(i) & ~np.asarray(o))]
    if grown:
        raise ValueError(
            f"`inner` keeps weights that `outer` has pruned, in {grown[:4]}; pruned weights must "
            f"not return: intersect the masks first"
        )


def pack(mask: Mask) -> Mask:
    """Give each leaf as bits on the host, eight to a byte: uint8 [ceil(size / 8)]."""
    require_bools("mask", mask)
    return jax.tree.map(lambda m: np.packbits(np.asarray(m).reshape(-1)), mask)


def unpack(bits: Mask, like: Params) -> Mask:
    """Invert `pack`.

    Args:
      bits: what `pack` gave.
      like: a tree of arrays (or shape structs) with the shapes of the mask.
    """

    def one(packed: np.ndarray, x: jax.ShapeDtypeStruct) -> np.ndarray:
        count = int(np.prod(x.shape))
        if packed.size != (count + 7) // 8:
            raise ValueError(
                f"`bits` holds {packed.size} bytes where shape {tuple(x.shape)} needs "
                f"{(count + 7) // 8}; pass the tree it was packed from as `like`"
            )
        return np.unpackbits(packed, count=count).astype(bool).reshape(x.shape)

    return map_with(one, bits, like)


__all__ = [
    "apply",
    "density",
    "empty_layers",
    "items",
    "kept",
    "layer_density",
    "map_with",
    "nested",
    "ones",
    "overlap",
    "pack",
    "permute",
    "prunable_leaves",
    "prunable_size",
    "prunable_sizes",
    "shuffle",
    "unpack",
]


def __dir__() -> list[str]:
    return __all__
