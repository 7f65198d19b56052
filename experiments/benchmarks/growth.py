"""How speed and memory grow with the networks side by side, with their width, and by search.

LeNet-300-100 (batch 60, Adam) and ResNet-20 (batch 128, SGD with momentum) on random images of the
shape of MNIST's and CIFAR-10's: steps per second of all networks together, and the most memory that
the process (on an accelerator, the device) has held. Dense networks are trained through
`jt.find_tickets(..., levels=0)`: 1 to 64 of them, then four of other widths (a factor of channels
and hidden units). Searches of masks are those of `jt.SEARCHES` with their defaults (CTS with the
loss) for four LeNets, through `jt.search(..., train=False)`; the teachers of KD-LTS do not count.
Ratios are to the first row of a group in the same round. Each row is a process of its own, which
compiles before anything is measured. How it is measured: _workers.py.

Command:  python -m experiments.benchmarks.growth [--networks lenet --rounds 2 --publish]
Cost:     7 minutes on 2 CPU cores for LeNet, 16 for ResNet-20
Expected: on a CPU, whose cores take one network after another, steps per second of all networks
          stay the same from as many networks as there are cores on, and memory grows by 14
          times the weights of LeNet, and 10 times those of ResNet-20, for each
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from experiments.benchmarks._machine import NETWORKS, Row, described, machine, memory, publish
from experiments.benchmarks._workers import Answer, Measure, Report, answer, measured

MODULE = "experiments.benchmarks.growth"
FEW = 4
"""Networks side by side where it is width or a search that is varied."""
LENET = {"shape": (28, 28, 1), "examples": 10_000, "batch_size": 60, "optimizer": "adam"}
RESNET20 = {"shape": (32, 32, 3), "examples": 1_280, "batch_size": 128, "optimizer": "momentum"}
DATA: dict[str, dict[str, Any]] = {"lenet": LENET, "resnet20": RESNET20}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Steps per second and memory by number of networks, width and search."""

    networks: tuple[str, ...] = ("lenet", "resnet20")
    """Some of lenet and resnet20."""
    seeds: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """How many networks train side by side; ratios are to the first."""
    widths: tuple[float, ...] = (0.5, 2.0, 4.0)
    """Factors of the width."""
    searches: tuple[str, ...] = (
        *("concrete", "continuous", "edge_popup", "gem_miner", "kd_lts", "stochastic"),
    )
    """Names in jt.SEARCHES."""
    lenet_steps: int = 1200
    """Training steps of up to eight networks; 64 take an eighth of them each, and at least 4."""
    resnet_steps: int = 16
    """Likewise of ResNet-20."""
    rounds: int = 2
    """How often every variant is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/growth-NETWORK[-DEVICE].csv and .json."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """Networks side by side, of a width, dense or in a search.

    Attributes:
      network: a key of DATA.
      seeds: how many.
      width: factor of channels and hidden units.
      search: a name in jt.SEARCHES, "" for training the dense networks.
      steps: of each network.
      processes: workers.
    """

    network: str
    seeds: int
    width: float
    search: str
    steps: int
    processes: int = 1

    @property
    def name(self) -> str:
        """The name in tables."""
        known = NETWORKS[self.network]
        wide = f", width {self.width:g}" * (self.width != 1)
        search = f", {self.search}" * bool(self.search)
        return f"{known}, {self.seeds} network{'s' * (self.seeds > 1)}{wide}{search}"


def variants(settings: Settings, network: str) -> list[list[Variant]]:
    """Choose what is measured, in groups whose processes live at the same time."""
    full = settings.lenet_steps if network == "lenet" else settings.resnet_steps

    def one(seeds: int, width: float = 1.0, search: str = "") -> Variant:
        # the more there is to do in a step, the fewer steps
        steps = full / max(1, seeds / 8) / max(1, width)
        return Variant(network, seeds, width, search, max(4, round(steps)))

    usual = one(FEW)
    groups = [
        [one(n) for n in settings.seeds],
        [usual, *(one(FEW, width) for width in settings.widths)],
    ]
    if network == "lenet" and settings.searches:
        groups.append([usual, *(one(FEW, search=name) for name in settings.searches)])
    return groups


def worker(variant: Variant) -> tuple[Measure, Report]:
    """Compile by a first run, and return what measures."""
    import jax

    import jaxticket as jt

    jt.cpu_devices()
    own, rng = DATA[variant.network], np.random.default_rng(0)
    x = rng.integers(0, 256, (own["examples"], *own["shape"]), np.uint8)
    y = rng.integers(0, 10, own["examples"]).astype(np.int32)
    data = jt.data.from_arrays(x, y, x[:16], y[:16], classes=10, name="random")
    net = jt.NETWORKS[variant.network](data.shape, data.classes)
    if variant.width != 1:
        net = net.resized(variant.width)
    training = jt.Training(
        steps=variant.steps, batch_size=own["batch_size"], optimizer=own["optimizer"], lr=1e-3,
        eval_every=variant.steps, eval_train_examples=16, eval_batch_size=16,
    )  # fmt: skip
    seeds = range(variant.seeds)

    def measure() -> Answer:
        if variant.search:
            # what an untrained network answers is nothing to learn
            objective = ("loss",) if variant.search == "concrete" else ()
            runs = jt.search(
                net, data, training, jt.SEARCHES[variant.search](*objective), density=0.1,
                seeds=seeds, steps=variant.steps, train=False, dense=False, progress=False,
            )  # fmt: skip
        else:
            none = jt.Pruning(levels=0)
            runs = jt.find_tickets(net, data, training, none, seeds=seeds, progress=False)
        column = "prune_seconds" if variant.search else "train_seconds"
        spent = float(np.nansum(runs.timings()[column].to_numpy(float)))
        rate = variant.seeds * variant.steps / spent
        return {"rate": rate, "memory_mb": memory()}

    measure()
    weights = sum(leaf.size for leaf in jax.tree.leaves(net.shapes[0]))
    return measure, {"parameters": float(weights)}


def main(settings: Settings) -> None:
    """Measure every variant in every round, then print and publish."""
    here = machine("jax", "flax", "optax", "numpy")
    print(f"{here}\n")
    for network in settings.networks:
        rows: list[Row] = []
        ratios: dict[str, list[float]] = {}
        for group in variants(settings, network):
            rounds, reports = measured(MODULE, group, rounds=settings.rounds)
            found = compared(group, rounds)
            shown(group, rounds, found)
            ratios |= {f"{name} / {group[0].name}": values for name, values in found.items()}
            rows += [
                {**dataclasses.asdict(v), "parameters": int(reports[v]["parameters"]), "round": i,
                 "steps_per_second": round(answers[v]["rate"], 3),
                 "memory_mb": round(answers[v]["memory_mb"])}
                for i, answers in enumerate(rounds) for v in group
            ]  # fmt: skip
        if settings.publish:
            device = f"-{here['gpu']}".replace(" ", "-") if "gpu" in here else ""
            setup = {**dataclasses.asdict(settings), "networks": [network]}
            summary = {"machine": here, "settings": setup, "ratios": ratios}
            publish(f"growth-{network}{device}", rows, summary)


def compared(
    group: Sequence[Variant], rounds: Sequence[dict[Variant, Answer]]
) -> dict[str, list[float]]:
    """Divide rates by those of the group's first variant in the same round."""
    first = group[0]
    return {
        v.name: [answers[v]["rate"] / answers[first]["rate"] for answers in rounds]
        for v in group[1:]
    }


def shown(
    group: Sequence[Variant],
    rounds: Sequence[dict[Variant, Answer]],
    ratios: dict[str, list[float]],
) -> None:
    """Print medians of a group, and ratios to its first variant."""
    print(f"{'':<40} steps/s   memory, MB   times {group[0].name}, median (least to greatest)")
    for v in group:
        rate, most = (
            float(np.median([answers[v][key] for answers in rounds]))
            for key in ("rate", "memory_mb")
        )
        told = described(ratios[v.name]) if v.name in ratios else ""
        print(f"{v.name:<40} {rate:7.1f} {most:12.0f}   {told}")
    print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        (fields,) = json.loads(sys.argv[2])
        answer(lambda: worker(Variant(**fields)))
    else:
        main(tyro.cli(Settings))
