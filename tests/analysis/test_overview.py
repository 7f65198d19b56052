"""`jt.overview`: several methods judged by all that was measured of them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import jaxticket as jt
from jaxticket.analysis.conditions import CONTROLS
from jaxticket.analysis.verdict import Verdict

NAN = float("nan")
SEEDS = (0, 1, 2)


def measured(branch, metric, values, level=2, density=0.25, index=0):
    rows = [
        (seed, level, density, branch, metric, index, value)
        for seed, value in zip(SEEDS, values, strict=False)
    ]
    columns = "seed level density branch metric index value".split()
    return pd.DataFrame(rows, columns=columns)


def tables():
    """The dense network, and three methods of which two are alike in their likelihood."""
    return [
        measured("ticket", "ece", [0.01, 0.02, 0.03], level=0, density=1.0),
        measured("ticket", "nll", [0.10, 0.11, 0.12], level=0, density=1.0),
        measured("kd_lts", "ece", [0.02, 0.03, 0.04]),
        measured("snip", "ece", [0.08, 0.09, 0.10]),
        measured("random", "ece", [0.08, 0.09, NAN]),
        measured("kd_lts", "nll", [0.10, 0.12, 0.14]),
        measured("snip", "nll", [0.11, 0.13, 0.15]),
        measured("random", "nll", [0.30, 0.31, NAN]),
        # denser tickets are not the sparsest that all have
        measured("snip", "ece", [0.0, 0.0, 0.0], level=1, density=0.5),
    ]


def verdict(method="snip", density=0.25, passes=True):
    names = ["stable", *CONTROLS, "matching"]
    rows = pd.DataFrame({"condition": names, "passes": [passes] * len(names)})
    return Verdict(method, density, SEEDS, 0, True, 0.1, True, None, 8, 1.0, None, rows, rows)


def test_means_and_deviations_over_seeds():
    table = jt.overview(measures=tables())
    assert list(table.columns) == [
        "method", "density", "level", "seeds", "diverged", "ece", "ece_std", "nll", "nll_std",
        "best",
    ]  # fmt: skip
    assert table["method"].tolist() == ["dense", "kd_lts", "snip", "random"]
    assert table["level"].tolist() == [0, 2, 2, 2]
    assert table["diverged"].tolist() == [0, 0, 0, 1] and (table["seeds"] == 3).all()
    np.testing.assert_allclose(table["ece"], [0.02, 0.03, 0.09, 0.085])
    np.testing.assert_allclose(table["nll_std"], [0.01, 0.02, 0.02, np.std([0.30, 0.31], ddof=1)])
    # a likelihood that is lower by half a deviation is not clearly better
    assert table["best"].tolist() == ["", "ece, nll", "nll", ""]


def test_tables_with_and_without_an_index_may_be_joined():
    plain = measured("a", "ece", [0.1, 0.3]).drop(columns="index")
    joined = jt.results.concat([plain, measured("a", "eigenvalue", [9.0, 7.0])])
    page = jt.overview(measures=joined, criteria=["ece", "eigenvalue"])
    assert page[["ece", "eigenvalue"]].values.tolist() == [[pytest.approx(0.2), 8.0]]
    twice = jt.results.concat([joined, plain.assign(value=0.5)])
    with pytest.raises(ValueError, match="two values of 'ece'"):
        jt.overview(measures=twice, criteria=["ece"])


def test_the_best_is_by_direction_and_of_one_seed_the_first():
    higher = [measured(name, "softmax_auroc", [value]) for name, value in (("a", 0.9), ("b", 0.8))]
    assert jt.overview(measures=higher)["best"].tolist() == ["softmax_auroc", ""]
    lower = jt.Criterion("softmax_auroc", "lower")
    table = jt.overview(measures=higher, criteria=[lower])
    assert (
        table["best"].tolist() == ["", "softmax_auroc"] and table["softmax_auroc_std"].isna().all()
    )
    # there is nothing to be better than
    assert jt.overview(measures=higher[:1])["best"].tolist() == [""]
    # an entry of an array: the largest eigenvalue
    parts = [measured("a", "eigenvalue", [9.0, 7.0]), measured("a", "eigenvalue", [1, 1], index=1)]
    assert jt.overview(measures=parts)["eigenvalue"].tolist() == [8.0]
    second = jt.Criterion("eigenvalue", "lower", index=1)
    assert jt.overview(measures=parts, criteria=[second])["eigenvalue"].tolist() == [1.0]


def test_tables_by_method_are_renamed_but_for_the_dense_network():
    dense = measured("ticket", "ece", [0.01] * 3, level=0, density=1.0)
    own = jt.results.concat([dense, measured("ticket", "ece", [0.03] * 3),
                             measured("reinit", "ece", [0.05] * 3)])  # fmt: skip
    gap = pd.DataFrame({"seed": SEEDS, "level": 2, "density": 0.25, "branch": "ticket",
                        "train": 1.0, "test": 0.9, "gap": 0.1})  # fmt: skip
    other = jt.results.concat([dense, measured("ticket", "ece", [0.02] * 3)])
    table = jt.overview(measures={"snip": [own, gap], "kd_lts": other}).set_index("method")
    assert list(table.index) == ["dense", "snip", "snip_reinit", "kd_lts"]
    np.testing.assert_allclose(table["gap"], [NAN, 0.1, NAN, NAN])
    np.testing.assert_allclose(table["ece"], [0.01, 0.03, 0.05, 0.02])


def test_verdicts_stand_next_to_measures():
    alone = jt.overview([verdict(), verdict()])
    expected = [verdict().summary()] * 2
    pd.testing.assert_frame_equal(alone, pd.DataFrame(expected))
    assert list(alone.columns) == [
        "method", "density", "stable", "sensitive", "beats", "at_init", "tuned", "wins",
        "cost_epochs",
    ]  # fmt: skip
    assert jt.overview({"mine": verdict()})["method"].tolist() == ["mine"]
    with pytest.warns(UserWarning, match="different densities: kd_lts 25%, snip 50%, random 25%"):
        table = jt.overview([verdict(density=0.5), verdict("random", passes=False)],
                            measures=tables(), criteria=["ece"]).set_index("method")  # fmt: skip
    # each at the level of its verdict's density, others at the sparsest that they share
    assert table["level"].to_dict() == {"dense": 0, "kd_lts": 2, "snip": 1, "random": 2}
    assert table.loc["snip", "ece"] == 0 and table.loc["snip", "density"] == 0.5
    assert table["wins"].to_dict() == {"dense": None, "kd_lts": None, "snip": True, "random": False}
    assert list(table.columns[:8]) == list(alone.columns[1:])
    page = jt.plots.overview(table.reset_index())
    assert [one.get_text() for one in page.get_yticklabels()] == [
        "dense", "SNIP, 50% ✓", "KD-LTS, 25%", "global random, 25% ✗",
    ]  # fmt: skip


def test_what_does_not_fit_together_is_refused():
    parts = tables()
    twice = [*parts, parts[3].assign(value=0.5)]
    cases = [
        ({"criteria": ["ece"]}, "`criteria` is of `measures`, which are not given"),
        ({"verdicts": None}, "`verdicts` must be several"),
        ({"verdicts": {}}, "`verdicts` is empty"),
        ({"measures": []}, "`measures` is empty"),
        ({"measures": {}}, "`measures` is empty"),
        ({"measures": 3}, "`measures` must be several"),
        ({"measures": {"snip": 3}}, "`measures` must be several"),
        ({"measures": [3]}, "`measures` must be tables"),
        ({"measures": parts[0].drop(columns="seed")}, r"`measures` lacks the columns \['seed'\]"),
        ({"measures": parts, "criteria": ["ecce"]}, "`criteria` must be one of .*'ece'.*'ecce'"),
        ({"measures": parts, "criteria": ["mce"]}, "`criteria` has 'mce', `measures` do not"),
        ({"measures": parts, "criteria": [3]}, "`criteria` must be a text"),
        ({"measures": parts, "criteria": ["ece", "ece"]}, "`criteria` must be distinct"),
        ({"measures": parts[0].assign(metric="mine")}, r"none of the metrics of jt.CRITERIA"),
        ({"measures": twice}, "two values of 'ece' for 'snip', level 2, seed 0; drop one"),
        ({"measures": parts, "level": 1}, "`level` 1 is not measured of 'kd_lts', which has"),
        ({"measures": [parts[3], parts[2].assign(level=1)]}, "`level` is needed: .* share none"),
        ({"measures": parts, "verdicts": [verdict("imp")]}, "`verdicts` has 'imp'"),
        ({"measures": parts, "verdicts": [verdict(density=0.1)]}, "its verdict is on 0.1"),
        ({"measures": parts, "verdicts": [verdict(density=0.5)], "level": 2}, "`level` 2; measure"),
    ]  # fmt: skip
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            jt.overview(**options)
    # the same number twice is one
    assert len(jt.overview(measures=[*parts, parts[3]])) == 4
    for field, value in (("metric", 3), ("better", "up"), ("percent", 1), ("index", -1)):
        with pytest.raises(ValueError, match=f"`{field}`"):
            dataclasses.replace(jt.CRITERIA["ece"], **{field: value})
