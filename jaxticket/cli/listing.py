"""What `presets` and `show FILE` print: presets as a table or in full, and tickets in files."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxticket import _tree
from jaxticket._ticket_file import about, layer_masks
from jaxticket.presets import PRESETS, Preset, preset, preset_of
from jaxticket.presets.schema import FUNCTIONS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BAR = 40
"""Characters of a full bar."""
TRAINED = ("steps", "batch_size", "optimizer", "lr")
"""Settings of training that are shown for a ticket."""


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
    """Format presets as a table of settings and reported results."""
    head = ("name", "network", "data", "steps", "batch", "optimizer", "lr", "dense", "matching")
    rows: list[tuple[str, ...]] = [(*head, "source")]
    for p in presets:
        t = p.training
        name = p.network if isinstance(p.network, str) else p.network.__name__
        reported = (_percent(p.dense_accuracy, p.dense_spread), _matching(p))
        settings = (f"{t.steps:,}", f"{t.batch_size:,}", str(t.optimizer), f"{t.lr:g}")
        rows.append((p.name, name, p.data, *settings, *reported, p.source))
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
    """Format every field of a preset on a line, with nested settings indented."""
    lines = []
    for name, value in _fields(p):
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            lines.append(name)
            lines += [f"  {inner:<20} {_text(setting)}" for inner, setting in _fields(value)]
        elif isinstance(value, dict) and value:
            lines.append(name)
            lines += [f"  {inner:<20} {_text(setting)}" for inner, setting in value.items()]
        elif name == "notes":
            lines += [name, *(f"  {note}" for note in p.notes)]
        else:
            lines.append(f"{name:<22} {_text(value)}")
        if name == "function":
            lines.append(f"{'':<22} {FUNCTIONS[p.function]}")
    return "\n".join(lines)


def _fields(settings: DataclassInstance) -> list[tuple[str, object]]:
    return [(f.name, getattr(settings, f.name)) for f in dataclasses.fields(settings)]


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return "-" if value is None or value in ((), {}) else repr(value)


def presets_text(name: str = "") -> str:
    """The presets as a table, or all fields of one.

    Args:
      name: a preset, or a pattern such as "vgg16-*"; all of them if left out.
    """
    matching = [p for p in PRESETS.values() if fnmatch.fnmatchcase(p.name, name)] if name else []
    if not name or (matching and name not in PRESETS):
        return table(matching or PRESETS.values())
    return describe(preset(name))


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    if isinstance(value, (list, tuple)):
        return (
            f"[{', '.join(str(v) if isinstance(v, (list, tuple)) else _brief(v) for v in value)}]"
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Escape control characters, which a terminal would obey."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def bar_letter(encoding: str | None) -> str:
    """A full block, or "#" if the encoding does not have it."""
    try:
        # text streams without an encoding take any character
        "█".encode(encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return "#"
    return "█"


def _preset(net: object, about: Mapping[str, object]) -> str | None:
    """Find the presets with the settings that a ticket file records; files may hold anything."""
    data, training = about.get("data"), about.get("training")
    if "preset" in about:
        # recorded by version 0.1
        return str(about["preset"])
    if not (isinstance(net, dict) and isinstance(data, str) and isinstance(training, dict)):
        return None
    return preset_of(net, data, training)


def ticket_text(path: Path, *, letter: str = "█") -> str:
    """Describe a ticket file, with the density of every layer as a bar chart.

    Control characters, which untrusted files may hold, are escaped.

    Args:
      path: the file.
      letter: the character of bars.
    """
    header = about(path)
    recorded, net = header["about"], header["net"] or {}
    # tickets that are stored by seed have a mask too
    masks = layer_masks(path)
    lines = []

    def line(name: str, value: object) -> None:
        if value not in (None, {}, ()):
            # a single line, whatever the value holds
            lines.append(f"{name:<14}{value}".replace("\n", "\\n"))

    network = net.get("constructor"), net.get("name")
    line("network", next((name for name in reversed(network) if name), None))
    options = {k: v for k, v in net.items() if k not in ("constructor", "name", "params")}
    line("", ", ".join(f"{k}={v}" for k, v in options.items()))
    line("preset", _preset(net, recorded))

    def data_lines(about: Mapping[str, object], begin: str = "") -> None:
        line(f"{begin}data", about.get("data"))
        if about.get("data") is not None:
            line("", about.get("licence") or "license not known")
        fingerprint = about.get("fingerprint")
        line("", None if fingerprint is None else f"fingerprint {str(fingerprint)[:16]}...")

    data_lines(recorded)
    density, accuracy = recorded.get("density"), recorded.get("accuracy")
    line("density", f"{100 * density:.4g}%" if isinstance(density, float) else density)
    if isinstance(accuracy, float):
        accuracy = f"{100 * accuracy:.2f}% (test, trained)"
    line("accuracy", accuracy)
    line("begins", f"at step {header['step']} of the schedule")
    line("level", header["level"])
    line("seed", header["seed"] if recorded.get("run_seed") is None else recorded["run_seed"])

    def settings(value: object, only: tuple[str, ...] | None = None) -> object:
        if not isinstance(value, dict):
            return value
        shown = {k: v for k, v in value.items() if v not in ((), [], None)}
        return ", ".join(f"{k}={_brief(v)}" for k, v in shown.items() if only is None or k in only)

    line("training", settings(recorded.get("training"), TRAINED))
    line("pruning", settings(recorded.get("pruning")))
    source = recorded.get("found_in")
    if isinstance(source, dict):
        lines += ["", "found in"]
        line("  preset", _preset(source.get("net"), source))
        data_lines(source, "  ")
        line("  training", settings(source.get("training"), TRAINED))
        line("  rewound", f"to step {source.get('rewind_step')}")
    width = max(map(len, masks))
    lines.append("")
    for name in sorted(masks, key=_tree.natural):
        mask = masks[name]
        kept, size = int(mask.sum()), mask.size
        name = name.replace("\n", "\\n")
        # layers that are not pruned at all, such as biases, are left out
        if kept == size and mask.ndim < 2:
            continue
        share = kept / max(1, size)
        bar = letter * round(BAR * share)
        lines.append(f"{name:<{width}}  {bar:<{BAR}} {100 * share:6.1f}%  {kept:,} of {size:,}")
    return printable("\n".join(lines))
