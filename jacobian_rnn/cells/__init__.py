"""Recurrences: Flax cells, cells of the literature, stacks and chains, and changes of them."""

from jacobian_rnn.cells.changes import with_chrono_biases, with_gain, with_gate_bias
from jacobian_rnn.cells.dense_layers import dense_chain
from jacobian_rnn.cells.linear_recurrent_unit import lru
from jacobian_rnn.cells.literature_cells import (
    antisymmetric_rnn,
    irnn,
    leaky_rate_network,
    minimal_rnn,
)
from jacobian_rnn.cells.padding import align_ends, with_padding
from jacobian_rnn.cells.recurrence import Recurrence, from_linen, from_nnx, stack, zero_carry

__all__ = [
    "Recurrence",
    "align_ends",
    "antisymmetric_rnn",
    "dense_chain",
    "from_linen",
    "from_nnx",
    "irnn",
    "leaky_rate_network",
    "lru",
    "minimal_rnn",
    "stack",
    "with_chrono_biases",
    "with_gain",
    "with_gate_bias",
    "with_padding",
    "zero_carry",
]
