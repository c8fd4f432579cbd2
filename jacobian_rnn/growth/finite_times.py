"""Growth of random tangent vectors over finite times, for a typical vector and for the mean."""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells.recurrence import Recurrence
from jacobian_rnn.checks import check_count, check_lags, check_precision, refuse
from jacobian_rnn.growth.largest import log_norms, normalize
from jacobian_rnn.jacobians.system import bind
from jacobian_rnn.jacobians.time_loop import along
from jacobian_rnn.jacobians.traced_steps import refuse_coarse_step
from jacobian_rnn.linalg.batch_means import Estimate


class FiniteTimeGrowth(NamedTuple):
    """Log growth of random tangent vectors over windows of time.

    Each window begins with new vectors of random, uniform direction.

    Attributes:
        lags: numbers of steps, ascending, int32 `(L,)`.
        log_growth: log(‖P v‖ / ‖v‖) over the first `lag` steps of each window, nats,
            `(windows, L, vectors)`, −inf where a step maps the vector to zero. It is NaN from the
            first step with a state that is not finite, in all later windows too.
    """

    lags: Int[Array, " lags"]
    log_growth: Float[Array, "windows lags vectors"]

    def finite_time_exponents(self) -> Estimate:
        """Return mean log growth per step at each lag, nats per step, `(L,)`.

        It is the rate of a typical vector (the quenched rate), which tends to λ₁ as the lag grows.
        Standard errors are over windows, NaN for a rate of −inf (a vector was mapped to zero).
        """
        lags = self.lags.astype(self.log_growth.dtype)
        rates = jnp.mean(self.log_growth, axis=2) / lags[None]
        num = rates.shape[0]
        return Estimate(jnp.mean(rates, axis=0), jnp.std(rates, axis=0, ddof=1) / jnp.sqrt(num))

    def generalized_exponents(self, order: float) -> Estimate:
        """Return log E‖Pv‖^q / (q lag) at each lag, nats per step, `(L,)`, with q = `order`.

        With q = 2 this is ½ log χ, the growth of the mean squared gradient (the annealed rate of
        mean field theory). It lies above the typical rate, because rare windows carry the mean. If
        the variance of the log growth is large, the sample misses these windows and the estimate is
        too low. Standard errors are a jackknife over windows. Do not trust them if they exceed
        0.1 / (q lag).

        References:
            A. Crisanti, G. Paladin and A. Vulpiani, "Products of random matrices in statistical
            physics" (1993).
        """
        if not isinstance(order, int | float) or not np.isfinite(order) or order == 0:
            advice = "for 0 see finite_time_exponents()"
            refuse("order", repr(order), "a finite number other than 0", advice)
        windows, _, vectors = self.log_growth.shape
        log_moments = logsumexp(order * self.log_growth, axis=2) - math.log(vectors)
        total = logsumexp(log_moments, axis=0)
        scale = order * self.lags.astype(self.log_growth.dtype)
        # One window is left out. log(S − s_i) is stable because s_i < S.
        share = jnp.exp(log_moments - total[None])
        left_out = jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
        error = jnp.sqrt((windows - 1) * jnp.var(left_out, axis=0))
        return Estimate((total - math.log(windows)) / scale, error / jnp.abs(scale))


def finite_time_growth(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    lags: Sequence[int] | np.ndarray,
    key: Array,
    num_vectors: int = 16,
    num_steps: int | None = None,
) -> FiniteTimeGrowth:
    """Measure how random tangent vectors grow over windows of several lengths.

    The sequence is cut into windows as long as the longest lag. Steps that are left over are the
    first ones, and they settle the state.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        lags: window lengths in steps, each at least 1. At least two windows of the longest have to
            fit. Static.
        key: for the directions of the vectors.
        num_vectors: number of vectors in each window. Static.
        num_steps: number of steps where `xs` is None.

    Returns:
        The log growth of every vector, and rates derived from it.

    Raises:
        ValueError: lags below 1 or too long, shapes that do not fit, or values that are not finite.
        TypeError: lags that are none or not integers, or float dtypes that differ.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def rotate_and_grow(params, carry, x):
        ...     return params @ carry
        >>> system = Recurrence(rotate_and_grow, jnp.array([[0.0, -2.0], [2.0, 0.0]]))
        >>> growth = finite_time_growth(
        ...     system, jnp.zeros(2), None, lags=[1, 5], key=jax.random.key(0), num_steps=20
        ... )
        >>> print(growth.finite_time_exponents().value.round(4))
        [0.6931 0.6931]
    """
    system = bind(recurrence, carry, xs, num_steps)
    ascending = np.unique(check_lags(lags, 1, system.num_steps // 2))
    check_count("num_vectors", num_vectors, least=1)
    check_precision(system.state.dtype)
    return _finite_time_growth(system, key, tuple(map(int, ascending)), num_vectors)


@partial(jax.jit, static_argnames=("lags", "num_vectors"))
def _finite_time_growth(system, key, lags, num_vectors):
    refuse_coarse_step(system)
    window = lags[-1]
    num_windows, settling = divmod(system.num_steps, window)
    before = jax.tree.map(lambda x: x[:settling], system.xs)
    after = jax.tree.map(
        lambda x: x[settling:].reshape(num_windows, window, *x.shape[1:]), system.xs
    )

    def settle(_, now):
        new = system.step(now.state, now.x)
        return new, None, jnp.max(jnp.abs(new))

    def push(vectors, now):
        new, vectors = system.push(now.state, vectors, now.x)
        vectors, norms = jax.vmap(normalize)(vectors)
        return new, vectors, (norms, jnp.max(jnp.abs(new)))

    def part(state, xs, num_steps):
        return dataclasses.replace(system, state=state, xs=xs, num_steps=num_steps)

    def one_window(carried, inputs):
        state, finite = carried
        key, xs = inputs
        vectors = jax.random.normal(key, (num_vectors, state.size), state.dtype)
        vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        state, _, (norms, largest) = along(part(state, xs, window), push, vectors)
        # A state can become finite again, as where a sequence resets it, but it is not trusted.
        finite &= jnp.cumsum(~jnp.isfinite(largest)) == 0
        log_growth = jnp.where(finite[:, None], jnp.cumsum(log_norms(norms), axis=0), jnp.nan)
        return (state, finite[-1]), log_growth[np.array(lags) - 1]

    keys = jax.random.split(key, num_windows)
    state, _, largest = along(part(system.state, before, settling), settle, None)
    start = (state, jnp.all(jnp.isfinite(largest)))
    _, log_growth = lax.scan(one_window, start, (keys, after))
    return FiniteTimeGrowth(jnp.array(lags, jnp.int32), log_growth)
