"""Score learning: masks of many replicas learned side by side, as a learner."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, masks
from jaxticket._conditions import of_any, where_any
from jaxticket.data.augment import augmented
from jaxticket.engine import parallel
from jaxticket.engine.learner import Batch, Learner, Networks, guarded_update
from jaxticket.engine.metrics import Normalization, normalized
from jaxticket.engine.optim import Schedule, apply_update, fresh_state, learning_rate, schedule
from jaxticket.engine.parallel import Placement
from jaxticket.engine.selected import completed, decaying, trained_part
from jaxticket.engine.supervised import Supervised
from jaxticket.labels import CLASSES, Labels
from jaxticket.nn import flops
from jaxticket.pruning.keep import keep_top
from jaxticket.pruning.structures import Units
from jaxticket.pruning.structures.settings import StructureLike, units_in
from jaxticket.random import stream
from jaxticket.settings import Training, static_part
from jaxticket.sparsify.learned.constraints import Pull
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.objectives import Objective, fades_of, rest_of, teacher_needs_of
from jaxticket.sparsify.learned.teachers import Tutors, begin_tutors, tutored
from jaxticket.sparsify.learned.views import of_dense, of_teachers, viewer
from jaxticket.typing import AnyArray, Array, DecayRule, Key, Mask, Network, Params, Stats

ORDER = 1 << 20
"""Which of the orders of its key a search sees: another one than training does (those of levels
begin at 0, those of copies at `connectivity.copies.FIRST_NOISE`)."""

TRACE = ("expected", "multiplier")
"""What is recorded while a search runs: the expected density, and the constraint's multiplier."""


class ScoreOrigin(NamedTuple):
    """What a search starts from.

    Attributes:
      scores: one for every weight that can be pruned, None at other leaves, as in masks; with a
        structure one for every unit.
      weights, stats: the network; its weights are fixed unless the method learns them too.
      live: which entries may be kept.
      teachers: those that are trained along with the search: (params and statistics [teacher, ...],
        the step of their training); () where there are none.
    """

    scores: Params
    weights: Params
    stats: Stats
    live: Mask
    teachers: tuple[Networks, Array] | tuple[()] = ()


class ScoreState(NamedTuple):
    """One replica's search; outside the compiled program every leaf has a leading replica axis.

    Attributes:
      step, key, diverged: as of every training state.
      scores, weights, stats: as of `ScoreOrigin`.
      live: the entries that are not frozen out.
      optimizer: state of the optax optimizer.
      multiplier: float32, that of the constraint.
      tutors: teachers that are trained along; () where there are none.
    """

    step: Array
    key: Key
    diverged: Array
    scores: Params
    weights: Params
    stats: Stats
    live: Mask
    optimizer: Any
    multiplier: Array
    tutors: Tutors | tuple[()] = ()


class ScorePlan(NamedTuple):
    """What one replica does; every field may differ between replicas of one program.

    Attributes:
      schedule: of one round; `stop` is the end of all of them.
      order, augment: as of `engine.learner.Plan`.
      density: float32, share of the prunable weights to keep.
      keep: int32, entries to keep, or one number per layer; with a structure as of `Units.keep`.
      round, part: int32, steps of a round, and of a part at whose end something happens.
      teachers: params and statistics [teacher, ...]; () where there are none, or where they are
        trained along with the search.
      tutoring: schedule of teachers that are trained along; () where there are none.
    """

    schedule: Schedule
    order: AnyArray
    augment: AnyArray
    density: AnyArray
    keep: AnyArray
    round: AnyArray
    part: AnyArray
    teachers: Networks | tuple[()] = ()
    tutoring: Schedule | tuple[()] = ()


def multiplied(method: Method, soft: Params) -> Params:
    """Give the factors of the weights of the masked network.

    The soft mask; each layer times its size over its number of ones where the method rescales.
    """
    if not method.rescale:
        return soft

    def one(m: Array) -> Array:
        ones = jax.lax.stop_gradient(jnp.sum(m))
        return m * (m.size / jnp.maximum(ones, 1))

    return jax.tree.map(one, soft)


def effective(method: Method, soft: Params, weights: Params) -> Params:
    """The weights of the masked network: those of `multiplied` times `weights`."""
    return masks.map_with(jnp.multiply, multiplied(method, soft), weights, other=lambda w: w)


def of_size_one(gradient: Params, *, together: bool = False) -> Params:
    """Each leaf over its largest absolute entry (or over that of all leaves); zeros stay zeros."""
    most = jax.tree.map(lambda g: jnp.max(jnp.abs(g)), gradient)
    if together:
        largest = jnp.max(jnp.stack(jax.tree.leaves(most)))
        most = jax.tree.map(lambda _: largest, most)
    # the least normal float32: a gradient that is not 0 is brought to 1 whatever its size
    return jax.tree.map(lambda g, m: g / jnp.maximum(m, 1.2e-38), gradient, most)


@dataclasses.dataclass(frozen=True)
class _OfWeights:
    """Weight decay of scores and weights that are learned together: `decay` is that of weights."""

    decay: str | tuple[str, ...] | DecayRule

    def __call__(self, learned: Any) -> Any:
        scores, *weights = learned
        every = jax.tree.map(lambda _: True, scores)
        return every, *(decaying(self.decay, part) for part in weights)


@dataclasses.dataclass(frozen=True)
class ScoreLearner(Learner[ScoreState, ScorePlan, ScoreOrigin]):
    """Learns scores of weights, by which a mask is chosen.

    Attributes:
      net: the network.
      method: what is learned, and how.
      training: the settings of the search, from `Method.training`; times and rates count for
        nothing here, since they come with the plan.
      exclude: patterns of paths that are not pruned.
      tutor: how teachers that are trained along learn; None where there are none.
      structure: weights that are kept or pruned together: each unit has one score, and its weights
        one soft mask; None for single weights. Groups ("2:4", fan-in) are searched by weight, and
        the mask of the end keeps the best of each group.

    Raises:
      ValueError: for an objective that cannot look at this network.
    """

    net: Network
    method: Method
    training: Training
    exclude: tuple[str, ...] = ()
    tutor: Supervised | None = None
    structure: StructureLike | None = None

    def __post_init__(self) -> None:
        net, method, training = self.net, self.method, static_part(self.training)
        if training.decay != "all" and not isinstance(training.decay, _OfWeights):
            training = training.replace(decay=_OfWeights(training.decay))
        object.__setattr__(self, "training", training)
        if "features" in (*method.needs, *method.teacher_needs) and not net.tapped:
            raise ValueError(
                f"`objective` {method.objective!r} compares activations, and this network cannot "
                f"be tapped; give its module a `tap` argument, or choose another objective"
            )
        if "sensitivity" in (*method.needs, *method.teacher_needs) and net.dtype != "float32":
            raise ValueError(
                f"`objective` {method.objective!r} looks at derivatives by the input, and tokens "
                f"have none; leave out 'input_direction', or choose another objective"
            )
        if getattr(method.function, "by_example", False) and jax.tree.leaves(self.like[1]):
            raise ValueError(
                f"`objective` {method.objective!r} looks at examples one by one, and this network "
                f"normalizes over the batch; take jacobian='mean', or a network without BatchNorm"
            )

    @functools.cached_property
    def like(self) -> Networks:
        """Shapes of params and statistics."""
        return self.net.shapes

    @functools.cached_property
    def units(self) -> Units | None:
        """What is kept or pruned together; None for single weights."""
        return units_in(self.net, self.structure, self.exclude)

    def _of_weights(self, soft: Params) -> Params:
        """The soft mask of weights, from that of units."""
        if self.units is None:
            return soft
        height = jnp.float32(self.method.relaxation.height)
        # a weight between two units gets the product of two masks, of which each has this height
        each = jax.tree.map(lambda m: m / height, soft)
        whole = self.units.expand(each, self.net.mask(self.exclude))
        return jax.tree.map(lambda m: m * height, whole)

    def _amounts(self, plan: ScorePlan) -> Array:
        """Scores that stay in the end: in all, or in each layer."""
        keep = jnp.asarray(plan.keep)
        return keep if self.units is None else self.units.amounts(keep, scope=self.method.scope)

    def _possible(self, live: Mask, before: Mask, ranked: Params, plan: ScorePlan) -> Mask:
        """What takes part from here on, and with a structure what its mask would be made of."""
        if self.units is None or live is before:
            return live
        least = self.units.keep(ranked, before, jnp.asarray(plan.keep), scope=self.method.scope)
        return jax.tree.map(jnp.logical_or, live, least)

    def initial_scores(self, density: Array, *, key: Key) -> Params:
        """The scores that a search starts from.

        Args:
          density: float32, share of the prunable weights to keep.
          key: the replica's root key.
        """
        own = stream(key, "search scores")
        # numbered over all leaves of the params
        number, initial = itertools.count(), self.method.relaxation.initial

        def one(m: np.ndarray | None) -> Array | None:
            drawn = stream(own, "leaf", jnp.int32(next(number)))
            return None if m is None else initial(m.shape, density, key=drawn)

        dense = self.net.mask(self.exclude)
        if self.units is not None:
            dense = self.units.alive(dense)
        made = jax.tree.map(one, dense, is_leaf=_tree.is_none)
        return _tree.varying_like(made, density)

    def _learned(self, scores: Params, weights: Params) -> tuple[Params, ...]:
        if not self.method.learn_weights:
            return (scores,)
        return scores, trained_part(self.training, weights)

    def start(self, origin: ScoreOrigin, step: Array, *, key: Key) -> ScoreState:
        """A search at its start, with a fresh optimizer."""
        scores, weights, stats, live, teachers = origin
        if self.units is not None:
            live = self.units.alive(live)
        fresh = fresh_state(self.training, self._learned(scores, weights), step)
        fresh, zero, whole = _tree.varying_like((fresh, jnp.float32(0), jnp.int32(-1)), step)
        tutors: Any = ()
        if self.tutor is not None and teachers:
            networks, begun = teachers
            tutors = begin_tutors(self.tutor, networks, begun)
        return ScoreState(step, key, whole, scores, weights, stats, live, fresh, zero, tutors)

    def step(
        self,
        state: ScoreState,
        batch: Batch,
        plan: ScorePlan,
        active: Array,
        placement: Placement,
    ) -> ScoreState:
        """One update of the scores, and of the weights where the method learns them.

        It diverges where the objective, its gradient, or the scores after it are not finite.
        """
        method, training = self.method, self.training
        if training.augment:
            key = stream(state.key, "augment", plan.augment, state.step)
            first = placement.part[0] * batch.y.shape[0]
            x = augmented(batch.x, training, jnp.asarray(batch.by.mean), key=key, first=first)
            batch = batch._replace(x=x)
        tutors, teachers = state.tutors, plan.teachers
        if self.tutor is not None:
            assert tutors and plan.tutoring, "teachers that are trained along have a schedule"
            tutors = tutored(
                self.tutor, tutors, plan.tutoring, batch, active, key=state.key, placement=placement
            )
            teachers = (tutors.params, tutors.stats)
        within = state.step % plan.round
        done = within.astype(jnp.float32) / plan.round.astype(jnp.float32)
        live = method.relaxation.lasting(state.scores, state.live, self._amounts(plan), done)
        live = self._possible(live, state.live, method.ranked(state.scores), plan)
        found, gradient = self._gradient(state, batch, plan, live, done, teachers, placement)
        gradient = (masks.apply(live, gradient[0]), *gradient[1:])
        rate = learning_rate(plan.schedule, within, kind=training.schedule)
        pull = self._pull(state.scores, live, done, plan, rate)
        balanced, multiplier = method.constraint.balanced(
            gradient[0], state.multiplier, state.step == 0, pull
        )
        if method.normalize is not None:
            balanced = of_size_one(balanced, together=method.normalize == "global")
        gradient = (balanced, *gradient[1:])
        learned = self._learned(state.scores, state.weights)
        decayed = learned
        if not method.decay_scores:
            decayed = (jax.tree.map(jnp.zeros_like, state.scores), *learned[1:])
        moved, optimizer = apply_update(
            training, plan.schedule, rate, gradient, state.optimizer, learned, decayed=decayed,
            loss=found,
        )  # fmt: skip
        # what is frozen has no gradient, but may have momentum left
        still = jax.tree.map(lambda m, n, o: jnp.where(m, n, o), live, moved[0], state.scores)
        moved = (jax.tree.map(method.relaxation.project, still), *moved[1:])
        scores, weights = moved[0], completed((*moved, state.weights)[1], state.weights)
        return guarded_update(
            state,
            state._replace(
                scores=scores, weights=weights, live=live, optimizer=optimizer,
                multiplier=multiplier, tutors=tutors,
            ),
            # scores that are not finite cannot be ranked: an update to such is not made
            finite=jnp.isfinite(found) & _tree.finite(gradient) & _tree.finite(moved),
            active=active,
            # as of `Supervised`; teachers have a guard of their own
            free=("tutors",) if placement.vmapped else ("tutors", "optimizer"),
        )  # fmt: skip

    def _gradient(
        self,
        state: ScoreState,
        batch: Batch,
        plan: ScorePlan,
        live: Mask,
        done: Array,
        teachers: Any,
        placement: Placement,
    ) -> tuple[Array, tuple[Params, ...]]:
        """The objective, with what the constraint adds, and its gradient by what is learned."""
        net, method, training = self.net, self.method, self.training
        x, y = normalized(batch.x, batch.by, training.compute_dtype), batch.y
        key = stream(state.key, "search", state.step)
        noise = placement.own_key(stream(state.key, "noise", state.step))
        ask = functools.partial(viewer, net, training, x=x, y=y, key=noise, axis=placement.axis)
        view_of = ask(stats=state.stats)
        dense = of_dense(method, view_of, state.weights)

        def sloped(function: Objective) -> tuple[Array, tuple[Params, ...]]:
            more: dict[str, Any] = {"done": done}
            if method.teaching is not None:
                more["teachers"] = of_teachers(
                    method.teaching, teacher_needs_of(function), ask, teachers,
                    key=stream(key, "teacher"),
                )  # fmt: skip

            def value(learned: tuple[Params, ...]) -> Array:
                scores, *rest = learned
                weights = completed(rest[0], state.weights) if rest else state.weights
                soft = method.relaxation.soft(
                    scores, live, self._amounts(plan), done, key=stream(key, "sample")
                )
                soft = self._of_weights(soft)
                masked = effective(method, soft, weights)
                view = view_of(masked, multiplied(method, soft), dense, **more)
                expected = method.relaxation.expected(scores, live, done)
                return method.factor * function(view) + method.constraint.cost(expected)

            return jax.value_and_grad(value)(self._learned(state.scores, state.weights))

        function, fades = method.function, fades_of(method.function)
        if fades is None:
            return sloped(function)
        rest = rest_of(function)
        # `done` is a quotient of whole numbers, which may lie a bit below its share
        whole = of_any(done + 1e-6 < fades)
        return jax.lax.cond(whole, lambda: sloped(function), lambda: sloped(rest))

    def _pull(self, scores: Params, live: Mask, done: Array, plan: ScorePlan, rate: Array) -> Pull:
        """What the constraint looks at."""

        def expected_ones(scores: Params) -> Array:
            expected = self.method.relaxation.expected(scores, live, done)
            return sum((jnp.sum(e) for e in jax.tree.leaves(expected)), start=jnp.float32(0))

        expected, slope = jax.value_and_grad(expected_ones)(scores)
        return Pull(expected, slope, jnp.sum(self._amounts(plan)).astype(jnp.float32), rate)

    def finite(self, state: ScoreState) -> Array:
        """Whether scores, weights and statistics are finite."""
        return _tree.finite((state.scores, state.weights, state.stats))

    def boundary(self, state: ScoreState, plan: ScorePlan, here: Array) -> ScoreState:
        """Where a part of the search ends, entries are frozen, or a new round begins."""
        stretches, rounds = self.method.constraint.stretches, self.method.rounds
        if not stretches and rounds == 1:
            return state
        number = state.step // plan.part
        here = here & (state.step % plan.part == 0) & (state.step > 0)
        if stretches:
            return where_any(here, lambda: self._frozen(state, plan, number), state)
        # after the last round the scores stay as they are
        return where_any(here & (number < rounds), lambda: self._restarted(state), state)

    def _frozen(self, state: ScoreState, plan: ScorePlan, number: Array) -> ScoreState:
        """Some entries fall out for good."""
        method, stretches = self.method, self.method.constraint.stretches
        size = masks.prunable_size(state.live)
        share = plan.density ** (number.astype(jnp.float32) / stretches)
        # float32 does not count beyond 16.7 million: the last stretch takes the count itself, and
        # none goes below it
        last = self._amounts(plan)
        keep = jnp.maximum(jnp.round(share * size).astype(jnp.int32), last)
        keep = jnp.where(number == stretches, last, keep)
        ranked = method.ranked(state.scores)
        if method.constraint.weighed:
            done = state.step.astype(jnp.float32) / plan.round.astype(jnp.float32)
            # the soft mask itself underflows where beta is large, and ties go by index
            sizes = jax.tree.map(jnp.abs, state.weights)
            if self.units is not None:
                sizes = self.units.pool(sizes, self.net.mask(self.exclude))
            ranked = masks.map_with(
                lambda s, w: method.relaxation.log_expected_leaf(s, done) + jnp.log(w),
                state.scores,
                sizes,
            )
        live = method.constraint.frozen(ranked, state.live, keep)
        return state._replace(live=self._possible(live, state.live, ranked, plan))

    def _restarted(self, state: ScoreState) -> ScoreState:
        """The next round begins: scores as of its start, with a fresh optimizer."""
        scores = jax.tree.map(self.method.relaxation.restarted, state.scores)
        fresh = fresh_state(self.training, self._learned(scores, state.weights), 0 * state.step)
        return state._replace(scores=scores, optimizer=_tree.varying_like(fresh, state.step))

    def look(self, state: ScoreState, plan: ScorePlan) -> Array:
        """The numbers of `TRACE`, float32 [2]."""
        total = masks.prunable_size(state.live)
        # scores between two rounds are those that the next one begins with
        over = state.step >= plan.schedule.stop
        within = jnp.where(over, plan.round, state.step % plan.round)
        done = within.astype(jnp.float32) / plan.round.astype(jnp.float32)
        relaxation = self.method.relaxation
        expected = relaxation.expected(state.scores, state.live, done)
        ones = sum((jnp.sum(e) for e in jax.tree.leaves(expected)), start=jnp.float32(0))
        kept = jnp.sum(self._amounts(plan)).astype(jnp.float32)
        share = ones if relaxation.counts else kept
        return jnp.stack([share / total, state.multiplier])

    def chosen(self, state: ScoreState, plan: ScorePlan) -> Mask:
        """The mask of the highest scores, with exactly K ones, or units."""
        ranked = self.method.ranked(state.scores)
        if self.units is not None:
            keep, dense = jnp.asarray(plan.keep), self.net.mask(self.exclude)
            best = self.units.keep(ranked, state.live, keep, scope=self.method.scope)
            return self.units.expand(best, dense)
        return keep_top(ranked, state.live, jnp.asarray(plan.keep), scope=self.method.scope)


class ScorePrograms(NamedTuple):
    """What else is compiled for many replicas of a search.

    Attributes:
      initial_scores: `(limits, keys, density) -> scores`.
      look: `(limits, state, plan) -> float32 [replica, 2]`.
      chosen: `(limits, state, plan) -> mask`.
    """

    initial_scores: Callable[..., Params]
    look: Callable[..., Array]
    chosen: Callable[..., Mask]


@functools.lru_cache(maxsize=64)
def score_programs(learner: ScoreLearner, mesh: Mesh) -> ScorePrograms:
    """The methods of a learner, compiled; equal arguments give the same ones."""
    return ScorePrograms(
        parallel.over_replicas(
            lambda limit, key, density: learner.initial_scores(density, key=key), mesh
        ),
        parallel.over_replicas(lambda limit, state, plan: learner.look(state, plan), mesh),
        parallel.over_replicas(lambda limit, state, plan: learner.chosen(state, plan), mesh),
    )


@functools.lru_cache(maxsize=64)
def step_flops(net: Network, method: Method, training: Training, labels: Labels = CLASSES) -> float:
    """Operations of one step of a search, 2 per multiply-add; teachers' own steps do not count.

    Args:
      net, method: what is searched.
      training: of the networks, whose batch size it has.
      labels: of an example.
    """
    training = method.training(training.replace(augment=()), method.steps(training))
    learner = ScoreLearner(net, method, training)

    def one(x: Array, y: Array, key: Key) -> tuple[Params, Params]:
        params, stats = net.init(key)
        dense = net.mask()
        scores = jax.tree.map(lambda m: jnp.zeros(m.shape), dense)
        origin = ScoreOrigin(scores, params, stats, dense)
        at = jax.tree.map(jnp.asarray, schedule(training))
        keep = jnp.asarray(method.counts(dense, 0.5))
        zero, steps = jnp.int32(0), jnp.int32(1)
        plan = ScorePlan(at, zero, zero, jnp.float32(0.5), keep, steps, steps)
        if method.teaching is not None:
            count = method.teaching.count
            copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), (params, stats))
            plan = plan._replace(teachers=copies)
        by = Normalization(jnp.zeros(net.shape[-1]), jnp.ones(net.shape[-1]))
        state = learner.start(origin, zero, key=key)
        state = learner.step(state, Batch(x, y, by), plan, jnp.bool_(True), Placement())
        return state.scores, state.weights

    size = training.batch_size
    x = net.example(size)
    if net.dtype == "float32":
        # as images are kept
        x = jax.ShapeDtypeStruct(x.shape, jnp.uint8)
    y = jax.ShapeDtypeStruct((size, *labels.shape), labels.dtype)
    return flops.count(one, x, y, jax.eval_shape(lambda: jax.random.key(0)))
