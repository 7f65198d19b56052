"""Calibration and likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxticket._check import flag, settle, whole
from jaxticket.analysis import calibration
from jaxticket.analysis.probes._predictions import finite_only, needs_classes, predictions
from jaxticket.data import Data
from jaxticket.engine.metrics import Batched
from jaxticket.metrics import Brier, sums_of
from jaxticket.problem import Problem, batched
from jaxticket.ticket import Ticket
from jaxticket.typing import Key


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Whether confidences, the largest softmax probabilities, are as high as accuracies.

    Attributes:
      bins: bins of each error and of the reliability diagram.
      temperature: whether the logits are also divided by the temperature T that makes the mean NLL
        on the validation split least; needs a validation split, and another split to measure.

    Returns (when called, see `jaxticket.analysis.probes`):
      "accuracy" and "confidence", their means; "nll", the mean negative log likelihood in nats;
      "brier"; "ece", the expected calibration error with bins of equal width; "ece_equal_mass",
      with bins of equal mass, equal numbers of examples; "classwise_ece" and "adaptive_ece", the
      means over classes of the errors of their probabilities, with bins of equal width and of equal
      mass. The reliability diagram has "bin_share", "bin_accuracy" and "bin_confidence", [bins] of
      equal width, nan in empty bins. With `temperature` there are "temperature" and all these with
      "scaled_" before their names, but for "scaled_accuracy": T moves no answer.

    Examples:
      >>> import jaxticket as jt
      >>> jt.probes.Calibration(bins=10, temperature=True)
      Calibration(bins=10, temperature=True)

    Reference: Guo et al., "On calibration of modern neural networks" (2017); Nixon et al. (2019);
      Kull et al. (2019); KD-LTS, appendix C.2.
    """

    bins: int = 15
    temperature: bool = False

    def __post_init__(self) -> None:
        settle(self, whole, "bins", low=1)
        flag("temperature", self.temperature)

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """The validation split, for the temperature."""
        del examples
        needs_classes("calibration", data)
        if not self.temperature:
            return {}
        if data.validation is None:
            raise ValueError(
                f"`temperature` is found on the validation split, which {data.name!r} has not; "
                "hold one out before tickets are found, with data.with_validation(0.1)"
            )
        if split == "validation":
            raise ValueError(
                "`split` is 'validation', on which `temperature` is found, so that calibration "
                "would be measured on what it was fitted to; pass split='test'"
            )
        return {"validation": batched(data, "validation")[0]}

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Measure the errors of a ticket."""
        del key
        logits, y, there = predictions(problem, ticket)
        right = (jnp.argmax(logits, axis=1).astype(y.dtype) == y).astype(logits.dtype)
        found = {"accuracy": _mean(right, there), **self._errors(logits, y, right, there)}
        if not self.temperature:
            return finite_only(found, logits)
        if problem.more is None:
            raise ValueError("`temperature` needs the validation split; use jt.measure")
        own = predictions(problem, ticket, problem.more["validation"])
        t = calibration.temperature(*own)
        scaled = self._errors(logits / t, y, right, there)
        found |= {"temperature": t} | {f"scaled_{name}": x for name, x in scaled.items()}
        return finite_only(found, logits, own[0])

    def _errors(
        self, logits: jax.Array, y: jax.Array, right: jax.Array, there: jax.Array
    ) -> dict[str, jax.Array]:
        p = jax.nn.softmax(logits)
        top = jnp.max(p, axis=1)
        width = calibration.equal_width(top, right, there, self.bins)
        mass = calibration.equal_mass(top, right, there, self.bins)
        brier = sums_of(Brier(), logits, jnp.maximum(y, 0))[:, 0].astype(p.dtype)
        filled = jnp.where(width.count > 0, width.count, jnp.nan)
        return {
            "confidence": _mean(top, there),
            "nll": calibration.mean_nll(logits, y, there),
            "brier": _mean(brier, there),
            "ece": width.error(),
            "ece_equal_mass": mass.error(),
            "classwise_ece": calibration.by_class(p, y, there, self.bins, mass=False),
            "adaptive_ece": calibration.by_class(p, y, there, self.bins, mass=True),
            "bin_share": width.count / jnp.sum(width.count),
            "bin_accuracy": width.right / filled,
            "bin_confidence": width.confidence / filled,
        }


def _mean(values: jax.Array, there: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(there, values, 0)) / jnp.sum(there, dtype=values.dtype)
