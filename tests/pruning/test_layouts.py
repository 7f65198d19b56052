"""Layouts: formulas by hand, exact totals for any shapes, and what cannot be reached."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxticket as jt
from jaxticket.pruning.layouts import (
    LAYOUTS,
    Layer,
    erdos_renyi,
    erk,
    layers_of,
    smart_ratio,
    smart_ratio_vgg,
    uniform,
    uniform_dense_first,
)

each_layout = pytest.mark.parametrize("name", LAYOUTS)


def chain(*shapes, output=True):
    """Layers from input to output, the last one the output layer."""
    last = len(shapes) - 1
    return [Layer(f"l{i}", s, i, output=output and i == last) for i, s in enumerate(shapes)]


CONV = chain((3, 3, 3, 64), (3, 3, 64, 64), (3, 3, 64, 128), (2048, 256), (256, 10))


def total(layers):
    return sum(layer.size for layer in layers)


shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    ),
    min_size=1,
    max_size=8,
)


@each_layout
@settings(max_examples=60, deadline=None)
@given(shapes=shapes, density=st.floats(0.001, 1.0), seed=st.integers(0, 99))
def test_counts_are_exact_and_fit(name, shapes, density, seed):
    layers = chain(*shapes)
    np.random.default_rng(seed).shuffle(layers)
    try:
        counts = LAYOUTS[name](layers, density)
    except ValueError as error:
        # only where a fixed layer leaves no way
        assert name in ("uniform_dense_first", "smart_ratio", "smart_ratio_vgg")
        assert "`density`" in str(error)
        return
    sizes = np.asarray([layer.size for layer in layers])
    assert counts.dtype == np.int32 and counts.shape == sizes.shape
    assert counts.sum() == round(density * int(sizes.sum()))
    assert (counts >= 0).all() and (counts <= sizes).all()


@each_layout
def test_the_order_of_layers_does_not_matter(name):
    forward = LAYOUTS[name](CONV, 0.3)
    backward = LAYOUTS[name](CONV[::-1], 0.3)
    # but for ties of remainders
    assert np.abs(forward - backward[::-1]).max() <= 1


@each_layout
def test_density_one_is_the_dense_network(name):
    assert LAYOUTS[name](CONV, 1.0).tolist() == [layer.size for layer in CONV]


def test_uniform_by_hand():
    assert uniform(chain((10, 10), (20, 10)), 0.5).tolist() == [50, 100]
    # 1.5 each: the first of equal remainders gets the odd one
    assert uniform(chain((1, 3), (1, 3), (1, 3)), 0.5).tolist() == [2, 1, 1]


def test_uniform_dense_first_by_hand():
    assert uniform_dense_first(chain((10, 10), (20, 10), (10, 10)), 0.5).tolist() == [100, 67, 33]
    # by place, not by index
    layers = [Layer("b", (20, 10), 7), Layer("a", (10, 10), 2)]
    assert uniform_dense_first(layers, 0.5).tolist() == [50, 100]
    assert uniform_dense_first([Layer("a", (2, 2), 0)], 1.0).tolist() == [4]


def test_erk_of_equal_shapes_is_uniform():
    for layout in (erk, erdos_renyi):
        assert layout(chain(*[(3, 3, 8, 8)] * 4), 0.25).tolist() == [144] * 4


def test_erk_by_hand():
    # epsilon * 30 + epsilon * 20 = 0.2 * 300
    assert erk(chain((10, 20), (10, 10)), 0.2).tolist() == [36, 24]
    # convolution: the sum of the shape, 3 + 3 + 4 + 2 = 12 of 72 weights, alongside 20 of 100
    assert erk(chain((3, 3, 4, 2), (10, 10)), 32 * 0.5 / 172).tolist() == [6, 10]
    # Erdos-Renyi: 6 / 8 and 20 / 100 per weight, so 54 alongside 20
    assert erdos_renyi(chain((3, 3, 4, 2), (10, 10)), 74 * 0.5 / 172).tolist() == [27, 10]


def test_layers_above_one_become_dense_and_the_rest_follows():
    # (4, 1): 5 / 4 per weight, above 1 from epsilon 0.8 on; then (8, 2) with 10 / 16 also
    layers = chain((4, 1), (8, 2), (50, 50))
    counts = erk(layers, 0.1)
    assert counts.tolist() == [4, 16, 252 - 20]
    # epsilon 231.9 / 100 from the rest: both others would exceed 1
    epsilon = (0.1 * total(layers) - 20) / 100
    assert epsilon * 5 / 4 > 1 and epsilon * 10 / 16 > 1


@settings(max_examples=60, deadline=None)
@given(shapes=shapes, density=st.floats(0.01, 0.99))
def test_erk_densities_are_one_multiple_of_the_formula_unless_dense(shapes, density):
    layers = chain(*shapes)
    counts = erk(layers, density)
    weight = np.asarray([sum(s) / math.prod(s) for s in shapes])
    sizes = np.asarray([layer.size for layer in layers])
    free = counts < sizes - 1
    # n_l = epsilon * sum(shape), to within the rounding of one weight
    low = ((counts - 1) / (weight * sizes))[free]
    high = ((counts + 1) / (weight * sizes))[free]
    if free.any():
        assert low.max() <= high.min() + 1e-6
        # dense layers are those that the same epsilon would give at least all
        full = counts == sizes
        assert (high.min() * weight[full] >= 1 - 2 / sizes[full]).all()


def test_erk_of_lenet_is_what_rigl_gives():
    """784-300-100-10 at 10%: epsilon solved by hand, the last layer dense or not."""
    layers = layers_of(jt.networks.lenet())
    counts = erk(layers, 0.1)
    # 26620 = epsilon * (1084 + 400 + 110) gives 16.7 > 1 / 0.11: the output layer is dense
    epsilon = (26620 - 1000) / (1084 + 400)
    assert abs(counts - np.asarray([epsilon * 1084, epsilon * 400, 1000])).max() < 1
    assert counts.sum() == 26620


def test_smart_ratio_by_hand():
    # L = 4: quotas 20, 12, 6 of three layers of 100; 0.1 * 400 - 0.3 * 100 leaves 10
    layers = chain(*[(10, 10)] * 4)
    counts = smart_ratio(layers, 0.1)
    assert counts.tolist() == [5, 3, 2, 30]  # 5.26, 3.16, 1.58
    # VGG: 20, 3, 2 / 3
    counts = smart_ratio_vgg(layers, 0.1)
    assert counts.tolist() == [9, 1, 0, 30]  # 8.45, 1.27, 0.28


def test_smart_ratio_pushes_the_excess_on():
    # 0.6 * 400 - 30 = 210: 110.5, 66.3, 33.2; 10.5 move to the second layer
    layers = chain(*[(10, 10)] * 4)
    assert smart_ratio(layers, 0.6).tolist() == [100, 77, 33, 30]
    # 0.75 * 400 - 30 = 270: 142, 85, 43; 42 move, of which 27 again
    assert smart_ratio(layers, 0.75).tolist() == [100, 100, 70, 30]


def test_smart_ratio_falls_from_input_to_output_in_any_order_of_leaves():
    net = jt.NETWORKS["resnet20"]()
    layers = layers_of(net)
    # leaves are sorted by name, places by use
    assert [layer.path for layer in layers][:2] == ["block_0/kernel", "block_1_0/conv_0/kernel"]
    assert [layer.path for layer in layers if layer.output] == ["dense/kernel"]
    counts = smart_ratio(layers, 0.1)
    ordered = sorted(zip(layers, counts, strict=True), key=lambda pair: pair[0].place)
    densities = [count / layer.size for layer, count in ordered]
    assert ordered[-1][0].output and densities[-1] == 0.3
    for (layer, _), a, b in zip(ordered, densities[:-2], densities[1:-1], strict=False):
        assert b <= a + 2 / layer.size
    assert counts.sum() == 27090


def test_smart_ratio_without_an_output_layer_has_nothing_fixed():
    # quotas 12, 6, 2 of equal layers
    layers = chain(*[(10, 10)] * 3, output=False)
    assert smart_ratio(layers, 0.2).tolist() == [36, 18, 6]


def test_places_are_those_of_the_forward_pass():
    layers = layers_of(jt.NETWORKS["vgg16"]())
    by_place = [layer.path for layer in sorted(layers, key=lambda layer: layer.place)]
    # as strings, conv_10 comes before conv_2
    assert by_place != [layer.path for layer in layers]
    assert sorted(by_place) == sorted(layer.path for layer in layers)
    channels = [layer.shape[-2] for layer in sorted(layers, key=lambda layer: layer.place)]
    assert channels[0] == 3 and channels == sorted(channels)


def test_layers_of_takes_other_prunable_leaves():
    net = jt.networks.lenet((2, 2, 1), 3, (5,))
    (layer,) = layers_of(net, ("dense_1",))
    assert layer == Layer("dense_0/kernel", (4, 5), 0, False)
    odd = dataclasses.replace(
        net, prunable=lambda params: {name: {"bias": True, "kernel": False} for name in params}
    )
    with pytest.raises(ValueError, match=r"`prunable` marks \['dense_0/bias'.*mark kernels alone"):
        layers_of(odd)


@each_layout
def test_densities_out_of_range_and_no_layers_are_errors(name):
    for density in (0.0, 1.5, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"`density` must be in \(0, 1\]"):
            LAYOUTS[name](CONV, density)
    with pytest.raises(ValueError, match=r"`layers` is empty; pass the prunable layers"):
        LAYOUTS[name]([], 0.5)


def test_what_cannot_be_reached_is_an_error():
    layers = chain(*[(10, 10)] * 4)
    with pytest.raises(ValueError, match=r"`density` 0\.2 keeps 80 weights, fewer than the first"):
        uniform_dense_first(layers, 0.2)
    message = r"`density` 0\.05 keeps 20 weights, where .* at least 30 of 400 .* a higher density"
    with pytest.raises(ValueError, match=message):
        smart_ratio(layers, 0.05)
    message = r"`density` 0\.9 keeps 360 weights, where .* at most 330 of 400 .* a lower density"
    with pytest.raises(ValueError, match=message):
        smart_ratio_vgg(layers, 0.9)
    twice = [Layer("a", (2, 2), 0, True), Layer("b", (2, 2), 1, True)]
    with pytest.raises(ValueError, match=r"2 output layers, \['a', 'b'\]; mark one at most"):
        smart_ratio(twice, 0.5)
