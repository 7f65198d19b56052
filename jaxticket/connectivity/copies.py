"""Training copies of states under different noise, and comparing the copies of each state."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket.connectivity.distances import (
    OF_WEIGHTS,
    Distance,
    Outcome,
    cosine_between,
    l2_between,
)
from jaxticket.connectivity.evaluator import Evaluator, Networks
from jaxticket.connectivity.origins import Start, Starts
from jaxticket.connectivity.paths import barrier
from jaxticket.engine import parallel
from jaxticket.engine.judged import ACCURACY, Judged
from jaxticket.engine.loop import Arrays, Jobs, Trained, Watch, take
from jaxticket.engine.supervised import network_of
from jaxticket.settings import Training
from jaxticket.sparsify.runner import Group
from jaxticket.ticket import Ticket
from jaxticket.typing import Params, TrainState

# far from the orders that levels of a run see with `order`="fresh"
FIRST_NOISE = 1 << 21
ERROR, LOSS = "error", "loss"
OF_COPIES = ("l2_from_k", "cosine_from_k", "sign_flips")


class Atom(NamedTuple):
    """What is compared among itself: the copies of one state of one seed."""

    kind: Start
    replica: int


@dataclass(frozen=True, eq=False)
class Design:
    """How copies are trained and compared.

    Attributes:
      training: of the copies.
      copies: of every state.
      noise: what differs between them: "order", "augment".
      full: train each for all steps, with the schedule from its beginning.
      alphas: places on the line.
      recomputed: whether statistics are also recomputed on the line.
      throughout: points on the lines that are drawn at every evaluation; 0 for none.
      distances: name -> distance.
      keep: whether the trained weights are kept.
      main: whose error the barrier is taken of.
    """

    training: Training
    copies: int
    noise: tuple[str, ...]
    full: bool
    alphas: np.ndarray
    recomputed: bool
    throughout: int
    distances: dict[str, Distance]
    keep: bool
    main: Judged = ACCURACY

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """All pairs of copies."""
        return tuple(itertools.combinations(range(self.copies), 2))


@dataclass(frozen=True, eq=False)
class Copies:
    """The copies of some states: as groups that a runner trains, and compared.

    Attributes:
      evaluator, starts, design: what is done.
      atoms: in the order in which they are trained.
      room: atoms of the largest block that is trained.
    """

    evaluator: Evaluator
    starts: Starts
    design: Design
    atoms: list[Atom]
    room: int

    def groups(self) -> list[Group]:
        """One group for each atom, whose replicas are its copies."""
        design, starts = self.design, self.starts
        numbers = FIRST_NOISE + np.arange(design.copies, dtype=np.int32)
        return [
            Group(
                atom.kind.branch,
                atom.kind.level,
                functools.partial(self._ticket, atom),
                design.training,
                starts.pruning(atom.kind),
                numbers if "order" in design.noise else 0,
                np.full(design.copies, starts.lost(atom)),
                start=0 if design.full else atom.kind.at,
                augment=numbers if "augment" in design.noise else 0,
                seeds=(starts.seeds[atom.replica],) * design.copies,
                title=f"{atom.kind.branch}, level {atom.kind.level}, k = {atom.kind.at}",
                told=tuple(
                    f"{atom.kind.branch}/step-{atom.kind.at}/copy-{copy}"
                    for copy in range(design.copies)
                ),
            )
            for atom in self.atoms
        ]

    def _start(self, atom: Atom) -> tuple[Ticket, np.ndarray, Params]:
        """The ticket of an atom, its density and the weights that its training began with."""
        return take(self._made(atom.kind), atom.replica, atom.replica + 1)

    @functools.cached_property
    def _made(self) -> Callable[[Start], tuple[Ticket, np.ndarray, Params]]:
        """The states of one kind, of all replicas; those of a block are held."""
        # were self held too, which holds this function, both and all arrays on the devices would
        # stay until Python's collector looks for cycles
        starts = self.starts

        @functools.lru_cache(maxsize=self.room)
        def made(kind: Start) -> tuple[Ticket, np.ndarray, Params]:
            ticket = starts.make(kind)
            return ticket, starts.density(kind, ticket), starts.beginning(kind, ticket)

        return made

    def _ticket(self, atom: Atom) -> Ticket:
        ticket, _, _ = self._start(atom)
        ticket = jax.tree.map(lambda x: np.repeat(x, self.design.copies, axis=0), ticket)
        return ticket.replace(step=np.zeros_like(ticket.step)) if self.design.full else ticket

    def watch(self, jobs: Jobs) -> Watch:
        """The barriers of copies while they are trained."""
        return _watch(self.evaluator, self.design, len(jobs.start) // self.design.copies, self.room)

    def compared(self, trained: Trained, jobs: Jobs, first: int) -> Arrays:
        """Compare the copies of a block, which hold whole atoms.

        Args:
          trained: the copies.
          jobs: what was trained, in the order [atom, copy].
          first: number of the first copy of all.

        Returns:
          Host arrays with a leading axis [atom]:
            line, line_recomputed: float32 [pair, point, split, metric]
            distances: float64 [pair, distance, split + 1], of weights last, nan where there is none
            began: float32 [split, metric], at step k; ended: float32 [copy, split, metric]
            copies: float64 [copy, measure] of `OF_COPIES`; moved: float64, from initialization to k
            throughout: float32 [call, pair, split, 4]: barriers of error and loss, mean ends
            steps: int32 [call]; diverged: int32 [copy]; density: float64; weights/...: of each copy
          under "atoms/", and the costs of the unit under "cost/".
        """
        design, began = self.design, time.perf_counter()
        atoms = self.atoms[first // design.copies :][: len(jobs.start) // design.copies]
        final = take(parallel.host(network_of(trained.state)), 0, len(jobs.start))
        starts = [self._start(atom) for atom in atoms]
        arrays = _compared(self.evaluator, self.starts, design, atoms, starts, final, self.room)
        arrays |= _histories(trained, design, len(atoms))
        _forget_diverged(arrays, design, np.asarray([self.starts.lost(atom) for atom in atoms]))
        if design.keep:
            for part, tree in zip(("params", "stats"), final, strict=True):
                for path, leaf in _tree.leaves(tree, f"weights/{part}").items():
                    arrays[path] = grouped(leaf, design.copies)
        points = len(atoms) * len(design.pairs) * len(design.alphas)
        costs = {
            "training_steps": jobs.steps,
            "train_seconds": trained.seconds,
            "points": points * (2 if design.recomputed else 1),
            "evaluate_seconds": time.perf_counter() - began,
        }
        found = {f"atoms/{name}": x for name, x in arrays.items()}
        return found | {f"cost/{name}": np.asarray(x) for name, x in costs.items()}


def grouped(x: np.ndarray, copies: int) -> np.ndarray:
    """[atom * copy, ...] as [atom, copy, ...]."""
    return x.reshape(-1, copies, *x.shape[1:])


def _ends(design: Design, atoms: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index and weight of the points on all lines, in the order [atom, pair, point]."""
    pairs = np.asarray(design.pairs)
    index = np.arange(atoms)[:, None, None] * design.copies + pairs[None]
    index = np.repeat(index.reshape(-1, 2), len(alphas), axis=0)
    weight = np.tile(np.stack([1 - alphas, alphas], axis=1), (atoms * len(pairs), 1))
    return index, weight


def _watch(evaluator: Evaluator, design: Design, atoms: int, room: int) -> Watch:
    alphas, pairs = np.linspace(0, 1, design.throughout), len(design.pairs)
    shape = (atoms, pairs, len(evaluator.splits), 4)

    def look(state: TrainState, wanted: np.ndarray) -> np.ndarray:
        own = np.flatnonzero(wanted.reshape(-1, design.copies).any(axis=1))
        networks = parallel.host(network_of(state))
        index, weight = _ends(design, atoms, alphas)
        chosen = np.isin(np.arange(len(index)) // (pairs * len(alphas)), own)
        values = evaluator.points(
            networks, index[chosen], weight[chosen], pad_to=room * pairs * len(alphas)
        )
        values = values.reshape(len(own), pairs, len(alphas), len(evaluator.splits), -1)
        found = np.full(shape, np.nan, np.float32)
        found[own] = heights(values, design.main)
        return found

    return Watch(shape, look)


def heights(values: np.ndarray, main: Judged = ACCURACY) -> np.ndarray:
    """Barriers of error and loss, then the means of both at the ends.

    Args:
      values: evaluations, [..., point, split, metric].
      main: the metric whose error that is.

    Returns:
      float64 [..., split, 4].
    """
    loss = np.moveaxis(values[..., 0].astype(np.float64), -2, -1)
    error = np.moveaxis(main.error(values), -2, -1)
    ends = [(x[..., 0] + x[..., -1]) / 2 for x in (error, loss)]
    return np.stack([barrier(error), barrier(loss), *ends], axis=-1)


def _compared(
    evaluator: Evaluator,
    starts: Starts,
    design: Design,
    atoms: list[Atom],
    tickets: list[tuple[Ticket, np.ndarray, Params]],
    final: Networks,
    room: int,
) -> Arrays:
    pairs, splits = len(design.pairs), len(evaluator.splits)
    index, weight = _ends(design, len(atoms), design.alphas)
    shape = (len(atoms), pairs, len(design.alphas), splits, -1)
    pad_to = room * pairs * len(design.alphas)
    arrays = {"line": evaluator.points(final, index, weight, pad_to=pad_to).reshape(shape)}
    if design.recomputed:
        found = evaluator.points(final, index, weight, recomputed=True, pad_to=pad_to)
        arrays["line_recomputed"] = found.reshape(shape)
    outputs = evaluator.outputs(final, pad_to=room * design.copies)
    distances = np.full((len(atoms), pairs, len(design.distances), splits + 1), np.nan)
    measures = np.full((len(atoms), design.copies, len(OF_COPIES)), np.nan)
    moved = np.zeros(len(atoms))
    for number in range(len(atoms)):
        ticket, _, beginning = (jax.tree.map(lambda x: x[0], part) for part in tickets[number])
        moved[number] = l2_between(ticket.params, masks.host_apply(ticket.mask, beginning))
        own = [number * design.copies + c for c in range(design.copies)]
        networks = [jax.tree.map(lambda x, j=j: x[j], final[0]) for j in own]
        for copy, params in enumerate(networks):
            measures[number, copy] = (
                l2_between(params, ticket.params),
                cosine_between(params, ticket.params),
                _sign_flips(params, ticket),
            )
        for s in range(splits + 1):
            which = outputs.split == s
            seen = [
                Outcome(
                    params,
                    ticket.mask,
                    outputs.predictions[j][which],
                    outputs.losses[j][which],
                    outputs.labels[which],
                )
                for j, params in zip(own, networks, strict=True)
            ]
            for d, distance in enumerate(design.distances.values()):
                if (distance in OF_WEIGHTS) == (s == splits):
                    for p, (i, j) in enumerate(design.pairs):
                        distances[number, p, d, s] = distance(seen[i], seen[j])
    density = np.concatenate([d for _, d, _ in tickets])
    return arrays | {
        "distances": distances,
        "copies": measures,
        "moved": moved,
        "density": density,
    }


def _sign_flips(params: Params, ticket: Ticket) -> float:
    """Share of the kept prunable weights, 0 at the start left out, whose sign has changed."""
    changed = kept = 0
    for _, mask, after, before in masks.items(ticket.mask, params, ticket.params):
        there = mask & (before != 0)
        changed += np.sum(there & (np.sign(after) != np.sign(before)))
        kept += np.sum(there)
    return float(changed / kept) if kept else 0.0


def _histories(trained: Trained, design: Design, atoms: int) -> Arrays:
    """Evaluations at the start and at the end, and what was watched."""
    count = atoms * design.copies
    calls = trained.wanted.shape[0]
    last = calls - 1 - np.argmax(trained.wanted[::-1], axis=0)
    ended = trained.values[last, np.arange(count)]
    arrays = {
        "began": trained.values[0].reshape(atoms, design.copies, *ended.shape[1:])[:, 0],
        "ended": grouped(ended, design.copies),
        "diverged": grouped(trained.diverged, design.copies),
    }
    if design.throughout:
        # copies of an atom are evaluated at the same steps; -1 where they are not
        own = slice(None, None, design.copies)
        arrays["steps"] = np.where(trained.wanted, trained.steps, -1)[:, own].T
        arrays["throughout"] = np.moveaxis(trained.watched, 0, 1)
    return arrays


def _forget_diverged(arrays: Arrays, design: Design, lost: np.ndarray) -> None:
    """Makes nan of what copies that diverged, or began in a state that had, would seem to give.

    A network of nan weights predicts class 0: its error is a number, and two of them agree.
    """
    bad = (arrays["diverged"] >= 0) | lost[:, None]
    arrays["ended"][bad] = np.nan
    arrays["copies"][bad] = np.nan
    arrays["began"][lost] = np.nan
    for p, (i, j) in enumerate(design.pairs):
        either = bad[:, i] | bad[:, j]
        for name in ("line", "line_recomputed", "distances"):
            if name in arrays:
                arrays[name][either, p] = np.nan
        if "throughout" in arrays:
            # a copy is what it was until its loss was not finite
            first = np.where(arrays["diverged"] >= 0, arrays["diverged"], np.iinfo(np.int32).max)
            late = arrays["steps"] >= np.minimum(first[:, i], first[:, j])[:, None]
            arrays["throughout"][:, :, p][late | lost[:, None]] = np.nan
