"""Training copies of states under different noise, and comparing the copies of each state."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree
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
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    Trained,
    Watch,
    job_plan,
    report_diverged,
    take,
    train_jobs,
)
from jaxticket.engine.runtime import Run
from jaxticket.engine.supervised import Origin
from jaxticket.random import root_keys
from jaxticket.settings import Training
from jaxticket.ticket import Ticket

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

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """All pairs of copies."""
        return tuple(itertools.combinations(range(self.copies), 2))


def train_and_compare(
    run: Run,
    evaluator: Evaluator,
    starts: Starts,
    design: Design,
    atoms: list[Atom],
    first: int,
    room: int,
) -> Arrays:
    """Trains the copies of some atoms side by side and compares them; a finished unit of a folder
    is read.

    Args:
      run, evaluator, starts, design: what is done.
      atoms: at most `room` of them.
      first: number of the first in the whole design.
      room: atoms of the largest block.

    Returns:
      Host arrays with a leading axis [atom]:
        line, line_recomputed: float32 [pair, point, split, metric]
        distances: float64 [pair, distance, split + 1], of weights last, nan where there is none
        began: float32 [split, metric], at step k; ended: float32 [copy, split, metric]
        copies: float64 [copy, measure] of `OF_COPIES`; moved: float64, from initialization to k
        throughout: float32 [call, pair, split, 4]: barriers of error and loss, means of the ends
        steps: int32 [call]; diverged: int32 [copy]; density: float64; weights/...: of each copy
      and the costs of the unit.
    """
    name = f"copies-{first:05d}-{first + len(atoms):05d}"
    jobs, tickets = _jobs(starts, design, atoms)
    run.expect(jobs.steps - _planned(design, atoms))

    def make() -> Arrays:
        watch = _watch(evaluator, design, len(atoms), room) if design.throughout else None
        trained = train_jobs(run, jobs, name, ends_only=watch is None, watch=watch)
        began = time.perf_counter()
        final = take(parallel.host((trained.state.params, trained.state.stats)), 0, len(jobs.start))
        arrays = _compared(evaluator, starts, design, atoms, tickets, final, room)
        arrays |= _histories(trained, design, len(atoms))
        _forget_diverged(arrays, design, np.asarray([starts.lost(atom) for atom in atoms]))
        arrays["cost_training_steps"] = np.asarray(jobs.steps)
        arrays["cost_train_seconds"] = np.asarray(trained.seconds)
        points = len(atoms) * len(design.pairs) * len(design.alphas)
        arrays["cost_points"] = np.asarray(points * (2 if design.recomputed else 1))
        if design.keep:
            for part, tree in zip(("params", "stats"), final, strict=True):
                for path, leaf in zip(_tree.paths(tree), jax.tree.leaves(tree), strict=True):
                    arrays[f"weights/{part}/{path}"] = grouped(leaf, design.copies)
        arrays["cost_evaluate_seconds"] = np.asarray(time.perf_counter() - began)
        _report(run, starts, atoms, arrays["diverged"])
        return arrays

    return run.unit(name, jobs.steps, make)


def grouped(x: np.ndarray, copies: int) -> np.ndarray:
    """[atom * copy, ...] as [atom, copy, ...]."""
    return x.reshape(-1, copies, *x.shape[1:])


def _planned(design: Design, atoms: list[Atom]) -> int:
    """Steps of all copies, if every one starts at its step k."""
    whole = design.training.steps
    return sum((whole if design.full else whole - a.kind.at) * design.copies for a in atoms)


def _jobs(
    starts: Starts, design: Design, atoms: list[Atom]
) -> tuple[Jobs, list[tuple[Ticket, np.ndarray, Any]]]:
    """Jobs in the order [atom, copy], and of each atom its ticket, its density and the weights that
    its training began with.
    """
    made = {}
    for kind in dict.fromkeys(atom.kind for atom in atoms):
        ticket = starts.make(kind)
        made[kind] = ticket, starts.density(kind, ticket), starts.beginning(kind, ticket)
    tickets = [take(made[atom.kind], atom.replica, atom.replica + 1) for atom in atoms]
    joined = jax.tree.map(lambda *xs: np.concatenate(xs), *(t for t, *_ in tickets))
    each = jax.tree.map(lambda x: np.repeat(x, design.copies, axis=0), joined)
    seeds = [starts.seeds[a.replica] for a in atoms]
    keys = np.repeat(np.asarray(jax.random.key_data(root_keys(seeds))), design.copies, axis=0)
    start = np.zeros_like(each.step) if design.full else np.asarray(each.step, np.int32)
    plan = job_plan(design.training, len(start))
    number = np.tile(FIRST_NOISE + np.arange(design.copies, dtype=np.int32), len(atoms))
    plan = plan._replace(**{name: number for name in design.noise})
    lost = np.repeat([starts.lost(atom) for atom in atoms], design.copies)
    origin = Origin(each.params, each.stats, each.mask)
    return Jobs(origin, keys, start, plan, lost), tickets


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

    def look(state: Any, wanted: np.ndarray) -> np.ndarray:
        own = np.flatnonzero(wanted.reshape(-1, design.copies).any(axis=1))
        networks = parallel.host((state.params, state.stats))
        index, weight = _ends(design, atoms, alphas)
        chosen = np.isin(np.arange(len(index)) // (pairs * len(alphas)), own)
        values = evaluator.points(
            networks, index[chosen], weight[chosen], pad_to=room * pairs * len(alphas)
        )
        values = values.reshape(len(own), pairs, len(alphas), len(evaluator.splits), -1)
        found = np.full(shape, np.nan, np.float32)
        found[own] = heights(values)
        return found

    return Watch(shape, look)


def heights(values: np.ndarray) -> np.ndarray:
    """Barriers of error and loss, then the means of both at the ends.

    Args:
      values: loss and accuracy, [..., point, split, 2].

    Returns:
      float64 [..., split, 4].
    """
    curves = np.moveaxis(values.astype(np.float64), -3, -1)
    loss, error = curves[..., 0, :], 1 - curves[..., 1, :]
    ends = [(x[..., 0] + x[..., -1]) / 2 for x in (error, loss)]
    return np.stack([barrier(error), barrier(loss), *ends], axis=-1)


def _compared(
    evaluator: Evaluator,
    starts: Starts,
    design: Design,
    atoms: list[Atom],
    tickets: list[tuple[Ticket, np.ndarray, Any]],
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
    for number, atom in enumerate(atoms):
        ticket, _, beginning = (jax.tree.map(lambda x: x[0], part) for part in tickets[number])
        prunable = starts.prunable(atom.kind)
        masked = jax.tree.map(lambda m, w: np.where(m, w, 0), ticket.mask, beginning)
        moved[number] = l2_between(ticket.params, masked)
        own = [number * design.copies + c for c in range(design.copies)]
        networks = [jax.tree.map(lambda x, j=j: x[j], final[0]) for j in own]
        for copy, params in enumerate(networks):
            measures[number, copy] = (
                l2_between(params, ticket.params),
                cosine_between(params, ticket.params),
                _sign_flips(params, ticket, prunable),
            )
        for s in range(splits + 1):
            which = outputs.split == s
            seen = [
                Outcome(
                    params,
                    ticket.mask,
                    prunable,
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


def _sign_flips(params: Any, ticket: Ticket, prunable: Any) -> float:
    """Share of the kept prunable weights, 0 at the start left out, whose sign has changed."""
    changed = kept = 0
    for after, before, mask, p in zip(
        *map(jax.tree.leaves, (params, ticket.params, ticket.mask, prunable)), strict=True
    ):
        if p:
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


def _report(run: Run, starts: Starts, atoms: list[Atom], diverged: np.ndarray) -> None:
    for atom, own in zip(atoms, diverged, strict=True):
        kind, seed = atom.kind, starts.seeds[atom.replica]
        where = f"{kind.branch}, level {kind.level}, k = {kind.at}"
        for copy, step in enumerate(own):
            report_diverged(run, f"{where}, copy {copy}", [seed], np.asarray([step]))
