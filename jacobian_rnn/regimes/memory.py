"""How much of the state at the end is due to old inputs, to first order."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_count, check_key, refuse
from jacobian_rnn.growth.probes import orthonormal_rows
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import back_along, states_of
from jacobian_rnn.linalg.graded_svd import scaled_norm

SEQUENCES = "sequences"  # the axis of a batch, for means over it


class MemoryShares(NamedTuple):
    """What the inputs of every lag contribute to the variance of the output at the end.

    Attributes:
        log_power: nats, `(T,)`: log mean square of the contribution of the input at each lag, in
            the order lag = 0 … T − 1, averaged over directions of the output. It is −inf where the
            input is the same in all sequences, or does not arrive.
        log_share: nats, scalar: half the log of the share that all lags from `far` on have in the
            sum, at most 0. It is −inf where nothing of them is left, NaN where all is zero.
    """

    log_power: Float[Array, " lags"]
    log_share: Float[Array, ""]


def memory_share(
    recurrence: Recurrence, carry: PyTree, xs: Array, *, far: int, key: Array, num_probes: int = 8
) -> MemoryShares:
    """Measure what old inputs contribute to the output at the end, beside all inputs since.

    To first order an input that differs by δ from its mean over the batch moves the output at the
    end by (∂output/∂x at its lag) · δ. A few random directions of the output are pulled back
    through all steps. At every lag they give the mean square of that contribution. A network that
    forgets shows the last inputs alone. One that keeps what it saw through noise has a share of its
    old inputs, and no less of it than of the noise.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: a batch of typical sequences, `(B, T, inputs)` with B ≥ 2.
        far: lag from which on inputs count as far, 0 ≤ far < T. Static.
        key: for the directions.
        num_probes: number of directions; no more than there are outputs are drawn. Static.

    Returns:
        The contribution of every lag, and the share of those that are far.

    Raises:
        ValueError: fewer than two sequences, a lag beyond the sequence, or shapes that do not fit.
        TypeError: float dtypes that differ, no key, or counts that are no ints.

    Cost: one forward and one backward pass.

    References:
        S. Ganguli, D. Huh and H. Sompolinsky, "Memory traces in dynamical systems", PNAS 105
        (2008), for the memory of a network as signal to noise.

    Example:
        >>> import jax
        >>> def average(params, carry, x):
        ...     return params * carry + x
        >>> system = Recurrence(average, jnp.array(0.9))
        >>> xs = jax.random.normal(jax.random.key(0), (2000, 20, 1))
        >>> shares = memory_share(system, jnp.zeros(1), xs, far=10, key=jax.random.key(1))
        >>> print(shares.log_share.round(1), (10 * jnp.log(0.9)).round(1))
        -1.1 -1.1
    """
    xs = jnp.asarray(xs)
    if xs.ndim != 3 or len(xs) < 2:
        refuse("xs", f"shape {xs.shape}", "a batch of at least 2 sequences (B, T, inputs)")
    check_count("far", far, most=xs.shape[1] - 1)
    check_count("num_probes", num_probes, least=1)
    check_key("key", key)
    num_outputs = bind(recurrence, carry, xs[0]).num_outputs
    num_probes = min(num_probes, num_outputs)
    normal = jax.random.normal(key, (num_outputs, num_probes), xs.dtype)
    probes = orthonormal_rows(normal)

    def of_sequence(xs):
        system = bind(recurrence, carry, xs)
        states = states_of(system)
        _, pull_to_state = jax.vjp(system.output, states[-1])
        rows = jax.vmap(lambda row: pull_to_state(row)[0])(probes)

        def visit(carried, now):
            rows, log_scale = carried
            mean = lax.pmean(now.x, SEQUENCES)
            moved = rows @ (system.input_jacobian(now.state, now.x) @ (now.x - mean))
            # Logs, since the rows may grow or shrink beyond the floating-point range.
            power = 2 * (log_scale + jnp.log(scaled_norm(moved)))
            rows = system.pull(now.state, rows, now.x)
            size = jnp.max(jnp.abs(rows))
            size = jnp.where(size > 0, size, 1)
            return (rows / size, log_scale + jnp.log(size)), power

        start = rows, jnp.zeros((), rows.dtype)
        _, powers = back_along(system, visit, start, states=states[:-1])
        return powers

    powers = jax.vmap(of_sequence, axis_name=SEQUENCES)(xs)[:, ::-1]
    log_power = jax.nn.logsumexp(powers, axis=0) - math.log(len(xs) * num_probes)
    log_share = (jax.nn.logsumexp(log_power[far:]) - jax.nn.logsumexp(log_power)) / 2
    return MemoryShares(log_power, log_share)
