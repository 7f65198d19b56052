"""Write the reference values of the battery.

Command: python -m tests.battery.record [NAME ...] [--overwrite]
         With names only these runs; without, all that have no reference yet are recorded.
         Values of runs that are recorded already are not replaced, unless `--overwrite` is given.

The files hold no value that depends on the kind of machine beyond the order of summation: the
comparison allows for that.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jax
import numpy as np

REFERENCE = Path(__file__).parent / "reference"


def main() -> None:
    """Record the runs that the command line names."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_legacy_prng_key", "error")
    from .runs import RUNS

    parser = argparse.ArgumentParser(description="Write the reference values of the battery.")
    parser.add_argument("names", nargs="*", help="runs to record; all if none is named")
    parser.add_argument("--overwrite", action="store_true", help="replace recorded values")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(RUNS)
    if unknown:
        parser.error(f"no runs are called {sorted(unknown)}; there are {', '.join(RUNS)}")
    REFERENCE.mkdir(exist_ok=True)
    refused, failed = [], []
    for name in asked.names or RUNS:
        file = REFERENCE / f"{name}.npz"
        if file.exists() and not asked.overwrite:
            refused.append(name)
            continue
        start = time.perf_counter()
        try:
            found = RUNS[name]()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {error}")
            print(failed[-1], flush=True)
            continue
        found["jax_version"] = np.asarray(jax.__version__)
        np.savez_compressed(file, allow_pickle=False, **found)
        print(
            f"{name}: {time.perf_counter() - start:.1f} s, {file.stat().st_size} bytes", flush=True
        )
    if refused:
        print(f"kept as they are (--overwrite replaces them): {', '.join(refused)}")
    if failed:
        raise SystemExit("\n".join(["not recorded:", *failed]))


if __name__ == "__main__":
    main()
