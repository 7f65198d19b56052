"""Tickets brought into another network: other classes, other channels of the images, other blocks.

A gray image is a colour image of three equal channels, and a ticket answers to it alike in both
forms: brought from one channel to three, the first kernel is repeated and divided by 3, from three
to one summed over what the mask keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jaxticket import _tree
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
    """A ticket in another network, or in the same one with some layers drawn anew.

    Layers of the same path and shape keep masks, weights and BatchNorm statistics. The kernel that
    sees the images is adapted where their channels go from one to several or back. What is drawn
    anew is not pruned.

    Args:
      ticket: of `net`; may be stacked, `fresh` in the same way.
      net, to: its network, and that which it is brought into.
      fresh: params and statistics of `to`, for what is drawn anew.
      reinit: patterns of paths of `to` that are drawn anew also where they fit.

    Raises:
      ValueError: for layers that do not fit, which are all named.
    """
    lead = np.ndim(ticket.level)
    masks, weights = _tree.leaves(ticket.mask), _tree.leaves(ticket.params)
    found_masks, found_weights, odd = {}, {}, []
    for path, drawn in _tree.leaves(fresh[0]).items():
        drawn, own = np.asarray(drawn), weights.get(path)
        pair = None
        if not _tree.matches(path, reinit) and own is not None:
            pair = _adapted(np.asarray(masks[path]), np.asarray(own), drawn.shape, lead, net, to)
            if pair is None:
                odd.append(f"{path} {np.shape(own)[lead:]} -> {drawn.shape[lead:]}")
        elif own is None and not _tree.matches(path, reinit):
            odd.append(f"{path} none -> {drawn.shape[lead:]}")
        if pair is None:
            pair = np.ones(drawn.shape, bool), drawn
        found_masks[path], found_weights[path] = pair
    stats = _tree.leaves(ticket.stats)
    found_stats = {}
    for path, drawn in _tree.leaves(fresh[1]).items():
        own, drawn = stats.get(path), np.asarray(drawn)
        fits = own is not None and np.shape(own) == drawn.shape
        found_stats[path] = np.asarray(own) if fits else drawn
    odd += [f"{path} {np.shape(weights[path])[lead:]} -> none" for path in weights
            if path not in found_weights]  # fmt: skip
    if odd:
        raise ValueError(
            f"`net`: the ticket does not fit into {to.config}: {'; '.join(odd)}; bring it into a "
            f"network of the same layers"
        )
    return ticket.replace(
        mask=_tree.unflatten(found_masks, fresh[0]),
        params=_tree.unflatten(found_weights, fresh[0]),
        stats=_tree.unflatten(found_stats, fresh[1]),
    )


def _adapted(
    mask: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, ...],
    lead: int,
    net: Network,
    to: Network,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mask and weights of one leaf in another shape, None where they do not fit."""
    if weights.shape == shape:
        return mask, weights
    ours, theirs = net.shape[-1], to.shape[-1]
    here, there = weights.shape[lead:], shape[lead:]
    if min(ours, theirs) != 1 or ours == theirs or len(here) != len(there) or len(here) < 2:
        return None
    if len(here) == 2:
        # a dense layer sees the channels of each pixel side by side
        if net.shape[:-1] != to.shape[:-1]:
            return None
        expected = (math.prod(net.shape), math.prod(to.shape))
    else:
        expected = (ours, theirs)
    same = here[:-2] == there[:-2] and here[-1] == there[-1]
    if not same or (here[-2], there[-2]) != expected:
        return None
    split = (*weights.shape[:-2], here[-2] // ours, ours, here[-1])
    mask, weights = mask.reshape(split), weights.reshape(split)
    if ours == 1:
        mask = np.repeat(mask, theirs, axis=-2)
        weights = np.repeat(weights / theirs, theirs, axis=-2).astype(weights.dtype)
    else:
        kept = np.asarray(mask.any(axis=-2, keepdims=True))
        # at pruned places stand the weights that a moved mask would find
        weights = np.where(mask | ~kept, weights, 0).sum(axis=-2, keepdims=True)
        mask = kept
    return mask.reshape(shape), weights.reshape(shape)
