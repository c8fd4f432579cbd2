"""What the comparison prints: tables of networks and products, and what was found, in sentences."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from rich.table import Table

import jacobian_rnn as jrnn
from experiments.regimes._chosen_gains import GAIN
from experiments.regimes.comparison_scores import (
    NETWORKS,
    disagrees,
    known,
    score_forecasts,
    settings_of,
)
from jacobian_rnn.regimes.forecast import forecast_from

TITLES = {"adam": "Adam with clipping, both tasks", "sgd": "plain SGD, delayed recall"}
NUM_WRONG = 3  # forecasts that are told in words, of each optimiser


def rows(part: xr.Dataset) -> Iterator[tuple[str, ...]]:
    """Write the networks of one cell on one task, a row for each gain."""
    for index in range(part.sizes[GAIN]):
        at = part.isel({GAIN: index})
        is_known = known(at).to_numpy()
        regimes = [
            jrnn.Regime(int(regime)).name.lower() if here else "undetermined"
            for regime, here in zip(at["regime"].to_numpy(), is_known, strict=True)
        ]
        outcomes = [jrnn.Outcome(int(outcome)).name.lower() for outcome in at["outcome"]]
        yield (
            f"{float(at['gain']):.2f}",
            _median(at["log_growth"]),
            _median(at["peak"]),
            _counted(regimes),
            " ".join(f"{float(one):.2f}" for one in at["probability"]),
            " ".join(f"{float(skill):.2f}" for skill in at["test_skill"]),
            _counted(outcomes),
        )


def _median(values):
    return f"{float(values.median()):+.1f}" if values.notnull().any() else "unknown"


def _counted(names):
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


class Spectrum(NamedTuple):
    """Log singular values of the product of each network, nats, medians over sequences.

    Attributes:
        largest: log σ₁.
        middle: the median singular value.
        smallest: −inf where it is exactly zero.
        condition: log of the largest over the smallest.
        num: how many there are.
    """

    largest: xr.DataArray
    middle: xr.DataArray
    smallest: xr.DataArray
    condition: xr.DataArray
    num: int


def spectrum_of(part: xr.Dataset) -> Spectrum:
    """Describe the products of the networks of one cell."""
    values = part["log_singular_value"].dropna("index", how="all")
    num = values.sizes["index"]
    largest, smallest = values.isel(index=0), values.isel(index=-1)
    return Spectrum(
        largest.median("sequence"),
        values.isel(index=num // 2).median("sequence"),
        smallest.median("sequence"),
        (largest - smallest).median("sequence"),
        num,
    )


def spectra(dataset: xr.Dataset) -> Table:
    """List the singular values of the product of every network, seeds side by side."""
    table = Table(title="product over the horizon: log singular values of each network, nats")
    for column in ("task, cell", "gain", "largest", "middle", "smallest", "log condition"):
        table.add_column(column, justify="left" if column == "task, cell" else "right")
    for setting in settings_of(dataset, "adam"):
        for cell in dataset["cell"].to_numpy():
            part = dataset.sel(setting=setting, cell=cell)
            found = spectrum_of(part)
            for place, gain in enumerate(part["gain"].to_numpy()):
                numbers = [
                    " ".join(_log(value) for value in values.isel({GAIN: place}).to_numpy())
                    for values in found[:4]
                ]
                table.add_row(f"{setting.split(',')[0]}, {cell}", f"{gain:.2f}", *numbers)
            table.add_section()
    return table


def _log(value):
    return {-np.inf: "−∞", np.inf: "∞"}.get(float(value), f"{value:+.0f}")


def products(dataset: xr.Dataset) -> list[str]:
    """Describe the singular values of each cell, and how far product and profile agree."""
    lines = []
    for cell in dataset["cell"].to_numpy():
        found = spectrum_of(dataset.sel(cell=cell))
        said = [
            f"the {place} {_power(values.min())} to {_power(values.max())}"
            for place, values in zip(("largest", "middle", "smallest"), found[:3], strict=True)
        ]
        ill = float(np.isposinf(found.condition).mean())
        said.append(f"the condition {_power(found.condition.min())} or more, infinite in {ill:.0%}")
        lines.append(f"{cell}, {found.num} singular values: {', '.join(said)}")
    exact = dataset["carry_log_growth"]
    profile = dataset["profile"].sel(step=dataset["horizon"]).drop_vars("step")
    both = np.isfinite(exact) & np.isfinite(profile)
    off = abs(profile - exact).where(both)
    # Rounding counts where all directions were drawn.
    within = off <= 3 * dataset["profile_error"] + 10 * dataset["log_growth_error"] + 1e-3
    lines.append(
        f"the backward profile, from 8 random gradients, agrees with the product within three "
        f"sampling errors in {int(within.where(both).sum())} of {int(both.sum())} sequences, "
        f"and the largest difference is {float(off.max()):.2f} nats"
    )
    return lines


def disagreements(dataset: xr.Dataset) -> list[str]:
    """Describe every network whose prediction and outcome disagree, one line each."""
    wrong = disagrees(dataset).transpose(*NETWORKS)
    lines = []
    for place in np.argwhere(wrong.to_numpy()):
        one = dataset.isel(dict(zip(NETWORKS, place, strict=True)))
        lines.append(
            f"{one['setting'].item()}, {one['cell'].item()}, gain {float(one['gain']):.2f}: "
            f"{jrnn.Regime(int(one['regime'])).name.lower()} "
            f"({_power(one['deciding_growth'].median(), digits=1)}"
            f"{', borderline' if bool(one['borderline']) else ''}), "
            f"but {jrnn.Outcome(int(one['outcome'])).name.lower()} "
            f"(skill {float(one['test_skill']):.2f})"
        )
    return lines or ["none"]


def _power(log_value, *, digits=0):
    value = float(log_value)
    return "0" if value == -np.inf else f"e^{value:+.{digits}f}"


def findings(dataset: xr.Dataset, agreements: Mapping[str, jrnn.Agreement]) -> list[str]:
    """Say in a few lines what was predicted, how often that was right, and where it was not."""
    low, high = (_power(bound, digits=1) for bound in dataset["threshold"])
    lines = [
        "Before training, a network was predicted to learn where a gradient is multiplied by "
        f"{low} or more over the horizon, and by no more than {high} at any lag of its way back."
    ]
    for name, agreement in agreements.items():
        settings = settings_of(dataset, name)
        lines += ["", f"{TITLES[name]}, {agreement.prediction.num_networks} networks:"]
        lines += [*_verdict(agreement), *_shares(agreement)]
        lines.append(f"  most wrong: {_most_wrong(dataset, settings)}")
        lines += _forecast(score_forecasts(dataset, settings))
        lines.append("  forecasts that were most wrong:")
        lines += [f"    {line}" for line in wrong_forecasts(dataset, settings)]
    lines += [
        "",
        "Right: mean of the shares among networks that learned and among those that did not.",
        "Brackets: 95 % over gains.",
    ]
    if unknown := int((~known(dataset)).sum()):
        lines.append(f"No prediction, because rounding has taken all digits of it: {unknown}.")
    return lines


def _verdict(agreement):
    """Say how often the predictions were right, beside guessing and simple rules."""
    score = agreement.prediction
    if np.isnan(score.balanced_accuracy):
        return ["  right: cannot be said where all networks learned, or none did"]
    right = {rule: one.balanced_accuracy for rule, one in agreement.rules.items()}
    best = max(right, key=lambda rule: right[rule])
    low, high = score.interval
    lead, (least, most) = agreement.margins[best]
    guessing = "better than guessing" if low > 0.5 else "not surely better than guessing"
    decided = "" if least > 0 or most < 0 else ": not decided by so few networks"
    return [
        f"  prediction right: {score.balanced_accuracy:.0%} [{low:.0%}, {high:.0%}], {guessing}",
        f"  simple rules: {', '.join(f'{rule} {share:.0%}' for rule, share in right.items())}",
        f"  lead over the best rule: {100 * lead:+.0f} points [{100 * least:+.0f}, "
        f"{100 * most:+.0f}]{decided}",
    ]


def _forecast(scores):
    """Say how good the forecast probabilities are."""
    if np.isnan(scores.value.area):
        return ["  probability forecast: cannot be ranked where all networks learned, or none did"]

    def said(name, digits):
        value, low, high = (getattr(one, name) for one in scores[:3])
        return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    return [
        f"  probability forecast: area under the curve {said('area', 2)}, right: "
        f"{said('balanced_accuracy', 2)}, Brier score {said('brier', 3)} "
        f"({scores.constant_brier:.3f} for the share that learned)"
    ]


def wrong_forecasts(dataset: xr.Dataset, settings: list[str]) -> list[str]:
    """Tell in words of the networks whose forecasts were most wrong, and what drove these."""
    chosen = dataset.sel(setting=settings)
    learned = chosen["outcome"] == jrnn.Outcome.LEARNED
    off = abs(chosen["probability"] - learned).transpose(*NETWORKS).to_numpy()
    lines = []
    for place in np.argsort(-off, axis=None, kind="stable")[:NUM_WRONG]:
        one = chosen.isel(dict(zip(NETWORKS, np.unravel_index(place, off.shape), strict=True)))
        names = jrnn.LearningFeatures._fields
        features = jrnn.LearningFeatures(*(one[f"feature_{name}"].to_numpy() for name in names))
        forecast = forecast_from(
            features,
            horizon=int(one["horizon"]),
            num_updates=int(dataset["num_updates"]),
            batch_size=int(dataset["batch_size"]),
        )
        said, *drivers = str(forecast).splitlines()
        lines.append(
            f"{one['setting'].item()}, {one['cell'].item()}, gain {float(one['gain']):.2f}: {said},"
            f" but {jrnn.Outcome(int(one['outcome'])).name.lower()} (skill "
            f"{float(one['test_skill']):.2f})"
        )
        lines += drivers[:2]
    return lines


def _shares(agreement):
    """Say how many networks of each predicted regime learned."""
    for regime, counts in zip(jrnn.Regime, agreement.confusion, strict=True):
        learned = counts[jrnn.Outcome.LEARNED - jrnn.Outcome.STUCK]
        expected = "to learn" if regime == jrnn.Regime.STABLE else "not to"
        yield (
            f"  gradient {regime.name.lower() + ',':<11}predicted {expected + ':':<10}"
            f"{learned:>3} of {counts.sum():>3} learned"
        )


def _most_wrong(dataset, settings):
    """Name cell and setting with the largest share of wrong predictions, and say in which way."""
    chosen = dataset.sel(setting=settings)
    wrong, is_known = disagrees(chosen), known(chosen)
    share = wrong.sum((GAIN, "seed")) / is_known.sum((GAIN, "seed"))
    at = share.fillna(0).stack(place=("setting", "cell"))
    setting, cell = at["place"].to_numpy()[np.argmax(at.to_numpy())]
    here = {"setting": setting, "cell": cell}
    regimes = chosen["regime"].sel(here).where(wrong.sel(here))
    stuck = int((regimes == jrnn.Regime.STABLE).sum())
    learned = int(wrong.sel(here).sum()) - stuck
    return (
        f"{cell}, {setting.split(',')[0].replace('_', ' ')}, {stuck + learned} of "
        f"{int(is_known.sel(here).sum())} (stable and did not learn: {stuck}, not stable and "
        f"learned: {learned})"
    )
