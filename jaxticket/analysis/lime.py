"""LIME: linear models of what a network answers around one image."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import _show
from jaxticket._check import number, one_of, settle, whole
from jaxticket.analysis.segments import Segmenter, check_segments
from jaxticket.engine.metrics import normalized
from jaxticket.problem import Problem
from jaxticket.typing import Key, Params, Stats

DISTANCES = ("cosine", "hamming")
ANSWERS = ("probability", "logit")


class Linear(NamedTuple):
    """Linear models `answer = intercept + sum_s weights_s z_s` of which segments are on.

    Attributes:
      weights: [answer, segment]; 0 for segments that there are not.
      intercept: [answer].
      r2: [answer], the share of the weighted variance of the answers that the model explains.
    """

    weights: jax.Array
    intercept: jax.Array
    r2: jax.Array

    def at(self, z: jax.Array) -> jax.Array:
        """The answers of the models, [sample, answer].

        Args:
          z: bool [sample, segment].
        """
        with jax.default_matmul_precision("highest"):
            return z.astype(self.weights.dtype) @ self.weights.T + self.intercept[None]


class Neighborhood(NamedTuple):
    """Perturbed copies of an image, and what a network answers to them.

    Attributes:
      z: bool [sample, segment], which segments are on; in sample 0 all are.
      present: bool [segment], which segments the image has.
      answers: [sample, class].
    """

    z: jax.Array
    present: jax.Array
    answers: jax.Array


@dataclasses.dataclass(frozen=True)
class LIME:
    """Explain an answer by the segments of an image: local linear models.

    Each segment of each perturbed image is on with probability 1/2, and filled where it is off; the
    first one is the image itself. A ridge regression of the network's answers on which segments are
    on, `min_b sum_i k_i (f(x_i) - b0 - b'z_i)^2 + ridge ||b||^2`, has weights
    `k_i = exp(-d_i^2 / (2 width^2))` of the distance d_i from the image.

    Attributes:
      segments: size of the cells of a grid in pixels; "slic" or "quickshift" of scikit-image, as
        `pip install 'jaxticket[explain]'` installs it; or a function from an image
        [height, width, channels], raw values, to whole numbers [height, width].
      samples: perturbed images, at least 2.
      fill: "mean" for the mean of the segment in each channel, or a raw value, such as 0 for black.
      distance: "cosine", `1 - cos(z_i, z)`, or "hamming", the share of segments that differ.
      width: width of the kernel, above 0.
      ridge: strength of the penalty, above 0; the intercept has none.
      of: the answers: "probability" of a class, or its "logit".

    Examples:
      >>> import jaxticket as jt
      >>> jt.LIME(segments=2, fill=0)
      LIME(segments=2, fill=0.0)

    Reference: Ribeiro et al., "Why should I trust you?" (2016), with the defaults of their code for
      images but for the segments, which there are those of "quickshift".
    """

    segments: int | str | Segmenter = 4
    samples: int = 1000
    fill: float | str = "mean"
    distance: str = "cosine"
    width: float = 0.25
    ridge: float = 1.0
    of: str = "probability"

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, check_segments, "segments")
        settle(self, whole, "samples", low=2)
        settle(self, _check_fill, "fill")
        settle(self, one_of, "distance", choices=DISTANCES)
        settle(self, number, "width", "ridge", low=0, above=True)
        settle(self, one_of, "of", choices=ANSWERS)

    def neighborhood(
        self,
        problem: Problem,
        params: Params,
        stats: Stats,
        x: jax.Array,
        segments: jax.Array,
        present: jax.Array,
        *,
        key: Key,
    ) -> Neighborhood:
        """Perturb an image, and let a network answer to all of its copies in one batch.

        Args:
          problem: the network, and how images are normalized.
          params, stats: its weights and statistics.
          x: the image as the problem holds it, [height, width, channels].
          segments: whole numbers [height, width].
          present: bool [segment], the numbers that occur.
          key: for which segments are off.
        """
        drawn = jax.random.bernoulli(key, 0.5, (self.samples, present.shape[0]))
        z = (drawn | (jnp.arange(self.samples) == 0)[:, None]) & present[None]
        on, off = self._filled(problem, params, x, segments, present.shape[0])
        images = jnp.where(z[:, segments][..., None], on[None], off[None])
        logits = problem.logits(params, stats, images)
        kind = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
        logits = logits.astype(kind)
        answers = jax.nn.softmax(logits) if self.of == "probability" else logits
        return Neighborhood(z, present, answers)

    def _filled(
        self, problem: Problem, params: Params, x: jax.Array, segments: jax.Array, count: int
    ) -> tuple[jax.Array, jax.Array]:
        """An image as networks see it, and the same with all segments off."""
        dtype = jax.tree.leaves(params)[0].dtype
        by, raw = problem.by, x.astype(dtype)
        if by is None:
            on, mean, std = raw, jnp.zeros((), dtype), jnp.ones((), dtype)
        else:
            mean, std = jnp.asarray(by.mean, dtype), jnp.asarray(by.std, dtype)
        # of channels, or of all entries
        mean, std = (v.reshape((1,) * (x.ndim - v.ndim) + v.shape) for v in (mean, std))
        if by is not None and jnp.issubdtype(x.dtype, jnp.integer):
            on = normalized(x[None], by, str(dtype))[0]
        else:
            # problems hold other numbers normalized
            on, raw = raw, raw * std + mean
        if isinstance(self.fill, str):
            pixels = raw.reshape(-1, raw.shape[-1])
            total = jax.ops.segment_sum(pixels, segments.reshape(-1), count)
            size = jax.ops.segment_sum(jnp.ones_like(pixels), segments.reshape(-1), count)
            filled = (total / jnp.maximum(size, 1))[segments]
        else:
            filled = jnp.full_like(raw, self.fill)
        return on, (filled - mean) / std

    def distances(self, near: Neighborhood, z: jax.Array) -> jax.Array:
        """The distances of all samples of a neighborhood from one of them, in [0, 1].

        Args:
          near: the neighborhood.
          z: bool [segment], the one.
        """
        dtype = near.answers.dtype
        both = jnp.sum(near.z & z[None], axis=1).astype(dtype)
        own, other = jnp.sum(near.z, axis=1).astype(dtype), jnp.sum(z).astype(dtype)
        if self.distance == "hamming":
            return (own + other - 2 * both) / jnp.maximum(jnp.sum(near.present), 1).astype(dtype)
        # nothing has an angle with what is all off
        return jnp.maximum(0, 1 - both / jnp.sqrt(jnp.maximum(own * other, 1)))

    def fit(self, near: Neighborhood, z: jax.Array) -> Linear:
        """Fit linear models around one sample of a neighborhood.

        Args:
          near: the neighborhood.
          z: bool [segment], the sample that distances are measured from.
        """
        kernel = jnp.exp(-((self.distances(near, z) / self.width) ** 2) / 2)
        return ridge_regression(near.z.astype(near.answers.dtype), near.answers, kernel, self.ridge)


def ridge_regression(x: jax.Array, y: jax.Array, weights: jax.Array, ridge: float) -> Linear:
    """Weighted ridge regression with an intercept, in closed form.

    `min_b sum_i k_i (y_i - b0 - b'x_i)^2 + ridge ||b||^2`, by a Cholesky factorization of the
    weighted covariance, whose means are taken off first, so that float32 is enough.

    Args:
      x: [sample, feature].
      y: [sample, answer].
      weights: [sample], not negative.
      ridge: above 0.

    Reference: scikit-learn's Ridge, `Ridge(ridge).fit(x, y, sample_weight=weights)`.
    """
    share = (weights / jnp.sum(weights))[:, None]
    # from the first answer, so that answers which never change differ by 0, not by rounding
    first = y[0]
    y = y - first[None]
    mean, base = jnp.sum(share * x, axis=0), jnp.sum(share * y, axis=0)
    root = jnp.sqrt(weights)[:, None]
    own, wanted = root * (x - mean[None]), root * (y - base[None])
    with jax.default_matmul_precision("highest"):
        system = own.T @ own + ridge * jnp.eye(x.shape[1], dtype=x.dtype)
        found = jax.scipy.linalg.solve(system, own.T @ wanted, assume_a="pos")
        missed = jnp.sum((wanted - own @ found) ** 2, axis=0)
        total = jnp.sum(wanted**2, axis=0)
        # an answer that never changes is explained
        r2 = jnp.where(total > 0, 1 - missed / jnp.where(total > 0, total, 1), 1)
        return Linear(found.T, first + base - mean @ found, r2)


def _check_fill(argument: str, value: object) -> float | str:
    if value == "mean" and isinstance(value, str):
        return value
    if isinstance(value, str):
        raise ValueError(
            f"`{argument}` must be 'mean', or a raw value such as 0 for black, got {value!r}"
        )
    return number(argument, value)
