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
from experiments.regimes import _boundaries as boundaries
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report, Seed
from jacobian_rnn import tasks, training

CELL = "SimpleCell"
GROWTH, UPDATES, BATCH, EPSILON = "growth", "updates", "batch size", "Adam's epsilon"
PRECISION, NOISE, SGD = "float64", "input noise", "SGD"
RATE, SGD_RATE, SGD_UPDATES = "learning rate", "SGD's learning rate", "SGD's updates"
LATE, SGD_LATE = "updates, last decade", "SGD's updates, last decade"
OTHER = "SGD in place of Adam"
SWITCHES = (PRECISION, OTHER)  # what is on or off; the effect of all else is one per decade
LAW = -0.5 * np.log(10)  # nats per decade of data
BOUNDS = ("lower", "upper")


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


class Setting(NamedTuple):
    """One way to train all networks: the thing that is not as usual, its value, and the rate."""

    factor: str
    value: float
    learning_rate: float


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
    dataset = _thresholds(config, dataset)
    return _explained(_effects(config, dataset))


def _thresholds(config, dataset):
    """Add both thresholds of every setting on every budget that it was given."""
    counts = boundaries.resamples(config.num_networks, config.num_resamples)
    axes = ("setting", "budget", "bound")
    shape = tuple(dataset.sizes[axis] for axis in axes)
    value, ends = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    inside = np.zeros(shape, bool)
    for setting, budget, bound in np.ndindex(*shape):
        learned = dataset["outcome"].to_numpy()[setting, :, budget]
        if np.isnan(learned).all():
            continue
        growth = dataset["log_growth"].to_numpy()[setting]
        side = _side(growth, BOUNDS[bound])
        cuts = _cuts(growth[side], learned[side] == jrnn.Outcome.LEARNED, counts[:, side], bound)
        at = setting, budget, bound
        value[at], ends[at] = cuts[0], boundaries.interval(cuts[1:])
        inside[at] = growth[side].min() < cuts[0] < growth[side].max()
    return dataset.assign(
        threshold=(axes, value), threshold_interval=((*axes, "end"), ends), reached=(axes, inside)
    )


def _side(growth, bound):
    """Say which networks tell of a threshold."""
    return growth < 0 if bound == "lower" else growth > 0


def _cuts(growth, learned, counts, bound):
    """Return where half learn, for each row of counts, within the growths that were drawn.

    That is zero where none learned, and the far end where all did. Where learning does not go with
    growth as it should, it is the far end if most learned, and zero otherwise.
    """
    far = growth.min() if bound == 0 else growth.max()
    share = (counts @ learned) / counts.sum(axis=1)
    constant, slope = boundaries.coefficients(growth[:, None], learned, counts).T
    right = slope > 0 if bound == 0 else slope < 0
    cuts = np.where(right, -constant / np.where(right, slope, 1.0), np.where(share > 0.5, far, 0.0))
    cuts = np.where(share == 0, 0.0, np.where(share == 1, far, cuts))
    return np.clip(cuts, min(far, 0), max(far, 0))


class Effect(NamedTuple):
    """What may move a threshold, and with which learning rate it is looked at (NaN: several)."""

    factor: str
    learning_rate: float


def _effects(config, dataset):
    """Add how far each thing moves the thresholds: nats per decade of it, or for switching it.

    Settings and budgets count whose threshold lies among the growths that were drawn.
    """
    counts = boundaries.resamples(config.num_networks, config.num_resamples)
    levels = _levels(config, dataset)
    shape = (len(levels), len(BOUNDS))
    value, ends = np.full(shape, np.nan), np.full((*shape, 2), np.nan)
    used = np.zeros(shape, int)
    growth, outcome = dataset["log_growth"].to_numpy(), dataset["outcome"].to_numpy()
    reached = dataset["reached"].to_numpy()
    for row, places in enumerate(levels.values()):
        for bound, name in enumerate(BOUNDS):
            kept = [place for place in places if reached[place[0], place[1], bound]]
            used[row, bound] = len(kept)
            if len(kept) < 2:
                continue
            sides = [_side(growth[setting], name) for setting, _, _ in kept]
            pairs = list(zip(kept, sides, strict=True))
            features = np.concatenate(
                [
                    np.stack([growth[setting, side], np.full(side.sum(), level)], axis=1)
                    for (setting, _, level), side in pairs
                ]
            )
            learned = np.concatenate(
                [outcome[setting, side, budget] for (setting, budget, _), side in pairs]
            )
            rows = np.concatenate([counts[:, side] for side in sides], axis=1)
            fits = boundaries.coefficients(features, learned == jrnn.Outcome.LEARNED, rows)
            right = fits[:, 1] > 0 if bound == 0 else fits[:, 1] < 0
            moved = np.where(right, -fits[:, 2] / np.where(right, fits[:, 1], 1), np.nan)
            value[row, bound] = moved[0]
            # Where the same networks learn, a threshold may still move between two of them.
            apart = np.mean([np.ptp(growth[at[0], side]) / side.sum() for at, side in pairs])
            least = apart / np.ptp([level for *_, level in kept])
            low, high = boundaries.interval(moved[1:])
            ends[row, bound] = min(low, moved[0] - least), max(high, moved[0] + least)
    axes = ("effect", "bound")
    return dataset.assign(
        moved=(axes, value), moved_interval=((*axes, "end"), ends), levels=(axes, used)
    ).assign_coords(
        effect_factor=("effect", [one.factor for one in levels]),
        effect_rate=("effect", [one.learning_rate for one in levels]),
    )


def _levels(config, dataset):
    """List for each effect the settings and budgets that it compares, and the level of each.

    A level is the logarithm to base 10 of what is varied, or 1 and 0 for what is on or off.
    """
    budgets = dataset["budget"].to_numpy().tolist()
    usual = budgets.index(config.usual_updates)
    every = list(map(Setting, *(dataset[name].to_numpy().tolist() for name in Setting._fields)))
    number = {one: index for index, one in enumerate(every)}
    usual_values = {
        BATCH: config.usual_batch, EPSILON: config.usual_epsilon, NOISE: config.usual_noise,
    }  # fmt: skip

    def of_budgets(one, least=0.0):
        found = enumerate(budgets)
        return [(number[one], i, np.log10(budget)) for i, budget in found if budget >= least]

    adam = [one for one in every if one.factor == UPDATES]
    sgd = [one for one in every if one.factor == SGD]
    levels = {}
    for base in adam:
        rate = base.learning_rate
        levels[Effect(UPDATES, rate)] = of_budgets(base)
        levels[Effect(LATE, rate)] = of_budgets(base, max(budgets) / 10)
        for factor in (BATCH, EPSILON, PRECISION, NOISE):
            others = [one for one in every if (one.factor, one.learning_rate) == (factor, rate)]
            switch = factor == PRECISION
            levels[Effect(factor, rate)] = [
                (number[base], usual, 0.0 if switch else np.log10(usual_values[factor])),
                *((number[o], usual, o.value if switch else np.log10(o.value)) for o in others),
            ]
    several = np.nan
    levels[Effect(RATE, several)] = [(number[o], usual, np.log10(o.learning_rate)) for o in adam]
    for one in sgd:
        levels[Effect(SGD_UPDATES, one.learning_rate)] = of_budgets(one)
        levels[Effect(SGD_LATE, one.learning_rate)] = of_budgets(one, max(budgets) / 10)
    levels[Effect(SGD_RATE, several)] = [(number[o], usual, np.log10(o.value)) for o in sgd]
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).sum("network").to_numpy()[:, usual]
    best = [max(kind, key=lambda one: learned[number[one]]) for kind in (adam, sgd)]
    levels[Effect(OTHER, several)] = [
        (number[one], usual, float(level)) for level, one in enumerate(best)
    ]
    return levels


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
