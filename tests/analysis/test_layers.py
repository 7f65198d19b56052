"""Reports of layers: by hand, by brute force, and of real runs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees

import jaxticket as jt
from jaxticket import masks

LENET = jt.networks.lenet((2, 2, 1), 3, (5,))
CONV = jt.networks.conv2((4, 4, 2), 3, width=1 / 16)
RESNET = jt.networks.resnet_cifar((8, 8, 3), 4, depth=8, width=0.25)


def params_of(net):
    return net.shapes[0]


def random_mask(net, seed, density=0.4):
    """Random on kernels."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda m: rng.random(m.shape) < density, net.mask())


def stacked(*trees_):
    return jax.tree.map(lambda *x: np.stack(x), *trees_)


def test_layers_by_hand():
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), params_of(LENET))
    mask["dense_0"]["kernel"][:, 1:4] = False
    mask["dense_0"]["kernel"][0, 0] = False
    mask["dense_1"]["kernel"][:] = False
    table = jt.layers.layers(LENET, mask)
    assert table.to_dict("records") == [
        {
            "layer": "dense_0/kernel", "index": 0, "size": 20, "kept": 7, "layer_density": 0.35,
            "units": 5, "dead_units": 3, "flops": 40.0, "flops_kept": 14.0,
        },
        {
            "layer": "dense_1/kernel", "index": 1, "size": 15, "kept": 0, "layer_density": 0.0,
            "units": 3, "dead_units": 3, "flops": 30.0, "flops_kept": 0.0,
        },
    ]  # fmt: skip
    assert jt.layers.collapsed(LENET, mask) == ("dense_1/kernel",)
    assert jt.layers.cost(LENET, mask) == {
        "params": 43, "kept_params": 15, "flops": 70.0, "flops_kept": 14.0,
    }  # fmt: skip
    assert jt.layers.cost(LENET)["kept_params"] == 43
    units = jt.layers.unit_densities(LENET, mask)
    assert units.density.tolist() == [0.75, 0, 0, 0, 1, 0, 0, 0]
    assert units.weights.tolist() == [4] * 5 + [5] * 3
    assert units.layer.tolist() == [0] * 5 + [1] * 3
    assert units.paths == ("dense_0/kernel", "dense_1/kernel")
    # hidden units only
    at = (0, 0.74, 0.75, 1)
    assert jt.layers.neuron_collapse(LENET, mask, at).tolist() == [0.6, 0.6, 0.8, 1.0]


def test_stacked_masks_give_what_each_gives():
    one, two = random_mask(RESNET, 0), random_mask(RESNET, 1, 0.1)
    both = stacked(one, two)
    table = jt.layers.layers(RESNET, both)
    assert table.columns[0] == "replica"
    at = (0.0, 0.1, 0.5)
    for i, mask in enumerate((one, two)):
        mine = table[table["replica"] == i].drop(columns="replica").reset_index(drop=True)
        assert mine.equals(jt.layers.layers(RESNET, mask))
        cost, costs = jt.layers.cost(RESNET, mask), jt.layers.cost(RESNET, both)
        assert costs["kept_params"][i] == cost["kept_params"]
        assert costs["flops_kept"][i] == pytest.approx(cost["flops_kept"], rel=1e-12)
        units = jt.layers.unit_densities(RESNET, both)
        np.testing.assert_array_equal(
            units.density[i], jt.layers.unit_densities(RESNET, mask).density
        )
        np.testing.assert_array_equal(
            jt.layers.neuron_collapse(RESNET, both, at)[i],
            jt.layers.neuron_collapse(RESNET, mask, at),
        )
        assert jt.layers.collapsed(RESNET, both)[i] == jt.layers.collapsed(RESNET, mask)


def test_layers_agree_with_the_masks_own_densities():
    mask = random_mask(RESNET, 2)
    table = jt.layers.layers(RESNET, mask)
    densities = masks.layer_density(mask)
    assert set(table["layer"]) == set(densities)
    for path, density in zip(table["layer"], table["layer_density"], strict=True):
        assert density == pytest.approx(float(densities[path]), abs=1e-6)
    assert table["kept"].sum() == int(masks.kept(mask))
    assert table["index"].tolist() == list(range(len(table)))
    assert table["layer"].iloc[0] == "block_0/kernel" and table["layer"].iloc[-1] == "dense/kernel"


def products(image, kernel, mask):
    """Multiply-adds of a 3 x 3 convolution of padding 1, one by one: those of kept weights."""
    height, width, _ = image
    count = 0
    for i, j in itertools.product(range(height), range(width)):
        for a, b in itertools.product(range(3), range(3)):
            for c, d in itertools.product(range(kernel[2]), range(kernel[3])):
                # position (i, j) meets the input, or its padding, at (i + a - 1, j + b - 1)
                assert -1 <= i + a - 1 <= height and -1 <= j + b - 1 <= width
                count += int(mask[a, b, c, d])
    return count


def test_masked_flops_are_the_products_of_kept_weights_counted_one_by_one():
    mask = random_mask(CONV, 3)
    count = 0
    for name in ("conv_0", "conv_1"):
        kernel = mask[name]["kernel"]
        count += products((4, 4, 2), kernel.shape, kernel)
    for name in ("dense_0", "dense_1", "dense_2"):
        count += np.count_nonzero(mask[name]["kernel"])
    cost = jt.layers.cost(CONV, mask)
    assert cost["flops_kept"] == 2 * count
    assert cost["flops"] == 2 * (16 * 9 * (2 * 4 + 4 * 4) + 16 * 16 + 16 * 16 + 16 * 3)
    table = jt.layers.layers(CONV, mask)
    assert table["flops_kept"].sum() == 2 * count
    assert cost["params"] == trees.size(params_of(CONV))
    pruned = sum(int((~m).sum()) for m in jax.tree.leaves(mask))
    assert cost["kept_params"] == cost["params"] - pruned


def test_pruned_weights_really_take_no_part():
    """The units called dead are those that answer every image alike."""
    net = LENET
    params, stats = net.init(jax.random.key(1))
    mask = random_mask(net, 5, 0.2)
    mask["dense_0"]["kernel"][:, 2] = False
    params = masks.apply(mask, params)
    seen = {}

    def tap(name, x):
        seen[name] = np.asarray(x)
        return x

    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (6, 2, 2, 1)), jnp.float32)
    net.apply(params, stats, x, train=False, tap=tap)
    alike = np.ptp(seen["dense_0"], axis=0) == 0
    units = jt.layers.unit_densities(net, mask)
    dead = units.density[units.layer == 0] == 0
    assert dead[2] and alike[dead].all()


def test_neuron_collapse_counts_the_units_that_the_thesis_counts():
    mask = random_mask(CONV, 0, 1.0)
    mask["conv_1"]["kernel"][..., :3] = False
    mask["dense_0"]["kernel"][:] = False
    # 8 channels; 32 hidden units alongside them if asked, the 3 outputs never
    assert jt.layers.neuron_collapse(CONV, mask).tolist() == [3 / 8]
    assert jt.layers.neuron_collapse(CONV, mask, dense=True).tolist() == [(3 + 16) / 40]
    assert jt.layers.neuron_collapse(CONV, mask, dense=False).tolist() == [3 / 8]
    # shortcuts count
    mask = random_mask(RESNET, 0, 1.0)
    mask["block_2_0"]["shortcut"]["kernel"][:] = False
    channels = sum(x.shape[-1] for x in jax.tree.leaves(params_of(RESNET)) if len(x.shape) == 4)
    assert jt.layers.neuron_collapse(RESNET, mask).tolist() == [8 / channels]
    assert jt.layers.collapsed(RESNET, mask) == ("block_2_0/shortcut/kernel",)


def test_excluded_layers_are_left_out():
    mask = random_mask(CONV, 0)
    table = jt.layers.layers(CONV, mask, exclude=("conv_0", "dense_*"))
    assert table["layer"].tolist() == ["conv_1/kernel"] and table["index"].tolist() == [0]
    assert jt.layers.unit_densities(CONV, mask, exclude=["dense_*"]).paths == (
        "conv_0/kernel",
        "conv_1/kernel",
    )


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    x = (rng.normal(size=(24, 2, 2, 1)) + y[:, None, None, None]).astype(np.float32)
    data = jt.data.from_arrays(x, y, x[:8], y[:8], name="tiny")
    training = jt.Training(steps=4, batch_size=8, lr=0.1)
    pruning = jt.Pruning(levels=2, fraction=0.5, exclude=("dense_1",))
    return jt.find_tickets(LENET, data, training, pruning, seeds=[3, 5])


def test_report_of_a_run(runs):
    table = jt.layers.report(runs)
    columns = ["seed", "level", "density", "branch", "layer", "index", "size", "kept"]
    assert list(table.columns)[:8] == columns
    assert table["kept"].tolist() == [20, 20, 10, 10, 5, 5]
    assert table["seed"].tolist() == [3, 5] * 3 and table["level"].tolist() == [0, 0, 1, 1, 2, 2]
    # one layer is pruned, so that its density is the ticket's
    np.testing.assert_allclose(table["layer_density"], table["density"])
    assert set(table["branch"]) == {"ticket"}
    for level, replica in itertools.product((0, 1, 2), (0, 1)):
        mask = jax.tree.map(lambda x, r=replica: x[r], runs.by_level[level].mask)
        alone = jt.layers.layers(LENET, mask, exclude=("dense_1",))
        assert alone["dead_units"].tolist() == [table["dead_units"].iloc[2 * level + replica]]


def test_collapse_of_a_run(runs):
    table = jt.layers.collapse(runs, (0, 0.5))
    assert list(table.columns) == ["seed", "level", "density", "branch", "threshold", "share"]
    assert len(table) == 2 * 3 * 2
    two = table[(table["level"] == 2) & (table["seed"] == 5)]
    shares = jt.layers.neuron_collapse(LENET, runs.by_level[2].mask, (0, 0.5), exclude=("dense_1",))
    assert two["share"].tolist() == shares[1].tolist()
    assert two["threshold"].tolist() == [0.0, 0.5]
    assert (table[table["level"] == 0]["share"] == 0).all()


def test_errors_name_what_is_wrong():
    mask = random_mask(LENET, 0)
    with pytest.raises(ValueError, match="`mask` must have the same tree as the params"):
        jt.layers.layers(LENET, {"dense_0": mask["dense_0"]})
    with pytest.raises(ValueError, match=r"`mask` has shape \(4, 6\) at 'dense_0/kernel'"):
        wrong = {**mask, "dense_0": {**mask["dense_0"], "kernel": np.ones((4, 6), bool)}}
        jt.layers.cost(LENET, wrong)
    with pytest.raises(ValueError, match="`mask` must hold bools, got float32 at 'dense_0/kernel'"):
        jt.layers.collapsed(LENET, jax.tree.map(lambda m: m.astype(np.float32), mask))
    ragged = stacked(mask, mask)
    ragged["dense_0"]["kernel"] = ragged["dense_0"]["kernel"][:1]
    with pytest.raises(ValueError, match=r"`mask` has leaves of \[1, 2\] replicas; stack whole"):
        jt.layers.layers(LENET, ragged)
    with pytest.raises(ValueError, match=r"`at` must be in \[0, 1\], got 1.5"):
        jt.layers.neuron_collapse(LENET, mask, (0, 1.5))
    with pytest.raises(ValueError, match="`dense` is False and the network has no prunable layer"):
        jt.layers.neuron_collapse(LENET, mask, dense=False)
    with pytest.raises(ValueError, match="`exclude` pattern 'conv' matches no weight"):
        jt.layers.layers(LENET, mask, exclude=("conv",))
