"""What the bits of a result depend on other than settings: versions, flags, devices, the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import jax

from jaxticket.engine import parallel
from jaxticket.typing import Json

ENVIRONMENT = "environment.json"
"""The file of a run folder that has the environments in which it was computed."""


def environments_in(path: Path) -> list[Json]:
    """The machines on which a run was computed; none where there is no readable file of them."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((path / ENVIRONMENT).read_text(encoding="utf-8"))
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return []


def environment() -> dict[str, object]:
    """Describe what the bits of a result depend on other than the settings.

    These are versions, flags and devices, and the model of the CPU where it computes.
    """
    names = ("jaxticket", "jax", "jaxlib", "flax", "optax", "numpy", "llvmlite")
    versions = {name: _version(name) for name in names}
    facts: dict[str, object] = {
        "python": platform.python_version(),
        **versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }
    if jax.default_backend() == "cpu":
        return facts | _cpu()
    return facts | {"platform": str(jax.devices()[0].client.platform_version)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> dict[str, str]:
    """The CPU's model and its vector instructions, by which XLA chooses code."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip().lower(), value.strip())
    flags = facts.get("flags", facts.get("features", "")).split()
    vector = ("sse", "ssse", "avx", "fma", "amx", "f16c", "asimd", "sve", "bf16", "i8mm")
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "cores": str(parallel.cores()),
        "instructions": " ".join(sorted(flag for flag in flags if flag.startswith(vector))),
    }
