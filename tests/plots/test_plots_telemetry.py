"""What the figure of telemetry draws: data, bands, limits, labels, never pixels."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PolyCollection
from matplotlib.colors import same_color

from jaxticket import plots
from jaxticket.plots._style import KNOWN
from jaxticket.plots._telemetry import COLUMNS, LABELS

matplotlib.use("Agg")
STEPS = (0, 10, 20, 30)
START = {"magnitude": 0.1, "sign_flips": 0.0, "l2": 0.0, "cosine": 1.0, "gradient_norm": 2.0}


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """Figures are closed after each test, and none may be shown."""
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    yield
    pyplot.close("all")


def table(branches=("ticket",), levels=(0, 1, 2), seeds=3):
    """Metrics that go down (cosine) or up by step * (1 + level + branch) / 1000, seeds 0.01
    apart from the start on.
    """
    rows = []
    for i, branch in enumerate(branches):
        for level in levels:
            for seed in range(seeds):
                for step in STEPS:
                    for metric, first in START.items():
                        moved = step * (1 + level + i) / 1000 + 0.01 * seed * (step > 0)
                        value = first + (-moved if metric == "cosine" else moved)
                        rows.append((seed, level, 0.8**level, branch, step, metric, value))
    return pd.DataFrame(rows, columns=list(COLUMNS))


TABLE = table()
TWO = table(("ticket", "reinit"))


def drawn(ax):
    return {line.get_label(): line for line in ax.lines}


def bands(ax):
    return [band for band in ax.collections if isinstance(band, PolyCollection)]


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("metric", LABELS)
def test_a_line_per_density_is_the_mean_over_seeds(metric):
    ax = plots.telemetry(TABLE, metric=metric)
    sign, factor = (-1 if metric == "cosine" else 1), (100 if metric == "sign_flips" else 1)
    for level in range(3):
        line = drawn(ax)[f"_ticket {level}"]
        assert tuple(line.get_xdata()) == STEPS
        moved = np.array([0, 0.01, 0.01, 0.01]) + np.array(STEPS) * (1 + level) / 1000
        np.testing.assert_allclose(line.get_ydata(), factor * (START[metric] + sign * moved))
        low, high = ax.get_ylim()
        assert low < line.get_ydata().min() and line.get_ydata().max() < high
    assert ax.get_xlim() == (0, 30)
    assert ax.get_xlabel() == "Training step" and ax.get_ylabel() == LABELS[metric]
    assert legend_texts(ax) == ["100%", "80%", "64%"]
    assert ax.get_legend().get_title().get_text() == "Density"


def test_bands_over_seeds():
    def reach(**options):
        (band,) = bands(plots.telemetry(TABLE, levels=[0], **options))
        vertices = band.get_paths()[0].vertices
        at = vertices[vertices[:, 0] == 30][:, 1]
        return at.min(), at.max()

    assert reach() == pytest.approx((0.03, 0.05))
    # of 0, 0.01 and 0.02
    assert reach(band="std") == pytest.approx((0.03, 0.05))
    wide = table(seeds=5)
    (band,) = bands(plots.telemetry(wide, levels=[0], band="std"))
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.05 + np.std(
        [0, 0.01, 0.02, 0.03, 0.04], ddof=1))  # fmt: skip
    assert not bands(plots.telemetry(TABLE, band="none"))


def test_colours_tell_densities_and_dashes_branches():
    ax = plots.telemetry(TWO)
    lines = drawn(ax)
    assert lines["_ticket 1"].get_color() is not lines["_ticket 2"].get_color()
    np.testing.assert_array_equal(lines["_ticket 1"].get_color(), lines["_reinit 1"].get_color())
    assert lines["_ticket 1"].get_linestyle() != lines["_reinit 1"].get_linestyle()
    texts = ["100%", "80%", "64%", KNOWN["ticket"].label, KNOWN["reinit"].label]
    assert legend_texts(ax) == texts


def test_of_one_level_colours_tell_branches():
    ax = plots.telemetry(TWO, levels=[2])
    for name in ("ticket", "reinit"):
        assert same_color(drawn(ax)[f"_{name} 2"].get_color(), KNOWN[name].color)
    assert legend_texts(ax) == [f"{KNOWN[name].label}, 64%" for name in ("ticket", "reinit")]
    only = plots.telemetry(TWO, levels=[2], branches=["reinit"])
    assert list(drawn(only)) == ["_reinit 2"]
    assert plots.telemetry(TWO, legend=False).get_legend() is None


def test_of_many_levels_five_are_drawn():
    ax = plots.telemetry(table(levels=range(9), seeds=1))
    assert list(drawn(ax)) == [f"_ticket {level}" for level in (0, 2, 4, 6, 8)]


def test_limits_and_axes():
    ax = pyplot.subplots()[1]
    assert plots.telemetry(TABLE, ax, ylim=(0, 3)) is ax
    assert ax.get_ylim() == (0, 3)
    low, high = plots.telemetry(TABLE, metric="sign_flips").get_ylim()
    assert low < 0 < 11 < high < 13
    top = plots.telemetry(TABLE, metric="cosine").get_ylim()[1]
    assert 1 < top < 1.02


def test_seeds_that_diverged_are_left_out_and_counted():
    lost = TABLE.copy()
    lost.loc[(lost.seed == 2) & (lost.step >= 20), "value"] = math.nan
    ax = plots.telemetry(lost, levels=[0])
    np.testing.assert_allclose(drawn(ax)["_ticket 0"].get_ydata(), [0, 0.02, 0.025, 0.035])
    assert legend_texts(ax)[-1] == "left out: 1 of 3 diverged"


def test_exact_repeats_are_one_value():
    ax = plots.telemetry(pd.concat([TABLE, TABLE]), levels=[1])
    np.testing.assert_allclose(drawn(ax)["_ticket 1"].get_ydata(), [0, 0.03, 0.05, 0.07])


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (TABLE, dict(metric="l3"), "`metric` must be one of 'magnitude', .*, got 'l3'"),
        (TABLE, dict(band="iqr"), "`band` must be one of"),
        (TABLE, dict(ylim=(3, 1)), "`ylim`"),
        (TABLE, dict(levels=[7]), r"`levels` has 7; these branches have \[0, 1, 2\]"),
        (TABLE, dict(levels=[]), "`levels` is empty"),
        (TABLE, dict(branches=["reinit"]), "`branches` has 'reinit', `table` does not"),
        (table(tuple("abcde")), {}, "`branches` must be at most 4 where colours tell densities"),
        (TABLE[TABLE.metric == "l2"], dict(metric="cosine"), r"not in `table`, which has \['l2'\]"),
        (TABLE.drop(columns="seed"), {}, r"`table` lacks the columns \['seed'\]"),
        ({}, {}, "`table` must be what jt.telemetry gives, got dict"),
        (
            pd.concat([TABLE, TABLE.assign(value=TABLE.value + 1)]),
            {},
            "`table` has two values for branch ticket, level 0, seed 0, step 0",
        ),
        (TABLE.assign(value=math.nan), {}, "no finite value to draw"),
    ],
    ids=str,
)
def test_bad_input(given, options, message):
    with pytest.raises(ValueError, match=message):
        plots.telemetry(given, **options)
