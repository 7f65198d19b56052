"""Training steps of one replica on batches that are given, without data sets and programs."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.learner import Batch, Plan
from jaxticket.engine.metrics import Normalization
from jaxticket.engine.optim import schedule
from jaxticket.engine.parallel import Placement
from jaxticket.engine.supervised import Origin, Supervised

SHAPE, CLASSES, BATCH, STEPS = (4, 4, 1), 3, 8, 4
NET = jt.networks.lenet(SHAPE, CLASSES, widths=(6,))
PLACE = Placement(None, vmapped=False)


def normed_init(key):
    keys = jax.random.split(key)
    params = {
        "dense_0": {"kernel": jax.random.normal(keys[0], (16, 6))},
        "norm_0": {"scale": jnp.ones(6), "bias": jnp.zeros(6)},
        "dense_1": {"kernel": 0.4 * jax.random.normal(keys[1], (6, CLASSES))},
    }
    return params, {"norm_0": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}


def normed_apply(params, stats, x, *, train):
    """A network with BatchNorm between two layers."""
    y, kept = x.reshape(len(x), -1) @ params["dense_0"]["kernel"], stats["norm_0"]
    mean, var = (y.mean(0), y.var(0)) if train else (kept["mean"], kept["var"])
    if train:
        kept = {"mean": 0.9 * kept["mean"] + 0.1 * mean, "var": 0.9 * kept["var"] + 0.1 * var}
    y = (y - mean[None]) * jax.lax.rsqrt(var + 1e-5)[None]
    y = jax.nn.relu(y * params["norm_0"]["scale"][None] + params["norm_0"]["bias"][None])
    return y @ params["dense_1"]["kernel"], {"norm_0": kept}


NORMED = jt.from_functions(normed_init, normed_apply, name="normed", shape=SHAPE)


def batches(steps=STEPS, size=BATCH, shape=SHAPE):
    """Examples [step, batch, ...] and labels, by the numbers of a generator."""
    rng = np.random.default_rng(3)
    y = np.asarray(rng.integers(0, CLASSES, (steps, size)), np.int32)
    x = rng.normal(size=(steps, size, *shape)) + y.reshape(*y.shape, 1, 1, 1)
    return x.astype(np.float32), y


def start(net=NET, density=0.6):
    """Weights, statistics and a mask of the largest weights of all layers together."""
    params, stats = net.init(jax.random.key(1))
    dense = net.mask()
    keep = round(density * masks.prunable_size(dense))
    mask = jt.keep_top(masks.map_with(lambda m, w: jnp.abs(w), dense, params), dense, keep)
    return params, stats, mask


def walked(training, net=NET, steps=STEPS, begin=None, **options):
    """The states before and after each step."""
    learner = Supervised(net, training)
    params, stats, mask = start(net, **options) if begin is None else begin
    given = None if training.teacher is None else training.teacher.given
    taught_by = None if given is None else (given.params, given.stats)
    plan = Plan(schedule(training), np.int32(0), teacher=taught_by)
    plan = jax.tree.map(jnp.asarray, plan)
    xs, ys = batches(steps, training.batch_size, net.shape)
    by = Normalization(jnp.zeros(net.shape[-1]), jnp.ones(net.shape[-1]))

    @jax.jit
    def all_states(params, stats, mask, xs, ys):
        state = learner.start(Origin(params, stats, mask), jnp.int32(0), key=jax.random.key(2))

        def step(state, batch):
            after = learner.step(state, Batch(*batch, by), plan, jnp.bool_(True), PLACE)
            return after, after

        return state, jax.lax.scan(step, state, (xs, ys))[1]

    first, rest = all_states(params, stats, mask, xs, ys)
    return [first, *(jax.tree.map(lambda x, i=i: x[i], rest) for i in range(steps))]


def outside(mask, tree):
    """Whether something stands where weights are pruned."""
    leaves = masks.map_with(lambda m, w: jnp.where(m, 0, w), mask, tree)
    return any(bool(x.any()) for x in jax.tree.leaves(leaves))
