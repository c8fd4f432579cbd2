"""Products of step Jacobians: along a trajectory, or of given matrices."""

import warnings

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_count, check_matrices, check_precision, refuse
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.linalg.frames import check_frame
from jacobian_rnn.products._in_time_blocks import product_in_blocks
from jacobian_rnn.products._passes import PASSES, extend_passes, start_passes
from jacobian_rnn.products.along import product_along, product_back_along
from jacobian_rnn.products.blocks import BlockProduct, block_product
from jacobian_rnn.products.bordered import BorderedProduct, bordered_product
from jacobian_rnn.products.product import JacobianProduct, finish, transpose

# This is for one pass, as a multiple of n³, on two CPU cores. Gaussian matrices of 128 to 512 rows
# took 1e-10 to 4e-10. An LSTM of 512 states, whose Jacobians need an elimination first, took 5e-10.
SECONDS_PER_STEP = 4e-10
# In units of eps, nats: 2e-10 in float64. Products that keep their digits stay below.
LOST_DIGITS = 1e6
KNOWN = 1e-2  # nats; errors that are estimated to be less are
LIGHTER = "estimate_error=False, or lyapunov_spectrum with a few exponents"
AGAIN = "backwards=False, as this is the second product: the first one lost digits"


def jacobian_product(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    estimate_error: bool = True,
    frame: Float[Array, "n n"] | None = None,
    blocks: int = 1,
    backwards: bool | None = None,
) -> JacobianProduct | BlockProduct | BorderedProduct:
    """Multiply the Jacobians of all steps along a trajectory, one step after the other.

    One factorisation per step keeps the factored form, as `factored_form.extend` says. Where
    coupling goes one way (layers on top of each other, triangular Jacobians) the forward product
    may lose digits that the backward one keeps, and the other way round.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_steps: number of steps T where `xs` is None.
        estimate_error: make two more passes, for `log_error`, which triple the cost.
        frame: starting frame Q₀, orthogonal, `(n, n)`. By default it is the identity, which keeps
            exact zeros and weak couplings. Any other one mixes all directions at the start.
        blocks: number of stretches of time that are multiplied at once and composed as a tree. They
            are shared out over the devices, as evenly as their number allows. Static.
        backwards: multiply the transposed Jacobians, that of the last step first, which stores
            T n numbers. By default the product is forward. If digits were lost (`log_error` above
            1e6 eps), the backward one is computed too, and is returned if it has its digits
            (`log_error` below 1e-2 and that of the other). Under a transformation of JAX, and with
            blocks, there is no second product. Static.

    Returns:
        The product. T = 0 gives the identity. Where the recurrence declares its `unit_jacobians`,
        and neither a frame, blocks nor `backwards` are given, it is a `BlockProduct` or, with a
        `BorderedIdentity`, a `BorderedProduct`, and a step costs O(n).

    Raises:
        ValueError: structures, shapes, time axes or a frame that do not fit, values not finite, or
            blocks that are multiplied backwards.
        TypeError: float dtypes that differ, or a step that computes in fewer bits than its state.

    Cost: each step takes one Jacobian, and two matrix products and a factorisation of size n for
    each pass. Memory is O(n²) for any T, and blocks add T n for the states. It works under `jit`,
    `vmap` and `grad`, where reverse mode stores O(T n²). Derivatives treat a lost direction as lost
    for good.

    References:
        J. Oliveira and D. E. Stewart, "Exponential splittings of products of matrices and
        accurately computing singular values of long products", Linear Algebra Appl. 309 (2000).

    Example:
        >>> import jax.numpy as jnp
        >>> def rotate_and_shrink(params, carry, x):
        ...     return params @ carry
        >>> matrix = 0.5 * jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> system = Recurrence(rotate_and_shrink, matrix)
        >>> product = jacobian_product(system, jnp.ones(2), None, num_steps=10_000)
        >>> bool(jnp.allclose(product.log_singular_values(), 10_000 * jnp.log(0.5)))
        True
    """
    system = bind(recurrence, carry, xs, num_steps)
    check_count("blocks", blocks, least=1, most=max(system.num_steps, 1))
    if blocks > 1 and backwards:
        refuse(
            "backwards", f"True with {blocks} blocks", "blocks=1", "they are multiplied forwards"
        )
    if system.has_structure and frame is None and blocks == 1 and backwards is None:
        check_precision(system.state.dtype)
        return structured_product(system, estimate_error=estimate_error)
    frames = _starting_frames(system.num_states, system.state.dtype, estimate_error, frame)
    warn_of_cost(
        "jacobian_product", system.num_states, system.num_steps, 1, LIGHTER, passes=len(frames)
    )
    if blocks > 1:
        return product_in_blocks(system, frames, int(blocks))
    return _in_better_order(backwards, _jacobian_product, _backward_product, system, frames)


def product_of(
    jacobians: Float[Array, "steps n n"],
    *,
    estimate_error: bool = True,
    frame: Float[Array, "n n"] | None = None,
    backwards: bool | None = None,
) -> JacobianProduct:
    """Multiply given matrices: `jacobians[T-1] @ ... @ jacobians[0]`.

    Args:
        jacobians: shape `(T, n, n)`, rows as outputs, earliest first.
        estimate_error: make two more passes, for `log_error`, which triple the cost.
        frame: starting frame Q₀, orthogonal, `(n, n)`. By default it is the identity, which keeps
            exact zeros and weak couplings. Any other one mixes all directions at the start.
        backwards: multiply the transposed matrices, the last one first. By default that is done
            where the forward product lost digits, as `jacobian_product` does. Static.

    Returns:
        The product, as `jacobian_product` returns it.

    Raises:
        ValueError: not of shape `(T, n, n)`, values not finite, or a frame that does not fit.
        TypeError: not real floating-point numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> product = product_of(jnp.tile(jnp.diag(jnp.array([2.0, 0.5])), (1000, 1, 1)))
        >>> bool(jnp.allclose(product.log_singular_values(), 693.147 * jnp.array([1.0, -1.0])))
        True
    """
    jacobians = check_matrices("jacobians", jacobians)
    frames = _starting_frames(jacobians.shape[1], jacobians.dtype, estimate_error, frame)
    num_steps, n, _ = jacobians.shape
    warn_of_cost("product_of", n, num_steps, 1, LIGHTER, passes=len(frames))
    return _in_better_order(backwards, _product_of, _backward_product_of, jacobians, frames)


def _in_better_order(backwards, multiply, multiply_back, factors, frames):
    """Multiply forwards or backwards, or both ways where digits were lost forwards."""
    if backwards is not None:
        return (multiply_back if backwards else multiply)(factors, frames)
    product = multiply(factors, frames)
    if isinstance(product.left, Tracer) or product.first_nonfinite_step >= 0:
        return product
    num_passes, n, _ = product.left.shape
    if not product.log_error > LOST_DIGITS * jnp.finfo(product.left.dtype).eps:
        return product  # also without an estimate, which is NaN
    warn_of_cost("the product", n, int(product.num_steps), 1, AGAIN, passes=num_passes)
    other = multiply_back(factors, frames)
    # Of two products that lost digits, the forward one knows which directions are exactly zero.
    better = other.log_error < jnp.minimum(product.log_error, KNOWN)
    return other if better else product


def structured_product(
    system: System,
    *,
    estimate_error: bool,
    next_states: Float[Array, "steps n"] | None = None,
) -> BlockProduct | BorderedProduct:
    """Multiply what a system declares, if `has_structure`."""
    multiply = block_product if system.has_units else bordered_product
    return multiply(system, estimate_error=estimate_error, next_states=next_states)


def warn_of_cost(
    name: str, n: int, num_steps: int, num_products: int, lighter: str, *, passes: int = PASSES
) -> None:
    """Warn before exact products that will take more than a minute, and name a lighter way.

    The estimate is for two CPU cores. Other devices were not measured, so they give no warning.
    """
    if jax.default_backend() != "cpu":
        return
    seconds = num_products * passes * num_steps * n**3 * SECONDS_PER_STEP
    if seconds > 60:
        msg = (
            f"{name}: {num_products} exact products of {num_steps} Jacobians of {n} states take "
            f"about {seconds / 60:.0f} minutes on two CPU cores; lighter: {lighter}"
        )
        warnings.warn(msg, stacklevel=3)


def identity_frames(system: System) -> Float[Array, "passes n n"]:
    """Return the frames in which the passes of a product start."""
    return _starting_frames(system.num_states, system.state.dtype, True, None)


@jax.jit
def _jacobian_product(system, frames):
    return product_along(system, frames)


@jax.jit
def _backward_product(system, frames):
    return product_back_along(system, frames)


@jax.jit
def _product_of(jacobians, frames):
    def one_step(passes, jacobian):
        return extend_passes(passes, jacobian[None]), None

    return finish(lax.scan(one_step, start_passes(frames), jacobians)[0])


@jax.jit
def _backward_product_of(jacobians, frames):
    def one_step(passes, jacobian):
        return extend_passes(passes, jacobian.T[None], backwards=True), None

    passes, _ = lax.scan(one_step, start_passes(frames), jacobians, reverse=True)
    return transpose(finish(passes))


def _starting_frames(n, dtype, estimate_error, frame):
    check_precision(dtype)
    frame = jnp.eye(n, dtype=dtype) if frame is None else check_frame(frame, (n, n), dtype)
    return jnp.broadcast_to(frame, (PASSES if estimate_error else 1, n, n))
