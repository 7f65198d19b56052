"""Explanations: which parts of an image speak for and against the answers of networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _show, results
from jaxticket._check import instance, one_of, or_none, whole
from jaxticket.analysis.gathering import gathered
from jaxticket.analysis.lime import LIME
from jaxticket.analysis.measuring import in_memory, selected
from jaxticket.analysis.probes._explanations import (
    Weights,
    check_explainable,
    raw_images,
    with_segments,
)
from jaxticket.controls import Change
from jaxticket.data.alike import white
from jaxticket.data.arrays import Data, Split
from jaxticket.labels import living
from jaxticket.problem import Problem, batched
from jaxticket.runs import Runs
from jaxticket.settings import static_part

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Linear models of what several networks answer around the same images.

    Attributes:
      weights: float32 [network, image, class, segment], how much each segment speaks for a class
        where it is above 0, against it where it is below; nan for networks that diverged, 0 for
        segments that an image has not.
      intercept: float32 [network, image, class].
      r2: float32 [network, image, class], the share of the weighted variance of the answers around
        an image that the model explains.
      fidelity: float32 [network, image, class], the mean squared error of the model over all
        perturbed images.
      answers: float32 [network, image, class], what the networks answer to the images.
      segments: int32 [image, height, width], which segment a pixel is of.
      images: [image, height, width, channels], raw values.
      labels: int32 [image]; None for images that were passed.
      networks: of each network: seed, level, branch.
    """

    weights: np.ndarray
    intercept: np.ndarray
    r2: np.ndarray
    fidelity: np.ndarray
    answers: np.ndarray
    segments: np.ndarray
    images: np.ndarray
    labels: np.ndarray | None
    networks: tuple[tuple[int, int, str], ...]

    __repr__ = _show.record

    def network(
        self, *, branch: str | None = None, level: int | None = None, seed: int | None = None
    ) -> int:
        """Find the place of a network along the first axis of all arrays.

        Args:
          branch: the first if None.
          level: the sparsest of the branch if None.
          seed: the first if None.

        Raises:
          ValueError: where there is no such network.
        """
        places = list(range(len(self.networks)))
        for name, at, value in (("branch", 2, branch), ("level", 1, level), ("seed", 0, seed)):
            known = list(dict.fromkeys(self.networks[place][at] for place in places))
            if value is not None and value not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {value!r}")
            usual = max(self.networks[place][1] for place in places) if at == 1 else known[0]
            wanted = usual if value is None else value
            places = [place for place in places if self.networks[place][at] == wanted]
        return places[0]

    def by_pixel(
        self,
        image: int,
        answer: int,
        *,
        branch: str | None = None,
        level: int | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Give the weight of each pixel's segment, float32 [height, width].

        Args:
          image: place of the image.
          answer: the class.
          branch, level, seed: the network, as of `network`.

        Raises:
          ValueError: for images, classes and networks that there are not.
        """
        count, classes = self.weights.shape[1:3]
        own = self.weights[
            self.network(branch=branch, level=level, seed=seed),
            whole("image", image, high=count - 1),
            whole("answer", answer, high=classes - 1),
        ]
        return own[self.segments[image]]

    def table(self) -> pd.DataFrame:
        """Give the weights as a tidy table.

        Returns:
          One row per weight: seed, level, branch, image, answer, segment, value. Rows of segments
          that an image has not are left out.
        """
        _, images, classes, count = self.weights.shape
        rows = results.spread(
            self.weights,
            dict(zip(("seed", "level", "branch"), zip(*self.networks, strict=True), strict=True)),
            {"image": np.arange(images)},
            {"answer": np.arange(classes)},
            {"segment": np.arange(count)},
        )
        counts = self.segments.reshape(images, -1).max(axis=1) + 1
        there = rows["segment"].to_numpy() < counts[rows["image"].to_numpy()]
        return rows.loc[there].reset_index(drop=True)


def explain(
    runs: Runs,
    x: ArrayLike | None = None,
    *,
    lime: LIME = LIME(),  # noqa: B008  frozen
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = ("ticket",),
    seeds: Sequence[int] | None = None,
    examples: int | None = 10,
    split: str = "test",
    weights: str = "trained",
) -> Explanation:
    """Explain what networks answer to images by the segments of the images (LIME).

    All perturbations of an image are one batch, and all replicas of a level one compiled program.
    Random numbers are those of the seed and the image's place: the same segments are off for all
    levels and branches.

    Args:
      runs: what `find_tickets`, `prune_at`, `search`, `branch` or `transfer` returned.
      x: images as the data hold them, raw values [image, height, width, channels], or one of them;
        None for examples of the data.
      lime: segments, perturbations and regression.
      levels: which levels; all if None.
      branches: as of `jt.measure`.
      seeds: which seeds; all if None.
      examples: of the data, at most so many examples of the split, evenly spread over it; None for
        all.
      split: "train", "validation" or "test".
      weights: "trained" for the networks after training, which keep="trained" keeps; "start" for
        tickets as they start.

    Returns:
      The weights of all segments for all classes, how well they fit, and the segments.

    Raises:
      ValueError: for levels, seeds, branches and splits that there are not, data that are not
        images with one class each, images of another shape or type, and networks that were not
        kept.

    Examples:
      >>> import jaxticket as jt
      >>> data = jt.data.load("digits")
      >>> net = jt.networks.lenet(data.shape, data.classes, widths=(4,))
      >>> runs = jt.find_tickets(net, data, jt.Training(steps=2), jt.Pruning(levels=1), seeds=(0,),
      ...     keep="trained", progress=False)
      >>> lime = jt.LIME(segments=2, samples=50)
      >>> found = jt.explain(runs, lime=lime, levels=(1,), examples=3)
      >>> found.weights.shape  # network, image, class, segment
      (1, 3, 10, 16)

    Reference: Ribeiro et al., "Why should I trust you?" (2016); KD-LTS, appendix C.
    """
    selection = selected(runs, levels=levels, branches=branches, seeds=seeds, weights=weights)
    instance("lime", lime, LIME, "a jt.LIME, such as jt.LIME(segments=2)")
    data = in_memory(runs)
    check_explainable("runs", data)
    examples = or_none(whole)("examples", examples, low=1)
    split = one_of("split", split, tuple(data.splits))
    if x is not None:
        images = _as_data(x, data)
        passed = Split(images, np.zeros(len(images), np.int32))
        data, split, examples = dataclasses.replace(data, more={"passed": passed}), "passed", None
    found, by = batched(data, split, examples=examples)
    raw = raw_images(data, split, examples)
    more = with_segments(lime, raw, white(data))
    problem = Problem(runs.net, found, static_part(runs.training), by, more=more)
    seen, networks = gathered(runs, Weights(lime), problem, selection)
    y = np.asarray(raw.y).reshape(-1)
    there = living(y)
    segments, images = (
        np.asarray(v).reshape(-1, *v.shape[2:])[there] for v in (more["segments"].x, raw.x)
    )
    kept = {name: v[:, there] for name, v in seen.items()}
    labels = y[there] if x is None else None
    return Explanation(
        **kept, segments=segments, images=images, labels=labels, networks=networks
    )  # fmt: skip


def _as_data(x: ArrayLike, data: Data) -> np.ndarray:
    """Images of the user's in the type of the data, [image, height, width, channels]."""
    given, kind = np.asarray(x), data.train.x.dtype
    if given.shape == data.shape:
        given = given[None]
    if given.shape[1:] != data.shape or not len(given):
        raise ValueError(
            f"`x` must be images of the shape {data.shape}, as {data.name!r} has them, or one of "
            f"them, got the shape {np.asarray(x).shape}"
        )
    made = given.astype(kind)
    if np.issubdtype(kind, np.integer) and not (made == given).all():
        raise ValueError(
            f"`x` must hold raw values of {kind}, as {data.name!r} has them, from 0 to "
            f"{white(data):g}; got {given.dtype} from {given.min():g} to {given.max():g}, which "
            f"are not: leave images as they were before they were scaled"
        )
    if not np.isfinite(made).all():
        raise ValueError("`x` must be finite; replace what is missing in the images")
    return made
