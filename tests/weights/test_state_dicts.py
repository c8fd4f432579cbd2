"""State dicts as people have them: nested, with prefixes, parametrised, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jacobian_rnn import from_torch, layers_in, stack, step_jacobians, trajectory, zero_carry
from tests.weights.reference_layers import sigmoid

INPUTS, UNITS, PROJECTED = 3, 6, 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def lstm_weights(rng, num_layers=1, *, directions=1, projected=0):
    weights, read = {}, projected or UNITS
    for k in range(num_layers):
        for back in ("", "_reverse")[:directions]:
            shapes = {
                "weight_ih": (4 * UNITS, directions * read if k else INPUTS),
                "weight_hh": (4 * UNITS, read),
                "bias_ih": (4 * UNITS,),
                "bias_hh": (4 * UNITS,),
            }
            shapes |= {"weight_hr": (projected, UNITS)} if projected else {}
            weights |= {f"{n}_l{k}{back}": rng.normal(size=shape) for n, shape in shapes.items()}
    return weights


def assert_same(got, expected):
    assert got.step == expected.step
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


@pytest.mark.parametrize(
    ("keys", "front", "prefixes"),
    [
        (("state_dict",), "model.lstm.", (None, "model.lstm", "state_dict.model.lstm")),
        (("model",), "", (None, "", "model")),
        (("epoch_3", "model_state"), "lstm.", (None, "lstm", "epoch_3.model_state.lstm")),
        ((), "module.lstm.", (None, "lstm", "module.lstm", "lstm.")),
        ((), "_orig_mod.net._orig_mod.lstm.", (None, "net.lstm", "_orig_mod.net._orig_mod.lstm")),
        ((), "", (None, "")),
    ],
)
def test_a_layer_is_found_however_its_keys_are_wrapped(rng, keys, front, prefixes):
    weights = lstm_weights(rng, 2)
    whole = {front + name: array for name, array in weights.items()}
    whole |= {"fc.weight": np.ones(3)} if front else {}
    for key in reversed(keys):
        whole = {key: whole, "epoch": 3, "optimizer_states": [{"state": {0: np.ones(3)}}], 7: None}
    expected = from_torch(weights)
    for prefix in prefixes:
        assert_same(from_torch(whole, prefix=prefix), expected)
    (found,) = layers_in(whole)
    assert found.prefix == ".".join((*keys, front)).removesuffix(".").lstrip(".")
    assert_same(from_torch(whole, prefix=found.prefix), expected)


def test_several_layers_are_listed_and_none_is_taken_in_silence(rng):
    weights = lstm_weights(rng)
    averaged = {name: 2 * array for name, array in weights.items()}
    whole = {
        key: {f"lstm.{name}": array for name, array in state.items()}
        for key, state in {"model": weights, "average": averaged}.items()
    }
    match = r"received {}, which fits 2 layers.* one of 'average\.lstm', 'model\.lstm'"
    for prefix in (None, "lstm"):
        with pytest.raises(ValueError, match=match.format(repr(prefix))):
            from_torch(whole, prefix=prefix)
    assert_same(from_torch(whole, prefix="average.lstm"), from_torch(averaged))
    with pytest.raises(ValueError, match=r"prefix: received 'gru', .* 'model\.lstm'"):
        from_torch(whole, prefix="gru")


def test_of_weights_that_were_dropped_out_the_original_is_taken(rng):
    weights = lstm_weights(rng)
    copy = weights["weight_hh_l0"] * 2 * (rng.random(weights["weight_hh_l0"].shape) < 0.5)
    beside = {f"enc.module.{name}": array for name, array in weights.items()}
    beside |= {"enc.module.weight_hh_l0": copy, "enc.weight_hh_l0_raw": weights["weight_hh_l0"]}
    alone = {f"enc.{name}": array for name, array in weights.items() if name != "weight_hh_l0"}
    alone |= {"enc.weight_hh_l0_raw": weights["weight_hh_l0"]}
    expected = from_torch(weights)
    for prefix in (None, "enc", "enc.module"):
        assert_same(from_torch(beside, prefix=prefix), expected)
    for prefix in (None, "enc"):
        assert_same(from_torch(alone, prefix=prefix), expected)


def weight_norm(rng, weight):
    norm = np.linalg.norm(weight, axis=1, keepdims=True)
    return norm, weight * rng.uniform(0.5, 2, size=norm.shape)


def spectral(rng, weight):
    left, right = rng.normal(size=len(weight)), rng.normal(size=weight.shape[1])
    return weight * 3, left, right, weight * 3 / (left @ (weight * 3) @ right)


@pytest.mark.parametrize("names", [("_g", "_v"), (".original0", ".original1")])
def test_weight_norm_is_computed(rng, names):
    weights = lstm_weights(rng)
    stored = dict(weights)
    weight = stored.pop("weight_hh_l0")
    front = "parametrizations." if names[0].startswith(".") else ""
    for end, array in zip(names, weight_norm(rng, weight), strict=True):
        stored[f"{front}weight_hh_l0{end}"] = array
    got, expected = (from_torch(one).params["params"]["hi"]["kernel"] for one in (stored, weights))
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    stored.pop(f"{front}weight_hh_l0{names[0]}")
    with pytest.raises(ValueError, match=rf"^{front}weight_hh_l0{names[1]}: received"):
        from_torch(stored)


def test_a_norm_of_the_whole_weight_or_of_its_columns_is_known_by_its_shape(rng):
    weights = lstm_weights(rng)
    weight = weights.pop("weight_hh_l0")
    for axis in (None, 0):
        norm = np.asarray(np.linalg.norm(weight, axis=axis, keepdims=axis is not None))
        stored = weights | {"weight_hh_l0_g": norm, "weight_hh_l0_v": 3 * weight}
        got = from_torch(stored).params["params"]["hi"]["kernel"]
        np.testing.assert_allclose(got, weight[:UNITS].T, rtol=1e-14)
    stored["weight_hh_l0_g"] = np.ones((2, 1))
    with pytest.raises(ValueError, match=r"^weight_hh_l0_v: received shape \(2, 1\)"):
        from_torch(stored)


@pytest.mark.parametrize(
    ("front", "names"),
    [("", ("_orig", "_u", "_v")), ("parametrizations.", (".original", ".0._u", ".0._v"))],
)
def test_spectral_norm_is_computed(rng, front, names):
    weights = lstm_weights(rng)
    *parts, value = spectral(rng, weights["weight_hh_l0"])
    stored = dict(weights)
    del stored["weight_hh_l0"]
    stored |= {f"{front}weight_hh_l0{end}": a for end, a in zip(names, parts, strict=True)}
    got = from_torch(stored).params["params"]["hi"]["kernel"]
    np.testing.assert_allclose(got, value[:UNITS].T, rtol=1e-13)


def test_pruned_weights_are_masked(rng):
    weights = lstm_weights(rng)
    mask = rng.random(weights["weight_hh_l0"].shape) < 0.5
    stored = weights | {"weight_hh_l0_orig": weights["weight_hh_l0"]}
    stored |= {"weight_hh_l0_mask": mask.astype(float)}
    del stored["weight_hh_l0"]
    assert_same(
        from_torch(stored), from_torch(weights | {"weight_hh_l0": weights["weight_hh_l0"] * mask})
    )


def test_a_parametrisation_that_is_not_stored_is_refused(rng):
    weights = lstm_weights(rng)
    stored = {f"rnn.{name}": array for name, array in weights.items()}
    original = stored.pop("rnn.weight_hh_l0")
    stored |= {"rnn.parametrizations.weight_hh_l0.original": original}
    stored |= {"rnn.parametrizations.weight_hh_l0.0.base": original}
    match = r"^rnn\.parametrizations\.weight_hh_l0\.original: .*pass the module itself"
    with pytest.raises(ValueError, match=match):
        from_torch(stored)


def step_by_hand(weights, k, back, state, x):
    """Compute one step of one layer and direction of an LSTM with projections."""
    (c, h) = state
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, b, d = (weights[f"{name}_l{k}{back}"] for name in names)
    i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return c, weights[f"weight_hr_l{k}{back}"] @ h if f"weight_hr_l{k}{back}" in weights else h


def states_by_hand(weights, k, back, state, xs):
    states = [np.concatenate(state)]
    for x in xs:
        state = step_by_hand(weights, k, back, state, x)
        states.append(np.concatenate(state))
    return np.stack(states)


def test_an_lstm_with_projections_has_the_states_of_its_equations(rng):
    weights = lstm_weights(rng, projected=PROJECTED)
    state, xs = (rng.normal(size=UNITS), rng.normal(size=PROJECTED)), rng.normal(size=(8, INPUTS))
    got = trajectory(from_torch(weights), tuple(map(jnp.asarray, state)), jnp.asarray(xs))
    np.testing.assert_allclose(got, states_by_hand(weights, 0, "", state, xs), rtol=1e-12)
    (found,) = layers_in(weights)
    assert (found.num_units, found.num_projected, found.num_inputs) == (UNITS, PROJECTED, INPUTS)


def test_two_layers_with_projections_are_a_stack_with_a_closed_form(rng):
    weights = lstm_weights(rng, 2, projected=PROJECTED)
    network = from_torch(weights)
    xs = jnp.asarray(rng.normal(size=(3, INPUTS)))
    state = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), zero_carry(network))
    closed = step_jacobians(network, state, xs, method="closed_form")
    forward = step_jacobians(network, state, xs, method="forward")
    np.testing.assert_allclose(closed, forward, rtol=1e-11, atol=1e-12)
    assert_same(network, stack(from_torch(weights, layer=0), from_torch(weights, layer=1)))


@pytest.mark.parametrize("projected", [0, PROJECTED])
def test_each_direction_of_each_layer_is_a_system_of_its_own(rng, projected):
    weights = lstm_weights(rng, 2, directions=2, projected=projected)
    read = projected or UNITS
    (found,) = layers_in(weights)
    assert (found.num_layers, found.num_directions) == (2, 2)
    for k, inputs in ((0, INPUTS), (1, 2 * read)):
        for direction, back in (("forward", ""), ("backward", "_reverse")):
            network = from_torch(weights, layer=k, direction=direction)
            xs, state = rng.normal(size=(5, inputs)), (np.zeros(UNITS), np.zeros(read))
            got = trajectory(network, zero_carry(network), jnp.asarray(xs))
            expected = states_by_hand(weights, k, back, state, xs)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "direction: received None for a bidirectional LSTM.*direction='forward'"),
        ({"direction": "forward"}, "layer: received None for 2 bidirectional layers"),
        ({"direction": "left"}, "direction: received 'left', expected one of"),
        ({"direction": "forward", "layer": 2}, "layer: received 2, expected 0 to 1"),
        ({"direction": "forward", "layer": -1}, "layer: received -1"),
    ],
)
def test_what_a_bidirectional_layer_needs_is_asked_for(rng, options, match):
    with pytest.raises(ValueError, match=match):
        from_torch(lstm_weights(rng, 2, directions=2), **options)


def test_one_layer_of_a_stack_can_be_loaded_alone(rng):
    weights = lstm_weights(rng, 3)
    middle = {name.replace("_l1", ""): a for name, a in weights.items() if name.endswith("_l1")}
    assert_same(from_torch(weights, layer=1), from_torch(middle))
    with pytest.raises(ValueError, match="'backward' for layers that run forward alone"):
        from_torch(weights, direction="backward")


def test_the_nonlinearity_of_an_rnn_is_asked_for(rng):
    weights = {"rnn.weight_ih": rng.normal(size=(4, 2)), "rnn.weight_hh": rng.normal(size=(4, 4))}
    assert layers_in(weights)[0].untold == ("nonlinearity",)
    with pytest.raises(
        ValueError, match=r"nonlinearity: received None .* expected 'tanh' or 'relu'"
    ):
        from_torch(weights)
    relu = from_torch(weights, nonlinearity="relu")
    x = jnp.asarray(rng.normal(size=2))
    got = relu.step(relu.params, jnp.zeros(4), x)
    np.testing.assert_allclose(got, np.maximum(weights["rnn.weight_ih"] @ x, 0), rtol=1e-14)


def test_arrays_of_numpy_are_read_from_an_archive(rng, tmp_path):
    weights = lstm_weights(rng)
    named = {f"enc.lstm.{name}": array for name, array in weights.items()}
    for write, name in ((np.savez, "w.npz"), (np.savez_compressed, "compressed")):
        write(tmp_path / name, **named, steps=np.arange(3))
        path = next(tmp_path.glob(f"{name}*"))
        assert_same(from_torch(path), from_torch(weights))
        assert layers_in(path) == layers_in(named)


def test_a_list_of_layers_says_the_same_of_a_file_and_of_a_dict(rng, tmp_path):
    weights = {f"a.{name}": array for name, array in lstm_weights(rng, 2).items()}
    weights |= {"b.weight_ih": np.ones((9, 2), "f4"), "b.weight_hh": np.ones((9, 3), "f4")}
    save_file(weights, tmp_path / "w.safetensors")
    first, second = layers_in(tmp_path / "w.safetensors")
    assert {first, second} == set(layers_in(weights))
    assert [str(one) for one in sorted((first, second), key=lambda one: one.prefix)] == [
        "LSTM at 'a': 3 inputs, 6 units, 2 layers, float64",
        "GRU at 'b': 2 inputs, 3 units, float32",
    ]
    assert layers_in({"fc.weight": np.ones((2, 3))}) == ()
    with pytest.raises(TypeError, match="source: received a list, expected a path"):
        layers_in([weights])


OTHERS = {
    "rnn.cell.layernorm_i.weight": np.ones(24),
    "rnn.cell.weight_ch": np.ones(18),
    "rnn.cell.bias_hr": np.ones(6),
}


@pytest.mark.parametrize("key", OTHERS)
@pytest.mark.parametrize("root", ["rnn.cell.", ""])
def test_an_array_of_the_layer_that_is_not_read_is_refused_by_name(rng, key, root, tmp_path):
    weights = lstm_weights(rng)
    cell = {f"{root}{name.removesuffix('_l0')}": array for name, array in weights.items()}
    name = key.removeprefix("rnn.cell.")
    whole = cell | {root + name: OTHERS[key]}
    save_file(whole, tmp_path / "w.safetensors")
    head = name.partition(".")[0]
    for source in (whole, {"model": whole, "epoch": np.ones(3)}, tmp_path / "w.safetensors"):
        with pytest.raises(ValueError, match=rf"received {name} besides .*ignore=\['{head}'\]"):
            from_torch(source, prefix=root.removesuffix("."))
        layers = {layer.prefix.removeprefix("model."): layer for layer in layers_in(source)}
        place = "model" if isinstance(source, dict) and "model" in source and not root else ""
        assert layers[place or root.removesuffix(".")].unread == (name,)
        got = from_torch(source, prefix=root.removesuffix("."), ignore=[head])
        assert_same(got, from_torch(cell))


def test_what_is_elsewhere_or_no_float_is_harmless(rng):
    cell = {f"rnn.cell.{name}": array for name, array in lstm_weights(rng).items()}
    others = {"norm.weight": np.ones(3), "rnn.norm.weight": np.ones(3), "rnn.h0": np.ones(3)}
    others |= {"rnn.cell.num_batches_tracked": np.array(3), "rnn.cellular.w": np.ones(3)}
    (layer,) = layers_in(cell | others)
    assert layer.unread == ()
    assert_same(from_torch(cell | others), from_torch(cell))
    with pytest.raises(ValueError, match=r"ignore: received 'h0', .*there is nothing"):
        from_torch(cell, ignore="h0")
