"""Figures say what they show: levels and branches, what bands are, and axes that are no scale."""

import numpy as np
from figures import RUN, all_named, legend_texts

from jaxticket import plots
from jaxticket.analysis import stats

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
