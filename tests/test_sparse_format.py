"""Ticket.compact(format="bcsr"): the outputs of the ticket, by products with sparse matrices."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.experimental.sparse import BCSR
from random_tickets import NETWORKS, logits, random_ticket

import jaxticket as jt

WIDE = {
    "lenet": lambda: jt.networks.lenet((8, 8, 1), 10, widths=(80, 40)),
    "conv2": lambda: jt.networks.conv2((8, 8, 3), 4, width=0.25),
    "vgg11": lambda: jt.networks.vgg11((16, 16, 3), 4, width=0.1, dense=1),
    "resnet8": NETWORKS["resnet8"],
}


def same(small, net, ticket, batch):
    x = 2 * net.noise(jax.random.key(7), batch)
    before = logits(net, ticket, x)
    apart = np.abs(np.asarray(small.logits(x)) - before).max()
    assert apart <= 1e-5 * max(1, np.abs(before).max())
    return before


QUICK = ("lenet", "conv2")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in WIDE]
)
@pytest.mark.parametrize("density", [0.02, 0.3])
def test_sparse_kernels_give_the_logits_of_the_ticket(name, density):
    net = WIDE[name]()
    ticket = random_ticket(net, density, dead=0.1)
    small = ticket.compact(net, format="bcsr", densest=1.0)
    assert any(name.startswith("dense") for name in small.layers)
    for batch in (1, 33):
        same(small, net, ticket, batch)
    for layer, share in small.layers.items():
        kernel, dense = small.params[layer]["kernel"], small.ticket.params[layer]["kernel"]
        assert isinstance(kernel, BCSR) and kernel.shape == dense.shape[::-1]
        assert kernel.nse == np.count_nonzero(dense) == round(share * dense.size)
    assert small.flops[0] < small.flops[1]


def test_layers_denser_than_asked_stay_dense():
    net = WIDE["lenet"]()
    ticket = random_ticket(net, 1.0, dead=0)
    rng = np.random.default_rng(1)
    ticket.mask["dense_0"]["kernel"][:] = rng.uniform(size=(64, 80)) < 0.04
    # a layer without any weights
    ticket.mask["dense_2"]["kernel"][:] = False
    ticket = ticket.masked()
    small = ticket.compact(net, format="bcsr")
    # nothing that dense_0 and dense_1 compute is used: they have one unit of zeros
    assert small.units == {"dense_0": (1, 80), "dense_1": (1, 40)}
    assert set(small.layers.values()) == {0.0}
    same(small, net, ticket, 5)

    ticket = random_ticket(net, 1.0, dead=0)
    ticket.mask["dense_0"]["kernel"][:] = rng.uniform(size=(64, 80)) < 0.04
    ticket = ticket.masked()
    small = ticket.compact(net, format="bcsr")
    assert list(small.layers) == ["dense_0"] and 0.02 < small.layers["dense_0"] < 0.06
    assert isinstance(small.params["dense_1"]["kernel"], np.ndarray)
    # so many are multiplied in blocks
    same(small, net, ticket, 2000)
    before = same(small, net, ticket, 5)
    assert np.ptp(before, axis=0).max() > 1e-3, "the network looks at its input"
    # operations: those of the weights that are left
    dense = small.ticket.params["dense_0"]["kernel"]
    saved = 2 * (dense.size - np.count_nonzero(dense))
    assert small.flops[0] == ticket.compact(net).flops[0] - saved
    with pytest.raises(ValueError, match=r"at most 1% of its weights left \(dense_0 4"):
        ticket.compact(net, format="bcsr", densest=0.01)


def test_accuracy_and_seconds_are_measured_alike_in_both_formats(tmp_path):
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, 10, widths=(40, 20))
    runs = jt.find_tickets(
        net, data, jt.Training(steps=60, batch_size=32), jt.Pruning(levels=1, fraction=0.9),
        seeds=(0,), keep="trained", progress=False,
    )  # fmt: skip
    ticket = runs.ticket(level=1, seed=0, weights="trained")
    path = ticket.save(tmp_path / "ticket.safetensors", net=net)
    ticket = jt.Ticket.load(path)
    table = runs.table()
    rows = table[(table.level == 1) & (table.split == "test") & (table.metric == "accuracy")]
    wanted = float(rows[rows.step == rows.step.max()]["value"].iloc[0])
    small, dense = ticket.compact(net, format="bcsr", densest=0.2), ticket.compact(net)
    assert small.layers and wanted > 0.3
    for each in (small, dense):
        # the last batch is smaller
        assert abs(each.accuracy(data, batch=100) - wanted) < 1e-6
        assert all(seconds > 0 for seconds in each.seconds(8, repeats=2))
    assert small.accuracy(data, "train") != small.accuracy(data)
    assert repr(small).startswith("SparseCompact(net=<Network lenet: ")
    with pytest.raises(ValueError, match="`split` must be one of 'train', 'test'"):
        small.accuracy(data, "tests")
    with pytest.raises(ValueError, match="`data` must be data in memory"):
        small.accuracy("digits")


class Own(nn.Module):
    """A layer that is no nn.Dense."""

    units: int

    @nn.compact
    def __call__(self, x):
        return x @ self.param("kernel", nn.initializers.normal(), (x.shape[-1], self.units))


class Mixed(nn.Module):
    """Such a layer, and a dense one if asked for."""

    dense: bool

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Own(30, name="first")(x.reshape(len(x), -1)))
        last = nn.Dense(3, use_bias=False, name="last") if self.dense else Own(3, name="last")
        return last(x)


SYMMETRY = {"first/kernel": (None, "first"), "last/kernel": ("first", None)}


def test_layers_of_the_users_stay_dense():
    net = jt.from_linen(Mixed(True), (4, 4, 1), name="mixed", symmetry=SYMMETRY)
    ticket = random_ticket(net, 1.0, dead=0)
    # a third of the weights, and no unit is dead
    ticket.mask["last"]["kernel"][:, 1:] = False
    ticket = ticket.masked()
    small = ticket.compact(net, format="bcsr", densest=0.5)
    assert small.layers == {"last": 1 / 3}
    same(small, net, ticket, 6)
    none = jt.from_linen(Mixed(False), (4, 4, 1), name="mixed", symmetry=SYMMETRY)
    with pytest.raises(ValueError, match=r"there is none\); first, last are of other kinds"):
        ticket.compact(none, format="bcsr", densest=0.5)


def test_what_is_not_supported_is_refused_by_name():
    net = WIDE["lenet"]()
    ticket = random_ticket(net, 0.5)
    with pytest.raises(ValueError, match="`format` must be one of 'dense', 'bcsr', got 'csr'"):
        ticket.compact(net, format="csr")
    with pytest.raises(ValueError, match=r"`densest` is 0.1, which only format='bcsr' knows"):
        ticket.compact(net, densest=0.1)
    with pytest.raises(ValueError, match="`densest` must be"):
        ticket.compact(net, format="bcsr", densest=1.5)

    def init(key):
        return {"layer": {"kernel": jax.random.normal(key, (16, 3))}}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1) @ params["layer"]["kernel"], stats

    own = jt.from_functions(init, apply, name="linear", shape=(4, 4, 1))
    with pytest.raises(ValueError, match="'from_functions' has layers of fixed sizes"):
        random_ticket(own, 0.05).compact(own, format="bcsr")
