"""PyTorch itself: its modules, what it saves, and its autograd as the oracle."""

import argparse
import copy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacobian_rnn import from_torch, layers_in, step_jacobians, trajectory, zero_carry

torch = pytest.importorskip("torch")
prune = pytest.importorskip("torch.nn.utils.prune")
INPUTS, UNITS = 3, 5


@pytest.fixture(autouse=True)
def in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Model(torch.nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, INPUTS)
        self.rnn = rnn
        self.head = torch.nn.Linear(UNITS, 9)
        if INPUTS == UNITS:
            self.head.weight = self.embedding.weight


def assert_same(got, expected):
    assert got.step == expected.step
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


def check_states_and_jacobians(network, module, num_layers=1, *, size_of_h=UNITS):
    """Compare with PyTorch's states, and with its autograd through one step."""
    is_lstm = isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell)
    is_cell = isinstance(module, torch.nn.RNNCellBase)
    sizes = [UNITS, size_of_h] if is_lstm else [size_of_h]

    def step(state, x):
        parts = [torch.split(layer, sizes) for layer in torch.split(state, sum(sizes))]
        h = torch.stack([layer[-1] for layer in parts])
        given = (h, torch.stack([layer[0] for layer in parts])) if is_lstm else h
        if is_cell:
            given = tuple(one[0] for one in given) if is_lstm else given[0]
            new = module(x, given)
            new = new if is_lstm else (new,)
            return torch.cat(new[::-1])
        new = module(x[None], given)[1]
        new = new[::-1] if is_lstm else (new,)
        return torch.cat([torch.cat([one[k] for one in new]) for k in range(num_layers)])

    xs = torch.randn(6, module.input_size)
    states, jacobians = [torch.zeros(num_layers * sum(sizes))], []
    for x in xs:
        jacobian = torch.autograd.functional.jacobian(lambda s, x=x: step(s, x), states[-1])
        jacobians.append(jacobian.numpy())
        states.append(step(states[-1], x).detach())
    inputs, carry = jnp.asarray(xs.numpy()), zero_carry(network)
    got = trajectory(network, carry, inputs)
    np.testing.assert_allclose(got, torch.stack(states).numpy(), rtol=1e-12, atol=1e-12)
    got = step_jacobians(network, carry, inputs, method="closed_form")
    np.testing.assert_allclose(got, np.stack(jacobians), rtol=1e-11, atol=1e-12)


LAYERS = {
    "LSTM": lambda **more: torch.nn.LSTM(INPUTS, UNITS, **more),
    "GRU": lambda **more: torch.nn.GRU(INPUTS, UNITS, **more),
    "RNN": lambda **more: torch.nn.RNN(INPUTS, UNITS, nonlinearity="relu", **more),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("more", [{"num_layers": 2}, {"bias": False}])
def test_a_layer_alone_and_in_a_model_is_loaded_with_all_that_it_tells(kind, more):
    module = LAYERS[kind](**more)
    check_states_and_jacobians(from_torch(module), module, more.get("num_layers", 1))
    model = torch.nn.DataParallel(Model(module))
    for prefix in (None, "rnn", "module.rnn"):
        assert_same(from_torch(model, prefix=prefix), from_torch(module))
    (found,) = layers_in(model)
    assert (found.prefix, found.kind, found.untold) == ("module.rnn", kind, ())


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_are_loaded(kind):
    module = getattr(torch.nn, kind)(INPUTS, UNITS)
    check_states_and_jacobians(from_torch(module), module)


def test_an_lstm_with_projections_has_the_states_and_jacobians_of_pytorch():
    module = torch.nn.LSTM(INPUTS, UNITS, num_layers=2, proj_size=2)
    check_states_and_jacobians(from_torch(module), module, 2, size_of_h=2)


def test_both_directions_of_two_layers_have_the_outputs_of_pytorch():
    module, xs = (
        torch.nn.GRU(INPUTS, UNITS, num_layers=2, bidirectional=True),
        torch.randn(7, INPUTS),
    )
    inputs = jnp.asarray(xs.numpy())
    for k in range(2):
        shown = []
        for direction, turn in (("forward", 1), ("backward", -1)):
            network = from_torch(module, layer=k, direction=direction)
            states = trajectory(network, zero_carry(network), inputs[::turn])
            shown.append(states[1:][::turn])
        inputs = jnp.concatenate(shown, axis=1)
    np.testing.assert_allclose(inputs, module(xs)[0].detach().numpy(), rtol=1e-12, atol=1e-13)


def test_a_nonlinearity_that_the_module_contradicts_is_refused():
    module = LAYERS["RNN"]()
    assert_same(from_torch(module, nonlinearity="relu"), from_torch(module))
    with pytest.raises(ValueError, match="received 'tanh', expected 'relu', which the module has"):
        from_torch(module, nonlinearity="tanh")


def old_weight_norm(module):
    return torch.nn.utils.weight_norm(module, "weight_hh_l0")


def new_weight_norm(module):
    return torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")


def spectral_norm(module):
    return torch.nn.utils.parametrizations.spectral_norm(module, "weight_hh_l0").eval()


def orthogonal(module):
    return torch.nn.utils.parametrizations.orthogonal(module, "weight_hh_l0")


def pruned(module):
    prune.random_unstructured(module, "weight_hh_l0", amount=0.5)
    return module


@pytest.mark.parametrize(
    "change", [old_weight_norm, new_weight_norm, spectral_norm, orthogonal, pruned]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_parametrised_layer_has_the_weight_that_its_forward_pass_uses(change):
    module = LAYERS["GRU"]()
    changed = change(module)
    with torch.no_grad():
        for parameter in changed.parameters():  # as training would
            parameter.mul_(1.5)
    before = copy.deepcopy(changed.state_dict())
    network = from_torch(Model(changed), prefix="rnn")
    jax.tree.map(np.testing.assert_array_equal, dict(changed.state_dict()), dict(before))
    changed(torch.randn(2, INPUTS))
    got = network.params["params"]["hn"]["kernel"].T
    np.testing.assert_allclose(got, changed.weight_hh_l0.detach()[2 * UNITS :], rtol=1e-12)
    if change is not orthogonal:
        assert from_torch(changed.state_dict()).step == network.step
        return
    with pytest.raises(ValueError, match=r"remove_parametrizations\(layer, 'weight_hh_l0'\)"):
        from_torch(changed.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(changed, "weight_hh_l0")
    assert_same(from_torch(changed.state_dict()), network)


class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight_ih = torch.nn.Parameter(torch.randn(UNITS, INPUTS))
        self.weight_hh = torch.nn.Parameter(torch.randn(UNITS, UNITS))


def test_a_module_of_another_class_with_such_weights_is_refused():
    with pytest.raises(TypeError, match=r"weights at 'rnn': received a Own .*pass its state_dict"):
        from_torch(Model(Own()))
    from_torch(Model(Own()).state_dict(), nonlinearity="tanh")
    model = torch.nn.ModuleDict({"own": Own(), "gru": LAYERS["GRU"]()})
    assert [layer.prefix for layer in layers_in(model)] == ["gru"]
    assert_same(from_torch(model), from_torch(model["gru"]))


def save_checkpoint(module, path):
    state = {f"net.rnn.{name}": value for name, value in module.state_dict().items()}
    checkpoint = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "optimizer_states": [torch.optim.Adam(module.parameters()).state_dict()],
        "hyper_parameters": {"hidden": UNITS},
    }
    torch.save(checkpoint, path)


@pytest.mark.parametrize("name", ["state.pt", "legacy.pt", "lightning.ckpt", "w.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_pytorch_saves_is_loaded(tmp_path, name, dtype):
    save_file = pytest.importorskip("safetensors.torch").save_file
    module, path = LAYERS["LSTM"](num_layers=2).to(dtype), tmp_path / name
    if name == "lightning.ckpt":
        save_checkpoint(module, path)
    elif name == "w.safetensors":
        save_file(module.state_dict(), path)
    else:
        archive = name == "state.pt"
        torch.save(module.state_dict(), path, _use_new_zipfile_serialization=archive)
    network = from_torch(path)
    assert_same(network, from_torch(module))
    leaves = {str(leaf.dtype) for leaf in jax.tree.leaves(network.params)}
    assert leaves == {"float64" if dtype == torch.float64 else "float32"}
    (found,) = layers_in(path)
    assert (found.num_layers, found.dtype) == (2, str(dtype).removeprefix("torch."))


def test_the_recipe_for_safetensors_works_for_checkpoints_and_shared_tensors(tmp_path, monkeypatch):
    import safetensors.torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.weights.test_torch_modules.INPUTS", UNITS)
    module = torch.nn.GRU(UNITS, UNITS)
    model = Model(module)
    assert model.head.weight is model.embedding.weight
    torch.save({"epoch": 3, "state_dict": model.state_dict()}, "a.pt")
    torch.save(model.state_dict(), "b.pt")
    torch.save({"net": {"ema": model.state_dict()}, "optimizer": {"state": {0: {}}}}, "c.pt")
    for path in ("a.pt", "b.pt", "c.pt"):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "torch", None)
            with pytest.raises(ImportError, match=r"pip install 'jacobian_rnn\[torch\]'") as caught:
                from_torch(path, prefix="rnn")
        recipe = str(caught.value).partition("where PyTorch is: ")[2]
        exec(recipe, {"torch": torch, "safetensors": safetensors})
        prefix = "net.ema.rnn" if path == "c.pt" else "rnn"
        assert_same(from_torch("weights.safetensors", prefix=prefix), from_torch(module))


def test_a_checkpoint_with_objects_is_refused_with_a_way_out_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = LAYERS["LSTM"]()
    options = argparse.Namespace(hidden=UNITS)
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": options}, "a.ckpt")
    with pytest.raises(ValueError, match=r"argparse\.Namespace.*weights_only=False") as caught:
        from_torch("a.ckpt")
    check_recipe(caught, module)
    torch.save(module, "b.pt")  # a whole module, as nobody should save it
    with pytest.raises(ValueError, match=r"LSTM.*weights_only=False") as caught:
        from_torch("b.pt")
    check_recipe(caught, module)
    state = module.state_dict()
    for k, whole in enumerate(
        (
            {"model": state, "args": options},
            {"epoch": {"net": module, "args": options}},
            {"args": options, "a": {"b": {"c": state, 3: options}, "d": [options]}},
        )
    ):
        torch.save(whole, f"{k}.pt")
        with pytest.raises(ValueError, match=r"weights_only=False") as caught:
            from_torch(f"{k}.pt")
        check_recipe(caught, module)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_program_of_torchscript_is_refused_with_a_way_out_that_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = LAYERS["LSTM"]()
    torch.jit.script(module).save("script.pt")
    with pytest.raises(ValueError, match="a program of TorchScript") as caught:
        from_torch("script.pt")
    check_recipe(caught, module)


def check_recipe(caught, module):
    recipe = str(caught.value).partition("weights alone, by ")[2]
    exec(recipe, {"torch": torch})
    assert_same(from_torch("weights.pt"), from_torch(module))


def test_a_tensor_that_repeats_few_numbers_is_not_made_large(tmp_path):
    units = 10**5
    torch.save(
        {
            "weight_ih_l0": torch.zeros(1, 1).expand(4 * units, 2),
            "weight_hh_l0": torch.zeros(1, 1).expand(4 * units, units),
        },
        tmp_path / "large.pt",
    )
    with pytest.raises(ValueError, match=r"^weight_[ih]h_l0: received a tensor of \d+ bytes that"):
        from_torch(tmp_path / "large.pt")
    weights = {"weight_ih_l0": torch.ones(12, 2), "weight_hh_l0": torch.ones(12, 3).to_sparse()}
    with pytest.raises(TypeError, match=r"^weight_hh_l0: .*sparse_coo.* pass tensor\.to_dense"):
        from_torch(weights)
    dense = weights | {"weight_hh_l0": weights["weight_hh_l0"].to_dense()}
    repeated = weights | {"weight_hh_l0": torch.ones(1, 1).expand(12, 3).contiguous()}
    assert_same(from_torch(repeated), from_torch(dense))


class Normalized(torch.nn.LSTMCell):
    def __init__(self):
        super().__init__(INPUTS, UNITS)
        self.norm = torch.nn.LayerNorm(4 * UNITS)

    def forward(self, x, state):
        del x
        return state


class Named(torch.nn.LSTM):
    """A layer with the forward pass of PyTorch, and with a head that it does not use."""

    def __init__(self):
        super().__init__(INPUTS, UNITS)
        self.head = torch.nn.Linear(UNITS, 2)


def test_a_subclass_is_loaded_only_if_it_computes_what_pytorch_does():
    with pytest.raises(TypeError, match="weights at 'rnn': received a Normalized"):
        from_torch(Model(Normalized()))
    with pytest.raises(ValueError, match=r"received norm\.bias, norm\.weight besides"):
        from_torch(Model(Normalized()).state_dict())
    named = Named()
    check_states_and_jacobians(from_torch(named), named)
    assert_same(from_torch(named.state_dict(), ignore="head"), from_torch(named))
    named.forward = lambda x: x  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="received a Named"):
        from_torch(named)


def test_a_tensor_without_numbers_is_refused_by_name():
    weights = dict(LAYERS["LSTM"]().state_dict())
    weights["weight_hh_l0"] = weights["weight_hh_l0"].to("meta")
    with pytest.raises(TypeError, match=r"^weight_hh_l0: received a tensor of the device 'meta'"):
        from_torch(weights)
