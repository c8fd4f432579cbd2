"""Deep feed-forward chains as recurrences: depth is time, and layers are inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import refuse


def dense_chain(activation_fn: Callable = jnp.tanh) -> Recurrence:
    """Return a chain of dense layers of one width as a recurrence: h' = φ(W h + b).

    Depth takes the place of time, and layers take the place of inputs. So everything that measures
    a recurrence can measure a deep network. `xs` is a pytree {"kernel": `(depth, N, N)`, "bias":
    `(depth, N)`}, with kernels as in Flax's `Dense`. The carry is the input of the first layer. The
    product of all Jacobians is the derivative of the last layer with respect to it.

    Args:
        activation_fn: φ. It may mix units. For a linear chain it is `jax.nn.identity`. Static.

    Returns:
        The recurrence, which has no parameters of its own.

    References:
        J. Pennington, S. Schoenholz and S. Ganguli, "Resurrecting the sigmoid in deep learning
        through dynamical isometry", NeurIPS 2017.

    Raises:
        TypeError: an activation that cannot be called.

    Example:
        >>> import jax
        >>> from jacobian_rnn import jacobian_product
        >>> depth, width = 50, 4
        >>> orthogonal = jax.nn.initializers.orthogonal(column_axis=-1)
        >>> keys = jax.random.split(jax.random.key(0), depth)
        >>> kernels = jnp.stack([orthogonal(key, (width, width)) for key in keys])
        >>> layers = {"kernel": kernels, "bias": jnp.zeros((depth, width))}
        >>> product = jacobian_product(dense_chain(jax.nn.identity), jnp.ones(width), layers)
        >>> bool(jnp.allclose(product.log_singular_values(), 0, atol=1e-4))
        True
    """
    if not callable(activation_fn):
        expected = "a function such as jnp.tanh"
        refuse("activation_fn", repr(activation_fn), expected, error=TypeError)
    return Recurrence(DenseStep(activation_fn), ())


@dataclass(frozen=True)
class DenseStep:
    """The step of one layer of a chain. Equal activations have equal steps."""

    activation_fn: Callable
    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the activations of the next layer."""
        del params
        pre = jnp.matmul(carry, x["kernel"], precision=jax.lax.Precision.HIGHEST)
        return self.activation_fn(pre + x["bias"])
