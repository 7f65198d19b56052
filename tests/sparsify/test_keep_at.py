"""`keep_at`: networks at chosen steps of their training, in memory and in the folder."""

import jax
import numpy as np
import pytest
from patterns import DATA, NET, TRAINING, equal

import jaxticket as jt

SHORT = TRAINING.replace(steps=10, milestones=())
AT = (4, 0, 5, 10)


def find(keep_at=AT, folder=None, **changes):
    return jt.find_tickets(
        NET, DATA, changes.pop("training", SHORT), jt.Pruning(levels=1, rewind=4), seeds=(3, 5),
        branches=("reinit",), keep="trained", keep_at=keep_at, folder=folder,
        mesh=jt.parallel.mesh(devices=jax.devices()[:2]), progress=False, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return find(folder=tmp_path_factory.mktemp("runs") / "a")


def test_they_are_the_networks_at_these_steps(runs):
    """At the ends they are what is known otherwise; what does not come by a step is not there."""
    for branch in ("ticket", "reinit"):
        for level in (0, 1):
            equal(runs.trained(level, branch, step=10), runs.trained(level, branch))
    equal(runs.trained(0, step=4), (runs.origin.params, runs.origin.stats))
    equal(runs.trained(1, step=4)[0], runs.by_level[1].params)
    steps = {key[:2]: sorted(k[3] for k in runs.at if k[:2] == key[:2]) for key in runs.at}
    # tickets begin at step 4, new weights at step 0
    assert steps == {
        ("ticket", 0): [0, 4, 5, 10], ("reinit", 0): [0, 4, 5, 10],
        ("ticket", 1): [4, 5, 10], ("reinit", 1): [0, 4, 5, 10],
    }  # fmt: skip
    one = runs.trained_tickets(1, step=5)
    equal(one.mask, runs.by_level[1].mask)
    assert one.step.tolist() == [5, 5] and one.level.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"`step` 0 of 'ticket', level 1, .* was not kept; there"):
        runs.trained(1, step=0)


def test_they_change_nothing_else(runs):
    without = find(keep_at=())
    assert runs.table().equals(without.table())
    equal(runs.trained(1), without.trained(1))
    with pytest.raises(ValueError, match=r"was not kept; run the same, such as"):
        without.trained(1, step=5)


def test_a_shorter_training_ends_with_them(runs):
    """Constant rates: ten steps begin with the same five."""
    short = find(keep_at=5, training=SHORT.replace(steps=5))
    equal(runs.trained(0, step=5), short.trained(0))
    equal(short.trained(0, step=5), short.trained(0))


def test_folders_hold_them(runs):
    loaded = jt.load(runs.folder, data=DATA)
    assert isinstance(loaded, jt.Runs)
    assert loaded.at.keys() == runs.at.keys()
    for key, networks in runs.at.items():
        equal(loaded.at[key], networks)
    again = find(folder=runs.folder)
    equal(again.at, runs.at)
    with pytest.raises(jt.RunFolderError, match="`keep_at"):
        find((4,), runs.folder)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same(runs, tmp_path, monkeypatch):
    from jaxticket.engine.store import RunFolder

    save, calls = RunFolder.save_state, []

    def stopped(self, *args):
        save(self, *args)
        calls.append(args)
        if len(calls) % 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_state", stopped)
    for _ in range(100):
        try:
            found = find(folder=tmp_path / "a", save_every=0.0)
        except KeyboardInterrupt:
            continue
        break
    assert len(calls) > 4
    equal(found.at, runs.at)


def test_early_stops_averages_and_moving_masks():
    """A network that stopped is there as it was; averages are what is evaluated."""
    training = SHORT.replace(
        ema=0.5, stop_when=jt.Target("accuracy", 0.0, split="train"), eval_every=2
    )
    stopped = jt.sparse_train(
        NET, DATA, training, density=0.5, seeds=(3, 5), keep="trained", keep_at=(5, 8),
        mesh=jt.parallel.mesh(devices=jax.devices()[:2]), progress=False,
    )  # fmt: skip
    ends = stopped.table().groupby("seed").step.max()
    assert (ends < 5).all(), "steps that are kept do not lengthen a training"
    for step in (5, 8):
        equal(stopped.trained(1, step=step), stopped.trained(1))


def test_branches_and_dense_training_of_other_ways():
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    runs = jt.prune_at(
        NET, DATA, SHORT, density=0.5, score="magnitude", step=5, seeds=(3, 5), keep_at=(5, 7),
        mesh=mesh, progress=False,
    )  # fmt: skip
    # the dense networks are pruned as they are at step 5
    params, _ = runs.trained(0, step=5)
    mask = runs.by_level[1].mask
    pruned = jax.tree.map(np.array, jt.masks.apply(mask, params))
    equal(pruned, runs.by_level[1].params)
    slow = jt.branch(runs, "retrain", dilation=(1.0, 2.0), levels=(1,), keep_at=14, progress=False)
    assert list(slow.at) == [("retrain", 1, 2.0, 14)]


@pytest.mark.parametrize("wrong", [(3, 3), (11,), -1, "5", (2.5,)])
def test_wrong_steps_are_refused(wrong):
    with pytest.raises(ValueError, match="`keep_at"):
        find(wrong)
