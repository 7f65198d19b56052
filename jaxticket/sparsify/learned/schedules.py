"""When: how numbers such as beta or a temperature move during a search."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from jaxticket import _show
from jaxticket._check import number, one_of, or_none, settle, whole
from jaxticket.typing import Array

KINDS = ("linear", "exponential")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A number that moves from `start` to `end` while `done` goes from 0 to 1.

    "linear" is `start + (end - start) * t`, "exponential" `start * (end / start) ** t`, with t =
    done, or with `stairs` of n, t = floor(n * done) / (n - 1): n values, each held equally long.

    Attributes:
      start: first value.
      end: last value; None for a number that stays.
      kind: "linear" or "exponential".
      stairs: number of values, such as epochs; None to move at every step.
    """

    start: float
    end: float | None = None
    kind: str = "linear"
    stairs: int | None = None

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, number, "start")
        settle(self, or_none(number), "end")
        settle(self, one_of, "kind", choices=KINDS)
        settle(self, or_none(whole), "stairs", low=2)
        if self.end is None and (self.stairs is not None or self.kind != "linear"):
            unused = "stairs" if self.stairs is not None else "kind"
            raise ValueError(
                f"`{unused}` {getattr(self, unused)!r} has no effect without `end`: the number "
                f"stays {self.start}; leave one of them out"
            )
        if self.kind == "exponential" and not (self.start > 0 and (self.end or self.start) > 0):
            raise ValueError(
                f"`start` and `end` must be above 0 with kind='exponential', got {self.start!r} "
                f"and {self.end!r}"
            )

    def __call__(self, done: Array) -> Array:
        """The value when this share of the search is done, float32."""
        first, last = jnp.float32(self.start), jnp.float32(self.last)
        t = jnp.asarray(done, jnp.float32)
        if self.stairs is not None:
            # t is a quotient of whole numbers, which may lie a bit below its stair
            stair = jnp.floor(t * self.stairs + 1e-4)
            t = jnp.minimum(stair, self.stairs - 1) / (self.stairs - 1)
        if self.kind == "exponential":
            return first * (last / first) ** t
        return first + (last - first) * t

    @property
    def last(self) -> float:
        """The value at the end."""
        return self.start if self.end is None else self.end


def as_schedule(argument: str, value: float | Schedule) -> Schedule:
    """The value as a schedule that stays, unless it is one.

    Raises:
      ValueError: where it is neither a number above 0 nor a schedule.
    """
    if isinstance(value, Schedule):
        return value
    return Schedule(number(argument, value, 1e-12))
