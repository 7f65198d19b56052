"""Networks from pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxticket.nn.network import ApplyFunction, Init, Selection, WithOptions, accepted, make_network
from jaxticket.typing import Network, SymmetryOf


def from_functions(
    init: Init,
    apply: ApplyFunction,
    *,
    name: str,
    shape: Sequence[int],
    prunable: Selection | None = None,
    output: str | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    syncs_stats: bool = False,
    dtype: str = "float32",
    symmetry: SymmetryOf | None = None,
    stages: Sequence[Sequence[str]] = (),
    master_weights: bool = False,
) -> Network:
    """Make a network of two pure functions.

    Args:
      init: `init(key) -> (params, stats)`; stats may be `{}`.
      apply: `apply(params, stats, x, *, train, key, axis_name, tap) -> (logits, stats)`; it
        need not take those of the last three that it does not use.
      name: the network's name in run folders; networks are distinguished by their code too.
      shape: shape of one example.
      prunable: patterns of paths or a function, as for `from_linen`; None for leaves called
        "kernel", or all leaves of two or more dimensions where there are none.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      resized: as for `from_linen`.
      adapted: as for `from_linen`.
      syncs_stats: whether `apply` averages its batch statistics over `axis_name`.
      dtype: type of the examples, as for `from_linen`.
      symmetry: as for `from_linen`.
      stages: as for `from_linen`.
      master_weights: as for `from_linen`.

    Raises, Warns: as `from_linen`.
    """
    taken = accepted(apply, "key", "axis_name", "tap")
    return make_network(
        init,
        WithOptions(apply, taken, name, "give its apply a `tap` argument"),
        shape,
        constructor="from_functions",
        name=name,
        source=(init, apply),
        syncs_stats=syncs_stats,
        prunable=prunable,
        output=output,
        resized=resized,
        adapted=adapted,
        dtype=dtype,
        symmetry=symmetry,
        stages=stages,
        master_weights=master_weights,
    )
