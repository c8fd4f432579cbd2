"""The share of every lag in ∂loss/∂θ, and whether it stands out of the noise of a batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.checks import check_count
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import back_along, states_of
from jacobian_rnn.training.network import Network, read_out
from jacobian_rnn.training.updates import norm_of

SEQUENCES = "sequences"  # the axis of a batch, for means over it
LEAST_SIGNAL = 0.1  # of the standard error of a mean: a smaller one cannot be told from it


class GradientSignal(NamedTuple):
    """How much of a gradient comes from far back, beside how much it varies between sequences.

    The share of a lag is (∂loss/∂states[T − lag])ᵀ ∂step/∂θ, with the derivative of only the step
    that leads to states[T − lag], as in `parameter_gradients`.

    Attributes:
        signal: nats, `(T,)`: log norm of the mean share over sequences, for lag = 0 … T − 1. It is
            −inf where nothing is left.
        noise: nats, `(T,)`: log root mean square of how far the share of a sequence is from that
            mean.
        far_signal: nats, scalar: log norm of the mean over sequences of all shares from lag `far`
            on, without what chance adds to it. It is at least a tenth of its standard error.
        total_noise: nats, scalar: log root mean square of how far the whole gradient of a sequence
            is from its mean. The gradient of a batch of size B is uncertain by this less ½ ln B.
    """

    signal: Float[Array, " lags"]
    noise: Float[Array, " lags"]
    far_signal: Float[Array, ""]
    total_noise: Float[Array, ""]

    @property
    def log_ratio(self) -> Float[Array, ""]:
        """Signal of far lags over the noise of one sequence, nats.

        About e^(−2 log_ratio) sequences have to be seen until what comes from far back stands out.
        """
        return self.far_signal - self.total_noise


def gradient_signal(
    network: Network, carry: PyTree, task: tasks.Task, batch: tasks.Batch, *, far: int
) -> GradientSignal:
    """Measure the share of every lag in the gradient of the last answer's loss, and its noise.

    Each sequence of a batch gives a gradient. Their mean is what training follows, and their spread
    is what a batch adds to it by chance. A gradient that vanishes loses the first, not the second.

    Args:
        network: a recurrence with its readout.
        carry: initial carry of every sequence.
        task: for its loss, of which that of the last scored step is taken.
        batch: at least two sequences, `(B, T, inputs)`, with their targets.
        far: lag from which on shares count as far, 0 ≤ far < T. Static.

    Returns:
        Signal and noise by lag, and of what is far. All of it is −inf or NaN where gradients
        vanish in the dtype or overflow.

    Raises:
        ValueError: fewer than two sequences, a lag beyond the sequence, or shapes that do not fit.
        TypeError: float dtypes that differ, or a lag that is no int.

    Cost: one forward and one backward pass, which holds the parameters three times for each
    sequence.

    References:
        S. McCandlish, J. Kaplan and D. Amodei, "An empirical model of large-batch training",
        arXiv:1812.06162 (2018), for the noise of a gradient.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> from jacobian_rnn import draw, tasks
        >>> from jacobian_rnn.training import add_readout
        >>> task, carry = tasks.delayed_recall(40), jnp.zeros(16)
        >>> batch = task.sample(jax.random.key(0), 64)
        >>> for gain in (0.3, 1.0):
        ...     cell = draw(nn.SimpleCell(16), key=jax.random.key(1), num_inputs=4, gain=gain)
        ...     network = add_readout(cell, carry, 4, key=jax.random.key(2))
        ...     print(gradient_signal(network, carry, task, batch, far=40).log_ratio > -20)
        False
        True
    """
    num_sequences, num_steps = batch.xs.shape[:2]
    check_count("the number of sequences", num_sequences, least=2)
    check_count("far", far, most=num_steps - 1)

    def of_sequence(xs, targets):
        system = bind(network.recurrence, carry, xs)
        states = states_of(system)

        def last_loss(output):
            shown = jax.vmap(system.output)(states[len(states) - task.num_scored_steps :])
            predicted = read_out(network, shown.at[-1].set(output))
            return task.num_scored_steps * tasks.loss(task, predicted[None], targets[None])[0]

        output, pull_to_state = jax.vjp(system.output, states[-1])
        (gradient,) = pull_to_state(jax.grad(last_loss)(output))

        def visit(carried, now):
            gradient, far_share, total = carried
            share = system.params_share(now.state, gradient, now.x)
            gradient = system.pull(now.state, gradient[None], now.x)[0]
            is_far = now.number < num_steps - far
            far_share = jax.tree.map(lambda a, b: a + jnp.where(is_far, b, 0), far_share, share)
            total = jax.tree.map(jnp.add, total, share)
            return (gradient, far_share, total), _mean_and_spread(share)

        nothing = jax.tree.map(jnp.zeros_like, network.recurrence.params)
        start = gradient, nothing, nothing
        (_, far_share, total), by_step = back_along(system, visit, start, states=states[:-1])
        return by_step, _mean_and_spread(far_share), _mean_and_spread(total)

    every = jax.vmap(of_sequence, axis_name=SEQUENCES)(*batch)
    by_step, (far_mean, far_spread), (_, total_spread) = jax.tree.map(lambda a: a[0], every)
    # The mean of B noisy vectors is longer than the true mean.
    error = far_spread / num_sequences**0.5
    excess = jnp.sqrt(jnp.maximum(1 - (error / far_mean) ** 2, 0))
    far_signal = jnp.maximum(far_mean * excess, LEAST_SIGNAL * error)
    signal, noise = (jnp.log(values[::-1]) for values in by_step)
    return GradientSignal(signal, noise, jnp.log(far_signal), jnp.log(total_spread))


def _mean_and_spread(share):
    """Return the norm of the mean over sequences, and the root mean square distance from it."""
    mean = jax.tree.map(lambda leaf: lax.pmean(leaf, SEQUENCES), share)
    distance = norm_of(jax.tree.map(jnp.subtract, share, mean))
    largest = lax.pmax(distance, SEQUENCES)
    relative = distance / jnp.where(largest > 0, largest, 1)
    num = lax.psum(jnp.ones_like(relative), SEQUENCES)
    square = lax.psum(relative**2, SEQUENCES) / (num - 1)
    return norm_of(mean), largest * jnp.sqrt(square)
