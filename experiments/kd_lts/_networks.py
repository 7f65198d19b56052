"""Trained networks that several scripts look at: the dense ones, and the tickets of each method.

They lie in one folder per size, `results/networks-PRESET-HASH`, so that scripts do not train them
again; where `--folder` is given, in that folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, of_script
from experiments.common.learned import LEARNED, learned
from experiments.kd_lts._common import LENET, THIRD, Settings, paper, third_epoch

METHODS = ("kd_lts", "ltr", "ltr_late", "gem_miner", "snip", "grasp", "synflow", "random")
"""KD-LTS, iterative magnitude pruning rewound to step 0 and to epoch 3 (LTH and LTH-Rewind), and
methods that prune at initialization."""
_PRUNED = {
    "ltr": {},
    "ltr_late": {},
    "lrr": {"rewind": "learning_rate"},
    "one_shot": {"one_shot": True},
}
_SCORED: dict[str, dict[str, Any]] = {
    "magnitude_after_training": {"score": "magnitude", "step": "end"},
    "erk": {"score": "random", "scope": "erk"},
    "smart_ratio": {"score": "random", "scope": "smart_ratio"},
}
KNOWN = tuple(dict.fromkeys((*METHODS, *_PRUNED, *_SCORED, *jt.SCORES, *LEARNED)))
"""Those, and all other methods of the leaderboard."""
SIZE = {**LENET, "levels": 3, "eval_every": 4_690}
"""LeNet at the paper's length, at 58, 34 and 20% of the weights."""


CONV = {"seeds": 2, "levels": 2, "fraction": 0.4, "steps": 4_210, "eval_every": 4_210, "pool": 2,
        "share": 1.0, "batch_size": 128, "test_examples": None,
        "eval_train_examples": 2_000}  # fmt: skip
"""Convolutional networks: twelve epochs on images of 16 x 16 pixels, at 60 and 36%."""


class Sizes(TypedDict):
    """Sizes as `prepare` takes them."""

    quick: Mapping[str, object]
    lenet: Mapping[str, object]
    reduced: Mapping[str, object]
    paper: Mapping[str, object]


def sizes(settings: Settings) -> Sizes:
    """Give the sizes of these networks for `prepare(__file__, settings, **sizes(settings))`."""
    # the paper shows 20 to 60% of the weights pruned
    return {
        "quick": CONV,
        "lenet": SIZE,
        "reduced": {"levels": 3, "fraction": THIRD},
        "paper": paper(settings, levels=4, fraction=0.2),
    }


def checked_level(job: Job, level: int | None) -> int:
    """Give the level of the tickets to look at, the sparsest if none is asked for.

    Raises:
      ValueError: if there is no such level.
    """
    if level is not None and not 1 <= level <= job.size.levels:
        raise ValueError(f"`level` must be from 1 to {job.size.levels}, got {level}")
    return job.size.levels if level is None else level


def dense(job: Job) -> jt.Runs:
    """Give the trained dense networks, as level 0 of branch "ticket"."""
    return _home(job).find_tickets(levels=0, sub="dense", keep="trained")


def networks(job: Job, name: str) -> jt.Runs:
    """Give the tickets of a method at the job's densities, levels 1, 2, ..., with trained weights.

    Args:
      job: from `prepare`, of these sizes.
      name: in `KNOWN`.
    """
    home = _home(job)
    kept: dict[str, Any] = {"sub": name, "keep": "trained"}
    if name in _PRUNED:
        start = third_epoch(job) if name == "ltr_late" else 0
        return home.find_tickets(**{"rewind": start, **_PRUNED[name], **kept})
    if name in LEARNED:
        return learned(home, name, steps=None if name == "kd_lts" else "long", **kept)
    options = {"score": name, "dense": False, **_SCORED.get(name, {}), **kept}
    return home.prune_at(options.pop("score"), **options)


def over(
    job: Job, names: Sequence[str], table_of: Callable[[jt.Runs, Sequence[int]], pd.DataFrame],
    *, levels: Sequence[int] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Make a table of several methods, with the method's name as branch.

    Args:
      job: from `prepare`, of these sizes.
      names: in `KNOWN`, and "dense", whose level is 0.
      table_of: `(runs, levels) -> table` of the tickets of a method, such as `measured(probe)`.
      levels: of the tickets; all that were pruned if None.
    """
    usual = range(1, job.size.levels + 1) if levels is None else levels
    parts = []
    for name in names:
        runs = dense(job) if name == "dense" else networks(job, name)
        parts.append(table_of(runs, (0,) if name == "dense" else tuple(usual)).assign(branch=name))
    return jt.results.concat(parts)


def measured(
    job: Job,
    names: Sequence[str],
    probe: Any,
    *,
    levels: Sequence[int] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Measure the trained networks of several methods, as `over` does.

    Args:
      job, names, levels: as of `over`.
      probe: a name in `jt.PROBES`, or a probe.
      options: of `jt.measure`.
    """
    usual: Mapping[str, Any] = {"weights": "trained", "split": "test", **options}
    return over(
        job, names, lambda runs, chosen: job.measure(runs, probe, levels=chosen, **usual),
        levels=levels,
    )  # fmt: skip


def _home(job: Job) -> Job:
    return of_script(job, "networks")
