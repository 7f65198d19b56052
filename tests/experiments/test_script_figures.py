"""Figures of scripts say what they show: drawn from made-up tables, nothing is trained."""

import itertools
import types

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from test_panels import finals

import jaxticket as jt
from experiments import leaderboard
from experiments.common import transfer
from experiments.common.report import lost_classes, near_dense
from experiments.concrete import balance
from experiments.kd_lts import activations, against_rewinding, explanations, surfaces, verdicts
from experiments.kd_lts import transfer as moved_by_kd_lts
from experiments.mask_rules import figure_5_1
from experiments.one_ticket import data_sets
from experiments.supermasks import accuracy as supermasks

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def table(columns, rows):
    return pd.DataFrame(list(rows), columns=columns.split())


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_figures_of_the_leaderboard_say_their_density_and_write_erk_as_its_source_does():
    names = ("magnitude", "erk")
    final = finals({"dense": lambda n: 0.98, **{name: lambda n: 0.97 - 0.01 * n for name in names}})
    costs = table("branch seed accuracy cost", (
        (name, seed, 0.9 + 0.01 * seed, cost)
        for (name, cost), seed in itertools.product((("magnitude", 1.0), ("erk", 0.0)), (0, 1))
    ))  # fmt: skip
    judged = table("method control difference passes", [("magnitude", "shuffle", -1.0, True)])
    figures = leaderboard.figures_of(final, costs, judged, names, 0.09)
    assert [figures[name].axes[0].get_title() for name in ("cost", "controls")] == [
        "9% of the weights"
    ] * 2
    (ax,) = figures["cost"].axes
    assert {text.get_text() for text in ax.texts} == {"magnitude", "ERK"}
    labels = [text.get_text() for text in figures["accuracy"].axes[0].get_legend().get_texts()]
    assert "ERK" in labels and "erk" not in labels


def test_many_methods_have_a_row_each_in_the_order_of_their_accuracy():
    names = [name for name in leaderboard.METHODS if name != "ticket"][: leaderboard.MANY + 1]
    at = {"dense": lambda n: 0.98}
    for i, name in enumerate(names):
        at[name] = lambda n, i=i: 0.97 - 0.001 * i - 0.01 * n
    at[names[3]] = lambda n: 0.9 if n == 1 else 0.2
    figures = leaderboard.figures_of(finals(at), costs_of(names), judged_of(names), names, 0.5)
    (ax,) = figures["accuracy"].axes
    looks = jt.plots.branch_styles(names)
    shown = [label.get_text() for label in ax.get_yticklabels()]
    order = [name for name in names if name != names[3]]
    assert shown[::-1] == [looks[name].label for name in [*order, names[3]]]
    # what lies far below is written at the edge, and does not decide the limits
    assert {text.get_text().split()[-1] for text in ax.texts} == {"90.1%", "20.1%"}
    assert 90 < ax.get_xlim()[0] < 95
    legend = [text.get_text() for text in figures["accuracy"].legends[0].get_texts()]
    assert legend[0] == "dense, mean and range" and all(one.endswith("%") for one in legend[1:])


def costs_of(names):
    return table("branch seed accuracy cost", (
        (name, seed, 0.9, 1.0) for name in names for seed in (0, 1)
    ))  # fmt: skip


def judged_of(names):
    return table("method control difference passes", [(names[0], "shuffle", -1.0, True)])


def test_costs_of_mask_rules_say_their_density():
    costs = table("branch seed accuracy steps operations", (
        (name, seed, 0.9 + 0.01 * seed, cost, cost / 2)
        for (name, cost), seed in itertools.product((("rigl", 1.0), ("lrr", 5.0)), (0, 1))
    ))  # fmt: skip
    dense = table("branch seed accuracy", (("dense", seed, 0.92) for seed in (0, 1)))
    figure = figure_5_1.drawn_costs(costs, dense, 0.041)
    assert [ax.get_title() for ax in figure.axes] == ["4.1% of the weights"] * 2


def test_methods_far_below_dense_are_named_and_not_drawn():
    rows = [("snip", 0.93, 1.0), ("random", 0.48, 0.0), ("rigl", 0.97, 1.0), ("rigl", 0.85, 1.0)]
    costs = table("branch accuracy cost", rows)
    near, title = near_dense(costs, pd.Series([0.97, 0.99]), "1.2% of the weights")
    assert near["branch"].tolist() == ["snip"]
    # one seed far below would decide the limits too
    assert title == (
        "1.2% of the weights\nnot shown, a seed far below dense (%): "
        "global random 48.0 (48.0 to 48.0), RigL 91.0 (85.0 to 97.0)"
    )
    dense = jt.results.concat([costs, table("branch accuracy cost", [("dense", 0.98, 0.0)])])
    assert near_dense(dense, pd.Series([0.98]))[0]["branch"].tolist() == ["snip", "dense"]
    # where nothing would be left, and where nothing is far
    for rows, mean in ((costs.loc[1:1], 0.98), (costs, 0.5)):
        assert near_dense(rows, pd.Series([mean]), "all") == (rows, "all")


def test_classes_without_weights_are_counted_in_the_output_layer(capsys):
    rows = [
        ("snip", 6000, seed, index, units, dead)
        for seed, lost in enumerate((2, 3))
        for index, units, dead in ((0, 300, 9), (1, 10, lost))
    ]
    rows += [("snip", 0, 0, 0, 300, 40), ("snip", 0, 0, 1, 10, 0)]
    layers = table("branch pruned_at seed index units dead_units", rows)
    lost_classes(layers, "pruned_at")
    head, line = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("classes of 10") and line.split() == "SNIP at step 6000: 2 to 3".split()
    lost_classes(layers.query("pruned_at == 0"), "pruned_at")
    assert capsys.readouterr().out == ""
    lost_classes(layers.assign(density=0.018))
    assert capsys.readouterr().out.splitlines()[-1].split() == "SNIP at 1.8%: 0 to 3".split()


def test_the_figure_of_balance_explains_colors_and_lines():
    names = ["GradBalance, rate x 10", "multiplier, ascent 0.1"]
    trace = table("method step share", ((n, s, 1 + s / 100) for n in names for s in (0, 10)))
    rows = table("method mean min max", ((name, 0.9, 0.89, 0.91) for name in names))
    figure = balance.drawn(trace, rows, 0.03)
    assert legend_of(figure) == [
        "GradBalance, learning rate \N{MULTIPLICATION SIGN} 10",
        "multiplier, step size 0.1",
        "as many as wanted",
        "1.1 times as many",
    ]
    left, right = figure.axes
    assert left.get_title() and "3% of the weights" in right.get_title()
    assert right.get_xlabel() == "Test accuracy (%)"


def test_accuracies_of_activations_are_in_percent_and_projections_are_named():
    names = ("kd_lts", "dense")
    rows = table("seed value measure branch", (
        (seed, 0.9, measure, name)
        for seed, measure, name in itertools.product((0, 1), activations.MEASURES, names)
    ))  # fmt: skip
    network = [(name, int(name != "dense"), seed) for name in names for seed in (0, 1)]
    alike = table("branch level seed other_branch other_level other_seed value",
                  ((*a, *b, 0.9) for a, b in itertools.product(network, network)))  # fmt: skip
    figure = activations.numbers(rows, alike, names)
    labels = [ax.get_ylabel() for ax in figure.axes[:-1]]
    assert labels[0] == "Test accuracy (%)" and all(labels)
    for ax, measure in zip(figure.axes, activations.MEASURES, strict=False):
        factor = 100 if measure in activations.IN_PERCENT else 1
        np.testing.assert_allclose(ax.lines[0].get_ydata(), factor * 0.9)
    assert legend_of(figure) == ["one seed", "mean over seeds"]
    flat = table("branch level seed example label x y", (
        (name, int(name != "dense"), 0, i, i % 3, i, -i) for name in names for i in range(9)
    ))  # fmt: skip
    figure = activations.scattered(flat, rows, names, "pca")
    assert "networks of seed 0" in figure.get_suptitle()
    assert {ax.get_xlabel() for ax in figure.axes} == {"First dimension of PCA"}


def test_panels_of_settings_have_rows_of_their_own_and_names_of_methods():
    job = types.SimpleNamespace(densities=[0.8**level for level in range(1, 26)])
    found = {("ltr", "LTR"): (10, 12, 20), ("kd_lts", "without the factor"): (12,),
             ("cts", "loss"): (12, 20), ("length", "1"): (20,)}  # fmt: skip
    rows = table("group setting at seed value", (
        (*name, at, seed, 0.9 + 0.01 * seed)
        for name, levels in found.items() for at in levels for seed in (0, 1)
    ))  # fmt: skip
    figure = against_rewinding.drawn(job, rows)
    ltr = "tickets with rewinding (LTR)"
    # at the tenth level there is nothing to compare LTR with
    assert [ax.get_title() for ax in figure.axes] == [
        "6.87% of the weights", "1.15% of the weights"
    ]  # fmt: skip
    assert [[text.get_text() for text in ax.get_yticklabels()] for ax in figure.axes] == [
        [ltr, "KD-LTS, without the factor", "CTS, loss"],
        [ltr, "CTS, loss", "CTS, length 1 \N{MULTIPLICATION SIGN} training"],
    ]
    assert legend_of(figure) == ["one seed", f"mean of {ltr}"]
    for ax in figure.axes:
        bottom, top = ax.get_ylim()
        assert top < -0.5 and bottom > len(ax.get_yticks()) - 0.5


def test_colors_of_explanations_have_a_key():
    count, cells = 2, np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4), int))
    zeros = np.zeros((1, count, 10), np.float32)
    found = jt.Explanation(
        RNG.normal(size=(1, count, 10, 4)).astype(np.float32), zeros, zeros, zeros,
        RNG.dirichlet(np.ones(10), (1, count)), np.stack([cells] * count),
        RNG.integers(0, 255, (count, 8, 8, 1)).astype(np.uint8), None, ((0, 0, "ticket"),),
    )  # fmt: skip
    every = dict.fromkeys(explanations.SHOWN, found)
    figure = explanations.right_and_wrong(every, [3, 7])
    assert legend_of(figure) == ["region for the answer"]
    titles = [ax.get_title() for ax in figure.axes]
    assert sum("(true)" in title for title in titles) == 6 == sum("(wrong)" in t for t in titles)
    figure = explanations.every_answer(every, [3, 7])
    assert legend_of(figure) == ["region for the answer", "region against it", "the true answer"]


def test_surfaces_say_where_they_are_cut_off():
    places = np.linspace(-1, 1, 5)
    rows = table("branch level density seed split metric x y value", (
        (name, 1, 0.2, 0, "train", "loss", x, y, x**2 + y**2)
        for name, x, y in itertools.product(("kd_lts", "random"), places, places)
    ))  # fmt: skip
    figure = surfaces.drawn(rows, ("kd_lts", "random"))
    assert "cut off at a loss of 2" in figure.get_suptitle()
    assert [ax.get_zlabel() for ax in figure.axes[:2]] == ["Train loss"] * 2


def test_titles_say_between_what_tickets_are_moved():
    own = finals({"dense": lambda n: 0.98, "kd_lts": lambda n: 0.97, "ltr": lambda n: 0.96})
    figure = moved_by_kd_lts.drawn({"data": own, "depth": own}, other_data=False)
    assert [ax.get_title() for ax in figure.axes] == [
        "Tickets moved between halves of the data", "Tickets moved from ResNet-20 to ResNet-14",
    ]  # fmt: skip
    figure = moved_by_kd_lts.drawn({"data": own}, other_data=True)
    assert figure.axes[0].get_title() == "Tickets moved between data sets"
    moved = transfer.Moved(
        table("source target level density accuracy std difference",
              [(a, b, 2, 0.1, 0.9, 0.01, 0.0) for a in ("mnista", "mnistb")
               for b in ("mnista", "mnistb")]),
        {"mnista": own.replace({"ltr": "from mnistb"}), "mnistb": own},
    )  # fmt: skip
    shown = data_sets.readable(moved)
    assert list(shown.tables) == ["MNIST, half A", "MNIST, half B"]
    assert "from MNIST, half B" in set(shown.tables["MNIST, half A"]["branch"])
    assert set(shown.matrix["source"]) == {"MNIST, half A", "MNIST, half B"}


def test_controls_of_verdicts_have_their_usual_names():
    every = ("ticket", "dense", *verdicts.CONTROLS)
    final = table("method branch seed value", (
        (method, name, seed, 0.9 + 0.01 * seed)
        for method, name, seed in itertools.product(("ltr", "snip"), every, (0, 1))
    ))  # fmt: skip
    figure = verdicts.drawn(final, ("ltr", "snip"))
    usual = [look.label for look in jt.plots.branch_styles(verdicts.CONTROLS).values()]
    assert sorted(legend_of(figure)) == sorted(["dense", "ticket", *usual])
    assert figure.axes[0].get_ylabel() == "Test accuracy (%)"


def test_chance_is_named_in_the_figure_of_supermasks():
    rows = table("seed level density value branch", (
        (seed, level, 0.5**level, 0.5, "random") for level in (1, 2) for seed in (0, 1)
    ))  # fmt: skip
    ax = supermasks.drawn(rows, ("random",), 10.0).axes[0]
    assert "by chance" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert ax.get_ylabel() == "Test accuracy before training (%)"
