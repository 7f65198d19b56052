"""The command line: `python -m jaxticket presets [NAME]`."""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import tyro
from tyro.extras import subcommand_cli_from_dict

from jaxticket.presets import PRESETS, Preset, preset


def _percent(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "-"
    around = "" if spread is None else f" ± {100 * spread:.2g}"
    return f"{100 * value:.4g}{around}%"


def _matching(p: Preset) -> str:
    if p.matching_density is None:
        return "-"
    at = p.matching_rewind if isinstance(p.matching_rewind, str) else f"k={p.matching_rewind}"
    return f"{_percent(p.matching_density)} ({at})"


def table(presets: Iterable[Preset]) -> str:
    """Presets as lines of text: what is trained how, and the numbers that were reported."""
    head = ("name", "network", "data", "steps", "batch", "optimizer", "lr", "dense", "matching")
    rows: list[tuple[str, ...]] = [(*head, "source")]
    for p in presets:
        t = p.training
        name = p.network if isinstance(p.network, str) else p.network.__name__
        reported = (_percent(p.dense_accuracy, p.dense_spread), _matching(p))
        how = (f"{t.steps:,}", f"{t.batch_size:,}", t.optimizer, f"{t.lr:g}")
        rows.append((p.name, name, p.data, *how, *reported, p.source))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {head.index(name) for name in ("steps", "batch", "lr")}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def describe(p: Preset) -> str:
    """Every field of one preset, a line each, those of its settings indented below them."""
    lines = []
    for name, value in _fields(p):
        if dataclasses.is_dataclass(value):
            lines.append(name)
            lines += [f"  {inner:<20} {_text(setting)}" for inner, setting in _fields(value)]
        elif isinstance(value, dict) and value:
            lines.append(name)
            lines += [f"  {inner:<20} {_text(setting)}" for inner, setting in value.items()]
        elif name == "notes":
            lines += [name, *(f"  {note}" for note in value)]
        else:
            lines.append(f"{name:<22} {_text(value)}")
    return "\n".join(lines)


def _fields(settings: Any) -> list[tuple[str, Any]]:
    return [(f.name, getattr(settings, f.name)) for f in dataclasses.fields(settings)]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None or value in ((), {}) else repr(value)


def show_presets(name: Annotated[str, tyro.conf.Positional] = "") -> None:
    """List the presets, or all that one of them holds.

    Args:
      name: a preset, or a pattern such as "vgg16-*"; all of them if left out.
    """
    found = [p for p in PRESETS.values() if fnmatch.fnmatchcase(p.name, name)] if name else []
    if not name or (found and name not in PRESETS):
        print(table(found or PRESETS.values()))
    else:
        print(describe(preset(name)))


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
      args: the arguments; None for those of the process.
    """
    try:
        subcommand_cli_from_dict(
            {"presets": show_presets},
            prog="python -m jaxticket",
            description="Lottery-ticket experiments in JAX.",
            args=args,
        )
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
