"""How many replicas fit into the memory of a device, by the compiler's analysis."""

from __future__ import annotations

import numpy as np
from jax.sharding import Mesh

from jaxticket.engine import parallel, shapes
from jaxticket.engine.learner import Plan
from jaxticket.engine.optim import schedule
from jaxticket.engine.program import Program
from jaxticket.engine.source import DataArrays
from jaxticket.engine.store import agreed
from jaxticket.engine.supervised import Origin
from jaxticket.settings import Training
from jaxticket.typing import TrainState

SHARE = 0.8
"""Share of the memory that a program may take; networks that are kept need some of the rest."""


def available(mesh: Mesh) -> int | None:
    """Bytes that a program may take on each device; None where the platform does not say (CPU).

    Of several hosts it is the least, in whole MiB: all must choose the same number of replicas.
    """
    limit = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit")
    own = -1 if limit is None else int(SHARE * limit) >> 20
    least = int(agreed([own]).min())
    return None if least < 0 else least << 20


def fitting(
    program: Program[TrainState, Plan, Origin],
    training: Training,
    mesh: Mesh,
    size: int,
    arrays: DataArrays,
    room: int | None,
) -> int:
    """Halve the replicas of a call until the program of a training fits.

    It is compiled by shapes, and once for a size: calls with arrays find it compiled. One replica
    for each device remains, fitting or not, and all of them where the data come in blocks.

    Args:
      program: of the training.
      training: its settings.
      mesh: its devices.
      size: replicas per call, a multiple of the seed axis.
      arrays: the data.
      room: bytes that it may take on each device; all replicas stay if None.
    """
    devices = mesh.shape[parallel.SEED]
    if room is None or arrays.batched is None:
        return size
    net, teacher = program.learner.net, training.teacher
    origin = Origin(*net.shapes, net.mask())
    taught_by = None if teacher is None else teacher.net.shapes
    # of no order, but of its shape
    plan = Plan(schedule(training), np.zeros((), np.int32), teacher=taught_by)

    def needed(size: int) -> int:
        given = shapes.of_chunk(program, mesh, size, origin, plan, arrays)
        return shapes.memory(program.chunk.lower(*given).compile()).total

    while size > devices and needed(size) > room:
        size = -(-size // devices // 2) * devices
    return size
