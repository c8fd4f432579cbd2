import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import Recurrence, from_linen, jacobian_product
from tests.networks import normal, random_variables


def network(num_steps=50):
    cell = nn.LSTMCell(4, param_dtype=jnp.float64)
    xs = jnp.asarray(normal(0, (num_steps, 3)))
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    return from_linen(cell, random_variables(cell, carry, xs[0])), carry, xs


@pytest.mark.parametrize("blocks", [2, 3, 8])
def test_blocks_of_time_give_the_product_of_all_steps(blocks):
    whole, cut = jacobian_product(*network()), jacobian_product(*network(), blocks=blocks)
    allowed = float(whole.log_error + cut.log_error)
    assert allowed < 1e-8
    np.testing.assert_allclose(cut.log_singular_values(), whole.log_singular_values(), atol=allowed)
    np.testing.assert_allclose(cut.dense()[0], whole.dense()[0], atol=1e-11)
    assert int(cut.num_steps) == 50


def test_blocks_have_the_derivatives_of_one():
    system, carry, xs = network(12)

    def log_norm(params, blocks):
        moved = Recurrence(system.step, params, system.jacobian)
        product = jacobian_product(moved, carry, xs, blocks=blocks, estimate_error=False)
        return product.log_norm()

    whole, cut = (jax.grad(log_norm)(system.params, blocks) for blocks in (1, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), cut, whole)


def test_what_is_not_finite_keeps_its_step():
    def step(matrices, carry, x):
        return x * (matrices @ carry)

    system, xs = Recurrence(step, jnp.eye(3)), jnp.ones((20, 1)).at[13].set(jnp.inf)
    xs = jnp.where(jnp.isinf(xs), 1e308, xs)
    cut = jacobian_product(system, jnp.full(3, 1e10), xs, blocks=3)
    assert int(cut.first_nonfinite_step) == 13


def test_numbers_of_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="blocks: received 51, expected 1 to 50"):
        jacobian_product(*network(), blocks=51)


def test_several_devices_give_what_one_gives():
    code = """
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from jacobian_rnn import jacobian_product
from tests.products.test_time_blocks import network
assert len(jax.devices()) == 4
one = jacobian_product(*network())
for blocks in (4, 6, 8):
    several = jacobian_product(*network(), blocks=blocks)
    error = np.abs(several.log_singular_values() - one.log_singular_values()).max()
    assert error <= float(one.log_error + several.log_error) < 1e-8, error
text = jax.jit(lambda *now: jacobian_product(*now, blocks=4)).lower(*network()).compile().as_text()
assert "num_partitions=4" in text
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
