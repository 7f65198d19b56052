"""Corrupted images: severity, seeds, formulas by hand, small and gray images, wrong arguments."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import jaxticket.data as jd
from jaxticket.data.corruptions import corruptions_of

RNG = np.random.default_rng(0)
DIGITS = jd.load("digits")


def scenes(count):
    """Colored rectangles on slopes of color, and some texture."""
    slope = RNG.normal(size=(count, 1, 1, 3)) * np.linspace(-0.2, 0.2, 32)[:, None, None]
    x = np.repeat(RNG.uniform(0.2, 0.8, (count, 1, 1, 3)) + slope, 32, axis=2)
    for image in x:
        for _ in range(4):
            top, left = RNG.integers(0, 24, 2)
            image[top : top + RNG.integers(4, 16), left : left + RNG.integers(4, 16)] = RNG.random(
                3
            )
    return np.clip(255 * (x + 0.03 * RNG.normal(size=x.shape)), 0, 255).astype(np.uint8)


COLOR = scenes(120)
GRAY = np.rint(COLOR[:, 2:30, 2:30] @ jd.alike.LUMA)[..., None].astype(np.uint8)
# pairs of severities that the published constants do not order by their distance from the image:
# elastic_transform shifts less and jitters more; glass_blur smooths what it has moved; frost
# dims the image; saturate first takes color away and then adds it; motion_blur has the same
# direction and width twice; spatter is water before it is mud
UNORDERED = {
    "elastic_transform": {(1, 2), (2, 3), (3, 4), (4, 5)},
    "glass_blur": {(1, 2), (2, 3), (4, 5)},
    "frost": {(3, 4), (4, 5)},
    "saturate": {(2, 3)},
    "motion_blur": {(3, 4)},
    "spatter": {(3, 4)},
}


def distance(x, y):
    return np.sqrt(np.mean((x.astype(float) - y.astype(float)) ** 2, axis=(1, 2, 3))).mean()


@pytest.mark.parametrize("name", jd.CORRUPTIONS)
@pytest.mark.parametrize("x", [COLOR, GRAY], ids=["color", "gray"])
def test_severe_corruptions_are_farther_from_the_image(name, x):
    if name not in corruptions_of(x.shape[3]):
        return
    every = [jd.corrupt(x, name, severity) for severity in range(1, 6)]
    assert all(y.dtype == np.uint8 and y.shape == x.shape for y in every)
    far = [distance(x, y) for y in every]
    assert far[0] > 0
    for severity in range(1, 5):
        if (severity, severity + 1) not in UNORDERED.get(name, ()):
            assert far[severity - 1] < far[severity], (severity, far)
    # of random colors too: less and more saturation are as far from the image
    if name not in ("elastic_transform", "saturate"):
        assert far[0] < far[4]


def test_images_are_corrupted_by_number_name_severity_and_seed_alone():
    x = COLOR[:6]
    for name in jd.CORRUPTIONS:
        y = jd.corrupt(x, name, 3, seed=1)
        np.testing.assert_array_equal(jd.corrupt(x, name, 3, seed=1), y)
        np.testing.assert_array_equal(jd.corrupt(x[4:], name, 3, seed=1, numbers=[4, 5]), y[4:])
        drawn = name not in (
            "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate",
            "pixelate", "jpeg_compression",
        )  # fmt: skip
        assert (jd.corrupt(x, name, 3, seed=2) != y).any() == drawn, name
        twice = jd.corrupt(x[[0, 0]], name, 3)
        assert (twice[0] != twice[1]).any() == drawn, name
    # more images than are corrupted at once
    many = np.repeat(x[:1, :8, :8], 1001, axis=0)
    alone = jd.corrupt(many[1000:], "gaussian_noise", 1, numbers=[1000])
    np.testing.assert_array_equal(jd.corrupt(many, "gaussian_noise", 1)[1000:], alone)


def test_what_is_not_drawn_is_the_published_formula():
    x = COLOR[:5]
    real = x / 255

    def equal(name, severity, wanted):
        found = jd.corrupt(x, name, severity).astype(float)
        np.testing.assert_allclose(found, 255 * np.clip(wanted, 0, 1), atol=0.51)

    mean = real.mean(axis=(1, 2), keepdims=True)
    equal("contrast", 4, (real - mean) * 0.3 + mean)
    equal("gaussian_blur", 5, np.stack([
        np.stack([ndimage.gaussian_filter(one[..., c], 1, mode="nearest") for c in range(3)], -1)
        for one in real
    ]))  # fmt: skip
    # a disk of radius 1.5 has nine pixels
    equal("defocus_blur", 5, ndimage.uniform_filter(real, (0, 3, 3, 0), mode="mirror"))
    # channels of HSV, by the standard library
    hsv = np.stack([np.asarray(Image.fromarray(one).convert("HSV"), float) for one in x]) / 255
    raised = jd.corrupt(x, "brightness", 3)
    value = raised.max(axis=3) / 255
    np.testing.assert_allclose(value, np.clip(real.max(axis=3) + 0.15, 0, 1), atol=0.003)
    less = np.stack(
        [np.asarray(Image.fromarray(one).convert("HSV")) for one in jd.corrupt(x, "saturate", 1)]
    )
    np.testing.assert_allclose(less[..., 1] / 255, 0.3 * hsv[..., 1], atol=0.03)
    np.testing.assert_allclose(less[..., 2] / 255, hsv[..., 2], atol=0.003)
    for i, image in enumerate(jd.corrupt(x, "jpeg_compression", 2)):
        file = io.BytesIO()
        Image.fromarray(x[i]).save(file, "JPEG", quality=65)
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    coarse = jd.corrupt(x, "pixelate", 4)
    small = Image.fromarray(x[0]).resize((24, 24), Image.Resampling.BOX)
    np.testing.assert_array_equal(
        np.asarray(small.resize((32, 32), Image.Resampling.BOX)), coarse[0]
    )


def test_noise_has_the_stated_strength():
    x = np.full((20, 32, 32, 3), 100, np.uint8)
    share = 100 / 255
    for name, std in (
        ("gaussian_noise", 0.08), ("shot_noise", np.sqrt(share / 100)),
        ("speckle_noise", 0.12 * share),
    ):  # fmt: skip
        moved = (jd.corrupt(x, name, 3).astype(float) - 100) / 255
        assert moved.std() == pytest.approx(std, rel=0.02) and abs(moved.mean()) < 0.002
    y = jd.corrupt(x, "impulse_noise", 5)
    assert [(y == value).mean() for value in (0, 255)] == pytest.approx([0.035, 0.035], rel=0.06)
    assert ((y == 100) | (y == 0) | (y == 255)).all()


def test_blurs_and_zooms_keep_constant_images_and_move_a_pixel_as_far_as_stated():
    flat = np.full((2, 28, 28, 1), 77, np.uint8)
    for name in (
        "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur", "contrast",
        "elastic_transform", "pixelate", "jpeg_compression",
    ):  # fmt: skip
        assert (np.abs(jd.corrupt(flat, name, 5).astype(int) - 77) <= 1).all(), name
    dot = np.zeros((1, 29, 29, 1), np.uint8)
    dot[0, 14, 14] = 255
    for severity, (_, std) in enumerate(((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), 1):
        trace = jd.corrupt(dot, "motion_blur", severity)[0, ..., 0].astype(float)
        # to one side, within 45 degrees of it
        rows, columns = np.nonzero(trace)
        assert columns.max() == 14 and (np.abs(rows - 14) <= 14 - columns).all()
        # half a Gaussian, cut off at whole pixels
        taps = np.exp(-(np.arange(20) ** 2) / (2 * std**2))
        assert trace[14, 14] == pytest.approx(255 / taps.sum(), abs=3)
    # what lies at 5 pixels from the center is drawn out to 6.25
    dot[:], dot[0, 14, 19] = 0, 255
    trace = jd.corrupt(dot, "zoom_blur", 5)[0, 14, :, 0]
    assert trace[19] > 10 and trace[20] > 10 and (trace[:18] == 0).all() and trace[21] > 0
    assert (trace[22:] == 0).all()


@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 4, 3), (7, 12, 3)])
def test_small_images_are_changed_by_everything(shape):
    x = RNG.integers(0, 256, (4, *shape), dtype=np.uint8)
    for name in corruptions_of(shape[-1]):
        for severity in (1, 5):
            y = jd.corrupt(x, name, severity)
            assert y.shape == x.shape
            # on few pixels nothing may fall
            assert (x != y).any() or name in ("impulse_noise", "spatter", "snow"), (name, severity)


def test_floats_and_other_ranges_are_corrupted_alike():
    x = COLOR[:3]
    for name in ("fog", "jpeg_compression", "saturate", "elastic_transform"):
        y = jd.corrupt(x, name, 3)
        for kind in (np.float32, np.float64):
            real = jd.corrupt((x / 255).astype(kind), name, 3)
            assert real.dtype == np.float32
            np.testing.assert_allclose(255 * real, y, atol=0.51)
        np.testing.assert_allclose(jd.corrupt(x / 17, name, 3, white=15) * 17, y, atol=0.51)
    # few levels are not rounded
    coarse = jd.corrupt(DIGITS.test.x[:5], "brightness", 2, white=16)
    assert coarse.dtype == np.float32 and coarse.min() == pytest.approx(1.6)


def test_data_sets_are_corrupted_in_the_splits_that_are_named():
    data = jd.corrupted(DIGITS, "fog", 2, seed=3)
    np.testing.assert_array_equal(data.train.x, DIGITS.train.x)
    wanted = jd.corrupt(DIGITS.test.x, "fog", 2, seed=3, white=16)
    np.testing.assert_array_equal(data.test.x, wanted)
    assert data.test.y is DIGITS.test.y or (data.test.y == DIGITS.test.y).all()
    assert (data.mean == DIGITS.mean).all() and data.name == "digits-fog-2"
    assert data.about["corruption"]["severity"] == 2
    assert data.fingerprint != DIGITS.fingerprint
    color = jd.from_arrays(COLOR[:8], np.arange(8) % 2, COLOR[8:12], np.arange(4) % 2)
    both = jd.corrupted(color, "snow", 1, splits=("train", "test"))
    assert both.train.x.dtype == np.uint8 and (both.train.x != color.train.x).any()
    np.testing.assert_array_equal(both.mean, color.mean)
    # test images that are brighter than those of the training split
    bright = dataclasses.replace(
        color, train=jd.Split((color.train.x / 512).astype(np.float32), color.train.y),
        test=jd.Split((color.test.x / 255).astype(np.float32), color.test.y),
    )  # fmt: skip
    assert jd.corrupted(bright, "contrast", 1).test.x.max() <= 1


def test_wrong_arguments_are_refused_by_name():
    x = COLOR[:2]
    standardized = (x - x.mean()) / x.std()
    cases = [
        ((x, "mist", 1), {}, "`name` must be one of"),
        ((x, "fog", 0), {}, "`severity`"),
        ((x, "fog", 6), {}, "`severity`"),
        ((x, "fog", 1), {"seed": -1}, "`seed`"),
        ((x, "fog", 1), {"white": 0}, "`white`"),
        ((x, "fog", 1), {"white": 16}, "`x` must have values from 0, black, to `white`=16"),
        ((standardized, "fog", 1), {}, "before they are standardized"),
        ((np.where(x > 200, np.nan, x / 255), "fog", 1), {}, "`x` must have values"),
        ((x[0], "fog", 1), {}, "`x` must be a NumPy array of images"),
        ((x[..., :2], "fog", 1), {}, "`x` must be a NumPy array of images"),
        ((x[:, :3], "fog", 1), {}, "at least 4 x 4"),
        ((x.astype(int), "fog", 1), {}, "`x` must be a NumPy array of images"),
        (([[1]], "fog", 1), {}, "`x` must be a NumPy array of images.*got list"),
        ((x[..., :1], "saturate", 1), {}, "`name` 'saturate' changes nothing"),
        ((x, "fog", 1), {"numbers": [0]}, "`numbers` must be 2 whole numbers"),
        ((x, "fog", 1), {"numbers": [0, -1]}, "`numbers`"),
        ((x, "fog", 1), {"numbers": [0.0, 1.0]}, "`numbers`"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=message):
            jd.corrupt(*arguments, **options)
    rows = np.zeros((4, 3), np.float32)
    rows = jd.from_arrays(rows, np.arange(4) % 2, rows, np.arange(4) % 2)
    for arguments, options, message in (
        (("digits", "fog", 1), {}, "`data` must be"),
        ((rows, "fog", 1), {}, "`data` must hold images"),
        ((DIGITS, "fog", 1), {"splits": "validation"}, "`splits` must be one of 'train', 'test'"),
        ((DIGITS, "fog", 1), {"splits": ()}, "`splits` is empty"),
        ((DIGITS, "saturate", 1), {}, "`name` 'saturate' changes nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            jd.corrupted(*arguments, **options)
    assert jd.corrupt(x[:0], "fog", 1).shape == (0, 32, 32, 3)
