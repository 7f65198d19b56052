"""Runs that grow in their folder: seeds that are added later, and further levels.

The seeds of a run are one cohort; seeds that a later call appends are another, which is trained as
a run of its own below the folder and then joined. Levels that are appended, densities of masks that
are found once among them, come after those that there are. Nothing that was trained is trained
again, except for one level where `jt.find_tickets` goes on below its last: the trained weights of
that level were not needed, and were not kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import jax
import numpy as np

from jaxticket import results
from jaxticket.engine.jobs import along_jobs
from jaxticket.engine.runtime import Runtime
from jaxticket.engine.store import on_first, settings_in
from jaxticket.runs import Runs
from jaxticket.sparsify.cost import whole_or_mean
from jaxticket.sparsify.plan import Plan
from jaxticket.typing import Json

T = TypeVar("T")
Cohorts = list[tuple[int, ...]]
"""Seeds that were trained together, in the order in which they were added."""
GROW_BY_DENSITY = ("prune_at", "search", "sparse_train", "dynamic_imp")
"""Kinds of runs that find the masks of each density by themselves."""


def cohorts_of(runtime: Runtime, settings: Mapping[str, object]) -> Cohorts:
    """The cohorts of a call: those that its folder has, and the seeds that it appends to them."""
    seeds = tuple(settings["seeds"])  # type: ignore[arg-type]
    theirs = None if runtime.folder is None else settings_in(runtime.folder)
    if theirs is None or "seeds" not in theirs:
        return [seeds]
    before = _cohorts(theirs)
    known = tuple(seed for cohort in before for seed in cohort)
    if seeds[: len(known)] != known:
        # other seeds: the folder refuses them
        return [seeds]
    rest = seeds[len(known) :]
    return [*before, rest] if rest else before


def _cohorts(settings: Json) -> Cohorts:
    return [tuple(cohort) for cohort in settings.get("cohorts", [settings["seeds"]])]


def extension(ours: Json, theirs: Json) -> tuple[list[str], Json]:
    """Bring the settings of a folder forward to those of a call, where these only extend them.

    Args:
      ours: the settings of a call, plain.
      theirs: those of the folder.

    Returns:
      Patterns of the units that then have to be computed again, and the folder's settings with the
      seeds and the levels of the call, where it appends seeds and raises levels.
    """
    theirs, stale = dict(theirs), []
    if "seeds" in ours and "seeds" in theirs:
        mine, yours = _cohorts(ours), _cohorts(theirs)
        if mine[: len(yours)] == yours:
            theirs |= {"seeds": ours["seeds"]}
            theirs |= {"cohorts": ours["cohorts"]} if "cohorts" in ours else {}
        elif ours["seeds"] != theirs["seeds"]:
            # the seeds are what differs, and not which came together
            theirs.pop("cohorts", None)
    new, old = ours.get("pruning"), theirs.get("pruning")
    if ours.get("kind") in GROW_BY_DENSITY and new is not None and old is not None:
        theirs["pruning"] = _denser(new, old)
    if ours.get("kind") == "find_tickets" and isinstance(new, dict) and isinstance(old, dict):
        levels = old.get("levels")
        if isinstance(levels, int) and new.get("levels", 0) > levels:
            # the last level of before lacks the masks that come from it
            stale = ["stage-000-*" if new.get("one_shot") else f"stage-{levels:03d}-*"]
            theirs["pruning"] = {**old, "levels": new["levels"]}
    return stale, theirs


def _denser(new: object, old: object) -> object:
    """The pruning of a folder with the densities of a call, where these begin with its own."""
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        # one for each step
        return [_denser(*pair) for pair in zip(new, old, strict=True)]
    if isinstance(new, dict) and isinstance(old, dict):
        mine, yours = new.get("densities"), old.get("densities")
        if isinstance(mine, list) and isinstance(yours, list) and mine[: len(yours)] == yours:
            return {**old, "densities": mine}
    return old


def in_cohorts(
    plan: Plan, settings: dict[str, object], run: Callable[..., list[Runs]]
) -> list[Runs]:
    """Runs of a plan: the seeds that its folder has, and those that are appended by themselves.

    Args:
      plan: what is run.
      settings: what the folder records.
      run: `run(plan, settings=..., save=...)`, the runs of seeds that are trained together; `save`
        says whether it writes them into its folder.
    """
    parts = cohorts_of(plan.runtime, settings)
    if len(parts) == 1:
        return run(plan, settings=settings, save=True)
    found = []
    for number, seeds in enumerate(parts):
        own = {"seeds": plan.seeds, "cohorts": parts} if number == 0 else {"seeds": seeds}
        there = in_cohort(plan.runtime, number, seeds)
        part = dataclasses.replace(plan, seeds=seeds, runtime=there)
        found.append(run(part, settings={**settings, **own}, save=False))
    whole = [joined(runs) for runs in zip(*found, strict=True)]
    on_first(*(runs.save for runs in whole))
    return whole


def in_cohort(runtime: Runtime, number: int, seeds: Sequence[int]) -> Runtime:
    """The runtime of a cohort: the first one has the folder, later ones a folder below it."""
    if number == 0 or runtime.folder is None:
        return runtime
    name = results.run_name("seeds", {"seeds": list(seeds)})
    return runtime.below("cohorts", name)


def joined(parts: Sequence[Runs]) -> Runs:
    """Runs of several cohorts as one."""
    first = parts[0]
    seeds = tuple(seed for part in parts for seed in part.seeds)
    place = {seed: number for number, seed in enumerate(seeds)}
    return dataclasses.replace(
        first,
        seeds=seeds,
        histories=tuple(
            _log([part.histories[number] for part in parts])
            for number in range(len(first.histories))
        ),
        by_level={n: _stacked([part.by_level[n] for part in parts]) for n in first.by_level},
        origin=_stacked([part.origin for part in parts]),
        costs=_costs(parts),
        traces=tuple(
            sorted(
                (row for part in parts for row in part.traces),
                key=lambda row: (row["level"], place[row["seed"]]),
            )
        ),
        lost={n: np.concatenate([part.lost_at(n) for part in parts]) for n in first.lost},
        final={key: _stacked([part.final[key] for part in parts]) for key in first.final},
        at={key: _stacked([part.at[key] for part in parts]) for key in first.at},
    )


def _costs(parts: Sequence[Runs]) -> tuple[Json, ...]:
    """The costs of several cohorts; their dense trainings, which steps share, are one row."""
    rows = [(len(part.seeds), row) for part in parts for row in part.costs]
    dense = [(seeds, row) for seeds, row in rows if row["unit"] == "dense"]
    rest = [row for _, row in rows if row["unit"] != "dense"]
    if not dense:
        return tuple(rest)
    mean = sum(seeds * row["training_steps"] for seeds, row in dense) / sum(n for n, _ in dense)
    whole = {
        "unit": "dense",
        "train_seconds": sum(row["train_seconds"] for _, row in dense),
        "training_steps": whole_or_mean(mean),
    }
    return whole, *rest


def _stacked(trees: Sequence[T]) -> T:
    return jax.tree.map(lambda *x: np.concatenate(x), *trees)


def _log(logs: Sequence[results.EvaluationLog]) -> results.EvaluationLog:
    """The evaluations of several cohorts along their axis of replicas."""
    return logs[0]._replace(
        seeds=np.concatenate([log.seeds for log in logs]),
        density=np.concatenate([log.density for log in logs]),
        steps=along_jobs([log.steps for log in logs], 0),
        wanted=along_jobs([log.wanted for log in logs], False),
        values=along_jobs([log.values for log in logs], np.nan),
        diverged=np.concatenate([log.diverged for log in logs]),
        dilation=np.concatenate([log.dilation for log in logs]),
        looked={
            name: along_jobs([log.looked[name] for log in logs], False) for name in logs[0].looked
        },
        monitored={
            name: along_jobs([log.monitored[name] for log in logs], np.nan)
            for name in logs[0].monitored
        },
    )
