"""The compiled training program: many replicas, one chunk of steps and one evaluation per call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, masks
from jaxticket._check import instance
from jaxticket.data.arrays import Data
from jaxticket.data.augment import augmented
from jaxticket.data.sampling import batch_indices
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.feeder import Block, StreamedData
from jaxticket.engine.metrics import (
    METRICS,
    Batched,
    Normalization,
    cast,
    cross_entropy,
    cut,
    evaluate,
    means,
    normalized,
    tally,
)
from jaxticket.engine.optim import Schedule, learning_rate, optimizer
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training
from jaxticket.typing import Array, Key, Mask, Network, Params, Stats, TrainState


class Plan(NamedTuple):
    """What one replica does; every field may differ between replicas of one program.

    Attributes:
      schedule: learning rate, decay and stop step.
      order: int32, which of the orders of its key the replica sees.
      augment: int32, which of the augmentations of its key it sees; copies may differ in it alone.
    """

    schedule: Schedule
    order: Array
    augment: Array = np.int32(0)


class DeviceData(NamedTuple):
    """A data set on the devices: the training split, all splits cut for evaluation,
    normalisation.
    """

    x: Array
    y: Array
    batched: Batched
    by: Normalization


def put_data(data: Data | Stream, training: Training, mesh: Mesh) -> DeviceData | StreamedData:
    """Copies a data set to every device, or makes a stream ready to be fed to them."""
    if isinstance(data, Stream):
        return StreamedData(data, training, mesh)
    multiple = mesh.shape[parallel.DATA]
    splits = {name: (data.splits[name].x, data.splits[name].y) for name in split_names(data)}
    most = {"train": training.eval_train_examples}
    batched = cut(splits, training.eval_batch_size, most=most, multiple=multiple)
    by = Normalization(np.asarray(data.mean), np.asarray(data.std))  # type: ignore[arg-type]
    tree = DeviceData(data.train.x, data.train.y, batched, by)  # type: ignore[arg-type]
    return parallel.put(tree, mesh, replicas=False)


class Program(NamedTuple):
    """The compiled functions of one network and one kind of training, for any number of replicas.

    Attributes:
      init: `(limits, keys) -> (params, stats)` from each replica's "init" stream.
      start: `(limits, params, stats, mask, keys, step) -> TrainState`, masked, with a fresh
        optimizer.
      chunk: `(limits, state, plan, target, wanted, data) -> (state, metrics)`: trains each replica
        to its step `target` and evaluates where `wanted`; metrics float32 [replica, split, metric].
        Donates the state.
      fed: `(limits, state, plan, target, block, by) -> state`: trains on the steps of a block of a
        stream, no further than to `target`. Donates the state.
      tallied: `(limits, params, stats, sums, batched, by) -> sums`: adds evaluation batches to
        float32 [replica, split, 3], where the limit is not 0.
      averaged: `(limits, sums) -> metrics`, as of `chunk`; nan where the limit is 0.
      regrown: `(limits, state) -> bool [replica]`, whether a weight is not zero though its mask is
        False; this never happens, and is asserted after every training.
      finite: `(limits, state) -> bool [replica]`, whether all weights and statistics are finite:
        the last update of a training has no further loss that would tell.
      traces: `() -> int`, how often `chunk` or `fed` was traced (and compiled) so far.
    """

    init: Callable[..., tuple[Params, Stats]]
    start: Callable[..., TrainState]
    chunk: Callable[..., tuple[TrainState, Array]]
    fed: Callable[..., TrainState]
    tallied: Callable[..., Array]
    averaged: Callable[..., Array]
    regrown: Callable[..., Array]
    finite: Callable[..., Array]
    traces: Callable[[], int]


def check_fit(net: Network, data: Data | Stream, training: Training, mesh: Mesh) -> None:
    """Raises where network, data, training and mesh do not go together, or are something else."""
    instance("net", net, Network, "a network, such as jt.networks.lenet(data.shape, data.classes)")
    instance("data", data, (Data, Stream), "data, such as jt.data.load('digits') gives them")
    instance("training", training, Training, "a jt.Training")
    if tuple(net.shape) != tuple(data.shape):
        raise ValueError(
            f"`net` takes examples of shape {tuple(net.shape)} but `data` {data.name!r} has "
            f"{tuple(data.shape)}; "
            f"build the network with data.shape"
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
            f"{data.name!r}, "
            f"{len(data.train)} examples; use a smaller batch"
        )
    moves = {"crop", "shift"} & set(training.augment)
    if moves and training.augment_pixels >= min(data.shape[:2]):
        raise ValueError(
            f"`augment_pixels` {training.augment_pixels} moves whole images of {data.shape[:2]} "
            f"out of sight ({data.name!r}); use fewer"
        )
    if "resized_crop" in training.augment and getattr(data, "train_crop", None) == "random":
        raise ValueError(
            f"`augment` holds 'resized_crop', but the stream {data.name!r} cuts its images so "
            f"already; leave it out, or make the stream with train_crop='center'"
        )
    parts = mesh.shape[parallel.DATA]
    if training.batch_size % parts:
        raise ValueError(
            f"`batch_size` {training.batch_size} does not divide over the {parts} devices of the "
            f"mesh's data axis; "
            f"use a multiple of {parts} or a mesh with another `data`"
        )
    if parts > 1 and not net.syncs_stats:
        raise ValueError(
            f"`mesh` has a data axis of {parts}, but the statistics of this network cannot be "
            f"averaged over it; "
            f"give the module an `axis_name` field that reaches its BatchNorm, or use mesh(data=1)"
        )


def static_part(training: Training) -> Training:
    """The training with everything that a compiled program takes as an array set to one value."""
    return training.replace(
        steps=1,
        lr=0.0,
        final_lr=0.0,
        weight_decay=0.0,
        warmup=0,
        gamma=0.1,
        milestones=(0,) * len(training.milestones),
        eval_every=1,
    )


def program(net: Network, training: Training, mesh: Mesh, splits: int) -> Program:
    """The program for a network, a kind of training, a mesh and a number of splits; equal arguments
    give the same one.
    """
    return _program(net, static_part(training), mesh, splits)


def _data_axis(mesh: Mesh) -> tuple[str, int] | None:
    size = mesh.shape[parallel.DATA]
    return (parallel.DATA, size) if size > 1 else None


def _part(axis: tuple[str, int] | None) -> tuple[Array | int, int]:
    return (0, 1) if axis is None else (jax.lax.axis_index(axis[0]), axis[1])


def gathered(
    data: DeviceData,
    training: Training,
    order_words: Array,
    step: Array,
    *,
    axis: tuple[str, int] | None = None,
) -> tuple[Array, Array]:
    """This device's part of the batch of a step, from data on the device."""
    index = batch_indices(
        order_words,
        step,
        examples=data.y.shape[0],
        batch_size=training.batch_size,
        last_batch=training.last_batch,
        part=_part(axis),
    )
    return jnp.take(data.x, index, axis=0), jnp.take(data.y, index, axis=0)


def train_step(
    net: Network,
    training: Training,
    state: TrainState,
    plan: Plan,
    batch: tuple[Array, Array],
    by: Normalization,
    active: Array,
    *,
    axis: tuple[str, int] | None = None,
    waits: bool = True,
) -> TrainState:
    """One update of one replica on this device's part of a batch: raw images and labels.

    Params stay zero where the mask is False, so the forward pass needs no mask: the gradient is
      masked before
    clipping and momentum, and the update is added only where the mask is True. Where `active` is
    False, and from the first loss that is not finite on, the params stay as they are. `waits` says
    that replicas may wait with `active` False, so that their momentum has to be held too.

    Reference: DESIGN of masked training; invariant 4 of iterative magnitude pruning (pruned weights
      stay exactly 0).
    """
    part = _part(axis)
    x, y = batch
    first = part[0] * y.shape[0]
    if training.augment:
        augment_key = stream(state.key, "augment", plan.augment, state.step)
        x = augmented(x, training, by.mean, key=augment_key, first=first)
    if training.attack is not None:
        attack_key = stream(state.key, "adversary", plan.augment, state.step)
        x = training.attack(
            net, state.params, state.stats, x, y, by=by, key=attack_key,
            compute_dtype=training.compute_dtype, first=first,
        )  # fmt: skip
    x = normalized(x, by, training.compute_dtype)
    # copies under other SGD noise draw other dropout masks too
    noise_key = stream(state.key, "noise", plan.augment, state.step)
    if axis is not None:
        noise_key = jax.random.fold_in(noise_key, part[0])

    def loss_of(params: Params) -> tuple[Array, Stats]:
        logits, stats = net.apply(
            cast(params, training.compute_dtype),
            state.stats,
            x,
            train=True,
            key=noise_key,
            axis_name=None if axis is None else axis[0],
        )
        loss = jnp.mean(cross_entropy(logits, y, training.label_smoothing))
        # inside the loss, so that the gradient is averaged too
        return (loss if axis is None else jax.lax.pmean(loss, axis[0])), stats

    (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    gradient = masks.apply(state.mask, gradient)
    fresh = jnp.logical_and(~jnp.isfinite(loss), jnp.logical_and(active, state.diverged < 0))
    diverged = jnp.where(fresh, state.step, state.diverged)
    moving = jnp.logical_and(active, diverged < 0)
    # optax mixes python, float32 and int32 numbers, which strict promotion (a user's choice)
    # forbids
    with jax.numpy_dtype_promotion("standard"):
        direction, opt_state = optimizer(training, plan.schedule.weight_decay).update(
            gradient, state.opt_state, state.params
        )
    rate = learning_rate(plan.schedule, state.step, kind=training.schedule)
    # pruned weights are zero already: keeping the old value serves pruned, finished and diverged
    # alike
    params = jax.tree.map(
        lambda m, p, d: jnp.where(jnp.logical_and(m, moving), p - rate * d, p),
        state.mask,
        state.params,
        direction,
    )

    def held(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(moving, n.astype(o.dtype), o), new, old)

    stats = held(stats, state.stats)
    # where replicas run vmapped, those that start late wait through others' steps; where they do
    # not, nobody looks at the momentum of one that diverged, and Adam's costs a fifth of a step
    opt_state = held(opt_state, state.opt_state) if waits else jax.tree.map(
        lambda n, o: n.astype(o.dtype), opt_state, state.opt_state
    )  # fmt: skip
    step = state.step + active.astype(jnp.int32)
    return state._replace(
        step=step, params=params, stats=stats, opt_state=opt_state, diverged=diverged
    )


@functools.lru_cache(maxsize=8)
def finite_states(mesh: Mesh) -> Callable[..., Array]:
    """Compile whether states are finite, as `Program.finite`, for states of any kind."""

    def finite(limit: Array, state: TrainState) -> Array:
        del limit
        return _tree.finite((state.params, state.stats))

    return parallel.over_replicas(finite, mesh)


@functools.lru_cache(maxsize=64)
def _program(net: Network, training: Training, mesh: Mesh, splits: int) -> Program:
    axis, waits = _data_axis(mesh), not parallel.maps(mesh)
    traced = 0

    def init(limit: Array, key: Key) -> tuple[Params, Stats]:
        del limit
        return net.init(stream(key, "init"))

    def start(
        limit: Array, params: Params, stats: Stats, mask: Mask, key: Key, step: Array
    ) -> TrainState:
        del limit
        params = masks.apply(mask, params)
        opt_state = optimizer(training).init(params)
        # counters start as constants; adding a zero of the step lets them vary from replica to
        # replica
        opt_state = jax.tree.map(lambda x: x + (step * 0).astype(x.dtype), opt_state)
        return TrainState(step, params, stats, opt_state, mask, key, step * 0 - 1)

    def chunk(
        limit: Array, state: TrainState, plan: Plan, target: Array, wanted: Array, data: DeviceData
    ) -> tuple[TrainState, Array]:
        nonlocal traced
        traced += 1
        with jax.default_matmul_precision(training.precision):
            words = permutation_words(stream(state.key, "order", plan.order))

            def body(_: Array, s: TrainState) -> TrainState:
                batch = gathered(data, training, words, s.step, axis=axis)
                return train_step(
                    net, training, s, plan, batch, data.by, s.step < target, axis=axis, waits=waits
                )

            state = jax.lax.fori_loop(0, limit, body, state)

            def measure(s: TrainState) -> Array:
                return evaluate(
                    net,
                    s.params,
                    s.stats,
                    data.batched,
                    data.by,
                    training,
                    splits=splits,
                    axis=axis,
                )

            def skip(s: TrainState) -> Array:
                return jnp.full((splits, len(METRICS)), jnp.nan, jnp.float32) + 0 * s.step.astype(
                    jnp.float32
                )

            metrics = jax.lax.cond(wanted, measure, skip, state)
        return state, metrics

    def fed(
        limit: Array, state: TrainState, plan: Plan, target: Array, block: Block, by: Normalization
    ) -> TrainState:
        nonlocal traced
        traced += 1

        def body(i: Array, s: TrainState) -> TrainState:
            batch = (block.x[i], block.y[i])
            return train_step(
                net, training, s, plan, batch, by, s.step < target, axis=axis, waits=waits
            )

        with jax.default_matmul_precision(training.precision):
            return jax.lax.fori_loop(0, limit, body, state)

    def tallied(
        limit: Array,
        params: Params,
        stats: Stats,
        sums: Array,
        batched: Batched,
        by: Normalization,
    ) -> Array:
        def add(sums: Array) -> Array:
            return tally(net, params, stats, sums, batched, by, training, splits=splits, axis=axis)

        with jax.default_matmul_precision(training.precision):
            return jax.lax.cond(limit > 0, add, lambda sums: sums, sums)

    def averaged(limit: Array, sums: Array) -> Array:
        return jnp.where(limit > 0, means(sums), jnp.nan)

    def regrown(limit: Array, state: TrainState) -> Array:
        del limit
        outside = jax.tree.map(lambda m, w: jnp.any(~m & (w != 0)), state.mask, state.params)
        return jnp.any(jnp.stack(jax.tree.leaves(outside)))

    return Program(
        finite=finite_states(mesh),
        init=parallel.over_replicas(init, mesh),
        start=parallel.over_replicas(start, mesh),
        chunk=parallel.over_replicas(chunk, mesh, donate=(0,), shared=1),
        fed=parallel.over_replicas(fed, mesh, donate=(0,), shared=1, parted=(3,)),
        tallied=parallel.over_replicas(tallied, mesh, shared=2),
        averaged=parallel.over_replicas(averaged, mesh),
        regrown=parallel.over_replicas(regrown, mesh),
        traces=lambda: traced,
    )


def split_names(data: Data | Stream) -> tuple[str, ...]:
    """Names of the splits, in the order of the metrics' split axis (as jax sorts dicts)."""
    return tuple(sorted(data.splits))
