"""Singular values of a product of finitely many steps at infinite width: their two moments."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_at_least, check_scales
from jacobian_rnn.mean_field.activations import Activation, check_activation, moments
from jacobian_rnn.mean_field.vanilla import fixed_variance


class SquaredSingularValues(NamedTuple):
    """Moments of the squared singular values of a product of L steps.

    Attributes:
        mean: χ^L.
        normalized_variance: variance over squared mean, which is zero for a multiple of an
            orthogonal matrix ("dynamical isometry").
    """

    mean: Float[Array, ""]
    normalized_variance: Float[Array, ""]


def squared_singular_values(
    weight_std: Float[Array, ""] | float,
    *,
    num_steps: int,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    activation: Activation = "tanh",
    orthogonal: bool = False,
) -> SquaredSingularValues:
    """Compute mean χ^L and normalised variance L (μ₂/μ₁² − 1 − s₁) of squared singular values.

    Here μ_k = E φ'^2k, and s₁ is −1 for Gaussian and 0 for orthogonal W. Steps are independent.
    With the same W at every step the variance grows a little faster in finite networks.

    Args:
        weight_std: σ_w.
        num_steps: L, at least 0.
        bias_std: σ_b.
        input_std: σ_in, as in `order_parameters`.
        activation: "tanh", "erf", "relu" or "linear". Static.
        orthogonal: whether W is σ_w times an orthogonal matrix instead of Gaussian. Static.

    Returns:
        The two moments.

    Raises:
        ValueError: a number of steps below 0, or what `order_parameters` refuses.
        TypeError: a number of steps that is not an integer.

    References:
        J. Pennington, S. Schoenholz and S. Ganguli, "Resurrecting the sigmoid in deep learning
        through dynamical isometry", NIPS 2017.

    Example:
        >>> at_criticality = squared_singular_values(1.32701, num_steps=10, bias_std=0.05**0.5)
        >>> print(at_criticality.normalized_variance.round(2))
        13.42
    """
    check_at_least(0, num_steps=num_steps)
    check_activation(activation)
    scales = check_scales(weight_std=weight_std, bias_std=bias_std, input_std=input_std)
    return _squared_singular_values(*scales, num_steps, activation, orthogonal)


@partial(jax.jit, static_argnames=("activation", "orthogonal"))
def _squared_singular_values(weight_std, bias_std, input_std, num_steps, activation, orthogonal):
    gain = weight_std**2
    q = fixed_variance(gain, bias_std**2 + input_std**2, activation)
    averages = moments(activation, jnp.where(jnp.isfinite(q), q, 0))
    spread = averages.slope_fourth / averages.slope_square**2 - 1
    return SquaredSingularValues(
        mean=(gain * averages.slope_square) ** num_steps,
        normalized_variance=num_steps * (spread if orthogonal else spread + 1),
    )
