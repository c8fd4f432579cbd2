"""What PyTorch and Keras wrote and computed, by the scripts in tests/data/README.md."""

import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jacobian_rnn import from_keras, from_torch, layers_in, trajectory, zero_carry

DATA = Path(__file__).parent.parent / "data"


def outputs_of(network, xs):
    states = trajectory(network, zero_carry(network), xs)
    return states[1:, -network.output(zero_carry(network)).size :]


def both(forward, backward, xs):
    """Return the outputs of both directions side by side, as layers above read them."""
    shown = (outputs_of(forward, xs), outputs_of(backward, xs[::-1])[::-1])
    return jnp.concatenate(shown, axis=1)


def test_a_bidirectional_lstm_with_projections_has_the_outputs_of_pytorch():
    path = DATA / "torch_projected.safetensors"
    (layer,) = layers_in(path)
    assert str(layer) == (
        "LSTM at 'lstm': 3 inputs, 5 units, 2 layers, both directions, projected to 2, float64"
    )
    checks = load_file(path)
    xs = jnp.asarray(checks["check.inputs"])
    for k in range(2):
        xs = both(
            from_torch(path, layer=k, direction="forward"),
            from_torch(path, layer=k, direction="backward"),
            xs,
        )
    np.testing.assert_allclose(xs, checks["check.outputs"], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["keras_layers.keras", "model.weights.h5"])
def test_a_model_has_the_outputs_of_keras(tmp_path, name):
    path, lstm, gru = DATA / "keras_layers.keras", {}, {}
    if name == "model.weights.h5":  # the weights alone do not tell the functions
        with zipfile.ZipFile(path) as archive:
            archive.extract(name, tmp_path)
        path = tmp_path / name
        lstm = {"activation": "tanh", "recurrent_activation": "hard_sigmoid"}
        gru = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    else:
        assert [str(layer) for layer in layers_in(path)] == [
            "LSTM at 'layers/lstm': 3 inputs, 4 units, float32",
            "GRU at 'layers/bidirectional': 4 inputs, 2 units, both directions, float32",
        ]
    checks = np.load(DATA / "keras_layers_check.npz")
    hidden = outputs_of(from_keras(path, prefix="lstm", **lstm), jnp.asarray(checks["inputs"]))
    forward, backward = (
        from_keras(path, prefix="bidirectional", direction=direction, **gru)
        for direction in ("forward", "backward")
    )
    np.testing.assert_allclose(both(forward, backward, hidden), checks["outputs"], atol=2e-6)
