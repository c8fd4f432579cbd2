"""The linear recurrent unit: a complex diagonal recurrence, held as pairs of reals."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    normal_kernel,
    of_complex_units,
    recurrence_of,
)
from jacobian_rnn.cells.recurrence import Recurrence, whole_carry
from jacobian_rnn.checks import check_bounds


def lru(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    radii: tuple[float, float] = (0.9, 0.999),
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a linear recurrent unit: h' = λ h + γ B x with complex h, held as (real, imaginary).

    λ = exp(−exp(ν) + i exp(θ)) is uniform on the ring between the two radii. γ = √(1 − |λ|²) gives
    the state the variance of white input. Entries of B have variance 1 / inputs, and the real part
    has half of it. The output is the whole carry, because a complex readout of h is a linear
    readout of both parts.

    Args:
        num_inputs: size of x.
        num_units: number N of complex units. The state has 2N entries.
        key: a `jax.random.key`.
        radii: bounds of |λ|, 0 < lower < upper < 1.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence. Its J is diagonal in complex numbers, with log|det J| = 2 Σ log|λ|.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
        ValueError: sizes below one, or radii out of range.

    References:
        A. Orvieto et al., "Resurrecting recurrent neural networks for long sequences", ICML 2023,
        sections 3.3 and 3.4.

    Example:
        >>> import jax
        >>> network = lru(3, 4, key=jax.random.key(0))
        >>> carry = (jnp.zeros(4), jnp.zeros(4))
        >>> jax.tree.map(jnp.shape, network.step(network.params, carry, jnp.ones(3)))
        ((4,), (4,))
    """
    check_sizes(num_inputs, num_units, dtype)
    radii = check_bounds("radii", radii, below=1)
    radius, phase, real, imaginary = jax.random.split(key, 4)
    lower, upper = (jnp.asarray(r, dtype) for r in radii)
    squared = lower**2 + (upper**2 - lower**2) * jax.random.uniform(radius, (num_units,), dtype)
    decay = -0.5 * jnp.log(squared)
    turn = 2 * jnp.pi * jax.random.uniform(phase, (num_units,), dtype, minval=1e-6)
    scale = jnp.sqrt(jnp.asarray(0.5, dtype))
    params = {
        "log_decay": jnp.log(decay),
        "log_phase": jnp.log(turn),
        "log_normalizer": 0.5 * jnp.log(-jnp.expm1(-2 * decay)),
        "real": {"kernel": scale * normal_kernel(real, num_inputs, num_units, dtype)},
        "imaginary": {"kernel": scale * normal_kernel(imaginary, num_inputs, num_units, dtype)},
    }
    return recurrence_of(LRUStep(), params, whole_carry, StepUnitJacobians(LRUStep()))


@dataclass(frozen=True)
class LRUStep:
    """The step of `lru`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        real, imaginary = carry
        turned, crossed = self._eigenvalues(params)
        scale = jnp.exp(params["log_normalizer"])
        return (
            turned * real - crossed * imaginary + scale * (x @ params["real"]["kernel"]),
            crossed * real + turned * imaginary + scale * (x @ params["imaginary"]["kernel"]),
        )

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        del carry, x
        scale = jnp.exp(params["log_normalizer"])
        return of_complex_units(
            jax.lax.complex(*self._eigenvalues(params)),
            jax.lax.complex(scale, jnp.zeros_like(scale)),
            (params["real"]["kernel"], params["imaginary"]["kernel"]),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["log_decay"], params["log_decay"]

    def _eigenvalues(self, params):
        size = jnp.exp(-jnp.exp(params["log_decay"]))
        phase = jnp.exp(params["log_phase"])
        return size * jnp.cos(phase), size * jnp.sin(phase)
