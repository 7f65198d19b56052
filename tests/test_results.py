"""Arrays with labels, logs of evaluations and checks of tables."""

import numpy as np
import pandas as pd
import pytest

from jaxticket import results
from jaxticket.results import COLUMNS, EvaluationLog, Labeled

AXES = {
    "state": {"level": [0, 2], "seed": [5, 7]},
    "alpha": {"alpha": [0.0, 0.5, 1.0]},
    "metric": {"metric": ("loss", "accuracy")},
}
FOUND = Labeled(np.arange(12, dtype=np.float32).reshape(2, 3, 2), AXES)


def test_a_labeled_array_is_picked_from_by_labels():
    losses = FOUND.at(metric="loss")
    assert list(losses.axes) == ["state", "alpha"]
    np.testing.assert_array_equal(losses.values, [[0, 2, 4], [6, 8, 10]])
    np.testing.assert_array_equal(FOUND.at(metric="accuracy", alpha=0.5).values, [3, 9])
    ends = FOUND.only("alpha", (1.0, 0.0))
    np.testing.assert_array_equal(ends.at(metric="loss").values, [[4, 0], [10, 6]])
    assert ends.axes["alpha"] == {"alpha": [1.0, 0.0]} and ends.axes["state"] == AXES["state"]
    highest = FOUND.reduced("alpha", lambda x: x.max(axis=-1))
    np.testing.assert_array_equal(highest.values, [[4, 5], [10, 11]])
    assert list(highest.axes) == ["state", "metric"]


def test_a_labeled_array_is_a_tidy_table():
    table = FOUND.at(alpha=0.5).table(split="test")
    wanted = pd.DataFrame(
        {
            "level": [0, 0, 2, 2],
            "seed": [5, 5, 7, 7],
            "metric": ["loss", "accuracy"] * 2,
            "split": ["test"] * 4,
            "value": [2.0, 3.0, 8.0, 9.0],
        }
    )
    pd.testing.assert_frame_equal(table, wanted)


def test_axes_need_a_label_for_each_place():
    with pytest.raises(ValueError, match="`axes` has other than 3 labels for the axis 'alpha'"):
        Labeled(FOUND.values, {**AXES, "alpha": {"alpha": [0.0, 1.0]}})


def test_a_log_takes_the_replicas_of_its_group():
    calls, seeds, groups = 3, (4, 9), 2
    replicas = groups * len(seeds)
    arrays = {
        "steps": np.arange(calls * replicas).reshape(calls, replicas),
        "wanted": np.asarray([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 0]], bool),
        "values": np.arange(calls * replicas * 2, dtype=np.float32).reshape(calls, replicas, 1, 2),
        "diverged": np.asarray([-1, 3, -1, 8]),
    }
    log = EvaluationLog.of_group(
        arrays, 1, seeds=seeds, level=2, density=np.asarray([0.5, 0.4]), branch="reinit",
        dilation=0.5,
    )  # fmt: skip
    np.testing.assert_array_equal(log.steps, [[2, 3], [6, 7], [10, 11]])
    np.testing.assert_array_equal(log.diverged, [-1, 8])
    # each replica's last evaluation that counts
    np.testing.assert_array_equal(log.final(), [[[20, 21]], [[6, 7]]])
    table = results.tidy([log], splits=("test",), metrics=("loss", "accuracy"), precision="float32")
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert set(table["dilation"]) == {0.5} and set(table["branch"]) == {"reinit"}
    np.testing.assert_array_equal(table.query("seed == 9 and metric == 'loss'")["value"], [6.0])
    assert table.query("seed == 4")["step"].unique().tolist() == [2, 6, 10]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([1, 2], "`rows` must be a DataFrame, got list; pass a run's"),
        (
            pd.DataFrame({"seed": [1]}),
            r"`rows` lacks the columns \['level', 'at'\], it has \['seed",
        ),
        (
            pd.DataFrame(columns=["seed", "level", "at"]),
            r"`rows` is empty \(0 rows\); pass a run's",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_all_that_it_lacks(table, message):
    columns = ("seed", "level", "at")
    with pytest.raises(ValueError, match=message):
        results.check_table(table, columns, argument="rows", remedy="pass a run's")
    results.check_table(pd.DataFrame([[1, 2, 3]], columns=columns), columns)
