"""The antisymmetric RNN: h' = h + ε tanh((W − Wᵀ − γ) h + V x + b)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import OWN_LAYERS, check_sizes, normal_kernel, recurrence_of
from jacobian_rnn.cells.closed_form import of_one_part
from jacobian_rnn.cells.layout import Layout
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_number


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

    Entries of W have variance 1 / N and those of V variance 1 / inputs. Biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        step_size: ε, above zero.
        diffusion: γ, zero or above.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = 1 + ε diag(tanh') (W − Wᵀ − γ). Its parameters include ε and γ.

    Raises:
        TypeError: sizes that are not integers, another dtype, or float64 without x64.
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
    check_sizes(num_inputs, num_units, dtype)
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


@dataclass(frozen=True)
class AntisymmetricStep:
    """The step of `antisymmetric_rnn`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        return carry + params["step_size"] * jnp.tanh(self._pre(params, carry, x))

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        slope = params["step_size"] * with_slope(jnp.tanh, self._pre(params, carry, x))[1]
        weights = OWN_LAYERS.read(params, 1)._replace(recurrent=(self._kernel(params),))
        return of_one_part(weights, jnp.ones_like(carry), [slope], [slope])

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


LAYOUT = Layout(gates="h", layers={AntisymmetricStep: OWN_LAYERS})
