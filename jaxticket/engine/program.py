"""A learner compiled for many replicas: one chunk of steps and one evaluation per call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket._check import instance
from jaxticket._conditions import where_any
from jaxticket.data import augment
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import fitting, metrics, monitors, parallel, teaching
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.learner import Block, Learner, Planned, State
from jaxticket.engine.metrics import (
    Batched,
    Normalization,
    evaluate,
    means,
    metric_names,
    split_names,
    tally,
)
from jaxticket.engine.source import DataArrays
from jaxticket.engine.together import replicas_together
from jaxticket.labels import Labels, labels_of
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training
from jaxticket.typing import AnyArray, Array, Key, Network, cached

StateT = TypeVar("StateT", bound=State)
PlanT = TypeVar("PlanT", bound=Planned)
OriginT = TypeVar("OriginT")


class Program(NamedTuple, Generic[StateT, PlanT, OriginT]):
    """The compiled functions of a learner, for any number of replicas.

    Attributes:
      learner: what is compiled.
      start: `(limits, origin, keys, step) -> state`, as `Learner.start`.
      chunk: `(limits, state, plan, target, wanted, block, arrays) -> (state, metrics)`: trains each
        replica for `limits` steps, no further than to `target`, and evaluates where `wanted`;
        metrics float32 [replica, split, metric], nan where nothing is evaluated, None where the
        examples are not on the devices. Donates the state. Block and arrays are those of a
        `Source`.
      tallied: `(limits, state, sums, batched, by) -> sums`: adds evaluation batches to float32
        [replica, split, sums], where the limit is not 0.
      averaged: `(limits, sums) -> metrics`, as of `chunk`; nan where the limit is 0.
      checked: `(limits, state) -> (broken, finite)`, bool [replica], as of the learner.
      metrics, sums: how many numbers an evaluation gives of each split, and sums for them.
      traces: `() -> int`, how often `chunk` was traced (and compiled) so far.
    """

    learner: Learner[StateT, PlanT, OriginT]
    start: Callable[[AnyArray, OriginT, Key, AnyArray], StateT]
    chunk: Callable[
        [AnyArray, StateT, PlanT, AnyArray, AnyArray, Block | None, DataArrays],
        tuple[StateT, Array | None],
    ]
    tallied: Callable[[AnyArray, StateT, Array, Batched, Normalization], Array]
    averaged: Callable[[AnyArray, Array, Batched], Array]
    checked: Callable[[AnyArray, StateT], tuple[Array, Array]]
    traces: Callable[[], int]
    metrics: int
    sums: Callable[[Labels], int]


def check_fit(
    net: Network, data: Data | Stream, training: Training, mesh: Mesh, seeds: Sequence[int] = ()
) -> Training:
    """The training as it is on the data, `Training.for_data`.

    Args:
      net, data, training: what is trained on what, and how.
      mesh: the devices.
      seeds: of the replicas, where they are known.

    Raises:
      ValueError: where network, data, training and mesh do not fit together, or are something else.
    """
    instance("net", net, Network, "a network, such as jt.networks.lenet(data.shape, data.classes)")
    instance("data", data, (Data, Stream), "data, such as jt.data.load('digits') gives them")
    instance("training", training, Training, "a jt.Training")
    training = training.for_data(data)
    if tuple(net.shape) != tuple(data.shape):
        raise ValueError(
            f"`net` takes examples of shape {tuple(net.shape)} but `data` {data.name!r} has "
            f"{tuple(data.shape)}; build the network with data.shape"
        )
    tokens = bool(getattr(data, "tokens", False))
    if (net.dtype == "int32") != tokens:
        kind, wanted = ("tokens", "int32") if tokens else ("images", "float32")
        raise ValueError(
            f"`net` takes examples of type {net.dtype} but `data` {data.name!r} holds {kind}; "
            f"build the network with dtype={wanted!r}"
        )
    if tokens and (training.augment or training.attack is not None):
        setting = "augment" if training.augment else "attack"
        raise ValueError(
            f"`{setting}` {getattr(training, setting)!r} changes images, and `data` {data.name!r} "
            f"holds tokens; leave it out"
        )
    if net.classes < data.classes:
        raise ValueError(
            f"`net` has {net.classes} logits but `data` {data.name!r} has {data.classes} classes; "
            f"build the network with data.classes"
        )
    if training.batch_size > len(data.train):
        raise ValueError(
            f"`batch_size` {training.batch_size} is larger than the training split of "
            f"{data.name!r}, {len(data.train)} examples; use a smaller batch"
        )
    if training.augment:
        if len(data.shape) != 3 or np.ndim(data.mean) > 1:
            raise ValueError(
                f"`augment` {training.augment!r} changes images [height, width, channels] "
                f"standardized by channel, and `data` {data.name!r} has examples of shape "
                f"{data.shape}; leave it out"
            )
        augment.check(training, data)
    _check_range(training, data)
    fitting.check(training, net)
    metrics.check(training, net, data.labels)
    teaching.check(training, net, data, seeds)
    monitors.check(training, net, data.labels)
    _check_stop(training, data)
    parts = mesh.shape[parallel.DATA]
    if training.batch_size % parts:
        raise ValueError(
            f"`batch_size` {training.batch_size} does not divide over the {parts} devices of the "
            f"mesh's data axis; use a multiple of {parts} or a mesh with another `data`"
        )
    if (each := training.batch_size // parts) % training.accumulate:
        raise ValueError(
            f"`accumulate` {training.accumulate} does not divide the {each} examples that each of "
            f"the {parts} devices of the mesh's data axis has of a batch; use a `batch_size` that "
            f"is a multiple of {parts * training.accumulate}"
        )
    if parts > 1 and not net.syncs_stats:
        raise ValueError(
            f"`mesh` has a data axis of {parts}, but the statistics of this network cannot be "
            f"averaged over it; give the module an `axis_name` field that reaches its BatchNorm, "
            f"or use mesh(data=1)"
        )
    return training


def _check_range(training: Training, data: Data | Stream) -> None:
    """Raise for an attack that would clip examples as they are."""
    if not isinstance(training.attack, PGD) or not isinstance(data, Data):
        return
    low, high = training.attack.low, training.attack.high
    least, most = float(np.min(data.train.x)), float(np.max(data.train.x))
    if least < low or most > high:
        raise ValueError(
            f"`attack` keeps examples between low={low:g} and high={high:g}, and those of "
            f"{data.name!r} reach from {least:g} to {most:g}; give it their range, such as "
            f"PGD(low={least:g}, high={most:g})"
        )


def _check_stop(training: Training, data: Data | Stream) -> None:
    """Raise where a rule to stop looks at what is not evaluated."""
    rule = training.stop_when
    known = {"split": split_names(data), "metric": metric_names(training)}
    for field, names in known.items():
        name = getattr(rule, field, None)
        if isinstance(name, str) and name not in names:
            remedy = "use one of them"
            if name == "validation":
                remedy = "hold out a validation split with data.with_validation(...)"
            elif field == "metric":
                remedy = "use one of them, or add it to Training(metrics=...)"
            raise ValueError(
                f"`stop_when` looks at the {field} {name!r}, and evaluated are "
                f"{', '.join(names)}; {remedy}"
            )


def program(
    learner: Learner[StateT, PlanT, OriginT], mesh: Mesh, vmapped: int | None = None
) -> Program[StateT, PlanT, OriginT]:
    """The compiled functions of a learner on a mesh; equal arguments give the same ones.

    Args:
      learner: what is compiled.
      mesh: the devices.
      vmapped: how many replicas of a device take a step together; `replicas_together` if None.
    """
    return _program(
        learner, mesh, replicas_together(learner.net, mesh) if vmapped is None else vmapped
    )


@cached(64)
def _program(
    learner: Learner[StateT, PlanT, OriginT], mesh: Mesh, most: int | None
) -> Program[StateT, PlanT, OriginT]:
    training, placement, traced = learner.training, parallel.placement(mesh, most), 0
    names = len(metric_names(training))

    def start(limit: Array, origin: OriginT, key: Key, step: Array) -> StateT:
        del limit
        return learner.start(origin, step, key=key)

    def chunk(
        limit: Array,
        state: StateT,
        plan: PlanT,
        target: Array,
        wanted: Array,
        block: Block | None,
        arrays: DataArrays,
    ) -> tuple[StateT, Array | None]:
        nonlocal traced
        traced += 1

        with jax.default_matmul_precision(training.precision):
            words = permutation_words(stream(state.key, "order", plan.order))
            batch = arrays.batches(training, words, block, placement)

            def body(i: Array, s: StateT) -> StateT:
                return learner.step(s, batch(i, s.step), plan, s.step < target, placement)

            state = jax.lax.fori_loop(0, limit, body, state)
            here = (limit > 0) & (state.step == target) & (state.diverged < 0)
            state = learner.boundary(state, plan, here)
            batched = arrays.batched
            if batched is None:
                return state, None
            nothing = jnp.full((len(arrays.splits), names), jnp.nan, jnp.float32)
            skipped = _tree.varying_like(nothing, state.step)
            if learner.network(state) is None:
                return state, skipped

            def measured() -> Array:
                network = learner.network(state)
                assert network is not None
                return evaluate(
                    learner.net, *network, batched, arrays.by, training,
                    splits=len(arrays.splits), axis=placement.axis,
                )  # fmt: skip

            return state, where_any(wanted, measured, skipped)

    def tallied(
        limit: Array, state: StateT, sums: Array, batched: Batched, by: Normalization
    ) -> Array:
        network = learner.network(state)
        if network is None:
            return sums

        def add(sums: Array) -> Array:
            return tally(
                learner.net, *network, sums, batched, by, training,
                splits=len(sums), axis=placement.axis,
            )  # fmt: skip

        with jax.default_matmul_precision(training.precision):
            return jax.lax.cond(limit > 0, add, lambda sums: sums, sums)

    def averaged(limit: Array, sums: Array, batched: Batched) -> Array:
        # for the shape of its labels alone
        found = means(sums, training, learner.net, labels_of(batched.y, 2))
        return jnp.where(limit > 0, found, jnp.nan)

    def checked(limit: Array, state: StateT) -> tuple[Array, Array]:
        del limit
        return learner.broken(state), learner.finite(state)

    return Program(
        learner=learner,
        start=parallel.over_replicas(start, mesh),
        chunk=parallel.over_replicas(chunk, mesh, donate=(0,), shared=1, parted=(4,), vmapped=most),
        tallied=parallel.over_replicas(tallied, mesh, shared=2, vmapped=most),
        averaged=parallel.over_replicas(averaged, mesh, shared=1),
        checked=parallel.over_replicas(checked, mesh),
        traces=lambda: traced,
        metrics=names,
        sums=functools.partial(metrics.width, training, learner.net),
    )
