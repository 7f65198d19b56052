"""The generated CPU kernels equal the compiler's convolution, whatever the geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket.nn import cpu_kernels, lowering
from jaxticket.nn.geometry import Geometry

pytestmark = pytest.mark.skipif(
    not cpu_kernels.supports(jnp.float32, 16), reason="no kernels are generated on this machine"
)
GEOMETRIES = {
    "same": ((9, 7), (3, 3), (1, 1), ((1, 1), (1, 1)), 3, 16),
    "stride": ((8, 8), (3, 3), (2, 2), ((0, 1), (0, 1)), 16, 32),
    "stride of odd images": ((9, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), 16, 16),
    "stride along one axis": ((10, 11), (5, 3), (1, 2), ((2, 2), (0, 1)), 5, 16),
    "stem": ((12, 12), (7, 7), (2, 2), ((3, 3), (3, 3)), 3, 64),
    "one place": ((6, 7), (1, 1), (2, 2), ((0, 0), (0, 0)), 16, 32),
    "one row": ((5, 9), (1, 7), (1, 1), ((0, 0), (3, 3)), 16, 48),
    "valid": ((13, 5), (3, 3), (1, 1), ((0, 0), (0, 0)), 32, 16),
    "stride beyond the kernel": ((11, 11), (3, 3), (4, 4), ((1, 0), (0, 2)), 16, 16),
    "rows left out": ((7, 7), (2, 2), (3, 3), ((0, 0), (0, 0)), 32, 16),
    "wide padding": ((4, 4), (3, 3), (1, 1), ((3, 3), (4, 4)), 16, 16),
}


VECTORS = {"this machine": None, "AVX2": (8, 12), "NEON": (4, 24)}
"""Numbers of a vector and vectors of sums of other machines, whose code runs here too."""


@pytest.fixture(params=VECTORS)
def lanes(request, monkeypatch):
    """Numbers of a vector, while kernels are generated for vectors of that size."""
    target = cpu_kernels._target()
    assert target is not None
    if (given := VECTORS[request.param]) is not None:
        if given[0] > target.lanes:
            pytest.skip("vectors of this machine are shorter")
        target = target._replace(lanes=given[0], sums=given[1])
    monkeypatch.setattr(cpu_kernels, "_target", lambda: target)
    return target.lanes


def relative(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_kernels_equal_the_compilers_convolution_in_float64(name, lanes):
    image, kernel, stride, pads, channels, features = GEOMETRIES[name]
    at = Geometry(image, kernel, stride, pads, "highest")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *image, channels))
    w = rng.normal(size=(*kernel, channels, features))
    g = rng.normal(size=(3, *at.output, features))
    with jax.enable_x64(True):
        exact = [
            lowering.FORMS["loop"].forward(*(jnp.asarray(a)[None] for a in (x, w)), geometry=at),
            lowering.FORMS["loop"].input(*(jnp.asarray(a)[None] for a in (g, w)), geometry=at),
            lowering.FORMS["loop"].kernel(*(jnp.asarray(a)[None] for a in (x, g)), geometry=at),
        ]
    x, w, g = (jnp.asarray(a, jnp.float32) for a in (x, w, g))
    ours = [cpu_kernels.convolution(x, w, at), None, cpu_kernels.kernel_gradient(x, g, at)]
    if channels % lanes == 0:
        ours[1] = cpu_kernels.input_gradient(g, w.transpose(0, 1, 3, 2), at)
    for own, right in zip(ours, exact, strict=True):
        if own is not None:
            assert relative(own, right[0]) < 2e-6


def test_second_derivatives_equal_those_of_float64():
    """Hessian-vector products, forward over reverse, of two layers with a stride, side by side."""
    rng = np.random.default_rng(1)
    x, first, second = (
        rng.normal(size=size) / 4
        for size in ((2, 4, 8, 8, 16), (2, 3, 3, 16, 32), (2, 3, 3, 32, 16))
    )
    conv = jt.networks.convolution.conv

    def loss(weights, x):
        return jnp.sum(jnp.tanh(conv(jnp.tanh(conv(x, weights[0])), weights[1], stride=(2, 2))))

    def product(weights, x):
        return jax.jvp(lambda w: jax.grad(loss)(w, x), (weights,), (weights,))[1]

    def every(dtype):
        arrays = [jnp.asarray(a, dtype) for a in (first, second, x)]
        return jax.jit(jax.vmap(product))(tuple(arrays[:2]), arrays[2])

    ours = every(jnp.float32)
    with jax.enable_x64(True):
        exact = every(jnp.float64)
    for own, right in zip(ours, exact, strict=True):
        assert own.dtype == np.float32 and relative(own, right) < 2e-5


def test_training_uses_them_and_nothing_else_does():
    """In a loop, for several replicas, on a mesh: float32 alone, in whole vectors."""
    x, w = jnp.ones((2, 8, 8, 16)), jnp.ones((3, 3, 16, 16))
    seen = {}
    for name, (a, b) in {
        "float32": (x, w),
        "half": (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)),
        "narrow": (x, w[..., :10]),
    }.items():
        seen[name] = jax.jit(jt.networks.convolution.conv).lower(a, b).as_text()
    assert "jaxticket_convolution_" in seen["float32"]
    # products of half precision are made in float32
    assert "jaxticket_convolution_" in seen["half"]
    assert "jaxticket_convolution_" not in seen["narrow"]
    gradient = jax.grad(lambda w, x: jnp.sum(jt.networks.convolution.conv(x, w) ** 2))
    assert "jaxticket_kernel_gradient_" in jax.jit(gradient).lower(w, x).as_text()


def test_without_the_generator_the_compilers_convolution_is_used(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_target", lambda: None)
    assert not cpu_kernels.supports(jnp.float32, 16)
    x, w = jnp.ones((1, 2, 8, 8, 16)), jnp.ones((1, 3, 3, 16, 16))
    at = Geometry((8, 8), (3, 3), (1, 1), ((1, 1), (1, 1)), None)
    text = (
        jax.jit(lambda x, w: lowering.LOWERINGS["cpu"].forward(x, w, geometry=at))
        .lower(x, w)
        .as_text()
    )
    assert "jaxticket" not in text.replace("module @", "") and "convolution" in text


@pytest.mark.parametrize(("features", "held"), [(16, True), (32, True), (10, False), (24, False)])
def test_output_channels_fill_whole_vectors(features, held):
    if cpu_kernels.supports(jnp.float32, 8):
        pytest.skip("vectors of this machine are shorter")
    assert cpu_kernels.supports(jnp.float32, features) == held
    assert not cpu_kernels.supports(jnp.float64, features)
