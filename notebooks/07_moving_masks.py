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
# # 7. Masks that move: RigL
#
# **Question.** All tickets so far have a mask that stays. Can a network be sparse *from the first step*, and find its mask while it trains? RigL (Evci et al. [2020](https://arxiv.org/abs/1911.11134)) drops the smallest weights now and then and grows those whose gradient is largest.
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
steps = 600  # updates of each training
every = 20  # steps between two changes of the masks
densities = (0.1, 0.05, 0.02, 0.01)

# %% [markdown]
# ## Four rules
#
# | rule | starts | what changes |
# |---|---|---|
# | static | sparse, random (ERK layers) | nothing |
# | SET | the same | drops the smallest weights of each layer, grows random ones |
# | RigL | the same | drops the smallest weights of each layer, grows those with the largest $\lvert \partial L / \partial w \rvert$ |
# | gradual | dense | prunes the smallest weights step by step, and brings none back |
#
# At step $t$, SET and RigL exchange the share $f(t) = \tfrac{0.3}{2}\big(1 + \cos(\pi t / t_\text{end})\big)$ of a layer's kept weights, until $t_\text{end}$ at three quarters of the training. Weights that grow start at 0, so that the network does not change by it. Every update keeps exactly the number of weights that the rule says.
#
# With a prepared data set, `p = jt.preset("wrn22_2-cifar10-rigl")` has RigL's setting on CIFAR-10: `data = p.load()`, `net = p.net(data)`, `training = p.training`. Use a GPU or TPU for it.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
rules = {
    "static": jt.dynamic.Static(),
    "set": jt.dynamic.SET(every=every),
    "rigl": jt.dynamic.RigL(every=every),
    "gradual": jt.dynamic.Gradual(every=every),
}
found = {
    name: jt.sparse_train(
        net,
        data,
        training,
        rule,
        density=densities,
        dense=name == "static",  # once is enough
        seeds=seeds,
        progress=False,
    )
    for name, rule in rules.items()
}

# %%
tables = {name: runs.table() for name, runs in found.items()}
trained = [t[t.level > 0].assign(branch=name) for name, t in tables.items()]
dense = tables["static"].query("level == 0")
table = jt.results.concat([dense, *trained])
lowest = 100 * jt.speed.final(table).groupby(["branch", "level"]).value.mean().min()
ax = jt.plots.accuracy(table, test_size=len(data.test), ylim=(max(0, lowest - 5), 100))

# %%
final = jt.speed.over_seeds(jt.speed.final(table))
print("dense: {mean:.1%} ± {std:.1%}, {seeds} seeds".format(**final[final.level == 0].iloc[0]))
final = final[final.level > 0]
final["accuracy"] = [f"{m:.1%} ± {s:.1%}" for m, s in zip(final["mean"], final["std"], strict=True)]
final["weights"] = [f"{density:.0%}" for density in final.density]
shown = final.pivot(index="branch", columns="weights", values="accuracy")
shown.loc[list(found), [f"{density:.0%}" for density in densities]]

# %% [markdown]
# The sparser the network, the more it is worth to move: a random mask of a few hundred weights leaves paths from the pixels to the answers by luck alone. With three seeds, look at the standard deviations before you read differences of a point.
#
# ## How the masks move
#
# `runs.monitored()` has, at every evaluation, `mask_explored`: the share of all weights that has been in the mask at some time (the in-time over-parameterization rate of Liu et al. [2021](https://arxiv.org/abs/2102.02887)).

# %%
import matplotlib.pyplot as plt

styles = jt.plots.branch_styles(rules)
with jt.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    for name, runs in found.items():
        moved = runs.monitored()
        level = max(runs.levels)
        for ax, metric in zip(axes, ("mask_density", "mask_explored"), strict=True):
            rows = moved[moved.metric.eq(metric) & moved.level.eq(level)]
            mean = rows.groupby("step").value.mean()
            style = styles[name]
            ax.plot(
                mean.index, 100 * mean, color=style.color, marker=style.marker, label=style.label
            )
    axes[0].set(title="in the mask", ylabel="share of all weights (%)", yscale="log")
    axes[1].set(title="in the mask at some time")
    for ax in axes:
        ax.set_xlabel("training step")
        ax.set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
        ax.minorticks_off()
    axes[0].legend()

# %% [markdown]
# Static masks explore what they start with. SET explores more than RigL, since what it grows is random; RigL also grows weights that it has dropped before. Gradual pruning was dense once: it has seen all weights, and paid for them.
#
# ## What it costs
#
# Rules that are sparse all the time train few weights in every step; RigL needs a dense gradient at each change. Gradual pruning is dense for a part of the training: on hardware that skips zeros it costs more. A fair comparison is one at equal cost, not at equal steps alone.

# %%
import pandas as pd

costs = {
    name: jt.costs.finding(runs).iloc[-1][["density", "training_steps", "backward_passes"]]
    for name, runs in found.items()
}
pd.DataFrame(costs).T

# %% [markdown]
# ## Is the last mask a ticket?
#
# Train under RigL's last mask from the initial weights, with a mask that stays. Where accuracy falls, the way there mattered, and not the mask alone; where it does not, or where the seeds differ more than the means, the mask is a ticket like those of the other notebooks.

# %%
again = jt.branch(found["rigl"], "retrain", name="rigl's last mask", progress=False)
level = max(found["rigl"].levels)
both = jt.results.concat([tables["rigl"].assign(branch="rigl"), again.table()])
last = jt.speed.over_seeds(jt.speed.final(both))
print(
    last[last.level > 0][["branch", "density", "mean", "std", "min", "max"]]
    .round(3)
    .to_string(index=False)
)

# %% [markdown]
# ## Try this next
#
# - `every=5` and `every=100` in the cell of sizes: how often should masks move?
# - `jt.dynamic.RigL(every=every, fraction=0.5)`: how much of a mask should move at once?
# - `training.replace(steps=5 * steps)`: RigL's authors find that it catches up with longer training. By how much here?
#
# More: [mask rules](../docs/methods/mask-rules.md), [a mask rule of your own](../docs/extending/mask-rule.md), [dynamic IMP](../docs/methods/dynamic-imp.md). Next: [what tickets are like](08_what_tickets_are_like.ipynb).
