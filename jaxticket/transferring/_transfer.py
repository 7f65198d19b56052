"""Transfer: training of tickets in another setting than the one they were found in."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from jaxticket import _identity, results
from jaxticket._check import chosen, distinct_seeds, flag, instance, whole
from jaxticket.controls import Change, changed, named_changes
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import teaching
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import OnEvaluation, Runtime, settled
from jaxticket.pruning_settings import Loaded, PruningSettings
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.plan import checked_keep
from jaxticket.sparsify.runner import Group, Runner, Weights
from jaxticket.ticket import Ticket
from jaxticket.transferring.depth import Blocks
from jaxticket.transferring.target import Adapter, fresh_networks, runs_of, target_of
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
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
) -> Runs:
    """Train tickets in another setting: other data, another optimizer or another depth.

    At every level, the transferred tickets train side by side with random tickets and with the
    target's own tickets.

    Masks, weights and BatchNorm statistics carry over. The output layer is reinitialized, equally
    for all tickets of a seed, and is not pruned, even if the classes agree; its entries then do not
    count in densities. If the images have one channel in one setting and several in the other, the
    first kernel and its mask are adapted; all other masks keep their counts. Between depths of a
    residual family, blocks are stretched or squeezed (`jt.elastic`, where the ticket keeps its
    output layer; `reinit_output=False` does so here).

    Args:
      runs: tickets of the source, from `find_tickets`, `prune_at`, `search`, `branch` or
        `transfer`; or a ticket of `Ticket.load`, or a list of them (for each level one per seed, in
        order). The latter need `net`, which is then their network, `training` and `seeds`, and
        allow only controls that put masks on new weights, which are used as drawn, without the
        factors that weights of learned masks or of `rescale` may have.
      to: the target: its data, or its runs, which define data, network and training and whose
        tickets are trained as branch "own", with the same output layer.
      training: how tickets are trained; None for that of the target's runs, or of the source.
      net: the target's network; None for that of the target's runs, or that of the source adapted
        to the shape and classes of the data.
      reinit_output: False keeps the output layer with its mask; shapes have to agree.
      start: step of the schedule at which training starts, for transferred and own tickets; also
        weights of a later step start at 0, unless `start=runs.pruning.rewind_step`. Controls with
        new weights start at 0.
      seeds: some of the seeds of `runs` (and of the target's runs); None for all.
      levels: some of the levels of both; None for all. Level 0 is the dense network.
      branches: controls of the transferred tickets: names in `jt.BRANCHES` or functions. By
        default masks are permuted over all layers and put on new weights: at level 0 a dense
        network from initialization.
      blocks: which block goes where between depths, such as "0:0;1:1,2".
      permute_copies: shuffle the masks of repeated blocks, within each layer.
      keep: "trained" also keeps the networks of all branches as they are after training
        (`Runs.trained`).
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      folder: where to save; None for a folder below that of `runs`, if it has one.
      at_once: replicas that one device holds at most; those of a level train together.
      save_every: seconds between saves, see `find_tickets`.
      progress: show progress, see `find_tickets`.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs of branch "transferred"; their table has "own" and the controls too.

    Raises:
      ValueError: for layers that do not fit (all are named), unknown levels and seeds, a start
        beyond the training, controls that need weights which loaded tickets do not contain, and
        if `training` is incompatible with the network, data or devices.

    Reference: Morcos et al. 2019, section 3.3 and appendix A.1; Chen et al. 2021 (depths).

    Example:
      `jt.transfer(runs, to=other_runs)` compares with the tickets that were found on the target;
      `jt.transfer(runs, to=data, training=other)` trains on other data or with other settings.
    """
    runtime = settled(
        runtime,
        folder=folder,
        at_once=at_once,
        save_every=save_every,
        progress=progress,
        on_evaluation=on_evaluation,
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
    target = target_of(
        runs, to, net, training, reinit_output=reinit_output, blocks=blocks, permute=permute_copies
    )
    training = check_fit(target.net, target.data, target.training, runs.mesh)
    own, target = target.own, replace(target, training=training)
    if start >= training.steps:
        raise ValueError(
            f"`start` {start} is not before the end of `training` at step {training.steps}; start "
            f"earlier or train longer"
        )
    seeds = _chosen_seeds(runs, own, seeds)
    teaching.check(training, target.net, target.data, seeds)
    known = _common("levels", runs.levels, None if own is None else own.levels)
    levels = chosen("levels", levels, known, ", which source and target have")
    changes = named_changes(branches)
    if odd := sorted({TRANSFERRED, OWN} & set(changes)):
        raise ValueError(
            f"`branches` must not be named {odd}, which are names of the tickets; rename them"
        )
    loaded = isinstance(runs.pruning, Loaded)
    if loaded:
        # raises before anything is trained
        for name, change in changes.items():
            changed(
                change, runs.whole(max(levels)), runs.seeds, name=name, net=runs.net,
                mesh=runs.mesh, exclude=runs.pruning.exclude,
            )  # fmt: skip
    exclude = tuple(dict.fromkeys((*target.exclude, *target.reinit)))
    pruning = replace(runs.pruning, exclude=exclude)
    kept = checked_keep(keep, keep_at, training.steps)
    settings = _identity.run(
        "transfer",
        target.net,
        target.data,
        of=runs.identity(levels),
        own=None if own is None else own.identity(levels),
        training=training,
        reinit_output=reinit_output,
        start=start,
        seeds=seeds,
        levels=levels,
        # a list: groups train in this order
        branches=list(changes.items()),
        blocks=blocks,
        permute_copies=permute_copies,
        **kept.settings,
    )
    name = results.run_name(f"to-{target.data.name}", settings)
    runtime = runtime.in_folder(runs.folder, "transfers", name)
    logs, by_level, costs, weights = [], {}, [], Weights({}, {})
    count = len(seeds) * (1 + (own is not None) + len(changes))
    size = runtime.replicas_per_call(count, runs.size)
    steps = count * len(levels) * (training.steps - start)
    with runtime.run(target.net, target.data, training, settings, size=size, steps=steps) as run:
        runner = Runner(run, target.net, target.data, training, seeds)
        adapter = Adapter(runs, target, seeds, fresh_networks(target.net, run.mesh, seeds))
        run.describe(f"transfer to {target.data.name}")
        # level by level, so that only the tickets of one are in memory with all weights
        for level in levels:
            tickets = _tickets(adapter, runner, pruning, changes, level, start)
            groups = [
                Group(
                    name,
                    level,
                    functools.partial(tickets.__getitem__, name),
                    training,
                    pruning,
                    runs.pruning.noise(level),
                    adapter.lost(level, own if name == OWN else None),
                    start=start,
                )
                for name in tickets
            ]
            trained = runner.train(groups, unit=f"level-{level:02d}-jobs", weights=kept)
            for group, networks in zip(groups, trained.kept, strict=True):
                weights.add(group, networks)
            logs += trained.logs
            costs += [{**row, "unit": f"level {level}, {row['unit']}"} for row in trained.costs]
            by_level[level] = tickets[TRANSFERRED].masked()
        result = runner.runs(
            pruning,
            branch=TRANSFERRED,
            logs=logs,
            tickets=by_level,
            origin=adapter.ticket(runs.origin),
            costs=costs,
            lost={level: adapter.lost(level) for level in levels},
            found_in=None if loaded else runs.found_in or runs,
            moved={"start": start, "reinit_output": reinit_output},
            weights=weights,
        )
        run.finish(result.save)
    return result


def _tickets(
    adapter: Adapter,
    runner: Runner,
    pruning: PruningSettings,
    changes: Mapping[str, Change],
    level: int,
    start: int,
) -> dict[str, Ticket]:
    """Give all tickets of a level that are trained, by branch."""
    step = np.full(len(adapter.seeds), start, np.int32)
    ticket = adapter.ticket(adapter.runs.whole(level)).replace(step=step)
    tickets = {TRANSFERRED: ticket}
    factors = pruning.factors(ticket.mask) if level else None
    if (own := adapter.target.own) is not None:
        tickets[OWN] = adapter.own(own, level).replace(step=step)
    for name, change in changes.items():
        control = runner.control(name, change, ticket, pruning=pruning, factors=factors)
        tickets[name] = adapter.with_output(control)
    return tickets


def _common(name: str, source: tuple[int, ...], own: tuple[int, ...] | None) -> tuple[int, ...]:
    """Give the seeds or levels that the source shares with the target's runs, if it has any."""
    common = tuple(n for n in source if own is None or n in own)
    if not common:
        raise ValueError(
            f"`to` has the {name} {own} and `runs` {source}, none in common; find both with the "
            f"same {name}, or pass data as `to`"
        )
    return common


def _chosen_seeds(runs: Runs, own: Runs | None, seeds: Iterable[int] | None) -> tuple[int, ...]:
    known = _common("seeds", runs.seeds, None if own is None else own.seeds)
    found = known if seeds is None else distinct_seeds(seeds)
    if not set(found) <= set(known):
        raise ValueError(
            f"`seeds` must be some of {known}, which source and target have, got {found}"
        )
    return found
