"""The target of a transfer: its network, data and training, and tickets adapted to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, masks
from jaxticket._check import distinct_seeds
from jaxticket.controls import Change, changed
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks, initial_networks
from jaxticket.pruning_settings import Loaded, PruningAtStep
from jaxticket.random import stream
from jaxticket.runs import Runs, density
from jaxticket.settings import Training
from jaxticket.ticket import Ticket, check_ticket
from jaxticket.transferring.adapt import fit
from jaxticket.transferring.depth import Blocks, copies, depths, elastic, path_in, sources
from jaxticket.typing import Key, Network


@dataclass(frozen=True, eq=False)
class Target:
    """The setting that tickets are transferred to.

    Attributes:
      net: the network.
      data: the data.
      training: how tickets are trained.
      own: runs of the target, or None.
      middle: the source's network at the target's depth.
      reinit: patterns of layers that are reinitialized.
      exclude: patterns of paths that the source did not prune.
      blocks: which block goes where, see `transfer`.
      permuted: blocks whose masks are shuffled.
    """

    net: Network
    data: Data | Stream
    training: Training
    own: Runs | None
    middle: Network
    reinit: tuple[str, ...]
    exclude: tuple[str, ...]
    blocks: Blocks
    permuted: tuple[str, ...]


def target_of(
    runs: Runs,
    to: Data | Stream | Runs,
    net: Network | None,
    training: Training | None,
    *,
    reinit_output: bool,
    blocks: Blocks,
    permute: bool,
) -> Target:
    """Check and give the target of a transfer.

    Args:
      runs: runs of the source.
      to: data of the target, or its runs.
      net: network of the target; None for that of `to`, or that of `runs` adapted to the data.
      training: how tickets are trained; None for that of `to`, or that of `runs`.
      reinit_output: reinitialize the output layer.
      blocks: which block goes where between depths.
      permute: shuffle the masks of repeated blocks.

    Raises:
      ValueError: for layers that do not fit, and options that have no effect.
    """
    if not isinstance(to, (Data, Stream, Runs)):
        raise ValueError(
            f"`to` must be data or runs, got {to!r}; load data with jt.data.load(name)"
        )
    own, data = (to, to.data) if isinstance(to, Runs) else (None, to)
    if training is None:
        training = runs.training if own is None else own.training
    if own is not None:
        if net is not None and net != own.net:
            raise ValueError(
                f"`net` must be that of the runs `to`, {own.net.config}, got {net.config}; omit "
                f"it, or pass data as `to`"
            )
        net = own.net
    elif net is None:
        net = runs.net
        if (net.shape, net.classes) != (data.shape, data.classes):
            net = net.adapted(shape=data.shape, classes=data.classes)
    if reinit_output and not net.output:
        raise ValueError(
            f"`reinit_output`: the output layer of {net.config} is not known; pass `output` to its "
            f"constructor, or reinit_output=False here"
        )
    middle, permuted, exclude = runs.net, (), runs.pruning.exclude
    if depths(runs.net) != depths(net):
        middle = _deeper(runs.net, net)
        taken = sources(runs.net, middle, blocks)
        try:
            elastic(_blank(runs.net), net=runs.net, to=middle, blocks=blocks)
        except ValueError as error:
            raise ValueError(
                f"`net` {net.config} has other blocks than the network of the tickets, "
                f"{runs.net.config}: {error}"
            ) from None
        exclude = _excluded(exclude, _tree.paths(middle.shapes[0]), taken, runs.net, middle)
        permuted = copies(taken, middle) if permute else ()
    elif blocks is not None or permute:
        raise ValueError(
            "`blocks` and `permute_copies` are for residual networks of another depth, but these "
            "networks have the same blocks; omit them"
        )
    reinit = (net.output,) if reinit_output else ()
    fit(_blank(middle), net=middle, to=net, fresh=_zeros(net), reinit=reinit)
    net.mask((*exclude, *reinit))
    return Target(net, data, training, own, middle, reinit, exclude, blocks, permuted)


def runs_of(
    tickets: Ticket | Sequence[Ticket],
    to: Data | Stream | Runs,
    net: Network | None,
    training: Training | None,
    seeds: Iterable[int] | None,
) -> Runs:
    """Make runs of single tickets, such as loaded ones.

    Their data are not known; the runs have those of the target. Initial weights are not known
    either: they are nan, so that accidental use is detected.

    Args:
      tickets: tickets of one network; for each level one per seed, in their order.
      to: data of the target, or its runs.
      net: the network of the tickets; None for that of the runs `to`.
      training: how tickets are trained; None for that of the runs `to`.
      seeds: one for each ticket of a level.

    Raises:
      ValueError: for arguments that are missing or do not fit together.
    """
    given = [tickets] if isinstance(tickets, Ticket) else tickets
    alike = isinstance(given, Sequence) and all(isinstance(ticket, Ticket) for ticket in given)
    if not alike or not given or any(np.ndim(ticket.level) for ticket in given):
        raise ValueError(
            f"`runs` must be what find_tickets returned, or one or several tickets of "
            f"jt.Ticket.load, not stacked, got {type(tickets).__name__}"
        )
    own, data = (to, to.data) if isinstance(to, Runs) else (None, to)
    if own is not None:
        net, training = net or own.net, training or own.training
    for name, value in (("net", net), ("training", training), ("seeds", seeds)):
        if value is None:
            raise ValueError(
                f"`{name}` is needed if `runs` are loaded tickets, which do not contain it; pass "
                f"net (of the tickets), training and seeds"
            )
    assert net is not None and training is not None and seeds is not None
    seeds = distinct_seeds(seeds)
    like = _zeros(net)
    by_level: dict[int, list[Ticket]] = {}
    dense = net.mask()
    for ticket in given:
        check_ticket("runs", ticket, like)
        ticket = ticket.replace(mask=masks.conform(ticket.mask, dense, called="`runs`"))
        by_level.setdefault(int(ticket.level), []).append(ticket)
    for level, tickets_of_level in by_level.items():
        if len(tickets_of_level) != len(seeds):
            raise ValueError(
                f"`seeds` must be one for each ticket of a level, got {seeds} for "
                f"{len(tickets_of_level)} tickets of level {level}"
            )
    levels = {
        level: jax.tree.map(lambda *x: np.stack(x), *tickets_of_level)
        for level, tickets_of_level in sorted(by_level.items())
    }
    last = levels[max(levels)]
    origin = last.replace(params=jax.tree.map(lambda w: np.full_like(w, np.nan), last.params))
    whole = PruningAtStep((1.0,))
    densities = {float(density(net, whole, ticket).mean()) for ticket in levels.values()}
    step = max(int(ticket.step) for ticket in given)
    mesh = parallel.check_mesh(None) if own is None else own.mesh
    return Runs(
        net, data, training,
        Loaded(tuple(sorted(densities, reverse=True)), step=step),
        seeds, "ticket", (), levels, origin, (), None, mesh,
        parallel.block_size(len(seeds), mesh, None),
    )  # fmt: skip


def _excluded(
    exclude: tuple[str, ...],
    paths: Sequence[str],
    taken: dict[int, tuple[int, ...]],
    net: Network,
    to: Network,
) -> tuple[str, ...]:
    """Exclude layers from pruning at another depth if their source blocks were excluded."""
    excluded = [path for path in paths if _tree.matches(path_in(path, taken, net, to), exclude)]
    # the patterns themselves if they are equivalent
    here = tuple(p for p in exclude if any(_tree.matches(path, [p]) for path in paths))
    same = [path for path in paths if _tree.matches(path, here)] == excluded
    return here if same else tuple(excluded)


def _zeros(net: Network) -> Networks:
    # broadcast, so that they take no memory
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), net.shapes)


def _blank(net: Network) -> Ticket:
    params, stats = _zeros(net)
    zero = np.zeros((), np.int32)
    return Ticket(net.mask(), params, stats, zero, zero)


def _deeper(net: Network, to: Network) -> Network:
    """Give the source's network at the target's depth, for the source's data.

    Raises:
      ValueError: if the networks are not of one family.
    """
    ours, theirs = json.loads(net.config), json.loads(to.config)
    if ours["constructor"] != theirs["constructor"] or "depth" not in ours:
        raise ValueError(
            f"`net` {to.config} is of another family than the network of the tickets, "
            f"{net.config}; tickets can only be stretched between depths of one constructor"
        )
    return net.adapted(depth=theirs["depth"])


def fresh_networks(net: Network, mesh: Mesh, seeds: Sequence[int]) -> Networks:
    """Initialize one network per seed with the keys of reinitialized layers."""
    keys = [jax.random.key_data(stream(jax.random.key(seed), "transfer")) for seed in seeds]
    data = np.stack([np.asarray(key) for key in keys])
    return initial_networks(net, mesh, data, drawn=True)


@dataclass(frozen=True, eq=False)
class Adapter:
    """Adapts tickets of the source, and those of the target, to the target's network.

    Attributes:
      runs: runs of the source.
      target: the target.
      seeds: the seeds that are transferred.
      fresh: networks of these seeds, for reinitialized layers.
    """

    runs: Runs
    target: Target
    seeds: tuple[int, ...]
    fresh: Networks

    def ticket(self, ticket: Ticket) -> Ticket:
        """Adapt a ticket of the source, stacked over the seeds of the source."""
        net, target = self.runs.net, self.target
        ticket = _tree.rows(ticket, self._places(self.runs))
        if target.middle != net:
            ticket = elastic(ticket, net=net, to=target.middle, blocks=target.blocks)
        if target.permuted:
            ticket = changed(
                _shuffled(target.permuted), ticket, self.seeds, name="permuted copies",
                net=target.middle, mesh=self.runs.mesh, exclude=target.exclude,
            )  # fmt: skip
        return fit(ticket, net=target.middle, to=target.net, fresh=self.fresh, reinit=target.reinit)

    def own(self, runs: Runs, level: int) -> Ticket:
        """Give the tickets of one level of the target's runs, with the shared output layer."""
        return self.with_output(_tree.rows(runs.whole(level), self._places(runs)))

    def lost(self, level: int, runs: Runs | None = None) -> np.ndarray:
        """Mark the seeds without a ticket of a level, in the source or other runs; bool [seed]."""
        runs = self.runs if runs is None else runs
        return runs.lost_at(level)[self._places(runs)]

    def with_output(self, ticket: Ticket) -> Ticket:
        """Give a ticket of the target's network the output layer that all tickets share."""
        net = self.target.net
        return fit(ticket, net=net, to=net, fresh=self.fresh, reinit=self.target.reinit)

    def _places(self, runs: Runs) -> list[int]:
        return [runs.seeds.index(seed) for seed in self.seeds]


def _shuffled(blocks: tuple[str, ...]) -> Change:
    """Make a change that shuffles the masks of some blocks within each layer."""

    def permuted_copies(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
        del net
        shuffled = masks.shuffle(ticket.mask, key=key)
        moves = iter([_tree.matches(path, blocks) for path, _ in masks.items(ticket.mask)])
        mask = masks.map_with(lambda m, new: new if next(moves) else m, ticket.mask, shuffled)
        return ticket.replace(mask=mask)

    return permuted_copies
