"""The target of a transfer: its network and data, and tickets brought into it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket._check import distinct_seeds
from jaxticket.controls import Change, changed
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks, initial_networks
from jaxticket.engine.runtime import Run
from jaxticket.random import stream
from jaxticket.runs import Runs, density
from jaxticket.settings import Loaded, PruningAtStep, Training
from jaxticket.ticket import Ticket, check_ticket
from jaxticket.transferring.adapt import fit
from jaxticket.transferring.depth import Blocks, copies, depths, elastic, path_in, sources
from jaxticket.typing import Key, Network


class Place(NamedTuple):
    """Where tickets are brought to.

    Attributes:
      net, data, training, own: of the target; its own runs or None.
      middle: the source's network with the blocks of the target's.
      reinit: layers that are drawn anew.
      exclude: patterns of paths that the source did not prune.
      blocks: as of `transfer`.
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
    if not isinstance(to, (Data, Stream, Runs)):
        raise ValueError(
            f"`to` must be data or runs, got {to!r}; load data with jt.data.load(name)"
        )
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
    middle, permuted, exclude = runs.net, (), runs.pruning.exclude
    if depths(runs.net) != depths(net):
        middle = _deeper(runs.net, net)
        taken = sources(runs.net, middle, blocks)
        try:
            elastic(_blank(runs.net), net=runs.net, to=middle, blocks=blocks)
        except ValueError as error:
            raise ValueError(
                f"`net` {net.config} has blocks of another kind than the tickets' network "
                f"{runs.net.config}: {error}"
            ) from None
        exclude = _excluded(exclude, _tree.paths(middle.shapes[0]), taken, runs.net, middle)
        permuted = copies(taken, middle) if permute else ()
    elif blocks is not None or permute:
        raise ValueError(
            "`blocks` and `permute_copies` are for residual networks of another depth; these have "
            "the same blocks"
        )
    reinit = (net.output,) if reinit_output else ()
    fit(_blank(middle), net=middle, to=net, fresh=_zeros(net), reinit=reinit)
    net.prunable_leaves((*exclude, *reinit))
    return Place(net, data, training, own, middle, reinit, exclude, blocks, permuted)


def runs_of(
    tickets: Ticket | Sequence[Ticket],
    to: Data | Stream | Runs,
    net: Network | None,
    training: Training | None,
    seeds: Iterable[int] | None,
) -> Runs:
    """Single tickets, as they are loaded, as runs.

    Where they were found is not known: `data` are the target's. Weights that they do not hold are
    nan, so that nobody takes them for weights.

    Args:
      tickets: of one network, for each level as many as there are seeds, in their order.
      to: the target.
      net: the tickets' network; None for that of the runs `to`.
      training: None for that of the runs `to`.
      seeds: for each ticket of a level one.

    Raises:
      ValueError: for what is missing or does not fit.
    """
    given = [tickets] if isinstance(tickets, Ticket) else tickets
    alike = isinstance(given, Sequence) and all(isinstance(ticket, Ticket) for ticket in given)
    if not alike or not given or any(np.ndim(ticket.level) for ticket in given):
        raise ValueError(
            f"`runs` must be what find_tickets returned, or tickets as of jt.Ticket.load (one or a "
            f"list of them, not stacked), got {type(tickets).__name__}"
        )
    own = to if isinstance(to, Runs) else None
    net = own.net if net is None and own is not None else net
    training = own.training if training is None and own is not None else training
    for name, value in (("net", net), ("training", training), ("seeds", seeds)):
        if value is None:
            raise ValueError(
                f"`{name}` is needed where `runs` are loaded tickets, which do not say it; pass "
                f"net (of the tickets), training and seeds"
            )
    assert net is not None and training is not None and seeds is not None
    seeds = distinct_seeds(seeds)
    like = _zeros(net)
    by_level: dict[int, list[Ticket]] = {}
    for ticket in given:
        check_ticket("runs", ticket, like)
        by_level.setdefault(int(ticket.level), []).append(ticket)
    for level, some in by_level.items():
        if len(some) != len(seeds):
            raise ValueError(
                f"`seeds` must be one for each ticket of a level, got {seeds} for {len(some)} "
                f"tickets of level {level}"
            )
    levels = {
        level: jax.tree.map(lambda *x: np.stack(x), *some)
        for level, some in sorted(by_level.items())
    }
    last = levels[max(levels)]
    origin = last.replace(params=jax.tree.map(lambda w: np.full_like(w, np.nan), last.params))
    whole = PruningAtStep((1.0,))
    densities = {float(density(net, whole, ticket).mean()) for ticket in levels.values()}
    step = max(int(ticket.step) for ticket in given)
    mesh = parallel.check_mesh(None) if own is None else own.mesh
    return Runs(
        net, to.data if isinstance(to, Runs) else to, training,
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
    """What is not pruned at another depth: what is taken from blocks that were not."""
    wanted = [path for path in paths if _tree.matches(path_in(path, taken, net, to), exclude)]
    here = tuple(p for p in exclude if any(_tree.matches(path, [p]) for path in paths))
    # the patterns themselves where they say the same
    same = [path for path in paths if _tree.matches(path, here)] == wanted
    return here if same else tuple(wanted)


def _zeros(net: Network) -> Networks:
    # of no size in memory
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), net.shapes)


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

    def __init__(self, runs: Runs, place: Place, seeds: tuple[int, ...], run: Run) -> None:
        self.runs, self.place, self.seeds = runs, place, seeds
        streams = [stream(jax.random.key(seed), "transfer") for seed in seeds]
        keys = np.stack([np.asarray(jax.random.key_data(key)) for key in streams])
        self.fresh: Networks = initial_networks(place.net, run.mesh, keys)

    def ticket(self, ticket: Ticket) -> Ticket:
        """A ticket of the source, stacked over its seeds, in the target's network."""
        runs, place = self.runs, self.place
        ticket = _of_seeds(ticket, runs.seeds, self.seeds)
        if place.middle != runs.net:
            ticket = elastic(ticket, net=runs.net, to=place.middle, blocks=place.blocks)
        if place.permuted:
            ticket = changed(
                _shuffled(place.permuted), ticket, self.seeds, name="permuted copies",
                net=place.middle, mesh=runs.mesh, exclude=place.exclude,
            )  # fmt: skip
        return fit(ticket, net=place.middle, to=place.net, fresh=self.fresh, reinit=place.reinit)

    def own(self, level: int) -> Ticket:
        """The target's own tickets."""
        own = self.place.own
        assert own is not None
        ticket = _of_seeds(own.whole(level), own.seeds, self.seeds)
        return self.with_output(ticket)

    def lost(self, level: int, *, own: bool = False) -> np.ndarray:
        """Which seeds have no ticket at a level in the source (or among the target's own), bool
        [seed]; see `Runs.lost`.
        """
        runs = self.place.own if own else self.runs
        assert runs is not None
        return runs.lost_at(level)[[runs.seeds.index(seed) for seed in self.seeds]]

    def with_output(self, ticket: Ticket) -> Ticket:
        """A ticket of the target's network with the output layer that all have in common."""
        net = self.place.net
        return fit(ticket, net=net, to=net, fresh=self.fresh, reinit=self.place.reinit)


def _shuffled(blocks: tuple[str, ...]) -> Change:
    """A change that shuffles the masks of some blocks within each layer."""

    def permuted_copies(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
        paths = iter(_tree.paths(ticket.params))
        prunable: Any = jax.tree.map(
            lambda p: _tree.matches(next(paths), blocks) and p, net.prunable(ticket.params)
        )
        return ticket.replace(mask=masks.shuffle(ticket.mask, key=key, prunable=prunable))

    return permuted_copies
