"""What probes of predictions share: logits of all examples, and which data they take."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxticket.data import Data
from jaxticket.engine.metrics import Batched
from jaxticket.labels import living
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket


def predictions(
    problem: Problem, ticket: Ticket, batches: Batched | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The logits of all examples, their labels, and which of them are no fillers.

    Args:
      problem: network and examples.
      ticket: masked weights.
      batches: other examples than those of the problem.

    Returns:
      [examples, classes], int32 [examples] and bool [examples].
    """
    own = problem.batches if batches is None else batches
    x, y = jnp.asarray(own.x), jnp.asarray(own.y).reshape(-1)
    logits = jax.lax.map(lambda one: problem.logits(ticket.params, ticket.stats, one), x)
    kind = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return logits.astype(kind).reshape(y.shape[0], -1), y, living(y)


def finite_only(found: Mapping[str, jax.Array], *logits: jax.Array) -> dict[str, jax.Array]:
    """The numbers of a network whose logits are finite; nan for others, which say nothing."""
    good = jnp.stack([jnp.isfinite(one).all() for one in logits]).all()
    return {name: jnp.where(good, x, jnp.nan) for name, x in found.items()}


def needs_classes(name: str, data: Data) -> None:
    """Raise where data have labels that are not one class for each example."""
    if data.labels.kind != "classes":
        raise ValueError(
            f"`probe` {name!r} compares the probabilities of classes with one class for each "
            f"example, but {data.name!r} has labels of kind {data.labels.kind!r}; measure it on "
            "data whose labels are classes"
        )
