"""jt.search: masks learned on small networks, and what is trained of them."""

import dataclasses
import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import equal, initial, noisy_patterns
from safetensors.numpy import load_file
from stops import after_save, killed

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.engine.program import program
from jaxticket.sparsify.learned import (
    OBJECTIVES,
    Concrete,
    DenseSized,
    GradBalance,
    Lagrangian,
    Method,
    OfTeacher,
    Schedule,
    View,
)
from jaxticket.sparsify.learned.learner import ScoreLearner
from jaxticket.sparsify.learned.objectives import Outputs

STEPS, LENGTH = 20, 24
TRAINING = jt.Training(
    steps=STEPS, batch_size=16, optimizer="momentum", lr=0.05, milestones=(15,), eval_every=10
)
P = 25 * 12 + 12 * 3
# most searches here are at step 0, whatever they learn
pytestmark = pytest.mark.filterwarnings("ignore:.*learns what the dense network answers")


@pytest.fixture(scope="module")
def data():
    return noisy_patterns()


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, 3, (12,), init="signed_constant")


@pytest.fixture(scope="module")
def mesh():
    return parallel.mesh(devices=jax.devices()[:2])


@pytest.fixture(scope="module")
def find(net, data, mesh):
    def run(method="concrete", **options):
        options = {
            "density": (0.5, 0.1), "seeds": (3, 5), "mesh": mesh, "steps": LENGTH,
            "progress": False, "net": net, "data": data, "training": TRAINING, **options,
        }  # fmt: skip
        given = (options.pop(name) for name in ("net", "data", "training"))
        return jt.search(*given, method, **options)

    return run


QUICK = {
    "concrete": jt.SEARCHES["concrete"](),
    "stochastic": jt.SEARCHES["stochastic"](),
    "edge_popup": jt.SEARCHES["edge_popup"](),
    "edge_popup_global": jt.SEARCHES["edge_popup"](scope="global"),
    "gem_miner": jt.SEARCHES["gem_miner"](freezings=4),
    "continuous": jt.SEARCHES["continuous"](rounds=2, lr=0.01),
    "kd_lts": jt.SEARCHES["kd_lts"](epochs=6, freeze_every=2),
}


# what all methods have in common is tested with two that share no part, and with all if asked to
SOME = ("concrete", "gem_miner")


@pytest.fixture(
    scope="module",
    params=[p if p in SOME else pytest.param(p, marks=pytest.mark.slow) for p in QUICK],
)
def method(request):
    return QUICK[request.param]


@pytest.fixture(scope="module")
def runs(find, method):
    return find(method)


def leaves(runs, level):
    return jax.tree.leaves(runs.by_level[level].mask)


def test_counts_are_exact(runs, method):
    for level, density in ((1, 0.5), (2, 0.1)):
        mask = runs.by_level[level].mask
        kernels = [mask[f"dense_{i}"]["kernel"].reshape(2, -1).sum(1) for i in range(2)]
        if method.scope == "layer":
            assert (kernels[0] == int(np.ceil(300 * density))).all()
            assert (kernels[1] == int(np.ceil(36 * density))).all()
        else:
            assert (kernels[0] + kernels[1] == round(density * P)).all()
        assert all(mask[f"dense_{i}"]["bias"] is None for i in range(2))


def test_tickets_hold_the_weights_of_initialization(runs, net, method):
    height = method.relaxation.height if method.scaled_tickets else 1.0
    for level, replica in itertools.product((1, 2), (0, 1)):
        ticket = runs.ticket(level, runs.seeds[replica])
        dense = masks.apply(ticket.mask, initial(net, runs.seeds[replica])[0])
        scaled = masks.map_with(lambda m, w: w * height, ticket.mask, dense, other=lambda w: w)
        equal(ticket.params, scaled)


def test_the_table_has_supermasks_and_what_they_become(runs):
    final = jt.speed.final(runs.table()).groupby(["branch", "level"])["value"].mean()
    assert set(final.index) == {
        ("ticket", 0), ("ticket", 1), ("ticket", 2), ("supermask", 1), ("supermask", 2)
    }  # fmt: skip
    table = runs.table().query("split == 'test' and metric == 'loss'")
    before = table.query("branch == 'supermask'").set_index(["level", "seed"])["value"]
    first = table.query("branch == 'ticket' and step == 0 and level > 0")
    first = first.set_index(["level", "seed"])["value"]
    # without statistics a supermask is a ticket before its training
    np.testing.assert_allclose(before.sort_index(), first.sort_index(), rtol=1e-5)
    assert (runs.table().query("branch == 'supermask'")["step"] == 0).all()


def test_the_trace_tells_how_the_search_went(runs, method):
    trace = runs.trace()
    assert set(trace["level"]) == {1, 2}
    assert set(trace["seed"]) == {3, 5}
    assert trace["step"].min() == 0
    assert trace["step"].max() == LENGTH
    if isinstance(method.relaxation, Concrete):
        start = trace[trace["step"] == 0]
        np.testing.assert_allclose(start["expected"], start["density"], rtol=0.02)


def test_seeds_alone_and_few_at_once_find_the_same(runs, find, method):
    alone = find(method, seeds=(5,), density=0.1, dense=False)
    equal(alone.ticket(1, 5), runs.ticket(2, 5).replace(level=np.int32(1)))
    few = find(method, at_once=1, dense=False, train=False)
    for level in (1, 2):
        equal(leaves(few, level), leaves(runs, level))


def test_replicas_that_run_vmapped_find_the_same(runs, find, method, vmap_replicas):
    vmap_replicas()
    # a mesh of its own, so that no program compiled before is used
    other = parallel.mesh(devices=jax.devices()[2:])
    vmapped = find(method, mesh=other, dense=False, train=False)
    for level in (1, 2):
        for a, b in zip(leaves(vmapped, level), leaves(runs, level), strict=True):
            assert np.mean(a == b) > 0.99


def test_a_data_axis_finds_the_same(runs, find, method):
    split = find(method, mesh=parallel.mesh(seeds=1, data=2, devices=jax.devices()[:2]),
                 dense=False, train=False)  # fmt: skip
    for level in (1, 2):
        for a, b in zip(leaves(split, level), leaves(runs, level), strict=True):
            assert np.mean(a == b) > 0.98


def test_one_program_serves_all_densities_and_lengths_of_rounds(find, net, data, mesh):
    method = jt.SEARCHES["concrete"]("loss", temperature=0.5)
    find(method, train=False, dense=False)
    built = program(ScoreLearner(net, method, method.training(TRAINING, LENGTH)), mesh)
    before = built.traces()
    assert before == 1
    find(method, train=False, dense=False, density=(0.3, 0.7), steps=30)
    assert built.traces() == before


@pytest.mark.parametrize("objective", ["gradient_norm", "feature"])
def test_every_objective_moves_the_scores(find, objective):
    found = find(jt.SEARCHES["concrete"](objective), density=0.3, train=False, dense=False)
    other = find(jt.SEARCHES["concrete"](), density=0.3, train=False, dense=False)
    mask, reverse = leaves(found, 1), leaves(other, 1)
    assert any((a != b).any() for a, b in zip(mask, reverse, strict=True))
    assert np.isfinite(found.trace()["expected"]).all()


def test_scores_that_cannot_be_compared_are_refused(find, data):
    def init(key):
        return {"w": jax.random.normal(key, (25, 3))}, {}

    def apply(params, stats, x, *, train, key=None, axis_name=None):
        del train, key, axis_name
        return x.reshape(x.shape[0], -1) @ params["w"], stats

    plain = jt.from_functions(init, apply, shape=data.shape, name="plain")
    with pytest.raises(ValueError, match="cannot be tapped"):
        find(jt.SEARCHES["concrete"]("feature"), net=plain)


def test_a_gradient_that_is_not_finite_leaves_scores_that_can_be_ranked(find, capsys):
    def odd(view):
        # the root is finite at 0, its slope is not
        return view.loss(view.masked) + jnp.sqrt(0.0 * view.soft["dense_0"]["kernel"]).sum()

    method = Method("odd", Concrete(Schedule(2 / 3)), odd, GradBalance())
    runs = find(method, density=0.1, train=False, dense=False)
    said = capsys.readouterr().out
    assert "the objective was not finite at step 0" in said and "A lower `lr`" in said
    for seed in runs.seeds:
        mask = runs.ticket(1, seed).mask
        assert sum(mask[f"dense_{i}"]["kernel"].sum() for i in range(2)) == round(0.1 * P)


def test_an_update_that_is_not_finite_is_not_made(find, capsys):
    """Not even in the last step, after which no objective would tell."""

    def steep(view):
        return view.loss(view.masked) + 1e30 * view.soft["dense_0"]["kernel"].sum()

    method = Method("steep", Concrete(Schedule(2 / 3)), steep, GradBalance(), (("lr", 1e12),))
    runs = find(method, density=0.1, train=False, dense=False)
    assert "the objective was not finite at step 0" in capsys.readouterr().out
    calm = find(
        Method("still", Concrete(Schedule(2 / 3)), "loss", GradBalance(), (("lr", 1e-30),)),
        density=0.1, train=False, dense=False,
    )  # fmt: skip
    # the scores are those of the beginning
    for seed in runs.seeds:
        equal(runs.ticket(1, seed).mask, calm.ticket(1, seed).mask)
    np.testing.assert_allclose(runs.trace()["expected"], 0.1, rtol=1e-5)


def test_entries_that_were_frozen_stay_out(find):
    """Nested by construction, down to the ticket: fewer freezings see the first ones alike."""
    method = jt.SEARCHES["gem_miner"](freezings=2)
    whole = find(method, density=0.25, steps=16, train=False, dense=False)
    assert all(np.isfinite(whole.trace()["expected"]))
    expected = whole.trace().groupby("step")["expected"].mean()
    # after the first of two freezings half of the entries are left, and count no more
    assert expected.loc[8] <= 0.5
    assert expected.loc[16] <= 0.25


def test_between_rounds_beta_is_that_of_the_next_one(find):
    """Scores at their start, beta 1: an expected half, though beta ended at 200 just before."""
    runs = find(jt.SEARCHES["continuous"](rounds=2, lr=0.0), density=0.3, train=False, dense=False)
    expected = runs.trace().groupby("step")["expected"].mean()
    np.testing.assert_allclose(expected, 0.5, rtol=1e-6)
    raised = jt.SEARCHES["continuous"](rounds=2, lr=0.0, start=0.02)
    trace = find(raised, density=0.3, train=False, dense=False).trace().groupby("step")
    expected = trace["expected"].mean()
    first, last = (1 / (1 + np.exp(-beta * 0.02)) for beta in (1, 200))
    np.testing.assert_allclose(expected[[0, LENGTH // 2, LENGTH]], [first, first, last], rtol=1e-5)


def test_tickets_near_initialization(find):
    runs = find(start=8, density=0.3, branches=("shuffle", "reinit"))
    ticket = runs.by_level[1]
    assert (np.asarray(ticket.step) == 8).all()
    equal(ticket.params, masks.apply(ticket.mask, runs.origin.params))
    steps = runs.table().groupby(["branch", "level"])["step"].min()
    assert steps["ticket", 1] == steps["supermask", 1] == steps["shuffle", 1] == 8
    assert steps["reinit", 1] == 0
    cost = jt.costs.finding(runs).set_index("level").loc[1]
    assert cost["training_steps"] == 8 + LENGTH
    # dense and masked forward, masked backward, twice the operations of a forward pass
    forward = jt.layers.cost(runs.net)["flops"]
    steps_alone = cost["flops"] - 8 * 16 * 3 * forward
    # the first layer's input needs no gradient
    assert 3 * forward < steps_alone / (LENGTH * 16) <= 4 * forward


@pytest.mark.slow
def test_batch_statistics_of_supermasks_are_their_own(data, mesh):
    net = jt.NETWORKS["resnet20"]((8, 8, 1), 3, depth=8, width=0.25)
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = (40 * y[:, None, None] + rng.integers(0, 60, (60, 8, 8))).astype(np.uint8)
    small = jt.data.from_arrays(x[:45], y[:45], x[45:], y[45:], classes=3)
    training = dataclasses.replace(TRAINING, eval_batch_size=15)
    runs = jt.search(net, small, training, "edge_popup", density=0.5, seeds=(0,), steps=6,
                     train=False, dense=False, mesh=mesh, progress=False)  # fmt: skip
    ticket = runs.ticket(1, 0)
    # what is evaluated has statistics re-estimated, what is trained those of initialization
    equal(ticket.stats, jax.tree.map(lambda x: x[0], runs.origin.stats))
    rows = runs.table().query("branch == 'supermask' and metric == 'loss' and split == 'test'")
    mean, std = np.asarray(small.mean), np.asarray(small.std)
    x, trained = ((part.x.astype(np.float32) - mean) / std for part in (small.test, small.train))

    @jax.jit
    def averaged(stats):
        """Running averages over the training examples, until they are those of the batches."""
        for first in range(0, 45, 15):
            own = jnp.asarray(trained[first : first + 15])
            stats = net.apply(ticket.params, stats, own, train=True)[1]
        return stats

    stats = ticket.stats
    for _ in range(200):
        stats = averaged(stats)
    losses = []
    for at in (ticket.stats, stats):
        z = jax.nn.log_softmax(net.apply(ticket.params, at, jnp.asarray(x), train=False)[0])
        losses.append(-float(z[np.arange(15), small.test.y].mean()))
    np.testing.assert_allclose(rows["value"], losses[1], rtol=0.02)
    assert abs(losses[0] - losses[1]) > 0.05 * losses[1]


@pytest.mark.parametrize("death", range(1, 4))
def test_a_search_that_died_goes_on(find, tmp_path, death):
    method = QUICK["gem_miner"]
    whole = find(method)
    with killed(death):
        find(method, folder=tmp_path / "run", save_every=0)
    again = find(method, folder=tmp_path / "run", save_every=0)
    equal(dict(again.by_level), dict(whole.by_level))
    assert again.table().equals(whole.table())
    assert again.trace().equals(whole.trace())
    assert (tmp_path / "run" / "trace.csv").exists()


def test_another_method_is_refused_in_the_same_folder(find, tmp_path):
    options = {"folder": tmp_path / "run", "density": 0.5, "train": False, "dense": False}
    find(**options)
    with pytest.raises(ValueError, match=r"objective"):
        find(jt.SEARCHES["concrete"]("loss"), **options)
    with pytest.raises(ValueError, match=r"constraint"):
        find(jt.SEARCHES["concrete"](constraint=Lagrangian()), **options)


def test_sigterm_is_heard(find, tmp_path):
    told = after_save(1, lambda: signal.raise_signal(signal.SIGTERM))
    with told, pytest.raises(jt.RunInterrupted):
        find(folder=tmp_path / "run", save_every=0)


# ---- what searches find


@pytest.fixture(scope="module")
def separable():
    """Two classes told apart by four of twelve inputs, through weights of which half have the wrong
    sign: a mask of four can be found by trying all.
    """
    rng = np.random.default_rng(2)
    y = np.arange(400) % 2
    x = rng.integers(100, 156, (400, 1, 12))
    for i in range(4):
        x[:, 0, i] += np.where(y == 1, 60, -60)
    x = np.clip(x, 0, 255).astype(np.uint8)[..., None]
    data = jt.data.from_arrays(x[:300], y[:300], x[300:], y[300:], classes=2)
    signs = jnp.where(jnp.arange(12) % 2 == 0, 1.0, -1.0)

    def init(key):
        del key
        return {"w": jnp.stack([-signs, signs], axis=1)}, {}

    def apply(params, stats, x, *, train, key=None, axis_name=None):
        del train, key, axis_name
        return x.reshape(x.shape[0], -1) @ params["w"], stats

    net = jt.from_functions(init, apply, shape=data.shape, name="separable")
    x = (data.train.x.reshape(300, 12) - np.asarray(data.mean)) / np.asarray(data.std)
    weights = np.stack([-signs, signs], axis=1)
    best, loss = None, np.inf
    for chosen in itertools.combinations(range(24), 4):
        mask = np.zeros(24)
        mask[list(chosen)] = 1
        z = x @ (mask.reshape(12, 2) * weights)
        own = np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(300), data.train.y])
        if own < loss - 1e-9:
            best, loss = set(chosen), own
    return net, data, best


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("concrete", jt.SEARCHES["concrete"]("loss", lr=0.1)),
        ("lagrangian", jt.SEARCHES["concrete"]("loss", lr=0.1, constraint=Lagrangian(0.1))),
        ("stochastic", jt.SEARCHES["stochastic"](lr=1.0)),
        ("edge_popup", jt.SEARCHES["edge_popup"]()),
        pytest.param("global", jt.SEARCHES["edge_popup"](scope="global"), marks=pytest.mark.slow),
        ("gem_miner", jt.SEARCHES["gem_miner"](freezings=10)),
    ],
)
def test_the_best_mask_is_found(separable, name, method):
    net, data, best = separable
    training = jt.Training(steps=400, batch_size=50, optimizer="sgd", lr=0.1, eval_every=400)
    steps = 400 if "popup" not in method.name else 100
    runs = jt.search(net, data, training, method, density=4 / 24, seeds=range(2), steps=steps,
                     train=False, dense=False, progress=False)  # fmt: skip
    for seed in range(2):
        kept = set(np.flatnonzero(runs.ticket(1, seed).mask["w"]))
        assert kept == best, (name, kept, best)


@pytest.mark.parametrize("rounds", [1, 2])
def test_continuous_sparsification_keeps_what_has_the_right_sign(separable, rounds):
    """Of the weights of informative inputs, soft masks turn off those that would have to cross 0
    before the weights can cross it.
    """
    _, data, _ = separable
    net = jt.networks.lenet(data.shape, 2, ())
    training = jt.Training(steps=400, batch_size=50, optimizer="sgd", lr=0.1, eval_every=400)
    method = jt.SEARCHES["continuous"](rounds=rounds)
    runs = jt.search(net, data, training, method, density=8 / 24, seeds=range(3), steps=800,
                     train=False, dense=False, progress=False)  # fmt: skip
    for replica, seed in enumerate(runs.seeds):
        kept = runs.ticket(1, seed).mask["dense_0"]["kernel"][:4]
        weights = np.asarray(runs.origin.params["dense_0"]["kernel"])[replica, :4]
        right = np.sign(weights) == np.array([-1, 1])
        np.testing.assert_array_equal(kept, right)


def test_continuous_sparsification_trains_weights_as_training_does_or_as_the_paper():
    training = jt.Training(steps=40, optimizer="adam", lr=0.01, weight_decay=0.1, warmup=5)
    own = jt.SEARCHES["continuous"]().training(training, 40)
    assert (own.optimizer, own.lr, own.weight_decay, own.warmup) == ("adam", 0.01, 0.1, 0)
    paper = jt.SEARCHES["continuous"](lr=0.1).training(training, 40)
    assert (paper.optimizer, paper.lr, paper.weight_decay) == ("momentum", 0.1, 1e-4)
    assert (paper.momentum, paper.nesterov, paper.milestones) == (0.9, True, (26, 33))
    clipped = jt.SEARCHES["continuous"](clip_norm=0.5).training(training, 40)
    assert (clipped.clip_norm, paper.clip_norm) == (0.5, None)
    # weights that stay as they are do not decay
    assert jt.SEARCHES["edge_popup"]().training(training, 40).weight_decay != 0.1


def test_clipped_continuous_sparsification_converges_where_it_diverges_otherwise(find, capsys):
    fast = TRAINING.replace(optimizer="sgd", lr=30.0, milestones=())
    said = []
    for clip_norm in (None, 0.01):
        method = jt.SEARCHES["continuous"](clip_norm=clip_norm)
        find(method, training=fast, density=0.3, train=False, dense=False)
        said.append("was not finite" in capsys.readouterr().out)
    assert said == [True, False]


@pytest.mark.parametrize("density", [0.3, 0.05])
def test_grad_balance_holds_the_density_near_its_target(find, density):
    method = Method(
        "held", Concrete(Schedule(2 / 3)), "loss", GradBalance(),
        optimizer=(("optimizer", "adam"), ("lr", 0.1)), augment=False,
    )  # fmt: skip
    training = TRAINING.replace(steps=2000, milestones=(), eval_every=50)
    runs = find(method, training=training, steps=2000, density=density, train=False, dense=False)
    trace = runs.trace()
    last = trace[trace["step"] >= 1800]["expected"]
    np.testing.assert_allclose(last, 1.1 * density, rtol=0.1)


def test_supermasks_of_signed_constants_are_saved_as_bits_and_a_seed(find, net, tmp_path):
    runs = find("edge_popup", density=0.3, dense=False, train=False, folder=tmp_path / "run")
    path = tmp_path / "run" / "tickets" / "ticket-level-01-seed-5.safetensors"
    assert not [name for name in load_file(path) if name.startswith("kept/")]
    loaded = jt.Ticket.load(path, net=net)
    equal(loaded, runs.ticket(1, 5))
    with pytest.raises(ValueError, match="stores a seed"):
        jt.Ticket.load(path)
    # other initializers draw numbers that differ between backends: their weights are kept
    other = jt.networks.lenet(net.shape, 3, (12,))
    find("edge_popup", net=other, density=0.3, dense=False, train=False, folder=tmp_path / "o")
    path = tmp_path / "o" / "tickets" / "ticket-level-01-seed-5.safetensors"
    assert [name for name in load_file(path) if name.startswith("kept/")]


def test_rescaled_tickets_start_from_rescaled_weights(find, net):
    method = jt.SEARCHES["stochastic"](rescale=True, lr=1.0)
    runs = find(method, density=0.25, branches=("shuffle",), dense=False)
    ticket, dense = runs.ticket(1, 3), initial(net, 3)[0]
    for name in ("dense_0", "dense_1"):
        mask, kernel = ticket.mask[name]["kernel"], ticket.params[name]["kernel"]
        np.testing.assert_allclose(
            kernel, mask * dense[name]["kernel"] * mask.size / mask.sum(), rtol=1e-6
        )
    # a mask that was moved finds the weights of its layer rescaled too
    for change in ("shuffle", "retrain"):
        again = jt.branch(runs, change, progress=False)
        moved = again.ticket(1, 3)
        mask, kernel = moved.mask["dense_0"]["kernel"], moved.params["dense_0"]["kernel"]
        factor = mask.size / mask.sum()
        np.testing.assert_allclose(kernel, mask * dense["dense_0"]["kernel"] * factor, rtol=1e-6)
        table = runs.table().query("step == @STEPS and level == 1")
        first = table[table["branch"] == {"retrain": "ticket"}.get(change, change)]
        last = again.table().query("step == @STEPS")
        np.testing.assert_array_equal(first["value"].to_numpy(), last["value"].to_numpy())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("objective", ["reverse_kl", "forward_kl"])
def test_answers_of_an_untrained_network_are_learned_with_a_warning(find, objective):
    """Not from a later step, nor of a network that is trained first, nor for other objectives."""
    make, quick = jt.SEARCHES["concrete"], {"density": 0.3, "train": False, "dense": False}
    with pytest.warns(UserWarning, match=f"{objective}.*untrained: pass `start`.*target=1.0"):
        untrained = find(make(objective), **quick)
    for other in ("loss", "change_of_loss", "feature"):
        find(make(other), **quick, steps=2)
    find(make(objective), **quick, start=5)
    trained = find(make(objective, target=1.0), **quick)
    pairs = zip(*(jax.tree.leaves(r.by_level[1].mask) for r in (untrained, trained)), strict=True)
    assert any((a != b).any() for a, b in pairs)
    (teachers,) = trained.timings().query("unit == 'teachers'")["training_steps"]
    assert teachers == STEPS
    with pytest.raises(ValueError, match="'loss' compares with no other network"):
        make("loss", target=1.0)
    with pytest.raises(ValueError, match="`target`"):
        make(objective, target=0.0)


def test_a_trained_target_is_what_is_compared_with():
    """The divergence from a teacher is that from a dense network that says the same."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 4)), jnp.float32)
    view = View(
        0, {}, jnp.arange(7) % 4, lambda at: logits[at], None, None, jnp.mean, None,
        Outputs(logits[1]), (Outputs(logits[1]),),
    )  # fmt: skip
    for name in ("reverse_kl", "forward_kl", "change_of_loss"):
        other = view._replace(dense=Outputs())
        assert float(OfTeacher(name)(other)) == float(OBJECTIVES[name](view)) > 0
        assert OfTeacher(name).scale == OBJECTIVES[name].scale


def test_an_objective_of_dense_size_does_not_see_how_large_logits_are():
    """Its value is that of logits multiplied by hand, its gradient that of finite differences."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 4)), jnp.float32)
    view = View(
        {"z": logits[0]}, {}, jnp.arange(7) % 4, lambda params: params["z"], None, None,
        jnp.mean, None, Outputs(logits[1]),
    )  # fmt: skip
    own, other = (float(jnp.std(z - z.mean(axis=1, keepdims=True))) for z in logits)
    right = view._replace(masked={"z": logits[0] * (other / own)})
    for name in ("loss", "reverse_kl", "forward_kl"):
        sized = DenseSized(name)

        def of(z, sized=sized):
            return sized(view._replace(masked={"z": z}))

        np.testing.assert_allclose(of(logits[0]), OBJECTIVES[name](right), rtol=1e-5)
        np.testing.assert_allclose(of(logits[0]), of(1e-3 * logits[0]), rtol=1e-5)
        slope = jax.grad(of)(logits[0])
        assert abs(jnp.vdot(slope, logits[0])) < 1e-5
        # but it sees which logits are large
        step = 0.05 * slope / jnp.linalg.norm(slope)
        difference = (of(logits[0] + step) - of(logits[0] - step)) / 0.1
        np.testing.assert_allclose(difference, jnp.linalg.norm(slope), rtol=1e-2)
    assert DenseSized("loss").needs == ("logits",) and DenseSized("loss").passes == (2, 1)
    assert DenseSized("reverse_kl").passes == (2, 1) and DenseSized("reverse_kl").answers
    for name in ("feature", "gradient_norm", "gradient_matching", OfTeacher("reverse_kl")):
        with pytest.raises(ValueError, match="looks at more than logits"):
            DenseSized(name)
    with pytest.raises(ValueError, match="'loss' compares with no other network"):
        jt.SEARCHES["concrete"]("loss", dense_sized=True, target=1.0)
    with pytest.raises(ValueError, match="`objective` is unknown: 'los'"):
        DenseSized("los")
    with pytest.raises(ValueError, match="`dense_sized` must be True or False"):
        jt.SEARCHES["concrete"]("loss", dense_sized="yes")


def test_searches_of_dense_size_find_other_masks(find):
    """It finds other masks, and takes a trained target too."""
    make = jt.SEARCHES["concrete"]
    options = {"density": 0.1, "train": False, "dense": False, "steps": 40}
    plain, sized = (find(make("loss", dense_sized=s), **options) for s in (False, True))
    pairs = zip(*(jax.tree.leaves(r.by_level[1].mask) for r in (plain, sized)), strict=True)
    assert any((a != b).any() for a, b in pairs)
    taught = find(make("reverse_kl", dense_sized=True, target=0.5), **options)
    assert set(taught.timings()["unit"]) >= {"teachers"}
    pairs = zip(*(jax.tree.leaves(r.by_level[1].mask) for r in (taught, sized)), strict=True)
    assert any((a != b).any() for a, b in pairs)


def test_new_weights_check_tickets_of_a_later_step(find, net):
    """They start at step 0 and train with the whole schedule, under the mask that was found at
    another step.
    """
    runs = find(jt.SEARCHES["concrete"]("loss"), density=0.3, start=5, branches=("reinit",),
                dense=False)  # fmt: skip
    table = runs.table()
    first = {b: rows["step"].min() for b, rows in table.groupby("branch")}
    assert (first["ticket"], first["reinit"]) == (5, 0)
    assert set(table.groupby("branch")["step"].max()) >= {STEPS}
    again = jt.branch(runs, "reinit", progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.by_level[1].mask, runs.by_level[1].mask)
    ends = [
        t.query("branch == 'reinit' and step == @STEPS")["value"] for t in (table, again.table())
    ]
    np.testing.assert_array_equal(*(e.to_numpy() for e in ends))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "concret"}, r"`method` 'concret' is unknown.*concrete"),
        ({"method": 3}, r"`method` must be a name"),
        ({"density": 0.0}, r"density"),
        ({"density": (0.5, 0.5)}, r"`density` must be"),
        ({"start": (0, 5)}, r"`start` must be a whole number"),
        ({"start": STEPS}, r"leaves nothing to train"),
        ({"steps": "soon"}, r"`steps`"),
        ({"train": False, "branches": ("shuffle",)}, r"`branches`.*train=True"),
        ({"exclude": ("nothing",)}, r"`exclude` pattern"),
        ({"seeds": ()}, r"seeds"),
        ({"at_once": 0}, r"`at_once`"),
    ],
)
def test_what_cannot_be_searched_is_refused(find, options, words):
    with pytest.raises(ValueError, match=words):
        find(**options)


def test_traces_belong_to_searches(find, net, data, mesh):
    runs = jt.prune_at(net, data, TRAINING, density=0.5, score="magnitude", seeds=(0,), mesh=mesh,
                       dense=False, progress=False)  # fmt: skip
    with pytest.raises(ValueError, match=r"`trace` is there for the runs of jt.search"):
        runs.trace()
    assert masks.kept(runs.ticket(1, 0).mask)
