"""What tickets' weights are multiplied by: the height of learned masks, and densities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import noisy_patterns

import jaxticket as jt
from jaxticket import masks, rescaling
from jaxticket.engine import parallel
from jaxticket.sparsify.learned import (
    Bernoulli,
    Method,
    Schedule,
    Sigmoid,
    TopSigmoid,
    objective_values,
)

STEPS = 8
TRAINING = jt.Training(steps=STEPS, batch_size=16, optimizer="momentum", lr=0.05, eval_every=8)
KERNELS = ("dense_0", "dense_1")
P = 25 * 12 + 12 * 3


@pytest.fixture(scope="module")
def data():
    return noisy_patterns()


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, 3, (12,))


@pytest.fixture(scope="module")
def mesh():
    return parallel.mesh(devices=jax.devices()[:2])


@dataclasses.dataclass(frozen=True)
class HalfUp(Sigmoid):
    """Scores that stay: the entries of even index are above 0, the others below."""

    def initial(self, shape, density, *, key):
        up = jnp.arange(np.prod(shape)) % 2 == 0
        return jnp.where(up, 1.0, -1.0).reshape(shape)


@dataclasses.dataclass(frozen=True)
class TopHalfUp(TopSigmoid):
    """The same, of which the forward pass uses the largest."""

    initial = HalfUp.initial


STILL = (("optimizer", "sgd"), ("lr", 0.0))


def method_of(kind, start, **options):
    relaxation = kind(Schedule(500.0), start=start, scaled=True)
    return Method("still", relaxation, optimizer=STILL, **options)


@pytest.fixture(scope="module")
def find(net, data, mesh):
    made = {}

    def run(method, **options):
        usual = {"density": 0.5, "seeds": (3, 5), "steps": 4, "dense": False, "mesh": mesh}
        key = (method, tuple(sorted(options.items())))
        if key not in made:
            made[key] = jt.search(
                net, data, TRAINING, method, progress=False, **{**usual, **options}
            )
        return made[key]

    return run


@pytest.mark.parametrize(("kind", "start"), [(HalfUp, 0.0), (HalfUp, -0.4), (TopHalfUp, 0.0)])
def test_the_network_that_was_searched_is_the_one_that_is_kept(find, net, kind, start):
    """Where beta is so large that soft masks are steps, tickets say what the search's network said;
    without the factor they do not. Both keep the same entries.
    """
    method = method_of(kind, start)
    kept, bare = find(method), find(method_of(kind, start, scaled_tickets=False))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, *net.shape)), jnp.float32)
    for replica, seed in enumerate((3, 5)):
        ticket, other = kept.ticket(1, seed), bare.ticket(1, seed)
        params = jax.tree.map(lambda w, r=replica: w[r], kept.origin.params)
        scores = jax.tree.map(
            lambda m: method.relaxation.initial(m.shape, 0.5, key=jax.random.key(0)), net.mask()
        )
        soft = method.relaxation.soft(
            scores, net.mask(), jnp.int32(P // 2), jnp.float32(1.0), key=jax.random.key(0)
        )
        searched = masks.map_with(jnp.multiply, soft, params, other=lambda w: w)
        says = lambda weights: net.apply(weights, {}, x, train=False)[0]  # noqa: E731
        np.testing.assert_allclose(says(ticket.params), says(searched), rtol=1e-5, atol=1e-5)
        assert np.abs(says(other.params) - says(searched)).max() > 0.1
        height = 1 + np.exp(-start)
        for name in KERNELS:
            mask, kernel = ticket.mask[name]["kernel"], np.asarray(params[name]["kernel"])
            assert (mask == other.mask[name]["kernel"]).all() and mask.sum() == mask.size // 2
            np.testing.assert_allclose(ticket.params[name]["kernel"], height * mask * kernel,
                                       rtol=1e-6)  # fmt: skip
            np.testing.assert_array_equal(other.params[name]["kernel"], mask * kernel)
            np.testing.assert_array_equal(ticket.params[name]["bias"], params[name]["bias"])


def test_supermasks_files_and_objectives_have_the_factor(net, data, mesh, tmp_path):
    method = method_of(HalfUp, 0.0)
    methods = {"kept": method, "bare": dataclasses.replace(method, scaled_tickets=False)}
    x = np.asarray(data.train.x, np.float32).reshape(len(data.train), *net.shape) / 255
    x = jnp.asarray((x - x.mean((0, 1, 2))) / x.std((0, 1, 2)))
    losses = {}

    def search(method, folder):
        return jt.search(net, data, TRAINING, method, density=0.5, seeds=(3,), steps=4, train=False,
                         dense=False, mesh=mesh, progress=False, folder=folder)  # fmt: skip

    for name, own in methods.items():
        runs = search(own, tmp_path / name)
        table = runs.table().query("branch == 'supermask' and metric == 'loss' and split == 'test'")
        losses[name] = table["value"].item()
        loaded = jt.Ticket.load(tmp_path / name / "tickets" / "ticket-level-01-seed-3.safetensors")
        jax.tree.map(np.testing.assert_array_equal, loaded.params, runs.ticket(1, 3).params)
        logits = net.apply(loaded.params, {}, x, train=False)[0]
        expected = -jax.nn.log_softmax(logits)[np.arange(len(x)), np.asarray(data.train.y)].mean()
        value = objective_values(runs, "loss", examples=len(x))["value"].item()
        assert value == pytest.approx(float(expected), rel=1e-3)
    assert abs(losses["kept"] - losses["bare"]) > 0.01
    # a folder of tickets without the factor is not taken for one with it
    with pytest.raises(ValueError, match="scaled_tickets"):
        search(methods["kept"], tmp_path / "bare")


CONTROLS = ("shuffle", "random", "reinit", "globally_permuted", "sign_flip", "retrain")


@pytest.mark.parametrize("change", CONTROLS)
def test_controls_have_the_scale_of_their_tickets(find, change):
    """Whether weights are drawn or masks are moved, kernels are those of the same control without
    the factor, times it: a control differs from its ticket in one way.
    """
    kept = find(method_of(HalfUp, 0.0), branches=CONTROLS)
    bare = find(method_of(HalfUp, 0.0, scaled_tickets=False))
    one, other = (jt.branch(r, change, progress=False) for r in (kept, bare))
    for seed in (3, 5):
        a, b = one.ticket(1, seed), other.ticket(1, seed)
        jax.tree.map(np.testing.assert_array_equal, a.mask, b.mask)
        for name in KERNELS:
            np.testing.assert_array_equal(a.params[name]["kernel"], 2 * b.params[name]["kernel"])
            np.testing.assert_array_equal(a.params[name]["bias"], b.params[name]["bias"])
    # alongside the tickets and afterwards
    alongside = kept.table().query("step == @STEPS and level == 1")
    alongside = alongside[alongside["branch"] == {"retrain": "ticket"}.get(change, change)]
    later = one.table().query("step == @STEPS")
    np.testing.assert_array_equal(alongside["value"].to_numpy(), later["value"].to_numpy())


def test_the_dense_network_of_a_search_has_no_factor(find, net):
    runs = find(method_of(HalfUp, 0.0), dense=True)
    again = jt.branch(runs, "retrain", levels=(0,), progress=False)
    jax.tree.map(np.testing.assert_array_equal, again.by_level[0].params, runs.origin.params)
    drawn = jt.branch(runs, "reinit", levels=(0, 1), progress=False)
    whole, part = drawn.by_level[0], drawn.by_level[1]
    spread = [np.std(t.params["dense_0"]["kernel"][np.asarray(t.mask["dense_0"]["kernel"])])
              for t in (whole, part)]  # fmt: skip
    assert spread[1] == pytest.approx(2 * spread[0], rel=0.1)


def densities_of(ticket, how):
    kept = {name: np.asarray(ticket.mask[name]["kernel"]) for name in KERNELS}
    if how == "global":
        return dict.fromkeys(KERNELS, sum(m.sum() for m in kept.values()) / P)
    return {name: m.mean() for name, m in kept.items()}


def found(kind, net, data, mesh, rescale, **options):
    usual = {"seeds": (3, 5), "mesh": mesh, "progress": False, **options}
    if kind == "find_tickets":
        pruning = jt.Pruning(levels=2, fraction=0.5, rewind=2, rescale=rescale)
        return jt.find_tickets(net, data, TRAINING, pruning, **usual)
    usual |= {"density": (0.5, 0.2), "rescale": rescale, "dense": False}
    if kind == "prune_at":
        return jt.prune_at(net, data, TRAINING, score="snip", **usual)
    return jt.search(net, data, TRAINING, "edge_popup", steps=4, **usual)


@pytest.mark.parametrize("how", rescaling.RESCALE)
@pytest.mark.parametrize("kind", ["find_tickets", "prune_at", "search"])
def test_kept_weights_are_divided_by_the_density(net, data, mesh, kind, how):
    """Exact values at every level, from the weights of the rewind point; controls follow."""
    runs = found(kind, net, data, mesh, how, branches=("reinit",))
    controls = jt.branch(runs, "reinit", levels=(1, 2), progress=False)
    # what a control with new weights has without rescaling
    bare = dataclasses.replace(runs, pruning=dataclasses.replace(runs.pruning, rescale=None))
    drawn = jt.branch(bare, "reinit", levels=(1, 2), progress=False)
    for level in (1, 2):
        for replica, seed in enumerate((3, 5)):
            ticket, control, plain = (r.ticket(level, seed) for r in (runs, controls, drawn))
            density = densities_of(ticket, how)
            for name in KERNELS:
                mask = np.asarray(ticket.mask[name]["kernel"])
                kernel = np.asarray(runs.origin.params[name]["kernel"][replica])
                np.testing.assert_allclose(
                    ticket.params[name]["kernel"], mask * kernel / density[name], rtol=1e-6
                )
                np.testing.assert_array_equal(
                    ticket.params[name]["bias"], runs.origin.params[name]["bias"][replica]
                )
                new = plain.params[name]["kernel"]
                assert (new[mask] != kernel[mask]).all()
                np.testing.assert_allclose(
                    control.params[name]["kernel"], new / density[name], rtol=1e-6
                )
    alongside = runs.table().query("step == @STEPS and level > 0 and branch == 'reinit'")
    later = controls.table().query("step == @STEPS")
    np.testing.assert_array_equal(alongside["value"].to_numpy(), later["value"].to_numpy())


def test_transferred_tickets_and_their_controls_keep_the_factor(find, data):
    kept = find(method_of(HalfUp, 0.0))
    bare = find(method_of(HalfUp, 0.0, scaled_tickets=False))
    moved = [
        jt.transfer(r, to=data, reinit_output=False, branches=("reinit",), progress=False)
        for r in (kept, bare)
    ]
    whole = [m.whole(1).params for m in moved]
    for name in KERNELS:
        np.testing.assert_allclose(whole[0][name]["kernel"], 2 * whole[1][name]["kernel"],
                                   rtol=1e-6)  # fmt: skip
    ends = [m.table().query("branch == 'reinit' and metric == 'loss'")["value"] for m in moved]
    assert (ends[0].to_numpy() != ends[1].to_numpy()).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jt.Pruning(rescale="both"), r"`rescale`.*'global', 'layer', got 'both'"),
        (lambda: jt.Pruning(rescale="layer", rewind="learning_rate"), r"`rescale` 'layer' needs"),
        (lambda: Method("m", Bernoulli(), scaled_tickets=False), r"`scaled_tickets` False has no"),
        (lambda: Method("m", Bernoulli(), scaled_tickets=1), r"`scaled_tickets` must be True or"),
        (lambda: jt.SEARCHES["kd_lts"](scaled=False, scaled_tickets=False), r"`scaled_tickets`"),
        (lambda: jt.SEARCHES["continuous"](scaled_tickets=False), r"`scaled_tickets` False has no"),
    ],
)
def test_factors_that_mean_nothing_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_two_rescalings_at_once_are_refused(net, data, mesh):
    method = jt.SEARCHES["stochastic"](rescale=True)
    with pytest.raises(ValueError, match=r"`rescale` 'global' would divide weights by densities"):
        jt.search(net, data, TRAINING, method, density=0.5, rescale="global", mesh=mesh)


@pytest.mark.parametrize("at", [None, (4,)])
def test_copies_start_from_weights_with_the_factor(find, net, data, mesh, at):
    """At a rate of 0 copies end where they start: tickets, and controls made of them; also masks on
    the dense weights of another step, which here are those of initialization.
    """
    still = TRAINING.replace(lr=0.0)
    ends = []
    for kept in (True, False):
        runs = find(method_of(HalfUp, 0.0, **({} if kept else {"scaled_tickets": False})))
        inst = jt.instability(
            net, data, still, tickets=runs, at=at, branches=("reinit",), points=3, seeds=(3,),
            mesh=mesh, progress=False,
        )  # fmt: skip
        step = 0 if at is None else 4
        ends.append([inst.networks(at=step, seed=3, level=1, branch=branch)[0]
                     for branch in ("ticket", "reinit")])  # fmt: skip
    for one, other in zip(*ends, strict=True):
        for name in KERNELS:
            kernel = np.asarray(other[name]["kernel"])
            assert np.abs(kernel).max() > 0
            np.testing.assert_allclose(one[name]["kernel"], 2 * kernel, rtol=1e-6)
    ticket = find(method_of(HalfUp, 0.0)).ticket(1, 3)
    for copy in np.asarray(ends[0][0]["dense_0"]["kernel"]):
        np.testing.assert_allclose(copy, ticket.params["dense_0"]["kernel"], rtol=1e-6)
