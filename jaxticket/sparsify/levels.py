"""Level after level: train, prune, rewind, with every finished piece of work saved."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxticket import _tree, masks, rescaling, results
from jaxticket._check import from_table
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    Trained,
    join,
    take,
)
from jaxticket.engine.runtime import Run
from jaxticket.pruning.compiled import Weights
from jaxticket.pruning.keep import layer_counts, not_finite
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import name_of
from jaxticket.settings import Pruning, Training, order_of
from jaxticket.sparsify.at_step import report_collapse
from jaxticket.sparsify.runner import Group, Groups, Runner
from jaxticket.ticket import Ticket, host_apply
from jaxticket.typing import Mask, Network, Params, Stats


@dataclass(frozen=True, eq=False)
class SearchPlan:
    """What a search for tickets does, before anything runs."""

    net: Network
    data: Data | Stream
    training: Training
    pruning: Pruning
    seeds: tuple[int, ...]
    changes: dict[str, Change]

    @functools.cached_property
    def like(self) -> tuple[Params, Stats]:
        """Shapes of params and statistics."""
        return self.net.shapes

    @functools.cached_property
    def prunable(self) -> Any:
        """Which leaves are pruned."""
        return self.net.prunable_leaves(self.pruning.exclude)

    @functools.cached_property
    def densities(self) -> np.ndarray:
        """The nominal density of each level."""
        return (1 - self.pruning.fraction) ** np.arange(self.pruning.levels + 1, dtype=np.float64)

    def keep(self, level: int) -> np.ndarray:
        """Weights that a level keeps, int32: one number, or one per layer."""
        params, p = self.like[0], self.pruning
        if p.scope == "layer":
            return layer_counts(
                params,
                float(self.densities[level]),
                prunable=self.prunable,
                level=level,
                rates=p.rates,
            )
        size = masks.prunable_size(params, prunable=self.prunable)
        return np.asarray(round(float(self.densities[level]) * size), np.int32)

    def check(self) -> None:
        """Raises for patterns that match no layer, and for levels that keep no weight."""
        paths, chosen = _tree.paths(self.like[0]), jax.tree.leaves(self.prunable)
        pruned = [path for path, p in zip(paths, chosen, strict=True) if p]
        for pattern, _ in self.pruning.rates:
            if not any(_tree.matches(path, [pattern]) for path in pruned):
                raise ValueError(
                    f"`rates` pattern {pattern!r} matches no layer that is pruned; these are "
                    f"{', '.join(pruned)}"
                )
        for level in range(self.pruning.levels + 1):
            if not self.keep(level).sum():
                size = masks.prunable_size(self.like[0], prunable=self.prunable)
                raise ValueError(
                    f"`levels` {self.pruning.levels} with fraction={self.pruning.fraction:g}: "
                    f"level {level} keeps none of the {size:,} weights; use at most {level - 1} "
                    f"levels"
                )

    def level_steps(self, level: int) -> int:
        """Steps of all replicas of a level, if every ticket starts where the run rewinds to."""
        start = self.pruning.start if level > 0 else 0
        return (self.training.steps - start) * len(self.seeds) * (1 + len(self.changes))

    @property
    def total_steps(self) -> int:
        """Steps of all replicas and levels."""
        return sum(self.level_steps(level) for level in range(self.pruning.levels + 1))


class Search:
    """A search under way: what the levels done so far have given."""

    def __init__(self, plan: SearchPlan, run: Run, select: Any) -> None:
        self.plan, self.run, self.select = plan, run, select
        self.tickets: dict[int, Ticket] = {}
        self.histories: list[results.EvaluationLog] = []
        self.costs: list[dict[str, Any]] = []
        replicas = len(plan.seeds)
        self.runner = Runner(run, plan.net, plan.pruning, plan.seeds)
        params, stats = initial_networks(plan.net, run.mesh, self.runner.keys)
        self.initial: tuple[Params, Stats] = (params, stats)
        ones = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
        zeros = np.zeros(replicas, np.int32)
        # the dense weights that tickets rewind to; of a rewind step above 0 they are known after
        # level 0
        self.origin = Ticket(ones, params, stats, zeros, zeros)
        self.next_masks: dict[int, Mask] = {0: ones}
        # statistics of the last trained network, for learning-rate rewinding
        self.stats = stats
        # which replicas have no ticket at a level, since one that its mask comes from diverged
        self.lost: dict[int, np.ndarray] = {0: np.zeros(replicas, bool)}

    def _start(self, level: int) -> Ticket:
        """The ticket of a level with weights at every position, as `Runs.whole` gives it later."""
        number = np.full(len(self.plan.seeds), level, np.int32)
        ticket = self.origin.replace(mask=self.next_masks[level], level=number)
        if self.plan.pruning.rewind == "learning_rate":
            return ticket.replace(stats=self.stats)
        return ticket.replace(params=rescaling.scaled(ticket.params, self._factors(level)))

    def _factors(self, level: int) -> Params | None:
        """What the rewound weights of a level are multiplied by."""
        if level == 0:
            return None
        return self.plan.pruning.factors(self.next_masks[level], self.plan.prunable)

    def level(self, level: int) -> None:
        """Trains the tickets of a level and its controls, block by block, and prunes."""
        plan, pruning = self.plan, self.plan.pruning
        began = time.perf_counter()
        whole, factors = self._start(level), self._factors(level)
        tickets = {"ticket": whole, **self.runner.controls(plan.changes, whole, factors=factors)}
        groups = [
            Group(
                name,
                level,
                functools.partial(tickets.__getitem__, name),
                plan.training,
                order_of(pruning, level),
                self.lost[level],
                start=pruning.start if level > 0 else 0,
            )
            for name in tickets
        ]
        prepared = time.perf_counter() - began
        trained = self.runner.train(
            groups,
            unit=f"level-{level:03d}-jobs",
            keep=functools.partial(self._kept, level),
            snapshots_at=(pruning.rewind_step,) if level == 0 and pruning.rewind_step > 0 else (),
        )
        self._finish(level, whole, trained, prepared)

    def _kept(self, level: int, trained: Trained, jobs: Jobs, begin: int) -> Arrays:
        """The masks that come from a block, and what later levels start from."""
        plan = self.plan
        # the tickets come first, then the controls, which are not pruned
        own = max(0, min(len(plan.seeds) - begin, len(jobs.start)))
        arrays = {"tickets": np.asarray(own)}
        began = time.perf_counter()
        if own:
            for target in self._targets(level):
                mask = self._pruned(trained, jobs, own, begin, target)
                arrays |= {f"mask-{target:03d}/{p}": x for p, x in _leaves(masks.pack(mask))}
            if plan.pruning.rewind == "learning_rate":
                final = take(parallel.host((trained.state.params, trained.state.stats)), 0, own)
                arrays |= {f"trained/{p}": x for p, x in _leaves(final)}
            for snapshot in trained.snapshots:
                arrays |= {f"origin/{p}": x for p, x in _leaves(take(snapshot, 0, own))}
        arrays["prune_seconds"] = np.asarray(time.perf_counter() - began)
        return arrays

    def _targets(self, level: int) -> list[int]:
        """The levels whose masks come from the weights of this one."""
        last = self.plan.pruning.levels
        if self.plan.pruning.one_shot:
            return list(range(1, last + 1)) if level == 0 else []
        return [level + 1] if level < last else []

    def _pruned(self, trained: Trained, jobs: Jobs, own: int, begin: int, target: int) -> Mask:
        run, size = self.run, self.run.size
        keep = self.plan.keep(target)
        # replicas of branches are not pruned: their limit of 0 says so
        limits = (np.arange(size) < own).astype(np.int32)
        initial = parallel.pad(take(self.initial[0], begin, begin + own), size)
        p, keys = self.plan.pruning, parallel.pad(jobs.keys, size)
        batch_size = min(p.score_batch_size, len(self.plan.data.train))
        state = trained.state
        mask, fault = self.select(
            limits,
            Weights(state.params, state.stats, state.mask, state.key, state.diverged),
            parallel.put(initial, run.mesh),
            # one round
            parallel.put(np.broadcast_to(keep, (size, 1, *keep.shape)).copy(), run.mesh),
            parallel.put(np.full(size, target, np.int32), run.mesh),
            run.data.score_batches(keys, target, p.score_batches, batch_size),
            run.data.arrays,
        )
        mask, fault = take(parallel.host((mask, fault)), 0, own)
        if fault.any():
            seed = self.plan.seeds[begin + int(np.argmax(fault))]
            name = name_of(from_table("score", self.plan.pruning.score, SCORES))
            raise ValueError(not_finite(name, f" (level {target}, seed {seed})"))
        masks.require_nested(mask, take(jobs.origin.mask, 0, own))
        return mask

    def _finish(self, level: int, whole: Ticket, trained: Groups, prepared: float) -> None:
        plan, replicas, blocks = self.plan, len(self.plan.seeds), trained.blocks
        for target in self._targets(level):
            mask = _unpacked(blocks, f"mask-{target:03d}/", plan.like[0])
            self.next_masks[target] = mask
            where = f"pruning to level {target}"
            report_collapse(self.run, where, mask, plan.prunable, plan.seeds)
        if plan.pruning.rewind == "learning_rate" and not (plan.pruning.one_shot and level > 0):
            self._keep_trained(_rebuilt(blocks, "trained/", plan.like), whole.mask)
        for target in self._targets(level):
            self.lost[target] = self.lost[level] | (trained.logs[0].diverged >= 0)
        # the dense ticket of a run that rewinds to k is the network at step k
        self.tickets[level] = whole.replace(params=host_apply(whole.mask, whole.params))
        if level == 0 and plan.pruning.rewind_step > 0:
            params, stats = _rebuilt(blocks, "origin/", plan.like)
            steps = np.full(replicas, plan.pruning.start, np.int32)
            self.origin = self.origin.replace(params=params, stats=stats, step=steps)
            self.tickets[0] = self.origin
        self.histories += trained.logs
        if level > 0 and not plan.pruning.one_shot:
            self.next_masks.pop(level)
        self.costs.append(
            {
                "unit": f"level {level}",
                "train_seconds": sum(float(b["seconds"]) for b in blocks),
                "prune_seconds": sum(float(b["prune_seconds"]) for b in blocks),
                "prepare_seconds": prepared,
            }
        )

    def _keep_trained(self, trained: tuple[Params, Stats], alive: Mask) -> None:
        """Takes trained weights as those that the next tickets start from.

        A weight that is pruned keeps, for masks that are moved onto it, the value that it had when
        it was pruned: at all positions stand weights that were trained, as after one-shot pruning.
        """
        params, self.stats = trained
        kept = jax.tree.map(lambda m, w, o: np.where(m, w, o), alive, params, self.origin.params)
        self.origin = self.origin.replace(params=kept)


def _leaves(tree: Any) -> list[tuple[str, np.ndarray]]:
    return [
        (p, np.asarray(x)) for p, x in zip(_tree.paths(tree), jax.tree.leaves(tree), strict=True)
    ]


def _unpacked(blocks: list[Arrays], prefix: str, like: Params) -> Mask:
    """Masks stacked over [replica] from the bits that blocks hold; `like` has the shapes of one
    replica.
    """
    parts = []
    for block in blocks:
        count = int(block["tickets"])
        if count:
            shapes = jax.tree.map(
                lambda x, n=count: jax.ShapeDtypeStruct((n, *x.shape), bool), like
            )
            bits = [block[prefix + name] for name in _tree.paths(like)]
            parts.append(masks.unpack(jax.tree.unflatten(jax.tree.structure(like), bits), shapes))
    return join(parts)


def _rebuilt(blocks: list[Arrays], prefix: str, like: Any) -> Any:
    names = _tree.paths(like)
    leaves = [
        np.concatenate([b[prefix + name] for b in blocks if prefix + name in b]) for name in names
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
