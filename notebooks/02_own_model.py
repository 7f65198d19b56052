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
# # 2. Your own NNX model and arrays
#
# **Question.** How do tickets of *your* network on *your* data come about? Here: a small residual network written in Flax NNX, with BatchNorm and dropout, arrays that could come from anywhere, and a metric that is not built in.
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
seeds = range(2)
steps = 300  # updates of each training
levels = 6  # how often networks are trained, pruned and rewound
channels = 20  # of the network

# %% [markdown]
# ## Arrays
#
# `jt.data.from_arrays` takes images `[n, height, width, channels]`, rows of features, tokens or other floats, and labels as whole numbers; it checks and copies them. Splits have names: "train" and "test" must be there, "validation" may be, and any other is evaluated too. Here "noisy" holds the test images with noise added. These arrays are the digits of scikit-learn; replace them by yours.

# %%
import numpy as np
from sklearn.datasets import load_digits

x, y = load_digits(return_X_y=True)  # float64 [1797, 64] from 0 to 16, int64 [1797]
x = x.reshape(-1, 8, 8, 1).astype(np.float32)
rng = np.random.default_rng(0)
order = rng.permutation(len(x))
train, validation, test = np.split(order, [1200, 1400])
noisy = x[test] + rng.normal(scale=4.0, size=x[test].shape).astype(np.float32)

data = jt.data.from_arrays(
    splits={
        "train": (x[train], y[train]),
        "validation": (x[validation], y[validation]),
        "test": (x[test], y[test]),
        "noisy": (noisy, y[test]),
    },
    name="my digits",
)
data

# %% [markdown]
# ## Network
#
# Write the module as always, with `nnx.Rngs` as its only argument, and give `jt.from_nnx` the class, not an object: jaxticket makes one network for each seed itself. BatchNorm statistics are kept, rewound and saved with each network, dropout draws from a key that differs between seeds and steps, and `use_running_average` and `deterministic` follow training and evaluation. `fast_conv=True` computes the convolutions of many networks side by side faster on a CPU.

# %%
from flax import nnx


class Block(nnx.Module):
    def __init__(self, width, *, rngs):
        self.conv = nnx.Conv(width, width, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, x):
        return x + nnx.relu(self.norm(self.conv(x)))


class MyNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(1, channels, (3, 3), rngs=rngs)
        self.block_1 = Block(channels, rngs=rngs)
        self.block_2 = Block(channels, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(channels, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), strides=(2, 2))
        x = self.block_2(self.block_1(x))
        return self.last(self.dropout(x.mean((1, 2))))


net = jt.from_nnx(MyNet, data.shape, name="my net", fast_conv=True)
net

# %% [markdown]
# What is prunable: leaves called `kernel`. Biases, normalization and embeddings stay dense; `prunable=` in `jt.from_nnx` says it otherwise.

# %%
jt.layers.layers(net, net.mask())[["layer", "size", "units", "flops"]]

# %% [markdown]
# ## A metric of your own
#
# A metric adds up a vector over the examples and makes a number of it, so that it does not depend on batches: here the share of examples whose right answer is among the two largest logits. Names such as "top5" or "macro_f1" are in `jt.metrics.METRICS`.

# %%
import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AmongBest:
    best: int = 2

    @property
    def name(self):
        return f"top{self.best}"

    def sums(self, logits, labels):  # [batch, classes], [batch] -> [2]
        right = jnp.take_along_axis(logits, labels[:, None], axis=-1)
        better = (logits > right).sum(axis=-1)
        return jnp.stack([(better < self.best).sum(), labels.size]).astype(jnp.float32)

    def value(self, sums):
        return sums[0] / sums[1]


training = jt.Training(
    steps=steps, batch_size=60, optimizer="adam", lr=5e-3, schedule="cosine", metrics=(AmongBest(),)
)

# %% [markdown]
# ## Tickets
#
# Networks with normalization and larger learning rates often have no winning tickets at initialization (thesis, chapter 4); `rewind=` takes the weights of an early step instead. A tenth of the training is enough here. `one_shot=False`, `score="magnitude"` and `scope="global"` are the defaults: level after level, all layers ranked together.

# %%
pruning = jt.Pruning(levels=levels, fraction=0.3, rewind=steps // 10)
runs = jt.find_tickets(
    net, data, training, pruning, seeds=seeds, branches=["shuffle"], progress=False
)
table = runs.table()
runs

# %% [markdown]
# The table has a row for each split and metric, the extra split and the metric of your own included. Means over seeds of the tickets at the end of training, in percent:

# %%
last = table[(table.branch == "ticket") & (table.metric != "loss")]
last = last[last.step == last.step.max()]
means = 100 * last.pivot_table(index="level", columns=["metric", "split"], values="value")
means.index = [f"{100 * density:.1f}%" for density in runs.densities]
means.rename_axis("density").round(1)

# %%
ax = jt.plots.accuracy(table, test_size=len(data.test))

# %% [markdown]
# **How to read it.** "shuffle" has as many weights in each layer as the ticket, in other places. Where the lines part, it matters *which* weights of a layer are kept. With two seeds a band has two ends and no more: run more seeds before you conclude.
#
# ## Where the weights are left

# %%
report = jt.layers.report(runs)
ax = jt.plots.layer_densities(report[report.level == levels])

# %%
lowest = report[report.level == levels].groupby("layer").layer_density.mean().sort_values()
print(f"at {100 * runs.densities[levels]:.1f}% in all, means over {len(runs.seeds)} seeds:")
print((100 * lowest).round(1).to_string())

# %% [markdown]
# Global ranking takes more from layers that have many weights than from the first and the last, which have few. Layers in one number each: `jt.layers.report(runs)` also has dead units and multiplications.
#
# ## Try this next
#
# - Take your own arrays and module. What does not fit (a module that draws random numbers in evaluation, labels that are one-hot) is refused with the remedy.
# - `score=` in `jt.Pruning` may be a function `(params, context, *, key) -> scores`: rank by `|w|` divided by the mean `|w|` of its layer, and compare the layers' densities.
# - `rewind=0`: do tickets of this network match from initialization?
#
# More: [networks of your own](../docs/guides/networks.md), [data of your own](../docs/guides/own-data.md), [tasks of your own](../docs/guides/tasks.md), [a metric](../docs/extending/metric.md) and [a score of your own](../docs/extending/score.md). Next: [controls and statistics: is it a winning ticket?](03_winning_ticket.ipynb)
