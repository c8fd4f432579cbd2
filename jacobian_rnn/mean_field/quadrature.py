"""Gaussian averages that stay accurate however wide the Gaussian is.

Activation functions change on a scale of one around a few points, while pre-activations spread over
√q, which grows with the gain. Gauss–Hermite nodes are spread over √q too and miss what happens
between them (at gain 20 that puts λ₁ off in the third digit). Here nodes lie at x = c + sinh t
about each such point c, with Gauss–Legendre nodes in t: fine near c and coarse far away.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_number, check_scalar, refuse

NUM_NODES = 64
NUM_FEWER = 48  # nodes of the rule that tells whether the first one converges
MOST_APART = 0.01  # of the two, relative to E |f|
# Beyond nine standard deviations lie 2e-19 of the probability.
REACH = 9.0
TAIL = 1e-10


def gaussian_average(
    function: Callable[[Array], Array],
    variance: Float[Array, ""] | float,
    mean: Float[Array, ""] | float = 0.0,
    *,
    centers: tuple[Float[Array, ""] | float, ...] = (0.0,),
) -> Float[Array, ""]:
    """Compute E f(x) for x ~ N(mean, variance).

    Args:
        function: f of an array of nodes, unit by unit. It may have kinks at the centres, and should
            be smooth elsewhere on a scale of one or more about the nearest centre.
        variance: zero or above, where zero gives f(mean).
        mean: of x.
        centers: points about which f changes, ascending.

    Returns:
        The average, in the dtype of `variance`. It is differentiable in variance, mean and what f
        closes over. For tanh and its powers the relative error is below 1e-12 up to a variance of
        1e8. It is NaN for a traced variance below zero, and where the integral does not converge,
        as far as that shows: where the integrand has not died out at nine standard deviations, or
        fewer nodes give another result by 1 % of E |f|.

    Raises:
        TypeError: a variance or mean that is no number.
        ValueError: a variance that is negative or not finite, an array, or no centres.

    Example:
        >>> print(gaussian_average(lambda x: x**2, 2.0).round(4))
        2.0
    """
    check_number("variance", variance, least=0)
    check_scalar("mean", mean)
    if not centers:
        refuse("centers", "none", "at least one point")
    nodes, weights = gaussian_nodes(variance, mean, centers=centers)
    values = function(nodes)
    average = jnp.sum(weights * values)
    z = (nodes - mean) / jnp.sqrt(jnp.where(variance > 0, variance, 1))
    sizes = lax.stop_gradient(jnp.abs(values) * jnp.exp(-(z**2) / 2))
    left_out = jnp.maximum(sizes[0], sizes[-1]) > TAIL * jnp.max(sizes)
    nodes, fewer_weights = gaussian_nodes(variance, mean, centers=centers, num_nodes=NUM_FEWER)
    apart = jnp.abs(jnp.sum(fewer_weights * function(nodes)) - average)
    unsettled = apart > MOST_APART * jnp.sum(weights * jnp.abs(values))
    diverges = (variance > 0) & (left_out | lax.stop_gradient(unsettled))
    return jnp.where(diverges | (variance < 0), jnp.nan, average)


def known_average(
    function: Callable[[Array], Array],
    variance: Float[Array, ""] | float,
    mean: Float[Array, ""] | float = 0.0,
    *,
    centers: tuple[Float[Array, ""] | float, ...] = (0.0,),
) -> Float[Array, ""]:
    """Compute `gaussian_average` of a function that is known to suit, without its checks."""
    nodes, weights = gaussian_nodes(variance, mean, centers=centers)
    return jnp.sum(weights * function(nodes))


def gaussian_nodes(
    variance: Float[Array, ""] | float,
    mean: Float[Array, ""] | float = 0.0,
    *,
    centers: tuple[Float[Array, ""] | float, ...] = (0.0,),
    num_nodes: int = NUM_NODES,
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Return nodes, `num_nodes` on each side of a centre, and weights, which sum to one."""
    places, shares = np.polynomial.legendre.leggauss(num_nodes)
    variance = jnp.asarray(variance, jnp.result_type(variance, mean, float))
    positive = variance > 0
    std = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
    lowest, highest = mean - REACH * std, mean + REACH * std
    points = [jnp.asarray(center, std.dtype) for center in centers]
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(points)]
    nodes, lengths = [], []
    for center, left, right in zip(points, [lowest, *halfway], [*halfway, highest], strict=True):
        for start, stop in ((left, center), (center, right)):
            # In t = asinh(x − c); a part that lies outside the reach has length zero.
            first, last = (
                jnp.arcsinh(jnp.clip(x, lowest, highest) - center) for x in (start, stop)
            )
            t = (first + last) / 2 + (last - first) / 2 * places.astype(std.dtype)
            nodes.append(center + jnp.sinh(t))
            lengths.append((last - first) * jnp.cosh(t) * shares.astype(std.dtype))
    x, lengths = jnp.concatenate(nodes), jnp.concatenate(lengths)
    z = (x - mean) / jnp.where(positive, std, 1)
    weights = jnp.where(positive, lengths * jnp.exp(-(z**2) / 2), 1)
    return x, weights / jnp.sum(weights)


def gaussian_correlation(
    function: Callable[[Array], Array],
    variance: Float[Array, ""] | float,
    correlation: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """Compute E f(a) f(b) for Gaussian a, b of mean zero, equal variance and given correlation.

    Args:
        function: f, unit by unit, as in `gaussian_average` with a centre at zero.
        variance: of a and of b.
        correlation: from −1 to 1.

    Returns:
        The average, from 16,384 evaluations of f.
    """
    others = variance * jnp.maximum(1 - correlation**2, 0)

    def given_first(a):
        second, weights = gaussian_nodes(others, correlation * a)
        return jnp.sum(weights * function(second))

    first, weights = gaussian_nodes(variance)
    return jnp.sum(weights * function(first) * jax.vmap(given_first)(first))
