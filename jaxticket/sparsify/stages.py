"""What strategies give: masks of levels, with the training that led to them, stage after stage."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from jaxticket import _show
from jaxticket.engine.loop import Arrays, Jobs, Trained
from jaxticket.results import EvaluationLog
from jaxticket.sparsify.runner import Kept
from jaxticket.ticket import Ticket
from jaxticket.typing import Json, Mask


class Phase(NamedTuple):
    """An earlier part of the training of tickets, under another mask.

    Attributes:
      log: its evaluations.
      kept: the networks of it that are kept, by step.
    """

    log: EvaluationLog
    kept: Kept

    __repr__ = _show.record


class Found(NamedTuple):
    """Masks of one level.

    Attributes:
      level: at least 1; 0 asks for the training of the dense networks.
      mask: bool [replica, ...], one for each seed.
      origin: what they start from: weights at every position, statistics and step.
      source: the level whose trained weights the masks come from: replicas that diverged there have
        no mask. None for masks of states of the dense training.
      lost: bool [replica], which of them have no mask for another reason; None for none.
      phases: the training of these tickets so far, where their masks have changed on the way: it is
        part of their evaluations.
    """

    level: int
    mask: Mask
    origin: Ticket
    source: int | None = None
    lost: np.ndarray | None = None
    phases: Sequence[Phase] = ()

    __repr__ = _show.record


class Tickets(NamedTuple):
    """Tickets of a block that were just trained.

    Attributes:
      trained: their states on the devices, in the first `count` places, and snapshots.
      jobs: what was trained, controls too.
      first: number of the first of them among the seeds.
      count: how many tickets.
    """

    trained: Trained
    jobs: Jobs
    first: int
    count: int

    __repr__ = _show.record


class Stage(NamedTuple):
    """Masks that are trained side by side, with their controls.

    Attributes:
      found: the masks.
      keep: `keep(tickets) -> arrays [ticket, ...]`, what the strategy needs of trained tickets, of
        which `found` then has one entry.
      snapshots_at: steps whose states `keep` looks at.
      name: of the training in the table of seconds, one row; a row for each block if "".
      costs, trace: rows of `Runs.timings` and `Runs.trace`, of finding these masks.
    """

    found: Sequence[Found]
    keep: Callable[[Tickets], Arrays] | None = None
    snapshots_at: Sequence[int] = ()
    name: str = ""
    costs: Sequence[Json] = ()
    trace: Sequence[Json] = ()

    __repr__ = _show.record


Stages = Generator[Stage, Arrays, Ticket | None]
"""What `Strategy.tickets` gives: each `yield` of a stage returns what its `keep` gave, joined over
all seeds. It may return the weights that tickets rewind to; those of the last masks if None."""
