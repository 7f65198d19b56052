"""Sparse training: networks that are sparse from their first step, under a mask rule."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.sharding import Mesh

from jaxticket import _identity, _show, _tree, masks
from jaxticket._check import (
    flag,
    hashable,
    naming,
    nearest,
    or_none,
    refusing,
    settle,
    shown,
    texts,
)
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import Networks, dense_rows, initial_networks, train_dense
from jaxticket.engine.loop import Arrays, Jobs, Trained, join, report_diverged, take
from jaxticket.engine.monitors import monitors_of
from jaxticket.engine.runtime import OnEvaluation, Runtime
from jaxticket.engine.selected import trained_part
from jaxticket.engine.supervised import Origin
from jaxticket.nn.pruned import pruned_line
from jaxticket.problem import Problem
from jaxticket.pruning.structures.settings import (
    StructureLike,
    checked,
    implied,
    labeled,
    unit_counts,
    units_in,
)
from jaxticket.pruning_settings import PruningAtStep
from jaxticket.random import stream
from jaxticket.results import EvaluationLog
from jaxticket.runs import Runs, density
from jaxticket.settings import Training
from jaxticket.sparsify.at_step import checked_densities
from jaxticket.sparsify.cohorts import extension, in_cohorts
from jaxticket.sparsify.cost import (
    Cost,
    of_training,
    seconds_of,
    steps_of_level,
    total,
    whole_or_mean,
)
from jaxticket.sparsify.dynamic.ac_dc import ACDC
from jaxticket.sparsify.dynamic.gradual import Gradual
from jaxticket.sparsify.dynamic.iterative import Iterative
from jaxticket.sparsify.dynamic.learner import Dynamic
from jaxticket.sparsify.dynamic.movement import Movement
from jaxticket.sparsify.dynamic.rigl import RigL
from jaxticket.sparsify.dynamic.rule import MaskRule, state_of_rule
from jaxticket.sparsify.dynamic.set import SET
from jaxticket.sparsify.dynamic.static import Static
from jaxticket.sparsify.dynamic.straight_through import StraightThrough
from jaxticket.sparsify.dynamic.top_kast import TopKAST
from jaxticket.sparsify.plan import Plan, planned
from jaxticket.sparsify.runner import Group, Runner, Weights
from jaxticket.sparsify.strategy import dense_ticket, packed, report_collapse, unpacked
from jaxticket.ticket import Ticket
from jaxticket.typing import InitialWeights, Mask, Network, Params, TrainState

STATIC = Static()
RULES: dict[str, MaskRule] = {
    "static": STATIC,
    "gradual": Gradual(),
    "gradual_linear": Gradual(power=1.0),
    "iterative": Iterative(),
    "set": SET(),
    "rigl": RigL(),
    "rigl_uniform": RigL("uniform_dense_first"),
    "straight_through": StraightThrough(),
    "straight_through_random": StraightThrough(score="random"),
    "ac_dc": ACDC(),
    "top_kast": TopKAST(),
}
"""Mask rules that `jt.sparse_train` knows by name."""
_TIMES = ("begin", "end", "every")


@dataclass(frozen=True)
class SparseTraining(PruningAtStep):
    """How `jt.sparse_train` finds masks.

    Attributes:
      rule: how they change during training.
      structure: weights that are kept or pruned together (`jt.structures`); None for single
        weights.
    """

    rule: MaskRule = STATIC
    structure: StructureLike | None = dataclasses.field(
        default=None, kw_only=True, metadata={"newer": True}
    )

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, or_none(checked), "structure")

    @property
    def name(self) -> str:
        """The rule's name in `jt.RULES`, whenever it updates; of another one that of its class.

        With the structure, where there is one.
        """

        def what(rule: MaskRule) -> tuple[type, tuple[object, ...]]:
            fields = dataclasses.fields(rule) if dataclasses.is_dataclass(rule) else ()
            names = [field.name for field in fields if field.name not in _TIMES]
            return type(rule), tuple(getattr(rule, name) for name in names)

        own = what(self.rule)
        known = (name for name, rule in RULES.items() if what(rule) == own)
        return labeled(next(known, type(self.rule).__name__), self.structure)

    def rule_of(self, net: Network) -> MaskRule:
        """The rule for the structure on a network.

        Raises:
          ValueError: for layers, densities and rules that the structure does not fit.
        """
        if (units := units_in(net, self.structure, self.exclude)) is None:
            return self.rule
        for share in self.densities:
            unit_counts(units, implied("density", share, units), 1)
        return self.rule.structured(units)

    def moves(self, steps: int) -> bool:
        """Whether the rule updates the mask in so many steps."""
        return len(self._updates(steps)) > 0

    def _updates(self, steps: int) -> np.ndarray:
        return np.flatnonzero(jax.vmap(self.rule.when)(jnp.arange(steps, dtype=jnp.int32)))

    def cost(self, runs: Runs, level: int) -> Cost:
        """The steps up to the last update of the mask, and the dense gradients of all updates.

        Nothing for a mask that stays as it was drawn.
        """
        steps = steps_of_level(runs, level)
        at = self._updates(int(steps))
        if not len(at):
            return Cost()
        last = int(at[-1])
        seconds = seconds_of(runs, "replicas*", "train_seconds")
        each = seconds / (len(runs.seeds) * len(self.densities)) * last / steps
        moved = len(at) if _looks(runs.net, runs.training, self.rule) else 0
        # a gradient takes what a step takes, and is no step of training
        dense = of_training(runs, moved)._replace(training_steps=0.0)
        return total(of_training(runs, last, seconds=each), dense)


def _looks(net: Network, training: Training, rule: MaskRule) -> bool:
    """Whether a rule looks at the dense gradient."""
    if rule.latent:
        return False

    def state(key: jax.Array) -> TrainState:
        params, stats = net.init(key)
        made = rule.init(Problem(net, None, Training()), 1.0, key=key)
        mask, memory = made if isinstance(made, tuple) else (made, ())
        origin = Origin(params, stats, mask, jax.tree.map(jnp.asarray, memory))
        return Dynamic(net, training, rule).start(origin, jnp.int32(0), key=key)

    key = jax.eval_shape(lambda: jax.random.key(0))

    def moved(gradient: Params, state: TrainState, step: jax.Array, key: jax.Array) -> object:
        new = rule.update(state, gradient, step=step, key=key)
        return new.mask, state_of_rule(new).memory

    step = jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.make_jaxpr(moved)(net.shapes[0], jax.eval_shape(state, key), step, key).jaxpr
    gradient = set(traced.invars[: len(jax.tree.leaves(net.shapes[0]))])
    used = [*traced.outvars, *(x for eqn in traced.eqns for x in eqn.invars)]
    return any(x in gradient for x in used if not isinstance(x, Literal))


@refusing(
    rewind="masks that move train in one go, and nothing is rewound; pass weights to start from as "
    "`init`, or rewind with jt.find_tickets"
)
def sparse_train(
    net: Network,
    data: Data | Stream,
    training: Training,
    rule: str | MaskRule = "static",
    *,
    density: float | Sequence[float] | None = None,
    dense: bool = False,
    exclude: Sequence[str] = (),
    structure: StructureLike | None = None,
    seeds: Iterable[int] = range(5),
    init: InitialWeights | None = None,
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
) -> Runs:
    """Train sparse networks under a mask rule from their first step.

    The rule makes the first mask and changes it inside the compiled steps. Every update keeps
    exactly as many weights as the rule says, which is asserted. Weights that it grows start at
    zero, and the optimizer's moments of weights that it prunes or grows are reset. Between updates
    the mask stays. `runs.monitored()` has the density at every evaluation and how the mask moved.
    Seeds and densities train side by side.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream; with a validation split its loss is evaluated too.
      training: how networks are trained.
      rule: a name in `jt.RULES`, such as "rigl"; an object of one of their classes with other
        settings, such as `jt.dynamic.RigL(every=50)`; or your own rule, which derives from
        `jt.dynamic.MaskRule`.
      density: share of prunable weights to keep, or several: level n of the runs is the n-th. With
        a structure, the share of its units; None for structures that imply it.
      dense: also train the dense networks, as level 0: what `matching` compares with.
      exclude: patterns of paths, such as "dense_2", that stay dense and are not counted; layouts
        and rules see the network as if they could not be pruned.
      structure: weights that are kept or pruned together, as of `prune_at`: rules drop and grow
        whole blocks, and of "N:M" and ("fan_in", k) the same number in every group. Whole channels
        are pruned by rules that bring none back ("gradual", "iterative", `jt.dynamic.Static`).
      seeds: one replica each of each density.
      init: weights that training starts from: params, or (params, statistics), of one network or
        with a leading axis [seed], such as `runs.trained(0)`; None for those that the network
        draws. See `Network.with_params`.
      keep: "trained" also keeps the networks as they are after training (`Runs.trained`).
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there, and one that is finished
        takes more seeds and densities. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all seeds of a density, on GPU and
        TPU of all densities.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs whose level n is the n-th density. Its tickets have the masks that training ends with and
      the weights of initialization; the table has the networks that were trained under the rule.
      `jt.branch(runs, "retrain")` trains the tickets under masks that stay.

    Raises:
      ValueError: for settings that do not fit together, a rule without the methods of one, or whose
        first mask is no mask of the network, and a folder with other settings or code.
      RuntimeError: where a rule changed the number of weights.

    Reference: Evci et al. 2020 (RigL), for the form of mask rules.

    Example:
      `jt.sparse_train(net, data, training, "rigl", density=(0.2, 0.1), dense=True)`
    """
    plan = planned(
        net, data, training, seeds=seeds, branches=(), init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    flag("dense", dense)
    chosen = _checked(rule).for_training(plan.training)
    excluded = texts("exclude", exclude, like='("dense_2",)')
    if chosen.latent and plan.training.ema is not None:
        raise ValueError(
            f"`ema` {plan.training.ema:g} averages weights under one mask, and "
            f"{type(chosen).__name__} trains weights that its mask leaves out: their averages "
            f"would be those of other networks; leave `ema` out"
        )
    _require_trained(plan.net, plan.training, chosen, excluded)
    densities = checked_densities(density, structure, plan.net, excluded)
    pruning = SparseTraining(densities, exclude=excluded, rule=chosen, structure=structure)
    bound = pruning.rule_of(plan.net)
    # before anything is trained
    firsts = [
        _first(_without(plan.net, pruning.exclude), plan.runtime.devices, bound, share)
        for share in pruning.densities
    ]
    settings = _identity.run(
        "sparse_train", plan.net, data, training=plan.training, pruning=pruning, seeds=plan.seeds,
        **({"dense": True} if dense else {}), **plan.keep.settings,
    )  # fmt: skip
    (runs,) = in_cohorts(
        plan, settings, functools.partial(_run_cohort, pruning=pruning, firsts=firsts, dense=dense)
    )
    return runs


FirstMask = Callable[[np.ndarray], tuple[Mask, object]]
"""Makes first masks and memories, host arrays [replica, ...], from key data."""


def _run_cohort(
    plan: Plan,
    settings: dict[str, object],
    pruning: SparseTraining,
    firsts: Sequence[FirstMask],
    dense: bool,
    *,
    save: bool,
) -> list[Runs]:
    """Runs of seeds that are trained together."""
    net, data, training, seeds = plan.net, plan.data, plan.training, plan.seeds
    exclude, count = pruning.exclude, len(seeds) * len(firsts)
    prunable = masks.prunable_size(net.mask(exclude))
    # where they run one after another, blocks of a density each: those that are appended follow
    together = len(seeds) if parallel.maps(plan.runtime.devices) else count
    size = plan.runtime.replicas_per_call(together)
    steps = training.steps * (count + (len(seeds) if dense else 0))
    with plan.runtime.run(
        net, data, training, settings, size=size, steps=steps, extends=extension
    ) as run:
        run.begins(pruned_line(net, exclude))
        runner = Runner(
            run, net, data, training, seeds, Dynamic(net, training, pruning.rule_of(net))
        )
        initial = initial_networks(net, run.mesh, runner.keys)
        origin = dense_ticket(net, initial, 0, exclude)
        whole = _Dense({}, [], [], Weights({}, {}))
        if dense:
            whole = _dense(runner, plan, initial, exclude)
        none, tickets, groups = np.zeros(len(seeds), bool), {}, []
        for level, (share, first) in enumerate(zip(pruning.densities, firsts, strict=True), 1):
            mask, memory = first(runner.keys)
            own = origin.replace(mask=mask, level=np.full_like(origin.level, level))
            tickets[level] = own
            groups.append(
                Group(
                    "ticket",
                    level,
                    functools.partial(tickets.__getitem__, level),
                    training,
                    pruning,
                    pruning.noise(level),
                    none,
                    title=f"density {share:g}",
                    density=np.full(len(seeds), round(share * prunable) / prunable),
                    memory=memory,
                )
            )
        monitors = *monitors_of(training), Movement(training.evaluation_interval)
        trained = runner.train(groups, keep=_kept, weights=plan.keep, monitors=monitors)
        weights = whole.weights
        for group, own in zip(groups, trained.kept, strict=True):
            weights.add(group, own)
        final = join([unpacked(block, "mask", net.mask(exclude)) for block in trained.blocks])
        remedy = "; `scope`='layer' of the rule keeps some of each"
        for group, (level, own) in zip(groups, tickets.items(), strict=True):
            mask = take(final, (level - 1) * len(seeds), level * len(seeds))
            ranked = getattr(pruning.rule, "scope", None) == "global"
            report_collapse(run, seeds, mask, group.called, remedy if ranked else "")
            tickets[level] = own.replace(mask=mask).masked()
        logs = [
            log._replace(density=density(net, pruning, tickets[log.level])) for log in trained.logs
        ]
        runs = runner.runs(
            pruning,
            branch="ticket",
            logs=[*whole.logs, *logs],
            tickets={**whole.tickets, **tickets},
            origin=origin,
            costs=[*whole.costs, *trained.costs],
            lost={},
            weights=weights,
        )
        run.finish(*([runs.save] if save else []))
    return [runs]


class _Dense(NamedTuple):
    """What level 0 adds to runs: its tickets, evaluations, costs and networks that were kept."""

    tickets: dict[int, Ticket]
    logs: list[EvaluationLog]
    costs: list[dict[str, str | float]]
    weights: Weights


def _dense(runner: Runner, plan: Plan, initial: Networks, exclude: tuple[str, ...]) -> _Dense:
    """The dense networks, trained to the end."""
    net, training, seeds = runner.net, runner.training, runner.seeds
    runner.run.describe("dense")
    states = train_dense(
        runner.run, net, training, runner.keys, initial, [training.steps],
        monitors=monitors_of(training), exclude=exclude, weights=plan.keep.trained,
        weights_at=plan.keep.at, about=dense_rows(seeds, "ticket"),
    )  # fmt: skip
    report_diverged(runner.run, "dense", seeds, states.diverged)
    log = EvaluationLog.of_group(
        states.history, 0, seeds=seeds, level=0, density=np.ones(len(seeds)), branch="ticket"
    )
    steps = whole_or_mean(states.steps / len(seeds))
    cost = {"unit": "dense", "train_seconds": states.seconds, "training_steps": steps}
    weights = Weights({}, {})
    if states.trained is not None:
        weights.final["ticket", 0, 1.0] = dense_ticket(net, states.trained, training.steps, exclude)
    for step, networks in states.kept.items():
        weights.at["ticket", 0, 1.0, step] = dense_ticket(net, networks, step, exclude)
    return _Dense({0: dense_ticket(net, initial, 0, exclude)}, [log], [cost], weights)


def _without(net: Network, exclude: tuple[str, ...]) -> Network:
    """The network as if layers that are excluded could not be pruned, for rules and layouts."""
    if not exclude:
        return net
    net.prunable_leaves(exclude)
    return dataclasses.replace(net, prunable=lambda _: net.prunable_leaves(exclude))


def _require_trained(
    net: Network, training: Training, rule: MaskRule, exclude: tuple[str, ...]
) -> None:
    """Raise where a rule would bring weights back that are frozen, and so stay zero.

    Raises:
      ValueError: that names the layers.
    """
    if training.trainable is None or not rule.grows:
        return
    part = _tree.leaves(trained_part(training, net.shapes[0]))
    pruned = _without(net, exclude).mask()
    if frozen := [path for path, _ in masks.items(pruned) if path not in part]:
        raise ValueError(
            f"`trainable` {training.trainable!r} leaves out {', '.join(map(repr, frozen))}, where "
            f"{type(rule).__name__} may bring weights back that would stay zero; pass them as "
            f"`exclude`, or train them"
        )


def _checked(rule: str | MaskRule) -> MaskRule:
    """The rule by its name, or the user's own."""
    if isinstance(rule, str):
        if rule not in RULES:
            raise ValueError(
                f"`rule` is unknown: {rule!r}; {nearest(rule, RULES)}, or pass a mask rule"
            )
        return RULES[rule]
    if not isinstance(rule, MaskRule):
        raise ValueError(
            f"`rule` must be a name in jt.RULES, or an object of a class that derives from "
            f"jt.dynamic.MaskRule, got {shown(rule)}"
        )
    if getattr(rule, "rewind", None) is not None:
        raise ValueError(
            f"`rewind` of `rule` {shown(rule)} means nothing in sparse_train, where training goes "
            f"on from one mask to the next; pass weights to start from as `init`, or rewind with "
            f"jt.find_tickets"
        )
    return hashable("rule", rule)


def _first(net: Network, mesh: Mesh, rule: MaskRule, density: float) -> FirstMask:
    """Makes the first masks and memories, host arrays [replica, ...] from key data.

    Raises:
      ValueError: for a rule whose first mask is no mask of the network, or keeps nothing.
    """
    size = masks.prunable_size(net.mask())
    if not round(density * size):
        raise ValueError(
            f"`density` {density:g} keeps none of the {size:,} weights; use at least {1 / size:.2g}"
        )
    problem = Problem(net, None, Training())

    def one(key: jax.Array) -> tuple[Mask, object]:
        made = rule.init(problem, density, key=stream(key, "rule"))
        mask, memory = made if isinstance(made, tuple) else (made, ())
        return mask, jax.tree.map(jnp.asarray, memory)

    with naming("rule", rule):
        found, _ = jax.eval_shape(one, jax.random.key(0))
        masks.require_bools("rule", found)
        masks.require_like("rule", found, net.shapes[0])

    def first(keys: np.ndarray) -> tuple[Mask, object]:
        room = parallel.block_size(len(keys), mesh, None)
        padded = parallel.pad(keys, room)
        typed = jax.random.wrap_key_data(parallel.put(padded, mesh))
        run = parallel.over_replicas(lambda limit, key: _tree.varying_like(one(key), key), mesh)
        mask, memory = take(parallel.host(run(np.zeros(room, np.int32), typed)), 0, len(keys))
        return masks.conform(mask, net.mask(lead=(len(keys),)), called="`rule`"), memory

    return first


def _kept(trained: Trained[TrainState], jobs: Jobs, first: int) -> Arrays:
    """The last masks of a block, as bits."""
    del first
    last = parallel.host(trained.state.mask)
    return packed(take(last, 0, len(jobs.start)), "mask")
