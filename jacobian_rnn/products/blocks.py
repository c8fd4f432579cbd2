"""The product of Jacobians of units that see themselves alone: a small product for each unit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.jacobians.unit_places import UnitPlaces
from jacobian_rnn.linalg.factored_form import log_growth_through_of
from jacobian_rnn.linalg.graded_svd import graded_singular_values, scaled_norm
from jacobian_rnn.products._passes import PASSES, extend_passes, start_passes
from jacobian_rnn.products.along import passes_along
from jacobian_rnn.products.product import JacobianProduct, finish, growth_error


class BlockProduct(NamedTuple):
    """P = J[T-1] ··· J[0] of a state of c arrays of N units, where each unit sees itself alone.

    It has the methods and the faults of a `JacobianProduct`. `whole()` makes one of it, with all
    there is, for small n = c N.

    Attributes:
        units: the product of every unit, a `JacobianProduct` with a first axis of N.
    """

    units: JacobianProduct

    @property
    def num_steps(self) -> Int[Array, ""]:
        """The number of steps T."""
        return self.units.num_steps[0]

    @property
    def first_lost_step(self) -> Int[Array, ""]:
        """The first step at which rounding took a direction, −1 if none."""
        return first_of_units(self.units.first_lost_step)

    @property
    def first_underflow_step(self) -> Int[Array, ""]:
        """The first step at which a direction fell out of the float range, −1 if none."""
        return first_of_units(self.units.first_underflow_step)

    @property
    def first_nonfinite_step(self) -> Int[Array, ""]:
        """The first step whose Jacobian or new state held NaN or inf, −1 if none."""
        return first_of_units(self.units.first_nonfinite_step)

    @property
    def right_cut(self) -> Bool[Array, " passes"]:
        """Whether entries were cut that may count in `later @ earlier`."""
        return jnp.any(self.units.right_cut, axis=0)

    def log_singular_values(self) -> Float[Array, " n"]:
        """Return log σ_i(P), nats, descending, −inf for lost directions."""
        return -jnp.sort(-_of_units(self.units).reshape(-1))

    def singular_values(self) -> Float[Array, " n"]:
        """Return σ_i(P), descending, 0 or inf where the float range ends."""
        return jnp.exp(self.log_singular_values())

    def log_norm(self) -> Float[Array, ""]:
        """Return log σ₁(P), the log of the spectral norm, nats."""
        return jnp.max(_of_units(self.units)[:, 0])

    def log_abs_det(self) -> Float[Array, ""]:
        """Return log|det P|, nats."""
        return jnp.sum(self.units.log_scale[:, 0])

    def log_rms_growth(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats, the root mean square growth of a random cotangent."""
        return self.log_growth_through(self._rows_of_all())

    def log_adjoint_growth(self, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
        """Return log(‖Pᵀv‖ / ‖v‖), nats, for a cotangent v of shape `(n,)`."""
        cotangent = jnp.asarray(cotangent)
        check_shape("cotangent", cotangent.shape, (self._num_states,), "the ravelled state")
        return self.log_growth_through(cotangent[None])

    def log_growth_through(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Return log(‖R P‖_F / ‖R‖_F), nats, for rows R of shape `(m, n)`.

        Since no unit sees another, ‖R P‖²_F is the sum of ‖R_u P_u‖²_F over units. So the c rows
        that show one array of all units each say the same as the n rows of the identity.
        """
        return _growths(self._first_pass(), self._rows_of_units(rows))[0]

    def log_growth_through_error(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Estimate the error of `log_growth_through`, nats, NaN without further passes."""
        if self.units.log_scale.shape[1] == 1:
            return jnp.full((), jnp.nan, self.units.log_scale.dtype)
        growths = _growths(self.units, self._rows_of_units(rows))
        return growth_error(growths, self.first_underflow_step >= 0, self.num_steps)

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats, NaN without further passes."""
        return jnp.max(jax.vmap(lambda unit: unit.log_error)(self.units))

    @property
    def log_growth_error(self) -> Float[Array, ""]:
        """Estimated error of `log_rms_growth` and `log_norm`, nats, NaN without further passes.

        Units that have decayed may have lost their digits while the growth of all has not.
        """
        if self.units.log_scale.shape[1] == 1:
            return jnp.full((), jnp.nan, self.units.log_scale.dtype)
        growths = _growths(self.units, self._rows_of_units(self._rows_of_all()))
        together = jnp.stack([growths, _norms(self.units)], axis=1)
        underflowed = self.first_underflow_step >= 0
        return jnp.max(growth_error(together, underflowed, self.num_steps))

    def whole(self) -> JacobianProduct:
        """Return the same as a product of whole matrices, with memory n²."""
        units, places = self.units, self._places
        return JacobianProduct(
            left=places.spread(jnp.moveaxis(units.left, 0, 3)),
            log_scale=places.join(jnp.moveaxis(units.log_scale, 0, 2)),
            right=places.spread(jnp.moveaxis(units.right, 0, 3)),
            num_steps=self.num_steps,
            first_lost_step=self.first_lost_step,
            first_underflow_step=self.first_underflow_step,
            first_nonfinite_step=self.first_nonfinite_step,
            right_cut=self.right_cut,
        )

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        return self.whole().dense()

    def singular_vectors(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """Return the singular vectors of P, as `JacobianProduct.singular_vectors` does."""
        return self.whole().singular_vectors()

    def __matmul__(self, earlier: "BlockProduct") -> "BlockProduct":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compose `later @ earlier`, the product over both stretches of time."""
        if type(earlier) is not type(self):
            return NotImplemented
        if self.units.left.shape != earlier.units.left.shape:
            received = f"blocks of shapes {self.units.left.shape} and {earlier.units.left.shape}"
            refuse("later @ earlier", received, "two products of the same system")
        return self._replace(units=jax.vmap(JacobianProduct.__matmul__)(self.units, earlier.units))

    @property
    def _places(self):
        num_units, _, c = self.units.log_scale.shape
        return UnitPlaces(c, num_units, is_by_row=False)

    @property
    def _num_states(self):
        return self._places.num_states

    def _first_pass(self):
        """Return the units in the one pass that gives the results."""
        forms = {name: getattr(self.units, name)[:, :1] for name in ("left", "log_scale", "right")}
        return self.units._replace(**forms)

    def _rows_of_all(self):
        return rows_of_arrays(self._places, self.units.left.dtype)

    def _rows_of_units(self, rows):
        """Cut rows into those that see each unit, `(units, m, c)`."""
        rows = jnp.asarray(rows)
        check_shape("rows", rows.shape, ("m", self._num_states), "in the ravelled state")
        return jnp.moveaxis(self._places.cut(rows), 2, 0)


class RowProduct(BlockProduct):
    """The product for a matrix state whose rows all have one Jacobian.

    It is a `BlockProduct` whose units are the rows: their c states are next to each other.
    """

    @property
    def _places(self):
        return super()._places._replace(is_by_row=True)


def rows_of_arrays(places: UnitPlaces, dtype: jnp.dtype) -> Float[Array, "c n"]:
    """Return a row for each of the c states of units, which adds it up over units."""
    one_each = jnp.eye(places.size, dtype=dtype)[..., None]
    return places.join(jnp.broadcast_to(one_each, (*one_each.shape[:2], places.num_units)))


def first_of_units(steps):
    """Return the earliest of the steps of all units, −1 if there is none."""
    never = jnp.iinfo(jnp.int32).max
    earliest = jnp.min(jnp.where(steps >= 0, steps, never))
    return jnp.where(earliest == never, -1, earliest)


@jax.jit
def _of_units(units):
    return jax.vmap(JacobianProduct.log_singular_values)(units)


@jax.jit
def _norms(units):
    """Return log σ₁ of all units together in each pass."""

    def of_pass(log_scale, right):
        return graded_singular_values(log_scale, right)[0][0]

    return jnp.max(jax.vmap(jax.vmap(of_pass))(units.log_scale, units.right), axis=0)


@jax.jit
def _growths(units, rows):
    """Return log(‖R P‖_F / ‖R‖_F) in each pass, for the rows of each unit."""
    sizes = jax.vmap(scaled_norm)(rows)
    # The derivative of log at zero would be NaN even where nothing depends on it.
    seen = sizes > 0
    rows = jnp.where(seen[:, None, None], rows, 1)
    in_passes = jax.vmap(log_growth_through_of, in_axes=(None, 0, 0, 0))
    growths = jax.vmap(in_passes)(rows, units.left, units.log_scale, units.right)
    log_sizes = jnp.log(jnp.where(seen, sizes, 1))
    arriving = jnp.where(seen[:, None], growths + log_sizes[:, None], -jnp.inf)
    size = scaled_norm(sizes)
    growth = jax.nn.logsumexp(2 * arriving, axis=0) / 2 - jnp.log(jnp.where(size > 0, size, 1))
    # Where the rows show nothing, nothing arrives.
    return jnp.where(size > 0, growth, -jnp.inf)


@partial(jax.jit, static_argnames="estimate_error")
def block_product(
    system: System,
    *,
    estimate_error: bool,
    next_states: Float[Array, "steps n"] | None = None,
) -> BlockProduct:
    """Multiply the blocks of all steps of a system. `passes_along` says what `next_states` are."""
    (places,) = system.unit_places()
    (blocks,) = jax.eval_shape(system.unit_layers, system.state, system.one_input)
    num_passes, num_blocks = PASSES if estimate_error else 1, blocks.shape[2]
    eye = jnp.eye(places.size, dtype=system.state.dtype)
    frames = jnp.broadcast_to(eye, (num_passes, *eye.shape))

    def repeat(tree, count):
        return jax.tree.map(lambda one: jnp.broadcast_to(one, (count, *one.shape)), tree)

    def extend(passes, blocks, finite):
        extend_units = jax.vmap(extend_passes, in_axes=(0, 0, None))
        return extend_units(passes, jnp.moveaxis(blocks, -1, 0), finite)

    of_step = system.unit_jacobians, system.rough_unit_jacobians
    start = repeat(start_passes(frames), num_blocks)
    passes = passes_along(system, start, of_step, extend, num_passes, next_states)
    units = jax.vmap(finish)(passes)
    if num_blocks < places.num_units:  # one product is that of all units
        units = repeat(jax.tree.map(lambda one: one[0], units), places.num_units)
    return RowProduct(units) if places.is_by_row else BlockProduct(units)
