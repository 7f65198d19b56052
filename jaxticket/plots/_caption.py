"""Captions: a small line at the bottom of a figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine, TightLayoutEngine
from matplotlib.text import Text

from jaxticket.plots._panel import place_legends_again
from jaxticket.plots._style import root_figure

CAPTION = "jaxticket caption"


def caption(target: Axes | Figure, text: str) -> Text:
    """Write a small gray line at the bottom of the figure that says where the numbers come from.

    A second caption replaces the first.

    Args:
      target: the figure, or one of its axes.
      text: provenance, such as "run: lenet-1f3a, MNIST, 5 seeds". Long text is wrapped.

    Returns:
      The text object.
    """
    figure = root_figure(target)
    size = 6.0
    width, height = figure.get_size_inches()
    lines = _wrapped(text, size, 72 * width - 8)
    share = (1.25 * size * (lines.count("\n") + 1) + 4) / (72 * height)
    for old in [note for note in figure.texts if note.get_gid() == CAPTION]:
        old.remove()
    engine = figure.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine | TightLayoutEngine):
        figure.subplots_adjust(bottom=max(figure.subplotpars.bottom, share + 0.45 / height))
    else:
        engine.set(rect=(0, share, 1, 1 - share))
    place = 4 / (72 * width), 3 / (72 * height)
    note = figure.text(*place, lines, size=size, color="0.5", ha="left", va="bottom", gid=CAPTION)
    note.set_in_layout(False)
    # lines of axes that are lower now may lie below a legend
    place_legends_again(figure)
    return note


def _wrapped(text: str, size: float, width: float) -> str:
    """Break text of a font size into lines of at most a width, both in points."""
    font, lines = FontProperties(size=size), [""]
    # letters begin at whole pixels, so that the width depends on how the figure will be saved
    renderers = {dpi: RendererAgg(1, 1, dpi) for dpi in (72, 100, 150, 200)}

    def length(line: str) -> float:
        return max(
            72 / dpi * renderer.get_text_width_height_descent(line, font, False)[0]
            for dpi, renderer in renderers.items()
        )

    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
