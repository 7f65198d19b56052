"""Every argument of every public function: nonsense is refused, by name, before anything compiles.

A test that compiles a program is one whose check comes too late: `nothing_compiles` fails then.
"""

import dataclasses
import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxticket as jt
from jaxticket import _check
from jaxticket.analysis.conditions import Rules
from jaxticket.engine.adversarial import PGD
from jaxticket.pruning.compiled import Examples
from jaxticket.results import EvaluationLog
from jaxticket.sparsify.learned import (
    Bernoulli,
    Concrete,
    Distillation,
    Freezing,
    GradBalance,
    Lagrangian,
    Method,
    Penalty,
    Schedule,
    Sigmoid,
    Teaching,
    TopK,
    TopSigmoid,
    objective_values,
)
from jaxticket.sparsify.learned.learned_masks import LearnedPruning

NAN, INF = float("nan"), float("inf")
SHAPE, STEPS, SEEDS = (4, 4, 1), 8, (0, 1)
COMPILED = []


def note(event, _, fun_name="", **__):
    """Keeps the programs over replicas; networks may be looked at before arguments are refused."""
    if "backend_compile" in event and fun_name == "jit(run)":
        COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(note)


def made_data():
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 255, (60, *SHAPE), np.uint8), np.arange(60) % 3
    return jt.data.from_arrays(x[:40], y[:40], x[40:], y[40:])


@functools.cache
def made():
    """A network, data, and runs of two levels that nobody trained."""
    data, net = made_data(), jt.networks.lenet(SHAPE, 3, (5, 4))
    training = jt.Training(steps=STEPS, batch_size=4)
    params, stats = jax.tree.map(
        lambda *xs: np.stack([np.asarray(x) for x in xs]),
        *(net.init(jax.random.key(seed)) for seed in SEEDS),
    )
    zeros = np.zeros(len(SEEDS), np.int32)
    ones = net.mask(lead=(len(SEEDS),))
    dense = jt.Ticket(ones, params, stats, zeros, zeros)
    mask = jax.tree.map(lambda x: np.arange(x.size).reshape(x.shape) % 2 == 0, ones)
    tickets = {0: dense, 1: dense.replace(mask=mask, level=zeros + 1)}
    histories = tuple(
        EvaluationLog(
            np.asarray(SEEDS), level, np.full(2, 1 / (1 + level)), "ticket",
            np.asarray([[0, 0], [STEPS, STEPS]]), np.ones((2, 2), bool),
            np.full((2, 2, 2, 2), 0.5, np.float32), np.full(2, -1), np.ones(2),
        )
        for level in (0, 1)
    )  # fmt: skip
    runs = jt.Runs(
        net, data, training, jt.Pruning(levels=1), SEEDS, "ticket", histories, tickets, dense, (),
        None, jt.parallel.mesh(), 2,
    )  # fmt: skip
    return net, data, training, runs


@pytest.fixture
def nothing_compiles():
    calls()
    before = len(COMPILED)
    yield
    assert len(COMPILED) == before, "the check comes too late"


@functools.cache
def calls():
    """Every entry with arguments that fit: name -> `call(**changes)`."""
    net, data, training, runs = made()
    first = {"net": net, "data": data, "training": training, "seeds": (0,), "progress": False}
    quiet = {"progress": False}
    ticket = runs.ticket(1, 0)
    pair = [(runs.origin.params, runs.origin.stats)] * 2
    table = runs.table()
    deep, shallow = jt.networks.resnet20(width=0.1), jt.networks.resnet14(width=0.1)
    base = {
        "find_tickets": (jt.find_tickets, {**first, "pruning": jt.Pruning(levels=1)}),
        "prune_at": (jt.prune_at, {**first, "density": 0.5, "per_class": 2}),
        "search": (jt.search, {**first, "density": 0.5, "method": "gem_miner"}),
        "instability": (jt.instability, {**first, "at": 0}),
        "branch": (jt.branch, {"runs": runs, "change": "shuffle", **quiet}),
        "telemetry": (jt.telemetry, {"runs": runs, **quiet}),
        "measure": (jt.measure, {"runs": runs, "probe": "gradient_norm", **quiet}),
        "surface": (jt.surface, {"runs": runs, "weights": "start", **quiet}),
        "trajectory": (jt.trajectory, {"runs": runs, **quiet}),
        "features": (jt.features, {"runs": runs, "weights": "start"}),
        "explain": (jt.explain, {"runs": runs, "weights": "start"}),
        "mean_corruption_error": (jt.mean_corruption_error, {"table": table}),
        "data.corrupt": (jt.data.corrupt, {"x": data.test.x, "name": "fog", "severity": 3}),
        "data.corrupted": (jt.data.corrupted, {"data": data, "name": "fog", "severity": 3}),
        "sparse_train": (jt.sparse_train, {**first, "density": 0.5}),
        "dynamic_imp": (jt.dynamic_imp, {**first, "density": 0.5, "changes": 1}),
        "transfer": (jt.transfer, {"runs": runs, "to": data, **quiet}),
        "verdict": (jt.verdict, {"runs": runs, "level": 1, **quiet}),
        "prune": (jt.prune, {"params": net.init(jax.random.key(0))[0], "score": "magnitude",
                             "density": 0.5, "key": jax.random.key(0)}),
        "elastic": (jt.elastic, {"ticket": ticket, "net": shallow, "to": deep}),
        "densities": (jt.densities, {"levels": 3}),
        "FGSM": (jt.FGSM, {}),
        "preset": (jt.preset, {"name": "lenet-mnist"}),
        "transfer_matrix": (jt.transfer_matrix, {"found": {("a", "b"): runs}}),
        "overview": (jt.overview, {"verdicts": []}),
        "objective_values": (objective_values, {"runs": runs, "objective": "loss"}),
        "report": (jt.layers.report, {"runs": runs}),
        "collapse": (jt.layers.collapse, {"runs": runs}),
        "neuron_collapse": (jt.layers.neuron_collapse, {"net": net, "mask": ticket.mask}),
        "layers": (jt.layers.layers, {"net": net, "mask": ticket.mask}),
        "finding": (jt.costs.finding, {"runs": runs}),
        "of_network": (jt.costs.of_network, {"net": net}),
        "score_flops": (jt.costs.score_flops, {"net": net, "score": "snip",
                                               "examples": Examples()}),
        "ticket": (runs.ticket, {"level": 1, "seed": 0}),
        "data.digits": (jt.data.DATASETS["digits"], {}),
        "data.load_tfds": (jt.data.load_tfds, {"name": "mnist"}),
        "with_validation": (data.with_validation, {}),
        "fraction": (data.fraction, {"share": 0.5}),
        "line": (jt.stability.line, {"net": net, "data": data, "training": training,
                                     "networks": pair}),
        "plane": (jt.stability.plane, {"net": net, "data": data, "training": training,
                                       "networks": [*pair, pair[0]]}),
        "Evaluator": (jt.stability.Evaluator, {"net": net, "data": data, "training": training}),
        "align": (jt.stability.align, {"net": net, "a": pair[0], "b": pair[1]}),
        "soup": (jt.stability.soup, {"inst": None}),
        "across_seeds": (jt.stability.across_seeds, {"inst": None}),
        "speed.final": (jt.speed.final, {"table": table}),
        "speed.at_share": (jt.speed.at_share, {"table": table, "share": 0.5}),
        "speed.dense": (jt.speed.dense, {"table": table}),
        "speed.early_stop": (jt.speed.early_stop, {"table": table}),
        "speed.matching": (jt.speed.matching, {"table": table}),
        "speed.smallest_dilation": (jt.speed.smallest_dilation, {"table": table}),
        "speed.over_seeds": (jt.speed.over_seeds, {"rows": jt.speed.final(table)}),
        "stability.stable": (jt.stability.stable, {"table": table}),
        "stability.matching": (jt.stability.matching, {"copies": table}),
        "stability.summary": (jt.stability.summary, {"table": table}),
        "stability.first_steps": (jt.stability.first_steps, {"table": table, "copies": table}),
        "stability.ranges": (jt.stability.ranges, {"copies": table}),
        "data.load": (jt.data.load, {"name": "digits"}),
        "data.stream": (jt.data.stream, {"name": "nowhere"}),
        "mesh": (jt.parallel.mesh, {}),
        "cpu_devices": (jt.cpu_devices, {}),
        "distributed": (jt.distributed, {}),
        "compilation_cache": (jt.compilation_cache, {}),
        "matching": (runs.matching, {}),
        "winning": (runs.winning, {}),
        "dilated": (training.dilated, {"factor": 2.0}),
        "configured": (jt.scores.configured, {"score": "snip"}),
        "make_train": (jt.make_train, {"net": net, "data": data, "training": training}),
        "masked": (jt.masked, {"tx": optax.sgd(0.1)}),
        "gradual": (jt.gradual, {"tx": optax.sgd(0.1), "schedule": {1: 0.5}}),
        "load": (jt.load, {"folder": "nowhere"}),
    }  # fmt: skip
    base |= {name: (make, {"shape": (32, 32, 3)}) for name, make in jt.NETWORKS.items()}
    base |= {name: (make, {}) for name, make in jt.SEARCHES.items()}
    for name in PLOTS:
        function = getattr(jt.plots, name)
        own = inspect.signature(function).parameters.values()
        base[f"plots.{name}"] = function, {p.name: None for p in own if p.default is p.empty}
    return base


PLOTS = [name for name in jt.plots.__all__ if name not in ("branch_styles", "caption", "style")]


def call(name, /, **changes):
    function, usual = calls()[name]
    return function(**{**usual, **changes})


def refused(words, function, /, *args, **options):
    """What a call says that has to be refused; `words` are a pattern."""
    with pytest.raises(ValueError, match=words) as caught:
        function(*args, **options)
    return str(caught.value)


def test_a_compiled_program_is_noticed():
    before, mesh = len(COMPILED), jt.parallel.mesh()
    double = jt.parallel.over_replicas(lambda limit, x: 2 * x, mesh)
    double(np.zeros(mesh.size, np.int32), np.ones(mesh.size, np.float32))
    assert len(COMPILED) == before + 1


early = pytest.mark.usefixtures("nothing_compiles")
WHOLE = ("12", 1.5, NAN, True, None, [3])
NUMBER = ("0.1", NAN, INF, True, None, [0.1])
RUNS = "the runs that jt.find_tickets"
BAD = [
    # what a run is made of
    *(("find_tickets", argument, value, f"`{argument}` must be ")
      for argument in ("net", "data", "training", "pruning") for value in ("lenet", 3)),
    *((name, argument, None, f"`{argument}` must be ")
      for name in ("prune_at", "search", "instability", "sparse_train", "dynamic_imp", "Evaluator",
                   "line", "make_train")
      for argument in ("net", "data", "training")),
    *((name, "runs", value, f"`runs` must be {RUNS}")
      for name in ("branch", "telemetry", "measure", "verdict", "report", "collapse", "finding",
                   "objective_values", "surface", "trajectory", "features", "explain")
      for value in (None, "runs", pd.DataFrame())),
    ("transfer", "runs", "runs", "`runs` must be what find_tickets"),
    ("transfer", "to", "digits", "`to` must be data or runs"),
    ("transfer", "net", "lenet", "`net` must be a network"),
    ("transfer", "training", {}, "`training` must be a jt.Training"),
    ("verdict", "net", "lenet", "`net` must be a network"),
    ("verdict", "data", "digits", "`data` must be data"),
    ("branch", "training", 3, "`training` must be a jt.Training"),
    ("find_tickets", "mesh", "cpu", "`mesh` must have the axes"),
    *(("verdict", "small_dense", value, "`small_dense` must be a network")
      for value in ("no", 1, 0.5)),
    ("verdict", "rules", {}, "`rules` must be"),
    ("elastic", "ticket", None, "`ticket` must be a ticket"),
    ("elastic", "net", None, "`net` must be a network"),
    ("elastic", "to", "resnet20", "`to` must be a network"),
    ("elastic", "blocks", 3, "`blocks` must be several"),
    ("elastic", "blocks", [1, 2, 3], "`blocks` must be a text"),
    ("align", "net", None, "`net` must be a network"),
    ("soup", "inst", "x", "`inst` must be the result of jt.instability"),
    ("across_seeds", "inst", None, "`inst` must be the result of jt.instability"),
    ("layers", "net", None, "`net` must be a network"),
    ("of_network", "net", None, "`net` must be a network"),
    ("score_flops", "net", None, "`net` must be a network"),
    ("score_flops", "examples", 3, "`examples` must be jaxticket.pruning.compiled.Examples"),
    *(("ticket", "level", value, "`level` must be one of") for value in (7, "1", [1], None, True)),
    *(("ticket", "seed", value, "`seed` must be one of") for value in (7, "1", [1], None, True)),
    *((name, "seed", value, "`seed` ")
      for name in ("data.digits", "with_validation", "fraction", "data.corrupt", "data.corrupted")
      for value in ("1", 1.5, -1, 2**32, True)),
    *((name, "share", value, "`share` must be in")
      for name in ("with_validation", "fraction") for value in ("0.1", NAN, 0, 2, True)),
    *((name, argument, value, f"`{argument}` ")
      for name in ("data.corrupt", "data.corrupted")
      for argument, value in (("name", "mist"), ("name", 3), ("severity", 0), ("severity", True))),
    *(("data.corrupt", "white", value, "`white` must be a") for value in (0, "1", NAN, True)),
    ("overview", "verdicts", [3], "`verdicts` must be verdicts"),
    ("overview", "verdicts", None, "`verdicts` must be several"),
    ("transfer_matrix", "found", [], "`found` must be runs by"),
    ("transfer_matrix", "found", {"a": 3}, r"`found` must hold runs by \(source, target\)"),
    ("transfer_matrix", "found", {("a", "b"): 3}, f"`found` must be {RUNS}"),
    ("line", "networks", 3, "`networks` must be a list"),
    ("line", "networks", [3, 4], r"`networks`\[0\] must be \(params, stats\)"),
    ("plane", "networks", None, "`networks` must be a list"),
    ("prune", "context", "x", "`context` must be a jt.ScoreContext"),
    ("preset", "name", 3, "`name` is not a preset"),
    ("preset", "name", ["lenet-mnist"], "`name` is not a preset"),
    # numbers
    *(("prune_at", "density", value, "`density` must be in")
      for value in ("abc", "0.1", 0, 1.5, NAN, True, None, [0.5, "0.1"])),
    ("prune_at", "density", [], "`density` is empty"),
    ("prune_at", "density", (0.5, 0.5), r"`density` must be distinct, got \[0.5\]"),
    ("search", "density", "abc", "`density` must be in"),
    ("prune", "density", "0.1", "`density` must be in"),
    *(("prune_at", "step", value, '`step` must be "end" or a step from 0 to 8')
      for value in ("last", NAN, 1.5, 9, -1, True, None)),
    ("prune_at", "step", (8, "end"), r"`step` must be distinct, got \[8\]"),
    ("prune_at", "step", [], "`step` is empty"),
    *(("search", "start", value, "`start` must be a") for value in ("end", -1, 9, 1.5, True, [0])),
    *(("search", "steps", value, "`steps` must be ")
      for value in ("for ever", 0, -1, NAN, 100.0, True)),
    *(("search", "watch_masks", value, "`watch_masks` must be a whole") for value in WHOLE),
    *(("transfer", "start", value, "`start` must be a whole") for value in WHOLE),
    *(("telemetry", "every", value, "`every` must be a whole") for value in ("12", 0, 1.5, True)),
    *(("telemetry", "steps", value, "`steps` must be a whole") for value in ("12", 0, 1.5, True)),
    *(("verdict", "level", value, "`level` must be ") for value in (0, 7, "1", 1.5, True, None)),
    *(("verdict", "points", value, "`points` must be a whole") for value in (*WHOLE, 2)),
    *(("instability", "copies", value, "`copies` must be a whole") for value in (*WHOLE, 1)),
    *(("instability", "points", value, "`points` must be a whole") for value in (*WHOLE, 2)),
    *(("instability", "throughout", value, "`throughout` must be a") for value in (*WHOLE, 2)),
    *(("instability", "at", value, "`at` must ") for value in ("0", 1.5, [NAN], -1, 9, True)),
    ("instability", "at", [], "`at` is empty"),
    ("instability", "at", (3, 3), r"`at` must be distinct, got \[3\]"),
    *((name, "margin", value, r"`margin` must be in \[0, 1\)")
      for name in ("matching", "winning", "speed.matching", "speed.smallest_dilation",
                   "stability.matching", "stability.first_steps", "stability.ranges")
      for value in (2, 1, -0.1, NAN, "0.002", None)),
    *(("stability.stable", "threshold", value, "`threshold` must be") for value in (NAN, "1", 2)),
    *(("stability.matching", "dense", value, "`dense` must be in") for value in (NAN, "1", 2)),
    *(("stability.summary", "confidence", value, "`confidence` must be in") for value in (NAN, 1)),
    *(("speed.at_share", "share", value, "`share` must be in") for value in (0, 2, NAN, "1", True)),
    *(("speed.matching", "test_size", value, "`test_size` must be") for value in (0, 1.5, "3")),
    ("speed.final", "split", 3, "`split` 3 is not in `table`"),
    ("speed.final", "metric", "loos", "`metric` 'loos' is not in `table`; did you mean 'loss'"),
    ("speed.over_seeds", "column", "values", r"`rows` lacks the columns \['values'\]"),
    ("speed.over_seeds", "by", 3, "`by` must be several"),
    *(("dilated", "factor", value, "`factor` must be a") for value in (0, -1, NAN, INF, "2")),
    *(("densities", "levels", value, "`levels` must be a whole") for value in (*WHOLE, -1)),
    *((name, "margin", value, "`margin` must be a finite")
      for name in ("plane", "trajectory") for value in (-1, *NUMBER)),
    *(("surface", "points", value, "`points` must be a whole") for value in (*WHOLE, 2)),
    ("surface", "points", 4, "`points` must be odd"),
    *(("surface", "extent", value, "`extent` must be a finite") for value in (0, -1, *NUMBER)),
    *(("surface", "directions", value, "`directions` must be one of") for value in (0, 3, "2")),
    *(("surface", "draw", value, "`draw` must be a whole") for value in (*WHOLE, -1)),
    *(("trajectory", "points", value, "`points` must be a whole") for value in (*WHOLE, 1)),
    *((name, argument, value, f"`{argument}` must be")
      for name in ("surface", "trajectory", "features", "explain")
      for argument in ("levels", "seeds")
      for value in (1, "1", [5])),
    *((name, "examples", value, "`examples` must be a whole")
      for name in ("features", "explain") for value in ("9", 1.5, 0)),
    *(("explain", "lime", value, "`lime` must be a jt.LIME") for value in ("lime", None, jt.LIME)),
    ("explain", "x", np.zeros((4, 4)), "`x` must be images of the shape"),
    ("explain", "x", np.full(SHAPE, 0.5), "`x` must hold raw values of uint8"),
    ("features", "tap", "dense_9", "`tap` 'dense_9' is no layer"),
    ("features", "tap", 3, "`tap` must be a text"),
    *((name, "weights", "end", "`weights` must be one of")
      for name in ("surface", "features", "explain")),
    *(("line", "points", value, "`points` must be a whole") for value in (*WHOLE, 2)),
    *(("align", "restarts", value, "`restarts` must be a whole") for value in (*WHOLE, 0)),
    *(("align", "max_rounds", value, "`max_rounds` must be a whole") for value in (*WHOLE, 0)),
    *(("mesh", "data", value, "`data` must be a whole") for value in (*WHOLE, 0)),
    *(("mesh", "seeds", value, "`seeds` must be a whole") for value in ("4", 1.5, True, 0)),
    ("mesh", "devices", 4, "`devices` must be several"),
    *(("mesh", "jobs", value, "`jobs` must be a whole") for value in ("4", 1.5, True, 0)),
    ("mesh", "batch_size", 8, "`batch_size` 8 has an effect with `jobs` alone"),
    ("distributed", "coordinator_address", 3, "`coordinator_address` must be a text"),
    ("distributed", "coordinator_address", "host", "`coordinator_address` must be a host and a"),
    *(("distributed", name, value, f"`{name}` must be a whole")
      for name in ("num_processes", "process_id", "heartbeat_timeout")
      for value in ("4", 1.5, True, -1)),
    *(("cpu_devices", "count", value, "`count` must be a whole") for value in ("4", 1.5, True, 0)),
    ("objective_values", "examples", 1.5, "`examples` must be a whole"),
    ("prune", "rounds", 1.5, "`rounds` must be a whole"),
    ("prune", "floor", "1", "`floor` must be a whole"),
    # several where several are meant
    *((name, "levels", value, "`levels` must be ")
      for name in ("branch", "telemetry", "transfer")
      for value in (1, "1", [NAN], [1.0], [True], [5], {1: 1})),
    *((name, "levels", [1, 1], r"`levels` must be distinct, got \[1\]")
      for name in ("branch", "telemetry", "transfer")),
    *((name, "levels", [], "`levels` is empty") for name in ("branch", "telemetry", "transfer")),
    *((name, "branches", value, "`branches` ")
      for name in ("find_tickets", "prune_at", "search", "instability", "transfer")
      for value in (None, 3, [3], "shufle", ["shuffle", "shuffle"])),
    ("branch", "change", None, "`change` is unknown: None"),
    ("branch", "name", "ticket", "`name` 'ticket' is what tables call the tickets"),
    ("branch", "name", "", "`name` must be a text"),
    ("branch", "name", 3, "`name` must be a text"),
    *(("branch", "dilation", value, "`dilation` ")
      for value in ("2", 0, -1, NAN, INF, [], (0.5, 0.5), None, True)),
    *(("verdict", "dense_lrs", value, "`dense_lrs` ")
      for value in (0.1, "0.1", [NAN], [0], [], [0.1, 0.1])),
    ("instability", "noise", ["order", "order"], "`noise` must be distinct"),
    ("instability", "noise", 3, "`noise` must be several"),
    ("instability", "distances", 3, "`distances` must be names or functions"),
    ("prune_at", "exclude", "dens_2", "`exclude` pattern 'dens_2' matches no weight"),
    ("prune_at", "exclude", 3, "`exclude` must be several"),
    ("search", "exclude", "dens_2", "`exclude` pattern 'dens_2' matches no weight"),
    ("neuron_collapse", "at", 0.1, "`at` must be several"),
    ("neuron_collapse", "at", (NAN,), "`at` must be in"),
    ("neuron_collapse", "exclude", "dens_2", "`exclude` pattern 'dens_2' matches no weight"),
    # what keeps nothing, and what has no effect
    ("find_tickets", "pruning", jt.Pruning(levels=3, fraction=0.99), "level 2 keeps none of the"),
    ("prune_at", "density", 1e-9, "`density` 1e-09 keeps none of the"),
    ("search", "density", 1e-9, "`density` 1e-09 keeps none of the"),
    *((call, "structure", "2-4", "`structure` must be") for call in ("prune_at", "search")),
    *((call, "structure", "2:3", "multiples of 3, and 'dense_0/kernel' has 16")
      for call in ("prune_at", "search")),
    ("find_tickets", "pruning", jt.Pruning(scope="layer", rates=(("dens_2", 0.1),)),
     "`rates` pattern 'dens_2' matches no layer"),
    ("find_tickets", "pruning", jt.Pruning(score_batches=2), "`score_batches` 2 has no effect"),
    ("find_tickets", "pruning", jt.Pruning(score_batch_size=9), "`score_batch_size` 9 has no ef"),
    ("find_tickets", "pruning", jt.Pruning(score="snipp"), "`score` is unknown: 'snipp'; did you"),
    ("find_tickets", "pruning", jt.Pruning(rewind=8), "`rewind` is step 8, past the end"),
    ("find_tickets", "pruning", jt.Pruning(exclude="dens_2"), "`exclude` pattern 'dens_2'"),
    ("configured", "rounds", 0, "`rounds` must be a whole number of at least 1, got 0"),
    ("configured", "fresh", "no", "`fresh` must be True or False"),
    ("configured", "temperature", NAN, "`temperature` must be a finite number"),
    # data
    *(("data.load", "seed", value, "`seed` ") for value in ("1", 1.5, -1, 2**32, True, NAN)),
    *(("data.load", "validation", value, "`validation` must be") for value in (1, -1, NAN, "0.1")),
    *(("data.stream", "seed", value, "`seed` ") for value in ("1", 1.5, -1, 2**32, True)),
    *(("data.stream", argument, value, f"`{argument}` must be ")
      for argument in ("scale", "ratio") for value in (0.5, (0, 1), (1, 0.5), (NAN, 1), "ab")),
    *(("data.stream", argument, value, f"`{argument}` must be a whole")
      for argument in ("resize", "block_bytes", "hold_bytes", "threads")
      for value in ("300", 1.5, True, -1)),
]  # fmt: skip


@early
@pytest.mark.parametrize(
    ("name", "argument", "value", "words"),
    BAD,
    ids=[f"{name}-{argument}-{i}" for i, (name, argument, *_) in enumerate(BAD)],
)
def test_nonsense_is_refused_by_name(name, argument, value, words):
    refused(words, call, name, **{argument: value})


@early
def test_the_unused_is_refused():
    for changes, words in (
        ({"score": "magnitude"}, "`per_class` 2 has no effect with score='magnitude'"),
        ({"score": "random", "per_class": 10, "batches": 2}, "`batches` 2 has no effect with"),
        ({"score": "synflow", "per_class": None, "batch_size": 8}, "`per_class` None has no eff"),
        ({"score": "random", "per_class": 10, "rounds": 3}, "`rounds` 3 has no effect with"),
        ({"score": jt.scores.inverted("magnitude"), "per_class": 10, "rounds": 3}, "`rounds` 3"),
        ({"scope": "layer", "floor": 1}, "`floor` needs scope='global'"),
    ):
        refused(words, call, "prune_at", **changes)
    refused("`schedule` 'full' has no effect with train=False", call, "search", train=False,
            schedule="full")  # fmt: skip
    refused(r"`branches` \['shuffle'\] are trained", call, "search", train=False,
            branches="shuffle")  # fmt: skip
    for options in ({"rounds": 3}, {"batch_norm": "train"}, {"temperature": 2.0}):
        (name,) = options
        refused(f"`{name}` .* has no effect on score 'magnitude'", jt.scores.configured,
                "magnitude", **options)  # fmt: skip
    refused("`seed`=3 is not used for", jt.data.load, lambda: made_data(), seed=3)


def test_magnitude_needs_no_context():
    params = made()[0].init(jax.random.key(0))[0]

    def mask(score):
        return jax.eval_shape(
            lambda key: jt.prune(params, score=score, density=0.5, key=key), jax.random.key(0)
        )

    jt.masks.apply(jax.tree.map(lambda m: np.ones(m.shape, bool), mask("magnitude")), params)
    refused("`context` is needed: score 'snip' looks at its `", mask, "snip")


def parameters(name):
    function = calls()[name][0]
    return inspect.signature(function).parameters


def booleans(name):
    """Arguments that are True or False."""
    return [p.name for p in parameters(name).values() if p.annotation in ("bool", "bool | None")]


NONSENSE = {
    "at_once": (0, -1, 1.5, "2", True, NAN),
    "points_at_once": (0, -1, 1.5, "2", True, NAN),
    "save_every": ("60", -1, NAN, INF, None, True),
    "seeds": ("12", [0.9, 1.7], [NAN], [INF], 5, [], [0, 0], [-1], [2**32], [True], [[0]], {0: 1}),
    "folder": (3, "", ["a"], b"x"),
}
NAMES = sorted(calls())


def mean_the_same(name):
    """Arguments of a call that have one meaning everywhere, with nonsense for each."""
    own = parameters(name)
    found = {a: values for a, values in NONSENSE.items() if a in own}
    if name == "mesh":
        del found["seeds"]
    return found | {a: ("no", "True", 1, 0, 2.0, [True]) for a in booleans(name)}


@early
@pytest.mark.parametrize("name", NAMES)
def test_what_means_the_same_everywhere(name):
    """Flags, seeds, folders, and what steers long runs."""
    for argument, values in mean_the_same(name).items():
        for value in values:
            said = refused(f"`{argument}`", call, name, **{argument: value})
            assert said.startswith(f"`{argument}`"), said


LONG = [name for name in NAMES if "save_every" in parameters(name)]


@early
@pytest.mark.parametrize("name", LONG)
def test_what_steers_a_run_is_said_once(name):
    """In a runtime or in the call, never in both."""
    refused("`runtime` must be a jt.Runtime, or None, got 3", call, name, runtime=3, progress=True)
    given = {"folder": "a", "at_once": 2, "save_every": 3.0, "progress": False}
    if "mesh" in parameters(name):
        given["mesh"] = jt.parallel.mesh(devices=jax.devices()[:2])
    for argument, value in given.items():
        options = {"progress": True, argument: value}
        refused(f"`{argument}` is given next to `runtime`", call, name, runtime=jt.Runtime(),
                **options)  # fmt: skip
    if "mesh" not in parameters(name):
        other = jt.Runtime(mesh=jt.parallel.mesh(devices=jax.devices()[:3]))
        refused("`runtime` has the mesh", call, name, runtime=other, progress=True)


def test_the_generic_test_reaches_everything():
    """Otherwise it would pass without looking at anything."""
    found = {(name, argument) for name in NAMES for argument in mean_the_same(name)}
    assert {name for name, argument in found if argument == "save_every"} == {
        "find_tickets", "prune_at", "search", "instability", "branch", "telemetry", "transfer",
        "verdict", "sparse_train", "dynamic_imp",
    }  # fmt: skip
    assert {("prune_at", "dense"), ("transfer", "reinit_output"), ("instability", "keep"),
            ("transfer", "permute_copies"), ("search", "train"), ("kd_lts", "one"),
            ("plots.accuracy", "legend"), ("data.load", "download"), ("vgg19", "bias")
            } <= found  # fmt: skip
    assert sum(argument == "legend" for _, argument in found) >= 20
    public = {n for n, o in vars(jt).items() if inspect.isfunction(o) and n[0] != "_"}
    # of masks, networks of one's own, arrays and states, which have tests of their own
    others = {"density", "keep_top", "from_functions", "from_linen", "from_nnx"}
    others |= {"mask_of", "with_mask"}
    assert public - others <= set(NAMES)


@early
@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(("plots.", "speed."))])
def test_tables_of_another_kind(name):
    """Figures and metrics: what is no table, an empty one, one with other columns."""
    function, _ = calls()[name]
    required = [
        p.name for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]  # fmt: skip
    argument = required[0]
    filler = {"column": "value", "share": 0.5}
    for table in (None, "table.csv", 3, pd.DataFrame(), pd.DataFrame({"a": [1]}), [1, 2]):
        options = {n: filler.get(n, pd.DataFrame({"a": [1]})) for n in required[1:]}
        refused(f"`{argument}`", function, table, **options)


_LENET = jt.networks.lenet(SHAPE, 3, (5, 4))
TEACHING = _LENET.with_params(
    jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _LENET.shapes[0])
)
SETTINGS = {
    "Training": (jt.Training, {}),
    "Training, momentum": (jt.Training, {"optimizer": "momentum", "milestones": (5,)}),
    "Training, linear": (jt.Training, {"schedule": "linear"}),
    "Training, augmented": (jt.Training, {"augment": ("resized_crop", "flip")}),
    "Pruning": (jt.Pruning, {}),
    "Runtime": (jt.Runtime, {}),
    "EarlyPruning": (jt.EarlyPruning, {"densities": (0.5,)}),
    "LearnedPruning": (LearnedPruning, {"densities": (0.5,)}),
    "Method": (Method, {"name": "own", "relaxation": Bernoulli()}),
    "Teaching": (Teaching, {}),
    "Distillation": (Distillation, {}),
    "Schedule": (Schedule, {"start": 1.0, "end": 2.0}),
    "Sigmoid": (Sigmoid, {"beta": Schedule(1.0)}),
    "TopSigmoid": (TopSigmoid, {"beta": Schedule(1.0)}),
    "Bernoulli": (Bernoulli, {}),
    "Concrete": (Concrete, {"temperature": Schedule(1.0)}),
    "TopK": (TopK, {}),
    "Penalty": (Penalty, {"weight": 1.0}),
    "Freezing": (Freezing, {"weight": 1.0}),
    "GradBalance": (GradBalance, {}),
    "Lagrangian": (Lagrangian, {}),
    "PGD": (PGD, {}),
    "Corruptions": (jt.probes.Corruptions, {}),
    "Teacher": (jt.Teacher, {"net": TEACHING}),
    "Attack": (jt.probes.Attack, {}),
    "Recipe": (jt.scores.Recipe, {}),
    "Examples": (Examples, {}),
    "Preset": (type(jt.preset("lenet-mnist")), vars(jt.preset("lenet-mnist"))),
}
# names of data sets, methods and the like are looked up when they are used
FREE = {"Preset": ("network", "notes", "matching_rewind"),
        "Recipe": ("passes",), "Corruptions": ("seed",), "Attack": ("radius",)}  # fmt: skip


def nonsense_for(kind):
    """Values that a field of this annotation does not take."""
    if kind.startswith("bool"):
        return ["no", "True", 1, 0, None]
    if kind.startswith("int"):
        return ["x", "3", NAN, -1, 1.5, True, 2**31, [1]] + ([] if "None" in kind else [None])
    if kind.startswith("float"):
        return ["x", "0.1", NAN, INF, True, [0.1], 1j] + ([] if "None" in kind else [None])
    if kind.startswith("tuple"):
        return [3, {"a": 1}, [NAN], [None], [3.5]]
    if kind.startswith(("str", "Callable")):
        return [3, NAN, ""] + ([] if "None" in kind else [None])
    return ["x", NAN, [3]]


CASES = [
    (name, field.name)
    for name, (kind, _) in SETTINGS.items()
    for field in dataclasses.fields(kind)
    if field.name not in FREE.get(name, ())
]


@early
@pytest.mark.parametrize(("name", "field"), CASES)
def test_fields_of_settings_refuse_nonsense(name, field):
    kind, usual = SETTINGS[name]
    annotation = next(f.type for f in dataclasses.fields(kind) if f.name == field)
    words = "`density`" if field == "densities" else f"`{field}"
    for value in nonsense_for(annotation):
        refused(re.escape(words), kind, **{**usual, field: value})


@pytest.mark.parametrize("scalar", [np.int64, np.int32, np.uint8, jnp.int32, int])
def test_whole_numbers_of_any_library_are_taken(scalar):
    training = jt.Training(
        steps=scalar(100), batch_size=scalar(8), warmup=scalar(3), eval_every=scalar(5),
        milestones=[scalar(40), scalar(80)],
    )  # fmt: skip
    assert training == jt.Training(
        steps=100, batch_size=8, warmup=3, eval_every=5, milestones=(40, 80)
    )
    assert all(type(m) is int for m in (training.steps, training.warmup, *training.milestones))
    pruning = jt.Pruning(levels=scalar(2), rewind=scalar(3))
    assert pruning == jt.Pruning(levels=2, rewind=3) and type(pruning.levels) is int
    assert _check.distinct_seeds([scalar(3), scalar(1)]) == (3, 1)
    assert _check.chosen("levels", np.asarray([1, 0]), (0, 1, 2)) == (1, 0)
    data = made_data()
    ours, theirs = (data.with_validation(0.2, seed=seed) for seed in (scalar(3), 3))
    assert ours.fingerprint == theirs.fingerprint
    assert jt.networks.resnet_cifar(depth=scalar(14)).config == jt.networks.resnet14().config


@pytest.mark.parametrize("scalar", [np.float64, np.float32, jnp.float32, np.asarray, float])
def test_numbers_of_any_library_are_taken(scalar):
    training = jt.Training(
        optimizer="momentum", lr=scalar(0.25), momentum=scalar(0.5), weight_decay=scalar(0.125)
    )
    assert training == jt.Training(optimizer="momentum", lr=0.25, momentum=0.5, weight_decay=0.125)
    assert all(type(x) is float for x in (training.lr, training.momentum, training.weight_decay))
    # the text that run folders know a training by
    text = jt.results.canonical({"training": training})
    assert text == jt.results.canonical({"training": jt.Training(
        optimizer="momentum", lr=0.25, momentum=0.5, weight_decay=0.125)})  # fmt: skip
    assert jt.EarlyPruning((scalar(0.5),)).densities == (0.5,)
    assert Schedule(scalar(1.0), scalar(2.0)) == Schedule(1.0, 2.0)


UNUSED = [
    ({"momentum": 0.5}, "optimizer='adam'"),
    ({"nesterov": True}, "optimizer='adam'"),
    *(({"optimizer": optimizer, field: 0.5}, f"optimizer='{optimizer}'")
      for optimizer in ("sgd", "momentum") for field in ("b1", "b2", "eps")),
    ({"optimizer": "sgd", "momentum": 0.5}, "optimizer='sgd'"),
    ({"gamma": 0.5}, "milestones"),
    ({"schedule": "cosine", "gamma": 0.5}, "milestones"),
    ({"schedule": "cosine", "milestones": (3,)}, "schedule='cosine'"),
    ({"final_lr": 0.5}, "schedule='steps'"),
    ({"augment_pixels": 2}, r"augment=\(\)"),
    ({"augment": "flip", "augment_scale": (0.5, 1.0)}, "augment="),
]  # fmt: skip


@pytest.mark.parametrize(("given", "by"), UNUSED)
def test_settings_without_an_effect_are_refused(given, by):
    field = list(given)[-1]
    refused(f"`{field}` is used .*{by}", jt.Training, **given)
    # a change that switches the user off takes along what was set for it, but not what is asked for
    others = {k: v for k, v in given.items() if k != field}
    refused(f"`{field}`", jt.Training().replace, **{**others, field: given[field]})


def test_replace_forgets_what_has_no_effect_any_more():
    base = jt.Training(
        steps=100, optimizer="momentum", momentum=0.8, nesterov=True, milestones=(50,), gamma=0.2,
        augment=("crop", "flip"), augment_pixels=2, weight_decay=1e-4,
    )  # fmt: skip
    adam = base.replace(optimizer="adam", lr=3e-4)
    assert (adam.momentum, adam.nesterov, adam.lr, adam.weight_decay) == (0.9, False, 3e-4, 1e-4)
    assert adam.milestones == (50,) and adam.gamma == 0.2 and adam.augment_pixels == 2
    cosine = base.replace(schedule="cosine")
    assert (cosine.milestones, cosine.gamma, cosine.momentum) == ((), 0.1, 0.8)
    assert base.replace(milestones=()).gamma == 0.1
    assert base.replace(augment=()).augment_pixels == 4
    for preset in jt.PRESETS.values():
        for optimizer in ("sgd", "momentum", "adam", "adamw"):
            preset.training.replace(optimizer=optimizer, lr=0.1)
        preset.training.replace(schedule="cosine")


@early
def test_methods_refuse_what_no_training_takes():
    def method(**options):
        return Method("own", Bernoulli(), **options)

    refused("`optimizer` may not change 'steps'", method, optimizer=(("steps", 3),))
    refused("`optimizer` of method 'own': `lr` must be", method, optimizer=(("lr", NAN),))
    refused("`optimizer` must be pairs", method, optimizer=(("lr",),))
    refused("`gamma` is used", method, optimizer=(("gamma", 0.5),))
    refused("`milestones` is used", method, optimizer=(("schedule", "cosine"),), drop_at=(0.5,))
    refused("`decay_scores` has no effect", method, decay_scores=True)
    refused("`optimizer` has weight_decay=0.1", method, optimizer=(("weight_decay", 0.1),))
    for field, value in {"beta": (1, NAN), "epochs": 1.5, "lr": NAN, "penalty": "x",
                         "knowledge": "direction", "momentum": 1.0}.items():  # fmt: skip
        refused(f"`{field}`", jt.SEARCHES["kd_lts"], **{field: value})
    refused("`lr`", jt.SEARCHES["concrete"], lr="0.1")
    refused("`temperature`", jt.SEARCHES["concrete"], temperature=NAN)
    refused("`freezings`", jt.SEARCHES["gem_miner"], freezings=1.5)
    refused("`final_beta`", jt.SEARCHES["continuous"], final_beta=NAN)
    refused("`stairs` 3 has no effect without `end`", Schedule, 1.0, stairs=3)
    refused("`margin` must be", Rules(margin=2.0).checked)


def test_many_levels_are_refused_at_once():
    refused("`levels` must be a whole number of at most 1000, got 10000000", jt.Pruning, 10**7)


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none(), st.integers(max_value=0),
                 st.integers(min_value=2**31), st.lists(st.integers(), max_size=2)))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whole_takes_nothing_but_whole_numbers(value):
    refused("`steps` must be a whole number", _check.whole, "steps", value, 1)


@given(st.one_of(st.text(), st.booleans(), st.none(), st.floats(max_value=0), st.complex_numbers(),
                 st.sampled_from([NAN, INF, -INF, [0.1], (), {}, b"1", object()])))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_number_takes_nothing_but_finite_numbers(value):
    refused("`lr` must be a finite number above 0", _check.number, "lr", value, 0, above=True)


@given(st.integers(-(2**31), 2**31 - 1), st.sampled_from([int, np.int64, np.int32, np.asarray]))
def test_whole_gives_python_integers(value, scalar):
    found = _check.whole("at", scalar(value), -(2**31))
    assert found == value and type(found) is int


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_number_gives_python_floats(value):
    for scalar in (float, np.float32, np.float64, np.asarray):
        found = _check.number("lr", scalar(value))
        assert found == value and type(found) is float and math.isfinite(found)
