"""The whole Lyapunov spectrum of the vanilla RNN at infinite width, from one Gaussian average.

J = W diag(φ'(x)) with x ~ N(0, q). Multiplying free random matrices multiplies their S-transforms,
and exp(2λ(p)) = 1/S_JJᵀ(−p) for the fraction p of exponents that lie above λ. With d = φ'² and
u = log ζ as parameter, p = E σ(u + log d) and

    2 λ = log σ_w² + log p − u                  (Gaussian W)
    2 λ = log σ_w² + log p − log(1 − p) − u     (orthogonal W).

Their integrals over p are averages too, so that entropy and dimension need no sum over exponents.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from jacobian_rnn.checks import check_scales, check_shape, refuse
from jacobian_rnn.mean_field.activations import (
    Activation,
    check_activation,
    log_slope_square,
    moments,
)
from jacobian_rnn.mean_field.quadrature import REACH, known_average
from jacobian_rnn.mean_field.roots import increasing_root
from jacobian_rnn.mean_field.vanilla import fixed_variance


class SpectrumSummary(NamedTuple):
    """What a spectrum of infinitely many exponents says, each per unit of the network.

    Attributes:
        largest: λ₁, nats per step.
        fraction_positive: fraction of exponents above zero.
        entropy_rate: sum of the positive exponents over N, nats per step.
        dimension: Kaplan–Yorke dimension over N, from 0 to 1.
        mean: mean exponent, nats per step, which is −inf where a fraction of slopes is zero.
    """

    largest: Float[Array, ""]
    fraction_positive: Float[Array, ""]
    entropy_rate: Float[Array, ""]
    dimension: Float[Array, ""]
    mean: Float[Array, ""]


def full_spectrum(
    weight_std: Float[Array, ""] | float,
    fractions: Float[Array, " exponents"],
    *,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    activation: Activation = "tanh",
    orthogonal: bool = False,
) -> Float[Array, " exponents"]:
    """Compute the exponents λ(p) at given fractions p of the spectrum, counted from the top.

    The i-th of N exponents is to be compared with p = (i − ½)/N.

    Args:
        weight_std: σ_w, above zero.
        fractions: p, each above 0 and below 1, `(K,)`.
        bias_std: σ_b.
        input_std: σ_in, as in `order_parameters`.
        activation: "tanh", "erf", "relu" or "linear". Static.
        orthogonal: whether W is σ_w times an orthogonal matrix instead of Gaussian. Static.

    Returns:
        λ(p), nats per step, −inf beyond the fraction of units whose slope is not zero (ReLU: half).

    Raises:
        ValueError: fractions outside (0, 1) or not one-dimensional, or what `order_parameters`
            refuses.

    A network that rests at x = 0 (no bias, no input, σ_w at most critical) keeps one Jacobian, W
    itself, and the exponents are the logs of its eigenvalues: 2 λ(p) = log σ_w² + log(1 − p).

    Example:
        >>> import jax.numpy as jnp
        >>> largest, middle = full_spectrum(3.0, jnp.array([0.01, 0.5]))
        >>> print(f"{largest:.3f} {middle:.3f}")
        0.293 -1.416
    """
    check_activation(activation)
    scales = check_scales(weight_std=weight_std, bias_std=bias_std, input_std=input_std)
    fractions = jnp.asarray(fractions, scales[0].dtype)
    check_shape("fractions", fractions.shape, ("K",))
    if not isinstance(fractions, Tracer):
        known = np.asarray(fractions)
        if not np.all((known > 0) & (known < 1)):
            refuse("fractions", fractions, "each above 0 and below 1")
    return _full_spectrum(*scales, fractions, activation, orthogonal)


def spectrum_summary(
    weight_std: Float[Array, ""] | float,
    *,
    bias_std: Float[Array, ""] | float = 0.0,
    input_std: Float[Array, ""] | float = 0.0,
    activation: Activation = "tanh",
    orthogonal: bool = False,
) -> SpectrumSummary:
    """Compute λ₁, fraction positive, entropy, dimension and mean of the whole spectrum.

    Args:
        weight_std: σ_w, above zero.
        bias_std: σ_b.
        input_std: σ_in, as in `order_parameters`.
        activation: "tanh", "erf", "relu" or "linear". Static.
        orthogonal: whether W is σ_w times an orthogonal matrix instead of Gaussian. Static.

    Returns:
        The summary, each number per unit.

    Raises:
        ValueError: standard deviations or an activation as in `order_parameters`.

    References:
        R. Engelken, F. Wolf and L. Abbott, Phys. Rev. Research 5 (2023), for such spectra measured.

    Example:
        >>> summary = spectrum_summary(3.0)
        >>> print(f"{summary.fraction_positive:.3f} {summary.dimension:.3f}")
        0.153 0.288
    """
    check_activation(activation)
    scales = check_scales(weight_std=weight_std, bias_std=bias_std, input_std=input_std)
    return _spectrum_summary(*scales, activation, orthogonal)


@partial(jax.jit, static_argnames=("activation", "orthogonal"))
def _full_spectrum(weight_std, bias_std, input_std, fractions, activation, orthogonal):
    variance = _slope_variance(weight_std, bias_std, input_std, activation)
    spectrum = _Spectrum(weight_std, variance, activation, orthogonal)
    return jax.vmap(lambda p: spectrum.exponent(spectrum.parameter_of(p), p))(fractions)


@partial(jax.jit, static_argnames=("activation", "orthogonal"))
def _spectrum_summary(weight_std, bias_std, input_std, activation, orthogonal):
    variance = _slope_variance(weight_std, bias_std, input_std, activation)
    spectrum = _Spectrum(weight_std, variance, activation, orthogonal)
    low, high = spectrum.ends()
    largest = spectrum.largest()
    grows = largest > 0
    # From the top down: the exponent falls through zero, then the sum of all above it does.
    at_zero = increasing_root(lambda u: -spectrum.exponent(u, spectrum.fraction(u)), low, high)
    at_dimension = increasing_root(
        lambda u: -spectrum.integral(u) / spectrum.fraction(u), low, high
    )
    positive = jnp.where(grows, spectrum.fraction(at_zero), 0)
    mean = spectrum.mean()
    return SpectrumSummary(
        largest=largest,
        fraction_positive=positive,
        entropy_rate=jnp.where(grows, spectrum.integral(at_zero), 0),
        dimension=jnp.where(mean >= 0, 1, jnp.where(grows, spectrum.fraction(at_dimension), 0)),
        mean=mean,
    )


def _slope_variance(weight_std, bias_std, input_std, activation):
    """Return a variance of the pre-activations that has the slopes of the fixed point."""
    if activation in ("relu", "linear"):
        return jnp.ones_like(weight_std)  # their slopes do not depend on it
    return fixed_variance(weight_std**2, bias_std**2 + input_std**2, activation)


class _Spectrum(NamedTuple):
    """The curve p(u), λ(u) and its integral."""

    weight_std: Array
    variance: Array
    activation: Activation
    orthogonal: bool

    def average(self, function, u):
        """E f(u + log d), with nodes about the points where the argument crosses zero."""
        # Where the nodes lie does not change the average, and at zero it has no derivative.
        crossing = lax.stop_gradient(u)
        if self.activation == "tanh":
            # ζ sech⁴ x = 1.
            edge = jnp.arccosh(jnp.exp(jnp.maximum(crossing, 0) / 4))
            centers = (-edge, edge)
        elif self.activation == "erf":
            edge = jnp.sqrt(jnp.maximum(crossing + jnp.log(4 / jnp.pi), 0) / 2)
            centers = (-edge, edge)
        else:
            centers = (0.0,)
        return known_average(
            lambda x: function(u + log_slope_square(self.activation, x)),
            self.variance,
            centers=centers,
        )

    def ends(self):
        """Return parameters between which p goes from about zero to about one."""
        eps = jnp.finfo(self.weight_std.dtype).eps
        reach = REACH * jnp.sqrt(self.variance)
        steepest = -log_slope_square(self.activation, reach)
        highest = jnp.where(jnp.isfinite(steepest), steepest, 0) - jnp.log(eps)
        return jnp.log(eps).astype(reach.dtype), highest

    def fraction(self, u):
        return self.average(jax.nn.sigmoid, u)

    def parameter_of(self, p):
        return increasing_root(lambda u: self.fraction(u) - p, *self.ends())

    def exponent(self, u, p):
        beyond = jnp.where(self.activation == "relu", p >= 0.5, False)
        log_rest = jnp.log1p(-p) if self.orthogonal else 0.0
        rate = jnp.log(self.weight_std) + (jnp.log(p) - log_rest - u) / 2
        return jnp.where(beyond, -jnp.inf, rate)

    def integral(self, u):
        """∫ λ dp from 0 to p(u): the sum of the exponents above λ(u), over N."""
        p = self.fraction(u)
        total = p * 2 * jnp.log(self.weight_std) + jax.scipy.special.xlogy(p, p) - p * u
        total += self.average(jax.nn.softplus, u)
        if self.orthogonal:
            return (total + jax.scipy.special.xlogy(1 - p, 1 - p)) / 2
        return (total - p) / 2

    def largest(self):
        slope_square = moments(self.activation, self.variance).slope_square
        return jnp.log(self.weight_std) + jnp.log(slope_square) / 2

    def mean(self):
        log_slopes = known_average(
            lambda x: log_slope_square(self.activation, x) / 2, self.variance
        )
        return jnp.log(self.weight_std) + log_slopes - (0.0 if self.orthogonal else 0.5)
