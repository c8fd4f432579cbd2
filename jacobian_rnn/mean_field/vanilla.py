"""Mean field of the vanilla RNN x' = W φ(x) + input + bias, entries of W of variance σ_w²/N.

In discrete time the same weights at every step and fresh ones give the same order parameters: the
fields that units feel are white in time. Finite networks differ by terms of order 1/N.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_number, check_scales
from jacobian_rnn.mean_field.activations import (
    Activation,
    check_activation,
    log_slope_square,
    moments,
    value,
)
from jacobian_rnn.mean_field.quadrature import gaussian_correlation
from jacobian_rnn.mean_field.roots import increasing_root


class OrderParameters(NamedTuple):
    """What mean field theory predicts for an infinitely wide network, before any is drawn.

    Attributes:
        variance: q*, the variance of a pre-activation, inf where activity grows without bound.
        squared_growth: χ, the mean squared singular value of a step.
        rate: λ₁ = ½ log χ, nats per step.
        time_scale: ξ = 1/|log χ|, steps in which a squared gradient shrinks (rate below zero) or
            grows by a factor e. It is inf at criticality.
        width_coefficient: c such that a network of N units with fresh weights has λ₁ ≈ rate − c/N.
            Half comes from the length of a Gaussian product, the rest from the slopes' spread.
    """

    variance: Float[Array, ""]
    squared_growth: Float[Array, ""]
    rate: Float[Array, ""]
    time_scale: Float[Array, ""]
    width_coefficient: Float[Array, ""]


class CorrelationFixedPoint(NamedTuple):
    """How two copies of a network that see correlated inputs end.

    Attributes:
        correlation: c*, of their pre-activations.
        slope: χ_c, of the correlation map at c*.
        time_scale: ξ_c = −1/log χ_c, steps in which the distance from c* shrinks by a factor e.
    """

    correlation: Float[Array, ""]
    slope: Float[Array, ""]
    time_scale: Float[Array, ""]


def order_parameters(
    weight_std: Float[Array, ""] | float,
    *,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    activation: Activation = "tanh",
) -> OrderParameters:
    """Compute the fixed point q = σ_w² E φ² + σ_b² + σ_in² and χ = σ_w² E φ'².

    Args:
        weight_std: σ_w, where entries of W have variance σ_w²/N.
        bias_std: σ_b.
        input_std: σ_in, standard deviation of what the input adds to a pre-activation, fresh at
            every step: σ_v √R for input weights of variance σ_v²/inputs and E x² = R.
        activation: "tanh", "erf", "relu" or "linear". Static.

    Returns:
        Order parameters. Where q = 0 and a fixed point with activity both exist, they are those of
        the latter, which is the stable one. ReLU and linear units grow without bound for χ ≥ 1.
        Their q is inf, and χ, which does not depend on it, still holds.

    Raises:
        TypeError: standard deviations that are no numbers.
        ValueError: negative or infinite standard deviations (if traced they give NaN), or an
            unknown activation.

    The result is differentiable in the standard deviations, through the fixed point. It takes
    milliseconds when compiled, and works under `jax.jit` and `jax.vmap`.

    References:
        B. Poole et al., NIPS 2016.
        S. Schoenholz et al., "Deep information propagation", ICLR 2017.
        M. Chen, J. Pennington and S. Schoenholz, ICML 2018.

    Example:
        >>> theory = order_parameters(3.0)
        >>> print(f"{theory.variance:.3f}, {theory.rate:.4f} nats per step")
        6.305, 0.3102 nats per step
    """
    check_activation(activation)
    scales = check_scales(weight_std=weight_std, bias_std=bias_std, input_std=input_std)
    return _order_parameters(*scales, activation)


@partial(jax.jit, static_argnames="activation")
def _order_parameters(weight_std, bias_std, input_std, activation):
    gain, drive = weight_std**2, bias_std**2 + input_std**2
    q = fixed_variance(gain, drive, activation)
    averages = moments(activation, jnp.where(jnp.isfinite(q), q, 0))
    chi = gain * averages.slope_square
    rate = jnp.log(chi) / 2
    kurtosis = averages.slope_fourth / averages.slope_square**2
    return OrderParameters(
        variance=q,
        squared_growth=chi,
        rate=rate,
        time_scale=1 / jnp.abs(2 * rate),
        width_coefficient=1 / 2 + 3 / 4 * (kurtosis - 1),
    )


def fixed_variance(gain, drive, activation: Activation) -> Float[Array, ""]:
    """Solve q = σ_w² E φ² + s² for `gain` σ_w² and `drive` s²."""
    if activation in ("relu", "linear"):
        shrinking = 1 - gain * moments(activation, jnp.ones_like(gain)).square
        q = jnp.where(
            shrinking > 0,
            drive / jnp.where(shrinking > 0, shrinking, 1),
            jnp.where(drive > 0, jnp.inf, jnp.where(shrinking == 0, 0, jnp.inf)),
        )
        return jnp.where(jnp.isnan(gain + drive), jnp.nan, q)
    # Bounded functions: q lies below σ_w² + s², and above 0 exactly where activity can live.
    active = (drive > 0) | (gain * moments(activation, jnp.zeros_like(gain)).slope_square > 1)
    largest = jnp.where(active, gain + drive, 1)
    tiny = jnp.log(jnp.finfo(gain.dtype).tiny) / 3

    def excess(log_share):
        # Relative to q, so that the nontrivial root is the only one where there is no drive.
        q = largest * jnp.exp(log_share)
        return 1 - (gain * moments(activation, q).square + drive) / q

    q = largest * jnp.exp(increasing_root(excess, tiny, 1e-3))
    return jnp.where(jnp.isnan(gain + drive), jnp.nan, jnp.where(active, q, 0))


def correlation_fixed_point(
    weight_std: Float[Array, ""] | float,
    *,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    input_correlation: Float[Array, ""] | float = 1.0,
    activation: Activation = "tanh",
) -> CorrelationFixedPoint:
    """Compute the fixed point of the correlation map between two copies of the network.

    The map is q c' = σ_w² E φ(a) φ(b) + σ_b² + σ_in² ρ with a, b ~ N(0, q) of correlation c.
    The copies have the same biases, and inputs of correlation ρ. With ρ = 1 they come together
    (c* = 1) in the ordered phase and stay apart in the chaotic one. Other ρ have no transition.

    Args:
        weight_std: σ_w.
        bias_std: σ_b.
        input_std: σ_in.
        input_correlation: ρ, from 0 to 1.
        activation: as in `order_parameters`. Static.

    Returns:
        The stable fixed point with c ≥ 0. It is NaN where q is 0 or infinite.

    Raises:
        ValueError: what `order_parameters` refuses, or a correlation outside [0, 1].

    References:
        S. Schoenholz et al., ICLR 2017.
        M. Chen, J. Pennington and S. Schoenholz, ICML 2018.

    Example:
        >>> ordered = correlation_fixed_point(0.9, bias_std=0.05**0.5)
        >>> print(f"{ordered.correlation:.3f} {ordered.slope:.3f}")
        1.000 0.653
    """
    check_activation(activation)
    check_number("input_correlation", input_correlation, least=0, most=1)
    scales = check_scales(
        weight_std=weight_std,
        bias_std=bias_std,
        input_std=input_std,
        input_correlation=input_correlation,
    )
    return _correlation_fixed_point(*scales, activation)


@partial(jax.jit, static_argnames="activation")
def _correlation_fixed_point(weight_std, bias_std, input_std, input_correlation, activation):
    gain, drive = weight_std**2, bias_std**2 + input_std**2
    q = fixed_variance(gain, drive, activation)
    exists = jnp.isfinite(q) & (q > 0) & (input_correlation <= 1)
    q = jnp.where(exists, q, 1)
    shared = bias_std**2 + input_std**2 * input_correlation

    def fall(correlation):
        kept = gaussian_correlation(partial(value, activation), q, correlation)
        return correlation - (gain * kept + shared) / q

    correlation = increasing_root(fall, jnp.zeros_like(q), jnp.ones_like(q))
    # Closer to one than rounding can tell apart the copies have come together.
    correlation = jnp.where(correlation > 1 - jnp.finfo(q.dtype).eps ** 0.5, 1, correlation)

    def slope_of(x):
        return jnp.exp(log_slope_square(activation, x) / 2)

    slope = gain * gaussian_correlation(slope_of, q, correlation)
    return CorrelationFixedPoint(
        correlation=jnp.where(exists, correlation, jnp.nan),
        slope=jnp.where(exists, slope, jnp.nan),
        # At criticality rounding may put the slope above one.
        time_scale=jnp.where(exists, -1 / jnp.minimum(jnp.log(slope), -0.0), jnp.nan),
    )
