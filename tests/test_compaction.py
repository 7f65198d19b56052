"""Ticket.compact: smaller dense networks with the outputs of the ticket."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_tickets import NETWORKS, logits, random_ticket

import jaxticket as jt
from jaxticket import _tree

QUICK = ("lenet", "conv2", "resnet8")


@pytest.fixture(
    params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def net(request):
    return NETWORKS[request.param]()


def test_a_compact_network_is_smaller_and_gives_the_same(net):
    ticket = random_ticket(net, 0.9, dead=0.3)
    small = ticket.compact(net)
    x = 2 * net.noise(jax.random.key(7), 32)
    before = logits(net, ticket, x)
    assert np.ptp(before, axis=0).max() > 1e-3, "the network looks at its input"
    apart = np.abs(logits(small.net, small.ticket, x) - before).max()
    assert apart <= 1e-5 * max(1, np.abs(before).max())
    assert _tree.size(small.ticket.params) < _tree.size(ticket.params)
    assert any(kept < of for kept, of in small.units.values())
    assert small.flops[0] < small.flops[1]
    # the network is one of its own: it trains, and draws weights of these shapes
    jt.masks.require_like("mask", small.ticket.mask, small.net.shapes[0])
    assert [m is None for m in jax.tree.leaves(small.ticket.mask, is_leaf=_tree.is_none)] == [
        m is None for m in jax.tree.leaves(small.net.mask(), is_leaf=_tree.is_none)
    ]
    with pytest.raises(ValueError, match="compacted"):
        small.net.adapted(classes=3)


def test_constants_move_into_the_next_bias():
    """A unit without inputs whose bias is positive gives a constant."""
    net = NETWORKS["lenet"]()
    ticket = random_ticket(net, 1.0, dead=0)
    mask, params = ticket.mask, ticket.params
    mask["dense_0"]["kernel"][:, :5] = False
    params["dense_0"]["bias"][:5] = [1.0, 2.0, -1.0, 0.0, 3.0]
    ticket = ticket.replace(mask=mask, params=params).masked()
    small = ticket.compact(net)
    assert small.units == {"dense_0": (7, 12), "dense_1": (9, 9)}
    assert repr(small).startswith("Compact(net=<Network lenet: ")
    kernel = np.asarray(ticket.params["dense_1"]["kernel"], np.float64)
    wanted = params["dense_1"]["bias"] + kernel[0] + 2 * kernel[1] + 3 * kernel[4]
    np.testing.assert_allclose(small.ticket.params["dense_1"]["bias"], wanted, rtol=1e-5)


def test_constants_before_a_padded_convolution_stay():
    """The zeros around an image are no constant: a unit there can not be a bias."""
    net = NETWORKS["conv2"]()
    ticket = random_ticket(net, 1.0, dead=0)
    ticket.mask["conv_0"]["kernel"][..., :3] = False
    ticket.params["conv_0"]["bias"][:3] = [0.7, -0.7, 0.0]
    small = ticket.masked().compact(net)
    assert small.units["conv_0"] == (4, 6)
    # the same after the last convolution, before a dense layer: all of them go
    ticket = random_ticket(net, 1.0, dead=0)
    ticket.mask["conv_1"]["kernel"][..., :3] = False
    ticket.params["conv_1"]["bias"][:3] = [0.7, -0.7, 0.0]
    assert ticket.masked().compact(net).units["conv_1"] == (3, 6)


def test_what_dies_by_another_death_goes_too():
    net = NETWORKS["lenet"]()
    ticket = random_ticket(net, 1.0, dead=0)
    mask = ticket.mask
    # dense_1 unit 0 feeds nothing; dense_0 units 0 and 1 feed that alone
    mask["dense_2"]["kernel"][0] = False
    mask["dense_1"]["kernel"][:2, 1:] = False
    assert ticket.replace(mask=mask).masked().compact(net).units == {
        "dense_0": (10, 12), "dense_1": (8, 9),
    }  # fmt: skip


def test_a_network_without_any_weights_is_a_constant():
    net = NETWORKS["lenet"]()
    ticket = random_ticket(net, 0.0)
    small = ticket.compact(net)
    assert small.units == {"dense_0": (1, 12), "dense_1": (1, 9)}
    x = net.noise(jax.random.key(1), 4)
    np.testing.assert_allclose(
        logits(small.net, small.ticket, x), logits(net, ticket, x), rtol=1e-5
    )


def test_compact_networks_train_further_and_are_fast_to_measure():
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, 10, widths=(64, 32))
    ticket = random_ticket(net, 0.2, dead=0.8)
    small = ticket.compact(net)
    assert all(seconds > 0 for seconds in small.seconds(64, repeats=3))
    training = jt.Training(steps=20, batch_size=16)
    runs = jt.find_tickets(
        small.net, data, training, jt.Pruning(levels=0), seeds=(0,), init=small.ticket.params,
        keep="trained", progress=False,
    )  # fmt: skip
    assert runs.trained(0)[0]["dense_0"]["kernel"].shape == (
        1,
        *small.net.shapes[0]["dense_0"]["kernel"].shape,
    )
    assert json.loads(small.net.config)["features"]["dense_0"] == small.units["dense_0"][0]


class Mixed(nn.Module):
    """Two dense layers with a sine between them, whose value at zero may be anything."""

    @nn.compact
    def __call__(self, x):
        x = jnp.cos(nn.Dense(8, name="first")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="last")(x)


def test_own_networks_lose_the_units_that_feed_nothing():
    symmetry = {
        "first/kernel": (None, "first"), "first/bias": ("first",), "last/kernel": ("first", None),
    }  # fmt: skip
    net = jt.from_linen(Mixed(), (4, 4, 1), name="mixed", symmetry=symmetry)
    ticket = random_ticket(net, 1.0, dead=0)
    ticket.mask["first"]["kernel"][:, :2] = False
    ticket.mask["last"]["kernel"][5:] = False
    small = ticket.masked().compact(net)
    # cos(0) is 1: the first two stay
    assert small.units == {"first": (5, 8)}
    x = net.noise(jax.random.key(1), 4)
    before = logits(net, ticket.masked(), x)
    np.testing.assert_allclose(logits(small.net, small.ticket, x), before, atol=1e-5)
    unknown = jt.from_linen(Mixed(), (4, 4, 1), name="mixed")
    with pytest.raises(ValueError, match=r"the permutations of this 'from_linen' network"):
        ticket.masked().compact(unknown)


def test_what_is_not_supported_is_refused_by_name():
    net = NETWORKS["lenet"]()
    ticket = random_ticket(net, 0.5)
    stacked = jax.tree.map(lambda x: np.stack([x, x]), ticket)
    with pytest.raises(ValueError, match=r"`compact` takes one ticket"):
        stacked.compact(net)
    with pytest.raises(ValueError, match="does not fit the network"):
        ticket.compact(NETWORKS["conv2"]())
    grouped = jt.networks.vgg11((16, 16, 3), 4, width=0.04, norm="group")
    with pytest.raises(ValueError, match="norm='group'"):
        random_ticket(grouped, 0.5).compact(grouped)

    def init(key):
        return {"layer": {"kernel": jax.random.normal(key, (16, 3))}}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1) @ params["layer"]["kernel"], stats

    own = jt.from_functions(init, apply, name="linear", shape=(4, 4, 1))
    with pytest.raises(ValueError, match="'from_functions' has layers of fixed sizes"):
        random_ticket(own, 0.5).compact(own)
