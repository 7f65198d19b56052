"""A sweep of many seeds on a TPU pod, on other hosts, or on one machine: tickets and their tables.

Command:  python -m experiments.pod --folder gs://BUCKET/sweep [--preset lenet-mnist --seeds 64]
          on every host; docs/guides/pods.md has the commands that create a pod, start the sweep on
          all of its hosts, and continue it after a preemption. To try it on one machine:
          python -m experiments.pod --data digits --seeds 2 --steps 20 --levels 1
Makes:    in the folder: table, timings and summary (Parquet, CSV), settings.json and
          tickets/*.safetensors of every seed and level.
Cost:     not measured on a pod; the small size above is mostly compiling on a CPU.
Expected: one row per level in the terminal of the first host; a sweep that was stopped or
          preempted continues where it was saved when the same command runs again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax

import jaxticket as jt
from experiments.common.job import launch


@dataclasses.dataclass(frozen=True)
class Settings:
    """Iterative pruning of a preset for many seeds, on all devices of all hosts."""

    folder: str | None = None
    """A folder that all hosts see, such as gs://BUCKET/sweep; results/NAME-HASH by default."""
    preset: str = "lenet-mnist"
    """Network, data, training and pruning, as `jaxticket presets` lists them."""
    data: str | None = None
    """Another data set than the preset's, such as digits."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets, on each host."""
    seeds: int = 64
    """Seeds 0, 1, ..., spread over the devices."""
    steps: int | None = None
    """Training steps of each network; those of the preset by default."""
    levels: int | None = None
    """How often to prune; as the preset by default."""
    save_every: float = 300.0
    """Seconds between saves of the training state: what a preemption without notice may cost."""
    budget: float | None = None
    """Minutes after which the sweep saves and ends with exit status 75."""


def main(settings: Settings) -> None:
    """Find the tickets on all hosts; the first one says what came out."""
    if not jt.distributed():
        jt.cpu_devices()
    changes = {"steps": settings.steps, "levels": settings.levels}
    preset = jt.preset(
        settings.preset, **{name: value for name, value in changes.items() if value is not None}
    )
    if settings.data is None:
        data = preset.load(settings.data_dir)
    else:
        data = jt.data.load(settings.data, data_dir=settings.data_dir)
    mesh = jt.parallel.mesh(jobs=settings.seeds, batch_size=preset.training.batch_size)
    # where and for how long it runs is no part of what it is
    chosen = dataclasses.replace(settings, folder=None, data_dir=None, save_every=0, budget=None)
    name = jt.results.run_name(f"pod-{preset.name}", vars(chosen))
    runtime = jt.Runtime(
        mesh=mesh,
        folder=settings.folder or Path("results") / name,
        save_every=settings.save_every,
        # hosts of a new pod wait until the lock of those that are gone is stale
        wait=300,
        time_budget=None if settings.budget is None else 60 * settings.budget,
    )
    runs = jt.find_tickets(
        preset.net(data),
        data,
        preset.training,
        preset.pruning,
        seeds=range(settings.seeds),
        runtime=runtime,
    )
    if jax.process_index() == 0:
        summary(runs, mesh)


def summary(runs: jt.Runs, mesh: jax.sharding.Mesh) -> None:
    """Write and print the final accuracies of each level."""
    assert runs.folder is not None
    rows = jt.speed.matching(runs.table())
    jt.results.write(rows, runs.folder, "summary")
    hosts, shape = jax.process_count(), " x ".join(map(str, mesh.devices.shape))
    print(f"\n{len(runs.seeds)} seeds on {shape} devices of {hosts} host{'s' * (hosts > 1)}")
    print("final test accuracy in %, mean (min to max)")
    for _, row in rows.iterrows():
        mean, low, high = (f"{100 * row[column]:.1f}" for column in ("mean", "min", "max"))
        print(f"{100 * row['density']:7.2f}%  {mean} ({low} to {high})")
    print(f"results in {runs.folder}")


if __name__ == "__main__":
    launch(main, Settings)
