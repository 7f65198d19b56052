"""Optimizers of optax under a mask: as the same optimizer in a loop with masked gradients, pruned
weights exactly zero, or a refusal that says why.
"""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from steps import NET, STEPS, batches, outside, start, walked

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine import fitting

contrib = optax.contrib
ADVERSARY = optax.chain(contrib.normalize(), optax.sgd(0.05))


def muon_of_kernels(lr):
    """Muon that takes convolution kernels as matrices [height * width * in, out]."""

    def dimensions(params):
        kernels = lambda w: contrib.MuonDimensionNumbers((0, 1, 2), (3,)) if w.ndim == 4 else None  # noqa: E731
        return jax.tree.map(
            lambda w: contrib.MuonDimensionNumbers() if w.ndim == 2 else kernels(w), params
        )

    return contrib.muon(lr, muon_weight_dimension_numbers=dimensions)


RULES = {
    "sgd": (optax.sgd, 0.3),
    "momentum": (functools.partial(optax.sgd, momentum=0.9), 0.1),
    "nesterov": (functools.partial(optax.sgd, momentum=0.9, nesterov=True), 0.1),
    "adam": (optax.adam, 0.05),
    "adamw": (optax.adamw, 0.05),
    "adafactor": (functools.partial(optax.adafactor, min_dim_size_to_factor=2), 0.05),
    "adagrad": (optax.adagrad, 0.1),
    "amsgrad": (optax.amsgrad, 0.05),
    "lamb": (functools.partial(optax.lamb, weight_decay=0.1), 0.05),
    "lars": (functools.partial(optax.lars, weight_decay=0.1), 0.5),
    "lion": (optax.lion, 0.02),
    "novograd": (optax.novograd, 0.05),
    "radam": (optax.radam, 0.05),
    "rmsprop": (optax.rmsprop, 0.02),
    "sm3": (optax.sm3, 0.1),
    "muon": (contrib.muon, 0.05),
    "prodigy": (contrib.prodigy, 1.0),
    "sam": (lambda lr: contrib.sam(optax.sgd(lr), ADVERSARY, opaque_mode=True), 0.3),
}
MORE = {
    "acprop": (contrib.acprop, 0.05),
    "adabelief": (optax.adabelief, 0.05),
    "adadelta": (functools.partial(optax.adadelta, weight_decay=0.1), 1.0),
    "adamax": (optax.adamax, 0.05),
    "adamaxw": (optax.adamaxw, 0.05),
    "adan": (optax.adan, 0.05),
    "ademamix": (contrib.ademamix, 0.05),
    "adopt": (contrib.adopt, 0.05),
    "agc": (lambda lr: optax.chain(optax.adaptive_grad_clip(0.1), optax.sgd(lr)), 0.3),
    "clipped": (lambda lr: optax.chain(optax.clip_by_block_rms(0.01), optax.sgd(lr)), 0.3),
    "cocob": (contrib.cocob, 1.0),
    "dadapt_adamw": (contrib.dadapt_adamw, 1.0),
    "dog": (contrib.dog, 1.0),
    "dowg": (contrib.dowg, 1.0),
    "fromage": (optax.fromage, 0.05),
    "galore": (functools.partial(contrib.galore, rank=2), 0.05),
    "lbfgs": (functools.partial(optax.lbfgs, linesearch=None), 0.1),
    "madgrad": (contrib.madgrad, 0.05),
    "mechanize": (lambda lr: contrib.mechanize(optax.sgd(lr), weight_decay=0.01), 1.0),
    "momo": (contrib.momo, 0.3),
    "momo_adam": (contrib.momo_adam, 0.05),
    "multi_steps": (lambda lr: optax.MultiSteps(optax.adam(lr), 2).gradient_transformation(), 0.1),
    "nadam": (optax.nadam, 0.05),
    "nadamw": (optax.nadamw, 0.05),
    "optimistic": (optax.optimistic_gradient_descent, 0.1),
    "plateau": (lambda lr: optax.chain(optax.sgd(lr), contrib.reduce_on_plateau(patience=1)), 0.3),
    "polyak": (lambda lr: optax.polyak_sgd(max_learning_rate=lr), 1.0),
    "rprop": (optax.rprop(0.02), None),
    "sign": (optax.sign_sgd, 0.02),
    "simplified_ademamix": (contrib.simplified_ademamix, 0.05),
    "yogi": (optax.yogi, 0.05),
}


def by_optax(make, lr, net=NET):
    """The weights after each step of a loop in plain JAX and optax."""
    params, stats, mask = start(net)
    made = make if lr is None else make(lr)
    params, optimizer = masks.apply(mask, params), optax.with_extra_args_support(made)
    sam = "sam" in repr(make) or make is RULES["sam"][0]

    def loss(params, x, y):
        logits, _ = net.apply(params, stats, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def gradient(params, x, y):
        value, slope = jax.value_and_grad(loss)(params, x, y)
        return value, masks.apply(mask, slope)

    def step(carry, batch):
        params, state = carry
        value, slope = gradient(params, *batch)
        extra = {"value": value}
        if sam:
            extra = {"grad_fn": lambda w, _: gradient(masks.apply(mask, w), *batch)[1]}
        updates, state = optimizer.update(slope, state, params, **extra)
        params = masks.apply(mask, optax.apply_updates(params, updates))
        return (params, state), params

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = jax.tree.map(jnp.asarray, optimizer.init(params))
        types = jax.tree.map(lambda x: x.dtype, state)
        cast = lambda c: (c[0], jax.tree.map(lambda x, t: jnp.asarray(x, t), c[1], types))  # noqa: E731

        def same_types(carry, batch):
            after, seen = step(carry, batch)
            return cast(after), seen

        return jax.jit(lambda c, b: jax.lax.scan(same_types, c, b)[1])((params, state), batches())


def check_rule(make, lr, net=NET):
    rate = {} if lr is None else {"lr": lr}
    training = jt.Training(steps=9, batch_size=8, optimizer=make, **rate)
    fitting.check(training, net)
    states, expected = walked(training, net), by_optax(make, lr, net)
    mask = states[0].mask
    for step in range(STEPS):
        ours, theirs = states[step + 1], jax.tree.map(lambda x, i=step: x[i], expected)
        assert not outside(mask, ours.params)
        chex.assert_trees_all_close(ours.params, theirs, rtol=2e-4, atol=2e-6)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, states[-1].params, states[0].params))
    assert np.isfinite(moved) and moved > 0
    return states


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_optax_under_a_mask(name):
    check_rule(*RULES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_rules_of_optax_under_a_mask(name):
    check_rule(*MORE[name])


def conv_init(key):
    keys = jax.random.split(key)
    kernels = jax.random.normal(keys[0], (2, 2, 1, 3)), jax.random.normal(keys[1], (27, 3))
    return {"conv": {"kernel": kernels[0]}, "dense": {"kernel": 0.2 * kernels[1]}}, {}


def conv_apply(params, stats, x, *, train):
    y = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(y).reshape(len(x), -1) @ params["dense"]["kernel"], stats


def test_muon_takes_kernels_as_adam_unless_told_how_they_are_matrices():
    """By default optax's Muon gives what has not two dimensions to Adam."""
    net = jt.from_functions(conv_init, conv_apply, name="conv", shape=(4, 4, 1))
    lr = 0.02
    plain, whole = (check_rule(make, lr, net) for make in (contrib.muon, muon_of_kernels))
    # the fallback of Muon
    adam = walked(
        jt.Training(
            steps=9, batch_size=8, lr=lr,
            optimizer=functools.partial(optax.nadamw, weight_decay=0.0),
        ), net,
    )  # fmt: skip
    first = [states[1].params["conv"]["kernel"] for states in (plain, whole, adam)]
    np.testing.assert_allclose(first[0], first[2], rtol=1e-5, atol=1e-7)
    assert not np.allclose(first[1], first[2], atol=1e-3)
    # of a dense network all singular values of an update are near the rate
    params, stats, _ = start(net)
    training = jt.Training(steps=9, batch_size=8, optimizer=muon_of_kernels, lr=lr)
    dense = walked(training, net, steps=1, begin=(params, stats, net.mask()))
    change = jax.tree.map(jnp.subtract, dense[1].params, dense[0].params)
    for shape, leaf in (((4, 3), "conv"), ((27, 3), "dense")):
        scale = max(1, shape[1] / shape[0]) ** 0.5
        sizes = np.linalg.svd(change[leaf]["kernel"].reshape(shape), compute_uv=False)
        # a channel that is never on has none
        there = sizes[sizes > 1e-3 * lr]
        assert len(there) > 1 and (there > 0.4 * lr * scale).all()
        assert (there < 1.4 * lr * scale).all()


def test_gradients_that_sam_visits_are_clipped_too():
    training = jt.Training(steps=9, batch_size=8, optimizer=RULES["sam"][0], lr=0.5, clip_norm=1e-3)
    states = walked(training, steps=2)
    for before, after in itertools.pairwise(states):
        moved = jax.tree.map(jnp.subtract, after.params, before.params)
        assert float(optax.tree.norm(moved)) == pytest.approx(0.5e-3, rel=1e-3)


REFUSED = {
    "schedule_free": (contrib.schedule_free_adamw, "evaluates other weights than .* with `ema`"),
    "lbfgs": (lambda lr: optax.lbfgs(lr), "searches along a line .* linesearch=None"),
    "backtracking": (
        lambda lr: optax.chain(optax.sgd(lr), optax.scale_by_backtracking_linesearch(5)),
        "searches along a line",
    ),
    "sam": (lambda lr: contrib.sam(optax.sgd(lr), ADVERSARY), "opaque_mode=True"),
    "sophia": (contrib.sophia, "fails when it is tried|keeps a random key"),
    "noisy": (functools.partial(optax.noisy_sgd, key=1), "keeps a random key"),
    "private": (
        lambda lr: optax.chain(
            contrib.differentially_private_aggregate(1.0, 0.1, key=1), optax.sgd(lr)
        ),
        "keeps a random key",
    ),
    "rprop": (
        optax.rprop,
        "does not use the learning rate .* or pass a transformation with a rate",
    ),
    "lookahead": (lambda lr: optax.lookahead(optax.sgd(lr), 5, 0.5), "fails when it is tried"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_update_rule_is_refused_by_name(name):
    optimizer, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"`optimizer` .*{message}"):
        fitting.check(jt.Training(steps=4, batch_size=8, optimizer=optimizer), NET)
    whole = jt.Training(steps=4, batch_size=8, optimizer=RULES["sam"][0])
    if name == "sam":
        with pytest.raises(ValueError, match=r"gradients at other points .* a search does"):
            fitting.check(whole, NET, search=True)
