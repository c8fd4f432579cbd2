"""A Lyapunov spectrum in words."""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.linalg.batch_means import FEWEST_BATCHES

if TYPE_CHECKING:
    from jacobian_rnn.lyapunov.result import LyapunovSpectrum


def report(spectrum: "LyapunovSpectrum") -> list[str]:
    """Describe a spectrum in lines: exponents with errors, what follows from them, and checks."""
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
    if spectrum.is_partial:
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
    """Return ten times the residual of the sum rule that rounding explains, nats per step."""
    eps = float(jnp.finfo(spectrum.exponents.dtype).eps)
    sizes = np.abs(np.asarray(spectrum.exponents, np.float64))
    # A log is known to eps times its size. A sum of many loses about the root of their number.
    terms = float(spectrum.num_checked) ** 0.5 if spectrum.is_partial else 1.0
    return 10 * (eps**0.5 + terms * eps * float(np.sum(sizes[np.isfinite(sizes)])))
