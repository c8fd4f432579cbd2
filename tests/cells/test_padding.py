import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    Recurrence,
    align_ends,
    jacobian_product,
    parameter_gradients,
    predict_regime,
    step_jacobians,
    trajectory,
    with_padding,
    zero_carry,
)
from tests.networks import mostly_slow

LENGTHS = [12, 7, 9]


@pytest.fixture(params=mostly_slow(["GRUCell", "LSTMCell", "ConvLSTMCell"], ["LSTMCell"]))
def batch(request, network):
    recurrence, carry, xs = network(request.param, 3 if request.param != "ConvLSTMCell" else 1)
    key = jax.random.key(3)
    padded = jnp.stack([xs, *(jax.random.normal(k, xs.shape) for k in jax.random.split(key))])
    return recurrence, carry, padded


def test_padded_sequences_have_the_products_of_their_real_steps(batch):
    recurrence, carry, xs = batch
    moved, active = align_ends(xs, LENGTHS)
    for i, length in enumerate(LENGTHS):
        inputs = moved[i], active[i]
        alone = jacobian_product(recurrence, carry, xs[i, :length])
        padded = jacobian_product(with_padding(recurrence), carry, inputs)
        np.testing.assert_allclose(
            padded.log_singular_values(), alone.log_singular_values(), atol=1e-9
        )
        last = trajectory(with_padding(recurrence), carry, inputs)[-1]
        np.testing.assert_allclose(
            last, trajectory(recurrence, carry, xs[i, :length])[-1], atol=1e-14
        )
        idle = step_jacobians(with_padding(recurrence), carry, inputs)[: 12 - length]
        np.testing.assert_array_equal(idle, np.broadcast_to(np.eye(last.size), idle.shape))


@pytest.mark.slow
def test_padding_is_never_read(network):
    recurrence, carry, xs = network("GRUCell", 4)
    xs = jnp.stack([xs, xs[::-1], 2 * xs])
    options = {"horizon": 6, "seq_lengths": LENGTHS}
    one = predict_regime(recurrence, carry, xs, **options)
    other = predict_regime(recurrence, carry, xs.at[1, 7:].set(50.0), **options)
    np.testing.assert_array_equal(one.log_growth, other.log_growth)
    assert one.exponent == other.exponent


@pytest.mark.slow
def test_a_prediction_of_padded_sequences_looks_back_from_their_ends(network):
    recurrence, carry, xs = network("LSTMCell", 4)
    xs = jnp.stack([xs, xs[::-1], 2 * xs])
    prediction = predict_regime(recurrence, carry, xs, horizon=6, seq_lengths=LENGTHS)
    unravel = ravel_pytree(carry)[1]
    for i, length in enumerate(LENGTHS):
        states = trajectory(recurrence, carry, xs[i])
        start = unravel(states[length - 6])
        product = jacobian_product(recurrence, start, xs[i, length - 6 : length])
        assert float(prediction.log_growth[i]) == pytest.approx(
            float(product.log_rms_growth()), abs=1e-10
        )
    full = predict_regime(recurrence, carry, xs, horizon=6, seq_lengths=[12, 12, 12])
    plain = predict_regime(recurrence, carry, xs, horizon=6)
    np.testing.assert_allclose(full.log_growth, plain.log_growth, atol=1e-12)
    assert float(full.exponent) == pytest.approx(float(plain.exponent), abs=1e-12)


@pytest.mark.parametrize(
    ("lengths", "error", "match"),
    [
        ([13, 7, 9], ValueError, r"seq_lengths\[0\]: received 13 .* expected 1 to 12"),
        ([12, 0, 9], ValueError, r"seq_lengths\[1\]: received 0"),
        ([12, 7], ValueError, r"received shape \(2,\) for 3 sequences"),
        ([12.0, 7.0, 9.0], TypeError, "expected integers"),
        ([12, 5, 9], ValueError, "horizon: received 6, expected 1 to 5"),
    ],
)
def test_lengths_beyond_the_data_are_named(network, lengths, error, match):
    recurrence, carry, xs = network("GRUCell", 2)
    with pytest.raises(error, match=match):
        predict_regime(recurrence, carry, jnp.stack([xs] * 3), horizon=6, seq_lengths=lengths)
    with pytest.raises(TypeError, match="expected a Recurrence"):
        with_padding(recurrence.step)


def test_gradients_of_padded_sequences_are_finite_where_padding_is_out_of_range():
    system = Recurrence(lambda p, c, x: c + p * jnp.log(x), jnp.array(2.0))
    xs = jnp.array([[[2.0], [4.0], [0.0]]])
    moved, active = align_ends(xs, [2])
    result = parameter_gradients(
        with_padding(system), jnp.zeros(1), (moved[0], active[0]), lambda s: s[-1].sum()
    )
    assert float(result.total) == pytest.approx(np.log(8), rel=1e-12)


def test_batches_that_do_not_belong_together_are_refused(network):
    with pytest.raises(ValueError, match=r"xs: received .* expected arrays of one shape"):
        align_ends({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 5))}, [2, 3])
    with pytest.raises(ValueError, match=r"xs: received .* expected arrays of one shape"):
        align_ends(jnp.ones(3), [2])
    with pytest.raises(TypeError, match="seq_lengths: received a traced array"):
        jax.jit(lambda lengths: align_ends(jnp.ones((2, 3)), lengths))(jnp.array([1, 2]))
    recurrence, carry, xs = network("LSTMCell", 3)
    jax.tree.map(
        np.testing.assert_array_equal,
        zero_carry(with_padding(recurrence)),
        jax.tree.map(jnp.zeros_like, carry),
    )
    batched = jax.tree.map(lambda c: jnp.stack([c, c]), carry)
    with pytest.raises(ValueError, match=r"carry: .* with a batch axis"):
        jacobian_product(with_padding(recurrence), batched, (xs, jnp.ones(12, bool)))
