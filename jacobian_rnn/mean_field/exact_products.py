"""Products of random matrices whose exponents are known exactly, at any width and any length."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import digamma, polygamma
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_at_least, check_number, check_scales


class ExactExponents(NamedTuple):
    """Exponents of a product of T independent matrices, as QR at every step estimates them.

    Attributes:
        exponents: their expectation at every T, nats per step, `(N,)`, descending.
        variances: T times their variance, `(N,)`. The estimates are independent.
    """

    exponents: Float[Array, " units"]
    variances: Float[Array, " units"]


def newman_exponents(num_units: int, weight_std: Float[Array, ""] | float = 1.0) -> ExactExponents:
    """Return the exponents of products of real matrices with independent N(0, σ_w²/N) entries.

    λ_i = log σ_w + ½ [log(2/N) + ψ((N − i + 1)/2)], T Var λ_i = ψ'((N − i + 1)/2) / 4.

    Args:
        num_units: N.
        weight_std: σ_w, above zero.

    Returns:
        The exponents and their variances.

    Raises:
        ValueError: a width below 1, or a σ_w that is not positive and finite.
        TypeError: a width that is not an integer.

    References:
        C. Newman, "The distribution of Lyapunov exponents: exact results for random matrices",
        Commun. Math. Phys. 103 (1986).

    Example:
        >>> print([f"{rate:.3f}" for rate in newman_exponents(2).exponents])
        ['-0.289', '-0.982']
    """
    std, freedom = _ensemble(num_units, weight_std)
    half = freedom / 2
    return ExactExponents(
        jnp.log(std) + (jnp.log(2 / num_units) + digamma(half)) / 2, polygamma(1, half) / 4
    )


def ginibre_exponents(num_units: int, weight_std: Float[Array, ""] | float = 1.0) -> ExactExponents:
    """Return the exponents of products of complex matrices, independent entries, E|z|² = σ_w²/N.

    λ_i = log σ_w + ½ [ψ(N − i + 1) − log N], T Var λ_i = ψ'(N − i + 1) / 4.

    Args:
        num_units: N.
        weight_std: σ_w, above zero.

    Returns:
        The exponents and their variances.

    Raises:
        ValueError: a width below 1, or a σ_w that is not positive and finite.
        TypeError: a width that is not an integer.

    References:
        P. Forrester, "Lyapunov exponents for products of complex Gaussian random matrices", J.
        Stat. Phys. 151 (2013).
        G. Akemann, Z. Burda and M. Kieburg, J. Phys. A 47 (2014).

    Example:
        >>> print([f"{rate:.3f}" for rate in ginibre_exponents(2).exponents])
        ['-0.135', '-0.635']
    """
    std, freedom = _ensemble(num_units, weight_std)
    return ExactExponents(
        jnp.log(std) + (digamma(freedom) - jnp.log(num_units)) / 2, polygamma(1, freedom) / 4
    )


def gaussian_generalized_exponent(
    num_units: int, order: float, weight_std: Float[Array, ""] | float = 1.0
) -> Float[Array, ""]:
    """Return L(p) = (1/T) log E ‖Pv‖^p of products of real Gaussian matrices, nats per step.

    L is p log σ_w + (p/2) log(2/N) + log Γ((N + p)/2) − log Γ(N/2). With p = 2 that is log χ =
    2 log σ_w (annealed: what the mean squared gradient does), which lies above 2 λ₁ (quenched: the
    typical one). At weight_std 1 and N = 16 a product of 200 factors has E‖Pv‖² = 1, and typically
    e^-12.8.

    Args:
        num_units: N.
        order: p, a Python number above −N.
        weight_std: σ_w, above zero.

    Returns:
        The generalised exponent, a scalar.

    Raises:
        ValueError: a width below 1, a σ_w that is not positive and finite, an infinite order, or
            one at or below −N, where the moment is infinite.
        TypeError: a width that is not an integer.

    References:
        A. Crisanti, G. Paladin and A. Vulpiani, "Products of random matrices in statistical
        physics" (1993).

    Example:
        >>> print(f"{gaussian_generalized_exponent(16, 4.0):.3f}")
        0.118
    """
    std, _ = _ensemble(num_units, weight_std)
    advice = "from there down the moment is infinite"
    check_number("order", order, above=-num_units, advice=advice)
    # Large terms cancel: in double precision, whatever that of JAX is.
    moment = math.lgamma((num_units + order) / 2) - math.lgamma(num_units / 2)
    return order * jnp.log(std) + (order / 2 * math.log(2 / num_units) + moment)


def critical_weight_std_of_width(num_units: int) -> Float[Array, ""]:
    """Return σ_c(N), at which the largest exponent of a real Gaussian product is zero.

    It lies above 1 by about 1/(2N): at σ_w = 1, where χ = 1, products of finite matrices shrink.

    Args:
        num_units: N.

    Returns:
        σ_c, a scalar.

    Raises:
        ValueError: a width below 1.
        TypeError: a width that is not an integer.

    Example:
        >>> print(f"{critical_weight_std_of_width(16):.4f}")
        1.0324
    """
    return jnp.exp(-newman_exponents(num_units).exponents[0])


def fuss_catalan_moment(num_factors: int, order: int) -> float:
    """Return the moment of order n of the squared singular values of s Gaussian factors, N → ∞.

    It is C((s + 1) n, n) / (s n + 1) for entries of variance 1/N. The power W^s of one matrix has
    the same moments.

    Args:
        num_factors: s, at least 0.
        order: n, at least 0.

    Returns:
        The moment, exact up to the last digit of a float.

    Raises:
        ValueError: a number below 0.
        TypeError: a number that is not an integer.

    References:
        K. Penson and K. Życzkowski, Phys. Rev. E 83 (2011).

    Example:
        >>> [fuss_catalan_moment(2, order) for order in (1, 2, 3)]
        [1.0, 3.0, 12.0]
    """
    check_at_least(0, num_factors=num_factors, order=order)
    s, n = int(num_factors), int(order)
    return float(math.comb((s + 1) * n, n) / (s * n + 1))


def fuss_catalan_edge(num_factors: int) -> float:
    """Return the largest squared singular value (s + 1)^(s + 1) / s^s of s Gaussian factors, N → ∞.

    Args:
        num_factors: s, at least 1.

    Returns:
        The edge of the support.

    Raises:
        ValueError: a number below 1.
        TypeError: a number that is not an integer.

    Example:
        >>> fuss_catalan_edge(2)
        6.75
    """
    check_at_least(1, num_factors=num_factors)
    return (num_factors + 1) * (1 + 1 / num_factors) ** num_factors


def _ensemble(num_units, weight_std):
    check_at_least(1, num_units=num_units)
    check_number("weight_std", weight_std, above=0)
    (std,) = check_scales(weight_std=weight_std)
    return std, jnp.arange(num_units, 0, -1).astype(std.dtype)
