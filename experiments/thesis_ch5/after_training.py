"""Figure 5-13 of Frankle's thesis: what of a mask found after training matters.

As Figure 5-5, but every method prunes the trained network: each against its masks shuffled within
layers, its masks with new weights, and its ranking inverted. `--preset` chooses the panels:
lenet-mnist, resnet20-cifar10, vgg16-cifar10.

Command:  python -m experiments.thesis_ch5.after_training [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 5-13, final.csv, controls.csv; accuracies by density and what each control changes
          in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 3 levels pruning 70%, 400 steps, 10% of the examples; reduced
          3 seeds, 3 levels pruning 59%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at the reduced size 12 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size magnitude pruning is sensitive to both shuffling and reinitialization, SNIP
          less so, GraSP hardly. Shuffling makes SynFlow better on ResNet-20 and worse on VGG-16 at
          low densities. At the lowest densities SNIP does not always converge.
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
    Settings,
    ablated,
    panels,
    report,
    report_controls,
    seeds_of,
)

METHODS = ("magnitude", "snip", "grasp", "synflow")
CONTROLS = ("shuffle", "reinit", "inverted")


def main(settings: Settings) -> None:
    """Train, prune with every method, train it and its controls, and draw a panel for each."""
    job = prepare(
        __file__,
        settings,
        quick={**SMALL, "levels": 2, "steps": 150, "eval_every": 150},
        lenet={**USUAL, "levels": 3, "fraction": 0.7, "steps": 400, "eval_every": 400},
        reduced=REDUCED,
        paper={**PAPER, "seeds": seeds_of(settings)},
    )
    methods = chosen(settings.methods, METHODS, KNOWN)
    small = settings.size != "paper" and job.preset.network != "lenet"
    controls = CONTROLS[:-1] if small else CONTROLS
    tables = []
    with budget(job):
        for i, name in enumerate(methods):
            options = {"sub": "", "dense": True} if i == 0 else {}
            tables += ablated(job, name, controls, **{"step": "end", **options})
    table = jt.results.concat(tables)
    report(job, table, title="pruned after training")
    found = report_controls(table)
    figures = {"figure_5-13": panels(methods, table)}
    more = {"methods": methods, "controls": controls}
    save(job, figures, table, tables={"controls": found}, more=more, pruning=AT_ONCE)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
