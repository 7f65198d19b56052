"""Accuracy on adversarial examples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import flag, number, one_of, or_none, settle, several, whole
from jaxticket.analysis.probes._predictions import finite_only, needs_classes
from jaxticket.data import Data
from jaxticket.data.alike import white
from jaxticket.engine.ascent import NORMS, Ball, Goal, search
from jaxticket.engine.metrics import Batched, Loss, cut, losses, normalized
from jaxticket.labels import living
from jaxticket.problem import Problem
from jaxticket.random import stream
from jaxticket.ticket import Ticket
from jaxticket.typing import Array, Key

# a step of Madry et al.: all together they go 2.5 times the radius
REACH = 2.5


@dataclasses.dataclass(frozen=True)
class Attack:
    r"""How many examples are still answered right when an adversary may change them a little.

    Projected gradient descent (PGD) on every replica for itself, with steps of `2.5 / steps` times
    the radius. Of all steps from all starts, and the clean example, the worst counts: one that is
    answered wrong before others (with a target, as the target), then the one with the greatest
    loss. Radii are shares of the range of pixels; with the norm "l2" the range of a pixel is 1.

    Attributes:
      radius: how far examples may be moved; or several, which are measured in one program: 8/255 is
        usual on CIFAR, 0.3 on MNIST, 0.5 with the norm "l2" on CIFAR.
      norm: "inf", of the largest change of a pixel, or "l2", of the Euclidean distance.
      steps: iterations; 1 without a random start is the fast gradient (sign) method (FGSM).
      restarts: starts of each example.
      random: whether starts are random points of the ball, instead of the clean example.
      target: None to make examples be answered wrong; a class, or "random" for a random other class
        of each example, to make them be answered as that. Examples of the class itself stay.
      low, high: the range of pixels in the raw units of the data; None for that of the data: 0 to
        255 of bytes that go above 127, 0 to 16 of digits, else from the least to the greatest value
        of all splits.
      check: look for signs of masked gradients, which make weak attacks look like robustness.

    Returns (when called, see `jaxticket.analysis.probes`):
      "clean_accuracy" and "clean_loss", those of evaluations. For each radius (`index` is its
      place where there are several): "radius"; "adversarial_accuracy" and "adversarial_loss", the
      mean loss of the true labels; with a target "success", the share of examples of other classes
      that are answered as the target. With `check`, for each radius "single_step_accuracy", that
      of the fast gradient (sign) method, and "random_accuracy", that of random points of the
      ball, the worst of `steps * restarts`: gradients are masked where they are below
      "adversarial_accuracy"; and "unbounded_accuracy", that of the attack when only the range of
      pixels bounds it, which should be 0.

    Examples:
      >>> import jaxticket as jt
      >>> jt.probes.Attack(radius=(0.1, 0.3), steps=40).restarts
      1

    Raises:
      ValueError: for values that cannot be, several starts that are not random, and `check` with a
        target; when measured, for data whose labels are not one class for each example, tokens,
        classes that there are not, and a range that some examples are outside of.

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks" (2018);
      Athalye et al., "Obfuscated gradients give a false sense of security" (2018), for `check`;
      KD-LTS, appendices A and C.1.
    """

    radius: float | tuple[float, ...] = 8 / 255
    norm: str = "inf"
    steps: int = 20
    restarts: int = 1
    random: bool = True
    target: int | str | None = None
    low: float | None = None
    high: float | None = None
    check: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.radius, (tuple, list)):
            radii = several("radius", self.radius, number, like="(0.1, 0.3)", low=0)
            object.__setattr__(self, "radius", radii)
        else:
            settle(self, number, "radius", low=0)
        one_of("norm", self.norm, NORMS)
        settle(self, whole, "steps", "restarts", low=1)
        settle(self, flag, "random", "check")
        settle(self, or_none(number), "low", "high")
        if isinstance(self.target, str):
            one_of("target", self.target, ("random",))
        else:
            settle(self, or_none(whole), "target")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {self.low} and {self.high}")
        if self.restarts > 1 and not self.random:
            raise ValueError(
                f"`restarts` {self.restarts} needs random starts, got random=False, with which all "
                "starts are the same"
            )
        if self.check and self.target is not None:
            raise ValueError(
                f"`check` compares attacks on the true label, got `target` {self.target!r}; leave "
                "one of them out"
            )

    @property
    def radii(self) -> tuple[float, ...]:
        """All radii."""
        return self.radius if isinstance(self.radius, tuple) else (self.radius,)

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """The raw examples, and their range as the lowest and the highest value."""
        needs_classes("attack", data)
        if data.tokens:
            raise ValueError(
                "`probe` 'attack' changes numbers by a little, and the examples of "
                f"{data.name!r} are tokens; measure it on images or rows of numbers"
            )
        if isinstance(self.target, int) and self.target >= data.classes:
            raise ValueError(
                f"`target` must be a class of {data.name!r}, 0 to {data.classes - 1}, got "
                f"{self.target}"
            )
        own = data.splits[split]
        raw = cut({split: (own.x, own.y)}, 250, most={split: examples})
        return {"raw": raw, "range": _as_batch(self._range(data))}

    def _range(self, data: Data) -> tuple[float, float]:
        values = [float(f(part.x)) for part in data.splits.values() for f in (np.min, np.max)]
        least, most = min(values), max(values)
        usual = (0.0, max(white(data), most)) if data.train.x.dtype == np.uint8 else (least, most)
        low = usual[0] if self.low is None else self.low
        high = usual[1] if self.high is None else self.high
        if low > least or high < most or not low < high:
            raise ValueError(
                f"`low` and `high` are {low:g} and {high:g}, and the examples of {data.name!r} "
                f"reach from {least:g} to {most:g}; leave them out for that range"
            )
        return low, high

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Attack a ticket."""
        if problem.more is None or problem.by is None:
            raise ValueError("`problem` has no raw examples; use jt.measure")
        raw, by, loss = problem.more["raw"], problem.by, problem.training.loss
        x, y = jnp.asarray(raw.x), jnp.asarray(raw.y)
        low, high = jnp.asarray(problem.more["range"].x)
        kind = str(jax.tree.leaves(ticket.params)[0].dtype)

        def logits(x: Array) -> Array:
            seen = normalized(x.astype(jnp.float32), by, kind)
            return problem.logits(ticket.params, ticket.stats, seen)

        def attacked(case: _Case, place: Array, x: Array, y: Array) -> Array:
            """The sums of `_sums`, of answers that are the target, and of those that could be."""
            clean = x.astype(jnp.float32)
            goal, moves = Goal(logits, loss, y, targeted=False), living(y)
            if self.target is not None:
                target = self._targets(y, answers.shape[-1], key, place)
                goal, moves = Goal(logits, loss, target, targeted=True), moves & (target != y)
            found = search(
                goal, Ball(self.norm, case.radius, low, high), clean, step=case.step,
                steps=case.steps, restarts=case.restarts, random=case.random, key=key, first=place,
            ).x  # fmt: skip
            found = jnp.where(moves.reshape(-1, *[1] * (x.ndim - 1)), found, clean)
            ends = logits(found)
            reached = moves & (_answers(ends, y) == goal.labels)
            own = _sums(ends, y, loss)
            counts = (jnp.sum(part, dtype=own.dtype) for part in (reached, moves))
            return jnp.concatenate([own, jnp.stack([*counts])])

        cases = self._cases(high - low, math.prod(x.shape[2:]))
        places = jnp.arange(x.shape[0], dtype=jnp.int32) * x.shape[1]
        answers = jax.lax.map(logits, x)
        parts = jax.lax.map(
            lambda one: jax.lax.map(lambda case: attacked(case, *one), cases), (places, x, y)
        )
        right, total, count, reached, moves = jnp.moveaxis(jnp.sum(parts, axis=0), 1, 0)
        clean = jnp.sum(jax.vmap(lambda z, y: _sums(z, y, loss))(answers, y), axis=0)
        radii, accuracy = len(self.radii), right / count
        found = {
            "clean_accuracy": clean[0] / clean[2],
            "clean_loss": clean[1] / clean[2],
            "radius": self._shaped(jnp.asarray(self.radii, clean.dtype)),
            "adversarial_accuracy": self._shaped(accuracy[:radii]),
            "adversarial_loss": self._shaped((total / count)[:radii]),
        }
        if self.target is not None:
            found["success"] = self._shaped((reached / moves)[:radii])
        if self.check:
            found["single_step_accuracy"] = self._shaped(accuracy[radii : 2 * radii])
            found["random_accuracy"] = self._shaped(accuracy[2 * radii : 3 * radii])
            found["unbounded_accuracy"] = accuracy[-1]
        return finite_only(found, answers)

    def _cases(self, span: Array, size: int) -> _Case:
        """The attack at each radius, and those of `check`, [case]."""
        stride, tries = REACH / self.steps, self.restarts * self.steps
        rows = [(r, r * stride, self.steps, self.restarts, self.random) for r in self.radii]
        if self.check:
            rows += [(r, r, 1, 1, False) for r in self.radii]
            rows += [(r, 0.0, 0, tries, True) for r in self.radii]
            # from one end of the range to the other
            whole = 1.0 if self.norm == "inf" else math.sqrt(size)
            rows.append((whole, whole * stride, self.steps, self.restarts, self.random))
        radius, step, steps, restarts, random = zip(*rows, strict=True)
        return _Case(
            jnp.asarray(radius, jnp.float32) * span, jnp.asarray(step, jnp.float32) * span,
            jnp.asarray(steps, jnp.int32), jnp.asarray(restarts, jnp.int32),
            jnp.asarray(random, bool),
        )  # fmt: skip

    def _targets(self, y: Array, classes: int, key: Key, first: Array) -> Array:
        """The class that each example is to be answered as, like `y`."""
        if isinstance(self.target, int):
            return jnp.full_like(y, self.target)
        drawn = stream(key, "target")

        def other(place: Array, y: Array) -> Array:
            shift = jax.random.randint(jax.random.fold_in(drawn, place), (), 1, classes, y.dtype)
            return (y + shift) % classes

        return jax.vmap(other)(first + jnp.arange(y.shape[0], dtype=jnp.int32), y)

    def _shaped(self, values: Array) -> Array:
        """A number where there is one radius alone."""
        return values if isinstance(self.radius, tuple) else values[0]


class _Case(NamedTuple):
    """Arguments of `search`, in raw units; scalars, or arrays [case]."""

    radius: Array
    step: Array
    steps: Array
    restarts: Array
    random: Array


def _answers(logits: Array, y: Array) -> Array:
    return jnp.argmax(logits, axis=-1).astype(y.dtype)


def _sums(logits: Array, y: Array, loss: Loss) -> Array:
    """Right answers, losses and examples of a batch, added up, [3]."""
    there = living(y)
    each = jnp.where(there, losses(loss, logits, y), 0)
    right = there & (_answers(logits, y) == y)
    hits, count = (jnp.sum(part, dtype=each.dtype) for part in (right, there))
    return jnp.stack([hits, jnp.sum(each), count])


def _as_batch(values: tuple[float, ...]) -> Batched:
    """Numbers in the form of examples, as which probes bring arrays."""
    empty = jnp.zeros(0, jnp.int32)
    return Batched(jnp.asarray(values, jnp.float32), empty, empty)
