"""An experiment in chunks: against a loop written by hand, and by two workers against one core."""

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from flax import linen as nn
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.benchmarks.timing import NAN, Row, compare, timed_row
from experiments.benchmarks.workloads import Sizes
from experiments.regimes import phase_diagram
from experiments.regimes.phase_diagram import PhaseDiagram, gains_of
from experiments.runner import frame, results, workers
from jacobian_rnn import tasks

BY_HAND = "loop by hand"
FRAME = "experiment in chunks"
ONE_CORE = "one worker on one core"
TWO_WORKERS = "two workers"
CELL = "GRUCell"


def cases(sizes: Sizes) -> list[tuple[str, Callable[[], list[Row]]]]:
    """List what can be run: `(label, function that returns rows)`."""
    if not sizes.sweep_horizons:
        return []  # compilation alone takes most of a minute
    return [
        ("sweep: overhead", partial(overhead, sizes)),
        ("sweep: workers", partial(by_workers, sizes)),
    ]


def sweep_of(sizes: Sizes) -> PhaseDiagram:
    """Return the sweep that is timed: one cell over a few gains, horizons and seeds."""
    return PhaseDiagram(
        cells=(CELL,),
        num_gains=4,
        horizons=sizes.sweep_horizons,
        num_seeds=sizes.sweep_seeds,
        learning_rates=(0.01,),
        num_updates=sizes.sweep_updates,
        chunk_size=2 * sizes.sweep_seeds,
        dtype=sizes.dtype,  # pyright: ignore[reportArgumentType]
    )


def overhead(sizes: Sizes) -> list[Row]:
    """Time a whole sweep, from nothing to its result, against Flax and optax in a loop."""
    config = sweep_of(sizes)

    def by_frame():
        jax.clear_caches()
        with tempfile.TemporaryDirectory() as folder:
            return _in_this_process(config, Path(folder))

    def by_hand():
        jax.clear_caches()
        gain, seed = np.meshgrid(gains_of(config), np.arange(config.num_seeds), indexing="ij")
        rows = gain.ravel().astype(config.dtype), seed.ravel()
        shapes = [jax.jit(jax.vmap(partial(train_by_hand, config, T))) for T in config.horizons]
        return [jax.device_get(shape(*rows)) for shape in shapes]

    timings = compare({BY_HAND: by_hand, FRAME: by_frame}, sizes.sweep_rounds)
    row = _row(config, "overhead, compilation included")
    return [timed_row(row._replace(name=name), timings) for name in (BY_HAND, FRAME)]


def train_by_hand(config: PhaseDiagram, horizon: int, gain, seed) -> tuple:
    """Draw, predict and train one GRU as one would without the engine; return skill and regime."""
    task = tasks.delayed_recall(horizon, dtype=jnp.dtype(config.dtype))
    kernel_init = nn.initializers.orthogonal(gain)
    layer = nn.RNN(
        nn.GRUCell(
            config.width, recurrent_kernel_init=kernel_init, param_dtype=jnp.dtype(config.dtype)
        )
    )
    readout = nn.Dense(task.output_size, param_dtype=jnp.dtype(config.dtype))
    key = jax.random.fold_in(jax.random.key(0), seed)
    cell_key, readout_key, data_key = jax.random.split(key, 3)
    xs = task.sample(data_key, config.num_sequences).xs
    carry = jnp.zeros(config.width, xs.dtype)
    params = (layer.init(cell_key, xs), readout.init(readout_key, carry))
    prediction = jrnn.predict_regime(
        jrnn.from_linen(layer, params[0]), carry, xs, horizon=task.horizon
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.adam(config.learning_rates[0])
    )

    def predicted(params, xs) -> Any:
        states: Any = layer.apply(params[0], xs)
        return readout.apply(params[1], states[:, -task.num_scored_steps :])

    def update(state, key):
        params, optimizer_state = state
        batch = task.sample(key, config.batch_size)

        def loss(params):
            return jnp.mean(tasks.loss(task, predicted(params, batch.xs), batch.targets))

        value, gradient = jax.value_and_grad(loss)(params)
        changes, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, changes), optimizer_state), value

    keys = jax.random.split(data_key, config.num_updates)
    (params, _), losses = jax.lax.scan(update, (params, optimizer.init(params)), keys)
    skills = [
        tasks.skill(task, predicted(params, held_out.xs), held_out.targets)
        for split in ("validation", "test")
        for held_out in [task.sample_held_out(data_key, config.held_out_size, split)]
    ]
    return skills, losses, prediction.regime


def by_workers(sizes: Sizes) -> list[Row]:
    """Run one experiment by two workers, and by one that is pinned to a core: the same numbers."""
    config = sweep_of(sizes)
    row = _row(config, "throughput, start and compilation included")
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        return [row._replace(name=TWO_WORKERS, note="needs Linux and two cores")]
    cores = os.sched_getaffinity(0)
    runs = {
        ONE_CORE: partial(_by_command_line, config, {min(cores)}, num_workers=1),
        TWO_WORKERS: partial(_by_command_line, config, cores, num_workers=2),
    }
    timings = compare(runs, sizes.sweep_rounds)
    one = timings.outputs[ONE_CORE]
    return [
        timed_row(
            row._replace(name=name),
            timings,
            error=0.0 if one.equals(timings.outputs[name]) else NAN,
        )
        for name in runs
    ]


def _in_this_process(config, folder):
    console = Console(file=io.StringIO())
    module: Any = phase_diagram
    if frame.run(module, config, workers.Here(), console=console, folder=folder):
        msg = f"the experiment failed: {console.file}"
        raise RuntimeError(msg)
    return _result(folder)


def _by_command_line(config, cores, *, num_workers) -> xr.Dataset:
    """Run an experiment by its command line, bound to some cores of this machine."""
    options = {
        "cells": config.cells,
        "gains": config.gains,
        "num-gains": (config.num_gains,),
        "horizons": config.horizons,
        "num-seeds": (config.num_seeds,),
        "learning-rates": config.learning_rates,
        "num-updates": (config.num_updates,),
        "chunk-size": (config.chunk_size,),
        "dtype": (config.dtype,),
        "workers": (num_workers,),
    }
    arguments = [str(word) for name, values in options.items() for word in (f"--{name}", *values)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments", "phase_diagram", *arguments]
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # which new processes inherit
        try:
            subprocess.run(
                [*command, "--folder", folder],
                cwd=results.ROOT.parent,
                # Each run compiles what it runs.
                env=os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"},
                check=True,
                capture_output=True,
            )
        finally:
            os.sched_setaffinity(0, before)
        return _result(Path(folder))


def _result(folder):
    (path,) = folder.glob("*/*.nc")
    return results.read(path)


def _row(config, case):
    num_networks = config.num_gains * config.num_seeds * len(config.horizons)
    return Row("sweep", case, "", config.width, 0, config.num_updates, num_networks)
