"""Telling examples of another distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import instance, one_of
from jaxticket.analysis.probes._predictions import (
    finite_only,
    needs_classes,
    predictions,
)
from jaxticket.analysis.ranking import separation
from jaxticket.data import Data
from jaxticket.data.alike import white
from jaxticket.engine.metrics import Batched, Normalization, cut
from jaxticket.problem import Problem, standardized
from jaxticket.ticket import Ticket
from jaxticket.typing import Key


@dataclasses.dataclass(frozen=True)
class OutOfDistribution:
    """Whether a network is less sure of examples of another data set than of those it knows.

    Examples of the known data are the positives. A score is high for them: the largest softmax
    probability ("softmax"), the negative energy `log sum_c exp(logit_c)` ("energy"), and the
    negative entropy of the probabilities ("entropy"). All examples are normalized with the mean and
    standard deviation of the known data.

    Attributes:
      other: a data set of the same shape, see `jt.data.like`; None for uniform noise.
      split: which of its splits.

    Returns (when called, see `jaxticket.analysis.probes`):
      For each score NAME: "NAME_auroc", in which equal scores count half; "NAME_aupr", the average
      precision, and "NAME_aupr_out", that where the other examples are the positives; "NAME_fpr95",
      the share of other examples that are taken for known ones where 95% of the known ones are.

    Reference: Hendrycks and Gimpel (2017); Liu et al., "Energy-based out-of-distribution detection"
      (2020); KD-LTS, appendix C.1, which has the AUROC of the softmax.
    """

    other: Data | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        if self.other is None:
            return
        instance("other", self.other, Data, "a data set in memory, as jt.data.load gives it")
        one_of("split", self.split, tuple(self.other.splits))

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """The other examples; of noise, as many as are measured."""
        needs_classes("out_of_distribution", data)
        if data.tokens:
            raise ValueError(
                "`probe` 'out_of_distribution' compares arrays, and the examples of "
                f"{data.name!r} are tokens; measure it on images or rows of numbers"
            )
        x = self._noise(data, split, examples) if self.other is None else self._taken(data)
        batches = cut({"other": (x, np.zeros(len(x), np.int32))}, 250, most={"other": examples})
        by = Normalization(np.asarray(data.mean), np.asarray(data.std))  # type: ignore[arg-type]
        return {"other": standardized(batches, by)}

    def _noise(self, data: Data, split: str, examples: int | None) -> np.ndarray:
        count = len(data.splits[split])
        count = count if examples is None else min(examples, count)
        low, high = float(np.min(data.train.x)), white(data)
        drawn = np.random.default_rng(0).uniform(low, high, (count, *data.shape))
        return drawn.astype(data.train.x.dtype)

    def _taken(self, data: Data) -> np.ndarray:
        assert self.other is not None
        x = self.other.splits[self.split].x
        if x.shape[1:] != data.shape or x.dtype != data.train.x.dtype:
            raise ValueError(
                f"`other` has examples of {x.dtype} {x.shape[1:]}, {data.name!r} of "
                f"{data.train.x.dtype} {data.shape}; resize and convert images with "
                "jt.data.like(other, data)"
            )
        return x

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Compare the scores of both."""
        del key
        if problem.more is None:
            raise ValueError("`problem` has no other examples; use jt.measure")
        known, _, here = predictions(problem, ticket)
        other, _, there = predictions(problem, ticket, problem.more["other"])
        found = {}
        for (name, inside), outside in zip(
            _scores(known).items(), _scores(other).values(), strict=True
        ):
            told = separation(inside, outside, here, there)
            turned = separation(-outside, -inside, there, here)
            found |= {
                f"{name}_auroc": told.auroc,
                f"{name}_aupr": told.aupr,
                f"{name}_aupr_out": turned.aupr,
                f"{name}_fpr95": told.fpr,
            }
        return finite_only(found, known, other)


def _scores(logits: jax.Array) -> dict[str, jax.Array]:
    logs = jax.nn.log_softmax(logits)
    return {
        "softmax": jnp.exp(jnp.max(logs, axis=1)),
        "energy": jax.nn.logsumexp(logits, axis=1),
        "entropy": jnp.sum(jnp.exp(logs) * logs, axis=1),
    }
