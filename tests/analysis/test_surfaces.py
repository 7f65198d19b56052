"""Loss surfaces: directions, the evaluation at the center, devices, trajectories, arguments."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pandas as pd
import pytest
from contexts import mlp
from patterns import DATA, NET, SHORT, tickets
from sklearn.decomposition import PCA

import jaxticket as jt
from jaxticket import masks
from jaxticket.analysis.directions import principal, random_directions
from jaxticket.random import root_keys

surface = functools.partial(jt.surface, points=3, progress=False)


def at(table, x, y, **where):
    rows = table[(table.x == x) & (table.y == y)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.sort_values(["level", "seed", "split", "metric"]).value.to_numpy()


class Small(nn.Module):
    """Dense and convolutional kernels, biases and BatchNorm."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(3, (2, 2), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="dense")(nn.relu(x).reshape(x.shape[0], -1))


def test_filters_of_directions_are_as_long_as_those_of_the_network():
    """Nothing moves where the mask is False, and in biases and BatchNorm."""
    net = jt.from_linen(Small(), (4, 4, 1), name="small")
    rng = np.random.default_rng(0)
    shapes, _ = net.shapes
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    mask = jax.tree.map(lambda m: rng.random(m.shape) < 0.4, net.mask())
    mask["conv"]["kernel"][..., 1] = False
    params = jax.tree.map(np.asarray, masks.apply(mask, params))
    first, second = random_directions(net, params, mask, key=jax.random.key(0), draw=0, count=2)
    for layer, leaves in params.items():
        for name, w in leaves.items():
            d, e = first[layer][name], second[layer][name]
            if name != "kernel":
                assert not np.any(d) and not np.any(e)
                continue
            assert not np.any(d[~mask[layer][name]]) and np.isfinite(d).all()
            axes = tuple(range(w.ndim - 1))
            norms = [np.sqrt((x.astype(np.float64) ** 2).sum(axes)) for x in (w, d, e)]
            np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)
            np.testing.assert_allclose(norms[2], norms[0], rtol=1e-5)
            assert not np.array_equal(d, e)
    assert not np.any(first["conv"]["kernel"][..., 1])


def test_the_center_is_the_evaluation():
    """Exactly: the same sums of the same batches, of every split and seed."""
    table = surface(tickets())
    assert list(table.columns) == [
        "seed", "level", "density", "branch", "x", "y", "split", "metric", "value", "diverged",
    ]  # fmt: skip
    assert len(table) == 2 * 2 * 9 * 3 * 2 and (table.diverged == -1).all()
    end = tickets().table()
    end = end[end.step == 10].sort_values(["level", "seed", "split", "metric"])
    np.testing.assert_array_equal(at(table, 0, 0), end.value.to_numpy())
    assert (at(table, 1, 0, metric="loss") != at(table, 0, 1, metric="loss")).all()
    # one point by hand
    ticket = tickets().ticket(1, 5, weights="trained")
    d1, d2 = random_directions(
        NET, ticket.params, ticket.mask, key=root_keys([5])[0], draw=0, count=2
    )
    moved = jax.tree.map(lambda w, a, b: w + a - b, ticket.params, d1, d2)
    problem = jt.Problem(NET, DATA, SHORT)
    loss = jax.jit(problem.loss)(moved, ticket.stats)
    (found,) = at(table, 1, -1, level=1, seed=5, split="train", metric="loss")
    assert found == pytest.approx(float(loss), rel=1e-5)


def test_four_devices_and_methods_share_the_directions():
    """The same numbers on four devices; a cut is the middle row; other draws are elsewhere."""
    many = dataclasses.replace(tickets(), mesh=jt.parallel.mesh(devices=jax.devices()))
    wanted = {"levels": (1,), "seeds": (5,)}
    table, spread = surface(tickets(), **wanted), surface(many, **wanted)
    pd.testing.assert_frame_equal(spread, table, rtol=1e-6)
    cut = surface(tickets(), directions=1, **wanted)
    middle = table[table.y == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(cut, middle, rtol=1e-6)
    other = surface(tickets(), draw=1, **wanted)
    np.testing.assert_array_equal(at(other, 0, 0), at(table, 0, 0))
    assert (at(other, 1, 1, metric="loss") != at(table, 1, 1, metric="loss")).all()


def test_trajectories_lie_in_the_plane_of_principal_components():
    path, grid = jt.trajectory(tickets(), levels=(1,), points=3, progress=False)
    assert len(path) == 2 * 4 and len(grid) == 2 * 9 * 3 * 2
    own = path[path.seed == 3]
    assert own.step.tolist() == [0, 3, 6, 10]
    rows = [
        np.concatenate([np.ravel(x[0]) for x in jax.tree.leaves(tickets().trained(1, step=k)[0])])
        for k in own.step
    ]
    places = PCA(2).fit_transform(np.float64(rows))
    found = own[["x", "y"]].to_numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(places - places[-1]), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[-1], 0)
    assert 0.9 < own.share_x.iloc[0] + own.share_y.iloc[0] <= 1 + 1e-9
    one = grid[grid.seed == 3]
    assert (one.x.min() < own.x.min()) and (one.y.max() > own.y.max())


def test_a_folder_is_read_again_and_examples_are_few(tmp_path):
    wanted = {"levels": (1,), "seeds": (3,), "examples": 20, "folder": tmp_path}
    table = surface(tickets(), **wanted)
    pd.testing.assert_frame_equal(jt.results.read(tmp_path / "table.parquet"), table)
    pd.testing.assert_frame_equal(surface(tickets(), **wanted), table)
    right = 20 * at(table, 0, 0, metric="accuracy")
    np.testing.assert_allclose(right, np.round(right), atol=1e-4)
    with pytest.raises(jt.RunFolderError, match="draw"):
        surface(tickets(), **{**wanted, "draw": 2})


def test_what_diverged_is_marked():
    lost = {1: np.asarray([True, False])}
    table = surface(dataclasses.replace(tickets(), lost=lost), levels=(1,))
    of = {seed: rows for seed, rows in table.groupby("seed")}
    assert of[3].value.isna().all() and (of[3].diverged >= 0).all()
    assert of[5].value.notna().all() and (of[5].diverged == -1).all()


WRONG = [
    ({"points": 4}, "`points` must be odd"),
    ({"points": 1}, "`points` must be a whole number of at least 3"),
    ({"extent": 0.0}, "`extent`"),
    ({"directions": 3}, "`directions` must be one of 1, 2"),
    ({"draw": -1}, "`draw`"),
    ({"levels": (7,)}, "`levels`"),
    ({"branches": ("reinit",)}, "`level`, `branch`, `dilation` 0, 'reinit'"),
    ({"statistics": "new"}, "`statistics` must be one of 'kept', 'recomputed'"),
    ({"statistics": "recomputed"}, "`statistics` cannot be recomputed: the network has none"),
    ({"weights": "best"}, "`weights` must be one of"),
    ({"examples": 0}, "`examples`"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        surface(tickets(), **changes)


def test_wrong_steps_are_refused():
    with pytest.raises(ValueError, match="`steps` must be at least three"):
        jt.trajectory(tickets(), steps=(3, 6), progress=False)
    with pytest.raises(ValueError, match=r"`steps` must be some of .* of 'ticket', level 1"):
        jt.trajectory(tickets(), steps=(3, 6, 7), levels=(1,), progress=False)
    with pytest.raises(ValueError, match="`steps` lie on one line"):
        params, _ = mlp((3, 2)).init(jax.random.key(0))
        principal([params, params, params])
