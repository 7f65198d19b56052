"""What the benchmarks share: the machine in words, ratios of one round, and files of results."""

from __future__ import annotations

import contextlib
import csv
import json
import resource
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.machine import Machine, processor

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
NETWORKS = {"lenet": "LeNet", "resnet20": "ResNet-20"}
"""Names in tables of the networks that are measured, by those in `jt.NETWORKS`."""
Row = dict[str, Any]
"""A row of a table: numbers and texts by column."""


def machine(*packages: str) -> Machine:
    """Give the CPU model, cores, GPU if there is one, and versions of Python and packages."""
    here = processor() | {name: metadata.version(name) for name in packages}
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        found = subprocess.run(query, capture_output=True, check=True, text=True).stdout.split("\n")
        here["gpu"] = found[0].strip()
    return here


def memory() -> float:
    """Give the most memory that the device (of a CPU, the process) has held, in 2^20 bytes."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats and jax.default_backend() != "cpu":
        return stats["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def described(ratios: Sequence[float]) -> str:
    """Write the median, least and greatest of the ratios of several rounds."""
    values = np.asarray(ratios)
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def publish(name: str, rows: Sequence[Row], summary: Mapping[str, object]) -> None:
    """Write `NAME.csv` (every measurement) and `NAME.json` (summary and machine)."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(summary, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"written: experiments/results/benchmarks/{name}.csv and {name}.json")
