"""When the training of one network ends early, by what its evaluations have shown.

A rule is called on the host after each evaluation of a network, as `rule(steps, metrics) -> bool`.

Args of a rule:
  steps: int32 [evaluation], in order; the last is that of the network as it is.
  metrics: by "split/metric", such as "validation/loss", float32 [evaluation].

Rules are hashable: frozen dataclasses are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from jaxticket._check import number, one_of, settle, text, whole

StopRule = Callable[[np.ndarray, Mapping[str, np.ndarray]], bool]
"""`(steps, metrics) -> whether to stop`."""

_BETTER = {"loss": "lower", "accuracy": "higher"}


class _OfMetric:
    """What rules of one number share."""

    metric: str
    split: str
    better: str | None

    def __post_init__(self) -> None:
        settle(self, text, "metric", "split")
        if self.better is None:
            if self.metric not in _BETTER:
                raise ValueError(
                    f"`better` is needed for the metric {self.metric!r}: 'higher' or 'lower'"
                )
            object.__setattr__(self, "better", _BETTER[self.metric])
        settle(self, one_of, "better", choices=("higher", "lower"))

    def _rising(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """The metric, with its sign turned where lower is better."""
        values = metrics[f"{self.split}/{self.metric}"]
        return values if self.better == "higher" else -values


@dataclasses.dataclass(frozen=True)
class Plateau(_OfMetric):
    """Stop when a metric has not improved for some evaluations.

    Attributes:
      metric: "loss", "accuracy", or a name of `Training(metrics=...)`.
      patience: how many evaluations in a row must pass without a new best.
      split: whose metric. A split that selects is no split to report: hold out a validation split
        (`data.with_validation`).
      least: only what is better than the best by more than this is a new best.
      better: "higher" or "lower"; None for that of "loss" and "accuracy".

    Raises:
      ValueError: for values out of range, and for other metrics without `better`.

    >>> rule = Plateau("loss", patience=2)
    >>> steps, losses = np.arange(4), np.asarray([3.0, 2.0, 2.5, 2.0])
    >>> [bool(rule(steps[:n], {"validation/loss": losses[:n]})) for n in (2, 3, 4)]
    [False, False, True]
    """

    kind: ClassVar[str] = "plateau"

    metric: str = "loss"
    patience: int = 3
    split: str = "validation"
    least: float = 0.0
    better: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "patience", low=1)
        settle(self, number, "least", low=0)

    def __call__(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> bool:
        """Whether the last `patience` evaluations brought no new best."""
        del steps
        best, since = -np.inf, 0
        for value in self._rising(metrics).tolist():
            better = value > best + self.least
            best, since = (value, 0) if better else (best, since + 1)
        return since >= self.patience


@dataclasses.dataclass(frozen=True)
class Target(_OfMetric):
    """Stop at the first evaluation at which a metric has reached a value.

    Attributes:
      metric, split, better: as of `Plateau`.
      value: the value that it must reach.

    >>> Target("accuracy", 0.9)(np.arange(2), {"validation/accuracy": np.asarray([0.5, 0.92])})
    True
    """

    kind: ClassVar[str] = "target"

    metric: str
    value: float
    split: str = "validation"
    better: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, number, "value")

    def __call__(self, steps: np.ndarray, metrics: Mapping[str, np.ndarray]) -> bool:
        """Whether the last evaluation has reached the value."""
        del steps
        reached = self.value if self.better == "higher" else -self.value
        return bool(self._rising(metrics)[-1] >= reached)


__all__ = ["Plateau", "StopRule", "Target"]


def __dir__() -> list[str]:
    return __all__
