"""Which methods a script runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def chosen(
    asked: Sequence[str] | None, usual: Iterable[str], known: Iterable[str] | None = None
) -> tuple[str, ...]:
    """The methods to run: those that `--methods` asks for, or the usual ones.

    Args:
      asked: what the user gave, or None.
      usual: what the script runs if nothing is said.
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
