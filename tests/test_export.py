"""Tickets in the forms of NumPy, PyTorch and JAX's sparse arrays."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_tickets import NETWORKS, logits, random_ticket

import jaxticket as jt
from jaxticket import masks

FLAT = {
    "lenet": NETWORKS["lenet"],
    # the image is flattened, and PyTorch's images begin with the channel
    "lenet_color": lambda: jt.networks.lenet((4, 4, 3), 5, widths=(12, 9)),
}


def test_the_density_is_the_share_of_prunable_weights():
    net = FLAT["lenet"]()
    ticket = random_ticket(net, 0.3)
    kept = int(masks.kept(ticket.mask))
    assert ticket.density == kept / (16 * 12 + 12 * 9 + 9 * 5)
    assert isinstance(ticket.density, float)
    other = random_ticket(net, 1.0, dead=0)
    stacked = jax.tree.map(lambda *x: np.stack(x), ticket, other)
    np.testing.assert_allclose(stacked.density, [ticket.density, 1.0])
    np.testing.assert_allclose(float(jt.density(ticket.mask)), ticket.density, rtol=1e-6)


def test_numpy_arrays_hold_everything_and_are_copies():
    ticket = random_ticket(NETWORKS["conv2_batch"](), 0.3)
    arrays = ticket.to_numpy()
    assert {name.split("/")[0] for name in arrays} == {"params", "mask", "stats"}
    assert "mask/conv_0/norm/scale" not in arrays
    kernel, mask = arrays["params/conv_0/kernel"], arrays["mask/conv_0/kernel"]
    assert (kernel[~mask] == 0).all() and (kernel[mask] != 0).any()
    kernel[:] = 7
    assert not (ticket.params["conv_0"]["kernel"] == 7).any()


def test_sparse_arrays_hold_the_kept_weights_and_compute_the_same():
    net = FLAT["lenet"]()
    ticket = random_ticket(net, 0.3)
    x = net.noise(jax.random.key(0), 6)
    y = x.reshape(6, -1)
    for i, layer in enumerate(ticket.to_bcoo().values()):
        y = y @ layer["kernel"] + layer["bias"][None]
        y = jax.nn.relu(y) if i < 2 else y
    np.testing.assert_allclose(y, logits(net, ticket, x), atol=1e-5)
    for sparse in (ticket.to_bcoo(), ticket.to_bcsr()):
        for name, layer in sparse.items():
            kernel = layer["kernel"]
            assert kernel.nse == int(ticket.mask[name]["kernel"].sum())
            v = jnp.ones((kernel.shape[1], 2))
            dense = ticket.params[name]["kernel"]
            np.testing.assert_allclose(kernel @ v, dense @ np.asarray(v), atol=1e-5)
        dense = jax.tree.map(
            lambda w: w.todense() if hasattr(w, "todense") else w, sparse,
            is_leaf=lambda w: hasattr(w, "todense"),
        )  # fmt: skip
        for a, b in zip(jax.tree.leaves(dense), jax.tree.leaves(ticket.params), strict=True):
            np.testing.assert_array_equal(a, b)


def test_convolutions_are_no_sparse_matrices():
    ticket = random_ticket(NETWORKS["conv2"](), 0.3)
    assert ticket.to_bcoo()["conv_0"]["kernel"].shape == (3, 3, 3, 6)
    with pytest.raises(ValueError, match="conv_0/kernel, conv_1/kernel have other shapes"):
        ticket.to_bcsr()


# PyTorch


def modules(torch):
    nn, relu = torch.nn, torch.nn.functional.relu

    class Lenet(nn.Module):
        def __init__(self, inputs, widths, classes):
            super().__init__()
            sizes = (inputs, *widths, classes)
            for i, (a, b) in enumerate(itertools.pairwise(sizes)):
                setattr(self, f"dense_{i}", nn.Linear(a, b))
            self.layers = len(sizes) - 1

        def forward(self, x):
            x = x.flatten(1)
            for i in range(self.layers):
                x = getattr(self, f"dense_{i}")(x)
                x = relu(x) if i + 1 < self.layers else x
            return x

    class Layer(nn.Conv2d):
        """A convolution with its normalization below it, as paths have them."""

        def __init__(self, a, b, size, stride=1, *, bias, norm):
            super().__init__(a, b, size, stride, padding=(size - 1) // 2, bias=bias)
            if norm:
                self.norm = nn.BatchNorm2d(b)
            self.normed = norm

        def forward(self, x):
            y = super().forward(x)
            return self.norm(y) if self.normed else y

    class Conv2(nn.Module):
        def __init__(self, channels, hidden, classes, *, norm):
            super().__init__()
            for i, a in enumerate((3, channels)):
                setattr(self, f"conv_{i}", Layer(a, channels, 3, bias=not norm, norm=norm))
            sizes = (channels * 16, hidden, hidden, classes)
            for i in range(3):
                setattr(self, f"dense_{i}", nn.Linear(sizes[i], sizes[i + 1]))

        def forward(self, x):
            x = relu(self.conv_1(relu(self.conv_0(x))))
            x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
            return self.dense_2(relu(self.dense_1(relu(self.dense_0(x)))))

    class Vgg11(nn.Module):
        def __init__(self, sizes, hidden, classes):
            super().__init__()
            self.pools, before, number = (0, 1, 3, 5), 3, 0
            for n, size in zip((1, 1, 2, 2, 2), sizes, strict=True):
                for _ in range(n):
                    setattr(self, f"conv_{number}", Layer(before, size, 3, bias=True, norm=True))
                    before, number = size, number + 1
            self.dense_0, self.dense_1 = nn.Linear(before, hidden), nn.Linear(hidden, classes)

        def forward(self, x):
            for number in range(8):
                x = relu(getattr(self, f"conv_{number}")(x))
                x = torch.nn.functional.max_pool2d(x, 2) if number in self.pools else x
            return self.dense_1(relu(self.dense_0(x.mean((2, 3)))))

    class Block(nn.Module):
        def __init__(self, a, b, stride):
            super().__init__()
            self.conv_0 = Layer(a, b, 3, stride, bias=False, norm=True)
            self.conv_1 = Layer(b, b, 3, bias=False, norm=True)
            if stride != 1 or a != b:
                self.shortcut = Layer(a, b, 1, stride, bias=False, norm=True)

        def forward(self, x):
            y = self.conv_1(relu(self.conv_0(x)))
            return relu(y + (self.shortcut(x) if hasattr(self, "shortcut") else x))

    class Resnet8(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.block_0 = Layer(3, 8, 3, bias=False, norm=True)
            self.block_1_0, self.block_2_0 = Block(8, 8, 1), Block(8, 16, 2)
            self.block_3_0, self.dense = Block(16, 32, 2), nn.Linear(32, classes)

        def forward(self, x):
            x = self.block_3_0(self.block_2_0(self.block_1_0(relu(self.block_0(x)))))
            return self.dense(x.mean((2, 3)))

    return {
        "lenet": lambda: Lenet(16, (12, 9), 5),
        "lenet_color": lambda: Lenet(48, (12, 9), 5),
        "conv2": lambda: Conv2(6, 26, 4, norm=False),
        "conv2_batch": lambda: Conv2(6, 26, 4, norm=True),
        "vgg11": lambda: Vgg11((3, 5, 10, 20, 20), 20, 4),
        "resnet8": lambda: Resnet8(4),
    }


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch, which is not a dependency")


@pytest.mark.parametrize("name", (*FLAT, "conv2", "conv2_batch", "vgg11", "resnet8"))
def test_the_same_network_in_pytorch_gives_the_same(torch, name):
    net = (FLAT | NETWORKS)[name]()
    ticket = random_ticket(net, 0.5)
    module = modules(torch)[name]().eval()
    module.load_state_dict(ticket.to_torch(net), strict=True)
    x = np.array(net.noise(jax.random.key(3), 8))
    with torch.no_grad():
        found = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    wanted = logits(net, ticket, x)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, np.abs(wanted).max()))


def test_masks_are_those_of_pytorchs_pruning(torch):
    net = NETWORKS["conv2"]()
    ticket = random_ticket(net, 0.5)
    from torch.nn.utils import prune

    module = modules(torch)["conv2"]()
    for name, layer in module.named_children():
        if name.startswith(("conv", "dense")):
            prune.identity(layer, "weight")
    module.load_state_dict(ticket.to_torch(net, with_masks=True), strict=True)
    x = np.array(net.noise(jax.random.key(3), 8))
    with torch.no_grad():
        found = module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(found, logits(net, ticket, x), atol=1e-4)


def own():
    def init(key):
        return {"mix": {"kernel": jax.random.normal(key, (4, 3)), "shift": jnp.ones(3)}}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1) @ params["mix"]["kernel"] + params["mix"]["shift"][None], stats

    return jt.from_functions(init, apply, name="mix", shape=(2, 2, 1))


def test_networks_of_ones_own_have_names_of_ones_own(torch):
    net = own()
    ticket = random_ticket(net, 0.5)
    names = {"mix/kernel": "weight", "mix/shift": ("bias", lambda x: x)}
    module = torch.nn.Linear(4, 3)
    module.load_state_dict(ticket.to_torch(net, names=names))
    x = np.array(net.noise(jax.random.key(3), 8))
    with torch.no_grad():
        found = module(torch.from_numpy(x.reshape(8, 4))).numpy()
    np.testing.assert_allclose(found, logits(net, ticket, x), atol=1e-5)
    with pytest.raises(ValueError, match="`names` is needed for a network of your own"):
        ticket.to_torch(net)
    with pytest.raises(ValueError, match=r"lacks \['mix/shift'\] and has the unknown \['other'\]"):
        ticket.to_torch(net, names={"mix/kernel": "weight", "other": "bias"})
    with pytest.raises(ValueError, match="'weight' to two arrays"):
        ticket.to_torch(net, names={"mix/kernel": "weight", "mix/shift": "weight"})


def test_without_pytorch_the_error_says_how_to_get_it(monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    net = FLAT["lenet"]()
    with pytest.raises(ImportError, match="'torch', which is not installed"):
        random_ticket(net, 0.5).to_torch(net)
