"""The command reads files, prints a page or numbers, and tells the verdict by its exit status."""

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jacobian_rnn as jrnn
from jacobian_rnn.diagnosis import command_line, commands
from jacobian_rnn.diagnosis.finding_files import record_file

R = np.random.default_rng(0)
XS = R.normal(size=(4, 40, 3))
STATUSES = commands.STATUS.values()


def lstm_weights(num_layers=1, directions=1, units=6, forget=0.0):
    weights = {}
    for k in range(num_layers):
        for back in ("", "_reverse")[:directions]:
            inputs = directions * units if k else 3
            shapes = {"weight_ih": (4 * units, inputs), "weight_hh": (4 * units, units)}
            for name, shape in shapes.items():
                weights[f"{name}_l{k}{back}"] = R.normal(size=shape) / math.sqrt(shape[1])
            bias = np.zeros(4 * units)
            bias[units : 2 * units] = forget
            weights[f"bias_ih_l{k}{back}"] = bias
            weights[f"bias_hh_l{k}{back}"] = np.zeros(4 * units)
    return weights


@pytest.fixture
def files(tmp_path):
    """Give `save(weights, xs) -> (path of the weights, path of the inputs)`."""

    def save(weights, xs=XS, prefix="rnn."):
        path, inputs = tmp_path / "weights.safetensors", tmp_path / "batch.npy"
        save_file({prefix + key: value for key, value in weights.items()}, path)
        np.save(inputs, xs)
        return str(path), str(inputs)

    return save


def run(*arguments):
    return command_line.main(list(map(str, arguments)))


@pytest.mark.parametrize(
    ("forget", "horizon", "status"), [(4.0, 20, 0), (-6.0, 40, 10)], ids=["stable", "vanishing"]
)
def test_the_exit_status_is_the_verdict(files, capsys, forget, horizon, status):
    path, inputs = files(lstm_weights(forget=forget))
    assert run("diagnose", path, "--inputs", inputs, "--horizon", horizon) == status
    page = capsys.readouterr().out
    assert "rnn: LSTM of 6 units" in page
    assert f"over {horizon} steps" in page


def test_json_holds_the_numbers_of_the_page(files, capsys):
    path, inputs = files(lstm_weights(num_layers=2))
    status = run("diagnose", path, "--inputs", inputs, "--dtype", "float64", "--json")
    said = json.loads(capsys.readouterr().out)
    assert commands.STATUS[said["verdict"]] == status
    network = jrnn.from_torch(path)
    diagnosis = jrnn.diagnose(network, XS)
    for one, layer in zip(said["layers"], diagnosis.layers, strict=True):
        np.testing.assert_allclose(one["growth_by_lag"], layer.growth, rtol=1e-12)
        assert one["memory"] == layer.memory
    assert [one["name"] for one in said["layers"]] == ["rnn, layer 0", "rnn, layer 1"]


def test_advice_for_one_of_two_layers_loads_the_file_and_changes_that_layer_alone(files, capsys):
    path, inputs = files(lstm_weights(num_layers=2, forget=-3.0))
    run("diagnose", path, "--inputs", inputs, "--json")
    shown = capsys.readouterr()
    assert shown.err == "measuring rnn, layer 0 ...\nmeasuring rnn, layer 1 ...\n"
    for number, one in enumerate(json.loads(shown.out)["layers"]):
        names = {"jrnn": jrnn}
        exec(one["network"], names)
        for advice in one["advice"]:
            layers = jrnn.unstack(eval(advice["code"], names))
            for place, (new, old) in enumerate(
                zip(layers, jrnn.unstack(names["network"]), strict=True)
            ):
                same = jax.tree.map(np.array_equal, new.params, old.params)
                assert all(jax.tree.leaves(same)) == (place != number)
        assert one["advice"]
    run("diagnose", path, "--inputs", inputs)
    assert f"network = jrnn.from_torch({path!r}, prefix='rnn', dtype='float32')" in (
        page := capsys.readouterr().out
    )
    assert page.count("layer=0)") == page.count("layer=1)") > 0


def test_advice_for_a_direction_loads_that_direction(files):
    path, _ = files(lstm_weights(num_layers=2, directions=2))
    layers = record_file(Path(path), XS)
    for layer in layers:
        names = {"jrnn": jrnn}
        exec(layer.network, names)
        jax.tree.map(
            np.testing.assert_array_equal, names["network"].params, layer.recurrence.params
        )
        assert layer.place is None


def test_both_directions_of_each_layer_of_a_file_receive_both_of_the_one_below(files):
    path, _ = files(lstm_weights(num_layers=2, directions=2))
    lengths = np.array([40, 30, 20, 40])
    layers = record_file(Path(path), XS, seq_lengths=lengths)
    assert [layer.name for layer in layers] == [
        "rnn, layer 0",
        "rnn, layer 0, backwards",
        "rnn, layer 1",
        "rnn, layer 1, backwards",
    ]
    zero = (jnp.zeros(6), jnp.zeros(6))
    for sequence, length in enumerate(lengths):
        xs = XS[sequence, :length]
        ahead = jrnn.trajectory(layers[0].recurrence, zero, xs)[1:, 6:]
        back = jrnn.trajectory(layers[1].recurrence, zero, xs[::-1])[1:, 6:][::-1]
        both = np.concatenate([ahead, back], axis=1)
        np.testing.assert_allclose(layers[2].xs[sequence, :length], both, atol=1e-14)
        np.testing.assert_allclose(layers[3].xs[sequence, :length], both[::-1], atol=1e-14)


def test_lengths_are_read_from_their_file(files, capsys, tmp_path):
    path, inputs = files(lstm_weights())
    np.save(tmp_path / "lengths.npy", np.array([40, 12, 30, 25]))
    given = ("diagnose", path, "--inputs", inputs, "--lengths", tmp_path / "lengths.npy")
    assert run(*given) in (0, 10)
    assert "4 sequences of 12 to 40 steps" in capsys.readouterr().out


def test_layers_are_listed(files, capsys):
    path, _ = files(lstm_weights(num_layers=2))
    assert run("layers", path) == 0
    assert capsys.readouterr().out == ("LSTM at 'rnn': 3 inputs, 6 units, 2 layers, float64\n")
    assert run("layers", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["num_layers"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("diagnose {weights} --inputs {inputs} --prefix encoder", "choose one of 'rnn'"),
        ("diagnose {weights} --inputs {weights}", "no plain array"),
        ("diagnose {weights} --inputs {inputs} --horizon 99", "1 to 40"),
        ("diagnose {inputs} --inputs {inputs}", "batch.npy"),
        ("layers {weights}x", "weights.safetensorsx"),
    ],
)
def test_what_cannot_be_used_is_said_on_standard_error_with_status_1(
    files, capsys, arguments, said
):
    weights, inputs = files(lstm_weights())
    assert run(*arguments.format(weights=weights, inputs=inputs).split()) == 1
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def keras_file(path, kind="LSTM", *, bidirectional=False, config=True, units=6, **more):
    """Write a file as Keras does, with one layer called `encoder`."""
    weights = lstm_weights(units=units)
    layer = {"class_name": kind, "config": {"name": "lstm", "activation": "tanh"}}
    layer["config"] |= {"recurrent_activation": "sigmoid", **more}
    inner = ["cell"]
    if bidirectional:
        layer = {"class_name": "Bidirectional", "config": {"layer": layer}}
        inner = ["forward_layer/cell", "backward_layer/cell"]
    layer["config"]["name"] = "encoder"
    place = "bidirectional" if bidirectional else kind.lower()
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for one in inner:
            group = file.create_group(f"layers/{place}/{one}/vars")
            group["0"], group["1"] = weights["weight_ih_l0"].T, weights["weight_hh_l0"].T
        file.create_group(f"layers/{place}/vars").attrs["name"] = "encoder"
    if not config:
        return path.with_suffix(".h5")
    whole = {"class_name": "Sequential", "config": {"layers": [layer]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(whole))
        archive.writestr("metadata.json", "{}")
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    return path


def test_a_keras_layer_that_runs_backwards_is_asked_for_and_measured(files, capsys, tmp_path):
    path = keras_file(tmp_path / "m.keras", go_backwards=True)
    _, inputs = files(lstm_weights())
    assert run("diagnose", path, "--inputs", inputs) == 1
    assert "--direction: received None" in capsys.readouterr().err
    assert run("diagnose", path, "--inputs", inputs, "--direction", "backward") in STATUSES
    layers = record_file(path, XS, direction="backward")
    assert [layer.name for layer in layers] == ["layers/lstm, backwards"]
    np.testing.assert_array_equal(layers[0].xs, XS[:, ::-1])


@pytest.mark.parametrize("prefix", ["encoder", "bidirectional", "layers/bidirectional"])
def test_a_prefix_is_what_the_loaders_take(files, tmp_path, prefix):
    path = keras_file(tmp_path / "m.keras", bidirectional=True)
    both = record_file(path, XS, prefix=prefix)
    assert [layer.name for layer in both] == [
        "layers/bidirectional",
        "layers/bidirectional, backwards",
    ]
    (back,) = record_file(path, XS, prefix=prefix, direction="backward")
    assert back.name == both[1].name
    np.testing.assert_array_equal(back.xs, both[1].xs)
    path, _ = files(lstm_weights(), prefix="module.net.rnn.")
    (layer,) = record_file(Path(path), XS, prefix="net.rnn")
    assert layer.name == "module.net.rnn"


def test_all_that_a_file_does_not_tell_is_asked_for_at_once_with_options(files, capsys, tmp_path):
    path = keras_file(tmp_path / "m.weights", config=False)
    _, inputs = files(lstm_weights())
    assert run("diagnose", path, "--inputs", inputs) == 1
    said = capsys.readouterr().err
    assert "--activation, --recurrent-activation: received None" in said
    options = said.partition("pass ")[2].partition(" if ")[0]
    assert options == "--activation tanh --recurrent-activation sigmoid"
    assert run("diagnose", path, "--inputs", inputs, *options.split()) in STATUSES


def test_what_is_not_read_can_be_told_to_be_harmless(files, capsys, tmp_path):
    path, inputs = files(lstm_weights() | {"head.weight": np.ones((2, 6)), "h0": np.ones(6)})
    assert run("diagnose", path, "--inputs", inputs) == 1
    options = capsys.readouterr().err.partition("do not change it, pass ")[2]
    assert options == "--ignore h0 head\n"
    assert run("diagnose", path, "--inputs", inputs, *options.split()) in STATUSES
    path = keras_file(tmp_path / "m.keras", "Own")
    assert run("diagnose", path, "--inputs", inputs) == 1
    assert "class Own besides" in (said := capsys.readouterr().err)
    assert said.endswith("pass --kind LSTM\n")
    assert run("diagnose", path, "--inputs", inputs, "--kind", "LSTM") in STATUSES
    assert run("diagnose", path, "--inputs", inputs, "--nonlinearity", "relu") == 1
    assert "--nonlinearity: received 'relu', expected none for a file of keras" in (
        capsys.readouterr().err
    )


def test_tokens_are_refused_with_advice(files, capsys):
    path, inputs = files(lstm_weights(), R.integers(0, 9, size=(4, 40)))
    assert run("diagnose", path, "--inputs", inputs) == 1
    assert "embed tokens first" in capsys.readouterr().err


def write_header(path, shape):
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b""), "bad.npy: received a file that holds no plain array"),
        (lambda path: path.write_bytes(b"PK\x03\x04garbage"), "bad.npy: received a file that"),
        (lambda path: write_header(path, (4, 10**12, 3)), "bad.npy: received a file that holds"),
        (lambda path: np.save(path, XS * (1 + 1j)), "--inputs: received complex128 of shape"),
        (lambda path: np.save(path, np.full(XS.shape, "a")), "--inputs: received <U1 of shape"),
        (lambda path: np.save(path, np.ones(XS.shape, int)), "save whole numbers as floats"),
    ],
)
def test_inputs_that_are_no_floats_are_refused_and_never_cast(files, capsys, tmp_path, write, said):
    path, inputs = files(lstm_weights())
    write(tmp_path / "bad.npy")
    assert run("diagnose", path, "--inputs", tmp_path / "bad.npy") == 1
    assert said in capsys.readouterr().err
    np.save(tmp_path / "lengths.npy", [40, 0, 3, 5])
    given = ("diagnose", path, "--inputs", inputs, "--lengths", tmp_path / "lengths.npy")
    assert run(*given) == 1
    assert "--lengths[1]: received 0" in capsys.readouterr().err


def test_a_wrong_command_has_status_2():
    with pytest.raises(SystemExit) as leaving:
        run("diagnose")
    assert leaving.value.code == 2


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.images, self.text, self.fetched = [], [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "img":
            assert given["alt"]
            self.images.append(given["src"])
        self.fetched += [given[name] for name in ("href", "src") if name in given]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_file_with_pictures_and_what_the_page_says(files, tmp_path, capsys):
    path, inputs = files(lstm_weights(forget=-6.0))
    report = tmp_path / "report.html"
    assert run("diagnose", path, "--inputs", inputs, "--html", report) == 10
    reader = Reader()
    reader.feed(report.read_text(encoding="utf-8"))
    assert all(link.startswith("data:") for link in reader.fetched)
    for image in reader.images:
        kind, data = image.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ET.fromstring(b64decode(data)).tag.endswith("svg")
    text = " ".join(" ".join(reader.text).split())
    page = " ".join(capsys.readouterr().out.split())
    for said in ("vanishing", "What helps", "jrnn.with_gate_bias(network"):
        assert said in text
    assert "VANISHING" in page


def test_names_in_a_file_do_not_become_part_of_the_report():
    from jacobian_rnn.diagnosis.report import html_report

    def decay(params, carry, x):
        return params * carry + x

    system = jrnn.Recurrence(decay, jnp.full(3, 0.9))
    diagnosis = jrnn.diagnose(system, XS, carry=jnp.zeros(3))
    (layer,) = diagnosis.layers
    named = diagnosis._replace(layers=(layer._replace(name="<script>alert(1)</script>"),))
    assert "<script>" not in html_report(named)


def test_without_the_extra_the_command_names_it():
    script = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'tyro' else find(name)\n"
        "from jacobian_rnn.diagnosis.command_line import main\n"
        "sys.exit(main(['layers', 'x']))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "tyro not installed: pip install 'jacobian_rnn[report]'" in done.stderr
