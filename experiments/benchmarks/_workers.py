"""Variants of a benchmark in worker processes of their own, measured in turn, round after round.

A shared machine's speed varies by a factor of 2 over time, so every ratio is of two rates of the
same round. Only one variant works at a time; the others wait for a line on their standard input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

Measure = Callable[[], dict[str, Any]]
Round = dict[Any, dict[str, Any]]


def answer(prepare: Callable[[], tuple[Measure, dict[str, Any]]]) -> None:
    """The worker's side: prepares, then measures whenever a line arrives; answers in JSON lines."""
    replies = sys.stdout
    # whatever libraries print must not be taken for an answer
    with contextlib.redirect_stdout(sys.stderr):
        measure, report = prepare()
        print(json.dumps(report), file=replies, flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure()), file=replies, flush=True)


class _Workers:
    """The processes of one variant."""

    def __init__(self, module: str, variant: Any, *more: Any) -> None:
        task = json.dumps([dataclasses.asdict(variant), *more])
        self.name = variant.name
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, "worker", task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(variant.processes)
        ]  # fmt: skip
        self.report = self._answers()[0]

    def _answers(self) -> list[dict[str, Any]]:
        lines = [process.stdout.readline() for process in self.processes if process.stdout]
        if not all(lines):
            raise SystemExit(f"a worker of {self.name!r} ended; its error is above")
        return [json.loads(line) for line in lines]

    def measure(self) -> dict[str, Any]:
        """The rates of all processes together, and what else the first one says."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = self._answers()
        return answers[0] | {"rate": sum(answer["rate"] for answer in answers)}

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.kill()
            process.wait()


def measured(
    module: str, variants: Sequence[Any], *more: Any, rounds: int
) -> tuple[list[Round], Round]:
    """Measures every variant in every round.

    Args:
      module: the benchmark; run as `python -m MODULE worker TASK`, with TASK the JSON text of the
        variant's fields and `more`.
      variants: what to measure: frozen dataclasses with a `name` and a number of `processes`.
      *more: given to every worker.
      rounds: how often.

    Returns:
      For each round what each variant answered, and what each reported after its preparation.
    """
    with contextlib.ExitStack() as stack:
        pool = []
        for variant in tqdm(variants, desc="starting workers", unit=""):
            pool.append(_Workers(module, variant, *more))
            stack.callback(pool[-1].close)
        result: list[Round] = [{} for _ in range(rounds)]
        with tqdm(total=rounds * len(variants), desc="measuring", unit="") as bar:
            for answers in result:
                for variant, workers in zip(variants, pool, strict=True):
                    answers[variant] = workers.measure()
                    bar.update()
        return result, {v: workers.report for v, workers in zip(variants, pool, strict=True)}


def looped(
    step: Callable[[], None],
    finish: Callable[[], None],
    seconds: float,
    *,
    block: int,
    worth: float = 1,
) -> Measure:
    """Measures a Python loop over steps for so many seconds.

    Args:
      step: one step.
      finish: waits for all steps to end.
      seconds: length of a measurement.
      block: steps between two looks at the clock.
      worth: what one step counts in the rate.
    """

    def measure() -> dict[str, Any]:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(block):
                step()
            # without it a loop of asynchronous calls would run ahead of the clock
            finish()
            steps += block
        return {"rate": worth * steps / (time.perf_counter() - began)}

    return measure


def rates(variants: Sequence[Any], rounds: Sequence[Round]) -> dict[str, dict[str, float]]:
    """Median, least and greatest rate of each variant."""
    result = {}
    for variant in variants:
        values = [answers[variant]["rate"] for answers in rounds]
        result[variant.name] = {
            "median": float(np.median(values)), "min": min(values), "max": max(values),
        }  # fmt: skip
    return result


def print_rates(unit: str, of: dict[str, dict[str, float]]) -> None:
    """A table of `rates`."""
    print(f"{unit:<56} median    min    max")
    for name, values in of.items():
        print(f"{name:<56} {values['median']:6.0f} {values['min']:6.0f} {values['max']:6.0f}")
