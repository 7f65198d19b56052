"""Adaptation of tickets to networks with other classes or other image channels.

A gray image is a color image of three equal channels, and the logits of a ticket are the same for
both: from one channel to three, the first kernel is repeated and divided by 3; from three channels
to one, it is summed over the kept weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxticket import _tree, masks
from jaxticket.ticket import Ticket
from jaxticket.typing import Network, Params, Stats


def fit(
    ticket: Ticket,
    *,
    net: Network,
    to: Network,
    fresh: tuple[Params, Stats],
    reinit: Sequence[str] = (),
) -> Ticket:
    """Fit a ticket into another network, or reinitialize some of its layers.

    Layers of the same path and shape keep masks, weights and BatchNorm statistics. The kernel of
    the input is adapted if the number of image channels changes from or to 1. Reinitialized layers
    are not pruned.

    Args:
      ticket: a ticket of `net`; may be stacked, then `fresh` is too.
      net: the network of the ticket.
      to: the network to fit the ticket into.
      fresh: params and statistics of `to` for reinitialized layers.
      reinit: patterns of paths of `to` that are reinitialized even if they fit.

    Raises:
      ValueError: for layers that do not fit; the message names all of them.
    """
    lead = np.ndim(ticket.level)
    old_masks = {path: np.asarray(leaf) for path, leaf in masks.items(ticket.mask)}
    old_weights = _tree.leaves(ticket.params)
    new_masks, weights, odd = {}, {}, []
    for path, leaf in _tree.leaves(fresh[0]).items():
        new, old, adapted = np.asarray(leaf), old_weights.get(path), None
        if not _tree.matches(path, reinit):
            if old is not None:
                pair = old_masks.get(path), np.asarray(old)
                adapted = _adapted(*pair, new.shape, lead, net, to)
            if adapted is None:
                shape = "none" if old is None else np.shape(old)[lead:]
                odd.append(f"{path} {shape} -> {new.shape[lead:]}")
        new_masks[path], weights[path] = adapted or (None, new)
    odd += [
        f"{path} {np.shape(old)[lead:]} -> none"
        for path, old in old_weights.items()
        if path not in weights
    ]
    if odd:
        raise ValueError(
            f"`net`: the ticket does not fit into {to.config}: {'; '.join(odd)}; use a network of "
            f"the same layers"
        )
    old_stats, stats = _tree.leaves(ticket.stats), {}
    for path, leaf in _tree.leaves(fresh[1]).items():
        old = old_stats.get(path)
        fits = old is not None and np.shape(old) == np.shape(leaf)
        stats[path] = np.asarray(old if fits else leaf)
    return ticket.replace(
        mask=_tree.unflatten(new_masks, fresh[0]),
        params=_tree.unflatten(weights, fresh[0]),
        stats=_tree.unflatten(stats, fresh[1]),
    )


def _adapted(
    mask: np.ndarray | None,
    weights: np.ndarray,
    shape: tuple[int, ...],
    lead: int,
    net: Network,
    to: Network,
) -> tuple[np.ndarray | None, np.ndarray] | None:
    """Adapt mask and weights of one leaf to another shape; None if they do not fit.

    The mask is None for a leaf that cannot be pruned.
    """
    if weights.shape == shape:
        return mask, weights
    ours, theirs = net.shape[-1], to.shape[-1]
    here, there = weights.shape[lead:], shape[lead:]
    if min(ours, theirs) != 1 or ours == theirs or len(here) != len(there) or len(here) < 2:
        return None
    if len(here) == 2:
        # inputs of a dense layer are ordered by pixel, then by channel
        if net.shape[:-1] != to.shape[:-1]:
            return None
        expected = (math.prod(net.shape), math.prod(to.shape))
    else:
        expected = (ours, theirs)
    same = here[:-2] == there[:-2] and here[-1] == there[-1]
    if not same or (here[-2], there[-2]) != expected:
        return None
    split = (*weights.shape[:-2], here[-2] // ours, ours, here[-1])
    known = mask is not None
    mask = np.ones(split, bool) if mask is None else mask.reshape(split)
    weights = weights.reshape(split)
    if ours == 1:
        mask = np.repeat(mask, theirs, axis=-2)
        weights = np.repeat(weights / theirs, theirs, axis=-2).astype(weights.dtype)
    else:
        kept = np.asarray(mask.any(axis=-2, keepdims=True))
        # pruned weights too have values: controls move masks
        weights = np.where(mask | ~kept, weights, 0).sum(axis=-2, keepdims=True)
        mask = kept
    return mask.reshape(shape) if known else None, weights.reshape(shape)
