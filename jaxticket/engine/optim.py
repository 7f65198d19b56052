"""Optimizers by optax, and the learning rate as a function of the absolute step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import _tree
from jaxticket._promotion import relaxed_types
from jaxticket.engine.selected import decaying, trained_part
from jaxticket.settings import Dilated, Training
from jaxticket.typing import (
    AnyArray,
    Array,
    Network,
    OptimizerMaker,
    Params,
    RateSchedule,
    cached,
)

WeightsT = TypeVar("WeightsT", bound="Params | tuple[Params, ...]")
KindT = TypeVar("KindT")


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
    Clipping by the global norm comes first, then weight decay on the weights that
    `Training.decay` says (on all by default, biases and BatchNorm included), then momentum:
    `v <- momentum * v + g + decay * w`. AdamW adds its decay after the moments instead. A user's
    optimizer gives the updates of the weights themselves, at this learning rate; clipping comes
    before it.

    The structure of the state depends neither on `weight_decay` nor on `rate`, which may be traced.
    """
    parts = []
    if training.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(training.clip_norm))
    if not isinstance(training.optimizer, str):
        return optax.chain(*parts, _own_transformation(training.optimizer, jnp.asarray(rate)))
    where = None if training.decay == "all" else functools.partial(decaying, training.decay)
    decay = optax.add_decayed_weights(jnp.asarray(weight_decay), mask=where)
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
    """The optimizer's state where training of weights begins at a step.

    Counters of optax's schedules begin at that step, all others at 0: the moments of a rewound
    network are new, its schedule is that of the step.
    """
    with relaxed_types():
        state = optimizer(training).init(params)
    state = jax.tree.map(jnp.asarray, state)
    if isinstance(training.optimizer, str):
        return state

    def at_step(part: object) -> object:
        return part._replace(count=part.count + step) if isinstance(part, _COUNTING) else part

    return jax.tree.map(at_step, state, is_leaf=lambda part: isinstance(part, _COUNTING))


def _clipped(
    training: Training, slope: Callable[[WeightsT, int], WeightsT] | None
) -> Callable[[WeightsT, int], WeightsT] | None:
    """The gradient at other weights, clipped as that of the update."""
    most = training.clip_norm
    if slope is None or most is None:
        return slope
    clip = optax.clip_by_global_norm(most)

    def clipped(params: WeightsT, number: int) -> WeightsT:
        found = slope(params, number)
        return cast(WeightsT, clip.update(found, clip.init(found))[0])

    return clipped


def states(state: optax.OptState, *kinds: type[KindT]) -> list[KindT]:
    """The parts of an optimizer's state that are of some types."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kinds))
    return [part for part in parts if isinstance(part, kinds)]


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
    loss: Array | None = None,
    slope: Callable[[WeightsT, int], WeightsT] | None = None,
) -> tuple[WeightsT, optax.OptState]:
    """The weights after one update, and the optimizer's state.

    Args:
      training: the optimizer.
      at: the weight decay.
      rate: the learning rate of this step.
      gradient: of the weights, masked.
      state: of the optimizer.
      params: the weights that are trained, zero where they are pruned; in the result they may be
        anything there.
      decayed: what weight decay acts on, if these are not the weights.
      loss: that of the gradient, for optimizers that ask for it (`value`).
      slope: `slope(params, number) -> gradient` of the same batch at other weights, for optimizers
        that visit some within an update (`grad_fn`).
    """
    # optax mixes python, float32 and int32 numbers, which strict promotion (a user's choice)
    # forbids
    with relaxed_types():
        seen = params if decayed is None else decayed
        chosen = optimizer(training, at.weight_decay, rate)
        if isinstance(training.optimizer, str):
            updates, new = chosen.update(gradient, state, seen)
            return jax.tree.map(lambda p, d: p - rate * d, params, updates), new
        # SAM takes no other argument than its own
        visits = bool(states(state, optax.contrib.SAMState))
        asked = {"grad_fn": _clipped(training, slope)} if visits else {"value": loss}
        chosen = optax.with_extra_args_support(chosen)
        updates, new = chosen.update(gradient, state, seen, **asked)
        new = jax.tree.map(lambda n, o: jnp.asarray(n).astype(o.dtype), new, state)
        moved = cast(WeightsT, optax.apply_updates(params, updates))
        return moved, _tree.varying_like(new, state)


@cached(64)
def moments(training: Training, net: Network) -> int:
    """How many numbers training keeps for each weight on top of the weight."""
    params = net.shapes[0]
    part = trained_part(training, params)
    state = jax.eval_shape(lambda part: fresh_state(training, part, jnp.int32(0)), part)
    kept = _tree.size(state) + (0 if training.ema is None else _tree.size(params))
    return round(kept / _tree.size(params))
