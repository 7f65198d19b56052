"""What the scripts have in common: settings, data, the time budget, training.

A script prepares a job, trains inside `budget(job)`, then prints, draws and saves (`report.py`).
`--preset` names a setting of `jt.PRESETS`, `--size` says how large: "quick" (minutes on two CPU
cores), "reduced" (hours: all of the data, trained to a result that says something) or "paper" (that
of the source).

Exit codes: 0 when the figures are there; 2 for options that are wrong (the message says which); 75
(EX_TEMPFAIL of sysexits.h) when `--budget` ended the call before all was trained: the same command
goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib
import numpy as np
import pandas as pd
import tyro

import jaxticket as jt
from experiments.common.sizes import FASTER, Size, few_epochs, paper_size, quick_size, reduced_size
from jaxticket._files import write_text
from jaxticket.presets import Preset
from jaxticket.sparsify.learned import Method

STARTED = time.monotonic()
Options = TypeVar("Options")
USAGE = 2
"""Exit code after a wrong option, as that of unknown ones."""

NETWORKS = {
    "lenet": "LeNet-300-100",
    "conv2": "Conv-2",
    "conv4": "Conv-4",
    "conv6": "Conv-6",
    "conv8": "Conv-8",
    "resnet14": "ResNet-14",
    "resnet20": "ResNet-20",
    "resnet50": "ResNet-50",
    "resnet18": "ResNet-18",
    "vgg11": "VGG-11",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
    "vgg2_16": "VGG2-16",
    "wrn14_8": "WRN-14-8",
    "wrn14_10": "WRN-14-10",
    "wrn20_8": "WRN-20-8",
    "wrn32_2": "WRN-32-2",
    "wrn22_2": "WRN-22-2",
    "wrn16_4": "WRN-16-4",
    "vgg19_one_ticket": "VGG-19",
}
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}


def size_of(
    preset: Preset,
    settings: Settings,
    *,
    quick: Mapping[str, object] | None = None,
    lenet: Mapping[str, object] | None = None,
    reduced: Mapping[str, object] | None = None,
    paper: Mapping[str, object] | None = None,
) -> Size:
    """Give the size of a job; arguments as of `prepare`."""
    if settings.size == "quick":
        size = quick_size(preset, quick or {}, lenet or {})
    elif settings.size == "reduced":
        size = reduced_size(preset, reduced or {})
    else:
        size = paper_size(preset, paper or {})
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(Size)}
    return dataclasses.replace(size, **{k: v for k, v in given.items() if v is not None})


def pooled(data: jt.data.Data, pool: int) -> jt.data.Data:
    """Average images over squares of pixels.

    Raises:
      ValueError: where squares do not fit the images.
    """
    height, width = data.shape[:2]
    if pool < 1 or height % pool or width % pool:
        raise ValueError(f"`pool` must divide images of {height} x {width}, got {pool}")

    def small(x: np.ndarray) -> np.ndarray:
        squares = x.reshape(len(x), height // pool, pool, width // pool, pool, -1)
        means = squares.mean(axis=(2, 4))
        whole = np.issubdtype(x.dtype, np.integer)
        return (np.rint(means) if whole else means).astype(x.dtype)

    arrays = (small(data.train.x), data.train.y, small(data.test.x), data.test.y)
    made = jt.data.from_arrays(*arrays, name=f"{data.name} pooled {pool}", classes=data.classes,
                                 normalize=data.normalize)  # fmt: skip
    steps = [*data.about.get("steps", []), {"step": "pooled", "pool": pool}]
    made = dataclasses.replace(made, about={**data.about, "steps": steps})
    if data.validation is None:
        return made
    held = dataclasses.replace(data.validation, x=small(data.validation.x))
    return dataclasses.replace(made, validation=held)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of every script. The size is that of `size` where an option is not given."""

    preset: str = "lenet-mnist"
    """Network, data and training: a name that `python -m jaxticket presets` lists."""
    size: Literal["quick", "reduced", "paper"] = "quick"
    """quick: a few minutes on a CPU. reduced: hours, on all of the data. paper: the source's."""
    folder: Path | None = None
    """Where results go, and where a run that was stopped goes on; results/NAME-HASH by default."""
    data: str | None = None
    """Other data than the preset's: mnist, ... or the path of an .npz file or image folder."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets."""
    lr: float | None = None
    """Learning rate of training, instead of the preset's."""
    data_note: str = ""
    """A remark on the data to print next to every number, such as "JPEG re-encoded"."""
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
    """Training steps of each network; the schedule shrinks in proportion."""
    eval_every: int | None = None
    """Steps between evaluations."""
    share: float | None = None
    """Share of the training examples to use."""
    width: float | None = None
    """Factor of all channels and hidden units."""
    eval_train_examples: int | None = None
    """Evaluate at most so many training examples."""
    batch_size: int | None = None
    """Examples per step."""
    test_examples: int | None = None
    """Use only the first so many test examples."""
    pool: int | None = None
    """Images are averaged over so many by so many pixels."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of products of float32; "default" is the hardware's own."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A script's work: what to train, at which size, and where it is kept.

    Its methods are the functions of `jaxticket` at that size, in the job's folder or one below it
    (`sub`), within the time budget.
    """

    name: str
    paper: str
    settings: Settings
    preset: Preset
    size: Size
    data: jt.data.Data | jt.data.Stream
    net: jt.Network
    folder: Path

    @property
    def run(self) -> str:
        """The name of what is run, of the script, the preset and a hash of the settings."""
        return jt.results.run_name(f"{self.name}-{self.preset.name}", self.about)

    @property
    def training(self) -> jt.Training:
        """How each network is trained, but for the size with the preset's settings."""
        usual = self.preset.training
        if self.size.pool > 1 and any(name in ("crop", "shift") for name in usual.augment):
            # images that were made smaller move less
            usual = usual.replace(augment_pixels=max(1, usual.augment_pixels // self.size.pool))
        # `dilated` also where nothing changes: that keeps every number as it is
        return usual.dilated(self.size.steps / usual.steps).replace(
            steps=self.size.steps,
            batch_size=self.size.batch_size or usual.batch_size,
            eval_every=min(self.size.eval_every, self.size.steps),
            eval_train_examples=self.size.eval_train_examples,
            compute_dtype=self.settings.compute_dtype,
            precision=self.settings.precision,
        )

    @property
    def late(self) -> int:
        """The preset's rewind step, shrunk like the schedule; 0 where it rewinds the rate."""
        usual = self.preset
        shrunk = round(usual.pruning.rewind_step * self.size.steps / usual.training.steps)
        if self.settings.size == "reduced" and shrunk:
            # in few epochs less would be before the rate has risen at all
            return max(shrunk, round(0.02 * self.size.steps))
        return shrunk

    @property
    def densities(self) -> tuple[float, ...]:
        """The densities of all levels but level 0, which is dense."""
        ladder = jt.densities(self.size.levels, self.size.fraction)
        return tuple(float(density) for density in ladder[1:])

    @property
    def network_name(self) -> str:
        """The network in words."""
        known = str(self.preset.network)
        narrow = "" if self.size.width == 1 else f" of width {self.size.width:g}"
        return NETWORKS.get(known, known) + narrow

    @property
    def data_name(self) -> str:
        """The data in words, with the remark that belongs next to every number."""
        own = self.settings.data is None
        name = DATA.get(self.preset.data, self.preset.data) if own else self.data.name
        if self.size.pool != 1:
            name += f" at {self.data.shape[0]} x {self.data.shape[1]} pixels"
        return f"{name}, {self.settings.data_note}" if self.settings.data_note else name

    @property
    def about(self) -> dict[str, object]:
        """The settings that say what was trained, as values for JSON."""
        return {
            "network": json.loads(self.net.config),
            "data": self.data.name,
            "training_examples": len(self.data.train),
            "test_images": len(self.data.test),
            "fingerprint": self.data.fingerprint,
            # whole images are the rule, and runs from before there was a choice keep their names
            **{k: v for k, v in dataclasses.asdict(self.size).items() if (k, v) != ("pool", 1)},
            "training": jt.results.plain(self.training),
        }

    def _runtime(self, sub: str | None = None) -> jt.Runtime:
        """Give the time that is left, and the job's folder or one below it.

        Args:
          sub: the folder below; None for that of the runs that are gone on with.

        Raises:
          RunInterrupted: where the budget was over just as a run ended, before another starts.
        """
        folder, left = None if sub is None else self.folder / sub, None
        if self.settings.budget is not None:
            left = 60 * self.settings.budget - (time.monotonic() - STARTED)
            if left <= 0:
                raise jt.RunInterrupted(self.folder, 0)
        # scripts that look at the same networks wait for one another
        return jt.Runtime(folder=folder, time_budget=left, wait=3600)

    def find_tickets(
        self,
        *,
        branches: Sequence[str] = (),
        sub: str = "",
        keep: Literal["trained"] | None = None,
        **pruning: Any,
    ) -> jt.Runs:
        """Run `jt.find_tickets` at the job's size, in its folder or one below it.

        Tickets are rewound to step 0 where `pruning` does not say otherwise, whatever the preset
        has.
        """
        usual = {"levels": self.size.levels, "fraction": self.size.fraction, "rewind": 0}
        asked = self.preset.pruning.replace(**{**usual, "one_shot": False, **pruning})
        return jt.find_tickets(
            self.net,
            self.data,
            self.training,
            asked,
            branches=branches,
            keep=keep,
            **self._kept(sub),
        )

    def prune_at(self, score: Any, *, sub: str = "", **options: Any) -> Any:
        """Run `jt.prune_at` to the densities of the job's levels, by default at initialization."""
        usual = {"score": score, "density": self.densities, **self._kept(sub)}
        return jt.prune_at(self.net, self.data, self.training, **{**usual, **options})

    def dynamic_imp(self, changes: Sequence[int], *, sub: str = "", **options: Any) -> jt.Runs:
        """Run `jt.dynamic_imp` at the densities of the job's levels."""
        usual = {"density": self.densities, "changes": changes, **self._kept(sub)}
        return jt.dynamic_imp(self.net, self.data, self.training, **{**usual, **options})

    def sparse_train(
        self, rule: Any, *, sub: str = "", training: jt.Training | None = None, **options: Any
    ) -> jt.Runs:
        """Run `jt.sparse_train` at the densities of the job's levels; `training` if not its own."""
        usual = {"density": self.densities, **self._kept(sub)}
        training = self.training if training is None else training
        return jt.sparse_train(self.net, self.data, training, rule, **{**usual, **options})

    def search(self, method: Method, *, sub: str = "", **options: Any) -> jt.Runs:
        """Run `jt.search` at the densities of the job's levels."""
        usual = {"density": self.densities, **self._kept(sub)}
        return jt.search(self.net, self.data, self.training, method, **{**usual, **options})

    def branch(
        self, runs: jt.Runs, change: str | Callable[..., jt.Ticket], **options: Any
    ) -> jt.Runs:
        """Run `jt.branch` on runs of this job."""
        return jt.branch(runs, change, runtime=self._runtime(), **options)

    def transfer(self, runs: jt.Runs, *, sub: str, **options: Any) -> jt.Runs:
        """Run `jt.transfer`, in a folder below the job's, which is the target's."""
        return jt.transfer(runs, runtime=self._runtime(sub), **options)

    def measure(self, runs: jt.Runs, probe: Any, **options: Any) -> pd.DataFrame:
        """Run `jt.measure` on runs of this job; its tables lie in the folder of the runs."""
        return jt.measure(runs, probe, runtime=self._runtime(), **options)

    def telemetry(self, runs: jt.Runs, **options: Any) -> pd.DataFrame:
        """Run `jt.telemetry` on runs of this job; its tables lie in the folder of the runs."""
        return jt.telemetry(runs, runtime=self._runtime(), **options)

    def surface(self, runs: jt.Runs, **options: Any) -> pd.DataFrame:
        """Run `jt.surface` on runs of this job; its tables lie in the folder of the runs."""
        return jt.surface(runs, runtime=self._runtime(), **options)

    def verdict(self, runs: jt.Runs, **options: Any) -> jt.Verdict:
        """Run `jt.verdict` on runs of this job."""
        return jt.verdict(runs, runtime=self._runtime(), **options)

    def instability(self, *, sub: str = "", **options: Any) -> jt.Instability:
        """Run `jt.instability` on the job's networks."""
        usual = self._kept(sub)
        return jt.instability(self.net, self.data, self.training, **{**usual, **options})

    def _kept(self, sub: str) -> dict[str, Any]:
        """Give the seeds of a run, its folder and the time that is left for it."""
        return {"seeds": range(self.size.seeds), "runtime": self._runtime(sub)}


def prepare(
    script: str,
    settings: Settings,
    *,
    quick: Mapping[str, object] | None = None,
    lenet: Mapping[str, object] | None = None,
    reduced: Mapping[str, object] | None = None,
    paper: Mapping[str, object] | None = None,
    held_out: float = 0,
    network: Mapping[str, object] | None = None,
) -> Job:
    """Settle the size, load the data and name the folder.

    Args:
      script: `__file__` of the script.
      settings: what the user asked for.
      quick: what the script changes about the quick sizes.
      lenet: what it changes beyond that about the quick size of LeNet.
      reduced: what it changes about the reduced sizes.
      paper: what it changes about the paper's size.
      held_out: share of the training examples to hold out as validation split.
      network: options of the network's constructor that the script changes.

    Raises:
      ValueError: for a budget that is not above 0, an unknown preset, one without that size, and
        a part of streamed data.
    """
    jt.cpu_devices()
    matplotlib.use("Agg")
    if settings.budget is not None and not 0 < settings.budget < float("inf"):
        raise ValueError(f"`budget` must be above 0 minutes, got {settings.budget}")
    for name in ("seeds", "batch_size", "eval_train_examples", "test_examples", "pool"):
        if (value := getattr(settings, name)) is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    preset = jt.preset(settings.preset)
    if network:
        preset = dataclasses.replace(preset, options={**preset.options, **network})
    if settings.size == "reduced" and preset.network in FASTER:
        preset = dataclasses.replace(preset, training=few_epochs(preset))
    if settings.lr is not None:
        preset = dataclasses.replace(preset, training=preset.training.replace(lr=settings.lr))
    size = size_of(preset, settings, quick=quick, lenet=lenet, reduced=reduced, paper=paper)
    data = _loaded(preset, settings, size, held_out)
    net = preset.net(data)
    if size.width != 1:
        net = net.resized(size.width)
    path = Path(script).resolve()
    name, home = path.stem, path.parent.name
    job = Job(name, home, settings, preset, size, data, net, Path())
    return dataclasses.replace(job, folder=settings.folder or Path("results") / job.run)


def of_script(job: Job, script: str) -> Job:
    """Give the job of another script at the same size, so that its runs are not made twice.

    Where a folder was asked for, both scripts use it.
    """
    if job.settings.folder is not None:
        return job
    other = dataclasses.replace(job, name=script)
    return dataclasses.replace(other, folder=job.folder.with_name(other.run))


def _loaded(
    preset: Preset, settings: Settings, size: Size, held_out: float
) -> jt.data.Data | jt.data.Stream:
    """Load as much of the data as the size says, with a validation split where one is asked for.

    Raises:
      ValueError: for a part of streamed data, which come whole.
    """
    held_out = preset.validation or held_out
    if preset.image_size is not None:
        for name, full in {"share": 1.0, "test_examples": None, "pool": 1}.items():
            if (value := getattr(size, name)) != full:
                raise ValueError(
                    f"`{name}` must be left out where images are streamed from the host, as those "
                    f"of `preset` {preset.name!r} are, got {value!r}"
                )
        source = preset.data if settings.data is None else settings.data
        return dataclasses.replace(preset, data=source, validation=held_out).load(settings.data_dir)
    if settings.data is None:
        data = preset.load(settings.data_dir)
    else:
        data = jt.data.load(settings.data, data_dir=settings.data_dir)
    assert isinstance(data, jt.data.Data)
    if size.share != 1:
        data = data.fraction(size.share)
    if held_out and data.validation is None:
        data = data.with_validation(held_out)
    if size.test_examples is not None and size.test_examples < len(data.test):
        first = slice(0, size.test_examples)
        test = dataclasses.replace(data.test, x=data.test.x[first], y=data.test.y[first])
        data = dataclasses.replace(data, test=test)
    return data if size.pool == 1 else pooled(data, size.pool)


@contextlib.contextmanager
def budget(job: Job) -> Iterator[None]:
    """Count the seconds of runs inside the block that a signal or the budget stopped.

    Each run of the job is given the time that is left, counted from the script's start
    (`jt.Runtime.time_budget`), saves when it is over and raises `jt.RunInterrupted`.
    """
    try:
        yield
    except jt.RunInterrupted as stop:
        count_seconds(job.folder, job.name)
        if stop.signal:
            raise
        print("budget over; saved; run the same command to continue", flush=True)
        raise SystemExit(stop.exit_status) from None


def count_seconds(folder: Path, script: str, *, finished: bool = False) -> dict[str, object]:
    """Add the time of this call to that of the calls before it, until the job is finished."""
    # scripts may share a folder, and each has its own time
    path = folder / f"seconds-{script}.json"
    # a run refuses to begin in a folder that holds other files; once all is done none will begin
    home = folder.resolve()
    beside = home.with_name(f"{home.name}-{path.name}")
    inside = finished or (folder / "settings.json").exists()
    path, other = (path, beside) if inside else (beside, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if other.exists() and not path.exists():
        other.rename(path)
    total: dict[str, Any] = {"seconds": 0.0, "calls": 0, "finished": False}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            total = {name: type(value)(known[name]) for name, value in total.items()}
        except (ValueError, TypeError, KeyError) as error:
            warnings.warn(
                f"{path} is damaged ({error!r}): the seconds of earlier calls are not counted",
                stacklevel=2,
            )
    if not total["finished"]:
        total["seconds"] = round(total["seconds"] + time.monotonic() - STARTED, 1)
        total = {**total, "calls": total["calls"] + 1, "finished": finished}
    write_text(path, json.dumps(total) + "\n")
    return {"seconds": total["seconds"], "calls": total["calls"]}


def chosen(
    asked: Sequence[str] | None, usual: Iterable[str], known: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Give the methods to run: those that `--methods` asks for, or the usual ones.

    Args:
      asked: what the user gave, or None.
      usual: what the script runs by default.
      known: what it can run; the usual ones if None.

    Raises:
      ValueError: for a name that is not known, and for none.
    """
    usual = tuple(usual)
    known = usual if known is None else tuple(known)
    names = tuple(dict.fromkeys(usual if asked is None else asked))
    if unknown := [name for name in names if name not in known] or not names:
        raise ValueError(f"`methods` must be some of {', '.join(known)}, got {unknown or 'none'}")
    return names


def launch(
    main: Callable[[Options], None], settings: type[Options], doc: str | None = None
) -> None:
    """Call `main` with the options of the command line. Compiled programs are kept on disk.

    Errors of jaxticket's own kinds and those that begin with an argument in backticks are for the
    user: the message alone is printed. All others keep their traceback. A run that a signal stopped
    ends with the message and the exit status of that signal, 128 + its number.

    Args:
      main: what the script does.
      settings: the dataclass of its options.
      doc: the script's docstring, of which `--help` shows what stands before "Command:".
    """
    jt.compilation_cache()
    description = None if doc is None else doc.split("Command:")[0]
    # "python -m experiments.thesis_ch3.curves" in `--help`, where it was started so
    spec = sys.modules["__main__"].__spec__
    prog = None if spec is None else f"python -m {spec.name}"
    try:
        main(tyro.cli(settings, prog=prog, description=description))
    except jt.RunInterrupted as stop:
        print(f"\n{stop}", flush=True)
        raise SystemExit(stop.exit_status) from None
    except ValueError as error:
        ours = type(error).__module__.startswith("jaxticket.")
        if not ours and not str(error).startswith("`"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USAGE) from None
