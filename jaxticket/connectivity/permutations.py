"""Which units of a network can change places without changing its function, and moving them.

A symmetry says for every axis of every leaf what moves along it. It is a plain dict from the path
of a leaf (of the params or of the statistics) to one entry per axis:

- None: nothing moves;
- a name: the axis is the units of the permutation of that name, in their order;
- a dict from names to whole numbers [units] or [units, copies]: where along the axis each unit
  lies, for axes that are several copies of the units (`blocks`) or hold the units of more than one
  permutation.

Axes of the same name move together. A permutation is an int array in which entry i says which old
unit comes to place i.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxticket import _tree
from jaxticket._check import nearest
from jaxticket.random import stream
from jaxticket.typing import Array, Key, Network

Axis = str | Mapping[str, Array] | None
"""What moves along one axis."""
Symmetry = Mapping[str, tuple[Axis, ...]]
"""One entry per axis, by path; leaves that are not named stay as they are."""
Permutations = dict[str, np.ndarray]
"""By name: which old unit comes to each place."""
Places = dict[str, np.ndarray]
"""Of one axis: int [units, copies] by name."""

CHAINS = ("lenet", "conv", "vgg")
RESIDUAL = ("resnet_cifar", "resnet", "wide_resnet")


def blocks(name: str, units: int, copies: int) -> dict[str, np.ndarray]:
    """The axis of a flattened map: `copies` pixels, each with all the units of `name`.

    >>> blocks("conv_1", 2, 3)["conv_1"].tolist()
    [[0, 2, 4], [1, 3, 5]]
    """
    return {name: np.arange(units * copies).reshape(copies, units).T}


@functools.lru_cache(maxsize=16)
def _shapes(net: Network) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes by path, of the params and of the statistics."""
    params, stats = (
        dict(zip(_tree.paths(tree), (x.shape for x in jax.tree.leaves(tree)), strict=True))
        for tree in jax.eval_shape(net.init, jax.random.key(0))
    )
    return params, stats


def _natural(path: str) -> list[tuple[bool, int, str]]:
    pieces = re.findall(r"\d+|\D+", path)
    return [(p.isdigit(), int(p) if p.isdigit() else 0, p) for p in pieces]


Layers = dict[str, tuple[Axis, Axis]]
"""By path of a layer: what moves along its inputs and along its outputs."""


def _chain(kernels: dict[str, tuple[int, ...]], output: str) -> Layers:
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
    """The sum of what has `new` channels and `old` of them between zeros: the old ones move as
    before, and those beside them, to which the shortcut adds nothing, among themselves.
    """
    left = (new - old) // 2
    inner = {channels: np.arange(old)} if isinstance(channels, str) else dict(channels or {})
    outer = np.concatenate([np.arange(left), np.arange(left + old, new)])
    return {**{key: np.asarray(at) + left for key, at in inner.items()}, name: outer}


def _residual(kernels: dict[str, tuple[int, ...]], output: str) -> Layers:
    """Blocks with shortcuts: all that is added up shares the permutation of the stream."""
    first, *rest = sorted({layer.split("/")[0] for layer in kernels} - {output}, key=_natural)
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
        # normalisation before the convolutions; other networks have no such layers
        layers[f"{block}/norm_0"] = (None, before)
        layers[f"{block}/norm_1"] = (None, inner[0])
        for layer in inner:
            layers[layer] = (before, layer)
            before = layer
        layers[last] = (before, channels)
    layers["norm"] = (None, channels)
    layers[output] = (channels, None)
    return layers


@functools.lru_cache(maxsize=16)
def symmetry(net: Network) -> Symmetry:
    """The permutations of hidden units that leave a built-in network's function as it is.

    Every convolution and hidden dense layer has a permutation, named by its path. What an identity
    shortcut adds shares one, named by the block it comes from; a projection starts a new one, and
    so do the channels that a padded shortcut fills with zeros (they move among themselves). Biases,
    normalisation and running statistics move with their layer; input and logits never move.

    Args:
      net: a network of `lenet`, `conv`, `vgg`, `resnet_cifar`, `resnet` or `wide_resnet`.

    Raises:
      ValueError: for other networks, and for norm="group", where most permutations would move
        channels from one group to another, which changes the function.

    Reference: Ainsworth, Hayase and Srinivasa 2023 ("Git Re-Basin"), section 2.

    >>> from jaxticket.nn import lenet
    >>> symmetry(lenet())["dense_1/kernel"]
    ('dense_0', 'dense_1')
    """
    config = json.loads(net.config)
    if config["constructor"] not in CHAINS + RESIDUAL:
        raise ValueError(
            f"`net`: the permutations of {config['constructor']!r} networks are not known, only "
            f"those of {', '.join(CHAINS + RESIDUAL)}; pass `symmetry`, a dict from the path of "
            f"each leaf to the name of the permutation of each axis (None where nothing moves)"
        )
    if config.get("norm") == "group":
        raise ValueError(
            "`net` has norm='group': a permutation across groups changes its function; use "
            "norm='batch' or 'none', or pass a `symmetry` that moves whole groups or stays in them"
        )
    params, stats = _shapes(net)
    kernels = {
        path.rpartition("/")[0]: params[path]
        for path in sorted(params, key=_natural)
        if path.endswith("/kernel")
    }
    family = _chain if config["constructor"] in CHAINS else _residual
    layers = family(kernels, net.output)

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


def places(
    net: Network, given: Symmetry | None = None
) -> tuple[dict[str, tuple[Places, ...]], dict[str, int]]:
    """A symmetry in full: where each unit lies along every axis of every leaf, by path, and the
    number of units of each permutation.

    Args:
      net: the network.
      given: its symmetry; None for `symmetry(net)`.

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
                f"one per axis, None where nothing moves"
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
            f"`symmetry` must give each unit places of its own from 0 to {size - 1} along an axis "
            f"of {path!r}, got {sorted(every.tolist())[:8]} ..."
        )
    return along


def moved(x: np.ndarray, axes: tuple[Places, ...], permutations: Permutations) -> np.ndarray:
    """A leaf with its units in new places."""
    for axis, along in enumerate(axes):
        index = np.arange(x.shape[axis])
        for name, at in along.items():
            if name in permutations:
                index[at] = at[permutations[name]]
        if along:
            x = np.take(x, index, axis)
    return x


def permute(
    net: Network, tree: Any, permutations: Permutations, *, symmetry: Symmetry | None = None
) -> Any:
    """Moves the hidden units of a tree: params, statistics, or anything of their form such as a
    mask, scores or gradients.

    `permute(net, permute(net, tree, p), inverse(p))` is the tree, bit for bit.

    Args:
      net: the network.
      tree: of the structure of its params or of its statistics, on the host or a device.
      permutations: by name; units of names left out stay where they are.
      symmetry: of networks whose own is not known (see `symmetry`).

    Returns:
      The tree on the host; leaves along which nothing moves come back as they are.

    Raises:
      ValueError: for a tree of another structure, unknown names, and what is no permutation.
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


def require_form(net: Network, argument: str, tree: Any) -> None:
    """Raises unless a tree has the paths and shapes of the params or of the statistics."""
    names = _tree.paths(tree)
    own = dict(zip(names, (np.shape(x) for x in jax.tree.leaves(tree)), strict=True))
    params, stats = _shapes(net)
    if own in (params, stats):
        return
    like = stats if own.keys() == stats.keys() else params
    odd = [path for path in sorted(own.keys() | like.keys()) if own.get(path) != like.get(path)]
    raise ValueError(
        f"`{argument}` must have the paths and shapes of the params or of the statistics of one "
        f"network; it has {own.get(odd[0])} at {odd[0]!r} where the network has "
        f"{like.get(odd[0])}; of stacked networks take one with "
        f"jax.tree.map(lambda x: x[replica], tree)"
    )


def inverse(permutations: Permutations) -> Permutations:
    """What moves every unit back.

    >>> inverse({"dense_0": np.array([2, 0, 1])})["dense_0"].tolist()
    [1, 2, 0]
    """
    return {name: np.argsort(order) for name, order in permutations.items()}


def random_permutations(
    net: Network, *, key: Key, symmetry: Symmetry | None = None
) -> Permutations:
    """Permutations drawn at random, one per name: a network that computes the same in other places.

    Args:
      net: the network.
      key: of the draw.
      symmetry: of networks whose own is not known (see `symmetry`).
    """
    draw = generator(key=stream(key, "permutations"))
    _, units = places(net, symmetry)
    return {name: draw.permutation(n) for name, n in sorted(units.items())}


def generator(*, key: Key) -> np.random.Generator:
    """A generator of the host that draws what the key says."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
