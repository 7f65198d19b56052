"""Appendix D of KD-LTS: tickets of a large network against a small one trained by distillation.

A large dense network is the teacher of a small dense one, which learns from its softened answers
next to the labels (`jt.Teacher`). Compared with it are tickets of the large network that KD-LTS
finds at initialization: trained, and as supermasks that were never trained. Beyond the paper, the
small network is also trained by the labels alone, and the ticket is also distilled, so that the
gain of distillation is told from that of the ticket.

Command:  python -m experiments.kd_lts.distilled [--density X] [--alpha X] [--temperature X]
          [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    appendix_d: accuracy by parameters; distilled.csv: accuracy, parameters and operations of
          each network; compared.csv: differences, seed by seed; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     not measured at any size.
Expected: of ResNet-50 and ResNet-18, on data and with settings that the paper does not name: the
          ticket of 10% has 80% fewer parameters than ResNet-18 and is 3.4 points more accurate; its
          supermask is 3 points less accurate. With LeNet the small network is one of half the
          width, which has about the same share of the parameters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, launch, prepare
from experiments.common.learned import learned
from experiments.common.report import save, seeds, single
from experiments.kd_lts._claims import compared
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import dense, sizes

SMALL = {"resnet50": "resnet18"}
"""The small network by the large one; of others one of less width."""
LABELS = {
    "dense": "large dense network, the teacher",
    "kd_lts": "ticket of KD-LTS, trained",
    "kd_lts_distilled": "ticket of KD-LTS, distilled",
    "supermask": "supermask of KD-LTS, not trained",
    "small_distilled": "small dense network, distilled",
    "small": "small dense network, by labels",
}
"""What is compared: by name, in words."""
LOOKS = {
    "dense": ("0.45", "s"),
    "kd_lts": ("#D400FF", "X"),
    "kd_lts_distilled": ("#7A00B3", "P"),
    "supermask": ("#E79BFF", "o"),
    "small_distilled": ("#0072B2", "D"),
    "small": ("#56B4E9", "v"),
}
"""Color and marker by name."""
STUDENT = "small_distilled"


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, density, teacher and small network."""

    density: float = 0.1
    """Density of the tickets."""
    alpha: float = 0.1
    """Share of the labels in the loss of distilled networks."""
    temperature: float = 4.0
    """Temperature of their soft answers."""
    small_width: float = 0.5
    """Width of the small network, as a share of the large one's, where it is not ResNet-50's."""


def small_network(job: Job, width: float) -> jt.Network:
    """Give the small network: ResNet-18 of ResNet-50, else the same one of less width.

    Raises:
      ValueError: for a width that is not below 1.
    """
    name = SMALL.get(str(job.preset.network))
    if name is not None:
        net = jt.NETWORKS[name](job.data.shape, job.data.classes, **job.preset.options)
        return net if job.size.width == 1 else net.resized(job.size.width)
    if not 0 < width < 1:
        raise ValueError(f"`small_width` must be above 0 and below 1, got {width}")
    return job.net.resized(width)


def accuracies(runs: jt.Runs, branch: str, level: int) -> pd.DataFrame:
    """Give the final test accuracies of a branch: seed, value."""
    last = jt.speed.final(runs.table())
    rows = last.loc[(last["branch"] == branch) & (last["level"] == level)]
    return rows[["seed", "value"]]


def sized(net: jt.Network, ticket: jt.Ticket | None = None) -> dict[str, float]:
    """Count parameters that are not pruned, and operations of a forward pass; means over seeds."""
    cost = jt.costs.of_network(net, None if ticket is None else ticket.mask)
    return {
        "parameters": float(np.mean(cost["kept_params"])),
        "flops": float(np.mean(cost["flops_kept"])),
    }


def measured(job: Job, settings: Settings) -> pd.DataFrame:
    """Train all networks, and give a row for each and seed: branch, seed, value, sizes."""
    large = dense(job)
    taught = job.training.replace(
        teacher=jt.Teacher(
            large.trained_network(), alpha=settings.alpha, temperature=settings.temperature
        )
    )
    found = learned(
        job, "kd_lts", density=settings.density, steps=None, keep="trained",
        sub=f"kd_lts_at_{settings.density:g}",
    )  # fmt: skip
    again = job.branch(found, "retrain", training=taught, levels=(1,), name="distilled")
    little = dataclasses.replace(job, net=small_network(job, settings.small_width))
    plain = little.find_tickets(levels=0, sub="small")
    # the same initial weights and batches as without the teacher
    student = little.branch(plain, "retrain", training=taught, levels=(0,), name="distilled")
    whole, part = sized(job.net), sized(job.net, found.by_level[1])
    less = sized(little.net)
    parts: Mapping[str, tuple[pd.DataFrame, dict[str, float]]] = {
        "dense": (accuracies(large, "ticket", 0), whole),
        "kd_lts": (accuracies(found, "ticket", 1), part),
        "kd_lts_distilled": (accuracies(again, "distilled", 1), part),
        "supermask": (accuracies(found, "supermask", 1), part),
        "small_distilled": (accuracies(student, "distilled", 0), less),
        "small": (accuracies(plain, "ticket", 0), less),
    }
    return jt.results.concat(
        [rows.assign(branch=name, **size) for name, (rows, size) in parts.items()]
    )


def drawn(rows: pd.DataFrame) -> Figure:
    """Draw accuracy by parameters: a marker at the mean, a line from least to greatest seed.

    Networks of the same number of parameters stand side by side.
    """
    counts = {
        name: float(rows.loc[rows["branch"] == name, "parameters"].iloc[0]) for name in LABELS
    }
    with jt.plots.style():
        figure, ax = single(6.6, 3.6)
        for name, label in LABELS.items():
            color, marker = LOOKS[name]
            alike = [other for other in LABELS if counts[other] == counts[name]]
            shift = 0.05 * (alike.index(name) - (len(alike) - 1) / 2)
            at = counts[name] * 10**shift
            values = 100 * rows.loc[rows["branch"] == name, "value"].to_numpy(float)
            ax.plot([at, at], [values.min(), values.max()], color=color, linewidth=1)
            ax.plot([at], [values.mean()], marker, color=color, label=label, markersize=6)
        ax.set_xscale("log")
        ax.set(xlabel="parameters that are not pruned", ylabel="test accuracy, %")
        places = sorted(set(counts.values()))
        ax.set_xticks(places, [_short(x) for x in places])
        ax.minorticks_off()
        ax.grid(True, axis="x")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _short(count: float) -> str:
    """Write a number of parameters: 27.0k, 23.5M."""
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.1f}k"


def say(job: Job, rows: pd.DataFrame, verdicts: pd.DataFrame) -> None:
    """Print the networks, and how they differ from the small one that is distilled."""
    print(f"\n{job.network_name} on {job.data_name}, final test accuracy in %")
    print(f"mean (min to max) over {seeds(job)}")
    print(f"{'':36}{'parameters':>12}{'operations':>14}{'accuracy':>26}")
    for name, label in LABELS.items():
        own = rows.loc[rows["branch"] == name]
        mean, low, high = (100 * getattr(own["value"], of)() for of in ("mean", "min", "max"))
        size = f"{own['parameters'].iloc[0]:12,.0f}{own['flops'].iloc[0]:14.3g}"
        print(f"{label:36}{size}{f'{mean:.2f} ({low:.2f} to {high:.2f})':>26}")
    student = float(rows.loc[rows["branch"] == STUDENT, "parameters"].iloc[0])
    ticket = float(rows.loc[rows["branch"] == "kd_lts", "parameters"].iloc[0])
    print(f"\nthe ticket has {100 * (1 - ticket / student):.0f}% fewer parameters than the small")
    print("network; points of accuracy against the small one that is distilled, seed by seed:")
    reported = {"kd_lts": "+3.4", "supermask": "-3.0"}
    for row in verdicts.to_dict("records"):
        name = str(row["branch"])
        spread = f" +- {100 * row['std']:.2f}" if np.isfinite(row["std"]) else ""
        words = f"{-100 * row['difference']:+.2f}{spread}{', clearly' if row['clear'] else ''}"
        printed = f"  (reported for ResNet-50: {reported[name]})" if name in reported else ""
        print(f"{LABELS[name]:36}{words}{printed}")


def main(settings: Settings) -> None:
    """Train teacher, students and tickets, compare them, and draw."""
    job = prepare(__file__, settings, **sizes(settings))
    with budget(job):
        rows = measured(job, settings)
    verdicts = compared(rows.assign(measure="accuracy"), ours=STUDENT)
    say(job, rows, verdicts)
    own = ("density", "alpha", "temperature", "small_width")
    save(job, {"appendix_d": drawn(rows)}, tables={"distilled": rows, "compared": verdicts},
         more={name: getattr(settings, name) for name in own}, bands=None,
         pruning=f"tickets of {100 * settings.density:g}% of the weights")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
