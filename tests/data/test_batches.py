"""Batches that iterables and loaders give: orders, resume, labels of every kind, and errors."""

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from labeled import TASKS, task
from stops import after_save, killed

import jaxticket as jt
from jaxticket.engine.fed import FedData, Order
from jaxticket.engine.streamed import Stretch
from jaxticket.random import root_keys

X = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32) + (X[:, 1] > 0)


def shuffled(seed, size=7):
    """A pass of 90 examples, in batches of 7 and one of 6."""
    order = np.random.default_rng(seed).permutation(90)
    for begin in range(0, 90, size):
        own = order[begin : begin + size]
        yield X[own], Y[own]


def batches(source=shuffled, **options):
    return jt.data.from_batches(source, test=(X[:30], Y[:30]), **options)


TRAINING = jt.Training(steps=14, batch_size=16, lr=0.05, eval_every=7)
KEYS = np.asarray(jax.random.key_data(root_keys((3, 4, 3))))


def fed(data, first, count, training=TRAINING, orders=(0, 0, 0)):
    """Blocks of training on the host, put together: x [replica, step, batch, ...] and y."""
    source = FedData(data, training, jt.parallel.mesh(1, 2, devices=jax.devices()[:2]))
    begin = np.full(3, first, np.int32)
    stretches = source.stretches([begin], [begin + count])
    with source.training_blocks(KEYS, np.asarray(orders, np.int32), begin, stretches) as found:
        parts = [jax.tree.map(np.asarray, block) for block in found]
    cut = [slice(0, int(stretch.count[0])) for stretch in stretches]
    return tuple(
        np.concatenate([part[i][:, own] for part, own in zip(parts, cut, strict=True)], axis=1)
        for i in (0, 1)
    )


# --- orders


@pytest.mark.parametrize("last_batch", ["wrap", "drop"])
def test_every_pass_shows_each_example_once(last_batch):
    training = TRAINING.replace(last_batch=last_batch, steps=60)
    x, y = fed(batches(), 0, 45, training)
    rows = {row.tobytes(): i for i, row in enumerate(X)}
    seen = np.array([[rows[row.tobytes()] for row in one.reshape(-1, 5)] for one in x])
    np.testing.assert_array_equal(Y[seen], y.reshape(3, -1))
    each = 90 if last_batch == "wrap" else 80
    passes = seen[:, : 720 // each * each].reshape(3, -1, each)
    for one in passes.reshape(-1, each):
        assert len(set(one.tolist())) == each
    # orders of their own for each seed and pass; the same for the same seed
    assert not np.array_equal(passes[0, 0], passes[0, 1])
    assert not np.array_equal(passes[0, 0], passes[1, 0])
    np.testing.assert_array_equal(seen[0], seen[2])
    other = fed(batches(), 0, 2, training, orders=(0, 0, 1))[0]
    assert not np.array_equal(other[0], other[2])


def test_what_is_read_is_closed():
    open_now = set()

    def source(seed):
        open_now.add(own := object())
        try:
            yield from shuffled(seed)
        finally:
            open_now.remove(own)

    data = batches(source)
    assert not open_now
    fed(data, 3, 4)
    assert not open_now
    feed = FedData(data, TRAINING, jt.parallel.mesh(devices=jax.devices()[:1]))
    begin = np.zeros(3, np.int32)
    with feed.training_blocks(KEYS, begin, begin, feed.stretches([begin], [begin + 2])) as made:
        next(made)
        assert open_now
        # another reader next to it, as those of monitors
        plan: Any = types.SimpleNamespace(order=begin, augment=begin)
        feed.at_step(KEYS, plan, begin + 5)
    assert not open_now


def _by_number(seed):
    return list(shuffled(seed))


@pytest.mark.parametrize("source", [shuffled, _by_number])
@pytest.mark.parametrize("last_batch", ["wrap", "drop"])
def test_a_block_depends_on_key_and_step_alone(source, last_batch):
    training = TRAINING.replace(last_batch=last_batch)
    whole = fed(batches(source), 0, 14, training)
    for first in (1, 5, 11):
        # one step at a time too
        later = fed(batches(source, block_bytes=1), first, 3, training)
        for a, b in zip(whole, later, strict=True):
            np.testing.assert_array_equal(a[:, first : first + 3], b)


def test_batches_by_number_are_not_read_to_be_skipped():
    class Numbered(list):
        read = ()

        def __getitem__(self, number):
            self.read = (*self.read, number)
            return super().__getitem__(number)

    source = Numbered(shuffled(0))
    data = batches(source)
    source.read = ()
    _, y = Order(data, b"any").take(90 + 70, 5)
    # the first says how long they are
    assert source.read == (0, 10)
    np.testing.assert_array_equal(np.concatenate([y for _, y in shuffled(0)])[70:75], y)


def test_replicas_at_different_steps_have_readers_of_their_own():
    data = batches()
    source = FedData(data, TRAINING, jt.parallel.mesh(devices=jax.devices()[:1]))
    zeros, first = np.zeros(3, np.int32), np.asarray([0, 0, 4], np.int32)
    stretch = Stretch(0, first, np.asarray([5, 3, 1], np.int32))
    with source.training_blocks(KEYS, zeros, zeros, [stretch]) as found:
        (block,) = found
    y = np.asarray(block.y)
    np.testing.assert_array_equal(y[2, 0], y[0, 4])
    assert (y[1, 3:] == -1).all() and (y[:, 0] >= 0).all()


# --- training


@functools.cache
def trained(source=shuffled, **options):
    return searched(batches(source), **options)


def searched(data, training=TRAINING, **options):
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    pruning = jt.Pruning(levels=1, fraction=0.5, rewind=3)
    options = {"progress": False, "seeds": (1, 2)} | options
    return jt.find_tickets(net, data, training, pruning, **options)


def same(a, b, **tolerance):
    pd.testing.assert_frame_equal(a.table(), b.table(), **tolerance)
    for x, y in zip(jax.tree.leaves(a.tickets), jax.tree.leaves(b.tickets), strict=True):
        np.testing.assert_allclose(np.float32(x), np.float32(y), rtol=tolerance.get("rtol", 0))


def test_networks_train_as_on_the_batches_by_hand():
    """Plain gradient descent in NumPy on what the iterable gives."""
    data = jt.data.from_batches(
        shuffled, test=(X, Y), examples=90, held=90, normalize=False, classes=3
    )
    net = jt.networks.lenet(data.shape, 3, widths=())
    training = jt.Training(steps=8, batch_size=16, lr=0.1, optimizer="sgd", eval_every=8)
    pruning = jt.Pruning(levels=0)
    runs = jt.find_tickets(net, data, training, pruning, seeds=(4,), progress=False, keep="trained")
    ends = [runs.ticket(0, 4, weights=weights).params for weights in ("start", "trained")]
    (b, w), end = (jax.tree.leaves(params) for params in ends)
    b, w = np.float64(b), np.float64(w)
    x, y = fed(data, 0, 8, training)
    for step in range(8):
        z = x[1, step] @ w + b
        p = np.exp(z - z.max(axis=1, keepdims=True))
        error = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y[1, step]]) / 16
        b, w = b - 0.1 * error.sum(axis=0), w - 0.1 * x[1, step].T @ error
    np.testing.assert_allclose(end[0], b, atol=1e-5)
    np.testing.assert_allclose(end[1], w, atol=1e-5)


def test_replicas_give_alone_and_on_shared_batches_what_they_give_together():
    runs = trained()
    mesh = jt.parallel.mesh(1, 2, devices=jax.devices()[:2])
    alone = searched(batches(), mesh=mesh, seeds=(2,)).table()
    both = runs.table().query("seed == 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(both, alone, rtol=1e-4, atol=1e-6)


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path):
    options = {"folder": tmp_path, "save_every": 0.0}
    with killed(2):
        searched(batches(), **options)
    with after_save(None):
        resumed = searched(batches(), **options)
    same(trained(), resumed)
    other = batches(examples=80)
    assert other.fingerprint != batches().fingerprint
    with pytest.raises(ValueError, match="fingerprint"):
        searched(other, **options)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "multilabel" else ()) for name in TASKS],
)
def test_labels_of_every_kind_come_in_batches(name, tmp_path):
    net, data, own = task(name)

    def source(seed):
        order = np.random.default_rng(seed).permutation(len(data.train))
        for own in np.array_split(order, 12):
            yield {"x": data.train.x[own], "y": data.train.y[own]}

    found = jt.data.from_batches(
        source, test=(data.test.x, data.test.y), keys=("x", "y"), labels=name, name=data.name,
        classes=data.classes if name == "tokens" else None,
    )  # fmt: skip
    assert found.labels == data.labels and found.examples == len(data.train)
    training = jt.Training(
        epochs=6, batch_size=50, lr=0.01, accumulate=2, ema=0.9, eval_every=30, **own
    )
    seen = []
    runs = jt.find_tickets(
        net, found, training, jt.Pruning(levels=0), seeds=(0, 1), progress=False,
        on_evaluation=seen.extend,
    )  # fmt: skip
    assert runs.training.steps == -(-6 * len(data.train) // 50)
    loss = (
        runs.table()
        .query("split == 'test' and metric == 'loss'")
        .pivot(index="seed", columns="step", values="value")
    )
    assert (loss.iloc[:, -1] < 0.9 * loss.iloc[:, 0]).all()
    assert pd.DataFrame(seen).value.notna().all() and len(seen) == len(runs.table())
    # killed and resumed, bit for bit
    options = {"seeds": (0, 1), "progress": False, "folder": tmp_path, "save_every": 0.0}
    with killed(2):
        jt.find_tickets(net, found, training, jt.Pruning(levels=0), **options)
    steps = training.replace(steps=runs.training.steps)
    # the steps of the epochs are the same run
    resumed = jt.find_tickets(net, found, steps, jt.Pruning(levels=0), **options)
    pd.testing.assert_frame_equal(runs.table(), resumed.table())
    loaded = jt.load(tmp_path, net=net, data=found)
    assert isinstance(loaded, jt.Runs)
    assert loaded.training == runs.training and loaded.data.labels == data.labels
    with pytest.raises(ValueError, match=r"epochs|steps"):
        jt.find_tickets(net, found, training.replace(epochs=5), jt.Pruning(levels=0), **options)


def test_options_of_training_are_those_on_data_in_memory(tmp_path):
    """One batch that is the whole of the data, which leaves the order without effect."""
    held = jt.data.from_arrays(X, Y, X[:30], Y[:30])
    data = batches([(X, Y)])
    options = {"folder": tmp_path, "save_every": 0.0}
    training = jt.Training(
        epochs=8, batch_size=90, lr=0.05, eval_every=2, accumulate=3, ema=0.5,
        class_weights=(1.0, 2.0, 0.5), trainable=("dense_0/*",), weight_decay=0.01,
        stop_when=jt.Plateau(split="test", metric="loss", patience=1, least=0.02),
    )  # fmt: skip
    expected = searched(held, training)
    with killed(2):
        searched(data, training, **options)
    runs = searched(data, training, **options)
    pd.testing.assert_frame_equal(expected.table(), runs.table(), rtol=1e-4, atol=1e-6)
    assert runs.table().groupby(["seed", "level"]).step.max().min() < 8
    for change in ({"class_weights": (1.0, 2.0, 1.0)}, {"epochs": 9}, {"ema": 0.6}):
        with pytest.raises(jt.RunFolderError, match=next(iter(change)).replace("epochs", "steps")):
            searched(data, training.replace(**change), **options)


def test_scores_look_at_examples_of_the_source():
    data = batches()
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    for options in ({"per_class": 4}, {"per_class": None, "batch_size": 24}):
        runs = jt.prune_at(
            net, data, TRAINING.replace(steps=2), score="snip", density=0.4, seeds=(0,),
            dense=False, progress=False, **options,
        )  # fmt: skip
        assert runs.densities[-1] == pytest.approx(0.4, abs=0.02)
    source = FedData(data, TRAINING, jt.parallel.mesh(devices=jax.devices()[:1]))
    places = source.balanced(KEYS[:2], 0, 4)
    block = source.score_batches(KEYS[:2], 0, 2, 6, per_class=4)
    np.testing.assert_array_equal(np.bincount(np.asarray(block.y)[0].reshape(-1)), [4, 4, 4])
    assert places.shape == (2, 1, 12) and not np.array_equal(places[0], places[1])
    with pytest.raises(ValueError, match=r"`per_class` asks for 80 examples of each class"):
        source.balanced(KEYS[:1], 0, 80)


# --- sources


def test_grain_gives_batches():
    import grain

    rows: Any = [{"image": x, "label": y} for x, y in zip(X, Y, strict=True)]

    def by_number(seed):
        return grain.MapDataset.source(rows).shuffle(seed=seed).batch(10)

    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    in_turn = lambda seed: by_number(seed).to_iter_dataset(few)  # noqa: E731
    found = [fed(batches(source), 3, 9) for source in (by_number, in_turn)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    endless = lambda seed: by_number(seed).repeat().to_iter_dataset(few)  # noqa: E731
    for a, b in zip(found[0], fed(batches(endless, examples=90), 3, 9), strict=True):
        np.testing.assert_array_equal(a, b)
    loader = grain.DataLoader(
        data_source=rows,
        sampler=grain.samplers.IndexSampler(len(rows), shuffle=True, seed=3, num_epochs=1),
        operations=[grain.transforms.Batch(9)],
    )
    x, _ = fed(batches(loader), 0, 6)
    np.testing.assert_array_equal(x[0], x[1])


def test_torch_gives_batches():
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))

    def source(seed):
        own = torch.Generator().manual_seed(seed)
        return torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True, generator=own)

    x, _ = fed(batches(source), 0, 5)
    assert len({row.tobytes() for row in x[0].reshape(-1, 5)}) == 80
    with pytest.raises(ValueError, match="gave other batches when it was read again"):
        batches(torch.utils.data.DataLoader(rows, batch_size=8, shuffle=True))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (shuffled(0), {}, r"`source` .* is an iterator, which can be read only once"),
        (dict, {}, r"`source` .* does not say whether it takes a seed"),
        (lambda: iter(()), {}, r"`source` gave no batch"),
        (3, {}, r"`source` must be an iterable of batches"),
        ([X], {}, r"`source` must give batches \(examples, labels\)"),
        ([(X, Y[:3])], {}, r"`source` gave examples \(90, 5\) and labels \(3,\)"),
        ([{"a": X, "label": Y}], {}, r"`keys` has 'image', and source\[0\] has 'a', 'label'"),
        (shuffled, {"keys": "image"}, r"`keys` must be the names"),
        (shuffled, {"examples": 0}, r"`examples`"),
        (shuffled, {"held": 0}, r"`held`"),
        (shuffled, {"block_bytes": 0}, r"`block_bytes`"),
    ],
)
def test_bad_sources_are_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        batches(source, **options)


@pytest.mark.parametrize("held", [1, 1000])
def test_an_iterator_that_a_function_gives_twice_is_refused(held):
    one = shuffled(0)
    with pytest.raises(ValueError, match=r"read again"):
        batches(lambda: one, held=held)


def test_bad_batches_are_named_while_networks_train():
    fewer = batches(examples=120)
    with pytest.raises(jt.data.StreamError, match=r"ended after 90 examples .* which has 120"):
        fed(fewer, 0, 8)
    spoiled = Y.copy()
    spoiled[-1] = 7
    late = [(X[i : i + 10], spoiled[i : i + 10]) for i in range(0, 90, 10)]
    with pytest.raises(ValueError, match=r"`source\[8\]` has labels from . to 7"):
        fed(batches(late, held=20, classes=3), 0, 8)
    wide = [(X[:10], Y[:10]), (np.ones((10, 6), np.float32), Y[:10])]
    with pytest.raises(ValueError, match=r"`source\[1\]` has examples of float32 \(6,\)"):
        fed(batches(wide, held=10), 0, 1)
    uneven = [(X[:10], Y[:10]), (X[:5], Y[:5]), (X[:10], Y[:10])]
    with pytest.raises(jt.data.StreamError, match=r"10 examples in batch 0 and 5 in batch 1"):
        fed(batches(uneven), 1, 1, TRAINING.replace(batch_size=12))


@pytest.mark.parametrize("divided", ["with_validation", "halves", "fraction"])
def test_batches_are_not_divided(divided):
    own = {"fraction": (0.5,)}.get(divided, ())
    with pytest.raises(ValueError, match=f"`{divided}` divides training examples in memory"):
        getattr(batches(), divided)(*own)


@pytest.mark.parametrize("source", [list(shuffled(0)), lambda: shuffled(0)])
def test_one_order_is_no_noise(source):
    data = batches(source)
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    with pytest.raises(ValueError, match=r"`noise` has 'order', and `data` 'batches' comes in one"):
        jt.instability(net, data, TRAINING, at=[0], progress=False)


def test_a_pure_training_needs_data_in_memory():
    data = batches()
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    with pytest.raises(ValueError, match=r"`data` 'batches' come in batches from the host"):
        jt.make_train(net, data, TRAINING)


def test_batches_say_what_they_are():
    data = batches(validation=[(X[30:40], Y[30:40]), (X[40:50], Y[40:50])], name="mine", held=50)
    assert repr(data) == (
        "<Batches 'mine': 5 float32, batches, 3 classes; train 90, validation 20, test 30>"
    )
    np.testing.assert_allclose(data.mean, jnp.mean(data.train.x, axis=0), rtol=1e-4, atol=1e-6)
    assert data.train.x.shape == (50, 5) and data.class_counts() is None
    with pytest.raises(ValueError, match=r"`class_weights`='balanced' counts training examples"):
        TRAINING.replace(class_weights="balanced").for_data(data)
