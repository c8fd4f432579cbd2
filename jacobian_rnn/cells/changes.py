"""Changes of the kernels and biases of a network: gain, gate biases, chrono biases.

Most linen cells have one `bias_init` for all gates. These functions can change one gate alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jacobian_rnn.cells.known_cells import describe, kind_of
from jacobian_rnn.cells.recurrence import Recurrence, zero_carry
from jacobian_rnn.cells.stacking import is_stack, stack, unstack
from jacobian_rnn.checks import check_count, check_finite, check_number, refuse


def with_gain(
    recurrence: Recurrence, gain: float | Array, *, layer: int | None = None
) -> Recurrence:
    """Multiply the recurrent kernels of all gates of a network by one number.

    Args:
        recurrence: a linen or nnx SimpleCell, LSTMCell, OptimizedLSTMCell or GRUCell, a linen
            MGUCell, or a minimal, leaky or antisymmetric network of this package. Or a stack of
            them.
        gain: a scalar, which may be traced.
        layer: which layer of a stack is changed, 0 for the lowest; all of them by default. Static.

    Returns:
        The network with new recurrent kernels. Everything else stays the same, step and closed form
        included, so nothing is compiled again.

    Raises:
        TypeError: not a `Recurrence`, or a cell whose parameters are not known.
        ValueError: a gain that is not one finite number, or a layer that is missing.

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
    if is_stack(recurrence) or layer is not None:
        return _with_changed_layers(recurrence, layer, lambda one: with_gain(one, gain))
    _, layers = _layout_of(recurrence)
    _check_shape("gain", gain, ((),))

    def change(old):
        return jnp.asarray(gain, old.dtype) * old

    return _with_changed(recurrence, layers.recurrent, "kernel", change)


def with_gate_bias(
    recurrence: Recurrence, gate: str, bias: float | Array, *, layer: int | None = None
) -> Recurrence:
    """Set the bias of one gate of a network.

    Args:
        recurrence: a linen or nnx LSTMCell, OptimizedLSTMCell or GRUCell, a linen MGUCell, or a
            minimal network of this package. Or a stack of them.
        gate: one letter of i, f, g, o (LSTM), r, z, n (GRU), f, n (MGU) or u (minimal). "forget" is
            the gate that keeps the state when it is open: f, z, f and u of these. Static.
        bias: a scalar, or one per unit `(N,)`, which may be traced.
        layer: which layer of a stack is changed, 0 for the lowest; all of them by default. Static.

    Returns:
        The network with this bias. Its step and its closed form stay the same.

    Raises:
        TypeError: not a `Recurrence`, or a cell whose parameters are not known.
        ValueError: a gate or a layer that is missing, or a bias of another shape or not finite.

    Example:
        >>> from flax import nnx
        >>> from jacobian_rnn import from_nnx
        >>> network = from_nnx(nnx.GRUCell(3, 2, rngs=nnx.Rngs(0)))
        >>> print(with_gate_bias(network, "z", 3.0).params["dense_i"]["bias"])
        [0. 0. 3. 3. 0. 0.]
    """
    if is_stack(recurrence) or layer is not None:
        return _with_changed_layers(recurrence, layer, lambda one: with_gate_bias(one, gate, bias))
    layout, layers = _layout_of(recurrence)
    name, gates = layout.keeps if gate == "forget" else gate, layout.gates
    if not layout.keeps or len(name) != 1 or name not in gates:
        known = f'{", ".join(gates)} or "forget"' if layout.keeps else "a cell with gates"
        refuse("gate", f"{gate!r} of a {kind_of(recurrence)}", known)
    position, fused = gates.index(name), len(layers.biases) < len(gates)
    num_gates = len(gates) if fused else 1

    def change(old):
        units = old.shape[0] // num_gates
        _check_shape("bias", bias, ((), (units,)))
        new = jnp.broadcast_to(jnp.asarray(bias, old.dtype), (units,))
        return old.at[position * units : (position + 1) * units].set(new) if fused else new

    return _with_changed(recurrence, (layers.biases[0 if fused else position],), "bias", change)


def with_chrono_biases(
    recurrence: Recurrence, max_lag: float, *, key: Key[Array, ""]
) -> Recurrence:
    """Draw the biases of the gates for memories of up to `max_lag` steps.

    The gate that keeps the state gets b ~ log U(1, max_lag − 1) for each unit. Then 1 / (1 − σ(b))
    is uniform between 2 and max_lag steps. The input gate of an LSTM gets −b.

    Args:
        recurrence: a network that `with_gate_bias` accepts.
        max_lag: T_max, the longest dependency in steps, above 2.
        key: a `jax.random.key`.

    Returns:
        The network with these biases. Its step and its closed form stay the same.

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
    if is_stack(recurrence):
        layers = unstack(recurrence)
        keys = jax.random.split(key, len(layers))
        drawn = (
            with_chrono_biases(layer, max_lag, key=one)
            for layer, one in zip(layers, keys, strict=True)
        )
        return stack(*drawn)
    layout, _ = _layout_of(recurrence)
    state = jax.tree.leaves(zero_carry(recurrence))[0]
    bias = log_uniform(key, state.size, state.dtype, max_lag)
    recurrence = with_gate_bias(recurrence, "forget", bias)
    return with_gate_bias(recurrence, "i", -bias) if "i" in layout.gates else recurrence


def _layout_of(recurrence):
    advice = "change its params by hand, with dataclasses.replace(recurrence, params=...)"
    return describe(recurrence, advice)


def _with_changed_layers(recurrence, layer, change):
    layers = unstack(recurrence)
    if layer is not None:
        check_count("layer", layer, 0, len(layers) - 1, "the lowest is 0")
    return stack(*(change(one) if layer in (None, i) else one for i, one in enumerate(layers)))


def _with_changed(recurrence, layers, entry, change):
    """Change the entry "kernel" or "bias" of each given layer, and raise if one is missing."""
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
        received = f"a {kind_of(recurrence)} without the {entry} of {missing}"
        refuse("recurrence", received, "the layers of its class", "change its params by hand")
    return dataclasses.replace(recurrence, params=params)


def _check_shape(name, number, shapes):
    array = jnp.asarray(number)
    if array.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        refuse(name, f"shape {array.shape}", expected, "use jax.vmap over several networks")
    check_finite(name, array)


def check_lag(max_lag: Any) -> None:
    """Raise unless the longest dependency of chrono biases is a number of steps above 2."""
    check_number("max_lag", max_lag, above=2)


def log_uniform(key: Key[Array, ""], num_units: int, dtype: Any, max_lag: float) -> Array:
    """Draw biases b ~ log U(1, max_lag − 1), shape `(num_units,)`."""
    return jnp.log(jax.random.uniform(key, (num_units,), dtype, 1, max_lag - 1))
