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
# # 9. Transfer and ticket files
#
# **Question.** A ticket was found with one data set. Is it a good network for another one? "One ticket to win them all" (Morcos et al. [2019](https://arxiv.org/abs/1906.02773)) trains tickets of a source on a target, next to the target's own tickets and to random ones. On the way: how a ticket becomes a file, and a file a ticket.
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
seeds = range(4)
steps = 400  # updates of each training
levels = 6  # how often networks are trained, pruned and rewound

# %% [markdown]
# ## A source and two targets
#
# - **The other half.** `halves()` gives two data sets that share no training example and have the same test split, as the two halves of CIFAR-10 in the paper.
# - **Scrambled digits.** The other half with its 64 pixels in another order, the same for all images. To a network of dense layers it is as easy as before, but every pixel is in the wrong place for a mask of the source.
#
# With a prepared data set, `p = jt.preset("vgg19-cifar10-one_ticket")` has a setting of the paper, whose `data.halves()` are its two halves of CIFAR-10: `data = p.load()`, `net = p.net(data)`, `training = p.training`. Use a GPU or TPU for it.

# %%
import numpy as np

data = jt.data.load("digits", validation=0.1)
half_a, half_b = data.halves()
order = np.random.default_rng(0).permutation(64)


def scrambled(x):
    """Reorder the pixels of images [n, 8, 8, 1]."""
    return x.reshape(len(x), 64)[:, order].reshape(x.shape)


other = jt.data.from_arrays(
    splits={name: (scrambled(split.x), split.y) for name, split in half_b.splits.items()},
    name="scrambled",
)
half_b, other

# %% [markdown]
# ## Tickets of the source, and each target's own

# %%
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
pruning = jt.Pruning(levels=levels, fraction=0.4)
options = {"seeds": seeds, "progress": False}
source = jt.find_tickets(net, half_a, training, pruning, **options)
own = {
    target.name: jt.find_tickets(net, target, training, pruning, **options)
    for target in (half_b, other)
}

# %% [markdown]
# ## Transfer
#
# `jt.transfer` trains the source's tickets on the target: masks and initial weights carry over, the output layer is new (equal for all tickets of a seed) and stays dense. At every level there train next to them the target's own tickets ("own") and the source's masks permuted over all layers on new weights ("globally_permuted"). A good ticket of the target would do as well as its own; one that has learned nothing of use does as the random one.

# %%
moved = {name: jt.transfer(source, to=runs, progress=False) for name, runs in own.items()}

# %%
import matplotlib.pyplot as plt

with jt.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
for ax, (name, runs) in zip(axes, moved.items(), strict=True):
    table = runs.table()
    table.loc[table.branch.eq("own") & table.level.eq(0), "branch"] = "ticket"
    table = table[table.level.gt(0) | table.branch.eq("ticket")]
    jt.plots.accuracy(table, ax, branches=["own", "transferred", "globally_permuted"], band="std")
    ax.set_title(name)

# %%
import pandas as pd
from scipy import stats

rows = []
for name, runs in moved.items():
    final = jt.speed.final(runs.table()).query("level == @levels")
    by_seed = 100 * final.pivot_table(index="seed", columns="branch", values="value")
    for than in ("own", "globally_permuted"):
        d = (by_seed.transferred - by_seed[than]).to_numpy()
        low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
        rows.append((name, than, d.mean(), low, high))
columns = ["target", "than", "transferred better by", "low", "high"]
print(f"sparsest level, points, 95% interval of the paired difference, {len(seeds)} seeds")
pd.DataFrame(rows, columns=columns).round(2)

# %% [markdown]
# **How to read it.** Where "transferred" lies on "own", the ticket is as good as one that was found for the target. Where it lies on the permuted masks, it is worth nothing there. Small differences are not to be trusted: with four seeds and four comparisons, an interval that just excludes 0 may do so by chance.
#
# ## A ticket in a file
#
# `Ticket.save` writes one small safetensors file: the mask as bits, the kept weights, and what you say about it. With `seed=` a ticket from initialization stores the seed in the place of its weights.

# %%
from pathlib import Path

ticket = source.ticket(level=levels, seed=0)
whole = ticket.save("ticket.safetensors", net=net, data=half_a.name, found_by="imp, level 6")
small = ticket.save("seed.safetensors", net=net, seed=0)
dense_bytes = sum(w.nbytes for w in jax.tree.leaves(ticket.params))
for name, size in {
    "dense weights in float32": dense_bytes,
    "mask and kept weights": Path(whole).stat().st_size,
    "mask and seed": Path(small).stat().st_size,
}.items():
    print(f"{name:>26}: {size / 1000:.1f} kB")

# %% [markdown]
# `Ticket.load` checks the file and gives the ticket back, here from its seed; another network than the one it was made for is refused, with the layers that do not fit. A loaded ticket can be transferred, too: give the network, the training and the seeds.

# %%
again = jt.Ticket.load("seed.safetensors", net=net)
for path, kept in jax.tree.leaves_with_path(ticket.params):
    np.testing.assert_array_equal(kept, dict(jax.tree.leaves_with_path(again.params))[path])
loaded = jt.transfer(
    again,
    to=half_b,
    net=net,
    training=training,
    seeds=(0,),
    branches=["globally_permuted"],
    progress=False,
)
jt.speed.final(loaded.table())[["branch", "level", "density", "value"]].round(3)

# %% [markdown]
# ## Try this next
#
# - `training.replace(optimizer="momentum", lr=0.05)` as `training=` of `jt.transfer`: do tickets move between optimizers, as in the paper?
# - `reinit_output=False`: keep the output layer with its mask. Does the transfer get better?
# - A third target: `jt.data.load("mnist")` and the network that `jt.transfer` adapts to it (`net=None`).
#
# More: [data of your own](../docs/guides/own-data.md), [get tickets out](../docs/guides/export.md), [start from trained weights](../docs/guides/pretrained.md). Next: [a seed sweep](10_seed_sweep.ipynb).
