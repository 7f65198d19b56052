"""Index of every figure and table of the four sources, and the script that makes each one.

The index is kept in `index.csv` (one row per figure or table). This script turns it into the
markdown tables of `README.md` and finds what is wrong with them. It trains nothing and takes a
second:

    python -m experiments.index            # print the tables, then the problems
    python -m experiments.index --write    # rewrite them inside README.md, then the problems

The column `script` holds a path from the top of the repository, `not yet`, or `diagram` for what
no run can make (a drawing, a list of settings).
"""

import csv
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("source", "item", "what", "script", "note")
NOT_YET, DIAGRAM = "not yet", "diagram"
# words of a note that say what a script has still to make
IN_PART = ("in the queue", "prepared first", "still to come")
BEGIN, END = "<!-- index:begin -->", "<!-- index:end -->"
# scripts in these folders must be listed; names that begin with "_" are helpers
FOLDERS = (
    "thesis_ch3",
    "thesis_ch4",
    "thesis_ch5",
    "thesis_ch6",
    "one_ticket",
    "kd_lts",
    "concrete",
    "supermasks",
)
SOURCES = {
    "thesis": "Frankle's thesis",
    "one_ticket": "One ticket to win them all",
    "kd_lts": "KD-LTS",
    "concrete": "Concrete Ticket Search",
}
REMARKS = {
    "concrete": "The paper has five more figures and two tables. Only its abstract and the captions"
    " of its first five figures were at hand here, so the others are not listed."
}


class Row(NamedTuple):
    """One figure or table of a source, in the column order of `index.csv`."""

    source: str
    item: str
    what: str
    script: str
    note: str

    @property
    def has_script(self) -> bool:
        """Whether `script` is a path."""
        return self.script not in ("", NOT_YET, DIAGRAM)

    @property
    def in_part(self) -> bool:
        """Whether only a part of it has been made: the note says what is left (`IN_PART`)."""
        return self.has_script and any(words in self.note for words in IN_PART)


def read(root: Path = ROOT) -> list[Row]:
    """Read `experiments/index.csv`.

    Args:
        root: top of the repository.

    Returns:
        The rows, in the order of the file.

    Raises:
        ValueError: if the header or a row does not have the expected columns.
    """
    path = root / "experiments" / "index.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file, strict=True)
        header = tuple(next(lines, ()))
        if header != COLUMNS:
            raise ValueError(f"the header of {path} is {header}; it must be {COLUMNS}")
        rows = []
        for cells in lines:
            if len(cells) != len(COLUMNS):
                raise ValueError(
                    f"line {lines.line_num} of {path} has {len(cells)} cells instead of"
                    f" {len(COLUMNS)}: put a cell that contains a comma in double quotes"
                )
            rows.append(Row(*cells))
    return rows


def _count(rows: list[Row]) -> str:
    """Give the line above a table: how many of the rows that a run can make have a script."""
    done = sum(row.has_script for row in rows)
    part = sum(row.in_part for row in rows)
    drawn = sum(row.script == DIAGRAM for row in rows)
    line = f"**{done} of {len(rows) - drawn} done**"
    if part:
        line += f", {part} of them in part"
    return line + (f"; {drawn} more with nothing to run." if drawn else ".")


def _script(row: Row) -> str:
    """Give the cell for `row.script`: a link from the experiments folder, or words."""
    if row.script == DIAGRAM:
        return "nothing to run"
    if not row.has_script:
        return row.script
    path = row.script.removeprefix("experiments/")
    return f"[{path}]({path})"


def markdown(rows: list[Row]) -> str:
    """Render the rows as one markdown table per source.

    Args:
        rows: the index, as `read` returns it.

    Returns:
        The text that stands between the markers of `README.md`, without the markers.
    """
    parts = []
    for source, title in SOURCES.items():
        own = [row for row in rows if row.source == source]
        parts += [f"### {title}", "", _count(own), ""]
        if source in REMARKS:
            parts += [REMARKS[source], ""]
        parts += ["| Item | What it shows | Script | Note |", "|---|---|---|---|"]
        for row in own:
            cells = (row.item, row.what, _script(row), row.note)
            parts.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def _split(text: str) -> tuple[str, str, str]:
    """Split `README.md` into the parts before, between and after the markers."""
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            raise ValueError(
                f"experiments/README.md holds the marker {marker} {text.count(marker)} times;"
                " it must hold it once"
            )
    before, rest = text.split(BEGIN)
    if END not in rest:
        raise ValueError(f"experiments/README.md holds {END} before {BEGIN}: swap them")
    between, after = rest.split(END)
    return before, between, after


def rewrite(root: Path = ROOT) -> None:
    """Rewrite the index section of `experiments/README.md`; the rest of the file stays.

    Args:
        root: top of the repository.

    Raises:
        ValueError: if the markers are not there exactly once, in order.
    """
    path = root / "experiments" / "README.md"
    before, _, after = _split(path.read_text(encoding="utf-8"))
    text = f"{before}{BEGIN}\n{markdown(read(root))}{END}{after}"
    path.write_text(text, encoding="utf-8")


def check(root: Path = ROOT) -> list[str]:
    """Find the problems of the index.

    Args:
        root: top of the repository.

    Returns:
        One sentence per problem; empty when all is well.
    """
    try:
        rows = read(root)
    except (OSError, ValueError, csv.Error) as error:
        return [str(error)]
    problems = []
    for (source, item), times in Counter((row.source, row.item) for row in rows).items():
        if times > 1:
            problems.append(f"index.csv lists {source} {item} {times} times: keep one row")
    for row in rows:
        name = f"{row.source} {row.item}"
        if row.source not in SOURCES:
            known = ", ".join(SOURCES)
            problems.append(f"index.csv names the source {row.source!r}; it must be one of {known}")
        if not (row.item and row.what and row.script):
            problems.append(f"index.csv leaves a cell of {name} empty; only `note` may be")
        if row.has_script and not (root / row.script).is_file():
            problems.append(f"index.csv names {row.script} for {name}: no such file")
    listed = {row.script for row in rows}
    for folder in FOLDERS:
        for path in sorted((root / "experiments" / folder).rglob("*.py")):
            script = path.relative_to(root).as_posix()
            if not path.name.startswith("_") and script not in listed:
                problems.append(
                    f"index.csv does not list {script}: add it, or begin a helper's name with `_`"
                )
    try:
        _, between, _ = _split((root / "experiments" / "README.md").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [*problems, str(error)]
    if between != f"\n{markdown(rows)}":
        problems.append(
            "the index in experiments/README.md differs from index.csv:"
            " run `python -m experiments.index --write`"
        )
    return problems


def main(write: bool = False) -> None:
    """Print the index and its problems; end with status 1 when there are any.

    Args:
        write: rewrite the index section of `experiments/README.md` instead of printing it.
    """
    if write:
        rewrite()
    else:
        print(markdown(read()))
    problems = check()
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
