"""Kinds of labels: what their shape and type say, and how examples that fill up are told apart.

| kind         | label of one example     | logits of one example            |
| ------------ | ------------------------ | -------------------------------- |
| "classes"    | int32, one class         | [classes]                        |
| "multilabel" | int8 [classes], 0 or 1   | [classes]                        |
| "tokens"     | int32 [sequence, ...]    | [sequence, ..., vocabulary]      |
| "numbers"    | float32, or [k]          | [1], or [k]                      |

Where a batch is filled up, labels are -1, and nan for numbers. Tokens of -1 in an example are left
out of its loss, such as padding.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.typing import Array

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)

KINDS = ("classes", "multilabel", "tokens", "numbers")


class Labels(NamedTuple):
    """Shape and type of the label of one example.

    >>> Labels().kind, Labels((3,), "float32").kind
    ('classes', 'numbers')
    """

    shape: tuple[int, ...] = ()
    dtype: str = "int32"

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.dtype == "float32":
            return "numbers"
        if self.dtype == "int8":
            return "multilabel"
        return "tokens" if self.shape else "classes"

    def examples(self, count: int) -> jax.ShapeDtypeStruct:
        """Shape and type of the labels of a batch, as losses and metrics are given them."""
        dtype = jnp.float32 if self.dtype == "int8" else self.dtype
        return jax.ShapeDtypeStruct((count, *self.shape), dtype)

    def outputs(self, logits: tuple[int, ...]) -> bool:
        """Whether logits of one example, of this shape, are one for each of the labels."""
        if self.kind in ("classes", "tokens"):
            return logits[:-1] == self.shape
        return logits == self.shape or (self.kind == "numbers" and (self.shape or (1,)) == logits)

    @property
    def wanted(self) -> str:
        """The logits that fit, in words."""
        if self.kind in ("classes", "tokens"):
            lead = "".join(f"{size}, " for size in self.shape)
            return f"[{lead}{'vocabulary' if self.shape else 'classes'}]"
        return str(list(self.shape or (1,)))


CLASSES = Labels()
"""One class for each example."""


def labels_of(y: np.ndarray | Array, lead: int = 1) -> Labels:
    """Shape and type of labels with so many leading axes."""
    return Labels(tuple(y.shape[lead:]), np.dtype(y.dtype).name)


def filler(dtype: np.dtype) -> float:
    """The label of what fills up a batch."""
    return math.nan if dtype.kind == "f" else -1


def living(y: ArrayT, lead: int = 1) -> ArrayT:
    """Whether labels are those of an example, and not of a filler; bool, the leading axes of y."""
    # a number that is not nan equals itself
    there: ArrayT = y == y if jnp.issubdtype(y.dtype, jnp.floating) else y >= 0  # type: ignore[assignment]
    if y.ndim > lead:
        return there.any(axis=tuple(range(lead, y.ndim)))  # type: ignore[return-value]
    return there


def usable(y: Array) -> Array:
    """Labels [batch, ...] as losses and metrics take them: 0 for fillers, and 0 or 1 as float32.

    Tokens of -1 within an example stay.
    """
    if jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == 1:
        return jnp.maximum(y, 0)
    there = living(y).reshape(-1, *[1] * (y.ndim - 1))
    y = jnp.where(there, y, jnp.zeros_like(y))
    return y.astype(jnp.float32) if y.dtype == jnp.int8 else y


def right(logits: Array, y: Array) -> Array:
    """The share of right answers of each example [batch]: bool for classes, else float32.

    A class or a token is right where it has the highest logit, a label of several where its logit
    is above 0 just if it is 1. Tokens of -1 do not count. Numbers are neither right nor wrong: nan.
    """
    kind = labels_of(y).kind
    if kind == "classes":
        return jnp.argmax(logits, axis=-1) == y
    if kind == "numbers":
        return jnp.full(y.shape[0], jnp.nan, jnp.float32)
    if kind == "multilabel":
        same = ((logits > 0) == (y > 0)).astype(jnp.float32)
        # a network that diverged has no answers
        return jnp.mean(jnp.where(jnp.isnan(logits), 0.0, same), axis=1)
    counts = (y >= 0).reshape(y.shape[0], -1)
    same = (jnp.argmax(logits, axis=-1) == y).reshape(y.shape[0], -1) & counts
    hits, total = (jnp.sum(part, axis=1, dtype=jnp.float32) for part in (same, counts))
    return hits / jnp.maximum(total, 1)


def answered(logits: Array, y: Array) -> Array:
    """What a network answers to each example, of the shape of its label [batch, ...].

    The class or token with the highest logit, 1 for each of several labels whose logit is above 0,
    or the numbers; -1 for tokens that do not count.
    """
    kind = labels_of(y).kind
    if kind == "numbers":
        return logits.reshape(y.shape) if logits.size == y.size else logits
    if kind == "multilabel":
        return (logits > 0).astype(jnp.int32)
    found = jnp.argmax(logits, axis=-1)
    return found if kind == "classes" else jnp.where(y >= 0, found, -1)


def own_logits(logits: Array, y: Array) -> Array:
    """The logit of each example's label, [batch].

    Of tokens the mean over those that count; of several labels the mean of the logits of those that
    are 1 and of minus those of the others, whose logit of "no" that is; of numbers the mean output.

    Args:
      logits: [batch, ...].
      y: [batch, ...], as data have them.
    """
    kind = labels_of(y).kind
    if kind == "numbers":
        return jnp.mean(rows(logits), axis=1)
    if kind == "multilabel":
        return jnp.mean(jnp.where(y > 0, logits, -logits), axis=1)
    each = jnp.take_along_axis(logits, jnp.maximum(y, 0)[..., None], axis=-1)[..., 0]
    return each if kind == "classes" else over_tokens(each, y)


def rows(x: Array) -> Array:
    """An array [batch, ...] as [batch, everything else]."""
    return x.reshape(x.shape[0], -1)


def over_tokens(each: Array, y: Array) -> Array:
    """The mean of numbers [batch, sequence, ...] over the tokens that count, [batch]; 0 of none."""
    there = rows(y) >= 0
    total = jnp.sum(jnp.where(there, rows(each), 0), axis=1)
    return total / jnp.maximum(jnp.sum(there, axis=1), 1).astype(total.dtype)
