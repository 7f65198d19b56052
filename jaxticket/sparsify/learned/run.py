"""`jt.search`: masks learned at fixed weights, then trained."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence

from jax.sharding import Mesh

from jaxticket._check import (
    flag,
    nearest,
    texts,
    whole,
)
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import fitting
from jaxticket.engine.metrics import outputs
from jaxticket.engine.runtime import OnEvaluation, Runtime
from jaxticket.labels import Labels
from jaxticket.pruning.structures.settings import StructureLike
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.at_step import checked_densities
from jaxticket.sparsify.learned.learned_masks import LearnedPruning
from jaxticket.sparsify.learned.method import Method, MethodMaker
from jaxticket.sparsify.learned.methods.concrete import concrete
from jaxticket.sparsify.learned.methods.continuous import continuous
from jaxticket.sparsify.learned.methods.edge_popup import edge_popup
from jaxticket.sparsify.learned.methods.gem_miner import gem_miner
from jaxticket.sparsify.learned.methods.kd_lts import kd_lts
from jaxticket.sparsify.learned.methods.stochastic import stochastic
from jaxticket.sparsify.learned.objectives import (
    DenseSized,
    learns_answers,
    parts_of,
    teacher_needs_of,
)
from jaxticket.sparsify.plan import planned
from jaxticket.sparsify.strategy import run_strategies
from jaxticket.typing import InitialWeights, Network

SEARCHES: dict[str, MethodMaker] = {
    "concrete": concrete,
    "continuous": continuous,
    "edge_popup": edge_popup,
    "gem_miner": gem_miner,
    "kd_lts": kd_lts,
    "stochastic": stochastic,
}
"""Makers of methods by name; each takes the options of its paper."""


def search(
    net: Network,
    data: Data | Stream,
    training: Training,
    method: str | Method = "concrete",
    *,
    density: float | Sequence[float] | None = None,
    start: int = 0,
    steps: int | float | str | None = None,
    train: bool = True,
    schedule: str = "remaining",
    dense: bool = True,
    exclude: Sequence[str] = (),
    rescale: str | None = None,
    structure: StructureLike | None = None,
    seeds: Iterable[int] = range(5),
    branches: Sequence[str | Change] = (),
    init: InitialWeights | None = None,
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
    watch_masks: int = 0,
) -> Runs:
    """Learn masks by gradient descent at one step of training, and train the weights they keep.

    Every prunable weight has a score, from which a soft mask is made; gradients of the method's
    objective move the scores. At the end each density keeps exactly the `round(density * P)` of
    the P prunable weights with the highest scores. The weights under the mask are those of step
    `start`, even if the search moved them. If a method's soft masks end at another height than 1
    (`scaled=True`), tickets, supermasks and controls have the weights times that height
    (`Method.scaled_tickets`). Seeds and densities are searched and trained side by side.

    Args:
      net: a network; weights of `init="signed_constant"` give the best supermasks.
      data: a data set, or a stream.
      training: how networks are trained; searches use its batch size, and its learning rate where
        their method has none of its own.
      method: a name in `jt.SEARCHES`, or a `Method`: `jt.SEARCHES["concrete"]("loss",
        length="long")` has other options.
      density: share of prunable weights to keep, or several: level n of the runs is the n-th, and
        each is searched for by itself. With a structure, the share of its units; None for
        structures that imply it.
      start: 0 searches at initialization, k at step k of dense training. Objectives that learn the
        dense network's answers ("reverse_kl", "forward_kl") warn where it is untrained.
      steps: length of the search: a number of steps, a share of the training's (0.5), or "short",
        "half", "long"; the method's own if None. Rounded up to whole parts.
      train: whether tickets and branches are trained; False stops at the supermasks.
      schedule: "remaining" trains tickets with what is left of the schedule after `start`, "full"
        with all of it.
      dense: also train the dense networks to the end, as level 0.
      exclude: patterns of paths that are never pruned and not counted in P.
      rescale: as of `prune_at`.
      structure: as of `prune_at`. A block or a channel has one score, which all of its weights
        share, and "expected" of the trace counts units. Of "N:M" and ("fan_in", k) weights are
        searched one by one, and the mask of the end keeps the best of each group.
      seeds: one replica each.
      branches: controls to train next to the tickets, as of `prune_at`.
      init: as of `find_tickets`.
      keep: as of `find_tickets`.
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.
      at_once: replicas that one device holds at most.
      watch_masks: N > 0 compares the masks (of exactly K ones) that the search would give at its
        start and after each of N equal parts: the trace then has a column `hamming`, the share of
        prunable entries that changed since the moment before, nan at the first and between them
        (KD-LTS, Figure 4). 0 leaves that out.

    Returns:
      Runs. Their table has a branch "supermask": the accuracy of each ticket before its training
      (BatchNorm statistics re-estimated on training examples), and the tickets and branches trained
      on from there. `Runs.trace()` tells how the search went.

    Raises:
      ValueError: for settings that do not fit together, an objective that the network does not
        allow, and a folder with other settings or code.

    Reference: KD-LTS, section 2 (supermasks and tickets); each method names its paper.

    Example:
      `jt.search(net, data, training, "concrete", density=(0.2, 0.1), start=100)` searches by
      Concrete Ticket Search at step 100.
    """
    plan = planned(
        net, data, training, seeds=seeds, branches=branches, init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    net, training = plan.net, plan.training
    flag("train", train)
    flag("dense", dense)
    method = named_method(method)
    step = whole("start", start)
    if step > training.steps:
        raise ValueError(
            f"`start` must be a step from 0 to {training.steps}, where training ends, got {step}"
        )
    if step == training.steps and schedule == "remaining":
        raise ValueError(
            f"`schedule`='remaining' leaves nothing to train after step {step}; use 'full'"
        )
    if not train and schedule != "remaining":
        raise ValueError(f"`schedule` {schedule!r} has no effect with train=False; leave it out")
    length = method.steps(training, steps)
    excluded = texts("exclude", exclude, like='("dense_2",)')
    densities = checked_densities(density, structure, net, excluded)
    pruning = LearnedPruning(
        densities, step, schedule, excluded, method, length, watch_masks, rescale=rescale,
        structure=structure,
    )  # fmt: skip
    if plan.changes and not train:
        raise ValueError(f"`branches` {list(plan.changes)} are trained: they need train=True")
    pruning.check_network(net)
    _check_labels(method, net, data.labels)
    # an optimizer of the user's own may be that of the method
    searched = method.training(training, method.steps(training, length))
    fitting.check(searched, net, search=True)
    if step == 0 and learns_answers(method.function):
        warnings.warn(
            f"{method.objective!r} learns what the dense network answers, and at step 0 that is "
            f"untrained: pass `start`, a step of its training, or a method with a trained target, "
            f"such as jt.SEARCHES['concrete'](target=1.0)",
            UserWarning,
            stacklevel=2,
        )
    settings = plan.settings(
        "search", pruning=pruning, objective=method.function, dense=dense, train=train
    )
    (runs,) = run_strategies(plan, (pruning,), settings, dense=dense, supermask=True, train=train)
    return runs


def _check_labels(method: Method, net: Network, labels: Labels) -> None:
    """Raise for an objective that has no meaning for the labels."""
    if labels.kind != "numbers":
        return
    parts = parts_of(method.function)
    if any(isinstance(part, DenseSized) for part in parts):
        raise ValueError(
            f"`method` {method.name!r} has the objective {method.objective!r}, which brings logits "
            f"to the size of the dense network's, and numbers are predicted by that size; use the "
            f"objective inside it"
        )
    compares = any(learns_answers(part) or teacher_needs_of(part) for part in parts)
    if compares and not labels.outputs(outputs(net)):
        raise ValueError(
            f"`method` {method.name!r} has the objective {method.objective!r}, which compares the "
            f"numbers that networks predict, and this one gives {list(outputs(net))} outputs for "
            f"labels {list(labels.shape)}; use an objective of losses, such as 'loss'"
        )


def named_method(method: str | Method) -> Method:
    """The method, made with its defaults where it is a name.

    Raises:
      ValueError: for an unknown name, and for what is no method.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in SEARCHES:
        return SEARCHES[method]()
    if isinstance(method, str):
        raise ValueError(f"`method` {method!r} is unknown; {nearest(method, SEARCHES)}")
    raise ValueError(
        f"`method` must be a name in jt.SEARCHES or a Method, such as "
        f"jt.SEARCHES['concrete']('loss'), got {method!r}"
    )
