"""Small tables for every figure, and readers of what a figure shows."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb

from jaxticket import plots

NAN, INF = math.nan, math.inf
SEEDS, AT, PAIRS = (0, 1, 2), (0, 100, 1000), ("0-1", "0-2", "1-2")
POINTS = {"init": (0, 0), "copy 1": (5, 0), "copy 2": (2, 4)}


def frame(columns, rows):
    return pd.DataFrame(list(rows), columns=columns.split())


def run(finals=None, levels=5, seeds=SEEDS):
    """A run whose final test accuracies are 0.001 apart around `finals[branch](level)`."""
    finals = finals or {
        "ticket": lambda level: 0.98 - 0.0001 * level**2,
        "reinit": lambda level: 0.98 - 0.005 * level,
        "random": lambda level: 0.98 - 0.1 * level,
    }
    rows = []
    for branch, level, seed in itertools.product(finals, range(levels), seeds):
        if level == 0 and branch != "ticket":
            continue
        value = finals[branch](level) + 0.001 * (seed - 1)
        for step, done in ((0, 0.0), (100, 0.75), (200, 1.0), (400, 1.0)):
            loss = abs(step - (200 if branch == "ticket" else 400)) / 400
            for split, metric, one in (
                ("test", "accuracy", 0.1 + (value - 0.1) * done),
                ("validation", "loss", loss),
            ):
                rows.append((seed, level, 0.8**level, branch, step, split, metric, one))
    return frame("seed level density branch step split metric value", rows)


def dilated():
    """Tickets reach dense at 0.5 at level 1 and never at level 2, reinit never does."""
    least = {("ticket", 0): 0.8, ("ticket", 1): 0.5, ("ticket", 2): 9}
    least |= {("reinit", 1): 9, ("reinit", 2): 9}
    rows = [
        (
            0,
            level,
            0.8**level,
            branch,
            100,
            "test",
            "accuracy",
            0.9 if factor >= ok else 0.8,
            factor,
        )
        for (branch, level), ok in least.items()
        for factor in (0.5, 0.8, 1.0, 2.0)
    ]
    return frame("seed level density branch step split metric value dilation", rows)


def at_steps(branches=("snip", "random"), level=1, density=0.2):
    """Networks pruned at 0, 100 or 1000, whose seeds end 0.01 apart."""
    means = [("dense", 0, 1.0, NAN, 0.9)]
    means += [
        (branch, level, density, k, 0.8 - 0.1 * i + k / 20_000)
        for i, branch in enumerate(branches)
        for k in AT
    ]
    rows = [
        (seed, level, share, branch, step, "test", metric, value, k)
        for branch, level, share, k, mean in means
        for seed in SEEDS
        for step, value in ((0, 0.1), (1000, mean + 0.01 * (seed - 1)))
        for metric, value in (("accuracy", value), ("loss", 5.0))
    ]
    return frame("seed level density branch step split metric value pruned_at", rows)


def telemetry(branches=("ticket", "reinit"), levels=(0, 1, 2)):
    start = {"magnitude": 0.1, "sign_flips": 0.0, "l2": 0.0, "cosine": 1.0, "gradient_norm": 2.0}
    start["trace"] = 5.0
    rows = []
    for (i, branch), level, seed, step, (metric, first) in itertools.product(
        enumerate(branches), levels, SEEDS, (0, 10, 20, 30), start.items()
    ):
        moved = step * (1 + level + i) / 1000 + 0.01 * seed * (step > 0)
        value = first - moved if metric == "cosine" else first + moved
        rows.append((seed, level, 0.8**level, branch, step, metric, value))
    return frame("seed level density branch step metric value", rows)


def compared(values, name="pair", samples=PAIRS, at=AT, **more):
    """Rows of an instability analysis; `values` gives a function of branch, level, k and sample."""
    states = (("ticket", 0), ("ticket", 4), ("ticket", 8), ("random", 8))
    rows = [
        (branch, level, 0.8**level * (1 + 1e-4 * seed), k, seed, sample, split, metric,
         value(branch, level, k, i))
        for (split, metric), value in values.items()
        for (branch, level), k in itertools.product(states, at)
        for i, (seed, sample) in enumerate(itertools.product(SEEDS, samples))
    ]  # fmt: skip
    table = frame(f"branch level density at seed {name} split metric value", rows)
    return table.assign(**more)


def barrier(branch, level, k, i):
    """Falls with k, but not for random; samples are 0.01 apart."""
    slope = 0.0 if branch == "random" else 0.07 * (1 + level / 8)
    return 0.5 - slope * math.log10(1 + k) + 0.01 * i


def final(branch, level, k, i):
    return 0.08 + (0.04 if branch == "random" else 0.01 * level / 8) + 0.001 * i


def moved(branch, level, k, i):
    return 30 - 0.01 * k + i


def on_paths(height=0.4, at=AT):
    parts = [
        compared(
            {("test", "error"): lambda *of, a=a: (
                final(*of) + 0.01 * a + 4 * a * (1 - a) * height / (1 + of[2] / 100)
            )},
            at=at,
            # some rows come from a device that has float32
            alpha=np.float32(a),
        )
        for a in np.linspace(0, 1, 5)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def surface(x=6, y=5, metric="error", value=lambda x, y: 0.1 + 0.01 * (x**2 + y)):
    rows = [(a, b, "test", metric, value(a, b)) for a in range(x) for b in range(y)]
    return frame("x y split metric value", rows)


def around(seed, x, y, width):
    return 0.2 + 0.05 * seed + width * (x**2 + 0.5 * y**2)


def loss_surfaces():
    grid = (-1.0, -0.5, 0.0, 0.5, 1.0)
    rows = [
        (seed, 1, 0.5, branch, x, y, "train", "loss", around(seed, x, y, width))
        for branch, width in (("ticket", 1.0), ("reinit", 2.0))
        for seed, x, y in itertools.product(SEEDS, grid, grid)
    ]
    return frame("seed level density branch x y split metric value", rows)


def spectra():
    """Densities of two branches on the same places for all seeds, and two eigenvalues of each."""
    rows = []
    for (branch, width), seed in itertools.product((("ticket", 1.0), ("reinit", 2.0)), SEEDS):
        about = (seed, 1, 0.5, branch)
        for i in range(9):
            at = width * (i - 2)
            rows.append((*about, "density_at", i, at))
            rows.append((*about, "density", i, (1 + 0.1 * seed) * math.exp(-abs(at))))
        rows += [(*about, "eigenvalue", i, width * (6 - i) - 0.1 * seed) for i in range(2)]
        rows.append((*about, "weights", 0, 1000.0))
    return frame("seed level density branch metric index value", rows)


def watched():
    """What a monitor of smoothness measured: both ends of three measures, and the loss."""
    rows = []
    for (i, branch), seed, step in itertools.product(enumerate(("ticket", "reinit")), SEEDS,
                                                     (0, 10, 20, 30)):  # fmt: skip
        about = (seed, 1, 0.5, branch, step)
        for scale, name in enumerate(("loss", "gradient_change", "beta"), start=1):
            low = scale * (1 + i + step / 30 + 0.1 * seed)
            rows += [(*about, f"{name}_least", low), (*about, f"{name}_greatest", 2 * low)]
        rows.append((*about, "loss", 1.5))
    return frame("seed level density branch step metric value", rows)


def first(branch, level, verdict, step, low=None, high=None, share=1.0):
    low, high = (step if end is None else end for end in (low, high))
    return (branch, level, 0.8**level, verdict, step, low, high, 9, share)


RUN = run()
STEPS = at_steps()
SURFACES = loss_surfaces()
TELEMETRY = telemetry()
SPECTRA, WATCHED = spectra(), watched()
TABLE = compared({
    ("test", "barrier"): barrier,
    ("test", "error"): final,
    ("weights", "l2"): moved,
    ("weights", "mine"): moved,
    ("test", "disagreement_share"): lambda branch, level, k, i: 0.5 + 0.01 * i,
    ("test", "loss_barrier"): lambda *of: 3 * barrier(*of),
})  # fmt: skip
COPIES = compared({("test", "error"): final, ("weights", "l2_from_k"): moved}, "copy", (0, 1, 2))
STATES = compared({("weights", "l2_from_init"): moved}, "copy", (0,)).drop(columns="copy")
PATHS = on_paths()
DURING = pd.concat(
    [
        compared({("test", "barrier"): lambda *of, s=s: 0.1 + 1e-6 * s + 0.01 * of[3]}, step=s)
        for s in (0, 1000, 40_000)
    ],
    ignore_index=True,
)
FIRST = frame(
    "branch level density verdict step low high samples share",
    [
        first("ticket", 0, "stable", 2000.0, 1000, 4000),
        first("ticket", 4, "stable", 1000.0, 500, 1000),
        first("ticket", 8, "stable", 500.0, 0, NAN, 0.8),
        first("ticket", 0, "matching", 0.0),
        first("ticket", 4, "matching", 1000.0),
        first("ticket", 8, "matching", 500.0),
        first("random", 4, "stable", 4000.0),
        first("random", 8, "stable", NAN, 2000, NAN, 0.2),
    ],
)
UNITS = frame(
    "branch seed threshold share",
    (
        (branch, seed, d, min(1.0, zero + d + 0.01 * (seed - 1) * (d == 0.5)))
        for branch, zero in (("snip", 0.05), ("synflow", 0.3))
        for seed in SEEDS
        for d in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
    ),
)
LAYERS = frame(
    "branch seed layer index layer_density",
    (
        (branch, seed, name, i, 0.1 * (i + 1) + scale * 0.01 * (seed - 1))
        for branch, scale in (("snip", 1), ("random", 0))
        for seed in SEEDS
        for i, name in enumerate(("conv1/kernel", "block/conv2/kernel", "dense/kernel"))
    ),
)
COSTS = frame(
    "branch seed accuracy cost",
    (
        (branch, seed, mean + 0.01 * (seed - 1), cost)
        for branch, mean, cost in (
            ("dense", 0.9, 0),
            ("random", 0.7, 0),
            ("snip", 0.8, 0.01),
            ("ticket", 0.88, 10.0),
        )
        for seed in SEEDS
    ),
)
SCHEDULE = frame(
    "branch step density",
    [("snip", 0, 0.2), ("ticket", 50, 0.05), ("grasp", 0, 0.2), ("random", 20, 0.5),
     ("random", 80, 0.1)],
)  # fmt: skip
CONTROLS = frame(
    "method control difference passes",
    [("snip", "reinit", 0.3, False), ("snip", "shuffle", -0.02, False),
     ("ticket", "shuffle", -3.14, True), ("ticket", "extra_control", NAN, None)],
)  # fmt: skip
TRANSFERS = frame(
    "source target level density accuracy std difference",
    [("a", "a", 1, 0.2, 0.9, 0.01, 0.0), ("b", "a", 1, 0.2, 0.875, NAN, -0.025),
     ("b", "b", 1, 0.2, 0.8, 0.01, 0.0), ("c", "b", 1, 0.2, NAN, NAN, NAN)],
)  # fmt: skip


def measurement(values, branches=("ticket", "snip", "random"), levels=(0, 4, 8), seeds=SEEDS):
    """A table of `jt.measure`; `values` gives a metric's numbers of branch, level and seed."""
    rows = [
        (seed, level, 0.8**level, branch, metric, index, value, -1)
        for branch, level, seed in itertools.product(branches, levels, seeds)
        if (branch == "ticket") == (level == 0)
        for metric, of in values.items()
        for index, value in enumerate(np.ravel(of(branches.index(branch), level, seed)))
    ]
    return frame("seed level density branch metric index value diverged", rows)


CONFIDENCE = np.array([NAN, 0.3, 0.5, 0.7, 0.9])


def bins(temper):
    """Networks that are surer than right, the more the later the branch, by bins of confidence."""
    return {
        "bin_share": lambda i, level, seed: [0.0, 0.05, 0.05, 0.1, 0.8],
        "bin_confidence": lambda i, level, seed: CONFIDENCE,
        "bin_accuracy": lambda i, level, seed: CONFIDENCE - temper * (0.1 * i + 0.01 * seed),
        "ece": lambda i, level, seed: temper * (0.1 * i + 0.01 * seed),
    }


MEASURED = measurement({"ece": lambda i, level, seed: 0.02 + 0.01 * i + 0.002 * (level + seed),
                        "eigenvalue": lambda i, level, seed: [9.0 - i + seed, 5.0]})  # fmt: skip
RELIABILITY = measurement({
    **bins(1.0), **{f"scaled_{name}": of for name, of in bins(0.5).items()},
    "temperature": lambda i, level, seed: 1.0 + i / 10,
})  # fmt: skip
SEPARATION = measurement({
    f"{score}_{metric}": lambda i, level, seed, j=j: 0.9 - 0.1 * i + 0.01 * (seed + j)
    for j, score in enumerate(("softmax", "energy", "entropy"))
    for metric in ("auroc", "fpr95")
})  # fmt: skip
ATTACKED = measurement({
    "clean_accuracy": lambda i, level, seed: 0.95 - 0.01 * i - 0.001 * seed,
    "radius": lambda i, level, seed: [0.1, 0.3],
    "adversarial_accuracy": lambda i, level, seed: [0.5 - 0.1 * i - 0.01 * seed, 0.1 + 0.01 * i],
})  # fmt: skip


def under_attack(name, level):
    """Clean accuracy at radius 0, then those of the two radii."""
    own = ATTACKED[(ATTACKED.branch == name) & (ATTACKED.level == level)]
    own = own[own.metric.str.endswith("accuracy")]
    places = {("clean_accuracy", 0): 0.0, ("adversarial_accuracy", 0): 0.1,
              ("adversarial_accuracy", 1): 0.3}  # fmt: skip
    x = [places[row.metric, row["index"]] for _, row in own.iterrows()]
    return pd.DataFrame({"x": x, "y": 100 * own["value"]})


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure and what it must show.

    Attributes:
      draw: the function.
      table: its table.
      lines: by label of a line (or its start), the rows it is made of: a frame with x and y.
      band: the band that is drawn by default.
      options: further arguments.
      argument: the name of the table in errors.
      value: the column with the numbers.
      branch: the column with the names.
    """

    draw: Callable[..., Any]
    table: pd.DataFrame
    lines: Mapping[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    band: str = "std"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    argument: str = "table"
    value: str = "value"
    branch: str = "branch"

    def __call__(self, table=None, **options):
        return self.draw(self.table if table is None else table, **{**self.options, **options})


def shown(table, x, y="value", factor=100.0, **where):
    """Rows of a table as x and y in the unit of a figure."""
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table)
    return pd.DataFrame({"x": table[x] if isinstance(x, str) else x(table), "y": factor * table[y]})


def in_percent(table):
    return 100 * table.groupby("level")["density"].transform("median")


def at_end(name):
    return shown(RUN, in_percent, branch=name, step=400, metric="accuracy")


def of_copies(table, metric, name, level, x="at", factor=100.0, **where):
    return shown(table, x, factor=factor, metric=metric, branch=name, level=level, **where)


def of_density(name):
    rows = shown(SPECTRA, "index", factor=1, branch=name, metric="density")
    places = SPECTRA[(SPECTRA.branch == name) & (SPECTRA.metric == "density_at")]
    return rows.assign(x=places.value.to_numpy())


BARRIERS = {
    "dense": of_copies(TABLE, "barrier", "ticket", 0),
    "IMP ticket, 16.8%": of_copies(TABLE, "barrier", "ticket", 8),
    "global random, 16.8%": of_copies(TABLE, "barrier", "random", 8),
}
FIGURES = {
    "accuracy": Figure(
        plots.accuracy,
        RUN,
        {"IMP ticket": at_end("ticket"), "random reinit": at_end("reinit"),
         "global random": at_end("random")},
        "minmax",
    ),
    "early_stop": Figure(
        plots.early_stop,
        RUN,
        {"IMP ticket": at_end("ticket").assign(y=200),
         "random reinit": at_end("reinit").assign(y=400)},
        "minmax",
    ),
    "dilation": Figure(plots.dilation, dilated(), {
        "IMP ticket": pd.DataFrame({"x": [100, 80, 64], "y": [0.8, 0.5, NAN]}),
        "random reinit": pd.DataFrame({"x": [80, 64], "y": [NAN, NAN]}),
    }, "none"),
    "curves": Figure(plots.curves, RUN, {
        f"_ticket {level}": shown(RUN, "step", branch="ticket", level=level, metric="accuracy")
        for level in (0, 1, 2, 3, 4)
    }, "minmax"),
    "telemetry": Figure(plots.telemetry, TELEMETRY, {
        f"_{name} {level}": shown(
            TELEMETRY, "step", factor=1, branch=name, level=level, metric="l2"
        ) for name in ("ticket", "reinit") for level in (0, 1, 2)
    }, "minmax"),
    "accuracy_at_step": Figure(plots.accuracy_at_step, STEPS, {
        label: shown(STEPS, "pruned_at", branch=name, step=1000, metric="accuracy")
        for name, label in (("snip", "SNIP"), ("random", "global random"))
    }),
    "density_schedule": Figure(plots.density_schedule, SCHEDULE, {
        "global random": pd.DataFrame({"x": [0, 20, 80, 80], "y": [100, 50, 10, 10]}),
        "SNIP": pd.DataFrame({"x": [0, 80], "y": [20, 20]}),
        "IMP ticket": pd.DataFrame({"x": [0, 50, 80], "y": [100, 5, 5]}),
    }, "none", value="density"),
    "unit_collapse": Figure(plots.unit_collapse, UNITS, {
        label: shown(UNITS.assign(x=100 * UNITS["threshold"]), "x", "share", branch=name)
        for name, label in (("snip", "SNIP"), ("synflow", "SynFlow"))
    }, value="share"),
    "layer_densities": Figure(plots.layer_densities, LAYERS, {
        label: shown(LAYERS, "index", "layer_density", branch=name)
        for name, label in (("snip", "SNIP"), ("random", "global random"))
    }, "minmax", value="layer_density"),
    "accuracy_against_cost": Figure(plots.accuracy_against_cost, COSTS, {
        label: shown(COSTS, "cost", "accuracy", branch=name)
        for name, label in (("snip", "SNIP"), ("ticket", "IMP ticket"))
    }, "none", value="accuracy"),
    "controls": Figure(plots.controls, CONTROLS, value="difference", branch="method"),
    "transfer_matrix": Figure(plots.transfer_matrix, TRANSFERS, value="accuracy", branch="source"),
    "measured": Figure(plots.measured, MEASURED, {
        label: shown(MEASURED, in_percent, metric="ece", branch=name)
        for name, label in (("snip", "SNIP"), ("random", "global random"))
    }, options={"metric": "ece"}),
    "reliability": Figure(plots.reliability, RELIABILITY),
    "separation": Figure(plots.separation, SEPARATION),
    "robustness": Figure(plots.robustness, ATTACKED, {
        "SNIP, 16.8%": under_attack("snip", 8), "dense": under_attack("ticket", 0),
    }),
    "instability": Figure(plots.instability, TABLE, BARRIERS),
    "error": Figure(plots.error, COPIES, {
        label: of_copies(COPIES, "error", name, 8)
        for name, label in (("ticket", "IMP ticket, 16.8%"), ("random", "global random, 16.8%"))
    }),
    "distance": Figure(plots.distance, TABLE, {
        "dense": of_copies(TABLE, "l2", "ticket", 0, factor=1),
        "IMP ticket, 16.8%": of_copies(TABLE, "l2", "ticket", 8, factor=1),
    }),
    "path": Figure(plots.path, PATHS, {
        label: of_copies(PATHS, "error", name, level, "alpha", at=100)
        for name, level, label in (("ticket", 8, "IMP ticket, 16.8%"), ("ticket", 0, "dense"))
    }, options={"at": 100}, argument="paths"),
    "path of steps": Figure(plots.path, PATHS, {
        f"_IMP ticket, 16.8% {k}": of_copies(PATHS, "error", "ticket", 8, "alpha", at=k) for k in AT
    }, argument="paths"),
    "throughout": Figure(plots.throughout, DURING, {
        f"_dense {k}": of_copies(DURING, "barrier", "ticket", 0, "step", at=k) for k in AT
    }),
    "against_density": Figure(plots.against_density, TABLE, {
        f"_ticket {k}": shown(
            TABLE[TABLE["at"] == k], in_percent, metric="barrier", branch="ticket"
        ) for k in AT
    }),
    "heat_map": Figure(plots.heat_map, TABLE),
    "plane": Figure(plots.plane, surface(), options={"points": POINTS}, argument="grid"),
    "loss_contours": Figure(plots.loss_contours, SURFACES),
    "loss_cuts": Figure(plots.loss_cuts, SURFACES, {
        label: shown(SURFACES[SURFACES.y == 0], "x", factor=1, branch=name)
        for name, label in (("ticket", "IMP ticket"), ("reinit", "random reinit"))
    }),
    "spectral_density": Figure(plots.spectral_density, SPECTRA, {
        f"{label}, 50%": of_density(name)
        for name, label in (("ticket", "IMP ticket"), ("reinit", "random reinit"))
    }, "minmax"),
    # its band is that of step lengths
    "smoothness": Figure(plots.smoothness, WATCHED, {
        f"{label}, 50%": shown(
            WATCHED, "step", factor=1, branch=name, metric="gradient_change_greatest"
        ) for name, label in (("ticket", "IMP ticket"), ("reinit", "random reinit"))
    }, "none"),
    "first_steps": Figure(plots.first_steps, FIRST, {
        "_ticket stable": pd.DataFrame({"x": 100 * 0.8 ** np.array([0, 4, 8]),
                                        "y": [2000, 1000, 500]}),
        "_ticket matching": pd.DataFrame({"x": 100 * 0.8 ** np.array([0, 4, 8]),
                                          "y": [0, 1000, 500]}),
        "_random stable": pd.DataFrame({"x": 100 * 0.8 ** np.array([4, 8]), "y": [4000, NAN]}),
    }, "none", argument="steps", value="step"),
}  # fmt: skip
# of several tables
REWINDING = plots.distances_at_rewinding
BOTH = plots.stable_and_matching


def lines(ax):
    return {str(line.get_label()): line for line in ax.lines}


def named(ax, label):
    return next(line for line in ax.lines if str(line.get_label()).startswith(label))


def all_named(ax, label):
    return [line for line in ax.lines if line.get_label() == label]


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def texts_of(ax):
    return {text.get_position(): text.get_text() for text in ax.texts}


def color_of(line):
    return np.array(to_rgb(line.get_color()))


def band_of(ax, line):
    """Lower and upper edge of the band of a line's color that has most points on the line."""
    x, y = (np.asarray(one, float) for one in line.get_data())
    found = []
    for band in ax.collections:
        if not isinstance(band, PolyCollection) or not len(band.get_paths()):
            continue
        if np.allclose(band.get_facecolor()[0, :3], color_of(line), atol=0.01):
            vertices = np.concatenate([path.vertices for path in band.get_paths()])
            at = [vertices[np.isclose(vertices[:, 0], one), 1] for one in x]
            if all(map(len, at)):
                low, high = (np.array([end(one) for one in at]) for end in (np.min, np.max))
                if ((low <= y + 1e-9) & (y <= high + 1e-9)).all():
                    found.append((low, high))
    return found[0]


matplotlib.use("Agg")
