"""Dense training to a step, masks found there, and the training of what they leave: under way."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree, rescaling, results
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks, initial_networks, train_dense
from jaxticket.engine.loop import (
    Arrays,
    join,
    report_diverged,
)
from jaxticket.engine.metrics import METRICS
from jaxticket.engine.runtime import Run, Runtime
from jaxticket.runs import Runs, density
from jaxticket.settings import PruningAtStep, order_of
from jaxticket.sparsify.at_step import Finder, StepPlan, Wanted, report_collapse
from jaxticket.sparsify.runner import Group, Runner
from jaxticket.ticket import Ticket, host_apply
from jaxticket.typing import Mask


class Piece(NamedTuple):
    """The replicas of one step, density and branch: one for each seed."""

    pruning: PruningAtStep
    level: int
    branch: str


class StepRun:
    """Dense training, masks and pruned training under way; everything by the step of pruning."""

    def __init__(self, plan: StepPlan, run: Run, finder: Finder) -> None:
        self.plan, self.run, self.finder = plan, run, finder
        # all prunings exclude the same weights
        self.runner = Runner(run, plan.net, plan.prunings[0], plan.seeds)
        steps = [p.step for p in plan.prunings]
        self.tickets: dict[int, dict[int, Ticket]] = {k: {} for k in steps}
        self.origins: dict[int, Ticket] = {}
        self.histories: dict[int, list[results.EvaluationLog]] = {k: [] for k in steps}
        self.costs: dict[int, list[dict[str, Any]]] = {k: [] for k in steps}
        self.masks: dict[tuple[int, int], Mask] = {}
        # which replicas had diverged before masks were to be found: bool [replica]
        self.lost: dict[int, np.ndarray] = {}
        self.traces: dict[int, list[dict[str, Any]]] = {k: [] for k in steps}
        self.initial: Networks = ({}, {})

    def all(self) -> None:
        """All of it, unit after unit; units that the folder holds are read."""
        plan, run = self.plan, self.run
        self.finder.check(run, self.runner.keys)
        run.describe("dense")
        initial = initial_networks(plan.net, run.mesh, self.runner.keys)
        dense = train_dense(
            run, plan.training, self.runner.keys, initial, plan.dense_steps,
            monitors=plan.training.monitors,
        )  # fmt: skip
        report_diverged(run, "dense", plan.seeds, dense.diverged)
        self.initial = initial
        count = len(plan.seeds)
        seconds = self.finder.prepare(run, initial)
        if self.finder.before:
            steps = self.finder.before
            unit = {"unit": "teachers", "train_seconds": seconds, "training_steps": steps}
            for costs in self.costs.values():
                costs.append(unit)
        zeros = np.zeros(count, np.int32)
        ones = jax.tree.map(lambda x: np.ones(x.shape, bool), initial[0])
        for pruning in plan.prunings:
            params, stats = dense.states[pruning.step]
            step = np.full(count, pruning.start, np.int32)
            origin = Ticket(ones, params, stats, zeros, step)
            self.origins[pruning.step] = origin
            if dense.steps:
                steps = dense.steps // count
                row = {"unit": "dense", "train_seconds": dense.seconds, "training_steps": steps}
                self.costs[pruning.step].append(row)
            if plan.dense:
                self.tickets[pruning.step][0] = origin
                self._note(pruning, 0, "ticket", origin, dense.history)
            run.describe(f"{self.finder.name} at step {pruning.step}")
            self._find(pruning, origin, dense.diverged)
            if plan.supermask:
                self._supermasks(pruning)
        if plan.train:
            self._train()

    def _find(self, pruning: PruningAtStep, origin: Ticket, diverged: np.ndarray) -> None:
        """The masks of all densities at one step."""
        plan, run = self.plan, self.run
        # a network that diverges later is whole at this step
        lost = np.where((diverged >= 0) & (diverged <= pruning.step), diverged, -1)
        self.lost[pruning.step] = lost >= 0
        seeds = len(plan.seeds)
        levels = np.repeat(np.arange(1, len(pruning.densities) + 1), seeds)
        replicas = np.tile(np.arange(seeds), len(pruning.densities))
        # places that no replica needs would be worked on too where they run vmapped
        size = min(parallel.block_size(len(levels), run.mesh, None), run.size)
        blocks, began = [], time.perf_counter()
        for first in range(0, len(levels), size):
            own = slice(first, first + size)
            unit = f"masks-{pruning.step:07d}-{first:04d}-{first + len(levels[own]):04d}"
            wanted = Wanted(
                levels[own], replicas[own], size, lost.astype(np.int32), self.runner.keys,
                self.initial, unit,
            )  # fmt: skip
            blocks.append(self._mask_unit(pruning, origin, wanted))
            self.traces[pruning.step] += self.finder.trace(pruning, wanted, blocks[-1])
        for level in range(1, len(pruning.densities) + 1):
            parts = []
            for block, first in zip(blocks, range(0, len(levels), size), strict=True):
                rows = np.flatnonzero(levels[first : first + size] == level)
                if len(rows):
                    parts.append(_rows(block, rows, plan.like[0]))
            self.masks[pruning.step, level] = join(parts)
            share = pruning.densities[level - 1]
            report_collapse(run, f"{self.finder.name} at step {pruning.step}, density {share:g},",
                self.masks[pruning.step, level], plan.prunable, plan.seeds, self.finder.remedy,
            )  # fmt: skip
        seconds = sum(float(b["seconds"]) for b in blocks)
        self.costs[pruning.step].append(
            {
                "unit": f"masks at step {pruning.step}",
                "prune_seconds": seconds,
                "prepare_seconds": max(0.0, time.perf_counter() - began - seconds),
            }
        )

    def _mask_unit(self, pruning: PruningAtStep, origin: Ticket, wanted: Wanted) -> Arrays:
        count = len(wanted.levels)

        def make() -> Arrays:
            began = time.perf_counter()
            mask, arrays = self.finder.find(self.run, pruning, origin, wanted)
            bits = zip(_tree.paths(mask), jax.tree.leaves(mask), strict=True)
            arrays = arrays | {
                path: np.packbits(np.asarray(m).reshape(count, -1), axis=1) for path, m in bits
            }
            arrays.setdefault("seconds", np.asarray(time.perf_counter() - began))
            return arrays

        return self.run.unit(wanted.unit, self.finder.steps * count, make)

    def _supermasks(self, pruning: PruningAtStep) -> None:
        """Evaluates pruned networks before their training, with statistics of their own."""
        plan, run, count = self.plan, self.run, len(self.plan.seeds)
        evaluator = Evaluator(plan.net, plan.data, plan.training, run.mesh, put=run.data)
        recomputed = bool(jax.tree.leaves(plan.like[1]))
        for level in range(1, len(pruning.densities) + 1):
            ticket = self._ticket(Piece(pruning, level, "ticket"))
            networks = (host_apply(ticket.mask, ticket.params), ticket.stats)
            places = np.arange(count)[:, None]
            values = evaluator.points(
                networks, places, np.ones(places.shape), recomputed=recomputed, pad_to=run.size
            )
            # nothing is trained: a network without a mask, or of a loss that is not finite, counts
            # as diverged where it stands
            start = pruning.start
            finite = np.isfinite(values[..., METRICS.index("loss")]).all(axis=-1)
            bad = self.lost[pruning.step] | ~finite
            history = {
                "steps": np.full((1, count), start, np.int32),
                "wanted": np.ones((1, count), bool),
                "values": np.where(bad[:, None, None], np.nan, values)[None],
                "diverged": np.where(bad, start, -1).astype(np.int32),
            }
            self._note(pruning, level, "supermask", ticket, history)
            if not plan.train:
                self.tickets[pruning.step][level] = ticket.replace(params=networks[0])

    def _train(self) -> None:
        plan, run, seeds = self.plan, self.run, len(self.plan.seeds)
        pieces = [
            Piece(pruning, level, branch)
            for pruning in plan.prunings
            for level in range(1, len(pruning.densities) + 1)
            for branch in ("ticket", *plan.changes)
        ]
        groups = [self._group(piece) for piece in pieces]

        def described(own: Sequence[Group]) -> str:
            first = pieces[groups.index(own[0])]
            share = 100 * first.pruning.densities[first.level - 1]
            return f"{self.finder.name} at step {first.pruning.step}, {share:.3g}% of weights"

        trained = self.runner.train(groups, describe=described)
        for piece, log in zip(pieces, trained.logs, strict=True):
            self.histories[piece.pruning.step].append(log)
            if piece.branch == "ticket":
                ticket = self._ticket(piece)
                ticket = ticket.replace(params=host_apply(ticket.mask, ticket.params))
                self.tickets[piece.pruning.step][piece.level] = ticket
        for number, row in enumerate(trained.costs):
            first = number * run.size
            own = pieces[first // seeds : -(-(first + run.size) // seeds)]
            for k in {piece.pruning.step for piece in own}:
                self.costs[k].append(row)

    def _group(self, piece: Piece) -> Group:
        pruning = piece.pruning
        return Group(
            piece.branch,
            piece.level,
            functools.partial(self._ticket, piece),
            self.plan.training,
            order_of(pruning, piece.level),
            self.lost[pruning.step],
            start=pruning.start,
            title=f"density {pruning.densities[piece.level - 1]:g}, {piece.branch}",
        )

    def _ticket(self, piece: Piece) -> Ticket:
        """Mask and weights of a piece, also where the mask is False."""
        plan, pruning = self.plan, piece.pruning
        mask, origin = self.masks[pruning.step, piece.level], self.origins[pruning.step]
        level = np.full(len(plan.seeds), piece.level, np.int32)
        factors = pruning.factors(mask, plan.prunable)
        params = rescaling.scaled(origin.params, factors)
        whole = origin.replace(mask=mask, params=params, level=level)
        if piece.branch == "ticket":
            return whole
        return self.runner.control(piece.branch, plan.changes[piece.branch], whole, factors)

    def _note(
        self,
        pruning: PruningAtStep,
        level: int,
        branch: str,
        ticket: Ticket,
        history: Arrays,
    ) -> None:
        lost = self.lost.get(pruning.step) if level else None
        self.histories[pruning.step].append(
            results.EvaluationLog.of_group(
                history,
                0,
                seeds=self.plan.seeds,
                level=level,
                density=density(self.plan.net, pruning, ticket, lost),
                branch=branch,
            )
        )


def _rows(block: Arrays, rows: np.ndarray, like: Any) -> Mask:
    """Some of the masks that a unit holds, stacked over [replica]."""
    leaves = []
    for path, x in zip(_tree.paths(like), jax.tree.leaves(like), strict=True):
        count = int(np.prod(x.shape))
        bits = np.unpackbits(block[path][rows], axis=1, count=count)
        leaves.append(bits.astype(bool).reshape(len(rows), *x.shape))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def run_at_step(
    plan: StepPlan,
    finder: Finder,
    settings: dict[str, Any],
    runtime: Runtime,
) -> dict[int, Runs]:
    """Runs a plan, in a folder or without one; Runs by the step of pruning.

    Args:
      plan: what to do.
      finder: finds the masks.
      settings: what the folder records, and refuses to mix with others.
      runtime: where it is done.
    """
    net, data, training, prunings = plan.net, plan.data, plan.training, plan.prunings
    count = len(plan.seeds) * (1 + len(plan.changes))
    # a CPU gains nothing from more than one density at once; where replicas are vmapped, it does
    together = 1 if parallel.maps(runtime.devices) else len(prunings[0].densities) * len(prunings)
    size = runtime.replicas_per_call(count * together)
    searching = finder.steps * sum(len(p.densities) for p in prunings) + finder.before
    searching *= len(plan.seeds)
    found = {}
    total = plan.total_steps + searching
    with runtime.run(net, data, training, settings, size=size, steps=total) as run:
        done = StepRun(plan, run, finder)
        done.all()
        for pruning in prunings:
            place = run.path
            if place is not None and len(prunings) > 1:
                place = place / f"step-{pruning.step}"
            runs = Runs(
                net,
                data,
                training,
                pruning,
                plan.seeds,
                "ticket",
                tuple(done.histories[pruning.step]),
                done.tickets[pruning.step],
                done.origins[pruning.step],
                tuple(done.costs[pruning.step]),
                place,
                run.mesh,
                size,
                tuple(done.traces[pruning.step]),
                lost={n: done.lost[pruning.step] for n in range(1, len(pruning.densities) + 1)},
            )
            found[pruning.step] = runs
        run.finish(*(runs.save for runs in found.values()))
    return found
