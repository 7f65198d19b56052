"""What finding a mask costs: steps of training, passes over examples, operations, seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxticket import results
from jaxticket.analysis.layers import cost as of_network
from jaxticket.runs import Runs, require_runs
from jaxticket.sparsify.cost import Cost, score_flops
from jaxticket.sparsify.dynamic.training import SparseTraining
from jaxticket.sparsify.strategy import Strategy

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["finding", "of_network", "score_flops"]


def finding(runs: Runs) -> pd.DataFrame:
    """What it cost to find the masks of a run, for one seed.

    Training what the masks leave is not counted. Columns: level, density (mean over seeds), epochs
    (examples over those of the training split), training_steps (before the mask is known), examples
    (those trained on and those scored), forward_passes and backward_passes (over single examples),
    flops (2 per multiply-add; of the dense network, since that is what runs: pruned weights are
    zeros), seconds (of all seeds side by side, divided by their number; compilation included).

    The way to find masks says what it costs (`Strategy.cost`). Iterative pruning trains all levels
    before its own. `search` trains to its step, then the teachers where it has some (also those
    that are trained along), and the scores, which count as training steps too; knowledge that has
    faded (`Distillation.fades`) counts no more. Adversarial training counts the passes of its
    attack, `Training.teacher` a forward pass of the teacher. `prune_at` trains to its step and
    scores in rounds; a score's operations are counted in its own program, its passes are those of
    its recipe (nan where that does not know).
    `sparse_train` trains to the last update of its rule, with a dense gradient at each update of a
    rule that looks at it; a mask that stays as it was drawn costs nothing.

    Args:
      runs: from `find_tickets`, `prune_at`, `search` or `sparse_train`; controls, retrained and
        moved tickets have the masks of these.

    Raises:
      ValueError: for scores whose operations cannot be counted (`jaxticket.nn.flops.count`), and
        tickets that were loaded from files.

    Reference: Frankle's thesis, section 5.2 and Figure 5-1; KD-LTS, Table 1 (search cost).
    """
    require_runs("runs", runs)
    runs = runs if runs.found_in is None else runs.found_in
    rows = []
    for level, density in zip(runs.levels, runs.densities, strict=True):
        found = Cost()
        if level:
            if not isinstance(runs.pruning, (Strategy, SparseTraining)):
                raise ValueError(
                    f"`runs` do not say how their masks were found ({runs.pruning.name}); pass the "
                    f"runs of find_tickets, prune_at, search or sparse_train"
                )
            found = runs.pruning.cost(runs, level)
        epochs = found.examples / len(runs.data.train)
        rows.append(
            {"level": level, "density": float(density), "epochs": epochs, **found._asdict()}
        )
    return results.frame(rows)


def __dir__() -> list[str]:
    return __all__
