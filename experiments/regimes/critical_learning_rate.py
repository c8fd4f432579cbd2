"""Find the largest learning rate with which tanh networks learn, over the delay of the task.

After B. Kurtkaya et al., "Dynamical phases of short-term memory mechanisms in RNNs", ICML 2025, who
find that it falls like a power of the delay, with exponent −2.72 ± 0.07. Their networks have 100
leaky tanh units with a leak of 1/2, are driven by one of two cues for 6 steps, and have to tell
after a delay of up to 80 steps which cue it was, for 10 steps. They are trained by SGD with
momentum 0.9 on the whole of 128 sequences, on the squared error of a sigmoid readout at every step.

Here the leak, the two cues and the optimiser are theirs. The task is delayed recall of two symbols:
the cue lasts one step, inputs during the delay are weak noise, and the loss is the cross-entropy of
one answer at the end. Weights are Gaussian, networks smaller, delays shorter, and batches are drawn
anew. So the power may be compared, and not the rates.
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
from experiments import protocol
from experiments.regimes import _boundaries as boundaries
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report, Seed
from jacobian_rnn import tasks, training

NUM_CUES = 2


@dataclasses.dataclass(frozen=True)
class CriticalLearningRate:
    """Which networks are trained, over which delays and learning rates.

    Attributes:
        width: hidden units.
        leak: share of a state that is replaced in a step; it is not trained.
        gain: of the recurrent weights, whose variance is gain² / width.
        delays: steps between the cue and the answer.
        learning_rates: lowest and highest one of SGD.
        num_rates: how many, evenly in the logarithm.
        momentum: of SGD.
        num_networks: for each delay, trained with every learning rate.
        first_seed: seeds count from here.
        noise_std: of the inputs during the delay.
        budgets: numbers of updates after which networks are observed.
        batch_size: sequences per update.
        held_out_size: sequences in validation and in test data.
        num_resamples: of the networks of each delay, for intervals.
        dtype: precision of networks and training.
    """

    width: Count = 32
    leak: Positive = 0.5
    gain: Positive = 1.0
    delays: Axis[Count] = (5, 8, 13, 20, 32)
    learning_rates: Range = (0.01, 3.0)
    num_rates: Count = 11
    momentum: Positive = 0.9
    num_networks: Count = 10
    first_seed: Seed = 0
    noise_std: Positive = 0.1
    budgets: Axis[Count] = (125, 250, 500)
    batch_size: Count = 16
    held_out_size: Count = 64
    num_resamples: Count = 500
    dtype: Dtype = "float32"


PRESETS = {
    "quick": CriticalLearningRate(
        width=8,
        delays=(3, 6),
        num_rates=4,
        learning_rates=(0.03, 10.0),
        num_networks=3,
        budgets=(30, 60),
        batch_size=8,
        held_out_size=16,
        num_resamples=50,
    ),
    "default": CriticalLearningRate(),
    "full": CriticalLearningRate(
        width=100,
        delays=(5, 7, 10, 14, 20, 28, 40, 56, 80),
        learning_rates=(0.0003, 3.0),
        num_rates=25,
        num_networks=50,
        budgets=(250, 500, 1000, 2000),
        batch_size=128,
        held_out_size=256,
        num_resamples=2000,
    ),
}


class Unit(NamedTuple):
    """All networks and learning rates of one delay."""

    delay: str


def units(config: CriticalLearningRate) -> list[Unit]:
    """List the delays, the longest first."""
    return [Unit(str(delay)) for delay in sorted(config.delays, reverse=True)]


def rates_of(config: CriticalLearningRate) -> np.ndarray:
    """Return the learning rates, ascending."""
    return np.geomspace(*config.learning_rates, config.num_rates)


@cache
def sgd_of(momentum: float) -> Any:
    """Return a function from a learning rate to SGD with momentum that leaves the leak alone."""

    def is_leak(parameters):
        def named(path, _):
            return getattr(path[-1], "key", None) == "leak"

        return jax.tree_util.tree_map_with_path(named, parameters)

    kept = optax.masked(optax.set_to_zero(), is_leak)
    return lambda rate: optax.chain(kept, optax.sgd(rate, momentum=momentum))


def work(config: CriticalLearningRate, unit: Unit, report: Report) -> xr.Dataset:
    """Train the networks of a delay with every learning rate."""
    dtype, delay = jnp.dtype(config.dtype), int(unit.delay)
    task = tasks.delayed_recall(
        delay, num_classes=NUM_CUES, noise_std=config.noise_std, dtype=dtype
    )
    # Networks of one delay are others than those of another.
    first = config.first_seed + sorted(config.delays).index(delay) * config.num_networks
    seeds = jnp.arange(first, first + config.num_networks, dtype=jnp.int32)

    @jax.jit
    @jax.vmap
    def drawn(seed):
        key = protocol.key_of(protocol.DRAWING, seed)
        options: dict[str, Any] = {"leak": config.leak, "gain": config.gain, "dtype": dtype}
        return jrnn.leaky_rate_network(NUM_CUES, config.width, key=key, **options)

    budgets = sorted(config.budgets)
    _, history = training.train(
        task,
        drawn(seeds),
        jnp.zeros(config.width, dtype),
        optimizer=sgd_of(config.momentum),
        hyperparameters=jnp.asarray(rates_of(config), dtype)[:, None],
        key=jax.vmap(lambda seed: protocol.key_of(protocol.TRAINING, seed))(seeds),
        num_updates=budgets[-1],
        batch_size=config.batch_size,
        held_out_size=config.held_out_size,
        records=tuple(budgets),
        on_progress=lambda done, all_: report("training", done / all_),
    )
    outcomes = [jrnn.observe_regime(history.until(number)).outcome for number in budgets]
    axes = ("learning_rate", "network", "budget")
    return xr.Dataset(
        {
            "outcome": (axes, np.stack(outcomes, axis=-1).astype(np.int32)),
            "test_skill": (axes, np.asarray(history.records.test_skill[..., 1:])),
        },
        coords={"learning_rate": rates_of(config), "budget": budgets},
    )


def combine(config: CriticalLearningRate, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Lay out all delays, and fit the power of the delay at each budget."""
    delays = sorted(config.delays)
    dataset = xr.concat([parts[Unit(str(delay))] for delay in delays], "delay")
    dataset = dataset.assign_coords(delay=delays)
    budgets = dataset["budget"].to_numpy().tolist()
    fits = [boundary(dataset.sel(budget=budget), config.num_resamples) for budget in budgets]
    made = {
        "critical_rate": (("budget", "delay"), [fit.rates for fit in fits]),
        "critical_rate_interval": (("budget", "delay", "end"), [fit.rate_ends for fit in fits]),
        "exponent": ("budget", [fit.exponent for fit in fits]),
        "exponent_interval": (("budget", "end"), [fit.exponent_ends for fit in fits]),
        "prefactor": ("budget", [fit.prefactor for fit in fits]),
    }
    dataset = dataset.assign({name: (dims, np.array(v)) for name, (dims, v) in made.items()})
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


MEANINGS = {
    "outcome": ("what training showed: 0 learned, −1 stuck, 1 diverged", "1"),
    "test_skill": ("held-out skill", "1"),
    "critical_rate": ("learning rate above which fewer than half of the networks learn", "1"),
    "critical_rate_interval": ("its central 95 % over networks drawn again", "1"),
    "exponent": ("power of the delay to which the critical rate is proportional", "1"),
    "exponent_interval": ("its central 95 % over networks drawn again", "1"),
    "prefactor": ("critical rate that the power law has at a delay of 1", "1"),
}


class Boundary(NamedTuple):
    """Critical learning rates, and the power law through them.

    Attributes:
        rates, rate_ends: `(delays,)` and `(delays, 2)`, where half of the networks learn; NaN where
            all rates, or none, let half of them learn.
        exponent, exponent_ends: of the delay, fitted to all networks of all delays together.
        prefactor: of the power law.
    """

    rates: np.ndarray
    rate_ends: np.ndarray
    exponent: float
    exponent_ends: np.ndarray
    prefactor: float


def boundary(dataset: xr.Dataset, num_resamples: int) -> Boundary:
    """Fit where learning ends as the learning rate grows.

    Rates below the first one with which the most networks of a delay learn do not count: where they
    fail it is for lack of time. Networks are drawn again within each delay.

    Args:
        dataset: outcomes over delay, learning rate and network.
        num_resamples: of the networks.
    """
    learned = dataset["outcome"].transpose("delay", "learning_rate", "network").to_numpy()
    learned = learned == jrnn.Outcome.LEARNED
    log_rate = np.log(dataset["learning_rate"].to_numpy())
    log_delay = np.log(dataset["delay"].to_numpy())
    generator = np.random.default_rng(0)
    num = learned.shape[-1]
    cuts, features, rows, weights = [], [], [], []
    for index, of_delay in enumerate(learned):
        drawn = generator.multinomial(num, np.full(num, 1 / num), size=num_resamples)
        counts = np.concatenate([np.ones((1, num), int), drawn])
        kept = np.arange(len(log_rate)) >= np.argmax(of_delay.mean(axis=1))
        x = np.repeat(log_rate[kept], num)
        y, count = of_delay[kept].ravel(), np.tile(counts, kept.sum())
        constant, slope = boundaries.coefficients(x[:, None], y, count).T
        falls = slope < 0
        cuts.append(np.where(falls, -constant / np.where(falls, slope, 1), np.nan))
        features.append(np.stack([x, np.full(x.shape, log_delay[index])], axis=1))
        rows.append(y)
        weights.append(count)
    constant, by_rate, by_delay = boundaries.coefficients(
        np.concatenate(features), np.concatenate(rows), np.concatenate(weights, axis=1)
    ).T
    falls = by_rate < 0
    power = np.where(falls, -by_delay / np.where(falls, by_rate, 1), np.nan)
    ends = [boundaries.interval(cut[1:]) for cut in cuts]
    return Boundary(
        rates=np.exp([cut[0] for cut in cuts]),
        rate_ends=np.exp(ends),
        exponent=float(power[0]),
        exponent_ends=boundaries.interval(power[1:]),
        prefactor=float(np.exp(-constant[0] / by_rate[0])),
    )


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the share that learned over delay and learning rate, and the power of the delay."""
    last = dataset.isel(budget=-1)
    share = (last["outcome"] == jrnn.Outcome.LEARNED).mean("network")
    table = Table(
        pad_edge=False,
        title=f"share of {dataset.sizes['network']} networks that learned, by delay",
    )
    delays = dataset["delay"].to_numpy()
    for column in ("rate", *map(str, delays)):
        table.add_column(column, justify="right")
    for rate in dataset["learning_rate"].to_numpy():
        shares = share.sel(learning_rate=rate).to_numpy()
        table.add_row(f"{rate:.2g}", *(f"{value:.2f}" for value in shares))
    console.print(table)
    for delay in delays:
        at = last.sel(delay=delay)
        low, high = at["critical_rate_interval"].to_numpy()
        console.print(
            f"critical rate at delay {delay}: {float(at['critical_rate']):.2g}, "
            f"95 % [{low:.2g}, {high:.2g}]",
            highlight=False,
        )
    for budget in dataset["budget"].to_numpy():
        at = dataset.sel(budget=budget)
        low, high = at["exponent_interval"].to_numpy()
        console.print(
            f"within {budget} updates: critical rate ~ delay^({float(at['exponent']):.2f}), "
            f"95 % [{low:.2f}, {high:.2f}]",
            highlight=False,
        )
