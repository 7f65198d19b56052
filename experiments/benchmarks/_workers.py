"""Variants of a benchmark, each in its worker processes, measured in turn, round after round.

A shared machine's speed varies by a factor of 2 over time, so every ratio is of two rates of the
same round. Only one variant works at a time; the others wait for a line on their standard input.
Every other round goes through the variants backward, so that none is always measured first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from jaxticket._progress import progress

Answer = dict[str, float]
"""What a worker measured; "rate" is the main number."""
Report = dict[str, float | str]
"""What a worker says after its preparation."""
Measure = Callable[[], Answer]


class Variant(Protocol):
    """One way to do what is measured: a frozen dataclass of values for JSON."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    @property
    def processes(self) -> int:
        """Workers that run at the same time."""
        ...


V = TypeVar("V", bound=Variant)


def answer(prepare: Callable[[], tuple[Measure, Report]]) -> None:
    """Prepare in a worker, then measure whenever a line arrives and answer in a line of JSON."""
    replies = sys.stdout
    # whatever libraries print must not be taken for an answer
    with contextlib.redirect_stdout(sys.stderr):
        measure, report = prepare()
        print(json.dumps(report), file=replies, flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure()), file=replies, flush=True)


class _Workers:
    """The processes of one variant."""

    def __init__(self, module: str, variant: Variant, *more: object) -> None:
        """Start them and wait until they are prepared."""
        task = json.dumps([dataclasses.asdict(variant), *more])
        self.name = variant.name
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, "worker", task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(variant.processes)
        ]  # fmt: skip
        self.report: Report = json.loads(self._lines()[0])

    def _lines(self) -> list[str]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout]
        if not all(lines):
            raise SystemExit(f"a worker of {self.name!r} ended; its error is above")
        return lines

    def measure(self) -> Answer:
        """Measure the rate of all processes together, and what else the first one measures."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers: list[Answer] = [json.loads(line) for line in self._lines()]
        return answers[0] | {"rate": sum(answer["rate"] for answer in answers)}

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
            process.wait()


def measured(
    module: str, variants: Sequence[V], *more: object, rounds: int
) -> tuple[list[dict[V, Answer]], dict[V, Report]]:
    """Measure every variant in every round.

    Args:
      module: the benchmark; run as `python -m MODULE worker TASK`, with TASK the JSON text of the
        variant's fields and `more`.
      variants: what to measure.
      *more: further values for every worker.
      rounds: how often.

    Returns:
      For each round the answer of each variant, and the report of each after its preparation.
    """
    with contextlib.ExitStack() as stack:
        pool: dict[V, _Workers] = {}
        for variant in progress(variants, title="starting workers", unit=""):
            pool[variant] = _Workers(module, variant, *more)
            stack.callback(pool[variant].close)
        result: list[dict[V, Answer]] = [{} for _ in range(rounds)]
        with progress(total=rounds * len(variants), title="measuring", unit="") as bar:
            for i, answers in enumerate(result):
                for variant in variants if i % 2 == 0 else variants[::-1]:
                    answers[variant] = pool[variant].measure()
                    bar.update()
        return result, {variant: workers.report for variant, workers in pool.items()}


def looped(
    step: Callable[[], None],
    finish: Callable[[], None],
    seconds: float,
    *,
    block: int,
    worth: float = 1,
) -> Measure:
    """Give the function that measures a Python loop over steps.

    Args:
      step: one step.
      finish: waits for all steps to end.
      seconds: length of a measurement.
      block: steps between two looks at the clock.
      worth: what one step counts in the rate.
    """

    def measure() -> Answer:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(block):
                step()
            # without it a loop of asynchronous calls would run ahead of the clock
            finish()
            steps += block
        return {"rate": worth * steps / (time.perf_counter() - began)}

    return measure


def host_batches(examples: int, size: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Draw index arrays of batches of a shape, without end."""
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, examples, size)


def rates(variants: Sequence[V], rounds: Sequence[dict[V, Answer]]) -> dict[str, dict[str, float]]:
    """Compute the median, least and greatest rate of each variant."""
    result = {}
    for variant in variants:
        values = [answers[variant]["rate"] for answers in rounds]
        result[variant.name] = {
            "median": float(np.median(values)), "min": min(values), "max": max(values),
        }  # fmt: skip
    return result


def print_rates(unit: str, of: dict[str, dict[str, float]]) -> None:
    """Print a table of `rates`."""
    print(f"{unit:<56} median    min    max")
    for name, values in of.items():
        print(f"{name:<56} {values['median']:6.0f} {values['min']:6.0f} {values['max']:6.0f}")
