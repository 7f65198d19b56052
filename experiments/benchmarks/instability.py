"""Nine copies (3 seeds x 3 copies) trained and compared together, against one after the other.

Steps per second of all networks: nine copies through `jt.instability`, and single networks through
`jt.find_tickets(..., levels=0)`, one after the other, each with the whole machine. Then what the
comparison costs: 30 points on the line of each of the 9 pairs, on the test set and 10,000 training
images, against the matrix products of that evaluation alone (LeNet); and nine copies with all
distances at 10 steps k (--ten). How it is measured: _workers.py.

Command:  python -m experiments.benchmarks.instability [--rounds 3 --ten --publish]
          on a GPU: --resnet-steps 2000
Cost:     11 minutes on 2 CPU cores, 4 of them for --ten
Expected: copies together are never slower than alone, the comparison takes at most 1.5 times its
          matrix products, and ten steps k at 2,000 steps each less than 10 minutes
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import tyro

from experiments.benchmarks._machine import NETWORKS, described, machine, memory, publish
from experiments.benchmarks._workers import (
    Answer,
    Measure,
    Report,
    answer,
    measured,
    print_rates,
    rates,
)

if TYPE_CHECKING:
    import jaxticket as jt

MODULE = "experiments.benchmarks.instability"

SEEDS = COPIES = 3
WIDTHS = (784, 300, 100, 10)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Nine copies together against one after the other."""

    lenet_steps: int = 500
    """Training steps of LeNet (batch 60, on MNIST's shape)."""
    resnet_steps: int = 12
    """Training steps of ResNet-20 (batch 64, on CIFAR-10's shape)."""
    rounds: int = 3
    """How often every variant is measured."""
    ten: bool = False
    """Whether to measure LeNet's nine copies with all distances at 10 steps k, 2,000 steps each."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/instability[-DEVICE].csv and .json."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """Network "lenet" or "resnet20", trained "together", "alone" or (to compare) "products"."""

    network: str
    form: str
    steps: int
    processes: int = 1

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{NETWORKS[self.network]}, {self.form}"


def setup(variant: Variant) -> tuple[jt.Network, jt.data.Data, jt.Training]:
    """Make the network, random data of the right shape, and the training."""
    import jaxticket as jt

    rng = np.random.default_rng(0)
    lenet = variant.network == "lenet"
    shape, train, test = ((28, 28, 1), 10_000, 10_000) if lenet else ((32, 32, 3), 512, 256)

    def images(n: int) -> np.ndarray:
        return rng.integers(0, 256, (n, *shape)).astype(np.uint8)

    data = jt.data.from_arrays(
        images(train), rng.integers(0, 10, train), images(test), rng.integers(0, 10, test)
    )
    net = jt.NETWORKS[variant.network](data.shape, data.classes)
    training = jt.Training(
        steps=variant.steps,
        batch_size=60 if lenet else 64,
        optimizer="adam" if lenet else "momentum",
        lr=1e-3,
        eval_every=variant.steps,
    )
    return net, data, training


def worker(variant: Variant) -> tuple[Measure, Report]:
    """Compile by a first run, and return what measures."""
    import jaxticket as jt

    # a network alone has all cores for its one device
    jt.cpu_devices(1 if variant.form == "alone" else None)
    if variant.form == "products":
        return products(), {}
    net, data, training = setup(variant)
    points = 30 if variant.network == "lenet" else 3

    def together() -> Answer:
        inst = jt.instability(
            net, data, training, at=0, copies=COPIES, points=points, seeds=range(SEEDS),
            keep=False, progress=False,
        )  # fmt: skip
        # a row for each unit of work, and nine copies are more than one
        costs = inst.costs()
        steps, trained, compared = (
            float(costs[column].to_numpy(float).sum())
            for column in ("training_steps", "train_seconds", "evaluate_seconds")
        )
        return {
            "rate": steps / trained,
            "evaluate_seconds": compared,
            "train_seconds": trained,
            "memory_mb": memory(),
        }

    def alone() -> Answer:
        seconds = 0.0
        for seed in range(2):
            runs = jt.find_tickets(
                net, data, training, jt.Pruning(levels=0), seeds=(seed,), progress=False
            )
            seconds += float(runs.timings()["train_seconds"].to_numpy().sum())
        return {"rate": 2 * variant.steps / seconds, "memory_mb": memory()}

    measure = together if variant.form == "together" else alone
    began = time.perf_counter()
    first = measure()
    return measure, {"first_seconds": time.perf_counter() - began, **first}


def products() -> Measure:
    """Measure the matrix products of LeNet's evaluation: 30 points for 9 pairs on 20,000 images."""
    import jax
    import jax.numpy as jnp

    import jaxticket as jt

    mesh = jt.parallel.mesh()
    count = 30 * 9
    rng = np.random.default_rng(0)
    # as many as one device holds: the points of an evaluation are made when they are needed
    weights = [rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(WIDTHS)]
    x = jnp.asarray(rng.normal(size=(20, 1000, 784)), jnp.float32)

    def point(
        limit: jax.Array, scale: jax.Array, weights: list[jax.Array], x: jax.Array
    ) -> jax.Array:
        del limit
        with jax.default_matmul_precision("highest"):

            def batch(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
                for w in weights:
                    x = x @ (scale[None, None] * w)
                return total + jnp.sum(x), None

            return jax.lax.scan(batch, 0 * scale, x)[0]

    run = jt.parallel.over_replicas(point, mesh, shared=2)
    scales = jt.parallel.put(np.linspace(0.5, 1, count, dtype=np.float32), mesh)
    limits = np.zeros(count, np.int32)
    shared = jt.parallel.put((weights, x), mesh, replicas=False)
    jax.block_until_ready(run(limits, scales, *shared))

    def measure() -> Answer:
        began = time.perf_counter()
        jax.block_until_ready(run(limits, scales, *shared))
        seconds = time.perf_counter() - began
        return {"rate": count / seconds, "seconds": seconds, "memory_mb": memory()}

    return measure


def ten() -> Answer:
    """Measure LeNet's nine copies with all distances at 10 steps k, 2,000 steps each."""
    import jaxticket as jt

    jt.cpu_devices()
    net, data, training = setup(Variant("lenet", "together", 2000))
    began = time.perf_counter()
    inst = jt.instability(
        net, data, training, at=(0, 10, 25, 50, 100, 200, 400, 800, 1200, 1600), copies=COPIES,
        seeds=range(SEEDS), keep=False,
    )  # fmt: skip
    cost = inst.costs().sum(numeric_only=True).to_dict()
    return {
        "seconds": time.perf_counter() - began,
        "train_seconds": float(cost["train_seconds"]),
        "evaluate_seconds": float(cost["evaluate_seconds"]),
        "training_steps": int(cost["training_steps"]),
        "points": int(cost["points"]),
        "memory_mb": memory(),
    }


def main(settings: Settings) -> None:
    """Measure every variant in every round, then print and publish."""
    here = machine("jax", "flax", "optax", "numpy")
    steps = {"lenet": settings.lenet_steps, "resnet20": settings.resnet_steps}
    chosen = [Variant(net, form, n) for net, n in steps.items() for form in ("together", "alone")]
    matrix = Variant("lenet", "products", 0)
    rounds, reports = measured(MODULE, [*chosen, matrix], rounds=settings.rounds)
    of = rates(chosen, rounds)
    print(f"\n{here}\n")
    print_rates("training steps per second of all networks", of)
    print("\nwithin a round: median (least to greatest)")
    found: dict[str, list[float]] = {}
    for net in steps:
        both, one = (
            next(v for v in chosen if (v.network, v.form) == (net, f))
            for f in ("together", "alone")
        )
        found[f"{net}: together / alone"] = [m[both]["rate"] / m[one]["rate"] for m in rounds]
        found[f"{net}: comparison / training"] = [
            m[both]["evaluate_seconds"] / m[both]["train_seconds"] for m in rounds
        ]
        found[f"{net}: memory together / alone"] = [
            m[both]["memory_mb"] / m[one]["memory_mb"] for m in rounds
        ]
    lenet = chosen[0]
    found["lenet: comparison / its products"] = [
        m[lenet]["evaluate_seconds"] / m[matrix]["seconds"] for m in rounds
    ]
    for name, values in found.items():
        print(f"{name:<36} {described(values)}")
    summary: dict[str, object] = {"machine": here, "settings": dataclasses.asdict(settings)}
    summary |= {"rates": of, "ratios": found}
    summary["reports"] = {variant.name: report for variant, report in reports.items()}
    if settings.ten:
        summary["ten steps k"] = ten()
        print(f"ten steps k: {summary['ten steps k']}")
    if settings.publish:
        rows = [
            {"variant": v.name, "round": i, **{k: round(x, 3) for k, x in answers[v].items() if k in
             ("rate", "memory_mb")}}
            for i, answers in enumerate(rounds) for v in [*chosen, matrix]
        ]  # fmt: skip
        name = (
            "instability" if "gpu" not in here else f"instability-{here['gpu']}".replace(" ", "-")
        )
        publish(name, rows, summary)


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        (fields,) = json.loads(sys.argv[2])
        answer(lambda: worker(Variant(**fields)))
    else:
        main(tyro.cli(Settings))
