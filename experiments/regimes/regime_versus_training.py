"""Predict the gradient regime of SimpleCell, GRU and LSTM networks, train them, and compare.

For each cell and task, recurrent gains are chosen from predictions alone so that both sides of
"stable" are covered. Of each network the regime is predicted and the probability that it learns is
forecast. Then it is trained, and the outcome is compared with both, beside what simple rules would
have said. The whole product of step Jacobians over the horizon stands under the prediction, with
its singular values.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.drawing import CELLS
from experiments.protocol import Optimizer
from experiments.regimes import _comparison_words as words
from experiments.regimes import comparison_scores as scores
from experiments.regimes._chosen_gains import GAIN, ChosenGains, choose_gains, draw
from experiments.runner.experiment import Axis, Count, Positive, Report
from jacobian_rnn import tasks

OPTIMIZERS: dict[str, tuple[Optimizer, ...]] = {
    "delayed_recall": ("adam", "sgd"),
    "sequential_digits": ("adam",),
}


@dataclasses.dataclass(frozen=True)
class Comparison(ChosenGains):
    """How networks are chosen, predicted and trained.

    Attributes:
        digits_delay: steps between the last pixel of a digit and the answer.
        learning_rates: of Adam. The first is the one that forecasts are told.
        sgd_rates: learning rates of SGD, likewise.
    """

    digits_delay: Count = 30
    learning_rates: Axis[Positive] = (0.005,)
    sgd_rates: Axis[Positive] = (0.2,)


PRESETS = {
    "quick": Comparison(
        width=8,
        recall_delay=8,
        digits_delay=8,
        num_gains=3,
        num_seeds=1,
        num_sequences=3,
        learning_rates=(0.01,),
        sgd_rates=(0.3,),
        num_updates=8,
        batch_size=8,
        num_records=2,
        held_out_size=32,
    ),
    "default": Comparison(),
    "full": Comparison(
        width=64,
        recall_delay=100,
        digits_delay=100,
        num_gains=16,
        num_seeds=5,
        num_sequences=32,
        learning_rates=(0.003,),
        sgd_rates=(0.3,),
        num_updates=3000,
        num_records=10,
    ),
}


class Unit(NamedTuple):
    """What a worker does at a time."""

    cell: str
    task: str


def units(config: Comparison) -> list[Unit]:
    """List cells and tasks, those that take longest first."""
    del config
    return [Unit(cell, task) for task in reversed(OPTIMIZERS) for cell in reversed(CELLS)]


def work(config: Comparison, unit: Unit, report: Report) -> xr.Dataset:
    """Predict and train all networks of one cell on one task."""
    if unit.task == "delayed_recall":
        task = protocol.recall(config.recall_delay, config.dtype)
    else:
        task = tasks.sequential_digits(config.digits_delay, dtype=jnp.dtype(config.dtype))
    report("choosing gains", 0.0)
    choice = choose_gains(config, unit.cell, task)
    networks = draw(config, unit.cell, task, choice.gains, config.seeds)
    report("predicting", 0.05)
    predicted = protocol.predictions(config, task, networks, GAIN, method="exact").assign(
        gain=(GAIN, choice.gains),
        candidate_gain=("candidate", choice.candidates),
        candidate_log_growth=("candidate", choice.log_growths),
        horizon=task.horizon,
    )
    optimizers = OPTIMIZERS[unit.task]
    settings = []
    for index, optimizer in enumerate(optimizers):
        start, share = 0.2 + 0.8 * index / len(optimizers), 0.8 / len(optimizers)
        rates = config.sgd_rates if optimizer == "sgd" else config.learning_rates
        report("forecasting", start)
        forecast = protocol.forecasts(
            config, task, networks, GAIN, optimizer=optimizer, rate=rates[0]
        )
        trained = protocol.trainings(
            config,
            task,
            networks,
            GAIN,
            lambda what, done, a=start, b=share: report(what, a + b * (0.3 + 0.7 * done)),
            num_records=config.num_records,
            optimizer=optimizer,
            rates=rates,
        )
        every = predicted.merge(forecast).merge(trained)
        settings.append(every.expand_dims(setting=[f"{unit.task}, {optimizer}"]))
    return joined(settings, "setting")


def combine(config: Comparison, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join tasks and cells, and say which thresholds the predictions used."""
    of_cells = [
        joined([parts[Unit(cell, task)] for task in OPTIMIZERS], "setting") for cell in CELLS
    ]
    return (
        joined(of_cells, "cell")
        .assign(
            threshold=("bound", list(jrnn.THRESHOLDS), {"units": "nats"}),
            num_updates=config.num_updates,
            batch_size=config.batch_size,
        )
        .assign_coords(cell=list(CELLS), bound=list(jrnn.Thresholds._fields))
    )


def joined(datasets: list[xr.Dataset], dim: str) -> xr.Dataset:
    """Join datasets along a new or existing dimension; what one of them lacks is NaN."""
    return xr.concat(
        datasets, dim, data_vars="all", coords="different", compat="equals", join="outer"
    )


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print networks, products, disagreements and scores, and last what was found."""
    for setting in dataset["setting"].to_numpy():
        horizon = int(dataset["horizon"].sel(setting=setting).max())
        title = f"{setting}: log growth over {horizon} steps and its peak on the way back, nats"
        table = Table(title=title)
        columns = ("cell", "gain", "growth", "peak", "predicted", "P", "test skill", "observed")
        for column in columns:
            table.add_column(column, justify="left" if column[0] in "cpto" else "right")
        for cell in dataset["cell"].to_numpy():
            for row in words.rows(dataset.sel(setting=setting, cell=cell)):
                table.add_row(cell, *row)
            table.add_section()
        console.print(table)
    agreements = {
        name: scores.compare(dataset, scores.settings_of(dataset, name)) for name in words.TITLES
    }
    console.print(words.spectra(dataset))
    parts = {
        "the full product of Jacobians under the predictions": words.products(dataset),
        "networks where prediction and training disagree": words.disagreements(dataset),
        **{words.TITLES[name]: str(one).splitlines() for name, one in agreements.items()},
        "what was found": words.findings(dataset, agreements),
    }
    for title, lines in parts.items():
        console.rule(title)
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)
