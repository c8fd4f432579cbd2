"""What of a Flax layer a recurrence can be: its cell, where the layer's options leave it as it is.

Each field of `nn.RNN`, `nnx.RNN`, `nn.Bidirectional` and `nnx.Bidirectional` is honoured or refused
here. `return_carry`, `keep_order` and `merge_fn` change what a layer returns, `unroll` how it is
compiled, and `rngs`, `split_rngs` and `broadcast_rngs` what is drawn at random. A step that draws
is refused when it is called.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from flax import linen as nn
from flax import nnx

from jacobian_rnn.cells.known_cells import layout_of, layouts
from jacobian_rnn.cells.layout import Layers
from jacobian_rnn.checks import list_names, refuse

FORWARD = "one that runs forward over (batch, time, inputs)"


def check_runs_forward(layer: Any) -> None:
    """Raise for an `nn.RNN` or `nnx.RNN` that runs in reverse or takes time first."""
    whole = "; or diagnose(model, batch) takes a model as it is"
    if layer.reverse:
        of_it = " with {'params': params['cell']}" if isinstance(layer, nn.Module) else ""
        order = "the inputs in the order in which it meets them"
        advice = f"pass `layer.cell`{of_it}, and {order}{whole}"
        refuse("cell", "a layer with reverse=True", FORWARD, advice)
    if layer.time_major:
        advice = f"pass `layer.cell`, and the inputs with their first two axes swapped{whole}"
        refuse("cell", "a layer with time_major=True", FORWARD, advice)


def check_same_at_every_step(layer: Any) -> None:
    """Raise for an `nn.RNN` or `nnx.RNN` whose variables are others at other steps."""
    advice = "pass a step function to Recurrence, with what changes in its carry or its inputs"
    if isinstance(layer, nn.RNN):
        if layer.variable_axes:
            received = f"a layer with variable_axes={dict(layer.variable_axes)}"
            refuse("cell", received, "one whose variables are the same at every step", advice)
        if layer.variable_carry is not False and layer.variable_carry != ():
            received = f"a layer with variable_carry={layer.variable_carry!r}"
            refuse("cell", received, "one whose variables no step changes", advice)
    elif layer.state_axes != nnx.StateAxes({...: nnx.Carry}):
        received = f"a layer with state_axes={layer.state_axes}"
        refuse("cell", received, "one whose variables are the same at every step", advice)


def check_is_cell(cell: Any, variables: Any = None) -> None:
    """Raise for a module that is not called as `cell(carry, x)`, a bidirectional layer first."""
    if isinstance(cell, nn.Bidirectional | nnx.Bidirectional):
        advice = (
            "pass cell.forward_rnn.cell with its parameters, and cell.backward_rnn.cell with the "
            "inputs turned round; or diagnose(model, batch) takes both directions as they are"
        )
        refuse("cell", "a Bidirectional layer", "a cell, or a layer that runs forward", advice)
    try:
        inspect.signature(type(cell).__call__).bind(cell, None, None)
    except TypeError:
        signature = inspect.signature(type(cell).__call__)
        received = f"a {type(cell).__name__}, which is called as {signature}"
        advice = "pass the cell in it; or diagnose(model, batch) finds it"
        if variables is not None:
            known = [
                f"{kind.__name__} at {where}"
                for kind, layers in _linen_cells()
                for where in find_layers(variables["params"], layers)
            ]
            if known:
                advice += f". Its parameters look like those of {', '.join(known)}"
        refuse("cell", received, "one that is called as cell(carry, x)", advice)


def check_has_params(variables: Any, name: str) -> None:
    """Raise a ValueError unless the variables of the linen module `name` hold "params"."""
    if not isinstance(variables, Mapping) or "params" not in variables:
        received = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
        advice = f"pass what `{name}.init(...)` returned, or {{'params': params}}"
        refuse("variables", received, "'params' among them", advice)


def check_variables(cell: Any, params: Mapping) -> None:
    """Raise where parameters are not those of a known linen cell, and say where they are."""
    layout = layout_of(type(cell))
    if layout is None or not params:  # an empty tree stands for parameters that come later
        return
    layers = layout.layers[type(cell)]
    names = layers.inputs + layers.recurrent
    if not set(names) <= set(params):
        expected = f"those of a {type(cell).__name__}, {list_names(names)}"
        refuse_parameters(cell, params, expected, "`cell.init(...)`")


def refuse_parameters(cell: Any, params: Mapping, expected: str, source: str) -> NoReturn:
    """Raise for the parameters of something else, and say where in them those of the cell are."""
    layout = layout_of(type(cell))
    layers = None if layout is None else layout.layers[type(cell)]
    size = getattr(cell, "features", None)
    places = [] if layers is None else find_layers(params, layers, size)
    advice = f"pass what {source} returned"
    if places:
        keys = "".join(f"[{name!r}]" for name in places[0].split("/"))
        advice = (
            f"those of a {type(cell).__name__} are at {list_names(places)}: pass the cell itself "
            f"with {{'params': variables['params']{keys}}}"
        )
    refuse("variables", f"parameters {sorted(params)}", expected, advice)


def find_layers(params: Any, layers: Layers, num_units: int | None = None) -> list[str]:
    """Return the paths below which a tree of parameters has all layers of a cell.

    Args:
        params: nested mappings.
        layers: the layers of the cell.
        num_units: those of this size alone, if there are any.
    """
    found = list(_walk(params, set(layers.inputs + layers.recurrent), ()))
    sized = [
        path
        for path, subtree in found
        if num_units == getattr(subtree[layers.recurrent[0]].get("kernel"), "shape", (None,))[0]
    ]
    return ["/".join(path) for path in sized or [path for path, _ in found]]


def _walk(tree: Any, names: set[str], path: tuple[str, ...]) -> Iterator[tuple[tuple, Mapping]]:
    if not isinstance(tree, Mapping):
        return
    if path and names <= set(tree):
        yield path, tree
    for key, inner in tree.items():
        yield from _walk(inner, names, (*path, key))


def _linen_cells() -> list[tuple[type, Layers]]:
    """Return the known linen cells, one for each set of layers."""
    known = {}
    for layout in layouts():
        for kind, layers in layout.layers.items():
            if issubclass(kind, nn.Module):
                known.setdefault(layers, kind)
    return [(kind, layers) for layers, kind in known.items()]
