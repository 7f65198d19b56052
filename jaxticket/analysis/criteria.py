"""What methods are judged by: accuracy and all else that is measured, and which way is better."""

from __future__ import annotations

import dataclasses

from jaxticket._check import flag, one_of, text, whole

BETTER = ("higher", "lower")


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A number by which methods are judged, a column of `jt.overview`.

    >>> Criterion("bytes", "lower").label
    'bytes'

    Attributes:
      metric: its name in tables, and that of the column.
      better: "higher" or "lower", which is better.
      label: what figures call it; the metric with spaces if empty.
      percent: whether it is a share of 1, which figures write in percent.
      index: which entry of a metric that is an array.
      unit: what figures write it in; of shares % if empty. Differences of shares are in "points".
    """

    metric: str
    better: str
    label: str = ""
    percent: bool = False
    index: int = 0
    unit: str = ""

    def __post_init__(self) -> None:
        text("metric", self.metric)
        one_of("better", self.better, BETTER)
        flag("percent", self.percent)
        whole("index", self.index)
        if not self.label:
            object.__setattr__(self, "label", self.metric.replace("_", " "))
        text("label", self.label)
        if self.unit != "":
            text("unit", self.unit)
        elif self.percent:
            object.__setattr__(self, "unit", "%")

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.better == "higher" else -1


CRITERIA: dict[str, Criterion] = {
    one.metric: one
    for one in (
        Criterion("accuracy", "higher", "test accuracy", percent=True),
        Criterion("gap", "lower", "generalization gap", percent=True, unit="points"),
        Criterion("hessian_trace", "lower", "Hessian trace"),
        Criterion("trace", "lower", "Hessian trace"),
        Criterion("eigenvalue", "lower", "top Hessian eigenvalue"),
        Criterion("ece", "lower", "ECE", percent=True),
        Criterion("nll", "lower", "NLL"),
        Criterion("brier", "lower", "Brier score"),
        Criterion("mce", "lower", "mCE", percent=True),
        Criterion("adversarial_accuracy", "higher", "accuracy under attack", percent=True),
        Criterion("softmax_auroc", "higher", "OoD AUROC", percent=True),
        Criterion("fidelity", "lower"),
        Criterion("stability", "lower"),
    )
}
"""What is known of metrics that probes and functions of the package give, by their name."""

__all__ = ["CRITERIA", "Criterion"]


def __dir__() -> list[str]:
    return __all__
