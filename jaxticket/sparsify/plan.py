"""What is run, by any way to find masks: the arguments that all public functions share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Unpack

import jax
import numpy as np

from jaxticket import _identity
from jaxticket._check import distinct_seeds, one_of, one_or_several, whole
from jaxticket.controls import Change, named_changes
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Options, Runtime, settled
from jaxticket.settings import Training
from jaxticket.typing import InitialWeights, Network


class Keeping(NamedTuple):
    """Which networks of trainings are kept, with their weights.

    Attributes:
      trained: those after training.
      at: those at these steps, ascending.
    """

    trained: bool = False
    at: tuple[int, ...] = ()

    @property
    def settings(self) -> dict[str, object]:
        """For a run's folder; what is not kept is not there."""
        found: dict[str, object] = {"keep": "trained"} if self.trained else {}
        return found | ({"keep_at": self.at} if self.at else {})


NOTHING = Keeping()


def checked_keep(keep: str | None, keep_at: int | Sequence[int], steps: int) -> Keeping:
    """What is kept of trainings.

    Args:
      keep: "trained" or None.
      keep_at: steps, or one.
      steps: at which the longest training ends.
    """
    trained = one_of("keep", keep, ("trained", None)) == "trained"
    if isinstance(keep_at, Sequence) and not keep_at:
        return Keeping(trained)
    at = one_or_several("keep_at", keep_at, whole, like="(0, 100)", distinct=True, high=steps)
    return Keeping(trained, tuple(sorted(at)))


@dataclass(frozen=True)
class Plan:
    """What is run, by any strategy; its fields are checked by `planned`.

    Attributes:
      net, data, training, seeds: what is trained.
      changes: controls that are trained next to the tickets.
      runtime: where.
      keep: which networks are kept.
    """

    net: Network
    data: Data | Stream
    training: Training
    seeds: tuple[int, ...]
    changes: dict[str, Change]
    runtime: Runtime
    keep: Keeping

    def settings(self, kind: str, **settings: object) -> dict[str, object]:
        """The settings of a run, for its folder."""
        return _identity.run(
            kind, self.net, self.data, training=self.training, seeds=self.seeds,
            branches=list(self.changes.items()), **settings, **self.keep.settings,
        )  # fmt: skip


def started(net: Network, init: InitialWeights | None, seeds: tuple[int, ...]) -> Network:
    """The network whose training starts from the weights `init` of a call.

    Args:
      net: the network.
      init: params, or (params, statistics), with or without a leading axis [seed]; None for
        those that the network draws.
      seeds: of the run.

    Raises:
      ValueError: as `Network.with_params`, naming `init`, and for a network with weights already.
    """
    if init is None:
        return net
    if net.given is not None:
        raise ValueError(
            "`init` is given next to a network that has weights by with_params; leave one of them "
            "out"
        )
    params, stats = init if isinstance(init, tuple) and len(init) == 2 else (init, None)
    wanted, leaves = jax.tree.leaves(net.shapes[0]), jax.tree.leaves(params)
    stacked = bool(leaves) and np.ndim(leaves[0]) == len(wanted[0].shape) + 1
    try:
        return net.with_params(params, stats, seeds=seeds if stacked else None)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(
            f"`init` must be params, or (params, statistics), of the network, or for each of the "
            f"{len(seeds)} seeds in a leading axis: {error}"
        ) from None


def planned(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    seeds: Iterable[int],
    branches: Sequence[str | Change],
    runtime: Runtime | None,
    init: InitialWeights | None = None,
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    **given: Unpack[Options],
) -> Plan:
    """The arguments that all public functions share, checked.

    Args:
      net: the network.
      data: a data set or a stream.
      training: how networks are trained.
      seeds: one replica each.
      branches: controls, names in `jt.BRANCHES` or change functions.
      runtime: where, or None.
      init: weights that training starts from; None for those that the network draws.
      keep: "trained" or None.
      keep_at: steps whose networks are kept, or one.
      **given: `mesh`, `folder`, `at_once`, `save_every` and the like of the call.

    Raises:
      ValueError: for what is no such thing, and for what does not fit together.
    """
    seeds = distinct_seeds(seeds)
    runtime = settled(runtime, **given)
    training = check_fit(net, data, training, runtime.devices, seeds)
    kept = checked_keep(keep, keep_at, training.steps)
    net = started(net, init, seeds)
    return Plan(net, data, training, seeds, named_changes(branches), runtime, kept)
