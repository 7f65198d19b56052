"""Where and how runs are computed: devices, folder, saves, progress, signals.

`Runtime` is what a user chooses; `Run` is a run under way, which strategies and loops are given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypedDict, Unpack

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm.std import tqdm

from jaxticket import _files, _progress, _show, results
from jaxticket._check import flag, instance, number, or_none, path_or_none, settle, whole
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.blocks import Arrays as Arrays
from jaxticket.engine.blocks import Block, cut
from jaxticket.engine.learner import Learner, Plan
from jaxticket.engine.metrics import metric_names, split_names
from jaxticket.engine.program import OriginT, PlanT, Program, StateT, program
from jaxticket.engine.room import available, fitting
from jaxticket.engine.source import Source, put_data
from jaxticket.engine.store import Extends, RunFolder, agreed, by_first, on_first
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.labels import CLASSES, Labels
from jaxticket.settings import Training
from jaxticket.typing import Network, TrainState

Row = dict[str, str | int | float]
"""A row of `runs.table()`, by column."""

BUDGET_OVER = 75
"""Exit status of a run whose time is over: EX_TEMPFAIL, try again."""


class RunInterrupted(KeyboardInterrupt):
    """A signal, or a time budget, stopped a run, which saved first: the same call continues it.

    Attributes:
      folder: where the state is.
      signal: the number of the signal (SIGTERM or SIGINT); 0 where the time budget was over.
    """

    def __init__(self, folder: Path, signal: int) -> None:
        super().__init__(folder, signal)
        self.folder, self.signal = folder, signal

    def __str__(self) -> str:
        why = "by the time budget" if not self.signal else f"by {signal.Signals(self.signal).name}"
        return f"stopped {why}; saved in {self.folder}: run the same command to continue"

    @property
    def exit_status(self) -> int:
        """For shells: 128 + the signal, or 75 ("try again") where the time budget was over."""
        return 128 + self.signal if self.signal else BUDGET_OVER


class _Signals:
    """SIGTERM and SIGINT while a run saves into a folder: noted, and followed after a save."""

    def __init__(self) -> None:
        self.noted = 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch the signals inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _: object) -> None:
            if self.noted and number == signal.SIGINT:
                raise KeyboardInterrupt  # asked twice: stop at once
            self.noted = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclasses.dataclass
class _Resumption:
    """Where a run goes on that was begun before: said once, where the first work is done."""

    said: bool


@dataclasses.dataclass(frozen=True)
class Run(Generic[StateT, PlanT, OriginT]):
    """A run under way: where its networks are trained, saved and reported.

    Attributes:
      program: the compiled program.
      data: the data on the devices, or a stream on its way there.
      mesh: the devices.
      size: replicas per call of the program.
      splits: number of evaluated splits.
      interval: steps between evaluations.
      folder: where finished units and states are saved, or None.
      labels: of an example of the data.
    """

    program: Program[StateT, PlanT, OriginT]
    data: Source
    mesh: Mesh
    size: int
    splits: int
    interval: int
    folder: RunFolder | None
    _bar: tqdm
    _signals: _Signals
    _resumption: _Resumption
    _callbacks: tuple[Callable[[list[Row]], object], ...] = ()
    _until: float = math.inf
    labels: Labels = CLASSES
    _vmapped: int | None = None

    def compiled(self, learner: Learner[StateT, PlanT, OriginT]) -> Program[StateT, PlanT, OriginT]:
        """The program of a learner on the devices of this run, in the form that was chosen."""
        return program(learner, self.mesh, self._vmapped)

    @property
    def path(self) -> Path | None:
        """The path of the folder."""
        return None if self.folder is None else self.folder.path

    # units and states

    def unit(self, unit: str | Block, steps: int, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a piece of work: those that the folder holds, or made now and saved there.

        Args:
          unit: its name in the folder, or a block of replicas.
          steps: those of all its replicas, for the progress bar.
          make: does the work.
        """
        name, arrays = (unit, None) if isinstance(unit, str) else (unit.name, unit.arrays)
        if arrays is None and self.folder is not None:
            arrays = self.folder.load(name)
        if arrays is None:
            arrays = make()
            if self.folder is not None:
                self.folder.save(name, arrays)
        else:
            _progress.skip(self._bar, steps)
        if self.folder is not None:
            self._stop_if_asked(self.folder)
        return arrays

    def blocks(self, work: str, count: int, size: int) -> Iterator[Block]:
        """Cut replicas into blocks, each a unit `<work>-<first>-<end>` of the folder.

        Blocks that the folder holds are taken as they are, also those of a run on another number of
        devices; what lies between them is divided into blocks of at most `size` replicas.

        Args:
          work: what the names of the units begin with.
          count: replicas.
          size: most replicas of a block that is made now.
        """
        return cut(self.folder, work, count, size)

    def load_state(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """The state saved inside a unit as (call, tree), or None; see `RunFolder.load_state`."""
        return None if self.folder is None else self.folder.load_state(unit, like)

    def due(self) -> bool:
        """Whether to save the state now: it is time, or a signal asks to stop."""
        return self.folder is not None and any(self._asked(self.folder))

    def save_state(self, unit: str, call: int, tree: dict[str, jax.Array]) -> None:
        """Save the state after so many calls of a unit.

        Raises:
          RunInterrupted: after the save, if a signal asks to stop.
        """
        if self.folder is not None:
            self.folder.save_state(unit, call, tree)
            self._stop_if_asked(self.folder)

    def finish(self, *saves: Callable[[], object]) -> None:
        """Write results into the folder, if there is one, and remove the states."""
        if self.folder is not None:
            on_first(*saves)
            self.folder.forget_state()

    def _asked(self, folder: RunFolder) -> tuple[int, bool, bool]:
        """The signal that asks to stop (0 for none), if time is over, and if it is time to save.

        On several hosts a signal counts wherever it came, and process 0 has the clock: all of them
        hear the same answer, since a save is written by all together.
        """
        over = time.monotonic() >= self._until
        answers = agreed([self._signals.noted, over, folder.due])
        return int(answers[:, 0].max()), bool(answers[0, 1]), bool(answers[0, 2])

    def _stop_if_asked(self, folder: RunFolder, *, finished: bool = False) -> None:
        number, over, _ = self._asked(folder)
        if number or (over and not finished):
            # what is written in the background has to be there
            folder.settle()
            raise RunInterrupted(folder.path, number)

    # callbacks

    @property
    def reports(self) -> bool:
        """Whether somebody wants to hear of evaluations."""
        return bool(self._callbacks)

    def report(self, rows: list[Row]) -> None:
        """Give rows of the table to the callbacks, on the first of several hosts."""
        if self.labels.kind == "numbers":
            # numbers are neither right nor wrong
            rows = [row for row in rows if row["metric"] != "accuracy"]

        def call() -> None:
            for callback in self._callbacks:
                try:
                    callback(rows)
                except Exception as error:  # whatever code of the user raises
                    saved = "" if self.path is None else f", which is saved in {self.path}"
                    error.add_note(
                        f"raised by `on_evaluation` {callback!r}; it ended the run{saved}: correct "
                        f"or leave out the callback, which changes no result"
                    )
                    raise

        if rows:
            on_first(call)

    # progress

    def describe(self, text: str) -> None:
        """Say in front of the bar what is being done."""
        self._bar.set_description(text)
        self.note("")

    def note(self, text: str) -> None:
        """Say something behind the bar, such as "compiling"; nothing with an empty text."""
        _progress.note(self._bar, text)

    def resumes(self, step: int, stop: int) -> None:
        """Say where a run goes on that was begun before; only the first call says something.

        Args:
          step: at which the training that is being done is continued.
          stop: where it ends.
        """
        if self.folder is not None and not self._resumption.said:
            self._resumption.said = True
            what = self._bar.desc.removesuffix(": ")
            self.write(
                f"resumes {self.folder.path} ({self.folder.done} units done): {what}, at step "
                f"{step:,} of {stop:,}"
            )

    def skip(self, steps: int) -> None:
        """Count steps (of all replicas) that an earlier process did."""
        _progress.skip(self._bar, steps)

    def write(self, text: str) -> None:
        """Say something above the bar, on one of several hosts."""
        if jax.process_index() == 0:
            self._bar.write(text)

    def begins(self, text: str) -> None:
        """Say something at the beginning of a run, with its progress; nothing where it goes on."""
        if not self._bar.disable and self._resumption.said:
            self._bar.write(text, file=sys.stderr)

    def advance(self, steps: int) -> None:
        """Count steps (of all replicas) as done."""
        self._bar.update(steps)

    def expect(self, more: int) -> None:
        """Add to the steps that the whole run is expected to take."""
        self._bar.total += more

    def remaining(self, steps: int) -> None:
        """Set how many steps are expected from here on."""
        self._bar.total = self._bar.n + steps


OnEvaluation = Callable[[list[Row]], object] | Sequence[Callable[[list[Row]], object]]
"""One function of rows, or several."""


def cost_of_precision(training: Training, platform: str) -> str | None:
    """Say what full precision costs on an accelerator; None where it costs nothing."""
    full = training.precision == "highest" and training.compute_dtype == "float32"
    if platform == "cpu" or not full:
        return None
    costs = {"tpu": "convolutions take 4.6 times as long as in bfloat16 by the compiler's estimate"}
    why = costs.get(platform, "products do without TF32")
    return (
        f"computes in float32 with precision 'highest': {why}; "
        f"Training(compute_dtype='bfloat16', precision='default') is faster and rounds more"
    )


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how runs are computed; no result depends on it.

    >>> Runtime(folder="results/mine", at_once=8).save_every
    60.0

    Attributes:
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save, on disk or in a bucket (gs://bucket/run, s3://bucket/run); a run that
        was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for as many as there are, on
        accelerators halved until the program of the training fits into a device's memory, by the
        compiler's analysis.
      vmapped: replicas of a device that take each step of a training together, under `jax.vmap`;
        the others wait for their turn within the same program. None for the number that is
        expected to be fastest: one on a CPU, elsewhere by network (see
        docs/concepts/replicas.md).
      save_every: seconds between saves of the training state (finished units are saved in any
        case).
      async_saves: whether a thread writes these states while training goes on, which then waits for
        no more than a copy to the host. An error of it is raised at the next save or at the end.
      progress: whether to show a bar with the time left; where the output is no terminal, lines of
        text, at most one in 10 seconds.
      wait: seconds to wait for a folder that another process uses; 0 refuses it at once.
      on_evaluation: a function, or several, called on the host after each evaluation with its rows
        of `runs.table()`, a list of dicts by column: those of `jaxticket.callbacks`, or your own.
        What is trained on the way and is not in that table comes too, as branches "dense",
        "teacher-n" and "search", or "branch/step-k/copy-n" of `jt.instability`. Rows come while the
        next steps are computed. With several hosts, give it on all of them; the
        first calls it. A run that is resumed reports what it computes: nothing twice after a signal
        or a time budget; after a kill, the rows since the last save again, with the same numbers.
      time_budget: seconds after which a run saves and raises `jt.RunInterrupted`, counted from its
        call; the same call continues it. Needs a folder.

    Raises:
      ValueError: for values out of range.
    """

    mesh: Mesh | None = None
    folder: str | os.PathLike[str] | None = None
    at_once: int | None = None
    vmapped: int | None = None
    save_every: float = 60.0
    progress: bool = True
    wait: float = 0.0
    on_evaluation: OnEvaluation | None = None
    time_budget: float | None = None
    async_saves: bool = False

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        if self.mesh is not None:
            parallel.check_mesh(self.mesh)
        path_or_none("folder", self.folder)
        if self.folder is not None:
            _files.to_path(self.folder)
        settle(self, or_none(whole), "at_once", "vmapped", low=1)
        settle(self, number, "save_every", "wait", low=0)
        settle(self, flag, "progress", "async_saves")
        settle(self, or_none(number), "time_budget", low=0, above=True)
        for callback in self.callbacks:
            if isinstance(callback, type) or not callable(callback):
                # a text is a sequence of its letters
                given = self.on_evaluation if isinstance(self.on_evaluation, str) else callback
                raise ValueError(
                    f"`on_evaluation` must be a function of rows, such as "
                    f"jt.callbacks.CSV('rows.csv'), or several, got {given!r}"
                )

    @property
    def callbacks(self) -> tuple[Callable[[list[Row]], object], ...]:
        """What is called after each evaluation."""
        given = self.on_evaluation
        if given is None:
            return ()
        return tuple(given) if isinstance(given, Sequence) else (given,)

    @property
    def devices(self) -> Mesh:
        """The mesh to use."""
        return parallel.check_mesh(self.mesh)

    def on(self, mesh: Mesh) -> Runtime:
        """The same on the mesh of runs that are continued.

        Raises:
          ValueError: where another mesh was chosen.
        """
        if self.mesh is not None and self.mesh != mesh:
            raise ValueError(
                f"`runtime` has the mesh {self.mesh}, and `runs` were trained on {mesh}; leave "
                f"the `mesh` of jt.Runtime out"
            )
        return dataclasses.replace(self, mesh=mesh)

    def in_folder(self, parent: Path | None, *names: str) -> Runtime:
        """The same, which saves below the folder of another run where no folder was chosen."""
        if self.folder is not None or parent is None:
            return self
        return dataclasses.replace(self, folder=parent.joinpath(*names))

    def below(self, *names: str) -> Runtime:
        """The same in a folder below its own, where it has one."""
        if self.folder is None:
            return self
        return dataclasses.replace(self, folder=_files.to_path(self.folder).joinpath(*names))

    def replicas_per_call(self, count: int, before: int | None = None) -> int:
        """How many replicas one call of the program trains.

        Args:
          count: of all replicas.
          before: how many it was in an earlier run, whose compiled program is used again where
            more at once would gain nothing.
        """
        if before is not None and self.at_once is None and parallel.maps(self.devices):
            return before
        return parallel.block_size(count, self.devices, self.at_once)

    @contextlib.contextmanager
    def run(
        self,
        net: Network,
        data: Data | Stream,
        training: Training,
        settings: Mapping[str, object],
        *,
        size: int,
        steps: int = 0,
        interval: int | None = None,
        extends: Extends | None = None,
    ) -> Iterator[Run[TrainState, Plan, Origin]]:
        """A run under way, which leaves its folder, its signals and its progress bar at the end.

        Args:
          net, data, training: what is trained on what, and how.
          settings: what the folder records, and refuses to mix with others.
          size: replicas per call, from `replicas_per_call`.
          steps: those of all replicas, for the progress bar.
          interval: steps between evaluations; that of the training if None.
          extends: which other settings continue those of the folder; none if None.

        Raises:
          RunFolderError: for a folder that cannot be used.
          RunInterrupted: if a signal asked to stop or the time budget is over, after the save that
            followed.
          ValueError: for a time budget without a folder, and where the hosts of a run were given
            other settings or data.
        """
        mesh, signals, folder = self.devices, _Signals(), None
        until = math.inf
        if self.time_budget is not None:
            until = time.monotonic() + self.time_budget
            if self.folder is None:
                raise ValueError(
                    f"`time_budget` {self.time_budget:g} needs a `folder`, where the run is saved "
                    f"to be continued"
                )
        _same_on_all(settings)
        shown = self.progress and jax.process_index() == 0
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                stack.enter_context(signals.caught())
            bar = stack.enter_context(_progress.progress(total=steps, shown=shown))
            tell = functools.partial(_progress.note, bar, "compiling")
            stack.enter_context(parallel.told_of_compiling(tell))
            if self.folder is not None:
                folder = RunFolder(
                    self.folder,
                    settings,
                    every=self.save_every,
                    background=self.async_saves,
                    wait=self.wait,
                    asked=lambda: signals.noted > 0,
                    extends=extends,
                )
                stack.callback(folder.close)
                folder.evaluates(split_names(data), metric_names(training))
            compiled = program(Supervised(net, training), mesh, self.vmapped)
            source = put_data(data, training, mesh)
            if self.at_once is None:
                size = fitting(compiled, training, mesh, size, source.arrays, available(mesh))
            run = Run(
                compiled,
                source,
                mesh,
                size,
                len(data.splits),
                training.evaluation_interval if interval is None else interval,
                folder,
                bar,
                signals,
                _Resumption(said=not (shown and folder is not None and folder.begun)),
                self.callbacks,
                until,
                data.labels,
                self.vmapped,
            )
            if said := cost_of_precision(training, mesh.devices.flat[0].platform):
                run.begins(said)
            yield run
            if not run._resumption.said:
                run.write(f"{run.path} was complete: nothing was trained")
        if folder is not None:
            # a signal that came after the last save; what is finished ends in time
            run._stop_if_asked(folder, finished=True)


def _same_on_all(settings: Mapping[str, object]) -> None:
    """Raise on every process where one of them has other settings, or data, than process 0.

    Every host loads its data by itself and copies them to its own devices, so that nothing else
    would compare them: a fingerprint stands for the examples.
    """
    if jax.process_count() == 1:
        return
    own = results.canonical(settings)
    first = by_first(own.encode)
    assert first is not None, "there are settings"
    difference = results.first_difference(json.loads(own), json.loads(first))
    others = np.flatnonzero(agreed([difference is not None])[:, 0]).tolist()
    if others:
        said = f"on this one, {difference} (there: process 0). " if difference else ""
        raise ValueError(
            f"`settings` of processes {others} are not those of process 0: {said}"
            f"every host has to run the same script on the same data"
        )


class Options(TypedDict, total=False):
    """The fields of `Runtime` that calls take as keyword arguments too."""

    mesh: Mesh | None
    folder: str | os.PathLike[str] | None
    at_once: int | None
    save_every: float
    progress: bool
    on_evaluation: OnEvaluation | None


def settled(runtime: Runtime | None, **given: Unpack[Options]) -> Runtime:
    """The runtime of a call: `runtime`, or one of the call's own keyword arguments.

    Args:
      runtime: as it was given, or None.
      **given: the call's own `mesh`, `folder`, `at_once`, `save_every`, ....

    Raises:
      ValueError: for `runtime` and a keyword argument together.
    """
    own = Runtime(**given)
    if runtime is None:
        return own
    instance("runtime", runtime, Runtime, "a jt.Runtime, or None")
    for name in given:
        if getattr(own, name) != getattr(Runtime, name):
            raise ValueError(
                f"`{name}` is given next to `runtime`, which has a field for it: write "
                f"jt.Runtime({name}=...) and leave the argument out, got {getattr(own, name)!r}"
            )
    return runtime
