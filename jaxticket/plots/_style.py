"""The look of every figure: fonts and lines, colour, marker and label of branches, captions."""

from __future__ import annotations

import textwrap
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, ScaledTranslation

from jaxticket._check import nearest, texts

SIZE = (4.8, 3.4)
DPI = 200
RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.25",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "errorbar.capsize": 1.5,
    "font.size": 8.5,
    "grid.color": "0.92",
    "grid.linewidth": 0.5,
    "legend.fontsize": 8,
    # no frame, and grid lines do not cross the text
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "legend.handlelength": 1.8,
    "legend.labelspacing": 0.35,
    "legend.title_fontsize": 8,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.8,
    "xtick.color": "0.25",
    "xtick.labelcolor": "black",
    "xtick.labelsize": 8,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.color": "0.25",
    "ytick.labelcolor": "black",
    "ytick.labelsize": 8,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
}
DENSE = "0.45"
CORNERS: tuple[Any, ...] = ("lower left", "lower right", "upper left", "upper right")
CAPTION = "jaxticket caption"


class BranchStyle(NamedTuple):
    """How a branch is drawn in every figure."""

    label: str
    color: str
    marker: str
    line: Any = "-"


# Okabe and Ito's colours, which colour-blind readers can tell apart, in the order of legends; the
# methods of early pruning have others, as far from these and each other as so many can be
KNOWN = {
    "ticket": BranchStyle("IMP ticket", "#0072B2", "o"),
    "lrr": BranchStyle("learning-rate rewinding", "#56B4E9", ">"),
    "one_shot": BranchStyle("one-shot pruning", "#000000", "<"),
    "magnitude_after_training": BranchStyle("magnitude after training", "#1B2A41", "P"),
    "magnitude": BranchStyle("magnitude", "#8DA800", "s"),
    "standardized_magnitude": BranchStyle("magnitude, variance 1", "#9B59D0", "8"),
    "snip": BranchStyle("SNIP", "#DC2127", "D"),
    "iterative_snip": BranchStyle("iterative SNIP", "#FF9A90", "d"),
    "force": BranchStyle("FORCE", "#B08CF0", "X"),
    "grasp": BranchStyle("GraSP", "#7B2D8B", "v"),
    "synflow": BranchStyle("SynFlow", "#6B3E00", "p"),
    "prospr": BranchStyle("ProsPr", "#00C2D1", "h"),
    "ltr": BranchStyle("tickets with rewinding (LTR)", "#004C99", "o"),
    "cts_kl": BranchStyle("CTS, reverse KL", "#FF2FA0", "*"),
    "cts_loss": BranchStyle("CTS, loss", "#2F6B3A", "H"),
    "cts_change_of_loss": BranchStyle("CTS, change of loss", "#2AA198", "d"),
    "cts_gradient_norm": BranchStyle("CTS, gradient norm", "#3B3BB3", "h"),
    "cts_feature": BranchStyle("CTS, features", "#A3A300", "p"),
    "cts_gradient_matching": BranchStyle("CTS, gradients", "#7A2E00", "X"),
    "cts_forward_kl": BranchStyle("CTS, forward KL", "#5FA8E6", "P"),
    "edge_popup": BranchStyle("edge-popup", "#B5446E", ">"),
    "gem_miner": BranchStyle("GEM-MINER", "#C79A00", "<"),
    "stochastic": BranchStyle("stochastic sparsification", "#4D7FFF", "8"),
    "continuous": BranchStyle("continuous sparsification", "#5C5C8A", "d"),
    "kd_lts": BranchStyle("KD-LTS", "#D400FF", "X"),
    "reinit": BranchStyle("random reinit", "#E69F00", "s"),
    "reinit_at_k": BranchStyle("random reinit at step k", "#F2B84B", "s"),
    "shuffle": BranchStyle("layerwise shuffle", "#CC79A7", "D"),
    "layerwise_random": BranchStyle("layerwise random", "#D55E00", "v"),
    "random": BranchStyle("global random", "#009E73", "^"),
    "dense": BranchStyle("dense", DENSE, ""),
}
# what "snip_shuffle" and the like have of their own: a label and a line; the colour is SNIP's
VARIANTS: dict[str, tuple[str, Any]] = {
    "shuffle": ("layerwise shuffle", (0, (4, 1.5))),
    "reinit": ("random reinit", (0, (1, 1.2))),
    "reinit_at_k": ("random reinit at step k", (0, (1, 0.6))),
    "inverted": ("inverted", (0, (4, 1.2, 1, 1.2))),
    "sign_flip": ("sign flip", (0, (4, 1.2, 1, 1.2, 1, 1.2))),
    "absolute": ("smallest |score| removed", (0, (7, 1.5))),
    "after_training": ("after training", (0, (2.5, 1))),
    "at_init": ("at initialization", (0, (6, 1, 1, 1))),
    "robust": ("robust teachers", (0, (3, 1.2))),
    "normalized": ("normalized scores", (0, (5, 1.5))),
}
# most of them from Paul Tol's schemes, for branches that are not known
OTHERS = ("#332288", "#882255", "#999933", "#661100", "#44AA99", "#6699CC", "#AA4466", "#DDCC77")
MARKERS = ("p", "d", "h", "P", "X", "8", "H", "*")


@contextmanager
def style() -> Iterator[None]:
    """The look of the figures, for axes of your own.

    Artists take their look when they are made, so make the figure inside:

    >>> with style():
    ...     figure, axes = pyplot.subplots(1, 2, layout="constrained")
    >>> pyplot.close(figure)
    """
    with matplotlib.rc_context(RC):
        yield


def branch_styles(names: Iterable[str]) -> dict[str, BranchStyle]:
    """Label, colour and marker of branches.

    Known branches always look the same. A control of a known branch, such as "snip_shuffle", has
    that branch's colour and marker and dashes of its own; to tell the controls of one method by
    colour, call them "shuffle", "reinit" and so on. Any other branch gets the colour that a hash of
    its name says, so that it too looks the same in all figures, or the next free one where two
    names collide.

    >>> branch_styles(["ticket", "sign_flip"])["sign_flip"].label
    'sign flip'
    >>> branch_styles(["snip_shuffle"])["snip_shuffle"].label
    'SNIP, layerwise shuffle'
    """
    names = list(dict.fromkeys(names))
    styles: dict[str, BranchStyle] = {}
    used: set[int] = set()
    for name in sorted(set(names) - set(KNOWN)):
        base, variant = split_variant(name)
        if variant:
            label, line = VARIANTS[variant]
            own = KNOWN[base]
            styles[name] = own._replace(label=f"{own.label}, {label}", line=line)
            continue
        start = zlib.crc32(name.encode()) % len(OTHERS)
        places = [(start + i) % len(OTHERS) for i in range(len(OTHERS))]
        place = next((p for p in places if p not in used), start)
        used.add(place)
        styles[name] = BranchStyle(name.replace("_", " "), OTHERS[place], MARKERS[place])
    return {name: KNOWN.get(name) or styles[name] for name in names}


def split_variant(name: str) -> tuple[str, str]:
    """A known branch and the control of it that `name` stands for; no control for other names.

    >>> split_variant("magnitude_after_training_reinit"), split_variant("grasp")
    (('magnitude_after_training', 'reinit'), ('grasp', ''))
    """
    for variant in VARIANTS:
        base = name.removesuffix(f"_{variant}")
        if name not in KNOWN and base != name and base in KNOWN:
            return base, variant
    return name, ""


def branch_order(present: Iterable[str], branches: Sequence[str] | None) -> list[str]:
    """The branches to draw: those asked for, or all that are present, known ones first, each with
    its controls behind it.

    Raises:
      ValueError: if `branches` is empty or names one that is not present.
    """
    present = list(dict.fromkeys(present))
    if branches is None:
        places = {name: i for i, name in enumerate(KNOWN)}
        variants = {"": -1} | {name: i for i, name in enumerate(VARIANTS)}
        parts = {name: split_variant(name) for name in present}
        return sorted(
            present,
            key=lambda name: (
                places.get(parts[name][0], len(places)),
                variants[parts[name][1]],
                name,
            ),
        )
    branches = list(texts("branches", branches, like=str(present[:2])))
    if not branches:
        raise ValueError(f"`branches` is empty; name some of {sorted(present)}, or pass None")
    for name in branches:
        if name not in present:
            raise ValueError(f"`branches` has {name!r}, `table` does not; {nearest(name, present)}")
    return branches


def prepared(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure, without top and right spine. Call it inside `style()`.

    Raises:
      ValueError: if `ax` is something else, such as an array of axes.
    """
    if ax is None:
        ax = pyplot.subplots(figsize=SIZE, dpi=DPI, layout="constrained")[1]
    if not isinstance(ax, Axes):
        raise ValueError(f"`ax` must be one matplotlib Axes or None, got {type(ax).__name__}")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def percent(density: float) -> str:
    """A density as people write it: one decimal, or two digits below 1%.

    >>> [percent(0.8**level) for level in (0, 4, 8, 12, 16, 20, 24)]
    ['100', '41', '16.8', '6.9', '2.8', '1.2', '0.47']
    """
    value = 100 * density
    if value < 0.995:
        return f"{value:.2g}"
    return f"{value:.1f}".removesuffix(".0")


def place_legend(ax: Axes, handles: Sequence[Artist], *, corner: Any, **options: Any) -> Legend:
    """A legend that covers no data: in a free corner of the axes, else below them.

    Args:
      ax: the axes, drawn completely but for the legend.
      handles: the entries.
      corner: the corner to try first, such as "lower left".
      **options: further options of `Axes.legend`.

    Returns:
      The legend.
    """
    figure: Any = ax.figure
    made = ax.legend(handles=handles, loc=corner, **options)
    figure.draw_without_rendering()
    for place in dict.fromkeys([corner, *CORNERS]):
        made.set_loc(place)
        box = made.get_window_extent().padded(0.04 * figure.dpi)
        drawn = (*ax.lines, *ax.collections, *ax.patches, *ax.texts)
        if not any(covers(box, artist) for artist in drawn):
            return made
    if figure.get_layout_engine() is None:
        # nothing would make room outside the axes
        made.set_loc("best")
        return made
    made.set_in_layout(False)
    frame = ax.get_window_extent()
    whole: Any = ax.get_tightbbox()
    below = (whole.y0 - frame.y0) / figure.dpi
    anchor = ax.transAxes + ScaledTranslation(0, below, figure.dpi_scale_trans)
    # narrow axes get small letters before they get many rows
    for columns, size in ((4, 8), (3, 8), (2, 8), (2, 6.5), (1, 6.5)):
        made = ax.legend(
            handles=handles,
            loc="upper center",
            ncols=columns,
            fontsize=size,
            bbox_to_anchor=(0.5, 0),
            bbox_transform=anchor,
            columnspacing=1.2,
            **options,
        )
        if made.get_window_extent().width <= max(frame.width, 0.95 * whole.width):
            break
    return made


def covers(box: Bbox, artist: Artist) -> bool:
    """Whether a drawn line, band or patch lies under `box` (in pixels)."""
    if isinstance(artist, Line2D):
        at = artist.get_transform().transform(np.asarray(artist.get_xydata(), float))
        ends = np.isfinite(at[:, 0]) & np.isfinite(at[:, 1])
        t = np.linspace(0, 1, 33)[:, None, None]
        between = ((1 - t) * at[:-1] + t * at[1:])[:, ends[:-1] & ends[1:]].reshape(-1, 2)
        return box.count_contains(np.concatenate([at[ends], between])) > 0
    if isinstance(artist, Collection):
        paths = (artist.get_transform().transform_path(path) for path in artist.get_paths())
        return any(path.intersects_bbox(box, filled=True) for path in paths)
    return artist.get_window_extent().overlaps(box)


def thousands(axis: Axis, last: float) -> None:
    """Writes steps as 5k on an axis that ends at `last`, if that is 10,000 or more."""

    def shorter(value: float, _: Any) -> str:
        return f"{value / 1000:g}k" if value else "0"

    if last >= 10_000:
        axis.set_major_formatter(FuncFormatter(shorter))


def caption(target: Axes | Figure, text: str) -> Text:
    """A small grey line at the figure's bottom that says where the numbers come from.

    A second caption replaces the first.

    Args:
      target: the figure, or one of its axes.
      text: provenance, such as "run: lenet-1f3a, MNIST, 5 seeds". Long text is wrapped.

    Returns:
      The text that was drawn.
    """
    figure: Any = target.figure if isinstance(target, Axes) else target
    while isinstance(figure, SubFigure):
        figure = figure.figure
    size = 6.0
    width, height = figure.get_size_inches()
    # a letter is a bit more than half as wide as it is high
    lines = textwrap.fill(text, max(20, int(width * 72 / (0.57 * size))))
    share = (1.25 * size * (lines.count("\n") + 1) + 4) / (72 * height)
    for old in [note for note in figure.texts if note.get_gid() == CAPTION]:
        old.remove()
    engine = figure.get_layout_engine()
    if engine is None:
        figure.subplots_adjust(bottom=max(figure.subplotpars.bottom, share + 0.45 / height))
    else:
        engine.set(rect=(0, share, 1, 1 - share))
    place = 4 / (72 * width), 3 / (72 * height)
    note = figure.text(*place, lines, size=size, color="0.5", ha="left", va="bottom", gid=CAPTION)
    note.set_in_layout(False)
    return note
