"""Ticket files that were damaged or made by others: refused with a clear error, and never more
memory than the file is long; tickets that could not be read back are not written.
"""

import io
import json
import resource
import sys
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxticket as jt
from jaxticket._ticket_file import digest
from jaxticket.cli import main
from jaxticket.cli.listing import ticket_text
from jaxticket.ticket import about, layer_masks, pack

MASK = {"dense": {"bias": np.ones(3, bool), "kernel": np.eye(3, 4, dtype=bool)}}
PARAMS = jax.tree.map(lambda m: np.where(m, np.float32(2), np.float32(0)), MASK)
TICKET = jt.Ticket(MASK, PARAMS, {"seen": np.zeros(2, np.float32)}, np.int32(1), np.int32(0))
HEADER = {"net": None, "about": {}, "seed": None}
# of this version, and of 0.1
each_format = pytest.mark.parametrize("name", ["a.safetensors", "a.npz"])


def written(path, changes=None, header=None):
    """A file with a right checksum, whatever it holds: arrays of a good ticket, changed."""
    arrays = pack(TICKET) | (changes or {})
    arrays = {name: x for name, x in arrays.items() if x is not None}
    told = {**HEADER, **(header or {})}
    if path.suffix == ".npz":
        text = json.dumps({"format": "jaxticket ticket 1", **told, "sha256": digest(arrays)})
        np.savez(path, **arrays, header=np.frombuffer(text.encode(), np.uint8))
    else:
        texts = {name: json.dumps(value) for name, value in told.items()}
        texts["format"] = "jaxticket ticket 2"
        texts["sha256"] = digest(arrays, texts)
        save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, path, texts)
    return path


@each_format
def test_the_file_that_is_changed_below_is_good(name, tmp_path):
    back = jt.Ticket.load(written(tmp_path / name))
    chex.assert_trees_all_equal(back, TICKET)


CHANGES = {
    "huge": ({"shape/dense/kernel": np.asarray([10**9, 10**9])}, r"the mask of 'dense/kernel' has"),
    "overflowing": ({"shape/dense/kernel": np.asarray([2**32, 2**32])}, "the mask of 'dense/kern"),
    "negative": ({"shape/dense/kernel": np.asarray([-3, -4])}, r"shape of 'dense/kernel' is \[-3"),
    "other count": ({"shape/dense/kernel": np.asarray([5, 5])}, "needs 4 bytes"),
    "float shape": ({"shape/dense/kernel": np.asarray([3.0, 4.0])}, "shape of 'dense/kernel' is"),
    "scalar shape": ({"shape/dense/kernel": np.asarray(12)}, "shape of 'dense/kernel' is 12"),
    "float bits": ({"mask/dense/kernel": np.ones(2, np.float32)}, "float32 bits"),
    "no mask": ({"mask/dense/kernel": None}, r"a mask or all 12 weights of 'dense/kernel'"),
    "no shape": ({"shape/dense/kernel": None}, r"a shape for each .*'dense/kernel'"),
    "no kept": ({"kept/dense/kernel": None}, r"a shape and weights .*'dense/kernel'"),
    "more kept": ({"kept/other": np.ones(3, np.float32)}, r"a shape and weights .*'other'"),
    "unpruned": (
        {"mask/dense/bias": None, "kept/dense/bias": np.ones(2, np.float32)},
        "a mask or all 3 weights of 'dense/bias'",
    ),
    "few kept": ({"kept/dense/kernel": np.ones(2, np.float32)}, r"weights of float32 \(2,\) where"),
    "many kept": ({"kept/dense/kernel": np.ones(9, np.float32)}, "where its mask keeps 3"),
    "matrix kept": ({"kept/dense/kernel": np.ones((3, 1), np.float32)}, "where its mask keeps 3"),
    "text kept": ({"kept/dense/kernel": np.asarray(["a", "b", "c"])}, "'kept/dense/kernel' is of"),
    "int kept": ({"kept/dense/kernel": np.ones(3, np.int32)}, "weights of int32"),
    "objects": ({"stats/x": np.asarray([{}, 1], object)}, "'stats/x' is of type object"),
    "dates": ({"stats/x": np.zeros(2, "M8[s]")}, "'stats/x' is of type datetime64"),
    "no level": ({"level": None}, "one whole number as its level"),
    "stacked": ({"level": np.zeros(2, np.int32)}, "one whole number as its level"),
    "float step": ({"step": np.float32(1)}, "one whole number as its step"),
    "leaf above": (
        {
            "shape/dense": np.asarray([1]),
            "mask/dense": np.zeros(1, np.uint8),
            "kept/dense": np.zeros(0, np.float32),
        },
        "lies below or above another leaf",
    ),
}
HEADERS = {
    "net": ({"net": [1]}, r"its 'net' is \[1\]"),
    "about": ({"about": "mine"}, "its 'about' is 'mine'"),
    "about none": ({"about": None}, "its 'about' is None"),
    "seed text": ({"seed": "3"}, "its seed is '3'"),
    "seed bool": ({"seed": True}, "its seed is True"),
    "seed negative": ({"seed": -3}, "its seed is -3"),
    "seed huge": ({"seed": 10**400}, "its seed is 1000"),
    "seed alone": ({"seed": 3}, "a seed and no checksum"),
    "keys": ({"keys": [1]}, "its keys are no lists"),
    "keys other": ({"keys": {"a/0": ["a", 1]}}, "its keys are not those of its paths"),
}


def refused(path, message):
    """All that reads ticket files."""
    for read in (jt.Ticket.load, layer_masks, ticket_text):
        with pytest.raises(ValueError, match=r"`path` .*a\.(npz|safetensors)") as error:
            read(path)
        assert "is no ticket file or is damaged" in str(error.value)
    with pytest.raises(ValueError, match=message):
        jt.Ticket.load(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("a.npz", change) for change in CHANGES),
        # safetensors hold numbers alone
        *(("a.safetensors", c) for c in CHANGES if c not in ("text kept", "objects", "dates")),
    ],
)
def test_arrays_that_are_no_ticket(name, change, tmp_path):
    changes, message = CHANGES[change]
    path = written(tmp_path / name, changes)
    if "kept" not in change and change != "leaf above":
        refused(path, message)
    else:
        # masks alone are right
        with pytest.raises(ValueError, match=message):
            jt.Ticket.load(path)


@each_format
@pytest.mark.parametrize("change", HEADERS)
def test_headers_that_are_no_ticket(change, name, tmp_path):
    header, message = HEADERS[change]
    refused(written(tmp_path / name, header=header), message)


@each_format
def test_a_file_without_layers(name, tmp_path):
    empty = {array: None for array in pack(TICKET) if "/" in array}
    refused(written(tmp_path / name, empty), "neither weights nor a seed")


def npy(shape, kind="<f4", data=b"", version=(1, 0)):
    """An .npy file whose header states a shape, whatever follows."""
    file = io.BytesIO()
    fields = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue() + data


@pytest.mark.parametrize(
    ("name", "stored", "message"),
    [
        ("stats/x.npy", npy((2**33,)), "another number of bytes than its shape"),
        ("stats/x.npy", npy((2**40, 2**40)), "another number of bytes"),
        ("stats/x.npy", npy((4,), data=b"\0" * 15), "another number of bytes"),
        ("stats/x.npy", npy((-4,), data=b"\0" * 16), "shape|header"),
        ("stats/x.npy", npy((0, -4)), "shape|header"),
        ("stats/x.txt", b"hello", "'stats/x.txt' is not an array"),
        ("stats/x.npy", b"\x93NUMPY\x03\x00" + b"\xff" * 60, "damaged"),
        ("level.npy", npy((), "<i4", b"\0" * 4), "repeated"),
    ],
)
def test_arrays_that_state_what_they_are_not(name, stored, message, tmp_path, recwarn):
    path = written(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, stored)
    refused(path, message)


def stated(path, shape):
    """A safetensors file whose header states a shape that its bytes do not have."""
    header = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


@pytest.mark.parametrize("shape", [[2**33], [2**40, 2**40], [-1], [2]], ids=str)
def test_shapes_that_the_bytes_do_not_have(shape, tmp_path):
    stated(tmp_path / "a.safetensors", shape)
    refused(tmp_path / "a.safetensors", "no ticket file or is damaged")


def test_compressed_files_are_refused_unread(tmp_path):
    """A bomb: 200 MB of zeros in 200 kB."""
    path = written(tmp_path / "a.npz")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stats/x.npy", npy((50_000_000,), data=bytes(200_000_000)))
    assert path.stat().st_size < 10**6
    refused(path, "its parts are larger than the file")
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy((1,), data=b"abcd"))
    with pytest.raises(ValueError, match="no ticket file or is damaged"):
        jt.Ticket.load(tmp_path / "b.npz")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is in kB on Linux")
def test_a_small_file_takes_little_memory(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("huge", "overflowing", "stated"):
        path = tmp_path / "a.safetensors"
        if name == "stated":
            stated(path, [2**20, 2**20])
        else:
            path = written(path, CHANGES[name][0])
        assert path.stat().st_size < 4000
        with pytest.raises(ValueError, match="damaged"):
            jt.Ticket.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# --- show


def test_show_writes_control_characters_out(tmp_path, capsys):
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    nested = "x"
    for _ in range(300):
        nested = [nested]
    header = {
        "net": {"constructor": evil, "name": evil, evil: evil},
        "about": {"data": evil, "preset": "a\nfake  100%", "training": {evil: evil, "lr": nested}},
    }
    arrays = {f"{kind}/{evil}\nnext": x for kind, x in (
        ("shape", np.asarray([2, 2])), ("mask", np.zeros(1, np.uint8)),
        ("kept", np.zeros(0, np.float32)),
    )}  # fmt: skip
    main(["show", str(written(tmp_path / "a.safetensors", arrays, header))])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out
    assert r"\x1b[2J" in out and r"a\nfake  100%" in out and r"\nnext" in out
    assert all(c.isprintable() or c == "\n" for c in out)


def test_errors_write_control_characters_out(tmp_path, capsys):
    (tmp_path / "\x1b[2J.npz").touch()
    with pytest.raises(SystemExit, match="2"):
        main(["show", str(tmp_path / "\x1b[2J.npz")])
    said = capsys.readouterr().err
    assert "\x1b" not in said and "is no ticket file" in said


# --- what is written can be read


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)}, "bfloat16 at "),
        ({"params": jax.tree.map(lambda x: x.astype(np.int32), PARAMS)}, "weights of type int32"),
        ({"mask": jax.tree.map(lambda x: x.astype(np.int32), MASK)}, "tree of bools, got int32"),
        ({"level": None}, "whole number as its level, got None"),
        ({"step": None}, "whole number as its step, got None"),
        ({"level": 1.5}, "whole number as its level, got 1.5"),
        ({"params": {"dense": PARAMS["dense"]["kernel"]}}, "must have the same tree"),
        ({"params": MASK, "mask": PARAMS}, r"arguments is Ticket\(mask, params"),
    ],
    ids=["bfloat16", "whole", "int mask", "no level", "no step", "half", "tree", "swapped"],
)
def test_what_could_not_be_loaded_is_not_saved(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TICKET.replace(**changes).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("level", [1, np.int64(1), jnp.int32(1)], ids=["int", "int64", "jax"])
def test_what_is_saved_comes_back(dtype, level, tmp_path):
    ticket = TICKET.replace(
        params=jax.tree.map(lambda x: x.astype(dtype), PARAMS), level=level, step=7
    )
    path = ticket.save(tmp_path / "a.safetensors")
    back = jt.Ticket.load(path)
    assert (int(back.level), int(back.step)) == (1, 7)
    assert about(path)["step"] == 7 and "keys" not in about(path)
    for a, b in zip(jax.tree.leaves(back.params), jax.tree.leaves(ticket.params), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
