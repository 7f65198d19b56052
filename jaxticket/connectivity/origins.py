"""Where copies start: states of the dense network at step k, or tickets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, rescaling
from jaxticket.connectivity.evaluator import Networks
from jaxticket.controls import REDRAWN, Change, changed
from jaxticket.pruning_settings import PruningAtStep, PruningSettings
from jaxticket.runs import Runs, density
from jaxticket.ticket import Ticket
from jaxticket.typing import Network, Params


class Start(NamedTuple):
    """One kind of state that copies start from.

    Attributes:
      branch: "ticket" or the name of a change.
      level: of the ticket; 0 is the dense network.
      at: step k that the weights (or the run they belong to) rewind to.
    """

    branch: str
    level: int
    at: int


@dataclass(frozen=True, eq=False)
class Starts:
    """All states that copies start from, made one by one.

    Attributes:
      net, mesh: as in training.
      seeds: one per replica.
      kinds: what to start from, in the order of the results.
      initial: weights and statistics at initialization, stacked over [replica].
      dense: dense weights and statistics at steps k; empty where tickets bring their own weights.
      diverged: int [replica], at which step of dense training the loss was not finite, or -1.
      runs: where masks come from: (branch, k) -> tickets; empty without tickets.
      changes: name -> change, for branches made here.
    """

    net: Network
    mesh: Mesh
    seeds: tuple[int, ...]
    kinds: tuple[Start, ...]
    initial: Networks
    dense: dict[int, Networks]
    diverged: np.ndarray
    runs: dict[tuple[str, int], Runs]
    changes: dict[str, Change]

    def make(self, kind: Start) -> Ticket:
        """The ticket of a start, stacked over [replica], its weights masked."""
        change = self.changes.get(kind.branch)
        whole = self._whole(kind._replace(branch="ticket") if change else kind)
        if change is not None:
            exclude = self.pruning(kind).exclude
            whole = changed(
                change,
                whole,
                self.seeds,
                name=kind.branch,
                net=self.net,
                mesh=self.mesh,
                exclude=exclude,
                factors=self._factors(kind),
            )
        return whole.masked()

    def _whole(self, kind: Start) -> Ticket:
        """The ticket with its weights also where they are pruned."""
        level = np.full(len(self.seeds), kind.level, np.int32)
        if not self.runs:
            params, stats = self.dense[kind.at]
            ones = self.net.mask(lead=(len(self.seeds),))
            step = np.full_like(level, kind.at)
            return Ticket(ones, params, stats, level, step)
        runs = self._runs(kind)
        if not self.dense:
            return self._seeds_of(runs, runs.whole(kind.level))
        own = self._seeds_of(runs, runs.by_level[kind.level])
        params, stats = self.dense[kind.at]
        params = rescaling.scaled(params, self._factors(kind))
        return own.replace(params=params, stats=stats, step=np.full_like(level, kind.at))

    def _factors(self, kind: Start) -> Params | None:
        """What the weights of tickets are multiplied by, of these seeds."""
        if not self.runs:
            return None
        own = kind._replace(branch="ticket") if kind.branch in self.changes else kind
        runs = self._runs(own)
        return self._seeds_of(runs, runs.factors(kind.level))

    def _runs(self, kind: Start) -> Runs:
        """The run that a start's masks come from; one run serves every k of a dense network."""
        if self.dense:
            (only,) = self.runs.values()
            return only
        return self.runs[kind.branch, kind.at]

    def _seeds_of(self, runs: Runs, tree: Any) -> Any:
        return _tree.rows(tree, [runs.seeds.index(seed) for seed in self.seeds])

    def pruning(self, kind: Start) -> PruningSettings:
        """How the tickets of a start were pruned."""
        own = kind._replace(branch="ticket") if kind.branch in self.changes else kind
        return self._runs(own).pruning if self.runs else PruningAtStep((1.0,))

    def density(self, kind: Start, ticket: Ticket) -> np.ndarray:
        """Realised density of each replica."""
        return density(self.net, self.pruning(kind), ticket)

    def lost(self, atom: tuple[Start, int]) -> bool:
        """Tell whether a copy group has no state to start from.

        Dense training had diverged at the step of the state, or the seed has no ticket at this
        level.
        """
        kind, replica = atom
        if self.dense and 0 <= int(self.diverged[replica]) <= kind.at:
            return True
        if not self.runs:
            return False
        runs = self._runs(kind._replace(branch="ticket") if kind.branch in self.changes else kind)
        return bool(runs.lost_at(kind.level)[runs.seeds.index(self.seeds[replica])])

    def beginning(self, kind: Start, ticket: Ticket) -> Any:
        """The weights that each replica's training began with, not masked.

        Those of the seed, times the ticket's factors, but for branches that draw new ones
        (`REDRAWN`), and for a change of the user's that moves a ticket of a later step to step 0.
        """
        if kind.branch in REDRAWN:
            return ticket.params
        pruning = self.pruning(kind)
        if pruning.keeps_trained:
            return self.initial[0]
        usual = kind.at if self.dense else pruning.start
        moved = usual > 0 and np.asarray(ticket.step).max() == 0
        if moved or kind.at == 0:
            return ticket.params
        return rescaling.scaled(self.initial[0], self._factors(kind))


def kinds_of(
    runs: dict[tuple[str, int], Runs],
    changes: Sequence[str],
    levels: Sequence[int],
    at: Sequence[int],
    *,
    dense: bool,
) -> tuple[Start, ...]:
    """The starts: k after k, the tickets before their branches, level after level."""
    if not runs:
        return tuple(Start("ticket", 0, k) for k in at)
    kinds = []
    for k in at:
        names = ["ticket"] if dense else [branch for branch, own in runs if own == k]
        if "ticket" in names:
            names += changes
        kinds += [
            Start(name, level, k)
            for name in names
            for level in levels
            # changes of a mask that keeps all are no controls
            if level > 0 or name not in changes
        ]
    return tuple(kinds)
