"""Functions of one unit that other frameworks have and JAX has not, or not with these constants."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Units = Float[Array, "..."]


def keras_2_hard_sigmoid(pre: Units) -> Units:
    """Return the hard sigmoid of Keras 1 and 2: a/5 + 1/2, cut at 0 and 1."""
    return jnp.clip(0.2 * pre + 0.5, 0, 1)


def keras_leaky_relu(pre: Units) -> Units:
    """Return Keras's leaky ReLU, with the slope 0.2 below zero."""
    return jax.nn.leaky_relu(pre, 0.2)


def exact_gelu(pre: Units) -> Units:
    """Return a Φ(a), with the distribution function Φ of a Gaussian."""
    return jax.nn.gelu(pre, approximate=False)


def tanh_shrink(pre: Units) -> Units:
    """Return a − tanh a."""
    return pre - jnp.tanh(pre)


def soft_shrink(pre: Units) -> Units:
    """Return a moved by 1/2 towards zero, and zero where |a| is at most 1/2."""
    return jnp.sign(pre) * jax.nn.relu(jnp.abs(pre) - 0.5)


def hard_shrink(pre: Units) -> Units:
    """Return a, and zero where |a| is at most 1/2."""
    return jnp.where(jnp.abs(pre) > 0.5, pre, 0)


OWN_ACTIVATIONS = frozenset(
    {keras_2_hard_sigmoid, keras_leaky_relu, exact_gelu, tanh_shrink, soft_shrink, hard_shrink}
)


@dataclasses.dataclass(frozen=True)
class LeakyReLU:
    """The function that is a where a is positive, and a times a slope elsewhere.

    Attributes:
        slope: below zero.
    """

    slope: float

    def __call__(self, pre: Units) -> Units:
        """Return the function of pre-activations."""
        return jax.nn.leaky_relu(pre, self.slope)


@dataclasses.dataclass(frozen=True)
class ELU:
    """The function that is a where a is positive, and alpha (exp a − 1) elsewhere.

    Attributes:
        alpha: its limit at −∞ is −alpha.
    """

    alpha: float

    def __call__(self, pre: Units) -> Units:
        """Return the function of pre-activations."""
        return jax.nn.elu(pre, self.alpha)
