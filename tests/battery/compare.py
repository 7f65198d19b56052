"""When what a run gives is what it gave when it was recorded."""

from __future__ import annotations

import numpy as np

COUNTED = ("accuracy", "error", "barrier", "disagreement", "disagreement_share")
"""Metrics that count examples: one that is classified otherwise is no fault."""
DERIVED = ("value", "mean", "std", "min", "max", "low", "high", "dense_mean", "accuracy", "gap")
"""Columns of tables without a column `metric`, that are made of such metrics."""
OF_TICKETS = ("mask", "params", "leaves", "stats", "step", "level")
"""What is kept of a ticket; further columns of tables are no fault, further leaves are."""
EXAMPLES = 140
"""One example is this part of the smallest split of the digits, which is the validation split."""
FEW = {"streamed": 24, "resnet": 60, "conv_and_vgg": 32, "elastic": 60, "transferred_otherwise": 40}
"""The same of runs on other data."""
ALIKE = {"rtol": 2e-4, "atol": 1e-5}
"""For floats where JAX has the recorded version: another order of summation is allowed for. Batches
split over two devices instead of one differ by 4e-7."""
ABOUT = {"rtol": 2e-2, "atol": 2e-3}
"""Where it has another version, whose compiler may round otherwise."""
SHARE = 0.995
"""Of entries of masks and of whole numbers that are equal under another version of JAX: scores
that are nearly tied may be ranked otherwise."""


def differences(
    found: dict[str, np.ndarray],
    recorded: dict[str, np.ndarray],
    *,
    same_version: bool,
    examples: int = EXAMPLES,
) -> list[str]:
    """Say where a run differs from its record.

    Masks, whole numbers and texts must be equal, floats equal within a tolerance, and values of
    metrics that count examples within one example. Under another version of JAX the tolerance is
    wider, and a share `1 - SHARE` of the entries of a mask may differ.

    Args:
      found, recorded: flat dicts of arrays; masks are packed bits under names that end in "mask".
      same_version: whether JAX has the version of the record.
      examples: of the smallest split that was evaluated.

    Returns:
      A line for each array that differs, none where all is well.
    """
    wrong = [f"{name}: missing" for name in sorted(recorded.keys() - found.keys())]
    wrong += [
        f"{name}: not recorded"
        for name in sorted(found.keys() - recorded.keys())
        if not _further_column(name, recorded)
    ]
    for name in sorted(recorded.keys() & found.keys()):
        new, old = np.asarray(found[name]), recorded[name]
        if new.shape != old.shape or (new.dtype.kind == "U") != (old.dtype.kind == "U"):
            wrong.append(f"{name}: {new.dtype}{new.shape}, recorded {old.dtype}{old.shape}")
            continue
        if old.dtype.kind == "f":
            bad = ~_close(new, old, _slack(name, recorded) / examples, same_version=same_version)
            allowed = 0.0
        elif old.dtype == np.uint8:
            bad, allowed = np.unpackbits(new) != np.unpackbits(old), 1 - SHARE
        else:
            bad, allowed = np.atleast_1d(new != old), (1 - SHARE if old.dtype.kind in "iub" else 0)
        count = int(np.sum(bad))
        if count > (0 if same_version else allowed * bad.size):
            place = np.flatnonzero(bad)[0]
            seen = ""
            if old.dtype != np.uint8:
                seen = f", first {new.ravel()[place]!r}, recorded {old.ravel()[place]!r}"
            wrong.append(f"{name}: {count} of {bad.size} entries differ{seen} at {place}")
    return wrong


def _further_column(name: str, recorded: dict[str, np.ndarray]) -> bool:
    """Whether a table has a column that it did not have: tables may say more than they did."""
    table, dot, column = name.rpartition(".")
    others = [other for other in recorded if other.rpartition(".")[0] == table]
    return bool(dot and others) and column not in OF_TICKETS


def _slack(name: str, recorded: dict[str, np.ndarray]) -> np.ndarray | float:
    """By how many examples values may differ."""
    table, _, column = name.rpartition(".")
    metric = recorded.get(f"{table}.metric")
    if column == "value" and metric is not None:
        return np.isin(metric, COUNTED).astype(float)
    derived = metric is None and f"{table}.branch" in recorded and column in DERIVED
    return float(derived or column in ("barriers", "accuracy"))


def _close(
    new: np.ndarray, old: np.ndarray, slack: np.ndarray | float, *, same_version: bool
) -> np.ndarray:
    tolerance = ALIKE if same_version else ABOUT
    with np.errstate(invalid="ignore"):
        near = np.abs(new - old) <= tolerance["atol"] + slack + tolerance["rtol"] * np.abs(old)
    same = (new == old) | (np.isnan(new) & np.isnan(old))
    return near & np.isfinite(old) | same
