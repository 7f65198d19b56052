"""When mask rules update: steps, or shares of a training that become steps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

from jaxticket._check import number, whole
from jaxticket.settings import Training

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_UNITS = " (1 is the first step, 1.0 the whole training)"

RuleT = TypeVar("RuleT", bound="DataclassInstance")


def check_time(argument: str, value: object, *, low: int = 0) -> float | int:
    """A step, a whole number, or a share of the training, a number of Python between 0 and 1.

    Raises:
      ValueError: for anything else; 1.0 is the whole training and 1 the first step.
    """
    if isinstance(value, float):
        return number(argument, value, 0, 1, above=low > 0)
    return whole(argument, value, low)


def step_of(time: float | int, training: Training) -> int:
    """The step of a time; shares are rounded to whole steps.

    >>> step_of(0.75, Training(steps=1000)), step_of(10, Training(steps=1000))
    (750, 10)
    """
    return round(time * training.steps) if isinstance(time, float) else time


def in_steps(rule: RuleT, training: Training, *, trains_on: bool = False) -> RuleT:
    """The rule with steps in the place of shares of a training.

    Args:
      rule: a dataclass with the times `every` and `end`, and `begin` if its first update is not at
        the start.
      training: how long it is.
      trains_on: whether training must go on after `end`.

    Raises:
      ValueError: for an end that is after that of the training or not after `begin`, and an
        interval that leaves no update.
    """
    names = [field.name for field in dataclasses.fields(rule)]
    times = {
        name: step_of(getattr(rule, name), training)
        for name in ("begin", "end", "every")
        if name in names
    }
    begin, end, every = times.get("begin", 0), times["end"], times["every"]
    called, last = type(rule).__name__, training.steps - 1 if trains_on else training.steps
    if end > last:
        raise ValueError(
            f"`end` {end} of {called} must be at most {last} in a training of {training.steps} "
            f"steps; use such a step, or a share of the training such as end=0.75"
        )
    if end <= begin:
        raise ValueError(f"`end` {end} of {called} must be after `begin` {begin}{_UNITS}")
    if every < 1 or begin + every > end:
        raise ValueError(
            f"`every` {every} of {called} leaves no update between `begin` {begin} and `end` "
            f"{end}; use 1 to {end - begin} steps in a training of {training.steps}{_UNITS}"
        )
    return dataclasses.replace(rule, **times)
