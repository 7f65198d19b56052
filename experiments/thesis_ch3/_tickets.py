"""Tickets that most figures of chapter 3 look at, and their controls: trained once for all of them.

They lie in one folder per size, `results/tickets-PRESET-HASH`, so that scripts do not train them
again; where `--folder` is given, in that folder. But for the quick size controls, which are trained
side by side after the tickets, are made at every second level, that of printed accuracies among
them, unless `--all-levels` asks for more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TypedDict

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, of_script
from experiments.common.job import Settings as Common
from experiments.common.report import compared_level


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of these scripts: those of all, and the levels of controls."""

    all_levels: bool = False
    """Train controls at every level; by default at every second, of a quick size at all."""


class Sizes(TypedDict):
    """Sizes as `prepare` takes them."""

    quick: Mapping[str, object]
    lenet: Mapping[str, object]
    reduced: Mapping[str, object]
    paper: Mapping[str, object]


def sizes(settings: Settings) -> Sizes:
    """Give the sizes of these scripts, for `prepare(__file__, settings, **sizes(settings))`.

    Networks that the source prunes at once, in one level, have that level alone and its seeds.
    """
    preset = jt.preset(settings.preset)
    # forty points on a curve
    often = max(1, preset.training.steps // 40)
    paper = {"seeds": 5, "eval_every": often, "eval_train_examples": 2_000}
    if preset.pruning.levels == 1:
        paper |= {"levels": 1, "seeds": preset.replicates or 3}
    return {
        "quick": {"eval_every": 25},
        "lenet": {"eval_every": 50},
        "reduced": {} if preset.network == "lenet" else {"levels": 6},
        "paper": paper,
    }


def tickets(job: Job) -> jt.Runs:
    """Give the tickets of iterative magnitude pruning from step 0, dense networks as level 0."""
    return of_script(job, "tickets").find_tickets()


def controlled(job: Job, settings: Settings) -> tuple[int, ...]:
    """Give the levels that controls are trained at, that of the printed accuracies among them."""
    pruned = tuple(range(1, job.size.levels + 1))
    if settings.all_levels or settings.size == "quick":
        return pruned
    return pruned[(compared_level(job) - 1) % 2 :: 2]


def beside(job: Job, runs: jt.Runs, controls: Iterable[str], levels: Iterable[int]) -> pd.DataFrame:
    """Make one table of tickets and controls.

    Args:
      job: from `prepare`, of these sizes.
      runs: from `tickets`.
      controls: names in `jt.BRANCHES`.
      levels: of the controls.
    """
    levels = tuple(levels)
    parts = [runs.table()]
    parts += [job.branch(runs, name, levels=levels).table() for name in controls]
    return jt.results.concat(parts)
