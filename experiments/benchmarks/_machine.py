"""What the benchmarks share: the machine in words, ratios of one round, and files of results."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


def machine(*packages: str) -> dict[str, Any]:
    """CPU model, cores this process may use, GPU if there is one, and versions; neither names nor
    paths.
    """
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count()
    versions = {name: metadata.version(name) for name in packages}
    here = {"cpu": model, "cores": cores, "python": platform.python_version(), **versions}
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        found = subprocess.run(query, capture_output=True, check=True, text=True).stdout.split("\n")
        here["gpu"] = found[0].strip()
    return here


def described(ratios: Sequence[float]) -> str:
    """Median, least and largest of the ratios of several rounds."""
    values = np.asarray(ratios)
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def publish(name: str, rows: Sequence[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Writes `NAME.csv` (every measurement) and `NAME.json` (summary and machine)."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(summary, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"written: experiments/results/benchmarks/{name}.csv and {name}.json")
