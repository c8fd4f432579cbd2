"""The recurrent layers in a model of Keras, or in a file that Keras wrote.

Nothing of Keras is imported. A configuration is JSON and the weights are HDF5, so a file is read
without running anything in it.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.weights._gated_layers import foreign_layouts
from jacobian_rnn.weights._keras_activations import activation_of, name_of_own
from jacobian_rnn.weights._numbers import dtype_of, shape_of
from jacobian_rnn.weights._recurrent_layer import RecurrentLayer, choose

PARTS = ("kernel", "recurrent kernel", "bias")
MAX_DEPTH = 16  # of layers in layers


class KerasCell(NamedTuple):
    """The weights of one cell.

    Attributes:
        name: what errors call it.
        arrays: kernel, recurrent kernel and, unless `use_bias=False`, bias.
        config: what its configuration says, by the names of Keras, or empty where it is not known.
        unread: what it has besides: a class that is not Keras's own, and other arrays.
    """

    name: str
    arrays: Sequence[Any]
    config: Mapping[str, Any]
    unread: tuple[str, ...] = ()


class KerasLayer(NamedTuple):
    """A recurrent layer, whose cells stand on top of each other.

    Attributes:
        prefix: where it is.
        name: its own name.
        forward: its cells, lowest first.
        backward: those of the other direction. Empty for a layer of one direction.
    """

    prefix: str
    name: str
    forward: tuple[KerasCell, ...]
    backward: tuple[KerasCell, ...] = ()


def is_keras(source: Any) -> bool:
    """Say whether an object is a layer, a cell or a model of Keras, without importing it."""
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, keras.layers.Layer)


@contextlib.contextmanager
def open_keras(source: Any) -> Iterator[dict[str, KerasLayer]]:
    """Find the recurrent layers of a model or a file of Keras, by their prefix.

    Raises:
        ValueError: a file that is damaged or of another kind.
        ImportError: a path was given and h5py is not installed.
    """
    if isinstance(source, str | os.PathLike):
        from jacobian_rnn.weights._keras_files import open_keras_file

        with open_keras_file(Path(source)) as layers:
            yield {layer.prefix: layer for layer in layers}
    else:
        yield {layer.prefix: layer for layer in _walk(source, source.name)}


def choose_keras_layer(layers: Mapping[str, KerasLayer], prefix: str | None) -> KerasLayer:
    """Return the layer at a prefix: its path, its name, or a part of its path."""
    matching = [path for path in layers if prefix in (None, path)]
    matching = matching or [path for path, one in layers.items() if prefix == one.name]
    matching = matching or [path for path in layers if prefix in path.split("/")]
    return layers[choose("prefix", prefix, layers, matching)]


def describe_keras(layer: KerasLayer) -> RecurrentLayer:
    """Describe a layer by shapes and by its configuration.

    Raises:
        ValueError: arrays whose shapes do not fit each other.
    """
    kinds = [check_cell(cell) for cell in (*layer.forward, *layer.backward)]
    lowest, *upper = layer.forward
    for below, cell in zip(layer.forward, upper, strict=False):
        inputs = shape_of(below.arrays[1])[0]
        columns = shape_of(cell.arrays[1])[1]
        check_shape(f"{cell.name}[0] (kernel)", shape_of(cell.arrays[0]), (inputs, columns))
    return RecurrentLayer(
        framework="keras",
        prefix=layer.prefix,
        kind=kinds[0],
        num_inputs=shape_of(lowest.arrays[0])[0],
        num_units=shape_of(lowest.arrays[1])[0],
        num_layers=len(layer.forward),
        num_directions=2 if layer.backward else 1,
        num_projected=0,
        dtype=dtype_of(lowest.arrays[1]),
        untold=_untold(lowest, kinds[0]),
        unread=unread_of(layer),
    )


def unread_of(layer: KerasLayer) -> tuple[str, ...]:
    """Name what the cells of a layer have besides the weights of such cells."""
    return tuple(
        dict.fromkeys(one for cell in (*layer.forward, *layer.backward) for one in cell.unread)
    )


def check_cell(cell: KerasCell, kind: str | None = None) -> str:
    """Return the kind of a cell, which the shape of its recurrent kernel shows.

    Raises:
        ValueError: arrays that are not those of a cell, or not of the kind that was asked for.
    """
    name = cell.name
    if len(cell.arrays) not in (2, 3):
        expected = "kernel, recurrent kernel and, unless use_bias=False, bias of a cell"
        refuse(name, f"{len(cell.arrays)} arrays", expected)
    keys = [f"{name}[{position}] ({part})" for position, part in enumerate(PARTS)]
    kernel, recurrent, *bias = map(shape_of, cell.arrays)
    kinds = {len(one.gates): each for each, one in foreign_layouts("keras").items()}
    if kind is not None:
        kinds = {gates: each for gates, each in kinds.items() if each == kind}
    sizes = [f"(N, {gates if gates > 1 else ''}N) of {each}" for gates, each in kinds.items()]
    if len(recurrent) != 2 or 0 in recurrent or recurrent[1] / recurrent[0] not in kinds:
        refuse(keys[1], f"shape {recurrent}", ", ".join(sizes))
    units, columns = recurrent
    found = kinds[columns // units]
    check_shape(keys[0], kernel, ("inputs", columns))
    for shape in bias:
        if shape == (2 * columns,):
            advice = (
                "this is a layer that only ran on a GPU, whose kernels are laid out otherwise: "
                "tf_keras (Keras 2) converts them, when its model with a plain layer in place of "
                "it does load_weights of the file"
            )
            refuse(keys[2], f"shape {shape}", f"({columns},) or (2, {columns})", advice)
        fitting = [(columns,)] + ([(2, columns)] if found == "GRU" else [])
        if shape not in fitting:
            refuse(keys[2], f"shape {shape}", " or ".join(map(str, fitting)))
    return found


def _untold(cell: KerasCell, kind: str) -> tuple[str, ...]:
    """Name the arguments that neither the weights nor the configuration tell."""
    wanted = ["activation", *(["recurrent_activation"] if kind != "SimpleRNN" else [])]
    if kind == "GRU" and len(cell.arrays) == 2:
        wanted.append("reset_after")
    return tuple(name for name in wanted if name not in cell.config)


def _walk(layer: Any, path: str, depth: int = 0) -> Iterator[KerasLayer]:
    """Find the recurrent layers in a layer or a model."""
    layers: Any = sys.modules["keras"].layers
    if isinstance(layer, layers.Bidirectional):
        forward = _cells(layer.forward_layer, f"{path}/forward_layer")
        backward = _cells(layer.backward_layer, f"{path}/backward_layer")
        if forward and backward:
            yield KerasLayer(path, layer.name, forward, backward)
    elif cells := _cells(layer, path):
        yield KerasLayer(path, layer.name, cells)
    elif depth < MAX_DEPTH:
        below: Any = getattr(layer, "layers", None) or [getattr(layer, "layer", None)]
        for inner in below:
            if isinstance(inner, layers.Layer):
                yield from _walk(inner, f"{path}/{inner.name}" if depth else inner.name, depth + 1)


def _cells(layer: Any, name: str) -> tuple[KerasCell, ...]:
    """Return the cells of a layer, or none where it or one of them is not Keras's own."""
    layers: Any = sys.modules["keras"].layers
    cell = layer.cell if isinstance(layer, layers.RNN) else layer
    cells = cell.cells if isinstance(cell, layers.StackedRNNCells) else [cell]
    own = [getattr(layers, f"{kind}Cell") for kind in foreign_layouts("keras")]
    runs = {getattr(layers, kind).call for kind in foreign_layouts("keras")} | {layers.RNN.call}
    is_changed = isinstance(layer, layers.RNN) and type(layer).call not in runs
    if is_changed or not all(type(one) in own for one in cells):
        return ()
    more = {"go_backwards": getattr(layer, "go_backwards", False)}
    return tuple(_cell(one, f"weights of {name}", one.get_config() | more) for one in cells)


def _cell(cell: Any, name: str, config: Mapping) -> KerasCell:
    arrays = cell.get_weights()
    if not arrays:
        refuse(name, "none: it is not built", "those of a layer that was called once")
    kept = config_of(config)
    for role in kept.keys() & {"activation", "recurrent_activation"}:
        kept[role] = name_of_own(getattr(cell, role, None), kept[role])
    return KerasCell(name, arrays, kept)


def config_of(config: Any) -> dict[str, Any]:
    """Keep of a configuration what tells the function of a cell. Activations become names.

    A layer of Keras with parameters, such as a LeakyReLU, becomes a function.
    """
    kept = {}
    for name in ("activation", "recurrent_activation", "reset_after", "go_backwards"):
        if isinstance(config, Mapping) and name in config:
            value = config[name]
            kept[name] = activation_of(value) if "activation" in name else value
    return kept


def to_snake_case(name: str) -> str:
    """Turn the name of a class into that of its layers, as Keras does."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
