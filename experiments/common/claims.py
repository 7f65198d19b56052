"""Claims of the sources next to what was measured: reproduced, not reproduced, or cannot be told.

`claims.toml` holds a claim in words, the published results that bear on it, what is compared there
and what the source expects of it. An effect has a 95% interval over seeds. It is the difference of
two rows (`one` and `other`), the mean of differences seed by seed that a row holds (`paired`;
Student's interval), an error barrier (`barrier`), or another value that a row holds with its
interval (`value`). Rows are compared seed by seed (Student's interval) where final_by_seed.csv has
both under the same seeds, which have more in common than others; elsewhere by their means and
spreads (Welch's interval). A claim is reproduced where the whole interval lies where the source
expects it, not reproduced where all of it lies elsewhere, and cannot be told otherwise.

Barriers can be of more pairs of copies than there are seeds. Pairs share copies and seeds, so such
an interval is too narrow; the page says which these are.

`printed.csv` holds the numbers that the sources print, and where one was measured in the source's
own setting the results, branch and density to look at; of some others a note says why there is
none. The page tells those within two standard deviations over seeds from those within one point,
which on MNIST is a wide one.

Both are shown on docs/reproduced.md, which `python -m experiments.reproduced --write` makes.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
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
"""How far the logarithm of a density may lie from that of the one asked for."""
FIRST_STEP = "first stable step"
"""Printed numbers whose metric begins so are read from first_steps.csv."""
ELSEWHERE, IN_WORDS = "other densities", "in words"
"""Notes of printed.csv: measured at other densities alone, and not a number."""
VERDICTS = ("reproduced", "not reproduced", "cannot be told")
Row = Mapping[str, str]


class Effect(NamedTuple):
    """What was measured.

    Attributes:
      mean: a difference, or a barrier; of accuracies and errors in points.
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
        mean, low, high = (
            # "g" would write 1,650 as 1.65e+03
            format(value, "+,.0f" if abs(value) >= 100 else "+.3g").replace("-", "\u2212")
            for value in self
        )
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"


class Claim(NamedTuple):
    """A claim of a source.

    Attributes:
      source: with section, figure or table.
      text: the claim in words.
      setting: where it was looked at here.
      table: what bears on it, from `experiments/results`.
      effect: what was measured.
      least, most: what the source expects of it.
      unit: of all three.
    """

    source: str
    text: str
    setting: str
    table: str
    effect: Effect
    least: float
    most: float
    unit: str

    @property
    def verdict(self) -> str:
        """What came out."""
        return self.effect.judged(self.least, self.most)

    @property
    def expected(self) -> str:
        """What the source expects of the effect, in words."""
        least, most = (f"{value:g}".replace("-", "\u2212") for value in (self.least, self.most))
        if math.isinf(self.most):
            return f"at least {least}"
        if math.isinf(self.least):
            return f"at most {most}"
        return f"{least} to {most}"


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a table; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def matching(rows: Sequence[Row], asked: Mapping[str, Any]) -> list[Row]:
    """Give the rows with the values asked for: of densities the nearest, and none if it is far."""
    density = asked.get("density")
    words = {name: str(value) for name, value in asked.items() if name != "density"}
    here = [row for row in rows if all(row.get(name) == value for name, value in words.items())]
    if density is not None and here:
        away = {id(row): abs(math.log(float(row["density"]) / density)) for row in here}
        least = min(away.values())
        here = [row for row in here if away[id(row)] == least and least <= NEAR]
    return here


def found(rows: Sequence[Row], asked: Mapping[str, Any]) -> Row:
    """Give the one row of a table that has the values asked for; of densities the nearest.

    Raises:
      ValueError: if there is none or there are several, or none near the density.
    """
    here = matching(rows, asked)
    if len(here) != 1:
        raise ValueError(
            f"{len(here)} rows of the table have {dict(asked)}; name the columns of one row in "
            f"claims.toml or printed.csv"
        )
    return here[0]


def difference(one: Row, other: Row, scale: float) -> Effect:
    """Compute the difference of two means, with Welch's interval.

    Args:
      one, other: rows with mean, std (nothing of one seed) and seeds.
      scale: factor of the effect.
    """
    means, spreads = (
        [float(row[name] or "nan") for row in (one, other)] for name in ("mean", "std")
    )
    lost = [int(row.get("diverged") or 0) for row in (one, other)]
    counts = [int(row.get("seeds") or row["count"]) for row in (one, other)]
    mean = means[0] - means[1]
    parts = [spread**2 / count for spread, count in zip(spreads, counts, strict=True)]
    # one seed tells nothing, whatever spread its table has, nor do those that a network was lost of
    unknown = min(counts) < 2 or any(lost) or math.isnan(sum(parts))
    reach = math.nan if unknown else 0.0
    if not unknown and sum(parts) > 0:
        freedom = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, counts, strict=True))
        reach = float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(parts))
    return Effect(*(scale * value for value in (mean, mean - reach, mean + reach)))


def with_spread(row: Row, seeds: int) -> dict[str, str]:
    """Give mean, std and seeds of a row that has a value with Student's interval over seeds.

    Args:
      row: with value, low and high.
      seeds: how many.
    """
    low, high = (float(row[name] or "nan") for name in ("low", "high"))
    reach = (high - low) / 2
    std = reach * math.sqrt(seeds) / float(stats.t.ppf(0.975, seeds - 1)) if seeds > 1 else math.nan
    own = {"mean": row["value"], "std": str(std), "seeds": str(seeds)}
    return {**own, "diverged": row.get("diverged") or "0"}


def by_seed(rows: Sequence[Row], row: Row) -> dict[str, float]:
    """Give the values of all seeds that a row averages.

    Args:
      rows: of final_by_seed.csv: branch, level, density, seed and value.
      row: of final.csv.

    Returns:
      The values by seed; none where the row is not there.
    """
    own = [one for one in rows if all(one[name] == row[name] for name in ("branch", "level"))]
    # levels of one number can have several densities, where seeds are not pruned alike
    near = [
        one for one in own if abs(math.log(float(one["density"]) / float(row["density"]))) <= NEAR
    ]
    return {one["seed"]: float(one["value"] or "nan") for one in near}


def seed_by_seed(one: Mapping[str, float], other: Mapping[str, float], scale: float) -> Effect:
    """Compute the mean of the differences of values of the same seeds.

    Args:
      one, other: values by seed, of the same seeds.
      scale: factor of the effect.
    """
    gaps = [one[seed] - other[seed] for seed in one]
    told = len(gaps) > 1 and not any(math.isnan(gap) for gap in gaps)
    std = statistics.stdev(gaps) if told else math.nan
    row = {"difference": statistics.fmean(gaps), "std": std, "seeds": len(gaps)}
    return paired({name: str(value) for name, value in row.items()}, scale)


def paired(row: Row, scale: float) -> Effect:
    """Give a mean of differences seed by seed, with Student's interval.

    Args:
      row: with difference, std (nothing of one seed) and seeds.
      scale: factor of the effect.
    """
    mean, std = (float(row[name] or "nan") for name in ("difference", "std"))
    seeds = int(row["seeds"])
    reach = math.nan if seeds < 2 else float(stats.t.ppf(0.975, seeds - 1)) * std / math.sqrt(seeds)
    return Effect(*(scale * value for value in (mean, mean - reach, mean + reach)))


def of_column(
    rows: Sequence[Row], one: Mapping[str, Any], other: Mapping[str, Any], column: str, scale: float
) -> Effect:
    """Compute the mean difference of a column, seed by seed, of a table with a row for each seed.

    Args:
      rows: with seed and that column.
      one, other: what names the rows of the two.
      column: its name.
      scale: factor of the effect.

    Raises:
      ValueError: if the two do not have one row for each of the same seeds.
    """
    ours, theirs = (
        [(row["seed"], float(row[column] or "nan")) for row in matching(rows, asked)]
        for asked in (one, other)
    )
    seeds, others = ([seed for seed, _ in own] for own in (ours, theirs))
    if not ours or sorted(seeds) != sorted(others) or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"rows of {dict(one)} have the seeds {seeds}, and those of {dict(other)} {others}; "
            f"each seed must have one row of both"
        )
    return seed_by_seed(dict(ours), dict(theirs), scale)


def table_of(entry: Mapping[str, Any]) -> str:
    """Give the name of the table that an entry of `claims.toml` is about."""
    usual = {"barrier": "verdicts.csv", "paired": "claims.csv", "value": "conditions.csv",
             "one": "final.csv"}  # fmt: skip
    return str(entry.get("table") or next(usual[name] for name in usual if name in entry))


def seeds_of(home: Path) -> int:
    """Give how many seeds a folder of results is of, as its settings say; 0 if they do not."""
    path = home / "settings.json"
    seeds = json.loads(path.read_text(encoding="utf-8")).get("seeds") if path.is_file() else None
    return len(seeds) if isinstance(seeds, list) else int(seeds or 0)


def pairs_of(home: Path, entry: Mapping[str, Any]) -> str:
    """Say how many pairs of copies the interval of a barrier is over, if more than seeds."""
    if "barrier" not in entry:
        return ""
    row = found(rows_of(home / table_of(entry)), entry["barrier"])
    pairs, seeds = int(row.get("samples") or 0), seeds_of(home)
    return f"; interval over {pairs} pairs of copies of {seeds} seeds" if pairs > seeds else ""


def measured(home: Path, entry: Mapping[str, Any]) -> Effect:
    """Compute the effect that a claim is about.

    Args:
      home: the folder of results.
      entry: of `claims.toml`: `barrier`, `paired`, `value`, or `one` and either `other` or
        `beside`, another column of the same row, of which no spread is known; `table`, if it is not
        verdicts.csv, claims.csv, conditions.csv or final.csv; `column`, where that table has a row
        for each seed; `mean`, if means stand in another column than mean; and `scale`, if it is not
        100, for points.
    """
    scale, rows = entry.get("scale", 100.0), rows_of(home / table_of(entry))
    if "barrier" in entry:
        row = found(rows, entry["barrier"])
        return Effect(*(scale * float(row[f"barrier_{name}"]) for name in ("mean", "low", "high")))
    if "value" in entry:
        row = found(rows, entry["value"])
        return Effect(*(scale * float(row[name] or "nan") for name in ("value", "low", "high")))
    means = entry.get("mean", "mean")
    if "beside" in entry:
        row = found(rows, entry["one"])
        gap = float(row[means]) - float(row[entry["beside"]])
        return Effect(scale * gap, math.nan, math.nan)
    if "paired" in entry:
        return paired(found(rows, entry["paired"]), scale)
    if "column" in entry:
        return of_column(rows, entry["one"], entry["other"], entry["column"], scale)
    usual = {"split": "test"} if rows and "split" in rows[0] else {}
    one, other = (found(rows, {**usual, **entry[name]}) for name in ("one", "other"))
    if table_of(entry) == "final.csv" and one.get("split") == "test":
        every = rows_of(home / "final_by_seed.csv")
        ours, theirs = (by_seed(every, row) for row in (one, other))
        if ours and ours.keys() == theirs.keys():
            return seed_by_seed(ours, theirs, scale)
    if {"value", "low", "high"} <= one.keys():
        one, other = (with_spread(row, seeds_of(home)) for row in (one, other))
    else:
        one, other = ({**row, "mean": row[means]} for row in (one, other))
    return difference(one, other, scale)


def read(home: Path = HOME) -> list[Claim]:
    """Read the claims and measure their effects.

    Args:
      home: the folder `experiments`.
    """
    entries = tomllib.loads((home / "claims.toml").read_text(encoding="utf-8"))["claim"]
    claims = []
    for entry in entries:
        folder = home / "results" / entry["results"]
        claims.append(
            Claim(
                entry["source"],
                entry["claim"],
                entry["setting"] + pairs_of(folder, entry),
                f"{entry['results']}/{table_of(entry)}",
                measured(folder, entry),
                entry.get("least", -math.inf),
                entry.get("most", math.inf),
                entry.get("unit", "points"),
            )
        )
    return claims


class Printed(NamedTuple):
    """A number that a source prints, and the one measured in its setting.

    Attributes:
      row: of `printed.csv`.
      mean, std, seeds: what was measured, in points; nan where it was not. Of a step its number, no
        std, and the pairs of copies.
      at: the density that it was measured at.
    """

    row: Row
    mean: float = math.nan
    std: float = math.nan
    seeds: int = 0
    at: float = math.nan

    @property
    def is_step(self) -> bool:
        """Whether it is a step of training."""
        return self.row.get("metric", "").startswith(FIRST_STEP)

    @property
    def away(self) -> float:
        """Measured minus printed, in points or steps."""
        return self.mean - float(self.row["value"].partition("\u00b1")[0])

    @property
    def near(self) -> str:
        """How near it lies: within two standard deviations, within one point, or ""; or the same.

        Only a step can be the same.
        """
        if self.is_step:
            return "" if self.away else "the same"
        if abs(self.away) <= DEVIATIONS * self.std:
            return "within 2 deviations"
        return "within 1 point" if abs(self.away) <= POINTS else ""

    @property
    def measured(self) -> str:
        """What was measured, in words, with its density where that is not the printed one."""
        if self.is_step:
            return f"{self.mean:g} ({self.seeds} pairs of copies)"
        here = math.isclose(100 * self.at, float(self.row["density"]), rel_tol=0.02)
        at = "" if here else f", at {100 * self.at:.1f}%"
        return f"{self.mean:.2f} \u00b1 {self.std:.2f} ({self.seeds} seeds{at})"


def printed(home: Path = HOME) -> list[Printed]:
    """Read the printed numbers and those measured in their settings.

    Args:
      home: the folder `experiments`.
    """
    numbers = []
    for row in rows_of(home / "printed.csv"):
        if not row["results"]:
            numbers.append(Printed(row))
            continue
        folder = home / "results" / row["results"]
        asked = {"branch": row["branch"], "density": float(row["at"])}
        if row["metric"].startswith(FIRST_STEP):
            here = found(rows_of(folder / "first_steps.csv"), {**asked, "verdict": "stable"})
            mean, std, count = float(here["step"] or "nan"), math.nan, here["samples"]
        else:
            here = found(rows_of(folder / "final.csv"), {**asked, "split": "test"})
            mean, std = (100 * float(here[name] or "nan") for name in ("mean", "std"))
            count = here["seeds"]
        numbers.append(Printed(row, mean, std, int(count), float(here["density"])))
    return numbers


def untried(numbers: Sequence[Printed]) -> str:
    """Say of the numbers that were not measured in the source's setting why not."""
    others = [number.row for number in numbers if not number.row["results"]]
    mnist = [row.get("note", "") for row in others if row.get("data") == "MNIST"]
    notes = Counter(mnist)
    rest = len(mnist) - notes[ELSEWHERE] - notes[IN_WORDS]
    return (
        f"Of the other {len(others)}, {len(mnist)} are of networks on MNIST, which need no GPU: "
        f"{notes[ELSEWHERE]} of these were measured at other densities alone, {notes[IN_WORDS]} is "
        f"no number but stands among the claims above, and {rest} were not measured at the "
        "source's size. Nearly all the rest are of convolutional networks, whose training needs "
        "a GPU."
    )


def tables(home: Path = HOME) -> list[str]:
    """Write both tables as lines of Markdown, each under its counts.

    Args:
      home: the folder `experiments`.
    """
    claims, numbers = read(home), printed(home)
    counts = Counter(claim.verdict for claim in claims)
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    lines = [
        f"Of {len(claims)} claims that were looked at: {said}. An effect stands with its 95% "
        "interval over seeds (points are of test accuracy or error); a claim is reproduced where "
        "the whole interval lies where the source expects it, and not reproduced where all of it "
        "lies elsewhere. Without an interval nothing can be told: the table has no spread. Where "
        "results have the values of every seed, differences are taken seed by seed. Intervals of "
        "barriers are over pairs of copies where a row says so; pairs share copies and seeds, so "
        "these intervals are too narrow. Intervals are not widened for the number of claims: a few "
        "are wrong by chance. Where several results bear on a claim in unlike settings, each has a "
        "row.",
        "",
        "| Source | Claim | Here | Expected | Measured | |",
        "|---|---|---|---|---|---|",
    ]
    for claim in claims:
        link = f"[{claim.effect}](../experiments/results/{claim.table})"
        expected = f"{claim.expected} {claim.unit}".strip()
        cells = (claim.source, claim.text, claim.setting, expected, link, claim.verdict)
        lines.append(f"| {' | '.join(cells)} |")
    tried = [number for number in numbers if number.row["results"]]
    near = Counter(number.near for number in tried)
    lines += [
        "",
        f"Of the {len(numbers)} numbers that the sources print, {len(tried)} were measured in the "
        f"source's own setting: {near['the same']} is the same, {near['within 2 deviations']} lie "
        f"within two standard deviations over seeds of what is printed, and "
        f"{near['within 1 point']} others within one point. `experiments/printed.csv` has all of "
        f"them. {untried(numbers)}",
        "",
        "| Source | Network, data | Method | Density | Printed | Measured | Difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for number in tried:
        row = number.row
        away = format(number.away, "+g" if number.is_step else "+.2f").replace("-", "\u2212")
        cells = (
            row["source"],
            f"{row['network']}, {row['data']}",
            f"{row['method']}: {row['metric']}" if number.is_step else row["method"],
            f"{row['density']}%",
            row["value"],
            number.measured,
            f"{away}, {number.near or 'farther'}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
