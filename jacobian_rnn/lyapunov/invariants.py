"""Entropy rate and dimension of an attractor, from its Lyapunov spectrum."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.checks import refuse


def entropy_rate(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Sum the positive exponents, nats per step.

    Args:
        exponents: nats per step, `(k,)`.

    Returns:
        The sum. `LyapunovSpectrum.entropy_rate` says what it means, and gives its error.

    Raises:
        ValueError: not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> print(entropy_rate(jnp.array([0.5, 0.25, -1.0])))
        0.75
    """
    return jnp.sum(jnp.maximum(_one_spectrum(exponents), 0))


def kaplan_yorke_dimension(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Compute D = j + (λ₁ + … + λ_j) / |λ_{j+1}| for the last j whose sum is not negative.

    Args:
        exponents: nats per step, `(k,)`, in any order.

    Returns:
        D, from 0 (where λ₁ is negative) to k (where the sum of all is not negative).

    Raises:
        ValueError: not a vector.

    References:
        J. L. Kaplan and J. A. Yorke, "Chaotic behavior of multidimensional difference equations",
        Lecture Notes in Mathematics 730 (1979).

    Example:
        >>> import jax.numpy as jnp
        >>> print(kaplan_yorke_dimension(jnp.array([0.5, 0.0, -1.0])))
        2.5
    """
    exponents = -jnp.sort(-_one_spectrum(exponents))
    k = exponents.shape[0]
    above = jnp.cumsum(exponents) >= 0
    j = jnp.sum(jnp.cumprod(above))
    counted = jnp.where(jnp.arange(k) < j, exponents, 0)
    following = exponents[jnp.minimum(j, k - 1)]
    fraction = jnp.sum(counted) / jnp.where(j < k, -following, 1)
    dimension = j.astype(fraction.dtype) + jnp.where(j < k, fraction, 0)
    return jnp.where(jnp.any(jnp.isnan(exponents)), jnp.nan, dimension)


def _one_spectrum(exponents):
    exponents = jnp.asarray(exponents)
    if exponents.ndim != 1 or exponents.size == 0:
        received = f"shape {exponents.shape}"
        refuse("exponents", received, "(k,): one spectrum", "use jax.vmap over several")
    return exponents
