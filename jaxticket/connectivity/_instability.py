"""Instability analysis: does the outcome of training from a state depend on SGD noise?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _identity
from jaxticket._check import flag, one_of, whole
from jaxticket.connectivity.arguments import (
    block_of,
    checked_levels,
    checked_noise,
    checked_seeds,
    checked_steps,
    named_distances,
    runs_by_step,
)
from jaxticket.connectivity.copies import Atom, Copies, Design
from jaxticket.connectivity.distances import OF_WEIGHTS, Distance
from jaxticket.connectivity.evaluator import Evaluator, Networks
from jaxticket.connectivity.origins import Starts, kinds_of
from jaxticket.connectivity.result import Instability
from jaxticket.controls import Change, named_changes
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import teaching
from jaxticket.engine.dense import dense_rows, initial_networks, train_dense
from jaxticket.engine.judged import ACCURACY, judged_by
from jaxticket.engine.loop import Arrays, report_diverged
from jaxticket.engine.metrics import check
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.random import root_keys
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.runner import Runner
from jaxticket.typing import Network


def instability(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    at: int | Iterable[int] | None = None,
    tickets: Runs | Sequence[Runs] | None = None,
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = (),
    copies: int = 2,
    points: int = 30,
    noise: Sequence[str] = ("order", "augment"),
    length: str = "remaining",
    statistics: str = "interpolated",
    throughout: int = 0,
    distances: Sequence[str | Distance] | None = None,
    metric: str | None = None,
    keep: bool = True,
    seeds: Iterable[int] | None = None,
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    points_at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Instability:
    """Train copies of a network under different SGD noise and measure the error between them.

    For every seed the dense network is trained once, and its state is kept at every step k of
    `at`. From each state, dense or with a mask, copies are trained to the last step T with a fresh
    optimizer; from step k on they see the examples in different orders, with other augmentation.
    For each pair of copies the error is evaluated at points of the line between their weights, with
    `E(alpha)` the error of `theta_1 + alpha * (theta_2 - theta_1)`:
    `barrier = max E(alpha) - (E(0) + E(1)) / 2`. If its mean is below 2 points, the state is called
    stable.

    Args:
      net, data, training: as for `find_tickets`.
      at: steps k, each in [0, T]; required without `tickets`. None with `tickets`: the step that
        each of them rewinds to.
      tickets: None for dense networks. One run with `at`: its masks on the dense weights of every k
        (of seeds it has). Without `at`, one or several runs (of other rewind steps or branches):
        their own tickets, mask and weights.
      levels: of the tickets; all if None. Level 0 is the dense network.
      branches: controls made of the tickets, of level 1 on: names in `jt.BRANCHES` or change
        functions. "reinit_at_k" puts new weights in the place of those of step k and trains them
        for the remaining steps (thesis, Fig. 4-24); "reinit" and the like start at step 0 and train
        for all steps, whatever k the mask belongs to.
      copies: of every state; all pairs of them are compared.
      points: evenly spaced places on each line, both ends included.
      noise: what differs between copies: "order" of examples, "augment"; () for nothing, which
        gives equal copies and barriers of exactly 0.
      length: "remaining" trains copies from k to T; "full" for T steps with the schedule from its
        beginning.
      statistics: "interpolated": BatchNorm statistics on the line are those between the copies', as
        the weights are; "both": also with statistics re-estimated at each point (metrics
        "barrier_recomputed" ...), see `connectivity.line`.
      throughout: places on the lines that are drawn at every evaluation of the copies, for
        `throughout()`; 0 for none.
      distances: names in `jt.DISTANCES` or functions of two `Outcome`, which are called for every
        split; all if None.
      metric: whose error is compared, 1 less the metric: "accuracy", or a share of 1 among the
        training's metrics or in `jt.metrics.METRICS` ("macro_f1"); None for the accuracy, which of
        tokens and of several labels is the share of right ones, and for "r2" where labels are
        numbers, whose error is the share of the variance that is not explained.
      keep: whether to keep the trained weights of all copies (in memory and in the folder).
      seeds: one dense network each; those of the tickets, or range(3), if None.
      runtime, mesh, folder, save_every, progress: as for `find_tickets`.
      at_once: copies that one device holds at most; None for as many as have 1 GiB of weights and
        optimizer state, on a CPU for as few as keep all devices busy.
      points_at_once: points of lines that one device holds at most where they run vmapped; 32 if
        None.

    Returns:
      The analysis. `stable()` has a row for each state with the mean barrier, its confidence
      interval and the judgment; `barriers()` is an array [seed, k, pair]; `table()` is tidy, for
      `jt.plots.instability`; `lines()` has the errors along the lines. Errors and barriers are
      shares of 1: 0.02 is 2 points.

    Raises:
      ValueError: for settings that do not fit together.

    Reference: Frankle's thesis, Algorithm 3 and sections 4.1 to 4.3 (there 3 seeds, 3 copies).

    Example:
      `dense = jt.instability(net, data, training, at=(0, 100, 1000), copies=3)`, then
      `jt.plots.instability(dense.table())`; with `tickets=runs`, the tickets of `find_tickets`.
    """
    runtime = settled(
        runtime, mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    )
    mesh = runtime.devices
    training = check_fit(net, data, training, mesh)
    if training.stop_when is not None:
        raise ValueError(
            "`training` has a `stop_when`, and jt.instability compares networks at the end of "
            "training; pass training.replace(stop_when=None)"
        )
    training, main = judged_by(metric, training, net, data.labels)
    if not main.shares:
        raise ValueError(
            f"`metric` {main.name!r} is not a share of 1, in which barriers and margins of errors "
            f"are judged; leave it out: the loss is compared in any case"
        )
    check(training, net, data.labels)
    if training.monitors:
        raise ValueError(
            "`training` has monitors, which jt.instability does not report; pass "
            "training.replace(monitors=())"
        )
    copies = whole("copies", copies, 2)
    points = whole("points", points, 3)
    throughout = whole("throughout", throughout)
    if throughout:
        whole("throughout", throughout, 3)
    one_of("length", length, ("remaining", "full"))
    one_of("statistics", statistics, ("interpolated", "both"))
    flag("keep", keep)
    if points_at_once is not None:
        whole("points_at_once", points_at_once, 1)
    noise = checked_noise(noise, training, data)
    runs = runs_by_step(tickets, net, data)
    steps = checked_steps(at, runs, training, full=length == "full")
    dense = not runs or at is not None
    seeds = checked_seeds(seeds, runs)
    teaching.check(training, net, data, seeds)
    chosen_levels = checked_levels(levels, runs)
    changes = named_changes(branches)
    if changes and not any(branch == "ticket" for branch, _ in runs):
        raise ValueError(
            f"`branches` {tuple(changes)} change tickets; pass `tickets` of find_tickets"
        )
    repeated = sorted({branch for branch, _ in runs} & set(changes))
    if repeated:
        raise ValueError(
            f"`branches` {repeated} are in `tickets` too; leave them out of one of the two"
        )
    named = named_distances(distances, data.labels)
    kinds = kinds_of(runs, list(changes), chosen_levels, steps, dense=dense)
    if statistics == "both" and not jax.tree.leaves(net.shapes[1]):
        raise ValueError("`statistics`='both' needs a network with BatchNorm; use 'interpolated'")
    design = Design(
        training,
        copies,
        noise,
        length == "full",
        np.linspace(0, 1, points),
        statistics == "both",
        throughout,
        named,
        keep,
        main,
    )
    settings = _identity.run(
        "instability",
        net,
        data,
        training=training,
        seeds=seeds,
        of=[own.identity(chosen_levels) for own in runs.values()],
        starts=[tuple(kind) for kind in kinds],
        dense=dense,
        changes=changes,
        copies=copies,
        points=points,
        noise=noise,
        length=length,
        statistics=statistics,
        throughout=throughout,
        distances=named,
        keep=keep,
        # as folders of accuracies have always been
        **({} if main == ACCURACY else {"metric": main.name}),
    )
    atoms = [Atom(kind, replica) for kind in kinds for replica in range(len(seeds))]
    size, room = block_of(net, training, len(atoms), copies, mesh, runtime.at_once)
    last = max(steps) if dense else 0
    total = last * len(seeds) + copies * len(seeds) * sum(
        training.steps - (0 if design.full else kind.at) for kind in kinds
    )
    with runtime.run(net, data, training, settings, size=size, steps=total) as run:
        evaluator = Evaluator(net, data, training, mesh, at_once=points_at_once, put=run.data)
        keys = np.asarray(jax.random.key_data(root_keys(seeds)))
        initial = initial_networks(net, mesh, keys)
        states: dict[int, Networks] = {}
        diverged = np.full(len(seeds), -1)
        costs: list[dict[str, object]] = []
        if dense:
            run.describe("dense")
            about = dense_rows(seeds, "dense")
            trained = train_dense(
                run, net, training, keys, initial, steps, ends_only=True, about=about
            )
            states, diverged = trained.states, trained.diverged
            report_diverged(run, "dense", seeds, diverged)
            if trained.steps:
                took = {"training_steps": trained.steps, "train_seconds": trained.seconds}
                costs.append({"unit": "dense", **took})
        starts = Starts(net, mesh, seeds, kinds, initial, states, diverged, runs, changes)
        # seed after seed, so that every device has early and late steps k
        order = sorted(range(len(atoms)), key=lambda i: (atoms[i].replica, i))
        trained_copies = Copies(evaluator, starts, design, [atoms[i] for i in order], room)
        found = Runner(run, net, data, training, seeds).train(
            trained_copies.groups(),
            unit="copies",
            keep=trained_copies.compared,
            watch=trained_copies.watch if throughout else None,
            ends_only=not throughout,
            block=room * copies,
        )
        for (first, end), block in zip(found.bounds, found.blocks, strict=True):
            text = f"copies of {(end - first) // copies} states from {first // copies} on"
            costs.append(_cost(text, block))
        result = Instability(
            net=net,
            data=data,
            training=training,
            seeds=seeds,
            kinds=kinds,
            copies_of_each=copies,
            alphas=design.alphas,
            length=length,
            splits=evaluator.splits,
            distances=tuple(named),
            of_weights=tuple(name for name, f in named.items() if f in OF_WEIGHTS),
            arrays={name: x[np.argsort(order)] for name, x in _joined(found.blocks).items()},
            costs_of_units=tuple(costs),
            folder=run.path,
            mesh=mesh,
            metric=main.name,
        )
        run.finish(result.save)
    return result


def _cost(unit: str, arrays: Arrays) -> dict[str, object]:
    own = {k.removeprefix("cost/"): v.item() for k, v in arrays.items() if k.startswith("cost/")}
    return {"unit": unit, **own}


def _joined(blocks: list[Arrays]) -> Arrays:
    """The arrays of all blocks along their axis of atoms; blocks may have made different calls."""
    joined = {}
    for name in (name for name in blocks[0] if name.startswith("atoms/")):
        parts = [block[name] for block in blocks]
        name = name.removeprefix("atoms/")
        if name in ("steps", "throughout"):
            calls = max(part.shape[1] for part in parts)
            fill = -1 if name == "steps" else np.nan
            parts = [
                np.concatenate(
                    [p, np.full((len(p), calls - p.shape[1], *p.shape[2:]), fill, p.dtype)], axis=1
                )
                for p in parts
            ]
        joined[name] = np.concatenate(parts)
    return joined
