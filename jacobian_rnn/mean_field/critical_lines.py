"""Where the vanilla RNN is critical: weights at which the mean squared gradient keeps its size."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_scales
from jacobian_rnn.mean_field.activations import Activation, check_activation, moments
from jacobian_rnn.mean_field.roots import increasing_root


def critical_weight_std(
    *,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    activation: Activation = "tanh",
) -> Float[Array, ""]:
    """Return σ_w at which χ = σ_w² E φ'² = 1 at the fixed point.

    This holds for infinite width. A network of N units has λ₁ = 0 at a σ_w that is larger by about
    a multiple of 1/N: see `OrderParameters.width_coefficient` and `critical_weight_std_of_width`.

    Args:
        bias_std: σ_b.
        input_std: σ_in, standard deviation of what the input adds to a pre-activation.
        activation: "tanh", "erf", "relu" or "linear". Static. The slope of the last two does not
            depend on activity, so neither does their critical point. With bias or input they have
            no fixed point there.

    Returns:
        σ_w, a scalar. It is differentiable, except where bias and input are both zero. In float32
        it is good to 1e-4 where they are small (below 1e-3), to the last digits elsewhere.

    Raises:
        ValueError: negative or infinite standard deviations, or an unknown activation.

    References:
        S. Schoenholz et al., ICLR 2017, on the curve, whose parameter here is q.

    Example:
        >>> print(f"{critical_weight_std(bias_std=0.05**0.5):.3f}")
        1.327
    """
    check_activation(activation)
    scales = check_scales(bias_std=bias_std, input_std=input_std)
    return _critical_weight_std(*scales, activation)


@partial(jax.jit, static_argnames="activation")
def _critical_weight_std(bias_std, input_std, activation):
    drive = bias_std**2 + input_std**2
    if activation in ("relu", "linear"):
        critical = 1 / jnp.sqrt(moments(activation, jnp.ones_like(drive)).slope_square)
        return jnp.where(jnp.isnan(drive), jnp.nan, critical)
    driven = drive > 0
    wanted = jnp.where(driven, drive, 1)

    def excess(log_q):
        # On the critical line q − s² = E φ² / E φ'²; relative to s², to see small ones.
        q = jnp.exp(log_q)
        averages = moments(activation, q)
        return (q - averages.square / averages.slope_square) / wanted - 1

    smallest = jnp.log(jnp.finfo(drive.dtype).eps)
    q = jnp.exp(increasing_root(excess, smallest, jnp.log(10 * (1 + wanted))))
    slope_square = moments(activation, jnp.where(driven, q, 0)).slope_square
    return jnp.where(jnp.isnan(drive), jnp.nan, 1 / jnp.sqrt(slope_square))
