"""Solve for all states of a recurrence at once, by five linearisations of its steps.

h_t = f(h_{t−1}, x_t), t = 1 … T, is one system of T equations with defects b_t = f(h_{t−1}, x_t) −
h_t. An iteration replaces f by a linear function about the guess, with a matrix A_t in the place of
the Jacobian J_t, and adds the solution of d_t = A_t d_{t−1} + b_t to the guess:

    newton     A_t = J_t         Lim et al. 2024 (DEER)
    diagonal   A_t = diag(J_t)   Gonzalez et al. 2024 (quasi-DEER)
    damped     A_t = J_t, where d makes Σ |d_t − J_t d_{t−1} − b_t|² + μ |d_t|² the smallest:
               Levenberg's and Marquardt's method, here by Kalman smoothing. Gonzalez et al. 2024
               (ELK)
    picard     A_t = I
    jacobi     A_t = 0

References:
    Y. Lim, Q. Zhu, J. Selfridge and M. Kasim, "Parallelizing non-linear sequential models over the
    sequence length", ICLR 2024.
    X. Gonzalez, A. Warrington, J. Smith and S. Linderman, "Towards scalable and stable
    parallelization of nonlinear RNNs", NeurIPS 2024.
    X. Gonzalez et al., "A unifying framework for parallelizing sequential models with linear
    dynamical systems", 2025.
"""

from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

import jacobian_rnn as jrnn

Scheme = Literal["newton", "diagonal", "damped", "picard", "jacobi"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
# Marquardt's rule: damping falls by this factor after a step that helps, and grows after another.
FACTOR = 10.0


class Solution(NamedTuple):
    """Where the iteration stopped.

    Attributes:
        states: h_1 … h_T, `(T, D)`.
        num_iterations: linear systems solved.
        residual: largest |h_t − f(h_{t−1}, x_t)|; NaN after an overflow.
        damping: μ of the next step, which the damped scheme alone has.
    """

    states: Float[Array, "T D"]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]
    damping: Float[Array, ""]


@partial(jax.jit, static_argnames=("scheme", "tolerance"))
def solve(
    network: jrnn.Recurrence,
    carry: Float[Array, " D"],
    xs: Float[Array, "T ..."],
    guess: Float[Array, "T D"],
    *,
    tolerance: float,
    scheme: Scheme = "newton",
) -> Solution:
    """Solve for all states at once, in at most T iterations.

    Each iteration of a scheme without damping makes at least one more of the first states exact, so
    T iterations suffice in exact arithmetic. The damped scheme has no such bound.
    """

    def before(states):
        return jnp.concatenate([carry[None], states[:-1]])

    def defects(states):
        return jax.vmap(partial(network.step, network.params))(before(states), xs) - states

    def jacobians(states):
        return jax.vmap(lambda state, x: jrnn.step_jacobians(network, state, x[None])[0])(
            before(states), xs
        )

    def iterate(solution):
        # For the corrections, not the states: rounding then shrinks with what is still wrong.
        states, wrong = solution.states, defects(solution.states)
        if scheme == "newton":
            new = states + linear_recurrence(jacobians(states), wrong)
        elif scheme == "damped":
            new = states + kalman_smoother(jacobians(states), wrong, solution.damping)
        elif scheme == "diagonal":
            factors = jnp.diagonal(jacobians(states), axis1=1, axis2=2)
            new = states + diagonal_recurrence(factors, wrong)
        elif scheme == "picard":
            new = states + jnp.cumsum(wrong, axis=0)
        else:
            new = states + wrong
        damping = solution.damping
        if scheme == "damped":
            helps = jnp.sum(defects(new) ** 2) < jnp.sum(wrong**2)
            new = jnp.where(helps, new, states)
            damping = jnp.where(helps, damping / FACTOR, damping * FACTOR)
        residual = jnp.max(jnp.abs(defects(new)))
        return Solution(new, solution.num_iterations + 1, residual, damping)

    def unsolved(solution):
        few = solution.num_iterations < xs.shape[0]
        return few & ~(solution.residual < tolerance)  # NaN counts as unsolved

    residual = jnp.max(jnp.abs(defects(guess)))
    start = Solution(guess, jnp.zeros((), int), residual, jnp.ones((), guess.dtype))
    return lax.while_loop(unsolved, iterate, start)


def linear_recurrence(
    matrices: Float[Array, "T D D"], offsets: Float[Array, "T D"]
) -> Float[Array, "T D"]:
    """Solve d_t = A_t d_{t−1} + b_t, d_0 = 0, for all t in logarithmically many parallel steps."""

    def joined(earlier, later):
        matrix = later[0] @ earlier[0]
        return matrix, jnp.einsum("...ij,...j->...i", later[0], earlier[1]) + later[1]

    # Nothing comes before the first step: products that reach back to it are zero, not huge.
    return lax.associative_scan(joined, (matrices.at[0].set(0), offsets))[1]


def diagonal_recurrence(
    factors: Float[Array, "T D"], offsets: Float[Array, "T D"]
) -> Float[Array, "T D"]:
    """Solve the same for diagonal matrices, given by their diagonals."""

    def joined(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    return lax.associative_scan(joined, (factors.at[0].set(0), offsets))[1]


def kalman_smoother(
    matrices: Float[Array, "T D D"], offsets: Float[Array, "T D"], damping: Float[Array, ""]
) -> Float[Array, "T D"]:
    """Return d which makes Σ |d_t − A_t d_{t−1} − b_t|² + μ |d_t|² the smallest, with d_0 = 0.

    It is the mean of states d_t = A_t d_{t−1} + b_t + noise of unit variance, of which zero was
    observed with noise of variance 1/μ. A filter goes forwards, and a smoother backwards. As scans
    in parallel they would take as many iterations.
    """
    eye = jnp.eye(matrices.shape[1], dtype=matrices.dtype)

    def forwards(filtered, step):
        (mean, covariance), (matrix, offset) = filtered, step
        ahead = matrix @ mean + offset
        spread = matrix @ covariance @ matrix.T + eye
        # (I + μ S)⁻¹ S and (I + μ S)⁻¹ m, without an inverse of what may be singular.
        seen = jnp.linalg.solve(
            eye + damping * spread, jnp.concatenate([spread, ahead[:, None]], axis=1)
        )
        mean, covariance = seen[:, -1], (seen[:, :-1] + seen[:, :-1].T) / 2
        return (mean, covariance), (mean, covariance, ahead, spread)

    def backwards(later, step):
        mean, covariance, matrix, ahead, spread = step
        back = jnp.linalg.solve(spread, later - ahead)
        mean = mean + covariance @ (matrix.T @ back)
        return mean, mean

    start = jnp.zeros_like(offsets[0]), jnp.zeros_like(eye)
    _, (means, covariances, ahead, spreads) = lax.scan(forwards, start, (matrices, offsets))
    steps = means[:-1], covariances[:-1], matrices[1:], ahead[1:], spreads[1:]
    _, smoothed = lax.scan(backwards, means[-1], steps, reverse=True)
    return jnp.concatenate([smoothed, means[-1:]])
