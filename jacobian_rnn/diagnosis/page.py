"""A diagnosis in words, on a page of 80 columns."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.diagnosis.advice import lines_of, median_growth, power

if TYPE_CHECKING:
    from jacobian_rnn.diagnosis.result import Diagnosis, LayerDiagnosis

WIDTH = 80
LABEL = 18  # columns of the labels
LAGS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
MOST_LAGS = 8
MEANING = {
    "vanishing": "gradients vanish",
    "stable": "gradients survive",
    "exploding": "gradients explode",
    "undetermined": "undetermined",
}
CHANGED = (
    "Each change was applied to the layer and measured on the same inputs. A trained network that "
    "is changed so computes something else: change it before training."
)
FOOT = (
    "Powers of e: e^-2.3 is a tenth, e^-6.9 a thousandth. A gradient is measured on its way back "
    "from the last step of a layer, and the lag is the number of steps that it has gone."
)


def page(diagnosis: "Diagnosis") -> str:
    """Say what was found of each layer, and what would help."""
    layers = diagnosis.layers
    num = len(layers)
    blocks = [f"{num} recurrent layer{'s' * (num > 1)}: {MEANING[diagnosis.verdict]}"]
    if num > 1:
        counts = [
            f"{sum(layer.verdict == verdict for layer in layers)} {verdict}"
            for verdict in MEANING
            if any(layer.verdict == verdict for layer in layers)
        ]
        blocks = [f"{num} recurrent layers: {', '.join(counts)}"]
    blocks += ["\n".join(_layer(layer)) for layer in layers]
    return "\n\n".join([*blocks, _wrapped(FOOT)])


def _layer(layer: "LayerDiagnosis") -> Iterator[str]:
    prediction = layer.prediction
    steps, low, high = int(prediction.horizon), *map(float, prediction.thresholds)
    head = f"{layer.name}: {layer.kind}"
    verdict = layer.verdict.upper() + (" (borderline)" if bool(prediction.borderline) else "")
    yield f"{head}{verdict.rjust(max(WIDTH - len(head), len(verdict) + 2))}"
    yield _line("received", received(layer))
    yield from _lines("gradient", growth_in_words(layer))
    yield from _table(layer.growth)
    if not math.isnan(layer.growth[0]):
        yield from _lines("memory", memory_in_words(layer, low))
    if math.isfinite(float(prediction.exponent)):
        yield from _lines("rate", rate_in_words(layer))
    if layer.saturation:
        yield from _lines("saturated", saturation_in_words(layer))
    yield from _lines("digits", digits_in_words(layer))
    if layer.credit is not None:
        yield from _lines("share of lags", credit_in_words(layer))
    for note in layer.notes:
        yield from _lines("note", note)
    yield from _advice(layer, steps, low, high)


def received(layer: "LayerDiagnosis") -> str:
    """Say how many sequences a layer received, and how long they are."""
    short, long = layer.num_steps
    return f"{layer.num_sequences} sequences of {short if short == long else f'{short} to {long}'} steps"


def growth_in_words(layer: "LayerDiagnosis") -> str:
    """Say by what a gradient is multiplied over the horizon."""
    prediction = layer.prediction
    steps, low, high = int(prediction.horizon), *map(float, prediction.thresholds)
    broken = np.asarray(prediction.first_nonfinite_step)
    if layer.verdict == "undetermined":
        if (broken >= 0).any():
            return (
                f"not known: in {int((broken >= 0).sum())} of {broken.size} sequences the state of "
                f"the layer stops being finite, first at step {broken[broken >= 0].min()}"
            )
        return (
            f"not known: over {steps} steps rounding takes all its digits; use float64, or a "
            "shorter horizon"
        )
    median = median_growth(prediction)
    plain = f" ({math.exp(median):.1g})" if -700 < median < 700 else ""
    lower, upper = map(float, prediction.interval)
    said = (
        f"over {steps} steps multiplied by {power(median)}{plain}; in 90 % of the sequences by "
        f"{power(lower)} to {power(upper)}. Networks learn between {power(low)} and {power(high)}."
    )
    if (broken >= 0).any():
        said += (
            f" In {int((broken >= 0).sum())} of {broken.size} sequences the state stops being "
            f"finite, first at step {broken[broken >= 0].min()}: the steps before it count."
        )
    return said


def memory_in_words(layer: "LayerDiagnosis", low: float) -> str:
    """Say how far back a gradient reaches."""
    if layer.memory_ends:
        return f"{layer.memory} steps: further back less than {power(low)} is left of a gradient"
    return f"{layer.memory} steps or more: so far back more than {power(low)} is left"


def rate_in_words(layer: "LayerDiagnosis") -> str:
    """Say the largest exponent."""
    exponent, error = float(layer.prediction.exponent), float(layer.prediction.standard_error)
    spread = f" ± {error:.4f} (standard error over sequences)" if math.isfinite(error) else ""
    return (
        f"largest Lyapunov exponent {exponent:+.4f}{spread} nats per step: a small change of the "
        f"state is multiplied by e^{exponent:.4f} in a step"
    )


def saturation_in_words(layer: "LayerDiagnosis") -> str:
    """Say how far gates and units are saturated."""
    parts = [
        f"{one.name} {one.share:.0%}"
        + (f" (mean {one.mean:.2f})" if one.function == "logistic" else "")
        for one in layer.saturation
    ]
    return f"{', '.join(parts)} of units and steps, where a slope is below a tenth of its largest"


def digits_in_words(layer: "LayerDiagnosis") -> str:
    """Say how many digits of the growth are lost to rounding."""
    return f"{layer.digits_lost:.1f} of {layer.digits:.1f} decimal digits lost to rounding, in {layer.dtype}"


def credit_in_words(layer: "LayerDiagnosis") -> str:
    """Say how much of ∂loss/∂θ comes from which lags, and how far it stands out of its noise."""
    credit = layer.credit
    if credit is None or not np.isfinite(credit.log_norms).any():
        return "the loss has no gradient in this layer"
    highest = int(np.nanargmax(credit.log_norms))
    clear = np.flatnonzero(credit.signal_to_noise >= 2)
    parts = []
    for lag in choose_lags(len(credit.log_norms) - 1, [0]):
        log, ratio = credit.log_norms[lag] - credit.log_norms[highest], credit.signal_to_noise[lag]
        noise = "" if math.isnan(ratio) else f" ({ratio:.1f})"
        parts.append(f"{lag}: {power(float(log))}{noise}")
    said = (
        f"norm of what the step so many steps before the end adds to ∂loss/∂θ, against the largest "
        f"of them, lag {highest}, and in brackets its signal over its noise between sequences: "
        f"{', '.join(parts)}. "
    )
    if clear.size:
        return said + f"The signal is twice its noise, or more, up to lag {clear.max()}."
    return said + "At no lag is the signal twice its noise: larger batches would help."


def choose_lags(most: int, first: Sequence[int] = ()) -> list[int]:
    """Choose round lags up to the longest, itself included."""
    lags = [*first, *(lag for lag in LAGS if lag < most)][: MOST_LAGS - 1 + len(first)]
    return [*lags, most] if most not in lags else lags


def _table(growth: np.ndarray) -> Iterator[str]:
    lags = choose_lags(len(growth))
    cells = [(str(lag), _power_or_lost(float(growth[lag - 1]))) for lag in lags]
    widths = [max(map(len, cell)) for cell in cells]
    for name, row in zip(("at lag", "multiplied by"), zip(*cells, strict=True), strict=True):
        text = "  ".join(one.rjust(width) for one, width in zip(row, widths, strict=True))
        yield _line(name, text)


def _power_or_lost(log: float) -> str:
    return "lost" if math.isnan(log) else power(log)


def _advice(layer: "LayerDiagnosis", steps: int, low: float, high: float) -> Iterator[str]:
    if layer.verdict == "stable":
        return
    if layer.advice:
        yield "  What helps:"
        for advice in layer.advice:
            yield from textwrap.wrap(
                " ".join(line.strip() for line in lines_of(advice)[:-1]),
                WIDTH,
                initial_indent="  - ",
                subsequent_indent="    ",
            )
            yield f"    {lines_of(advice)[-1].strip()}"
        yield from textwrap.wrap(CHANGED, WIDTH, initial_indent="    ", subsequent_indent="    ")
    elif layer.verdict != "undetermined":
        yield from _lines("what helps", no_advice_in_words(layer))


def no_advice_in_words(layer: "LayerDiagnosis") -> str:
    """Say why there is no advice."""
    return (
        "no change was found: no gain of the recurrent weights between 0.1 and 20, and no bias of a "
        "gate between -4 and 8, makes this layer stable; or its weights are not known"
    )


def _lines(label: str, text: str) -> list[str]:
    first = f"  {label}".ljust(LABEL + 2)
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * (LABEL + 2))


def _line(label: str, text: str) -> str:
    return f"  {label}".ljust(LABEL + 2) + text


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)
