"""The product of Jacobians [[f I, a], [0, s]]: two numbers and a column, at O(N) a step."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from jacobian_rnn.checks import check_shape, refuse
from jacobian_rnn.jacobians.rough_functions import rough
from jacobian_rnn.jacobians.system import System
from jacobian_rnn.linalg.factored_form import (
    FactoredForm,
    log_growth_through_of,
    orthonormalize,
    renew,
)
from jacobian_rnn.linalg.graded_svd import scaled_norm
from jacobian_rnn.linalg.rounding import mixed, rounding_factors
from jacobian_rnn.products._passes import PASSES, Passes, extend_passes, start_passes
from jacobian_rnn.products.along import passes_along
from jacobian_rnn.products.blocks import first_of_units
from jacobian_rnn.products.product import JacobianProduct, finish, growth_error


class BorderedProduct(NamedTuple):
    """P = [[F I, A], [0, S]] of a memory that one number keeps, with one more state behind it.

    It has the methods and the faults of a `JacobianProduct`. In a basis of the memory whose first
    vectors are orthogonal to A and whose last one is A / ‖A‖, P is F on the first ones, and one
    2 × 2 matrix. So F is a singular value N − 1 times, between the other two.

    Attributes:
        diagonal: F and S, as a `JacobianProduct` of 1 × 1 matrices with a first axis of two.
        column: A divided by exp(log_column), `(passes, N)`.
        log_column: nats, `(passes,)`, −inf where A is zero.
    """

    diagonal: JacobianProduct
    column: Float[Array, "passes N"]
    log_column: Float[Array, " passes"]

    @property
    def num_steps(self) -> Int[Array, ""]:
        """The number of steps T."""
        return self.diagonal.num_steps[0]

    @property
    def first_lost_step(self) -> Int[Array, ""]:
        """The first step at which rounding took a direction, −1 if none."""
        return first_of_units(self.diagonal.first_lost_step)

    @property
    def first_underflow_step(self) -> Int[Array, ""]:
        """The last step where F or S is too small beside the rest for the float range, else −1."""
        return _small(self).first_underflow_step

    @property
    def first_nonfinite_step(self) -> Int[Array, ""]:
        """The first step whose Jacobian or new state held NaN or inf, −1 if none."""
        return first_of_units(self.diagonal.first_nonfinite_step)

    @property
    def right_cut(self) -> Bool[Array, " passes"]:
        """Whether entries were cut that may count in `later @ earlier`."""
        return jnp.any(self.diagonal.right_cut, axis=0)

    def log_singular_values(self) -> Float[Array, " n"]:
        """Return log σ_i(P), nats, descending, −inf for lost directions."""
        first, kept, last = _small(self).log_singular_values()
        return jnp.concatenate([first[None], jnp.repeat(kept, self._num_equal), last[None]])

    def singular_values(self) -> Float[Array, " n"]:
        """Return σ_i(P), descending, 0 or inf where the float range ends."""
        return jnp.exp(self.log_singular_values())

    def log_norm(self) -> Float[Array, ""]:
        """Return log σ₁(P), the log of the spectral norm, nats."""
        return _small(self).log_norm()

    def log_abs_det(self) -> Float[Array, ""]:
        """Return log|det P|, nats."""
        kept, own = self.diagonal.log_scale[:, 0, 0]
        return (self._num_equal + 1) * kept + own

    def log_rms_growth(self) -> Float[Array, ""]:
        """Return ½ log(‖P‖²_F / n), nats, the root mean square growth of a random cotangent."""
        return _small(self).log_growth_through(self._rows_of_all())

    def log_adjoint_growth(self, cotangent: Float[Array, " n"]) -> Float[Array, ""]:
        """Return log(‖Pᵀv‖ / ‖v‖), nats, for a cotangent v of shape `(n,)`."""
        cotangent = jnp.asarray(cotangent)
        check_shape("cotangent", cotangent.shape, (self._num_equal + 2,), "the ravelled state")
        return self.log_growth_through(cotangent[None])

    def log_growth_through(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Return log(‖R P‖_F / ‖R‖_F), nats, for rows R of shape `(m, n)`."""
        return self._growths_through(rows)[0]

    def log_growth_through_error(self, rows: Float[Array, "m n"]) -> Float[Array, ""]:
        """Estimate the error of `log_growth_through`, nats, NaN without further passes."""
        if len(self.log_column) == 1:
            return jnp.full((), jnp.nan, self.log_column.dtype)
        underflowed = self.first_underflow_step >= 0
        return growth_error(self._growths_through(rows), underflowed, self.num_steps)

    @property
    def log_error(self) -> Float[Array, ""]:
        """Estimated largest error of a log singular value, nats, NaN without further passes."""
        return _small(self).log_error

    @property
    def log_growth_error(self) -> Float[Array, ""]:
        """Estimated error of `log_rms_growth` and `log_norm`, nats, NaN without further passes."""
        small = _small(self)
        of_all = small.log_growth_through_error(self._rows_of_all())
        return jnp.maximum(of_all, small.log_growth_error)

    def whole(self) -> JacobianProduct:
        """Return the same as a product of whole matrices, with memory n²."""
        return _product(self, self.column, self.log_column)

    def dense(self) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
        """Return P as (matrix of spectral norm 1, log of its scale in nats)."""
        return self.whole().dense()

    def singular_vectors(self) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        """Return the singular vectors of P, as `JacobianProduct.singular_vectors` does."""
        return self.whole().singular_vectors()

    def __matmul__(self, earlier: "BorderedProduct") -> "BorderedProduct":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Compose `later @ earlier`, the product over both stretches of time."""
        if not isinstance(earlier, BorderedProduct):
            return NotImplemented
        if self.column.shape != earlier.column.shape:
            received = f"columns of shapes {self.column.shape} and {earlier.column.shape}"
            refuse("later @ earlier", received, "two products of the same system")
        diagonal = jax.vmap(JacobianProduct.__matmul__)(self.diagonal, earlier.diagonal)
        kept, own = _numbers(self.diagonal, 0), _numbers(earlier.diagonal, 1)
        before, now = (earlier.column, earlier.log_column), (self.column, self.log_column)
        return BorderedProduct(diagonal, *jax.vmap(_sum_of_columns)(kept, before, own, now))

    @property
    def _num_equal(self):
        """How many singular values are equal whatever the column is, N − 1."""
        return self.column.shape[1] - 1

    def _rows_of_all(self):
        """Return rows in the basis of the small product which say what the identity says."""
        size = jnp.sqrt(jnp.asarray(self._num_equal, self.column.dtype))
        return jnp.diag(jnp.ones(3, self.column.dtype).at[0].set(size))

    def _growths_through(self, rows):
        """Return log(‖R P‖_F / ‖R‖_F) in each pass."""
        rows, small = jnp.asarray(rows), _small(self)
        check_shape("rows", rows.shape, ("m", self._num_equal + 2), "in the ravelled state")
        seen = jax.vmap(_rows_in_small, (None, 0))(rows, self.column)
        return jax.vmap(log_growth_through_of)(seen, small.left, small.log_scale, small.right)


def _rows_in_small(rows, column):
    """Return rows in the basis in which they see F once, the column, and the last state."""
    size = scaled_norm(column)
    direction = column / jnp.where(size > 0, size, 1)
    along = rows[:, :-1] @ direction
    across = scaled_norm(rows[:, :-1] - along[:, None] * direction[None])
    seen = jnp.stack([jnp.zeros_like(along), along, rows[:, -1]], axis=1)
    return jnp.concatenate([jnp.zeros((1, 3), rows.dtype).at[0, 0].set(across), seen])


@jax.jit
def _small(product):
    """Return the product in the basis of the memory in which it has three different parts."""
    size = jax.vmap(scaled_norm)(product.column)
    return _product(product, jnp.stack([jnp.zeros_like(size), size], axis=1), product.log_column)


@jax.jit
def _product(product, column, log_column):
    """Return [[F I, A], [0, S]] with another column A, in factored form, for all passes."""
    kept, own = (_numbers(product.diagonal, number) for number in (0, 1))
    forms, underflowed, cut = jax.vmap(_factor)(kept, own, column, log_column)
    before = jnp.maximum(product.num_steps - 1, 0)
    return JacobianProduct(
        forms.left,
        forms.log_scale,
        forms.right,
        product.num_steps,
        product.first_lost_step,
        jnp.where(jnp.any(underflowed), before, -1),
        product.first_nonfinite_step,
        product.right_cut | cut,
    )


def _factor(kept, own, column, log_column):
    """Factor [[F I, A], [0, S]], where each number is a sign and a log."""
    eye = jnp.eye(len(column) + 1, dtype=column.dtype)
    scale = jnp.maximum(log_column, own[1])
    shift = jnp.where(jnp.isneginf(scale), 0, scale)
    last = jnp.append(column * jnp.exp(log_column - shift), own[0] * jnp.exp(own[1] - shift))
    columns = (kept[0] * eye).at[:, -1].set(last)
    scales = jnp.full(len(eye), kept[1]).at[-1].set(scale)
    form = FactoredForm(eye, scales, jnp.zeros_like(scales), eye)
    form, faults = renew(form, columns, jnp.ones((), bool))
    underflowed = (last[-1] == 0) & ~jnp.isneginf(own[1])
    form, cut = orthonormalize(form)
    return form, underflowed | faults.lost, faults.right_cut | cut


def _numbers(diagonal, number):
    """Return signs and logs of one of both numbers in all passes."""
    sign = diagonal.left[number, :, 0, 0] * diagonal.right[number, :, 0, 0]
    return sign, diagonal.log_scale[number, :, 0]


def _sum_of_columns(first, one, second, other):
    """Return f A + s B, where numbers are signs and logs, and columns have logs of their scale."""
    logs = first[1] + one[1], second[1] + other[1]
    shift = jnp.maximum(*logs)
    shift = jnp.where(jnp.isneginf(shift), 0, shift)
    total = first[0] * jnp.exp(logs[0] - shift) * one[0]
    total += second[0] * jnp.exp(logs[1] - shift) * other[0]
    size = lax.stop_gradient(jnp.max(jnp.abs(total)))
    log_size = jnp.log(jnp.where(size > 0, size, 1))
    scale = jnp.where(size > 0, shift + log_size, -jnp.inf)
    return total / jnp.where(size > 0, size, 1), scale


class BorderedPasses(NamedTuple):
    """A product after some steps. The fields are those of `BorderedProduct`."""

    diagonal: Passes
    column: Float[Array, "passes N"]
    log_column: Float[Array, " passes"]


def start_bordered(num_passes: int, num_states: int, dtype: jnp.dtype) -> BorderedPasses:
    """Return the empty product."""
    frames = jnp.ones((num_passes, 1, 1), dtype)
    two = jax.tree.map(lambda one: jnp.stack([one, one]), start_passes(frames))
    nothing = jnp.full(num_passes, -jnp.inf, dtype)
    return BorderedPasses(two, jnp.zeros((num_passes, num_states - 1), dtype), nothing)


def entries_of_step(system: System, state: Float[Array, " n"], x: PyTree) -> Float[Array, " m"]:
    """Return the column of what is declared for a step, followed by f and s."""
    (one,) = system.declared_units(state, x)
    return jnp.concatenate([one.column, one.kept[None], one.own[None]])


def extend_bordered(
    passes: BorderedPasses,
    entries: Float[Array, "passes_or_1 m"],
    state_is_finite: Bool[Array, ""] | bool = True,
    *,
    backwards: bool = False,
) -> BorderedPasses:
    """Multiply by the Jacobian of the next step, or of the step before with `backwards`.

    A' = f A + S a, or A' = s A + F a.
    """
    column, numbers = entries[:, :-2], entries[:, -2:]
    sizes = jnp.abs(numbers)
    logs = jnp.where(sizes > 0, jnp.log(jnp.where(sizes > 0, sizes, 1)), -jnp.inf)
    of_step = jnp.sign(numbers), logs
    forms = passes.diagonal.forms
    of_product = forms.left[..., 0, 0], forms.log_scale[..., 0] + forms.rounding[..., 0]
    at_step, at_product = (1, 0) if backwards else (0, 1)
    factor = tuple(one[:, at_step] for one in of_step)
    other = tuple(one[at_product] for one in of_product)
    num_passes, dtype = len(passes.column), passes.column.dtype
    noise = rounding_factors(mixed(passes.diagonal.num_steps[0] + 1), passes.column.shape, dtype)
    column = column * noise.at[0].set(1)
    now = column, jnp.zeros(num_passes, dtype)
    before = passes.column, passes.log_column
    factor = jax.tree.map(lambda one: jnp.broadcast_to(one, (num_passes,)), factor)
    finite = state_is_finite & jnp.all(jnp.isfinite(entries))
    blocks = jnp.moveaxis(numbers, 1, 0)[..., None, None]
    diagonal = jax.vmap(extend_passes, (0, 0, None))(passes.diagonal, blocks, finite)
    return BorderedPasses(diagonal, *jax.vmap(_sum_of_columns)(factor, before, other, now))


def finish_bordered(passes: BorderedPasses) -> BorderedProduct:
    """Return the product that passes have reached."""
    return BorderedProduct(jax.vmap(finish)(passes.diagonal), passes.column, passes.log_column)


@partial(jax.jit, static_argnames="estimate_error")
def bordered_product(
    system: System,
    *,
    estimate_error: bool,
    next_states: Float[Array, "steps n"] | None = None,
) -> BorderedProduct:
    """Multiply what is declared of all steps. `passes_along` says what `next_states` are."""
    num_passes = PASSES if estimate_error else 1
    start = start_bordered(num_passes, system.num_states, system.state.dtype)
    entries = partial(entries_of_step, system)

    def roughly(state, x, number):
        return rough(entries, mixed(number))(state, x)

    of_step = entries, roughly
    passes = passes_along(system, start, of_step, extend_bordered, num_passes, next_states)
    return finish_bordered(passes)
