"""Branching: retrain the tickets of a run, changed in one way or with other settings."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np

from jaxticket import _identity, results
from jaxticket._check import chosen, from_table, number, one_or_several, text
from jaxticket.controls import BRANCHES, Change, changed
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import OnEvaluation, Runtime, settled
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import Training
from jaxticket.sparsify.plan import checked_keep
from jaxticket.sparsify.runner import Group, Runner, Weights
from jaxticket.ticket import Ticket


def branch(
    runs: Runs,
    change: str | Change,
    *,
    training: Training | None = None,
    dilation: float | Sequence[float] = 1.0,
    levels: Sequence[int] | None = None,
    name: str | None = None,
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
) -> Runs:
    """Retrain tickets that are changed in one way, a control; all levels and seeds side by side.

    Each ticket is changed by `change`, masked, and trained under the SGD noise of its level. The
    accuracy that it loses against the ticket is due to the change.

    Args:
      runs: from `find_tickets`, `prune_at`, `search` or `sparse_train`.
      change: a name in `jt.BRANCHES` or `change(ticket, key, *, net) -> ticket`; "retrain" changes
        nothing.
      training: other settings of training; those of `runs` if None.
      dilation: a factor, or several, that multiplies all times of the schedule: steps, warmup,
        milestones and the step a ticket starts from. Several factors train side by side and are
        told apart by the table's column `dilation`.
      levels: which levels; all if None.
      name: the branch's name in tables; the change's name if None.
      keep: "trained" also keeps the networks as they are after training (`Runs.trained`).
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs of this branch; their table holds this branch alone. Join it to that of the tickets by
      `jt.results.concat([runs.table(), controls.table()])`.

    Raises:
      ValueError: for a level that `runs` does not have, a dilation that is not above 0, and what
        training refuses.

    Reference: Frankle's thesis, section 3.3.5 (ablations) and 3.3.6 (dilation).

    Example:
      `controls = jt.branch(runs, "reinit")` trains the same masks with new weights.
    """
    require_runs("runs", runs)
    runtime = settled(
        runtime,
        folder=folder,
        at_once=at_once,
        save_every=save_every,
        progress=progress,
        on_evaluation=on_evaluation,
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
    training = check_fit(runs.net, runs.data, training, runs.mesh, runs.seeds)
    levels = chosen("levels", levels, runs.levels)
    factors = one_or_several(
        "dilation", dilation, number, like="(0.5, 1.0)", distinct=True, low=0, above=True
    )
    kept = checked_keep(keep, keep_at, round(training.steps * max(factors)))
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
        **kept.settings,
    )
    runtime = runtime.in_folder(runs.folder, "branches", results.run_name(name, settings))
    tickets, groups = branch_groups(runs, function, name, training, factors, levels)
    steps = sum(group.steps for group in groups) * len(runs.seeds)
    size = runtime.replicas_per_call(len(groups) * len(runs.seeds), runs.size)
    with runtime.run(runs.net, runs.data, training, settings, size=size, steps=steps) as run:
        run.describe(f"branch {name}")
        runner = Runner(run, runs.net, runs.data, training, runs.seeds)
        trained = runner.train(groups, weights=kept)
        weights = Weights({}, {})
        for group, own in zip(groups, trained.kept, strict=True):
            weights.add(group, own)
        result = runner.runs(
            runs.pruning,
            branch=name,
            logs=trained.logs,
            tickets={level: ticket.masked() for level, ticket in tickets.items()},
            origin=runs.origin,
            costs=trained.costs,
            lost=runs.lost,
            weights=weights,
        )
        run.finish(result.save)
    return result


def branch_groups(
    runs: Runs,
    change: Change,
    name: str,
    training: Training,
    factors: Sequence[float],
    levels: Sequence[int],
) -> tuple[dict[int, Ticket], list[Group]]:
    """The changed tickets by level, and their trainings in the order [dilation, level].

    Made before anything runs: a change or a schedule that does not fit is an error at once.
    """
    tickets = {
        level: changed(
            change,
            runs.whole(level),
            runs.seeds,
            name=name,
            net=runs.net,
            mesh=runs.mesh,
            exclude=runs.pruning.exclude,
            factors=runs.factors(level),
        )
        for level in levels
    }
    groups = []
    for factor in factors:
        dilated = training if factor == 1 else training.dilated(factor)
        for level, ticket in tickets.items():
            step = np.round(np.asarray(ticket.step) * factor).astype(np.int32)
            if int(step.max()) > dilated.steps:
                raise ValueError(
                    f"`training` ends at step {dilated.steps}, before the tickets' own step "
                    f"{int(step.max())}; train for longer"
                )
            of = f", dilation {factor:g}" if len(factors) > 1 else ""
            group = Group(
                name,
                level,
                functools.partial(ticket.replace, step=step),
                dilated,
                runs.pruning,
                runs.pruning.noise(level),
                runs.lost_at(level),
                start=int(step[0]),
                dilation=factor,
                title=f"level {level}, {name}{of}",
            )
            groups.append(group)
    return tickets, groups
