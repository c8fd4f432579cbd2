import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from safetensors.numpy import load_file, save_file

from jacobian_rnn import from_torch, step_jacobians, trajectory
from tests.weights.reference_layers import (
    HIDDEN,
    INPUTS,
    as_carry,
    random_state,
    run,
    sigmoid,
)

DATA = Path(__file__).parent.parent / "data"
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
DAMAGE = "no safetensors file, or is cut short"

# The equations of PyTorch's documentation, for columns, one gate after the other.


def torch_rnn(w_ih, w_hh, b_ih, b_hh, x, state, nonlinearity=np.tanh):
    return (nonlinearity(w_ih @ x + b_ih + w_hh @ state[0] + b_hh),)


def torch_relu(*arguments):
    return torch_rnn(*arguments, nonlinearity=lambda a: np.maximum(a, 0))


def torch_lstm(w_ih, w_hh, b_ih, b_hh, x, state):
    (c, h), n = state, len(state[0])
    w_ii, w_if, w_ig, w_io = (w_ih[k * n : (k + 1) * n] for k in range(4))
    w_hi, w_hf, w_hg, w_ho = (w_hh[k * n : (k + 1) * n] for k in range(4))
    b_ii, b_if, b_ig, b_io = (b_ih[k * n : (k + 1) * n] for k in range(4))
    b_hi, b_hf, b_hg, b_ho = (b_hh[k * n : (k + 1) * n] for k in range(4))
    i = sigmoid(w_ii @ x + b_ii + w_hi @ h + b_hi)
    f = sigmoid(w_if @ x + b_if + w_hf @ h + b_hf)
    g = np.tanh(w_ig @ x + b_ig + w_hg @ h + b_hg)
    o = sigmoid(w_io @ x + b_io + w_ho @ h + b_ho)
    c = f * c + i * g
    return c, o * np.tanh(c)


def torch_gru(w_ih, w_hh, b_ih, b_hh, x, state):
    (h,), n = state, len(state[0])
    w_ir, w_iz, w_in = (w_ih[k * n : (k + 1) * n] for k in range(3))
    w_hr, w_hz, w_hn = (w_hh[k * n : (k + 1) * n] for k in range(3))
    b_ir, b_iz, b_in = (b_ih[k * n : (k + 1) * n] for k in range(3))
    b_hr, b_hz, b_hn = (b_hh[k * n : (k + 1) * n] for k in range(3))
    r = sigmoid(w_ir @ x + b_ir + w_hr @ h + b_hr)
    z = sigmoid(w_iz @ x + b_iz + w_hz @ h + b_hz)
    candidate = np.tanh(w_in @ x + b_in + r * (w_hn @ h + b_hn))
    return ((1 - z) * candidate + z * h,)


def torch_weights(rng, kind, num_layers=1, *, suffix=True, prefix=""):
    weights = {}
    for k in range(num_layers):
        rows, end = GATES[kind] * HIDDEN, f"_l{k}" if suffix else ""
        weights[f"{prefix}weight_ih{end}"] = rng.normal(size=(rows, HIDDEN if k else INPUTS))
        weights[f"{prefix}weight_hh{end}"] = rng.normal(size=(rows, HIDDEN))
        weights[f"{prefix}bias_ih{end}"] = rng.normal(size=rows)
        weights[f"{prefix}bias_hh{end}"] = rng.normal(size=rows)
    return weights


def in_layers(weights):
    arrays = list(weights.values())
    return [arrays[k : k + 4] for k in range(0, len(arrays), 4)]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "step", "nonlinearity"),
    [
        ("rnn", torch_rnn, "tanh"),
        ("rnn", torch_relu, "relu"),
        ("lstm", torch_lstm, "tanh"),
        ("gru", torch_gru, "tanh"),
    ],
)
def test_all_states_are_those_of_pytorchs_equations(rng, kind, step, nonlinearity, num_layers):
    weights = torch_weights(rng, kind, num_layers)
    weights |= {key: 0.5 * array for key, array in weights.items() if nonlinearity == "relu"}
    state, xs = random_state(rng, kind, num_layers), rng.normal(size=(9, INPUTS))
    expected = run(step, in_layers(weights), state, xs)
    recurrence = from_torch(weights, nonlinearity=nonlinearity)
    got = trajectory(recurrence, as_carry(state), jnp.asarray(xs))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(recurrence.output(as_carry(state)), state[-1][-1])


@pytest.mark.parametrize("kind", GATES)
def test_weights_may_lack_biases_or_be_those_of_a_cell(rng, kind):
    weights = torch_weights(rng, kind)
    for key in ("bias_ih_l0", "bias_hh_l0"):
        weights[key] = 0 * weights[key]
    state, xs = as_carry(random_state(rng, kind, 1)), jnp.asarray(rng.normal(size=(5, INPUTS)))
    options = {"nonlinearity": "tanh"} if kind == "rnn" else {}
    expected = trajectory(from_torch(weights, **options), state, xs)
    bare = {key: array for key, array in weights.items() if "weight" in key}
    cell = {key.removesuffix("_l0"): array for key, array in weights.items()}
    for other in (bare, cell):
        np.testing.assert_array_equal(trajectory(from_torch(other, **options), state, xs), expected)


def golden(kind):
    tensors = load_file(DATA / f"torch_{kind}.safetensors")
    final = [tensors["check.hidden"]]
    if kind == "lstm":
        final.insert(0, tensors["check.cell"])
    return tensors["check.inputs"], tensors["check.outputs"], np.stack(final, axis=1)


@pytest.mark.parametrize("kind", GATES)
def test_outputs_and_final_states_are_those_that_pytorch_computed(kind):
    xs, outputs, final = golden(kind)
    recurrence = from_torch(
        DATA / f"torch_{kind}.safetensors",
        prefix=f"{kind}.",
        nonlinearity="relu" if kind == "rnn" else "tanh",
    )
    states = trajectory(recurrence, as_carry(np.zeros_like(final)), jnp.asarray(xs))
    np.testing.assert_allclose(states[-1], final.ravel(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(states[1:, -HIDDEN:], outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_states_and_jacobians_are_those_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind]
    layer = layer(INPUTS, HIDDEN, num_layers=2).double()
    xs = torch.randn(6, INPUTS, dtype=torch.float64)
    size = 2 * HIDDEN * (2 if kind == "lstm" else 1)

    def step(state, x):
        parts = state.reshape(2, -1, HIDDEN)  # layer, then c before h
        hidden = parts[:, -1].contiguous()
        given = (hidden, parts[:, 0].contiguous()) if kind == "lstm" else hidden
        new = layer(x[None], given)[1]
        return torch.stack(new[::-1] if kind == "lstm" else [new], dim=1).reshape(-1)

    states = [torch.zeros(size, dtype=torch.float64)]
    jacobians = []
    for x in xs:
        jacobians.append(
            torch.autograd.functional.jacobian(lambda s, x=x: step(s, x), states[-1]).numpy()
        )
        states.append(step(states[-1], x).detach())
    recurrence = from_torch(layer)
    carry = as_carry(np.zeros((2, size // (2 * HIDDEN), HIDDEN)))
    inputs = jnp.asarray(xs.numpy())
    got = trajectory(recurrence, carry, inputs)
    np.testing.assert_allclose(got, torch.stack(states).numpy(), rtol=1e-12, atol=1e-12)
    got = step_jacobians(recurrence, carry, inputs)
    np.testing.assert_allclose(got, np.stack(jacobians), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_the_jacobian_is_the_closed_form_and_agrees_with_differentiation(rng, kind):
    recurrence = from_torch(torch_weights(rng, kind), nonlinearity="tanh")
    assert recurrence.jacobian is not None
    carry, xs = as_carry(random_state(rng, kind, 1)), jnp.asarray(rng.normal(size=(5, INPUTS)))
    closed = step_jacobians(recurrence, carry, xs, method="closed_form")
    forward = step_jacobians(recurrence, carry, xs, method="forward")
    np.testing.assert_allclose(closed, forward, rtol=1e-11, atol=1e-12)


class Tensor:
    """A PyTorch tensor, as far as it is used."""

    def __init__(self, array, dtype=None):
        self.array, self.dtype = array, dtype or f"torch.{array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def numpy(self):
        if self.dtype == "torch.bfloat16":
            raise TypeError
        return self.array

    def __array__(self, dtype=None, copy=None):
        return self.numpy()


def test_tensors_are_copied_and_bfloat16_ones_widened(rng):
    arrays = {key: a.astype(jnp.bfloat16) for key, a in torch_weights(rng, "gru").items()}
    tensors = {key: Tensor(a, "torch.bfloat16") for key, a in arrays.items()}
    for asked, dtype in ((None, np.float32), (jnp.float64, np.float64)):
        got = from_torch(tensors, dtype=asked).params["params"]["hn"]["kernel"]
        np.testing.assert_array_equal(got, arrays["weight_hh_l0"][10:].T.astype(np.float64))
        assert got.dtype == dtype
    weights = torch_weights(rng, "lstm")
    recurrence = from_torch({key: Tensor(array) for key, array in weights.items()})
    before = ravel_pytree(recurrence.params)[0].copy()
    for array in weights.values():
        array[:] = 0
    np.testing.assert_array_equal(ravel_pytree(recurrence.params)[0], before)


def test_half_precision_files_are_widened(rng, tmp_path):
    for dtype in (np.float16, jnp.bfloat16):
        half = {key: a.astype(dtype) for key, a in torch_weights(rng, "gru").items()}
        save_file(half, tmp_path / "half.safetensors")
        params = from_torch(tmp_path / "half.safetensors").params["params"]
        expected = half["weight_hh_l0"][10:].T.astype(np.float32)
        np.testing.assert_array_equal(params["hn"]["kernel"], expected)
        assert params["hn"]["kernel"].dtype == jnp.float32


def test_dtypes_are_kept_and_cast_only_when_asked(rng):
    weights = torch_weights(rng, "gru")
    single = {key: array.astype(np.float32) for key, array in weights.items()}
    leaves = jax.tree.leaves
    assert {a.dtype for a in leaves(from_torch(single).params)} == {np.dtype(np.float32)}
    cast = from_torch(single, dtype=jnp.float64)
    assert {a.dtype for a in leaves(cast.params)} == {np.dtype(np.float64)}
    with pytest.raises(TypeError, match=r"dtypes \['float32', 'float64'\], expected one for all"):
        from_torch(weights | {"bias_hh_l0": single["bias_hh_l0"]})
    with jax.enable_x64(False):
        with pytest.raises(TypeError, match="float64 while JAX's x64 is off"):
            from_torch(weights)
        kept = from_torch(weights, dtype=jnp.float32)
        assert {a.dtype for a in leaves(kept.params)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("prefix", ["encoder.lstm.", "encoder.lstm"])
def test_a_prefix_chooses_the_layers_out_of_a_whole_model(rng, prefix):
    model = {"head.weight": np.ones(3), "decoder.weight_ih_l0": np.ones(2)}
    weights = torch_weights(rng, "lstm", 2)
    model |= {f"encoder.lstm.{key}": array for key, array in weights.items()}
    expected = from_torch(weights)
    got = from_torch(model, prefix=prefix)
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)
    assert got.step == expected.step
    for wrong, received in (("rnn.", r"'rnn\.'"), (None, "None, which fits 2 layers")):
        with pytest.raises(ValueError, match=f"received {received}.*'decoder', 'encoder.lstm'"):
            from_torch(model, prefix=wrong)
    with pytest.raises(ValueError, match=r"prefix: received '', expected .* there is none"):
        from_torch({"head.weight": np.ones(3)}, prefix="")


WRONG = {
    "missing": (lambda w: w.pop("bias_hh_l1"), r"^bias_hh_l1: received only .* of every layer"),
    "gap": (lambda w: [w.pop(k) for k in list(w) if "l1" in k], "^bias_hh_l1: received only"),
    "renamed": (lambda w: w.update({"weight_hx_l0": w.pop("weight_hh_l0")}), "^weight_hh_l0: "),
    "transposed": (
        lambda w: w.update(weight_hh_l0=w["weight_hh_l0"].T),
        r"^weight_hh_l0: received shape \(5, 20\), expected \(N, N\)",
    ),
    "transposed input": (
        lambda w: w.update(weight_ih_l0=w["weight_ih_l0"].T),
        r"^weight_ih_l0: received shape \(3, 20\), expected \(20, inputs\)",
    ),
    "vector": (
        lambda w: w.update(weight_ih_l0=np.ones(20)),
        r"^weight_ih_l0: received shape \(20,\), expected \(20, inputs\)",
    ),
    "scalar": (lambda w: w.update(weight_hh_l0=np.ones(())), r"received shape \(\), expected"),
    "empty": (lambda w: w.update(weight_hh_l0=np.ones((0, 0))), r"received shape \(0, 0\)"),
    "input size": (
        lambda w: w.update(weight_ih_l1=np.ones((20, 7))),
        r"^weight_ih_l1: received shape \(20, 7\), expected \(20, 5\)",
    ),
    "bias": (
        lambda w: w.update(bias_ih_l1=np.ones(5)),
        r"^bias_ih_l1: received shape \(5,\), expected \(20,\)",
    ),
    "reverse": (
        lambda w: w.update(weight_ih_l0_reverse=w["weight_ih_l0"]),
        "^bias_hh_l0_reverse: received only",
    ),
    "projection": (
        lambda w: w.update({f"weight_hr_l{k}": np.ones((2, 5)) for k in range(3)}),
        r"^weight_hh_l0: received shape \(20, 5\), expected \(20, 2\)",
    ),
    "mixed names": (
        lambda w: w.update(weight_ih=w["weight_ih_l0"]),
        "either every key to number its layer or none",
    ),
    "nan": (
        lambda w: w["bias_ih_l1"].__setitem__(3, np.nan),
        "^bias_ih_l1: received 1 of 20 values",
    ),
    "infinite": (
        lambda w: w["weight_hh_l0"].fill(np.inf),
        "^weight_hh_l0: received 100 of 100 values",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights_are_refused_by_name(rng, name):
    change, match = WRONG[name]
    weights = torch_weights(rng, "lstm", 3)
    change(weights)
    with pytest.raises(ValueError, match=match):
        from_torch(weights)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda w: from_torch(w, nonlinearity="relu"),
            ValueError,
            "'relu', expected None for a .*LSTM",
        ),
        (lambda w: from_torch(w, nonlinearity="sin"), ValueError, "nonlinearity: received 'sin'"),
        (lambda w: from_torch(list(w)), TypeError, "weights: received list, expected a module"),
        (lambda w: from_torch(w, prefix=0), TypeError, "prefix: received 0, expected a string"),
        (lambda w: from_torch(w, dtype=jnp.float16), TypeError, "dtype float16, expected float32"),
        (lambda w: from_torch(w, dtype="single precision"), TypeError, "'single precision', exp"),
        (lambda w: from_torch(w, dtype=int), TypeError, "^dtype: received dtype int64, expected"),
        (
            lambda w: from_torch({k: a.astype(int) for k, a in w.items()}),
            TypeError,
            "dtype int64, expected floating-point",
        ),
        (
            lambda w: from_torch(w | {"bias_ih_l0": [[1], [1, 2]]}),
            TypeError,
            "bias_ih_l0: received",
        ),
        (
            lambda w: from_torch({k: 1e300 * a for k, a in w.items()}, dtype=jnp.float32),
            ValueError,
            "beyond the range of float32",
        ),
    ],
)
def test_wrong_arguments_are_refused(rng, make, error, match):
    with pytest.raises(error, match=match):
        make(torch_weights(rng, "lstm"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", DAMAGE),
        (b"just a text, of no special length", DAMAGE),
        (b"PK\x03\x04" + bytes(100), "which cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, content, match):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(ValueError, match=match):
        from_torch(tmp_path / "model.bin")


@pytest.mark.parametrize("length", [4, 40, 900, -1])
def test_a_file_cut_short_is_refused(tmp_path, length):
    whole = (DATA / "torch_lstm.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:length])
    with pytest.raises(ValueError, match=DAMAGE):
        from_torch(str(tmp_path / "cut.safetensors"), prefix="lstm")


def test_a_file_with_integers_or_that_is_none_is_refused(tmp_path):
    weights = {key: np.ones((3, 3), np.int8) for key in ("weight_ih", "weight_hh")}
    save_file(weights, tmp_path / "int.safetensors")
    with pytest.raises(TypeError, match=r"^weight_[ih]h: received dtype int8"):
        from_torch(tmp_path / "int.safetensors", nonlinearity="tanh")
    for path in (tmp_path / "nowhere.safetensors", tmp_path):
        with pytest.raises(ValueError, match="expected the path of an existing file"):
            from_torch(path)


def test_a_missing_safetensors_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'jacobian_rnn[checkpoints]'")):
        from_torch(DATA / "torch_lstm.safetensors")
