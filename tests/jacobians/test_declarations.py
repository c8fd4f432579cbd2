"""Declared Jacobians are compared with the derivative of the step."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import Recurrence, lyapunov_spectrum, stack, trajectory, with_padding
from tests.contract_cells import reverse_tanh
from tests.networks import normal


def leak(params, carry, x):
    return params * carry * (1 + 0.1 * carry) + x


def blocks_of_leak(params, carry, x):
    del x
    return (params * (1 + 0.2 * carry))[None, None]


def matrix_of_leak(params, carry, x):
    return jnp.diag(blocks_of_leak(params, carry, x)[0, 0])


def run(**declared):
    system = Recurrence(leak, jnp.linspace(0.5, 0.9, 4), **declared)
    return trajectory(system, jnp.zeros(4), jnp.ones((3, 4)))


def reverse_leak(params, carry, x):
    return reverse_tanh(leak(params, carry, x))


def blocks_of_reverse_leak(params, carry, x):
    slope = 1 - jnp.tanh(leak(params, carry, x)) ** 2
    return slope[None, None] * blocks_of_leak(params, carry, x)


def test_what_is_declared_rightly_passes():
    run(unit_jacobians=blocks_of_leak, jacobian=matrix_of_leak)
    backward = Recurrence(reverse_leak, jnp.ones(4), unit_jacobians=blocks_of_reverse_leak)
    trajectory(stack(backward, backward), (jnp.ones(4), jnp.ones(4)), jnp.ones((3, 4)))


@pytest.mark.parametrize(
    ("declared", "match"),
    [
        (
            {"unit_jacobians": lambda *now: blocks_of_leak(*now).at[0, 0, 2].multiply(1.01)},
            "unit_jacobians: received another Jacobian .* entry 2 of the state at step 0",
        ),
        (
            # At the first state, which is zero, it is right.
            {"unit_jacobians": lambda params, *_: params[None, None]},
            "unit_jacobians: received another Jacobian .* at step 1",
        ),
        (
            {"jacobian": lambda *now: matrix_of_leak(*now).at[3, 1].set(0.01)},
            "jacobian: received another Jacobian .* entry 3 of the state at step 0",
        ),
        ({"jacobian": lambda *_: jnp.eye(3)}, r"jacobian: received shape \(3, 3\)"),
        (
            {"jacobian": lambda *now: matrix_of_leak(*now).astype(jnp.float32)},
            "jacobian: received float32",
        ),
        (
            {"unit_jacobians": lambda *_: (jnp.ones((1, 1, 2)), jnp.ones((1, 1, 3)))},
            r"unit_jacobians: received shapes \[\(1, 1, 2\), \(1, 1, 3\)\]",
        ),
    ],
)
def test_what_is_declared_wrongly_is_refused_and_the_place_named(declared, match):
    with pytest.raises((TypeError, ValueError), match=match):
        run(**declared)


def test_both_values_are_named():
    with pytest.raises(ValueError, match="unit_jacobians") as caught:
        run(unit_jacobians=lambda *now: blocks_of_leak(*now).at[0, 0, 2].multiply(2))
    found = re.search(r"through it is (\S+) at .* derivative of the step (\S+),", str(caught.value))
    declared, derived = map(float, found.groups())  # pyright: ignore[reportOptionalMemberAccess]
    assert declared == pytest.approx(2 * derived, rel=1e-4)


def seen_from_above(params, carry, x):
    """Let the lower unit see the upper one, which no stack does."""
    del params
    lower, upper = carry
    return 0.5 * lower + 0.1 * upper, 0.7 * upper + lower + 0 * x


def seen_from_below(params, carry, x):
    del params
    lower, upper = carry
    return 0.5 * lower, 0.7 * upper + lower + 0 * x


def backwards(step):
    """Return the step with reverse mode alone."""
    keep = jax.custom_vjp(lambda value: value)
    keep.defvjp(lambda value: (value, ()), lambda _, cotangent: (cotangent,))
    return lambda *now: jax.tree.map(keep, step(*now))


def blocks_of_two(params, carry, x):
    del params, carry, x
    return jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.7)


@pytest.mark.parametrize("change", [lambda step: step, backwards])
def test_layers_see_only_what_is_below_them(change):
    carry, xs = (jnp.ones(1), jnp.ones(1)), jnp.ones((3, 1))
    right = Recurrence(change(seen_from_below), (), unit_jacobians=blocks_of_two)
    exponents = lyapunov_spectrum(right, carry, xs).exponents
    np.testing.assert_allclose(exponents, np.log([0.7, 0.5]), atol=1e-14)
    wrong = Recurrence(change(seen_from_above), (), unit_jacobians=blocks_of_two)
    with pytest.raises(ValueError, match="units that see themselves alone, or layers below"):
        lyapunov_spectrum(wrong, carry, xs)


def test_units_that_see_each_other_are_refused_behind_padding_too():
    weights = jnp.asarray(normal(0, (4, 4)))

    def blocks(weights, carry, x):
        del carry, x
        return jnp.diag(weights)[None, None]

    system = Recurrence(lambda w, c, x: w @ c + x, weights, unit_jacobians=blocks)
    with pytest.raises(ValueError, match="unit_jacobians: received another Jacobian"):
        trajectory(system, jnp.ones(4), jnp.ones((3, 4)))
    inputs = (jnp.ones((3, 4)), jnp.ones(3, bool))
    with pytest.raises(ValueError, match="unit_jacobians: received another Jacobian"):
        trajectory(with_padding(system), jnp.ones(4), inputs)


def test_traced_values_are_not_compared():
    wrong = Recurrence(leak, jnp.ones(4), unit_jacobians=lambda *_: jnp.full((1, 1, 4), 7.0))
    carry, xs = jnp.zeros(4), jnp.ones((3, 4))
    states = jax.jit(lambda: trajectory(wrong, carry, xs))()
    traced = jax.jit(lambda system: trajectory(system, carry, xs))(wrong)
    np.testing.assert_array_equal(states, traced)


def test_saturated_closed_forms_in_float32_pass():
    def step(params, carry, x):
        return jnp.tanh(params * carry + x)

    def blocks(params, carry, x):
        return (params * (1 - jnp.tanh(params * carry + x) ** 2))[None, None]

    for size in (0.1, 5.0, 7.0, 9.0, 20.0):
        system = Recurrence(step, jnp.full(8, 2, jnp.float32), unit_jacobians=blocks)
        trajectory(system, jnp.zeros(8, jnp.float32), jnp.full((5, 8), size, jnp.float32))
