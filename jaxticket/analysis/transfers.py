"""Which source's tickets suit which target: the table of a matrix of transfers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxticket import results
from jaxticket.analysis import speed
from jaxticket.runs import Runs
from jaxticket.transfer import OWN, TRANSFERRED

Table = Any
"""A pandas DataFrame."""


def transfer_matrix(found: Mapping[tuple[str, str], Runs]) -> Table:
    """Final test accuracy of every source's tickets on every target, beside the target's own.

    Args:
      found: by (source, target) what `jt.transfer` returned, with the target's own runs as `to`;
        a target's own tickets need no entry.

    Returns:
      One row per target, source and level, those of the target's own tickets first, whose source is
      the target itself: source, target, level, density, accuracy and std (over seeds), own (mean
      accuracy of the target's own tickets), difference (accuracy minus own) and relative (accuracy
      over own); then for every control its mean accuracy.

    Raises:
      ValueError: where own tickets were not trained, or differ between the sources of a target.

    Reference: Morcos et al. 2019, Figs. 3 and 4.
    """
    rows: list[dict[str, Any]] = []
    owns: dict[str, dict[int, np.ndarray]] = {}
    for (source, target), runs in found.items():
        final = speed.final(runs.table())
        values = {key: own["value"].to_numpy(float) for key, own in
                  final.groupby(["branch", "level"], sort=False)}  # fmt: skip
        if not any(branch == OWN for branch, _ in values):
            raise ValueError(
                f"`found` has no own tickets for {(source, target)}; pass the target's runs as "
                f"`to` of jt.transfer"
            )
        controls = [b for b in final["branch"].unique() if b not in (OWN, TRANSFERRED)]
        known = owns.setdefault(target, {})
        for level, density in zip(runs.levels, runs.densities, strict=True):
            own = values[OWN, level]
            if not np.array_equal(known.setdefault(level, own), own, equal_nan=True):
                raise ValueError(
                    f"`found` has other own tickets of {target!r} for {source!r} than for another "
                    f"source; train all of its transfers alike"
                )
            beside = {name: values[name, level].mean() for name in controls}
            for name, of in ((source, values[TRANSFERRED, level]), (target, own)):
                rows.append(
                    {"source": name, "target": target, "level": level, "density": density,
                     "accuracy": of.mean(), "std": of.std(ddof=1) if len(of) > 1 else np.nan,
                     "own": own.mean(), "difference": of.mean() - own.mean(),
                     "relative": of.mean() / own.mean(), **beside}
                )  # fmt: skip
    table: Any = results.frame(rows)
    # controls of a target that several sources share are drawn from each source's masks
    table = table.sort_values("source", key=lambda s: s != table["target"], kind="stable")
    table = table.drop_duplicates(["source", "target", "level"], keep="first")
    names = dict.fromkeys(target for _, target in found)
    order = {name: place for place, name in enumerate(names)}
    return table.sort_values(
        ["target", "level"], key=lambda c: c.map(order) if c.name == "target" else c, kind="stable"
    ).reset_index(drop=True)
