"""More comparisons of copies: averages of them, and copies of different seeds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxticket import results
from jaxticket._check import flag, instance, whole
from jaxticket.connectivity._align import align
from jaxticket.connectivity.copies import heights
from jaxticket.connectivity.evaluator import Evaluator, Networks
from jaxticket.connectivity.paths import stacked
from jaxticket.connectivity.result import Instability
from jaxticket.random import stream
from jaxticket.typing import Params, Stats

if TYPE_CHECKING:
    import pandas as pd


def soup(inst: Instability, *, recomputed: bool = False) -> pd.DataFrame:
    """Error and loss of averages of copies: of the first 1, 2, ... of each state.

    `theta = mean_c theta_c`; the average of two copies is the middle of their line. Copies of a
    stable state have an average that is as good as each of them or better; those of an unstable one
    do not.

    Args:
      inst: an analysis whose weights were kept.
      recomputed: whether BatchNorm statistics of the averages are re-estimated instead of averaged.

    Returns:
      Tidy: branch, level, density, at, seed, networks (how many are averaged), split, metric,
      value.

    Reference: Wortsman et al. 2022 ("Model soups"), uniform soup.
    """
    flag("recomputed", recomputed)
    instance("inst", inst, Instability, "what jt.instability returned")
    run = Evaluator(inst.net, inst.data, inst.training, inst.mesh)
    number = np.arange(1, inst.copies_of_each + 1)
    index = np.broadcast_to(np.arange(inst.copies_of_each), (len(number), inst.copies_of_each))
    weight = np.where(index < number[:, None], 1 / number[:, None], 0)
    values, states = [], []
    for kind, seed in itertools.product(inst.kinds, inst.seeds):
        networks = inst.networks(at=kind.at, seed=seed, branch=kind.branch, level=kind.level)
        values.append(run.points(networks, index, weight, recomputed=recomputed))
        states.append(_state(inst, kind, seed))
    found = np.stack(values)
    parts = []
    for metric, of in (("error", 1 - found[..., 1]), ("loss", found[..., 0])):
        axes = (_columns(states), {"networks": number}, _named(inst, metric))
        parts.append(results.spread(of, *axes))
    return results.concat(parts)


def across_seeds(
    inst: Instability,
    *,
    at: int = 0,
    branch: str = "ticket",
    level: int = 0,
    copy: int = 0,
    restarts: int = 1,
    recomputed: bool = False,
) -> pd.DataFrame:
    """Barriers between networks trained from different seeds, before and after their units are
    aligned.

    Args:
      inst: an analysis of two seeds or more whose weights were kept.
      at, branch, level, copy: which network of every seed.
      restarts: of the alignment of each pair, see `align`.
      recomputed: whether BatchNorm statistics are re-estimated on the line; aligned networks need
        it.

    Returns:
      Tidy: seeds ("0-1"), aligned, split, metric ("barrier", "loss_barrier", "error" and "loss" of
      the ends), value.

    Raises:
      ValueError: for one seed alone, and networks whose symmetry is not known.

    Reference: Ainsworth et al. 2023 ("Git Re-Basin"), Fig. 2; Entezari et al. 2022.
    """
    copy, restarts = whole("copy", copy), whole("restarts", restarts, 1)
    flag("recomputed", recomputed)
    instance("inst", inst, Instability, "what jt.instability returned")
    if len(inst.seeds) < 2:
        raise ValueError(f"`inst` has the seed {inst.seeds} alone; analyse at least two")
    if copy >= inst.copies_of_each:
        raise ValueError(f"`copy` must be below {inst.copies_of_each}, got {copy}")
    run = Evaluator(inst.net, inst.data, inst.training, inst.mesh)
    networks: list[tuple[Params, Stats]] = []
    for seed in inst.seeds:
        own = inst.networks(at=at, seed=seed, branch=branch, level=level)
        networks.append(jax.tree.map(lambda x: x[copy], own))
    parts = []
    for i, j in itertools.combinations(range(len(networks)), 2):
        key = stream(jax.random.key(0), "pair", i, j)
        moved = align(inst.net, networks[i], networks[j], key=key, restarts=restarts)
        for aligned, other in ((False, networks[j]), (True, (moved.params, moved.stats))):
            found = _line(run, stacked([networks[i], other]), inst.alphas, recomputed)
            place = {"seeds": [f"{inst.seeds[i]}-{inst.seeds[j]}"], "aligned": [aligned]}
            metrics = {"metric": ["barrier", "loss_barrier", "error", "loss"]}
            parts.append(results.spread(found[None], place, {"split": inst.splits}, metrics))
    return results.concat(parts)


def _line(run: Evaluator, pair: Networks, alphas: np.ndarray, recomputed: bool) -> np.ndarray:
    index = np.broadcast_to([0, 1], (len(alphas), 2))
    weight = np.stack([1 - alphas, alphas], axis=1)
    return heights(run.points(pair, index, weight, recomputed=recomputed))


def _state(inst: Instability, kind: Any, seed: int) -> Mapping[str, Any]:
    row = inst.kinds.index(kind) * len(inst.seeds) + inst.seeds.index(seed)
    found = {"branch": kind.branch, "level": kind.level}
    return {**found, "density": inst.arrays["density"][row], "at": kind.at, "seed": seed}


def _columns(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _named(inst: Instability, metric: str) -> dict[str, Any]:
    return {"split": inst.splits, "metric": [metric] * len(inst.splits)}
