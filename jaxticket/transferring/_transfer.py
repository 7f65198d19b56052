"""Transfer: tickets found in one setting, trained in another."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxticket import _identity, results
from jaxticket._check import chosen, distinct_seeds, flag, instance, whole
from jaxticket.controls import Change, changed
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.runs import Runs
from jaxticket.settings import Loaded, Training, order_of
from jaxticket.sparsify.iterative import named_changes
from jaxticket.sparsify.runner import Group, Runner
from jaxticket.ticket import Ticket, host_apply
from jaxticket.transferring.depth import Blocks
from jaxticket.transferring.target import Bringing, place_of, runs_of
from jaxticket.typing import Network

TRANSFERRED, OWN = "transferred", "own"
RANDOM = "globally_permuted"


def transfer(
    runs: Runs | Ticket | Sequence[Ticket],
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
    runtime: Runtime | None = None,
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
    adapted (`jaxticket.fit`), and its mask with it; all other masks keep their counts. Between
    depths of a residual family, blocks are stretched or squeezed (`jaxticket.elastic`; there the
    source keeps the output layer, `reinit_output=False`).

    Args:
      runs: the source's tickets, of `find_tickets`, `prune_at`, `search`, `branch` or `transfer`;
        or a ticket of `Ticket.load`, or several (of each level one per seed, in order). Those need
        `net`, which is then their network, `training` and `seeds`, and take only controls that put
        masks on new weights: as they are drawn, without the factor that weights of learned masks or
        of `rescale` may have.
      to: the target: its data, or its own runs, which say data, network and training and whose
        tickets train beside the others as branch "own", with the same output layer.
      training: how all are trained; if None as the target's own runs were, or as the source's.
      net: the target's network; that of the target's runs if None, or the source's for the shape
        and classes of the data.
      reinit_output: False keeps the output layer with its mask; shapes have to agree.
      start: step of the schedule at which tickets begin, transferred and own; weights of a later
        step begin at 0 too, unless `start=runs.pruning.rewind_step` says otherwise. Controls with
        new weights begin at 0.
      seeds: some of those of `runs` (and of the target's); all if None.
      levels: some of the levels that both have; all if None. Level 0 is the dense network.
      branches: controls, changes of the transferred tickets: names of `jt.BRANCHES` or functions.
        Usually masks permuted over all layers with new weights: at level 0 a dense network from
        initialization.
      blocks: which block goes where between depths, such as "0:0;1:1,2".
      permute_copies: shuffle the masks of blocks that are further copies of one, in each layer.
      runtime: folder and the like in one; leave the arguments that follow out then.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most; those of a level train together.
      save_every, progress: as for `find_tickets`.

    Returns:
      Runs of branch "transferred"; its table has "own" and the controls too.

    Raises:
      ValueError: for layers that do not fit, which are named, levels and seeds that are not there,
        a start beyond the training, controls that need weights which loaded tickets do not hold,
        and what training refuses.

    Reference: Morcos et al. 2019, section 3.3 and appendix A.1; Chen et al. 2021 (depths).
    """
    runtime = settled(
        runtime, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    )
    flag("reinit_output", reinit_output)
    flag("permute_copies", permute_copies)
    start = whole("start", start)
    if net is not None:
        instance("net", net, Network, "a network, or None")
    if training is not None:
        instance("training", training, Training, "a jt.Training, or None")
    if not isinstance(runs, Runs):
        runs, net = runs_of(runs, to, net, training, seeds), None
        seeds = runs.seeds
    runtime = runtime.on(runs.mesh)
    place = place_of(
        runs, to, net, training, reinit_output=reinit_output, blocks=blocks, permute=permute_copies
    )
    target, data = place.net, place.data
    check_fit(target, data, place.training, runs.mesh)
    if start >= place.training.steps:
        raise ValueError(
            f"`start` {start} leaves nothing of a `training` of {place.training.steps} steps; "
            f"start earlier or train for longer"
        )
    seeds = _seeds(runs, place.own, seeds)
    levels = _levels(runs, place.own, levels)
    changes = named_changes(branches)
    if odd := sorted({TRANSFERRED, OWN} & set(changes)):
        raise ValueError(f"`branches` may not be called {odd}, which are the tickets themselves")
    loaded = isinstance(runs.pruning, Loaded)
    if loaded:
        # raises before anything is trained
        for name, change in changes.items():
            changed(
                change, runs.whole(max(levels)), runs.seeds, name=name, net=runs.net,
                mesh=runs.mesh, exclude=runs.pruning.exclude,
            )  # fmt: skip
    exclude = tuple(dict.fromkeys((*place.exclude, *place.reinit)))
    pruning = replace(runs.pruning, exclude=exclude)
    settings = _identity.run(
        "transfer",
        target,
        data,
        of=runs.identity(levels),
        own=None if place.own is None else place.own.identity(levels),
        training=place.training,
        reinit_output=reinit_output,
        start=start,
        seeds=seeds,
        levels=levels,
        # jobs lie in this order
        branches=list(changes.items()),
        blocks=blocks,
        permute_copies=permute_copies,
    )
    name = results.run_name(f"to-{data.name}", settings)
    runtime = runtime.in_folder(runs.folder, "transfers", name)
    logs, by_level, costs = [], {}, []
    count = len(seeds) * (1 + (place.own is not None) + len(changes))
    size = runtime.replicas_per_call(count, runs.size)
    steps = count * len(levels) * (place.training.steps - start)
    with runtime.run(target, data, place.training, settings, size=size, steps=steps) as run:
        runner = Runner(run, target, pruning, seeds)
        bring = Bringing(runs, place, seeds, run)
        run.describe(f"transfer to {data.name}")
        # a level at a time: only its tickets are held in full
        for level in levels:
            tickets = _tickets(bring, runner, changes, level, start)
            groups = [
                Group(
                    name,
                    level,
                    functools.partial(tickets.__getitem__, name),
                    place.training,
                    order_of(runs.pruning, level),
                    bring.lost(level, own=name == OWN),
                    start=start,
                )
                for name in tickets
            ]
            trained = runner.train(groups, unit=f"level-{level:02d}-jobs")
            logs += trained.logs
            costs += [{**row, "unit": f"level {level}, {row['unit']}"} for row in trained.costs]
            ticket = tickets[TRANSFERRED]
            by_level[level] = ticket.replace(params=host_apply(ticket.mask, ticket.params))
        result = Runs(
            target, data, place.training, pruning, seeds, TRANSFERRED, tuple(logs), by_level,
            bring.ticket(runs.origin), tuple(costs), run.path,
            runs.mesh, size, found_in=None if loaded else runs.found_in or runs,
            moved={"start": start, "reinit_output": reinit_output},
            lost={level: bring.lost(level) for level in levels},
        )  # fmt: skip
        run.finish(result.save)
    return result


def _tickets(
    bring: Bringing, runner: Runner, changes: Mapping[str, Change], level: int, start: int
) -> dict[str, Ticket]:
    """All that is trained of a level, by branch."""
    here = np.full(len(bring.seeds), start, np.int32)
    ticket = bring.ticket(bring.runs.whole(level)).replace(step=here)
    tickets = {TRANSFERRED: ticket}
    prunable = runner.net.prunable_leaves(runner.pruning.exclude)
    factors = runner.pruning.factors(ticket.mask, prunable) if level else None
    if bring.place.own is not None:
        tickets[OWN] = bring.own(level).replace(step=here)
    controls = runner.controls(changes, ticket, factors=factors)
    return tickets | {name: bring.with_output(other) for name, other in controls.items()}


def _seeds(runs: Runs, own: Runs | None, asked: Iterable[int] | None) -> tuple[int, ...]:
    known = tuple(s for s in runs.seeds if own is None or s in own.seeds)
    if own is not None and not known:
        raise ValueError(
            f"`to` has the seeds {own.seeds} and `runs` {runs.seeds}, none in common; find both "
            f"with the same seeds, or pass data as `to`"
        )
    seeds = known if asked is None else distinct_seeds(asked)
    if not set(seeds) <= set(known):
        raise ValueError(
            f"`seeds` must be some of {known}, which source and target have, got {seeds}"
        )
    return seeds


def _levels(runs: Runs, own: Runs | None, asked: Sequence[int] | None) -> tuple[int, ...]:
    known = tuple(n for n in runs.levels if own is None or n in own.levels)
    if own is not None and not known:
        raise ValueError(
            f"`to` has the levels {own.levels} and `runs` {runs.levels}, none in common; find both "
            f"in the same way, or pass data as `to`"
        )
    return chosen("levels", asked, known, ", which source and target have")
