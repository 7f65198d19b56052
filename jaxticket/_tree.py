"""Trees of arrays: paths, sizes, inner products, comparison of structures."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def paths(tree: object, *, is_leaf: Callable[[object], bool] | None = None) -> list[str]:
    """Give the path of every leaf, joined by "/", in the order of `jax.tree.leaves`.

    Args:
      tree: any tree.
      is_leaf: what counts as a leaf too, as of `jax.tree.leaves`.

    >>> paths({"dense_0": {"kernel": 1, "bias": 2}})
    ['dense_0/bias', 'dense_0/kernel']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf)
    ]


def is_none(leaf: object) -> bool:
    """Tell whether a leaf is None, to map over it too (`is_leaf`)."""
    return leaf is None


def counted(mask: object) -> list[bool]:
    """Tell which leaves of a mask, with None counted as a leaf, can be pruned.

    They are those that are not None. Without any None they are the leaves of two or more
    dimensions, or all leaves where no leaf has two.
    """
    leaves = jax.tree.leaves(mask, is_leaf=is_none)
    if any(map(is_none, leaves)):
        return [m is not None for m in leaves]
    kernels = [len(jnp.shape(m)) >= 2 for m in leaves]
    return kernels if any(kernels) else [True] * len(leaves)


def leaves(
    tree: object, under: str = "", *, is_leaf: Callable[[object], bool] | None = None
) -> dict[str, Any]:
    """Give the leaves (arrays, shapes, bools, ...) by their paths, below a name if one is given.

    Args:
      tree: any tree.
      under: the name.
      is_leaf: what counts as a leaf too, as of `jax.tree.leaves`.

    >>> leaves({"dense_0": {"kernel": 1, "bias": 2}})
    {'dense_0/bias': 2, 'dense_0/kernel': 1}
    """
    begin = f"{under}/" if under else ""
    names = [begin + path for path in paths(tree, is_leaf=is_leaf)]
    return dict(zip(names, jax.tree.leaves(tree, is_leaf), strict=True))


def unflatten(leaves: Mapping[str, object], like: T, under: str = "") -> T:
    """Invert `leaves`: build a tree of the structure of `like` from leaves by their paths."""
    begin = f"{under}/" if under else ""
    return jax.tree.unflatten(
        jax.tree.structure(like), [leaves[begin + path] for path in paths(like)]
    )


def nested(
    leaves: Mapping[str, Any], keys: Mapping[str, Sequence[str | int]] | None = None
) -> dict[Any, Any]:
    """Make nested dicts of leaves by the words of their paths.

    Args:
      leaves: the leaves.
      keys: those of paths that are not the texts between their slashes.

    Raises:
      ValueError: where a path lies below another.

    >>> nested({"dense_0/kernel": 1, "dense_0/bias": 2})
    {'dense_0': {'kernel': 1, 'bias': 2}}
    """
    result: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = (keys or {}).get(path, path.split("/"))
        at = result
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                break
        if not isinstance(at, dict) or last in at:
            raise ValueError(f"{path!r} lies below or above another leaf")
        at[last] = leaf
    return result


def natural(path: str) -> list[tuple[bool, int, str]]:
    """Give a sort key that orders numbers in names by their size.

    >>> sorted(["block_10", "block_2"], key=natural)
    ['block_2', 'block_10']
    """
    pieces = re.findall(r"\d+|\D+", path)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a path matches a pattern, or lies below a layer of that name.

    >>> matches("dense_2/kernel", ["dense_2"]), matches("dense_2/kernel", ["*/bias"])
    (True, False)
    """
    return any(fnmatch.fnmatchcase(path, p) or path.startswith(f"{p}/") for p in patterns)


def rows(tree: T, index: int | Sequence[int] | np.ndarray) -> T:
    """Take entries of the leading axis of every leaf, on the host.

    >>> rows({"bias": np.asarray([3, 4, 5])}, [2, 0])["bias"].tolist()
    [5, 3]
    """
    places = index if isinstance(index, int) else np.asarray(index)
    return jax.tree.map(lambda x: np.asarray(x)[places], tree)


def size(tree: object) -> int:
    """Count the entries of all leaves."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def digest(*trees: object) -> str:
    """Give the sha256 (hex) of the paths, types, shapes and bytes of all leaves."""
    found = hashlib.sha256()
    for tree in trees:
        for path, leaf in zip(paths(tree), jax.tree.leaves(tree), strict=True):
            x = np.ascontiguousarray(leaf)
            fixed = x.astype(x.dtype.newbyteorder("<"), copy=False)
            found.update(f"{path} {fixed.dtype.str} {np.shape(leaf)} ".encode())
            found.update(fixed.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def dot(a: object, b: object) -> jax.Array:
    """Compute the inner product of two trees, summed in float32."""
    products = jax.tree.map(
        lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b
    )
    return jax.tree.reduce(jnp.add, products, jnp.float32(0))


def norm(tree: object) -> jax.Array:
    """Compute the Euclidean norm of a tree."""
    return jnp.sqrt(dot(tree, tree))


def finite(tree: object) -> jax.Array:
    """Tell whether every entry of every floating leaf is finite, a bool scalar."""
    flags = [
        jnp.all(jnp.isfinite(x))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack(flags)) if flags else jnp.bool_(True)


def same_structure(argument: str, tree: object, like: object, *, of: str = "params") -> None:
    """Raise unless `tree` has the paths, containers and shapes of `like`.

    Args:
      argument: name of the argument, for the message, which names the first difference.
      tree: what was passed for it.
      like: the tree to compare with.
      of: what the message calls that tree.
    """
    ours, theirs = paths(tree), paths(like)
    if ours != theirs:
        odd = sorted(set(ours) ^ set(theirs)) or ["the order of leaves"]
        raise ValueError(
            f"`{argument}` must have the same tree as the {of}; they differ in {odd[:3]}; "
            f"build it with jax.tree.map over the {of}"
        )
    if jax.tree.structure(tree) != jax.tree.structure(like):
        raise ValueError(
            f"`{argument}` has the paths of the {of} in other containers, such as a dict for a "
            f"list, or the key '0' for 0; build it with jax.tree.map over the {of}, and load "
            f"tickets with their `net`"
        )
    for path, x, y in zip(ours, jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if tuple(jnp.shape(x)) != tuple(jnp.shape(y)):
            raise ValueError(
                f"`{argument}` has shape {tuple(jnp.shape(x))} at {path!r} where the {of} have "
                f"{tuple(jnp.shape(y))}"
            )


def varying_like(tree: T, like: object) -> T:
    """Mark the leaves as varying over all mesh axes over which some leaf of `like` varies.

    Inside `shard_map`, constants are the same on all devices, and loops, conditions and some
    primitives refuse such a value in the place of one that varies. The transpose is a sum over
    devices. Outside of `shard_map` this changes nothing.
    """
    axes = frozenset().union(*map(varying_axes, jax.tree.leaves(like)))

    def one(x: jax.Array) -> jax.Array:
        missing = tuple(axes - varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, tree)


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which a value differs from device to device."""
    aval = jax.typeof(x)
    # the attribute moved between JAX 0.10 and 0.12
    kind = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if kind is None else kind.varying
