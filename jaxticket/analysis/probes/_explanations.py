"""How faithful and how stable linear explanations of a network are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _show
from jaxticket._check import one_of, settle, whole
from jaxticket.analysis.lime import LIME
from jaxticket.analysis.segments import segmented
from jaxticket.data.alike import white
from jaxticket.data.arrays import Data
from jaxticket.engine.metrics import Batched, cut
from jaxticket.labels import living
from jaxticket.problem import Problem
from jaxticket.ticket import Ticket
from jaxticket.typing import Key

EXPLAINED = ("likely", "label")


def check_explainable(argument: str, data: Data) -> None:
    """Raise where data are not images with one class each."""
    if data.tokens or len(data.shape) != 3:
        raise ValueError(
            f"`{argument}` explains images [height, width, channels] by their segments, and the "
            f"examples of {data.name!r} are {'tokens' if data.tokens else 'arrays'} of the shape "
            f"{data.shape}; use data that are images"
        )
    if data.labels.kind != "classes":
        raise ValueError(
            f"`{argument}` explains the answers of classes, and the labels of {data.name!r} are of "
            f"kind {data.labels.kind!r}; use data whose labels are classes"
        )


def raw_images(data: Data, split: str, examples: int | None) -> Batched:
    """Raw images in batches as `batched` gives them normalized, with its arguments."""
    own = data.splits[split]
    return cut({split: (own.x, own.y)}, 250, most={split: examples})


def with_segments(lime: LIME, found: Batched, light: float) -> dict[str, Batched]:
    """The segments of images, in the same batches.

    Args:
      lime: how images are cut.
      found: raw images.
      light: the raw value of white.

    Returns:
      "segments", whole numbers [batches, size, height, width], and "present", bool
      [batches, size, segment]: the numbers that occur in an image.
    """
    images, y = np.asarray(found.x), np.asarray(found.y).reshape(-1)
    maps = segmented(images.reshape(-1, *images.shape[2:]), lime.segments, light)
    last = maps.reshape(len(maps), -1).max(axis=1)
    present = np.arange(last.max() + 1) <= last[:, None]
    return {
        name: cut({name: (x, y)}, images.shape[1], most={})
        for name, x in (("segments", maps), ("present", present))
    }


def flat_images(problem: Problem) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The images of a problem, their numbers, segments, and which segments there are; [image, ...].

    Raises:
      ValueError: for a problem without segments.
    """
    if problem.more is None:
        raise ValueError("`problem` has no segments; use jt.measure")
    x, segments, present = (
        jnp.asarray(v).reshape(-1, *v.shape[2:])
        for v in (problem.batches.x, problem.more["segments"].x, problem.more["present"].x)
    )
    return x, jnp.arange(x.shape[0], dtype=jnp.uint32), segments, present


@dataclasses.dataclass(frozen=True)
class Explanations(LIME):
    """How faithful and how stable linear explanations (LIME) of a network are.

    Of each image x the answer that is explained is one class; f is its probability, N_x the
    perturbed images, and g_x the linear model with the weights e(x). The explanation of x' in N_x
    is fitted to the same N_x, with the distances from x' in place of those from x. Both numbers are
    lower for better explanations, and 0 for a network whose answers never change. One image after
    another is explained, of all replicas at once, with as many passes as there are samples: with
    large networks, measure few `examples`.

    Attributes:
      segments, samples, fill, width, ridge, of: as of `jt.LIME`.
      distance: as of `jt.LIME`; "hamming" as in KD-LTS.
      points: perturbed images x' of each image whose explanations are compared with that of x.
      answer: the class: "likely" for the one that the network finds most likely, or "label".

    Returns (when called, see `jaxticket.analysis.probes`):
      "fidelity", the mean of `|g_x(x') - f(x')|^2` over N_x and images; "stability", the mean of
      `||e(x) - e(x')||^2` over x' and images; and "r2", the mean share of the weighted variance
      of f that g_x explains, which is higher for better explanations.

    Examples:
      >>> import jaxticket as jt
      >>> jt.probes.Explanations(segments=2, samples=200)
      Explanations(segments=2, samples=200)

    Reference: Ribeiro et al. (2016); Plumb et al. (2020); Ghorbani et al. (2019); KD-LTS, appendix
      C.3.
    """

    distance: str = "hamming"
    points: int = 10
    answer: str = "likely"

    __repr__ = _show.code

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "points", low=1)
        settle(self, one_of, "answer", choices=EXPLAINED)
        if self.points >= self.samples:
            raise ValueError(
                f"`points` must be below `samples`, {self.samples}, of which they are some, got "
                f"{self.points}"
            )

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """The segments of the images."""
        check_explainable("probe", data)
        return with_segments(self, raw_images(data, split, examples), white(data))

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Measure the explanations of a ticket's answers."""
        images = flat_images(problem)
        y = jnp.asarray(problem.batches.y).reshape(-1)

        def one(
            of: tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array],
        ) -> dict[str, jax.Array]:
            x, number, segments, present, label = of
            own = jax.random.fold_in(key, number)
            near = self.neighborhood(
                problem, ticket.params, ticket.stats, x, segments, present, key=own
            )
            likely = jnp.argmax(near.answers[0]).astype(label.dtype)
            which = likely if self.answer == "likely" else jnp.maximum(label, 0)
            near = near._replace(answers=jnp.take(near.answers, which, axis=1)[:, None])
            # one after another: a LAPACK call for several matrices (jaxlib 0.10) waits for the
            # threads that it runs on, and never ends where each device of a CPU makes one
            around = jax.lax.map(lambda z: self.fit(near, z), near.z[: self.points + 1])
            model = jax.tree.map(lambda v: v[0], around)
            moved = jnp.sum((around.weights[1:] - around.weights[:1]) ** 2, axis=(1, 2))
            return {
                "fidelity": jnp.mean((model.at(near.z) - near.answers) ** 2),
                "stability": jnp.mean(moved),
                "r2": model.r2[0],
            }

        found, there = jax.lax.map(one, (*images, y)), living(y)
        count = jnp.maximum(jnp.sum(there), 1)
        return {
            name: jnp.sum(jnp.where(there, v, 0)) / count.astype(v.dtype)
            for name, v in found.items()
        }


@dataclasses.dataclass(frozen=True)
class Weights:
    """The linear models of all answers around each image, those that fill batches up included.

    Attributes:
      lime: how they are made.
    """

    lime: LIME

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Explain the answers of a ticket: "weights", "intercept", "r2", "fidelity", "answers"."""

        def one(of: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
            x, number, segments, present = of
            own = jax.random.fold_in(key, number)
            near = self.lime.neighborhood(
                problem, ticket.params, ticket.stats, x, segments, present, key=own
            )
            model = self.lime.fit(near, near.z[0])
            return {
                **model._asdict(),
                "fidelity": jnp.mean((model.at(near.z) - near.answers) ** 2, axis=0),
                "answers": near.answers[0],
            }

        return jax.lax.map(one, flat_images(problem))
