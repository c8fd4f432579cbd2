"""In how many digits a step really computes: a cell may use fewer bits than its state has."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from jacobian_rnn.cells import Recurrence

# Of float32 products where a device takes fewer bits by itself: TF32 has 10 bits behind the point.
EPS_OF_PRODUCTS = {"gpu": 2.0**-10, "tpu": 2.0**-7}


def rounding_of_step(recurrence: Recurrence, carry: PyTree, xs: PyTree) -> float:
    """Find the relative rounding of the coarsest arithmetic in one step.

    The step is traced, and the dtype of each of its intermediate arrays is looked at. The matrix
    products of float32 count with the bits that the default device gives them.

    Args:
        recurrence: the system.
        carry: a carry, whose values play no part.
        xs: a sequence of inputs, `(time, ...)`, or None.

    Returns:
        eps of the state's dtype, or of a coarser one that the step uses.

    Example:
        >>> import jax.numpy as jnp
        >>> def coarse(params, carry, x):
        ...     return jnp.tanh((params * carry).astype(jnp.bfloat16)).astype(carry.dtype)
        >>> rounding_of_step(Recurrence(coarse, jnp.ones(2)), jnp.ones(2), None)
        0.0078125
    """
    leaves = jax.tree.leaves(carry)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), carry)
    one_input = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    jaxpr = jax.make_jaxpr(recurrence.step)(recurrence.params, like, one_input)
    return max(float(jnp.finfo(leaves[0].dtype).eps), _coarsest(jaxpr.jaxpr))


def _coarsest(jaxpr):
    coarsest = 0.0
    for equation in jaxpr.eqns:
        coarsest = max(coarsest, _eps_of(equation))
        for inner in jax.tree.leaves(tuple(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                coarsest = max(coarsest, _coarsest(getattr(inner, "jaxpr", inner)))
    return coarsest


def _is_jaxpr(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _eps_of(equation):
    """Return eps of what one operation returns; 0 where it returns no floats."""
    dtypes = [out.aval.dtype for out in equation.outvars if hasattr(out.aval, "dtype")]
    eps = [float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.inexact)]
    if equation.primitive is lax.reduce_precision_p:
        eps.append(2.0 ** -equation.params["mantissa_bits"])
    if jnp.float32 in dtypes and "precision" in equation.params:
        precision = equation.params["precision"]
        operands = precision if isinstance(precision, tuple) else (precision,)
        if any(one in (None, lax.Precision.DEFAULT) for one in operands):
            eps.append(EPS_OF_PRODUCTS.get(jax.default_backend(), 0.0))
    return max(eps, default=0.0)
