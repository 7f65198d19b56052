"""The norm of the gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key


def gradient_norm(problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
    """`||m * grad L(m * w)||` over all weights, and the mean loss L itself.

    Args:
      problem: whose examples L is the mean over, BatchNorm in evaluation mode.
      ticket: mask m and weights w.
      key: not used.

    Returns:
      "gradient_norm" and "loss".
    """
    del key
    point = ticket.params, ticket.stats
    gradient = problem.gradient(*point, mask=ticket.mask)
    squares = [jnp.sum(g * g) for g in jax.tree.leaves(gradient)]
    norm = jnp.sqrt(jnp.sum(jnp.stack(squares)))
    return {"gradient_norm": norm, "loss": problem.loss(*point, mask=ticket.mask)}
