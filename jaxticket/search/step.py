"""One step of a search, for one replica: the masked network, its objective, the update."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import masks, trees
from jaxticket.analysis import flops
from jaxticket.data.augment import augmented
from jaxticket.evaluate import Normalization, cast, normalized
from jaxticket.optim import Schedule, learning_rate, optimizer, schedule
from jaxticket.rng import stream
from jaxticket.search.constraints import Pull
from jaxticket.search.method import Method
from jaxticket.search.objectives import Outputs, View
from jaxticket.selection import prunable_of
from jaxticket.settings import Training
from jaxticket.trunk import Networks
from jaxticket.types import Array, Key, Network, Params, Stats, TrainState


class Learned(NamedTuple):
    """What a search carries: a score for every weight, and the weights."""

    scores: Params
    weights: Params


class LearningPlan(NamedTuple):
    """What one replica does; every field may differ between replicas of one program.

    Attributes:
      schedule: of one round; `stop` is the end of all of them.
      order, augment: as of `train.Plan`.
      density: float32, share of the prunable weights to keep.
      keep: int32, entries to keep, or one number per layer.
      round, part: int32, steps of a round, and of a part at whose end something happens.
      teachers: params and statistics [teacher, ...]; () where there are none.
    """

    schedule: Schedule
    order: Array
    augment: Array
    density: Array
    keep: Array
    round: Array
    part: Array
    teachers: Networks | tuple[()] = ()


def effective(method: Method, soft: Params, weights: Params, prunable: Any) -> Params:
    """The weights of the masked network: `soft * weights`, each layer rescaled where the method
    says so.
    """

    def one(m: Array, w: Array, p: bool) -> Array:
        if not p:
            return w
        if method.rescale:
            ones = jax.lax.stop_gradient(jnp.sum(m))
            m = m * (m.size / jnp.maximum(ones, 1))
        return m * w

    return jax.tree.map(one, soft, weights, prunable)


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
) -> TrainState:
    """One update of the scores of one replica on this device's part of a batch: raw images, labels.

    Where `active` is False, and from the first objective or gradient that is not finite on, scores
    and weights stay as they are. `waits` is as of `train_step`.
    """
    part = 0 if axis is None else jax.lax.axis_index(axis[0])
    x, y = batch
    if training.augment:
        key = stream(state.key, "augment", plan.augment, state.step)
        x = augmented(x, training, by.mean, key=key, first=part * y.shape[0])
    x = normalized(x, by, training.compute_dtype)
    within = state.step % plan.round
    done = within.astype(jnp.float32) / plan.round.astype(jnp.float32)
    key = stream(state.key, "search", state.step)
    noise = stream(state.key, "noise", state.step)
    noise = noise if axis is None else jax.random.fold_in(noise, part)
    view_of = viewer(net, training, state.stats, x, y, prunable, key=noise, axis=axis)
    scores, weights = state.params
    dense = of_dense(method, view_of, weights)
    more: dict[str, Any] = {"done": done}
    if plan.teachers:
        ask = functools.partial(
            viewer, net, training, x=x, y=y, prunable=prunable, key=noise, axis=axis, train=False
        )
        more["teachers"] = of_teachers(method, ask, plan.teachers, key=stream(key, "teacher"))
    live = state.mask

    def value(learned: tuple[Params, ...]) -> Array:
        scores, *rest = learned
        w = rest[0] if rest else weights
        soft = method.relaxation.soft(
            scores, live, plan.keep, done, key=stream(key, "sample"), prunable=prunable
        )
        view = view_of(effective(method, soft, w, prunable), soft, dense, **more)
        expected = method.relaxation.expected(scores, live, done, prunable=prunable)
        return method.factor * method.function(view) + method.constraint.cost(expected)

    learned = (scores, weights) if method.learn_weights else (scores,)
    found, gradient = jax.value_and_grad(value)(learned)
    gradient = (masks.apply(live, gradient[0]), *gradient[1:])
    optimizer_state, multiplier = state.opt_state
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
    # a gradient that is not finite would leave scores that cannot be ranked
    whole = jnp.isfinite(found) & trees.finite(gradient)
    fresh = ~whole & active & (state.diverged < 0)
    diverged = jnp.where(fresh, state.step, state.diverged)
    moving = active & (diverged < 0)
    decayed = (
        learned if method.decay_scores else (jax.tree.map(jnp.zeros_like, scores), *learned[1:])
    )
    # optax mixes python, float32 and int32 numbers, which strict promotion forbids
    with jax.numpy_dtype_promotion("standard"):
        direction, updated = optimizer(training, plan.schedule.weight_decay).update(
            gradient, optimizer_state, decayed
        )
    moved = jax.tree.map(lambda p, d: p - rate * d, learned, direction)
    moved = (jax.tree.map(method.relaxation.project, moved[0]), *moved[1:])

    def held(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(moving, n.astype(o.dtype), o), new, old)

    scores, weights = held((*moved, weights)[:2], (scores, weights))
    pulled = held(pulled, multiplier)
    updated = held(updated, optimizer_state) if waits else jax.tree.map(
        lambda n, o: n.astype(o.dtype), updated, optimizer_state
    )  # fmt: skip
    return state._replace(
        step=state.step + active.astype(jnp.int32),
        params=Learned(scores, weights),
        opt_state=(updated, pulled),
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
    """Operations of one step of a search, 2 per multiply-add.

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
            (optimizer(training).init(learned), jnp.float32(0)),
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
    x = jax.ShapeDtypeStruct((size, *net.shape), jnp.uint8)
    y = jax.ShapeDtypeStruct((size,), jnp.int32)
    return flops.count(one, x, y, jax.eval_shape(lambda: jax.random.key(0)))


def viewer(
    net: Network,
    training: Training,
    stats: Stats,
    x: Array,
    y: Array,
    prunable: Any,
    *,
    key: Key,
    axis: tuple[str, int] | None = None,
    train: bool = True,
) -> Callable[..., View]:
    """Makes views of this batch: (masked weights, soft mask, dense, other fields) -> view.

    Args:
      net, training: the network, and the settings of the search.
      stats: statistics of the network; those of the batch normalise where `train`.
      x, y: normalised images and labels, of this device.
      prunable: tree of python bools.
      key: for dropout.
      axis: name and size of the mesh axis that shares the batch.
      train: as of `Network.apply`.
    """

    def apply(params: Params, tap: Any = None, x: Array = x) -> Array:
        return net.apply(
            cast(params, training.compute_dtype),
            stats,
            x,
            train=train,
            key=key,
            axis_name=None if axis is None else axis[0],
            tap=tap,
        )[0].astype(jnp.float32)

    def features(params: Params) -> tuple[Array, ...]:
        seen: list[Array] = []

        def tap(name: str, value: Array) -> Array:
            # the output layer is there as the softmax; what is not yet behind its ReLU is put there
            if name != net.output:
                seen.append(jax.nn.relu(value))
            return value

        logits = apply(params, tap)
        return (*seen, jax.nn.softmax(logits))

    def sensitivity(params: Params) -> Array:
        def of_labels(x: Array) -> Array:
            return jnp.sum(jnp.take_along_axis(apply(params, x=x), y[:, None], axis=1))

        return jax.grad(of_labels)(x)

    def mean(values: Array) -> Array:
        own = jnp.mean(values)
        return own if axis is None else jax.lax.pmean(own, axis[0])

    def whole(values: Array) -> Array:
        return values if axis is None else jax.lax.all_gather(values, axis[0], tiled=True)

    def make(masked: Params, soft: Params, dense: Outputs, **more: Any) -> View:
        return View(
            masked, soft, y, apply, features, sensitivity, mean, whole, prunable, dense,
            smoothing=training.label_smoothing, **more,
        )  # fmt: skip

    return make


def of_dense(method: Method, view_of: Callable[..., View], weights: Params) -> Outputs:
    """What the objective needs of the dense network, computed once."""
    ones = jax.tree.map(jnp.ones_like, weights)
    view = view_of(weights, ones, Outputs())
    return jax.lax.stop_gradient(view.outputs(weights, method.needs))


def of_teachers(
    method: Method, ask: Callable[..., Any], teachers: Networks, *, key: Key
) -> tuple[Outputs, ...]:
    """What the objective needs of each teacher, or of one that is drawn, computed once.

    Args:
      method: what is searched.
      ask: `ask(stats=stats)` makes views of the batch for a network with these statistics.
      teachers: params and statistics, [teacher, ...].
      key: for the draw.
    """
    teaching = method.teaching
    assert teaching is not None, "a method without teachers was given some"
    chosen: list[Any] = list(range(teaching.count))
    if teaching.one:
        chosen = [jax.random.randint(key, (), 0, teaching.count)]
    found = []
    for number in chosen:
        params, stats = jax.tree.map(lambda x, n=number: x[n], teachers)
        view = ask(stats=stats)(params, jax.tree.map(jnp.ones_like, params), Outputs())
        found.append(jax.lax.stop_gradient(view.outputs(params, method.teacher_needs)))
    return tuple(found)
