"""What is known of a cell: its gates, its Jacobian, and where frameworks hold its weights.

The file of a cell names its `Layout` "LAYOUT". Closed forms, `with_gain`, `with_gate_bias`, the
loaders of weights and mean-field theory read it, so that to add a cell is to add a file.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

Kernels = tuple[Float[Array, "... rows units"], ...]


class Weights(NamedTuple):
    """The weights of a cell gate by gate, each tuple in the order of its gates.

    Attributes:
        inputs: kernels `(inputs, N)` that read the input.
        recurrent: kernels `(N, N)` that read h.
        biases: `(N,)`, of the sum of both.
        read_bias: `(N,)`, added to what the last recurrent kernel reads before a gate scales it;
            zero where there is none.
    """

    inputs: Kernels
    recurrent: Kernels
    biases: tuple[Float[Array, "... units"], ...]
    read_bias: Float[Array, "... units"] | float = 0.0


class Layers(NamedTuple):
    """The names of the layers in which cells of one class hold their weights.

    Each tuple has a layer for every gate, or one layer in which all gates lie side by side.

    Attributes:
        inputs: their kernels read the input.
        recurrent: their kernels read h.
        biases: their biases are added to the sum of both.
        read_bias: its bias, if it has one, is added to what the last recurrent kernel reads; empty
            where no gate scales that.
    """

    inputs: tuple[str, ...]
    recurrent: tuple[str, ...]
    biases: tuple[str, ...]
    read_bias: str = ""

    def read(self, params: Any, num_gates: int) -> Weights:
        """Take the weights out of parameters; leading axes of many networks stay."""
        params = params.get("params", params)  # linen has collections

        def blocks(layers, entry):
            arrays = [params[layer][entry] for layer in layers]
            fused = len(arrays) < num_gates
            return tuple(jnp.split(arrays[0], num_gates, axis=-1) if fused else arrays)

        inputs, recurrent = blocks(self.inputs, "kernel"), blocks(self.recurrent, "kernel")
        weights = Weights(inputs, recurrent, blocks(self.biases, "bias"))
        if "bias" not in params.get(self.read_bias, ()):
            return weights
        if len(self.recurrent) == num_gates:
            return weights._replace(read_bias=params[self.read_bias]["bias"])
        # One bias for all gates: only that of the last stays apart.
        *more, read_bias = blocks((self.read_bias,), "bias")
        sums = (bias + other for bias, other in zip(weights.biases, more, strict=False))
        return weights._replace(biases=(*sums, weights.biases[-1]), read_bias=read_bias)

    def write(self, weights: Weights) -> dict[str, dict[str, Any]]:
        """Make the parameters of a cell that has a layer for every gate."""
        kernels = zip(self.inputs + self.recurrent, weights.inputs + weights.recurrent, strict=True)
        params = {layer: {"kernel": kernel} for layer, kernel in kernels}
        for layer, bias in zip(self.biases, weights.biases, strict=True):
            params[layer]["bias"] = bias
        if self.read_bias:
            params[self.read_bias]["bias"] = jnp.asarray(weights.read_bias)
        return params


class ForeignLayer(NamedTuple):
    """A layer of PyTorch or Keras with the equations of a cell.

    Attributes:
        name: the name of the layer there.
        gates: the gates in the order in which its kernels have them side by side.
    """

    name: str
    gates: str


class Layout(NamedTuple):
    """What is known of a cell.

    Attributes:
        gates: one letter each, as Flax names them, in the order of its formulas and of kernels that
            hold them side by side; "h" for a cell without gates.
        layers: the layers of each class that computes the cell: linen's, nnx's, or a step of this
            package.
        keeps: the gate that keeps the state when it is open; empty where there is none.
        jacobian: `(weights, carry, x, gate_fn, activation_fn) -> GatedJacobian`; None for a step
            that knows its own.
        variants: formulas in place of `jacobian` for cells with a true or false attribute, by its
            name and value.
        loaded_as: the linen class, a layer for every gate, for weights of PyTorch and Keras.
        pytorch: PyTorch's layer; None where it has none.
        keras: Keras's layer; None where it has none.
        theory: what mean-field theory calls each gate; empty where it does not know the cell.
        embedding: the layer whose tanh stands between the input and the gates; empty where the
            gates read the input.
    """

    gates: str
    layers: Mapping[type, Layers]
    keeps: str = ""
    jacobian: Callable[..., Any] | None = None
    variants: Mapping[tuple[str, bool], Callable[..., Any]] = MappingProxyType({})
    loaded_as: Callable[..., Any] | None = None
    pytorch: ForeignLayer | None = None
    keras: ForeignLayer | None = None
    theory: tuple[str, ...] = ()
    embedding: str = ""
