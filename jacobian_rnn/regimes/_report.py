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
    verdict = Regime(int(prediction.regime)).name.lower()
    verdict += " (borderline)" if bool(prediction.borderline) else ""
    known, low, high = growths[~np.isnan(growths)], *map(float, prediction.thresholds)
    median = float(quantile(jnp.asarray(known), 0.5))
    over = f"over {'at most ' if num_broken else ''}{steps} steps"
    if median == -np.inf:
        yield f"{verdict}: {over} the gradient is cut to exactly zero"
    else:
        yield f"{verdict}: {over} a gradient is multiplied by {_power(median)}"
    lower, upper = (_power(float(bound)) for bound in prediction.interval)
    yield (
        f"  90 % of {num} sequences between {lower} and {upper}; "
        f"stable from {_power(low)} to {_power(high)}"
    )
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
    yield from _peak(prediction, median)
    if prediction.log_singular_values is not None:
        spectrum = np.median(np.asarray(prediction.log_singular_values)[~np.isnan(growths)], axis=0)
        largest, middle, smallest = spectrum[[0, len(spectrum) // 2, -1]]
        yield (
            f"  singular values of the product from {_power(largest)} to {_power(smallest)}, "
            f"the middle one {_power(middle)}"
        )
    carry = float(quantile(prediction.log_growth[~np.isnan(growths)], 0.5))
    if abs(carry - median) > 1:
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


def _peak(prediction, median):
    """Say where the profile is highest, if that is not the horizon."""
    peaks = np.asarray(prediction.peak, float)
    if np.isnan(peaks).all():
        return
    peak = float(quantile(jnp.asarray(peaks[~np.isnan(peaks)]), 0.5))
    lag = int(np.median(np.asarray(prediction.peak_lag)[~np.isnan(peaks)]))
    if peak > max(median, 0) + 1:
        yield f"  on its way it grows by up to {_power(peak)}, at lag {lag}"


def _power(log):
    return "0" if log == -np.inf else f"e^{log:.1f}"
