"""The weights of PyTorch's recurrent layers, from a state dict or a safetensors file."""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_shape, list_names, refuse
from jacobian_rnn.weights._gated_layers import (
    check_nonlinearity,
    foreign_layouts,
    gated_layers,
    to_floats,
    to_numpy,
)

TORCH_NAME = re.compile(
    r"(?P<base>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(_l(?P<layer>\d+))?(?P<back>_reverse)?"
)


def from_torch(
    weights: Mapping[str, Any] | str | os.PathLike,
    *,
    prefix: str = "",
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    dtype: Any = None,
) -> Recurrence:
    """Turn the weights of a PyTorch RNN, LSTM or GRU into a `Recurrence`.

    The weights are those of `torch.nn.RNN`, `LSTM` or `GRU` with any number of layers, with or
    without biases, or of `RNNCell`, `LSTMCell` or `GRUCell`. The shape of `weight_hh` shows which.
    PyTorch's two biases are summed wherever only their sum matters. The carry is `zeros(N)`, and
    for an LSTM `(c, h)`, where PyTorch has `(h, c)`. Several layers have a tuple of carries, lowest
    layer first. Batches and dropout have no effect. PyTorch itself is not needed.

    Args:
        weights: a state dict (PyTorch tensors or arrays), or the path of a `.safetensors` file,
            of which only the tensors under `prefix` are read.
        prefix: where in a whole model the layers are, such as "encoder.lstm". All other keys are
            ignored. Cells in a list have to be read one by one and joined with `stack`.
        nonlinearity: "tanh" or "relu" of an RNN, which its weights do not show.
        dtype: float32 or float64 to cast the weights. By default they keep their dtype.

    Returns:
        The recurrence of the linen SimpleCell, OptimizedLSTMCell or GRUCell, or a `stack` of them.

    Raises:
        TypeError: `weights`, `prefix` or `dtype` is of another kind, or a dtype would have to
            change without `dtype`.
        ValueError: a tensor is missing, unknown, misshapen or not finite, `nonlinearity` is
            unknown, layers run in both directions or project their state, or a file is no
            complete safetensors file.
        ImportError: a path was given and the package `safetensors` is not installed.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> weights = {"weight_ih_l0": np.ones((12, 2)), "weight_hh_l0": np.ones((12, 3))}
        >>> lstm = from_torch(weights, dtype=jnp.float32)
        >>> carry = (jnp.zeros(3), jnp.zeros(3))
        >>> print(lstm.output(lstm.step(lstm.params, carry, jnp.zeros(2))))
        [0. 0. 0.]

    References:
        PyTorch documentation, torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU.
    """
    if not isinstance(prefix, str):
        expected = "a string such as 'encoder.lstm', or '' where there is none"
        refuse("prefix", repr(prefix), expected, error=TypeError)
    if prefix and not prefix.endswith("."):
        prefix += "."
    if isinstance(weights, str | os.PathLike):
        layers = _read_safetensors(Path(weights), prefix)
    elif isinstance(weights, Mapping):
        layers = [
            {base: (key, to_numpy(key, weights[key])) for base, key in layer.items()}
            for layer in _torch_layers(list(weights), prefix)
        ]
    else:
        expected = "a state dict (module.state_dict()) or the path of a safetensors file"
        refuse("weights", type(weights).__name__, expected, error=TypeError)
    layout = _check_torch_shapes(layers)
    name, gates = layout.pytorch
    check_nonlinearity(layout, name, nonlinearity)
    layers = [{base: to_floats(*named, dtype) for base, named in layer.items()} for layer in layers]
    ordered = [
        (layer["weight_ih"].T, layer["weight_hh"].T, layer.get("bias_ih"), layer.get("bias_hh"))
        for layer in layers
    ]
    return gated_layers(layout, gates, ordered, nonlinearity)


def _read_safetensors(path: Path, prefix: str) -> list[dict[str, tuple[str, np.ndarray]]]:
    try:
        import safetensors
    except ImportError as error:
        msg = "weights: to read a file, pip install 'jacobian_rnn[checkpoints]' (safetensors)"
        raise ImportError(msg) from error
    if not path.is_file():
        refuse("weights", repr(str(path)), "the path of an existing file")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            layers = _torch_layers(list(file.keys()), prefix)
            for key in (key for layer in layers for key in layer.values()):
                if (stored := file.get_slice(key).get_dtype()) not in ("F64", "F32", "F16", "BF16"):
                    refuse(key, f"dtype {stored}", "floating-point numbers", error=TypeError)
            return [
                {base: (key, file.get_tensor(key)) for base, key in layer.items()}
                for layer in layers
            ]
    except safetensors.SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04" or start[:1] == b"\x80":
            msg = (
                f"weights: {path} is a pickle. Reading one can run any code, so it is not read: "
                "where you trust it, convert it with safetensors.torch.save_file(torch.load(path, "
                "weights_only=True), 'weights.safetensors')"
            )
        else:
            msg = f"weights: {path} is no safetensors file, or is cut short ({error})"
        raise ValueError(msg) from error


def _torch_layers(keys: list[str], prefix: str) -> list[dict[str, str]]:
    """Sort the keys under a prefix into layers, `{"weight_ih": key, ...}`, by their names alone."""
    if strange := [key for key in keys if not isinstance(key, str)]:
        refuse("weights", f"the key {strange[0]!r}", "names as keys", error=TypeError)
    parsed = {k: TORCH_NAME.fullmatch(k[len(prefix) :]) for k in keys if k.startswith(prefix)}
    places = [key.rpartition(".") for key in keys]
    held = sorted({place + dot for place, dot, name in places if TORCH_NAME.fullmatch(name)})
    where = f"one of {held}, which hold recurrent weights" if held else "but no other has any"
    if not any(parsed.values()):
        refuse("prefix", repr(prefix), f"one with weight_ih_l0, ... under it: {where}")
    layers: dict[int, dict[str, str]] = {}
    for key, match in parsed.items():
        if match is None:
            expected = "nothing but the weights of an RNN, LSTM or GRU"
            refuse(key, f"this key under prefix={prefix!r}", expected, f"choose {where}")
        if match["back"]:
            advice = "of one layer, pass the weights without those that end in _reverse"
            refuse(key, "bidirectional layers", "layers that do not see the future", advice)
        if match["base"] == "weight_hr":
            advice = "write its step as a function and pass it to Recurrence"
            refuse(key, "projections (proj_size > 0)", "an LSTM without", advice)
        layers.setdefault(int(match["layer"] or 0), {})[match["base"]] = key
    num_layers = max(layers) + 1
    suffixed = {match["layer"] is not None for match in parsed.values() if match}
    if len(suffixed) > 1 or len(parsed) != sum(map(len, layers.values())):
        refuse("weights", list_names(parsed), "either every key to number its layer or none")
    biased = any("bias_ih" in layer or "bias_hh" in layer for layer in layers.values())
    bases = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if biased else [])]
    for index, base in itertools.product(range(num_layers), bases):
        if base not in layers.get(index, {}):
            key = prefix + base + (f"_l{index}" if True in suffixed else "")
            expected = f"{', '.join(bases)} of every layer from 0 to {max(layers)}"
            refuse(key, f"only {list_names(parsed)}", expected)
    return [layers[index] for index in range(num_layers)]


def _check_torch_shapes(layers: list[dict[str, tuple[str, np.ndarray]]]) -> Any:
    """Check the shapes, and return the layout of the cell that the first weight_hh shows."""
    known = {len(one.gates): (name, one) for name, one in foreign_layouts("pytorch").items()}
    key, first = layers[0]["weight_hh"]
    rows, num_units = first.shape if first.ndim == 2 and first.size else (1, 2)
    if rows % num_units != 0 or rows // num_units not in known:
        sizes = {n: f"{n if n > 1 else ''}N" for n in sorted(known)}
        listed = ", ".join(f"({size}, N) of {known[n][0]}" for n, size in sizes.items())
        refuse(key, f"shape {first.shape}", listed)
    _, layout = known[rows // num_units]
    for index, layer in enumerate(layers):
        for base, (key, array) in layer.items():
            expected: tuple = (rows,) if base.startswith("bias") else (rows, num_units)
            if index == 0 and base == "weight_ih":
                expected = (rows, array.shape[-1] if array.ndim == 2 else "inputs")
            check_shape(key, array.shape, expected)
    return layout
