"""Accuracy and training-speed metrics on tables whose answers are known by hand."""

import math

import numpy as np
import pandas as pd
import pytest

import jaxticket as jt
from jaxticket.analysis import stats

INF, NAN = math.inf, math.nan


def table(trainings, *, split="test", metric="accuracy", **extra):
    """A tidy table from {(seed, level, branch): {step: value}}, density 0.8 ** level."""
    rows = [
        (seed, level, 0.8**level, branch, step, split, metric, value)
        for (seed, level, branch), curve in trainings.items()
        for step, value in curve.items()
    ]
    return pd.DataFrame(rows, columns=list(stats.COLUMNS)).assign(**extra)


def ends(**branches):
    """A table of one evaluation per training, from branch=[[values of the seeds] of levels]."""
    return table(
        {
            (seed, level, branch): {100: value}
            for branch, levels in branches.items()
            for level, values in enumerate(levels)
            for seed, value in enumerate(values)
        }
    )


def dilated(trainings):
    """A table from {(level, branch, dilation): [accuracies of the seeds]}."""
    parts = [
        table({(s, level, branch): {0: 0.1, 100: a} for s, a in enumerate(values)}, dilation=factor)
        for (level, branch, factor), values in trainings.items()
    ]
    return pd.concat(parts, ignore_index=True)


CURVES = {
    (0, 0, "ticket"): {0: 0.1, 10: 0.5, 20: 0.7, 40: 0.9},
    (1, 0, "ticket"): {0: 0.1, 10: 0.4, 20: 0.8, 30: 0.85, 40: 0.6, 60: 0.8},
    (0, 1, "ticket"): {0: 0.1, 5: 0.3},
    (1, 1, "reinit"): {0: 0.1, 30: NAN, 60: INF},
}


def test_final_is_each_trainings_own_last_step():
    rows = stats.final(table(CURVES))
    assert rows["step"].tolist() == [40, 60, 5, 60]
    assert rows["value"].tolist() == [0.9, 0.8, 0.3, INF]
    assert list(rows.columns) == list(stats.COLUMNS)


def test_final_ignores_row_order_other_splits_and_further_columns():
    both = pd.concat([table(CURVES), table(CURVES, split="train"), table(CURVES, metric="loss")])
    shuffled = both.sample(frac=1, random_state=0).assign(note="x", dilation=1.0)
    rows = stats.final(shuffled).sort_values(["seed", "level"])
    assert rows["value"].tolist() == [0.9, 0.3, 0.8, INF]
    assert (rows["note"] == "x").all()


def test_final_accepts_categories_and_exact_repeats():
    once = table(CURVES)
    twice = pd.concat([once, once]).astype({"branch": "category", "split": "category"})
    assert stats.final(twice)["value"].tolist() == [0.9, 0.8, 0.3, INF]


def test_nothing_is_changed_in_place():
    given = table(CURVES)
    before = given.copy()
    stats.final(given), stats.matching(given), stats.at_share(given, 0.5)
    pd.testing.assert_frame_equal(given, before)


@pytest.mark.parametrize(
    ("share", "steps"),
    [
        # targets are share * 40 for seed 0 and share * 60 for seed 1
        (0.25, [10, 20, 5, 30]),
        (0.5, [20, 30, 5, 30]),
        (0.51, [40, 40, 5, 60]),
        (1.0, [40, 60, 5, 60]),
    ],
)
def test_at_share_is_the_first_evaluation_at_or_after_the_target(share, steps):
    assert stats.at_share(table(CURVES), share)["step"].tolist() == steps


def test_at_share_is_not_misled_by_rounding():
    # 0.07 * 100 is a little more than 7
    curve = {0: 0.1, 7: 0.5, 8: 0.6, 100: 0.9}
    assert stats.at_share(table({(0, 0, "ticket"): curve}), 0.07)["step"].tolist() == [7]


def test_at_share_needs_every_seeds_dense_run():
    given = table({(0, 0, "ticket"): {10: 0.5}, (3, 1, "reinit"): {10: 0.5}})
    with pytest.raises(ValueError, match=r"no dense run .* of seeds \[3\]"):
        stats.at_share(given, 0.5)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, NAN])
def test_at_share_refuses_other_shares(share):
    with pytest.raises(ValueError, match="`share`"):
        stats.at_share(table(CURVES), share)


def test_dense_is_level_0_of_ticket():
    rows = stats.dense(ends(ticket=[[0.9, 0.8], [0.7, 0.7]], reinit=[[0.1, 0.1]]))
    assert rows["value"].tolist() == [0.9, 0.8]
    with pytest.raises(ValueError, match=r"no dense network .* \['reinit'\]"):
        stats.dense(ends(reinit=[[0.1]]))


def early_table(losses, accuracies):
    keyed = {(s, 0, "ticket"): curve for s, curve in enumerate(losses)}
    test = {(s, 0, "ticket"): curve for s, curve in enumerate(accuracies)}
    return pd.concat([table(keyed, split="validation", metric="loss"), table(test)])


def test_early_stop_takes_the_least_loss_the_earliest_on_ties():
    losses = [
        {0: 2.0, 10: 0.5, 20: 0.3, 30: 0.4},
        {30: 0.3, 20: 0.3, 0: 2.0, 10: 0.4},  # a tie, and rows out of order
        {0: 2.0, 10: 1.0, 20: NAN, 30: INF},
        {0: NAN, 10: NAN, 20: NAN},
        {0: 1.0},
    ]
    accuracies = [{0: 0.1, 10: 0.5, 20: 0.6, 30: 0.7}] * 5
    rows = stats.early_stop(early_table(losses, accuracies))
    assert list(rows.columns) == [
        *("seed", "level", "density", "branch", "early_stop_step", "accuracy")
    ]
    np.testing.assert_array_equal(rows["early_stop_step"], [20, 20, 10, NAN, 0])
    np.testing.assert_array_equal(rows["accuracy"], [0.6, 0.6, 0.5, NAN, 0.1])
    assert rows["density"].tolist() == [1.0] * 5


def test_early_stop_has_one_row_per_training():
    keys = [(s, n, b) for s in (0, 1) for n in (0, 1) for b in ("ticket", "reinit")]
    losses = table({key: {0: 2.0, 10: 1.0} for key in keys}, split="validation", metric="loss")
    rows = stats.early_stop(pd.concat([losses, table({key: {0: 0.1, 10: 0.5} for key in keys})]))
    assert len(rows) == 8
    assert (rows["early_stop_step"] == 10).all()


def test_early_stop_names_the_remedy_without_validation():
    with pytest.raises(ValueError, match=r"data\.with_validation\(0\.1\)"):
        stats.early_stop(table(CURVES))


def test_early_stop_needs_test_accuracy_at_the_step():
    with pytest.raises(ValueError, match="no test accuracy at step 20 of seed 0"):
        stats.early_stop(early_table([{10: 0.5, 20: 0.3}], [{10: 0.5}]))


def test_matching_by_hand():
    given = ends(ticket=[[0.98, 0.96], [0.975, 0.963], [0.9, 0.98]], reinit=[[0.99, 0.98]])
    rows = stats.matching(given).set_index(["branch", "level"])
    first = rows.loc[("ticket", 1)]
    assert first["mean"] == pytest.approx(0.969)
    assert (first["min"], first["max"], first["seeds"]) == (0.963, 0.975, 2)
    assert first["density"] == 0.8
    assert rows["dense_mean"].tolist() == pytest.approx([0.97] * 4)
    assert rows["matching"].to_dict() == {
        ("reinit", 0): True,
        ("ticket", 0): True,
        ("ticket", 1): True,
        ("ticket", 2): False,
    }


@pytest.mark.parametrize(
    ("accuracy", "options", "expected"),
    [
        (0.968, {}, True),  # exactly at the margin; 0.97 - 0.002 is 0.968 only roughly
        (0.9679, {}, False),
        (0.9679, {"test_size": 100}, True),  # one example is 0.01
        (0.96, {"test_size": 100}, True),
        (0.9599, {"test_size": 100}, False),
        (0.968, {"test_size": 10_000}, True),  # the margin is the greater one
        (0.97, {"margin": 0.0}, True),
        (0.9699, {"margin": 0.0}, False),
    ],
)
def test_matching_at_the_boundary(accuracy, options, expected):
    given = ends(ticket=[[0.97] * 3, [accuracy] * 3])
    # accuracies come from the device as float32
    for value in (given["value"], given["value"].astype("float32").astype(float)):
        rows = stats.matching(given.assign(value=value), **options)
        assert rows["matching"].tolist() == [True, expected]


def test_matching_never_hides_a_diverged_seed():
    rows = stats.matching(ends(ticket=[[0.9, 0.9], [0.95, NAN], [NAN, INF]]))
    assert rows["seeds"].tolist() == [2, 2, 2]
    assert rows["diverged"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(rows["mean"], [0.9, 0.95, NAN])
    assert rows["matching"].tolist() == [True, False, False]


def test_a_diverged_dense_seed():
    rows = stats.matching(ends(ticket=[[0.9, NAN], [0.9, 0.9]]))
    assert rows["dense_mean"].tolist() == [0.9, 0.9]
    assert rows["matching"].tolist() == [False, True]
    with pytest.raises(ValueError, match="2 dense replicas and all of them diverged"):
        stats.matching(ends(ticket=[[NAN, INF]]))


@pytest.mark.parametrize(
    ("options", "name"),
    [({"margin": -0.1}, "margin"), ({"margin": NAN}, "margin"), ({"test_size": 0}, "test_size")],
)
def test_matching_refuses_senseless_margins(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        stats.matching(ends(ticket=[[0.9]]), **options)


def test_realised_densities_of_a_level_are_one_density():
    near = ends(ticket=[[0.9, 0.9, 0.9]]).assign(density=[0.1, 0.101, 0.099])
    assert stats.over_seeds(near)["density"].tolist() == [0.1]
    far = ends(ticket=[[0.9, 0.9, 0.9]]).assign(density=[0.8, 0.4, 0.1])
    assert stats.over_seeds(far)["density"].tolist() == [0.1, 0.4, 0.8]


def test_smallest_dilation_by_hand():
    given = dilated(
        {
            (0, "ticket", 1.0): [0.90, 0.92],
            (0, "ticket", 0.5): [0.90, 0.90],
            (0, "ticket", 0.1 + 0.2): [0.91, 0.91],  # 0.3, and exactly as accurate
            (1, "ticket", 0.5): [0.93, 0.88],
            (1, "ticket", 1.0): [0.95, 0.95],
            (1, "ticket", 2.0): [0.99, 0.99],
            (1, "reinit", 1.0): [0.90, 0.90],
            (1, "reinit", 2.0): [0.95, NAN],
        }
    )
    rows = stats.smallest_dilation(given)
    assert list(rows.columns) == ["branch", "level", "density", "delta_star"]
    stars = rows.set_index(["branch", "level"])["delta_star"].to_dict()
    assert stars == {("reinit", 1): INF, ("ticket", 0): 0.3, ("ticket", 1): 1.0}
    wide = stats.smallest_dilation(given, margin=0.01).set_index(["branch", "level"])["delta_star"]
    assert wide.to_dict() == {("reinit", 1): 1.0, ("ticket", 0): 0.3, ("ticket", 1): 0.5}


def test_smallest_dilation_uses_each_trainings_last_step():
    short = table({(0, 1, "ticket"): {0: 0.1, 40: 0.95, 50: 0.7}}, dilation=0.5)
    given = pd.concat([dilated({(0, "ticket", 1.0): [0.9]}), short])
    assert stats.smallest_dilation(given)["delta_star"].tolist() == [1.0, INF]


def test_smallest_dilation_needs_the_full_dense_run():
    with pytest.raises(ValueError, match=r"at dilation 1, its dilations are \[0\.5\]"):
        stats.smallest_dilation(dilated({(0, "ticket", 0.5): [0.9], (1, "ticket", 1.0): [0.9]}))
    with pytest.raises(ValueError, match="no dense network"):
        stats.smallest_dilation(dilated({(1, "ticket", 1.0): [0.9]}))
    with pytest.raises(ValueError, match="needs a column 'dilation'"):
        stats.smallest_dilation(ends(ticket=[[0.9]]))


def test_several_trainings_under_one_name_are_refused():
    mixed = dilated({(0, "ticket", 1.0): [0.9], (0, "ticket", 0.5): [0.8]})
    with pytest.raises(ValueError, match=r"several trainings of seed 0, level 0, branch 'ticket'"):
        stats.final(mixed)
    # no step in common, but still two trainings
    apart = mixed.assign(step=mixed["step"] + mixed["dilation"])
    with pytest.raises(ValueError, match="several trainings"):
        stats.final(apart)
    other = table({(0, 0, "ticket"): {40: 0.2}})
    with pytest.raises(ValueError, match="several trainings"):
        stats.final(pd.concat([table(CURVES), other]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (table(CURVES).iloc[:0], "`table` is empty"),
        (table(CURVES).drop(columns=["seed", "step"]), r"lacks the columns \['seed', 'step'\]"),
        ([1, 2], r"must be a DataFrame, got list; pass a tidy table such as runs.table"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [
        *(stats.final, stats.dense, stats.early_stop, stats.matching, stats.smallest_dilation),
        lambda rows: stats.at_share(rows, 0.5),
    ],
)
def test_unusable_tables(function, given, message):
    with pytest.raises(ValueError, match=message):
        function(given)


def test_unknown_split_and_metric_name_the_nearest():
    with pytest.raises(ValueError, match="`split` 'tests' is not in `table`; did you mean 'test'"):
        stats.final(table(CURVES), split="tests")
    with pytest.raises(ValueError, match=r"`metric` 'acuracy'.*did you mean 'accuracy'"):
        stats.final(table(CURVES), metric="acuracy")
    mixed = pd.concat([table(CURVES), table(CURVES, split="train", metric="loss")])
    with pytest.raises(ValueError, match="no metric 'accuracy' on `split` 'train'"):
        stats.final(mixed, split="train")


def splits(**curves):
    """A table of several splits from split={(seed, level, branch): {step: value}}."""
    return pd.concat([table(c, split=name) for name, c in curves.items()], ignore_index=True)


def test_best_is_the_test_accuracy_at_the_best_validation_step():
    given = splits(
        validation={
            (0, 0, "ticket"): {0: 0.1, 10: 0.8, 20: 0.9, 30: 0.85},
            (1, 0, "ticket"): {0: 0.1, 10: 0.9, 20: 0.9, 30: 0.9},  # the earliest of equals
            (0, 1, "reinit"): {0: 0.1, 10: 0.8, 20: NAN, 30: NAN},  # diverged
        },
        test={
            (0, 0, "ticket"): {0: 0.1, 10: 0.99, 20: 0.7, 30: 0.8},
            (1, 0, "ticket"): {0: 0.1, 10: 0.5, 20: 0.6, 30: 0.7},
            (0, 1, "reinit"): {0: 0.1, 10: 0.6, 20: NAN, 30: NAN},
        },
    )
    rows = stats.best(given.sample(frac=1, random_state=1)).sort_values(["branch", "seed"])
    assert rows["branch"].tolist() == ["reinit", "ticket", "ticket"]
    assert rows["step"].tolist() == [30, 20, 10]
    np.testing.assert_array_equal(rows["value"], [NAN, 0.7, 0.5])
    # the rows are those of `final`, so that means over seeds are taken alike
    assert set(rows.columns) == set(stats.final(given).columns)
    means = stats.over_seeds(rows).set_index("branch")
    assert means.loc["ticket", "mean"] == pytest.approx(0.6)
    assert means["diverged"].to_dict() == {"reinit": 1, "ticket": 0}


def test_best_needs_validation_and_both_splits_at_one_step():
    with pytest.raises(ValueError, match="the best checkpoint must not be chosen by the test data"):
        stats.best(ends(ticket=[[0.9]]))
    curves = {(0, 0, "ticket"): {0: 0.1, 10: 0.8}}
    other = {(0, 0, "ticket"): {0: 0.1, 20: 0.8}}
    with pytest.raises(ValueError, match="no test accuracy at step 10 of seed 0, level 0"):
        stats.best(splits(validation=curves, test=other))


def test_generalization_gap_by_hand():
    given = splits(
        train={(0, 0, "ticket"): {0: 0.1, 20: 1.0}, (1, 1, "ticket"): {0: 0.1, 20: NAN}},
        test={(0, 0, "ticket"): {0: 0.2, 20: 0.75}, (1, 1, "ticket"): {0: 0.2, 20: NAN}},
    )
    rows = stats.generalization_gap(given)
    assert rows["gap"].tolist()[0] == 0.25 and math.isnan(rows["gap"].tolist()[1])
    assert rows[["train", "test", "step"]].iloc[0].tolist() == [1.0, 0.75, 20]
    with pytest.raises(ValueError, match="`split` 'train' is not in `table`"):
        stats.generalization_gap(given[given["split"] == "test"])
    early = given[(given["split"] == "test") | (given["step"] < 20)]
    with pytest.raises(ValueError, match="no train accuracy at step 20 of seed 0, level 0"):
        stats.generalization_gap(early)


def test_learning_factor_by_hand():
    """Dense networks end at step 120 with a mean of 0.9."""
    given = table(
        {
            (0, 0, "ticket"): {0: 0.1, 40: 0.85, 80: 0.94, 120: 0.92},
            (1, 0, "ticket"): {0: 0.1, 40: 0.80, 80: 0.84, 120: 0.88},
            # the mean reaches 0.9 at 40, the second seed alone never
            (0, 1, "ticket"): {0: 0.1, 40: 0.95, 80: 0.96, 120: 0.96},
            (1, 1, "ticket"): {0: 0.1, 40: 0.85, 80: 0.86, 120: 0.86},
            (0, 2, "ticket"): {0: 0.1, 40: 0.5, 80: 0.6, 120: 0.7},
            (1, 2, "ticket"): {0: 0.1, 40: 0.5, 80: 0.6, 120: 0.7},
            # a seed that diverged proves nothing, and one that starts late has used those steps
            (0, 1, "reinit"): {0: 0.1, 40: 0.95, 80: 0.95, 120: NAN},
            (1, 1, "reinit"): {0: 0.1, 40: NAN, 80: NAN, 120: NAN},
            (0, 1, "late"): {30: 0.9, 60: 0.9, 120: 0.9},
            (1, 1, "late"): {30: 0.8, 60: 0.9, 120: 0.9},
            (0, 1, "supermask"): {0: 0.9},
        }
    )
    rows = stats.learning_factor(given).set_index(["branch", "level"])
    assert rows["dense_mean"].tolist() == pytest.approx([0.9] * len(rows))
    assert rows["step"].to_dict() == {
        ("late", 1): 60.0,
        ("reinit", 1): INF,
        ("supermask", 1): 0.0,
        ("ticket", 0): 120.0,
        ("ticket", 1): 40.0,
        ("ticket", 2): INF,
    }
    assert rows["factor"].tolist() == [2.0, 0.0, INF, 1.0, 3.0, 0.0]
    # seeds alone, by the bar of all: 0.92 at 80 (0.94), and 0.88 never
    assert rows.loc[("ticket", 0), ["low", "high"]].tolist() == [0.0, 1.5]
    assert rows.loc[("ticket", 1), ["low", "high"]].tolist() == [0.0, 3.0]
    assert rows.loc[("late", 1), ["low", "high"]].tolist() == [2.0, 4.0]
    assert rows["diverged"].tolist() == [0, 2, 0, 0, 0, 0]
    # 0.895 is the mean at step 80 of the dense networks
    wider = stats.learning_factor(given, margin=0.01).set_index(["branch", "level"])
    assert wider.loc[("ticket", 0), "factor"] == 1.5
    with pytest.raises(ValueError, match=r"dense networks that end at the steps \[60, 120\]"):
        longer = table({(2, 0, "ticket"): {0: 0.1, 60: 0.9}})
        stats.learning_factor(pd.concat([given, longer]))
    with pytest.raises(ValueError, match="`margin`"):
        stats.learning_factor(given, margin=-0.1)
    with pytest.raises(ValueError, match="no dense network"):
        stats.learning_factor(given[given["level"] > 0])


def test_a_real_run_has_all_three():
    """LeNet on digits: the numbers are those of its table, read by other means."""
    data = jt.data.load("digits", validation=0.2)
    net = jt.networks.lenet(data.shape, data.classes, widths=(16,))
    training = jt.Training(steps=40, lr=0.01, eval_every=10)
    pruning = jt.Pruning(levels=1, fraction=0.5)
    runs = jt.find_tickets(net, data, training, pruning, seeds=(0, 1), progress=False)
    given = runs.table()
    best, gaps = jt.speed.best(given), jt.speed.generalization_gap(given)
    wide = given[given["metric"] == "accuracy"].pivot(
        index=["seed", "level", "step"], columns="split", values="value"
    )
    assert len(best) == len(gaps) == 4
    for row in best.itertuples():
        own = wide.loc[(row.seed, row.level)]
        at = own["validation"].to_numpy().argmax()
        assert (row.step, row.value) == (own.index[at], own["test"].iloc[at])
    for row in gaps.itertuples():
        own = wide.loc[(row.seed, row.level, 40)]
        assert row.gap == pytest.approx(own["train"] - own["test"])
    factor = jt.speed.learning_factor(given).set_index("level")["factor"]
    means = wide["test"].groupby(["level", "step"]).mean()
    reached = [step for step in (0, 10, 20, 30, 40) if means[1, step] >= means[0, 40] - 1e-7]
    assert factor[1] == (40 / reached[0] if reached else 0)
    assert factor[0] >= 1
