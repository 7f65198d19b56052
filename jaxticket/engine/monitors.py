"""Monitors: measurements of networks while they are trained.

A monitor has an attribute `every`, or steps `at`, and is called as `monitor(problem, state, batch)
-> dict of arrays`, a pure function of one replica for use inside compiled programs. Frozen
dataclasses with `__call__` are monitors.

Args of a monitor:
  problem: a `jt.Problem`; `problem.update(state, batch)` is loss and gradient of the update that
    follows, `problem.start` the network that this training began with.
  state: a `jt.TrainState`, whose weights are zero where the mask is False.
  batch: the examples of the step as its update sees them, augmented and normalized.

Returns of a monitor: name -> number, or array of numbers, of fixed shapes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket._check import naming, shown
from jaxticket.engine import parallel
from jaxticket.engine.learner import Block, Networks, Plan, State
from jaxticket.engine.metrics import outputs
from jaxticket.engine.source import DataArrays
from jaxticket.engine.supervised import Origin, Supervised, TrainBatch
from jaxticket.engine.together import replicas_together
from jaxticket.labels import Labels
from jaxticket.problem import Problem
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training, static_part
from jaxticket.typing import Monitor as MonitorOf
from jaxticket.typing import Network, TrainState

Monitor: TypeAlias = MonitorOf[Problem, TrainBatch]
"""A measurement during training."""

Look = Callable[..., dict[str, jax.Array]]
"""`look(limits, state, start, plan, block, arrays) -> name -> float32 [replica, ...]`."""


@functools.lru_cache(maxsize=64)
def observer(learner: Supervised, mesh: Mesh, monitor: Monitor) -> Look:
    """The compiled measurement of replicas; equal arguments share one program.

    Args:
      learner: network and training.
      mesh: devices.
      monitor: what is measured.

    Returns:
      `look(limits, state, start, plan, block, arrays)`: `start` are masked weights and statistics
      at the start of training, `block` and `arrays` belong to the data.
    """
    placement, training = parallel.placement(mesh), learner.training

    def look(
        limit: jax.Array,
        state: TrainState,
        start: Networks,
        plan: Plan,
        block: Block | None,
        arrays: DataArrays,
    ) -> dict[str, jax.Array]:
        del limit
        problem = Problem(
            learner.net, None, training, arrays.by, start, training.precision, placement
        )
        with jax.default_matmul_precision(training.precision):
            words = permutation_words(stream(state.key, "order", plan.order))
            raw = arrays.batches(training, words, block, placement)(jnp.int32(0), state.step)
            found = monitor(problem, state, learner.prepared(state, raw, plan, placement))

        def number(x: jax.Array) -> jax.Array:
            x = placement.unvarying(jnp.asarray(x).astype(jnp.float32))
            return jnp.where(state.diverged < 0, x, jnp.nan)

        return {name: number(x) for name, x in found.items()}

    most = replicas_together(learner.net, mesh)
    return parallel.over_replicas(look, mesh, shared=1, parted=(3,), vmapped=most)


@functools.lru_cache(maxsize=64)
def shapes(
    learner: Supervised, monitor: Monitor, size: int, labels: Labels
) -> dict[str, tuple[int, ...]]:
    """The shapes of what a monitor gives, by name, for batches of a size.

    Raises:
      ValueError: for a monitor that fails, or gives something else than numbers by name.
    """
    params, stats = learner.net.shapes
    number = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    mask = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bool_), params)
    origin = Origin(params, stats, mask)
    state = jax.eval_shape(lambda o, s, k: learner.start(o, s, key=k), origin, number, key)
    return _shapes_of(learner, monitor, size, labels, state)


def _shapes_of(
    learner: Supervised, monitor: Monitor, size: int, labels: Labels, state: TrainState
) -> dict[str, tuple[int, ...]]:
    """As `shapes`, for the states of a training, arrays or their shapes of one replica."""
    net, training = learner.net, learner.training
    x = net.example(size)
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = jax.ShapeDtypeStruct(x.shape, jnp.dtype(training.compute_dtype))
    y = jax.ShapeDtypeStruct((size, *labels.shape), labels.dtype)
    taught = training.teacher is not None
    answers = jax.ShapeDtypeStruct((size, *outputs(net)), jnp.float32) if taught else None
    batch = TrainBatch(x, y, state.key, answers)  # type: ignore[arg-type]
    problem = Problem(net, None, training, None, net.shapes, training.precision)
    with naming("monitors", monitor):
        found = jax.eval_shape(monitor, problem, state, batch)
        check_numbers("monitors", monitor, found)
    return {name: tuple(x.shape) for name, x in found.items()}


def check_numbers(argument: str, value: object, found: object) -> None:
    """Raise unless what a probe or a monitor gives is a dict of arrays of real numbers by name."""
    if not isinstance(found, Mapping) or not found:
        raise ValueError(
            f"`{argument}` {shown(value)} must give a dict of arrays by name, such as "
            f"{{'norm': x}}, got {shown(found)}"
        )
    for name, x in found.items():
        kind = np.dtype(getattr(x, "dtype", object))
        real = kind.kind in "bui" or jnp.issubdtype(kind, jnp.floating)
        if not isinstance(name, str) or not real:
            raise ValueError(
                f"`{argument}` {shown(value)} must give arrays of real numbers by name, got "
                f"{shown(x)} as {name!r}"
            )


def check(training: Training, net: Network, labels: Labels) -> None:
    """Raise where the monitors of a training do not work for a network and its labels."""
    learner, known = Supervised(net, static_part(training)), set()
    for monitor in monitors_of(training):
        names = set(shapes(learner, monitor, training.batch_size, labels))
        if both := sorted(names & known):
            raise ValueError(
                f"`monitors` give {both[0]!r} more than once; give their numbers names that differ"
            )
        known |= names


def monitors_of(training: Training) -> tuple[Monitor, ...]:
    """The monitors of a training; its settings take any, whatever they say of their arguments."""
    return cast("tuple[Monitor, ...]", training.monitors)


class Watcher:
    """The monitors of one training, which measure the states of its jobs.

    Args:
      learner: what is trained.
      mesh: devices.
      monitors: what is measured.
      labels: of an example.
      calls: number of calls of the training.
      jobs: number of jobs.
      state: theirs at the start.
    """

    def __init__(
        self,
        learner: Supervised,
        mesh: Mesh,
        monitors: Sequence[Monitor],
        labels: Labels,
        calls: int,
        jobs: int,
        state: State,
    ) -> None:
        self.looks = [observer(learner, mesh, monitor) for monitor in monitors]
        size = learner.training.batch_size // mesh.shape[parallel.DATA]
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state)
        assert isinstance(one, TrainState), "what monitors measure"
        self.values = [
            {
                name: np.full((calls, jobs, *shape), np.nan, np.float32)
                for name, shape in _shapes_of(learner, monitor, size, labels, one).items()
            }
            for monitor in monitors
        ]

    def look(
        self,
        call: int,
        due: Sequence[np.ndarray],
        *given: object,
    ) -> None:
        """Measure states after a call.

        Args:
          call: its number.
          due: for each monitor, bool [job].
          *given: arguments of a compiled measurement.
        """
        for look, on, values in zip(self.looks, due, self.values, strict=True):
            if not on.any():
                continue
            for name, x in parallel.host(look(*given)).items():
                values[name][call, on] = x[: len(on)][on]
