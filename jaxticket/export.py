"""Weights in the forms of other libraries: PyTorch's state dict, and JAX's sparse arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _extras, _tree
from jaxticket.nn.symmetry import places
from jaxticket.typing import Mask, Network, Params, Stats

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]
    from jax.experimental.sparse import BCOO, BCSR

Layout = Callable[[np.ndarray], np.ndarray]
"""Brings an array into the layout of PyTorch."""

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Last words of paths and what PyTorch calls them."""


def transposed(x: np.ndarray) -> np.ndarray:
    """Bring a kernel [..., in, out] into the layout [out, in, ...] of PyTorch.

    >>> transposed(np.zeros((3, 5, 2, 7))).shape
    (7, 2, 3, 5)
    """
    return np.transpose(x, (x.ndim - 1, x.ndim - 2, *range(x.ndim - 2)))


def state_dict(
    net: Network,
    mask: Mask,
    params: Params,
    stats: Stats,
    *,
    names: Mapping[str, str | tuple[str, Layout]] | None,
    masks: bool,
) -> dict[str, torch.Tensor]:
    """The weights of a network by PyTorch's names, in its layouts; see `Ticket.to_torch`."""
    _extras.require("torch", "benchmark")
    import torch  # pyright: ignore[reportMissingImports]

    if names is None and json.loads(net.config)["constructor"].startswith("from_"):
        raise ValueError(
            "`names` is needed for a network of your own, whose modules in PyTorch are not known: "
            "a dict from every path to a name, such as {'dense/kernel': 'fc.weight', 'dense/bias': "
            "'fc.bias'}, or to a pair of a name and a function that brings the array into its "
            "layout"
        )
    weights, moving = _tree.leaves(params), _tree.leaves(stats)
    shown = _tree.leaves(mask, is_leaf=_tree.is_none)
    if names is not None:
        missing = [path for path in (*weights, *moving) if path not in names]
        unknown = [path for path in names if path not in weights and path not in moving]
        if missing or unknown:
            raise ValueError(
                f"`names` must have every path of the network, it lacks {missing[:4]} and has the "
                f"unknown {unknown[:4]}"
            )
    found: dict[str, torch.Tensor] = {}

    def put(name: str, x: np.ndarray) -> None:
        if name in found:
            raise ValueError(f"`names` gives {name!r} to two arrays; each has a name of its own")
        # a copy, since tensors are written to
        found[name] = torch.from_numpy(np.array(x, order="C"))

    for path, x in weights.items():
        name, layout = _target(net, path, np.asarray(x), names, kernels=True)
        own = shown[path]
        if own is None or not masks:
            put(name, layout(np.asarray(x)))
        else:
            put(f"{name}_orig", layout(np.asarray(x)))
            put(f"{name}_mask", layout(np.asarray(own)).astype(np.float32))
    for path, x in moving.items():
        name, layout = _target(net, path, np.asarray(x), names, kernels=False)
        put(name, layout(np.asarray(x)))
        if name.endswith(".running_var") and names is None:
            put(f"{name.rpartition('.')[0]}.num_batches_tracked", np.asarray(0, np.int64))
    return found


def _target(
    net: Network,
    path: str,
    x: np.ndarray,
    names: Mapping[str, str | tuple[str, Layout]] | None,
    *,
    kernels: bool,
) -> tuple[str, Layout]:
    """PyTorch's name of a leaf, and what brings it into its layout."""
    chosen = None if names is None else names[path]
    if isinstance(chosen, tuple):
        return chosen
    layer, _, leaf = path.rpartition("/")
    if chosen is None:
        if leaf not in _LEAVES:
            raise ValueError(
                f"`names`: PyTorch's name of {path!r} is not known; pass `names`, a dict from "
                f"every path to a name"
            )
        # below the name of their collection, statistics have the paths of the params
        layer = layer if kernels else layer.partition("/")[2]
        chosen = f"{layer.replace('/', '.')}.{_LEAVES[leaf]}"
    if not kernels or leaf != "kernel" or x.ndim < 2:
        return chosen, lambda x: x
    order = _order(net, path, x)
    return chosen, lambda x: transposed(x if order is None else np.take(x, order, axis=-2))


def _order(net: Network, path: str, x: np.ndarray) -> np.ndarray | None:
    """The order of inputs after PyTorch's flattening [channel, height, width]; None if the same."""
    if x.ndim != 2:
        return None
    if net.symmetry is not None:
        axis = places(net)[0][path][0]
        if len(axis) == 1:
            (at,) = axis.values()
            # [unit, pixel]: all pixels of the first channel come first
            return at.reshape(-1) if at.shape[1] > 1 else None
    if len(net.shape) == 3 and x.shape[0] == np.prod(net.shape) and net.shape[-1] > 1:
        # the image itself is flattened
        return np.arange(x.shape[0]).reshape(net.shape).transpose(2, 0, 1).reshape(-1)
    return None


def bcoo(mask: Mask, params: Params) -> Params:
    """The params with `BCOO` arrays where there is a mask, of exactly the kept entries."""
    from jax.experimental.sparse import BCOO

    def one(m: np.ndarray | None, w: np.ndarray) -> BCOO | jax.Array:
        if m is None:
            return jnp.asarray(w)
        at = np.argwhere(np.asarray(m)).astype(np.int32)
        kept = np.asarray(w)[np.asarray(m)]
        return BCOO(
            (jnp.asarray(kept), jnp.asarray(at)),
            shape=np.shape(w),
            indices_sorted=True,
            unique_indices=True,
        )

    return jax.tree.map(one, mask, params, is_leaf=_tree.is_none)


def bcsr(mask: Mask, params: Params) -> Params:
    """The params with `BCSR` matrices where there is a mask.

    Raises:
      ValueError: naming the leaves that are no matrices.
    """
    from jaxticket.nn.sparse_layers import rows_of

    shown = _tree.leaves(mask, is_leaf=_tree.is_none)
    odd = [path for path, m in shown.items() if m is not None and np.ndim(m) != 2]
    if odd:
        raise ValueError(
            f"`to_bcsr` holds matrices, and {', '.join(odd[:4])} have other shapes; use `to_bcoo`, "
            f"or exclude these layers from pruning"
        )

    def one(m: np.ndarray | None, w: np.ndarray) -> BCSR | jax.Array:
        if m is None:
            return jnp.asarray(w)
        return rows_of(np.asarray(w), np.asarray(m))

    return jax.tree.map(one, mask, params, is_leaf=_tree.is_none)
