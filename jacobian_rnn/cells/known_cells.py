"""The known cells: each file of this folder that defines a `LAYOUT` describes one."""

import functools
import importlib
import pkgutil
from pathlib import Path
from typing import Any

from jaxtyping import Array, Float

from jacobian_rnn.cells.layout import Layers, Layout, Weights
from jacobian_rnn.cells.recurrence import Recurrence, check_recurrence
from jacobian_rnn.checks import refuse


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return the layouts of all known cells."""
    package = __name__.rpartition(".")[0]
    files = sorted(file.name for file in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [importlib.import_module(f"{package}.{name}") for name in files]
    return tuple(module.LAYOUT for module in modules if hasattr(module, "LAYOUT"))


def layout_of(cell_class: type) -> Layout | None:
    """Return the layout of a class of cells, or None for one that is not known.

    Args:
        cell_class: a class of linen or nnx, or of a step of this package.

    Example:
        >>> from flax import nnx
        >>> layout_of(nnx.LSTMCell).gates
        'ifgo'
    """
    return next((layout for layout in layouts() if cell_class in layout.layers), None)


def class_of(recurrence: Recurrence) -> type:
    """Return the class of a network's Flax cell, or of its step where it has no such cell.

    Raises:
        TypeError: not a `Recurrence`.
    """
    check_recurrence(recurrence)
    step: Any = recurrence.step
    return type(step.cell_of(recurrence.params) if hasattr(step, "cell_of") else step)


def kind_of(recurrence: Recurrence) -> str:
    """Return the name that error texts give to a network."""
    return getattr(recurrence.step, "__name__", class_of(recurrence).__name__)


def describe(recurrence: Recurrence, advice: str = "") -> tuple[Layout, Layers]:
    """Return the layout of a network's cell, and the layers that hold its weights.

    Raises:
        TypeError: not a `Recurrence`, or a cell that is not known.
    """
    cell_class = class_of(recurrence)
    layout = layout_of(cell_class)
    if layout is None:
        names = sorted({one.__name__ for layout in layouts() for one in layout.layers})
        if hasattr(recurrence.step, "steps"):
            advice = "take each layer by itself, as unstack(recurrence) gives them"
        expected = f"one of {', '.join(names)}"
        refuse("recurrence", f"a {kind_of(recurrence)}", expected, advice, error=TypeError)
    return layout, layout.layers[cell_class]


def weights_of(recurrence: Recurrence) -> Weights:
    """Return the weights of a network gate by gate. Leading axes of many networks stay.

    Raises:
        TypeError: not a `Recurrence`, or a cell that is not known.
        ValueError: the parameters lack a layer of the cell.
    """
    layout, layers = describe(recurrence)
    try:
        return layers.read(recurrence.params, len(layout.gates))
    except KeyError as error:
        received = f"a {kind_of(recurrence)} without {error}"
        refuse("recurrence", received, "the layers of its class")


def recurrent_kernels(recurrence: Recurrence) -> dict[str, Float[Array, "... units units"]]:
    """Return the recurrent kernels of a network, gate by gate.

    Args:
        recurrence: a network of a cell that `with_gain` knows. Its parameters may have leading
            axes for many networks.

    Returns:
        Kernels `(..., N, N)` by the letter of the gate: i, f, g, o (LSTM), r, z, n (GRU), f, n
        (MGU), u (minimal), or h for a cell without gates. They act on rows, h ↦ h K. For an
        antisymmetric network K is the kernel of W alone.

    Raises:
        TypeError: not a `Recurrence`, or a cell that is not known.
        ValueError: the parameters lack a layer of the cell.

    Example:
        >>> from flax import nnx
        >>> from jacobian_rnn import from_nnx
        >>> network = from_nnx(nnx.OptimizedLSTMCell(3, 2, rngs=nnx.Rngs(0)))
        >>> {gate: kernel.shape for gate, kernel in recurrent_kernels(network).items()}
        {'i': (2, 2), 'f': (2, 2), 'g': (2, 2), 'o': (2, 2)}
    """
    layout, _ = describe(recurrence)
    return dict(zip(layout.gates, weights_of(recurrence).recurrent, strict=True))
