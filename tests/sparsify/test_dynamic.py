"""Sparse training under mask rules: counts, grown weights, moments, and what is refused."""

import dataclasses
import functools
import os
import signal
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.jobs import job_plan
from jaxticket.engine.learner import Batch
from jaxticket.engine.metrics import Normalization
from jaxticket.engine.parallel import Placement
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.sparsify.dynamic.learner import Dynamic

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
SIZE = 64 * 5 + 5 * 10
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=4, eval_batch_size=48
)
DENSITIES = (0.5, 0.2)


@dataclasses.dataclass(frozen=True)
class Grow(jt.dynamic.Static):
    """Half of each layer's weights, the smallest, give way to those with the largest gradients."""

    every: int = 3
    extra: int = 0

    def when(self, step):
        return (step > 0) & (step % self.every == 0)

    def update(self, state, dense_gradient, *, step, key):
        def one(mask, weights, slope):
            kept = jnp.sum(mask, dtype=jnp.int32)
            stay = jt.keep_top({"w": jnp.abs(weights)}, {"w": mask}, kept // 2)["w"]
            free = jt.keep_top({"w": jnp.abs(slope)}, {"w": ~stay}, kept - kept // 2 + self.extra)
            return stay | free["w"]

        return state._replace(mask=masks.map_with(one, state.mask, state.params, dense_gradient))


@dataclasses.dataclass(frozen=True)
class Seen:
    """The mask, weights and momentum at every step."""

    every: int = 1

    def __call__(self, problem, state, batch):
        momentum = state.opt_state[-1].trace["dense_0"]["kernel"]
        _, slope = problem.update(state, batch)
        return {
            "mask": state.mask["dense_0"]["kernel"],
            "weights": state.params["dense_0"]["kernel"],
            "momentum": momentum,
            "slope": slope["dense_0"]["kernel"],
        }


train = functools.partial(
    jt.sparse_train, NET, DATA, TRAINING, density=DENSITIES, seeds=(0, 1), progress=False
)


@functools.cache
def grown():
    return train(Grow())


def same(a, b):
    pd.testing.assert_frame_equal(a.table(), b.table())
    chex.assert_trees_all_equal(a.by_level, b.by_level)


def test_static_training_is_that_of_the_same_mask():
    """Bit for bit, by the program that trains any ticket; and the mask is that of the layout."""
    runs = train()
    assert runs.levels == (1, 2)
    again = jt.branch(runs, "retrain", name="ticket", progress=False)
    pd.testing.assert_frame_equal(again.table(), runs.table())
    for level, share in enumerate(DENSITIES, 1):
        ticket = runs.ticket(level, 1)
        kept = [int(ticket.mask[name]["kernel"].sum()) for name in ("dense_0", "dense_1")]
        assert sum(kept) == round(share * SIZE) and runs.densities[level - 1] == sum(kept) / SIZE
        assert kept[0] / 320 < kept[1] / 50, "Erdos-Renyi keeps more of small layers"
    a, b = (runs.ticket(2, seed).mask["dense_0"]["kernel"] for seed in (0, 1))
    assert not np.array_equal(a, b)


def test_averages_forget_what_a_moving_mask_prunes():
    """Asserted after training, where an average that is not zero under the mask is an error."""
    training = TRAINING.replace(ema=0.9, weight_decay=0.01, decay="kernels", accumulate=2)
    runs = jt.sparse_train(
        NET, DATA, training, Grow(), density=DENSITIES, seeds=(0, 1), progress=False
    )
    assert not masks.nested(runs.ticket(1, 0).mask, train().ticket(1, 0).mask)
    values = runs.table().query("metric == 'loss' and split == 'train'").groupby("step").value
    assert values.mean()[8] < values.mean()[0]


def test_a_rule_that_never_updates_is_static():
    same(train(Grow(every=100)), train())


def test_masks_move_and_keep_their_counts():
    first, last = train(), grown()
    for level, share in enumerate(DENSITIES, 1):
        for seed in (0, 1):
            a, b = (runs.ticket(level, seed) for runs in (first, last))
            assert not masks.nested(a.mask, b.mask)
            for name in ("dense_0", "dense_1"):
                assert a.mask[name]["kernel"].sum() == b.mask[name]["kernel"].sum()
            zero = masks.map_with(lambda m, w: not np.any(w[~m]), b.mask, b.params)
            assert all(jax.tree.leaves(zero))
        assert last.densities[level - 1] == round(share * SIZE) / SIZE
    assert not first.table().value.equals(last.table().value)


def test_an_update_by_hand():
    """Between updates the mask stays; grown weights start at zero, with new momentum."""
    runs = jt.sparse_train(
        NET, DATA, TRAINING.replace(monitors=(Seen(),)), Grow(), density=0.5, seeds=(0,),
        progress=False,
    )  # fmt: skip
    table = runs.monitored()
    at = {
        (name, step): rows.sort_values("index").value.to_numpy()
        for (name, step), rows in table.groupby(["metric", "step"])
    }
    mask = {step: at["mask", step] > 0 for step in range(9)}
    for step in range(8):
        # an update at step t comes before the update of the weights at t
        moved = step in (3, 6)
        assert np.array_equal(mask[step], mask[step + 1]) != moved
        assert mask[step].sum() == mask[0].sum()
        assert not at["weights", step][~mask[step]].any()
        if not moved:
            continue
        new = mask[step + 1] & ~mask[step]
        assert new.sum() > 10
        # one step of descent from zero, with the momentum of that step alone
        slope = at["momentum", step + 1][new]
        np.testing.assert_allclose(at["weights", step + 1][new], -0.1 * slope, rtol=1e-5)
        assert not at["momentum", step + 1][~mask[step + 1]].any()
        old = at["momentum", step][mask[step] & mask[step + 1]]
        assert np.abs(old).max() > 0
        # what grew has the largest gradients of what did not stay
        size = np.abs(at["slope", step])
        stay = mask[step] & mask[step + 1]
        assert size[new].min() >= size[~mask[step] & ~mask[step + 1]].max() and stay.any()


def test_one_device_and_few_at_once_give_the_same():
    same(train(Grow(), mesh=jt.parallel.mesh(devices=jax.devices()[:1]), at_once=1), grown())


def test_batches_split_over_devices_give_the_same_masks():
    split = train(Grow(), mesh=jt.parallel.mesh(2, data=2))
    pd.testing.assert_frame_equal(split.table(), grown().table(), rtol=1e-3)


def test_a_stopped_run_goes_on(tmp_path):
    long = functools.partial(
        jt.sparse_train, NET, DATA, TRAINING.replace(steps=60, eval_every=2), Grow(),
        density=0.5, seeds=(0, 1), progress=False,
    )  # fmt: skip
    whole, folder = long(), tmp_path / "run"
    handler = signal.signal(signal.SIGTERM, lambda *_: None)

    def stop():
        while not any(folder.glob("state/*")):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(jt.RunInterrupted):
        long(folder=folder, save_every=0)
    stopper.join()
    signal.signal(signal.SIGTERM, handler)
    same(long(folder=folder), whole)
    same(long(folder=folder), whole)
    with pytest.raises(jt.RunFolderError, match=r"pruning.density|densities"):
        long(folder=folder, density=0.4)


def test_another_number_of_weights_is_an_error():
    with pytest.raises(RuntimeError, match="a mask rule kept another number of weights"):
        train(Grow(extra=1))


class Unhashable(Grow):
    __hash__ = None


WRONG = [
    ({"rule": "rigle"}, "`rule` is unknown: 'rigle'"),
    ({"rule": jt.dynamic.Static}, "`rule` must be a name in jt.RULES, or an object of"),
    ({"rule": 3}, "`rule` must be a name in jt.RULES, or an object of"),
    ({"rule": Unhashable()}, "`rule` must be hashable"),
    ({"density": 1.2}, "`density`"),
    ({"density": 1e-4}, "`density` 0.0001 keeps none of the 370 weights"),
    ({"density": (0.5, 0.5)}, "`density`"),
    ({"seeds": ()}, "`seeds`"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_arguments_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        train(**{"rule": "static", **changes})


def test_unknown_layouts_are_refused():
    with pytest.raises(ValueError, match="`layout` is unknown: 'erg'"):
        jt.dynamic.Static("erg")


def test_layers_that_are_excluded_stay_dense():
    """Rules and layouts see the others alone; a mask that prunes what is excluded is refused."""
    runs = train(Grow(), exclude=("dense_1",))
    for level, share in enumerate(DENSITIES, 1):
        ticket = runs.ticket(level, 1)
        assert ticket.mask["dense_1"]["kernel"] is None
        assert ticket.mask["dense_0"]["kernel"].sum() == round(share * 320)
        assert ticket.params["dense_1"]["kernel"].all()
    with pytest.raises(ValueError, match="`exclude` pattern 'dense_7' matches no weight"):
        train(exclude=("dense_7",))
    with pytest.raises(ValueError, match="`exclude` leaves nothing to prune"):
        train(exclude=("dense_*",))


def test_training_starts_from_given_weights():
    params, _ = NET.init(jax.random.key(7))
    runs = train(init=params)
    again = jt.sparse_train(
        NET.with_params(params), DATA, TRAINING, density=DENSITIES, seeds=(0, 1), progress=False
    )
    same(runs, again)
    for seed in (0, 1):
        ticket = runs.ticket(1, seed)
        chex.assert_trees_all_equal(ticket.params, masks.apply(ticket.mask, params))
    # masks are those of the seeds
    chex.assert_trees_all_equal(
        [runs.by_level[n].mask for n in (1, 2)], [train().by_level[n].mask for n in (1, 2)]
    )
    with pytest.raises(ValueError, match="`init` must be params"):
        train(init=params["dense_0"])


def test_the_dense_gradient_is_computed_at_updates_alone():
    """What is not in the branch of an update is a step of training as of any ticket."""
    params, stats = NET.init(jax.random.key(0))
    origin = Origin(params, stats, jax.tree.map(jnp.asarray, NET.mask()))
    plan = jax.tree.map(lambda x: x[0], job_plan(TRAINING, 1))
    by = Normalization(jnp.zeros(1), jnp.ones(1))
    batch = Batch(jnp.zeros((16, *DATA.shape), jnp.uint8), jnp.zeros(16, jnp.int32), by)

    def traced(learner, over=lambda step: step):
        state = learner.start(origin, jnp.int32(0), key=jax.random.key(0))
        given = state, batch, plan, jnp.bool_(True)
        several = jax.tree.map(lambda x: jnp.stack([x, x]), given) if over is jax.vmap else given
        return jax.make_jaxpr(over(lambda *x: learner.step(*x, Placement())))(*several).jaxpr

    def products(jaxpr):
        """Matrix products outside of loops that run where they are due, and in each of those."""
        outside, inside = 0, []
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                outside += 1
            # vmapped, both sides of a condition would be computed
            sides = [products(p.jaxpr) for p in eqn.params.get("branches", ())]
            assert not any(outside or inside for outside, inside in sides)
            if eqn.primitive.name == "while":
                inside.append(products(eqn.params["body_jaxpr"].jaxpr)[0])
            for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
                if (inner := eqn.params.get(name)) is not None:
                    below = products(getattr(inner, "jaxpr", inner))
                    outside, inside = outside + below[0], inside + below[1]
        return outside, [own for own in inside if own]

    step, none = products(traced(Supervised(NET, TRAINING)))
    # two layers: two products forward, and backward two for weights and one between them
    assert (step, none) == (5, [])
    for over in (lambda step: step, jax.vmap):
        assert products(traced(Dynamic(NET, TRAINING, Grow()), over)) == (5, [5])


def test_what_finding_moving_masks_costs():
    costs = jt.costs.finding(grown())
    # updates at steps 3 and 6, and a gradient of each
    assert costs.training_steps.tolist() == [6, 6]
    assert costs.examples.tolist() == [(6 + 2) * 16] * 2 == costs.forward_passes.tolist()
    assert (costs.seconds > 0).all() and costs.density.tolist() == list(grown().densities)
    static = jt.costs.finding(train())
    assert not static[["training_steps", "examples", "flops", "seconds"]].to_numpy().any()


@dataclasses.dataclass(frozen=True)
class Redraw(Grow):
    """Looks at no gradient."""

    def update(self, state, dense_gradient, *, step, key):
        return state._replace(mask=masks.shuffle(state.mask, key=key))


def test_a_rule_without_gradients_costs_its_steps_alone():
    costs = jt.costs.finding(train(Redraw()))
    assert costs.training_steps.tolist() == [6, 6] and costs.examples.tolist() == [96, 96]
