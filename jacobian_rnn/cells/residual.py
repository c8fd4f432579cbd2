"""A recurrence as it is used today: inside a residual block with a norm in front and a gate behind.

y = x + W (r ∘ silu(G u)) with u = g x / rms(x), where the recurrence sees u and r is what it shows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jacobian_rnn.cells._own_cells import normal_kernel
from jacobian_rnn.cells.recurrence import Recurrence, check_output, check_recurrence, zero_carry
from jacobian_rnn.checks import check_at_least, check_number, refuse

EPSILON = 1e-6  # keeps the norm of an input of zeros finite


def residual_block(
    recurrence: Recurrence, num_inputs: int, *, key: Key[Array, ""], gain: float = 1.0
) -> Recurrence:
    """Put a recurrence into a residual block: y = x + W (r ∘ silu(G u)), u = g x / rms(x).

    The recurrence takes a step with the input u, and r is what it shows. A matrix memory shows what
    its query finds, `step.read(params, carry, u)`, and all others their output. `stack` puts blocks
    on top of each other, since y is as wide as x.

    Entries of G have variance 1 / inputs and those of W gain² / size of r. g is one.

    Args:
        recurrence: a cell of this package, or one whose carry `zero_carry` knows, with inputs of
            size `num_inputs`.
        num_inputs: size of x and of y.
        key: a `jax.random.key`.
        gain: factor on W, zero or above. Networks of L blocks often take 1 / √L.

    Returns:
        The block. Its carry is (carry of the recurrence, y), and it shows y. No step reads the old
        y, so J has a zero column for each of its entries. It declares `unit_jacobians` if the
        recurrence does.

    Raises:
        TypeError: not a `Recurrence`, or a size that is not an integer.
        ValueError: a size below one, a gain below zero, an unknown carry, an output that nobody
            named, or a recurrence with inputs of another size.

    References:
        S. De et al., "Griffin: mixing gated linear recurrences with local attention for efficient
        language models", 2024, section 2. A. Gu and T. Dao, "Mamba: linear-time sequence modeling
        with selective state spaces", 2023, section 3.4.

    Example:
        >>> import jax
        >>> from jacobian_rnn import lru, stack
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> blocks = [residual_block(lru(3, 5, key=a), 3, key=b) for a, b in keys.reshape(2, 2)]
        >>> deep = stack(*blocks)
        >>> deep.output(deep.step(deep.params, zero_carry(deep), jnp.ones(3))).shape
        (3,)
    """
    check_recurrence(recurrence)
    check_at_least(1, num_inputs=num_inputs)
    check_number("gain", gain, least=0)
    carry = zero_carry(recurrence)
    step = ResidualStep(recurrence.step, recurrence.output)
    if not hasattr(recurrence.step, "read"):
        check_output(recurrence.step, recurrence.output, carry)
    dtype = jax.tree.leaves(carry)[0].dtype
    norm = jnp.ones(num_inputs, dtype)
    try:
        shown = jax.eval_shape(step.shown, recurrence.params, carry, norm)[1]
    except (TypeError, ValueError) as error:
        received = f"one that fails for an input of size {num_inputs} ({error})"
        refuse("recurrence", received, "one with inputs as wide as the block")
    gate, out = jax.random.split(key)
    params = {
        "recurrence": recurrence.params,
        "norm": norm,
        "gate": normal_kernel(gate, num_inputs, shown.size, dtype),
        "output": jnp.asarray(gain, dtype) * normal_kernel(out, shown.size, num_inputs, dtype),
    }
    inner: Any = recurrence.unit_jacobians
    units: Any = None if inner is None else ResidualUnits(step, inner)
    return Recurrence(step, params, unit_jacobians=units)


@dataclass(frozen=True)
class ResidualStep:
    """The step of `residual_block`. Equal recurrences have equal steps.

    Attributes:
        inner: the step of the recurrence.
        output: what the recurrence shows, where its step cannot be read.
    """

    inner: Callable
    output: Callable
    shows_last_array: ClassVar[bool] = True  # y

    def __call__(self, params, carry, x):
        """Return the new carry."""
        u = self.normalized(params, x)
        new, shown = self.shown(params["recurrence"], carry[0], u)
        return new, x + (shown * jax.nn.silu(u @ params["gate"])) @ params["output"]

    def normalized(self, params: Any, x: Float[Array, " inputs"]) -> Float[Array, " inputs"]:
        """Return what the recurrence sees of the input."""
        return params["norm"] * x * jax.lax.rsqrt(jnp.mean(x**2) + EPSILON)

    def shown(self, params, carry, u):
        """Return the new carry of the recurrence, and what is read from it as a vector."""
        new = self.inner(params, carry, u)
        read = getattr(self.inner, "read", None)
        return new, jnp.ravel(self.output(new) if read is None else read(params, new, u))

    def carry_like(self, params):
        """Return a carry of the right shape."""
        return zero_carry(Recurrence(self.inner, params["recurrence"])), params["norm"]


@dataclass(frozen=True)
class ResidualUnits:
    """The blocks of the Jacobian of a residual block, whose y no unit sees. Equal ones are equal.

    Attributes:
        step: that of the block.
        units: `unit_jacobians` of the recurrence.
    """

    step: ResidualStep
    units: Callable

    def __call__(self, params: Any, carry: Any, x: Float[Array, " inputs"]) -> tuple[Any, ...]:
        """Return the Jacobians of every unit for itself, those of the recurrence first."""
        inner = self.units(params["recurrence"], carry[0], self.step.normalized(params, x))
        layers = inner if isinstance(inner, tuple) else (inner,)
        return *layers, jnp.zeros((1, 1, x.size), x.dtype)
