"""Methods that learn masks, by the names that tables and figures give them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import pandas as pd

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.job import Settings as Common
from jaxticket.sparsify.learned import Method, OfTeacher, Teaching

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
ANSWERS = ("cts_kl", "cts_forward_kl")
"""Those that learn what another network answers: at step 0 a trained one, else the dense one."""
LEARNED: dict[str, Callable[[], Method]] = {
    **{
        name: (lambda objective=objective: jt.SEARCHES["concrete"](objective))
        for name, objective in CTS.items()
    },
    "edge_popup": jt.SEARCHES["edge_popup"],
    "gem_miner": jt.SEARCHES["gem_miner"],
    "kd_lts": jt.SEARCHES["kd_lts"],
    "continuous": jt.SEARCHES["continuous"],
    "stochastic": jt.SEARCHES["stochastic"],
}
"""Makers of all of them."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of scripts that learn masks: those of all, which methods, and how long."""

    methods: tuple[str, ...] | None = None
    """Some of the script's METHODS; all of them if not given."""
    length: str | None = None
    """Length of the searches: short (1/8 of training), half or long; if not given short at paper
    size, and long at the quick one, whose trainings are short already."""


def learned(job: Job, name: str, *, inverted: bool = False, **options: Any) -> jt.Runs:
    """Give the runs of a method, in the folder of its name.

    Args:
      job: the job.
      name: in `LEARNED`.
      inverted: keep the entries with the lowest scores.
      options: of `jt.search`, or `sub`, another folder.
    """
    own = {"kd_lts": kd_lts, "continuous": continuous}
    made = own[name](job) if name in own else LEARNED[name]()
    method = dataclasses.replace(made, inverted=inverted)
    if name in CTS and job.preset.method == "CTS":
        lr = rate(job, method.steps(job.training, options.get("steps")))
        method = dataclasses.replace(method, optimizer=(*method.optimizer, ("lr", lr)))
    if name in ANSWERS and not options.get("start"):
        # the answers of an untrained network say nothing
        method = dataclasses.replace(
            method, objective=OfTeacher(CTS[name]), teaching=Teaching(1, 1.0, same_init=True)
        )
    folder = f"{name}_inverted" if inverted else name
    return job.search(method, **{"sub": folder, "dense": False, **options})


def rate(job: Job, steps: int) -> float:
    """Compute the learning rate of the scores of CTS in a search of `steps` steps.

    It is the preset's; in a search shorter than the shortest of the preset it is greater in
    proportion, so that scores, which Adam moves by about the rate in a step, move as far.
    """
    usual = job.preset.search
    shortest = usual.steps(job.preset.training)
    return dict(usual.optimizer)["lr"] * max(1.0, shortest / steps)


def kd_lts(job: Job, **changes: Any) -> Method:
    """Make the search of KD-LTS with the settings that the paper prints for the network.

    These are the settings of the preset, else of the paper's preset of this network, else of LeNet.

    Args:
      job: the job.
      changes: other options of `jt.SEARCHES["kd_lts"]`.
    """
    presets = [job.preset, *jt.PRESETS.values()]
    printed = [p for p in presets if p.method == "KD-LTS" and p.network == job.preset.network]
    own = printed[0].settings if printed else {}
    return jt.SEARCHES["kd_lts"](**{**own, **changes})


def continuous(job: Job) -> Method:
    """Make the search of continuous sparsification.

    In networks without BatchNorm gradients are clipped, since SGD would diverge as beta grows. With
    a preset of KD-LTS it runs as in that paper: three rounds, each as long as a training, in which
    beta grows to 300 (appendix H), so that it costs three trainings; elsewhere one round, to 200.
    """
    _, stats = job.net.shapes
    alone = not jax.tree.leaves(stats) and job.training.optimizer in ("sgd", "momentum")
    rounds = {"rounds": 3, "final_beta": 300.0, "length": 3.0}
    return jt.SEARCHES["continuous"](
        clip_norm=1.0 if alone else None, **(rounds if job.preset.method == "KD-LTS" else {})
    )


def late_step(job: Job) -> int:
    """Give the preset's rewind step, or 2% of training where it has none."""
    return job.late or max(1, round(0.02 * job.size.steps))


def length_of(settings: Settings) -> str:
    """Give the length of the searches: as asked, else "long", at the paper's size "short"."""
    return settings.length or ("short" if settings.size == "paper" else "long")


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of what was trained, without those of supermasks."""
    return table.loc[~table["branch"].str.endswith("supermask")]
