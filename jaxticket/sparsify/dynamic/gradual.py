"""Gradual magnitude pruning: densities that fall along a polynomial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxticket._check import number, settle
from jaxticket.loops import PolynomialDensity
from jaxticket.sparsify.dynamic.shrinking import Shrinking


@dataclass(frozen=True)
class Gradual(Shrinking):
    """Prune the smallest weights step by step, more at first than at the end.

    At the steps t = begin + every, begin + 2 every, ... and `end`, the mask keeps the share
    `final + (1 - final) * (1 - (t - begin) / (end - begin)) ** power` of the weights, the largest.
    `jt.gradual` does so in the user's training loop, where the weights that are left take their
    step by the gradient from before the pruning; here it is that after it.

    Attributes:
      begin, end, every, scope: as of `Shrinking`.
      power: 3 is the cubic schedule, 1 the linear one.

    Reference: Zhu & Gupta 2017, "To prune, or not to prune", equation 1, in densities.
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, number, "power", low=0, above=True)

    def densities(self, density: float) -> Mapping[int, float]:
        """As above; the dense start is left out."""
        begin, end, every = int(self.begin), int(self.end), int(self.every)
        schedule = PolynomialDensity(density, end=end, begin=begin, every=every, power=self.power)
        return {step: share for step, share in schedule.updates.items() if step > begin}
