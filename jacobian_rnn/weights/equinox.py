"""Recurrences from the cells of Equinox, its own and those of others."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_finite, check_type, list_names, refuse
from jacobian_rnn.weights._equinox_modules import cell_name, find_equinox_cells, import_equinox
from jacobian_rnn.weights._gated_layers import GatedLayer, build, foreign_layouts


def from_equinox(cell: Any, *, call: Callable[[Any, Any, Any], Any] | None = None) -> Recurrence:
    """Turn a cell of Equinox into a `Recurrence`.

    A `GRUCell` or `LSTMCell` becomes the linen cell with the same weights, closed form included.
    The carry of an LSTM is then `(c, h)`, where Equinox has `(h, c)`. Any other module keeps its
    own carry. All its arrays are parameters.

    Args:
        cell: `equinox.nn.GRUCell` or `LSTMCell`, or any module that is called as
            `cell(input, state) -> state`. It is not changed.
        call: `call(cell, state, input) -> state`, for a module that is called in another way. It
            should be a named function, because equal functions share one compiled program. Static.

    Returns:
        The recurrence. Its `output` is the last array of the state. For a module whose h is another
        one, pass `dataclasses.replace(recurrence, output=...)`.

    Raises:
        ImportError: Equinox is not installed.
        TypeError: `cell` is no module of Equinox, is not called with two arguments, or has an
            attribute that cannot be hashed.
        ValueError: numbers that are not finite.

    Example:
        >>> import jax, jax.numpy as jnp, pytest
        >>> equinox = pytest.importorskip("equinox")
        >>> cell = equinox.nn.GRUCell(2, 3, key=jax.random.key(0))
        >>> gru = from_equinox(cell)
        >>> bool(jnp.allclose(gru.step(gru.params, jnp.ones(3), jnp.ones(2)),
        ...                   cell(jnp.ones(2), jnp.ones(3)), atol=1e-6))
        True

    References:
        P. Kidger and C. Garcia, "Equinox: neural networks in JAX via callable PyTrees and filtered
        transformations", 2021.
    """
    equinox = import_equinox()
    expected = "a module of Equinox such as equinox.nn.GRUCell(8, 64, key=...)"
    check_type("cell", cell, equinox.Module, expected)
    name = cell_name(cell) if call is None else None
    if name is not None:
        layout = foreign_layouts("equinox")[name]
        return build(layout, "equinox", [_layer_of(cell)])
    if call is not None and not callable(call):
        refuse("call", repr(call), "a function (cell, state, input) -> state", error=TypeError)
    if call is None:
        _check_call(cell)
    params, static = equinox.partition(cell, _is_array)
    check_finite("cell", params)
    leaves, structure = jax.tree.flatten(static)
    step = EquinoxStep(tuple(leaves), structure, call)
    try:
        hash(step)
    except TypeError as error:
        advice = "hold it as an array, a tuple or a named function"
        msg = f"cell: received an attribute that cannot be hashed ({error}): {advice}"
        raise TypeError(msg) from error
    return Recurrence(step, params)


@dataclasses.dataclass(frozen=True)
class EquinoxStep:
    """The step of a module of Equinox. Modules that are equal but for their arrays have one step.

    Attributes:
        leaves: what a module has besides arrays.
        structure: how they make up the module. Unlike the module itself it can be hashed.
        call: `call(module, state, input) -> state`, or None for `module(input, state)`.
    """

    leaves: tuple[Any, ...]
    structure: Any
    call: Callable[[Any, Any, Any], Any] | None

    def __call__(self, params, carry, x):
        """Return the new carry."""
        static = jax.tree.unflatten(self.structure, self.leaves)
        module = import_equinox().combine(params, static)
        return module(x, carry) if self.call is None else self.call(module, carry, x)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _layer_of(cell: Any) -> GatedLayer:
    """Take the weights out of a cell of Equinox itself."""
    arrays = (cell.weight_ih, cell.weight_hh, cell.bias, getattr(cell, "bias_n", None))
    check_finite("cell", arrays)
    bias, read_bias = (None if a is None else np.asarray(a) for a in arrays[2:])
    if read_bias is not None:  # of the last gate alone
        read_bias = np.concatenate([np.zeros(2 * len(read_bias), read_bias.dtype), read_bias])
    return GatedLayer(np.asarray(cell.weight_ih).T, np.asarray(cell.weight_hh).T, bias, read_bias)


def _check_call(cell: Any) -> None:
    """Raise a TypeError for a module that is not called with two arguments."""
    try:
        inspect.signature(cell).bind("input", "state")
    except (TypeError, ValueError) as error:
        found = find_equinox_cells(cell)
        advice = "or pass call=, a function (cell, state, input) -> state"
        if found:
            advice = f"pass a cell that it has, at {list_names(found)}, {advice}"
        received = f"a {type(cell).__name__} that is not called so ({error})"
        refuse("cell", received, "a module called as cell(input, state)", advice, error=TypeError)
