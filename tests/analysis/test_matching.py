"""One meaning of "matching": tables, runs, copies and verdicts judge the same numbers alike."""

import functools

import jax
import numpy as np
import pandas as pd
import pytest

import jaxticket as jt
from jaxticket.analysis.conditions import Rules, conditions
from jaxticket.results import EvaluationLog

SEEDS, DENSE, MARGIN = (0, 1), 0.9, 0.1


def init(key):
    return {"layer": {"kernel": jax.random.normal(key, (4, 2))}}, {}


def apply(params, stats, x, *, train):
    return x.reshape(len(x), -1) @ params["layer"]["kernel"], stats


@functools.cache
def parts():
    x, y = np.zeros((20, 2, 2, 1), np.uint8), np.arange(20) % 2
    net = jt.from_functions(init, apply, name="linear", shape=(2, 2, 1), syncs_stats=True)
    one, _ = init(jax.random.key(0))
    params = jax.tree.map(lambda w: np.stack([np.asarray(w)] * len(SEEDS)), one)
    zeros = np.zeros(len(SEEDS), np.int32)
    mask = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    return net, jt.data.from_arrays(x, y, x, y), jt.Ticket(mask, params, {}, zeros, zeros)


def runs_of(accuracy):
    """Runs whose dense networks and tickets ended with these accuracies [seed]."""
    net, data, dense = parts()
    logs = tuple(
        EvaluationLog(
            seeds=np.asarray(SEEDS), level=level, density=np.full(2, 0.5**level), branch="ticket",
            steps=np.full((1, 2), 10), wanted=np.ones((1, 2), bool),
            # loss and accuracy of both splits
            values=np.stack([np.zeros((1, 2, 2)), np.stack([final] * 2, axis=-1)[None]], axis=-1),
            diverged=np.where(np.isfinite(final), -1, 5), dilation=np.ones(2),
        )
        for level, final in enumerate((np.full(2, DENSE), accuracy))
    )  # fmt: skip
    tickets = {0: dense, 1: dense.replace(level=dense.level + 1)}
    return jt.Runs(
        net=net, data=data, training=jt.Training(steps=10), pruning=jt.Pruning(levels=1),
        seeds=SEEDS, branch="ticket", histories=logs, by_level=tickets, origin=dense, costs=(),
        folder=None, mesh=jt.parallel.mesh(), size=2,
    )  # fmt: skip


def by_runs(accuracy):
    return runs_of(accuracy).matching(MARGIN)[1]


def by_table(accuracy):
    found = jt.speed.matching(runs_of(accuracy).table(), margin=MARGIN)
    return found.set_index("level").loc[1, "matching"]


def by_copies(accuracy):
    copies = pd.DataFrame(
        [
            {"branch": "ticket", "level": level, "density": 0.5**level, "at": 0, "seed": seed,
             "copy": 0, "split": "test", "metric": "error", "value": 1 - final[i]}
            for level, final in enumerate((np.full(2, DENSE), accuracy))
            for i, seed in enumerate(SEEDS)
        ]
    )  # fmt: skip
    return jt.stability.matching(copies, margin=MARGIN).set_index("level").loc[1, "matching"]


def by_verdict(accuracy):
    values = {"dense": np.full(2, DENSE), "ticket": accuracy, "layerwise_random": np.zeros(2)}
    found = conditions(values, np.zeros(2), Rules(margin=MARGIN))
    return found.set_index("condition").loc["matching", "passes"]


@pytest.mark.parametrize("judge", [by_runs, by_table, by_copies, by_verdict])
@pytest.mark.parametrize(
    ("lack", "wanted"),
    [
        (0.0, True),
        (MARGIN, True),
        # what rounds in float32
        (MARGIN + 5e-8, True),
        (MARGIN + 1e-3, False),
        (np.asarray([-0.1, np.nan]), False),
    ],
    ids=["as dense", "at the margin", "rounding", "below", "diverged"],
)
def test_matching_has_one_meaning(judge, lack, wanted):
    assert bool(judge(DENSE - np.asarray(lack) * np.ones(2))) is wanted
