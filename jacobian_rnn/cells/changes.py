"""Networks whose kernels and biases are changed on purpose: gain, gate biases, chrono biases.

They reach what no initialiser can: one gate of a linen cell, which has one `bias_init` for all.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import Array, Key

from jacobian_rnn.cells.literature_cells import AntisymmetricStep, LeakyStep, MinimalStep
from jacobian_rnn.cells.recurrence import LinenStep, NNXStep, Recurrence, StackStep, zero_carry
from jacobian_rnn.checks import check_finite, check_number, refuse


def with_gain(recurrence: Recurrence, gain: float | Array) -> Recurrence:
    """Multiply all recurrent kernels of a network, those of all gates, by one number.

    Args:
        recurrence: a linen or nnx SimpleCell, LSTMCell, OptimizedLSTMCell, GRUCell or MGUCell, or a
            minimal, leaky or antisymmetric network of this package.
        gain: a scalar; may be traced.

    Returns:
        The network with other parameters: the same step and closed form, so that it compiles
        nothing new. Biases and input kernels stay.

    Raises:
        TypeError: not a `Recurrence`, or a cell whose parameters are not known.
        ValueError: a gain that is not one finite number.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import from_linen
        >>> cell = nn.SimpleCell(4)
        >>> variables = cell.init(jax.random.key(0), jnp.zeros(4), jnp.ones(3))
        >>> network = from_linen(cell, variables)
        >>> kernel = with_gain(network, 2.0).params["params"]["h"]["kernel"]
        >>> print(jnp.linalg.norm(kernel, 2).round(4))
        2.0
    """
    layout = _layout_of(recurrence)
    _check_shape("gain", gain, ((),))

    def change(old):
        return jnp.asarray(gain, old.dtype) * old

    return _with_changed(recurrence, layout.kernels, "kernel", change)


def with_gate_bias(recurrence: Recurrence, gate: str, bias: float | Array) -> Recurrence:
    """Set the bias of one gate of a network.

    Args:
        recurrence: a linen or nnx LSTMCell, OptimizedLSTMCell, GRUCell or MGUCell, or a minimal
            network of this package.
        gate: as Flax names it, one of i, f, g, o (LSTM), r, z, n (GRU), f, n (MGU), u (minimal), or
            "forget": the gate that keeps the state when it is open, f, z, f and u of these. Static.
        bias: a scalar, or one per unit `(N,)`; may be traced.

    Returns:
        The network with other parameters: the same step and closed form.

    Raises:
        TypeError: not a `Recurrence`, or a cell whose parameters are not known.
        ValueError: a gate that the cell lacks, or a bias of another shape or not finite.

    Example:
        >>> from flax import nnx
        >>> from jacobian_rnn import from_nnx
        >>> network = from_nnx(nnx.GRUCell(3, 2, rngs=nnx.Rngs(0)))
        >>> print(with_gate_bias(network, "z", 3.0).params["dense_i"]["bias"])
        [0. 0. 3. 3. 0. 0.]
    """
    layout = _layout_of(recurrence)
    name = layout.keeps if gate == "forget" else gate
    if len(name) != 1 or name not in layout.gates:
        known = f'{", ".join(layout.gates)} or "forget"' if layout.gates else "a cell with gates"
        refuse("gate", f"{gate!r} of a {_kind(recurrence)}", known)
    position, fused = layout.gates.index(name), len(layout.biases) < len(layout.gates)
    num_gates = len(layout.gates) if fused else 1

    def change(old):
        units = old.shape[0] // num_gates
        _check_shape("bias", bias, ((), (units,)))
        new = jnp.broadcast_to(jnp.asarray(bias, old.dtype), (units,))
        return old.at[position * units : (position + 1) * units].set(new) if fused else new

    return _with_changed(recurrence, (layout.biases[0 if fused else position],), "bias", change)


def with_chrono_biases(
    recurrence: Recurrence, max_lag: float, *, key: Key[Array, ""]
) -> Recurrence:
    """Draw the biases of the gates for memories of up to `max_lag` steps.

    The gate that keeps the state gets b ~ log U(1, max_lag − 1) for each unit, 1 / (1 − σ(b)) is
    uniform between 2 and max_lag steps; the input gate of an LSTM gets −b.

    Args:
        recurrence: a gated network, see `with_gate_bias`.
        max_lag: T_max, the longest dependency in steps, above 2.
        key: a `jax.random.key`.

    Returns:
        The network with other parameters: the same step and closed form.

    Raises:
        TypeError: a cell whose parameters are not known, or a lag that is not a number.
        ValueError: a cell without gates, or a lag of 2 or less.

    References:
        C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, section 3.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from jacobian_rnn import from_nnx
        >>> network = from_nnx(nnx.LSTMCell(3, 2, rngs=nnx.Rngs(0)))
        >>> params = with_chrono_biases(network, 100, key=jax.random.key(1)).params
        >>> bool((params["hf"]["bias"] == -params["hi"]["bias"]).all())
        True
    """
    check_lag(max_lag)
    layout = _layout_of(recurrence)
    state = jax.tree.leaves(zero_carry(recurrence))[0]
    bias = log_uniform(key, state.size, state.dtype, max_lag)
    recurrence = with_gate_bias(recurrence, "forget", bias)
    return with_gate_bias(recurrence, "i", -bias) if "i" in layout.gates else recurrence


class Layout(NamedTuple):
    """Where a cell keeps what its gates need.

    Attributes:
        gates: one letter each, in the order of fused biases.
        biases: the layers with their biases, one for each gate or one for all.
        kernels: the layers whose kernels read h.
        keeps: the gate that keeps the state when it is open; empty where there is none.
    """

    gates: str
    biases: tuple[str, ...]
    kernels: tuple[str, ...]
    keeps: str


_PLAIN = Layout("", (), ("recurrent",), "")
_LSTM = Layout("ifgo", ("hi", "hf", "hg", "ho"), ("hi", "hf", "hg", "ho"), "f")
LAYOUTS: dict[type, Layout] = {
    nn.SimpleCell: _PLAIN._replace(kernels=("h",)),
    nn.LSTMCell: _LSTM,
    nn.OptimizedLSTMCell: _LSTM,
    nn.GRUCell: Layout("rzn", ("ir", "iz", "in"), ("hr", "hz", "hn"), "z"),
    nn.MGUCell: Layout("fn", ("if", "in"), ("hf", "hn"), "f"),
    nnx.SimpleCell: _PLAIN._replace(kernels=("dense_h",)),
    nnx.LSTMCell: _LSTM,
    nnx.OptimizedLSTMCell: Layout("ifgo", ("dense_h",), ("dense_h",), "f"),
    nnx.GRUCell: Layout("rzn", ("dense_i",), ("dense_h",), "z"),
    MinimalStep: Layout("u", ("recurrent",), ("recurrent",), "u"),
    LeakyStep: _PLAIN,
    AntisymmetricStep: _PLAIN,
}


def _layout_of(recurrence):
    kind = _kind(recurrence)
    cell = _class_of(recurrence.step, recurrence.params)
    if cell in LAYOUTS:
        return LAYOUTS[cell]
    known = f"one of {', '.join(sorted({one.__name__ for one in LAYOUTS}))}"
    advice = "change its params by hand, with dataclasses.replace(recurrence, params=...)"
    if isinstance(recurrence.step, StackStep):
        advice = "change each layer before it is stacked"
    return refuse("recurrence", f"a {kind}", known, advice, error=TypeError)


def _kind(recurrence):
    if not isinstance(recurrence, Recurrence):
        advice = "convert a cell with from_linen(cell, variables) or from_nnx(cell)"
        received = f"a {type(recurrence).__name__}"
        refuse("recurrence", received, "a Recurrence", advice, error=TypeError)
    cell = _class_of(recurrence.step, recurrence.params)
    return getattr(recurrence.step, "__name__", cell.__name__)


def _class_of(step, params):
    if isinstance(step, NNXStep):
        return type(nnx.merge(step.graphdef, params))
    return type(step.cell if isinstance(step, LinenStep) else step)


def _with_changed(recurrence, layers, entry, change):
    """Change the entries "kernel" or "bias" of some layers; all of them have to be there."""
    changed = []

    def visit(path, leaf):
        names = tuple(str(getattr(part, "key", part)) for part in path)
        if names[-2:] not in [(layer, entry) for layer in layers]:
            return leaf
        changed.append(names[-2])
        return change(leaf)

    params = jax.tree_util.tree_map_with_path(visit, recurrence.params)
    if sorted(changed) != sorted(layers):
        missing = ", ".join(sorted(set(layers) - set(changed)))
        received = f"a {_kind(recurrence)} without the {entry} of {missing}"
        refuse("recurrence", received, "the layers of its class", "change its params by hand")
    return dataclasses.replace(recurrence, params=params)


def _check_shape(name, number, shapes):
    array = jnp.asarray(number)
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        refuse(name, f"shape {array.shape}", expected, "use jax.vmap over several networks")
    check_finite(name, array)


def check_lag(max_lag: Any) -> None:
    """Raise for what is no longest dependency of chrono biases: a number of steps above 2."""
    check_number("max_lag", max_lag, above=2)


def log_uniform(key: Key[Array, ""], num_units: int, dtype: Any, max_lag: float) -> Array:
    """Draw biases b ~ log U(1, max_lag − 1), shape `(num_units,)`."""
    return jnp.log(jax.random.uniform(key, (num_units,), dtype, 1, max_lag - 1))
