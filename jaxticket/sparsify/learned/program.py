"""The compiled search: scores of many replicas trained side by side, one chunk of steps per call.

It has the functions of `engine.program.Program`, so that everything that trains jobs (saving,
resuming, streams, progress) runs searches too. `params` of its states are `Learned`, `mask` are
the entries that take part, `opt_state` is (the optimizer's state, the constraint's multiplier,
teachers that are trained along or ()).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.engine.feeder import Block
from jaxticket.engine.metrics import METRICS, Batched, Normalization
from jaxticket.engine.optim import optimizer
from jaxticket.engine.program import DeviceData, Program, finite_states, gathered, static_part
from jaxticket.pruning.compiled import has_taps, prunable_of
from jaxticket.pruning.keep import keep_top
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training
from jaxticket.sparsify.learned.constraints import Freezing
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.step import Learned, LearningPlan, search_step
from jaxticket.sparsify.learned.teachers import begin_tutors
from jaxticket.typing import Array, Key, Mask, Network, Params, Stats, TrainState

ORDER = 1 << 20
"""Which of the orders of its key a search sees: another one than training does (those of levels
begin at 0, those of copies at `connectivity.copies.FIRST_NOISE`)."""


class SearchProgram(NamedTuple):
    """A `Program` whose chunks search, and what searches need beside.

    Attributes:
      program: `chunk` and `fed` take a `LearningPlan`; nothing is evaluated.
      drawn: `(limits, keys, density) -> scores` at the start.
      look: `(limits, state, plan) -> float32 [replica, 2]`, the numbers of `TRACE`.
      finish: `(limits, state, plan) -> mask` with exactly K ones.
    """

    program: Program
    drawn: Callable[..., Params]
    look: Callable[..., Array]
    finish: Callable[..., Mask]


TRACE = ("expected", "multiplier")
"""What is recorded while a search runs: the expected density, and the constraint's multiplier."""


def searcher(
    net: Network,
    method: Method,
    training: Training,
    mesh: Mesh,
    splits: int,
    exclude: Any = (),
    *,
    taught: Training | None = None,
) -> SearchProgram:
    """The program of a method; equal arguments give the same one.

    Args:
      net: the network.
      method: what is learned, and how.
      training: the settings of the search, from `Method.training`.
      mesh: the devices.
      splits: number of evaluated splits, for the shape of metrics.
      exclude: patterns of paths that are not pruned.
      taught: the settings of teachers that are trained along; None where there are none.
    """
    if taught is not None:
        # they see the student's batches, which are augmented already
        taught = static_part(taught.replace(augment=()))
    return _searcher(net, method, static_part(training), mesh, splits, tuple(exclude), taught)


def ended(
    method: Method, training: Training, state: TrainState, plan: LearningPlan, limit: Array,
    *, target: Array, prunable: Any,
) -> TrainState:  # fmt: skip
    """What happens where a part of the search ends: entries are frozen, or a new round begins."""
    stretches, rounds = method.constraint.stretches, method.rounds
    if not stretches and rounds == 1:
        return state
    number = state.step // plan.part
    here = (state.step % plan.part == 0) & (state.step > 0) & (limit > 0)
    here = here & (state.step == target) & (state.diverged < 0)

    def freeze(state: TrainState) -> TrainState:
        size = masks.prunable_size(state.mask, prunable=prunable)
        share = plan.density ** (number.astype(jnp.float32) / stretches)
        # float32 does not count beyond 16.7 million: the last stretch takes the count itself, and
        # none goes below it
        keep = jnp.maximum(jnp.round(share * size).astype(jnp.int32), plan.keep)
        keep = jnp.where(number == stretches, plan.keep, keep)
        ranked = method.ranked(state.params.scores)
        if isinstance(method.constraint, Freezing) and method.constraint.weighed:
            done = state.step.astype(jnp.float32) / plan.round.astype(jnp.float32)
            # the soft mask itself underflows where beta is large, and ties go by index
            ranked = jax.tree.map(
                lambda s, w: method.relaxation.log_expected_leaf(s, done) + jnp.log(jnp.abs(w)),
                state.params.scores,
                state.params.weights,
            )
        live = method.constraint.frozen(ranked, state.mask, keep, prunable)
        return state._replace(mask=live)

    def restart(state: TrainState) -> TrainState:
        scores = jax.tree.map(method.relaxation.restarted, state.params.scores)
        learned = (scores, state.params.weights) if method.learn_weights else (scores,)
        before, *others = state.opt_state
        fresh = optimizer(training).init(learned)
        # a zero of the old state, so that it varies from replica to replica as that does
        fresh = jax.tree.map(lambda new, old: new + (0 * old).astype(new.dtype), fresh, before)
        return state._replace(
            params=Learned(scores, state.params.weights), opt_state=(fresh, *others)
        )

    if stretches:
        return jax.lax.cond(here, freeze, lambda s: s, state)
    # after the last round the scores stay as they are
    return jax.lax.cond(here & (number < rounds), restart, lambda s: s, state)


@functools.lru_cache(maxsize=64)
def _searcher(
    net: Network, method: Method, training: Training, mesh: Mesh, splits: int,
    exclude: tuple[str, ...], taught: Training | None,
) -> SearchProgram:  # fmt: skip
    size = mesh.shape[parallel.DATA]
    axis = (parallel.DATA, size) if size > 1 else None
    prunable = prunable_of(net, jax.eval_shape(net.init, jax.random.key(0))[0], exclude)
    if "features" in (*method.needs, *method.teacher_needs) and not has_taps(net):
        raise ValueError(
            f"`objective` {method.objective!r} compares activations, and this network cannot be "
            f"tapped; give its module a `tap` argument, or choose another objective"
        )
    stats = jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0))[1])
    if getattr(method.function, "by_example", False) and stats:
        raise ValueError(
            f"`objective` {method.objective!r} looks at examples one by one, and this network "
            f"normalizes over the batch; take jacobian='mean', or a network without BatchNorm"
        )
    traced = 0

    def drawn(limit: Array, key: Key, density: Array) -> Params:
        del limit
        shapes = jax.eval_shape(net.init, jax.random.key(0))[0]
        leaves, tree = jax.tree.flatten(shapes)
        start = stream(key, "search scores")
        made = [
            method.relaxation.initial(x.shape, density, key=stream(start, "leaf", jnp.int32(i)))
            if p
            else jnp.zeros(x.shape, jnp.float32)
            for i, (x, p) in enumerate(zip(leaves, jax.tree.leaves(prunable), strict=True))
        ]
        # scores that start alike are constants; adding a zero lets them vary between replicas
        made = [x + 0 * density for x in made]
        return jax.tree.unflatten(tree, made)

    def start(
        limit: Array, params: Learned, stats: Stats, mask: Mask, key: Key, step: Array
    ) -> TrainState:
        del limit
        scores, weights, teachers = Learned(*params)
        learned = (scores, weights) if method.learn_weights else (scores,)
        # counters start as constants; adding a zero of the step lets them vary
        opt_state = jax.tree.map(
            lambda x: x + (step * 0).astype(x.dtype), optimizer(training).init(learned)
        )
        zero = (step * 0).astype(jnp.float32)
        tutors: Any = ()
        if taught is not None and teachers:
            networks, begun = teachers
            tutors = begin_tutors(taught, networks, begun)
        carried = (opt_state, zero, tutors)
        return TrainState(step, Learned(scores, weights), stats, carried, mask, key, step * 0 - 1)

    def advanced(
        limit: Array, state: TrainState, plan: LearningPlan, target: Array, by: Normalization,
        batch_of: Callable[[Array, TrainState], tuple[Array, Array]],
    ) -> TrainState:  # fmt: skip
        nonlocal traced
        traced += 1

        def body(i: Array, s: TrainState) -> TrainState:
            return search_step(
                net, method, training, s, plan, batch_of(i, s), by, s.step < target,
                prunable=prunable, axis=axis, waits=not parallel.maps(mesh),
                taught=taught,
            )  # fmt: skip

        with jax.default_matmul_precision(training.precision):
            state = jax.lax.fori_loop(0, limit, body, state)
        return ended(method, training, state, plan, limit, target=target, prunable=prunable)

    def chunk(
        limit: Array, state: TrainState, plan: LearningPlan, target: Array, wanted: Array,
        data: DeviceData,
    ) -> tuple[TrainState, Array]:  # fmt: skip
        del wanted
        words = permutation_words(stream(state.key, "order", plan.order))

        def batch_of(_: Array, s: TrainState) -> tuple[Array, Array]:
            return gathered(data, training, words, s.step, axis=axis)

        state = advanced(limit, state, plan, target, data.by, batch_of)
        nothing = jnp.full((splits, len(METRICS)), jnp.nan, jnp.float32)
        return state, nothing + 0 * state.step.astype(jnp.float32)

    def fed(
        limit: Array, state: TrainState, plan: LearningPlan, target: Array, block: Block,
        by: Normalization,
    ) -> TrainState:  # fmt: skip
        return advanced(limit, state, plan, target, by, lambda i, _: (block.x[i], block.y[i]))

    def tallied(
        limit: Array, params: Params, stats: Stats, sums: Array, batched: Batched, by: Normalization
    ) -> Array:
        del limit, params, stats, batched, by
        return sums

    def averaged(limit: Array, sums: Array) -> Array:
        del limit
        return jnp.full((splits, len(METRICS)), jnp.nan, jnp.float32) + 0 * jnp.sum(sums)

    def regrown(limit: Array, state: TrainState) -> Array:
        # nothing is pruned while scores are learned
        del limit
        return ~jnp.isfinite(state.step.astype(jnp.float32))

    def look(limit: Array, state: TrainState, plan: LearningPlan) -> Array:
        del limit
        total = masks.prunable_size(state.mask, prunable=prunable)
        # scores between two rounds are those that the next one begins with
        over = state.step >= plan.schedule.stop
        within = jnp.where(over, plan.round, state.step % plan.round)
        done = within.astype(jnp.float32) / plan.round.astype(jnp.float32)
        expected = method.relaxation.expected(
            state.params.scores, state.mask, done, prunable=prunable
        )
        ones = sum((jnp.sum(e) for e in jax.tree.leaves(expected)), start=jnp.float32(0))
        counts = method.relaxation.counts
        share = ones / total if counts else jnp.sum(plan.keep).astype(jnp.float32) / total
        return jnp.stack([share, state.opt_state[1]])

    def finish(limit: Array, state: TrainState, plan: LearningPlan) -> Mask:
        del limit
        ranked = method.ranked(state.params.scores)
        return keep_top(ranked, state.mask, plan.keep, prunable=prunable, scope=method.scope)

    program = Program(
        init=parallel.over_replicas(lambda limit, key: net.init(stream(key, "init")), mesh),
        start=parallel.over_replicas(start, mesh),
        chunk=parallel.over_replicas(chunk, mesh, donate=(0,), shared=1),
        fed=parallel.over_replicas(fed, mesh, donate=(0,), shared=1, parted=(3,)),
        tallied=parallel.over_replicas(tallied, mesh, shared=2),
        averaged=parallel.over_replicas(averaged, mesh),
        regrown=parallel.over_replicas(regrown, mesh),
        finite=finite_states(mesh),
        traces=lambda: traced,
    )
    return SearchProgram(
        program,
        parallel.over_replicas(drawn, mesh),
        parallel.over_replicas(look, mesh),
        parallel.over_replicas(finish, mesh),
    )
