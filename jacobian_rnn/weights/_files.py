"""Arrays in files of other programs: looked at before they are read, and nothing is ever run.

A file is untrusted. Names, shapes and dtypes are read first, and of the numbers only those that are
asked for. A pickle is read by PyTorch alone, which then admits tensors and plain containers.
"""

import contextlib
import dataclasses
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jacobian_rnn.checks import refuse

# Trained weights hardly shrink when they are compressed. What is larger than this many bytes and
# shrinks by more than this factor is a bomb.
LARGE, RATIO = 2**26, 100
WHOLE = "a complete file that is not damaged"
# Programs for the reader, which keep the tensors of dicts in dicts.
AS_SAFETENSORS = (
    "flat = lambda x, at='': {{at: x.clone().contiguous()}} if torch.is_tensor(x) else "
    "{{k: v for n, y in x.items() if isinstance(n, str) "
    "for k, v in flat(y, (at + '.' + n).strip('.')).items()}} if isinstance(x, dict) else {{}}; "
    "sd = torch.load({path!r}, weights_only=True); "
    "safetensors.torch.save_file(flat(sd.get('state_dict', sd)), 'weights.safetensors')"
)
AS_TENSORS = (
    "keep = lambda x: keep(x.state_dict()) if isinstance(x, torch.nn.Module) else "
    "{{k: keep(v) for k, v in x.items() if isinstance(k, str) and "
    "isinstance(v, (dict, torch.nn.Module, torch.Tensor))}} if isinstance(x, dict) else x; "
    "torch.save(keep(torch.load({path!r}, weights_only=False)), 'weights.pt')"
)
OF_SCRIPT = "torch.save(torch.jit.load({path!r}, map_location='cpu').state_dict(), 'weights.pt')"


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array in a file.

    Attributes:
        shape: its shape.
        dtype: the name of its dtype.
        read: reads its numbers, while the file is open.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


class FileArrays(Mapping):
    """The arrays of an open file by name. Each is looked at only when it is asked for."""

    def __init__(self, names: list[str], look: Callable[[str], StoredArray]):
        """Take the names, and what looks at the array of a name."""
        self.names, self.look = dict.fromkeys(names), look

    def __getitem__(self, name: str) -> StoredArray:
        """Look at an array."""
        if name not in self.names:
            raise KeyError(name)
        return self.look(name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over names."""
        return iter(self.names)

    def __len__(self) -> int:
        """Count the names."""
        return len(self.names)


def format_of(path: Path) -> str:
    """Return "safetensors", "npz", "torch", "pickle", "keras" or "hdf5", by what a file holds.

    Raises:
        ValueError: no file, or a zip archive of something else.
    """
    if not path.is_file():
        refuse("weights", repr(str(path)), "the path of an existing file")
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # the length of a header of JSON comes before it
        return "safetensors"
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "hdf5"
    if start[:1] == b"\x80":
        return "pickle"
    if start[:4] != b"PK\x03\x04":
        return "safetensors"
    names = {member.filename for member in zip_members(path)}
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return "torch"
    if "model.weights.h5" in names:
        return "keras"
    if not names or not all(name.endswith(".npy") for name in names):
        expected = "an archive that torch.save, np.savez or Keras wrote"
        refuse("weights", f"{str(path)!r}, a zip archive of other files", expected)
    return "npz"


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """List the members of a zip archive. None of them is a bomb.

    Raises:
        ValueError: a damaged archive, or a member that is far larger than what is stored of it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        # The last of them is how zipfile says that an archive needs a newer version of the format.
        refuse("weights", f"{str(path)!r}, which cannot be read ({error})", WHOLE)
    for member in members:
        if member.file_size > LARGE and member.file_size > RATIO * member.compress_size:
            size = f"{member.file_size} bytes in {member.compress_size}"
            refuse("weights", f"{str(path)!r}, whose {member.filename} holds {size}", "weights")
    return members


@contextlib.contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, Any]]:
    """Open a file of PyTorch, safetensors or numpy as a mapping of names to arrays.

    Raises:
        ValueError: a damaged file, or one of another kind.
        ImportError: the package that reads files of this kind is not installed.
    """
    kind = format_of(path)
    if kind in ("keras", "hdf5"):
        advice = "read a file of Keras with from_keras"
        refuse("weights", repr(str(path)), "a file of PyTorch, safetensors or numpy", advice)
    opened = {"safetensors": _open_safetensors, "npz": _open_npz}.get(kind, _open_torch)
    with opened(path) as arrays:
        yield arrays


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import safetensors
    except ImportError as error:
        msg = f"weights: to read {path}, pip install 'jacobian_rnn[checkpoints]' (safetensors)"
        raise ImportError(msg) from error
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    try:
        with safetensors.safe_open(path, framework="np") as file:

            def look(name):
                stored = file.get_slice(name)
                dtype = names.get(str(stored.get_dtype()), str(stored.get_dtype()))
                return StoredArray(tuple(stored.get_shape()), dtype, lambda: file.get_tensor(name))

            yield FileArrays(list(file.keys()), look)
    except safetensors.SafetensorError as error:
        msg = f"weights: {path} is no safetensors file, or is cut short ({error})"
        raise ValueError(msg) from error


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[Mapping[str, Any]]:
    members = {member.filename.removesuffix(".npy"): member for member in zip_members(path)}
    with zipfile.ZipFile(path) as archive:

        def look(name):
            with archive.open(members[name]) as file:
                shape, dtype = _npy_header(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or size > members[name].file_size:
                received = f"an array of {shape} {dtype} in {members[name].file_size} bytes"
                refuse(name, received, "numbers")
            return StoredArray(shape, str(dtype), lambda: read(name))

        def read(name):
            with archive.open(members[name]) as file:
                return np.lib.format.read_array(file, allow_pickle=False)

        try:
            yield FileArrays(list(members), look)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            # The last of them is how zipfile says that it does not know how a member is compressed.
            msg = f"weights: received {str(path)!r}, expected {WHOLE} ({error})"
            raise ValueError(msg) from error


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in read:
        refuse("weights", f"an array of numpy's format {version}", f"one of {sorted(read)}")
    shape, _, dtype = read[version](file)
    return shape, dtype


@contextlib.contextmanager
def _open_torch(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        msg = (
            f"weights: {path} is a pickle, which PyTorch alone reads without running what is in "
            "it: pip install 'jacobian_rnn[torch]', or make a safetensors file of it where PyTorch "
            f"is: {AS_SAFETENSORS.format(path=str(path))}"
        )
        raise ImportError(msg) from error
    with path.open("rb") as file:
        archived = file.read(4) == b"PK\x03\x04"
    members = zip_members(path) if archived else []
    if any(member.filename.endswith("/constants.pkl") for member in members):
        advice = "if you trust it, write its weights alone, by " + OF_SCRIPT.format(path=str(path))
        refuse("weights", f"{str(path)!r}, a program of TorchScript", "weights", advice)
    if any(member.file_size > member.compress_size for member in members):
        refuse("weights", f"{str(path)!r} with compressed members", "what torch.save writes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that PyTorch itself will drop
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archived)
    except Exception as error:  # A damaged pickle may raise anything.
        lines = str(error).strip().splitlines() or [""]
        reason = next((line.strip() for line in lines if "Unsupported" in line), lines[0])
        advice = (
            "if it holds objects besides tensors, and you trust it, write the weights alone, by "
            + AS_TENSORS.format(path=str(path))
        )
        msg = (
            f"weights: received {str(path)!r}, expected what torch.load reads with "
            f"weights_only=True ({type(error).__name__}: {reason[:300]}): {advice}"
        )
        raise ValueError(msg) from error
    if not isinstance(loaded, Mapping):
        received = f"{str(path)!r} with a {type(loaded).__name__}"
        refuse("weights", received, "a state dict, or a dict that holds one", error=TypeError)
    yield loaded
