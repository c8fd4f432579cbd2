"""A system along its trajectory: states, step Jacobians, and gradients by backpropagation."""

from jacobian_rnn.jacobians.gradient_check import GradientCheck, check_gradients
from jacobian_rnn.jacobians.gradients import (
    ParameterGradients,
    parameter_gradients,
    state_gradients,
)
from jacobian_rnn.jacobians.steps import step_jacobians, trajectory

__all__ = [
    "GradientCheck",
    "ParameterGradients",
    "check_gradients",
    "parameter_gradients",
    "state_gradients",
    "step_jacobians",
    "trajectory",
]
