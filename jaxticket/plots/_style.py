"""The look of every figure: fonts, lines and colors, styles of branches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from jaxticket._check import nearest, texts

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType, RcKeyType

SIZE = (4.8, 3.4)
DPI = 200
RC: dict[RcKeyType, object] = {
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
    # two dashes of each style are visible
    "legend.handlelength": 2.4,
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


class BranchStyle(NamedTuple):
    """Label, color, marker and line style of a branch."""

    label: str
    color: str
    marker: str
    line: LineStyleType = "-"


# Styles of names that occur in the papers: a convenience. Any other name gets a style of its own.
# Colors by Okabe and Ito, which color-blind readers can tell apart, in the order of legends; those
# of methods that find masks are as far from these and from each other as so many can be.
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
    "ltr_late": BranchStyle("LTR, rewound to epoch 3", "#2E9BFF", "o"),
    "ltr_in_one_shot": BranchStyle("LTR in one shot", "#6C86C4", "<"),
    "dynamic_imp": BranchStyle("dynamic IMP", "#117733", "o"),
    "no_change": BranchStyle("no change", "#A0522D", "^"),
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
    "static": BranchStyle("static sparse", "#A9A9A9", "v"),
    "gradual": BranchStyle("gradual pruning", "#3CB44B", "o"),
    "gradual_linear": BranchStyle("gradual pruning, linear", "#7FD68A", "o"),
    "iterative": BranchStyle("iterative, one training", "#469990", "s"),
    "set": BranchStyle("SET", "#F032E6", "^"),
    "rigl": BranchStyle("RigL", "#F58231", "*"),
    "rigl_uniform": BranchStyle("RigL, uniform", "#FFB07C", "*"),
    "straight_through": BranchStyle("straight-through", "#B39DDB", "D"),
    "straight_through_random": BranchStyle("straight-through, random", "#D9CCF2", "D"),
    "ac_dc": BranchStyle("AC/DC", "#800000", "P"),
    "top_kast": BranchStyle("Top-KAST", "#FFD23F", "h"),
    "erk": BranchStyle("ERK", "#8C564B", "8"),
    "smart_ratio": BranchStyle("smart ratio", "#708238", "H"),
    "reinit": BranchStyle("random reinit", "#E69F00", "s"),
    "reinit_at_k": BranchStyle("random reinit at step k", "#F2B84B", "s"),
    "shuffle": BranchStyle("layerwise shuffle", "#CC79A7", "D"),
    "layerwise_random": BranchStyle("layerwise random", "#D55E00", "v"),
    "random": BranchStyle("global random", "#009E73", "^"),
    "dense": BranchStyle("dense", DENSE, ""),
}
# Label and line style of controls, for names such as "snip_shuffle"; the color is the method's.
VARIANTS: dict[str, tuple[str, LineStyleType]] = {
    "shuffle": ("layerwise shuffle", (0, (4, 1.5))),
    "reinit": ("random reinit", (0, (1, 1.2))),
    "reinit_at_k": ("random reinit at step k", (0, (1, 0.6))),
    "inverted": ("inverted", (0, (4, 1.2, 1, 1.2))),
    "sign_flip": ("sign flip", (0, (4, 1.2, 1, 1.2, 1, 1.2))),
    "absolute": ("smallest |score| removed", (0, (7, 1.5))),
    "after_training": ("after training", (0, (2.5, 1))),
    "at_init": ("at initialization", (0, (6, 1, 1, 1))),
    "robust": ("robust teachers", (0, (3, 1.2))),
    "spectra": ("singular values", (0, (6, 1.2))),
    "labels": ("labels alone", (0, (1.5, 1))),
    "normalized": ("normalized scores", (0, (5, 1.5))),
    "longer": ("trained longer", (0, (8, 1.5))),
    "retrained": ("ticket retrained", (0, (2, 1))),
}
# for names that are not in KNOWN; most colors are from Paul Tol's schemes
OTHERS = ("#332288", "#882255", "#999933", "#661100", "#44AA99", "#6699CC", "#AA4466", "#DDCC77")
LINES: tuple[LineStyleType, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
MARKERS = ("p", "d", "h", "P", "X", "8", "H", "*")


@contextmanager
def style() -> Iterator[None]:
    """Apply the look of the figures, for axes of your own.

    Matplotlib fixes the look of lines and texts when it makes them, so make the figure inside:

    >>> with style():
    ...     figure, axes = pyplot.subplots(1, 2, layout="constrained")
    >>> pyplot.close(figure)
    """
    with matplotlib.rc_context(RC):
        yield
        # the first figure loads the backend, and that of notebooks then switches this on, without
        # which they show no further figures
        interactive = matplotlib.is_interactive()
    matplotlib.interactive(interactive)


@contextmanager
def panel(ax: Axes | None) -> Iterator[Axes]:
    """Give `ax`, or the axes of a new figure, to draw on in the look of the figures.

    Raises:
      ValueError: if `ax` is neither axes nor None.
    """
    with style():
        if ax is None:
            ax = pyplot.subplots(figsize=SIZE, dpi=DPI, layout="constrained")[1]
        if not isinstance(ax, Axes):
            raise ValueError(f"`ax` must be one matplotlib Axes or None, got {type(ax).__name__}")
        ax.spines[["top", "right"]].set_visible(False)
        yield ax


def branch_styles(names: Iterable[str]) -> dict[str, BranchStyle]:
    """Give the label, color and marker of branches, methods and controls.

    Names that occur in the papers always look the same. A control of one of these, or of another
    name in `names`, such as "snip_shuffle", has the color and marker of that branch and a line
    style of its own; to tell the controls of one method by color, call them "shuffle", "reinit" and
    so on. Every other name gets a color by the hash of its name, so that it usually looks the same
    in all figures; where two collide, one of them gets the next free combination of color, marker
    and line style.

    >>> branch_styles(["ticket", "sign_flip"])["sign_flip"].label
    'sign flip'
    >>> branch_styles(["snip_shuffle"])["snip_shuffle"].label
    'SNIP, layerwise shuffle'
    """
    names = list(dict.fromkeys(names))
    parts = {name: split_variant(name, names) for name in names}
    styles: dict[str, BranchStyle] = {}
    used: set[int] = set()
    for base in sorted({base for base, _ in parts.values()}):
        if base in KNOWN:
            styles[base] = KNOWN[base]
            continue
        # every color once, then again with other markers, then with other line styles
        start, count = zlib.crc32(base.encode()) % len(OTHERS), len(OTHERS)
        turns = ((start + i) % count + count * (i // count) for i in range(count**2 * len(LINES)))
        place = next((turn for turn in turns if turn not in used), start)
        used.add(place)
        turn, color = divmod(place, count)
        line = LINES[turn // len(MARKERS)]
        marker = MARKERS[(color + turn) % len(MARKERS)]
        styles[base] = BranchStyle(base.replace("_", " "), OTHERS[color], marker, line)
    for name, (base, variant) in parts.items():
        if variant:
            label, line = VARIANTS[variant]
            styles[name] = styles[base]._replace(label=f"{styles[base].label}, {label}", line=line)
    return {name: styles[name] for name in names}


def split_variant(name: str, names: Iterable[str] = ()) -> tuple[str, str]:
    """Split the name of a control, such as "snip_reinit", of a branch in KNOWN or in `names`.

    Returns:
      The branch and the control, or the name and "".

    >>> split_variant("magnitude_after_training_reinit"), split_variant("grasp")
    (('magnitude_after_training', 'reinit'), ('grasp', ''))
    """
    if name not in KNOWN:
        for variant in VARIANTS:
            base = name.removesuffix(f"_{variant}")
            if base != name and (base in KNOWN or base in names):
                return base, variant
    return name, ""


def branch_order(
    present: Iterable[str],
    branches: Sequence[str] | None,
    *,
    argument: str = "branches",
    table: str = "table",
) -> list[str]:
    """Give the branches to draw: those asked for, or all, each followed by its controls.

    Args:
      present: names in the table.
      branches: names asked for, or None.
      argument: name of that argument, for errors.
      table: name of the table, for errors.

    Raises:
      ValueError: if `branches` is empty or has a name that is not present.
    """
    present = list(dict.fromkeys(present))
    if branches is None:
        places = {name: i for i, name in enumerate(KNOWN)}
        variants = {"": -1} | {name: i for i, name in enumerate(VARIANTS)}

        def place(name: str) -> tuple[int, str, int]:
            base, variant = split_variant(name, present)
            return places.get(base, len(places)), base, variants[variant]

        return sorted(present, key=place)
    branches = list(texts(argument, branches, like=str(present[:2])))
    if not branches:
        raise ValueError(f"`{argument}` is empty; name some of {sorted(present)}, or pass None")
    for name in branches:
        if name not in present:
            near = nearest(name, present)
            raise ValueError(f"`{argument}` has {name!r}, `{table}` does not; {near}")
    return branches


def percent(density: float) -> str:
    """Write a density in percent: with one decimal, or two digits below 1%.

    >>> [percent(0.8**level) for level in (0, 4, 8, 12, 16, 20, 24)]
    ['100', '41', '16.8', '6.9', '2.8', '1.2', '0.47']
    """
    value = 100 * density
    if value < 0.995:
        return f"{value:.2g}"
    return f"{value:.1f}".removesuffix(".0")


def root_figure(target: Axes | Figure | SubFigure) -> Figure:
    """Give the figure that axes or a subfigure belong to."""
    figure = target.figure
    while isinstance(figure, SubFigure):
        figure = figure.figure
    if figure is None:
        raise ValueError("`target` belongs to no figure; pass a figure, or axes of one")
    return figure


def has_layout(ax: Axes) -> bool:
    """Tell whether the figure has a layout engine, which makes room around axes."""
    return root_figure(ax).get_layout_engine() is not None


def wants_colorbar(ax: Axes | None) -> bool:
    """Tell whether there is room for a color bar: in a new figure, or where an engine makes it."""
    return ax is None or (isinstance(ax, Axes) and has_layout(ax))
