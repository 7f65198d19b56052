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
# # 4. Rewinding and instability
#
# **Question.** Is the outcome of training decided at step $k$, or by the order of examples after it? And what has that to do with tickets? Frankle et al. ([2020](https://arxiv.org/abs/1912.05671); thesis, chapter 4) copy a network at step $k$, train the copies under different *SGD noise* (other orders of examples), and look at the error on the straight line between the trained copies,
#
# $$\text{barrier} = \max_{\alpha} E\big((1-\alpha)\,w_1 + \alpha\, w_2\big) - \tfrac12\big(E(w_1) + E(w_2)\big).$$
#
# Below 2 points the network is called *stable* at step $k$: the copies end in the same linearly connected region.
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
copies = 3  # of each state, under other SGD noise
steps = 400  # updates of each training
at = (0, 25, 50, 100, 200, 300)  # steps k
levels = 4  # of pruning

# %% [markdown]
# ## A network that is unstable at first
#
# LeNet-300-100 is stable from initialization (thesis, Figure 4-3), and so it is on digits. Six narrow layers and a large learning rate are not. MNIST and ResNet-20 on CIFAR-10 as in the thesis: `p = jt.preset("resnet20-cifar10")`, then `p.load()`, `p.net(data)`, `p.training`.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes, widths=(40,) * 6)
training = jt.Training(
    steps=steps, batch_size=60, optimizer="momentum", lr=0.1, warmup=steps // 10, schedule="cosine"
)
dense = jt.instability(net, data, training, at=at, copies=copies, seeds=seeds, progress=False)
pairs = len(dense.pairs)
print(f"{len(seeds)} seeds x {len(at)} steps x {copies} copies, {pairs} pairs of each state")

# %%
ax = jt.plots.path(dense.paths(), at=at[:: max(1, len(at) // 3)])

# %% [markdown]
# Each line is the mean error between two copies, from the first ($\alpha = 0$) to the second ($\alpha = 1$), with its standard deviation over pairs and seeds. A hill in the middle is a barrier: the copies have both learned the digits, and their mean has not.

# %%
ax = jt.plots.instability(dense.table())

# %% [markdown]
# `stable()` gives the number behind each point, with a 95% interval of the mean over seeds. Pairs of one seed share a copy and are not independent; seeds are.

# %%
barrier = dense.stable()
columns = ["mean", "std", "low", "high"]
barrier[columns] = (100 * barrier[columns]).round(1)
barrier[["at", *columns, "stable"]]

# %% [markdown]
# ## Masks
#
# Pruning changes this. The thesis (section 4.4) finds that tickets become stable earlier than the dense network, and that they match its accuracy where they are stable. `tickets=` copies tickets of iterative pruning at the step that they rewind to, here 0; "reinit" is the control with the same masks and new weights.

# %%
pruning = jt.Pruning(levels=levels, fraction=0.4)
early = jt.find_tickets(net, data, training, pruning, seeds=seeds, progress=False)
masks = jt.instability(
    net,
    data,
    training,
    tickets=early,
    branches=["reinit"],
    copies=copies,
    points=11,
    progress=False,
)
ax = jt.plots.against_density(masks.table(), branches=("ticket", "reinit"))

# %% [markdown]
# **How to read it.** Density falls to the right, and the copies part at step 0 everywhere. A barrier alone is not enough: copies that have learned nothing have no barrier either. So the table has their mean error (%), too.

# %%
sparse = masks.stable().query("level > 0")
copied = masks.copies().query("split == 'test' and metric == 'error'")
error = 100 * copied.groupby(["branch", "level"]).value.mean()
sparse["error"] = [error[row.branch, row.level] for row in sparse.itertuples()]
sparse["density"] = [f"{density:.1%}" for density in sparse.density]
sparse[columns] *= 100
sparse[["branch", "density", *columns, "stable", "error"]].round(1)

# %% [markdown]
# **What it says.** The dense network is unstable from step 0, and sparse enough tickets are stable from there: their copies end in one region, and with errors like those of the dense network. Weights matter, not masks alone: the same masks on new weights are unstable where they still learn (look at the errors), and learn little or nothing at the sparsest.
#
# ## Rewinding
#
# Where tickets are unstable at initialization, rewinding them to a later step $k$ (thesis, Algorithm 4) is what makes them match. Do these need it? Compare tickets rewound to step 0 and to half of the training.

# %%
late = jt.find_tickets(
    net, data, training, pruning.replace(rewind=steps // 2), seeds=seeds, progress=False
)
name = f"rewound to step {steps // 2}"
accuracy = jt.results.concat([early.table(), late.table().query("level > 0").assign(branch=name)])
ax = jt.plots.accuracy(accuracy, test_size=len(data.test))

# %%
final = jt.speed.over_seeds(jt.speed.final(accuracy)).query("level in (0, @levels)")
for row in final.itertuples():
    label = "dense" if row.level == 0 else row.branch
    print(f"{label}: {100 * row.mean:.1f} ± {100 * row.std:.1f}% with {100 * row.density:.1f}%")

# %% [markdown]
# **What the numbers do not say.** Three seeds: barriers of one step differ by tens of points between seeds, so that "unstable" is certain and its height is not; and accuracies that differ by less than their spread are not different. Nor does rewinding have to help: the network is small, the digits are easy, and where tickets are stable from initialization there is nothing to repair. ResNet-20 on CIFAR-10 is where it does (thesis, Figure 4-17).
#
# ## Try this next
#
# - `lr=0.03`: is the network stable earlier? The learning rate is what makes it unstable.
# - `noise=()` in `jt.instability`: without SGD noise the copies are equal and every barrier is exactly 0.
# - `throughout=5` and `jt.plots.throughout(dense.throughout())`: when do the copies part?
#
# More: [loss surfaces](../docs/measuring/surfaces.md), [a distance of your own](../docs/extending/distance.md). Next: [pruning at initialization](05_pruning_at_initialization.ipynb).
