"""What the figures of early pruning draw: data, bands, limits, labels, never pixels."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.collections import PolyCollection

from jaxticket import plots
from jaxticket.plots._controls import FACES
from jaxticket.plots._style import DENSE, KNOWN, OTHERS, VARIANTS, branch_order, branch_styles

matplotlib.use("Agg")
NAN, INF = math.nan, math.inf
SEEDS = (0, 1, 2)
STEPS = (0, 100, 1000)
# of three seeds 0.01 apart, in percent
STD = 1.0


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    """Figures are closed after each test, and none may be shown."""
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    yield
    pyplot.close("all")


def frame(rows, columns):
    return pd.DataFrame(rows, columns=columns.split())


def trained(branch, level, density, at, mean, seeds=SEEDS):
    """Rows of trainings whose final accuracies are 0.01 apart, and 0.1 at the start."""
    for seed in seeds:
        for step, value in ((0, 0.1), (1000, mean + 0.01 * (seed - 1))):
            for metric, size in (("accuracy", value), ("loss", 5.0)):
                yield seed, level, density, branch, step, "test", metric, size, at


def at_steps(branches=("snip", "random"), level=1, density=0.2):
    rows = [row for row in trained("dense", 0, 1.0, NAN, 0.9)]
    for i, branch in enumerate(branches):
        for k in STEPS:
            rows += trained(branch, level, density, k, 0.8 - 0.1 * i + k / 20_000)
    return frame(rows, "seed level density branch step split metric value pruned_at")


TABLE = at_steps()
UNITS = frame(
    [
        (branch, seed, d, min(1.0, zero + d + 0.01 * (seed - 1) * (d == 0.5)))
        for branch, zero in (("snip", 0.05), ("synflow", 0.3))
        for seed in SEEDS
        for d in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
    ],
    "branch seed threshold share",
)
LAYERS = frame(
    [
        (branch, seed, name, i, 0.1 * (i + 1) + scale * 0.01 * (seed - 1))
        for branch, scale in (("snip", 1), ("random", 0))
        for seed in SEEDS
        for i, name in enumerate(("conv1/kernel", "block/conv2/kernel", "dense/kernel"))
    ],
    "branch seed layer index layer_density",
)
COSTS = frame(
    [
        (branch, seed, mean + 0.01 * (seed - 1), cost)
        for branch, mean, cost in (
            ("dense", 0.9, 0),
            ("random", 0.7, 0),
            ("snip", 0.8, 0.01),
            ("ticket", 0.88, 10.0),
        )
        for seed in SEEDS
    ],
    "branch seed accuracy cost",
)
SCHEDULE = frame(
    [
        ("snip", 0, 0.2),
        ("grasp", 0, 0.2),
        ("ticket", 50, 0.05),
        ("slow", 20, 0.5),
        ("slow", 80, 0.1),
    ],
    "branch step density",
)
CONTROLS = frame(
    [
        ("snip", "reinit", 0.3, False),
        ("snip", "shuffle", -0.02, False),
        ("ticket", "shuffle", -3.14, True),
        ("ticket", "extra_control", NAN, None),
    ],
    "method control difference passes",
)


def named(ax, label):
    return next(line for line in ax.lines if str(line.get_label()).startswith(label))


def labels(ax):
    return [str(line.get_label()) for line in ax.lines]


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


METHODS = "dense ticket magnitude_after_training magnitude snip grasp synflow prospr force random"


def test_methods_look_the_same_in_every_figure_and_unlike_each_other():
    looks = branch_styles(METHODS.split())
    assert all(look == KNOWN[name] for name, look in looks.items())
    pairs = {(look.color, look.marker) for look in KNOWN.values()}
    assert len(pairs) == len({look.color for look in KNOWN.values()} - {*OTHERS}) == len(KNOWN)
    colors = np.array([matplotlib.colors.to_rgb(look.color) for look in looks.values()])
    apart = np.abs(colors[:, None] - colors[None]).sum(-1) + 9 * np.eye(len(colors))
    assert apart.min() > 0.35


def test_controls_of_a_method_have_its_colour_and_dashes_of_their_own():
    names = ["grasp", *(f"grasp_{variant}" for variant in VARIANTS)]
    looks = branch_styles(names)
    assert {look.color for look in looks.values()} == {KNOWN["grasp"].color}
    assert len({str(look.line) for look in looks.values()}) == len(names)
    assert looks["grasp_inverted"].label == "GraSP, inverted"
    # behind their method; a name of its own is no control, nor is that of an unknown branch
    mixed = ["zeta", "random", "grasp_reinit", "grasp_shuffle", "grasp", "zeta_shuffle", "snip"]
    order = ["snip", "grasp", "grasp_shuffle", "grasp_reinit", "random", "zeta", "zeta_shuffle"]
    assert branch_order(mixed, None) == order
    assert branch_styles(["magnitude_after_training"]).popitem()[1].line == "-"
    assert branch_styles(["zeta_shuffle"])["zeta_shuffle"].color in OTHERS
    table = at_steps(["grasp", "grasp_reinit"])
    ax = plots.accuracy_at_step(table)
    assert named(ax, "GraSP, random reinit").get_linestyle() != named(ax, "GraSP").get_linestyle()
    table = table.assign(branch=table["branch"].replace("dense", "ticket"))
    ax = plots.accuracy(table[table["pruned_at"].isin([0, NAN])])
    assert named(ax, "GraSP, random reinit").get_linestyle() == "--"


def test_accuracy_at_step_draws_means_and_the_dense_network():
    ax = plots.accuracy_at_step(TABLE, marks=[500])
    for label, start in (("SNIP", 80), ("global random", 70)):
        line = named(ax, label)
        mean = start + np.array(STEPS) / 200
        np.testing.assert_array_equal(line.get_xdata(), STEPS)
        np.testing.assert_allclose(line.get_ydata(), mean)
        np.testing.assert_allclose(band_of(ax, line), [mean - STD, mean + STD])
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [90, 90])
    (across,) = ax.patches
    assert (across.get_y(), across.get_height()) == pytest.approx((90 - STD, 2 * STD))
    assert named(ax, "dense").get_color() == DENSE
    np.testing.assert_array_equal(named(ax, "_mark").get_xdata(), [500, 500])
    assert ax.get_xlabel() == "Step at which the network is pruned (1k: after training)"
    assert ax.get_ylabel() == "Test accuracy (%)\nat 20% of weights"
    assert legend_texts(ax) == ["dense, mean ± std", "SNIP", "global random"]
    low, high = ax.get_ylim()
    assert low < 70 - STD and 90 + STD < high < 100
    assert ax.get_xlim()[0] < 0 and ax.get_xticklabels()[0].get_text() == "0"


def test_accuracy_at_step_of_one_seed_one_step_and_other_bands():
    one = TABLE[(TABLE["seed"] == 0) & (TABLE["pruned_at"].isin([100, NAN]))]
    ax = plots.accuracy_at_step(one, ylim=(50, 95), legend=False)
    np.testing.assert_allclose(named(ax, "SNIP").get_data(), [[100], [79.5]])
    assert ax.get_ylim() == (50, 95) and ax.get_legend() is None
    assert ax.get_xlabel() == "Step at which the network is pruned"
    ax = plots.accuracy_at_step(TABLE, band="minmax", branches=["snip"])
    np.testing.assert_allclose(band_of(ax, named(ax, "SNIP"))[0], [79, 79.5, 84])
    assert labels(ax) == ["dense, mean ± std", "SNIP"]
    assert not plots.accuracy_at_step(TABLE, band="none").collections


def test_accuracy_at_step_of_several_densities():
    both = pd.concat([TABLE, at_steps(["snip"], level=5, density=0.05)])
    ax = plots.accuracy_at_step(both)
    assert labels(ax)[1:] == ["SNIP, 20%", "SNIP, 5%", "global random, 20%"]
    paler = np.array(named(ax, "SNIP, 5%").get_color()) > named(ax, "SNIP, 20%").get_color()
    assert paler.all()
    ax = plots.accuracy_at_step(both, density=0.051, branches=["snip"])
    assert labels(ax)[1:] == ["SNIP"] and "5% of weights" in ax.get_ylabel()
    with pytest.raises(ValueError, match=r"`density` 0.05 is not in branch 'random', it has 0.2"):
        plots.accuracy_at_step(both, density=0.05)


def test_accuracy_at_step_marks_what_diverged():
    table = TABLE.copy()
    snip = (table["branch"] == "snip") & (table["metric"] == "accuracy")
    table.loc[snip & (table["pruned_at"] == 100) & (table["seed"] == 0), "value"] = NAN
    table.loc[snip & (table["pruned_at"] == 0), "value"] = INF
    ax = plots.accuracy_at_step(table)
    np.testing.assert_allclose(named(ax, "SNIP").get_ydata(), [NAN, 81, 85])
    np.testing.assert_allclose(named(ax, "_diverged").get_data(), [[100], [81]])
    np.testing.assert_array_equal(named(ax, "_lost").get_xdata(), [0])
    assert legend_texts(ax)[-2:] == ["some seeds diverged (1 of 3)", "all seeds diverged"]


def test_accuracy_at_step_of_pruned_networks_that_all_diverged():
    pruned = TABLE["branch"] != "dense"
    ax = plots.accuracy_at_step(TABLE.assign(value=TABLE["value"].where(~pruned)))
    assert labels(ax).count("_lost") == 2 and "all seeds diverged" in legend_texts(ax)
    assert ax.get_ylim()[0] < 89 and ax.get_ylim()[1] > 91


def test_accuracy_at_step_takes_the_dense_network_once():
    # each method's run brings it along, under a name of its own
    dense = TABLE[TABLE["branch"] == "dense"]
    table = pd.concat([TABLE, dense.assign(branch="snip", pruned_at=0)])
    (across,) = plots.accuracy_at_step(table).patches
    assert across.get_height() == pytest.approx(2 * STD)
    other = dense.assign(branch="snip", value=0.5)
    with pytest.raises(ValueError, match="two values of 'value' for seed 0"):
        plots.accuracy_at_step(pd.concat([TABLE, other]))


def test_unit_collapse_draws_shares():
    ax = plots.unit_collapse(UNITS)
    line = named(ax, "SNIP")
    np.testing.assert_allclose(line.get_xdata(), [0, 25, 50, 75, 95, 100])
    np.testing.assert_allclose(line.get_ydata(), [5, 30, 55, 80, 100, 100])
    low, high = band_of(ax, line)
    np.testing.assert_allclose(high - low, [0, 0, 2 * STD, 0, 0, 0], atol=1e-9)
    assert named(ax, "SynFlow").get_ydata()[0] == pytest.approx(30)
    # until the last branch has counted all units
    assert ax.get_xlim()[1] == pytest.approx(95 * 1.01) and ax.get_ylim() == (-2, 102)
    assert ax.get_ylabel() == "Units of density at most $d$ (%)"
    assert plots.unit_collapse(UNITS, xlim=(0, 40)).get_xlim() == (0, 40)
    # never all of them: to the end of the table
    few = UNITS[UNITS["threshold"] <= 0.5]
    assert plots.unit_collapse(few, legend=False).get_xlim()[1] == pytest.approx(50.5)
    # bands end where shares do
    wide = UNITS.assign(share=(UNITS["seed"] == 0).astype(float))
    ax = plots.unit_collapse(wide, branches=["snip"])
    assert np.array(band_of(ax, named(ax, "SNIP"))).min() == 0


def test_unit_collapse_says_what_diverged():
    lost = UNITS.assign(share=UNITS["share"].where(UNITS["seed"] > 0))
    ax = plots.unit_collapse(lost)
    assert legend_texts(ax)[-1] == "some seeds diverged (1 of 3)"
    assert named(ax, "SNIP").get_ydata()[2] == pytest.approx(55.5)


def test_layer_densities_draw_means_over_the_layers():
    ax = plots.layer_densities(LAYERS)
    line = named(ax, "SNIP")
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    np.testing.assert_allclose(line.get_ydata(), [10, 20, 30])
    np.testing.assert_allclose(band_of(ax, line), [[9, 19, 29], [11, 21, 31]])
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] < 9 and ax.get_ylim()[1] > 100
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    assert names == ["conv1", "block/conv2", "dense"]
    assert legend_texts(ax) == ["SNIP", "global random"]
    hidden = plots.layer_densities(LAYERS, names=False, legend=False, band="none")
    assert "conv1" not in [tick.get_text() for tick in hidden.get_xticklabels()]
    assert not hidden.collections and hidden.get_legend() is None


def test_layer_densities_of_many_layers():
    deep = [
        LAYERS.assign(index=LAYERS["index"] + 3 * i, layer=LAYERS["layer"] + str(i))
        for i in range(20)
    ]
    ax = plots.layer_densities(pd.concat(deep))
    assert named(ax, "SNIP").get_marker() == ""
    assert "conv1" not in "".join(tick.get_text() for tick in ax.get_xticklabels())


def test_layer_densities_mark_empty_layers_at_the_lower_edge():
    table = LAYERS.copy()
    table.loc[table["index"] == 1, "layer_density"] = 0.0
    some = (table["index"] == 2) & (table["seed"] == 0) & (table["branch"] == "snip")
    table.loc[some, "layer_density"] = 0.0
    ax = plots.layer_densities(table)
    np.testing.assert_allclose(named(ax, "SNIP").get_ydata(), [10, NAN, (30 + 31) / 3])
    filled = [line for line in ax.lines if line.get_label() == "_empty"]
    heights = [line.get_ydata()[0] for line in filled]
    assert [line.get_xdata().tolist() for line in filled] == [[1], [1]]
    assert 0 < heights[0] < heights[1] < 0.1
    hollow = named(ax, "_partly")
    np.testing.assert_allclose(hollow.get_data(), [[2], [heights[0]]])
    assert hollow.get_markerfacecolor() == "white"
    assert legend_texts(ax)[-2:] == ["layer empty", "empty for some seeds"]
    # no point stands so low
    axes = ax.transAxes.inverted().transform(ax.transData.transform([(0, 9.0)]))
    assert axes[0, 1] > heights[1]


def test_layer_densities_say_what_diverged():
    table = LAYERS.copy()
    snip = table["branch"] == "snip"
    table.loc[snip & (table["index"] == 0), "layer_density"] = NAN
    table.loc[snip & (table["index"] == 2) & (table["seed"] == 0), "layer_density"] = NAN
    ax = plots.layer_densities(table)
    np.testing.assert_array_equal(named(ax, "_lost").get_xdata(), [0])
    np.testing.assert_allclose(named(ax, "_diverged").get_data(), [[2], [30.5]])
    assert legend_texts(ax)[-2:] == ["some seeds diverged (1 of 3)", "all seeds diverged"]


def test_accuracy_against_cost_names_the_markers():
    ax = plots.accuracy_against_cost(COSTS)
    np.testing.assert_allclose(named(ax, "SNIP").get_data(), [[0.01], [80]])
    np.testing.assert_allclose(named(ax, "IMP ticket").get_data(), [[10], [88]])
    np.testing.assert_allclose(named(ax, "dense").get_ydata(), [90, 90])
    texts = {text.get_text(): text for text in ax.texts}
    assert set(texts) == {"SNIP", "IMP ticket", "global random"}
    assert texts["SNIP"].get_color() == KNOWN["snip"].color
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert legend_texts(ax) == ["dense, mean ± std"]
    assert ax.get_xlabel() == "Cost of finding the mask (dense trainings)"
    bars = [bar for bar in ax.collections if np.ptp(bar.get_segments()[0][:, 1]) > 0]
    lengths = [np.ptp(bar.get_segments()[0][:, 1]) for bar in bars]
    np.testing.assert_allclose(lengths, [2 * STD] * 3)


def test_what_costs_nothing_stands_left_of_a_break():
    ax = plots.accuracy_against_cost(COSTS)
    (nothing,) = named(ax, "global random").get_xdata()
    broken = named(ax, "_break").get_xdata()
    assert ax.get_xlim()[0] < nothing < broken.min() < broken.max() < 0.01
    ticks = dict(zip(ax.get_xticks(), (t.get_text() for t in ax.get_xticklabels()), strict=True))
    assert ticks.pop(nothing) == "0"
    assert all(at > broken.max() and float(text) == pytest.approx(at) for at, text in ticks.items())
    without = plots.accuracy_against_cost(COSTS, branches=["snip", "ticket"], unit="FLOPs")
    assert "_break" not in labels(without) and without.get_xscale() == "log"
    assert without.get_xlabel() == "Cost of finding the mask (FLOPs)"
    # only such methods
    ax = plots.accuracy_against_cost(COSTS, branches=["random"])
    assert ax.get_xlim()[0] < named(ax, "global random").get_xdata()[0] < ax.get_xlim()[1]


def test_accuracy_against_cost_without_room_and_with_a_legend():
    crowd = [COSTS[COSTS["branch"] == "snip"].assign(branch=f"method_{i}") for i in range(14)]
    ax = plots.accuracy_against_cost(pd.concat(crowd))
    named_directly = [text.get_text() for text in ax.texts]
    assert sorted([*named_directly, *legend_texts(ax)]) == sorted(f"method {i}" for i in range(14))
    assert legend_texts(ax)
    ax = plots.accuracy_against_cost(COSTS, legend=True, band="none", ylim=(60, 95))
    assert not ax.texts and not ax.collections and ax.get_ylim() == (60, 95)
    assert legend_texts(ax)[:3] == ["IMP ticket", "SNIP", "global random"]


def test_accuracy_against_cost_says_what_diverged():
    table = COSTS.copy()
    table.loc[(table["branch"] == "snip") & (table["seed"] == 0), "accuracy"] = NAN
    table.loc[table["branch"] == "random", "accuracy"] = NAN
    ax = plots.accuracy_against_cost(table)
    np.testing.assert_allclose(named(ax, "SNIP").get_ydata(), [80.5])
    assert named(ax, "SNIP").get_markerfacecolor() == "white"
    assert named(ax, "global random").get_marker() == "x"
    assert legend_texts(ax)[-2:] == ["some seeds diverged (1 of 3)", "all seeds diverged"]


def test_density_schedule_draws_stairs():
    ax = plots.density_schedule(SCHEDULE, steps=100, retroactive=["ticket"])
    slow = named(ax, "slow")
    np.testing.assert_allclose(slow.get_data(), [[0, 20, 80, 100], [100, 50, 10, 10]])
    assert slow.get_drawstyle() == "steps-post"
    ticket = named(ax, "IMP ticket")
    assert ticket.get_label() == "IMP ticket (found afterwards)"
    assert ticket.get_linestyle() == "--"
    np.testing.assert_allclose(ticket.get_data(), [[0, 50, 100], [100, 5, 5]])
    assert ax.get_xlabel() == "Share of training (%)" and ax.get_yscale() == "log"
    low, high = ax.get_ylim()
    assert low < 5 and high > 100
    # what coincides stands side by side, a point or so apart
    up = [named(ax, label).get_transform().transform((0, 20))[1] for label in ("SNIP", "GraSP")]
    true = ax.transData.transform((0, 20))[1]
    assert up[0] - true == pytest.approx(true - up[1]) and 0 < up[0] - up[1] < 2.5 * 200 / 72
    ax = plots.density_schedule(SCHEDULE, branches=["snip", "slow"], legend=False)
    assert ax.get_xlabel() == "Training step" and named(ax, "slow").get_xdata()[-1] == 80
    assert named(ax, "SNIP").get_transform().transform((0, 20))[1] == pytest.approx(
        ax.transData.transform((0, 20))[1]
    )


def test_controls_are_a_matrix():
    ax = plots.controls(CONTROLS, verdicts=("needed", "not needed"))
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {
        (0, 0): "−3.1 ✓",
        (1, 0): "–",
        (2, 0): "diverged",
        (0, 1): "0.0 ✗",
        (1, 1): "+0.3 ✗",
        (2, 1): "–",
    }
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert rows == ["IMP ticket", "SNIP"]
    heads = [tick.get_text() for tick in ax.get_xticklabels()]
    assert heads == ["layerwise\nshuffle", "random\nreinit", "extra\ncontrol"]
    faces = {patch.get_xy(): patch.get_facecolor()[:3] for patch in ax.patches}
    for place, verdict in (((-0.5, -0.5), True), ((0.5, 0.5), False), ((1.5, -0.5), None)):
        assert faces[place] == matplotlib.colors.to_rgb(FACES[verdict])
    assert legend_texts(ax) == ["needed ✓", "not needed ✗", "not judged"]
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
    ax = plots.controls(CONTROLS.assign(std=0.25, passes=1.0), methods=["snip"])
    assert [text.get_text() for text in ax.texts] == ["0.0 ± 0.2 ✓", "+0.3 ± 0.2 ✓"]
    assert plots.controls(CONTROLS, pyplot.figure().subplots()).get_legend() is None


DRAWN = {
    "accuracy_at_step": (plots.accuracy_at_step, TABLE, "branches", "value"),
    "unit_collapse": (plots.unit_collapse, UNITS, "branches", "share"),
    "layer_densities": (plots.layer_densities, LAYERS, "branches", "layer_density"),
    "accuracy_against_cost": (plots.accuracy_against_cost, COSTS, "branches", "accuracy"),
    "density_schedule": (plots.density_schedule, SCHEDULE, "branches", "density"),
    "controls": (plots.controls, CONTROLS, "methods", "difference"),
}
of_all = pytest.mark.parametrize("draw, table, names, value", DRAWN.values(), ids=DRAWN)


@of_all
def test_errors_of_all(draw, table, names, value):
    first = table.columns[0]
    twice = pd.concat([table, table.assign(**{value: 0.123})])
    for wrong, options, message in [
        (table.drop(columns=[first]), {}, rf"`table` lacks the columns \['{first}'\], it has"),
        (table.iloc[:0], {}, r"`table` is empty \(0 rows\); it needs a row for"),
        ([1], {}, "`table` must be a DataFrame with a row for .*, got list"),
        (table, {"ax": [1]}, "`ax` must be one matplotlib Axes or None, got list"),
        (table, {names: []}, f"`{names}` is empty"),
        (table, {names: ["snp"]}, f"`{names}` has 'snp', `table` does not; did you mean 'snip'"),
        (twice, {}, f"`table` has two values of '{value}' for "),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(wrong, **options)
    # what is there twice, word for word, is there once
    assert draw(pd.concat([table, table])) is not None


@of_all
def test_given_axes_are_used_and_the_style_is_left_behind(draw, table, names, value):
    before = dict(matplotlib.rcParams)
    figure, ax = pyplot.subplots()
    assert draw(table, ax) is ax
    assert pyplot.get_fignums() == [figure.number]
    assert dict(matplotlib.rcParams) == before
    new = draw(table, legend=False).figure
    assert (tuple(new.get_size_inches()), new.dpi) == ((4.8, 3.4), 200)
    # a table that holds one seed
    if "seed" in table:
        assert draw(table[table["seed"] == 0]) is not None


PRUNED = TABLE["branch"] != "dense"
NO_STEP = TABLE[TABLE["pruned_at"] != 0].replace({"pruned_at": {100: NAN}})


@pytest.mark.parametrize(
    ("name", "table", "options", "message"),
    [
        (
            "accuracy_at_step",
            TABLE,
            {"band": "sd"},
            "`band` must be one of 'std', 'minmax', 'none'",
        ),
        ("accuracy_at_step", TABLE, {"ylim": (3, 1)}, "`ylim` must be"),
        (
            "accuracy_at_step",
            TABLE,
            {"split": "tst"},
            "`split` 'tst' has no accuracy in `table`; did",
        ),
        ("accuracy_at_step", TABLE, {"marks": [2000]}, "`marks` has 2000, outside .* 0 to 1000"),
        ("accuracy_at_step", TABLE[PRUNED], {}, "no dense network .branch 'dense', or rows with"),
        ("accuracy_at_step", TABLE[~PRUNED], {}, "`table` holds the dense network only"),
        (
            "accuracy_at_step",
            TABLE.assign(value=NAN),
            {},
            "has 3 dense networks and all of them div",
        ),
        ("accuracy_at_step", NO_STEP, {}, "whose `pruned_at` is no step"),
        ("unit_collapse", UNITS, {"band": "sd"}, "`band` must be one of"),
        ("unit_collapse", UNITS, {"xlim": (5, 5)}, r"`xlim` must be .*, got \(5, 5\)"),
        (
            "unit_collapse",
            UNITS.assign(threshold=50),
            {},
            r"'threshold' 50; it is a share, in \[0, 1",
        ),
        ("unit_collapse", UNITS.assign(share=-1), {}, r"'share' -1; it is a share, in \[0, 1\]"),
        ("unit_collapse", UNITS.assign(share=NAN), {}, "no finite value to draw: every seed div"),
        ("layer_densities", LAYERS, {"band": "sd"}, "`band` must be one of"),
        ("layer_densities", LAYERS.assign(layer_density=2), {}, "'layer_density' 2; it is a share"),
        ("layer_densities", LAYERS.assign(layer_density=0), {}, "no layer with weights left"),
        ("layer_densities", LAYERS.assign(layer_density=NAN), {}, "no layer with weights left"),
        (
            "layer_densities",
            LAYERS.assign(layer="a"),
            {},
            "`table` has layer 'a' at index 1, but t",
        ),
        ("accuracy_against_cost", COSTS, {"band": "sd"}, "`band` must be one of"),
        ("accuracy_against_cost", COSTS, {"ylim": (3, 1)}, "`ylim` must be"),
        ("accuracy_against_cost", COSTS.assign(accuracy=90), {}, "'accuracy' 90; it is a share"),
        ("accuracy_against_cost", COSTS.assign(accuracy=NAN), {}, "no finite value to draw"),
        (
            "accuracy_against_cost",
            COSTS.assign(cost=-1),
            {},
            "'cost' -1; a cost is a finite number",
        ),
        ("accuracy_against_cost", COSTS.assign(cost=NAN), {}, "'cost' nan; a cost is a finite"),
        ("accuracy_against_cost", COSTS[:3], {}, "`table` holds the dense network only"),
        (
            "accuracy_against_cost",
            COSTS,
            {"branches": ["dense"]},
            "`branches` has the dense network",
        ),
        ("density_schedule", SCHEDULE, {"steps": 70}, "steps from 0 to 80, .* to `steps` 70; give"),
        ("density_schedule", SCHEDULE[3:].assign(step=[-1, 5]), {}, "steps from -1 to 5"),
        ("density_schedule", SCHEDULE[:2], {}, "steps from 0 to 0, .* `steps` None; give"),
        ("density_schedule", SCHEDULE.assign(density=0), {}, r"'density' 0; .* in \(0, 1\]"),
        ("density_schedule", SCHEDULE, {"retroactive": ["tikket"]}, "`retroactive` has 'tikket'"),
        ("controls", CONTROLS, {"verdicts": "passes"}, "`verdicts` must be two words, .*'passes'"),
        (
            "controls",
            CONTROLS.assign(passes="yes"),
            {},
            "has 'passes' 'yes' for 'snip' and 'reinit'",
        ),
    ],
)
def test_other_errors(name, table, options, message):
    with pytest.raises(ValueError, match=message):
        DRAWN[name][0](table, **options)
