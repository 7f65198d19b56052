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
# # 3. Controls and statistics: is it a winning ticket?
#
# **Question.** A sparse network is as accurate as the dense one. Is that the merit of its mask, of its initial weights, of both, or would any sparse network do? Controls change a ticket in one way and retrain it; statistics over seeds say which differences are more than luck; `jt.verdict` puts both into a judgment.
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
seeds = range(5)
steps = 400  # updates of each training
levels = 7  # how often networks are trained, pruned and rewound
judged = 5  # the level that is judged

# %% [markdown]
# ## Tickets and controls
#
# Each control keeps something and destroys something else (thesis, section 3.3.5; KD-LTS, section 6):
#
# | branch | mask | initial weights |
# |---|---|---|
# | `ticket` | found by pruning | the original ones |
# | `reinit` | the same | new |
# | `shuffle` | permuted within each layer | the original ones |
# | `random` | permuted over all layers | the original ones |
#
# All seeds, and all branches of a level, train side by side in one compiled program.
#
# With a prepared data set, `p = jt.preset("lenet-mnist")` has the setting of the thesis, MNIST and 24,000 steps: `data = p.load()`, `net = p.net(data)`, `training = p.training`. Use a GPU or TPU for it.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
runs = jt.find_tickets(
    net,
    data,
    training,
    jt.Pruning(levels=levels, fraction=0.4),
    seeds=seeds,
    branches=["reinit", "shuffle", "random"],
    progress=False,
)
table = runs.table()

# %%
ax = jt.plots.accuracy(table, test_size=len(data.test))

# %% [markdown]
# Bands reach from the worst to the best seed. A triangle marks where a line leaves the figure.
#
# ## Means, spreads, and differences of the same seed
#
# `jt.speed.over_seeds` gives mean $\bar a$ and standard deviation $s$ over the $n$ seeds. A ticket and its control of one seed share initialization and order of examples, so their difference $d_i$ varies less than either: the interval
#
# $$\bar d \pm t_{0.975,\,n-1}\, s_d / \sqrt{n}$$
#
# is that of a paired $t$-test. Where it excludes 0, the control is worse (or better) at the 5% level; of 20 such comparisons one excludes 0 by chance.

# %%
import numpy as np
import pandas as pd
from scipy import stats

final = jt.speed.final(table)
by_seed = 100 * final.pivot_table(index=["level", "seed"], columns="branch", values="value")
rows = []
for level in range(1, levels + 1):
    for control in ("reinit", "shuffle", "random"):
        d = (by_seed.loc[level].ticket - by_seed.loc[level][control]).to_numpy()
        low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
        rows.append((level, control, d.mean(), low, high))
gaps = pd.DataFrame(rows, columns=["level", "control", "ticket ahead by", "low", "high"])
gaps.insert(1, "density", [f"{100 * runs.densities[level]:.1f}%" for level in gaps.level])
gaps.round(2)

# %%
import matplotlib.pyplot as plt

styles = jt.plots.branch_styles(gaps.control.unique())
with jt.plots.style():
    figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for shift, (control, rows) in enumerate(gaps.groupby("control", sort=False)):
        style = styles[control]
        ahead = rows["ticket ahead by"]
        error = np.abs(rows[["low", "high"]].to_numpy().T - ahead.to_numpy())
        ax.errorbar(
            rows.level + 0.12 * (shift - 1),
            ahead,
            error,
            color=style.color,
            marker=style.marker,
            label=style.label,
            capsize=2,
        )
    ax.axhline(0, color="gray", linewidth=1)
    ax.set_yscale("symlog", linthresh=2)
    ticks = [-1, 0, 1, 2, 5, 10, 20, 50]
    ax.set_yticks(ticks, ticks)
    ax.set_xticks(range(1, levels + 1), gaps.density.unique())
    ax.set(xlabel="density", ylabel="ticket ahead by (points, 95% interval)")
    ax.legend()

# %%
for control, rows in gaps.groupby("control", sort=False):
    clear = rows[rows.low > 0].density.tolist()
    print(f"ahead of {control}, 95% interval above 0, at: {', '.join(clear) or 'no density'}")

# %% [markdown]
# ## Do they learn faster?
#
# Winning tickets of the thesis also learn faster than the dense network, and controls more slowly. A ticket begins with some accuracy before its first step: its mask alone says something. Solid lines are tickets, dashed ones the same masks with new weights; colors tell densities.

# %%
ax = jt.plots.curves(table, levels=(0, levels // 2, levels), branches=("ticket", "reinit"))

# %% [markdown]
# ## The verdict
#
# `runs.winning()` asks for accuracy alone. KD-LTS (Definitions 6.1 to 6.3) asks for more: the ticket is *stable* (a copy trained under other SGD noise ends in the same linearly connected region: error barrier below 2 points), *sensitive* (controls are clearly worse), starts at initialization, and matches a dense network *whose learning rate is tuned* (three rates, chosen on the validation split); a small dense network with as many parameters must not do as well. `jt.verdict` trains all of these side by side and lists each condition.

# %%
verdict = jt.verdict(runs, level=judged, progress=False)
print(verdict)

# %% [markdown]
# **How to read it.** "bar" is the number that the ticket has to reach, or that a control has to stay below: the ticket's mean less a clear gap, which is two pooled standard deviations over seeds. "margin" is how far it is from failing, in points. A failed condition is not a proof of the contrary: with few seeds a clear gap is wide. And look at the first line: tickets that match the dense network at the rate they were found with may not match one whose rate is tuned. All networks that were judged, a dot for each seed and a bar for the mean:

# %%
networks = verdict.networks()
last = networks[networks.split.eq("test") & networks.metric.eq("accuracy")]
last = last[last.step == last.groupby("branch").step.transform("max")]
order = last.groupby("branch").value.mean().sort_values().index
styles = jt.plots.branch_styles(order)
labels = [styles[name].label.replace("dense lr", "dense, learning rate") for name in order]
with jt.plots.style():
    figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for place, branch in enumerate(order):
        values = 100 * last[last.branch == branch].value
        ax.plot(values, [place] * len(values), "o", color=styles[branch].color, alpha=0.5)
        ax.plot(values.mean(), place, "|", color="black", markersize=14)
    ax.set_yticks(range(len(order)), labels)
    ax.set(xlabel="test accuracy at the end (%)")

# %% [markdown]
# ## Try this next
#
# - Judge a sparser and a denser level (`judged`): which condition fails first?
# - `seeds=range(20)`: the intervals shrink with $1/\sqrt{n}$. How many seeds does a gap of half a point need?
# - A control of your own is a function `(ticket, key, *, net) -> ticket`, for example one that keeps only the signs of the weights: see [a control of your own](../docs/extending/control.md).
#
# More: [judge methods on one page](../docs/measuring/overview.md), [side by side](../docs/concepts/replicas.md). Next: [rewinding and instability](04_instability.ipynb).
