"""Measuring tickets: a probe of all replicas of a level in one compiled program."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _identity, _tree, masks, results
from jaxticket._check import chosen, from_table, hashable, naming, one_of
from jaxticket.analysis.probes import PROBES, Limited, Probe, prepared
from jaxticket.controls import BRANCHES, Change, changed
from jaxticket.data.arrays import Data
from jaxticket.engine import parallel
from jaxticket.engine.loop import Arrays
from jaxticket.engine.metrics import cast
from jaxticket.engine.monitors import check_numbers
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.engine.together import replicas_together
from jaxticket.problem import Problem, batched
from jaxticket.random import root_keys, stream
from jaxticket.runs import WEIGHTS, Runs, density, require_runs
from jaxticket.settings import static_part
from jaxticket.ticket import Ticket
from jaxticket.typing import Key, Network

if TYPE_CHECKING:
    import pandas as pd


class Selection(NamedTuple):
    """Which networks of runs are looked at.

    Attributes:
      changes: branches, as `changes_of` gives them.
      levels, seeds: of the runs.
      trained: whether networks are those after training, in place of tickets as they start.
    """

    changes: dict[str, Change]
    levels: tuple[int, ...]
    seeds: tuple[int, ...]
    trained: bool

    def ticket(self, runs: Runs, label: str, level: int) -> Ticket:
        """The networks of a branch and level, stacked over [replica] of the runs."""
        if self.trained:
            return runs.trained_tickets(level, label)
        return ticket_of(runs, label, self.changes[label], level)


def selected(
    runs: Runs,
    *,
    levels: Sequence[int] | None,
    branches: Sequence[str | Change],
    seeds: Sequence[int] | None,
    weights: str,
) -> Selection:
    """Check which networks are asked for; arguments as of `measure`.

    Raises:
      ValueError: for levels, seeds, branches and weights that there are not.
    """
    require_runs("runs", runs)
    return Selection(
        levels=chosen("levels", levels, runs.levels),
        seeds=chosen("seeds", seeds, runs.seeds),
        changes=changes_of(branches, runs.branch),
        trained=one_of("weights", weights, WEIGHTS) == "trained",
    )


def measure(
    runs: Runs,
    probe: str | Probe,
    *,
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = ("ticket",),
    seeds: Sequence[int] | None = None,
    examples: int | None = 1000,
    split: str = "train",
    weights: str = "start",
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure tickets with a probe, all replicas of a level in one compiled program.

    By default tickets are measured as they start, with the weights of the rewind step. With
    `weights="trained"` the networks after training are measured, which are there if the runs were
    made with `keep="trained"`.

    Networks are in evaluation mode, products are computed at the highest precision, and in float64
    where that is enabled (`jax_enable_x64`). The random numbers of a probe are those of the seed:
    the same for all levels and branches, which are so compared along the same directions.

    Args:
      runs: what `find_tickets`, `prune_at`, `search`, `branch` or `transfer` returned.
      probe: a name in `jt.PROBES`, or `probe(problem, ticket, *, key) -> dict of arrays` (see
        `jaxticket.analysis.probes`), such as `jt.probes.HessianTrace(samples=20)`.
      levels: which levels; all if None.
      branches: "ticket" for the tickets of `runs`; names in `jt.BRANCHES` and change functions for
        the controls that they make of them.
      seeds: which seeds; all if None.
      examples: at most so many examples of the split, evenly spread over it; None for all.
      split: "train", "validation" or "test".
      weights: "start" for tickets as they start; "trained" for the networks after training, of
        branches that were trained with keep="trained".
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      progress: as for `find_tickets`.

    Returns:
      Tidy table, one row per number: seed, level, density, branch, metric (the probe's name for
      it), index (its place in an array of several, else 0), value, and diverged: the step at which
      the training of this ticket diverged, or the network that its mask should have come from; -1
      for the others. Values of what diverged are nan.

    Raises:
      ValueError: for levels, seeds, branches and splits that there are not, data streams, and a
        probe that fails or gives something else.
    """
    selection = selected(runs, levels=levels, branches=branches, seeds=seeds, weights=weights)
    changes, levels, seeds = selection.changes, selection.levels, selection.seeds
    runtime = settled(runtime, folder=folder, at_once=at_once, progress=progress).on(runs.mesh)
    function = hashable("probe", from_table("probe", probe, PROBES))
    name = probe if isinstance(probe, str) else _name(probe)
    final = {}
    if selection.trained:
        final = {
            (label, level): runs.trained_tickets(level, label)
            for label in changes
            for level in levels
        }
    data = in_memory(runs)
    found, by = batched(data, split, examples=examples)
    training = static_part(runs.training)
    more = prepared(function, data, split, examples)
    _check_probe(function, runs.net, Problem(runs.net, found, training, by, more=more))
    if isinstance(function, Limited):
        _check_weights(function, runs, levels, seeds)
    settings = _identity.run(
        "measure",
        runs.net,
        runs.data,
        of=runs.identity(levels),
        probe=function,
        levels=levels,
        branches=list(changes.items()),
        seeds=seeds,
        examples=examples,
        split=split,
        # left out where it is the default, so that folders of before still fit
        **({"weights": _tree.digest(list(final.values()))} if selection.trained else {}),
    )
    runtime = runtime.in_folder(runs.folder, "measures", results.run_name(name, settings))
    mesh, places = runtime.devices, [runs.seeds.index(seed) for seed in seeds]
    size = runtime.replicas_per_call(len(seeds))
    count = len(changes) * len(levels) * len(seeds)
    with runtime.run(runs.net, runs.data, runs.training, settings, size=size, steps=count) as run:
        problem = Problem(runs.net, found, training, by, more=more)
        problem = parallel.put(problem, mesh, replicas=False)
        keys = np.asarray(jax.random.key_data(root_keys(seeds)))
        look = measurer(runs.net, mesh, function)

        def values(ticket: Ticket, first: int, end: int) -> Arrays:
            own = jax.tree.map(lambda x: x[first:end], (ticket, keys))
            padded = parallel.put(parallel.pad(own, size), mesh)
            limits = (np.arange(size) < end - first).astype(np.int32)
            measured = {
                path: np.asarray(x[: end - first])
                for path, x in parallel.host(look(limits, *padded, problem)).items()
            }
            run.advance(end - first)
            return measured

        parts = []
        for label in changes:
            for level in levels:
                run.describe(f"{name} of level {level}, {label}")
                ticket = selection.ticket(runs, label, level)
                lost = runs.lost_at(level)
                share = density(runs.net, runs.pruning, ticket, lost)
                ticket = _tree.rows(ticket, places)
                blocks = [
                    run.unit(
                        block,
                        block.end - block.first,
                        functools.partial(values, ticket, block.first, block.end),
                    )
                    for block in run.blocks(f"{label}-level-{level:03d}", len(seeds), size)
                ]
                diverged = diverged_at(runs, label, level)[places]
                about = {"seed": seeds, "level": [level] * len(seeds), "density": share[places]}
                about |= {"branch": [label] * len(seeds), "diverged": diverged}
                parts += [
                    _rows(np.concatenate([b[metric] for b in blocks]), metric, about)
                    for metric in blocks[0]
                ]
        table = results.concat(parts)
        if run.path is not None:
            run.finish(functools.partial(results.write, table, run.path, "table"))
    return table


def in_memory(runs: Runs) -> Data:
    """Give the data of runs, which probes go through as often as they need.

    Raises:
      ValueError: for a data stream.
    """
    if not isinstance(runs.data, Data):
        raise ValueError(
            "`runs` were trained on a data stream, whose examples probes cannot go through as often"
            " as they need; pass dataclasses.replace(runs, data=part), with as many of them in "
            "memory as are to be looked at: part = jt.data.from_arrays(...)"
        )
    return runs.data


def _name(value: object) -> str:
    return str(getattr(value, "__name__", type(value).__name__))


def changes_of(branches: Sequence[str | Change], own: str) -> dict[str, Change]:
    """What makes the tickets of each branch, by its name in tables."""
    given = (branches,) if isinstance(branches, str) or callable(branches) else tuple(branches)
    found: dict[str, Change] = {}
    for branch in given:
        if branch in ("ticket", own):
            name, change = own, BRANCHES["retrain"]
        else:
            change = from_table("branches", branch, BRANCHES)
            name = branch if isinstance(branch, str) else _name(branch)
        if name in found:
            raise ValueError(f"`branches` holds {name!r} more than once; leave one of them out")
        found[name] = change
    if not found:
        raise ValueError("`branches` is empty; pass names such as ('ticket', 'reinit')")
    return found


def ticket_of(runs: Runs, label: str, change: Change, level: int) -> Ticket:
    """The tickets of a level and branch, stacked over [replica]."""
    if label == runs.branch:
        return runs.by_level[level]
    return changed(
        change,
        runs.whole(level),
        runs.seeds,
        name=label,
        net=runs.net,
        mesh=runs.mesh,
        exclude=runs.pruning.exclude,
        factors=runs.factors(level),
    )


def diverged_at(runs: Runs, label: str, level: int) -> np.ndarray:
    """The step at which each replica of a level and branch diverged, int64 [replica], or -1."""
    found = np.where(runs.lost_at(level), 0, -1)
    for log in runs.histories:
        usual = (log.dilation == 1).all()
        if usual and (log.level, log.branch) == (level, label):
            return np.maximum(found, log.diverged).astype(np.int64)
    return found.astype(np.int64)


def _rows(values: np.ndarray, metric: str, about: Mapping[str, Sequence[object]]) -> pd.DataFrame:
    """The numbers of one name, [replica, ...], as a table; nan where a replica diverged."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat[np.asarray(about["diverged"]) >= 0] = np.nan
    places = {"metric": [metric] * flat.shape[1], "index": np.arange(flat.shape[1])}
    table = results.spread(flat, about, places)
    columns = ["seed", "level", "density", "branch", "metric", "index", "value", "diverged"]
    return table.reindex(columns=columns)


def _check_probe(probe: Probe, net: Network, problem: Problem) -> None:
    """Raises where a probe fails on the shapes of a network, or gives something else."""
    real = jnp.result_type(float)
    params, stats = jax.eval_shape(lambda tree: cast(tree, str(real)), net.shapes)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    mask = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bool_), params)
    ticket = Ticket(mask, params, stats, number, number)  # type: ignore[arg-type]
    with naming("probe", probe):
        found = jax.eval_shape(
            lambda ticket, problem: probe(problem, ticket, key=jax.random.key(0)), ticket, problem
        )
    check_numbers("probe", probe, found)


def _check_weights(probe: Limited, runs: Runs, levels: Sequence[int], seeds: Sequence[int]) -> None:
    """Raise where a ticket that did not diverge has too few weights for a probe."""
    for level in levels:
        ticket, lost = runs.by_level[level], runs.lost_at(level)
        for seed in seeds:
            place = runs.seeds.index(seed)
            if lost[place]:
                continue
            own = _tree.rows(ticket, place)
            ones = jax.tree.map(lambda x: np.ones(x.shape, bool), own.params)
            kept = masks.map_with(lambda m, x: np.asarray(m), own.mask, ones, other=lambda x: x)
            count = sum(int(np.count_nonzero(x)) for x in jax.tree.leaves(kept))
            probe.check_weights(count, f"the ticket of level {level}, seed {seed}")


@functools.lru_cache(maxsize=64)
def measurer(net: Network, mesh: Mesh, probe: Probe) -> Callable[..., dict[str, jax.Array]]:
    """The compiled measurement of replicas.

    Returns:
      `look(limits, tickets, keys, problem) -> name -> [replica, ...]`, nan where the limit is 0;
      keys as key data.
    """

    def one(limit: jax.Array, ticket: Ticket, key: Key, problem: Problem) -> dict[str, jax.Array]:
        real = str(jnp.result_type(float))
        params, stats = (cast(tree, real) for tree in (ticket.params, ticket.stats))
        own = ticket.replace(params=masks.apply(ticket.mask, params), stats=stats)

        def measured(own: Ticket) -> dict[str, jax.Array]:
            drawn = stream(jax.random.wrap_key_data(key), "probe")
            found = probe(problem, own, key=drawn)
            numbers = {name: jnp.asarray(x).astype(real) for name, x in found.items()}
            return _tree.varying_like(numbers, own.params)

        def skipped(own: Ticket) -> dict[str, jax.Array]:
            shapes = jax.eval_shape(measured, own)
            empty = {name: jnp.full(x.shape, jnp.nan, x.dtype) for name, x in shapes.items()}
            return _tree.varying_like(empty, own.params)

        return jax.lax.cond(limit > 0, measured, skipped, own)

    # probes look at the network through the problem
    most = replicas_together(net, mesh)
    return parallel.over_replicas(one, mesh, shared=1, checked=False, vmapped=most)
