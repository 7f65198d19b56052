"""Claims of the sources next to what was measured: reproduced, not reproduced, or cannot be told.

`claims.toml` holds a claim in words, the published results that bear on it, what is compared there
and what the source expects of it. An effect is a difference of two mean final accuracies in points
with Welch's 95% interval over seeds, or one mean error barrier in points with its 95% interval. A
claim is reproduced where the whole interval lies where the source expects it, not reproduced where
all of it lies elsewhere, and cannot be told otherwise.

`printed.csv` holds the numbers that the sources print, and where one was measured in the source's
own setting the results, branch and density to look at. One counts as met where it lies within two
standard deviations over seeds, or within one point.

Both are shown on docs/reproduced.md, which `python -m experiments.reproduced --write` makes.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

HOME = Path(__file__).parents[1]
POINTS = 1.0
"""A printed number is met within so many points,"""
DEVIATIONS = 2.0
"""or within so many standard deviations over seeds."""
NEAR = 0.1
"""How far a density may lie from the one asked for, as a share of it."""
Row = Mapping[str, str]


class Effect(NamedTuple):
    """What was measured, in points.

    Attributes:
      mean: a difference of accuracies, or a barrier.
      low, high: its 95% interval; nan where there is one seed.
    """

    mean: float
    low: float
    high: float

    def judged(self, least: float, most: float) -> str:
        """Judge the effect against what the source expects, between `least` and `most`."""
        if math.isnan(self.low) or math.isnan(self.high):
            return "cannot be told"
        if least <= self.low and self.high <= most:
            return "reproduced"
        if self.high < least or self.low > most:
            return "not reproduced"
        return "cannot be told"

    def __str__(self) -> str:
        """Write it with its interval."""
        mean, low, high = (f"{value:+.2f}".replace("-", "\u2212") for value in self)
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"


class Claim(NamedTuple):
    """A claim of a source.

    Attributes:
      source: with section, figure or table.
      text: the claim in words.
      results: folder of `experiments/results` that bears on it.
      effect: what was measured.
      least, most: what the source expects, in points.
    """

    source: str
    text: str
    results: str
    effect: Effect
    least: float
    most: float

    @property
    def verdict(self) -> str:
        """What came out."""
        return self.effect.judged(self.least, self.most)

    @property
    def expected(self) -> str:
        """What the source expects of the effect, in words."""
        if math.isinf(self.most):
            return f"at least {self.least:g}"
        if math.isinf(self.least):
            return f"at most {self.most:g}"
        return f"{self.least:g} to {self.most:g}"


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def found(rows: Sequence[Row], **asked: Any) -> Row:
    """Give the one row of a table that is asked for, by its branch, split, step, and density.

    Raises:
      ValueError: if there is none, or none near the density.
    """
    density = asked.pop("density")
    here = [row for row in rows if all(row.get(k) == str(v) for k, v in asked.items())]
    if not here:
        raise ValueError(f"no row has {asked}")
    row = min(here, key=lambda row: abs(math.log(float(row["density"]) / density)))
    if abs(float(row["density"]) / density - 1) > NEAR:
        raise ValueError(f"no row of {asked} has a density near {density}: {row['density']}")
    return row


def difference(one: Row, other: Row) -> Effect:
    """Compute the difference of two means in points, with Welch's interval.

    Args:
      one, other: rows with mean, std (nothing of one seed) and seeds.
    """
    means, spreads, counts = (
        [float(row[name] or "nan") for row in (one, other)] for name in ("mean", "std", "seeds")
    )
    mean = 100 * (means[0] - means[1])
    parts = [spread**2 / count for spread, count in zip(spreads, counts, strict=True)]
    if math.isnan(sum(parts)):
        return Effect(mean, math.nan, math.nan)
    if not sum(parts):
        return Effect(mean, mean, mean)
    freedom = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, counts, strict=True))
    reach = 100 * float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(parts))
    return Effect(mean, mean - reach, mean + reach)


def measured(home: Path, entry: Mapping[str, Any]) -> Effect:
    """Compute the effect that a claim is about.

    Args:
      home: the folder of results.
      entry: of `claims.toml`; `one` and `other` of a difference, or `barrier`.
    """
    if "barrier" in entry:
        row = found(rows_of(home / "verdicts.csv"), **entry["barrier"])
        return Effect(*(100 * float(row[f"barrier_{name}"]) for name in ("mean", "low", "high")))
    one, other = (
        found(rows_of(home / entry.get("table", "final.csv")), **{"split": "test", **entry[name]})
        for name in ("one", "other")
    )
    return difference(one, other)


def read(results: Path, path: Path = HOME / "claims.toml") -> list[Claim]:
    """Read the claims and measure their effects.

    Args:
      results: `experiments/results`.
      path: where the claims are.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["claim"]
    return [
        Claim(
            entry["source"],
            entry["claim"],
            entry["results"],
            measured(results / entry["results"], entry),
            entry.get("least", -math.inf),
            entry.get("most", math.inf),
        )
        for entry in entries
    ]


class Printed(NamedTuple):
    """A number that a source prints, and the one measured in its setting.

    Attributes:
      row: of `printed.csv`.
      mean, std, seeds: what was measured, in points; nan where it was not.
    """

    row: Row
    mean: float = math.nan
    std: float = math.nan
    seeds: int = 0

    @property
    def difference(self) -> float:
        """Measured minus printed, in points."""
        return self.mean - float(self.row["value"] or "nan")

    @property
    def met(self) -> bool:
        """Whether it lies within two standard deviations or one point."""
        return abs(self.difference) <= max(POINTS, DEVIATIONS * self.std)


def printed(results: Path, path: Path = HOME / "printed.csv") -> list[Printed]:
    """Read the printed numbers and those measured in their settings.

    Args:
      results: `experiments/results`.
      path: where the numbers are.
    """
    numbers = []
    for row in rows_of(path):
        if not row["results"]:
            numbers.append(Printed(row))
            continue
        rows = rows_of(results / row["results"] / "final.csv")
        here = found(rows, branch=row["branch"], split="test", density=float(row["at"]))
        mean, std = (100 * float(here[name] or "nan") for name in ("mean", "std"))
        numbers.append(Printed(row, mean, std, int(here["seeds"])))
    return numbers


def tables(results: Path) -> list[str]:
    """Write both tables as lines of Markdown, each under its counts.

    Args:
      results: `experiments/results`.
    """
    claims, numbers = read(results), printed(results)
    counts = Counter(claim.verdict for claim in claims)
    said = ", ".join(f"{counts[name]} {name}" for name in counts)
    lines = [
        f"Of {len(claims)} claims: {said}. Effects are in points of test accuracy or error, with "
        "95% intervals over seeds; a claim is reproduced where the whole interval lies where the "
        "source expects it.",
        "",
        "| Source | Claim | Expected | Measured | |",
        "|---|---|---|---|---|",
    ]
    for claim in claims:
        link = f"[{claim.effect}](../experiments/results/{claim.results}/settings.json)"
        cells = (claim.source, claim.text, claim.expected, link, claim.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    tried = [number for number in numbers if number.row["results"]]
    met = sum(number.met for number in tried)
    lines += [
        "",
        f"Of the {len(numbers)} numbers that the sources print, {len(tried)} were measured in the "
        f"source's own setting; {met} of them lie within two standard deviations or one point.",
        "",
        "| Source | Network, data | Method | Density | Printed | Measured | Difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for number in tried:
        row = number.row
        cells = (
            row["source"],
            f"{row['network']}, {row['data']}",
            row["method"],
            f"{row['density']}%",
            row["value"],
            f"{number.mean:.2f} \u00b1 {number.std:.2f} ({number.seeds} seeds)",
            f"{number.difference:+.2f}".replace("-", "\u2212") + ("" if number.met else ", missed"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
