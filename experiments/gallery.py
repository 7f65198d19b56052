"""The pictures of docs/gallery.md: every figure of `jt.plots`, drawn by the calls on that page.

Small networks are trained on digits, enough of them that each figure shows what it is for. The page
is the source: its calls run here, in the names that `tables` makes.

Command:  python -m experiments.gallery [--only NAME ...] [--folder FOLDER]
Makes:    docs/gallery/NAME.png for every name in `jt.plots`, in 128 colors.
Cost:     9 minutes on 2 cores of an AMD EPYC that other work kept busy, 3 minutes of processor
          time.
Expected: a dense network at about 98% of the digits; tickets above reinitialized and shuffled ones
          at low densities; barriers that fall with the step at which copies part.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

import jaxticket as jt
from experiments.common.job import launch
from jaxticket._progress import progress
from jaxticket.analysis.probes import Probe
from jaxticket.data.arrays import Data

PAGE = Path(__file__).resolve().parents[1] / "docs" / "gallery.md"
DPI, COLORS = 90, 128
ENTRY = re.compile(r"^### (\w+)\n.*?^```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SEEDS = range(3)
LAST = 6
"""The sparsest level: 0.6 to its power is 4.7% of the weights."""
QUIET: dict[str, Any] = {"progress": False}


@dataclasses.dataclass(frozen=True)
class Settings:
    """The pictures of the gallery."""

    only: tuple[str, ...] = ()
    """Names of figures; all if left out."""
    folder: Path | None = None
    """Where runs are kept, so that they are read the next time; nowhere by default."""
    out: Path = PAGE.parent / "gallery"
    """Where pictures go."""


def calls() -> dict[str, str]:
    """The calls of the page, by the name of the figure."""
    return dict(ENTRY.findall(PAGE.read_text(encoding="utf-8")))


def tables(folder: Path) -> dict[str, Any]:
    """Train, measure and give the names that the calls of the page use."""
    data = jt.data.load("digits", validation=0.1)
    net = jt.networks.lenet(data.shape, data.classes, widths=(128, 64))
    training = jt.Training(steps=400, batch_size=60, lr=0.002, eval_every=20)
    runs = jt.find_tickets(
        net, data, training, jt.Pruning(levels=LAST, fraction=0.4), seeds=SEEDS,
        branches=("reinit", "shuffle", "random"), keep="trained",
        keep_at=(0, 20, 50, 100, 200, 400), folder=folder / "runs", **QUIET,
    )  # fmt: skip
    found = {"jt": jt, "data": data, "net": net, "runs": runs}
    found |= _of_methods(runs, data, folder)
    found |= _of_copies(runs, folder)
    found |= _measured(runs, data, found["methods"])
    return found | _around(runs)


def _of_methods(runs: jt.Runs, data: Data, folder: Path) -> dict[str, Any]:
    """Other ways to find masks: by score and step, their costs, verdicts, and transfers."""
    net, training = runs.net, runs.training
    early = {
        score: jt.prune_at(
            net, data, training, score=score, density=(0.216, 0.047), step=(0, 20, 100, 400),
            schedule="full", seeds=SEEDS, keep="trained", folder=folder / score, **QUIET,
        )
        for score in ("snip", "magnitude", "random")
    }  # fmt: skip
    by_step = jt.results.concat(
        _called(own.table(), score).assign(pruned_at=step)
        for score in ("snip", "magnitude")
        for step, own in early[score].items()
    )
    at_init = {score: own[0] for score, own in early.items()}
    factors = (0.25, 0.5, 0.75, 1.0)
    dilated = jt.results.concat(
        jt.branch(runs, change, name=name, dilation=factors, levels=(0, 2, 4, 6), **QUIET).table()
        for change, name in (("retrain", "ticket"), ("reinit", "reinit"))
    )
    watched = jt.telemetry(runs, levels=(0, 2, 4, 6), **QUIET)
    monitor = jt.probes.Smoothness.of(training, every=10)
    along = [
        jt.telemetry(runs, branch=change, monitor=monitor, levels=(4,), **QUIET)
        for change in ("retrain", "reinit")
    ]
    verdicts = {
        "IMP": jt.verdict(runs, level=LAST, method="IMP", points=10, **QUIET),
        "SNIP": jt.verdict(at_init["snip"], level=2, method="SNIP", points=10, **QUIET),
    }
    halves = dict(zip(("first half", "second half"), data.halves(seed=0), strict=True))
    own = {
        name: jt.find_tickets(
            net, half, training, jt.Pruning(levels=2, fraction=0.6), seeds=SEEDS,
            folder=folder / name.replace(" ", "-"), **QUIET,
        )
        for name, half in halves.items()
    }  # fmt: skip
    moved = {
        (source, target): jt.transfer(own[source], to=own[target], levels=(2,), **QUIET)
        # matrices have targets in the order of these
        for source, target in (tuple(reversed(halves)), tuple(halves))
    }
    return {
        "by_step": by_step,
        "methods": at_init,
        "costs": _costs(runs, at_init),
        "schedules": _schedules(),
        "dilated": dilated,
        "watched": watched,
        "along_gradient": jt.results.concat(along),
        "verdicts": verdicts,
        "changes": jt.results.concat(_changes(name, own) for name, own in verdicts.items()),
        "transferred": jt.transfer_matrix(moved),
    }


def _called(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table in which the tickets have the name of their method, and the dense network its own."""
    dense = table["level"] == 0
    return table.assign(branch=np.where(dense, "dense", name))


def _costs(runs: jt.Runs, methods: dict[str, jt.Runs]) -> pd.DataFrame:
    """Accuracy at the sparsest density, and what finding its mask cost in dense trainings."""
    parts = []
    for name, own in {"ticket": runs, **methods}.items():
        level = max(own.levels)
        ends = jt.speed.final(own.table())
        ends = ends.loc[(ends["branch"] == "ticket") & (ends["level"].isin([0, level]))]
        cost = jt.costs.finding(own).set_index("level").loc[level, "epochs"]
        share = float(cost) * len(own.data.train) / own.training.batch_size / own.training.steps
        named = np.where(ends["level"] == 0, "dense", name)
        part = ends.assign(branch=named, accuracy=ends["value"], cost=share)
        parts.append(part.loc[part["branch"] != "dense"] if parts else part)
    return jt.results.concat(parts).reindex(columns=["branch", "seed", "accuracy", "cost"])


def _schedules() -> pd.DataFrame:
    """What three methods keep of the weights, during 1,000 steps."""
    rows = [("snip", 0, 0.1)]
    rows += [("ticket", 200 * level, 0.56**level) for level in range(5)]
    cubic = [(step, 0.1 + 0.9 * (1 - step / 750) ** 3) for step in range(50, 800, 50)]
    rows += [("gradual", step, density) for step, density in cubic]
    return pd.DataFrame(rows, columns=["branch", "step", "density"])


def _changes(name: str, verdict: jt.Verdict) -> pd.DataFrame:
    """By how many points the controls of a verdict change the accuracy."""
    table = verdict.networks()
    ends = table.loc[(table["split"] == "test") & (table["metric"] == "accuracy")]
    ends = ends.loc[ends["step"] == verdict.step]
    means, spread = (ends.groupby("branch")["value"].agg(how) for how in ("mean", "std"))
    rows = [
        {
            "method": name,
            "control": row["condition"],
            "difference": 100 * (means[row["condition"]] - means["ticket"]),
            "std": 100 * spread[row["condition"]],
            "passes": row["passes"],
        }
        for row in verdict.conditions().to_dict("records")
        if row["condition"] in means.index
    ]
    return pd.DataFrame(rows)


def _of_copies(runs: jt.Runs, folder: Path) -> dict[str, Any]:
    """Copies under other noise, and the plane through three networks."""
    # a rate at which copies part
    training = runs.training.replace(lr=0.02)
    inst = jt.instability(
        runs.net, runs.data, training, at=(0, 10, 20, 50, 100), tickets=runs, levels=(0, 3, 6),
        branches=("reinit",), points=11, throughout=7, folder=folder / "inst", **QUIET,
    )  # fmt: skip
    networks = [runs.trained_network(0, seed).given for seed in SEEDS]
    weights = [(given.params, given.stats) for given in networks if given is not None]
    on_plane = jt.connectivity.plane(runs.net, runs.data, training, weights, points=21)
    names = [f"seed {seed}" for seed in SEEDS]
    corners = {n: (float(x), float(y)) for n, (x, y) in zip(names, on_plane.corners, strict=True)}
    return {"inst": inst, "on_plane": on_plane, "corners": corners}


def _measured(runs: jt.Runs, data: Data, methods: dict[str, jt.Runs]) -> dict[str, Any]:
    """What probes say of trained networks, features and explanations."""

    def measure(probe: str | Probe, levels: tuple[int, ...] = (0, 2, 4, 6)) -> pd.DataFrame:
        return jt.measure(
            runs, probe, levels=levels, branches=("ticket", "random"), split="test",
            weights="trained", **QUIET,
        )  # fmt: skip

    upside_down = data.test.x[:, ::-1]
    other = jt.data.from_arrays(upside_down, data.test.y, upside_down, data.test.y)
    seen = jt.features(runs, levels=(LAST,), branches=("ticket", "random", "reinit"))
    lime = jt.explain(runs, lime=jt.LIME(segments=4, samples=500), examples=5)
    answer = lime.answers[lime.network(level=4, seed=0), 0].argmax()
    probes = ("calibration", "hessian_trace", "attack")
    measures = {
        name: [
            *(jt.measure(own, probe, split="test", weights="trained", **QUIET) for probe in probes),
            jt.speed.generalization_gap(own.table()),
        ]
        for name, own in methods.items()
    }
    return {
        "calibrated": _without_dense(measure(jt.probes.Calibration(bins=8, temperature=True))),
        "curvature": measure(jt.probes.Curvature(eigenvalues=5, order=30), (4,)),
        "unknown": measure(jt.probes.OutOfDistribution(jt.data.like(other, data)), (0, 4)),
        "attacked": measure(jt.probes.Attack(radius=(0.02, 0.05, 0.1, 0.15)), (0, 4)),
        "corrupted": measure("corruptions", (0, 4)),
        "page": jt.overview(measures=measures),
        "found": seen,
        "image": lime.images[0],
        "weights": lime.by_pixel(0, answer, level=4, seed=0),
        "kept": _layers(runs, methods),
        "collapsed": _collapse(runs, methods),
        "sizes": [jt.layers.collapse(runs).query("level == @n")["share"] for n in runs.levels],
    }


def _without_dense(table: pd.DataFrame) -> pd.DataFrame:
    """Without level 0 of controls, which is the dense network too."""
    return table.loc[(table["level"] > 0) | (table["branch"] == "ticket")]


def _of_sparsest(
    report: Callable[[jt.Runs], pd.DataFrame], runs: jt.Runs, methods: dict[str, jt.Runs]
) -> pd.DataFrame:
    parts = []
    for name, own in {"ticket": runs, **methods}.items():
        table = report(own)
        parts.append(table.loc[table["level"] == max(own.levels)].assign(branch=name))
    return jt.results.concat(parts)


def _layers(runs: jt.Runs, methods: dict[str, jt.Runs]) -> pd.DataFrame:
    return _of_sparsest(jt.layers.report, runs, methods)


def _collapse(runs: jt.Runs, methods: dict[str, jt.Runs]) -> pd.DataFrame:
    at = tuple(np.linspace(0, 0.4, 41).tolist())
    return _of_sparsest(lambda own: jt.layers.collapse(own, at=at), runs, methods)


def _around(runs: jt.Runs) -> dict[str, Any]:
    """Surfaces around networks, and in the plane of a training."""
    surface = jt.surface(runs, branches=("ticket", "reinit"), levels=(4,), points=21, **QUIET)
    path, of_path = jt.trajectory(runs, levels=(4,), seeds=(0,), points=21, **QUIET)
    return {"surface": surface, "path": path, "of_path": of_path}


def main(settings: Settings) -> None:
    """Draw the pictures."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = calls()
    unknown = set(settings.only) - set(known)
    if unknown:
        raise ValueError(f"`only` has {sorted(unknown)}, which the page has no call of")
    jt.cpu_devices()
    settings.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        names = tables(settings.folder or Path(temporary)) | {"plt": pyplot}
        ends = jt.speed.dense(names["runs"].table())["value"]
        print(f"dense network: {100 * ends.mean():.1f}% of the digits")
        chosen = settings.only or tuple(known)
        with progress(total=len(chosen), title="gallery", unit="") as bar:
            for name in chosen:
                exec(compile(known[name], f"{PAGE.name}: {name}", "exec"), dict(names))
                _save(pyplot.gcf(), settings.out / f"{name}.png")
                pyplot.close("all")
                bar.update()
    size = sum(file.stat().st_size for file in settings.out.glob("*.png"))
    print(f"{len(chosen)} pictures in {settings.out}, all there {size / 1e6:.1f} MB")


def _save(figure: Figure, file: Path) -> None:
    """Write a picture in few colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(COLORS).save(file, optimize=True)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
