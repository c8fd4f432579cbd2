"""Find the log growths between which networks learn: the thresholds that predictions use.

SimpleCell networks on delayed recall, at many gains, are predicted and trained by the protocol of
the comparison, with seeds that the comparison never uses. The thresholds that best separate those
that learned from those that did not are printed; the library's `THRESHOLDS` are a frozen copy.
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
NUM_GAINS = {"quick": 4, "default": 24, "full": 48}
PRESETS = {
    preset: dataclasses.replace(
        protocol,
        num_gains=NUM_GAINS[preset],
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
            f"gain {float(at['gain']):6.2f}  log growth {float(at['log_growth'].median()):+6.1f}  "
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


def thresholds(dataset: xr.Dataset, num_resamples: int = 500) -> tuple[jrnn.Thresholds, np.ndarray]:
    """Return the thresholds of highest balanced accuracy, and their 95 % interval over gains."""
    log_growth = dataset["log_growth"].median("sequence").transpose("gain_index", "seed").to_numpy()
    learned = (
        (dataset["outcome"] == jrnn.Outcome.LEARNED).transpose("gain_index", "seed").to_numpy()
    )
    if learned.all() or not learned.any():
        unknown = jrnn.Thresholds(float("nan"), float("nan"))
        return unknown, np.full((2, 2), np.nan)
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(num_resamples):
        rows = generator.integers(0, len(log_growth), len(log_growth))
        if 0 < learned[rows].mean() < 1:
            resampled.append(_best(log_growth[rows].ravel(), learned[rows].ravel()))
    band = np.quantile(np.array(resampled), [0.025, 0.975], axis=0).T
    return jrnn.Thresholds(*_best(log_growth.ravel(), learned.ravel())), band


def _best(log_growth, learned):
    """Search all pairs of cuts between neighbouring growths; of equally good ones, the middle."""
    ordered = np.unique(log_growth)
    cuts = np.concatenate([[ordered[0] - 1], (ordered[1:] + ordered[:-1]) / 2, [ordered[-1] + 1]])
    inside = (log_growth > cuts[:, None, None]) & (log_growth < cuts[None, :, None])
    right_yes = inside[..., learned].mean(axis=-1)
    right_no = (~inside[..., ~learned]).mean(axis=-1)
    score = np.where(np.subtract.outer(cuts, cuts) < 0, right_yes + right_no, -np.inf)
    low, high = np.nonzero(score >= score.max() - 1e-12)
    pairs = np.stack([cuts[low], cuts[high]], axis=1)
    middle = np.argmin(np.sum((pairs - np.median(pairs, axis=0)) ** 2, axis=1))
    return float(pairs[middle, 0]), float(pairs[middle, 1])
