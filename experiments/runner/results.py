"""Result files: labelled datasets (xarray, NetCDF), written atomically, with their provenance."""

import dataclasses
import datetime as dt
import hashlib
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path

import h5py
import xarray as xr

from experiments import catalogue

ROOT = Path(__file__).resolve().parent.parent.parent / "results"
CUSTOM = "custom_"  # begins the names of results with fields of no preset
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jacobian_rnn")


def directory(experiment: str) -> Path:
    """Return the folder of one experiment's results."""
    return ROOT / experiment


def path_of(experiment: str, preset: str, dtype: str) -> Path:
    """Return the result file of one experiment; each preset and precision has its own."""
    return directory(experiment) / f"{preset}-{dtype}.nc"


def name_of(config, presets) -> str:
    """Name a configuration by the preset that it is but for the precision, else by its hash."""
    for preset, known in presets.items():
        if dataclasses.replace(known, dtype=config.dtype) == config:
            return preset
    return f"{CUSTOM}{fingerprint(config)}"


def fingerprint(config, *parts) -> str:
    """Return a short hash of a configuration and of what else is given, as JSON takes it."""
    text = json.dumps([dataclasses.asdict(config), *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def described(
    dataset: xr.Dataset, config, made_with: dict[str, str], *, seconds: float
) -> xr.Dataset:
    """Add the full configuration, versions, device and time to a dataset's attributes."""
    versions = {name: made_with.get(name, version(name)) for name in PACKAGES}
    return dataset.assign_attrs(
        configuration=json.dumps(dataclasses.asdict(config)),
        configuration_class=f"{type(config).__module__}.{type(config).__qualname__}",
        fingerprint=fingerprint(config),
        dtype=config.dtype,
        versions=json.dumps(versions),
        python=platform.python_version(),
        device=made_with["device"],
        host=platform.node(),
        wall_seconds=round(seconds, 1),
        written=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def shown(path: Path) -> str:
    """Write a path as it is read from here: relative where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def write(dataset: xr.Dataset, path: Path) -> Path:
    """Write a dataset so that the file is there whole or not at all."""
    # In memory first: the library of the file format does not survive a full disk.
    return write_bytes(bytes(dataset.to_netcdf(engine="h5netcdf")), path)


def write_bytes(contents: bytes, path: Path) -> Path:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read(path: Path) -> xr.Dataset:
    """Read a dataset into memory.

    Raises:
        FileNotFoundError: there is no such file; the message names the command that makes it.
        ValueError: the file is damaged; the message says to make it again.
    """
    if not path.is_file():
        what = "a folder; expected a file" if path.is_dir() else "not there"
        msg = f"{path}: {what}{'; make it with ' + how if (how := made_by(path)) else ''}"
        raise FileNotFoundError(msg)
    try:
        # First, because h5netcdf complains once more when what it could not open is thrown away.
        h5py.File(path).close()
        # A stored width of strings would cut longer ones when datasets are joined and written.
        return xr.load_dataset(path, engine="h5netcdf").drop_encoding()
    except (PermissionError, MemoryError):
        raise
    # The readers of HDF5 and NetCDF name damage in many ways.
    except Exception as error:
        how = made_by(path)
        msg = (
            f"{path}: damaged or not a result file ({type(error).__name__}: {error})"
            f"{'; delete it and make it again with ' + how if how else ''}"
        )
        raise ValueError(msg) from error


def made_by(path: Path) -> str:
    """Return the command that makes a result file, by its folder and name; empty if unknown."""
    preset, _, dtype = path.stem.partition("-")
    name = path.parent.name
    if name != catalogue.BENCHMARKS and name not in catalogue.EXPERIMENTS:
        return ""
    if dtype not in ("float32", "float64"):
        return ""
    if preset.startswith(CUSTOM):
        return f"`python -m experiments {name} …`, with the options that it was made with"
    return f"`{catalogue.command(name, preset, dtype)}`"


def differences(dataset: xr.Dataset, config) -> list[str]:
    """Say in which fields the configuration of a result is not another one.

    What the other one leaves open (None) is chosen when the experiment runs, and no difference.

    Raises:
        ValueError: the dataset holds no configuration.
    """
    if not {"configuration", "fingerprint"} <= set(dataset.attrs):
        msg = "no configuration is stored in it: not a result of an experiment"
        raise ValueError(msg)
    stored = json.loads(dataset.attrs["configuration"])
    left_open = {
        name: stored[name]
        for name, value in dataclasses.asdict(config).items()
        if value is None and name in stored
    }
    config = dataclasses.replace(config, **left_open)
    if dataset.attrs["fingerprint"] == fingerprint(config):
        return []
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    return [
        f"{name} {stored.get(name, 'absent')} instead of {wanted.get(name, 'absent')}"
        for name in sorted(stored | wanted)
        if name not in stored or name not in wanted or stored[name] != wanted[name]
    ] or ["the fingerprint"]
