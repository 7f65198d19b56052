"""Whether optimizer, schedule and the choice of weights of a training work for a network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxticket._check import naming
from jaxticket.engine import selected
from jaxticket.engine.optim import apply_update, fresh_state, learning_rate, schedule, states
from jaxticket.engine.selected import trained_part
from jaxticket.settings import Training, has_own_rate
from jaxticket.typing import Array, Network, Params, cached


@cached(64)
def check(training: Training, net: Network, *, search: bool = False) -> None:
    """Raise where a training does not work for a network.

    Args:
      training: the settings.
      net: the network.
      search: whether scores are what is learned, whose gradient is known at one point only.
    """
    kind, own = training.schedule, training.optimizer
    selected.check(training, net.shapes[0])
    if isinstance(kind, str) and isinstance(own, str):
        return
    at, step = jax.tree.map(jnp.asarray, schedule(training)), jnp.int32(0)
    if not isinstance(kind, str):
        with naming("schedule", kind):
            jax.eval_shape(lambda t: learning_rate(at, t, kind=kind), step)
    if isinstance(own, str):
        return

    def once(
        rate: Array, loss: Array, params: Params, state: optax.OptState
    ) -> tuple[Params, optax.OptState]:
        return apply_update(
            training, at, rate, params, state, params, loss=loss, slope=lambda params, _: params
        )

    params = trained_part(training, net.shapes[0])
    with naming("optimizer", own):
        before = jax.eval_shape(lambda params: fresh_state(training, params, step), params)
        _refuse(own, before, search=search)
        traced, after = jax.make_jaxpr(once, return_shape=True)(at.lr, at.lr, params, before)
    if jax.tree.structure(after) != jax.tree.structure((params, before)):
        raise ValueError(
            f"`optimizer` {own!r} must keep the structure of the weights and of its state in an "
            f"update; it turns {jax.tree.structure((params, before))} into "
            f"{jax.tree.structure(after)}"
        )
    rate = traced.jaxpr.invars[0]
    if not has_own_rate(own) and not any(rate is x for e in traced.eqns for x in e.invars):
        raise ValueError(
            f"`optimizer` {own!r} does not use the learning rate that it is called with in an "
            f"update (optax.inject_hyperparams keeps the first one); use the rate as it is, such "
            f"as `lambda lr: optax.adam(lr)`, or pass a transformation with a rate of its own"
        )


_DRAWING = (
    optax.AddNoiseState,
    optax.contrib.DifferentiallyPrivateAggregateState,
    optax.contrib.HutchinsonState,
)
_SEARCHING = (
    optax.ScaleByBacktrackingLinesearchState,
    optax.ScaleByZoomLinesearchState,
)


def _refuse(own: object, state: optax.OptState, *, search: bool) -> None:
    """Raise for an optimizer that is no rule for an update, by the parts of its state."""

    def refused(why: str) -> ValueError:
        return ValueError(f"`optimizer` {own!r} {why}")

    drawing = (jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state))
    if any(drawing) or states(state, *_DRAWING):
        raise refused(
            "keeps a random key, which would be the same for all seeds; use one that draws nothing"
        )
    if states(state, optax.contrib.ScheduleFreeState):
        raise refused(
            "evaluates other weights than it trains (optax.contrib.schedule_free), which is not "
            "supported; use another, and average its weights with `ema`"
        )
    if states(state, *_SEARCHING):
        raise refused(
            "searches along a line (optax.scale_by_backtracking_linesearch or "
            "scale_by_zoom_linesearch, as in optax.lbfgs), for which it would need the loss at "
            "many other weights; use one with a learning rate, such as "
            "`lambda lr: optax.lbfgs(lr, linesearch=None)`"
        )
    sam = states(state, optax.contrib.SAMState)
    if any(part.cache is not None for part in sam):
        raise refused(
            "leaves the network at other weights after every second step (optax.contrib.sam); pass "
            "it opaque_mode=True, which visits them within an update"
        )
    if sam and search:
        raise refused(
            "needs gradients at other points (optax.contrib.sam), which a search does not give; "
            "give the method another, such as "
            'jt.SEARCHES["concrete"]() with optimizer=(("optimizer", "adam"), ("lr", 0.01))'
        )
