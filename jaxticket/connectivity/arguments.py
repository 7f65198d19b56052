"""The arguments of an instability analysis, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket._check import (
    chosen,
    distinct_seeds,
    from_table,
    one_of,
    one_or_several,
    texts,
    whole,
)
from jaxticket.connectivity.distances import DISTANCES, Distance
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.optim import moments
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.typing import Network

# weights and optimizer state that one device holds where `at_once` is not given
BYTES = 1 << 30


def checked_noise(noise: Sequence[str], training: Training, data: Data | Stream) -> tuple[str, ...]:
    """What differs between copies."""
    noise = texts("noise", noise, like='("order", "augment")')
    for name in noise:
        one_of("noise", name, ("order", "augment"))
    crops = getattr(data, "train_crop", None) == "random"
    if noise == ("augment",) and not (training.augment or crops):
        raise ValueError(
            "`noise` is ('augment',) but `training` has no augmentation, so that copies would be "
            "equal; add 'order', or pass () to ask for equal copies"
        )
    return noise


def runs_by_step(
    tickets: Runs | Sequence[Runs] | None, net: Network, data: Data | Stream
) -> dict[tuple[str, int], Runs]:
    """Runs by branch and rewind step."""
    if tickets is None:
        return {}
    given = tickets if isinstance(tickets, Sequence) else (tickets,)
    if not given or not all(isinstance(runs, Runs) for runs in given):
        raise ValueError(
            f"`tickets` must be what find_tickets or branch returned, or several of them, got "
            f"{tickets!r}"
        )
    found: dict[tuple[str, int], Runs] = {}
    for runs in given:
        if runs.net != net:
            raise ValueError(f"`tickets` are of the network {runs.net.config}, not of {net.config}")
        if runs.data.fingerprint != data.fingerprint:
            raise ValueError(f"`tickets` were found on {runs.data.name!r}, not on {data.name!r}")
        name = (runs.branch, runs.pruning.rewind_step)
        if name in found:
            raise ValueError(
                f"`tickets` hold branch {name[0]!r} rewound to step {name[1]} twice; leave one out"
            )
        found[name] = runs
    return found


def checked_steps(
    at: int | Iterable[int] | None,
    runs: Mapping[tuple[str, int], Runs],
    training: Training,
    *,
    full: bool,
) -> tuple[int, ...]:
    """The steps k, ascending: those given, or those that tickets rewind to."""
    if at is None:
        if not runs:
            raise ValueError("`at` is needed without `tickets`: steps such as (0, 500)")
        last = max(int(np.max(t.step)) for own in runs.values() for t in own.by_level.values())
        if last > training.steps and not full:
            raise ValueError(
                f"`tickets` start at step {last}, past the end of `training` at {training.steps}; "
                f"train for longer, or use length='full'"
            )
        return tuple(sorted({k for _, k in runs}))
    steps = one_or_several("at", at, whole, like="(0, 500)", distinct=True)
    if max(steps) > training.steps:
        raise ValueError(f"`at` must lie in [0, {training.steps}], got {steps}")
    if runs and [branch for branch, _ in runs] != ["ticket"]:
        raise ValueError(
            "`at` puts the masks of one run of find_tickets on the dense weights of each step, got "
            f"{len(runs)} run(s) of {sorted({b for b, _ in runs})}; leave out `at` to use the "
            f"tickets' own weights"
        )
    return tuple(sorted(steps))


def checked_seeds(
    seeds: Iterable[int] | None, runs: Mapping[tuple[str, int], Runs]
) -> tuple[int, ...]:
    """The seeds, which all tickets have."""
    common = set.intersection(*(set(own.seeds) for own in runs.values())) if runs else set()
    if seeds is None:
        first = next(iter(runs.values())).seeds if runs else range(3)
        wanted = tuple(seed for seed in first if seed in common or not runs)
    else:
        wanted = distinct_seeds(seeds)
    missing = [seed for seed in wanted if runs and seed not in common]
    if missing or not wanted:
        raise ValueError(f"`seeds` {missing} are not in all of `tickets`, which have {common}")
    return wanted


def checked_levels(
    levels: Sequence[int] | None, runs: Mapping[tuple[str, int], Runs]
) -> tuple[int, ...]:
    """The levels, which all tickets have; the dense network alone without any."""
    if not runs:
        if levels is not None:
            raise ValueError(f"`levels` {levels!r} need `tickets`")
        return (0,)
    common = set.intersection(*(set(own.levels) for own in runs.values()))
    return chosen("levels", levels, sorted(common), ", which all of `tickets` have")


def named_distances(distances: Sequence[str | Distance] | None) -> dict[str, Distance]:
    """Distances by name."""
    if distances is None:
        return dict(DISTANCES)
    if isinstance(distances, str) or callable(distances):
        distances = (distances,)
    if isinstance(distances, Mapping) or not isinstance(distances, Iterable):
        raise ValueError(f"`distances` must be names or functions, got {distances!r}")
    found: dict[str, Callable[..., Any]] = {}
    for given in distances:
        function = from_table("distances", given, DISTANCES)
        name = given if isinstance(given, str) else getattr(given, "__name__", "distance")
        if name in found:
            raise ValueError(f"`distances` holds the name {name!r} twice")
        found[name] = function
    return found


def block_of(
    net: Network, training: Training, atoms: int, copies: int, mesh: Mesh, at_once: int | None
) -> tuple[int, int]:
    """Replicas per call of the program, and atoms of a block."""
    devices = mesh.shape[parallel.SEED]
    if at_once is None:
        params = _tree.size(net.shapes[0])
        # weights, gradient, and what the optimizer keeps of them
        fitting = max(BYTES // (4 * params * (2 + moments(training, net))), -(-copies // devices))
    else:
        fitting = at_once
        if fitting * devices < copies:
            raise ValueError(
                f"`at_once` {at_once} on {devices} devices holds fewer networks than `copies` "
                f"{copies}, which train together; use at least {-(-copies // devices)}"
            )
    room = max(1, min(atoms, fitting * devices // copies))
    # blocks of one size, so that the last is not nearly empty
    room = -(-atoms // -(-atoms // room))
    return -(-room * copies // devices) * devices, room
