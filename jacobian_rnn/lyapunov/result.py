"""The result of a Lyapunov run: exponents, errors and self-checks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.checks import check_number
from jacobian_rnn.linalg.batch_means import Estimate, student_quantile
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.lyapunov._report import report
from jacobian_rnn.lyapunov._run import TangentRun
from jacobian_rnn.lyapunov.invariants import entropy_rate, kaplan_yorke_dimension


class LyapunovSpectrum(NamedTuple):
    """The k largest Lyapunov exponents along one trajectory, with error bars and self-checks.

    Attributes:
        exponents: nats per step, descending, `(k,)`, −inf for a direction that was lost. All are
            NaN unless `first_nonfinite_step` is −1.
        standard_errors: over time along this trajectory, autocorrelation accounted for, nats per
            step, `(k,)`, NaN for lost directions and from fewer than two batches. They say nothing
            about other input sequences or networks, which `ensemble_spectrum` compares.
        deviations: of batches of steps from the exponents, nats per step, `(128, k)`, scaled for
            `covariance`.
        num_batches: number of batches of steps behind the errors, int32 `(k,)`.
        long_enough: whether there were enough batches, nearly uncorrelated, to trust the error,
            `(k,)`.
        drift: later half of the run minus earlier half, in standard errors of that difference,
            `(k,)`. Beyond ±4, the count began before state and frame had settled.
        history: exponents from the start of the count up to `history_steps`, nats per step,
            `(128, k)`, NaN in rows beyond the run.
        history_steps: int32 `(128,)`.
        num_steps: number of steps counted, int32 scalar.
        sum_rule_residual: nats per step. For k = n it is the mean |growth of volume − log|det J||
            over checked intervals throughout the run, and of the size of rounding if all is well.
            For k < n it is the amount by which the mean exponent falls short of mean log|det J| / n
            less four standard errors of that sample, and zero if all is well. It is NaN where
            nothing could be compared.
        num_checked: number of steps at which log|det J| was computed, int32 scalar.
        digits_lost: decimal digits that cancellation took from the worst pivot, of the 15.7 of
            float64 or the 6.9 of float32.
        first_lost_step: first counted step at which rounding took a direction, int32 scalar, −1 if
            none.
        first_zero_step: first counted step that mapped a direction to an exact zero, so that no
            gradient passes along it, int32 scalar, −1 if none.
        first_nonfinite_step: first step, of the warm-up or counted, whose Jacobian or new state
            held NaN or inf, int32 scalar, −1 if none.
        carry: the carry at the end, with which `resume=` goes on.
        run: what `resume=` goes on from, with directions in the order of the frame.
    """

    exponents: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    deviations: Float[Array, "batches k"]
    num_batches: Int[Array, " k"]
    long_enough: Bool[Array, " k"]
    drift: Float[Array, " k"]
    history: Float[Array, "batches k"]
    history_steps: Int[Array, " batches"]
    num_steps: Int[Array, ""]
    sum_rule_residual: Float[Array, ""]
    num_checked: Int[Array, ""]
    digits_lost: Float[Array, ""]
    first_lost_step: Int[Array, ""]
    first_zero_step: Int[Array, ""]
    first_nonfinite_step: Int[Array, ""]
    carry: PyTree
    run: TangentRun

    def interval(self, level: float = 0.95) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Return lower and upper confidence limits of the exponents over time, nats per step.

        They come from Student's t with one degree of freedom less than there are batches. A `level`
        that is not between 0 and 1 raises a ValueError.
        """
        check_number("level", level, above=0, below=1)
        t = student_quantile(level, jnp.maximum(self.num_batches - 1, 1))
        half = t.astype(self.exponents.dtype) * self.standard_errors
        return self.exponents - half, self.exponents + half

    def largest_exponent(self) -> Estimate:
        """Return λ₁, nats per step."""
        return self.estimate(lambda exponents: exponents[0])

    def entropy_rate(self) -> Estimate:
        """Return the sum of the positive exponents, nats per step.

        It is the Kolmogorov–Sinai entropy where the invariant measure is smooth along unstable
        directions (Pesin 1977), and an upper bound elsewhere (Ruelle 1978). It is NaN if k < n and
        all k exponents are positive.
        """
        unknown = (self.exponents[-1] > 0) & self.is_partial
        rate = self.estimate(entropy_rate)
        return Estimate(*(jnp.where(unknown, jnp.nan, field) for field in rate))

    def kaplan_yorke_dimension(self) -> Estimate:
        """Return the dimension at which volumes neither grow nor shrink (Kaplan and Yorke 1979).

        It is NaN if k < n and the k exponents do not reach it.
        """
        unknown = (jnp.sum(self.exponents) >= 0) & self.is_partial
        dimension = self.estimate(kaplan_yorke_dimension)
        return Estimate(*(jnp.where(unknown, jnp.nan, field) for field in dimension))

    def estimate(self, function: Callable[[Float[Array, " k"]], Float[Array, ""]]) -> Estimate:
        """Apply a function to the exponents and propagate their errors over time to first order."""
        value, gradient = jax.value_and_grad(function)(self.exponents)
        deviations = jnp.where(gradient != 0, self.deviations, 0)
        return Estimate(value, jnp.linalg.norm(matmul(deviations, gradient)))

    @property
    def covariance(self) -> Float[Array, "k k"]:
        """The covariance of the exponents over time, nats² per step², `(k, k)`."""
        return matmul(jnp.swapaxes(self.deviations, -1, -2), self.deviations)

    @property
    def is_partial(self) -> bool:
        """Whether fewer exponents than states were computed, k < n."""
        return self.run.frame.shape[-2] > self.run.frame.shape[-1]

    def __str__(self) -> str:
        """Describe the spectrum in a few lines, with its checks."""
        if self.exponents.ndim > 1:
            return (
                f"{len(self.exponents)} Lyapunov spectra: index one with "
                "jax.tree.map(lambda a: a[i], ...), or see ensemble_spectrum"
            )
        return "\n".join(report(self))
