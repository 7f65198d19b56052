"""Loss surfaces around networks, and the planes that their trainings moved in."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from jaxticket import _identity, _tree, masks, results
from jaxticket._check import chosen, number, one_of, or_none, whole
from jaxticket.analysis.directions import principal, random_directions
from jaxticket.analysis.measuring import changes_of, diverged_at, selected
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.connectivity.paths import stacked
from jaxticket.controls import Change
from jaxticket.data.arrays import Data, Split
from jaxticket.data.streaming import Stream
from jaxticket.engine.loop import Arrays
from jaxticket.engine.metrics import metric_names
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.random import root_keys
from jaxticket.runs import Runs, density, require_runs
from jaxticket.settings import Training
from jaxticket.ticket import Ticket
from jaxticket.typing import Params, Stats

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ("kept", "recomputed")
COLUMNS = ("seed", "level", "density", "branch", "x", "y", "split", "metric", "value", "diverged")


def surface(
    runs: Runs,
    *,
    levels: Sequence[int] | None = None,
    branches: Sequence[str | Change] = ("ticket",),
    seeds: Sequence[int] | None = None,
    points: int = 51,
    extent: float = 1.0,
    directions: int = 2,
    draw: int = 0,
    weights: str = "trained",
    statistics: str = "kept",
    examples: int | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Evaluate networks on a grid `theta + x * d1 + y * d2` along random directions.

    The directions are filter-normalized: `d_f <- d_f / ||d_f|| * ||theta_f||` for the kept weights
    f of each output unit of each kernel; pruned weights, biases and BatchNorm do not move. Their
    random numbers are those of the seed, the same for all levels, branches, and other runs with
    that seed, which are so compared along the same directions. Points are evaluated as networks are
    during training, on the same examples: at (0, 0) stand the numbers of `runs.table()`.

    All points of all networks are evaluated by one compiled program, spread over the devices.

    Args:
      runs: what `find_tickets`, `prune_at`, `search`, `branch` or `transfer` returned.
      levels: which levels; all if None.
      branches: "ticket" for the tickets of `runs`, and names of branches: with weights="trained"
        those that were trained, with "start" controls in `jt.BRANCHES` too.
      seeds: which seeds; all if None.
      points: points of the grid along each axis, an odd number, so that the network is one of them.
      extent: the grid reaches from -extent to extent.
      directions: 2 for a surface, 1 for a cut along the first direction (y is 0).
      draw: number of the random pair of directions of each seed.
      weights: "trained" for the networks after training, which keep="trained" keeps; "start" for
        tickets as they start.
      statistics: BatchNorm statistics: "kept" as they are, or "recomputed" at every point on the
        evaluated training examples, without augmentation, as an average over batches.
      examples: at most so many examples of each split, evenly spread over it; None for all that
        evaluations look at.
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      folder: where to save; a folder below that of `runs` if None, where it has one. What is there
        is not computed again.
      at_once: points that one device evaluates together, where they run vmapped.
      progress: as for `find_tickets`.

    Returns:
      Tidy table, one row per number: seed, level, density, branch, x, y, split, metric ("loss",
      "accuracy", which numbers have not, and those of `Training.metrics`), value, and diverged: the
      step at which the training diverged, -1 for others. Values of what diverged are nan.

    Raises:
      ValueError: for levels, seeds and branches that there are not, networks that were not kept, an
        even number of points, and statistics that cannot be recomputed.

    Examples:
      >>> import jaxticket as jt
      >>> data = jt.data.load("digits")
      >>> net = jt.networks.lenet(data.shape, data.classes, widths=(4,))
      >>> runs = jt.find_tickets(net, data, jt.Training(steps=2), jt.Pruning(levels=1), seeds=(0,),
      ...     keep="trained", progress=False)
      >>> table = jt.surface(runs, levels=(1,), points=3, progress=False)
      >>> table[(table.split == "test") & (table.metric == "loss")].shape[0]
      9

    Reference: Li et al., "Visualizing the loss landscape of neural nets" (2018); KD-LTS, section
      5.1 and figures 9 and 31.
    """
    selection = selected(runs, levels=levels, branches=branches, seeds=seeds, weights=weights)
    levels, seeds = selection.levels, selection.seeds
    points = whole("points", points, 3)
    if points % 2 == 0:
        raise ValueError(
            f"`points` must be odd, so that the network itself is one of them, got {points}; use "
            f"{points + 1}"
        )
    extent = number("extent", extent, 0, above=True)
    count, draw = one_of("directions", directions, (1, 2)), whole("draw", draw)
    tickets = {
        (label, level): selection.ticket(runs, label, level)
        for label in selection.changes
        for level in selection.levels
    }
    half = points // 2
    x = extent * np.arange(-half, half + 1) / half
    grid = x, x if count == 2 else np.zeros(1)

    def spanned(ticket: Ticket, seed: int) -> Plane:
        own = _tree.rows(ticket, runs.seeds.index(seed))
        key = root_keys([seed])[0]
        return Plane(
            random_directions(runs.net, own.params, own.mask, key=key, draw=draw, count=count),
            *grid,
        )

    planes = {
        (label, level, seed): functools.partial(spanned, ticket, seed)
        for (label, level), ticket in tickets.items()
        for seed in seeds
    }
    runtime = settled(runtime, folder=folder, at_once=at_once, progress=progress)
    setting = {
        "points": points, "extent": extent, "directions": count, "draw": draw, "weights": weights,
    }  # fmt: skip
    return evaluated(
        "surface", runs, tickets, planes, setting, statistics=statistics, examples=examples,
        runtime=runtime,
    )  # fmt: skip


class Trajectory(NamedTuple):
    """A training in the plane of two principal components of its weights.

    Attributes:
      path: tidy table, one row per step: seed, level, density, branch, step, x, y (distances of
        weights from those of the last step), and share_x, share_y: the shares of the variance of
        the weights over steps that lie along x and y.
      surface: table as `jt.surface` gives it, of a grid in the plane; x and y as in `path`.
    """

    path: pd.DataFrame
    surface: pd.DataFrame


def trajectory(
    runs: Runs,
    *,
    levels: Sequence[int] | None = None,
    branches: Sequence[str] = ("ticket",),
    seeds: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    points: int = 25,
    margin: float = 0.3,
    statistics: str = "kept",
    examples: int | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    progress: bool = True,
) -> Trajectory:
    """Follow trainings in the plane of the two principal components of their weights.

    The plane passes through the weights at the last step, along the directions in which the weights
    at the chosen steps vary most; steps outside of it are projected. The loss is evaluated on a
    grid around the path, with the BatchNorm statistics of the last step.

    Args:
      runs: runs with `keep_at=`, the steps that there are to choose from.
      levels: which levels; all if None.
      branches: names of branches that were trained.
      seeds: which seeds; all if None.
      steps: at least three steps of `keep_at`; all that were kept of each training if None.
      points: points of the grid along each axis.
      margin: how far the grid reaches beyond the path, as a fraction of its extent.
      statistics, examples: as of `jt.surface`.
      runtime, folder, at_once, progress: as of `jt.surface`.

    Returns:
      The path of each network, and the surface around it.

    Raises:
      ValueError: for steps that were not kept, fewer than three, or weights that do not move.

    Reference: Li et al. (2018), section 7 and figure 9.
    """
    require_runs("runs", runs)
    levels = chosen("levels", levels, runs.levels)
    seeds = chosen("seeds", seeds, runs.seeds)
    points, margin = whole("points", points, 2), number("margin", margin, 0)
    runtime = settled(runtime, folder=folder, at_once=at_once, progress=progress)
    labels = list(changes_of(branches, runs.branch))
    kept = {
        (label, level): _steps_of(runs, label, level, steps) for label in labels for level in levels
    }
    tickets = {key: runs.trained_tickets(key[1], key[0], step=at[-1]) for key, at in kept.items()}
    rows, planes = [], {}
    for (label, level), at in kept.items():
        share = density(runs.net, runs.pruning, tickets[label, level], runs.lost_at(level))
        lost = diverged_at(runs, label, level) >= 0
        for seed in seeds:
            place = runs.seeds.index(seed)
            places, shares = np.full((len(at), 2), np.nan), np.full(2, np.nan)
            if not lost[place]:
                found = principal([
                    _tree.rows(runs.trained_tickets(level, label, step=step).params, place)
                    for step in at
                ])  # fmt: skip
                places, shares = found.places, found.shares
            low, high = places.min(axis=0), places.max(axis=0)
            room = margin * (high - low)
            x, y = (np.linspace(low[i] - room[i], high[i] + room[i], points) for i in (0, 1))
            directions = () if lost[place] else found.directions
            planes[label, level, seed] = functools.partial(Plane, directions, x, y)
            about = {"seed": seed, "level": level, "density": share[place], "branch": label}
            rows += [
                {**about, "step": step, "x": x, "y": y, "share_x": shares[0], "share_y": shares[1]}
                for step, (x, y) in zip(at, places.tolist(), strict=True)
            ]
    setting = {
        "points": points, "margin": margin, "steps": [list(at) for at in kept.values()],
        "path": _tree.digest(np.asarray([[row["x"], row["y"]] for row in rows])),
    }  # fmt: skip
    table = evaluated(
        "trajectory", runs, tickets, planes, setting, statistics=statistics, examples=examples,
        runtime=runtime,
    )  # fmt: skip
    return Trajectory(results.frame(rows), table)


def _steps_of(runs: Runs, label: str, level: int, steps: Sequence[int] | None) -> tuple[int, ...]:
    """The chosen steps of a training, ascending."""
    known = sorted(k for b, n, d, k in runs.at if (b, n, d) == (label, level, 1.0))
    if steps is not None:
        known = chosen("steps", steps, known, of=f" of {label!r}, level {level}")
    if len(known) < 3:
        raise ValueError(
            f"`steps` must be at least three of those that were kept, got {len(known)} of "
            f"{label!r}, level {level}; find tickets with more, such as keep_at=(0, 50, 100, 200)"
        )
    return tuple(sorted(known))


class Plane(NamedTuple):
    """A grid in the plane through a network.

    Attributes:
      directions: one or two trees like the params.
      x, y: float64 [column], [row], coordinates along the directions.
    """

    directions: Sequence[Params]
    x: np.ndarray
    y: np.ndarray

    def networks(self, params: Params, stats: Stats) -> tuple[Params, Stats]:
        """Stack the network and the ends of the directions, as `Evaluator.points` takes them."""
        ends = [
            jax.tree.map(lambda w, d: (w + d).astype(w.dtype), params, direction)
            for direction in self.directions
        ]
        return stacked([(params, stats), *((end, stats) for end in ends)])

    def weights(self) -> np.ndarray:
        """Give the weights of these networks at every point, float32 [point, network]."""
        y, x = (grid.ravel() for grid in np.meshgrid(self.y, self.x, indexing="ij"))
        along = np.stack([x, y], axis=1)[:, : len(self.directions)]
        return np.concatenate([1 - along.sum(axis=1, keepdims=True), along], axis=1)


def evaluated(
    name: str,
    runs: Runs,
    tickets: Mapping[tuple[str, int], Ticket],
    planes: Mapping[tuple[str, int, int], Callable[[], Plane]],
    setting: Mapping[str, object],
    *,
    statistics: str,
    examples: int | None,
    runtime: Runtime,
) -> pd.DataFrame:
    """Evaluate grids around networks: a table with the columns that `surface` gives.

    Args:
      name: of the analysis, for its folder.
      runs: whose networks these are.
      tickets: (branch, level) -> networks stacked over [replica].
      planes: (branch, level, seed) -> makes the grid; all of one shape.
      setting: what the folder records of the grids.
      statistics, examples: as of `surface`.
      runtime: folder and the like.
    """
    recomputed = one_of("statistics", statistics, STATISTICS) == "recomputed"
    data, training = _part(runs.data, runs.training, examples)
    runtime = runtime.on(runs.mesh)
    settings = _identity.run(
        name, runs.net, data, training=training, of=_tree.digest(list(tickets.values())),
        at=list(planes), statistics=statistics, **setting,
    )  # fmt: skip
    runtime = runtime.in_folder(runs.folder, "surfaces", results.run_name(name, settings))
    metrics = metric_names(training)
    size = runtime.replicas_per_call(1)
    with runtime.run(runs.net, data, training, settings, size=size, steps=len(planes)) as run:
        evaluator = Evaluator(
            runs.net, data, training, run.mesh, at_once=runtime.at_once, put=run.data
        )

        def values(ticket: Ticket, seed: int, make: Callable[[], Plane]) -> Arrays:
            own, plane = _tree.rows(ticket, runs.seeds.index(seed)), make()
            weights = plane.weights()
            index = np.broadcast_to(np.arange(weights.shape[1]), weights.shape)
            networks = plane.networks(masks.apply(own.mask, own.params), own.stats)
            found = evaluator.points(networks, index, weights, recomputed=recomputed)
            run.advance(1)
            return {"values": found}

        parts = []
        for (label, level, seed), make in planes.items():
            run.describe(f"{name} of level {level}, {label}, seed {seed}")
            place, ticket = runs.seeds.index(seed), tickets[label, level]
            lost = int(diverged_at(runs, label, level)[place])
            x, y = make().x, make().y
            found = np.full((len(y) * len(x), len(evaluator.splits), len(metrics)), np.nan)
            if lost < 0:
                work = functools.partial(values, ticket, seed, make)
                found = run.unit(f"{label}-level-{level:03d}-seed-{seed}", 1, work)["values"]
            share = density(runs.net, runs.pruning, ticket, runs.lost_at(level))[place]
            part = results.spread(
                found.reshape(len(y), len(x), *found.shape[1:]),
                {"y": y}, {"x": x}, {"split": evaluator.splits}, {"metric": metrics},
            )  # fmt: skip
            parts.append(
                part.assign(seed=seed, level=level, density=share, branch=label, diverged=lost)
            )
        table = results.concat(parts).reindex(columns=list(COLUMNS))
        if data.labels.kind == "numbers":
            # numbers are neither right nor wrong
            table = table.loc[table["metric"] != "accuracy"].reset_index(drop=True)
        if run.path is not None:
            run.finish(functools.partial(results.write, table, run.path, "table"))
    return table


def _part(
    data: Data | Stream, training: Training, examples: int | None
) -> tuple[Data | Stream, Training]:
    """The data with at most so many examples of each split, and a training that looks at them."""
    most = or_none(whole)("examples", examples, low=1)
    if most is None:
        return data, training
    if not isinstance(data, Data):
        raise ValueError(
            f"`examples` {most} of a data stream cannot be chosen; leave `examples` at None, which "
            f"evaluates what evaluations of the training look at"
        )

    def some(split: Split, most: int) -> Split:
        if most >= len(split):
            return split
        index = np.arange(most, dtype=np.int64) * len(split) // most
        return Split(split.x[index], split.y[index])

    limit = training.eval_train_examples
    part = dataclasses.replace(
        data,
        test=some(data.test, most),
        validation=None if data.validation is None else some(data.validation, most),
        more={name: some(split, most) for name, split in data.more.items()},
    )
    return part, training.replace(eval_train_examples=most if limit is None else min(most, limit))
