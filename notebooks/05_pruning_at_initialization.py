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
# # 5. Pruning at initialization
#
# **Question.** Rewinding finds tickets by training many times. Can they be found *before* training, from the initial weights and a few examples? And do such methods find which weights to keep, or only how many in each layer? (Frankle et al. [2021](https://arxiv.org/abs/2009.08576); thesis, chapter 5.)
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
densities = (0.3, 0.1, 0.05, 0.02)
scores = ("magnitude", "random", "snip", "grasp", "synflow")
judged = 3  # the place in `densities`, from 1, at which controls are compared

# %% [markdown]
# ## Scores
#
# A score gives each weight a number, and the highest are kept. With the loss $L$, its gradient $g$ and its Hessian $H$ at the initial weights $w$:
#
# | score | what is kept | source |
# |---|---|---|
# | `magnitude` | large $\lvert w \rvert$ | the baseline |
# | `random` | anything | the other baseline |
# | `snip` | large $\lvert g\, w \rvert$: what the loss would miss to first order | Lee et al. 2019 |
# | `grasp` | by $w\,(Hg)$: what the gradient flow would miss | Wang et al. 2020 |
# | `synflow` | large $\lvert w \,\partial R / \partial w \rvert$ with $R$ the sum of all paths; no data, 100 rounds | Tanaka et al. 2020 |
#
# All seeds and densities of a score are pruned and trained side by side; each density keeps exactly its number of weights. `branches=` trains two controls: the mask permuted within each layer, and the same mask on new weights.
#
# With a prepared data set, `p = jt.preset("resnet20-cifar10-early")` has a setting of chapter 5: `data = p.load()`, `net = p.net(data)`, `training = p.training`. Use a GPU or TPU for it.

# %%
data = jt.data.load("digits", validation=0.1)
net = jt.networks.lenet(data.shape, data.classes)
training = jt.Training(steps=steps, batch_size=60, optimizer="adam", lr=1.2e-3)
found = {
    score: jt.prune_at(
        net,
        data,
        training,
        score=score,
        density=densities,
        branches=["shuffle", "reinit"],
        dense=score == scores[0],  # once is enough
        seeds=seeds,
        progress=False,
    )
    for score in scores
}

# %% [markdown]
# What pruning *after* training reaches: `step="end"` trains the dense network first, prunes it once by magnitude and trains what is left from the weights that it ended with.

# %%
after = jt.prune_at(
    net,
    data,
    training,
    score="magnitude",
    density=densities,
    step="end",
    branches=["shuffle", "reinit"],
    dense=False,
    seeds=seeds,
    progress=False,
)

# %%
found["magnitude_after_training"] = after
tables = {name: runs.table() for name, runs in found.items()}
tickets = [
    t[t.branch.eq("ticket") & t.level.gt(0)].assign(branch=name) for name, t in tables.items()
]
dense = tables[scores[0]].query("branch == 'ticket' and level == 0")
table = jt.results.concat([dense, *tickets])
ax = jt.plots.accuracy(table, test_size=len(data.test), band="none", ylim=(70, 100))

# %%
final = jt.speed.over_seeds(jt.speed.final(table))
print("dense: {mean:.1%} ± {std:.1%}, {seeds} seeds".format(**final[final.level == 0].iloc[0]))
final = final[final.level > 0]
final["accuracy"] = [f"{m:.1%} ± {s:.1%}" for m, s in zip(final["mean"], final["std"], strict=True)]
final["weights"] = [f"{density:.0%}" for density in final.density]
shown = final.pivot(index="branch", columns="weights", values="accuracy")
shown.loc[list(found), [f"{density:.0%}" for density in densities]]

# %% [markdown]
# ## Which weights, or how many in each layer?
#
# A method that finds *which* weights of a layer matter loses accuracy when its mask is permuted within the layers. A method that depends on the *values* of the weights loses when they are drawn anew. Differences to the method in points, with the pooled standard deviation over seeds; a control is "clearly worse" beyond two of these, so that what it destroyed mattered.

# %%
import pandas as pd

rows = []
for name, t in tables.items():
    last = jt.speed.over_seeds(jt.speed.final(t))
    last = last[last.level == judged].set_index("branch")
    for control in ("shuffle", "reinit"):
        difference = 100 * (last.loc[control, "mean"] - last.loc["ticket", "mean"])
        spread = 100 * ((last.loc[control, "std"] ** 2 + last.loc["ticket", "std"] ** 2) / 2) ** 0.5
        rows.append((name, control, difference, spread, difference < -2 * spread))
matrix = pd.DataFrame(rows, columns=["method", "control", "difference", "std", "passes"])
print(f"at {densities[judged - 1]:.0%} of the weights, {len(seeds)} seeds")
ax = jt.plots.controls(matrix, verdicts=("control clearly worse", "no clear difference"))

# %% [markdown]
# **What it says.** As in the paper: permuting the masks of the methods at initialization, or drawing new weights, does no clear harm. What they find is how many weights each layer needs, which the next figure shows. Pruning after training is there to compare with. One density, three seeds: a control that costs less than about two points would not be seen here.

# %% [markdown]
# ## What the methods decide: the densities of the layers

# %%
reports = [
    jt.layers.report(runs).query("level == @judged and branch == 'ticket'").assign(branch=name)
    for name, runs in found.items()
]
ax = jt.plots.layer_densities(jt.results.concat(reports))

# %% [markdown]
# ## What the masks cost
#
# Passes are of one example each. Pruning at initialization looks at a few examples; pruning after training costs one dense training before the ticket is trained, and rewinding one for each level.

# %%
rows = {name: jt.costs.finding(runs).query("level == @judged") for name, runs in found.items()}
columns = ["training_steps", "forward_passes", "backward_passes", "flops"]
pd.concat(rows).droplevel(1)[columns].map("{:,.3g}".format)

# %% [markdown]
# ## Try this next
#
# - `step=(0, 20, 100, "end")` in `jt.prune_at`: when in training does the choice of weights begin to matter?
# - `score="random", scope="erk"`: random masks with sensible layers. How much of SNIP's lead is left?
# - `score=jt.scores.inverted("snip")`: keep the *worst* weights. A method whose ranking says something gets much worse.
#
# More: [a score of your own](../docs/extending/score.md), [a layout of your own](../docs/extending/layout.md), [structured masks](../docs/methods/structured.md). Next: [learned masks](06_learned_masks.ipynb).
