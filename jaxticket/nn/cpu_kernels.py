"""Convolution kernels for CPUs, generated on demand.

The compiler's own convolutions of few channels spend their time on packing patches, and its
gradient of a kernel is slow inside loops (lowering.py has numbers). These kernels read the image
where it lies. LLVM (llvmlite) translates them for the machine at hand, and XLA calls them through
its foreign function interface. Two are enough:

- `convolution`: for a tile of output positions and two vectors of output channels the sums stay in
  registers, while each number of the image is broadcast against the kernel's vectors,
  `y[n, i, j, :] += x[n, i + a, j + b, c] * w[a, b, c, :]`. The input gradient is the same
  with the kernel flipped; for a stride s it falls into s * s convolutions without stride, one for
  each remainder of the output's position.
- `kernel_gradient`: for a tile of kernel entries the sums over positions stay in registers,
  `w'[a, b, c, :] += x[n, i + a, j + b, c] * g[n, i, j, :]`.

A kernel uses one thread: XLA runs the devices of a host side by side, and `jt.cpu_devices()` makes
one device per core. Without llvmlite, or with more than two cores for each device, `supports` is
False and the compiler's convolutions are used.

lowering.py has what was measured, and for which shapes these kernels are chosen.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxticket.nn.geometry import Geometry

# optional, and imported when a kernel is generated
if TYPE_CHECKING:
    from llvmlite.binding import ExecutionEngine
    from llvmlite.ir import Function, GlobalVariable, Module, Value

VERSION = 1
"""Part of the kernels' names: programs that are cached on disk refer to kernels by name."""
_UNROLL = 4
"""Steps of an innermost loop that stand one after another."""
_CACHE = 24 * 1024
"""Bytes of the first cache that rows of image and gradient may fill together."""


class _Target(NamedTuple):
    """What a machine has: float32 numbers of a vector, and vectors that sums may stay in."""

    lanes: int
    sums: int


@functools.cache
def _target() -> _Target | None:
    """The vectors of this machine, None where kernels cannot be generated."""
    if importlib.util.find_spec("llvmlite") is None or _interface_minor() is None:
        return None
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return _Target(16, 28)
    if features.get("avx2") and features.get("fma"):
        return _Target(8, 12)
    if features.get("neon") or llvm.get_default_triple().startswith(("aarch64", "arm64")):
        return _Target(4, 24)
    return None


@functools.cache
def _interface_minor() -> int | None:
    """Minor version of XLA's foreign function interface, None for one that is not known."""
    header = os.path.join(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    try:
        with open(header, encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return None
    version = {name: int(number) for name, number in re.findall(r"XLA_FFI_API_(\w+) (\d+)", text)}
    return version.get("MINOR") if version.get("MAJOR") == 0 else None


def cores_per_device() -> float:
    """Cores that this process may use, for each CPU device."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) / jax.local_device_count("cpu")


def supports(dtype: DTypeLike, features: int) -> bool:
    """Whether kernels can be generated for this type and number of output channels."""
    target = _target()
    if target is None or jnp.dtype(dtype) != jnp.float32 or cores_per_device() > 2:
        return False
    return features % target.lanes == 0


def convolution(x: Array, w: Array, at: Geometry) -> Array:
    """The convolution of one network.

    Args:
      x: [batch, height, width, in], float32.
      w: [height, width, in, out], float32; `supports` has to hold of out.
      at: sizes, stride and padding.

    Returns:
      [batch, height', width', out].
    """
    (height, width), (down, right) = at.kernel, at.stride
    taps = tuple(_Tap(a * width + b, a, b) for a in range(height) for b in range(width))
    part = _Part(taps, at.output, (1, 1), (0, 0), (down, right))
    (rows, columns), ((top, _), (left, _)) = at.output, at.pads
    frame = _Frame(((rows - 1) * down + height, (columns - 1) * right + width), (top, left))
    plan = _Plan(x.shape, w.shape[2], w.shape[3], at.output, frame, (part,))
    return _call(_emit_convolution, plan, (x, w), (x.shape[0], *at.output, w.shape[3]))


def input_gradient(g: Array, w: Array, at: Geometry) -> Array:
    """The input gradient of one network.

    Args:
      g: [batch, height', width', out], float32.
      w: the kernel with in and out exchanged, [height, width, out, in], not flipped; `supports` has
        to hold of in.
      at: sizes, stride and padding of the convolution.

    Returns:
      [batch, height, width, in].
    """
    # x[i] meets g[(i + pad - a) / stride] for the taps a that leave no remainder
    axes = [
        _residues(n, k, s, pads[0])
        for n, k, s, pads in zip(at.image, at.kernel, at.stride, at.pads, strict=True)
    ]
    before = [max((0, *(-low for residue in axis for low in residue.lows))) for axis in axes]
    after = [
        max((m, *(high for residue in axis for high in residue.highs)))
        for axis, m in zip(axes, at.output, strict=True)
    ]
    frame = _Frame((before[0] + after[0], before[1] + after[1]), (before[0], before[1]))
    parts = []
    for rows in axes[0]:
        for columns in axes[1]:
            taps = tuple(
                _Tap(a * at.kernel[1] + b, i + before[0], j + before[1])
                for a, i in rows.taps
                for b, j in columns.taps
            )
            size = (rows.count, columns.count)
            parts.append(_Part(taps, size, at.stride, (rows.first, columns.first), (1, 1)))
    plan = _Plan(g.shape, g.shape[3], w.shape[3], at.image, frame, tuple(parts))
    return _call(_emit_convolution, plan, (g, w), (g.shape[0], *at.image, w.shape[3]))


def kernel_gradient(x: Array, g: Array, at: Geometry) -> Array:
    """The kernel gradient of one network.

    Args:
      x: [batch, height, width, in], float32.
      g: [batch, height', width', out], float32; `supports` has to hold of out.
      at: sizes, stride and padding of the convolution.

    Returns:
      [height, width, in, out].
    """
    (height, width), (down, right), (rows, columns) = at.kernel, at.stride, at.output
    frame = _Frame(
        ((rows - 1) * down + height, (columns - 1) * right + width),
        (at.pads[0][0], at.pads[1][0]),
    )
    part = _Part((), at.output, (1, 1), (0, 0), at.stride)
    plan = _Plan(x.shape, x.shape[3], g.shape[3], at.kernel, frame, (part,))
    return _call(_emit_kernel_gradient, plan, (x, g), (*at.kernel, x.shape[3], g.shape[3]))


class _Residue(NamedTuple):
    """Input positions along one axis that share the remainder of their division by the stride.

    They are `first + stride * i` for i below `count`. Each tap is (entry of the kernel, offset):
    position i meets entry `i + offset` of the output's gradient.
    """

    first: int
    count: int
    taps: tuple[tuple[int, int], ...]

    @property
    def lows(self) -> list[int]:
        """The first entry that each tap meets."""
        return [offset for _, offset in self.taps]

    @property
    def highs(self) -> list[int]:
        """One past the last entry that each tap meets."""
        return [offset + self.count for _, offset in self.taps]


def _residues(image: int, kernel: int, stride: int, pad: int) -> list[_Residue]:
    residues = []
    for first in range(min(stride, image)):
        taps = tuple(
            (a, (first + pad - a) // stride)
            for a in range(kernel)
            if (first + pad - a) % stride == 0
        )
        residues.append(_Residue(first, -(-(image - first) // stride), taps))
    return residues


# what a kernel computes, as static numbers


class _Tap(NamedTuple):
    """An entry of the kernel, and its offset in the padded image: rows down, columns right."""

    place: int
    down: int
    right: int


class _Part(NamedTuple):
    """Output positions that are computed from the same taps.

    They are `first + spread * (i, j)` for (i, j) in `size`; their windows begin at `step * (i, j)`
    of the padded image, plus the offset of each tap.
    """

    taps: tuple[_Tap, ...]
    size: tuple[int, int]
    spread: tuple[int, int]
    first: tuple[int, int]
    step: tuple[int, int]


class _Frame(NamedTuple):
    """Size of a padded image, and the origin of the image in it (negative where it is cut)."""

    size: tuple[int, int]
    at: tuple[int, int]


class _Plan(NamedTuple):
    """Everything that a kernel's code depends on.

    Attributes:
      image: [batch, height, width, channels] of the image that is padded.
      channels, features: input and output channels of the kernel.
      output: height and width of the result (of the kernel, where that is the result).
      frame: of the padded image.
      parts: of the output.
    """

    image: tuple[int, ...]
    channels: int
    features: int
    output: tuple[int, int]
    frame: _Frame
    parts: tuple[_Part, ...]

    @property
    def scratch(self) -> int:
        """Numbers of a padded image, rounded up to whole vectors."""
        return -(-math.prod(self.frame.size) * self.channels // 16) * 16


# from a plan to a call in a program

Emit = Callable[["Module", _Plan, _Target], "Function"]
"""Writes the code of a kernel into a module."""

_lock = threading.Lock()
_engines: list[ExecutionEngine] = []
"""Owners of the machine code, which lives as long as the process."""


def _call(emit: Emit, plan: _Plan, operands: tuple[Array, Array], shape: tuple[int, ...]) -> Array:
    target = _target()
    assert target is not None, "callers ask `supports` first"
    with _lock:
        name = _registered(emit, plan, target)
    results = (
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct((plan.scratch,), jnp.float32),
    )
    return jax.ffi.ffi_call(name, results)(*operands)[0]


@functools.cache
def _registered(emit: Emit, plan: _Plan, target: _Target) -> str:
    """Generate a kernel, register it with XLA and return its name."""
    import hashlib

    import llvmlite.binding as llvm
    import llvmlite.ir as ir

    digest = hashlib.sha256(repr((VERSION, target, plan)).encode()).hexdigest()[:24]
    name = f"jaxticket{emit.__name__.removeprefix('_emit')}_{digest}"
    module = ir.Module(name)
    module.triple = llvm.get_default_triple()
    kernel = emit(module, plan, target)
    _emit_handler(module, kernel)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    parsed = llvm.parse_assembly(str(module))
    # 512-bit vectors are split on some machines unless they are asked for
    features = f"{llvm.get_host_cpu_features().flatten()},-prefer-256-bit"
    machine = llvm.Target.from_default_triple().create_target_machine(
        opt=3, cpu=llvm.get_host_cpu_name(), features=features, codemodel="jitdefault"
    )
    # loops are unrolled by this module
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(parsed, builder)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    _engines.append(engine)
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = (
        ctypes.py_object,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p),
    )
    handler = capsule(engine.get_function_address("handler"), None, None)
    jax.ffi.register_ffi_target(name, handler, platform="cpu")
    return name


def _emit_handler(module: Module, kernel: Function) -> None:
    """Write the function that XLA calls, `XLA_FFI_Error* handler(XLA_FFI_CallFrame*)`.

    Offsets are those of the C structures in xla/ffi/api/c_api.h, which its versions 0.x share.
    """
    import llvmlite.ir as ir

    pointer, byte = ir.PointerType(), ir.IntType(8)
    word, wide = ir.IntType(32), ir.IntType(64)
    handler = ir.Function(module, ir.FunctionType(pointer, [pointer]), "handler")
    b = ir.IRBuilder(handler.append_basic_block())
    success = ir.Constant(pointer, None)

    def field(of: Value, offset: int) -> Value:
        return b.gep(of, [ir.Constant(wide, offset)], source_etype=byte)

    def load(of: Value, offset: int) -> Value:
        return b.load(field(of, offset), typ=pointer)

    frame = handler.args[0]
    extension = load(frame, 8)
    asked = b.icmp_unsigned("!=", b.ptrtoint(extension, wide), ir.Constant(wide, 0))
    with b.if_then(asked):
        # XLA asks for the version of the interface
        version = load(extension, 24)
        b.store(ir.Constant(word, 0), field(version, 24))
        b.store(ir.Constant(word, _interface_minor()), field(version, 28))
        b.ret(success)
    arguments, results = load(frame, 72), load(frame, 112)
    buffers = [load(load(of, 8 * i), 24) for of in (arguments, results) for i in range(2)]
    b.call(kernel, buffers)
    b.ret(success)


# code


class _Code:
    """Writes the code of one kernel: `kernel(first operand, second operand, result, scratch)`."""

    def __init__(self, module: Module, target: _Target) -> None:
        import llvmlite.ir as ir

        self.ir, self.lanes = ir, target.lanes
        self.index, self.number = ir.IntType(64), ir.FloatType()
        self.vector = ir.VectorType(self.number, target.lanes)
        pointer = ir.PointerType()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 4), "kernel")
        for argument in function.args:
            argument.add_attribute("noalias")
        self.function, self.module = function, module
        self.b = ir.IRBuilder(function.append_basic_block())
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._fma = ir.Function(module, kind, f"llvm.fma.v{target.lanes}f32")
        self.zero = ir.Constant(self.vector, [0.0] * target.lanes)

    def at(self, pointer: Value, *terms: Value | int | tuple[Value, int]) -> Value:
        """Address of an entry, whose index is the sum of the terms.

        Terms are numbers, values or pairs (value, factor), which stand for their product.
        """
        total = 0
        value: Value | None = None
        for term in terms:
            if isinstance(term, int):
                total += term
                continue
            factor = 1
            if isinstance(term, tuple):
                term, factor = term
            product = self.b.mul(term, self.ir.Constant(self.index, factor))
            value = product if value is None else self.b.add(value, product)
        place = self.ir.Constant(self.index, total)
        if value is not None:
            place = self.b.add(value, place)
        return self.b.gep(pointer, [place], source_etype=self.number)

    def load(self, pointer: Value, *, vector: bool = True) -> Value:
        """Read a vector or a number."""
        return self.b.load(pointer, align=4, typ=self.vector if vector else self.number)

    def store(self, value: Value, pointer: Value) -> None:
        """Write a vector or a number."""
        self.b.store(value, pointer, align=4)

    def broadcast(self, pointer: Value) -> Value:
        """Read a number into all lanes of a vector."""
        word = self.ir.IntType(32)
        nothing = self.ir.Constant(self.vector, self.ir.Undefined)
        one = self.b.insert_element(
            nothing, self.load(pointer, vector=False), self.ir.Constant(word, 0)
        )
        places = self.ir.Constant(self.ir.VectorType(word, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(one, nothing, places)

    def multiply_add(self, a: Value, b: Value, c: Value) -> Value:
        """Compute a * b + c."""
        return self.b.call(self._fma, [a, b, c])

    @contextmanager
    def loop(
        self, stop: int, step: int = 1, sums: Sequence[Value] = ()
    ) -> Iterator[tuple[Value, list[Value]]]:
        """Write a loop from 0 to `stop`, given as (counter, sums).

        The block replaces the entries of the list of sums by their new values; after the loop the
        list holds the final ones.
        """
        b, before = self.b, self.b.block
        head, body, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        counter = b.phi(self.index)
        counter.add_incoming(self.ir.Constant(self.index, 0), before)
        carried = []
        for value in sums:
            phi = b.phi(self.vector)
            phi.add_incoming(value, before)
            carried.append(phi)
        b.cbranch(b.icmp_signed("<", counter, self.ir.Constant(self.index, stop)), body, end)
        b.position_at_end(body)
        current = list(carried)
        yield counter, current
        following = b.add(counter, self.ir.Constant(self.index, step))
        counter.add_incoming(following, b.block)
        for phi, value in zip(carried, current, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(end)
        current[:] = carried

    def fill_with_zeros(self, pointer: Value, count: int) -> None:
        """Write `count` zeros."""
        whole = count // self.lanes * self.lanes
        with self.loop(whole, self.lanes) as (i, _):
            self.store(self.zero, self.at(pointer, i))
        for i in range(whole, count):
            self.store(self.ir.Constant(self.number, 0.0), self.at(pointer, i))

    def copy(self, source: Value, target: Value, count: int) -> None:
        """Copy `count` numbers."""
        whole = count // self.lanes * self.lanes
        with self.loop(whole, self.lanes) as (i, _):
            self.store(self.load(self.at(source, i)), self.at(target, i))
        for i in range(whole, count):
            self.store(self.load(self.at(source, i), vector=False), self.at(target, i))

    def pad(self, image: Value, scratch: Value, plan: _Plan) -> None:
        """Copy one image into its frame, whose border is already zero."""
        _, height, width, channels = plan.image
        (rows, columns), (top, left) = plan.frame
        first, last = max(0, -top), min(height, rows - top)
        begin, end = max(0, -left), min(width, columns - left)
        if last <= first or end <= begin:
            return
        with self.loop(last - first) as (i, _):
            source = self.at(image, (i, width * channels), (first * width + begin) * channels)
            place = ((first + top) * columns + begin + left) * channels
            self.copy(
                source, self.at(scratch, (i, columns * channels), place), (end - begin) * channels
            )


def _vectors(features: int, target: _Target, most: int) -> int:
    """Choose how many vectors of output channels are computed together."""
    return next(v for v in (4, 2, 1) if v <= most and features % (v * target.lanes) == 0)


def _tile(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Choose the largest tile (rows, columns) of at most `most` positions that divides a part.

    Of tiles of equal size the widest is taken.
    """
    tiles = [
        (rows, columns)
        for rows in range(1, size[0] + 1)
        for columns in range(1, size[1] + 1)
        if size[0] % rows == 0 and size[1] % columns == 0 and rows * columns <= most
    ]
    return max(tiles, key=lambda tile: (tile[0] * tile[1], tile[1]))


def _emit_convolution(module: Module, plan: _Plan, target: _Target) -> Function:
    code = _Code(module, target)
    image, kernel, result, scratch = code.function.args
    batch, height, width, channels = plan.image
    rows, columns = plan.output
    code.fill_with_zeros(scratch, plan.scratch)
    with code.loop(batch) as (n, _):
        code.pad(code.at(image, (n, height * width * channels)), scratch, plan)
        y = code.at(result, (n, rows * columns * plan.features))
        for part in plan.parts:
            _emit_part(code, plan, part, target, scratch, kernel, y)
    code.b.ret_void()
    return code.function


def _emit_part(
    code: _Code, plan: _Plan, part: _Part, target: _Target, scratch: Value, kernel: Value, y: Value
) -> None:
    """Write the code for one image's output positions of a part."""
    ir, b = code.ir, code.b
    channels, features, columns = plan.channels, plan.features, plan.output[1]
    wide = plan.frame.size[1]
    vectors = _vectors(features, target, 2)
    high, across = _tile(part.size, target.sums // vectors)
    lanes, block = target.lanes, vectors * target.lanes
    (down, right), (apart, alongside) = part.step, part.spread
    # where each tap finds its weights and its image, in numbers
    tables = [
        [tap.place * channels * features for tap in part.taps],
        [(tap.down * wide + tap.right) * channels for tap in part.taps],
    ]
    held = []
    for table in tables:
        kind = ir.ArrayType(code.index, len(table))
        name = code.module.get_unique_name("offsets")
        variable = ir.GlobalVariable(code.module, kind, name)
        variable.initializer = ir.Constant(kind, table)
        variable.global_constant = True
        held.append(variable)

    def offset(table: GlobalVariable, tap: Value) -> Value:
        return b.load(b.gep(table, [tap], source_etype=code.index), typ=code.index)

    unroll = next(u for u in range(_UNROLL, 0, -1) if channels % u == 0)
    tile = [(i, j) for i in range(high) for j in range(across)]
    with (
        code.loop(features, block) as (feature, _),
        code.loop(part.size[0], high) as (i, _),
        code.loop(part.size[1], across) as (j, _),
    ):
        here = code.at(scratch, (i, down * wide * channels), (j, right * channels))
        zeros = [code.zero] * (len(tile) * vectors)
        with code.loop(len(part.taps), sums=zeros) as (tap, sums):
            weights = code.at(kernel, offset(held[0], tap), feature)
            seen = code.at(here, offset(held[1], tap))
            with code.loop(channels, unroll, sums) as (channel, inner):
                w, x = code.at(weights, (channel, features)), code.at(seen, channel)
                for u in range(unroll):
                    row = [code.load(code.at(w, u * features + v * lanes)) for v in range(vectors)]
                    for place, (r, s) in enumerate(tile):
                        one = code.broadcast(
                            code.at(x, (r * down * wide + s * right) * channels + u)
                        )
                        for v in range(vectors):
                            k = place * vectors + v
                            inner[k] = code.multiply_add(one, row[v], inner[k])
            sums[:] = inner
        start = (part.first[0] * columns + part.first[1]) * features
        out = code.at(y, (i, apart * columns * features), (j, alongside * features), feature, start)
        for place, (r, s) in enumerate(tile):
            for v in range(vectors):
                to = (r * apart * columns + s * alongside) * features + v * lanes
                code.store(sums[place * vectors + v], code.at(out, to))


def _emit_kernel_gradient(module: Module, plan: _Plan, target: _Target) -> Function:
    code = _Code(module, target)
    image, gradient, result, scratch = code.function.args
    batch, height, width, channels = plan.image
    (part,), features, (high, across) = plan.parts, plan.features, plan.output
    (rows, columns), (down, right), wide = part.size, part.step, plan.frame.size[1]
    vectors, lanes = _vectors(features, target, 4), target.lanes
    taps, entries = _entries(across, channels, target.sums // vectors)
    # rows of image and gradient that stay in the first cache while all entries pass over them
    row = 4 * max(columns * features, wide * down * channels)
    strip = max(r for r in range(1, rows + 1) if rows % r == 0 and (r == 1 or r * row <= _CACHE))
    unroll = next(u for u in (2, 1) if columns % u == 0)
    tile = [(t, m) for t in range(taps) for m in range(entries)]
    code.fill_with_zeros(result, high * across * channels * features)
    code.fill_with_zeros(scratch, plan.scratch)
    with code.loop(batch) as (n, _):
        code.pad(code.at(image, (n, height * width * channels)), scratch, plan)
        own = code.at(gradient, (n, rows * columns * features))
        with (
            code.loop(rows, strip) as (first, _),
            code.loop(high) as (a, _),
            code.loop(across, taps) as (t, _),
            code.loop(channels, entries) as (channel, _),
            code.loop(features, vectors * lanes) as (feature, _),
        ):
            into = code.at(
                result,
                (a, across * channels * features),
                (t, channels * features),
                (channel, features),
                feature,
            )
            places = [
                code.at(into, (tap * channels + m) * features + v * lanes)
                for tap, m in tile
                for v in range(vectors)
            ]
            x = code.at(
                scratch,
                (first, down * wide * channels),
                (a, wide * channels),
                (t, channels),
                channel,
            )
            g = code.at(own, (first, columns * features), feature)
            begun = [code.load(place) for place in places]
            with code.loop(strip, sums=begun) as (i, sums):
                x_row = code.at(x, (i, down * wide * channels))
                g_row = code.at(g, (i, columns * features))
                with code.loop(columns, unroll, sums) as (j, inner):
                    x_here, g_here = (
                        code.at(x_row, (j, right * channels)),
                        code.at(g_row, (j, features)),
                    )
                    for u in range(unroll):
                        slopes = [
                            code.load(code.at(g_here, u * features + v * lanes))
                            for v in range(vectors)
                        ]
                        for place, (tap, m) in enumerate(tile):
                            one = code.broadcast(code.at(x_here, (u * right + tap) * channels + m))
                            for v in range(vectors):
                                k = place * vectors + v
                                inner[k] = code.multiply_add(one, slopes[v], inner[k])
                sums[:] = inner
            for value, place in zip(sums, places, strict=True):
                code.store(value, place)
    code.b.ret_void()
    return code.function


def _entries(width: int, channels: int, most: int) -> tuple[int, int]:
    """Choose how many taps of a kernel row and input channels are summed together.

    As many as fit into the registers; of equal choices the one with the fewest taps.
    """
    choices = [
        (taps, entries)
        for taps in range(1, width + 1)
        for entries in range(1, channels + 1)
        if width % taps == 0 and channels % entries == 0 and taps * entries <= most
    ]
    return max(choices, key=lambda choice: (choice[0] * choice[1], -choice[0]))
