"""What the first update of a training does to the loss, and to how gradients grow."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.checks import check_count
from jacobian_rnn.growth.profile import backward_profile
from jacobian_rnn.training.network import Network, apply
from jacobian_rnn.training.updates import Optimizer, floats_of, norm_of, with_floats


class FirstUpdate(NamedTuple):
    """What one update changes.

    Attributes:
        log_gradient_norm: nats, scalar: log norm of ∂loss/∂θ, before clipping.
        log_relative_size: nats, scalar: log norm of the update beside that of the parameters.
        log_overshoot: nats, scalar: log of the learning rate over its critical value, at which the
            loss stops falling along the update: ½ |Δᵀ H Δ| / |gᵀ Δ|, with what the loss changes
            beyond gᵀ Δ in place of ½ Δᵀ H Δ. Above 0 the update goes too far.
        growth_change: nats, scalar: by how much the update changes the growth of a gradient over
            the horizon, root mean square over sequences.
    """

    log_gradient_norm: Float[Array, ""]
    log_relative_size: Float[Array, ""]
    log_overshoot: Float[Array, ""]
    growth_change: Float[Array, ""]


def first_update(
    network: Network,
    carry: PyTree,
    task: tasks.Task,
    batch: tasks.Batch,
    *,
    optimizer: Optimizer,
    horizon: int,
    key: Array,
    num_probes: int = 4,
) -> FirstUpdate:
    """Take one update on a batch, and measure what it does to the loss and to gradients.

    Args:
        network: before training.
        carry: initial carry of every sequence.
        task: for its loss.
        batch: sequences and targets.
        optimizer: any optax transformation, with its learning rate.
        horizon: number of steps over which a gradient has to survive, 1 ≤ horizon ≤ T. Static.
        key: for the directions of gradients, the same before and after the update.
        num_probes: number of gradients of each sequence. Static.

    Returns:
        What one update changes. It is NaN or infinite where a gradient vanishes or overflows.

    Raises:
        ValueError: a horizon outside 1 … T, or shapes that do not fit.
        TypeError: float dtypes that differ, or no key.

    Cost: a gradient of the loss, and two backward profiles.

    References:
        Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient backprop" (1998), for the learning
        rate above which a quadratic loss diverges.

    Example:
        >>> import jax, optax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> from jacobian_rnn.training import add_readout
        >>> task, carry = tasks.delayed_recall(10), jnp.zeros(8)
        >>> cell = draw(nn.GRUCell(8), key=jax.random.key(0), num_inputs=4)
        >>> network = add_readout(cell, carry, 4, key=jax.random.key(1))
        >>> batch = task.sample(jax.random.key(2), 32)
        >>> for rate in (1e-3, 10.0):
        ...     change = first_update(
        ...         network,
        ...         carry,
        ...         task,
        ...         batch,
        ...         optimizer=optax.adam(rate),
        ...         horizon=10,
        ...         key=jax.random.key(3),
        ...     )
        ...     print(change.log_overshoot > 0)
        False
        True
    """
    check_count("horizon", horizon, least=1, most=batch.xs.shape[1])

    def with_parameters(parameters):
        return with_floats(network, parameters)

    def loss(parameters):
        predicted = apply(with_parameters(parameters), carry, task, batch.xs)
        return jnp.mean(tasks.loss(task, predicted, batch.targets))

    def growth(parameters):
        recurrence = with_parameters(parameters).recurrence

        def of_sequence(xs):
            profile = backward_profile(recurrence, carry, xs, key=key, num_probes=num_probes)
            return profile.log_growth[horizon - 1]

        return jax.vmap(of_sequence)(batch.xs)

    parameters = floats_of(network)
    value, gradient = jax.value_and_grad(loss)(parameters)
    with jax.numpy_dtype_promotion("standard"):
        state: Any = optimizer.init(parameters)
        changes, _ = optimizer.update(gradient, state, parameters)
    new = optax.apply_updates(parameters, changes)
    # What is not finite cannot be measured, and a concrete one would be refused.
    finite = jnp.isfinite(norm_of(new))
    new = jax.tree.map(partial(jnp.where, finite), new, parameters)
    pairs = zip(*map(jax.tree.leaves, (gradient, changes)), strict=True)
    slope = sum(jnp.vdot(one, other) for one, other in pairs)
    curvature = loss(new) - value - slope
    # One after the other in one loop, which compiles the profile once.
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), parameters, new)
    earlier, later = lax.map(growth, both)
    moved = later - earlier
    return FirstUpdate(
        jnp.log(norm_of(gradient)),
        jnp.log(norm_of(changes) / norm_of(parameters)),
        jnp.where(finite, jnp.log(jnp.abs(curvature) / jnp.abs(slope)), jnp.nan),
        jnp.where(finite, jnp.sqrt(jnp.mean(moved**2)), jnp.nan),
    )
