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

import xarray as xr

ROOT = Path(__file__).resolve().parent.parent / "results"
CUSTOM = "custom_"  # begins the names of results with axes of no preset
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "jacobian_rnn")


def directory(experiment: str) -> Path:
    """Return the folder of one experiment's results."""
    return ROOT / experiment


def path_of(experiment: str, preset: str, dtype: str) -> Path:
    """Return the result file of one experiment; each preset and precision has its own."""
    return directory(experiment) / f"{preset}-{dtype}.nc"


def fingerprint(config, *parts: str) -> str:
    """Return a short hash of a configuration, so that results of different ones never mix."""
    text = json.dumps([dataclasses.asdict(config), *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def described(dataset: xr.Dataset, config, *, device: str, seconds: float) -> xr.Dataset:
    """Add the full configuration, versions, device and time to a dataset's attributes."""
    return dataset.assign_attrs(
        configuration=json.dumps(dataclasses.asdict(config)),
        fingerprint=fingerprint(config),
        dtype=config.dtype,
        versions=json.dumps({name: version(name) for name in PACKAGES}),
        python=platform.python_version(),
        device=device,
        host=platform.node(),
        wall_seconds=round(seconds, 1),
        written=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def write(dataset: xr.Dataset, path: Path) -> Path:
    """Write a dataset so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        dataset.to_netcdf(temporary, engine="h5netcdf")
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
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
        msg = f"{path}: not there; make it with `{_command(path)}`"
        raise FileNotFoundError(msg)
    try:
        # A stored width of strings would cut longer ones when datasets are joined and written.
        return xr.load_dataset(path, engine="h5netcdf").drop_encoding()
    except (OSError, KeyError, ValueError) as error:
        msg = (
            f"{path}: damaged or not a result file ({error}); delete it and make it again with "
            f"`{_command(path)}`"
        )
        raise ValueError(msg) from error


def _command(path):
    preset, _, dtype = path.stem.partition("-")
    name = path.parent.name
    module = "experiments.benchmarks" if name == "benchmarks" else f"experiments {name}"
    if preset.startswith(CUSTOM):
        return f"python -m {module} …, with the options that it was made with"
    return f"python -m {module} --preset {preset} --dtype {dtype}"
