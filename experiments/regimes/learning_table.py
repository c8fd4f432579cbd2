"""The table of the ensemble: a row for each training, as text, and as data of the package.

`python -m experiments.regimes.learning_table` makes both the table and the model of forecasts that
the package ships, from the default result of `python -m experiments learning_ensemble`.
"""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import jacobian_rnn as jrnn
from experiments.regimes import _ensemble as ensemble
from experiments.regimes import _forecasting as forecasting
from experiments.regimes.learning_ensemble import PRESETS
from experiments.runner import results
from jacobian_rnn.regimes import ForecastModel, LearningFeatures
from jacobian_rnn.regimes.forecast import MODEL_FILE

DIGITS = 4  # significant
NUM_FITS = 100  # of groups drawn again, for the interval of forecasts
LABELS = ("cell", "task", "optimizer", "kernel", "horizon", "width", "batch_size")
ROWS = ("num_parameters", "gain", "forget_bias", "learning_rate", "seed", "data_seed")
RULES = (
    "spectral_radius",
    "kernel_norm",
    "first_growth",
    "hidden_correlation",
    "input_correlation",
)
COMMAND = "python -m experiments learning_ensemble"
PACKAGE = Path(str(resources.files(jrnn) / "regimes"))
TABLE_FILE = "learning_ensemble.csv"


def table_of(dataset: xr.Dataset) -> pd.DataFrame:
    """Lay out networks of an ensemble as a table, with columns for every budget.

    Networks without a recurrent kernel have no columns of its radius and norm.
    """
    names = (*LABELS, *ROWS, *LearningFeatures._fields, *RULES)
    columns = {name: dataset[name].to_numpy() for name in names if name in dataset}
    for place, budget in enumerate(dataset["budget"].to_numpy().tolist()):
        at = dataset.isel(budget=place)
        columns[f"learned_{budget}"] = (at["outcome"] == jrnn.Outcome.LEARNED).to_numpy()
        columns[f"skill_{budget}"] = np.round(at["test_skill"].to_numpy(), 3)
    return pd.DataFrame(columns)


def budgets_of(table: pd.DataFrame) -> list[int]:
    """Return the numbers of updates after which networks were observed."""
    return [int(name.split("_")[1]) for name in table.columns if name.startswith("learned_")]


def published_table() -> pd.DataFrame:
    """Read the table that the package ships."""
    return pd.read_csv(PACKAGE / TABLE_FILE, comment="#")


def fitted_model(table: pd.DataFrame, provenance: str) -> ForecastModel:
    """Fit the forecast to all networks of a table, and to groups of them drawn again."""
    samples = forecasting.samples_of(table, budgets_of(table))
    signs = forecasting.forecast_signs()
    whole = forecasting.fit(samples.terms, samples.learned, signs, forecasting.PENALTY)
    resampled = []
    for rows in forecasting.resample_groups(samples.group, NUM_FITS):
        drawn = samples.take(rows)
        one = forecasting.fit(drawn.terms, drawn.learned, signs, forecasting.PENALTY)
        resampled.append([*one.weights.values(), one.intercept])
    typical = {name: float(values.mean()) for name, values in samples.terms.items()}
    return ForecastModel(whole.weights, whole.intercept, np.array(resampled), typical, provenance)


def main() -> None:
    """Write the table and the model into the package."""
    dataset = results.read(results.path_of("learning_ensemble", "default", "float32"))
    table = table_of(dataset)
    versions = json.loads(dataset.attrs["versions"])
    made = ", ".join(f"{name} {versions[name]}" for name in ("jax", "flax", "optax"))
    origin = (
        f"{COMMAND}, default preset, float32 on {dataset.attrs['device']}, {made}, {_part(table)}"
    )
    text = table.to_csv(index=False, float_format=f"%.{DIGITS}g")
    (PACKAGE / TABLE_FILE).write_text(f"# {origin}\n{text}")
    num = int((table["data_seed"] == 0).sum())
    # From the text, so that anyone who reads it fits the same numbers.
    model = fitted_model(published_table(), f"{num} networks: {origin}")
    stored = model._asdict() | {"resampled": np.round(model.resampled, 6).tolist()}
    # A line for each fit.
    lines = ",\n".join(f"{json.dumps(key)}: {_lines(value)}" for key, value in stored.items())
    (PACKAGE / MODEL_FILE).write_text(f"{{\n{lines}\n}}\n")


def _part(table):
    """Say of how many of the shapes that are planned there are networks."""
    names = ["cell", "task", "width", "optimizer", "kernel", "horizon"]
    there, planned = len(table[names].drop_duplicates()), len(ensemble.shapes(PRESETS["default"]))
    return f"{there} of {planned} shapes"


def _lines(value):
    if isinstance(value, list):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
