"""What finding a mask costs: steps of training, passes over examples, operations, seconds."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxticket import masks, results
from jaxticket._check import from_table, instance
from jaxticket.analysis.layers import cost as of_network
from jaxticket.nn import flops
from jaxticket.pruning.compiled import Examples, context_maker
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import passes_of, recipe_of
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import EarlyPruning, Pruning, Training
from jaxticket.sparsify.learned.learned_masks import LearnedPruning
from jaxticket.sparsify.learned.learner import step_flops
from jaxticket.sparsify.prune_once import checked_examples
from jaxticket.typing import Network, Score

if TYPE_CHECKING:
    import pandas as pd

_NAMES = ("training_steps", "examples", "forward_passes", "backward_passes", "flops", "seconds")


def finding(runs: Runs) -> pd.DataFrame:
    """What it cost to find the masks of a run, for one seed; training what they leave is not
    counted.

    Columns: level, density (mean over seeds), epochs (examples over those of the training split),
    training_steps (before the mask is known), examples (those trained on and those scored),
    forward_passes and backward_passes (over single examples), flops (2 per multiply-add; of the
    dense network, since that is what runs: pruned weights are zeros), seconds (of all seeds side by
    side, divided by their number; compilation included).

    Iterative pruning trains all levels before its own. `search` trains to its step, then the
    teachers where it has some (also those that are trained along), and the scores, which count as
    training steps too; knowledge that has faded (`Distillation.fades`) counts no more. Adversarial
    training counts the passes of its attack. `prune_at` trains
    to its step and scores in rounds; a score's operations are counted in its own program, its
    passes are those of its recipe
    (nan where that does not know).

    Args:
      runs: from `find_tickets`, `prune_at` or `search`; controls, retrained and moved tickets have
        the masks of these.

    Raises:
      ValueError: for scores whose operations cannot be counted (`jaxticket.analysis.flops.count`).

    Reference: Frankle's thesis, section 5.2 and Figure 5-1; KD-LTS, pd.DataFrame 1 (search cost).
    """
    require_runs("runs", runs)
    runs = runs if runs.found_in is None else runs.found_in
    pruning = runs.pruning
    rows = []
    for level, density in zip(runs.levels, runs.densities, strict=True):
        if level == 0:
            found: dict[str, float] = dict.fromkeys(_NAMES, 0.0)
        elif isinstance(pruning, LearnedPruning):
            found = _learned(runs, pruning)
        elif isinstance(pruning, EarlyPruning):
            found = _early(runs, pruning, from_table("score", pruning.score, SCORES))
        elif isinstance(pruning, Pruning):
            found = _levels(runs, pruning, from_table("score", pruning.score, SCORES), level)
        else:
            raise ValueError(f"`runs` were pruned in an unknown way, {type(pruning).__name__}")
        epochs = found["examples"] / len(runs.data.train)
        rows.append({"level": level, "density": float(density), "epochs": epochs, **found})
    return results.frame(rows)


def score_flops(net: Network, score: str | Score, examples: Examples) -> float:
    """Operations of scoring once, all its examples together; 2 per multiply-add.

    Args:
      net: the network.
      score: a name in `jt.SCORES` or a function.
      examples: what it looks at.
    """
    instance("net", net, Network, "a network, such as jt.networks.lenet()")
    instance("examples", examples, Examples, "jaxticket.pruning.compiled.Examples")
    return _score_flops(net, from_table("score", score, SCORES), examples)


@functools.lru_cache(maxsize=64)
def _score_flops(net: Network, score: Score, examples: Examples) -> float:
    recipe = recipe_of(score)
    params, stats = net.shapes
    batches, size = (examples.batches, examples.size) if recipe.data else (1, 1)
    x = net.example(batches, size)
    y = jax.ShapeDtypeStruct((batches, size), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def scored(params: Any, stats: Any, x: Any, y: Any, key: Any) -> Any:
        look = context_maker(net, stats, recipe, key=key)
        context = look(params, masks.ones(params), (x, y), net.prunable_leaves())
        return score(params, context, key=key)

    return flops.count(scored, params, stats, x, y, key)


def _early(runs: Runs, pruning: EarlyPruning, score: Score) -> dict[str, float]:
    recipe = recipe_of(score)
    examples = checked_examples(pruning, runs.data, score)
    rounds = pruning.rounds or recipe.rounds
    looked = examples.batches * examples.size * rounds if recipe.data else 0
    passes = passes_of(score, examples.batches)
    # a score that looks at no data passes once over an example that it makes
    each = looked if recipe.data else rounds
    seeds = len(runs.seeds)
    trained = _training(runs, pruning.step)
    scoring = {
        "examples": looked,
        "forward_passes": each * passes[0],
        "backward_passes": each * passes[1],
        "flops": rounds * score_flops(runs.net, score, examples),
        "seconds": _seconds(runs, "masks", "prune_seconds") / (seeds * len(pruning.densities)),
    }
    trained["seconds"] = _dense_seconds(runs, pruning.step)
    return {name: trained[name] + scoring.get(name, 0.0) for name in _NAMES}


def _learned(runs: Runs, pruning: LearnedPruning) -> dict[str, float]:
    method, steps = pruning.method, pruning.search_steps
    assert method is not None
    seeds, examples = len(runs.seeds), steps * runs.training.batch_size
    trained = _training(runs, pruning.step)
    trained["seconds"] = _dense_seconds(runs, pruning.step)
    taught = dict.fromkeys(_NAMES, 0.0)
    if method.teaching is not None:
        each = method.teaching.steps(runs.training)
        each += method.teaching.online_steps(runs.training, steps)
        own = method.teaching.training(runs.training)
        taught = _training(runs, method.teaching.count * each, own)
        taught["seconds"] = _seconds(runs, "teachers", "train_seconds", exact=True) / seeds
    # the steps of every phase, and what each of them takes
    phases = [(share * steps, phase) for share, phase in method.phases]
    batch = runs.training.batch_size
    searching = {
        "training_steps": steps,
        "examples": examples,
        "forward_passes": sum(n * batch * phase.passes[0] for n, phase in phases if n),
        "backward_passes": sum(n * batch * phase.passes[1] for n, phase in phases if n),
        "flops": sum(n * step_flops(runs.net, phase, runs.training) for n, phase in phases if n),
        "seconds": _seconds(runs, "masks", "prune_seconds") / (seeds * len(pruning.densities)),
    }
    return {name: trained[name] + taught[name] + searching[name] for name in _NAMES}


def _dense_seconds(runs: Runs, step: int) -> float:
    """What dense training to a step took, for one seed."""
    dense = next((row for row in runs.costs if row["unit"] == "dense"), None)
    if dense is None or not step:
        return 0.0
    return dense["train_seconds"] / len(runs.seeds) * step / dense["training_steps"]


def _levels(runs: Runs, pruning: Pruning, score: Score, level: int) -> dict[str, float]:
    recipe, seeds = recipe_of(score), len(runs.seeds)
    before = range(1) if pruning.one_shot else range(level)
    steps, seconds = 0, 0.0
    for n in before:
        steps += runs.training.steps - (pruning.start if n else 0)
        groups = sum(h.level == n for h in runs.histories)
        trained = _seconds(runs, f"level {n}", "train_seconds", exact=True)
        pruned = _seconds(runs, f"level {n}", "prune_seconds", exact=True)
        share = 1 if not pruning.one_shot else 1 / max(1, len(runs.levels) - 1)
        seconds += (trained / max(1, groups) + pruned * share) / seeds
    size = min(pruning.score_batch_size, len(runs.data.train))
    looked = pruning.score_batches * size * len(before) if recipe.data else 0
    passes = passes_of(score, pruning.score_batches)
    each = looked if recipe.data else len(before)
    operations = score_flops(runs.net, score, Examples(pruning.score_batches, size))
    trained = _training(runs, steps)
    scoring = {
        "examples": looked,
        "forward_passes": each * passes[0],
        "backward_passes": each * passes[1],
        "flops": len(before) * operations,
        "seconds": seconds,
    }
    return {name: trained[name] + scoring.get(name, 0.0) for name in _NAMES}


def _training(runs: Runs, steps: int, training: Training | None = None) -> dict[str, float]:
    """What so many steps of one replica cost; a backward pass is two forward ones, or one where it
    is by the input alone, as in attacks.
    """
    training = runs.training if training is None else training
    examples = steps * training.batch_size
    attack = (0, 0) if training.attack is None else passes_of_attack(training.attack)
    operations = 3 + attack[0] + attack[1]
    return {
        "training_steps": steps,
        "examples": examples,
        "forward_passes": examples * (1 + attack[0]),
        "backward_passes": examples * (1 + attack[1]),
        "flops": operations * examples * of_network(runs.net)["flops"],
        "seconds": 0.0,
    }


def passes_of_attack(attack: Any) -> tuple[float, float]:
    """Forward and backward passes of an attack over each image; nan where nobody knows."""
    forward, backward = getattr(attack, "passes", (np.nan, np.nan))
    return forward, backward


def _seconds(runs: Runs, unit: str, column: str, *, exact: bool = False) -> float:
    rows = [
        row for row in runs.costs
        if (row["unit"] == unit if exact else str(row["unit"]).startswith(unit))
    ]  # fmt: skip
    return float(sum(row.get(column, 0.0) or 0.0 for row in rows))
