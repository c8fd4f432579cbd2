"""What the audit of initialisations measures: recurrent kernels, and λ₁ with two error bars."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, PyTree
from scipy.special import stdtrit

import jacobian_rnn as jrnn
from experiments.initialization._schemes import GATES

LEVEL = 0.95
# What is stored: long name and unit, for those who read the file.
KERNEL = {
    "scaled_variance": ("width times variance of the entries of the recurrent kernel", "1"),
    "nonorthogonality": (
        "||W W' - c I|| / (c sqrt N), c = ||W||^2 / N, Frobenius norms: 0 if W is a multiple of an "
        "orthogonal matrix, about 1 if its entries are independent",
        "1",
    ),
    "largest_singular_value": ("largest singular value of the recurrent kernel", "1"),
    "smallest_singular_value": ("smallest singular value of the recurrent kernel", "1"),
    "spectral_radius": ("spectral radius of the recurrent kernel", "1"),
}
EXPONENT = {
    "exponent": ("largest Lyapunov exponent of each network", "nats per step"),
    "error_over_time": ("its standard error over time", "nats per step"),
    "long_enough": ("whether that error has enough uncorrelated batches", "1"),
    "drift": ("later half minus earlier half, in standard errors", "1"),
    "longer_exponent": ("the same in a longer run with fresh inputs", "nats per step"),
    "mean_exponent": ("mean over networks", "nats per step"),
    "error_over_networks": ("standard error of that mean over networks", "nats per step"),
    "spread_over_networks": ("standard deviation between networks", "nats per step"),
    "typical_error_over_time": ("root mean square of the errors over time", "nats per step"),
    "exponent_interval": ("95 % interval of the mean, over networks", "nats per step"),
    "memory": ("-1 / mean exponent; inf if the interval contains 0, NaN if it is above", "steps"),
    "memory_interval": ("the same of the ends of the interval", "steps"),
    "change": ("mean exponent of the longer runs minus that of the shorter ones", "nats per step"),
    "error_of_change": ("its standard error over networks", "nats per step"),
}


class Memory(NamedTuple):
    """Steps after which a gradient has shrunk by a factor e, with its interval."""

    value: np.ndarray
    interval: np.ndarray


@partial(jax.jit, static_argnames=("num_inputs", "num_steps", "num_warmup", "qr_every", "longer"))
def exponents(
    networks: jrnn.Recurrence,
    carry: PyTree,
    keys: Array,
    *,
    num_inputs: int,
    num_steps: int,
    num_warmup: int,
    qr_every: int,
    longer: int,
) -> tuple[jrnn.LyapunovSpectrum, Float[Array, " networks"]]:
    """Measure the largest exponent of each network under white noise of its own, by two routes.

    Args:
        networks: with parameters stacked along a first axis.
        carry: the initial one of all, without that axis.
        keys: one for the inputs of each network.
        num_inputs: channels of noise, of unit variance each.
        num_steps: steps that count.
        num_warmup: steps before them.
        qr_every: steps between normalisations.
        longer: how many times as many steps count on the second route.

    Returns:
        Spectra of one exponent, stacked, whose errors are over time; and the exponents of longer
        runs with other inputs, by one tangent vector that is normalised at every step.
    """

    def noise(key, steps):
        dtype = jax.tree.leaves(carry)[0].dtype
        return jax.random.normal(key, (num_warmup + steps, num_inputs), dtype)

    def one(network, key):
        short_key, long_key = jax.random.split(key)
        spectrum = jrnn.lyapunov_spectrum(
            network,
            carry,
            noise(short_key, num_steps),
            num_exponents=1,
            num_warmup=num_warmup,
            qr_every=qr_every,
        )
        xs = noise(long_key, longer * num_steps)
        return spectrum, jrnn.largest_exponent(network, carry, xs, num_warmup=num_warmup)

    return jax.vmap(one)(networks, keys)


def of_kernels(kernels: Mapping[str, Array]) -> xr.Dataset:
    """Measure the recurrent kernel of every gate of every network; NaN for gates that are not.

    Args:
        kernels: by gate, `(networks, N, N)`.

    Returns:
        Variables over `(network, gate)`, see `KERNEL`.
    """
    num_networks, width, _ = next(iter(kernels.values())).shape
    values = {name: np.full((num_networks, len(GATES)), np.nan) for name in KERNEL}
    for gate, kernel in kernels.items():
        w = np.asarray(kernel, float)
        singular_values = np.linalg.svd(w, compute_uv=False)
        squares = singular_values**2
        scale = squares.mean(axis=1, keepdims=True)
        measured = (
            width * w.var(axis=(1, 2)),
            # The Frobenius norm of W W' - c I is the 2-norm of its eigenvalues.
            np.sqrt(np.mean((squares / scale - 1) ** 2, axis=1)),
            singular_values[:, 0],
            singular_values[:, -1],
            np.abs(np.linalg.eigvals(w)).max(axis=1),
        )
        for name, value in zip(KERNEL, measured, strict=True):
            values[name][:, GATES.index(gate)] = value
    return xr.Dataset(
        {name: (("network", "gate"), value) for name, value in values.items()},
        coords={"gate": list(GATES), "network": np.arange(num_networks)},
    )


def of_exponents(spectra: jrnn.LyapunovSpectrum, longer: np.ndarray) -> xr.Dataset:
    """Summarise the exponents of networks drawn afresh: two error bars, memory, longer runs."""
    ensemble = jax.tree.map(lambda value: float(value[0]), jrnn.ensemble_spectrum(spectra))
    each = np.asarray(spectra.exponents[:, 0], float)
    if not np.isfinite(each).all() or not np.isfinite(longer).all():
        msg = f"λ₁ is not finite: {each} in the shorter runs, {longer} in the longer"
        raise ValueError(msg)
    num = len(each)
    half = stdtrit(num - 1, (1 + LEVEL) / 2) * ensemble.standard_errors
    interval = ensemble.exponents + half * np.array([-1, 1])
    memory = memory_of(np.array(ensemble.exponents), interval)
    change = np.asarray(longer, float) - each
    return xr.Dataset(
        {
            "exponent": ("network", each),
            "error_over_time": ("network", np.asarray(spectra.standard_errors[:, 0], float)),
            "long_enough": ("network", np.asarray(spectra.long_enough[:, 0])),
            "drift": ("network", np.asarray(spectra.drift[:, 0], float)),
            "longer_exponent": ("network", np.asarray(longer, float)),
            "mean_exponent": ensemble.exponents,
            "error_over_networks": ensemble.standard_errors,
            "spread_over_networks": ensemble.spread,
            "typical_error_over_time": ensemble.spread_over_time,
            "exponent_interval": ("end", interval),
            "memory": float(memory.value),
            "memory_interval": ("end", memory.interval),
            "change": change.mean(),
            "error_of_change": change.std(ddof=1) / np.sqrt(num),
        }
    )


def memory_of(exponent: np.ndarray, interval: np.ndarray) -> Memory:
    """Return −1/λ₁ and the same of the ends of an interval, steps.

    Args:
        exponent: λ₁, nats per step.
        interval: lower and upper end along the last axis.

    Returns:
        The memory, and its lower and upper end. Where the interval contains 0, value and upper end
        are infinite: no bound is known. Where it lies above 0 nothing is forgotten, gradients
        grow, and all are NaN.
    """
    with np.errstate(divide="ignore"):
        low, high = np.moveaxis(np.asarray(interval, float), -1, 0)
        unbounded = (low <= 0) & (high >= 0)
        value = np.where(unbounded, np.inf, -1 / np.asarray(exponent, float))
        shortest = np.where(low < 0, -1 / low, np.inf)
        longest = np.where(unbounded, np.inf, -1 / high)
    ends = np.stack([shortest, longest], axis=-1)
    grows = low > 0
    return Memory(np.where(grows, np.nan, value), np.where(grows[..., None], np.nan, ends))
