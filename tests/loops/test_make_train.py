"""The library's training as a pure function: equal to the library's own result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from few_digits import DATA

import jaxticket as jt

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=3, eval_batch_size=48,
    augment=("shift",), augment_pixels=1, metrics=("top5",),
)  # fmt: skip
SEEDS = (0, 3)
KEYS = jnp.stack([jax.random.key(seed) for seed in SEEDS])


@functools.cache
def found():
    pruning = jt.Pruning(levels=1, fraction=0.5, rewind=2)
    return jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=SEEDS, progress=False)


@functools.cache
def compiled(**options):
    return jax.jit(jax.vmap(jt.make_train(NET, DATA, TRAINING, **options)))


def agrees(metrics, level):
    table = found().table()
    table = table[table.level == level]
    for split in ("test", "train"):
        for name in ("loss", "accuracy", "top5"):
            own = table[(table.split == split) & (table.metric == name)]
            own = own.sort_values(["seed", "step"])
            at = metrics[f"{split}/{name}"]
            np.testing.assert_allclose(own.value, np.reshape(at, -1), rtol=1e-5)
            assert own.step.tolist() == np.reshape(metrics["step"], -1).tolist()


def test_it_is_what_the_library_trains():
    state, metrics = compiled()(KEYS)
    agrees(metrics, 0)
    assert state.step.tolist() == [8, 8] and state.diverged.tolist() == [-1, -1]
    assert set(metrics) == {"step"} | {
        f"{split}/{name}" for split in ("test", "train") for name in ("loss", "accuracy", "top5")
    }


def test_a_rewound_ticket_trains_as_in_the_library():
    ticket = found().by_level[1]
    early, _ = compiled(stop=2)(KEYS)
    for a, b in zip(
        *map(jax.tree.leaves, (jt.masks.apply(ticket.mask, early.params), ticket.params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    late = jax.jit(
        jax.vmap(
            functools.partial(jt.make_train(NET, DATA, TRAINING, start=2), order=1),
        )
    )
    state, metrics = late(KEYS, ticket.mask, early.params, early.stats)
    agrees(metrics, 1)
    assert jax.vmap(jt.masks.kept)(state.mask).tolist() == [185, 185]


def test_it_can_be_sharded():
    _, plain = compiled()(KEYS)
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec("seed")
    placed = jax.device_put(KEYS, jax.sharding.NamedSharding(mesh, spec))
    _, automatic = compiled()(placed)
    own = jax.vmap(jt.make_train(NET, DATA, TRAINING))
    _, mapped = jax.jit(jax.shard_map(own, mesh=mesh, in_specs=spec, out_specs=spec))(KEYS)
    for name, x in plain.items():
        np.testing.assert_allclose(x, automatic[name], rtol=1e-5)
        np.testing.assert_allclose(x, mapped[name], rtol=1e-5)


def test_one_that_diverges_is_marked():
    training = TRAINING.replace(lr=1e30)
    state, metrics = jax.jit(jt.make_train(NET, DATA, training))(KEYS[0])
    runs = jt.find_tickets(
        NET, DATA, training, jt.Pruning(levels=0), seeds=SEEDS[:1], progress=False
    )
    assert int(state.diverged) == runs.histories[0].diverged[0] > 0
    late = np.asarray(metrics["step"]) >= int(state.diverged)
    np.testing.assert_array_equal(np.isnan(metrics["test/accuracy"]), late)


def test_what_is_refused():
    with pytest.raises(ValueError, match="`data` must be a data set in memory"):
        jt.make_train(NET, "digits", TRAINING)
    with pytest.raises(ValueError, match="`stop` must be a whole number of at most 8"):
        jt.make_train(NET, DATA, TRAINING, stop=9)
    with pytest.raises(ValueError, match="`start` must be a whole number of at most 4"):
        jt.make_train(NET, DATA, TRAINING, start=5, stop=5)
    stops = TRAINING.replace(stop_when=jt.Target("accuracy", 0.5, split="test"))
    with pytest.raises(ValueError, match="`training` has a `stop_when`"):
        jt.make_train(NET, DATA, stops)
    with pytest.raises(ValueError, match="`net` takes examples of shape"):
        jt.make_train(jt.networks.lenet((4, 4, 1), 10), DATA, TRAINING)
    train = jt.make_train(NET, DATA, TRAINING)
    with pytest.raises(ValueError, match="`key` must be the root key of a seed"):
        train(0)
    params, stats = NET.init(KEYS[0])
    with pytest.raises(ValueError, match="`mask` must be a tree of bools"):
        train(KEYS[0], params)
    with pytest.raises(ValueError, match="`stats` are given without `params`"):
        train(KEYS[0], None, None, stats)
    with pytest.raises(ValueError, match="`params`"):
        train(KEYS[0], None, params["dense_0"])
