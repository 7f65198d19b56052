"""Stability to SGD noise: copies trained apart, the lines between them, and other distances."""

from jaxticket.points import Evaluator
from jaxticket.stability.align import Aligned, align
from jaxticket.stability.analysis import Instability
from jaxticket.stability.between import across_seeds, soup
from jaxticket.stability.distances import DISTANCES
from jaxticket.stability.instability import instability
from jaxticket.stability.paths import barrier, line, plane
from jaxticket.stability.permutations import permute
from jaxticket.stability.verdict import first_steps, matching, ranges, stable, summary

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
