"""Figures as SVG, for pages."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from jaxticket.plots._style import root_figure, style

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# neither the time nor a random number, so that equal figures are equal files
_SAME: dict[RcKeyType, object] = {"svg.hashsalt": "jaxticket", "svg.fonttype": "path"}
_SILENT = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(draw: Callable[[], Axes | Sequence[Axes]]) -> str:
    """Draw a figure, close it and give it as an SVG element that refers to nothing outside.

    Args:
      draw: makes a new figure and gives its axes, such as `lambda: jt.plots.accuracy(table)`.

    Raises:
      ValueError: as the function that draws.
    """
    before = set(pyplot.get_fignums())
    try:
        with style(), matplotlib.rc_context(_SAME):
            drawn = draw()
            first = drawn if isinstance(drawn, Axes) else drawn[0]
            buffer = io.StringIO()
            root_figure(first).savefig(buffer, format="svg", metadata=_SILENT)
    finally:
        for number in set(pyplot.get_fignums()) - before:
            pyplot.close(number)
    text = buffer.getvalue()
    # without the declaration of a document type, whose address is outside
    return text[text.index("<svg") :]
