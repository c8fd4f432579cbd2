"""The RG-LRU of Griffin: a real linear recurrent unit with gates that read the input alone."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    normal_kernel,
    of_diagonal,
    recurrence_of,
)
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_bounds, check_count, check_number, refuse

SHARPNESS = 8.0  # c of the paper


def rg_lru(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    num_blocks: int = 1,
    radii: tuple[float, float] = (0.9, 0.999),
    largest_slope: float | None = None,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw an RG-LRU: h' = a h + √(1 − a²) (i u), with a = σ(Λ)^{8 r} and u = V x.

    The gates are r = σ(R u + b) for the recurrence and i = σ(I u + d) for the input. R and I are
    block diagonal. Entries of kernels have variance 1 / (number of rows), biases are zero, and
    σ(Λ)⁸, which is a of an open gate, is uniform between the radii. Griffin's recurrent block has
    a convolution over time between V and the unit. That is left out here.

    recurrentgemma, the code of the authors, has the same equations and another start: there
    σ(Λ)², not σ(Λ)⁸, is uniform, between 0.9² and 0.999². So a of an open gate is between 0.43 and
    0.992, and the memory is eight times shorter.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        num_blocks: diagonal blocks of R and I. It divides `num_units`.
        radii: bounds of σ(Λ)⁸, 0 < lower < upper < 1.
        largest_slope: where the slope of √(1 − a²) with respect to 1 − a² is cut off in the
            derivative, as the authors do at 1000. **Derivatives with respect to parameters and
            inputs are then not those of the step** where 1 − a² < 1 / (2 `largest_slope`)². The
            step itself and ∂h'/∂h stay as they are. With None nothing is cut off, and the slope is
            infinite where a rounds to 1. Static.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with the diagonal J = diag a. It depends on x and not on h, and no exponent
        is above zero.

    Raises:
        TypeError: sizes that are not integers, a slope that is no number, another dtype, or float64
            without x64.
        ValueError: sizes below one, blocks that do not divide the units, radii out of range, or a
            slope that is not above zero.

    References:
        S. De et al., "Griffin: mixing gated linear recurrences with local attention for efficient
        language models", 2024, section 2.4 and appendix A.

    Example:
        >>> import jax
        >>> network = rg_lru(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    check_count("num_blocks", num_blocks, 1, num_units)
    if num_units % num_blocks:
        refuse("num_blocks", num_blocks, f"a divisor of the {num_units} units")
    radii = check_bounds("radii", radii, below=1)
    if largest_slope is not None:
        check_number("largest_slope", largest_slope, above=0)
        largest_slope = float(largest_slope)
    read, recurrence, gate, radius = jax.random.split(key, 4)
    size = num_units // num_blocks

    def blocks(key):
        kernels = normal_kernel(key, size, num_blocks * size, dtype)
        return jnp.moveaxis(kernels.reshape(size, num_blocks, size), 1, 0)

    zeros = jnp.zeros(num_units, dtype)
    lower, upper = (jnp.asarray(r, dtype) for r in radii)
    log_root = jnp.log(jax.random.uniform(radius, (num_units,), dtype, lower, upper)) / SHARPNESS
    params = {
        "embedding": {"kernel": normal_kernel(read, num_inputs, num_units, dtype)},
        "recurrence_gate": {"kernel": blocks(recurrence), "bias": zeros},
        "input_gate": {"kernel": blocks(gate), "bias": zeros},
        # Λ, the inverse of σ at the root.
        "decay": log_root - jnp.log(-jnp.expm1(log_root)),
    }
    step = RGLRUStep(largest_slope)
    return recurrence_of(step, params, unit_jacobians=StepUnitJacobians(step))


@dataclass(frozen=True)
class RGLRUStep:
    """The step of `rg_lru`."""

    largest_slope: float | None = None
    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        embedded, (recurrence, _), (gate, _) = self._gates(params, x)
        log_a = _log_root(params) * recurrence
        return jnp.exp(log_a) * carry + self._normalizer(log_a) * gate * embedded

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        embedded, (recurrence, recurrence_slope), (gate, gate_slope) = self._gates(params, x)
        log_root = _log_root(params)
        log_a = log_root * recurrence
        a = jnp.exp(log_a)
        normalizer, slope = with_slope(self._normalizer, log_a)
        of_log_a = a * carry + slope * gate * embedded
        through = params["embedding"]["kernel"]
        return of_diagonal(
            a,
            [
                of_log_a * log_root * recurrence_slope,
                normalizer * embedded * gate_slope,
                normalizer * gate,
            ],
            (
                _through_blocks(params["recurrence_gate"], through),
                _through_blocks(params["input_gate"], through),
                through,
            ),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["decay"]

    def _gates(self, params, x):
        """Return u, and both gates with their slopes."""
        embedded = x @ params["embedding"]["kernel"]
        names = ("recurrence_gate", "input_gate")
        pre = [_through_blocks(params[one], embedded) + params[one]["bias"] for one in names]
        return embedded, *(with_slope(jax.nn.sigmoid, one) for one in pre)

    def _normalizer(self, log_a):
        """Return √(1 − a²)."""
        squared = -jnp.expm1(2 * log_a)
        return (
            jnp.sqrt(squared) if self.largest_slope is None else _sqrt(squared, self.largest_slope)
        )


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sqrt(value: Float[Array, "..."], largest_slope: float) -> Float[Array, "..."]:
    """Return a square root whose slope, in a derivative, is at most `largest_slope`."""
    del largest_slope
    return jnp.sqrt(value)


@_sqrt.defjvp
def _sqrt_jvp(largest_slope, primals, tangents):
    root = jnp.sqrt(primals[0])
    # A root of zero has the largest slope, without a division by zero in its own derivative.
    slope = 0.5 / jnp.maximum(root, 0.5 / largest_slope)
    return root, slope * tangents[0]


def _log_root(params):
    """Return log σ(Λ)⁸."""
    return SHARPNESS * jax.nn.log_sigmoid(params["decay"])


def _through_blocks(layer, rows):
    """Multiply rows, `(..., N)`, by a block-diagonal kernel."""
    num_blocks, size, _ = layer["kernel"].shape
    split = rows.reshape(*rows.shape[:-1], num_blocks, size)
    return jnp.einsum("...bi,bij->...bj", split, layer["kernel"]).reshape(rows.shape)
