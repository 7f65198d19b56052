"""Figures say what they show: levels and branches, what bands are, and axes that are no scale."""

import figures as f
import numpy as np
import pandas as pd
import pytest
from figures import RUN, TABLE, all_named, legend_texts, named

from jaxticket import plots
from jaxticket.analysis import stats


def test_maps_name_their_branch_or_density():
    assert plots.heat_map(TABLE).get_title() == "IMP ticket (1 of 2 branches)"
    assert plots.heat_map(TABLE, branch="random").get_title() == "global random (1 of 2 branches)"
    assert plots.heat_map(TABLE[TABLE["branch"] == "ticket"]).get_title() == ""
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
