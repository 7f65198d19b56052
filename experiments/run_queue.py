"""The reproduction queue: runs at paper or reduced size in order of value, as time allows.

Works on whatever device is there. Each call takes the runs that are not done in the order of the
list (`RUNS`), gives each the time that is left, and stops when it is over: what was trained is
saved, and the next call goes on there, after a crash or a kill too. A run that fails is reported
and the next one is taken; the next call tries it again, after all others.

Command:  python -m experiments.run_queue --minutes 25
          python -m experiments.run_queue --list
          python -m experiments.run_queue --reduced --minutes 25    # on CPUs
Makes:    queue.json (what is done), and for each run a folder and a log, in --results; the runs
          publish into experiments/results/.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.common.queued import REDUCED, RUNS, Run

Entry = dict[str, Any]
"""What the queue knows of a run, as it is in its JSON file."""


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
        words = command(run, results / run.folder, left, accelerated=accelerated, more=more)
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
    reduced: bool = False,
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
      reduced: The runs of reduced size, which are for CPUs.
      least: Minutes below which no run is started.
      data_dir: Folder of prepared TFDS data sets.
      data_note: A remark on the data to print next to every number.
    """
    runs = [run for run in (REDUCED if reduced else RUNS) if only in run.name]
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
