"""One contract for every public function that takes a recurrence, and for every cell.

A new function is one line of `FUNCTIONS`, a new cell one line of `CELLS_OF_CONTRACT` in
`contract_cells`.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.monitoring import (
    register_event_duration_secs_listener,
    unregister_event_duration_listener,
)

import jacobian_rnn as jrnn
from tests.contract_cells import (
    CELLS_OF_CONTRACT,
    NUM_STEPS,
    UNKNOWN,
    WITHOUT_GATES,
    WITHOUT_ONE_KERNEL,
    Setting,
)
from tests.networks import NUM_INPUTS, mostly_slow


class Function(NamedTuple):
    """A function under contract.

    Attributes:
        call: `(recurrence, carry, xs) -> result`.
        shapes: of the result in a setting; a dict names those fields of the result that the
            contract looks at, where there are more.
        refused_by: cells for which it raises.
    """

    call: Callable[[jrnn.Recurrence, Any, Any], Any]
    shapes: Callable[[Setting], Any]
    refused_by: set[str] = set()  # noqa: RUF012


def loss(states):
    return jnp.sum(states[-1] ** 2)


def product(recurrence, carry, xs):
    result = jrnn.jacobian_product(recurrence, carry, xs)
    matrix, log_scale = result.dense()
    return result._asdict() | {
        "log_singular_values": result.log_singular_values(),
        "log_rms_growth": result.log_rms_growth(),
        "log_abs_det": result.log_abs_det(),
        "log_adjoint_growth": result.log_adjoint_growth(jnp.ones_like(matrix[0])),
        "matrix": matrix,
        "log_matrix_scale": log_scale,
        "log_error": result.log_error,
    }


def regime(recurrence, carry, xs):
    batch = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), xs)
    return jrnn.predict_regime(recurrence, carry, batch, horizon=3)


def padded(recurrence, carry, xs):
    active = jnp.arange(NUM_STEPS) > 1
    return jrnn.trajectory(jrnn.with_padding(recurrence), carry, (xs, active))


def searched(recurrence, carry, xs):
    carries = jax.tree.map(lambda a: jnp.stack([a, -a]), carry)
    x = jax.tree.map(lambda a: a[0], xs)
    return jrnn.fixed_points(recurrence, carries, x, max_iterations=30)


def linearized(recurrence, carry, xs):
    carries = jax.tree.map(lambda a: jnp.stack([a, -a]), carry)
    result = jrnn.linearize(recurrence, carries, jax.tree.map(lambda a: a[0], xs))
    # Vectors have a free phase, and conjugates differ by rounding alone.
    return {"exponents": result.exponents, "inputs": result.input_jacobian, "margin": result.margin}


def proportional(readout, output):
    return jax.tree.map(lambda leaf: leaf * jnp.mean(output), readout)


def looped(recurrence, carry, xs):
    loop = jrnn.closed_loop(recurrence, jax.tree.map(lambda a: a[0], xs), read=proportional)
    return jrnn.trajectory(loop, carry, None, num_steps=NUM_STEPS)


def shapes_of(tree):
    return jax.tree.map(jnp.shape, tree)


def of_states(now):
    return (NUM_STEPS + 1, now.n)


def of_params(now):
    return shapes_of(now.recurrence.params)


FUNCTIONS = {
    "trajectory": Function(jrnn.trajectory, of_states),
    "step_jacobians": Function(jrnn.step_jacobians, lambda now: (NUM_STEPS, now.n, now.n)),
    "state_gradients": Function(partial(jrnn.state_gradients, loss=loss), of_states),
    "parameter_gradients": Function(
        partial(jrnn.parameter_gradients, loss=loss),
        lambda now: {"total": of_params(now), "norms": (NUM_STEPS,)},
        {"dense_chain"},
    ),
    "jacobian_product": Function(
        product,
        lambda now: {
            "log_singular_values": (now.n,),
            "log_rms_growth": (),
            "log_abs_det": (),
            "log_adjoint_growth": (),
            "matrix": (now.n, now.n),
        },
    ),
    "log_singular_values_by_lag": Function(
        partial(jrnn.log_singular_values_by_lag, lags=[2, 0]), lambda now: (2, now.n)
    ),
    "leading_singular_values": Function(
        partial(jrnn.leading_singular_values, num=2),
        lambda now: {"log_singular_values": (2,), "right_vectors": (2, now.n)},
    ),
    "leading_singular_values_by_lag": Function(
        partial(jrnn.leading_singular_values_by_lag, num=2, lags=[1, 3]),
        lambda now: {"log_singular_values": (2, 2), "right_vectors": (2, 2, now.n)},
    ),
    "input_jacobians": Function(
        partial(jrnn.input_jacobians, lags=[1, 3]),
        lambda now: {"matrices": (2, now.n, NUM_INPUTS), "log_norms": (2,)},
        {"ConvLSTMCell", "dense_chain"},
    ),
    "lyapunov_spectrum": Function(
        partial(jrnn.lyapunov_spectrum, num_exponents=2, qr_every=1),
        lambda _: {"exponents": (2,), "history": (128, 2)},
    ),
    "covariant_vectors": Function(
        # Few steps do not settle: frames are compared, and not what they settle to.
        partial(jrnn.covariant_vectors, num_vectors=2, num_warmup=1, num_cooldown=1),
        lambda now: {"vectors": (2, now.n, 2), "exponents": (2,), "states": (2, now.n)},
    ),
    "finite_time_growth": Function(
        lambda *now: jrnn.finite_time_growth(
            *now, lags=[1, 2], key=jax.random.key(0), num_vectors=2
        ),
        lambda _: {"log_growth": (2, 2, 2)},
    ),
    "backward_profile": Function(
        partial(jrnn.backward_profile, key=jax.random.key(0), num_probes=2),
        lambda _: {"log_growth": (NUM_STEPS,), "rounding_error": (NUM_STEPS,)},
    ),
    "largest_exponent": Function(partial(jrnn.largest_exponent, num_warmup=1), lambda _: ()),
    "layer_profile": Function(
        partial(jrnn.layer_profile, key=jax.random.key(0), num_probes=2),
        lambda now: dict.fromkeys(
            ("log_growth", "sampling_error"),
            (len(getattr(now.recurrence.step, "steps", [1])), NUM_STEPS),
        ),
    ),
    "predict_regime": Function(
        regime,
        lambda _: {
            "log_growth": (2,),
            "log_growth_of_output": (2,),
            "interval": (2,),
            "profile": (2, NUM_STEPS),
            "peak": (2,),
            "exponent": (),
        },
    ),
    "fixed_points": Function(
        searched, lambda now: {"states": (2, now.n), "residuals": (2,), "speeds": (2,)}
    ),
    "linearize": Function(
        linearized,
        lambda now: {
            "exponents": (2, now.n),
            "inputs": (2, now.n, sum(leaf[0].size for leaf in jax.tree.leaves(now.xs))),
            "margin": (2,),
        },
    ),
    "zero_carry": Function(
        lambda recurrence, *_: jrnn.zero_carry(recurrence),
        lambda now: shapes_of(now.carry),
        UNKNOWN,
    ),
    "with_gain": Function(
        lambda recurrence, *_: jrnn.with_gain(recurrence, 0.5).params,
        of_params,
        WITHOUT_ONE_KERNEL,
    ),
    "with_gate_bias": Function(
        lambda recurrence, *_: jrnn.with_gate_bias(recurrence, "forget", 1.0).params,
        of_params,
        WITHOUT_GATES,
    ),
    "with_chrono_biases": Function(
        lambda recurrence, *_: (
            jrnn.with_chrono_biases(recurrence, 9.0, key=jax.random.key(0)).params
        ),
        of_params,
        WITHOUT_GATES,
    ),
    "with_padding": Function(padded, of_states),
    "closed_loop": Function(looped, of_states),
    "stack": Function(
        lambda recurrence, carry, xs: jrnn.trajectory(jrnn.stack(recurrence), (carry,), xs),
        of_states,
    ),
    "unstack": Function(
        lambda recurrence, carry, xs: jrnn.trajectory(
            *jrnn.unstack(jrnn.stack(recurrence)), carry, xs
        ),
        of_states,
    ),
}

# These compile for long: they run for one cell of each kind, and their shapes are checked for all.
HEAVY = {
    "covariant_vectors",
    "fixed_points",
    "jacobian_product",
    "leading_singular_values",
    "leading_singular_values_by_lag",
    "log_singular_values_by_lag",
    "input_jacobians",
    "lyapunov_spectrum",
    "predict_regime",
}
KINDS = {"GRUCell", "nnx OptimizedLSTMCell", "stack", "without forward mode"}

PAIRS = [
    (name, cell)
    for name, function in FUNCTIONS.items()
    for cell in CELLS_OF_CONTRACT
    if cell not in function.refused_by
]
TRACED = [(name, cell) for name, cell in PAIRS if cell == "GRUCell" or name == "trajectory"]
RUN = [(name, cell) for name, cell in PAIRS if name not in HEAVY or cell in KINDS]
QUICK = [(name, cell) for name, cell in RUN if name not in HEAVY and cell == "GRUCell"]
every_run = pytest.mark.parametrize(("name", "cell"), mostly_slow(RUN, QUICK))


@functools.cache
def setting(cell, seed=0, dtype=jnp.float64):
    return CELLS_OF_CONTRACT[cell](seed, dtype)


def looked_at(function, now, result):
    """Return what the contract of a function looks at, and the shapes that it should have."""
    shapes = function.shapes(now)
    if hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(shapes, dict) and isinstance(result, dict):
        result = {name: result[name] for name in shapes}
    return result, shapes


def total(function, now):
    """Add up all finite numbers that the contract looks at."""
    result, _ = looked_at(function, now, function.call(*now))
    leaves = jax.tree.leaves(result)
    return sum(jnp.sum(jnp.where(jnp.isfinite(leaf), leaf, 0)) for leaf in leaves)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_equal(result, expected):
    result, expected = (jax.tree_util.tree_leaves_with_path(tree) for tree in (result, expected))
    assert len(result) == len(expected)
    tolerance = 1e5 * np.finfo(float).eps
    for (path, one), (_, other) in zip(result, expected, strict=True):
        np.testing.assert_allclose(
            one, other, tolerance, tolerance, err_msg=jax.tree_util.keystr(path)
        )


@contextlib.contextmanager
def compilations():
    """Count what is compiled."""
    names = []

    def listen(event, seconds, **_):
        del seconds
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(event)

    register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        unregister_event_duration_listener(listen)


def test_every_public_function_of_a_recurrence_is_under_contract():
    public = [getattr(jrnn, name) for name in jrnn.__all__]
    of_recurrences = {
        one.__name__
        for one in public
        if inspect.isfunction(one) and next(iter(inspect.signature(one).parameters), "") in (
            "recurrence", "recurrences"
        )
    }  # fmt: skip
    # What reads the weights of a known cell has tests of its own, and makes nothing of others. A
    # residual block is a cell of the contract.
    assert of_recurrences - {"recurrent_kernels", "residual_block"} == set(FUNCTIONS)


@pytest.mark.parametrize(("name", "cell"), mostly_slow(PAIRS, TRACED))
@pytest.mark.parametrize("dtype", mostly_slow([jnp.float32, jnp.float64], [jnp.float32]))
def test_results_have_their_shapes_and_the_dtype_of_the_system(name, cell, dtype):
    function, now = FUNCTIONS[name], setting(cell, dtype=dtype)
    result = jax.eval_shape(function.call, *now)
    seen, shapes = looked_at(function, now, result)
    assert jax.tree.map(lambda leaf: leaf.shape, seen) == shapes
    leaves = jax.tree.leaves(result)
    floats = {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert floats == {jnp.dtype(dtype)}


@every_run
def test_other_numbers_compile_nothing_anew(name, cell):
    call = FUNCTIONS[name].call
    jax.block_until_ready(call(*setting(cell)))
    other = setting(cell, seed=1)
    with compilations() as compiled:
        jax.block_until_ready(call(*other))
    assert not compiled


@every_run
def test_compiled_and_mapped_over_networks_and_sequences_it_gives_what_plain_calls_give(name, cell):
    call, both = FUNCTIONS[name].call, [setting(cell), setting(cell, seed=1)]
    together = jax.jit(jax.vmap(call))(*stacked(both))
    assert_equal(together, stacked([call(*now) for now in both]))


@every_run
def test_its_derivative_with_respect_to_the_parameters_is_finite(name, cell):
    function, now = FUNCTIONS[name], setting(cell)
    # A chain of layers has its parameters among its inputs.
    field = "recurrence" if jax.tree.leaves(now.recurrence) else "xs"

    @jax.jit
    @jax.grad
    def differentiate(value):
        return total(function, now._replace(**{field: value}))

    for path, leaf in jax.tree_util.tree_leaves_with_path(differentiate(getattr(now, field))):
        assert np.all(np.isfinite(leaf)), path


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if FUNCTIONS[name].refused_by])
def test_it_refuses_a_cell_that_it_cannot_serve(name):
    for cell in FUNCTIONS[name].refused_by:
        with pytest.raises((TypeError, ValueError), match="received"):
            FUNCTIONS[name].call(*setting(cell))
