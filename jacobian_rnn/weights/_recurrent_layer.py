"""What is known of a recurrent layer before its weights are read."""

from collections.abc import Iterable
from typing import NamedTuple

from jacobian_rnn.checks import list_names, refuse


class RecurrentLayer(NamedTuple):
    """A recurrent layer that a file, a dict or a model holds.

    Attributes:
        framework: "pytorch", "keras" or "equinox".
        prefix: where the layer is. `from_torch` and `from_keras` take it as `prefix=`, and for
            Equinox it is the path of attributes, such as ".encoder.cell".
        kind: the name that the framework gives to a layer of this kind, such as "LSTM", "GRU",
            "RNN" or "SimpleRNN".
        num_inputs: size of the input of the lowest layer.
        num_units: number of units N. An LSTM has 2 N states.
        num_layers: number of layers on top of each other.
        num_directions: 2 if layers run both forward and backward, else 1.
        num_projected: size of h where an LSTM projects it, else 0.
        dtype: dtype of the recurrent weights, such as "float32".
        untold: the arguments that tell the loader what the weights do not tell, such as
            "nonlinearity" for the weights of a PyTorch RNN.
        unread: what the layer has besides, such as the weights of a layer norm or a class of its
            own. It may compute something else than a layer of its kind. The loader refuses it
            unless it is told.

    Example:
        >>> import numpy as np
        >>> from jacobian_rnn import layers_in
        >>> (layer,) = layers_in({"weight_ih_l0": np.ones((9, 2)), "weight_hh_l0": np.ones((9, 3))})
        >>> print(layer)
        GRU at '': 2 inputs, 3 units, float64
    """

    framework: str
    prefix: str
    kind: str
    num_inputs: int
    num_units: int
    num_layers: int
    num_directions: int
    num_projected: int
    dtype: str
    untold: tuple[str, ...]
    unread: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Describe the layer in one line."""
        words = [f"{self.num_inputs} inputs", f"{self.num_units} units"]
        words += [f"{self.num_layers} layers"] if self.num_layers > 1 else []
        words += ["both directions"] if self.num_directions == 2 else []
        words += [f"projected to {self.num_projected}"] if self.num_projected else []
        words += [self.dtype, *(f"{name} not told" for name in self.untold)]
        words += [f"not read: {list_names(self.unread)}"] if self.unread else []
        return f"{self.kind} at {self.prefix!r}: {', '.join(words)}"


def choose(name: str, given: str | None, prefixes: Iterable[str], matching: list[str]) -> str:
    """Return the one prefix that matches what was asked for, or raise and list all.

    Args:
        name: name of the argument.
        given: what was asked for. None stands for the only one.
        prefixes: all prefixes that there are.
        matching: those that match.
    """
    if len(matching) == 1:
        return matching[0]
    listed = list_names(map(repr, matching or prefixes))
    received = repr(given) + (f", which fits {len(matching)} layers" if matching else "")
    advice = f"choose one of {listed}, which hold recurrent weights" if listed else "there is none"
    return refuse(name, received, "the prefix of one recurrent layer", advice)
