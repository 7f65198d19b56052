"""Branches: retrain a ticket changed in one way.

A change is `change(ticket, key, *, net) -> ticket` for one replica, pure, vmappable. The ticket it
receives holds the weights of the rewind step at every position, also where the mask is False, so
that a moved mask finds its weights; what it returns is masked afterwards. Its `step` says where
training goes on.

Where tickets start from weights times a factor (the height of a learned mask, `rescale`), the
weights that a change receives are multiplied already, at every position, and so are those of the
prunable leaves that it draws with `net.init`: a control differs from its ticket in one way, and not
in the scale of its weights too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from jaxticket import _tree, masks
from jaxticket._check import from_table, several
from jaxticket.engine import parallel
from jaxticket.random import root_keys, stream
from jaxticket.ticket import Ticket
from jaxticket.typing import Key, Mask, Network, Params, Stats


class Change(Protocol):
    """A control: a ticket changed in one way, for one replica, pure and vmappable."""

    def __call__(self, ticket: Ticket, key: Key, *, net: Network) -> Ticket:
        """Change a ticket.

        Args:
          ticket: of one replica.
          key: for changes that draw.
          net: the network of the ticket.
        """
        ...


def _dense(ticket: Ticket, what: str) -> None:
    """Raise where a ticket's pruned weights are gone, which a moved mask would keep as zeros."""
    leaves = [*jax.tree.leaves(ticket.mask), *jax.tree.leaves(ticket.params)]
    if any(isinstance(x, Tracer) for x in leaves):
        return
    pairs = [(m, w) for _, m, w in masks.items(ticket.mask, ticket.params)]
    if any(bool(jnp.any(~m)) for m, _ in pairs) and not any(
        bool(jnp.any(jnp.where(m, 0, w))) for m, w in pairs
    ):
        raise ValueError(
            f"`ticket` holds zeros where its mask is False, so `{what}` would move the mask onto "
            f"zeros; use jt.branch(runs, jt.branches.{what}), which knows the weights before "
            f"masking"
        )


def _mask(ticket: Ticket, net: Network) -> Mask:
    """The mask with None at all that the network does not prune, also of tickets of version 0.1."""
    return masks.map_with(lambda m, p: m if p else None, ticket.mask, net.prunable(ticket.params))


def _fresh(ticket: Ticket, key: Key, net: Network) -> Ticket:
    params, stats = net.init(stream(key, "reinit"))
    return ticket.replace(params=params, stats=stats, step=jnp.zeros_like(ticket.step))


def retrain(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The ticket as it is, for retraining with other settings."""
    del key, net
    return ticket


def reinit(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The same mask with reinitialized weights, trained from step 0 with the full schedule.

    Reference: Frankle's thesis, section 3.1.4 (random reinitialization).
    """
    return _fresh(ticket, key, net)


def reinit_at_k(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """Keep the mask and replace the weights of step k by reinitialized ones.

    They are trained from step k on, at its learning rate and for the remaining steps, as the ticket
    is. With k = 0 it is `reinit`.

    Reference: Frankle's thesis, Fig. 4-24 (OpenLTH's randomly_reinitialize starts at the rewind
      step, too).
    """
    return _fresh(ticket, key, net).replace(step=ticket.step)


def shuffle(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The mask permuted within each layer; the weights of the rewind step.

    Reference: Frankle's thesis, section 3.1.4 (layerwise random pruning), Fig. 4-23 and Table 4.2
      ("Rand Prune": in the layerwise proportions of IMP) and section 5.7.
    """
    _dense(ticket, "shuffle")
    mask = masks.shuffle(_mask(ticket, net), key=stream(key, "shuffle"))
    return ticket.replace(mask=mask)


def random(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The mask permuted over all layers together; the weights of the rewind step.

    Reference: Frankle's thesis, section 3.1.4 (global random pruning).
    """
    _dense(ticket, "random")
    mask = masks.permute(_mask(ticket, net), key=stream(key, "random"))
    return ticket.replace(mask=mask)


def layerwise_random(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """A random mask with the layers' densities and reinitialized weights, from step 0.

    Reference: Frankle's thesis, section 3.3.5 (its layerwise random pruning samples new weights,
      footnote 11).
    """
    mask = masks.shuffle(_mask(ticket, net), key=stream(key, "layerwise_random"))
    return _fresh(ticket.replace(mask=mask), key, net)


def preserved(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The exact mask with reinitialized weights, from step 0.

    Reference: Morcos et al. 2019, Fig. A1.
    """
    return _fresh(ticket, stream(key, "preserved"), net)


def locally_permuted(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The mask permuted within each layer with reinitialized weights, from step 0.

    Reference: Morcos et al. 2019, Fig. A1.
    """
    mask = masks.shuffle(_mask(ticket, net), key=stream(key, "locally_permuted"))
    return _fresh(ticket.replace(mask=mask), stream(key, "locally_permuted"), net)


def globally_permuted(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """Permute the mask over all layers and reinitialize the weights, from step 0.

    The random ticket of Morcos et al.

    Reference: Morcos et al. 2019, section 3 and Fig. A1; Frankle's thesis, section 3.3.5, footnote
      10.
    """
    mask = masks.permute(_mask(ticket, net), key=stream(key, "globally_permuted"))
    return _fresh(ticket.replace(mask=mask), stream(key, "globally_permuted"), net)


def sign_flip(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
    """The sign of every surviving prunable weight turned; biases and BatchNorm stay.

    Reference: KD-LTS, Definition 6.2 (there called inversion).
    """
    del key
    flipped = masks.map_with(lambda _, w: -w, _mask(ticket, net), ticket.params, other=lambda w: w)
    return ticket.replace(params=flipped)


BRANCHES: dict[str, Change] = {
    "reinit": reinit,
    "reinit_at_k": reinit_at_k,
    "shuffle": shuffle,
    "random": random,
    "layerwise_random": layerwise_random,
    "preserved": preserved,
    "locally_permuted": locally_permuted,
    "globally_permuted": globally_permuted,
    "sign_flip": sign_flip,
    "retrain": retrain,
}
"""Controls by name: how each changes a ticket."""
REDRAWN = ("reinit", "reinit_at_k", "layerwise_random", "preserved", "locally_permuted",
           "globally_permuted")  # fmt: skip
"""The branches whose weights are not those of the ticket's own training."""


def named_changes(branches: Sequence[str | Change]) -> dict[str, Change]:
    """Branch names and their functions, in order.

    Args:
      branches: names in `BRANCHES` or change functions, or one of them.
    """
    if isinstance(branches, str) or callable(branches):
        branches = (branches,)
    changes = {}
    for given in several("branches", branches, _given, like='["reinit", "shuffle"]', empty=True):
        function = from_table("branches", given, BRANCHES)
        name = given if isinstance(given, str) else getattr(given, "__name__", "branch")
        if name in changes or name == "ticket":
            raise ValueError(
                f"`branches` holds the name {name!r} twice; give each change function a name of "
                f"its own"
            )
        changes[name] = function
    return changes


def _given(argument: str, value: str | Change) -> str | Change:
    return value if isinstance(value, str) else from_table(argument, value, BRANCHES)


def changed(
    change: Change,
    ticket: Ticket,
    seeds: Sequence[int],
    *,
    name: str,
    net: Network,
    mesh: Mesh,
    exclude: tuple[str, ...] = (),
    factors: Params | None = None,
) -> Ticket:
    """Apply a change to a ticket stacked over [replica].

    Each replica draws from its seed's rng stream for this branch and level. Reinitialized weights
    are multiplied by `factors`, as those of the ticket are already.

    Raises:
      ValueError: where the change returns another tree, prunes what cannot be pruned, and where it
        puts masks on weights that loaded tickets do not hold (which are nan there).
    """
    count = len(seeds)
    dense = net.mask(exclude, lead=(count,))
    ticket = ticket.replace(mask=masks.conform(ticket.mask, dense, called="`ticket`"))
    padded = parallel.block_size(count, mesh, None)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    drawn = () if factors is None else factors
    inputs = parallel.put(parallel.pad((ticket, keys, drawn), padded), mesh)
    result = _changer(change, name, net, mesh, exclude)(np.zeros(padded, np.int32), *inputs)
    result = jax.tree.map(lambda x: x[:count], parallel.host(result))
    result = result.replace(mask=masks.conform(result.mask, dense, called=f"`branches` {name!r}"))
    # a user's change may give one seed weights that are not finite, which then diverges; of
    # loaded tickets, whose pruned weights are nan, that cannot be told from a mask on no weights
    gone = ~_finite(ticket, count, pruned=True)
    if np.any(gone & _finite(ticket, count) & ~_finite(result, count)):
        raise ValueError(
            f"`branches` {name!r} puts masks on weights that loaded tickets do not hold; take "
            f"controls with new weights, such as 'globally_permuted', or the runs of find_tickets "
            f"(called again with its folder, it reads them)"
        )
    return result


def _finite(ticket: Ticket, count: int, *, pruned: bool = False) -> np.ndarray:
    """Whether all weights that are kept (or all that are pruned) are finite, bool [replica]."""
    looked_at = masks.map_with(
        lambda m, w: np.where(np.asarray(m) != pruned, w, 0),
        ticket.mask,
        ticket.params,
        other=lambda w: np.zeros(count) if pruned else w,
    )
    found = np.ones(count, bool)
    for w in jax.tree.leaves(looked_at):
        found &= np.isfinite(np.asarray(w)).reshape(count, -1).all(axis=1)
    return found


@functools.lru_cache(maxsize=64)
def _changer(
    change: Change, name: str, net: Network, mesh: Mesh, exclude: tuple[str, ...]
) -> Callable[..., Ticket]:
    # a change may only move what is pruned
    limited = dataclasses.replace(net, prunable=lambda _: net.prunable_leaves(exclude))

    def one(limit: jax.Array, ticket: Ticket, key_data: jax.Array, factors: Params) -> Ticket:
        del limit
        key = stream(jax.random.wrap_key_data(key_data), f"branch {name}", ticket.level)
        result = change(ticket, key, net=_drawing(limited, factors))
        masks.require_bools("change", result.mask)
        masks.require_like("change", result.mask, ticket.params)
        _tree.same_structure("change", result.params, ticket.params)
        return result

    return parallel.over_replicas(one, mesh)


def _drawing(net: Network, factors: Params) -> Network:
    """The network whose initial weights are multiplied by these factors; () for none."""
    if not jax.tree.leaves(factors):
        return net

    def init(key: Key) -> tuple[Params, Stats]:
        params, stats = net.init(key)
        scaled = masks.map_with(lambda f, w: jnp.multiply(w, f), factors, params, other=lambda w: w)
        return scaled, stats

    return dataclasses.replace(net, init=init)


__all__ = [
    "BRANCHES",
    "Change",
    "globally_permuted",
    "layerwise_random",
    "locally_permuted",
    "preserved",
    "random",
    "reinit",
    "reinit_at_k",
    "retrain",
    "shuffle",
    "sign_flip",
]


def __dir__() -> list[str]:
    return __all__
