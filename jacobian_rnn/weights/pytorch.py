"""The weights of PyTorch's recurrent layers, from a module, a state dict or a file."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_choice, check_count, list_names, refuse
from jacobian_rnn.weights._files import open_arrays
from jacobian_rnn.weights._gated_layers import ACTIVATIONS, GatedLayer, build, foreign_layouts
from jacobian_rnn.weights._numbers import to_floats
from jacobian_rnn.weights._recurrent_layer import RecurrentLayer
from jacobian_rnn.weights._state_dicts import (
    TorchLayer,
    choose_torch_layer,
    describe_torch,
    find_torch_layers,
    read_weight,
)


def from_torch(
    weights: Any,
    *,
    prefix: str | None = None,
    layer: int | None = None,
    direction: Literal["forward", "backward"] | None = None,
    nonlinearity: Literal["tanh", "relu"] | None = None,
    ignore: Sequence[str] = (),
    dtype: Any = None,
) -> Recurrence:
    """Turn a PyTorch RNN, LSTM or GRU, or its weights, into a `Recurrence`.

    The layer is a `torch.nn.RNN`, `LSTM` or `GRU` with any number of layers, with or without biases
    and projections, or an `RNNCell`, `LSTMCell` or `GRUCell`. The shape of `weight_hh` shows which.
    PyTorch's two biases are summed wherever only their sum matters. The carry is `zeros(N)`, and
    for an LSTM `(c, h)`, where PyTorch has `(h, c)`. Several layers have a tuple of carries, lowest
    layer first. Batches and dropout have no effect. Weights of float16 and bfloat16 are widened to
    float32, which holds all of them exactly.

    Weight norm, spectral norm (as in evaluation) and pruning are computed from what is stored, and
    of weights that were dropped out the original is taken. Other parametrisations, such as
    `orthogonal`, need the module itself.

    Args:
        weights: a module (the layer, or a model that has it), a state dict of tensors or arrays, a
            dict that holds one, such as a checkpoint of Lightning, or the path of a file:
            `.safetensors`, `.npz`, or what `torch.save` wrote. Only what is needed is read. Nothing
            in a file is run: PyTorch reads its pickles with `weights_only=True`.
        prefix: where in a whole model the layer is, such as "encoder.lstm", or "" for its root.
            Keys elsewhere are ignored. The keys down to a state dict, `module.` of `DataParallel`
            and `_orig_mod.` of `torch.compile` may be left out. By default the only layer that
            there is. Cells in a list have to be read one by one and joined with `stack`.
        layer: which of several layers on top of each other to load alone, from 0. By default all.
        direction: "forward" or "backward", needed for a bidirectional layer alone. Each direction
            is a system of its own. The backward one meets the inputs in reverse order. Above the
            lowest layer both read both directions, so several layers can only be loaded one by
            one, and the input of an upper one has 2 N entries: forward, then backward.
        nonlinearity: "tanh" or "relu" of an RNN, which its weights do not show. Needed for the
            weights of an RNN alone. A module tells its own.
        ignore: names of arrays below the prefix that do not change what the layer computes, such as
            "h0" or "fc" (for all of "fc.weight" and "fc.bias"). A layer norm within a cell or a
            peephole does change it, so what is not read is refused unless it is named here. A layer
            of `torch.nn` that is passed as a module needs no names.
        dtype: float32 or float64 to cast the weights. By default they keep their dtype.

    Returns:
        The recurrence of the linen SimpleCell, OptimizedLSTMCell or GRUCell, of an LSTM with
        projections, or a `stack` of them, with its closed-form Jacobian.

    Raises:
        TypeError: `weights`, `prefix` or `dtype` is of another kind, or a dtype would have to
            change without `dtype`.
        ValueError: no layer or more than one is at `prefix`, a tensor is missing, misshapen or not
            finite, an argument that the weights do not tell is missing, one that does not fit was
            given, or a file is damaged.
        ImportError: the package that reads a file of this kind is not installed.

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
    if prefix is not None and not isinstance(prefix, str):
        expected = "a string such as 'encoder.lstm', '' for the root, or None for the only layer"
        refuse("prefix", repr(prefix), expected, error=TypeError)
    with open_torch(weights) as (arrays, modules):
        layers = find_torch_layers(arrays)
        own = {p: one for p, one in layers.items() if p in modules and is_of_torch(modules[p])}
        chosen = choose_torch_layer(own or layers, prefix)
        module = modules.get(chosen.prefix)
        if module is not None and not is_of_torch(module):
            received = f"a {type(module).__name__} with the weights of an RNN"
            advice = "if it computes what torch.nn.RNN, LSTM or GRU does, pass its state_dict()"
            expected = "a layer of torch.nn with its own forward"
            refuse(f"weights at {chosen.prefix!r}", received, expected, advice, error=TypeError)
        told = getattr(module, "nonlinearity", None)
        found = describe_torch(chosen if module is None else chosen._replace(unread=()), told)
        if module is None:
            _check_unread(found, ignore)
        elif ignore:
            refuse("ignore", repr(ignore), "no names for a layer of torch.nn, which is known")
        numbers = _check_numbers(found, layer, direction)
        variant = "projections" if found.num_projected else ""
        activation_fn = _activation(found, nonlinearity, told)
        back = "_reverse" if direction == "backward" else ""
        layers = [_read_layer(chosen, number, back, module, dtype) for number in numbers]
    layout = foreign_layouts("pytorch", variant)[found.kind]
    return build(layout, "pytorch", layers, activation_fn=activation_fn)


@contextlib.contextmanager
def open_torch(weights: Any) -> Iterator[tuple[Mapping, dict[str, Any]]]:
    """Open weights as a state dict, together with the modules that hold them, by their prefix.

    Raises:
        TypeError: neither a module nor a mapping nor a path.
        ValueError: a damaged file.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(weights, torch.nn.Module):
        yield weights.state_dict(), dict(weights.named_modules())
    elif isinstance(weights, str | os.PathLike):
        with open_arrays(Path(weights)) as arrays:
            yield arrays, {}
    elif isinstance(weights, Mapping):
        yield weights, {}
    else:
        expected = "a module of PyTorch, a state dict (module.state_dict()) or the path of a file"
        refuse("weights", type(weights).__name__, expected, error=TypeError)


def is_of_torch(module: Any) -> bool:
    """Say whether a module computes what one of PyTorch's own recurrent layers or cells does."""
    own = sys.modules["torch"].nn
    kinds = [getattr(own, name + end) for name in ("RNN", "LSTM", "GRU") for end in ("", "Cell")]
    forward = getattr(type(module), "forward", None)
    is_changed = "forward" in getattr(module, "__dict__", {})
    return not is_changed and any(forward is kind.forward for kind in kinds)


def _check_unread(found: RecurrentLayer, ignore: Sequence[str]) -> None:
    """Raise for arrays of a layer that would not be read, unless their names are to be ignored."""
    names = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    fitting = {
        name: [one for one in found.unread if one == name or one.startswith(f"{name}.")]
        for name in names
    }
    if stray := [name for name in names if not fitting[name]]:
        expected = f"names of what is not read: {list_names(found.unread) or 'there is nothing'}"
        refuse("ignore", repr(stray[0]), expected)
    unread = sorted(set(found.unread) - {one for some in fitting.values() for one in some})
    if unread:
        at = f"weights at {found.prefix!r}"
        advice = (
            "a layer that has these may compute something else. If they do not change it, pass "
            f"ignore={sorted({name.partition('.')[0] for name in unread})}"
        )
        received = f"{list_names(unread)} besides the weights of an {found.kind}"
        refuse(at, received, f"those of a plain {found.kind}", advice)


def _check_numbers(
    found: RecurrentLayer, layer: int | None, direction: str | None
) -> range | list[int]:
    """Return the numbers of the layers to load."""
    if layer is not None:
        check_count("layer", layer, 0, found.num_layers - 1)
    if direction is not None:
        check_choice("direction", direction, ("forward", "backward"))
    if found.num_directions == 2 and direction is None:
        advice = (
            "each is a system of its own: pass direction='forward' or direction='backward' (which "
            "meets the inputs in reverse order)"
        )
        refuse("direction", f"None for a bidirectional {found.kind}", "one direction", advice)
    if direction == "backward" and found.num_directions == 1:
        refuse("direction", "'backward' for layers that run forward alone", "None")
    if found.num_directions == 2 and found.num_layers > 1 and layer is None:
        advice = "layers above the lowest read both directions: load each with its number"
        received = f"None for {found.num_layers} bidirectional layers"
        refuse("layer", received, f"0 to {found.num_layers - 1}", advice)
    return range(found.num_layers) if layer is None else [layer]


def _activation(found: RecurrentLayer, nonlinearity: str | None, told: str | None) -> Any:
    """Return the activation function of a layer. One with gates has tanh."""
    if found.kind != "RNN":
        if nonlinearity not in (None, "tanh"):
            refuse("nonlinearity", repr(nonlinearity), f"None for a layer of kind {found.kind}")
        return ACTIVATIONS["tanh"]
    if nonlinearity is None and told is None:
        advice = "'tanh' is PyTorch's default"
        refuse("nonlinearity", "None for the weights of an RNN", "'tanh' or 'relu'", advice)
    name: Any = nonlinearity or told
    check_choice("nonlinearity", name, ACTIVATIONS)
    if told not in (None, name):
        refuse("nonlinearity", repr(nonlinearity), f"{told!r}, which the module has, or None")
    return ACTIVATIONS[name]


def _read_layer(chosen: TorchLayer, number: int, back: str, module: Any, dtype: Any) -> GatedLayer:
    """Read the weights of one layer and one direction."""

    def read(base) -> Any:
        weight = chosen.weights.get(chosen.key(base, number, back))
        return None if weight is None else to_floats(*read_weight(weight, module), dtype)

    projection = read("weight_hr")
    return GatedLayer(
        kernel_x=read("weight_ih").T,
        kernel_h=read("weight_hh").T,
        bias_x=read("bias_ih"),
        bias_h=read("bias_hh"),
        projection=None if projection is None else projection.T,
    )
