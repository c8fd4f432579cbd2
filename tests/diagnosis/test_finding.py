"""Layers are found where they are called, with what they really receive.

The oracle is the model itself: its cells tell what they meet, step by step, while it runs as it
always does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis import record_layers
from jacobian_rnn.training import Network

TOKENS = np.random.default_rng(0).integers(0, 20, size=(4, 12))
LENGTHS = np.array([12, 7, 9, 1])
TOLD: list = []


def tell(carry, x):
    jax.debug.callback(lambda *both: TOLD.append(jax.tree.map(np.asarray, both)), carry, x)


class TellingGRU(nn.GRUCell):
    """A GRU that tells what it meets."""

    @nn.compact
    def __call__(self, carry, x):
        tell(carry, x)
        return super().__call__(carry, x)


class TellingLSTM(nnx.LSTMCell):
    """An LSTM that tells what it meets."""

    def __call__(self, carry, x):
        tell(carry, x)
        return super().__call__(carry, x)


def told(run):
    """Return the carries and inputs that a cell met in a run of the model, time first."""
    TOLD.clear()
    run()
    jax.effects_barrier()
    met = list(TOLD)
    TOLD.clear()
    carries, xs = (jax.tree.map(lambda *a: np.stack(a), *part) for part in zip(*met, strict=True))
    return carries, xs


def gru(units=6, **options):
    return TellingGRU(units, param_dtype=float, **options)


class OneLayer(nn.Module):
    """An embedding, one layer with options, and a head."""

    options: tuple = ()
    lengths: tuple = ()
    time_major: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 3, param_dtype=float)(tokens)
        if self.time_major:
            x = x.swapaxes(0, 1)
        layer = nn.RNN(gru(), name="layer", **dict(self.options))
        lengths = jnp.array(self.lengths) if self.lengths else None
        return nn.Dense(2, param_dtype=float)(layer(x, seq_lengths=lengths))


@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, ()),
        ({"reverse": True}, ()),
        ({"reverse": True}, tuple(LENGTHS)),
        ({"reverse": True, "keep_order": True}, tuple(LENGTHS)),
        ({"time_major": True}, tuple(LENGTHS)),
        ({"time_major": True, "reverse": True}, tuple(LENGTHS)),
    ],
)
def test_recorded_inputs_are_those_that_the_cell_meets(options, lengths):
    model = OneLayer(tuple(options.items()), lengths, options.get("time_major", False))
    variables = model.init(jax.random.key(0), TOKENS)
    (layer,) = record_layers(model, TOKENS, variables=variables)
    carries, xs = told(lambda: model.apply(variables, TOKENS))
    np.testing.assert_array_equal(layer.seq_lengths, lengths or np.full(4, 12))
    for sequence, length in enumerate(layer.seq_lengths):
        np.testing.assert_array_equal(layer.xs[sequence, :length], xs[:length, sequence])
        states = jrnn.trajectory(
            layer.recurrence, jnp.asarray(layer.carry[sequence]), layer.xs[sequence, :length]
        )
        np.testing.assert_allclose(states[:length], carries[:length, sequence], atol=1e-14)


def test_a_layer_with_several_batch_axes_has_one_sequence_for_each_of_them():
    batch = np.random.default_rng(1).normal(size=(2, 3, 12, 3))
    layer = nn.RNN(gru())
    variables = layer.init(jax.random.key(0), batch)
    (recorded,) = record_layers(layer, batch, variables=variables)
    np.testing.assert_array_equal(recorded.xs, batch.reshape(6, 12, 3))


class Decoder(nn.Module):
    """A decoder that begins where an encoder ends."""

    @nn.compact
    def __call__(self, x):
        carry, _ = nn.RNN(gru(), return_carry=True, name="encoder")(x)
        return nn.RNN(gru(), name="decoder")(x[:, ::-1], initial_carry=carry)


def test_initial_carries_are_those_that_the_model_gives():
    batch = np.random.default_rng(1).normal(size=(3, 8, 3))
    variables = Decoder().init(jax.random.key(0), batch)
    encoder, decoder = record_layers(Decoder(), batch, variables=variables)
    assert [encoder.name, decoder.name] == ["encoder", "decoder"]
    ends = [
        jrnn.trajectory(encoder.recurrence, jnp.zeros(6), one)[-1] for one in jnp.asarray(batch)
    ]
    np.testing.assert_allclose(decoder.carry, np.stack(ends), atol=1e-14)
    assert not encoder.carry.any()


def test_a_bound_module_brings_its_variables():
    batch = np.ones((2, 5, 3))
    layer = nn.RNN(gru())
    bound = layer.bind(layer.init(jax.random.key(0), batch))
    (recorded,) = record_layers(bound, batch)
    assert recorded.kind == "TellingGRU of 6 units"


class Twice(nn.Module):
    """A model that uses one layer twice."""

    @nn.compact
    def __call__(self, x):
        layer = nn.RNN(nn.GRUCell(3, param_dtype=float), name="shared")
        return layer(layer(x))


def test_a_layer_that_is_used_twice_is_recorded_twice():
    batch = np.random.default_rng(1).normal(size=(3, 5, 3))
    variables = Twice().init(jax.random.key(0), batch)
    first, second = record_layers(Twice(), batch, variables=variables)
    assert [first.name, second.name] == ["shared (call 1 of 2)", "shared (call 2 of 2)"]
    outputs = jrnn.trajectory(first.recurrence, jnp.zeros(3), jnp.asarray(batch[0]))[1:]
    np.testing.assert_allclose(second.xs[0], outputs, atol=1e-14)


class Both(nnx.Module):
    """An embedding, a bidirectional layer and a head."""

    def __init__(self, time_major=False):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(20, 3, param_dtype=float, rngs=rngs)
        forward, backward = (
            nnx.RNN(TellingLSTM(3, 5, param_dtype=float, rngs=rngs)) for _ in range(2)
        )
        self.both = nnx.Bidirectional(forward, backward, time_major=time_major)
        self.head = nnx.Linear(10, 2, param_dtype=float, rngs=rngs)
        self.time_major = time_major

    def __call__(self, tokens):
        x = self.embed(jnp.asarray(tokens))
        x = x.swapaxes(0, 1) if self.time_major else x
        return self.head(self.both(x, seq_lengths=jnp.asarray(LENGTHS)))


@pytest.mark.parametrize("time_major", [False, True])
def test_both_directions_of_an_nnx_layer_are_recorded_as_their_cells_meet_them(time_major):
    model = Both(time_major)
    layers = record_layers(model, TOKENS)
    assert [layer.name for layer in layers] == [
        "both/forward_rnn",
        "both/backward_rnn, backwards",
    ]
    (c, h), xs = told(lambda: model(TOKENS))
    for layer, part in zip(layers, (slice(0, 12), slice(12, 24)), strict=True):
        for sequence, length in enumerate(LENGTHS):
            np.testing.assert_array_equal(layer.xs[sequence, :length], xs[part][:length, sequence])
            start = jax.tree.map(lambda leaf, i=sequence: jnp.asarray(leaf[i]), layer.carry)
            states = jrnn.trajectory(layer.recurrence, start, layer.xs[sequence, :length])
            met = np.concatenate([c, h], axis=-1)[part][:length, sequence]
            np.testing.assert_allclose(states[:length], met, atol=1e-14)


def test_an_nnx_model_and_its_random_state_stay_as_they_are():
    class Dropping(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.layer = nnx.RNN(nnx.GRUCell(3, 4, param_dtype=float, rngs=rngs))
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.layer(self.drop(x))

    model = Dropping()
    before = jax.tree.leaves(nnx.as_pure(nnx.state(model)))
    kind = type(model.layer)
    record_layers(model, jnp.ones((2, 5, 3)))
    after = jax.tree.leaves(nnx.as_pure(nnx.state(model)))
    assert type(model.layer) is kind
    assert all(one is other for one, other in zip(before, after, strict=True))


class NNXLoop(nnx.Module):
    """A model that scans its cell, compiled."""

    def __init__(self):
        self.cell = nnx.GRUCell(3, 4, param_dtype=float, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return compiled_loop(self, x)


@nnx.jit
def compiled_loop(model, x):
    def step(carry, x):
        return model.cell(carry, x)

    return jax.lax.scan(step, jnp.zeros((len(x), 4)), x.swapaxes(0, 1))[1]


def test_a_cell_in_a_compiled_loop_of_an_nnx_model_is_found_at_every_call():
    batch, model = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5, 3))), NNXLoop()
    model(batch)
    for _ in range(2):
        (layer,) = record_layers(model, batch)
        assert layer.name == "cell"
        np.testing.assert_array_equal(layer.xs, batch)


def test_each_layer_of_a_stack_receives_the_outputs_of_the_one_below():
    networks = [jrnn.draw(nn.GRUCell(n, param_dtype=float), key=jax.random.key(n), num_inputs=m)
                for n, m in ((4, 3), (5, 4))]  # fmt: skip
    batch = np.random.default_rng(1).normal(size=(3, 9, 3))
    batch[1, 6:] = np.nan
    stack = jrnn.stack(*networks)
    lower, upper = record_layers(stack, batch, seq_lengths=[9, 6, 9])
    assert [lower.name, upper.name] == ["layer 0", "layer 1"]
    states = jrnn.trajectory(stack, (jnp.zeros(4), jnp.zeros(5)), jnp.asarray(batch[1, :6]))
    np.testing.assert_allclose(upper.xs[1, :6], states[1:, :4], atol=1e-14)
    of_network = Network(stack, jnp.ones((5, 2)), jnp.zeros(2))
    again = record_layers(of_network, batch, seq_lengths=[9, 6, 9])
    np.testing.assert_array_equal(again[1].xs[1, :6], upper.xs[1, :6])


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, param_dtype=float)(x)


ONE = nnx.RNN(nnx.GRUCell(3, 4, param_dtype=float, rngs=nnx.Rngs(0)))


def with_weights_of_every_step():
    batch = np.ones((2, 5, 3))
    each = {"variable_axes": {"params": 0}, "variable_broadcast": False}
    layer = nn.RNN(gru(), **each, split_rngs={"params": True})
    return record_layers(layer, batch, variables=layer.init(jax.random.key(0), batch))


def with_nan():
    layer = nnx.RNN(nnx.GRUCell(3, 4, param_dtype=float, rngs=nnx.Rngs(0)))
    layer.cell.dense_h.kernel[...] = layer.cell.dense_h.kernel[...].at[0, 0].set(jnp.nan)
    return nnx.Sequential(layer, nnx.RNN(nnx.GRUCell(4, 4, param_dtype=float, rngs=nnx.Rngs(0))))


def linen_layer_of_other_inputs():
    layer = nn.RNN(nn.GRUCell(4, param_dtype=float))
    variables = layer.init(jax.random.key(0), np.ones((2, 5, 3)))
    return record_layers(layer, np.ones((2, 5, 7)), variables=variables)


def linen_layer_without_params():
    layer, batch = nn.RNN(gru()), np.ones((2, 5, 3))
    variables = layer.init(jax.random.key(0), batch)["params"]
    return record_layers(layer, batch, variables=variables)


def network_of_gru():
    return jrnn.draw(nn.GRUCell(4, param_dtype=float), key=jax.random.key(0), num_inputs=3)


def pair(params, carry, x):
    return params * carry[0] + x, carry[1]


def after_a_logarithm():
    return nnx.Sequential(jnp.log, ONE)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: record_layers(Plain(), np.ones((2, 3)), variables=Plain().init(
                jax.random.key(0), np.ones((2, 3)))),
            ValueError,
            "called Dense, Plain, expected one with an nn.RNN",
        ),
        (lambda: record_layers(nnx.Linear(3, 2, param_dtype=float, rngs=nnx.Rngs(0)),
                               jnp.ones((2, 3))), ValueError, "one of Linear"),
        (with_weights_of_every_step, ValueError, "^cell: received a layer with variable_axes"),
        (lambda: record_layers(Plain(), np.ones((2, 3))), TypeError, "variables: received None"),
        (lambda: record_layers("model.pt", np.ones((2, 3))), TypeError, "from_torch"),
        (lambda: record_layers(ONE, jnp.ones((1, 5, 3))), ValueError, "1 sequence for the layer"),
        (lambda: record_layers(ONE, jnp.ones((2, 5, 7))), ValueError,
         r"^layer 'RNN': received inputs of shape \(2, 5, 7\), expected 3 numbers"),
        (lambda: record_layers(ONE, jnp.ones((2, 5, 3)), call=lambda model, x: model(x, x, x, x)),
         ValueError, "model: failed.*pass call="),
        (linen_layer_of_other_inputs, ValueError, "^layer 'RNN': received inputs of shape"),
        (linen_layer_without_params, ValueError, "'params' among them: pass what `model.init"),
        (lambda: record_layers(network_of_gru(), np.ones((2, 5, 7))), ValueError,
         "^xs: received 7 inputs a step, expected 3"),
        (lambda: record_layers(network_of_gru(), np.ones((2, 5), int)), ValueError,
         "^xs: received int64 tokens, expected real numbers, 3 a step: embed"),
        (lambda: record_layers(network_of_gru(), list(np.ones((2, 5, 3)))), ValueError,
         "^xs: received a list of 2 arrays.*jnp.stack"),
        (lambda: record_layers(network_of_gru(), np.ones((2, 5, 3)), carry=jnp.zeros(3)),
         ValueError, r"^carry: received \(3,\), expected \(4,\)"),
        (lambda: record_layers(jrnn.Recurrence(pair, jnp.ones(3)), np.ones((2, 5, 3))),
         ValueError, r"one of pair\(params, carry, x\).*diagnose\(..., carry=...\)"),
        (lambda: record_layers(ONE, jnp.ones((2, 5, 3)), seq_lengths=[1, 2]), TypeError,
         "passes lengths"),
        (lambda: record_layers(ONE, jnp.ones((2, 5, 3)).at[1, 3].set(jnp.nan)), ValueError,
         "^batch: received 3 of 30 values.*first at step 3 in 1 of 2 sequences"),
        (lambda: record_layers(after_a_logarithm(), jnp.zeros((2, 5, 3))), ValueError,
         "^the inputs of layer 'layers/1': .*what stands before the layer makes them"),
        (lambda: record_layers(with_nan(), jnp.ones((2, 5, 3))), ValueError,
         r"weights of layer 'layers/0'.*dense_h"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("standard_promotion")
def test_what_cannot_be_recorded_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("model", ["linen", "recurrence"])
def test_a_loss_that_is_no_number_is_refused(model):
    batch = np.random.default_rng(1).normal(size=(3, 5, 3))
    layer, options = nn.RNN(gru()), {}
    if model == "linen":
        options = {"variables": layer.init(jax.random.key(0), batch)}
    else:
        layer = jrnn.draw(nn.GRUCell(4, param_dtype=float), key=jax.random.key(0), num_inputs=3)
    with pytest.raises(ValueError, match=r"loss: received one that returns shape \(3,\)"):
        record_layers(layer, batch, loss=lambda y: y.sum((1, 2)), **options)
