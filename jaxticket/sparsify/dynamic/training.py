"""Sparse training: networks that are sparse from their first step, under a mask rule."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _identity, _tree, masks
from jaxticket._check import distinct_seeds, hashable, naming, nearest, shown
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.loop import Arrays, Jobs, Trained, take
from jaxticket.engine.program import check_fit, program
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.problem import Problem
from jaxticket.random import stream
from jaxticket.runs import Runs
from jaxticket.settings import PruningAtStep, Training, order_of
from jaxticket.sparsify.dynamic.learner import Dynamic, MaskRule
from jaxticket.sparsify.dynamic.static import Static
from jaxticket.sparsify.runner import Group, Runner
from jaxticket.ticket import Ticket, host_apply
from jaxticket.typing import Mask, Network, Params

STATIC = Static()
RULES: dict[str, MaskRule] = {"static": STATIC}


@dataclass(frozen=True)
class SparseTraining(PruningAtStep):
    """How `jt.sparse_train` finds masks.

    Attributes:
      rule: how they change during training.
    """

    rule: MaskRule = STATIC


def sparse_train(
    net: Network,
    data: Data | Stream,
    training: Training,
    rule: str | MaskRule = "static",
    *,
    density: float | Sequence[float],
    seeds: Iterable[int] = range(5),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs:
    """Trains sparse networks from their first step under a mask rule: seeds and densities side by
    side.

    The rule makes the first mask and moves it inside the compiled steps. An update keeps the number
    of weights, weights that it grows start at zero, and the moments of weights that it prunes or
    grows are new; between updates the mask stays. That the number stayed is asserted.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream; with a validation split its loss is evaluated too.
      training: how networks are trained.
      rule: a name in `jt.RULES`, or an object with `init`, `when` and `update` (see
        `jt.dynamic.MaskRule`).
      density: share of prunable weights to keep, or several: level n of the runs is the n-th.
      seeds: one replica each of each density.
      runtime: mesh, folder and the like in one; leave the arguments that follow out then.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.

    Returns:
      Runs whose level n is the n-th density. Its tickets have the masks that training ends with and
      the weights of initialization; no dense network is trained.

    Raises:
      ValueError: for settings that do not fit together, a rule without the methods of one, or whose
        first mask is no mask of the network, and a folder with other settings or code.
      RuntimeError: where a rule changed the number of weights.

    Reference: Evci et al. 2020 (RigL), for the form of mask rules.
    """
    chosen = _checked(rule)
    pruning = SparseTraining(density, rule=chosen)  # type: ignore[arg-type]
    seeds = distinct_seeds(seeds)
    runtime = settled(
        runtime, mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    )
    check_fit(net, data, training, runtime.devices)
    firsts = [_first(net, runtime.devices, chosen, share) for share in pruning.densities]
    settings = _identity.run(
        "sparse_train", net, data, training=training, pruning=pruning, seeds=seeds
    )
    count = len(seeds) * len(firsts)
    size = runtime.replicas_per_call(count)
    steps = training.steps * count
    with runtime.run(net, data, training, settings, size=size, steps=steps) as run:
        learner = Dynamic(net, training, chosen)
        run = dataclasses.replace(run, program=program(learner, run.mesh))
        runner = Runner(run, net, pruning, seeds)
        params, stats = initial_networks(net, run.mesh, runner.keys)
        zeros, none = np.zeros(len(seeds), np.int32), np.zeros(len(seeds), bool)
        ones = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
        origin = Ticket(ones, params, stats, zeros, zeros)  # type: ignore[arg-type]
        tickets, groups = {}, []
        for level, (share, first) in enumerate(zip(pruning.densities, firsts, strict=True), 1):
            own = origin.replace(mask=first(runner.keys), level=zeros + level)
            tickets[level] = own
            groups.append(
                Group(
                    "ticket",
                    level,
                    functools.partial(tickets.__getitem__, level),
                    training,
                    order_of(pruning, level),
                    none,
                    title=f"density {share:g}",
                )
            )
        run.describe(f"sparse training of {len(firsts)} densities")
        trained = runner.train(groups, keep=_kept)
        final = _masks(trained.blocks, net.shapes[0])
        for level in tickets:
            mask = take(final, (level - 1) * len(seeds), level * len(seeds))
            own = tickets[level].replace(mask=mask, params=host_apply(mask, params))
            tickets[level] = own
        runs = Runs(
            net=net,
            data=data,
            training=training,
            pruning=pruning,
            seeds=seeds,
            branch="ticket",
            histories=tuple(trained.logs),
            by_level=tickets,
            origin=origin,
            costs=tuple(trained.costs),
            folder=run.path,
            mesh=run.mesh,
            size=size,
        )
        run.finish(runs.save)
    return runs


def _checked(rule: str | MaskRule) -> MaskRule:
    """The rule by its name, or the user's own."""
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(
                f"`rule` is unknown: {rule!r}; {nearest(rule, RULES)}, or pass a mask rule"
            )
        return RULES[rule]
    if isinstance(rule, type) or not all(
        callable(getattr(rule, name, None)) for name in ("init", "when", "update")
    ):
        raise ValueError(
            f"`rule` must be a name in jt.RULES, or an object with the methods `init`, `when` and "
            f"`update`, got {shown(rule)}"
        )
    return hashable("rule", rule)


def _first(
    net: Network, mesh: Mesh, rule: MaskRule, density: float
) -> Callable[[np.ndarray], Mask]:
    """Makes the first masks, host arrays [replica, ...] from key data.

    Raises:
      ValueError: for a rule whose first mask is no mask of the network, or keeps nothing.
    """
    like, _ = net.shapes
    size = masks.prunable_size(like, prunable=net.prunable_leaves())
    if not round(density * size):
        raise ValueError(
            f"`density` {density:g} keeps none of the {size:,} weights; use at least {1 / size:.2g}"
        )
    problem = Problem(net, None, Training())

    def one(key: jax.Array) -> Mask:
        return rule.init(problem, density, key=stream(key, "rule"))

    with naming("rule", rule):
        found = jax.eval_shape(one, jax.random.key(0))
        masks.require_bools("rule", found)
        _tree.same_structure("rule", found, like)

    def first(keys: np.ndarray) -> Mask:
        room = parallel.block_size(len(keys), mesh, None)
        padded = parallel.pad(keys, room)
        typed = jax.random.wrap_key_data(parallel.put(padded, mesh))
        run = parallel.over_replicas(lambda limit, key: _tree.varying_like(one(key), key), mesh)
        return take(parallel.host(run(np.zeros(room, np.int32), typed)), 0, len(keys))

    return first


def _kept(trained: Trained, jobs: Jobs, first: int) -> Arrays:
    """The last masks of a block, as bits."""
    del first
    count = len(jobs.start)
    found = take(parallel.host(trained.state.mask), 0, count)
    return {
        f"mask/{path}": np.packbits(m.reshape(count, -1), axis=1)
        for path, m in _tree.leaves(found).items()
    }


def _masks(blocks: Sequence[Arrays], like: Params) -> Mask:
    """The last masks of all blocks, host arrays [job, ...]."""
    found = {}
    for path, x in _tree.leaves(like).items():
        bits = np.concatenate([block[f"mask/{path}"] for block in blocks])
        kept = np.unpackbits(bits, axis=1, count=int(np.prod(x.shape))).astype(bool)
        found[path] = kept.reshape(len(bits), *x.shape)
    return _tree.unflatten(found, like)
