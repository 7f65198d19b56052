"""Streams: records to crops to blocks, the same training as with data in memory, and bad files."""

import dataclasses
import functools
import io
import json
import math
import threading
import types

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stops import after_save, killed

import jaxticket as jt
from jaxticket.data import blocks as pipeline
from jaxticket.data import crops
from jaxticket.data.sampling import batch_indices
from jaxticket.engine.program import program
from jaxticket.engine.streamed import StreamedData, local_box
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words, root_keys, stream

COUNTS = {"train": 2000, "test": 120}


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds_default"))
    monkeypatch.delenv("JAXTICKET_DATA_DIR", raising=False)


def colour(i):
    return np.array([i % 16 * 16 + 8, i // 16 % 16 * 16 + 8, i // 256 * 16 + 8])


def jpeg(i):
    """Encoded image i, between 12 and 40 pixels wide and high; its mean colour tells its number."""
    draw = np.random.default_rng(i)
    size = draw.integers(12, 41, 2)
    # gray noise, so that no two parts look alike
    x = draw.integers(-6, 7, (*size, 1)) + colour(i)
    file = io.BytesIO()
    Image.fromarray(x.astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def number_of(pixels):
    """The number of the image that pixels [..., height, width, 3] are a part of."""
    digits = np.rint(pixels.mean(axis=(-3, -2)) / 16 - 0.5).astype(int)
    return digits[..., 0] + 16 * digits[..., 1] + 256 * digits[..., 2]


@functools.cache
def builder_class():
    """A TFDS builder of these images, which needs no TensorFlow to prepare."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    tfds.disable_progress_bar()
    with registered.skip_registration():

        class Pictures(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            name = "pictures"
            counts = COUNTS
            spoiled: tuple[int, ...] = ()
            names = ("ant", "bee", "cat")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=list(self.names)),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split) for split in self.counts}

            def _generate_examples(self, split):
                for i in range(self.counts[split]):
                    encoded = jpeg(i)
                    if i in self.spoiled:
                        encoded = encoded[: len(encoded) // 3]
                    yield i, {"image": io.BytesIO(encoded), "label": i % 3}

    return Pictures


def prepared(root, **settings):
    from tensorflow_datasets.core import registered

    with registered.skip_registration():
        cls = type("Pictures", (builder_class(),), settings)
    cls(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root / "pictures" / "1.0.0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepared(folder)
    return folder


SMALL = {"size": (8, 8), "resize": 10, "mean": (100, 100, 50), "std": (60, 60, 40), "threads": 2}


@pytest.fixture(scope="module")
def pictures(root):
    return jt.data.stream("pictures", data_dir=root, **SMALL)


TRAINING = jt.Training(
    steps=12, batch_size=16, eval_every=5, eval_batch_size=12, metrics=("calibration_error",)
)
KEYS = np.asarray(jax.random.key_data(root_keys((3, 4, 5, 3))))


def fed(source, stretches_of, *, keys=KEYS, augment=0, block_bytes=8 * 8 * 3 * 16 * 2):
    """All training blocks on the host, put together: x [replica, step, batch, ...] and y."""
    source = dataclasses.replace(source, block_bytes=block_bytes)
    mesh = jt.parallel.mesh(2, 2, devices=jax.devices()[:4])
    data = StreamedData(source, TRAINING, mesh)
    begin, end = (np.full(len(keys), step, np.int32) for step in stretches_of)
    stretches = data.stretches([begin], [end])
    zeros = np.zeros(len(keys), np.int32)
    with data.training_blocks(keys, zeros, zeros + augment, stretches) as found:
        parts = [jax.tree.map(np.array, block) for block in found]
    counts = [int(s.count[0]) for s in stretches]
    x, y = (
        np.concatenate([p[i][:, :n] for p, n in zip(parts, counts, strict=True)], axis=1)
        for i in (0, 1)
    )
    return x, y


def test_thousands_of_images_of_all_sizes_are_read(pictures):
    assert pictures.shape == (8, 8, 3) and pictures.classes == 3 and len(pictures.train) == 2000
    index = np.arange(2000).reshape(4, 500)
    request = lambda b: pipeline.Request(index[b], None)  # noqa: E731
    with pipeline.blocks(pictures, request, 4, shape=(500,), put=lambda x, y: (x, y)) as found:
        x, y = (np.concatenate(part) for part in zip(*found, strict=True))
    numbers = number_of(x)
    assert np.array_equal(np.sort(numbers), np.arange(2000))
    assert np.array_equal(y, numbers % 3)


def test_batches_are_those_of_data_in_memory(pictures):
    x, y = fed(pictures, (3, 8))
    assert x.shape == (4, 5, 16, 8, 8, 3)
    # the order of the records is the preparation's
    rows = pictures.train.read(range(2000))
    of_record = np.array([number_of(np.asarray(crops.decoded(e, 3, ""))) for e, _ in rows])

    @jax.jit
    def order(data):
        words = permutation_words(stream(jax.random.wrap_key_data(data), "order", 0))
        draw = functools.partial(batch_indices, words, examples=2000, batch_size=16)
        return jax.vmap(draw)(np.arange(3, 8, dtype=np.int32))

    for replica in range(4):
        numbers = number_of(x[replica])
        assert np.array_equal(numbers, of_record[order(KEYS[replica])])
        assert np.array_equal(y[replica], numbers % 3)
    # replicas of one key see the same parts of the same images, others others
    assert np.array_equal(x[0], x[3]) and not np.array_equal(y[0], y[1])


def test_a_block_is_a_function_of_key_and_step_alone(pictures):
    x, y = fed(pictures, (0, 7))
    for other in (
        fed(pictures, (2, 7)),
        fed(pictures, (2, 7), block_bytes=1),
        fed(dataclasses.replace(pictures, threads=5), (2, 7)),
    ):
        assert np.array_equal(x[:, 2:], other[0]) and np.array_equal(y[:, 2:], other[1])
    alone = fed(pictures, (2, 7), keys=KEYS[[1, 2]])
    assert np.array_equal(alone[0], x[1:3, 2:])
    other = fed(pictures, (2, 7), augment=1)
    assert np.array_equal(number_of(other[0]), number_of(x[:, 2:]))
    assert np.array_equal(other[1], y[:, 2:])
    # the same images, other parts
    same = (other[0] == x[:, 2:]).all(axis=(-3, -2, -1))
    assert same.mean() < 0.05


def test_an_example_is_decoded_once_in_a_block(pictures, monkeypatch):
    count, lock = [0], threading.Lock()
    original = crops.decoded

    def counted(*args):
        with lock:
            count[0] += 1
        return original(*args)

    monkeypatch.setattr(crops, "decoded", counted)
    index = np.tile(np.arange(7), (6, 1))
    index[0, 0] = -1
    draws = np.random.default_rng(0).random((6, 7, crops.DRAWS), np.float32)
    request = pipeline.Request(index, draws)
    with pipeline.blocks(
        pictures, lambda b: request, 2, shape=(6, 7), put=lambda x, y: (x, y)
    ) as found:
        (x, y), again = found
    assert count[0] == 14
    assert np.array_equal(x, again[0]) and (y[0, 0], x[0, 0].max()) == (-1, 0)
    assert (y[:, 1:] >= 0).all()


def test_threads_end_with_the_context(pictures):
    before = {t for t in threading.enumerate() if "grain" in t.name}
    request = lambda b: pipeline.Request(np.arange(64), None)  # noqa: E731
    with pipeline.blocks(pictures, request, 50, shape=(64,), put=lambda x, y: y) as found:
        next(found)
    left = {t for t in threading.enumerate() if "grain" in t.name} - before
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


# --- crops


def test_random_boxes_lie_in_the_image_and_have_the_area_asked_for():
    draw = np.random.default_rng(1).random((3000, crops.DRAWS))
    boxes = np.array([crops.random_box((60, 80), u) for u in draw])
    left, top, right, bottom = boxes.T
    assert left.min() == 0 and top.min() == 0 and right.max() == 80 and bottom.max() == 60
    area, aspect = (right - left) * (bottom - top) / 4800, (right - left) / (bottom - top)
    assert 0.07 < area.min() < 0.09 and 0.9 < area.max() <= 1
    assert 0.7 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.45
    # uniform in area below what always fits; half of the aspects are below 1
    small = area[area < 0.5]
    assert abs(np.median(small) - 0.29) < 0.02 and abs((aspect[area < 0.5] < 1).mean() - 0.5) < 0.05
    assert len(np.unique(left)) > 40 and len(np.unique(top)) > 30


@pytest.mark.parametrize("shape", [(60, 80), (375, 500), (10, 100)])
def test_random_boxes_are_those_of_the_formula_in_plain_python(shape):
    height, width = shape

    def box(u):
        for share, turn in zip(u[:-2:2], u[1:-2:2], strict=True):
            area = height * width * (0.08 + share * 0.92)
            aspect = math.exp(math.log(3 / 4) + turn * (math.log(4 / 3) - math.log(3 / 4)))
            wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < tall <= height:
                top, left = int(u[-2] * (height - tall + 1)), int(u[-1] * (width - wide + 1))
                return left, top, left + wide, top + tall
        wide, tall = min(width, round(height * 4 / 3)), height
        return (width - wide) // 2, 0, (width - wide) // 2 + wide, tall

    draws = np.random.default_rng(2).random((2000, crops.DRAWS), np.float32)
    assert [crops.random_box(shape, u) for u in draws] == [box(u.tolist()) for u in draws]


def test_an_image_that_no_box_fits_is_cut_in_the_middle():
    u = np.full(crops.DRAWS, 0.99)
    assert crops.random_box((10, 100), u) == (43, 0, 56, 10)
    assert crops.random_box((100, 10), u) == (0, 43, 10, 56)
    assert crops.random_box((1, 1), u) == (0, 0, 1, 1)


@pytest.mark.parametrize("shape", [(30, 41), (41, 30), (17, 17), (16, 16), (12, 300)])
def test_the_central_crop_is_that_of_the_resized_image(shape):
    rng = np.random.default_rng(0)
    x = np.cumsum(np.cumsum(rng.normal(size=(*shape, 3)), 0), 1)
    image = Image.fromarray(np.uint8(255 * (x - x.min()) / (x.max() - x.min())))
    short = min(shape)
    wide, tall = 16 * shape[1] // short, 16 * shape[0] // short
    resized = np.asarray(image.resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = (tall - 12) // 2, (wide - 10) // 2
    expected = resized[top : top + 12, left : left + 10].astype(int)
    got = crops.pixels(image, crops.center_box(shape, (12, 10), 16), (12, 10)).astype(int)
    # the filter does not reach over the edge of the box
    assert np.abs(got - expected)[1:-1, 1:-1].max() <= 1
    if short == 16:
        assert np.array_equal(got, expected)


def test_statistics_are_measured_where_none_are_given(root):
    some = {key: value for key, value in SMALL.items() if key not in ("mean", "std")}
    measured = jt.data.stream("pictures", data_dir=root, **some)
    table = np.stack([colour(i) for i in range(2000)])
    assert np.abs(measured.mean - table.mean(0)).max() < 10
    assert np.abs(measured.std - table.std(0)).max() < 10


# --- training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "squares"
    rng = np.random.default_rng(0)
    for split, n in (("train", 50), ("test", 21)):
        for i in range(n):
            place = path / split / f"class{i % 3}"
            place.mkdir(parents=True, exist_ok=True)
            x = rng.integers(0, 200, (5, 5, 3)) + 25 * (i % 3)
            Image.fromarray(x.astype(np.uint8)).save(place / f"{i:03d}.png")
    return path


def gradient_score(params, context, *, key):
    """A score that looks at its batches."""
    x, y = context.batches
    grads = jax.grad(lambda p: context.loss(p, (x[0], y[0])) + context.loss(p, (x[1], y[1])))(
        params
    )
    return jax.tree.map(lambda g, w: abs(g * w), grads, params)


PRUNING = jt.Pruning(
    levels=1, fraction=0.5, rewind=3, score=gradient_score, score_batches=2, score_batch_size=9
)


def searched(data, *, training=TRAINING, **options):
    net = jt.networks.lenet(data.shape, data.classes, widths=(6, 4))
    if "runtime" not in options:
        mesh = jt.parallel.mesh(2, devices=jax.devices()[:2])
        options = {"mesh": mesh, "progress": False} | options
    return jt.find_tickets(net, data, training, PRUNING, seeds=(1, 2, 3), **options)


@pytest.fixture(scope="module")
def in_memory(folder):
    data = jt.data.load_folder(folder).with_validation(0.2)
    return searched(data, branches=("reinit",))


def streamed(folder, **options):
    options = {"block_bytes": 5 * 5 * 3 * 16 * 2, "threads": 2} | options
    source = jt.data.stream(
        folder, size=(5, 5), resize=5, train_crop="center", validation=0.2, **options
    )
    return source


def same_runs(a, b):
    pd.testing.assert_frame_equal(a.table(), b.table(), rtol=1e-4, atol=1e-6)
    same_tickets(a, b)


def same_tickets(a, b):
    for x, y in zip(jax.tree.leaves(a.tickets), jax.tree.leaves(b.tickets), strict=True):
        np.testing.assert_allclose(np.float32(x), np.float32(y), rtol=1e-4, atol=1e-6)


def test_a_stream_trains_as_data_in_memory(folder, in_memory):
    """Decoded again at every evaluation, in blocks of two steps; branches and tickets together."""
    data = dataclasses.replace(
        streamed(folder, hold_bytes=0), mean=in_memory.data.mean, std=in_memory.data.std
    )
    assert {k: len(v) for k, v in data.splits.items()} == {
        "train": 40,
        "validation": 10,
        "test": 21,
    }
    runs = searched(data, branches=("reinit",), at_once=2)
    same_runs(in_memory, runs)
    # one program for data in memory and one for blocks, whatever the level and branch
    assert program(Supervised(runs.net, TRAINING), runs.mesh).traces() == 2


def test_networks_on_a_stream_stop_early_as_on_data_in_memory(folder, in_memory, tmp_path):
    """Also: a run that time stopped ends at the same steps when it goes on."""
    losses = in_memory.table().query("split == 'test' and metric == 'loss' and level == 0")
    within = losses[losses.step.between(1, TRAINING.steps - 1)].value.sort_values().to_numpy()
    # between two of them: no rounding moves a stop
    value = float(within[[1, 2]].mean())
    training = dataclasses.replace(
        TRAINING, stop_when=jt.Target("loss", value, split="test", better="lower")
    )
    usual = searched(in_memory.data, training=training)
    ends = usual.table().query("level == 0").groupby("seed").step.max()
    assert ends.min() < TRAINING.steps and ends.nunique() > 1
    data = dataclasses.replace(
        streamed(folder, hold_bytes=0), mean=in_memory.data.mean, std=in_memory.data.std
    )
    budgets, calls = (0.01, None), 0
    for budget in budgets:
        runtime = jt.Runtime(
            jt.parallel.mesh(2, devices=jax.devices()[:2]), folder=tmp_path, progress=False,
            time_budget=budget,
        )  # fmt: skip
        try:
            runs = searched(data, training=training, runtime=runtime)
            break
        except jt.RunInterrupted:
            calls += 1
    assert calls == 1
    same_runs(usual, runs)


@pytest.mark.slow
def test_options_of_training_are_those_on_data_in_memory(folder, in_memory):
    """Also: epochs count the examples of the stream."""
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    training = jt.Training(
        epochs=3, batch_size=16, eval_every=4, accumulate=2, ema=0.5, weight_decay=0.01,
        class_weights=(1.0, 2.0, 0.5), trainable=("dense_0/*", "*bias"), eval_batch_size=12,
    )  # fmt: skip
    pruning = jt.Pruning(levels=0)
    both = [
        jt.find_tickets(in_memory.net, source, training, pruning, seeds=(1,), progress=False)
        for source in (in_memory.data, data)
    ]
    assert both[1].training.steps == 8
    same_runs(*both)
    with pytest.raises(ValueError, match=r"'squares' reads its labels while it trains"):
        training.replace(class_weights="balanced").for_data(data)


@pytest.mark.slow
def test_copies_of_a_stream_are_those_of_data_in_memory(folder, in_memory):
    data = dataclasses.replace(
        streamed(folder, hold_bytes=0), mean=in_memory.data.mean, std=in_memory.data.std
    )
    both = [
        jt.instability(
            in_memory.net,
            source,
            TRAINING,
            at=(0, 3),
            points=3,
            seeds=(1, 2),
            mesh=in_memory.mesh,
            progress=False,
        )
        for source in (in_memory.data, data)
    ]
    a, b = (inst.table() for inst in both)
    assert set(a["split"]) == {"train", "validation", "test", "weights"}
    pd.testing.assert_frame_equal(a, b, rtol=1e-3, atol=1e-5)


def test_scores_see_of_a_stream_what_they_see_of_data_in_memory(folder, in_memory, tmp_path):
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    options = {
        "density": 0.2, "per_class": 2, "dense": False, "seeds": (1, 2), "mesh": in_memory.mesh,
        "progress": False,
    }  # fmt: skip
    training = TRAINING.replace(steps=2)
    both = [
        jt.prune_at(in_memory.net, source, training, score=gradient_score, **options)
        for source in (in_memory.data, data)
    ]
    same_tickets(*both)
    with pytest.raises(ValueError, match=r"`score` 'force' draws new batches .* a stream does not"):
        jt.prune_at(in_memory.net, data, training, score="force", **options)
    # said before the dense training, not after it
    options |= {"per_class": 500, "folder": tmp_path / "never"}
    with pytest.raises(ValueError, match=r"`per_class` asks for 500 .* of each class, but class"):
        jt.prune_at(in_memory.net, data, training, **options)
    assert not list(tmp_path.glob("never/units/*"))


def test_searches_see_of_a_stream_what_they_see_of_data_in_memory(folder, in_memory):
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    method = jt.SEARCHES["gem_miner"](freezings=2)
    both = [
        jt.search(
            in_memory.net, source, TRAINING, method, density=0.3, seeds=(1, 2), steps=6,
            mesh=in_memory.mesh, train=False, dense=False, progress=False,
        )
        for source in (in_memory.data, data)
    ]  # fmt: skip
    same_tickets(*both)
    for table in (lambda runs: runs.table(), lambda runs: runs.trace()):
        pd.testing.assert_frame_equal(*(table(runs) for runs in both), rtol=1e-3, atol=1e-5)


def test_telemetry_sees_of_a_stream_what_it_sees_of_data_in_memory(folder, in_memory):
    """The gradient too, which is that of the batch of the next step."""
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    both = [
        jt.telemetry(dataclasses.replace(in_memory, data=source), levels=[1], progress=False)
        for source in (in_memory.data, data)
    ]
    assert both[0].value.notna().all() and both[0].step.nunique() > 3
    pd.testing.assert_frame_equal(*both, rtol=1e-3, atol=1e-5)


def test_tickets_move_to_a_stream_as_to_data_in_memory(folder, in_memory):
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    both = [
        jt.transfer(in_memory, to=source, levels=[1], seeds=(1, 3), progress=False)
        for source in (in_memory.data, data)
    ]
    assert both[1].data is data
    same_runs(*both)


@pytest.mark.slow
def test_a_run_that_stopped_in_the_middle_goes_on(folder, in_memory, tmp_path):
    """On two devices that share each batch, with evaluation images that stay there."""
    data = dataclasses.replace(streamed(folder), mean=in_memory.data.mean, std=in_memory.data.std)
    mesh = jt.parallel.mesh(1, 2, devices=jax.devices()[:2])
    options = {"mesh": mesh, "folder": tmp_path / "run", "save_every": 0.0}
    with killed(2) as first:
        searched(data, **options)
    with after_save(None) as later:
        resumed = searched(data, **options)
    # level 0 went on from a save
    assert later[0] == (first[-1][0], first[-1][1] + 1)
    table = in_memory.table()
    table = table[table.branch == "ticket"].reset_index(drop=True)
    pd.testing.assert_frame_equal(resumed.table(), table, rtol=1e-4, atol=1e-6)
    same_tickets(resumed, in_memory)


def test_blocks_keep_to_their_bytes(pictures):
    mesh = jt.parallel.mesh(2, 2, devices=jax.devices()[:4])
    step = 8 * 8 * 3 * 16 // 2
    for count, expected in ((1, 1), (3 * step, 3), (3 * step + 1, 3), (4 * step, 3), (1e6, 5)):
        source = dataclasses.replace(pictures, block_bytes=int(count))
        assert StreamedData(source, TRAINING, mesh).steps(2) == expected


def test_a_process_makes_its_own_rows_only():
    def sharding(*pieces):
        return types.SimpleNamespace(addressable_devices_indices_map=lambda shape: dict(pieces))

    every = slice(None)
    a, b = (0, (slice(4, 6), every, slice(0, 8))), (1, (slice(6, 8), every, slice(0, 8)))
    assert local_box(sharding(a, b), (8, 3, 16)) == (slice(4, 8), slice(0, 3), slice(0, 8))
    assert local_box(sharding((0, (every,) * 3)), (8, 3, 16))[0] == slice(0, 8)


# --- identity


def test_the_fingerprint_is_of_files_and_crops(root, pictures, tmp_path):
    again = jt.data.stream("pictures", data_dir=root, **(SMALL | {"threads": 7}), block_bytes=9)
    assert again.fingerprint == pictures.fingerprint
    others = [
        jt.data.stream("pictures", data_dir=root, **(SMALL | change))
        for change in (
            {"size": (8, 9)},
            {"resize": 11},
            {"train_crop": "center"},
            {"scale": (0.1, 1)},
            {"mean": (1, 2, 3)},
        )
    ]
    others += [pictures.with_validation(0.1), pictures.with_validation(0.1, seed=1)]
    prepared(tmp_path, counts={"train": 30, "test": 9})
    others.append(jt.data.stream("pictures", data_dir=tmp_path, **SMALL))
    assert len({s.fingerprint for s in [pictures, *others]}) == 1 + len(others)


# --- bad input


def all_of(source, split="train"):
    n = len(source.splits[split])
    index = np.arange(n) + source.starts[split]
    request = pipeline.Request(index, None)
    with pipeline.blocks(source, lambda b: request, 1, shape=(n,), put=lambda x, y: y) as found:
        return next(found)


def test_a_truncated_image_is_named(tmp_path):
    prepared(tmp_path, counts={"train": 40, "test": 3}, spoiled=(17,))
    source = jt.data.stream("pictures", data_dir=tmp_path, **SMALL)
    with pytest.raises(jt.data.StreamError) as error:
        all_of(source)
    found = str(error.value)
    assert "cannot be decoded" in found and "of split 'train'" in found
    number = int(found.split("record ")[1].split()[0])
    with pytest.raises(jt.data.StreamError, match=f"record {number} of"):
        crops.decoded(*[source.train.read([number])[0][0], 3, source.called(number)])
    assert len(all_of(source, "test")) == 3


def test_a_stream_that_ends_early_is_named(tmp_path):
    folder = prepared(tmp_path, counts={"train": 20, "test": 3})
    file = folder / "dataset_info.json"
    info = json.loads(file.read_text())
    for split in info["splits"]:
        if split["name"] == "train":
            split["shardLengths"] = ["30"]
    file.write_text(json.dumps(info))
    source = jt.data.stream("pictures", data_dir=tmp_path, **SMALL)
    with pytest.raises(
        jt.data.StreamError, match=r"record 20 of split 'train' of .*end before the 30"
    ):
        all_of(source)


def test_a_damaged_shard_is_named(tmp_path):
    folder = prepared(tmp_path, counts={"train": 200, "test": 3})
    (shard,) = folder.glob("*train*")
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 3000] = b"\0" * 3000
    shard.write_bytes(raw)
    source = jt.data.stream("pictures", data_dir=tmp_path, **SMALL)
    with pytest.raises(jt.data.StreamError, match=r"record \d+ of split 'train' of .*pictures"):
        all_of(source)


def test_files_that_vanish_or_break_are_named(folder, tmp_path):
    import shutil

    path = tmp_path / "squares"
    shutil.copytree(folder, path)
    source = streamed(path)
    assert source.channels == 3 and source.name == "squares"
    broken = path / "train" / "class1" / "004.png"
    broken.write_bytes(broken.read_bytes()[:40])
    numbers = range(len(source.train))
    place = next(n for n in numbers if str(broken) in source.train.called(n))
    with pytest.raises(jt.data.StreamError, match=r"the image of '.*004.png' cannot be decoded"):
        all_of(source)
    broken.unlink()
    with pytest.raises(jt.data.StreamError, match=r"'.*004.png' cannot be read .*has changed"):
        source.train.read([place])


def test_a_label_outside_of_the_classes_is_named(pictures):
    source = dataclasses.replace(pictures, classes=2)
    with pytest.raises(jt.data.StreamError, match=r"has the label 2, outside of \[0, 2\)"):
        all_of(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 8}, "`size` must be a pair"),
        ({"size": (8, 0)}, "`size` must be a whole number of at least 1"),
        ({"resize": 7}, "`resize` must be a whole number of at least 8, got 7"),
        ({"train_crop": "corner"}, "`train_crop` must be one of 'random', 'center'"),
        ({"scale": (0, 1)}, "`scale` must be 0 < low <= high <= 1"),
        ({"ratio": (2, 1)}, "`ratio` must be 0 < low <= high"),
        ({"mean": None}, "`mean` and `std` go together"),
        ({"mean": (1, 2)}, r"one number per channel \(3\)"),
        ({"std": (1, 0, 1)}, "`std` must be above 0"),
        ({"threads": 0}, "`threads` must be a whole number of at least 1"),
        ({"block_bytes": 0}, "`block_bytes`"),
        ({"hold_bytes": -1}, "`hold_bytes`"),
        ({"validation": 1.0}, "`validation` must be in"),
        ({"validation": 0.0001}, "cannot be held out"),
    ],
)
def test_bad_arguments(root, change, message):
    with pytest.raises(ValueError, match=message):
        jt.data.stream("pictures", data_dir=root, **(SMALL | change))


def test_bad_names(root, folder, tmp_path):
    with pytest.raises(jt.data.MissingDataError, match="'imagenet2012' is not prepared"):
        jt.data.stream("imagenet", data_dir=root)
    with pytest.raises(ValueError, match="`data_dir` is not used for the folder"):
        jt.data.stream(folder, data_dir=root)
    prepared(tmp_path, counts={"train": 3, "other": 3})
    with pytest.raises(ValueError, match="needs the splits 'train' and 'test'"):
        jt.data.stream("pictures", data_dir=tmp_path)


def test_a_second_validation_split_is_refused(pictures):
    with pytest.raises(ValueError, match="a validation split already"):
        pictures.with_validation(0.1).with_validation(0.1)
