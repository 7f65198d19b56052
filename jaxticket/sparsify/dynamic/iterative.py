"""Iterative magnitude pruning within one training, without rewinding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxticket.sparsify.dynamic.shrinking import Shrinking


@dataclass(frozen=True)
class Iterative(Shrinking):
    """Prune the same share of the remaining weights at every update: IMP within one training.

    Of the n updates at begin + every, begin + 2 every, ... and `end`, the i-th keeps the share
    `density ** (i / n)` of the weights, the largest. Training goes on from the weights as they are:
    nothing is rewound, and the schedule of the learning rate is run through once.

    Attributes:
      begin, end, every, scope: as of `Shrinking`.

    Reference: Han et al. 2015, iterative pruning; Frankle's thesis, Algorithm 2, for the shares.
    """

    every: float | int = 0.15

    def densities(self, density: float) -> Mapping[int, float]:
        """As above."""
        begin, end, every = int(self.begin), int(self.end), int(self.every)
        steps = [*range(begin + every, end, every), end]
        found = {step: density ** (i / len(steps)) for i, step in enumerate(steps, 1)}
        # the last one is the density itself, to the last bit
        return {**found, end: density}
