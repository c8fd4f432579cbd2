"""What a diagnosis says, sentence by sentence, for every form of it."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.diagnosis.advice import in_words, median_growth, power
from jacobian_rnn.regimes.words import lags_in_words

if TYPE_CHECKING:
    from jacobian_rnn.diagnosis.credit_by_lag import CreditByLag
    from jacobian_rnn.diagnosis.result import Diagnosis, LayerDiagnosis

__all__ = [
    "FOOT",
    "changed",
    "growth_at_lags",
    "headline",
    "in_words",
    "shares_at_lags",
    "statements",
    "verdict",
]

LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
MOST_LAGS = 7
SMALLEST = -6.9  # nats: a share of a thousandth, below which it is written as a power of e
# Nats by which the growth of a whole carry may differ from that of what it shows, untold.
APART = 1.0
MEANING = {
    "stable": "gradients survive",
    "vanishing": "gradients vanish",
    "exploding": "gradients explode",
    "undetermined": "not known",
}
CHANGED = (
    "Each change was applied to the layer, and measured on the same inputs. It is for the start of "
    "a training: a trained network computes something else with it."
)
ELSEWHERE = (
    "The page docs/your_network.md says how to make these changes in PyTorch or Keras themselves."
)
FOOT = (
    "e^-2.3 is a tenth, e^-6.9 a thousandth. A lag is the number of steps that a gradient has gone "
    "back from the last step of a sequence. Numbers of a layer are medians over its sequences."
)
SEARCHED = {
    "gain": "a factor on the recurrent weights from 0.1 to 20",
    "forget_bias": "a bias of the gate that keeps the state from -4 to 8",
}


def headline(diagnosis: "Diagnosis") -> str:
    """Count the layers by what becomes of their gradients."""
    verdicts = [layer.verdict for layer in diagnosis.layers]
    parts = [f"{MEANING[one]} in {verdicts.count(one)}" for one in MEANING if one in verdicts]
    if len(verdicts) == 1:
        return f"1 recurrent layer: {MEANING[verdicts[0]]}"
    return f"{len(verdicts)} recurrent layers: {', '.join(parts)}"


def verdict(layer: "LayerDiagnosis") -> str:
    """Say the verdict in a word or two."""
    borderline = bool(layer.prediction.borderline) and layer.verdict != "undetermined"
    return layer.verdict.upper() + (" (borderline)" if borderline else "")


def statements(layer: "LayerDiagnosis") -> Iterator[tuple[str, str]]:
    """Say what was found, as pairs of a label and a sentence."""
    short, long = layer.num_steps
    steps = f"{short}" if short == long else f"{short} to {long}"
    yield "received", f"{layer.num_sequences} sequences of {steps} steps, in {layer.dtype}"
    yield "gradient", _growth(layer)
    if not math.isnan(layer.growth[0]):
        yield "memory", _memory(layer)
    if math.isfinite(float(layer.prediction.exponent)):
        yield "rate", _rate(layer)
    if layer.saturation:
        yield "saturated", _saturation(layer)
    yield "digits lost", f"{layer.digits_lost:.1f} of {layer.digits:.1f}, to rounding"
    if layer.credit is not None:
        yield "learning", _credit(layer)
    for note in layer.notes:
        yield "note", note
    if layer.verdict in ("vanishing", "exploding") and not layer.advice:
        yield "what helps", _no_advice(layer)


def changed(layer: "LayerDiagnosis") -> str:
    """Say how the advice for a layer was found, and where to apply it."""
    return f"{CHANGED} {ELSEWHERE}" if layer.network else CHANGED


def growth_at_lags(layer: "LayerDiagnosis") -> list[tuple[str, str]]:
    """Return some lags, and the factor by which a gradient is multiplied until there."""
    lags = _choose_lags(len(layer.growth))
    return [(str(lag), _power_or_lost(float(layer.growth[lag - 1]))) for lag in lags]


def shares_at_lags(layer: "LayerDiagnosis") -> list[tuple[str, str, str]]:
    """Return some lags, their shares of the largest share, and their signals over noise."""
    credit = layer.credit
    if credit is None or not np.isfinite(credit.log_norms).any():
        return []
    logs = np.asarray(credit.log_norms - credit.log_norms[_largest(credit)], float)
    lags = _choose_lags(len(logs) - 1, first=(0,))
    ratios = [float(credit.signal_to_noise[lag]) for lag in lags]
    shares = [
        f"{math.exp(logs[lag]):.3f}" if logs[lag] > SMALLEST else power(logs[lag]) for lag in lags
    ]
    noise = ["" if math.isnan(ratio) else f"{ratio:.1f}" for ratio in ratios]
    return list(zip(map(str, lags), shares, noise, strict=True))


def _growth(layer: "LayerDiagnosis") -> str:
    prediction = layer.prediction
    steps, low, high = int(prediction.horizon), *map(float, prediction.thresholds)
    broken = np.asarray(prediction.first_nonfinite_step)
    num_broken = int((broken >= 0).sum())
    stops = (
        f"in {num_broken} of {broken.size} sequences the state stops being finite, first at step "
        f"{broken[broken >= 0].min() if num_broken else -1}"
    )
    if layer.verdict == "undetermined":
        lost = (
            f"over {steps} steps rounding takes all its digits: use float64, or a shorter horizon"
        )
        return f"not known: {stops if num_broken else lost}"
    growth, peak = median_growth(prediction), _median(prediction.peak_of_output)
    explodes = layer.verdict == "exploding"
    decided = peak if explodes else growth
    plain = f" ({math.exp(decided):.1g})" if -700 < decided < 700 and abs(decided) > 1 else ""
    lower, upper = (power(float(end)) for end in prediction.interval)
    place = f"at {lags_in_words(prediction)}" if explodes else f"over {steps} steps"
    said = (
        f"multiplied by {power(decided)}{plain} {place}; by {lower} to {upper} in 90 % of the "
        f"sequences. "
    )
    if explodes:
        said += f"That is more than {power(high)}, above which networks rarely learn."
        said += "" if math.isnan(growth) else f" Over {steps} steps it is {power(growth)}."
    elif layer.verdict == "vanishing":
        said += f"That is less than {power(low)}, below which networks rarely learn."
    else:
        said += (
            f"At no lag it is more than {power(peak)}. Networks learn from {power(low)} over the "
            f"horizon to {power(high)} at any lag."
        )
    cut = int(np.isneginf(np.asarray(prediction.log_growth_of_output)).sum())
    if cut:
        said += f" In {cut} of {broken.size} sequences it is exactly zero: a reset, or dead units."
    if num_broken:
        said += f" But {stops}: only the steps before it count."
    carry = _median(prediction.log_growth)
    if abs(carry - growth) > APART:
        said += (
            f" In the whole carry, with what no output shows, it is {power(carry)} over {steps} "
            "steps."
        )
    return said


def _median(values) -> float:
    """Return the median of what is known, NaN if nothing is."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if known.size else math.nan


def _memory(layer: "LayerDiagnosis") -> str:
    low = power(float(layer.prediction.thresholds[0]))
    if layer.memory_ends:
        return f"{layer.memory} steps, behind which less than {low} is left of a gradient"
    return f"at least {layer.memory} steps, over which more than {low} is left of a gradient"


def _rate(layer: "LayerDiagnosis") -> str:
    exponent, error = float(layer.prediction.exponent), float(layer.prediction.standard_error)
    spread = f" ± {error:.4f} (standard error over sequences)" if math.isfinite(error) else ""
    return f"{exponent:+.4f}{spread} nats per step, the largest Lyapunov exponent"


def _saturation(layer: "LayerDiagnosis") -> str:
    worst = max(one.share for one in layer.saturation)
    means = [f"{one.name} {one.mean:.2f}" for one in layer.saturation if one.function == "logistic"]
    mean = f" Gates are open, on average: {', '.join(means)}." if means else ""
    if worst < 0.005:
        return f"no gate and no unit (slopes above a tenth of the largest).{mean}"
    shares = [f"{one.name} {one.share:.0%}" for one in layer.saturation]
    return f"{', '.join(shares)} (slope below a tenth of the largest).{mean}"


def _credit(layer: "LayerDiagnosis") -> str:
    credit = layer.credit
    if credit is None or not np.isfinite(credit.log_norms).any():
        return "the loss has no gradient in this layer"
    clear = np.flatnonzero(credit.signal_to_noise >= 2)
    said = (
        "The steps at each lag add a share to the gradient of the weights. The largest, at lag "
        f"{_largest(credit)}, counts as 1. The signal is the mean share over sequences, and the "
        "noise its standard error. "
    )
    if clear.size:
        return f"{said}The signal is twice the noise or more up to lag {clear.max()}."
    return f"{said}In a batch of {layer.num_sequences} no lag has a signal of twice the noise."


def _largest(credit: "CreditByLag") -> int:
    return int(np.nanargmax(credit.log_norms))


def _no_advice(layer: "LayerDiagnosis") -> str:
    if not layer.searched:
        return "not searched: where this cell holds its weights is not known"
    tried = " and ".join(SEARCHED[change] for change in layer.searched)
    return f"nothing was found: {tried} were tried, and none makes the layer stable"


def _choose_lags(most: int, first: tuple[int, ...] = ()) -> list[int]:
    """Choose round lags up to the longest, itself included."""
    lags = [*first, *(lag for lag in LAGS if lag < most)]
    # Of many, the first are left out: between them little happens.
    lags = lags[:1] + lags[1:][-(MOST_LAGS - 2) :] if len(lags) >= MOST_LAGS else lags
    return [*lags, most] if most not in lags else lags


def _power_or_lost(log: float) -> str:
    return "lost" if math.isnan(log) else power(log)
