"""Forward passes against NumPy and PyTorch, written a second time from the layer tables alone."""

import functools
import importlib.util

import jax
import numpy as np
import pytest
import trees

import jaxticket as jt

EPSILON = 1e-5


class Numpy:
    """Layers in float64 on [batch, height, width, channels], and the running statistics."""

    def __init__(self, values, *, train):
        self.values, self.train, self.updated = values, train, {}

    def images(self, x):
        return x.astype(np.float64)

    def array(self, x):
        return x

    def windows(self, x, size, stride, padding, fill=0.0):
        sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x = np.pad(x, sides, constant_values=fill)
        x = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
        return x[:, ::stride, ::stride]  # [batch, height, width, channels, size, size]

    def conv(self, x, path, *, stride=1):
        kernel = self.values[f"{path}/kernel"].astype(np.float64)
        size = kernel.shape[0]
        x = self.windows(x, size, stride, (size - 1) // 2)
        x = np.einsum("bhwcij,ijco->bhwo", x, kernel, optimize=True)
        return x + self.values.get(f"{path}/bias", 0.0)

    def norm(self, x, path):
        mean, var = self.values[f"{path}/mean"], self.values[f"{path}/var"]
        if self.train:
            batch_mean, batch_var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.updated[f"{path}/mean"] = 0.9 * mean + 0.1 * batch_mean
            self.updated[f"{path}/var"] = 0.9 * var + 0.1 * batch_var
            mean, var = batch_mean, batch_var
        x = (x - mean) / np.sqrt(var + EPSILON)
        return x * self.values[f"{path}/scale"] + self.values[f"{path}/bias"]

    def relu(self, x):
        return np.maximum(x, 0)

    def max_pool(self, x, size=2, stride=2, padding=0):
        return self.windows(x, size, stride, padding, -np.inf).max((4, 5))

    def average(self, x):
        return x.mean((1, 2))

    def flat(self, x):
        return x.reshape(len(x), -1)

    def shorten(self, x, channels):
        new = np.zeros((*x.shape[:1], (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2, channels))
        before = (channels - x.shape[-1]) // 2
        new[..., before : before + x.shape[-1]] = x[:, ::2, ::2]
        return new

    def dense(self, x, path):
        return x @ self.values[f"{path}/kernel"] + self.values[f"{path}/bias"]


class Torch:
    """The same from torch.nn.functional on [batch, channels, height, width], in float64."""

    def __init__(self, values, *, train):
        import torch

        self.torch, self.train, self.updated = torch, train, {}
        self.f = torch.nn.functional
        self.values = {path: torch.from_numpy(v.astype(np.float64)) for path, v in values.items()}

    def images(self, x):
        x = self.torch.from_numpy(x.astype(np.float64))
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x

    def array(self, x):
        return x.numpy()

    def conv(self, x, path, *, stride=1):
        kernel = self.values[f"{path}/kernel"].permute(3, 2, 0, 1)
        bias = self.values.get(f"{path}/bias")
        return self.f.conv2d(x, kernel, bias, stride, (kernel.shape[-1] - 1) // 2)

    def norm(self, x, path):
        old = {name: self.values[f"{path}/{name}"] for name in ("mean", "var")}
        new = {name: value.clone() for name, value in old.items()}
        scale, bias = self.values[f"{path}/scale"], self.values[f"{path}/bias"]
        x = self.f.batch_norm(x, new["mean"], new["var"], scale, bias, self.train, 0.1, EPSILON)
        if self.train:
            # PyTorch averages the unbiased variance, this library the biased one
            n = x.shape[0] * x.shape[2] * x.shape[3]
            new["var"] = 0.9 * old["var"] + (new["var"] - 0.9 * old["var"]) * (n - 1) / n
            self.updated |= {f"{path}/{name}": value.numpy() for name, value in new.items()}
        return x

    def relu(self, x):
        return self.f.relu(x)

    def max_pool(self, x, size=2, stride=2, padding=0):
        return self.f.max_pool2d(x, size, stride, padding)

    def average(self, x):
        return x.mean((2, 3))

    def flat(self, x):
        return x.permute(0, 2, 3, 1).reshape(len(x), -1)

    def shorten(self, x, channels):
        before = (channels - x.shape[1]) // 2
        after = channels - x.shape[1] - before
        return self.f.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, after))

    def dense(self, x, path):
        return x @ self.values[f"{path}/kernel"] + self.values[f"{path}/bias"]


def lenet(ops, x):
    x = ops.flat(x)
    x = ops.relu(ops.dense(x, "dense_0"))
    x = ops.relu(ops.dense(x, "dense_1"))
    return ops.dense(x, "dense_2")


def conv4(ops, x):
    for pair in (("conv_0", "conv_1"), ("conv_2", "conv_3")):
        for path in pair:
            x = ops.relu(ops.conv(x, path))
        x = ops.max_pool(x)
    return lenet(ops, x)


def layer(ops, x, path, *, stride=1):
    return ops.norm(ops.conv(x, path, stride=stride), f"{path}/norm")


def vgg16(ops, x):
    pooled = {1, 3, 6, 9}
    for i in range(13):
        x = ops.relu(layer(ops, x, f"conv_{i}"))
        if i in pooled:
            x = ops.max_pool(x)
    return ops.dense(ops.average(x), "dense_0")


def basic_block(ops, x, path, *, stride, shortcut):
    y = ops.relu(layer(ops, x, f"{path}/conv_0", stride=stride))
    y = layer(ops, y, f"{path}/conv_1")
    if shortcut == "projection":
        x = layer(ops, x, f"{path}/shortcut", stride=stride)
    elif shortcut == "padding":
        x = ops.shorten(x, len(ops.values[f"{path}/conv_1/norm/scale"]))
    return ops.relu(x + y)


def resnet_cifar(ops, x, *, blocks, shortcut):
    x = ops.relu(layer(ops, x, "block_0"))
    for stage in (1, 2, 3):
        for i in range(blocks):
            first = stage > 1 and i == 0
            x = basic_block(
                ops,
                x,
                f"block_{stage}_{i}",
                stride=2 if first else 1,
                shortcut=shortcut if first else None,
            )
    return ops.dense(ops.average(x), "dense")


def bottlenecks(ops, x):
    """ResNet-50: 7x7 of stride 2, max-pool, then 3, 4, 6 and 3 bottlenecks."""
    x = ops.max_pool(ops.relu(layer(ops, x, "block_0", stride=2)), 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for i in range(blocks):
            path, stride = f"block_{stage}_{i}", 2 if stage > 1 and i == 0 else 1
            y = ops.relu(layer(ops, x, f"{path}/conv_0"))
            y = ops.relu(layer(ops, y, f"{path}/conv_1", stride=stride))
            y = layer(ops, y, f"{path}/conv_2")
            x = ops.relu(y + (layer(ops, x, f"{path}/shortcut", stride=stride) if i == 0 else x))
    return ops.dense(ops.average(x), "dense")


def preactivation(ops, x):
    """WRN-16: normalisation and ReLU before every convolution but the first."""
    x = ops.conv(x, "block_0")
    for stage in (1, 2, 3):
        for i in range(2):
            path, stride = f"block_{stage}_{i}", 2 if stage > 1 and i == 0 else 1
            y = ops.relu(ops.norm(x, f"{path}/norm_0"))
            shortcut = ops.conv(y, f"{path}/shortcut", stride=stride) if i == 0 else x
            y = ops.conv(y, f"{path}/conv_0", stride=stride)
            y = ops.conv(ops.relu(ops.norm(y, f"{path}/norm_1")), f"{path}/conv_1")
            x = shortcut + y
    return ops.dense(ops.average(ops.relu(ops.norm(x, "norm"))), "dense")


resnet20 = functools.partial(resnet_cifar, blocks=3, shortcut="projection")
option_a = functools.partial(resnet_cifar, blocks=2, shortcut="padding")
nets = jt.networks
CASES = {
    "lenet": (lambda: nets.lenet((5, 6, 2), 7, (12, 8)), lenet),
    "conv4": (lambda: nets.conv4((11, 8, 3), 5, width=0.1), conv4),
    "resnet20": (lambda: nets.resnet20((11, 8, 3), 5, width=0.25), resnet20),
    "vgg16": (lambda: nets.vgg16((19, 32, 3), 5, width=0.1), vgg16),
    "option_a": (lambda: nets.resnet14((9, 8, 3), 5, width=0.3, shortcut="padding"), option_a),
    "resnet50": (lambda: nets.resnet50((37, 32, 3), 5, width=0.05), bottlenecks),
    "wrn16": (lambda: nets.wrn16_4((9, 8, 3), 5, width=0.25), preactivation),
}
SLOW = ("option_a", "resnet50", "wrn16")
# 53 normalisations, the last over 24 numbers each, amplify the rounding of float32
TOLERANCE = {"resnet50": 1e-3}


@functools.cache
def case(name):
    """Random weights and statistics, images, and what the library computes from them."""
    net = CASES[name][0]()
    rng = np.random.default_rng(5)

    def draw(path, leaf):
        kind = path.rsplit("/", 1)[-1]
        if kind == "kernel":
            std = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return rng.normal(0, std, leaf.shape).astype(np.float32)
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return rng.normal(0, 0.2, leaf.shape).astype(np.float32)

    def drawn(tree):
        leaves, form = jax.tree.flatten(tree)
        paths = trees.paths(tree)
        return jax.tree.unflatten(form, [draw(p, x) for p, x in zip(paths, leaves, strict=True)])

    params, stats = map(drawn, net.shapes)
    x = rng.normal(size=(6, *net.shape)).astype(np.float32)

    @jax.jit
    def both(params, stats, x):
        with jax.default_matmul_precision("highest"):
            return [net.apply(params, stats, x, train=train) for train in (False, True)]

    named = lambda tree: {  # noqa: E731
        path.removeprefix("batch_stats/"): np.asarray(leaf)
        for path, leaf in zip(trees.paths(tree), jax.tree.leaves(tree), strict=True)
    }
    results = [(np.asarray(logits), named(after)) for logits, after in both(params, stats, x)]
    return {**named(params), **named(stats)}, named(stats), x, results


@pytest.mark.parametrize("train", [False, True], ids=["evaluate", "train"])
@pytest.mark.parametrize("backend", [Numpy, Torch])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES]
)
def test_forward_agrees(name, backend, train):
    if backend is Torch and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; the NumPy forward checks the same")
    values, before, x, results = case(name)
    logits, after = results[train]
    ops = backend(values, train=train)
    expected = ops.array(CASES[name][1](ops, ops.images(x)))
    assert np.abs(expected).max() > 0.1 and expected.std(0).min() > 1e-3
    tolerance = TOLERANCE.get(name, 1e-4)
    np.testing.assert_allclose(logits, expected, rtol=tolerance, atol=tolerance)
    assert set(ops.updated) == (set(after) if train else set())
    for path, value in after.items():
        np.testing.assert_allclose(
            value, ops.updated.get(path, before[path]), rtol=tolerance, atol=1e-5, err_msg=path
        )
