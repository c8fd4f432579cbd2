"""What a recurrence does near a state to which it returns, and how it reads its input there."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least, check_precision, check_type, refuse
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.graded_svd import row_norms
from jacobian_rnn.lyapunov import LyapunovSpectrum
from jacobian_rnn.phase_space._return_map import (
    return_input_jacobian,
    return_jacobian,
    size_of_factors,
)
from jacobian_rnn.phase_space.starts import bind_states


class Linearization(NamedTuple):
    """Eigenvalues and eigenvectors of the Jacobian at each of m states, largest |λ| first.

    Attributes:
        eigenvalues: λ of ∂F(h)/∂h, complex `(m, n)`. A pair of conjugates has the one above the
            real axis first.
        eigenvalue_errors: bounds of what rounding of the Jacobian does to them, `(m, n)`.
        right_vectors: J v = λ v, complex `(m, n, n)`. Row [i] is v of λ_i, of norm one.
        left_vectors: w J = λ w, complex `(m, n, n)`. Row [i] is w of λ_i, scaled so that w · v = 1,
            without a conjugate. Its norm is the condition number of λ_i.
        input_jacobian: ∂F(h)/∂x of the constant input, ravelled, `(m, n, inputs)`. The product
            w · ∂F/∂x says how much of each input the direction v takes up.
        jacobian: ∂F(h)/∂h, `(m, n, n)`.
        period: number of steps p of the map F, int32 scalar.
    """

    eigenvalues: Complex[Array, "m n"]
    eigenvalue_errors: Float[Array, "m n"]
    right_vectors: Complex[Array, "m n n"]
    left_vectors: Complex[Array, "m n n"]
    input_jacobian: Float[Array, "m n inputs"]
    jacobian: Float[Array, "m n n"]
    period: Int[Array, ""]

    @property
    def exponents(self) -> Float[Array, "m n"]:
        """The rates ln|λ|/p, nats per step, `(m, n)`, −inf where λ is zero.

        They are the Lyapunov exponents of a trajectory that stays at the point.
        """
        sizes = _sizes(self.eigenvalues)
        logs = jnp.log(jnp.where(sizes > 0, sizes, 1)) / self.period.astype(sizes.dtype)
        return jnp.where(sizes > 0, logs, -jnp.inf)

    @property
    def time_constants(self) -> Float[Array, "m n"]:
        """The times −p/ln|λ|, steps, `(m, n)`: negative for growth, infinite for |λ| = 1."""
        rates = self.exponents
        return jnp.where(rates == 0, jnp.inf, -1 / jnp.where(rates == 0, 1, rates))

    @property
    def frequencies(self) -> Float[Array, "m n"]:
        """The angles of λ over 2π p, cycles per step, `(m, n)`, from −½ to ½ for p = 1."""
        turns = jnp.angle(self.eigenvalues) / (2 * np.pi)
        return turns / self.period.astype(turns.dtype)

    @property
    def margin(self) -> Float[Array, " m"]:
        """How far the largest |λ| is below one, `(m,)`. It is negative at an unstable point."""
        return 1 - _sizes(self.eigenvalues[..., 0])

    @property
    def num_unstable(self) -> Int[Array, " m"]:
        """The number of λ outside of the unit circle by more than their error, int32 `(m,)`."""
        beyond = _sizes(self.eigenvalues) - 1 > self.eigenvalue_errors
        return jnp.sum(beyond, axis=-1, dtype=jnp.int32)

    @property
    def num_marginal(self) -> Int[Array, " m"]:
        """The number of λ that cannot be told from the unit circle, int32 `(m,)`."""
        near = jnp.abs(_sizes(self.eigenvalues) - 1) <= self.eigenvalue_errors
        return jnp.sum(near, axis=-1, dtype=jnp.int32)

    @property
    def is_stable(self) -> Bool[Array, " m"]:
        """Whether all λ are inside of the unit circle by more than their error, `(m,)`."""
        return jnp.all(1 - _sizes(self.eigenvalues) > self.eigenvalue_errors, axis=-1)

    def input_directions(self) -> Complex[Array, "m n inputs"]:
        """Return w · ∂F/∂x, how much of each input goes along each v, `(m, n, inputs)`."""
        real = self.left_vectors.real, self.left_vectors.imag
        parts = [jnp.einsum("mij,mjk->mik", one, self.input_jacobian) for one in real]
        return lax.complex(*parts)

    def excess_over(
        self, spectrum: LyapunovSpectrum
    ) -> tuple[Float[Array, "m k"], Float[Array, "m k"]]:
        """Compare the exponents at each point with those along a trajectory.

        Args:
            spectrum: the k largest exponents along one trajectory of the same recurrence.

        Returns:
            Exponents at the points less those along the trajectory, nats per step, `(m, k)`, and
            the standard errors of the difference, `(m, k)`, which come from the trajectory over
            time. A point near which the trajectory stays has differences of about zero.

        Raises:
            TypeError: no spectrum.
            ValueError: a batch of spectra, or one of more exponents than there are eigenvalues.
        """
        check_type("spectrum", spectrum, LyapunovSpectrum, "a LyapunovSpectrum")
        n = self.eigenvalues.shape[-1]
        if spectrum.exponents.ndim != 1 or spectrum.exponents.shape[0] > n:
            refuse("spectrum", f"exponents {spectrum.exponents.shape}", f"one, of at most {n}")
        k = spectrum.exponents.shape[0]
        differences = self.exponents[..., :k] - spectrum.exponents[None]
        return differences, jnp.broadcast_to(spectrum.standard_errors, differences.shape)

    def __str__(self) -> str:
        """Describe each point in a line: stability, margin, and the slowest directions."""
        if self.eigenvalues.ndim != 2:
            return "a batch of linearizations: index one with jax.tree.map(lambda a: a[i], ...)"
        lines = [f"{len(self.eigenvalues)} points; |λ| and times in steps, slowest first"]
        for i in range(len(self.eigenvalues)):
            kind = "stable" if self.is_stable[i] else f"{int(self.num_unstable[i])} unstable"
            if jnp.isnan(self.margin[i]):
                kind = "not known"
            marginal = int(self.num_marginal[i])
            kind += f", {marginal} undecided" if marginal else ""
            slowest = ", ".join(
                f"{float(size):.4f} ({float(time):.3g})"
                for size, time in zip(
                    _sizes(self.eigenvalues[i, :3]), self.time_constants[i, :3], strict=True
                )
            )
            lines.append(f"  {kind:<14} margin {float(self.margin[i]):+.1e}   {slowest}")
        return "\n".join(lines)


def linearize(
    recurrence: Recurrence, states: PyTree, x: PyTree, *, period: int = 1
) -> Linearization:
    """Linearise a recurrence at states to which it returns, under a constant input.

    Near a fixed point h* of F, F(h) − h* = J (h − h*) up to squares. Each eigenvalue λ of J is one
    way to leave or to come back: in λᵗ it decays where |λ| < 1, grows where |λ| > 1, and turns by
    the angle of λ.

    Args:
        recurrence: the system.
        states: `(m, n)`, such as `fixed_points(...).distinct("fixed").states`. Carries with a first
            axis do, too. That they are fixed is not checked: at a slow point the expansion has a
            constant.
        x: the constant input, that of one step, or None for a system without input.
        period: number of steps p of the map F, whose Jacobian is the product along the cycle.
            Static.

    Returns:
        Eigenvalues with error bounds, both sets of eigenvectors, and the derivative for the input.

    Raises:
        ValueError: a period below one, shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, an input that is not of floating-point numbers, or a
            step that computes in fewer bits than its state has.

    The error bounds are first-order ones, condition number times n eps ‖J‖ (Wilkinson 1965), and
    Elsner's (1985) of any order where that is smaller, as at nearly defective eigenvalues. Both
    take the Jacobians of single steps as known to rounding. For a cycle of p steps, p ∏ ‖J_i‖
    stands in place of ‖J‖.

    Cost: O(n³) and a matrix for each state. It works under `jit` and `vmap`. Eigenvalues have a
    derivative where they are simple, and vectors are held constant.

    References:
        L. Elsner, "An optimal bound for the spectral variation of two matrices", Linear Algebra
        Appl. 71 (1985).
        D. Sussillo and O. Barak, "Opening the black box: low-dimensional dynamics in
        high-dimensional recurrent neural networks", Neural Computation 25 (2013).

    Example:
        >>> import jax.numpy as jnp
        >>> def spiral(params, carry, x):
        ...     return params @ carry + x
        >>> system = Recurrence(spiral, 0.5 * jnp.array([[0.0, -1.0], [1.0, 0.0]]))
        >>> near = linearize(system, jnp.zeros((1, 2)), jnp.zeros(2))
        >>> print(f"{near.time_constants[0, 0]:.3f}", near.frequencies.round(3))
        1.443 [[ 0.25 -0.25]]
    """
    system, rows = bind_states(recurrence, states, x)
    check_precision(rows.dtype)
    check_at_least(1, period=period)
    for leaf in jax.tree.leaves(system.xs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            advice = "let the step take the embedding of a token as its input, and no mask"
            expected = "floating-point numbers, for which a step has a derivative"
            refuse("x", leaf.dtype, expected, advice, error=TypeError)
    return _linearize(system, rows, period)


@partial(jax.jit, static_argnames="period")
def _linearize(system, states, period):
    refuse_coarse_step(system)
    jacobians = jax.vmap(lambda state: return_jacobian(system, state, period))(states)
    sizes = jax.vmap(lambda state: size_of_factors(system, state, period))(states)
    values, errors, right, left = jax.vmap(_eigensystem)(jacobians, lax.stop_gradient(sizes))
    return Linearization(
        eigenvalues=values,
        eigenvalue_errors=errors,
        right_vectors=right,
        left_vectors=left,
        input_jacobian=jax.vmap(lambda state: return_input_jacobian(system, state, period))(states),
        jacobian=jacobians,
        period=jnp.int32(period),
    )


def _eigensystem(jacobian, size):
    """Return eigenvalues in descending order, bounds of their errors, and both sets of vectors."""
    still = lax.stop_gradient(jacobian)
    n, eps = len(still), jnp.finfo(still.dtype).eps
    values, left, right = lax.linalg.eig(still)
    sizes = _sizes(values)
    order = jnp.lexsort((-jnp.angle(values), -sizes))
    values, right, left = values[order], right.T[order], jnp.conj(left.T[order])
    # LAPACK scales both to norm one. Their product is zero at a defective eigenvalue.
    overlap = jnp.sum(left * right, axis=1)
    left = left / overlap[:, None]
    simple = n * eps * size * row_norms(jnp.concatenate([left.real, left.imag], axis=1))
    norm = jnp.maximum(jnp.linalg.norm(still), jnp.finfo(still.dtype).tiny)
    of_any_order = 2 * norm * (eps * size / norm) ** (1 / n)
    errors = jnp.minimum(jnp.where(jnp.isfinite(simple), simple, jnp.inf), of_any_order)
    # w (J − J₀) v is the first-order change of λ, and zero here.
    change = lax.complex(jacobian - still, jnp.zeros_like(still))
    return values + jnp.einsum("ij,jk,ik->i", left, change, right), errors, right, left


def _sizes(values):
    return jnp.abs(values)
