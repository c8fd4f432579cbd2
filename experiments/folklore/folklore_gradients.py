"""Statements a, d and g of the folklore, which gradients alone decide."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments.folklore_networks import (
    Growth,
    draw_networks,
    driven,
    gaussian_cell,
    growth_of,
    measure,
    white,
)
from experiments.folklore_options import Folklore

KINDS = ("SimpleCell", "LSTM", "LSTM, forget bias 1", "LSTM, chrono biases", "LSTM, large gain")


def depth_chain(config: Folklore, gain: float, key: jax.Array) -> Growth:
    """Draw feed-forward chains of tanh layers of one gain, and measure how gradients grow."""
    dtype, width = jnp.dtype(config.dtype), config.width
    shape = (config.num_networks, config.num_warmup + config.num_steps, width)
    kernel_key, bias_key, start_key = jax.random.split(key, 3)
    layers = {
        "kernel": gain / np.sqrt(width) * jax.random.normal(kernel_key, (*shape, width), dtype),
        "bias": config.input_std * jax.random.normal(bias_key, shape, dtype),
    }
    start = jax.random.normal(start_key, (width,), dtype)
    return growth_of(CHAIN, start, layers, num_warmup=config.num_warmup)


CHAIN = jrnn.dense_chain(jnp.tanh)


def depth(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement a: the slope of the log gradient norm with depth, and λ₁."""
    gradients, exponents, slopes = [], [], []
    for number, gain in enumerate(config.gains):
        chain_key, network_key = jax.random.split(jax.random.fold_in(key, number))
        repeated = [gain] * config.num_networks
        both = (
            depth_chain(config, gain, chain_key),
            measure(config, "SimpleCell", config.width, repeated, network_key)[1],
        )
        kept = [np.asarray(one.log_gradient)[:, : config.depth + 1] for one in both]
        gradients.append([one - one[:, :1] for one in kept])
        exponents.append([one.exponent for one in both])
        slopes.append([slope_of(one, config.skipped) for one in kept])
    return xr.Dataset(
        {
            "depth_log_gradient": (("gain", "chain", "network", "depth"), np.stack(gradients)),
            "depth_exponent": (("gain", "chain", "network"), np.stack(exponents)),
            "depth_slope": (("gain", "chain", "network"), np.stack(slopes)),
        },
        coords={
            "gain": list(config.gains),
            "chain": ["feed-forward", "recurrent"],
            "network": range(config.num_networks),
            "depth": range(config.depth + 1),
        },
    )


def slope_of(log_gradient: np.ndarray, skipped: int) -> np.ndarray:
    """Fit straight lines to log gradient norms by depth, `(networks, depth + 1)`."""
    depths = np.arange(skipped, log_gradient.shape[1])
    return np.polyfit(depths, log_gradient[:, skipped:].T, 1)[0]


def differences(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement d: finite differences of the last state against its gradient."""
    dtype, width = jnp.dtype(config.dtype), config.width
    count = config.num_networks
    gains = np.repeat(config.difference_gains, count)
    draw_key, input_key, direction_key = jax.random.split(key, 3)
    recurrences = draw_networks(
        gaussian_cell("SimpleCell", width, dtype),
        jax.random.split(draw_key, len(gains)),
        jnp.asarray(gains, dtype),
        num_inputs=config.num_inputs,
    )
    xs = white(config, input_key, len(gains), config.num_warmup + max(config.lags))
    directions = jax.random.normal(direction_key, (len(gains), config.num_inputs), dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    steps = np.logspace(*config.step_exponents)
    error, log_growth = relative_errors(
        recurrences, jnp.zeros(width, dtype), xs, directions, jnp.asarray(steps), config.lags
    )
    shape = (len(config.difference_gains), count, len(config.lags))
    return xr.Dataset(
        {
            "difference_error": (
                ("difference_gain", "network", "lag", "step_size"),
                np.asarray(error).reshape(*shape, len(steps)),
            ),
            "difference_log_growth": (
                ("difference_gain", "network", "lag"),
                np.asarray(log_growth).reshape(shape),
            ),
        },
        coords={
            "difference_gain": list(config.difference_gains),
            "network": range(count),
            "lag": list(config.lags),
            "step_size": steps,
        },
    )


@partial(jax.jit, static_argnames="lags")
def relative_errors(recurrences, carry, xs, directions, steps, lags: tuple[int, ...]):
    """Compare (h_T(x + ε u) − h_T(x)) / ε with ∂h_T/∂x u for each network, lag and step size ε.

    Returns:
        `(error, log_growth)`: norm of the difference relative to that of the gradient's prediction,
        `(networks, lags, steps)`, and log of the latter, nats, `(networks, lags)`.
    """
    num_steps = xs.shape[1]

    def one(recurrence, xs, direction):
        result = jrnn.input_jacobians(recurrence, carry, xs, lags=lags)
        unchanged = jrnn.trajectory(recurrence, carry, xs)[-1]
        predicted = jnp.exp(result.log_norms)[:, None] * (result.matrices @ direction)

        def change(lag, step):
            changed = xs.at[num_steps - lag].add(step * direction)
            return (jrnn.trajectory(recurrence, carry, changed)[-1] - unchanged) / step

        of_steps = jax.vmap(change, in_axes=(None, 0))
        changes = jax.vmap(of_steps, in_axes=(0, None))(jnp.asarray(lags), steps)
        norms = jnp.linalg.norm(predicted, axis=1)
        errors = jnp.linalg.norm(changes - predicted[:, None], axis=-1) / norms[:, None]
        return errors, jnp.log(norms)

    return jax.vmap(one)(recurrences, xs, directions)


def memory(config: Folklore, key: jax.Array) -> xr.Dataset:
    """Measure statement g: gradients through a SimpleCell and LSTMs of several initialisations."""
    dtype, width, count = jnp.dtype(config.dtype), config.width, config.num_networks
    draw_key, chrono_key, input_key = jax.random.split(key, 3)
    keys = jax.random.split(draw_key, count)

    def default(cell, gain=1.0):
        # Flax's own initialisation: orthogonal recurrent kernels, biases of zero.
        gains = jnp.full(count, gain, dtype)
        return draw_networks(
            cell(width, param_dtype=dtype), keys, gains, num_inputs=config.num_inputs
        )

    lstms = default(nn.OptimizedLSTMCell)
    chrono = partial(_with_chrono_biases, max_lag=config.horizon)
    kinds = (
        default(nn.SimpleCell),
        lstms,
        jax.vmap(_with_forget_bias)(lstms),
        jax.vmap(chrono)(lstms, jax.random.split(chrono_key, count)),
        default(nn.OptimizedLSTMCell, config.large_gain),
    )
    growths = []
    for recurrences in kinds:
        carry = jrnn.zero_carry(jax.tree.map(lambda leaf: leaf[0], recurrences))
        growths.append(driven(config, recurrences, carry, input_key))
    gradients = [np.asarray(one.log_gradient)[:, : config.horizon + 1] for one in growths]
    return xr.Dataset(
        {
            "memory_log_gradient": (
                ("initialisation", "network", "memory_lag"),
                np.stack([one - one[:, :1] for one in gradients]),
            ),
            "memory_exponent": (
                ("initialisation", "network"),
                np.stack([one.exponent for one in growths]),
            ),
        },
        coords={
            "initialisation": list(KINDS),
            "network": range(count),
            "memory_lag": range(config.horizon + 1),
        },
    )


def _with_forget_bias(recurrence):
    return jrnn.with_gate_bias(recurrence, "forget", 1.0)


def _with_chrono_biases(recurrence, key, max_lag):
    return jrnn.with_chrono_biases(recurrence, max_lag, key=key)
