"""Tickets as named arrays, which files and saved states hold: mask bits and kept weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket.typing import AnyArray, Mask, Params, Stats


class Fields(Protocol):
    """What a ticket holds."""

    @property
    def mask(self) -> Mask: ...
    @property
    def params(self) -> Params: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def level(self) -> AnyArray: ...
    @property
    def step(self) -> AnyArray: ...


class Unpacked(NamedTuple):
    """The fields of a ticket, in its order."""

    mask: Mask
    params: Params
    stats: Stats
    level: AnyArray
    step: AnyArray


class Malformed(ValueError):
    """Arrays that are no ticket."""


def pack(ticket: Fields) -> dict[str, np.ndarray]:
    """A ticket, stacked or not, as named arrays.

    They are mask bits, kept weights in order, statistics and numbers.
    """
    arrays: dict[str, np.ndarray] = {
        "level": np.asarray(ticket.level),
        "step": np.asarray(ticket.step),
    }
    kept = {path: np.asarray(m) for path, m in masks.items(ticket.mask)}
    for path, w in _tree.leaves(ticket.params).items():
        w, m = np.asarray(w), kept.get(path)
        arrays[f"shape/{path}"] = np.asarray(w.shape, np.int64)
        if m is not None:
            arrays[f"mask/{path}"] = np.packbits(m.reshape(-1))
        arrays[f"kept/{path}"] = w.reshape(-1) if m is None else w[m]
    for path, x in zip(_tree.paths(ticket.stats), jax.tree.leaves(ticket.stats), strict=True):
        arrays[f"stats/{path}"] = np.asarray(x)
    return arrays


def unpack(
    arrays: Mapping[str, np.ndarray],
    *,
    like: tuple[Params, Stats] | None = None,
    drawn: tuple[Mask, Params, Stats] | None = None,
    keys: Mapping[str, Sequence[str | int]] | None = None,
) -> Unpacked:
    """Invert `pack`.

    Args:
      arrays: what `pack` gave.
      like: (params, stats) with the structure of the trees; nested dicts if None.
      drawn: (mask, params, stats), which stand where the ticket's layers do not fit.
      keys: those of paths that are not the texts between their slashes.

    Raises:
      ValueError: where the paths are not those of `like` and nothing is drawn, and for arrays that
        do not belong together.
    """
    kept, params, stats = unpacked_masks(arrays), {}, part(arrays, "stats")
    weights, shapes = part(arrays, "kept"), part(arrays, "shape")
    if weights and weights.keys() != shapes.keys():
        odd = sorted(weights.keys() ^ shapes.keys())
        raise Malformed(f"it needs a shape and weights for each layer, which {odd[:3]} have not")
    for path, stated in shapes.items():
        params[path] = _unpacked(path, tuple(stated.tolist()), kept.get(path), weights.get(path))
    mask = {path: kept.get(path) for path in shapes}
    if like is None:
        trees = [
            _nested(mask, keys or {}),
            _nested(params, keys or {}),
            _nested(stats, keys or {}),
        ]
    else:
        # stacked tickets have leading axes
        lead = np.ndim(arrays["level"])
        new = (None, None, None) if drawn is None else drawn
        trees = [
            _masks_as(mask, params, like[0], lead, new[0]),
            _as("params", params, like[0], lead, new[1]),
            _as("stats", stats, like[1], lead, new[2]),
        ]
    return Unpacked(*trees, level=arrays["level"], step=arrays["step"])


def whole_keys(ticket: Fields) -> dict[str, list[str | int]]:
    """The keys of the paths that hold whole numbers as keys of dicts.

    NNX makes such dicts of lists; the text alone would come back as another tree, in another order.
    """
    found = {}
    for tree in (ticket.params, ticket.stats):
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            entries = [getattr(entry, "key", None) for entry in path]
            if any(type(entry) is int for entry in entries) and None not in entries:
                found["/".join(map(str, entries))] = entries
    return found


def part(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind by path."""
    begin = f"{kind}/"
    return {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}


def unpacked_masks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Unpack the masks by path, after a check that shapes and bits belong together.

    Layers that cannot be pruned have none.

    Raises:
      Malformed: where they do not; nothing larger than the bits is made before.
    """
    shapes, bits, weights = (part(arrays, kind) for kind in ("shape", "mask", "kept"))
    if not bits or bits.keys() - shapes.keys():
        odd = sorted(bits.keys() - shapes.keys())
        raise Malformed(f"it needs masks, and a shape for each of them, which {odd[:3]} have not")
    found = {}
    for path, stated in shapes.items():
        if stated.ndim != 1 or stated.dtype.kind not in "iu" or (stated < 0).any():
            raise Malformed(f"the shape of {path!r} is {stated.tolist()!r:.60}")
        shape = tuple(stated.tolist())
        # in python's whole numbers, which do not overflow
        size = math.prod(shape)
        if path not in bits:
            if path in weights and weights[path].size != size:
                raise Malformed(f"it needs a mask or all {size} weights of {path!r}")
            continue
        packed = bits[path]
        if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
            raise Malformed(
                f"the mask of {path!r} has {packed.dtype} bits of shape {packed.shape} where "
                f"{shape} needs {(size + 7) // 8} bytes"
            )
        found[path] = np.unpackbits(packed, count=size).astype(bool).reshape(shape)
    return found


def _unpacked(
    path: str, shape: tuple[int, ...], mask: np.ndarray | None, kept: np.ndarray | None
) -> np.ndarray:
    """The weights of a layer, zeros where a file holds a seed in their place."""
    count = math.prod(shape) if mask is None else np.count_nonzero(mask)
    if kept is not None and (kept.shape != (count,) or kept.dtype.kind != "f"):
        raise Malformed(
            f"{path!r} has weights of {kept.dtype} {kept.shape} where its mask keeps {count}"
        )
    if mask is None and kept is not None:
        return kept.reshape(shape)
    try:
        # no memory for a shape that nothing in the file is as large as
        weights = np.broadcast_to(np.float32(0), shape)
    except ValueError as error:
        raise Malformed(f"the shape of {path!r} is {shape!r:.60}") from error
    if kept is not None:
        weights = np.zeros(shape, kept.dtype)
        weights[mask] = kept
    return weights


def _masks_as(
    masks: Mapping[str, np.ndarray | None],
    params: Mapping[str, np.ndarray],
    like: Params,
    lead: int,
    drawn: Mask | None,
) -> Mask:
    """The masks of the layers that fit, and those of `drawn` for the others."""
    others = [None] * len(_tree.paths(like))
    if drawn is not None:
        others = jax.tree.leaves(drawn, is_leaf=_tree.is_none)
    found = [
        masks[name] if name in params and params[name].shape[lead:] == tuple(x.shape) else other
        for (name, x), other in zip(_tree.leaves(like).items(), others, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _as(
    what: str,
    values: Mapping[str, np.ndarray],
    like: Params,
    lead: int,
    drawn: Params | None = None,
) -> Params:
    """A tree like another one; with something drawn in the place of what does not fit."""
    names, odd, found = _tree.paths(like), [], []
    others = [None] * len(names) if drawn is None else jax.tree.leaves(drawn)
    for name, x, other in zip(names, jax.tree.leaves(like), others, strict=True):
        own = values.get(name)
        tail = None if own is None else own.shape[lead:]
        if tail != tuple(x.shape):
            odd.append(
                f"{name} {tuple(x.shape)} (the ticket has {'none' if tail is None else tail})"
            )
        found.append(own if tail == tuple(x.shape) else np.asarray(other))
    odd += [f"{name} none (the ticket has it)" for name in values if name not in names]
    if odd and drawn is None:
        raise ValueError(
            f"`net` has other {what} than the ticket: {'; '.join(odd)}; pass the ticket's network, "
            f"or `fresh`, a key, to take what fits and draw the rest"
        )
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _nested(values: Mapping[str, Any], keys: Mapping[str, Sequence[str | int]]) -> Params:
    try:
        return _tree.nested(values, keys)
    except ValueError as error:
        raise Malformed(str(error)) from error
