"""Put networks at criticality on purpose, and ask whether they learn where default ones do not.

For each cell the recurrent gain at which λ₁ = 0 is searched, and for gated cells, at gain 1, the
bias of the gate that keeps the state: the one at which λ₁ = 0, which need not exist, and the one at
which the memory −1/λ₁ is the horizon of the task. Networks of default, critical gain and that
memory are trained on delayed recall as in regime_versus_training, and those that learn are counted.

The search sees white Gaussian input of the task's noise: as many channels and the same standard
deviation. That is what the task feeds at every step but the first, which shows the symbol.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table
from scipy.special import ndtri
from scipy.stats import binomtest

import jacobian_rnn as jrnn
from experiments import protocol
from experiments.drawing import CELLS
from experiments.protocol import NOISE_STD, Protocol
from experiments.runner.experiment import Axis, Count, Positive, Range, Report, Seed

LEVEL = 0.95
DEFAULT, BY_GAIN, BY_BIAS = "default", "critical gain", "memory bias"
SEARCHING = 5  # purpose of a key
Cell = Literal["SimpleCell", "GRUCell", "LSTMCell"]


@dataclasses.dataclass(frozen=True)
class Criticality(Protocol):
    """How the critical value is searched, and how networks are predicted and trained.

    Attributes:
        cells: Flax cells: LSTMCell is OptimizedLSTMCell, the same equations.
        recall_delay: steps between what delayed recall shows and the answer.
        search_networks: networks searched, and as many that test what was found.
        search_steps: steps of each sequence of the search, warm-up included.
        search_warmup: first steps that are not counted; a state whose gate has the highest bias
            needs 1 + e^bias steps to settle.
        bias_bounds: lowest and highest bias of the gate that keeps the state.
        tolerance: of λ₁ in the search, nats per step.
    """

    cells: Axis[Cell] = ("SimpleCell", "GRUCell", "LSTMCell")
    recall_delay: Count = 200
    num_seeds: Count = 8
    first_seed: Seed = 2000  # calibration and comparison use lower ones
    search_networks: Count = 16
    search_steps: Count = 4000
    search_warmup: Count = 1000
    bias_bounds: Range = (-2.0, 6.0)
    tolerance: Positive = 5e-4

    def __post_init__(self) -> None:
        """Refuse a search that counts no step."""
        if self.search_warmup >= self.search_steps:
            msg = (
                f"--search-warmup: received {self.search_warmup}, expected less than "
                f"--search-steps, {self.search_steps}"
            )
            raise ValueError(msg)


PRESETS = {
    "quick": Criticality(
        cells=("SimpleCell", "GRUCell"),
        width=8,
        recall_delay=10,
        num_seeds=2,
        num_sequences=3,
        learning_rates=(0.01,),
        num_updates=8,
        batch_size=8,
        held_out_size=32,
        search_networks=4,
        search_steps=120,
        search_warmup=40,
        tolerance=5e-3,
    ),
    "default": Criticality(),
    "full": Criticality(
        width=64,
        num_seeds=32,
        num_sequences=32,
        learning_rates=(0.001, 0.003, 0.01),
        num_updates=3000,
        held_out_size=1024,
        search_networks=64,
        search_steps=10_000,
        search_warmup=2000,
    ),
}
MEANINGS = {
    "found_value": ("gain or bias at which mean λ₁ is the wanted rate", "1"),
    "found_interval": ("95 % interval of that value, over networks drawn afresh", "1"),
    "found_rate": ("mean λ₁ of the searched networks there", "nats per step"),
    "fresh_rate": ("mean λ₁ of fresh networks there", "nats per step"),
    "highest_rate": ("highest mean λ₁ at any value searched", "nats per step"),
    "log_growth": ("predicted log growth over the horizon, before training", "nats"),
    "test_skill": ("held-out skill at the learning rate that validates best", "1"),
    "success_rate": ("fraction of networks that learned", "1"),
    "success_interval": ("its 95 % interval (Wilson)", "1"),
    "only_here": ("seeds that learned and did not with the default", "1"),
    "only_default": ("seeds that learned with the default and not here", "1"),
    "p_value": ("of the exact two-sided sign test on these two", "1"),
}


class Unit(NamedTuple):
    """What one worker does at a time."""

    cell: str


class Arm(NamedTuple):
    """One way to initialise a cell: Flax's kernels times a gain, and the keeping gate's bias."""

    name: str
    gain: float
    forget_bias: float  # NaN: the cell has no gates


def units(config: Criticality) -> list[Unit]:
    """List the cells, those that take longest first."""
    return [Unit(cell) for cell in reversed(config.cells)]


def work(config: Criticality, unit: Unit, report: Report) -> xr.Dataset:
    """Search the critical values of one cell; predict and train its networks."""
    gated = unit.cell != "SimpleCell"
    report("searching the gain", 0.0)
    searches = [search(config, unit.cell, "gain", 0.0)]
    if gated:
        report("searching the bias", 0.03)
        # A gated cell may reach λ₁ = 0 at no bias; it reaches the memory of the task's horizon.
        rates = (0.0, -1 / config.recall_delay)
        searches += [search(config, unit.cell, "forget_bias", rate) for rate in rates]
    arms = arms_of(searches, gated=gated)
    task = protocol.recall(config.recall_delay, config.dtype)
    networks = draw(config, unit.cell, arms)
    report("predicting", 0.08)
    predicted = protocol.predictions(config, task, networks, "condition", method="probes")
    trained = protocol.trainings(
        config, task, networks, "condition", lambda what, done: report(what, 0.1 + 0.9 * done)
    )
    dataset = predicted.merge(trained).assign_coords(
        cell=("condition", [unit.cell] * len(arms)),
        arm=("condition", [arm.name for arm in arms]),
        gain=("condition", [arm.gain for arm in arms]),
        forget_bias=("condition", [arm.forget_bias for arm in arms]),
    )
    return dataset.assign(horizon=task.horizon).merge(table_of(unit.cell, searches))


def draw(config: Criticality, cell: str, arms: list[Arm]) -> jrnn.Recurrence:
    """Draw the networks of all arms; those of one seed are the same draw in each."""
    gains = jnp.asarray([arm.gain for arm in arms], config.dtype)
    biases = jnp.asarray([arm.forget_bias for arm in arms], config.dtype)

    def one(arm, key):
        return jrnn.draw(
            _cell(config, cell),
            key=key,
            num_inputs=protocol.recall(config.recall_delay, config.dtype).input_size,
            gain=gains[arm],
            forget_bias=None if cell == "SimpleCell" else biases[arm],
        )

    return protocol.draw_all(one, np.arange(len(arms)), config.seeds)


def search(config: Criticality, cell: str, vary, rate: float) -> jrnn.RateSearch:
    """Find the gain or bias at which networks grow at a rate under the noise of the task."""
    return jrnn.at_rate(
        _cell(config, cell),
        rate,
        num_inputs=protocol.recall(config.recall_delay, config.dtype).input_size,
        key=jax.random.key(SEARCHING),
        vary=vary,
        bounds=config.bias_bounds if vary == "forget_bias" else None,
        num_networks=config.search_networks,
        num_steps=config.search_steps,
        num_warmup=config.search_warmup,
        input_std=NOISE_STD,
        tolerance=config.tolerance,
    )


def arms_of(searches: list[jrnn.RateSearch], *, gated: bool) -> list[Arm]:
    """Return the default and what the searches of the gain and of a finite memory found, if any."""
    bias = 0.0 if gated else np.nan
    arms = [Arm(DEFAULT, 1.0, bias)]
    for found in searches:
        if found.found and found.parameter == "gain":
            arms.append(Arm(BY_GAIN, float(found.value), bias))
        elif found.found and found.target < 0:
            arms.append(Arm(BY_BIAS, 1.0, float(found.value)))
    return arms


def table_of(cell_name: str, searches: list[jrnn.RateSearch]) -> xr.Dataset:
    """Lay the searches of one cell out in a dataset."""
    columns = {
        "searched": [one.parameter for one in searches],
        "wanted_rate": [one.target for one in searches],
        "found": [one.found for one in searches],
        "found_value": [float(one.value) for one in searches],
        "found_rate": [float(one.rate.value) for one in searches],
        "found_rate_error": [float(one.rate.standard_error) for one in searches],
        "fresh_rate": [float(one.fresh_rate.value) for one in searches],
        "fresh_rate_error": [float(one.fresh_rate.standard_error) for one in searches],
        "confirmed": [one.confirmed for one in searches],
        "highest_rate": [float(np.nanmax(one.rates)) for one in searches],
    }
    return xr.Dataset(
        {name: ("search", values) for name, values in columns.items()}
        | {"found_interval": (("search", "end"), np.stack([one.interval for one in searches]))}
    ).assign_coords(search_cell=("search", [cell_name] * len(searches)))


def combine(config: Criticality, parts: Mapping[Unit, xr.Dataset]) -> xr.Dataset:
    """Join the cells, and count the networks that learned."""
    return counted(joined([parts[Unit(cell)] for cell in config.cells]))


def joined(parts: list[xr.Dataset]) -> xr.Dataset:
    """Join the cells: their initialisations one after another, and so their searches."""
    concat = partial(
        xr.concat, data_vars="minimal", coords="minimal", compat="equals", join="exact"
    )
    conditions = concat([part.drop_dims("search") for part in parts], "condition")
    searches = concat([part.drop_dims("condition") for part in parts], "search")
    return xr.merge([conditions, searches], compat="equals", join="exact")


def counted(dataset: xr.Dataset) -> xr.Dataset:
    """Count the networks that learned, and compare each arm with the default, seed by seed."""
    learned = (dataset["outcome"] == jrnn.Outcome.LEARNED).transpose("condition", "seed").to_numpy()
    num_learned, num_seeds = learned.sum(axis=1), learned.shape[1]
    cells, arms = dataset["cell"].to_numpy(), dataset["arm"].to_numpy()
    default = np.array([learned[(cells == cell) & (arms == DEFAULT)][0] for cell in cells])
    only_here = (learned & ~default).sum(axis=1)
    only_default = (~learned & default).sum(axis=1)
    p_values = [sign_test(*pair) for pair in zip(only_here, only_default, strict=True)]
    dataset = dataset.assign(
        num_learned=("condition", num_learned),
        success_rate=("condition", num_learned / num_seeds),
        success_interval=(("condition", "end"), wilson(num_learned, num_seeds)),
        only_here=("condition", only_here),
        only_default=("condition", only_default),
        p_value=("condition", p_values),
        threshold=("bound", list(jrnn.THRESHOLDS)),
    ).assign_coords(bound=list(jrnn.Thresholds._fields))
    for name, (meaning, unit) in MEANINGS.items():
        dataset[name].attrs = {"long_name": meaning, "units": unit}
    return dataset


def wilson(num_successes: np.ndarray, num_trials: int) -> np.ndarray:
    """Return Wilson's 95 % intervals of success rates, `(..., 2)`.

    References:
        E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        J. Amer. Statist. Assoc. 22 (1927).
    """
    z2 = ndtri((1 + LEVEL) / 2) ** 2
    rate = np.asarray(num_successes) / num_trials
    middle = rate + z2 / (2 * num_trials)
    half = np.sqrt(z2 * (rate * (1 - rate) / num_trials + z2 / (4 * num_trials**2)))
    ends = np.stack([middle - half, middle + half], axis=-1) / (1 + z2 / num_trials)
    return np.clip(ends, 0, 1)


def sign_test(num_for: int, num_against: int) -> float:
    """Return the two-sided p-value of paired successes, from the pairs that differ."""
    pairs = int(num_for + num_against)
    return float(binomtest(int(num_for), pairs).pvalue) if pairs else 1.0


def show(dataset: xr.Dataset, console: Console) -> None:
    """Print the searches, how many networks learned, and the comparisons."""
    console.print(search_table(dataset))
    console.print(success_table(dataset))
    for line in comparisons(dataset):
        console.print(line, highlight=False, soft_wrap=True)


def search_table(dataset: xr.Dataset) -> Table:
    """Lay out what the searches found."""
    table = Table(
        pad_edge=False,
        title="where networks grow at a rate λ₁ (nats per step) under the task's noise",
        caption=(
            "Bias: of the gate that keeps the state, at gain 1. Fresh λ₁: mean ± standard error "
            "of networks drawn afresh there; !: they disagree. Highest: at any value."
        ),
    )
    for column in ("cell", "varied", "λ₁", "value [95 %]", "fresh λ₁", "highest"):
        table.add_column(column, no_wrap=True)
    for index in range(dataset.sizes["search"]):
        one = dataset.isel(search=index)
        low, high = one["found_interval"].to_numpy()
        found = ("not found", "")
        if bool(one["found"]):
            doubt = "" if bool(one["confirmed"]) else " !"
            found = (
                f"{float(one['found_value']):.3f} [{low:.3f}, {high:.3f}]",
                f"{float(one['fresh_rate']):+.4f} ± {float(one['fresh_rate_error']):.4f}{doubt}",
            )
        table.add_row(
            str(one["search_cell"].item()).removesuffix("Cell"),
            str(one["searched"].item()).removeprefix("forget "),
            f"{float(one['wanted_rate']):.4g}",
            *found,
            f"{float(one['highest_rate']):+.4f}",
        )
    return table


def success_table(dataset: xr.Dataset) -> Table:
    """Lay out predictions and outcomes, one line for each way to initialise."""
    num_seeds = dataset.sizes["seed"]
    table = Table(
        pad_edge=False,
        title=f"delayed recall over {int(dataset['horizon'])} steps, {num_seeds} networks each",
        caption=(
            "Log growth: predicted over the horizon, nats, median. Stable: networks predicted to "
            "learn. Learned: with Wilson's 95 % interval. Skill: held out, median and best."
        ),
    )
    for column in ("cell", "initialisation", "log growth", "stable", "learned", "skill"):
        table.add_column(column, no_wrap=True)
    cells = dataset["cell"].to_numpy().tolist()
    for index, cell in enumerate(cells):
        one = dataset.isel(condition=index)
        low, high = one["success_interval"].to_numpy()
        skill = one["test_skill"].to_numpy()
        table.add_row(
            cell.removesuffix("Cell"),
            str(one["arm"].item()),
            f"{np.nanmedian(one['log_growth'].median('sequence')):+.1f}",
            f"{int((one['regime'] == jrnn.Regime.STABLE).sum())}/{num_seeds}",
            f"{int(one['num_learned'])}/{num_seeds} [{low:.2f}, {high:.2f}]",
            f"{np.nanmedian(skill):.2f}, {np.nanmax(skill):.2f}",
            end_section=cells[index : index + 2] != [cell, cell],
        )
    return table


def comparisons(dataset: xr.Dataset) -> list[str]:
    """Compare with the default, seed by seed, and say how many of the predicted ones learned."""
    others = [dataset.isel(condition=i) for i in np.flatnonzero(dataset["arm"] != DEFAULT)]
    lines = [
        f"{one['cell'].item()}, {one['arm'].item()}: {int(one['only_here'])} of "
        f"{one['seed'].size} seeds learned that did not with the default, "
        f"{int(one['only_default'])} the other way (exact sign test, p = {one['p_value']:.2g})"
        for one in others
    ]
    stable = dataset["regime"] == jrnn.Regime.STABLE
    learned = dataset["outcome"] == jrnn.Outcome.LEARNED
    return [
        *lines,
        f"of {int(stable.sum())} networks predicted to be stable {int((learned & stable).sum())} "
        f"learned, of {int((~stable).sum())} others {int((learned & ~stable).sum())}",
    ]


def _cell(config, cell):
    return CELLS[cell](config.width, param_dtype=jnp.dtype(config.dtype))
