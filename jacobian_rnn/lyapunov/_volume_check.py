"""The growth of the frame's volume against log|det J|, which shows rounding and errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.lyapunov._interval import LONGEST_INTERVAL, Tangents


class VolumeCheck(NamedTuple):
    """Sums over the steps that were checked.

    Attributes:
        log_det: of log|det J|, nats.
        log_det_squares: of (log|det J|)², nats². It is used only where k < n.
        log_det_error: of |growth of the frame's volume − log|det J|| over checked intervals, nats.
            It is used only where k = n.
        num_steps: number of steps behind these sums, int32 scalar.
    """

    log_det: Float[Array, ""]
    log_det_squares: Float[Array, ""]
    log_det_error: Float[Array, ""]
    num_steps: Int[Array, ""]

    def add(self, more: "VolumeCheck") -> "VolumeCheck":
        """Return the sums over both."""
        return VolumeCheck(*map(jnp.add, self, more))


def no_check(dtype: jnp.dtype) -> VolumeCheck:
    """Return sums over nothing."""
    zero = jnp.zeros((), dtype)
    return VolumeCheck(zero, zero, zero, jnp.int32(0))


def check_volume(
    tangents: Tangents,
    states: Float[Array, "steps size"],
    xs: PyTree,
    num_steps: int | Int[Array, ""],
    growth: Float[Array, ""],
    *,
    is_full: bool,
    is_due: Bool[Array, ""] | bool,
) -> VolumeCheck:
    """Compare log|det J| over the last `num_steps` of some steps with the growth of the frame.

    A full frame (k = n) shows det J itself. For fewer directions there is an inequality. It needs
    only a sample of log|det J|, and one step is enough.
    """
    if not is_full:
        num_steps = 1
    longest = num_steps if isinstance(num_steps, int) else min(LONGEST_INTERVAL, states.shape[0])
    last = jax.tree.map(lambda a: a[-longest:], (states, xs))
    zero = jnp.zeros_like(growth)

    def of_step(log_det, step):
        number, state, x = step
        more = lax.cond(number <= num_steps, tangents.log_abs_det, lambda *_: zero, state, x)
        return log_det + more, None

    def check():
        steps = lax.stop_gradient((jnp.arange(longest, 0, -1, dtype=jnp.int32), *last))
        log_det, _ = lax.scan(of_step, zero, steps)
        difference = jnp.where(growth == log_det, 0, jnp.abs(lax.stop_gradient(growth) - log_det))
        return VolumeCheck(
            log_det, log_det**2, difference if is_full else zero, jnp.int32(num_steps)
        )

    def skip():
        return no_check(growth.dtype)

    if isinstance(is_due, bool):
        return check() if is_due else skip()
    return lax.cond(is_due, check, skip)
