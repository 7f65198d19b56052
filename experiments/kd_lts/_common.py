"""What the scripts of KD-LTS share: sizes, epochs, the dense networks, numbers of the paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.job import Settings as Common
from experiments.common.learned import LEARNED, late_step, learned

PRESET = "lenet-mnist-kd_lts"
# thirds of the way to 20% of the weights, where the paper says that LeNet's tickets still win
THIRD = 1 - 0.2 ** (1 / 3)
QUICK = {"seeds": 2, "levels": 2, "fraction": 0.65, "steps": 160, "eval_every": 160, "pool": 2,
         "test_examples": 2_000, "eval_train_examples": 500}  # fmt: skip
# all that the paper has: 40 epochs of 469 steps
LENET = {"seeds": 3, "levels": 5, "fraction": THIRD, "steps": 18_760, "eval_every": 938, "pool": 1,
         "share": 1.0, "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip


class Place(NamedTuple):
    """A ticket of a table: test accuracy and density, both in percent."""

    accuracy: float
    density: float


# in the paper's tables: the sparsest ticket as accurate as the dense network (None: a cross, or not
# run), and the most accurate; by method and network
AT_START: dict[str, dict[str, tuple[Place | None, Place]]] = {
    "lenet": {
        "ltr": (Place(98, 80), Place(98, 68)),
        "snip": (Place(98, 80), Place(97.96, 68)),
        "grasp": (None, Place(97.8, 80)),
        "random": (None, Place(97.92, 80)),
        "synflow": (None, Place(97.92, 68)),
        "iterative_snip": (Place(98, 80), Place(98, 80)),
        "kd_lts": (Place(98, 20), Place(98.33, 55)),
    },
    "resnet20": {
        "ltr": (None, Place(91.15, 80)),
        "snip": (None, Place(91.25, 80)),
        "grasp": (None, Place(90.45, 80)),
        "prospr": (Place(91.3, 80), Place(91.45, 80)),
        "random": (None, Place(91.15, 80)),
        "synflow": (None, Place(91.05, 80)),
        "gem_miner": (Place(91.3, 75), Place(91.3, 80)),
        "iterative_snip": (None, Place(91.15, 80)),
        "kd_lts": (Place(91.3, 45), Place(91.8, 60)),
    },
    "vgg16": {
        "ltr": (Place(93, 80), Place(93, 80)),
        "snip": (Place(93, 80), Place(93, 80)),
        "grasp": (None, Place(92.5, 80)),
        "prospr": (Place(93, 80), Place(93.1, 52)),
        "random": (Place(93, 80), Place(93, 80)),
        "synflow": (Place(93, 80), Place(92.9, 80)),
        "gem_miner": (Place(93, 10), Place(93, 45)),
        "iterative_snip": (Place(93, 80), Place(93, 80)),
        "kd_lts": (Place(93, 5), Place(94, 60)),
    },
}
"""Table 2 of the paper."""
LATE: dict[str, dict[str, tuple[Place | None, Place]]] = {
    "resnet20": {
        "continuous": (Place(91.3, 20), Place(92.2, 27)),
        "ltr": (Place(91.3, 27), Place(91.45, 80)),
        "kd_lts": (Place(91.3, 10), Place(92.4, 52)),
    },
    "vgg16": {
        "continuous": (Place(93, 3), Place(94, 40)),
        "ltr": (Place(93, 11), Place(93.2, 27)),
        "kd_lts": (Place(93, 2), Place(94.2, 6)),
    },
}
"""Table 3 of the paper."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of the scripts of this paper: those of all, with another default preset."""

    preset: str = PRESET
    """Network, data and training: a name that `python -m jaxticket presets` lists."""


def paper(settings: Settings, **changes: object) -> Mapping[str, object]:
    """Give the paper's size: as many levels as its figures show, of which the seventh has 20%."""
    levels = jt.preset(settings.preset).pruning.levels
    return {"levels": levels, "fraction": 1 - 0.2 ** (1 / 7), "seeds": 3, **changes}


def epochs(job: Job) -> int:
    """Count epochs of a training, of the job's data if the preset has no search of KD-LTS."""
    own = job.preset.settings
    if job.preset.method == "KD-LTS":
        return round(own["epochs"] / own["length"])
    return max(1, round(job.training.steps * job.training.batch_size / len(job.data.train)))


def third_epoch(job: Job) -> int:
    """Give the step after three epochs of the preset's schedule, shrunk with it."""
    if job.preset.method != "KD-LTS":
        return late_step(job)
    return max(1, round(3 / epochs(job) * job.size.steps))


def dense(job: Job) -> jt.Runs:
    """Give the dense networks, in the job's folder itself."""
    return job.find_tickets(levels=0)


def ladder(settings: Settings, density: float) -> Mapping[str, object]:
    """Choose levels that end at a density: those asked for, or three; at paper size 20% each."""
    usual = 3 if settings.size != "paper" else round(math.log(density) / math.log(0.8))
    levels = settings.levels or max(1, usual)
    return {"levels": levels, "fraction": 1 - density ** (1 / levels)}


def masks(job: Job, name: str, start: int = 0) -> jt.Runs:
    """Find a method's masks at the job's lowest density, and train only what they need.

    Args:
      job: the job.
      name: a method that learns masks, "ltr", or a score.
      start: the step that the first two kinds start from.
    """
    sub = f"late_{name}" if start else name
    if name == "ltr":
        return job.find_tickets(sub=sub, rewind=start)
    if name in LEARNED:
        # the lengths of these two are their settings
        length = None if name in ("kd_lts", "continuous") else "long"
        own = {"density": job.densities[-1], "steps": length, "train": False}
        return learned(job, name, sub=sub, start=start, **own)
    # masks at initialization do not look at how long the training after them is
    short = dataclasses.replace(job, size=dataclasses.replace(job.size, steps=1, eval_every=1))
    return short.prune_at(name, sub=sub, density=job.densities[-1], dense=False)
