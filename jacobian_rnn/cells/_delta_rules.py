"""Common parts of the cells with a delta rule.

Such a step has `gates(params, x)`, which returns w, l, r, v and b of S' = S (diag(w) − l rᵀ) + v
bᵀ.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.cells._own_cells import StepClosedForm
from jacobian_rnn.cells.delta_rule_jacobian import DeltaRuleJacobian
from jacobian_rnn.cells.recurrence import Recurrence, flat_matrix
from jacobian_rnn.cells.row_blocks import RowBlocks


@dataclass(frozen=True)
class DeltaRuleUnits:
    """The Jacobian that all rows of S share. Equal steps have equal ones.

    Attributes:
        step: an object with `parts(params, carry, x) -> DeltaRuleJacobian`.
    """

    step: Any

    def __call__(self, params: Any, carry: Any, x: Any) -> RowBlocks:
        """Return the Jacobian of every row of S for itself."""
        return RowBlocks(self.step.parts(params, carry, x).block, len(carry))


def delta_rule_recurrence(step: Any, params: Any) -> Recurrence:
    """Return the recurrence of a step that has `gates(params, x)`."""
    units: Any = DeltaRuleUnits(step)
    return Recurrence(step, params, StepClosedForm(step), flat_matrix, units)


def parts_of(
    step: Any, params: Any, carry: Float[Array, "values keys"], x: Float[Array, " inputs"]
) -> DeltaRuleJacobian:
    """Return the parts of the Jacobian of a step that has `gates(params, x)`."""
    of_input = jax.jacfwd(lambda x: step.gates(params, x))(x)
    decay, left, right, value, write = step.gates(params, x)
    return DeltaRuleJacobian(carry, decay, left, right, value, write, of_input)


def unit_vector(vector: Float[Array, " keys"]) -> Float[Array, " keys"]:
    """Divide a vector by its length. A vector of zeros stays, with a derivative of zero."""
    square = jnp.sum(vector**2)
    return jnp.where(square > 0, vector / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
