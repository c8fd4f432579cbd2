"""What recurrent layers a file, a dict, a module or a model holds."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacobian_rnn.checks import check_type
from jacobian_rnn.weights._equinox_modules import find_equinox_cells, is_equinox
from jacobian_rnn.weights._files import format_of
from jacobian_rnn.weights._keras_layers import (
    choose_keras_layer,
    describe_keras,
    is_keras,
    open_keras,
)
from jacobian_rnn.weights._recurrent_layer import RecurrentLayer
from jacobian_rnn.weights._state_dicts import (
    choose_torch_layer,
    describe_torch,
    find_torch_layers,
)
from jacobian_rnn.weights.pytorch import is_of_torch, open_torch


def layers_in(source: Any) -> tuple[RecurrentLayer, ...]:
    """List the recurrent layers that a file, a dict, a module or a model holds.

    Names, shapes and dtypes are read, and of a file no numbers and nothing that could run. (Of a
    pickle PyTorch reads the tensors, with `weights_only=True`.)

    Args:
        source: the path of a file (`.safetensors`, `.npz`, `.pt`, `.ckpt`, `.keras`, `.weights.h5`
            or `.h5`, told apart by what they hold), a state dict of PyTorch or a dict that holds
            some, or a module, layer, cell or model of PyTorch, Keras or Equinox.

    Returns:
        One `RecurrentLayer` for each layer, in the order of the source. Layers that PyTorch keeps
        in one module, and cells that Keras keeps in one layer, count as one.

    Raises:
        TypeError: `source` is of another kind.
        ValueError: a file is damaged or of another kind, or a layer lacks a weight or has one whose
            shape does not fit.
        ImportError: the package that reads files of this kind is not installed.

    Example:
        >>> import numpy as np
        >>> shapes = {"weight_ih_l0": (12, 2), "weight_hh_l0": (12, 3)}
        >>> weights = {f"encoder.{name}": np.ones(shape) for name, shape in shapes.items()}
        >>> for layer in layers_in({"state_dict": weights, "epoch": 3}):
        ...     print(layer)
        LSTM at 'state_dict.encoder': 2 inputs, 3 units, float64
    """
    if is_equinox(source):
        return tuple(find_equinox_cells(source).values())
    of_keras = is_keras(source)
    if isinstance(source, str | os.PathLike):
        of_keras = format_of(Path(source)) in ("keras", "hdf5")
    if of_keras:
        with open_keras(source) as layers:
            return tuple(map(describe_keras, layers.values()))
    expected = "a path, a state dict, or a module or model of PyTorch, Keras or Equinox"
    is_module = hasattr(source, "state_dict") and hasattr(source, "named_modules")
    check_type("source", {} if is_module else source, (Mapping, str, os.PathLike), expected)
    with open_torch(source) as (arrays, modules):
        return tuple(
            describe_torch(
                layer._replace(unread=()) if layer.prefix in modules else layer,
                getattr(modules.get(layer.prefix), "nonlinearity", None),
            )
            for layer in find_torch_layers(arrays).values()
            if layer.prefix not in modules or is_of_torch(modules[layer.prefix])
        )


def layer_in_file(path: Path, prefix: str | None) -> RecurrentLayer:
    """Describe the layer of a file that the loaders take at a prefix.

    Raises:
        ValueError: no layer or more than one is there, or what `layers_in` refuses.
    """
    if format_of(path) in ("keras", "hdf5"):
        with open_keras(path) as layers:
            return describe_keras(choose_keras_layer(layers, prefix))
    with open_torch(path) as (arrays, _):
        return describe_torch(choose_torch_layer(find_torch_layers(arrays), prefix))
