"""Error and loss along lines, bent lines and planes through trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, results
from jaxticket._check import instance, number, one_of, whole
from jaxticket.connectivity.evaluator import Evaluator, Networks
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.metrics import METRICS
from jaxticket.settings import Training
from jaxticket.typing import Network, Params, Stats

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("interpolated", "recomputed")
_LOSS, _ACCURACY = METRICS.index("loss"), METRICS.index("accuracy")


class Path(NamedTuple):
    """Evaluations along a path.

    Attributes:
      alphas: float64 [point], from 0 to the number of segments; whole numbers are the networks.
      values: float32 [point, split, metric], loss and accuracy.
      splits: names of the splits.
    """

    alphas: np.ndarray
    values: np.ndarray
    splits: tuple[str, ...]

    def errors(self, split: str = "test") -> np.ndarray:
        """Error at each point, in [0, 1]."""
        return 1 - self._values(split, _ACCURACY)

    def losses(self, split: str = "test") -> np.ndarray:
        """Mean loss at each point."""
        return self._values(split, _LOSS)

    def _values(self, split: str, metric: int) -> np.ndarray:
        one_of("split", split, self.splits)
        return self.values[:, self.splits.index(split), metric].astype(np.float64)

    def barrier(self, split: str = "test", metric: str = "error") -> float:
        """`max E(alpha) - (E(first) + E(last)) / 2`, at least 0: the ends are on the path."""
        one_of("metric", metric, ("error", "loss"))
        return float(barrier(self.errors(split) if metric == "error" else self.losses(split)))

    def table(self) -> pd.DataFrame:
        """Tidy: alpha, split, metric ("error", "loss"), value."""
        rows = []
        for split in self.splits:
            for metric, values in (("error", self.errors(split)), ("loss", self.losses(split))):
                for alpha, value in zip(self.alphas, values, strict=True):
                    rows.append({"alpha": alpha, "split": split, "metric": metric, "value": value})
        return results.frame(rows)


class Plane(NamedTuple):
    """Evaluations on a plane through three networks.

    Coordinates are distances: x runs from the first to the second network, y at a right angle to
    it.

    Attributes:
      x, y: float64 [column], [row].
      values: float32 [row, column, split, metric].
      splits: names of the splits.
      corners: coordinates of the three networks.
    """

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    splits: tuple[str, ...]
    corners: np.ndarray

    def table(self) -> pd.DataFrame:
        """Tidy: x, y, split, metric ("error", "loss"), value."""
        parts = []
        for s, split in enumerate(self.splits):
            for metric, of in (("error", _ACCURACY), ("loss", _LOSS)):
                found = self.values[:, :, s, of].astype(np.float64)
                found = 1 - found if metric == "error" else found
                for row, y in enumerate(self.y):
                    for column, x in enumerate(self.x):
                        value = found[row, column]
                        parts.append(
                            {"x": x, "y": y, "split": split, "metric": metric, "value": value}
                        )
        return results.frame(parts)


def barrier(values: np.ndarray) -> np.ndarray:
    """`max over points - mean of the two ends`, along the last axis; nan where a point is nan.

    It is at least `|first - last| / 2`, since the ends are among the points, also where all between
    them is better.

    Reference: Frankle's thesis, section 4.1.1 (error barrier height).
    """
    values = np.asarray(values, np.float64)
    return values.max(axis=-1) - (values[..., 0] + values[..., -1]) / 2


def stacked(networks: Sequence[tuple[Params, Stats]]) -> Networks:
    """(params, stats) of several networks on the host, each leaf with a leading axis [network].

    Raises:
      ValueError: where they differ in tree or shapes.
    """
    for place, network in enumerate(networks):
        if not (isinstance(network, tuple) and len(network) == 2):
            raise ValueError(
                f"`networks`[{place}] must be (params, stats), got {type(network).__name__}"
            )
        for tree, like in zip(network, networks[0], strict=True):
            _tree.same_structure(f"networks[{place}]", tree, like)
    return jax.tree.map(lambda *xs: np.stack([np.asarray(x) for x in xs]), *networks)


def _evaluator(
    given: Evaluator | None,
    net: Network,
    data: Data | Stream,
    training: Training,
    mesh: Mesh | None,
    at_once: int | None,
) -> Evaluator:
    if given is None:
        return Evaluator(net, data, training, mesh, at_once=at_once)
    same = given.net == net and given.fingerprint == data.fingerprint and given.training == training
    if not same or mesh is not None or at_once is not None:
        raise ValueError(
            "`evaluator` must be of the same `net`, `data` and `training`, and takes the place of "
            "`mesh` and `at_once`; leave it out for others"
        )
    return given


def line(
    net: Network,
    data: Data | Stream,
    training: Training,
    networks: Sequence[tuple[Params, Stats]],
    *,
    points: int = 30,
    statistics: str = "interpolated",
    mesh: Mesh | None = None,
    at_once: int | None = None,
    evaluator: Evaluator | None = None,
) -> Path:
    """Loss and error on the straight line between two networks, or on a bent one through more.

    `theta(alpha) = theta_1 + alpha * (theta_2 - theta_1)`, exactly theta_1 at 0 and theta_2 at 1.
    Weights that are 0 in both are 0 on all of the line.

    Args:
      net, data: the network and what it is evaluated on.
      training: kind of evaluation: batch size, training examples, precision.
      networks: (params, stats) of each network, masked.
      points: evenly spaced points of every segment, both ends included.
      statistics: of BatchNorm: "interpolated" like the weights (as the sources do), or
        "recomputed" at every point on the training examples that are evaluated, without
        augmentation, as an average over batches.
      mesh: devices; points are spread over all of its seed axis.
      at_once: points that one device evaluates together.
      evaluator: one of the same network, data and training that is there already.

    Returns:
      The path; alpha runs to the number of segments.

    Raises:
      ValueError: for networks of other shapes, fewer than two networks or three points, statistics
        that cannot be recomputed.

    Reference: Frankle's thesis, section 4.1.1, with 30 points.
    """
    instance("networks", networks, Sequence, "a list of (params, stats)")
    if len(networks) < 2:
        raise ValueError(f"`networks` must be at least two, got {len(networks)}")
    points = whole("points", points, 3)
    one_of("statistics", statistics, STATISTICS)
    run = _evaluator(evaluator, net, data, training, mesh, at_once)
    alphas = np.linspace(0, 1, points)
    segments = range(len(networks) - 1)
    index = np.concatenate([np.broadcast_to([[i, i + 1]], (points - 1, 2)) for i in segments])
    weight = np.concatenate([alphas[:-1] for _ in segments] + [np.ones(1)])
    index = np.concatenate([index, index[-1:]])
    along = np.concatenate([i + alphas[:-1] for i in segments] + [[float(len(segments))]])
    values = run.points(
        stacked(networks),
        index,
        np.stack([1 - weight, weight], 1),
        recomputed=statistics != "interpolated",
    )
    return Path(along, values, run.splits)


def plane(
    net: Network,
    data: Data | Stream,
    training: Training,
    networks: Sequence[tuple[Params, Stats]],
    *,
    points: int = 25,
    margin: float = 0.2,
    statistics: str = "interpolated",
    mesh: Mesh | None = None,
    at_once: int | None = None,
    evaluator: Evaluator | None = None,
) -> Plane:
    """Loss and error on a grid in the plane through three networks.

    With u = theta_2 - theta_1 and v = the part of theta_3 - theta_1 at a right angle to u, a point
    is `theta_1 + x * u / ||u|| + y * v / ||v||`.

    Args:
      networks: three of them, (params, stats) each, such as initialization, copy 1 and copy 2.
      points: of the grid along each axis.
      margin: how far the grid reaches beyond the networks, as a share of their extent.
      net, data, training, statistics, mesh, at_once, evaluator: as for `line`.

    Returns:
      The plane, with the coordinates of the networks.

    Raises:
      ValueError: for other than three networks, or three that lie on one line.

    Reference: Garipov et al. 2018, Fig. 1 (planes through three networks).
    """
    instance("networks", networks, Sequence, "a list of three (params, stats)")
    if len(networks) != 3:
        raise ValueError(f"`networks` must be three, got {len(networks)}")
    points = whole("points", points, 2)
    margin = number("margin", margin, 0)
    one_of("statistics", statistics, STATISTICS)
    run = _evaluator(evaluator, net, data, training, mesh, at_once)
    stack = stacked(networks)
    u, v = (
        np.concatenate(
            [np.ravel(x[i].astype(np.float64) - x[0]) for x in jax.tree.leaves(stack[0])]
        )
        for i in (1, 2)
    )
    width = float(np.linalg.norm(u))
    across = float(u @ v) / width if width else 0.0
    height = float(np.linalg.norm(v - across * u / width)) if width else 0.0
    if not height > 1e-6 * max(width, abs(across)):
        raise ValueError("`networks` lie on one line; a plane needs three that do not")
    corners = np.asarray([[0, 0], [width, 0], [across, height]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    room = margin * (high - low)
    x, y = (np.linspace(low[i] - room[i], high[i] + room[i], points) for i in range(2))
    grid_x, grid_y = np.meshgrid(x, y)
    third = grid_y.ravel() / height
    second = (grid_x.ravel() - third * across) / width
    weight = np.stack([1 - second - third, second, third], axis=1)
    index = np.broadcast_to(np.arange(3), weight.shape)
    values = run.points(stack, index, weight, recomputed=statistics != "interpolated")
    return Plane(x, y, values.reshape(points, points, *values.shape[1:]), run.splits, corners)
