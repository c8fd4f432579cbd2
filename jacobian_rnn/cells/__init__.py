"""Recurrences: Flax cells, cells of the literature, stacks and chains, and changes of them."""

from jacobian_rnn.cells.antisymmetric import antisymmetric_rnn
from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.changes import with_chrono_biases, with_gain, with_gate_bias
from jacobian_rnn.cells.dense_layers import dense_chain
from jacobian_rnn.cells.feedback import closed_loop
from jacobian_rnn.cells.flax import from_linen, from_nnx
from jacobian_rnn.cells.gated_delta_rule import gated_delta_net
from jacobian_rnn.cells.generalized_delta_rule import rwkv7
from jacobian_rnn.cells.identity_rnn import irnn
from jacobian_rnn.cells.independent_rnn import ind_rnn
from jacobian_rnn.cells.known_cells import layout_of, layouts, recurrent_kernels
from jacobian_rnn.cells.leaky import leaky_rate_network
from jacobian_rnn.cells.linear_recurrent_unit import lru
from jacobian_rnn.cells.matrix_lstm import mlstm
from jacobian_rnn.cells.minimal import minimal_rnn
from jacobian_rnn.cells.minimal_gru import min_gru
from jacobian_rnn.cells.minimal_lstm import min_lstm
from jacobian_rnn.cells.padding import align_ends, with_padding
from jacobian_rnn.cells.parallel_gru import para_gru
from jacobian_rnn.cells.real_gated_lru import rg_lru
from jacobian_rnn.cells.recurrence import Recurrence, zero_carry
from jacobian_rnn.cells.residual import residual_block
from jacobian_rnn.cells.row_blocks import RowBlocks
from jacobian_rnn.cells.scalar_lstm import slstm
from jacobian_rnn.cells.selective_state_space import s6
from jacobian_rnn.cells.simplified_state_space import s5
from jacobian_rnn.cells.stacking import stack, unstack

__all__ = [
    "BorderedIdentity",
    "Recurrence",
    "RowBlocks",
    "align_ends",
    "antisymmetric_rnn",
    "closed_loop",
    "dense_chain",
    "from_linen",
    "from_nnx",
    "gated_delta_net",
    "ind_rnn",
    "irnn",
    "layout_of",
    "layouts",
    "leaky_rate_network",
    "lru",
    "min_gru",
    "min_lstm",
    "minimal_rnn",
    "mlstm",
    "para_gru",
    "recurrent_kernels",
    "residual_block",
    "rg_lru",
    "rwkv7",
    "s5",
    "s6",
    "slstm",
    "stack",
    "unstack",
    "with_chrono_biases",
    "with_gain",
    "with_gate_bias",
    "with_padding",
    "zero_carry",
]
