"""The recurrent layers of a file of weights, and what each receives when the lowest gets inputs.

A file holds no model, only weights. So layers on top of each other are run here, both directions of
bidirectional ones included.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.diagnosis.finding_recurrences import outputs_of, record_recurrence
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer, blame_batch, turn_round
from jacobian_rnn.weights import RecurrentLayer, from_keras, from_torch
from jacobian_rnn.weights.layers import layer_in_file

DIRECTIONS = ("forward", "backward")
OPTIONS = {
    "pytorch": ("nonlinearity", "ignore", "dtype"),
    "keras": ("activation", "recurrent_activation", "reset_after", "kind", "dtype"),
}


def record_file(
    path: Path,
    xs: np.ndarray,
    *,
    prefix: str | None = None,
    direction: str | None = None,
    seq_lengths: np.ndarray | None = None,
    **options: Any,
) -> tuple[RecordedLayer, ...]:
    """Load the layers at a prefix of a file, run them on a batch, and record what each receives.

    Args:
        path: of a file that `layers_in` reads.
        xs: inputs of the lowest layer, floats `(B, T, inputs)`. They are cast to the `dtype` of the
            options.
        prefix: of the layer, where the file holds several, as the loaders take it.
        direction: "backward" for a layer of Keras that runs backwards alone. Of a bidirectional
            layer it is the only one that is recorded. By default both are.
        seq_lengths: B lengths of padded sequences.
        options: of `from_torch` or `from_keras`, which the file does not tell.

    Raises:
        ValueError: no layer or several at the prefix, inputs of another size, an option for files
            of another framework, or what the loader refuses.
    """
    layer = layer_in_file(path, prefix)
    for name, value in options.items():
        if name not in OPTIONS[layer.framework]:
            refuse(name, repr(value), f"none for a file of {layer.framework}")
    if xs.ndim != 3 or not np.issubdtype(xs.dtype, np.floating):
        received = f"{xs.dtype} of shape {xs.shape}"
        expected = f"floats of shape (batch, time, {layer.num_inputs})"
        advice = "embed tokens first, as the model does, and save whole numbers as floats"
        refuse("inputs", received, expected, advice)
    check_shape("inputs", xs.shape, ("batch", "time", layer.num_inputs))
    xs = xs.astype(options.get("dtype", xs.dtype))
    lengths = np.full(len(xs), xs.shape[1]) if seq_lengths is None else np.asarray(seq_lengths)
    is_both = layer.num_directions == 2
    directions = DIRECTIONS if is_both else (direction or "forward",)
    of_torch = layer.framework == "pytorch"
    is_stack = of_torch and layer.num_layers > 1
    recorded: list[RecordedLayer] = []
    for number in range(layer.num_layers if of_torch else 1):
        shown = []
        for way in directions:
            more: dict[str, Any] = {"layer": number} if of_torch else {}
            if is_both or direction is not None:
                more["direction"] = way
            load = from_torch if of_torch else from_keras
            recurrence = load(path, prefix=layer.prefix, **more, **options)
            inputs = xs if way == "forward" else turn_round(xs, lengths)
            if direction in (None, way):
                code = _code(path, layer, more if is_both else {**more, "layer": None}, options)
                with blame_batch("inputs", xs):
                    found = record_recurrence(recurrence, inputs, seq_lengths=lengths)
                for one in found:
                    name = _name(layer, number, one.name, way)
                    place = number if is_stack and not is_both else one.place
                    recorded.append(one._replace(name=name, place=place, network=code))
            outputs = np.asarray(outputs_of(recurrence, inputs))
            shown.append(outputs if way == "forward" else turn_round(outputs, lengths))
        xs = np.concatenate(shown, axis=-1)
    return tuple(recorded)


def _code(path: Path, layer: RecurrentLayer, which: dict[str, Any], options: dict[str, Any]) -> str:
    """Write the call that loads what advice for a layer changes: all layers, where they can be."""
    load = "from_torch" if layer.framework == "pytorch" else "from_keras"
    given = {"prefix": layer.prefix or None, **which, **options}
    if given.get("dtype") == layer.dtype:
        del given["dtype"]
    named = [f", {name}={value!r}" for name, value in given.items() if value not in (None, ())]
    return f"network = jrnn.{load}({str(path)!r}{''.join(named)})"


def _name(layer: RecurrentLayer, number: int, inner: str, direction: str) -> str:
    """Name a layer by its prefix, its number and its direction, as far as there are several."""
    parts = [layer.prefix or layer.kind]
    if layer.framework == "pytorch" and layer.num_layers > 1:
        parts.append(f"layer {number}")
    elif inner != "layer":
        parts.append(inner)
    if direction == "backward":
        parts.append("backwards")
    return ", ".join(parts)
