"""Dense networks trained once from initialization, with their states kept at some steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket.engine import parallel
from jaxticket.engine.blocks import Block
from jaxticket.engine.learner import Networks as Networks
from jaxticket.engine.loop import Arrays, Jobs, history_arrays, job_plan, join, take, train_jobs
from jaxticket.engine.monitors import Monitor
from jaxticket.engine.runtime import Row, Run
from jaxticket.engine.supervised import Origin, masked_network
from jaxticket.engine.teaching import given_networks
from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.stopping import StopRule
from jaxticket.typing import Network, cached


class DenseStates(NamedTuple):
    """Dense networks of several seeds.

    Attributes:
      states: params and statistics at each step asked for, stacked over [replica].
      history: steps, wanted, values and diverged of the evaluations, as of `history_arrays`; empty
        where nothing was trained.
      diverged: int [replica], at which step the loss was not finite, or -1.
      steps: steps of all replicas that were trained.
      seconds: what they took.
      trained: the networks after the last step as they are evaluated, which under `Training.ema`
        are averages; None where they were not asked for.
      kept: the networks as they are evaluated at other steps, by step.
    """

    states: dict[int, Networks]
    history: Arrays
    diverged: np.ndarray
    steps: int
    seconds: float
    trained: Networks | None = None
    kept: Mapping[int, Networks] = MappingProxyType({})

    def lost(self, step: int) -> np.ndarray:
        """Which replicas had diverged at a step, bool [replica]; others may diverge later."""
        return (self.diverged >= 0) & (self.diverged <= step)


def initial_networks(
    net: Network, mesh: Mesh, keys: np.ndarray, *, drawn: bool = False
) -> Networks:
    """The network at initialization of each root key, on the host.

    Args:
      net: the network.
      mesh: where weights are drawn.
      keys: key data [replica, ...].
      drawn: whether weights are drawn also where the network has given ones.

    Raises:
      ValueError: where weights are given for other seeds.
    """
    if net.given is not None and not drawn:
        found = given_networks(net.given, keys)
        if found is None:
            raise ValueError(
                f"`net` has weights for the seeds {net.given.seeds} alone; use some of these "
                f"seeds, or with_params without `seeds`, for the same weights in all replicas"
            )
        return found
    padded = parallel.pad(keys, parallel.block_size(len(keys), mesh, None))
    typed = jax.random.wrap_key_data(parallel.put(padded, mesh))
    networks = _initializer(net, mesh)(np.zeros(len(padded), np.int32), typed)
    return take(parallel.host(networks), 0, len(keys))


@cached(64)
def _initializer(net: Network, mesh: Mesh) -> Callable[..., Networks]:
    return parallel.over_replicas(lambda limit, key: net.init(stream(key, "init")), mesh)


def dense_rows(seeds: Sequence[int], *branches: str) -> list[Row]:
    """What callbacks are told of dense networks, in the order [seed, branch]."""
    return [
        {"seed": int(seed), "level": 0, "density": 1.0, "branch": branch, "dilation": 1.0}
        for seed in seeds
        for branch in branches
    ]


def train_dense(
    run: Run,
    net: Network,
    training: Training,
    keys: np.ndarray,
    initial: Networks,
    steps: Sequence[int],
    *,
    ends_only: bool = False,
    monitors: Sequence[Monitor] = (),
    name: str = "dense",
    exclude: Sequence[str] = (),
    weights: bool = False,
    weights_at: Sequence[int] = (),
    about: Sequence[Row] = (),
) -> DenseStates:
    """Train the dense networks to the last of some steps, with their states at each.

    Args:
      run: where to run; units that its folder holds are read.
      net: the network.
      training: the settings; the schedule is that of the whole training.
      keys: key data of each replica's root key.
      initial: where they begin.
      steps: which states to keep.
      ends_only: evaluate at the start and the end only.
      monitors: what to measure.
      name: of the units in the folder.
      exclude: what later trainings of the program do not prune: they then share its compiled form.
      weights: whether the trained networks are kept.
      weights_at: other steps whose networks are kept.
      about: of each replica, what callbacks are told, as of `train_jobs`.
    """
    states = {0: initial} if 0 in steps else {}
    later = sorted({k for k in steps if k > 0})
    if not later:
        return DenseStates(states, {}, np.full(len(keys), -1), 0, 0.0)
    # no more places than replicas, so that all devices have some
    size = parallel.block_size(len(keys), run.mesh, None)
    run = replace(run, size=min(run.size, size))
    params, stats = initial
    mask = net.mask(exclude, lead=(len(keys),))
    plan = job_plan(training, len(keys), keys=keys)
    stop = np.full(len(keys), later[-1], np.int32)
    plan = plan._replace(schedule=plan.schedule._replace(stop=stop))
    jobs = Jobs(
        Origin(params, stats, mask), keys, np.zeros(len(keys), np.int32), plan,
        np.zeros(len(keys), bool),
    )  # fmt: skip
    parts = []
    rule, at = training.stop_when, tuple(weights_at)
    for block in run.blocks(name, len(keys), run.size):
        own, told = take(jobs, block.first, block.end), about[block.replicas]
        parts.append(_unit(run, own, block, later, ends_only, monitors, weights, at, told, rule))
    for k in later:
        states[k] = join([_tree.unflatten(part, initial, f"state-{k}") for part in parts])
    history = history_arrays(parts)
    seconds = sum(float(part["seconds"]) for part in parts)
    trained = None
    if weights:
        trained = join([_tree.unflatten(part, initial, "trained") for part in parts])
    kept = {
        k: join([_tree.unflatten(part, initial, f"weights-{k}") for part in parts])
        for k in weights_at
    }
    # those that stopped early took fewer
    taken = int(history["steps"].max(axis=0).sum())
    return DenseStates(states, history, history["diverged"], taken, seconds, trained, kept)


def _unit(
    run: Run,
    jobs: Jobs,
    block: Block,
    steps: list[int],
    ends_only: bool,
    monitors: Sequence[Monitor],
    weights: bool,
    weights_at: Sequence[int],
    about: Sequence[Row],
    rule: StopRule | None,
) -> Arrays:
    def make() -> Arrays:
        trained = train_jobs(
            run, jobs, block.name, snapshots_at=steps, ends_only=ends_only, monitors=monitors,
            about=about, stop_when=rule, weights_at=weights_at, weights=masked_network,
        )  # fmt: skip
        arrays = trained.evaluations | {"seconds": np.asarray(trained.seconds)}
        for k, snapshot in zip(steps, trained.snapshots, strict=True):
            arrays |= _tree.leaves(snapshot, f"state-{k}")
        for k, (_, *network) in zip(weights_at, trained.weights, strict=True):
            arrays |= _tree.leaves(tuple(network), f"weights-{k}")
        if weights:
            ended = parallel.host(run.program.learner.network(trained.state))
            arrays |= _tree.leaves(take(ended, 0, len(jobs.start)), "trained")
        return arrays

    return run.unit(block, jobs.steps, make)
