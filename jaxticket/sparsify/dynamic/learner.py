"""Supervised training whose mask moves by a rule, as a learner."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket._conditions import where_due
from jaxticket.engine.learner import Batch, Plan
from jaxticket.engine.optim import fresh_state
from jaxticket.engine.parallel import Placement
from jaxticket.engine.selected import trained_part
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.loops import map_moments
from jaxticket.random import stream
from jaxticket.sparsify.dynamic.rule import MaskRule, state_of_rule
from jaxticket.typing import Array, Key, Params, RuleState, TrainState


@dataclasses.dataclass(frozen=True)
class Dynamic(Supervised):
    """Trains the weights of a network that are not pruned, while a rule moves the mask.

    Attributes:
      net, training: as of `Supervised`.
      rule: how the mask changes.

    Reference: Evci et al. 2020 (RigL), Algorithm 1.
    """

    invariant: ClassVar[str] = (
        "a mask rule kept another number of weights, or pruned ones came back"
    )

    rule: MaskRule

    def start(self, origin: Origin, step: Array, *, key: Key) -> TrainState:
        """The masked network with a fresh optimizer."""
        state = super().start(origin, step, key=key)
        rule = RuleState(
            memory=origin.memory,
            count=self.rule.kept(state.mask),
            wrong=jnp.bool_(False),
            explored=jax.tree.map(jnp.copy, state.mask),
            grown=jnp.float32(0),
        )
        state = state._replace(rule=_tree.varying_like(rule, step))
        if not self.rule.latent:
            return state
        # what the rule makes of the weights that training starts from; the mask before was no mask
        # that anything was trained with
        state = self._divided(self._chosen(state._replace(params=origin.params)))
        rule = state_of_rule(state)._replace(
            explored=jax.tree.map(jnp.copy, state.mask), grown=jnp.zeros_like(rule.grown)
        )
        return state._replace(rule=_tree.varying_like(rule, step))

    def step(
        self, state: TrainState, batch: Batch, plan: Plan, active: Array, placement: Placement
    ) -> TrainState:
        """An update of the mask where one is due, and one of the weights."""
        rule, living = self.rule, active & (state.diverged < 0)
        if not rule.moves:
            penalty = rule.penalty(state)
            return self.updated(state, batch, plan, active, placement, penalty=penalty)
        if rule.latent:
            return self._straight_through(state, batch, plan, active, placement)
        due = rule.when(state.step) & living

        def moved(state: TrainState) -> TrainState:
            return self._moved(state, batch, plan, placement)

        def descended(state: TrainState, active: Array = active) -> TrainState:
            penalty = rule.penalty(state)
            return self.updated(state, batch, plan, active, placement, penalty=penalty)

        state = where_due(due, moved, state)
        if not rule.replaces_step:
            return descended(state)
        rest = active & ~due
        # one by one, replicas that do not descend compute nothing
        state = descended(state, rest) if placement.vmapped else where_due(rest, descended, state)
        return state._replace(step=state.step + due.astype(jnp.int32))

    def _moved(
        self, state: TrainState, batch: Batch, plan: Plan, placement: Placement
    ) -> TrainState:
        """The state under a new mask."""
        seen = self.prepared(state, batch, plan, placement)
        _, gradient, _ = self.gradient(state, seen, placement)
        new = self._ruled(state, gradient)
        params = masks.apply(new.mask, state.params)
        changed = jax.tree.map(jnp.not_equal, new.mask, state.mask)
        fresh = fresh_state(self.training, trained_part(self.training, params), state.step)
        opt_state = map_moments(
            lambda where, old, new: jnp.where(where, new, old), changed, state.opt_state, fresh
        )
        return _averages_masked(new._replace(params=params, opt_state=opt_state))

    def _straight_through(
        self, state: TrainState, batch: Batch, plan: Plan, active: Array, placement: Placement
    ) -> TrainState:
        """An update of the mask where one is due, and one of all weights by the gradient there."""
        full = state._replace(params=_all_weights(state))
        full = self._chosen(full, active & (state.diverged < 0))
        state = self.updated(
            self._divided(full), batch, plan, active, placement, weights=full.params,
            trained=self.rule.trained(full), penalty=self.rule.penalty(full),
        )  # fmt: skip
        return self._divided(state)

    def _chosen(self, full: TrainState, living: Array | bool = True) -> TrainState:
        """The state under the mask that a rule makes of all weights, where an update is due.

        Args:
          full: with all weights as its params.
          living: bool, whether the replica takes the step.
        """

        def moved(full: TrainState) -> TrainState:
            return self._ruled(full, jax.tree.map(jnp.zeros_like, full.params))

        return where_due(self.rule.when(full.step) & living, moved, full)

    def _divided(self, full: TrainState) -> TrainState:
        """The state with the weights of the forward pass apart from latent ones."""
        params = masks.apply(full.mask, full.params)
        pruned = masks.map_with(
            lambda m, w: jnp.where(m, jnp.zeros_like(w), w), full.mask, full.params
        )
        rule = state_of_rule(full)._replace(latent=pruned)
        return _averages_masked(full._replace(params=params, rule=rule))

    def _ruled(self, state: TrainState, gradient: Params) -> TrainState:
        """The state with mask and memory of the rule's update, and its count."""
        rule = state_of_rule(state)
        wanted = self.rule.count(state, step=state.step)
        key = stream(state.key, "rule", state.step)
        new = self.rule.update(state, gradient, step=state.step, key=key)
        kept = self.rule.kept(new.mask)
        grown = masks.kept(jax.tree.map(lambda new, old: new & ~old, new.mask, state.mask))
        wrong = (kept != wanted) | ~self.rule.whole(new.mask)
        if not self.rule.grows:
            wrong = wrong | (grown > 0)
        rule = RuleState(
            memory=state_of_rule(new).memory,
            count=kept,
            wrong=rule.wrong | wrong,
            explored=jax.tree.map(jnp.logical_or, rule.explored, new.mask),
            grown=rule.grown + grown.astype(jnp.float32),
            latent=rule.latent,
        )
        return _tree.varying_like(state._replace(mask=new.mask, rule=rule), state.step)

    def broken(self, state: TrainState) -> Array:
        """Whether a pruned weight is not zero, or the mask keeps another number of weights."""
        rule = state_of_rule(state)
        return super().broken(state) | rule.wrong | (self.rule.kept(state.mask) != rule.count)


def _all_weights(state: TrainState) -> Params:
    """Weights in the forward pass and latent ones together."""
    latent = state_of_rule(state).latent
    return masks.map_with(jnp.where, state.mask, state.params, latent, other=lambda w, _: w)


def _averages_masked(state: TrainState) -> TrainState:
    """The state whose average has no weight where the mask is False."""
    average = state.average
    if not average:
        return state
    return state._replace(average=average._replace(params=masks.apply(state.mask, average.params)))
