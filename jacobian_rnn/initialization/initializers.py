"""Flax initialisers, for the `…_init` arguments of linen and nnx cells.

They raise a ValueError for a shape that they are not meant for. Their scales may be traced. No
initialiser can reach one gate of a linen cell: see `with_gate_bias`.

Example:
    >>> import jax
    >>> from flax import nnx
    >>> cell = nnx.OptimizedLSTMCell(
    ...     3,
    ...     8,
    ...     recurrent_kernel_init=orthogonal_per_gate(4, 0.5),
    ...     bias_init=forget_gate_bias(8, 1.0),
    ...     rngs=nnx.Rngs(0),
    ... )
    >>> block = cell.dense_h.kernel[:, 8:16]
    >>> bool(jnp.allclose(block @ block.T, 0.25 * jnp.eye(8), atol=1e-5))
    True
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.nn import initializers
from jaxtyping import Array

from jacobian_rnn.cells.changes import check_lag, log_uniform
from jacobian_rnn.checks import check_at_least, check_finite, check_number, refuse
from jacobian_rnn.mean_field.activations import Activation
from jacobian_rnn.mean_field.critical_lines import critical_weight_std


@dataclasses.dataclass(frozen=True)
class Initializer:
    """A Flax initialiser, `(key, shape, dtype) -> array`, equal and hashable for equal options."""

    draw: Callable[..., Array]
    options: tuple[Any, ...]

    def __post_init__(self):
        """Turn known arrays into numbers, which have a hash: linen cells with it are static."""
        known = (
            float(option)
            if isinstance(option, jax.Array) and not isinstance(option, Tracer) and option.ndim == 0
            else option
            for option in self.options
        )
        object.__setattr__(self, "options", tuple(known))

    def __call__(self, key: Array, shape: Any, dtype: Any = float) -> Array:
        """Return `draw(key, shape, dtype, *options)`."""
        return self.draw(key, tuple(shape), dtype, *self.options)


def scaled_identity(scale: float | Array = 1.0) -> Initializer:
    """Make an initialiser of square kernels (N, N): `scale` times the identity.

    References:
        Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
        rectified linear units", 2015.
    """
    check_number("scale", scale)
    return Initializer(_scaled_identity, (scale,))


def gaussian(weight_std: float | Array) -> Initializer:
    """Make an initialiser of kernels (N, G N) with independent entries N(0, weight_std² / N).

    `weight_std` is σ_w of mean-field theory: without input and bias, a tanh network is critical at
    σ_w = 1 as N → ∞.
    """
    check_number("weight_std", weight_std, least=0)
    return Initializer(_gaussian, (weight_std,))


def critical_gaussian(
    *, bias_std: float = 0.0, input_std: float = 0.0, activation: Activation = "tanh"
) -> Initializer:
    """Make an initialiser of kernels (N, N) of a vanilla cell that is critical as N → ∞.

    It is `gaussian` at the σ_w where χ = 1: see `mean_field.critical_weight_std`, also for what it
    raises. For other cells and finite widths measure: `at_rate(cell, 0.0, ...)`.

    Args:
        bias_std: σ_b, standard deviation of the biases.
        input_std: σ_in, of what the input adds to a pre-activation.
        activation: "tanh", "erf", "relu" or "linear".

    References:
        S. Schoenholz et al., "Deep information propagation", ICLR 2017.

    Example:
        >>> from flax import linen as nn
        >>> cell = nn.SimpleCell(8, recurrent_kernel_init=critical_gaussian(input_std=0.5))
        >>> print(round(cell.recurrent_kernel_init.options[0], 2))
        1.55
    """
    std = critical_weight_std(bias_std=bias_std, input_std=input_std, activation=activation)
    return gaussian(std)


def orthogonal_per_gate(num_gates: int, scale: float | Array = 1.0) -> Initializer:
    """Make an initialiser of fused kernels (N, G N) whose every block is `scale` · orthogonal.

    Flax's own `orthogonal()` makes the N rows of the whole kernel orthonormal, so that each block
    has a mean squared singular value of 1/G only. Here blocks are drawn independently.

    Args:
        num_gates: G, 3 for `nnx.GRUCell`, 4 for `nnx.OptimizedLSTMCell`.
        scale: of each block.

    Returns:
        The initialiser, for `recurrent_kernel_init`.

    Raises:
        TypeError: a number of gates that is not an integer.
        ValueError: a number of gates below one.
    """
    check_at_least(1, num_gates=num_gates)
    check_number("scale", scale)
    return Initializer(_orthogonal_per_gate, (num_gates, scale))


def forget_gate_bias(num_units: int, bias: float | Array = 1.0) -> Initializer:
    """Make an initialiser of fused LSTM biases (4 N,): `bias` at the forget gate, else zero.

    Args:
        num_units: N. Shapes cannot tell the biases of all gates from the (N,) of one.
        bias: b_f. A constant gate σ(b_f) forgets in −1 / log σ(b_f) steps.

    Returns:
        The initialiser, for `bias_init` of `nnx.OptimizedLSTMCell`, gates in the order i, f, g, o.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below one.

    References:
        F. A. Gers, J. Schmidhuber and F. Cummins, "Learning to forget: continual prediction with
        LSTM", Neural Computation 12 (2000).
    """
    check_at_least(1, num_units=num_units)
    check_finite("bias", jnp.asarray(bias), advice="")
    return Initializer(_forget_gate_bias, (num_units, bias))


def chrono_bias(num_units: int, max_lag: float) -> Initializer:
    """Make an initialiser of fused LSTM biases (4 N,): b_f ~ log U(1, max_lag − 1), b_i = −b_f.

    Args:
        num_units: N. Shapes cannot tell the biases of all gates from the (N,) of one.
        max_lag: T_max, the longest dependency in steps, above 2.

    Returns:
        The initialiser, as that of `forget_gate_bias`. Biases are zero at g and o.

    Raises:
        TypeError: a size that is not an integer, or a lag that is not a number.
        ValueError: a size below one, or a lag of 2 or less.

    References:
        C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, section 3.
    """
    check_at_least(1, num_units=num_units)
    check_lag(max_lag)
    return Initializer(_chrono_bias, (num_units, max_lag))


def _check_kernel(name, shape, num_gates=None):
    fits = len(shape) == 2 and shape[0] > 0 and shape[1] % shape[0] == 0
    if not fits or (num_gates is not None and shape[1] != num_gates * shape[0]):
        blocks = "G N" if num_gates is None else f"{num_gates} N" if num_gates > 1 else "N"
        refuse(name, f"shape {shape}", f"(N, {blocks})", "it is meant for recurrent kernels")


def _check_fused(name, shape, num_units):
    if shape != (4 * num_units,):
        expected = f"({4 * num_units},), the biases of nnx.OptimizedLSTMCell of {num_units} units"
        advice = "use with_gate_bias or with_chrono_biases for cells that keep them apart"
        refuse(name, f"shape {shape}", expected, advice)


def _scaled_identity(key, shape, dtype, scale):
    del key
    _check_kernel("scaled_identity", shape, 1)
    eye = jnp.eye(shape[0], dtype=dtype)
    return jnp.asarray(scale, eye.dtype) * eye


def _gaussian(key, shape, dtype, weight_std):
    _check_kernel("gaussian", shape)
    entries = jax.random.normal(key, shape, dtype)
    return jnp.asarray(weight_std, entries.dtype) / math.sqrt(shape[0]) * entries


def _orthogonal_per_gate(key, shape, dtype, num_gates, scale):
    _check_kernel("orthogonal_per_gate", shape, num_gates)
    draw = initializers.orthogonal()
    keys, square = jax.random.split(key, num_gates), (shape[0], shape[0])
    kernel = jnp.concatenate([draw(one, square, dtype) for one in keys], axis=1)
    return jnp.asarray(scale, kernel.dtype) * kernel


def _forget_gate_bias(key, shape, dtype, num_units, bias):
    del key
    _check_fused("forget_gate_bias", shape, num_units)
    return jnp.zeros(shape, dtype).at[num_units : 2 * num_units].set(bias)


def _chrono_bias(key, shape, dtype, num_units, max_lag):
    _check_fused("chrono_bias", shape, num_units)
    forget = log_uniform(key, num_units, dtype, max_lag)
    return jnp.concatenate([-forget, forget, jnp.zeros(2 * num_units, forget.dtype)])
