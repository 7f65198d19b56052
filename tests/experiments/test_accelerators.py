"""Optimized programs are read as they are: loops, conditionals, collectives, what costs what."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import _ahead, _hlo, accelerators
from jaxticket.engine import parallel

SIZES = {"seed": 2, "data": 2}


@pytest.fixture(scope="module")
def program():
    """Steps with a mean over `data` in each, then 20 batches in a branch, added over `seed`."""
    mesh = parallel.mesh(seeds=2, data=2)

    def local(limit, x, batches, wanted):
        def step(_, x):
            return jnp.sin(x) + jax.lax.pmean(jnp.cos(x), "data")

        def evaluated(x):
            return jax.lax.scan(lambda total, b: (total + jnp.sum(b * x), None), x[0], batches)[0]

        x = jax.lax.fori_loop(0, limit, step, x)
        # as replicas that run one by one have it
        found = jax.lax.cond(wanted, evaluated, lambda x: x[0] * 0, x)
        return x, jax.lax.psum(found, "seed")[None]

    specs = (P(), P(("seed", "data")), P(), P())
    run = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(specs[1], P("data")))
    shapes = (
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((32,), jnp.float32),
        jax.ShapeDtypeStruct((20, 8), jnp.float32),
        jax.ShapeDtypeStruct((), bool),
    )
    return _hlo.read(jax.jit(run).lower(*shapes).compile().as_text())


def test_collectives_have_their_axes_and_places(program):
    found = _hlo.collectives(program, SIZES, program.step)
    assert sorted((one["axes"], one["in_step"]) for one in found) == [
        (["data"], True),
        (["seed"], False),
    ]
    assert {one["kind"] for one in found} == {"all-reduce"}


def test_loops_of_a_known_length_are_counted_and_branches_seen(program):
    (loop,) = _hlo.loops(program, program.step)
    assert loop.trips == 20 and loop.conditional
    assert loop.body in program.computations


def test_costs_count_loops_as_often_as_they_run(program):
    def sines(one):
        return int(one.opcode == "sine")

    def kernels(begin=None, without=()):
        return program.cost(_hlo.launched, begin, without=without)

    steps = kernels(program.step)
    assert 0 < steps < 20
    # 20 passes through the loop in the branch
    assert kernels(without=[program.step]) >= 20
    assert kernels() == steps + kernels(without=[program.step])
    assert sum(sines(one) for one, _ in program.walk()) == 1


@pytest.mark.parametrize(
    ("written", "along"),
    [
        ("replica_groups={{0,1},{2,3}}", ("data",)),
        ("replica_groups={{0,2},{1,3}}", ("seed",)),
        ("replica_groups={{0,1,2,3}}", ("seed", "data")),
        ("replica_groups=[2,2]<=[4]", ("data",)),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", ("seed",)),
        ("replica_groups=mesh['seed'=2,'data'=2] {'data'}", ("data",)),
        ("source_target_pairs={{0,1},{1,0}}", ("data",)),
    ],
)
def test_groups_are_read_in_every_form(written, along):
    one = _hlo.Instruction("x", "all-reduce", "f32[2]{0}", f"%y), {written}, to_apply=%add")
    assert one.axes(SIZES) == along


def test_groups_of_another_form_are_refused():
    one = _hlo.Instruction("x", "all-reduce", "f32[2]{0}", "%y), replica_groups=?, to_apply=%add")
    with pytest.raises(ValueError, match="groups of 'x' are not understood"):
        one.axes(SIZES)


def test_trip_counts_and_cycles_come_from_either_compiler():
    """As a TPU's compiler writes them, and a GPU's."""
    text = """
%ends (p: (s32[])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
}

%body (p: (s32[])) -> (s32[]) {
  %p.1 = (s32[]{:T(128)}) parameter(0)
  ROOT %f = (s32[]{:T(128)}) fusion(%p.1), calls=%g, backend_config={"estimated_cycles":"10"}
}

ENTRY %main (a: (s32[])) -> (s32[]) {
  %a = (s32[]{:T(128)}) parameter(0)
  %w = (s32[]{:T(128)}) while(%a), condition=%ends, body=%body
  ROOT %v = (s32[]) while(%w), body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
%g (q: (s32[])) -> (s32[]) {
  ROOT %q = (s32[]) parameter(0)
}
"""
    program = _hlo.read(text)
    assert program.cost(lambda one: one.cycles) == (7 + 5) * 10
    assert program.cost(_hlo.launched) == 7 + 5
    assert program.step is None
    with pytest.raises(ValueError, match="no ENTRY"):
        _hlo.read("HloModule nothing")


def test_the_steps_of_blocks_of_replicas_are_seen_inside_their_loop():
    text = """
%step (p: (s32[])) -> (s32[]) {
  %p = (s32[]) parameter(0)
  ROOT %f = (s32[]) custom-call(%p), custom_call_target="product"
}

%block (q: (s32[])) -> (s32[]) {
  %q = (s32[]) parameter(0)
  ROOT %steps = (s32[]) while(%q), condition=%asked, body=%step
}

%asked (r: (s32[])) -> pred[] {
  ROOT %r = pred[] parameter(0)
}

ENTRY %main (a: (s32[])) -> (s32[]) {
  %a = (s32[]) parameter(0)
  ROOT %w = (s32[]) while(%a), body=%block, backend_config={"known_trip_count":{"n":"4"}}
}
"""
    program = _hlo.read(text)
    assert program.step == "step"
    assert program.passes("step") == 4
    assert program.cost(_hlo.launched) == 4


@pytest.fixture(scope="module")
def lenet():
    return _ahead.task("lenet", parallel.mesh(seeds=2, data=2), 4)


@pytest.mark.parametrize("name", _ahead.PROGRAMS)
def test_every_program_is_lowered_by_shapes_alone(name, lenet):
    function, arguments = _ahead.PROGRAMS[name](lenet)
    arrays = [x for x in jax.tree.leaves(arguments) if not isinstance(x, jax.ShapeDtypeStruct)]
    assert not arrays
    assert "@main" in function.lower(*arguments).as_text()


def test_cases_fit_their_devices():
    found = accelerators.cases(accelerators.Settings())
    assert len(set(found)) == len(found)
    assert {case.topology for case in found} == set(_ahead.TOPOLOGIES)
    chips = {"v5e-1": 1, "v5e-8": 8, "v5e-64": 64, "v6e-8": 8, "H100": 1}
    assert all(case.replicas % (chips[case.topology] // case.data) == 0 for case in found)
    assert {case.data for case in found} == {1, 2}
    forms = accelerators.cases(accelerators.Settings(networks=("lenet",), vmapped=(1, 8)))
    assert {(case.program, case.data, case.vmapped) for case in forms} == {
        ("train", 1, 1),
        ("train", 1, 8),
    }


def test_rows_are_kept_and_those_over_a_lower_limit_made_again(tmp_path):
    done, over = (accelerators.Case("v5e-1", "train", "lenet", n) for n in (1, 8))
    rows = {done: {"status": "compiled"}, over: {"status": "not within 60", "limit": 60}}
    path = tmp_path / "rows.jsonl"
    assert accelerators.kept(path, 60) == {}
    lines = [json.dumps({"case": dataclasses.asdict(c), **row}) for c, row in rows.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert set(accelerators.kept(path, 60)) == {done, over}
    assert set(accelerators.kept(path, 61)) == {done}
