"""Convolutions of several networks side by side: every form of `nn/lowering.py`, by shape.

For each convolution of ResNet-20, VGG-16 and ResNet-50 (one of each shape that stands for many):
the convolution, its input gradient and its kernel gradient, for some replicas, inside a loop of the
program as in training. GFLOP/s, useful operations only; on a CPU replicas are spread over one
virtual device per core, as the trainer does. `chosen` is what the platform uses.

With --forms ... torch also PyTorch's own on a CPU (one network, all threads, channels-last): what
is left to gain, layer by layer.

Command:  python -m experiments.benchmarks.convolution [--forms generated parts torch --publish]
          on a GPU: --replicas 1 8 --dtype bfloat16
          --forms chosen separate loop grouped products
Cost:     about 4 minutes on 2 CPU cores with the defaults; "grouped" and "loop" take hours there
Expected: the tables in jaxticket/nn/lowering.py and experiments/results/benchmarks/
"""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jax.sharding import PartitionSpec as P

import jaxticket as jt
from experiments.benchmarks._machine import machine, publish
from experiments.benchmarks._workers import Answer
from experiments.common.machine import cores
from jaxticket._progress import progress
from jaxticket.nn.geometry import Geometry
from jaxticket.nn.lowering import FORMS, LOWERINGS

PARTS = ("forward", "input", "kernel")


class Shape(NamedTuple):
    """A convolution: square images and kernels, "SAME" size but for the stride."""

    layer: str
    batch: int
    image: int
    channels: int
    features: int
    kernel: int
    stride: int

    @property
    def geometry(self) -> Geometry:
        """The geometry that the lowering takes."""
        pad = ((self.kernel - 1) // 2, (self.kernel - 1) // 2)
        image, kernel = (self.image, self.image), (self.kernel, self.kernel)
        return Geometry(image, kernel, (self.stride, self.stride), (pad, pad), None)

    @property
    def flops(self) -> float:
        """The multiplications and additions of one network."""
        out = self.geometry.output
        return 2.0 * self.batch * out[0] * out[1] * self.kernel**2 * self.channels * self.features


SHAPES = (
    Shape("ResNet-20 stem", 128, 32, 3, 16, 3, 1),
    Shape("ResNet-20 stage 1", 128, 32, 16, 16, 3, 1),
    Shape("ResNet-20 stage 2, first", 128, 32, 16, 32, 3, 2),
    Shape("ResNet-20 stage 2", 128, 16, 32, 32, 3, 1),
    Shape("ResNet-20 stage 3, first", 128, 16, 32, 64, 3, 2),
    Shape("ResNet-20 stage 3", 128, 8, 64, 64, 3, 1),
    Shape("ResNet-20 shortcut", 128, 32, 16, 32, 1, 2),
    Shape("VGG-16 block 1", 128, 32, 64, 64, 3, 1),
    Shape("VGG-16 block 2", 128, 16, 128, 128, 3, 1),
    Shape("VGG-16 block 3", 128, 8, 256, 256, 3, 1),
    Shape("VGG-16 block 4", 128, 4, 512, 512, 3, 1),
    Shape("VGG-16 block 5", 128, 2, 512, 512, 3, 1),
    Shape("ResNet-50 stem", 4, 224, 3, 64, 7, 2),
    Shape("ResNet-50 stage 1, 1x1", 4, 56, 64, 256, 1, 1),
    Shape("ResNet-50 stage 1, 3x3", 4, 56, 64, 64, 3, 1),
    Shape("ResNet-50 stage 4, 3x3", 4, 7, 512, 512, 3, 1),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """GFLOP/s of convolutions and their gradients."""

    replicas: tuple[int, ...] = (2,)
    """How many networks at once."""
    forms: tuple[str, ...] = ("chosen", "products")
    """Names of jaxticket.nn.lowering.FORMS, "chosen", or "torch"."""
    layers: str = ""
    """Only shapes whose name has this in it."""
    dtype: str = "float32"
    """Type of images and kernels."""
    seconds: float = 0.4
    """About how long one measurement takes."""
    rounds: int = 3
    """How often each is measured; the fastest counts."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/convolution[-GPU].csv and .json."""


def measure(shape: Shape, form: str, part: str, replicas: int, settings: Settings) -> Answer:
    """Measure the time of one call, all replicas together, and the rate."""
    platform = jax.default_backend()
    chosen = LOWERINGS.get(platform, LOWERINGS["default"])
    function = getattr(chosen if form == "chosen" else FORMS[form], part)
    at = shape.geometry
    x = (shape.batch, *at.image, shape.channels)
    w = (*at.kernel, shape.channels, shape.features)
    y = (shape.batch, *at.output, shape.features)
    pairs = {"forward": (x, w), "input": (y, w), "kernel": (x, y)}
    mesh = jt.parallel.mesh()
    devices = mesh.shape["seed"]
    count = -(-replicas // devices) * devices
    operands = [
        jax.device_put(
            jax.random.normal(jax.random.key(i), (count, *size), settings.dtype),
            jax.NamedSharding(mesh, P("seed")),
        )
        for i, size in enumerate(pairs[part])
    ]

    def local(times: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        def again(_: jax.Array, carry: jax.Array) -> jax.Array:
            # each call depends on the one before, so that none is left out or moved
            return function(a + carry, b, geometry=at).reshape(-1)[0] * 0

        return jax.lax.fori_loop(0, times, again, a.reshape(-1)[0] * 0)[None]

    # generated kernels do not say that their results vary from device to device
    run = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("seed"), P("seed")), out_specs=P("seed"),
            check_vma=False,
        )
    )  # fmt: skip

    def seconds(times: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(run(jnp.int32(times), *operands))
        return time.perf_counter() - began

    began = time.perf_counter()
    seconds(1)
    compiling = time.perf_counter() - began
    times = max(1, min(10_000, round(settings.seconds / max(seconds(1), 1e-5))))
    took = min(seconds(times) for _ in range(settings.rounds)) / times
    return {
        "milliseconds": round(1e3 * took, 4),
        "gflops": round(shape.flops * count / took / 1e9, 1),
        "compile_seconds": round(compiling, 2),
    }


def measure_torch(shape: Shape, part: str, settings: Settings) -> Answer:
    """Measure the same in PyTorch, for one network."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(
            '--forms torch needs PyTorch: pip install "jaxticket[benchmark]", or leave it out'
        ) from error
    torch.set_num_threads(cores())
    at = shape.geometry
    x = torch.randn(shape.batch, shape.channels, *at.image)
    w = torch.randn(shape.features, shape.channels, *at.kernel)
    g = torch.randn(shape.batch, shape.features, *at.output)
    x, w, g = (t.to(memory_format=torch.channels_last) for t in (x, w, g))
    stride, pad = list(at.stride), [at.pads[0][0]] * 2

    def call() -> None:
        if part == "forward":
            torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)
        else:
            needed = [part == "input", part == "kernel", False]
            torch.ops.aten.convolution_backward(
                g, x, w, None, stride, pad, [1, 1], False, [0, 0], 1, needed
            )

    def seconds(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            call()
        return time.perf_counter() - began

    seconds(1)
    times = max(1, round(settings.seconds / max(seconds(1), 1e-5)))
    took = min(seconds(times) for _ in range(settings.rounds)) / times
    return {
        "milliseconds": round(1e3 * took, 4),
        "gflops": round(shape.flops / took / 1e9, 1),
        "compile_seconds": 0.0,
    }


def main(settings: Settings) -> None:
    """Measure all, print a table and publish it."""
    jt.cpu_devices()
    here = machine("jax", "numpy")
    shapes = [s for s in SHAPES if settings.layers in s.layer]
    jobs = [(s, n, form) for s in shapes for n in settings.replicas for form in settings.forms]
    rows = []
    heading = f"{'layer':<26}{'replicas':>9} {'form':<10}" + "".join(f"{p:>10}" for p in PARTS)
    print(f"{here}, {settings.dtype}\n\nGFLOP/s\n{heading}")
    for shape, replicas, form in (bar := progress(jobs, unit="")):
        found = {
            p: measure_torch(shape, p, settings)
            if form == "torch"
            else measure(shape, form, p, replicas, settings)
            for p in PARTS
        }
        rates = "".join(f"{found[p]['gflops']:10.1f}" for p in PARTS)
        bar.write(f"{shape.layer:<26}{replicas:>9} {form:<10}{rates}")
        rows += [
            {**shape._asdict(), "replicas": replicas, "form": form, "part": p, **found[p]}
            for p in PARTS
        ]
    if settings.publish:
        name = f"convolution-{here['gpu']}" if "gpu" in here else "convolution"
        setup = dataclasses.asdict(settings)
        publish(name.replace(" ", "-"), rows, {"machine": here, "settings": setup})


if __name__ == "__main__":
    main(tyro.cli(Settings))
