"""The script of the last hidden layer's activations: its numbers by hand, and a run of it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

import jaxticket as jt
from experiments.kd_lts import activations
from experiments.kd_lts._claims import compared

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 20)
CENTERS = 9 * RNG.normal(size=(3, 6))


def features(spreads):
    """Classes of normal examples around centers, wider in each network than in the one before."""
    x = [CENTERS[LABELS] + by * RNG.normal(size=(60, 6)) for by in spreads]
    names = tuple((seed, 1, "ticket") for seed in range(len(spreads)))
    return jt.Features(np.asarray(x, np.float32), names, LABELS, "penultimate")


def test_the_variance_within_classes_is_that_of_an_analysis_of_variance():
    x = features([2.0]).values[0].astype(np.float64)
    inside = sum(((x[LABELS == c] - x[LABELS == c].mean(0)) ** 2).sum() for c in range(3))
    found = activations.within_share(x, LABELS)
    assert found == pytest.approx(inside / ((x - x.mean(0)) ** 2).sum())
    assert activations.within_share(CENTERS[LABELS], LABELS) == pytest.approx(0, abs=1e-12)
    assert np.isnan(activations.within_share(np.ones((60, 6)), LABELS))


def test_tight_classes_have_the_better_numbers_and_one_that_diverged_has_none():
    ours, theirs = features([0.5, 0.6]), features([3.0, 3.2])
    theirs.values[1, 0] = np.nan
    seen = activations.together({"kd_lts": ours, "dense": theirs})
    assert [name for _, _, name in seen.networks] == ["kd_lts"] * 2 + ["dense"] * 2
    rows = activations.tightness(seen, seen.projected("tsne", perplexity=10))
    by = rows.set_index(["measure", "branch", "seed"])["value"]
    expected = silhouette_score(ours.values[0], LABELS)
    assert by["silhouette", "kd_lts", 0] == pytest.approx(expected)
    for measure, better in (("silhouette", 1), ("silhouette_tsne", 1), ("within_share", -1)):
        assert better * by[measure, "kd_lts", 0] > better * by[measure, "dense", 0]
        assert np.isnan(by[measure, "dense", 1])
    assert not compared(rows)["clear"].any()


@pytest.mark.slow
def test_the_script_at_a_toy_size(tmp_path, capsys):
    digits = jt.data.load("digits")
    path = tmp_path / "digits.npz"
    # of the preset's size
    large = {
        name: split.x.repeat(3, axis=1).repeat(3, axis=2) for name, split in digits.splits.items()
    }
    np.savez(path, x_train=large["train"], y_train=digits.train.y, x_test=large["test"],
             y_test=digits.test.y)  # fmt: skip
    settings = activations.Settings(
        data=str(path), folder=tmp_path / "run", steps=20, eval_every=20, levels=1, share=0.5,
        seeds=2, width=0.1, examples=60, perplexity=8.0,
    )  # fmt: skip
    activations.main(settings)
    printed = capsys.readouterr().out
    assert "KD-LTS: silhouette, against dense" in printed
    rows = pd.read_csv(tmp_path / "run" / "activations.csv")
    assert set(rows["measure"]) == set(activations.MEASURES)
    assert (rows.groupby(["branch", "measure"])["seed"].nunique() == 2).all()
    alike = pd.read_csv(tmp_path / "run" / "similarity.csv")
    assert len(alike) == 36 and alike["value"].between(0, 1 + 1e-9).all()
    pictures = {p.stem for p in (tmp_path / "run" / "figures").glob("*.png")}
    assert pictures == {"figure_19", "figure_26", "clusters"}
    with pytest.raises(ValueError, match="`level` must be from 1 to 1"):
        activations.checked_level(activations.prepare("a.py", settings), 2)
