"""What a mask keeps of each layer and unit: densities, dead units, parameters and operations.

Functions of a mask take that of one network, or masks stacked over [replica]; all is computed on
the host. A unit is an output channel of a convolution or an output of a dense layer: the last axis
of a kernel [..., in, out].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

import jax
import numpy as np

from jaxticket import _tree, masks, results
from jaxticket._check import flag, instance, several, share, texts
from jaxticket.nn import flops
from jaxticket.pruning.layouts import layers_of
from jaxticket.runs import Runs, require_runs
from jaxticket.runs import density as realised
from jaxticket.typing import Mask, Network, Params

if TYPE_CHECKING:
    import pandas as pd

_EPSILON = 1e-9
"""Densities of units that differ by less are the same."""

Row = dict[str, int | float | str]
"""A row of a table."""


class Units(NamedTuple):
    """All units of the prunable layers, layer after layer from the input to the output.

    Attributes:
      density: share of its incoming weights that each unit keeps, float64 [unit], or [replica,
        unit].
      weights: how many incoming weights it has without a mask, int64 [unit].
      layer: index of its layer, int64 [unit].
      paths: of the layers' kernels, from the input to the output.
    """

    density: np.ndarray
    weights: np.ndarray
    layer: np.ndarray
    paths: tuple[str, ...]


class _Part(NamedTuple):
    """A prunable layer: its kernel, whether it is the output layer, its mask [replica, ...]."""

    kernel: flops.Kernel
    output: bool
    mask: np.ndarray


def layers(net: Network, mask: Mask, *, exclude: Sequence[str] = ()) -> pd.DataFrame:
    """Describe the prunable layers, one row each, from the input to the output.

    Columns: layer (path of the kernel), index (0 is the first that the input meets), size and kept
    (weights), layer_density, units, dead_units (those with all incoming weights pruned), flops (of
    one example, 2 per multiply-add) and flops_kept (those of the weights that are kept). Stacked
    masks have a column replica before these, and the rows of one replica after those of another.

    Args:
      net: the network.
      mask: tree of bools like its params, or stacked over [replica].
      exclude: patterns of paths that count as not prunable, as in `Pruning`.

    Raises:
      ValueError: for a mask of another network, patterns that match nothing, and layers whose use
        cannot be followed (`jaxticket.analysis.flops.kernels`).
    """
    parts, stacked = _parts(net, mask, exclude)
    rows = _rows(parts)
    if not stacked:
        rows = [{k: v for k, v in row.items() if k != "replica"} for row in rows]
    return results.frame(rows)


def report(runs: Runs) -> pd.DataFrame:
    """Describe the layers of all tickets of a run.

    Args:
      runs: tickets.

    Returns:
      One row per level, seed and layer: seed, level, density (of the whole ticket), branch, then
      the columns of `layers`.

    Raises:
      ValueError: as `layers`.
    """
    require_runs("runs", runs)
    rows = []
    for level in runs.levels:
        parts, _ = _parts(runs.net, runs.by_level[level].mask, runs.pruning.exclude)
        about = _about(runs, level)
        for row in _rows(parts):
            replica = int(row.pop("replica"))
            rows.append({**about[replica], **row})
    return results.frame(rows)


def collapse(
    runs: Runs, at: Sequence[float] = (0.0,), *, dense: bool | None = None
) -> pd.DataFrame:
    """Compute the neuron collapse of all tickets of a run.

    Args:
      runs: tickets.
      at: densities in [0, 1].
      dense: whether units of dense layers count, as for `neuron_collapse`.

    Returns:
      One row per level, seed and threshold: seed, level, density (of the whole ticket), branch,
      threshold, share.

    Raises:
      ValueError: as `neuron_collapse`.
    """
    require_runs("runs", runs)
    at = several("at", at, share, like="(0.0, 0.1)", zero=True)
    rows = []
    for level in runs.levels:
        mask, exclude = runs.by_level[level].mask, runs.pruning.exclude
        shares = neuron_collapse(runs.net, mask, at, dense=dense, exclude=exclude)
        for about, values in zip(_about(runs, level), shares, strict=True):
            rows += [
                {**about, "threshold": float(d), "share": float(value)}
                for d, value in zip(at, values, strict=True)
            ]
    return results.frame(rows)


def unit_densities(net: Network, mask: Mask, *, exclude: Sequence[str] = ()) -> Units:
    """Compute the density of every unit of the prunable layers, that of its incoming weights.

    Args:
      net: the network.
      mask: tree of bools like its params, or stacked over [replica].
      exclude: patterns of paths that count as not prunable.

    Raises:
      ValueError: as `layers`.
    """
    parts, stacked = _parts(net, mask, exclude)
    return _units(parts, stacked)


def neuron_collapse(
    net: Network,
    mask: Mask,
    at: Sequence[float] = (0.0,),
    *,
    dense: bool | None = None,
    exclude: Sequence[str] = (),
) -> np.ndarray:
    """Compute the share of units whose density is at most d, for each d of `at`.

    At d = 0 these are the units with all incoming weights pruned.

    Which units: those of all prunable convolutions (kernels of three or more axes), shortcuts
    included, each unit counted once whatever its size. That is what the thesis counts ("neurons (in
    this case, convolutional channels)"; of its shuffled ResNet-50, half of the collapsed ones lie
    in shortcuts that are pruned entirely). Networks without convolutions: those of the hidden dense
    layers.

    Args:
      net: the network.
      mask: tree of bools like its params, or stacked over [replica].
      at: densities in [0, 1].
      dense: whether units of dense layers count, those of the output layer never; None for only
        where there are no convolutions.
      exclude: as for `layers`.

    Returns:
      float64 [at], or [replica, at].

    Raises:
      ValueError: for densities out of range, a network without such units, and as `layers`.

    Reference: Frankle's thesis, section 5.7.1 and Figure 5-6 (which draws sparsity >= 1 - d).
    """
    at = several("at", at, share, like="(0.0, 0.1)", zero=True)
    if dense is not None:
        flag("dense", dense)
    parts, stacked = _parts(net, mask, exclude)
    convolutions = [part for part in parts if len(part.kernel.shape) > 2]
    hidden = [part for part in parts if len(part.kernel.shape) <= 2 and not part.output]
    if dense is None:
        dense = not convolutions
    chosen = [*convolutions, *(hidden if dense else [])]
    if not chosen:
        raise ValueError(
            f"`dense` is {dense} and the network has no prunable layer with such units; its "
            f"prunable layers are {[part.kernel.path for part in parts]}, the output layer does "
            "not count"
        )
    density = _units(chosen, stacked).density
    return np.stack([np.mean(density <= d + _EPSILON, axis=-1) for d in at], axis=-1)


@overload
def cost(net: Network, mask: None = None) -> dict[str, float]: ...


@overload
def cost(net: Network, mask: Mask) -> dict[str, float | np.ndarray]: ...


def cost(net: Network, mask: Mask | None = None) -> Mapping[str, float | np.ndarray]:
    """Count parameters and operations of a network under a mask.

    Args:
      net: the network.
      mask: tree of bools like its params, or stacked over [replica]; None for the dense network.

    Returns:
      params: all parameters, biases and normalization included; kept_params: those that the mask
      keeps; flops: of the forward pass of one example, 2 per multiply-add; flops_kept: without the
      products with pruned weights. Numbers, or for stacked masks kept_params and flops_kept as
      arrays [replica].

    Raises:
      ValueError: as `layers`.

    >>> from jaxticket.nn import lenet
    >>> cost(lenet())["flops"]
    532400.0
    """
    params = _params(net)
    size, total = _size(params), flops.forward(net)
    if mask is None:
        return {"params": size, "kept_params": size, "flops": total, "flops_kept": total}
    leaves, stacked = _leaves(net, mask)
    pruned = {path: _count(~m) for path, m in leaves.items()}
    kept = size - np.sum(list(pruned.values()), axis=0)
    each = {kernel.path: 2.0 * kernel.positions for kernel in flops.kernels(net)}
    left = total - np.sum([each.get(path, 0.0) * n for path, n in pruned.items()], axis=0)
    return {
        "params": size,
        "kept_params": kept if stacked else int(kept[0]),
        "flops": total,
        "flops_kept": left if stacked else float(left[0]),
    }


def collapsed(
    net: Network, mask: Mask, *, exclude: Sequence[str] = ()
) -> tuple[str, ...] | tuple[tuple[str, ...], ...]:
    """Name the prunable layers whose weights are all pruned.

    Args:
      net: the network.
      mask: tree of bools like its params, or stacked over [replica].
      exclude: patterns of paths that count as not prunable.

    Returns:
      Their paths as a tuple, from the input to the output; for stacked masks one tuple per replica.

    Raises:
      ValueError: as `layers`.
    """
    parts, stacked = _parts(net, mask, exclude)
    kept = {part.kernel.path: _count(part.mask) for part in parts}
    replicas = len(parts[0].mask)
    found = tuple(tuple(path for path, n in kept.items() if not n[i]) for i in range(replicas))
    return found if stacked else found[0]


def _about(runs: Runs, level: int) -> list[Row]:
    """Give the columns that name the ticket of each replica."""
    densities = realised(runs.net, runs.pruning, runs.by_level[level])
    return [
        {"seed": int(seed), "level": int(level), "density": float(d), "branch": runs.branch}
        for seed, d in zip(runs.seeds, densities, strict=True)
    ]


def _rows(parts: Sequence[_Part]) -> list[Row]:
    rows: list[Row] = []
    for replica in range(len(parts[0].mask)):
        for index, part in enumerate(parts):
            mask = part.mask[replica]
            kept, alive = int(np.count_nonzero(mask)), mask.reshape(-1, mask.shape[-1]).any(axis=0)
            each = 2.0 * part.kernel.positions
            rows.append(
                {
                    "replica": replica,
                    "layer": part.kernel.path,
                    "index": index,
                    "size": mask.size,
                    "kept": kept,
                    "layer_density": kept / mask.size,
                    "units": alive.size,
                    "dead_units": int(alive.size - np.count_nonzero(alive)),
                    "flops": each * mask.size,
                    "flops_kept": each * kept,
                }
            )
    return rows


def _units(parts: Sequence[_Part], stacked: bool) -> Units:
    columns = [part.mask.reshape(len(part.mask), -1, part.mask.shape[-1]) for part in parts]
    density = np.concatenate([np.mean(m, axis=1, dtype=np.float64) for m in columns], axis=1)
    weights = np.concatenate([np.full(m.shape[2], m.shape[1], np.int64) for m in columns])
    layer = np.concatenate([np.full(m.shape[2], i, np.int64) for i, m in enumerate(columns)])
    paths = tuple(part.kernel.path for part in parts)
    return Units(density if stacked else density[0], weights, layer, paths)


def _count(leaf: np.ndarray) -> np.ndarray:
    """Count the True entries of each replica of a leaf [replica, ...]."""
    return np.count_nonzero(leaf.reshape(len(leaf), -1), axis=1)


def _size(params: Params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _params(net: Network) -> Params:
    """Give the shapes of the params."""
    instance("net", net, Network, "a network, such as jt.networks.lenet()")
    return net.shapes[0]


def _leaves(net: Network, mask: Mask) -> tuple[dict[str, np.ndarray], bool]:
    """Give the leaves of a mask that are not None, by path, and whether it is stacked.

    They are bools [replica, ...].
    """
    shapes = _tree.leaves(_params(net))
    rows = {path: np.asarray(leaf) for path, leaf in masks.items(mask)}
    stacked = bool(rows) and all(
        path in shapes and leaf.ndim == len(shapes[path].shape) + 1 for path, leaf in rows.items()
    )
    replicas = {len(leaf) for leaf in rows.values()} if stacked else {1}
    one = masks.map_with(lambda m: np.asarray(m)[0], mask) if stacked and replicas != {0} else mask
    masks.require_like("mask", one, _params(net))
    if len(replicas) > 1:
        raise ValueError(f"`mask` has leaves of {sorted(replicas)} replicas; stack whole masks")
    for path, leaf in rows.items():
        if leaf.dtype != np.bool_:
            raise ValueError(
                f"`mask` must hold bools, got {leaf.dtype} at {path!r}; compare with 0 first"
            )
    return (rows if stacked else {path: leaf[None] for path, leaf in rows.items()}), stacked


def _parts(net: Network, mask: Mask, exclude: Sequence[str]) -> tuple[list[_Part], bool]:
    """Give the prunable layers from the input to the output, and whether the mask is stacked."""
    leaves, stacked = _leaves(net, mask)
    replicas = len(next(iter(leaves.values())))
    kernels = {kernel.path: kernel for kernel in flops.kernels(net)}
    layers = layers_of(net, texts("exclude", exclude, like='("dense_2",)'))
    return [
        _Part(
            kernels[layer.path],
            layer.output,
            # a layer that was not pruned keeps everything
            leaves.get(layer.path, np.ones((replicas, *layer.shape), bool)),
        )
        for layer in sorted(layers, key=lambda layer: layer.place)
    ], stacked


__all__ = [
    "Units",
    "collapse",
    "collapsed",
    "cost",
    "layers",
    "neuron_collapse",
    "report",
    "unit_densities",
]


def __dir__() -> list[str]:
    return __all__
