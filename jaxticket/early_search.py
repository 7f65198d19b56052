"""The work of `prune_at`: dense training, masks, and the training of what they leave."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import parallel, results, trees
from jaxticket.analysis.flops import layers_of
from jaxticket.branches import Change
from jaxticket.checks import from_table
from jaxticket.data.arrays import Data
from jaxticket.data.stream import Stream
from jaxticket.feed import StreamedData, balanced_examples
from jaxticket.jobs import (
    Arrays,
    Bench,
    Jobs,
    changed,
    history_arrays,
    job_plan,
    join,
    report_diverged,
    take,
    train_jobs,
)
from jaxticket.prune import layout_counts, not_finite, round_counts
from jaxticket.rng import root_keys
from jaxticket.runs import density
from jaxticket.scores import LAYOUTS, SCORES
from jaxticket.scores.recipe import recipe_of
from jaxticket.selection import Examples, Weights, prunable_of
from jaxticket.settings import EarlyPruning, Training
from jaxticket.ticket import Ticket, host_apply
from jaxticket.trunk import Networks, initial_networks, train_trunk
from jaxticket.types import Mask, Network


@dataclass(frozen=True, eq=False)
class EarlyPlan:
    """What `prune_at` does, before anything runs; `prunings` differ in their step alone."""

    net: Network
    data: Data | Stream
    training: Training
    prunings: tuple[EarlyPruning, ...]
    seeds: tuple[int, ...]
    changes: dict[str, Change]
    dense: bool

    @functools.cached_property
    def like(self) -> Networks:
        """Shapes of params and statistics."""
        return jax.eval_shape(self.net.init, jax.random.key(0))

    @functools.cached_property
    def prunable(self) -> Any:
        """Which leaves are pruned."""
        return prunable_of(self.net, self.like[0], self.prunings[0].exclude)

    @functools.cached_property
    def keeps(self) -> dict[int, np.ndarray]:
        """Weights that each level keeps, round after round: level -> int32 [round, ...]."""
        p = self.prunings[0]
        rounds = p.rounds or recipe_of(from_table("score", p.score, SCORES)).rounds
        found = {}
        for level, share in enumerate(p.densities, start=1):
            if p.scope in ("global", "layer"):
                found[level] = round_counts(
                    self.like[0],
                    share,
                    rounds,
                    prunable=self.prunable,
                    scope=str(p.scope),
                    floor=p.floor,
                )
            else:
                layout = from_table("scope", p.scope, LAYOUTS)
                layers = layers_of(self.net, self.prunable)
                found[level] = layout_counts(layout, layers, share, rounds)
        return found

    def start(self, pruning: EarlyPruning) -> int:
        """Where in the schedule pruned networks begin."""
        return pruning.step if pruning.schedule == "remaining" else 0

    @property
    def trunk_steps(self) -> tuple[int, ...]:
        """The steps of dense training whose states are needed."""
        steps = {p.step for p in self.prunings}
        return tuple(sorted(steps | ({self.training.steps} if self.dense else set())))

    @property
    def total_steps(self) -> int:
        """Steps of all replicas, if every branch starts where the pruned networks do."""
        each = sum((self.training.steps - self.start(p)) * len(p.densities) for p in self.prunings)
        return (max(self.trunk_steps) + each * (1 + len(self.changes))) * len(self.seeds)


class Piece(NamedTuple):
    """The replicas of one step, density and branch: one for each seed."""

    pruning: EarlyPruning
    level: int
    branch: str


class EarlySearch:
    """Dense training, masks and pruned training under way; everything by the step of pruning."""

    def __init__(
        self, plan: EarlyPlan, bench: Bench, select: Any, score: str, examples: Examples
    ) -> None:
        self.plan, self.bench, self.select = plan, bench, select
        self.score, self.examples = score, examples
        steps = [p.step for p in plan.prunings]
        self.tickets: dict[int, dict[int, Ticket]] = {k: {} for k in steps}
        self.origins: dict[int, Ticket] = {}
        self.histories: dict[int, list[results.History]] = {k: [] for k in steps}
        self.costs: dict[int, list[dict[str, Any]]] = {k: [] for k in steps}
        self.masks: dict[tuple[int, int], Mask] = {}
        self.keys = np.asarray(jax.random.key_data(root_keys(plan.seeds)))

    def run(self) -> None:
        """All of it, unit after unit; units that the folder holds are read."""
        plan, bench = self.plan, self.bench
        if isinstance(bench.data, StreamedData) and self.examples.per_class is not None:
            # a class with too few examples is found here, not after hours of dense training
            bench.data.balanced(self.keys[:1], 0, self.examples.per_class)
        bench.bar.set_description("dense")
        initial = initial_networks(bench, plan.seeds)
        trunk = train_trunk(bench, plan.training, plan.seeds, initial, plan.trunk_steps)
        report_diverged(bench.bar, "dense", plan.seeds, trunk.diverged)
        self.initial = initial
        count = len(plan.seeds)
        zeros = np.zeros(count, np.int32)
        ones = jax.tree.map(lambda x: np.ones(x.shape, bool), initial[0])
        for pruning in plan.prunings:
            params, stats = trunk.states[pruning.step]
            step = np.full(count, plan.start(pruning), np.int32)
            origin = Ticket(ones, params, stats, zeros, step)  # type: ignore[arg-type]
            self.origins[pruning.step] = origin
            if trunk.steps:
                steps = trunk.steps // count
                row = {"unit": "dense", "train_seconds": trunk.seconds, "training_steps": steps}
                self.costs[pruning.step].append(row)
            if plan.dense:
                self.tickets[pruning.step][0] = origin
                self._note(pruning, 0, "ticket", origin, trunk.history, slice(0, count))
            bench.bar.set_description(f"{self.score} at step {pruning.step}")
            self._prune(pruning, origin, trunk.diverged)
        self._train()

    def _prune(self, pruning: EarlyPruning, origin: Ticket, diverged: np.ndarray) -> None:
        """The masks of all densities at one step."""
        plan = self.plan
        # a network that diverges later is whole at this step
        lost = np.where((diverged >= 0) & (diverged <= pruning.step), diverged, -1)
        lost = lost.astype(np.int32)
        seeds = len(plan.seeds)
        wanted = [(n, i) for n in range(1, len(pruning.densities) + 1) for i in range(seeds)]
        # places that no replica needs would be scored too where they run vmapped
        size = parallel.block_size(len(wanted), self.bench.mesh, None)
        size = min(size, self.bench.size)
        blocks, began = [], time.perf_counter()
        for first in range(0, len(wanted), size):
            own = wanted[first : first + size]
            name = f"masks-{pruning.step:07d}-{first:04d}-{first + len(own):04d}"
            blocks.append(self._mask_unit(name, own, origin, lost, size))
            if self.bench.folder is not None and self.bench.interrupt.signal is not None:
                self.bench.interrupt.leave(self.bench.folder.path)
        for level in range(1, len(pruning.densities) + 1):
            parts = []
            for block, first in zip(blocks, range(0, len(wanted), size), strict=True):
                rows = [j for j, (n, _) in enumerate(wanted[first : first + size]) if n == level]
                if rows:
                    parts.append(_rows(block, rows, plan.like[0]))
            self.masks[pruning.step, level] = join(parts)
            self._report_collapse(pruning, level)
        self.costs[pruning.step].append(
            {
                "unit": f"masks at step {pruning.step}",
                "prune_seconds": sum(float(b["seconds"]) for b in blocks),
                "prepare_seconds": max(
                    0.0,
                    time.perf_counter() - began - sum(float(b["seconds"]) for b in blocks),
                ),
            }
        )

    def _index(self, keys: np.ndarray) -> Any:
        """The balanced examples of each replica, on the devices; None where others are drawn."""
        recipe = recipe_of(from_table("score", self.plan.prunings[0].score, SCORES))
        data, per_class = self.plan.data, self.examples.per_class
        if per_class is None or not recipe.data or isinstance(data, Stream):
            return None
        (rounds, *_), *_ = (keep.shape for keep in self.plan.keeps.values())
        index = balanced_examples(
            data.train.y, keys, per_class=per_class, rounds=rounds if recipe.fresh else None
        )
        return parallel.put(index, self.bench.mesh)

    def _mask_unit(
        self, name: str, wanted: list[tuple[int, int]], origin: Ticket, lost: np.ndarray, size: int
    ) -> Arrays:
        bench, plan = self.bench, self.plan
        if bench.folder is not None:
            found = bench.folder.load(name)
            if found is not None:
                return found
        began = time.perf_counter()
        index = np.asarray([i for _, i in wanted])
        limits = (np.arange(size) < len(wanted)).astype(np.int32)
        keeps = np.stack([plan.keeps[level] for level, _ in wanted])

        def own(tree: Any) -> Any:
            chosen = jax.tree.map(lambda x: np.asarray(x)[index], tree)
            return parallel.put(parallel.pad(chosen, size), bench.mesh)

        keys = parallel.pad(self.keys[index], size)
        source: tuple[Any, ...] = (bench.data,)
        if isinstance(bench.data, StreamedData):
            e = self.examples
            block = bench.data.score_batches(keys, 0, e.batches, e.size, e.per_class)
            source = (block, bench.data.by)
        weights = Weights(
            own(origin.params),
            own(origin.stats),
            own(origin.mask),
            jax.random.wrap_key_data(parallel.put(keys, bench.mesh)),
            own(lost),
        )
        mask, fault = self.select(
            limits,
            weights,
            own(self.initial[0]),
            parallel.put(parallel.pad(keeps, size), bench.mesh),
            # all densities look at the same examples
            parallel.put(np.zeros(size, np.int32), bench.mesh),
            self._index(keys),
            *source,
        )
        mask, fault = take(parallel.host((mask, fault)), 0, len(wanted))
        if fault.any():
            level, replica = wanted[int(np.argmax(fault))]
            share, seed = plan.prunings[0].densities[level - 1], plan.seeds[replica]
            raise ValueError(not_finite(self.score, f" (density {share:g}, seed {seed})"))
        bits = zip(trees.paths(mask), jax.tree.leaves(mask), strict=True)
        arrays = {
            path: np.packbits(np.asarray(m).reshape(len(wanted), -1), axis=1) for path, m in bits
        }
        arrays["seconds"] = np.asarray(time.perf_counter() - began)
        if bench.folder is not None:
            bench.folder.save(name, arrays)
        return arrays

    def _report_collapse(self, pruning: EarlyPruning, level: int) -> None:
        mask, plan = self.masks[pruning.step, level], self.plan
        empty: dict[str, list[int]] = {}
        leaves = zip(
            trees.paths(mask), jax.tree.leaves(mask), jax.tree.leaves(plan.prunable), strict=True
        )
        for path, m, p in leaves:
            gone = ~m.reshape(m.shape[0], -1).any(axis=1)
            if p and gone.any():
                empty[path] = [seed for seed, g in zip(plan.seeds, gone, strict=True) if g]
        if empty:
            words = [f"{path} (seeds {', '.join(map(str, s))})" for path, s in empty.items()]
            self.bench.bar.write(
                f"layer collapse: {self.score} at step {pruning.step} keeps nothing of "
                f"{', '.join(words)} at "
                f"density {pruning.densities[level - 1]:g}; `floor`=1 keeps one weight of each"
            )

    def _train(self) -> None:
        plan, bench, seeds = self.plan, self.bench, len(self.plan.seeds)
        pieces = [
            Piece(pruning, level, branch)
            for pruning in plan.prunings
            for level in range(1, len(pruning.densities) + 1)
            for branch in ("ticket", *plan.changes)
        ]
        blocks = []
        for first in range(0, len(pieces) * seeds, bench.size):
            end = min(first + bench.size, len(pieces) * seeds)
            began = time.perf_counter()
            # only the weights of this block are held at once
            own = pieces[first // seeds : -(-end // seeds)]
            bench.bar.set_description(_described(own, self.score))
            jobs = join([self._jobs(piece) for piece in own])
            jobs = take(jobs, first % seeds, first % seeds + end - first)
            blocks.append(self._unit(f"jobs-{first:05d}-{end:05d}", jobs, own, end - first))
            seconds = time.perf_counter() - began
            for k in {piece.pruning.step for piece in own}:
                unit = {"unit": f"jobs {first} to {end}", "train_seconds": seconds}
                self.costs[k].append(unit)
        history = history_arrays(blocks)
        for number, piece in enumerate(pieces):
            ticket = self._ticket(piece)
            ticket = ticket.replace(params=host_apply(ticket.mask, ticket.params))
            mine = slice(number * seeds, (number + 1) * seeds)
            self._note(piece.pruning, piece.level, piece.branch, ticket, history, mine)
            if piece.branch == "ticket":
                self.tickets[piece.pruning.step][piece.level] = ticket
            where = f"density {piece.pruning.densities[piece.level - 1]:g}, {piece.branch}"
            report_diverged(bench.bar, where, plan.seeds, history["diverged"][mine])

    def _ticket(self, piece: Piece) -> Ticket:
        """Mask and weights of a piece, also where the mask is False."""
        plan, step = self.plan, piece.pruning.step
        level = np.full(len(plan.seeds), piece.level, np.int32)
        whole = self.origins[step].replace(mask=self.masks[step, piece.level], level=level)
        if piece.branch == "ticket":
            return whole
        return changed(
            plan.changes[piece.branch],
            whole,
            plan.seeds,
            name=piece.branch,
            net=plan.net,
            mesh=self.bench.mesh,
            exclude=piece.pruning.exclude,
        )

    def _jobs(self, piece: Piece) -> Jobs:
        ticket, plan = self._ticket(piece), self.plan
        start = np.asarray(ticket.step, np.int32)
        own = job_plan(plan.training, len(plan.seeds))
        return Jobs(ticket.params, ticket.stats, ticket.mask, self.keys, start, own)

    def _unit(self, name: str, jobs: Jobs, pieces: list[Piece], count: int) -> Arrays:
        bench, plan = self.bench, self.plan
        steps = int((np.asarray(jobs.plan.schedule.stop) - jobs.start).sum())
        if len(pieces) * len(plan.seeds) == count:
            # a change may start elsewhere than the pruned networks (reinit: at step 0)
            planned = sum(plan.training.steps - plan.start(p.pruning) for p in pieces)
            bench.bar.total += steps - planned * len(plan.seeds)
        if bench.folder is not None:
            found = bench.folder.load(name)
            if found is not None:
                bench.bar.update(steps)
                return found
        trained = train_jobs(bench, jobs, name)
        arrays = {
            "steps": trained.steps,
            "wanted": trained.wanted,
            "values": trained.values,
            "diverged": trained.diverged,
        }
        if bench.folder is not None:
            bench.folder.save(name, arrays)
        return arrays

    def _note(
        self,
        pruning: EarlyPruning,
        level: int,
        branch: str,
        ticket: Ticket,
        history: Arrays,
        mine: slice,
    ) -> None:
        seeds = np.asarray(self.plan.seeds)
        self.histories[pruning.step].append(
            results.History(
                seeds,
                level,
                density(self.plan.net, pruning, ticket),
                branch,
                history["steps"][:, mine],
                history["wanted"][:, mine],
                history["values"][:, mine],
                history["diverged"][mine],
                np.ones(len(seeds)),
            )
        )


def _rows(block: Arrays, rows: list[int], like: Any) -> Mask:
    """Some of the masks that a unit holds, stacked over [replica]."""
    leaves = []
    for path, x in zip(trees.paths(like), jax.tree.leaves(like), strict=True):
        count = int(np.prod(x.shape))
        bits = np.unpackbits(block[path][rows], axis=1, count=count)
        leaves.append(bits.astype(bool).reshape(len(rows), *x.shape))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _described(pieces: list[Piece], score: str) -> str:
    first = pieces[0]
    share = 100 * first.pruning.densities[first.level - 1]
    return f"{score} at step {first.pruning.step}, {share:.3g}% of weights"
