"""More seeds and more levels in the folder of a run: as if all had been run at once."""

import json

import jax
import numpy as np
import pytest
from patterns import DATA, NET, TRAINING, equal

import jaxticket as jt
from jaxticket.sparsify.early_pruning import BySteps

SHORT = TRAINING.replace(steps=10, milestones=())


def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


def find(levels, seeds, folder=None, **options):
    settings = {"rewind": 5, **options.pop("pruning", {})}
    training = options.pop("training", SHORT)
    return jt.find_tickets(
        NET, DATA, training, jt.Pruning(levels=levels, **settings), seeds=seeds,
        branches=("reinit",), keep="trained", folder=folder, mesh=mesh(), progress=False, **options,
    )  # fmt: skip


def same(ours, theirs):
    """Asserts that two runs are the same in every bit, but for the seconds they took."""
    assert ours.table().equals(theirs.table())
    assert (ours.seeds, ours.levels) == (theirs.seeds, theirs.levels)
    for one, other in ((ours.by_level, theirs.by_level), (ours.final, theirs.final)):
        assert list(one) == list(other)
        for key in one:
            assert jax.tree.structure(one[key]) == jax.tree.structure(other[key])
            equal(one[key], other[key])
    equal(ours.origin, theirs.origin)
    assert ours.identity(ours.levels) == theirs.identity(theirs.levels)
    for level in ours.levels:
        np.testing.assert_array_equal(ours.lost_at(level), theirs.lost_at(level))


def units(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("units/*.npz")}


@pytest.fixture(scope="module")
def whole():
    return find(3, (3, 5, 8))


def test_more_seeds_and_levels_equal_a_run_at_once(whole, tmp_path):
    folder = tmp_path / "a"
    find(2, (3, 5), folder)
    before = units(folder)
    more = find(2, (3, 5, 8), folder)
    # what was trained is not trained again
    assert before.items() <= units(folder).items()
    same(more, find(2, (3, 5, 8)))
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["seeds"] == [3, 5, 8] and settings["cohorts"] == [[3, 5], [8]]
    after = find(3, (3, 5, 8), folder)
    same(after, whole)
    # but for the last level of before
    left = units(folder)
    kept = {name for name, when in before.items() if left[name] == when}
    assert {name for name in before if not name.startswith("stage-002")} <= kept
    # it resumes, it loads, and the rows of costs still are those of each unit
    same(find(3, (3, 5, 8), folder), whole)
    same(jt.load(folder, data=DATA), whole)
    assert set(after.timings().unit) == set(whole.timings().unit)


def test_levels_first_and_seeds_later(whole, tmp_path):
    folder = tmp_path / "a"
    find(1, (3,), folder)
    find(3, (3,), folder)
    find(3, (3, 5), folder)
    same(find(3, (3, 5, 8), folder), whole)


def test_an_extension_that_was_stopped_goes_on(whole, tmp_path, monkeypatch):
    folder = tmp_path / "a"
    find(2, (3, 5), folder)

    from jaxticket.engine.store import RunFolder

    save, calls = RunFolder.save, []

    def stopped(self, name, arrays):
        save(self, name, arrays)
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", stopped)
        with pytest.raises(KeyboardInterrupt):
            find(3, (3, 5, 8), folder)
    same(find(3, (3, 5, 8), folder), whole)


def test_one_shot_pruning_and_masks_at_a_step_grow_too(tmp_path):
    options = {"pruning": {"one_shot": True}}
    find(1, (3,), tmp_path / "a", **options)
    same(find(2, (3, 5), tmp_path / "a", **options), find(2, (3, 5), **options))

    def prune(seeds, folder=None):
        return jt.prune_at(
            NET, DATA, SHORT, density=(0.5, 0.2), step=(0, 5), seeds=seeds, folder=folder,
            mesh=mesh(), progress=False,
        )  # fmt: skip

    prune((3,), tmp_path / "b")
    ours, theirs = prune((3, 5), tmp_path / "b"), prune((3, 5))
    loaded = jt.load(tmp_path / "b", data=DATA)
    assert isinstance(loaded, BySteps)
    for step in (0, 5):
        same(ours[step], theirs[step])
        same(loaded[step], theirs[step])


def prune(densities, seeds, folder=None, **options):
    settings = {"step": (0, 5), "branches": ("reinit",), **options}
    return jt.prune_at(
        NET, DATA, SHORT, density=densities, seeds=seeds, folder=folder, mesh=mesh(),
        progress=False, **settings,
    )  # fmt: skip


def test_more_densities_of_masks_at_steps_equal_a_run_at_once(tmp_path):
    folder = tmp_path / "a"
    prune((0.5,), (3, 5), folder)
    before = units(folder)
    prune((0.5, 0.2), (3, 5), folder)
    # masks, dense and pruned networks: all that was there is left as it was
    assert before.items() <= units(folder).items()
    ours, theirs = prune((0.5, 0.2), (3, 5, 8), folder), prune((0.5, 0.2), (3, 5, 8))
    loaded = jt.load(folder, data=DATA)
    assert isinstance(loaded, BySteps)
    for step in (0, 5):
        same(ours[step], theirs[step])
        same(loaded[step], theirs[step])
    # of which `jt.costs.finding` takes the share of the steps before pruning
    (dense,) = (row for row in ours[5].costs if row["unit"] == "dense")
    files = folder.rglob("units/dense-*.npz")
    seconds = sum(float(np.load(file)["seconds"]) for file in files)
    assert dense["train_seconds"] == pytest.approx(seconds)
    assert dense["training_steps"] == SHORT.steps
    for densities, steps in (((0.2, 0.5), (0, 5)), ((0.5,), (0, 5)), ((0.5, 0.2, 0.1), (0,))):
        with pytest.raises(jt.RunFolderError, match="`pruning"):
            prune(densities, (3, 5, 8), folder, step=steps)


def test_one_step_of_several_is_read_as_it_was_given(tmp_path):
    ours = prune((0.5,), (3,), tmp_path / "a", step=(5,))
    loaded = jt.load(tmp_path / "a", data=DATA)
    assert isinstance(loaded, BySteps) and isinstance(ours, BySteps)
    assert list(loaded) == list(ours) == [5]
    same(loaded[5], ours[5])
    alone = prune((0.5,), (3,), tmp_path / "b", step=5)
    same(jt.load(tmp_path / "b", data=DATA), alone)


def test_sparse_trainings_grow_by_seeds_and_densities(tmp_path):
    def train(densities, seeds, folder=None, rule="static"):
        return jt.sparse_train(
            NET, DATA, SHORT, rule, density=densities, seeds=seeds, exclude=("dense_2",),
            folder=folder, keep="trained", mesh=mesh(), progress=False,
        )  # fmt: skip

    folder = tmp_path / "a"
    train((0.5,), (3, 5), folder)
    before = units(folder)
    train((0.5, 0.2), (3, 5), folder)
    assert before.items() <= units(folder).items()
    ours, theirs = train((0.5, 0.2), (3, 5, 8), folder), train((0.5, 0.2), (3, 5, 8))
    same(ours, theirs)
    same(jt.load(folder, data=DATA), theirs)
    with pytest.raises(jt.RunFolderError, match=r"`pruning\.densities"):
        train((0.2, 0.5), (3, 5, 8), folder)


def test_branches_do_not_grow(tmp_path):
    """Which levels a branch has is a setting of its folder; those that are missing get another."""
    runs = find(2, (3, 5))
    jt.branch(runs, "retrain", name="again", levels=(1,), folder=tmp_path / "a", progress=False)
    with pytest.raises(jt.RunFolderError, match=r"`levels` is \[1\] there and \[1, 2\] here"):
        jt.branch(runs, "retrain", name="again", levels=(1, 2), folder=tmp_path / "a")


@pytest.mark.slow
def test_searches_keep_their_trace(tmp_path):
    def search(seeds, folder=None, densities=(0.5, 0.2)):
        return jt.search(
            NET, DATA, SHORT, density=densities, steps=6, start=5, seeds=seeds, folder=folder,
            mesh=mesh(), progress=False,
        )  # fmt: skip

    search((3,), tmp_path / "a", (0.5,))
    search((3,), tmp_path / "a")
    ours, theirs = search((3, 5), tmp_path / "a"), search((3, 5))
    same(ours, theirs)
    assert ours.trace().equals(theirs.trace())


def test_all_else_is_refused_as_before(tmp_path):
    folder = tmp_path / "a"
    find(2, (3, 5), folder)
    before = (folder / "settings.json").read_text()
    for levels, seeds, options, said in (
        (2, (3,), {}, r"`seeds` is \[3, 5\] there and \[3\] here"),
        (2, (5, 3), {}, r"`seeds`"),
        (2, (3, 8), {}, r"`seeds`"),
        (1, (3, 5), {}, r"`pruning.levels` is 2 there and 1 here"),
        (1, (3, 5, 8), {}, r"`pruning.levels` is 2 there and 1 here"),
        (3, (3, 5), {"pruning": {"fraction": 0.3}}, r"`pruning.fraction`"),
        (2, (3, 5, 8), {"training": SHORT.replace(lr=0.1)}, r"`training.lr`"),
    ):
        with pytest.raises(jt.RunFolderError, match=said):
            find(levels, seeds, folder, **options)
    assert (folder / "settings.json").read_text() == before
    find(2, (3, 5, 8), folder)
    with pytest.raises(jt.RunFolderError, match=r"`seeds` is \[3, 5, 8\] there"):
        find(2, (3, 5), folder)


@pytest.mark.slow
def test_replicas_that_run_vmapped_grow_to_rounding(tmp_path, vmap_replicas):
    """As on a GPU: programs of other sizes round otherwise."""
    vmap_replicas()
    options = {"mesh": jt.parallel.mesh(devices=jax.devices()[:1])}

    def run(levels, seeds, folder=None):
        return jt.find_tickets(
            NET, DATA, SHORT, jt.Pruning(levels=levels), seeds=seeds, folder=folder,
            keep="trained", progress=False, **options,
        )  # fmt: skip

    run(1, (3, 5), tmp_path / "a")
    same(run(2, (3, 5), tmp_path / "a"), run(2, (3, 5)))
    ours, theirs = run(2, (3, 5, 8), tmp_path / "a"), run(2, (3, 5, 8))
    for key in theirs.final:
        pairs = zip(*map(jax.tree.leaves, (ours.final[key], theirs.final[key])), strict=True)
        for x, y in pairs:
            np.testing.assert_allclose(x, y, atol=1e-4)
