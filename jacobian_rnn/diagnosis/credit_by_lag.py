"""The share of every step in ∂loss/∂θ of a layer, and how far it stands out of its noise.

The share of a lag is what the step so many steps before the end of its sequence adds to the
gradient. Each sequence has one. Their mean over the batch is the signal, and its standard error
the noise.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.padding import align_ends, with_padding
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import states_of
from jacobian_rnn.linalg.graded_svd import scaled_norm

TOLERANCE = 0.05  # of what a layer returned against its recurrence, which may have more bits


class CreditByLag(NamedTuple):
    """Shares in ∂loss/∂θ. The entry of a lag is at `[lag]`; lag 0 is the last step.

    Attributes:
        log_norms: nats, `(T,)`: log norm of the mean share over sequences, over all parameters.
        signal_to_noise: `(T,)`: that norm over its standard error over sequences. It is about 1
            where there is nothing but noise, and NaN where both are zero.
    """

    log_norms: Float[np.ndarray, " steps"]
    signal_to_noise: Float[np.ndarray, " steps"]


def credit_of(layer: RecordedLayer) -> CreditByLag | None:
    """Pull ∂loss/∂output back through a layer, and take the share of every step.

    Args:
        layer: with gradients of a loss.

    Returns:
        The shares; None where the layer returned something else than its recurrence shows.

    Cost: as much as two backpropagations, and memory for the parameters once per sequence.
    """
    gradients: Any = layer.gradients
    inputs = layer.xs, gradients.outputs, gradients.returned
    (xs, outputs, returned), active = align_ends(inputs, layer.seq_lengths.tolist())
    dtype = jax.tree.leaves(layer.recurrence.params)[0].dtype
    counted = active.reshape(*active.shape, *[1] * (outputs.ndim - 2))
    outputs = jnp.where(counted, outputs, 0).astype(dtype)
    last = gradients.last_carry
    if last is not None:
        last = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), last)
    carry = jax.tree.map(jnp.asarray, layer.carry)
    one = jax.tree.map(lambda leaf: leaf[0], (carry, (xs, active)))
    system = bind(with_padding(layer.recurrence), *one)
    shown = _shown(system, carry, (xs, active))
    if shown.shape[2:] != (returned[0, 0].size,):
        return None
    apart = jnp.where(active[..., None], shown - returned.reshape(shown.shape), 0)
    if jnp.linalg.norm(apart) > TOLERANCE * jnp.linalg.norm(jnp.where(active[..., None], shown, 0)):
        return None
    norms, noise = map(np.asarray, _credit(system, carry, (xs, active), outputs, last))
    with np.errstate(divide="ignore", invalid="ignore"):
        return CreditByLag(np.log(norms), norms / noise)


def _all_states(system: System, carry: PyTree, xs: PyTree) -> Array:
    def of_sequence(carry, xs):
        return states_of(dataclasses.replace(system, state=_ravel(carry), xs=xs))

    return jax.vmap(of_sequence)(carry, xs)


@jax.jit
def _shown(system: System, carry: PyTree, xs: PyTree) -> Array:
    """Return the outputs of the recurrence, `(B, T, outputs)`."""
    return jax.vmap(jax.vmap(system.output))(_all_states(system, carry, xs)[:, 1:])


@jax.jit
def _credit(system: System, carry: PyTree, xs: PyTree, outputs: Array, last: PyTree):
    """Return the norm of the mean share of each lag, and its standard error, `(T,)` each."""
    num_sequences = len(outputs)
    all_states = _all_states(system, carry, xs)

    def pull_output(state, of_output):
        shape = jax.eval_shape(system.output, state)
        return jax.vjp(system.output, state)[1](of_output.reshape(shape.shape))[0]

    own = jax.vmap(jax.vmap(pull_output))(all_states[:, 1:], outputs)
    end = own[:, -1] if last is None else own[:, -1] + jax.vmap(_ravel)(last)
    before = jnp.concatenate([jnp.zeros_like(own[:, :1]), own[:, :-1]], axis=1)

    def visit(gradients, now):
        states, xs, own = now
        shares = jax.vmap(system.params_share)(states, gradients, xs)
        mean = jax.tree.map(lambda share: jnp.mean(share, axis=0), shares)
        apart = jax.tree.map(lambda share, mean: share - mean[None], shares, mean)
        norm = scaled_norm(jnp.stack([scaled_norm(leaf) for leaf in jax.tree.leaves(mean)]))
        spread = scaled_norm(jnp.stack([scaled_norm(leaf) for leaf in jax.tree.leaves(apart)]))
        noise = spread / jnp.sqrt(jnp.asarray(num_sequences * (num_sequences - 1), norm.dtype))
        gradients = jax.vmap(lambda s, g, x: system.pull(s, g[None], x)[0])(states, gradients, xs)
        return gradients + own, (norm, noise)

    moments = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (all_states[:, :-1], xs, before))
    _, (norms, noises) = lax.scan(visit, end, moments, reverse=True)
    return norms[::-1], noises[::-1]


def _ravel(carry: PyTree) -> Array:
    return ravel_pytree(carry)[0]
