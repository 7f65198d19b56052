"""Supervised training whose mask moves by a rule, as a learner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from jaxticket import _tree, masks
from jaxticket.engine.learner import Batch, Learner, Networks, Plan
from jaxticket.engine.optim import fresh_state
from jaxticket.engine.parallel import Placement
from jaxticket.engine.selected import trained_part
from jaxticket.engine.supervised import Origin, Supervised, network_of
from jaxticket.problem import Problem
from jaxticket.random import stream
from jaxticket.settings import Training, static_part
from jaxticket.typing import Average, Key, Mask, Network, Params, Stats, TrainState


class MaskRule(Protocol):
    """How a mask changes during training.

    A rule is a frozen dataclass whose methods are pure functions of one replica. The library keeps
    what all rules promise: an update keeps as many weights as there were, weights that it prunes
    become zero and grown ones start at zero, and the moments of both are new.
    """

    def init(self, problem: Problem, density: float, *, key: Key) -> Mask:
        """The mask that training starts with.

        Args:
          problem: with the network `problem.net`; it has no examples.
          density: share of the prunable weights to keep.
          key: of the seed.
        """
        ...

    def when(self, step: jax.Array) -> jax.Array:
        """Whether the mask is updated before the weights are at this step, a bool scalar.

        Args:
          step: int32, the absolute step.
        """
        ...

    def update(
        self, state: TrainState, dense_gradient: Params, *, step: jax.Array, key: Key
    ) -> TrainState:
        """The state with a new mask; all else in it is ignored.

        Args:
          state: weights, zero where the mask is False, and the mask.
          dense_gradient: of the batch of this step with respect to the effective weights, also
            where they are pruned; computed only at steps of updates whose rule uses it.
          step: int32, the absolute step.
          key: of the seed and the step.
        """
        ...


class DynamicState(NamedTuple):
    """A training state whose mask moves: the fields of `TrainState`, and then two more.

    Attributes:
      count: int32, how many weights the first mask keeps.
      wrong: bool, whether an update kept another number.
    """

    step: jax.Array
    params: Params
    stats: Stats
    opt_state: optax.OptState
    mask: Mask
    key: Key
    diverged: jax.Array
    average: Average | tuple[()]
    count: jax.Array
    wrong: jax.Array


@dataclasses.dataclass(frozen=True)
class Dynamic(Learner[DynamicState, Plan, Origin]):
    """Trains the weights of a network that are not pruned, while a rule moves the mask.

    Attributes:
      net: the network.
      training: the settings, as of `Supervised`.
      rule: how the mask changes.

    Reference: Evci et al. 2020 (RigL), Algorithm 1.
    """

    invariant: ClassVar[str] = (
        "a mask rule kept another number of weights, or pruned ones came back"
    )

    net: Network
    training: Training
    rule: MaskRule

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", static_part(self.training))

    @property
    def supervised(self) -> Supervised:
        """Training under the mask as it is."""
        return Supervised(self.net, self.training)

    def start(self, origin: Origin, step: jax.Array, *, key: Key) -> DynamicState:
        """The masked network with a fresh optimizer."""
        state = self.supervised.start(origin, step, key=key)
        right = _tree.varying_like(jnp.bool_(False), step)
        return DynamicState(*state, count=_count(state.mask), wrong=right)

    def step(
        self,
        state: DynamicState,
        batch: Batch,
        plan: Plan,
        active: jax.Array,
        placement: Placement,
    ) -> DynamicState:
        """An update of the mask where one is due, and then one of the weights."""
        due = self.rule.when(state.step) & active & (state.diverged < 0)
        state = jax.lax.cond(
            due,
            lambda state: self._moved(state, batch, plan, placement),
            lambda state: state,
            state,
        )
        return self.supervised.step(state, batch, plan, active, placement)  # type: ignore[arg-type]

    def _moved(
        self, state: DynamicState, batch: Batch, plan: Plan, placement: Placement
    ) -> DynamicState:
        """The state under a new mask."""
        learner, now = self.supervised, _plain(state)
        seen = learner.prepared(now, batch, plan, placement)
        _, gradient, _ = learner.gradient(now, seen, placement)
        key = stream(state.key, "rule", state.step)
        mask = self.rule.update(now, gradient, step=state.step, key=key).mask
        params = masks.apply(mask, state.params)
        changed = jax.tree.map(jnp.not_equal, mask, state.mask)
        fresh = fresh_state(self.training, trained_part(self.training, params), state.step)
        average = state.average
        if average:
            average = average._replace(params=masks.apply(mask, average.params))
        moved = state._replace(
            average=average,
            mask=mask,
            params=params,
            opt_state=_renewed(state.opt_state, fresh, _tree.leaves(changed)),
            wrong=state.wrong | (_count(mask) != state.count),
        )
        return _tree.varying_like(moved, state.step)

    def network(self, state: DynamicState) -> Networks:
        """As of `Supervised`."""
        return network_of(_plain(state))

    def current(self, state: DynamicState) -> Networks:
        """The network as it is."""
        return state.params, state.stats

    def finite(self, state: DynamicState) -> jax.Array:
        """Whether weights and statistics are finite."""
        return _tree.finite((state.params, state.stats))

    def broken(self, state: DynamicState) -> jax.Array:
        """Whether a pruned weight is not zero, or the number of weights has changed."""
        changed = state.wrong | (_count(state.mask) != state.count)
        return self.supervised.broken(_plain(state)) | changed


def _plain(state: DynamicState) -> TrainState:
    """The training state without what a moving mask adds."""
    return TrainState(*state[:8])


def _count(mask: Mask) -> jax.Array:
    """How many entries a mask keeps, of all leaves."""
    counts = [jnp.sum(m, dtype=jnp.int32) for m in jax.tree.leaves(mask)]
    return jnp.sum(jnp.stack(counts), dtype=jnp.int32)


def _renewed(
    state: optax.OptState, fresh: optax.OptState, changed: Mapping[str, jax.Array]
) -> optax.OptState:
    """The optimizer's state with new moments where the mask has changed."""

    def one(path: str, old: jax.Array, new: jax.Array) -> jax.Array:
        for name, where in changed.items():
            if path.endswith(f"/{name}") and old.shape == where.shape:
                return jnp.where(where, new, old)
        return old

    parts = zip(_tree.paths(state), *map(jax.tree.leaves, (state, fresh)), strict=True)
    return jax.tree.unflatten(jax.tree.structure(state), [one(*part) for part in parts])
