"""Figure 5-1 of Frankle's thesis, measured: when methods get sparse, and what they reach and cost.

Mask rules (`jt.RULES`), scores at initialization, magnitude pruning after training, and iterative
pruning with rewinding of weights (IMP) or of the learning rate (LRR), at the same densities.

- Equal length: the network that is left is trained for the same number of steps.
- Equal cost: rules train longer, as many steps as LRR takes in all to get to the density: n + 1
  trainings for level n of the ladder.

The cost of a method is all that is trained, until the mask is known and after, in trainings of the
dense network of the same length: in steps, and in operations if products with pruned weights were
free. A step with batch B, of a network whose forward pass takes F operations, of which the share s
is with kept weights, takes `B * F * (2 s + g)`: forward, backward to the activations, and backward
to the weights, where g is the share of those whose gradient is computed. That is s, but 1 where a
rule looks at the dense gradient (updates of RigL) or trains pruned weights (straight-through), and
`s + extra` for Top-KAST. Scores add the operations of scoring. Nothing here runs faster for it.

RigL and SET exchange weights every 100 steps up to 75% of training, at first 30% of those of a
layer, then fewer along a cosine, from masks with the layerwise densities ERK. Gradual pruning is
cubic, every 100 steps up to 75%. The others are as in `jt.RULES`.

Command:  python -m experiments.mask_rules.figure_5_1 [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_5-1.png (density over steps), accuracy.png, cost.png, final.csv, costs.csv,
          schedules.csv, explored.csv; accuracies with costs and explored shares in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 55%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 5 levels pruning 55%, 24,000
          steps.
Cost:     34 minutes with the settings of
          results/mask_rules/figure_5_1-lenet-mnist-paper-e617bba4e8 on 2 cores of an AMD EPYC that
          other work shared.
Expected: RigL above SET above static sparse training at equal length, and more so when trained
          longer; gradual pruning close to magnitude pruning after training at half of its steps
          (Evci et al. 2020; Gale et al. 2019; Liu et al. 2021). Of LeNet no source prints numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.learned import late_step
from experiments.common.report import (
    cell,
    draw_alike,
    grid,
    named,
    near_dense,
    save,
    seeds,
    shared_legend,
    single,
)
from experiments.common.rules import interval, rule_of
from experiments.common.sizes import LENET
from jaxticket import masks
from jaxticket.nn import flops
from jaxticket.sparsify.dynamic import MaskRule, RigL, TopKAST

RULES = (
    *("static", "gradual", "iterative", "set", "rigl"),
    *("straight_through", "ac_dc", "top_kast"),
)
SCORES = ("random", "magnitude", "snip", "grasp", "synflow")
AFTER, TICKET, LRR = "magnitude_after_training", "ticket", "lrr"
METHODS = (*RULES, *SCORES, AFTER, TICKET, LRR)
LONGER = ("static", "set", "rigl", "gradual")
"""Rules that are trained for as long as LRR takes in all, too."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, methods, and the density of two figures."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS in this script; all of them if not given."""
    longer: tuple[str, ...] = LONGER
    """Rules that are trained at equal cost, too."""
    longer_levels: tuple[int, ...] | None = None
    """At these levels of the ladder; at all of them if not given."""
    at_density: float | None = None
    """Density of figure 5-1 and of the costs (the nearest of the ladder); the least but one if not
    given."""


@dataclasses.dataclass(frozen=True)
class Operations:
    """A monitor of a mask: its density, and the share of operations that are with kept weights.

    Attributes:
      parts: of each kernel its path and the operations of one of its weights, as shares of those of
        the forward pass.
      rest: share of the operations that are not with weights of kernels that can be pruned.
      every: steps between measurements.
    """

    parts: tuple[tuple[str, float], ...]
    rest: float
    every: int

    def __call__(
        self, problem: jt.Problem, state: jt.TrainState, batch: object
    ) -> dict[str, jax.Array]:
        """Measure both."""
        del problem, batch
        kept = {path: jax.numpy.sum(m, dtype="float32") for path, m in masks.items(state.mask)}
        share = sum(each * kept[path] for path, each in self.parts) + jax.numpy.float32(self.rest)
        return {"kept_density": masks.density(state.mask), "kept_operations": share}


def operations(net: jt.Network, every: int) -> Operations:
    """Make the monitor of a network."""
    whole = flops.forward(net)
    sizes = {path: m[...].size for path, m in masks.items(net.mask())}
    parts = {k.path: 2.0 * k.positions / whole for k in flops.kernels(net) if k.path in sizes}
    rest = 1.0 - sum(sizes[path] * each for path, each in parts.items())
    return Operations(tuple(parts.items()), rest, every)


def gradient_share(rule: MaskRule, kept: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """Give the mean share of operations of weight gradients, g, over each interval.

    Args:
      rule: with steps in the place of shares.
      kept: shares of operations that are with kept weights, s, by interval.
      updates: share of the steps of each interval at which the rule updates the mask.
    """
    if isinstance(rule, TopKAST):
        return np.minimum(1.0, kept + rule.extra)
    if rule.latent:
        return np.ones_like(kept)
    if isinstance(rule, RigL):
        return kept + updates * (1.0 - kept)
    return kept


def train(job: Job, name: str, densities: tuple[float, ...], factor: float, sub: str) -> jt.Runs:
    """Train under a rule, `factor` times as long as the others."""
    monitor = operations(job.net, interval(job))
    training = job.training if factor == 1 else job.training.dilated(factor)
    training = training.replace(monitors=(monitor,))
    rule = rule_of(job, name).for_training(training)
    return job.sparse_train(rule, training=training, density=densities, sub=sub)


def schedule_of(runs: jt.Runs) -> pd.DataFrame:
    """Give density and shares of operations of rules: a row per level, interval and seed.

    The columns are level, seed, step (the first of the interval), until (the last but one), density
    (after the updates of its first step), operations (in forward passes of the dense network, of
    one step and example).
    """
    rule = runs.pruning.rule  # type: ignore[attr-defined]
    rows = runs.monitored()
    # the library's own monitor of masks looks at evaluations only
    rows = rows.loc[rows["metric"].str.startswith("kept_")]
    wide = rows.pivot_table(index=["level", "seed", "step"], columns="metric", values="value")
    parts = []
    for (level, seed), own in wide.dropna().groupby(level=["level", "seed"]):
        ends = own.index.get_level_values("step").to_numpy(int)
        if ends[0] == 0:
            own, ends = own.iloc[1:], ends[1:]
        begins = np.concatenate([[0], ends[:-1]])
        moved = np.asarray(jax.vmap(rule.when)(np.arange(ends[-1], dtype=np.int32)))
        updates = np.array([moved[a:b].mean() for a, b in zip(begins, ends, strict=True)])
        kept = own["kept_operations"].to_numpy(float)
        spent = 2 * kept + gradient_share(rule, kept, updates)
        parts.append(
            pd.DataFrame(
                {
                    "level": level,
                    "seed": seed,
                    "step": begins,
                    "until": ends,
                    "density": own["kept_density"].to_numpy(float),
                    "operations": spent,
                }
            )
        )
    return jt.results.concat(parts)


def rule_costs(job: Job, runs: jt.Runs) -> pd.DataFrame:
    """Give the cost of training under a rule: level, seed, steps and operations."""
    found = schedule_of(runs)
    length = found["until"] - found["step"]
    found = found.assign(steps=length, operations=found["operations"] * length)
    sums = {"values": ["steps", "operations"], "aggfunc": "sum"}
    total = found.pivot_table(index=["level", "seed"], **sums).reset_index()
    whole = job.training.steps
    return total.assign(steps=total["steps"] / whole, operations=total["operations"] / 3 / whole)


def pruned_costs(job: Job, runs: jt.Runs, levels: tuple[int, ...]) -> pd.DataFrame:
    """Give the cost of runs of find_tickets and prune_at: level, seed, steps and operations."""
    whole, dense = job.training.steps, flops.forward(job.net)
    pruning = runs.pruning
    iterative = isinstance(pruning, jt.Pruning)
    parts = []
    for level in levels:
        # a step of IMP rewinds to is trained once, densely
        before = range(1, level + 1) if iterative else (level,)
        start = pruning.rewind_step if iterative else 0
        kept = [jt.layers.cost(job.net, runs.by_level[n].mask)["flops_kept"] for n in before]
        own = np.sum([np.asarray(x) for x in kept], axis=0) / dense * (whole - start)
        steps = len(before) * (whole - start)
        if iterative or pruning.rewind_step:
            own, steps = own + whole, steps + whole
        else:
            scored = jt.costs.finding(runs).set_index("level").loc[level, "flops"]
            own = own + float(scored) / (3 * dense * job.training.batch_size)
        parts.append(
            pd.DataFrame(
                {
                    "level": level,
                    "seed": runs.seeds,
                    "steps": steps / whole,
                    "operations": own / whole,
                }
            )
        )
    return jt.results.concat(parts)


def explored(runs: jt.Runs, name: str) -> pd.DataFrame:
    """Give what a rule has explored by the end: over-parameterization rate, and weights grown."""
    rows = runs.monitored()
    last = rows.loc[rows["step"] == rows["step"].max()]
    wide = last.loc[last["metric"].isin(["mask_explored", "mask_grown"])].pivot_table(
        index=["level", "density"], columns="metric", values="value", aggfunc=["mean", "std"]
    )
    wide.columns = [f"{metric.removeprefix('mask_')}_{kind}" for kind, metric in wide.columns]
    return wide.reset_index().assign(branch=name)


def stairs(name: str, found: pd.DataFrame, level: int) -> pd.DataFrame:
    """Give the steps at which the density of a rule changes, means over seeds."""
    own = found.loc[found["level"] == level].groupby("step")["density"].mean()
    changed = ~np.isclose(own.to_numpy(), np.r_[-1.0, own.to_numpy()[:-1]], rtol=1e-6, atol=0)
    steps, values = own.index.to_numpy()[changed], own.to_numpy()[changed]
    return pd.DataFrame({"branch": name, "step": steps, "density": values})


def schedules(
    job: Job, found: Mapping[str, pd.DataFrame], levels: Mapping[str, int]
) -> pd.DataFrame:
    """Make a row per method and step at which its density changes.

    Args:
      job: the job.
      found: of rules, as of `schedule_of`.
      levels: of the methods that are drawn, which density.
    """
    at = {AFTER: job.training.steps, TICKET: late_step(job)}
    parts = []
    for name, level in levels.items():
        if name in found:
            parts.append(stairs(name, found[name], level))
        else:
            density = job.densities[level - 1]
            row = {"branch": name, "step": at.get(name, 0), "density": density}
            parts.append(pd.DataFrame([row]))
    return jt.results.concat(parts)


def matching_levels(rows: pd.DataFrame, margin: float) -> dict[str, int]:
    """Find for each method the sparsest level down to which all means match the dense mean."""
    dense = float(rows.loc[rows["level"] == 0, "mean"].iloc[0])
    found: dict[str, int] = {}
    for name, own in rows.loc[rows["level"] > 0].groupby("branch", sort=False):
        good = own.sort_values("level")
        lost = good.loc[good["mean"] < dense - margin, "level"].min()
        below = good.loc[good["level"] < (math.inf if math.isnan(lost) else lost), "level"]
        if len(below):
            found[str(name)] = int(below.max())
    return found


def say(job: Job, rows: pd.DataFrame, costs: pd.DataFrame, shares: pd.DataFrame) -> None:
    """Print accuracies and costs by density, and what rules have explored."""
    wide = rows.set_index(["branch", "level"])
    spent = costs.pivot_table(index=["branch", "level"], values=["steps", "operations"])
    ladder = sorted(set(rows.loc[rows["level"] > 0, "level"]))
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}; cost in all, steps and")
    print(f"operations, in dense trainings; dense {cell(wide.loc[('ticket', 0)], 2)}\n")
    heads = "".join(f"{100 * job.densities[level - 1]:36.2f}%" for level in ladder)
    print(f"{'density':34}{heads}")
    for name in dict.fromkeys(costs["branch"]):
        words = ""
        for level in ladder:
            text = "-"
            if (name, level) in wide.index:
                steps, own = (spent.loc[(name, level), unit] for unit in ("steps", "operations"))
                text = f"{cell(wide.loc[(name, level)], 2)}, {steps:.1f}, {own:.2f}"
            words += f"{text:>37}"
        print(f"{name:34}{words}")
    print("\nshare of all weights that were ever kept, and grown again, in %, at the end\n")
    for row in shares.to_dict("records"):
        print(
            f"{row['branch']:34}{100 * row['density']:6.2f}%{100 * row['explored_mean']:8.1f} +- "
            f"{100 * row['explored_std']:.1f}{100 * row['grown_mean']:10.1f}"
        )


def drawn_schedules(
    job: Job, found: Mapping[str, pd.DataFrame], names: list[str], rows: pd.DataFrame, level: int
) -> tuple[Figure, pd.DataFrame]:
    """Draw densities over training: all at one density, and each at the least that matches."""
    own = rows.loc[rows["branch"].isin(names) | (rows["level"] == 0)]
    panels = {
        f"all with {100 * job.densities[level - 1]:.2g}% in the end": dict.fromkeys(names, level),
        f"least density within {100 * job.settings.margin:g} points of dense": matching_levels(
            own, job.settings.margin
        ),
    }
    panels = {title: levels for title, levels in panels.items() if levels}
    with jt.plots.style():
        figure, axes = grid(len(panels), 2, (6.4, 4.6))
        tables = {title: schedules(job, found, levels) for title, levels in panels.items()}
        draw = partial(jt.plots.density_schedule, steps=job.training.steps, legend=False)
        drawn = [
            partial(draw, table, retroactive=[name for name in (TICKET, LRR) if name in levels])
            for table, levels in zip(tables.values(), panels.values(), strict=True)
        ]
        draw_alike(axes, drawn)
        for ax, title in zip(axes, panels, strict=True):
            ax.set_title(title)
        shared_legend(figure, axes)
    parts = [table.assign(panel=title) for title, table in tables.items()]
    return figure, jt.results.concat(parts)


def drawn_costs(costs: pd.DataFrame, dense: pd.DataFrame, density: float) -> Figure:
    """Draw accuracy by all that was trained at one density: in steps above, in operations below."""
    costs, far = near_dense(costs, dense["accuracy"])
    with jt.plots.style():
        # as wide as a page, with room for the names
        figure, axes = grid(2, 1, (8.0, 5.0))
        if far:
            figure.suptitle(far, fontsize=9)
        for ax, unit in zip(axes, ("steps", "operations"), strict=True):
            table = jt.results.concat([costs.assign(cost=costs[unit]), dense.assign(cost=0.0)])
            # names are placed next to markers, for which the title must be there
            ax.set_title(f"{100 * density:.3g}% of the weights")
            jt.plots.accuracy_against_cost(table, ax, band="minmax")
            ax.set_xlabel(f"Cost in all ({unit}, in dense trainings)")
    return figure


def main(settings: Settings) -> None:
    """Train every method at equal length and some at equal cost, and draw the three figures."""
    names = chosen(settings.methods, METHODS)
    ours = {"seeds": 2, "levels": 3, "fraction": 0.74, "steps": 200, "eval_every": 200}
    lenet = {name: getattr(LENET, name) for name in ours} | {"eval_every": 600}
    lenet |= {"levels": 5, "fraction": 0.55}
    job = prepare(
        __file__, settings, quick=ours, lenet=lenet, paper={"levels": 5, "fraction": 0.55}
    )
    # half of the weights are no challenge
    first = 2 if len(job.densities) > 2 else 1
    levels = tuple(range(first, len(job.densities) + 1))
    ladder = tuple(job.densities[n - 1] for n in levels)
    level = settings_level(job, settings, levels)
    tables, costs, moved, shares = [], [], {}, []

    def note(name: str, runs: jt.Runs, own: Mapping[int, int]) -> None:
        """Take the results of runs whose levels are others of the ladder."""
        table = runs.table()
        table = table.loc[table["level"].isin(list(own))]
        tables.append(named(table.assign(level=table["level"].map(own)), name))

    with budget(job):
        dense = job.prune_at("magnitude", step="end", density=ladder)
        numbers = dict(enumerate(levels, 1))
        tables.append(dense.table().loc[dense.table()["level"] == 0])
        for name in names:
            if name in RULES:
                runs = train(job, name, ladder, 1.0, name)
                note(name, runs, numbers)
                moved[name] = schedule_of(runs).replace({"level": numbers})
                shares.append(explored(runs, name).replace({"level": numbers}))
                own = rule_costs(job, runs).replace({"level": numbers})
            elif name in (TICKET, LRR):
                rewind = "learning_rate" if name == LRR else late_step(job)
                runs = job.find_tickets(sub=name, rewind=rewind)
                note(name, runs, {n: n for n in levels})
                own = pruned_costs(job, runs, levels)
            else:
                runs = dense
                if name != AFTER:
                    runs = job.prune_at(name, density=ladder, dense=False, sub=name)
                note(name, runs, numbers)
                own = pruned_costs(job, runs, tuple(numbers)).replace({"level": numbers})
            costs.append(own.assign(branch=name))
        for name in settings.longer:
            for n in settings.longer_levels or levels:
                runs = train(job, name, (job.densities[n - 1],), n + 1.0, f"{name}_longer_{n}")
                called = f"{name}_longer"
                note(called, runs, {1: n})
                shares.append(explored(runs, called).assign(level=n))
                costs.append(rule_costs(job, runs).assign(level=n, branch=called))
    table, spent = jt.results.concat(tables), jt.results.concat(costs)
    final = jt.speed.final(table)
    rows = jt.speed.over_seeds(final)
    final = final.assign(accuracy=final["value"])
    spent = spent.merge(final[["branch", "level", "seed", "density", "accuracy"]])
    shares = jt.results.concat(shares) if shares else pd.DataFrame()
    say(job, rows, spent, shares)
    figures = {}
    figures["figure_5-1"], drawn = drawn_schedules(job, moved, list(names), rows, level)
    short = table.loc[~table["branch"].str.endswith("_longer")]
    with jt.plots.style():
        figures["accuracy"], ax = single(7.2, 5.2)
        jt.plots.accuracy(short, ax, branches=list(names))
    whole = final.loc[final["level"] == 0].assign(branch="dense")
    density = job.densities[level - 1]
    figures["cost"] = drawn_costs(
        spent.loc[spent["level"] == level], whole[["branch", "seed", "accuracy"]], density
    )
    more = {"methods": names, "longer": settings.longer, "at_density": density}
    small = {"costs": spent, "schedules": drawn, "explored": shares}
    save(job, figures, table, tables=small, more=more, pruning="masks by each method's schedule")


def settings_level(job: Job, settings: Settings, levels: tuple[int, ...]) -> int:
    """Give the level of figure 5-1 and of the costs."""
    asked = settings.at_density
    if asked is None:
        return levels[max(0, len(levels) - 2)]
    return min(levels, key=lambda n: abs(math.log(job.densities[n - 1] / asked)))


if __name__ == "__main__":
    launch(main, Settings, __doc__)
