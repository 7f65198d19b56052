"""Rules that choose the weights of the forward pass, and train others too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from jaxticket._check import one_of, settle
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic.rule import MaskRule
from jaxticket.sparsify.dynamic.times import check_time, in_steps
from jaxticket.typing import Array


@dataclass(frozen=True)
class Latent(MaskRule):
    """Train pruned weights too, and choose those of the forward pass at some steps.

    Attributes:
      every: steps between updates, or a share of the training.
      end: the mask stays from this step, or from this share of the training on.
      scope: "global" ranks all layers together, "layer" each by itself.
    """

    every: float | int = 1
    end: float | int = 1.0
    scope: str = "global"

    def __post_init__(self) -> None:
        settle(self, check_time, "every", "end", low=1)
        settle(self, one_of, "scope", choices=("global", "layer"))

    def for_training(self, training: Training) -> Self:
        """The rule with steps in the place of shares."""
        return in_steps(self, training)

    @property
    def latent(self) -> bool:
        """Pruned weights are trained."""
        return True

    def when(self, step: Array) -> Array:
        """At the start, and at multiples of `every` up to `end`."""
        return (step % int(self.every) == 0) & (step <= int(self.end))
