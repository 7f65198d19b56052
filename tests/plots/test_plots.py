"""What the figures draw: data, legends, limits and bands, never pixels."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PolyCollection

from jaxticket import plots
from jaxticket.analysis import stats
from jaxticket.analysis.stats import COLUMNS
from jaxticket.plots._density import leaves, limits
from jaxticket.plots._style import KNOWN, OTHERS, branch_order, branch_styles, percent

matplotlib.use("Agg")
NAN, INF = math.nan, math.inf
LEVELS = 22


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """Figures are closed after each test, and none may be shown."""
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    yield
    pyplot.close("all")


def tidy(rows):
    return pd.DataFrame(rows, columns=list(COLUMNS))


def run(branches, *, seeds=3, levels=LEVELS, validation=False):
    """A run whose final accuracy is `branches[name](level)`, seeds 0.001 apart around it."""
    rows = []
    for branch, final in branches.items():
        for level in range(0 if branch == "ticket" else 1, levels):
            for seed in range(seeds):
                at = (seed, level, 0.8**level, branch)
                for step in (0, 100, 200, 400):
                    value = final(level) + 0.001 * (seed - (seeds - 1) / 2)
                    value = 0.1 + (value - 0.1) * min(1, step / 400 + 0.5 * (step > 0))
                    rows.append((*at, step, "test", "accuracy", value))
                    if validation:
                        loss = abs(step - (200 if branch == "ticket" else 400)) / 400
                        rows.append((*at, step, "validation", "loss", loss))
    return tidy(rows)


RUN = run(
    {
        "ticket": lambda level: 0.98 - 0.0001 * level**2,
        "reinit": lambda level: 0.98 - 0.005 * level,
        "random": lambda level: 0.98 - 0.03 * level,
    },
    validation=True,
)


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def named(ax, label):
    return next(line for line in ax.lines if line.get_label().startswith(label))


def bands(ax):
    return [band for band in ax.collections if isinstance(band, PolyCollection)]


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_accuracy_draws_means_in_percent_against_density():
    ax = plots.accuracy(RUN)
    line = named(ax, "IMP ticket")
    level = np.arange(LEVELS)
    np.testing.assert_allclose(line.get_xdata(), 100 * 0.8**level)
    np.testing.assert_allclose(line.get_ydata(), 98 - 0.01 * level**2)
    assert len(named(ax, "random reinit").get_xdata()) == LEVELS - 1
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), 98)


def test_a_branch_of_the_dense_network_alone_is_the_line_across():
    others = RUN[(RUN["branch"] != "ticket") | (RUN["level"] == 0)]
    assert legend_texts(plots.accuracy(others))[:2] == ["dense", "random reinit"]
    alone = plots.accuracy(RUN[RUN["level"] == 0])
    assert legend_texts(alone)[0] == "dense" and len(alone.lines) == 2


def test_accuracy_axis_runs_from_dense_to_sparse():
    ax = plots.accuracy(RUN)
    left, right = ax.get_xlim()
    assert left > 100 > 100 * 0.8 ** (LEVELS - 1) > right
    assert ax.get_xscale() == "log"
    ax.figure.draw_without_rendering()
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels == ["100", "41", "16.8", "6.9", "2.8", "1.2"]
    assert ax.get_xlabel() == "Density (% of weights kept)"
    assert ax.get_ylabel() == "Test accuracy (%)"


def test_accuracy_bands_reach_from_min_to_max():
    ax = plots.accuracy(RUN, branches=["ticket"])
    (band,) = bands(ax)
    y = band.get_paths()[0].vertices[:, 1]
    assert (y.min(), y.max()) == pytest.approx((98 - 0.01 * 21**2 - 0.1, 98.1))
    (across,) = ax.patches
    assert (across.get_y(), across.get_height()) == pytest.approx((97.9, 0.2))


def test_accuracy_bands_of_one_standard_deviation():
    ax = plots.accuracy(RUN, branches=["ticket"], band="std")
    values = stats.final(RUN).query("branch == 'ticket' and level == 0")["value"]
    reach = 100 * values.std(ddof=1)
    (band,) = bands(ax)
    y = band.get_paths()[0].vertices[:, 1]
    assert y.max() == pytest.approx(98 + reach)
    (across,) = ax.patches
    assert (across.get_y(), across.get_height()) == pytest.approx((98 - reach, 2 * reach))
    alone = plots.accuracy(RUN[RUN["seed"] == RUN["seed"].min()], band="std")
    assert np.isfinite(bands(alone)[0].get_paths()[0].vertices).all()


@pytest.mark.parametrize(
    ("band", "polygons", "bars"), [("minmax", 3, 0), ("std", 3, 0), ("bars", 0, 3), ("none", 0, 0)]
)
def test_accuracy_band_or_bars(band, polygons, bars):
    ax = plots.accuracy(RUN, band=band)
    assert (len(bands(ax)), len(ax.containers)) == (polygons, bars)


def test_accuracy_at_a_quarter_of_training():
    ax = plots.accuracy(RUN, at=0.25)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), 100 * (0.1 + 0.88 * 0.75))
    assert ax.get_ylabel() == "Test accuracy (%)\nat 25% of training"


def test_accuracy_clips_a_collapsed_branch_and_says_so():
    ax = plots.accuracy(RUN)
    low, high = ax.get_ylim()
    # the least seed of reinit is seen, the end of random (35%) is not
    assert 80 < low < 98 - 0.5 * 21 - 0.1
    assert 98.1 < high <= 100
    texts = legend_texts(ax)
    assert texts[:4] == ["dense", "IMP ticket", "random reinit", "global random (to 35%)"]
    (x,) = lines(ax)["_exit"].get_xdata()
    # random crosses `low` at this level, between two levels and straight on the log axis
    assert x == pytest.approx(100 * 0.8 ** ((98 - low) / 3), rel=1e-6)


def test_accuracy_clips_no_more_than_it_need():
    # at least twelve points below dense
    assert 84 < plots.accuracy(RUN, branches=["ticket", "random"]).get_ylim()[0] < 86
    ax = plots.accuracy(RUN, branches=["ticket"])
    assert ax.get_ylim()[0] > 93
    assert "_exit" not in lines(ax)
    # a lone branch that is not a ticket is shown completely
    assert plots.accuracy(RUN, branches=["random"]).get_ylim()[0] < 35


def test_accuracy_rings_what_is_matching():
    ax = plots.accuracy(RUN)
    judged = stats.matching(RUN)
    judged = judged[judged["matching"] & (judged["level"] > 0)]
    rings = [line for line in ax.lines if line.get_label() == "_matching"]
    found = sorted(x for line in rings for x in line.get_xdata())
    np.testing.assert_allclose(found, sorted(100 * judged["density"]))
    assert len(found)
    # one image of 20 is 5 points: more is matching
    more = [
        one for one in plots.accuracy(RUN, test_size=20).lines if one.get_label() == "_matching"
    ]
    assert sum(len(one.get_xdata()) for one in more) > len(found)
    assert "_matching" not in lines(plots.accuracy(RUN, at=0.25))


def test_accuracy_takes_limits():
    ax = plots.accuracy(RUN, ylim=(90, 99), branches=["reinit", "ticket"])
    assert ax.get_ylim() == (90, 99)
    # branches in the order asked for
    rings = "matching (within 0.2 points)"
    assert legend_texts(ax) == ["dense", "random reinit (to 88%)", "IMP ticket", rings]
    assert plots.accuracy(RUN, legend=False).get_legend() is None


def test_accuracy_marks_diverged_seeds():
    table = RUN.assign(diverged=-1, dilation=1.0, precision="float32")
    random = (table["branch"] == "random") & (table["metric"] == "accuracy")
    table.loc[random & (table["level"] == 2) & (table["seed"] == 0), "value"] = NAN
    table.loc[random & (table["level"] == 3), "value"] = INF
    ax = plots.accuracy(table)
    line = named(ax, "global random")
    np.testing.assert_allclose(line.get_ydata()[1:3], [92.05, NAN])
    np.testing.assert_allclose(lines(ax)["_diverged"].get_xdata(), [64])
    np.testing.assert_allclose(lines(ax)["_lost"].get_xdata(), [51.2])
    assert legend_texts(ax)[-2:] == ["some seeds diverged (1 of 3)", "all seeds diverged"]
    with pytest.raises(ValueError, match="every replica diverged"):
        plots.accuracy(RUN.assign(value=NAN))


@pytest.mark.parametrize("levels", [1, 3])
def test_few_levels(levels):
    ax = plots.accuracy(run({"ticket": lambda level: 0.9}, levels=levels))
    ax.figure.draw_without_rendering()
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels == ["100", "80", "64"][:levels]


def test_given_axes_are_used_and_new_ones_have_the_size():
    figure, ax = pyplot.subplots()
    assert plots.accuracy(RUN, ax) is ax
    assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
    assert pyplot.get_fignums() == [figure.number]
    new = plots.accuracy(RUN).figure
    assert (tuple(new.get_size_inches()), new.dpi) == ((4.8, 3.4), 200)


def test_curves_draw_the_mean_over_seeds():
    ax = plots.curves(RUN, levels=[0, 4])
    line = lines(ax)["_ticket 0"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 100, 200, 400])
    np.testing.assert_allclose(line.get_ydata(), [10, 76, 98, 98])
    assert len(bands(ax)) == 2
    assert legend_texts(ax) == ["100%", "41%"]
    assert ax.get_legend().get_title().get_text() == "Density"
    assert ax.get_xlim() == (0, 400)
    # the start of training lies below
    low, high = ax.get_ylim()
    assert 70 < low < 97 < 98.1 < high


def test_curves_take_the_nearest_levels_of_densities():
    ax = plots.curves(RUN, densities=(1.0, 0.21, 0.035), branches=("ticket", "reinit"))
    # reinit has no level 0
    assert set(lines(ax)) == {"_ticket 0", "_ticket 7", "_ticket 15", "_reinit 7", "_reinit 15"}
    assert legend_texts(ax) == ["100%", "21%", "3.5%", "IMP ticket", "random reinit"]
    same = [lines(ax)[name] for name in ("_ticket 7", "_reinit 7")]
    assert np.array_equal(same[0].get_color(), same[1].get_color())
    assert same[0].get_linestyle() != same[1].get_linestyle()


def test_curves_choose_five_levels_by_themselves():
    assert legend_texts(plots.curves(RUN)) == ["100%", "32.8%", "10.7%", "2.8%", "0.92%"]


def test_curves_keep_the_last_value_of_a_replica_that_stopped():
    seeds = [{0: 0.0, 10: 0.8}, {0: 0.0, 20: 0.4}, {0: 0.0, 20: NAN}]
    rows = [
        (seed, 0, 1.0, "ticket", step, "test", "accuracy", value)
        for seed, curve in enumerate(seeds)
        for step, value in curve.items()
    ]
    line = lines(plots.curves(tidy(rows)))["_ticket 0"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20])
    np.testing.assert_allclose(line.get_ydata(), [0, 50, 60])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [99]}, "`levels` has 99; these branches have"),
        ({"levels": []}, "`levels` is empty"),
        ({"densities": [0.001]}, r"`densities` has 0\.001; these branches have 1, 0\.8"),
        ({"densities": [0.0]}, "`densities` has 0"),
        ({"densities": [1.0], "levels": [0]}, "exclude each other"),
        ({"branches": ["tickets"]}, "`branches` has 'tickets'.*did you mean 'ticket'"),
        ({"branches": []}, "`branches` is empty"),
        ({"ylim": (3, 1)}, "`ylim`"),
        ({"split": "train"}, "`split` 'train' is not in `table`"),
    ],
)
def test_curves_errors(options, message):
    with pytest.raises(ValueError, match=message):
        plots.curves(RUN, **options)


def test_early_stop_step_and_accuracy():
    ax = plots.early_stop(RUN)
    np.testing.assert_array_equal(named(ax, "IMP ticket").get_ydata(), [200] * LEVELS)
    np.testing.assert_array_equal(named(ax, "random reinit").get_ydata(), [400] * (LEVELS - 1))
    np.testing.assert_array_equal(named(ax, "dense").get_ydata(), [200, 200])
    assert ax.get_ylabel() == "Early-stopping step"
    ax = plots.early_stop(RUN, what="accuracy", branches=["ticket"])
    assert named(ax, "IMP ticket").get_ydata()[0] == pytest.approx(98)
    assert ax.get_ylabel() == "Test accuracy (%)\nat early stopping"


def dilations():
    """Tickets reach dense at 0.5 at level 1 and never at level 2, reinit never does."""
    reached = {("ticket", 0): 0.8, ("ticket", 1): 0.5, ("ticket", 2): 9, ("reinit", 1): 9}
    reached["reinit", 2] = 9
    parts = []
    for (branch, level), least in reached.items():
        for factor in (0.5, 0.8, 1.0, 2.0):
            value = 0.9 if factor >= least else 0.8
            row = (0, level, 0.8**level, branch, 100, "test", "accuracy", value)
            parts.append(tidy([row]).assign(dilation=factor))
    return pd.concat(parts, ignore_index=True)


def test_dilation_draws_delta_star_and_what_is_not_reached():
    ax = plots.dilation(dilations())
    np.testing.assert_array_equal(named(ax, "IMP ticket").get_ydata(), [0.8, 0.5, NAN])
    np.testing.assert_array_equal(named(ax, "dense").get_ydata(), [0.8, 0.8])
    missed = [line for line in ax.lines if line.get_label() == "_not reached"]
    np.testing.assert_allclose(missed[0].get_xdata(), [64])
    np.testing.assert_allclose(missed[1].get_xdata(), [80, 64])
    top = ax.get_ylim()[1]
    heights = [float(line.get_ydata()[0]) for line in missed]
    # above every factor that was tried, in rows of their own
    assert 2.0 < heights[1] < heights[0] < top
    assert all(line.get_markerfacecolor() == "white" for line in missed)
    assert max(ax.get_yticks()) <= 2.0
    assert legend_texts(ax) == ["dense", "IMP ticket", "random reinit", "not reached"]


def test_dilation_where_everything_is_reached():
    ax = plots.dilation(dilations(), margin=0.2)
    assert legend_texts(ax) == ["dense", "IMP ticket", "random reinit"]
    np.testing.assert_array_equal(named(ax, "random reinit").get_ydata(), [0.5, 0.5])


@pytest.mark.parametrize("draw", [plots.accuracy, plots.early_stop, plots.curves, plots.dilation])
@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (RUN.iloc[:0], {}, "`table` is empty"),
        (RUN.drop(columns="level"), {}, r"lacks the columns \['level'\]"),
        (None, {}, "must be a DataFrame"),
        (RUN.assign(dilation=1.0), {"branches": ["rienit"]}, "'rienit'.*did you mean 'reinit'"),
        (RUN.assign(dilation=1.0), {"ylim": (1, 1)}, "`ylim` must be"),
        (RUN.assign(dilation=1.0), {"ax": [1, 2]}, "`ax` must be one matplotlib Axes"),
    ],
)
def test_errors_of_all(draw, table, options, message):
    with pytest.raises(ValueError, match=message):
        draw(table, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"band": "se"}, "`band` must be one of 'minmax', 'bars', 'std', 'none', got 'se'"),
        ({"at": 0}, "`at`"),
        ({"split": "validation"}, "no metric 'accuracy' on `split` 'validation'"),
    ],
)
def test_accuracy_errors(options, message):
    with pytest.raises(ValueError, match=message):
        plots.accuracy(RUN, **options)


def test_a_figure_without_its_baseline_or_validation_is_refused():
    with pytest.raises(ValueError, match="no dense network"):
        plots.accuracy(RUN[RUN["level"] > 0])
    with pytest.raises(ValueError, match="`what` must be one of"):
        plots.early_stop(RUN, what="loss")
    with pytest.raises(ValueError, match="with_validation"):
        plots.early_stop(RUN[RUN["split"] == "test"])


def test_legend_covers_no_data():
    """In a free corner where there is one, else below the axes."""
    ax = plots.accuracy(RUN, branches=["ticket", "reinit"])
    ax.figure.draw_without_rendering()
    box = ax.get_legend().get_window_extent()
    assert ax.get_window_extent().contains(*box.min)
    full = run({name: lambda level: 0.9 for name in ("ticket", "reinit")}, levels=2)
    crowded = plots.accuracy(full)
    crowded.figure.draw_without_rendering()
    box, frame = crowded.get_legend().get_window_extent(), crowded.get_window_extent()
    label = crowded.xaxis.label.get_window_extent()
    assert 0 <= box.y0 and box.y1 <= label.y0 < frame.y0


def test_caption_stands_at_the_bottom_and_is_replaced():
    ax = plots.accuracy(RUN)
    plots.caption(ax, "run: a")
    note = plots.caption(ax.figure, "run: b, MNIST, " + "seeds 0 to 4, " * 12)
    assert ax.figure.texts == [note]
    assert note.get_text().startswith("run: b") and "\n" in note.get_text()
    ax.figure.draw_without_rendering()
    box = note.get_window_extent()
    assert 0 <= min(box.x0, box.y0) and box.x1 <= ax.figure.bbox.x1
    assert box.y1 <= ax.xaxis.label.get_window_extent().y0


def test_caption_without_a_layout_engine_and_in_a_subfigure():
    figure, ax = pyplot.subplots(figsize=(3, 2))
    note = plots.caption(ax, "run: a")
    ax.set_xlabel("x")
    figure.draw_without_rendering()
    assert note.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0
    parent = pyplot.figure(layout="constrained")
    inner = parent.subfigures(1, 2)[0].subplots()
    assert plots.caption(inner, "run: a") in parent.texts


def test_style_is_left_behind():
    before = dict(matplotlib.rcParams)
    with plots.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
        assert 8 <= matplotlib.rcParams["font.size"] <= 9
    plots.accuracy(RUN)
    assert dict(matplotlib.rcParams) == before


def test_branches_look_and_stand_the_same_in_every_figure():
    assert branch_styles(["reinit", "ticket"])["ticket"] == KNOWN["ticket"]
    alone = branch_styles(["sign_flip"])["sign_flip"]
    assert branch_styles(["ticket", "sign_flip", "lrr"])["sign_flip"] == alone
    assert alone.label == "sign flip"
    others = branch_styles([f"branch_{i}" for i in range(len(OTHERS))])
    assert len({look.color for look in others.values()}) == len(OTHERS)
    assert len(branch_styles([f"branch_{i}" for i in range(20)])) == 20
    ordered = branch_order(["zeta", "random", "alpha", "ticket"], None)
    assert ordered == ["ticket", "random", "alpha", "zeta"]
    assert len({*OTHERS, *(look.color for look in KNOWN.values())}) == len(OTHERS) + len(KNOWN)


def test_percent_reads_like_a_paper():
    values = {1: "100", 0.5: "50", 0.168: "16.8", 0.0999: "10", 0.01: "1", 0.0092: "0.92"}
    assert {value: percent(value) for value in values} == values


def test_limits_and_leaves():
    assert limits([1.0, NAN, 1.0], [1.0]) == pytest.approx((0.95, 1.05))
    assert limits([99.0, 100.0], [99.0], top=100.0) == pytest.approx((98.95, 100.01))
    x = np.array([100.0, 10.0, 1.0, 0.1])
    assert leaves(x, np.array([5.0, 5, 5, 5]), 1.0) == []
    assert leaves(x, np.array([0.0, 5, NAN, 0]), 2.5) == pytest.approx([100.0, 1.0])
