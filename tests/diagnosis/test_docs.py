"""The examples of docs/your_network.md run, each on a model of its framework."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn

PAGE = (Path(__file__).parents[2] / "docs" / "your_network.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- (\w+) -->\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
TOKENS = np.random.default_rng(0).integers(0, 20, size=(4, 40))
XS = np.random.default_rng(1).normal(size=(4, 40, 3))

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_every_example_has_at_most_five_lines():
    assert set(EXAMPLES) == {"linen", "nnx", "torch", "keras", "equinox", "advice"}
    for code in EXAMPLES.values():
        assert sum(bool(line.strip()) for line in code.splitlines()) <= 5


def run(name, capsys, **given):
    names = dict(given)
    exec(EXAMPLES[name], names)
    return capsys.readouterr().out, names


class LanguageModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(20, 8, param_dtype=float)(tokens)
        x = nn.RNN(nn.GRUCell(8, param_dtype=float), name="lower")(x)
        x = nn.RNN(nn.LSTMCell(8, param_dtype=float), name="upper")(x)
        return nn.Dense(20, param_dtype=float)(x)


def test_a_linen_model(capsys):
    page, _ = run("linen", capsys, model=LanguageModel(), tokens=TOKENS, key=jax.random.key(0))
    assert page.startswith("2 recurrent layers: gradients")
    for said in (
        "lower: GRUCell of 8 units",
        "upper: LSTMCell of 8 units",
        "signal / noise",
    ):
        assert said in page


class Tagger(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(20, 8, param_dtype=float, rngs=rngs)
        layers = [nnx.RNN(nnx.GRUCell(8, 8, param_dtype=float, rngs=rngs)) for _ in range(2)]
        self.both = nnx.Bidirectional(*layers)

    def __call__(self, tokens):
        return self.both(self.embed(jnp.asarray(tokens)))


def test_an_nnx_model(capsys):
    page, _ = run("nnx", capsys, model=Tagger(), tokens=TOKENS)
    assert page == "['both/forward_rnn: vanishing', 'both/backward_rnn, backwards: vanishing']\n"


def test_a_pytorch_file(capsys, tmp_path):
    torch = pytest.importorskip("torch")

    class WordModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.rnn = torch.nn.Embedding(20, 8), torch.nn.LSTM(8, 8, 2)
            self.decoder = torch.nn.Linear(8, 20)

    path = tmp_path / "words.pt"
    torch.manual_seed(0)
    torch.save(WordModel().state_dict(), path)
    page, _ = run("torch", capsys, path=path, tokens=TOKENS)
    assert page.startswith("2 recurrent layers: gradients")


@pytest.mark.parametrize("num_gates", [4, 3], ids=["LSTM", "GRU"])
def test_advice_in_pytorch_does_what_it_does_here(num_gates, capsys):
    draw, units = np.random.default_rng(0).normal, 5
    weights = {
        "weight_ih_l0": draw(size=(num_gates * units, 3)),
        "weight_hh_l0": draw(size=(num_gates * units, units)),
        "bias_ih_l0": draw(size=num_gates * units),
        "bias_hh_l0": draw(size=num_gates * units),
    }
    network = jrnn.from_torch(weights)
    rnn = SimpleNamespace(
        **{name: SimpleNamespace(data=array.copy()) for name, array in weights.items()}
    )
    run("advice", capsys, rnn=rnn, H=units)
    found = jrnn.from_torch({name: getattr(rnn, name).data for name in weights})
    advised = jrnn.with_gain(jrnn.with_gate_bias(network, "forget", 3.5), 1.2)
    carry, x = jrnn.zero_carry(network), np.ones(3)
    for _ in range(2):
        carry = advised.step(advised.params, carry, x)
    other = jrnn.zero_carry(network)
    for _ in range(2):
        other = found.step(found.params, other, x)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-14), carry, other)
    plain = network.step(network.params, jrnn.zero_carry(network), x)
    assert not np.allclose(jax.tree.leaves(plain)[-1], jax.tree.leaves(carry)[-1])


# Keras reads its own variables in a way that NumPy will drop.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((40, 3)), keras.layers.LSTM(8)])
    path = tmp_path / "model.keras"
    model.save(path)
    page, _ = run("keras", capsys, path=path, xs=XS)
    assert "1 recurrent layer: gradients" in page


def test_an_equinox_model_and_what_its_cell_receives(capsys):
    equinox = pytest.importorskip("equinox")
    from jacobian_rnn.diagnosis import record_layers

    class Model(equinox.Module):
        cell: Any
        head: Any

        def __init__(self, key):
            self.cell = equinox.nn.GRUCell(3, 8, key=key, dtype=float)
            self.head = equinox.nn.Linear(8, 2, key=key, dtype=float)

        def __call__(self, xs):
            def step(h, x):
                h = self.cell(x, h)
                return h, h

            return self.head(jax.lax.scan(step, jnp.zeros(8), xs)[0])

    model = Model(jax.random.key(0))
    page, _ = run("equinox", capsys, model=model, xs=XS)
    assert page.startswith("1 recurrent layer: gradients")
    (layer,) = record_layers(model, XS)
    assert (layer.name, layer.kind) == ("cell", "GRUCell of 8 units")
    np.testing.assert_array_equal(layer.xs, XS)
    assert not layer.carry.any()
