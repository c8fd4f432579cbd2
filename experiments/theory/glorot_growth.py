"""Find when gradients explode in linear networks that keep their Glorot weights, against width.

h_t = W h_{t−1}, with independent N(0, 1/n) entries of W. That is Glorot's variance 2/(n + n), and
with fresh weights at every step it keeps the mean square of signals. Kept weights multiply by Wᵗ,
and some eigenvalues of W lie outside the unit circle, by about 1/√n. So N. Bar, M. Seleznova, Y.
Alexander, G. Kutyniok and R. Giryes, "Revisiting Glorot initialization for long-range linear
recurrences", 2025, say that signals explode once t is of the order of √n, where t and n grow
together. They bound the mean square over networks. Few networks carry that mean, so the median over
networks is measured beside it.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from annotated_types import Ge, Gt
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.arrangement import label
from experiments.runner.experiment import Axis, Count, Dtype, Positive, Report, Seed

NUM_RESAMPLES = 1000
STEP = 0.25  # between the places of the curves that are kept, in units of √n
Factor = Annotated[float, Gt(1)]


@dataclasses.dataclass(frozen=True)
class Glorot:
    """What is measured.

    Attributes:
        widths: n, ascending.
        num_networks: drawn afresh at each width.
        factor: by which the root mean square of a gradient has grown when it counts as exploding.
        horizon: steps for which networks are watched, in units of √n.
        num_probes: gradients pulled back through each network.
        seed: of all draws.
        dtype: precision.
    """

    widths: Axis[Count] = (32, 64, 128, 256, 512, 1024)
    num_networks: Annotated[int, Ge(2)] = 96
    factor: Factor = 2.0
    horizon: Positive = 12.0
    num_probes: Count = 8
    seed: Seed = 0
    dtype: Dtype = "float32"

    def __post_init__(self):
        """Check that there are widths for a power, in order."""
        if len(self.widths) < 2 or list(self.widths) != sorted(self.widths):
            msg = f"--widths: received {self.widths}, expected two ascending ones or more"
            raise ValueError(msg)


PRESETS = {
    "quick": Glorot(widths=(32, 128), num_networks=24),
    "default": Glorot(),
    "full": Glorot(widths=(32, 64, 128, 256, 512, 1024, 2048, 4096), num_networks=400),
}


class Unit(NamedTuple):
    """What a worker does at a time: all networks of one width."""

    width: str


def units(config: Glorot) -> list[Unit]:
    """List the widths, the largest first."""
    return [Unit(str(width)) for width in sorted(config.widths, reverse=True)]


def places(config: Glorot) -> np.ndarray:
    """Return where the curves of all widths are kept, in units of √n."""
    return np.arange(STEP, config.horizon + STEP / 2, STEP)


def step(params, carry, _):
    """Advance a linear network by one step."""
    return params @ carry


def work(config: Glorot, unit: Unit, report: Report) -> xr.Dataset:
    """Measure the growth of gradients in all networks of one width."""
    width = int(unit.width)
    key = jax.random.fold_in(jax.random.key(config.seed), width)
    num_steps = int(np.ceil(config.horizon * width**0.5))
    growth = []
    for number in range(config.num_networks):
        report("pulling gradients back", number / config.num_networks)
        one = jax.random.fold_in(key, number)
        growth.append(np.asarray(growth_of(one, width, num_steps, config.num_probes, config.dtype)))
    growth = np.stack(growth)
    lags, kept = np.arange(num_steps + 1), places(config) * width**0.5
    curves = [np.interp(kept, lags, np.append(0.0, one)) for one in growth]
    return xr.Dataset(
        {
            "time": ("network", first_time(growth, float(np.log(config.factor)))),
            "growth": (("network", "place"), np.stack(curves)),
        },
        coords={"place": places(config), "width": width},
    )


@partial(jax.jit, static_argnames=("width", "num_steps", "num_probes", "dtype"))
def growth_of(key: jax.Array, width: int, num_steps: int, num_probes: int, dtype: str) -> jax.Array:
    """Return log growth of a random gradient in one network, nats, at every lag from 1."""
    draw, probe = jax.random.split(key)
    kernel = jax.random.normal(draw, (width, width), dtype) / jnp.asarray(width**0.5, dtype)
    network = jrnn.Recurrence(step, kernel)
    profile = jrnn.backward_profile(
        network,
        jnp.zeros(width, dtype),
        None,
        num_steps=num_steps,
        num_probes=num_probes,
        key=probe,
    )
    return profile.log_growth


def first_time(growth: np.ndarray, level: float) -> np.ndarray:
    """Return the lag from which on growth first exceeds a level, inf where it never does.

    Growth is `(networks, lags)`, from a lag of one. Between lags it is interpolated.
    """
    above = growth > level
    first = np.argmax(above, axis=1)
    row = np.arange(len(growth))
    high = growth[row, first]
    low = np.where(first > 0, growth[row, np.maximum(first - 1, 0)], 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        lag = first + (level - low) / (high - low)
    return np.where(above.any(axis=1), lag, np.inf)


def combine(config: Glorot, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join all widths, and fit the powers of the width with which the times go."""
    dataset = xr.concat([parts[Unit(str(width))] for width in config.widths], "width")
    return fitted(dataset, float(np.log(config.factor)), np.random.default_rng(config.seed))


def fitted(dataset: xr.Dataset, level: float, random: np.random.Generator) -> xr.Dataset:
    """Add times of the mean square and of the median, powers of the width, and their errors.

    Errors are over networks, which are drawn again from those that were measured.
    """
    width, times = dataset["width"].to_numpy(), dataset["time"].to_numpy()
    growth = dataset["growth"].transpose("width", "network", "place").to_numpy()
    per_place = (dataset["place"].to_numpy()[0] * width**0.5)[:, None]
    num_networks = times.shape[1]
    all_of_them = np.arange(num_networks)
    drawn = [all_of_them, *random.integers(num_networks, size=(NUM_RESAMPLES, num_networks))]
    both = np.stack(
        [
            np.stack([times_of_mean_square(growth[:, one], level), np.median(times[:, one], 1)])
            * np.stack([per_place[:, 0], np.ones(len(width))])
            for one in drawn
        ]
    )
    powers = np.array([[power(width, one) for one in sample] for sample in both])
    dataset = dataset.assign_coords(average=["mean square", "median"]).assign(
        mean_square=(("width", "place"), log_mean_square(growth)),
        average_time=(("average", "width"), both[0]),
        # An end is one of the times, for between a number and inf there is nothing.
        time_interval=(
            ("end", "average", "width"),
            np.quantile(both[1:], (0.025, 0.975), axis=0, method="inverted_cdf"),
        ),
        never=("width", np.isinf(times).mean(axis=1)),
        power=("average", powers[0]),
        power_error=("average", powers[1:].std(axis=0, ddof=1)),
    )
    label(
        dataset,
        {
            "time": ("steps after which a gradient has grown by the factor, inf if never", "steps"),
            "growth": ("log root-mean-square growth of a random gradient", "nats"),
            "mean_square": ("the same, of the root mean square over networks", "nats"),
            "average_time": ("steps until the factor, of the mean square, and median", "steps"),
            "time_interval": ("its 95 % interval, from networks drawn again", "steps"),
            "never": ("share of networks that never grow by the factor within the horizon", "1"),
            "power": ("of the width with which the time goes, by least squares", "1"),
            "power_error": ("its standard error, from networks drawn again", "1"),
        },
    )
    return dataset


def log_mean_square(growth: np.ndarray) -> np.ndarray:
    """Return ½ log of the mean over networks of exp(2 growth), nats, `(widths, places)`."""
    largest = growth.max(axis=1, keepdims=True)
    return largest[:, 0] + np.log(np.mean(np.exp(2 * (growth - largest)), axis=1)) / 2


def times_of_mean_square(growth: np.ndarray, level: float) -> np.ndarray:
    """Return when the mean square over networks first exceeds a level, in places."""
    return first_time(log_mean_square(growth), level)


def power(width: np.ndarray, times: np.ndarray) -> float:
    """Fit the slope of log time against log width; NaN where a time is not finite."""
    if not np.isfinite(times).all():
        return np.nan
    return float(np.polyfit(np.log(width), np.log(times), 1)[0])


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the times, and the powers of the width."""
    table = Table(
        pad_edge=False,
        title="steps until gradients have grown [95 %], and over √n",
        caption=f"{dataset.sizes['network']} networks of each width",
    )
    for column in ("n", "mean square", "median", "never"):
        table.add_column(column, no_wrap=True)
    for width in dataset["width"].to_numpy():
        one = dataset.sel(width=width)
        cells = []
        for average in dataset["average"].to_numpy():
            time = float(one["average_time"].sel(average=average))
            low, high = one["time_interval"].sel(average=average).to_numpy()
            cells.append(f"{time:.1f} [{low:.1f}, {high:.1f}], {time / width**0.5:.2f}")
        table.add_row(str(width), *cells, f"{100 * float(one['never']):.0f} %")
    console.print(table)
    for average in dataset["average"].to_numpy():
        one = dataset.sel(average=average)
        console.print(
            f"{average}: the time goes with n to the power of {float(one['power']):.3f} ± "
            f"{float(one['power_error']):.3f}"
        )
