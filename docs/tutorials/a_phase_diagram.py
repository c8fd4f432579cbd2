# %% [markdown]
# # A phase diagram on several workers
#
# Which networks learn, over gain and horizon? The experiment `phase_diagram` predicts and trains
# every network. Its work is cut into chunks, and worker processes share them. What runs here with
# two workers of one machine runs with hundreds of [a cluster](../cluster.md).

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import jacobian_rnn as jrnn
from jacobian_rnn import plotting

folder = Path(tempfile.mkdtemp())
options = (
    "--cells SimpleCell --gains 0.4 6 --num-gains 9 --horizons 5 10 20 40 --num-seeds 4 "
    "--num-updates 200 --chunk-size 36"
)


def run(workers):
    """Run the experiment, and return what it says of its chunks."""
    command = f"-m experiments phase_diagram {options} --workers {workers} --folder {folder}"
    done = subprocess.run(
        [sys.executable, *command.split()], capture_output=True, text=True, check=True
    )
    return next(line for line in done.stdout.splitlines() if " chunks" in line).split("; kept")[0]


# %% [markdown]
# ## Run it
#
# In a shell this is `python -m experiments phase_diagram` with the options above. Networks of one
# shape are one compiled program, so the 36 networks of a horizon are one chunk.

# %%
print(run(workers=2))

# %% [markdown]
# A chunk is saved when it is done, and that folder is the only state. The same command goes on
# where a run ended, with any number of workers. Here nothing is left to do:

# %%
print(run(workers=0))

# %% [markdown]
# ## Read the result
#
# A result is a dataset of xarray with named axes. `python -m experiments show FILE` says what is in
# it.

# %%
(path,) = (folder / "phase_diagram").glob("*.nc")
with xr.open_dataset(path) as file:
    dataset = file.sel(cell="SimpleCell").load()
learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).mean("seed")
growth = dataset["log_growth"].median(["sequence", "seed"])
print(dict(dataset.sizes))
print(f"{float(learned.mean()):.0%} of the networks learned")

# %% alt="Share of networks that learned, by gain and horizon, with the predicted boundaries"
_, axes = plt.subplots(figsize=(6, 3.8), layout="constrained")
place = (learned["gain"], learned["horizon"])
shades = learned.transpose("horizon", "gain")
mesh = axes.pcolormesh(*place, shades, cmap="cividis", vmin=0, vmax=1)
lines = axes.contour(
    *place,
    growth.transpose("horizon", "gain"),
    jrnn.THRESHOLDS,
    colors=plotting.COLOURS[1],
    linestyles=["dashed", "solid"],
)
names = [f"log growth {threshold:+.1f} nats" for threshold in jrnn.THRESHOLDS]
axes.legend(lines.legend_elements()[0], names, loc="lower right")
axes.set(xscale="log", yscale="log", xlabel="recurrent gain", ylabel="horizon (steps)")
axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
axes.set_yticks(learned["horizon"].to_numpy(), [str(h) for h in learned["horizon"].to_numpy()])
axes.minorticks_off()
plt.colorbar(mesh, label="share of networks that learned")
plt.show()

# %% [markdown]
# The lines are where the median log growth is at a threshold: learning is predicted between them.

# %%
inside = (growth > jrnn.THRESHOLDS.vanishing) & (growth < jrnn.THRESHOLDS.exploding)
shares = [float(learned.where(where).mean()) for where in (inside, ~inside)]
print(f"learned: {shares[0]:.0%} between the lines, {shares[1]:.0%} outside")

# %% check
assert shares[0] > shares[1]
assert np.isfinite(growth).all()

# %% [markdown]
# `python -m paper_figures phase_diagram` draws the picture of the default preset, which
# [the gallery](../gallery.md#phase-diagram) shows. [On several cores, machines and
# clusters](../cluster.md) says how Dask, Slurm and Kubernetes share the work.
