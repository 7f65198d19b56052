"""Finding tickets: train, prune, rewind, repeat."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import masks, parallel, results, trees
from jaxticket.branches import BRANCHES, Change
from jaxticket.checkpoint import Interrupt, RunFolder
from jaxticket.checks import distinct_seeds, from_table
from jaxticket.data.arrays import Data
from jaxticket.jobs import Bench, Jobs, Trained, join, progress_bar, take, train_jobs
from jaxticket.optim import schedule
from jaxticket.prune import layer_counts
from jaxticket.rng import root_keys, stream
from jaxticket.runs import Runs, density
from jaxticket.scores import SCORES
from jaxticket.settings import Pruning, Training
from jaxticket.ticket import Ticket, host_apply
from jaxticket.train import Plan, check_fit, program, prunable_of, pruner, put_data
from jaxticket.types import Mask, Network, Params, Stats

Arrays = dict[str, np.ndarray]


def find_tickets(
    net: Network,
    data: Data,
    training: Training,
    pruning: Pruning | None = None,
    *,
    seeds: Iterable[int] = range(5),
    branches: Sequence[str | Change] = (),
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs:
    """Iterative magnitude pruning with rewinding, for many seeds side by side.

    Level 0 trains the dense network. Level n >= 1 takes the mask of the weights with the highest scores after level
    n - 1, rewinds them to step k and trains them on to the end, with a fresh optimizer and the schedule and batches as
    at step k. Level n keeps `round((1 - fraction) ** n * P)` weights.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set; with a validation split its loss is evaluated too.
      training: how each level is trained.
      pruning: levels, fraction, score, rewinding; `Pruning()` if None.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train beside the tickets at every level: names in `jt.BRANCHES` or change functions.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all of a level.
      save_every: seconds between saves of the training state (each level is saved in any case).
      progress: whether to show a bar with the time left.

    Returns:
      Runs with the tickets of levels 0 to `pruning.levels`; its table also holds the branches.

    Raises:
      ValueError: for settings that do not fit together, a score that is not finite for finite weights, and a folder
        with other settings.

    Reference: Frankle's thesis, Algorithm 1 (rewind=0), Algorithm 4 (rewind=k), Algorithm 2 ("learning_rate").
    """
    pruning = Pruning() if pruning is None else pruning
    seeds = distinct_seeds(seeds)
    mesh = parallel.check_mesh(mesh)
    check_fit(net, data, training, mesh)
    if pruning.rewind_step >= training.steps:
        raise ValueError(
            f"`rewind` is step {pruning.rewind_step}, past the end of training at {training.steps}; "
            f"use a step below {training.steps}"
        )
    if at_once is not None and at_once < 1:
        raise ValueError(f"`at_once` must be at least 1, got {at_once}")
    score = from_table("score", pruning.score, SCORES)
    changes = named_changes(branches)
    plan = _Plan(net, data, training, pruning, seeds, changes)
    settings = {
        "kind": "find_tickets",
        "net": net.config,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "training": training,
        "pruning": pruning,
        "seeds": seeds,
        "branches": list(changes),
    }
    store = None if folder is None else RunFolder(folder, settings, every=save_every)
    size = parallel.block_size(len(seeds) * (1 + len(changes)), mesh, at_once)
    interrupt = Interrupt()
    with interrupt.listening(), progress_bar(plan.total_steps, shown=progress) as bar:
        bench = Bench(
            program(net, training, mesh, len(data.splits)), put_data(data, training, mesh), mesh, size, len(data.splits),
            training.evaluation_interval, store, interrupt, bar,
        )  # fmt: skip
        select = pruner(
            net, training, mesh, score, pruning.scope, pruning.exclude, pruning.score_batches, pruning.score_batch_size
        )
        search = _Search(plan, bench, select)
        for level in range(pruning.levels + 1):
            bar.set_description(f"level {level} of {pruning.levels}, {100 * plan.densities[level]:.3g}% of weights")
            search.level(level)
    runs = Runs(
        net, data, training, pruning, seeds, "ticket", tuple(search.histories), search.tickets, search.origin,
        tuple(search.costs), None if store is None else store.path, mesh, size,
    )  # fmt: skip
    if store is not None:
        runs.save()
        store.forget_state()
    return runs


def named_changes(branches: Sequence[str | Change]) -> dict[str, Change]:
    """Branch names and their functions, in order."""
    if isinstance(branches, str) or callable(branches):
        branches = (branches,)
    changes = {}
    for given in branches:
        function = from_table("branches", given, BRANCHES)
        name = given if isinstance(given, str) else getattr(given, "__name__", "branch")
        if name in changes or name == "ticket":
            raise ValueError(f"`branches` holds the name {name!r} twice; give each change function a name of its own")
        changes[name] = function
    return changes


class _Plan(NamedTuple):
    """What a search for tickets does, before anything runs."""

    net: Network
    data: Data
    training: Training
    pruning: Pruning
    seeds: tuple[int, ...]
    changes: dict[str, Change]

    @property
    def like(self) -> tuple[Params, Stats]:
        """Shapes of params and statistics."""
        return jax.eval_shape(self.net.init, jax.random.key(0))

    @property
    def prunable(self) -> Any:
        return prunable_of(self.net, self.like[0], self.pruning.exclude)

    @property
    def densities(self) -> np.ndarray:
        return (1 - self.pruning.fraction) ** np.arange(self.pruning.levels + 1, dtype=np.float64)

    def keep(self, level: int) -> np.ndarray:
        """Weights that a level keeps, int32: one number, or one per layer."""
        params, p = self.like[0], self.pruning
        if p.scope == "layer":
            return layer_counts(
                params, float(self.densities[level]), prunable=self.prunable, level=level, rates=p.rates
            )
        size = masks.prunable_size(params, prunable=self.prunable)
        return np.asarray(round(float(self.densities[level]) * size), np.int32)

    @property
    def total_steps(self) -> int:
        """Steps of all replicas and levels."""
        dense = self.training.steps
        ticket = dense if self.pruning.rewind == "learning_rate" else dense - self.pruning.rewind_step
        branch = dense if self.pruning.rewind_step == 0 else ticket
        levels = self.pruning.levels
        return len(self.seeds) * (dense + levels * ticket + len(self.changes) * (dense + levels * branch))


def job_plan(training: Training, count: int, *, order: int = 0) -> Plan:
    """The same plan for so many jobs, as host arrays."""
    one = Plan(schedule(training), np.int32(order))  # type: ignore[arg-type]
    return jax.tree.map(lambda x: np.broadcast_to(x, (count, *np.shape(x))).copy(), one)


def changed(
    change: Change,
    ticket: Ticket,
    seeds: Sequence[int],
    *,
    name: str,
    net: Network,
    mesh: Mesh,
    exclude: tuple[str, ...] = (),
) -> Ticket:
    """A change applied to a ticket stacked over [replica], each with its seed's stream for this branch and level.

    Raises:
      ValueError: where the change returns another tree.
    """
    count = len(seeds)
    padded = parallel.block_size(count, mesh, None)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    inputs = parallel.put(parallel.pad((ticket, keys), padded), mesh)
    result = _changer(change, name, net, mesh, exclude)(np.zeros(padded, np.int32), *inputs)
    return take(parallel.host(result), 0, count)


@functools.lru_cache(maxsize=64)
def _changer(change: Change, name: str, net: Network, mesh: Mesh, exclude: tuple[str, ...]) -> Any:
    # a change may only move what is pruned
    limited = dataclasses.replace(net, prunable=lambda params: prunable_of(net, params, exclude))

    def one(limit: jax.Array, ticket: Ticket, key_data: jax.Array) -> Ticket:
        del limit
        key = stream(jax.random.wrap_key_data(key_data), f"branch {name}", ticket.level)
        result = change(ticket, key, net=limited)
        trees.same_structure("change", result.mask, ticket.mask)
        trees.same_structure("change", result.params, ticket.params)
        return result

    return parallel.over_replicas(one, mesh)


class _Search:
    """A search under way: what the levels done so far have given."""

    def __init__(self, plan: _Plan, bench: Bench, select: Any) -> None:
        self.plan, self.bench, self.select = plan, bench, select
        self.tickets: dict[int, Ticket] = {}
        self.histories: list[results.History] = []
        self.costs: list[dict[str, Any]] = []
        replicas = len(plan.seeds)
        keys = root_keys(plan.seeds)
        self.keys = np.asarray(jax.random.key_data(keys))
        padded = parallel.pad(self.keys, parallel.block_size(replicas, bench.mesh, None))
        limits = np.zeros(len(padded), np.int32)
        drawn = bench.program.init(limits, jax.random.wrap_key_data(parallel.put(padded, bench.mesh)))
        params, stats = take(parallel.host(drawn), 0, replicas)
        self.initial: tuple[Params, Stats] = (params, stats)
        ones = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
        zeros = np.zeros(replicas, np.int32)
        # the dense weights that tickets rewind to; of a rewind step above 0 they are known after level 0
        self.origin = Ticket(ones, params, stats, zeros, zeros)  # type: ignore[arg-type]
        self.next_masks: dict[int, Mask] = {0: ones}
        self.trained: tuple[Params, Stats] | None = None
        self.size = masks.prunable_size(jax.tree.map(lambda x: x[0], params), prunable=plan.prunable)

    def _start(self, level: int) -> tuple[Ticket, Ticket]:
        """The ticket of a level (training starts there) and the one that changes are made of, with all its weights."""
        mask = self.next_masks[level]
        number = np.full(len(self.plan.seeds), level, np.int32)
        whole = self.origin.replace(mask=mask, level=number)
        if self.plan.pruning.rewind == "learning_rate" and level > 0:
            assert self.trained is not None
            return whole.replace(params=self.trained[0], stats=self.trained[1]), whole
        return whole, whole

    def level(self, level: int) -> None:
        """Trains the tickets of a level and its branches, block by block, and prunes."""
        plan = self.plan
        began = time.perf_counter()
        ticket, whole = self._start(level)
        groups = {"ticket": ticket}
        for name, change in plan.changes.items():
            groups[name] = changed(
                change, whole, plan.seeds, name=name, net=plan.net, mesh=self.bench.mesh, exclude=plan.pruning.exclude
            )
        everything = join(list(groups.values()))
        count = len(everything.step)
        order = level if plan.pruning.order == "fresh" else 0
        jobs = Jobs(
            everything.params,
            everything.stats,
            everything.mask,
            np.concatenate([self.keys] * len(groups)),
            np.asarray(everything.step, np.int32),
            job_plan(plan.training, count, order=order),
        )
        prepared = time.perf_counter() - began
        blocks = []
        for number, begin in enumerate(range(0, count, self.bench.size)):
            name = f"level-{level:03d}-block-{number:03d}"
            blocks.append(self._unit(name, level, take(jobs, begin, begin + self.bench.size), begin))
        self._finish(level, list(groups), jobs, blocks, prepared)

    def _unit(self, name: str, level: int, jobs: Jobs, begin: int) -> Arrays:
        store = self.bench.folder
        if store is not None:
            arrays = store.load(name)
            if arrays is not None:
                self.bench.bar.update(int((jobs.plan.schedule.stop - jobs.start).sum()))
                return arrays
        plan = self.plan
        # the tickets come first, then the branches, which are not pruned
        own = max(0, min(len(plan.seeds) - begin, len(jobs.start)))
        k = plan.pruning.rewind_step
        trained = train_jobs(self.bench, jobs, name, snapshot_at=k if level == 0 and k > 0 else None)
        arrays = {
            "steps": trained.steps,
            "wanted": trained.wanted,
            "values": trained.values,
            "diverged": trained.diverged,
            "seconds": np.asarray(trained.seconds),
            "tickets": np.asarray(own),
        }
        began = time.perf_counter()
        if own:
            for target in self._targets(level):
                mask = self._pruned(trained, jobs, own, begin, target)
                arrays |= {f"mask-{target:03d}/{p}": x for p, x in _leaves(masks.pack(mask))}
            if plan.pruning.rewind == "learning_rate":
                final = take(parallel.host((trained.state.params, trained.state.stats)), 0, own)
                arrays |= {f"trained/{p}": x for p, x in _leaves(final)}
            if trained.snapshot is not None:
                arrays |= {f"origin/{p}": x for p, x in _leaves(take(trained.snapshot, 0, own))}
        arrays["prune_seconds"] = np.asarray(time.perf_counter() - began)
        if store is not None:
            store.save(name, arrays)
        return arrays

    def _targets(self, level: int) -> list[int]:
        """The levels whose masks come from the weights of this one."""
        last = self.plan.pruning.levels
        if self.plan.pruning.one_shot:
            return list(range(1, last + 1)) if level == 0 else []
        return [level + 1] if level < last else []

    def _pruned(self, trained: Trained, jobs: Jobs, own: int, begin: int, target: int) -> Mask:
        bench, size = self.bench, self.bench.size
        keep = self.plan.keep(target)
        # replicas of branches are not pruned: their limit of 0 says so
        limits = (np.arange(size) < own).astype(np.int32)
        initial = parallel.pad(take(self.initial[0], begin, begin + own), size)
        mask, fault, regrown = self.select(
            limits,
            trained.state,
            parallel.put(initial, bench.mesh),
            parallel.put(np.broadcast_to(keep, (size, *keep.shape)).copy(), bench.mesh),
            parallel.put(np.full(size, target, np.int32), bench.mesh),
            bench.data,
        )
        mask, fault, regrown = take(parallel.host((mask, fault, regrown)), 0, own)
        if fault.any():
            seed = self.plan.seeds[begin + int(np.argmax(fault))]
            raise ValueError(
                f"`score` gives numbers that are not finite for finite weights (level {target}, seed {seed}); "
                f"mend the score, or compute it in float64 (jax_enable_x64)"
            )
        if regrown.any():
            raise RuntimeError(f"pruned weights came back in training (level {target - 1}): please report this")
        masks.require_nested(mask, take(jobs.mask, 0, own))
        return mask

    def _finish(
        self, level: int, names: list[str], jobs: Jobs, blocks: list[Arrays], prepared: float
    ) -> None:
        plan, replicas = self.plan, len(self.plan.seeds)
        history = history_arrays(blocks)
        for target in self._targets(level):
            self.next_masks[target] = _unpacked(blocks, f"mask-{target:03d}/", plan.like[0])
        if plan.pruning.rewind == "learning_rate" and not (plan.pruning.one_shot and level > 0):
            self.trained = _rebuilt(blocks, "trained/", plan.like)
        if level == 0 and plan.pruning.rewind_step > 0:
            params, stats = _rebuilt(blocks, "origin/", plan.like)
            steps = np.full(replicas, plan.pruning.rewind_step, np.int32)
            self.origin = self.origin.replace(params=params, stats=stats, step=steps)
        for i, name in enumerate(names):
            mine = slice(i * replicas, (i + 1) * replicas)
            start = take(jobs, mine.start, mine.stop)
            number = np.full(replicas, level, np.int32)
            ticket = Ticket(start.mask, host_apply(start.mask, start.params), start.stats, number, start.start)
            if name == "ticket":
                # the dense ticket of a run that rewinds to k is the network at step k
                self.tickets[level] = self.origin if level == 0 else ticket
            diverged = history["diverged"][mine]
            self.histories.append(
                results.History(
                    np.asarray(plan.seeds), level, density(plan.net, plan.pruning, ticket), name,
                    history["steps"][:, mine], history["wanted"][:, mine], history["values"][:, mine],
                    diverged, np.ones(replicas),
                )  # fmt: skip
            )
            report_diverged(self.bench.bar, f"level {level}, {name}", plan.seeds, diverged)
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


def history_arrays(blocks: list[Arrays]) -> Arrays:
    """Steps, evaluations and divergence of all jobs of several blocks, which may have made different calls."""
    calls = max(len(b["steps"]) for b in blocks)

    def longer(x: np.ndarray, fill: Any) -> np.ndarray:
        missing = np.full((calls - len(x), *x.shape[1:]), fill, x.dtype)
        return np.concatenate([x, missing])

    result = {"diverged": np.concatenate([b["diverged"] for b in blocks])}
    for name, fill in (("steps", 0), ("wanted", False), ("values", np.nan)):
        result[name] = np.concatenate([longer(b[name], fill) for b in blocks], axis=1)
    return result


def report_diverged(bar: Any, where: str, seeds: Sequence[int], diverged: np.ndarray) -> None:
    """Says which replicas diverged, and when."""
    for replica in np.flatnonzero(diverged >= 0):
        bar.write(
            f"{where}, seed {seeds[replica]}: the loss was not finite at step {diverged[replica]}; this replica keeps "
            f"its mask from here on, the others go on"
        )


def _leaves(tree: Any) -> list[tuple[str, np.ndarray]]:
    return [(p, np.asarray(x)) for p, x in zip(trees.paths(tree), jax.tree.leaves(tree), strict=True)]


def _unpacked(blocks: list[Arrays], prefix: str, like: Params) -> Mask:
    """Masks stacked over [replica] from the bits that blocks hold; `like` has the shapes of one replica."""
    parts = []
    for block in blocks:
        count = int(block["tickets"])
        if count:
            shapes = jax.tree.map(lambda x, n=count: jax.ShapeDtypeStruct((n, *x.shape), bool), like)
            bits = [block[prefix + name] for name in trees.paths(like)]
            parts.append(masks.unpack(jax.tree.unflatten(jax.tree.structure(like), bits), shapes))
    return join(parts)


def _rebuilt(blocks: list[Arrays], prefix: str, like: Any) -> Any:
    names = trees.paths(like)
    leaves = [np.concatenate([b[prefix + name] for b in blocks if prefix + name in b]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)

