"""The sweep for pods runs on one process as it does on many, and stops and continues."""

import sys

import pandas as pd
import pytest

import jaxticket as jt
from experiments import pod


def sweep(folder, **changes):
    small = {"data": "digits", "seeds": 2, "steps": 20, "levels": 1, **changes}
    pod.main(pod.Settings(folder=str(folder), **small))


@pytest.fixture
def one_process(monkeypatch):
    """JAX has started in the process of the tests."""
    monkeypatch.setattr(jt, "distributed", lambda: False)
    monkeypatch.setattr(jt, "cpu_devices", lambda: None)


def test_a_sweep_stops_in_time_and_continues(one_process, tmp_path, capsys):
    with pytest.raises(jt.RunInterrupted) as stop:
        sweep(tmp_path / "run", budget=1e-6)
    assert stop.value.exit_status == 75
    sweep(tmp_path / "run")
    said = capsys.readouterr().out
    assert "2 seeds on 2 x 2 devices of 1 host\n" in said and said.count(" to ") == 3
    runs = jt.load(tmp_path / "run")
    assert runs.seeds == (0, 1) and runs.levels == (0, 1)
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert list(summary["level"]) == [0, 1]


def test_errors_of_the_user_are_said_without_a_traceback(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pod", "--preset", "lenet-minst"])
    monkeypatch.setattr(jt, "distributed", lambda: False)
    monkeypatch.setattr(jt, "cpu_devices", lambda: None)
    with pytest.raises(SystemExit):
        pod.launch(pod.main, pod.Settings)
    assert "did you mean 'lenet-mnist'" in capsys.readouterr().err
