"""Optimizers by optax, and the learning rate as a function of the absolute step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket import _tree
from jaxticket._check import naming
from jaxticket.settings import Dilated, Training, has_own_rate
from jaxticket.typing import Array, Network, Params, relaxed_types


class Schedule(NamedTuple):
    """What may differ between replicas of one compiled program; every field has a leading replica
    axis outside.

    Attributes:
      lr, final_lr, weight_decay, gamma: float32.
      warmup, milestones, steps: int32; `steps` is the length that "cosine" and "linear" refer to.
      stop: int32, the step at which the replica is frozen.
      dilation: float32, what a schedule of the user's own is stretched by.
    """

    lr: Array
    final_lr: Array
    weight_decay: Array
    gamma: Array
    warmup: Array
    milestones: Array
    steps: Array
    stop: Array
    dilation: Array


def schedule(training: Training) -> Schedule:
    """The schedule of one training, as NumPy scalars."""
    own = training.schedule
    return Schedule(
        lr=np.float32(training.lr),
        final_lr=np.float32(training.final_lr),
        weight_decay=np.float32(training.weight_decay),
        gamma=np.float32(training.gamma),
        warmup=np.int32(training.warmup),
        milestones=np.asarray(training.milestones, np.int32),
        steps=np.int32(training.steps),
        stop=np.int32(training.steps),
        dilation=np.float32(own.factor if isinstance(own, Dilated) else 1),
    )  # type: ignore[arg-type]


def learning_rate(at: Schedule, step: Array, *, kind: str | Callable[..., Any]) -> Array:
    r"""The learning rate of the update that leads from `step` to `step + 1`.

    `lr * min(1, step / warmup) * decay`, with decay `gamma ** #{m: m <= step}` for kind "steps" and
    `(1 + cos(pi * step / steps)) / 2` for "cosine"; for "linear" `lr * decay` is
    `lr + (final_lr - lr) * step / steps`. Step 0 of a warmup has rate 0. For a function of the
    user's own `lr * decay` is `kind(step / dilation)`.

    Reference: methods of Frankle et al. (OpenLTH): the drop acts at the milestone itself.
    """
    t = step.astype(jnp.float32)
    warm = jnp.where(
        step < at.warmup, t / jnp.maximum(at.warmup, 1).astype(jnp.float32), jnp.float32(1)
    )
    if not isinstance(kind, str):
        return _own_rate(kind, t / at.dilation) * warm
    if kind == "linear":
        done = t / at.steps.astype(jnp.float32)
        return (at.lr + (at.final_lr - at.lr) * done) * warm
    if kind == "cosine":
        decay = (1 + jnp.cos(jnp.float32(np.pi) * t / at.steps.astype(jnp.float32))) / 2
    else:
        drops = jnp.sum(at.milestones <= step, dtype=jnp.int32)
        decay = at.gamma ** drops.astype(jnp.float32)
    return at.lr * warm * decay


def _own_rate(own: Callable[..., Any], t: Array) -> Array:
    """The rate that a schedule of the user's own gives."""
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
    training: Training, weight_decay: Array | float = 0.0, rate: Array | float = 1.0
) -> optax.GradientTransformation:
    """The optimizer of one step.

    Of a named optimizer the updates are a direction, to be multiplied by minus the learning rate.
    Clipping by the global norm comes first, then weight decay on every parameter (biases and
    BatchNorm included), then momentum: `v <- momentum * v + g + decay * w`. AdamW adds its decay
    after the moments instead. One of the user's own gives the updates of the weights themselves, at
    this learning rate; clipping comes before it.

    The structure of the state depends neither on `weight_decay` nor on `rate`, which may be traced.
    """
    parts = []
    if training.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(training.clip_norm))
    if not isinstance(training.optimizer, str):
        return optax.chain(*parts, _own_transformation(training.optimizer, rate))
    decay = optax.add_decayed_weights(weight_decay)  # type: ignore[arg-type]
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


def _own_transformation(own: Any, rate: Array | float) -> optax.GradientTransformation:
    """A user's optimizer at a learning rate."""
    if has_own_rate(own):
        return own
    with relaxed_types():
        made = own(rate)
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"`optimizer` {own!r} must give an optax.GradientTransformation for a learning rate, "
            f"got {made!r}"
        )
    return made


def fresh_state(training: Training, params: Params, step: Array) -> Any:
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

    def at_step(part: Any) -> Any:
        return part._replace(count=part.count + step) if isinstance(part, _COUNTING) else part

    return jax.tree.map(at_step, state, is_leaf=lambda part: isinstance(part, _COUNTING))


_COUNTING = (
    optax.ScaleByScheduleState,
    # optax exports no name for it; of shapes alone, since importing must not start JAX
    type(jax.eval_shape(optax.schedules.WrappedSchedule(optax.constant_schedule(0.0)).init)),
)
"""States of optax with a `count` that is the step of a schedule."""


def apply_update(
    training: Training,
    at: Schedule,
    rate: Array,
    gradient: Params,
    state: Any,
    params: Params,
    *,
    decayed: Params | None = None,
) -> tuple[Params, Any]:
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
        return optax.apply_updates(params, updates), _tree.varying_like(new, state)


@functools.lru_cache(maxsize=64)
def moments(training: Training, net: Network) -> int:
    """How many numbers the optimizer keeps for each weight."""
    params = net.shapes[0]
    state = jax.eval_shape(lambda params: fresh_state(training, params, jnp.int32(0)), params)
    numbers = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (state, params)]
    return round(numbers[0] / numbers[1])


@functools.lru_cache(maxsize=64)
def check(training: Training, net: Network) -> None:
    """Raises where an optimizer or a schedule of the user's own does not work for a network."""
    kind, own = training.schedule, training.optimizer
    if isinstance(kind, str) and isinstance(own, str):
        return
    at, step = jax.tree.map(jnp.asarray, schedule(training)), jnp.int32(0)
    if not isinstance(kind, str):
        with naming("schedule", kind):
            jax.eval_shape(lambda t: learning_rate(at, t, kind=kind), step)
    if isinstance(own, str):
        return

    def once(rate: Array, params: Params, state: Any) -> tuple[Params, Any]:
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
