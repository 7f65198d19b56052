"""The convolution and its derivatives against the compiler's own, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from jaxticket.engine import parallel
from jaxticket.nn import cpu_kernels
from jaxticket.nn.convolution import conv
from jaxticket.nn.lowering import FORMS, Geometry

ONES = ((1, 1), (1, 1))
# (image, kernel, stride, padding, input channels, output channels, batch)
CASES = {
    "3x3": ((8, 8), (3, 3), (1, 1), ONES, 3, 4, 2),
    "3x3, parts of more than one image": ((5, 5), (3, 3), (1, 1), "SAME", 2, 3, 9),
    "stride of odd sizes": ((9, 7), (3, 3), (2, 2), ONES, 3, 4, 2),
    "stride of even sizes": ((8, 8), (3, 3), (2, 2), ONES, 2, 3, 4),
    "uneven padding": ((8, 8), (3, 3), (2, 2), "SAME", 2, 3, 4),
    "1x1": ((6, 5), (1, 1), (1, 1), "VALID", 3, 4, 2),
    "1x1 with a stride": ((8, 9), (1, 1), (2, 2), "VALID", 3, 4, 2),
    "5x5": ((10, 11), (5, 5), (1, 1), "SAME", 2, 3, 3),
    "stem of 7x7": ((12, 13), (7, 7), (2, 2), ((3, 3), (3, 3)), 3, 2, 3),
    "1x7": ((9, 9), (1, 7), (1, 1), "SAME", 2, 3, 3),
    "2x2 images": ((2, 2), (3, 3), (1, 1), ONES, 3, 4, 3),
    "1x1 images": ((1, 1), (3, 3), (1, 1), ONES, 3, 4, 3),
    "small images with a stride": ((4, 4), (3, 3), (2, 2), ONES, 3, 4, 3),
    "many channels": ((6, 6), (3, 3), (1, 1), ONES, 129, 2, 2),
    "strides that differ": ((7, 8), (2, 3), (3, 2), ((0, 2), (1, 0)), 3, 4, 2),
    "rows that the stride leaves out": ((17, 18), (3, 3), (2, 2), "VALID", 2, 3, 2),
    "padding beyond the kernel": ((5, 5), (2, 2), (2, 2), ((3, 2), (2, 3)), 2, 2, 2),
}


def native(x, w, *, stride, padding):
    return jax.lax.conv_general_dilated(
        x, w, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def operands(case, seed=0):
    image, kernel, stride, padding, channels, features, batch = case
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(batch, *image, channels)))
    w = jnp.asarray(rng.normal(size=(*kernel, channels, features)))
    return x, w, {"stride": stride, "padding": padding}


def loss(function, options):
    # the square keeps the second derivatives in both operands from vanishing
    return lambda x, w: jnp.sum(jnp.tanh(function(x, w, **options)) ** 2)


def pairs_of(function, options):
    """Everything that is compared, as functions of (x, w, directions)."""
    grad = jax.grad(loss(function, options), (0, 1))

    def reverse_over_reverse(x, w, v):
        return jax.grad(lambda *a: sum(map(jnp.vdot, grad(*a), v)), (0, 1))(x, w)

    return {
        "value": lambda x, w, v: function(x, w, **options),
        "gradient": lambda x, w, v: grad(x, w),
        "tangent": lambda x, w, v: jax.jvp(
            functools.partial(function, **options), (x, w), tuple(v)
        )[1],
        "forward over reverse": lambda x, w, v: jax.jvp(grad, (x, w), tuple(v))[1],
        "reverse over reverse": reverse_over_reverse,
        "replicas": lambda x, w, v: jax.vmap(grad)(
            jnp.stack([x, v[0], x]), jnp.stack([w, v[1], w])
        ),
        "replicas of kernels": lambda x, w, v: jax.vmap(grad, (None, 0))(x, jnp.stack([w, v[1]])),
        "replicas of images": lambda x, w, v: jax.vmap(grad, (1, None), 1)(
            jnp.stack([x, v[0]], 1), w
        ),
        "replicas of replicas": lambda x, w, v: jax.vmap(jax.vmap(grad, (None, 0)), (0, None))(
            jnp.stack([x, v[0]]), jnp.stack([w, v[1]])
        ),
        "curvature of replicas": lambda x, w, v: jax.vmap(
            lambda w: jax.jvp(grad, (x, w), tuple(v))[1]
        )(jnp.stack([w, v[1]])),
        "steps in a loop": lambda x, w, v: jax.lax.scan(
            lambda w, _: (w - 0.01 * grad(x, w)[1], None), w, None, length=2
        )[0],
    }


# compiling is what costs: what does not depend on the geometry is tried on one with a stride
EVERYWHERE = {"value", "gradient", "forward over reverse"}


@pytest.mark.parametrize("name", CASES)
def test_all_derivatives_equal_those_of_the_native_convolution(name):
    with jax.enable_x64():
        x, w, options = operands(CASES[name])
        directions = operands(CASES[name], seed=1)[:2]
        chosen = None if name == "stride of odd sizes" else EVERYWHERE

        def everything(function):
            functions = pairs_of(function, options)
            names = functions if chosen is None else chosen
            return jax.jit(lambda *a: {k: functions[k](*a) for k in names})(x, w, directions)

        own, reference = everything(conv), everything(native)
        for what in reference:
            for a, b in zip(*map(jax.tree.leaves, (own[what], reference[what])), strict=True):
                assert a.dtype == np.float64, what
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-11, err_msg=what)


@st.composite
def geometries(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = draw(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 2))
    image = tuple(
        draw(st.integers(max(1, k - sum(p)), 9)) for k, p in zip(kernel, pads, strict=True)
    )
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return Geometry(image, kernel, stride, pads, None)


def check_transposes(form, at, replicas, channels):
    """<g, x * w> = <input(g, w), x> = <kernel(x, g), w>, and x * w is the sum in the docstring."""
    rng = np.random.default_rng(0)
    with jax.enable_x64():
        x = rng.normal(size=(replicas, 2, *at.image, channels))
        w = rng.normal(size=(replicas, *at.kernel, channels, 2))
        y = np.zeros((replicas, 2, *at.output, 2))
        padded = np.pad(x, ((0, 0), (0, 0), *at.pads, (0, 0)))
        for i in range(at.output[0]):
            for j in range(at.output[1]):
                rows = slice(i * at.stride[0], i * at.stride[0] + at.kernel[0])
                columns = slice(j * at.stride[1], j * at.stride[1] + at.kernel[1])
                y[:, :, i, j] = np.einsum("rnabc,rabco->rno", padded[:, :, rows, columns], w)
        g = rng.normal(size=y.shape)
        of = FORMS[form]
        # without jit every operation of a lowering runs by itself: nothing is compiled twice
        np.testing.assert_allclose(of.forward(x, w, geometry=at), y, atol=1e-11)
        back = np.asarray(of.input(g, w, geometry=at))
        assert back.shape == x.shape
        np.testing.assert_allclose(np.vdot(back, x), np.vdot(g, y), atol=1e-9)
        back = np.asarray(of.kernel(x, g, geometry=at))
        assert back.shape == w.shape
        np.testing.assert_allclose(np.vdot(back, w), np.vdot(g, y), atol=1e-9)


# every operation is compiled for each geometry; the slow test tries more of them
SOME = [
    pytest.param(Geometry((7, 9), (3, 2), (2, 1), ((1, 0), (2, 1)), None), 3, id="uneven"),
    pytest.param(Geometry((9, 4), (1, 4), (1, 3), ((0, 0), (4, 1)), None), 1, id="one channel"),
    pytest.param(Geometry((2, 5), (3, 3), (3, 2), ((4, 3), (0, 1)), None), 2, id="beyond"),
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("at", "channels"), SOME)
def test_the_three_functions_of_every_form_are_transposes(form, at, channels):
    check_transposes(form, at, 2, channels)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(at=geometries(), replicas=st.integers(1, 2), channels=st.integers(1, 3))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_the_functions_of_every_form_are_transposes_for_more_geometries(
    form, at, replicas, channels
):
    check_transposes(form, at, replicas, channels)


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 1), (0, 1))])
def test_forms_of_a_cpu_are_equal_in_whole_vectors_of_float32(pads):
    """For two replicas; "generated" is the only form that calls generated kernels."""
    at = Geometry((8, 8), (3, 3), (1 + pads[0][0] % 2, 1), pads, "highest")
    draw = np.random.default_rng(0).normal
    x, w, g = (
        jnp.asarray(draw(size=size), jnp.float32)
        for size in ((2, 3, 8, 8, 16), (2, 3, 3, 16, 32), (2, 3, *at.output, 32))
    )
    for part, a, b in (("forward", x, w), ("input", g, w), ("kernel", x, g)):
        ours, theirs = (
            jax.jit(functools.partial(getattr(FORMS[form], part), geometry=at))
            for form in ("generated", "parts")
        )
        np.testing.assert_allclose(ours(a, b), theirs(a, b), rtol=1e-4, atol=1e-4)
        assert "jaxticket_" not in theirs.lower(a, b).as_text()
        called = "jaxticket_" in ours.lower(a, b).as_text()
        assert called == cpu_kernels.supports(jnp.float32, 16)


def test_on_a_mesh_the_kernels_gradient_is_summed_over_the_batch():
    mesh = parallel.mesh(seeds=2, data=2)

    def gradient(function, axis):
        def mean(x, w):
            value = jnp.mean(jnp.tanh(function(x, w, stride=(1, 1), padding="SAME")) ** 2)
            return value if axis is None else jax.lax.pmean(value, axis)

        return lambda x, w: jax.lax.map(lambda a: jax.grad(mean, 1)(*a), (x, w))

    with jax.enable_x64():
        rng = np.random.default_rng(0)
        x, w = rng.normal(size=(2, 4, 6, 6, 3)), rng.normal(size=(2, 3, 3, 3, 2))
        spread = jax.shard_map(
            gradient(conv, "data"),
            mesh=mesh,
            in_specs=(P("seed", "data"), P("seed")),
            out_specs=P("seed"),
        )
        expected = jax.jit(gradient(native, None))(x, w)
        np.testing.assert_allclose(jax.jit(spread)(x, w), expected, atol=1e-14)


def test_half_precision_is_that_of_the_native_convolution():
    x, w, options = operands(CASES["3x3"])
    x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    y = conv(x, w, **options)
    assert y.dtype == jnp.bfloat16
    wide = native(x.astype(jnp.float32), w.astype(jnp.float32), **options)
    # one rounding to 8 bits
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=2**-8, atol=1e-6)


def test_no_gradient_of_the_compiler_and_no_group_is_left_in_a_program_for_a_cpu():
    """What is 40 times slower in a loop: convolutions with groups, and kernels' gradients as the
    compiler's transposition makes them.
    """
    x, w, options = operands(CASES["3x3"])

    def step(x, w):
        grad = jax.vmap(jax.grad(loss(conv, options), (0, 1)))
        return jax.lax.scan(lambda w, _: (w - grad(x, w)[1], None), w, None, length=2)[0]

    text = jax.jit(step).lower(jnp.stack([x, x]), jnp.stack([w, w])).as_text()
    assert "stablehlo.convolution" in text
    assert "feature_group_count = 2" not in text and "batch_group_count = 2" not in text
    own = jax.jit(lambda x, w: jax.grad(loss(native, options), (0, 1))(x, w))
    theirs = jax.jit(jax.vmap(own)).lower(jnp.stack([x, x]), jnp.stack([w, w])).as_text()
    assert "group_count = 2" in theirs  # the check above can fail


def test_the_precision_of_the_context_reaches_the_program():
    x, w, options = operands(CASES["3x3"])
    x, w = x.astype(jnp.float32), w.astype(jnp.float32)
    for name in ("highest", "default"):
        with jax.default_matmul_precision(name):
            text = jax.jit(jax.grad(loss(conv, options))).lower(x, w).as_text()
        assert ("HIGHEST" in text) == (name == "highest")


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 8, 8, 3), (3, 3, 4, 5)), {}, "`kernel` of shape .* does not fit `x`"),
        (((8, 8, 3), (3, 3, 3, 5)), {}, "`kernel` of shape .* does not fit `x`"),
        (((2, 8, 8, 3), (3, 3, 3, 5)), {"stride": (0, 1)}, "`stride` must be two whole numbers"),
        (((2, 8, 8, 3), (3, 3, 3, 5)), {"padding": "same"}, "`padding` must be 'SAME'"),
        (
            ((2, 8, 8, 3), (3, 3, 3, 5)),
            {"padding": ((0, -1), (0, 0))},
            "`padding` must not be negative",
        ),
        (
            ((2, 2, 2, 3), (3, 3, 3, 5)),
            {"padding": "VALID"},
            "`x` of 2 x 2 is too small for a kernel of 3 x 3",
        ),
    ],
    ids=["channels", "rank", "stride", "padding", "negative", "small"],
)
def test_operands_that_do_not_fit(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        conv(*(jnp.zeros(shape) for shape in shapes), **options)


def test_operands_of_two_types():
    with pytest.raises(ValueError, match="`kernel` is bfloat16 and `x` float32"):
        conv(jnp.zeros((1, 4, 4, 1)), jnp.zeros((3, 3, 1, 1), jnp.bfloat16))
