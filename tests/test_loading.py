"""jt.load and keep="trained": what a folder gives back is what the function returned."""

import dataclasses
import functools
import importlib
import json
import pkgutil
import shutil
import warnings

import jax
import numpy as np
import optax
import pytest
from patterns import DATA, NET, TRAINING, equal, initial

import jaxticket as jt
from jaxticket import _identity, _saved, masks
from jaxticket._identity.owner import MOVED
from jaxticket.pruning_settings import Loaded

SHORT = TRAINING.replace(steps=10, milestones=())
MESH = {"seeds": (3, 5), "progress": False}


def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "found"


@pytest.fixture(scope="module")
def runs(folder):
    return jt.find_tickets(
        NET, DATA, SHORT, jt.Pruning(levels=2), branches=("shuffle",), keep="trained",
        folder=folder, mesh=mesh(), **MESH,
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(runs, folder):
    return jt.load(folder, data=DATA)


def same(ours, theirs, *, seconds=True):
    """Asserts that two runs are the same, in all that a user gets of them."""
    assert ours.table().equals(theirs.table())
    assert ours.timings().equals(theirs.timings()) or not seconds
    assert (ours.seeds, ours.branch, ours.levels) == (theirs.seeds, theirs.branch, theirs.levels)
    assert (ours.training, ours.pruning) == (theirs.training, theirs.pruning)
    assert ours.net == theirs.net and ours.data.fingerprint == theirs.data.fingerprint
    for level in ours.levels:
        for one, other in ((ours.by_level, theirs.by_level), (ours.final, theirs.final)):
            assert list(one) == list(other)
        mine, yours = ours.by_level[level], theirs.by_level[level]
        assert jax.tree.structure(mine) == jax.tree.structure(yours)
        equal(mine, yours)
        equal(ours.whole(level), theirs.whole(level))
    for key, ticket in ours.final.items():
        assert jax.tree.structure(ticket) == jax.tree.structure(theirs.final[key])
        equal(ticket, theirs.final[key])
    assert ours.identity(ours.levels) == theirs.identity(theirs.levels)
    assert ours.traces == theirs.traces
    assert 0 not in ours.levels or ours.matching() == theirs.matching()


def test_a_folder_gives_the_runs_back(runs, loaded):
    same(runs, loaded)


def test_what_is_loaded_can_be_branched_from(runs, loaded, tmp_path):
    ours = jt.branch(runs, "reinit", levels=(1,), progress=False, folder=tmp_path / "a")
    theirs = jt.branch(loaded, "reinit", levels=(1,), progress=False, folder=tmp_path / "b",
                       runtime=None)  # fmt: skip
    assert ours.table().equals(theirs.table())
    same(ours, jt.load(tmp_path / "a", data=DATA))


def test_trained_weights_are_those_that_the_next_mask_comes_from(runs):
    """The largest trained weights of level 0 are what level 1 keeps."""
    params, stats = runs.trained(0)
    assert not jax.tree.leaves(stats)
    mask = runs.by_level[1].mask
    for replica in range(2):
        kept = [(w[replica], m[replica]) for _, m, w in masks.items(mask, params)]
        inside = min(np.abs(w[m]).min() for w, m in kept)
        outside = max(np.abs(w[~m]).max() for w, m in kept)
        assert inside >= outside


def test_trained_weights_give_the_accuracy_of_the_table(runs):
    table = runs.table()
    for branch in ("ticket", "shuffle"):
        params, stats = runs.trained(2, branch)
        own = runs.trained_tickets(2, branch).mask
        assert all((w[~m] == 0).all() for _, m, w in masks.items(own, params))
        x = (DATA.test.x.astype(np.float32) - DATA.mean) / DATA.std
        for replica, seed in enumerate(runs.seeds):
            mine = jax.tree.map(lambda w, i=replica: w[i], params)
            logits, _ = NET.apply(mine, stats, x, train=False)
            rows = table[
                (table.level == 2) & (table.seed == seed) & (table.branch == branch)
                & (table.split == "test") & (table.metric == "accuracy") & (table.step == 10)
            ]  # fmt: skip
            accuracy = (np.argmax(logits, -1) == DATA.test.y).mean()
            np.testing.assert_allclose(rows.value, accuracy, atol=1e-6)


@pytest.mark.parametrize("how", ["find_tickets", "prune_at"])
def test_averages_of_weights_are_what_was_trained(how):
    """Under `ema` the average is evaluated, and kept."""
    training = SHORT.replace(ema=0.7)
    if how == "find_tickets":
        runs = jt.find_tickets(
            NET, DATA, training, jt.Pruning(levels=1), keep="trained", mesh=mesh(), **MESH
        )
    else:
        runs = jt.prune_at(
            NET, DATA, training, density=0.5, score="magnitude", keep="trained", mesh=mesh(), **MESH
        )
    table = runs.table().query("split == 'test' and metric == 'loss' and step == 10")
    x = (DATA.test.x.astype(np.float32) - DATA.mean) / DATA.std
    for level in (0, 1):
        params, stats = runs.trained(level)
        for replica, seed in enumerate(runs.seeds):
            mine = jax.tree.map(lambda w, i=replica: w[i], params)
            logits, _ = NET.apply(mine, stats, x, train=False)
            chosen = jax.nn.log_softmax(logits)[np.arange(len(x)), DATA.test.y]
            row = table[(table.level == level) & (table.seed == seed)]
            np.testing.assert_allclose(row.value, -chosen.mean(), rtol=1e-5)


def test_trained_weights_resume_and_are_a_setting_of_the_folder(runs, folder):
    args = NET, DATA, SHORT, jt.Pruning(levels=2)
    options = dict(branches=("shuffle",), folder=folder, mesh=mesh(), **MESH)
    same(runs, jt.find_tickets(*args, keep="trained", **options), seconds=False)
    with pytest.raises(jt.RunFolderError, match="`keep` is 'trained' there and 'absent' here"):
        jt.find_tickets(*args, **options)
    with pytest.raises(ValueError, match="`keep`"):
        jt.find_tickets(*args, keep="all", **options)


def test_files_hold_kept_weights_alone(runs, folder):
    dense = (folder / "trained" / "ticket-level-00.safetensors").stat().st_size
    sparse = (folder / "trained" / "ticket-level-02.safetensors").stat().st_size
    assert dense > 4 * 2 * sum(x.size for x in jax.tree.leaves(NET.shapes[0]))
    kept = int(masks.kept(runs.ticket(2, 3).mask))
    assert dense - sparse >= 4 * 2 * (420 - kept)


def test_measures_look_at_trained_networks_too(runs):
    options = {"levels": (0, 2), "branches": ("ticket", "shuffle"), "progress": False}
    start = jt.measure(runs, "gradient_norm", **options)
    end = jt.measure(runs, "gradient_norm", weights="trained", **options)
    assert len(start) == len(end) and (end.value.to_numpy() < start.value.to_numpy()).any()
    assert (end.density == start.density).all()
    with pytest.raises(ValueError, match="`level`, `branch`, `dilation` 0, 'reinit'"):
        jt.measure(runs, "gradient_norm", branches=("reinit",), weights="trained", progress=False)


def test_what_was_not_kept_is_not_there():
    runs = jt.find_tickets(NET, DATA, SHORT, jt.Pruning(levels=0), mesh=mesh(), **MESH)
    with pytest.raises(ValueError, match="keep='trained'"):
        runs.trained(0)
    with pytest.raises(ValueError, match="keep='trained'"):
        runs.ticket(0, 3, weights="trained")


def test_prune_at_keeps_and_loads_too(tmp_path):
    early = jt.prune_at(
        NET, DATA, SHORT, density=(0.5, 0.2), step=(0, 5), score="magnitude", keep="trained",
        folder=tmp_path / "early", mesh=mesh(), **MESH,
    )  # fmt: skip
    found = jt.load(tmp_path / "early", data=DATA)
    assert list(found) == list(early) == [0, 5]
    for step in (0, 5):
        assert early[step].trained(0)[0].keys() == NET.shapes[0].keys()
        same(early[step], found[step])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*learns what the dense network answers")
def test_searches_keep_and_load_too(tmp_path):
    searched = jt.search(
        NET, DATA, SHORT, density=0.5, steps=6, keep="trained", folder=tmp_path / "searched",
        mesh=mesh(), **MESH,
    )  # fmt: skip
    same(searched, found := jt.load(tmp_path / "searched", data=DATA))
    assert found.trace().equals(searched.trace())


def test_transfers_load_with_the_runs_that_found_their_masks(runs, folder, tmp_path):
    options = {"levels": (2,), "keep": "trained", "progress": False}
    moved = jt.transfer(runs, to=DATA, branches=(), folder=tmp_path / "moved", **options)
    found = jt.load(tmp_path / "moved", data=DATA)
    same(moved, found)
    same(moved.found_in, found.found_in, seconds=False)
    assert found.moved == moved.moved and found.trained(2)


def test_instability_analyses_load(tmp_path):
    options = {"seeds": (3,), "mesh": mesh(), "progress": False}
    inst = jt.instability(
        NET, DATA, SHORT, at=(0, 5), points=3, keep=True, folder=tmp_path / "a", **options
    )
    found = jt.load(tmp_path / "a", data=DATA)
    assert found.table().equals(inst.table()) and found.paths().equals(inst.paths())
    assert found.kinds == inst.kinds and found.costs().equals(inst.costs())
    for at in (0, 5):
        equal(found.networks(at=at, seed=3), inst.networks(at=at, seed=3))


@pytest.mark.slow
def test_sparse_training_loads(tmp_path):
    runs = jt.sparse_train(
        NET, DATA, SHORT, "static", density=0.5, folder=tmp_path / "a", keep="trained", mesh=mesh(),
        **MESH,
    )  # fmt: skip
    found = jt.load(tmp_path / "a", data=DATA)
    equal(found.trained(1), runs.trained(1))
    for _, m, w in masks.items(runs.by_level[1].mask, runs.trained(1)[0]):
        assert (w[~m] == 0).all() and (w[m] != 0).mean() > 0.9
    assert found.table().equals(runs.table()) and found.pruning == runs.pruning
    equal(found.by_level[1], runs.by_level[1])


@dataclasses.dataclass(frozen=True)
class OneShot(jt.Pruning):
    """A strategy of one's own."""


@pytest.mark.parametrize(
    "score",
    [jt.scores.configured("snip", batch_norm="eval"), jt.scores.inverted("snip")],
    ids=["configured", "inverted"],
)
def test_scores_with_options_are_recorded(tmp_path, score):
    """They are functions whose names, "snip(batch_norm='eval')", no module has."""
    options = {"score": score, "density": 0.2, "seeds": (0,), "progress": False}
    runs = jt.prune_at(NET, DATA, SHORT, folder=tmp_path / "a", **options)
    assert (
        jt.prune_at(NET, DATA, SHORT, folder=tmp_path / "a", **options).table().equals(runs.table())
    )
    with pytest.raises(ValueError, match=r"`score` is code of your own.*; pass pruning="):
        jt.load(tmp_path / "a", data=DATA)
    again = jt.load(tmp_path / "a", data=DATA, pruning=runs.pruning)
    assert again.table().equals(runs.table()) and again.pruning == runs.pruning


@pytest.mark.slow
def test_strategies_of_ones_own_are_passed(tmp_path):
    strategy = OneShot(levels=1, one_shot=True)
    options = {"dense": False, "folder": tmp_path / "a", "mesh": mesh(), **MESH}
    runs = jt.sparsify.run_strategy(NET, DATA, SHORT, strategy, keep="trained", **options)
    with pytest.raises(ValueError, match=r"`pruning` is needed"):
        jt.load(tmp_path / "a", data=DATA)
    same(runs, jt.load(tmp_path / "a", data=DATA, pruning=strategy))


@pytest.mark.slow
def test_verdicts_load(runs, folder, tmp_path):
    verdict = jt.verdict(runs, level=1, folder=tmp_path / "b", progress=False)
    again = jt.load(tmp_path / "b")
    assert str(again) == str(verdict) and again.networks().equals(verdict.networks())
    assert again.conditions().equals(verdict.conditions())
    assert again.small == verdict.small and again.winning == verdict.winning


@pytest.mark.slow
def test_trained_weights_of_lenet_are_small_on_disk(tmp_path):
    """Five seeds and twenty levels of LeNet-300-100, with everything else in the folder."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (300, 28, 28), np.uint8), rng.integers(0, 10, 300)
    data = jt.data.from_arrays(x[:240], y[:240], x[240:], y[240:], classes=10)
    runs = jt.find_tickets(
        jt.networks.lenet(), data, SHORT, jt.Pruning(levels=20), keep="trained", seeds=range(5),
        folder=tmp_path / "a", mesh=mesh(), progress=False,
    )  # fmt: skip
    size = sum(file.stat().st_size for file in (tmp_path / "a").rglob("*") if file.is_file())
    assert size < 200e6
    print(f"{size / 1e6:.0f} MB")
    assert runs.trained(20)[0]["dense_0"]["kernel"].shape == (5, 784, 300)


def test_a_run_without_its_data_has_tables_and_says_what_is_missing(folder, runs):
    with pytest.warns(UserWarning, match="pass `data` to jt.load"):
        found = jt.load(folder)
    assert found.table().equals(runs.table()) and found.matching() == runs.matching()
    equal(found.by_level[2], runs.by_level[2])
    with pytest.raises(ValueError, match=r"`data` .* was not found here"):
        jt.branch(found, "reinit", progress=False)
    with pytest.raises(ValueError, match="has other examples"):
        jt.load(folder, data=jt.data.load("digits"))


def test_data_sets_of_the_library_are_found_and_divided_as_they_were(tmp_path):
    data = jt.data.load("digits").with_validation(0.2, seed=1).fraction(0.1, seed=2)
    net = jt.networks.lenet(data.shape, 10, widths=(4,))
    runs = jt.find_tickets(
        net, data, SHORT, jt.Pruning(levels=0), seeds=(0,), folder=tmp_path / "a", progress=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = jt.load(tmp_path / "a")
    assert found.data.fingerprint == data.fingerprint and len(found.data.train) == len(data.train)
    same(runs, found)


def dimmed(images, *, key):
    del key
    return images


SETTINGS = {
    **{f"training of {name}": jt.preset(name).training for name in jt.PRESETS},
    **{f"pruning of {name}": jt.preset(name).pruning for name in jt.PRESETS},
    **{f"search of {name}": make() for name, make in jt.SEARCHES.items()},
    "function": jt.Training(optimizer=optax.lion, schedule=optax.constant_schedule),
    "partial": jt.Training(optimizer=functools.partial(optax.sgd, momentum=0.9, nesterov=True)),
    "objects": jt.Training(metrics=("top5",), augment=(jt.augment.Flip(),)),
    "rates": jt.Pruning(scope="layer", rates=(("dense_2", 0.1),), exclude=("dense_1",)),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_are_made_again_from_their_record(settings):
    record = json.loads(json.dumps(_identity.recorded(settings)))
    assert _identity.rebuilt(record) == settings or "partial" in str(record)
    assert _identity.recorded(_identity.rebuilt(record)) == _identity.recorded(settings)


@pytest.mark.parametrize("settings", [Loaded((0.5,)), jt.EarlyPruning((0.5,), score="random")])
def test_folders_record_a_class_by_its_first_name_wherever_it_moves(settings):
    record = _identity.recorded(settings)
    assert record["class"] in MOVED
    assert _identity.rebuilt(record) == settings


@pytest.mark.parametrize("first", MOVED)
def test_classes_of_the_users_are_the_same_wherever_their_bases_move(first, monkeypatch):
    moved = pkgutil.resolve_name(MOVED[first])
    own = type("Own", (moved,), {"__module__": __name__})
    before = _identity.code_of(own)
    # as it was: the class stood in its first module
    module, _, name = first.partition(":")
    monkeypatch.setattr(moved, "__module__", module)
    monkeypatch.setattr(importlib.import_module(module), name, moved, raising=False)
    assert _identity.code_of(own) == before


def test_code_of_the_users_own_is_passed(tmp_path):
    def init(key):
        return {"layer": {"kernel": 0.1 * jax.random.normal(key, (25, 3))}}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1) @ params["layer"]["kernel"], stats

    net = jt.from_functions(init, apply, name="linear", shape=DATA.shape)
    training = SHORT.replace(augment=(dimmed,))
    runs = jt.find_tickets(
        net, DATA, training, jt.Pruning(levels=0), seeds=(0,), folder=tmp_path / "a", progress=False
    )
    with pytest.raises(ValueError, match=r"`net` is needed: .*'linear'"):
        jt.load(tmp_path / "a", data=DATA)
    with pytest.raises(ValueError, match=r"`training` is needed: .*`augment\[0\]`.*dimmed"):
        jt.load(tmp_path / "a", data=DATA, net=net)
    same(runs, jt.load(tmp_path / "a", data=DATA, net=net, training=training))
    other = jt.from_functions(init, apply, name="linear", shape=DATA.shape, output="")
    for wrong in ({"net": other}, {"net": net, "training": SHORT}, {"net": NET}):
        with pytest.raises(ValueError, match="is not"):
            jt.load(tmp_path / "a", data=DATA, **{"net": net, "training": training} | wrong)


def test_folders_without_a_finished_run_are_refused(tmp_path, folder, runs):
    with pytest.raises(ValueError, match="is no folder"):
        jt.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no folder of a run"):
        jt.load(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match="no finished run"):
        jt.load(tmp_path)
    record = json.loads((folder / "runs.json").read_text())
    (tmp_path / "runs.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is damaged"):
        jt.load(tmp_path)


def test_a_record_that_was_not_written_to_its_end_is_none(tmp_path, folder, runs, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "copy")
    write = _saved._files.write_text

    def full(path, text):
        if path.name == "runs.json":
            raise OSError("no space left on device")
        write(path, text)

    monkeypatch.setattr(_saved._files, "write_text", full)
    with pytest.raises(jt.RunFolderError, match="no space left"):
        runs.save(copy)
    # the record of before does not speak of the arrays that are there now
    with pytest.raises(ValueError, match="no finished run"):
        jt.load(copy)


# weights that training starts from


@pytest.fixture(scope="module")
def pretrained(runs):
    return jax.tree.map(lambda w: w[0], runs.trained(0)[0])


def test_tickets_start_from_given_weights(pretrained):
    found = jt.find_tickets(
        NET, DATA, SHORT, jt.Pruning(levels=1), init=pretrained, mesh=mesh(), keep="trained", **MESH
    )
    for seed in (3, 5):
        ticket = found.ticket(1, seed)
        equal(ticket.params, masks.apply(ticket.mask, pretrained))
    # the same start, other batches
    one, other = (jax.tree.map(lambda w, i=i: w[i], found.trained(0)[0]) for i in range(2))
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    by_net = jt.find_tickets(
        NET.with_params(pretrained), DATA, SHORT, jt.Pruning(levels=1), mesh=mesh(), **MESH
    )
    assert by_net.table().equals(found.table())


def test_each_seed_may_have_weights_of_its_own(runs, tmp_path):
    """All levels of training after the dense one: level 0 goes on from where it ended."""
    trained = runs.trained(0)
    pruned = jt.prune_at(
        NET, DATA, SHORT, density=0.5, score="magnitude", init=trained, dense=False, mesh=mesh(),
        folder=tmp_path / "a", **MESH,
    )  # fmt: skip
    equal(pruned.origin.params, trained[0])
    assert pruned.net.given.seeds == (3, 5)
    assert json.loads(pruned.net.config)["weights"]["seeds"] == [3, 5]
    found = jt.load(tmp_path / "a", data=DATA)
    equal(found.by_level[1], pruned.by_level[1])
    assert found.net == pruned.net
    with pytest.raises(ValueError, match=r"seeds \(3, 5\) alone"):
        jt.find_tickets(pruned.net, DATA, SHORT, seeds=(4,), progress=False)
    with pytest.raises(jt.RunFolderError, match=r"weights"):
        jt.prune_at(
            NET, DATA, SHORT, density=0.5, score="magnitude", dense=False, mesh=mesh(),
            init=jax.tree.map(lambda w: w * 2, trained), folder=tmp_path / "a", **MESH,
        )  # fmt: skip


def test_rewinding_of_given_weights_goes_back_to_a_step_of_the_new_training(pretrained):
    found = jt.find_tickets(
        NET, DATA, SHORT, jt.Pruning(levels=1, rewind=5), init=pretrained, mesh=mesh(), **MESH
    )
    trained = jt.find_tickets(
        NET, DATA, SHORT.replace(steps=5), jt.Pruning(levels=0), init=pretrained, mesh=mesh(),
        keep="trained", **MESH,
    )  # fmt: skip
    equal(found.origin.params, trained.trained(0)[0])


def test_controls_with_new_weights_draw_them(pretrained):
    net = NET.with_params(pretrained)
    found = jt.find_tickets(
        net, DATA, SHORT, jt.Pruning(levels=1), mesh=mesh(), branches=("reinit",), keep="trained",
        **MESH,
    )  # fmt: skip
    fresh = jt.branch(found, "reinit", levels=(1,), progress=False).by_level[1]
    own = jax.tree.leaves(jax.tree.map(lambda w: w[0], fresh.params))
    drawn = jax.tree.leaves(initial(NET, 3)[0])
    assert all(x.shape == y.shape for x, y in zip(own, drawn, strict=True))
    kernel = fresh.params["dense_0"]["kernel"][0]
    mask = fresh.mask["dense_0"]["kernel"][0]
    assert not np.isin(kernel[mask], pretrained["dense_0"]["kernel"]).any()


def test_weights_that_do_not_fit_are_refused(pretrained):
    net = jt.networks.lenet(DATA.shape, 3, widths=(4,))
    with pytest.raises(ValueError, match="`init` must be params"):
        jt.find_tickets(net, DATA, SHORT, init=pretrained, progress=False)
    with pytest.raises(ValueError, match="`params` holds numbers that are not finite"):
        NET.with_params(jax.tree.map(lambda w: w * np.nan, pretrained))
    with pytest.raises(ValueError, match="`stats` are missing"):
        jt.networks.resnet20(width=0.25).with_params({})
    with pytest.raises(ValueError, match="leave one of them out"):
        jt.find_tickets(NET.with_params(pretrained), DATA, SHORT, init=pretrained, progress=False)
    assert dataclasses.replace(NET, given=None) == NET != NET.with_params(pretrained)
