"""Corrupted images as tiles, and errors by corruption as dots."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import jaxticket as jt
from jaxticket import plots

X = np.random.default_rng(0).integers(0, 256, (6, 16, 12, 3), dtype=np.uint8)
COLOR = jt.data.from_arrays(X, np.arange(6) % 2, X, np.arange(6) % 2)
DIGITS = jt.data.load("digits")


def texts(labels):
    return [one.get_text() for one in labels]


def test_tiles_are_the_image_and_its_corruptions():
    ax = plots.corruptions(COLOR, names=("fog", "jpeg_compression"), severities=(1, 5), example=2)
    picture = ax.images[0].get_array()
    assert texts(ax.get_yticklabels()) == ["fog", "JPEG compression"]
    assert texts(ax.get_xticklabels()) == ["none", "1", "5"]
    # rows of 16 pixels and one between them, columns of 12 and one
    assert picture.shape == (2 * 17, 3 * 13 - 1, 3)
    np.testing.assert_allclose(picture[:16, :12], X[2] / 255)
    np.testing.assert_allclose(picture[17:33, :12], X[2] / 255)
    wanted = jt.data.corrupt(X[2:3], "jpeg_compression", 5, numbers=[2])[0]
    np.testing.assert_allclose(picture[17:33, 26:38], wanted / 255)
    assert (picture[16] == 1).all() and (picture[:, 12] == 1).all()


def test_one_severity_has_five_tiles_in_a_row():
    ax = plots.corruptions(DIGITS, severities=(3,))
    # gray images have no saturation
    names = ["none", *(one.replace("_", " ") for one in jt.data.CORRUPTIONS if one != "saturate")]
    assert [one.lower() for one in texts(ax.texts)] == names and len(names) == 19
    picture = ax.images[0].get_array()
    assert picture.shape == (4 * 12, 5 * 9 - 1, 3)
    clean = np.repeat(DIGITS.test.x[0] / 16, 3, axis=2)
    np.testing.assert_allclose(picture[:8, :8], clean)
    place = names.index("fog")
    row, column = divmod(place, 5)
    fog = jt.data.corrupted(DIGITS, "fog", 3).test.x[0] / 16
    tile = picture[12 * row : 12 * row + 8, 9 * column : 9 * column + 8]
    np.testing.assert_allclose(tile, np.repeat(fog, 3, axis=2), rtol=1e-6)


def test_wrong_images_are_refused():
    for options, message in (
        ({"names": ("mist",)}, "`names` must be one of"), ({"names": ()}, "`names` is empty"),
        ({"severities": (6,)}, "`severities`"), ({"severities": 3}, "`severities` must be several"),
        ({"example": 6}, "`example`"), ({"split": "valid"}, "`split` must be one of"),
        ({"seed": -1}, "`seed`"), ({"ax": 3}, "`ax` must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            plots.corruptions(COLOR, **{"names": ("fog",), **options})
    rows = jt.data.from_arrays(np.ones((4, 3)), np.arange(4) % 2, np.ones((4, 3)), np.arange(4) % 2)
    with pytest.raises(ValueError, match="`data` must hold images"):
        plots.corruptions(rows)
    with pytest.raises(ValueError, match="changes nothing of gray images"):
        plots.corruptions(DIGITS, names=("saturate",))
    validated = dataclasses.replace(COLOR, validation=COLOR.test)
    assert plots.corruptions(validated, names=("fog",), split="validation").images


def table():
    rows = [
        (seed, level, branch, f"error_{name}", index, 0.1 * place + 0.1 * level + 0.02 * index
         + 0.01 * seed)
        for seed in (0, 1, 2)
        for branch, level in (("ticket", 0), ("ticket", 1), ("ticket", 2), ("snip", 1))
        for place, name in enumerate(("own_noise", "snow", "fog"))
        for index in range(2)
    ]  # fmt: skip
    columns = ["seed", "level", "branch", "metric", "index", "value"]
    other = (0, 1, "ticket", "mean_error", 0, 0.5)
    return pd.DataFrame([*rows, other], columns=columns)


def test_dots_are_means_over_severities_and_seeds():
    ax = plots.corruption_errors(table())
    # in the order of jt.data.CORRUPTIONS, and then the others
    assert texts(ax.get_yticklabels()) == ["snow", "fog", "own noise"]
    lines = {one.get_label(): one for one in ax.lines}
    # 10% apart; + 1% of the mean severity, + 1% of the mean seed
    np.testing.assert_allclose(lines["SNIP, level 1"].get_xdata(), [22, 32, 12])
    np.testing.assert_allclose(lines["IMP ticket, level 2"].get_xdata(), [32, 42, 22])
    segments = [one.get_segments() for one in ax.collections]
    dense, spread = segments[0], segments[1]
    np.testing.assert_allclose([one[:, 0] for one in dense], [[12, 12], [22, 22], [2, 2]])
    # one standard deviation over seeds
    np.testing.assert_allclose([np.ptp(one[:, 0]) for one in spread], [2, 2, 2])
    names = ["dense", "IMP ticket, level 2", "SNIP, level 1"]
    said = [*names, "bars: mean ± std over seeds", "not drawn: level 1"]
    assert texts(ax.get_legend().texts) == said
    known = plots.corruption_errors(table().assign(density=0.5 ** table()["level"]))
    assert texts(known.get_legend().texts)[1:] == [
        "IMP ticket, 25%", "SNIP, 50%", "bars: mean ± std over seeds", "not drawn: 50%"
    ]  # fmt: skip
    ax = plots.corruption_errors(table(), level=1, branches=["ticket"], band="minmax", legend=False)
    lines = {one.get_label(): one for one in ax.lines}
    np.testing.assert_allclose(lines["IMP ticket, level 1"].get_xdata(), [22, 32, 12])
    assert ax.get_legend() is None and "SNIP, level 1" not in lines


def test_a_seed_that_diverged_is_left_out_of_means():
    lost = table()
    lost.loc[(lost["seed"] == 2) & (lost["index"] == 1), "value"] = np.nan
    ax = plots.corruption_errors(lost)
    lines = {one.get_label(): one for one in ax.lines}
    np.testing.assert_allclose(lines["SNIP, level 1"].get_xdata(), [21.5, 31.5, 11.5])


def test_tables_of_another_kind_are_refused():
    good = table()
    for wrong, message in (
        (good[good.metric == "mean_error"], "`table` has no errors of corruptions"),
        (good.drop(columns="index"), r"`table` lacks the columns \['index'\]"),
        (pd.concat([good, good.assign(value=0.3)]), "`table` has two values of"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.corruption_errors(wrong)
    for options, message in (
        ({"level": 5}, r"`level` must be one of"), ({"branches": ["grasp"]}, "`branches` has 'gra"),
        ({"band": "all"}, "`band` must be one of"), ({"legend": 1}, "`legend`"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            plots.corruption_errors(good, **options)
    dense = good[good.level == 0]
    with pytest.raises(ValueError, match="`table` has dense networks alone"):
        plots.corruption_errors(dense)
