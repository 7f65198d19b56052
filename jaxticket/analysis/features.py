"""Features: what layers give for examples, by class, and how alike they are between networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxticket import _show, results
from jaxticket._check import number, one_of, or_none, text, whole
from jaxticket.analysis.gathering import gathered
from jaxticket.analysis.measuring import in_memory, selected
from jaxticket.analysis.probes._linear import Activations, check_tap, linear_cka
from jaxticket.controls import Change
from jaxticket.labels import living
from jaxticket.nn.activations import PENULTIMATE
from jaxticket.problem import Problem, batched
from jaxticket.runs import Runs
from jaxticket.settings import static_part

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("pca", "tsne")


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a layer of several networks gives for the same examples.

    Attributes:
      values: float32 [network, example, unit]; nan for networks that diverged.
      networks: of each network: seed, level, branch.
      labels: int32 [example], or as data have them.
      tap: name of the layer.
    """

    values: np.ndarray
    networks: tuple[tuple[int, int, str], ...]
    labels: np.ndarray
    tap: str

    __repr__ = _show.record

    def projected(
        self, way: str = "pca", *, perplexity: float = 30.0, seed: int = 0
    ) -> pd.DataFrame:
        """Project the features of each network to two dimensions.

        Args:
          way: "pca" for the two principal components, or "tsne", which keeps neighbors together.
          perplexity: of "tsne", about how many neighbors; below the number of examples.
          seed: of "tsne".

        Returns:
          Tidy table, one row per example: seed, level, branch, example, label, x, y. Networks that
          diverged are left out.

        Raises:
          ValueError: for another way, a perplexity that is too high, and fewer than two units.

        Reference: van der Maaten and Hinton (2008); scikit-learn's PCA and TSNE; KD-LTS, figures 19
          and 26.
        """
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        one_of("way", way, WAYS)
        if min(self.values.shape[1:]) < 2:
            raise ValueError(
                f"`features` have the shape {self.values.shape[1:]} [example, unit], which two "
                f"dimensions cannot be made of; pass more examples, or another `tap`"
            )
        perplexity = number("perplexity", perplexity, 0, above=True)
        if way == "tsne" and perplexity >= self.values.shape[1]:
            raise ValueError(
                f"`perplexity` must be below the number of examples, {self.values.shape[1]}, got "
                f"{perplexity:g}"
            )
        parts = []
        for (own, level, branch), x in zip(self.networks, self.values, strict=True):
            if not np.isfinite(x).all():
                continue
            if way == "pca":
                places = PCA(2, svd_solver="full").fit_transform(x)
            else:
                places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
            rows = results.spread(
                places[:, 0], {"example": np.arange(len(x)), "label": list(self.labels)}
            )
            rows = rows.rename(columns={"value": "x"}).assign(y=places[:, 1].astype(float))
            rows = rows.assign(seed=own, level=level, branch=branch)
            parts.append(rows[["seed", "level", "branch", "example", "label", "x", "y"]])
        if not parts:
            raise ValueError("`features` are those of networks that all diverged")
        return results.concat(parts)

    def similarity(self) -> pd.DataFrame:
        """Compare all pairs of networks by linear CKA, in [0, 1]; nan where one diverged.

        `||Y' X||^2 / (||X' X|| ||Y' Y||)` of features X and Y whose means over examples are taken
        off: 1 for features that are equal but for a rotation and a scale.

        Returns:
          Tidy table, one row per pair: seed, level, branch, other_seed, other_level, other_branch,
          value.

        Reference: Kornblith et al., "Similarity of neural network representations revisited"
          (2019).
        """
        rows = []
        for (seed, level, branch), x in zip(self.networks, self.values, strict=True):
            for (other_seed, other_level, other), y in zip(self.networks, self.values, strict=True):
                rows.append({
                    "seed": seed, "level": level, "branch": branch, "other_seed": other_seed,
                    "other_level": other_level, "other_branch": other, "value": linear_cka(x, y),
                })  # fmt: skip
        return results.frame(rows)


def features(
    runs: Runs,
    tap: str = PENULTIMATE,
    *,
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = ("ticket",),
    seeds: Sequence[int] | None = None,
    examples: int | None = 500,
    split: str = "test",
    weights: str = "trained",
) -> Features:
    """Compute what a layer gives for examples, for all replicas of a level in one program.

    Args:
      runs: what `find_tickets`, `prune_at`, `search`, `branch` or `transfer` returned.
      tap: the layer: "penultimate" for what the output layer is given (networks of Linen and NNX),
        "logits", the name of a tap, or of networks without taps the path of a module. Maps are
        flattened.
      levels: which levels; all if None.
      branches: as of `jt.measure`.
      seeds: which seeds; all if None.
      examples: at most so many examples of the split, evenly spread over it; None for all.
      split: "train", "validation" or "test".
      weights: "trained" for the networks after training, which keep="trained" keeps; "start" for
        tickets as they start.

    Returns:
      The features, their labels, and of which network they are.

    Raises:
      ValueError: for levels, seeds, branches and splits that there are not, data streams, an
        unknown tap, and networks that were not kept.

    Examples:
      >>> import jaxticket as jt
      >>> data = jt.data.load("digits")
      >>> net = jt.networks.lenet(data.shape, data.classes, widths=(4,))
      >>> runs = jt.find_tickets(net, data, jt.Training(steps=2), jt.Pruning(levels=1), seeds=(0,),
      ...     keep="trained", progress=False)
      >>> jt.features(runs, levels=(1,), examples=50).values.shape
      (1, 50, 4)
    """
    selection = selected(runs, levels=levels, branches=branches, seeds=seeds, weights=weights)
    found, by = batched(
        in_memory(runs), split, examples=or_none(whole)("examples", examples, low=1)
    )
    problem = Problem(runs.net, found, static_part(runs.training), by)
    check_tap(problem, runs.net, text("tap", tap))
    seen, networks = gathered(runs, Activations(tap), problem, selection)
    there = living(found.y, 2).reshape(-1)
    labels = np.asarray(found.y).reshape(-1, *found.y.shape[2:])[there]
    return Features(seen["features"][:, there], networks, labels, tap)
