"""The result of a Lyapunov run: exponents, errors, self-checks, and what is derived from them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.checks import check_number, check_type, refuse
from jacobian_rnn.linalg.batch_means import FEWEST_BATCHES, Estimate, student_quantile
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.lyapunov._run import TangentRun


class LyapunovSpectrum(NamedTuple):
    """The k largest Lyapunov exponents along one trajectory, with error bars and self-checks.

    Attributes:
        exponents: nats per step, descending, `(k,)`; −inf for a direction that was lost. All are
            NaN where `first_nonfinite_step` tells of a step.
        standard_errors: over time along this trajectory, autocorrelation accounted for, nats per
            step, `(k,)`; NaN for lost directions and from fewer than two batches. They say nothing
            about other input sequences or other networks: for those see `ensemble_spectrum`.
        covariance: of the exponents over time, nats² per step², `(k, k)`.
        num_batches: number of batches of steps behind the errors, int32 `(k,)`.
        long_enough: whether there were enough batches, nearly uncorrelated, to trust the error,
            `(k,)`.
        drift: later half of the run minus earlier half, in standard errors of that difference,
            `(k,)`: beyond ±4, the run began before state and frame had settled.
        history: exponents from the start of the count up to `history_steps`, nats per step,
            `(128, k)`; rows beyond the run are NaN.
        history_steps: int32 `(128,)`.
        num_steps: number of steps counted, int32 scalar.
        sum_rule_residual: nats per step. With k = n, mean |growth of volume − log|det J|| over the
            checked intervals, which are spread over the run: rounding, if all is well. With k < n,
            by how much the mean of the exponents falls short of mean log|det J| / n, four standard
            errors of that sample allowed for: zero, if all is well. NaN where nothing could be
            compared.
        num_checked: number of steps at which log|det J| was computed, int32 scalar.
        digits_lost: decimal digits of the worst pivot that cancellation took, of the 15.7 of
            float64 or the 6.9 of float32.
        first_lost_step: first counted step at which rounding took a direction, int32 scalar, −1 if
            none.
        first_zero_step: first counted step that mapped a direction to an exact zero, so that no
            gradient passes along it, int32 scalar, −1 if none.
        first_nonfinite_step: first step, of the warm-up or counted, whose Jacobian or new state
            held NaN or inf, int32 scalar, −1 if none.
        carry: the carry at the end, with which `resume=` goes on.
        run: what `resume=` goes on from; its directions are in the order of the frame.
    """

    exponents: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    covariance: Float[Array, "k k"]
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

        Student's t with one degree of freedom less than there are batches. A ValueError if `level`
        is not between 0 and 1.
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

        Pesin's formula makes it the Kolmogorov–Sinai entropy where the invariant measure is smooth
        along unstable directions (Pesin 1977), and an upper bound elsewhere (Ruelle 1978). NaN if
        k < n and all k exponents are positive.
        """
        unknown = (self.exponents[-1] > 0) & self._is_partial
        rate = self.estimate(entropy_rate)
        return Estimate(*(jnp.where(unknown, jnp.nan, field) for field in rate))

    def kaplan_yorke_dimension(self) -> Estimate:
        """Return the dimension at which volumes neither grow nor shrink (Kaplan and Yorke 1979).

        NaN if k < n and the k exponents do not reach it.
        """
        unknown = (jnp.sum(self.exponents) >= 0) & self._is_partial
        dimension = self.estimate(kaplan_yorke_dimension)
        return Estimate(*(jnp.where(unknown, jnp.nan, field) for field in dimension))

    def estimate(self, function: Callable[[Float[Array, " k"]], Float[Array, ""]]) -> Estimate:
        """Apply a function to the exponents and propagate their errors over time to first order."""
        value, gradient = jax.value_and_grad(function)(self.exponents)
        used = gradient != 0
        covariance = jnp.where(used[None] & used[:, None], self.covariance, 0)
        return Estimate(value, jnp.sqrt(matmul(matmul(gradient, covariance), gradient)))

    @property
    def _is_partial(self) -> bool:
        return self.run.frame.shape[-2] > self.run.frame.shape[-1]

    def __str__(self) -> str:
        """Say it in a few lines, checks included."""
        if self.exponents.ndim > 1:
            return (
                f"{len(self.exponents)} Lyapunov spectra: index one with "
                "jax.tree.map(lambda a: a[i], ...), or see ensemble_spectrum"
            )
        return "\n".join(_report(self))


def entropy_rate(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Sum the positive exponents, nats per step.

    Args:
        exponents: nats per step, `(k,)`.

    Returns:
        The sum; see `LyapunovSpectrum.entropy_rate` for its meaning and its error.

    Raises:
        ValueError: not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> print(entropy_rate(jnp.array([0.5, 0.25, -1.0])))
        0.75
    """
    return jnp.sum(jnp.maximum(_one_spectrum(exponents), 0))


def kaplan_yorke_dimension(exponents: Float[Array, " k"]) -> Float[Array, ""]:
    """Compute D = j + (λ₁ + … + λ_j) / |λ_{j+1}|, j the last for which the sum is not negative.

    Args:
        exponents: nats per step, `(k,)`, in any order.

    Returns:
        D, between 0 (λ₁ negative) and k (the sum of all is not negative).

    Raises:
        ValueError: not a vector.

    References:
        J. L. Kaplan and J. A. Yorke, "Chaotic behavior of multidimensional difference equations",
        Lecture Notes in Mathematics 730 (1979).

    Example:
        >>> import jax.numpy as jnp
        >>> print(kaplan_yorke_dimension(jnp.array([0.5, 0.0, -1.0])))
        2.5
    """
    exponents = -jnp.sort(-_one_spectrum(exponents))
    k = exponents.shape[0]
    above = jnp.cumsum(exponents) >= 0
    j = jnp.sum(jnp.cumprod(above))
    counted = jnp.where(jnp.arange(k) < j, exponents, 0)
    following = exponents[jnp.minimum(j, k - 1)]
    fraction = jnp.sum(counted) / jnp.where(j < k, -following, 1)
    dimension = j.astype(fraction.dtype) + jnp.where(j < k, fraction, 0)
    return jnp.where(jnp.any(jnp.isnan(exponents)), jnp.nan, dimension)


class EnsembleSpectrum(NamedTuple):
    """Exponents averaged over members: input sequences, or networks drawn afresh.

    Attributes:
        exponents: mean over members, nats per step, `(k,)`.
        standard_errors: of that mean, over members, nats per step, `(k,)`.
        spread: standard deviation between members, `(k,)`.
        spread_over_time: root mean square of the members' standard errors over time, `(k,)`: the
            spread to expect of members that differ in nothing but chance over time.
    """

    exponents: Float[Array, " k"]
    standard_errors: Float[Array, " k"]
    spread: Float[Array, " k"]
    spread_over_time: Float[Array, " k"]


def ensemble_spectrum(spectra: LyapunovSpectrum) -> EnsembleSpectrum:
    """Average Lyapunov spectra over members, with errors over members.

    Three error bars answer three questions. `LyapunovSpectrum.standard_errors`: how well is this
    trajectory's exponent known (over time)? The errors here, with members that differ in their
    input sequence alone: how well is this network's (over sequences)? With members that are
    networks drawn afresh: how well is the ensemble's (over networks)?

    Args:
        spectra: a batch along the first axis, as `jax.vmap(lyapunov_spectrum)` returns it.

    Returns:
        Mean, standard error and spread over the members.

    Raises:
        ValueError: not a batch of at least two spectra.
        TypeError: no spectra at all.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jacobian_rnn import lyapunov_spectrum_of
        >>> jacobians = jax.random.normal(jax.random.key(0), (8, 500, 2, 2))
        >>> spectra = jax.vmap(lambda j: lyapunov_spectrum_of(j, qr_every=1))(jacobians)
        >>> average = ensemble_spectrum(spectra)
        >>> bool(jnp.all(jnp.abs(average.spread / average.spread_over_time - 1) < 0.6))
        True
    """
    expected = "a batch of LyapunovSpectrum, as jax.vmap returns it"
    check_type("spectra", spectra, LyapunovSpectrum, expected)
    if spectra.exponents.ndim != 2 or len(spectra.exponents) < 2:
        received = f"exponents of shape {spectra.exponents.shape}"
        advice = "use jax.vmap over sequences or networks"
        refuse("spectra", received, "(members, k) with at least 2 members", advice)
    spread = jnp.std(spectra.exponents, axis=0, ddof=1)
    return EnsembleSpectrum(
        exponents=jnp.mean(spectra.exponents, axis=0),
        standard_errors=spread / jnp.sqrt(len(spectra.exponents)),
        spread=spread,
        spread_over_time=jnp.sqrt(jnp.mean(spectra.standard_errors**2, axis=0)),
    )


def _one_spectrum(exponents):
    exponents = jnp.asarray(exponents)
    if exponents.ndim != 1 or exponents.size == 0:
        received = f"shape {exponents.shape}"
        refuse("exponents", received, "(k,): one spectrum", "use jax.vmap over several")
    return exponents


def _report(spectrum):
    k, digits = spectrum.exponents.shape[0], jnp.finfo(spectrum.exponents.dtype).eps
    lines = [f"{k} Lyapunov exponents from {int(spectrum.num_steps)} steps, nats per step"]
    shown = range(k) if k <= 6 else (0, 1, 2, k - 2, k - 1)
    intervals = [np.asarray(limit) for limit in spectrum.interval()]
    for i in shown:
        if i == k - 2 and k > 6:
            lines.append("  …")
        lower, upper = (limit[i] for limit in intervals)
        error = f"95 % over time [{lower:+.6f}, {upper:+.6f}]"
        if np.isnan(lower):
            error = f"no error bar: {_reason(spectrum, i)}"
        exponent = float(spectrum.exponents[i])
        value = "unknown" if np.isnan(exponent) else f"{exponent:+.6f}"
        lines.append(f"  λ_{i + 1:<4d}{value:>11}   {error}")
    if int(spectrum.first_nonfinite_step) >= 0:
        return [*lines, *_warnings(spectrum)]
    dimension, entropy = spectrum.kaplan_yorke_dimension(), spectrum.entropy_rate()
    lines.append(f"  Kaplan–Yorke dimension {_shown(dimension)}, entropy rate {_shown(entropy)}")
    rule = "growth of volume against log|det J|"
    if spectrum._is_partial:
        rule = "exponents below mean log|det J| / n by"
    residual = float(spectrum.sum_rule_residual)
    checked = f"{residual:.0e} nats per step, checked at {int(spectrum.num_checked)} steps"
    if int(spectrum.first_zero_step) >= 0:
        lines.append(
            f"  exact zero: first at step {int(spectrum.first_zero_step)}, a direction of exponent "
            "-inf was cut, and no gradient passes along it"
        )
    return [
        *lines,
        f"  sum rule: {'not checked' if np.isnan(residual) else f'{rule} {checked}'}",
        f"  digits lost: {float(spectrum.digits_lost):.1f} of {-float(jnp.log10(digits)):.1f}",
        *_warnings(spectrum),
    ]


def _reason(spectrum, i):
    """Say why an exponent has no error bar."""
    if int(spectrum.first_nonfinite_step) >= 0:
        return "not all steps are finite"
    if not np.isneginf(spectrum.exponents[i]):
        return "fewer than two batches"
    return "lost" if int(spectrum.first_lost_step) >= 0 else "cut"


def _shown(estimate):
    value, error = (float(field) for field in estimate)
    if np.isnan(value):
        return "unknown (more exponents needed)"
    return f"{value:.4f} (no error bar)" if np.isnan(error) else f"{value:.4f} ± {error:.4f}"


def _warnings(spectrum):
    precise = " (use float64)" if spectrum.exponents.dtype == jnp.float32 else ""
    lost, nonfinite = int(spectrum.first_lost_step), int(spectrum.first_nonfinite_step)
    if nonfinite >= 0:
        if nonfinite == int(spectrum.run.faults.nonfinite_state):
            yield (
                f"  WARNING: the state stopped being finite at step {nonfinite}: the network "
                "diverged, and states that are not finite have no exponents"
            )
        else:
            yield f"  WARNING: NaN or infinity in the Jacobian, first at step {nonfinite}"
    if lost >= 0:
        yield f"  WARNING: rounding took a direction{precise}, first at step {lost}"
    if nonfinite >= 0:
        return
    if spectrum.sum_rule_residual > _allowed_residual(spectrum):
        yield "  WARNING: the sum rule is violated: the smallest exponents have lost their digits"
    dubious = int(jnp.sum(~spectrum.long_enough))
    num_batches = int(jnp.min(spectrum.num_batches))
    if num_batches < FEWEST_BATCHES:
        yield f"  WARNING: too short: {num_batches} batches, and error bars want {FEWEST_BATCHES}"
    elif dubious:
        yield f"  WARNING: too short: batches still correlated for {dubious} exponents"
    drifting = int(jnp.sum(jnp.abs(spectrum.drift) > 4))
    if drifting:
        yield f"  WARNING: {drifting} exponents drift from half to half: give a longer num_warmup"


def _allowed_residual(spectrum):
    """Return what rounding explains of the residual of the sum rule, tenfold, nats per step."""
    eps = jnp.finfo(spectrum.exponents.dtype).eps
    sizes = jnp.abs(spectrum.exponents)
    # Logs are known to eps times their size; a sum of many loses about the root of their number.
    terms = jnp.sqrt(spectrum.num_checked) if spectrum._is_partial else 1
    return 10 * (jnp.sqrt(eps) + terms * eps * jnp.sum(jnp.where(jnp.isfinite(sizes), sizes, 0)))
