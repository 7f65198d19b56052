"""Figures 5-7 and 5-9 of Frankle's thesis: SNIP in rounds, and which weights GraSP should remove.

Figure 5-7 has SNIP in one round and in 100; FORCE, which is not in the thesis, lets pruned weights
come back in every round. All three score in one BatchNorm mode (--batch-norm). Figure 5-9 has GraSP
as published (the weights with the highest scores are removed), inverted (the lowest), and removing
the smallest |score|. Figure 5-10 is made by at_initialization.py. `--preset` chooses the panels:
lenet-mnist, resnet20-cifar10, vgg16-cifar10.

Command:  python -m experiments.thesis_ch5.variants [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 5-7 and 5-9, final.csv; accuracies by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 55%, 600 steps, 10% of the examples; reduced
          3 seeds, 3 levels pruning 59%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at the reduced size 3.7 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size 100 rounds make no difference to SNIP at the densities of the thesis (they
          may below). GraSP inverted is as accurate as GraSP, and removing the smallest |score| is
          better than both, most of all at low densities.
"""

from __future__ import annotations

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.report import named, save
from experiments.common.scored import (
    AT_ONCE,
    KNOWN,
    PAPER,
    REDUCED,
    SMALL,
    USUAL,
    SnipSettings,
    figure_of,
    report,
    run,
    seeds_of,
)

ROUNDS = ("snip", "iterative_snip", "force")
REMOVED = ("grasp", "grasp_inverted", "grasp_absolute")


def main(settings: SnipSettings) -> None:
    """Prune with every variant, train, and draw final accuracy against density."""
    paper = {**PAPER, "seeds": seeds_of(settings)}
    job = prepare(__file__, settings, quick=SMALL, lenet=USUAL, reduced=REDUCED, paper=paper)
    methods = chosen(settings.methods, (*ROUNDS, *REMOVED), KNOWN)
    tables = []
    with budget(job):
        for i, name in enumerate(methods):
            # the first trains the dense networks, in the folder that the others are in
            options = {"sub": "" if i == 0 else None, "dense": i == 0}
            runs = run(job, name, batch_norm=settings.batch_norm, **options)
            tables.append(named(runs.table(), name))
    table = jt.results.concat(tables)
    report(job, table)
    figures = {}
    for name, variants in (("figure_5-7", ROUNDS), ("figure_5-9", REMOVED)):
        if own := [method for method in variants if method in methods]:
            figures[name] = figure_of(own, table)
    more = {"methods": methods, "batch_norm": settings.batch_norm}
    save(job, figures, table, more=more, pruning=AT_ONCE)


if __name__ == "__main__":
    launch(main, SnipSettings, __doc__)
