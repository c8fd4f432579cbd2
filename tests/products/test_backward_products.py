"""Products from the last step to the first: the same ones, and what is known of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import Recurrence, jacobian_product, product_of
from tests.products.product_zoo import kinds


def test_a_product_is_the_same_backwards():
    jacobians = np.random.default_rng(5).normal(size=(60, 4, 4))
    forward, back = (product_of(jacobians, backwards=order) for order in (False, True))
    assert not np.array_equal(forward.right, back.right)
    np.testing.assert_allclose(
        back.log_singular_values(), forward.log_singular_values(), atol=1e-11
    )
    np.testing.assert_allclose(back.dense()[0], forward.dense()[0], atol=1e-11)
    rows = np.random.default_rng(6).normal(size=(2, 4))
    np.testing.assert_allclose(
        back.log_growth_through(rows), forward.log_growth_through(rows), atol=1e-11
    )
    # It composes with others, before and after it.
    around = product_of(np.concatenate([jacobians] * 3))
    np.testing.assert_allclose(
        (forward @ back @ forward).log_singular_values(), around.log_singular_values(), atol=1e-10
    )


def test_steps_are_numbered_in_the_order_of_time_backwards_too():
    jacobians = np.random.default_rng(7).normal(size=(20, 3, 3))
    jacobians[4] = np.outer([1 / 3, 0.7, 0.1], [0.3, 1.1, 0.9])  # of rank one, but for rounding
    broken = jacobians.copy()
    broken[[9, 12], 0, 0] = np.nan
    for order in (False, True):
        multiply = functools.partial(product_of, backwards=order)
        assert int(multiply(jacobians).first_lost_step) == 4
        assert int(jax.jit(multiply)(broken).first_nonfinite_step) == 9


def test_states_that_overflow_are_seen_backwards_too():
    doubling = Recurrence(lambda params, carry, x: jax.nn.relu(params * carry) * x, jnp.float32(2))
    for order in (False, True):
        product = jacobian_product(
            doubling, jnp.ones(2, jnp.float32), jnp.ones((200, 2), jnp.float32), backwards=order
        )
        assert int(product.first_nonfinite_step) == 127


@pytest.mark.parametrize("is_later", [False, True])
@pytest.mark.parametrize(
    ("dtype", "small", "smaller", "large"),
    [(jnp.float32, 1e-25, 1e-30, 1e10), (jnp.float64, 1e-180, 1e-200, 1e100)],
)
def test_what_was_cut_from_a_backward_product_is_known_in_compositions(
    dtype, small, smaller, large, is_later
):
    grown = product_of(jnp.asarray(np.array([np.diag([1, large])] * 5), dtype))
    cut = np.array([[[1, small], [0, smaller]]])
    cut = product_of(
        jnp.asarray(cut if is_later else cut.transpose(0, 2, 1), dtype), backwards=True
    )
    assert np.isinf((cut @ grown if is_later else grown @ cut).log_error)


def test_a_product_that_is_known_to_be_singular_is_not_replaced():
    # The second direction is exactly zero from the start, and one-way coupling loses digits.
    jacobians, _ = one_way_gates()
    jacobians = np.pad(jacobians, [(0, 0), (0, 1), (0, 1)])
    assert product_of(jacobians).log_singular_values()[-1] == -np.inf


def test_products_along_a_trajectory_that_lose_digits_forwards_are_multiplied_backwards():
    def driven(params, carry, matrix):
        del params
        return matrix @ carry

    def product(**order):
        return jacobian_product(Recurrence(driven, ()), jnp.zeros(5), jacobians, **order)

    # Gates of very different rates, and strong coupling one way.
    jacobians, exact = one_way_gates()
    error = np.abs(np.asarray(product(backwards=False).log_singular_values()) - exact).max()
    assert error > 1
    assert float(product(backwards=False).log_error) > 1
    chosen = product()
    np.testing.assert_allclose(chosen.log_singular_values(), exact, atol=1e-9)
    assert float(chosen.log_error) < 1e-9
    given = product_of(jacobians, backwards=True)
    np.testing.assert_allclose(
        given.log_singular_values(), chosen.log_singular_values(), atol=1e-12
    )


def one_way_gates():
    [kind] = [kind for kind in kinds() if kind.name == "triangular gates, 0.1"]
    return kind.draw(np.random.default_rng(1))


def test_blocks_are_not_multiplied_backwards():
    with pytest.raises(ValueError, match="True with 4 blocks, expected blocks=1"):
        jacobian_product(
            Recurrence(lambda matrix, carry, _: matrix @ carry, jnp.eye(2)),
            jnp.ones(2),
            None,
            num_steps=8,
            blocks=4,
            backwards=True,
        )
