"""The metric by which networks are judged: which is better, and in which units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxticket._check import nearest, text
from jaxticket.engine.metrics import metric_names, outputs
from jaxticket.labels import Labels
from jaxticket.metrics import METRICS, chosen_metrics
from jaxticket.settings import Training
from jaxticket.typing import Network


class Judged(NamedTuple):
    """A metric of evaluations.

    Attributes:
      name: as in tables.
      place: in the metric axis of evaluations.
      lower: whether it is better when lower.
      shares: whether thresholds in shares of 1, such as 0.02 for 2 points, have a meaning.
    """

    name: str = "accuracy"
    place: int = 1
    lower: bool = False
    shares: bool = True

    def worth(self, values: np.ndarray) -> np.ndarray:
        """What is better when higher, float64, of evaluations [..., metric]."""
        found = values[..., self.place].astype(np.float64)
        return -found if self.lower else found

    def error(self, values: np.ndarray) -> np.ndarray:
        """What is better when lower, float64, of evaluations [..., metric].

        The metric itself, or 1 less it: the error of an accuracy, the share of the variance that R2
        leaves unexplained.
        """
        found = values[..., self.place].astype(np.float64)
        return found if self.lower else 1 - found


ACCURACY = Judged()


def judged_by(
    metric: str | None, training: Training, net: Network, labels: Labels
) -> tuple[Training, Judged]:
    """The metric by which networks are judged, and the training that measures it.

    Args:
      metric: "loss", "accuracy", one of the training's, or a name in `jt.metrics.METRICS`, which is
        then measured too; None for the accuracy, and for "r2" where labels are numbers.
      training: whose metrics are known.
      net: the network, whose outputs may be more than the numbers.
      labels: of an example.

    Raises:
      ValueError: for an unknown metric, the accuracy of numbers, and where there is none to take.
    """
    if metric is None:
        if labels.kind == "numbers" and not labels.outputs(outputs(net)):
            raise ValueError(
                f"`metric` is needed: `net` gives {list(outputs(net))} outputs for labels "
                f"{list(labels.shape)}, so that R2 cannot be taken; pass the name of a metric of "
                f"yours in Training(metrics=...), see docs/extending/metric.md"
            )
        metric = "r2" if labels.kind == "numbers" else ACCURACY.name
    metric = text("metric", metric)
    if metric == ACCURACY.name:
        if labels.kind == "numbers":
            raise ValueError(
                "`metric`='accuracy' is not there: labels are numbers, which are neither right nor "
                "wrong; use 'r2', 'mae' or 'loss'"
            )
        return training, ACCURACY
    names = metric_names(training)
    if metric not in names:
        if metric not in METRICS:
            known = dict.fromkeys((*names, *METRICS))
            raise ValueError(f"`metric` {metric!r} is unknown; {nearest(metric, known)}")
        training = training.replace(metrics=(*training.metrics, metric))
        names = metric_names(training)
    return training, judged(metric, training)


def judged(metric: str, training: Training) -> Judged:
    """A metric that a training measures."""
    own = {one.name: one for one in chosen_metrics(training.metrics)}.get(metric)
    lower = metric == "loss" or bool(getattr(own, "lower", False))
    shares = metric == ACCURACY.name or bool(getattr(own, "shares", False))
    return Judged(metric, metric_names(training).index(metric), lower, shares)
