"""Find the log growths between which networks learn: the thresholds that predictions use.

SimpleCell networks on delayed recall, at many gains, are predicted and trained as in
regime_versus_training, with seeds that it never uses. The thresholds that best separate those that
learned from those that did not are printed. The library's `THRESHOLDS` are a frozen copy.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.regimes._chosen_gains import GAIN, ChosenGains, choose_gains, draw
from experiments.runner.experiment import Count, Report, Seed

CELL = "SimpleCell"


@dataclasses.dataclass(frozen=True)
class Calibration(ChosenGains):
    """How networks are chosen, predicted and trained.

    Attributes:
        num_parts: into how many parts the gains are dealt, each for one worker at a time.
        num_resamples: of the gains, for the intervals of the thresholds.
    """

    num_gains: Count = 24
    num_seeds: Count = 4
    first_seed: Seed = 1000
    num_records: Count = 1
    num_parts: Count = 4
    num_resamples: Count = 500

    def __post_init__(self) -> None:
        """Refuse parts without a gain."""
        if self.num_parts > self.num_gains:
            msg = f"--num-parts: received {self.num_parts}, expected at most --num-gains"
            raise ValueError(msg)


PRESETS = {
    "quick": Calibration(
        width=8,
        recall_delay=8,
        num_gains=4,
        num_seeds=2,
        num_sequences=3,
        learning_rates=(0.01,),
        num_updates=8,
        batch_size=8,
        held_out_size=32,
        num_parts=1,
    ),
    "default": Calibration(),
    "full": Calibration(
        width=64,
        recall_delay=100,
        num_gains=48,
        num_seeds=10,
        num_sequences=32,
        learning_rates=(0.001, 0.003, 0.01),
        num_updates=3000,
        num_parts=16,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time: every `num_parts`-th gain."""

    part: str


def units(config: Calibration) -> list[Unit]:
    """List the parts of the work."""
    return [Unit(str(part)) for part in range(config.num_parts)]


def work(config: Calibration, unit: Unit, report: Report) -> xr.Dataset:
    """Predict and train the networks of some gains."""
    task = protocol.recall(config.recall_delay, config.dtype)
    report("choosing gains", 0.0)
    gains = choose_gains(config, CELL, task).gains[int(unit.part) :: config.num_parts]
    networks = draw(config, CELL, task, gains, config.seeds)
    report("predicting", 0.1)
    predicted = protocol.predictions(config, task, networks, GAIN, method="probes")
    trained = protocol.trainings(
        config,
        task,
        networks,
        GAIN,
        lambda what, done: report(what, 0.15 + 0.85 * done),
        num_records=config.num_records,
    )
    return predicted.merge(trained).assign(gain=(GAIN, gains))


def combine(config: Calibration, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join the gains, and find the thresholds."""
    dataset = xr.concat([parts[unit] for unit in units(config)], GAIN, data_vars="minimal")
    best, interval = thresholds(dataset.sortby("gain"), config.num_resamples)
    return (
        dataset.sortby("gain")
        .assign(
            {
                "threshold": ("bound", list(best), {"units": "nats"}),
                "threshold_interval": (("bound", "end"), interval, {"units": "nats"}),
            }
        )
        .assign_coords(bound=list(jrnn.Thresholds._fields))
    )


def thresholds(dataset: xr.Dataset, num_resamples: int) -> tuple[jrnn.Thresholds, np.ndarray]:
    """Return the thresholds of highest balanced accuracy, and their 95 % interval over gains.

    They are NaN where all networks learned, or none did.
    """
    growth = dataset["log_growth"].median("sequence").transpose(GAIN, "seed").to_numpy()
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).transpose(GAIN, "seed").to_numpy()
    if learned.all() or not learned.any():
        return jrnn.Thresholds(np.nan, np.nan), np.full((2, 2), np.nan)
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(num_resamples):
        rows = generator.integers(0, len(growth), len(growth))
        if 0 < learned[rows].mean() < 1:
            resampled.append(_best(growth[rows].ravel(), learned[rows].ravel()))
    interval = np.quantile(np.array(resampled), [0.025, 0.975], axis=0).T
    return jrnn.Thresholds(*_best(growth.ravel(), learned.ravel())), interval


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


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print skill by log growth, and the thresholds beside those that the library uses."""
    table = Table(pad_edge=False, title=f"{CELL}, delayed recall: held-out skill of each network")
    for column in ("gain", "log growth (nats)", "skill"):
        table.add_column(column, justify="right", no_wrap=True)
    for index in range(dataset.sizes[GAIN]):
        at = dataset.isel({GAIN: index})
        skills = " ".join(f"{float(skill):.2f}" for skill in at["test_skill"])
        table.add_row(
            f"{float(at['gain']):.2f}", f"{float(at['log_growth'].median()):+.1f}", skills
        )
    console.print(table)
    for name, frozen in jrnn.THRESHOLDS._asdict().items():
        at = dataset.sel(bound=name)
        low, high = at["threshold_interval"].to_numpy()
        console.print(
            f"{name}: {float(at['threshold']):+.1f} nats, 95 % over gains [{low:+.1f}, "
            f"{high:+.1f}]; the library uses {frozen:+.1f}",
            highlight=False,
        )
