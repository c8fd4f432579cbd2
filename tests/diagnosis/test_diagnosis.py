"""What a diagnosis says of a layer, against closed forms and other routes through the library."""

import math
import operator
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis import record_layers
from jacobian_rnn.diagnosis.credit_by_lag import credit_of
from jacobian_rnn.diagnosis.saturation import saturation_of
from jacobian_rnn.diagnosis.systems import predict, system_of
from tests.networks import random_network

R = np.random.default_rng(0)


def decay(params, carry, x):
    """Shrink by a known factor: J = diag(params)."""
    return params * carry + x


def test_growth_memory_and_rate_of_a_system_whose_jacobian_is_known():
    system = jrnn.Recurrence(decay, jnp.full(4, 0.5))
    diagnosis = jrnn.diagnose(system, R.normal(size=(3, 40, 4)), carry=jnp.zeros(4))
    (layer,) = diagnosis.layers
    lags = np.arange(1, 41)
    np.testing.assert_allclose(layer.growth, lags * math.log(0.5), rtol=1e-12)
    assert diagnosis.verdict == layer.verdict == "vanishing"
    # 6 steps leave 6 ln 2 = 4.16 nats, 7 leave 4.85: the lower threshold is 4.4.
    assert (layer.memory, layer.memory_ends) == (6, True)
    np.testing.assert_allclose(float(layer.prediction.exponent), math.log(0.5), rtol=1e-12)
    assert int(layer.prediction.horizon) == 40
    assert layer.searched == ()
    assert "not known" in str(diagnosis)


def test_a_horizon_longer_than_a_sequence_is_refused_with_the_name_of_the_layer():
    system = jrnn.Recurrence(decay, jnp.full(4, 0.5))
    with pytest.raises(ValueError, match=r"horizon of layer 'layer': received 50, .* 1 to 40"):
        jrnn.diagnose(system, R.normal(size=(3, 40, 4)), carry=jnp.zeros(4), horizon=50)


def test_layers_are_predicted_as_predict_regime_does_with_their_lengths():
    network, xs = random_network(nn.LSTMCell(5, param_dtype=float)), R.normal(size=(4, 30, 3))
    lengths, zero = [30, 20, 25, 22], (jnp.zeros(5), jnp.zeros(5))
    (layer,) = jrnn.diagnose(network, xs, seq_lengths=lengths, horizon=15).layers
    direct = jrnn.predict_regime(network, zero, xs, horizon=15, seq_lengths=lengths)
    np.testing.assert_array_equal(layer.prediction.log_growth, direct.log_growth)
    assert layer.num_steps == (20, 30)


@pytest.mark.parametrize("lengths", [None, (12, 9, 10)])
def test_sequences_with_carries_of_their_own_are_measured_each_from_its_own(lengths):
    """One by one, with a shared carry, the exact product says the same."""
    network, xs = random_network(nn.GRUCell(5, param_dtype=float)), R.normal(size=(3, 12, 3))
    carry = 2 * R.normal(size=(3, 5))
    shared = record_layers(network, xs, seq_lengths=lengths)[0]
    own = system_of(shared._replace(carry=carry))
    prediction = predict(own, 9, method="exact", num_probes=5)
    assert own.loads == 1
    assert prediction.profile.shape == (3, 12)
    for sequence, length in enumerate(lengths or (12,) * 3):
        window = jrnn.trajectory(network, jnp.asarray(carry[sequence]), xs[sequence, :length])
        product = jrnn.jacobian_product(
            network, window[length - 9], xs[sequence, length - 9 : length]
        )
        np.testing.assert_allclose(
            prediction.log_growth[sequence], product.log_rms_growth(), atol=1e-10
        )
        known = np.isfinite(prediction.profile[sequence])
        assert known.sum() == length
        whole = jrnn.jacobian_product(
            network, jnp.asarray(carry[sequence]), xs[sequence, :length]
        ).log_rms_growth()
        np.testing.assert_allclose(prediction.profile[sequence, length - 1], whole, atol=1e-10)


def test_saturation_is_the_share_of_slopes_below_a_tenth_of_the_largest():
    network, xs = random_network(nn.LSTMCell(6, param_dtype=float)), R.normal(size=(3, 20, 3))
    network = jrnn.with_gate_bias(network, "forget", 6.0)
    lengths = np.array([20, 11, 16])
    (layer,) = record_layers(network, xs, seq_lengths=lengths)
    by_name = {one.name: one for one in saturation_of(layer)}
    params = network.params["params"]
    forget, candidate = [], []
    for sequence, length in enumerate(lengths):
        states = jrnn.trajectory(network, (jnp.zeros(6),) * 2, xs[sequence, :length])
        h = states[:-1, 6:]
        for gate, values in (("f", forget), ("g", candidate)):
            pre = (
                xs[sequence, :length] @ params["i" + gate]["kernel"]
                + h @ params["h" + gate]["kernel"]
                + params["h" + gate]["bias"][None]
            )
            values.append(np.asarray(pre))
    gate = 1 / (1 + np.exp(-np.concatenate(forget)))
    unit = np.tanh(np.concatenate(candidate))
    assert list(by_name) == ["input", "forget", "candidate", "output", "cell state, as shown"]
    np.testing.assert_allclose(by_name["forget"].mean, gate.mean(), rtol=1e-10)
    np.testing.assert_allclose(by_name["forget"].share, (4 * gate * (1 - gate) < 0.1).mean())
    np.testing.assert_allclose(by_name["candidate"].share, (1 - unit**2 < 0.1).mean())
    assert by_name["forget"].share > 0.9


@pytest.mark.parametrize("lengths", [None, (9, 6, 8)])
def test_shares_of_lags_are_those_of_the_gradient_of_each_sequence(lengths):
    """The oracle differentiates the loss for the parameters of each step, one copy a step."""
    network, xs = random_network(nn.GRUCell(4, param_dtype=float)), R.normal(size=(3, 9, 3))
    weights = jnp.asarray(R.normal(size=(9, 4)))
    ends = lengths or (9,) * 3
    counted = np.arange(9) < np.array(ends)[:, None]

    def loss(outputs):
        shown = jnp.where(counted[..., None], jnp.sin(outputs), 0.0)
        return jnp.sum(shown * weights[None]) / 3

    (layer,) = record_layers(network, xs, seq_lengths=lengths, loss=loss)
    credit = credit_of(layer)
    shares = []
    for sequence, length in enumerate(ends):

        def of_copies(copies, sequence=sequence, length=length):
            h, total = jnp.zeros(4), 0.0
            for t in range(length):
                own = jax.tree.map(operator.itemgetter(t), copies)
                h = network.step(own, h, xs[sequence, t])
                total += jnp.sum(jnp.sin(h) * weights[t]) / 3
            return total

        copies = jax.tree.map(lambda leaf, n=length: jnp.stack([leaf] * n), network.params)
        gradient = jax.grad(of_copies)(copies)
        flat = np.concatenate(
            [np.asarray(leaf).reshape(length, -1) for leaf in jax.tree.leaves(gradient)], axis=1
        )[::-1]
        shares.append(np.pad(flat, ((0, 9 - length), (0, 0))))
    shares = np.stack(shares)
    mean = np.linalg.norm(shares.mean(axis=0), axis=1)
    noise = np.sqrt((shares.var(axis=0, ddof=1) / 3).sum(axis=1))
    np.testing.assert_allclose(np.exp(credit.log_norms), mean, rtol=1e-9)
    np.testing.assert_allclose(credit.signal_to_noise, mean / noise, rtol=1e-9)


class Classifier(nn.Module):
    """A model whose loss reaches its layer through outputs and the last carry."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 3, param_dtype=float)(tokens)
        layer = nn.RNN(nn.LSTMCell(5, param_dtype=float), return_carry=True, name="rnn")
        (c, h), outputs = layer(x)
        return nn.Dense(2, param_dtype=float)(jnp.tanh(c) + h + outputs.mean(axis=1))


class NNXClassifier(nnx.Module):
    """The same in nnx, backwards in time."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(20, 3, param_dtype=float, rngs=rngs)
        cell = nnx.LSTMCell(3, 5, param_dtype=float, rngs=rngs)
        self.rnn = nnx.RNN(cell, return_carry=True, reverse=True, keep_order=True)
        self.head = nnx.Linear(5, 2, param_dtype=float, rngs=rngs)

    def __call__(self, tokens):
        (c, h), outputs = self.rnn(self.embed(jnp.asarray(tokens)))
        return self.head(jnp.tanh(c) + h + outputs.mean(axis=1))


@pytest.mark.parametrize("kind", [Classifier, NNXClassifier])
def test_shares_of_all_lags_add_up_to_the_gradient_of_the_model(kind):
    """A share of one lag is the whole gradient if the sequence has one step."""
    tokens = R.integers(0, 20, size=(4, 1))

    def loss(prediction):
        return jnp.sum(prediction**2)

    if kind is Classifier:
        model = kind()
        variables = model.init(jax.random.key(0), tokens)
        gradient = jax.grad(lambda v: loss(model.apply(v, tokens)))(variables)
        gradient = gradient["params"]["LSTMCell_0"]
        (layer,) = record_layers(model, tokens, variables=variables, loss=loss)
    else:
        model = kind()
        gradient = nnx.as_pure(nnx.grad(lambda m: loss(m(tokens)))(model))["rnn"]["cell"]
        (layer,) = record_layers(model, tokens, loss=loss)
    whole = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
    credit = credit_of(layer)
    np.testing.assert_allclose(4 * np.exp(credit.log_norms), [whole], rtol=1e-9)


def test_a_cell_whose_output_is_not_its_carry_has_no_shares():
    class Doubling(nn.GRUCell):
        @nn.compact
        def __call__(self, carry, x):
            carry, y = super().__call__(carry, x)
            return carry, 2 * y

    batch = R.normal(size=(3, 6, 3))
    layer = nn.RNN(Doubling(4, param_dtype=float))
    variables = layer.init(jax.random.key(0), batch)
    diagnosis = jrnn.diagnose(layer, batch, variables=variables, loss=jnp.mean)
    assert diagnosis.layers[0].credit is None
    assert any("something else" in note for note in diagnosis.layers[0].notes)


@pytest.mark.usefixtures("standard_promotion")
def test_a_layer_in_bfloat16_is_measured_in_float32_with_the_same_weights():
    batch = jnp.asarray(R.normal(size=(3, 12, 3)), jnp.float32)
    low, high = (nn.RNN(nn.GRUCell(8, dtype=dtype)) for dtype in (jnp.bfloat16, None))
    variables = high.init(jax.random.key(0), batch)
    diagnosis = jrnn.diagnose(low, batch, variables=variables)
    same = jrnn.diagnose(high, batch, variables=variables)
    assert diagnosis.layers[0].dtype == "float32"
    assert any("bfloat16" in note for note in diagnosis.layers[0].notes)
    one, other = (one.layers[0].prediction.log_growth for one in (diagnosis, same))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_an_nnx_model_with_bfloat16_weights_is_measured_in_float32():
    kind = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    layer = nnx.RNN(nnx.LSTMCell(3, 8, **kind, rngs=nnx.Rngs(0)))
    batch = jnp.asarray(R.normal(size=(3, 12, 3)), jnp.bfloat16)
    diagnosis = jrnn.diagnose(layer, batch)
    assert diagnosis.layers[0].dtype == "float32"
    assert np.isfinite(np.asarray(diagnosis.layers[0].growth)).all()


def test_a_state_that_overflows_is_undetermined_with_the_step():
    system = jrnn.Recurrence(lambda p, c, x: p * c**2 + x, jnp.ones(2))
    diagnosis = jrnn.diagnose(system, np.ones((3, 30, 2)), carry=jnp.zeros(2), horizon=20)
    assert diagnosis.verdict in ("undetermined", "exploding")
    assert "stops being finite" in str(diagnosis)


def test_the_page_lists_the_shares_of_lags_in_numbers():
    network = random_network(nn.GRUCell(4, param_dtype=float))
    xs = R.normal(size=(4, 30, 3))
    diagnosis = jrnn.diagnose(network, xs, loss=lambda y: jnp.mean(y[:, -1] ** 2))
    lines = [line.split() for line in str(diagnosis).splitlines()]
    named = {" ".join(line[:2]): line for line in lines}
    start = lines.index(named["signal /"]) - 2
    lags, shares, ratios = lines[start][2:], lines[start + 1][1:], named["signal /"][3:]
    credit = diagnosis.layers[0].credit
    assert len(lags) == len(shares) == len(ratios) >= 5
    for lag, share, ratio in zip(map(int, lags), shares, map(float, ratios), strict=True):
        log = credit.log_norms[lag] - max(credit.log_norms)
        said = float(share.removeprefix("e^")) if "e" in share else math.log(float(share))
        assert said == pytest.approx(log, abs=0.06 if "e" in share else 0.0006 / math.exp(log))
        assert ratio == pytest.approx(credit.signal_to_noise[lag], abs=0.051)


def test_more_sequences_than_steps_are_warned_of_once_and_only_without_a_horizon():
    network = random_network(nn.GRUCell(4, param_dtype=float))
    xs = R.normal(size=(30, 4, 3))
    with pytest.warns(UserWarning, match="30 sequences of 4 steps. Is time the first axis") as said:
        jrnn.diagnose(network, xs)
    assert len(said) == 1
    jrnn.diagnose(network, xs, horizon=4)
    with pytest.raises(ValueError, match=r"received 30, expected 1 to 4: .*Is time the first axis"):
        jrnn.diagnose(network, xs, horizon=30)


def test_the_dataset_holds_the_numbers_of_all_layers_with_units():
    networks = [random_network(nn.GRUCell(4, param_dtype=float), 0, 3),
                random_network(nn.GRUCell(5, param_dtype=float), 1, 4)]  # fmt: skip
    diagnosis = jrnn.diagnose(
        jrnn.stack(*networks), R.normal(size=(4, 10, 3)), loss=lambda y: jnp.mean(y**2)
    )
    dataset = diagnosis.to_dataset()
    assert dataset.growth.attrs["units"] == "nats"
    assert dataset.credit_log_norm.dims == ("layer", "steps_before_end")
    for position, layer in enumerate(diagnosis.layers):
        one = dataset.sel(layer=layer.name)
        np.testing.assert_array_equal(one.growth, layer.growth)
        np.testing.assert_array_equal(one.signal_to_noise, layer.credit.signal_to_noise)
        assert str(one.verdict.values) == layer.verdict
        assert dataset.layer.values[position] == layer.name


@pytest.mark.parametrize(
    ("method", "missing"), [("to_dataset", "xarray"), ("figure", "matplotlib.figure")]
)
def test_a_method_without_its_extra_names_it(monkeypatch, method, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    install = rf"{method}: pip install 'jacobian_rnn\[report\]'"
    with pytest.raises(ImportError, match=install):
        getattr(jrnn.Diagnosis(()), method)()


def test_a_page_has_80_columns_and_no_section_without_text():
    networks = [random_network(nn.LSTMCell(4, param_dtype=float), 0, 3),
                random_network(nn.GRUCell(5, param_dtype=float), 1, 4)]  # fmt: skip
    diagnosis = jrnn.diagnose(
        jrnn.stack(*networks), R.normal(size=(4, 60, 3)), loss=lambda y: jnp.mean(y**2)
    )
    lines = str(diagnosis).splitlines()
    assert max(map(len, lines)) <= 80
    labels = [line for line in lines if line.startswith("  ") and not line.startswith("   ")]
    assert all(len(line.split()) > 1 for line in labels)
    for number in ("nan", "None", "inf"):
        assert number not in str(diagnosis)
