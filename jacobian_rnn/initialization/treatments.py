r"""Terms of a loss that keep gradients alive: flossing, and Pascanu's regulariser.

Both are functions of a recurrence along one sequence, and can be added to any loss.
`flossing_penalty` and `norm_penalty` make of them what `training.train` takes as `penalty`.

Flossing a little in each update:
    >>> import jax, jax.numpy as jnp, optax
    >>> from flax import linen as nn
    >>> from jacobian_rnn import draw, tasks, training, treatments
    >>> task, carry = tasks.delayed_recall(5), jnp.zeros(8)
    >>> network = draw(nn.SimpleCell(8), key=jax.random.key(0), num_inputs=4)
    >>> floss = treatments.flossing_penalty(carry, num_exponents=4, weight=1.0)
    >>> before = treatments.squared_exponents(
    ...     network, carry, task.sample(jax.random.key(1), 1).xs[0], num_exponents=4
    ... )
    >>> trained, history = training.train(
    ...     task, network, carry, optimizer=optax.adam(0.01), key=jax.random.key(2),
    ...     num_updates=100, penalty=floss,
    ... )
    >>> after = treatments.squared_exponents(
    ...     trained.recurrence, carry, task.sample(jax.random.key(1), 1).xs[0], num_exponents=4
    ... )
    >>> bool(after < before / 2)
    True
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn import tasks
from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_at_least, check_number
from jacobian_rnn.jacobians.system import bind, check_loss
from jacobian_rnn.jacobians.time_loop import back_along, states_of
from jacobian_rnn.linalg.graded_svd import scaled_norm
from jacobian_rnn.lyapunov.exponents import lyapunov_spectrum
from jacobian_rnn.training.network import loss_of_states
from jacobian_rnn.training.updates import Penalty


def squared_exponents(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_exponents: int,
    num_warmup: int = 0,
    num_steps: int | None = None,
) -> Float[Array, ""]:
    """Add up the squares of the first Lyapunov exponents, which gradient flossing makes small.

    Where λ₁ … λ_k are near zero, the first k singular values of long products of step Jacobians
    stay of one size, and gradients reach the past from k directions.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        num_exponents: k, from 1 to the size of the state. Static.
        num_warmup: number of first steps that are not counted. Static.
        num_steps: number of steps where `xs` is None.

    Returns:
        Σ λᵢ² over the first k exponents along this sequence, squared nats per step, differentiable
        with respect to the parameters.

    Raises:
        ValueError: a number of exponents out of range, nothing left after the warm-up, shapes that
            do not fit, or values that are not finite.
        TypeError: float dtypes that differ.

    Cost: a QR decomposition of size (n, k) at each step, and twice as much for the derivative.

    References:
        R. Engelken, "Gradient flossing: improving gradient descent through dynamic control of
        Jacobians", NeurIPS 2023.

    Example:
        >>> import jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry
        >>> system = Recurrence(decay, jnp.array([0.5, 0.5]))
        >>> loss = squared_exponents(system, jnp.ones(2), None, num_exponents=1, num_steps=50)
        >>> print(f"{loss:.4f} {jnp.log(0.5) ** 2:.4f}")
        0.4805 0.4805
    """
    exponents = lyapunov_spectrum(
        recurrence,
        carry,
        xs,
        num_exponents=num_exponents,
        num_warmup=num_warmup,
        num_steps=num_steps,
        qr_every=1,
        factorization="householder",
    ).exponents
    return jnp.sum(exponents**2)


def norm_deviation(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    loss: Callable[[Float[Array, "steps_plus_1 n"]], Float[Array, ""]],
    *,
    num_steps: int | None = None,
) -> Float[Array, ""]:
    """Add up how far each step is from keeping the norm of the gradient: Pascanu's regulariser.

    Ω = Σ_t (‖∂E/∂s[t+1] J[t]‖ / ‖∂E/∂s[t+1]‖ − 1)², where s[t+1] is the state after step t and E
    the loss. As in the paper, its derivative is the immediate one: states and ∂E/∂s[t+1] count as
    constants, and only J[t] as a function of the parameters.

    It keeps the norm of the gradient in the directions that ∂E/∂s[t+1] has now, and in no other:
    not all singular values of J[t] are pushed to one, and it is a soft constraint. Where the
    gradient says nothing of a memory that is yet to be found, this term does not look for it.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        loss: E, a scalar function of the states `(T + 1, n)`.
        num_steps: number of steps where `xs` is None.

    Returns:
        Ω, without unit. Steps after which no loss is seen, or whose gradient is exactly zero, add
        nothing. Gradients are scaled at each step, so that none of them underflows.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
        TypeError: float dtypes that differ, or a loss that is no real scalar.

    Cost: a backward pass over the sequence, and its derivative. Memory holds T n.

    References:
        R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
        networks", ICML 2013, equations 9 and 10.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def decay(params, carry, x):
        ...     return params * carry
        >>> def deviation(factor):
        ...     system = Recurrence(decay, factor)
        ...     return norm_deviation(system, jnp.ones(1), None, lambda s: s[-1].sum(), num_steps=4)
        >>> print(*jax.value_and_grad(deviation)(jnp.array(0.5)))  # 4 (a - 1)² and 8 (a - 1)
        1.0 -4.0
    """
    system = bind(recurrence, carry, xs, num_steps)
    check_loss(loss, system)
    states = lax.stop_gradient(states_of(system))
    own = lax.stop_gradient(jax.grad(loss)(states))

    def visit(carried, now):
        row, log_scale = carried  # ∂E/∂s[t+1] is row · exp(log_scale), and the row has norm one
        pulled = system.pull(now.state, row[None], now.x)[0]
        norm = scaled_norm(pulled)
        # A row of zeros is no gradient, of which nothing is asked.
        deviation = jnp.where(jnp.any(row != 0), (norm - 1) ** 2, 0)
        earlier = _add_scaled(lax.stop_gradient(pulled), log_scale, now.extra)
        return earlier, deviation

    start = _add_scaled(jnp.zeros_like(own[-1]), jnp.zeros((), own.dtype), own[-1])
    _, deviations = back_along(system, visit, start, extra=own[:-1], states=states[:-1])
    return jnp.sum(deviations)


def flossing_penalty(
    carry: PyTree,
    *,
    num_exponents: int,
    weight: float,
    num_warmup: int = 0,
    num_sequences: int = 1,
) -> Penalty:
    """Make a penalty of flossing for `training.train`: `weight` times `squared_exponents`.

    Args:
        carry: initial carry, without batch axis.
        num_exponents: k, how many exponents are pushed towards zero.
        weight: of the penalty in what is minimised.
        num_warmup: number of first steps that are not counted.
        num_sequences: how many of each batch it is averaged over, the first ones.

    Returns:
        `penalty(network, batch)`, a scalar. The same object again compiles nothing anew.

    Raises:
        ValueError: counts below one, or a weight that is negative or not finite.
        TypeError: counts that are no integers.

    Example: see `treatments`.
    """
    check_at_least(1, num_exponents=num_exponents, num_sequences=num_sequences)
    check_number("weight", weight, least=0)

    def penalty(network, batch):
        def of_sequence(xs):
            return squared_exponents(
                network.recurrence, carry, xs, num_exponents=num_exponents, num_warmup=num_warmup
            )

        return weight * jnp.mean(jax.vmap(of_sequence)(batch.xs[:num_sequences]))

    return penalty


def norm_penalty(carry: PyTree, task: tasks.Task, *, weight: float) -> Penalty:
    """Make a penalty of Pascanu's regulariser for `training.train`: `weight` times its mean.

    Args:
        carry: initial carry, without batch axis.
        task: what is trained on, for its loss, which is that of each sequence by itself.
        weight: of the penalty in what is minimised.

    Returns:
        `penalty(network, batch)`, a scalar: the mean of `norm_deviation` over the batch.

    Raises:
        ValueError: a weight that is negative or not finite.

    Example:
        >>> from jacobian_rnn import tasks
        >>> penalty = norm_penalty(jnp.zeros(8), tasks.delayed_recall(5), weight=0.1)
    """
    check_number("weight", weight, least=0)

    def penalty(network, batch):
        def of_sequence(xs, targets):
            loss = loss_of_states(network, carry, task, targets)
            return norm_deviation(network.recurrence, carry, xs, loss)

        return weight * jnp.mean(jax.vmap(of_sequence)(*batch))

    return penalty


def _add_scaled(row, log_scale, other):
    """Add `other` to row · exp(log_scale). Return the sum, of norm one or zero, and its log."""
    rows, logs = [], []
    for one, log in ((row, log_scale), (other, jnp.zeros_like(log_scale))):
        norm = scaled_norm(one)
        rows.append(one / jnp.where(norm > 0, norm, 1))
        logs.append(jnp.where(norm > 0, log + jnp.log(jnp.where(norm > 0, norm, 1)), -jnp.inf))
    highest = jnp.maximum(*logs)
    shift = jnp.where(jnp.isneginf(highest), 0, highest)
    total = rows[0] * jnp.exp(logs[0] - shift) + rows[1] * jnp.exp(logs[1] - shift)
    norm = scaled_norm(total)
    known = norm > 0
    return total / jnp.where(known, norm, 1), shift + jnp.log(jnp.where(known, norm, 1))
