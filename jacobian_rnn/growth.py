"""Growth of single tangent vectors: the largest exponent, and growth over finite times."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells import Recurrence
from jacobian_rnn.checks import check_count, check_lags, check_precision, check_system
from jacobian_rnn.frames import generic_frames
from jacobian_rnn.graded_svd import scaled_norm
from jacobian_rnn.jacobians import ravelled_step, tangents_of_step
from jacobian_rnn.spectrum import Estimate


class FiniteTimeGrowth(NamedTuple):
    """Log growth of random tangent vectors over windows of time.

    Each window begins with fresh vectors of random, uniform direction.

    Attributes:
        lags: numbers of steps, ascending, int32 `(L,)`.
        log_growth: log(‖P v‖ / ‖v‖) over the first `lag` steps of each window, nats,
            `(windows, L, vectors)`; −inf where a step maps the vector to zero. NaN from the step
            on at which the state stopped being finite, in all later windows too.
    """

    lags: Int[Array, " lags"]
    log_growth: Float[Array, "windows lags vectors"]

    def finite_time_exponents(self) -> Estimate:
        """Return mean log growth per step at each lag, nats per step, `(L,)`.

        What a typical vector does (the quenched rate); it tends to λ₁ as the lag grows. Standard
        errors are over windows. A rate of −inf, where a vector was mapped to zero, has none: NaN.
        """
        rates = jnp.mean(self.log_growth, axis=2) / self.lags
        num = rates.shape[0]
        return Estimate(jnp.mean(rates, axis=0), jnp.std(rates, axis=0, ddof=1) / jnp.sqrt(num))

    def generalized_exponents(self, order: float) -> Estimate:
        """Return log E‖Pv‖^q / (q lag) at each lag, nats per step, `(L,)`, with q = `order`.

        With q = 2 this is ½ log χ, what the mean squared gradient does (the annealed rate of mean
        field theory). It lies above the rate of the typical vector, the more the longer the lag:
        rare windows carry the mean. When the product of variance and lag is large they do not
        occur in the sample, and the estimate falls short of the true mean. Standard errors are a
        jackknife over windows; as soon as they exceed 0.1 / (q lag), do not trust them.

        References:
            A. Crisanti, G. Paladin and A. Vulpiani, "Products of random matrices in statistical
            physics" (1993).
        """
        if not isinstance(order, int | float) or not np.isfinite(order) or order == 0:
            msg = (
                f"order: received {order!r}, expected a finite number other than 0, for which "
                "see finite_time_exponents()"
            )
            raise ValueError(msg)
        windows, _, vectors = self.log_growth.shape
        log_moments = logsumexp(order * self.log_growth, axis=2) - np.log(vectors)
        total = logsumexp(log_moments, axis=0)
        scale = order * self.lags
        # Leave one window out: log(S − s_i), stable because s_i < S.
        share = jnp.exp(log_moments - total)
        left_out = jnp.log1p(-jnp.minimum(share, 1 - jnp.finfo(share.dtype).eps))
        error = jnp.sqrt((windows - 1) * jnp.var(left_out, axis=0))
        return Estimate((total - np.log(windows)) / scale, error / jnp.abs(scale))


def finite_time_growth(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    lags: Sequence[int],
    key: Array,
    num_vectors: int = 16,
    num_steps: int | None = None,
) -> FiniteTimeGrowth:
    """Measure how random tangent vectors grow over windows of several lengths.

    The sequence is cut into windows as long as the longest lag; steps that are left over at its
    beginning settle the state.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        lags: window lengths in steps, each at least 1; static. At least two windows of the longest
            have to fit.
        key: for the directions of the vectors.
        num_vectors: number of vectors in each window. Static.
        num_steps: number of steps where `xs` is None.

    Returns:
        The log growth of every vector, and rates derived from it.

    Raises:
        ValueError: lags below 1 or too long; shapes that do not fit; values that are not finite.
        TypeError: lags that are not integers; float dtypes that differ.

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
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    ascending = np.unique(check_lags(lags, 1, num_steps // 2))
    check_count("num_vectors", num_vectors)
    check_precision(ravel_pytree(carry)[0].dtype)
    if num_vectors < 1:
        msg = f"num_vectors: received {num_vectors}, expected at least 1"
        raise ValueError(msg)
    lags = tuple(int(lag) for lag in ascending)
    return _finite_time_growth(recurrence, carry, xs, key, lags, num_vectors, num_steps)


@partial(jax.jit, static_argnames=("lags", "num_vectors", "num_steps"))
def _finite_time_growth(recurrence, carry, xs, key, lags, num_vectors, num_steps):
    state, unravel = ravel_pytree(carry)
    step, push_tangents = ravelled_step(recurrence, unravel), tangents_of_step(recurrence, unravel)
    window = lags[-1]
    num_windows, settling = divmod(num_steps, window)
    before = jax.tree.map(lambda x: x[:settling], xs)
    after = jax.tree.map(lambda x: x[settling:].reshape(num_windows, window, *x.shape[1:]), xs)

    def settle(state, x):
        state = step(state, x)
        return state, jnp.max(jnp.abs(state))

    def push(carried, x):
        state, vectors = carried
        state, vectors = push_tangents(state, vectors, x)
        vectors, norms = jax.vmap(_normalized)(vectors)
        return (state, vectors), (norms, jnp.max(jnp.abs(state)))

    def one_window(carried, inputs):
        state, finite = carried
        key, xs = inputs
        vectors = jax.random.normal(key, (num_vectors, state.size), state.dtype)
        vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
        (state, _), (norms, largest) = lax.scan(push, (state, vectors), xs, length=window)
        # A state can become finite again, as where a sequence resets it: it is not trusted.
        finite &= jnp.cumsum(~jnp.isfinite(largest)) == 0
        log_growth = jnp.where(finite[:, None], jnp.cumsum(_log_norms(norms), axis=0), jnp.nan)
        return (state, finite[-1]), log_growth[np.array(lags) - 1]

    keys = jax.random.split(key, num_windows)
    state, largest = lax.scan(settle, state, before, length=settling)
    start = (state, jnp.all(jnp.isfinite(largest)))
    _, log_growth = lax.scan(one_window, start, (keys, after))
    return FiniteTimeGrowth(jnp.array(lags, jnp.int32), log_growth)


def _normalized(vector):
    """Return the vector with norm one, or zero as it is, and its norm."""
    norm = scaled_norm(vector)
    return vector / jnp.where(norm > 0, norm, 1), norm


def _log_norms(norms):
    """Return logs of norms, −inf for zero, NaN for what is not finite."""
    # The derivative of log at zero would be NaN even where nothing depends on it.
    logs = jnp.where(norms > 0, jnp.log(jnp.where(norms > 0, norms, 1)), -jnp.inf)
    return jnp.where(jnp.isfinite(norms), logs, jnp.nan)


def largest_exponent(
    recurrence: Recurrence,
    carry: PyTree,
    xs: PyTree,
    *,
    num_steps: int | None = None,
    num_warmup: int = 0,
) -> Float[Array, ""]:
    """Measure the largest Lyapunov exponent along one trajectory, without forming a Jacobian.

    A fixed generic tangent vector is pushed through every step and normalised; the mean of its log
    growth after the warm-up is the finite-time estimate of λ₁ (Benettin et al. 1980). Its bias
    from the finite time is of order 1/T. `lyapunov_spectrum` gives more exponents, and error bars.

    Args:
        recurrence: the system.
        carry: initial carry, without batch axis.
        xs: one sequence, `(time, ...)`; None for a system without input.
        num_steps: number of steps T where `xs` is None; includes the warm-up.
        num_warmup: number of first steps that settle state and vector and are not counted. A
            vector that one of them maps to zero starts anew.

    Returns:
        λ₁ in nats per step; −inf if a counted step maps the vector to zero. NaN if at any step,
        those of the warm-up included, the state or its derivative is not finite.

    Raises:
        ValueError: nothing left to count after the warm-up; shapes that do not fit; values that
            are not finite.
        TypeError: float dtypes that differ.

    References:
        G. Benettin, L. Galgani, A. Giorgilli and J.-M. Strelcyn, "Lyapunov characteristic
        exponents for smooth dynamical systems and for Hamiltonian systems", Meccanica 15 (1980).

    Example:
        >>> import jax.numpy as jnp
        >>> def logistic(r, carry, x):
        ...     return r * carry * (1 - carry)
        >>> system = Recurrence(logistic, jnp.array(3.2))
        >>> rate = largest_exponent(system, jnp.array([0.3]), None, num_steps=2000, num_warmup=1000)
        >>> print(round(float(rate), 4))
        -0.9163
    """
    carry, xs, num_steps = check_system(recurrence, carry, xs, num_steps)
    check_count("num_warmup", num_warmup)
    check_precision(ravel_pytree(carry)[0].dtype)
    if not 0 <= num_warmup < num_steps:
        msg = (
            f"num_warmup: received {num_warmup} for a sequence of {num_steps} steps, expected at "
            "least 0 and fewer than the steps: a rate needs steps to count; give longer xs"
        )
        raise ValueError(msg)
    return _largest_exponent(recurrence, carry, xs, num_steps, num_warmup)


@partial(jax.jit, static_argnames=("num_steps", "num_warmup"))
def _largest_exponent(recurrence, carry, xs, num_steps, num_warmup):
    state, unravel = ravel_pytree(carry)
    push_tangents = tangents_of_step(recurrence, unravel)
    generic = jnp.asarray(generic_frames(state.size)[0, :, 0], state.dtype)

    def push(carried, now):
        state, tangent = carried
        number, x = now
        state, tangents = push_tangents(state, tangent[None], x)
        tangent, norm = _normalized(tangents[0])
        tangent = jnp.where((norm == 0) & (number < num_warmup), generic, tangent)
        return (state, tangent), (norm, jnp.max(jnp.abs(state)))

    inputs = (jnp.arange(num_steps), xs)
    _, (norms, largest) = lax.scan(push, (state, generic), inputs, length=num_steps)
    finite = jnp.all(jnp.isfinite(norms)) & jnp.all(jnp.isfinite(largest))
    return jnp.where(finite, jnp.mean(_log_norms(norms[num_warmup:])), jnp.nan)
