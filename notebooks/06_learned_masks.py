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
# # 6. Learned masks: Concrete Ticket Search and KD-LTS
#
# **Question.** A mask is discrete, so that gradient descent cannot move it. Can it be *learned* all the same, under weights that stay as they are? Two answers: Concrete Ticket Search ([Arora and Teuscher 2025](https://arxiv.org/abs/2512.07142)) and KD-LTS, which distills masks from trained teachers. Both are compared with iterative pruning and with random masks.
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
densities = (0.2, 0.1, 0.05, 0.02)
levels = 10  # of iterative pruning, down to the last density

# %% [markdown]
# ## The two methods
#
# **Concrete Ticket Search** gives each weight a score $a$ and draws, in every step, the soft mask
#
# $$m = \sigma\Big(\frac{\log u - \log(1 - u) + a}{T}\Big), \qquad u \sim U(0, 1),$$
#
# a differentiable stand-in for a coin that shows 1 with probability $\sigma(a)$. Adam moves $a$ along the gradient of an objective: here the loss, and in a second search the divergence from the dense network's answers ("reverse_kl", the paper's choice). GradBalance holds the expected density $\sum \sigma(a)$ near the requested one. At the end the entries of highest $a$ are kept, exactly as many as asked for.
#
# **KD-LTS** starts from all weights and lets fewer through the soft mask $\sigma(\beta s)$ in each epoch, while $\beta$ rises and the mask hardens. The scores $s$ learn from the labels and from the answers and features of two trained *teachers*.
#
# Both give a **supermask**, a network that was never trained and yet has some accuracy, and then train the **ticket** from there. Concrete Ticket Search starts after a tenth of the training here, as the paper starts after some epochs.
#
# With a prepared data set, `p = jt.preset("resnet20-cifar10-cts")` has a setting of Concrete Ticket Search, `"lenet-mnist-kd_lts"` one of KD-LTS: `data = p.load()`, `net = p.net(data)`, `training = p.training`, and `jt.search(net, data, training, p.search, **p.arguments)`. Use a GPU or TPU for it.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
early = steps // 10
concrete = jt.SEARCHES["concrete"]
options = {"density": densities, "seeds": seeds, "progress": False}
found = {
    "cts_loss": jt.search(
        net, data, training, concrete("loss", length="long"), start=early, **options
    ),
    "cts_kl": jt.search(
        net,
        data,
        training,
        concrete("reverse_kl", length="long"),
        start=early,
        dense=False,
        **options,
    ),
    "kd_lts": jt.search(net, data, training, "kd_lts", dense=False, **options),
}

# %% [markdown]
# Next to them: iterative pruning with the same rewind step, where each level needs a training of its own, and random masks.

# %%
rewound = jt.find_tickets(
    net,
    data,
    training,
    jt.Pruning(levels=levels, fraction=1 - densities[-1] ** (1 / levels), rewind=early),
    seeds=seeds,
    progress=False,
)
drawn = jt.prune_at(
    net, data, training, score="random", density=densities, dense=False, seeds=seeds, progress=False
)

# %%
tables = {name: runs.table() for name, runs in found.items()}
tables["ltr"], tables["random"] = rewound.table(), drawn.table()
tickets = [
    t[t.branch.eq("ticket") & t.level.gt(0)].assign(branch=name) for name, t in tables.items()
]
dense = tables["cts_loss"].query("branch == 'ticket' and level == 0")
table = jt.results.concat([dense, *tickets])
ax = jt.plots.accuracy(table, test_size=len(data.test), band="none", ylim=(80, 100))

# %% [markdown]
# ## Before any training: supermasks

# %%
import pandas as pd

rows = []
for name in found:
    last = jt.speed.over_seeds(jt.speed.final(tables[name]))
    for row in last[last.branch.isin(["supermask", "ticket"]) & last.level.gt(0)].itertuples():
        text = f"{row.mean:.1%} ± {row.std:.1%}"
        rows.append((name, row.branch, f"{row.density:.0%}", text))
accuracy = pd.DataFrame(rows, columns=["method", "network", "density", "accuracy"])
accuracy.pivot_table(
    index=["method", "network"], columns="density", values="accuracy", aggfunc="first", sort=False
)

# %% [markdown]
# ## How a search goes
#
# `runs.trace()` has the expected density during the search. Concrete Ticket Search starts at the requested density and is held there; KD-LTS comes down from above.

# %%
import matplotlib.pyplot as plt

titles = {"cts_loss": "Concrete Ticket Search", "kd_lts": "KD-LTS"}
with jt.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True)
    for ax, name in zip(axes, ("cts_loss", "kd_lts"), strict=True):
        trace = found[name].trace()
        for density, rows in trace.groupby("density", sort=False):
            mean = rows.groupby("step").expected.mean()
            ax.plot(mean.index, 100 * mean, label=f"{100 * density:.0f}% requested")
        ax.set(title=titles[name], xlabel="step of the search", yscale="log")
        ax.set_yticks([2, 5, 10, 20, 50], [2, 5, 10, 20, 50])
        ax.minorticks_off()
    axes[0].set_ylabel("expected density (%)")
    axes[0].legend()

# %% [markdown]
# ## What a mask costs
#
# Floating-point operations until the mask is known, in dense trainings, against the accuracy of its ticket at the sparsest density. KD-LTS trains its teachers first, iterative pruning a network for each level.

# %%
one = jt.costs.finding(rewound)
training_flops = one[one.level == 1].flops.iloc[0]  # level 1 costs one dense training
rows = []
for name, runs in {**found, "ltr": rewound}.items():
    level = max(runs.levels)
    last = jt.speed.final(tables[name]).query("branch == 'ticket' and level == @level")
    cost = jt.costs.finding(runs).set_index("level").flops[level] / training_flops
    rows += [(name, row.seed, row.value, cost) for row in last.itertuples()]
for row in jt.speed.final(dense).itertuples():
    rows.append(("dense", row.seed, row.value, 0.0))
cost = pd.DataFrame(rows, columns=["branch", "seed", "accuracy", "cost"])
ax = jt.plots.accuracy_against_cost(cost)

# %%
print(f"at {densities[-1]:.0%} of the weights, {len(seeds)} seeds:")
print(cost.groupby("branch", sort=False)[["accuracy", "cost"]].mean().round(3).to_string())

# %% [markdown]
# **What the numbers say.** Learned masks are far ahead of random ones and cost a fraction of iterative pruning's: one search takes the place of all levels. The supermasks show how much of a ticket is in its mask alone.
#
# **What they do not say** is which search is best. The order here is that of a small network without normalization, trained for a few hundred steps; the papers' networks have BatchNorm and many more steps, and KD-LTS's epochs are short here. Compare standard deviations first, and see [measured results](../experiments/README.md) at the papers' sizes.

# %% [markdown]
# ## Try this next
#
# - `train=False` in `jt.search` with `net = jt.networks.lenet(data.shape, data.classes, init="signed_constant")`: how good can a network get without any training of its weights?
# - `jt.SEARCHES["edge_popup"]` and `"gem_miner"`: the older searches, in the same table.
# - `norm="batch"` in `jt.networks.lenet`: Concrete Ticket Search was made for networks with normalization.
#
# More: [an objective](../docs/extending/objective.md), [a relaxation](../docs/extending/relaxation.md) and [a constraint of your own](../docs/extending/constraint.md), [distillation](../docs/guides/distillation.md). Next: [masks that move](07_moving_masks.ipynb).
