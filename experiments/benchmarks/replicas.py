"""How replicas of a device run fastest: by network, type, number, and how many share a step.

Networks on random images, through `jt.find_tickets(..., levels=0)`: steps per second of all
replicas together, for each number of replicas, all vmapped, one after another, and in blocks
(`jt.Runtime(vmapped=)`). What `jaxticket.engine.together` chooses is marked. Forms are measured in
turn, round after round, after a call that compiles.

Command:  python -m experiments.benchmarks.replicas [--networks lenet --publish]
          on a GPU or TPU: --replicas 1 4 8 16 32 64 --dtypes float32 bfloat16
Cost:     on an accelerator about 20 s for each row, most of it compilation; a CPU runs one replica
          of a device after another whatever is asked for, and shows that the script works
Expected: no accelerator has measured it yet
"""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish
from jaxticket.engine import parallel
from jaxticket.engine.together import replicas_together
from jaxticket.typing import Network

NETWORKS = {
    "lenet": ((28, 28, 1), jt.networks.lenet, 60, "adam"),
    "resnet20": ((32, 32, 3), jt.networks.resnet20, 128, "momentum"),
    "wrn16_4": ((32, 32, 3), jt.networks.wrn16_4, 128, "momentum"),
}
"""Shape of an image, constructor, batch and optimizer, by name."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Steps per second by how replicas run."""

    networks: tuple[str, ...] = ("lenet", "resnet20", "wrn16_4")
    """Names of networks."""
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    """Compute types; float32 at the highest precision."""
    replicas: tuple[int, ...] = (1, 8, 64)
    """Numbers of replicas on each device."""
    vmapped: tuple[int, ...] = (1, 8, 16, 64)
    """Replicas that take a step together; those above the number of replicas are left out."""
    rounds: int = 3
    """How often each form is measured."""
    seconds: float = 3.0
    """Length of one measurement, about."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/replicas[-DEVICE].csv and .json."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of one network.

    Attributes:
      network, dtype: names.
      replicas: on each device.
      vmapped: of them that take a step together.
      chosen: whether jaxticket runs them so.
    """

    network: str
    dtype: str
    replicas: int
    vmapped: int
    chosen: bool


def forms(settings: Settings) -> list[Form]:
    """List what is measured, in the order of networks, types and numbers."""
    mesh, found = parallel.mesh(), []
    for network in settings.networks:
        chosen = replicas_together(build(network), mesh)
        for dtype in settings.dtypes:
            for n in settings.replicas:
                usual = n if chosen is None else min(n, chosen)
                sizes = {min(size, n) for size in settings.vmapped} | {usual}
                found += [Form(network, dtype, n, size, size == usual) for size in sorted(sizes)]
    return found


def build(name: str) -> Network:
    """The network of a name."""
    shape, constructor, _, _ = NETWORKS[name]
    return constructor(shape, 10)


def measured(form: Form, seconds: float, rounds: int) -> Row:
    """Compile a form, then measure it."""
    shape, _, batch, optimizer = NETWORKS[form.network]
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (5000, *shape), np.uint8)
    y = draw.integers(0, 10, 5000).astype(np.int32)
    data = jt.data.from_arrays(x, y, x[:batch], y[:batch], classes=10, name="random")
    net = build(form.network)
    runtime = jt.Runtime(vmapped=form.vmapped, at_once=form.replicas, progress=False)
    count = form.replicas * jax.device_count()

    def call(steps: int) -> float:
        training = jt.Training(
            steps=steps, batch_size=batch, optimizer=optimizer, lr=0.01, eval_every=10**6,
            eval_train_examples=batch, eval_batch_size=batch, compute_dtype=form.dtype,
            precision="highest" if form.dtype == "float32" else "default",
        )  # fmt: skip
        runs = jt.find_tickets(
            net, data, training, jt.Pruning(levels=0), seeds=range(count), runtime=runtime
        )
        return float(runs.timings().train_seconds.iloc[0])

    began = time.perf_counter()
    call(2)
    compiled = time.perf_counter() - began
    few, many = call(2), call(12)
    steps = 2 + max(1, round(10 * (seconds - few) / max(many - few, 1e-6)))
    # what a call costs besides its steps is left out
    taken = np.array([(call(steps) - call(2)) / (steps - 2) for _ in range(rounds)])
    rate = count / np.median(taken)
    return dataclasses.asdict(form) | {
        "first_call_seconds": round(compiled, 1),
        "steps": steps,
        "replica_steps_per_second": round(float(rate), 1),
        "least": round(float(count / taken.max()), 1),
        "greatest": round(float(count / taken.min()), 1),
        "images_per_second": round(float(rate * batch)),
    }


def main(settings: Settings) -> None:
    """Measure all forms, one after another, and print each as it is done."""
    jt.cpu_devices()
    here = machine("jax", "jaxlib", "numpy") | {"platform": jax.default_backend()}
    print(f"{here}\n")
    rows: list[Row] = []
    for form in forms(settings):
        row = measured(form, settings.seconds, settings.rounds)
        rows.append(row)
        print(*(f"{name}={value}" for name, value in row.items()), flush=True)
    for network in settings.networks:
        own = [row for row in rows if row["network"] == network]
        best = max(own, key=lambda row: row["replica_steps_per_second"])
        print(f"{network}: fastest with {best['replicas']} replicas, {best['vmapped']} together")
    if settings.publish:
        device = jax.devices()[0].device_kind.replace(" ", "-")
        name = "replicas" if jax.default_backend() == "cpu" else f"replicas-{device}"
        publish(name, rows, {"machine": here, "settings": dataclasses.asdict(settings)})


if __name__ == "__main__":
    main(tyro.cli(Settings))
