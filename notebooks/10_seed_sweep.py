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
# # 10. A seed sweep on a TPU pod or several GPUs
#
# **Question.** How many seeds does a statement need, and how do many seeds become quick? All seeds of a run train in one compiled program, spread over the devices there are: the cores of a laptop here, the GPUs of a machine, or the chips of a TPU pod. The call is the same. It saves as it goes, so that a stop costs nothing.
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
seeds = range(24)
steps = 300  # updates of each training
levels = 2  # how often networks are trained, pruned and rewound
budget = 6.0  # seconds until the first call is stopped on purpose

# %% [markdown]
# ## Devices
#
# A *mesh* names the devices along two axes: replicas are spread over `seed`, and the batch of each replica is split over `data` where there are more devices than replicas. `jobs=` chooses both, seeds first. On several hosts each process calls `jt.distributed()` before anything else, then the same code as here.

# %%
jobs = len(seeds) * 2  # tickets and one control side by side
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
mesh = jt.parallel.mesh(jobs=jobs, batch_size=training.batch_size)
dict(mesh.shape)

# %% [markdown]
# ## A run that is stopped
#
# With a `folder` the state is saved every `save_every` seconds, after every finished level, and before the process ends on SIGTERM, as before a preemption. The folder may be a bucket, `gs://bucket/run`. A time budget does the same after some seconds: it saves and raises `jt.RunInterrupted`.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
pruning = jt.Pruning(levels=levels, fraction=0.8)


def sweep(**runtime):
    """Find the tickets; the same call starts, resumes and extends a run."""
    return jt.find_tickets(
        net,
        data,
        training,
        pruning,
        seeds=seeds,
        branches=["reinit"],
        runtime=jt.Runtime(mesh=mesh, folder="sweep", save_every=60, progress=False, **runtime),
    )


try:
    sweep(time_budget=budget)
    print("finished before the budget was over")
except jt.RunInterrupted as stop:
    print(f"stopped on purpose, exit status {stop.exit_status}")

# %% [markdown]
# ## The same call goes on
#
# Finished parts are read from the folder, and the training that was under way continues at its last save. The result equals that of a run that was never stopped, bit for bit.

# %%
runs = sweep()
jt.speed.over_seeds(jt.speed.final(runs.table())).round(4)

# %%
import time

began = time.perf_counter()
table = sweep().table()
print(f"all of it read back in {time.perf_counter() - began:.1f} s")
assert table.equals(runs.table())

# %% [markdown]
# The folder holds tables (Parquet and CSV), tickets (safetensors), settings (JSON) and what computed them. `jt.load` reads it on any machine; other settings than those it was made with are refused, naming what differs.

# %%
from pathlib import Path

print(*sorted(path.name for path in Path("sweep").iterdir() if path.name[0] != "."), sep="\n")
loaded = jt.load("sweep")
assert loaded.table().equals(table) and loaded.seeds == runs.seeds

# %% [markdown]
# ## How many seeds does a statement need?
#
# The gap between tickets and the same masks with new weights, at the sparsest level, by seed; and the 95% interval of its mean from the first $n$ seeds, $\bar d \pm t_{0.975,\,n-1}\, s_d / \sqrt{n}$.

# %%
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

final = jt.speed.final(table).query("level == @levels")
by_seed = 100 * final.pivot_table(index="seed", columns="branch", values="value")
gap = (by_seed.ticket - by_seed.reinit).to_numpy()
counts = np.arange(2, len(gap) + 1)
means = np.array([gap[:n].mean() for n in counts])
half = np.array([stats.t.ppf(0.975, n - 1) * gap[:n].std(ddof=1) / n**0.5 for n in counts])

with jt.plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for branch, style in jt.plots.branch_styles(["ticket", "reinit"]).items():
        values = np.sort(by_seed[branch])
        rank = np.arange(1, len(values) + 1) / len(values)
        axes[0].step(values, rank, where="post", color=style.color, label=style.label)
    axes[0].set(xlabel="test accuracy (%)", ylabel="share of seeds at or below")
    axes[0].legend()
    axes[1].plot(counts, means, color="black", label="mean gap")
    axes[1].fill_between(counts, means - half, means + half, alpha=0.25, label="95% interval")
    axes[1].axhline(0, color="gray", linewidth=1)
    axes[1].set(xlabel="number of seeds", ylabel="ticket ahead by (points)")
    axes[1].set_ylim(gap.min() - 1, gap.max() + 1)
    axes[1].legend()

# %%
print(f"{100 * runs.densities[levels]:.0f}% of the weights, {len(gap)} seeds")
print(f"gap {gap.mean():.2f} points, standard deviation {gap.std(ddof=1):.2f},", end=" ")
print(f"95% interval {means[-1] - half[-1]:.2f} to {means[-1] + half[-1]:.2f}")
clear = counts[means - half > 0]
if len(clear):
    print(f"the first {clear[0]} seeds are the fewest whose interval excludes 0")
narrow = (1.96 * gap.std(ddof=1) / 0.25) ** 2
print(f"for an interval of ±0.25 points: about {narrow:.0f} seeds")

# %% [markdown]
# Stopping as soon as an interval excludes 0 is not a test: with enough looks one of them does so by chance. Choose the number of seeds first.
#
# ## On a pod
#
# A script with `jt.distributed()` in its first line and the cells above is all: every host starts it, process 0 writes the folder, a preempted pod is created again and the same command goes on. [Several hosts and TPU pods](../docs/guides/pods.md) has the commands.
#
# ## Try this next
#
# - `seeds = range(32)` and run all cells again: the folder takes the new seeds, and only these are trained.
# - `jt.Runtime(..., on_evaluation=jt.callbacks.CSV("rows.csv"))`: watch a long run from another process.
# - Open `sweep/environment.json`: which versions and processors computed the numbers?
#
# More: [pods](../docs/guides/pods.md), [saved runs](../docs/guides/saved-runs.md), [side by side](../docs/concepts/replicas.md), [watch and stop](../docs/guides/watching.md). Back to the [first notebook](01_quick_start.ipynb).
