"""Common parts of the cells with a delta rule."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

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


class DeltaRuleStep(ABC):
    """The step S' = S (diag(w) − l rᵀ) + v bᵀ. What S forgets and takes in depends on x alone."""

    num_feature_axes: ClassVar[int] = 1
    num_carry_axes: ClassVar[int] = 2

    @abstractmethod
    def gates(self, params: Any, x: Any) -> tuple[Array, ...]:
        """Return w, l, r, v and b."""

    def __call__(self, params: Any, carry: Any, x: Any) -> Array:
        """Return the new carry."""
        decay, left, right, value, write = self.gates(params, x)
        return carry * decay[None] - jnp.outer(carry @ left, right) + jnp.outer(value, write)

    def parts(self, params: Any, carry: Any, x: Any) -> DeltaRuleJacobian:
        """Return the parts of the Jacobian of one step."""
        of_input = jax.jacfwd(lambda x: self.gates(params, x))(x)
        decay, left, right, value, write = self.gates(params, x)
        return DeltaRuleJacobian(carry, decay, left, right, value, write, of_input)

    def carry_like(self, params: Any) -> Array:
        """Return a carry of the right shape."""
        return jnp.zeros((params["value"]["kernel"].shape[1], params["key"]["kernel"].shape[1]))


def delta_rule_recurrence(step: DeltaRuleStep, params: Any) -> Recurrence:
    """Return the recurrence of a step."""
    units: Any = DeltaRuleUnits(step)
    return Recurrence(step, params, StepClosedForm(step), flat_matrix, units)


def unit_vector(vector: Float[Array, " keys"]) -> Float[Array, " keys"]:
    """Divide a vector by its length. A vector of zeros stays, with a derivative of zero."""
    square = jnp.sum(vector**2)
    return jnp.where(square > 0, vector / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
