"""Permutations of the hidden units of a network, by its symmetry (`jaxticket.nn.symmetry`).

A permutation is an int array whose entry i is the old index of the unit that moves to place i.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np

from jaxticket import _tree
from jaxticket._check import nearest
from jaxticket.nn.symmetry import blocks as blocks
from jaxticket.random import stream
from jaxticket.typing import Axis, Key, Network, Symmetry

T = TypeVar("T")
Permutations = dict[str, np.ndarray]
"""For each name, the old index of the unit that moves to each place."""
Places = dict[str, np.ndarray]
"""Where the units of each name lie along one axis, int [units, copies]."""


@functools.lru_cache(maxsize=16)
def _shapes(net: Network) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Give the shapes of the params and of the statistics by path."""
    params, stats = (
        {path: leaf.shape for path, leaf in _tree.leaves(tree).items()} for tree in net.shapes
    )
    return params, stats


def symmetry(net: Network) -> Symmetry:
    """Give the permutations of hidden units that leave a network's function unchanged.

    The networks of this library know their symmetry (`jaxticket.nn.symmetry`); others state it
    when they are made: `jt.from_linen(..., symmetry=...)`. Biases, normalization and running
    statistics move with their layer; inputs and logits never move.

    Args:
      net: a network of `lenet`, `conv`, `vgg`, `resnet_cifar`, `resnet` or `wide_resnet`, or one
        that was made with its `symmetry`.

    Raises:
      ValueError: for networks without a known symmetry, and for norm="group", where most
        permutations would move channels between groups, which changes the function.

    Reference: Ainsworth, Hayase and Srinivasa 2023 ("Git Re-Basin"), section 2.

    >>> from jaxticket.nn import lenet
    >>> symmetry(lenet())["dense_1/kernel"]
    ('dense_0', 'dense_1')
    """
    if net.symmetry is None:
        constructor = json.loads(net.config)["constructor"]
        raise ValueError(
            f"`net`: the permutations of this {constructor!r} network are not known; make it with "
            f"`symmetry`, or pass `symmetry` here: a dict from the path of each leaf to the name "
            f"of the permutation of each axis (None for axes that do not move)"
        )
    return _computed(net.symmetry, net) if callable(net.symmetry) else net.symmetry


@functools.lru_cache(maxsize=16)
def _computed(function: Callable[[Network], Symmetry], net: Network) -> Symmetry:
    return function(net)


def places(
    net: Network, given: Symmetry | None = None
) -> tuple[dict[str, tuple[Places, ...]], dict[str, int]]:
    """Expand a symmetry: where each unit lies along every axis of every leaf.

    Args:
      net: the network.
      given: its symmetry; None for `symmetry(net)`.

    Returns:
      The places along each axis by path of the leaf, and the number of units of each permutation.

    Raises:
      ValueError: for a symmetry that does not fit the network's leaves.
    """
    chosen = symmetry(net) if given is None else given
    params, stats = _shapes(net)
    shapes = {**stats, **params}
    for path in params.keys() & stats.keys():
        if params[path] != stats[path]:
            raise ValueError(
                f"`net` has params of shape {params[path]} and statistics of shape {stats[path]} "
                f"at the same path {path!r}; give them different names"
            )
    for path in chosen:
        if path not in shapes:
            raise ValueError(f"`symmetry` has the unknown path {path!r}; {nearest(path, shapes)}")
    full: dict[str, tuple[Places, ...]] = {}
    units: dict[str, int] = {}
    for path, shape in shapes.items():
        axes = chosen.get(path, (None,) * len(shape))
        if len(axes) != len(shape):
            raise ValueError(
                f"`symmetry` has {len(axes)} entries for {path!r}, which has shape {shape}; give "
                f"one per axis, None for axes that do not move"
            )
        full[path] = tuple(_places(path, axis, n) for axis, n in zip(axes, shape, strict=True))
        for along in full[path]:
            for name, at in along.items():
                if units.setdefault(name, len(at)) != len(at):
                    raise ValueError(
                        f"`symmetry` gives {name!r} {len(at)} units in {path!r} and {units[name]} "
                        f"elsewhere; a permutation has the same units everywhere (for flattened "
                        f"maps see `blocks`)"
                    )
    return full, units


def _places(path: str, axis: Axis, size: int) -> Places:
    if not axis:
        return {}
    if isinstance(axis, str):
        return {axis: np.arange(size)[:, None]}
    along = {name: np.asarray(at) for name, at in axis.items()}
    along = {name: at[:, None] if at.ndim == 1 else at for name, at in along.items()}
    every = np.concatenate([at.reshape(-1) for at in along.values()])
    if len(np.unique(every)) != len(every) or every.min() < 0 or every.max() >= size:
        raise ValueError(
            f"`symmetry` must give each unit distinct places from 0 to {size - 1} along an axis of "
            f"{path!r}, got {sorted(every.tolist())[:8]} ..."
        )
    return along


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
    params, stats = _shapes(net)
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
