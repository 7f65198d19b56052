"""Losses of each example, whose mean is minimized.

`Training(loss=...)` takes the names of `LOSSES`, objects of this module and the user's own
functions `(logits, labels) -> [batch]`. Which logits go with which labels is said in
`jaxticket.labels`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxticket._check import number, settle
from jaxticket.typing import Array, LossFunction


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy of each example, float32 [batch]; float64 for logits of that type.

    `-sum_c q_c log p_c` with q = (1 - s) onehot + s / classes.

    Args:
      logits: [batch, classes].
      labels: int32 [batch].
      smoothing: s.
    """
    classes, kind = logits.shape[-1], jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    target = jax.nn.one_hot(labels, classes, dtype=kind)
    if smoothing:
        target = target * jnp.asarray(1 - smoothing, kind) + jnp.asarray(smoothing / classes, kind)
    return optax.losses.softmax_cross_entropy(logits.astype(kind), target)


def next_token(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """The mean cross-entropy of the tokens of each example, [batch]; those of -1 do not count.

    The label at place t is the token that the logits at place t predict, such as `tokens[:, 1:]`
    for examples `tokens[:, :-1]`.

    Args:
      logits: [batch, sequence, ..., vocabulary].
      labels: int32 [batch, sequence, ...].
      smoothing: as of `cross_entropy`.
    """
    each, there = token_losses(logits, labels, smoothing)
    return jnp.sum(each, axis=1) / jnp.maximum(jnp.sum(there, axis=1), 1).astype(each.dtype)


def token_losses(logits: Array, labels: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """The loss of each token, 0 for those of -1, and which ones count, [batch, tokens] each."""
    y = labels.reshape(labels.shape[0], -1)
    there = y >= 0
    each = cross_entropy(logits.reshape(*y.shape, -1), jnp.maximum(y, 0), smoothing)
    return jnp.where(there, each, jnp.zeros_like(each)), there


def mse(logits: Array, labels: Array) -> Array:
    """The mean squared error over the outputs of each example, [batch].

    Args:
      logits: [batch, k].
      labels: numbers [batch, k], or [batch] for k = 1.
    """
    error = logits.reshape(labels.shape) - labels.astype(logits.dtype)
    return jnp.mean((error**2).reshape(labels.shape[0], -1), axis=1)


def binary_cross_entropy(logits: Array, labels: Array) -> Array:
    """The mean over labels of `-y log p - (1 - y) log(1 - p)`, p = sigmoid(logit), [batch].

    Args:
      logits: [batch, classes].
      labels: 0 or 1, float32 [batch, classes].
    """
    labels = labels.astype(logits.dtype)
    return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, labels), axis=1)


@dataclasses.dataclass(frozen=True)
class Focal:
    """The focal loss `-(1 - p)^gamma log p`, with p the probability of the label.

    It is the cross-entropy for gamma = 0, and looks the less at examples the surer they are.

    Attributes:
      gamma: at least 0.

    Reference: Lin et al., "Focal loss for dense object detection" (2017), equation 4.

    >>> Focal(2.0)(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32)).shape
    (1,)
    """

    kind: ClassVar[str] = "focal"
    fits: ClassVar[tuple[str, ...]] = ("classes",)
    gamma: float = 2.0

    def __post_init__(self) -> None:
        settle(self, number, "gamma", low=0)

    def __call__(self, logits: Array, labels: Array) -> Array:
        """The loss of each example, [batch], for logits [batch, classes], labels int32 [batch]."""
        entropy = cross_entropy(logits, labels)
        # 1 - p; powers of 0 below 1 have no slope
        rest = jnp.maximum(-jnp.expm1(-entropy), jnp.finfo(entropy.dtype).tiny)
        return rest ** jnp.asarray(self.gamma, entropy.dtype) * entropy


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "binary_cross_entropy": binary_cross_entropy,
    "next_token": next_token,
}
"""The losses that `Training.loss` knows by name."""

SMOOTHED = ("cross_entropy", "next_token")
"""Names of those that know label smoothing."""

_FITS = {
    "cross_entropy": ("classes",),
    "mse": ("numbers",),
    "binary_cross_entropy": ("multilabel",),
    "next_token": ("tokens",),
}


def kinds_of(loss: str | LossFunction) -> tuple[str, ...] | None:
    """The kinds of labels that a loss takes; None for the user's functions, which are tried."""
    return _FITS[loss] if isinstance(loss, str) else getattr(loss, "fits", None)


def name_for(kind: str) -> str:
    """The name of the loss that takes this kind of labels."""
    return next(name for name, kinds in _FITS.items() if kind in kinds)


__all__ = [
    "LOSSES",
    "Focal",
    "binary_cross_entropy",
    "cross_entropy",
    "mse",
    "next_token",
]


def __dir__() -> list[str]:
    return __all__
