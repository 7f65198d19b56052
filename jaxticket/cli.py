"""The command line: `python -m jaxticket presets [NAME]` and `show FILE`."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from jaxticket import _extras, _tree
from jaxticket.presets import PRESETS, Preset, preset, preset_of
from jaxticket.presets.schema import FUNCTIONS
from jaxticket.ticket import about, layer_masks

_extras.require("tyro", "cli")
import tyro  # noqa: E402
from tyro.extras import subcommand_cli_from_dict  # noqa: E402

BAR = 40
"""Letters of a full bar."""
TRAINED = ("steps", "batch_size", "optimizer", "lr")
"""The settings of training that are shown of a ticket."""


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
        how = (f"{t.steps:,}", f"{t.batch_size:,}", str(t.optimizer), f"{t.lr:g}")
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
        if name == "function":
            lines.append(f"{'':<22} {FUNCTIONS[p.function]}")
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


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", value))
    if isinstance(value, (list, tuple)):
        return (
            f"[{', '.join(str(v) if isinstance(v, (list, tuple)) else _brief(v) for v in value)}]"
        )
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _printable(text: str) -> str:
    """Text in which everything that a terminal would obey is written out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _bar_letter(encoding: str | None) -> str:
    """A full block, or "#" where it cannot be written."""
    try:
        # text streams without an encoding hold any letter
        "█".encode(encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return "#"
    return "█"


def _preset(net: Any, said: dict[str, Any]) -> str | None:
    """The preset of what a ticket file says of its setting, if there is one; files may say
    anything.
    """
    data, training = said.get("data"), said.get("training")
    if "preset" in said:
        # as files of version 0.1 name it
        return said["preset"]
    if not (isinstance(net, dict) and isinstance(data, str) and isinstance(training, dict)):
        return None
    return preset_of(net, data, training)


def ticket_text(path: Path, *, letter: str = "█") -> str:
    """What a ticket file says of itself, and the density of every layer as a bar chart of this
    letter. Control characters, which files of others may hold, are written out.
    """
    header = about(path)
    said, net = header["about"], header["net"] or {}
    # of a ticket that is stored by seed the mask is there all the same
    masks = layer_masks(path)
    lines = []

    def line(name: str, value: Any) -> None:
        if value not in (None, {}, ()):
            # a line each, whatever the value holds
            lines.append(f"{name:<14}{value}".replace("\n", "\\n"))

    network = net.get("constructor"), net.get("name")
    line("network", next((name for name in reversed(network) if name), None))
    options = {k: v for k, v in net.items() if k not in ("constructor", "name", "params")}
    line("", ", ".join(f"{k}={v}" for k, v in options.items()))
    line("preset", _preset(net, said))

    def setting(said: dict[str, Any], begin: str = "") -> None:
        line(f"{begin}data", said.get("data"))
        if said.get("data") is not None:
            line("", said.get("licence") or "licence not known")
        fingerprint = said.get("fingerprint")
        line("", None if fingerprint is None else f"fingerprint {str(fingerprint)[:16]}...")

    setting(said)
    density, accuracy = said.get("density"), said.get("accuracy")
    line("density", f"{100 * density:.4g}%" if isinstance(density, float) else density)
    own = f"{100 * accuracy:.2f}% (test, trained)" if isinstance(accuracy, float) else accuracy
    line("accuracy", own)
    line("begins", f"at step {header['step']} of the schedule")
    line("level", header["level"])
    line("seed", header["seed"] if said.get("run_seed") is None else said["run_seed"])

    def settings(value: Any, only: tuple[str, ...] | None = None) -> Any:
        if not isinstance(value, dict):
            return value
        shown = {k: v for k, v in value.items() if v not in ((), [], None)}
        return ", ".join(f"{k}={_brief(v)}" for k, v in shown.items() if only is None or k in only)

    line("training", settings(said.get("training"), TRAINED))
    line("pruning", settings(said.get("pruning")))
    source = said.get("found_in")
    if isinstance(source, dict):
        lines += ["", "found in"]
        line("  preset", _preset(source.get("net"), source))
        setting(source, "  ")
        line("  training", settings(source.get("training"), TRAINED))
        line("  rewound", f"to step {source.get('rewind_step')}")
    width = max(map(len, masks))
    lines.append("")
    for name in sorted(masks, key=_tree.natural):
        mask = masks[name]
        kept, size = int(mask.sum()), mask.size
        name = name.replace("\n", "\\n")
        # layers that are not pruned at all, such as biases, say nothing
        if kept == size and mask.ndim < 2:
            continue
        share = kept / max(1, size)
        bar = letter * round(BAR * share)
        lines.append(f"{name:<{width}}  {bar:<{BAR}} {100 * share:6.1f}%  {kept:,} of {size:,}")
    return _printable("\n".join(lines))


def show_ticket(file: Annotated[Path, tyro.conf.Positional]) -> None:
    """Show a ticket file: where it comes from, and how much it leaves of every layer.

    Args:
      file: as they lie in the `tickets` folder of a run.
    """
    print(ticket_text(file, letter=_bar_letter(sys.stdout.encoding)))


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Args:
      args: the arguments; None for those of the process.
    """
    try:
        subcommand_cli_from_dict(
            {"presets": show_presets, "show": show_ticket},
            prog="python -m jaxticket",
            description="Lottery-ticket experiments in JAX.",
            args=args,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has read enough; what Python would still write on its way out goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        sys.exit(_printable(f"error: {error}"))
