"""What a probe gives for all networks of some levels and branches, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxticket import _tree
from jaxticket.analysis.measuring import diverged_at, measurer, ticket_of
from jaxticket.analysis.probes import Probe
from jaxticket.controls import Change
from jaxticket.engine import parallel
from jaxticket.problem import Problem
from jaxticket.random import root_keys
from jaxticket.runs import Runs
from jaxticket.ticket import Ticket


def gathered(
    runs: Runs,
    probe: Probe,
    problem: Problem,
    *,
    changes: Mapping[str, Change],
    levels: Sequence[int],
    seeds: Sequence[int],
    trained: bool,
) -> tuple[dict[str, np.ndarray], tuple[tuple[int, int, str], ...]]:
    """Give the arrays of a probe, all replicas of a level in one compiled program.

    Args:
      runs: whose networks are looked at.
      probe: `probe(problem, ticket, *, key) -> dict of arrays`.
      problem: network and examples, on the host.
      changes: branches, as `changes_of` gives them.
      levels, seeds: of `runs`.
      trained: whether networks are those after training, in place of tickets as they start.

    Returns:
      Name -> float32 [network, ...], nan for networks that diverged; and (seed, level, branch) of
      each network.
    """
    look = measurer(runs.net, runs.mesh, probe)
    problem = parallel.put(problem, runs.mesh, replicas=False)
    size = parallel.block_size(len(seeds), runs.mesh, None)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    places = [runs.seeds.index(seed) for seed in seeds]
    parts, networks = [], []
    for label, change in changes.items():
        for level in levels:
            ticket: Ticket = (
                runs.trained_tickets(level, label)
                if trained
                else ticket_of(runs, label, change, level)
            )
            own = parallel.put(parallel.pad((_tree.rows(ticket, places), keys), size), runs.mesh)
            limits = (np.arange(size) < len(seeds)).astype(np.int32)
            lost = diverged_at(runs, label, level)[places] >= 0
            seen = parallel.host(look(limits, *own, problem))
            parts.append({
                name: np.where(
                    lost.reshape(-1, *(1,) * (x.ndim - 1)), np.nan, x[: len(seeds)]
                ).astype(np.float32)
                for name, x in seen.items()
            })  # fmt: skip
            networks += [(seed, level, label) for seed in seeds]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return values, tuple(networks)
