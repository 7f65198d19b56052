"""Finding tickets: train, prune, rewind, repeat."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from jax.sharding import Mesh

from jaxticket import _identity
from jaxticket._check import distinct_seeds, from_table, instance, several
from jaxticket.controls import BRANCHES, Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.pruning.compiled import Examples, Selection, pruner
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.runs import Runs
from jaxticket.settings import Pruning, Training
from jaxticket.sparsify.levels import Search, SearchPlan
from jaxticket.typing import Network


def find_tickets(
    net: Network,
    data: Data | Stream,
    training: Training,
    pruning: Pruning | None = None,
    *,
    seeds: Iterable[int] = range(5),
    branches: Sequence[str | Change] = (),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs:
    """Iterative magnitude pruning with rewinding, for many seeds side by side.

    Level 0 trains the dense network. Level n >= 1 takes the mask of the weights with the highest
    scores after level n - 1, rewinds them to step k and trains them on to the end, with a fresh
    optimizer, the schedule as at step k, and SGD noise of the level's own (`Pruning.order`), which
    its branches share. Level n keeps `round((1 - fraction) ** n * P)` weights.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream; with a validation split its loss is evaluated too.
      training: how each level is trained.
      pruning: levels, fraction, score, rewinding; `Pruning()` if None.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train beside the tickets at every level: names in `jt.BRANCHES` or
        change functions.
      runtime: mesh, folder and the like in one; leave the arguments that follow out then.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all of a level.
      save_every: seconds between saves of the training state (each level is saved in any case).
      progress: whether to show a bar with the time left.

    Returns:
      Runs with the tickets of levels 0 to `pruning.levels`; its table also holds the branches.

    Raises:
      ValueError: for settings that do not fit together, a score that is not finite for finite
        weights, and a folder with other settings or code.

    Reference: Frankle's thesis, Algorithm 1 (rewind=0), Algorithm 4 (rewind=k), Algorithm 2
      ("learning_rate").
    """
    pruning = Pruning() if pruning is None else pruning
    instance("pruning", pruning, Pruning, "a jt.Pruning")
    seeds = distinct_seeds(seeds)
    runtime = settled(
        runtime, mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    )
    check_fit(net, data, training, runtime.devices)
    if pruning.rewind_step >= training.steps:
        raise ValueError(
            f"`rewind` is step {pruning.rewind_step}, past the end of training at "
            f"{training.steps}; "
            f"use a step below {training.steps}"
        )
    score = from_table("score", pruning.score, SCORES)
    for name in ("score_batches", "score_batch_size"):
        if not recipe_of(score).data and getattr(pruning, name) != getattr(Pruning, name):
            raise ValueError(
                f"`{name}` {getattr(pruning, name)} has no effect with score={name_of(score)!r}, "
                f"which looks at no examples; leave it out"
            )
    changes = named_changes(branches)
    plan = SearchPlan(net, data, training, pruning, seeds, changes)
    plan.check()
    settings = _identity.run(
        "find_tickets",
        net,
        data,
        training=training,
        pruning=pruning,
        score=score,
        seeds=seeds,
        branches=list(changes.items()),
    )
    size = runtime.replicas_per_call(len(seeds) * (1 + len(changes)))
    steps = plan.total_steps
    with runtime.run(net, data, training, settings, size=size, steps=steps) as run:
        size_of = min(pruning.score_batch_size, len(data.train))
        selection = Selection(
            score,
            pruning.scope,
            exclude=pruning.exclude,
            examples=Examples(pruning.score_batches, size_of),
            loss=training.loss,
        )
        select = pruner(net, run.mesh, selection)
        search = Search(plan, run, select)
        for level in range(pruning.levels + 1):
            run.describe(
                f"level {level} of {pruning.levels}, {100 * plan.densities[level]:.3g}% of weights"
            )
            search.level(level)
        runs = Runs(
            net,
            data,
            training,
            pruning,
            seeds,
            "ticket",
            tuple(search.histories),
            search.tickets,
            search.origin,
            tuple(search.costs),
            run.path,
            run.mesh,
            size,
            lost=search.lost,
        )
        run.finish(runs.save)
    return runs


def named_changes(branches: Sequence[str | Change]) -> dict[str, Change]:
    """Branch names and their functions, in order."""
    if isinstance(branches, str) or callable(branches):
        branches = (branches,)
    changes = {}
    for given in several("branches", branches, _given, like='["reinit", "shuffle"]', empty=True):
        function = from_table("branches", given, BRANCHES)
        name = given if isinstance(given, str) else getattr(given, "__name__", "branch")
        if name in changes or name == "ticket":
            raise ValueError(
                f"`branches` holds the name {name!r} twice; give each change function a name of "
                f"its own"
            )
        changes[name] = function
    return changes


def _given(argument: str, value: str | Change) -> str | Change:
    return value if isinstance(value, str) else from_table(argument, value, BRANCHES)
