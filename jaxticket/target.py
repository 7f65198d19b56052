"""The target of a transfer: its network and data, and tickets brought into it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import masks, trees
from jaxticket.branches import Change, changed
from jaxticket.data.arrays import Data
from jaxticket.data.stream import Stream
from jaxticket.elastic import Blocks, copies, depths, elastic, sources
from jaxticket.fit import fit
from jaxticket.jobs import Bench
from jaxticket.rng import stream
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.ticket import Ticket
from jaxticket.trunk import Networks, initial_networks
from jaxticket.types import Key, Network


class Place(NamedTuple):
    """Where tickets are brought to.

    Attributes:
      net, data, training, own: of the target; its own runs or None.
      middle: the source's network with the blocks of the target's.
      reinit: layers that are drawn anew.
      blocks: as of `transfer`.
      permuted: blocks whose masks are shuffled.
    """

    net: Network
    data: Data | Stream
    training: Training
    own: Runs | None
    middle: Network
    reinit: tuple[str, ...]
    blocks: Blocks
    permuted: tuple[str, ...]


def place_of(
    runs: Runs,
    to: Data | Stream | Runs,
    net: Network | None,
    training: Training | None,
    *,
    reinit_output: bool,
    blocks: Blocks,
    permute: bool,
) -> Place:
    """The target, after everything about its network was checked.

    Raises:
      ValueError: for layers that do not fit, and options that mean nothing here.
    """
    own = to if isinstance(to, Runs) else None
    data = to.data if isinstance(to, Runs) else to
    if training is None:
        training = runs.training if own is None else own.training
    if own is not None:
        if net is not None and net != own.net:
            raise ValueError(
                f"`net` must be that of `to`, {own.net.config}, whose tickets train in it too, "
                f"got {net.config}; or pass data as `to`"
            )
        net = own.net
    elif net is None:
        net = runs.net
        if (net.shape, net.classes) != (data.shape, data.classes):
            net = net.adapted(shape=data.shape, classes=data.classes)
    if reinit_output and not net.output:
        raise ValueError(
            f"`reinit_output`: the output layer of {net.config} is not known; give its constructor "
            f"`output`, or pass reinit_output=False"
        )
    middle, permuted = runs.net, ()
    if depths(runs.net) != depths(net):
        middle = _deeper(runs.net, net)
        taken = sources(runs.net, middle, blocks)
        permuted = copies(taken) if permute else ()
    elif blocks is not None or permute:
        raise ValueError(
            "`blocks` and `permute_copies` are for residual networks of another depth; these have "
            "the same blocks"
        )
    reinit = (net.output,) if reinit_output else ()
    fit(_blank(middle), net=middle, to=net, fresh=_zeros(net), reinit=reinit)
    return Place(net, data, training, own, middle, reinit, blocks, permuted)


def _zeros(net: Network) -> Networks:
    # of no size in memory
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)


def _blank(net: Network) -> Ticket:
    params, stats = _zeros(net)
    mask = jax.tree.map(lambda x: np.broadcast_to(np.ones((), bool), x.shape), params)
    return Ticket(mask, params, stats, np.int32(0), np.int32(0))  # type: ignore[arg-type]


def _deeper(net: Network, to: Network) -> Network:
    """The source's network with the target's depth, for its own data.

    Raises:
      ValueError: where the target's network is no such one.
    """
    ours, theirs = json.loads(net.config), json.loads(to.config)
    if ours["constructor"] != theirs["constructor"] or "depth" not in ours:
        raise ValueError(
            f"`net` {to.config} is of another family than the tickets', {net.config}; tickets "
            f"stretch between depths of one constructor alone"
        )
    return net.adapted(depth=theirs["depth"])


def _of_seeds(ticket: Ticket, have: tuple[int, ...], want: tuple[int, ...]) -> Ticket:
    places = np.asarray([have.index(seed) for seed in want])
    return jax.tree.map(lambda x: np.asarray(x)[places], ticket)


class Bringing:
    """Brings tickets of the source, and the target's own, into the target's network."""

    def __init__(self, runs: Runs, place: Place, seeds: tuple[int, ...], bench: Bench) -> None:
        self.runs, self.place, self.seeds = runs, place, seeds
        streams = [stream(jax.random.key(seed), "transfer") for seed in seeds]
        keys = np.stack([np.asarray(jax.random.key_data(key)) for key in streams])
        self.fresh: Networks = initial_networks(bench, keys)

    def ticket(self, ticket: Ticket) -> Ticket:
        """A ticket of the source, stacked over its seeds, in the target's network."""
        runs, place = self.runs, self.place
        ticket = _of_seeds(ticket, runs.seeds, self.seeds)
        if place.middle != runs.net:
            ticket = elastic(ticket, net=runs.net, to=place.middle, blocks=place.blocks)
        if place.permuted:
            ticket = changed(
                _shuffled(place.permuted), ticket, self.seeds, name="permuted copies",
                net=place.middle, mesh=runs.mesh, exclude=runs.pruning.exclude,
            )  # fmt: skip
        return fit(ticket, net=place.middle, to=place.net, fresh=self.fresh, reinit=place.reinit)

    def own(self, level: int) -> Ticket:
        """The target's own tickets."""
        own = self.place.own
        assert own is not None
        ticket = _of_seeds(own.whole(level), own.seeds, self.seeds)
        return self.with_output(ticket)

    def with_output(self, ticket: Ticket) -> Ticket:
        """A ticket of the target's network with the output layer that all have in common."""
        net = self.place.net
        return fit(ticket, net=net, to=net, fresh=self.fresh, reinit=self.place.reinit)


def _shuffled(blocks: tuple[str, ...]) -> Change:
    """A change that shuffles the masks of some blocks within each layer."""

    def permuted_copies(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
        paths = iter(trees.paths(ticket.params))
        prunable: Any = jax.tree.map(
            lambda p: trees.matches(next(paths), blocks) and p, net.prunable(ticket.params)
        )
        return ticket.replace(mask=masks.shuffle(ticket.mask, key=key, prunable=prunable))

    return permuted_copies
