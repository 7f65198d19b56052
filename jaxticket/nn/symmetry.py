"""Permutations of hidden units that leave the function of a network unchanged.

A symmetry names the units that are permuted along every axis of every leaf. It is a plain dict from
the path of a leaf (of the params or of the statistics) to one entry per axis:

- None: nothing moves;
- a name: the axis is the units of the permutation of that name, in their order;
- a dict from names to whole numbers [units] or [units, copies]: where along the axis each unit
  lies, for axes that are several copies of the units (`blocks`) or hold the units of more than one
  permutation.

Axes of the same name move together. A network states its symmetry as such a dict or as a function
of the network that returns one: `chain` and `residual` are those of this library's families, and
fit networks of the user's whose layers are named alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import numpy as np

from jaxticket import _tree
from jaxticket._check import nearest
from jaxticket.typing import Axis, Network, Symmetry

__all__ = ["blocks", "chain", "residual", "symmetry"]

Shapes = dict[str, tuple[int, ...]]
"""Of kernels, by the path of their layer, in the order of the forward pass."""

Places = dict[str, np.ndarray]
"""Where the units of each name lie along one axis, int [units, copies]."""


def blocks(name: str, units: int, copies: int) -> dict[str, np.ndarray]:
    """Describe the axis of a flattened map: `copies` pixels, each with all the units of `name`.

    >>> blocks("conv_1", 2, 3)["conv_1"].tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    return {name: np.arange(units * copies).reshape(copies, units).T}


Layers = dict[str, tuple[Axis, Axis]]
"""By path of a layer: what moves along its inputs and along its outputs."""


def _of_chain(kernels: Shapes, output: str) -> Layers:
    """Layers one after the other, each with a permutation of its own."""
    layers: Layers = {}
    name, units = None, 0
    for layer, shape in kernels.items():
        inputs: Axis = name
        if name is not None and shape[-2] != units:
            # flattened to [height, width, channels]: the channels move alike in every pixel
            inputs = blocks(name, units, shape[-2] // units)
        name, units = None if layer == output else layer, shape[-1]
        layers[layer] = (inputs, name)
    return layers


def _padded(channels: Axis, old: int, new: int, name: str) -> Axis:
    """Describe the sum of `new` channels and a shortcut of `old` channels padded with zeros.

    The old channels move as before; the others, to which the shortcut adds zero, have a permutation
    of their own.
    """
    left = (new - old) // 2
    inner = {channels: np.arange(old)} if isinstance(channels, str) else dict(channels or {})
    outer = np.concatenate([np.arange(left), np.arange(left + old, new)])
    return {**{key: np.asarray(at) + left for key, at in inner.items()}, name: outer}


def _of_residual(kernels: Shapes, output: str) -> Layers:
    """Blocks with shortcuts: everything that is added to one sum shares a permutation."""
    first, *rest = sorted({layer.split("/")[0] for layer in kernels} - {output}, key=_tree.natural)
    channels: Axis = first
    layers: Layers = {first: (None, channels)}
    width = kernels[first][-1]
    for block in rest:
        *inner, last = (layer for layer in kernels if layer.startswith(f"{block}/conv_"))
        before, new = channels, kernels[last][-1]
        if f"{block}/shortcut" in kernels:
            channels = block
            layers[f"{block}/shortcut"] = (before, channels)
        elif new != width:
            channels = _padded(channels, width, new, block)
        width = new
        # normalization before the convolutions; other networks have no such layers
        layers[f"{block}/norm_0"] = (None, before)
        layers[f"{block}/norm_1"] = (None, inner[0])
        for layer in inner:
            layers[layer] = (before, layer)
            before = layer
        layers[last] = (before, channels)
    layers["norm"] = (None, channels)
    layers[output] = (channels, None)
    return layers


def _full(net: Network, *, of_layers: Callable[[Shapes, str], Layers]) -> Symmetry:
    """The symmetry of all leaves, from that of the layers.

    Raises:
      ValueError: for norm="group", where most permutations would move channels from one group to
        another, which changes the function.
    """
    if json.loads(net.config).get("norm") == "group":
        raise ValueError(
            "`net` has norm='group': a permutation across groups changes its function; use "
            "norm='batch' or 'none', or pass a `symmetry` that moves whole groups or stays in them"
        )
    params, stats = (
        {path: tuple(leaf.shape) for path, leaf in _tree.leaves(tree).items()}
        for tree in net.shapes
    )
    kernels = {
        path.rpartition("/")[0]: params[path]
        for path in sorted(params, key=_tree.natural)
        if path.endswith("/kernel")
    }
    layers = of_layers(kernels, net.output)

    def axes(path: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
        layer, _, leaf = path.rpartition("/")
        while layer not in layers:
            layer = layer.rpartition("/")[0]
        inputs, outputs = layers[layer]
        return (*(None,) * (len(shape) - 2), inputs, outputs) if leaf == "kernel" else (outputs,)

    found = {path: axes(path, shape) for path, shape in params.items()}
    for path, shape in stats.items():
        # below the name of their collection, statistics have the paths of the params
        found[path] = axes(path.partition("/")[2], shape)
    return found


def chain(net: Network) -> Symmetry:
    """The symmetry of a chain of layers: each hidden layer has a permutation, named by its path.

    >>> from jaxticket.nn import lenet
    >>> chain(lenet())["dense_1/kernel"]
    ('dense_0', 'dense_1')
    """
    return _full(net, of_layers=_of_chain)


def residual(net: Network) -> Symmetry:
    """The symmetry of residual blocks "block_<stage>_<number>" with layers conv_0, conv_1, ...

    Every inner layer has a permutation, named by its path. The channels that an identity shortcut
    adds share one, named by the block it comes from; a projection ("shortcut") starts a new one,
    and so do the channels that a padded shortcut fills with zeros (they move among themselves).
    """
    return _full(net, of_layers=_of_residual)


@functools.lru_cache(maxsize=16)
def leaf_shapes(net: Network) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
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
    params, stats = leaf_shapes(net)
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
