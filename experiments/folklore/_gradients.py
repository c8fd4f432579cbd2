"""How gradients grow under white input, by several routes: statements a, b, d and g."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import linen as nn
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp

import jacobian_rnn as jrnn
from experiments import drawing
from experiments.folklore._options import Folklore

CHAINS = ("feed-forward", "recurrent")
# Of the depth: there the gradient turns into the direction that grows most.
SKIPPED = 0.2
STEP_SIZES = np.logspace(-14, 0, 29)
KINDS = (
    "SimpleCell",
    "LSTM",
    "LSTM, forget bias 1",
    "LSTM, chrono biases",
    "LSTM, large gain",
)


class Growth(NamedTuple):
    """How gradients grow in several networks, on their way back from the last state.

    Attributes:
        exponent: λ₁ from tangents forward in time, nats per step, `(networks,)`.
        log_gradient: log norm of one loss's gradient by plain backpropagation at lags 0 … horizon,
            relative to lag 0, nats, `(networks, horizon + 1)`.
        exact: log root-mean-square growth of a random gradient, from all singular values of the
            exact product of step Jacobians, nats, `(networks, lags)`.
        profile: the same from a few random gradients, by the backward profile.
        profile_error: its sampling error, nats.
    """

    exponent: jax.Array
    log_gradient: jax.Array
    exact: jax.Array
    profile: jax.Array
    profile_error: jax.Array


def compared_lags(config: Folklore) -> list[int]:
    """Return the lags at which the backward profile is laid beside the exact product."""
    return [*config.lags, config.horizon]


@partial(jax.jit, static_argnames="config")
def growth_of(config: Folklore, recurrences: jrnn.Recurrence, carry, xs, key) -> Growth:
    """Measure networks that are stacked along the first axis, each under inputs of its own."""
    _, unravel = ravel_pytree(carry)
    lags = np.array(compared_lags(config))

    def one(recurrence, xs, key):
        exponent = jrnn.largest_exponent(recurrence, carry, xs, num_warmup=config.num_warmup)
        start = unravel(jrnn.trajectory(recurrence, carry, xs)[-1 - config.horizon])
        last = recurrence, start, jax.tree.map(lambda leaf: leaf[-config.horizon :], xs)
        norms = jnp.linalg.norm(jrnn.state_gradients(*last, _sum_of_last), axis=1)[::-1]
        log_values = jrnn.log_singular_values_by_lag(*last, lags=lags)
        exact = (logsumexp(2 * log_values, axis=1) - np.log(log_values.shape[1])) / 2
        profile = jrnn.backward_profile(*last, key=key, num_probes=config.num_probes)
        return Growth(
            exponent,
            jnp.log(norms / norms[0]),
            exact,
            profile.log_growth[lags - 1],
            profile.sampling_error[lags - 1],
        )

    num_networks = len(jax.tree.leaves(xs)[0])
    return jax.vmap(one)(recurrences, xs, jax.random.split(key, num_networks))


def _sum_of_last(states):
    return jnp.sum(states[-1])


def _labelled(config, growth, name):
    """Make a dataset of growths, whose variables begin with a name."""
    dims = {"exponent": (), "log_gradient": ("depth",)}
    return xr.Dataset(
        {
            f"{name}_{field}": (("network", *dims.get(field, ("compared_lag",))), np.asarray(value))
            for field, value in growth._asdict().items()
        },
        {"depth": range(config.horizon + 1), "compared_lag": compared_lags(config)},
    )


@partial(jax.jit, static_argnames=("cell", "num_inputs"))
def _draw(cell, keys, gains, num_inputs):
    def one(key, gain):
        return jrnn.draw(cell, key=key, num_inputs=num_inputs, gain=gain)

    return jax.vmap(one)(keys, gains)


def draw(config: Folklore, cell: nn.Module, gains, key: jax.Array) -> jrnn.Recurrence:
    """Draw a network for each gain, stacked along the first axis."""
    gains = jnp.asarray(gains, config.dtype)
    return _draw(cell, jax.random.split(key, len(gains)), gains, config.num_inputs)


def gaussian_cell(config: Folklore, name: str, width: int) -> nn.Module:
    """Return a cell with Gaussian recurrent kernels, of gain one in each gate."""
    return drawing.CELLS[name](
        width, recurrent_kernel_init=jrnn.initializers.gaussian(1.0), param_dtype=config.dtype
    )


def white(config: Folklore, key: jax.Array, count: int, num_steps: int | None = None) -> jax.Array:
    """Draw inputs for several networks, `(count, num_steps, inputs)`."""
    num_steps = num_steps or config.num_warmup + config.num_steps
    shape = (count, num_steps, config.num_inputs)
    return config.input_std * jax.random.normal(key, shape, jnp.dtype(config.dtype))


def depth(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure statements a and b at one gain: growth with depth, and the rate of W alone."""
    dtype, width, count = jnp.dtype(config.dtype), config.width, config.num_networks
    gain = config.gains[number]
    kernel_key, bias_key, draw_key, input_key, probe_key = jax.random.split(key, 5)
    shape = (count, config.num_warmup + config.num_steps, width)
    layers = {
        "kernel": gain / np.sqrt(width) * jax.random.normal(kernel_key, (*shape, width), dtype),
        "bias": config.input_std * jax.random.normal(bias_key, shape, dtype),
    }
    cell = gaussian_cell(config, "SimpleCell", width)
    networks = draw(config, cell, [gain] * count, draw_key)
    zeros = jnp.zeros(width, dtype)
    measured = [
        _labelled(config, growth_of(config, recurrences, zeros, xs, probe_key), "chain")
        for recurrences, xs in (
            (jrnn.dense_chain(jnp.tanh), layers),
            (networks, white(config, input_key, count)),
        )
    ]
    dataset = xr.concat(measured, "chain").assign_coords(chain=list(CHAINS))
    slope = slope_of(dataset["chain_log_gradient"].to_numpy())
    # The rate of W, W², W³, … is the log of its spectral radius.
    kernels = np.asarray(jax.vmap(drawing.candidate_matrix)(networks))
    rate = np.log(np.abs(np.linalg.eigvals(kernels)).max(axis=1))
    return dataset.assign(chain_slope=(("chain", "network"), slope), weight_rate=("network", rate))


def slope_of(log_gradient: np.ndarray) -> np.ndarray:
    """Fit straight lines to log gradient norms by depth, the last axis, but for the first ones."""
    skipped = int(SKIPPED * log_gradient.shape[-1])
    depths = np.arange(skipped, log_gradient.shape[-1])
    flat = log_gradient[..., skipped:].reshape(-1, len(depths))
    return np.polyfit(depths, flat.T, 1)[0].reshape(log_gradient.shape[:-1])


def memory(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure statement g for one initialisation: gradients in a SimpleCell or an LSTM."""
    kind = KINDS[number]
    draw_key, chrono_key, input_key, probe_key = jax.random.split(key, 4)
    count = config.num_networks
    # Flax's own initialisation: orthogonal recurrent kernels, biases of zero.
    cell = nn.SimpleCell if kind == "SimpleCell" else nn.OptimizedLSTMCell
    gain = config.large_gain if kind == "LSTM, large gain" else 1.0
    cell = cell(config.width, param_dtype=config.dtype)
    networks = draw(config, cell, [gain] * count, draw_key)
    if kind == "LSTM, forget bias 1":
        networks = jax.vmap(lambda one: jrnn.with_gate_bias(one, "forget", 1.0))(networks)
    if kind == "LSTM, chrono biases":
        networks = jax.vmap(lambda one, key: jrnn.with_chrono_biases(one, config.horizon, key=key))(
            networks, jax.random.split(chrono_key, count)
        )
    carry = jrnn.zero_carry(jax.tree.map(lambda leaf: leaf[0], networks))
    xs = white(config, input_key, count)
    return _labelled(config, growth_of(config, networks, carry, xs, probe_key), "memory")


def differences(config: Folklore, number: int, key: jax.Array) -> xr.Dataset:
    """Measure statement d at one gain: finite differences of the last state beside its gradient."""
    draw_key, input_key, direction_key = jax.random.split(key, 3)
    count, dtype = config.num_networks, jnp.dtype(config.dtype)
    cell = gaussian_cell(config, "SimpleCell", config.width)
    networks = draw(config, cell, [config.difference_gains[number]] * count, draw_key)
    xs = white(config, input_key, count, config.num_warmup + max(config.lags))
    directions = jax.random.normal(direction_key, (count, config.num_inputs), dtype)
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    steps = jnp.asarray(STEP_SIZES, dtype)
    error = relative_errors(
        networks, jnp.zeros(config.width, dtype), xs, directions, steps, config.lags
    )
    return xr.Dataset(
        {"difference_error": (("network", "lag", "step_size"), np.asarray(error))},
        {"lag": list(config.lags), "step_size": STEP_SIZES},
    )


@partial(jax.jit, static_argnames="lags")
def relative_errors(recurrences, carry, xs, directions, steps, lags: tuple[int, ...]):
    """Compare (h_T(x + ε u) − h_T(x)) / ε with ∂h_T/∂x u for each network, lag and step size ε.

    Returns:
        Norm of the difference relative to that of the gradient's prediction, `(networks, lags,
        steps)`.
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
        return jnp.linalg.norm(changes - predicted[:, None], axis=-1) / norms[:, None]

    return jax.vmap(one)(recurrences, xs, directions)
