"""The cells that the contracts hold, each with a carry and a sequence of inputs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jacobian_rnn as jrnn
from jacobian_rnn.cells.layout import Weights
from jacobian_rnn.cells.projected_lstm import make_projected_lstm
from jacobian_rnn.cells.reset_before_gru import make_reset_before_gru
from tests.networks import CELLS, NUM_INPUTS, make_network, randomized

NUM_STEPS = 4
WIDTH = 2


class Setting(NamedTuple):
    """What a function is called with: a recurrence, its carry, and one sequence."""

    recurrence: jrnn.Recurrence
    carry: Any
    xs: Any

    @property
    def n(self):
        return sum(leaf.size for leaf in jax.tree.leaves(self.carry))


def flax_cell(name):
    def make(seed, dtype):
        width = 1 if name == "ConvLSTMCell" else WIDTH
        recurrence, carry, xs = make_network(name, width, seed, dtype)
        return Setting(recurrence, carry, xs[:NUM_STEPS])

    return make


def literature_cell(draw):
    def make(seed, dtype):
        generator = np.random.default_rng(seed)
        shapes = jax.eval_shape(
            partial(draw, NUM_INPUTS, WIDTH, dtype=dtype), key=jax.random.key(0)
        )
        recurrence = randomized(shapes, generator)
        carry = randomized(jrnn.zero_carry(recurrence), generator)
        return Setting(recurrence, carry, inputs(generator, dtype))

    return make


def projected_lstm(num_inputs, width, *, key, dtype):
    """Draw an LSTM whose h has one entry fewer than c."""
    shapes = [(4, num_inputs, width), (4, width - 1, width), (4, width), (width, width - 1)]
    *arrays, projection = (jax.random.normal(key, shape, dtype) for shape in shapes)
    return make_projected_lstm(Weights(*map(tuple, arrays)), projection)


def reset_before_gru(num_inputs, width, *, key, dtype):
    shapes = [(3, num_inputs, width), (3, width, width), (3, width)]
    arrays = (tuple(jax.random.normal(key, shape, dtype)) for shape in shapes)
    return make_reset_before_gru(Weights(*arrays))


def residual_lru(num_inputs, width, *, key, dtype):
    """Draw a residual block around complex units."""
    return jrnn.residual_block(
        jrnn.lru(num_inputs, width, key=key, dtype=dtype), num_inputs, key=key
    )


def stack_of_two(seed, dtype):
    lower = flax_cell("LSTMCell")(seed, dtype)
    upper, carry, _ = make_network("nnx GRUCell", WIDTH, seed + 1, dtype)
    # A layer reads what is shown below it, which is narrower than what the cell was built for.
    params = upper.params | {
        "dense_i": upper.params["dense_i"] | {"kernel": upper.params["dense_i"]["kernel"][:WIDTH]}
    }
    upper = jrnn.Recurrence(upper.step, params, upper.jacobian)
    return Setting(jrnn.stack(lower.recurrence, upper), (lower.carry, carry), lower.xs)


def chain_of_layers(seed, dtype):
    generator = np.random.default_rng(seed)
    layers = {"kernel": np.zeros((NUM_STEPS, WIDTH, WIDTH)), "bias": np.zeros((NUM_STEPS, WIDTH))}
    layers = jax.tree.map(lambda a: jnp.asarray(a, dtype), layers)
    return Setting(jrnn.dense_chain(), jnp.ones(WIDTH, dtype), randomized(layers, generator))


@jax.custom_vjp
def reverse_tanh(x):
    return jnp.tanh(x)


reverse_tanh.defvjp(
    lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, cotangent: ((1 - y**2) * cotangent,)
)


def reverse_step(params, carry, x):
    return reverse_tanh(params["recurrent"] @ carry + params["read"] @ x)


def without_forward_mode(seed, dtype):
    generator = np.random.default_rng(seed)
    params = {"recurrent": np.zeros((WIDTH, WIDTH)), "read": np.zeros((WIDTH, NUM_INPUTS))}
    params = randomized(jax.tree.map(lambda a: jnp.asarray(a, dtype), params), generator)
    carry = randomized(jnp.zeros(WIDTH, dtype), generator)
    return Setting(jrnn.Recurrence(reverse_step, params), carry, inputs(generator, dtype))


def inputs(generator, dtype):
    return jnp.asarray(generator.standard_normal((NUM_STEPS, NUM_INPUTS)), dtype)


CELLS_OF_CONTRACT: dict[str, Callable] = {name: flax_cell(name) for name in CELLS} | {
    "minimal_rnn": literature_cell(jrnn.minimal_rnn),
    "antisymmetric_rnn": literature_cell(jrnn.antisymmetric_rnn),
    "leaky_rate_network": literature_cell(jrnn.leaky_rate_network),
    "irnn": literature_cell(jrnn.irnn),
    "ind_rnn": literature_cell(jrnn.ind_rnn),
    "lru": literature_cell(jrnn.lru),
    "min_gru": literature_cell(jrnn.min_gru),
    "min_lstm": literature_cell(jrnn.min_lstm),
    "para_gru": literature_cell(jrnn.para_gru),
    "rg_lru": literature_cell(jrnn.rg_lru),
    "s5": literature_cell(jrnn.s5),
    "s6": literature_cell(partial(jrnn.s6, num_states=2)),
    "projected LSTM": literature_cell(projected_lstm),
    "GRU, reset before": literature_cell(reset_before_gru),
    "gated_delta_net": literature_cell(jrnn.gated_delta_net),
    "mlstm": literature_cell(jrnn.mlstm),
    "residual_block": literature_cell(residual_lru),
    "rwkv7": literature_cell(jrnn.rwkv7),
    "slstm": literature_cell(jrnn.slstm),
    "stack": stack_of_two,
    "dense_chain": chain_of_layers,
    "without forward mode": without_forward_mode,
}

UNKNOWN = {"ConvLSTMCell", "dense_chain", "without forward mode"}  # whose parameters nobody knows
UNITS_BY_THEMSELVES = {
    "ind_rnn",
    "lru",
    "min_gru",
    "min_lstm",
    "para_gru",
    "rg_lru",
    "s5",
    "s6",
}
MATRIX_MEMORIES = {"gated_delta_net", "mlstm", "rwkv7"}
WITHOUT_ONE_KERNEL = UNKNOWN | UNITS_BY_THEMSELVES | MATRIX_MEMORIES | {"residual_block"}
WITHOUT_GATES = WITHOUT_ONE_KERNEL | {
    "SimpleCell",
    "SimpleCell residual",
    "nnx SimpleCell",
    "antisymmetric_rnn",
    "leaky_rate_network",
    "irnn",
}
