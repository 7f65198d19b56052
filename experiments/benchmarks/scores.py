"""How long scoring and pruning take, in steps and epochs of ordinary training.

Networks at initialization are scored on 10 examples of each class and pruned to 10% of their
weights, by the compiled program that `jt.prune_at` uses, one seed per device. A step is one of the
training program's (batch 60 for LeNet, 128 for ResNet-20), an epoch 60,000 and 50,000 examples of
it. Compilation is not counted. Data are random, of the shape of MNIST and CIFAR-10.

Command:  python -m experiments.benchmarks.scores [--networks lenet resnet20 --rounds 3 --publish]
Cost:     6 minutes on 2 CPU cores, most of it for ResNet-20
Expected: one-shot scores cost less than 5 steps (but for ProsPr, which trains 3 steps and goes back
          through them), scores of 100 rounds less than 3 epochs
"""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, described, machine, publish
from jaxticket._progress import progress
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.loop import job_plan
from jaxticket.engine.program import program
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.pruning.compiled import Examples, Selection, Weights, pruner
from jaxticket.pruning.keep import round_counts
from jaxticket.pruning.scores.spec import recipe_of
from jaxticket.random import root_keys
from jaxticket.typing import TrainState

EXAMPLES = {"lenet": 60_000, "resnet20": 50_000}
STEPS = {"lenet": 100, "resnet20": 3}
# FORCE draws new examples in each of 60 rounds
SCORES = ("magnitude", "snip", "grasp", "prospr", "synflow", "iterative_snip", "force")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Scoring and pruning against ordinary training."""

    networks: tuple[str, ...] = ("lenet", "resnet20")
    """Names of networks: lenet, resnet20."""
    scores: tuple[str, ...] = SCORES
    """Names of scores."""
    rounds: int = 3
    """How often everything is measured."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/scores.csv and scores.json."""


def main(settings: Settings) -> None:
    """Measure every score on every network."""
    jt.cpu_devices()
    here = machine("jax", "flax", "numpy") | {"platform": jax.default_backend()}
    print(f"{here}\n")
    rows: list[Row] = []
    for name in settings.networks:
        rows += measured(name, settings)
    for name in settings.networks:
        own = [row for row in rows if row["network"] == name]
        print(f"\n{name}: median (least to greatest) of {settings.rounds} rounds")
        print(f"{'':16}{'rounds':>7}  {'milliseconds':26}{'in steps':26}in % of an epoch")
        for score in ("step", *settings.scores):
            mine = [row for row in own if row["what"] == score]
            columns = (
                described([row[c] for row in mine]) for c in ("ms", "steps", "percent_of_epoch")
            )
            print(f"{score:16}{mine[0]['rounds']:7}  " + "".join(f"{c:26}" for c in columns))
    if settings.publish:
        publish("scores", rows, {"machine": here, "settings": dataclasses.asdict(settings)})


def measured(name: str, settings: Settings) -> list[Row]:
    """Measure one row per score and round; "step" is one step of training."""
    rng = np.random.default_rng(0)
    shape = (28, 28, 1) if name == "lenet" else (32, 32, 3)
    x = rng.integers(0, 256, (EXAMPLES[name], *shape), np.uint8)
    y = np.arange(len(x)) % 10
    data = jt.data.from_arrays(x, y, x[:100], y[:100])
    net = jt.NETWORKS[name](data.shape, data.classes)
    batch = 60 if name == "lenet" else 128
    training = jt.Training(
        steps=10**6, batch_size=batch, optimizer="adam" if name == "lenet" else "momentum", lr=1e-3
    )
    mesh = jt.parallel.mesh()
    count = mesh.shape[jt.parallel.SEED]
    run, placed = program(Supervised(net, training), mesh), put_data(data, training, mesh)
    words = np.asarray(jax.random.key_data(root_keys(range(count))))
    keys = jt.parallel.put(words, mesh)
    typed, zeros = jax.random.wrap_key_data(keys), np.zeros(count, np.int32)
    params, stats = jt.parallel.put(initial_networks(net, mesh, words), mesh)
    mask = jt.parallel.put(net.mask(lead=(count,)), mesh)
    plan = jt.parallel.put(job_plan(training, count), mesh)
    steps = STEPS[name]

    def train(state: TrainState) -> object:
        target = np.full(count, steps, np.int32)
        return run.chunk(target, state, plan, target, zeros > 0, None, placed.arrays)

    calls = {}
    for score in progress(settings.scores, title=f"{name}: compiling", unit=""):
        function = jt.SCORES[score]
        recipe = recipe_of(function)
        examples, own = Examples(1, 1), None
        if recipe.data:
            examples = Examples(1, 100, 10)
            draws = recipe.rounds if recipe.fresh else None
            own = placed.score_batches(words, 0, 1, 100, per_class=10, rounds=draws)
        select = pruner(net, mesh, Selection(function, examples=examples))
        keeps = round_counts(mask, 0.1, recipe.rounds)
        arguments = (
            np.ones(count, np.int32),
            Weights(params, stats, mask, typed, jt.parallel.put(zeros - 1, mesh)),
            params,
            jt.parallel.put(np.broadcast_to(keeps, (count, *keeps.shape)).copy(), mesh),
            zeros,
            own,
            placed.arrays,
        )
        calls[score] = (recipe.rounds, lambda s=select, a=arguments: jax.block_until_ready(s(*a)))
        calls[score][1]()

    def fresh() -> TrainState:
        # the state gives up its memory to every call
        return jax.block_until_ready(run.start(zeros, Origin(params, stats, mask), typed, zeros))

    jax.block_until_ready(train(fresh()))
    rows = []
    for number in progress(range(settings.rounds), title=f"{name}: measuring", unit=" rounds"):
        state = fresh()
        began = time.perf_counter()
        jax.block_until_ready(train(state))
        step = (time.perf_counter() - began) / steps
        epoch = step * EXAMPLES[name] / batch
        for score, (rounds, call) in {"step": (1, None), **calls}.items():
            seconds = step
            if call is not None:
                began = time.perf_counter()
                call()
                seconds = time.perf_counter() - began
            rows.append(
                {
                    "network": name,
                    "what": score,
                    "rounds": rounds,
                    "round": number,
                    "ms": round(1000 * seconds, 3),
                    "steps": round(seconds / step, 3),
                    "percent_of_epoch": round(100 * seconds / epoch, 3),
                }
            )
    return rows


if __name__ == "__main__":
    main(tyro.cli(Settings))
