"""Multiply-adds read from the trace, and kernels followed through it, against counts by hand."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import jaxticket as jt
from jaxticket.nn.convolution import conv
from jaxticket.nn.flops import count, kernels


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def functions(apply, *, name="net", shape=(4,), **shapes):
    """A network of a function of params and a flat input."""

    def init(key):
        return {k: jnp.zeros(s) for k, s in shapes.items()}, {}

    def whole(params, stats, x, *, train):
        return apply(params, x), stats

    return jt.from_functions(init, whole, name=name, shape=shape)


def forward(net):
    params, stats = net.shapes
    return count(
        lambda p, s, x: net.apply(p, s, x, train=False)[0], params, stats, struct(1, *net.shape)
    )


def test_matrix_products():
    assert count(jnp.dot, struct(3, 4), struct(4, 5)) == 2 * 3 * 4 * 5
    assert count(jnp.matmul, struct(7, 3, 4), struct(7, 4, 5)) == 7 * 2 * 3 * 4 * 5
    assert count(lambda a, b: jnp.einsum("bij,kj->bik", a, b), struct(2, 3, 4), struct(5, 4)) == 240
    assert count(lambda x: jnp.tanh(x) + x * x, struct(9)) == 0


# the numbers that are usually given, without the bias: conv and dense layers
TOTALS = {
    "lenet": 2 * 266_200,
    # 432 and 6 * 2304 at 32 x 32; 4608, 5 * 9216 and 512 at 16 x 16; 18432, 5 * 36864 and 2048 at
    # 8 x 8; 640
    "resnet20": 2 * (1024 * 14_256 + 256 * 51_200 + 64 * 204_800 + 640),
    "vgg16": 2 * 313_201_664,
    "resnet50": 2 * 4_089_184_256,
}


@pytest.mark.parametrize("name", TOTALS)
def test_totals_of_the_networks(name):
    net = jt.NETWORKS[name]()
    assert forward(net) == TOTALS[name]
    # all of it is in their kernels
    assert TOTALS[name] == sum(2 * k.positions * math.prod(k.shape) for k in kernels(net))


def test_resnet20_without_projections_has_the_40_55_million_of_the_literature():
    assert forward(jt.networks.resnet20(shortcut="padding")) == 2 * 40_551_040


def test_a_loop_counts_every_round_and_a_branch_its_dearest():
    x = struct(3, 3)

    def loop(x):
        return jax.lax.scan(lambda c, _: (c @ x, c @ c), x, None, length=5)[0]

    assert count(loop, x) == 5 * 2 * 54
    assert count(lambda x: jax.lax.fori_loop(0, 4, lambda i, c: c @ c, x), x) == 4 * 54
    assert count(lambda x: jax.lax.map(lambda row: x @ row, x), x) == 54

    def branch(x):
        return jax.lax.cond(x[0, 0] > 0, lambda c: c @ c @ c, lambda c: c @ c, x)

    assert count(branch, x) == 2 * 54
    idle = jax.lax.while_loop
    assert count(lambda x: idle(lambda c: c[0, 0] > 0, lambda c: c - 1, x @ x), x) == 54


def test_wrappers_are_looked_into():
    x = struct(3, 3)
    assert count(jax.jit(jax.checkpoint(lambda x: x @ x)), x) == 54

    @jax.custom_vjp
    def product(x):
        return x @ x

    product.defvjp(lambda x: (x @ x, x), lambda r, g: (g @ r,))
    assert count(product, x) == 54
    # forward, and the rule's one product
    assert count(jax.grad(lambda x: jnp.sum(jnp.sin(product(x)))), x) == 2 * 54

    @jax.custom_jvp
    def other(x):
        return x @ x

    other.defjvps(lambda dx, y, x: dx @ x + x @ dx)
    assert count(other, x) == 54
    # all devices of a mesh
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    over = jax.shard_map(
        lambda a, b: a @ b,
        mesh=mesh,
        in_specs=(PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec("data"),
    )
    assert count(over, struct(8, 3), struct(3, 3)) == 2 * 8 * 9


def test_what_no_result_needs_does_not_count():
    def function(x):
        _ = x @ x @ x
        return x + 1

    assert count(function, struct(3, 3)) == 0


def test_gradients_of_a_dense_network_cost_three_forward_passes_but_the_first_input_gradient():
    net = jt.networks.lenet((4, 4, 1), 3, (5,))
    params, stats = net.shapes

    def loss(params, stats, x):
        return jnp.sum(net.apply(params, stats, x, train=True)[0] ** 2)

    one = 2 * 7 * (16 * 5 + 5 * 3)
    assert count(loss, params, stats, struct(7, 4, 4, 1)) == one
    # no gradient of the images
    assert count(jax.grad(loss), params, stats, struct(7, 4, 4, 1)) == 3 * one - 2 * 7 * 80
    assert count(jax.vmap(jax.grad(loss), (None, None, 0)), params, stats, struct(2, 7, 4, 4, 1)) \
        == 2 * (3 * one - 2 * 7 * 80)  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2])
def test_the_three_convolutions_of_this_library_cost_the_same(stride):
    x, w = struct(2, 8, 8, 3), struct(3, 3, 3, 5)

    def ours(x, w):
        return conv(x, w, stride=(stride, stride), padding=((1, 1), (1, 1)))

    out = (8 // stride) ** 2
    one = 2 * 2 * out * 9 * 3 * 5
    assert count(ours, x, w) == one

    def loss(x, w):
        return jnp.sum(ours(x, w) ** 2)

    assert count(jax.grad(loss, 0), x, w) == 2 * one
    assert count(jax.grad(loss, 1), x, w) == 2 * one
    assert count(jax.grad(loss, (0, 1)), x, w) == 3 * one
    # with an axis of replicas, of both, of the images and of the kernels
    for axes, shapes in (
        ((0, 0), ((4, *x.shape), (4, *w.shape))),
        ((0, None), ((4, *x.shape), w.shape)),
        ((None, 0), (x.shape, (4, *w.shape))),
    ):
        batched = jax.vmap(jax.grad(loss, (0, 1)), axes)
        assert count(batched, *(struct(*s) for s in shapes)) == 4 * 3 * one


def met(image, size, stride, pads, spread=1, reach=1):
    """Pairs of an output position and a kernel place along one axis that meet an entry or a place
    of the padding where one would stand: the sum of a convolution of ones.
    """
    low, high = pads
    marks = np.asarray([at % spread == 0 for at in range(-low, (image - 1) * spread + 1 + high)])
    window = np.zeros((size - 1) * reach + 1)
    window[::reach] = 1
    return int(np.convolve(marks, window, "valid")[::stride].sum())


@pytest.mark.parametrize(
    ("stride", "pads", "spread", "reach", "groups"),
    [(1, (1, 1), 1, 1, 1), (2, (0, 1), 1, 1, 1), (1, (2, 2), 1, 2, 2), (1, (1, 1), 2, 1, 1)],
)
def test_the_compilers_convolution(stride, pads, spread, reach, groups):
    def function(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride,) * 2, (pads,) * 2, (spread,) * 2, (reach,) * 2,
            ("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    pairs = met(7, 3, stride, pads, spread, reach) ** 2
    x, w = struct(2, 7, 7, 4), struct(3, 3, 4 // groups, 6)
    assert count(function, x, w) == 2 * 2 * pairs * (4 // groups) * 6


def test_gradients_of_the_compilers_convolution():
    """Stride 2 on even images, where the transposed convolution meets as many entries."""

    def loss(x, w):
        y = jax.lax.conv_general_dilated(
            x, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(y**2)

    one = 2 * 3 * 16 * 9 * 2 * 5
    assert count(jax.grad(loss, (0, 1)), struct(3, 8, 8, 2), struct(3, 3, 2, 5)) == 3 * one


def test_what_cannot_be_counted_is_an_error():
    def loop(x):
        return jax.lax.while_loop(lambda c: c[0, 0] > 0, lambda c: c @ c, x)

    with pytest.raises(ValueError, match=r"`function` has products in a `while` loop.*lax.scan"):
        count(loop, struct(3, 3))

    def foreign(x):
        return jax.ffi.ffi_call("unknown", jax.ShapeDtypeStruct((3,), jnp.float32))(x)

    with pytest.raises(ValueError, match="`function` calls 'ffi_call', whose products cannot"):
        count(foreign, struct(3))


# kernels in the order of use


class Linen(nn.Module):
    """Names against the order of use, and a mixed bag of layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2, name="z")(x))
        x = nn.Conv(4, (3, 3), feature_group_count=4, name="y")(x)
        x = nn.Dense(6, name="x")(x)
        return nn.Dense(3, name="a")(jnp.mean(x, (1, 2)))


class Nnx(nnx.Module):
    """Orthogonal kernels: products that are drawn and never used."""

    def __init__(self, rngs):
        start = nnx.initializers.orthogonal()
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs, kernel_init=start)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.last = nnx.Linear(4, 3, rngs=rngs, kernel_init=start)

    def __call__(self, x):
        return self.last(jnp.mean(self.norm(self.conv(x)), axis=(1, 2)))


def uses(net):
    return [(k.path, k.positions) for k in kernels(net)]


def test_kernels_of_linen_and_nnx_modules():
    net = jt.from_linen(Linen(), (8, 8, 2), name="linen")
    expected = [("z/kernel", 16), ("y/kernel", 16), ("x/kernel", 16), ("a/kernel", 1)]
    assert uses(net) == expected
    assert forward(net) == 2 * 16 * (9 * 2 * 4 + 9 * 4 + 4 * 6) + 2 * 18
    net = jt.from_nnx(Nnx, (8, 8, 2), name="nnx")
    assert uses(net) == [("conv/kernel", 64), ("last/kernel", 1)]
    assert forward(net) == 2 * (64 * 72 + 12)


def test_kernels_are_followed_through_all_that_keeps_their_entries():
    def apply(params, x):
        # transposed and cast, in float16 and back
        x = jnp.tanh(x @ params["a"].astype(jnp.float16).T.astype(jnp.float32))
        # divided by its own norm
        b = params["b"]
        b = b / jnp.sqrt(jnp.sum(b * b, axis=0, keepdims=True))
        x = jax.jit(lambda w, x: x @ w)(b, x)
        # flat, inside a scan that uses it in every round
        c = params["c"].reshape(3, 3)
        x = jax.lax.scan(lambda h, _: (jnp.tanh(h @ c), None), x, None, length=6)[0]
        # layers stacked in one leaf, each used once
        x = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["d"])[0]
        # shared: used twice
        return x @ params["e"] @ params["e"]

    net = functions(apply, a=(5, 4), b=(5, 3), c=(9, 1), d=(7, 3, 3), e=(3, 3))
    expected = [("a", 1), ("b", 1), ("c", 6), ("d", 1), ("e", 2)]
    assert uses(net) == expected
    assert forward(net) == 2 * (20 + 15 + 6 * 9 + 7 * 9 + 2 * 9)


def test_kernels_in_branches_and_beside_other_leaves():
    def apply(params, x):
        x = x + params["place"]
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ params["b"], lambda x: 2 * x @ params["b"], x)
        return x @ params["a"]

    def init(key):
        return {"place": jnp.zeros((1, 4)), "a": jnp.zeros((4, 3)), "b": jnp.zeros((4, 4))}, {}

    net = jt.from_functions(
        init,
        lambda params, stats, x, *, train: (apply(params, x), stats),
        name="alongside",
        shape=(4,),
        prunable=lambda params: {"place": False, "a": True, "b": True},
    )
    # the leaf that is added has two dimensions, and no products
    assert uses(net) == [("b", 1), ("a", 1)]


@pytest.mark.parametrize(
    ("apply", "why"),
    [
        (lambda p, x: x @ p["v"] @ p["w"][:, :3], "it goes through '.*slice' before"),
        (lambda p, x: x @ jnp.concatenate([p["v"], p["w"]], 1), "it goes through 'concatenate'"),
        (lambda p, x: x @ (p["w"] @ p["v"]), "it is multiplied with another leaf before"),
        (lambda p, x: (x @ p["v"]) * jnp.mean(p["w"]), "is not multiplied with anything that"),
    ],
)
def test_kernels_that_cannot_be_followed_are_named(apply, why):
    net = functions(apply, w=(4, 4), v=(4, 4))
    with pytest.raises(ValueError, match=rf"`net`: '[vw]' cannot be followed: .*{why}"):
        kernels(net)


def test_a_transposed_convolution_has_the_mean_of_its_entries():
    class Up(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.ConvTranspose(2, (3, 3), strides=(2, 2), padding="VALID", name="up")(x)
            return jnp.mean(x, (1, 2))

    (kernel,) = kernels(jt.from_linen(Up(), (4, 4, 3), name="up"))
    # along an axis the 4 entries meet all 3 places, and 2 of the padding that are in step with them
    assert met(4, 3, 1, (2, 2), spread=2) == 14
    np.testing.assert_allclose(kernel.positions, 14**2 / 9)
