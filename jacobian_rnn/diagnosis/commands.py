"""What the command `jacobian-rnn` does: weights and inputs in files in, a page out."""

import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from jacobian_rnn.diagnosis.finding_files import record_file
from jacobian_rnn.diagnosis.measures import diagnose_layers
from jacobian_rnn.diagnosis.report import html_report
from jacobian_rnn.diagnosis.result import Diagnosis
from jacobian_rnn.weights import layers_in

# 1 is an error and 2 a wrong command line.
STATUS = {"stable": 0, "vanishing": 10, "exploding": 11, "undetermined": 12}
COLOURS = {"STABLE": "green", "VANISHING": "blue", "EXPLODING": "red", "UNDETERMINED": "magenta"}

# What errors may name, by its option.
ASKED = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        *("inputs", "horizon", "prefix", "direction", "nonlinearity", "activation"),
        *("recurrent_activation", "reset_after", "ignore", "kind"),
    )
} | {"seq_lengths": "--lengths"}


@dataclasses.dataclass(frozen=True)
class Diagnose:
    """Say of each recurrent layer in a file whether gradients survive the trip back through it.

    The exit status is that of the worst layer: 0 stable, 10 vanishing, 11 exploding, 12
    undetermined. It is 1 where the file or the inputs cannot be used, and 2 for a wrong command.
    """

    file: tyro.conf.Positional[Path]
    """Weights: .safetensors, .npz, .pt, .ckpt, .keras, .weights.h5 or .h5."""
    inputs: Path
    """A .npy file with what the lowest layer reads, floats (batch, time, inputs)."""
    horizon: int | None = None
    """Steps that a gradient has to survive. By default the shortest sequence, whole."""
    prefix: str | None = None
    """Where in the file the layer is, as `jacobian-rnn layers FILE` lists them."""
    direction: Literal["forward", "backward"] | None = None
    """Of a Keras layer that runs backwards, or the only one of a bidirectional layer to look at."""
    lengths: Path | None = None
    """A .npy file with the number of steps of each sequence, where sequences are padded."""
    nonlinearity: Literal["tanh", "relu"] | None = None
    """Of the weights of a PyTorch RNN, which do not tell it."""
    activation: str | None = None
    """Of a Keras layer whose file does not tell it."""
    recurrent_activation: str | None = None
    """Of the gates of a Keras layer whose file does not tell it."""
    reset_after: bool | None = None
    """Of a Keras GRU whose file does not tell it."""
    ignore: tuple[str, ...] = ()
    """Names beside PyTorch's weights of the layer that do not change what it computes."""
    kind: Literal["SimpleRNN", "LSTM", "GRU"] | None = None
    """What a Keras layer with a class of its own, or with other arrays, computes nevertheless."""
    dtype: Literal["float32", "float64"] = "float32"
    """In which everything is computed."""
    json: bool = False
    """Print the numbers as JSON and no page."""
    html: Path | None = None
    """Also write a report with pictures, one file, to this path."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """List the recurrent layers in a file. The exit status is 0, or 1 where it cannot be read."""

    file: tyro.conf.Positional[Path]
    """Weights: .safetensors, .npz, .pt, .ckpt, .keras, .weights.h5 or .h5."""
    json: bool = False
    """Print the list as JSON."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, that of the process by default, and return the exit status."""
    command = tyro.cli(
        Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
        | Annotated[Layers, tyro.conf.subcommand("layers")],
        args=arguments,
        prog="jacobian-rnn",
        description="Will gradients survive the trip back through a recurrent network?",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    try:
        if isinstance(command, Layers):
            return _list_layers(command)
        with jax.enable_x64(command.dtype == "float64"):
            return _diagnose(command)
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"jacobian-rnn: {as_options(str(error))}", file=sys.stderr)
        return 1


def _diagnose(command: Diagnose) -> int:
    names = ("nonlinearity", "activation", "recurrent_activation", "reset_after", "ignore", "kind")
    told = {name: getattr(command, name) for name in names}
    given = {name: value for name, value in told.items() if value not in (None, ())}
    layers = record_file(
        command.file,
        _read(command.inputs),
        prefix=command.prefix,
        direction=command.direction,
        seq_lengths=None if command.lengths is None else _read(command.lengths),
        dtype=command.dtype,
        **given,
    )
    diagnosis = diagnose_layers(layers, horizon=command.horizon, on_layer=_say_progress)
    if command.html is not None:
        source = f"Weights of {command.file}, inputs of {command.inputs}."
        command.html.write_text(html_report(diagnosis, source), encoding="utf-8")
    if command.json:
        print(json.dumps(as_json(diagnosis), indent=2))
    else:
        _print_page(diagnosis)
    return STATUS[diagnosis.verdict]


def _say_progress(name: str) -> None:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)


def _list_layers(command: Layers) -> int:
    layers = layers_in(command.file)
    if command.json:
        print(json.dumps([layer._asdict() for layer in layers], indent=2))
    else:
        print("\n".join(map(str, layers)) or f"{command.file} holds no recurrent layer")
    return 0


def as_options(message: str) -> str:
    """Write an error with the options of the command in place of arguments of Python."""
    named, colon, rest = message.partition(":")
    one = re.compile(r"(?:(?<=^)|(?<=, ))\w+(?=$|, |\[| of )")
    named = one.sub(lambda found: ASKED.get(found[0], found[0]), named)
    given = re.compile(rf"\b({'|'.join(ASKED)})=(\[.*?\]|'\w*'|\w+),?")
    return (
        named
        + colon
        + given.sub(
            lambda found: f"{ASKED[found[1]]} {re.sub('[^ .0-9A-Za-z_]', '', found[2])}", rest
        )
    )


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return what a script may want to know, as plain numbers and strings.

    Growths are in nats, the exponent in nats per step, memory and lags in steps. A number that is
    not finite is None.
    """
    layers = []
    for layer in diagnosis.layers:
        prediction = layer.prediction
        layers.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "verdict": layer.verdict,
                "borderline": bool(prediction.borderline),
                "horizon": int(prediction.horizon),
                "log_growth": _numbers(np.asarray(prediction.log_growth_of_output)),
                "peak": _numbers(np.asarray(prediction.peak_of_output)),
                "peak_lag": np.asarray(prediction.peak_lag_of_output).tolist(),
                "interval": _numbers(np.asarray(prediction.interval)),
                "thresholds": _numbers(np.asarray(prediction.thresholds)),
                "exponent": _number(float(prediction.exponent)),
                "standard_error": _number(float(prediction.standard_error)),
                "growth_by_lag": _numbers(layer.growth),
                "memory": layer.memory,
                "memory_ends": layer.memory_ends,
                "digits_lost": layer.digits_lost,
                "saturation": {one.name: one.share for one in layer.saturation},
                "advice": [
                    {"change": one.change, "value": one.value, "code": one.code}
                    for one in layer.advice
                ],
                "network": layer.network,
                "notes": list(layer.notes),
            }
        )
    return {"verdict": diagnosis.verdict, "layers": layers}


def _numbers(array: np.ndarray) -> list[float | None]:
    return [_number(float(one)) for one in array]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(path: Path) -> np.ndarray:
    """Read an array, without what a pickle could run."""
    try:
        # What is mapped is as large as its file, whatever its header says.
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, EOFError, OverflowError) as error:
        msg = f"{path}: received a file that holds no plain array, expected .npy: {error}"
        raise ValueError(msg) from error


def _print_page(diagnosis: Diagnosis) -> None:
    page = Text(str(diagnosis))
    for word, colour in COLOURS.items():
        page.highlight_words([f"{word}"], f"bold {colour}")
    Console(highlight=False, soft_wrap=True).print(page)
