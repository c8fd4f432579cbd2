"""Initialisers for Flax cells, and networks whose kernels and biases are changed on purpose.

Two ways to the same end. `scaled_identity`, `gaussian`, `orthogonal_per_gate`, `forget_gate_bias`
and `chrono_bias` are Flax initialisers, for the `…_init` arguments of linen and nnx cells. Called
with a shape that they are not meant for, they raise a ValueError. Their scales may be traced.
`with_gain`, `with_gate_bias` and `with_chrono_biases` change a network that is a `Recurrence`. They
reach what no initialiser can: one gate of a linen cell, which has one `bias_init` for all.

Example:
    >>> import jax
    >>> from flax import nnx
    >>> cell = nnx.OptimizedLSTMCell(
    ...     3,
    ...     8,
    ...     recurrent_kernel_init=orthogonal_per_gate(4, 0.5),
    ...     bias_init=forget_gate_bias(8, 1.0),
    ...     rngs=nnx.Rngs(0),
    ... )
    >>> block = cell.dense_h.kernel[:, 8:16]
    >>> bool(jnp.allclose(block @ block.T, 0.25 * jnp.eye(8), atol=1e-5))
    True
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Key

from jacobian_rnn.cells import LinenStep, NNXStep, Recurrence, StackStep, zero_carry
from jacobian_rnn.checkpoints import refuse
from jacobian_rnn.jacobians import check_finite
from jacobian_rnn.literature_cells import AntisymmetricStep, LeakyStep, MinimalStep, check_sizes


@dataclasses.dataclass(frozen=True)
class Initializer:
    """A Flax initialiser, `(key, shape, dtype) -> array`; equal for equal options."""

    draw: Callable[..., Array]
    options: tuple[Any, ...]

    def __call__(self, key: Array, shape: Any, dtype: Any = float) -> Array:
        """Return `draw(key, shape, dtype, *options)`."""
        return self.draw(key, tuple(shape), dtype, *self.options)


def scaled_identity(scale: float | Array = 1.0) -> Initializer:
    """Make an initialiser of square kernels (N, N): `scale` times the identity.

    References:
        Q. V. Le, N. Jaitly and G. E. Hinton, "A simple way to initialize recurrent networks of
        rectified linear units", 2015.
    """
    return Initializer(_scaled_identity, (scale,))


def gaussian(weight_std: float | Array) -> Initializer:
    """Make an initialiser of kernels (N, G N) with independent entries N(0, weight_std² / N).

    `weight_std` is σ_w of mean-field theory: without input and bias, a tanh network is critical at
    σ_w = 1 as N → ∞.
    """
    return Initializer(_gaussian, (weight_std,))


def orthogonal_per_gate(num_gates: int, scale: float | Array = 1.0) -> Initializer:
    """Make an initialiser of fused kernels (N, G N) whose every block is `scale` · orthogonal.

    Flax's own `orthogonal()` makes the N rows of the whole kernel orthonormal, so that each block
    has a mean squared singular value of 1/G only. Here blocks are drawn independently.

    Args:
        num_gates: G; 3 for `nnx.GRUCell`, 4 for `nnx.OptimizedLSTMCell`.
        scale: of each block.

    Returns:
        The initialiser, for `recurrent_kernel_init`.

    Raises:
        TypeError: a number of gates that is not an integer.
        ValueError: a number of gates below one.
    """
    check_sizes(num_gates=num_gates)
    return Initializer(_orthogonal_per_gate, (num_gates, scale))


def forget_gate_bias(num_units: int, bias: float | Array = 1.0) -> Initializer:
    """Make an initialiser of fused LSTM biases (4 N,): `bias` at the forget gate, else zero.

    Args:
        num_units: N. Shapes cannot tell the biases of all gates from the (N,) of one.
        bias: b_f. A constant gate σ(b_f) forgets in −1 / log σ(b_f) steps.

    Returns:
        The initialiser, for `bias_init` of `nnx.OptimizedLSTMCell`, gates in the order i, f, g, o.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below one.

    References:
        F. A. Gers, J. Schmidhuber and F. Cummins, "Learning to forget: continual prediction with
        LSTM", Neural Computation 12 (2000).
    """
    check_sizes(num_units=num_units)
    return Initializer(_forget_gate_bias, (num_units, bias))


def chrono_bias(num_units: int, max_lag: float) -> Initializer:
    """Make an initialiser of fused LSTM biases (4 N,): b_f ~ log U(1, max_lag − 1), b_i = −b_f.

    Args:
        num_units: N. Shapes cannot tell the biases of all gates from the (N,) of one.
        max_lag: T_max, the longest dependency in steps, above 2.

    Returns:
        The initialiser, as that of `forget_gate_bias`; zero at g and o.

    Raises:
        TypeError: a size that is not an integer, or a lag that is not a number.
        ValueError: a size below one, or a lag of 2 or less.

    References:
        C. Tallec and Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, section 3.
    """
    check_sizes(num_units=num_units)
    _check_lag(max_lag)
    return Initializer(_chrono_bias, (num_units, max_lag))


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
    _check_lag(max_lag)
    layout = _layout_of(recurrence)
    state = jax.tree.leaves(zero_carry(recurrence))[0]
    bias = _log_uniform(key, state.size, state.dtype, max_lag)
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


def _check_lag(max_lag):
    if isinstance(max_lag, bool) or not isinstance(max_lag, int | float):
        refuse("max_lag", repr(max_lag), "a number of steps", error=TypeError)
    if not 2 < max_lag < math.inf:
        refuse("max_lag", max_lag, "a finite number of steps above 2")


def _check_kernel(name, shape, num_gates=None):
    fits = len(shape) == 2 and shape[0] > 0 and shape[1] % shape[0] == 0
    if not fits or (num_gates is not None and shape[1] != num_gates * shape[0]):
        blocks = "G N" if num_gates is None else f"{num_gates} N" if num_gates > 1 else "N"
        refuse(name, f"shape {shape}", f"(N, {blocks})", "it is meant for recurrent kernels")


def _check_fused(name, shape, num_units):
    if shape != (4 * num_units,):
        expected = f"({4 * num_units},), the biases of nnx.OptimizedLSTMCell of {num_units} units"
        advice = "use with_gate_bias or with_chrono_biases for cells that keep them apart"
        refuse(name, f"shape {shape}", expected, advice)


def _scaled_identity(key, shape, dtype, scale):
    del key
    _check_kernel("scaled_identity", shape, 1)
    eye = jnp.eye(shape[0], dtype=dtype)
    return jnp.asarray(scale, eye.dtype) * eye


def _gaussian(key, shape, dtype, weight_std):
    _check_kernel("gaussian", shape)
    entries = jax.random.normal(key, shape, dtype)
    return jnp.asarray(weight_std, entries.dtype) / math.sqrt(shape[0]) * entries


def _orthogonal_per_gate(key, shape, dtype, num_gates, scale):
    _check_kernel("orthogonal_per_gate", shape, num_gates)
    draw = initializers.orthogonal()
    keys, square = jax.random.split(key, num_gates), (shape[0], shape[0])
    kernel = jnp.concatenate([draw(one, square, dtype) for one in keys], axis=1)
    return jnp.asarray(scale, kernel.dtype) * kernel


def _forget_gate_bias(key, shape, dtype, num_units, bias):
    del key
    _check_fused("forget_gate_bias", shape, num_units)
    return jnp.zeros(shape, dtype).at[num_units : 2 * num_units].set(bias)


def _chrono_bias(key, shape, dtype, num_units, max_lag):
    _check_fused("chrono_bias", shape, num_units)
    forget = _log_uniform(key, num_units, dtype, max_lag)
    return jnp.concatenate([-forget, forget, jnp.zeros(2 * num_units, forget.dtype)])


def _log_uniform(key, num_units, dtype, max_lag):
    return jnp.log(jax.random.uniform(key, (num_units,), dtype, 1, max_lag - 1))
