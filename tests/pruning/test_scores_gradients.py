"""SNIP, FORCE, GraSP and ProsPr against finite differences and derivations by hand, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import batches_of, context_of, mlp, wide
from jax.flatten_util import ravel_pytree

import jaxticket as jt
from jaxticket import masks
from jaxticket.pruning.scores import configured, recipe_of

KEY = jax.random.key(3)
NET = mlp((4, 5, 3))
SNIPS = ("snip", "iterative_snip", "force")
GRASPS = ("grasp", "grasp_inverted", "grasp_absolute")


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64():
        yield


@functools.cache
def weights():
    return wide(jax.jit(NET.init)(jax.random.key(1))[0])


def setting(count=1, size=6, **options):
    """(params, context): 35 prunable weights and 8 biases."""
    batches = batches_of((4,), 3, count, size, dtype=np.float64)
    return weights(), context_of(NET, weights(), {}, batches, **options)


def scored(name, params, context, **options):
    function = configured(name, **options)
    return jax.jit(lambda p: function(p, context, key=KEY))(params)


def kernels(tree):
    """The prunable entries of a tree as one vector."""
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree) if x.ndim >= 2])


def along_each(function, params, size):
    """`function(params + size(w_j) * e_j)` for every prunable entry j, one after the other."""
    flat, unravel = ravel_pytree(params)
    prunable, _ = ravel_pytree(jax.tree.map(lambda w: jnp.full(w.shape, w.ndim >= 2), params))
    places = jnp.asarray(np.flatnonzero(np.asarray(prunable)))
    moved = jax.vmap(lambda j: function(unravel(flat.at[j].add(size(flat[j])))))
    return np.asarray(jax.jit(moved)(places))


def mask_of(params):
    return jt.keep_top(jax.tree.map(jnp.abs, params), masks.ones(params), 20)


@pytest.mark.parametrize("name", [*SNIPS, *GRASPS, "prospr"])
def test_leaves_that_are_not_pruned_score_nothing(name):
    params, context = setting()
    context = context._replace(mask=NET.mask(("layer_1",)))
    scores = scored(name, params, context)
    for x in (scores["layer_0"]["bias"], *scores["layer_1"].values()):
        assert not np.any(x)
    assert np.all(np.asarray(scores["layer_0"]["kernel"]) != 0)
    # where the mask has None nowhere, all leaves of two dimensions are pruned
    full = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)
    both = scored(name, params, context._replace(mask=full))
    assert np.all(kernels(both) != 0) and not np.any(both["layer_1"]["bias"])


@pytest.mark.parametrize("name", SNIPS)
def test_snip_is_the_derivative_by_variables_that_multiply_the_weights(name):
    params, context = setting(count=2, size=3)
    z = kernels(scored(name, params, context))
    flat = jax.tree.map(lambda b: b.reshape(-1, *b.shape[2:]), context.batches)
    g = jax.grad(context.loss)(params, flat)
    np.testing.assert_allclose(z, np.abs(kernels(g) * kernels(params)), rtol=1e-12)

    # c_j = 1 +- 1e-5 moves w_j by its 1e-5th part
    def at(step):
        return along_each(lambda p: context.loss(p, flat), params, lambda w: step * w)

    np.testing.assert_allclose(z, np.abs(at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-10)


def test_snip_is_the_change_of_the_loss_when_a_small_weight_is_removed():
    params, context = setting()
    small = jax.tree.map(lambda w: w * 1e-3 if w.ndim >= 2 else w, params)
    params = {"layer_0": small["layer_0"], "layer_1": params["layer_1"]}
    z = kernels(scored("snip", params, context))
    batch = jax.tree.map(lambda b: b[0], context.batches)
    removed = along_each(lambda p: context.loss(p, batch), params, lambda w: -w)
    change = np.abs(removed - context.loss(params, batch))
    tiny = (np.abs(kernels(params)) < 1e-3) & (z > 1e-8)
    assert tiny.sum() >= 10
    np.testing.assert_allclose(z[tiny], change[tiny], rtol=0.05)


@pytest.mark.parametrize(("name", "power"), [*((n, 1) for n in SNIPS), *((n, 2) for n in GRASPS)])
def test_a_factor_of_the_loss_changes_no_mask(name, power):
    params, context = setting()
    scores = scored(name, params, context)
    tripled = context._replace(loss=lambda p, b: 3.0 * context.loss(p, b))
    other = scored(name, params, tripled)
    np.testing.assert_allclose(kernels(other), 3**power * kernels(scores), rtol=1e-10)
    dense = masks.ones(params)
    a, b = jt.keep_top(scores, dense, 10), jt.keep_top(other, dense, 10)
    np.testing.assert_array_equal(kernels(a), kernels(b))


@pytest.mark.parametrize("name", [*SNIPS, *GRASPS, "prospr"])
def test_the_order_of_examples_does_not_matter(name):
    params, context = setting()
    turned = context._replace(batches=jax.tree.map(lambda b: b[:, ::-1], context.batches))
    np.testing.assert_allclose(
        kernels(scored(name, params, context)), kernels(scored(name, params, turned)), rtol=1e-9
    )


def test_iterative_snip_is_snip_asked_in_rounds():
    params, context = setting(mask=mask_of(weights()))
    params = masks.apply(context.mask, params)
    once, again = (scored(n, params, context) for n in ("snip", "iterative_snip"))
    np.testing.assert_array_equal(kernels(once), kernels(again))
    assert not np.any(kernels(once)[~kernels(context.mask)])
    assert recipe_of(jt.SCORES["iterative_snip"]).rounds == 100
    assert recipe_of(jt.SCORES["iterative_snip"]).batch_norm == "train"
    assert recipe_of(jt.SCORES["snip"]).rounds == 1
    assert recipe_of(jt.SCORES["snip"]).batch_norm == "eval"


def test_force_is_snip_while_nothing_is_pruned():
    params, context = setting()
    np.testing.assert_array_equal(
        kernels(scored("force", params, context)), kernels(scored("snip", params, context))
    )
    recipe = recipe_of(jt.SCORES["force"])
    assert recipe.regrow and recipe.fresh and recipe.rounds == 60


def test_force_scores_pruned_weights_by_the_gradient_where_they_are_missing():
    params, context = setting(mask=mask_of(weights()))
    z = kernels(scored("force", params, context))
    pruned = ~kernels(context.mask)
    assert pruned.sum() == 15 and np.all(z[pruned] > 0)
    batch = jax.tree.map(lambda b: b[0], context.batches)
    g = jax.grad(context.loss)(masks.apply(context.mask, params), batch)
    np.testing.assert_allclose(z, np.abs(kernels(g) * kernels(params)), rtol=1e-12)
    assert not np.allclose(z[pruned], kernels(scored("snip", params, context))[pruned])


def test_force_brings_weights_back_and_iterative_snip_does_not():
    params, context = setting()
    dense = masks.ones(params)

    def rounds(name, regrow):
        score = jax.jit(lambda p, m: jt.SCORES[name](p, context._replace(mask=m), key=KEY))
        mask, back = dense, 0
        for i in range(1, 11):
            keep = round(35 * 0.2 ** (i / 10))
            scores = score(params if regrow else masks.apply(mask, params), mask)
            new = jt.keep_top(scores, dense if regrow else mask, keep)
            assert int(masks.kept(new)) == keep
            back += int(np.sum(kernels(new) & ~kernels(mask)))
            mask = new
        return back

    assert rounds("iterative_snip", regrow=False) == 0
    assert rounds("force", regrow=True) > 0


def gradient_at(context, params):
    x, y = context.batches
    return jax.jit(jax.grad(context.loss))(params, (x.reshape(-1, *x.shape[2:]), y.reshape(-1)))


def without_biases(tree):
    return jax.tree.map(lambda x: x if x.ndim >= 2 else 0 * x, tree)


@pytest.mark.parametrize("count", [1, 2])
def test_grasp_is_the_weight_times_the_hessian_times_the_gradient(count):
    params, context = setting(count=count, size=6 // count)
    z = kernels(scored("grasp", params, context))
    g = without_biases(gradient_at(context, params))
    eps = 1e-5
    ahead, behind = (
        gradient_at(context, jax.tree.map(lambda w, v, s=s: w + s * eps * v, params, g))
        for s in (1, -1)
    )
    differences = (kernels(ahead) - kernels(behind)) / (2 * eps)
    np.testing.assert_allclose(z, kernels(params) * differences, rtol=1e-5, atol=1e-9)

    flat, unravel = ravel_pytree(params)
    x, y = (b.reshape(-1, *b.shape[2:]) for b in context.batches)
    hessian = jax.jit(jax.hessian(lambda v: context.loss(unravel(v), (x, y))))(flat)
    assert hessian.shape == (43, 43)
    by_hessian = kernels(params) * kernels(unravel(hessian @ ravel_pytree(g)[0]))
    np.testing.assert_allclose(z, by_hessian, rtol=1e-8, atol=1e-14)
    # the gradient of biases takes no part
    full = kernels(unravel(hessian @ ravel_pytree(gradient_at(context, params))[0]))
    assert not np.allclose(z, kernels(params) * full, rtol=0.1)


def test_grasp_is_the_derivative_of_the_inner_product_of_two_passes():
    params, context = setting(count=2, size=3)
    z = kernels(scored("grasp", params, context))
    g = without_biases(gradient_at(context, params))

    def inner(p, i):
        own = jax.grad(context.loss)(p, jax.tree.map(lambda b: b[i], context.batches))
        return sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (g, own)), strict=True))

    hg = jax.jit(jax.grad(lambda p: (inner(p, 0) + inner(p, 1)) / 2))(params)
    np.testing.assert_allclose(z, kernels(params) * kernels(hg), rtol=1e-10, atol=1e-15)


def test_half_of_what_the_squared_gradient_loses_is_grasp():
    """2 w_j (Hg)_j = |grad L(w)|^2 - |grad L(w - w_j e_j)|^2 for small w_j."""
    params, context = setting()
    params = jax.tree.map(lambda w: w * 1e-3, params) | {"layer_1": params["layer_1"]}
    z = kernels(scored("grasp", params, context))

    def squared(p):
        return sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient_at(context, p)) if x.ndim >= 2)

    lost = squared(params) - along_each(squared, params, lambda w: -w)
    small = np.abs(kernels(params)) < 2e-3
    assert small.sum() >= 20
    np.testing.assert_allclose(2 * z[small], lost[small], rtol=0.05, atol=1e-8)
    # both signs occur
    assert np.ptp(np.sign(z[small])) == 2


def test_the_three_variants_of_grasp_rank_one_product():
    params, context = setting()
    own, turned, absolute = (kernels(scored(name, params, context)) for name in GRASPS)
    np.testing.assert_allclose(turned, -own, rtol=1e-12)
    np.testing.assert_allclose(absolute, np.abs(own), rtol=1e-12)
    assert own.min() < 0 < own.max()
    dense = masks.ones(params)
    kept = [kernels(jt.keep_top(scored(n, params, context), dense, 10)) for n in GRASPS]
    # S = -own: the original keeps the 10 lowest S, the inverted one the 10 highest
    order = np.argsort(-own)
    assert set(np.flatnonzero(kept[0])) == set(order[:10])
    assert set(np.flatnonzero(kept[1])) == set(order[-10:])
    assert set(np.flatnonzero(kept[2])) == set(np.argsort(-np.abs(own))[:10])
    for name in GRASPS:
        recipe = recipe_of(jt.SCORES[name])
        assert recipe.temperature == 200 and recipe.batch_norm == "train"


def test_the_temperature_changes_what_grasp_keeps():
    kept = []
    for temperature in (1.0, 200.0):
        params, context = setting(temperature=temperature)
        scores = scored("grasp", params, context)
        kept.append(kernels(jt.keep_top(scores, masks.ones(params), 10)))
    assert np.any(kept[0] != kept[1])


def two_parameters(count):
    """`mean((b tanh(a x) - y)^2)` of two weights."""

    def loss(params, batch):
        x, y = batch
        return jnp.mean((params["b"][0, 0] * jnp.tanh(params["a"][0, 0] * x) - y) ** 2)

    rng = np.random.default_rng(5)
    params = {"a": jnp.full((1, 1), 0.7), "b": jnp.full((1, 1), -1.3)}
    batches = tuple(jnp.asarray(rng.normal(size=(count, 5))) for _ in range(2))
    context = jt.ScoreContext(loss, None, params, masks.ones(params), batches)
    return params, context


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("new_data", [False, True])
def test_prospr_is_the_derivative_of_training_written_out(momentum, new_data):
    params, context = two_parameters(count=3)
    (xs, ys), lr = context.batches, 0.2

    def slopes(a, b, x, y):
        t = jnp.tanh(a * x)
        error = 2 * (b * t - y)
        return jnp.mean(error * b * (1 - t * t) * x), jnp.mean(error * t)

    def trained(c):
        a, b = 0.7 * c[0], -1.3 * c[1]
        va = vb = 0.0
        for i in range(4):
            # batches of their own, or the mean over all, which is one batch of all examples
            own = (xs[i % 3], ys[i % 3]) if new_data else (xs.reshape(-1), ys.reshape(-1))
            da, db = slopes(a, b, *own)
            va, vb = momentum * va + da, momentum * vb + db
            a, b = a - lr * va, b - lr * vb
        x, y = (xs[2], ys[2]) if new_data else (xs, ys)
        return jnp.mean((b * jnp.tanh(a * x) - y) ** 2)

    expected = np.abs(jax.jit(jax.grad(trained))(jnp.ones(2)))
    z = scored(
        "prospr", params, context, steps=4, lr=lr, momentum=momentum, new_data=new_data
    )  # fmt: skip
    np.testing.assert_allclose([z["a"][0, 0], z["b"][0, 0]], expected, rtol=1e-10)


def test_prospr_without_training_is_snip():
    params, context = setting()
    snip = kernels(scored("snip", params, context))
    np.testing.assert_allclose(kernels(scored("prospr", params, context, steps=0)), snip, rtol=1e-9)
    params, context = setting(count=2, size=3)
    last = context._replace(batches=jax.tree.map(lambda b: b[1:], context.batches))
    still = kernels(scored("prospr", params, context, lr=0.0))
    np.testing.assert_allclose(still, kernels(scored("snip", params, context)), rtol=1e-9)
    outer = kernels(scored("prospr", params, context, lr=0.0, new_data=True))
    np.testing.assert_allclose(outer, kernels(scored("snip", params, last)), rtol=1e-9)
    assert not np.allclose(still, kernels(scored("prospr", params, context)), rtol=0.01)


def joined(context):
    """All batches as one."""
    return jax.tree.map(lambda b: b.reshape(-1, *b.shape[2:]), context.batches)


def trained(context, params, steps=3, lr=0.1):
    """Three steps on all weights and all examples."""
    batch = joined(context)
    for _ in range(steps):
        g = jax.grad(context.loss)(params, batch)
        params = jax.tree.map(lambda w, g: w - lr * g, params, g)
    return params


def test_prospr_is_the_difference_that_a_factor_before_training_makes():
    params, context = setting(count=2, size=3)
    whole = joined(context)
    z = kernels(scored("prospr", params, context))

    def at(step):
        return along_each(
            lambda p: context.loss(trained(context, p), whole), params, lambda w: step * w
        )

    np.testing.assert_allclose(z, np.abs(at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-9)


def test_prospr_of_first_order_leaves_out_the_hessians():
    params, context = setting(count=2, size=3)
    z = kernels(scored("prospr", params, context, first_order=True))
    whole = joined(context)
    g = jax.jit(lambda p: jax.grad(context.loss)(trained(context, p), whole))(params)
    np.testing.assert_allclose(z, np.abs(kernels(g) * kernels(params)), rtol=1e-9)
    assert not np.allclose(z, kernels(scored("prospr", params, context)), rtol=0.01)


def test_prospr_trains_no_pruned_weight():
    params, context = setting(mask=mask_of(weights()))
    masked = masks.apply(context.mask, params)
    z = kernels(scored("prospr", masked, context))
    inside = context._replace(
        loss=lambda p, b: context.loss(masks.apply(context.mask, p), b), mask=masks.ones(params)
    )
    np.testing.assert_allclose(z, kernels(scored("prospr", masked, inside)), rtol=1e-9, atol=0)
    regrown = scored("prospr", masked, context._replace(mask=masks.ones(params)))
    assert not np.allclose(z, kernels(regrown), rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "`steps` must be a whole number of at least 0, got -1"),
        ({"steps": 1.5}, "`steps` must be a whole number of at least 0, got 1.5"),
        ({"lr": -0.1}, "`lr` must be a finite number of at least 0, got -0.1"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0"),
    ],
)
def test_prospr_refuses_settings_that_are_out_of_range(options, message):
    params, context = setting()
    with pytest.raises(ValueError, match=message):
        jt.SCORES["prospr"](params, context, key=KEY, **options)
