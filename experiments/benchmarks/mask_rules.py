"""What mask rules cost per training step: LeNet-300-100 under every rule against a static mask.

Training as in `jt.sparse_train`, seeds side by side, on random images of the size of MNIST's, warm
(the programs are compiled before anything is measured). Rules are measured in turn, and ratios are
of the same round.

Command:  python -m experiments.benchmarks.mask_rules [--rules rigl gradual --publish]
Cost:     about three minutes on 2 CPU cores
Expected: RigL, SET and gradual pruning within a few percent of a static mask, since the dense
          gradient and the ranking are computed at updates alone; straight-through training, which
          ranks all weights at every step, several times as much
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, described, machine, publish

OTHERS = tuple(name for name in jt.RULES if name not in ("static", "rigl_uniform"))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Seconds of training under mask rules."""

    rules: tuple[str, ...] = OTHERS
    """Names in jt.RULES, which are compared with "static"; RigL with a dense first layer does not
    fit LeNet."""
    steps: int = 1000
    """Of each training."""
    batch_size: int = 60
    """Examples of a step."""
    optimizer: str = "adam"
    """As of jt.Training."""
    density: float = 0.1
    """Share of the weights that is kept at the end."""
    seeds: int = 2
    """Networks side by side."""
    rounds: int = 5
    """How often each is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/mask_rules.csv and mask_rules.json."""


def main(settings: Settings) -> None:
    """Measure every rule."""
    jt.cpu_devices()
    here = machine("jax", "numpy") | {"platform": jax.default_backend()}
    print(f"{here}\n")
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (5000, 28, 28, 1), np.uint8)
    y = draw.integers(0, 10, 5000).astype(np.int32)
    data = jt.data.from_arrays(x, y, x[:100], y[:100], name="random")
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(
        steps=settings.steps, batch_size=settings.batch_size, optimizer=settings.optimizer,
        lr=1e-3, eval_every=settings.steps, eval_train_examples=100, eval_batch_size=100,
    )  # fmt: skip

    def seconds(rule: str) -> float:
        runs = jt.sparse_train(
            net, data, training, rule, density=settings.density, seeds=range(settings.seeds),
            progress=False,
        )  # fmt: skip
        return sum(row["train_seconds"] for row in runs.costs)

    names = ("static", *settings.rules)
    for name in names:
        seconds(name)
    rows: list[Row] = []
    for number in range(settings.rounds):
        for name in names:
            each = 1e3 * seconds(name) / settings.steps
            rows.append({"rule": name, "round": number, "milliseconds": each})
    base = [row["milliseconds"] for row in rows if row["rule"] == "static"]
    print(f"milliseconds of a step of {settings.seeds} seeds, median of {settings.rounds} rounds")
    for name in names:
        times = [row["milliseconds"] for row in rows if row["rule"] == name]
        ratios = [t / b for t, b in zip(times, base, strict=True)]
        print(f"  {name:<24}{np.median(times):8.3f}   time / static {described(ratios)}")
    if settings.publish:
        publish("mask_rules", rows, {"machine": here, "settings": dataclasses.asdict(settings)})


if __name__ == "__main__":
    main(tyro.cli(Settings))
