"""What the scripts of this folder share: sizes, data, the time budget, tables, figures, results.

A script prepares a job, trains inside `budget(job)`, then prints, draws and saves. All scripts
train LeNet-300-100 with Adam at a learning rate of 1.2e-3 on batches of 60, at one of two sizes:
"quick" (each script's own, minutes on two CPU cores) and "paper" (that of the thesis).

Exit codes: 0 when the figures are there; 75 (EX_TEMPFAIL of sysexits.h) when `--budget` ended the
call before all was trained: the same command goes on where it stopped.

Reference: Frankle's thesis, chapter 3; the numbers beside the measured ones are from Tables 4.1
and 4.2, which train the same network with the same settings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import matplotlib
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from jaxticket.plots.style import branch_order

STARTED = time.monotonic()
BUDGET_OVER = 75
PUBLISHED = Path(__file__).resolve().parents[1] / "results" / Path(__file__).resolve().parent.name

# Tables 4.1 and 4.2 of the thesis, LeNet-300-100 on MNIST, in percent
THESIS_DENSITY = 0.035
THESIS = {"dense": 98.3, "ticket": 98.2, "reinit": 97.5, "random": 96.7}

# chapter 3 draws new weights for its globally random networks (footnote 10)
SHOWN_AS = {"globally_permuted": "random"}


@dataclasses.dataclass(frozen=True)
class Size:
    """How large an experiment is; `Settings` describes the fields."""

    seeds: int
    levels: int
    fraction: float
    steps: int
    eval_every: int
    share: float = 1.0
    eval_train_examples: int = 10_000


PAPER = Size(seeds=5, levels=22, fraction=0.2, steps=24_000, eval_every=2_400)
# 36% is two steps of 20% at once, 48.8% three
QUICK = Size(3, 10, 0.36, 600, 150, share=0.1, eval_train_examples=2_000)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of every script. The size is that of the preset where an option is not given."""

    preset: Literal["quick", "paper"] = "quick"
    """quick: a few minutes on a CPU. paper: the size of the thesis."""
    folder: Path | None = None
    """Where results go, and where a run that was stopped goes on; results/NAME-HASH by default."""
    data: str = "mnist"
    """mnist, digits, ... or the path of an .npz file or image folder."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets."""
    budget: float | None = None
    """Minutes after which this call saves and ends with exit code 75; it goes on next time."""
    publish: bool = False
    """Also put figures, final accuracies, settings and machine into experiments/results/."""
    margin: float = 0.002
    """A ticket is matching at the dense accuracy minus this share (at least one test image)."""
    seeds: int | None = None
    """Seeds 0, 1, ..., trained side by side."""
    levels: int | None = None
    """How often to prune."""
    fraction: float | None = None
    """Share of the remaining weights that each level prunes."""
    steps: int | None = None
    """Training steps of each network."""
    eval_every: int | None = None
    """Steps between evaluations."""
    share: float | None = None
    """Share of the training examples to use."""
    eval_train_examples: int | None = None
    """Evaluate at most so many training examples."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A script's work: what to train, at which size, and where it is kept."""

    name: str
    settings: Settings
    size: Size
    data: jt.data.Data
    net: jt.Network
    folder: Path
    over: threading.Event

    @property
    def training(self) -> jt.Training:
        """How each network is trained, but for the size with the thesis's settings."""
        return jt.Training(
            steps=self.size.steps,
            batch_size=60,
            optimizer="adam",
            lr=1.2e-3,
            eval_every=min(self.size.eval_every, self.size.steps),
            eval_train_examples=self.size.eval_train_examples,
        )

    @property
    def about(self) -> dict[str, Any]:
        """The settings that say what was trained, as values for JSON."""
        return {
            "network": "LeNet-300-100",
            "data": self.data.name,
            "training_examples": len(self.data.train),
            "fingerprint": self.data.fingerprint,
            **dataclasses.asdict(self.size),
        }


def prepare(
    name: str, settings: Settings, *, quick: Size = QUICK, paper: Size = PAPER, held_out: float = 0
) -> Job:
    """Settles the size, loads the data and names the folder.

    Args:
      name: the script's name.
      settings: what the user asked for.
      quick, paper: the script's two sizes.
      held_out: share of the training examples to hold out as validation split.
    """
    jt.cpu_devices()
    matplotlib.use("Agg")
    if settings.budget is not None and settings.budget <= 0:
        raise ValueError(f"`budget` must be above 0 minutes, got {settings.budget}")
    size = quick if settings.preset == "quick" else paper
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Size)}
    size = dataclasses.replace(size, **{k: v for k, v in given.items() if v is not None})
    data = jt.data.load(settings.data, data_dir=settings.data_dir)
    if size.share != 1:
        data = data.fraction(size.share)
    if held_out and data.validation is None:
        data = data.with_validation(held_out)
    net = jt.networks.lenet(data.shape, data.classes)
    job = Job(name, settings, size, data, net, Path(), threading.Event())
    chosen = jt.results.run_name(f"{name}-{data.name}", job.about)
    return dataclasses.replace(job, folder=settings.folder or Path("results") / chosen)


@contextlib.contextmanager
def budget(job: Job) -> Iterator[None]:
    """Ends the training inside the block when the time is over, counted from the script's start.

    SIGTERM makes a run save after the chunk under way and raise SystemExit(143); between runs, the
    handler set here raises it at once. A later call finds all that was saved.
    """
    minutes = job.settings.budget

    def stop() -> None:
        job.over.set()
        os.kill(os.getpid(), signal.SIGTERM)

    def leave(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    timer, before = None, None
    try:
        if minutes is not None:
            before = signal.signal(signal.SIGTERM, leave)
            timer = threading.Timer(max(0.0, 60 * minutes - (time.monotonic() - STARTED)), stop)
            timer.daemon = True
            timer.start()
        yield
    except SystemExit as error:
        _count_seconds(job.folder)
        if error.code == 128 + signal.SIGTERM and job.over.is_set():
            print("budget over; saved; run the same command to continue", flush=True)
            raise SystemExit(BUDGET_OVER) from None
        raise
    finally:
        if timer is not None:
            timer.cancel()
            signal.signal(signal.SIGTERM, before)


def _on_time(job: Job) -> None:
    """Ends the call where the budget was over just as a run ended, before another one starts."""
    if job.over.is_set():
        raise SystemExit(128 + signal.SIGTERM)


def search(job: Job, *, branches: Sequence[str] = (), sub: str = "", **pruning: Any) -> jt.Runs:
    """Iterative magnitude pruning at the job's size, in the job's folder or one below it."""
    _on_time(job)
    return jt.find_tickets(
        job.net,
        job.data,
        job.training,
        jt.Pruning(levels=job.size.levels, fraction=job.size.fraction, **pruning),
        seeds=range(job.size.seeds),
        branches=branches,
        folder=job.folder / sub,
    )


def retrain(job: Job, runs: jt.Runs, change: str, **options: Any) -> jt.Runs:
    """`jt.branch` within the budget."""
    _on_time(job)
    return jt.branch(runs, change, **options)


def renamed(table: Any, names: Mapping[str, str] = SHOWN_AS) -> Any:
    """The table with other names of branches."""
    return table.assign(branch=table["branch"].replace(names))


def report(job: Job, table: Any) -> None:
    """Prints final test accuracies by density, and those of the thesis beside the nearest level."""
    table = renamed(table)
    rows = jt.speed.matching(table, margin=job.settings.margin, test_size=len(job.data.test))
    looks = jt.plots.branch_styles(branch_order(rows["branch"].unique(), None))
    rows = rows.set_index(["level", "branch"]).sort_index()
    print(f"\nfinal test accuracy in %, mean (min to max) over {_seeds(job)}")
    print(
        f"{'density':>8}" + "".join(f"{look.label:>25}" for look in looks.values()) + "  matching"
    )
    densities = rows.xs("ticket", level="branch")["density"]
    for level, density in densities.items():
        cells = "".join(f"{_cell(rows.loc[(level, name)]):>25}" for name in looks)
        enough = [name for name in looks if level and rows.loc[(level, name)]["matching"]]
        print(f"{100 * density:7.2f}%{cells}  {', '.join(enough) if level else '(dense)'}")
    nearest = min(densities.index, key=lambda n: abs(math.log(densities[n] / THESIS_DENSITY)))
    print(f"\n{'':24}{f'here, {100 * densities[nearest]:.2g}% of weights':>25}  thesis, 3.5%")
    print(f"{'dense':24}{_cell(rows.loc[(0, 'ticket')], 2):>25}  {THESIS['dense']:12.1f}")
    for name in (name for name in THESIS if name in looks):
        cell = _cell(rows.loc[(nearest, name)], 2)
        print(f"{looks[name].label:24}{cell:>25}  {THESIS[name]:12.1f}")
    if job.size != PAPER or job.data.name != "mnist":
        print("(the thesis trains for 24,000 steps on all 60,000 examples of MNIST, with 5 seeds)")


def _seeds(job: Job) -> str:
    return f"{job.size.seeds} seed{'s' if job.size.seeds > 1 else ''}"


def _cell(row: Any, digits: int = 1) -> str:
    mean, low, high = (f"{100 * row[name]:.{digits}f}" for name in ("mean", "min", "max"))
    return f"{mean} ({low} to {high})"


def pair() -> tuple[Figure, Any]:
    """A figure of two panels; make it inside `jt.plots.style()`."""
    return pyplot.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")


def single() -> tuple[Figure, Any]:
    """A figure of one panel."""
    return pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")


def test_and_train(table: Any) -> Figure:
    """Final accuracy against density: test on the left, train on the right, one legend."""
    with jt.plots.style():
        figure, axes = pair()
        for ax, split in zip(axes, ("test", "train"), strict=True):
            jt.plots.accuracy(renamed(table), ax, split=split, legend=False)
        shared_legend(figure, axes)
    return figure


def shared_legend(figure: Figure, axes: Sequence[Any]) -> None:
    """One legend above all panels (below them stands the caption)."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            # how far a line goes below the axes differs between panels
            entries.setdefault(label.split(" (to ")[0], handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside upper center", ncols=len(entries)
    )


def save(
    job: Job,
    figures: Mapping[str, Figure],
    table: Any,
    *,
    tables: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Writes figures and small tables into the job's folder, and a copy of them if asked to.

    Args:
      job: the job.
      figures: by file name.
      table: the tidy table, of which final accuracies are kept.
      tables: further small tables by file name.
      more: further settings to write down.
    """
    small = {"final": _final(table), **(tables or {})}
    for figure in figures.values():
        jt.plots.caption(figure, _note(job, figure))
    _write(job.folder, job.folder / "figures", figures, small)
    seconds = _count_seconds(job.folder, finished=True)
    print(f"\nresults in {job.folder}")
    if job.settings.publish:
        target = PUBLISHED / _published_name(job, more or {})
        _write(target, target, figures, small)
        settings = {"script": job.name, "preset": job.settings.preset, **job.about, **(more or {})}
        settings["margin"] = job.settings.margin
        for name, value in (("settings", settings), ("environment", _machine() | seconds)):
            text = json.dumps(jt.results.plain(value), indent=1)
            (target / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"published in {target.relative_to(PUBLISHED.parents[2])}")
    for figure in figures.values():
        pyplot.close(figure)


def _note(job: Job, figure: Figure) -> str:
    """Where a figure's numbers come from, and how to read what it draws."""
    note = (
        f"{job.folder.name}: LeNet-300-100 on {job.data.name} ({len(job.data.train):,} training "
        f"examples), {_seeds(job)}, {job.size.steps:,} steps, "
        f"{100 * job.size.fraction:g}% pruned per level"
    )
    if any(ax.collections for ax in figure.axes):
        note += "; lines are means, bands go from the least to the greatest seed"
    if any(line.get_label() == "_exit" for ax in figure.axes for line in ax.lines):
        note += "; triangles on the x axis mark lines that go on below it"
    return note


def _final(table: Any) -> Any:
    """Final train, (validation) and test accuracies over the seeds, by branch and level."""
    parts = []
    for split in table["split"].unique():
        rows = jt.speed.over_seeds(jt.speed.final(table, split=split))
        parts.append(rows.assign(split=split))
    return jt.results.concat(parts).sort_values(["branch", "level", "split"], ignore_index=True)


def _write(
    folder: Path, pictures: Path, figures: Mapping[str, Figure], small: Mapping[str, Any]
) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(pictures / f"{name}.png", dpi=150)
    for name, table in small.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def _published_name(job: Job, more: Mapping[str, Any]) -> str:
    """SCRIPT-PRESET; other settings than the preset's get a hash, and so do not replace it."""
    name = f"{job.name}-{job.settings.preset}"
    usual = type(job.settings)()
    place = {"preset", "folder", "data_dir", "budget", "publish"}
    fields = {f.name for f in dataclasses.fields(job.settings)} - place
    if all(getattr(job.settings, field) == getattr(usual, field) for field in fields):
        return name
    return jt.results.run_name(name, {**job.about, **more, "margin": job.settings.margin})


def _count_seconds(folder: Path, *, finished: bool = False) -> dict[str, Any]:
    """Adds the time of this call to that of the calls before it, until the job is finished."""
    path = folder / "seconds.json"
    total = {"seconds": 0.0, "calls": 0, "finished": False}
    if path.exists():
        total = json.loads(path.read_text(encoding="utf-8"))
    if not total["finished"]:
        total["seconds"] = round(total["seconds"] + time.monotonic() - STARTED, 1)
        total = {**total, "calls": total["calls"] + 1, "finished": finished}
    # a run refuses to begin in a folder that holds other files
    if (folder / "settings.json").exists():
        path.write_text(json.dumps(total) + "\n", encoding="utf-8")
    return {"seconds": total["seconds"], "calls": total["calls"]}


def _machine() -> dict[str, Any]:
    """Processor, devices and versions; nothing that names the host."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
