"""Verdicts of instability analysis on tables made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxticket.connectivity import distances, stability


def rows(metric, sample, values, *, branch="ticket", level=1, split="test"):
    """values[at] = one number per sample; samples are (seed, pair or copy) of two seeds."""
    found = []
    for at, numbers in values.items():
        half = len(numbers) // 2
        for i, value in enumerate(numbers):
            found.append(
                {
                    "branch": branch,
                    "level": level,
                    "density": 0.8**level,
                    "at": at,
                    "seed": i // max(half, 1),
                    sample: str(i % max(half, 1)),
                    "split": split,
                    "metric": metric,
                    "value": value,
                }
            )
    return pd.DataFrame(found)


def test_summary_is_students_interval():
    numbers = [0.1, 0.2, 0.4, 0.5, np.nan, 0.6]
    table = rows("barrier", "pair", {0: numbers, 5: [0.3] * 6})
    found = stability.summary(table).set_index("at")
    good = np.asarray(numbers)[[0, 1, 2, 3, 5]]
    low, high = stats.t.interval(0.95, 4, loc=good.mean(), scale=stats.sem(good))
    row = found.loc[0]
    np.testing.assert_allclose([row["mean"], row["std"]], [good.mean(), good.std(ddof=1)])
    np.testing.assert_allclose([row["low"], row["high"]], [low, high])
    assert (row["samples"], row["diverged"], row["min"], row["max"]) == (5, 1, 0.1, 0.6)
    assert found.loc[5, "low"] == found.loc[5, "high"] == pytest.approx(0.3)
    seeds = stability.summary(table, unit="seed").set_index("at")
    assert seeds.loc[5, "samples"] == 2
    one = stability.summary(rows("barrier", "pair", {0: [0.3]})).iloc[0]
    assert one["mean"] == 0.3 and np.isnan([one["std"], one["low"], one["high"]]).all()


def test_stable_is_below_the_threshold_and_never_with_a_diverged_copy():
    table = rows("barrier", "pair", {0: [0.02, 0.02], 1: [0.0199, 0.0199], 2: [np.nan, 0.0]})
    assert stability.stable(table)["stable"].tolist() == [False, True, False]
    assert stability.stable(table, threshold=0.03)["stable"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="`threshold`"):
        stability.stable(table, threshold=2)


def test_exactly_two_points_are_unstable_whatever_the_rounding():
    for wrong in range(1, 900, 9):
        ends = np.float32(wrong / 1000)
        barrier = float(np.float32((wrong + 20) / 1000)) - float(ends)
        assert not stability.stable(rows("barrier", "pair", {0: [barrier]}))["stable"].any()


def test_lengths_are_told_apart():
    both = [
        rows("barrier", "pair", {0: [0.1]}).assign(length="remaining"),
        rows("barrier", "pair", {0: [0.0]}).assign(length="full"),
    ]
    found = stability.stable(pd.concat(both))
    assert dict(zip(found["length"], found["stable"], strict=True)) == {
        "full": True,
        "remaining": False,
    }


def copies_table():
    dense = rows("error", "copy", {0: [0.10, 0.10], 5: [0.3, 0.3]}, level=0)
    ticket = rows("error", "copy", {0: [0.15, 0.15], 5: [0.102, 0.102], 9: [0.1021, 0.1021]})
    return pd.concat([dense, ticket], ignore_index=True)


def test_matching_compares_with_the_dense_network_of_the_earliest_step():
    found = stability.matching(copies_table())
    assert (found["dense"] == 0.10).all()
    own = found[found["level"] == 1].set_index("at")["matching"]
    assert own.to_dict() == {0: False, 5: True, 9: False}
    given = stability.matching(copies_table(), dense=0.2)
    assert given["matching"].tolist() == [True, False, True, True, True]
    with pytest.raises(ValueError, match="`copies` hold no dense network"):
        stability.matching(copies_table().query("level == 1"))
    with pytest.raises(ValueError, match="`margin`"):
        stability.matching(copies_table(), margin=-1)


def test_first_steps_are_medians_over_samples():
    barriers = {
        0: [0.30, 0.01, 0.30, 0.30],
        5: [0.01, 0.01, 0.30, 0.30],
        9: [0.01, 0.01, 0.01, 0.30],
    }
    errors = {0: [0.2] * 4, 5: [0.2, 0.2, 0.2, 0.1], 9: [0.1, 0.2, 0.2, 0.1]}
    table = rows("barrier", "pair", barriers)
    copies = pd.concat(
        [rows("error", "copy", errors), rows("error", "copy", {0: [0.1] * 4}, level=0)],
        ignore_index=True,
    )
    found = stability.first_steps(table, copies)
    stable = found[found["verdict"] == "stable"].iloc[0]
    # samples become stable at 5, 0, 9 and never
    assert (stable["step"], stable["low"], stable["samples"], stable["share"]) == (7, 0, 4, 0.75)
    assert np.isnan(stable["high"])
    own = found[(found["verdict"] == "matching") & (found["level"] == 1)].iloc[0]
    # 9, never, never, 5: no majority
    assert np.isnan(own["step"]) and own["share"] == 0.5 and own["low"] == 5
    dense = found[(found["verdict"] == "matching") & (found["level"] == 0)].iloc[0]
    assert dense["step"] == 0 and dense["share"] == 1


def test_ranges():
    tables = [rows("error", "copy", {0: [0.1, 0.1]}, level=0)]
    for level, ticket, control in ((1, 0.1, 0.1), (2, 0.1, 0.3), (3, 0.2, 0.3)):
        tables.append(rows("error", "copy", {0: [0.3, 0.3], 5: [ticket] * 2}, level=level))
        tables.append(
            rows("error", "copy", {0: [control] * 2, 5: [0.4] * 2}, level=level, branch="shuffle")
        )
    table = pd.concat(tables, ignore_index=True)
    found = stability.ranges(table)
    assert found["range"].tolist() == ["I", "II", "III"]
    assert found["first_ticket"].tolist()[:2] == [5, 5] and np.isnan(found["first_ticket"][2])
    assert found["first_random"][0] == 0
    with pytest.raises(ValueError, match="random control"):
        stability.ranges(table[table["branch"] == "ticket"])


def test_tables_that_are_none_are_explained():
    table = rows("barrier", "pair", {0: [0.1]})
    with pytest.raises(ValueError, match=r"lacks the columns \['at'\]"):
        stability.summary(table.drop(columns="at"))
    with pytest.raises(ValueError, match="no 'l2' of 'test'"):
        stability.summary(table, metric="l2")
    with pytest.raises(ValueError, match="`unit`"):
        stability.summary(table, unit="copy")


def outcome(weights, mask, said, labels, losses):
    tree = {"layer": {"kernel": np.asarray(weights), "bias": np.ones(1)}}
    masks = {"layer": {"kernel": np.asarray(mask), "bias": None}}
    said, labels, losses = (np.asarray(x) for x in (said, labels, losses))
    return distances.Outcome(tree, masks, said, losses, labels)


def test_distances_by_hand():
    labels = [0, 1, 2, 3, 0]
    a = outcome([3.0, 0.0, 4.0], [True, False, True], [0, 1, 2, 0, 0], labels, [0, 0, 0, 3, 0])
    b = outcome([0.0, 0.0, 4.0], [False, False, True], [1, 1, 2, 1, 0], labels, [4, 0, 0, 3, 0])
    of = {name: f(a, b) for name, f in distances.DISTANCES.items()}
    assert of["l2"] == 3
    # the biases are weights too
    assert of["cosine"] == pytest.approx(1 - 17 / np.sqrt(26 * 17))
    assert of["mask_hamming"] == pytest.approx(1 / 3) and of["mask_iou"] == 0.5
    # wrong: 1 and 2, so at most 3 could differ
    assert of["disagreement"] == 2 and of["disagreement_share"] == pytest.approx(2 / 3)
    assert of["loss_l2"] == 4
    for name, f in distances.DISTANCES.items():
        assert f(a, b) == pytest.approx(f(b, a)), name
        assert f(a, a) == pytest.approx(float(name == "mask_iou"), abs=1e-12), name
    right = outcome([1.0, 1.0, 1.0], [True] * 3, labels, labels, [0] * 5)
    assert distances.disagreement_share(right, right) == 0
