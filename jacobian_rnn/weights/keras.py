"""The weights of Keras's recurrent layers, from a layer, a model, a file or a list of arrays."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_choice, list_names, refuse
from jacobian_rnn.weights._gated_layers import GatedLayer, build, foreign_layouts
from jacobian_rnn.weights._keras_activations import ACTIVATIONS
from jacobian_rnn.weights._keras_layers import (
    KerasCell,
    KerasLayer,
    check_cell,
    choose_keras_layer,
    describe_keras,
    is_keras,
    open_keras,
    unread_of,
)
from jacobian_rnn.weights._numbers import shape_of, to_floats, to_numpy

DEFAULTS = {"activation": "tanh", "recurrent_activation": "sigmoid"}


def from_keras(
    weights: Any,
    *,
    kind: str | None = None,
    prefix: str | None = None,
    direction: Literal["forward", "backward"] | None = None,
    activation: str | Callable | None = None,
    recurrent_activation: str | Callable | None = None,
    reset_after: bool | None = None,
    dtype: Any = None,
) -> Recurrence:
    """Turn a Keras SimpleRNN, LSTM or GRU, or its weights, into a `Recurrence`.

    The carry is as in `from_torch`, so an LSTM has `(c, h)`. In the arrays of Keras the gates lie
    side by side, those of an LSTM in the order i, f, c, o (c for the candidate, often called g)
    and those of a GRU in the order z, r, h. Weights that another program wrote in another order
    have to be permuted first: nothing shows the order. A constant that a step adds to a gate, as
    some add 1 to f, has to be added to the bias. Weights of float16 and bfloat16 are widened to
    float32, which holds all of them exactly.

    Args:
        weights: a layer, a cell or a model of Keras, the path of a `.keras`, `.weights.h5` or `.h5`
            file, or `layer.get_weights()`: kernel `(inputs, G·N)`, recurrent kernel `(N, G·N)` and,
            unless `use_bias=False`, the bias. Several layers are a list of such lists, lowest
            first, or one after the other in one list. Files are read without Keras, and nothing in
            them is run.
        kind: "SimpleRNN", "LSTM" or "GRU". The shapes show it, and then have to agree with it. It
            is needed only for a file with a class of yours, or with other arrays within the cell,
            that computes what this kind does.
        prefix: which layer of a model or a file to load, by its name or path. By default the only
            one. Load several one by one and join them with `stack`.
        direction: "forward" or "backward", needed for a Bidirectional layer, and "backward" for
            one with `go_backwards=True`. Each direction is a system of its own. The backward one
            meets the inputs in reverse order.
        activation: what acts on the candidate (and on c of an LSTM), or on all of a SimpleRNN, by
            Keras's name or as a function. "hard_sigmoid" is that of Keras 3, relu6(a + 3)/6, and
            "keras_2_hard_sigmoid" that of Keras 1 and 2, a/5 + 1/2 cut at 0 and 1. By default what
            the layer's configuration says. A list of arrays has none, and then "tanh" is taken, the
            default of Keras. A `.weights.h5` file has none either, and both functions are needed.
            The layers LeakyReLU, ELU, ReLU and Activation are known as functions, others are not.
        recurrent_activation: what acts on the gates, likewise. A list of arrays is taken to have
            "sigmoid", the default today. Before Keras 2.3 it was "hard_sigmoid", so arrays of that
            age need "keras_2_hard_sigmoid".
        reset_after: whether the reset gate of a GRU stands after the recurrent kernel. Needed only
            for one without bias and without configuration, because the shape of a bias shows it.
        dtype: float32 or float64 to cast the weights. By default they keep their dtype.

    Returns:
        The recurrence of the linen SimpleCell, OptimizedLSTMCell or GRUCell, of a GRU with its
        reset gate before the kernel, or a `stack` of them. It has a closed-form Jacobian unless a
        function of yours is not known to act on each unit alone, or a layer such as LeakyReLU has
        another slope than Keras's function of that name.

    Raises:
        TypeError: `weights` is of another kind, or a dtype would have to change without `dtype`.
        ValueError: `kind` does not fit, no layer or more than one is at `prefix`, an array is
            missing, misshapen or not finite, an argument is missing that the weights do not tell,
            or contradicts them, an activation is not known, or a file is damaged.
        ImportError: a path was given and h5py is not installed.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> weights = [np.ones((2, 9), "f4"), np.ones((3, 9), "f4"), np.ones((2, 9), "f4")]
        >>> gru = from_keras(weights, kind="GRU")
        >>> gru.step(gru.params, jnp.zeros(3), jnp.zeros(2)).shape
        (3,)

    References:
        Keras documentation, layers.SimpleRNN, layers.LSTM, layers.GRU.
    """
    if kind is not None:
        check_choice("kind", kind, foreign_layouts("keras"))
    if direction is not None:
        check_choice("direction", direction, ("forward", "backward"))
    given = {
        "activation": activation,
        "recurrent_activation": recurrent_activation,
        "reset_after": reset_after,
    }
    if isinstance(weights, list | tuple):
        layer = _layer_of_arrays(weights, kind, direction)
        given |= {name: default for name, default in DEFAULTS.items() if given[name] is None}
        return _load(layer, kind, direction, given, dtype)
    if not is_keras(weights) and not isinstance(weights, str | os.PathLike):
        expected = "a layer, a model, a path, or the list that layer.get_weights() returns"
        refuse("weights", type(weights).__name__, expected, error=TypeError)
    with open_keras(weights) as layers:
        layer = choose_keras_layer(layers, prefix)
        return _load(layer, kind, direction, given, dtype)


def _layer_of_arrays(weights: Sequence, kind: str | None, direction: str | None) -> KerasLayer:
    """Sort a list of arrays into cells."""
    if not weights:
        expected = "the list that layer.get_weights() returns"
        refuse("weights", "an empty list", expected, error=TypeError)
    if all(isinstance(layer, list | tuple) for layer in weights):
        cells = {f"weights[{position}]": layer for position, layer in enumerate(weights)}
        return KerasLayer("", "", tuple(_cell(name, layer) for name, layer in cells.items()))
    if len(weights) <= 3:
        return KerasLayer("", "", (_cell("weights", weights),))
    size = _size_of_cell(weights)
    cells = [
        _cell(f"weights[{start}:{start + size}]", weights[start : start + size])
        for start in range(0, len(weights), size)
    ]
    for cell in cells:
        check_cell(cell, kind)
    above = shape_of(cells[1].arrays[0])[0]
    both = len(cells) == 2 and shape_of(cells[0].arrays[0]) == shape_of(cells[1].arrays[0])
    if direction is not None and both:
        return KerasLayer("", "", tuple(cells[:1]), tuple(cells[1:]))
    if both:
        received = f"{len(weights)} arrays, whose second kernel reads {above} inputs"
        advice = (
            "pass direction='forward' or direction='backward' if they are those of a Bidirectional "
            "layer, and [[...], [...]] if they are two layers on top of each other"
        )
        refuse("weights", received, "one layer of one direction", advice)
    return KerasLayer("", "", tuple(cells))


def _size_of_cell(weights: Sequence) -> int:
    """Return how many arrays each cell of a flat list has: 3 with biases, 2 without."""
    shapes = [np.shape(array) for array in weights]
    kinds = [len(one.gates) for one in foreign_layouts("keras").values()]

    def fits(size):
        cells = [shapes[start : start + size] for start in range(0, len(shapes), size)]
        return all(
            len(cell) == size
            and len(cell[0]) == len(cell[1]) == 2
            and cell[0][1] == cell[1][1]
            and cell[1][1] in [gates * cell[1][0] for gates in kinds]
            and all(bias[-1:] == cell[1][1:] or bias == (2 * cell[1][1],) for bias in cell[2:])
            for cell in cells
        )

    sizes = [size for size in (3, 2) if fits(size)]
    if len(sizes) != 1:
        listed = ", ".join(map(str, shapes[:6])) + (", ..." if len(shapes) > 6 else "")
        received = f"{len(weights)} arrays of shapes {listed}"
        expected = "kernel, recurrent kernel and, unless use_bias=False, bias of each layer"
        refuse("weights", received, expected, "pass a list for each layer: [[...], [...]]")
    return sizes[0]


def _cell(name: str, arrays: Sequence) -> KerasCell:
    parts = ("kernel", "recurrent kernel", "bias")
    named = [f"{name}[{position}] ({part})" for position, part in enumerate(parts)]
    kept = [to_numpy(*pair) for pair in zip(named, arrays, strict=False)]
    return KerasCell(name, kept if len(arrays) in (2, 3) else arrays, {})


def _load(
    layer: KerasLayer, kind: str | None, direction: str | None, given: dict[str, Any], dtype: Any
) -> Recurrence:
    """Load one direction of a layer, with what its caller says of its functions."""
    described = [check_cell(cell, kind) for cell in (*layer.forward, *layer.backward)]
    if len(set(described)) > 1:
        advice = "load each with from_keras and join them with stack"
        refuse("weights", f"cells of kinds {list_names(set(described))}", "one kind", advice)
    describe_keras(layer)
    if kind is None and (unread := unread_of(layer)):
        advice = (
            "a cell that has these may compute something else. If it does not, pass "
            f"kind={described[0]!r}"
        )
        cells = [cell.name for cell in (*layer.forward, *layer.backward) if cell.unread]
        received = f"{list_names(unread)} besides the weights of a cell"
        refuse(cells[0], received, f"a cell of Keras's {described[0]}", advice)
    backwards = any(cell.config.get("go_backwards") for cell in layer.forward)
    if direction is None and (layer.backward or backwards):
        received = "None for a layer that is Bidirectional or has go_backwards=True"
        advice = "its backward system meets the inputs in reverse order"
        refuse("direction", received, "'forward' or 'backward'", advice)
    if not layer.backward and direction == ("forward" if backwards else "backward"):
        advice = f"pass {'direction=' + repr('backward') if backwards else 'no direction'}"
        refuse("direction", f"{direction!r} for a layer of the other one", "its own", advice)
    cells = layer.backward if layer.backward and direction == "backward" else layer.forward
    settings = [_settings(cell, described[0], given) for cell in cells]
    if any(one != settings[0] for one in settings):
        refuse("weights", f"cells with settings {settings}", "cells with the same functions")
    variant = "reset_after=False" if settings[0].pop("reset_after", None) is False else ""
    layout = foreign_layouts("keras", variant)[described[0]]
    functions = {
        "activation_fn": _function("activation", settings[0]["activation"]),
        "gate_fn": _function("recurrent_activation", settings[0].get("recurrent_activation")),
    }
    layers = [_gated_layer(cell, dtype) for cell in cells]
    return build(layout, "keras", layers, **functions)


def _settings(cell: KerasCell, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the configuration of a cell says, or else its caller. Both have to agree."""
    shown = dict(cell.config)
    columns = shape_of(cell.arrays[1])[1]
    if kind == "GRU" and len(cell.arrays) == 3:
        shown["reset_after"] = shape_of(cell.arrays[2]) == (2, columns)
    names = ["activation"]
    names += ["recurrent_activation"] if kind != "SimpleRNN" else []
    names += ["reset_after"] if kind == "GRU" else []
    settings = {name: shown.get(name) if given[name] is None else given[name] for name in names}
    if missing := [name for name in names if settings[name] is None]:
        defaults = DEFAULTS | {"reset_after": True}
        listed = ", ".join(f"{name}={defaults[name]!r}" for name in missing)
        received = f"None for {cell.name}, which does not tell"
        advice = f"pass {listed} if its layer has Keras's defaults"
        refuse(", ".join(missing), received, "what its layer has", advice)
    for name in names:
        value, told = given[name], shown.get(name)
        if None not in (value, told) and value != told and not callable(value):
            refuse(name, repr(value), f"{told!r}, as {cell.name} tells, or None")
    for name in given.keys() - set(names):
        if given[name] not in (None, DEFAULTS.get(name)):
            refuse(name, repr(given[name]), f"None for a layer of kind {kind}")
    return settings


def _function(name: str, function: Any) -> Callable:
    """Return the function that Keras's name stands for, or a function as it is."""
    if function is None:  # of a cell without gates
        return jax.nn.sigmoid
    if callable(function):
        return function
    advice = "or pass a function of JAX to from_keras"
    check_choice(name, function, ACTIVATIONS, advice)
    return ACTIVATIONS[function]


def _gated_layer(cell: KerasCell, dtype: Any) -> GatedLayer:
    parts = ("kernel", "recurrent kernel", "bias")
    keys = [f"{cell.name}[{position}] ({part})" for position, part in enumerate(parts)]
    arrays = [
        to_floats(key, to_numpy(key, array), dtype)
        for key, array in zip(keys, cell.arrays, strict=False)
    ]
    kernel, recurrent, *bias = arrays
    biases = tuple(bias[0]) if bias and bias[0].ndim == 2 else (*bias, None, None)[:2]
    return GatedLayer(kernel, recurrent, *biases)
