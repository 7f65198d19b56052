"""Sparse training of a tiny network under every rule, and what is seen of it at every step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from few_digits import DATA

import jaxticket as jt
from jaxticket import masks

D = jt.dynamic
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(5,))
LAYERS = ("dense_0", "dense_1")
SIZES = np.array([64 * 5, 5 * 10])
SIZE = int(SIZES.sum())
LR, MOMENTUM = 0.1, 0.9
STEPS = 12
SEEDS = (0, 1)
TRAINING = jt.Training(
    steps=STEPS, batch_size=16, optimizer="momentum", momentum=MOMENTUM, lr=LR, eval_every=4,
    eval_batch_size=48,
)  # fmt: skip

RULES = {
    "static": D.Static(),
    "gradual": D.Gradual(begin=1, every=3, end=9),
    "gradual_linear": D.Gradual(begin=1, every=3, end=9, power=1.0, scope="layer"),
    "iterative": D.Iterative(every=3, end=9),
    "set": D.SET(every=3, end=10),
    "rigl": D.RigL(every=3, end=10),
    "rigl_uniform": D.RigL("uniform_dense_first", every=3, end=10, decay="constant", skip=False),
    "straight_through": D.StraightThrough(),
    "straight_through_random": D.StraightThrough(score="random", every=3, end=9, scope="layer"),
    "ac_dc": D.ACDC(begin=2, every=2, end=9),
    "top_kast": D.TopKAST(every=3, end=9, extra=0.2, decay=0.05),
}
DENSITIES = {"rigl_uniform": (0.95, 0.9)}


def densities(name):
    return DENSITIES.get(name, (0.5, 0.2))


def flat(tree):
    """The weights that can be pruned, one after another."""
    return jnp.concatenate([tree[name]["kernel"].reshape(-1) for name in LAYERS])


def plain_loss(params, x, y):
    """The loss of `NET`, written down."""
    hidden = jax.nn.relu(
        x.reshape(len(x), -1) @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None]
    )
    logits = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"][None]
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])


@dataclasses.dataclass(frozen=True)
class Everything:
    """Mask, weights with latent ones, momentum, and the gradient at the effective weights."""

    every: int = 1

    def __call__(self, problem, state, batch):
        # other trainings try monitors too
        latent = state.rule.latent if state.rule else ()
        weights = state.params
        if latent:
            weights = masks.map_with(
                jnp.where, state.mask, state.params, latent, other=lambda w, _: w
            )
        slope = jax.grad(plain_loss)(state.params, batch.x, batch.y)
        biases = jnp.concatenate([state.params[name]["bias"] for name in LAYERS])
        own = problem.update(state, batch)[1]
        return {
            "mask": flat(state.mask),
            "weights": flat(weights),
            "used": flat(state.params),
            "momentum": flat(state.opt_state[-1].trace),
            "slope": flat(slope),
            "own_slope": flat(own),
            "biases": biases,
            "x": batch.x.reshape(-1),
            "y": batch.y.astype(jnp.float32),
        }


class Steps:
    """What `Everything` saw of one replica: arrays [step, weight] by name."""

    def __init__(self, rows):
        self.steps = sorted(set(rows.step))
        for name, part in rows[~rows.metric.str.startswith("mask_")].groupby("metric"):
            part = part.sort_values(["step", "index"])
            setattr(self, name, part.value.to_numpy().reshape(len(self.steps), -1))
        self.mask = self.mask > 0

    @property
    def moved(self):
        """Steps t whose mask differs from that of t + 1."""
        return [t for t in range(STEPS) if not np.array_equal(self.mask[t], self.mask[t + 1])]

    def slope_at(self, t, weights):
        """The gradient of the batch of step t at other weights: [weight]."""
        kernels, biases = (np.split(x, [n]) for x, n in ((weights, SIZES[0]), (self.biases[t], 5)))
        params = {
            name: {"kernel": jnp.float32(w.reshape(-1, len(b))), "bias": jnp.float32(b)}
            for name, w, b in zip(LAYERS, kernels, biases, strict=True)
        }
        x, y = jnp.float32(self.x[t].reshape(-1, *DATA.shape)), jnp.int32(self.y[t])
        return np.asarray(flat(jax.grad(plain_loss)(params, x, y)))

    def layers(self):
        """Weights that each layer keeps, [step, layer]."""
        ends = np.split(self.mask, [SIZES[0]], axis=1)
        return np.stack([part.sum(axis=1) for part in ends], axis=1)


def train(rule, **options):
    options = {"seeds": SEEDS, "progress": False, **options}
    training = options.pop("training", TRAINING)
    options.setdefault("density", (0.5, 0.2))
    return jt.sparse_train(options.pop("net", NET), options.pop("data", DATA), training, rule,
                           **options)  # fmt: skip


@functools.cache
def seen(rule, density=(0.5, 0.2)):
    """Runs of a rule that are watched at every step, and what was seen by (level, seed)."""
    runs = train(rule, training=TRAINING.replace(monitors=(Everything(),)), density=density)
    tables = runs.monitored().groupby(["level", "seed"])
    return runs, {which: Steps(rows) for which, rows in tables}


def watched(name):
    return seen(RULES[name], densities(name))


def top(scores, keep, among=None):
    """The mask of the highest scores, the first of equal ones first."""
    scores = np.where(np.ones(len(scores), bool) if among is None else among, scores, -np.inf)
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[:keep]] = True
    return chosen


def by_layer(function, *arrays):
    """`function` of the parts of each layer, put together again."""
    parts = zip(*(np.split(x, [SIZES[0]]) for x in arrays), strict=True)
    return np.concatenate([function(number, *part) for number, part in enumerate(parts)])
