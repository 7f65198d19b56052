"""What a training has given so far: kept on the host, saved with its state, and read again."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket.engine import parallel
from jaxticket.engine.learner import State
from jaxticket.engine.metrics import METRICS
from jaxticket.engine.program import StateT
from jaxticket.engine.runtime import Run


class Record(NamedTuple):
    """What a training has given so far, host arrays that are filled while it runs.

    Attributes:
      values: float32 [call, job, split, metric], nan where nothing is evaluated.
      watched: float32 [call, ...], what the watch saw.
      monitored: for each monitor float32 [call, job, ...] by name, nan where nothing is measured.
      snapshots: what is kept of each step asked for; zeros until it is there.
    """

    values: np.ndarray
    watched: np.ndarray
    monitored: list[dict[str, np.ndarray]]
    snapshots: list[object]


def saved(state: State, record: Record, mesh: Mesh) -> dict[str, jax.Array]:
    """What a save holds, as a flat dict of device arrays, so that Orbax needs none of our types."""
    plain = state._replace(key=jax.random.key_data(state.key))
    leaves, kept = map(jax.tree.leaves, (plain, parallel.put(record.snapshots, mesh)))
    seen = {"values": record.values, "watched": record.watched}
    measured = jax.tree.leaves(record.monitored)
    seen |= {f"monitored-{i:04d}": x for i, x in enumerate(measured)}
    return {
        **{f"state-{i:04d}": x for i, x in enumerate(leaves)},
        **{f"snapshot-{i:04d}": x for i, x in enumerate(kept)},
        **{name: parallel.put(x, mesh, replicas=False) for name, x in seen.items()},
    }


def resumed(run: Run, unit: str, state: StateT, record: Record) -> tuple[int, StateT, Record]:
    """The first call to make, state and record: those of the newest save, if the folder has one."""
    found = None
    if run.folder is not None:
        found = run.load_state(unit, saved(state, record, run.mesh))
    if found is None:
        return 0, state, record
    first, tree = found

    def leaves(kind: str) -> list[jax.Array]:
        return [tree[name] for name in sorted(tree) if name.startswith(f"{kind}-")]

    plain = state._replace(key=jax.random.key_data(state.key))
    plain = jax.tree.unflatten(jax.tree.structure(plain), leaves("state"))
    structure = jax.tree.structure(record.snapshots)
    snapshots = jax.tree.unflatten(structure, parallel.host(leaves("snapshot")))
    values, watched = parallel.host(tree["values"]), parallel.host(tree["watched"])
    state = plain._replace(key=jax.random.wrap_key_data(plain.key))
    # in place: the watcher goes on to fill them
    kept = parallel.host(leaves("monitored"))
    for old, new in zip(jax.tree.leaves(record.monitored), kept, strict=True):
        old[:] = new
    return first, state, Record(values, watched, record.monitored, snapshots)


def lost_at_the_end(values: np.ndarray, evaluated: np.ndarray) -> np.ndarray:
    """Whether the last evaluation of each job has a loss that is not finite, bool [job].

    False where nothing was evaluated.
    """
    calls, count = evaluated.shape
    last = calls - 1 - np.argmax(evaluated[::-1], axis=0)
    losses = values[last, np.arange(count), :, METRICS.index("loss")]
    return np.logical_and(evaluated.any(axis=0), ~np.isfinite(losses).all(axis=-1))
