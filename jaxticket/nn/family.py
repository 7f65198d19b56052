"""What the constructors of this library share: a network that can be made in other sizes.

A constructor takes `shape` and `classes` first and checks its own options; `family_network` checks
classes and width, records all arguments and gives the network its `resized` and `adapted`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flax.linen as nn

from jaxticket._check import number, whole
from jaxticket.nn import linen
from jaxticket.nn.network import make_network
from jaxticket.typing import Json, Network, SymmetryOf

Options = Json
"""Arguments of a constructor other than `shape` and `classes`."""
Scaled = Callable[[Options, float], Options]
"""`scaled(options, factor)`: the options of the network `factor` times as wide."""


def wider(options: Options, factor: float) -> Options:
    """Multiply the option `width`."""
    return {**options, "width": options["width"] * factor}


@dataclass(frozen=True, eq=False)
class Family:
    """A constructor and its arguments; a class and no closures, so that networks pickle."""

    constructor: Callable[..., Network]
    shape: tuple[int, ...]
    classes: int
    options: Options
    scaled: Scaled

    def resized(self, factor: float) -> Network:
        """Make the network `factor` times as wide."""
        factor = number("width", factor, 0, above=True)
        return self.constructor(self.shape, self.classes, **self.scaled(self.options, factor))

    def adapted(
        self, shape: tuple[int, ...] | None = None, classes: int | None = None, **changes: object
    ) -> Network:
        """Make the network for other data, or with other options."""
        return self.constructor(
            self.shape if shape is None else shape,
            self.classes if classes is None else classes,
            **{**self.options, **changes},
        )


def family_network(
    constructor: Callable[..., Network],
    module: Callable[[float], nn.Module],
    shape: tuple[int, ...],
    classes: int,
    *,
    output: str,
    symmetry: SymmetryOf | None = None,
    stages: Sequence[Sequence[str]] = (),
    scaled: Scaled = wider,
    **options: object,
) -> Network:
    """Make the network of a module, with its constructor and options recorded.

    Args:
      constructor: called as `constructor(shape, classes, **options)` for other sizes.
      module: `module(width)`, a Linen module.
      shape: checked argument of the constructor.
      classes: argument of the constructor.
      output: as for `from_linen`.
      symmetry: as for `from_linen`.
      stages: as for `from_linen`.
      scaled: gives the options of a wider network.
      **options: all other arguments of the constructor, `init` among them.
    """
    classes = whole("classes", classes, 1)
    width = 1.0
    if "width" in options:
        options["width"] = width = number("width", options["width"], 0, above=True)
    described = init = options["init"]
    if callable(init):
        described = f"{init.__module__}.{getattr(init, '__qualname__', repr(init))}"
    family = Family(constructor, shape, classes, options, scaled)
    name = constructor.__name__
    return make_network(
        **linen.parts(module(width), shape, name=name),
        constructor=name,
        output=output,
        config={"shape": list(shape), "classes": classes, **options, "init": described},
        resized=family.resized,
        adapted=family.adapted,
        symmetry=symmetry,
        stages=stages,
        # `layers.Norm` computes in float32; rounded scales would have rounded gradients, which a
        # TPU sums in passes of their own over the activations
        float32=("*norm*/scale", "*norm*/bias"),
    )
