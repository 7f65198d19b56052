"""What all probes keep to: finite numbers of each network, the same in every call."""

import numpy as np
import pytest

import jaxticket as jt

DATA = jt.data.load("digits").fraction(0.1)
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(12,))
TRAINING = jt.Training(steps=20, batch_size=32, lr=5e-3)


@pytest.fixture(scope="module")
def runs():
    pruning = jt.Pruning(levels=1, fraction=0.5)
    return jt.find_tickets(
        NET, DATA, TRAINING, pruning, seeds=(0, 1), keep="trained", progress=False
    )


def measured(runs, name):
    return jt.measure(
        runs, name, examples=24, split="test", weights="trained", progress=False
    ).set_index(["seed", "level", "metric"])


@pytest.mark.parametrize("name", sorted(jt.PROBES))
def test_every_probe_gives_finite_numbers_that_its_seed_alone_decides(runs, name):
    table = measured(runs, name)
    assert set(table.index.get_level_values("seed")) == {0, 1}
    assert set(table.index.get_level_values("level")) == {0, 1}
    values = table.value.to_numpy(float)
    assert not np.isinf(values).any()
    # bins of confidence that no example falls into have no mean
    missing = set(table.index[np.isnan(values)].get_level_values("metric"))
    assert not missing or (name == "calibration" and all("bin" in metric for metric in missing))
    assert table.equals(measured(runs, name)), "a second call gives the same"
    other = jt.find_tickets(
        NET, DATA, TRAINING, runs.pruning, seeds=(1,), keep="trained", progress=False
    )
    alone = measured(other, name)
    both = table.loc[[1]].value.reindex(alone.index)
    np.testing.assert_allclose(alone.value, both, rtol=2e-3, atol=2e-4)
