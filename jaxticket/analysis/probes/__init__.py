"""Probes: what `jt.measure` measures of tickets, by name.

A probe is `probe(problem, ticket, *, key) -> dict of arrays`, a pure function of one ticket for use
inside compiled programs. Functions and frozen dataclasses with `__call__` are probes.

Args of a probe:
  problem: a `jt.Problem` with the network and the examples: losses, gradients, curvature.
  ticket: a `jt.Ticket`; its weights are zero where the mask is False.
  key: of the seed, the same for all levels and branches.

A method `check_weights(kept, of)` may refuse networks with too few weights before anything is
computed.

Returns of a probe: name -> number, or array of numbers, of fixed shapes.

A probe that needs more than the examples of one split, or that refuses some data, has a method
`prepare(data, split, examples) -> name -> Batched`, which is called once on the host; the problem
has what it gives as `problem.more`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax

from jaxticket.analysis.probes._attack import Attack
from jaxticket.analysis.probes._calibration import Calibration
from jaxticket.analysis.probes._corruptions import Corruptions
from jaxticket.analysis.probes._curvature import Curvature
from jaxticket.analysis.probes._explanations import Explanations
from jaxticket.analysis.probes._gradient_norm import gradient_norm
from jaxticket.analysis.probes._hessian_trace import HessianTrace
from jaxticket.analysis.probes._linear import LinearProbe, linear_cka
from jaxticket.analysis.probes._out_of_distribution import OutOfDistribution
from jaxticket.analysis.probes._smoothness import Smoothness
from jaxticket.data.arrays import Data
from jaxticket.engine.metrics import Batched
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key


class Probe(Protocol):
    """A measurement of one ticket."""

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> Mapping[str, jax.Array]:
        """The measured numbers, or arrays of numbers, by name."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A probe that networks may have too few weights for."""

    def check_weights(self, kept: int, of: str) -> None:
        """Raise a ValueError where a network keeps too few weights.

        Args:
          kept: its number of weights that are not pruned.
          of: which network, for the error.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """A probe that brings examples of its own, or refuses data that it cannot measure."""

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """Examples by name, which `problem.more` holds."""
        ...


def prepared(
    probe: Probe, data: Data, split: str, examples: int | None
) -> Mapping[str, Batched] | None:
    """The further examples of a probe; None where it brings none."""
    return probe.prepare(data, split, examples) if isinstance(probe, Prepares) else None


PROBES: dict[str, Callable[..., Mapping[str, jax.Array]]] = {
    "gradient_norm": gradient_norm,
    "hessian_trace": HessianTrace(),
    "hessian": Curvature(),
    "gauss_newton": Curvature(matrix="gauss_newton"),
    "calibration": Calibration(),
    "out_of_distribution": OutOfDistribution(),
    "corruptions": Corruptions(),
    "linear_probe": LinearProbe(),
    "explanations": Explanations(),
    "attack": Attack(),
}
"""Probes that `jt.measure` knows by name."""

__all__ = [
    "PROBES",
    "Attack",
    "Calibration",
    "Corruptions",
    "Curvature",
    "Explanations",
    "HessianTrace",
    "Limited",
    "LinearProbe",
    "OutOfDistribution",
    "Probe",
    "Smoothness",
    "gradient_norm",
    "linear_cka",
]


def __dir__() -> list[str]:
    return __all__
