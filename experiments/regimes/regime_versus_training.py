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

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.drawing import CELLS
from experiments.protocol import Optimizer
from experiments.regimes import _forecasting as forecasting
from experiments.regimes import learning_table
from experiments.regimes._chosen_gains import GAIN, ChosenGains, choose_gains, draw
from experiments.runner.experiment import Axis, Count, Positive, Report
from jacobian_rnn import tasks
from jacobian_rnn.regimes.forecast import forecast_from

OPTIMIZERS: dict[str, tuple[Optimizer, ...]] = {
    "delayed_recall": ("adam", "sgd"),
    "sequential_digits": ("adam",),
}
TITLES = {"adam": "Adam with clipping, both tasks", "sgd": "plain SGD, delayed recall"}
NETWORKS = ("setting", "cell", GAIN, "seed")
NUM_RESAMPLES = 1000  # of gains, for the intervals of forecasts
NUM_WRONG = 3  # forecasts that are told in words, of each optimiser


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


def known(dataset: xr.Dataset) -> xr.DataArray:
    """Say of which networks there is a prediction: not all digits of what decides are lost."""
    return dataset["deciding_growth"].notnull().any("sequence")


def disagrees(dataset: xr.Dataset) -> xr.DataArray:
    """Say of which networks there is a prediction, and training showed something else."""
    stable = dataset["regime"] == jrnn.Regime.STABLE
    learned = dataset["outcome"] == jrnn.Outcome.LEARNED
    return known(dataset) & (stable != learned)


def compare(dataset: xr.Dataset, settings: list[str]) -> jrnn.Agreement:
    """Compare prediction and outcome over the networks of all cells in the given settings.

    Networks without a prediction are left out.
    """
    names = ["regime", "outcome", "borderline", "spectral_radius", "kernel_norm", "exponent"]
    flat = _flat(dataset.sel(setting=settings), names)
    of = {name: values[flat["known"]] for name, values in flat.items()}
    return jrnn.score_regimes(
        of["regime"].astype(int),
        of["outcome"].astype(int),
        groups=of["group"],
        borderline=of["borderline"].astype(bool),
        rules={
            "spectral radius > 1": of["spectral_radius"] > 1,
            "norm of W > 1": of["kernel_norm"] > 1,
            "largest exponent > 0": of["exponent"] > 0,
        },
        key=jax.random.key(0),
    )


def _flat(chosen, names):
    """Lay out networks in a row: variables, group of each, and whether there is a prediction."""
    # One group for each cell, task and gain: its networks are not independent.
    shape = [chosen.sizes[dim] for dim in NETWORKS[:-1]]
    group = xr.DataArray(np.arange(np.prod(shape)).reshape(shape), dims=NETWORKS[:-1])
    every = chosen[names].assign(group=group, known=known(chosen))
    return {
        name: variable.transpose(*NETWORKS).to_numpy().ravel()
        for name, variable in every.broadcast_like(chosen["regime"]).items()
    }


class ForecastScores(NamedTuple):
    """How good the forecast probabilities of some settings are, and 95 % over gains of each score.

    Attributes:
        value: scores of all networks.
        low: lower ends of the intervals.
        high: upper ends.
        constant_brier: the Brier score of forecasting for all the share that learned.
        num_networks: that were scored, with or without a predicted regime.
    """

    value: forecasting.Scores
    low: forecasting.Scores
    high: forecasting.Scores
    constant_brier: float
    num_networks: int


def score_forecasts(dataset: xr.Dataset, settings: list[str]) -> ForecastScores:
    """Score the forecasts of all networks in the given settings.

    "Learns" is said of what is more probable than the share that learned of the ensemble that the
    model was fitted to.
    """
    flat = _flat(dataset.sel(setting=settings), ["probability", "outcome"])
    probability, learned = flat["probability"], flat["outcome"] == jrnn.Outcome.LEARNED
    table = learning_table.published_table()
    budgets = learning_table.budgets_of(table)
    share = forecasting.samples_of(table, budgets).learned.mean()

    def scores(rows):
        share_of_each = np.full(len(rows), share)
        return forecasting.score(probability[rows], learned[rows], share_of_each)

    draws = forecasting.resample_groups(flat["group"], NUM_RESAMPLES)
    drawn = np.array([scores(rows) for rows in draws])
    # Nothing is ranked where all learned, or none.
    ranked = np.where(np.isnan(drawn).all(axis=0), 0, drawn)
    low, high = np.nanquantile(ranked, (0.025, 0.975), axis=0)
    whole = scores(np.arange(len(learned)))
    return ForecastScores(
        whole,
        forecasting.Scores(*low.tolist()),
        forecasting.Scores(*high.tolist()),
        float(learned.mean() * (1 - learned.mean())),
        len(learned),
    )


def settings_of(dataset: xr.Dataset, optimizer: str) -> list[str]:
    """Return the settings trained with an optimiser."""
    return [s for s in dataset["setting"].to_numpy().tolist() if s.endswith(f", {optimizer}")]


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
            for row in _rows(dataset.sel(setting=setting, cell=cell)):
                table.add_row(cell, *row)
            table.add_section()
        console.print(table)
    agreements = {name: compare(dataset, settings_of(dataset, name)) for name in TITLES}
    console.print(spectra(dataset))
    parts = {
        "the full product of Jacobians under the predictions": products(dataset),
        "networks where prediction and training disagree": disagreements(dataset),
        **{TITLES[name]: str(one).splitlines() for name, one in agreements.items()},
        "what was found": findings(dataset, agreements),
    }
    for title, lines in parts.items():
        console.rule(title)
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rows(part):
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
