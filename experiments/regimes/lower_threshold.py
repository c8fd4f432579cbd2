"""Ask what sets the log growth below which networks do not learn, and that above which they do not.

SimpleCell networks of many gains are trained on delayed recall. One thing at a time is varied: the
number of updates, the batch size, Adam's learning rate and its epsilon, the precision, the noise of
the inputs, and SGD in place of Adam. For each setting a logistic regression on the log growth finds
the growth at which half of the networks learn.

If the noise of gradients were what hides a small one, a gradient of relative size e^−x would need
e^{2x} sequences to stand out, and the threshold would fall by ½ ln 10 = 1.15 nats with every decade
of data.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import drawing, protocol
from experiments.regimes import threshold_effects as effects
from experiments.regimes.threshold_effects import (
    BATCH,
    BOUNDS,
    EPSILON,
    GROWTH,
    LAW,
    NOISE,
    PRECISION,
    SGD,
    UPDATES,
    Setting,
)
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report, Seed
from jacobian_rnn import tasks, training

CELL = "SimpleCell"


@dataclasses.dataclass(frozen=True)
class LowerThreshold:
    """Which networks are trained, and what is varied.

    Each setting but the usual one differs from it in one thing. All settings of Adam are trained
    with every learning rate, because what else matters depends on it.

    Attributes:
        width: hidden units.
        delay: steps between what delayed recall shows and the answer.
        gains: lowest and highest factor on orthogonal recurrent kernels.
        num_networks: of gains evenly spaced in the logarithm, each with a seed of its own.
        first_seed: seeds count from here.
        num_sequences: over which the log growth of a network is measured; their median counts.
        learning_rates: of Adam.
        usual_updates: of every setting.
        budgets: numbers of updates after which Adam and SGD as usual are observed.
        usual_batch: sequences per update.
        batch_sizes: others.
        usual_epsilon: of Adam.
        epsilons: others.
        usual_noise: standard deviation of the inputs after the first.
        noises: others.
        sgd_rates: learning rates of plain SGD.
        clip_norm: global gradient norm to which the gradients that optimisers see are clipped.
        held_out_size: sequences in validation and in test data.
        num_resamples: of the networks, for intervals.
        dtype: precision of all settings but those that are asked to be in float64.
    """

    width: Count = 32
    delay: Count = 20
    gains: Range = (0.1, 8.0)
    num_networks: Count = 64
    first_seed: Seed = 0
    num_sequences: Count = 8
    learning_rates: Axis[Positive] = (0.001, 0.003, 0.01)
    usual_updates: Count = 300
    budgets: Axis[Count] = (30, 60, 100, 200, 300, 600, 1000, 2000, 3000)
    usual_batch: Count = 8
    batch_sizes: Axis[Count] = (1, 32)
    usual_epsilon: Positive = 1e-8
    epsilons: Axis[Positive] = (1e-12, 1e-6, 1e-4)
    usual_noise: Positive = 0.3
    noises: Axis[Positive] = (0.1, 0.6)
    sgd_rates: Axis[Positive] = (0.03, 0.1)
    clip_norm: Positive = 1.0
    held_out_size: Count = 128
    num_resamples: Count = 500
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        """Refuse budgets that do not hold the usual one, and values that are no variation."""
        if self.usual_updates not in self.budgets:
            msg = f"--budgets: received {self.budgets}, expected --usual-updates among them"
            raise ValueError(msg)
        for name in ("batch", "epsilon", "noise"):
            usual, others = getattr(self, f"usual_{name}"), getattr(self, _OTHERS[name])
            if usual in others:
                msg = f"--usual-{name}: received {usual}, expected none of {others}"
                raise ValueError(msg)


_OTHERS = {"batch": "batch_sizes", "epsilon": "epsilons", "noise": "noises"}
PRESETS = {
    "quick": LowerThreshold(
        width=8,
        delay=6,
        num_networks=12,
        num_sequences=2,
        learning_rates=(0.003, 0.03),
        usual_updates=60,
        budgets=(60, 120),
        usual_batch=4,
        batch_sizes=(8,),
        epsilons=(1e-4,),
        noises=(0.1,),
        sgd_rates=(0.3,),
        held_out_size=32,
        num_resamples=50,
    ),
    "default": LowerThreshold(),
    "full": LowerThreshold(
        width=64,
        delay=40,
        gains=(0.2, 8.0),
        num_networks=512,
        budgets=(100, 200, 300, 600, 1000, 2000, 3000, 6000, 10000, 20000),
        batch_sizes=(1, 2, 4, 16, 32, 64, 128),
        epsilons=(1e-12, 1e-11, 1e-10, 1e-9, 1e-7, 1e-6, 1e-5, 1e-4),
        noises=(0.03, 0.1, 0.2, 0.5, 1.0),
        sgd_rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        held_out_size=256,
        num_resamples=2000,
    ),
}


class Unit(NamedTuple):
    """What is varied, and the value where each needs a program of its own."""

    factor: str
    value: str


def units(config: LowerThreshold) -> list[Unit]:
    """List what is varied, that which takes longest first."""
    batches = sorted(config.batch_sizes, reverse=True)
    return [
        Unit(UPDATES, ""),
        Unit(SGD, ""),
        *(Unit(BATCH, str(size)) for size in batches),
        Unit(EPSILON, ""),
        *(Unit(NOISE, str(noise)) for noise in config.noises),
        Unit(PRECISION, ""),
        Unit(GROWTH, ""),
    ]


def settings(config: LowerThreshold, unit: Unit) -> list[Setting]:
    """List the settings that a unit trains, in the order of its first axis."""
    if unit.factor == SGD:
        return [Setting(SGD, rate, rate) for rate in config.sgd_rates]
    values = {
        UPDATES: (float(config.usual_updates),),
        EPSILON: config.epsilons,
        PRECISION: (1.0,),
        BATCH: (float(unit.value or 0),),
        NOISE: (float(unit.value or 0),),
    }[unit.factor]
    return [Setting(unit.factor, value, rate) for value in values for rate in config.learning_rates]


@cache
def task_of(delay: int, noise: float, dtype: Dtype) -> tasks.Task:
    """Build delayed recall, the same object for the same arguments."""
    return tasks.delayed_recall(delay, noise_std=noise, dtype=jnp.dtype(dtype))


@cache
def adam_of(clip_norm: float) -> Any:
    """Return a function from a learning rate and an epsilon to Adam with clipping."""
    clip = optax.clip_by_global_norm(clip_norm)
    return lambda one: optax.chain(clip, optax.adam(one["rate"], eps=one["epsilon"]))


@cache
def sgd_of(clip_norm: float) -> Any:
    """Return a function from a learning rate to SGD with the same clipping."""
    clip = optax.clip_by_global_norm(clip_norm)
    return lambda one: optax.chain(clip, optax.sgd(one["rate"]))


def seeds_of(config: LowerThreshold) -> np.ndarray:
    """Return the seed of each network."""
    return config.first_seed + np.arange(config.num_networks)


def draw(config: LowerThreshold) -> jrnn.Recurrence:
    """Draw the networks, the same in every unit."""
    dtype = jnp.dtype(config.dtype)
    gains = np.geomspace(*config.gains, config.num_networks).astype(dtype)

    def one(gain, seed):
        key = protocol.key_of(protocol.DRAWING, seed)
        num_inputs = task_of(config.delay, config.usual_noise, config.dtype).input_size
        return drawing.draw(CELL, config.width, gain, num_inputs, dtype=dtype, key=key)

    return jax.jit(jax.vmap(one))(gains, jnp.asarray(seeds_of(config), jnp.int32))


def work(config: LowerThreshold, unit: Unit, report: Report) -> xr.Dataset:
    """Train all networks in the settings of a unit, or measure how gradients grow in them."""
    networks = draw(config)
    if unit.factor == GROWTH:
        report("measuring growth", 0.0)
        return growths(config, networks)
    dtype: Dtype = "float64" if unit.factor == PRECISION else config.dtype
    if dtype == config.dtype:
        return _trained(config, unit, networks, dtype, report)
    with jax.enable_x64(True):
        return _trained(config, unit, networks, dtype, report)


def _trained(config, unit, networks, dtype, report):
    """Train every network in every setting of a unit, and observe it on every budget."""
    noise = float(unit.value) if unit.factor == NOISE else config.usual_noise
    trained = settings(config, unit)
    rates = jnp.array([[one.learning_rate] for one in trained], dtype)
    optimizer, hyperparameters = sgd_of(config.clip_norm), {"rate": rates}
    if unit.factor != SGD:
        varied = unit.factor == EPSILON
        epsilons = [[one.value if varied else config.usual_epsilon] for one in trained]
        hyperparameters["epsilon"] = jnp.array(epsilons, dtype)
        optimizer = adam_of(config.clip_norm)
    budgets = budgets_of(config, unit)
    _, history = training.train(
        task_of(config.delay, noise, dtype),
        jax.tree.map(lambda leaf: leaf.astype(dtype), networks),
        jnp.zeros(config.width, dtype),
        optimizer=optimizer,
        hyperparameters=hyperparameters,
        key=jax.vmap(lambda seed: protocol.key_of(protocol.TRAINING, seed))(
            jnp.asarray(seeds_of(config), jnp.int32)
        ),
        num_updates=budgets[-1],
        batch_size=int(unit.value) if unit.factor == BATCH else config.usual_batch,
        held_out_size=config.held_out_size,
        records=tuple(budgets),
        on_progress=lambda done, all_: report("training", done / all_),
    )
    outcomes = [jrnn.observe_regime(history.until(number)).outcome for number in budgets]
    axes = ("setting", "network", "budget")
    return xr.Dataset(
        {
            "outcome": (axes, np.stack(outcomes, axis=-1).astype(float)),
            "test_skill": (axes, np.asarray(history.records.test_skill[..., 1:], np.float32)),
        },
        coords={"budget": budgets},
    )


def budgets_of(config: LowerThreshold, unit: Unit) -> list[int]:
    """Return the numbers of updates after which the networks of a unit are observed."""
    most = max(config.budgets) if unit.factor in (UPDATES, SGD) else config.usual_updates
    return [number for number in sorted(config.budgets) if number <= most]


def growths(config: LowerThreshold, networks: jrnn.Recurrence) -> xr.Dataset:
    """Measure the log growth over the delay of every network, for every noise of the inputs."""
    carry = jnp.zeros(config.width, config.dtype)

    @jax.jit
    @jax.vmap
    def measured(network, xs):
        predicted = jrnn.predict_regime(network, carry, xs, horizon=config.delay)
        return predicted.log_growth_of_output

    keys = jax.vmap(lambda seed: protocol.key_of(protocol.SEQUENCES, seed))(
        jnp.asarray(seeds_of(config), jnp.int32)
    )
    noises = [config.usual_noise, *config.noises]
    found = []
    for noise in noises:
        task = task_of(config.delay, noise, config.dtype)
        xs = jax.vmap(lambda key, task=task: task.sample(key, config.num_sequences).xs)(keys)
        found.append(np.median(measured(networks, xs), axis=-1))
    return xr.Dataset({"log_growth": (("noise", "network"), np.array(found))}, {"noise": noises})


def combine(config: LowerThreshold, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Lay out all settings, and find the thresholds of each and what each thing does to them."""
    trained = [unit for unit in units(config) if unit.factor != GROWTH]
    dataset = xr.concat([parts[unit] for unit in trained], "setting", join="outer")
    every = [one for unit in trained for one in settings(config, unit)]
    noises = [one.value if one.factor == NOISE else config.usual_noise for one in every]
    growth = parts[Unit(GROWTH, "")]["log_growth"].sel(noise=noises)
    dataset = dataset.assign(log_growth=(("setting", "network"), growth.to_numpy())).assign_coords(
        {name: ("setting", [getattr(one, name) for one in every]) for name in Setting._fields}
        | {"gain": ("network", np.geomspace(*config.gains, config.num_networks))}
        | {"bound": list(BOUNDS)}
    )
    dataset = effects.thresholds(config, dataset)
    return _explained(effects.moved(config, dataset))


MEANINGS = {
    "outcome": ("what training showed: 0 learned, −1 stuck, 1 diverged", "1"),
    "test_skill": ("held-out skill", "1"),
    "log_growth": ("log growth over the delay before training, median over sequences", "nats"),
    "threshold": ("log growth at which half of the networks learn", "nats"),
    "threshold_interval": ("its central 95 % over networks drawn again", "nats"),
    "reached": ("whether the threshold lies among the growths that were drawn", "1"),
    "moved": ("what a decade, or a switch, does to a threshold", "nats"),
    "moved_interval": ("its central 95 % over networks drawn again", "nats"),
    "levels": ("settings and budgets with a threshold among the growths that were drawn", "1"),
}


def _explained(dataset):
    """Say what each variable is."""
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the thresholds of every setting, and what each thing does to them."""
    table = Table(pad_edge=False, title="log growth at which half learn, nats [95 %]")
    for column in ("varied", "value", "rate", "updates", *BOUNDS):
        table.add_column(column, justify="left" if column == "varied" else "right")
    first = dataset["factor"].to_numpy().tolist().index(UPDATES)
    usual = dataset["budget"].to_numpy().tolist().index(int(dataset["value"][first]))
    for setting, budget in np.ndindex(dataset.sizes["setting"], dataset.sizes["budget"]):
        at = dataset.isel(setting=setting, budget=budget)
        over_budgets = at["factor"] in (UPDATES, SGD)
        if at["outcome"].isnull().all() or not (over_budgets or budget == usual):
            continue
        table.add_row(
            str(at["factor"].item()),
            f"{float(at['value']):.3g}",
            f"{float(at['learning_rate']):.3g}",
            f"{int(at['budget'])}",
            *(threshold_text(at.sel(bound=bound)) for bound in BOUNDS),
        )
    console.print(table)
    table = Table(
        pad_edge=False, title="what moves the thresholds, nats per decade or switch [95 %]"
    )
    for column in ("varied", "rate", *BOUNDS):
        table.add_column(column, justify="left" if column == "varied" else "right")
    for effect in range(dataset.sizes["effect"]):
        at = dataset.isel(effect=effect)
        rate = float(at["effect_rate"])
        table.add_row(
            str(at["effect_factor"].item()),
            "" if np.isnan(rate) else f"{rate:.3g}",
            *(_moved_text(at.sel(bound=bound)) for bound in BOUNDS),
        )
    console.print(table)
    console.print(f"Noise of gradients alone would give {LAW:+.2f} per decade of data.")


def threshold_text(at: xr.Dataset) -> str:
    """Write one threshold with its interval, or that it is beyond all networks."""
    value, (low, high) = float(at["threshold"]), at["threshold_interval"].to_numpy()
    if not bool(at["reached"]):
        return "none" if value == 0 else f"{'<' if value < 0 else '>'} {value:.1f}"
    return f"{value:+.1f} [{low:+.0f}, {high:+.0f}]"


def _moved_text(at):
    value, (low, high) = float(at["moved"]), at["moved_interval"].to_numpy()
    if np.isnan(value):
        return f"not known, {int(at['levels'])} levels"
    value, low, high = (round(float(number), 2) + 0.0 for number in (value, low, high))  # no −0
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
