"""Error and loss along lines, piecewise linear paths and planes through trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _show, _tree, results
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
      alphas: float64 [point], from 0 to the number of segments; integers are the networks.
      values: float32 [point, split, metric]: loss, accuracy (nan where labels are numbers), and the
        further metrics of the training.
      splits: names of the splits.
    """

    alphas: np.ndarray
    values: np.ndarray
    splits: tuple[str, ...]

    __repr__ = _show.record

    def errors(self, split: str = "test") -> np.ndarray:
        """Give the error at each point, in [0, 1].

        Raises:
          ValueError: where labels are numbers, which are neither right nor wrong.
        """
        if not _answered(self.values):
            raise ValueError(
                "`errors` are those of answers that are right or wrong, and labels are numbers; "
                "use losses(), or values[..., 2] for the first of Training(metrics=('r2',))"
            )
        return 1 - self._values(split, _ACCURACY)

    def losses(self, split: str = "test") -> np.ndarray:
        """Give the mean loss at each point."""
        return self._values(split, _LOSS)

    def _values(self, split: str, metric: int) -> np.ndarray:
        one_of("split", split, self.splits)
        return self.values[:, self.splits.index(split), metric].astype(np.float64)

    def barrier(self, split: str = "test", metric: str = "error") -> float:
        """Compute the barrier `max E(alpha) - (E(first) + E(last)) / 2`, which is at least 0."""
        one_of("metric", metric, ("error", "loss"))
        return float(barrier(self.errors(split) if metric == "error" else self.losses(split)))

    def table(self) -> pd.DataFrame:
        """Give a tidy table: alpha, split, metric ("error", not of numbers, "loss"), value."""
        return _tidy(self.values, self.splits, {"alpha": self.alphas}, ["alpha"])


class Plane(NamedTuple):
    """Evaluations on a plane through three networks.

    Coordinates are distances: x runs from the first to the second network, y orthogonal to it.

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

    __repr__ = _show.record

    def table(self) -> pd.DataFrame:
        """Give a tidy table: x, y, split, metric ("error", not of numbers, "loss"), value."""
        return _tidy(self.values, self.splits, {"y": self.y, "x": self.x}, ["x", "y"])


def _tidy(
    values: np.ndarray,
    splits: tuple[str, ...],
    coordinates: Mapping[str, np.ndarray],
    columns: Sequence[str],
) -> pd.DataFrame:
    """Make a table of errors and losses from an array [*coordinates, split, metric]."""
    values = np.asarray(values, np.float64)
    measures = {"error": 1 - values[..., _ACCURACY], "loss": values[..., _LOSS]}
    if not _answered(values):
        del measures["error"]
    found = np.moveaxis(np.stack(list(measures.values())), -1, 0)
    axes = ({name: places} for name, places in coordinates.items())
    table = results.spread(found, {"split": splits}, {"metric": tuple(measures)}, *axes)
    return table.reindex(columns=[*columns, "split", "metric", "value"])


def _answered(values: np.ndarray) -> bool:
    """Whether answers are right or wrong: the accuracy of numbers alone is nan at finite losses."""
    lost = np.isnan(values[..., _ACCURACY]) & np.isfinite(values[..., _LOSS])
    return not lost.any()


def barrier(values: np.ndarray) -> np.ndarray:
    """Compute `max over points - mean of the two ends` along the last axis; nan if a point is nan.

    It is at least `|first - last| / 2`, even where all intermediate points are better, since the
    ends are among the points.

    Reference: Frankle's thesis, section 4.1.1 (error barrier height).
    """
    values = np.asarray(values, np.float64)
    return values.max(axis=-1) - (values[..., 0] + values[..., -1]) / 2


def stacked(networks: Sequence[tuple[Params, Stats]]) -> Networks:
    """Stack (params, stats) of several networks on the host; every leaf gets an axis [network].

    Raises:
      ValueError: if they differ in structure or shapes.
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
            "`evaluator` must be of the same `net`, `data` and `training`, and replaces `mesh` "
            "and `at_once`; pass either it or them"
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
    """Evaluate the line between two networks, or a piecewise linear path through more.

    `theta(alpha) = theta_1 + alpha * (theta_2 - theta_1)`, exactly theta_1 at 0 and theta_2 at 1.
    Weights that are 0 in both are 0 everywhere on the line.

    Args:
      net: the network.
      data: the data to evaluate on.
      training: kind of evaluation: batch size, training examples, precision.
      networks: (params, stats) of each network, masked.
      points: evenly spaced points of every segment, both ends included.
      statistics: BatchNorm statistics: "interpolated" like the weights (as in the sources), or
        "recomputed" at every point on the evaluated training examples, without augmentation, as
        an average over batches.
      mesh: devices; points are spread over its seed axis.
      at_once: points that one device evaluates together.
      evaluator: an existing evaluator of the same network, data and training, to reuse.

    Returns:
      The path; alpha runs from 0 to the number of segments.

    Raises:
      ValueError: for networks of different shapes, fewer than two networks or three points, and
        statistics that cannot be recomputed.

    Reference: Frankle's thesis, section 4.1.1, with 30 points.
    """
    instance("networks", networks, Sequence, "a list of (params, stats)")
    if len(networks) < 2:
        raise ValueError(f"`networks` must be at least two, got {len(networks)}")
    points = whole("points", points, 3)
    one_of("statistics", statistics, STATISTICS)
    run = _evaluator(evaluator, net, data, training, mesh, at_once)
    segments = len(networks) - 1
    # the end of a segment is the beginning of the next
    segment = np.append(np.repeat(np.arange(segments), points - 1), segments - 1)
    weight = np.append(np.tile(np.linspace(0, 1, points)[:-1], segments), 1.0)
    values = run.points(
        stacked(networks),
        np.stack([segment, segment + 1], axis=1),
        np.stack([1 - weight, weight], axis=1),
        recomputed=statistics != "interpolated",
    )
    return Path(segment + weight, values, run.splits)


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
    """Evaluate a grid in the plane through three networks.

    With u = theta_2 - theta_1 and v = the component of theta_3 - theta_1 orthogonal to u, a point
    is `theta_1 + x * u / ||u|| + y * v / ||v||`.

    Args:
      net: the network.
      data: the data to evaluate on.
      training: kind of evaluation: batch size, training examples, precision.
      networks: (params, stats) of three networks, such as initialization, copy 1 and copy 2.
      points: points of the grid along each axis.
      margin: how far the grid extends beyond the networks, as a fraction of their extent.
      statistics: "interpolated" or "recomputed" BatchNorm statistics, see `line`.
      mesh: devices; points are spread over its seed axis.
      at_once: points that one device evaluates together.
      evaluator: an existing evaluator of the same network, data and training, to reuse.

    Returns:
      The plane, with the coordinates of the networks.

    Raises:
      ValueError: unless there are three networks, which do not lie on one line.

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
