"""Small seeded runs over all public functions of the library.

A run is a function without arguments that returns a flat dict of numpy arrays: masks as packed
bits, tables as columns, weights as a few statistics per leaf. `record.py` writes these to
`reference/`, and `tests/test_battery.py` compares every later version of the library with them.

Runs use public names only, share one network and one training where they can (so that compiled
programs are shared), and must not depend on time, on the number of devices or on each other.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import jaxticket as jt

# The only names that are not attributes of `jt` itself: where a module moves, change it here.
from jaxticket.engine.adversarial import PGD
from jaxticket.sparsify.learned import (
    OBJECTIVES,
    Bernoulli,
    Concrete,
    DenseSized,
    Freezing,
    GradBalance,
    Lagrangian,
    Method,
    Penalty,
    Rounded,
    Schedule,
    Sigmoid,
    TopK,
    TopSigmoid,
)

Found = dict[str, np.ndarray]
RUNS: dict[str, Callable[[], Found]] = {}
"""All runs by name."""
SLOW: set[str] = set()
"""Names of the runs that only `pytest -m slow` compares."""

SEEDS = (0, 3)
QUIET: dict[str, Any] = {"seeds": SEEDS, "progress": False}
TRAINING = jt.Training(steps=40, batch_size=40, lr=3e-3, eval_every=20)
SHORT = jt.Training(steps=12, batch_size=16, lr=3e-3, eval_every=6)
TIMES = ("seconds", "seconds_total", "wall", "time")


def run(function: Callable[[], Found]) -> Callable[[], Found]:
    """Register a run of the default suite."""
    RUNS[function.__name__] = function
    return function


def slow(function: Callable[[], Found]) -> Callable[[], Found]:
    """Register a run of the slow suite."""
    SLOW.add(function.__name__)
    return run(function)


# --- what is kept of results


def paths(tree: Any) -> list[tuple[str, np.ndarray]]:
    """Leaves with their paths, such as "dense_0/kernel", in sorted order."""
    found = []
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in keys)
        found.append((name, np.asarray(leaf)))
    return sorted(found, key=lambda pair: pair[0])


def bits(tree: Any) -> np.ndarray:
    """The entries of a mask, packed; leaves that are not prunable may be missing or all True."""
    leaves = [leaf.astype(bool).ravel() for _, leaf in paths(tree) if leaf.dtype == bool]
    leaves = [leaf for leaf in leaves if leaf.size and not leaf.all()]
    return np.packbits(np.concatenate([np.zeros(0, bool), *leaves]))


def statistics(tree: Any) -> np.ndarray:
    """Sum, L2 norm, mean magnitude and the first 4 entries of each leaf, float64 [leaf, 7]."""
    rows = []
    for _, leaf in paths(tree):
        x = leaf.astype(np.float64).ravel()
        first = np.pad(x[:4], (0, max(0, 4 - x.size)))
        rows.append([x.sum(), np.sqrt((x**2).sum()), np.abs(x).mean() if x.size else 0.0, *first])
    return np.asarray(rows).reshape(len(rows), 7)


def of_ticket(ticket: Any, name: str = "") -> Found:
    """A ticket, stacked or not."""
    found = {
        f"{name}mask": bits(ticket.mask),
        f"{name}params": statistics(ticket.params),
        f"{name}leaves": np.asarray([path for path, _ in paths(ticket.params)]),
        f"{name}step": np.asarray(ticket.step),
        f"{name}level": np.asarray(ticket.level),
    }
    if jax.tree.leaves(ticket.stats):
        found[f"{name}stats"] = statistics(ticket.stats)
    return found


def of_table(table: Any, name: str = "table") -> Found:
    """The columns of a table, apart from those that hold times."""
    found = {}
    for column in table.columns:
        if column in TIMES:
            continue
        values = table[column].to_numpy()
        if values.dtype.kind not in "biuf":
            values = np.asarray([str(value) for value in values])
        found[f"{name}.{column}"] = values
    return found


def of_runs(runs: Any, name: str = "", *, table: bool = True) -> Found:
    """The tickets, densities and table of runs."""
    found: Found = {f"{name}densities": np.asarray(runs.densities)}
    for level in runs.levels:
        found |= of_ticket(runs.by_level[level], f"{name}{level}.")
    return found | (of_table(runs.table(), f"{name}table") if table else {})


# --- data and networks


@functools.cache
def digits() -> Any:
    """Digits with a validation split."""
    return jt.data.load("digits", validation=0.1)


@functools.cache
def lenet() -> Any:
    """The network of most runs."""
    return jt.networks.lenet(digits().shape, digits().classes, widths=(20, 10))


@functools.cache
def two_devices() -> Any:
    """A mesh of the first devices, at most two."""
    return jt.parallel.mesh(devices=jax.devices()[:2])


@functools.cache
def base() -> Any:
    """Tickets of two levels, that several runs go on from."""
    return jt.find_tickets(
        lenet(), digits(), TRAINING, jt.Pruning(levels=2, fraction=0.5), mesh=two_devices(), **QUIET
    )


def find(pruning: Any, *, net: Any = None, data: Any = None, training: Any = None, **options: Any):
    """`jt.find_tickets` with the usual settings."""
    options = {"mesh": two_devices(), **QUIET, **options}
    return jt.find_tickets(
        net or lenet(), data or digits(), training or TRAINING, pruning, **options
    )


def early(**options: Any) -> Any:
    """`jt.prune_at` with the usual settings."""
    options = {"mesh": two_devices(), **QUIET, "dense": False, **options}
    training = options.pop("training", SHORT)
    net, data = options.pop("net", lenet()), options.pop("data", digits())
    return jt.prune_at(net, data, training, **options)


def learned(method: Any, **options: Any) -> Any:
    """`jt.search` with the usual settings."""
    options = {
        "mesh": two_devices(), **QUIET, "density": (0.5, 0.2), "dense": False, "start": 4,
        "steps": 16, **options,
    }  # fmt: skip
    training = options.pop("training", SHORT)
    net, data = options.pop("net", lenet()), options.pop("data", digits())
    with warnings.catch_warnings():
        # that an untrained network's answers say little is known here
        warnings.filterwarnings("ignore", message=".*learns what the dense network answers")
        return jt.search(net, data, training, method, **options)


def of_search(runs: Any, name: str = "") -> Found:
    """What `of_runs` keeps, and the trace of the search."""
    return of_runs(runs, name) | of_table(runs.trace(), f"{name}trace")


# --- data


@run
def data_sets() -> Found:
    """Splits, halves, fractions and arrays: counts, sums and labels."""
    whole = jt.data.load("digits")
    first, second = whole.halves(seed=1)
    kinds = {
        "whole": whole,
        "validation": digits(),
        "first": first,
        "second": second,
        "fraction": whole.fraction(0.3, seed=2),
        "arrays": jt.data.from_arrays(
            np.linspace(-1, 2, 12 * 6, dtype=np.float32).reshape(12, 2, 3), np.arange(12) % 3,
            np.ones((3, 2, 3), np.float32), np.arange(3),
        ),
    }  # fmt: skip
    found: Found = {}
    for name, data in kinds.items():
        found[f"{name}.shape"] = np.asarray([*data.shape, data.classes])
        for split, part in data.splits.items():
            x = np.asarray(part.x, np.float64).reshape(len(part), -1)
            found[f"{name}.{split}.sums"] = x.sum(-1)[:40]
            found[f"{name}.{split}.labels"] = np.asarray(part.y)[:40]
            found[f"{name}.{split}.size"] = np.asarray(len(part))
    return found


@run
def streamed() -> Found:
    """Training on a stream of image files, pruned between."""
    whole = jt.data.load("digits")
    with tempfile.TemporaryDirectory() as folder:
        for split, part in whole.splits.items():
            for i in range(60 if split == "train" else 24):
                place = Path(folder) / split / f"c{int(part.y[i])}"
                place.mkdir(parents=True, exist_ok=True)
                pixels = np.asarray(part.x[i]).reshape(8, 8).astype(np.uint8)
                # upscaled and without loss, so that no decoder's rounding counts
                Image.fromarray(np.kron(pixels, np.ones((2, 2), np.uint8))).save(
                    place / f"{i:03d}.png"
                )
        data = jt.data.stream(folder, size=(12, 12), resize=16)
        net = jt.networks.lenet(data.shape, data.classes, widths=(12,))
        training = SHORT.replace(augment=("flip",), steps=10, eval_every=5)
        runs = find(jt.Pruning(levels=1, fraction=0.5), net=net, data=data, training=training)
        return of_runs(runs)


# --- iterative pruning


@run
def find_tickets() -> Found:
    """Two levels, controls alongside them, and what tables say of them."""
    runs = find(
        jt.Pruning(levels=2, fraction=0.5), branches=("reinit", "shuffle", "random", "sign_flip")
    )
    table = runs.table()
    winning = runs.winning()
    return {
        **of_runs(runs),
        **of_table(jt.speed.final(table), "final"),
        **of_table(jt.speed.matching(table, test_size=len(digits().test)), "matching"),
        **of_table(jt.speed.early_stop(table), "early_stop"),
        **of_table(jt.speed.best(table), "best"),
        **of_table(jt.speed.generalization_gap(table), "gap"),
        **of_table(jt.speed.learning_factor(table, margin=0.3), "factor"),
        "matching_levels": np.asarray(list(runs.matching(0.1).values())),
        "winning": np.asarray(str(winning)),
    }


@slow
def saved_and_loaded() -> Found:
    """Tickets of a folder, resumed, and read from their files."""
    with tempfile.TemporaryDirectory() as folder:
        pruning = jt.Pruning(levels=2, fraction=0.5)
        for _ in range(2):
            runs = find(pruning, folder=Path(folder) / "run")
        file = Path(folder) / "ticket.npz"
        runs.ticket(2, SEEDS[1]).save(file, net=lenet(), seed=SEEDS[1])
        loaded = jt.Ticket.load(file, net=lenet())
        return {**of_runs(runs), **of_ticket(loaded, "loaded.")}


@run
def rewound() -> Found:
    """Rewinding to a later step, under the same noise, an output layer that is not pruned."""
    pruning = jt.Pruning(levels=2, fraction=0.4, rewind=15, order="same", exclude=("dense_2/*",))
    return of_runs(find(pruning, branches=("reinit_at_k", "shuffle")))


@run
def rewound_full_schedule() -> Found:
    """Weights of step 10, then the whole schedule."""
    return of_runs(find(jt.Pruning(levels=1, fraction=0.4, rewind=10, schedule="full")))


@run
def learning_rate_rewinding() -> Found:
    """LRR keeps trained weights and repeats the schedule."""
    return of_runs(find(jt.Pruning(levels=2, fraction=0.5, rewind="learning_rate")))


@run
def one_shot() -> Found:
    """Straight to each density, with a score that looks at batches."""
    pruning = jt.Pruning(
        levels=2, fraction=0.5, one_shot=True, score="snip", score_batches=2, score_batch_size=50
    )
    return of_runs(find(pruning))


@run
def layerwise() -> Found:
    """Each layer by itself, the output at half the rate, weights rescaled by layer."""
    pruning = jt.Pruning(
        levels=2, fraction=0.4, scope="layer", rates=(("dense_2", 0.2),), rescale="layer"
    )
    return of_runs(find(pruning))


def squared(params: Any, context: Any, *, key: Any) -> Any:
    """A score of the user's own."""
    del context, key
    return jax.tree.map(lambda w: w**2 + 0.01 * jnp.abs(w), params)


def halved(ticket: Any, key: Any, *, net: Any) -> Any:
    """A control of the user's own."""
    del key, net
    return ticket.replace(params=jax.tree.map(lambda w: w / 2, ticket.params))


@slow
def own_score_and_control() -> Found:
    """A score and a control from outside the package."""
    pruning = jt.Pruning(levels=1, fraction=0.6, score=squared, rescale="global")
    return of_runs(find(pruning, branches=(halved,)))


@slow
def meshes() -> Found:
    """One device, and batches that are split over two (where there are two)."""
    few = jax.devices()[:2]
    found: Found = {}
    for name, mesh in (
        ("one", jt.parallel.mesh(devices=few[:1])),
        ("split", jt.parallel.mesh(data=len(few), devices=few)),
    ):
        runs = find(jt.Pruning(levels=1, fraction=0.5), mesh=mesh, at_once=1)
        found |= of_runs(runs, f"{name}.")
    return found


# --- training


def trained(**changes: Any) -> Found:
    """One level of pruning with a training that differs from `TRAINING`."""
    training = TRAINING.replace(**{"steps": 24, "eval_every": 8, **changes})
    return of_runs(find(jt.Pruning(levels=1, fraction=0.5), training=training))


@slow
def sgd_milestones() -> Found:
    """SGD with drops of the rate and weight decay."""
    return trained(optimizer="sgd", lr=0.2, milestones=(10, 18), gamma=0.2, weight_decay=1e-3)


@slow
def momentum_cosine() -> Found:
    """Momentum, warmup and a cosine."""
    return trained(optimizer="momentum", lr=0.05, warmup=5, schedule="cosine", momentum=0.8)


@slow
def nesterov_linear() -> Found:
    """Nesterov's momentum, a linear schedule, label smoothing, whole batches only."""
    return trained(
        optimizer="momentum", nesterov=True, lr=0.05, schedule="linear", final_lr=0.01,
        label_smoothing=0.1, last_batch="drop", weight_decay=1e-3,
    )  # fmt: skip


@slow
def adamw_clipped() -> Found:
    """AdamW, decoupled decay, clipped gradients."""
    return trained(optimizer="adamw", weight_decay=0.05, clip_norm=0.5, b1=0.8, b2=0.95)


@slow
def augmented() -> Found:
    """Crops and flips."""
    return trained(augment=("crop", "flip"), augment_pixels=1)


@slow
def augmented_otherwise() -> Found:
    """Shifts; parts of random area; half precision."""
    found: Found = {}
    for name, changes in {
        "shift": {"augment": ("shift",), "augment_pixels": 2},
        "resized": {"augment": ("resized_crop", "flip"), "augment_scale": (0.5, 1.0)},
    }.items():
        found |= {f"{name}.{key}": value for key, value in trained(**changes).items()}
    return found


@slow
def adversarial() -> Found:
    """Adversarial training by projected gradient descent."""
    return trained(attack=PGD(radius=0.1, step=0.05, steps=2), steps=12, eval_every=6)


# --- networks


class _Normed(nn.Module):
    """Dropout and BatchNorm."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = x.reshape(len(x), -1)
        # no bias: before BatchNorm its gradient is rounding, of which Adam makes whole steps
        x = nn.Dense(16, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(10)(x)


@run
def linen_network() -> Found:
    """A Linen module with dropout and BatchNorm."""
    net = jt.from_linen(_Normed(), digits().shape, name="normed", output="Dense_1")
    # pixels that never change are biases before BatchNorm too: of their gradients, which are
    # rounding and depend on the machine, Adam would make whole steps
    training = SHORT.replace(optimizer="momentum", lr=0.05)
    return of_runs(find(jt.Pruning(levels=1, fraction=0.5, rewind=4), net=net, training=training))


def _initial(key: Any) -> Any:
    first, second = jax.random.split(key)
    params = {
        "a": {"kernel": jax.random.normal(first, (64, 12)) / 8, "bias": jnp.zeros(12)},
        "b": {"kernel": jax.random.normal(second, (12, 10)) / 3},
    }
    return params, {}


def _applied(params: Any, stats: Any, x: Any, *, train: bool) -> Any:
    del train
    hidden = x.reshape(len(x), -1) @ params["a"]["kernel"] + params["a"]["bias"][None]
    return jnp.tanh(hidden) @ params["b"]["kernel"], stats


class _Nnx(nnx.Module):
    def __init__(self, rngs: Any) -> None:
        self.first = nnx.Linear(64, 12, rngs=rngs)
        self.second = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.second(nnx.relu(self.first(x.reshape(len(x), -1))))


@slow
def functions_and_nnx() -> Found:
    """Networks made of functions and of an NNX module."""
    made = jt.from_functions(_initial, _applied, name="own", shape=digits().shape)
    nnx_net = jt.from_nnx(_Nnx, digits().shape, name="nnx")
    pruning = jt.Pruning(levels=1, fraction=0.5)
    return {
        **of_runs(find(pruning, net=made, training=SHORT), "functions."),
        **of_runs(find(pruning, net=nnx_net, training=SHORT), "nnx."),
    }


@functools.cache
def images() -> Any:
    """A few digits of three colors."""
    whole = jt.data.load("digits")
    x = np.repeat(np.asarray(whole.train.x).reshape(-1, 8, 8, 1), 3, -1).astype(np.uint8)
    y = np.asarray(whole.train.y)
    return jt.data.from_arrays(x[:200], y[:200], x[200:260], y[200:260], name="few", classes=10)


TINY = jt.Training(
    steps=6, batch_size=16, optimizer="momentum", lr=0.02, weight_decay=1e-4, eval_every=3
)


@slow
def resnet() -> Found:
    """A small CIFAR ResNet with BatchNorm, crops and flips, rewound."""
    net = jt.networks.resnet_cifar((8, 8, 3), 10, 8, width=0.25)
    runs = find(
        jt.Pruning(levels=1, fraction=0.5, rewind=2), net=net, data=images(),
        training=TINY.replace(augment=("crop", "flip"), augment_pixels=1),
    )  # fmt: skip
    return of_runs(runs) | of_table(jt.layers.report(runs), "layers")


@slow
def conv_and_vgg() -> Found:
    """Conv-2, a VGG and a wide ResNet of tiny widths; SNIP with BatchNorm."""
    nets = {
        "conv2": jt.networks.conv2((8, 8, 3), 10, width=0.1),
        "vgg11": jt.networks.vgg((32, 32, 3), 10, 11, width=0.06),
        "wide": jt.networks.wide_resnet((8, 8, 3), 10, 10, width=0.25),
    }
    x = np.asarray(images().train.x)
    large = jt.data.from_arrays(
        np.kron(x[:64], np.ones((1, 4, 4, 1), np.uint8)), images().train.y[:64],
        np.kron(x[64:96], np.ones((1, 4, 4, 1), np.uint8)), images().train.y[64:96], classes=10,
    )  # fmt: skip
    found: Found = {}
    for name, net in nets.items():
        data = large if name == "vgg11" else images()
        runs = early(net=net, data=data, training=TINY, score="snip", density=0.3, per_class=2)
        found |= of_runs(runs, f"{name}.")
        found |= of_table(jt.layers.report(runs), f"{name}.layers")
    return found


# --- controls


@run
def branches() -> Found:
    """Every control, by itself, under its own name."""
    found: Found = {}
    for name in jt.BRANCHES:
        found |= of_runs(jt.branch(base(), name, levels=(1,), progress=False), f"{name}.")
    return found


@slow
def branch_otherwise() -> Found:
    """Retraining with another training, dilated."""
    other = TRAINING.replace(optimizer="momentum", lr=0.05, milestones=(30,))
    runs = jt.branch(
        base(), "retrain", training=other, dilation=(0.5, 1.0), levels=(0, 2), name="again",
        progress=False,
    )  # fmt: skip
    return of_runs(runs)


# --- pruning at a step


@slow
def scores() -> Found:
    """Every score at initialization, and one turned around."""
    found: Found = {}
    chosen: dict[str, Any] = dict.fromkeys(jt.SCORES)
    chosen = {name: name for name in chosen} | {
        "snip_inverted": jt.scores.inverted("snip"),
        "snip_configured": jt.scores.configured("snip", rounds=3),
    }
    training = SHORT.replace(steps=1, eval_every=1)
    for name, score in chosen.items():
        runs = early(score=score, density=(0.3, 0.05), training=training)
        found |= of_runs(runs, f"{name}.", table=False)
    return found


@slow
def layouts() -> Found:
    """Every layout, with random scores; magnitude by layer; a floor."""
    training = SHORT.replace(steps=1, eval_every=1)
    found: Found = {}
    for name in (*jt.LAYOUTS, "layer"):
        try:
            runs = early(score="random", scope=name, density=0.3, training=training)
        except ValueError as error:
            # such as layouts that need a network of another kind
            found[f"{name}.error"] = np.asarray(type(error).__name__)
            continue
        found |= of_runs(runs, f"{name}.", table=False)
    runs = early(score="magnitude", density=0.03, floor=5, training=training)
    return found | of_runs(runs, "floor.", table=False)


@run
def prune_at() -> Found:
    """Pruned at initialization, at a step and at the end, with controls; what it costs."""
    runs = jt.prune_at(
        lenet(), digits(), TRAINING, score="snip", density=(0.3, 0.1), step=(0, 10, "end"),
        branches=["shuffle", "reinit", "sign_flip"], mesh=two_devices(), **QUIET,
    )  # fmt: skip
    found: Found = {}
    for step in (0, 10, "end"):
        found |= of_runs(runs[step], f"{step}.")
    found |= of_table(jt.costs.finding(runs[10]), "costs")
    return found | of_table(jt.layers.report(runs[0]), "layers")


@slow
def prune_at_otherwise() -> Found:
    """Remaining schedule, several batches, rescaled weights, rounds."""
    runs = early(
        score="snip", density=(0.2,), step=4, schedule="remaining", per_class=None, batches=2,
        batch_size=40, rescale="layer", rounds=3, exclude=("dense_2",), dense=True,
    )  # fmt: skip
    return of_runs(runs)


# --- learned masks


@run
def search_concrete() -> Found:
    """Concrete Ticket Search by divergence, with a control, and what it costs."""
    runs = learned("concrete", branches=["shuffle"], dense=True)
    return of_search(runs) | of_table(jt.costs.finding(runs), "costs")


@slow
def search_concrete_loss() -> Found:
    """Concrete Ticket Search by the loss at initialization, and one sized as the dense network."""
    return {
        **of_search(learned(jt.SEARCHES["concrete"]("loss"), start=0)),
        **of_search(learned(jt.SEARCHES["concrete"]("loss", dense_sized=True)), "sized."),
    }


@run
def search_continuous() -> Found:
    """Continuous sparsification in two rounds."""
    return of_search(learned(jt.SEARCHES["continuous"](rounds=2, final_beta=20.0, lr=0.1)))


@run
def search_edge_popup() -> Found:
    """edge-popup, by layer."""
    return of_search(learned("edge_popup"))


@run
def search_gem_miner() -> Found:
    """GEM-MINER, with freezing."""
    return of_search(learned(jt.SEARCHES["gem_miner"](freezings=5)))


@run
def search_stochastic() -> Found:
    """Bernoulli masks."""
    return of_search(learned("stochastic"))


@run
def search_kd_lts() -> Found:
    """KD-LTS with two teachers."""
    return of_search(learned(jt.SEARCHES["kd_lts"](epochs=4, freeze_every=1), start=0))


@slow
def search_kd_lts_otherwise() -> Found:
    """KD-LTS with one adversarial teacher, and with teachers that learn along."""
    kd_lts = jt.SEARCHES["kd_lts"]
    attack = PGD(radius=0.1, step=0.05, steps=2)
    return {
        **of_search(learned(kd_lts(teachers=1, epochs=4, attack=attack), start=0), "attacked."),
        **of_search(learned(kd_lts(online=True, epochs=4, same_init=True), start=0), "online."),
    }


@slow
def search_objectives() -> Found:
    """Every objective under GradBalance; supermasks alone."""
    found: Found = {}
    for name in OBJECTIVES:
        method = Method(f"own_{name}", Concrete(Schedule(2.0, 0.3)), name, GradBalance(slack=1.2))
        runs = learned(method, density=0.3, train=False)
        found |= of_search(runs, f"{name}.")
    return found


@slow
def search_parts() -> Found:
    """Relaxations and constraints in other combinations."""
    rising, warm = Schedule(1.0, 20.0), Schedule(2.0, 0.5)
    methods = {
        "sigmoid": Method("a", Sigmoid(rising), "loss", Penalty(1e-3)),
        "rounded": Method("b", Rounded(), "loss", Freezing(1e-4, times=4)),
        "lagrangian": Method("c", Bernoulli(), "loss", Lagrangian()),
        "topk": Method("d", TopK(scope="global"), "loss"),
        "top_sigmoid": Method("e", TopSigmoid(rising, epochs=5), DenseSized("loss")),
        "concrete": Method("f", Concrete(warm), "loss", Lagrangian(0.1)),
        "teacher": jt.SEARCHES["concrete"](target=0.5),
    }
    found: Found = {}
    for name, method in methods.items():
        found |= of_search(learned(method, density=0.3), f"{name}.")
    return found


# --- elsewhere


@slow
def transferred() -> Found:
    """Between halves of the data, alongside the target's own, and the table of a matrix."""
    first, second = digits().halves()
    pruning = jt.Pruning(levels=1, fraction=0.5)
    here, there = (find(pruning, data=half, training=SHORT) for half in (first, second))
    moved = jt.transfer(here, to=there, branches=("globally_permuted", "reinit"), progress=False)
    return {
        **of_runs(moved),
        **of_table(jt.transfer_matrix({("a", "b"): moved}), "matrix"),
    }


@slow
def transferred_otherwise() -> Found:
    """Other classes, another optimizer, the output layer kept, single tickets."""
    x, y = digits().train.x, np.asarray(digits().train.y)
    few = jt.data.from_arrays(
        x[y < 4][:120], y[y < 4][:120], x[y < 4][120:160], y[y < 4][120:160], classes=4, name="four"
    )
    other = SHORT.replace(optimizer="momentum", lr=0.05)
    kept = jt.transfer(
        base(), to=digits(), training=other, reinit_output=False, levels=(2,), start=2,
        progress=False,
    )  # fmt: skip
    single = jt.transfer(
        base().ticket(1, 3), to=few, net=lenet(), training=SHORT, seeds=[5],
        branches=("preserved",), progress=False,
    )  # fmt: skip
    return {
        **of_runs(jt.transfer(base(), to=few, training=SHORT, progress=False), "four."),
        **of_runs(kept, "kept."),
        **of_runs(single, "single."),
    }


@slow
def elastic() -> Found:
    """ResNet-14 stretched to ResNet-20 and trained; stretched and squeezed alone."""
    shallow = jt.networks.resnet_cifar((8, 8, 3), 10, 14, width=0.25)
    deep = jt.networks.resnet_cifar((8, 8, 3), 10, 20, width=0.25)
    runs = find(jt.Pruning(levels=1, fraction=0.5), net=shallow, data=images(), training=TINY)
    stretched = jt.elastic(runs.ticket(1, 0), net=shallow, to=deep)
    moved = jt.transfer(
        runs, to=images(), net=deep, reinit_output=False, levels=(1,), progress=False
    )
    return {
        **of_ticket(stretched, "stretched."),
        **of_ticket(jt.elastic(stretched, net=deep, to=shallow), "squeezed."),
        **of_runs(moved),
    }


# --- stability


def of_instability(inst: Any, name: str = "") -> Found:
    """Barriers, lines and tables."""
    found = {f"{name}barriers": inst.barriers(), f"{name}lines": inst.lines(metric="loss")}
    for part in ("table", "paths", "copies", "states", "stable", "first_steps", "matching"):
        found |= of_table(getattr(inst, part)(), f"{name}{part}")
    return found


@run
def instability() -> Found:
    """Dense copies at two steps, compared at every evaluation; averages, permuted lines."""
    inst = jt.instability(
        lenet(), digits(), TRAINING, at=(0, 10), copies=3, points=5, throughout=3,
        distances=list(jt.DISTANCES), mesh=two_devices(), **QUIET,
    )  # fmt: skip
    params, stats = inst.networks(at=10, seed=3)
    return {
        **of_instability(inst),
        **of_table(inst.throughout(), "throughout"),
        **of_table(jt.stability.soup(inst), "soup"),
        **of_table(jt.stability.across_seeds(inst, at=10), "across"),
        "params": statistics(params),
        "stats": statistics(stats),
    }


@run
def instability_of_tickets() -> Found:
    """Copies of tickets and of a control, under the order alone, for the whole schedule."""
    inst = jt.instability(
        lenet(), digits(), TRAINING, at=(0,), tickets=base(), levels=(0, 2), branches=["shuffle"],
        points=4, length="full", noise=("order",), seeds=SEEDS, mesh=two_devices(), progress=False,
    )  # fmt: skip
    return of_instability(inst)


@run
def lines_and_alignment() -> Found:
    """A line, a plane and an alignment of drawn networks."""
    net = lenet()
    three = [net.init(jax.random.key(seed)) for seed in range(3)]
    plane = jt.stability.plane(net, digits(), TRAINING, three, points=4, mesh=two_devices())
    line = jt.stability.line(net, digits(), TRAINING, three, points=4, mesh=two_devices())
    aligned = jt.stability.align(net, three[0], three[1], key=jax.random.key(7), restarts=2)
    found = {
        **of_table(line.table(), "line"),
        "plane.x": plane.x,
        "plane.y": plane.y,
        "plane.losses": plane.values[..., 0],
        "aligned": np.asarray([aligned.before, aligned.after]),
    }
    for path, order in paths(aligned.permutations):
        found[f"order.{path}"] = order
    return found


# --- analysis


@run
def telemetry() -> Found:
    """What weights do in training."""
    runs = jt.telemetry(base(), every=10, levels=(0, 2), progress=False)
    other = jt.telemetry(base(), branch="reinit", steps=10, every=5, levels=(1,), progress=False)
    return of_table(runs) | of_table(other, "reinit")


def _all_kept(ticket: jt.Ticket) -> np.float32:
    """The share of all entries that tickets keep: as recorded, biases count."""
    kept = jax.tree.leaves(jt.masks.apply(ticket.mask, jax.tree.map(np.ones_like, ticket.params)))
    return np.float32(sum(x.sum() for x in kept) / sum(x.size for x in kept))


@run
def reports() -> Found:
    """Layers, neuron collapse, costs and timings of tickets."""
    return {
        **of_table(jt.layers.report(base()), "layers"),
        **of_table(jt.layers.collapse(base(), (0.0, 0.2)), "collapse"),
        **of_table(jt.costs.finding(base()), "costs"),
        "density": np.asarray([_all_kept(base().by_level[n]) for n in base().levels]),
    }


@run
def verdict() -> Found:
    """The strict definition: conditions, networks and the overview."""
    found = jt.verdict(base(), level=1, dense_lrs=(1e-3, 3e-3), points=5, progress=False)
    return {
        **of_table(found.conditions(), "conditions"),
        **of_table(found.networks(), "networks"),
        **of_table(jt.overview([found]), "overview"),
        "winning": np.asarray([found.winning, found.matching, found.stable]),
    }


@run
def pruning_functions() -> Found:
    """Pruning by hand: top-k, a score, densities of levels."""
    params, _ = lenet().init(jax.random.key(4))
    ones = lenet().mask()
    magnitudes = jax.tree.map(jnp.abs, params)
    found: Found = {
        "densities": jt.densities(9, 0.3),
        "params": statistics(params),
    }
    for scope, keep in (("global", 333), ("layer", [400, 77, 30])):
        mask = jt.keep_top(magnitudes, ones, keep, scope=scope)
        found[f"keep_top.{scope}"] = bits(mask)
    return found


@run
def presets() -> Found:
    """All settings of the papers as text, and one trained with changes."""
    p = jt.preset("lenet-mnist", steps=20, levels=2, rewind=4)
    net = jt.networks.lenet(digits().shape, 10, widths=(20, 10))
    training = p.training.replace(batch_size=40, eval_every=10, lr=3e-3)
    names = sorted(jt.PRESETS)
    kept = ("network", "data", "source", "dense_accuracy", "matching_density", "matching_rewind")
    text = [str([getattr(jt.preset(name), field) for field in kept]) for name in names]
    settings = ("steps", "batch_size", "optimizer", "lr", "warmup", "milestones", "weight_decay")
    trainings = [
        str([getattr(jt.preset(name).training, field) for field in settings]) for name in names
    ]
    return {
        "names": np.asarray(names),
        "text": np.asarray(text),
        "trainings": np.asarray(trainings),
        **of_runs(find(p.pruning, net=net, training=training)),
    }
