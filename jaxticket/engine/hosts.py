"""Processes on several hosts that compute one run together: how they find and await one another."""

from __future__ import annotations

import itertools
import os

import jax

from jaxticket._check import text, whole

PATIENCE = 24 * 3600
"""Seconds that processes wait for one another: as long as a folder may be in use. One that dies is
noticed much earlier, by its missing heartbeats."""


def distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = 100,
) -> bool:
    """Connect the processes of several hosts; call it before anything else touches JAX.

    It is `jax.distributed.initialize` for runs: from then on `jax.devices()` are those of all
    hosts, and every call of the library is made by all processes alike. On Cloud TPU, Slurm and
    Open MPI there is nothing to give. Where there is no cluster and nothing is given, the process
    stays alone, so that a script for a pod runs on a single machine too. Processes that are
    connected already stay as they are. On a CPU, `jt.cpu_devices()` comes before or after.

    JAX's preemption service is switched off: it would keep SIGTERM from ending a process that
    saves nothing, and let the others wait for it for minutes. Runs with a folder agree on signals
    by themselves.

    Args:
      coordinator_address: host and port of process 0, "10.0.0.1:1234".
      num_processes: how many there are.
      process_id: the number of this one, from 0.
      heartbeat_timeout: seconds without a sign of life after which a process counts as dead, and
        JAX ends the others with a message.

    Returns:
      Whether this process is connected to others.

    Raises:
      RuntimeError: where JAX has started already.
      ValueError: where some of the three are missing, and the cluster does not say them.
    """
    if coordinator_address is not None:
        host, _, port = text("coordinator_address", coordinator_address).rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(
                f"`coordinator_address` must be a host and a port, such as '10.0.0.1:1234', got "
                f"{coordinator_address!r}"
            )
    if num_processes is not None:
        num_processes = whole("num_processes", num_processes, 1)
    if process_id is not None:
        high = num_processes or 2**31
        process_id = whole("process_id", process_id, 0, high - 1)
    heartbeat_timeout = whole("heartbeat_timeout", heartbeat_timeout, 1)
    if jax.distributed.is_initialized():
        return True
    jax.config.update("jax_enable_preemption_service", False)
    given = (coordinator_address, num_processes, process_id)
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=heartbeat_timeout)
    except jax.errors.JaxRuntimeError:
        # says itself who could not be reached
        raise
    except RuntimeError as error:
        raise RuntimeError(
            "JAX has started already, with the devices of this process alone: restart the program "
            "(or the notebook's kernel) and call jt.distributed() first, right after the imports "
            "and before anything else uses JAX"
        ) from error
    except ValueError as error:
        if given == (None,) * 3 and "JAX_COORDINATOR_ADDRESS" not in os.environ:
            return False
        raise ValueError(
            f"`coordinator_address`, `num_processes` and `process_id` must be given together "
            f"outside of Cloud TPU, Slurm and Open MPI, got {given}: {error}"
        ) from error
    return True


_meetings = itertools.count()


def meet() -> None:
    """Wait until all processes are here.

    Collectives on a CPU wait for half a minute only, which is too short where one host compiles,
    writes or waits for a folder longer than another.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        everyone = set(range(jax.process_count()))
        name = f"jaxticket-{next(_meetings)}"
        multihost.sync_global_processes(name, timeout=PATIENCE, processes=everyone)
