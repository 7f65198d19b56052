"""Telemetry: measurements of the surviving weights of tickets during training."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _identity, _tree, masks, results
from jaxticket._check import chosen, from_table, hashable, whole
from jaxticket.controls import BRANCHES, Change
from jaxticket.engine import monitors
from jaxticket.engine.monitors import Monitor
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.engine.selected import completed, trained_part
from jaxticket.engine.supervised import Supervised, TrainBatch
from jaxticket.problem import Problem
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import static_part
from jaxticket.sparsify.retraining import branch_groups
from jaxticket.sparsify.runner import Group, Runner
from jaxticket.typing import Mask, Params, TrainState

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("magnitude", "sign_flips", "l2", "cosine", "gradient_norm")


def telemetry(
    runs: Runs,
    *,
    branch: str | Change = "retrain",
    levels: Sequence[int] | None = None,
    steps: int | None = None,
    every: int | None = None,
    monitor: Monitor | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Train tickets again from their rewind point and measure their surviving weights.

    For the surviving prunable weights w (m = 1), at step t of a training that starts at step s:

        magnitude      mean |w_t|
        sign_flips     #{sign(w_t) != sign(w_s), w_s != 0} / #{w_s != 0}
        l2             ||w_t - w_s||
        cosine         <w_t, w_s> / (||w_t|| ||w_s||)
        gradient_norm  ||m * g_t||

    g_t is the gradient used by the update of step t (at the end: of the next step): of the mean
    loss of its batch, with the augmentation and label smoothing of training and BatchNorm in
    training mode, but without weight decay, clipping and momentum; 0 for frozen weights
    (`Training.trainable`). A weight that became exactly 0 counts as a sign flip. Weights are those
    that are trained, not their average (`Training.ema`).

    Training is that of `jt.branch(runs, branch)`: the seeds, batches and schedule of the run, with
    a fresh optimizer; the dense ticket of a run with rewind step k starts at k, too. Measuring does
    not change training, and the splits are evaluated only at the start and at the end, unless
    `Training.stop_when` looks at them: networks then end where it ended them.

    Args:
      runs: the result of `find_tickets`, `branch` or `prune_at`.
      branch: how to change the tickets: a name in `jt.BRANCHES` or a function. "retrain" leaves
        them unchanged.
      levels: which levels; all if None.
      steps: number of steps to train, with the schedule of the complete training; None for all.
      every: steps between measurements, which are also made at the start and at the end; the
        interval of evaluations if None.
      monitor: what measures in the place of these metrics, such as
        `jt.probes.Smoothness.of(training)`: an object with `every`, which must not be given here
        too, that gives numbers by name (see docs/extending/monitor.md).
      runtime: folder and the other settings below in one object; then omit the arguments below.
      folder: where to save; None for a folder below that of `runs`, if it has one.
      at_once: replicas that one device holds at most.
      save_every: seconds between saves, see `find_tickets`.
      progress: show progress, see `find_tickets`.

    Returns:
      Tidy table: seed, level, density, branch (that of `runs` for "retrain"), step, metric, value.
      Values are nan from the first non-finite loss on, and if no weights survive.

    Raises:
      ValueError: for a level that is not in `runs`, more steps than training has, runs with several
        dilations, and a monitor that does not give numbers.

    Reference: KD-LTS, figure 7; Frankle, Schwab and Morcos 2020, "The early phase of neural network
      training".
    """
    require_runs("runs", runs)
    runtime = settled(
        runtime, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    ).on(runs.mesh)
    change = from_table("branch", branch, BRANCHES)
    name = branch if isinstance(branch, str) else str(getattr(branch, "__name__", "branch"))
    levels = chosen("levels", levels, runs.levels)
    watched = _monitor(monitor, runs, every)
    names = METRICS if monitor is None else _metrics(watched, runs)
    steps = None if steps is None else whole("steps", steps, 1)
    factors = sorted({float(factor) for h in runs.histories for factor in h.dilation})
    if len(factors) != 1:
        raise ValueError(
            f"`runs` were trained with the dilations {factors}; pass runs with one dilation"
        )
    settings = _identity.run(
        "telemetry",
        runs.net,
        runs.data,
        of={**runs.identity(levels), "dilation": factors[0]},
        change=change,
        name=name,
        levels=levels,
        steps=steps,
        every=watched.every,
        # left out where it is the default, so that folders of before still fit
        **({} if monitor is None else {"monitor": monitor}),
    )
    runtime = runtime.in_folder(runs.folder, "telemetry", results.run_name(name, settings))
    _, groups = branch_groups(runs, change, name, runs.training, factors, levels)
    groups = _shortened(groups, steps)
    label = runs.branch if change is BRANCHES["retrain"] else name
    # as for `branch`, with which the compiled program is shared
    size = runtime.replicas_per_call(len(groups) * len(runs.seeds), runs.size)
    total = sum(group.steps for group in groups) * len(runs.seeds)
    # a rule that ends trainings looks at the evaluations that they had
    ends_only = runs.training.stop_when is None
    interval = watched.every if ends_only else None
    with runtime.run(
        runs.net, runs.data, runs.training, settings, size=size, steps=total, interval=interval
    ) as run:
        runner = Runner(run, runs.net, runs.data, runs.training, runs.seeds)
        logs = runner.train(groups, ends_only=ends_only, monitors=(watched,)).logs
        table = results.concat(
            _rows(log, replica, label, names) for log in logs for replica in range(len(runs.seeds))
        )
        if run.path is not None:
            run.finish(functools.partial(results.write, table, run.path, "table"))
    return table


def _shortened(groups: list[Group], steps: int | None) -> list[Group]:
    """Stop the replicas of each group after a number of steps."""
    if steps is None:
        return groups
    starts = [np.asarray(group.ticket().step) for group in groups]
    end = groups[0].training.steps
    left = end - max(int(start.max()) for start in starts)
    if steps > left:
        raise ValueError(
            f"`steps` must be at most {left}, since training ends at step {end}, got {steps}"
        )
    return [
        dataclasses.replace(group, stop=start + steps)
        for group, start in zip(groups, starts, strict=True)
    ]


def _monitor(monitor: Monitor | None, runs: Runs, every: int | None) -> Monitor:
    """Give the monitor that measures, once it is checked."""
    if monitor is None:
        usual = runs.training.evaluation_interval if every is None else every
        return Telemetry(whole("every", usual, 1))
    if every is not None:
        raise ValueError(
            f"`every` is that of `monitor`; leave it out, or set it there, got {every}"
        )
    if not callable(monitor) or getattr(monitor, "every", None) is None:
        raise ValueError(
            "`monitor` must be an object with `every` that is called as (problem, state, batch), "
            f"such as jt.probes.Smoothness.of(training), got {monitor!r}"
        )
    whole("every", monitor.every, 1)
    return hashable("monitor", monitor)


def _metrics(monitor: Monitor, runs: Runs) -> tuple[str, ...]:
    """Name the numbers that a monitor gives."""
    learner = Supervised(runs.net, static_part(runs.training))
    found = monitors.shapes(learner, monitor, runs.training.batch_size, runs.data.labels)
    if arrays := [name for name, shape in found.items() if shape]:
        raise ValueError(
            f"`monitor` gives an array as {arrays[0]!r}, but each row of the table is a number: "
            "give each of its numbers a name"
        )
    return tuple(found)


def _rows(
    log: results.EvaluationLog, replica: int, branch: str, metrics: Sequence[str]
) -> pd.DataFrame:
    """Give the measurements of one replica as a table."""
    calls = np.flatnonzero(log.looked[metrics[0]][:, replica])
    about = {"seed": int(log.seeds[replica]), "level": log.level}
    about |= {"density": log.density[replica], "branch": branch}
    columns = {name: np.asarray([value] * len(calls)) for name, value in about.items()}
    columns["step"] = log.steps[calls, replica].astype(np.int64)
    values = np.stack([log.monitored[metric][calls, replica] for metric in metrics], axis=-1)
    return results.spread(values, columns, {"metric": tuple(metrics)})


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The monitor of `jt.telemetry`; what it measures is said there.

    Attributes:
      every: steps between measurements.
    """

    every: int

    def __call__(
        self, problem: Problem, state: TrainState, batch: TrainBatch
    ) -> dict[str, jax.Array]:
        """Measure the surviving weights of a training state."""
        assert problem.start is not None
        loss, gradient = problem.update(state, batch)
        still = jax.tree.map(jnp.zeros_like, gradient)
        gradient = completed(trained_part(problem.training, gradient), still)
        values = measured(state.params, problem.start[0], gradient, state.mask)
        found: dict[str, jax.Array] = dict(zip(METRICS, values, strict=True))
        # the state is marked as diverged only at the step after a non-finite loss
        found["gradient_norm"] *= jnp.where(jnp.isfinite(loss), 1.0, jnp.nan)
        return found


def measured(params: Params, start: Params, gradient: Params, mask: Mask) -> jax.Array:
    """Compute the metrics of one replica, float32 in the order of `METRICS`.

    Args:
      params: the current weights.
      start: the weights at the start of training.
      gradient: the gradient at the current weights.
      mask: which weights survive; leaves where it has None are ignored.
    """

    def kept(tree: Params) -> list[jax.Array]:
        return [jnp.where(m, x, jnp.zeros_like(x)) for _, m, x in masks.items(mask, tree)]

    now, before, slope = kept(params), kept(start), kept(gradient)
    survive = [m for _, m in masks.items(mask)]
    survivors, signed, flipped = jnp.int32(0), jnp.int32(0), jnp.int32(0)
    total = jnp.float32(0)
    for w, b, m in zip(now, before, survive, strict=True):
        has_sign = b != 0
        flips = jnp.logical_and(has_sign, jnp.sign(w) != jnp.sign(b))
        survivors = survivors + jnp.sum(m, dtype=jnp.int32)
        signed = signed + jnp.sum(has_sign, dtype=jnp.int32)
        flipped = flipped + jnp.sum(flips, dtype=jnp.int32)
        total = total + jnp.sum(jnp.abs(w))
    moved = [w - b for w, b in zip(now, before, strict=True)]
    # 1 - |u - v|^2 / 2 of unit vectors: exactly 1 for equal ones, and accurate near 1
    norms = _tree.norm(now), _tree.norm(before)
    difference = [w / norms[0] - b / norms[1] for w, b in zip(now, before, strict=True)]
    cosine = jnp.maximum(1 - _tree.dot(difference, difference) / 2, -1)
    values = (
        total / survivors.astype(jnp.float32),
        flipped.astype(jnp.float32) / signed.astype(jnp.float32),
        _tree.norm(moved),
        cosine,
        _tree.norm(slope),
    )
    return jnp.where(survivors > 0, jnp.stack(values), jnp.nan)
