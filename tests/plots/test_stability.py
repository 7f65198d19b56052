"""What the figures of instability analysis draw: data, bands, limits, labels, never pixels."""

import itertools
import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.patches import Rectangle

from jaxticket import plots
from jaxticket.plots._stability import dense_error
from jaxticket.plots._steps import step_axis, step_name
from jaxticket.plots._style import DENSE, KNOWN

matplotlib.use("Agg")
NAN, INF = math.nan, math.inf
COMMON = ["branch", "level", "density", "at", "seed"]
AT, SEEDS, PAIRS = (0, 100, 1000), (0, 1, 2), ("0-1", "0-2", "1-2")
STATES = (("ticket", 0), ("ticket", 4), ("ticket", 8), ("random", 8))
ALPHAS = np.linspace(0, 1, 5)


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """Figures are closed after each test, and none may be shown."""
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    yield
    pyplot.close("all")


def tidy(values, name, kinds, *, states=STATES, at=AT, seeds=SEEDS, samples=PAIRS):
    """`values(split, metric)(branch, level, k, i)` for sample i = 0, 1, ... of every state."""
    rows = []
    for (branch, level), k, (split, metric) in itertools.product(states, at, kinds):
        for i, (seed, sample) in enumerate(itertools.product(seeds, samples)):
            value = values(split, metric)(branch, level, k, i)
            # the seeds of a level differ by a weight or so
            density = 0.8**level * (1 + 1e-4 * seed)
            rows.append((branch, level, density, k, seed, sample, split, metric, value))
    return pd.DataFrame(rows, columns=[*COMMON, name, "split", "metric", "value"])


def barrier(branch, level, k, i):
    """Falls with k, but not for random; samples are 0.01 apart."""
    slope = 0.0 if branch == "random" else 0.07 * (1 + level / 8)
    return 0.5 - slope * math.log10(1 + k) + 0.01 * i


def final(branch, level, k, i):
    return 0.08 + (0.04 if branch == "random" else 0.01 * level / 8) + 0.001 * i


def values(split, metric):
    known = {
        "barrier": barrier,
        "error": final,
        "l2": lambda branch, level, k, i: 30 - 0.01 * k + i,
        "disagreement": lambda branch, level, k, i: 100 + i,
        "disagreement_share": lambda branch, level, k, i: 0.5 + 0.01 * i,
        "loss_barrier": lambda branch, level, k, i: 3 * barrier(branch, level, k, i),
    }
    return known[metric]


KINDS = (("test", "barrier"), ("test", "error"), ("weights", "l2"), ("test", "disagreement"))
MORE = (("test", "disagreement_share"), ("test", "loss_barrier"), ("train", "barrier"))
TABLE = tidy(values, "pair", KINDS + MORE)
N = len(SEEDS) * len(PAIRS)
STD = np.std(np.arange(N), ddof=1)


def travelled(split, metric):
    if metric == "error":
        return final
    return lambda branch, level, k, i: (
        {"l2_from_k": 20 - 0.01 * k, "l2_from_init": 0.01 * k}[metric] + 0.1 * i
    )


COPIES = tidy(travelled, "copy", (("test", "error"), ("weights", "l2_from_k")), samples=(0, 1, 2))
STATE = tidy(travelled, "copy", (("weights", "l2_from_init"),), samples=(0,)).drop(columns="copy")


def on_paths(height=0.4, **options):
    parts = []
    for alpha in ALPHAS:
        bump = 4 * alpha * (1 - alpha)

        def value(branch, level, k, i, alpha=alpha, bump=bump):
            return final(branch, level, k, i) + 0.01 * alpha + bump * height / (1 + k / 100)

        part = tidy(lambda split, metric, v=value: v, "pair", (("test", "error"),), **options)
        # some rows come from a device that has float32
        parts.append(part.assign(alpha=np.float32(alpha)))
    return pd.concat(parts, ignore_index=True)


PATHS = on_paths()


def during(step):
    def value(branch, level, k, i):
        return 0.1 + 1e-6 * (step - k) + 0.01 * i

    at = [k for k in AT if k <= step]
    kinds = (("test", "barrier"),)
    part = tidy(lambda *_: value, "pair", kinds, states=(("ticket", 0),), at=at)
    return part.assign(step=step)


DURING = pd.concat([during(step) for step in (0, 100, 1000, 20_000, 40_000)], ignore_index=True)


def first(branch, level, verdict, step, low=None, high=None, share=1.0):
    low, high = (step if end is None else end for end in (low, high))
    return (branch, level, 0.8**level, verdict, step, low, high, 9, share)


FIRST = pd.DataFrame(
    [
        first("ticket", 0, "stable", 2000.0, 1000, 4000),
        first("ticket", 4, "stable", 1000.0, 500, 1000),
        first("ticket", 8, "stable", 500.0, 0, NAN, 0.8),
        first("ticket", 0, "matching", 0.0),
        first("ticket", 4, "matching", 1000.0),
        first("ticket", 8, "matching", 500.0),
        first("random", 4, "stable", 4000.0),
        first("random", 8, "stable", NAN, 2000, NAN, 0.2),
    ],
    columns=["branch", "level", "density", "verdict", "step", "low", "high", "samples", "share"],
)


def surface(x=6, y=5, metric="error", value=lambda x, y: 0.1 + 0.01 * (x**2 + y)):
    rows = [(a, b, "test", metric, value(a, b)) for a in range(x) for b in range(y)]
    return pd.DataFrame(rows, columns=["x", "y", "split", "metric", "value"])


POINTS = {"init": (0, 0), "copy 1": (5, 0), "copy 2": (2, 4)}


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def named(ax, label):
    return next(line for line in ax.lines if line.get_label().startswith(label))


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def band_of(ax, line):
    """Lower and upper edge of the band of a line's colour, at the line's points."""
    (found,) = (
        band
        for band in ax.collections
        if isinstance(band, PolyCollection)
        and np.allclose(band.get_facecolor()[0, :3], matplotlib.colors.to_rgb(line.get_color()))
    )
    vertices = found.get_paths()[0].vertices
    at = [vertices[np.isclose(vertices[:, 0], x), 1] for x in line.get_xdata()]
    return np.array([y.min() for y in at]), np.array([y.max() for y in at])


def shaded(ax):
    """The ranges of y that are marked as impossible."""
    own = [p for p in ax.patches if isinstance(p, Rectangle) and p.get_label() == "_impossible"]
    return [(p.get_y(), p.get_y() + p.get_height()) for p in own]


def expected(value, branch, level, at=AT, n=N):
    """Mean and standard deviation in percent, by hand."""
    samples = np.array([[value(branch, level, k, i) for i in range(n)] for k in at])
    return 100 * samples.mean(1), 100 * samples.std(1, ddof=1)


def test_instability_draws_mean_and_standard_deviation():
    ax = plots.instability(TABLE)
    looks = {
        "dense": ("ticket", 0),
        "IMP ticket, 16.8%": ("ticket", 8),
        "global random, 16.8%": ("random", 8),
    }
    for label, state in looks.items():
        line = lines(ax)[label]
        mean, std = expected(barrier, *state)
        np.testing.assert_array_equal(line.get_xdata(), AT)
        np.testing.assert_allclose(line.get_ydata(), mean)
        np.testing.assert_allclose(std, STD)
        np.testing.assert_allclose(band_of(ax, line), [mean - std, mean + std])
    assert named(ax, "dense").get_color() == DENSE
    assert named(ax, "IMP ticket").get_color() == KNOWN["ticket"].color
    assert legend_texts(ax) == [*looks, "stable: below 2%"]
    assert ax.get_ylabel() == "Test error barrier (%)"
    assert ax.get_xlabel() == "Step $k$ from which the copies part"


def test_instability_marks_two_percent_and_shades_below_zero():
    ax = plots.instability(TABLE)
    np.testing.assert_array_equal(named(ax, "stable").get_ydata(), [2, 2])
    low, high = ax.get_ylim()
    top = expected(barrier, "random", 8)[0].max() + STD
    assert low < 0 < top < high < 100
    assert shaded(ax) == [(low, pytest.approx(0))]
    ax = plots.instability(TABLE, metric="loss_barrier")
    assert "stable: below 2%" not in lines(ax)
    assert ax.get_ylabel() == "Test loss barrier"
    assert len(shaded(ax)) == 1
    # not in percent
    assert named(ax, "dense").get_ydata()[0] == pytest.approx(3 * (0.5 + 0.01 * (N - 1) / 2))


def test_instability_limits():
    ax = plots.instability(TABLE, ylim=(1, 30))
    assert ax.get_ylim() == (1, 30) and not shaded(ax)
    tiny = TABLE.assign(value=TABLE["value"] / 1000)
    # the line at 2% is always seen
    assert plots.instability(tiny).get_ylim()[1] > 3
    # a band may reach beyond what there is, the axes do not follow
    large = TABLE.assign(value=0.95 + 0.2 * (TABLE["seed"] - 1))
    ax = plots.instability(large)
    assert ax.get_ylim()[1] == pytest.approx(103)
    assert shaded(ax)[1] == pytest.approx((100, 103))
    # what should not be there is shown
    ax = plots.instability(TABLE.assign(value=-0.05))
    assert ax.get_ylim()[0] == pytest.approx(-6)


def test_steps_stand_at_even_distances_and_keep_their_values():
    ax = plots.instability(TABLE)
    ax.figure.draw_without_rendering()
    at = ax.transData.transform([(k, 0) for k in AT])[:, 0]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1])
    # straight between two of them
    between = ax.transData.transform([(50, 0), (550, 0)])[:, 0]
    np.testing.assert_allclose(between, (at[1:] + at[:-1]) / 2)
    left, right = ax.get_xlim()
    assert left < 0 and right > 1000
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "100", "1k"]


def test_step_axis_of_one_and_of_many_steps():
    ax = pyplot.figure(figsize=(3, 2)).subplots()
    step_axis(ax, [500, 500])
    assert ax.get_xlim() == (499.5, 500.5) and list(ax.get_xticks()) == [500]
    step_axis(ax, [10_000 * k for k in range(30)])
    major, minor = ax.get_xticks(), ax.get_xticks(minor=True)
    assert 3 <= len(major) <= 10 and sorted([*major, *minor]) == [10_000 * k for k in range(30)]
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    step_axis(ax, [0, 10, 20], which="y")
    assert list(ax.get_yticks()) == [0, 10, 20]
    names = [step_name(step) for step in (0, 1, 999, 1000, 62_500, 1250, 1234)]
    assert names == ["0", "1", "999", "1k", "62500", "1250", "1234"]


@pytest.mark.parametrize("band", ["std", "minmax", "none"])
def test_one_sample_and_one_step(band):
    ax = plots.instability(
        tidy(values, "pair", KINDS, at=(0,), seeds=(3,), samples=("0-1",)), band=band
    )
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [50])
    assert named(ax, "dense").get_marker() not in ("", "None")
    assert len(ax.containers) == (0 if band == "none" else 3)


def test_one_step_has_error_bars():
    ax = plots.instability(TABLE[TABLE["at"] == 100], branches="dense")
    mean, std = expected(barrier, "ticket", 0, at=(100,))
    (bars,) = ax.containers
    ((start, stop),) = bars[2][0].get_segments()
    np.testing.assert_allclose([start[1], stop[1]], [(mean - std)[0], (mean + std)[0]])


def test_bands_of_least_and_greatest_sample_and_none():
    line = named(ax := plots.instability(TABLE, band="minmax", branches=["dense"]), "dense")
    mean = expected(barrier, "ticket", 0)[0]
    np.testing.assert_allclose(band_of(ax, line), [mean - 4, mean + 4])
    assert not plots.instability(TABLE, band="none").collections


def test_branches_and_levels():
    ax = plots.instability(TABLE, branches=["ticket", "dense"], level=4)
    assert legend_texts(ax) == ["IMP ticket, 41%", "dense", "stable: below 2%"]
    np.testing.assert_allclose(named(ax, "IMP").get_ydata(), expected(barrier, "ticket", 4)[0])
    # random has no level 4
    assert legend_texts(plots.instability(TABLE, level=4))[:-1] == [
        "dense",
        "IMP ticket, 41%",
    ]
    assert legend_texts(plots.instability(TABLE, level=0))[:-1] == ["dense"]
    # the sparsest in common
    table = pd.concat([TABLE, TABLE[TABLE["branch"] == "random"].assign(branch="b", level=4)])
    with pytest.raises(ValueError, match=r"share no level: .*'b': \[4\].*say which `level`"):
        plots.instability(table)
    table = table[table["branch"] != "random"]
    assert "IMP ticket, 41%" in legend_texts(plots.instability(table))
    # a control of the dense network, such as another schedule
    control = TABLE[TABLE["level"] == 0].assign(branch="full_schedule")
    table = pd.concat([TABLE[TABLE["level"] == 0], control])
    assert legend_texts(plots.instability(table))[:-1] == ["dense", "full schedule"]
    assert plots.instability(TABLE, legend=False).get_legend() is None


def diverged():
    """Tickets: one sample is nan at k = 0, all are inf at k = 100."""
    table = TABLE.copy()
    ticket = (table["branch"] == "ticket") & (table["level"] == 8) & (table["metric"] == "barrier")
    one = (table["seed"] == 0) & (table["pair"] == "0-1") & (table["at"] == 0)
    table.loc[ticket & one, "value"] = NAN
    table.loc[ticket & (table["at"] == 100), "value"] = INF
    return table


def test_diverged_copies_are_marked():
    ax = plots.instability(diverged())
    line = named(ax, "IMP ticket")
    rest = 100 * np.mean([barrier("ticket", 8, 0, i) for i in range(1, N)])
    np.testing.assert_allclose(line.get_ydata()[:2], [rest, NAN])
    np.testing.assert_allclose(lines(ax)["_diverged"].get_data(), [[0], [rest]])
    np.testing.assert_array_equal(lines(ax)["_lost"].get_xdata(), [100])
    assert legend_texts(ax)[-2:] == ["some copies diverged (1 of 9)", "all copies diverged"]
    with pytest.raises(ValueError, match="no finite value to draw: every copy diverged"):
        plots.instability(TABLE.assign(value=NAN))


def test_error_draws_copies_and_the_dense_network_across():
    ax = plots.error(COPIES)
    mean, std = expected(final, "ticket", 8)
    line = named(ax, "IMP ticket")
    np.testing.assert_allclose(line.get_ydata(), mean)
    np.testing.assert_allclose(band_of(ax, line), [mean - std, mean + std])
    bar, spread = (value[0] for value in expected(final, "ticket", 0))
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [bar, bar])
    across = next(p for p in ax.patches if p.get_label() != "_impossible")
    assert (across.get_y(), across.get_height()) == pytest.approx((bar - spread, 2 * spread))
    np.testing.assert_allclose(named(ax, "matching").get_ydata(), [bar + 0.2] * 2)
    assert legend_texts(ax) == [
        "dense, mean ± std",
        "IMP ticket, 16.8%",
        "global random, 16.8%",
        "matching: at most 0.2 points above",
    ]
    assert ax.get_ylabel() == "Test error (%)" and not shaded(ax)
    low, high = ax.get_ylim()
    assert low < bar - spread and high > expected(final, "random", 8)[0][0] + STD / 10


def test_error_takes_the_dense_network_of_the_earliest_step():
    copies = COPIES.copy()
    dense = (copies["level"] == 0) & (copies["metric"] == "error")
    copies.loc[dense & (copies["at"] > 0), "value"] = 0.5
    bar = 100 * np.mean([final("ticket", 0, 0, i) for i in range(N)])
    assert dense_error(copies, None, "test", "error") == pytest.approx((bar, 0.1 * STD))
    copies.loc[dense & (copies["at"] == 0) & (copies["seed"] > 0), "value"] = NAN
    bar = 100 * np.mean([final("ticket", 0, 0, i) for i in range(3)])
    assert dense_error(copies, None, "test", "error")[0] == pytest.approx(bar)
    one = copies[dense & (copies["seed"] == 0) & (copies["copy"] == 0)]
    assert dense_error(one, None, "test", "error") == pytest.approx((8.0, 0))


def test_error_of_pairs_and_with_a_dense_network_from_elsewhere():
    sparse = TABLE[TABLE["level"] > 0]
    with pytest.raises(ValueError, match="`table` has no dense network"):
        plots.error(sparse)
    with pytest.raises(ValueError, match="`dense` has no dense network"):
        plots.error(sparse, dense=sparse)
    with pytest.raises(ValueError, match="9 dense networks and all of them diverged"):
        plots.error(sparse, dense=TABLE.assign(value=NAN))
    ax = plots.error(sparse, dense=TABLE)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), expected(final, "ticket", 0)[0][:2])
    # the dense network alone, or asked for, is a line too
    assert "dense" in legend_texts(plots.error(COPIES[COPIES["level"] == 0]))
    assert "dense" in legend_texts(plots.error(COPIES, branches=["dense", "ticket"]))


def test_error_shades_above_100():
    ax = plots.error(COPIES.assign(value=COPIES["value"] + 0.89))
    assert shaded(ax) == [pytest.approx((100, ax.get_ylim()[1]))]


def test_distances_against_the_step():
    ax = plots.distance(TABLE)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [34, 33, 24])
    assert ax.get_ylabel() == "$L_2$ distance between copies"
    assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 34 + STD
    ax = plots.distance(TABLE, metric="disagreement")
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [104] * 3)
    assert ax.get_ylabel() == "Test examples classified differently"
    ax = plots.distance(TABLE, metric="disagreement_share", ylim=(0, 100))
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [54] * 3)
    assert ax.get_ylim() == (0, 100)
    train = TABLE.assign(split="train")
    assert plots.distance(train, metric="disagreement", split="train").get_ylabel()[:5] == "Train"


def test_distances_at_rewinding_are_three_lines():
    ax = plots.distances_at_rewinding(STATE, COPIES, TABLE, branches=["ticket"])
    label = "_IMP ticket, 16.8% "
    marks = {
        "l2_from_init": ("o", 0.01 * np.array(AT) + 0.1),
        "l2_from_k": ("x", 20.4 - 0.01 * np.array(AT)),
        "l2": ("^", 34 - 0.01 * np.array(AT)),
    }
    for metric, (marker, mean) in marks.items():
        line = lines(ax)[label + metric]
        assert line.get_marker() == marker
        assert line.get_markeredgewidth() == (1 if marker == "x" else 0)
        np.testing.assert_allclose(line.get_ydata(), mean)
    assert legend_texts(ax) == ["initialization to $k$", "$k$ to the end", "between the copies"]
    assert ax.get_legend().get_title().get_text() == "IMP ticket, 16.8%"
    assert ax.get_ylim()[0] == 0
    ax = plots.distances_at_rewinding(STATE, COPIES, TABLE, branches=["dense", "random"])
    assert legend_texts(ax)[3:] == ["dense", "global random, 16.8%"]
    for tables in ((STATE[STATE["level"] == 0], COPIES), (STATE, COPIES[COPIES["level"] == 0])):
        with pytest.raises(ValueError, match="has nothing of branch 'ticket' at level 8"):
            plots.distances_at_rewinding(*tables, TABLE, branches=["ticket"])


def test_path_draws_error_over_alpha():
    ax = plots.path(PATHS, at=100)
    line = named(ax, "IMP ticket")
    ends = expected(final, "ticket", 8, at=(100,))[0]
    np.testing.assert_allclose(line.get_xdata(), ALPHAS)
    mean = ends + ALPHAS + 20 * 4 * ALPHAS * (1 - ALPHAS)
    np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-6)
    spread = 0.1 * STD
    np.testing.assert_allclose(band_of(ax, line), [mean - spread, mean + spread], rtol=1e-6)
    assert ax.get_xlim() == (0, 1) and ax.get_xlabel() == r"Interpolation $\alpha$"
    heights = [x.get_ydata()[0] for x in ax.lines if x.get_label() == "_threshold"]
    bars = [expected(final, *s, at=(0,))[0][0] + 2.5 for s in (("ticket", 0), ("ticket", 8))]
    np.testing.assert_allclose(sorted(heights)[:2], bars, rtol=1e-6)
    assert legend_texts(ax)[-1] == "mean of ends + 2 points" and len(legend_texts(ax)) == 4
    assert not shaded(ax)


def test_path_has_a_colour_per_step():
    ax = plots.path(PATHS, branches=["ticket"], level=4)
    assert legend_texts(ax)[:3] == ["$k$ = 0", "$k$ = 100", "$k$ = 1k"]
    drawn = [lines(ax)[f"_IMP ticket, 41% {k}"] for k in AT]
    assert len({tuple(line.get_color()) for line in drawn}) == 3
    peak = [line.get_ydata()[2] - line.get_ydata()[0] for line in drawn]
    np.testing.assert_allclose(peak, [40.5, 20.5, 40 / 11 + 0.5], rtol=1e-5)
    ax = plots.path(PATHS, at=[0, 100], branches=["ticket", "random"])
    styles = [lines(ax)[f"_{n}, 16.8% 0"].get_linestyle() for n in ("IMP ticket",)]
    assert lines(ax)["_global random, 16.8% 0"].get_linestyle() not in styles
    assert legend_texts(ax)[2:4] == ["IMP ticket, 16.8%", "global random, 16.8%"]


def test_path_of_ten_steps_marks_two_thresholds_and_one_sample_none():
    many = on_paths(at=range(0, 1000, 100), states=(("ticket", 0),), seeds=(0,), samples=("0-1",))
    # copies that part late end lower
    many = many.assign(value=many["value"] - 1e-5 * many["at"])
    ax = plots.path(many)
    heights = [line.get_ydata()[0] for line in ax.lines if line.get_label() == "_threshold"]
    np.testing.assert_allclose(sorted(heights), [9.6, 10.5], rtol=1e-6)
    assert len(legend_texts(ax)) == 11
    part = PATHS[(PATHS["alpha"] > 0.2) & (PATHS["at"] == 0)]
    assert "_threshold" not in lines(plots.path(part))


def test_path_shades_the_impossible_only_in_view():
    ax = plots.path(on_paths(height=0.9), at=0, branches=["dense"])
    (only,) = shaded(ax)
    assert only == pytest.approx((100, ax.get_ylim()[1])) and only[1] < 110
    ax = plots.path(PATHS, at=0, ylim=(-20, 130))
    assert shaded(ax) == [pytest.approx((-20, 0)), pytest.approx((100, 130))]
    loss = PATHS.assign(metric="loss", value=PATHS["value"] * 300)
    ax = plots.path(loss, at=0, metric="loss")
    assert not shaded(ax) and "_threshold" not in lines(ax)
    assert ax.get_ylabel() == "Test loss"


def test_path_draws_every_sample():
    ax = plots.path(PATHS, at=0, branches=["dense"], samples=True)
    thin = [line for line in ax.lines if line.get_label() == "_sample"]
    assert len(thin) == N
    ends = sorted(line.get_ydata()[0] for line in thin)
    np.testing.assert_allclose(ends, [100 * final("ticket", 0, 0, i) for i in range(N)])
    one = plots.path(PATHS, at=AT, branches=["dense"], samples=True)
    colors = {tuple(line.get_color()) for line in one.lines if line.get_label() == "_sample"}
    assert len(colors) == 3


def test_path_says_how_many_diverged():
    paths = PATHS.copy()
    paths.loc[(paths["seed"] == 0) & (paths["level"] == 0), "value"] = NAN
    ax = plots.path(paths, at=0, branches=["dense"])
    assert legend_texts(ax)[-1] == "left out: 3 of 9 diverged"
    rest = 100 * np.mean([final("ticket", 0, 0, i) for i in range(3, N)])
    assert named(ax, "dense").get_ydata()[0] == pytest.approx(rest)


def test_path_of_a_bent_line():
    bent = PATHS.assign(alpha=2 * PATHS["alpha"])
    ax = plots.path(bent, at=0)
    assert ax.get_xlim() == (0, 2) and list(ax.get_xticks()) == [0, 1, 2]


def test_batchnorm_is_named_where_it_matters():
    both = pd.concat([TABLE, TABLE.assign(metric=TABLE["metric"] + "_recomputed")])
    label = plots.instability(both).get_ylabel()
    assert label == "Test error barrier (%)\nBatchNorm interpolated"
    ax = plots.instability(both, metric="barrier_recomputed")
    assert ax.get_ylabel() == "Test error barrier (%)\nBatchNorm re-estimated"
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), expected(barrier, "ticket", 0)[0])
    assert "stable: below 2%" in lines(ax)


def test_throughout_draws_a_line_per_step():
    ax = plots.throughout(DURING)
    line = lines(ax)["_dense 100"]
    np.testing.assert_array_equal(line.get_xdata(), [100, 1000, 20_000, 40_000])
    np.testing.assert_allclose(line.get_ydata(), 14 + 1e-4 * (line.get_xdata() - 100))
    ax.figure.draw_without_rendering()
    assert "20k" in [tick.get_text() for tick in ax.get_xticklabels()]
    assert legend_texts(ax) == ["$k$ = 0", "$k$ = 100", "$k$ = 1k", "stable: below 2%"]
    assert ax.get_xlim()[0] == 0 and len(shaded(ax)) == 1
    assert legend_texts(plots.throughout(DURING, at=0)) == ["$k$ = 0", "stable: below 2%"]
    # one evaluation shows too
    ax = plots.throughout(DURING[DURING["step"] == 0])
    assert lines(ax)["_dense 0"].get_marker() == "o"


def test_against_density_has_a_line_per_step():
    ax = plots.against_density(TABLE)
    line = lines(ax)["_ticket 100"]
    # the median over seeds
    np.testing.assert_allclose(line.get_xdata(), 100.01 * 0.8 ** np.array([8, 4, 0]))
    mean = [expected(barrier, "ticket", level, at=(100,))[0][0] for level in (8, 4, 0)]
    np.testing.assert_allclose(line.get_ydata(), mean)
    np.testing.assert_allclose(band_of(ax, line), [np.array(mean) - STD, np.array(mean) + STD])
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] > ax.get_xlim()[1]
    assert legend_texts(ax)[-1] == "stable: below 2%" and len(shaded(ax)) == 1


def test_against_density_of_errors_and_branches():
    ax = plots.against_density(TABLE, metric="error", at=[0, 1000], branches=["ticket", "random"])
    bar = expected(final, "ticket", 0)[0][0]
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), bar)
    np.testing.assert_allclose(lines(ax)["_random 0"].get_ydata(), 12.4)
    assert legend_texts(ax) == [
        "$k$ = 0",
        "$k$ = 1k",
        "IMP ticket",
        "global random",
        "dense, mean ± std",
    ]
    assert ax.get_ylim()[0] > 0
    ax = plots.against_density(diverged())
    np.testing.assert_allclose(lines(ax)["_lost"].get_xdata(), 100 * 0.8**8, rtol=2e-4)


def cells(ax):
    (mesh,) = (one for one in ax.collections if isinstance(one, QuadMesh))
    return mesh.get_array()


def test_heat_map_writes_percent_and_marks_stable_cells():
    low = TABLE.copy()
    low.loc[(low["level"] == 8) & (low["at"] == 1000) & (low["metric"] == "barrier"), "value"] = 0.0
    ax = plots.heat_map(low)
    grid = np.stack([expected(barrier, "ticket", level)[0] for level in (0, 4, 8)])
    grid[2, 2] = 0
    np.testing.assert_allclose(cells(ax), grid)
    texts = {text.get_position(): text for text in ax.texts}
    assert texts[0, 1].get_text() == f"{grid[1, 0]:.1f}"
    assert [p for p, text in texts.items() if text.get_fontweight() == "bold"] == [(2, 2)]
    # the four edges of that cell
    edges = lines(ax)["_stable"].get_xydata().reshape(-1, 3, 2)[:, :2]
    assert {tuple(edge.mean(0)) for edge in edges} == {(1.5, 2), (2.5, 2), (2, 1.5), (2, 2.5)}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0", "100", "1k"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["100", "41", "16.8"]
    # dense on top
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert legend_texts(ax) == ["stable: below 2%"]
    assert ax.figure.axes[1].get_ylabel() == "Test error barrier (%)"


def test_heat_map_without_stable_cells_of_errors_and_other_branches():
    ax = plots.heat_map(TABLE, metric="error", branch="random", at=[0, 100])
    assert "_stable" not in lines(ax) and ax.get_legend() is None
    np.testing.assert_allclose(cells(ax), [[12.4, 12.4]])
    assert plots.heat_map(TABLE.assign(value=0.0)).figure.axes[1].get_ylim() == (0, 8)


def test_heat_map_of_missing_and_diverged_cells():
    table = diverged()
    table = table[~((table["level"] == 4) & (table["at"] == 0))]
    # one sample diverged: its mean is low, but it is not stable
    table.loc[(table["level"] == 8) & (table["at"] == 0), "value"] *= 0.01
    ax = plots.heat_map(table)
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts[1, 2] == "×" and texts[0, 2].endswith("*") and (0, 1) not in texts
    (empty,) = (p for p in ax.patches if isinstance(p, Rectangle))
    assert empty.get_xy() == (-0.5, 0.5)
    assert cells(ax)[0, 0] and cells(ax).mask[1, 0] and cells(ax)[2, 0] < 2
    assert "_stable" not in lines(ax)
    assert legend_texts(ax) == ["some copies diverged", "all copies diverged"]
    with pytest.raises(ValueError, match="every copy diverged"):
        plots.heat_map(TABLE.assign(value=NAN))


def test_maps_have_a_colour_bar_where_there_is_room():
    with plots.style():
        figure, (left, right) = pyplot.subplots(1, 2)
    assert plots.heat_map(TABLE, left) is left
    plots.plane(surface(), right, points=POINTS)
    assert len(figure.axes) == 2 and left.get_legend() is None
    plots.heat_map(TABLE, left, colorbar=True)
    assert len(figure.axes) == 3
    figure, ax = pyplot.subplots(layout="constrained")
    plots.plane(surface(), ax, points=POINTS)
    assert len(figure.axes) == 2
    assert len(plots.heat_map(TABLE, colorbar=False).figure.axes) == 1
    # numbers in cells of two millimetres could not be read
    small = pyplot.figure(figsize=(0.2, 0.2)).add_axes((0, 0, 1, 1))
    assert not plots.heat_map(TABLE, small).texts


def test_plane_draws_contours_and_networks():
    ax = plots.plane(surface(), points=POINTS)
    for name, place in POINTS.items():
        assert tuple(lines(ax)[name].get_xydata()[0]) == place
        (text,) = (text for text in ax.texts if text.get_text() == name)
        ax.figure.draw_without_rendering()
        box, frame = text.get_window_extent(), ax.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert frame.y0 <= box.y0 and box.y1 <= frame.y1
    assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((0, 5), (0, 4), 1)
    filled = ax.collections[0]
    assert filled.levels[0] <= 10 and filled.levels[-1] >= 100 * (0.1 + 0.01 * 29)
    assert ax.figure.axes[1].get_ylabel() == "Test error (%)"


def test_plane_puts_contours_where_they_belong():
    slope = surface(value=lambda x, y: 0.1 * x + 0.02 * y)
    # the order of rows does not matter
    ax = plots.plane(slope[::-1], points=POINTS, contours=6)
    thin = ax.collections[1]
    seen = 0
    for level, one in zip(thin.levels, thin.get_paths(), strict=True):
        x, y = one.vertices.T
        np.testing.assert_allclose(10 * x + 2 * y, level)
        seen += len(x)
    assert seen > 20


def test_plane_of_losses_flat_surfaces_and_gaps():
    wide = surface(metric="loss", value=lambda x, y: 0.01 * 4.0 ** (x + y))
    ax = plots.plane(wide, points=POINTS, metric="loss", contours=9)
    levels = ax.collections[0].levels
    np.testing.assert_allclose(levels[1:] / levels[:-1], levels[1] / levels[0])
    ticks = ax.figure.axes[1].get_yticks()
    assert 0.01 <= min(ticks) and max(ticks) <= 0.01 * 4.0**9
    narrow = surface(metric="loss", value=lambda x, y: 1 + 0.1 * x)
    steps = np.diff(plots.plane(narrow, points=POINTS, metric="loss").collections[0].levels)
    np.testing.assert_allclose(steps, steps[0])
    plots.plane(surface(value=lambda x, y: 0.5), points=POINTS)
    gap = surface(value=lambda x, y: NAN if x == 3 else 0.1 * x)
    assert plots.plane(gap, points=POINTS).collections[0].levels[-1] >= 50


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (surface().iloc[1:], {}, "`grid` must have one value at every place.*got 29 values"),
        (surface(x=1), {}, "regular grid of at least 2 × 2"),
        (
            pd.concat([surface(), surface(value=lambda x, y: 0)]),
            {},
            "`grid` has two values for x 0",
        ),
        (surface().assign(value=NAN), {}, "`grid` has no finite value"),
        (surface(), {"points": {}}, "`points` is empty"),
        (surface(), {"points": {"init": (9, 0)}}, r"'init' at \(9.0, 0.0\), outside the grid: x"),
        (surface(), {"contours": 1}, "`contours` must be a whole number of at least 2, got 1"),
        (surface(), {"metric": "los"}, "`metric` 'los' is not in `grid`"),
        (surface().drop(columns="y"), {}, r"`grid` lacks the columns \['y'\]"),
        (surface(), {"ax": 3}, "`ax` must be one matplotlib Axes"),
    ],
)
def test_plane_errors(grid, options, message):
    with pytest.raises(ValueError, match=message):
        plots.plane(grid, **({"points": POINTS} | options))


def test_first_steps_draw_medians_where_there_is_a_majority():
    ax = plots.first_steps(FIRST)
    stable, matching = (lines(ax)[f"_ticket {verdict}"] for verdict in ("stable", "matching"))
    np.testing.assert_allclose(stable.get_xdata(), 100 * 0.8 ** np.array([0, 4, 8]))
    np.testing.assert_array_equal(stable.get_ydata(), [2000, 1000, 500])
    np.testing.assert_array_equal(matching.get_ydata(), [0, 1000, 500])
    np.testing.assert_array_equal(lines(ax)["_random stable"].get_ydata(), [4000, NAN])
    assert stable.get_linestyle() != matching.get_linestyle()
    # where they coincide, both are seen
    assert matching.get_markersize() > stable.get_markersize()
    assert matching.get_markerfacecolor() == "none"
    assert list(ax.get_yticks()) == [0, 500, 1000, 2000, 4000]
    assert legend_texts(ax) == ["IMP ticket", "global random", "stable", "matching"]
    y = ax.collections[0].get_paths()[0].vertices[:, 1]
    # one sample at 16.8% is never stable: its band leaves the axes
    assert (y.min(), y.max()) == (0, ax.get_ylim()[1]) and y.max() > 4000


def test_first_steps_options():
    ax = plots.first_steps(FIRST, branches=["ticket"], at=(0, 100, 500, 1000, 2000, 4000, 8000))
    assert list(ax.get_yticks()) == [0, 100, 500, 1000, 2000, 4000, 8000]
    # nothing that was found lies outside
    assert plots.first_steps(FIRST, at=(0, 100)).get_ylim()[1] > 4000
    # a majority of nine tenths leaves the last one out
    line = lines(plots.first_steps(FIRST, majority=0.9))["_ticket stable"]
    np.testing.assert_array_equal(line.get_ydata(), [2000, 1000, NAN])
    # alone, a point has error bars
    assert len(plots.first_steps(FIRST[FIRST["level"] == 0]).containers) == 2
    assert plots.first_steps(FIRST, legend=False).get_legend() is None


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (None, {}, "`steps` must be a DataFrame of an instability analysis, got NoneType"),
        (FIRST.drop(columns="share"), {}, r"`steps` lacks the columns \['share'\]"),
        (FIRST.iloc[:0], {}, "`steps` is empty"),
        (FIRST, {"branches": ["randm"]}, "'randm'.*did you mean 'random'"),
        (FIRST, {"majority": 1}, r"`majority` must be in \[0, 1\), got 1"),
        (FIRST.assign(share=0.1), {}, "no density at which more than 0.5 of the samples"),
        (FIRST, {"ax": 3}, "`ax` must be one matplotlib Axes"),
    ],
)
def test_first_steps_errors(steps, options, message):
    with pytest.raises(ValueError, match=message):
        plots.first_steps(steps, **options)


def test_stable_and_matching_are_two_panels_over_the_same_steps():
    left, right = plots.stable_and_matching(TABLE, COPIES)
    assert left.figure is right.figure and left.get_xlim() == right.get_xlim()
    np.testing.assert_allclose(named(left, "IMP").get_ydata(), expected(barrier, "ticket", 8)[0])
    np.testing.assert_allclose(named(right, "IMP").get_ydata(), expected(final, "ticket", 8)[0])
    assert "dense" in lines(left) and "dense" not in lines(right)
    (legend,) = left.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "dense",
        "IMP ticket, 16.8%",
        "global random, 16.8%",
        "stable: below 2%",
        "dense, mean ± std",
        "matching: at most 0.2 points above",
    ]
    plots.caption(left, "run: a")
    left.figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert box.y0 > left.get_window_extent().y1 and box.x1 <= left.figure.bbox.x1
    assert len(shaded(left)) == 1 and not shaded(right)


def test_stable_and_matching_on_given_axes():
    with plots.style():
        axes = pyplot.subplots(1, 2, layout="constrained")[1]
    # the errors of pairs, at fewer steps and more levels than the barriers
    later = TABLE[(TABLE["metric"] != "error") | (TABLE["at"] > 0)]
    later = later[(later["metric"] != "barrier") | (later["level"] < 8)]
    left, right = plots.stable_and_matching(later, axes=axes, branches=["dense", "ticket"])
    assert [left, right] == list(axes) and not left.figure.legends
    assert legend_texts(left) == ["dense", "IMP ticket, 41%", "stable: below 2%"]
    assert legend_texts(right) == ["dense, mean ± std", "matching: at most 0.2 points above"]
    # the same level on both sides
    np.testing.assert_allclose(named(right, "IMP ticket, 41%").get_xdata(), [100, 1000])
    assert left.get_xlim() == right.get_xlim()
    left, _ = plots.stable_and_matching(TABLE, branches=["dense"], legend=False)
    assert not left.figure.legends and left.get_legend() is None
    for wrong in (3, [left], [left, 3]):
        with pytest.raises(ValueError, match="`axes` must be two matplotlib Axes or None"):
            plots.stable_and_matching(TABLE, axes=wrong)


AGAINST_STEPS = {
    "instability": (plots.instability, TABLE),
    "error": (plots.error, COPIES),
    "distance": (plots.distance, TABLE),
    "path": (plots.path, PATHS),
    "throughout": (plots.throughout, DURING),
    "against_density": (plots.against_density, TABLE),
    "heat_map": (plots.heat_map, TABLE),
}
of_all = pytest.mark.parametrize("draw, table", AGAINST_STEPS.values(), ids=AGAINST_STEPS)


@of_all
def test_errors_of_all(draw, table):
    argument = "paths" if draw is plots.path else "table"
    many = {} if draw is plots.distance else {"split": "tset"}
    for wrong, options, message in [
        (table.drop(columns=["level", "at"]), {}, r"` lacks the columns \['level', 'at'\]"),
        (table.iloc[:0], {}, "` is empty"),
        ([1], {}, "` must be a DataFrame of an instability analysis, got list"),
        (table, {"metric": "barier"}, "`metric` 'barier' is not in `"),
        (table, many or {"split": "tset"}, "`split` 'tset' is not in `"),
        (table, {"ax": [1, 2]}, "`ax` must be one matplotlib Axes or None, got list"),
        (pd.concat([table, table.assign(value=9)]), {}, "has two values for branch ticket, level"),
    ]:
        with pytest.raises(ValueError, match=message) as raised:
            draw(wrong, **options)
        if "`ax`" not in message and "tset" not in message and "barier" not in message:
            assert f"`{argument}" in str(raised.value)
    # what is there twice, word for word, is there once
    assert draw(pd.concat([table, table])) is not None


@pytest.mark.parametrize("name", [n for n in AGAINST_STEPS if n != "heat_map"])
def test_errors_of_lines(name):
    draw, table = AGAINST_STEPS[name]
    levels = {} if name == "against_density" else {"level": 5}
    for options, message in [
        ({"branches": ["rndom"]}, "`branches` has 'rndom', `table` does not; "),
        ({"branches": []}, "`branches` is empty"),
        ({"band": "sd"}, "`band` must be one of 'std', 'minmax', 'none', got 'sd'"),
        ({"ylim": (3, 1)}, "`ylim` must be"),
        (levels, r"`level` 5 is not in branch '(ticket|random)', which has \["),
    ]:
        if options and not (name == "throughout" and options == levels):
            with pytest.raises(ValueError, match=message):
                draw(table, **options)


@pytest.mark.parametrize("name", ["path", "throughout", "against_density", "heat_map"])
def test_errors_of_steps(name):
    draw, table = AGAINST_STEPS[name]
    with pytest.raises(ValueError, match=r"`at` has 7, the analysis does not; it has \[0, 100, 10"):
        draw(table, at=7)
    with pytest.raises(ValueError, match="`at` is empty"):
        draw(table, at=[])


def test_other_errors():
    with pytest.raises(ValueError, match=r"no `metric` 'l2' on `split` 'test', only \[\('test'"):
        plots.instability(TABLE, metric="l2")
    with pytest.raises(ValueError, match=r"`branches` has 'tickt'.*did you mean 'ticket'"):
        plots.heat_map(TABLE, branch="tickt")
    with pytest.raises(ValueError, match="`level` 4 is not in branch 'random', which has"):
        plots.instability(TABLE, branches=["random"], level=4)
    five = pd.concat([TABLE[TABLE["branch"] == "random"].assign(branch=name) for name in "abcde"])
    with pytest.raises(ValueError, match="`branches` must be at most 4 where colours tell steps"):
        plots.against_density(five, branches=list("abcde"))
    with pytest.raises(ValueError, match="`states` lacks the columns"):
        plots.distances_at_rewinding(STATE.drop(columns="seed"), COPIES, TABLE)
    with pytest.raises(ValueError, match="`metric` 'l2_from_k' is not in `copies`"):
        plots.distances_at_rewinding(STATE, TABLE.assign(copy=0), TABLE)
    with pytest.raises(ValueError, match="`band` must be one of"):
        plots.distances_at_rewinding(STATE, COPIES, TABLE, band="no")


@of_all
def test_given_axes_are_used_and_the_style_is_left_behind(draw, table):
    before = dict(matplotlib.rcParams)
    figure, ax = pyplot.subplots()
    assert draw(table, ax) is ax
    assert not ax.spines["top"].get_visible()
    assert pyplot.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before
    new = draw(table, legend=False).figure
    assert (tuple(new.get_size_inches()), new.dpi) == ((4.8, 3.4), 200)


@of_all
def test_legends_cover_no_data(draw, table):
    ax = draw(table)
    ax.figure.draw_without_rendering()
    if ax.get_legend() is None:
        assert draw is plots.heat_map
        return
    box, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= ax.figure.bbox.x1
    drawn = [
        line
        for line in ax.lines
        if line.get_label() != "_bars" and line.get_transform() == ax.transData
    ]
    assert drawn
    if box.y1 > frame.y0:
        for line in drawn:
            assert not box.count_contains(ax.transData.transform(line.get_xydata()))
