"""Metrics of the predictions on a whole split, measured in evaluations after loss and accuracy.

`Training(metrics=...)` takes names of `METRICS` and objects with the members of `Metric`, those of
this module or the user's own. Each adds rows to the tables of a run, under its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import settle, whole
from jaxticket._promotion import relaxed_types
from jaxticket.losses import token_losses
from jaxticket.typing import Array
from jaxticket.typing import Metric as Metric


@dataclasses.dataclass(frozen=True)
class TopK:
    """Share of the examples whose label is among the `k` highest logits; "top5" for k = 5.

    An example counts where fewer than `k` classes have a higher logit than its label.
    """

    kind: ClassVar[str] = "top"
    fits: ClassVar[tuple[str, ...]] = ("classes",)
    shares: ClassVar[bool] = True
    k: int = 5

    def __post_init__(self) -> None:
        settle(self, whole, "k", low=1)

    @property
    def name(self) -> str:
        """Such as "top5"."""
        return f"top{self.k}"

    def sums(self, logits: Array, labels: Array) -> Array:
        """Right answers, and examples."""
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)
        right = jnp.sum(logits > own, axis=1) < self.k
        # a label whose logit is nan has no place among the others
        right = jnp.logical_and(right, ~jnp.isnan(own[:, 0]))
        return jnp.stack([jnp.sum(right), right.size]).astype(jnp.float32)

    def value(self, sums: Array) -> Array:
        """Right answers over examples."""
        return sums[0] / sums[1]


def bin_of_equal_width(confidence: Array, bins: int) -> Array:
    """The bin b of each confidence, which lies in (b / bins, (b + 1) / bins].

    Confidences that are nan go to the first bin, whose sum they make nan.
    """
    return jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error, `sum_b |right_b - confidence_b| / examples`.

    Examples go to `bins` bins of equal width by their confidence, the largest softmax probability;
    bin b holds confidences in (b / bins, (b + 1) / bins], and right_b and confidence_b are the
    sums of its right answers and of its confidences.

    Reference: Guo et al., "On calibration of modern neural networks" (2017), section 2.
    """

    kind: ClassVar[str] = "calibration_error"
    fits: ClassVar[tuple[str, ...]] = ("classes",)
    lower: ClassVar[bool] = True
    bins: int = 15

    def __post_init__(self) -> None:
        settle(self, whole, "bins", low=1)

    @property
    def name(self) -> str:
        """Always "calibration_error", or "ece", whatever the bins."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Right answers minus confidences in each bin, and examples."""
        confidence = jnp.max(jax.nn.softmax(logits), axis=1)
        right = (jnp.argmax(logits, axis=1) == labels).astype(jnp.float32)
        at = bin_of_equal_width(confidence, self.bins)
        gaps = jnp.zeros(self.bins, jnp.float32).at[at].add(right - confidence)
        return jnp.concatenate([gaps, jnp.full(1, labels.size, jnp.float32)])

    def value(self, sums: Array) -> Array:
        """The absolute gaps over examples."""
        return jnp.sum(jnp.abs(sums[:-1])) / sums[-1]


@dataclasses.dataclass(frozen=True)
class ECE(CalibrationError):
    """The expected calibration error, under its short name "ece"."""

    kind: ClassVar[str] = "ece"


@dataclasses.dataclass(frozen=True)
class Brier:
    """The mean of `sum_c (p_c - [c = label])^2`, p the softmax probabilities; in [0, 2].

    Reference: Brier, "Verification of forecasts expressed in terms of probability" (1950).
    """

    kind: ClassVar[str] = "brier"
    fits: ClassVar[tuple[str, ...]] = ("classes",)
    lower: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Always "brier"."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Squared distances, and examples."""
        target = jax.nn.one_hot(labels, logits.shape[1], dtype=jnp.float32)
        distance = jnp.sum((jax.nn.softmax(logits) - target) ** 2)
        return jnp.stack([distance, jnp.float32(labels.size)])

    def value(self, sums: Array) -> Array:
        """Their mean."""
        return sums[0] / sums[1]


@dataclasses.dataclass(frozen=True)
class MacroF1:
    """The mean over classes of `F1 = 2 hits / (labeled + predicted)`.

    The class with the highest logit is predicted; where an example has several labels, those with
    logits above 0. Classes that are neither labeled nor predicted in the whole split are left out,
    and F1 is 0 where several labels are asked for and one of them is neither, as scikit-learn has
    it.
    """

    kind: ClassVar[str] = "macro_f1"
    fits: ClassVar[tuple[str, ...]] = ("classes", "multilabel")
    shares: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Always "macro_f1"."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Hits, labels and predictions of each class, and whether classes may be left out."""
        several = labels.ndim == 2
        if several:
            said, meant = (logits > 0).astype(jnp.float32), labels.astype(jnp.float32)
        else:
            classes = logits.shape[1]
            said = jax.nn.one_hot(jnp.argmax(logits, axis=1), classes, dtype=jnp.float32)
            meant = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        counts = [jnp.sum(part, axis=0) for part in (said * meant, meant, said)]
        return jnp.concatenate([*counts, jnp.full(1, 0.0 if several else 1.0, jnp.float32)])

    def value(self, sums: Array) -> Array:
        """The mean over classes."""
        hits, meant, said = sums[:-1].reshape(3, -1)
        there = meant + said > 0
        each = jnp.where(there, 2 * hits / jnp.maximum(meant + said, 1), 0)
        counted = jnp.where(sums[-1] > 0, jnp.sum(there, dtype=jnp.float32), there.size)
        return jnp.sum(each) / jnp.maximum(counted, 1)


@dataclasses.dataclass(frozen=True)
class R2:
    """The share of the variance that is explained, `1 - sum (y - f)^2 / sum (y - mean y)^2`.

    Of several numbers the mean of their shares. Sums are float32: numbers whose mean is hundreds of
    standard deviations from 0 have to be centered first.
    """

    kind: ClassVar[str] = "r2"
    fits: ClassVar[tuple[str, ...]] = ("numbers",)
    shares: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Always "r2"."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Squared errors, labels and their squares of each number, and examples."""
        y = labels.reshape(labels.shape[0], -1)
        error = (logits.reshape(y.shape) - y) ** 2
        parts = [jnp.sum(part, axis=0) for part in (error, y, y**2)]
        return jnp.concatenate([*parts, jnp.full(1, y.shape[0], jnp.float32)])

    def value(self, sums: Array) -> Array:
        """The mean of the shares of each number; nan for numbers that are all equal."""
        error, first, second = sums[:-1].reshape(3, -1)
        spread = second - first**2 / sums[-1]
        return jnp.mean(1 - error / spread)


@dataclasses.dataclass(frozen=True)
class MAE:
    """The mean absolute error, of several numbers the mean over them."""

    kind: ClassVar[str] = "mae"
    fits: ClassVar[tuple[str, ...]] = ("numbers",)
    lower: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Always "mae"."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Absolute errors, and how many."""
        error = jnp.abs(logits.reshape(labels.shape) - labels)
        return jnp.stack([jnp.sum(error), jnp.float32(error.size)])

    def value(self, sums: Array) -> Array:
        """Their mean."""
        return sums[0] / sums[1]


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """`exp` of the mean cross-entropy of all tokens of a split, those of -1 left out.

    Of classes, `exp` of the mean cross-entropy.
    """

    kind: ClassVar[str] = "perplexity"
    fits: ClassVar[tuple[str, ...]] = ("tokens", "classes")
    lower: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Always "perplexity"."""
        return self.kind

    def sums(self, logits: Array, labels: Array) -> Array:
        """Cross-entropies, and tokens."""
        each, there = token_losses(logits, labels)
        return jnp.stack([jnp.sum(each), jnp.sum(there, dtype=jnp.float32)])

    def value(self, sums: Array) -> Array:
        """The power of e."""
        return jnp.exp(sums[0] / sums[1])


METRICS: dict[str, Metric] = {
    "top5": TopK(5),
    "macro_f1": MacroF1(),
    "calibration_error": CalibrationError(),
    "ece": ECE(),
    "brier": Brier(),
    "r2": R2(),
    "mae": MAE(),
    "perplexity": Perplexity(),
}
"""The metrics that `Training.metrics` knows by name."""

ALWAYS = ("loss", "accuracy")
"""What every evaluation begins with."""


def chosen_metrics(metrics: Sequence[str | Metric]) -> tuple[Metric, ...]:
    """The metrics of a training as objects.

    Args:
      metrics: names and objects, as `Training.metrics`.

    Raises:
      ValueError: for what is no metric, and for two of one name.
    """
    found = tuple(METRICS[one] if isinstance(one, str) else one for one in metrics)
    for one in found:
        methods = callable(getattr(one, "sums", None)) and callable(getattr(one, "value", None))
        name = getattr(one, "name", None)
        if not methods or not isinstance(name, str) or not name:
            raise ValueError(
                f"`metrics` must be names, and objects with a text `name` and methods "
                f"`sums(logits, labels)` and `value(sums)`, got {one!r}"
            )
    names = [*ALWAYS, *(one.name for one in found)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"`metrics` needs names that differ, and not {' and '.join(ALWAYS)}, which are always "
            f"there; got {repeated[0]!r} more than once"
        )
    return found


def sums_of(metric: Metric, logits: Array, labels: Array) -> Array:
    """The sums of a metric for each example alone, float32 [batch, k].

    Examples that fill up a batch have to be left out, and a sum over the batch would hold them.
    """

    def one(logits: Array, label: Array) -> Array:
        with relaxed_types():
            given = metric.sums(logits[None], label[None])
        found = jnp.asarray(given) if isinstance(given, jax.Array | np.ndarray) else None
        if found is None or found.ndim != 1:
            said = type(given).__name__ if found is None else f"the shape {found.shape}"
            raise ValueError(
                f"`metrics`: `sums` of {metric.name!r} must give a vector [k] summed over "
                f"examples, such as jnp.stack([right, total]), got {said}"
            )
        return found.astype(jnp.float32)

    return jax.vmap(one)(logits.astype(jnp.float32), labels)


def value_of(metric: Metric, sums: Array) -> Array:
    """A metric from its sums, float32."""
    with relaxed_types():
        found = jnp.asarray(metric.value(sums))
    if found.ndim:
        raise ValueError(
            f"`metrics`: `value` of {metric.name!r} must give a number, got the shape {found.shape}"
        )
    return found.astype(jnp.float32)


__all__ = [
    "ECE",
    "MAE",
    "METRICS",
    "R2",
    "Brier",
    "CalibrationError",
    "MacroF1",
    "Metric",
    "Perplexity",
    "TopK",
]


def __dir__() -> list[str]:
    return __all__
