"""What a probe gives for all networks of some levels and branches, as arrays."""

from __future__ import annotations

import jax
import numpy as np

from jaxticket import _tree
from jaxticket.analysis.measuring import Selection, diverged_at, measurer
from jaxticket.analysis.probes import Probe
from jaxticket.engine import parallel
from jaxticket.problem import Problem
from jaxticket.random import root_keys
from jaxticket.runs import Runs


def gathered(
    runs: Runs,
    probe: Probe,
    problem: Problem,
    selection: Selection,
) -> tuple[dict[str, np.ndarray], tuple[tuple[int, int, str], ...]]:
    """Give the arrays of a probe, all replicas of a level in one compiled program.

    Args:
      runs: whose networks are looked at.
      probe: `probe(problem, ticket, *, key) -> dict of arrays`.
      problem: network and examples, on the host.
      selection: which of its networks.

    Returns:
      Name -> float32 [network, ...], nan for networks that diverged; and (seed, level, branch) of
      each network.
    """
    seeds = selection.seeds
    look = measurer(runs.net, runs.mesh, probe)
    problem = parallel.put(problem, runs.mesh, replicas=False)
    size = parallel.block_size(len(seeds), runs.mesh, None)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    places = [runs.seeds.index(seed) for seed in seeds]
    parts, networks = [], []
    for label in selection.changes:
        for level in selection.levels:
            ticket = selection.ticket(runs, label, level)
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
