"""Distances between two trained networks: of their weights, their masks and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxticket import _show, masks
from jaxticket.typing import Mask, Params


class Outcome(NamedTuple):
    """One trained network and what it says of the examples of one split, on the host.

    Attributes:
      params: weights, zero where the mask is False; BatchNorm statistics are no part of them.
      mask: tree of bools like the params, None where they cannot be pruned.
      predictions: int32 [example], the class with the highest logit; of other labels [example,
        ...]: tokens, 0 or 1 for each of several labels, or float32 numbers.
      losses: float32 [example].
      labels: as data have them, int32 [example] for classes; predictions of tokens that do not
        count are -1, as their labels.
    """

    params: Params
    mask: Mask
    predictions: np.ndarray
    losses: np.ndarray
    labels: np.ndarray

    __repr__ = _show.record


Distance = Callable[[Outcome, Outcome], float]
"""`distance(a, b) -> float`."""


def _pairs(a: Params, b: Params) -> list[tuple[np.ndarray, np.ndarray]]:
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in leaves]


def l2_between(a: Params, b: Params) -> float:
    """`||a - b||_2` over all leaves, in float64."""
    return float(np.sqrt(sum(np.sum((x - y) ** 2) for x, y in _pairs(a, b))))


def cosine_between(a: Params, b: Params) -> float:
    """`1 - <a, b> / (||a|| ||b||)` over all leaves, in float64; nan where one is 0."""
    dots = np.sum([[np.sum(x * y), np.sum(x * x), np.sum(y * y)] for x, y in _pairs(a, b)], axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(1 - dots[0] / np.sqrt(dots[1] * dots[2]))


def l2(a: Outcome, b: Outcome) -> float:
    """`||theta_a - theta_b||_2` of the masked weights.

    Reference: Frankle's thesis, section 4.1.5 and Fig. 4-7.
    """
    return l2_between(a.params, b.params)


def cosine(a: Outcome, b: Outcome) -> float:
    """`1 - cos(theta_a, theta_b)` of the masked weights.

    Reference: Frankle's thesis, section 4.1.5 and Fig. 4-8.
    """
    return cosine_between(a.params, b.params)


def _chosen(a: Outcome, b: Outcome) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.asarray(x), np.asarray(y)) for _, x, y in masks.items(a.mask, b.mask)]


def mask_hamming(a: Outcome, b: Outcome) -> float:
    """Share of the prunable weights that one of them keeps and the other does not."""
    pairs = _chosen(a, b)
    return float(sum(np.sum(x != y) for x, y in pairs) / sum(x.size for x, _ in pairs))


def mask_iou(a: Outcome, b: Outcome) -> float:
    """Prunable weights that both keep, over those that any of them keeps; 1 where none does."""
    pairs = _chosen(a, b)
    either = sum(np.sum(x | y) for x, y in pairs)
    return float(sum(np.sum(x & y) for x, y in pairs) / either) if either else 1.0


def disagreement(a: Outcome, b: Outcome) -> float:
    """Number of examples that the two classify differently; of tokens or labels, one by one.

    Reference: Frankle's thesis, section 4.1.5 and Figs. 4-9, 4-10.
    """
    return float(np.sum(a.predictions != b.predictions))


def disagreement_share(a: Outcome, b: Outcome) -> float:
    """`disagreement` over the most there could be, `min(n, wrong_a + wrong_b)`; 0 where none could.

    Examples that both classify rightly cannot differ, so accurate networks differ little in any
    case.

    Reference: Frankle's thesis, section 4.2.4.
    """
    wrong = np.sum(a.predictions != a.labels) + np.sum(b.predictions != b.labels)
    most = min(int(np.count_nonzero(a.labels >= 0)), int(wrong))
    return disagreement(a, b) / most if most else 0.0


def loss_l2(a: Outcome, b: Outcome) -> float:
    """`sqrt(sum_i (loss_a(i) - loss_b(i))^2)` over the examples.

    Reference: Frankle's thesis, section 4.1.5 and Figs. 4-11, 4-12.
    """
    return float(np.sqrt(np.sum((a.losses.astype(np.float64) - b.losses.astype(np.float64)) ** 2)))


DISTANCES: dict[str, Distance] = {
    "l2": l2,
    "cosine": cosine,
    "disagreement": disagreement,
    "disagreement_share": disagreement_share,
    "loss_l2": loss_l2,
    "mask_hamming": mask_hamming,
    "mask_iou": mask_iou,
}
"""Distances between two trained networks, by the names in `inst.table()`."""
OF_ANSWERS = frozenset((disagreement, disagreement_share))
"""Those of answers that are right or wrong, which numbers are not."""
OF_WEIGHTS = frozenset((l2, cosine, mask_hamming, mask_iou))
"""Those that look at no examples; they are taken once, not once per split."""
