"""Training speed of ResNet-20 at batch 128: jaxticket against Flax and PyTorch.

SGD with momentum, random images of CIFAR-10's shape; images per second of all networks together.
jaxticket is measured through `jt.find_tickets(..., levels=1)`, masks, evaluations (128 examples per
split at the end) and all; the others only train, without masks. How it is measured: _workers.py.

* jaxticket with 1, 4 and 8 seeds: as `parallel.py` runs them on the platform; on a CPU also with
  the compiler's convolutions in place of the kernels that jaxticket generates (--no-compiler leaves
  that out).
* Flax: nn.Conv and nn.BatchNorm, a jitted step in a Python loop, for one network and vmapped over
  several; with --loop also one network with the steps in a `lax.fori_loop` (minutes on a CPU).
* PyTorch, eager, channels-last and default layout, and several networks under torch.func.vmap; on a
  GPU, and elsewhere with --torch-compile, also by torch.compile, channels-last (--no-torch leaves
  all of them out).

Command:  python -m experiments.benchmarks.resnet20 [--rounds 3 --seconds 12 --publish]
          on a GPU: --seeds 1 8 32 64 --dtype bfloat16
Cost:     13 minutes on 2 CPU cores with --seconds 8 --torch-compile
Expected: on 2 cores of an AMD EPYC with AVX-512 4 networks make 515 images per second, 1.5 times
          as many as with the compiler's convolutions, 2.7 times the jitted Flax step, 13 times the
          vmapped one, 0.85 times PyTorch channels-last, 2.2 times its vmapped networks; not run on
          a GPU yet
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from experiments.benchmarks._machine import described, machine, publish
from experiments.benchmarks._workers import (
    Answer,
    Measure,
    Report,
    answer,
    host_batches,
    looped,
    measured,
    print_rates,
    rates,
)
from experiments.common.machine import cores

if TYPE_CHECKING:
    import optax

    Params = Mapping[str, Any]
    State = tuple[Params, optax.OptState]

MODULE = "experiments.benchmarks.resnet20"

BATCH, RATE, CLASSES = 128, 0.1, 10
COMPILER = "compiler's convolutions"
COMPILED = "torch.compile"
VMAP = "torch.func.vmap"
# multiplications and additions of one image, forward and backward
FLOPS = 3 * 2 * 40_813_184


@dataclasses.dataclass(frozen=True)
class Settings:
    """Images per second of ResNet-20 in training."""

    seeds: tuple[int, ...] = (1, 4, 8)
    """How many seeds jaxticket trains side by side."""
    vmapped: tuple[int, ...] = (4,)
    """How many networks Flax trains under vmap."""
    dtype: str = "float32"
    """Type of activations: float32 or bfloat16."""
    rounds: int = 3
    """How often every variant is measured."""
    seconds: float = 12.0
    """Length of one measurement."""
    compiler: bool = True
    """Whether to measure jaxticket with the compiler's own convolutions, on a CPU."""
    loop: bool = False
    """Whether to measure Flax with the steps inside a loop of the program."""
    torch: bool = True
    """Whether to measure PyTorch."""
    ensembles: tuple[int, ...] = (4,)
    """How many networks PyTorch trains under torch.func.vmap."""
    torch_compile: bool = False
    """Whether to measure torch.compile where there is no GPU, which needs a C++ compiler."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/resnet20[-DEVICE].csv and .json."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
      kind: "jaxticket" (form "" or COMPILER), "flax" (form "step" or "loop") or "torch" (a layout,
        COMPILED or VMAP).
      networks: how many train side by side.
      form: the variant of the kind.
      processes: workers.
    """

    kind: str
    networks: int = 1
    form: str = ""
    processes: int = 1

    @property
    def name(self) -> str:
        """The name in tables."""
        many = f"{self.networks} network{'s' * (self.networks > 1)}"
        if self.kind == "flax":
            vmapped = "vmapped, " if self.networks > 1 else ""
            return f"Flax, {vmapped}{'jitted step' if self.form == 'step' else 'loop'}, {many}"
        if self.kind == "torch":
            return f"PyTorch, {self.form}" + f", {many}" * (self.networks > 1)
        return ", ".join(filter(None, ("jaxticket", self.form, many)))


def variants(settings: Settings) -> list[Variant]:
    """Choose what is measured in every round."""
    chosen = [Variant("jaxticket", n) for n in settings.seeds]
    if settings.compiler and "gpu" not in machine():
        chosen += [Variant("jaxticket", n, COMPILER) for n in settings.seeds]
    chosen += [Variant("flax", n, "step") for n in (1, *settings.vmapped)]
    chosen += [Variant("flax", 1, "loop")] * settings.loop
    forms = ("channels-last", "default layout") if settings.torch else ()
    if settings.torch and (settings.torch_compile or "gpu" in machine()):
        forms = (COMPILED, *forms)
    chosen += [Variant("torch", form=form) for form in forms]
    return chosen + [Variant("torch", n, VMAP) for n in settings.ensembles * settings.torch]


def worker(variant: Variant, dtype: str, seconds: float) -> None:
    """Prepare a variant, then measure it whenever a line arrives."""
    kinds = {"jaxticket": tickets, "flax": flax_loop, "torch": torch_loop}
    answer(lambda: kinds[variant.kind](variant, dtype, seconds))


def images() -> tuple[np.ndarray, np.ndarray]:
    """Draw random images in CIFAR-10's shape."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2560, 32, 32, 3), np.uint8), rng.integers(0, CLASSES, 2560)


def tickets(variant: Variant, dtype: str, seconds: float) -> tuple[Measure, Report]:
    """Measure jaxticket through its public function."""
    if variant.form == COMPILER:
        # as where llvmlite, which generates the kernels, is not installed
        sys.modules["llvmlite"] = None  # type: ignore[assignment]
    import jaxticket as jt

    jt.cpu_devices()
    x, y = images()
    data = jt.data.from_arrays(x, y, x[:BATCH], y[:BATCH], classes=CLASSES, name="random")
    net = jt.networks.resnet20(data.shape, CLASSES)

    def call(steps: int) -> Answer:
        training = jt.Training(
            steps=steps, batch_size=BATCH, optimizer="momentum", lr=RATE, eval_every=10**6,
            eval_train_examples=BATCH, eval_batch_size=BATCH, compute_dtype=dtype,
            precision="highest" if dtype == "float32" else "default",
        )  # fmt: skip
        runs = jt.find_tickets(
            net, data, training, jt.Pruning(levels=1), seeds=range(variant.networks), progress=False
        )
        first, later = (float(s) for s in runs.timings().train_seconds)
        return {"rate": variant.networks * steps * BATCH / later, "first": first, "later": later}

    cold = call(4)
    steps = max(4, round(seconds * cold["rate"] / (variant.networks * BATCH)))
    report = {"compile_seconds": cold["first"] - cold["later"], "steps": steps}
    return lambda: call(steps), report


def flax_loop(variant: Variant, dtype: str, seconds: float) -> tuple[Measure, Report]:
    """Measure the usual loop in Flax."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    class Resnet(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            def layer(x: jax.Array, features: int, size: int = 3, stride: int = 1) -> jax.Array:
                x = nn.Conv(
                    features, (size, size), stride, padding=size // 2, use_bias=False, dtype=dtype
                )(x)
                return nn.BatchNorm(use_running_average=False, dtype=dtype)(x)

            x = nn.relu(layer(x, 16))
            for features in (16, 32, 64):
                for block in range(3):
                    stride = 2 if block == 0 and features > 16 else 1
                    y = nn.relu(layer(x, features, stride=stride))
                    y = layer(y, features)
                    x = nn.relu(y + (layer(x, features, 1, stride) if stride > 1 else x))
            return nn.Dense(CLASSES, dtype=dtype)(jnp.mean(x, axis=(1, 2)))

    net, sgd = Resnet(), optax.sgd(RATE, momentum=0.9)
    many = variant.networks > 1

    def init(key: jax.Array) -> State:
        variables = net.init(key, jnp.zeros((1, 32, 32, 3), dtype))
        return variables, sgd.init(variables["params"])

    def update(state: State, x: jax.Array, y: jax.Array) -> State:
        variables, opt = state

        def loss(params: Params) -> tuple[jax.Array, Params]:
            logits, new = net.apply(
                {**variables, "params": params}, x.astype(dtype) / 255, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y)
            return losses.mean(), new

        gradient, new = jax.grad(loss, has_aux=True)(variables["params"])
        change, opt = sgd.update(gradient, opt)
        return {**new, "params": optax.apply_updates(variables["params"], change)}, opt

    x, y = images()
    keys = jax.random.split(jax.random.key(0), variant.networks)
    state = jax.vmap(init)(keys) if many else init(keys[0])
    inner = 2 if variant.form == "loop" else 1
    batches = host_batches(len(y), (variant.networks, BATCH) if many else (BATCH,))
    step_of = jax.vmap(update) if many else update
    if inner > 1:
        step_of = lambda s, x, y: jax.lax.fori_loop(0, inner, lambda _, s: update(s, x, y), s)  # noqa: E731
    compiled = jax.jit(step_of)
    held = [state]

    def step() -> None:
        index = next(batches)
        held[0] = compiled(held[0], x[index], y[index])

    def finish() -> None:
        jax.block_until_ready(held)

    began = time.perf_counter()
    step()
    finish()
    report: Report = {"compile_seconds": time.perf_counter() - began}
    worth = inner * variant.networks * BATCH
    on_cpu = jax.default_backend() == "cpu"
    return looped(step, finish, seconds, block=1 if on_cpu else 50, worth=worth), report


def torch_loop(variant: Variant, dtype: str, seconds: float) -> tuple[Measure, Report]:
    """Measure PyTorch, eager or compiled, with the data in the memory of the device."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(
            'the PyTorch loops need PyTorch: pip install "jaxticket[benchmark]", or --no-torch'
        ) from error
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    # chooses the fastest convolution of these shapes; leaves the CPU as it is
    torch.backends.cudnn.benchmark = True

    def layer(before: int, after: int, size: int = 3, stride: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after))

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            stride = 1 if before == after else 2
            self.inner = nn.Sequential(
                layer(before, after, stride=stride), nn.ReLU(), layer(after, after)
            )
            self.shortcut = nn.Identity() if stride == 1 else layer(before, after, 1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.inner(x) + self.shortcut(x))

    sizes = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)

    def made() -> nn.Module:
        blocks = [Block(a, b) for a, b in itertools.pairwise(sizes)]
        ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES)
        return nn.Sequential(layer(3, 16), nn.ReLU(), *blocks, *ends).to(
            device, getattr(torch, dtype)
        )

    net = made()
    x, y = images()
    x = torch.from_numpy(x).permute(0, 3, 1, 2).to(device, getattr(torch, dtype)) / 255
    y = torch.from_numpy(y).to(device)
    if variant.form == "default layout":
        x = x.contiguous()
    else:
        net, x = (t.to(memory_format=torch.channels_last) for t in (net, x))
    many = variant.networks
    batches = host_batches(len(y), (many, BATCH) if variant.form == VMAP else (BATCH,))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(net(x), y)

    # graphs of the GPU in the place of single kernels, where it can
    loss_of = torch.compile(loss, mode="reduce-overhead") if variant.form == COMPILED else loss

    def alone(index: torch.Tensor) -> None:
        sgd.zero_grad(set_to_none=True)
        loss_of(x[index], y[index]).backward()

    # of one network too, for which it is not used
    params, buffers = torch.func.stack_module_state([made() for _ in range(many)])
    params = {name: value.detach() for name, value in params.items()}

    def loss_in(params: Any, buffers: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(net, (params, buffers), x)
        return nn.functional.cross_entropy(logits, y)

    gradient = torch.func.vmap(torch.func.grad(loss_in))

    def together(index: torch.Tensor) -> None:
        for name, slope in gradient(params, buffers, x[index], y[index]).items():
            params[name].grad = slope

    ensemble = variant.form == VMAP
    descend = together if ensemble else alone
    trained = params.values() if ensemble else net.parameters()
    sgd = torch.optim.SGD(trained, lr=RATE, momentum=0.9)

    def step() -> None:
        descend(torch.from_numpy(next(batches)).to(device))
        sgd.step()

    finish = torch.cuda.synchronize if gpu else lambda: None
    began = time.perf_counter()
    for _ in range(3):  # the first ones compile and choose
        step()
    finish()
    report: Report = {"compile_seconds": time.perf_counter() - began}
    return looped(step, finish, seconds, block=50 if gpu else 1, worth=many * BATCH), report


def main(settings: Settings) -> None:
    """Measure every variant in every round, then print and publish."""
    packages = ("jax", "flax", "optax", "numpy") + (("torch",) if settings.torch else ())
    here = machine(*packages)
    chosen = variants(settings)
    rounds, reports = measured(
        MODULE,
        chosen,
        settings.dtype,
        settings.seconds,
        rounds=settings.rounds,
    )
    of = rates(chosen, rounds)
    between = ratios(chosen, rounds)
    print(f"\n{here}, {settings.dtype}\n")
    print_rates("images per second, all networks together", of)
    fastest = max(values["median"] for values in of.values())
    print(f"the fastest makes {fastest * FLOPS / 1e9:.0f} GFLOP/s")
    print("\nratios within a round: median (least to greatest)")
    for against, one in between.items():
        for name, values in one.items():
            print(f"{name:<24} / {against:<42} {described(values)}")
    for variant, report in reports.items():
        if "compile_seconds" in report:
            print(f"{variant.name:<40} compiles in {report['compile_seconds']:.1f} s")
    if settings.publish:
        rows = [
            {"variant": v.name, "round": i, "images_per_second": round(answers[v]["rate"], 1)}
            for i, answers in enumerate(rounds)
            for v in chosen
        ]
        summary = {"rates": of, "ratios": between}
        reported = {v.name: report for v, report in reports.items()}
        setup = dataclasses.asdict(settings)
        publish(
            "resnet20" if "gpu" not in here else f"resnet20-{here['gpu']}".replace(" ", "-"), rows,
            {"machine": here, "settings": setup, **summary, "reports": reported},
        )  # fmt: skip


def ratios(
    chosen: list[Variant], rounds: list[dict[Variant, Answer]]
) -> dict[str, dict[str, list[float]]]:
    """Divide jaxticket's rates by those of the others in the same round."""
    ours = [v for v in chosen if v.kind == "jaxticket"]
    compilers = [v for v in ours if v.form == COMPILER]
    ours = [v for v in ours if v.form != COMPILER]
    single = [v for v in ours if v.networks == 1]
    result: dict[str, dict[str, list[float]]] = {}
    for other in single + compilers + [v for v in chosen if v.kind != "jaxticket"]:
        for variant in ours:
            if variant != other:
                result.setdefault(other.name, {})[variant.name] = [
                    m[variant]["rate"] / m[other]["rate"] for m in rounds
                ]
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        fields, dtype, length = json.loads(sys.argv[2])
        worker(Variant(**fields), dtype, length)
    else:
        main(tyro.cli(Settings))
