"""Panels that are compared have equal axes."""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

import jaxticket as jt
from experiments.common import report, scored, transfer


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def finals(values, levels=3):
    """Final accuracies of two seeds by branch and level, as a table of runs."""
    rows = []
    for (branch, own), level, seed in itertools.product(values.items(), range(levels), (0, 1)):
        if level and branch == "dense":
            continue
        if level or branch == "dense":
            name = "ticket" if branch == "dense" else branch
            value = own(level) + 0.002 * seed
            rows.append((seed, level, 0.4**level, name, 10, "test", "accuracy", value))
    columns = ["seed", "level", "density", "branch", "step", "split", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


HIGH = finals(
    {"dense": lambda n: 0.98, "ticket": lambda n: 0.97, "random": lambda n: 1.15 - 0.2 * n}
)
LOW = finals(
    {"dense": lambda n: 0.9, "ticket": lambda n: 0.85, "random": lambda n: 1.15 - 0.3 * n}, 4
)


def exits(ax):
    return [line.get_xdata().tolist() for line in ax.lines if line.get_label() == "_exit"]


def test_panels_drawn_alike_have_equal_axes_and_mark_what_leaves_them():
    with jt.plots.style():
        _, axes = report.grid(2, 2, (3.0, 3.0))
        draw = functools.partial(jt.plots.accuracy, legend=False)
        report.draw_alike(axes, [functools.partial(draw, table) for table in (HIGH, LOW)])
        alone = [draw(table) for table in (HIGH, LOW)]
    first, second = axes
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim()
    assert alone[0].get_ylim() != alone[1].get_ylim()
    for ax in alone:
        assert first.get_ylim()[0] <= ax.get_ylim()[0] and ax.get_ylim()[1] <= first.get_ylim()[1]
        assert first.get_xlim()[0] >= ax.get_xlim()[0] and ax.get_xlim()[1] >= first.get_xlim()[1]
    # the line of HIGH leaves its panel later than it would leave its own axes
    for ax, other, table in zip(axes, alone, (HIGH, LOW), strict=True):
        ((x,),) = exits(ax)
        means = table[table["branch"] == "random"].groupby("level")[["density", "value"]].mean()
        at = np.interp(-np.log(x / 100), -np.log(means["density"]), 100 * means["value"])
        assert at == pytest.approx(ax.get_ylim()[0])
        assert (x < exits(other)[0][0]) == (ax.get_ylim()[0] < other.get_ylim()[0])


def test_panels_of_other_groups_have_axes_of_their_own():
    tables = {"mnista": HIGH, "cifar10": LOW, "mnistb": HIGH.assign(value=HIGH["value"] - 0.05)}
    figure = transfer.by_density(
        transfer.Moved(pd.DataFrame(), tables), lambda name: name.rstrip("ab")
    )
    a, other, b = figure.axes
    assert a.get_ylim() == b.get_ylim() != other.get_ylim()
    assert [ax.get_title() for ax in figure.axes] == list(tables)


def test_panels_of_methods_show_all_but_what_is_inverted():
    names = {"snip": 0.9, "snip_shuffle": 0.8, "snip_inverted": 0.2, "grasp": 0.6}
    means = {name: lambda level, value=value: value for name, value in names.items()}
    figure = scored.panels(("snip", "grasp"), finals({"dense": lambda n: 0.95, **means}))
    first, second = figure.axes
    low, high = first.get_ylim()
    assert first.get_ylim() == second.get_ylim() and 50 < low < 60 and 95.2 < high < 100
    assert len(exits(first)) == 1 and not exits(second)


def test_a_method_that_falls_far_below_all_others_leaves_the_panels():
    names = {f"snip{end}": 0.9 for end in ("", "_shuffle", "_reinit")}
    means = {name: lambda level, value=value: value for name, value in names.items()}
    # but at the sparsest level it is among the others
    means["grasp"] = lambda level: 0.91 if level < 6 else 0.3
    figure = scored.panels(("snip", "grasp"), finals({"dense": lambda n: 0.95, **means}, 7))
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] > 80
    assert len(exits(second)) == 1 and not exits(first)


@pytest.mark.parametrize("width", (4.2, 8.4))
def test_a_legend_above_panels_stays_inside_of_the_figure(width):
    # as many letters as three columns of 4.2 inches hold, but the longest are in one each
    labels = ["dense", "unmodified", "inverted", "random reinit", "layerwise shuffle",
              "matching (within 0.2 points)", "bands: least to greatest seed"]  # fmt: skip
    with jt.plots.style():
        figure, ax = report.single(width, 3.0)
        for label in labels:
            ax.plot([0, 1], [0, 1], label=label)
        report.shared_legend(figure, [ax])
        figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert report.legend_columns(labels, width) > 1
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
