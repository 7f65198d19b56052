"""The reproduction queue: runs at paper size in order of value, as many as the time allows.

Works on whatever device is there. Each call takes the runs that are not done in the order of the
list (`RUNS`), gives each the time that is left, and stops when it is over: what was trained is
saved, and the next call goes on there, after a crash or a kill too. A run that fails is reported
and the next one is taken; the next call tries it again, after all others.

Command:  python -m experiments.run_queue --minutes 25
          python -m experiments.run_queue --list
Makes:    queue.json (what is done), and for each run a folder and a log, in --results; the runs
          publish into experiments/results/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Entry = dict[str, Any]
"""What the queue knows of a run, as it is in its JSON file."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One command of the queue.

    Attributes:
      name: a short name, the beginning of its folder's.
      module: the script, such as "experiments.thesis_ch3.curves".
      options: its options.
      makes: what it reproduces.
      accelerator: further options where the device is a GPU or TPU.
      minutes: None for scripts that take --folder, and --budget, and go on where they stopped;
        others are started only when so many minutes are left.
    """

    name: str
    module: str
    options: tuple[str, ...]
    makes: str
    accelerator: tuple[str, ...] = ()
    minutes: float | None = None

    @property
    def key(self) -> str:
        """The name and a hash of the command: a run whose command was changed is another run."""
        words = json.dumps([self.module, self.options, self.accelerator])
        return f"{self.name}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _paper(script: str, preset: str, makes: str, *options: str, short: str | None = None) -> Run:
    stem = script.rpartition(".")[2]
    # the hardware's own products of float32: the thesis trained on TPUs, which have bfloat16 ones
    exact = ("--precision", "default")
    options = ("--preset", preset, "--size", "paper", *exact, "--publish", *options)
    return Run(f"{short or stem}-{preset}", f"experiments.{script}", options, makes)


_LENET = "lenet-mnist"
_RESNET20 = tuple(f"resnet20-cifar10{variant}" for variant in ("", "-low", "-warmup"))
_VGG16 = tuple(f"vgg16-cifar10{variant}" for variant in ("", "-low", "-warmup"))
# the steps around which tickets (500) and dense networks (2,000) become stable
_STEPS = ("--at", "0", "100", "250", "500", "1000", "2000", "4000")
_CONVS = tuple(f"conv{depth}-cifar10" for depth in (4, 6, 8))
_RESNET50 = "resnet50-imagenet"
_VGG19_CIFAR10 = "vgg19-cifar10-one_ticket"
_VGG19, _RESNET50_NET = (("--network", name) for name in ("vgg19", "resnet50"))
_HALVES = ("--among", "cifar10a", "cifar10b")
_CHAPTER_5 = (_RESNET20[0], _VGG16[0])
_EARLY = (
    ("at_initialization", "Figures 5-4, 5-6, 5-10 and 5-11"),
    ("by_step", "Figures 5-12 and 5-14"),
    ("ablations", "Figures 5-5 and 5-8"),
    ("after_training", "Figure 5-13"),
    ("variants", "Figures 5-7 and 5-9"),
)
_KD_LTS = ("lenet-mnist-kd_lts", "resnet20-cifar10-kd_lts", "vgg16-cifar10-kd_lts")
_DISTILLED = (
    ("accuracy", "Figures 3, 6 and Table 2", ()),
    ("accuracy", "Figures 2, 5, 23 and Table 3", ("--start", "late")),
    ("stability", "Figures 10 and 27", ()),
    ("layers", "Figure 28", ()),
    ("hamming", "Figure 4", ()),
    ("verdicts", "Figure 11 and Table 1", ()),
    ("adversarial", "Figure 13", ()),
    ("attacks", "Figure 20", ()),
)
# of networks that these scripts share
_LANDSCAPE = (("telemetry", "Figure 7"), ("landscape", "Figure 8"), ("surfaces", "Figure 9"))
_SNIP = ("vgg16", "vgg2_16", "wrn14_8", "wrn14_10", "wrn20_8")

_BENCHMARKS = (
    Run(
        "replicas",
        "experiments.benchmarks.replicas",
        ("--publish",),
        "which form of replicas is fast on this device: LeNet, ResNet-20, WRN-16-4",
        accelerator=("--replicas", "1", "4", "8", "16", "32", "64"),
        minutes=20,
    ),
    Run(
        "convolution",
        "experiments.benchmarks.convolution",
        ("--publish",),
        "table of convolutions: which form is fast on this device",
        accelerator=(
            *("--replicas", "1", "8", "--dtype", "bfloat16"),
            *("--forms", "chosen", "separate", "loop", "grouped", "products"),
        ),
        minutes=8,
    ),
    Run(
        "resnet20",
        "experiments.benchmarks.resnet20",
        ("--publish",),
        "images per second of ResNet-20 against Flax and PyTorch on the same device",
        accelerator=("--seeds", "1", "8", "32", "64", "--dtype", "bfloat16"),
        minutes=15,
    ),
)
_FAST = Run(
    "fast_cifar10",
    "experiments.own_networks.fast_cifar10",
    ("--batch-size", "1024", "--lr", "4.0", "--compute-dtype", "bfloat16", "--seeds", "8"),
    "tickets in a network that learns CIFAR-10 in seconds, beside controls",
    minutes=10,
)
RUNS = (
    *_BENCHMARKS,
    _FAST,
    *(
        _paper("thesis_ch4.table_4_2", preset, makes)
        for preset, makes in (
            (_RESNET20[0], "Tables 4.1 and 4.2, ResNet-20 standard; rewinding to 500 and 1000"),
            (_LENET, "Tables 4.1 and 4.2, LeNet"),
            (_RESNET20[1], "Tables 4.1 and 4.2, ResNet-20 low"),
            (_RESNET20[2], "Tables 4.1 and 4.2, ResNet-20 warmup"),
            (_VGG16[0], "Tables 4.1 and 4.2, VGG-16 standard; rewinding to 1000"),
            (_VGG16[1], "Tables 4.1 and 4.2, VGG-16 low"),
            (_VGG16[2], "Tables 4.1 and 4.2, VGG-16 warmup"),
        )
    ),
    _paper(
        "thesis_ch4.dense",
        _RESNET20[0],
        "Figures 4-2 to 4-12, dense ResNet-20",
        *_STEPS,
    ),
    _paper(
        "thesis_ch4.tickets",
        _RESNET20[0],
        "Figures 4-14 to 4-17, ResNet-20 tickets at 16.8%",
        *_STEPS,
        "--no-all-levels",
    ),
    *(
        _paper(f"thesis_ch4.{script}", preset, f"{figures}, {preset}")
        for preset in (_LENET, _VGG16[0], *_RESNET20[1:], *_VGG16[1:])
        for script, figures in (
            ("dense", "Figures 4-2 to 4-12, 4-31 and 4-32"),
            ("tickets", "Figures 4-13 to 4-30 and 4-33"),
        )
    ),
    *(
        _paper(f"thesis_ch3.{script}", _LENET, f"{figures}, the LeNet panel")
        for script, figures in (
            ("curves", "Figures 3-1 and 3-2"),
            ("one_shot", "Figure 3-3"),
            ("lrr_and_random", "Figure 3-5"),
            ("ablations", "Figure 3-7"),
            ("early_stopping", "Figure 3-8"),
            ("dilation", "Figure 3-9"),
        )
    ),
    *(
        _paper(f"thesis_ch3.{script}", preset, f"{figures}, {preset}")
        for script, figures in (
            ("ablations", "Figure 3-7"),
            ("lrr_and_random", "Figures 3-5 and 3-6"),
            ("one_shot", "Figures 3-3 and 3-4"),
        )
        for preset in (*_RESNET20, *_CONVS, *_VGG16)
    ),
    *(_paper("thesis_ch3.early_stopping", preset, f"Figure 3-8, {preset}") for preset in _CONVS),
    _paper("one_ticket.global_and_layerwise", _VGG19_CIFAR10, "One ticket, Fig. 1"),
    _paper("one_ticket.random_masks", _VGG19_CIFAR10, "One ticket, Fig. A1"),
    *(
        Run(
            f"{short}-{network}",
            f"experiments.one_ticket.{script}",
            (*options, "--size", "paper", "--precision", "default", "--publish"),
            f"One ticket, {makes}",
        )
        for network, script, short, options, makes in (
            ("vgg19", "data_sets", "halves", (*_VGG19, *_HALVES), "Fig. 2, VGG-19"),
            ("vgg19", "optimizers", "optimizers", ("--preset", _VGG19_CIFAR10), "Fig. 5"),
            ("vgg19", "data_sets", "data_sets", _VGG19, "Fig. 3, the data sets in memory"),
            ("resnet50", "data_sets", "halves", (*_RESNET50_NET, *_HALVES), "Fig. 2, ResNet-50"),
            ("resnet50", "data_sets", "data_sets", _RESNET50_NET, "Fig. 4, those in memory"),
        )
    ),
    # chapter 5 and the leaderboard
    *(
        _paper(f"thesis_ch5.{script}", preset, f"{figures}, {preset}", short=f"ch5_{script}")
        for preset in _CHAPTER_5
        for script, figures in _EARLY
    ),
    _paper("thesis_ch6.dynamic_imp", _RESNET20[0], "Algorithm 5", short="ch6_dynamic_imp"),
    _paper("leaderboard", _RESNET20[0], "accuracy, cost and controls of every method"),
    # of its accuracies some are printed: the script compares with them
    _paper(
        "mask_rules.rigl_reference",
        "wrn22_2-cifar10-rigl",
        "RigL's accuracies on CIFAR-10, static and at twice the length too",
        "--longer",
    ),
    _paper("mask_rules.figure_5_1", _RESNET20[0], "Figure 5-1 measured, ResNet-20"),
    *(
        _paper("thesis_ch5.replication", f"{network}-cifar10-grasp", "sections 5.3.5 and 5.4.4")
        for network in ("wrn32_2", "vgg19")
    ),
    *(
        _paper("thesis_ch5.replication", f"{network}-cifar10-snip", "section 5.3.4")
        for network in _SNIP
    ),
    *(
        _paper("thesis_ch5.replication", preset, "Table 5.2")
        for preset in (
            *(f"{network}-cifar10-synflow" for network in ("vgg11", "vgg16", "resnet18")),
            "resnet18-cifar10-synflow_tuned",
        )
    ),
    *(
        _paper(
            "thesis_ch5.at_initialization",
            f"{network}-cifar10-synflow",
            "Figure 5-3",
            *("--fraction", "0.5"),
        )
        for network in ("vgg11", "vgg16")
    ),
    # learned masks
    *(
        _paper(f"concrete.{script}", f"{network}-cifar10-cts", f"CTS, {figure}", short=short)
        for network in ("resnet20", "vgg16")
        for script, figure, short in (
            ("accuracy", "Figure 2 and the headline", "cts_accuracy"),
            ("sanity", "Figures 4 and 5", "cts_sanity"),
            ("objectives", "Figure 3", "cts_objectives"),
            ("balance", "GradBalance against a multiplier", "cts_balance"),
        )
    ),
    _paper("concrete.saliency", "vgg16-cifar10-cts", "CTS, Figure 1", short="cts_saliency"),
    *(
        _paper("supermasks.accuracy", preset, "KD-LTS, Figure 22", short="supermasks")
        for preset in (_LENET, _RESNET20[0], _VGG16[0])
    ),
    # KD-LTS
    *(
        _paper(
            f"kd_lts.{script}",
            preset,
            f"KD-LTS, {figures}",
            *options,
            short=f"kd_{script}{'_late' if options else ''}",
        )
        for preset in _KD_LTS
        for script, figures, options in _DISTILLED
    ),
    _paper("kd_lts.transfer", _KD_LTS[0], "KD-LTS, Figure 21, LeNet", short="kd_transfer"),
    _paper(
        "kd_lts.transfer",
        _KD_LTS[1],
        "KD-LTS, Figure 21",
        "--to-data",
        "cifar100",
        short="kd_transfer",
    ),
    _paper(
        "kd_lts.transfer",
        "resnet20-cifar100-kd_lts",
        "KD-LTS, Figure 21, from CIFAR-100",
        *("--kinds", "data", "--to-data", "cifar10"),
        short="kd_transfer",
    ),
    *(
        _paper(
            f"kd_lts.{script}",
            "resnet20-cifar100-kd_lts",
            f"KD-LTS, {figure}, CIFAR-100",
            short=f"kd_{script}",
        )
        for script, figure in (
            ("accuracy", "Figure 3"),
            ("adversarial", "Figure 13"),
            ("attacks", "Figure 20"),
            ("distribution_shifts", "Figure 32"),
        )
    ),
    _paper(
        "kd_lts.distribution_shifts",
        _KD_LTS[1],
        "KD-LTS, Figure 16",
        short="kd_distribution_shifts",
    ),
    *(
        _paper(f"kd_lts.{script}", _KD_LTS[1], f"KD-LTS, {figure}", short=f"kd_{script}")
        for script, figure in _LANDSCAPE
    ),
    _paper("kd_lts.activations", _KD_LTS[2], "KD-LTS, Figures 19 and 26", short="kd_activations"),
    _paper("kd_lts.ablations", _KD_LTS[0], "KD-LTS, Figure 15", short="kd_ablations"),
    _paper(
        "kd_lts.distilled", "resnet50-cifar10-kd_lts", "KD-LTS, appendix D", short="kd_distilled"
    ),
    # these stream ImageNet, or hold Tiny-ImageNet, which have to be prepared first
    _paper(
        "kd_lts.accuracy",
        "resnet18-tiny_imagenet-kd_lts",
        "KD-LTS, Figure 3 and Table 2, Tiny-ImageNet",
        short="kd_accuracy",
    ),
    *(
        _paper(f"thesis_ch4.{script}", _RESNET50, f"{figures}, ResNet-50 on ImageNet")
        for script, figures in (
            ("table_4_2", "Tables 4.1 and 4.2"),
            ("dense", "Figures 4-2 to 4-12"),
            ("tickets", "Figures 4-13 to 4-30"),
        )
    ),
    *(
        _paper(f"thesis_ch5.{script}", preset, f"{figures}, {preset}", short=f"ch5_{script}")
        for preset in ("resnet18-tiny_imagenet", f"{_RESNET50}-early")
        for script, figures in _EARLY
    ),
    *(
        _paper("thesis_ch5.replication", preset, sections)
        for preset, sections in (
            ("resnet18-tiny_imagenet-synflow", "Table 5.2"),
            (f"{_RESNET50}-grasp", "section 5.3.5"),
        )
    ),
    # twenty dilations of every level: the dearest figure comes last
    *(
        _paper("thesis_ch3.dilation", preset, f"Figure 3-9, {preset}")
        for preset in (*_CONVS, *_RESNET20, *_VGG16)
    ),
)
"""All runs; those that are done or failed are remembered by `Run.key`."""

ROOT = Path(__file__).resolve().parents[1]
UNFINISHED = 75
# after these a run saved what it had: SIGTERM, as a status of the process and as its exit code
STOPPED = (UNFINISHED, -signal.SIGTERM, 128 + signal.SIGTERM)
STATE = "queue.json"
# of a budgeted run, beyond its budget: the piece of training under way, tables and figures
GRACE = 3.0


def read(results: Path) -> dict[str, Entry]:
    """Read the state of the runs, by `Run.key`.

    Raises:
      ValueError: if the file is not what `write` wrote.
    """
    path = results / STATE
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not all(entry["state"] in ("done", "part", "failed") for entry in known.values()):
            raise ValueError("unknown state")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"`results`: {path} cannot be read ({error}); move it away") from error
    return known


def write(results: Path, known: Mapping[str, Entry]) -> None:
    """Write the state, whole at any moment."""
    results.mkdir(parents=True, exist_ok=True)
    new = results / f"{STATE}.new"
    new.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    new.replace(results / STATE)


def state_of(run: Run, known: Mapping[str, Entry]) -> str:
    """Give the state of a run: "done", "part", "failed" or "open"."""
    return known.get(run.key, {}).get("state", "open")


def table(runs: Sequence[Run], known: Mapping[str, Entry]) -> str:
    """Give the runs as lines of text: state, minutes so far, name, what it makes."""
    lines = [f"{'state':>6} {'minutes':>8}  {'run':<44} makes"]
    for run in runs:
        spent = known.get(run.key, {}).get("minutes")
        minutes = "-" if spent is None else f"{spent:.1f}"
        lines.append(f"{state_of(run, known):>6} {minutes:>8}  {run.name:<44} {run.makes}")
    states = [state_of(run, known) for run in runs]
    counts = ", ".join(f"{states.count(s)} {s}" for s in ("done", "part", "failed", "open"))
    return "\n".join([*lines, f"{len(runs)} runs: {counts}"])


def platform() -> str:
    """Ask another process for JAX's platform, so that this one holds no memory of the device."""
    code = "import jax; print(jax.devices()[0].platform)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"JAX finds no device: {done.stderr.strip()[-500:]}")
    return done.stdout.split()[-1]


def command(
    run: Run, folder: Path, left: float, *, accelerated: bool, more: Sequence[str] = ()
) -> list[str]:
    """Give the command line of a run.

    Args:
      run: the run.
      folder: where it keeps its results.
      left: minutes that it may take.
      accelerated: whether the device is a GPU or TPU.
      more: options of the user's, for runs that take a budget.
    """
    words = [sys.executable, "-m", run.module, *run.options]
    words += run.accelerator if accelerated else ()
    if run.minutes is None:
        words += [*more, "--folder", str(folder), "--budget", f"{left:.4g}"]
    return words


def work(
    runs: Sequence[Run],
    results: Path,
    minutes: float,
    *,
    least: float = 1.0,
    accelerated: bool = False,
    more: Sequence[str] = (),
) -> dict[str, str]:
    """Run what fits into the minutes.

    Args:
      runs: in order of value.
      results: where the state, the logs and the results are.
      minutes: in which nothing more is started once they are over.
      least: minutes below which no run is started: each compiles first.
      accelerated: whether there is an accelerator, see `command`.
      more: further options of every script.

    Returns:
      The state of each run that was started, by its name.

    Raises:
      ValueError: if `minutes` is not above 0, or the state cannot be read.
    """
    if not minutes > 0:
        raise ValueError(f"`minutes` must be above 0, got {minutes}")
    end = time.monotonic() + 60 * minutes
    known = read(results)
    waiting = [run for run in runs if state_of(run, known) != "done"]
    # what failed last time comes after all that has not
    waiting.sort(key=lambda run: state_of(run, known) == "failed")
    outcome = {}
    for run in waiting:
        left = (end - time.monotonic()) / 60
        if left < max(least, run.minutes or 0):
            if left < least:
                break
            print(f"{run.name}: needs {run.minutes:g} minutes, {left:.1f} are left", flush=True)
            continue
        entry = known.get(run.key, {"minutes": 0.0, "calls": 0})
        entry |= {"name": run.name, "state": "part", "calls": entry["calls"] + 1}
        known[run.key] = entry
        # before it starts: after a crash of the machine it is still known to be under way
        write(results, known)
        log = results / f"{run.key}.log"
        words = command(run, results / run.key, left, accelerated=accelerated, more=more)
        print(f"{run.name}: {left:.1f} minutes left, log in {log}", flush=True)
        began = time.monotonic()
        try:
            code = call(words, log, 60 * (left + GRACE))
        finally:
            entry["minutes"] = round(entry["minutes"] + (time.monotonic() - began) / 60, 2)
            write(results, known)
        stopped = code in STOPPED and run.minutes is None
        entry["state"] = "done" if code == 0 else "part" if stopped else "failed"
        entry["code"] = code
        write(results, known)
        outcome[run.name] = entry["state"]
        print(f"{run.name}: {_in_words(entry, log)}", flush=True)
    return outcome


def call(words: Sequence[str], log: Path, seconds: float) -> int:
    """Run a command with its output added to a log; ends it when its time is over.

    It gets SIGTERM, after which a run saves; so it does when this process gets one itself. A
    minute later it is killed.
    """
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        child = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        with _passed_on(child):
            try:
                return child.wait(seconds)
            except subprocess.TimeoutExpired:
                return _ended(child)


@contextlib.contextmanager
def _passed_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass SIGTERM and Ctrl-C on to the child before they end this process."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except BaseException:
        _ended(child)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _ended(child: subprocess.Popen[bytes]) -> int:
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    try:
        return child.wait(60)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _in_words(entry: Entry, log: Path) -> str:
    if entry["state"] == "done":
        return f"done after {entry['minutes']:.1f} minutes in {entry['calls']} calls"
    if entry["state"] == "part":
        return "saved; the next call goes on with it"
    end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
    return "\n    ".join([f"failed with exit code {entry['code']}; the log ends with", *end])


def main(
    minutes: float | None = None,
    list: bool = False,
    results: Path = Path("results/queue"),
    only: str = "",
    least: float = 1.0,
    data_dir: str = "",
    data_note: str = "",
) -> None:
    """Work off the reproduction queue for a while, or list it.

    Args:
      minutes: How long to work; the last run saves and goes on next time.
      list: Show the state of every run instead.
      results: Where the state, the logs and the results of the runs are.
      only: Only runs with this in their name.
      least: Minutes below which no run is started.
      data_dir: Folder of prepared TFDS data sets.
      data_note: A remark on the data to print next to every number.
    """
    runs = [run for run in RUNS if only in run.name]
    if not runs:
        raise ValueError(f"`only`: no run has {only!r} in its name; see --list")
    # runs start at the top of the repository
    results = Path(os.path.abspath(results))
    if list or minutes is None:
        print(table(runs, read(results)))
        return
    more = ["--data-dir", os.path.abspath(data_dir)] if data_dir else []
    more += ["--data-note", data_note] if data_note else []
    work(runs, results, minutes, least=least, accelerated=platform() != "cpu", more=more)
    print(table(runs, read(results)))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
