"""Layers of Flax are taken as they are, or refused by the name of the option that is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn

XS = np.random.default_rng(0).normal(size=(3, 20, 3))


def cell(units=8):
    return nn.GRUCell(units, param_dtype=float)


def nnx_cell():
    return nnx.GRUCell(3, 8, param_dtype=float, rngs=nnx.Rngs(0))


def variables_of(layer, xs=XS):
    return layer.init(jax.random.key(0), xs)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reverse": True}, "reverse=True"),
        ({"time_major": True}, "time_major=True"),
        ({"variable_axes": {"params": 0}, "variable_broadcast": False}, "variable_axes"),
        ({"variable_carry": "statistics"}, "variable_carry"),
    ],
)
def test_an_option_of_a_linen_layer_that_changes_its_steps_is_refused_by_name(options, named):
    variables = variables_of(nn.RNN(cell()))
    with pytest.raises(ValueError, match=named):
        jrnn.from_linen(nn.RNN(cell(), **options), variables)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reverse": True}, "reverse=True"),
        ({"time_major": True}, "time_major=True"),
        ({"state_axes": nnx.StateAxes({nnx.Param: 0, ...: nnx.Carry})}, "state_axes"),
    ],
)
def test_an_option_of_an_nnx_layer_that_changes_its_steps_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        jrnn.from_nnx(nnx.RNN(nnx_cell(), **options))


@pytest.mark.parametrize(
    "options",
    [
        {"return_carry": True},
        {"keep_order": True},
        {"unroll": 4},
        {"split_rngs": {"params": False, "dropout": True}},
    ],
)
def test_other_options_of_a_linen_layer_leave_its_steps_as_they_are(options):
    variables = variables_of(nn.RNN(cell()))
    layer = nn.RNN(cell(), **options)
    outputs = layer.apply(variables, XS)
    outputs = outputs[1] if "return_carry" in options else outputs
    states = jrnn.trajectory(jrnn.from_linen(layer, variables), jnp.zeros(8), XS[0])
    np.testing.assert_allclose(states[1:], outputs[0], atol=1e-14)


@pytest.mark.parametrize(
    "options",
    [{"return_carry": True}, {"keep_order": True}, {"unroll": 4}, {"rngs": nnx.Rngs(carry=1)}],
)
def test_other_options_of_an_nnx_layer_leave_its_steps_as_they_are(options):
    layer = nnx.RNN(nnx_cell(), **options)
    outputs = layer(jnp.asarray(XS))
    outputs = outputs[1] if "return_carry" in options else outputs
    states = jrnn.trajectory(jrnn.from_nnx(layer), jnp.zeros(8), XS[0])
    np.testing.assert_allclose(states[1:], outputs[0], atol=1e-14)


def test_bidirectional_layers_are_refused_with_the_cells_to_pass():
    both = nn.Bidirectional(nn.RNN(cell()), nn.RNN(cell()))
    with pytest.raises(ValueError, match=r"forward_rnn\.cell.*backward_rnn\.cell.*diagnose"):
        jrnn.from_linen(both, variables_of(both))
    with pytest.raises(ValueError, match=r"forward_rnn\.cell.*backward_rnn\.cell.*diagnose"):
        jrnn.from_nnx(nnx.Bidirectional(nnx.RNN(nnx_cell()), nnx.RNN(nnx_cell())))


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.LSTMCell(8, param_dtype=float))(x)
        x = nn.RNN(nn.LSTMCell(6, param_dtype=float))(x)
        return nn.Dense(2, param_dtype=float)(x[:, -1])


@pytest.mark.parametrize("make", [nn.LSTMCell, lambda units: nn.RNN(nn.LSTMCell(units))])
@pytest.mark.parametrize(("units", "place"), [(8, "LSTMCell_0"), (6, "LSTMCell_1")])
def test_parameters_at_another_place_are_found_by_the_names_and_size_of_the_cell(
    make, units, place
):
    variables = variables_of(Model())
    told = rf"are at {place}: pass .*variables\['params'\]\['{place}'\]"
    with pytest.raises(ValueError, match=told):
        jrnn.from_linen(make(units), variables)
    right = {"params": variables["params"][place]}
    num_inputs = 3 if units == 8 else 8
    network = jrnn.from_linen(nn.LSTMCell(units, param_dtype=float), right)
    carry = (jnp.zeros(units), jnp.zeros(units))
    assert network.step(network.params, carry, jnp.ones(num_inputs))[0].shape == (units,)


def test_a_model_in_place_of_a_cell_is_told_where_its_cells_are():
    told = r"called as \(self, x\).*LSTMCell at LSTMCell_0"
    with pytest.raises(ValueError, match=told):
        jrnn.from_linen(Model(), variables_of(Model()))


def test_parameters_that_no_place_has_are_refused_without_a_place():
    with pytest.raises(ValueError, match=r"those of a GRUCell.*pass what `cell\.init"):
        jrnn.from_linen(nn.GRUCell(8), variables_of(Model()))


class WithDropout(nnx.Module):
    def __init__(self):
        self.gru = nnx_cell()
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, carry, x):
        new = self.drop(self.gru(carry, x)[0])
        return new, new


class Counting(nnx.Module):
    def __init__(self):
        self.gru = nnx_cell()
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, carry, x):
        self.calls[...] = self.calls[...] + 1
        return self.gru(carry, x)


@pytest.mark.parametrize(
    ("kind", "named"), [(WithDropout, r"drop\.rngs\.count"), (Counting, "changes calls")]
)
def test_an_nnx_cell_that_changes_its_state_is_refused_by_the_name_of_the_state(kind, named):
    network = jrnn.from_nnx(kind())
    with pytest.raises(ValueError, match=rf"{named}.*cell\.eval\(\)"):
        jrnn.predict_regime(network, jnp.zeros(8), XS, horizon=5)


def test_a_cell_in_evaluation_mode_equals_the_one_without_dropout():
    stochastic = WithDropout()
    stochastic.eval()
    states = jrnn.trajectory(jrnn.from_nnx(stochastic), jnp.zeros(8), XS[0])
    bare = jrnn.trajectory(jrnn.from_nnx(stochastic.gru), jnp.zeros(8), XS[0])
    np.testing.assert_allclose(states, bare, atol=1e-14)


class LinenDropout(nn.RNNCellBase):
    training: bool = True

    @nn.compact
    def __call__(self, carry, x):
        new, _ = cell()(carry, x)
        new = nn.Dropout(0.5, deterministic=not self.training)(new)
        return new, new


class LinenCounting(nn.RNNCellBase):
    training: bool = True

    @nn.compact
    def __call__(self, carry, x):
        calls = self.variable("counts", "calls", lambda: jnp.zeros(()))
        if self.training:
            calls.value += 1
        return cell()(carry, x)


@pytest.mark.parametrize("kind", [LinenDropout, LinenCounting])
def test_a_linen_cell_that_draws_or_changes_its_variables_is_refused(kind):
    variables = kind(training=False).init(jax.random.key(0), jnp.zeros(8), XS[0, 0])
    quiet = jrnn.from_linen(kind(training=False), variables)
    assert jrnn.trajectory(quiet, jnp.zeros(8), XS[0]).shape == (21, 8)
    with pytest.raises(ValueError, match="draws random numbers or changes its variables"):
        jrnn.trajectory(jrnn.from_linen(kind(), variables), jnp.zeros(8), XS[0])
