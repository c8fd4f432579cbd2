"""What one sequence says about its gradients: by probes, and by the exact product."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jacobian_rnn.cells.padding import with_padding
from jacobian_rnn.growth.probes import Group, Growth, orthonormal_rows, pull_probes
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.time_loop import Run
from jacobian_rnn.jacobians.traced_steps import derivative_of
from jacobian_rnn.products.along import product_along
from jacobian_rnn.products.blocks import rows_of_arrays
from jacobian_rnn.products.multiply import identity_frames, structured_product

LOST_DIGITS = 1e-2  # nats: a log growth with a larger error has lost its digits


class Measured(NamedTuple):
    """What one sequence says.

    Attributes:
        of_carry: growth over the horizon of a gradient of the whole carry.
        of_output: growth over the horizon of a gradient of what the output shows.
        profile: growth of a gradient of the whole carry at every lag, nats, `(T,)`.
        profile_of_output: growth of a gradient of what the output shows at every lag, `(T,)`. It is
            NaN where digits are lost.
        log_singular_values: of the product over the horizon, nats, `(n,)`; None with probes alone.
        broken: step of the horizon at which a Jacobian is not finite, int32 scalar, −1 if none.
    """

    of_carry: Growth
    of_output: Growth
    profile: Float[Array, " steps"]
    profile_of_output: Growth
    log_singular_values: Float[Array, " n"] | None
    broken: Int[Array, ""]


def measure_by_probes(
    system: System,
    forward: Run,
    padding: Int[Array, ""],
    horizon: int,
    normal: Float[Array, "directions k 2"],
) -> Measured:
    """Pull probes back from the last finite state, drawn out of standard normal numbers."""
    end = forward.num_finite
    probes, groups = _draw_probes(system, forward.last, normal)
    growths, broken = pull_probes(system, probes, groups, states=forward.states, end=end)
    of_output, of_carry = growths[0], growths[-1]
    if system.shows_last_half:
        of_carry = _of_both_halves(*growths)

    def at_horizon(values):
        lag = jnp.minimum(horizon, end)
        return jnp.where(lag > 0, values[jnp.maximum(lag - 1, 0)], 0)

    lags = jnp.arange(1, system.num_steps + 1, dtype=jnp.int32)

    def by_lag(growth):
        known = (growth.rounding_error <= LOST_DIGITS) & (lags <= end - padding)
        return growth._replace(log_growth=jnp.where(known, growth.log_growth, jnp.nan))

    return Measured(
        jax.tree.map(at_horizon, of_carry),
        jax.tree.map(at_horizon, of_output),
        by_lag(of_carry).log_growth,
        by_lag(of_output),
        None,
        jnp.where(broken >= end - horizon, broken, -1),
    )


def _draw_probes(system, state, normal):
    """Draw probes of what the output shows, and then of the carry or of the half that is hidden.

    Half as many serve for the output. Its growth differs from that of the carry where the two hold
    different directions, and then by more than a sampling error.
    """
    n, m, num_probes = system.num_states, system.num_outputs, normal.shape[1]
    if system.shows_all:
        probes = orthonormal_rows(normal[:n, :, 0])
        return probes, [Group(slice(len(probes)), n)]
    half = (num_probes + 1) // 2
    _, pull_to_state = jax.vjp(system.output, state)
    shown = orthonormal_rows(normal[:m, :half, 1])
    shown = jax.vmap(lambda row: pull_to_state(row)[0])(shown)
    if system.shows_last_half:
        others, num_directions = orthonormal_rows(normal[: n - m, :half, 0]), n - m
        others = jnp.pad(others, ((0, 0), (0, m)))
    else:
        others, num_directions = orthonormal_rows(normal[:n, :, 0]), n
    probes = jnp.concatenate([shown, others])
    first = Group(slice(len(shown)), m)
    return probes, [first, Group(slice(len(shown), len(probes)), num_directions)]


def _of_both_halves(one, other):
    """Return the growth over all directions from that over either half of them."""
    highest = jnp.maximum(one.log_growth, other.log_growth)
    shift = jnp.where(jnp.isneginf(highest), 0, highest)
    squares = [jnp.exp(2 * (half.log_growth - shift)) for half in (one, other)]
    total = squares[0] + squares[1]
    shares = [square / jnp.where(total > 0, total, 1) for square in squares]

    def together(errors):
        # A half without a share may have no digits.
        used = [jnp.where(share > 0, share * e, 0) for share, e in zip(shares, errors, strict=True)]
        return jnp.hypot(*used)

    return Growth(
        shift + jnp.log(total / 2) / 2,
        together([one.sampling_error, other.sampling_error]),
        together([one.rounding_error, other.rounding_error]),
    )


def measure_by_product(system: System, forward: Run, horizon: int, by_probes: Measured) -> Measured:
    """Multiply the Jacobians of the horizon, at the states that the probes saw."""
    # There may be fewer steps than the horizon before a state that is not finite.
    start = jnp.maximum(forward.num_finite - horizon, 0)
    # After the last finite state nothing moves, and what stands there does not count.
    steps = jnp.arange(1, system.num_steps + 1, dtype=jnp.int32)
    states = forward.states
    later = jnp.concatenate([states[1:], forward.last[None]])  # pyright: ignore[reportOptionalSubscript]
    later = jnp.where((steps < forward.num_finite)[:, None], later, forward.last[None])
    window, later = jax.tree.map(
        lambda x: lax.dynamic_slice_in_dim(x, start, horizon), (system.xs, later)
    )
    active = start + jnp.arange(horizon, dtype=jnp.int32) < forward.num_finite
    last = System(
        with_padding(system.recurrence),
        states[start],  # pyright: ignore[reportOptionalSubscript]
        (window, active),
        horizon,
        system.unravel,
    )
    if system.has_structure:
        product = structured_product(last, estimate_error=True, next_states=later)
    else:
        product = product_along(last, identity_frames(system), next_states=later)
    rows = _rows_of_output(system, forward.last)
    of_carry = product.log_rms_growth(), product.log_growth_error
    of_output = product.log_growth_through(rows), product.log_growth_through_error(rows)

    def growth(measured, probed):
        value, error = measured
        return Growth(value, probed.sampling_error, error)

    in_window = product.first_nonfinite_step
    through_output = growth(of_output, by_probes.of_output)
    return Measured(
        growth(of_carry, by_probes.of_carry),
        through_output,
        by_probes.profile,
        _with_horizon(by_probes.profile_of_output, through_output, forward.num_finite - start),
        product.log_singular_values(),
        jnp.where(in_window >= 0, start + in_window, -1),
    )


def _with_horizon(profile, exact, lag):
    """Put the growth that the product knows in the place of the one that probes estimate."""
    known = (exact.rounding_error <= LOST_DIGITS) & (lag > 0)
    exact = exact._replace(sampling_error=jnp.zeros_like(exact.sampling_error))
    place = jnp.maximum(lag - 1, 0)

    def put(values, value):
        return values.at[place].set(jnp.where(known, value, values[place]))

    return jax.tree.map(put, profile, exact)


def _rows_of_output(system, state):
    """Return rows through which the product shows growth to the output.

    Where units see themselves alone, one row shows an array of all units.
    """
    if system.has_units:
        (places,) = system.unit_places()
        num_shown, rest = divmod(system.num_outputs, places.num_units)
        if system.shows_all or (system.shows_end and rest == 0 and not places.is_by_row):
            return rows_of_arrays(places, state.dtype)[places.size - num_shown :]
    return derivative_of(system.output)(state)
