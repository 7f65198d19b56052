"""Training speed of this checkout against another one, such as the commit before a change.

Both train the same networks on the same data, by `jt.find_tickets(..., levels=1)`: LeNet-300-100 at
batch 60 with its run saved (`lenet.py`) and ResNet-20 at batch 128 (`resnet20.py`). A first call
compiles and is not timed; rates are steps over the training seconds of both levels of later calls.

Each checkout has a worker process per network and number of seeds. The two of a pair are measured
directly after each other, in alternating order, round after round; what counts is the ratio of the
two rates of a round, since the speed of a shared machine varies by more than what is looked for.
Another checkout is made by `git worktree add ../before COMMIT`.

Command:  python -m experiments.benchmarks.against CHECKOUT [--only lenet --rounds 7 --publish]
Makes:    a table in the terminal; with --publish against.csv and against.json.
Cost:     not measured; by the number of steps about 7 minutes for each network on 2 CPU cores.
Expected: ratios of about 1 for two checkouts of one commit.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from experiments.benchmarks import lenet, resnet20
from experiments.benchmarks._machine import machine, publish
from experiments.benchmarks._workers import Answer, Measure, Report, answer, measured

ROOT = Path(__file__).resolve().parents[2]
SLOWER = 0.97
Benchmark = Literal["lenet", "resnet20"]
# steps of one measurement, the same for both checkouts: some seconds each
STEPS: dict[Benchmark, int] = {"lenet": 2 * lenet.INTERVAL, "resnet20": 6}
SEEDS: dict[Benchmark, tuple[int, ...]] = {"lenet": (1, 5), "resnet20": (1, 4)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Training speed of this checkout against another one."""

    checkout: Annotated[Path, tyro.conf.Positional]
    """Folder of the other checkout, which contains `jaxticket/`."""
    only: tuple[Benchmark, ...] = ("lenet", "resnet20")
    """Networks to measure."""
    rounds: int = 7
    """How often every pair is measured."""
    steps: int | None = None
    """Steps of each level in one measurement; 2,400 of LeNet and 6 of ResNet-20 if not given."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/against.csv and against.json."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """The training of one network by one checkout."""

    benchmark: Benchmark
    seeds: int
    steps: int
    root: str
    processes: int = 1

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.pair} in {self.root}"

    @property
    def pair(self) -> str:
        """What both checkouts train."""
        return f"{self.benchmark}, {self.seeds} seed{'s' * (self.seeds > 1)}"


def prepare(variant: Variant) -> tuple[Measure, Report]:
    """Compile the training of a variant with the package of its checkout."""
    sys.path.insert(0, variant.root)
    # helpers of the benchmarks have imported parts of this checkout
    for name in [name for name in sys.modules if name.partition(".")[0] == "jaxticket"]:
        del sys.modules[name]
    import jaxticket as jt

    used = Path(jt.__file__).resolve().parents[1]
    if used != Path(variant.root):
        raise SystemExit(f"jaxticket came from {used} where that of {variant.root} was to be used")
    jt.cpu_devices()
    training = jt.Training(steps=variant.steps, batch_size=lenet.BATCH, lr=lenet.RATE,
                           eval_every=lenet.INTERVAL)  # fmt: skip
    if variant.benchmark == "lenet":
        data = lenet.images(None)
        net = jt.networks.lenet(data.shape, data.classes)
    else:
        x, y = resnet20.images()
        batch, classes = resnet20.BATCH, resnet20.CLASSES
        data = jt.data.from_arrays(x, y, x[:batch], y[:batch], classes=classes, name="random")
        net = jt.networks.resnet20(data.shape, classes)
        training = training.replace(
            batch_size=batch, optimizer="momentum", lr=resnet20.RATE, eval_every=10**6,
            eval_train_examples=batch, eval_batch_size=batch,
        )  # fmt: skip

    def measure() -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            runs = jt.find_tickets(
                net, data, training, jt.Pruning(levels=1), seeds=range(variant.seeds),
                folder=folder if variant.benchmark == "lenet" else None, progress=False,
            )  # fmt: skip
        seconds = runs.timings()["train_seconds"].to_numpy(float)
        return {"rate": variant.seeds * variant.steps * len(seconds) / float(seconds.sum())}

    measure()
    return measure, {"data": data.name}


def commit(root: Path) -> str:
    """Give the commit of a checkout, with "+" where files differ from it, or "" outside of git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def main(settings: Settings) -> None:
    """Measure each pair in every round, then print and publish.

    Raises:
      SystemExit: if `checkout` is not one, or is this one, or a number is below 1.
    """
    other = settings.checkout.resolve()
    for fault, message in (
        (not (other / "jaxticket" / "__init__.py").is_file(),
         f"`checkout` must be a folder that contains jaxticket/, got {settings.checkout}"),
        (other == ROOT, "`checkout` is this checkout; give another, see git worktree add"),
        (settings.rounds < 1, f"`rounds` must be at least 1, got {settings.rounds}"),
        (settings.steps is not None and settings.steps < 1,
         f"`steps` must be at least 1, got {settings.steps}"),
        (not settings.only, "`only` must name lenet or resnet20, got none"),
    ):  # fmt: skip
        if fault:
            raise SystemExit(f"error: {message}")
    pairs = [
        tuple(
            Variant(one, seeds, settings.steps or STEPS[one], str(root)) for root in (other, ROOT)
        )
        for one in dict.fromkeys(settings.only)
        for seeds in SEEDS[one]
    ]
    rows = []
    here = machine("jax", "numpy") | {"before": commit(other), "after": commit(ROOT)}
    print(f"{here}\n")
    head = "steps per second of all seeds"
    print(f"{head:<30}{'before':>9}{'after':>9}   ratio: median (least to greatest)")
    summary = {}
    # a pair after the other, so that few processes share the memory
    for before, after in pairs:
        rounds, reports = measured(
            "experiments.benchmarks.against", (before, after), rounds=settings.rounds
        )
        rates = {one: [answers[one]["rate"] for answers in rounds] for one in (before, after)}
        ratios = np.divide(rates[after], rates[before])
        medians = [float(np.median(rates[one])) for one in (before, after)]
        middle, low, high = float(np.median(ratios)), float(ratios.min()), float(ratios.max())
        verdict = "as fast" if middle >= SLOWER else f"slower: below {SLOWER:g}"
        print(
            f"{before.pair:<30}{medians[0]:9.1f}{medians[1]:9.1f}   {middle:.3f} ({low:.3f} to "
            f"{high:.3f})  {verdict}",
            flush=True,
        )
        summary[before.pair] = {"before": medians[0], "after": medians[1], "ratio": middle,
                                "least": low, "greatest": high, **reports[after]}  # fmt: skip
        rows += [
            {"pair": before.pair, "round": i, "before": round(a, 2), "after": round(b, 2)}
            for i, (a, b) in enumerate(zip(rates[before], rates[after], strict=True))
        ]
    if settings.publish:
        setup = {"rounds": settings.rounds, "steps": {p[0].pair: p[0].steps for p in pairs}}
        publish("against", rows, {"machine": here, "settings": setup, "pairs": summary})


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        (fields,) = json.loads(sys.argv[2])
        answer(lambda: prepare(Variant(**fields)))
    else:
        main(tyro.cli(Settings, prog="python -m experiments.benchmarks.against"))
