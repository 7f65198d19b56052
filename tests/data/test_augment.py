"""Augmentation: against NumPy and Pillow with the same draws, its distribution, and in training."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxticket as jt
from jaxticket import settings
from jaxticket.data import augment
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine import program as train
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.learner import Batch
from jaxticket.engine.loop import job_plan
from jaxticket.engine.metrics import Normalization
from jaxticket.engine.optim import optimizer
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.random import root_keys, stream
from jaxticket.results import plain

H, W = 7, 9
BATCH = 6
KEY = jax.random.key(2)
MEAN = np.array([90.0, 100.5, 120.0], np.float32)
X = np.random.default_rng(0).integers(0, 256, (BATCH, H, W, 3)).astype(np.uint8)
CROP = jt.Training(augment=("crop",))
SHIFT = jt.Training(augment=("shift", "flip"), augment_pixels=3)
RESIZED = jt.Training(augment=("resized_crop", "flip"), augment_scale=(0.1, 0.9))


@functools.partial(jax.jit, static_argnums=1)
def both(x, training, key, first=0):
    """Augmented images and their windows, in one program."""
    positions = jnp.arange(len(x)) + first
    window = augment.windows(x.shape[1:3], positions, training, key=key)
    return augment.augmented(x, training, MEAN, key=key, first=first), window


def applied(x, training, key, first=0):
    return np.asarray(both(x, training, key, first)[0])


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def drawn(count, training, key, shape=(H, W)):
    return augment.windows(shape, jnp.arange(count), training, key=key)


def turned(window):
    """Which images are flipped, and their columns turned back."""
    columns = np.asarray(window.columns)
    flipped = columns[:, -1] < columns[:, 0]
    return flipped, np.where(flipped[:, None], columns[:, ::-1], columns)


def by_numpy(x, training, window):
    """What slicing a padded image gives for the offsets of these windows."""
    flipped, columns = turned(window)
    pad = training.augment_pixels
    result = []
    for i, image in enumerate(x.astype(np.float32)):
        padded = np.zeros((H + 2 * pad, W + 2 * pad, 3), np.float32)
        padded += MEAN if "shift" in training.augment else 0
        padded[pad : pad + H, pad : pad + W] = image
        top, left = int(window.rows[i, 0]) + pad, int(columns[i, 0]) + pad
        part = padded[top : top + H, left : left + W]
        result.append(part[:, ::-1] if flipped[i] else part)
    return np.stack(result)


@pytest.mark.parametrize(
    ("training", "dtype"),
    [(CROP, np.float32), (SHIFT, np.uint8), (jt.Training(augment=("crop", "flip")), np.uint8)],
    ids=["crop", "shift+flip", "crop+flip"],
)
def test_moves_and_flips_equal_slices_of_padded_images(training, dtype):
    x = (X / 7).astype(np.float32) if dtype == np.float32 else X
    found, window = both(x, training, KEY)
    expected = by_numpy(x, training, window)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)
    # the case is no identity
    assert (expected != x).mean() > 0.3


def test_resized_parts_equal_those_of_pillow():
    found, window = both(X, RESIZED, KEY)
    flipped, columns = turned(window)
    rows, found = np.asarray(window.rows), np.asarray(found)
    # neighbours in the middle are part / size apart, and the first shows the part's first pixel
    tall = np.round((rows[:, H // 2 + 1] - rows[:, H // 2]) * H).astype(int)
    wide = np.round((columns[:, W // 2 + 1] - columns[:, W // 2]) * W).astype(int)
    assert 0 < flipped.sum() < BATCH and len(set(zip(tall, wide, strict=True))) > 3
    for i in range(BATCH):
        top, left = rows[i, 0], columns[i, 0]
        assert top == round(top) and left == round(left)
        box = (left, top, left + wide[i], top + tall[i])
        part = Image.fromarray(X[i]).crop(tuple(map(int, box)))
        expected = np.asarray(part.resize((W, H), Image.Resampling.BILINEAR), np.float32)
        expected = expected[:, ::-1] if flipped[i] else expected
        # Pillow rounds after the rows and after the columns
        np.testing.assert_allclose(found[i], expected, atol=1.01)


def test_offsets_are_uniform_and_independent():
    training = jt.Training(augment=("crop", "flip"), augment_pixels=2)
    window = drawn(5000, training, KEY)
    flipped, columns = turned(window)
    counts = np.zeros((5, 5, 2))
    np.add.at(counts, (window.rows[:, 0] + 2, columns[:, 0] + 2, flipped.astype(int)), 1)
    assert counts.min() > 0
    # 49 degrees of freedom: mean 49, standard deviation 10
    assert 20 < ((counts - 100) ** 2 / 100).sum() < 100


def test_parts_have_the_area_and_aspect_that_were_asked_for():
    size = 64
    training = jt.Training(
        augment=("resized_crop",), augment_scale=(0.1, 0.5), augment_ratio=(0.8, 1.25)
    )
    window = drawn(4000, training, KEY, (size, size))
    middle = size // 2
    tall = np.asarray(window.rows[:, middle + 1] - window.rows[:, middle]) * size
    wide = np.asarray(window.columns[:, middle + 1] - window.columns[:, middle]) * size
    area, aspect = tall * wide / size**2, wide / tall
    # whole pixels: sides of 18 and more are rounded by at most 3%
    assert 0.09 < area.min() < 0.11 and 0.48 < area.max() < 0.53
    assert abs(area.mean() - 0.3) < 0.01 and abs(area.std() - 0.4 / 12**0.5) < 0.01
    assert 0.77 < aspect.min() < 0.83 and 1.2 < aspect.max() < 1.3
    assert abs(np.log(aspect).mean()) < 0.01
    begin, free = np.asarray(window.rows[:, 0]), size - np.round(tall)
    assert (begin >= 0).all() and (begin <= free).all()
    place = begin[free > 20] / free[free > 20]
    assert abs(place.mean() - 0.5) < 0.02 and place.min() == 0 and place.max() == 1


def test_a_part_that_never_fits_becomes_the_largest_in_the_middle():
    training = jt.Training(
        augment="resized_crop", augment_scale=(1.0, 1.0), augment_ratio=(3.0, 3.0)
    )
    window = drawn(3, training, KEY)
    # the whole width of 9, and a height of 9 / 3 = 3 from row 2 on
    np.testing.assert_array_equal(window.columns[0], np.arange(W))
    np.testing.assert_allclose(window.rows[0, [0, 3, 6]], [2, 3, 4], atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_the_whole_image_is_the_identity(dtype):
    rows, columns = (np.tile(np.arange(n, dtype=dtype), (BATCH, 1)) for n in (H, W))
    window = augment.Window(rows, columns, np.zeros(BATCH, np.float32))
    np.testing.assert_array_equal(jax.jit(augment.seen_through)(X, window, MEAN), X)


@pytest.mark.parametrize("platform", augment.READERS)
def test_every_platform_reads_the_same_pixels(platform):
    """All bytes, rows and columns in any order and more than once, exactly."""
    images = np.arange(2 * H * W * 3, dtype=np.uint8).reshape(2, H, W, 3)
    rng = np.random.default_rng(0)
    rows, columns = (np.asarray(rng.integers(0, n, (2, n)), np.int32) for n in (H, W))
    found = jax.jit(augment.READERS[platform])(images, rows, columns)
    expected = [x[r][:, c] for x, r, c in zip(images, rows, columns, strict=True)]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack(expected))


@pytest.mark.parametrize("training", [SHIFT, RESIZED], ids=["shift", "resized_crop"])
def test_images_draw_by_their_place_in_the_batch(training):
    whole = applied(X, training, KEY)
    # the later half of the batch comes first
    np.testing.assert_array_equal(applied(np.roll(X, -3, axis=0), training, KEY, 3)[:3], whole[3:])
    # the same image in every place
    same = applied(np.repeat(X[:1], BATCH, axis=0), training, KEY)
    assert len({image.tobytes() for image in same}) > 4


def test_names_in_any_order_and_streams_of_their_own():
    together = both(X, jt.Training(augment=("crop", "flip")), KEY)[1]
    other_way = drawn(BATCH, jt.Training(augment=("flip", "crop")), KEY)
    for ours, theirs in zip(other_way, together, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # in float32 as above: compiled already
    alone = both((X / 7).astype(np.float32), CROP, KEY)[1]
    np.testing.assert_array_equal(alone.rows, together.rows)
    np.testing.assert_array_equal(alone.columns, turned(together)[1])
    assert tuple(augment.AUGMENTATIONS) == settings.AUGMENTATIONS


def test_replicas_side_by_side_draw_what_they_draw_alone():
    keys = root_keys(range(3))
    together = jax.jit(jax.vmap(lambda key: both(X, SHIFT, key)[0]))(keys)
    for i in range(3):
        np.testing.assert_array_equal(together[i], applied(X, SHIFT, keys[i]))
    assert len({np.asarray(x).tobytes() for x in together}) == 3


# --- in training


def images():
    """Forty 6x6 images of 4 classes."""
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
    y = np.arange(40) % 4
    return jt.data.from_arrays(x, y, x[:8], y[:8])


DATA = images()
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
TRAINING = jt.Training(
    steps=4, batch_size=8, optimizer="momentum", lr=0.1, augment=("crop", "flip"), augment_pixels=2
)
SEEDS = (3, 5)


def started(program, training, mesh, seeds=SEEDS):
    keys = parallel.put(root_keys(seeds), mesh)
    limits = np.zeros(len(seeds), np.int32)
    params, stats = initial_networks(NET, mesh, jax.random.key_data(root_keys(seeds)))
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    origin = parallel.put(Origin(params, stats, mask), mesh)
    return program.start(limits, origin, keys, np.zeros(len(seeds), np.int32))


def chunks(steps, training=TRAINING, *, data=DATA, shape=(1, 1), **plan):
    """Weights and metrics of both seeds after chunks of so many steps."""
    mesh = parallel.mesh(*shape, devices=jax.devices()[: shape[0] * shape[1]])
    program = train.program(Supervised(NET, training), mesh)
    arrays = put_data(data, training, mesh).arrays
    state, metrics = started(program, training, mesh), None
    at = 0
    for count in steps:
        at += count
        state, metrics = program.chunk(
            np.full(2, count, np.int32),
            state,
            parallel.put(job_plan(training, 2, **plan), mesh),
            np.full(2, at, np.int32),
            np.ones(2, bool),
            None,
            arrays,
        )
    return parallel.host(state.params), parallel.host(metrics)


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_training_in_two_chunks_is_training_in_one():
    assert same(chunks([4]), chunks([2, 2]))


def by_itself(training):
    """A state at step 3, weights drawn by NumPy, and a training step on the first 8 images."""
    rng = np.random.default_rng(1)
    key = jax.random.key(9)
    shapes = jax.eval_shape(NET.init, key)[0]
    params = jax.tree.map(lambda w: rng.normal(0, 0.3, w.shape).astype(np.float32), shapes)
    mask = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    fresh = jax.tree.map(
        lambda w: np.zeros(w.shape, w.dtype), jax.eval_shape(optimizer(training).init, params)
    )
    state = jt.TrainState(np.int32(3), params, {}, fresh, mask, key, np.int32(-1))
    plan = jax.tree.map(lambda v: v[0], job_plan(training, 1, augment=7))
    batch = Batch(DATA.train.x[:8], DATA.train.y[:8], Normalization(DATA.mean, DATA.std))

    def step(state):
        learner = Supervised(NET, training)
        return learner.step(state, batch, plan, jnp.bool_(True), parallel.Placement())

    return state, step


def test_a_step_trains_on_the_augmented_batch():
    """One step by hand: the batch, augmented by the key of its step, and the gradient of its
    mean loss.
    """
    training = TRAINING.replace(optimizer="sgd")
    state, step = by_itself(training)

    @jax.jit
    def by_hand(params):
        key = stream(state.key, "augment", 7, 3)
        x = augment.augmented(DATA.train.x[:8], training, DATA.mean, key=key)
        x = (x - DATA.mean[None, None, None]) / DATA.std[None, None, None]

        def loss(p):
            logits = jax.nn.log_softmax(NET.apply(p, {}, x, train=True)[0])
            return -jnp.mean(logits[np.arange(8), DATA.train.y[:8]])

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    after, expected = jax.jit(step)(state).params, by_hand(state.params)
    chex.assert_trees_all_close(after, expected, rtol=1e-7, atol=1e-06)


def test_noise_of_the_order_and_of_augmentation_are_apart():
    plain_run = chunks([4])
    assert same(plain_run, chunks([4], augment=0))
    assert not same(plain_run, chunks([4], augment=1))
    assert not same(chunks([4], order=1, augment=0), chunks([4], order=1))
    # without augmentation its number says nothing
    off = TRAINING.replace(augment=())
    assert same(chunks([4], off), chunks([4], off, augment=1))


def test_a_batch_split_over_devices_is_augmented_as_a_whole_one():
    one, two = chunks([4]), chunks([4], shape=(1, 2))
    chex.assert_trees_all_close(one, two, rtol=1e-7, atol=1e-05)


def test_evaluation_sees_images_as_they_are():
    still = TRAINING.replace(lr=0.0)
    off = still.replace(augment=())
    np.testing.assert_array_equal(chunks([4], still)[1], chunks([4], off)[1])


def test_without_augmentation_nothing_is_drawn():
    for training, draws in ((TRAINING, True), (TRAINING.replace(augment=()), False)):
        state, step = by_itself(training)
        assert ("random_bits" in str(jax.make_jaxpr(step)(state))) is draws


# --- settings


def test_settings_go_to_json_and_back():
    training = jt.Training(
        augment=["resized_crop", "flip"], augment_scale=[0.1, 1], augment_ratio=(0.8, 1.25)
    )
    again = jt.Training(**json.loads(json.dumps(plain(training))))
    assert again == training and hash(again) == hash(training)
    # what nothing uses any more goes back to its default
    assert training.replace(augment=()).augment_scale == (0.08, 1.0)
    assert training.replace(augment="flip").augment_scale == (0.08, 1.0)
    assert jt.Training(augment="flip").augment == ("flip",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": ("flop",)}, "`augment` 'flop' is unknown; did you mean 'flip'"),
        ({"augment": ("flip", "flip")}, "`augment` must be distinct, got .'flip'. more than once"),
        ({"augment": ("crop", "flip", "shift")}, "`augment` takes only one of crop, shift"),
        ({"augment": "crop", "augment_pixels": 0}, "`augment_pixels` must be a whole number"),
        (
            {"augment": "flip", "augment_pixels": 2},
            "`augment_pixels` is used by augment='crop' and augment='shift' only",
        ),
        (
            {"augment": "crop", "augment_scale": (0.1, 1)},
            "`augment_scale` is used by augment='resized_crop' only",
        ),
        (
            {"augment": "crop", "augment_ratio": (1, 2)},
            "`augment_ratio` is used by augment='resized_crop' only",
        ),
        ({"augment_scale": 0.1}, r"`augment_scale` must be \(low, high\), got 0.1"),
        ({"augment_scale": (0.5, 1.5)}, "`augment_scale` must be 0 < low <= high <= 1"),
        ({"augment_ratio": (2, 1)}, "`augment_ratio` must be 0 < low <= high, got"),
        ({"augment_ratio": (1, float("inf"))}, "`augment_ratio` must be 0 < low <= high, got"),
    ],
    ids=lambda value: None if isinstance(value, dict) else "",
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        jt.Training(**changes)


def test_moves_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match=r"`augment_pixels` 6 can move images of \(6, 6\)"):
        jt.find_tickets(NET, DATA, TRAINING.replace(augment_pixels=6), progress=False)


def test_a_stream_that_cuts_its_images_needs_no_resized_crop():
    cutting = Stream(
        name="photos",
        classes=4,
        channels=1,
        train=range(40),
        test=range(8),
        size=(6, 6),
        resize=6,
        train_crop="random",
        scale=(0.1, 1.0),
        ratio=(0.75, 1.25),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
        threads=1,
        block_bytes=1,
        hold_bytes=1,
    )
    training = jt.Training(batch_size=8, augment=("resized_crop",))
    mesh = parallel.mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"'resized_crop', but .* 'photos' already takes such"):
        train.check_fit(NET, cutting, training, mesh)
    train.check_fit(NET, dataclasses.replace(cutting, train_crop="center"), training, mesh)
