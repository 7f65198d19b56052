"""Networks of the same Linen module whose layers have other numbers of features."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn

from jaxticket.nn.resize import NoWidthError
from jaxticket.typing import Network


@dataclass(frozen=True, eq=False)
class InFeatures:
    """`init` or `apply` of a Linen module whose layers have other numbers of features.

    A class and no closure, so that networks pickle.

    Attributes:
      function: that of the module.
      features: path of a layer and its features.
    """

    function: Callable[..., Any]
    features: tuple[tuple[str, int], ...]

    def __call__(self, *args: object, **options: object) -> Any:
        """Call the function with the layers so wide."""
        sizes = dict(self.features)

        def sized(
            function: Callable[..., Any],
            args: tuple[object, ...],
            options: dict[str, object],
            context: nn.module.InterceptorContext,
        ) -> Any:
            layer = context.module
            size = sizes.get("/".join(map(str, layer.path)))
            if size is not None and context.method_name == "__call__":
                # modules refuse assignments, since they describe what is shared: this one was made
                # for this call alone
                object.__setattr__(layer, "features", size)
            return function(*args, **options)

        with nn.intercept_methods(sized):
            return self.function(*args, **options)


def with_features(net: Network, features: Mapping[str, int]) -> Network:
    """Give a network of Linen whose layers have other numbers of features.

    Args:
      net: a network of this library or of `from_linen`.
      features: path of a layer, such as "dense_0" or "block_1_0/conv_0", and its features: units
        or output channels. The layers after it follow from what they get.

    >>> from jaxticket.nn import lenet
    >>> net = with_features(lenet(), {"dense_0": 7})
    >>> net.shapes[0]["dense_1"]["kernel"].shape
    (7, 100)
    """
    sizes = tuple(sorted((layer, int(n)) for layer, n in features.items()))
    config = {**json.loads(net.config), "features": dict(sizes)}
    config.pop("weights", None)

    def fixed(**changes: object) -> Network:
        raise ValueError(f"`adapted` {changes}: this network was compacted; adapt the one before")

    def no_width(width: float) -> Network:
        raise NoWidthError(width, "this network was compacted; resize the one before")

    return dataclasses.replace(
        net,
        config=json.dumps(config, sort_keys=True),
        init=InFeatures(net.init, sizes),
        apply=InFeatures(net.apply, sizes),  # type: ignore[arg-type]
        source=(net.source, sizes),
        resized=no_width,
        adapted=fixed,
        given=None,
        stages=(),
    )
