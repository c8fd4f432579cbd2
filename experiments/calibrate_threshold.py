"""Find the log gains between which networks learn: the thresholds that predictions use.

SimpleCell networks on delayed recall, at many gains, are predicted and trained by the protocol of
the comparison, with seeds that the comparison never uses. A curve that rises and falls with the
predicted log gain is fitted to which of them learned; the log gains at which it passes one half
are printed, and the library's `THRESHOLDS` are a frozen copy of them.
"""

import dataclasses
import time
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from rich.console import Console

import jacobian_rnn as jrnn
from experiments import results
from experiments.protocol import Ensemble, Protocol, Report
from experiments.regime_versus_training import PRESETS as COMPARISON_PRESETS
from experiments.units import run_units

NAME = "calibrate_threshold"
FIRST_SEED = 1000
PRESETS = {
    preset: dataclasses.replace(
        protocol,
        num_gains=3 * protocol.num_gains,
        num_seeds=2 * protocol.num_seeds,
        first_seed=FIRST_SEED,
    )
    for preset, protocol in COMPARISON_PRESETS.items()
}


class Unit(NamedTuple):
    """What one worker does at a time: every `num_parts`-th gain."""

    part: str
    num_parts: str


def run(protocol: Protocol, preset: str, *, num_workers: int, console: Console) -> int:
    """Calibrate, print the thresholds, and write one NetCDF file; return the number of failures."""
    started = time.perf_counter()
    units = [Unit(str(part), "4") for part in range(4)]
    folder = results.directory(NAME)
    parts, failures = run_units(
        work, protocol, units, folder, num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]part {unit.part} failed: {error}")
    if failures:
        return len(failures)
    dataset = xr.concat([parts[unit] for unit in units], "gain_index", data_vars="all").sortby(
        "gain"
    )
    best, band = thresholds(dataset)
    dataset = dataset.assign(
        threshold=("bound", list(best)),
        threshold_interval=(("bound", "end"), band),
    ).assign_coords(bound=["vanishing", "exploding"])
    seconds = time.perf_counter() - started
    device = str(jax.devices()[0].device_kind)
    dataset = results.described(dataset, protocol, device=device, seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, protocol.dtype))
    for index in range(dataset.sizes["gain_index"]):
        at = dataset.isel(gain_index=index)
        skills = " ".join(f"{float(skill):.2f}" for skill in at["test_skill"])
        console.print(
            f"gain {float(at['gain']):6.2f}  log gain {float(at['log_gain'].median()):+6.1f}  "
            f"skill {skills}",
            highlight=False,
        )
    for name, value, (low, high) in zip(jrnn.Thresholds._fields, best, band, strict=True):
        console.print(f"{name}: {value:+.1f} nats, 95 % over gains [{low:+.1f}, {high:+.1f}]")
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(protocol: Protocol, unit: Unit, report: Report) -> xr.Dataset:
    """Predict and train every `num_parts`-th gain."""
    ensemble = Ensemble(protocol, "SimpleCell", "delayed_recall")
    report("choosing gains", 0.02)
    gains = ensemble.choose_gains()[0][int(unit.part) :: int(unit.num_parts)]
    report("predicting", 0.1)
    predicted = ensemble.predict(gains)
    return predicted.merge(
        ensemble.train(gains, "adam", lambda what, done: report(what, 0.15 + 0.85 * done))
    ).reset_coords("gain")


def thresholds(dataset: xr.Dataset, num_resamples: int = 200) -> tuple[jrnn.Thresholds, np.ndarray]:
    """Fit the log gains at which half of the networks learn, and their 95 % interval over gains."""
    log_gain = dataset["log_gain"].median("sequence").transpose("gain_index", "seed").to_numpy()
    learned = (
        (dataset["outcome"] == jrnn.Outcome.LEARNED).transpose("gain_index", "seed").to_numpy()
    )
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(num_resamples):
        rows = generator.integers(0, len(log_gain), len(log_gain))
        resampled.append(_fit(log_gain[rows].ravel(), learned[rows].ravel()))
    band = np.quantile(np.array(resampled), [0.025, 0.975], axis=0).T
    return jrnn.Thresholds(*_fit(log_gain.ravel(), learned.ravel())), band


def _fit(log_gain, learned):
    """Fit P(learned) = logistic((x − low) / width) · logistic((high − x) / width) to the outcomes.

    Maximum likelihood over a grid of thresholds, one nat apart at most a hundred times, and widths.
    """
    lows = np.linspace(log_gain.min(), 0, 61)
    highs = np.linspace(0, log_gain.max(), 61)
    best, best_likelihood = (0.0, 0.0), -np.inf
    for width in (0.5, 1.0, 2.0, 4.0):
        rising = -np.logaddexp(0, -(log_gain - lows[:, None]) / width)
        falling = -np.logaddexp(0, -(highs[:, None] - log_gain) / width)
        log_yes = rising[:, None] + falling
        log_no = np.log(-np.expm1(np.minimum(log_yes, -1e-12)))
        likelihood = np.sum(np.where(learned, log_yes, log_no), axis=-1)
        at = np.unravel_index(np.argmax(likelihood), likelihood.shape)
        if likelihood[at] > best_likelihood:
            best, best_likelihood = (float(lows[at[0]]), float(highs[at[1]])), likelihood[at]
    return best
