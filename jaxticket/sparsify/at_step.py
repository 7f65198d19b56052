"""What `prune_at` and `search` share: masks are found once, at one step of dense training.

`StepPlan` says what is done, a `Finder` finds the masks, `step_run.py` does the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxticket import masks
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks
from jaxticket.engine.loop import Arrays
from jaxticket.engine.runtime import Run
from jaxticket.settings import PruningAtStep, Training
from jaxticket.ticket import Ticket
from jaxticket.typing import Mask, Network


@dataclass(frozen=True, eq=False)
class StepPlan:
    """What is done, before anything runs; `prunings` differ in their step alone.

    Attributes:
      net, data, training, seeds: what is trained.
      prunings: when and how masks are found.
      changes: controls that are trained beside the tickets.
      dense: whether the dense networks are trained to the end.
      supermask: whether pruned networks are evaluated before they are trained.
      train: whether they are trained.
    """

    net: Network
    data: Data | Stream
    training: Training
    prunings: tuple[PruningAtStep, ...]
    seeds: tuple[int, ...]
    changes: dict[str, Change]
    dense: bool
    supermask: bool = False
    train: bool = True

    @functools.cached_property
    def like(self) -> Networks:
        """Shapes of params and statistics."""
        return self.net.shapes

    @functools.cached_property
    def prunable(self) -> Any:
        """Which leaves are pruned."""
        return self.net.prunable_leaves(self.prunings[0].exclude)

    def check(self) -> None:
        """Raises for patterns that match no layer, and for densities that keep no weight."""
        size = masks.prunable_size(self.like[0], prunable=self.prunable)
        for density in self.prunings[0].densities:
            if not round(density * size):
                raise ValueError(
                    f"`density` {density:g} keeps none of the {size:,} weights; use at least "
                    f"{1 / size:.2g}"
                )

    @property
    def dense_steps(self) -> tuple[int, ...]:
        """The steps of dense training whose states are needed."""
        steps = {p.step for p in self.prunings}
        return tuple(sorted(steps | ({self.training.steps} if self.dense else set())))

    @property
    def total_steps(self) -> int:
        """Steps of dense training and of all pruned replicas, if every branch starts where the
        pruned networks do.
        """
        each = sum((self.training.steps - p.start) * len(p.densities) for p in self.prunings)
        each *= (1 + len(self.changes)) * self.train
        return (max(self.dense_steps) + each) * len(self.seeds)


class Wanted(NamedTuple):
    """Some masks to be found in one call: for each, a level and a replica.

    Attributes:
      levels, replicas: int [mask]; level n has the n-th density.
      size: places of the call; the last ones may be empty.
      lost: int32 [replica], at which step the dense network diverged, or -1.
      keys: key data of each replica's root key.
      initial: the networks at initialization, [replica, ...].
      unit: name of this piece of work.
    """

    levels: np.ndarray
    replicas: np.ndarray
    size: int
    lost: np.ndarray
    keys: np.ndarray
    initial: Networks
    unit: str

    def own(self, tree: Any) -> Any:
        """Leaves [replica, ...] as [place, ...]."""
        chosen = jax.tree.map(lambda x: np.asarray(x)[self.replicas], tree)
        return parallel.pad(chosen, self.size)


class Finder(Protocol):
    """What finds masks."""

    name: str
    steps: int
    """Steps of one mask's search, for the progress bar; 0 where it takes none."""
    before: int
    """Steps for each seed that are trained before any mask is searched, those of its teachers."""
    remedy: str
    """What a report of layer collapse ends with."""

    def check(self, run: Run, keys: np.ndarray) -> None:
        """Raises for what cannot work, before the dense training."""
        ...

    def prepare(self, run: Run, initial: Networks) -> float:
        """Trains what masks are found with, and gives the seconds that it took."""
        ...

    def find(
        self, run: Run, pruning: PruningAtStep, origin: Ticket, wanted: Wanted
    ) -> tuple[Mask, Arrays]:
        """Host masks [mask, ...], and what else shall be kept of the work."""
        ...

    def trace(self, pruning: PruningAtStep, wanted: Wanted, arrays: Arrays) -> list[dict[str, Any]]:
        """Rows of `Runs.trace`, of what `find` kept."""
        ...


def report_collapse(
    run: Run, where: str, mask: Mask, prunable: Any, seeds: Sequence[int], remedy: str = ""
) -> None:
    """Says which prunable layers have no weights left, and in which replicas.

    Args:
      run: says it.
      where: what found the mask, and when.
      mask: host arrays [replica, ...].
      prunable: tree of python bools.
      seeds: of the replicas.
      remedy: what the sentence ends with.
    """
    empty = [
        f"{path} (seeds {', '.join(str(s) for s, g in zip(seeds, gone, strict=True) if g)})"
        for path, gone in masks.empty_layers(mask, prunable).items()
    ]
    if empty:
        run.write(f"layer collapse: {where} keeps nothing of {', '.join(empty)}{remedy}")
