"""Common parts of the cells from the literature that this package draws.

Each cell has a function that draws its parameters and returns a `Recurrence`. `zero_carry` gives
the starting carry. Kernels have shape (inputs, outputs) and act on rows, as in Flax.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Key

from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.layout import Kernels, Layers
from jacobian_rnn.cells.recurrence import Recurrence, last_array
from jacobian_rnn.checks import check_at_least, check_dtype

OWN_LAYERS = Layers(inputs=("input",), recurrent=("recurrent",), biases=("recurrent",))


@dataclass(frozen=True)
class StepClosedForm:
    """The closed-form Jacobian of a step that knows its parts. Equal steps have equal ones.

    Attributes:
        step: an object with `parts(params, carry, x)`, which has what a `GatedJacobian` has.
    """

    step: Any

    def parts(self, params: Any, carry: Any, x: Any) -> Any:
        """Return the parts of the Jacobian of one step."""
        return self.step.parts(params, carry, x)

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


@dataclass(frozen=True)
class StepUnitJacobians:
    """The blocks of the Jacobian of a step without recurrent kernels. Equal steps have equal ones.

    Attributes:
        step: an object with `parts(params, carry, x) -> GatedJacobian`.
    """

    step: Any

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "parts parts units"]:
        """Return the Jacobian of every unit for itself."""
        return self.step.parts(params, carry, x).diagonals


def recurrence_of(
    step: Any,
    params: Any,
    output: Callable[[Any], Array] = last_array,
    unit_jacobians: StepUnitJacobians | None = None,
) -> Recurrence:
    """Return the recurrence of a step that knows the parts of its Jacobian."""
    return Recurrence(step, params, StepClosedForm(step), output, unit_jacobians)


def check_sizes(num_inputs: object, num_units: object, dtype: Any) -> None:
    """Raise for sizes that are not integers above zero, or an unsuitable dtype of parameters."""
    check_at_least(1, num_inputs=num_inputs, num_units=num_units)
    check_dtype("dtype", dtype)


def normal_kernel(key: Key[Array, ""], num_rows: int, num_units: int, dtype: Any) -> Array:
    """Draw a kernel with entries of variance 1 / (number of rows)."""
    return jax.random.normal(key, (num_rows, num_units), dtype) / math.sqrt(num_rows)


def uniform_layer(
    key: Key[Array, ""], num_rows: int, num_units: int, dtype: Any
) -> dict[str, Float[Array, "..."]]:
    """Draw kernel and bias uniform on ±1/√rows, as `torch.nn.Linear` does."""
    bound = 1 / math.sqrt(num_rows)
    kernel, bias = jax.random.split(key)
    return {
        "kernel": jax.random.uniform(kernel, (num_rows, num_units), dtype, -bound, bound),
        "bias": jax.random.uniform(bias, (num_units,), dtype, -bound, bound),
    }


def of_diagonal(
    diagonal: Float[Array, " units"], slopes: list[Float[Array, " units"]], kernels: Kernels
) -> GatedJacobian:
    """Build the Jacobian of units that see themselves alone, with one slope per input kernel."""
    return GatedJacobian(
        diagonals=diagonal[None, None],
        slopes=jnp.zeros((1, 0, diagonal.size), diagonal.dtype),
        kernels=(),
        input_slopes=jnp.stack(slopes)[None],
        input_kernels=kernels,
    )


def of_complex_units(
    eigenvalues: Complex[Array, " units"], gains: Complex[Array, " units"], kernels: Kernels
) -> GatedJacobian:
    """Build the Jacobian of h' = λ h + γ B x, with h and B as pairs (real, imaginary)."""

    def as_pairs(z):
        return jnp.stack([jnp.stack([z.real, -z.imag]), jnp.stack([z.imag, z.real])])

    diagonals = as_pairs(eigenvalues)
    return GatedJacobian(
        diagonals=diagonals,
        slopes=jnp.zeros((2, 0, eigenvalues.size), diagonals.dtype),
        kernels=(),
        input_slopes=as_pairs(gains),
        input_kernels=kernels,
    )
