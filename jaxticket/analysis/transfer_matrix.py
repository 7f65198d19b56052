"""Which source's tickets suit which target: the table of a matrix of transfers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from jaxticket import _tree, results
from jaxticket._check import instance
from jaxticket.analysis import stats
from jaxticket.runs import Runs, density, require_runs
from jaxticket.transferring._transfer import OWN, TRANSFERRED

if TYPE_CHECKING:
    import pandas as pd

SAME = 0.05
"""Densities that differ by less than this share are one level.

They differ where an output layer was pruned, whose weights do not count in the other network.
"""


def transfer_matrix(
    found: Mapping[tuple[str, str], Runs], *, metric: str = "accuracy"
) -> pd.DataFrame:
    """Compare every source's tickets on every target with the target's own, by test accuracy.

    Args:
      found: by (source, target) what `jt.transfer` returned, with the target's own runs as `to`;
        a target's own tickets need no entry.
      metric: "accuracy", or another one that all were evaluated by, such as "r2" of numbers, whose
        name its column then has.

    Returns:
      One row per target, source and level, those of the target's own tickets first, whose source is
      the target itself: source, target, level, density, accuracy and std (over seeds), own (mean
      accuracy of the target's own tickets), difference (accuracy minus own), relative (accuracy
      over own), seeds and diverged (how many of them diverged; means are over the others); then for
      every control its mean accuracy. Own tickets are those that trained together with the
      source's; their row is that of the first of a target's sources.

    Raises:
      ValueError: where own tickets were not trained, where they are of other densities than the
        source's were where these were found, and where a target's transfers were trained in
        different ways.

    Reference: Morcos et al. 2019, Figs. 3 and 4.
    """
    instance("found", found, Mapping, "runs by (source, target)")
    rows: list[dict[str, object]] = []
    trained: dict[str, tuple[object, ...]] = {}
    for place, runs in found.items():
        if not isinstance(place, tuple) or len(place) != 2:
            raise ValueError(f"`found` must hold runs by (source, target), got the key {place!r}")
        (source, target), runs = place, require_runs("found", runs)
        moved = tuple(sorted(runs.moved.items()))
        how = (runs.net, runs.training, runs.seeds, runs.data.fingerprint, moved)
        if trained.setdefault(target, how) != how:
            raise ValueError(
                f"`found` has transfers to {target!r} that were trained in different ways; train "
                f"those of {source!r} as the others, with the same `training`, `seeds`, `start` "
                "and `reinit_output`"
            )
        final = stats.final(runs.table(), metric=metric)
        groups = dict(list(final.groupby(["branch", "level"], sort=False)))
        values = {key: own["value"].to_numpy(float) for key, own in groups.items()}
        if OWN not in set(final["branch"]):
            raise ValueError(
                f"`found` has no own tickets for {(source, target)}; pass the target's runs as "
                "`to` of jt.transfer"
            )
        controls = [b for b in final["branch"].unique() if b not in (OWN, TRANSFERRED)]
        for level in runs.levels:
            own = values[OWN, level]
            here, there = (
                float(groups[branch, level]["density"].to_numpy().mean())
                for branch in (TRANSFERRED, OWN)
            )
            asked = _where_found(runs, level, here)
            if abs(asked - there) > SAME * there:
                raise ValueError(
                    f"`found`: tickets of {source!r} have {asked:.3g} of weights at level {level}, "
                    f"those of {target!r} {there:.3g}; find both with the same `fraction`"
                )
            means = {name: _finite(values[name, level]) for name in (*controls, OWN)}
            means = {name: x.mean() if len(x) else np.nan for name, x in means.items()}
            for name, of, share in ((source, values[TRANSFERRED, level], here),
                                    (target, own, there)):  # fmt: skip
                found_of = _finite(of)
                mean = found_of.mean() if len(found_of) else np.nan
                rows.append(
                    {"source": name, "target": target, "level": level, "density": share,
                     metric: mean,
                     "std": found_of.std(ddof=1) if len(found_of) > 1 else np.nan,
                     "own": means[OWN], "difference": mean - means[OWN],
                     "relative": mean / means[OWN], "seeds": len(of),
                     "diverged": len(of) - len(found_of),
                     **{name: means[name] for name in controls}}
                )  # fmt: skip
    table = results.frame(rows)
    # controls of a target that several sources share are drawn from each source's masks
    table = table.sort_values("source", key=lambda s: s != table["target"], kind="stable")
    table = table.drop_duplicates(["source", "target", "level"], keep="first")
    names = dict.fromkeys(target for _, target in found)
    order = {name: place for place, name in enumerate(names)}
    return table.sort_values(
        ["target", "level"], key=lambda c: c.map(order) if c.name == "target" else c, kind="stable"
    ).reset_index(drop=True)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _where_found(runs: Runs, level: int, here: float) -> float:
    """Compute the mean density of moved tickets in the network that they were found in.

    A first kernel that was adapted to other channels, and repeated blocks, have another density.
    """
    source = runs.found_in
    if source is None or level not in source.by_level:
        return here
    exclude = source.pruning.exclude
    if runs.moved.get("reinit_output") and source.net.output:
        exclude = tuple(dict.fromkeys((*exclude, source.net.output)))
    ticket = _tree.rows(source.by_level[level], [source.seeds.index(seed) for seed in runs.seeds])
    return float(density(source.net, replace(source.pruning, exclude=exclude), ticket).mean())
