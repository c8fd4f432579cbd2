"""Hand-derived step Jacobians of Flax cells: ∂state'/∂state and ∂state'/∂x, rows are outputs.

Each formula was derived from the equations that Flax computes. A cell with a gate or activation
function that is not known to act on each unit alone has no entry here, and is differentiated
automatically instead. To add a cell: write its formula, how its weights are found among its
parameters, and enter both in `LINEN` or `NNX`.

Notation: a kernel has shape (inputs, outputs), so the matrix that acts on a column is its
transpose; φ is the activation function, σ that of the gates, a prime on either its slope.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx.nn import dtypes
from jaxtyping import Array, Float

from jacobian_rnn.cells.gated_jacobian import GatedJacobian, StackJacobian

Kernels = tuple[Float[Array, "rows units"], ...]

# Functions of each unit alone: their slopes are all of their derivative.
ELEMENTWISE = frozenset(
    {
        jnp.tanh,
        jax.nn.tanh,
        jnp.sin,
        jax.nn.sigmoid,
        jax.nn.hard_sigmoid,
        jax.nn.relu,
        jax.nn.relu6,
        jax.nn.leaky_relu,
        jax.nn.elu,
        jax.nn.selu,
        jax.nn.celu,
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.hard_silu,
        jax.nn.hard_tanh,
        jax.nn.soft_sign,
        jax.nn.softplus,
        jax.nn.log_sigmoid,
        jax.nn.identity,
    }
)


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The closed-form Jacobian of a cell; equal for equal cells.

    Attributes:
        formula: `(weights, carry, x, gate_fn, activation_fn) -> GatedJacobian`.
        weights: `params -> Weights`.
        gate_fn: σ.
        activation_fn: φ.
    """

    formula: Callable[..., GatedJacobian]
    weights: Callable[[Any], "Weights"]
    gate_fn: Callable = jax.nn.sigmoid
    activation_fn: Callable = jnp.tanh

    def parts(self, params: Any, carry: Any, x: Any) -> GatedJacobian:
        """Return the parts of the Jacobian of one step."""
        return self.formula(self.weights(params), carry, x, self.gate_fn, self.activation_fn)

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


@dataclasses.dataclass(frozen=True)
class StepClosedForm:
    """The closed-form Jacobian of a step that knows its parts; equal for equal steps.

    Attributes:
        step: has `parts(params, carry, x) -> GatedJacobian`.
    """

    step: Any

    def parts(self, params: Any, carry: Any, x: Any) -> GatedJacobian:
        """Return the parts of the Jacobian of one step."""
        return self.step.parts(params, carry, x)

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


@dataclasses.dataclass(frozen=True)
class StackClosedForm:
    """The closed-form Jacobian of layers on top of each other; equal for equal layers.

    Attributes:
        layers: the closed form of each layer, lowest first.
        steps: `step(params, carry, x) -> carry` of each layer.
        outputs: what each layer shows of its carry: the end of its state.
    """

    layers: tuple[Any, ...]
    steps: tuple[Callable, ...]
    outputs: tuple[Callable, ...]

    def parts(self, params: Any, carry: Any, x: Any) -> StackJacobian:
        """Return the Jacobians of all layers at one step."""
        parts = []
        for layer, step, output, p, c in zip(
            self.layers, self.steps, self.outputs, params, carry, strict=True
        ):
            own = layer.parts(p, c, x)
            parts += own.layers if isinstance(own, StackJacobian) else [own]
            x = output(step(p, c, x))
        return StackJacobian(tuple(parts))

    def __call__(self, params: Any, carry: Any, x: Any) -> Float[Array, "n n"]:
        """Return ∂state'/∂state."""
        return self.parts(params, carry, x).dense()


class Weights(NamedTuple):
    """The weights of a cell gate by gate, each tuple in the order that its formula names.

    Attributes:
        inputs: kernels `(inputs, N)` that read the input.
        recurrent: kernels `(N, N)` that read h.
        biases: `(N,)`, of the sum of both.
        read_bias: `(N,)`, added to what the last recurrent kernel reads before a gate scales it;
            zero where there is none.
    """

    inputs: Kernels
    recurrent: Kernels
    biases: tuple[Float[Array, " units"], ...]
    read_bias: Float[Array, " units"] | float = 0.0


def of_linen(cell: nn.Module) -> ClosedForm | None:
    """Return the closed-form Jacobian of a linen cell, or None where there is none.

    Args:
        cell: a linen cell; its class, functions and dtype decide.

    Returns:
        The closed form, called as `jacobian(variables, carry, x) -> (n, n)`, or None.
    """
    return _of(cell, LINEN)


def of_nnx(cell: nnx.Module) -> ClosedForm | None:
    """Return the closed-form Jacobian of an nnx cell, or None where there is none.

    Args:
        cell: an nnx cell; its class, functions and dtype decide.

    Returns:
        The closed form, called as `jacobian(params, carry, x) -> (n, n)`, or None.
    """
    return _of(cell, NNX) if type(cell) in NNX and _has_plain_layers(cell) else None


def _has_plain_layers(cell):
    """Say whether an nnx cell computes with the layers that its class makes, and no others."""
    layers = {
        name: layer
        for name, layer in vars(cell).items()
        if isinstance(layer, nnx.Module) and not isinstance(layer, nnx.Rngs | nnx.RngStream)
    }
    biased = NNX_BIASES[type(cell)]
    return cell.promote_dtype is dtypes.promote_dtype and all(
        type(layer) is nnx.Linear
        and layer.promote_dtype is dtypes.promote_dtype
        and layer.dot_general is jax.lax.dot_general
        and layer.param_dtype == cell.param_dtype
        and layer.dtype in (None, cell.param_dtype)
        and (layer.bias is not None) in biased.get(name, (True,))
        for name, layer in layers.items()
    )


def _of(cell, registry):
    if type(cell) not in registry or cell.dtype not in (None, cell.param_dtype):
        return None
    formula, weights = registry[type(cell)]
    gate_fn = getattr(cell, "gate_fn", jax.nn.sigmoid)
    activation_fn = cell.activation_fn
    if not {gate_fn, activation_fn} <= ELEMENTWISE:
        return None
    if getattr(cell, "residual", False):
        formula = residual_simple
    if not getattr(cell, "reset_gate", True):
        formula = mgu_without_reset
    return ClosedForm(formula, weights, gate_fn, activation_fn)


def simple(weights, carry, x, gate_fn, activation_fn):
    """J = diag(φ') W of h' = φ(U x + W h + b)."""
    del gate_fn
    (pre,) = _pre_activations(weights, carry, x)
    slopes = [_with_slope(activation_fn, pre)[1]]
    return _of_one_part(weights, jnp.zeros_like(carry), slopes, slopes)


def residual_simple(weights, carry, x, gate_fn, activation_fn):
    """J = diag(φ') (W + 1) of h' = φ(U x + W h + b + h)."""
    shifted = weights._replace(biases=(weights.biases[0] + carry,))
    parts = simple(shifted, carry, x, gate_fn, activation_fn)
    return parts._replace(diagonals=parts.slopes)


def lstm(weights, carry, x, gate_fn, activation_fn):
    """J = [[1, 0], [diag s, 1]] [[diag f, A], [0, B]]; state (c, h), gates in the order i, f, g, o.

    With c' = f c + i g and h' = o φ(c'):
    A = diag(g i') W_i + diag(c f') W_f + diag(i g') W_g, B = diag(φ(c') o') W_o, s = o φ'(c').
    """
    c, h = carry
    pre_i, pre_f, pre_g, pre_o = _pre_activations(weights, h, x)
    (i, i_slope), (f, f_slope), (o, o_slope) = (
        _with_slope(gate_fn, pre) for pre in (pre_i, pre_f, pre_o)
    )
    g, g_slope = _with_slope(activation_fn, pre_g)
    shown, shown_slope = _with_slope(activation_fn, f * c + i * g)
    none = jnp.zeros_like(c)
    slopes = jnp.stack(
        [
            jnp.stack([g * i_slope, c * f_slope, i * g_slope, none]),
            jnp.stack([none, none, none, shown * o_slope]),
        ]
    )
    return GatedJacobian(
        diagonals=jnp.stack([jnp.stack([f, none]), jnp.stack([none, none])]),
        slopes=slopes,
        kernels=weights.recurrent,
        input_slopes=slopes,
        input_kernels=weights.inputs,
        mixing=o * shown_slope,
    )


def gru(weights, carry, x, gate_fn, activation_fn):
    """J = diag z + diag((h − n) z') W_z + diag((1 − z) n') [diag r W_n + diag(m r') W_r].

    For h' = (1 − z) n + z h, n = φ(U_n x + b_n + r m), m = W_n h + b_hn; gates in the order r, z,
    n. What reads the input has no r before U_n.
    """
    h = carry
    read = h @ weights.recurrent[2] + weights.read_bias
    from_x = x @ weights.inputs[2] + weights.biases[2]
    pre_r, pre_z = _pre_activations(weights, h, x, num_gates=2)
    (r, r_slope), (z, z_slope) = _with_slope(gate_fn, pre_r), _with_slope(gate_fn, pre_z)
    n, n_slope = _with_slope(activation_fn, from_x + r * read)
    new = (1 - z) * n_slope
    to_r, to_z = new * read * r_slope, (h - n) * z_slope
    return _of_one_part(weights, z, [to_r, to_z, new * r], [to_r, to_z, new])


def mgu(weights, carry, x, gate_fn, activation_fn):
    """J = diag f + diag((h − n) f') W_f + diag((1 − f) n') [diag f W_n + diag(m f') W_f].

    For h' = (1 − f) n + f h, n = φ(U_n x + b_n + f m), m = W_n h + b_hn; gates in the order f, n.
    """
    h = carry
    read = h @ weights.recurrent[1] + weights.read_bias
    from_x = x @ weights.inputs[1] + weights.biases[1]
    (pre_f,) = _pre_activations(weights, h, x, num_gates=1)
    f, f_slope = _with_slope(gate_fn, pre_f)
    n, n_slope = _with_slope(activation_fn, from_x + f * read)
    new = (1 - f) * n_slope
    to_f = (h - n + new * read) * f_slope
    return _of_one_part(weights, f, [to_f, new * f], [to_f, new])


def mgu_without_reset(weights, carry, x, gate_fn, activation_fn):
    """J = diag f + diag((h − n) f') W_f + diag((1 − f) n') W_n; n = φ(U_n x + W_n h + b_n)."""
    h = carry
    pre_f, pre_n = _pre_activations(weights, h, x)
    f, f_slope = _with_slope(gate_fn, pre_f)
    n, n_slope = _with_slope(activation_fn, pre_n)
    slopes = [(h - n) * f_slope, (1 - f) * n_slope]
    return _of_one_part(weights, f, slopes, slopes)


def _of_one_part(weights, diagonal, slopes, input_slopes):
    return GatedJacobian(
        diagonals=diagonal[None, None],
        slopes=jnp.stack(slopes)[None],
        kernels=weights.recurrent,
        input_slopes=jnp.stack(input_slopes)[None],
        input_kernels=weights.inputs,
    )


def _pre_activations(weights, h, x, num_gates=None):
    gates = zip(weights.inputs, weights.recurrent, weights.biases, strict=True)
    return [x @ u + h @ w + b for u, w, b in list(gates)[:num_gates]]


def _with_slope(function, pre):
    """Return the values of a function of each unit alone, and its slopes there."""
    return jax.jvp(function, (pre,), (jnp.ones_like(pre),))


def _linen_simple(variables):
    p = variables["params"]
    return Weights((p["i"]["kernel"],), (p["h"]["kernel"],), (p["i"]["bias"],))


def _linen_lstm(variables):
    return _linen_gates(variables, "ifgo", bias_of="h")


def _linen_gru(variables):
    weights = _linen_gates(variables, "rzn", bias_of="i")
    return weights._replace(read_bias=variables["params"]["hn"]["bias"])


def _linen_mgu(variables):
    weights = _linen_gates(variables, "fn", bias_of="i")
    # Without a reset gate there is no bias here.
    return weights._replace(read_bias=variables["params"]["hn"].get("bias", 0.0))


def _linen_gates(variables, gates, bias_of):
    p = variables["params"]
    return Weights(
        tuple(p["i" + gate]["kernel"] for gate in gates),
        tuple(p["h" + gate]["kernel"] for gate in gates),
        tuple(p[bias_of + gate]["bias"] for gate in gates),
    )


def _nnx_simple(p):
    return Weights((p["dense_i"]["kernel"],), (p["dense_h"]["kernel"],), (p["dense_i"]["bias"],))


def _nnx_lstm(p):
    return Weights(
        tuple(p[gate]["kernel"] for gate in ("ii", "if_", "ig", "io")),
        tuple(p[gate]["kernel"] for gate in ("hi", "hf", "hg", "ho")),
        tuple(p[gate]["bias"] for gate in ("hi", "hf", "hg", "ho")),
    )


def _nnx_optimized_lstm(p):
    return Weights(
        tuple(jnp.split(p["dense_i"]["kernel"], 4, axis=1)),
        tuple(jnp.split(p["dense_h"]["kernel"], 4, axis=1)),
        tuple(jnp.split(p["dense_h"]["bias"], 4)),
    )


def _nnx_gru(p):
    biases = jnp.split(p["dense_i"]["bias"], 3)
    read_bias = 0.0
    # This class has no bias b_hn; one that a future Flax may add is found under "dense_h".
    if "bias" in p["dense_h"]:
        more_r, more_z, read_bias = jnp.split(p["dense_h"]["bias"], 3)
        biases[:2] = [biases[0] + more_r, biases[1] + more_z]
    return Weights(
        tuple(jnp.split(p["dense_i"]["kernel"], 3, axis=1)),
        tuple(jnp.split(p["dense_h"]["kernel"], 3, axis=1)),
        tuple(biases),
        read_bias,
    )


LINEN: dict[type, tuple[Callable, Callable[[Any], Weights]]] = {
    nn.SimpleCell: (simple, _linen_simple),
    nn.LSTMCell: (lstm, _linen_lstm),
    nn.OptimizedLSTMCell: (lstm, _linen_lstm),
    nn.GRUCell: (gru, _linen_gru),
    nn.MGUCell: (mgu, _linen_mgu),
}
# Which layers of nnx cells have biases: those named here as said, all others have one.
NNX_BIASES: dict[type, dict[str, tuple[bool, ...]]] = {
    nnx.SimpleCell: {"dense_h": (False,)},
    nnx.LSTMCell: dict.fromkeys(("ii", "if_", "ig", "io"), (False,)),
    nnx.OptimizedLSTMCell: {"dense_i": (False,)},
    nnx.GRUCell: {"dense_h": (False, True)},
}
NNX: dict[type, tuple[Callable, Callable[[Any], Weights]]] = {
    nnx.SimpleCell: (simple, _nnx_simple),
    nnx.LSTMCell: (lstm, _nnx_lstm),
    nnx.OptimizedLSTMCell: (lstm, _nnx_optimized_lstm),
    nnx.GRUCell: (gru, _nnx_gru),
}
