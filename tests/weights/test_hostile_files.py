"""Files that are damaged, or made to do harm: an error with a name, soon, and nothing is run."""

import io
import json
import pickle
import resource
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from jacobian_rnn import from_keras, from_torch, layers_in
from tests.weights.reference_layers import Trap

DATA = Path(__file__).parent.parent / "data"
LSTM = {"weight_ih_l0": np.ones((12, 2)), "weight_hh_l0": np.ones((12, 3))}


@pytest.fixture(autouse=True)
def little_memory():
    """Let a test use 2 GiB more than there was, at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 2 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refuse_both(path, match, error=ValueError, load=from_torch):
    for read in (load, layers_in):
        with pytest.raises(error, match=match):
            read(path)


def write_pickle(path):
    path.write_bytes(pickle.dumps(Trap()))


def write_archive_with_a_pickle(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"state_dict": Trap()}))
        archive.writestr("w/version", "3\n")


@pytest.mark.parametrize("write", [write_pickle, write_archive_with_a_pickle])
def test_no_pickle_runs_code(tmp_path, write, monkeypatch):
    path = tmp_path / "model.pt"
    write(path)
    try:
        import torch  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        pass
    else:
        refuse_both(path, r"weights: received .*model\.pt.* weights_only=True")
    monkeypatch.setitem(sys.modules, "torch", None)
    refuse_both(
        path, r"pip install 'jacobian_rnn\[torch\]'.*safetensors\.torch\.save_file", ImportError
    )


def test_an_archive_of_objects_is_not_unpickled(tmp_path):
    objects = np.array([Trap()], object)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        for name in ("weight_ih_l0", "weight_hh_l0"):
            file = io.BytesIO()
            np.lib.format.write_array(file, objects, allow_pickle=True)
            archive.writestr(f"{name}.npy", file.getvalue())
    refuse_both(tmp_path / "w.npz", r"^weight_[ih]h_l0: received an array of \(1,\) object")


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    file = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (4 * 10**6, 10**6)}
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("weight_ih_l0.npy", file.getvalue())
        archive.writestr("weight_hh_l0.npy", file.getvalue())
    refuse_both(tmp_path / "w.npz", r"^weight_[ih]h_l0: received an array of \(4000000, 1000000\)")


def write_zeros(archive, name, num_bytes):
    with archive.open(name, "w", force_zip64=True) as file:
        for _ in range(num_bytes // 2**20):
            file.write(bytes(2**20))


@pytest.mark.parametrize("name", ["weight_hh_l0.npy", "w/data.pkl", "model.weights.h5"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        write_zeros(archive, name, 2**28)
    load = from_keras if name.endswith("h5") else from_torch
    refuse_both(tmp_path / "bomb", rf"bomb', whose {name} holds 268435456 bytes in ", load=load)


def write_cell(path, shape, **options):
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/lstm/cell/vars")
        group.create_dataset("0", (2, shape[1]), "f4")
        group.create_dataset("1", shape, "f4", **options)


def test_an_array_of_hdf5_that_unpacks_to_far_more_is_not_read(tmp_path):
    path, units = tmp_path / "bomb.weights.h5", 10**5
    write_cell(path, (units, 4 * units), chunks=(1000, 1000), compression="gzip")
    options = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    with pytest.raises(ValueError, match="vars/1: received 160000000000 bytes in 0"):
        from_keras(path, **options)


def test_hdf5_does_not_lead_to_other_files_or_in_circles(tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["vars/0"], file["vars/1"] = np.ones((2, 12)), np.ones((3, 12))
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        file["layers/lstm/cell"] = h5py.ExternalLink(str(secret), "/")
        file["layers/circle"] = file["layers"]
    assert layers_in(tmp_path / "a.weights.h5") == ()
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        layout = h5py.VirtualLayout((3, 12), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "vars/1", (3, 12))
        file["layers/lstm/cell/vars/0"] = np.ones((2, 12))
        file["layers/lstm/cell/vars"].create_virtual_dataset("1", layout)
    refuse_both(
        tmp_path / "b.weights.h5", "vars/1: received an array that lies in another", load=from_keras
    )


@pytest.mark.parametrize("place", ["layers/lstm/cell/norm/vars/0", "layers/lstm/cell/w"])
def test_an_array_within_a_cell_that_is_not_read_is_refused(tmp_path, place):
    path = tmp_path / "w.weights.h5"
    write_cell(path, (3, 12))
    with h5py.File(path, "r+") as file:
        file["layers/lstm/cell/seed_generator/vars/0"] = np.zeros(2, np.uint32)
        file["layers/dense/vars/0"] = np.ones((3, 3))
    options = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    from_keras(path, **options)
    with h5py.File(path, "r+") as file:
        file[place] = np.ones(12)
    with pytest.raises(
        ValueError, match=r"cell/vars: received (norm/vars/0|w) besides .*kind='LSTM'"
    ):
        from_keras(path, **options)
    from_keras(path, kind="LSTM", **options)


def test_hdf5_of_any_form_is_survived(tmp_path):
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_group("lstm/lstm_cell/kernel")
        file.create_group("lstm/lstm_cell/recurrent_kernel")
    assert layers_in(path) == ()
    with h5py.File(path, "w") as file:
        file["lstm/lstm_cell/kernel"] = h5py.Empty("f4")
        file["lstm/lstm_cell/recurrent_kernel"] = np.ones((3, 12))
    refuse_both(path, "lstm_cell/kernel: received an array without a shape", load=from_keras)
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = np.zeros(3)
    refuse_both(path, "received a configuration that is no JSON", load=from_keras)


@pytest.mark.parametrize("length", [3, 7, 40, 500, -30])
@pytest.mark.parametrize("kind", ["npz", "keras", "h5"])
def test_a_file_cut_short_is_refused_by_its_name(tmp_path, kind, length):
    path = tmp_path / f"whole.{kind}"
    if kind == "npz":
        np.savez(path, **LSTM)
    elif kind == "h5":
        write_cell(path, (3, 12))
    else:
        write_cell(tmp_path / "inner.h5", (3, 12))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.write(tmp_path / "inner.h5", "model.weights.h5")
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(path.read_bytes()[:length])
    refuse_both(cut, r"cut\.")


def test_a_file_that_was_changed_inside_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **LSTM)
    content = bytearray((tmp_path / "w.npz").read_bytes())
    content[300:310] = bytes(10)  # numbers of the first array, whose sum is stored beside it
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.npz', expected a complete file.*CRC"):
        from_torch(tmp_path / "w.npz")


@pytest.mark.parametrize(
    "config", ["no JSON", "[" * 10**5, "[]", '{"class_name": 3, "config": [[]]}']
)
def test_a_configuration_of_any_form_is_survived(tmp_path, config):
    write_cell(tmp_path / "inner.h5", (3, 12))
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", "{}")
        archive.write(tmp_path / "inner.h5", "model.weights.h5")
    if json_loads(config) is None:
        refuse_both(tmp_path / "m.keras", "a configuration that is no JSON", load=from_keras)
    else:
        (layer,) = layers_in(tmp_path / "m.keras")
        assert layer.untold == ("activation", "recurrent_activation")


def json_loads(text):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def test_layers_that_lie_in_each_other_many_times_end(tmp_path):
    config = {"class_name": "LSTM", "config": {}}
    for _ in range(200):
        config = {"class_name": "TimeDistributed", "config": {"layer": config}}
    write_cell(tmp_path / "inner.h5", (3, 12))
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
        archive.write(tmp_path / "inner.h5", "model.weights.h5")
    assert len(layers_in(tmp_path / "m.keras")) == 1
    nested = LSTM
    for _ in range(500):
        nested = {"state": nested}
    assert layers_in(nested) == ()


def shared_dicts():
    inner = dict(LSTM)
    for _ in range(8):
        inner = {f"k{k}": inner for k in range(12)}
    return inner


def dicts_that_hold_each_other():
    dicts = [{} for _ in range(12)]
    for one in dicts:
        one |= {f"k{k}": other for k, other in enumerate(dicts)}
    return dicts[0]


@pytest.mark.parametrize("make", [shared_dicts, dicts_that_hold_each_other])
def test_few_dicts_with_endless_ways_through_them_are_refused_soon(make):
    source = make()
    start = time.process_time()
    refuse_both(
        source, "^weights: received dicts that hold each other, with 100000 entries met again"
    )
    assert time.process_time() - start < 20


def test_a_dict_that_holds_itself_is_walked_once():
    source = dict(LSTM)
    source |= {f"k{k}": source for k in range(12)}
    source["more"] = {"above": source}
    (layer,) = layers_in(source)
    assert layer.prefix == ""


def test_directions_in_directions_are_not_walked_without_end(tmp_path):
    layers = [{"class_name": "LSTM", "config": {"name": f"l{k}"}} for k in range(1000)]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    for _ in range(14):
        config = {"class_name": "Bidirectional", "config": {"layer": config}}
    write_cell(tmp_path / "inner.h5", (3, 12))
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
        archive.write(tmp_path / "inner.h5", "model.weights.h5")
    start = time.process_time()
    assert len(layers_in(tmp_path / "m.keras")) == 1
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", ["npz", "safetensors", "h5", "dict"])
def test_ten_thousand_tensors_are_searched_and_not_read(tmp_path, kind):
    many = {f"blocks.{k}.attention.weight_a": np.ones((2, 2), "f4") for k in range(10_000)}
    many |= {f"rnn.{name}": array for name, array in LSTM.items()}
    source = tmp_path / f"many.{kind}"
    if kind == "dict":
        source = many
    elif kind == "npz":
        np.savez(source, **many)
    elif kind == "safetensors":
        save_file(many, source)
    else:
        with h5py.File(source, "w") as file:
            for k in range(10_000):
                file[f"layers/dense_{k}/vars/0"] = np.ones((2, 2), "f4")
            file["layers/lstm/cell/vars/0"] = np.ones((2, 12))
            file["layers/lstm/cell/vars/1"] = np.ones((3, 12))
    (layer,) = layers_in(source)
    assert (layer.kind, layer.num_units) == ("LSTM", 3)


def test_shapes_are_wrong_by_name_in_a_file_too(tmp_path):
    np.savez(tmp_path / "w.npz", weight_ih_l0=np.ones((12, 2)), weight_hh_l0=np.ones((3, 12)))
    refuse_both(tmp_path / "w.npz", r"^weight_hh_l0: received shape \(3, 12\)")
    write_cell(tmp_path / "w.h5", (3, 15))
    refuse_both(
        tmp_path / "w.h5", r"layers/lstm/cell/vars\[1\] \(recurrent kernel\)", load=from_keras
    )


def test_the_loaders_send_each_other_the_files_of_the_other_kind(tmp_path):
    write_cell(tmp_path / "w.h5", (3, 12))
    with pytest.raises(ValueError, match="read a file of Keras with from_keras"):
        from_torch(tmp_path / "w.h5")
    with pytest.raises(ValueError, match="read weights of PyTorch with from_torch"):
        from_keras(DATA / "torch_lstm.safetensors")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "")
    refuse_both(tmp_path / "x.zip", "a zip archive of other files")


@pytest.mark.parametrize("package", ["h5py", "safetensors"])
def test_the_extra_of_a_missing_package_is_named(tmp_path, monkeypatch, package):
    write_cell(tmp_path / "w.h5", (3, 12))
    path, load, extra = {
        "h5py": (tmp_path / "w.h5", from_keras, "keras"),
        "safetensors": (DATA / "torch_lstm.safetensors", from_torch, "checkpoints"),
    }[package]
    monkeypatch.setitem(sys.modules, package, None)
    refuse_both(path, rf"pip install 'jacobian_rnn\[{extra}\]'", ImportError, load)
