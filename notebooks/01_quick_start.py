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
# # 1. Quick start: the first ticket
#
# **Question.** Does a dense network contain a small network that trains to the same accuracy, from the same initial weights? Frankle and Carbin (2019) call it a *winning ticket*. This notebook finds some with the digits of scikit-learn: nothing is downloaded, and a laptop is enough.
#
# The first cell installs jaxticket on Colab, where it needs the address of the repository that you opened this notebook from: write it into the cell, unless it is there already. Elsewhere install jaxticket first (see the README).

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

# %% [markdown]
# ## Sizes
#
# Everything that makes this notebook slow or fast, in one cell. One *seed* is one network: its initialization and the order in which it sees the examples. All seeds train side by side in one compiled program.

# %% tags=["parameters"]
seeds = range(3)
steps = 400  # updates of each training
levels = 12  # how often networks are trained, pruned and rewound

# %% [markdown]
# ## Data, network, training
#
# `jt.data.load("mnist")` or `"cifar10"` take the place of the digits where these data sets are prepared on your machine; the error says how to prepare them. A tenth of the training examples is held out for validation.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)  # LeNet-300-100
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
data

# %%
net

# %% [markdown]
# ## Find tickets
#
# Iterative magnitude pruning ([Frankle and Carbin 2019](https://arxiv.org/abs/1803.03635); Algorithm 1 of Frankle's thesis, chapter 3), for each seed:
#
# 1. draw initial weights $w_0$, with the mask $m = 1$;
# 2. train $m \odot w_0$ for $T$ steps to $w_T$;
# 3. set $m = 0$ for the 20% of the kept weights that have the smallest $|w_T|$, all layers ranked together;
# 4. rewind the others to $w_0$ and go on with 2.
#
# After $n$ rounds, at *level* $n$, the *density* (the share of weights that are kept) is $d_n = (1 - 0.2)^n$. Level 0 is the dense network.
#
# `branches=["reinit"]` trains a control next to each ticket: the same mask with new random weights. `progress=False` keeps this page free of progress bars; leave it out to see one.

# %%
runs = jt.find_tickets(
    net,
    data,
    training,
    jt.Pruning(levels=levels, fraction=0.2),
    seeds=seeds,
    branches=["reinit"],
    progress=False,
)
runs

# %% [markdown]
# All numbers are in one table, with a row for each value. Everything else (statistics, figures, files) starts from it.

# %%
table = runs.table()
print(f"{len(table):,} rows")
table.head(4)

# %% [markdown]
# ## Accuracy against density
#
# Lines are means over seeds, the shaded bands reach from the worst to the best seed, and the gray line is the dense network. Density falls to the right. A ring marks a density at which the branch *matches*: its mean is at most 0.2 points, or one test image where that is more, below the dense network's.

# %%
ax = jt.plots.accuracy(table, test_size=len(data.test))

# %%
final = jt.speed.over_seeds(jt.speed.final(table)).set_index(["branch", "level"])
dense = final.loc[("ticket", 0)]
sparsest = runs.winning()
print(f"dense: {100 * dense['mean']:.1f}% ({100 * dense['min']:.1f} to {100 * dense['max']:.1f})")
if sparsest is None:
    print("no level wins")
else:
    ticket, reinit = final.loc[("ticket", sparsest)], final.loc[("reinit", sparsest)]
    print(f"the sparsest winning tickets are those of level {sparsest}:", end=" ")
    print(f"{100 * ticket['mean']:.1f}% with {100 * ticket['density']:.1f}% of the weights")
    print(f"the same masks with new weights: {100 * reinit['mean']:.1f}%")
last, new = final.loc[("ticket", levels)], final.loc[("reinit", levels)]
print(
    f"at {100 * last['density']:.1f}%: tickets {100 * last['mean']:.1f}%, new weights {100 * new['mean']:.1f}%"
)
print(f"one test image is {100 / len(data.test):.2f} points; {len(runs.seeds)} seeds")

# %% [markdown]
# **What the numbers say.** A large part of the weights can go before accuracy falls, and the sparser the network, the more the *values* of the initial weights matter: the control has the same masks and falls behind.
#
# **What they do not say.** Three seeds and 360 test images tell differences of a point or more; which level is the last to win by 0.2 points is partly luck. And a winning ticket in this sense is only as accurate as the dense network: [notebook 3](03_winning_ticket.ipynb) asks whether it beats every control and is stable, too.

# %% [markdown]
# ## Look at a ticket
#
# A ticket is a mask and the weights it starts from: trees of arrays like those of the network. The figure counts, for each pixel, how many of the hidden units of the first layer still read it, next to the mean of the images.

# %%
import matplotlib.pyplot as plt

ticket = runs.ticket(level=levels, seed=0)
mask = ticket.mask["dense_0"]["kernel"]  # bool [pixels, units]
height, width, _ = data.shape
print(f"{int(mask.sum()):,} of {mask.size:,} weights are left in the first layer")

with jt.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained")
    images = {
        "mean of the training images": data.train.x.mean((0, 3)),
        "hidden units that read a pixel": mask.sum(1).reshape(height, width),
    }
    for ax, (title, image) in zip(axes, images.items(), strict=True):
        figure.colorbar(ax.imshow(image, cmap="viridis"), ax=ax)
        ax.set(title=title, xticks=[], yticks=[])
        ax.grid(False)

# %%
changing = data.train.x.std((0, 3)) > 1  # of 16 levels of gray
units = images["hidden units that read a pixel"]
print(f"{changing.sum()} pixels that change: {units[changing].mean():.0f} units on average")
print(f"{(~changing).sum()} pixels that hardly do: {units[~changing].mean():.0f} units")

# %% [markdown]
# Pruning has found where the images are: pixels that differ between images are read by more units than those that are nearly always black. Nobody told it so. Black pixels keep some weights all the same: images are standardized, so that black is not 0, and such a pixel acts as a bias.

# %% [markdown]
# ## Try this next
#
# - `lr=1.2e-2` in `jt.Training`: with ten times the learning rate, how sparse do tickets win? (Then see [notebook 4](04_instability.ipynb).)
# - `jt.networks.lenet(data.shape, data.classes, widths=(30, 10))`: a network of a tenth of the width has less to spare.
# - `folder="results/first"` in `jt.find_tickets`: run the cell twice; the second call reads the results instead of training. With more levels or seeds it goes on from there.
#
# More: [saved runs](../docs/guides/saved-runs.md), [in a notebook](../docs/guides/notebooks.md), [training of your own](../docs/guides/training.md). Next: [your own model and arrays](02_own_model.ipynb).
