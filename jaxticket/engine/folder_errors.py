"""What a run folder that cannot be used is called, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from jaxticket import _files


class RunFolderError(ValueError):
    """A run folder cannot be used.

    It holds other settings or code, another process uses it, or there is no room or permission.
    """


_FULL = "the disk is full; free some space"
REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "files may not grow so large there; raise the limit (`ulimit -f`) or the quota",
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "it cannot be written; choose another `folder` or correct its permissions",
    ),
}


def number_of(error: BaseException) -> int | None:
    """The operating system's number of an error, also where a library tells it in words only."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        for number in REMEDIES:
            if os.strerror(number) in str(seen):
                return number
        seen = seen.__cause__ or seen.__context__
    # what TensorStore makes of a full disk
    return errno.ENOSPC if "RESOURCE_EXHAUSTED" in str(error) else None


def explanation(folder: Path, error: BaseException) -> RunFolderError:
    """What to raise for an error of the operating system in a folder."""
    number = number_of(error)
    said = str(error) if number is None else os.strerror(number)
    remedy = REMEDIES.get(-1 if number is None else number, str(error))
    return RunFolderError(
        f"`folder` {str(folder)!r}: {remedy} ({said}). What was saved before is intact: run the "
        f"same command again to continue"
    )


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into ones that name a remedy.

    What was saved before stays.
    """
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        # clients of buckets raise kinds of their own
        if isinstance(error, OSError) or _files.is_url(folder):
            raise explanation(folder, error) from error
        raise
