import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import jacobian_rnn as jrnn
from jacobian_rnn.cells import slopes
from tests.networks import make_network, normal

POINTS = np.array([-40.0, -20.3, -13.0, -8.1, -1.0, -1e-5, 0.0, 0.3, 2.0, 9.5, 18.0, 30.0, 42.0])


def exact(function, points, order=1):
    with mpmath.workdps(80):
        return np.array([float(mpmath.diff(function, mpmath.mpf(x), order)) for x in points])


def logistic(x):
    return 1 / (1 + mpmath.exp(-x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("function", "truth"), [(jnp.tanh, mpmath.tanh), (jax.nn.sigmoid, logistic)]
)
def test_slopes_have_all_digits_where_units_are_saturated(function, truth, dtype):
    points = jnp.asarray(POINTS, dtype)
    values, slope = slopes.with_slope(function, points)
    np.testing.assert_array_equal(values, function(points))
    expected = exact(truth, np.asarray(points, float).tolist())
    np.testing.assert_allclose(slope, expected, rtol=4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("order", [1, 2])
def test_slopes_have_derivatives_at_zero_and_far_out(order):
    derivative = slopes.tanh_slope
    for _ in range(order):
        derivative = jax.grad(derivative)
    found = np.array([float(derivative(x)) for x in POINTS])
    # Relative to the slope: at zero the first derivative goes through zero.
    slope = exact(mpmath.tanh, POINTS)
    np.testing.assert_allclose(
        found / slope, exact(mpmath.tanh, POINTS, order + 1) / slope, atol=1e-14
    )
    assert float(derivative(800.0)) == 0


def own_cell(draw):
    network = draw(3, 4, key=jax.random.key(0), dtype=jnp.float32)
    return network, jnp.asarray(normal(1, 4), jnp.float32)


def with_saturated_tanh(name):
    """Return a float32 network whose tanh has pre-activations of about 8, and a carry."""
    if name in OWN:
        network, carry = own_cell(OWN[name])
        layer = "embedding" if name == "minimal" else "recurrent"
        biased = network.params | {
            layer: network.params[layer] | {"bias": jnp.full(4, 8, jnp.float32)}
        }
        return jrnn.Recurrence(network.step, biased, network.jacobian), carry
    network, carry, _ = make_network(name, 4, 0, jnp.float32)
    if name == "SimpleCell":
        params = network.params["params"]
        biased = params | {"i": params["i"] | {"bias": jnp.full(4, 8, jnp.float32)}}
        return jrnn.Recurrence(network.step, {"params": biased}, network.jacobian), carry
    gate = "g" if "LSTM" in name else "n"
    return jrnn.with_gate_bias(network, gate, 8.0), carry


OWN = {
    "minimal": jrnn.minimal_rnn,
    "antisymmetric": jrnn.antisymmetric_rnn,
    "leaky": jrnn.leaky_rate_network,
}
CELLS = ["SimpleCell", "GRUCell", "OptimizedLSTMCell", "MGUCell", "MGUCell no reset", *OWN]


@pytest.mark.parametrize("name", CELLS)
def test_closed_forms_of_cells_with_tanh_keep_the_digits_of_saturated_units(name, monkeypatch):
    network, carry = with_saturated_tanh(name)
    if name == "OptimizedLSTMCell":
        carry = (carry[0] + 12, carry[1])  # what it shows is tanh c
    x = jnp.asarray(normal(2, 3), jnp.float32)
    parts = network.jacobian.parts(network.params, carry, x)
    # In double precision 1 − tanh² has ten digits more than in single precision.
    monkeypatch.setattr(slopes, "SLOPES", {})
    double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (network.params, carry, x))
    expected = network.jacobian.parts(*double)
    for field in ("slopes", "input_slopes", "input_kernels", "mixing"):
        found, wanted = (jax.tree.leaves(getattr(one, field)) for one in (parts, expected))
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4)
