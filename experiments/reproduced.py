"""The pages of what was reproduced and of the leaderboards, made of the published results.

It trains nothing and takes some seconds:

    python -m experiments.reproduced            # print the pages, and what is wrong with them
    python -m experiments.reproduced --write    # write docs/reproduced.md and docs/leaderboard.md

A row stands for a folder of `experiments/results` that a script of a source has published. What
is expected is what the script's header says, or of a network that it does not speak of what the
source prints; what was measured is read from the folder's tables. Cells stay empty where a file
says nothing.
"""

import ast
import json
import math
import posixpath
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jaxticket as jt
from experiments import index
from experiments.common import claims, ranking
from experiments.common.claims import rows_of
from experiments.common.job import NETWORKS
from experiments.common.report import SHOWN_AS, reported
from experiments.one_ticket.data_sets import label as setting

ROOT = index.ROOT
PAGE = "docs/reproduced.md"
RESULTS = "experiments/results"
BEYOND = "Beyond the sources"
USUAL_DENSITY = 0.1
"""Accuracies are shown at the density nearest to it, on a logarithmic scale."""
SHOWN = 24
"""At most so many accuracies are shown of a result, the highest."""
TABLES = ("final.csv", "summary.csv")
SUPERMASK = "_supermask"
HEAD = (
    "# Reproduced",
    "What was published of the figures and tables of the four sources: each with its command, size,"
    " data, machine and time, what the source expects, and what was measured. `python -m"
    " experiments.reproduced --write` makes this page of `experiments/results`, the headers of the"
    " scripts and `experiments/index.csv`; a test holds that it is up to date.",
    "**What is expected is what the source has at its own size; the steps, images and seeds of each"
    " row tell the size of what was measured.** The command alone does not: without `--size` it is"
    " of the size for two CPU cores, which of some presets is as long as the source's, and with"
    " other settings it can be shorter than its `--size`. Orders and gaps can be compared, absolute"
    " numbers only at the source's size. CIFAR-10 is of JPEG re-encoded images"
    " throughout. Accuracies are means over seeds on the test split in %, at the density next to"
    " 10%; the tables have the others. A command with other settings is one whose folder ends in a"
    " hash: `settings.json` there holds them. What a file does not say is left empty."
    " `experiments/README.md` says what is not done"
    " yet, which result was measured with older settings, and why some were withdrawn.",
)


class Result(NamedTuple):
    """A folder of published results.

    Attributes:
      folder: from the top of the repository.
      script: likewise, of what made it.
      settings: what its `settings.json` holds.
      environment: what its `environment.json` holds; empty where there is none.
      files: names in the folder, sorted, numbers by size.
    """

    folder: str
    script: str
    settings: Mapping[str, object]
    environment: Mapping[str, object]
    files: tuple[str, ...]


def results(root: Path = ROOT) -> list[Result]:
    """Read the folders of `experiments/results` that have settings, sorted by name.

    Args:
        root: top of the repository.
    """
    found = []
    for path in sorted((root / RESULTS).rglob("settings.json")):
        home = path.parent
        settings = json.loads(path.read_text(encoding="utf-8"))
        machine = home / "environment.json"
        environment = json.loads(machine.read_text(encoding="utf-8")) if machine.is_file() else {}
        parent = home.parent.relative_to(root / RESULTS).as_posix()
        # results that nothing was trained for do not say which script made them
        script = posixpath.join(parent, str(settings.get("script") or home.name.split("-")[0]))
        files = tuple(sorted((file.name for file in home.iterdir()), key=_natural))
        found.append(
            Result(
                home.relative_to(root).as_posix(),
                posixpath.normpath(f"experiments/{script}.py"),
                settings,
                environment,
                files,
            )
        )
    return found


def _natural(name: str) -> tuple[str | int, ...]:
    """Sort figures 4-2, 4-10 and 4-31 by their numbers."""
    parts = re.split(r"(\d+)", name.replace("figures_", "figure_"))
    return tuple(int(part) if part.isdigit() else part for part in parts)


def header(script: str, root: Path = ROOT) -> dict[str, str]:
    """Give the parts of a script's docstring that begin with a word and a colon, by that word."""
    text = ast.get_docstring(ast.parse((root / script).read_text(encoding="utf-8"))) or ""
    parts: dict[str, str] = {}
    word = ""
    for line in text.splitlines():
        first, colon, rest = line.partition(":")
        if colon and first.isalpha() and first.istitle():
            word, line = first, rest
        elif line and not line.startswith(" "):
            word = ""
        if word:
            parts[word] = f"{parts.get(word, '')} {line.strip()}".strip()
    return parts


def link(result: Result, name: str, text: str | None = None) -> str:
    """Link a file of a result from the page."""
    said = Path(name).stem.replace("_", " ").capitalize() if text is None else text
    said = re.sub(r"\bimp\b", "IMP", said)
    return f"[{said}](../{result.folder}/{name})"


def command(result: Result, parts: Mapping[str, str]) -> str:
    """Give the command that makes a result but for settings that its name does not hold."""
    module = result.script.removesuffix(".py").replace("/", ".")
    words = [f"python -m {module}"]
    preset, size = result.settings.get("preset"), result.settings.get("size")
    if preset and "--preset" in parts.get("Command", ""):
        words.append(f"--preset {preset}")
    if size in ("reduced", "paper"):
        words.append(f"--size {size}")
    usual = f"{result.settings.get('script')}-{preset}-{size}"
    other = ""
    if size and Path(result.folder).name != usual:
        other = ", with other settings"
    return f"`{' '.join(words)}`{other}"


def said(settings: Mapping[str, object]) -> str:
    """Give network, data, seeds and steps in words."""
    data, seeds, training = (settings.get(k) for k in ("data", "seeds", "training"))
    data = data.get("name") if isinstance(data, dict) else data
    steps = settings.get("steps") or (training.get("steps") if isinstance(training, dict) else None)
    parts = [str(settings.get("preset") or "")]
    if data:
        parts.append(str(data))
    if note := settings.get("data_note"):
        parts.append(f"**{note}**")
    for key, what in (("training_examples", "training images"), ("test_images", "test images")):
        if isinstance(number := settings.get(key), int):
            parts.append(f"{number:,} {what}")
    if isinstance(steps, int):
        parts.append(f"{steps:,} steps")
    if seeds:
        parts.append(f"{len(seeds) if isinstance(seeds, list) else seeds} seeds")
    return ", ".join(part for part in parts if part)


def machine(environment: Mapping[str, object]) -> str:
    """Give processor and time in words; nothing where they were not recorded."""
    seconds = environment.get("seconds")
    if not isinstance(seconds, (int, float)):
        return ""
    minutes = f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:.0f}"
    processor = str(environment["cpu"]).replace("(R)", "").replace(" Processor", "")
    cores = f"{environment['cores']} core" + ("s" if environment["cores"] != 1 else "")
    return f"{minutes} minutes, {cores}, {processor}"


def accuracies(rows: Sequence[Mapping[str, str]]) -> str:
    """Give mean test accuracies in % of all branches at the usual density, and the dense one."""
    test = [row for row in rows if row.get("split", "test") == "test" and row.get("mean")]
    sparse = [row for row in test if float(row["density"]) < 1]
    if not sparse:
        return ""
    chosen, here = at_usual_density(sparse)
    here = sorted(here, key=lambda row: -float(row["mean"]))
    named = labels(row["branch"] for row in here)
    # labels have commas
    seen = "; ".join(
        f"{named[row['branch']]} {100 * float(row['mean']):.1f}" for row in here[:SHOWN]
    )
    seen += f" and {len(here) - SHOWN} more" if len(here) > SHOWN else ""
    dense = [row for row in test if row["branch"] == "ticket" and float(row["density"]) == 1]
    end = f"; dense {100 * float(dense[0]['mean']):.1f}" if dense else ""
    return f"with {100 * chosen:.2g}% of the weights {seen}{end}"


def at_usual_density(
    rows: Sequence[Mapping[str, str]],
) -> tuple[float, list[Mapping[str, str]]]:
    """Give the density nearest to the usual one, and the rows there."""
    shares = [float(row["density"]) for row in rows]
    chosen = min(shares, key=lambda share: abs(math.log(share / USUAL_DENSITY)))
    return chosen, [
        row for row in rows if math.isclose(float(row["density"]), chosen, rel_tol=0.02)
    ]


def barriers(rows: Sequence[Mapping[str, str]]) -> str:
    """Give mean error barriers in points by step k, of dense networks and at one density."""
    if not rows or "barrier_mean" not in rows[0]:
        return ""
    sparse = [row for row in rows if float(row["density"]) < 1]
    chosen, here = at_usual_density(sparse) if sparse else (1.0, [])
    named = labels(row["branch"] for row in here)
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in [row for row in rows if float(row["density"]) == 1] + here:
        dense = float(row["density"]) == 1
        name = "dense" if dense else f"{named[row['branch']]} with {100 * chosen:.2g}%"
        groups.setdefault(name, []).append(row)
    seen = []
    for name, own in groups.items():
        by_step = (f"{100 * float(row['barrier_mean']):.1f} from step {row['at']}" for row in own)
        seen.append(f"{name} {', '.join(by_step)}")
    return f"barriers in points: {'; '.join(seen)}"


def transfers(rows: Sequence[Mapping[str, str]]) -> str:
    """Give accuracies in % of tickets by source and target at the usual density."""
    if not rows or not {"source", "target", "globally_permuted"} <= set(rows[0]):
        return ""
    chosen, here = at_usual_density([row for row in rows if float(row["density"]) < 1])
    seen = [
        f"{setting(r['source'])} on {setting(r['target'])} {100 * float(r['accuracy']):.1f}"
        for r in here
    ]
    chance = {row["target"]: 100 * float(row["globally_permuted"]) for row in here}
    seen += [f"random tickets on {setting(name)} {value:.1f}" for name, value in chance.items()]
    return f"with {100 * chosen:.2g}% of the weights {'; '.join(seen)}"


def words(name: str) -> str:
    """Give the name of a column without underscores."""
    return name.replace("_", " ")


def labels(branches: Iterable[str]) -> dict[str, str]:
    """Give the labels that figures have for branches; those of supermasks are in none."""
    shown = {name: SHOWN_AS.get(name, name).removesuffix(SUPERMASK) for name in branches}
    looks = jt.plots.branch_styles(shown.values())
    return {
        name: looks[own].label + (", supermask" if name.endswith(SUPERMASK) else "")
        for name, own in shown.items()
    }


def expected(result: Result, parts: Mapping[str, str]) -> str:
    """Give what a script's header expects, in the words of the page.

    The numbers of a header are of the network of its sizes, unless it names others. Of a network
    that it does not name the source's own are given, where it prints any.
    """
    said, usual = parts.get("Expected", ""), parts.get("Sizes", "").partition(":")[0]
    own = jt.PRESETS.get(str(result.settings.get("preset")))
    if own is None or usual not in jt.PRESETS or jt.PRESETS[usual].network == own.network:
        return said
    network = NETWORKS.get(str(own.network), str(own.network))
    printed = reported(own)
    # LeNet-300-100 is called LeNet
    if not printed or network.removesuffix("-300-100") in said:
        return said
    dense = f"at paper size, {network} has {printed.pop('dense'):.1f}% dense"
    if not printed:
        return f"{dense} ({own.source})."
    named = labels(printed)
    pruned = ", ".join(f"{value:.1f}% ({named[name]})" for name, value in printed.items())
    density = 100 * (own.matching_density or 1.0)
    return f"{dense} and with {density:.3g}% of the weights {pruned}: {own.source}, and Table 4.2."


def beside(rows: Iterable[Mapping[str, str]]) -> str:
    """Give measured numbers next to those that a table has of the source, in brackets."""
    said = []
    for row in rows:
        own = [name for name in row if f"paper_{name}" in row]
        pairs = [(name, row[name], row[f"paper_{name}"]) for name in own]
        if "gap" in row and "paper" in row:
            pairs.append(("gap", row["gap"], row["paper"]))
        name = next(iter(row.values()))
        label = labels([name])[name]
        numbers = [
            f"{words(name)} {float(measured):.4g} ({float(source):.4g})"
            for name, measured, source in pairs
            if measured and source
        ]
        if numbers:
            share = f" at {100 * float(row['density']):.2g}%" if "density" in row else ""
            said.append(f"{label}{share}: {', '.join(numbers)}")
    return "; ".join(said)


def measured(result: Result, root: Path = ROOT) -> str:
    """Give what the tables of a result say: accuracies, what stands next to a source, and links."""
    home = root / result.folder
    tables = [name for name in result.files if name.endswith(".csv")]
    parts = [accuracies(rows_of(home / name)) for name in TABLES if name in tables]
    parts += [
        of(rows_of(home / f"{name}.csv"))
        for name, of in (("verdicts", barriers), ("matrix", transfers))
    ]
    pairs = [beside(rows_of(home / name)) for name in tables]
    parts += [f"in brackets the source: {pair}" for pair in pairs if pair]
    listed = ", ".join(link(result, name, name.removesuffix(".csv")) for name in tables)
    text = ". ".join(part[0].upper() + part[1:] for part in parts if part)
    return " ".join(part for part in (f"{text}." if text else "", f"({listed})" if tables else "")
                    if part)  # fmt: skip


def row(result: Result, root: Path = ROOT) -> str:
    """Give the row of a result."""
    parts = header(result.script, root)
    figures = [name for name in result.files if name.endswith(".png")]
    shown = link(result, figures[0]) if figures else ""
    picture = f"[!{shown}](../{result.folder}/{figures[0]})" if figures else ""
    names = ", ".join(link(result, name) for name in figures)
    about = (
        f"{picture} {names}".strip(),
        command(result, parts),
        f"{said(result.settings)} ({link(result, 'settings.json', 'settings')})",
        machine(result.environment),
    )
    cells = (
        "<br>".join(line for line in about if line),
        expected(result, parts),
        measured(result, root),
    )
    return "| " + " | ".join(cell.strip().replace("|", r"\|") for cell in cells) + " |"


def page(root: Path = ROOT) -> str:
    """Render the page.

    Args:
        root: top of the repository.
    """
    found, rows = results(root), index.read(root)
    sources = {entry.script: entry.source for entry in rows if entry.has_script}
    parts = [line for text in HEAD for line in (text, "")]
    parts += ["## Claims, one by one", "", *claims.tables(root / "experiments"), ""]
    for source, title in [*index.SOURCES.items(), ("", BEYOND)]:
        own = [result for result in found if sources.get(result.script, "") == source]
        parts += [f"## {title}", ""]
        parts += [
            "| Figures, command, data, time and machine | Expected | Measured |",
            "|---|---|---|",
            *(row(result, root) for result in own),
            "",
        ]
        gone = [entry for entry in rows if entry.source == source and "withdrawn" in entry.note]
        if gone:
            why: dict[str, list[str]] = {}
            for entry in gone:
                why.setdefault(entry.note.split("; ")[-1], []).append(entry.item)
            parts += ["Withdrawn, in whole or in part:", ""]
            parts += [f"- {', '.join(items)}: {note}." for note, items in why.items()]
            parts += [""]
    return "\n".join(parts).rstrip("\n") + "\n"


def pages(root: Path = ROOT) -> dict[str, str]:
    """Render both pages, by file name: this one and the leaderboards'.

    Args:
        root: top of the repository.
    """
    boards = sorted((root / RESULTS).glob("leaderboard-*"))
    return {PAGE: page(root), ranking.PAGE: ranking.page(root, boards)}


def check(root: Path = ROOT) -> list[str]:
    """Find what is wrong with the written pages: one sentence each.

    Args:
        root: top of the repository.
    """
    remedy = "run `python -m experiments.reproduced --write`"
    found = []
    for name, text in pages(root).items():
        path = root / name
        if not path.is_file():
            found.append(f"there is no {name}: {remedy}")
        elif path.read_text(encoding="utf-8") != text:
            found.append(f"{name} differs from the published results: {remedy}")
    return found


def main(write: bool = False) -> None:
    """Print the pages and their problems; end with status 1 when there are any.

    Args:
        write: write docs/reproduced.md and docs/leaderboard.md instead of printing them.
    """
    for name, text in pages().items():
        if write:
            (ROOT / name).write_text(text, encoding="utf-8")
        else:
            print(text)
    problems = check()
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
