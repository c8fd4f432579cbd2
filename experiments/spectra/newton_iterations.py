"""Count the iterations of a parallel-in-time Newton solve of a tanh network against its λ₁.

h_t = tanh(W h_{t−1} + U x_t), t = 1 … T, is solved as one system of T equations. Each iteration
linearises every step about the current guess and solves the linear recurrence with an associative
scan (DEER: Y. Lim, Q. Zhu, J. Selfridge and M. Kasim, "Parallelizing non-linear sequential models
over the sequence length", ICLR 2024). It needs few iterations if the recurrence is predictable and
about T if it is chaotic (X. Gonzalez, L. Kozachkov, D. Zoltowski, K. Clarkson and S. Linderman,
"Predictability enables parallelization of nonlinear state space models", 2025). Beside Newton's,
four other linearisations solve the shortest sequences.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import label
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Range, Report, Seed
from experiments.spectra._linearizations import SCHEMES, solve

FEW = 20  # iterations that count as few
MARGIN = 0.1  # nats per step from zero beyond which λ₁ counts as clearly stable or unstable
EDGES = (-np.inf, -MARGIN, 0.0, MARGIN, np.inf)  # of λ₁, in tables
LEVELS = {"few": "20 iterations", "half": "T/2 iterations"}


@dataclasses.dataclass(frozen=True)
class Newton:
    """What is solved.

    Attributes:
        gains: lowest and highest; entries of W have variance gain²/width.
        num_gains: how many, evenly.
        width: D, units.
        num_networks: directions of W, inputs and guesses drawn afresh; each is solved at every
            gain.
        lengths: T, ascending; sequences of a network start at the same state. All linearisations
            solve the shortest one, and Newton's all of them.
        tolerance: of the residual max |h_t − f(h_{t−1}, x_t)| at which iteration stops.
        num_warmup: steps before the sequence, from a random state, in which the network settles.
        num_steps: steps over which λ₁ is measured; they begin as the sequences do.
        max_amplitude: the input is a sine of an amplitude up to this, as in Gonzalez et al.
        frequencies: lowest and highest angular frequency of the sine, per step.
        seed: of all draws.
        dtype: precision of everything.
    """

    gains: Range = (0.5, 3.35)
    num_gains: Annotated[int, Ge(2)] = 20
    width: Count = 32
    num_networks: Annotated[int, Ge(2)] = 16
    lengths: Axis[Count] = (100, 300)
    tolerance: Positive = 1e-10
    num_warmup: Count = 1000
    num_steps: Count = 4000
    max_amplitude: Positive = 0.2
    frequencies: Range = (0.5, 3.0)
    seed: Seed = 0
    dtype: Dtype = "float64"

    def __post_init__(self):
        """Check that λ₁ is measured for as long as the sequences last, and the longest is last."""
        if list(self.lengths) != sorted(self.lengths) or self.lengths[-1] > self.num_steps:
            expected = f"ascending lengths, up to the {self.num_steps} steps of --num-steps"
            msg = f"--lengths: received {self.lengths}, expected {expected}"
            raise ValueError(msg)


def gains_of(config: Newton) -> np.ndarray:
    """Return the gains, ascending."""
    return np.linspace(*config.gains, config.num_gains)


PRESETS = {
    "quick": Newton(
        gains=(0.5, 6.0),
        num_gains=4,
        width=16,
        num_networks=2,
        lengths=(60,),
        num_warmup=60,  # as many steps as T: one program serves both
        num_steps=400,
    ),
    "default": Newton(),
    # Chaotic sequences take minutes each on a processor core: meant for a GPU.
    "full": Newton(
        gains=(0.5, 3.0),
        num_gains=50,
        width=100,
        num_networks=20,
        lengths=(300, 1000),
        num_steps=10_000,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: one network at all gains and lengths."""

    network: str


def units(config: Newton) -> list[Unit]:
    """List the networks, which take about the same time."""
    return [Unit(f"network_{number}") for number in range(config.num_networks)]


def work(config: Newton, unit: Unit, report: Report) -> xr.Dataset:
    """Measure λ₁ and count the iterations of one network at all gains."""
    number = int(unit.network.removeprefix("network_"))
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    gains = gains_of(config)
    points = []
    for place, gain in enumerate(gains):
        report(f"gain {gain:g}", place / len(gains))
        points.append(at_gain(config, gain, key))
    return xr.concat(points, "gain").assign_coords(gain=gains)


def at_gain(config: Newton, gain: float, key: jax.Array) -> xr.Dataset:
    """Measure λ₁ of one network at one gain, and solve all its sequences.

    The shortest one is solved with all linearisations.
    """
    network, carry, xs, guess = problem(config, gain, key)
    spectrum = jrnn.lyapunov_spectrum(network, carry, xs, num_exponents=1, qr_every=1)
    states = jrnn.trajectory(network, carry, xs[: config.lengths[-1]])[1:]
    solutions = [
        solve(network, carry, xs[:length], guess[:length], tolerance=config.tolerance)
        for length in config.lengths
    ]
    shortest = config.lengths[0]
    of_schemes = [solutions[0]] + [
        solve(
            network,
            carry,
            xs[:shortest],
            guess[:shortest],
            tolerance=config.tolerance,
            scheme=scheme,
        )
        for scheme in SCHEMES[1:]
    ]
    residuals = np.array([float(solution.residual) for solution in solutions])

    def error(solution):
        return float(jnp.max(jnp.abs(solution.states - states[: len(solution.states)])))

    return xr.Dataset(
        {
            "exponent": float(spectrum.exponents[0]),
            "exponent_error": float(spectrum.standard_errors[0]),
            "iterations": ("length", [int(solution.num_iterations) for solution in solutions]),
            "residual": ("length", residuals),
            "converged": ("length", residuals < config.tolerance),
            "state_error": ("length", [error(solution) for solution in solutions]),
            "scheme_iterations": ("scheme", [int(one.num_iterations) for one in of_schemes]),
            "scheme_converged": (
                "scheme",
                [float(one.residual) < config.tolerance for one in of_schemes],
            ),
            "scheme_error": ("scheme", [error(one) for one in of_schemes]),
        },
        coords={"length": list(config.lengths), "scheme": list(SCHEMES)},
    )


def combine(config: Newton, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all networks, and say where the number of iterations rises."""
    dataset = xr.concat([parts[unit] for unit in units(config)], "network")
    return compared(dataset.assign_coords(network=np.arange(config.num_networks)))


def step(params, carry, x):
    """Advance the activations by one step."""
    return jnp.tanh(params["recurrent"] @ carry + params["input"] * x)


def problem(
    config: Newton, gain: float, key: jax.Array
) -> tuple[jrnn.Recurrence, jax.Array, jax.Array, jax.Array]:
    """Draw a network, its settled state, the input from there on, and a guess of all states."""
    dtype, width = jnp.dtype(config.dtype), config.width
    kernel_key, input_key, sine_key, state_key, guess_key = jax.random.split(key, 5)
    recurrent = jax.random.normal(kernel_key, (width, width), dtype) / np.sqrt(width)
    network = jrnn.Recurrence(
        step,
        {
            "recurrent": gain * recurrent,
            "input": jax.random.normal(input_key, (width,), dtype),
        },
    )
    low, high = config.frequencies
    amplitude, frequency = jax.random.uniform(sine_key, (2,), dtype)
    times = jnp.arange(config.num_warmup + config.num_steps, dtype=dtype)
    xs = config.max_amplitude * amplitude * jnp.sin((low + (high - low) * frequency) * times)
    state = jax.random.normal(state_key, (width,), dtype)
    settled = jrnn.trajectory(network, state, xs[: config.num_warmup])[-1]
    guess = jax.random.normal(guess_key, (config.lengths[-1], width), dtype)
    return network, settled, xs[config.num_warmup :], guess


def compared(dataset: xr.Dataset) -> xr.Dataset:
    """Add the fraction of T that was needed, and λ₁ where the number of iterations rises."""
    length = dataset["length"]
    levels = xr.concat([xr.full_like(length, FEW), length / 2], "level")
    rises = np.zeros((dataset.sizes["network"], len(LEVELS), length.size))
    for network, level, column in np.ndindex(rises.shape):
        one = dataset.isel(network=network, length=column)
        rises[network, level, column] = rise(
            one["exponent"].to_numpy(),
            one["iterations"].to_numpy(),
            float(levels.isel(level=level, length=column)),
        )
    dataset = dataset.assign(
        fraction=dataset["iterations"] / length,
        rise=(("network", "level", "length"), rises),
    ).assign_coords(level=list(LEVELS))
    label(
        dataset,
        {
            "exponent": ("largest Lyapunov exponent", "nats per step"),
            "exponent_error": ("its standard error over time", "nats per step"),
            "iterations": ("Newton iterations", "1"),
            "fraction": ("Newton iterations per step of the sequence", "1"),
            "residual": ("largest residual of a step after the last iteration", "1"),
            "converged": ("whether the residual is below the tolerance", "1"),
            "state_error": ("largest difference from the states of a sequential run", "1"),
            "scheme_iterations": ("iterations of each linearisation at the shortest T", "1"),
            "scheme_converged": ("whether its residual is below the tolerance", "1"),
            "scheme_error": ("its largest difference from the states of a sequential run", "1"),
            "rise": ("λ₁ where iterations first exceed the level as gain grows", "nats per step"),
        },
    )
    return dataset


def rise(exponents: np.ndarray, iterations: np.ndarray, level: float) -> float:
    """Interpolate λ₁ to the gain where iterations first exceed a level; NaN if none does."""
    above = np.flatnonzero(iterations > level)
    if above.size == 0 or above[0] == 0:
        return np.nan
    first = above[0]
    low, high = np.log(iterations[first - 1]), np.log(iterations[first])
    share = (np.log(level) - low) / (high - low)
    return float(exponents[first - 1] + share * (exponents[first] - exponents[first - 1]))


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print iterations by λ₁, and where they rise."""
    table = Table(
        pad_edge=False,
        title="Newton iterations: median (largest) over networks and gains",
        caption=f"{dataset.sizes['network']} networks at {dataset.sizes['gain']} gains each",
    )
    lengths = dataset["length"].to_numpy()
    for column in ("λ₁ (nats per step)", "solved", *(f"T = {length}" for length in lengths)):
        table.add_column(column, no_wrap=True)
    for low, high in itertools.pairwise(EDGES):
        here = (dataset["exponent"] > low) & (dataset["exponent"] <= high)
        if not here.any():
            continue
        counts = dataset["iterations"].where(here)
        table.add_row(
            f"{low:g} to {high:g}",
            str(int(here.sum())),
            *(
                f"{float(counts.sel(length=length).median()):.0f} "
                f"({float(counts.sel(length=length).max()):.0f})"
                for length in lengths
            ),
        )
    console.print(table)
    console.print(_table_of_schemes(dataset))
    failed = int((~dataset["converged"].astype(bool)).sum())
    console.print(
        f"{failed} of {dataset['converged'].size} solves had not converged after T iterations"
    )
    for level, words in LEVELS.items():
        one = dataset["rise"].sel(level=level).isel(length=-1).dropna("network")
        if one.size > 1:
            error = float(one.std(ddof=1)) / np.sqrt(one.size)
            console.print(
                f"{words} are passed at λ₁ = {float(one.mean()):+.3f} ± {error:.3f} "
                f"(mean ± standard error over {one.size} networks, T = {lengths[-1]})"
            )


def _table_of_schemes(dataset):
    """Return a table of the iterations of all linearisations, by λ₁."""
    table = Table(
        pad_edge=False,
        title=f"linearisations at T = {int(dataset['length'][0])}: median iterations (% solved)",
    )
    table.add_column("λ₁ (nats per step)")
    for scheme in dataset["scheme"].to_numpy():
        table.add_column(str(scheme), no_wrap=True)
    for low, high in itertools.pairwise(EDGES):
        here = (dataset["exponent"] > low) & (dataset["exponent"] <= high)
        if here.any():
            counts = dataset["scheme_iterations"].where(here).median(("network", "gain"))
            solved = dataset["scheme_converged"].where(here).mean(("network", "gain"))
            cells = zip(counts.to_numpy(), solved.to_numpy(), strict=True)
            row = (f"{count:.0f} ({100 * share:.0f})" for count, share in cells)
            table.add_row(f"{low:g} to {high:g}", *row)
    return table
