"""The two transformers, which are no networks of the package, have tickets."""

import pytest

from experiments.own_networks import character_transformer, vision_transformer


@pytest.mark.parametrize("script", [vision_transformer, character_transformer])
def test_a_transformer_is_pruned_beside_random_masks(script):
    settings = script.Settings(seeds=1, levels=1, steps=4, rewind=2, width=8, depth=1)
    rows = script.measured(settings)
    assert list(rows.branch) == ["dense", "ticket", "shuffle", "layerwise_random"]
    assert rows[rows.branch != "dense"].density.tolist() == pytest.approx([0.2] * 3, abs=0.01)


def test_letters_of_the_text():
    letters = character_transformer.text()
    assert len(letters) > 10_000 and set(letters) == set(range(len(character_transformer.LETTERS)))
    x, y = character_transformer.examples(letters, 5)
    assert (x[1:] == y[:-1]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("script", "sign"), [(vision_transformer, 1), (character_transformer, -1)])
def test_tickets_of_transformers_beat_random_masks(script, sign):
    rows = script.measured(script.Settings())
    means = rows.groupby("branch")["value"].mean()
    for control in ("shuffle", "layerwise_random"):
        assert sign * (means["ticket"] - means[control]) > 0
