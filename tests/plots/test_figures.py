"""What holds for every figure: it draws its table's numbers, says so, and refuses bad tables."""

import inspect
import re

import figures as f
import matplotlib
import numpy as np
import pandas as pd
import pytest
from figures import FIGURES, NAN, all_named, band_of, legend_texts, lines, named
from matplotlib import pyplot

from jaxticket import plots
from jaxticket.plots._panel import ENTRY
from jaxticket.plots._style import KNOWN

every = pytest.mark.parametrize("name", FIGURES)
with_lines = pytest.mark.parametrize("name", [name for name, one in FIGURES.items() if one.lines])
with_bands = pytest.mark.parametrize(
    "name", [name for name, one in FIGURES.items() if one.lines and one.band != "none"]
)


def has(name, option):
    return option in inspect.signature(FIGURES[name].draw).parameters


def quiet(name):
    """Options for a figure without a legend, which takes most of the time."""
    return {"legend": False} if has(name, "legend") else {}


def test_every_public_figure_is_here():
    drawn = {one.draw for one in FIGURES.values()} | {f.REWINDING, f.BOTH}
    others = {"branch_styles", "caption", "style", "loss_surface", "features", "similarity"}
    others |= {"explanation", "corruptions", "corruption_errors"}
    others |= {"overview"}  # as large as its table
    assert drawn == {getattr(plots, name) for name in set(plots.__all__) - others}


@with_lines
def test_lines_are_means_of_the_table(name):
    figure = FIGURES[name]
    ax = figure(**quiet(name))
    for label, rows in figure.lines.items():
        x, y = named(ax, label).get_data()
        if name == "density_schedule":
            np.testing.assert_allclose(np.transpose([x, y]), rows.to_numpy())
            continue
        # x may run either way
        order, mean = np.argsort(x, kind="stable"), rows.groupby("x")["y"].mean()
        np.testing.assert_allclose(np.asarray(x, float)[order], mean.index, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(y, float)[order], mean, rtol=1e-6)


@with_bands
@pytest.mark.parametrize("band", ["std", "minmax"])
def test_bands_are_the_stated_interval_over_samples(name, band):
    figure = FIGURES[name]
    if not has(name, "band"):
        assert figure.band == "minmax"
        band = "minmax"
    chosen = {"band": band} if has(name, "band") else {}
    ax = figure(**chosen, **quiet(name))
    for label, rows in figure.lines.items():
        line = named(ax, label)
        by = rows.groupby("x")["y"]
        low, high = (by.min(), by.max())
        if band == "std":
            low, high = by.mean() - by.std(ddof=1), by.mean() + by.std(ddof=1)
        order = np.argsort(line.get_xdata(), kind="stable")
        for found, wanted in zip(band_of(ax, line), (low, high), strict=True):
            np.testing.assert_allclose(found[order], wanted, rtol=1e-5)
    if has(name, "band"):
        assert not [one for one in figure(band="none", **quiet(name)).collections]


@with_lines
def test_the_legend_names_each_line_once(name):
    figure = FIGURES[name]
    ax = figure()
    written = [
        *(legend_texts(ax) if ax.get_legend() else []),
        *(one.get_text() for one in ax.texts),
    ]
    assert len(set(written)) == len(written)
    for label in figure.lines:
        if not label.startswith("_"):
            assert len([one for one in written if one.startswith(label)]) == 1, written
    # those whose colors tell levels or steps, and line styles branches
    hidden = [label for label in lines(ax) if label.startswith("_")]
    if any(label.startswith("_") for label in figure.lines):
        assert len(written) >= 3 and hidden
    if has(name, "legend"):
        other = figure(legend=not inspect.signature(figure.draw).parameters["legend"].default)
        assert (other.get_legend() is None) == (name != "accuracy_against_cost")


@every
def test_the_table_is_not_modified_and_the_style_is_left_behind(name):
    figure = FIGURES[name]
    table, before = figure.table.copy(), dict(matplotlib.rcParams)
    own, ax = pyplot.subplots()
    assert figure(table, ax=ax, **quiet(name)) is ax
    pd.testing.assert_frame_equal(table, figure.table)
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == [own.number]
    assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
    new = figure(**quiet(name)).figure
    assert (tuple(new.get_size_inches()), new.dpi) == ((4.8, 3.4), 200)


@every
def test_bad_tables_are_refused(name):
    figure = FIGURES[name]
    table, argument = figure.table, f"`{figure.argument}`"
    other = table.assign(**{figure.value: 0.123})
    for wrong, message in (
        ([1], f"{argument} must be a DataFrame.*got list; "),
        (table.iloc[:0], rf"{argument} is empty \(0 rows\); "),
        (table.drop(columns=figure.value), rf"{argument} lacks the columns .*'{figure.value}'.*; "),
        (pd.concat([table, other]), f"{argument} (has two values|holds several trainings) of .*; "),
    ):
        if name == "first_steps" and wrong is not table and "two values" in message:
            continue
        with pytest.raises(ValueError, match=message):
            figure(wrong)
    # exact repeats are one value
    assert figure(pd.concat([table, table]), **quiet(name)) is not None


@every
def test_bad_options_are_refused(name):
    wrong = [("ax", [1], "`ax` must be one matplotlib Axes or None, got list")]
    many = "methods" if name == "controls" else "branches"
    wrong += [
        (many, [], f"`{many}` is empty"),
        (many, ["snp"], f"`{many}` has 'snp', `.*` does not"),
    ]
    wrong += [
        ("legend", "no", "`legend` must be"),
        ("band", "sd", "`band` must be one of '.*', got 'sd'"),
        ("ylim", (3, 1), r"`ylim` must be \(low, high\) with low < high"),
        ("at", 7, "`at`.*7"),
        ("levels", [99], r"`levels` has 99; these branches have \["),
        ("levels", [], "`levels` is empty"),
        ("level", 99, "`level`.*99"),
        ("split", "tset", "`split` 'tset'"),
        ("metric", "barier", "`metric` 'barier' is not in `"),
        ("colorbar", 3, "`colorbar` must be"),
    ]
    for option, value, message in wrong:
        if has(name, option) and (name, option) != ("first_steps", "at"):
            with pytest.raises(ValueError, match=message):
                FIGURES[name](**{option: value})


@every
def test_a_figure_of_one_seed(name):
    table = FIGURES[name].table
    if "seed" in table:
        ax = FIGURES[name](table[table["seed"] == 0], **quiet(name))
        for line in ax.lines:
            assert len(line.get_xdata()) or line.get_gid() == ENTRY
        # a band of one sample has no width
        for one in ax.collections:
            assert all(np.isfinite(path.vertices).all() for path in one.get_paths())


def spoiled(figure, label, of):
    """The table where one seed diverged, or all, in the rows that a line is made of."""
    table, rows = figure.table.copy(), figure.lines[label].index
    one = table.loc[rows]["seed"] == 0 if of == "some" else np.full(len(rows), True)
    table.loc[rows[np.asarray(one)], figure.value] = NAN
    return table, figure.lines[label][~np.asarray(one)]


SPOILED = [name for name in f.FIGURES if FIGURES[name].lines and "seed" in FIGURES[name].table
           and name not in ("dilation", "early_stop")]  # fmt: skip


@pytest.mark.parametrize("name", SPOILED)
def test_a_diverged_seed_is_left_out_and_said(name):
    figure = FIGURES[name]
    label = list(figure.lines)[-1]
    table, rest = spoiled(figure, label, "some")
    ax = figure(table)
    x, y = named(ax, label).get_data()
    mean = rest.groupby("x")["y"].mean()
    np.testing.assert_allclose(np.asarray(y)[np.argsort(x, kind="stable")], mean, rtol=1e-6)
    said = [one for one in legend_texts(ax) if "diverged" in one]
    assert said and all(re.search(r"\d of \d+", one) for one in said)


@pytest.mark.parametrize("name", [one for one in SPOILED if one != "telemetry"])
def test_where_all_seeds_diverged_no_number_is_drawn(name):
    figure = FIGURES[name]
    label = list(figure.lines)[-1]
    ax = figure(spoiled(figure, label, "all")[0])
    drawn = [one for one in ax.lines if str(one.get_label()).startswith(label)]
    assert not any(np.isfinite(np.asarray(one.get_ydata(), float)).any() for one in drawn
                   if one.get_marker() != "x")  # fmt: skip
    assert [one for one in legend_texts(ax) if "diverged" in one]
    assert np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all()
    nothing = figure.table.assign(**{figure.value: NAN})
    with pytest.raises(ValueError, match=r"`table`|`paths`"):
        figure(nothing)


@every
def test_the_caption_names_the_run_below_everything(name):
    ax = FIGURES[name]()
    plots.caption(ax, "run: a")
    note = plots.caption(ax.figure, "run: b, MNIST, " + "seeds 0 to 4, " * 12)
    assert ax.figure.texts == [note] and "\n" in note.get_text()
    ax.figure.draw_without_rendering()
    box = note.get_window_extent()
    assert 0 <= min(box.x0, box.y0) and box.x1 <= ax.figure.bbox.x1
    below = [ax.xaxis.label] if ax.get_legend() is None else [ax.xaxis.label, ax.get_legend()]
    # some pixels, for rounding
    assert box.y1 <= min(one.get_window_extent().y0 for one in below) + 3


@with_lines
def test_the_legend_covers_no_data(name):
    ax = FIGURES[name]()
    ax.figure.draw_without_rendering()
    box, frame = ax.get_legend().get_window_extent(), ax.get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= ax.figure.bbox.x1
    if box.y1 > frame.y0:
        drawn = [one for one in ax.lines if one.get_transform() == ax.transData]
        assert not any(box.count_contains(ax.transData.transform(one.get_xydata())) for one in drawn
                       if one.get_label() != "_bars")  # fmt: skip


@pytest.mark.parametrize(
    "name", [one for one in FIGURES if one not in ("plane", "loss_contours", "transfer_matrix")]
)
def test_names_that_the_library_does_not_know_need_no_registration(name):
    figure = FIGURES[name]
    names = [one for one in figure.table[figure.branch].unique() if one not in ("ticket", "dense")]
    given = {one: f"my_method_{i}" for i, one in enumerate(names)}
    assert given
    options = {"branch": given[names[0]]} if name == "heat_map" else {}
    if has(name, "branches") and name in ("curves", "against_density"):
        options = {"branches": ["ticket", *given.values()]}
    ax = figure(figure.table.replace({figure.branch: given}), **options)
    if name == "heat_map":
        return
    written = [one.get_text() for one in [*ax.texts, *ax.get_yticklabels()]]
    written += legend_texts(ax) if ax.get_legend() else []
    for i in range(len(names)):
        assert [one for one in written if one.startswith(f"my method {i}")], written


def test_any_number_of_names_look_different():
    looks = plots.branch_styles([*(f"method_{i}" for i in range(60)), *KNOWN])
    assert len({(one.color, one.marker, str(one.line)) for one in looks.values()}) == len(looks)
    # a control of any method has the color of the method, and looks the same alone
    both = plots.branch_styles(["mine", "mine_shuffle"])
    assert both["mine_shuffle"].label == "mine, layerwise shuffle"
    assert both["mine"].color == both["mine_shuffle"].color
    assert both["mine"].line != both["mine_shuffle"].line
    assert plots.branch_styles(["mine"])["mine"] == both["mine"]
    assert plots.branch_styles(["zeta_shuffle"])["zeta_shuffle"].label == "zeta shuffle"


def test_two_panels_and_three_tables():
    """The two figures of several tables, in what holds for all figures."""
    left, right = f.BOTH(f.TABLE, f.COPIES)
    assert left.figure is right.figure and left.get_xlim() == right.get_xlim()
    for ax, value in ((left, f.barrier), (right, f.final)):
        mean = [100 * np.mean([value("ticket", 8, k, i) for i in range(9)]) for k in f.AT]
        np.testing.assert_allclose(named(ax, "IMP").get_ydata(), mean)
    assert "dense" in lines(left) and "dense" not in lines(right)
    (legend,) = left.figure.legends
    written = [text.get_text() for text in legend.get_texts()]
    assert len(set(written)) == len(written) == 8
    plots.caption(left, "run: a")
    left.figure.draw_without_rendering()
    assert legend.get_window_extent().y0 > left.get_window_extent().y1
    ax = f.REWINDING(f.STATES, f.COPIES, f.TABLE, branches=["ticket"])
    for metric, marker in (("l2_from_init", "o"), ("l2_from_k", "x"), ("l2", "^")):
        line = lines(ax)[f"_IMP ticket, 16.8% {metric}"]
        samples = 3 if metric == "l2_from_init" else 9
        wanted = [np.mean([f.moved("ticket", 8, k, i) for i in range(samples)]) for k in f.AT]
        np.testing.assert_allclose(line.get_ydata(), wanted)
        # the line of crosses is seen as such
        assert line.get_marker() == marker and (line.get_markeredgewidth() > 0) == (marker == "x")
    assert len(legend_texts(ax)) == 5 and ax.get_ylim()[0] == 0
    assert all_named(ax, "_lost") == []


def test_a_backend_that_becomes_interactive_with_the_first_figure_stays_so():
    """As that of notebooks, which shows nothing otherwise."""
    before = matplotlib.is_interactive()
    try:
        with plots.style():
            matplotlib.interactive(True)
        assert matplotlib.is_interactive()
    finally:
        matplotlib.interactive(before)
