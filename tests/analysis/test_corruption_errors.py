"""The probe of corruptions, and mean corruption errors, against sums by hand."""

import dataclasses

import numpy as np
import pytest
from test_measure import DATA, NET, find, measure, runs

import jaxticket as jt
from jaxticket.engine.metrics import Batched

PROBE = jt.probes.Corruptions(names=("fog", "brightness"), severities=(1, 5))


def errors_by_hand(ticket, x, y):
    x = ((x - DATA.mean) / DATA.std).astype(np.float32)
    logits, _ = NET.apply(ticket.params, ticket.stats, x, train=False)
    return np.mean(np.argmax(np.asarray(logits), 1) != y)


def test_errors_are_those_of_the_corrupted_split():
    table = measure(runs(), PROBE, split="test", examples=50, levels=(1,), seeds=(0, 2))
    for seed in (0, 2):
        own = table[table["seed"] == seed]
        value = own.set_index(["metric", "index"]).value
        chosen = np.arange(50) * 80 // 50
        y, ticket = DATA.test.y[chosen], runs().ticket(1, seed)
        every = []
        for name in PROBE.names:
            for place, severity in enumerate(PROBE.severities):
                x = jt.data.corrupted(DATA, name, severity).test.x[chosen]
                every.append(errors_by_hand(ticket, x, y))
                assert value[f"error_{name}", place] == pytest.approx(every[-1], abs=1e-6)
        assert value["mean_error", 0] == pytest.approx(np.mean(every), rel=1e-5)
        clean = errors_by_hand(ticket, DATA.test.x[chosen], y)
        assert value["clean_error", 0] == pytest.approx(clean, abs=1e-6)
        assert value["corruptions", 0] == 2 and len(own) == 7
    assert len(set(table.value.round(4))) > 5


def test_images_are_made_once_and_filled_up():
    made = PROBE.prepare(DATA, "test", 60)["corrupted"]
    assert isinstance(made, Batched) and made.x.shape == (4, 60, 8, 8, 1)
    again = dataclasses.replace(DATA, name="other")
    assert PROBE.prepare(again, "test", 60)["corrupted"] is made
    darker = dataclasses.replace(DATA, test=DATA.train)
    assert PROBE.prepare(darker, "test", 60)["corrupted"].x is not made.x
    # sets of one size, in several batches
    x = np.zeros((260, 4, 4, 1), np.uint8)
    x[0] = 255
    many = jt.data.from_arrays(x, np.arange(260) % 2, x, np.arange(260) % 2)
    made = PROBE.prepare(many, "test", None)["corrupted"]
    assert made.x.shape == (8, 250, 4, 4, 1) and made.x.dtype == np.uint8
    assert made.split.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert ((made.y >= 0).sum(1) == [250, 10] * 4).all()
    # gray images have no saturation
    assert len(jt.probes.Corruptions(severities=(1,)).prepare(DATA, "test", 4)["corrupted"].y) == 18


def table_of(errors, *, level=1, branch="ticket", diverged=-1):
    """Rows of errors {seed: {corruption: [by severity]}}."""
    import pandas as pd

    rows = [
        (seed, level, 0.5, branch, f"error_{name}", i, value, diverged)
        for seed, own in errors.items() for name, values in own.items()
        for i, value in enumerate(values)
    ]  # fmt: skip
    columns = ["seed", "level", "density", "branch", "metric", "index", "value", "diverged"]
    return pd.DataFrame(rows, columns=columns)


ERRORS = {0: {"fog": [0.1, 0.3], "snow": [0.2, 0.2]}, 1: {"fog": [0.5, 0.3], "snow": [0.2, 0.6]}}
DENSE = {0: {"fog": [0.1, 0.1], "snow": [0.4, 0.4]}, 1: {"fog": [0.4, 0.4], "snow": [0.4, 0.1]}}


def values_of(found):
    return {(r.seed, r.metric): r.value for r in found.itertuples()}


def test_mean_corruption_errors_by_hand():
    table, dense = table_of(ERRORS), table_of(DENSE, level=0)
    found = jt.mean_corruption_error(table, dense)
    assert list(found.columns) == list(table.columns) and len(found) == 6
    value = values_of(found)
    assert value[0, "ce_fog"] == pytest.approx(2) and value[0, "ce_snow"] == pytest.approx(0.5)
    assert value[0, "mce"] == pytest.approx(1.25) and value[1, "mce"] == pytest.approx(1.3)
    both = jt.results.concat([table, dense])
    own = jt.mean_corruption_error(both)
    assert own[own.level == 0].value.tolist() == pytest.approx([1.0] * 6) and len(own) == 12
    assert values_of(own[own.level == 1]) == value
    # what diverged has no number, and neither has what is compared with it
    lost = {0: {"fog": [0.1, np.nan], "snow": [0.2, 0.2]}, 1: ERRORS[1]}
    unpruned = table_of(lost)
    unpruned.loc[unpruned["seed"] == 0, "density"] = np.nan
    found = values_of(jt.mean_corruption_error(unpruned, dense))
    assert np.isnan(found[0, "mce"]) and np.isnan(found[0, "ce_fog"]) and found[1, "mce"] > 1
    found = values_of(jt.mean_corruption_error(dense.assign(level=1), table_of(lost)))
    assert np.isnan(found[0, "mce"]) and np.isfinite(found[1, "mce"])


def test_tables_that_cannot_be_compared_are_refused():
    table, dense = table_of(ERRORS), table_of(DENSE, level=0)
    fog = dense[dense.metric == "error_fog"]
    cases = [
        ((table,), "`dense` is needed"),
        ((table, dense[dense["seed"] == 0]), r"`dense` has no networks of the seeds \[1\]"),
        (
            (table, jt.results.concat([dense, dense.assign(level=2)])),
            "`dense` has several networks",
        ),
        ((table, fog), r"`dense` has other corruptions than `table`: \['error_snow'\]"),
        ((table, dense[dense["index"] == 0]), "`dense` has other numbers of severities"),
        ((table, dense.assign(value=0.0)), "`dense` has no errors on 'fog' with seed 0"),
        ((jt.results.concat([table, table.assign(value=0.5)]), dense), "`table` has two values"),
        ((table.assign(metric="loss"), dense), "`table` has no errors of corruptions"),
        ((table.drop(columns="index"), dense), "`table` lacks the columns"),
        (([1], dense), "`table` must be a DataFrame"),
        ((table, "dense"), "`dense` must be a DataFrame"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            jt.mean_corruption_error(*arguments)


def test_what_cannot_be_measured_is_refused_by_name():
    cases = [
        ({"names": "mist"}, "`names` must be one of"),
        ({"names": ()}, "`names` is empty"),
        ({"names": ("fog", "fog")}, "`names` must be distinct"),
        ({"severities": (0,)}, "`severities`"),
        ({"severities": ()}, "`severities` is empty"),
        ({"severities": 6}, "`severities`"),
        ({"seed": -1}, "`seed`"),
        ({"source": "file"}, "`source` must be one of"),
        ({"data_dir": "."}, "`data_dir`='.' is not used"),
        ({"source": "prepared", "seed": 3}, "`seed`=3 is not used"),
        ({"source": "prepared", "data_dir": 3}, "`data_dir`"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            jt.probes.Corruptions(**options)
    with pytest.raises(ValueError, match=r"`names` has 'saturate', which changes nothing"):
        measure(runs(), jt.probes.Corruptions(names=("fog", "saturate")))
    with pytest.raises(ValueError, match=r"`split` is 'train'"):
        measure(runs(), jt.probes.Corruptions(source="prepared"))
    rows = np.zeros((4, 3), np.float32)
    numbers = jt.data.from_arrays(rows, np.arange(4) % 2, rows, np.arange(4) % 2)
    with pytest.raises(ValueError, match=r"`data` must hold images"):
        PROBE.prepare(numbers, "test", None)
    numbers = jt.data.from_arrays(*[DATA.train.x, DATA.train.y * 0.5] * 2, labels="numbers")
    with pytest.raises(ValueError, match="labels of kind 'numbers'"):
        PROBE.prepare(numbers, "test", None)


def test_networks_that_diverged_are_nan():
    lost = find(jt.Training(steps=4, batch_size=16, lr=1e25, eval_every=4, eval_batch_size=48))
    table = measure(lost, PROBE, seeds=(0,), split="test", examples=50)
    assert table.value.isna().all() and len(table) == 2 * 7
