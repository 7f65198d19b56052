"""Projected ascent within a ball around each example: what attacks are made of.

Radii and steps may be traced, so that one program has attacks of several radii.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import _tree
from jaxticket.engine.metrics import Loss, losses
from jaxticket.labels import right
from jaxticket.random import stream, uniform
from jaxticket.typing import Array, Key

NORMS = ("inf", "l2")
"""Of the change of an example: its largest entry, or the root of the sum of their squares."""


class Ball(NamedTuple):
    """The examples within a distance of the clean ones, and within their range.

    Attributes:
      norm: in `NORMS`.
      radius: in raw units.
      low, high: the range, in raw units.
    """

    norm: str
    radius: Array | float
    low: Array | float
    high: Array | float

    def projection(self, clean: Array) -> Callable[[Array], Array]:
        """What brings examples into the ball and the range.

        By the norm "l2" first into the ball and then into the range, which cannot leave the ball.
        """
        if self.norm == "inf":
            least = jnp.maximum(clean - self.radius, self.low)
            most = jnp.minimum(clean + self.radius, self.high)
            return lambda moved: jnp.clip(moved, least, most)

        def within(moved: Array) -> Array:
            away = moved - clean
            length = _length(away)
            factor = jnp.minimum(1.0, self.radius / jnp.where(length > 0, length, 1.0))
            return jnp.clip(clean + away * factor, self.low, self.high)

        return within

    def uphill(self, gradient: Array) -> Array:
        """The direction of a step of length 1: signs, or the gradient over its norm."""
        if self.norm == "inf":
            return jnp.sign(gradient)
        length = _length(gradient)
        return gradient / jnp.where(length > 0, length, 1.0)

    def point(self, clean: Array, drawn: Key, first: Array | int) -> Array:
        """Uniformly distributed points of the ball, before they are brought into the range.

        Args:
          clean: [batch, ...].
          drawn: the key of this draw.
          first: place of the first example, by which random numbers are drawn.
        """
        size = math.prod(clean.shape[1:])
        places = first + jnp.arange(clean.shape[0], dtype=jnp.int32)
        if self.norm == "inf":
            noise = jax.vmap(lambda i: uniform(jax.random.fold_in(drawn, i), size))(places)
            noise = 2 * noise.reshape(clean.shape) - 1
            return clean + self.radius * noise

        def one(place: Array) -> Array:
            key = jax.random.fold_in(drawn, place)
            toward = jax.random.normal(key, (size,), jnp.float32)
            share = jax.random.uniform(stream(key, "length"), dtype=jnp.float32)
            return toward * (share ** (1 / size) / jnp.linalg.norm(toward))

        return clean + self.radius * jax.vmap(one)(places).reshape(clean.shape)


def _length(x: Array) -> Array:
    """The norm of each example [batch, ...], which it broadcasts against."""
    return jnp.sqrt(jnp.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))


class Goal(NamedTuple):
    """What an attack climbs.

    Attributes:
      logits: of raw examples, float32 [batch, ...].
      loss: of the training.
      labels: [batch, ...], the true ones, or the targets'.
      targeted: whether the loss is to fall instead.
    """

    logits: Callable[[Array], Array]
    loss: Loss
    labels: Array
    targeted: bool

    @property
    def towards(self) -> float:
        """1, or -1 where the loss is to fall."""
        return -1.0 if self.targeted else 1.0

    def total(self, moved: Array) -> Array:
        """The loss of all examples."""
        # the sum, so that no example's gradient depends on how many there are
        return jnp.sum(losses(self.loss, self.logits(moved), self.labels))


class Worst(NamedTuple):
    """The worst examples that an attack met.

    Attributes:
      x: raw examples [batch, ...].
      hit: float32 [batch], how far each reached the goal: whether the answer is wrong, or that of
        the target; 0 where labels are numbers.
      loss: float32 [batch], negated where the attack has a target.
    """

    x: Array
    hit: Array
    loss: Array

    def or_worse(self, other: Worst) -> Worst:
        """The worse of two: by the answers, and where these are equal by the loss."""
        worse = (other.hit > self.hit) | ((other.hit == self.hit) & (other.loss > self.loss))
        wide = worse.reshape(-1, *[1] * (self.x.ndim - 1))
        return Worst(
            jnp.where(wide, other.x, self.x),
            jnp.where(worse, other.hit, self.hit),
            jnp.where(worse, other.loss, self.loss),
        )


def climb(goal: Goal, ball: Ball, clean: Array, start: Array, step: float, steps: int) -> Array:
    """The last of some steps uphill."""
    within = ball.projection(clean)

    def once(_: Array, moved: Array) -> Array:
        return within(moved + goal.towards * step * ball.uphill(jax.grad(goal.total)(moved)))

    return jax.lax.fori_loop(0, steps, once, start)


def search(
    goal: Goal,
    ball: Ball,
    clean: Array,
    *,
    step: Array | float,
    steps: Array | int,
    restarts: Array | int,
    random: Array | bool,
    key: Key,
    first: Array | int,
) -> Worst:
    """The worst example of all steps from all starts, among which is the clean one.

    More steps of one length and more starts therefore never give weaker examples.

    Args:
      goal: what is climbed.
      ball: where.
      clean: raw examples, float32 [batch, ...].
      step: length of a step in raw units.
      steps: from each start.
      restarts: how many starts.
      random: whether starts are random, instead of the clean examples.
      key: for the random starts, of which the first is that of `climb`.
      first: place of the first example.
    """
    within, drawn = ball.projection(clean), stream(key, "attack")

    def judged(moved: Array) -> tuple[Array, Worst]:
        def total(moved: Array) -> tuple[Array, tuple[Array, Array]]:
            logits = goal.logits(moved)
            each = losses(goal.loss, logits, goal.labels)
            share = jnp.nan_to_num(right(logits, goal.labels).astype(jnp.float32))
            return jnp.sum(each), (each.astype(jnp.float32), share)

        slope, (each, share) = jax.grad(total, has_aux=True)(moved)
        numbers = jnp.issubdtype(goal.labels.dtype, jnp.floating)
        hit = share if goal.targeted or numbers else 1 - share
        return slope, Worst(moved, hit, goal.towards * each)

    def once(_: Array, carry: tuple[Array, Worst]) -> tuple[Array, Worst]:
        moved, worst = carry
        slope, here = judged(moved)
        moved = within(moved + goal.towards * step * ball.uphill(slope))
        return moved, worst.or_worse(here)

    def restart(number: Array, worst: Worst) -> Worst:
        own = jnp.where(number == 0, drawn, jax.random.fold_in(drawn, number))
        start = within(jnp.where(random, ball.point(clean, own, first), clean))
        start = _tree.varying_like(start, worst.loss)
        moved, worst = jax.lax.fori_loop(0, steps, once, (start, worst))
        return worst.or_worse(judged(moved)[1])

    _, begin = judged(clean)
    return jax.lax.fori_loop(0, restarts, restart, _tree.varying_like(begin, begin))
