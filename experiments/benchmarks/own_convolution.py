"""What `fast_conv=True` gains: a user's Flax module with `nn.Conv`, several seeds side by side.

Three convolutions of a Linen module on random images, trained by `jt.find_tickets` with the
compiler's convolutions and with this library's in turn. Seconds of training alone, programs
compiled before; the ratio of each round is measured in one process.

Command:  python -m experiments.benchmarks.own_convolution [--seeds 4 --rounds 3 --publish]
Cost:     1 minute on 1 core
Expected: 28 times as fast on one core of a server's CPU that other work shares, 26 to 32 over 3
          rounds (experiments/results/benchmarks/own_convolution.csv): the compiler's convolutions
          are slow there inside a loop, in their gradients
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, described, machine, publish


@dataclasses.dataclass(frozen=True)
class Settings:
    """Training of a module with `nn.Conv`, native and swapped."""

    seeds: int = 4
    """Networks side by side."""
    steps: int = 20
    """Training steps of one measurement."""
    batch: int = 64
    """Examples per step."""
    image: int = 16
    """Height and width of the images."""
    width: int = 16
    """Channels of the first convolution."""
    rounds: int = 3
    """How often each is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/own_convolution.csv and .json."""


class Convolutional(nn.Module):
    """Three convolutions as users write them."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images [batch, height, width, channels] to logits [batch, 10]."""
        for i, factor in enumerate((1, 2, 2)):
            strides = 1 if i == 0 else 2
            x = nn.relu(nn.Conv(factor * self.width, (3, 3), strides=strides)(x))
        return nn.Dense(10)(x.mean((1, 2)))


def seconds(net: jt.Network, data: jt.data.Data, settings: Settings) -> float:
    """Train once and give the seconds of training."""
    training = jt.Training(
        steps=settings.steps, batch_size=settings.batch, eval_every=settings.steps,
        eval_train_examples=64,
    )  # fmt: skip
    runs = jt.find_tickets(
        net, data, training, jt.Pruning(levels=0), seeds=range(settings.seeds), progress=False
    )
    return float(runs.timings().train_seconds.iloc[0])


def main(settings: Settings) -> None:
    """Measure in turn, and print the ratios."""
    jt.cpu_devices()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1024, settings.image, settings.image, 3), np.uint8)
    y = rng.integers(0, 10, len(x))
    data = jt.data.from_arrays(x, y, x[:64], y[:64], classes=10, name="random")
    nets = {
        name: jt.from_linen(Convolutional(settings.width), data.shape, name=name, fast_conv=fast)
        for name, fast in (("native", False), ("fast", True))
    }
    for net in nets.values():
        seconds(net, data, settings)  # compiles
    rows: list[Row] = []
    for number in range(settings.rounds):
        row = {name: seconds(net, data, settings) for name, net in nets.items()}
        rows.append({"round": number, **row, "ratio": row["native"] / row["fast"]})
        print(f"round {number}: native {row['native']:.2f} s, fast {row['fast']:.2f} s")
    ratios = described([row["ratio"] for row in rows])
    print(f"native / fast, {settings.seeds} seeds side by side: {ratios}")
    if settings.publish:
        summary = {**dataclasses.asdict(settings), "native / fast": ratios}
        here = machine("jax", "flax")
        publish("own_convolution", rows, {**summary, "machine": dict(here)})


if __name__ == "__main__":
    jt.compilation_cache()
    main(tyro.cli(Settings, description=__doc__))
