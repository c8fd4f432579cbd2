"""A system along its trajectory: states, step Jacobians, and gradients by backpropagation."""

from jacobian_rnn.jacobians.gradients import (
    ParameterGradients,
    parameter_gradients,
    state_gradients,
)
from jacobian_rnn.jacobians.steps import step_jacobians, trajectory

__all__ = [
    "ParameterGradients",
    "parameter_gradients",
    "state_gradients",
    "step_jacobians",
    "trajectory",
]
