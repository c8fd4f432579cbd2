"""What is known of a cell: its gates, its Jacobian, and where frameworks hold its weights.

The file of a cell defines its `Layout` as `LAYOUT`. Closed forms, `with_gain`, `with_gate_bias`,
the loaders of weights and mean-field theory all read it, so a new cell needs only a new file.
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
        biases: `(N,)`, added to the sum of what both kernels read.
        read_bias: `(N,)`, added to what the last recurrent kernel reads before a gate scales it.
            It is zero where there is none.
    """

    inputs: Kernels
    recurrent: Kernels
    biases: tuple[Float[Array, "... units"], ...]
    read_bias: Float[Array, "... units"] | float = 0.0


class Layers(NamedTuple):
    """The names of the layers in which cells of one class hold their weights.

    Each tuple has a layer for every gate, or one layer in which all gates lie side by side.

    Attributes:
        inputs: layers whose kernels read the input.
        recurrent: layers whose kernels read h.
        biases: layers whose biases are added to the sum of both.
        read_bias: layer whose bias, if it has one, is added to what the last recurrent kernel
            reads. Empty where no gate scales that.
    """

    inputs: tuple[str, ...]
    recurrent: tuple[str, ...]
    biases: tuple[str, ...]
    read_bias: str = ""

    def read(self, params: Any, num_gates: int) -> Weights:
        """Take the weights out of parameters. Leading axes of many networks stay."""
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
        # All gates share one bias array, and only the part of the last gate stays apart.
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
    """A layer of PyTorch, Keras or Equinox that has the equations of a cell.

    Attributes:
        name: name of the layer there.
        gates: the gates in the order in which they lie side by side in its kernels.
        variant: the setting of the layer for which it has these equations. Empty for its default.
    """

    name: str
    gates: str
    variant: str = ""


class Layout(NamedTuple):
    """What is known of a cell.

    Attributes:
        gates: one letter each, as Flax names them, in the order of its formulas and of kernels that
            hold them side by side. "h" for a cell without gates.
        layers: the layers of each class that computes the cell. The class is one of linen or nnx,
            or a step of this package.
        keeps: the gate that keeps the state when it is open. Empty where there is none.
        jacobian: `(weights, carry, x, gate_fn, activation_fn) -> GatedJacobian`, or None for a step
            that knows its own.
        variants: formulas that replace `jacobian` where a cell's attribute has a given value, by
            the attribute's name and that value.
        loaded_as: what is made of the weights of other frameworks: a linen class with a layer for
            every gate, or a function `(weights, ..., gate_fn=, activation_fn=) -> Recurrence`.
        pytorch: the layer of PyTorch, or None.
        keras: the layer of Keras, or None.
        equinox: the cell of Equinox, or None.
        theory: the names of the gates in mean-field theory. Empty where it does not know the cell.
        embedding: the layer whose tanh stands between the input and the gates. Empty where the
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
    equinox: ForeignLayer | None = None
    theory: tuple[str, ...] = ()
    embedding: str = ""
