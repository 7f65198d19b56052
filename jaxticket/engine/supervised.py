"""Supervised training of masked networks, as a learner."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket.data.augment import augmented
from jaxticket.engine.accumulation import accumulated, in_parts
from jaxticket.engine.averaging import averaged, begun, rounded
from jaxticket.engine.learner import Batch, Learner, Networks, Plan, guarded_update
from jaxticket.engine.metrics import computed, normalized, trained_losses
from jaxticket.engine.optim import apply_update, fresh_state, learning_rate
from jaxticket.engine.parallel import Placement
from jaxticket.engine.selected import completed, trained_part
from jaxticket.engine.teaching import answers
from jaxticket.nn.network import accepted
from jaxticket.random import stream
from jaxticket.settings import Training, static_part
from jaxticket.typing import Array, Key, Mask, Network, Params, Stats, TrainState


class Origin(NamedTuple):
    """The network that training starts from; the weights are masked then.

    Attributes:
      params, stats, mask: the network, with weights at every position.
      memory: what a mask rule remembers from the start, a tree of arrays.
    """

    params: Params
    stats: Stats
    mask: Mask
    memory: object = ()


class TrainBatch(NamedTuple):
    """The batch of one training step as its update sees it.

    Attributes:
      x: normalized examples [batch, ...], augmented (and attacked) as the training asks for.
      y: labels [batch, ...], as data have them.
      key: of the noise inside the network, such as dropout.
      answers: logits of the teacher, float32 [batch, classes]; None where there is none.
    """

    x: jax.Array
    y: jax.Array
    key: Key
    answers: jax.Array | None = None


def network_of(state: TrainState) -> Networks:
    """The network to evaluate: the average where one is kept, else the weights as they are."""
    if state.average:
        return rounded(state.average, state.params, state.stats)
    return state.params, state.stats


def masked_network(state: TrainState) -> tuple[Mask, Params, Stats]:
    """The mask, and the network to evaluate."""
    return state.mask, *network_of(state)


@dataclasses.dataclass(frozen=True)
class Supervised(Learner[TrainState, Plan, Origin]):
    """Trains the weights of a network that are not pruned by the gradient of the mean loss.

    Params stay zero where the mask is False, so the forward pass needs no mask: the gradient is
    masked before clipping and momentum, and the update is added only where the mask is True. The
    optimizer sees the weights that are trained alone.

    Attributes:
      net: the network.
      training: the settings; times and rates count for nothing here, since they come with the plan.

    Reference: Frankle's thesis, Algorithm 1: the mask is multiplied in, so that pruned weights stay
      exactly 0.
    """

    invariant: ClassVar[str] = "pruned weights came back"

    net: Network
    training: Training

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", static_part(self.training))

    def start(self, origin: Origin, step: Array, *, key: Key) -> TrainState:
        """The masked network with a fresh optimizer."""
        params = masks.apply(origin.mask, origin.params)
        fresh = fresh_state(self.training, trained_part(self.training, params), step)
        average = () if self.training.ema is None else begun(params, origin.stats)
        opt_state, going, average = _tree.varying_like((fresh, jnp.int32(-1), average), step)
        return TrainState(step, params, origin.stats, opt_state, origin.mask, key, going, average)

    def loss(
        self, params: Params, stats: Stats, batch: TrainBatch, *, placement: Placement
    ) -> tuple[Array, Stats]:
        """The mean loss of a batch, in training mode, and the statistics after it.

        Args:
          params, stats: the network.
          batch: of this device.
          placement: the mean is over all devices that share the batch.
        """
        weights = computed(self.net, params, self.training.compute_dtype)
        logits, stats = self.net.apply(
            weights, stats, batch.x, train=True, key=batch.key, axis_name=placement.axis_name
        )
        losses = trained_losses(self.training, logits, batch.y)
        if (teacher := self.training.teacher) is not None:
            if batch.answers is None:
                raise ValueError(
                    "`batch` has no answers of the teacher that this training learns from; pass "
                    "the batch that came with the state"
                )
            losses = teacher.losses(losses, logits.astype(jnp.float32), batch.answers)
        loss = jnp.mean(losses)
        # inside the loss, so that the gradient is averaged too
        return placement.mean(loss), stats

    def prepared(
        self, state: TrainState, batch: Batch, plan: Plan, placement: Placement
    ) -> TrainBatch:
        """The batch as the update that follows a state sees it.

        Args:
          state: where the update begins; its step and key decide on augmentation and dropout.
          batch: raw examples of this device.
          plan: what the replica does.
          placement: how the replica and its batch lie on the devices.
        """
        net, training = self.net, self.training
        first, x = placement.part[0] * batch.y.shape[0], batch.x
        if training.augment:
            key = stream(state.key, "augment", plan.augment, state.step)
            x = augmented(x, training, jnp.asarray(batch.by.mean), key=key, first=first)
        if training.attack is not None:
            # an attack of the user's may have a loss of its own
            more = {"loss": training.loss} if accepted(training.attack, "loss") else {}
            attacked = functools.partial(
                training.attack, net, state.params, state.stats, by=batch.by,
                key=stream(state.key, "adversary", plan.augment, state.step),
                compute_dtype=training.compute_dtype, **more,
            )  # fmt: skip
            if training.accumulate == 1:
                x = attacked(x, batch.y, first=first)
            else:
                x = in_parts(
                    lambda part, x, y: attacked(x, y, first=first + part),
                    training.accumulate, x, batch.y,
                )  # fmt: skip
        x = normalized(x, batch.by, training.compute_dtype)
        # copies under other SGD noise draw other dropout masks too
        key = placement.own_key(stream(state.key, "noise", plan.augment, state.step))
        return TrainBatch(x, batch.y, key, answers(training, plan.teacher, x))

    def gradient(
        self, state: TrainState, batch: TrainBatch, placement: Placement
    ) -> tuple[Array, Params, Stats]:
        """Loss, gradient and statistics after it, of the update that follows a state.

        The gradient is that with respect to the effective weights, also where they are pruned.

        Args:
          state: where the update begins.
          batch: as `prepared` gives it.
          placement: how the replica and its batch lie on the devices.
        """

        def one(stats: Stats, batch: TrainBatch) -> tuple[Array, Params, Stats]:
            def loss_of(params: Params) -> tuple[Array, Stats]:
                return self.loss(params, stats, batch, placement=placement)

            (loss, after), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
            return loss, gradient, after

        parts = self.training.accumulate
        if parts == 1:
            return one(state.stats, batch)

        def part(
            stats: Stats, examples: tuple[Array, Array, Array | None], key: Key
        ) -> tuple[Array, Params, Stats]:
            x, y, taught = examples
            return one(stats, TrainBatch(x, y, key, taught))

        examples = batch.x, batch.y, batch.answers
        return accumulated(
            part, state.stats, examples, key=batch.key, parts=parts, like=state.params
        )

    def step(
        self, state: TrainState, batch: Batch, plan: Plan, active: Array, placement: Placement
    ) -> TrainState:
        """One update."""
        return self.updated(state, batch, plan, active, placement)

    def updated(
        self,
        state: TrainState,
        batch: Batch,
        plan: Plan,
        active: Array,
        placement: Placement,
        *,
        weights: Params | None = None,
        trained: Mask | None = None,
        penalty: Params | None = None,
    ) -> TrainState:
        """One update, by the gradient with respect to the effective weights.

        Args:
          state, batch, plan, active, placement: as of `step`.
          weights: what is updated, in the place of the masked weights: straight-through training
            updates weights that the mask leaves out of the forward pass. They are the weights of
            the result, also where `active` is False.
          trained: which of them are updated, with `weights`.
          penalty: the gradient of a regularizer, added to that of the loss.
        """
        seen = self.prepared(state, batch, plan, placement)
        loss, gradient, stats = self.gradient(state, seen, placement)
        if penalty is not None:
            gradient = jax.tree.map(jnp.add, gradient, penalty)
        before = state if weights is None else state._replace(params=weights)
        # True, known at run time alone, where nothing can be pruned: the compiler then rounds all
        # leaves as it does under masks of all leaves, so that numbers of earlier versions stay
        kept = masks.map_with(
            lambda m, w: m,
            state.mask if trained is None else trained,
            state.params,
            other=lambda w: jnp.broadcast_to(state.step >= 0, w.shape),
        )

        def survivors(tree: Params) -> Params:
            return jax.tree.map(lambda m, g: jnp.where(m, g, jnp.zeros_like(g)), kept, tree)

        def slope(part: Params, number: int) -> Params:
            # at other weights, where an optimizer looks at some
            del number
            at = survivors(completed(part, before.params))
            at = at if trained is None else masks.apply(state.mask, at)
            there = state._replace(params=at)
            return own(survivors(self.gradient(there, seen, placement)[1]))

        training, own = self.training, functools.partial(trained_part, self.training)
        # weights that are not updated must not decay into momentum or count in norms
        given = before.params if trained is None else survivors(before.params)
        rate = learning_rate(plan.schedule, state.step, kind=training.schedule)
        part, opt_state = apply_update(
            training, plan.schedule, rate, own(survivors(gradient)), state.opt_state,
            own(given), loss=loss, slope=slope,
        )  # fmt: skip
        # pruned weights are zero already
        moved = completed(part, before.params)
        params, average = jax.tree.map(jnp.where, kept, moved, before.params), state.average
        if average and training.ema is not None:
            average = averaged(average, params, stats, training.ema)
        return guarded_update(
            before,
            before._replace(params=params, stats=stats, opt_state=opt_state, average=average),
            finite=jnp.isfinite(loss),
            active=active,
            # where replicas run vmapped, those that start late wait through others' steps; where
            # they do not, nobody looks at the momentum of one that diverged, and to hold Adam's
            # costs a fifth of a step
            free=() if placement.vmapped else ("opt_state",),
        )

    def network(self, state: TrainState) -> Networks:
        """The average where the training keeps one, else the network as it is."""
        return network_of(state)

    def current(self, state: TrainState) -> Networks:
        """The network as it is."""
        return state.params, state.stats

    def finite(self, state: TrainState) -> Array:
        """Whether weights and statistics are finite."""
        return _tree.finite((state.params, state.stats))

    def broken(self, state: TrainState) -> Array:
        """Whether a pruned weight is not zero."""
        kept = [state.params, *([state.average.params] if state.average else [])]
        outside = [
            jnp.any(~m & (w != 0)) for tree in kept for _, m, w in masks.items(state.mask, tree)
        ]
        return jnp.any(jnp.stack(outside))
