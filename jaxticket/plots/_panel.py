"""The scaffold of figures: lines with their spread, marks of diverged samples, and legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cbook import pts_to_poststep
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox, ScaledTranslation
from numpy.typing import ArrayLike

from jaxticket.plots._axes import step_name
from jaxticket.plots._style import DENSE, LINES, has_layout, panel, root_figure
from jaxticket.plots._table import EVERYWHERE, Band, Range, column, spread, where

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.typing import ColorType, LegendLocType, LineStyleType

# points of error; Frankle's thesis, section 4.1 (stable) and figure 4-18 (matching)
STABLE = 2.0
MATCHING = 0.2
# height of crosses at the lower edge, as a share of the axes
EDGE = 0.02
DASHES: LineStyleType = (0, (5, 2))
# of lines across that belong to one line each: thinner and sparser than any style of lines
DOTS: LineStyleType = (0, (1, 3))
# what bands are taken over
SINGULAR = {"seeds": "seed", "copies": "copy", "step lengths": "step length"}
# of artists without data, which only stand for something in a legend
ENTRY = "jaxticket legend entry"
# of legends in a corner of their axes
PLACED = "jaxticket legend, "
CORNERS: tuple[LegendLocType, ...] = ("lower left", "lower right", "upper left", "upper right")


class Series(NamedTuple):
    """One line: `points` has x, mean, low, high, samples and diverged, as `spread` gives them."""

    label: str
    points: pd.DataFrame
    color: ColorType
    marker: str = ""
    line: LineStyleType = "-"

    def column(self, name: str) -> np.ndarray:
        """Give a column of `points` as floats."""
        return column(self.points, name)


class Mark(NamedTuple):
    """A marker without a line; `face` None fills it with its color."""

    marker: str
    edge: float
    face: str | None = None
    size: float | None = None
    zorder: float = 4.0


CROSS = Mark("x", 1.0)
# on the lower edge, where a line goes on below it, and what the name of that line ends with
EXIT = Mark("v", 0.0, size=4.5)
FALLS = ", falls to "


def hollow(marker: str) -> Mark:
    """Give the open marker of points whose mean leaves diverged samples out."""
    return Mark(marker, 0.9, "white", zorder=3.5)


def marks(ax: Axes, x: ArrayLike, y: ArrayLike, mark: Mark, color: ColorType, label: str) -> Line2D:
    """Draw markers if there are any; a number as `y` is a height as a share of the axes."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    line = mark_entry(mark, label, color)
    line.set_data(x, np.broadcast_to(y, x.shape))
    if y.ndim == 0:
        line.set_transform(ax.get_xaxis_transform())
    return ax.add_line(line) if len(x) else line


def mark_entry(mark: Mark, label: str, color: ColorType = DENSE) -> Line2D:
    """Give the legend entry of a marker."""
    return Line2D(
        [],
        [],
        label=label,
        color=color,
        linestyle="none",
        marker=mark.marker,
        markeredgewidth=mark.edge,
        markerfacecolor=mark.face,
        markersize=mark.size,
        zorder=mark.zorder,
    )


def draw(ax: Axes, series: Iterable[Series], band: str) -> None:
    """Draw mean lines with their spread over samples, and mark where samples diverged.

    Where some samples diverged the marker is open, where all did a cross is at the lower edge. A
    point without neighbors has an error bar, since a band there has no width. With `band` "bars"
    all points have one; "none" draws neither.
    """
    for one in series:
        x, y, low, high = map(one.column, ("x", "mean", "low", "high"))
        alone = without_neighbors(y)
        marker = one.marker or ("o" if alone.any() else "")
        ax.plot(
            x,
            y,
            label=one.label,
            color=one.color,
            linestyle=one.line,
            marker=marker,
            # a cross is all edge
            markeredgewidth=1.0 if marker == "x" else 0.0,
            zorder=3,
        )
        if band not in ("none", "bars"):
            ax.fill_between(x, low, high, color=one.color, alpha=0.18, linewidth=0, zorder=2)
        if band != "none":
            barred = np.isfinite(y) if band == "bars" else alone
            error_bars(ax, x[barred], y[barred], low[barred], high[barred], one.color)
        if one.marker:
            lost, diverged = one.column("diverged") == one.column("samples"), one.column("diverged")
            marks(ax, x[lost], EDGE, CROSS, one.color, "_lost")
            some = (diverged > 0) & np.isfinite(y)
            marks(ax, x[some], y[some], hollow(one.marker), one.color, "_diverged")


def line_figure(
    ax: Axes | None,
    series: Sequence[Series],
    band: str,
    *,
    x_axis: Callable[[Axes], None],
    ylabel: str,
    ylim: tuple[float, float] | None,
    corner: LegendLocType,
    legend: bool,
    stable: bool = False,
    under: Callable[[Axes], Artist | None] | None = None,
    over: Callable[[Axes], Artist | None] | None = None,
    entries: Callable[[], Sequence[Artist]] | None = None,
    more: Iterable[Artist] = (),
    title: str | None = None,
    what: str = "copies",
    across: str | None = None,
    left_out: Iterable[str] = (),
    most: float | None = None,
) -> Axes:
    """Draw lines with their spread, baselines, axes and the legend of a figure.

    Args:
      ax: axes to draw on, or None for a new figure.
      series: the lines.
      band: the spread to draw, see `draw`.
      x_axis: sets up the x axis after the lines are drawn.
      ylabel: label of the y axis.
      ylim: its limits, or None for those from 0 on.
      corner: corner of the legend to try first.
      legend: whether to draw one.
      stable: whether to draw the line below which barriers are stable.
      under: draws what comes before the lines in the legend, and gives its entry.
      over: draws what comes after them.
      entries: makes the legend's entries in place of the labels of the lines; baselines follow.
      more: further entries.
      title: title of the legend.
      what: name of the samples in the legend.
      across: what the bands reach across, if not the samples.
      left_out: what the legend says of that which is not drawn, see `_table.not_drawn`.
      most: the greatest possible value, None or inf for none; automatic limits end above it.
    """
    with panel(ax) as ax:
        below = under(ax) if under else None
        draw(ax, series, band)
        line = stable_line(ax) if stable else None
        baselines = [one for one in (below, line, over(ax) if over else None) if one is not None]
        x_axis(ax)
        if ylim is None:
            ylim = from_zero(series, least=1.5 * STABLE * stable, most=most)
        ax.set(ylabel=ylabel, ylim=ylim)
        first = list(entries()) if entries else None
        last = [
            *more,
            *band_entries(series, band, what if across is None else across),
            *map(text_entry, left_out),
            *notes(series, what),
        ]
        if legend:
            handles = labeled(ax) if first is None else [*first, *baselines]
            place_legend(ax, [*handles, *last], corner=corner, title=title)
        else:
            attach(ax, [*(first or ()), *last])
    return ax


def without_neighbors(y: np.ndarray) -> np.ndarray:
    """Tell which points are finite while those before and after are not: no line reaches them.

    >>> without_neighbors(np.array([1, np.nan, 2, 3, np.nan])).tolist()
    [True, False, False, False, False]
    """
    finite = np.pad(np.isfinite(y), 1)
    return finite[1:-1] & ~finite[2:] & ~finite[:-2]


def error_bars(
    ax: Axes, x: np.ndarray, y: np.ndarray, low: np.ndarray, high: np.ndarray, color: ColorType
) -> None:
    """Draw error bars from `low` to `high`."""
    if len(x):
        # a mean lies between both, up to rounding
        ax.errorbar(
            x,
            y,
            np.maximum(np.stack([y - low, high - y]), 0),
            label="_bars",
            zorder=2.5,
            fmt="none",
            ecolor=color,
            elinewidth=0.7,
            capthick=0.7,
        )


def dense_band(
    ax: Axes, mean: float, low: float, high: float, label: str = "dense, mean ± std"
) -> Line2D:
    """Draw the dense network's mean and its spread across, and give the line for a legend."""
    ax.axhspan(low, high, color=DENSE, alpha=0.2, linewidth=0, zorder=1)
    return ax.axhline(mean, color=DENSE, linewidth=1.1, zorder=1.5, label=label)


def threshold(
    ax: Axes, y: float, label: str, color: ColorType = "0.15", line: LineStyleType = DASHES
) -> Line2D:
    """Draw a dashed or dotted line across, and give it for a legend."""
    return ax.axhline(y, label=label, color=color, linewidth=0.9, linestyle=line, zorder=1.6)


def stable_line(ax: Axes) -> Line2D:
    """Mark the error barrier below which a network is stable, and give the line for a legend."""
    return threshold(ax, STABLE, f"stable: below {STABLE:g} points")


def shades(values: Sequence[int]) -> dict[int, ColorType]:
    """Give a color per value, dark to light."""
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(values), 2)))
    return dict(zip(values, map(tuple, colors.tolist()), strict=False))


def shaded_series(
    parts: Mapping[str, pd.DataFrame],
    by: str,
    values: Sequence[int],
    x: str,
    band: Band,
    *,
    marker: str = "",
    within: Range = EVERYWHERE,
) -> list[Series]:
    """Give a series for each part and value of a column: colors tell values, line styles parts.

    Args:
      parts: the rows of each part, usually a branch.
      by: the column, such as "at" or "level".
      values: its values to draw.
      x: the column along the x axis.
      band: the spread to draw.
      marker: the marker of all lines.
      within: the range of possible values.

    Raises:
      ValueError: if there are more parts than line styles.
    """
    if len(parts) > len(LINES):
        raise ValueError(
            f"`branches` must be at most {len(LINES)} where line styles tell them, got "
            f"{len(parts)}: {list(parts)}"
        )
    series = []
    for line, (name, part) in zip(LINES, parts.items(), strict=False):
        for value, color in shades(values).items():
            rows = where(part, **{by: value})
            if not rows.empty:
                points = spread(rows, x, band, within)
                series.append(Series(f"_{name} {value}", points, color, marker, line))
    return series


def only(parts: Sequence[str]) -> str | None:
    """Give the title of the legend of `shaded_series`: its part, if it has only one."""
    return parts[0] if len(parts) == 1 else None


def shaded_entries(labels: Mapping[int, str], parts: Sequence[str]) -> list[Line2D]:
    """Give the legend of `shaded_series`: a color per value, and line styles of several parts."""
    entries = [
        Line2D([], [], color=color, label=labels[value])
        for value, color in shades(list(labels)).items()
    ]
    if len(parts) > 1:
        for line, label in zip(LINES, parts, strict=False):
            entries.append(Line2D([], [], color="0.3", linestyle=line, label=label))
    return entries


def step_entries(steps: Sequence[int], parts: Sequence[str]) -> list[Line2D]:
    """Give the legend of `shaded_series` by the step k."""
    return shaded_entries({step: f"$k$ = {step_name(step)}" for step in steps}, parts)


def all_x(series: Iterable[Series]) -> np.ndarray:
    """Give the places along x of all series."""
    return np.concatenate([one.column("x") for one in series])


def reach(series: Iterable[Series]) -> list[float]:
    """Give all values that `draw` shows: means and the ends of their bands."""
    columns = ("low", "mean", "high")
    return [float(value) for one in series for name in columns for value in one.column(name)]


def from_zero(
    series: Sequence[Series], *, least: float = 0.0, most: float | None = None
) -> tuple[float, float]:
    """Compute limits of values in [0, most]: all of them are visible, and `least`.

    Of bands that reach below 0 or above `most` only a strip is visible.

    Raises:
      ValueError: if no value is finite.
    """
    finite = [value for value in reach(series) if np.isfinite(value)]
    if not finite:
        raise ValueError("`table` has no finite value to draw: every copy diverged")
    means = np.concatenate([one.column("mean") for one in series])
    top = 1.06 * max(*finite, least) or 1.0
    if most is not None and most < math.inf:
        top = min(top, max(1.03 * most, 1.06 * float(np.nanmax(means))))
    return min(-0.045 * top, 1.2 * float(np.nanmin(means))), top


def diverged_entry(lost: ArrayLike, samples: ArrayLike, what: str = "seeds") -> Line2D:
    """Give the legend entry of open markers, with how many samples of a point diverged.

    >>> diverged_entry([0, 1, 2, 5], [5, 5, 5, 5]).get_label()
    'some seeds diverged (1 to 2 of 5)'
    """
    lost, samples = np.asarray(lost, int), np.asarray(samples, int)
    some = (lost > 0) & (lost < samples)
    least, most = (
        f"{x.min()} to {x.max()}" if x.min() < x.max() else f"{x.min()}"
        for x in (lost[some], samples[some])
    )
    return mark_entry(hollow("o"), f"some {what} diverged ({least} of {most})")


def notes(series: Sequence[Series], what: str = "copies") -> list[Line2D]:
    """Give legend entries for samples that diverged: the marks of `draw`, or a count.

    Only lines with markers have marks; `what` names the samples.
    """
    marked = [one for one in series if one.marker]
    lost, samples = (
        np.array([n for one in marked for n in one.column(name)], int)
        for name in ("diverged", "samples")
    )
    entries = []
    if ((lost > 0) & (lost < samples)).any():
        entries.append(diverged_entry(lost, samples, what))
    if (lost == samples).any():
        entries.append(mark_entry(CROSS, f"all {what} diverged"))
    plain = [one for one in series if not one.marker]
    if count := int(sum(one.column("diverged").max() for one in plain)):
        whole = int(sum(one.column("samples").max() for one in plain))
        entries.append(text_entry(f"left out: {count} of {whole} diverged"))
    return entries


def band_entries(
    series: Iterable[Series], band: str, what: str, *, bars: bool = False
) -> list[Line2D]:
    """Give the legend entry that says what bands or error bars are; none where there are none.

    Args:
      series: the lines.
      band: the spread that is drawn, see `draw`.
      what: that over which it is taken, such as "seeds".
      bars: whether error bars are drawn in the place of bands.
    """
    series = list(series)
    wide = any((one.column("high") > one.column("low")).any() for one in series)
    if band == "none" or not wide:
        return []
    # a point without neighbors has a bar
    means = (one.column("mean") for one in series)
    bars = bars or band == "bars"
    bars = bars or all((without_neighbors(y) == np.isfinite(y)).all() for y in means)
    return [spread_entry(band, what, bars="|" if bars else "")]


def spread_entry(band: str, what: str, *, bars: str = "") -> Line2D:
    """Give the legend entry of bands of any color, or of error bars with the marker `bars`."""
    extent = f"mean ± std over {what}" if band == "std" else f"least to greatest {SINGULAR[what]}"
    entry = text_entry(f"{'bars' if bars else 'bands'}: {extent}")
    if bars:
        entry.set(color="0.5", marker=bars, markersize=8)
    else:
        entry.set(color="0.5", linestyle="-", linewidth=6, alpha=0.3, solid_capstyle="butt")
    return entry


def text_entry(text: str) -> Line2D:
    """Give a legend entry without a mark."""
    return Line2D([], [], linestyle="none", label=text)


def attach(ax: Axes, entries: Iterable[Artist]) -> None:
    """Put legend entries that are no lines of the figure on axes without a legend.

    They show nothing there; `labeled` gives them, where panels share one legend.
    """
    for entry in entries:
        entry.set_gid(ENTRY)
        ax.add_artist(entry)


def labeled(ax: Axes) -> list[Artist]:
    """Give everything on the axes that has a label."""
    return list(ax.get_legend_handles_labels()[0])


def place_legend(
    ax: Axes, handles: Iterable[Artist], *, corner: LegendLocType, title: str | None = None
) -> Legend:
    """Put a legend where it covers no data: in a free corner of the axes, else below them.

    The axes must be complete but for the legend; `corner` is the first to try.
    """
    figure, handles = root_figure(ax), list(handles)
    side = "center" if title is None else "left"
    made = ax.legend(handles=handles, loc=corner, title=title, alignment=side)
    if in_free_corner(ax, made, corner):
        return made
    if not has_layout(ax):
        # nothing would make room outside the axes
        made.set_loc("best")
        return made
    made.set_in_layout(False)
    frame = ax.get_window_extent()
    whole = ax.get_tightbbox() or frame
    below = (whole.y0 - frame.y0) / figure.dpi
    anchor = ax.transAxes + ScaledTranslation(0, below, figure.dpi_scale_trans)
    # on narrow axes, small letters are better than many rows
    for columns, size in ((4, 8), (3, 8), (2, 8), (2, 6.5), (1, 6.5)):
        made = ax.legend(
            handles=handles,
            title=title,
            alignment=side,
            loc="upper center",
            ncols=columns,
            fontsize=size,
            bbox_to_anchor=(0.5, 0),
            bbox_transform=anchor,
            columnspacing=1.2,
        )
        if made.get_window_extent().width <= max(frame.width, 0.95 * whole.width):
            break
    return made


def in_free_corner(ax: Axes, legend: Legend, first: LegendLocType) -> bool:
    """Put a legend into a corner of the axes where it covers nothing; whether there is one.

    Args:
      ax: the axes.
      legend: theirs.
      first: the corner to try first.
    """
    figure = root_figure(ax)
    figure.draw_without_rendering()
    drawn = (*ax.lines, *ax.collections, *ax.patches, *ax.texts)
    places: list[LegendLocType] = [first, *CORNERS]
    for place in dict.fromkeys(places):
        legend.set_loc(place)
        box = legend.get_window_extent().padded(0.04 * figure.dpi)
        if not any(covers(box, artist) for artist in drawn):
            legend.set_gid(f"{PLACED}{place}")
            return True
    legend.set_gid(None)
    return False


def place_legends_again(figure: Figure) -> None:
    """Look for free corners once more, after axes changed their size."""
    for ax in figure.axes:
        legend = ax.get_legend()
        name = "" if legend is None else str(legend.get_gid())
        corners: list[LegendLocType] = [corner for corner in CORNERS if name == f"{PLACED}{corner}"]
        if legend is not None and corners and not in_free_corner(ax, legend, corners[0]):
            legend.set_loc("best")


def covers(box: Bbox, artist: Artist) -> bool:
    """Tell whether a line, band or patch lies under `box` (in pixels)."""
    if isinstance(artist, Line2D):
        points = np.asarray(artist.get_xydata(), float)
        if artist.get_drawstyle() == "steps-post":
            points = np.asarray(pts_to_poststep(*points.T)).T
        at = artist.get_transform().transform(points)
        ends = np.isfinite(at[:, 0]) & np.isfinite(at[:, 1])
        t = np.linspace(0, 1, 33)[:, None, None]
        between = ((1 - t) * at[:-1] + t * at[1:])[:, ends[:-1] & ends[1:]].reshape(-1, 2)
        return box.count_contains(np.concatenate([at[ends], between])) > 0
    if isinstance(artist, Collection):
        paths = (artist.get_transform().transform_path(path) for path in artist.get_paths())
        return any(path.intersects_bbox(box, filled=True) for path in paths)
    return artist.get_window_extent().overlaps(box)
