"""The largest Lyapunov exponent, from one tangent vector."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_precision, check_warmup
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import Run, run
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.frames import generic_columns
from jacobian_rnn.linalg.graded_svd import scaled_norm


def largest_exponent(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    num_warmup: int = 0,
) -> Float[Array, ""]:
    """Measure the largest Lyapunov exponent along one trajectory, from one tangent vector.

    A fixed generic vector is pushed through every step and normalised, without a Jacobian if the
    step has forward mode. The mean of its log growth after the warm-up estimates λ₁ (Benettin et
    al. 1980), with a bias of order 1/T. `lyapunov_spectrum` gives more exponents, and error bars.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_steps: number of steps T where `xs` is None, including the warm-up.
        num_warmup: number of first steps that settle state and vector and are not counted. A
            vector that one of them maps to zero starts anew. Static.

    Returns:
        λ₁ in nats per step, −inf if a counted step maps the vector to zero. It is NaN if the state
        or its derivative is not finite at any step, including those of the warm-up.

    Raises:
        ValueError: nothing left to count after the warm-up, shapes that do not fit, or values that
            are not finite.
        TypeError: float dtypes that differ.

    References:
        G. Benettin, L. Galgani, A. Giorgilli and J.-M. Strelcyn, "Lyapunov characteristic
        exponents for smooth dynamical systems and for Hamiltonian systems", Meccanica 15 (1980).

    Example:
        >>> import jax.numpy as jnp
        >>> def logistic(r, carry, x):
        ...     return r * carry * (1 - carry)
        >>> system = Recurrence(logistic, jnp.array(3.2))
        >>> rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=2000, num_warmup=1000)
        >>> print(round(float(rate), 4))
        -0.9163
    """
    system = bind(recurrence, carry, xs, num_steps)
    check_precision(system.state.dtype)
    check_warmup(num_warmup, system.num_steps)
    return _largest_exponent(system, num_warmup)


@partial(jax.jit, static_argnames="num_warmup")
def _largest_exponent(system, num_warmup):
    refuse_coarse_step(system)
    return exponent_of(run(system, *tangent_visit(system, num_warmup), most_stored=0), num_warmup)


def tangent_visit(system: System, num_warmup: int) -> tuple[Callable, Float[Array, " n"]]:
    """Return a visit that pushes one tangent vector and records its growth, and its start."""
    generic = jnp.asarray(generic_columns(system.num_states, 1)[:, 0], system.state.dtype)

    def visit(tangent, now):
        new, tangents = system.push(now.state, tangent[None], now.x)
        tangent, norm = normalize(tangents[0])
        tangent = jnp.where((norm == 0) & (now.number < num_warmup), generic, tangent)
        return new, tangent, norm

    return visit, generic


def exponent_of(of_tangent: Run, num_warmup: int) -> Float[Array, ""]:
    """Return the largest exponent that a run with `tangent_visit` saw."""
    norms = of_tangent.records
    finite = jnp.all(jnp.isfinite(norms)) & (of_tangent.num_finite == len(norms))
    return jnp.where(finite, jnp.mean(log_norms(norms[num_warmup:])), jnp.nan)


def normalize(vector: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Scale a vector to norm one, or leave it zero, and return it with the norm that it had."""
    norm = scaled_norm(vector)
    return vector / jnp.where(norm > 0, norm, 1), norm


def log_norms(norms: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return logs of norms, −inf for zero, NaN for norms that are not finite."""
    # The derivative of log at zero would be NaN even where nothing depends on it.
    logs = jnp.where(norms > 0, jnp.log(jnp.where(norms > 0, norms, 1)), -jnp.inf)
    return jnp.where(jnp.isfinite(norms), logs, jnp.nan)
