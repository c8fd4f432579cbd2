"""Hand-derived step Jacobians of Flax cells: ∂state'/∂state, rows are outputs.

Each formula was derived from the equations that Flax computes. A cell whose gate or activation
function is not the one that its formula describes has no entry here, and is differentiated
automatically instead. To add a cell: write its `jacobian(params, carry, x)` and enter it in
`LINEN` or `NNX`.

Notation: a kernel has shape (inputs, outputs), so the matrix that acts on a column is its
transpose; σ' = σ(1 − σ), tanh' = 1 − tanh².
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.nnx.nn import dtypes

Jacobian = Callable[[Any, Any, Any], jax.Array]


def of_linen(cell: nn.Module) -> Jacobian | None:
    """Return the closed-form Jacobian of a linen cell, or None where there is none.

    Args:
        cell: a linen cell; its class, activations and dtype decide.

    Returns:
        `jacobian(variables, carry, x) -> (n, n)`, or None.
    """
    jacobian = LINEN.get(type(cell))
    return jacobian if jacobian is not None and _is_described(cell, nn.sigmoid, nn.tanh) else None


def of_nnx(cell: nnx.Module) -> Jacobian | None:
    """Return the closed-form Jacobian of an nnx cell, or None where there is none.

    Args:
        cell: an nnx cell; its class, activations and dtype decide.

    Returns:
        `jacobian(params, carry, x) -> (n, n)`, or None.
    """
    jacobian = NNX.get(type(cell))
    standard = getattr(cell, "promote_dtype", None) is dtypes.promote_dtype
    described = standard and _is_described(cell, nnx.sigmoid, nnx.tanh)
    return jacobian if jacobian is not None and described else None


def _is_described(cell, gate_fn, activation_fn):
    return (
        getattr(cell, "gate_fn", gate_fn) is gate_fn
        and cell.activation_fn is activation_fn
        and not getattr(cell, "residual", False)
        and cell.dtype in (None, cell.param_dtype)
    )


def simple(kernel_x, kernel_h, bias, carry, x):
    """J = diag(1 − h'²) W of h' = tanh(U x + W h + b)."""
    new = jnp.tanh(x @ kernel_x + carry @ kernel_h + bias)
    return (1 - new**2)[:, None] * kernel_h.T


def lstm(kernels_x, kernels_h, biases, carry, x):
    """J = [[diag f, A], [S diag f, B + S A]] for the state (c, h); gates in the order i, f, g, o.

    With c' = f c + i g and h' = o tanh c':
    A = diag(c f') W_f + diag(g i') W_i + diag(i g') W_g, B = diag(tanh(c') o') W_o,
    S = diag(o tanh'(c')).
    """
    c, h = carry
    pre = [x @ u + h @ w + b for u, w, b in zip(kernels_x, kernels_h, biases, strict=True)]
    i, f, g, o = (
        jax.nn.sigmoid(pre[0]),
        jax.nn.sigmoid(pre[1]),
        jnp.tanh(pre[2]),
        jax.nn.sigmoid(pre[3]),
    )
    w_i, w_f, w_g, w_o = (kernel.T for kernel in kernels_h)
    tanh_c = jnp.tanh(f * c + i * g)
    a = (
        (c * f * (1 - f))[:, None] * w_f
        + (g * i * (1 - i))[:, None] * w_i
        + (i * (1 - g**2))[:, None] * w_g
    )
    s = o * (1 - tanh_c**2)
    b = (tanh_c * o * (1 - o))[:, None] * w_o
    return jnp.block([[jnp.diag(f), a], [jnp.diag(s * f), b + s[:, None] * a]])


def gru(kernels_x, kernels_h, biases_x, bias_hn, carry, x):
    """J = diag z + diag((h − n) z') W_z + diag((1 − z) n') [diag r W_n + diag(m r') W_r].

    For h' = (1 − z) n + z h, n = tanh(U_n x + b_n + r m), m = W_n h + b_hn; gates in the order
    r, z, n.
    """
    h = carry
    from_x = [x @ u + b for u, b in zip(kernels_x, biases_x, strict=True)]
    r, z = (jax.nn.sigmoid(from_x[k] + h @ kernels_h[k]) for k in (0, 1))
    m = h @ kernels_h[2] + bias_hn
    n = jnp.tanh(from_x[2] + r * m)
    w_r, w_z, w_n = (kernel.T for kernel in kernels_h)
    candidate = r[:, None] * w_n + (m * r * (1 - r))[:, None] * w_r
    return (
        jnp.diag(z)
        + ((h - n) * z * (1 - z))[:, None] * w_z
        + ((1 - z) * (1 - n**2))[:, None] * candidate
    )


def _linen_simple(variables, carry, x):
    p = variables["params"]
    return simple(p["i"]["kernel"], p["h"]["kernel"], p["i"]["bias"], carry, x)


def _linen_lstm(variables, carry, x):
    p = variables["params"]
    gates = "ifgo"
    return lstm(
        [p["i" + gate]["kernel"] for gate in gates],
        [p["h" + gate]["kernel"] for gate in gates],
        [p["h" + gate]["bias"] for gate in gates],
        carry,
        x,
    )


def _linen_gru(variables, carry, x):
    p = variables["params"]
    gates = "rzn"
    return gru(
        [p["i" + gate]["kernel"] for gate in gates],
        [p["h" + gate]["kernel"] for gate in gates],
        [p["i" + gate]["bias"] for gate in gates],
        p["hn"]["bias"],
        carry,
        x,
    )


def _nnx_simple(p, carry, x):
    dense_i, dense_h = p["dense_i"], p["dense_h"]
    return simple(dense_i["kernel"], dense_h["kernel"], dense_i["bias"], carry, x)


def _nnx_lstm(p, carry, x):
    return lstm(
        [p[gate]["kernel"] for gate in ("ii", "if_", "ig", "io")],
        [p[gate]["kernel"] for gate in ("hi", "hf", "hg", "ho")],
        [p[gate]["bias"] for gate in ("hi", "hf", "hg", "ho")],
        carry,
        x,
    )


def _nnx_optimized_lstm(p, carry, x):
    return lstm(
        jnp.split(p["dense_i"]["kernel"], 4, axis=1),
        jnp.split(p["dense_h"]["kernel"], 4, axis=1),
        jnp.split(p["dense_h"]["bias"], 4),
        carry,
        x,
    )


def _nnx_gru(p, carry, x):
    # This class has no bias b_hn; one that a future Flax may add is found under "dense_h".
    bias_h = (
        p["dense_h"]["bias"] if "bias" in p["dense_h"] else jnp.zeros_like(p["dense_i"]["bias"])
    )
    biases_h = jnp.split(bias_h, 3)
    biases_x = jnp.split(p["dense_i"]["bias"], 3)
    return gru(
        jnp.split(p["dense_i"]["kernel"], 3, axis=1),
        jnp.split(p["dense_h"]["kernel"], 3, axis=1),
        [biases_x[0] + biases_h[0], biases_x[1] + biases_h[1], biases_x[2]],
        biases_h[2],
        carry,
        x,
    )


LINEN: dict[type, Jacobian] = {
    nn.SimpleCell: _linen_simple,
    nn.LSTMCell: _linen_lstm,
    nn.OptimizedLSTMCell: _linen_lstm,
    nn.GRUCell: _linen_gru,
}
NNX: dict[type, Jacobian] = {
    nnx.SimpleCell: _nnx_simple,
    nnx.LSTMCell: _nnx_lstm,
    nnx.OptimizedLSTMCell: _nnx_optimized_lstm,
    nnx.GRUCell: _nnx_gru,
}
