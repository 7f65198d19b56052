"""Exact global pruning: `keep_top` in jit and on the host, against sorting, lax.top_k, partition.

Random positive scores, 80% of them kept. The others only find the threshold; `keep_top` returns
the mask and breaks ties. All variants are measured in turn, and ratios are of the same round. The
results are compared before anything is measured. numpy.partition runs on the host and cannot be
part of a compiled program; outside of one, `keep_top` uses it on a CPU.

Command:  python -m experiments.benchmarks.pruning [--sizes 266200 14700000 25500000 --publish]
Cost:     minutes on 2 CPU cores, most of it sorting
Expected: on a busy 2-core CPU keep_top is 20 to 40 times as fast as jnp.sort; of 25.5 million
          scores less than 0.3 seconds on the host, about that in jit
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import ArrayLike

import jaxticket as jt
from experiments.benchmarks._machine import Row, described, machine, publish
from jaxticket._progress import progress

DENSITY = 0.8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time to find the 80% highest of so many scores."""

    sizes: tuple[int, ...] = (266_200, 14_700_000, 25_500_000)
    """Numbers of scores: LeNet-300-100, VGG, ResNet-50."""
    rounds: int = 3
    """How often each is measured."""
    top_k_limit: int = 1_000_000
    """lax.top_k is left out for more scores than this; it is about as slow as sorting."""
    sort_limit: int = 30_000_000
    """jnp.sort is left out for more scores than this."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/pruning.csv and pruning.json."""


def main(settings: Settings) -> None:
    """Measure every size."""
    here = machine("jax", "numpy") | {"platform": jax.default_backend()}
    print(f"{here}\n")
    rows = []
    for size in settings.sizes:
        rows += measured(size, settings)
    for size in settings.sizes:
        print(f"\n{size:,} scores: milliseconds, median of {settings.rounds} rounds")
        mine = [row for row in rows if row["scores"] == size]
        base = [row["milliseconds"] for row in mine if row["variant"] == "keep_top"]
        for name in dict.fromkeys(row["variant"] for row in mine):
            own = [row for row in mine if row["variant"] == name]
            times = [row["milliseconds"] for row in own]
            ratios = [t / b for t, b in zip(times, base, strict=True)]
            print(
                f"  {name:<16}{np.median(times):10.2f}   compile {own[0]['compile_seconds']:5.2f} s"
                f"   time / keep_top {described(ratios)}"
            )
    if settings.publish:
        publish("pruning", rows, {"machine": here, "settings": dataclasses.asdict(settings)})


def measured(size: int, settings: Settings) -> list[Row]:
    """Measure one row per variant and round.

    Raises:
      RuntimeError: where a result is not the same as numpy's.
    """
    keep = round(DENSITY * size)
    host = np.random.default_rng(0).random(size, np.float32)
    tree = {"w": jnp.asarray(host)}
    ones = jt.masks.ones(tree)
    prune = jax.jit(lambda s, m, k: jt.keep_top(s, m, k)["w"])
    calls: dict[str, tuple[jax.stages.Wrapped, tuple[object, ...]]] = {
        "keep_top": (prune, (tree, ones, jnp.int32(keep)))
    }
    if size <= settings.sort_limit:
        sort = jax.jit(lambda s, k: jnp.sort(s)[s.size - k])
        calls["jnp.sort"] = (sort, (tree["w"], jnp.int32(keep)))
    if size <= settings.top_k_limit:
        top_k = jax.jit(lambda s: jax.lax.top_k(s, keep)[0][-1])
        calls["lax.top_k"] = (top_k, (tree["w"],))
    run: dict[str, Callable[[], ArrayLike]] = {}
    compiling = {}
    for name, (function, arguments) in calls.items():
        began = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        compiling[name] = time.perf_counter() - began
        run[name] = lambda c=compiled, a=arguments: jax.block_until_ready(c(*a))
    eager = tree, ones, keep
    run["keep_top, host"] = lambda: jax.block_until_ready(jt.keep_top(*eager)["w"])
    compiling["keep_top, host"] = 0.0
    run["numpy.partition"] = lambda: np.partition(host, size - keep)[size - keep]
    compiling["numpy.partition"] = 0.0
    threshold = run["numpy.partition"]()
    for name, call in run.items():
        result = np.asarray(call())
        same = result == threshold
        if name.startswith("keep_top"):
            # exactly `keep`, all above the threshold, ties at the threshold by index
            quota = keep - np.count_nonzero(host > threshold)
            expected = host > threshold
            expected[np.flatnonzero(host == threshold)[:quota]] = True
            same = np.array_equal(result, expected)
        if not same:
            raise RuntimeError(f"{name} of {size} scores does not agree with numpy.partition")
    rows = []
    with progress(total=settings.rounds * len(run), title=f"{size:,} scores", unit="") as bar:
        for number in range(settings.rounds):
            for name, call in run.items():
                rows.append(
                    {
                        "scores": size,
                        "variant": name,
                        "round": number,
                        "milliseconds": round(1000 * timed(call), 4),
                        "compile_seconds": round(compiling[name], 3),
                    }
                )
                bar.update()
    return rows


def timed(call: Callable[[], object]) -> float:
    """Measure the seconds of one call: the mean of as many as fit into half a second."""
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < 0.5:
        call()
        calls += 1
    return (time.perf_counter() - began) / calls


if __name__ == "__main__":
    main(tyro.cli(Settings))
