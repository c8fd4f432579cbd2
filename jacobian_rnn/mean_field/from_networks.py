"""What theory needs to know of networks, measured in their weights."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from jacobian_rnn.cells.closed_form import ClosedForm
from jacobian_rnn.cells.known_cells import describe, kind_of, weights_of
from jacobian_rnn.cells.layout import Layout
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_finite, check_scales, refuse
from jacobian_rnn.mean_field.cell_units import Gate, Units
from jacobian_rnn.mean_field.quadrature import gaussian_average

FUNCTIONS = (jax.nn.sigmoid, jnp.tanh, jax.nn.tanh)


def units_of(networks: Recurrence, *, input_std: float | Array = 0.0) -> Units:
    """Describe networks to theory by the variances of their weights and biases.

    A recurrent kernel whose entries have the mean square s has σ_w² = N s. White noise of standard
    deviation σ_x in each of M channels adds M s σ_x² through an input kernel. A minimalRNN reads
    its input through an embedding, of which mean and variance are Gaussian averages of tanh, and
    what of it does not change in time adds to the bias.

    Args:
        networks: a linen or nnx SimpleCell, LSTMCell, OptimizedLSTMCell or GRUCell, or a minimal
            network, with its default activations. Parameters with leading axes, of many networks
            drawn alike, are averaged over all of them.
        input_std: σ_x, zero or above. It may be traced.

    Returns:
        SimpleUnits, LSTMUnits, GRUUnits or MinimalUnits, with scalars in JAX's default float dtype.

    Raises:
        TypeError: not a `Recurrence`, or a cell that theory does not know.
        ValueError: other activations, a bias of a GRU's candidate that the reset gate scales (for
            which theory has no place), weights that are not finite, or a bad `input_std`.

    Example:
        >>> import jax
        >>> from jacobian_rnn import minimal_rnn, with_gain
        >>> network = with_gain(minimal_rnn(3, 8, key=jax.random.key(0)), 2.0)
        >>> gate, embedding = units_of(network, input_std=0.0)
        >>> print(gate.weight_std.round(3))  # an orthogonal kernel, doubled
        2.0
    """
    layout, _ = describe(networks)
    _check_is_known(networks, layout)
    check_finite("networks", networks.params)
    (noise,) = check_scales(input_std=input_std)
    weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, noise.dtype), weights_of(networks))
    _check_no_read_bias(networks, weights.read_bias)
    # What the gates read: its fluctuation in time, and the mean square of what stays.
    embedding = _embedding(networks, layout.embedding, noise) if layout.embedding else None
    drive = embedding or Gate(0.0, noise)
    still = drive.bias_std**2 + drive.bias_mean**2
    gates = [
        Gate(
            weight_std=_scale(kernel),
            input_std=_scale(read) * drive.input_std,
            bias_mean=jnp.mean(bias),
            bias_std=jnp.sqrt(jnp.var(bias) + _scale(read) ** 2 * still),
        )
        for read, kernel, bias in zip(*weights[:3], strict=True)
    ]
    names = layout.theory + (("embedding",) if embedding else ())
    kind: Any = next(one for one in get_args(Units) if one._fields == names)
    return kind(*gates, *([embedding] if embedding else []))


def _scale(kernels: Array) -> Array:
    """σ of kernels `(..., rows, units)`, whose entries have the mean square σ²/rows."""
    return jnp.sqrt(kernels.shape[-2] * jnp.mean(kernels**2))


def _embedding(networks: Recurrence, layer: str, noise: Array) -> Gate:
    """The tanh of what a layer reads of white noise, unit by unit."""
    params = networks.params[layer]
    kernel, bias = (jnp.asarray(params[name], noise.dtype) for name in ("kernel", "bias"))
    variance = noise**2 * jnp.sum(kernel**2, axis=-2)

    def moment(power):
        def one(variance, mean):
            return gaussian_average(lambda x: jnp.tanh(x) ** power, variance, mean)

        return jax.vmap(one)(variance.ravel(), bias.ravel())

    means, squares = moment(1), moment(2)
    fresh = jnp.maximum(jnp.mean(squares - means**2), 0)
    return Gate(0.0, jnp.sqrt(fresh), jnp.mean(means), jnp.std(means))


def _check_is_known(networks: Recurrence, layout: Layout) -> None:
    form: Any = networks.jacobian
    if not layout.theory:
        expected = "a plain cell, an LSTM, a GRU or a minimalRNN"
        refuse("networks", f"a {kind_of(networks)}", expected, error=TypeError)
    if layout.jacobian is None:
        return
    known = isinstance(form, ClosedForm) and form.formula is layout.jacobian
    if not known or form.gate_fn not in FUNCTIONS[:1] or form.activation_fn not in FUNCTIONS[1:]:
        received = f"a {kind_of(networks)} of other equations"
        refuse("networks", received, "tanh, sigmoid gates and no residual connection")


def _check_no_read_bias(networks: Recurrence, read_bias: Array) -> None:
    if isinstance(read_bias, Tracer) or not jnp.any(read_bias):
        return
    received = f"a {kind_of(networks)} with a bias that a gate scales"
    refuse("networks", received, "that bias to be zero", "theory has no place for it")
