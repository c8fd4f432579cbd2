"""The IndRNN: rectified units, each of which sees itself alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells._own_cells import (
    StepUnitJacobians,
    check_sizes,
    normal_kernel,
    of_diagonal,
    recurrence_of,
)
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.cells.slopes import with_slope
from jacobian_rnn.checks import check_number


def ind_rnn(
    num_inputs: int,
    num_units: int,
    *,
    key: Key[Array, ""],
    max_lag: float = 100,
    dtype: Any = jnp.float32,
) -> Recurrence:
    """Draw an IndRNN: h' = max(0, W x + u h + b), with one recurrent weight u for each unit.

    u is uniform between 0 and 2^{1/T}. Then no gradient grows by more than 2 over T = `max_lag`
    steps. Entries of W have variance 1 / inputs. Biases are zero.

    Args:
        num_inputs: size of x.
        num_units: size N of h.
        key: a `jax.random.key`.
        max_lag: T, the longest dependency in steps, at least 1.
        dtype: dtype of the parameters, float32 or float64.

    Returns:
        The recurrence, with J = diag(u where h' > 0).

    Raises:
        TypeError: sizes that are not integers, a lag that is no number, another dtype, or float64
            without x64.
        ValueError: sizes below one, or a lag below one.

    References:
        S. Li et al., "Independently recurrent neural network (IndRNN): building a longer and deeper
        RNN", CVPR 2018, sections 3 and 4.

    Example:
        >>> import jax
        >>> network = ind_rnn(3, 4, key=jax.random.key(0))
        >>> network.step(network.params, jnp.zeros(4), jnp.ones(3)).shape
        (4,)
    """
    check_sizes(num_inputs, num_units, dtype)
    check_number("max_lag", max_lag, least=1)
    read, recur = jax.random.split(key)
    params = {
        "input": {"kernel": normal_kernel(read, num_inputs, num_units, dtype)},
        "recurrent": {
            "weights": jax.random.uniform(recur, (num_units,), dtype) * 2 ** (1 / max_lag),
            "bias": jnp.zeros(num_units, dtype),
        },
    }
    return recurrence_of(IndRNNStep(), params, unit_jacobians=StepUnitJacobians(IndRNNStep()))


@dataclass(frozen=True)
class IndRNNStep:
    """The step of `ind_rnn`."""

    num_feature_axes: ClassVar[int] = 1

    def __call__(self, params, carry, x):
        """Return the new carry."""
        return jax.nn.relu(self._pre(params, carry, x))

    def parts(self, params, carry, x):
        """Return the parts of the Jacobian of one step."""
        _, slope = with_slope(jax.nn.relu, self._pre(params, carry, x))
        weights = params["recurrent"]["weights"]
        return of_diagonal(slope * weights, [slope], (params["input"]["kernel"],))

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return params["recurrent"]["bias"]

    def _pre(self, params, carry, x):
        recurrent = params["recurrent"]
        read = x @ params["input"]["kernel"]
        return read + recurrent["weights"] * carry + recurrent["bias"]
