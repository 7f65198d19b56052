"""Transfer: tickets found in one setting, trained in another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import masks, parallel, results, trees
from jaxticket.branches import BRANCHES, Change, changed
from jaxticket.checkpoint import Interrupt, RunFolder
from jaxticket.checks import at_least, distinct_seeds, from_table
from jaxticket.data.arrays import Data
from jaxticket.data.stream import Stream
from jaxticket.elastic import Blocks, copies, depths, elastic, sources
from jaxticket.fit import fit
from jaxticket.jobs import (
    Bench,
    Jobs,
    job_plan,
    join,
    progress_bar,
    report_diverged,
    train_blocks,
)
from jaxticket.rng import root_keys, stream
from jaxticket.runs import Runs, density
from jaxticket.settings import Training
from jaxticket.ticket import Ticket, host_apply
from jaxticket.train import check_fit, program, put_data
from jaxticket.trunk import Networks, initial_networks
from jaxticket.types import Key, Network

TRANSFERRED, OWN = "transferred", "own"
RANDOM = "globally_permuted"


class _Place(NamedTuple):
    """Where tickets are brought to."""

    net: Network
    data: Data | Stream
    training: Training
    own: Runs | None


def transfer(
    runs: Runs,
    *,
    to: Data | Stream | Runs,
    training: Training | None = None,
    net: Network | None = None,
    reinit_output: bool = True,
    start: int = 0,
    seeds: Iterable[int] | None = None,
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = (RANDOM,),
    blocks: Blocks = None,
    permute_copies: bool = False,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs:
    """Trains tickets in another setting: on other data, with another optimizer, at another depth.
    At every level they train side by side with random tickets and with the target's own.

    Masks, weights and BatchNorm statistics carry over. The output layer is drawn anew, the same for
    all tickets of a seed, and is not pruned, also where the classes agree; its entries then do not
    count in densities. Where images have one channel here and several there, the first kernel is
    adapted (`jaxticket.fit`). Between depths of a residual family, blocks are stretched or squeezed
    (`jaxticket.elastic`).

    Args:
      runs: the source's tickets, of `find_tickets`, `prune_at` or `search`.
      to: the target: its data, or its own runs, which say data, network and training and whose
        tickets train beside the others as branch "own", with the same output layer.
      training: how all are trained; if None as the target's own runs were, or as the source's.
      net: the target's network; that of the target's runs if None, or the source's for the shape
        and classes of the data.
      reinit_output: False keeps the output layer with its mask, where shapes agree.
      start: step of the schedule at which all begin; the source's weights of a later step begin at
        0 too unless `start=runs.pruning.rewind_step` says otherwise.
      seeds: some of those of `runs` (and of the target's); all if None.
      levels: some of the levels that both have; all if None. Level 0 is the dense network.
      branches: controls, changes of the transferred tickets: names of `jt.BRANCHES` or functions.
        Usually masks permuted over all layers with new weights: at level 0 a dense network from
        initialization.
      blocks: which block goes where between depths, such as "0:0;1:1,2".
      permute_copies: shuffle the masks of blocks that are further copies of one, in each layer.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      save_every, progress: as for `find_tickets`.

    Returns:
      Runs of branch "transferred"; its table has "own" and the controls too.

    Raises:
      ValueError: for layers that do not fit, which are named, levels and seeds that are not there,
        a start beyond the training, and what training refuses.

    Reference: Morcos et al. 2019, section 3.3 and appendix A.1; Chen et al. 2021 (depths).
    """
    place = _place(runs, to, net, training)
    target, data = place.net, place.data
    check_fit(target, data, place.training, runs.mesh)
    at_least("start", start, 0, integer=True)
    if start >= place.training.steps:
        raise ValueError(
            f"`start` {start} leaves nothing of a `training` of {place.training.steps} steps; "
            f"start earlier or train for longer"
        )
    seeds = _seeds(runs, place.own, seeds)
    levels = _levels(runs, place.own, levels)
    changes = {
        c if isinstance(c, str) else str(getattr(c, "__name__", "branch")): from_table(
            "branches", c, BRANCHES
        )
        for c in branches
    }
    if odd := sorted({TRANSFERRED, OWN} & set(changes)):
        raise ValueError(f"`branches` may not be called {odd}, which are the tickets themselves")
    exclude = runs.pruning.exclude
    if reinit_output and target.output not in exclude:
        exclude = (*exclude, target.output)
    pruning = replace(runs.pruning, exclude=exclude)
    settings = {
        "kind": "transfer",
        "of": _identity(runs),
        "own": None if place.own is None else _identity(place.own),
        "net": target.config,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "training": place.training,
        "reinit_output": reinit_output,
        "start": start,
        "seeds": seeds,
        "levels": levels,
        "branches": changes,
        "blocks": blocks,
        "permute_copies": permute_copies,
    }
    if folder is None and runs.folder is not None:
        folder = runs.folder / "transfers" / results.run_name(f"to-{data.name}", settings)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    interrupt = Interrupt()
    with interrupt.listening(folder is not None), progress_bar(0, shown=progress) as bar:
        store = None if folder is None else RunFolder(folder, settings, every=save_every)
        put = put_data(data, place.training, runs.mesh)
        bench = Bench(
            program(target, place.training, runs.mesh, len(data.splits)), put, runs.mesh, 0,
            len(data.splits), place.training.evaluation_interval, store, interrupt, bar,
        )  # fmt: skip
        bring = _Bringing(runs, place, seeds, reinit_output, blocks, permute_copies, bench)
        groups = _groups(bring, changes, levels, exclude, start)
        parts = [
            Jobs(
                ticket.params, ticket.stats, ticket.mask, keys, np.asarray(ticket.step, np.int32),
                job_plan(place.training, len(seeds), order=_order(runs, level)),
            )
            for (_, level), ticket in groups.items()
        ]  # fmt: skip
        jobs = join(parts)
        # as many at a time as the run has had reuses its program where nothing else changed
        size = runs.size
        if at_once is not None or not parallel.maps(runs.mesh):
            size = parallel.block_size(len(jobs.start), runs.mesh, at_once)
        bar.total = jobs.steps
        bar.set_description(f"transfer to {data.name}")
        arrays, costs = train_blocks(bench._replace(size=size), jobs)
        histories = []
        for number, ((name, level), ticket) in enumerate(groups.items()):
            mine = slice(number * len(seeds), (number + 1) * len(seeds))
            diverged = arrays["diverged"][mine]
            histories.append(
                results.History(
                    np.asarray(seeds), level, density(target, pruning, ticket), name,
                    arrays["steps"][:, mine], arrays["wanted"][:, mine],
                    arrays["values"][:, mine], diverged, np.ones(len(seeds)),
                )
            )  # fmt: skip
            report_diverged(bar, f"level {level}, {name}", seeds, diverged)
    origin = bring.ticket(runs.origin)
    result = Runs(
        target, data, place.training, pruning, seeds, TRANSFERRED, tuple(histories),
        {level: _masked(ticket) for (name, level), ticket in groups.items() if name == TRANSFERRED},
        origin, tuple(costs), None if store is None else Path(store.path), runs.mesh, size,
    )  # fmt: skip
    if store is not None:
        result.save()
        store.forget_state()
    return result


class _Bringing:
    """Brings tickets of the source, and the target's own, into the target's network."""

    def __init__(
        self,
        runs: Runs,
        place: _Place,
        seeds: tuple[int, ...],
        reinit_output: bool,
        blocks: Blocks,
        permute_copies: bool,
        bench: Bench,
    ) -> None:
        self.runs, self.place, self.seeds = runs, place, seeds
        self.reinit = (place.net.output,) if reinit_output else ()
        streams = [stream(jax.random.key(seed), "transfer") for seed in seeds]
        keys = np.stack([np.asarray(jax.random.key_data(key)) for key in streams])
        self.fresh: Networks = initial_networks(bench, keys)
        self.middle, self.blocks, self.permuted = runs.net, blocks, ()
        if depths(runs.net) != depths(place.net) and depths(runs.net):
            self.middle = _deeper(runs.net, place.net)
            taken = sources(runs.net, self.middle, blocks)
            self.permuted = copies(taken) if permute_copies else ()
        elif blocks is not None or permute_copies:
            raise ValueError(
                "`blocks` and `permute_copies` are for residual networks of another depth; these "
                "have the same blocks"
            )

    def ticket(self, ticket: Ticket) -> Ticket:
        """A ticket of the source, stacked over its seeds, in the target's network."""
        ticket = _of_seeds(ticket, self.runs.seeds, self.seeds)
        if self.middle != self.runs.net:
            ticket = elastic(ticket, net=self.runs.net, to=self.middle, blocks=self.blocks)
        if self.permuted:
            ticket = changed(
                _shuffled(self.permuted), ticket, self.seeds, name="permuted copies",
                net=self.middle, mesh=self.runs.mesh,
            )  # fmt: skip
        return fit(ticket, net=self.middle, to=self.place.net, fresh=self.fresh, reinit=self.reinit)

    def own(self, level: int) -> Ticket:
        """The target's own tickets."""
        own = self.place.own
        assert own is not None
        ticket = _of_seeds(own.whole(level), own.seeds, self.seeds)
        return fit(ticket, net=own.net, to=own.net, fresh=self.fresh, reinit=self.reinit)


def _groups(
    bring: _Bringing,
    changes: Mapping[str, Change],
    levels: tuple[int, ...],
    exclude: tuple[str, ...],
    start: int,
) -> dict[tuple[str, int], Ticket]:
    """All that is trained, by branch and level."""
    count = len(bring.seeds)
    here = np.full(count, start, np.int32)
    groups: dict[tuple[str, int], Ticket] = {}
    for level in levels:
        ticket = bring.ticket(bring.runs.whole(level)).replace(step=here)
        groups[TRANSFERRED, level] = ticket
        if bring.place.own is not None:
            groups[OWN, level] = bring.own(level).replace(step=here)
        for name, change in changes.items():
            groups[name, level] = changed(
                change, ticket, bring.seeds, name=name, net=bring.place.net,
                mesh=bring.runs.mesh, exclude=exclude,
            )  # fmt: skip
    return groups


def _shuffled(blocks: tuple[str, ...]) -> Change:
    """A change that shuffles the masks of some blocks within each layer."""

    def permuted_copies(ticket: Ticket, key: Key, *, net: Network) -> Ticket:
        paths = iter(trees.paths(ticket.params))
        prunable: Any = jax.tree.map(
            lambda p: trees.matches(next(paths), blocks) and p, net.prunable(ticket.params)
        )
        return ticket.replace(mask=masks.shuffle(ticket.mask, key=key, prunable=prunable))

    return permuted_copies


def _place(
    runs: Runs, to: Data | Stream | Runs, net: Network | None, training: Training | None
) -> _Place:
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
        return _Place(own.net, data, training, own)
    if net is None:
        net = runs.net
        if (net.shape, net.classes) != (data.shape, data.classes):
            net = net.adapted(shape=data.shape, classes=data.classes)
    return _Place(net, data, training, None)


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


def _masked(ticket: Ticket) -> Ticket:
    return ticket.replace(params=host_apply(ticket.mask, ticket.params))


def _order(runs: Runs, level: int) -> int:
    return level if getattr(runs.pruning, "order", "same") == "fresh" else 0


def _identity(runs: Runs) -> dict[str, Any]:
    return {
        "net": runs.net.config,
        "data": {"name": runs.data.name, "fingerprint": runs.data.fingerprint},
        "training": runs.training,
        "pruning": runs.pruning,
        "seeds": runs.seeds,
        "branch": runs.branch,
    }


def _seeds(runs: Runs, own: Runs | None, asked: Iterable[int] | None) -> tuple[int, ...]:
    known = tuple(s for s in runs.seeds if own is None or s in own.seeds)
    seeds = known if asked is None else distinct_seeds(asked)
    if not seeds or not set(seeds) <= set(known):
        raise ValueError(
            f"`seeds` must be some of {known}, which source and target have, got {seeds}"
        )
    return seeds


def _levels(runs: Runs, own: Runs | None, asked: Sequence[int] | None) -> tuple[int, ...]:
    known = tuple(n for n in runs.levels if own is None or n in own.levels)
    levels = known if asked is None else tuple(asked)
    if not levels or not set(levels) <= set(known):
        raise ValueError(
            f"`levels` must be some of {known}, which source and target have, got {levels}"
        )
    return levels
