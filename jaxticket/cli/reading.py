"""The commands that read: `show`, `plot`, `report` and `presets`."""

from __future__ import annotations

import functools
import inspect
import json
import operator
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from jaxticket import _files
from jaxticket.analysis.verdict import Verdict
from jaxticket.cli.flags import Flag, parse
from jaxticket.cli.listing import bar_letter, presets_text, printable, ticket_text
from jaxticket.connectivity import Instability
from jaxticket.loading import load_recorded
from jaxticket.reporting import report
from jaxticket.reporting.tables import final_table, with_branches
from jaxticket.reporting.unfinished import unfinished
from jaxticket.runs import Runs
from jaxticket.sparsify.early_pruning import BySteps

NONE = inspect.Parameter.empty
Kind: TypeAlias = Literal["accuracy", "early_stop", "curves", "dilation", "instability", "path"]
"""Figures by the names of `jt.plots`: the first four of runs, the others of an instability."""
KINDS: tuple[str, ...] = get_args(Kind)


def show(args: Sequence[str]) -> None:
    """Show a run, or a ticket file: settings, and the accuracy of every level.

    With --csv or --json: the values at the end of every training, one row each.
    """
    given = parse(
        {
            "": [Flag("of", Path, NONE, "Folder of a run, or a ticket file.")],
            "output": [
                Flag("csv", bool, False, "Write a table in CSV."),
                Flag("json", bool, False, "Write a list of rows in JSON."),
            ],
        },
        args, prog="jaxticket show", description=str(show.__doc__),
    )  # fmt: skip
    path, output = _files.to_path(Path(str(given[""]["of"])), "of"), given["output"]
    if len(output) > 1:
        raise ValueError("`csv` and `json` are two forms of one table; leave one out")
    if path.is_file():
        if output:
            raise ValueError(
                f"`{next(iter(output))}` is for folders of runs, and {str(path)!r} is a file"
            )
        print(ticket_text(path, letter=bar_letter(sys.stdout.encoding)))
        return
    if not path.exists():
        raise ValueError(f"{str(path)!r} is no file and no folder; pass that of a run")
    if begun := unfinished(path):
        if output:
            raise ValueError(
                f"`{next(iter(output))}` is for finished runs, and that of {str(path)!r} is not; "
                f"leave it out to see what is done so far"
            )
        print(printable(repr(begun)))
        return
    found = load_recorded(path)
    if "csv" in output:
        final_table(found).to_csv(sys.stdout, index=False)
    elif "json" in output:
        # nan of seeds that diverged is null
        text = final_table(found).to_json(None, orient="records", double_precision=15)
        rows = json.loads(str(text))
        print(json.dumps(rows, indent=1))
    elif isinstance(found, BySteps):
        print("\n\n".join(f"pruned at step {step}: {runs!r}" for step, runs in found.items()))
    else:
        print(printable(repr(found)))
        if below := sorted(file.parent.name for file in path.glob("branches/*/runs.json")):
            print(f"  branches: {', '.join(below)} (in {path / 'branches'})")


def plot(args: Sequence[str]) -> None:
    """Draw a figure of a run into a file: accuracy against density, with all controls."""
    given = parse(
        {
            "": [Flag("of", Path, NONE, "Folder of a run or of an instability analysis.")],
            "figure": [
                Flag("out", Path, NONE, "File: figure.png, .pdf or .svg."),
                Flag("kind", Kind | None, None, "Which figure of jt.plots; the usual one if left "
                     "out. early_stop, curves and dilation are of runs, instability and "
                     "path of an instability."),
                Flag("dpi", int, 150, "Dots per inch of figures made of dots."),
            ],
        },
        args, prog="jaxticket plot", description=str(plot.__doc__),
    )  # fmt: skip
    figure, path = given["figure"], _files.to_path(Path(str(given[""]["of"])), "of")
    out = _files.to_path(Path(str(figure["out"])), "out")
    if not _files.is_url(out) and not out.parent.is_dir():
        raise ValueError(f"`out` {str(out)!r} is in a folder that is not there; make it first")
    found = load_recorded(path)
    if isinstance(found, BySteps):
        steps = ", ".join(f"step-{step}" for step in found)
        raise ValueError(f"`folder` {str(path)!r} holds several runs; plot one of {steps} in it")
    if isinstance(found, Verdict):
        raise ValueError(f"`folder` {str(path)!r} holds a verdict, of which there is no figure")
    kinds = KINDS[:4] if isinstance(found, Runs) else KINDS[4:]
    kind = str(figure.get("kind") or kinds[0])
    if kind not in kinds:
        raise ValueError(
            f"`kind` must be one of {', '.join(kinds)} for the results in {str(path)!r}, got "
            f"{kind!r}"
        )
    # no window is opened
    os.environ.setdefault("MPLBACKEND", "Agg")
    from jaxticket import plots

    table = with_branches(found) if isinstance(found, Runs) else found.table()
    if kind == "path" and isinstance(found, Instability):
        table = found.paths()
    draw: Callable[..., object] = getattr(plots, kind)
    if kind == "accuracy" and isinstance(found, Runs):
        # rings are then those of runs.matching()
        draw = functools.partial(draw, test_size=len(found.data.test))
    with plots.style():
        figure_of = operator.attrgetter("figure")
        drawn = figure_of(draw(table))
        with _files.replacing(out) if _files.is_url(out) else nullcontext(out) as file:
            drawn.savefig(file, dpi=figure.get("dpi", 150))
    print(out)


def write_report(args: Sequence[str]) -> None:
    """Write a run as one HTML page that can be sent on: `jt.report`."""
    given = parse(
        {
            "": [Flag("of", Path, NONE, "Folder of a run.")],
            "output": [
                Flag("out", Path | None, None, "File of the page; report.html in the folder if "
                     "left out."),
            ],
        },
        args, prog="jaxticket report", description=str(write_report.__doc__),
    )  # fmt: skip
    path, out = _files.to_path(Path(str(given[""]["of"])), "of"), given["output"].get("out")
    print(report(path, None if out is None else _files.to_path(Path(str(out)), "out")))


def presets(args: Sequence[str]) -> None:
    """List the settings of the papers, or show one in full."""
    name = Flag("name", str, "", 'A preset, or a pattern such as "vgg16-*"; all if left out.')
    given = parse({"": [name]}, args, prog="jaxticket presets", description=str(presets.__doc__))
    print(presets_text(str(given[""].get("name", ""))))


READING: dict[str, Callable[[Sequence[str]], None]] = {
    "show": show,
    "plot": plot,
    "report": write_report,
    "presets": presets,
}
"""The commands that read, by name."""
