"""Recurrences of today, drawn as published but for how fast they forget."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

import jacobian_rnn as jrnn

NUM_KEYS = 8  # of a matrix memory: states of each unit
NUM_STATES = 4  # of each channel of S6


class ModernCell(NamedTuple):
    """How a cell is drawn, and how its forgetting is changed.

    Attributes:
        draw: `(num_inputs, width, key=, dtype=) -> Recurrence`, as published.
        change: `(params, log_factor) -> params`, with a rate of forgetting, or its odds, that is
            multiplied by a factor.
        factors: the smallest and the largest factor, from much shorter to much longer memories than
            the tasks need.
    """

    draw: Callable[..., jrnn.Recurrence]
    change: Callable[[Any, Array], Any]
    factors: tuple[float, float]


def _add_to(layer: str, entry: str, sign: int = 1) -> Callable[[Any, Array], Any]:
    """Return a change of one array of the parameters, by the log of the factor or its negative."""

    def change(params, log_factor):
        changed = params[layer][entry] + sign * log_factor
        return params | {layer: params[layer] | {entry: changed}}

    return change


def _change_ind_rnn(params, log_factor):
    """Multiply the logs of the recurrent weights."""
    recurrent = params["recurrent"]
    weights = recurrent["weights"] ** jnp.exp(log_factor)
    return params | {"recurrent": recurrent | {"weights": weights}}


def _change_s5(params, log_factor):
    return params | {"log_step": params["log_step"] + log_factor}


def _change_rg_lru(params, log_factor):
    return params | {"decay": params["decay"] - log_factor}


def _change_slstm(params, log_factor):
    """Lower the biases of the forget gate, the second of four."""
    recurrent = params["recurrent"]
    forgets = jnp.arange(recurrent["bias"].size) * 4 // recurrent["bias"].size == 1
    bias = recurrent["bias"] - jnp.where(forgets, log_factor, 0)
    return params | {"recurrent": recurrent | {"bias": bias}}


def _draw_s5(num_inputs, width, *, key, dtype):
    # Half as many complex units have as many numbers in their state.
    return jrnn.s5(num_inputs, width // 2, key=key, dtype=dtype)


def _draw_s6(num_inputs, width, *, key, dtype):
    return jrnn.s6(num_inputs, width, num_states=NUM_STATES, key=key, dtype=dtype)


def _draw_gated_delta_net(num_inputs, width, *, key, dtype):
    return jrnn.gated_delta_net(num_inputs, width, num_keys=NUM_KEYS, key=key, dtype=dtype)


def _draw_rwkv7(num_inputs, width, *, key, dtype):
    return jrnn.rwkv7(num_inputs, width, num_keys=NUM_KEYS, rank=NUM_KEYS, key=key, dtype=dtype)


def _draw_mlstm(num_inputs, width, *, key, dtype):
    return jrnn.mlstm(num_inputs, width, num_keys=NUM_KEYS, key=key, dtype=dtype)


MODERN: dict[str, ModernCell] = {
    "minGRU": ModernCell(jrnn.min_gru, _add_to("update", "bias"), (3e-3, 3.0)),
    "minLSTM": ModernCell(jrnn.min_lstm, _add_to("input", "bias"), (3e-3, 3.0)),
    "RG-LRU": ModernCell(jrnn.rg_lru, _change_rg_lru, (0.3, 300.0)),
    "S5": ModernCell(_draw_s5, _change_s5, (0.1, 300.0)),
    "S6": ModernCell(_draw_s6, _add_to("step_up", "bias"), (0.1, 300.0)),
    "IndRNN": ModernCell(jrnn.ind_rnn, _change_ind_rnn, (0.01, 3.0)),
    "ParaGRU": ModernCell(jrnn.para_gru, _add_to("update", "bias"), (3e-3, 3.0)),
    "GatedDeltaNet": ModernCell(_draw_gated_delta_net, _add_to("decay", "log_speed"), (3e-3, 3.0)),
    "RWKV-7": ModernCell(_draw_rwkv7, _add_to("decay", "bias"), (0.1, 3000.0)),
    "mLSTM": ModernCell(_draw_mlstm, _add_to("forget", "bias", -1), (0.03, 30.0)),
    "sLSTM": ModernCell(jrnn.slstm, _change_slstm, (0.01, 1000.0)),
}


def draw_modern(
    cell: str, num_inputs: int, width: int, factor: Array, *, key: Array, dtype: Any
) -> jrnn.Recurrence:
    """Draw a network whose rate of forgetting, or its odds, is `factor` times the published one."""
    kind = MODERN[cell]
    network = kind.draw(num_inputs, width, key=key, dtype=dtype)
    log_factor = jnp.log(jnp.asarray(factor, dtype))
    return dataclasses.replace(network, params=kind.change(network.params, log_factor))
