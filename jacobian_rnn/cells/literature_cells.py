"""Recurrent cells of the literature that Flax lacks, each with its closed-form Jacobian.

Each function draws the parameters of one cell and returns a `Recurrence`; `zero_carry` gives its
starting carry. Kernels have shape (inputs, outputs) and act on rows, as in Flax.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers
from jaxtyping import Array, Key

from jacobian_rnn.cells.closed_form import StepClosedForm
from jacobian_rnn.cells.gated_jacobian import GatedJacobian
from jacobian_rnn.cells.recurrence import Recurrence, from_linen, last_array
from jacobian_rnn.checks import check_at_least, check_dtype, check_number


def minimal_rnn(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw a minimalRNN: z = tanh(V x + a), u = σ(W h + U z + b), h' = u h + (1 − u) z.

    Kernels have variance 1 / (their number of rows), W is orthogonal, biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        dtype: float32 or float64, of the parameters.

    Returns:
        The recurrence; J = diag u + diag((h − z) u') W.

    Raises:
        TypeError: sizes that are not integers; neither float type, or float64 without x64.
        ValueError: sizes below one.

    References:
        M. Chen, "MinimalRNN: toward more interpretable and trainable recurrent neural networks",
        2017; M. Chen, J. Pennington and S. Schoenholz, ICML 2018.

    Example:
        >>> import jax
        >>> network = minimal_rnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_at_least(1, num_inputs=num_inputs, num_units=num_units)
    check_dtype("dtype", dtype)
    embed, read, recur = jax.random.split(key, 3)
    zeros = jnp.zeros(num_units, dtype)
    params = {
        "embedding": {"kernel": normal_kernel(embed, num_inputs, num_units, dtype), "bias": zeros},
        "input": {"kernel": normal_kernel(read, num_units, num_units, dtype)},
        "recurrent": {
            "kernel": initializers.orthogonal()(recur, (num_units, num_units), dtype),
            "bias": zeros,
        },
    }
    return recurrence_of(MinimalStep(), params)


def antisymmetric_rnn(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    step_size: float = 0.1,
    diffusion: float = 0.01,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw an antisymmetric RNN: h' = h + ε tanh((W − Wᵀ − γ) h + V x + b).

    Entries of W and V have variance 1 / (their number of rows), biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        step_size: ε, above zero.
        diffusion: γ, zero or above.
        dtype: float32 or float64, of the parameters.

    Returns:
        The recurrence; J = 1 + ε diag(tanh') (W − Wᵀ − γ). ε and γ are among its parameters.

    Raises:
        TypeError: sizes that are not integers; neither float type, or float64 without x64.
        ValueError: sizes below one, or ε or γ out of range.

    References:
        B. Chang, M. Chen, E. Haber and E. H. Chi, "AntisymmetricRNN: a dynamical system view on
        recurrent neural networks", ICLR 2019, equation 10.

    Example:
        >>> import jax
        >>> network = antisymmetric_rnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_at_least(1, num_inputs=num_inputs, num_units=num_units)
    check_dtype("dtype", dtype)
    check_number("step_size", step_size, above=0)
    check_number("diffusion", diffusion, least=0)
    read, recur = jax.random.split(key)
    params = {
        "input": {"kernel": normal_kernel(read, num_inputs, num_units, dtype)},
        "recurrent": {
            "kernel": normal_kernel(recur, num_units, num_units, dtype),
            "bias": jnp.zeros(num_units, dtype),
        },
        "step_size": jnp.asarray(step_size, dtype),
        "diffusion": jnp.asarray(diffusion, dtype),
    }
    return recurrence_of(AntisymmetricStep(), params)


def leaky_rate_network(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    leak: float = 0.1,
    gain: float = 1.0,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw a network of leaky rate units: h' = (1 − α) h + α tanh(W h + V x + b).

    Entries of W have variance gain² / N and those of V 1 / inputs, biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        leak: α, the time step over the time constant, above 0 and at most 1.
        gain: of the recurrent weights, zero or above.
        dtype: float32 or float64, of the parameters.

    Returns:
        The recurrence; J = 1 − α + α diag(tanh') W. α is among its parameters.

    Raises:
        TypeError: sizes that are not integers; neither float type, or float64 without x64.
        ValueError: sizes below one, or α or the gain out of range.

    References:
        H. Jaeger, M. Lukoševičius, D. Popovici and U. Siewert, "Optimization and applications of
        echo state networks with leaky-integrator neurons", Neural Networks 20 (2007).

    Example:
        >>> import jax
        >>> network = leaky_rate_network(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_at_least(1, num_inputs=num_inputs, num_units=num_units)
    check_dtype("dtype", dtype)
    check_number("leak", leak, above=0, most=1)
    check_number("gain", gain, least=0)
    read, recur = jax.random.split(key)
    params = {
        "input": {"kernel": normal_kernel(read, num_inputs, num_units, dtype)},
        "recurrent": {
            "kernel": jnp.asarray(gain, dtype) * normal_kernel(recur, num_units, num_units, dtype),
            "bias": jnp.zeros(num_units, dtype),
        },
        "leak": jnp.asarray(leak, dtype),
    }
    return recurrence_of(LeakyStep(), params)


def irnn(
    num_inputs: int, num_units: int, *, key: Key[Array, ""], dtype: Any = jnp.float32
) -> Recurrence:
    """Draw an IRNN: a SimpleCell of rectified units whose recurrent kernel starts as the identity.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`, for the input kernel, whose entries have variance 10⁻⁶.
        dtype: float32 or float64, of the parameters.

    Returns:
        The recurrence; J = diag(1 where h' > 0) W.

    Raises:
        TypeError: sizes that are not integers; neither float type, or float64 without x64.
        ValueError: sizes below one.

    References:
        Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
        rectified linear units", 2015.

    Example:
        >>> import jax
        >>> network = irnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_at_least(1, num_inputs=num_inputs, num_units=num_units)
    check_dtype("dtype", dtype)
    cell = nn.SimpleCell(num_units, activation_fn=nn.relu, param_dtype=dtype)
    small = 1e-3 * jax.random.normal(key, (num_inputs, num_units), dtype)
    params = {
        "i": {"kernel": small, "bias": jnp.zeros(num_units, dtype)},
        "h": {"kernel": jnp.eye(num_units, dtype=dtype)},
    }
    return from_linen(cell, {"params": params})


@dataclass(frozen=True)
class MinimalStep:
    """The step of `minimal_rnn`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        z, gate, _ = self._gate(params, carry, x)
        return gate * carry + (1 - gate) * z

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian."""
        z, gate, shown = self._gate(params, carry, x)
        slope = (carry - z) * gate * (1 - gate)
        # x acts through z alone, directly and by way of the gate.
        through = shown * params["embedding"]["kernel"]
        return GatedJacobian(
            diagonals=gate[None, None],
            slopes=slope[None, None],
            kernels=(params["recurrent"]["kernel"],),
            input_slopes=jnp.stack([1 - gate, slope])[None],
            input_kernels=(through, through @ params["input"]["kernel"]),
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _gate(self, params, carry, x):
        z = jnp.tanh(x @ params["embedding"]["kernel"] + params["embedding"]["bias"])
        pre = carry @ params["recurrent"]["kernel"] + z @ params["input"]["kernel"]
        return z, jax.nn.sigmoid(pre + params["recurrent"]["bias"]), 1 - z**2


@dataclass(frozen=True)
class AntisymmetricStep:
    """The step of `antisymmetric_rnn`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        return carry + params["step_size"] * jnp.tanh(self._pre(params, carry, x))

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian."""
        slope = params["step_size"] * (1 - jnp.tanh(self._pre(params, carry, x)) ** 2)
        return _of_one_kernel(
            jnp.ones_like(carry), slope, self._kernel(params), params["input"]["kernel"]
        )

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _kernel(self, params):
        kernel = params["recurrent"]["kernel"]
        eye = jnp.eye(kernel.shape[0], dtype=kernel.dtype)
        return kernel - kernel.T - params["diffusion"] * eye

    def _pre(self, params, carry, x):
        read = carry @ self._kernel(params) + x @ params["input"]["kernel"]
        return read + params["recurrent"]["bias"]


@dataclass(frozen=True)
class LeakyStep:
    """The step of `leaky_rate_network`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        leak = params["leak"]
        return (1 - leak) * carry + leak * self._rate(params, carry, x)

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian."""
        leak = params["leak"]
        slope = leak * (1 - self._rate(params, carry, x) ** 2)
        kept = (1 - leak) * jnp.ones_like(carry)
        return _of_one_kernel(kept, slope, params["recurrent"]["kernel"], params["input"]["kernel"])

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _rate(self, params, carry, x):
        read = carry @ params["recurrent"]["kernel"] + x @ params["input"]["kernel"]
        return jnp.tanh(read + params["recurrent"]["bias"])


def recurrence_of(
    step: Any, params: Any, output: Callable[[Any], Array] = last_array
) -> Recurrence:
    """Return the recurrence of a step that knows the parts of its Jacobian."""
    return Recurrence(step, params, StepClosedForm(step), output)


def normal_kernel(key: Key[Array, ""], num_rows: int, num_units: int, dtype: Any) -> Array:
    """Draw a kernel with entries of variance 1 / rows."""
    return jax.random.normal(key, (num_rows, num_units), dtype) / math.sqrt(num_rows)


def _of_one_kernel(diagonal, slope, kernel, input_kernel):
    slopes = slope[None, None]
    return GatedJacobian(diagonal[None, None], slopes, (kernel,), slopes, (input_kernel,))
