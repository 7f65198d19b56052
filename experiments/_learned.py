"""Methods that learn masks, by the names that tables and figures give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from _job import Job, learn

import jaxticket as jt
from jaxticket.search import Method

CTS = {
    "cts_kl": "reverse_kl",
    "cts_loss": "loss",
    "cts_change_of_loss": "change_of_loss",
    "cts_gradient_norm": "gradient_norm",
    "cts_feature": "feature",
    "cts_gradient_matching": "gradient_matching",
    "cts_forward_kl": "forward_kl",
}
"""Concrete Ticket Search by its objective."""
LEARNED: dict[str, Callable[[], Method]] = {
    **{
        name: (lambda objective=objective: jt.SEARCHES["concrete"](objective))
        for name, objective in CTS.items()
    },
    "edge_popup": jt.SEARCHES["edge_popup"],
    "gem_miner": jt.SEARCHES["gem_miner"],
    "continuous": jt.SEARCHES["continuous"],
    "stochastic": jt.SEARCHES["stochastic"],
}
"""Makers of all of them."""


def learned(job: Job, name: str, *, inverted: bool = False, **options: Any) -> jt.Runs:
    """The runs of a method, in the folder of its name.

    Args:
      job: the job.
      name: in `LEARNED`.
      inverted: keep the entries with the lowest scores.
      options: of `jt.search`, or `sub`, another folder.
    """
    method = dataclasses.replace(LEARNED[name](), inverted=inverted)
    if name in CTS and "lr" in job.preset.search and job.preset.method == "CTS":
        lr = ("lr", job.preset.search["lr"])
        method = dataclasses.replace(method, optimizer=(*method.optimizer, lr))
    folder = f"{name}_inverted" if inverted else name
    return learn(job, method, **{"sub": folder, "dense": False, **options})


def chosen(names: Sequence[str] | None, usual: Sequence[str]) -> tuple[str, ...]:
    """The methods to run.

    Raises:
      ValueError: for a name that is no method of the script.
    """
    asked = tuple(usual if names is None else names)
    if unknown := [name for name in asked if name not in usual] or not asked:
        raise ValueError(f"`methods` must be some of {', '.join(usual)}, got {unknown or 'none'}")
    return tuple(dict.fromkeys(asked))


def late_step(job: Job) -> int:
    """The step near initialization: the preset's rewind step, or without one 2% of training."""
    return job.late or max(1, round(0.02 * job.size.steps))


def length_of(settings: Any) -> str:
    """Length of the searches: as asked, or short; of quick trainings, which are short already, all
    of it.
    """
    return settings.length or ("long" if settings.size == "quick" else "short")
