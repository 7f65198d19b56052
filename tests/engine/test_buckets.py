"""Folders in buckets: everything that a run folder on disk does."""

import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from buckets import Buckets, buckets, objects
from stops import after_save, in_spite_of_deaths, killed
from two_classes import DATA, NET, TRAINING, X, Y

import jaxticket as jt
from jaxticket import _files
from jaxticket.cli import main
from jaxticket.engine import bucket_lock
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.store import RunFolder

__all__ = ["buckets"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(bucket_lock, "SETTLE", 0.0)


def find(folder, **options):
    runtime = jt.Runtime(folder=folder, progress=False, save_every=0, **options)
    # rewinding makes a snapshot that has to survive
    pruning = jt.Pruning(levels=1, rewind=3)
    return jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=(0, 1), runtime=runtime)


def of_disk(folder):
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


def results_of(files):
    """Tables (without timings), tickets and records; not what says when and where it was made."""
    return {
        name: content
        for name, content in files.items()
        if name.endswith(("table.csv", "table.parquet", ".safetensors")) or name == "settings.json"
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "run"
    jt.branch(find(folder), "shuffle", progress=False)
    found = results_of(of_disk(folder))
    assert len(found) > 10 and any(name.startswith("branches/") for name in found)
    return found


@pytest.mark.parametrize(
    ("url", "background"), [("gs://bucket/a/run", False), ("s3://bucket/run", True)]
)
def test_a_run_in_a_bucket_that_dies_often_is_one_on_disk(buckets, reference, url, background):
    # a signal first, and then killed after every save of a state or a unit
    with (
        after_save(1, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(jt.RunInterrupted, match=f"saved in {url}"),
    ):
        find(url, async_saves=background)
    assert (
        {"saves/0.json", "saves/0.npz", ".lock"}
        >= {name for name in objects(url) if name.startswith(("saves", "state", "."))}
        >= {"saves/0.json", "saves/0.npz"}
    )
    runs, deaths = in_spite_of_deaths(lambda: find(url, async_saves=background), units=True)
    jt.branch(runs, "shuffle", progress=False)
    found = objects(url)
    assert results_of(found) == reference and deaths >= 5
    assert not [name for name in found if name.startswith(("saves", "state", ".", "damaged"))]
    assert str(runs.folder) == url and not Path("gs:").exists() and not Path("s3:").exists()


def test_a_finished_run_is_read_from_a_bucket(buckets, tmp_path, capsys):
    url = "gs://bucket/run"
    runs = find(url, on_evaluation=jt.callbacks.CSV(f"{url}-rows.csv"))
    with warnings.catch_warnings():
        # data without a name are not found again
        warnings.simplefilter("ignore", UserWarning)
        loaded = jt.load(url)
        assert loaded.table().equals(runs.table()) and loaded.folder == runs.folder
        for level in (0, 1):
            tickets = [own.ticket(level, 1) for own in (loaded, runs)]
            for one, other in zip(*map(jax.tree.leaves, tickets), strict=True):
                np.testing.assert_array_equal(one, other)
        # as the command line passes it: pathlib drops a slash
        main(["show", url])
        assert url in capsys.readouterr().out
        main(["plot", url, "--out", "gs://bucket/figure.png"])
    assert objects("gs://bucket")["figure.png"].startswith(b"\x89PNG")
    rows = objects("gs://bucket")["run-rows.csv"].decode().splitlines()
    assert len(rows) == 1 + len(runs.table())
    ticket = f"{url}/tickets/ticket-level-01-seed-1.safetensors"
    assert jt.Ticket.load(ticket, net=NET).density == runs.ticket(1, 1).density
    # elsewhere, on disk too
    assert runs.save("s3://other/copy") == _files.to_path("s3://other/copy")
    copy = runs.save(tmp_path / "copy")
    assert results_of(of_disk(copy)).items() <= results_of(objects(url)).items()
    with after_save(None, units=True) as saves:
        find(url)
    assert not saves


def test_transferred_tickets_know_where_they_were_found(buckets, tmp_path):
    runs = find("gs://bucket/source")
    other = jt.data.from_arrays(X[20:], Y[20:], X[:20], Y[:20])
    for folder in ("gs://bucket/deep/moved", tmp_path / "moved"):
        moved = jt.transfer(runs, to=other, folder=folder, progress=False)
        with pytest.warns(UserWarning, match="gs://bucket/source: the data 'arrays' were not"):
            loaded = jt.load(folder, data=other)
        assert loaded.found_in is not None
        assert loaded.found_in.folder == runs.folder
        assert loaded.table().equals(moved.table())


def test_rows_of_a_callback_are_in_the_bucket_once(buckets):
    url = "gs://bucket/rows.csv"
    find("gs://bucket/whole", on_evaluation=jt.callbacks.CSV("gs://bucket/whole.csv"))
    in_spite_of_deaths(lambda: find("gs://bucket/run", on_evaluation=jt.callbacks.CSV(url)))
    found = objects("gs://bucket")
    assert sorted(found["rows.csv"].splitlines()) == sorted(found["whole.csv"].splitlines())


@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "described badly"])
def test_a_damaged_state_in_a_bucket_is_skipped(buckets, reference, how):
    url = "gs://bucket/run"
    with killed(2):
        find(url)
    arrays, about = _files.to_path(f"{url}/saves/1.npz"), _files.to_path(f"{url}/saves/1.json")
    content = bytearray(arrays.read_bytes())
    if how == "cut":
        arrays.write_bytes(bytes(content[: len(content) // 2]))
    elif how == "flipped":
        content[len(content) // 3] ^= 1
        arrays.write_bytes(bytes(content))
    elif how == "missing":
        arrays.unlink()
    else:
        about.write_text("{")
    # half a save, without its description, does not count
    _files.to_path(f"{url}/saves/2.npz").write_bytes(b"half")
    said = "is begun again" if how != "described badly" else ""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        find(url)
    assert [said in str(one.message) for one in seen] == ([True] if said else [])
    named = {name: content for name, content in reference.items() if "branches" not in name}
    assert results_of(objects(url)) == named


def test_a_state_that_cannot_be_read_is_not_thrown_away(buckets, monkeypatch):
    url = "gs://bucket/run"
    with killed(1):
        find(url)
    before, opened = objects(url), Buckets._open

    def fails(self, path, mode="rb", **options):
        if path.endswith(".npz") and "saves" in path:
            raise ConnectionError("the bucket cannot be reached")
        return opened(self, path, mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Buckets, "_open", fails)
        with pytest.raises(RunFolderError, match="cannot be reached"):
            find(url)
    assert {name: x for name, x in objects(url).items() if "saves" in name} == {
        name: x for name, x in before.items() if "saves" in name
    }


# locks


def test_one_process_at_a_time_has_a_folder_in_a_bucket(buckets):
    folder = RunFolder("gs://bucket/run", {"kind": "a"})
    with pytest.raises(RunFolderError, match=f"is in use by process {os.getpid()} on"):
        RunFolder("gs://bucket/run", {"kind": "a"})
    assert bucket_lock.holder(folder.path / ".lock").startswith(f"process {os.getpid()} on")
    folder.close()
    assert bucket_lock.holder(folder.path / ".lock") is None
    RunFolder("gs://bucket/run", {"kind": "a"}).close()


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "beat": time.time() - 130}, True),
        ({"pid": os.getppid()}, False),
        # of a container before, whose processes had the same numbers
        ({"pid": os.getpid()}, True),
        ({"pid": 2**22 + 1}, True),
    ],
)
def test_the_lock_of_a_dead_process_is_taken_over(buckets, changes, free):
    path = _files.to_path("gs://bucket/run/.lock")
    ours = bucket_lock.acquire(path)
    said = json.loads(path.read_text())
    ours.release()
    holder = {**said, "name": "process 1 on elsewhere", "beat": time.time(), **changes}
    path.write_text(json.dumps(holder))
    found = bucket_lock.acquire(path)
    assert (found == "process 1 on elsewhere") is not free
    if free:
        found.release()


def test_of_two_that_write_at_once_one_has_the_folder(buckets, monkeypatch):
    path = _files.to_path("gs://bucket/run/.lock")

    def other_writes(_):
        path.write_text(json.dumps({"token": "other", "name": "process 2 on other"}))

    monkeypatch.setattr(time, "sleep", other_writes)
    assert bucket_lock.acquire(path) == "process 2 on other"


def test_a_process_that_was_taken_for_dead_stops_writing(buckets, monkeypatch):
    monkeypatch.setattr(bucket_lock, "BEAT", 0.01)
    folder = RunFolder("gs://bucket/run", {"kind": "a"})
    folder.save("before", {"x": np.zeros(2)})
    deadline = time.monotonic() + 20
    while not folder._lock.lost and time.monotonic() < deadline:
        # again, where a sign of life was under way and came after it
        (folder.path / ".lock").write_text(json.dumps({"token": "other", "name": "another"}))
        time.sleep(0.02)
    with pytest.raises(RunFolderError, match="was taken over by another process"):
        folder.save("after", {"x": np.zeros(2)})
    folder.close()
    assert json.loads((folder.path / ".lock").read_text())["token"] == "other"


# paths


@pytest.mark.parametrize("folder", ["gs://bucket/run", Path("gs://bucket/run"), "s3://b/x"])
def test_urls_stay_urls(buckets, folder):
    runtime = jt.Runtime(folder=folder)
    below = str(runtime.below("a", "b").folder)
    assert below in ("gs://bucket/run/a/b", "s3://b/x/a/b")
    assert jt.Runtime().in_folder(_files.absolute(folder), "a", "b").folder == Path(below) or (
        str(jt.Runtime().in_folder(_files.absolute(folder), "a", "b").folder) == below
    )


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("ftp://host/run", r"begins with ftp://; write gs://bucket/folder or s3://bucket/folder"),
        ("file:///somewhere/run", "begins with file://"),
        ("gs:/bucket/run", r"`folder` 'gs:/bucket/run' lacks a slash; write gs://bucket/run"),
        ("gs://", r"names no bucket; write gs://bucket/folder"),
    ],
)
def test_other_urls_are_refused(folder, said):
    with pytest.raises(ValueError, match=said):
        jt.Runtime(folder=folder)


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("gs://b/run", "gcsfs", "gcs"), ("s3://b/run", "s3fs", "s3")]
)
def test_what_is_not_installed_is_named(monkeypatch, url, module, extra):
    from fsspec.registry import _registry

    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, extra, raising=False)
    with pytest.raises(
        ValueError, match=rf"needs the package '{module}'.*\n.*jaxticket\[{extra}\]"
    ):
        jt.Runtime(folder=url)
    with pytest.raises(ValueError, match=f"needs the package '{module}'"):
        jt.load(url)


# in the background


@pytest.mark.parametrize("url", ["disk", "gs://bucket/run"])
def test_an_error_in_the_background_is_raised_at_the_next_save(buckets, tmp_path, url, monkeypatch):
    url = tmp_path / "run" if url == "disk" else url
    written = _files.write_text

    def full(path, text):
        if path.name == "1.json":
            raise OSError(28, "No space left on device")
        written(path, text)

    monkeypatch.setattr(_files, "write_text", full)
    with (
        after_save(None) as saves,
        pytest.raises(RunFolderError, match=r"the disk is full.*What was saved before is intact"),
    ):
        find(url, async_saves=True)
    assert len(saves) == 2, "the save that fails is the second, and the third says so"
    folder = _files.absolute(url)
    assert (folder / "saves" / "0.json").exists() and (folder / "saves" / "0.npz").exists()
    monkeypatch.undo()


def test_a_run_on_disk_with_saves_in_the_background(reference, tmp_path):
    folder = tmp_path / "run"
    # states of either kind are continued by either
    for number, background in ((2, True), (1, False), (1, True)):
        with killed(number):
            find(folder, async_saves=background)
        kept = {path.name for path in folder.iterdir() if path.name in ("saves", "state")}
        assert kept == {"saves" if background else "state"}
    runs, deaths = in_spite_of_deaths(lambda: find(folder, async_saves=True))
    jt.branch(runs, "shuffle", progress=False)
    assert results_of(of_disk(folder)) == reference and deaths >= 1
    assert not (folder / "saves").exists() and not (folder / "state").exists()
