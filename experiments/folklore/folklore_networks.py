"""Networks that the folklore is tried on, many at once, and how gradients grow in them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jacobian_rnn as jrnn
from experiments import networks
from experiments.folklore_options import Folklore


class Growth(NamedTuple):
    """How gradients grow in several networks: λ₁, and log gradient norms by lag 0 … T."""

    exponent: jax.Array  # (networks,), nats per step, by tangent vectors forward in time
    log_gradient: jax.Array  # (networks, T + 1), nats, by backpropagation from the last state


@partial(jax.jit, static_argnames="num_warmup")
def growth_of(recurrences: jrnn.Recurrence, carry, xs, *, num_warmup: int) -> Growth:
    """Measure networks that are stacked along the first axis, each under inputs of its own."""

    def one(recurrence, xs):
        exponent = jrnn.largest_exponent(recurrence, carry, xs, num_warmup=num_warmup)
        gradients = jrnn.state_gradients(recurrence, carry, xs, _last)
        return Growth(exponent, jnp.log(jnp.linalg.norm(gradients, axis=1))[::-1])

    return jax.vmap(one)(recurrences, xs)


def _last(states):
    return jnp.sum(states[-1]) / np.sqrt(states.shape[-1]).astype(states.dtype)


@partial(jax.jit, static_argnames=("cell", "num_inputs"))
def draw_networks(cell: nn.Module, keys: jax.Array, gains: jax.Array, *, num_inputs: int):
    """Draw a network for each key and gain, stacked along the first axis."""

    def one(key, gain):
        return jrnn.draw(cell, key=key, num_inputs=num_inputs, gain=gain)

    return jax.vmap(one)(keys, gains)


def gaussian_cell(name: str, width: int, dtype) -> nn.Module:
    """Return a cell with Gaussian recurrent kernels, of gain one in each gate."""
    return networks.CELLS[name](
        width, recurrent_kernel_init=jrnn.initializers.gaussian(1.0), param_dtype=dtype
    )


def white(config: Folklore, key: jax.Array, count: int, num_steps: int) -> jax.Array:
    """Draw inputs for several networks, `(count, num_steps, inputs)`."""
    shape = (count, num_steps, config.num_inputs)
    return config.input_std * jax.random.normal(key, shape, jnp.dtype(config.dtype))


def measure(config: Folklore, cell: str, width: int, gains, key: jax.Array):
    """Draw networks of one kind, one for each gain, and measure how their gradients grow.

    Returns:
        `(recurrences, growth)`.
    """
    dtype = jnp.dtype(config.dtype)
    draw_key, input_key = jax.random.split(key)
    gains = jnp.asarray(gains, dtype)
    recurrences = draw_networks(
        gaussian_cell(cell, width, dtype),
        jax.random.split(draw_key, len(gains)),
        gains,
        num_inputs=config.num_inputs,
    )
    return recurrences, driven(
        config, recurrences, networks.zero_carry(cell, width, dtype), input_key
    )


def driven(config: Folklore, recurrences: jrnn.Recurrence, carry, key: jax.Array) -> Growth:
    """Measure stacked networks under white input."""
    count = len(jax.tree.leaves(recurrences.params)[0])
    xs = white(config, key, count, config.num_warmup + config.num_steps)
    return growth_of(recurrences, carry, xs, num_warmup=config.num_warmup)
