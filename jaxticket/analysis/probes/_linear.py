"""What is linear in features: how well classes are read from them, and how alike they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._check import nearest, number, settle, text
from jaxticket.analysis.probes._predictions import needs_classes
from jaxticket.data.arrays import Data
from jaxticket.engine.metrics import Batched
from jaxticket.labels import living
from jaxticket.nn.activations import PENULTIMATE
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import AnyArray, Key, Network, Params, Stats


def check_tap(problem: Problem, net: Network, tap: str) -> None:
    """Raise a ValueError where a network has no layer of a name, naming those that it has."""
    params, stats = net.shapes
    known = jax.eval_shape(problem.features, params, stats, problem.batches.x[0])
    if tap not in known:
        raise ValueError(f"`tap` {tap!r} is no layer of the network; {nearest(tap, known)}")


def _features(problem: Problem, params: Params, stats: Stats, tap: str) -> jax.Array:
    """The activations of a layer for all examples, those that fill batches up included."""

    def one(x: jax.Array) -> jax.Array:
        found = problem.features(params, stats, x)
        if tap not in found:
            raise ValueError(f"`tap` {tap!r} is no layer of the network; {nearest(tap, found)}")
        return found[tap].reshape(x.shape[0], -1)

    batches = jax.lax.map(one, jnp.asarray(problem.batches.x))
    return batches.reshape(-1, batches.shape[-1])


@dataclasses.dataclass(frozen=True)
class Activations:
    """The activations of a layer, [example, unit], with those that fill batches up.

    Attributes:
      tap: name of the layer.
    """

    tap: str = PENULTIMATE

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Compute the activations of a ticket."""
        del key
        return {"features": _features(problem, ticket.params, ticket.stats, self.tap)}


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """How well classes can be read linearly from a layer.

    Ridge regression of one-hot labels on standardized features, fitted in closed form to every
    other example and scored on the rest: `W = (X' X + ridge * n I)^-1 X' Y`, with an intercept.

    Attributes:
      tap: name of the layer, as of `jt.features`; maps are flattened.
      ridge: strength of the penalty, above 0.

    Returns (when called, see `jaxticket.analysis.probes`):
      "linear_probe", the accuracy on the other half of the examples, in [0, 1], and
      "linear_probe_fitted", that on the half it is fitted to.

    Examples:
      >>> import jaxticket as jt
      >>> jt.probes.LinearProbe(ridge=0.1)
      LinearProbe(tap='penultimate', ridge=0.1)

    Reference: Alain and Bengio, "Understanding intermediate layers using linear classifier probes"
      (2016).
    """

    tap: str = PENULTIMATE
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        settle(self, text, "tap")
        settle(self, number, "ridge", low=0, above=True)

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """Refuse data whose labels are not classes."""
        del split, examples
        needs_classes("linear_probe", data)
        return {}

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Fit and score a linear classifier of a ticket's features."""
        del key
        x, y = (
            _features(problem, ticket.params, ticket.stats, self.tap),
            jnp.asarray(problem.batches.y).reshape(-1),
        )
        there, real = living(y), x.dtype
        first = there & (jnp.arange(y.shape[0]) % 2 == 0)
        fit = first.astype(real)[:, None]
        n = jnp.maximum(fit.sum(), 1)
        mean = (fit * x).sum(0, keepdims=True) / n
        x = jnp.where(there[:, None], x - mean, 0)
        std = jnp.sqrt((fit * x * x).sum(0, keepdims=True) / n)
        x = x / jnp.where(std > 0, std, 1)
        hot = jax.nn.one_hot(y, problem.net.classes, dtype=real)
        base = (fit * hot).sum(0, keepdims=True) / n
        own, wanted = fit * x, fit * (hot - base)
        penalty = self.ridge * n
        with jax.default_matmul_precision("highest"):
            # the smaller of the two systems of equations, which have the same solution
            if x.shape[1] <= x.shape[0]:
                system = own.T @ own + penalty * jnp.eye(x.shape[1], dtype=real)
                weights = jax.scipy.linalg.solve(system, own.T @ wanted, assume_a="pos")
            else:
                system = own @ own.T + penalty * jnp.eye(x.shape[0], dtype=real)
                weights = own.T @ jax.scipy.linalg.solve(system, wanted, assume_a="pos")
            right = jnp.argmax(x @ weights + base, axis=1).astype(y.dtype) == y

        def share(of: jax.Array) -> jax.Array:
            return jnp.sum(right & of).astype(real) / jnp.sum(of).astype(real)

        return {"linear_probe": share(there & ~first), "linear_probe_fitted": share(first)}


def linear_cka(x: AnyArray, y: AnyArray) -> float:
    """Linear centered kernel alignment of features of the same examples, in [0, 1].

    Args:
      x, y: [example, unit], of any number of units each.

    Raises:
      ValueError: for other numbers of examples.

    >>> x = np.random.default_rng(0).normal(size=(20, 3))
    >>> round(linear_cka(x, -2 * x[:, ::-1] + 1), 6)
    1.0
    """
    x, y = (np.asarray(one, np.float64).reshape(len(one), -1) for one in (x, y))
    if len(x) != len(y):
        raise ValueError(f"`x`, `y` must be of the same examples, got {len(x)} and {len(y)}")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    # kernels where there are more units than examples: the same numbers from smaller products
    small = max(x.shape[1], y.shape[1]) <= len(x)
    if small:
        inner = np.linalg.norm(y.T @ x) ** 2
        norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    else:
        inner = float(np.sum((x @ x.T) * (y @ y.T)))
        norms = np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T)
    return float(inner / norms) if norms > 0 else float("nan")
