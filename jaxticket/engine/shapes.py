"""Programs lowered by shapes alone, and the memory that the compiler says they need.

No array is made, so that the devices need not be at hand: a mesh may be one of described devices
(`jax.experimental.topologies`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxticket.engine import parallel
from jaxticket.engine.learner import Block
from jaxticket.engine.program import OriginT, PlanT, Program, StateT
from jaxticket.engine.source import DataArrays
from jaxticket.typing import AnyArray

T = TypeVar("T")

Shape = jax.ShapeDtypeStruct
# of one replica: how many steps, which step, ...
_NUMBER = Shape((), jnp.int32)


def placed(tree: T, mesh: Mesh, *, replicas: bool = True) -> T:
    """The shapes of arrays where `parallel.put` would put them.

    Args:
      tree: arrays, or shapes.
      mesh: the devices.
      replicas: as of `parallel.put`.
    """
    where = parallel.sharding(mesh, replicas=replicas)
    return jax.tree.map(lambda x: _shape(x, (), where), tree)


def replicated(tree: T, mesh: Mesh, size: int) -> T:
    """The shapes of so many replicas [replica, ...] on a mesh, from those of one.

    Args:
      tree: arrays of one replica, or shapes.
      mesh: the devices.
      size: number of replicas, a multiple of the seed axis.
    """
    where = parallel.sharding(mesh, replicas=True)
    return jax.tree.map(lambda x: _shape(x, (size,), where), tree)


def _shape(x: AnyArray | Shape, lead: tuple[int, ...], where: jax.sharding.Sharding) -> Shape:
    return Shape((*lead, *jnp.shape(x)), jnp.result_type(x), sharding=where)


def root_key() -> Shape:
    """The shape of a root key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def of_chunk(
    program: Program[StateT, PlanT, OriginT],
    mesh: Mesh,
    size: int,
    origin: OriginT,
    plan: PlanT,
    arrays: DataArrays,
    block: Block | None = None,
) -> tuple[Shape, StateT, PlanT, Shape, Shape, Block | None, DataArrays]:
    """The arguments of `program.chunk` for so many replicas, as shapes.

    Args:
      program: a compiled learner.
      mesh: the mesh that it is for.
      size: number of replicas, a multiple of the seed axis.
      origin: what one replica starts from, arrays or shapes.
      plan: that of one replica, likewise.
      arrays: the data, as a `Source` or `held.held_arrays` has them.
      block: of a piece, with its leading axis of replicas, where the data come in blocks.
    """
    number, key = (replicated(one, mesh, size) for one in (_NUMBER, root_key()))
    started = replicated(origin, mesh, size)
    state = placed(jax.eval_shape(program.start, number, started, key, number), mesh)
    wanted = replicated(Shape((), jnp.bool_), mesh, size)
    plans, held = replicated(plan, mesh, size), placed(arrays, mesh, replicas=False)
    return number, state, plans, number, wanted, block, held


class Memory(NamedTuple):
    """Bytes of one device that a compiled program needs, by the compiler.

    Attributes:
      arguments, outputs: what it is given and gives, each whole.
      aliased: outputs that take the place of arguments.
      temporary: what it needs in between.
      code: of the program itself.
    """

    arguments: int
    outputs: int
    aliased: int
    temporary: int
    code: int

    @property
    def total(self) -> int:
        """All that must be free, with the arguments."""
        return self.arguments + self.outputs - self.aliased + self.temporary + self.code


def memory(compiled: jax.stages.Compiled) -> Memory:
    """The memory that a compiled program needs on each device.

    Raises:
      ValueError: where the platform's compiler does not say.
    """
    said = compiled.memory_analysis()
    if said is None:
        raise ValueError("`compiled` has no memory analysis: its compiler makes none")
    return Memory(
        arguments=said.argument_size_in_bytes,
        outputs=said.output_size_in_bytes,
        aliased=said.alias_size_in_bytes,
        temporary=said.temp_size_in_bytes,
        code=said.generated_code_size_in_bytes,
    )
