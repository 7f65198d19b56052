"""What saving the state costs while LeNet-300-100 trains: at once, in the background, and not.

Seeds side by side on random images of the size of MNIST's, warm, with a save after every
evaluation into a temporary folder on disk. The forms are measured in turn, and what a save costs is
the difference to the training of the same round without saves. In the background much of it is time
that the writing thread takes from the training where both share the cores of a CPU.

Command:  python -m experiments.benchmarks.saves [--seeds 8 --publish]
Cost:     162 s on 2 cores of an AMD EPYC
Expected: on these cores, eight networks: 164 ms for each save at once, 49 in the background, where
          training waits for a copy to the host alone (medians of 5 rounds)
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish

FORMS = ("none", "at once", "background")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Seconds of training with saves."""

    steps: int = 2000
    """Of each training."""
    eval_every: int = 250
    """Steps between evaluations, each of which is followed by a save."""
    batch_size: int = 60
    """Examples of a step."""
    seeds: int = 8
    """Networks side by side."""
    rounds: int = 5
    """How often each is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/saves.csv and saves.json."""


def main(settings: Settings) -> None:
    """Measure every form."""
    jt.cpu_devices()
    here = machine("jax", "numpy", "orbax-checkpoint") | {"platform": jax.default_backend()}
    print(f"{here}\n")
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (5000, 28, 28, 1), np.uint8)
    y = draw.integers(0, 10, 5000).astype(np.int32)
    data = jt.data.from_arrays(x, y, x[:100], y[:100], name="random")
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(
        steps=settings.steps, batch_size=settings.batch_size, optimizer="adam", lr=1e-3,
        eval_every=settings.eval_every, eval_train_examples=100, eval_batch_size=100,
    )  # fmt: skip

    def seconds(form: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            runtime = jt.Runtime(
                folder=Path(folder) / "run", progress=False, async_saves=form == "background",
                save_every=1e9 if form == "none" else 0.0,
            )  # fmt: skip
            began = time.perf_counter()
            jt.find_tickets(
                net, data, training, jt.Pruning(levels=0), seeds=range(settings.seeds),
                runtime=runtime,
            )  # fmt: skip
            return time.perf_counter() - began

    for form in FORMS:
        seconds(form)
    rows: list[Row] = []
    saves = settings.steps // settings.eval_every
    for number in range(settings.rounds):
        base = 0.0
        for form in FORMS:
            taken = seconds(form)
            base = taken if form == "none" else base
            each = 1e3 * (taken - base) / saves
            rows.append({"form": form, "round": number, "seconds": taken, "ms_per_save": each})
    print(f"{saves} saves of {settings.seeds} networks, {settings.rounds} rounds")
    for form in FORMS:
        own = [row for row in rows if row["form"] == form]
        whole = np.median([row["seconds"] for row in own])
        each = np.array([row["ms_per_save"] for row in own])
        print(
            f"  {form:<12}{whole:7.2f} s   ms for each save "
            f"{np.median(each):7.1f} ({each.min():.1f} to {each.max():.1f})"
        )
    if settings.publish:
        publish("saves", rows, {"machine": here, "settings": dataclasses.asdict(settings)})


if __name__ == "__main__":
    main(tyro.cli(Settings))
