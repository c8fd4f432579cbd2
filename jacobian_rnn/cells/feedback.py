"""Closed loops: what a network puts out is what it takes in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import (
    Recurrence,
    check_output,
    check_recurrence,
    zero_carry,
)
from jacobian_rnn.checks import check_arrays, check_finite, check_type, refuse


def read_affinely(readout: Any, output: Array) -> Array:
    """Return output · kernel + bias of a readout `(kernel, bias)`."""
    kernel, bias = readout
    return jnp.ravel(output) @ kernel + bias


def closed_loop(
    recurrence: Recurrence,
    readout: PyTree,
    *,
    read: Callable[[Any, Array], Array] = read_affinely,
) -> Recurrence:
    """Feed the readout of a network back as its input: h' = F(h, read(output(h))).

    The loop is a recurrence without input, whose Jacobian is ∂F/∂h + ∂F/∂x ∂read/∂h. So exponents,
    products and fixed points are those of what the network generates. An input of the loop, if
    there is one, follows the fed-back values in the input of the network.

    Args:
        recurrence: the network. Its input has the size of the readout, or more where the loop has
            an input of its own.
        readout: a pair `(kernel, bias)` of shapes `(features, inputs)` and `(inputs,)`, such as
            `(network.kernel, network.bias)` of a `training.Network`; or the parameters of `read`.
        read: `read(readout, output) -> x`, pure. Static.

    Returns:
        The loop. It has the carry and the output of the network, and its parameters are those of
        the network and the readout. It has a closed-form Jacobian where the network has one.

    Raises:
        TypeError: not a `Recurrence`, a readout that is no pair of arrays of real floating-point
            numbers without a `read`, or a `read` that is no function.
        ValueError: a kernel and a bias that do not fit each other or the output, or values that are
            not finite.

    References:
        H. Jaeger and H. Haas, "Harnessing nonlinearity: predicting chaotic systems and saving
        energy in wireless communication", Science 304 (2004). J. Pathak, Z. Lu, B. R. Hunt, M.
        Girvan and E. Ott, "Using machine learning to replicate chaotic attractors and calculate
        Lyapunov exponents from data", Chaos 27 (2017).

    Example:
        >>> import jax.numpy as jnp
        >>> from jacobian_rnn import trajectory
        >>> def decay(params, carry, x):
        ...     return params * carry + x
        >>> loop = closed_loop(Recurrence(decay, jnp.array(0.5)), (jnp.eye(1), jnp.ones(1)))
        >>> print(trajectory(loop, jnp.zeros(1), None, num_steps=2)[:, 0])
        [0.  1.  2.5]
    """
    check_recurrence(recurrence)
    if not callable(read):
        refuse("read", repr(read), "a function read(readout, output) -> x", error=TypeError)
    if read is read_affinely:
        check_type("readout", readout, tuple | list, "a pair (kernel, bias)", "or give `read`")
    check_arrays("readout", readout)
    readout = jax.tree.map(jnp.asarray, readout)
    check_finite("readout", readout)
    if read is read_affinely:
        _check_readout(recurrence, readout)
    step = LoopStep(recurrence.step, recurrence.output, read)
    closed = hasattr(recurrence.jacobian, "parts")
    jacobian = LoopJacobian(recurrence.jacobian, step) if closed else None
    return Recurrence(step, (recurrence.params, readout), jacobian, recurrence.output)


def _check_readout(recurrence, readout):
    """Refuse a kernel and a bias that do not fit each other or what the network shows."""
    shapes = [part.shape for part in readout]
    if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[1] != shapes[0][1:] or 0 in shapes[0]:
        refuse("readout", f"shapes {shapes}", "[(features, inputs), (inputs,)]")
    for part in readout:
        if not jnp.issubdtype(part.dtype, jnp.floating):
            refuse("readout", part.dtype, "real floating-point numbers", error=TypeError)
    try:
        carry = jax.eval_shape(zero_carry, recurrence)
    except ValueError:  # a plain function does not say how its carry looks
        return
    size = jax.eval_shape(recurrence.output, carry).size
    if shapes[0][0] != size:
        advice = f"the network shows {size} values"
        refuse("readout", f"a kernel of shape {shapes[0]}", f"({size}, inputs)", advice)


@dataclass(frozen=True)
class LoopStep:
    """A step whose input is its own readout. Equal networks have equal ones."""

    step: Callable
    output: Callable
    read: Callable

    @property
    def num_feature_axes(self):
        """Return how many axes a carry has without batch, or None if unknown."""
        return getattr(self.step, "num_feature_axes", None)

    @property
    def shows_last_array(self):
        """Return whether the last array of a carry is known to be its output."""
        return getattr(self.step, "shows_last_array", False)

    @property
    def carry_like(self):
        """Return the function that knows the carry from the parameters, or None."""
        if not (hasattr(self.step, "steps") or getattr(self.step, "carry_like", None)):
            return None
        return lambda params: zero_carry(Recurrence(self.step, params[0]))

    def input_of(self, params, carry, x):
        """Return what the network takes in."""
        check_output(self.step, self.output, carry)
        fed_back = self.read(params[1], self.output(carry))
        return fed_back if x is None else jnp.concatenate([fed_back, x])

    def __call__(self, params, carry, x):
        """Return the new carry."""
        return self.step(params[0], carry, self.input_of(params, carry, x))


@dataclass(frozen=True)
class LoopJacobian:
    """The closed-form Jacobian of a loop. Equal networks have equal ones."""

    jacobian: Any
    loop: LoopStep

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state, the share of the network and that of the feedback."""
        parts = self.jacobian.parts(params[0], carry, self.loop.input_of(params, carry, x))
        state, unravel = ravel_pytree(carry)
        feedback = jax.jacfwd(lambda state: self.loop.input_of(params, unravel(state), x))(state)
        return parts.dense() + parts.push_input(feedback.T).T
