"""Optimizers by optax, and the learning rate as a function of the absolute step."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxticket.settings import Training
from jaxticket.typing import Array


class Schedule(NamedTuple):
    """What may differ between replicas of one compiled program; every field has a leading replica
    axis outside.

    Attributes:
      lr, final_lr, weight_decay, gamma: float32.
      warmup, milestones, steps: int32; `steps` is the length that "cosine" and "linear" refer to.
      stop: int32, the step at which the replica is frozen.
    """

    lr: Array
    final_lr: Array
    weight_decay: Array
    gamma: Array
    warmup: Array
    milestones: Array
    steps: Array
    stop: Array


def schedule(training: Training) -> Schedule:
    """The schedule of one training, as NumPy scalars."""
    return Schedule(
        lr=np.float32(training.lr),
        final_lr=np.float32(training.final_lr),
        weight_decay=np.float32(training.weight_decay),
        gamma=np.float32(training.gamma),
        warmup=np.int32(training.warmup),
        milestones=np.asarray(training.milestones, np.int32),
        steps=np.int32(training.steps),
        stop=np.int32(training.steps),
    )  # type: ignore[arg-type]


def learning_rate(at: Schedule, step: Array, *, kind: str) -> Array:
    r"""The learning rate of the update that leads from `step` to `step + 1`.

    `lr * min(1, step / warmup) * decay`, with decay `gamma ** #{m: m <= step}` for kind "steps" and
    `(1 + cos(pi * step / steps)) / 2` for "cosine"; for "linear" `lr * decay` is
    `lr + (final_lr - lr) * step / steps`. Step 0 of a warmup has rate 0.

    Reference: methods of Frankle et al. (OpenLTH): the drop acts at the milestone itself.
    """
    t = step.astype(jnp.float32)
    warm = jnp.where(
        step < at.warmup, t / jnp.maximum(at.warmup, 1).astype(jnp.float32), jnp.float32(1)
    )
    if kind == "linear":
        done = t / at.steps.astype(jnp.float32)
        return (at.lr + (at.final_lr - at.lr) * done) * warm
    if kind == "cosine":
        decay = (1 + jnp.cos(jnp.float32(np.pi) * t / at.steps.astype(jnp.float32))) / 2
    else:
        drops = jnp.sum(at.milestones <= step, dtype=jnp.int32)
        decay = at.gamma ** drops.astype(jnp.float32)
    return at.lr * warm * decay


def optimizer(
    training: Training, weight_decay: Array | float = 0.0
) -> optax.GradientTransformation:
    """The update direction, to be multiplied by minus the learning rate.

    Clipping by the global norm comes first, then weight decay on every parameter (biases and
    BatchNorm included),
    then momentum: `v <- momentum * v + g + decay * w`. AdamW adds its decay after the moments
      instead. The state's
    structure does not depend on `weight_decay`, which may be traced.
    """
    parts = []
    if training.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(training.clip_norm))
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
