import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jacobian_rnn import from_linen, from_nnx, leaky_rate_network, minimal_rnn, with_gate_bias
from jacobian_rnn.mean_field import (
    Gate,
    GRUUnits,
    LSTMUnits,
    MinimalUnits,
    SimpleUnits,
    fresh_growth,
    units_of,
)
from tests.networks import NNX, mostly_slow, random_variables

STD = 0.7
LSTM, GRU = ("input", "forget", "candidate", "output"), ("reset", "update", "candidate")
# Of each cell the units, and its gates by their names in theory and in Flax's layers.
CELLS = {
    "SimpleCell": (SimpleUnits, {"unit": ""}),
    "LSTMCell": (LSTMUnits, dict(zip(LSTM, "ifgo", strict=True))),
    "OptimizedLSTMCell": (LSTMUnits, dict(zip(LSTM, "ifgo", strict=True))),
    "GRUCell": (GRUUnits, dict(zip(GRU, "rzn", strict=True))),
    "nnx SimpleCell": (SimpleUnits, {"unit": 0}),
    "nnx LSTMCell": (LSTMUnits, dict(zip(LSTM, "ifgo", strict=True))),
    "nnx OptimizedLSTMCell": (LSTMUnits, dict(zip(LSTM, range(4), strict=True))),
    "nnx GRUCell": (GRUUnits, dict(zip(GRU, range(3), strict=True))),
}


def measured(params, gate, bias_side):
    """Measure a gate by hand; a number is its block of a fused kernel."""
    if isinstance(gate, int):
        u, w, b = (
            np.split(np.asarray(a), np.shape(a)[-1] // 5, axis=-1)[gate]
            for a in (
                params["dense_i"]["kernel"],
                params["dense_h"]["kernel"],
                params[f"dense_{bias_side}"]["bias"],
            )
        )
    else:
        read = "if_" if gate == "f" and "if_" in params else f"i{gate}"
        u, w = params[read]["kernel"], params[f"h{gate}"]["kernel"]
        b = params[f"h{gate}" if bias_side == "h" else read]["bias"]
    return (
        np.sqrt(5 * np.mean(np.square(w))),
        STD * np.sqrt(3 * np.mean(np.square(u))),
        np.mean(b),
        np.std(b),
    )


@pytest.mark.parametrize(
    "name", mostly_slow(CELLS, ["SimpleCell", "nnx OptimizedLSTMCell", "GRUCell"])
)
def test_units_have_the_variances_of_the_kernels_and_biases_gate_by_gate(name, network):
    recurrence, _, _ = network(name, 5)
    kind, gates = CELLS[name]
    params = recurrence.params.get("params", recurrence.params)
    if name == "GRUCell":
        params = params | {"hn": params["hn"] | {"bias": jnp.zeros(5)}}
        recurrence = dataclasses.replace(recurrence, params={"params": params})
    side = "h" if "LSTM" in name else "i"
    expected = {one: measured(params, gate, side) for one, gate in gates.items()}
    got = units_of(recurrence, input_std=STD)
    assert type(got) is kind
    assert got._fields == tuple(gates)
    for one, gate in zip(gates, got, strict=True):
        np.testing.assert_allclose(gate, expected[one], rtol=1e-12)


def test_a_minimal_network_is_described_through_its_embedding():
    network = minimal_rnn(3, 4, key=jax.random.key(0), dtype=jnp.float64)
    offsets = jnp.array([0.0, 0.5, -1.0, 2.0])
    embedding = network.params["embedding"] | {"bias": offsets}
    network = dataclasses.replace(network, params=network.params | {"embedding": embedding})
    network = with_gate_bias(network, "u", jnp.array([1.0, 3.0, 1.0, 3.0]))
    got = units_of(network, input_std=STD)
    assert type(got) is MinimalUnits
    x = STD * np.random.default_rng(0).standard_normal((400_000, 3))
    z = np.tanh(x @ np.asarray(embedding["kernel"]) + np.asarray(offsets))
    fresh, still = np.mean(np.var(z, axis=0)), np.mean(z, axis=0)
    weight, read = (
        np.sqrt(4 * np.mean(np.square(network.params[name]["kernel"])))
        for name in ("recurrent", "input")
    )
    expected = MinimalUnits(
        Gate(weight, read * fresh**0.5, 2.0, np.sqrt(1 + read**2 * np.mean(still**2))),
        Gate(0.0, fresh**0.5, np.mean(still), np.std(still)),
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-3)


def test_many_networks_are_described_together_and_in_a_program():
    def draw(key):
        cell = nn.LSTMCell(6, param_dtype=jnp.float64)
        return from_linen(cell, cell.init(key, (jnp.zeros(6), jnp.zeros(6)), jnp.zeros(2)))

    networks = jax.vmap(draw)(jax.random.split(jax.random.key(0), 7))
    alone = [units_of(jax.tree.map(lambda leaf, i=i: leaf[i], networks)) for i in range(7)]
    squares = np.mean([np.square(units.candidate.weight_std) for units in alone])
    got = jax.jit(units_of)(networks, input_std=0.5)
    np.testing.assert_allclose(got.candidate.weight_std, np.sqrt(squares), rtol=1e-12)
    # LeCun normal kernels keep the size of their input, up to the noise of 84 draws.
    assert float(got.forget.input_std) == pytest.approx(0.5, rel=0.25)


@pytest.mark.slow
def test_theory_takes_what_networks_give():
    network = from_nnx(NNX["nnx GRUCell"](5))
    kernels = jax.tree.map(lambda leaf: leaf + 0.3 if leaf.ndim == 2 else leaf, network)
    assert bool(jnp.isfinite(fresh_growth(units_of(kernels, input_std=STD)).rate))


def drawn(cell):
    carry = cell.initialize_carry(jax.random.key(0), (3,))
    return from_linen(cell, random_variables(cell, carry, jnp.zeros(3, jnp.float32)))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: drawn(nn.MGUCell(4)), TypeError, "networks: received a MGUCell, expected a plain"),
        (
            lambda: leaky_rate_network(2, 3, key=jax.random.key(0)),
            TypeError,
            "networks: received a LeakyStep",
        ),
        (lambda: nn.GRUCell(4), TypeError, "expected a Recurrence"),
        (
            lambda: drawn(nn.SimpleCell(4, activation_fn=nn.relu)),
            ValueError,
            "a SimpleCell of other equations, expected tanh",
        ),
        (lambda: drawn(nn.SimpleCell(4, residual=True)), ValueError, "no residual"),
        (lambda: drawn(nn.GRUCell(4, gate_fn=nn.hard_sigmoid)), ValueError, "sigmoid gates"),
        (lambda: drawn(nn.GRUCell(4)), ValueError, "bias that a gate scales"),
    ],
)
def test_networks_that_theory_does_not_describe_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        units_of(make())


def test_bad_numbers_are_refused():
    network = drawn(nn.SimpleCell(4))
    with pytest.raises(ValueError, match="input_std: received -1"):
        units_of(network, input_std=-1.0)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, network)
    with pytest.raises(ValueError, match="networks"):
        units_of(broken)
