"""The trace of the Hessian, by Hutchinson's estimate."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket._check import settle, whole
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class HessianTrace:
    """The trace of the Hessian of the mean loss over the kept weights.

    With random signs v, the trace is the mean of `v' H v`; its standard error is that of the mean
    of `samples` such numbers. Where H is diagonal, each of them is the trace.

    Attributes:
      samples: number of Hessian-vector products, at least 2.

    Returns (when called, see `jaxticket.analysis.probes`):
      "hessian_trace" and "standard_error".

    Reference: Hutchinson 1989; Yao et al. 2020 (PyHessian), who use up to 100 samples; KD-LTS,
      section 5.1.
    """

    samples: int = 100

    def __post_init__(self) -> None:
        settle(self, whole, "samples", low=2)

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Estimate the trace at the weights of a ticket."""

        def sample(key: Key) -> jax.Array:
            signs = masks.apply(ticket.mask, _signs(key, ticket.params))
            product = problem.hvp(ticket.params, ticket.stats, signs, mask=ticket.mask)
            pairs = zip(jax.tree.leaves(signs), jax.tree.leaves(product), strict=True)
            return jnp.sum(jnp.stack([jnp.sum(v * hv) for v, hv in pairs]))

        found = jax.lax.map(sample, jax.random.split(key, self.samples))
        error = jnp.std(found, ddof=1) / jnp.asarray(math.sqrt(self.samples), found.dtype)
        return {"hessian_trace": jnp.mean(found), "standard_error": error}


def _signs(key: Key, like: Params) -> Params:
    """Random signs, a tree like the weights."""
    leaves, tree = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)
