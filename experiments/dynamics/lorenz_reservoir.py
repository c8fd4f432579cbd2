"""Let reservoirs learn the Lorenz system, and compare the exponents of what they generate with its.

A reservoir h' = tanh(W h + V u + b) is driven by the Lorenz system (E. N. Lorenz, "Deterministic
nonperiodic flow", J. Atmos. Sci. 20 (1963)), and a ridge regression reads the next value from its
state. Fed back, it generates by itself (H. Jaeger and H. Haas, Science 304 (2004)). J. Pathak et
al., "Using machine learning to replicate chaotic attractors and calculate Lyapunov exponents from
data", Chaos 27 (2017), found the first two exponents of the system in such a loop, and the third
one too weakly negative for their reservoir. All exponents here are per unit of Lorenz's time.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge
from jax import lax
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import label
from experiments.runner.experiment import Count, Dtype, Positive, Report, Seed

# J. C. Sprott, "Chaos and Time-Series Analysis" (2003): exponents at σ = 10, ρ = 28, β = 8/3.
REFERENCE = (0.906, 0.0, -14.57)
SYSTEM = "Lorenz system"
NUM_UNSTABLE = 2  # the growing direction and that of the flow, against the third
NUM_SUBSTEPS = 8


@dataclasses.dataclass(frozen=True)
class Reservoirs:
    """What is drawn and measured. Times are in units of the Lorenz system's.

    Attributes:
        width: units of a reservoir.
        num_reservoirs: drawn independently.
        gain: entries of W have variance gain²/width.
        input_scale: entries of V are uniform up to this, for inputs of unit variance.
        time_step: between two steps of a reservoir.
        settling_time: after which states count, of the system and of each reservoir.
        training_time: from which the readout is learned.
        ridge: penalty on squared weights of the readout, per sample.
        spectrum_time: over which exponents are measured.
        num_exponents: of each reservoir, at least the three of the system.
        angle_time: over which angles between covariant vectors are measured.
        num_shown: states that are kept, for the picture.
        seed: of all draws.
        dtype: precision of everything.
    """

    width: Count = 300
    num_reservoirs: Annotated[int, Ge(2)] = 4
    gain: Positive = 0.4
    input_scale: Positive = 0.5
    time_step: Positive = 0.02
    settling_time: Positive = 20.0
    training_time: Positive = 400.0
    ridge: Positive = 1e-9
    spectrum_time: Positive = 400.0
    num_exponents: Annotated[int, Ge(3)] = 4
    angle_time: Positive = 60.0
    num_shown: Count = 2000
    seed: Seed = 0
    dtype: Dtype = "float64"

    def steps(self, time: float) -> int:
        """Return the number of steps in a time."""
        return round(time / self.time_step)


PRESETS = {
    "quick": Reservoirs(
        width=40,
        num_reservoirs=2,
        training_time=40.0,
        spectrum_time=20.0,
        angle_time=2.0,
        settling_time=5.0,
        num_shown=200,
    ),
    "default": Reservoirs(),
    "full": Reservoirs(
        width=1000, num_reservoirs=16, training_time=1000.0, spectrum_time=4000.0, angle_time=400.0
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: the system or one reservoir."""

    source: str


MEANINGS = {
    "exponent": ("Lyapunov exponents", "nats per unit of time"),
    "standard_error": ("of the exponents, over time", "nats per unit of time"),
    "fit_error": ("root mean square error of one step, in standard deviations", "1"),
    "angle": ("angle between the first two covariant vectors and the third", "radians"),
    "shown": ("states that were generated, in standard deviations", "1"),
}


def units(config: Reservoirs) -> list[Unit]:
    """List the reservoirs, and the system last, which is quick."""
    numbers = range(config.num_reservoirs)
    return [*(Unit(f"reservoir {number}") for number in numbers), Unit(SYSTEM)]


def lorenz(params, carry, x):
    """Advance the Lorenz system by one step of a reservoir, with Runge and Kutta's method."""
    del x
    step = params / NUM_SUBSTEPS

    def slope(state):
        u, v, w = state
        return jnp.array([10 * (v - u), u * (28 - w) - v, u * v - 8 / 3 * w])

    def one(state, _):
        first = slope(state)
        second = slope(state + step / 2 * first)
        third = slope(state + step / 2 * second)
        fourth = slope(state + step * third)
        return state + step / 6 * (first + 2 * second + 2 * third + fourth), None

    return lax.scan(one, carry, length=NUM_SUBSTEPS)[0]


def work(config: Reservoirs, unit: Unit, report: Report) -> xr.Dataset:
    """Train one reservoir or take the system, and measure exponents and angles."""
    dtype = jnp.dtype(config.dtype)
    system = jrnn.Recurrence(lorenz, jnp.asarray(config.time_step, dtype))
    settling, num_training = config.steps(config.settling_time), config.steps(config.training_time)
    states = jrnn.trajectory(
        system, jnp.array([1.0, 1.0, 20.0], dtype), None, num_steps=2 * settling + num_training
    )[settling:]
    centre, spread = states.mean(axis=0), states.std(axis=0)
    if unit.source == SYSTEM:
        loop, carry, fit_error = system, states[-1], np.nan
    else:
        report("training", 0.0)
        number = int(unit.source.removeprefix("reservoir "))
        key = jax.random.fold_in(jax.random.key(config.seed), number)
        loop, carry, fit_error = trained(config, (states - centre) / spread, settling, key)
    report("exponents", 0.2)
    k = 3 if unit.source == SYSTEM else config.num_exponents
    spectrum = jrnn.lyapunov_spectrum(
        loop,
        carry,
        None,
        num_steps=settling + config.steps(config.spectrum_time),
        num_warmup=settling,
        num_exponents=k,
    )
    report("angles", 0.8)
    covariant = jrnn.covariant_vectors(
        loop,
        carry,
        None,
        num_steps=2 * settling + config.steps(config.angle_time),
        num_warmup=settling,
        num_cooldown=settling,
        num_vectors=3,
        num_unstable=NUM_UNSTABLE,
        store_every=config.steps(config.angle_time),
    )
    generated = jrnn.trajectory(loop, carry, None, num_steps=config.num_shown)[1:]
    if unit.source == SYSTEM:
        generated = (generated - centre) / spread
    else:
        kernel, bias = loop.params[1]
        generated = generated @ kernel + bias
    return xr.Dataset(
        {
            "exponent": ("place", np.asarray(spectrum.exponents) / config.time_step),
            "standard_error": ("place", np.asarray(spectrum.standard_errors) / config.time_step),
            "fit_error": fit_error,
            "angle": ("step", np.asarray(covariant.angles)),
            "shown": (("shown_step", "axis"), np.asarray(generated)),
        },
        coords={"place": 1 + np.arange(k)},
    )


def trained(config: Reservoirs, inputs, settling, key):
    """Draw a reservoir, learn its readout, and close the loop.

    Returns:
        The loop, the state from which it goes on, and the error of one step on the training data.
    """
    dtype, width = inputs.dtype, config.width
    recurrent_key, input_key, bias_key = jax.random.split(key, 3)
    drawn = jrnn.leaky_rate_network(
        3, width, key=recurrent_key, leak=1.0, gain=config.gain, dtype=dtype
    )
    kernel = jax.random.uniform(input_key, (3, width), dtype, -1.0, 1.0) * config.input_scale
    bias = jax.random.uniform(bias_key, (width,), dtype, -1.0, 1.0)
    params = drawn.params | {
        "input": {"kernel": kernel},
        "recurrent": drawn.params["recurrent"] | {"bias": bias},
    }
    reservoir = dataclasses.replace(drawn, params=params)
    states = jrnn.trajectory(reservoir, jnp.zeros(width, dtype), inputs[:-1])[1:]
    readout, fit_error = _regress(states[settling:], inputs[settling + 1 :], config.ridge)
    return jrnn.closed_loop(reservoir, readout), states[-1], float(fit_error)


@partial(jax.jit, static_argnames="ridge")
def _regress(states, targets, ridge):
    """Return the kernel and bias of a ridge regression, and its root mean square error."""
    features = jnp.concatenate([states, jnp.ones_like(states[:, :1])], axis=1)
    gram = features.T @ features / len(features)
    gram += ridge * jnp.eye(len(gram), dtype=gram.dtype)
    weights = jnp.linalg.solve(gram, features.T @ targets / len(features))
    error = jnp.sqrt(jnp.mean((features @ weights - targets) ** 2))
    return (weights[:-1], weights[-1]), error


def combine(config: Reservoirs, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join the reservoirs and the system."""
    done = units(config)
    dataset = xr.concat([parts[unit] for unit in done], "source", join="outer")
    dataset = dataset.assign_coords(source=[unit.source for unit in done])
    dataset = dataset.transpose("source", ...)
    label(dataset, MEANINGS)
    return dataset


def over_reservoirs(dataset: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the mean exponents of the reservoirs, and their standard errors.

    Reservoirs learned from the same data and start alike, so that their spread alone would say too
    little. The errors over time are added to it, as those of independent runs.
    """
    reservoirs = dataset.where(dataset["source"] != SYSTEM, drop=True)
    num = reservoirs.sizes["source"]
    between = reservoirs["exponent"].var("source", ddof=1) / num
    over_time = (reservoirs["standard_error"] ** 2).mean("source") / num
    return reservoirs["exponent"].mean("source"), (between + over_time) ** 0.5


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the three exponents of each source beside those of the literature."""
    table = Table(
        pad_edge=False,
        title="Lyapunov exponents of the Lorenz system, and of reservoirs that learned it",
        caption="nats per unit of time ± standard error over time; last row: mean of "
        "the reservoirs ± over them and time; error: root mean square of one step",
    )
    for column in ("", "λ₁", "λ₂", "λ₃", "error"):
        table.add_column(column, no_wrap=True)
    table.add_row("literature", *(f"{value:.3f}" for value in REFERENCE), "")
    for source in dataset["source"].values[::-1]:
        one = dataset.sel(source=source)
        table.add_row(
            str(source),
            *(
                f"{float(one['exponent'][i]):+.2f} ± {float(one['standard_error'][i]):.2f}"
                for i in range(3)
            ),
            "" if source == SYSTEM else f"{float(one['fit_error']):.1e}",
        )
    mean, error = over_reservoirs(dataset)
    table.add_row(
        "reservoirs", *(f"{float(mean[i]):+.2f} ± {float(error[i]):.2f}" for i in range(3)), ""
    )
    console.print(table)
