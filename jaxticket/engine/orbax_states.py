"""States in folders that Orbax writes, to which every host adds its part; on disk only.

On buckets Orbax needs Google's client to delete what it saved (gs://), or writes nothing (s3://).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxticket import _files
from jaxticket.typing import Json

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp

NAME = "state"
"""The folder of saves in that of a run."""
_METADATA = "_CHECKPOINT_METADATA"


def newest(folder: Path) -> tuple[Json, float] | None:
    """What the newest save of a folder is, and when it was made in seconds since 1970; or None."""
    steps = [p for p in folder.glob("[0-9]*") if p.name.isdigit()]
    for step in sorted(steps, key=lambda p: -int(p.name)):
        file = step / _METADATA
        # half a save has no readable one
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(file.read_text(encoding="utf-8"))["custom_metadata"]
            return dict(about), file.stat().st_mtime
    return None


@contextlib.contextmanager
def _checkpointer(folder: Path) -> Iterator[ocp.training.Checkpointer]:
    # takes half a second, which runs without a folder need not pay
    from orbax.checkpoint import v1 as ocp

    policy: Any = ocp.training.preservation_policies.LatestN(1)
    with ocp.training.Checkpointer(str(folder), preservation_policy=policy) as saver:
        yield saver


def save(folder: Path, about: Json, tree: dict[str, jax.Array]) -> None:
    """Save a state, and remove the one before; all hosts together.

    Raises:
      Exception: of many kinds.
    """
    with _checkpointer(folder) as saver:
        latest = saver.latest
        step = 0 if latest is None else latest.step + 1
        saver.save(step, tree, custom_metadata=about)


def load(
    folder: Path, unit: str, like: dict[str, jax.Array], layout: str
) -> tuple[Json, dict[str, jax.Array]] | None:
    """The newest state of a unit as (about, tree), None where there is none; all hosts together.

    Args:
      folder: of the saves.
      unit: the unit's name; states of other units do not count.
      like: tree of arrays as they were saved.
      layout: what `about` must say of them.

    Raises:
      Exception: of many kinds, for saves that are damaged.
    """
    with _checkpointer(folder) as saver:
        latest = saver.latest
        if latest is None:
            return None
        known = saver.metadata().custom_metadata
        about: Json = dict(known) if isinstance(known, dict) else {}
        if about.get("unit") != unit:
            return None
        if about.get("layout") != layout:
            raise ValueError("it is of another version or number of devices")
        abstract = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
            for name, x in like.items()
        }
        return about, saver.load(abstract_state=abstract)


def discard_half_written(folder: Path) -> None:
    """Remove saves without readable metadata: Orbax would stumble over them."""
    for step in folder.glob("[0-9]*"):
        try:
            json.loads((step / _METADATA).read_text())
        except (OSError, ValueError):
            warnings.warn(f"{step} is half written and is skipped", stacklevel=4)
            shutil.rmtree(step)


def discard_failed(folder: Path) -> None:
    """Remove what a save that failed left, which would keep the room that is missing."""
    for half in folder.glob("*.orbax-checkpoint-tmp*"):
        _files.remove_tree(half)


def set_aside(folder: Path, to: Path) -> None:
    """Move saves that cannot be used out of the way."""
    shutil.rmtree(to, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(to)
