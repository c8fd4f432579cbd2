"""Where a network keeps its memory: fixed points, slow points, cycles, and what is near them."""

from jacobian_rnn.phase_space.linearization import Linearization, linearize
from jacobian_rnn.phase_space.search import FixedPoints, fixed_points
from jacobian_rnn.phase_space.starts import draw_states

__all__ = [
    "FixedPoints",
    "Linearization",
    "draw_states",
    "fixed_points",
    "linearize",
]
