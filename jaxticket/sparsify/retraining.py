"""Branching: retrain the tickets of a run, changed in one way or with other settings."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import numpy as np

from jaxticket import _identity, results
from jaxticket._check import chosen, from_table, number, one_or_several, text
from jaxticket.controls import BRANCHES, Change, changed
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    job_plan,
    join,
    report_diverged,
    train_blocks,
)
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Run, Runtime, settled
from jaxticket.engine.supervised import Origin
from jaxticket.random import root_keys
from jaxticket.runs import Runs, density, require_runs
from jaxticket.settings import Training, order_of
from jaxticket.ticket import Ticket, host_apply


def branch(
    runs: Runs,
    change: str | Change,
    *,
    training: Training | None = None,
    dilation: float | Sequence[float] = 1.0,
    levels: Sequence[int] | None = None,
    name: str | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs:
    """Retrains tickets changed in one way: all levels, seeds and dilations side by side.

    Args:
      runs: what `find_tickets` returned.
      change: a name in `jt.BRANCHES` or `change(ticket, key, *, net) -> ticket`; "retrain" changes
        nothing.
      training: other settings of training; those of `runs` if None.
      dilation: factor (or several) of all times of the schedule: steps, warmup, milestones and the
        step a ticket starts from. Several factors train side by side and stand in the table's
        column `dilation`.
      levels: which levels; all if None.
      name: the branch's name in tables; the change's name if None.
      runtime: folder and the like in one; leave the arguments that follow out then.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      save_every, progress: as for `find_tickets`.

    Returns:
      Runs of this branch; its table holds this branch alone.

    Raises:
      ValueError: for a level that `runs` does not have, a dilation that is not above 0, and what
        training refuses.

    Reference: Frankle's thesis, section 3.3.5 (ablations) and 3.3.6 (dilation).
    """
    require_runs("runs", runs)
    runtime = settled(
        runtime, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    ).on(runs.mesh)
    function = from_table("change", change, BRANCHES)
    if name is None:
        name = change if isinstance(change, str) else str(getattr(change, "__name__", "branch"))
    if text("name", name) in ("ticket", "supermask") and function is not BRANCHES["retrain"]:
        raise ValueError(
            f"`name` {name!r} is what tables call the tickets themselves, which this branch "
            f"changes; call it otherwise"
        )
    training = runs.training if training is None else training
    check_fit(runs.net, runs.data, training, runs.mesh)
    levels = chosen("levels", levels, runs.levels)
    factors = one_or_several(
        "dilation", dilation, number, like="(0.5, 1.0)", distinct=True, low=0, above=True
    )
    settings = _identity.run(
        "branch",
        runs.net,
        runs.data,
        of=runs.identity(levels),
        change=function,
        name=name,
        training=training,
        dilation=factors,
        levels=levels,
    )
    runtime = runtime.in_folder(runs.folder, "branches", results.run_name(name, settings))
    tickets, jobs, factor_of = branch_jobs(runs, function, name, training, factors, levels)
    size = runtime.replicas_per_call(len(jobs.start), runs.size)
    with runtime.run(runs.net, runs.data, training, settings, size=size, steps=jobs.steps) as run:
        run.describe(f"branch {name}")
        history, costs = train_blocks(run, jobs)
        histories = _histories(runs, tickets, history, levels, factors, factor_of, name, run)
        result = Runs(
            runs.net,
            runs.data,
            training,
            runs.pruning,
            runs.seeds,
            name,
            histories,
            tickets,
            runs.origin,
            tuple(costs),
            run.path,
            runs.mesh,
            size,
            lost=runs.lost,
        )
        run.finish(result.save)
    return result


def branch_jobs(
    runs: Runs,
    change: Change,
    name: str,
    training: Training,
    factors: Sequence[float],
    levels: Sequence[int],
) -> tuple[dict[int, Ticket], Jobs, np.ndarray]:
    """The changed tickets by level, and jobs in the order [dilation, level, seed]."""
    tickets, parts, factor_of = {}, [], []
    keys = np.asarray(jax.random.key_data(root_keys(runs.seeds)))
    for level in levels:
        tickets[level] = changed(
            change,
            runs.whole(level),
            runs.seeds,
            name=name,
            net=runs.net,
            mesh=runs.mesh,
            exclude=runs.pruning.exclude,
            factors=runs.factors(level),
        )
    for factor in factors:
        dilated = training if factor == 1 else training.dilated(factor)
        for level in levels:
            ticket = tickets[level]
            start = np.round(np.asarray(ticket.step) * factor).astype(np.int32)
            if int(start.max()) > dilated.steps:
                raise ValueError(
                    f"`training` ends at step {dilated.steps}, before the tickets' own step "
                    f"{int(start.max())}; "
                    f"train for longer"
                )
            plan = job_plan(dilated, len(runs.seeds), order=order_of(runs.pruning, level))
            lost = runs.lost_at(level)
            origin = Origin(ticket.params, ticket.stats, ticket.mask)
            parts.append(Jobs(origin, keys, start, plan, lost))
            factor_of.append(factor)
    tickets = {
        level: t.replace(params=host_apply(t.mask, t.params)) for level, t in tickets.items()
    }
    return tickets, join(parts), np.asarray(factor_of)


def _histories(
    runs: Runs,
    tickets: dict[int, Ticket],
    history: Arrays,
    levels: Sequence[int],
    factors: Sequence[float],
    factor_of: np.ndarray,
    name: str,
    run: Run,
) -> tuple[results.EvaluationLog, ...]:
    result = []
    for group, factor in enumerate(factor_of):
        level = levels[group % len(levels)]
        result.append(
            results.EvaluationLog.of_group(
                history,
                group,
                seeds=runs.seeds,
                level=level,
                density=density(runs.net, runs.pruning, tickets[level], runs.lost_at(level)),
                branch=name,
                dilation=factor,
            )
        )
        of = f", dilation {factor:g}" if len(factors) > 1 else ""
        lost = runs.lost_at(level)
        report_diverged(run, f"level {level}, {name}{of}", runs.seeds, result[-1].diverged, lost)
    return tuple(result)
