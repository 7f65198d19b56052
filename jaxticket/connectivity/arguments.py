"""Checks of the arguments of an instability analysis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

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
from jaxticket.connectivity.distances import DISTANCES, OF_ANSWERS, Distance
from jaxticket.data.arrays import Data
from jaxticket.data.batches import Batches
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.optim import moments
from jaxticket.labels import CLASSES, Labels
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.typing import Network

# memory for weights and optimizer state on one device if `at_once` is not given
BYTES = 1 << 30


def checked_noise(noise: Sequence[str], training: Training, data: Data | Stream) -> tuple[str, ...]:
    """Check the sources of noise, which differ between copies."""
    noise = texts("noise", noise, like='("order", "augment")')
    for name in noise:
        one_of("noise", name, ("order", "augment"))
    crops = getattr(data, "train_crop", None) == "random"
    if noise == ("augment",) and not (training.augment or crops):
        raise ValueError(
            "`noise` is ('augment',) but `training` has no augmentation, so copies would be equal; "
            "add 'order', or pass () for equal copies"
        )
    if "order" in noise and isinstance(data, Batches) and data.one_order:
        raise ValueError(
            f"`noise` has 'order', and `data` {data.name!r} comes in one order for all copies; "
            f"make it of a function of a seed, or leave 'order' out of `noise`"
        )
    return noise


def runs_by_step(
    tickets: Runs | Sequence[Runs] | None, net: Network, data: Data | Stream
) -> dict[tuple[str, int], Runs]:
    """Check the tickets and give their runs by branch and rewind step."""
    if tickets is None:
        return {}
    given = tickets if isinstance(tickets, Sequence) else (tickets,)
    if not given or not all(isinstance(runs, Runs) for runs in given):
        raise ValueError(
            f"`tickets` must be what find_tickets or branch returned, or a list of such runs, got "
            f"{tickets!r}"
        )
    by_step: dict[tuple[str, int], Runs] = {}
    for runs in given:
        if runs.net != net:
            raise ValueError(f"`tickets` are of the network {runs.net.config}, not of {net.config}")
        if runs.data.fingerprint != data.fingerprint:
            raise ValueError(f"`tickets` were found on {runs.data.name!r}, not on {data.name!r}")
        name = (runs.branch, runs.pruning.rewind_step)
        if name in by_step:
            raise ValueError(
                f"`tickets` contain branch {name[0]!r} rewound to step {name[1]} twice; omit one"
            )
        by_step[name] = runs
    return by_step


def checked_steps(
    at: int | Iterable[int] | None,
    runs: Mapping[tuple[str, int], Runs],
    training: Training,
    *,
    full: bool,
) -> tuple[int, ...]:
    """Give the steps k in ascending order: those of `at`, or the rewind steps of the tickets."""
    if at is None:
        if not runs:
            raise ValueError("`at` is needed without `tickets`; pass steps such as (0, 500)")
        last = max(int(np.max(t.step)) for run in runs.values() for t in run.by_level.values())
        if last > training.steps and not full:
            raise ValueError(
                f"`tickets` start at step {last}, past the end of `training` at {training.steps}; "
                f"train longer, or use length='full'"
            )
        return tuple(sorted({k for _, k in runs}))
    steps = one_or_several("at", at, whole, like="(0, 500)", distinct=True)
    if max(steps) > training.steps:
        raise ValueError(
            f"`at` must lie in [0, {training.steps}], between the first and the last step of "
            f"`training`, got {steps}"
        )
    if runs and [branch for branch, _ in runs] != ["ticket"]:
        raise ValueError(
            "`at` applies the masks of one run of find_tickets to the dense weights of each step, "
            f"got {len(runs)} run(s) of {sorted({b for b, _ in runs})}; omit `at` to use the "
            f"weights of the tickets"
        )
    return tuple(sorted(steps))


def checked_seeds(
    seeds: Iterable[int] | None, runs: Mapping[tuple[str, int], Runs]
) -> tuple[int, ...]:
    """Check the seeds, which all tickets must have; None for all common ones."""
    if not runs:
        return distinct_seeds(range(3) if seeds is None else seeds)
    first, *others = (run.seeds for run in runs.values())
    common = tuple(seed for seed in first if all(seed in other for other in others))
    chosen_seeds = common if seeds is None else distinct_seeds(seeds)
    missing = [seed for seed in chosen_seeds if seed not in common]
    if missing or not chosen_seeds:
        raise ValueError(f"`seeds` {missing} are not in all of `tickets`, which share {common}")
    return chosen_seeds


def checked_levels(
    levels: Sequence[int] | None, runs: Mapping[tuple[str, int], Runs]
) -> tuple[int, ...]:
    """Check the levels, which all tickets must have; (0,) without tickets."""
    if not runs:
        if levels is not None:
            raise ValueError(
                f"`levels` {levels!r} are those of `tickets`, which are not given; pass "
                f"tickets=runs, or leave `levels` out to look at the dense network"
            )
        return (0,)
    common = set.intersection(*(set(run.levels) for run in runs.values()))
    return chosen("levels", levels, sorted(common), ", which all of `tickets` have")


def named_distances(
    distances: Sequence[str | Distance] | None, labels: Labels = CLASSES
) -> dict[str, Distance]:
    """Check the distances and give them by name; all that the labels have where None are named."""
    unfit = OF_ANSWERS if labels.kind == "numbers" else frozenset()
    if distances is None:
        return {name: one for name, one in DISTANCES.items() if one not in unfit}
    if isinstance(distances, str) or callable(distances):
        distances = (distances,)
    if isinstance(distances, Mapping) or not isinstance(distances, Iterable):
        raise ValueError(f"`distances` must be names or functions, got {distances!r}")
    by_name: dict[str, Distance] = {}
    for given in distances:
        function = from_table("distances", given, DISTANCES)
        name = given if isinstance(given, str) else getattr(given, "__name__", "distance")
        if name in by_name:
            raise ValueError(f"`distances` contain the name {name!r} twice; rename one function")
        if function in unfit:
            raise ValueError(
                f"`distances` has {name!r}, which counts answers that differ, and predicted "
                f"numbers always do; use 'loss_l2' or a function of two outcomes"
            )
        by_name[name] = function
    return by_name


def block_of(
    net: Network, training: Training, atoms: int, copies: int, mesh: Mesh, at_once: int | None
) -> tuple[int, int]:
    """Give the number of replicas that train together, and of the states that they are copies of.

    Args:
      net: the network.
      training: how copies are trained.
      atoms: number of states of all seeds.
      copies: copies of every state.
      mesh: devices.
      at_once: copies that one device holds at most; None for as many as fit `BYTES`, and where a
        device trains one after another for as few as keep all devices busy, so that a call does
        not take long, and what it has done is saved soon.
    """
    devices = mesh.shape[parallel.SEED]
    if at_once is None and parallel.maps(mesh):
        fitting = math.lcm(copies, devices) // devices
    elif at_once is None:
        params = _tree.size(net.shapes[0])
        # weights, gradient and the moments of the optimizer
        fitting = max(BYTES // (4 * params * (2 + moments(training, net))), -(-copies // devices))
    else:
        fitting = at_once
        if fitting * devices < copies:
            raise ValueError(
                f"`at_once` {at_once} on {devices} devices allows fewer networks than `copies` "
                f"{copies}, which train together; use at least {-(-copies // devices)}"
            )
    room = max(1, min(atoms, fitting * devices // copies))
    # blocks of equal size, so that the last is not nearly empty
    room = -(-atoms // -(-atoms // room))
    return -(-room * copies // devices) * devices, room
