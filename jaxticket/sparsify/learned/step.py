"""One step of a search, for one replica: the masked network, its objective, the update."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket.data.augment import augmented
from jaxticket.engine.dense import Networks
from jaxticket.engine.metrics import Normalization, normalized
from jaxticket.engine.optim import Schedule, learning_rate, optimizer, schedule
from jaxticket.nn import flops
from jaxticket.pruning.compiled import prunable_of
from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.sparsify.learned.constraints import Pull
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.objectives import Objective, fades_of, rest_of, teacher_needs_of
from jaxticket.sparsify.learned.teachers import tutored
from jaxticket.sparsify.learned.views import of_dense, of_teachers, viewer
from jaxticket.typing import Array, Key, Network, Params, TrainState


class Learned(NamedTuple):
    """What a search carries: a score for every weight, and the weights.

    Attributes:
      teachers: where a search begins, the teachers that are trained along with it: (params and
        statistics [teacher, ...], the step of their training); () elsewhere.
    """

    scores: Params
    weights: Params
    teachers: tuple[Networks, Array] | tuple[()] = ()


class LearningPlan(NamedTuple):
    """What one replica does; every field may differ between replicas of one program.

    Attributes:
      schedule: of one round; `stop` is the end of all of them.
      order, augment: as of `program.Plan`.
      density: float32, share of the prunable weights to keep.
      keep: int32, entries to keep, or one number per layer.
      round, part: int32, steps of a round, and of a part at whose end something happens.
      teachers: params and statistics [teacher, ...]; () where there are none, or where they are
        trained along with the search.
      tutoring: schedule of teachers that are trained along; () where there are none.
    """

    schedule: Schedule
    order: Array
    augment: Array
    density: Array
    keep: Array
    round: Array
    part: Array
    teachers: Networks | tuple[()] = ()
    tutoring: Schedule | tuple[()] = ()


def multiplied(method: Method, soft: Params, prunable: Any) -> Params:
    """What the weights of the masked network are multiplied by: the soft mask, each layer's times
    its size over its number of ones where the method rescales.
    """

    def one(m: Array, p: bool) -> Array:
        if not p or not method.rescale:
            return m
        ones = jax.lax.stop_gradient(jnp.sum(m))
        return m * (m.size / jnp.maximum(ones, 1))

    return jax.tree.map(one, soft, prunable)


def effective(method: Method, soft: Params, weights: Params, prunable: Any) -> Params:
    """The weights of the masked network: those of `multiplied` times `weights`."""
    factors = multiplied(method, soft, prunable)
    return jax.tree.map(lambda m, w, p: m * w if p else w, factors, weights, prunable)


def search_step(
    net: Network,
    method: Method,
    training: Training,
    state: TrainState,
    plan: LearningPlan,
    batch: tuple[Array, Array],
    by: Normalization,
    active: Array,
    *,
    prunable: Any,
    axis: tuple[str, int] | None = None,
    waits: bool = True,
    taught: Training | None = None,
) -> TrainState:
    """One update of the scores of one replica on this device's part of a batch: raw images, labels.

    Where `active` is False, and from the first objective or gradient that is not finite on, scores
    and weights stay as they are. `waits` is as of `train_step`; `taught` are the settings of
    teachers that are trained along (see `Teaching.online`).
    """
    part = 0 if axis is None else jax.lax.axis_index(axis[0])
    x, y = batch
    if training.augment:
        key = stream(state.key, "augment", plan.augment, state.step)
        x = augmented(x, training, by.mean, key=key, first=part * y.shape[0])
    optimizer_state, multiplier, tutors = state.opt_state
    teachers: Any = plan.teachers
    if taught is not None:
        assert plan.tutoring, "teachers that are trained along have a schedule"
        tutors = tutored(
            net, taught, tutors, plan.tutoring, (x, y), by, active,
            key=state.key, axis=axis,
        )  # fmt: skip
        teachers = (tutors.params, tutors.stats)
    x = normalized(x, by, training.compute_dtype)
    within = state.step % plan.round
    done = within.astype(jnp.float32) / plan.round.astype(jnp.float32)
    key = stream(state.key, "search", state.step)
    noise = stream(state.key, "noise", state.step)
    noise = noise if axis is None else jax.random.fold_in(noise, part)
    view_of = viewer(net, training, state.stats, x, y, prunable, key=noise, axis=axis)
    scores, weights, *_ = state.params
    dense = of_dense(method, view_of, weights)
    live = method.relaxation.lasting(scores, state.mask, plan.keep, done, prunable=prunable)
    learned = (scores, weights) if method.learn_weights else (scores,)

    def sloped(function: Objective) -> tuple[Array, tuple[Params, ...]]:
        """The value of an objective, and its gradient."""
        more: dict[str, Any] = {"done": done}
        if method.teaching is not None:
            ask = functools.partial(
                viewer, net, training, x=x, y=y, prunable=prunable, key=noise, axis=axis
            )
            more["teachers"] = of_teachers(
                method.teaching, teacher_needs_of(function), ask, teachers,
                key=stream(key, "teacher"),
            )  # fmt: skip

        def value(learned: tuple[Params, ...]) -> Array:
            scores, *rest = learned
            w = rest[0] if rest else weights
            soft = method.relaxation.soft(
                scores, live, plan.keep, done, key=stream(key, "sample"), prunable=prunable
            )
            masked = effective(method, soft, w, prunable)
            view = view_of(masked, multiplied(method, soft, prunable), dense, **more)
            expected = method.relaxation.expected(scores, live, done, prunable=prunable)
            return method.factor * function(view) + method.constraint.cost(expected)

        return jax.value_and_grad(value)(learned)

    function, fades = method.function, fades_of(method.function)
    if waits or fades is None:
        # replicas that run vmapped would compute both
        found, gradient = sloped(function)
    else:
        rest = rest_of(function)
        # `done` is a quotient of whole numbers, which may lie a bit below its share
        found, gradient = jax.lax.cond(
            done + 1e-6 >= fades, lambda: sloped(rest), lambda: sloped(function)
        )
    gradient = (masks.apply(live, gradient[0]), *gradient[1:])
    rate = learning_rate(plan.schedule, within, kind=training.schedule)

    def expected_ones(scores: Params) -> Array:
        expected = method.relaxation.expected(scores, live, done, prunable=prunable)
        return sum((jnp.sum(e) for e in jax.tree.leaves(expected)), start=jnp.float32(0))

    expected, slope = jax.value_and_grad(expected_ones)(scores)
    pull = Pull(expected, slope, jnp.sum(plan.keep).astype(jnp.float32), rate)
    balanced, pulled = method.constraint.balanced(gradient[0], multiplier, state.step == 0, pull)
    if method.normalize is not None:
        balanced = of_size_one(balanced, together=method.normalize == "global")
    gradient = (balanced, *gradient[1:])
    decayed = (
        learned if method.decay_scores else (jax.tree.map(jnp.zeros_like, scores), *learned[1:])
    )
    # optax mixes python, float32 and int32 numbers, which strict promotion forbids
    with jax.numpy_dtype_promotion("standard"):
        direction, updated = optimizer(training, plan.schedule.weight_decay).update(
            gradient, optimizer_state, decayed
        )
    moved = jax.tree.map(lambda p, d: p - rate * d, learned, direction)
    # what is frozen has no gradient, but may have momentum left
    still = jax.tree.map(lambda m, n, o: jnp.where(m, n, o), live, moved[0], scores)
    moved = (jax.tree.map(method.relaxation.project, still), *moved[1:])
    # scores that are not finite cannot be ranked: an update to such is not made
    whole = jnp.isfinite(found) & _tree.finite(gradient) & _tree.finite(moved)
    fresh = ~whole & active & (state.diverged < 0)
    diverged = jnp.where(fresh, state.step, state.diverged)
    moving = active & (diverged < 0)

    def held(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(moving, n.astype(o.dtype), o), new, old)

    scores, weights = held((*moved, weights)[:2], (scores, weights))
    pulled = held(pulled, multiplier)
    live = live if live is state.mask else held(live, state.mask)
    updated = held(updated, optimizer_state) if waits else jax.tree.map(
        lambda n, o: n.astype(o.dtype), updated, optimizer_state
    )  # fmt: skip
    return state._replace(
        step=state.step + active.astype(jnp.int32),
        params=Learned(scores, weights),
        mask=live,
        opt_state=(updated, pulled, tutors),
        diverged=diverged,
    )


def of_size_one(gradient: Params, *, together: bool = False) -> Params:
    """Each leaf over its largest absolute entry (or over that of all leaves); zeros stay zeros."""
    most = jax.tree.map(lambda g: jnp.max(jnp.abs(g)), gradient)
    if together:
        largest = jnp.max(jnp.stack(jax.tree.leaves(most)))
        most = jax.tree.map(lambda _: largest, most)
    # the least normal float32: a gradient that is not 0 is brought to 1 whatever its size
    return jax.tree.map(lambda g, m: g / jnp.maximum(m, 1.2e-38), gradient, most)


@functools.lru_cache(maxsize=64)
def step_flops(net: Network, method: Method, training: Training) -> float:
    """Operations of one step of a search, 2 per multiply-add; teachers' own steps do not count.

    Args:
      net, method: what is searched.
      training: of the networks, whose batch size it has.
    """
    training = method.training(training.replace(augment=()), method.steps(training))
    prunable = prunable_of(net, jax.eval_shape(net.init, jax.random.key(0))[0])

    def one(x: Array, y: Array, key: Key) -> Array:
        params, stats = net.init(key)
        scores = jax.tree.map(jnp.zeros_like, params)
        learned = (scores, params) if method.learn_weights else (scores,)
        state = TrainState(
            jnp.int32(0),
            Learned(scores, params),
            stats,
            (optimizer(training).init(learned), jnp.float32(0), ()),
            masks.ones(params),
            key,
            jnp.int32(-1),
        )
        keep = method.counts(params, 0.5, prunable=prunable)
        at = jax.tree.map(jnp.asarray, schedule(training))
        plan = LearningPlan(
            at,
            jnp.int32(0),
            jnp.int32(0),
            jnp.float32(0.5),
            jnp.asarray(keep),
            *2 * (jnp.int32(1),),
        )
        if method.teaching is not None:
            count = method.teaching.count
            copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), (params, stats))
            plan = plan._replace(teachers=copies)
        by = Normalization(jnp.zeros(net.shape[-1]), jnp.ones(net.shape[-1]))
        state = search_step(
            net, method, training, state, plan, (x, y), by, jnp.asarray(True), prunable=prunable
        )
        return state.params

    size = training.batch_size
    x = net.example(size)
    if net.dtype == "float32":
        # as images are kept
        x = jax.ShapeDtypeStruct(x.shape, jnp.uint8)
    y = jax.ShapeDtypeStruct((size,), jnp.int32)
    return flops.count(one, x, y, jax.eval_shape(lambda: jax.random.key(0)))
