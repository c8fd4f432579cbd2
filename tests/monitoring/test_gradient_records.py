from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jacobian_rnn.monitoring import GradientRecord, gradient_metrics, record_gradients
from tests.networks import normal

PARAMS = {"kernel": jnp.zeros((3, 4), jnp.float32), "bias": jnp.zeros(4, jnp.float32)}


def gradient_of_size(size, seed=0):
    """Make a gradient of a norm, as numpy takes it in float64."""
    kernel, bias = normal(seed, (3, 4)), normal(seed + 1, 4)
    norm = np.sqrt(np.sum(kernel**2) + np.sum(bias**2))
    return {
        "kernel": jnp.asarray(kernel * (size / norm), jnp.float32),
        "bias": jnp.asarray(bias * (size / norm), jnp.float32),
    }


def fed(optimizer: Any, gradients: Any, params: Any = None) -> tuple[Any, Any]:
    params = PARAMS if params is None else params
    state, changes = optimizer.init(params), []
    for gradient in gradients:
        change, state = jax.jit(optimizer.update)(gradient, state, params)
        changes.append(change)
    return changes, state


@pytest.mark.parametrize("size", [1e-3, 0.999, 1.001, 7.0, 1e6])
def test_it_clips_as_optax_does(size):
    ours, _ = fed(record_gradients(1.0), [gradient_of_size(size)])
    theirs, _ = fed(optax.clip_by_global_norm(1.0), [gradient_of_size(size)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)
    assert (size < 1) == all(
        np.array_equal(a, b)
        for a, b in zip(*map(jax.tree.leaves, (ours[0], gradient_of_size(size))), strict=True)
    )


@pytest.mark.parametrize("size", [1e-30, 1e-21, 3e19, 2e25, 1e37])
def test_norms_are_right_where_squares_over_or_underflow(size):
    (change,), state = fed(record_gradients(1e-35), [gradient_of_size(size)])
    np.testing.assert_allclose(state.norm, size, rtol=1e-5)
    norm = np.sqrt(sum(np.sum(np.asarray(leaf, float) ** 2) for leaf in change.values()))
    np.testing.assert_allclose(norm, 1e-35, rtol=1e-5)


def test_clipped_and_nonfinite_updates_are_counted():
    bad = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), gradient_of_size(1.0))
    infinite = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.inf), gradient_of_size(1.0))
    sizes = [0.1, 3.0, 0.2, 5.0, 9.0]
    gradients = [*map(gradient_of_size, sizes), bad, infinite, gradient_of_size(0.5)]
    _, state = fed(record_gradients(1.0), gradients)
    metrics = gradient_metrics(state, prefix="g")
    assert set(metrics) == {
        f"g/{name}"
        for name in ("norm_before_clipping", "clipped_share", "num_nonfinite", "num_updates")
    }
    assert all(type(value) is float for value in metrics.values())
    np.testing.assert_allclose(metrics["g/norm_before_clipping"], 0.5, rtol=1e-6)
    assert metrics["g/clipped_share"] == 3 / 8
    assert metrics["g/num_nonfinite"] == 2
    assert metrics["g/num_updates"] == 8


def test_since_an_earlier_state_only_later_updates_count():
    optimizer: Any = optax.chain(record_gradients(1.0), optax.sgd(0.1))
    _, before = fed(optimizer, [gradient_of_size(5.0)] * 3)
    state = before
    for size in (5.0, 0.1, 0.1, 0.1):
        _, state = optimizer.update(gradient_of_size(size), state, params=PARAMS)
    assert gradient_metrics(state)["gradients/clipped_share"] == 4 / 7
    metrics = gradient_metrics(state, since=before)
    assert metrics["gradients/clipped_share"] == 1 / 4
    assert metrics["gradients/num_updates"] == 4
    assert np.isnan(gradient_metrics(state, since=state)["gradients/clipped_share"])


def test_without_a_norm_nothing_is_clipped_and_no_share_is_told():
    (change,), state = fed(record_gradients(), [gradient_of_size(100.0)])
    jax.tree.map(np.testing.assert_array_equal, change, gradient_of_size(100.0))
    assert "gradients/clipped_share" not in gradient_metrics(state)


NESTED = {
    "chain": lambda record: optax.chain(record, optax.adam(0.1)),
    "chain in chain": lambda record: optax.chain(optax.chain(record, optax.scale(2)), optax.sgd(1)),
    "apply_if_finite": lambda record: optax.apply_if_finite(optax.chain(record, optax.sgd(1)), 3),
    "masked": lambda record: optax.chain(optax.masked(record, {"kernel": True, "bias": True})),
    "MultiSteps": lambda record: optax.MultiSteps(optax.chain(record, optax.sgd(0.1)), 1),
    "inject_hyperparams": lambda record: optax.chain(
        record, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    ),
    "schedule_free": lambda record: optax.chain(record, optax.contrib.schedule_free_sgd(0.1)),
    "lookahead": lambda record: optax.chain(record, optax.adamw(0.1, weight_decay=0.1)),
}  # fmt: skip


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", NESTED)
def test_it_is_found_in_the_state_of_any_optimiser(name):
    optimizer = NESTED[name](record_gradients(1.0))
    _, state = fed(optimizer, [gradient_of_size(4.0), gradient_of_size(0.5)])
    metrics = gradient_metrics(state)
    np.testing.assert_allclose(metrics["gradients/norm_before_clipping"], 0.5, rtol=1e-6)
    assert metrics["gradients/clipped_share"] == 0.5


def test_parts_of_the_parameters_have_records_of_their_own():
    optimizer: Any = optax.partition(
        {"slow": optax.chain(record_gradients(1.0), optax.sgd(0.1)), "fast": record_gradients(9.0)},
        {"kernel": "slow", "bias": "fast"},
    )
    gradient = gradient_of_size(8.0)
    _, state = fed(optimizer, [gradient])
    metrics = gradient_metrics(state)
    norms = {name: np.linalg.norm(np.asarray(leaf)) for name, leaf in gradient.items()}
    found = {metrics[f"gradients_{i}/norm_before_clipping"] for i in (0, 1)}
    np.testing.assert_allclose(sorted(found), sorted(norms.values()), rtol=1e-6)
    assert {metrics[f"gradients_{i}/clipped_share"] for i in (0, 1)} == {0.0, 1.0}


def test_nonfinite_updates_are_counted_and_skipped_where_apply_if_finite_comes_after():
    optimizer: Any = optax.chain(record_gradients(1.0), optax.apply_if_finite(optax.sgd(1.0), 5))
    bad = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), gradient_of_size(1.0))
    (_, change), state = fed(optimizer, [gradient_of_size(0.5), bad])
    assert all(np.all(leaf == 0) for leaf in change.values())
    assert gradient_metrics(state)["gradients/num_nonfinite"] == 1


SIZES = np.array([0.125, 2.0, 3e38], np.float32)


def test_its_state_keeps_its_structure_in_a_scan_for_16_bits_and_integers_too():
    params = {"half": jnp.zeros(3, jnp.bfloat16), "count": jnp.zeros(2, jnp.int32), "none": None}
    optimizer: Any = record_gradients(1.0)

    def update(state, size):
        gradient = {
            "half": jnp.full(3, size, jnp.bfloat16),
            "count": jnp.ones(2, jnp.int32),
            "none": None,
        }
        change, state = optimizer.update(gradient, state)
        return state, change

    state, changes = jax.lax.scan(
        update, optimizer.init(params), jnp.array([0.125, 2.0, 3e38], "f")
    )
    assert changes["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(changes["count"], 1)
    np.testing.assert_allclose(np.asarray(changes["half"][1], float), 3**-0.5, rtol=0.01)
    assert state.num_clipped + state.num_nonfinite == 2
    assert state.norm.dtype == jnp.float32


def test_a_gradient_in_float64_is_recorded_in_float64():
    params = jnp.zeros(2)
    _, state = fed(record_gradients(), [jnp.array([3e200, 4e200])], params)
    np.testing.assert_allclose(state.norm, 5e200, rtol=1e-15)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match=r"without a GradientRecord, .* chain record_gradients"):
        gradient_metrics(optax.adam(0.1).init(PARAMS))
    state: Any = record_gradients(1.0).init(PARAMS)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    with pytest.raises(ValueError, match=r"a state of \(2,\) networks, .* leaf\[i\]"):
        gradient_metrics(many)
    np.testing.assert_equal(
        gradient_metrics(jax.tree.map(lambda leaf: leaf[1], many)), gradient_metrics(state)
    )
    with pytest.raises(ValueError, match="since: received a state with 2 records, expected 1"):
        gradient_metrics(state, since=(state, state))
    with pytest.raises(TypeError, match=r"a traced state, .* comes back from jit"):
        jax.jit(gradient_metrics)(state)
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="max_norm: received"):
            record_gradients(bad)


def test_it_is_a_named_tuple_that_optax_finds_by_its_fields():
    state: Any = optax.chain(record_gradients(1.0), optax.adam(0.1)).init(PARAMS)
    assert isinstance(state[0], GradientRecord)
    assert optax.tree.get(state, "num_clipped") == 0
