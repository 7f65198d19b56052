"""What ways to find the masks of all levels at one step of dense training share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket._check import one_or_several, or_none, settle, share
from jaxticket.engine import parallel
from jaxticket.engine.dense import DenseStates
from jaxticket.engine.loop import Arrays
from jaxticket.pruning.structures.settings import (
    StructureLike,
    Units,
    checked,
    implied,
    unit_counts,
    units_in,
)
from jaxticket.pruning_settings import PruningAtStep
from jaxticket.runs import Runs
from jaxticket.sparsify.cost import seconds_of
from jaxticket.sparsify.runner import Runner
from jaxticket.sparsify.strategy import Found, Strategy, dense_ticket, packed, unpacked
from jaxticket.ticket import Ticket
from jaxticket.typing import Mask, Network

T = TypeVar("T")


@dataclass(frozen=True)
class AtStep(PruningAtStep, Strategy):
    """A strategy that finds the masks of all levels at one step of dense training.

    What it adds to `PruningAtStep` and `Strategy` is what all of them share; a subclass says how
    `tickets` are found, and their `cost`.

    Attributes:
      structure: weights that are kept or pruned together (`jt.structures`); None for single
        weights. Densities are then shares of its units.
    """

    structure: StructureLike | None = dataclasses.field(
        default=None, kw_only=True, metadata={"newer": True}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, or_none(checked), "structure")

    def units(self, net: Network) -> Units | None:
        """What is kept or pruned together; None for single weights."""
        return units_in(net, self.structure, self.exclude)

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.name} at step {self.step}"

    @property
    def side_by_side(self) -> int:
        """All levels train at the same time."""
        return self.last_level

    def dense_steps(self, steps: int) -> tuple[int, ...]:
        """The step of the masks."""
        del steps
        return (self.step,)

    def check_network(self, net: Network) -> None:
        """Raise for patterns that match no layer, and for densities that keep no weight.

        With a structure, for layers that it does not fit and densities that contradict it.
        """
        if (units := self.units(net)) is not None:
            for density in self.densities:
                unit_counts(units, implied("density", density, units), 1)
            return
        size = masks.prunable_size(net.mask(self.exclude))
        for density in self.densities:
            if not round(density * size):
                raise ValueError(
                    f"`density` {density:g} keeps none of the {size:,} weights; use at least "
                    f"{1 / size:.2g}"
                )

    def seconds(self, runs: Runs) -> float:
        """Seconds of finding one mask."""
        found = seconds_of(runs, "masks*", "prune_seconds")
        return found / (len(runs.seeds) * len(self.densities))


class Wanted(NamedTuple):
    """Some masks to be found in one call: for each, a level and a replica.

    Attributes:
      levels, replicas: int [mask]; level n has the n-th density.
      size: places of the call; the last ones may be empty.
      lost: int32 [replica], at which step the dense network diverged, or -1.
      origin: the dense networks at the step of the masks, [replica, ...].
      unit: name of this piece of work.
    """

    levels: np.ndarray
    replicas: np.ndarray
    size: int
    lost: np.ndarray
    origin: Ticket
    unit: str

    def own(self, tree: T) -> T:
        """Leaves [replica, ...] as [place, ...]."""
        return parallel.pad(_tree.rows(tree, self.replicas), self.size)


class InBlocks(NamedTuple):
    """Masks that were found block by block.

    Attributes:
      found: the masks of all levels.
      blocks: what was asked for in each block, and what else was kept of it.
      cost: row of the table of seconds.
    """

    found: list[Found]
    blocks: list[tuple[Wanted, Arrays]]
    cost: dict[str, object]


def found_in_blocks(
    runner: Runner,
    pruning: AtStep,
    states: DenseStates,
    find: Callable[[Wanted], tuple[Mask, Arrays]],
    *,
    steps: int = 0,
) -> InBlocks:
    """The masks of all levels, as many at a time as a call takes; finished blocks are read.

    Args:
      runner: where.
      pruning: when and for which densities.
      states: of dense training.
      find: host masks [mask, ...] of one block, and what else shall be kept of the work.
      steps: of the search of one mask, for the progress bar.
    """
    began, run, seeds = time.perf_counter(), runner.run, len(runner.seeds)
    origin = dense_ticket(runner.net, states.states[pruning.step], pruning.start, pruning.exclude)
    # a network that diverges later is whole at this step
    lost = np.where(states.lost(pruning.step), states.diverged, -1).astype(np.int32)
    levels = np.repeat(np.arange(1, pruning.last_level + 1), seeds)
    replicas = np.tile(np.arange(seeds), pruning.last_level)
    # places that no replica needs would be worked on too where they run vmapped; elsewhere more
    # than one level gains nothing, and masks of densities that are appended are blocks of their own
    most = seeds if parallel.maps(run.mesh) else len(levels)
    size = min(parallel.block_size(most, run.mesh, None), run.size)
    blocks = []
    for block in run.blocks(f"masks-{pruning.step:07d}", len(levels), size):
        own = block.replicas
        wanted = Wanted(levels[own], replicas[own], size, lost, origin, block.name)

        def make(wanted: Wanted = wanted) -> Arrays:
            began = time.perf_counter()
            mask, arrays = find(wanted)
            seconds = np.asarray(time.perf_counter() - began)
            return {"seconds": seconds, **arrays, **packed(mask, "mask")}

        blocks.append((wanted, run.unit(block, steps * len(wanted.levels), make)))
    like = runner.net.mask(pruning.exclude)
    parts = [unpacked(arrays, "mask", like) for _, arrays in blocks]
    every = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    found = [
        Found(level, jax.tree.map(lambda x, rows=levels == level: x[rows], every), origin)
        for level in range(1, pruning.last_level + 1)
    ]
    seconds = sum(float(arrays["seconds"]) for _, arrays in blocks)
    cost: dict[str, object] = {
        "unit": f"masks at step {pruning.step}",
        "prune_seconds": seconds,
        "prepare_seconds": max(0.0, time.perf_counter() - began - seconds),
    }
    return InBlocks(found, blocks, cost)


def checked_densities(
    density: float | Sequence[float] | None,
    structure: StructureLike | None,
    net: Network,
    exclude: Sequence[str],
) -> tuple[float, ...]:
    """The densities to prune to: those given, or that of the structure.

    Raises:
      ValueError: for densities out of range, and for none where nothing implies one.
    """
    if density is not None:
        return one_or_several("density", density, share, like="(0.3, 0.1)", distinct=True)
    if (units := units_in(net, structure, exclude)) is None:
        raise ValueError(
            "`density` must be in (0, 1], got None: only structures such as '2:4' imply it"
        )
    own = implied("density", None, units)
    assert own is not None, "without one, `implied` raises"
    return (own,)
