"""The script of appendix D of KD-LTS: its networks and sizes, and a run of it on digits."""

import pandas as pd
import pytest

import jaxticket as jt
from experiments.common.job import prepare
from experiments.kd_lts import distilled
from experiments.kd_lts._networks import sizes


def job_of(tmp_path, **options):
    settings = distilled.Settings(data="digits", folder=tmp_path / "run", **options)
    return settings, prepare(distilled.__file__, settings, **sizes(settings))


@pytest.mark.slow
def test_the_small_network_of_resnet_50_is_resnet_18():
    """On images of CIFAR's size, with as many parameters as the paper says."""
    preset = jt.preset("resnet50-cifar10-kd_lts")
    job = type("Job", (), {"preset": preset, "size": type("Size", (), {"width": 1.0})(),
                           "data": preset, "net": preset.net()})  # fmt: skip
    small = distilled.small_network(job, 0.5)
    assert distilled.sized(job.net)["parameters"] == pytest.approx(24e6, rel=0.03)
    assert distilled.sized(small)["parameters"] == pytest.approx(12e6, rel=0.08)
    assert preset.search.objective.alpha == 0.7 and preset.options["stem"] == "small"


def test_others_are_of_less_width(tmp_path):
    _, job = job_of(tmp_path)
    small = distilled.small_network(job, 0.5)
    assert small == jt.networks.lenet(job.data.shape, 10, widths=(150, 50), init="orthogonal")
    for width in (0, 1, 2.0):
        with pytest.raises(ValueError, match="`small_width`"):
            distilled.small_network(job, width)


@pytest.mark.slow
def test_the_script_at_a_toy_size(tmp_path, capsys):
    settings, job = job_of(
        tmp_path, steps=30, eval_every=30, levels=1, share=0.5, seeds=2, width=0.1
    )
    distilled.main(settings)
    printed = capsys.readouterr().out
    assert "fewer parameters than the small" in printed and "+3.4" in printed
    rows = pd.read_csv(tmp_path / "run" / "distilled.csv")
    assert set(rows["branch"]) == set(distilled.LABELS)
    assert (rows.groupby("branch")["seed"].nunique() == 2).all()
    by = rows.set_index("branch")["parameters"].groupby("branch").first()
    whole = jt.costs.of_network(job.net)["params"]
    assert by["dense"] == whole and by["kd_lts"] < 0.3 * whole and by["small"] < by["dense"]
    values = rows.pivot_table(index="seed", columns="branch", values="value")
    for taught, plain in (("small_distilled", "small"), ("kd_lts_distilled", "kd_lts")):
        assert not values[taught].equals(values[plain])
    assert (tmp_path / "run" / "figures" / "appendix_d.png").stat().st_size > 10_000
