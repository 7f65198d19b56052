"""What single figures show beyond the lines of their table: baselines, limits, marks, words."""

import io
import itertools

import figures as f
import matplotlib
import numpy as np
import pandas as pd
import pytest
from figures import AT, FIGURES, INF, NAN, RUN, TABLE, all_named, legend_texts, lines, named
from matplotlib import pyplot
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

import jaxticket as jt
from jaxticket import plots
from jaxticket.analysis import stats
from jaxticket.plots import _panel
from jaxticket.plots._axes import limits, step_axis, step_name
from jaxticket.plots._density import leaves
from jaxticket.plots._matrices import FACES
from jaxticket.plots._style import DENSE, KNOWN, VARIANTS, branch_order, branch_styles, percent


def refused(message, draw, *tables, **options):
    with pytest.raises(ValueError, match=message):
        draw(*tables, **options)


def ticks(axis):
    axis.axes.figure.draw_without_rendering()
    return [tick.get_text() for tick in axis.get_ticklabels()]


def across(ax):
    """The band of the dense network."""
    (found,) = ax.patches
    return found.get_y(), found.get_y() + found.get_height()


# accuracy, early stopping, dilation


@pytest.mark.parametrize("band", ["minmax", "std"])
def test_accuracy_compares_with_the_dense_network(band):
    ax = plots.accuracy(RUN, band=band)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), 98)
    # of three seeds 0.1 points apart
    assert across(ax) == pytest.approx((97.9, 98.1))
    left, right = ax.get_xlim()
    assert ax.get_xscale() == "log" and left > 100 > 100 * 0.8**4 > right
    assert ticks(ax.xaxis) == ["100", "80", "64", "51.2", "41"]
    refused("no dense network", plots.accuracy, RUN[RUN["level"] > 0])
    bars = plots.accuracy(RUN, band="bars")
    assert (len(bars.containers), len(plots.accuracy(RUN, band="none").containers)) == (3, 0)
    assert len(named(bars, "random reinit").get_xdata()) == 4
    alone = plots.accuracy(RUN[RUN["level"] == 0])
    assert legend_texts(alone)[:2] == ["dense", "IMP ticket"]


def test_accuracy_clips_a_collapsed_branch_and_says_so():
    ax = plots.accuracy(RUN)
    low, high = ax.get_ylim()
    # the lowest seed of reinit is visible, the end of random (58%) is not
    assert 80 < low < 98 - 0.5 * 4 - 0.1 and 98.1 < high <= 100
    assert "global random, falls to 58%" in legend_texts(ax)
    (x,) = lines(ax)["_exit"].get_xdata()
    assert x == pytest.approx(100 * 0.8 ** ((98 - low) / 10), rel=1e-6)
    # no more than it must
    assert plots.accuracy(RUN, branches=["ticket"]).get_ylim()[0] > 93
    assert plots.accuracy(RUN, branches=["random"]).get_ylim()[0] < 58
    # nor do random masks decide where methods have names of their own
    methods = RUN["branch"].replace({"ticket": "synflow", "reinit": "snip"})
    others = RUN.assign(branch=methods.where(RUN["level"] > 0, RUN["branch"]))
    assert plots.accuracy(others).get_ylim()[0] > 80
    ax = plots.accuracy(RUN, ylim=(90, 99), branches=["reinit", "ticket"])
    assert ax.get_ylim() == (90, 99) and legend_texts(ax)[1] == "random reinit"


def test_accuracy_rings_matching_means():
    def ringed(**options):
        found = all_named(plots.accuracy(RUN, **options), "_matching")
        return sorted(x for line in found for x in line.get_xdata())

    judged = stats.matching(RUN)
    judged = judged[judged["matching"] & (judged["level"] > 0)]
    np.testing.assert_allclose(ringed(), sorted(100 * judged["density"]))
    # one image of 20 is 5 points: more is matching
    assert len(ringed(test_size=20)) > len(ringed()) > 0 == len(ringed(at=0.25))


def test_accuracy_during_training_and_of_the_early_stop():
    ax = plots.accuracy(RUN, at=0.25)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), 100 * (0.1 + 0.88 * 0.75))
    assert "at 25% of training" in ax.get_ylabel()
    ax = plots.early_stop(RUN, what="accuracy", branches=["ticket"])
    assert named(ax, "IMP ticket").get_ydata()[0] == pytest.approx(98)
    refused("`what` must be one of", plots.early_stop, RUN, what="loss")
    refused("with_validation", plots.early_stop, RUN[RUN["split"] == "test"])
    refused("`band` must be one of 'minmax', 'bars'", plots.accuracy, RUN, band="se")
    refused("`at`", plots.accuracy, RUN, at=0)


def test_dilation_shows_tickets_that_no_dilation_was_enough_for():
    table = FIGURES["dilation"].table
    ax = plots.dilation(table)
    np.testing.assert_array_equal(named(ax, "dense").get_ydata(), [0.8, 0.8])
    missed = all_named(ax, "_not reached")
    np.testing.assert_allclose(missed[0].get_xdata(), [64])
    np.testing.assert_allclose(missed[1].get_xdata(), [80, 64])
    first, second = (float(line.get_ydata()[0]) for line in missed)
    # above every dilation that was trained, in rows of their own
    assert 2.0 < second < first < ax.get_ylim()[1] and max(ax.get_yticks()) <= 2.0
    assert legend_texts(ax) == ["dense", "IMP ticket", "random reinit", "not reached"]
    reached = plots.dilation(table, margin=0.2)
    np.testing.assert_array_equal(named(reached, "random reinit").get_ydata(), [0.5, 0.5])
    assert "not reached" not in legend_texts(reached)


# curves and telemetry


def test_curves_choose_levels_by_density():
    ax = plots.curves(RUN, densities=(1.0, 0.65), branches=("ticket", "reinit"))
    # reinit has no level 0
    assert set(lines(ax)) == {"_ticket 0", "_ticket 2", "_reinit 2"}
    assert legend_texts(ax)[:4] == ["100%", "64%", "IMP ticket", "random reinit"]
    same = [lines(ax)[name] for name in ("_ticket 2", "_reinit 2")]
    assert same[0].get_color() == same[1].get_color()
    assert same[0].get_linestyle() != same[1].get_linestyle()
    many = f.run({"ticket": lambda level: 0.98}, levels=22)
    assert legend_texts(plots.curves(many))[:5] == ["100%", "32.8%", "10.7%", "2.8%", "0.92%"]
    # the start of training is below the axes
    low, high = plots.curves(RUN, levels=[0, 4]).get_ylim()
    assert 70 < low < 97 < 98.1 < high
    for options, message in (
        ({"densities": [0.001]}, r"`densities` has 0\.001; these branches have 1, 0\.8"),
        ({"densities": [0.0]}, "`densities` has 0"),
        ({"densities": []}, "`densities` is empty"),
        ({"densities": [1.0], "levels": [0]}, "exclude each other"),
    ):
        refused(message, plots.curves, RUN, **options)
    refused("every replica diverged", plots.curves, RUN.assign(value=NAN))


def test_curves_keep_the_last_value_of_a_replica_that_stopped():
    seeds = [{0: 0.0, 10: 0.8}, {0: 0.0, 20: 0.4}, {0: 0.0, 20: NAN}]
    rows = [
        (seed, 0, 1.0, "ticket", step, "test", "accuracy", value)
        for seed, curve in enumerate(seeds)
        for step, value in curve.items()
    ]
    line = lines(plots.curves(pd.DataFrame(rows, columns=list(stats.COLUMNS))))["_ticket 0"]
    np.testing.assert_array_equal(line.get_xdata(), [0, 10, 20])
    np.testing.assert_allclose(line.get_ydata(), [0, 50, 60])


def test_telemetry_of_one_level_of_many_and_of_any_metric():
    one = plots.telemetry(f.TELEMETRY, levels=[2])
    for name in ("ticket", "reinit"):
        line = named(one, KNOWN[name].label)
        assert line.get_color() == KNOWN[name].color and line.get_label().endswith(", 64%")
    many = plots.telemetry(f.telemetry(["ticket"], range(9)))
    assert [line for line in lines(many) if line != "_bars"] == [
        f"_ticket {i}" for i in (0, 2, 4, 6, 8)
    ]
    signs = plots.telemetry(f.TELEMETRY, metric="sign_flips")
    assert signs.get_ylim()[0] < 0 < 12 < signs.get_ylim()[1] and "%" in signs.get_ylabel()
    np.testing.assert_allclose(lines(signs)["_ticket 0"].get_ydata(), [0, 2, 3, 4])
    assert 1 < plots.telemetry(f.TELEMETRY, metric="cosine").get_ylim()[1] < 1.02
    # a measurement of the user's own
    assert plots.telemetry(f.TELEMETRY, metric="trace").get_ylabel() == "trace"
    refused("at most 4 where line styles", plots.telemetry, f.telemetry("abcde"))


# pruning at a step


def test_accuracy_at_step_compares_with_one_dense_network():
    ax = plots.accuracy_at_step(f.STEPS, marks=[500])
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [90, 90])
    assert across(ax) == pytest.approx((89, 91)) and named(ax, "dense").get_color() == DENSE
    np.testing.assert_array_equal(lines(ax)["_mark"].get_xdata(), [500, 500])
    assert "(1k: after training)" in ax.get_xlabel() and "at 20% of weights" in ax.get_ylabel()
    low, high = ax.get_ylim()
    assert low < 69 and 91 < high < 100 and "_exit" not in lines(ax)
    # what lies below the axes is said
    cut = plots.accuracy_at_step(f.STEPS, ylim=(75, 92))
    assert any(", falls to " in text for text in legend_texts(cut))
    for x in lines(cut)["_exit"].get_xdata():
        below = [line for line in ax.lines if x in line.get_xdata() and len(line.get_xdata()) > 2]
        assert any(line.get_ydata()[list(line.get_xdata()).index(x)] < 75 for line in below)
    # each method's run brings it along, under a name of its own
    dense = f.STEPS[f.STEPS["branch"] == "dense"]
    twice = pd.concat([f.STEPS, dense.assign(branch="snip", pruned_at=0)])
    assert across(plots.accuracy_at_step(twice)) == pytest.approx((89, 91))
    other = pd.concat([f.STEPS, dense.assign(branch="snip", value=0.5)])
    refused("two values of 'value' for seed 0", plots.accuracy_at_step, other)
    pruned = f.STEPS["branch"] != "dense"
    no_step = f.STEPS[f.STEPS["pruned_at"] != 0].replace({"pruned_at": {100: NAN}})
    for table, options, message in (
        (f.STEPS, {"marks": [2000]}, "`marks` has 2000, outside .* 0 to 1000"),
        (f.STEPS[pruned], {}, "no dense network"),
        (f.STEPS[~pruned], {}, "has the dense network only"),
        (f.STEPS.assign(value=NAN), {}, "has 3 dense networks and all of them diverged"),
        (no_step, {}, "whose `pruned_at` is no step"),
    ):
        refused(message, plots.accuracy_at_step, table, **options)


def test_accuracy_at_step_of_several_densities():
    both = pd.concat([f.STEPS, f.at_steps(["snip"], level=5, density=0.05)])
    ax = plots.accuracy_at_step(both)
    assert [*lines(ax)][1:] == ["SNIP, 20%", "SNIP, 5%", "global random, 20%"]
    paler = f.color_of(named(ax, "SNIP, 5%")) > f.color_of(named(ax, "SNIP, 20%"))
    assert paler.all()
    ax = plots.accuracy_at_step(both, density=0.051, branches=["snip"])
    assert [*lines(ax)][1:] == ["SNIP"] and "5% of weights" in ax.get_ylabel()
    refused("`density` 0.05 is not in branch 'random'", plots.accuracy_at_step, both, density=0.05)


def test_density_schedules_that_coincide_are_side_by_side():
    ax = plots.density_schedule(f.SCHEDULE, steps=100, retroactive=["ticket"])
    np.testing.assert_allclose(named(ax, "global random").get_data()[0], [0, 20, 80, 100])
    assert named(ax, "IMP ticket").get_label() == "IMP ticket (found afterwards)"
    assert named(ax, "IMP ticket").get_linestyle() == "--"
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] < 5 and ax.get_ylim()[1] > 100
    up = [named(ax, name).get_transform().transform((0, 20))[1] for name in ("SNIP", "GraSP")]
    true = ax.transData.transform((0, 20))[1]
    assert up[0] - true == pytest.approx(true - up[1]) and 0 < up[0] - up[1] < 2.5 * 200 / 72
    # none is above dense
    dense = [named(ax, name).get_transform().transform((0, 100))[1] for name in ("SNIP", "GraSP")]
    assert dense == [ax.transData.transform((0, 100))[1]] * 2
    wider = plots.density_schedule(f.SCHEDULE, ylim=(0.9, 150))
    assert wider.get_ylim() == (0.9, 150) and "1" in ticks(wider.yaxis)
    assert "1" not in ticks(ax.yaxis)
    refused(r"`ylim` must be above 0, .* got \(0, 100\)", plots.density_schedule, f.SCHEDULE,
            ylim=(0, 100))  # fmt: skip
    for table, options, message in (
        (f.SCHEDULE, {"steps": 70}, "steps from 0 to 80, .* to `steps` 70; give"),
        (f.SCHEDULE[3:].assign(step=[-1, 5]), {}, "steps from -1 to 5"),
        (f.SCHEDULE[:1], {}, "steps from 0 to 0, .* `steps` None; give"),
        (f.SCHEDULE.assign(density=0), {}, r"'density' 0; .* in \(0, 1\]"),
        (f.SCHEDULE, {"retroactive": ["tikket"]}, "`retroactive` has 'tikket'"),
    ):
        refused(message, plots.density_schedule, table, **options)


# layers and costs


def test_layer_densities_mark_empty_layers_at_the_lower_edge():
    table = f.LAYERS.copy()
    table.loc[table["index"] == 1, "layer_density"] = 0.0
    some = (table["index"] == 2) & (table["seed"] == 0) & (table["branch"] == "snip")
    table.loc[some, "layer_density"] = 0.0
    ax = plots.layer_densities(table)
    np.testing.assert_allclose(named(ax, "SNIP").get_ydata(), [10, NAN, (30 + 31) / 3])
    filled = all_named(ax, "_empty")
    heights = [line.get_ydata()[0] for line in filled]
    assert [line.get_xdata().tolist() for line in filled] == [[1], [1]]
    assert 0 < heights[0] < heights[1] < 0.1
    hollow = lines(ax)["_partly"]
    np.testing.assert_allclose(hollow.get_data(), [[2], [heights[0]]])
    assert hollow.get_markerfacecolor() == "white"
    assert legend_texts(ax)[-2:] == ["layer empty", "empty for some seeds"]
    # no point is so low
    at = ax.transAxes.inverted().transform(ax.transData.transform([(0, 9.0)]))
    assert at[0, 1] > heights[1]


def test_layers_have_names_where_there_is_room():
    assert ticks(plots.layer_densities(f.LAYERS).xaxis) == ["conv1", "block/conv2", "dense"]
    assert "conv1" not in ticks(plots.layer_densities(f.LAYERS, names=False).xaxis)
    deep = [
        f.LAYERS.assign(index=f.LAYERS["index"] + 3 * i, layer=f.LAYERS["layer"] + str(i))
        for i in range(20)
    ]
    ax = plots.layer_densities(pd.concat(deep))
    assert named(ax, "SNIP").get_marker() in ("", "None") and "conv10" not in ticks(ax.xaxis)
    for change, message in (
        ({"layer_density": 2}, "'layer_density' 2; it is a share"),
        ({"layer_density": 0}, "no layer with weights left"),
        ({"layer": "a"}, "`table` has layer 'a' at index 1, but t"),
    ):
        refused(message, plots.layer_densities, f.LAYERS.assign(**change))


def test_unit_collapse_ends_where_all_units_are_counted():
    ax = plots.unit_collapse(f.UNITS)
    assert ax.get_xlim()[1] == pytest.approx(95 * 1.01) and ax.get_ylim() == (-2, 102)
    assert plots.unit_collapse(f.UNITS, xlim=(0, 40)).get_xlim() == (0, 40)
    few = f.UNITS[f.UNITS["threshold"] <= 0.5]
    assert plots.unit_collapse(few, legend=False).get_xlim()[1] == pytest.approx(50.5)
    # bands end where shares do
    wide = f.UNITS.assign(share=(f.UNITS["seed"] == 0).astype(float))
    ax = plots.unit_collapse(wide, branches=["snip"])
    assert f.band_of(ax, named(ax, "SNIP"))[0].min() == 0
    refused(r"`xlim` must be .*, got \(5, 5\)", plots.unit_collapse, f.UNITS, xlim=(5, 5))
    refused("'threshold' 50; it is a share", plots.unit_collapse, f.UNITS.assign(threshold=50))


def test_costs_have_names_beside_markers_and_a_break_for_zero():
    ax = plots.accuracy_against_cost(f.COSTS)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [90, 90])
    texts = {text.get_text(): text for text in ax.texts}
    assert set(texts) == {"SNIP", "IMP ticket", "global random"}
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    bars = [one.get_segments()[0][:, 1] for one in ax.collections]
    lengths = [np.ptp(one) for one in bars if np.ptp(one) > 0]
    np.testing.assert_allclose(lengths, [2] * 3)
    (nothing,) = named(ax, "global random").get_xdata()
    broken = lines(ax)["_break"].get_xdata()
    assert ax.get_xlim()[0] < nothing < min(broken) < max(broken) < 0.01
    at = dict(zip(ax.get_xticks(), ticks(ax.xaxis), strict=True))
    assert at.pop(nothing) == "0"
    assert all(x > max(broken) and float(text) == pytest.approx(x) for x, text in at.items())
    without = plots.accuracy_against_cost(f.COSTS, branches=["snip", "ticket"], unit="FLOPs")
    assert "_break" not in lines(without) and "(FLOPs)" in without.get_xlabel()
    crowd = [f.COSTS[f.COSTS["branch"] == "snip"].assign(branch=f"method_{i}") for i in range(14)]
    ax = plots.accuracy_against_cost(pd.concat(crowd))
    *beside, said = legend_texts(ax)
    names = sorted([*(text.get_text() for text in ax.texts), *beside])
    assert names == sorted(f"method {i}" for i in range(14)) and beside
    assert said == "bars: mean ± std over seeds"
    for change, message in (
        ({"accuracy": 90}, "'accuracy' 90; it is a share"),
        ({"cost": -1}, "'cost' -1; a cost is a finite number"),
        ({"cost": NAN}, "'cost' nan; a cost is a finite"),
        ({"branch": "dense"}, "has the dense network only"),
    ):
        table = f.COSTS.assign(**change).drop_duplicates(["branch", "seed"])
        refused(message, plots.accuracy_against_cost, table)


@pytest.mark.parametrize("above", [0.0, 0.0004, -0.0004])
def test_the_dense_line_crosses_no_name_of_a_method(above):
    means = f.COSTS.groupby("branch")["accuracy"].transform("mean")
    own = f.COSTS["accuracy"] - means
    dense = float(means[f.COSTS["branch"] == "dense"].iloc[0])
    level = own + dense + above
    table = f.COSTS.assign(accuracy=level.where(f.COSTS["branch"] == "ticket", f.COSTS["accuracy"]))
    ax = plots.accuracy_against_cost(table, legend=False)
    ax.figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    y = ax.transData.transform((1, named(ax, "dense").get_ydata()[0]))[1]
    assert "IMP ticket" in boxes
    assert not [name for name, box in boxes.items() if box.y0 < y < box.y1]


def test_names_of_methods_stay_off_the_edges_of_the_axes():
    own = f.COSTS[f.COSTS["branch"] == "snip"]
    # the name of the first just has room on the left in some, and lies on the second on the right
    for reach in np.linspace(3.4, 4.0, 7):
        at = {"static": 1.0, "snip": 1.1, "ltr": reach}
        table = pd.concat([own.assign(branch=name, cost=cost) for name, cost in at.items()])
        ax = plots.accuracy_against_cost(table)
        plots.caption(ax, "of made-up numbers " * 10)
        ax.figure.draw_without_rendering()
        frame = ax.get_window_extent().padded(-3)
        assert ax.texts
        for text in ax.texts:
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 and box.x1 <= frame.x1
            assert frame.y0 <= box.y0 and box.y1 <= frame.y1


def test_a_method_and_its_controls_have_markers_of_their_own():
    own = f.COSTS[f.COSTS["branch"] == "snip"]
    names = ["snip", "snip_reinit", "snip_at_init"]
    table = pd.concat([own.assign(branch=name, cost=i + 1.0) for i, name in enumerate(names)])
    ax = plots.accuracy_against_cost(table)
    looks = plots.branch_styles(names)
    found = [named(ax, look.label) for look in looks.values()]
    assert len({line.get_color() for line in found}) == 1
    assert len({line.get_marker() for line in found}) == 3


# matrices


def test_rows_of_controls_have_a_bounded_height():
    for methods, most in ((["snip"], 0.5), (["ticket", "snip"], 1.0)):
        with plots.style():
            figure, ax = pyplot.subplots(figsize=(5, 4), layout="constrained")
        plots.controls(f.CONTROLS, ax, methods=methods)
        figure.draw_without_rendering()
        assert ax.get_window_extent().height / figure.dpi == pytest.approx(most, rel=0.05)
        assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
    low = pyplot.figure(figsize=(5, 1.2)).subplots()
    before = low.get_window_extent().height
    assert plots.controls(f.CONTROLS, low).get_window_extent().height == before


def test_controls_are_a_matrix_of_verdicts():
    ax = plots.controls(f.CONTROLS, verdicts=("needed", "not needed"))
    assert f.texts_of(ax) == {
        (0, 0): "−3.1 ✓",
        (1, 0): "–",
        (2, 0): "diverged",
        (0, 1): "0.0 ✗",
        (1, 1): "+0.3 ✗",
        (2, 1): "–",
    }
    assert ticks(ax.yaxis) == ["IMP ticket", "SNIP"]
    assert ticks(ax.xaxis) == ["layerwise\nshuffle", "random\nreinit", "extra\ncontrol"]
    faces = {patch.get_xy(): patch.get_facecolor()[:3] for patch in ax.patches}
    for place, verdict in (((-0.5, -0.5), True), ((0.5, 0.5), False), ((1.5, -0.5), None)):
        assert faces[place] == matplotlib.colors.to_rgb(FACES[verdict])
    assert legend_texts(ax) == ["needed ✓", "not needed ✗", "not judged"]
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
    known = f.CONTROLS.assign(std=0.25, passes=1.0, diverged=1, seeds=3)
    said = f.texts_of(plots.controls(known, methods=["snip"]))[1, 0]
    assert said == "+0.3 ± 0.2\n1 of 3 diverged ✓"
    assert plots.controls(f.CONTROLS, pyplot.figure().subplots()).get_legend() is None
    refused("`verdicts` must be two words", plots.controls, f.CONTROLS, verdicts="passes")
    refused("has 'passes' 'yes' for 'snip'", plots.controls, f.CONTROLS.assign(passes="yes"))


def test_transfers_are_relative_to_the_targets_own():
    ax = plots.transfer_matrix(f.TRANSFERS)
    assert f.texts_of(ax) == {
        (0, 0): "90.0 ± 1.0\nown",
        (0, 1): "87.5\n−2.5",
        (1, 1): "80.0 ± 1.0\nown",
        (1, 2): "diverged",
        (1, 0): "–",
        (0, 2): "–",
    }
    assert (ticks(ax.xaxis), ticks(ax.yaxis)) == (["a", "b"], ["a", "b", "c"])
    assert ax.get_title() == "20% of weights"


def cells(ax):
    (mesh,) = (one for one in ax.collections if isinstance(one, QuadMesh))
    return mesh.get_array()


def test_heat_map_writes_percent_and_frames_stable_cells():
    low = TABLE.copy()
    low.loc[(low["level"] == 8) & (low["at"] == 1000) & (low["metric"] == "barrier"), "value"] = 0.0
    ax = plots.heat_map(low)
    grid = [[100 * np.mean([f.barrier("ticket", level, k, i) for i in range(9)]) for k in AT]
            for level in (0, 4, 8)]  # fmt: skip
    grid[2][2] = 0
    np.testing.assert_allclose(cells(ax), grid)
    assert f.texts_of(ax)[0, 1] == f"{grid[1][0]:.1f}"
    bold = [text.get_position() for text in ax.texts if text.get_fontweight() == "bold"]
    assert bold == [(2, 2)]
    edges = lines(ax)["_stable"].get_xydata().reshape(-1, 3, 2)[:, :2]
    assert {tuple(edge.mean(0)) for edge in edges} == {(1.5, 2), (2.5, 2), (2, 1.5), (2, 2.5)}
    assert (ticks(ax.xaxis), ticks(ax.yaxis)) == (["0", "100", "1k"], ["100", "41", "16.8"])
    # dense on top
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and legend_texts(ax) == ["stable: below 2 points"]
    errors = plots.heat_map(TABLE, metric="error", branch="random", at=[0, 100])
    np.testing.assert_allclose(cells(errors), [[12.4, 12.4]])
    assert "_stable" not in lines(errors) and errors.get_legend() is None


def diverged():
    """Tickets: one sample is nan at k = 0, all are inf at k = 100."""
    table = TABLE.copy()
    ticket = (table["branch"] == "ticket") & (table["level"] == 8) & (table["metric"] == "barrier")
    one = (table["seed"] == 0) & (table["pair"] == "0-1") & (table["at"] == 0)
    table.loc[ticket & one, "value"] = NAN
    table.loc[ticket & (table["at"] == 100), "value"] = INF
    return table


def test_heat_map_of_missing_and_diverged_cells():
    table = diverged()
    table = table[~((table["level"] == 4) & (table["at"] == 0))]
    # one sample diverged: its mean is low, but it is not stable
    table.loc[(table["level"] == 8) & (table["at"] == 0), "value"] *= 0.01
    ax = plots.heat_map(table)
    texts = f.texts_of(ax)
    assert texts[1, 2] == "×" and texts[0, 2].endswith("*") and (0, 1) not in texts
    (empty,) = (one for one in ax.patches if isinstance(one, Rectangle))
    assert empty.get_xy() == (-0.5, 0.5) and "_stable" not in lines(ax)
    assert legend_texts(ax) == ["not analyzed", "some copies diverged", "all copies diverged"]


def test_maps_have_a_color_bar_where_there_is_room():
    figure, (left, right) = pyplot.subplots(1, 2)
    plots.heat_map(TABLE, left)
    plots.plane(f.surface(), right, points=f.POINTS)
    assert len(figure.axes) == 2 and left.get_legend() is None
    plots.heat_map(TABLE, left, colorbar=True)
    assert len(figure.axes) == 3
    figure, ax = pyplot.subplots(layout="constrained")
    plots.plane(f.surface(), ax, points=f.POINTS)
    assert len(figure.axes) == 2 and figure.axes[1].get_ylabel() == "Test error (%)"
    assert len(plots.heat_map(TABLE, colorbar=False).figure.axes) == 1
    # numbers in cells of two millimeters could not be read
    small = pyplot.figure(figsize=(0.2, 0.2)).add_axes((0, 0, 1, 1))
    assert not plots.heat_map(TABLE, small).texts


# what was measured


def test_reliability_pools_the_examples_of_all_seeds():
    table = f.RELIABILITY
    ax = plots.reliability(table, branches=["snip"], level=8)
    before, after = (named(ax, f"SNIP, 16.8%{rest}") for rest in (":", ", $T$"))
    assert before.get_label() == "SNIP, 16.8%: ECE 11%"
    assert after.get_label() == "SNIP, 16.8%, $T$ = 1.10: ECE 5.5%"
    # the empty bin has no marker
    np.testing.assert_allclose(before.get_xdata(), [30, 50, 70, 90])
    np.testing.assert_allclose(before.get_ydata(), [19, 39, 59, 79])
    np.testing.assert_allclose(after.get_ydata(), [24.5, 44.5, 64.5, 84.5])
    assert before.get_linestyle() == "-" != after.get_linestyle()
    # a seed with more examples in a bin counts for more there, and one that diverged for nothing
    table = table.copy()
    own = (table["branch"] == "snip") & (table["level"] == 8)
    first, last = (own & (table["seed"] == seed) for seed in (0, 2))
    table.loc[first & (table["metric"] == "bin_share") & (table["index"] == 1), "value"] = 0.15
    table.loc[last & table["metric"].str.startswith("bin"), "value"] = NAN
    ax = plots.reliability(table, branches=["snip"], level=8, scaled=False)
    y = named(ax, "SNIP").get_ydata()
    np.testing.assert_allclose(y[:2], [(3 * 20 + 19) / 4, (40 + 39) / 2])
    assert "some seeds diverged (1 of 3)" in legend_texts(ax)
    # one line has its gap shaded, and a strip with the shares of examples
    assert [one for one in ax.collections if not str(one.get_label()).startswith("_bars")]
    (strip,) = ax.child_axes
    (step,) = strip.patches
    np.testing.assert_allclose(step.get_data().values[2:], [5, 10, 80])
    assert strip.get_yscale() == "log"
    # bars end where accuracies do
    table = f.RELIABILITY.copy()
    own = (table["branch"] == "snip") & (table["metric"] == "bin_accuracy") & (table["index"] == 1)
    table.loc[own & (table["seed"] == 0), "value"] = 1.0
    table.loc[own & (table["seed"] > 0), "value"] = 0.1
    ax = plots.reliability(table, branches=["snip"], level=8, scaled=False)
    (bars,) = [one for one in ax.collections if isinstance(one, LineCollection)]
    ends = [end for bar in bars.get_segments() for end in bar[:, 1]]
    assert min(ends) == 0 and max(ends) <= 100
    assert not plots.reliability(f.measurement(f.bins(1.0)), branches=["snip"]).texts
    refused("every network diverged", plots.reliability, f.RELIABILITY.assign(value=NAN))
    refused("`table` has no 'bin_share'; pass jt.measure", plots.reliability, f.MEASURED)


def test_separation_has_a_marker_for_each_method_and_score():
    ax = plots.separation(f.SEPARATION, level=8)
    names = ["dense", "SNIP, 16.8%", "global random, 16.8%"]
    assert legend_texts(ax) == [*names, "bars: mean ± std over seeds"]
    for i, label in enumerate(names):
        x, y = named(ax, label).get_data()
        np.testing.assert_allclose(y, [91 - 10 * i, 92 - 10 * i, 93 - 10 * i])
        np.testing.assert_allclose(x, [0 + 0.8 / 3 * (i - 1) + j for j in range(3)])
    assert [one.get_text() for one in ax.get_xticklabels()] == [
        "largest\nsoftmax", "energy", "entropy",
    ]  # fmt: skip
    one = plots.separation(f.SEPARATION, metric="fpr95", scores=["energy"], branches=["snip"])
    assert len(named(one, "SNIP").get_xdata()) == 1
    assert "lower is better" in one.get_ylabel() and "higher is better" in ax.get_ylabel()
    near = f.SEPARATION.assign(value=f.SEPARATION["value"] - 0.35)
    assert "by chance" in legend_texts(plots.separation(near))
    refused("`scores` must be one of", plots.separation, f.SEPARATION, scores=["margin"])
    refused("`table` has no score of unknown examples", plots.separation, f.MEASURED)


def test_bars_of_shares_end_where_shares_do():
    table = f.RELIABILITY.copy()
    own = table["metric"].isin(["bin_accuracy", "scaled_bin_accuracy"])
    # in one bin a seed is always right, one never, and one half of the time
    table.loc[own & (table["index"] == 4), "value"] = table["seed"] / 2
    table.loc[own & (table["index"] == 1), "value"] = (table["seed"] == 0).astype(float)
    surer = f.SEPARATION.assign(value=0.99 + 0.05 * (f.SEPARATION["seed"] - 1).clip(-1, 0))
    for ax in (plots.reliability(table, level=8), plots.separation(surer, level=8)):
        bars = [one for one in ax.collections if isinstance(one, LineCollection)]
        ends = np.concatenate([np.concatenate(one.get_segments())[:, 1] for one in bars])
        assert ends.min() >= 0 and ends.max() <= 100
        assert ax.get_ylim()[1] >= 100
    assert (ends == 100).any()


def test_measured_numbers_by_density():
    ax = plots.measured(f.MEASURED, metric="ece")
    assert ax.get_ylabel() == "ECE (%)\n(lower is better)"
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [2.2, 2.2])
    ax = plots.measured(f.MEASURED, metric="eigenvalue", index=1, branches=["snip"])
    np.testing.assert_allclose(named(ax, "SNIP").get_ydata(), [5, 5])
    own = f.MEASURED.assign(metric="my_number")
    own = own[own["index"] == 0].drop_duplicates(["branch", "level", "seed"])
    assert plots.measured(own, metric="my_number").get_ylabel() == "My number"
    better = jt.Criterion("my_number", "higher", "goodness", percent=True)
    ax = plots.measured(own, metric="my_number", criterion=better)
    assert ax.get_ylabel() == "Goodness (%)\n(higher is better)"
    gap = plots.measured(own.assign(metric="gap"), metric="gap")
    assert gap.get_ylabel() == "Generalization gap (points)\n(lower is better)"
    relative = own.assign(metric="mce")
    assert plots.measured(relative, metric="mce").get_ylabel() == "mCE (%)\n(lower is better)"
    dense = f.MEASURED[f.MEASURED["level"] == 0]
    refused("dense networks alone", plots.measured, dense, metric="ece")


def test_an_overview_is_a_page_of_ranks():
    measures = f.measurement({
        "accuracy": lambda i, level, seed: 0.97 - 0.02 * i + 0.001 * seed,
        "nll": lambda i, level, seed: 0.1 + 0.001 * i + 0.01 * seed,
        "trace": lambda i, level, seed: 1e6 * (3 - i) if i else 5e6,
    })  # fmt: skip
    table = jt.overview(measures=measures)
    ax = plots.overview(table)
    heads = [one.get_text() for one in ax.get_xticklabels()]
    assert heads == ["Test\naccuracy, % ↑", "Hessian\ntrace ↓", "NLL ↓"]
    rows = [one.get_text() for one in ax.get_yticklabels()]
    assert rows == ["dense", "SNIP, 16.8%", "global random, 16.8%"]
    cells = f.texts_of(ax)
    assert cells[0, 1] == "95.10 ± 0.10" and cells[2, 2] == "0.112 ± 0.010"
    assert cells[1, 1].startswith("2.00e+06")
    bold = {one.get_position() for one in ax.texts if one.get_fontweight() == "bold"}
    # the likelihoods are within noise; the dense network is only there to compare with
    assert bold == {(0, 1), (2, 1), (2, 2), (1, 2)}
    faces = {
        (int(one.get_x() + 0.5), int(one.get_y() + 0.5)): one.get_facecolor() for one in ax.patches
    }
    assert len({faces[i, 0] for i in range(3)}) == 1
    assert faces[0, 1] == faces[1, 2] == faces[2, 1] != faces[0, 2] == faces[1, 1]
    assert ax.figure.get_figwidth() > 4
    more = table.assign(wins=[None, True, False], trace=[1.0, NAN, 2.0])
    ax = plots.overview(more, criteria=["trace"], methods=["random", "snip"], legend=False)
    rows = [one.get_text() for one in ax.get_yticklabels()]
    assert rows == ["global random, 16.8% ✗", "SNIP, 16.8% ✓"]
    assert f.texts_of(ax)[0, 1] == "–" and ax.get_legend() is None
    refused("`criteria` has 'ece', `table` does not", plots.overview, table, criteria=["ece"])
    refused("`methods` has 'snp'", plots.overview, table, methods=["snp"])
    refused("`table` has no column of jt.CRITERIA", plots.overview,
            table[["method", "density", "best"]])  # fmt: skip


# copies: barriers, errors, paths


def test_instability_marks_what_is_stable():
    ax = plots.instability(TABLE)
    np.testing.assert_array_equal(named(ax, "stable").get_ydata(), [2, 2])
    low, high = ax.get_ylim()
    assert low < 0 and 58 < high < 100
    loss = plots.instability(TABLE, metric="loss_barrier")
    assert "stable: below 2 points" not in lines(loss)
    # not in percent
    assert named(loss, "dense").get_ydata()[0] == pytest.approx(3 * 0.54)
    # the line at 2% is always visible, what should not be there too
    assert plots.instability(TABLE.assign(value=TABLE["value"] / 1000)).get_ylim()[1] > 3
    assert plots.instability(TABLE.assign(value=-0.05)).get_ylim()[0] == pytest.approx(-6)
    # the axes hardly go beyond what is possible
    ax = plots.instability(TABLE.assign(value=0.95 + 0.05 * (TABLE["seed"] - 1)))
    assert ax.get_ylim()[1] == pytest.approx(103)
    refused(r"no `metric` 'l2' on `split` 'test'", plots.instability, TABLE, metric="l2")


def test_steps_are_at_even_distances_and_keep_their_values():
    ax = plots.instability(TABLE)
    assert ticks(ax.xaxis) == ["0", "100", "1k"]
    at = ax.transData.transform([(k, 0) for k in AT])[:, 0]
    between = ax.transData.transform([(50, 0), (550, 0)])[:, 0]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1])
    np.testing.assert_allclose(between, (at[1:] + at[:-1]) / 2)
    ax = pyplot.figure(figsize=(3, 2)).subplots()
    step_axis(ax, [500, 500], "Step")
    assert ax.get_xlim() == (499.5, 500.5) and list(ax.get_xticks()) == [500]
    assert ax.get_xlabel() == "Step"
    step_axis(ax, [10_000 * k for k in range(30)], "Step")
    # evenly spaced, it is to scale
    assert ax.get_xlabel() == "Step"
    assert sorted([*ax.get_xticks(), *ax.get_xticks(minor=True)]) == [10_000 * k for k in range(30)]
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    names = [step_name(step) for step in (0, 1, 999, 1000, 62_500, 1250, 1234)]
    assert names == ["0", "1", "999", "1k", "62500", "1250", "1234"]


def test_one_step_has_error_bars():
    ax = plots.instability(TABLE[TABLE["at"] == 100], branches="dense")
    values = [100 * f.barrier("ticket", 0, 100, i) for i in range(9)]
    (bars,) = ax.containers
    ((start, stop),) = bars[2][0].get_segments()
    wanted = np.mean(values) + np.std(values, ddof=1) * np.array([-1, 1])
    np.testing.assert_allclose([start[1], stop[1]], wanted)
    assert named(ax, "dense").get_marker() not in ("", "None")


def test_branches_and_levels():
    def said(table=TABLE, **options):
        texts = legend_texts(plots.instability(table, **options))
        return texts[: texts.index("stable: below 2 points")]

    assert said(branches=["ticket", "dense"], level=4) == ["IMP ticket, 41%", "dense"]
    # random has no level 4
    assert said(level=4) == ["dense", "IMP ticket, 41%"] and said(level=0) == ["dense"]
    table = pd.concat([TABLE, TABLE[TABLE["branch"] == "random"].assign(branch="b", level=4)])
    refused(r"share no level: .*'b': \[4\].*say which `level`", plots.instability, table)
    named_dense = table.assign(branch=table["branch"].replace("b", "dense"))
    refused(
        r"branch 'dense' at level \[4\].* level 0 of branch 'ticket'",
        plots.instability,
        named_dense,
    )
    assert "IMP ticket, 41%" in said(table[table["branch"] != "random"])
    # a control of the dense network, such as another schedule
    dense = TABLE[TABLE["level"] == 0]
    assert said(pd.concat([dense, dense.assign(branch="longer")])) == ["dense", "longer"]
    refused("`level` 4 is not in branch 'random', which has", plots.instability, TABLE,
            branches=["random"], level=4)  # fmt: skip


def test_marks_of_diverged_copies():
    ax = plots.instability(diverged())
    rest = 100 * np.mean([f.barrier("ticket", 8, 0, i) for i in range(1, 9)])
    np.testing.assert_allclose(lines(ax)["_diverged"].get_data(), [[0], [rest]])
    np.testing.assert_array_equal(lines(ax)["_lost"].get_xdata(), [100])
    assert legend_texts(ax)[-2:] == ["some copies diverged (1 of 9)", "all copies diverged"]


def test_error_compares_with_the_dense_network_of_the_earliest_step():
    ax = plots.error(f.COPIES)
    values = np.array([100 * f.final("ticket", 0, 0, i) for i in range(9)])
    bar, std = values.mean(), values.std(ddof=1)
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [bar, bar])
    assert across(ax) == pytest.approx((bar - std, bar + std))
    np.testing.assert_allclose(named(ax, "matching").get_ydata(), [bar + 0.2] * 2)
    late = f.COPIES.copy()
    late.loc[(late["level"] == 0) & (late["at"] > 0), "value"] = 0.5
    assert across(plots.error(late)) == pytest.approx((bar - std, bar + std))
    # pairs, and a dense network from elsewhere
    sparse = TABLE[TABLE["level"] > 0]
    refused("`table` has no dense network", plots.error, sparse)
    refused("`dense` has no dense network", plots.error, sparse, dense=sparse)
    refused("9 dense networks and all of", plots.error, sparse, dense=TABLE.assign(value=NAN))
    assert across(plots.error(sparse, dense=TABLE)) == pytest.approx((bar - std, bar + std))
    # alone or asked for, the dense network is a line too
    assert "dense" in legend_texts(plots.error(f.COPIES, branches=["dense", "ticket"]))


def test_distances_find_their_split():
    share = plots.distance(TABLE, metric="disagreement_share", ylim=(0, 100))
    np.testing.assert_allclose(named(share, "dense").get_ydata(), [54] * 3)
    assert share.get_ylim() == (0, 100) and share.get_ylabel().startswith("Test examples")
    # a distance of the user's own
    mine = plots.distance(TABLE, metric="mine")
    assert mine.get_ylabel() == "Mine" and mine.get_ylim()[0] == 0
    two = f.REWINDING(f.STATES, f.COPIES, TABLE, branches=["dense", "random"])
    assert legend_texts(two)[3:5] == ["dense", "global random, 16.8%"]
    states, copies = (one[one["level"] == 0] for one in (f.STATES, f.COPIES))
    for tables, message in (
        ((states, f.COPIES, TABLE), "`states` has nothing of branch 'ticket' at level 8"),
        ((f.STATES, copies, TABLE), "`copies` has nothing of branch 'ticket' at level 8"),
        ((f.STATES.drop(columns="seed"), f.COPIES, TABLE), "`states` lacks the columns"),
        ((f.STATES, TABLE.assign(copy=0), TABLE), "`metric` 'l2_from_k' is not in `copies`"),
    ):
        refused(message, f.REWINDING, *tables, branches=["ticket"])


def test_path_marks_two_points_above_the_ends():
    ax = plots.path(f.PATHS, at=100)
    heights = sorted(line.get_ydata()[0] for line in all_named(ax, "_threshold"))
    np.testing.assert_allclose(heights[:2], [8.4 + 2.5, 9.4 + 2.5], rtol=1e-6)
    assert ax.get_xlim() == (0, 1)
    # of a part of a line none
    part = f.PATHS[(f.PATHS["alpha"] > 0.2) & (f.PATHS["at"] == 0)]
    assert "_threshold" not in lines(plots.path(part))
    assert plots.path(f.on_paths(height=0.9), at=0, branches=["dense"]).get_ylim()[1] < 110
    loss = f.PATHS.assign(metric="loss", value=f.PATHS["value"] * 300)
    assert "_threshold" not in lines(plots.path(loss, at=0, metric="loss"))
    # a bent line
    assert plots.path(f.PATHS.assign(alpha=2 * f.PATHS["alpha"]), at=0).get_xlim() == (0, 2)


def test_path_draws_every_sample():
    ax = plots.path(f.PATHS, at=0, branches=["dense"], samples=True)
    ends = sorted(line.get_ydata()[0] for line in all_named(ax, "_sample"))
    np.testing.assert_allclose(ends, [100 * f.final("ticket", 0, 0, i) for i in range(9)])
    steps = plots.path(f.PATHS, at=AT, branches=["dense"], samples=True)
    assert len({tuple(line.get_color()) for line in all_named(steps, "_sample")}) == 3


def test_batchnorm_is_named_where_it_matters():
    both = pd.concat([TABLE, TABLE.assign(metric=TABLE["metric"] + "_recomputed")])
    assert plots.instability(both).get_ylabel().endswith("BatchNorm interpolated")
    ax = plots.instability(both, metric="barrier_recomputed")
    assert ax.get_ylabel().endswith("BatchNorm re-estimated") and "stable: below 2 points" in lines(
        ax
    )
    assert "BatchNorm" not in plots.instability(TABLE).get_ylabel()


def test_against_density_of_errors_and_branches():
    ax = plots.against_density(TABLE, metric="error", at=[0, 1000], branches=["ticket", "random"])
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), 8.4)
    np.testing.assert_allclose(lines(ax)["_random 0"].get_ydata(), 12.4)
    wanted = ["$k$ = 0", "$k$ = 1k", "IMP ticket", "global random", "dense at $k$ = 0, mean ± std"]
    assert legend_texts(ax)[:-1] == wanted and ax.get_ylim()[0] > 0
    five = pd.concat([TABLE[TABLE["branch"] == "random"].assign(branch=name) for name in "abcde"])
    refused("at most 4 where line", plots.against_density, five, branches=list("abcde"))


def test_plane_puts_contours_and_networks_where_they_belong():
    ax = plots.plane(f.surface(value=lambda x, y: 0.1 * x + 0.02 * y)[::-1], points=f.POINTS)
    seen = 0
    for level, one in zip(ax.collections[1].levels, ax.collections[1].get_paths(), strict=True):
        x, y = one.vertices.T
        np.testing.assert_allclose(10 * x + 2 * y, level)
        seen += len(x)
    assert seen > 20 and (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((0, 5), (0, 4), 1)
    ax.figure.draw_without_rendering()
    for name, place in f.POINTS.items():
        assert tuple(lines(ax)[name].get_xydata()[0]) == place
        (text,) = (text for text in ax.texts if text.get_text() == name)
        box, frame = text.get_window_extent(), ax.get_window_extent()
        assert frame.contains(*box.min) and frame.contains(*box.max)


def test_plane_of_losses_flat_surfaces_and_gaps():
    wide = f.surface(metric="loss", value=lambda x, y: 0.01 * 4.0 ** (x + y))
    ax = plots.plane(wide, points=f.POINTS, metric="loss", contours=9)
    levels = ax.collections[0].levels
    np.testing.assert_allclose(levels[1:] / levels[:-1], levels[1] / levels[0])
    marked = ax.figure.axes[1].get_yticks()
    assert 0.01 <= min(marked) and max(marked) <= 0.01 * 4.0**9
    narrow = f.surface(metric="loss", value=lambda x, y: 1 + 0.1 * x)
    steps = np.diff(plots.plane(narrow, points=f.POINTS, metric="loss").collections[0].levels)
    np.testing.assert_allclose(steps, steps[0])
    plots.plane(f.surface(value=lambda x, y: 0.5), points=f.POINTS)
    gap = f.surface(value=lambda x, y: NAN if x == 3 else 0.1 * x)
    assert plots.plane(gap, points=f.POINTS).collections[0].levels[-1] >= 50


@pytest.mark.parametrize(
    ("grid", "options", "message"),
    [
        (f.surface().iloc[1:], {}, "`grid` must have one value at every place.*got 29 values"),
        (f.surface(x=1), {}, "regular grid of at least 2 × 2"),
        (f.surface().assign(value=NAN), {}, "`grid` has no finite value"),
        (f.surface(), {"points": {}}, "`points` is empty"),
        (f.surface(), {"points": {"init": (9, 0)}}, r"'init' at \(9.0, 0.0\), outside the grid: x"),
        (f.surface(), {"contours": 1}, "`contours` must be a whole number of at least 2, got 1"),
    ],
)
def test_plane_errors(grid, options, message):
    refused(message, plots.plane, grid, **({"points": f.POINTS} | options))


def test_loss_surfaces_are_the_grid_of_one_network():
    ax = plots.loss_surface(f.SURFACES, branch="reinit", seed=2, top=2.0)
    assert ax.name == "3d" and ax.get_zlabel() == "Train loss"
    heights = np.asarray(ax.zaxis.get_data_interval())
    np.testing.assert_allclose(heights, (0.3, 2.0))
    assert tuple(ax.xaxis.get_data_interval()) == (-1, 1)
    refused("`ax` must have three dimensions", plots.loss_surface, f.SURFACES, plots.plane(
        f.surface(), points=f.POINTS))  # fmt: skip
    refused("`seed` must be one of", plots.loss_surface, f.SURFACES, seed=9)
    refused("`branch` 'rienit' is not in", plots.loss_surface, f.SURFACES, branch="rienit")


def test_loss_contours_show_the_path():
    rows = [(2, 1, "ticket", k, x, x / 2, 0.8, 0.15) for k, x in ((10, 0.0), (0, 1.0), (5, 0.5))]
    path = f.frame("seed level branch step x y share_x share_y", rows)
    ax = plots.loss_contours(f.SURFACES, path=path, seed=2)
    np.testing.assert_array_equal(ax.lines[-1].get_xydata(), [[1, 0.5], [0.5, 0.25], [0, 0]])
    assert ax.get_xlabel() == "first component (80% of the variance)"
    # the least value lies inside the lowest filled level
    assert ax.collections[0].levels[0] <= f.around(2, 0, 0, 1.0) < ax.collections[0].levels[1]
    refused("`path` has no steps", plots.loss_contours, f.SURFACES, path=path, seed=1)
    refused("`path` lacks the columns", plots.loss_contours, f.SURFACES, path=path[["x"]])


def test_spectral_densities_of_seeds_are_averaged_on_one_grid():
    """Each seed has a spectrum of another range; beyond it the density is 0."""

    def seen(seed, at, density, **more):
        rows = [("density_at", i, x) for i, x in enumerate(at)]
        rows += [("density", i, x) for i, x in enumerate(density)]
        rows += [(name, 0, x) for name, x in more.items()]
        return [(seed, 2, 0.2, "snip", *row) for row in rows]

    columns = "seed level density branch metric index value"
    near = seen(0, (0, 1, 2), (4, 2, 0), eigenvalue=2.0, weights=100)
    far = seen(1, (0, 2, 4), (2, 2, 2), eigenvalue=4.0, weights=200)
    lost = seen(2, (NAN,) * 3, (NAN,) * 3, eigenvalue=NAN, weights=NAN)
    ax = plots.spectral_density(f.frame(columns, [*near, *far, *lost]))
    line = named(ax, "SNIP, 20%")
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 4])
    np.testing.assert_allclose(line.get_ydata(), [3, 2, 1, 1])
    assert ax.get_yscale() == "log"
    # the peak of one eigenvalue of 200, as a start that sees a part of it shows it
    peak = 4 / (30 * 200)
    bare = plots.spectral_density(f.frame(columns, [*near, *far]), eigenvalues=False)
    assert legend_texts(bare)[:1] == ["SNIP, 20%"] and "_snip eigenvalues" not in lines(bare)
    assert "largest eigenvalues" not in legend_texts(bare)
    assert bare.get_ylim()[0] == pytest.approx(peak) and bare.get_ylim()[1] > 4
    # with room below for marks
    assert peak / 3 < ax.get_ylim()[0] < peak
    assert legend_texts(ax)[1] == "largest eigenvalues"
    assert legend_texts(ax)[-1] == "left out: 1 of 3 diverged"
    np.testing.assert_array_equal(lines(ax)["_snip eigenvalues"].get_xdata(), [2, 4])


def test_spectral_densities_of_layers_and_what_is_missing():
    own = f.SPECTRA[f.SPECTRA["metric"] != "weights"]
    layers = own.assign(metric=own["metric"] + "/dense_0")
    ax = plots.spectral_density(layers, layer="dense_0", eigenvalues=False)
    low, high = ax.get_ylim()
    assert low == pytest.approx(1.2e-7) and high > 1.2
    draw = plots.spectral_density
    refused("`table` has a density of each layer; set `layer` to one of .'dense_0'", draw, layers)
    refused("`layer` 'dense_1' is not in `table`", draw, layers, layer="dense_1")
    bare = own[own["metric"] == "eigenvalue"]
    refused(r"no rows of 'density'; measure with jt.probes.Curvature\(starts above 0", draw, bare)
    refused(r"'density/a'; .*Curvature\(layers=True and starts", draw, own, layer="a")
    refused("`level` must be one of .1., got 3", draw, own, level=3)
    refused("`eigenvalues` must be", draw, own, eigenvalues=3)
    with pytest.raises(ValueError, match="`metric` 'density_at' is not in `table`"):
        draw(own[own["metric"] == "density"])


@pytest.mark.parametrize(("metric", "scale"), [("loss", 1), ("gradient_change", 2), ("beta", 3)])
def test_smoothness_is_a_band_between_both_ends(metric, scale):
    ax = plots.smoothness(f.WATCHED, metric=metric)
    line, lower = named(ax, "random reinit"), lines(ax)["_random reinit, 50% least"]
    low, high = f.band_of(ax, line)
    # seeds are 0.1 apart
    wanted = scale * (2.1 + np.array([0, 10, 20, 30]) / 30)
    np.testing.assert_allclose(low, wanted)
    np.testing.assert_allclose(lower.get_ydata(), wanted)
    np.testing.assert_allclose(high, 2 * wanted)
    np.testing.assert_allclose(line.get_ydata(), 2 * wanted)
    assert legend_texts(ax) == [
        "IMP ticket, 50%", "random reinit, 50%", "bands: least to greatest step length"
    ]  # fmt: skip


def test_smoothness_needs_both_ends():
    draw = plots.smoothness
    one = f.WATCHED[f.WATCHED["metric"] != "beta_least"]
    message = "`metric` 'beta' is not in `table` with both ends; Known: gradient_change, loss"
    refused(message, draw, one, metric="beta")
    refused("it has no metrics with both ends", draw, f.TELEMETRY)
    # `monitored()` has further columns
    more = f.WATCHED.assign(index=0, dilation=1.0)
    assert legend_texts(draw(more)) == legend_texts(draw(f.WATCHED))


def test_features_are_dots_by_class():
    rows = [(0, n, "ticket", i, i % 2, float(i), -n * i) for n in (0, 1) for i in range(6)]
    table = f.frame("seed level branch example label x y", rows)
    ax = plots.features(table)
    assert legend_texts(ax) == ["0", "1"]
    ax.figure.draw_without_rendering()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), [[1, -1], [3, -3], [5, -5]])
    refused("`level` must be one of", plots.features, table, level=2)
    refused("`table` lacks the columns", plots.features, table[["x"]])


def test_explanations_color_regions_over_a_gray_image():
    image = np.full((2, 3, 3), 100, np.uint8)
    image[0, 0] = 0, 128, 255
    weights = np.array([[0, 0, 0.5], [-1.0, 0.2, -0.1]])

    def shown(**options):
        return plots.explanation(image, weights, **options).images[0].get_array()

    drawn = shown(white=200)
    # gray, with 60% of the contrast
    np.testing.assert_allclose(drawn[0, 0], 0.5 + 0.6 * ((0 + 128 + 255) / 600 - 0.5))
    np.testing.assert_allclose(drawn[0, 1], 0.5)
    red, green = drawn[..., 0], drawn[..., 1]
    # for in green, against in red, the stronger the weight the more
    assert (green[weights > 0] > red[weights > 0]).all()
    assert (red[weights < 0] > green[weights < 0]).all()
    far = np.abs(drawn - 0.5).sum(axis=-1)
    assert far[0, 2] > far[1, 1] and far[1, 0] > far[1, 2] > 0
    colored = {
        (): 4, ("for",): 2, ("against",): 2, ("both", 1): 1, ("both", 3): 3, ("for", 1): 1,
    }  # fmt: skip
    for given, count in colored.items():
        own = shown(white=200, **dict(zip(("regions", "most"), given, strict=False)))
        assert (np.ptp(own, axis=-1) > 1e-9).sum() == count
    # a common scale for several panels
    np.testing.assert_allclose(shown(scale=2, white=200)[1, 0], (drawn[1, 0] + 0.5) / 2)
    plain = plots.explanation(image[..., 0], 0 * weights).images[0].get_array()
    np.testing.assert_allclose(plain[1, 1], 0.8)
    refused(
        "`weights` must be a finite number for each pixel", plots.explanation, image, weights[0]
    )
    refused("`weights` must be a finite", plots.explanation, image, weights * NAN)
    refused("`image` must be", plots.explanation, image[..., :2], weights)
    refused("`regions` must be one of", plots.explanation, image, weights, regions="red")
    refused("`scale` must be", plots.explanation, image, weights, scale=0)
    refused("`most` must be", plots.explanation, image, weights, most=0)


def test_similarity_compares_networks_of_the_same_seed():
    rows = [
        (s, 1, a, t, 1, b, 0.1 * s + (0.5 if a == b else 0.2) + 0.05 * t)
        for s in (0, 1) for t in (0, 1) for a in ("ticket", "reinit") for b in ("ticket", "reinit")
    ]  # fmt: skip
    names = "seed level branch other_seed other_level other_branch value"
    ax = plots.similarity(f.frame(names, rows))
    # of other seeds 0.55 and 0.6; of the same 0.2 and 0.35
    assert np.asarray(ax.images[0].get_array()) == pytest.approx(
        np.array([[0.575, 0.275], [0.275, 0.575]])
    )
    assert ax.get_yticklabels()[0].get_text() == "IMP ticket, level 1"


def test_first_steps_need_a_majority():
    ax = plots.first_steps(f.FIRST)
    stable, matching = (lines(ax)[f"_ticket {one}"] for one in ("stable", "matching"))
    assert stable.get_linestyle() != matching.get_linestyle()
    # where they coincide, both are visible
    assert matching.get_markersize() > stable.get_markersize()
    assert matching.get_markerfacecolor() == "none"
    assert list(ax.get_yticks()) == [0, 500, 1000, 2000, 4000]
    y = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert "band to the top: some at no step" in legend_texts(ax)
    # one sample at 16.8% is never stable: its band leaves the axes
    assert (y.min(), y.max()) == (0, ax.get_ylim()[1]) and y.max() > 4000
    most = plots.first_steps(f.FIRST, majority=0.9)
    np.testing.assert_array_equal(lines(most)["_ticket stable"].get_ydata(), [2000, 1000, NAN])
    assert "no marker: most at no step" in legend_texts(most)
    asked = plots.first_steps(f.FIRST, branches=["ticket"], at=(0, 100, 8000))
    assert list(asked.get_yticks()) == [0, 100, 8000]
    # all that was found is inside
    assert plots.first_steps(f.FIRST, at=(0, 100)).get_ylim()[1] > 4000
    # alone, a point has error bars
    assert len(plots.first_steps(f.FIRST[f.FIRST["level"] == 0]).containers) == 2
    refused(r"`majority` must be in \[0, 1\), got 1", plots.first_steps, f.FIRST, majority=1)
    none = f.FIRST.assign(share=0.1)
    refused("no density at which more than 0.5 of the samples", plots.first_steps, none)


def test_panels_say_once_which_copies_diverged():
    table = TABLE.assign(value=TABLE["value"].mask(TABLE["at"] == 1000))
    axes = pyplot.subplots(1, 2, layout="constrained")[1]
    for ax in f.BOTH(table, axes=axes):
        texts = legend_texts(ax)
        assert len(set(texts)) == len(texts) and "all copies diverged" in texts
    (legend,) = f.BOTH(table)[0].figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(set(texts)) == len(texts) and "all copies diverged" in texts


def test_stable_and_matching_on_given_axes():
    axes = pyplot.subplots(1, 2, layout="constrained")[1]
    # the errors of pairs, at fewer steps and more levels than the barriers
    later = TABLE[(TABLE["metric"] != "error") | (TABLE["at"] > 0)]
    later = later[(later["metric"] != "barrier") | (later["level"] < 8)]
    left, right = f.BOTH(later, axes=axes, branches=["dense", "ticket"])
    assert [left, right] == list(axes) and not left.figure.legends
    said = ["stable: below 2 points", "bands: mean ± std over copies"]
    assert legend_texts(left) == ["dense", "IMP ticket, 41%", *said]
    said = ["dense at $k$ = 100, mean ± std", "matching: at most 0.2 points above"]
    assert legend_texts(right) == said
    # the same level and the same steps on both sides
    np.testing.assert_allclose(named(right, "IMP ticket, 41%").get_xdata(), [100, 1000])
    assert left.get_xlim() == right.get_xlim()
    left, _ = f.BOTH(TABLE, branches=["dense"], legend=False)
    assert not left.figure.legends and left.get_legend() is None
    for wrong in (3, [left], [left, 3]):
        refused("`axes` must be two matplotlib Axes or None", f.BOTH, TABLE, axes=wrong)


# the look of all figures


def test_methods_look_unlike_each_other_and_the_same_everywhere():
    looks = branch_styles([*KNOWN, *(f"grasp_{one}" for one in VARIANTS)])
    assert all(looks[name] == KNOWN[name] for name in KNOWN)
    assert len({look.color for look in KNOWN.values()}) == len(KNOWN)
    controls = [looks[f"grasp_{one}"] for one in VARIANTS] + [looks["grasp"]]
    assert {look.color for look in controls} == {KNOWN["grasp"].color}
    assert len({str(look.line) for look in controls}) == len(controls)
    assert looks["grasp_inverted"].label == "GraSP, inverted"
    methods = (
        "dense ticket magnitude_after_training magnitude snip grasp synflow prospr force random"
    )
    colors = np.array([matplotlib.colors.to_rgb(looks[name].color) for name in methods.split()])
    apart = np.abs(colors[:, None] - colors[None]).sum(-1) + 9 * np.eye(len(colors))
    assert apart.min() > 0.35
    mixed = ["zeta", "random", "grasp_reinit", "grasp_shuffle", "grasp", "zeta_shuffle", "snip"]
    order = ["snip", "grasp", "grasp_shuffle", "grasp_reinit", "random", "zeta", "zeta_shuffle"]
    assert branch_order(mixed, None) == order


def test_panels_without_a_legend_have_its_entries():
    for draw, entry in (
        (
            lambda **options: plots.path(f.PATHS, at=AT[0], **options),
            "mean of ends + 2 points, same color",
        ),
        (lambda **options: plots.path(f.PATHS, **options), "$k$ = 0"),
        (lambda **options: plots.accuracy(RUN, **options), "matching (within 0.2 points)"),
    ):
        with_legend, without = draw(), draw(legend=False)
        labels = without.get_legend_handles_labels()[1]
        assert without.get_legend() is None and entry in labels
        assert sorted(labels) == sorted(legend_texts(with_legend))
        assert with_legend.get_xlim() == without.get_xlim()
        assert with_legend.get_ylim() == without.get_ylim()


def test_captions_are_as_wide_as_their_figure():
    figure, _ = pyplot.subplots(figsize=(4, 3), layout="constrained")
    for text in ("WIDE LETTERS OF MNIST " * 20, "lines are means over seeds; " * 12, "a" * 30, ""):
        note = plots.caption(figure, text)
        assert note.get_text().split() == text.split()
        box = note.get_window_extent()
        assert box.x1 <= figure.bbox.x1
        # also where it is saved with another resolution
        figure.savefig(saved := io.BytesIO(), dpi=150)
        image = pyplot.imread(io.BytesIO(saved.getvalue()))[..., :3]
        # below the labels of the axes
        rows = round(150 * box.y1 / figure.dpi) - 5
        assert (image[-rows:, -3:] == 1).all() and (text == "" or (image[-rows:] < 1).any())
        # and no line is broken early
        widest = [len(line) for line in note.get_text().split("\n")]
        assert len(widest) == 1 or box.width > 0.8 * figure.bbox.width


def test_legends_see_stairs_as_they_are_drawn():
    ax = pyplot.subplots()[1]
    ax.set(xlim=(0, 1), ylim=(0, 1))
    (line,) = ax.plot([0.1, 0.9], [0.9, 0.1], drawstyle="steps-post")
    on_it, on_the_diagonal = (
        Bbox.from_extents(*ax.transData.transform([(0.75, y - 0.05), (0.85, y + 0.05)]).ravel())
        for y in (0.9, 0.2)
    )
    assert _panel.covers(on_it, line) and not _panel.covers(on_the_diagonal, line)


def test_a_caption_moves_a_legend_that_would_cover_lines():
    """The higher the axes, the smaller a legend is in them."""
    figure, ax = pyplot.subplots(figsize=(4, 2), layout="constrained")
    ax.plot([0, 1], [0, 0], label="one")
    ax.plot([0, 1], [0.6, 0.6], label="another")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    legend = _panel.place_legend(ax, _panel.labeled(ax), corner="upper right")

    def covers():
        figure.draw_without_rendering()
        return any(_panel.covers(legend.get_window_extent(), line) for line in ax.lines)

    assert not covers()
    plots.caption(figure, "run: a, " * 40)
    assert not covers()
    legend.set_loc("upper right")
    assert covers()


def test_caption_without_a_layout_engine_and_in_a_subfigure():
    figure, ax = pyplot.subplots(figsize=(3, 2))
    note = plots.caption(ax, "run: a")
    ax.set_xlabel("x")
    figure.draw_without_rendering()
    assert note.get_window_extent().y1 <= ax.xaxis.label.get_window_extent().y0
    parent = pyplot.figure(layout="constrained")
    inner = parent.subfigures(1, 2)[0].subplots()
    assert plots.caption(inner, "run: a") in parent.texts


def test_percent_limits_and_exits():
    values = {1: "100", 0.5: "50", 0.168: "16.8", 0.0999: "10", 0.01: "1", 0.0092: "0.92"}
    assert {value: percent(value) for value in values} == values
    assert limits([1.0, NAN, 1.0]) == pytest.approx((0.95, 1.05))
    assert limits([99.0, 100.0], top=100.0) == pytest.approx((98.95, 100.01))
    x = np.array([100.0, 10.0, 1.0, 0.1])
    assert leaves(x, np.array([5.0, 5, 5, 5]), 1.0) == []
    assert leaves(x, np.array([0.0, 5, NAN, 0]), 2.5) == pytest.approx([100.0, 1.0])


@pytest.mark.parametrize("least", [0.9, 0.5, 0.3, 0.15, 0.04, 0.006, 1e-4])
def test_log_axes_of_densities_have_a_few_ticks(least):
    """Also where all layers keep more than half, which no power of ten tells apart."""
    kept = f.LAYERS.assign(layer_density=[1.0, *[least] * (len(f.LAYERS) - 1)])
    schedule = f.SCHEDULE.assign(density=[1.0, *[least] * (len(f.SCHEDULE) - 1)])
    for ax in (plots.layer_densities(kept), plots.density_schedule(schedule)):
        low, high = ax.get_ylim()
        shown = [tick for tick in ax.get_yticks() if low <= tick <= high]
        assert (2 if least < 0.6 else 1) <= len(shown) <= 8
        assert max(shown) == 100


def test_barriers_are_in_points():
    """A barrier is a difference of errors."""
    for draw in (plots.instability, plots.against_density, plots.heat_map):
        figure = draw(TABLE).figure
        texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        assert any("barrier (points)" in text for text in texts)
        assert not any("barrier (%)" in text for text in texts)
