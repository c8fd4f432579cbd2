import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from flax import linen as nn
from rich.console import Console

import jacobian_rnn as jrnn
from experiments.initialization import _measures as measures
from experiments.initialization import _schemes as schemes
from experiments.initialization import initialization_audit as audit
from experiments.initialization._schemes import Scheme
from experiments.runner import results
from paper_figures.initialization import initialization_audit as figure

NUM_INPUTS = 3


def named(name):
    return Scheme(*name.split())


def drawn(name, width, num_inputs=NUM_INPUTS):
    key = jax.random.key(0)
    return schemes.draw(named(name), width, num_inputs, dtype=jnp.float64, key=key)


@pytest.mark.parametrize("gates", ["h", "ifgo", "rzn"])
def test_pytorch_draws_every_tensor_uniformly_within_one_over_the_root_of_the_width(gates):
    width = 400
    tensors = schemes.pytorch(gates, width, 50, dtype=jnp.float64, key=jax.random.key(0))
    for tensor in tensors:
        a = np.asarray(tensor) * np.sqrt(width)
        assert 0.97 < np.abs(a).max() <= 1
        # Standard errors of mean and variance of a uniform draw.
        assert abs(a.mean()) < 4 * np.sqrt(1 / 3 / a.size)
        assert abs(a.var() - 1 / 3) < 4 * np.sqrt(4 / 45 / a.size)
    correlation = np.corrcoef(np.ravel(tensors.bias_x), np.ravel(tensors.bias_h))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(tensors.bias_x.size)


@pytest.mark.parametrize("gates", ["h", "ifgo", "zrn"])
def test_keras_draws_one_matrix_with_orthonormal_rows_for_all_gates(gates):
    width, num_inputs = 60, 500
    tensors = schemes.keras(gates, width, num_inputs, dtype=jnp.float64, key=jax.random.key(0))
    kernel_x, kernel_h = np.asarray(tensors.kernel_x), np.asarray(tensors.kernel_h)
    assert kernel_h.shape == (width, len(gates) * width)
    np.testing.assert_allclose(kernel_h @ kernel_h.T, np.eye(width), atol=1e-12)
    assert abs(kernel_h.mean()) < 4 / np.sqrt(kernel_h.size * width)
    kernel_x = kernel_x / np.sqrt(6 / (num_inputs + len(gates) * width))
    assert 0.999 < np.abs(kernel_x).max() <= 1
    assert abs(kernel_x.mean()) < 4 * np.sqrt(1 / 3 / kernel_x.size)
    assert abs(kernel_x.var() - 1 / 3) < 4 * np.sqrt(4 / 45 / kernel_x.size)
    biases = np.asarray(tensors.bias_x + tensors.bias_h).reshape(len(gates), width)
    np.testing.assert_array_equal(biases, np.repeat([[g == "f"] for g in gates], width, axis=1))


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("library", ["PyTorch", "Keras"])
def test_networks_step_by_the_equations_in_the_manuals_of_their_libraries(library):
    width, key = 5, jax.random.key(1)
    x, h, c = (np.asarray(jax.random.normal(jax.random.key(seed), (5,))) for seed in (2, 3, 4))
    x = x[:NUM_INPUTS]

    def parts(gates):
        tensors = getattr(schemes, library.lower())(
            gates, width, NUM_INPUTS, dtype=jnp.float64, key=key
        )
        from_x = np.split(x @ tensors.kernel_x + tensors.bias_x, len(gates))
        from_h = np.split(h @ tensors.kernel_h + tensors.bias_h, len(gates))
        return from_x, from_h

    def new_carry(cell, carry):
        network = schemes.draw(Scheme(library, cell), width, NUM_INPUTS, dtype=jnp.float64, key=key)
        return network.step(network.params, carry, x)

    (a,), (b,) = parts("h")
    plain = "RNN" if library == "PyTorch" else "SimpleRNN"
    np.testing.assert_allclose(new_carry(plain, h), np.tanh(a + b), rtol=1e-12)

    i, f, g, o = (a + b for a, b in zip(*parts("ifgo"), strict=True))
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    expected = new_c, sigmoid(o) * np.tanh(new_c)
    np.testing.assert_allclose(new_carry("LSTM", (c, h)), expected, rtol=1e-12)

    gates = "rzn" if library == "PyTorch" else "zrn"
    from_x, from_h = (dict(zip(gates, part, strict=True)) for part in parts(gates))
    r, z = (sigmoid(from_x[gate] + from_h[gate]) for gate in "rz")
    n = np.tanh(from_x["n"] + r * from_h["n"])
    np.testing.assert_allclose(new_carry("GRU", h), (1 - z) * n + z * h, rtol=1e-12)


@pytest.mark.parametrize("scheme", schemes.SCHEMES, ids=" ".join)
def test_every_scheme_draws_networks_whose_gates_are_all_found(scheme):
    network = schemes.draw(scheme, 4, NUM_INPUTS, dtype=jnp.float64, key=jax.random.key(0))
    carry = jrnn.zero_carry(network)
    new = network.step(network.params, carry, jnp.ones(NUM_INPUTS))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, carry)
    kinds = {"LSTM": "ifgo", "GRU": "rzn", "MGU": "fn"}
    expected = next((gates for part, gates in kinds.items() if part in scheme.cell), "h")
    assert sorted(jrnn.recurrent_kernels(network)) == sorted(expected)


def test_the_blocks_of_a_fused_kernel_belong_to_their_gates():
    gru = drawn("nnx GRUCell", 4)
    w = jrnn.recurrent_kernels(gru)
    h, c, x = jnp.array([0.1, -0.2, 0.3, 0.4]), jnp.array([0.5, 0.1, -0.3, 1]), jnp.ones(NUM_INPUTS)
    x_r, x_z, x_n = jnp.split(x @ gru.params["dense_i"]["kernel"], 3)
    r, z = jax.nn.sigmoid(x_r + h @ w["r"]), jax.nn.sigmoid(x_z + h @ w["z"])
    n = jnp.tanh(x_n + r * (h @ w["n"]))
    np.testing.assert_allclose(gru.step(gru.params, h, x), (1 - z) * n + z * h, rtol=1e-12)

    lstm = drawn("nnx OptimizedLSTMCell", 4)
    w = jrnn.recurrent_kernels(lstm)
    from_x = dict(zip("ifgo", jnp.split(x @ lstm.params["dense_i"]["kernel"], 4), strict=True))
    i, f, o = (jax.nn.sigmoid(from_x[gate] + h @ w[gate]) for gate in "ifo")
    new_c = f * c + i * jnp.tanh(from_x["g"] + h @ w["g"])
    expected = new_c, o * jnp.tanh(new_c)
    np.testing.assert_allclose(lstm.step(lstm.params, (c, h), x), expected, rtol=1e-12)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="PyTorch MGU, expected one of linen SimpleCell"):
        drawn("PyTorch MGU", 4)


@pytest.mark.parametrize(
    ("name", "num_gates", "scale"),
    [
        ("linen OptimizedLSTMCell", 4, 1),
        ("linen GRUCell", 3, 1),
        ("nnx LSTMCell", 4, 1),
        ("nnx OptimizedLSTMCell", 4, 1 / 4),
        ("nnx GRUCell", 3, 1 / 3),
        ("Keras LSTM", 4, 1 / 4),
        ("Keras GRU", 3, 1 / 3),
    ],
)
def test_only_kernels_drawn_gate_by_gate_are_orthogonal(name, num_gates, scale):
    kernels = jrnn.recurrent_kernels(drawn(name, 200))
    one = measures.of_kernels({gate: kernel[None] for gate, kernel in kernels.items()})
    one = one.isel(network=0).dropna("gate")
    assert one.sizes["gate"] == num_gates
    np.testing.assert_allclose(one["scaled_variance"], scale, rtol=0.02)
    # By free compression the squared singular values of a block of a random orthogonal matrix
    # have mean q = 1/G and variance q²(1 − q), and the largest is 4 q (1 − q).
    np.testing.assert_allclose(one["nonorthogonality"], np.sqrt(1 - scale), rtol=0.03, atol=1e-9)
    np.testing.assert_allclose(one["spectral_radius"], np.sqrt(scale), rtol=0.06)
    if scale < 1:
        largest = 2 * np.sqrt(scale * (1 - scale))
        np.testing.assert_allclose(one["largest_singular_value"], largest, rtol=0.03)


def test_nonorthogonality_ignores_scale_and_the_other_measures_show_it():
    orthogonal = nn.initializers.orthogonal(0.3)(jax.random.key(0), (50, 50), jnp.float64)
    noise = jax.random.normal(jax.random.key(1), (50, 50)) / 10
    both = measures.of_kernels({"h": jnp.stack([orthogonal, noise])}).sel(gate="h")
    np.testing.assert_allclose(both["nonorthogonality"], [0, 1], atol=0.1)
    assert both["nonorthogonality"][0] < 1e-12
    np.testing.assert_allclose(both["scaled_variance"], [0.09, 0.5], rtol=0.1)
    for name in ("largest_singular_value", "smallest_singular_value", "spectral_radius"):
        np.testing.assert_allclose(both[name][0], 0.3, rtol=1e-9)
    squared = noise @ noise.T
    c = np.trace(squared) / 50
    direct = np.linalg.norm(squared - c * np.eye(50)) / c / np.sqrt(50)
    np.testing.assert_allclose(both["nonorthogonality"][1], direct, rtol=1e-9)


def identity(x):
    return x


@pytest.mark.slow
def test_linear_orthogonal_networks_have_the_logarithms_of_their_gains_as_exponents():
    cell = nn.SimpleCell(6, activation_fn=identity, param_dtype=jnp.float64)
    keys, carry = jax.random.split(jax.random.key(0), 3), jnp.zeros(6)
    networks = []
    for key, gain in zip(keys, (1.0, 0.5, 2.0), strict=True):
        own = cell.clone(recurrent_kernel_init=nn.initializers.orthogonal(gain))
        networks.append(jrnn.from_linen(own, own.init(key, carry, jnp.zeros(2))))
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    sizes = {"num_inputs": 2, "num_steps": 100, "num_warmup": 10, "qr_every": 5, "longer": 2}
    spectra, longer = measures.exponents(networks, carry, keys, **sizes)
    expected = np.log([1, 0.5, 2])
    np.testing.assert_allclose(spectra.exponents[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(longer, expected, atol=1e-12)


def spectra_with(each, over_time):
    """Take the spectra of a trivial system, and replace exponents and errors."""
    jacobians = jnp.full((len(each), 40, 1, 1), 0.5)
    spectra = jax.vmap(lambda j: jrnn.lyapunov_spectrum_of(j, qr_every=1))(jacobians)
    return spectra._replace(
        exponents=jnp.array(each)[:, None], standard_errors=jnp.array(over_time)[:, None]
    )


@pytest.mark.slow
def test_the_error_over_time_and_the_error_over_networks_are_told_apart():
    each, longer = np.array([-0.5, -0.4, -0.6, -0.5]), np.array([-0.5, -0.4, -0.6, -0.7])
    one = measures.of_exponents(spectra_with(each, [0.01] * 4), longer)
    error = each.std(ddof=1) / 2
    np.testing.assert_allclose(one["mean_exponent"], -0.5)
    np.testing.assert_allclose(one["error_over_networks"], error)
    np.testing.assert_allclose(one["spread_over_networks"], 2 * error)
    np.testing.assert_allclose(one["typical_error_over_time"], 0.01)
    half = 3.182446 * error  # Student's t with 3 degrees of freedom
    np.testing.assert_allclose(one["exponent_interval"], [-0.5 - half, -0.5 + half], rtol=1e-6)
    np.testing.assert_allclose(one["memory"], 2)
    np.testing.assert_allclose(one["memory_interval"], -1 / one["exponent_interval"])
    np.testing.assert_allclose(one["change"], -0.05)
    np.testing.assert_allclose(one["error_of_change"], 0.05)
    with pytest.raises(ValueError, match="λ₁ is not finite"):
        measures.of_exponents(spectra_with([np.nan, 0.0], [0.1, 0.1]), np.zeros(2))


def test_memory_is_unbounded_where_zero_cannot_be_excluded():
    exponents = np.array([-0.5, -0.01, 0.01, 0.3])
    memory = measures.memory_of(exponents, exponents[:, None] + np.array([-0.1, 0.1]))
    np.testing.assert_allclose(memory.value, [2, np.inf, np.inf, np.nan])
    ends = [[1 / 0.6, 2.5], [1 / 0.11, np.inf], [1 / 0.09, np.inf], [np.nan, np.nan]]
    np.testing.assert_allclose(memory.interval, ends)
    written = list(map(audit.described_memory, memory.value, memory.interval))
    assert written[:2] == ["2.00 [1.67, 2.50]", "unbounded [9.09, ∞)"]
    assert written[3] == "none: grows"


def test_claims_count_networks_that_grow_as_never_forgetting():
    dataset = xr.Dataset(
        {
            "memory": (("scheme", "width"), [[2.0, 3.0], [4.0, 2.5]]),
            "memory_interval": (("scheme", "width", "end"), np.full((2, 2, 2), [3.5, 4.5])),
            "nonorthogonality": (
                ("scheme", "width", "network", "gate"),
                np.stack([np.full((2, 3, 3), 1e-7), np.full((2, 3, 3), (2 / 3) ** 0.5)]),
            ),
            "mean_exponent": (("scheme", "width"), [[-0.5, -0.4], [-0.5, -0.5]]),
            "error_over_networks": (("scheme", "width"), [[0.01, 0.003], [0.01, 0.004]]),
        },
        {
            "scheme": ["linen GRUCell", "nnx GRUCell"],
            "library": ("scheme", ["linen", "nnx"]),
            "gate": ["r", "z", "n"],
        },
    )
    longest, linen, nnx, keras, fused, lstm, gru, biased = figure.claims(dataset)
    assert (longest.measured, longest.verdict) == (4.0, "holds")
    assert "nnx GRUCell" in longest.quantity
    absent = ["not measured"] * 2
    assert [one.verdict for one in (linen, nnx, keras)] == ["holds", *absent]
    assert (round(fused.measured, 9), fused.verdict) == (0, "holds")
    assert [one.verdict for one in (lstm, biased)] == absent
    np.testing.assert_allclose((gru.measured, gru.uncertainty), (-0.1, 0.005))
    dataset["memory"][0, 1] = np.nan
    longest = figure.claims(dataset)[0]
    assert (longest.measured, longest.verdict) == (math.inf, "fails")


@pytest.mark.slow
def test_the_audit_prints_both_tables_and_is_drawn(tmp_path, monkeypatch):
    chosen = tuple(map(named, ("linen SimpleCell", "nnx GRUCell", "PyTorch RNN")))
    monkeypatch.setattr(schemes, "SCHEMES", chosen)
    quick = audit.PRESETS["quick"]
    parts = {unit: audit.work(quick, unit, lambda *_: None) for unit in audit.units(quick)}
    dataset = audit.combine(quick, parts)
    dataset = results.described(dataset, quick, {"device": "cpu"}, seconds=1.0)
    dataset = results.read(results.write(dataset, tmp_path / "quick.nc"))
    assert dataset["scheme"].to_numpy().tolist() == [" ".join(scheme) for scheme in chosen]
    assert dataset["exponent"].attrs["units"] == "nats per step"
    assert (dataset["mean_exponent"] < 0).all()
    text = io.StringIO()
    audit.show(dataset, Console(file=text, width=80))
    for line in ("nnx GRUCell", "PyTorch RNN", "memory (steps)", "≠ orth.", "horizon: a longer"):
        assert line in text.getvalue()

    drawing = figure.draw(dataset)
    scale, shape, rate = drawing.axes[:3]
    labels = [tick.get_text() for tick in scale.get_yticklabels()]
    expected = ["Flax linen", "SimpleCell  h", "Flax nnx", "GRUCell  r", "z", "n", "PyTorch"]
    assert labels == [*expected, "RNN  h"]
    drawn_exponents = [bars.lines[0].get_xdata()[0] for bars in rate.containers]
    np.testing.assert_allclose(drawn_exponents, dataset["mean_exponent"].to_numpy().ravel())
    assert len(scale.containers) == len(shape.containers) == 5
    drawing.savefig(tmp_path / "figure.png")
