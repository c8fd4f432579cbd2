"""Predict the gradient regime of SimpleCell, GRU and LSTM networks, train them, and compare.

For each cell and task, recurrent gains are chosen from predictions alone so that both sides of
"stable" are covered; each network is predicted, then trained with a fixed grid of learning rates,
and the outcome is compared with the prediction, beside what simple rules would have said.
"""

import time
from typing import NamedTuple

import jax
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import results
from experiments.networks import CELLS
from experiments.protocol import Ensemble, Protocol, Report
from experiments.units import run_units

NAME = "regime_versus_training"
OPTIMIZERS = {"delayed_recall": ("adam", "sgd"), "sequential_digits": ("adam",)}
PRESETS = {
    "quick": Protocol(
        width=8,
        recall_delay=8,
        digits_delay=8,
        num_gains=3,
        num_seeds=1,
        num_sequences=3,
        num_updates=8,
        batch_size=8,
        num_records=2,
        held_out_size=32,
        adam_rates=(0.01,),
        sgd_rates=(0.3,),
    ),
    "default": Protocol(),
    "full": Protocol(
        width=64,
        recall_delay=100,
        digits_delay=100,
        num_gains=16,
        num_seeds=5,
        num_sequences=32,
        adam_rates=(0.001, 0.003, 0.01),
        sgd_rates=(0.1, 0.3, 1.0),
        num_updates=3000,
        num_records=10,
    ),
}


class Unit(NamedTuple):
    """What one worker does at a time."""

    cell: str
    task: str


def run(protocol: Protocol, preset: str, *, num_workers: int, console: Console) -> int:
    """Run the comparison, print it, write one NetCDF file; return the number of failed units."""
    started = time.perf_counter()
    # The longest first, so that the workers finish together.
    units = [Unit(cell, task) for task in reversed(OPTIMIZERS) for cell in reversed(CELLS)]
    folder = results.directory(NAME)
    parts, failures = run_units(
        work, protocol, units, folder, num_workers=num_workers, console=console
    )
    for unit, error in failures.items():
        console.print(f"[red]{'-'.join(unit)} failed: {error}")
    if failures:
        console.print("finished units are saved; the same command makes the others again")
        return len(failures)
    dataset = joined(
        [joined([parts[Unit(cell, task)] for task in OPTIMIZERS], "setting") for cell in CELLS],
        "cell",
    )
    dataset = dataset.assign(threshold=("bound", list(jrnn.THRESHOLDS))).assign_coords(
        cell=list(CELLS), bound=list(jrnn.Thresholds._fields)
    )
    seconds = time.perf_counter() - started
    dataset = results.described(dataset, protocol, device=_device(), seconds=seconds)
    path = results.write(dataset, results.path_of(NAME, preset, protocol.dtype))
    show(dataset, console)
    console.print(f"{seconds:.0f} s; wrote {path.relative_to(results.ROOT.parent)}")
    return 0


def work(protocol: Protocol, unit: Unit, report: Report) -> xr.Dataset:
    """Predict and train all networks of one cell on one task."""
    ensemble = Ensemble(protocol, unit.cell, unit.task)
    report("choosing gains", 0.02)
    gains, candidates, log_growths = ensemble.choose_gains()
    report("predicting", 0.1)
    predicted = ensemble.predict(gains)
    optimizers = OPTIMIZERS[unit.task]
    settings = []
    for index, optimizer in enumerate(optimizers):
        start, share = 0.15 + 0.85 * index / len(optimizers), 0.85 / len(optimizers)
        trained = ensemble.train(
            gains, optimizer, lambda what, done, a=start, b=share: report(what, a + b * done)
        )
        setting = predicted.merge(trained).reset_coords("gain")
        setting["candidate_gain"] = ("candidate", candidates)
        setting["candidate_log_growth"] = ("candidate", log_growths)
        setting["horizon"] = ensemble.task.horizon
        settings.append(setting.expand_dims(setting=[f"{unit.task}, {optimizer}"]))
    return joined(settings, "setting")


def joined(datasets: list[xr.Dataset], dim: str) -> xr.Dataset:
    """Join datasets along a new or existing dimension; what one of them lacks is NaN."""
    return xr.concat(
        datasets, dim, data_vars="all", coords="different", compat="equals", join="outer"
    )


def compare(dataset: xr.Dataset, settings: list[str]) -> jrnn.Agreement:
    """Compare prediction and outcome over the networks of all cells in the given settings.

    Networks whose prediction is undetermined, all digits of their gains lost, are left out.
    """
    dims = ("setting", "cell", "gain_index", "seed")
    chosen = dataset.sel(setting=settings)
    determined = ~chosen["log_growth"].isnull().all("sequence").transpose(*dims).to_numpy().ravel()
    stacked = chosen[
        ["regime", "outcome", "borderline", "spectral_radius", "kernel_norm", "exponent", "gain"]
    ].broadcast_like(chosen["regime"])
    flat = {name: stacked[name].transpose(*dims).to_numpy().ravel()[determined] for name in stacked}
    # One group for each cell, task and gain: its networks are not independent.
    shape = tuple(chosen.sizes[dim] for dim in dims)
    groups = np.broadcast_to(np.arange(np.prod(shape[:3])).reshape(*shape[:3], 1), shape).ravel()
    return jrnn.score_regimes(
        flat["regime"].astype(int),
        flat["outcome"].astype(int),
        groups=groups[determined],
        borderline=flat["borderline"].astype(bool),
        rules={
            "spectral radius > 1": flat["spectral_radius"] > 1,
            "norm of W > 1": flat["kernel_norm"] > 1,
            "largest exponent > 0": flat["exponent"] > 0,
        },
        key=jax.random.key(0),
    )


def settings_of(dataset: xr.Dataset, optimizer: str) -> list[str]:
    """Return the settings trained with an optimiser."""
    return [s for s in dataset["setting"].to_numpy().tolist() if s.endswith(f", {optimizer}")]


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print networks, disagreements and scores."""
    for setting in dataset["setting"].to_numpy():
        horizon = int(dataset["horizon"].sel(setting=setting).max())
        table = Table(title=f"{setting}: log growth over {horizon} steps, in nats")
        for column in ("cell", "gain", "log growth", "predicted", "test skill", "observed"):
            table.add_column(column, justify="right" if "gain" in column else "left")
        for cell in dataset["cell"].to_numpy():
            for row in _rows(dataset.sel(setting=setting, cell=cell)):
                table.add_row(cell, *row)
            table.add_section()
        console.print(table)
    console.rule("the full product of Jacobians under the predictions")
    for line in spectra(dataset):
        console.print(line, highlight=False, soft_wrap=True)
    console.rule("networks where prediction and training disagree")
    for line in disagreements(dataset):
        console.print(line, highlight=False, soft_wrap=True)
    titles = {"adam": "Adam with clipping, both tasks", "sgd": "plain SGD, delayed recall"}
    for optimizer, title in titles.items():
        console.rule(f"{title}: does the prediction hold?")
        result = compare(dataset, settings_of(dataset, optimizer))
        console.print(str(result), highlight=False, markup=False, soft_wrap=True)


def spectra(dataset: xr.Dataset) -> list[str]:
    """Describe the singular values of each cell, and how far product and profile agree."""
    lines = []
    for cell in dataset["cell"].to_numpy():
        part = dataset.sel(cell=cell)
        largest, middle, smallest = (
            part[f"{name}_log_singular_value"].median("sequence")
            for name in ("largest", "middle", "smallest")
        )
        lines.append(
            f"{cell}: largest singular value {_power(largest.min())} to {_power(largest.max())}, "
            f"the middle one {_power(middle.min())} to {_power(middle.max())}, the smallest "
            f"{_power(smallest.min())} to {_power(smallest.max())}"
        )
    exact, profile = dataset["carry_log_growth"], dataset["profile_at_horizon"]
    known = np.isfinite(exact) & np.isfinite(profile)
    off = abs(profile - exact).where(known)
    # Rounding counts where all directions were drawn.
    within = off <= 3 * dataset["profile_error"] + 10 * dataset["log_growth_error"] + 1e-3
    lines.append(
        f"the backward profile, from 8 random gradients, agrees with the product within three "
        f"sampling errors in {int(within.where(known).sum())} of {int(known.sum())} sequences, "
        f"and the largest difference is {float(off.max()):.2f} nats"
    )
    return lines


def _power(log_value):
    value = float(log_value)
    return "0" if value == -np.inf else f"e^{value:+.0f}"


def disagreements(dataset: xr.Dataset) -> list[str]:
    """Describe every network whose prediction and outcome disagree, one line each."""
    lines = []
    for setting in dataset["setting"].to_numpy():
        for cell in dataset["cell"].to_numpy():
            part = dataset.sel(setting=setting, cell=cell)
            wrong = (part["regime"] == jrnn.Regime.STABLE) != (
                part["outcome"] == jrnn.Outcome.LEARNED
            )
            wrong &= part["log_growth"].notnull().any("sequence")  # the others are undetermined
            for i, j in np.argwhere(wrong.transpose("gain_index", "seed").to_numpy()):
                one = part.isel(gain_index=i, seed=j)
                lines.append(
                    f"{setting}, {cell}, gain {float(one.gain):.2f}: "
                    f"{jrnn.Regime(int(one.regime)).name.lower()} "
                    f"(e^{float(one.log_growth.median()):+.1f}"
                    f"{', borderline' if bool(one.borderline) else ''}), "
                    f"but {jrnn.Outcome(int(one.outcome)).name.lower()} "
                    f"(skill {float(one.test_skill):.2f})"
                )
    return lines or ["none"]


def _rows(part):
    for index in range(part.sizes["gain_index"]):
        at = part.isel(gain_index=index)
        known = at["log_growth"].notnull().any("sequence").to_numpy()
        regimes = [
            jrnn.Regime(int(regime)).name.lower() if is_known else "undetermined"
            for regime, is_known in zip(at["regime"].to_numpy(), known, strict=True)
        ]
        outcomes = [jrnn.Outcome(int(o)).name.lower() for o in at["outcome"].to_numpy()]
        yield (
            f"{float(at['gain']):.2f}",
            f"{float(at['log_growth'].median()):+.1f}" if known.any() else "unknown",
            _counted(regimes),
            " ".join(f"{float(s):.2f}" for s in at["test_skill"].to_numpy()),
            _counted(outcomes),
        )


def _counted(names):
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _device():
    return str(jax.devices()[0].device_kind)
