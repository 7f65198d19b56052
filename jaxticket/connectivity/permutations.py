"""Permutations of the hidden units of a network, by its symmetry (`jaxticket.nn.symmetry`).

A permutation is an int array whose entry i is the old index of the unit that moves to place i.
"""

from __future__ import annotations

from typing import TypeVar

import jax
import numpy as np

from jaxticket import _tree
from jaxticket._check import nearest
from jaxticket.nn.symmetry import Places as Places
from jaxticket.nn.symmetry import blocks as blocks
from jaxticket.nn.symmetry import leaf_shapes, places
from jaxticket.nn.symmetry import symmetry as symmetry
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Symmetry

T = TypeVar("T")
Permutations = dict[str, np.ndarray]
"""For each name, the old index of the unit that moves to each place."""


def moved(x: np.ndarray, axes: tuple[Places, ...], permutations: Permutations) -> np.ndarray:
    """Permute the units of one leaf."""
    for axis, along in enumerate(axes):
        index = np.arange(x.shape[axis])
        for name, at in along.items():
            if name in permutations:
                index[at] = at[permutations[name]]
        if along:
            x = np.take(x, index, axis)
    return x


def permute(
    net: Network, tree: T, permutations: Permutations, *, symmetry: Symmetry | None = None
) -> T:
    """Permute the hidden units of a tree of params, statistics, masks, scores or gradients.

    `permute(net, permute(net, tree, p), inverse(p))` equals the tree, bit for bit.

    Args:
      net: the network.
      tree: shaped like its params or its statistics, on the host or a device; None in masks stays.
      permutations: by name; units of omitted names keep their places.
      symmetry: for networks whose symmetry is not known (see `symmetry`).

    Returns:
      The tree on the host; leaves without permuted axes are returned unchanged.

    Raises:
      ValueError: for a tree of another structure, unknown names, and arrays that are not
        permutations.
    """
    full, units = places(net, symmetry)
    checked: Permutations = {}
    for name, order in permutations.items():
        if name not in units:
            raise ValueError(f"`permutations` has the unknown {name!r}; {nearest(name, units)}")
        checked[name] = np.asarray(order)
        if sorted(checked[name].tolist()) != list(range(units[name])):
            raise ValueError(
                f"`permutations` must hold each of 0 to {units[name] - 1} once for {name!r}, got "
                f"{checked[name].tolist()[:8]} ..."
            )
    require_form(net, "tree", tree)
    leaves, structure = jax.tree.flatten(tree)
    result = [
        moved(np.asarray(x), full[path], checked) if any(full[path]) else x
        for path, x in zip(_tree.paths(tree), leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, result)


def require_form(net: Network, argument: str, tree: object) -> None:
    """Check that a tree has the paths and shapes of the params or of the statistics."""
    params, stats = leaf_shapes(net)
    shapes = {
        path: params.get(path) if leaf is None else np.shape(leaf)
        for path, leaf in _tree.leaves(tree, is_leaf=_tree.is_none).items()
    }
    if shapes in (params, stats):
        return
    like = stats if shapes.keys() == stats.keys() else params
    odd = min(p for p in shapes.keys() | like.keys() if shapes.get(p) != like.get(p))
    raise ValueError(
        f"`{argument}` must have the paths and shapes of the params or of the statistics of one "
        f"network; it has {shapes.get(odd)} at {odd!r} where the network has {like.get(odd)}; "
        f"select one of several stacked networks with jax.tree.map(lambda x: x[replica], tree)"
    )


def inverse(permutations: Permutations) -> Permutations:
    """Invert permutations, so that every unit moves back.

    >>> inverse({"dense_0": np.array([2, 0, 1])})["dense_0"].tolist()
    [1, 2, 0]
    """
    return {name: np.argsort(order) for name, order in permutations.items()}


def random_permutations(
    net: Network, *, key: Key, symmetry: Symmetry | None = None
) -> Permutations:
    """Draw one random permutation per name, under which the network computes the same function.

    Args:
      net: the network.
      key: random key.
      symmetry: for networks whose symmetry is not known (see `symmetry`).
    """
    draw = generator(key=stream(key, "permutations"))
    _, units = places(net, symmetry)
    return {name: draw.permutation(n) for name, n in sorted(units.items())}


def generator(*, key: Key) -> np.random.Generator:
    """Make a NumPy generator that is seeded by the key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
