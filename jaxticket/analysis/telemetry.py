"""Telemetry: what happens to the surviving weights of tickets while they are trained."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _identity, _tree, results
from jaxticket._check import chosen, from_table, whole
from jaxticket.controls import BRANCHES, Change
from jaxticket.engine import parallel
from jaxticket.engine.learner import Plan
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    Watch,
    join,
    report_diverged,
    take,
    train_jobs,
)
from jaxticket.engine.runtime import Run, Runtime, settled
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words, root_keys, stream
from jaxticket.runs import Runs, density, require_runs
from jaxticket.settings import Training
from jaxticket.sparsify.retraining import branch_groups
from jaxticket.sparsify.runner import jobs_of
from jaxticket.ticket import host_apply
from jaxticket.typing import Array, Network, Params, TrainState

if TYPE_CHECKING:
    import pandas as pd

# a pandas DataFrame; only `jaxticket.results` imports pandas

METRICS = ("magnitude", "sign_flips", "l2", "cosine", "gradient_norm")


def telemetry(
    runs: Runs,
    *,
    branch: str | Change = "retrain",
    levels: Sequence[int] | None = None,
    steps: int | None = None,
    every: int | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> pd.DataFrame:
    r"""Trains tickets again from where they start and watches their surviving weights.

    Over the surviving prunable weights w (m = 1), at step t of a training that starts at step s:

        magnitude      mean |w_t|
        sign_flips     #{sign(w_t) != sign(w_s), w_s != 0} / #{w_s != 0}
        l2             ||w_t - w_s||
        cosine         <w_t, w_s> / (||w_t|| ||w_s||)
        gradient_norm  ||m * g_t||

    g_t is the gradient that the update of step t uses (at the end: would use): the mean loss of its
    batch, augmented and with label smoothing as trained, BatchNorm in training mode; without weight
    decay, clipping and momentum. A weight that has become exactly 0 has another sign.

    Training is that of `jt.branch(runs, branch)`: the seeds, batches and schedule of the run, with
    a fresh optimizer. So the dense ticket of a run that rewinds to step k starts at k too. Watching
    changes nothing, and no split is evaluated between the ends.

    Args:
      runs: what `find_tickets`, `branch` or `prune_at` returned.
      branch: watch the tickets changed so: a name in `jt.BRANCHES` or a change function. "retrain"
        changes nothing.
      levels: which levels; all if None.
      steps: train for so many steps only, with the schedule of the whole training; to its end if
        None.
      every: steps between looks, which are at the start, at every multiple of it and at the end;
        the interval of evaluations if None.
      runtime: folder and the like in one; leave the arguments that follow out then.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      save_every, progress: as for `find_tickets`.

    Returns:
      Tidy table, one row per value: seed, level, density, branch (that of `runs` if it is not
      changed), step, metric, value. Values are nan from where the loss was not finite on, and where
      no weight is left to look at.

    Raises:
      ValueError: for a level that `runs` does not have, more steps than training has, and runs of
        several dilations.

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
    every = whole("every", runs.training.evaluation_interval if every is None else every, 1)
    steps = None if steps is None else whole("steps", steps, 1)
    factors = sorted({float(factor) for h in runs.histories for factor in h.dilation})
    if len(factors) != 1:
        raise ValueError(
            f"`runs` were trained with the dilations {factors}; pass those of one dilation"
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
        every=every,
    )
    runtime = runtime.in_folder(runs.folder, "telemetry", results.run_name(name, settings))
    tickets, groups = branch_groups(runs, change, name, runs.training, factors, levels)
    keys = np.asarray(jax.random.key_data(root_keys(runs.seeds)))
    jobs = _shortened(join([jobs_of(group, group.ticket(), keys) for group in groups]), steps)
    label = runs.branch if change is BRANCHES["retrain"] else name
    about = [
        {"seed": seed, "level": level, "density": share, "branch": label}
        for level in levels
        for seed, share in zip(
            runs.seeds,
            density(runs.net, runs.pruning, tickets[level], runs.lost_at(level)),
            strict=True,
        )
    ]
    count = len(jobs.start)
    # as for `branch`, with which the compiled program is shared
    size = runtime.replicas_per_call(count, runs.size)
    parts = []
    with runtime.run(
        runs.net, runs.data, runs.training, settings, size=size, steps=jobs.steps, interval=every
    ) as run:
        run.describe(f"telemetry of {label}")
        look = observer(runs.net, runs.training, runs.mesh, runs.pruning.exclude)
        for begin in range(0, count, size):
            part, own = take(jobs, begin, begin + size), about[begin : begin + size]
            arrays = _unit(run, part, look, f"jobs-{begin:05d}-{begin + len(own):05d}")
            for job, columns in enumerate(own):
                parts.append(_rows(arrays, job, columns))
                where = f"level {columns['level']}, {label}"
                place = slice(job, job + 1)
                report_diverged(
                    run, where, [columns["seed"]], arrays["diverged"][place], part.lost[place]
                )
        table = results.concat(parts)
        if run.path is not None:
            run.finish(functools.partial(results.write, table, run.path, "table"))
    return table


def _shortened(jobs: Jobs, steps: int | None) -> Jobs:
    """The same jobs, stopped after so many steps each."""
    if steps is None:
        return jobs
    schedule = jobs.plan.schedule
    left = int((np.asarray(schedule.stop) - jobs.start).min())
    if steps > left:
        raise ValueError(
            f"`steps` must be at most {left}, which is where training ends "
            f"(step {int(np.asarray(schedule.stop).min())}), got {steps}"
        )
    schedule = schedule._replace(stop=(jobs.start + steps).astype(np.int32))
    return jobs._replace(plan=jobs.plan._replace(schedule=schedule))


def _unit(run: Run, jobs: Jobs, look: Callable[..., Array], name: str) -> Arrays:
    """Steps and looks of some jobs, host arrays: steps int32 and wanted bool [call, job], watched
    float32 [call, job, metric], diverged int32 [job].
    """

    def make() -> Arrays:
        trained = train_jobs(run, jobs, name, watch=_watch(run, jobs, look))
        watched = trained.watched.copy()
        watched[(trained.diverged >= 0) & (trained.steps >= trained.diverged)] = np.nan
        arrays = trained.evaluations | {"watched": watched}
        del arrays["values"]
        return arrays

    return run.unit(name, jobs.steps, make)


def _watch(run: Run, jobs: Jobs, look: Callable[..., Array]) -> Watch:
    masked = host_apply(jobs.origin.mask, jobs.origin.params)
    keys, own, masked = parallel.pad((jobs.keys, jobs.plan, masked), run.size)
    start, plan = parallel.put((masked, own), run.mesh)
    limits, shape = np.zeros(run.size, np.int32), (len(jobs.start), len(METRICS))

    def seen(state: TrainState, wanted: np.ndarray) -> np.ndarray:
        block = run.data.at_step(keys, own, parallel.host(state.step))
        values = parallel.host(look(limits, state, start, plan, block, run.data.arrays))
        return np.where(wanted[:, None], values[: shape[0]], np.float32(np.nan))

    return Watch(shape, seen, evaluates="ends")


def _rows(arrays: Arrays, job: int, about: dict[str, Any]) -> pd.DataFrame:
    """The looks at one job as a table."""
    calls = np.flatnonzero(arrays["wanted"][:, job])
    columns: dict[str, Any] = {name: [value] * len(calls) for name, value in about.items()}
    columns["step"] = arrays["steps"][calls, job].astype(np.int64)
    return results.spread(arrays["watched"][calls, job], columns, {"metric": METRICS})


def observer(
    net: Network, training: Training, mesh: Mesh, exclude: tuple[str, ...] = ()
) -> Callable[..., Array]:
    """The compiled look at replicas; equal arguments give the same one.

    Args:
      net, training, mesh: as of the compiled training program.
      exclude: patterns of paths that are not pruned.

    Returns:
      `look(limits, state, start, plan, block, arrays) -> float32 [replica, metric]`, in the order
      of `METRICS`; `start` are the masked weights that training began with, `block` and `arrays`
      those of the data.
    """
    return _observer(Supervised(net, training), mesh, exclude)


@functools.lru_cache(maxsize=64)
def _observer(learner: Supervised, mesh: Mesh, exclude: tuple[str, ...]) -> Callable[..., Array]:
    placement, training = parallel.placement(mesh), learner.training

    def look(
        limit: Array, state: TrainState, start: Params, plan: Plan, block: Any, arrays: Any
    ) -> Array:
        del limit
        prunable = learner.net.prunable_leaves(exclude)
        with jax.default_matmul_precision(training.precision):
            words = permutation_words(stream(state.key, "order", plan.order))
            batch = arrays.batches(training, words, block, placement)(jnp.int32(0), state.step)
            loss, gradient, _ = learner.gradient(state, batch, plan, placement)
        values = measured(state.params, start, gradient, state.mask, prunable)
        # a loss that is not finite shows only at the next step; what was seen is then forgotten
        values = values.at[METRICS.index("gradient_norm")].mul(
            jnp.where(jnp.isfinite(loss), 1.0, jnp.nan)
        )
        return jnp.where(state.diverged < 0, values, jnp.nan)

    return parallel.over_replicas(look, mesh, shared=1, parted=(3,))


def measured(params: Params, start: Params, gradient: Params, mask: Any, prunable: Any) -> Array:
    """The metrics of one replica, float32 in the order of `METRICS`.

    Args:
      params, start: weights now and where training began.
      gradient: of the weights now.
      mask: which weights survive.
      prunable: tree of python bools; the other leaves do not count.
    """

    def kept(tree: Any) -> list[Array]:
        leaves = zip(*map(jax.tree.leaves, (tree, mask, prunable)), strict=True)
        return [jnp.where(m, x, jnp.zeros_like(x)) for x, m, p in leaves if p]

    now, before, slope = kept(params), kept(start), kept(gradient)
    survive = [m for m, p in zip(*map(jax.tree.leaves, (mask, prunable)), strict=True) if p]
    survivors, signed, flipped = jnp.int32(0), jnp.int32(0), jnp.int32(0)
    total = jnp.float32(0)
    for w, b, m in zip(now, before, survive, strict=True):
        there = b != 0
        turned = jnp.logical_and(there, jnp.sign(w) != jnp.sign(b))
        survivors = survivors + jnp.sum(m, dtype=jnp.int32)
        signed = signed + jnp.sum(there, dtype=jnp.int32)
        flipped = flipped + jnp.sum(turned, dtype=jnp.int32)
        total = total + jnp.sum(jnp.abs(w))
    moved = [w - b for w, b in zip(now, before, strict=True)]
    # 1 - |u - v|^2 / 2 of unit vectors: exactly 1 for equal ones, and accurate next to it
    ends = _tree.norm(now), _tree.norm(before)
    apart = [w / ends[0] - b / ends[1] for w, b in zip(now, before, strict=True)]
    cosine = jnp.maximum(1 - _tree.dot(apart, apart) / 2, -1)
    values = (
        total / survivors.astype(jnp.float32),
        flipped.astype(jnp.float32) / signed.astype(jnp.float32),
        _tree.norm(moved),
        cosine,
        _tree.norm(slope),
    )
    return jnp.where(survivors > 0, jnp.stack(values), jnp.nan)
