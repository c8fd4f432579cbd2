"""What the library knows of a cell stands in the file of that cell."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jacobian_rnn as jrnn
from jacobian_rnn.cells import layout_of, layouts
from jacobian_rnn.cells.layout import Weights
from tests.networks import CLOSED_FORMS, MAIN_CELLS, mostly_slow, normal

PACKAGE = Path(jrnn.__file__).parent
FILES = {
    "simple": {"SimpleCell"},
    "lstm": {"LSTMCell", "OptimizedLSTMCell"},
    "gru": {"GRUCell"},
    "mgu": {"MGUCell"},
}
# An IRNN is a SimpleCell that is drawn in another way.
DRAWS = {"identity_rnn": {"SimpleCell"}}


def names_in(path):
    """List what the code of a file names: no documentation."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def test_the_classes_of_a_cell_are_named_in_its_file_alone():
    cells = set.union(*FILES.values())
    found = {
        str(path.relative_to(PACKAGE).with_suffix("")): cells & set(names_in(path))
        for path in PACKAGE.rglob("*.py")
    }
    expected = {f"cells/{name}": classes for name, classes in (FILES | DRAWS).items()}
    assert {name: classes for name, classes in found.items() if classes} == expected


WITHOUT_GRU = """
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn
import jacobian_rnn as jrnn
from jacobian_rnn.mean_field import units_of

def network(cell, carry):
    return jrnn.from_linen(cell, cell.init(jax.random.key(0), carry, jnp.ones(3)))

zeros = jnp.zeros(4)
gru, mgu = network(nn.GRUCell(4), zeros), network(nn.MGUCell(4), zeros)
assert gru.jacobian is None and mgu.jacobian is not None
assert jrnn.step_jacobians(gru, zeros, jnp.ones((2, 3))).shape == (2, 4, 4)
lstm = jrnn.from_keras([np.ones((2, 12), "f4"), np.ones((3, 12), "f4")], kind="LSTM")
assert abs(units_of(jrnn.with_gain(lstm, 2.0)).forget.weight_std - 2 * 3**0.5) < 1e-5
for call in (
    lambda: jrnn.with_gain(gru, 2.0),
    lambda: jrnn.from_torch({"weight_ih_l0": np.ones((9, 2)), "weight_hh_l0": np.ones((9, 3))}),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        print(error)
"""


@pytest.mark.slow
def test_without_the_file_of_the_gru_all_other_cells_work_as_before(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "jacobian_rnn")
    (tmp_path / "jacobian_rnn" / "cells" / "gru.py").unlink()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GRU],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.splitlines()
    assert first.startswith("recurrence: received a GRUCell, expected one of AntisymmetricStep, ")
    assert second.endswith("expected (N, N) of RNN, (4N, N) of LSTM")


def test_every_layout_says_what_its_gates_need():
    for layout in layouts():
        assert layout.keeps in ("", *layout.gates)
        assert len(layout.theory) in (0, len(layout.gates))
        for foreign in (layout.pytorch, layout.keras):
            assert foreign is None or sorted(foreign.gates) == sorted(layout.gates)
        for cell, layers in layout.layers.items():
            assert layout_of(cell) is layout
            for names in layers[:3]:
                assert len(names) in (1, len(layout.gates))
    assert layout_of(nn.ConvLSTMCell) is None


@pytest.mark.parametrize("name", mostly_slow(CLOSED_FORMS, MAIN_CELLS))
def test_recurrent_kernels_are_those_of_the_gates(name, network):
    recurrence, _, _ = network(name, 5)
    kernels = jrnn.recurrent_kernels(recurrence)
    expected = recurrence.jacobian.weights(recurrence.params).recurrent
    gates = next(
        (g for k, g in {"LSTM": "ifgo", "GRU": "rzn", "MGU": "fn"}.items() if k in name), "h"
    )
    assert "".join(kernels) == gates
    for kernel, other in zip(kernels.values(), expected, strict=True):
        np.testing.assert_array_equal(kernel, other)


def test_the_blocks_of_a_fused_kernel_are_those_that_the_step_multiplies_by(network):
    recurrence, h, xs = network("nnx GRUCell", 5)
    kernels = jrnn.recurrent_kernels(recurrence)
    read = xs[0] @ recurrence.params["dense_i"]["kernel"] + recurrence.params["dense_i"]["bias"]
    x_r, x_z, x_n = np.split(read, 3)
    r, z = jax.nn.sigmoid(x_r + h @ kernels["r"]), jax.nn.sigmoid(x_z + h @ kernels["z"])
    new = (1 - z) * jnp.tanh(x_n + r * (h @ kernels["n"])) + z * h
    np.testing.assert_allclose(recurrence.step(recurrence.params, h, xs[0]), new, atol=1e-14)


def test_kernels_of_many_networks_keep_their_leading_axis():
    def draw(key):
        return jrnn.from_nnx(nnx.OptimizedLSTMCell(3, 4, rngs=nnx.Rngs(key)))

    networks = jax.vmap(draw)(jax.random.split(jax.random.key(0), 2))
    kernels = jrnn.recurrent_kernels(networks)
    assert {gate: kernel.shape for gate, kernel in kernels.items()} == dict.fromkeys(
        "ifgo", (2, 4, 4)
    )
    second = jrnn.recurrent_kernels(jax.tree.map(lambda leaf: leaf[1], networks))
    np.testing.assert_array_equal(kernels["o"][1], second["o"])


def test_a_fused_bias_on_both_sides_is_summed_but_for_what_a_gate_scales():
    layout, ones = layout_of(nnx.GRUCell), np.ones((2, 6))
    params = {
        "dense_i": {"kernel": ones, "bias": np.arange(6.0)},
        "dense_h": {"kernel": ones, "bias": 10 * np.arange(6.0)},
    }
    weights = layout.layers[nnx.GRUCell].read(params, 3)
    np.testing.assert_array_equal(weights.biases, [[0, 11], [22, 33], [4, 5]])
    np.testing.assert_array_equal(weights.read_bias, [40, 50])


@pytest.mark.parametrize("cell", [nn.SimpleCell, nn.OptimizedLSTMCell, nn.GRUCell])
def test_weights_that_are_written_are_read_again(cell):
    layout = layout_of(cell)
    layers, num_gates = layout.layers[cell], len(layout.gates)
    kernels, biases = normal(0, (2, num_gates, 3, 3)), normal(1, (num_gates, 3))
    read_bias = normal(2, (3,)) if layers.read_bias else 0.0
    weights = Weights(*map(tuple, kernels), tuple(biases), read_bias)
    again = layers.read(layers.write(weights), num_gates)
    jax.tree.map(np.testing.assert_array_equal, again, weights)


def test_a_cell_that_is_not_known_or_lacks_a_layer_is_refused(network):
    with pytest.raises(
        TypeError, match="received a LRUStep, expected one of AntisymmetricStep, GRU"
    ):
        jrnn.recurrent_kernels(jrnn.lru(2, 3, key=jax.random.key(0)))
    cell = nn.GRUCell(3)
    with pytest.raises(ValueError, match="a GRUCell without 'ir'"):
        jrnn.recurrent_kernels(jrnn.from_linen(cell, {"params": {}}))
    two, _, _ = network("SimpleCell", 3)
    with pytest.raises(TypeError, match="as unstack"):
        jrnn.recurrent_kernels(jrnn.stack(two, two))
