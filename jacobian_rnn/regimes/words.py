"""A prediction of the regime in words."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from jacobian_rnn.regimes.quantiles import quantile
from jacobian_rnn.regimes.thresholds import Regime

if TYPE_CHECKING:
    from jacobian_rnn.regimes.prediction import RegimePrediction


def report(prediction: "RegimePrediction") -> Iterator[str]:
    """Say a prediction in lines: the verdict, its spread, and what stands against it."""
    steps, growths = int(prediction.horizon), np.asarray(prediction.log_growth_of_output, float)
    broken = np.asarray(prediction.first_nonfinite_step)
    num, num_broken = growths.size, int(np.sum(broken >= 0))
    if bool(prediction.undetermined) and num_broken:
        yield (
            f"undetermined: the state or its Jacobian stops being finite, first at step "
            f"{broken[broken >= 0].min()}, in {num_broken} of {num} sequences"
        )
        return
    if bool(prediction.undetermined):
        yield (
            f"undetermined: over {steps} steps rounding has taken the digits of the growth. Growth "
            "and decay may cancel, or units be saturated: use float64 or a shorter horizon"
        )
        return
    yield _verdict(prediction, "at most " if num_broken else "")
    lower, upper = (_power(float(bound)) for bound in prediction.interval)
    yield f"  90 % of {num} sequences between {lower} and {upper}"
    known = ~np.isnan(growths)
    if int(prediction.regime) == Regime.EXPLODING and known.any():
        yield f"  over {steps} steps it is multiplied by {_power(_median(growths))}"
    if prediction.log_singular_values is None:
        error = float(np.nanmean(prediction.sampling_error))
        yield f"  each is known to ± {error:.1g} nats, from a few random gradients"
    exponent, error = float(prediction.exponent), float(prediction.standard_error)
    if np.isfinite(exponent):
        spread = f" ± {error:.4f}" if np.isfinite(error) else ""
        meaning = " (standard error over sequences)" if spread else ""
        yield f"  largest exponent {exponent:+.4f}{spread} nats per step{meaning}"
    elif exponent == -np.inf:
        yield "  largest exponent -inf: in some sequence a counted step cuts every gradient"
    if prediction.log_singular_values is not None and known.any():
        spectrum = np.median(np.asarray(prediction.log_singular_values)[known], axis=0)
        largest, middle, smallest = spectrum[[0, len(spectrum) // 2, -1]]
        yield (
            f"  singular values of the product from {_power(largest)} to {_power(smallest)}, "
            f"the middle one {_power(middle)}"
        )
    carry, shown = _median(prediction.log_growth), _median(growths)
    if abs(carry - shown) > 1:
        yield f"  of the whole carry, what no output shows included: {_power(carry)}"
    cut, lost = int(np.sum(np.isneginf(growths))), int(np.sum(np.isnan(growths) & (broken < 0)))
    if cut:
        yield f"  the gradient is exactly zero in {cut} of {num} sequences: a reset, or dead units"
    if num_broken:
        yield (
            f"  the state or its Jacobian stops being finite in {num_broken} of {num} sequences, "
            f"first at step {broken[broken >= 0].min()}: only the steps before it count"
        )
    if lost:
        yield f"  digits lost to rounding in {lost} of {num} sequences"


def _verdict(prediction, at_most):
    """Say the regime, and the number that decided beside the threshold that it crossed."""
    regime, steps = Regime(int(prediction.regime)), int(prediction.horizon)
    name = regime.name.lower() + (" (borderline)" if bool(prediction.borderline) else "")
    low, high = (_power(float(bound)) for bound in prediction.thresholds)
    over, peak = f"over {at_most}{steps} steps", _median(prediction.peak_of_output)
    if regime == Regime.EXPLODING:
        at = f"at {lags_in_words(prediction)} a gradient is multiplied by {_power(peak)}"
        return f"{name}: {at}, more than {high}"
    growth = _median(prediction.log_growth_of_output)
    if growth == -np.inf:
        return f"{name}: {over} the gradient is cut to exactly zero"
    said = f"{name}: {over} a gradient is multiplied by {_power(growth)}"
    if regime == Regime.VANISHING:
        return f"{said}, less than {low}"
    return f"{said}, more than {low}, and at no lag by more than {_power(peak)}, less than {high}"


def lags_in_words(prediction: "RegimePrediction") -> str:
    """Say at which lags sequences have their peaks."""
    lags = np.asarray(prediction.peak_lag_of_output)
    lags = lags[lags > 0]
    first, last = int(lags.min()), int(lags.max())
    return f"lag {first}" if first == last else f"lags {first} to {last}"


def _median(values):
    """Return the median of what is known, NaN if nothing is."""
    return float(quantile(jnp.asarray(values, float), 0.5))


def _power(log):
    return "0" if log == -np.inf else f"e^{log:.1f}"
