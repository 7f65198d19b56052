"""What compilers say of jaxticket's programs on TPUs and an H100, without having one.

Programs of the code as it is are compiled ahead of time for described devices (_ahead.py), and the
optimized programs are read (_hlo.py): time of compilation, memory of a device, collectives with the
axes of the mesh along which they run, whether evaluations stand inside a conditional; and of a
step, of an evaluation and of what else a call does the kernels and, for TPUs, the time by the
compiler's own estimate of cycles. All of these are ESTIMATES of compilers; nothing is measured on
an accelerator.

* train: steps and an evaluation of the preset's training; LeNet in float32 at the highest
  precision, ResNet-20 and VGG-16 in bfloat16 at the default
* search: steps of a search by concrete relaxation
* instability: the evaluation of so many points between two networks
* prune: global magnitude pruning

Each program is compiled in a process of its own, which may take --limit seconds of CPU time (other
work may share the machine): what takes more is a row that says so. Rows are kept in --rows as they
are made, and the same command goes on with those that are missing, on another machine too; rows
over an earlier limit are made again under a higher one.

Command:  pip install "jaxticket[aot]"
          python -m experiments.benchmarks.accelerators [--networks lenet --limit 600 --publish]
          the H100 needs pip install "jax[cuda12]" as well (no card)
Cost:     LeNet's rows 10 to 60 CPU seconds each; ResNet-20's and VGG-16's several minutes each
Expected: no collective over the seed axis; over a data axis of 2 one in each step and one in the
          evaluation
"""

from __future__ import annotations

import dataclasses
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path

import tyro

from experiments.benchmarks._hlo import Instruction
from experiments.benchmarks._machine import RESULTS, Row, publish
from experiments.common.machine import processor

MODULE = "experiments.benchmarks.accelerators"
SEEDS = (1, 8, 64)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compile programs ahead of time, and read what the compilers made of them."""

    topologies: tuple[str, ...] = ("v5e-1", "v5e-8", "v5e-64", "v6e-8", "H100")
    """Names of devices."""
    programs: tuple[str, ...] = ("train", "search", "instability", "prune")
    """Names of programs."""
    networks: tuple[str, ...] = ("lenet", "resnet20", "vgg16")
    """Names of networks."""
    replicas: tuple[int, ...] = SEEDS
    """Numbers of replicas; those that the devices do not divide are left out."""
    vmapped: tuple[int, ...] = ()
    """Trainings with so many replicas of a device in a step; else as jaxticket chooses."""
    limit: int = 600
    """CPU seconds that one program may take."""
    rows: Path = RESULTS / "accelerators.jsonl"
    """File of the rows made so far; those of another version of the code have to be removed."""
    missing: bool = True
    """Whether to compile what is missing; without, the table has the rows made so far alone."""
    label: str = ""
    """Of the code, added to the name of what is published: before or after a change."""
    note: str = ""
    """What is written into the JSON file of the code."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/accelerators[-LABEL].csv and .json."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program for devices.

    Attributes:
      topology, program, network: names.
      replicas: on all devices together; points, of instability.
      data: devices that share a batch.
      vmapped: replicas of a device that take a step together; None for what jaxticket chooses.
    """

    topology: str
    program: str
    network: str
    replicas: int
    data: int = 1
    vmapped: int | None = None


def cases(settings: Settings) -> list[Case]:
    """List what is compiled, the smallest networks first."""
    if settings.vmapped:
        plain = cases(dataclasses.replace(settings, vmapped=(), programs=("train",)))
        usual = [case for case in plain if case.data == 1]
        return [dataclasses.replace(case, vmapped=n) for case in usual for n in settings.vmapped]
    found = []
    for network in settings.networks:
        for topology in settings.topologies:
            chips = int(topology.split("-")[1]) if "-" in topology else 1
            for program in settings.programs:
                many = [n for n in settings.replicas if n % chips == 0]
                found += [Case(topology, program, network, n) for n in many]
        if "v5e-64" in settings.topologies and "train" in settings.programs:
            found.append(Case("v5e-64", "train", network, 64, data=2))
    return found


def examined(case: Case) -> Row:
    """Compile a program in this process and read what became of it."""
    from experiments.benchmarks import _ahead, _hlo
    from jaxticket.engine import parallel, shapes

    mesh = parallel.mesh(data=case.data, devices=_ahead.devices(case.topology))
    task = _ahead.task(case.network, mesh, case.replicas, case.vmapped)
    began = time.process_time()
    function, arguments = _ahead.PROGRAMS[case.program](task)
    lowered = function.lower(*arguments)
    traced = time.process_time()
    compiled = lowered.compile()
    ended = time.process_time()
    memory, found = shapes.memory(compiled), _hlo.read(compiled.as_text())
    step = found.step if case.program in ("train", "search") else None
    batches = len(task.arrays.batched.split)
    evaluations = [loop for loop in _hlo.loops(found, step) if loop.trips == batches]
    # what runs in them, and how often for all replicas of a device, also where they take turns
    parts = {"evaluation": [(loop.body, batches) for loop in evaluations]}
    if step is not None:
        parts["step"] = [(step, 1)]
    apart = [body for bodies in parts.values() for body, _ in bodies]
    costs = {
        name: {"call": found.cost(of, without=apart)}
        | {
            part: sum(n * found.passes(body) * found.cost(of, body) for body, n in bodies)
            for part, bodies in parts.items()
            if bodies
        }
        for name, of in {"cycles": _cycles, "kernels": _hlo.launched}.items()
    }
    sizes = [n for one, _ in found.walk() for n in one.sizes("u8")]
    return {
        "lower_seconds": round(traced - began, 1),
        "compile_seconds": round(ended - traced, 1),
        "memory": memory._asdict() | {"total": memory.total},
        **costs,
        "collectives": _hlo.collectives(found, dict(mesh.shape), step),
        "evaluations": [loop.conditional for loop in evaluations],
        "conditionals": sum(one.opcode == "conditional" for one, _ in found.walk()),
        "images": {
            "evaluated": int(task.arrays.batched.x.size),
            # the compiler may copy the training images into another layout
            "largest": max((n for n in sizes if n != task.arrays.x.size), default=0),
        },
        "versions": versions(case.topology),
    }


def _cycles(one: Instruction) -> int:
    return one.cycles


def versions(topology: str) -> dict[str, str]:
    """Give the versions of JAX and of the plugin that compiles for a topology."""
    plugin = "jax-cuda12-pjrt" if topology == "H100" else "libtpu"
    return {name: metadata.version(name) for name in ("jax", "jaxlib", plugin)}


def compiled_apart(case: Case, limit: int) -> Row:
    """Compile a program in a process of its own.

    Args:
      case: what is compiled.
      limit: CPU seconds that the process may take.

    Returns:
      What `examined` gives, with "status": "compiled"; where it takes longer, or the compiler
      refuses the program, the status alone, which says so.
    """
    from experiments.benchmarks._ahead import environment

    text = json.dumps(dataclasses.asdict(case))
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "worker", text, str(limit)],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return {"status": "compiled", **json.loads(done.stdout.splitlines()[-1])}
    if done.returncode == -signal.SIGXCPU:
        return {"status": f"not within {limit} CPU seconds", "limit": limit}
    # the reason may follow in further lines
    refused = [line for line in done.stderr.splitlines() if "RESOURCE_EXHAUSTED" in line]
    if refused:
        return {"status": "does not fit into the memory", "error": refused[-1]}
    raise SystemExit(f"{done.stderr[-3000:]}\n{case} failed, see above")


def kept(path: Path, limit: int) -> dict[Case, Row]:
    """Read the rows that were made before, without those that a higher limit may finish."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    found = {Case(**row["case"]): row for row in rows}
    return {case: row for case, row in found.items() if row.get("limit", limit) >= limit}


def flat(case: Case, row: Row) -> Row:
    """Write a row as the table has it; numbers that the compiler does not give stay empty."""
    from experiments.benchmarks._ahead import TOPOLOGIES

    columns: Row = {**dataclasses.asdict(case), "status": row["status"]}
    names = (
        "lower_seconds", "compile_seconds", "memory_mb", "temporary_mb", "kernels_step",
        "kernels_evaluation", "kernels_call", "cycles_step", "cycles_evaluation", "cycles_call",
        "estimated_us_step", "estimated_us_evaluation", "estimated_us_call", "collectives_step",
        "collectives_call", "evaluation", "image_copies",
    )  # fmt: skip
    columns |= dict.fromkeys(names, "")
    if row["status"] != "compiled":
        return columns
    ghz = TOPOLOGIES[case.topology].ghz
    for part, cycles in row["cycles"].items():
        columns[f"kernels_{part}"] = row["kernels"][part]
        if ghz is not None:
            columns[f"cycles_{part}"] = cycles
            columns[f"estimated_us_{part}"] = round(cycles / ghz / 1e3, 1)
    for name, inside in (("collectives_step", True), ("collectives_call", False)):
        kinds = Counter(
            f"{one['kind']} over {' and '.join(one['axes'])}"
            for one in row["collectives"]
            if one["in_step"] == inside
        )
        columns[name] = "; ".join(f"{count} {kind}" for kind, count in kinds.items())
    if row["evaluations"]:
        columns["evaluation"] = "conditional" if all(row["evaluations"]) else "in every call"
    if row["images"]["largest"]:
        # more than 1 where replicas have copies of the images that they are evaluated on
        copies = row["images"]["largest"] / row["images"]["evaluated"]
        columns["image_copies"] = round(copies, 2)
    return columns | {
        "lower_seconds": row["lower_seconds"],
        "compile_seconds": row["compile_seconds"],
        "memory_mb": round(row["memory"]["total"] / 1e6, 1),
        "temporary_mb": round(row["memory"]["temporary"] / 1e6, 1),
    }


def main(settings: Settings) -> None:
    """Compile what is missing, then print and publish the table."""
    rows, wanted = kept(settings.rows, settings.limit), cases(settings)
    if not settings.missing:
        wanted = sorted(rows, key=lambda case: case.vmapped is not None)
    settings.rows.parent.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(wanted, start=1):
        if case not in rows:
            rows[case] = compiled_apart(case, settings.limit)
            line = json.dumps({"case": dataclasses.asdict(case), **rows[case]})
            with settings.rows.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        shown = {name: x for name, x in flat(case, rows[case]).items() if x != ""}
        print(f"{number}/{len(wanted)}", *(f"{name}={x}" for name, x in shown.items()), flush=True)
    if settings.publish:
        table = [flat(case, rows[case]) for case in wanted]
        used = [row["versions"] for row in rows.values() if "versions" in row]
        publish(
            "-".join(filter(None, ("accelerators", settings.label))),
            table,
            {
                "what": "estimates of compilers for described devices; nothing ran on one",
                "code": settings.note,
                "compiled_on": {name: processor()[name] for name in ("cpu", "cores")},
                "versions": [v for i, v in enumerate(used) if v not in used[:i]],
                "clocks": "1.5 GHz of v5e, 1.75 GHz of v6e, by the vendor's FLOP/s",
                "limit": settings.limit,
            },
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        most = int(sys.argv[3])
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
        print(json.dumps(examined(Case(**json.loads(sys.argv[2])))))
    else:
        main(tyro.cli(Settings))
