"""Figures 5-5 and 5-8 of Frankle's thesis: what of a mask found at initialization matters.

Each method against its masks shuffled within layers, its masks with new weights, and its ranking
inverted (the weights that it deems least important are kept). The panel of magnitude also has
magnitude with variance 1 in every layer, which knows nothing of the layers' scales. Figure 5-8 is
the two panels of SNIP and iterative SNIP, which score in one BatchNorm mode (--batch-norm);
magnitude pruning after training is there for comparison. `--preset` chooses the network:
lenet-mnist, resnet20-cifar10, vgg16-cifar10.

Command:  python -m experiments.thesis_ch5.ablations [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 5-5 and 5-8, final.csv, controls.csv; accuracies by density and what each control
          changes in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 3 levels pruning 70%, 400 steps, 10% of the examples; reduced
          3 seeds, 3 levels pruning 59%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at the reduced size 14 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size methods at initialization are as accurate when shuffled or reinitialized:
          they find how much of each layer to keep, not which weights. Shuffled SynFlow is better at
          low densities (ResNet-20: by so much that it leads from 26.2% to 4.4%, by 0.2 to 0.4
          points). Inversion hurts all but GraSP. With variance 1 magnitude is no better than random
          pruning. Magnitude pruning after training is sensitive: on
          ResNet-20 it matches down to 26.2% of the weights, its controls only down to 51%.
"""

from __future__ import annotations

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.report import save
from experiments.common.scored import (
    AT_ONCE,
    KNOWN,
    PAPER,
    REDUCED,
    SMALL,
    USUAL,
    SnipSettings,
    ablated,
    panels,
    report,
    report_controls,
    seeds_of,
)

AFTER = "magnitude_after_training"
VARIANCE_1 = "standardized_magnitude"
METHODS = (AFTER, "magnitude", VARIANCE_1, "snip", "grasp", "synflow", "iterative_snip")
ROUNDS = ("snip", "iterative_snip")
CONTROLS = ("shuffle", "reinit", "inverted")


def controls_of(method: str) -> tuple[str, ...]:
    """Give the controls of a method: magnitude with variance 1 is itself one of magnitude."""
    if method == VARIANCE_1:
        return ()
    return CONTROLS[:-1] if method == AFTER else CONTROLS


def main(settings: SnipSettings) -> None:
    """Prune with every method, train it and its controls, and draw a panel for each."""
    job = prepare(
        __file__,
        settings,
        quick={**SMALL, "levels": 2, "steps": 150, "eval_every": 150},
        lenet={**USUAL, "levels": 3, "fraction": 0.7, "steps": 400, "eval_every": 400},
        reduced=REDUCED,
        paper={**PAPER, "seeds": seeds_of(settings)},
    )
    small = settings.size != "paper" and job.preset.network != "lenet"
    methods = chosen(settings.methods, METHODS[:-1] if small else METHODS, KNOWN)
    tables = []
    with budget(job):
        for i, name in enumerate(methods):
            # the first of them trains the dense networks, in the folder that the others are in
            options = {"sub": "", "dense": True} if i == 0 else {}
            tables += ablated(
                job, name, controls_of(name), batch_norm=settings.batch_norm, **options
            )
    table = jt.results.concat(tables)
    report(job, table)
    found = report_controls(table)
    # where there is a panel of magnitude, that of variance 1 is a line in it
    alongside = {"magnitude": (VARIANCE_1,)} if {"magnitude", VARIANCE_1} <= set(methods) else {}
    elsewhere = {"iterative_snip", *(name for names in alongside.values() for name in names)}
    own = [name for name in methods if name not in elsewhere]
    figures = {"figure_5-5": panels(own, table, alongside=alongside)} if own else {}
    if set(ROUNDS) <= set(methods):
        figures["figure_5-8"] = panels(ROUNDS, table)
    more = {"methods": methods, "controls": CONTROLS, "batch_norm": settings.batch_norm}
    save(job, figures, table, tables={"controls": found}, more=more, pruning=AT_ONCE)


if __name__ == "__main__":
    launch(main, SnipSettings, __doc__)
