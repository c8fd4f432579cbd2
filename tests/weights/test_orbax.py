import pickle
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState
from jax.flatten_util import ravel_pytree

from jacobian_rnn import from_orbax
from tests.networks import random_variables, randomized
from tests.weights.reference_layers import INPUTS, Trap


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


LINEN = {
    "SimpleCell": nn.SimpleCell(4, param_dtype=jnp.float64),
    "OptimizedLSTMCell": nn.OptimizedLSTMCell(4, param_dtype=jnp.float64),
    "GRUCell": nn.GRUCell(4, param_dtype=jnp.float64),
    "MGUCell": nn.MGUCell(4, param_dtype=jnp.float64),
    "ConvLSTMCell": nn.ConvLSTMCell(4, kernel_size=(3, 3), param_dtype=jnp.float64),
}


def linen_variables(cell):
    x = jnp.zeros((4, 4, 2) if isinstance(cell, nn.ConvLSTMCell) else INPUTS)
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    return random_variables(cell, carry, x), carry, x


@pytest.mark.parametrize("name", LINEN)
def test_a_linen_cell_is_restored_exactly(tmp_path, name):
    cell = LINEN[name]
    variables, carry, x = linen_variables(cell)
    paths = [save(tmp_path / "whole", variables), save(tmp_path / "bare", variables["params"])]
    for path in paths:
        recurrence = from_orbax(cell, path)
        jax.tree.map(np.testing.assert_array_equal, recurrence.params, variables)
        got = recurrence.step(recurrence.params, carry, x)
        expected = cell.apply(variables, carry, x)[0]
        np.testing.assert_array_equal(ravel_pytree(got)[0], ravel_pytree(expected)[0])


@pytest.mark.parametrize("make", [nnx.SimpleCell, nnx.LSTMCell, nnx.GRUCell])
@pytest.mark.parametrize("pure", [True, False])
def test_an_nnx_cell_is_restored_exactly(tmp_path, make, pure):
    options = {"param_dtype": jnp.float64, "dtype": jnp.float64}
    trained = make(INPUTS, 4, **options, rngs=nnx.Rngs(0))
    nnx.update(trained, randomized(nnx.state(trained), np.random.default_rng(1)))
    state = nnx.state(trained)
    save(tmp_path / "cell", nnx.as_pure(state) if pure else state)
    fresh = make(INPUTS, 4, **options, rngs=nnx.Rngs(1))
    before = ravel_pytree(nnx.as_pure(nnx.state(fresh)))[0]
    recurrence = from_orbax(fresh, tmp_path / "cell")
    jax.tree.map(np.testing.assert_array_equal, recurrence.params, nnx.as_pure(state))
    assert recurrence.jacobian is not None
    np.testing.assert_array_equal(ravel_pytree(nnx.as_pure(nnx.state(fresh)))[0], before)


@pytest.mark.filterwarnings("ignore:keep_rngs argument is deprecated")
def test_random_number_generators_of_an_nnx_cell_stay_its_own(tmp_path):
    options = {"param_dtype": jnp.float64, "keep_rngs": True}
    trained = nnx.GRUCell(INPUTS, 4, **options, rngs=nnx.Rngs(0))
    fresh = nnx.GRUCell(INPUTS, 4, **options, rngs=nnx.Rngs(1))
    for filters in ((nnx.Param,), ()):
        path = tmp_path / f"cell{len(filters)}"
        save(path, nnx.as_pure(nnx.state(trained, *filters)))
        params = from_orbax(fresh, path).params
        expected = nnx.as_pure(nnx.state(trained, nnx.Param))
        np.testing.assert_array_equal(params["dense_h"]["kernel"], expected["dense_h"]["kernel"])


def test_parameters_are_found_inside_a_larger_tree_and_nothing_else_is_read(tmp_path):
    cell = LINEN["GRUCell"]
    variables, *_ = linen_variables(cell)
    optax = pytest.importorskip("optax")
    params = {"rnn": variables["params"], "head": jnp.ones(3)}
    state = TrainState.create(apply_fn=cell.apply, params=params, tx=optax.adam(1e-3))
    save(tmp_path / "state", state)
    got = from_orbax(cell, tmp_path / "state", at=("params", "rnn"))
    jax.tree.map(np.testing.assert_array_equal, got.params, variables)
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = {"layers": [jax.tree.map(jnp.zeros_like, variables), variables], "name": "text"}
        checkpointer.save(tmp_path / "list", tree)
    got = from_orbax(cell, tmp_path / "list", at=("layers", 1))
    jax.tree.map(np.testing.assert_array_equal, got.params, variables)
    with pytest.raises(ValueError, match=r"expected params/hn/bias, .*pass at="):
        from_orbax(cell, tmp_path / "state")
    with pytest.raises(ValueError, match=r"at: received \('model',\), .* holds layers/0/params"):
        from_orbax(cell, tmp_path / "list", at=("model",))


@pytest.mark.slow
def test_arrays_that_were_spread_over_devices_are_read_on_one(tmp_path):
    script = f"""
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax, jax.numpy as jnp, orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
sharding = NamedSharding(Mesh(jax.devices(), ("i",)), PartitionSpec(None, "i"))
params = {{"i": {{"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}},
    "h": {{"kernel": jnp.arange(16.0).reshape(4, 4)}}}}
params = jax.tree.map(lambda a: jax.device_put(a, sharding) if a.ndim > 1 else a, params)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save({str(tmp_path / "sharded")!r}, params)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    params = from_orbax(nn.SimpleCell(4), tmp_path / "sharded").params["params"]
    np.testing.assert_array_equal(params["h"]["kernel"], np.arange(16.0).reshape(4, 4))
    np.testing.assert_array_equal(params["i"]["kernel"], np.arange(12.0).reshape(3, 4))


CHANGES = {
    "missing": (lambda p: p["hn"].pop("bias"), ValueError, "^params/hn/bias: received only"),
    "extra": (
        lambda p: p.update(hx={"kernel": p["hn"]["kernel"]}),
        ValueError,
        "^params/hx/kernel",
    ),
    "renamed": (lambda p: p.update(hm=p.pop("hn")), ValueError, "^params/hm/bias: received it"),
    "transposed": (
        lambda p: p["in"].update(kernel=p["in"]["kernel"].T),
        ValueError,
        r"^params/in/kernel: received shape \(4, 3\), expected \(3, 4\)",
    ),
    "wider": (
        lambda p: p["hn"].update(bias=jnp.ones(5)),
        ValueError,
        r"^params/hn/bias: received shape \(5,\), expected \(4,\)",
    ),
    "dtype": (
        lambda p: p["hn"].update(bias=jnp.ones(4, jnp.float32)),
        TypeError,
        r"^params/hn/bias: received dtype float32, expected float64.*param_dtype=jnp\.float32",
    ),
    "nan": (
        lambda p: p["hn"].update(bias=jnp.full(4, jnp.nan)),
        ValueError,
        "^params/hn/bias: received 4 of 4 values",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_does_not_fit_its_cell_is_refused_by_name(tmp_path, name):
    change, error, match = CHANGES[name]
    variables, *_ = linen_variables(LINEN["GRUCell"])
    change(variables["params"])
    with pytest.raises(error, match=match):
        from_orbax(LINEN["GRUCell"], save(tmp_path / "cell", variables))


def test_an_nnx_checkpoint_that_does_not_fit_its_cell_is_refused_by_name(tmp_path):
    cell = nnx.GRUCell(INPUTS, 4, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    save(tmp_path / "cell", nnx.as_pure(nnx.state(cell)))
    wider = nnx.GRUCell(INPUTS, 6, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"dense_h/kernel: received shape \(4, 12\).*\(6, 18\)"):
        from_orbax(wider, tmp_path / "cell")
    single = nnx.GRUCell(INPUTS, 4, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="received dtype float64, expected float32"):
        from_orbax(single, tmp_path / "cell")
    with jax.enable_x64(False), pytest.raises(TypeError, match="float64 while JAX's x64 is off"):
        from_orbax(single, tmp_path / "cell")
    with pytest.raises(TypeError, match="received a str"):
        from_orbax("GRU", tmp_path / "cell")


def test_what_is_no_orbax_checkpoint_is_refused(tmp_path):
    cell = LINEN["GRUCell"]
    variables, *_ = linen_variables(cell)
    save(tmp_path / "run" / "7" / "default", variables)
    with pytest.raises(ValueError, match=r"there is one in .*run/7/default"):
        from_orbax(cell, tmp_path / "run")
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(Trap()))
    for path in (tmp_path / "nowhere", tmp_path / "weights.pkl"):
        with pytest.raises(ValueError, match="expected the directory of a complete Orbax"):
            from_orbax(cell, path)


def test_an_orbax_checkpoint_with_damaged_metadata_is_refused(tmp_path):
    cell = LINEN["GRUCell"]
    path = save(tmp_path / "cell", linen_variables(cell)[0])
    (path / "_METADATA").write_text('{"tree_')
    with pytest.raises(ValueError, match=r"path: received .*damaged"):
        from_orbax(cell, path)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("kept", [0, 0.8])  # a file may end in a kilobyte that nothing refers to
@pytest.mark.parametrize("what", ["d/*", "ocdbt.process_0/d/*"])  # the index; the arrays, largest
def test_an_orbax_checkpoint_that_is_cut_short_is_refused(tmp_path, what, kept):
    path = save(tmp_path / "cell", linen_variables(nn.SimpleCell(64))[0])
    file = max(path.glob(what), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    # In a process of its own: Orbax leaves the other arrays' errors behind in its event loop.
    script = f"""
from flax import linen as nn
from jacobian_rnn import from_orbax
try:
    from_orbax(nn.SimpleCell(64), {str(path)!r})
except ValueError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search("path: received .*damaged", output)


@pytest.mark.parametrize(
    "layer",
    [
        nn.RNN(nn.GRUCell(4)),
        nnx.RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1)),
    ],
)
def test_a_layer_is_refused_in_favour_of_its_cell(layer, tmp_path):
    with pytest.raises(ValueError, match="cell: received an RNN layer, expected its cell"):
        from_orbax(layer, tmp_path)
