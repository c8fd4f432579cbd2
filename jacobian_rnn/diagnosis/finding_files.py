"""The recurrent layers of a file of weights, and what each receives when the lowest gets inputs.

A file holds no model, only weights. So layers on top of each other are run here, both directions of
bidirectional ones included.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jacobian_rnn.checks import check_shape, list_names, refuse
from jacobian_rnn.diagnosis.finding_recurrences import outputs_of, record_recurrence
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer, turn_round
from jacobian_rnn.weights import RecurrentLayer, from_keras, from_torch, layers_in

DIRECTIONS = ("forward", "backward")


def record_file(
    path: Path,
    xs: np.ndarray,
    *,
    prefix: str | None = None,
    seq_lengths: np.ndarray | None = None,
    **options: Any,
) -> tuple[RecordedLayer, ...]:
    """Load the layers at a prefix of a file, run them on a batch, and record what each receives.

    Args:
        path: of a file that `layers_in` reads.
        xs: inputs of the lowest layer, `(B, T, inputs)`.
        prefix: of the layer, where the file holds several.
        seq_lengths: B lengths of padded sequences.
        options: of `from_torch` or `from_keras`, which the file does not tell.

    Raises:
        ValueError: no layer or several at the prefix, inputs of another size, or what the loader
            refuses.
    """
    layer = choose_layer(layers_in(path), prefix)
    if xs.ndim != 3 or not np.issubdtype(xs.dtype, np.floating):
        received = f"{xs.dtype} of shape {xs.shape}"
        expected = f"floats of shape (batch, time, {layer.num_inputs})"
        refuse("inputs", received, expected, "embed tokens first, as the model does")
    check_shape("inputs", xs.shape, ("batch", "time", layer.num_inputs))
    lengths = np.full(len(xs), xs.shape[1]) if seq_lengths is None else np.asarray(seq_lengths)
    directions = DIRECTIONS[: layer.num_directions]
    of_torch = layer.framework == "pytorch"
    recorded: list[RecordedLayer] = []
    for number in range(layer.num_layers if of_torch else 1):
        shown = []
        for direction in directions:
            more: dict[str, Any] = {"layer": number} if of_torch else {}
            if layer.num_directions > 1:
                more["direction"] = direction
            load = from_torch if of_torch else from_keras
            recurrence = load(path, prefix=layer.prefix, **more, **options)
            inputs = xs if direction == "forward" else turn_round(xs, lengths)
            for one in record_recurrence(recurrence, inputs, seq_lengths=lengths):
                recorded.append(one._replace(name=_name(layer, number, one.name, direction)))
            outputs = np.asarray(outputs_of(recurrence, inputs))
            shown.append(outputs if direction == "forward" else turn_round(outputs, lengths))
        xs = np.concatenate(shown, axis=-1)
    return tuple(recorded)


def choose_layer(layers: tuple[RecurrentLayer, ...], prefix: str | None) -> RecurrentLayer:
    """Return the layer at a prefix, or the only one."""
    matching = [layer for layer in layers if prefix is None or layer.prefix == prefix]
    if not layers:
        refuse("file", "one without recurrent weights", "one with an RNN, LSTM or GRU layer")
    if len(matching) != 1:
        advice = f"choose one of {list_names(repr(layer.prefix) for layer in layers)}"
        received = "None" if prefix is None else repr(prefix)
        refuse("prefix", received, "the prefix of one recurrent layer", advice)
    return matching[0]


def _name(layer: RecurrentLayer, number: int, inner: str, direction: str) -> str:
    """Name a layer by its prefix, its number and its direction, as far as there are several."""
    parts = [layer.prefix or layer.kind]
    if layer.framework == "pytorch" and layer.num_layers > 1:
        parts.append(f"layer {number + 1}")
    elif inner != "layer":
        parts.append(inner)
    if layer.num_directions > 1 and direction == "backward":
        parts.append("backwards")
    return ", ".join(parts)
