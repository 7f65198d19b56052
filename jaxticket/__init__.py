"""Lottery-ticket experiments in JAX: find, train and judge tickets, many seeds side by side.

    import jaxticket as jt
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes)
    runs = jt.find_tickets(net, data, jt.Training(steps=600), jt.Pruning(levels=6), seeds=range(3))
    print(runs)  # accuracy by density; runs.table() has every evaluation
    ticket = runs.ticket(level=6, seed=0)

Your own data are made by `jt.data.from_arrays` and `jt.data.from_batches`, networks by
`jt.from_linen`, `jt.from_nnx` and `jt.from_functions`; `jt.Training` holds optimizer, loss, metrics
and all that concerns training. Other ways to find masks: `jt.prune_at`, `jt.search`,
`jt.sparse_train`, `jt.dynamic_imp`. `jt.load` reads a run back. In your own training loops:
`jt.masked`, `jt.gradual`, `jt.make_train`. `dir(jt)` lists all, `help(jt.find_tickets)` explains
one.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from jaxticket import (
    callbacks,
    connectivity,
    controls,
    data,
    losses,
    masks,
    metrics,
    nn,
    results,
    sparsify,
)
from jaxticket.analysis import costs, layers, probes
from jaxticket.analysis import stats as speed
from jaxticket.analysis.corruption_errors import mean_corruption_error
from jaxticket.analysis.criteria import CRITERIA, Criterion
from jaxticket.analysis.explanations import Explanation, explain
from jaxticket.analysis.features import Features, features
from jaxticket.analysis.lime import LIME
from jaxticket.analysis.measuring import measure
from jaxticket.analysis.one_page import overview
from jaxticket.analysis.probes import PROBES
from jaxticket.analysis.surfaces import surface, trajectory
from jaxticket.analysis.telemetry import telemetry
from jaxticket.analysis.transfer_matrix import transfer_matrix
from jaxticket.analysis.verdict import Verdict, verdict
from jaxticket.connectivity import DISTANCES, Instability, instability
from jaxticket.controls import BRANCHES
from jaxticket.data import DATASETS, augment
from jaxticket.engine import parallel
from jaxticket.engine.adversarial import FGSM, PGD
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.hosts import distributed
from jaxticket.engine.parallel import compilation_cache, cpu_devices
from jaxticket.engine.runtime import RunInterrupted, Runtime
from jaxticket.loading import load
from jaxticket.loops import (
    PolynomialDensity,
    gradual,
    make_train,
    mask_of,
    masked,
    with_mask,
)
from jaxticket.masks import density
from jaxticket.nn import NETWORKS, from_functions, from_linen, from_nnx
from jaxticket.problem import Problem
from jaxticket.pruning import scores, structures
from jaxticket.pruning.keep import densities, keep_top, prune
from jaxticket.pruning.scores import LAYOUTS, SCORES
from jaxticket.reporting import report
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify import dynamic, learned
from jaxticket.sparsify.dynamic import RULES, sparse_train
from jaxticket.sparsify.dynamic_imp import DynamicIMP, dynamic_imp
from jaxticket.sparsify.early_pruning import EarlyPruning, prune_at
from jaxticket.sparsify.iterative import Pruning, find_tickets
from jaxticket.sparsify.learned import SEARCHES, search
from jaxticket.sparsify.retraining import branch
from jaxticket.stopping import Plateau, Target
from jaxticket.teacher import Teacher
from jaxticket.ticket import Ticket
from jaxticket.transferring._transfer import transfer
from jaxticket.transferring.depth import elastic
from jaxticket.typing import Network, ScoreContext, TrainState

if TYPE_CHECKING:
    from jaxticket import plots, presets
    from jaxticket.presets import PRESETS, preset

__version__ = "0.2.0"

# names of version 0.1; `from jaxticket.search import Concrete` still works, while the attribute
# `jaxticket.search` is the function
branches = controls
networks = nn
stability = connectivity
sys.modules["jaxticket.search"] = learned

# in the order of the documentation
# fmt: off
__all__ = [  # noqa: RUF022
    # data, networks, settings
    "data", "DATASETS", "nn", "networks", "NETWORKS", "Network",
    "from_linen", "from_nnx", "from_functions",
    "Training", "PGD", "FGSM", "Teacher", "Plateau", "Target", "augment", "losses", "metrics",
    "Pruning", "EarlyPruning", "DynamicIMP",
    "preset", "presets", "PRESETS",
    # finding tickets
    "find_tickets", "prune_at", "scores", "SCORES", "LAYOUTS", "structures", "ScoreContext",
    "search", "learned", "SEARCHES", "sparse_train", "dynamic", "RULES", "dynamic_imp", "sparsify",
    # what a run gives
    "Runs", "load", "report", "Ticket", "results", "plots", "speed", "layers", "costs", "telemetry",
    "measure", "probes", "PROBES", "Problem", "surface", "trajectory",
    "features", "Features", "explain", "Explanation", "LIME", "mean_corruption_error",
    # judging and moving tickets
    "branch", "branches", "controls", "BRANCHES", "verdict", "Verdict",
    "overview", "CRITERIA", "Criterion",
    "transfer", "elastic", "transfer_matrix",
    "instability", "Instability", "DISTANCES", "connectivity", "stability",
    # in your own training loop
    "masked", "gradual", "PolynomialDensity", "mask_of", "with_mask", "make_train",
    # masks and machines
    "masks", "density", "densities", "keep_top", "prune", "TrainState",
    "Runtime", "callbacks", "RunInterrupted", "RunFolderError",
    "parallel", "cpu_devices", "distributed", "compilation_cache",
    "__version__",
]
# fmt: on


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> ModuleType:
    """Import figures and presets when they are used: matplotlib takes a second."""
    if name == "plots":
        return importlib.import_module("jaxticket.plots")
    if name in ("presets", "preset", "PRESETS"):
        presets = importlib.import_module("jaxticket.presets")
        return presets if name == "presets" else getattr(presets, name)
    raise AttributeError(f"module 'jaxticket' has no attribute {name!r}")
