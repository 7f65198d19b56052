"""Progress: a bar in terminals and notebooks, elsewhere a few lines of text."""

import io
import sys
import types

import pytest

import jaxticket as jt
from jaxticket import _progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed."""
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def test_lines_come_at_most_every_ten_seconds(capsys, clock):
    bar = _progress.progress(total=4000)
    bar.set_description("level 1, ticket")
    _progress.note(bar, "compiling")
    clock.now = 30
    _progress.note(bar, "")
    for _ in range(300):
        bar.update(10)
        clock.now += 0.1
    bar.close()
    said = capsys.readouterr().err
    first, *lines, last = said.splitlines()
    assert (first, last) == ("level 1, ticket: compiling", "ended after 01:00, at 75%")
    assert len(lines) == 2 and "\r" not in said
    # the rate leaves out the time of compiling
    assert lines[-1] == "level 1, ticket: 50% of 4.00k steps, 100 steps/s, 00:19 left"


def test_what_takes_a_moment_prints_nothing(capsys, clock):
    with _progress.progress(total=100) as bar:
        for _ in range(90):
            clock.now += 0.1
            bar.update(1)
    assert list(_progress.progress(range(3), title="digits")) == [0, 1, 2]
    with _progress.progress(total=3, shown=False) as bar:
        _progress.note(bar, "compiling")
        _progress.skip(bar, 2)
        clock.now += 100
        bar.update(1)
    assert capsys.readouterr() == ("", "")


def test_steps_of_an_earlier_process_say_nothing_of_the_rate(capsys, clock):
    bar = _progress.progress(total=4000)
    _progress.skip(bar, 3000)
    for _ in range(12):
        clock.now += 1
        bar.update(50)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "88% of 4.00k steps, 50.0 steps/s, 00:10 left"


def test_terminals_and_notebooks_get_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with _progress.progress(total=3) as bar:
        _progress.note(bar, "compiling")
    assert not isinstance(bar, _progress.Lines)
    assert "\r" in sys.stderr.getvalue() and "compiling" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: kernel))
    with _progress.progress(total=3) as bar:
        pass
    assert not isinstance(bar, _progress.Lines)


def test_a_run_says_that_it_compiles_and_prints_few_lines(capsys):
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, widths=(11,))
    training = jt.Training(steps=20, batch_size=30, eval_every=10)
    for _ in range(2):
        jt.find_tickets(net, data, training, jt.Pruning(levels=2), seeds=(0,))
    said = capsys.readouterr().err
    pruned, first, *rest = said.splitlines()
    assert pruned == "prunes 814 of 835 weights, in 2 of 2 layers; left out: 2 bias"
    # the second run finds everything compiled, and says what it prunes too
    assert first == "dense: compiling" and len(rest) <= 3 and "\r" not in said
    runs = jt.find_tickets(net, data, training, jt.Pruning(levels=1), seeds=(0,), progress=False)
    assert capsys.readouterr() == ("", "")
    jt.measure(runs, "gradient_norm", examples=20)
    # all that was to be measured was measured
    assert capsys.readouterr().err.splitlines()[-1].startswith("done in")
