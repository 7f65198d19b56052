"""Calls of the compiled program: one for data on the devices, one for each block of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket.engine import parallel
from jaxticket.engine.feeder import StreamedData
from jaxticket.engine.program import DeviceData, Program
from jaxticket.typing import Array


class Call(NamedTuple):
    """From step `begin` to step `end`, then an evaluation where `wanted`; [replica] each."""

    begin: np.ndarray
    end: np.ndarray
    wanted: np.ndarray


@contextlib.contextmanager
def calling(
    program: Program,
    data: DeviceData | StreamedData,
    mesh: Mesh,
    plan: Any,
    calls: Sequence[Call],
    *,
    keys: np.ndarray,
    splits: int,
) -> Iterator[Callable[[int, Any], tuple[Any, Array]]]:
    """Gives `call(i, state) -> (state, metrics)`, to be made for each of `calls` in order.

    Blocks of a stream are prepared ahead, beyond the call that runs, by threads that end with the
    context.

    Args:
      program: the compiled program.
      data: what it trains on.
      mesh: the devices.
      plan: of each replica, host arrays.
      calls: all calls that will be made.
      keys: key data of each replica's root key.
      splits: number of evaluated splits.
    """
    put_plan = parallel.put(plan, mesh)

    def chunk(i: int, state: Any) -> tuple[Any, Array]:
        begin, end, wanted = calls[i]
        limits, target, on = (parallel.put(x, mesh) for x in (end - begin, end, wanted))
        return program.chunk(limits, state, put_plan, target, on, data)

    if not isinstance(data, StreamedData):
        yield chunk
        return
    stretches = data.stretches([c.begin for c in calls], [c.end for c in calls])
    orders, augments = np.asarray(plan.order), np.asarray(plan.augment)
    with data.training_blocks(keys, orders, augments, stretches) as blocks:

        def feed(i: int, state: Any) -> tuple[Any, Array]:
            target = parallel.put(calls[i].end, mesh)
            for stretch in stretches:
                if stretch.call == i:
                    block = next(blocks)
                    # else blocks would pile up on a device that is slower than the host
                    jax.block_until_ready(state.step)
                    limits = parallel.put(stretch.count, mesh)
                    state = program.fed(limits, state, put_plan, target, block, data.by)
            wanted = calls[i].wanted.astype(np.int32)
            sums = np.zeros((len(wanted), splits, 3), np.float32)
            return state, _evaluated(program, data, mesh, state, wanted, sums)

        yield feed


def _evaluated(
    program: Program,
    data: StreamedData,
    mesh: Mesh,
    state: Any,
    wanted: np.ndarray,
    zeros: np.ndarray,
) -> Array:
    limits, sums = parallel.put(wanted, mesh), parallel.put(zeros, mesh)
    if wanted.any():
        with data.evaluation_blocks() as blocks:
            for batched in blocks:
                jax.block_until_ready(sums)
                sums = program.tallied(limits, state, sums, batched, data.by)
    return program.averaged(limits, sums)
