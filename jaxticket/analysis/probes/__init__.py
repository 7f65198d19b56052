"""Probes: what `jt.measure` measures of tickets, by name.

A probe is `probe(problem, ticket, *, key) -> dict of arrays`, a pure function of one ticket for use
inside compiled programs. Functions and frozen dataclasses with `__call__` are probes.

Args of a probe:
  problem: a `jt.Problem` with the network and the examples: losses, gradients, curvature.
  ticket: a `jt.Ticket`; its weights are zero where the mask is False.
  key: of the seed, the same for all levels and branches.

Returns of a probe: name -> number, or array of numbers, of fixed shapes.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import jax

from jaxticket.analysis.probes._gradient_norm import gradient_norm
from jaxticket.analysis.probes._hessian_trace import HessianTrace
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key


class Probe(Protocol):
    """A measurement of one ticket."""

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> Mapping[str, jax.Array]:
        """The measured numbers, or arrays of numbers, by name."""
        ...


PROBES: dict[str, Callable[..., Mapping[str, jax.Array]]] = {
    "gradient_norm": gradient_norm,
    "hessian_trace": HessianTrace(),
}

__all__ = ["PROBES", "HessianTrace", "Probe", "gradient_norm"]


def __dir__() -> list[str]:
    return __all__
