"""Whether a step, a backward rule, a closed form or Jacobians of yours are right, and what is not.

The judge is the step itself, whose values are taken at neighbouring states. No rule of
differentiation is believed: a `custom_vjp` can be wrong as well as a closed form.
"""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from jacobian_rnn.cells.recurrence import check_recurrence
from jacobian_rnn.checks import check_finite, check_shape, refuse
from jacobian_rnn.jacobians._faults import (
    FAULTS,
    VARIANTS_OF_PRODUCT,
    VARIANTS_OF_STEPS,
    arrays_at,
    compare,
    dense_product,
    judge,
    names_of,
    sizes_of,
)
from jacobian_rnn.jacobians.system import System, bind
from jacobian_rnn.jacobians.time_loop import along, states_of
from jacobian_rnn.jacobians.traced_steps import has_reverse_mode, rounding_of_step
from jacobian_rnn.linalg.graded_svd import scaled_norm
from jacobian_rnn.linalg.rounding import CAUTION


class GradientCheck(NamedTuple):
    """What `check_gradients` found. `print` it for a summary.

    Attributes:
        fault: "none", "backward rule" (a `custom_vjp` or `custom_jvp` in the step), "missing
            state", "transposed", "reversed order", or "wrong values".
        source: what has the fault: "step", "jacobian", "unit_jacobians", "jacobians" or "product".
            "step" where there is none.
        detail: the arrays of the carry that are concerned, in words.
        step: at which the difference is largest, −1 without a fault. 0 for a product.
        row: entry of the new state where it is largest, −1 without a fault, or where shapes differ.
        column: entry of the old state.
        received: the derivative there as it was declared, or as JAX takes it; NaN as above.
        expected: the derivative there.
        excess: the largest difference over what rounding explains. Below 1 there is no fault. It is
            that of what has the fault, or else the largest of all.
        log_norm: log ‖Pᵀv‖ for a random v of norm one, nats, by what was checked: the declared
            Jacobians, or else those that JAX takes. NaN where shapes differ.
        log_norm_by_backpropagation: the same by `jax.grad` through the scan over all steps. NaN
            where the step has no reverse mode.
        num_kinks: number of entries of step Jacobians that are not judged, because the step has a
            kink or a jump there.
    """

    fault: str
    source: str
    detail: str
    step: int
    row: int
    column: int
    received: float
    expected: float
    excess: float
    log_norm: float
    log_norm_by_backpropagation: float
    num_kinks: int

    @property
    def passed(self) -> bool:
        """Whether no fault was found."""
        return self.fault == "none"

    def __str__(self) -> str:
        """Say what was found in a few lines."""
        norms = (
            f"log ‖Pᵀv‖ = {self.log_norm:.6g} nats; by jax.grad through the scan "
            f"{self.log_norm_by_backpropagation:.6g}"
        )
        kinks = f"{self.num_kinks} entries at kinks are not judged" if self.num_kinks else ""
        if self.passed:
            said = f"gradients are right: largest difference {self.excess:.2g} of what is allowed"
            return "\n".join(filter(None, (said, norms, kinks)))
        said = [f"{self.source}: {self.fault}: {FAULTS[self.fault]}", self.detail]
        if self.row >= 0:
            said.append(
                f"worst at step {self.step}, row {self.row}, column {self.column}: received "
                f"{self.received:.6g}, expected {self.expected:.6g}"
            )
        return "\n".join(filter(None, (*said, norms, kinks)))


def check_gradients(
    network: Any,
    carry: PyTree,
    xs: PyTree,
    *,
    jacobians: Any = None,
    product: Any = None,
    num_steps: int | None = None,
) -> GradientCheck:
    """Check the gradients of a step of yours, and the Jacobians that you give for it.

    At each step the derivative that JAX takes is compared with differences of the step's values at
    neighbouring states, which finds a wrong `custom_vjp`. What is declared is then compared with
    the derivative: the `jacobian` and the `unit_jacobians` of the recurrence, and Jacobians or a
    product of your own. A wrong one is compared with what usual mistakes make.

    Args:
        network: a `Recurrence`, or a `training.Network`, whose recurrence is checked.
        carry: initial carry, without batch axis. Zeros hide mistakes; take random numbers.
        xs: one sequence, `(time, ...)`, or None for a system without input.
        jacobians: your own step Jacobians, `(T, n, n)`, in place of declared ones.
        product: your own product of all of them, `(n, n)`.
        num_steps: number of steps T where `xs` is None.

    Returns:
        What was found. Nothing is raised for a wrong derivative.

    Raises:
        ValueError: no steps, shapes that do not fit, values that are not finite, or both jacobians
            and product.
        TypeError: traced values, or float dtypes that differ.

    Cost: 2n steps for each step, and memory T n² for a few sets of Jacobians: take a small network
    and few steps. Differences of values are good to 1e-6 in float64 and to 3e-3 in float32. What is
    declared is compared to 1e-8 and 3e-4. A straight-through estimator is called a wrong backward
    rule, as it is one on purpose. The `unit_jacobians` of a stack of layers are not looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> from jacobian_rnn import Recurrence
        >>> def step(w, h, x):
        ...     return jnp.tanh(w @ h + x)
        >>> def jacobian(w, h, x):
        ...     return ((1 - step(w, h, x) ** 2)[:, None] * w).T  # should not be transposed
        >>> system = Recurrence(step, jnp.array([[0.5, 1.0], [0.0, 0.5]]), jacobian)
        >>> found = check_gradients(system, jnp.array([0.1, 0.2]), jnp.ones((5, 2)))
        >>> print(found.fault, found.source, found.step)
        transposed jacobian 0
    """
    recurrence = getattr(network, "recurrence", network)
    check_recurrence(recurrence)
    if jacobians is not None and product is not None:
        refuse("product", "one beside jacobians", "one of the two")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((recurrence, carry, xs))):
        advice = "call it outside jit, vmap and grad"
        refuse("network", "traced values", "numbers", advice, error=TypeError)
    plain = dataclasses.replace(recurrence, jacobian=None, unit_jacobians=None)
    system = bind(plain, carry, xs, num_steps)
    if system.num_steps < 1:
        refuse("xs", "no steps", "at least one step to differentiate")
    finite = np.isfinite(np.asarray(states_of(system))).all(axis=1)
    if not finite.all():
        received = f"NaN or infinity after step {int(np.argmin(finite)) - 1}"
        refuse("states", received, "finite states", "take fewer steps, or mend the step")
    names = names_of(jax.tree.map(jnp.asarray, carry))
    taken, differences, is_known = map(np.asarray, _differentiate(system))
    num_kinks = int(np.sum(~is_known))
    coarse = float(jnp.finfo(system.state.dtype).eps) ** 0.375
    # Values are of order one, and so are their differences. NaN is judged at a kink, too.
    judged = np.where(is_known | ~np.isfinite(taken), taken, differences)
    of_rule = compare(judged, differences, coarse * (1 + sizes_of(differences)))
    log_norm = partial(_log_norm, v=_direction(system.num_states))
    by_backpropagation = _log_norm_by_backpropagation(system, _direction(system.num_states))

    def result(source, found, norm):
        step, row, column = found.place
        return GradientCheck(
            found.fault, source, found.detail, step, row, column, found.received, found.expected,
            found.excess, norm, by_backpropagation, num_kinks,
        )  # fmt: skip

    if of_rule.excess > 1:
        found = of_rule._replace(fault="backward rule", detail=arrays_at(of_rule.place, names))
        return result("step", found, log_norm(taken))
    fine = math.sqrt(rounding_of_step(system.step, system.state, system.one_input))
    judge_steps = partial(judge, truth=taken, names=names, tolerance=fine)
    # A slope 1 − h² is rounded as numbers of order one are.
    of_slopes = CAUTION * float(jnp.finfo(system.state.dtype).eps)
    given = _declared(system, recurrence, jacobians)
    worst = of_rule._replace(fault="none", detail="")
    norm = log_norm(taken)
    for source, declared in given.items():
        found = judge_steps(
            declared, make=lambda steps: steps, variants=VARIANTS_OF_STEPS, least=of_slopes
        )
        norm = log_norm(declared) if declared.shape == taken.shape else math.nan
        if found.fault != "none":
            return result(source, found, norm)
        worst = max(worst, found, key=lambda one: one.excess)
    if product is not None:
        matrix = _checked("product", product, ("n", "n"))
        if not np.any(dense_product(taken)) and math.isfinite(norm):
            received = f"one of {system.num_steps} steps, which is e^{norm:.0f}"
            refuse("product", received, "a product within the range of floats", "take fewer steps")
        found = judge_steps(
            matrix[None], make=dense_product, variants=VARIANTS_OF_PRODUCT, least=0.0
        )
        norm = log_norm(matrix[None]) if matrix.shape == taken.shape[1:] else math.nan
        return result("step" if found.fault == "none" else "product", found, norm)
    return result("step", worst._replace(place=(-1, -1, -1)), norm)


@jax.jit
def _differentiate(system: System):
    """Return step Jacobians as JAX takes them, and as differences of values, and what is known."""
    states = states_of(system)[:-1]
    n, dtype = system.num_states, system.state.dtype
    # A power of two, so that little is rounded when it is added.
    width = 2.0 ** round(math.log2(float(jnp.finfo(dtype).eps)) / 3)
    can_reverse = has_reverse_mode(system.step, system.state, system.one_input)

    def of_step(moment):
        state, x = moment
        taken = (jax.jacrev if can_reverse else jax.jacfwd)(system.step)(state, x)
        widths = width * jnp.maximum(1, jnp.abs(state))
        here = system.step(state, x)

        def column(i):
            above, below = (state.at[i].add(sign * widths[i]) for sign in (1, -1))
            up = (system.step(above, x) - here) / (above[i] - state[i])
            down = (here - system.step(below, x)) / (state[i] - below[i])
            return (up + down) / 2, jnp.abs(up - down)

        columns, bends = jax.vmap(column)(jnp.arange(n))
        is_bent = bends > 30 * width * (1 + jnp.max(jnp.abs(columns)))
        return taken, columns.T, ~is_bent.T

    return jax.lax.map(of_step, (states, system.xs))


def _declared(system, recurrence, jacobians) -> dict[str, np.ndarray]:
    """Return all Jacobians that are declared, `(T, m, m)`, where m should be n."""
    num_steps = system.num_steps
    if jacobians is not None:
        return {"jacobians": _checked("jacobians", jacobians, (num_steps, "n", "n"))}
    forms, form = {}, recurrence.jacobian
    if form is not None:

        def dense(state, x):  # not `System.jacobian`, which takes its shape for granted
            with jax.default_matmul_precision("highest"):
                return form(recurrence.params, system.unravel(state), x)

        forms["jacobian"] = dense
    units = dataclasses.replace(recurrence, jacobian=None)
    units = dataclasses.replace(system, recurrence=units)
    if units.has_structure:
        forms["unit_jacobians"] = units.jacobian
    states = states_of(system)[:-1]
    return {
        name: _checked(
            name,
            jax.vmap(form, axis_size=num_steps)(states, system.xs),
            (num_steps, "n", "n"),
        )
        for name, form in forms.items()
    }


def _checked(name, values, shape) -> np.ndarray:
    check_shape(name, np.shape(values), shape, "new states by old ones, as the carry is ravelled")
    matrices = np.asarray(values)
    if matrices.shape[-1] != matrices.shape[-2]:
        refuse(name, f"shape {matrices.shape}", "square matrices")
    check_finite(name, jnp.asarray(matrices))
    return matrices


def _direction(num_states: int) -> np.ndarray:
    v = np.random.default_rng(0).standard_normal(num_states)
    return v / np.linalg.norm(v)


def _log_norm(jacobians: np.ndarray, v: np.ndarray) -> float:
    """Pull v back through matrices, the last one first, and return the log of its norm."""
    total = 0.0
    for jacobian in jacobians[::-1].astype(float):
        v = jacobian.T @ v
        norm = float(np.linalg.norm(v))
        if norm == 0:
            return -math.inf
        total, v = total + math.log(norm), v / norm
    return total


def _log_norm_by_backpropagation(system: System, v: np.ndarray) -> float:
    if not has_reverse_mode(system.step, system.state, system.one_input):
        return math.nan

    @jax.jit
    @jax.grad
    def pulled(state):
        def visit(_, now):
            return system.step(now.state, now.x), None, None

        last, _, _ = along(dataclasses.replace(system, state=state), visit, None)
        return last @ jnp.asarray(v, last.dtype)

    with np.errstate(divide="ignore"):
        return float(np.log(float(scaled_norm(pulled(system.state)))))
