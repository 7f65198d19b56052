"""Which control changes which method: the table of a leaderboard as a coloured matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from jaxticket import _check
from jaxticket.plots._early import check, once
from jaxticket.plots._samples import Table
from jaxticket.plots._style import branch_order, branch_styles, place_legend, prepared, style

CONTROLS = {
    "shuffle": "layerwise\nshuffle",
    "reinit": "random\nreinit",
    "inverted": "inverted\nscores",
    "sign_flip": "flipped\nsigns",
}
# light enough for black text, and told apart by readers who are blind to red or green
FACES = {True: "#BFD9EE", False: "#F8D3A8", None: "0.93"}
MARKS = {True: " ✓", False: " ✗", None: ""}
VERDICTS = {True: "passes", False: "fails", None: "not judged"}


def controls(
    table: Table,
    ax: Axes | None = None,
    *,
    methods: Sequence[str] | None = None,
    verdicts: tuple[str, str] = ("passes", "fails"),
    legend: bool = True,
) -> Axes:
    """Which control changes which method: points of accuracy, and whether the method passes.

    Args:
      table: a row per method and control: method, control (such as "shuffle", "reinit", "inverted",
        "sign_flip"), difference (the control's accuracy minus the method's own, in points: negative
        where the control hurts; nan if it diverged) and passes (True, False, or None where nothing
        is to be judged). A further column `std` is written as ±; with `diverged` and `seeds` a
        cell says how many of the trainings that it compares diverged.
      ax: axes to draw on, or None for a new figure.
      methods: rows to draw, from the top, or None for all.
      verdicts: what the legend calls passing and failing.
      legend: whether to draw one below the matrix (only where a layout engine makes room).

    Returns:
      The axes; cells are centred at (control, method) = (0, 0), (1, 0) and so on, from the top.

    Raises:
      ValueError: if the table is unusable, a method is unknown, or `passes` holds anything else.

    Reference: Frankle's thesis, section 5.7, and figures 5-5 and 5-13 for what is tabulated here.
    """
    _check.flag("legend", legend)
    row = "a control of a method"
    check(table, ("method", "control", "difference", "passes"), row)
    if isinstance(verdicts, str) or len(verdicts) != 2:
        raise ValueError(f"`verdicts` must be two words, for passing and failing, got {verdicts!r}")
    rows = once(table, ("method", "control"), "difference")
    try:
        names = branch_order(rows["method"].unique(), methods)
    except ValueError as error:
        raise ValueError(str(error).replace("`branches`", "`methods`")) from None
    rows = rows[rows["method"].isin(names)]
    present = list(dict.fromkeys(rows["control"]))
    columns = [one for one in CONTROLS if one in present]
    columns += [one for one in present if one not in CONTROLS]
    cells = {(one["method"], one["control"]): one for _, one in rows.iterrows()}
    judged = {at: _verdict(one["passes"], *at) for at, one in cells.items()}
    with style():
        ax = prepared(ax)
        for i, name in enumerate(names):
            for j, control in enumerate(columns):
                here = cells.get((name, control))
                _cell(ax, j, i, here, judged.get((name, control)))
        ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(names) - 0.5, -0.5))
        ax.set_xticks(
            range(len(columns)), [CONTROLS.get(one, one.replace("_", "\n")) for one in columns]
        )
        ax.set_yticks(range(len(names)), [look.label for look in branch_styles(names).values()])
        ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        ax.spines[:].set_visible(False)
        ax.grid(visible=False)
        words = {True: verdicts[0], False: verdicts[1], None: VERDICTS[None]}
        entries = [
            Patch(facecolor=FACES[verdict], label=words[verdict] + MARKS[verdict])
            for verdict in (True, False, None)
            if verdict in judged.values()
        ]
        ax.set_xlabel("Change of accuracy by the control, in points", labelpad=4)
        # in the axes it would stand on cells
        figure: Any = ax.figure
        if legend and figure.get_layout_engine() is not None:
            place_legend(ax, entries, corner="upper right")
    return ax


def _cell(ax: Axes, column: int, row: int, here: Any, verdict: bool | None) -> None:
    """One cell: its colour says the verdict, its text the difference."""
    place = column - 0.5, row - 0.5
    if here is None:
        ax.add_patch(Rectangle(place, 1, 1, facecolor="white", edgecolor="0.85", linewidth=0.6))
        ax.text(column, row, "–", ha="center", va="center", color="0.6")
        return
    ax.add_patch(Rectangle(place, 1, 1, facecolor=FACES[verdict], edgecolor="white", linewidth=1.5))
    difference = float(here["difference"])
    if np.isfinite(difference):
        # a true minus sign, and no sign at all for what rounds to nothing
        said = (
            "0.0" if abs(difference) < 0.05 else f"{difference:+.1f}".replace("-", "\N{MINUS SIGN}")
        )
        spread = float(here.get("std", np.nan))
        said += f" ± {spread:.1f}" if np.isfinite(spread) else ""
    else:
        said = "diverged"
    lost = here.get("diverged", 0)
    if lost and np.isfinite(lost):
        counted = f"{int(lost)} of {int(here['seeds'])} diverged"
        said = f"{said}\n{counted}" if np.isfinite(difference) else counted
    ax.text(
        column,
        row,
        said + MARKS[verdict],
        ha="center",
        va="center",
        fontsize=6.8 if "±" in said else 8,
    )


def _verdict(passes: Any, method: str, control: str) -> bool | None:
    """`passes` as True, False or None; nan is what pandas makes of None."""
    if passes is None or (isinstance(passes, float) and np.isnan(passes)):
        return None
    if isinstance(passes, bool | np.bool_) or passes in (0, 1):
        return bool(passes)
    raise ValueError(
        f"`table` has 'passes' {passes!r} for {method!r} and {control!r}; it must be True, False "
        "or None"
    )
