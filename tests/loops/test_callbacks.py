"""Callbacks after evaluations: the rows of the table, once, where they can be watched."""

import os
import signal
import sys
import types

import jax
import pandas as pd
import pytest
from few_digits import DATA

import jaxticket as jt

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
TRAINING = jt.Training(steps=8, batch_size=16, lr=0.01, eval_every=2, eval_batch_size=48)
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=2)
KEY = ["branch", "level", "dilation", "seed", "step", "split", "metric"]


def find(training=TRAINING, **options):
    options = {"seeds": (0, 1), "branches": ["reinit"], **options}
    if "runtime" not in options:
        options["progress"] = False
    return jt.find_tickets(NET, DATA, training, PRUNING, **options)


def sorted_table(rows):
    table = pd.DataFrame(rows).drop(columns="precision", errors="ignore")
    return table.sort_values(KEY, ignore_index=True)


def agree(rows, runs):
    pd.testing.assert_frame_equal(
        sorted_table(rows), sorted_table(runs.table()), check_like=True, rtol=0, check_dtype=False
    )


def test_rows_are_those_of_the_table():
    seen, counts = [], []
    runs = find(on_evaluation=[seen.extend, lambda rows: counts.append(len(rows))])
    agree(seen, runs)
    # one call for each evaluation of the networks that are trained side by side
    assert len(counts) == 5 + 5 and sum(counts) == len(seen)
    assert set(seen[0]) >= set(jt.results.COLUMNS)


def test_few_at_once_and_other_ways_to_find_tickets_report_too():
    mesh = jt.parallel.mesh(devices=jax.devices()[:1])
    seen, branched, early = [], [], []
    runs = find(runtime=jt.Runtime(mesh, at_once=1, progress=False, on_evaluation=seen.extend))
    agree(seen, runs)
    again = jt.branch(
        runs, "retrain", dilation=(1, 2), progress=False, on_evaluation=branched.extend
    )
    agree(branched, again)
    pruned = jt.prune_at(
        NET, DATA, TRAINING, score="magnitude", density=(0.5, 0.2), seeds=(0,), progress=False,
        on_evaluation=early.extend,
    )  # fmt: skip
    agree(early, pruned)


def test_a_value_of_one_that_diverged_is_nan():
    seen = []
    runs = find(TRAINING.replace(optimizer="sgd", lr=1e30), on_evaluation=seen.extend)
    own, table = sorted_table(seen), sorted_table(runs.table())
    # the last update alone shows only at the end of training
    before = own.step < 8
    pd.testing.assert_series_equal(own.value[before], table.value[before])
    assert own.value[before].isna().any()


class Stop:
    """Collects rows, and sends a signal after some calls."""

    def __init__(self, after):
        self.left, self.rows = after, []

    def __call__(self, rows):
        self.rows += rows
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_reports_nothing_twice(tmp_path):
    stop, rest = Stop(7), []
    with pytest.raises(jt.RunInterrupted, match="stopped by SIGTERM"):
        find(folder=tmp_path, on_evaluation=stop)
    runs = find(folder=tmp_path, on_evaluation=rest.extend)
    assert stop.rows and rest
    agree(stop.rows + rest, runs)
    # the folder does not know of callbacks, and a finished run computes nothing
    find(folder=tmp_path, on_evaluation=lambda rows: pytest.fail("nothing is new"))


def test_an_exception_of_a_callback_ends_the_run_and_says_whose_it_is(tmp_path):
    def broken(rows):
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column") as caught:
        find(folder=tmp_path, on_evaluation=broken)
    (note,) = caught.value.__notes__
    assert "`on_evaluation`" in note and "broken" in note and str(tmp_path) in note
    find(folder=tmp_path)


def test_what_is_refused():
    for wrong in (3, "rows.csv", jt.callbacks.CSV, [print, None]):
        with pytest.raises(ValueError, match="`on_evaluation` must be a function of rows"):
            jt.Runtime(on_evaluation=wrong)
    with pytest.raises(ValueError, match="`on_evaluation` is given next to `runtime`"):
        find(runtime=jt.Runtime(), on_evaluation=print)
    with pytest.raises(ValueError, match="`time_budget` must be a finite number above 0"):
        jt.Runtime(time_budget=0)
    with pytest.raises(ValueError, match="`time_budget` 5 needs a `folder`"):
        find(runtime=jt.Runtime(time_budget=5))


def test_csv_holds_every_row_once(tmp_path):
    path, folder = tmp_path / "new" / "rows.csv", tmp_path / "run"
    runs = find(on_evaluation=jt.callbacks.CSV(path))
    agree(pd.read_csv(path), runs)
    # killed while it wrote, and run again from the start
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    find(folder=folder, on_evaluation=jt.callbacks.CSV(path))
    agree(pd.read_csv(path), runs)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"`path` .* has other columns"):
        jt.callbacks.CSV(path)([{}])


ROWS = [
    {
        "seed": 3, "level": 1, "density": 0.5, "branch": "ticket", "step": step, "split": "test",
        "metric": metric, "value": step / 4, "dilation": dilation, "diverged": -1,
    }
    for step in (0, 2)
    for dilation in (1.0, 2.0)
    for metric in ("loss", "accuracy")
]  # fmt: skip


def module(monkeypatch, name, **members):
    made = types.ModuleType(name)
    made.__spec__ = types.SimpleNamespace()
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)


def test_tensorboard_has_a_run_for_each_network(tmp_path, monkeypatch):
    written = {}

    class SummaryWriter:
        def __init__(self, folder):
            self.own = written.setdefault(folder, [])

        def add_scalar(self, tag, value, step):
            self.own.append((tag, value, step))

        def flush(self):
            self.own.append("flush")

        def close(self):
            self.own.append("close")

    module(monkeypatch, "tensorboardX", SummaryWriter=SummaryWriter)
    board = jt.callbacks.TensorBoard(tmp_path)
    board(ROWS)
    board.close()
    usual = str(tmp_path / "ticket/level-1/seed-3")
    assert set(written) == {usual, f"{usual}/dilation-2"}
    assert written[usual] == [
        ("test/loss", 0.0, 0), ("test/accuracy", 0.0, 0), ("test/loss", 0.5, 2),
        ("test/accuracy", 0.5, 2), "flush", "close",
    ]  # fmt: skip


def test_wandb_has_a_step_for_each_network(monkeypatch):
    begun, logged, defined = [], [], []

    class Run:
        def define_metric(self, name, **options):
            defined.append((name, options))

        def log(self, row):
            logged.append(row)

        def finish(self):
            logged.append("finish")

    module(monkeypatch, "wandb", init=lambda **options: begun.append(options) or Run())
    callback = jt.callbacks.WandB(project="tickets", mode="offline")
    assert not begun
    callback(ROWS[:4])
    callback(ROWS[4:])
    callback.close()
    name = "ticket/level-1/seed-3"
    assert begun == [{"project": "tickets", "mode": "offline"}]
    assert (f"{name}/*", {"step_metric": f"{name}/step"}) in defined and len(defined) == 4
    assert logged[0] == {f"{name}/step": 0, f"{name}/test/loss": 0.0, f"{name}/test/accuracy": 0.0}
    assert logged[3][f"{name}/dilation-2/step"] == 2 and logged[-1] == "finish"


@pytest.mark.parametrize(
    ("make", "extra"), [(jt.callbacks.TensorBoard, "tensorboard"), (jt.callbacks.WandB, "wandb")]
)
def test_a_missing_package_is_named_with_its_extra(make, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"jaxticket\[{extra}\]"):
        make(**({"folder": "logs"} if extra == "tensorboard" else {}))


def test_a_time_budget_saves_and_the_same_call_goes_on(tmp_path):
    training, calls = TRAINING.replace(steps=120, eval_every=2), 0
    whole = find(training, branches=())
    runtime = jt.Runtime(folder=tmp_path, time_budget=0.05, progress=False)
    while True:
        calls += 1
        try:
            runs = find(training, branches=(), runtime=runtime)
            break
        except jt.RunInterrupted as stop:
            assert stop.signal == 0 and stop.exit_status == 75
            assert "by the time budget" in str(stop) and "run the same command" in str(stop)
        if calls == 3:
            runtime = jt.Runtime(folder=tmp_path, progress=False)
    assert calls > 1
    pd.testing.assert_frame_equal(runs.table(), whole.table())


def names(rows):
    """The branches of rows with the steps that they tell of; no row comes twice."""
    table = pd.DataFrame(rows)
    assert not table.duplicated(KEY).any()
    return {branch: sorted(set(own.step)) for branch, own in table.groupby("branch")}


def test_dense_training_on_the_way_reports_as_dense():
    seen = []
    runs = jt.prune_at(
        NET, DATA, TRAINING, score="magnitude", step=4, density=0.5, dense=False, seeds=(0, 1),
        progress=False, on_evaluation=seen.extend,
    )  # fmt: skip
    assert names(seen)["dense"] == [0, 2, 4]
    agree([row for row in seen if row["branch"] != "dense"], runs)
    first = {
        (row["seed"], row["metric"]): row["value"]
        for row in seen
        if (row["branch"], row["step"], row["split"]) == ("dense", 4, "test")
    }
    whole = find(branches=()).table()
    there = whole[(whole.level == 0) & (whole.step == 4) & (whole.split == "test")]
    assert first == {(row["seed"], row["metric"]): row["value"] for _, row in there.iterrows()}


def test_a_search_reports_what_it_looks_at_and_its_teachers(tmp_path):
    rest, stop = [], Stop(9)
    method = jt.SEARCHES["kd_lts"](teachers=2, stage=0.25, epochs=6, freeze_every=2)
    options = {"density": 0.5, "steps": 6, "seeds": (0, 1), "folder": tmp_path, "progress": False}
    with pytest.raises(jt.RunInterrupted):
        jt.search(NET, DATA, TRAINING, method, **options, on_evaluation=stop)
    runs = jt.search(NET, DATA, TRAINING, method, **options, on_evaluation=rest.extend)
    seen = stop.rows + rest
    told = names(seen)
    assert told["teacher-0"] == told["teacher-1"] == [0, 2]
    trace = runs.trace()
    assert told["search"] == sorted(set(trace.step))
    for row in seen:
        if row["branch"] == "search":
            (own,) = trace[(trace["seed"] == row["seed"]) & (trace.step == row["step"])].to_dict(
                "records"
            )
            assert row["value"] == own[row["metric"]] and row["density"] == own["density"]
    kept = runs.table()
    agree([row for row in seen if row["branch"] in set(kept.branch)], runs)


def test_instability_reports_dense_networks_and_every_copy():
    seen = []
    runtime = jt.Runtime(progress=False, on_evaluation=seen.extend)
    found = jt.instability(
        NET, DATA, TRAINING, at=(0, 4), seeds=(0, 1), points=3, distances=(), runtime=runtime
    )
    told = names(seen)
    assert set(told) == {"dense"} | {f"ticket/step-{k}/copy-{n}" for k in (0, 4) for n in (0, 1)}
    assert told["dense"] == [0, 4] and told["ticket/step-4/copy-1"] == [4, 8]
    ended = {
        (row["seed"], row["branch"]): row["value"]
        for row in seen
        if (row["step"], row["split"], row["metric"]) == (8, "test", "loss")
    }
    assert len(ended) == 8 and len(found.costs()) > 0
