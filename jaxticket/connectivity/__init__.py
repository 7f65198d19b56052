"""Stability to SGD noise: instability analysis, linear paths, distances and alignment."""

from jaxticket.connectivity._align import Aligned, align
from jaxticket.connectivity._instability import instability
from jaxticket.connectivity.distances import DISTANCES
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.connectivity.paths import barrier, line, plane
from jaxticket.connectivity.permutations import permute
from jaxticket.connectivity.result import Instability, across_seeds, soup
from jaxticket.connectivity.stability import first_steps, matching, ranges, stable, summary

__all__ = [
    "DISTANCES",
    "Aligned",
    "Evaluator",
    "Instability",
    "across_seeds",
    "align",
    "barrier",
    "first_steps",
    "instability",
    "line",
    "matching",
    "permute",
    "plane",
    "ranges",
    "soup",
    "stable",
    "summary",
]


def __dir__() -> list[str]:
    return __all__
