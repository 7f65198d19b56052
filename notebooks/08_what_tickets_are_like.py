# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: -jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. What tickets are like: sharpness, calibration, robustness
#
# **Question.** Two networks are equally accurate. Are they equally good? This notebook asks trained tickets how sharp the loss is around them, whether they are as sure as they are right, and how many answers survive an adversary; and it puts several methods on one page.
#
# The first cell installs jaxticket on Colab, where it needs the address of the repository that you opened this notebook from. Elsewhere install jaxticket first (see the README).

# %%
import importlib.util
import os
import shutil
import subprocess
import sys

REPOSITORY = os.environ.get("JAXTICKET_REPOSITORY", "")
if "google.colab" in sys.modules:  # elsewhere jaxticket is installed already
    if not REPOSITORY:
        raise ValueError('set REPOSITORY above, such as "https://github.com/OWNER/NAME"')
    gpu, tpu = shutil.which("nvidia-smi"), importlib.util.find_spec("libtpu")
    extra = "[cuda12]" if gpu else "[tpu]" if tpu else ""
    source = f"jaxticket{extra} @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import jax

import jaxticket as jt

jt.cpu_devices()  # on a CPU a device for each core; nothing where there is a GPU or TPU
print(f"runs on {jax.device_count()} x {jax.devices()[0].device_kind}")

# %% tags=["parameters"]
seeds = range(3)
steps = 400  # updates of each training
density = 0.1
scores = ("snip", "random")  # of pruning at initialization, next to iterative pruning
levels = 4  # of iterative pruning, the last of which has this density
examples = 300  # that curvature is measured on
order = 20  # steps of Lanczos' method

# %% [markdown]
# ## Four kinds of network
#
# Dense; tickets of iterative pruning; SNIP; random masks. `keep="trained"` keeps the weights after training, which the probes below look at. All sparse networks have the same density.
#
# With a prepared data set, `p = jt.preset("lenet-mnist")` has LeNet on MNIST, where ten thousand test images make every number below surer: `data = p.load()`, `net = p.net(data)`, `training = p.training`. Use a GPU or TPU for it.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
kept = {"seeds": seeds, "keep": "trained", "progress": False}
pruning = jt.Pruning(levels=levels, fraction=1 - density ** (1 / levels))
found = {"ticket": jt.find_tickets(net, data, training, pruning, **kept)}
for score in scores:
    found[score] = jt.prune_at(net, data, training, score=score, density=density, **kept)


def ends(table):
    """Keep the dense networks, level 0, and the sparsest ones, which become level 1."""
    kept = table[table.level.isin([0, table.level.max()])]
    return kept.assign(level=kept.level.clip(upper=1))


def measure(probe, **options):
    """Measure the networks of each method as they are after training."""
    options = {**options, "weights": "trained", "progress": False}
    return {
        name: ends(jt.measure(runs, probe, levels=(0, max(runs.levels)), **options))
        for name, runs in found.items()
    }


def joined(tables):
    """Put all methods into one table, as branches; level 0 of "ticket" is the dense network."""
    dense = next(iter(tables.values())).query("level == 0")
    sparse = [t[t.level > 0].assign(branch=name) for name, t in tables.items()]
    return jt.results.concat([dense, *sparse])


def with_dense(table):
    """Make the dense networks a branch of their own."""
    return table.assign(branch=table.branch.where(table.level > 0, "dense"))


# %% [markdown]
# ## Sharpness
#
# The Hessian $H$ of the mean loss, over the kept weights alone: its largest eigenvalue is the curvature in the sharpest direction, its trace the sum of all. Lanczos' method finds the first, Hutchinson's the other, from products $Hv$; the matrix is never built.

# %%
probe = jt.probes.Curvature(eigenvalues=3, order=order, starts=2, samples=20, points=100)
curvature = measure(probe, examples=examples)
sharpness = with_dense(joined(curvature))
ax = jt.plots.spectral_density(sharpness)

# %%
tops = sharpness[sharpness.metric.isin(["eigenvalue", "trace"]) & sharpness["index"].eq(0)]
tops.groupby(["branch", "metric"], sort=False).value.agg(["mean", "std"]).unstack().round(2)

# %% [markdown]
# Read eigenvalues with care: they depend on the scale of the weights, and a network that fits its training data with large margins has a flat loss whatever its test error. `eigenvalue_error` in the table bounds what Lanczos' method may miss; `order` makes it smaller.
#
# ## Calibration
#
# A network is calibrated if of its answers of confidence 0.8 four fifths are right. The expected calibration error is the mean gap, $\sum_b \frac{n_b}{n} \lvert \text{accuracy}_b - \text{confidence}_b \rvert$, over bins of confidence. `temperature=True` divides the logits by the one number that makes the validation loss least.

# %%
calibration = measure(jt.probes.Calibration(bins=10, temperature=True), split="test", examples=None)
ax = jt.plots.reliability(joined(calibration))

# %% [markdown]
# Above the diagonal networks are less sure than they are right, below it surer; dashed lines are after temperature scaling. With 360 test images all bins but the last hold a handful of examples, as the bars at the bottom say: read the errors in the legend rather than single points.
#
# ## Robustness
#
# Projected gradient descent changes each image within a box of a given radius, a share of the range of pixels, so that the loss rises most. Lines that lie on one another are a result, too.

# %%
attack = measure(
    jt.probes.Attack(radius=(0, 0.03, 0.06, 0.1), steps=10), split="test", examples=None
)
ax = jt.plots.robustness(joined(attack))

# %%
rows = with_dense(joined(attack))
rows = rows[rows.metric.eq("adversarial_accuracy") & rows["index"].eq(3)]
print("accuracy (%) under attack of radius 0.1:")
print((100 * rows.groupby("branch").value.agg(["mean", "std"])).round(1).to_string())

# %% [markdown]
# ## All on one page
#
# `jt.overview` takes means and standard deviations over seeds and names for each method the criteria by which no other is clearly better (by two pooled standard deviations). The dense network is there to compare with.

# %%
unknown = measure("out_of_distribution", split="test", examples=None)
measures = {
    name: [
        curvature[name],
        calibration[name],
        unknown[name],
        attack[name],
        ends(jt.speed.generalization_gap(runs.table())),
    ]
    for name, runs in found.items()
}
page = jt.overview(
    measures=measures,
    criteria=("accuracy", "gap", "trace", "ece", "nll", "softmax_auroc"),
)
ax = jt.plots.overview(page, criteria=("accuracy", "gap", "trace", "ece", "nll", "softmax_auroc"))

# %%
page[["method", "density", "seeds", "best"]]

# %% [markdown]
# "softmax_auroc" says how well the confidence tells digits from noise. With three seeds only large gaps are clear; of six columns and three methods, one such gap may be luck. What this page does not say: whether sharper networks are worse *because* they are sharper. At equal density, a network that fits its data less well is sharper, less calibrated and less accurate for the same reason.
#
# ## Try this next
#
# - `jt.measure(runs, "corruptions", ...)`: errors on images with noise, blur and weather (for images of 32 pixels and more it says more than here).
# - `attack=jt.PGD(radius=0.1, step=0.05, steps=3, high=16)` in `jt.Training`: are tickets of adversarial training robust?
# - A probe of your own is a function `(problem, ticket, *, key) -> dict of arrays`: the norm of the weights, by method.
#
# More: [curvature](../docs/measuring/curvature.md), [calibration](../docs/measuring/calibration.md), [robustness](../docs/measuring/robustness.md), [corruptions](../docs/measuring/corruptions.md), [one page](../docs/measuring/overview.md), [a probe of your own](../docs/extending/probe.md). Next: [transfer and ticket files](09_transfer.ipynb).
