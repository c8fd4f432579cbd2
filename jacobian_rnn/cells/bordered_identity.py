"""The Jacobian of a memory that one number keeps, and of a last state that all of it sees."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BorderedIdentity:
    """The Jacobian [[f I, a], [0, s]] of a memory of N entries with one more state behind them.

    The memory keeps f of every entry. The last state sees itself alone, and the memory sees it, as
    the matrix memory of an mLSTM sees its stabiliser. A recurrence declares it as its
    `unit_jacobians`. Then N − 1 singular values of a product are equal, and a step costs O(N).

    Attributes:
        kept: f, `()`.
        column: a, the derivatives of the new memory with respect to the last state, `(N,)`.
        own: s, the derivative of the new last state with respect to the old one, `()`.
    """

    kept: Any
    column: Any
    own: Any
