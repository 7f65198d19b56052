"""The processor that numbers were measured on, in words that name no host."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

Machine = dict[str, str | int]


def cores() -> int:
    """Give the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def processor() -> Machine:
    """Give the model of the CPU, the cores that this process may use, and Python's version."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        model = next(names, model)
    return {"cpu": model, "cores": cores(), "python": platform.python_version()}
