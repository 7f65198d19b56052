"""Training speed of LeNet-300-100 on a CPU: jaxticket against a plain JAX loop and PyTorch loops.

Masked training with Adam, batch 60, data shaped like MNIST (MNIST itself where it is prepared,
random images otherwise). How it is measured: _workers.py.

jaxticket is measured through `jt.find_tickets(..., levels=1, folder=...)`: training steps of all
seeds over the training seconds of level 1, evaluations included. The first call of each worker
compiles and is not counted. The loops only train, they neither evaluate nor save. PyTorch trains
one network in a process, or several under torch.func.vmap, whose batches differ.

Command:  python -m experiments.benchmarks.lenet [--rounds 5 --seconds 6 --publish]
Needs:    pip install "jaxticket[benchmark]" for the PyTorch loops (--no-torch leaves them out)
Cost:     6 minutes on 2 CPU cores with --rounds 2 --seconds 3
Expected: 10 seeds train 1.9 times as fast as the best PyTorch loop in one process, 1.3 times as
          fast as two processes, 2.1 times as fast as 16 networks under torch.func.vmap (2 cores of
          an AMD EPYC); one compilation
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from experiments.benchmarks._machine import described, machine, publish
from experiments.benchmarks._workers import (
    Answer,
    Measure,
    Report,
    answer,
    looped,
    measured,
    print_rates,
    rates,
)
from experiments.common.machine import cores

if TYPE_CHECKING:
    import jax
    import optax

    import jaxticket as jt

    Layers = list[tuple[jax.Array, jax.Array]]

MODULE = "experiments.benchmarks.lenet"

BATCH, RATE, DENSITY, BLOCK = 60, 1.2e-3, 0.5, 50
INTERVAL = 1200  # the thesis' 24,000 steps and 20 evaluations


@dataclasses.dataclass(frozen=True)
class Settings:
    """Aggregate training steps per second of LeNet-300-100 on a CPU."""

    data_dir: str | None = None
    """Folder of prepared TFDS data sets; JAXTICKET_DATA_DIR if not given."""
    seeds: tuple[int, ...] = (1, 5, 10, 16)
    """How many seeds jaxticket trains side by side."""
    rounds: int = 5
    """How often every variant is measured."""
    seconds: float = 6.0
    """Length of one measurement."""
    torch: bool = True
    """Whether to measure the PyTorch loops."""
    ensembles: tuple[int, ...] = (5, 16)
    """How many networks PyTorch trains under torch.func.vmap."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/lenet.csv and lenet.json."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train, and the processes it runs in.

    Attributes:
      kind: "jaxticket", "jax" or "torch".
      processes: workers that run at the same time.
      threads: JAX devices, or threads of PyTorch, of each.
      seeds: networks trained side by side, by jaxticket or under torch.func.vmap.
      form: of PyTorch: mask in the "forward" pass, "folded" in after the update, or "vmap", which
        has it in the forward pass.
    """

    kind: str
    processes: int = 1
    threads: int = 1
    seeds: int = 1
    form: str = ""

    @property
    def name(self) -> str:
        """The name in tables."""
        if self.kind == "jaxticket":
            devices = f"{self.threads} device" + "s" * (self.threads > 1)
            return f"jaxticket, {self.seeds} seed{'s' * (self.seeds > 1)}, {devices}"
        if self.kind == "jax":
            return "JAX, Python loop over a jitted step"
        if self.form == "vmap":
            return f"PyTorch, torch.func.vmap, {self.seeds} networks"
        mask = "mask in the forward pass" if self.form == "forward" else "mask after the update"
        return f"PyTorch, {mask}, {self.processes} x {self.threads} threads"


def variants(settings: Settings, threads: int) -> list[Variant]:
    """Choose what is measured in every round."""
    chosen = [Variant("jaxticket", threads=threads, seeds=n) for n in settings.seeds]
    if 1 in settings.seeds and threads > 1:
        chosen.append(Variant("jaxticket", seeds=1))
    chosen.append(Variant("jax"))
    for form in ("forward", "folded") if settings.torch else ():
        chosen.append(Variant("torch", threads=threads, form=form))
        chosen.append(Variant("torch", processes=threads, form=form))
    for n in settings.ensembles if settings.torch else ():
        chosen.append(Variant("torch", threads=threads, seeds=n, form="vmap"))
    return chosen


# ---- workers


def worker(variant: Variant, data_dir: str | None, seconds: float) -> None:
    """Prepare a variant, then measure it whenever a line arrives."""
    kinds = {"jaxticket": tickets, "jax": jax_loop, "torch": torch_loop}
    answer(lambda: kinds[variant.kind](variant, data_dir, seconds))


def images(data_dir: str | None) -> jt.data.Data:
    """Load MNIST where it is prepared, or draw random images of its shape."""
    import jaxticket as jt

    try:
        return jt.data.load("mnist", data_dir=data_dir)
    except jt.data.MissingDataError:
        if data_dir is not None:
            raise
    rng = np.random.default_rng(0)
    drawn = [
        (rng.integers(0, 256, (n, 28, 28, 1), np.uint8), rng.integers(0, 10, n, np.int32))
        for n in (60_000, 10_000)
    ]
    return jt.data.from_arrays(*drawn[0], *drawn[1], classes=10, name="random")


def tickets(variant: Variant, data_dir: str | None, seconds: float) -> tuple[Measure, Report]:
    """Measure jaxticket through its public function."""
    import jaxticket as jt

    jt.cpu_devices(variant.threads)
    from jaxticket.engine.program import program
    from jaxticket.engine.supervised import Supervised

    data = images(data_dir)
    net = jt.networks.lenet(data.shape, data.classes)
    mesh = jt.parallel.mesh()

    def call(steps: int, branches: tuple[str, ...] = ()) -> Answer:
        training = jt.Training(steps=steps, batch_size=BATCH, lr=RATE, eval_every=INTERVAL)
        seeds = range(variant.seeds)
        built = program(Supervised(net, training), mesh)
        traces = built.traces()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            runs = jt.find_tickets(
                net, data, training, jt.Pruning(levels=1), seeds=seeds, branches=branches,
                mesh=mesh, folder=folder, progress=False,
            )  # fmt: skip
            wall = time.perf_counter() - began
        costs = runs.timings()
        first, later = (float(x) for x in costs.train_seconds)
        between = float((costs.prune_seconds + costs.prepare_seconds).iloc[-1])
        return {
            "rate": variant.seeds * steps / later,
            "first": first,
            "later": later,
            # preparing level 1 and its share of all that is not training
            "between": between / later,
            "outside": (wall - first - later) / (first + later),
            "traces": built.traces() - traces,
        }

    cold = call(INTERVAL)
    with_branches = call(BLOCK, ("reinit", "shuffle"))
    # a whole number of evaluation intervals, so that evaluations have their usual share
    wanted = seconds * cold["rate"] / variant.seeds
    steps = INTERVAL * max(1, round(wanted / INTERVAL))
    report = {
        "compile_seconds": cold["first"] - cold["later"],
        "compilations": cold["traces"],
        "compilations_with_branches": with_branches["traces"],
        "steps": steps,
        "data": data.name,
    }
    return lambda: call(steps), report


def jax_loop(variant: Variant, data_dir: str | None, seconds: float) -> tuple[Measure, Report]:
    """Measure the naive loop: a jitted step, masks in the forward pass, batches from the host."""
    import jax
    import jax.numpy as jnp
    import optax

    del variant
    data = images(data_dir)
    x, y = data.train.x.reshape(len(data.train), -1), data.train.y
    adam = optax.adam(RATE)
    keys = jax.random.split(jax.random.key(0), 6)
    sizes = ((784, 300), (300, 100), (100, 10))
    init = jax.nn.initializers.glorot_normal()
    params = [(init(k, s), jnp.zeros(s[1])) for k, s in zip(keys[:3], sizes, strict=True)]
    masks = [
        jax.random.bernoulli(k, DENSITY, s).astype(jnp.float32)
        for k, s in zip(keys[3:], sizes, strict=True)
    ]

    @jax.jit
    def update(params: Layers, state: optax.OptState, x: jax.Array, y: jax.Array):
        def loss(params: Layers) -> jax.Array:
            h = x.astype(jnp.float32) / 255
            for i, ((w, b), m) in enumerate(zip(params, masks, strict=True)):
                h = (jax.nn.relu(h) if i else h) @ (w * m) + b[None]
            return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

        change, state = adam.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, change), state

    held = params, adam.init(params)
    batches = host_batches(len(y))

    def step() -> None:
        nonlocal held
        index = next(batches)
        held = update(*held, x[index], y[index])

    def finish() -> None:
        jax.block_until_ready(held)

    began = time.perf_counter()
    step()
    finish()
    return looped(step, finish, seconds, block=BLOCK), {
        "compile_seconds": time.perf_counter() - began
    }


def torch_images(variant: Variant, data_dir: str | None) -> tuple[Any, Any, Any]:
    """Import PyTorch with the variant's threads, and give the images as normalized tensors."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(
            'the PyTorch loops need PyTorch: pip install "jaxticket[benchmark]", or --no-torch'
        ) from error
    torch.set_num_threads(variant.threads)
    torch.manual_seed(0)
    data = images(data_dir)
    x = torch.from_numpy(data.train.x.reshape(len(data.train), -1).astype(np.float32) / 255)
    return torch, x, torch.from_numpy(data.train.y.astype(np.int64))


def torch_loop(variant: Variant, data_dir: str | None, seconds: float) -> tuple[Measure, Report]:
    """Measure PyTorch with the data in memory as normalized tensors and fused Adam."""
    if variant.form == "vmap":
        return torch_ensemble(variant, data_dir, seconds)
    torch, x, y = torch_images(variant, data_dir)
    layers = [torch.nn.Linear(784, 300), torch.nn.Linear(300, 100), torch.nn.Linear(100, 10)]
    masks = [(torch.rand_like(layer.weight) < DENSITY).float() for layer in layers]
    weights = [layer.weight for layer in layers]
    parameters = [p for layer in layers for p in layer.parameters()]
    adam = torch.optim.Adam(parameters, lr=RATE, fused=True)
    functional = torch.nn.functional
    forward = variant.form == "forward"

    def prune() -> None:
        with torch.no_grad():
            for weight, mask in zip(weights, masks, strict=True):
                weight.mul_(mask)

    prune()
    batches = host_batches(len(y))

    def step() -> None:
        index = torch.from_numpy(next(batches))
        h = x[index]
        for i, (layer, mask) in enumerate(zip(layers, masks, strict=True)):
            # OpenLTH multiplies in every forward pass; the update alone can undo a mask
            weight = layer.weight * mask if forward else layer.weight
            h = functional.linear(functional.relu(h) if i else h, weight, layer.bias)
        adam.zero_grad(set_to_none=True)
        functional.cross_entropy(h, y[index]).backward()
        adam.step()
        if not forward:
            prune()

    for _ in range(BLOCK):
        step()
    return looped(step, lambda: None, seconds, block=BLOCK), {}


def torch_ensemble(
    variant: Variant, data_dir: str | None, seconds: float
) -> tuple[Measure, Report]:
    """Measure PyTorch with stacked networks, whose gradients torch.func.vmap computes together."""
    torch, x, y = torch_images(variant, data_dir)
    functional, many = torch.nn.functional, variant.seeds
    made = [
        [torch.nn.Linear(*sizes) for sizes in ((784, 300), (300, 100), (100, 10))]
        for _ in range(many)
    ]
    weights, biases = (
        [
            torch.stack([getattr(one, name).detach() for one in layers])
            for layers in zip(*made, strict=True)
        ]
        for name in ("weight", "bias")
    )
    masks = [(torch.rand_like(weight) < DENSITY).float() for weight in weights]
    # Adam works entry by entry: of the stacked networks it is that of each
    adam = torch.optim.Adam([*weights, *biases], lr=RATE, fused=True)

    def loss(weights: Any, biases: Any, masks: Any, x: Any, y: Any) -> Any:
        h = x
        for i, (weight, bias, mask) in enumerate(zip(weights, biases, masks, strict=True)):
            h = functional.linear(functional.relu(h) if i else h, weight * mask, bias)
        return functional.cross_entropy(h, y)

    gradient = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))
    batches = [host_batches(len(y), seed) for seed in range(many)]

    def step() -> None:
        index = torch.from_numpy(np.stack([next(own) for own in batches]))
        slopes = gradient(weights, biases, masks, x[index], y[index])
        for values, own in zip((weights, biases), slopes, strict=True):
            for value, slope in zip(values, own, strict=True):
                value.grad = slope
        adam.step()

    for _ in range(BLOCK):
        step()
    return looped(step, lambda: None, seconds, block=BLOCK, worth=many), {}


def host_batches(examples: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw index arrays of batches, in a new order every epoch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(examples)
        for begin in range(0, examples - BATCH + 1, BATCH):
            yield order[begin : begin + BATCH]


# ---- the process that asks


def main(settings: Settings) -> None:
    """Measure every variant in every round, then print and publish."""
    packages = ("jax", "optax", "numpy") + (("torch",) if settings.torch else ())
    here = machine(*packages)
    chosen = variants(settings, cores())
    rounds, reports = measured(
        MODULE,
        chosen,
        settings.data_dir,
        settings.seconds,
        rounds=settings.rounds,
    )
    summary = summarised(chosen, rounds, reports)
    print(f"\n{here}\n")
    print_rates("aggregate steps per second", summary["rates"])
    print("\nratios within a round: median (least to largest)")
    for against, ratios in summary["ratios"].items():
        for name, values in ratios.items():
            print(f"{name:<33} / {against:<42} {described(values)}")
    print("\njaxticket: compiling, and what is not training as a share of training")
    for name, one in summary["jaxticket"].items():
        print(
            f"{name:<33} compile {one['compile_seconds']:.1f} s, {one['compilations']} compilation "
            f"({one['compilations_with_branches']} with branches); prune and prepare "
            f"{100 * one['prune_and_prepare']:.1f}%, all of the call {100 * one['outside']:.1f}%"
        )
    if settings.publish:
        rows = [
            {"variant": v.name, "round": i, "steps_per_second": round(answers[v]["rate"], 1)}
            for i, answers in enumerate(rounds)
            for v in chosen
        ]
        setup = {k: v for k, v in dataclasses.asdict(settings).items() if k != "data_dir"}
        publish("lenet", rows, {"machine": here, "settings": setup, **summary})


def summarised(
    chosen: list[Variant], rounds: list[dict[Variant, Answer]], reports: dict[Variant, Report]
) -> dict[str, dict[str, Any]]:
    """Compute median rates, and ratios to the best of each kind of loop in the same round."""
    ours = [v for v in chosen if v.kind == "jaxticket"]
    loops = {
        "JAX loop": [v for v in chosen if v.kind == "jax"],
        "best PyTorch loop, one process": [
            v for v in chosen if v.kind == "torch" and v.processes == 1 and v.form != "vmap"
        ],
        "best PyTorch loop, a process per core": [
            v for v in chosen if v.kind == "torch" and v.processes > 1
        ],
        "best ensemble of torch.func.vmap": [v for v in chosen if v.form == "vmap"],
    }
    ratios: dict[str, dict[str, list[float]]] = {}
    for (against, loop), variant in itertools.product(loops.items(), ours):
        if loop:
            ratios.setdefault(against, {})[variant.name] = [
                m[variant]["rate"] / max(m[other]["rate"] for other in loop) for m in rounds
            ]
    costs = {
        v.name: {
            **reports[v],
            "prune_and_prepare": float(np.median([m[v]["between"] for m in rounds])),
            "outside": float(np.median([m[v]["outside"] for m in rounds])),
        }
        for v in ours
    }
    return {"rates": rates(chosen, rounds), "ratios": ratios, "jaxticket": costs}


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        fields, folder, length = json.loads(sys.argv[2])
        worker(Variant(**fields), folder, length)
    else:
        main(tyro.cli(Settings))
