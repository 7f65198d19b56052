"""Curvature: eigenvalues, trace and spectral density of the Hessian or the Gauss-Newton matrix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from matfree import decomp, stochtrace

from jaxticket import _tree, masks
from jaxticket._check import flag, number, one_of, settle, whole
from jaxticket._promotion import relaxed_types
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key, Params

MATRICES = ("hessian", "gauss_newton")
ORDERS = ("magnitude", "value")
# a grid reaches so many kernel widths beyond the eigenvalues, so that the density adds up to 1
BEYOND = 5.0
# rounding errors of a number, in the diagonal that makes eigenvalues distinct
JITTER = 64


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Eigenvalues, trace and spectral density of the Hessian of the mean loss.

    Of the kept weights alone: rows and columns of pruned ones are left out, by setting vectors to
    zero there. Biases and normalization count. The matrix is never formed; it is multiplied with
    vectors, forward over reverse and batch after batch.

    Eigenvalues come from `order` steps of Lanczos' method with full re-orthogonalization from a
    random start. The density is that of stochastic Lanczos quadrature: each start gives nodes
    lambda_i and weights omega_i, the squared first components of the eigenvectors of its
    tridiagonal matrix, and

        density(t) = mean over starts of sum_i omega_i N(t; lambda_i, sigma^2)

    The trace is Hutchinson's, the mean of `v' H v` over random signs v.

    >>> Curvature(eigenvalues=3, matrix="gauss_newton").order
    100

    Attributes:
      eigenvalues: how many of the largest; 0 for none. Those that a network with fewer kept weights
        does not have are refused by `jt.measure`; with `layers` they are nan.
      order: products with a start vector, at least `eigenvalues`; more make eigenvalues inside the
        spectrum and the density more accurate. Never more than there are weights.
      starts: start vectors of the density; 0 for no density. Eigenvalues take the first.
      samples: products of the trace, at least 2; 0 for no trace.
      points: numbers of the density, evenly spread over the spectrum.
      width: standard deviation sigma of the kernel, as a share of the spectrum's range.
      by: "magnitude" for eigenvalues by their magnitude (PyHessian), "value" for the largest first.
      matrix: "hessian", or "gauss_newton", which leaves the curvature of the network itself out.
      layers: for each layer by itself, its block of the matrix, in the place of the whole.
      train: BatchNorm in training mode, with the statistics of each batch; in evaluation mode else.
        Batches that are not full do not count then.

    Returns (when called, see `jaxticket.analysis.probes`):
      "eigenvalue" [eigenvalues] and "eigenvalue_error", a bound on the distance of each to an
      eigenvalue of the matrix; "trace" and "trace_error", its standard error; "density_at" and
      "density" [points] (the integral is 1), "moment_1" and "moment_2", the mean of lambda and of
      lambda^2 over the spectrum, "least_eigenvalue", the least of all starts, and "negative_share",
      the sum of |lambda| over negative eigenvalues as a share of that over all: 0 at a minimum,
      above at a saddle point, where the density, which is smoothed, does not tell them from 0;
      "weights", how many weights the matrix is of. With `layers` the
      name of the layer follows, as in "trace/dense_0".

    Raises:
      ValueError: for settings that are not possible.

    Reference: Ghorbani, Krishnan and Xiao 2019; Yao et al. 2020 (PyHessian); KD-LTS, section 5.1.
      Lanczos' method and the trace are those of matfree.
    """

    eigenvalues: int = 20
    order: int = 100
    starts: int = 1
    samples: int = 100
    points: int = 256
    width: float = 0.01
    by: str = "magnitude"
    matrix: str = "hessian"
    layers: bool = False
    train: bool = False

    def __post_init__(self) -> None:
        settle(self, whole, "eigenvalues", "starts", "samples")
        settle(self, whole, "order", low=1)
        settle(self, whole, "points", low=2)
        settle(self, number, "width")
        settle(self, one_of, "by", choices=ORDERS)
        settle(self, one_of, "matrix", choices=MATRICES)
        settle(self, flag, "layers", "train")
        if self.samples == 1:
            raise ValueError("`samples` must be 0 or at least 2, which an error needs, got 1")
        if not 0 < self.width <= 1:
            raise ValueError(f"`width` must be a share above 0 and up to 1, got {self.width}")
        if self.order < self.eigenvalues:
            raise ValueError(
                f"`order` must be at least `eigenvalues`, {self.eigenvalues}, got {self.order}"
            )
        if not (self.eigenvalues or self.starts or self.samples):
            raise ValueError(
                "`eigenvalues`, `starts` and `samples` are all 0, so that nothing is measured; set "
                "one of them"
            )

    def check_weights(self, kept: int, of: str) -> None:
        """Raise where a network keeps fewer weights than eigenvalues are asked for.

        Args:
          kept: its number of weights that are not pruned.
          of: which network, for the error.
        """
        if not self.layers and self.eigenvalues > kept:
            raise ValueError(
                f"`eigenvalues` is {self.eigenvalues}, but {of} keeps {kept} weights, and its "
                f"{self.matrix} has as many eigenvalues; ask for at most {kept}, or for fewer "
                "`levels`"
            )

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Measure the curvature at the weights of a ticket."""
        paths = list(_tree.leaves(ticket.params))
        if not self.layers:
            return self._measured(_block(self, problem, ticket, paths, key), key)
        groups: dict[str, list[str]] = {}
        for path in paths:
            groups.setdefault(path.rpartition("/")[0] or path, []).append(path)
        return {
            f"{name}/{layer}": x
            for layer, own in groups.items()
            for name, x in self._measured(_block(self, problem, ticket, own, key), key).items()
        }

    def _measured(self, block: Block, key: Key) -> dict[str, jax.Array]:
        keys = jax.random.split(key, 2)
        found = {"weights": jnp.sum(block.alive)}
        if self.eigenvalues or self.starts:
            order = min(self.order, block.alive.size)
            found |= self._spectrum(block, order, keys[0])
        if self.samples:
            found |= _trace(block, self.samples, keys[1])
        return found

    def _spectrum(self, block: Block, order: int, key: Key) -> dict[str, jax.Array]:
        keys = jax.random.split(key, max(1, self.starts))
        runs = jax.lax.map(lambda k: _lanczos(block, order, k), keys)
        found = {}
        if self.eigenvalues:
            nodes, errors, real = runs.nodes[0], runs.errors[0], runs.real[0]
            size = jnp.abs(nodes) if self.by == "magnitude" else nodes
            first = jnp.argsort(jnp.where(real, -size, jnp.inf))[: self.eigenvalues]
            missing = (0, max(0, self.eigenvalues - order))
            for name, x in (("eigenvalue", nodes), ("eigenvalue_error", errors)):
                chosen = jnp.where(real, x, jnp.nan)[first]
                found[name] = jnp.pad(chosen, missing, constant_values=jnp.nan)
        if self.starts:
            at, density = _density(runs, self.points, self.width)
            powers = {1: runs.nodes, 2: runs.nodes**2}
            found |= {"density_at": at, "density": density}
            found |= {
                f"moment_{power}": jnp.mean(jnp.sum(runs.weights * x, axis=1))
                for power, x in powers.items()
            }
            found["least_eigenvalue"] = jnp.min(jnp.where(runs.real, runs.nodes, jnp.inf))
            below = jnp.sum(runs.weights * jnp.maximum(-runs.nodes, 0))
            found["negative_share"] = below / jnp.sum(runs.weights * jnp.abs(runs.nodes))
        return found


class Block(NamedTuple):
    """A block of a matrix: its product with flat vectors, and which entries are kept weights."""

    product: Callable[[jax.Array], jax.Array]
    alive: jax.Array


class Spectrum(NamedTuple):
    """What Lanczos' method gives from one start: [order] each.

    Attributes:
      nodes: eigenvalues of the tridiagonal matrix; 0 where there are none.
      weights: squared first components of its eigenvectors.
      errors: bounds on the distance of each node to an eigenvalue of the matrix.
      real: which nodes there are: no more than kept weights.
    """

    nodes: jax.Array
    weights: jax.Array
    errors: jax.Array
    real: jax.Array


def _block(
    settings: Curvature, problem: Problem, ticket: Ticket, paths: Sequence[str], key: Key
) -> Block:
    """The block of some leaves of the weights."""
    every = _tree.leaves(ticket.params)
    sizes = [every[path].size for path in paths]
    ones = jax.tree.map(jnp.ones_like, ticket.params)
    alive = _tree.leaves(masks.apply(ticket.mask, ones))
    multiply = problem.hvp if settings.matrix == "hessian" else problem.gnvp
    # the same noise in all products, so that they are of one matrix
    noise = {"train": True, "key": jax.random.fold_in(key, 1)} if settings.train else {}

    def flat(tree: Params) -> jax.Array:
        leaves = _tree.leaves(tree)
        return jnp.concatenate([leaves[path].reshape(-1) for path in paths])

    def product(vector: jax.Array) -> jax.Array:
        parts = jnp.split(vector, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)])
        own = dict(zip(paths, parts, strict=True))
        full = {
            path: own[path].reshape(x.shape) if path in own else jnp.zeros_like(x)
            for path, x in every.items()
        }
        along = _tree.unflatten(full, ticket.params)
        return flat(multiply(ticket.params, ticket.stats, along, mask=ticket.mask, **noise))

    kept = jnp.concatenate([jnp.asarray(alive[path]).reshape(-1) for path in paths])
    return Block(product, kept)


def _trace(block: Block, samples: int, key: Key) -> dict[str, jax.Array]:
    """Hutchinson's estimate and its standard error, one product after another."""
    draw = stochtrace.sampler_signs(block.alive, num=1)
    value = stochtrace.monte_carlo_trace()

    def sample(key: Key) -> jax.Array:
        with relaxed_types():
            return value(block.product, draw(key)[0] * block.alive)

    found = jax.lax.map(sample, jax.random.split(key, samples))
    error = jnp.std(found, ddof=1) / jnp.asarray(math.sqrt(samples), found.dtype)
    return {"trace": jnp.mean(found), "trace_error": error}


def _lanczos(block: Block, order: int, key: Key) -> Spectrum:
    """The spectrum as seen from a random start among the kept weights."""
    alive, kind = block.alive, block.alive.dtype
    keys = jax.random.split(key, 2)
    start = jax.random.rademacher(keys[0], alive.shape, kind) * alive
    # With fewer distinct eigenvalues than steps the method would go on with rounding errors, along
    # directions that it has taken already. A diagonal somewhat above these errors makes all
    # eigenvalues distinct, and keeps the matrix symmetric.
    tiny = jnp.finfo(kind)
    slope = block.product(start)
    scale = jnp.sqrt(jnp.sum(slope * slope) / jnp.maximum(jnp.sum(alive), 1))
    size = JITTER * tiny.eps * scale + jnp.asarray(float(tiny.tiny) ** 0.25, kind)
    jitter = jax.random.normal(keys[1], alive.shape, kind) * alive * size

    def product(vector: jax.Array) -> jax.Array:
        return block.product(vector) + jitter * vector

    with relaxed_types():
        found = decomp.tridiag_sym(order, custom_vjp=False, materialize=False)(product, start)
    diagonal, off = found.J_small
    count = jnp.minimum(jnp.sum(alive).astype(jnp.int32), order)
    return _nodes(diagonal, off, jnp.sqrt(jnp.sum(found.residual**2)), count)


def _nodes(diagonal: jax.Array, off: jax.Array, rest: jax.Array, count: jax.Array) -> Spectrum:
    """The eigenvalues of the first `count` rows of a tridiagonal matrix.

    Args:
      diagonal: [order].
      off: next to the diagonal, [order - 1].
      rest: norm of the residual after the last step.
      count: steps that there were vectors for; what follows is noise.
    """
    order = len(diagonal)
    place = jnp.arange(order, dtype=jnp.int32)
    off = jnp.append(off, rest)
    last = jnp.maximum(count - 1, 0)
    rest = jnp.where(count < order, 0, off[last])
    within = place < count
    off = jnp.where(place < last, off, 0)[:-1]
    top = 1 + 4 * jnp.max(jnp.where(within, jnp.abs(diagonal), 0), initial=0)
    top = top + 4 * jnp.max(jnp.abs(off), initial=0)
    # what is noise gets eigenvalues apart from all others
    own = jnp.where(within, diagonal, top)
    matrix = jnp.diag(own) + jnp.diag(off, 1) + jnp.diag(off, -1)
    values, vectors = jnp.linalg.eigh(matrix)
    real = place < count  # eigenvalues ascend, and those of noise are the largest
    # nan of weights that diverged stays
    return Spectrum(
        nodes=jnp.where(real, values, 0),
        weights=jnp.where(real, vectors[0] ** 2, 0),
        errors=jnp.where(real, jnp.abs(rest * vectors[last]), 0),
        real=real,
    )


def _density(runs: Spectrum, points: int, width: float) -> tuple[jax.Array, jax.Array]:
    """Where the density is evaluated, and its values, [points] each."""
    nodes, weights = runs.nodes, runs.weights
    kind = nodes.dtype
    low = jnp.min(jnp.where(runs.real, nodes, jnp.inf))
    high = jnp.max(jnp.where(runs.real, nodes, -jnp.inf))
    # all eigenvalues may be the same
    wide = jnp.maximum(high - low, jnp.maximum(jnp.abs(high), jnp.finfo(kind).tiny ** 0.25) * 1e-3)
    sigma = wide * jnp.asarray(width, kind)
    at = jnp.linspace(low - BEYOND * sigma, high + BEYOND * sigma, points, dtype=kind)
    each = jnp.exp(-(((at[:, None, None] - nodes[None]) / sigma) ** 2) / 2)
    each = each / (sigma * jnp.asarray(math.sqrt(2 * math.pi), kind))
    return at, jnp.mean(jnp.sum(each * weights[None], axis=2), axis=1)
