"""What the engine trains: the protocol of a learner, and the update that all learners share."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket.engine.metrics import Normalization
from jaxticket.engine.optim import Schedule
from jaxticket.engine.parallel import Placement
from jaxticket.settings import Training
from jaxticket.typing import AnyArray, Array, Key, Network, Params, Stats

Networks = tuple[Params, Stats]
"""Params and statistics of one network, or of several with a leading axis [network]."""


class State(Protocol):
    """What the engine asks of a training state, a NamedTuple with at least these fields.

    Attributes:
      step: int32, absolute step: the number of updates done since initialization.
      key: the replica's root key.
      diverged: int32, the step whose loss was not finite, -1 while there is none.
    """

    @property
    def step(self) -> Array:
        """The absolute step."""
        ...

    @property
    def key(self) -> Key:
        """The root key."""
        ...

    @property
    def diverged(self) -> Array:
        """The step of divergence, or -1."""
        ...

    def _replace(self, **fields: object) -> Self: ...

    def _asdict(self) -> dict[str, object]: ...


class Planned(Protocol):
    """What the engine asks of a plan, a NamedTuple with at least the fields of `Plan`."""

    @property
    def schedule(self) -> Schedule:
        """Learning rate, decay and stop step."""
        ...

    @property
    def order(self) -> AnyArray:
        """The data order."""
        ...

    @property
    def augment(self) -> AnyArray:
        """The augmentation."""
        ...


class Plan(NamedTuple):
    """What one replica does; every field may differ between replicas of one program.

    Attributes:
      schedule: learning rate, decay and stop step.
      order: int32, which of the orders of its key the replica sees.
      augment: int32, which of the augmentations of its key it sees; copies may differ in it alone.
      teacher: the network that it learns from, where the training has a teacher, else None.
    """

    schedule: Schedule
    order: AnyArray
    augment: AnyArray = np.zeros((), np.int32)
    teacher: Networks | None = None


class Batch(NamedTuple):
    """This device's part of the examples of one step.

    Attributes:
      x: raw examples [batch, ...].
      y: labels [batch, ...], as data have them.
      by: how images are normalized.
    """

    x: Array
    y: Array
    by: Normalization


class Block(NamedTuple):
    """Examples of several steps: x [replica, step, batch, ...], y [replica, step, batch, ...]."""

    x: Array
    y: Array


class Piece(NamedTuple):
    """Some of the steps of a call.

    `count` is the number of steps of each replica, int32 [replica], `block` holds their examples,
    or is None where these are on the devices.
    """

    count: np.ndarray
    block: Block | None


StateT = TypeVar("StateT", bound=State)
PlanT = TypeVar("PlanT", contravariant=True)
OriginT = TypeVar("OriginT", contravariant=True)


class Learner(Protocol[StateT, PlanT, OriginT]):
    """Something that learns step by step from batches: what the engine compiles for many replicas.

    Learners are frozen dataclasses: equal ones share compiled programs. All methods are pure
    functions of one replica. A class that derives from this one need not define those with a body.

    Attributes:
      net: the network that is evaluated.
      training: the settings that a compiled program is made for: batch size, precision, ...
      invariant: the message of the error where `broken`.
    """

    invariant: ClassVar[str] = "an invariant was broken"

    net: Network
    training: Training

    def start(self, origin: OriginT, step: Array, *, key: Key) -> StateT:
        """The state that learning starts from.

        Args:
          origin: what is given to each replica, a tree of arrays.
          step: int32, the absolute step.
          key: the replica's root key.
        """
        ...

    def step(
        self, state: StateT, batch: Batch, plan: PlanT, active: Array, placement: Placement
    ) -> StateT:
        """The state after one step, or as it was where `active` is False or it has diverged.

        Args:
          state: before the step.
          batch: this device's part of the examples.
          plan: what the replica does.
          active: bool, whether it takes a step.
          placement: how the replica and its batch lie on the devices.
        """
        ...

    def finite(self, state: StateT) -> Array:
        """Whether all that was learned is finite, bool: no loss follows the last update."""
        ...

    def boundary(self, state: StateT, plan: PlanT, here: Array) -> StateT:
        """The state after a call's last step, such as after a round.

        It stays as it was where `here` is False: the replica did not get to that step, or diverged.
        """
        del plan, here
        return state

    def network(self, state: StateT) -> Networks | None:
        """The network to evaluate; None for learners whose states are not evaluated."""
        del state
        return None

    def current(self, state: StateT) -> Networks | None:
        """The network that training goes on from, which snapshots hold; `network` by default."""
        return self.network(state)

    def broken(self, state: StateT) -> Array:
        """Whether an invariant is broken, bool; asserted after every training."""
        del state
        return jnp.bool_(False)


def guarded_update(
    state: StateT,
    updated: StateT,
    *,
    finite: Array,
    active: Array,
    free: tuple[str, ...] = (),
) -> StateT:
    """The updated state; the old one where the replica does not take the step.

    Where `active` is False, and from the first step on at which loss or update are not finite, all
    fields stay as they are; `diverged` becomes the number of that step.

    Args:
      state: before the step.
      updated: after it, with `step` and `diverged` as they were.
      finite: bool, whether the loss, and what else must be, is finite.
      active: bool, whether the replica takes a step.
      free: fields that are always taken from `updated`.
    """
    fresh = ~finite & active & (state.diverged < 0)
    diverged = jnp.where(fresh, state.step, state.diverged)
    moving = active & (diverged < 0)

    def held(new: Array, old: Array) -> Array:
        return old if new is old else jnp.where(moving, new.astype(old.dtype), old)

    def taken(new: Array, old: Array) -> Array:
        return new.astype(old.dtype)

    fields = {
        name: jax.tree.map(taken if name in free else held, new, getattr(state, name))
        for name, new in updated._asdict().items()
        if name not in ("step", "key", "diverged")
    }
    return state._replace(**fields, step=state.step + active.astype(jnp.int32), diverged=diverged)
