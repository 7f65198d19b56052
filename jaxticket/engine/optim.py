"""Optimizers by optax, and the learning rate as a function of the absolute step."""

from __future__ import annotations

from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import _tree
from jaxticket._check import naming
from jaxticket.settings import Dilated, Training, has_own_rate
from jaxticket.typing import (
    AnyArray,
    Array,
    Network,
    OptimizerMaker,
    Params,
    RateSchedule,
    cached,
    relaxed_types,
)

WeightsT = TypeVar("WeightsT", bound="Params | tuple[Params, ...]")


class Schedule(NamedTuple):
    """The hyperparameters that may differ between replicas of one compiled program.

    Outside the program every field has a leading replica axis.

    Attributes:
      lr, final_lr, weight_decay, gamma: float32.
      warmup, milestones, steps: int32; `steps` is the length that "cosine" and "linear" refer to.
      stop: int32, the step at which the replica is frozen.
      dilation: float32, the factor by which a user's schedule is stretched.
    """

    lr: AnyArray
    final_lr: AnyArray
    weight_decay: AnyArray
    gamma: AnyArray
    warmup: AnyArray
    milestones: AnyArray
    steps: AnyArray
    stop: AnyArray
    dilation: AnyArray


def schedule(training: Training) -> Schedule:
    """The schedule of one training, as NumPy scalars."""
    own = training.schedule
    return Schedule(
        lr=np.asarray(training.lr, np.float32),
        final_lr=np.asarray(training.final_lr, np.float32),
        weight_decay=np.asarray(training.weight_decay, np.float32),
        gamma=np.asarray(training.gamma, np.float32),
        warmup=np.asarray(training.warmup, np.int32),
        milestones=np.asarray(training.milestones, np.int32),
        steps=np.asarray(training.steps, np.int32),
        stop=np.asarray(training.steps, np.int32),
        dilation=np.asarray(own.factor if isinstance(own, Dilated) else 1, np.float32),
    )


def learning_rate(at: Schedule, step: Array, *, kind: str | RateSchedule) -> Array:
    r"""The learning rate of the update that leads from `step` to `step + 1`.

    `lr * min(1, step / warmup) * decay`, with decay `gamma ** #{m: m <= step}` for kind "steps" and
    `(1 + cos(pi * step / steps)) / 2` for "cosine"; for "linear" `lr * decay` is
    `lr + (final_lr - lr) * step / steps`. Step 0 of a warmup has rate 0. For a function of the
    user's own `lr * decay` is `kind(step / dilation)`.

    Reference: methods of Frankle et al. (OpenLTH): the drop acts at the milestone itself.
    """
    t, lr = step.astype(jnp.float32), jnp.asarray(at.lr)
    warm = jnp.where(
        step < at.warmup, t / jnp.maximum(at.warmup, 1).astype(jnp.float32), jnp.float32(1)
    )
    if not isinstance(kind, str):
        return _own_rate(kind, t / at.dilation) * warm
    if kind == "linear":
        done = t / at.steps.astype(jnp.float32)
        return (lr + (at.final_lr - lr) * done) * warm
    if kind == "cosine":
        decay = (1 + jnp.cos(jnp.float32(np.pi) * t / at.steps.astype(jnp.float32))) / 2
    else:
        drops = jnp.sum(at.milestones <= step, dtype=jnp.int32)
        decay = at.gamma ** drops.astype(jnp.float32)
    return lr * warm * decay


def _own_rate(own: RateSchedule, t: Array) -> Array:
    """The rate that a user's schedule gives."""
    function = own.schedule if isinstance(own, Dilated) else own
    with relaxed_types():
        rate = jnp.asarray(function(t))
    if rate.ndim:
        raise ValueError(
            f"`schedule` {function!r} must give a learning rate, a number, for a step; got the "
            f"shape {rate.shape}"
        )
    return rate.astype(jnp.float32)


def optimizer(
    training: Training, weight_decay: AnyArray | float = 0.0, rate: Array | float = 1.0
) -> optax.GradientTransformation:
    """The optimizer of one step.

    Of a named optimizer the updates are a direction, to be multiplied by minus the learning rate.
    Clipping by the global norm comes first, then weight decay on every parameter (biases and
    BatchNorm included), then momentum: `v <- momentum * v + g + decay * w`. AdamW adds its decay
    after the moments instead. A user's optimizer gives the updates of the weights themselves, at
    this learning rate; clipping comes before it.

    The structure of the state depends neither on `weight_decay` nor on `rate`, which may be traced.
    """
    parts = []
    if training.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(training.clip_norm))
    if not isinstance(training.optimizer, str):
        return optax.chain(*parts, _own_transformation(training.optimizer, jnp.asarray(rate)))
    decay = optax.add_decayed_weights(jnp.asarray(weight_decay))
    adam = optax.scale_by_adam(b1=training.b1, b2=training.b2, eps=training.eps)
    if training.optimizer == "adamw":
        parts += [adam, decay]
    elif training.optimizer == "adam":
        parts += [decay, adam]
    elif training.optimizer == "momentum":
        parts += [decay, optax.trace(decay=training.momentum, nesterov=training.nesterov)]
    else:
        parts += [decay]
    return optax.chain(*parts)


def _own_transformation(
    own: OptimizerMaker | optax.GradientTransformation, rate: Array
) -> optax.GradientTransformation:
    """A user's optimizer at a learning rate."""
    if isinstance(own, optax.GradientTransformation):
        return own
    with relaxed_types():
        made = own(rate)
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"`optimizer` {own!r} must give an optax.GradientTransformation for a learning rate, "
            f"got {made!r}"
        )
    return made


def fresh_state(
    training: Training, params: Params | tuple[Params, ...], step: Array
) -> optax.OptState:
    """The optimizer's state where training begins at a step.

    Counters of optax's schedules begin at that step, all others at 0: the moments of a rewound
    network are new, its schedule is that of the step.
    """
    with relaxed_types():
        state = optimizer(training).init(params)
    state = jax.tree.map(jnp.asarray, state)
    if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)):
        raise ValueError(
            f"`optimizer` {training.optimizer!r} keeps a random key, which would be the same for "
            f"all seeds; use one that draws nothing"
        )
    if isinstance(training.optimizer, str):
        return state

    def at_step(part: object) -> object:
        return part._replace(count=part.count + step) if isinstance(part, _COUNTING) else part

    return jax.tree.map(at_step, state, is_leaf=lambda part: isinstance(part, _COUNTING))


_COUNTING: tuple[type[optax.ScaleByScheduleState], ...] = (
    optax.ScaleByScheduleState,
    # optax exports no name for it; of shapes alone, since importing must not start JAX
    type(jax.eval_shape(optax.schedules.WrappedSchedule(optax.constant_schedule(0.0)).init)),
)
"""States of optax with a `count` that is the step of a schedule."""


def apply_update(
    training: Training,
    at: Schedule,
    rate: Array,
    gradient: WeightsT,
    state: optax.OptState,
    params: WeightsT,
    *,
    decayed: WeightsT | None = None,
) -> tuple[WeightsT, optax.OptState]:
    """The weights after one update, and the optimizer's state.

    Args:
      training: the optimizer.
      at: the weight decay.
      rate: the learning rate of this step.
      gradient: of the weights, masked.
      state: of the optimizer.
      params: the weights, zero where they are pruned; in the result they may be anything there.
      decayed: what weight decay acts on, if these are not the weights.
    """
    # optax mixes python, float32 and int32 numbers, which strict promotion (a user's choice)
    # forbids
    with relaxed_types():
        seen = params if decayed is None else decayed
        updates, new = optimizer(training, at.weight_decay, rate).update(gradient, state, seen)
        if isinstance(training.optimizer, str):
            return jax.tree.map(lambda p, d: p - rate * d, params, updates), new
        new = jax.tree.map(lambda n, o: jnp.asarray(n).astype(o.dtype), new, state)
        moved = cast(WeightsT, optax.apply_updates(params, updates))
        return moved, _tree.varying_like(new, state)


@cached(64)
def moments(training: Training, net: Network) -> int:
    """How many numbers the optimizer keeps for each weight."""
    params = net.shapes[0]
    state = jax.eval_shape(lambda params: fresh_state(training, params, jnp.int32(0)), params)
    numbers = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, params)]
    return round(numbers[0] / numbers[1])


@cached(64)
def check(training: Training, net: Network) -> None:
    """Raise where a user's optimizer or schedule does not work for a network."""
    kind, own = training.schedule, training.optimizer
    if isinstance(kind, str) and isinstance(own, str):
        return
    at, step = jax.tree.map(jnp.asarray, schedule(training)), jnp.int32(0)
    if not isinstance(kind, str):
        with naming("schedule", kind):
            jax.eval_shape(lambda t: learning_rate(at, t, kind=kind), step)
    if isinstance(own, str):
        return

    def once(rate: Array, params: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        return apply_update(training, at, rate, params, state, params)

    with naming("optimizer", own):
        params = net.shapes[0]
        before = jax.eval_shape(lambda params: fresh_state(training, params, step), params)
        traced, after = jax.make_jaxpr(once, return_shape=True)(at.lr, params, before)
    if jax.tree.structure(after) != jax.tree.structure((params, before)):
        raise ValueError(
            f"`optimizer` {own!r} must keep the structure of the weights and of its state in an "
            f"update; it turns {jax.tree.structure((params, before))} into "
            f"{jax.tree.structure(after)}"
        )
    rate = traced.jaxpr.invars[0]
    if not has_own_rate(own) and not any(rate is x for e in traced.eqns for x in e.invars):
        raise ValueError(
            f"`optimizer` {own!r} does not use the learning rate that it is called with in an "
            f"update (optax.inject_hyperparams keeps the first one); use the rate as it is, such "
            f"as `lambda lr: optax.adam(lr)`, or pass a transformation with a rate of its own"
        )
    is_free = lambda part: isinstance(part, optax.contrib.ScheduleFreeState)  # noqa: E731
    if any(map(is_free, jax.tree.leaves(before, is_leaf=is_free))):
        raise ValueError(
            f"`optimizer` {own!r} evaluates other weights than it trains (optax.contrib."
            f"schedule_free), which is not supported; use another"
        )
