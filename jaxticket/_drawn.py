"""Weights drawn by the network: of tickets stored by seed, and of layers that a ticket lacks."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jaxticket import _tree
from jaxticket._ticket_arrays import Fields
from jaxticket.masks import host_apply
from jaxticket.random import stream
from jaxticket.typing import Key, Mask, Network, Params, Stats, cached


@cached(16)
def initial(net: Network) -> Callable[[Key], tuple[Params, Stats]]:
    """The compiled initializer of a network, by the key of a run."""
    return jax.jit(lambda key: net.init(stream(key, "init")))


def from_seed(net: Network, seed: int, mask: Mask) -> Params:
    """The weights that a network draws from a seed, zero where the mask is False."""
    params, _ = initial(net)(jax.random.key(seed))
    return host_apply(mask, jax.tree.map(np.asarray, params))


def drawn_exactly(net: Network, seed: int, ticket: Fields) -> bool:
    """Whether a ticket may be saved as seed and bits.

    It may where its weights are those that the network draws from this seed, and every device draws
    them alike, which holds for signed constants and not for numbers that pass through a logarithm
    or a sine.
    """
    exact = json.loads(net.config).get("init") == "signed_constant"
    if not exact or net.given is not None or int(ticket.step) != 0:
        return False
    host = jax.tree.map(np.asarray, ticket)
    return same(from_seed(net, seed, host.mask), host_apply(host.mask, host.params))


def same(a: Params, b: Params) -> bool:
    """Whether the leaves of two trees are equal."""
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def tell_drawn(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], net: Network
) -> None:
    """Warn of the layers that were reinitialized.

    Raises:
      ValueError: where nothing that can be pruned is the ticket's.
    """
    like, lead = net.shapes[0], np.ndim(arrays["level"])
    leaves = zip(_tree.paths(like), jax.tree.leaves(like), strict=True)
    drawn = [name for name, x in leaves if tuple(arrays.get(f"shape/{name}", ()))[lead:] != x.shape]
    named = f"{', '.join(drawn[:8])}{', ...' if len(drawn) > 8 else ''}"
    chosen = zip(_tree.paths(like), jax.tree.leaves(net.prunable(like)), strict=True)
    if not any(prunable and name not in drawn for name, prunable in chosen):
        raise ValueError(
            f"`net` {net.config} has no prunable layer of the ticket in {str(path)!r}: all of it "
            f"would be a dense, reinitialized network ({named}); pass a network with layers of the "
            f"same names and shapes"
        )
    if drawn:
        warnings.warn(f"{path}: reinitialized and not pruned: {named}", stacklevel=3)
