import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.flatten_util import ravel_pytree

from jacobian_rnn import (
    Recurrence,
    from_linen,
    from_nnx,
    jacobian_product,
    state_gradients,
    step_jacobians,
    trajectory,
)
from tests.networks import (
    CELLS,
    CLOSED_FORMS,
    MAIN_CELLS,
    double,
    mostly_slow,
    normal,
    random_variables,
)


def linear(matrix, carry, x):
    del x
    return matrix @ carry


SYSTEM = Recurrence(linear, jnp.array([[0.9, 0.3], [0.0, 0.9]], jnp.float32))


@pytest.mark.parametrize("name", mostly_slow(CELLS, MAIN_CELLS))
def test_forward_mode_reverse_mode_and_closed_form_agree(network, name):
    recurrence, carry, xs = network(name, 2 if name == "ConvLSTMCell" else 5)
    forward = step_jacobians(recurrence, carry, xs, method="forward")
    reverse = step_jacobians(recurrence, carry, xs, method="reverse")
    np.testing.assert_allclose(forward, reverse, atol=1e-12)
    np.testing.assert_allclose(step_jacobians(recurrence, carry, xs), forward, atol=1e-12)
    assert (recurrence.jacobian is not None) == (name in CLOSED_FORMS)
    if recurrence.jacobian is not None:
        closed = step_jacobians(recurrence, carry, xs, method="closed_form")
        np.testing.assert_allclose(closed, forward, atol=1e-12)
    else:
        with pytest.raises(ValueError, match="no closed-form Jacobian"):
            step_jacobians(recurrence, carry, xs, method="closed_form")


@pytest.mark.parametrize("name", mostly_slow(CLOSED_FORMS, MAIN_CELLS))
@pytest.mark.parametrize("width", mostly_slow([1, 8], [8]))
def test_closed_forms_agree_with_finite_differences_at_every_width(network, name, width):
    recurrence, carry, xs = network(name, width, seed=width)
    state, unravel = ravel_pytree(carry)
    jacobian = recurrence.jacobian(recurrence.params, carry, xs[0])

    @jax.jit
    def ends(states):
        def end(state):
            return ravel_pytree(recurrence.step(recurrence.params, unravel(state), xs[0]))[0]

        return jax.vmap(end)(states)

    steps = 1e-6 * np.eye(state.size)
    columns = (ends(state[None] + steps) - ends(state[None] - steps)) / 2e-6
    np.testing.assert_allclose(jacobian, columns.T, atol=1e-8)


def test_determinant_of_an_lstm_step_has_its_closed_form(network):
    recurrence, carry, xs = network("LSTMCell", 6)
    p = recurrence.params["params"]
    jacobian = step_jacobians(recurrence, carry, xs[:1])[0]
    (new_c, _), h = recurrence.step(recurrence.params, carry, xs[0]), carry[1]
    f, o = (
        jax.nn.sigmoid(xs[0] @ p["i" + g]["kernel"] + h @ p["h" + g]["kernel"] + p["h" + g]["bias"])
        for g in "fo"
    )
    b = (jnp.tanh(new_c) * o * (1 - o))[:, None] * p["ho"]["kernel"].T
    expected = jnp.sum(jnp.log(f)) + jnp.linalg.slogdet(b)[1]
    assert float(jnp.linalg.slogdet(jacobian)[1]) == pytest.approx(float(expected), abs=1e-10)


def copied(linen_name, network):
    """Copy the weights of a linen cell, biases included, into the nnx cell of the same name."""
    recurrence, carry, xs = network(linen_name, 4)
    p = recurrence.params["params"]
    cell = getattr(nnx, linen_name)(
        3, 4, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    if linen_name == "SimpleCell":
        cell.dense_i.kernel[...], cell.dense_i.bias[...] = p["i"]["kernel"], p["i"]["bias"]
        cell.dense_h.kernel[...] = p["h"]["kernel"]
    elif linen_name == "GRUCell":
        p["hn"]["bias"] = jnp.zeros(4)  # which the nnx cell lacks
        cell.dense_i.kernel[...] = jnp.concatenate([p[f"i{g}"]["kernel"] for g in "rzn"], 1)
        cell.dense_i.bias[...] = jnp.concatenate([p[f"i{g}"]["bias"] for g in "rzn"])
        cell.dense_h.kernel[...] = jnp.concatenate([p[f"h{g}"]["kernel"] for g in "rzn"], 1)
    elif linen_name == "LSTMCell":
        for g in "ifgo":
            getattr(cell, "if_" if g == "f" else f"i{g}").kernel[...] = p[f"i{g}"]["kernel"]
            getattr(cell, f"h{g}").kernel[...] = p[f"h{g}"]["kernel"]
            getattr(cell, f"h{g}").bias[...] = p[f"h{g}"]["bias"]
    else:
        cell.dense_i.kernel[...] = jnp.concatenate([p[f"i{g}"]["kernel"] for g in "ifgo"], 1)
        cell.dense_h.kernel[...] = jnp.concatenate([p[f"h{g}"]["kernel"] for g in "ifgo"], 1)
        cell.dense_h.bias[...] = jnp.concatenate([p[f"h{g}"]["bias"] for g in "ifgo"])
    return recurrence, from_nnx(cell), carry, xs


@pytest.mark.parametrize(
    "name",
    mostly_slow(["SimpleCell", "LSTMCell", "OptimizedLSTMCell", "GRUCell"], ["OptimizedLSTMCell"]),
)
def test_linen_and_nnx_cells_with_the_same_weights_have_the_same_jacobians_and_product(
    network, name
):
    one, other, carry, xs = copied(name, network)
    for method in ("closed_form", "forward"):
        np.testing.assert_allclose(
            step_jacobians(one, carry, xs, method=method),
            step_jacobians(other, carry, xs, method=method),
            atol=1e-12,
        )
    np.testing.assert_allclose(
        jacobian_product(one, carry, xs).log_singular_values(),
        jacobian_product(other, carry, xs).log_singular_values(),
        atol=1e-10,
    )


def clipped(x):
    return jnp.clip(x, -1, 1)


@pytest.mark.parametrize(
    "cell",
    [
        nn.SimpleCell(3, activation_fn=clipped),
        nn.GRUCell(3, gate_fn=nn.softmax),
        nn.LSTMCell(3, dtype=jnp.bfloat16),
        nn.MGUCell(3, activation_fn=nn.standardize),
    ],
)
def test_a_cell_that_the_closed_form_does_not_describe_has_none(cell):
    assert from_linen(cell, {"params": {}}).jacobian is None


def changed(cell_class, **layers):
    """Make an nnx cell of which a layer was replaced or changed."""
    cell = double(cell_class, 3, 4, dtype=jnp.float64, rngs=nnx.Rngs(0))
    for name, change in layers.items():
        setattr(cell, name, change(getattr(cell, name)))
    return cell


def with_bias(layer):
    ones = nnx.initializers.ones
    sizes = layer.in_features, layer.out_features
    return nnx.Linear(*sizes, bias_init=ones, param_dtype=jnp.float64, rngs=nnx.Rngs(1))


def adapted(layer):
    return nnx.LoRA(4, 2, 4, base_module=layer, rngs=nnx.Rngs(0))


def in_half_precision(layer):
    layer.dtype = jnp.bfloat16
    return layer


@pytest.mark.parametrize(
    ("cell_class", "layers"),
    [
        (nnx.SimpleCell, {"dense_h": with_bias}),
        (nnx.OptimizedLSTMCell, {"dense_i": with_bias}),
        (nnx.GRUCell, {"dense_h": in_half_precision}),
        (nnx.LSTMCell, {"hi": adapted}),
    ],
)
def test_an_nnx_cell_whose_layers_were_changed_has_no_closed_form(cell_class, layers):
    assert from_nnx(changed(cell_class)).jacobian is not None
    assert from_nnx(changed(cell_class, **layers)).jacobian is None


def test_a_cell_that_computes_in_another_dtype_than_its_variables_has_no_closed_form():
    cell = nn.LSTMCell(4, dtype=jnp.float32)
    carry = (jnp.zeros(4, jnp.float32),) * 2
    variables = random_variables(cell, carry, jnp.ones(3, jnp.float32))
    assert from_linen(cell, variables).jacobian is not None
    doubled = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
    assert from_linen(cell, doubled).jacobian is None


@pytest.mark.parametrize("name", mostly_slow(CELLS, MAIN_CELLS[1::2]))
def test_backpropagation_through_the_scan_agrees_with_the_product_at_every_lag(network, name):
    recurrence, carry, xs = network(name, 2 if name == "ConvLSTMCell" else 5)
    states = trajectory(recurrence, carry, xs)
    cotangent = normal(9, states[0].shape)
    gradients = state_gradients(recurrence, carry, xs, lambda s: s[-1] @ cotangent)
    unravel = ravel_pytree(carry)[1]
    for lag in (12,) if name == "ConvLSTMCell" else (1, 5, 12):
        product = jacobian_product(
            recurrence, unravel(states[12 - lag]), xs[12 - lag :], estimate_error=False
        )
        gain = jnp.log(jnp.linalg.norm(gradients[12 - lag]) / jnp.linalg.norm(cotangent))
        assert float(product.log_adjoint_growth(cotangent)) == pytest.approx(float(gain), abs=1e-10)


def test_gradient_at_the_first_state_is_that_of_jax_grad(network):
    recurrence, carry, xs = network("GRUCell", 4)

    def loss(states):
        return jnp.sum(jnp.sin(states[1:]))  # of all states, not of the last alone

    direct = jax.grad(lambda c: loss(trajectory(recurrence, c, xs)))(carry)
    np.testing.assert_allclose(state_gradients(recurrence, carry, xs, loss)[0], direct, atol=1e-13)


def test_an_empty_sequence_has_one_state_and_no_jacobian():
    assert trajectory(SYSTEM, jnp.ones(2, jnp.float32), None, num_steps=0).shape == (1, 2)
    assert step_jacobians(SYSTEM, jnp.ones(2, jnp.float32), None, num_steps=0).shape == (0, 2, 2)


def test_dtype_is_kept():
    assert trajectory(SYSTEM, jnp.ones(2, jnp.float32), None, num_steps=3).dtype == jnp.float32
    assert step_jacobians(SYSTEM, jnp.ones(2, jnp.float32), None, num_steps=3).dtype == jnp.float32


CARRY = np.ones(2, np.float32)
GRU = from_linen(nn.GRUCell(2), random_variables(nn.GRUCell(2), jnp.zeros(2), jnp.zeros(3)))


@pytest.mark.parametrize(
    ("recurrence", "carry", "xs", "options", "error", "match"),
    [
        (nn.GRUCell(2), CARRY, None, {}, TypeError, "recurrence: received a GRUCell"),
        (SYSTEM, CARRY, None, {}, ValueError, "num_steps: received None with xs=None"),
        (SYSTEM, CARRY, np.float32(1), {}, ValueError, "xs: received a scalar"),
        (SYSTEM, CARRY, CARRY, {"num_steps": 3}, ValueError, "received 3 with xs of 2 steps"),
        (SYSTEM, CARRY, (CARRY, CARRY[:1]), {}, ValueError, "different lengths"),
        (SYSTEM, CARRY.astype(float), None, {"num_steps": 1}, TypeError, "params is float32"),
        (SYSTEM, CARRY.astype(complex), None, {"num_steps": 1}, TypeError, "pair of reals"),
        (SYSTEM, np.ones(2, int), None, {"num_steps": 1}, TypeError, "floating-point arrays"),
        (SYSTEM, (), None, {"num_steps": 1}, ValueError, "carry: received no arrays"),
        (SYSTEM, np.ones(3, np.float32), None, {"num_steps": 1}, ValueError, "step: failed"),
        (SYSTEM, np.ones((2, 2, 2), np.float32)[0], None, {"num_steps": -1}, ValueError, "-1"),
        (
            SYSTEM,
            np.array([1, np.nan], np.float32),
            None,
            {"num_steps": 1},
            ValueError,
            "carry: .*1 of 2",
        ),
        (GRU, CARRY, np.ones((4, 3), np.float32) * np.inf, {}, ValueError, "xs: received 12 of 12"),
        (GRU, CARRY, np.ones((4, 5), np.float32), {}, ValueError, "xs: received 5 .*, expected 3"),
        (GRU, CARRY, np.ones((4, 3), np.float64), {}, TypeError, "dtypes: "),
        (GRU, CARRY, np.ones(4, np.int32), {}, ValueError, "xs: received int32 tokens.*embed"),
        (
            GRU,
            CARRY,
            [np.ones((4, 3), np.float32)] * 2,
            {},
            ValueError,
            "xs: received a list of 2 arrays, expected one array: .*jnp.stack",
        ),
        (
            GRU,
            np.ones(5, np.float32),
            np.ones((4, 3), np.float32),
            {},
            ValueError,
            r"carry: received \(5,\), expected \(2,\)",
        ),
        (GRU, CARRY, np.ones((6, 4, 3), np.float32), {}, ValueError, "A batch axis in xs"),
        (
            GRU,
            np.ones((6, 2), np.float32),
            np.ones((4, 3), np.float32),
            {},
            ValueError,
            "carry: .*batch",
        ),
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_bad_input_is_refused_before_anything_runs(recurrence, carry, xs, options, error, match):
    for function in (trajectory, step_jacobians, jacobian_product):
        with pytest.raises(error, match=match):
            function(recurrence, carry, xs, **options)


def test_nan_in_parameters_is_named():
    broken = jax.tree.map(lambda a: a * jnp.nan, GRU)
    with pytest.raises(ValueError, match=r"params\['params'\].*NaN or infinite"):
        trajectory(broken, CARRY, np.ones((4, 3), np.float32))


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method: received 'backward', expected one of 'auto'"):
        step_jacobians(SYSTEM, CARRY, None, num_steps=1, method="backward")


def test_traced_values_are_not_checked():
    states = jax.jit(lambda c: trajectory(SYSTEM, c, None, num_steps=2))(CARRY * np.float32("nan"))
    assert bool(jnp.all(jnp.isnan(states)))


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (None, "loss: received a NoneType, expected a function of the states"),
        (lambda states: states[-1], r"that returns float32\[2\], expected .* real scalar"),
        (lambda states: jnp.argmax(states), r"that returns int64\[\], expected .* real scalar"),
    ],
)
def test_a_loss_that_is_no_real_scalar_is_refused(loss, match):
    with pytest.raises(TypeError, match=match):
        state_gradients(SYSTEM, CARRY, None, loss, num_steps=2)
