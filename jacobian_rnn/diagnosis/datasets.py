"""A diagnosis as a labelled dataset."""

from typing import TYPE_CHECKING

import numpy as np

from jacobian_rnn.diagnosis.advice import median_growth

if TYPE_CHECKING:
    import xarray

    from jacobian_rnn.diagnosis.result import Diagnosis

UNITS = {
    "log_growth": "nats",
    "growth": "nats",
    "peak": "nats",
    "exponent": "nats per step",
    "standard_error": "nats per step",
    "memory": "steps",
    "digits_lost": "decimal digits",
    "credit_log_norm": "nats",
    "signal_to_noise": "1",
}


def dataset_of(diagnosis: "Diagnosis") -> "xarray.Dataset":
    """Return the numbers of all layers, padded with NaN where a layer has fewer of them.

    Raises:
        ImportError: the extra `report` is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        msg = "to_dataset: pip install 'jacobian_rnn[report]' (xarray)"
        raise ImportError(msg) from error
    layers = diagnosis.layers
    predictions = [layer.prediction for layer in layers]
    shares = [layer.credit for layer in layers]
    none = np.empty(0)
    variables = {
        "verdict": ("layer", [layer.verdict for layer in layers]),
        "kind": ("layer", [layer.kind for layer in layers]),
        "horizon": ("layer", [int(one.horizon) for one in predictions]),
        "borderline": ("layer", [bool(one.borderline) for one in predictions]),
        "median_log_growth": ("layer", [median_growth(one) for one in predictions]),
        "exponent": ("layer", [float(one.exponent) for one in predictions]),
        "standard_error": ("layer", [float(one.standard_error) for one in predictions]),
        "memory": ("layer", [layer.memory for layer in layers]),
        "memory_ends": ("layer", [layer.memory_ends for layer in layers]),
        "digits_lost": ("layer", [layer.digits_lost for layer in layers]),
        "log_growth": (
            ("layer", "sequence"),
            _padded([np.asarray(one.log_growth_of_output) for one in predictions]),
        ),
        "peak": (
            ("layer", "sequence"),
            _padded([np.asarray(one.peak_of_output) for one in predictions]),
        ),
        "growth": (("layer", "lag"), _padded([layer.growth for layer in layers])),
    }
    if any(credit is not None for credit in shares):
        for name, field in (
            ("credit_log_norm", "log_norms"),
            ("signal_to_noise", "signal_to_noise"),
        ):
            rows = [none if one is None else getattr(one, field) for one in shares]
            variables[name] = (("layer", "steps_before_end"), _padded(rows))
    dataset = xarray.Dataset(
        variables,
        coords={
            "layer": [layer.name for layer in layers],
            "lag": np.arange(1, max(len(layer.growth) for layer in layers) + 1),
        },
        attrs={"thresholds_nats": np.asarray(predictions[0].thresholds, float).tolist()},
    )
    for name, unit in (UNITS | {"median_log_growth": "nats", "horizon": "steps"}).items():
        if name in dataset:
            dataset[name].attrs["units"] = unit
    return dataset


def _padded(rows: list[np.ndarray]) -> np.ndarray:
    size = max(map(len, rows))
    return np.stack(
        [np.pad(row.astype(float), (0, size - len(row)), constant_values=np.nan) for row in rows]
    )
