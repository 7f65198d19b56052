"""The entry of every script: reads the options, runs, and says in a line what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

import jaxticket as jt

Options = TypeVar("Options")
USAGE = 2
"""Exit code after a wrong option, as that of unknown ones."""


def launch(
    main: Callable[[Options], None], settings: type[Options], doc: str | None = None
) -> None:
    """Calls `main` with the options of the command line. Compiled programs are kept on disk.

    Errors of jaxticket's own kinds and those that begin with an argument in backticks are for the
    user: the message alone is printed. All others keep their traceback.

    Args:
      main: what the script does.
      settings: the dataclass of its options.
      doc: the script's docstring, of which `--help` shows what stands before "Command:".
    """
    jt.compilation_cache()
    description = None if doc is None else doc.split("Command:")[0]
    try:
        main(tyro.cli(settings, description=description))
    except ValueError as error:
        ours = type(error).__module__.startswith("jaxticket.")
        if not ours and not str(error).startswith("`"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(USAGE) from None
