"""Ticket files: what comes back is what went in, and nothing else is let in."""

import functools
import io
import json
import pickle
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import jaxticket as jt
from jaxticket import masks
from jaxticket.cli import main
from jaxticket.presets import preset_of
from jaxticket.random import stream
from jaxticket.ticket import about, layer_masks, pack, unpack

SHAPE = (2, 4, 1)


@functools.cache
def net_of(widths=(6,)):
    return jt.networks.lenet(SHAPE, 3, widths)


@functools.cache
def initial(seed=3):
    return jax.jit(lambda key: net_of().init(stream(key, "init")))(jax.random.key(seed))[0]


def ticket_of(params=None, stats=None):
    params = initial() if params is None else params
    mask = jt.keep_top(jax.tree.map(jnp.abs, params), masks.ones(params), 30)
    return jt.Ticket(
        mask, masks.apply(mask, params), {} if stats is None else stats, jnp.int32(2), jnp.int32(0)
    )


def assert_same(a, b):
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    chex.assert_trees_all_equal(a, b)


STATS = {
    "none": {},
    "batch": {"batch_stats": {"norm": {"mean": np.arange(3, dtype=np.float32), "n": np.int32(7)}}},
}


@pytest.mark.parametrize("stats", STATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_ticket_comes_back_exactly(tmp_path, stats, dtype):
    params = jax.tree.map(lambda x: x.astype(dtype), initial())
    ticket = ticket_of(params, STATS[stats])
    path = ticket.save(tmp_path / "deep" / "a.safetensors", accuracy=0.9, data="tiny")
    back = jt.Ticket.load(path)
    assert_same(back, ticket)
    assert about(path)["about"] == {"accuracy": 0.9, "data": "tiny"}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"], "nothing temporary stays"


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3), np.bool_(True)], ids=str)
def test_numpy_numbers_may_be_told(tmp_path, value):
    path = ticket_of().save(tmp_path / "a.safetensors", value=value)
    assert about(path)["about"] == {"value": value.item()}


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`about`.*JSON"):
        ticket_of().save(tmp_path / "a.safetensors", what=object())
    assert not list(tmp_path.iterdir())


def test_special_weights_come_back_bit_for_bit(tmp_path):
    special = np.asarray([[np.nan, np.inf], [-0.0, 1e-45]], np.float32)
    mask = {"w": np.ones((2, 2), bool)}
    ticket = jt.Ticket(mask, {"w": special}, {}, np.int32(0), np.int32(0))
    back = jt.Ticket.load(ticket.save(tmp_path / "a.safetensors")).params["w"]
    np.testing.assert_array_equal(back.view(np.uint32), special.view(np.uint32))


def test_only_kept_weights_are_in_the_file(tmp_path):
    ticket = ticket_of()
    loud = masks.map_with(
        lambda m, w: jnp.where(m, w, jnp.nan), ticket.mask, ticket.params, other=lambda w: w
    )
    path = ticket.replace(params=loud).save(tmp_path / "a.safetensors")
    assert_same(jt.Ticket.load(path), ticket)
    kept = {name: x for name, x in load_file(path).items() if name.startswith("kept/")}
    assert sum(x.size for name, x in kept.items() if "kernel" in name) == 30
    assert all(np.isfinite(x).all() for x in kept.values())


def nested_net():
    def init(key):
        first, second = jax.random.split(key)
        layers = [
            (jax.random.normal(first, (8, 6)), jnp.zeros(6)),
            (jax.random.normal(second, (6, 3)), jnp.zeros(3)),
        ]
        return layers, ({"seen": jnp.zeros(2)}, [jnp.zeros(1)])

    def apply(params, stats, x, *, train):
        for i, (w, b) in enumerate(params):
            x = x.reshape(x.shape[0], -1) @ w + b[None]
            x = jnp.tanh(x) if i == 0 else x
        return x, stats

    return jt.from_functions(init, apply, name="nested", shape=SHAPE, syncs_stats=True)


@pytest.mark.parametrize("by_seed", [False, True], ids=["weights", "seed"])
def test_lists_and_tuples_come_back_with_their_network(tmp_path, by_seed):
    net = nested_net()
    params, stats = net.init(stream(jax.random.key(5), "init"))
    ticket = ticket_of(params, stats)
    path = ticket.save(tmp_path / "a.safetensors", net=net, seed=5 if by_seed else None)
    assert_same(jt.Ticket.load(path, net=net), ticket)


def test_by_seed(tmp_path):
    ticket = ticket_of()
    path = ticket.save(tmp_path / "seed.safetensors", net=net_of(), seed=3)
    assert_same(jt.Ticket.load(path, net=net_of()), ticket)
    assert about(path)["seed"] == 3
    assert about(path)["net"] == json.loads(net_of().config)
    assert not [name for name in load_file(path) if name.startswith("kept/")]
    with pytest.raises(ValueError, match=r"stores a seed, not weights: pass `net`"):
        jt.Ticket.load(path)


def test_another_seed_is_refused_when_saving(tmp_path):
    with pytest.raises(ValueError, match=r"`seed` 4 does not give this ticket's weights"):
        ticket_of().save(tmp_path / "a.safetensors", net=net_of(), seed=4)
    trained = ticket_of(jax.tree.map(lambda x: x * jnp.float32(1.5), initial()))
    with pytest.raises(ValueError, match=r"`seed` 3 does not give this ticket's weights"):
        trained.save(tmp_path / "a.safetensors", net=net_of(), seed=3)
    with pytest.raises(ValueError, match=r"`seed` needs `net`"):
        ticket_of().save(tmp_path / "a.safetensors", seed=3)
    assert not list(tmp_path.iterdir())


def test_other_draws_from_a_seed_are_refused_when_loading(tmp_path):
    """A machine whose generator draws other numbers must not give another ticket."""
    path = ticket_of().save(tmp_path / "a.safetensors", net=net_of(), seed=3)
    other = jt.networks.lenet(SHAPE, 3, (6,), init="kaiming_normal")
    with pytest.raises(ValueError, match=r"stores seed 3, but this machine draws other weights"):
        jt.Ticket.load(path, net=other)


def test_tickets_of_a_search_can_be_saved_by_seed(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, *SHAPE)).astype(np.float32), np.arange(12) % 3
    data = jt.data.from_arrays(x, y, x, y, name="tiny")
    training = jt.Training(steps=2, batch_size=4, eval_every=2)
    pruning = jt.Pruning(levels=1)
    runs = jt.find_tickets(net_of(), data, training, pruning, seeds=[3, 8], progress=False)
    for replica, seed in enumerate((3, 8)):
        ticket = jax.tree.map(lambda x, r=replica: x[1, r], runs.tickets)
        path = ticket.save(tmp_path / f"{seed}.safetensors", net=net_of(), seed=seed)
        assert_same(jt.Ticket.load(path, net=net_of()), ticket)


def test_stacked_tickets_are_refused(tmp_path):
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), ticket_of())
    with pytest.raises(ValueError, match=r"`save` takes one ticket, this one is stacked \(2,\)"):
        stacked.save(tmp_path / "a.safetensors")


def test_another_network_is_refused_with_its_layers(tmp_path):
    path = ticket_of().save(tmp_path / "a.safetensors", net=net_of())
    said = r"`net` has other params.*dense_1/bias \(5,\) \(the ticket has \(3,\)\).*dense_2/bias"
    with pytest.raises(ValueError, match=said):
        jt.Ticket.load(path, net=net_of((6, 5)))
    with pytest.raises(ValueError, match=r"dense_0/bias \(7,\).*dense_0/kernel.*dense_1/kernel"):
        jt.Ticket.load(path, net=net_of((7,)))
    deeper = ticket_of(net_of((6, 5)).init(jax.random.key(0))[0])
    path = deeper.save(tmp_path / "b.safetensors", net=net_of((6, 5)))
    with pytest.raises(ValueError, match=r"dense_2/kernel none \(the ticket has it\)"):
        jt.Ticket.load(path, net=net_of())


def test_layers_that_fit_another_network_are_taken_where_asked(tmp_path):
    own, to = ticket_of(), net_of((6, 5))
    path = own.save(tmp_path / "a.safetensors", net=net_of())
    with pytest.warns(
        UserWarning, match=r"reinitialized and not pruned: dense_1/bias, dense_1/ker"
    ):
        found = jt.Ticket.load(path, net=to, fresh=jax.random.key(7))
    drawn = jax.jit(lambda key: to.init(stream(key, "init")))(jax.random.key(7))[0]
    for tree, like in ((found.mask, own.mask), (found.params, own.params)):
        assert_same(tree["dense_0"], like["dense_0"])
    for layer in ("dense_1", "dense_2"):
        assert_same(found.params[layer], drawn[layer])
        assert found.mask[layer]["kernel"].all() and found.mask[layer]["bias"] is None
    assert_same(jt.Ticket.load(path, net=net_of(), fresh=jax.random.key(7)), own)
    by_seed = ticket_of().save(tmp_path / "c.safetensors", net=net_of(), seed=3)
    with pytest.raises(ValueError, match="stores a seed of the network"):
        jt.Ticket.load(by_seed, net=to, fresh=jax.random.key(7))
    with pytest.raises(ValueError, match="`fresh` needs `net`"):
        jt.Ticket.load(path, fresh=jax.random.key(7))


def test_a_network_that_no_pruned_layer_fits_is_refused(tmp_path):
    path = ticket_of().save(tmp_path / "a.safetensors", net=net_of())
    # the bias of the output layer would fit
    with pytest.raises(ValueError, match=r"`net` .*no prunable layer of the ticket.*dense_0/bias"):
        jt.Ticket.load(path, net=net_of((7,)), fresh=jax.random.key(7))


def kernel_net(shape):
    def init(key):
        return {"w": jax.random.normal(key, shape)}, {}

    def apply(params, stats, x, *, train):
        return x.reshape(len(x), -1)[:, :1] * params["w"].sum(), stats

    return jt.from_functions(init, apply, name="kernel", shape=SHAPE, syncs_stats=True)


def test_leading_axes_are_those_of_stacked_tickets_alone(tmp_path):
    params, _ = kernel_net((3, 3, 2, 6)).init(jax.random.key(0))
    mask = {"w": np.ones((3, 3, 2, 6), bool)}
    ticket = jt.Ticket(mask, params, {}, np.int32(0), np.int32(0))
    path = ticket.save(tmp_path / "a.safetensors")
    assert_same(jt.Ticket.load(path, net=kernel_net((3, 3, 2, 6))), ticket)
    with pytest.raises(ValueError, match=r"w \(2, 6\) \(the ticket has \(3, 3, 2, 6\)\)"):
        jt.Ticket.load(path, net=kernel_net((2, 6)))
    # stacked over [level, replica]
    stacked = ticket.replace(level=np.zeros((3, 3), np.int32), step=np.zeros((3, 3), np.int32))
    back = unpack(pack(stacked), like=kernel_net((2, 6)).init(jax.random.key(0)))
    assert back.params["w"].shape == (3, 3, 2, 6)


def test_layers_are_shown_in_natural_order_and_in_letters_of_the_terminal(tmp_path, monkeypatch):
    names = [f"conv_{i}" for i in (0, 1, 2, 10, 11)]
    params = {name: {"kernel": np.ones((2, 3), np.float32)} for name in names}
    mask = jax.tree.map(lambda x: x > 0, params)
    ticket = jt.Ticket(mask, params, {}, np.int32(0), np.int32(0))
    path = ticket.save(tmp_path / "a.safetensors", data="mine")
    for encoding, letter in (("ascii", "#"), ("latin-1", "#"), ("utf-8", "█")):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", out)
        main(["show", str(path)])
        out.flush()
        lines = out.buffer.getvalue().decode(encoding).splitlines()
        bars = [line for line in lines if line.startswith("conv_")]
        assert [line.split("/")[0] for line in bars] == names
        assert all(line.count(letter) == 40 for line in bars)
        assert any("license not known" in line for line in lines)


def test_a_run_says_what_is_needed_to_use_its_tickets_elsewhere(tmp_path, capsys):
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, (9,))
    training = jt.Training(steps=4, batch_size=8, eval_every=4)
    runs = jt.find_tickets(net, data, training, jt.Pruning(levels=1, fraction=0.5, rewind=2),
                           seeds=[3, 8], folder=tmp_path, progress=False)  # fmt: skip
    path = tmp_path / "tickets" / "ticket-level-01-seed-8.safetensors"
    said = about(path)["about"]
    rows = runs.table().query("seed == 8 and level == 1 and step == 4 and split == 'test'")
    accuracy = rows[rows["metric"] == "accuracy"]["value"].item()
    assert said["accuracy"] == pytest.approx(accuracy)
    assert said["density"] == pytest.approx(runs.densities[1])
    assert (said["data"], said["fingerprint"]) == ("digits", data.fingerprint)
    assert said["licence"] == data.about["licence"]
    main(["show", str(path)])
    lines = capsys.readouterr().out.splitlines()
    shown = "\n".join(lines)
    for text in (
        "digits",
        "CC BY 4.0",
        "at step 2 of the schedule",
        "50%",
        f"{100 * accuracy:.2f}%",
        "lenet",
    ):
        assert text in shown
    mask = runs.ticket(1, 8).mask
    for name in ("dense_0", "dense_1"):
        (line,) = [line for line in lines if line.startswith(f"{name}/kernel")]
        share = np.mean(mask[name]["kernel"])
        assert f"{100 * share:.1f}%" in line and line.count("█") == round(40 * share)
        assert f"{np.count_nonzero(mask[name]['kernel']):,}" in line
    odd = ticket_of().save(tmp_path / "odd.safetensors", pruning="by hand", accuracy={"test": 0.9},
                           density="5%", fingerprint=7)  # fmt: skip
    main(["show", str(odd)])
    assert "by hand" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["show", str(tmp_path / "no.safetensors")])
    assert "is no file" in capsys.readouterr().err


def test_a_preset_is_known_by_its_network_data_and_training():
    p = jt.preset("lenet-mnist")
    assert preset_of(p.net(), "mnist", p.training) == "lenet-mnist"
    watched = {"eval_every": 7, "eval_batch_size": 50, "eval_train_examples": 10,
               "compute_dtype": "bfloat16", "precision": "default"}  # fmt: skip
    assert preset_of(p.net(), "mnist", p.training.replace(**watched)) == "lenet-mnist"
    assert preset_of(p.net(), "digits", p.training) is None
    assert preset_of(p.net(), "mnist", p.training.replace(lr=0.7)) is None
    assert preset_of(p.net().resized(0.5), "mnist", p.training) is None


@pytest.mark.parametrize(("lr", "named"), [(1.2e-3, True), (0.7, False)])
def test_show_names_the_preset_of_a_ticket_and_of_where_it_was_found(tmp_path, capsys, lr, named):
    p = jt.preset("lenet-mnist")
    net = p.net()
    params, stats = net.init(jax.random.key(0))
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    ticket = jt.Ticket(mask, params, stats, 1, 0)
    setting = {"data": "mnist", "training": jt.results.plain(p.training.replace(lr=lr))}
    source = {**setting, "net": json.loads(net.config), "rewind_step": 0}
    path = ticket.save(tmp_path / "a.safetensors", net=net, **setting, found_in=source)
    main(["show", str(path)])
    assert capsys.readouterr().out.count("lenet-mnist") == 2 * named


def test_another_network_is_refused_when_saving(tmp_path):
    with pytest.raises(ValueError, match=r"`net` .*'dense_2/bias'"):
        ticket_of().save(tmp_path / "a.safetensors", net=net_of((6, 5)))
    with pytest.raises(ValueError, match=r"`net` has shape .* at 'dense_0/bias'"):
        ticket_of().save(tmp_path / "a.safetensors", net=net_of((7,)), seed=3)


def test_a_flipped_byte_anywhere_is_refused(tmp_path):
    """Either refused, or of no account: never another ticket."""
    mask = {"w": np.asarray([[True, False, True]])}
    weights = {"w": np.asarray([[1.0, 0.0, -2.0]], np.float32)}
    ticket = jt.Ticket(mask, weights, {}, np.int32(1), np.int32(0))
    path = ticket.save(tmp_path / "a.safetensors", note="n")
    good, told = path.read_bytes(), about(path)
    refused = 0
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 0x15
        path.write_bytes(bad)
        try:
            back, says = jt.Ticket.load(path), about(path)
        except ValueError as error:
            assert "`path`" in str(error), f"byte {place}: {error}"
            refused += 1
        else:
            assert_same(back, ticket)
            assert says == told
    assert refused > len(good) / 2


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999], ids=str)
def test_a_truncated_file_is_refused(tmp_path, share):
    path = ticket_of().save(tmp_path / "a.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"`path` .* is no ticket file or is damaged"):
        jt.Ticket.load(path)


def test_changed_contents_are_refused_by_the_checksum(tmp_path):
    """Rewritten as a whole and correct file, but with one bit of the mask turned."""
    path = ticket_of().save(tmp_path / "a.safetensors")
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    turned = {**arrays, "mask/dense_0/kernel": arrays["mask/dense_0/kernel"] ^ np.uint8(1)}
    for changed in ((turned, metadata), (arrays, {**metadata, "about": '{"accuracy": 1.0}'})):
        save_file(changed[0], path, changed[1])
        with pytest.raises(ValueError, match=r"is damaged .its checksum does not fit"):
            jt.Ticket.load(path)
    save_file(arrays, path, metadata)
    assert_same(jt.Ticket.load(path), ticket_of())


def header(**fields):
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)


class Trap:
    """Fails the test if anything unpickles it."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda p: np.savez(p, x=np.zeros(3)), "is no ticket file or is damaged"),
        (lambda p: np.savez(p, header=header(format="other")), "is no file of format"),
        (lambda p: np.savez(p, header=np.zeros(3, np.uint8)), "is no ticket file or is damaged"),
        (lambda p: np.savez(p, header=header(format="jaxticket ticket 1")), "checksum"),
        (lambda p: np.savez(p, header=np.frombuffer(b"[1]", np.uint8)), "is no file of format"),
        (lambda p: p.write_bytes(pickle.dumps(Trap())), "is no ticket file or is damaged"),
        (
            lambda p: np.savez(p, header=np.asarray([Trap()], object)),
            "is no ticket file or is damaged",
        ),
        (lambda p: p.write_text("hello"), "is no ticket file or is damaged"),
        (lambda p: save_file({"x": np.zeros(3)}, p), "is no file of format 'jaxticket ticket 2'"),
        (
            lambda p: save_file({"x": np.zeros(3)}, p, {"net": "{"}),
            "is no ticket file or is damaged",
        ),
        (
            lambda p: save_file({"x": np.zeros(3)}, p, {"format": "jaxticket ticket 2"}),
            "checksum",
        ),
        (lambda p: p.mkdir(), "is no file"),
        (lambda p: None, "is no file; tickets lie in"),
    ],
    ids=[
        "npz",
        "format",
        "header",
        "no_checksum",
        "list",
        "pickle",
        "object",
        "text",
        "weights",
        "metadata",
        "unchecked",
        "folder",
        "missing",
    ],
)
def test_foreign_files_are_refused(tmp_path, write, message):
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(ValueError, match=message):
        jt.Ticket.load(path)


def test_a_single_array_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match="is no ticket file or is damaged"):
        jt.Ticket.load(path)


def test_a_stopped_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = ticket_of().save(tmp_path / "a.safetensors", note="old")
    old = path.read_bytes()

    def fail(*args):
        raise OSError("no space")

    monkeypatch.setattr("jaxticket.ticket.os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        ticket_of().save(path, note="new")
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_tickets_of_version_0_1_are_read(capsys):
    """An .npz file that 0.1 wrote."""
    path = Path(__file__).parent / "ticket-0.1.npz"
    mask = {
        "dense_0": {"bias": np.ones(2, bool), "kernel": np.eye(3, 2, dtype=bool)},
        "layers": {0: {"w": np.asarray([True, False, True])}},
    }
    eighths = jax.tree.map(
        lambda m: np.arange(1, 1 + m.size, dtype=np.float32).reshape(m.shape) / 8, mask
    )
    params = jax.tree.map(lambda m, x: np.where(m, x, np.float32(0)), mask, eighths)
    stats = {"norm": {"mean": np.asarray([0.5, -0.25], np.float32)}}
    assert_same(jt.Ticket.load(path), jt.Ticket(mask, params, stats, np.int32(3), np.int32(20)))
    assert about(path)["about"] == {"accuracy": 0.5, "data": "tiny"}
    main(["show", str(path)])
    assert "dense_0/kernel" in capsys.readouterr().out


def full_ticket(*, pruned_bias=False):
    """A ticket as of version 0.1, with bools at every leaf."""
    ticket = ticket_of()
    mask = masks.map_with(
        lambda m, w: m, ticket.mask, ticket.params, other=lambda w: np.ones(w.shape, bool)
    )
    if pruned_bias:
        mask["dense_0"]["bias"] = np.arange(6) > 0
    return ticket.replace(mask=mask)


def test_what_cannot_be_pruned_has_no_bits_and_full_masks_become_such_with_their_network(tmp_path):
    path = ticket_of().save(tmp_path / "new.safetensors", net=net_of())
    bits = [name for name in load_file(path) if name.startswith("mask/")]
    assert sorted(bits) == ["mask/dense_0/kernel", "mask/dense_1/kernel"]
    assert sorted(layer_masks(path)) == ["dense_0/kernel", "dense_1/kernel"]
    assert_same(jt.Ticket.load(path), ticket_of())
    old = full_ticket().save(tmp_path / "old.safetensors")
    assert_same(jt.Ticket.load(old), full_ticket())
    assert float(jt.density(jt.Ticket.load(old).mask)) == float(jt.density(ticket_of().mask))
    assert_same(jt.Ticket.load(old, net=net_of()), ticket_of())
    odd = full_ticket(pruned_bias=True).save(tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="prunes dense_0/bias, which cannot be pruned here"):
        jt.Ticket.load(odd, net=net_of())
    # what a run excluded from pruning stays None
    excluded = ticket_of().replace(mask=net_of().mask(("dense_1",)), params=initial())
    path = excluded.save(tmp_path / "excluded.safetensors", net=net_of())
    assert_same(jt.Ticket.load(path, net=net_of()), excluded)


def test_other_tools_read_the_metadata_and_the_weights(tmp_path):
    path = ticket_of().save(tmp_path / "a.safetensors", net=net_of(), accuracy=0.9)
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        kept = file.get_tensor("kept/dense_0/kernel")
        bits = file.get_tensor("mask/dense_0/kernel")
    assert json.loads(metadata["about"]) == {"accuracy": 0.9}
    assert json.loads(metadata["net"]) == json.loads(net_of().config)
    ticket = ticket_of()
    mask = np.asarray(ticket.mask["dense_0"]["kernel"])
    np.testing.assert_array_equal(np.unpackbits(bits, count=mask.size).reshape(mask.shape), mask)
    np.testing.assert_array_equal(kept, np.asarray(ticket.params["dense_0"]["kernel"])[mask])


def test_files_of_one_ticket_are_equal(tmp_path):
    files = [
        ticket_of().save(tmp_path / name, net=net_of(), accuracy=0.9, data="tiny", seed=3)
        for name in ("a.safetensors", "b.safetensors")
    ]
    first, second = (path.read_bytes() for path in files)
    assert first == second
