"""The command line: `jaxticket find`, `show`, `plot`, `presets` and others.

Commands that train are public functions of the package, with a flag for every argument and setting
that a flag can say. They end with status 0, with 1 where a run failed, with 2 for what was wrong in
the command, which is said in one line, and where a run was stopped with that of
`jt.RunInterrupted`: 75 by its time budget, 130 by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

import jax

from jaxticket import _extras
from jaxticket._check import nearest
from jaxticket.analysis.verdict import Verdict
from jaxticket.cli.listing import printable, table
from jaxticket.engine import parallel
from jaxticket.engine.runtime import RunInterrupted
from jaxticket.sparsify.early_pruning import BySteps

FAILED, MISTAKEN, STOPPED = 1, 2, 128 + signal.SIGINT
"""Statuses of runs that failed, of commands that are wrong, and after Ctrl-C."""

__all__ = ["main", "table"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
      args: the arguments; None for those of the process.

    Raises:
      SystemExit: with the status, where it is not 0.
    """
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [text for text in given if text != "--debug"]
    try:
        _extras.require("tyro", "cli")
        _run(given)
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has closed the pipe; discard what Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except RunInterrupted as error:
        _end(error, error.exit_status, debug)
    except KeyboardInterrupt as error:
        _end(error, STOPPED, debug, "interrupted")
    except (
        ValueError,
        ImportError,
        FileNotFoundError,
        PermissionError,
        NotADirectoryError,
    ) as error:
        _end(error, MISTAKEN, debug)
    except (MemoryError, OSError, jax.errors.JaxRuntimeError) as error:
        _end(error, FAILED, debug)


def _end(error: BaseException, status: int, debug: bool, said: str = "") -> None:
    """Say what went wrong in a line, and end the process."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    else:
        text = said or str(error).strip() or type(error).__name__
        print(printable(f"error: {text}"), file=sys.stderr)
    raise SystemExit(status)


def _run(args: list[str]) -> None:
    # tyro is imported by them
    from jaxticket.cli.commands import TRAINING
    from jaxticket.cli.reading import READING

    name, *rest = args or [""]
    if name in READING:
        READING[name](rest)
    elif name in TRAINING:
        result = TRAINING[name](rest)
        if isinstance(result, BySteps):
            for step, runs in result.items():
                print(f"pruned at step {step}: {runs!r}")
        else:
            print(str(result) if isinstance(result, Verdict) else repr(result))
    else:
        _usage(args, {**TRAINING, **READING})


def _usage(args: list[str], commands: dict[str, object]) -> None:
    """Print the list of commands; the status is 2 where a command was named that there is not."""
    lines = ["usage: jaxticket COMMAND ... [--debug]", "", "Lottery-ticket experiments in JAX.", ""]
    for name, function in commands.items():
        first = str(function.__doc__).partition("\n")[0]
        lines.append(f"  {name:<12} {first}")
    lines += ["", "`jaxticket COMMAND --help` lists the flags of a command."]
    text = "\n".join(lines)
    if args and args[0] in ("--help", "-h"):
        print(text)
        return
    if args and args[0] == "--version":
        from importlib import metadata

        print(metadata.version("jaxticket"))
        return
    said = "error: name a command"
    if args:
        said = f"error: there is no command {args[0]!r}; {nearest(args[0], commands)}"
    print(f"{text}\n\n{printable(said)}", file=sys.stderr)
    raise SystemExit(MISTAKEN)


def run() -> None:
    """Run the command line as a process of its own: what the script `jaxticket` calls."""
    # one line each, without the line of code
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    parallel.cpu_devices()
    parallel.compilation_cache()
    main()
