"""`jt.report`: a run as one HTML page, which can be sent on."""

from __future__ import annotations

import os
from pathlib import Path

from jaxticket import _files
from jaxticket._check import instance, shown
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.loading import Given
from jaxticket.pruning_settings import PruningSettings
from jaxticket.reporting.collecting import collected
from jaxticket.reporting.rendering import html
from jaxticket.settings import Training
from jaxticket.typing import Network

NAME = "report.html"
"""Of the page in the folder of a run."""

__all__ = ["report"]


def report(
    folder: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    net: Network | None = None,
    data: Data | Stream | None = None,
    training: Training | None = None,
    pruning: PruningSettings | None = None,
) -> Path:
    """Write a run as one HTML page; nothing is trained.

    The page has the accuracy by level and branch, verdicts with their conditions, figures, the
    settings (first those that differ from the defaults), tables, which it holds as CSV files too,
    the machine and the cost in time, and what the folder holds. It refers to nothing outside itself
    and needs no JavaScript. Of a run that is not finished it says what is done and what is missing.

    Args:
      folder: that of `find_tickets`, `prune_at`, `search`, `run_strategy`, `sparse_train`,
        `dynamic_imp`, `branch`, `transfer`, `instability`, `verdict`, `measure`, `telemetry` or
        `surface`; also gs:// and s3://.
      file: the page; "report.html" in the folder if None. It is replaced where it is there.
      net: a network of your own, which only the figure of its layers' densities needs, to have them
        in their order from input to output.
      data, training, pruning: what holds code of your own, as for `jt.load`, which names it.

    Returns:
      The path of the page.

    Raises:
      ValueError: for a path that is no folder, a folder without a run or without a finished
        evaluation, files that are damaged, what has to be passed (it is named), and a file in a
        folder that is not there.

    >>> report("no/folder")
    Traceback (most recent call last):
    ValueError: `folder` 'no/folder' is no folder; pass that of a run
    """
    if not (isinstance(folder, (str, os.PathLike)) and str(folder)):
        raise ValueError(f"`folder` must be the path of a run's folder, got {shown(folder)}")
    if file is not None:
        instance("file", file, (str, os.PathLike), "the path of the page, or None")
    target = _files.absolute(folder) / NAME if file is None else _files.absolute(file, "file")
    if not _files.is_url(target) and file is not None and not target.parent.is_dir():
        raise ValueError(
            f"`file` {str(file)!r} is in a folder that is not there; make it first, or leave "
            f"`file` out"
        )
    if target.is_dir():
        raise ValueError(f"`file` {str(file)!r} is a folder; pass the path of a page in it")
    written = html(collected(folder, Given(net, data, training, pruning)))
    _files.write_text(target, written)
    return target
