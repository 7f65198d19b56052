"""Whether a data set fits in the memory of this machine."""

from __future__ import annotations

import os


def gigabytes(size: int) -> str:
    """Bytes in words.

    >>> gigabytes(200_384_217_088)
    '200 GB'
    """
    return f"{size / 1e9:.3g} GB"


def memory() -> int | None:
    """Bytes of memory that this machine has, None where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(name: str, images: int, each: int) -> None:
    """Raises where so many images of so many bytes are more than the machine's memory.

    Asked before they are read: the system hands out memory that it does not have, and ends the
    process that uses it.
    """
    there = memory()
    if there is not None and images * each > there:
        raise ValueError(
            f"`name`={name!r} does not fit in memory: {images:,} images take "
            f"{gigabytes(images * each)}, this machine has {gigabytes(there)}; use "
            f"jaxticket.data.stream({name!r})"
        )
