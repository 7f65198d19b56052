"""Figure 2 and the headline of Concrete Ticket Search: accuracy by density, and time to a ticket.

CTS with the reverse Kullback-Leibler divergence and with the loss, tickets with rewinding (LTR),
SNIP, GraSP, SynFlow and random pruning. CTS and LTR start from step k near initialization (from
step 0 with --start 0), the others prune at initialization. The time to a ticket is that from the
weights of step k to the mask, compilation included, on one machine and in one run: for LTR the
training of all levels before.

Command:  python -m experiments.concrete.accuracy [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_2, time (accuracy against seconds at the lowest density), final.csv, times.csv;
          accuracies by density and the times in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 6 levels pruning 60%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 3 seeds, 16 levels pruning 36%, 24,000
          steps.
Cost:     at the reduced size 23 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size CTS lies above SNIP, GraSP and SynFlow at all densities, next to LTR above a
          few per cent, and above it in the sparsest tickets: ResNet-20 with 0.7% of its weights
          reaches 74.0% after a search of 7.9 minutes, LTR 68.3% after 95.2.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import Settings as Common
from experiments.common.learned import late_step, learned, length_of, trained
from experiments.common.report import named, near_dense, save, seeds, single
from experiments.common.scored import figure_of, report

METHODS = ("cts_kl", "cts_loss", "ltr", "snip", "grasp", "synflow", "random")
QUICK = {"seeds": 2, "levels": 4, "fraction": 0.68, "steps": 200, "eval_every": 200, "pool": 2,
         "test_examples": 2_000, "eval_train_examples": 500}  # fmt: skip
LENET = {"seeds": 3, "levels": 6, "fraction": 0.6, "steps": 600, "eval_every": 600, "pool": 1,
         "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip
# every second of 32 levels of 20%, to 0.08%
PAPER = {"levels": 16, "fraction": 0.36, "seeds": 3}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all that learn masks, and where it starts."""

    start: int | None = None
    """Step k of CTS and LTR, of the job's steps; that of the preset, or 2% of training."""


def find(job: Job, name: str, start: int, length: str, *, dense: bool) -> jt.Runs:
    """Give the runs of a method."""
    sub = "" if dense else name
    if name.startswith("cts"):
        return learned(job, name, start=start, steps=length, dense=dense, sub=sub)
    if name == "ltr":
        return job.find_tickets(sub=sub, rewind=start)
    return job.prune_at(name, sub=sub, dense=dense)


def times_of(job: Job, found: dict[str, jt.Runs], table: pd.DataFrame, start: int) -> pd.DataFrame:
    """Measure the seconds to the mask at the lowest density, and the final accuracy there.

    Seconds are per seed, from the weights of step k on; one row per method and seed.
    """
    level = len(job.densities)
    final = jt.speed.final(table)
    rows = []
    for name, runs in found.items():
        spent = jt.costs.finding(runs).set_index("level").loc[level]
        own = final.loc[(final["branch"] == name) & (final["level"] == level)]
        seconds = float(spent["seconds"]) - shared_seconds(runs, start)
        rows += [
            {"branch": name, "seed": int(seed), "accuracy": float(value), "cost": seconds,
             "density": job.densities[-1]}
            for seed, value in zip(own["seed"], own["value"], strict=True)
        ]  # fmt: skip
    return jt.results.frame(rows)


def shared_seconds(runs: jt.Runs, start: int) -> float:
    """Compute the seconds of one seed that the search shares with the dense training to step k."""
    if isinstance(runs.pruning, jt.Pruning):
        whole = next(row for row in runs.costs if row["unit"] == "level 0")["train_seconds"]
        return whole / len(runs.seeds) * start / runs.training.steps
    dense = next((row for row in runs.costs if row["unit"] == "dense"), None)
    if dense is None or not runs.pruning.rewind_step:
        return 0.0
    return dense["train_seconds"] / len(runs.seeds) * start / dense["training_steps"]


def say(job: Job, times: pd.DataFrame) -> None:
    """Print the times, and their ratio to that of LTR."""
    means = times.pivot_table(index="branch", values=["accuracy", "cost"], sort=False)
    print(
        f"\nat {100 * job.densities[-1]:.3g}% of the weights, per seed, means over {seeds(job)}\n"
    )
    print(f"{'':24}{'accuracy %':>12}{'seconds':>10}{'of LTR':>9}")
    for name, row in means.iterrows():
        share = row["cost"] / means.loc["ltr", "cost"] if "ltr" in means.index else float("nan")
        print(f"{name!s:24}{100 * row['accuracy']:12.1f}{row['cost']:10.1f}{share:9.2f}")


def main(settings: Settings) -> None:
    """Find masks with every method, train what they leave, draw and print."""
    names = chosen(settings.methods, METHODS)
    job = prepare(__file__, settings, quick=QUICK, lenet=LENET, paper=PAPER)
    start = late_step(job) if settings.start is None else settings.start
    with budget(job):
        found = {
            name: find(job, name, start, length_of(settings), dense=i == 0)
            for i, name in enumerate(names)
        }
    table = jt.results.concat(
        # the dense networks are those of the first method
        named(runs.table() if i == 0 else runs.table().query("level > 0"), name)
        for i, (name, runs) in enumerate(found.items())
    )
    table = trained(table)
    report(job, table, title=f"CTS and LTR from step {start}, others at initialization")
    times = times_of(job, found, table, start)
    say(job, times)
    figures = {"figure_2": figure_of(names, table)}
    dense = jt.speed.final(table.query("level == 0"))["value"]
    near, title = near_dense(times, dense, f"{100 * job.densities[-1]:.3g}% of the weights")
    with jt.plots.style():
        figures["time"], ax = single(7.2, 4.6)
        # names are placed next to markers, for which the title must be there
        ax.set_title(title)
        jt.plots.accuracy_against_cost(near, ax, unit="seconds per seed", band="minmax")
    more = {"methods": names, "start": start, "length": length_of(settings)}
    save(job, figures, table, tables={"times": times}, more=more, pruning="densities one by one")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
