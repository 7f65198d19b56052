"""What a control does to a method: how much worse it is, and whether that is more than the spread.

Tables have branches METHOD and METHOD_CONTROL ("snip", "snip_shuffle"), the dense network is level
0 of branch "ticket".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxticket as jt
from jaxticket.analysis.conditions import clear_gap

CONTROLS = ("shuffle", "reinit", "inverted", "sign_flip")


def named(table: Any, method: str) -> Any:
    """The table of a method's runs with its branches called METHOD and METHOD_CONTROL.

    The dense network stays level 0 of branch "ticket".
    """
    pruned = table["level"] > 0
    own = table["branch"].replace("ticket", method)
    controls = f"{method}_" + table["branch"]
    own = own.where(table["branch"] == "ticket", controls)
    return table.assign(branch=own.where(pruned, table["branch"]))


def differences(table: Any) -> Any:
    """What each control changes of each method's final test accuracy.

    A method passes a control, that is, it is sensitive to it, where its mean accuracy is above the
    control's by a clear gap (`clear_gap`). Whoever does not pass has found how much of each layer
    to keep, or nothing at all, but not which weights.

    Args:
      table: tidy table of runs.

    Returns:
      One row per method, control and level: method, control, level, density, difference (of the
      means over the seeds that did not diverge, control minus method, in points), std (pooled, in
      points; nan for one seed), seeds and diverged (trainings of the two, and how many of them
      diverged) and passes (None where there is no difference or no spread to judge by, or where a
      seed of the method diverged).

    Reference: KD-LTS, definitions 6.2 and 6.3.
    """
    final = jt.speed.final(table)
    values = {
        place: rows["value"].to_numpy(float) for place, rows in final.groupby(["branch", "level"])
    }
    densities = final.groupby(["branch", "level"])["density"].median()
    names, rows = order(final["branch"]), []
    for branch, level in sorted(values, key=lambda place: (names.index(place[0]), place[1])):
        control = values[branch, level]
        method, name = base(branch)
        if not name or (method, level) not in values:
            continue
        own = values[method, level]
        gap, pooled, clear = clear_gap(own, control)
        # a method's mean that leaves a seed out proves nothing in its favor
        whole = bool(np.isfinite(own).all())
        judged = bool(whole and np.isfinite(gap) and np.isfinite(pooled))
        rows.append(
            {
                "method": method,
                "control": name,
                "level": int(level),
                "density": float(densities[method, level]),
                "difference": -100 * gap if np.isfinite(gap) else np.nan,
                "std": 100 * pooled,
                "seeds": len(own) + len(control),
                "diverged": int((~np.isfinite([*own, *control])).sum()),
                "passes": clear if judged else None,
            }
        )
    return jt.results.frame(rows)


def base(branch: str) -> tuple[str, str]:
    """The method and the control that a branch's name stands for; no control for a method.

    >>> base("erk_shuffle"), base("grasp_absolute"), base("magnitude_after_training")
    (('erk', 'shuffle'), ('grasp_absolute', ''), ('magnitude_after_training', ''))
    """
    for control in CONTROLS:
        if branch.endswith(f"_{control}"):
            return branch.removesuffix(f"_{control}"), control
    return branch, ""


def in_one_panel(table: Any, method: str, beside: Sequence[str] = ()) -> Any:
    """A method's rows, called "unmodified", and those of its controls, "shuffle" and so on: between
    panels of several methods colours tell controls apart. The dense network stays, and methods that
    are `beside` it keep their names.
    """
    parts = table["branch"].map(base)
    guests = table["branch"].isin(beside)
    own = parts.map(lambda part: part[0] == method) | guests | (table["level"] == 0)
    names = parts.map(lambda part: part[1] or "unmodified").where(~guests, table["branch"])
    return table.assign(branch=names.where(table["level"] > 0, table["branch"]))[own]


def order(names: Any) -> list[str]:
    """Methods in the order of figures, each with its controls behind it."""
    names = list(dict.fromkeys(names))
    places = {name: i for i, name in enumerate(dict.fromkeys(base(name)[0] for name in names))}
    return sorted(
        names,
        key=lambda name: (places[base(name)[0]], ("", *CONTROLS).index(base(name)[1])),
    )


def said(row: Any) -> str:
    """A difference in words: "-3.1 +- 0.4 *", where the star says that the method passes."""
    lost = f"{row['diverged']} of {row['seeds']} diverged"
    if not np.isfinite(row["difference"]):
        return lost
    spread = f" +- {row['std']:.1f}" if np.isfinite(row["std"]) else ""
    words = f"{row['difference']:+.1f}{spread}" + (" *" if row["passes"] else "")
    return f"{words} ({lost})" if row["diverged"] else words
