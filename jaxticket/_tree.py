"""Trees of arrays: paths, sizes, sums and lines between them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

T = TypeVar("T")


def paths(tree: Any) -> list[str]:
    """Give the path of every leaf, joined by "/", in the order of `jax.tree.leaves`.

    >>> paths({"dense_0": {"kernel": 1, "bias": 2}})
    ['dense_0/bias', 'dense_0/kernel']
    """
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their paths.

    >>> leaves({"dense_0": {"kernel": 1, "bias": 2}})
    {'dense_0/bias': 2, 'dense_0/kernel': 1}
    """
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def unflatten(leaves: Mapping[str, Any], like: Any) -> Any:
    """The inverse of `leaves`: a tree like `like` of leaves by its paths."""
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[path] for path in paths(like)])


def natural(path: str) -> list[tuple[bool, int, str]]:
    """Sort key that orders numbers in names by their size.

    >>> sorted(["block_10", "block_2"], key=natural)
    ['block_2', 'block_10']
    """
    pieces = re.findall(r"\d+|\D+", path)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path matches a pattern, or lies below a layer of that name.

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


def size(tree: Any) -> int:
    """Number of entries of all leaves."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))


def dot(a: Any, b: Any) -> jax.Array:
    """Inner product of two trees, summed in float32."""
    products = jax.tree.map(
        lambda x, y: jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32)), a, b
    )
    return jax.tree.reduce(jnp.add, products, jnp.float32(0))


def norm(tree: Any) -> jax.Array:
    """Euclidean norm of a tree."""
    return jnp.sqrt(dot(tree, tree))


def finite(tree: Any) -> jax.Array:
    """Whether every entry of every floating leaf is finite, a bool scalar."""
    flags = [
        jnp.all(jnp.isfinite(x))
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return jnp.all(jnp.stack(flags)) if flags else jnp.bool_(True)


def same_structure(argument: str, tree: Any, like: Any, *, of: str = "params") -> None:
    """Raises unless `tree` has the paths, containers and shapes of `like` (called `of` in the
    message), naming the first that differs.
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


def varying_like(tree: Any, like: Any) -> Any:
    """The tree, whose leaves vary over all mesh axes over which some leaf of `like` varies.

    Inside `shard_map`, constants are the same on all devices, and loops, conditions and some
    primitives take no such value in the place of one that varies. The transpose is a sum over
    devices. Elsewhere this changes nothing.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves(like)))

    def one(x: jax.Array) -> jax.Array:
        missing = tuple(axes - _varying(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(one, tree)


def _varying(x: jax.Array) -> frozenset[str]:
    """The mesh axes over which a value differs from device to device."""
    aval = jax.typeof(x)
    # the attribute moved between JAX 0.10 and 0.12
    kind = getattr(aval, "manual_axis_type", None)
    return aval.vma if kind is None else kind.varying  # type: ignore[attr-defined]
