"""The value of an objective at masks, whatever found them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket import masks, rescaling, results
from jaxticket._check import whole
from jaxticket.engine import parallel
from jaxticket.engine.loop import take
from jaxticket.engine.metrics import normalized
from jaxticket.engine.source import put_data
from jaxticket.random import root_keys, stream
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import Training, static_part
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.objectives import Objective
from jaxticket.sparsify.learned.relaxations import Bernoulli
from jaxticket.sparsify.learned.views import of_dense, viewer
from jaxticket.typing import Array, Key, Network, Params, Stats

if TYPE_CHECKING:
    import pandas as pd


def objective_values(
    runs: Runs, objective: str | Objective, *, examples: int = 500
) -> pd.DataFrame:
    """Evaluate an objective, without its factor, at the masks of runs.

    Weights are those at which the masks were found, multiplied by the factors of their tickets
    (`Runs.factors`); level 0 is the dense network.

    Columns: seed, level, density (as asked for), value. All levels and methods of a seed see the
    same training examples, in one batch.

    Args:
      runs: from any of `find_tickets`, `prune_at`, `search`.
      objective: a name in `jaxticket.sparsify.learned.OBJECTIVES` or a function of a `View`.
      examples: training examples to look at, drawn per seed.

    Raises:
      ValueError: for an unknown objective, and more examples than there are.
    """
    require_runs("runs", runs)
    examples = whole("examples", examples, 1)
    if examples > len(runs.data.train):
        raise ValueError(
            f"`examples` {examples} is more than the {len(runs.data.train)} training examples of "
            f"{runs.data.name!r}; use fewer"
        )
    method = Method("value", Bernoulli(), objective=objective, augment=False)
    training, mesh = static_part(runs.training.replace(augment=())), runs.mesh
    count = len(runs.seeds)
    size = parallel.block_size(count, mesh, None)
    keys = parallel.pad(np.asarray(jax.random.key_data(root_keys(runs.seeds))), size)
    data = put_data(runs.data, runs.training, mesh)
    own = data.score_batches(keys, 0, 1, examples)
    value = _program(runs.net, method, training, mesh, examples)
    typed = jax.random.wrap_key_data(parallel.put(keys, mesh))
    origin = (runs.origin.params, runs.origin.stats)
    weights = parallel.put(parallel.pad(jax.tree.map(np.asarray, origin), size), mesh)
    rows = []
    for level in runs.levels:
        mask = jax.tree.map(np.asarray, runs.by_level[level].mask)
        soft = jax.tree.map(lambda m: m.astype(np.float32), mask)
        placed = parallel.put(parallel.pad(rescaling.scaled(soft, runs.factors(level)), size), mesh)
        inputs = (typed, *weights, placed, own, data.arrays)
        found = take(parallel.host(value(np.zeros(size, np.int32), *inputs)), 0, count)
        rows += [
            {"seed": seed, "level": level, "density": runs.densities[runs.levels.index(level)],
             "value": float(v)}
            for seed, v in zip(runs.seeds, found, strict=True)
        ]  # fmt: skip
    return results.frame(rows)


@functools.lru_cache(maxsize=32)
def _program(net: Network, method: Method, training: Training, mesh: Mesh, examples: int) -> Any:
    def one(
        limit: Array, key: Key, params: Params, stats: Stats, soft: Params, own: Any, arrays: Any
    ) -> Array:
        del limit
        x, (y,) = arrays.score_examples(
            own, 0, key=stream(key, "objective"), batches=1, size=examples
        )
        view_of = viewer(
            net, training, stats, normalized(x, arrays.by, training.compute_dtype), y,
            key=stream(key, "noise", 0),
        )  # fmt: skip
        with jax.default_matmul_precision("highest"):
            dense = of_dense(method, view_of, params)
            masked = masks.map_with(jnp.multiply, soft, params, other=lambda w: w)
            return method.function(view_of(masked, soft, dense))

    return parallel.over_replicas(one, mesh, shared=1)
