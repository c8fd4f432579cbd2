"""A recurrence with its carry and inputs, checked once and ravelled once.

Each public function binds its arguments to a `System`. The functions behind it work on flat arrays.
The state is one vector `(n,)`, and tangents and cotangents are rows `(k, n)`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from jacobian_rnn.cells.bordered_identity import BorderedIdentity
from jacobian_rnn.cells.recurrence import (
    ENDS,
    Recurrence,
    check_recurrence,
    last_array,
)
from jacobian_rnn.checks import check_count, check_finite, list_shapes, refuse
from jacobian_rnn.jacobians._declarations import check_declarations
from jacobian_rnn.jacobians.rough_functions import rough
from jacobian_rnn.jacobians.step_arguments import check_step
from jacobian_rnn.jacobians.traced_steps import (
    derivative_of,
    has_forward_mode,
    has_reverse_mode,
    pull_back,
)
from jacobian_rnn.jacobians.unit_places import (
    UnitPlaces,
    blocks_of,
    dense,
    places_of,
    sum_log_abs_dets,
)
from jacobian_rnn.linalg.graded_svd import matmul
from jacobian_rnn.linalg.rounding import PERTURBATION, mixed, rounding_factors

Method = Literal["auto", "forward", "reverse", "closed_form"]

START_ADVICE = (
    "a start value that is not finite has no derivative; a running maximum that starts at -inf "
    "can start at 0 instead, with a normaliser of 1"
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class System:
    """A recurrence at a state, with the inputs that it will see, as a pytree.

    Attributes:
        recurrence: the rule by which the carry moves.
        state: the carry, ravelled, `(n,)`.
        xs: inputs, `(time, ...)` each, or None for a system without input.
        num_steps: number of steps T. Static.
        unravel: function that turns a state into a carry. Static.
    """

    recurrence: Recurrence
    state: Float[Array, " n"]
    xs: PyTree
    num_steps: int = dataclasses.field(metadata={"static": True})
    unravel: Callable[[Array], PyTree] = dataclasses.field(metadata={"static": True})

    @property
    def num_states(self) -> int:
        """The size n of the state."""
        return self.state.shape[-1]

    @property
    def one_input(self) -> PyTree:
        """The shape and dtype of the input of one step."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.xs)

    @property
    def has_parts(self) -> bool:
        """Whether the closed form gives the Jacobian in parts, as a `GatedJacobian`."""
        return hasattr(self.recurrence.jacobian, "parts")

    @property
    def has_units(self) -> bool:
        """Whether each unit of the state is known to see itself alone."""
        return self.has_unit_layers and len(self.unit_places()) == 1

    @property
    def has_border(self) -> bool:
        """Whether the state is known to be a memory that one number keeps, and one more state."""
        layers = self.shapes_of_units() if self.has_unit_layers else ()
        return len(layers) == 1 and isinstance(layers[0], BorderedIdentity)

    @property
    def has_structure(self) -> bool:
        """Whether a product keeps the form of what is declared, and costs O(n) a step."""
        return self.has_units or self.has_border

    @property
    def has_unit_layers(self) -> bool:
        """Whether each unit is known to see itself, and at most the units of the layers below."""
        return self.recurrence.unit_jacobians is not None

    def step(self, state: Float[Array, " n"], x: PyTree) -> Float[Array, " n"]:
        """Return the next state.

        Matrix products have all bits of their dtype, also on devices that take fewer by default
        (TF32), unless the step asks for fewer.
        """
        with jax.default_matmul_precision("highest"):
            carry = self.recurrence.step(self.recurrence.params, self.unravel(state), x)
        return ravel_pytree(carry)[0]

    def jacobian(
        self, state: Float[Array, " n"], x: PyTree, method: Method = "auto"
    ) -> Float[Array, "n n"]:
        """Return ∂state'/∂state, rows as outputs."""
        if self.recurrence.jacobian is not None and method in ("auto", "closed_form"):
            with jax.default_matmul_precision("highest"):
                return self.recurrence.jacobian(self.recurrence.params, self.unravel(state), x)
        if self.has_structure and method == "auto":
            (declared,) = self.declared_units(state, x)
            return dense(declared)
        differentiate = {"auto": derivative_of, "reverse": jax.jacrev}.get(method, jax.jacfwd)
        return differentiate(self.step)(state, x)

    def unit_layers(self, state: Float[Array, " n"], x: PyTree) -> tuple[Array, ...]:
        """Return the Jacobians of the units of all layers, which may be one.

        A layer has `(c, c, units)`, or `(c, c, 1)` where one Jacobian is that of all its units.
        """
        return tuple(block for one in self.declared_units(state, x) for block in blocks_of(one))

    def unit_jacobians(self, state: Float[Array, " n"], x: PyTree) -> Float[Array, "c c _"]:
        """Return the Jacobian of every unit for itself, if `has_units`."""
        return self.unit_layers(state, x)[0]

    def unit_places(self) -> tuple[UnitPlaces, ...]:
        """Return where the units of all layers are in the state."""
        return tuple(place for one in self.shapes_of_units() for place in places_of(one))

    def shapes_of_units(self) -> tuple[Any, ...]:
        """Return the shapes of what is declared for the units of all layers."""
        return jax.eval_shape(self.declared_units, self.state, self.one_input)

    def declared_units(self, state: Float[Array, " n"], x: PyTree) -> tuple[Any, ...]:
        """Return what is declared for the units of all layers."""
        declared: Any = self.recurrence.unit_jacobians
        with jax.default_matmul_precision("highest"):
            layers = declared(self.recurrence.params, self.unravel(state), x)
        layers = layers if isinstance(layers, tuple) else (layers,)
        return jax.tree.map(jnp.asarray, layers)  # f and s of a border may be numbers

    def parts(self, state: Float[Array, " n"], x: PyTree) -> Any:
        """Return the parts of ∂state'/∂state, if `has_parts`."""
        closed_form: Any = self.recurrence.jacobian
        with jax.default_matmul_precision("highest"):
            return closed_form.parts(self.recurrence.params, self.unravel(state), x)

    def push(
        self, state: Float[Array, " n"], rows: Float[Array, "k n"], x: PyTree
    ) -> tuple[Float[Array, " n"], Float[Array, "k n"]]:
        """Return the next state, and tangents V pushed to it, V Jᵀ.

        A Jacobian is formed only if the step has no forward mode.
        """
        if has_forward_mode(self.step, state, x):
            state, differential = jax.linearize(lambda state: self.step(state, x), state)
            return state, jax.vmap(differential)(rows)
        return self.step(state, x), matmul(rows, self.jacobian(state, x).T)

    def pull(
        self, state: Float[Array, " n"], rows: Float[Array, "k n"], x: PyTree
    ) -> Float[Array, "k n"]:
        """Return cotangents of the next state, pulled back to this one: V J.

        No Jacobian is formed, unless the step has no reverse mode.
        """
        if not has_reverse_mode(self.step, state, x):
            return matmul(rows, self.jacobian(state, x))
        _, differential = jax.vjp(lambda state: self.step(state, x), state)
        return jax.vmap(lambda row: differential(row)[0])(rows)

    def pull_roughly(
        self,
        state: Float[Array, " n"],
        rows: Float[Array, "k n"],
        x: PyTree,
        number: Int[Array, ""],
        num_rough: int,
    ) -> Float[Array, "k n"]:
        """Pull cotangents back, the last of them with last digits changed.

        These are digits of the cotangents and of what the step's functions return. All share one
        product with each kernel, because a product with a few rows costs as much as with all.
        """
        num_exact = len(rows) - num_rough
        is_rough = (jnp.arange(len(rows)) >= num_exact).astype(rows.dtype)
        amount = PERTURBATION * is_rough[:, None]
        rows = rows * rounding_factors(number, rows.shape, rows.dtype, amount)
        if not has_reverse_mode(self.step, state, x):
            exact = matmul(rows[:num_exact], self.jacobian(state, x))
            changed = matmul(rows[num_exact:], self.rough_jacobian(state, x, number))
            return jnp.concatenate([exact, changed])

        def pull(row, roundings):
            return rough(self._pull_one, number, roundings)(state, row, x)

        return jax.vmap(pull)(rows, is_rough)

    def _pull_one(self, state, row, x):
        _, differential = jax.vjp(lambda state: self.step(state, x), state)
        return differential(row)[0]

    def rough_jacobian(
        self, state: Float[Array, " n"], x: PyTree, number: Int[Array, ""]
    ) -> Float[Array, "n n"]:
        """Return ∂state'/∂state with last digits changed of what the step's functions return."""
        return rough(self.jacobian, mixed(number))(state, x)

    def rough_unit_jacobians(
        self, state: Float[Array, " n"], x: PyTree, number: Int[Array, ""]
    ) -> Float[Array, "c c _"]:
        """Return the Jacobian of every unit for itself, with last digits changed likewise."""
        return rough(self.unit_jacobians, mixed(number))(state, x)

    def input_jacobian(self, state: Float[Array, " n"], x: Array) -> Float[Array, "n inputs"]:
        """Return ∂state'/∂x."""
        if self.has_parts:
            return self.parts(state, x).dense_input()
        return derivative_of(self.step, argnums=1)(state, x)

    def log_abs_det(self, state: Float[Array, " n"], x: PyTree) -> Float[Array, ""]:
        """Return log|det ∂state'/∂state|, nats."""
        if self.has_parts:
            return self.parts(state, x).log_abs_det()
        if self.has_unit_layers:
            return sum_log_abs_dets(self.unit_layers(state, x), self.unit_places())
        return jnp.linalg.slogdet(self.jacobian(state, x))[1]

    @property
    def shows_end(self) -> bool:
        """Whether the output is the end of the state, or all of it."""
        return self.recurrence.output in ENDS

    @property
    def shows_all(self) -> bool:
        """Whether the output is the state itself."""
        return self.shows_end and self.num_outputs == self.num_states

    @property
    def shows_last_half(self) -> bool:
        """Whether the output is the second half of the state, as h of an LSTM's (c, h)."""
        shows_array = self.recurrence.output == last_array
        return shows_array and 2 * self.num_outputs == self.num_states

    @property
    def num_outputs(self) -> int:
        """The size of what the recurrence shows of a state."""
        return jax.eval_shape(self.output, self.state).size

    def output(self, state: Float[Array, " n"]) -> Float[Array, " outputs"]:
        """Return what the recurrence shows of a state, ravelled."""
        return jnp.ravel(self.recurrence.output(self.unravel(state)))

    def params_share(self, state: Float[Array, " n"], row: Float[Array, " n"], x: PyTree) -> PyTree:
        """Return a cotangent of the next state, pulled back to the parameters of this step."""

        def new_state(params):
            return dataclasses.replace(
                self, recurrence=dataclasses.replace(self.recurrence, params=params)
            ).step(state, x)

        if not has_reverse_mode(new_state, self.recurrence.params):
            advice = "a loop of a fixed number of steps has one: lax.scan, or fori_loop with ints"
            received = "one without reverse mode, such as a lax.while_loop"
            refuse("step", received, "one that can be differentiated for its parameters", advice)
        return pull_back(new_state, self.recurrence.params, row)


def bind(recurrence: Recurrence, carry: PyTree, xs: PyTree, num_steps: int | None = None) -> System:
    """Check a recurrence, its carry and its inputs before anything runs, and bind them together.

    Raises:
        ValueError: structures, shapes or time axes that do not fit, or concrete values that are
            not finite.
        TypeError: not a `Recurrence`, or float dtypes that differ.
    """
    check_recurrence(recurrence)
    for path, leaf in jax.tree_util.tree_leaves_with_path(recurrence.params):
        if not hasattr(leaf, "dtype"):
            name, received = f"params{jax.tree_util.keystr(path)}", f"a {type(leaf).__name__}"
            refuse(name, received, "arrays", "wrap it in jnp.asarray", error=TypeError)
    carry, xs = jax.tree.map(jnp.asarray, (carry, xs))
    num_steps = _count_steps(xs, num_steps)
    _check_dtypes({"params": recurrence.params, "carry": carry, "xs": xs})
    check_finite("params", recurrence.params)
    check_finite("carry", carry, START_ADVICE)
    check_finite("xs", xs)
    if not jax.tree.leaves(carry):
        refuse("carry", "no arrays", "the initial state of the recurrence")
    if any(not jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(carry)):
        refuse("carry", list_shapes(carry), "floating-point arrays", error=TypeError)
    state, unravel = ravel_pytree(carry)
    system = System(recurrence, state, xs, num_steps, unravel)
    check_step(recurrence, carry, system.one_input)
    check_declarations(system)
    return system


def check_loss(loss: Any, system: System) -> None:
    """Raise a TypeError unless `loss` is a function of all states that returns a real scalar."""
    received = f"a {type(loss).__name__}"
    if callable(loss):
        shape = (system.num_steps + 1, system.num_states)
        value = jax.eval_shape(loss, jax.ShapeDtypeStruct(shape, system.state.dtype))
        if getattr(value, "shape", None) == () and jnp.issubdtype(value.dtype, jnp.floating):
            return
        received = f"one that returns {list_shapes(value)}"
    expected = "a function of the states (T + 1, n) that returns a real scalar"
    refuse("loss", received, expected, "such as lambda states: states[-1].sum()", error=TypeError)


def _count_steps(xs: PyTree, num_steps: int | None) -> int:
    leaves = jax.tree.leaves(xs)
    if num_steps is not None:
        check_count("num_steps", num_steps)
    if any(x.ndim == 0 for x in leaves):
        refuse("xs", "a scalar", "one sequence, time first: (time, inputs)")
    lengths = {int(x.shape[0]) for x in leaves}
    if len(lengths) > 1:
        refuse("xs", f"arrays of different lengths {sorted(lengths)}", "one time axis")
    if not lengths:
        if num_steps is None or num_steps < 0:
            refuse("num_steps", f"{num_steps} with xs=None", "how many steps to take")
        return int(num_steps)
    (length,) = lengths
    if num_steps is not None and num_steps != length:
        refuse("num_steps", f"{num_steps} with xs of {length} steps", "one of the two")
    return length


def _check_dtypes(trees: dict[str, PyTree]) -> None:
    dtypes: dict[Any, str] = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            where = name + jax.tree_util.keystr(path)
            if name == "carry" and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                advice = (
                    "hold a complex state as a pair of reals, (h.real, h.imag), which the step "
                    "joins and takes apart; parameters and inputs may be complex"
                )
                refuse(where, leaf.dtype, "real numbers", advice, error=TypeError)
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                # A complex number has the digits of its parts.
                dtypes.setdefault(jnp.finfo(leaf.dtype).dtype, where)
    if len(dtypes) > 1:
        found = ", ".join(f"{where} is {dtype}" for dtype, where in dtypes.items())
        advice = (
            "cast with jax.tree.map(lambda a: a.astype(dtype), tree); float64 also needs "
            'jax.config.update("jax_enable_x64", True), and Flax cells param_dtype (nnx.SimpleCell '
            "dtype too)"
        )
        refuse("dtypes", found, "one float dtype", advice, error=TypeError)
