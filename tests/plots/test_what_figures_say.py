"""Figures say what they show: levels and branches, what bands are, and axes that are no scale."""

import inspect

import figures as f
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import FIGURES, NAN, RUN, TABLE, all_named, band_of, legend_texts, named

from jaxticket import plots
from jaxticket.analysis import stats
from jaxticket.plots._table import possible, spread

STD, MINMAX = "mean ± std over", "least to greatest"


def title_of(ax):
    return ax.get_legend().get_title().get_text()


# levels, branches, steps and networks


CHOOSING = ("instability", "error", "distance", "path", "path of steps", "throughout",
            "reliability", "separation", "robustness")  # fmt: skip
ALONE = ("spectral_density", "smoothness", "loss_cuts")


@pytest.mark.parametrize(
    ("name", "chosen"), [(one, "16.8%") for one in CHOOSING] + [(one, "50%") for one in ALONE]
)
def test_a_figure_at_one_level_states_its_density_and_names_the_others(name, chosen):
    figure = FIGURES[name]
    table = figure.table
    if name in ALONE:
        table = pd.concat([table.assign(level=table["level"] + 1), table.assign(density=0.41)])
    said = legend_texts(figure(table))
    assert "not drawn: 41%" in said
    assert [one for one in said if f", {chosen}" in one], said
    # who asks for a level knows
    level = int(table["level"].max())
    assert not [one for one in legend_texts(figure(table, level=level)) if "not drawn" in one]


def test_figures_of_several_tables_name_the_levels_that_they_leave_out():
    assert "not drawn: 41%" in legend_texts(f.REWINDING(f.STATES, f.COPIES, TABLE))
    (legend,) = f.BOTH(TABLE, f.COPIES)[0].figure.legends
    assert [text.get_text() for text in legend.get_texts()].count("not drawn: 41%") == 1
    # panels that share a legend have it too
    labels = plots.instability(TABLE, legend=False).get_legend_handles_labels()[1]
    assert "not drawn: 41%" in labels and f"bands: {STD} copies" in labels


def test_controls_at_level_zero_are_no_density_that_is_left_out():
    control = TABLE[(TABLE["branch"] == "random") & (TABLE["level"] == TABLE["level"].max())]
    own = TABLE[TABLE["level"].isin([0, TABLE["level"].max()])]
    both = pd.concat([own, control.assign(level=0, density=1.0)])
    assert not [text for text in legend_texts(plots.instability(both)) if "not drawn" in text]


def test_what_is_left_out_is_named_or_counted():
    tickets = TABLE[(TABLE["branch"] == "ticket") & (TABLE["level"] == 8)]
    few = [TABLE, *(tickets.assign(level=n, density=0.8**n) for n in (2, 3))]
    assert "not drawn: 64%, 51.2%, 41%" in legend_texts(plots.instability(pd.concat(few)))
    many = [*few, tickets.assign(level=5, density=0.8**5)]
    assert "not drawn: 4 other densities" in legend_texts(plots.instability(pd.concat(many)))
    # random has no level 4
    assert "not drawn: global random" in legend_texts(plots.instability(TABLE, level=4))
    # of branches that were not asked for nothing is said
    random = plots.instability(TABLE, branches=["random"])
    assert not [one for one in legend_texts(random) if "not drawn" in one]
    assert not [one for one in legend_texts(plots.instability(TABLE, level=0)) if "drawn" in one]


def test_lines_of_one_branch_have_its_name_as_the_title_of_the_legend():
    ticket = "IMP ticket, 16.8%"
    assert title_of(plots.path(f.PATHS, branches=["ticket"])) == ticket
    assert title_of(plots.throughout(f.DURING, branches=["ticket"])) == ticket
    assert title_of(plots.against_density(TABLE)) == "IMP ticket"
    assert title_of(plots.curves(RUN)) == "Density, IMP ticket"
    assert title_of(plots.curves(RUN, branches=["ticket", "reinit"])) == "Density, network"
    assert title_of(plots.throughout(f.DURING)) == ""
    # and lines of one of several steps have that
    assert title_of(plots.path(f.PATHS, at=100)) == "$k$ = 100"
    assert title_of(plots.path(f.PATHS[f.PATHS["at"] == 100])) == ""


def test_levels_that_are_chosen_evenly_are_counted():
    many = f.run({"ticket": lambda level: 0.98}, levels=22)
    assert title_of(plots.curves(many)) == "Density (5 of 22), IMP ticket"
    watched = f.telemetry(["ticket"], range(9))
    assert title_of(plots.telemetry(watched)) == "Density (5 of 9), IMP ticket"


def test_maps_name_their_branch_or_density():
    assert plots.heat_map(TABLE).get_title() == "IMP ticket (1 of 2 branches)"
    assert plots.heat_map(TABLE, branch="random").get_title() == "global random (1 of 2 branches)"
    alone = TABLE[TABLE["branch"] == "ticket"]
    assert plots.heat_map(alone).get_title() == ""
    # a title of the user's stays where there is nothing to say
    ax = plt.figure().add_subplot()
    ax.set_title("mine")
    assert plots.heat_map(alone, ax).get_title() == "mine"
    other = f.TRANSFERS.assign(level=0, density=0.5)
    both = plots.transfer_matrix(pd.concat([f.TRANSFERS, other]))
    assert both.get_title() == "20% of weights (1 of 2 densities)"


def test_figures_of_one_network_say_which():
    assert plots.loss_contours(f.SURFACES).get_title() == "IMP ticket, 50%, seed 0"
    surface = plots.loss_surface(f.SURFACES, branch="reinit", seed=2)
    assert surface.get_title() == "random reinit, 50%, seed 2"
    one = f.SURFACES[(f.SURFACES["branch"] == "ticket") & (f.SURFACES["seed"] == 0)]
    assert plots.loss_contours(one).get_title() == ""
    rows = [(0, n, "ticket", i, i % 2, float(i), -n * i) for n in (0, 1) for i in range(6)]
    table = f.frame("seed level branch example label x y", rows)
    assert plots.features(table).get_title() == "IMP ticket, level 1"
    assert plots.features(table, level=0).get_title() == "dense"


def test_an_entry_of_an_array_is_named():
    ax = plots.measured(f.MEASURED, metric="eigenvalue", index=1)
    assert "entry 1" in ax.get_ylabel()
    assert "entry" not in FIGURES["measured"]().get_ylabel()


def test_the_dense_network_of_one_of_several_steps_says_which():
    assert "dense at $k$ = 0, mean ± std" in legend_texts(plots.error(f.COPIES))
    one = f.COPIES[f.COPIES["at"] == 100]
    assert "dense, mean ± std" in legend_texts(plots.error(one))


def test_controls_of_a_branch_have_line_styles_of_their_own():
    """Their color and marker are those of the branch."""
    names = {"ticket": "ticket", "random": "ticket_shuffle"}
    table = TABLE.assign(branch=TABLE["branch"].replace(names))
    ax = plots.instability(table)
    first, second = (named(ax, one) for one in ("IMP ticket, 16.8%", "IMP ticket, layerwise"))
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    paths = f.PATHS.assign(branch=f.PATHS["branch"].replace(names))
    ax = plots.path(paths, at=0)
    first, second = (named(ax, one) for one in ("IMP ticket, 16.8%", "IMP ticket, layerwise"))
    assert first.get_linestyle() != second.get_linestyle()
    # whose the dots would be nobody could tell
    assert not all_named(ax, "_threshold")


# thresholds


def dots(table, **options):
    ax = plots.path(table, **options)
    return ax, all_named(ax, "_threshold")


def test_each_line_of_a_color_of_its_own_has_a_threshold_and_others_have_none():
    ax, found = dots(f.PATHS, at=100)
    heights = {tuple(f.color_of(line)): line.get_ydata()[0] for line in found}
    assert len(heights) == len(found) == 3
    for name in ("dense", "IMP ticket, 16.8%", "global random, 16.8%"):
        line = named(ax, name)
        wanted = line.get_ydata()[[0, -1]].mean() + 2
        assert heights[tuple(f.color_of(line))] == pytest.approx(wanted)
    assert legend_texts(ax).count("mean of ends + 2 points, same color") == 1
    # several branches share the colors of steps
    ax, found = dots(f.PATHS)
    assert not found and not [one for one in legend_texts(ax) if "mean of ends" in one]
    assert len(dots(f.PATHS, branches=["ticket"])[1]) == 3
    ax, found = dots(f.PATHS, branches=["ticket"], at=0)
    assert len(found) == 1 and "mean of ends + 2 points" in legend_texts(ax)
    # nor are colors of many steps told apart
    many = f.on_paths(at=range(0, 1000, 100))
    assert not dots(many, branches=["ticket"])[1]


def test_thresholds_look_unlike_lines():
    _, found = dots(f.PATHS, at=100)
    (dashes,) = {str(line._unscaled_dash_pattern) for line in found}
    every = plots.path(f.PATHS)
    other = {str(line._unscaled_dash_pattern) for line in every.lines}
    assert len(other) == 3 and dashes not in other
    thin, usual = found[0].get_linewidth(), named(every, "_dense 0").get_linewidth()
    assert thin < usual


# bands


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("accuracy", f"bands: {MINMAX} seed"),
        ("curves", f"bands: {MINMAX} seed"),
        ("telemetry", f"bands: {MINMAX} seed"),
        ("layer_densities", f"bands: {MINMAX} seed"),
        ("spectral_density", f"bands: {MINMAX} seed"),
        ("smoothness", f"bands: {MINMAX} step length"),
        ("first_steps", f"bands: {MINMAX} copy"),
        ("accuracy_at_step", f"bands: {STD} seeds"),
        ("unit_collapse", f"bands: {STD} seeds"),
        ("measured", f"bands: {STD} seeds"),
        ("robustness", f"bands: {STD} seeds"),
        ("loss_cuts", f"bands: {STD} seeds"),
        ("accuracy_against_cost", f"bars: {STD} seeds"),
        ("reliability", f"bars: {STD} seeds"),
        ("separation", f"bars: {STD} seeds"),
        ("instability", f"bands: {STD} copies"),
        ("error", f"bands: {STD} copies"),
        ("distance", f"bands: {STD} copies"),
        ("path", f"bands: {STD} copies"),
        ("throughout", f"bands: {STD} copies"),
        ("against_density", f"bands: {STD} copies"),
    ],
)
def test_the_legend_says_what_bands_are(name, text):
    figure = FIGURES[name]
    said = [one for one in legend_texts(figure()) if one.startswith(("bands: ", "bars: "))]
    assert said == [text]
    options = inspect.signature(figure.draw).parameters
    if "band" not in options:
        return
    kind = text.partition(":")[0]
    for band, extent in (("std", STD), ("minmax", MINMAX)):
        assert [
            one for one in legend_texts(figure(band=band)) if one.startswith(f"{kind}: {extent}")
        ]
    none = figure(band="none").get_legend()
    assert none is None or not [
        one for one in none.get_texts() if one.get_text().startswith(("bands: ", "bars: "))
    ]
    # of one seed and copy there is none
    table = figure.table[figure.table["seed"] == 0]
    table = table[table["pair"] == "0-1"] if "pair" in table else table
    table = table[table["copy"] == 0] if "copy" in table else table
    legend = figure(table).get_legend()
    assert legend is None or not [
        one for one in legend.get_texts() if one.get_text().startswith(("bands: ", "bars: "))
    ]


def test_every_figure_with_bands_is_tried():
    (mark,) = test_the_legend_says_what_bands_are.pytestmark
    tried = {name for name, _ in mark.args[1]}
    banded = {name for name, one in FIGURES.items()
              if "band" in inspect.signature(one.draw).parameters}  # fmt: skip
    # corruption_errors has a file of its own
    assert banded - tried == {"early_stop", "path of steps"}


def test_points_and_bars_are_called_bars():
    assert f"bars: {MINMAX} seed" in legend_texts(plots.accuracy(RUN, band="bars"))
    assert f"bars: {STD} copies" in legend_texts(plots.instability(TABLE[TABLE["at"] == 100]))


def wide(table, low, high):
    """Samples at `low` and at `high`, one of nine of them there."""
    first = (table["seed"] == 0) & (table.get("pair", table.get("copy")).isin(["0-1", 0]))
    return table.assign(value=np.where(first, high, low))


@pytest.mark.parametrize("draw", [plots.instability, plots.against_density])
def test_bands_of_barriers_end_at_0_and_100(draw):
    for table, edge, end in ((wide(TABLE, 0.001, 0.1), 0, min), (wide(TABLE, 0.99, 0.6), 100, max)):
        ax = draw(table)
        values = 100 * np.sort(table[table["metric"] == "barrier"]["value"])
        mean, std = values.mean(), values.std(ddof=1)
        # or the band would end there by itself
        assert (mean - std < 0) if edge == 0 else (mean + std > 100)
        line = named(ax, "IMP ticket" if draw is plots.instability else "_ticket 0")
        assert end(np.concatenate(band_of(ax, line))) == edge
        assert not [one for one in ax.patches if one.get_hatch()]


def test_bands_end_where_other_values_do():
    low = f.run({"ticket": lambda level: 0.999 + 0.0003 * level})
    low["value"] = low["value"].clip(upper=1.0)
    # accuracies
    ax = plots.accuracy(low, band="std")
    assert max(np.concatenate(band_of(ax, named(ax, "IMP ticket")))) == pytest.approx(100)
    assert ax.patches[0].get_y() + ax.patches[0].get_height() <= 100 + 1e-9
    # errors of copies, and distances
    copies = wide(f.COPIES, 0.001, 0.1)
    ax = plots.error(copies)
    assert min(np.concatenate(band_of(ax, named(ax, "IMP ticket")))) == 0
    ax = plots.distance(wide(TABLE, 0.01, 1.0))
    assert min(np.concatenate(band_of(ax, named(ax, "IMP ticket")))) == 0
    ax = plots.path(f.PATHS.assign(value=np.where(f.PATHS["seed"] == 0, 0.1, 0.0)), at=0)
    assert min(np.concatenate(band_of(ax, named(ax, "dense")))) == 0
    # another number may be negative, and so may a loss of one's own
    rows = pd.DataFrame({"x": 0, "value": [0.0, 0.0, 9.0]})
    for metric, values, lowest in (("mine", [0, 0, 9], -2.2), ("loss", [0, 0, 9], 0.0),
                                   ("loss", [-1, 0, 10], -3.1)):  # fmt: skip
        own = rows.assign(value=np.array(values, float))
        found = spread(own, "x", "std", possible(metric, own))["low"][0]
        assert found == pytest.approx(lowest, abs=0.05)
    assert possible("error", rows.assign(value=[NAN, 5.0, 99.0])) == (0, 100)
    assert possible("mask_iou", rows.assign(value=[0.5, 1.0, 0.1])) == (0, 1)


def test_similarities_may_be_negative():
    """Of telemetry "cosine" is one; between copies it is a distance, which may not."""
    table = f.telemetry(["ticket"], [1])
    start = table["seed"] == table["seed"].min()
    table = table.assign(value=np.where(start, 0.9, 0.01))
    ax = plots.telemetry(table, metric="cosine", band="std")
    low, high = band_of(ax, ax.lines[0])
    assert np.min(low) < 0 and np.max(high) <= 1


# axes


def test_axes_of_steps_say_that_they_are_not_to_scale():
    for ax in (plots.instability(TABLE), plots.error(f.COPIES), plots.distance(TABLE),
               f.REWINDING(f.STATES, f.COPIES, TABLE), *f.BOTH(TABLE, f.COPIES)):  # fmt: skip
        assert ax.get_xlabel() == "Step $k$ at which copies part, not to scale"
    assert plots.accuracy_at_step(f.STEPS).get_xlabel().endswith("not to scale")
    assert plots.first_steps(f.FIRST).get_ylabel() == "First step $k$, not to scale"
    # two steps are, and so are steps at even distances
    two = TABLE[TABLE["at"] > 0]
    assert plots.instability(two).get_xlabel() == "Step $k$ at which copies part"
    even = TABLE.assign(at=TABLE["at"].replace({1000: 200}))
    assert plots.instability(even).get_xlabel() == "Step $k$ at which copies part"


def test_labels_of_axes_are_not_cut_off():
    for ax in (*f.BOTH(TABLE, f.COPIES), plots.accuracy_at_step(f.STEPS)):
        ax.figure.draw_without_rendering()
        box = ax.xaxis.label.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= ax.figure.bbox.x1
    axes = f.BOTH(TABLE, f.COPIES)
    axes[0].figure.draw_without_rendering()
    left, right = (ax.xaxis.label.get_window_extent() for ax in axes)
    assert left.x1 < right.x0


# the margin of matching means


def test_the_legend_says_where_one_example_is_the_margin():
    said = legend_texts(plots.accuracy(RUN, test_size=397))
    assert "matching (within 0.25 points, one example)" in said
    for options in ({}, {"test_size": 10_000}):
        assert "matching (within 0.2 points)" in legend_texts(plots.accuracy(RUN, **options))
    # rings are those of the judgment
    judged = stats.matching(RUN, test_size=100)
    judged = judged[judged["matching"] & (judged["level"] > 0)]
    ringed = all_named(plots.accuracy(RUN, test_size=100), "_matching")
    found = sorted(x for line in ringed for x in line.get_xdata())
    np.testing.assert_allclose(found, sorted(100 * judged["density"]))
