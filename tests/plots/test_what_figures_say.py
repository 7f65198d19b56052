"""Figures say what they show: levels and branches, what bands are, and axes that are no scale."""

import figures as f
import numpy as np
from figures import RUN, TABLE, all_named, legend_texts

from jaxticket import plots
from jaxticket.analysis import stats

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
